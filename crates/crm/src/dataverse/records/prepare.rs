//! What an e-mail needs before it goes out: parties with addresses, Message-ID, tracking token (`crm-contract.md` 6 and 8.2).

use std::sync::atomic::Ordering;

use email_router_http::Method;
use email_router_model::{ActivityId, EmailAddress, MessageId, RecordRef};
use serde_json::{Map, Value, json};

use super::RouterDecides;
use super::attachments::size;
use super::outgoing::{RACES, invalid, refuses_state, too_many_races, version};
use crate::dataverse::mirror::MirrorEmail;
use crate::dataverse::mirror::sync::{EMAIL_COLUMNS, PARTY_COLUMNS, parse_email, parties};
use crate::dataverse::web_api::{Ask, fault};
use crate::smart::SmartHasher;
use crate::token::{TokenFormat, append_token, ends_with_token};
use crate::{
    EmailLookup, ErrorKind, OrganizationSettings, OutgoingEmail, ParticipationType, Party, Priority, Result,
};

const ANNOTATIONS: &str = "odata.include-annotations=\"Microsoft.Dynamics.CRM.lookuplogicalname,OData.Community.Display.V1.FormattedValue\"";
/// Once around the counter of Dynamics' default width, 999.
const MAX_TOKENS_TRIED: u32 = 999;

impl RouterDecides {
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
        let parent = super::directory::id(row, "_parentactivityid_value").map(ActivityId::from_uuid);
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
            attachment_bytes: self.attachment_rows(id).await?.iter().map(size).sum(),
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
                let read = match self.tables.path(record) {
                    Ok(path) => {
                        let path = format!("{path}?$select={column}");
                        self.session.get(&path, "reading the address of a party").await
                    }
                    Err(error) => Err(error),
                };
                let row = match read {
                    // not the e-mail: it is there, and cannot be sent
                    Err(error) if error.kind() == ErrorKind::NotFound => {
                        let what = format!("has the party {record}, which was deleted");
                        return Err(invalid(id, &what).with_source(error));
                    }
                    other => other?,
                };
                let text = row.get(&column).and_then(Value::as_str).unwrap_or_default();
                party.address = EmailAddress::parse(text.trim()).ok();
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
            None => self.text_of(parent, "messageid").await?.as_deref().and_then(MessageId::parse),
        };
        let references =
            if note.references.is_empty() { note.in_reply_to.into_iter().collect() } else { note.references };
        Ok((message_id, references))
    }

    /// A column of the e-mail that is answered; `None` where that is gone.
    async fn text_of(&self, parent: &ActivityId, column: &str) -> Result<Option<String>> {
        let path = format!("emails({parent})?$select={column}");
        match self.session.get(&path, "reading the e-mail that is answered").await {
            Ok(row) => Ok(row.get(column).and_then(Value::as_str).map(str::to_owned)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
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
            let mut email = self.outgoing_of(id, &row).await?;
            let mut change = Map::new();
            if email.message_id.is_none() {
                change.insert("messageid".to_owned(), json!(message_id.as_str()));
                email.message_id = Some(message_id.clone());
            }
            if with_token && email.tracking_token.is_none() {
                let token = match &token {
                    Some(token) => token,
                    None => token.insert(self.token(&settings, &email).await?),
                };
                let limit = settings.maximum_subject_length_on_mail_server as usize;
                email.subject = append_token(&email.subject, token, limit);
                email.tracking_token = Some(token.clone());
                change.insert("trackingtoken".to_owned(), json!(token));
                change.insert("subject".to_owned(), json!(email.subject));
            }
            if !change.is_empty() {
                let Some(version) = version(&row) else {
                    return Err(invalid(id, "came without its version (@odata.etag)"));
                };
                match self.patch_own(id, &Value::Object(change), version, "preparing an e-mail").await {
                    Ok(()) => {}
                    Err(error) if fault::has_status(&error, 412) => continue,
                    // a completed e-mail may be read-only (5.1): then only we know its identity
                    Err(error) if refuses_state(&error) => self.keep_identity(&email).await?,
                    Err(error) => return Err(error),
                }
            }
            self.remember(&row, &email, &settings).await?;
            return Ok(email);
        }
        Err(too_many_races(&format!("the e-mail {id}")))
    }

    /// What the CRM does not take, the note keeps.
    async fn keep_identity(&self, email: &OutgoingEmail) -> Result<()> {
        let (message_id, token) = (email.message_id.clone(), email.tracking_token.clone());
        let subject = email.subject.clone();
        self.change_note(&email.activity_id, move |note| {
            note.message_id = note.message_id.take().or_else(|| message_id.clone());
            if token.is_some() && note.tracking_token.is_none() {
                (note.tracking_token, note.subject) = (token.clone(), Some(subject.clone()));
            }
        })
        .await
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
        if let Some(parent) = &email.parent_activity {
            let token = match self.mirror.email(parent).await? {
                Some(parent) => parent.summary.tracking_token,
                None => self.text_of(parent, "trackingtoken").await?,
            };
            if let Some(token) = token.filter(|token| ends_with_token(&email.subject, token)) {
                return Ok(token);
            }
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
        Err(too_many_races(&format!("the tracking number of {sender}")))
    }

    async fn highest_user_number(&self) -> Result<u32> {
        let path = "usersettingscollection?$select=trackingtokenid&$orderby=trackingtokenid%20desc&$top=1";
        let rows = self.session.get(path, "reading the highest tracking number").await?;
        let first = rows.get("value").and_then(|rows| rows.get(0)?.get("trackingtokenid")?.as_u64());
        Ok(first.and_then(|number| u32::try_from(number).ok()).unwrap_or_default())
    }
}

fn after(counter: u32, maximum: u32) -> u32 {
    if counter >= maximum { 0 } else { counter + 1 }
}
