//! What administrators ask about the mirror.

use std::collections::HashSet;

use rusqlite::params;
use serde::Serialize;
use serde_json::Value;

use super::*;
use crate::dataverse::tables::Tables;
use crate::dataverse::web_api::Session;

/// So many ids are compared for a table at the most.
const MOST_COMPARED: usize = 5_000_000;
/// So many differences are named.
const MOST_NAMED: usize = 100;

/// How much the mirror holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct MirrorSize {
    /// The tables that have addresses, by name.
    pub tables: Vec<MirrorTable>,
    /// E-mails that an answer can belong to.
    pub emails: u64,
    /// Notes on e-mails.
    pub notes: u64,
    /// Of the file, with its write-ahead log.
    pub bytes: u64,
    /// When changes were read the last time; `None`: never.
    pub synced_on: Option<Timestamp>,
}

/// How much of a table the mirror holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MirrorTable {
    /// Its logical name.
    pub name: String,
    /// Records with an address.
    pub records: u64,
    /// Their addresses.
    pub addresses: u64,
}

/// What comparing the mirror with the organization found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct MirrorVerification {
    /// Records that were compared.
    pub compared: u64,
    /// How many of them differ.
    pub different: u64,
    /// The first 100 of those.
    pub differences: Vec<MirrorDifference>,
}

/// A record that the mirror has otherwise than the organization.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MirrorDifference {
    /// Table and id.
    pub record: String,
    /// What is different.
    pub what: String,
}

impl Mirror {
    pub(crate) async fn size(&self) -> Result<MirrorSize> {
        let file = self.0.file.clone();
        let mut size = self
            .read(|conn| {
                let count = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs);
                let mut tables = conn.prepare(
                    "SELECT r.tablename, count(*), (SELECT count(*) FROM address a WHERE a.tablename = r.tablename)
                     FROM record r GROUP BY r.tablename ORDER BY r.tablename",
                )?;
                let tables = tables.query_map([], |row| {
                    let number = |n| row.get::<_, i64>(n).map(i64::unsigned_abs);
                    Ok(MirrorTable { name: row.get(0)?, records: number(1)?, addresses: number(2)? })
                })?;
                Ok(MirrorSize {
                    tables: tables.collect::<rusqlite::Result<_>>()?,
                    emails: count("SELECT count(*) FROM email")?,
                    notes: count("SELECT count(*) FROM note")?,
                    bytes: 0,
                    synced_on: file::value(conn, "synced")?.and_then(|text| text.parse().ok()),
                })
            })
            .await?;
        let length = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
        let mut log = file.clone().into_os_string();
        log.push("-wal");
        size.bytes = length(&file) + length(Path::new(&log));
        Ok(size)
    }

    /// Compares names, addresses and states with the organization, page by page.
    pub(crate) async fn verify(&self, session: &Session, tables: &Tables) -> Result<MirrorVerification> {
        let mut found = MirrorVerification::default();
        for table in tables.email_tables() {
            let doing = format!("comparing the table {}", table.logical_name);
            let path = format!("{}?$select={}", table.entity_set, table.select());
            let prefer = ["odata.maxpagesize=5000", super::sync::ANNOTATIONS];
            let mut pages = session.pages(path, &prefer, &doing);
            let mut there = HashSet::new();
            while let Some(page) = pages.next().await? {
                let rows: Vec<Value> = page.rows;
                let (records, _) = super::sync::parse_records(table, &rows);
                let name = table.logical_name.clone();
                let (compared, seen, different) =
                    self.read(move |conn| super::records::differences(conn, &name, &records)).await?;
                found.compared += compared;
                there.extend(seen);
                for difference in different {
                    found.add(difference);
                }
                if there.len() > MOST_COMPARED {
                    return Err(Error::new(ErrorKind::Invalid, format!("{doing}: it has too many records")));
                }
            }
            let name = table.logical_name.clone();
            let gone = self
                .read(move |conn| {
                    let mut statement = conn.prepare_cached("SELECT id FROM record WHERE tablename = ?1")?;
                    let mut rows = statement.query(params![name])?;
                    let mut gone = Vec::new();
                    while let Some(row) = rows.next()? {
                        let id: String = row.get(0)?;
                        if !there.contains(&id) {
                            gone.push(MirrorDifference {
                                record: format!("{name}({id})"),
                                what: "is not in the organization any more".to_owned(),
                            });
                        }
                    }
                    Ok(gone)
                })
                .await?;
            for difference in gone {
                found.compared += 1;
                found.add(difference);
            }
        }
        Ok(found)
    }
}

impl MirrorVerification {
    fn add(&mut self, difference: MirrorDifference) {
        self.different += 1;
        if self.differences.len() < MOST_NAMED {
            self.differences.push(difference);
        }
    }
}
