//! Making an outgoing e-mail, with the checks that Dynamics makes when a person sends.

use email_router_model::{ActivityId, EmailAddress, MessageId, RecordRef, Timestamp};
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::Serialize;

use super::super::error::DbResult;
use super::super::lookup;
use super::super::outgoing::{self, Draft};
use super::super::settings;
use super::super::sql::{Id, lines, message_id, reference};
use crate::{
    Attachment, Error, ErrorKind, OrganizationSettings, ParticipationType, Party, Priority, Resolution,
};

/// Someone an e-mail comes from or goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recipient {
    /// This record, at its primary address.
    Record(RecordRef),
    /// This address: the record that has it, else an unresolved party.
    Address(EmailAddress, Option<String>),
}

impl From<EmailAddress> for Recipient {
    fn from(address: EmailAddress) -> Self {
        Self::Address(address, None)
    }
}

impl From<RecordRef> for Recipient {
    fn from(record: RecordRef) -> Self {
        Self::Record(record)
    }
}

/// An e-mail to be sent by the router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEmail {
    /// A user or queue.
    pub from: Recipient,
    /// To.
    pub to: Vec<Recipient>,
    /// Cc.
    pub cc: Vec<Recipient>,
    /// Bcc.
    pub bcc: Vec<Recipient>,
    /// Subject, at most 800 characters.
    pub subject: String,
    /// Body.
    pub body: String,
    /// Whether the body is HTML.
    pub html: bool,
    /// Attachments; the organization's blocked extensions and largest size apply.
    pub attachments: Vec<Attachment>,
    /// What it is about; without one, what the e-mail it answers is about.
    pub regarding: Option<RecordRef>,
    /// The e-mail it answers.
    pub in_reply_to: Option<ActivityId>,
    /// Not to be sent before this time.
    pub delay_until: Option<Timestamp>,
    /// Priority, also in the queue of what waits.
    pub priority: Priority,
    /// Ask the mail system to confirm delivery.
    pub delivery_receipt: bool,
    /// Ask the reader to confirm reading.
    pub read_receipt: bool,
}

impl NewEmail {
    /// A plain-text e-mail.
    #[must_use]
    pub fn new(
        from: impl Into<Recipient>,
        to: impl Into<Recipient>,
        subject: impl Into<String>,
        body: impl Into<String>,
    ) -> Self {
        Self {
            from: from.into(),
            to: vec![to.into()],
            cc: Vec::new(),
            bcc: Vec::new(),
            subject: subject.into(),
            body: body.into(),
            html: false,
            attachments: Vec::new(),
            regarding: None,
            in_reply_to: None,
            delay_until: None,
            priority: Priority::Normal,
            delivery_receipt: false,
            read_receipt: false,
        }
    }
}

/// An e-mail that now waits in Pending Send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CreatedEmail {
    /// Its id.
    pub activity_id: ActivityId,
    /// Why it will wait although it is due: what keeps its sender from sending through the router.
    pub warnings: Vec<String>,
}

/// The longest subject (`crm-contract.md` 5.1).
const MAX_SUBJECT: usize = 800;
/// The longest file name (`crm-contract.md` 5.3).
const MAX_FILE_NAME: usize = 255;

pub(super) fn create(
    conn: &Connection,
    id: ActivityId,
    new: &NewEmail,
    now: Timestamp,
) -> DbResult<CreatedEmail> {
    let settings = settings::read(conn)?;
    let wrong = |what: String| Error::new(ErrorKind::Invalid, what);
    let length = new.subject.chars().count();
    if length > MAX_SUBJECT {
        return Err(
            wrong(format!("the subject has {length} characters; at most {MAX_SUBJECT} are allowed")).into()
        );
    }
    if new.subject.chars().any(char::is_control) {
        return Err(wrong("the subject contains a line end or another control character".to_owned()).into());
    }
    check_attachments(&settings, &new.attachments)?;
    let sender = sender(conn, &new.from)?;
    let mut parties = vec![party(ParticipationType::Sender, &sender, None)];
    for (kind, recipients) in [
        (ParticipationType::To, &new.to),
        (ParticipationType::Cc, &new.cc),
        (ParticipationType::Bcc, &new.bcc),
    ] {
        for recipient in recipients {
            parties.push(resolve(conn, &settings, kind, recipient)?);
        }
    }
    if parties.len() == 1 {
        return Err(wrong("the e-mail has no recipient".to_owned()).into());
    }
    let mut regarding = new.regarding.clone();
    if let Some(record) = &regarding
        && lookup::resolution(conn, record.clone())?.is_none()
    {
        return Err(Error::new(ErrorKind::NotFound, format!("the record {record} does not exist")).into());
    }
    let parent = match new.in_reply_to {
        None => None,
        Some(parent) => {
            let found = parent_of(conn, parent)?.ok_or_else(|| outgoing::not_found(parent))?;
            regarding = regarding.or(found.regarding.clone());
            Some(found)
        }
    };
    let address = lookup::primary_address(conn, &sender.record)?;
    let draft = Draft {
        id,
        subject: &new.subject,
        body: &new.body,
        mime_type: if new.html { "text/html" } else { "text/plain" },
        parties: &parties,
        sender: &sender.record,
        sender_address: address.as_ref(),
        owner: sender.owner.as_ref(),
        regarding: regarding.as_ref(),
        parent: new.in_reply_to,
        delay_until: new.delay_until,
        priority: new.priority,
        delivery_receipt: new.delivery_receipt,
        read_receipt: new.read_receipt,
        attachments: &new.attachments,
    };
    outgoing::insert(conn, &draft, now)?;
    if let Some(parent) = parent {
        // what an answer to this answer needs to write its own References (RFC 5322 3.6.4)
        let mut references = parent.references;
        references.extend(parent.message_id.clone());
        conn.prepare_cached("UPDATE email SET inreplyto = ?2, emailreferences = ?3 WHERE activityid = ?1")?.execute(
            params![Id::from(id), parent.message_id.as_ref().map(|m| m.as_str()), lines(&references)],
        )?;
    }
    let mut warnings = Vec::new();
    if address.is_none() {
        warnings.push(format!("{} has no e-mail address", sender.record));
    }
    warnings.extend(outgoing::why_not(conn, &settings, &sender.record)?);
    Ok(CreatedEmail { activity_id: id, warnings })
}

struct Parent {
    message_id: Option<MessageId>,
    references: Vec<MessageId>,
    regarding: Option<RecordRef>,
}

fn parent_of(conn: &Connection, id: ActivityId) -> DbResult<Option<Parent>> {
    let mut statement = conn.prepare_cached(
        "SELECT messageid, emailreferences, regardingobjectid, regardingobjecttypecode FROM email WHERE activityid = ?1",
    )?;
    let found = statement
        .query_row([Id::from(id)], |r| {
            let references: Option<String> = r.get(1)?;
            Ok(Parent {
                message_id: message_id(r, 0)?,
                references: references.iter().flat_map(|t| t.lines()).filter_map(MessageId::parse).collect(),
                regarding: reference(r, 2)?,
            })
        })
        .optional()?;
    Ok(found)
}

/// "Sender party of an outgoing mail is a user or a queue", `crm-contract.md` 6.1.
fn sender(conn: &Connection, from: &Recipient) -> DbResult<Resolution> {
    let may_send = |r: &Resolution| matches!(r.record.table.as_str(), "systemuser" | "queue");
    let (mut found, what) = match from {
        Recipient::Record(record) => {
            (lookup::resolution(conn, record.clone())?.into_iter().collect(), record.to_string())
        }
        Recipient::Address(address, _) => (lookup::resolve(conn, address)?, address.to_string()),
    };
    found.retain(may_send);
    if found.len() > 1 {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("several users or queues have the address {what}"),
        )
        .with_hint("give the sender by id")
        .into());
    }
    found.pop().ok_or_else(|| {
        Error::new(ErrorKind::Invalid, format!("the sender {what} is no enabled user and no queue"))
            .with_hint("add it with `email-router crm add systemuser` or `queue`")
            .into()
    })
}

fn resolve(
    conn: &Connection,
    settings: &OrganizationSettings,
    kind: ParticipationType,
    recipient: &Recipient,
) -> DbResult<Party> {
    match recipient {
        Recipient::Record(record) => {
            let found = lookup::resolution(conn, record.clone())?.ok_or_else(|| {
                Error::new(ErrorKind::NotFound, format!("the recipient {record} does not exist"))
            })?;
            if lookup::primary_address(conn, record)?.is_none() {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!("the recipient {} ({record}) has no e-mail address", found.name),
                )
                .into());
            }
            Ok(party(kind, &found, None))
        }
        Recipient::Address(address, name) => {
            let found = lookup::resolve(conn, address)?;
            // the order of crm-contract.md 9.1: type, then active, then the oldest
            let best = found.iter().min_by_key(|r| (type_rank(&r.record.table), !r.active, r.created_on));
            match best {
                Some(one) => Ok(Party {
                    name: name.clone().or(Some(one.name.clone())),
                    ..party(kind, one, Some(address))
                }),
                None if settings.allow_unresolved_parties_on_email_send => Ok(Party {
                    participation: kind,
                    record: None,
                    address: Some(address.clone()),
                    name: name.clone(),
                }),
                None => Err(Error::new(ErrorKind::Invalid, format!("no record has the address {address}"))
                    .with_hint("add a contact with it, or set allowunresolvedpartiesonemailsend to true")
                    .into()),
            }
        }
    }
}

fn type_rank(table: &str) -> u8 {
    match table {
        "systemuser" => 0,
        "contact" => 1,
        "account" => 2,
        "lead" => 3,
        _ => 4,
    }
}

fn party(kind: ParticipationType, of: &Resolution, address: Option<&EmailAddress>) -> Party {
    Party {
        participation: kind,
        record: Some(of.record.clone()),
        address: address.cloned(),
        name: Some(of.name.clone()),
    }
}

/// "Blocked extensions and size were enforced when attached", `crm-contract.md` 6.1.
fn check_attachments(settings: &OrganizationSettings, attachments: &[Attachment]) -> Result<(), Error> {
    for a in attachments {
        let wrong =
            |what: String| Error::new(ErrorKind::Invalid, format!("the attachment {:?} {what}", a.file_name));
        if a.file_name.is_empty()
            || a.file_name.chars().count() > MAX_FILE_NAME
            || a.file_name.chars().any(|c| c.is_control() || matches!(c, '/' | '\\'))
        {
            return Err(wrong(format!(
                "needs a file name of 1 to {MAX_FILE_NAME} characters without a path"
            )));
        }
        // Windows drops dots and spaces at the end of a name: `a.exe.` is `a.exe`
        let name = a.file_name.trim_end_matches(['.', ' ']).to_lowercase();
        let extension = name.rsplit_once('.').map(|(_, e)| e.to_owned()).unwrap_or_default();
        if settings.blocked_attachments.iter().any(|b| b.to_lowercase() == extension) {
            return Err(wrong(format!("is blocked: the organization does not allow .{extension}"))
                .with_hint("the list is the organization setting blockedattachments"));
        }
        if a.content.len() as u64 > settings.max_upload_file_size {
            return Err(wrong(format!(
                "has {} bytes; the organization allows {}",
                a.content.len(),
                settings.max_upload_file_size
            ))
            .with_hint("the limit is the organization setting maxuploadfilesize"));
        }
    }
    Ok(())
}
