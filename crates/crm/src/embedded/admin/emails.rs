//! E-mails for people: list, show, decide, delete; queue items; counts.

use std::collections::BTreeMap;

use bytes::Bytes;
use email_router_model::{ActivityId, Direction, MessageId, RecordRef, Timestamp};
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::Serialize;
use uuid::Uuid;

use super::super::delivery::{self, RecipientState};
use super::super::error::DbResult;
use super::super::lookup;
use super::super::outgoing::{invalid, not_found};
use super::super::sql::{Id, Time, activity, message_id, reference};
use crate::{Attachment, CorrelationMethod, EmailStatus, Error, ErrorKind, Party, Priority};

/// Which e-mails to list, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EmailFilter {
    /// Only with this status.
    pub status: Option<EmailStatus>,
    /// Only in this direction.
    pub direction: Option<Direction>,
    /// Only those of which this record is a party.
    pub party: Option<RecordRef>,
    /// At most this many; 0 means 50.
    pub limit: usize,
}

/// An e-mail in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EmailRow {
    /// Its id.
    pub activity_id: ActivityId,
    /// Received or sent.
    pub direction: Direction,
    /// Its status.
    pub status: EmailStatus,
    /// Its subject.
    pub subject: String,
    /// Address of the sender.
    pub sender: Option<String>,
    /// Addresses in To, each ended by `;`.
    pub to: Option<String>,
    /// What it is about.
    pub regarding: Option<RecordRef>,
    /// Its tracking token.
    pub tracking_token: Option<String>,
    /// Attempts to send it.
    pub delivery_attempts: u32,
    /// Nobody knows whether it was sent; a person has to decide.
    pub in_doubt: bool,
    /// What the mail system said about it: why it waits, failed or is in doubt, and recipients it refused.
    pub report: Option<String>,
    /// When it was created in the CRM.
    pub created_on: Timestamp,
    /// When it was sent.
    pub sent_on: Option<Timestamp>,
}

/// An attachment without its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AttachmentInfo {
    /// Counted from 1.
    pub number: u32,
    /// File name.
    pub file_name: String,
    /// `type/subtype`.
    pub mime_type: String,
    /// Content-ID of a picture inside the body.
    pub content_id: Option<String>,
    /// Bytes.
    pub size: u64,
}

/// Work that waits in a queue, or waited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueueItem {
    /// Its id.
    pub queue_item_id: Uuid,
    /// The queue.
    pub queue: Uuid,
    /// Name of the queue.
    pub queue_name: String,
    /// The e-mail.
    pub activity_id: ActivityId,
    /// Title: the subject.
    pub title: String,
    /// When it entered.
    pub entered_on: Timestamp,
    /// Whether it waits.
    pub active: bool,
}

/// Everything about an e-mail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EmailDetails {
    /// What lists show.
    #[serde(flatten)]
    pub row: EmailRow,
    /// `messageid`.
    pub message_id: Option<MessageId>,
    /// `inreplyto`.
    pub in_reply_to: Option<MessageId>,
    /// References, oldest first.
    pub references: Vec<MessageId>,
    /// `conversationindex`.
    pub conversation_index: Option<String>,
    /// How it was correlated.
    pub correlation_method: CorrelationMethod,
    /// With which e-mail.
    pub correlated_activity: Option<ActivityId>,
    /// Which e-mail it answers.
    pub parent_activity: Option<ActivityId>,
    /// Owner.
    pub owner: Option<RecordRef>,
    /// The user or queue whose filter accepted it.
    pub accepting: Option<RecordRef>,
    /// The mailbox it was read from.
    pub receiving: Option<RecordRef>,
    /// Address of that mailbox.
    pub submitted_by: Option<String>,
    /// Priority.
    pub priority: Priority,
    /// Not sent before this time, by the wish of its author.
    pub delay_until: Option<Timestamp>,
    /// Not tried again before this time.
    pub not_before: Option<Timestamp>,
    /// When the mail system received it.
    pub received_on: Option<Timestamp>,
    /// What was not stored and why.
    pub removed_parts: Vec<String>,
    /// Sender and recipients.
    pub parties: Vec<Party>,
    /// Attachments without content.
    pub attachments: Vec<AttachmentInfo>,
    /// Queue items.
    pub queue_items: Vec<QueueItem>,
    /// `text/html` or `text/plain`.
    pub body_mime_type: String,
    /// Body.
    pub body: String,
    /// The plain text beside an HTML body.
    pub text_body: Option<String>,
    /// `category`: what kind of automatic mail it is.
    pub category: Option<String>,
    /// `subcategory`: how it is protected.
    pub subcategory: Option<String>,
    /// The id of the conversation as the mail system counts it.
    pub conversation_id: Option<String>,
    /// What mail systems reported about the recipients of an e-mail that was sent.
    pub delivery: Vec<RecipientState>,
}

/// How many parties [`Admin::resolve_party`](super::Admin::resolve_party) resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ResolvedParties {
    /// In the e-mail itself.
    pub here: u64,
    /// In others, where `resolvesimilarunresolvedemailaddress` is on.
    pub elsewhere: u64,
}

/// What a person decides about an e-mail of which nobody knows whether it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It arrived: status Sent.
    Sent,
    /// It did not: back to Pending Send, with the same Message-ID.
    SendAgain,
    /// Give up: status Failed.
    Failed,
}

/// Counts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Statistics {
    /// Records by table.
    pub records: BTreeMap<String, u64>,
    /// Received e-mails by status.
    pub incoming: BTreeMap<String, u64>,
    /// Outgoing e-mails by status.
    pub outgoing: BTreeMap<String, u64>,
    /// Outgoing e-mails a person has to decide about.
    pub in_doubt: u64,
    /// E-mails that a person deleted.
    pub deleted: u64,
    /// Active queue items.
    pub queue_items: u64,
    /// Attachments.
    pub attachments: u64,
}

const ROW: &str = "SELECT activityid, directioncode, statuscode, subject, sender, torecipients, regardingobjectid, \
     regardingobjecttypecode, trackingtoken, deliveryattempts, indoubt, deliveryreport, createdon, senton FROM email";

fn row(r: &Row<'_>) -> rusqlite::Result<EmailRow> {
    Ok(EmailRow {
        activity_id: activity(r.get(0)?),
        direction: if r.get(1)? { Direction::Outgoing } else { Direction::Incoming },
        status: EmailStatus::from_code(r.get(2)?).unwrap_or(EmailStatus::Draft),
        subject: r.get(3)?,
        sender: r.get(4)?,
        to: r.get(5)?,
        regarding: reference(r, 6)?,
        tracking_token: r.get(8)?,
        delivery_attempts: r.get(9)?,
        in_doubt: r.get(10)?,
        report: r.get(11)?,
        created_on: r.get::<_, Time>(12)?.0,
        sent_on: r.get::<_, Option<Time>>(13)?.map(|t| t.0),
    })
}

pub(super) fn list(conn: &Connection, filter: &EmailFilter) -> DbResult<Vec<EmailRow>> {
    let limit = if filter.limit == 0 { 50 } else { filter.limit };
    let most = i64::try_from(limit).unwrap_or(i64::MAX);
    let direction = filter.direction.map(|d| d == Direction::Outgoing);
    let mut rows = Vec::new();
    if let Some(party) = &filter.party {
        let mut statement = conn.prepare_cached(&format!(
            "{ROW} WHERE activityid IN (SELECT activityid FROM activityparty WHERE partyid = ?1)
               AND directioncode = coalesce(?2, directioncode) AND statuscode = coalesce(?3, statuscode)
             ORDER BY createdon DESC, rowid DESC LIMIT ?4"
        ))?;
        for found in statement
            .query_map(params![Id(party.id), direction, filter.status.map(EmailStatus::code), most], row)?
        {
            rows.push(found?);
        }
        return Ok(rows);
    }
    // one walk along the index for each status, so that the newest of few among many are found at once
    let mut statement = conn.prepare_cached(&format!(
        "{ROW} WHERE statuscode = ?1 AND directioncode = coalesce(?2, directioncode)
         ORDER BY createdon DESC, rowid DESC LIMIT ?3"
    ))?;
    for status in (1..=8).filter_map(EmailStatus::from_code).filter(|s| filter.status.is_none_or(|w| w == *s))
    {
        for found in statement.query_map(params![status.code(), direction, most], row)? {
            rows.push(found?);
        }
    }
    rows.sort_by_key(|r| std::cmp::Reverse(r.created_on));
    rows.truncate(limit);
    Ok(rows)
}

pub(super) fn in_doubt(conn: &Connection) -> DbResult<Vec<EmailRow>> {
    let mut statement = conn.prepare_cached(&format!("{ROW} WHERE indoubt = 1 ORDER BY modifiedon"))?;
    let rows = statement.query_map([], row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn show(conn: &Connection, id: ActivityId) -> DbResult<EmailDetails> {
    let key = Id::from(id);
    let found = conn
        .prepare_cached(&format!("{ROW} WHERE activityid = ?1"))?
        .query_row([key], row)
        .optional()?
        .ok_or_else(|| not_found(id))?;
    let mut details = conn
        .prepare_cached(
            "SELECT messageid, inreplyto, emailreferences, conversationindex, correlationmethod, correlatedactivityid,
               parentactivityid, ownerid, owneridtype, acceptingentityid, acceptingentitytypecode, receivingmailboxid,
               receivingmailboxtypecode, submittedby, prioritycode, delayedemailsendtime, postponeemailprocessinguntil,
               actualend, removedparts, mimetype, description, category, subcategory, textbody,
               (SELECT conversationid FROM emailcorrelation c WHERE c.activityid = email.activityid)
             FROM email WHERE activityid = ?1",
        )?
        .query_row([key], |r| {
            let references: Option<String> = r.get(2)?;
            let removed: Option<String> = r.get(18)?;
            let time = |at| Ok::<_, rusqlite::Error>(r.get::<_, Option<Time>>(at)?.map(|t| t.0));
            let received_on = if found.direction == Direction::Incoming { time(17)? } else { None };
            Ok(EmailDetails {
                message_id: message_id(r, 0)?,
                in_reply_to: message_id(r, 1)?,
                references: references.iter().flat_map(|t| t.lines()).filter_map(MessageId::parse).collect(),
                conversation_index: r.get(3)?,
                correlation_method: CorrelationMethod::from_code(r.get(4)?).unwrap_or_default(),
                correlated_activity: r.get::<_, Option<Id>>(5)?.map(activity),
                parent_activity: r.get::<_, Option<Id>>(6)?.map(activity),
                owner: reference(r, 7)?,
                accepting: reference(r, 9)?,
                receiving: reference(r, 11)?,
                submitted_by: r.get(13)?,
                priority: Priority::from_code(r.get(14)?),
                delay_until: time(15)?,
                not_before: time(16)?,
                received_on,
                removed_parts: removed.iter().flat_map(|t| t.lines()).map(str::to_owned).collect(),
                parties: Vec::new(),
                attachments: Vec::new(),
                queue_items: Vec::new(),
                body_mime_type: r.get(19)?,
                body: r.get(20)?,
                category: r.get(21)?,
                subcategory: r.get(22)?,
                text_body: r.get(23)?,
                conversation_id: r.get(24)?,
                delivery: Vec::new(),
                row: found,
            })
        })?;
    details.parties = lookup::parties(conn, id)?;
    details.delivery = delivery::states(conn, id)?;
    let mut statement = conn.prepare_cached(
        "SELECT attachmentnumber, filename, mimetype, attachmentcontentid, filesize FROM activitymimeattachment
         WHERE objectid = ?1 ORDER BY attachmentnumber",
    )?;
    let attachments = statement.query_map([key], |r| {
        Ok(AttachmentInfo {
            number: r.get(0)?,
            file_name: r.get(1)?,
            mime_type: r.get(2)?,
            content_id: r.get(3)?,
            size: r.get::<_, i64>(4)?.unsigned_abs(),
        })
    })?;
    details.attachments = attachments.collect::<Result<_, _>>()?;
    let mut statement = conn.prepare_cached(&format!("{ITEM} WHERE i.objectid = ?1 ORDER BY i.enteredon"))?;
    details.queue_items = statement.query_map([key], item)?.collect::<Result<_, _>>()?;
    Ok(details)
}

pub(super) fn attachment(conn: &Connection, id: ActivityId, number: u32) -> DbResult<Attachment> {
    let found = conn
        .prepare_cached(
            "SELECT filename, mimetype, attachmentcontentid, body FROM activitymimeattachment
             WHERE objectid = ?1 AND attachmentnumber = ?2",
        )?
        .query_row(params![Id::from(id), number], |r| {
            Ok(Attachment {
                file_name: r.get(0)?,
                mime_type: r.get(1)?,
                content_id: r.get(2)?,
                content: Bytes::from(r.get::<_, Vec<u8>>(3)?),
            })
        })
        .optional()?;
    found.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("the e-mail {id} has no attachment {number}")).into()
    })
}

const ITEM: &str = "SELECT i.queueitemid, i.queueid, q.name, i.objectid, i.title, i.enteredon, i.statecode = 0 \
     FROM queueitem i JOIN queue q ON q.queueid = i.queueid";

fn item(r: &Row<'_>) -> rusqlite::Result<QueueItem> {
    Ok(QueueItem {
        queue_item_id: r.get::<_, Id>(0)?.0,
        queue: r.get::<_, Id>(1)?.0,
        queue_name: r.get(2)?,
        activity_id: activity(r.get(3)?),
        title: r.get(4)?,
        entered_on: r.get::<_, Time>(5)?.0,
        active: r.get(6)?,
    })
}

pub(super) fn queue_items(conn: &Connection, queue: Uuid, limit: usize) -> DbResult<Vec<QueueItem>> {
    let mut statement = conn.prepare_cached(&format!(
        "{ITEM} WHERE i.queueid = ?1 AND i.statecode = 0 ORDER BY i.enteredon LIMIT ?2"
    ))?;
    let rows = statement.query_map(params![Id(queue), i64::try_from(limit).unwrap_or(i64::MAX)], item)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn close_queue_item(conn: &Connection, id: Uuid) -> DbResult<()> {
    if conn.prepare_cached("UPDATE queueitem SET statecode = 1 WHERE queueitemid = ?1")?.execute([Id(id)])?
        == 0
    {
        return Err(Error::new(ErrorKind::NotFound, format!("there is no queue item {id}")).into());
    }
    Ok(())
}

pub(super) fn decide(conn: &Connection, id: ActivityId, decision: Decision, now: Timestamp) -> DbResult<()> {
    let doubt: Option<bool> = conn
        .prepare_cached("SELECT indoubt FROM email WHERE activityid = ?1")?
        .query_row([Id::from(id)], |r| r.get(0))
        .optional()?;
    match doubt {
        None => return Err(not_found(id)),
        Some(false) => return Err(invalid(id, "is not in doubt")),
        Some(true) => {}
    }
    let status = match decision {
        Decision::Sent => EmailStatus::Sent,
        Decision::SendAgain => EmailStatus::PendingSend,
        Decision::Failed => EmailStatus::Failed,
    };
    set_status(conn, id, status, now)
}

/// Failed to Pending Send, attempts counted from the start; one e-mail or all. How many.
pub(super) fn retry_failed(conn: &Connection, one: Option<ActivityId>, now: Timestamp) -> DbResult<u64> {
    let done = conn.execute(
        "UPDATE email SET statuscode = 6, statecode = 1, deliveryattempts = 0, postponeemailprocessinguntil = NULL,
           modifiedon = ?1, versionnumber = versionnumber + 1
         WHERE statuscode = 8 AND directioncode = 1 AND activityid = coalesce(?2, activityid)",
        params![Time(now), one.map(Id::from)],
    )?;
    match one {
        Some(id) if done == 0 => {
            show(conn, id)?;
            Err(invalid(id, "has not failed"))
        }
        _ => Ok(done as u64),
    }
}

pub(super) fn cancel(conn: &Connection, id: ActivityId, now: Timestamp) -> DbResult<()> {
    match show(conn, id)?.row.status {
        EmailStatus::PendingSend | EmailStatus::Failed | EmailStatus::Draft => {
            set_status(conn, id, EmailStatus::Canceled, now)
        }
        EmailStatus::Canceled => Ok(()),
        _ => Err(invalid(id, "can no longer be canceled")),
    }
}

fn set_status(conn: &Connection, id: ActivityId, status: EmailStatus, now: Timestamp) -> DbResult<()> {
    conn.prepare_cached(
        "UPDATE email SET statuscode = ?2, statecode = ?3, indoubt = 0, postponeemailprocessinguntil = NULL, modifiedon = ?4,
           senton = CASE WHEN ?2 = 3 THEN coalesce(senton, ?4) ELSE senton END, versionnumber = versionnumber + 1
         WHERE activityid = ?1",
    )?
    .execute(params![Id::from(id), status.code(), status.state_code(), Time(now)])?;
    Ok(())
}

/// Deletes the e-mail and remembers that, so that the router does not bring it back.
pub(super) fn delete(conn: &Connection, id: ActivityId, now: Timestamp) -> DbResult<()> {
    if conn.prepare_cached("DELETE FROM email WHERE activityid = ?1")?.execute([Id::from(id)])? == 0 {
        return Err(not_found(id));
    }
    conn.prepare_cached("INSERT OR IGNORE INTO deletedemail (activityid, deletedon) VALUES (?1, ?2)")?
        .execute(params![Id::from(id), Time(now)])?;
    Ok(())
}

pub(super) fn statistics(conn: &Connection) -> DbResult<Statistics> {
    let count =
        |sql: &str| -> DbResult<u64> { Ok(conn.query_row(sql, [], |r| r.get::<_, i64>(0))?.unsigned_abs()) };
    let mut statistics = Statistics {
        in_doubt: count("SELECT count(*) FROM email WHERE indoubt = 1")?,
        deleted: count("SELECT count(*) FROM deletedemail")?,
        queue_items: count("SELECT count(*) FROM queueitem WHERE statecode = 0")?,
        attachments: count("SELECT count(*) FROM activitymimeattachment")?,
        ..Statistics::default()
    };
    for info in super::columns::all(conn)? {
        let rows = count(&format!("SELECT count(*) FROM {}", info.name))?;
        statistics.records.insert(info.name, rows);
    }
    let mut statement =
        conn.prepare("SELECT directioncode, statuscode, count(*) FROM email GROUP BY 1, 2")?;
    let mut rows = statement.query([])?;
    while let Some(r) = rows.next()? {
        let status = EmailStatus::from_code(r.get(1)?).unwrap_or(EmailStatus::Draft);
        let name =
            serde_json::to_value(status).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
        let side = if r.get(0)? { &mut statistics.outgoing } else { &mut statistics.incoming };
        *side.entry(name).or_default() += r.get::<_, i64>(2)?.unsigned_abs();
    }
    Ok(statistics)
}
