//! The file and its tables.

use std::path::Path;
use std::time::Duration;

use super::*;

/// Written into the file; a newer one is not touched.
const VERSION: i64 = 1;
/// How long another program may keep the file.
const BUSY: Duration = Duration::from_secs(10);

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
-- where to ask for the changes of a table; `reading`: the generation of a full reading that has not ended
CREATE TABLE IF NOT EXISTS source (tablename TEXT PRIMARY KEY, link TEXT, generation INTEGER NOT NULL DEFAULT 0, reading INTEGER,
    resume TEXT, readon INTEGER, since INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS record (tablename TEXT NOT NULL, id TEXT NOT NULL, name TEXT NOT NULL, ownertable TEXT, owner TEXT,
    active INTEGER NOT NULL, createdon INTEGER NOT NULL, generation INTEGER NOT NULL, PRIMARY KEY (tablename, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS address (address TEXT NOT NULL, tablename TEXT NOT NULL, id TEXT NOT NULL,
    PRIMARY KEY (address, tablename, id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS address_record ON address (tablename, id);
CREATE TABLE IF NOT EXISTS email (id TEXT PRIMARY KEY, createdon INTEGER NOT NULL, messageid TEXT, token TEXT, root TEXT, conversationid TEXT,
    status INTEGER NOT NULL, summary TEXT NOT NULL, generation INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS email_messageid ON email (messageid, createdon) WHERE messageid IS NOT NULL;
CREATE INDEX IF NOT EXISTS email_token ON email (token, createdon) WHERE token IS NOT NULL;
CREATE INDEX IF NOT EXISTS email_root ON email (root, createdon) WHERE root IS NOT NULL;
CREATE INDEX IF NOT EXISTS email_conversationid ON email (conversationid, createdon) WHERE conversationid IS NOT NULL;
CREATE INDEX IF NOT EXISTS email_createdon ON email (createdon);
-- smart matching: each address of an e-mail, with a digest of the words of its subject
CREATE TABLE IF NOT EXISTS smart (address INTEGER NOT NULL, subject INTEGER NOT NULL, createdon INTEGER NOT NULL, id TEXT NOT NULL,
    PRIMARY KEY (address, subject, createdon, id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS smart_address ON smart (address, createdon);
CREATE INDEX IF NOT EXISTS smart_email ON smart (id);
CREATE TABLE IF NOT EXISTS note (id TEXT PRIMARY KEY, changedon INTEGER NOT NULL, note TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counter (sender TEXT PRIMARY KEY, number INTEGER UNIQUE, next INTEGER NOT NULL) WITHOUT ROWID;
";

/// The connection that writes: with memory for the pages of an index that a first reading fills in no order, and a write-ahead log that is copied
/// seldom enough for them to be changed more than once before.
pub(super) fn connect_to_write(file: &Path) -> rusqlite::Result<Connection> {
    let conn = connect(file)?;
    conn.pragma_update(None, "cache_size", -32_768)?;
    conn.pragma_update(None, "wal_autocheckpoint", 8000)?;
    Ok(conn)
}

pub(super) fn connect(file: &Path) -> rusqlite::Result<Connection> {
    own_file(file);
    let conn = Connection::open(file)?;
    conn.busy_timeout(BUSY)?;
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    let version: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version > VERSION {
        return Err(newer());
    }
    if version < VERSION {
        conn.execute_batch(TABLES)?;
        conn.pragma_update(None, "user_version", VERSION)?;
    }
    Ok(conn)
}

/// A new file is readable for its owner only: it has addresses and subjects in it.
#[cfg(unix)]
fn own_file(file: &Path) {
    use std::os::unix::fs::OpenOptionsExt as _;
    // where that fails, opening the database says why
    let _ = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
}

#[cfg(not(unix))]
fn own_file(_: &Path) {}

fn newer() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_NOTADB),
        Some("a newer version of the router wrote it".to_owned()),
    )
}

pub(super) fn explain(file: &Path, cause: rusqlite::Error) -> Error {
    use rusqlite::ErrorCode as Code;
    let kind = match cause.sqlite_error_code() {
        Some(Code::DatabaseBusy | Code::DatabaseLocked) => ErrorKind::Busy,
        Some(Code::DatabaseCorrupt | Code::NotADatabase) => ErrorKind::Damaged,
        Some(_) => ErrorKind::Storage,
        None => ErrorKind::Damaged,
    };
    let error = Error::new(kind, format!("the mirror {}: {cause}", file.display()));
    let error = match kind {
        ErrorKind::Damaged => error.with_hint(
            "move the file away; the router reads it anew from the organization, only notes on mail that is on its way are lost",
        ),
        ErrorKind::Storage => error.with_hint("check that the folder is there, can be written and has room"),
        _ => error,
    };
    error.with_source(cause)
}

pub(super) fn value(conn: &Connection, name: &str) -> rusqlite::Result<Option<String>> {
    conn.prepare_cached("SELECT value FROM meta WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()
}

pub(super) fn set_value(conn: &Connection, name: &str, value: &str) -> rusqlite::Result<()> {
    conn.prepare_cached("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)")?
        .execute((name, value))
        .map(drop)
}

/// The generation of e-mails: those that a reading of all of them leaves in an older one are gone.
pub(super) fn email_generation(conn: &Connection) -> rusqlite::Result<i64> {
    Ok(value(conn, "email-generation")?.and_then(|text| text.parse().ok()).unwrap_or_default())
}

/// Everything but notes and counters.
pub(super) fn empty(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(
        "DELETE FROM meta; DELETE FROM source; DELETE FROM record; DELETE FROM address; DELETE FROM email; DELETE FROM smart;",
    )
}

/// Text that SQLite gave and that is none of ours.
pub(super) fn bad(what: &str) -> rusqlite::Error {
    rusqlite::Error::InvalidColumnName(what.to_owned())
}
