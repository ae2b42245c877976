//! Records that have addresses.

use email_router_model::{EmailAddress, RecordRef};
use rusqlite::params;

use super::*;
use crate::Resolution;

/// So many records an address resolves to at the most (`CrmClient::resolve`).
const MOST_RECORDS: u32 = 101;

/// A record as the mirror keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MirrorRecord {
    pub(crate) id: Uuid,
    pub(crate) name: String,
    /// What its e-mail columns have, as it stands there.
    pub(crate) addresses: Vec<String>,
    pub(crate) owner: Option<RecordRef>,
    pub(crate) active: bool,
    pub(crate) created_on: Timestamp,
}

/// How far a table was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Source {
    /// Where to ask for changes.
    pub(super) link: Option<String>,
    /// A full reading has begun, and this is where it goes on; `None`: it has not.
    pub(super) reading: Option<i64>,
    pub(super) resume: Option<String>,
    /// When it was read in full, milliseconds.
    pub(super) read_on: Option<i64>,
    /// Where changes are not told: all that was modified before, by the clock of the organization, is known.
    pub(super) since: Option<Timestamp>,
}

impl Mirror {
    pub(super) async fn source(&self, table: &str) -> Result<Source> {
        let table = table.to_owned();
        self.read(move |conn| {
            let source = conn
                .prepare_cached(
                    "SELECT link, reading, resume, readon, since FROM source WHERE tablename = ?1",
                )?
                .query_row([table], |row| {
                    Ok(Source {
                        link: row.get(0)?,
                        reading: row.get(1)?,
                        resume: row.get(2)?,
                        read_on: row.get(3)?,
                        since: row
                            .get::<_, Option<i64>>(4)?
                            .and_then(|ms| Timestamp::from_millisecond(ms).ok()),
                    })
                })
                .optional()?;
            Ok(source.unwrap_or_default())
        })
        .await
    }

    /// Begins a full reading: rows that it does not come across are forgotten at its end. Until then the old ones answer. `since`: what is modified later
    /// is asked for by time, since no changes are told.
    pub(super) async fn begin_full(&self, table: &str, since: Option<Timestamp>) -> Result<()> {
        let (table, since) = (table.to_owned(), since.map(Timestamp::as_millisecond));
        self.write(move |tx| {
            tx.execute("INSERT OR IGNORE INTO source (tablename) VALUES (?1)", [&table])?;
            tx.execute(
                "UPDATE source SET generation = generation + 1, reading = generation + 1, resume = NULL, since = ?2 WHERE tablename = ?1",
                params![table, since],
            )?;
            Ok(())
        })
        .await
    }

    /// Takes in a page of a full reading; `resume`: where it goes on, so that a restart need not begin again.
    pub(super) async fn apply_full(
        &self,
        table: &str,
        rows: Vec<MirrorRecord>,
        resume: Option<String>,
    ) -> Result<()> {
        let table = table.to_owned();
        self.write(move |tx| {
            let generation = generation(tx, &table)?;
            for row in &rows {
                put(tx, &table, row, generation)?;
            }
            tx.execute("UPDATE source SET resume = ?2 WHERE tablename = ?1", params![table, resume])?;
            Ok(())
        })
        .await
    }

    /// Ends a full reading.
    pub(super) async fn end_full(&self, table: &str, link: Option<String>) -> Result<()> {
        let (table, now) = (table.to_owned(), self.0.clock.now().as_millisecond());
        self.write(move |tx| {
            let old = "(SELECT generation FROM source WHERE tablename = ?1)";
            tx.execute(
                &format!(
                    "DELETE FROM address WHERE tablename = ?1 AND id IN
                       (SELECT id FROM record WHERE tablename = ?1 AND generation < {old})"
                ),
                [&table],
            )?;
            tx.execute(&format!("DELETE FROM record WHERE tablename = ?1 AND generation < {old}"), [&table])?;
            tx.execute(
                "UPDATE source SET link = ?2, reading = NULL, resume = NULL, readon = ?3 WHERE tablename = ?1",
                params![table, link, now],
            )?;
            Ok(())
        })
        .await
    }

    /// Takes in changes, and where to ask for the next ones: a link, or the time of the last one.
    pub(super) async fn apply_changes(
        &self,
        table: &str,
        rows: Vec<MirrorRecord>,
        deleted: Vec<Uuid>,
        link: Option<String>,
        since: Option<Timestamp>,
    ) -> Result<()> {
        let (table, since) = (table.to_owned(), since.map(Timestamp::as_millisecond));
        self.write(move |tx| {
            let generation = generation(tx, &table)?;
            for row in &rows {
                put(tx, &table, row, generation)?;
            }
            for id in deleted {
                remove(tx, &table, &id.to_string())?;
            }
            tx.execute(
                "UPDATE source SET link = coalesce(?2, link), since = coalesce(?3, since) WHERE tablename = ?1",
                params![table, link, since],
            )?;
            Ok(())
        })
        .await
    }

    /// Forgets tables that are none of these: the organization has them no more, or they lost their addresses.
    pub(super) async fn keep_tables(&self, names: HashSet<String>) -> Result<()> {
        let known = |conn: &Connection| -> rusqlite::Result<Vec<String>> {
            // a table whose reading never began may have records that the router made
            let mut statement = conn.prepare_cached("SELECT tablename FROM source")?;
            statement.query_map([], |row| row.get(0))?.collect()
        };
        let gone: Vec<String> =
            self.read(known).await?.into_iter().filter(|name| !names.contains(name)).collect();
        if gone.is_empty() {
            return Ok(());
        }
        self.write(move |tx| {
            for name in gone {
                for table in ["address", "record", "source"] {
                    tx.execute(&format!("DELETE FROM {table} WHERE tablename = ?1"), [&name])?;
                }
            }
            Ok(())
        })
        .await
    }

    /// A record that the router made.
    pub(crate) async fn add_record(
        &self,
        record: &RecordRef,
        name: &str,
        address: &EmailAddress,
        owner: Option<&RecordRef>,
        now: Timestamp,
    ) -> Result<()> {
        let (table, row) = (
            record.table.clone(),
            MirrorRecord {
                id: record.id,
                name: name.to_owned(),
                addresses: vec![address.to_string()],
                owner: owner.cloned(),
                active: true,
                created_on: now,
            },
        );
        self.write(move |tx| {
            let known = tx
                .prepare_cached("SELECT 1 FROM record WHERE tablename = ?1 AND id = ?2")?
                .exists(params![table, row.id.to_string()])?;
            if known { Ok(()) } else { put(tx, &table, &row, generation(tx, &table)?) }
        })
        .await
    }

    /// Forgets a record that is gone; whether it was known.
    pub(crate) async fn forget_record(&self, table: &str, id: Uuid) -> Result<bool> {
        let table = table.to_owned();
        self.write(move |tx| remove(tx, &table, &id.to_string())).await
    }

    /// What `CrmClient::resolve` says.
    pub(crate) async fn resolve(&self, addresses: &[EmailAddress]) -> Result<Vec<Vec<Resolution>>> {
        let keys: Vec<String> = addresses.iter().map(EmailAddress::key).collect();
        self.read(move |conn| {
            // a disabled user never resolves (9.1)
            let mut statement = conn.prepare_cached(
                "SELECT r.tablename, r.id, r.name, r.ownertable, r.owner, r.active, r.createdon
                 FROM address a JOIN record r ON r.tablename = a.tablename AND r.id = a.id
                 WHERE a.address = ?1 AND (r.active OR r.tablename <> 'systemuser')
                 ORDER BY r.createdon, r.id LIMIT ?2",
            )?;
            let mut all = Vec::with_capacity(keys.len());
            for key in keys {
                let rows = statement.query_map(params![key, MOST_RECORDS], resolution)?;
                all.push(rows.collect::<rusqlite::Result<Vec<_>>>()?);
            }
            Ok(all)
        })
        .await
    }
}

/// Of rows that are taken in now.
fn generation(conn: &Connection, table: &str) -> rusqlite::Result<i64> {
    let generation = conn
        .prepare_cached("SELECT generation FROM source WHERE tablename = ?1")?
        .query_row([table], |row| row.get(0))
        .optional()?;
    Ok(generation.unwrap_or_default())
}

fn put(conn: &Connection, table: &str, row: &MirrorRecord, generation: i64) -> rusqlite::Result<()> {
    let id = row.id.to_string();
    let keys = keys(row);
    conn.prepare_cached("DELETE FROM address WHERE tablename = ?1 AND id = ?2")?
        .execute(params![table, id])?;
    if keys.is_empty() {
        // nothing can resolve to it
        conn.prepare_cached("DELETE FROM record WHERE tablename = ?1 AND id = ?2")?
            .execute(params![table, id])?;
        return Ok(());
    }
    conn.prepare_cached(
        "INSERT OR REPLACE INTO record (tablename, id, name, ownertable, owner, active, createdon, generation)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        table,
        id,
        row.name,
        row.owner.as_ref().map(|owner| owner.table.as_str()),
        row.owner.as_ref().map(|owner| owner.id.to_string()),
        row.active,
        row.created_on.as_millisecond(),
        generation
    ])?;
    let mut insert =
        conn.prepare_cached("INSERT OR IGNORE INTO address (address, tablename, id) VALUES (?1, ?2, ?3)")?;
    for key in keys {
        insert.execute(params![key, table, id])?;
    }
    Ok(())
}

fn remove(conn: &Connection, table: &str, id: &str) -> rusqlite::Result<bool> {
    conn.prepare_cached("DELETE FROM address WHERE tablename = ?1 AND id = ?2")?
        .execute(params![table, id])?;
    let known = conn
        .prepare_cached("DELETE FROM record WHERE tablename = ?1 AND id = ?2")?
        .execute(params![table, id])?;
    Ok(known > 0)
}

/// How many of these records were compared, the ids of those that have an address, and what the mirror has otherwise.
pub(super) fn differences(
    conn: &Connection,
    table: &str,
    records: &[MirrorRecord],
) -> rusqlite::Result<(u64, Vec<String>, Vec<super::MirrorDifference>)> {
    let mut known =
        conn.prepare_cached("SELECT name, active FROM record WHERE tablename = ?1 AND id = ?2")?;
    let mut addresses =
        conn.prepare_cached("SELECT address FROM address WHERE tablename = ?1 AND id = ?2")?;
    let (mut compared, mut seen, mut different) = (0, Vec::new(), Vec::new());
    for record in records {
        let id = record.id.to_string();
        let theirs = keys(record);
        let ours: Option<(String, bool)> =
            known.query_row(params![table, id], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        let what = match ours {
            None if theirs.is_empty() => continue,
            None => Some("is not in the mirror".to_owned()),
            Some((name, active)) => {
                let rows = addresses.query_map(params![table, id], |row| row.get(0))?;
                let ours: HashSet<String> = rows.collect::<rusqlite::Result<_>>()?;
                if ours != theirs {
                    Some(format!(
                        "has other addresses: {ours:?} in the mirror, {theirs:?} in the organization"
                    ))
                } else if name != record.name {
                    Some(format!(
                        "is called {:?} in the organization and {name:?} in the mirror",
                        record.name
                    ))
                } else if active != record.active {
                    Some("is active in one of them and inactive in the other".to_owned())
                } else {
                    None
                }
            }
        };
        compared += 1;
        if let Some(what) = what {
            different.push(super::MirrorDifference { record: format!("{table}({id})"), what });
        }
        if !theirs.is_empty() {
            seen.push(id);
        }
    }
    Ok((compared, seen, different))
}

/// The addresses of a record that are addresses, as they are compared.
fn keys(record: &MirrorRecord) -> HashSet<String> {
    let addresses = record.addresses.iter().filter_map(|text| EmailAddress::parse(text.trim()).ok());
    addresses.map(|address| address.key()).collect()
}

fn resolution(row: &rusqlite::Row<'_>) -> rusqlite::Result<Resolution> {
    let uuid = |text: String| Uuid::parse_str(&text).map_err(|_| file::bad("id"));
    let owner: (Option<String>, Option<String>) = (row.get(3)?, row.get(4)?);
    Ok(Resolution {
        record: RecordRef::new(row.get::<_, String>(0)?, uuid(row.get(1)?)?),
        name: row.get(2)?,
        owner: match owner {
            (Some(table), Some(id)) => Some(RecordRef::new(table, uuid(id)?)),
            _ => None,
        },
        active: row.get(5)?,
        created_on: Timestamp::from_millisecond(row.get(6)?).map_err(|_| file::bad("createdon"))?,
    })
}
