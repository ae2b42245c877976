//! What mail systems reported about e-mails that were sent (RFC 3464).

use email_router_model::{ActivityId, EmailAddress, Timestamp};
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::Serialize;

use super::error::DbResult;
use super::outgoing::{invalid, not_found};
use super::sql::{Id, Time};
use crate::{DeliveryAction, DeliveryReport, RecipientReport};

/// Most recipients, and most reports, that are kept for one e-mail. Whoever can guess a Message-ID can send reports about it.
const MAX_KEPT: usize = 1000;
/// The longest text of a report that is kept, in characters.
const MAX_TEXT: usize = 1000;

/// What became of one recipient, as far as it was reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecipientState {
    /// The last word about the recipient.
    #[serde(flatten)]
    pub last: RecipientReport,
    /// When that was reported.
    pub reported_on: Timestamp,
    /// Identity of the report.
    pub report: String,
}

/// Whether a report was taken in already.
pub(super) const KNOWN_REPORT: &str =
    "SELECT 1 FROM emaildeliveryreport WHERE activityid = ?1 AND report = ?2";

/// What is known of a recipient.
pub(super) const KNOWN_RECIPIENT: &str =
    "SELECT action, reportedon FROM emaildelivery WHERE activityid = ?1 AND addresskey = ?2";

/// Keeps the report; `true` when that changed what is known of a recipient.
pub(super) fn record(conn: &Connection, report: &DeliveryReport) -> DbResult<bool> {
    let id = Id::from(report.activity_id);
    let outgoing: Option<bool> = conn
        .prepare_cached("SELECT directioncode FROM email WHERE activityid = ?1")?
        .query_row([id], |r| r.get(0))
        .optional()?;
    match outgoing {
        None => return Err(not_found(report.activity_id)),
        Some(false) => return Err(invalid(report.activity_id, "was received; nothing is reported about it")),
        Some(true) => {}
    }
    let name = one_line(&report.report);
    if conn.prepare_cached(KNOWN_REPORT)?.exists(params![id, name])? {
        return Ok(false);
    }
    if count(conn, "SELECT count(*) FROM emaildeliveryreport WHERE activityid = ?1", id)? >= MAX_KEPT {
        tracing::warn!(email = %report.activity_id, "there are too many delivery reports about this e-mail; one was not kept");
        return Ok(false);
    }
    conn.prepare_cached(
        "INSERT INTO emaildeliveryreport (activityid, report, reportedon) VALUES (?1, ?2, ?3)",
    )?
    .execute(params![id, name, Time(report.at)])?;
    let mut room =
        MAX_KEPT.saturating_sub(count(conn, "SELECT count(*) FROM emaildelivery WHERE activityid = ?1", id)?);
    let mut changed = false;
    for recipient in &report.recipients {
        let key = recipient.address.key();
        let known: Option<(String, Timestamp)> = conn
            .prepare_cached(KNOWN_RECIPIENT)?
            .query_row(params![id, key], |r| Ok((r.get(0)?, r.get::<_, Time>(1)?.0)))
            .optional()?;
        match &known {
            Some((action, at)) if !replaces(recipient.action, report.at, action, *at) => continue,
            Some(_) => {}
            None if room == 0 => continue,
            None => room -= 1,
        }
        conn.prepare_cached(
            "INSERT OR REPLACE INTO emaildelivery
               (activityid, addresskey, address, action, status, diagnostic, reportedon, report)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            id,
            key,
            recipient.address.as_str(),
            recipient.action.as_str(),
            recipient.status.as_deref().map(one_line),
            recipient.diagnostic.as_deref().map(one_line),
            Time(report.at),
            name
        ])?;
        changed = true;
    }
    Ok(changed)
}

/// An older report never replaces a newer one, *delayed* never an end.
fn replaces(new: DeliveryAction, at: Timestamp, known: &str, known_at: Timestamp) -> bool {
    let ended = DeliveryAction::parse(known).is_some_and(|known| known != DeliveryAction::Delayed);
    at >= known_at && !(new == DeliveryAction::Delayed && ended)
}

/// What is known of the recipients of an e-mail, by address.
pub(super) fn states(conn: &Connection, id: ActivityId) -> DbResult<Vec<RecipientState>> {
    let mut statement = conn.prepare_cached(
        "SELECT address, action, status, diagnostic, reportedon, report FROM emaildelivery WHERE activityid = ?1
         ORDER BY addresskey",
    )?;
    let mut rows = statement.query([Id::from(id)])?;
    let mut states = Vec::new();
    while let Some(row) = rows.next()? {
        let (address, action): (String, String) = (row.get(0)?, row.get(1)?);
        // what somebody else wrote into the file and is no state is passed over
        let (Ok(address), Some(action)) = (EmailAddress::parse(&address), DeliveryAction::parse(&action))
        else {
            continue;
        };
        states.push(RecipientState {
            last: RecipientReport { address, action, status: row.get(2)?, diagnostic: row.get(3)? },
            reported_on: row.get::<_, Time>(4)?.0,
            report: row.get(5)?,
        });
    }
    Ok(states)
}

fn count(conn: &Connection, sql: &str, id: Id) -> DbResult<usize> {
    let rows: i64 = conn.prepare_cached(sql)?.query_row([id], |r| r.get(0))?;
    Ok(usize::try_from(rows).unwrap_or(usize::MAX))
}

fn one_line(text: &str) -> String {
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_TEXT).collect()
}
