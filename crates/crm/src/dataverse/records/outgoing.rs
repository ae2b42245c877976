//! Mail that leaves, by plain requests (`crm-contract.md` 3.6, 3.7 and 6): listing, claiming, giving an identity, finishing.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use email_router_http::Method;
use email_router_model::{ActivityId, EmailAddress, MessageId, RecordRef, Timestamp};
use serde_json::{Map, Value, json};

use super::RouterDecides;
use super::directory::{id, lookup};
use crate::dataverse::mirror::sync::{EMAIL_COLUMNS, PARTY_COLUMNS, parse_email, parties};
use crate::dataverse::mirror::{MirrorEmail, Note};
use crate::dataverse::web_api::fault::{self, code};
use crate::dataverse::web_api::{Ask, literal};
use crate::smart::SmartHasher;
use crate::token::{TokenFormat, append_token, ends_with_token};
use crate::{
    Attachment, Claim, DeliveryReport, EmailLookup, EmailStatus, Error, ErrorKind, OrganizationSettings,
    OutgoingEmail, ParticipationType, Party, PendingEmail, PendingQuery, Priority, Result, SendOutcome,
};

/// Senders of one query: its URL must not grow without end.
const SENDERS: usize = 15;
const PAGE: &str = "odata.maxpagesize=250";
const ANNOTATIONS: &str = "odata.include-annotations=\"Microsoft.Dynamics.CRM.lookuplogicalname,OData.Community.Display.V1.FormattedValue\"";
/// Once around the counter of Dynamics' default width, 999.
const MAX_TOKENS_TRIED: u32 = 999;
/// How often a change is begun anew because somebody else changed the row meanwhile.
const RACES: u32 = 5;
/// Of so many e-mails our own changes are remembered.
const MOST_REMEMBERED: usize = 10_000;

/// Versions of an e-mail that only this router has replaced, so that a claim of an e-mail that it changed itself is not lost.
pub(crate) type OwnWrites = HashMap<ActivityId, (HashSet<u64>, u64)>;

impl RouterDecides {
    pub(crate) async fn pending_outgoing(&self, query: &PendingQuery) -> Result<Vec<PendingEmail>> {
        let mut senders: Vec<&RecordRef> = Vec::new();
        for sender in &query.senders {
            if matches!(sender.table.as_str(), "systemuser" | "queue") && !senders.contains(&sender) {
                senders.push(sender);
            }
        }
        let mut found: HashMap<&RecordRef, Vec<PendingEmail>> = HashMap::new();
        for chunk in senders.chunks(SENDERS) {
            self.pending_of(chunk, query, &mut found).await?;
        }
        let with_mail: Vec<&RecordRef> = found.keys().copied().collect();
        let served = self.served_senders(&with_mail).await?;
        let mut all = Vec::new();
        for sender in senders {
            let Some(mut of_sender) = found.remove(sender).filter(|_| served.contains(sender)) else {
                continue;
            };
            of_sender.sort_by_key(|email| (Reverse(email.priority.code()), email.modified_on));
            of_sender.truncate(query.per_sender);
            all.append(&mut of_sender);
        }
        Ok(all)
    }

    /// Pages until each sender has enough. A sender that has is left out from then on, so that a heavy one costs no more than the others.
    async fn pending_of<'a>(
        &self,
        senders: &[&'a RecordRef],
        query: &PendingQuery,
        found: &mut HashMap<&'a RecordRef, Vec<PendingEmail>>,
    ) -> Result<()> {
        let mut open: Vec<&'a RecordRef> = senders.to_vec();
        while !open.is_empty() {
            for sender in &open {
                found.remove(sender); // what an earlier turn found comes again
            }
            let mut pages =
                self.session.pages(self.pending_path(&open, query), &[PAGE], "looking for mail that waits");
            let mut full = false;
            while let Some(page) = pages.next().await? {
                for row in &page.rows {
                    if let Some(email) = self.pending_row(row, &open, query).await? {
                        let Some(sender) = open.iter().find(|sender| ***sender == email.sender) else {
                            continue;
                        };
                        found.entry(sender).or_default().push(email);
                    }
                }
                let enough = |sender: &&RecordRef| {
                    found.get(*sender).is_some_and(|list| list.len() >= query.per_sender)
                };
                if page.next_link.is_some() && open.iter().any(enough) {
                    open.retain(|sender| !enough(sender));
                    full = true;
                    break;
                }
            }
            if !full {
                return Ok(());
            }
        }
        Ok(())
    }

    fn pending_path(&self, senders: &[&RecordRef], query: &PendingQuery) -> String {
        let by: Vec<_> =
            senders.iter().map(|sender| format!("_emailsender_value eq {}", sender.id)).collect();
        // half of what a timestamp can hold; Duration::MAX would overflow the subtraction
        let patience = query.stale_after.min(Duration::from_secs(100_000_000_000));
        let stale = query.now.checked_sub(patience).unwrap_or(Timestamp::UNIX_EPOCH);
        let filter = format!(
            "directioncode eq true and ({}) and ((statuscode eq 6 and (delayedemailsendtime eq null or delayedemailsendtime le {})) \
             or (statuscode eq 7 and modifiedon lt {}))",
            by.join(" or "),
            literal::iso(query.now),
            literal::iso(stale)
        );
        let mut columns = vec![
            "activityid",
            "statuscode",
            "deliveryattempts",
            "deliveryprioritycode",
            "modifiedon",
            "_emailsender_value",
        ];
        columns.extend(self.session.settings().note_column.as_deref());
        format!(
            "emails?$select={}&$filter={}&$orderby=deliveryprioritycode%20desc,modifiedon%20asc",
            self.tables.email_select(&columns),
            literal::encode(&filter)
        )
    }

    async fn pending_row(
        &self,
        row: &Value,
        senders: &[&RecordRef],
        query: &PendingQuery,
    ) -> Result<Option<PendingEmail>> {
        let (Some(activity), Some(sender)) = (id(row, "activityid"), id(row, "_emailsender_value")) else {
            return Ok(None);
        };
        let Some(sender) = senders.iter().find(|known| known.id == sender) else { return Ok(None) };
        let activity_id = ActivityId::from_uuid(activity);
        if let Some(theirs) = self.column_note(row) {
            self.mirror.newer_note(&activity_id, theirs).await?;
        }
        let stale =
            row.get("statuscode").and_then(Value::as_u64) == Some(u64::from(EmailStatus::Sending.code()));
        if let Some(note) = self.mirror.note(&activity_id).await?
            && (note.in_doubt.is_some() || (!stale && note.not_before.is_some_and(|at| at > query.now)))
        {
            return Ok(None);
        }
        let number = |name: &str| row.get(name).and_then(Value::as_u64);
        Ok(Some(PendingEmail {
            activity_id,
            sender: (*sender).clone(),
            version: version(row).unwrap_or_default(),
            delivery_attempts: number("deliveryattempts")
                .and_then(|n| u32::try_from(n).ok())
                .unwrap_or_default(),
            priority: number("deliveryprioritycode")
                .and_then(|code| u8::try_from(code).ok())
                .map_or(Priority::Normal, Priority::from_code),
            stale,
            modified_on: row
                .get("modifiedon")
                .and_then(Value::as_str)
                .and_then(|t| t.parse().ok())
                .unwrap_or(query.now),
        }))
    }

    /// Which of these may send through the router (6.1).
    async fn served_senders(&self, senders: &[&RecordRef]) -> Result<HashSet<RecordRef>> {
        if senders.is_empty() {
            return Ok(HashSet::new());
        }
        let paths = senders
            .iter()
            .map(|sender| {
                let state = if sender.table == "queue" { "statecode" } else { "isdisabled" };
                let path = self.tables.path(sender)?;
                Ok(format!("{path}?$select=outgoingemaildeliverymethod,emailrouteraccessapproval,{state}"))
            })
            .collect::<Result<Vec<_>>>()?;
        let settings = self.organization().settings.clone();
        let mut served = HashSet::new();
        let mut parts = Vec::new();
        for paths in paths.chunks(crate::dataverse::web_api::batch::MOST_OPERATIONS) {
            parts.extend(self.session.read_many(paths, "reading who may send").await?);
        }
        for (sender, part) in senders.iter().zip(parts) {
            let Some(row) = part.json().filter(|_| part.status == 200) else {
                tracing::debug!(%sender, status = part.status, "the sender cannot be read; its mail waits");
                continue;
            };
            let number = |name: &str| row.get(name).and_then(Value::as_u64).unwrap_or_default();
            let disabled =
                number("statecode") != 0 || row.get("isdisabled").and_then(Value::as_bool) == Some(true);
            let needs_approval = match sender.table.as_str() {
                "queue" => settings.require_approval_for_queue_email,
                _ => settings.require_approval_for_user_email,
            };
            if !disabled
                && number("outgoingemaildeliverymethod") == 2
                && (!needs_approval || number("emailrouteraccessapproval") == 1)
            {
                served.insert((*sender).clone());
            }
        }
        Ok(served)
    }

    pub(crate) async fn claim(&self, email: &PendingEmail) -> Result<Claim> {
        let attempt = email.delivery_attempts.saturating_add(1);
        let version = {
            let own = self.own_writes.lock().unwrap_or_else(PoisonError::into_inner);
            match own.get(&email.activity_id) {
                Some((replaced, present)) if replaced.contains(&email.version) => *present,
                _ => email.version,
            }
        };
        let row =
            json!({ "statecode": 1, "statuscode": EmailStatus::Sending.code(), "deliveryattempts": attempt });
        match self.patch(&email.activity_id, &row, Some(version), "claiming an e-mail").await {
            Ok(_) => {
                self.own_writes.lock().unwrap_or_else(PoisonError::into_inner).remove(&email.activity_id);
                self.change_note(&email.activity_id, |note| note.not_before = None).await?;
                Ok(Claim::Taken { attempt })
            }
            Err(error) if fault::has_status(&error, 412) || error.kind() == ErrorKind::NotFound => {
                Ok(Claim::Lost)
            }
            Err(error) => Err(error),
        }
    }

    /// Changes an e-mail, if it is still the one with this version; gives the new version where the server tells.
    async fn patch(
        &self,
        id: &ActivityId,
        row: &Value,
        version: Option<u64>,
        doing: &str,
    ) -> Result<Option<u64>> {
        let condition = version.map_or("*".to_owned(), |version| format!("W/\"{version}\""));
        let mut ask = Ask::new(Method::PATCH, format!("emails({id})?$select=activityid"), doing)
            .json(row)
            .header("if-match", &condition)
            .header("prefer", "return=representation");
        if version.is_none() {
            ask = ask.harmless(); // the same values again
        }
        let answer = self.session.send(ask).await?;
        Ok(answer.json().ok().as_ref().and_then(self::version))
    }

    /// The same, of an e-mail that waits: who listed it before can still claim it.
    async fn patch_own(&self, id: &ActivityId, row: &Value, version: u64, doing: &str) -> Result<()> {
        let after = self.patch(id, row, Some(version), doing).await?;
        if let Some(after) = after {
            let mut own = self.own_writes.lock().unwrap_or_else(PoisonError::into_inner);
            if own.len() >= MOST_REMEMBERED {
                own.clear(); // who listed one of these claims it in the next turn
            }
            let (replaced, present) = own.entry(*id).or_insert_with(|| (HashSet::new(), version));
            if *present != version {
                replaced.clear(); // somebody else changed it in between
            }
            replaced.insert(version);
            *present = after;
        }
        Ok(())
    }

    /// An outgoing e-mail as it is in the CRM, with its parties.
    async fn outgoing_row(&self, id: &ActivityId) -> Result<Value> {
        let mut columns = EMAIL_COLUMNS.to_vec();
        columns.extend([
            "description",
            "mimetype",
            "prioritycode",
            "deliveryreceiptrequested",
            "readreceiptrequested",
            "deliveryattempts",
            "_parentactivityid_value",
        ]);
        columns.extend(self.session.settings().note_column.as_deref());
        let path = format!(
            "emails({id})?$select={}&$expand=email_activity_parties($select={PARTY_COLUMNS})",
            self.tables.email_select(&columns)
        );
        let ask = Ask::new(Method::GET, path, "reading an e-mail").header("prefer", ANNOTATIONS);
        let row = self.session.send(ask).await?.json()?;
        if row.get("directioncode").and_then(Value::as_bool) == Some(false) {
            return Err(invalid(id, "was received, it cannot be sent"));
        }
        if let Some(theirs) = self.column_note(&row) {
            self.mirror.newer_note(id, theirs).await?;
        }
        Ok(row)
    }

    pub(crate) async fn outgoing_email(&self, id: &ActivityId) -> Result<OutgoingEmail> {
        let row = self.outgoing_row(id).await?;
        self.outgoing_of(id, &row).await
    }

    async fn outgoing_of(&self, id: &ActivityId, row: &Value) -> Result<OutgoingEmail> {
        let text = |name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let number = |name: &str| row.get(name).and_then(Value::as_u64).unwrap_or_default();
        let is = |name: &str| row.get(name).and_then(Value::as_bool).unwrap_or(false);
        let note = self.mirror.note(id).await?.unwrap_or_default();
        let mut parties = parties(row);
        let unresolved_allowed = self.organization().settings.allow_unresolved_parties_on_email_send;
        for party in &mut parties {
            self.complete_party(id, party, unresolved_allowed).await?;
        }
        for (what, missing) in [
            ("has no sender", !parties.iter().any(|p| p.participation == ParticipationType::Sender)),
            ("has no recipient", !parties.iter().any(|p| p.participation != ParticipationType::Sender)),
        ] {
            if missing {
                return Err(invalid(id, what));
            }
        }
        let parent = self::id(row, "_parentactivityid_value").map(ActivityId::from_uuid);
        let (parent_message_id, parent_references) = match &parent {
            Some(parent) => self.parent(parent).await?,
            None => (None, Vec::new()),
        };
        Ok(OutgoingEmail {
            activity_id: *id,
            message_id: MessageId::parse(&text("messageid")).or(note.message_id),
            subject: note.subject.unwrap_or_else(|| text("subject")),
            body: text("description"),
            // what people write in the CRM is HTML, and old versions do not say so
            body_mime_type: Some(text("mimetype"))
                .filter(|t| !t.is_empty())
                .unwrap_or_else(|| "text/html".to_owned()),
            parties,
            parent_activity: parent,
            parent_message_id,
            parent_references,
            tracking_token: Some(text("trackingtoken"))
                .filter(|token| !token.is_empty())
                .or(note.tracking_token),
            priority: u8::try_from(number("prioritycode")).map_or(Priority::Normal, Priority::from_code),
            delivery_receipt_requested: is("deliveryreceiptrequested"),
            read_receipt_requested: is("readreceiptrequested"),
            delivery_attempts: u32::try_from(number("deliveryattempts")).unwrap_or(u32::MAX),
            attachment_bytes: self.attachment_rows(id).await?.iter().map(|row| size(row)).sum(),
            created_on: text("createdon").parse().unwrap_or_else(|_| self.now()),
        })
    }

    /// Fills in the address of a party, or says why it cannot be written to (6.1).
    async fn complete_party(
        &self,
        id: &ActivityId,
        party: &mut Party,
        unresolved_allowed: bool,
    ) -> Result<()> {
        match (&party.record, &party.address) {
            (None, Some(address)) if !unresolved_allowed => Err(invalid(
                id,
                &format!(
                    "goes to {address}, which no record has, and allowunresolvedpartiesonemailsend is off"
                ),
            )),
            (None, None) => Err(invalid(id, "has a party without a record and an address")),
            (Some(record), None) => {
                let column = self.primary_address(&record.table);
                let path = format!("{}?$select={column}", self.tables.path(record)?);
                let row = self.session.get(&path, "reading the address of a party").await?;
                party.address = row
                    .get(&column)
                    .and_then(Value::as_str)
                    .and_then(|text| EmailAddress::parse(text.trim()).ok());
                match party.address {
                    Some(_) => Ok(()),
                    None => Err(invalid(id, &format!("has the party {record}, which has no e-mail address"))),
                }
            }
            (_, Some(_)) => Ok(()),
        }
    }

    /// The column of a table that mail is sent to.
    fn primary_address(&self, table: &str) -> String {
        let usual = match table {
            "systemuser" => "internalemailaddress",
            "queue" | "team" => "emailaddress",
            _ => "emailaddress1",
        };
        let columns =
            self.tables.email_tables().iter().find(|t| t.logical_name == table).map(|t| &t.email_columns);
        match columns {
            Some(columns) if !columns.iter().any(|column| column == usual) => {
                columns.first().cloned().unwrap_or_else(|| usual.to_owned())
            }
            _ => usual.to_owned(),
        }
    }

    /// Message-ID and references of the e-mail that is answered.
    async fn parent(&self, parent: &ActivityId) -> Result<(Option<MessageId>, Vec<MessageId>)> {
        let note = self.mirror.note(parent).await?.unwrap_or_default();
        let known = self.mirror.email(parent).await?.and_then(|email| email.summary.message_id);
        let message_id = match known.or(note.message_id) {
            Some(id) => Some(id),
            None => {
                let path = format!("emails({parent})?$select=messageid");
                match self.session.get(&path, "reading the e-mail that is answered").await {
                    Ok(row) => row.get("messageid").and_then(Value::as_str).and_then(MessageId::parse),
                    Err(error) if error.kind() == ErrorKind::NotFound => None,
                    Err(error) => return Err(error),
                }
            }
        };
        let references =
            if note.references.is_empty() { note.in_reply_to.into_iter().collect() } else { note.references };
        Ok((message_id, references))
    }

    async fn attachment_rows(&self, id: &ActivityId) -> Result<Vec<Value>> {
        let path = format!(
            "activitymimeattachments?$select=activitymimeattachmentid,filename,mimetype,filesize,attachmentnumber,attachmentcontentid\
             &$filter=_objectid_value%20eq%20{id}&$orderby=attachmentnumber"
        );
        self.session.pages(path, &[], "listing attachments").all(10_000).await
    }

    pub(crate) async fn attachments(&self, id: &ActivityId) -> Result<Vec<Attachment>> {
        let rows = self.attachment_rows(id).await?;
        if rows.is_empty() {
            self.session.get(&format!("emails({id})?$select=activityid"), "reading an e-mail").await?;
        }
        let mut all = Vec::with_capacity(rows.len());
        for row in rows {
            let text = |name: &str| row.get(name).and_then(Value::as_str).map(str::to_owned);
            let key = text("activitymimeattachmentid").unwrap_or_default();
            let doing = "reading an attachment";
            let path = format!("activitymimeattachments({key})?$select=body");
            let body = self.session.get(&path, doing).await?;
            let body = body.get("body").and_then(Value::as_str).unwrap_or_default();
            let content = BASE64_STANDARD.decode(body).map_err(|cause| {
                Error::new(
                    ErrorKind::Invalid,
                    format!("{}: {doing} {key}: it is no base64", self.session.place()),
                )
                .with_source(cause)
            })?;
            all.push(Attachment {
                file_name: text("filename").unwrap_or_default(),
                mime_type: text("mimetype").unwrap_or_else(|| "application/octet-stream".to_owned()),
                content_id: text("attachmentcontentid").filter(|id| !id.is_empty()),
                content: Bytes::from(content),
            });
        }
        Ok(all)
    }

    pub(crate) async fn prepare_outgoing(
        &self,
        id: &ActivityId,
        message_id: &MessageId,
        with_token: bool,
    ) -> Result<OutgoingEmail> {
        let settings = self.organization().settings.clone();
        let mut token = None;
        for _ in 0..RACES {
            let row = self.outgoing_row(id).await?;
            let email = self.outgoing_of(id, &row).await?;
            let mut change = Map::new();
            if email.message_id.is_none() {
                change.insert("messageid".to_owned(), json!(message_id.as_str()));
            }
            if with_token && email.tracking_token.is_none() {
                let token = match &token {
                    Some(token) => token,
                    None => token.insert(self.token(&settings, &email).await?),
                };
                let limit = settings.maximum_subject_length_on_mail_server as usize;
                change.insert("trackingtoken".to_owned(), json!(token));
                change.insert("subject".to_owned(), json!(append_token(&email.subject, token, limit)));
            }
            if change.is_empty() {
                self.remember(&row, &email, &settings).await?;
                return Ok(email);
            }
            let Some(version) = version(&row) else {
                return Err(invalid(id, "came without its version (@odata.etag)"));
            };
            match self.patch_own(id, &Value::Object(change.clone()), version, "preparing an e-mail").await {
                Ok(()) => {}
                Err(error) if fault::has_status(&error, 412) => {}
                // a completed e-mail may be read-only (5.1): then only we know its identity
                Err(error) if refuses_state(&error) => {
                    let text = |name: &str| change.get(name).and_then(Value::as_str).map(str::to_owned);
                    let (mid, token, subject) = (text("messageid"), text("trackingtoken"), text("subject"));
                    self.change_note(id, move |note| {
                        note.message_id =
                            note.message_id.take().or(mid.as_deref().and_then(MessageId::parse));
                        note.tracking_token = note.tracking_token.take().or(token);
                        note.subject = note.subject.take().or(subject);
                    })
                    .await?;
                }
                Err(error) => return Err(error),
            }
        }
        let message = format!("the e-mail {id} is changed by others all the time");
        Err(Error::new(ErrorKind::Busy, message).with_scope(email_router_model::Scope::Message))
    }

    /// The mirror knows it at once, so that an answer that comes in a second is matched.
    async fn remember(
        &self,
        row: &Value,
        email: &OutgoingEmail,
        settings: &OrganizationSettings,
    ) -> Result<()> {
        let Some(MirrorEmail { mut summary, status }) = parse_email(row, None) else { return Ok(()) };
        summary.message_id.clone_from(&email.message_id);
        summary.subject.clone_from(&email.subject);
        summary.tracking_token.clone_from(&email.tracking_token);
        summary.parties.clone_from(&email.parties);
        if !settings.disable_smart_matching_email_hash_creation {
            let addresses: Vec<_> = email.parties.iter().filter_map(|party| party.address.clone()).collect();
            summary.smart = SmartHasher::new(settings).hashes(&email.subject, &addresses);
        }
        self.mirror.apply_emails(vec![MirrorEmail { summary, status }], None).await
    }

    /// The token that an answer inherits, where its subject ends with that of the e-mail it answers; else the sender's next one (8.2).
    async fn token(&self, settings: &OrganizationSettings, email: &OutgoingEmail) -> Result<String> {
        if let Some(parent) = &email.parent_activity
            && let Some(parent) = self.mirror.email(parent).await?
            && let Some(token) =
                parent.summary.tracking_token.filter(|token| ends_with_token(&email.subject, token))
        {
            return Ok(token);
        }
        let sender = email
            .parties
            .iter()
            .find(|party| party.participation == ParticipationType::Sender)
            .and_then(|party| party.record.as_ref())
            .filter(|sender| matches!(sender.table.as_str(), "systemuser" | "queue"))
            .ok_or_else(|| invalid(&email.activity_id, "has a sender that is neither a user nor a queue"))?;
        let format = TokenFormat::new(settings);
        let mut first = None;
        for _ in 0..=format.maximum.min(MAX_TOKENS_TRIED) {
            let (user, counter) = self.next_number(sender, &format).await?;
            let token = format.make(user, counter);
            let used = self.mirror.find_emails(&EmailLookup::TrackingToken(token.clone()), 1).await?;
            if used.is_empty() {
                return Ok(token);
            }
            first.get_or_insert(token);
        }
        // all are in use: they are used again, as Dynamics does
        first.ok_or_else(|| invalid(&email.activity_id, "gets no token"))
    }

    /// The number of a sender and its next counter: the CRM's own where it can be changed, so that several routers and the CRM count together.
    async fn next_number(&self, sender: &RecordRef, format: &TokenFormat) -> Result<(u32, u32)> {
        if sender.table == "queue" {
            let above = self.highest_user_number().await?;
            return self.mirror.next_token_number(sender, None, above, after, format.maximum).await;
        }
        let path =
            format!("usersettingscollection({})?$select=trackingtokenid,nexttrackingnumber", sender.id);
        for _ in 0..RACES {
            let row = self.session.get(&path, "reading the sender's tracking number").await?;
            let number =
                |name: &str| row.get(name).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
            let user = number("trackingtokenid");
            let (Some(user), Some(version)) = (user, version(&row)) else {
                let above = self.highest_user_number().await?;
                return self.mirror.next_token_number(sender, user, above, after, format.maximum).await;
            };
            if self.routes.own_counters.load(Ordering::Relaxed) {
                return self.mirror.next_token_number(sender, Some(user), 0, after, format.maximum).await;
            }
            let counter = number("nexttrackingnumber").unwrap_or(1);
            // a maximum that was lowered starts the counter over
            let counter = if counter > format.maximum { 0 } else { counter };
            let ask = Ask::new(
                Method::PATCH,
                format!("usersettingscollection({})", sender.id),
                "counting the sender's tracking number",
            )
            .json(&json!({ "nexttrackingnumber": format.after(counter) }))
            .header("if-match", &format!("W/\"{version}\""));
            match self.session.send(ask).await {
                Ok(_) => return Ok((user, counter)),
                Err(error) if fault::has_status(&error, 412) => {}
                Err(error)
                    if fault::of(&error).is_some_and(|fault| matches!(fault.status, 400 | 403 | 405)) =>
                {
                    tracing::info!(
                        "{} does not let us count tracking numbers; the mirror does: {error}",
                        self.session.place()
                    );
                    self.routes.own_counters.store(true, Ordering::Relaxed);
                }
                Err(error) => return Err(error),
            }
        }
        let message = format!("the tracking number of {sender} is changed by others all the time");
        Err(Error::new(ErrorKind::Busy, message).with_scope(email_router_model::Scope::Message))
    }

    async fn highest_user_number(&self) -> Result<u32> {
        let path = "usersettingscollection?$select=trackingtokenid&$orderby=trackingtokenid%20desc&$top=1";
        let rows = self.session.get(path, "reading the highest tracking number").await?;
        let first = rows.get("value").and_then(|rows| rows.get(0)?.get("trackingtokenid")?.as_u64());
        Ok(first.and_then(|number| u32::try_from(number).ok()).unwrap_or_default())
    }

    pub(crate) async fn finish(&self, id: &ActivityId, outcome: &SendOutcome) -> Result<()> {
        let path = format!("emails({id})?$select=directioncode,statuscode,trackingtoken");
        let row = self.session.get(&path, "finishing an e-mail").await?;
        if row.get("directioncode").and_then(Value::as_bool) == Some(false) {
            return Err(invalid(id, "was received, it cannot be sent"));
        }
        let status = row.get("statuscode").and_then(Value::as_u64).and_then(|code| u8::try_from(code).ok());
        let status = status.and_then(EmailStatus::from_code);
        let sending = status == Some(EmailStatus::Sending);
        // only an e-mail in Sending can go back or be given up; that it was sent is a fact in every state
        let (to, change): (EmailStatus, Box<dyn FnOnce(&mut Note) + Send>) = match outcome.clone() {
            SendOutcome::Sent { refused, .. } => {
                if status == Some(EmailStatus::Sent) {
                    return Ok(());
                }
                let change = move |note: &mut Note| {
                    (note.in_doubt, note.not_before) = (None, None);
                    note.refused = refused;
                };
                (EmailStatus::Sent, Box::new(change))
            }
            _ if !sending => return Ok(()),
            SendOutcome::Retry { not_before, reason } => {
                let change = move |note: &mut Note| {
                    note.not_before = Some(not_before);
                    note.reason = Some(reason);
                };
                (EmailStatus::PendingSend, Box::new(change))
            }
            SendOutcome::Failed { reason } => {
                (EmailStatus::Failed, Box::new(move |note: &mut Note| note.reason = Some(reason)))
            }
            SendOutcome::InDoubt { reason } => {
                return self
                    .change_note(id, move |note| {
                        note.in_doubt.get_or_insert(reason);
                    })
                    .await;
            }
        };
        // the note first: what is back in Pending Send must not go out before its time
        self.change_note(id, change).await?;
        if to == EmailStatus::Sent && self.routes.sent_by_message.load(Ordering::Relaxed) {
            return self.record_as_sent(id, &row).await;
        }
        match self.set_status(id, to).await {
            Err(error) if to == EmailStatus::Sent && refuses_state(&error) => {
                self.record_as_sent(id, &row).await?;
                tracing::info!("{} takes sent e-mails by SendEmail only: {error}", self.session.place());
                self.routes.sent_by_message.store(true, Ordering::Relaxed);
                Ok(())
            }
            other => other,
        }
    }

    async fn set_status(&self, id: &ActivityId, to: EmailStatus) -> Result<()> {
        let row = json!({ "statecode": to.state_code(), "statuscode": to.code() });
        self.patch(id, &row, None, "finishing an e-mail").await.map(drop)
    }

    /// The documented way: `SendEmail` with `IssueSend` false records an e-mail as sent (2.4); where it wants a draft, it gets one.
    async fn record_as_sent(&self, id: &ActivityId, row: &Value) -> Result<()> {
        let token = row.get("trackingtoken").and_then(Value::as_str).unwrap_or_default();
        let send = || {
            let path = format!("emails({id})/Microsoft.Dynamics.CRM.SendEmail");
            let body = json!({ "IssueSend": false, "TrackingToken": token });
            self.session.send(Ask::new(Method::POST, path, "recording an e-mail as sent").json(&body))
        };
        match send().await {
            Err(error) if refuses_state(&error) => {
                self.set_status(id, EmailStatus::Draft).await?;
                send().await.map(drop)
            }
            other => other.map(drop),
        }
    }

    pub(crate) async fn record_delivery(&self, report: &DeliveryReport) -> Result<bool> {
        let id = report.activity_id;
        let outgoing = match self.mirror.email(&id).await? {
            Some(email) => email.summary.outgoing,
            None => {
                let path = format!("emails({id})?$select=directioncode");
                let row = self.session.get(&path, "reading the e-mail of a delivery report").await?;
                row.get("directioncode").and_then(Value::as_bool) != Some(false)
            }
        };
        if !outgoing {
            return Err(invalid(&id, "was received; nothing is reported about it"));
        }
        let report = report.clone();
        self.change_note(&id, move |note| note.record(&report)).await
    }

    /// What another router has written about an e-mail.
    fn column_note(&self, row: &Value) -> Option<Note> {
        let column = self.session.settings().note_column.as_deref()?;
        Note::from_json(row.get(column)?.as_str()?)
    }

    /// Changes a note, in the mirror and, where there is one, in the note column.
    async fn change_note<T: Send + 'static>(
        &self,
        id: &ActivityId,
        change: impl FnOnce(&mut Note) -> T + Send + 'static,
    ) -> Result<T> {
        let before = self.mirror.note(id).await?;
        let result = self.mirror.update_note(id, change).await?;
        let Some(column) = &self.session.settings().note_column else { return Ok(result) };
        let after = self.mirror.note(id).await?;
        if after != before
            && let Some(note) = after
        {
            let text = note.to_json(self.tables.email_length(column).unwrap_or(4000));
            let doing = "keeping a note on an e-mail";
            for _ in 0..RACES {
                let row = self.session.get(&format!("emails({id})?$select=activityid"), doing).await?;
                let Some(version) = version(&row) else { break };
                match self.patch_own(id, &json!({ column: text }), version, doing).await {
                    Err(error) if fault::has_status(&error, 412) => {}
                    // the mirror has it, and a completed e-mail may be read-only
                    Err(error) if refuses_state(&error) => break,
                    other => {
                        other?;
                        break;
                    }
                }
            }
        }
        Ok(result)
    }
}

fn after(counter: u32, maximum: u32) -> u32 {
    if counter >= maximum { 0 } else { counter + 1 }
}

/// The number in `W/"4712"`.
fn version(row: &Value) -> Option<u64> {
    let tag = row.get("@odata.etag")?.as_str()?;
    tag.trim_start_matches("W/").trim_matches('"').parse().ok()
}

fn size(row: &Value) -> u64 {
    row.get("filesize").and_then(Value::as_u64).unwrap_or_default()
}

/// The server does not take this change in the state in which the e-mail is.
fn refuses_state(error: &Error) -> bool {
    fault::of(error).is_some_and(|fault| {
        matches!(fault.status, 400 | 403 | 405)
            && fault.code.is_none_or(|code| ![code::PRIVILEGE_DENIED, code::ISV_ABORTED].contains(&code))
    })
}

fn invalid(id: &ActivityId, what: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("the e-mail {id} {what}"))
}
