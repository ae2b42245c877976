//! Outgoing e-mails from a CSV file: what another system sent before, so that answers find it, and what waits to be sent.

use email_router_model::{ActivityId, EmailAddress, MessageId, RecordRef, Timestamp};
use rusqlite::{Connection, params};
use serde::Deserialize;
use uuid::Uuid;

use super::super::error::{DbError, DbResult};
use super::super::sql::{Id, Time};
use super::super::{hashes, outgoing, settings};
use super::compose::{self, NewEmail, Recipient};
use super::import::ImportReport;
use crate::{EmailStatus, Error, ErrorKind, Priority};

/// One row. Names are Dataverse's, `from`, `to` and `cc` are addresses, several separated by `;`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    activityid: Uuid,
    #[serde(default = "outgoing")]
    directioncode: u8,
    statuscode: u8,
    from: String,
    to: String,
    #[serde(default)]
    cc: String,
    subject: String,
    #[serde(default)]
    mimetype: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    messageid: String,
    #[serde(default)]
    trackingtoken: String,
    #[serde(default)]
    regardingobjecttypecode: String,
    regardingobjectid: Option<Uuid>,
    #[serde(default)]
    createdon: String,
    #[serde(default)]
    senton: String,
    prioritycode: Option<u8>,
}

fn outgoing() -> u8 {
    1
}

/// Reads and writes the whole file in the transaction of `conn`; an e-mail whose id is there already stays as it is. The error names file,
/// line and column of the first mistake.
pub(super) fn import(
    conn: &Connection,
    (bytes, file): (&[u8], &str),
    dry_run: bool,
    now: Timestamp,
) -> DbResult<ImportReport> {
    let text = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let mut reader = csv::ReaderBuilder::new().from_reader(text);
    let mut report = ImportReport { dry_run, ..ImportReport::default() };
    let headers = reader.headers().map_err(|e| bad(file, 1, &e.to_string()))?.clone();
    let mut record = csv::StringRecord::new();
    while reader
        .read_record(&mut record)
        .map_err(|e| bad(file, e.position().map_or(0, csv::Position::line), &e.to_string()))?
    {
        let line = record.position().map_or(0, csv::Position::line);
        let row: Row = record.deserialize(Some(&headers)).map_err(|e| bad(file, line, &e.to_string()))?;
        let added = one(conn, &row, now).map_err(|e| match e {
            DbError::Crm(e) if matches!(e.kind(), ErrorKind::Invalid | ErrorKind::NotFound) => {
                bad(file, line, &e.to_string()).into()
            }
            other => other,
        })?;
        report.added += u64::from(added);
    }
    Ok(report)
}

fn bad(file: &str, line: u64, what: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("{file}, line {line}: {what}"))
        .with_hint("nothing was imported; correct the file and import it again")
}

fn wrong(column: &str, what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Invalid, format!("column {column}: {what}"))
}

/// `false` when the e-mail is there already.
fn one(conn: &Connection, row: &Row, now: Timestamp) -> DbResult<bool> {
    let id = ActivityId::from_uuid(row.activityid);
    let there = conn.prepare_cached("SELECT 1 FROM email WHERE activityid = ?1")?.exists([Id::from(id)])?;
    if there {
        return Ok(false);
    }
    if row.directioncode != 1 {
        return Err(wrong(
            "directioncode",
            "only outgoing e-mails (1); bring received mail in with `email-router import`",
        )
        .into());
    }
    let status = EmailStatus::from_code(row.statuscode)
        .filter(|s| matches!(s, EmailStatus::PendingSend | EmailStatus::Sent))
        .ok_or_else(|| {
            wrong("statuscode", format!("{} is neither 3 (Sent) nor 6 (Pending Send)", row.statuscode))
        })?;
    let mut new = NewEmail::new(
        one_address("from", &row.from)?,
        one_address("from", &row.from)?,
        &row.subject,
        &row.description,
    );
    new.to = addresses("to", &row.to)?;
    new.cc = addresses("cc", &row.cc)?;
    new.html = row.mimetype.eq_ignore_ascii_case("text/html");
    new.priority = row.prioritycode.map_or(Priority::Normal, Priority::from_code);
    new.regarding = match (row.regardingobjecttypecode.as_str(), row.regardingobjectid) {
        ("", None) => None,
        (table, Some(id)) if !table.is_empty() => Some(RecordRef::new(table, id)),
        _ => {
            return Err(
                wrong("regardingobjectid", "needs regardingobjecttypecode, and the other way round").into()
            );
        }
    };
    let created = time("createdon", &row.createdon)?.unwrap_or(now);
    compose::create(conn, id, &new, created)?;
    let message_id = MessageId::parse(&row.messageid);
    if !row.messageid.is_empty() && message_id.is_none() {
        return Err(wrong("messageid", format!("{:?} is no Message-ID", row.messageid)).into());
    }
    let sent = match status {
        EmailStatus::Sent => Some(time("senton", &row.senton)?.unwrap_or(created)),
        _ => None,
    };
    let token = Some(row.trackingtoken.as_str()).filter(|t| !t.is_empty());
    conn.prepare_cached(
        "UPDATE email SET messageid = ?2, trackingtoken = ?3, trackingtokenkey = ?4, statuscode = ?5, statecode = ?6, senton = ?7,
           actualend = ?7 WHERE activityid = ?1",
    )?
    .execute(params![
        Id::from(id),
        message_id.as_ref().map(MessageId::as_str),
        token,
        token.map(str::to_lowercase),
        status.code(),
        status.state_code(),
        sent.map(Time)
    ])?;
    if status == EmailStatus::Sent {
        // what waits gets its hashes when it is sent
        let email = outgoing::outgoing(conn, id)?;
        hashes::replace(conn, &settings::read(conn)?, (id, created), &email.subject, &email.parties)?;
    }
    Ok(true)
}

fn one_address(column: &str, text: &str) -> Result<Recipient, Error> {
    EmailAddress::parse(text).map(Recipient::from).map_err(|e| wrong(column, e))
}

fn addresses(column: &str, text: &str) -> Result<Vec<Recipient>, Error> {
    text.split(';').map(str::trim).filter(|t| !t.is_empty()).map(|t| one_address(column, t)).collect()
}

fn time(column: &str, text: &str) -> Result<Option<Timestamp>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|e| wrong(column, e))
}
