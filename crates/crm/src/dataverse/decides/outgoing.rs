//! Mail to be sent: the server hands each out once (BackgroundSendEmail), the router tells what became of it.

use std::collections::HashSet;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use email_router_model::{ActivityId, MailboxKind, MessageId, RecordRef, Timestamp};
use uuid::Uuid;

use super::ServerDecides;
use super::service::{Cell, Condition, Fetch, Link, Row};
use crate::dataverse::mirror::Note;
use crate::dataverse::web_api::literal;
use crate::token::append_token;
use crate::{
    Approval, Attachment, Claim, CrmClient as _, DeliveryMethod, DeliveryReport, EmailStatus, Error,
    ErrorKind, OutgoingEmail, ParticipationType, Party, PendingEmail, PendingQuery, Priority, Result,
    SendOutcome,
};

/// Senders whose mail is looked for by one query.
const SENDERS: usize = 50;
/// E-mails that are taken by one call.
const TAKEN: usize = 50;
/// More pending e-mails than this are not looked at.
const MOST: usize = 200_000;

const PENDING: u8 = EmailStatus::PendingSend.code();
const SENDING: u8 = EmailStatus::Sending.code();

impl ServerDecides {
    pub(super) async fn pending(&self, query: &PendingQuery) -> Result<Vec<PendingEmail>> {
        let mut found = Vec::new();
        for senders in query.senders.chunks(SENDERS) {
            found.extend(self.candidates(senders, query).await?);
        }
        {
            // handed out and claimed by nobody yet: the server does not hand them out again
            let handed_out = self.0.handed_out.lock().unwrap_or_else(PoisonError::into_inner);
            found.retain(|(email, _)| !handed_out.contains_key(email.activity_id.as_uuid()));
            let ours = handed_out.values().filter(|email| query.senders.contains(&email.sender));
            found.extend(ours.map(|email| (email.clone(), true)));
        }
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let served = self.served(&query.senders).await?;
        found.sort_by_key(|(email, _)| {
            (std::cmp::Reverse(email.priority.code()), email.modified_on, email.activity_id)
        });
        let (mut listed, mut wanted) = (Vec::new(), Vec::new());
        for sender in query.senders.iter().filter(|sender| served.contains(sender)) {
            let mut left = query.per_sender;
            for (email, is_ours) in found.iter().filter(|(email, _)| email.sender == *sender) {
                if left == 0 {
                    break;
                }
                if *is_ours || self.may_go(email, query.now).await? {
                    left -= 1;
                    // where it stands, so that the order is kept
                    listed.push(email.clone());
                    if !is_ours && !email.stale {
                        wanted.push(*email.activity_id.as_uuid());
                    }
                }
            }
        }
        let taken = self.hand_out(&wanted).await?;
        listed.retain(|email| {
            let id = email.activity_id.as_uuid();
            !wanted.contains(id) || taken.contains(id)
        });
        let mut handed_out = self.0.handed_out.lock().unwrap_or_else(PoisonError::into_inner);
        for email in listed.iter().filter(|email| taken.contains(email.activity_id.as_uuid())) {
            handed_out.insert(*email.activity_id.as_uuid(), email.clone());
        }
        Ok(listed)
    }

    /// What waits for these senders, and what was left in Sending.
    async fn candidates(
        &self,
        senders: &[RecordRef],
        query: &PendingQuery,
    ) -> Result<Vec<(PendingEmail, bool)>> {
        let columns = [
            "activityid",
            "statuscode",
            "deliveryprioritycode",
            "prioritycode",
            "deliveryattempts",
            "modifiedon",
            "versionnumber",
        ];
        let fetch = Fetch::new("email", &columns)
            .with(Condition::new("directioncode", "eq", ["1".to_owned()]))
            .with(Condition::new("statuscode", "in", [PENDING, SENDING].map(|code| code.to_string())))
            .with_any(vec![
                Condition::new("delayedemailsendtime", "null", []),
                Condition::new("delayedemailsendtime", "le", [literal::iso(query.now)]),
            ])
            .order("modifiedon", false)
            .link(Link {
                table: "activityparty",
                on: ("activityid", "activityid"),
                alias: "sender",
                outer: false,
                columns: vec!["partyid"],
                all: vec![
                    Condition::new(
                        "participationtypemask",
                        "eq",
                        [ParticipationType::Sender.code().to_string()],
                    ),
                    Condition::new("partyid", "in", senders.iter().map(|sender| sender.id.to_string())),
                ],
            });
        let mut found = Vec::new();
        for row in self.rows(fetch, MOST).await? {
            let Some(id) = row.id("activityid") else { continue };
            let party = row.id("sender.partyid");
            let Some(sender) = senders.iter().find(|sender| Some(sender.id) == party) else { continue };
            let modified_on = row.time("modifiedon").unwrap_or(Timestamp::UNIX_EPOCH);
            let stale = row.int("statuscode") == Some(SENDING.into());
            let age: Duration = query.now.duration_since(modified_on).try_into().unwrap_or_default();
            if stale && age <= query.stale_after {
                continue;
            }
            let priority = row.int("deliveryprioritycode").or(row.int("prioritycode"));
            let email = PendingEmail {
                activity_id: ActivityId::from_uuid(id),
                sender: sender.clone(),
                version: version(&row),
                delivery_attempts: attempts(&row),
                priority: Priority::from_code(priority.and_then(|p| u8::try_from(p).ok()).unwrap_or(1)),
                stale,
                modified_on,
            };
            found.push((email, false));
        }
        Ok(found)
    }

    /// Whether its time has come, and nobody has to look at it first.
    async fn may_go(&self, email: &PendingEmail, now: Timestamp) -> Result<bool> {
        let note = self.0.mirror.note(&email.activity_id).await?.unwrap_or_default();
        Ok(note.not_before.is_none_or(|not_before| not_before <= now)
            && (!email.stale || note.in_doubt.is_none()))
    }

    /// Those of the senders who send through the router, now.
    async fn served(&self, senders: &[RecordRef]) -> Result<HashSet<RecordRef>> {
        let settings = self.settings().await?;
        let mailboxes = self.read_mailboxes(Some(senders)).await?;
        let served = mailboxes.into_iter().filter(|mailbox| {
            let approval = match mailbox.kind {
                MailboxKind::Queue => settings.require_approval_for_queue_email,
                _ => settings.require_approval_for_user_email,
            };
            !mailbox.disabled
                && mailbox.outgoing == DeliveryMethod::EmailRouter
                && (!approval || mailbox.approval == Approval::Approved)
        });
        Ok(served.map(|mailbox| mailbox.record).collect())
    }

    /// Takes these e-mails; those that the server gave us. What another router took in between it does not give.
    async fn hand_out(&self, wanted: &[Uuid]) -> Result<HashSet<Uuid>> {
        let mut taken = HashSet::new();
        for some in wanted.chunks(TAKEN) {
            let query = Fetch::new("email", &["activityid", "subject"]).with(Condition::new(
                "activityid",
                "in",
                some.iter().map(Uuid::to_string),
            ));
            for row in self.0.service.background_send_email(&query).await? {
                match row.id("activityid").or(row.id("emailid")) {
                    Some(id) if some.contains(&id) => {
                        taken.insert(id);
                    }
                    id => tracing::warn!(
                        ?id,
                        "the CRM handed out an e-mail that was not asked for; it is sent after SendingStatusDelay"
                    ),
                }
            }
        }
        Ok(taken)
    }

    /// What the server handed out is taken by the first who asks; what was left in Sending, by the first who changes it.
    pub(super) async fn take(&self, email: &PendingEmail) -> Result<Claim> {
        let id = *email.activity_id.as_uuid();
        let _turn = self.turn(&id).await;
        let ours = self.0.handed_out.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        let put_back = |ours: Option<PendingEmail>| {
            if let Some(email) = ours {
                self.0.handed_out.lock().unwrap_or_else(PoisonError::into_inner).insert(id, email);
            }
        };
        if ours.is_none() && !email.stale {
            return Ok(Claim::Lost);
        }
        let columns = ["statuscode", "deliveryattempts", "versionnumber", "modifiedon"];
        let row = match self.row("email", id, &columns).await {
            Ok(row) => row,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Claim::Lost),
            Err(error) => {
                put_back(ours);
                return Err(error);
            }
        };
        let status = row.int("statuscode");
        let changed = if ours.is_some() {
            ![Some(SENDING.into()), Some(PENDING.into())].contains(&status)
        } else {
            status != Some(SENDING.into()) || version(&row) != email.version
        };
        if changed {
            return Ok(Claim::Lost);
        }
        let attempt = attempts(&row) + 1;
        let mut values = vec![("deliveryattempts", Cell::Int(i32::try_from(attempt).unwrap_or(i32::MAX)))];
        if status == Some(PENDING.into()) {
            values.extend(status_of(EmailStatus::Sending));
        }
        match self.0.service.update("email", id, &values).await {
            Ok(()) => Ok(Claim::Taken { attempt }),
            Err(error) => {
                put_back(ours);
                Err(error)
            }
        }
    }

    pub(super) async fn outgoing(&self, id: &ActivityId) -> Result<OutgoingEmail> {
        let id = ActivityId::from_uuid(self.in_crm(id).await?);
        let columns = [
            "directioncode",
            "subject",
            "description",
            "mimetype",
            "messageid",
            "trackingtoken",
            "parentactivityid",
            "prioritycode",
            "deliveryreceiptrequested",
            "readreceiptrequested",
            "deliveryattempts",
            "createdon",
        ];
        let row = self.row("email", *id.as_uuid(), &columns).await?;
        self.is_outgoing(&row, &id)?;
        let note = self.0.mirror.note(&id).await?.unwrap_or_default();
        let mut parties = self.parties(&[*id.as_uuid()]).await?.remove(id.as_uuid()).unwrap_or_default();
        for party in &mut parties {
            self.complete(party).await?;
        }
        let parent = row.id("parentactivityid").map(ActivityId::from_uuid);
        let (parent_message_id, parent_references) = match &parent {
            Some(parent) => self.parent(parent).await?,
            None => (None, Vec::new()),
        };
        let of_email = Condition::new("objectid", "eq", [id.to_string()]);
        let sizes = Fetch::new("activitymimeattachment", &["filesize"]).with(of_email);
        let sizes = self.rows(sizes, 100_000).await?;
        let size = |row: &Row| row.int("filesize").and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
        let text = |name: &str| row.text(name).map(str::to_owned);
        let priority = row.int("prioritycode").and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
        Ok(OutgoingEmail {
            activity_id: id,
            message_id: row.text("messageid").and_then(MessageId::parse).or(note.message_id),
            subject: note.subject.or(text("subject")).unwrap_or_default(),
            body: text("description").unwrap_or_default(),
            // what people write in the CRM is HTML
            body_mime_type: text("mimetype").unwrap_or_else(|| "text/html".to_owned()),
            parties,
            parent_activity: parent,
            parent_message_id,
            parent_references,
            tracking_token: text("trackingtoken").or(note.tracking_token),
            priority: Priority::from_code(priority),
            delivery_receipt_requested: row.flag("deliveryreceiptrequested"),
            read_receipt_requested: row.flag("readreceiptrequested"),
            delivery_attempts: attempts(&row),
            attachment_bytes: sizes.iter().map(size).sum(),
            created_on: row.time("createdon").unwrap_or(Timestamp::UNIX_EPOCH),
        })
    }

    fn is_outgoing(&self, row: &Row, id: &ActivityId) -> Result<()> {
        if row.flag("directioncode") {
            return Ok(());
        }
        let message = format!("{}: the e-mail {id} was received", self.0.service.place());
        Err(Error::new(ErrorKind::Invalid, message))
    }

    /// A party has the address that is used, else the primary one of its record (6.1).
    async fn complete(&self, party: &mut Party) -> Result<()> {
        if let (None, Some(record)) = (&party.address, &party.record) {
            party.address = self.primary_address(record).await?;
        }
        Ok(())
    }

    /// Message-ID and References of the e-mail that is answered, as far as they are known.
    async fn parent(&self, id: &ActivityId) -> Result<(Option<MessageId>, Vec<MessageId>)> {
        let note = self.0.mirror.note(id).await?.unwrap_or_default();
        match self.row("email", *id.as_uuid(), &["messageid", "inreplyto"]).await {
            Ok(row) => {
                let references = match note.references {
                    kept if !kept.is_empty() => kept,
                    _ => row.text("inreplyto").and_then(MessageId::parse).into_iter().collect(),
                };
                Ok((row.text("messageid").and_then(MessageId::parse).or(note.message_id), references))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok((note.message_id, note.references)),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn read_attachments(&self, id: &ActivityId) -> Result<Vec<Attachment>> {
        let id = self.in_crm(id).await?;
        let list = Fetch::new("activitymimeattachment", &["activitymimeattachmentid", "attachmentnumber"])
            .with(Condition::new("objectid", "eq", [id.to_string()]))
            .order("attachmentnumber", false);
        let rows = self.rows(list, 100_000).await?;
        if rows.is_empty() {
            self.row("email", id, &["activityid"]).await?; // or it is not there
        }
        let mut attachments = Vec::with_capacity(rows.len());
        // one by one, since a page of large ones is too much
        for attachment in rows.iter().filter_map(|row| row.id("activitymimeattachmentid")) {
            let columns = ["filename", "mimetype", "body", "attachmentcontentid"];
            let row = self.row("activitymimeattachment", attachment, &columns).await?;
            let text = |name: &str| row.text(name).unwrap_or_default().to_owned();
            let content = BASE64_STANDARD.decode(row.text("body").unwrap_or_default()).map_err(|cause| {
                let message = format!("{}: the attachment {attachment} is damaged", self.0.service.place());
                Error::new(ErrorKind::Invalid, message).with_source(cause)
            })?;
            attachments.push(Attachment {
                file_name: text("filename"),
                mime_type: text("mimetype"),
                content_id: row.text("attachmentcontentid").map(str::to_owned),
                content: Bytes::from(content),
            });
        }
        Ok(attachments)
    }

    pub(super) async fn prepare(
        &self,
        id: &ActivityId,
        message_id: &MessageId,
        with_token: bool,
    ) -> Result<OutgoingEmail> {
        let _turn = self.turn(id.as_uuid()).await;
        let email = self.outgoing(id).await?;
        let (mut values, mut note) = (Vec::new(), Note::default());
        if email.message_id.is_none() {
            note.message_id = Some(message_id.clone());
            values.push(("messageid", Cell::Text(message_id.as_str().to_owned())));
        }
        if with_token && email.tracking_token.is_none() {
            let settings = self.settings().await?;
            let sender = email.parties.iter().find(|p| p.participation == ParticipationType::Sender);
            let token = self.token(&email.subject, sender.and_then(|sender| sender.record.as_ref())).await?;
            let limit = usize::try_from(settings.maximum_subject_length_on_mail_server).unwrap_or(255);
            let subject = append_token(&email.subject, &token, limit);
            values.push(("trackingtoken", Cell::Text(token.clone())));
            values.push(("subject", Cell::Text(subject.clone())));
            note.tracking_token = Some(token);
            note.subject = Some(subject);
        }
        if !values.is_empty() {
            match self.0.service.update("email", *email.activity_id.as_uuid(), &values).await {
                Ok(()) => {}
                // the server does not let anybody change what is being sent: then the router alone knows
                Err(error) if error.kind() == ErrorKind::Invalid => {
                    tracing::debug!(%error, "what an outgoing e-mail was given is kept in the notes");
                    let keep = move |kept: &mut Note| {
                        kept.message_id = note.message_id.or(kept.message_id.take());
                        kept.tracking_token = note.tracking_token.or(kept.tracking_token.take());
                        kept.subject = note.subject.or(kept.subject.take());
                    };
                    self.0.mirror.update_note(&email.activity_id, keep).await?;
                }
                Err(error) => return Err(error),
            }
        }
        self.outgoing(&email.activity_id).await
    }

    /// The next token of a sender. A queue cannot ask, nor can a user in whose name we may not ask: then it is one of ours.
    async fn token(&self, subject: &str, sender: Option<&RecordRef>) -> Result<String> {
        let user = sender.filter(|sender| sender.table == "systemuser").map(|sender| sender.id);
        if let Some(user) = user.filter(|_| !self.0.not_in_other_names.load(Ordering::Relaxed)) {
            match self.0.service.tracking_token(subject, Some(user)).await {
                Err(error) if error.kind() == ErrorKind::Refused => {
                    tracing::warn!(%error, "tracking tokens are counted for the router's user, since it may not act in the name of others");
                    self.0.not_in_other_names.store(true, Ordering::Relaxed);
                }
                token => return token,
            }
        }
        self.0.service.tracking_token(subject, None).await
    }

    pub(super) async fn end(&self, id: &ActivityId, outcome: &SendOutcome) -> Result<()> {
        let _turn = self.turn(id.as_uuid()).await;
        let row = self.row("email", *id.as_uuid(), &["statuscode", "directioncode"]).await?;
        self.is_outgoing(&row, id)?;
        let status = row.int("statuscode").and_then(|code| EmailStatus::from_code(u8::try_from(code).ok()?));
        if status == Some(EmailStatus::Sent) {
            return Ok(()); // what was sent stays sent
        }
        let said = outcome.clone();
        // the note first: what it says holds whatever becomes of the status
        let keep = move |note: &mut Note| match said {
            SendOutcome::Sent { refused, .. } => {
                (note.in_doubt, note.reason, note.not_before, note.refused) = (None, None, None, refused);
            }
            SendOutcome::Retry { not_before, reason } => {
                (note.in_doubt, note.reason, note.not_before) = (None, Some(reason), Some(not_before));
            }
            SendOutcome::Failed { reason } => {
                (note.in_doubt, note.reason, note.not_before) = (None, Some(reason), None);
            }
            SendOutcome::InDoubt { reason } => note.in_doubt = Some(reason),
        };
        self.0.mirror.update_note(id, keep).await?;
        let goal = match outcome {
            SendOutcome::Sent { .. } => return self.mark_sent(*id.as_uuid()).await,
            SendOutcome::Retry { .. } => EmailStatus::PendingSend,
            SendOutcome::Failed { .. } => EmailStatus::Failed,
            SendOutcome::InDoubt { .. } => return Ok(()),
        };
        if status == Some(goal) {
            return Ok(());
        }
        self.0.service.update("email", *id.as_uuid(), &status_of(goal)).await
    }

    /// Sent, by its status where the server takes that, else by SendEmail (`crm-contract.md` 3.7: which of the two is not published). What worked once is used again.
    async fn mark_sent(&self, id: Uuid) -> Result<()> {
        if !self.0.sent_by_message.load(Ordering::Relaxed) {
            match self.0.service.update("email", id, &status_of(EmailStatus::Sent)).await {
                Err(error) if error.kind() == ErrorKind::Invalid => {
                    tracing::debug!(%error, "the CRM does not take the status Sent; it is told by SendEmail");
                }
                done => return done,
            }
        }
        match self.0.service.record_as_sent(id).await {
            // it may want a draft
            Err(error) if error.kind() == ErrorKind::Invalid => {
                self.0.service.update("email", id, &status_of(EmailStatus::Draft)).await?;
                self.0.service.record_as_sent(id).await?;
            }
            done => done?,
        }
        self.0.sent_by_message.store(true, Ordering::Relaxed);
        Ok(())
    }

    pub(super) async fn keep_report(&self, report: &DeliveryReport) -> Result<bool> {
        let id = self.in_crm(&report.activity_id).await?;
        let row = self.row("email", id, &["directioncode"]).await?;
        self.is_outgoing(&row, &report.activity_id)?;
        let report = report.clone();
        self.0.mirror.update_note(&ActivityId::from_uuid(id), move |note| note.record(&report)).await
    }
}

fn status_of(status: EmailStatus) -> [(&'static str, Cell); 2] {
    [
        ("statecode", Cell::Choice(status.state_code().into())),
        ("statuscode", Cell::Choice(status.code().into())),
    ]
}

/// What tells one state of a row from another.
fn version(row: &Row) -> u64 {
    let number = row.int("versionnumber").and_then(|number| u64::try_from(number).ok());
    let time = || row.time("modifiedon").and_then(|time| u64::try_from(time.as_microsecond()).ok());
    number.or_else(time).unwrap_or_default()
}

fn attempts(row: &Row) -> u32 {
    row.int("deliveryattempts").and_then(|attempts| u32::try_from(attempts).ok()).unwrap_or_default()
}
