//! Received mail becomes records (`crm-contract.md` 3.5, 11.4, 11.5 and 13.6): one changeset, one request; what does not fit into one is a draft until its
//! last attachment is there.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use email_router_http::Method;
use email_router_model::{ActivityId, RecordRef, Scope};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::RouterDecides;
use crate::dataverse::mirror::{MirrorEmail, Note};
use crate::dataverse::tables::cut;
use crate::dataverse::web_api::fault::{self, code};
use crate::dataverse::web_api::{Ask, Operation, literal};
use crate::{
    Attachment, Delivered, EmailStatus, EmailSummary, Error, ErrorKind, IncomingEmail, NewSender,
    ParticipationType, Result,
};

/// So many bytes of attachments go into the one changeset; more make it a draft that is completed piece by piece. The server's limits for a request and the two
/// minutes for a transaction are not published for this (11.4).
const ONE_CHANGESET: usize = 8 << 20;
/// A larger attachment goes up in blocks of this size, where the server can (3.5).
const BLOCK: usize = 4 << 20;
/// `objecttypecode` of attachments.
const EMAIL: &str = "email";

/// The CRM has this item in this queue already (9.4).
const IN_QUEUE: [i32; 2] = [code::QUEUE_ITEM_EXISTS, code::EMAIL_IN_QUEUE_ALREADY];
/// There is a record with this id.
const IS_THERE: [i32; 2] = [code::DUPLICATE_RECORD, code::DUPLICATE_KEY];

impl RouterDecides {
    pub(crate) async fn deliver_incoming(&self, email: IncomingEmail) -> Result<Delivered> {
        let id = email.activity_id;
        if self.is_known(&id).await? {
            return self.already_there(&email).await;
        }
        check(&email)?;
        // what Dataverse has no column for is kept first: a crash after the delivery must not lose it
        let note = Note::of(&email, !self.organization().settings.disable_smart_matching_email_hash_creation);
        self.mirror
            .update_note(&id, move |known| *known = Note { delivered_on: known.delivered_on, ..note })
            .await?;
        let delivered = match self.create(&email).await {
            Ok(()) => Delivered::Created,
            Err(error) if is_there(&error) => match self.found(&email).await? {
                Found::Draft => {
                    self.complete(&email).await?;
                    Delivered::Created
                }
                Found::Whole => Delivered::AlreadyThere,
            },
            Err(error) => return Err(self.decide_again(&email, error).await?),
        };
        if delivered == Delivered::AlreadyThere {
            let delivered = self.already_there(&email).await?;
            self.mirror.delivered(&id).await?;
            return Ok(delivered);
        }
        // side by side, so that they share a flush of the disk
        let (found_again, sender_known, delivered_noted) = futures_util::future::join3(
            self.mirror.apply_emails(vec![self.mirrored(&email)], None),
            self.remember_sender(email.new_sender.as_ref()),
            self.mirror.delivered(&id),
        )
        .await;
        found_again.and(sender_known).and(delivered_noted)?;
        Ok(delivered)
    }

    async fn remember_sender(&self, new: Option<&NewSender>) -> Result<()> {
        let Some(new) = new else { return Ok(()) };
        let name = fault::one_line(&new.name);
        self.mirror.add_record(&new.record, &name, &new.address, new.owner.as_ref(), self.now()).await
    }

    pub(crate) async fn exists(&self, id: &ActivityId) -> Result<bool> {
        if self.is_known(id).await? {
            return Ok(true);
        }
        if !self.is_stale().await {
            return Ok(false); // were it there all the same, delivering it would say so
        }
        match self.status(id).await {
            Ok(status) => Ok(status != EmailStatus::Draft),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether this router delivered it, or the mirror saw it whole.
    async fn is_known(&self, id: &ActivityId) -> Result<bool> {
        self.mirror.is_delivered(id).await
    }

    async fn status(&self, id: &ActivityId) -> Result<EmailStatus> {
        let path = format!("emails({id})?$select=statuscode");
        let row = self.session.get(&path, "looking whether an e-mail is there").await?;
        let code = row.get("statuscode").and_then(Value::as_u64).and_then(|code| u8::try_from(code).ok());
        Ok(code.and_then(EmailStatus::from_code).unwrap_or(EmailStatus::Completed))
    }

    async fn found(&self, email: &IncomingEmail) -> Result<Found> {
        match self.status(&email.activity_id).await {
            Ok(EmailStatus::Draft) => Ok(Found::Draft),
            Ok(_) => Ok(Found::Whole),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let message = format!("{}: an e-mail was there and is gone", self.session.place());
                Err(Error::new(ErrorKind::Busy, message).with_scope(Scope::Message))
            }
            Err(error) => Err(error),
        }
    }

    /// It is there: only queue items may be added (7.4).
    async fn already_there(&self, email: &IncomingEmail) -> Result<Delivered> {
        if self.organization().settings.create_additional_queue_items_for_already_tracked_email {
            for queue in &email.queues {
                let operation = self.queue_item(email.activity_id, *queue)?;
                let ask = Ask::new(Method::POST, operation.path, "adding a queue item")
                    .json(&operation.body.unwrap_or_default());
                match self.session.send(ask).await {
                    Ok(_) => {}
                    Err(error) if fault::is(&error, &IN_QUEUE) => {}
                    // somebody deleted the e-mail since: it does not come back
                    Err(error) if error.kind() == ErrorKind::NotFound => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(Delivered::AlreadyThere)
    }

    /// Everything in one changeset; or a draft, and what follows.
    async fn create(&self, email: &IncomingEmail) -> Result<()> {
        match self.create_with(email, email.new_sender.as_ref()).await {
            // the sender's record is there already, or the e-mail: without the former the answer says which
            Err(error) if email.new_sender.is_some() && is_there(&error) => {
                self.create_with(email, None).await
            }
            other => other,
        }
    }

    async fn create_with(&self, email: &IncomingEmail, new: Option<&NewSender>) -> Result<()> {
        let by_post = self.routes.create_by_post.load(Ordering::Relaxed);
        match self.create_by(email, new, by_post).await {
            Err(error) if !by_post && refuses_upsert(&error) => {
                self.create_by(email, new, true).await?;
                tracing::info!("{} takes new e-mails by POST only", self.session.place());
                self.routes.create_by_post.store(true, Ordering::Relaxed);
                Ok(())
            }
            other => other,
        }
    }

    async fn create_by(&self, email: &IncomingEmail, new: Option<&NewSender>, by_post: bool) -> Result<()> {
        let mut operations = Vec::new();
        if let Some(new) = new {
            operations.push(self.new_sender(new)?);
        }
        let path = format!("emails({})", email.activity_id);
        let mut row = self.row(email)?;
        operations.push(if by_post {
            row.insert("activityid".to_owned(), Value::String(email.activity_id.to_string()));
            Operation::new(Method::POST, "emails").json(Value::Object(row))
        } else {
            Operation::new(Method::PATCH, path).header("If-None-Match", "*").json(Value::Object(row))
        });
        let doing = "delivering an e-mail";
        if email.attachments.iter().map(|file| file.content.len()).sum::<usize>() <= ONE_CHANGESET {
            for (n, file) in email.attachments.iter().enumerate() {
                let row = self.attachment(email.activity_id, n, file);
                operations
                    .push(Operation::new(Method::POST, "activitymimeattachments").json(Value::Object(row)));
            }
            operations.extend(self.closing(email)?);
            self.session.changeset(&operations, doing).await?;
            return Ok(());
        }
        self.session.changeset(&operations, doing).await?;
        self.complete(email).await
    }

    /// Puts into a draft what it lacks, and closes it.
    async fn complete(&self, email: &IncomingEmail) -> Result<()> {
        let doing = "adding an attachment";
        let path = format!(
            "activitymimeattachments?$select=filename,filesize,attachmentnumber&$filter=_objectid_value eq {}",
            email.activity_id
        );
        let mut there: HashMap<(String, u64), usize> = HashMap::new();
        for row in self.session.pages(path, &[], doing).all(10_000).await? {
            let name = row.get("filename").and_then(Value::as_str).unwrap_or_default().to_lowercase();
            let size = row.get("filesize").and_then(Value::as_u64).unwrap_or_default();
            *there.entry((name, size)).or_default() += 1;
        }
        for (n, file) in email.attachments.iter().enumerate() {
            let key = (cut(file.file_name.to_lowercase(), 255), file.content.len() as u64);
            match there.get_mut(&key) {
                Some(left) if *left > 0 => *left -= 1,
                _ => self.attach(email.activity_id, n, file).await?,
            }
        }
        match self.session.changeset(&self.closing(email)?, "closing an e-mail").await {
            // an earlier attempt put it into a queue; that it is open all the same is what remains to be changed
            Err(error) if fault::is(&error, &IN_QUEUE) => {
                self.session.changeset(&self.closing(email)?[..1], "closing an e-mail").await.map(drop)
            }
            other => other.map(drop),
        }
    }

    /// One attachment, in blocks where it is large and the server can.
    async fn attach(&self, id: ActivityId, n: usize, file: &Attachment) -> Result<()> {
        let mut row = self.attachment(id, n, file);
        if file.content.len() > BLOCK {
            let body = row.remove("body");
            match self.attach_in_blocks(&row, file).await {
                Err(error) if has_no_blocks(&error) => {
                    row.extend(body.map(|body| ("body".to_owned(), body)));
                }
                other => return other,
            }
        }
        let ask = Ask::new(Method::POST, "activitymimeattachments", "adding an attachment")
            .json(&Value::Object(row));
        self.session.send(ask).await.map(drop)
    }

    async fn attach_in_blocks(&self, row: &Map<String, Value>, file: &Attachment) -> Result<()> {
        let doing = "uploading an attachment";
        let mut target = row.clone();
        target.insert("@odata.type".to_owned(), json!("Microsoft.Dynamics.CRM.activitymimeattachment"));
        let post = |name: &'static str, body: Value| {
            self.session.send(Ask::new(Method::POST, name, doing).json(&body))
        };
        let begun = post("InitializeAttachmentBlocksUpload", json!({ "Target": target })).await?.json()?;
        let token = begun.get("FileContinuationToken").and_then(Value::as_str).ok_or_else(|| {
            let message = format!("{}: {doing}: there is no FileContinuationToken", self.session.place());
            Error::new(ErrorKind::Unreachable, message)
        })?;
        let mut blocks = Vec::new();
        for (n, block) in file.content.chunks(BLOCK).enumerate() {
            let id = BASE64_STANDARD.encode(format!("{n:08}"));
            let data = BASE64_STANDARD.encode(block);
            // the same block again is the same block
            let ask = Ask::new(Method::POST, "UploadBlock", doing)
                .json(&json!({ "BlockId": id, "BlockData": data, "FileContinuationToken": token }))
                .harmless();
            self.session.send(ask).await?;
            blocks.push(id);
        }
        let commit = json!({ "Target": target, "BlockList": blocks, "FileContinuationToken": token });
        post("CommitAttachmentBlocksUpload", commit).await.map(drop)
    }

    /// The e-mail as a draft, with its parties.
    fn row(&self, email: &IncomingEmail) -> Result<Map<String, Value>> {
        let mut row = Map::new();
        let mut set = |name: &str, value: Value| self.tables.set(&mut row, EMAIL, name, value);
        let time = |at: Option<email_router_model::Timestamp>| at.map(literal::iso).map(Value::String);
        let text = |text: &Option<String>| text.clone().map(Value::String);
        set("directioncode", Value::Bool(false));
        set("subject", Value::String(email.subject.clone()));
        set("description", Value::String(email.body.clone()));
        set("mimetype", Value::String(email.body_mime_type.clone()));
        set("prioritycode", json!(email.priority.code()));
        set("isduplicatesenderunresolved", Value::Bool(email.is_duplicate_sender_unresolved));
        set("notifications", json!(u8::from(!email.removed_parts.is_empty())));
        let of = |kind: ParticipationType| {
            email.parties.iter().filter(move |p| p.participation == kind).filter_map(|p| p.address.as_ref())
        };
        let to: String = of(ParticipationType::To).map(|address| format!("{address};")).collect();
        for (name, value) in [
            ("messageid", email.message_id.as_ref().map(|id| Value::String(id.as_str().to_owned()))),
            ("inreplyto", email.in_reply_to.as_ref().map(|id| Value::String(id.as_str().to_owned()))),
            ("conversationindex", text(&email.conversation_index)),
            ("correlationmethod", Some(json!(email.correlation_method.code()))),
            ("trackingtoken", text(&email.tracking_token)),
            ("sender", of(ParticipationType::Sender).next().map(|a| Value::String(a.to_string()))),
            ("torecipients", Some(to).filter(|to| !to.is_empty()).map(Value::String)),
            ("submittedby", email.submitted_by.as_ref().map(|a| Value::String(a.to_string()))),
            ("category", text(&email.category)),
            ("subcategory", text(&email.subcategory)),
            ("senton", time(email.sent_on)),
            ("actualend", time(email.received_on)),
        ] {
            if let Some(value) = value {
                set(name, value);
            }
        }
        if let Some(column) = &self.session.settings().note_column {
            let most = self.tables.email_length(column).unwrap_or(4000);
            set(column, Value::String(Note::of(email, true).to_json(most)));
        }
        let activity = |id: &Option<ActivityId>| id.map(|id| RecordRef::new(EMAIL, *id.as_uuid()));
        let mut lookups = vec![
            ("regardingobjectid", email.regarding.clone()),
            ("correlatedactivityid", activity(&email.correlated_activity)),
            ("parentactivityid", activity(&email.parent_activity)),
            ("ownerid", email.owner.clone()),
            ("acceptingentityid", email.accepting.clone()),
        ];
        if let Some(mailbox) = email.receiving.as_ref().and_then(|record| self.default_mailbox(record)) {
            lookups.push(("receivingmailboxid", Some(RecordRef::new("mailbox", mailbox))));
        }
        for (attribute, record) in lookups {
            if let Some(record) = record
                && !self.tables.bind(&mut row, EMAIL, attribute, &record)?
            {
                tracing::debug!(attribute, %record, "the organization has no such lookup; it is left out");
            }
        }
        let parties = email.parties.iter().map(|party| self.party(party)).collect::<Result<Vec<_>>>()?;
        row.insert("email_activity_parties".to_owned(), Value::Array(parties));
        Ok(row)
    }

    fn party(&self, party: &crate::Party) -> Result<Value> {
        let mut row = Map::new();
        row.insert("participationtypemask".to_owned(), json!(party.participation.code()));
        if let Some(address) = &party.address {
            row.insert("addressused".to_owned(), Value::String(cut(address.to_string(), 320)));
        }
        let bound = match &party.record {
            Some(record) => self.tables.bind(&mut row, "activityparty", "partyid", record)?,
            None => false,
        };
        if !bound && let Some(name) = &party.name {
            row.insert("unresolvedpartyname".to_owned(), Value::String(cut(name.clone(), 200)));
        }
        Ok(Value::Object(row))
    }

    fn attachment(&self, id: ActivityId, n: usize, file: &Attachment) -> Map<String, Value> {
        let mut row = Map::new();
        row.insert("objectid_email@odata.bind".to_owned(), json!(format!("/emails({id})")));
        row.insert("objecttypecode".to_owned(), json!(EMAIL));
        let mut set =
            |name: &str, value: Value| self.tables.set(&mut row, "activitymimeattachment", name, value);
        set("attachmentnumber", json!(n + 1));
        set("subject", Value::String(file.file_name.clone()));
        set("filename", Value::String(file.file_name.clone()));
        set("mimetype", Value::String(file.mime_type.clone()));
        if let Some(id) = &file.content_id {
            set("attachmentcontentid", Value::String(id.clone()));
        }
        row.insert("body".to_owned(), Value::String(BASE64_STANDARD.encode(&file.content)));
        row
    }

    /// Received, and into the queues.
    fn closing(&self, email: &IncomingEmail) -> Result<Vec<Operation>> {
        let status = EmailStatus::Received;
        let close = Operation::new(Method::PATCH, format!("emails({})", email.activity_id))
            .header("If-Match", "*")
            .json(json!({ "statecode": status.state_code(), "statuscode": status.code() }));
        let mut operations = vec![close];
        for (n, queue) in email.queues.iter().enumerate() {
            // one active item per object and queue
            if !email.queues[..n].contains(queue) {
                operations.push(self.queue_item(email.activity_id, *queue)?);
            }
        }
        Ok(operations)
    }

    fn queue_item(&self, id: ActivityId, queue: Uuid) -> Result<Operation> {
        let mut row = Map::new();
        let (email, queue) = (RecordRef::new(EMAIL, *id.as_uuid()), RecordRef::new("queue", queue));
        for (attribute, record) in [("objectid", &email), ("queueid", &queue)] {
            if !self.tables.bind(&mut row, "queueitem", attribute, record)? {
                let message = format!("{}: e-mails cannot be put into queues", self.session.place());
                return Err(Error::new(ErrorKind::Invalid, message));
            }
        }
        Ok(Operation::new(Method::POST, "queueitems").json(Value::Object(row)))
    }

    fn new_sender(&self, new: &NewSender) -> Result<Operation> {
        let table = new.record.table.as_str();
        if !matches!(table, "contact" | "lead") {
            let message = format!("an unknown sender cannot become a record of the table {table:?}");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let name = fault::one_line(&new.name);
        let mut row = Map::new();
        let mut set = |column: &str, value: &str| self.tables.set(&mut row, table, column, json!(value));
        set("lastname", &name);
        set("emailaddress1", new.address.as_str());
        if table == "lead" {
            set("subject", &name);
        }
        if let Some(owner) = &new.owner {
            self.tables.bind(&mut row, table, "ownerid", owner)?;
        }
        Ok(Operation::new(Method::PATCH, self.tables.path(&new.record)?)
            .header("If-None-Match", "*")
            .json(Value::Object(row)))
    }

    /// A record that the decision spoke of is gone: the mirror forgets it, and the message is decided about again. Where the mirror never knew it, the
    /// delivery was wrong.
    async fn decide_again(&self, email: &IncomingEmail, error: Error) -> Result<Error> {
        if error.kind() != ErrorKind::NotFound {
            return Ok(error);
        }
        let mut forgotten = Vec::new();
        for record in spoken_of(email) {
            let (id, _) = self.tables.primary(&record.table).unwrap_or(("activityid", ""));
            let path = format!("{}?$select={id}", self.tables.path(&record)?);
            match self.session.get(&path, "looking whether a record is there").await {
                Ok(_) => {}
                Err(gone) if gone.kind() == ErrorKind::NotFound => {
                    let known = if record.table == EMAIL {
                        self.mirror.forget_email(&ActivityId::from_uuid(record.id)).await?
                    } else {
                        self.mirror.forget_record(&record.table, record.id).await?
                    };
                    if known {
                        forgotten.push(record.to_string());
                    }
                }
                Err(other) => return Ok(other),
            }
        }
        if forgotten.is_empty() {
            return Ok(error);
        }
        let message = format!(
            "{}: {} was deleted since the message was decided about; it is decided about again",
            self.session.place(),
            forgotten.join(", ")
        );
        Ok(Error::new(ErrorKind::Busy, message).with_scope(Scope::Message).with_source(error))
    }

    /// As the mirror would read it from the CRM.
    fn mirrored(&self, email: &IncomingEmail) -> MirrorEmail {
        MirrorEmail {
            summary: EmailSummary {
                activity_id: email.activity_id,
                outgoing: false,
                message_id: email.message_id.clone(),
                subject: email.subject.clone(),
                tracking_token: email.tracking_token.clone(),
                regarding: email.regarding.clone(),
                owner: email.owner.clone(),
                parties: email.parties.clone(),
                created_on: self.now(),
                conversation_index: email.conversation_index.clone(),
                conversation_id: email.conversation_id.clone(),
                smart: email.smart.clone(),
            },
            status: EmailStatus::Received,
        }
    }
}

enum Found {
    /// Begun and not completed.
    Draft,
    Whole,
}

/// What the trait asks of a new e-mail (5.2).
fn check(email: &IncomingEmail) -> Result<()> {
    match email.parties.iter().filter(|party| party.participation == ParticipationType::Sender).count() {
        1 => Ok(()),
        n => {
            Err(Error::new(ErrorKind::Invalid, format!("an e-mail has exactly one sender, this one has {n}")))
        }
    }
}

/// The records that an e-mail points to, each once.
fn spoken_of(email: &IncomingEmail) -> Vec<RecordRef> {
    let mut records: Vec<RecordRef> = Vec::new();
    let activities = [email.correlated_activity, email.parent_activity];
    let fixed = [&email.regarding, &email.owner, &email.accepting].into_iter().flatten().cloned();
    let parties = email.parties.iter().filter_map(|party| party.record.clone());
    let queues = email.queues.iter().map(|queue| RecordRef::new("queue", *queue));
    let emails = activities.into_iter().flatten().map(|id| RecordRef::new(EMAIL, *id.as_uuid()));
    let new = email.new_sender.as_ref().map(|new| &new.record);
    for record in fixed.chain(parties).chain(queues).chain(emails) {
        if Some(&record) != new && !records.contains(&record) {
            records.push(record);
        }
    }
    records
}

/// The server has a row with this id already.
fn is_there(error: &Error) -> bool {
    fault::has_status(error, 412) || fault::is(error, &IS_THERE)
}

/// The server may not take parties with PATCH: not published (18, point 3).
fn refuses_upsert(error: &Error) -> bool {
    fault::of(error).is_some_and(|fault| match fault.status {
        405 | 501 => true,
        400 => {
            let words = fault.message.to_lowercase();
            words.contains("deep insert")
                || words.contains("nested")
                || words.contains("email_activity_parties")
        }
        _ => false,
    })
}

/// The server has no upload in blocks (on-premises, old versions).
fn has_no_blocks(error: &Error) -> bool {
    fault::of(error).is_some_and(|fault| {
        fault.status == 501
            || fault.status == 405
            || (matches!(fault.status, 400 | 404)
                && fault.code.is_none_or(|code| code == code::RESOURCE_NOT_FOUND))
    })
}
