//! E-mail that leaves: listing, claiming, giving an identity, finishing.

use std::time::Duration;

use bytes::Bytes;
use email_router_model::{ActivityId, EmailAddress, MessageId, RecordRef, Timestamp};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::error::DbResult;
use super::settings;
use super::sql::{Id, Time, activity, message_id, ref_id, ref_table};
use super::{hashes, lookup};
use crate::token::{TokenFormat, append_token, ends_with_token};
use crate::{
    Approval, Attachment, Claim, DeliveryMethod, EmailStatus, Error, ErrorKind, OrganizationSettings,
    OutgoingEmail, ParticipationType, Party, PendingEmail, PendingQuery, Priority, SendOutcome,
};

/// Pending Send whose time has come; with `?1` sender, `?2` now, `?3` limit. Text that the tests show to SQLite's planner.
pub(super) const PENDING: &str = "SELECT activityid, versionnumber, deliveryattempts, deliveryprioritycode, modifiedon FROM email \
     WHERE statuscode = 6 AND emailsender = ?1 AND (delayedemailsendtime IS NULL OR delayedemailsendtime <= ?2) \
     AND (postponeemailprocessinguntil IS NULL OR postponeemailprocessinguntil <= ?2) \
     ORDER BY deliveryprioritycode DESC, modifiedon LIMIT ?3";
/// Left behind in Sending since before `?2`.
pub(super) const STALE: &str = "SELECT activityid, versionnumber, deliveryattempts, deliveryprioritycode, modifiedon FROM email \
     WHERE statuscode = 7 AND indoubt = 0 AND emailsender = ?1 AND modifiedon < ?2 ORDER BY modifiedon LIMIT ?3";

/// Takes an e-mail for sending.
pub(super) const CLAIM: &str = "UPDATE email SET statuscode = 7, statecode = 1, deliveryattempts = deliveryattempts + 1, versionnumber = versionnumber + 1,
               postponeemailprocessinguntil = NULL, modifiedon = ?3
             WHERE activityid = ?1 AND versionnumber = ?2 AND indoubt = 0 AND statuscode IN (6, 7)
             RETURNING deliveryattempts";

/// What the message is written from.
pub(super) const OUTGOING: &str = "SELECT e.directioncode, e.messageid, e.subject, e.description, e.mimetype, e.parentactivityid, p.messageid,
                p.emailreferences, e.trackingtoken, e.prioritycode, e.deliveryreceiptrequested, e.readreceiptrequested,
                e.deliveryattempts, e.createdon,
                (SELECT coalesce(sum(length(body)), 0) FROM activitymimeattachment WHERE objectid = e.activityid)
         FROM email e LEFT JOIN email p ON p.activityid = e.parentactivityid WHERE e.activityid = ?1";

/// Whether an e-mail has this token.
pub(super) const TOKEN_IN_USE: &str = "SELECT 1 FROM email WHERE trackingtokenkey = ?1 LIMIT 1";

/// Once around the counter of Dynamics' default width, 999.
const MAX_TOKENS_TRIED: u32 = 999;

/// Attachments of an e-mail.
pub(super) const ATTACHMENTS: &str =
    "SELECT filename, mimetype, attachmentcontentid, body FROM activitymimeattachment WHERE objectid = ?1
         ORDER BY attachmentnumber";

pub(super) fn pending(conn: &Connection, query: &PendingQuery) -> DbResult<Vec<PendingEmail>> {
    let settings = settings::read(conn)?;
    let most = i64::try_from(query.per_sender).unwrap_or(i64::MAX);
    let stale_before = query.now.checked_sub(jiff_duration(query.stale_after)).unwrap_or(Timestamp::MIN);
    let mut all = Vec::new();
    for (n, sender) in query.senders.iter().enumerate() {
        if query.senders[..n].contains(sender) || why_not(conn, &settings, sender)?.is_some() {
            continue;
        }
        let mut of_sender = Vec::new();
        for (sql, when, stale) in [(PENDING, query.now, false), (STALE, stale_before, true)] {
            let mut statement = conn.prepare_cached(sql)?;
            let rows = statement.query_map(params![Id(sender.id), Time(when), most], |r| {
                Ok(PendingEmail {
                    activity_id: activity(r.get(0)?),
                    sender: sender.clone(),
                    version: r.get::<_, i64>(1)?.unsigned_abs(),
                    delivery_attempts: r.get(2)?,
                    priority: Priority::from_code(r.get(3)?),
                    stale,
                    modified_on: r.get::<_, Time>(4)?.0,
                })
            })?;
            for row in rows {
                of_sender.push(row?);
            }
        }
        of_sender.sort_by_key(|e: &PendingEmail| (std::cmp::Reverse(e.priority.code()), e.modified_on));
        of_sender.truncate(query.per_sender);
        all.append(&mut of_sender);
    }
    Ok(all)
}

/// Why this user or queue may not send through the router; `None` when it may. Rules: `crm-contract.md` 6.1.
pub(super) fn why_not(
    conn: &Connection,
    settings: &OrganizationSettings,
    sender: &RecordRef,
) -> DbResult<Option<String>> {
    let (sql, needs_approval) = match sender.table.as_str() {
        "systemuser" => (
            "SELECT outgoingemaildeliverymethod, emailrouteraccessapproval, isdisabled FROM systemuser WHERE systemuserid = ?1",
            settings.require_approval_for_user_email,
        ),
        "queue" => (
            "SELECT outgoingemaildeliverymethod, emailrouteraccessapproval, statecode <> 0 FROM queue WHERE queueid = ?1",
            settings.require_approval_for_queue_email,
        ),
        other => return Ok(Some(format!("a record of {other} cannot send, only a user or a queue"))),
    };
    let found: Option<(u8, u8, bool)> = conn
        .prepare_cached(sql)?
        .query_row([Id(sender.id)], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))
        .optional()?;
    Ok(match found {
        None => Some(format!("{sender} does not exist")),
        Some((_, _, true)) => Some(format!("{sender} is disabled")),
        Some((method, _, _)) if DeliveryMethod::from_code(method) != Some(DeliveryMethod::EmailRouter) => {
            Some(format!("outgoingemaildeliverymethod of {sender} is not the router (2)"))
        }
        Some((_, approval, _))
            if needs_approval && Approval::from_code(approval) != Some(Approval::Approved) =>
        {
            Some(format!("the address of {sender} is not approved (emailrouteraccessapproval)"))
        }
        Some(_) => None,
    })
}

pub(super) fn claim(conn: &Connection, email: &PendingEmail, now: Timestamp) -> DbResult<Claim> {
    let taken: Option<u32> = conn
        .prepare_cached(CLAIM)?
        .query_row(
            params![Id::from(email.activity_id), i64::try_from(email.version).unwrap_or(i64::MAX), Time(now)],
            |r| r.get(0),
        )
        .optional()?;
    Ok(taken.map_or(Claim::Lost, |attempt| Claim::Taken { attempt }))
}

/// Everything needed to write the message.
pub(super) fn outgoing(conn: &Connection, id: ActivityId) -> DbResult<OutgoingEmail> {
    let mut parties = lookup::parties(conn, id)?;
    let mut statement = conn.prepare_cached(OUTGOING)?;
    let found = statement
        .query_row([Id::from(id)], |r| {
            let outgoing: bool = r.get(0)?;
            let references: Option<String> = r.get(7)?;
            Ok(outgoing.then_some(OutgoingEmail {
                activity_id: id,
                message_id: message_id(r, 1)?,
                subject: r.get(2)?,
                body: r.get(3)?,
                body_mime_type: r.get(4)?,
                parties: Vec::new(),
                parent_activity: r.get::<_, Option<Id>>(5)?.map(activity),
                parent_message_id: message_id(r, 6)?,
                parent_references: references
                    .iter()
                    .flat_map(|t| t.lines())
                    .filter_map(MessageId::parse)
                    .collect(),
                tracking_token: r.get(8)?,
                priority: Priority::from_code(r.get(9)?),
                delivery_receipt_requested: r.get(10)?,
                read_receipt_requested: r.get(11)?,
                delivery_attempts: r.get(12)?,
                created_on: r.get::<_, Time>(13)?.0,
                // of a blob SQLite knows the length without reading it
                attachment_bytes: r.get::<_, i64>(14)?.unsigned_abs(),
            }))
        })
        .optional()?;
    let mut email = match found {
        None => return Err(not_found(id)),
        Some(None) => return Err(invalid(id, "was received, it cannot be sent")),
        Some(Some(email)) => email,
    };
    let unresolved_allowed = settings::read(conn)?.allow_unresolved_parties_on_email_send;
    for party in &mut parties {
        complete(conn, id, party, unresolved_allowed)?;
    }
    if !parties.iter().any(|p| p.participation == ParticipationType::Sender) {
        return Err(invalid(id, "has no sender"));
    }
    if !parties.iter().any(|p| p.participation != ParticipationType::Sender) {
        return Err(invalid(id, "has no recipient"));
    }
    email.parties = parties;
    Ok(email)
}

/// Fills in the address of a party, or says why it cannot be written to (`crm-contract.md` 6.1).
fn complete(conn: &Connection, id: ActivityId, party: &mut Party, unresolved_allowed: bool) -> DbResult<()> {
    match (&party.record, &party.address) {
        (None, Some(address)) if !unresolved_allowed => {
            return Err(invalid(
                id,
                &format!(
                    "goes to {address}, which no record has, and AllowUnresolvedPartiesOnEmailSend is off"
                ),
            ));
        }
        (None, None) => return Err(invalid(id, "has a party without a record and an address")),
        (Some(record), None) => {
            party.address = lookup::primary_address(conn, record)?;
            if party.address.is_none() {
                return Err(invalid(id, &format!("has the party {record}, which has no e-mail address")));
            }
        }
        (_, Some(_)) => {}
    }
    if let (Some(record), None) = (&party.record, &party.name) {
        party.name = lookup::resolution(conn, record.clone())?.map(|r| r.name);
    }
    Ok(())
}

pub(super) fn attachments(conn: &Connection, id: ActivityId) -> DbResult<Vec<Attachment>> {
    let mut statement = conn.prepare_cached(ATTACHMENTS)?;
    let rows = statement.query_map([Id::from(id)], |r| {
        Ok(Attachment {
            file_name: r.get(0)?,
            mime_type: r.get(1)?,
            content_id: r.get(2)?,
            content: Bytes::from(r.get::<_, Vec<u8>>(3)?),
        })
    })?;
    let all: Vec<_> = rows.collect::<Result<_, _>>()?;
    if all.is_empty() && !lookup_exists(conn, id)? {
        return Err(not_found(id));
    }
    Ok(all)
}

fn lookup_exists(conn: &Connection, id: ActivityId) -> DbResult<bool> {
    let mut statement = conn.prepare_cached("SELECT 1 FROM email WHERE activityid = ?1")?;
    Ok(statement.query_row([Id::from(id)], |_| Ok(())).optional()?.is_some())
}

/// Message-ID, token and subject, and the hashes by which answers are found. The version stays: an e-mail that was listed before can
/// still be claimed.
pub(super) fn prepare(
    conn: &Connection,
    id: ActivityId,
    message_id: &MessageId,
    with_token: bool,
) -> DbResult<OutgoingEmail> {
    let email = outgoing(conn, id)?;
    let settings = settings::read(conn)?;
    if email.message_id.is_none() {
        conn.prepare_cached("UPDATE email SET messageid = ?2 WHERE activityid = ?1")?
            .execute(params![Id::from(id), message_id.as_str()])?;
    }
    if with_token && email.tracking_token.is_none() {
        let token = match token_of_thread(conn, &email)? {
            Some(token) => token,
            None => next_token(conn, &settings, &email)?,
        };
        let limit = settings.maximum_subject_length_on_mail_server as usize;
        let subject = append_token(&email.subject, &token, limit);
        conn.prepare_cached(
            "UPDATE email SET trackingtoken = ?2, trackingtokenkey = ?3, subject = ?4 WHERE activityid = ?1",
        )?
        .execute(params![Id::from(id), token, token.to_lowercase(), subject])?;
    }
    let email = outgoing(conn, id)?;
    hashes::replace(conn, &settings, (id, email.created_on), &email.subject, &email.parties)?;
    Ok(email)
}

/// The token that an answer inherits: its subject ends with the token of the e-mail it answers. So a long conversation keeps one
/// token and its subject does not grow with every answer.
fn token_of_thread(conn: &Connection, email: &OutgoingEmail) -> DbResult<Option<String>> {
    let Some(parent) = email.parent_activity else { return Ok(None) };
    let token: Option<Option<String>> = conn
        .prepare_cached("SELECT trackingtoken FROM email WHERE activityid = ?1")?
        .query_row([Id::from(parent)], |r| r.get(0))
        .optional()?;
    Ok(token.flatten().filter(|t| ends_with_token(&email.subject, t)))
}

/// Takes the next token from the counter of the sender.
fn next_token(conn: &Connection, settings: &OrganizationSettings, email: &OutgoingEmail) -> DbResult<String> {
    let sender = email
        .parties
        .iter()
        .find(|p| p.participation == ParticipationType::Sender)
        .and_then(|p| p.record.as_ref())
        .ok_or_else(|| invalid_error(email.activity_id, "has a sender that is neither a user nor a queue"))?;
    let (table, key) = match sender.table.as_str() {
        "systemuser" => ("usersettings", "systemuserid"),
        "queue" => ("queue", "queueid"),
        _ => return Err(invalid(email.activity_id, "has a sender that is neither a user nor a queue")),
    };
    if table == "usersettings" {
        conn.prepare_cached("INSERT OR IGNORE INTO usersettings (systemuserid) SELECT systemuserid FROM systemuser WHERE systemuserid = ?1")?
            .execute([Id(sender.id)])?;
    }
    // numbers are unique over users and queues, so that a token names one sender
    conn.prepare_cached(&format!(
        "UPDATE {table} SET trackingtokenid = 1 + max(coalesce((SELECT max(trackingtokenid) FROM usersettings), 0),
           coalesce((SELECT max(trackingtokenid) FROM queue), 0)) WHERE {key} = ?1 AND trackingtokenid IS NULL"
    ))?
    .execute([Id(sender.id)])?;
    let row: Option<(u32, u32)> = conn
        .prepare_cached(&format!("SELECT trackingtokenid, nexttrackingnumber FROM {table} WHERE {key} = ?1"))?
        .query_row([Id(sender.id)], |r| Ok((r.get(0)?, r.get(1)?)))
        .optional()?;
    let (user, counter) =
        row.ok_or_else(|| invalid_error(email.activity_id, "has a sender that does not exist"))?;
    let format = TokenFormat::new(settings);
    // a maximum that was lowered starts the counter over
    let counter = if counter > format.maximum { 0 } else { counter };
    let counter = unused(conn, &format, user, counter)?;
    conn.prepare_cached(&format!("UPDATE {table} SET nexttrackingnumber = ?2 WHERE {key} = ?1"))?
        .execute(params![Id(sender.id), format.after(counter)])?;
    Ok(format.make(user, counter))
}

/// The first counter from this one on whose token no e-mail has: imported e-mails brought tokens of their own. When the counter went
/// around and all tokens are in use they are used again, as Dynamics does; of a very wide counter only so many are looked at.
fn unused(conn: &Connection, format: &TokenFormat, user: u32, first: u32) -> DbResult<u32> {
    let mut in_use = conn.prepare_cached(TOKEN_IN_USE)?;
    let mut counter = first;
    for _ in 0..=format.maximum.min(MAX_TOKENS_TRIED) {
        if !in_use.exists([format.make(user, counter).to_lowercase()])? {
            return Ok(counter);
        }
        counter = format.after(counter);
    }
    Ok(first)
}

/// What became of a claimed e-mail.
///
/// Only an e-mail in Sending can go back or be given up: a late word about an attempt that a person or another router has
/// settled since changes nothing. That it was sent is a fact and is kept in every state but Sent itself.
pub(super) fn finish(
    conn: &Connection,
    id: ActivityId,
    outcome: &SendOutcome,
    now: Timestamp,
) -> DbResult<()> {
    let key = Id::from(id);
    let found: Option<(bool, u8)> = conn
        .prepare_cached("SELECT directioncode, statuscode FROM email WHERE activityid = ?1")?
        .query_row([key], |r| Ok((r.get(0)?, r.get(1)?)))
        .optional()?;
    let status = match found {
        // a person deleted it meanwhile: there is nothing to keep the outcome in
        None if lookup::exists(conn, id)? => return Ok(()),
        None => return Err(not_found(id)),
        Some((false, _)) => return Err(invalid(id, "was received, it cannot be sent")),
        Some((true, status)) => EmailStatus::from_code(status),
    };
    let sending = status == Some(EmailStatus::Sending);
    let (to, sent_on, not_before, report, in_doubt) = match outcome {
        SendOutcome::Sent { at, refused } => {
            if status == Some(EmailStatus::Sent) {
                return Ok(());
            }
            (EmailStatus::Sent, Some(Time(*at)), None, super::sql::lines(refused), false)
        }
        _ if !sending => return Ok(()),
        SendOutcome::Retry { not_before, reason } => {
            (EmailStatus::PendingSend, None, Some(Time(*not_before)), Some(reason.clone()), false)
        }
        SendOutcome::Failed { reason } => (EmailStatus::Failed, None, None, Some(reason.clone()), false),
        SendOutcome::InDoubt { reason } => {
            let noted: bool = conn
                .prepare_cached("SELECT indoubt FROM email WHERE activityid = ?1")?
                .query_row([key], |r| r.get(0))?;
            if noted {
                return Ok(());
            }
            (EmailStatus::Sending, None, None, Some(reason.clone()), true)
        }
    };
    conn.prepare_cached(
        "UPDATE email SET statuscode = ?2, statecode = ?3, senton = coalesce(?4, senton), actualend = coalesce(?4, actualend),
           postponeemailprocessinguntil = ?5, deliveryreport = ?6, indoubt = ?7, modifiedon = ?8, versionnumber = versionnumber + 1
         WHERE activityid = ?1",
    )?
    .execute(params![
        key,
        to.code(),
        to.state_code(),
        sent_on,
        not_before,
        report,
        in_doubt,
        Time(now)
    ])?;
    Ok(())
}

/// A new outgoing e-mail in Pending Send; parties are complete.
pub(super) struct Draft<'a> {
    pub(super) id: ActivityId,
    pub(super) subject: &'a str,
    pub(super) body: &'a str,
    pub(super) mime_type: &'a str,
    pub(super) parties: &'a [Party],
    pub(super) sender: &'a RecordRef,
    pub(super) sender_address: Option<&'a EmailAddress>,
    pub(super) owner: Option<&'a RecordRef>,
    pub(super) regarding: Option<&'a RecordRef>,
    pub(super) parent: Option<ActivityId>,
    pub(super) delay_until: Option<Timestamp>,
    pub(super) priority: Priority,
    pub(super) delivery_receipt: bool,
    pub(super) read_receipt: bool,
    pub(super) attachments: &'a [Attachment],
}

pub(super) fn insert(conn: &Connection, d: &Draft<'_>, now: Timestamp) -> DbResult<()> {
    let status = EmailStatus::PendingSend;
    conn.prepare_cached(
        "INSERT INTO email (activityid, directioncode, statecode, statuscode, createdon, modifiedon, delayedemailsendtime,
           prioritycode, deliveryprioritycode, deliveryreceiptrequested, readreceiptrequested, attachmentcount,
           correlatedactivityid, parentactivityid, regardingobjectid, regardingobjecttypecode, ownerid, owneridtype,
           emailsender, emailsenderobjecttypecode, sender, mimetype, subject, torecipients, description)
         VALUES (?1, 1, ?2, ?3, ?4, ?4, ?5, ?6, ?6, ?7, ?8, ?9, ?10, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)",
    )?
    .execute(params![
        Id::from(d.id),
        status.state_code(),
        status.code(),
        Time(now),
        d.delay_until.map(Time),
        d.priority.code(),
        d.delivery_receipt,
        d.read_receipt,
        i64::try_from(d.attachments.len()).unwrap_or(i64::MAX),
        d.parent.map(Id::from),
        ref_id(d.regarding),
        ref_table(d.regarding),
        ref_id(d.owner),
        ref_table(d.owner),
        Id(d.sender.id),
        d.sender.table,
        d.sender_address.map(|a| a.as_str()),
        d.mime_type,
        d.subject,
        super::incoming::to_recipients(d.parties),
        d.body,
    ])?;
    super::incoming::insert_parties(conn, d.id, d.parties)?;
    super::incoming::insert_attachments(conn, d.id, d.attachments)
}

pub(super) fn not_found(id: ActivityId) -> super::error::DbError {
    Error::new(ErrorKind::NotFound, format!("there is no e-mail {id}")).into()
}

pub(super) fn invalid(id: ActivityId, what: &str) -> super::error::DbError {
    invalid_error(id, what).into()
}

fn invalid_error(id: ActivityId, what: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("the e-mail {id} {what}"))
}

/// A duration as the time library has it; one too long for it is "for ever".
fn jiff_duration(duration: Duration) -> Duration {
    // half of what a timestamp can hold; Duration::MAX would overflow the subtraction
    duration.min(Duration::from_secs(100_000_000_000))
}
