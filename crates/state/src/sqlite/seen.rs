//! The seen-set.

use std::collections::HashSet;

use email_router_engine::ports::{SeenMessage, Settled};
use email_router_model::{ActivityId, MailboxId, RemoteId, Timestamp};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::error::Problem;
use super::values::{micros, time, verdict, verdict_code};

fn known_mailbox(c: &Connection, mailbox: &MailboxId) -> Result<Option<i64>, Problem> {
    Ok(c.prepare_cached("SELECT id FROM mailbox WHERE name = ?1")?
        .query_row([mailbox.as_str()], |row| row.get(0))
        .optional()?)
}

fn mailbox_key(c: &Connection, mailbox: &MailboxId) -> Result<i64, Problem> {
    if let Some(key) = known_mailbox(c, mailbox)? {
        return Ok(key);
    }
    c.prepare_cached("INSERT INTO mailbox (name) VALUES (?1)")?.execute([mailbox.as_str()])?;
    Ok(c.last_insert_rowid())
}

type Row = (u32, Option<i64>, Option<[u8; 16]>, Option<String>, Option<i64>, Option<i64>, Option<String>);

/// One statement, prepared once, one look-up in the primary key for each id, all in one read transaction.
pub(super) fn seen(
    c: &Connection,
    mailbox: &MailboxId,
    ids: &[RemoteId],
) -> Result<Vec<Option<SeenMessage>>, Problem> {
    let transaction = c.unchecked_transaction()?;
    let Some(key) = known_mailbox(&transaction, mailbox)? else { return Ok(vec![None; ids.len()]) };
    let mut query = transaction.prepare_cached(
        "SELECT attempts, verdict, activity, disposition, settled_at, not_before, last_error
         FROM seen WHERE mailbox = ?1 AND remote_id = ?2",
    )?;
    let mut all = Vec::with_capacity(ids.len());
    for id in ids {
        let row: Option<Row> = query
            .query_row(params![key, id.as_str()], |r| {
                Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?, r.get(5)?, r.get(6)?))
            })
            .optional()?;
        all.push(row.map(|row| message(id, row)).transpose()?);
    }
    Ok(all)
}

fn message(id: &RemoteId, row: Row) -> Result<SeenMessage, Problem> {
    let (attempts, code, activity, disposition, settled_at, not_before, last_error) = row;
    let settled = match code {
        None => None,
        Some(code) => Some(Settled {
            id: id.clone(),
            verdict: verdict(code)?,
            activity_id: activity.map(|bytes| ActivityId::from_uuid(uuid(bytes))),
            disposition: disposition.unwrap_or_default(),
            at: settled_at.map(time).unwrap_or(Timestamp::UNIX_EPOCH),
        }),
    };
    Ok(SeenMessage { attempts, settled, not_before: not_before.map(time), last_error })
}

fn uuid(bytes: [u8; 16]) -> uuid::Uuid {
    uuid::Uuid::from_bytes(bytes)
}

pub(super) fn begin(c: &Connection, mailbox: &MailboxId, ids: &[RemoteId]) -> Result<(), Problem> {
    if ids.is_empty() {
        return Ok(());
    }
    let key = mailbox_key(c, mailbox)?;
    let mut insert = c.prepare_cached(
        "INSERT INTO seen (mailbox, remote_id, attempts) VALUES (?1, ?2, 1)
         ON CONFLICT DO UPDATE SET attempts = min(attempts + 1, 4294967295)",
    )?;
    for id in ids {
        insert.execute(params![key, id.as_str()])?;
    }
    Ok(())
}

pub(super) fn unbegin(c: &Connection, mailbox: &MailboxId, ids: &[RemoteId]) -> Result<(), Problem> {
    let Some(key) = known_mailbox(c, mailbox)? else { return Ok(()) };
    let mut update = c.prepare_cached(
        "UPDATE seen SET attempts = max(attempts - 1, 0) WHERE mailbox = ?1 AND remote_id = ?2",
    )?;
    // begun and taken back leaves no trace, so that it is as never begun
    let mut delete = c.prepare_cached(
        "DELETE FROM seen WHERE mailbox = ?1 AND remote_id = ?2
         AND attempts = 0 AND verdict IS NULL AND not_before IS NULL AND last_error IS NULL",
    )?;
    for id in ids {
        update.execute(params![key, id.as_str()])?;
        delete.execute(params![key, id.as_str()])?;
    }
    Ok(())
}

pub(super) fn note_failure(
    c: &Connection,
    mailbox: &MailboxId,
    id: &RemoteId,
    error: &str,
    not_before: Timestamp,
) -> Result<(), Problem> {
    let key = mailbox_key(c, mailbox)?;
    c.prepare_cached(
        "INSERT INTO seen (mailbox, remote_id, not_before, last_error) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT DO UPDATE SET not_before = excluded.not_before, last_error = excluded.last_error",
    )?
    .execute(params![key, id.as_str(), micros(not_before), error])?;
    Ok(())
}

pub(super) fn settle(c: &Connection, mailbox: &MailboxId, settled: &[Settled]) -> Result<(), Problem> {
    if settled.is_empty() {
        return Ok(());
    }
    let key = mailbox_key(c, mailbox)?;
    let mut insert = c.prepare_cached(
        "INSERT INTO seen (mailbox, remote_id, verdict, activity, disposition, settled_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT DO UPDATE SET verdict = excluded.verdict, activity = excluded.activity,
             disposition = excluded.disposition, settled_at = excluded.settled_at",
    )?;
    for end in settled {
        insert.execute(params![
            key,
            end.id.as_str(),
            verdict_code(end.verdict),
            end.activity_id.map(|id| *id.as_uuid().as_bytes()),
            end.disposition,
            micros(end.at),
        ])?;
    }
    Ok(())
}

pub(super) fn forget(c: &Connection, mailbox: &MailboxId, ids: &[RemoteId]) -> Result<(), Problem> {
    let Some(key) = known_mailbox(c, mailbox)? else { return Ok(()) };
    let mut delete = c.prepare_cached("DELETE FROM seen WHERE mailbox = ?1 AND remote_id = ?2")?;
    for id in ids {
        delete.execute(params![key, id.as_str()])?;
    }
    Ok(())
}

/// Where the mailbox was read from last.
pub(super) fn source(c: &Connection, mailbox: &MailboxId) -> Result<Option<String>, Problem> {
    let source: Option<Option<String>> = c
        .prepare_cached("SELECT source FROM mailbox WHERE name = ?1")?
        .query_row([mailbox.as_str()], |row| row.get(0))
        .optional()?;
    Ok(source.flatten())
}

pub(super) fn read_from(c: &Connection, mailbox: &MailboxId, new: &str) -> Result<u64, Problem> {
    let key = mailbox_key(c, mailbox)?;
    let old = source(c, mailbox)?;
    c.prepare_cached("UPDATE mailbox SET source = ?2 WHERE id = ?1")?.execute(params![key, new])?;
    if old.is_none_or(|old| old == new) {
        return Ok(0);
    }
    // with their own numbers in them they are different, and need to be changed once only
    c.prepare_cached(
        "UPDATE quarantine SET remote_id = '#' || id || ' ' || remote_id,
             item = json_set(item, '$.remote_id', '#' || id || ' ' || remote_id)
         WHERE mailbox = ?1 AND remote_id NOT LIKE '#' || id || ' %'",
    )?
    .execute([mailbox.as_str()])?;
    Ok(c.prepare_cached("DELETE FROM seen WHERE mailbox = ?1")?.execute([key])? as u64)
}

pub(super) fn forget_absent(
    c: &Connection,
    mailbox: &MailboxId,
    present: &[RemoteId],
) -> Result<u64, Problem> {
    let Some(key) = known_mailbox(c, mailbox)? else { return Ok(0) };
    let present: HashSet<&str> = present.iter().map(RemoteId::as_str).collect();
    let mut absent = Vec::new();
    let mut query = c.prepare_cached("SELECT remote_id FROM seen WHERE mailbox = ?1")?;
    let mut rows = query.query([key])?;
    while let Some(row) = rows.next()? {
        let id = row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?;
        if !present.contains(id) {
            absent.push(id.to_owned());
        }
    }
    let mut delete = c.prepare_cached("DELETE FROM seen WHERE mailbox = ?1 AND remote_id = ?2")?;
    for id in &absent {
        delete.execute(params![key, id])?;
    }
    Ok(absent.len() as u64)
}
