//! Writing a received message.

use email_router_model::{ActivityId, Timestamp};
use rusqlite::types::ToSqlOutput;
use rusqlite::{Connection, MAIN_DB, OptionalExtension as _, params};
use uuid::Uuid;

use super::error::DbResult;
use super::settings;
use super::sql::{Id, Time, lines, ref_id, ref_table};
use super::{hashes, lookup, unresolved};
use crate::{
    Attachment, Delivered, EmailStatus, Error, ErrorKind, IncomingEmail, ParticipationType, Party,
    SmartHashes,
};

/// An attachment of this size and more is written through SQLite's incremental interface. SQLite copies a value that is bound, and copies it
/// again when it puts the row together; this interface copies into the pages of the file alone. Below, it costs more than those copies
/// (`benches/README.md`).
pub(super) const LARGE: usize = 32 << 10;

/// Adds a queue item where there never was one.
pub(super) const ADD_QUEUE_ITEM: &str =
    "INSERT INTO queueitem (queueitemid, objectid, queueid, enteredon, title)
             SELECT ?1, ?2, ?3, ?4, ?5
             WHERE NOT EXISTS (SELECT 1 FROM queueitem WHERE objectid = ?2 AND queueid = ?3)";

/// Creates the e-mail with all that belongs to it, or finds that it is (or was) there. `queue_item_ids` are fresh ids, one for
/// each queue of the e-mail.
///
/// The second answer: whether parties of other e-mails have the address of the record that was created for the sender, and are still to be
/// resolved.
pub(super) fn deliver(
    conn: &Connection,
    mut email: IncomingEmail,
    queue_item_ids: &[Uuid],
    now: Timestamp,
) -> DbResult<(Delivered, bool)> {
    if lookup::exists(conn, email.activity_id)? {
        // a row, not a tombstone: what a person deleted gets nothing new
        if !email.queues.is_empty()
            && row_exists(conn, email.activity_id)?
            && settings::read(conn)?.create_additional_queue_items_for_already_tracked_email
        {
            queue_items(conn, &email, queue_item_ids, now)?;
        }
        return Ok((Delivered::AlreadyThere, false));
    }
    check(&email)?;
    let texts = (std::mem::take(&mut email.body), email.text_body.take());
    insert(conn, &email, texts, now)?;
    insert_parties(conn, email.activity_id, &email.parties)?;
    insert_attachments(conn, email.activity_id, &email.attachments)?;
    let none = SmartHashes::default();
    let smart = if settings::is_on(conn, settings::NO_HASHES)? { &none } else { &email.smart };
    hashes::insert(conn, email.activity_id, now, email.conversation_id.as_deref(), smart)?;
    queue_items(conn, &email, queue_item_ids, now)?;
    let others = match &email.new_sender {
        Some(new) => unresolved::create(conn, new, now)? && settings::is_on(conn, settings::RESOLVE_SIMILAR)?,
        None => false,
    };
    Ok((Delivered::Created, others))
}

fn check(email: &IncomingEmail) -> Result<(), Error> {
    let senders = email.parties.iter().filter(|p| p.participation == ParticipationType::Sender).count();
    if senders != 1 {
        // "Exactly one Sender", crm-contract.md 5.2
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("the e-mail {} has {senders} senders; it must have one", email.activity_id),
        ));
    }
    Ok(())
}

fn row_exists(conn: &Connection, id: ActivityId) -> DbResult<bool> {
    Ok(conn
        .prepare_cached("SELECT 1 FROM email WHERE activityid = ?1")?
        .query_row([Id::from(id)], |_| Ok(()))
        .optional()?
        .is_some())
}

/// `texts`: the body, and the plain text beside it.
fn insert(
    conn: &Connection,
    e: &IncomingEmail,
    texts: (String, Option<String>),
    now: Timestamp,
) -> DbResult<()> {
    let sender = e.parties.iter().find(|p| p.participation == ParticipationType::Sender);
    let status = EmailStatus::Received;
    let mut statement = conn.prepare_cached(
        "INSERT INTO email (activityid, directioncode, statecode, statuscode, createdon, modifiedon, senton, actualend,
           prioritycode, notifications, attachmentcount, correlationmethod, isduplicatesenderunresolved, correlatedactivityid,
           parentactivityid, regardingobjectid, regardingobjecttypecode, ownerid, owneridtype, emailsender,
           emailsenderobjecttypecode, acceptingentityid, acceptingentitytypecode, receivingmailboxid, receivingmailboxtypecode,
           messageid, trackingtoken, trackingtokenkey, sender, submittedby, inreplyto, conversationindex, mimetype, subject,
           torecipients, emailreferences, removedparts, category, subcategory, description, textbody)
         VALUES (?1, 0, ?2, ?3, ?4, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23,
           ?24, ?25, ?26, ?27, ?28, ?29, ?30, ?31, ?32, ?33, ?34, ?35, ?36, ?37, ?38, ?39)",
    )?;
    let values = params![
        Id::from(e.activity_id),
        status.state_code(),
        status.code(),
        Time(now),
        e.sent_on.map(Time),
        e.received_on.map(Time),
        e.priority.code(),
        u8::from(!e.removed_parts.is_empty()),
        i64::try_from(e.attachments.len()).unwrap_or(i64::MAX),
        e.correlation_method.code(),
        e.is_duplicate_sender_unresolved,
        e.correlated_activity.map(Id::from),
        e.parent_activity.map(Id::from),
        ref_id(e.regarding.as_ref()),
        ref_table(e.regarding.as_ref()),
        ref_id(e.owner.as_ref()),
        ref_table(e.owner.as_ref()),
        ref_id(sender.and_then(|p| p.record.as_ref())),
        ref_table(sender.and_then(|p| p.record.as_ref())),
        ref_id(e.accepting.as_ref()),
        ref_table(e.accepting.as_ref()),
        ref_id(e.receiving.as_ref()),
        ref_table(e.receiving.as_ref()),
        e.message_id.as_ref().map(|m| m.as_str()),
        e.tracking_token,
        e.tracking_token.as_ref().map(|t| t.to_lowercase()),
        sender.and_then(|p| p.address.as_ref()).map(|a| a.as_str()),
        e.submitted_by.as_ref().map(|a| a.as_str()),
        e.in_reply_to.as_ref().map(|m| m.as_str()),
        e.conversation_index,
        e.body_mime_type,
        e.subject,
        to_recipients(&e.parties),
        lines(&e.references),
        lines(&e.removed_parts),
        e.category,
        e.subcategory,
    ];
    for (n, value) in values.iter().enumerate() {
        statement.raw_bind_parameter(n + 1, value)?;
    }
    // SQLite copies what is bound, and all of it again when it puts the row together. Between the two ours is let go (these calls keep
    // what they are given), so that a large body is there twice and not three times.
    statement.raw_bind_parameter(values.len() + 1, texts.0)?;
    statement.raw_bind_parameter(values.len() + 2, texts.1)?;
    statement.raw_execute()?;
    Ok(())
}

/// `torecipients`: the addresses in To, each ended by `;`.
pub(super) fn to_recipients(parties: &[Party]) -> String {
    let to = parties.iter().filter(|p| p.participation == ParticipationType::To);
    to.filter_map(|p| p.address.as_ref()).map(|a| format!("{a};")).collect()
}

pub(super) fn insert_parties(conn: &Connection, id: ActivityId, parties: &[Party]) -> DbResult<()> {
    let mut statement = conn.prepare_cached(
        "INSERT INTO activityparty (activityid, ordinal, participationtypemask, partyid, partyobjecttypecode, addressused,
           partyidname, unresolvedpartyname) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    for (ordinal, p) in parties.iter().enumerate() {
        let (resolved, unresolved) =
            if p.record.is_some() { (p.name.as_deref(), None) } else { (None, p.name.as_deref()) };
        statement.execute(params![
            Id::from(id),
            i64::try_from(ordinal).unwrap_or(i64::MAX),
            p.participation.code(),
            ref_id(p.record.as_ref()),
            ref_table(p.record.as_ref()),
            p.address.as_ref().map(|a| a.as_str()),
            resolved,
            unresolved,
        ])?;
    }
    Ok(())
}

pub(super) fn insert_attachments(
    conn: &Connection,
    id: ActivityId,
    attachments: &[Attachment],
) -> DbResult<()> {
    let mut statement = conn.prepare_cached(
        "INSERT INTO activitymimeattachment (objectid, attachmentnumber, filename, mimetype, attachmentcontentid, filesize, body)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    for (number, a) in attachments.iter().enumerate() {
        let large = a.content.len() >= LARGE;
        let body = match large {
            // so many zeros, which take no memory
            true => ToSqlOutput::ZeroBlob(a.content.len() as u64),
            false => ToSqlOutput::from(&a.content[..]),
        };
        statement.execute(params![
            Id::from(id),
            i64::try_from(number + 1).unwrap_or(i64::MAX),
            a.file_name,
            a.mime_type,
            a.content_id,
            i64::try_from(a.content.len()).unwrap_or(i64::MAX),
            body,
        ])?;
        if large {
            let row = conn.last_insert_rowid();
            let mut blob = conn.blob_open(MAIN_DB, c"activitymimeattachment", c"body", row, false)?;
            blob.write_all_at(&a.content, 0)?;
            blob.close()?;
        }
    }
    Ok(())
}

/// A queue item for each queue of the e-mail that never had one for it: also one that a person worked on and closed stays
/// closed.
fn queue_items(conn: &Connection, email: &IncomingEmail, ids: &[Uuid], now: Timestamp) -> DbResult<()> {
    for (queue, id) in email.queues.iter().zip(ids) {
        let there = conn
            .prepare_cached("SELECT 1 FROM queue WHERE queueid = ?1")?
            .query_row([Id(*queue)], |_| Ok(()))
            .optional()?;
        if there.is_none() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("the e-mail {} goes to queue {queue}, which does not exist", email.activity_id),
            )
            .into());
        }
        conn.prepare_cached(ADD_QUEUE_ITEM)?.execute(params![
            Id(*id),
            Id::from(email.activity_id),
            Id(*queue),
            Time(now),
            email.subject
        ])?;
    }
    Ok(())
}

/// Writes the e-mail into a file of the first version, as the program of that time did.
#[cfg(test)]
pub(super) fn insert_for_test(conn: &Connection, email: &IncomingEmail) {
    conn.execute(
        "INSERT INTO email (activityid, directioncode, statecode, statuscode, createdon, modifiedon, conversationindex, mimetype,
           subject, description) VALUES (?1, 0, 1, 4, ?2, ?2, ?3, 'text/plain', ?4, ?5)",
        params![
            Id::from(email.activity_id),
            email.received_on.map_or(0, Timestamp::as_millisecond),
            email.conversation_index,
            email.subject,
            email.body
        ],
    )
    .unwrap();
    insert_parties(conn, email.activity_id, &email.parties).unwrap();
}
