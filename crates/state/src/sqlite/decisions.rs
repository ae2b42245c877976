//! The decisions about incoming messages, for `why` and `replay`. Keys (Message-IDs, activities) lie in a table of their own, since a
//! forwarded message has several; the header section lies behind the others, so that a list never reads it.

use bytes::Bytes;
use email_router_engine::DecisionRecord;
use email_router_engine::ports::{DecisionNote, DecisionQuery};
use email_router_model::Timestamp;
use rusqlite::{Connection, Row, params};

use super::error::Problem;
use super::values::{from_json, micros, to_json};

/// Kinds of keys.
const MESSAGE_ID: i64 = 0;
const ACTIVITY: i64 = 1;

pub(super) fn put(c: &Connection, notes: &[DecisionNote]) -> Result<(), Problem> {
    let mut insert = c.prepare_cached("INSERT INTO decision (at, note, header) VALUES (?1, ?2, ?3)")?;
    let mut key =
        c.prepare_cached("INSERT OR IGNORE INTO decision_key (kind, key, decision) VALUES (?1, ?2, ?3)")?;
    for note in notes {
        let text = to_json(note).map_err(Problem::Refused)?;
        let id = insert.insert(params![micros(note.at), text, note.header.as_deref()])?;
        let mut open: Vec<&DecisionRecord> = vec![&note.record];
        while let Some(record) = open.pop() {
            if let Some(message_id) = &record.message_id {
                key.execute(params![MESSAGE_ID, message_id.as_str(), id])?;
            }
            if let Some(activity) = &record.activity_id {
                key.execute(params![ACTIVITY, activity.to_string(), id])?;
            }
            open.extend(&record.attached);
        }
    }
    Ok(())
}

pub(super) fn find(
    c: &Connection,
    query: &DecisionQuery,
    limit: usize,
) -> Result<Vec<DecisionNote>, Problem> {
    const BY_KEY: &str = "SELECT d.note, d.header FROM decision_key k JOIN decision d ON d.id = k.decision
         WHERE k.kind = ?1 AND k.key = ?2 ORDER BY d.at DESC, d.id DESC LIMIT ?3";
    const BY_TIME: &str =
        "SELECT note, header FROM decision WHERE at >= ?1 AND at < ?2 ORDER BY at DESC, id DESC LIMIT ?3";
    let most = i64::try_from(limit).unwrap_or(i64::MAX);
    let read = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, Option<Vec<u8>>>(1)?));
    let rows: Vec<(String, Option<Vec<u8>>)> = match query {
        DecisionQuery::MessageId(id) => {
            let mut statement = c.prepare_cached(BY_KEY)?;
            statement.query_map(params![MESSAGE_ID, id.as_str(), most], read)?.collect::<Result<_, _>>()?
        }
        DecisionQuery::Activity(id) => {
            let mut statement = c.prepare_cached(BY_KEY)?;
            statement.query_map(params![ACTIVITY, id.to_string(), most], read)?.collect::<Result<_, _>>()?
        }
        DecisionQuery::Between(from, to) => {
            let mut statement = c.prepare_cached(BY_TIME)?;
            statement.query_map(params![micros(*from), micros(*to), most], read)?.collect::<Result<_, _>>()?
        }
        _ => return Err(Problem::Content(format!("the state file cannot look for {query:?}"))),
    };
    rows.into_iter()
        .map(|(text, header)| Ok(DecisionNote { header: header.map(Bytes::from), ..from_json(&text)? }))
        .collect()
}

/// One batch of what is too old or too much, oldest first; 0 when there is no more.
pub(super) fn prune(c: &Connection, before: Timestamp, keep: u64) -> Result<u64, Problem> {
    // so many at once that others do not wait long for the writer
    const BATCH: i64 = 5_000;
    let kept: i64 = c.prepare_cached("SELECT count(*) FROM decision")?.query_row([], |row| row.get(0))?;
    let excess = kept.saturating_sub(i64::try_from(keep).unwrap_or(i64::MAX)).max(0);
    let old: i64 = c
        .prepare_cached("SELECT count(*) FROM decision WHERE at < ?1")?
        .query_row([micros(before)], |row| row.get(0))?;
    let batch = excess.max(old).min(BATCH);
    // the old ones and the excess are both the oldest, so that one order serves both
    const OLDEST: &str = "SELECT id FROM decision ORDER BY at, id LIMIT ?1";
    c.prepare_cached(&format!("DELETE FROM decision_key WHERE decision IN ({OLDEST})"))?.execute([batch])?;
    let gone = c.prepare_cached(&format!("DELETE FROM decision WHERE id IN ({OLDEST})"))?.execute([batch])?;
    Ok(gone as u64)
}
