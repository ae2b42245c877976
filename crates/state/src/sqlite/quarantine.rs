//! The quarantine. The bytes of a message lie in a column of their own, behind the others, so that a list never reads them.

use bytes::Bytes;
use email_router_engine::ports::QuarantineItem;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::error::Problem;
use super::values::{from_json, to_json};

pub(super) fn put(c: &Connection, item: &QuarantineItem) -> Result<u64, Problem> {
    let text = to_json(item).map_err(Problem::Refused)?;
    let id: i64 = c
        .prepare_cached(
            "INSERT INTO quarantine (mailbox, remote_id, item, raw) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (mailbox, remote_id) DO UPDATE SET item = excluded.item, raw = excluded.raw RETURNING id",
        )?
        .query_row(params![item.mailbox.as_str(), item.remote_id.as_str(), text, item.raw.as_deref()], |row| {
            row.get(0)
        })?;
    Ok(id.unsigned_abs()) // AUTOINCREMENT starts at 1
}

pub(super) fn list(c: &Connection, after: u64, limit: usize) -> Result<Vec<QuarantineItem>, Problem> {
    let mut query = c.prepare_cached("SELECT id, item FROM quarantine WHERE id > ?1 ORDER BY id LIMIT ?2")?;
    let rows = query.query_map(params![bound(after), i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?))
    })?;
    rows.map(|row| {
        let (id, text) = row?;
        Ok(QuarantineItem { id: id.unsigned_abs(), ..from_json(&text)? })
    })
    .collect()
}

pub(super) fn get(c: &Connection, id: u64) -> Result<Option<QuarantineItem>, Problem> {
    let row: Option<(String, Option<Vec<u8>>)> = c
        .prepare_cached("SELECT item, raw FROM quarantine WHERE id = ?1")?
        .query_row([bound(id)], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    row.map(|(text, raw)| Ok(QuarantineItem { id, raw: raw.map(Bytes::from), ..from_json(&text)? }))
        .transpose()
}

pub(super) fn delete(c: &Connection, id: u64) -> Result<bool, Problem> {
    Ok(c.prepare_cached("DELETE FROM quarantine WHERE id = ?1")?.execute([bound(id)])? > 0)
}

fn bound(id: u64) -> i64 {
    i64::try_from(id).unwrap_or(i64::MAX)
}
