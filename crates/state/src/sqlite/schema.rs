//! The file and its layout.

use std::path::Path;
use std::time::Duration;

use email_router_engine::StateError;
use email_router_model::may_write;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::error::{store_error, whose_turn};

/// `PRAGMA application_id` of a state file: the letters `ERst`. It keeps another SQLite file (the embedded CRM's, say) from being
/// taken for a state file by a slip in the settings.
const APPLICATION_ID: i64 = 0x4552_7374;

/// How long a statement waits for another process before it fails as busy.
const BUSY: Duration = Duration::from_secs(30);

/// The steps from an empty file to today's layout; `PRAGMA user_version` counts those done. Never change one that was released.
const STEPS: &[&str] = &[
    // Mailbox names are long and seen rows are many, so seen rows carry a number. WITHOUT ROWID: one b-tree, no second look-up.
    "CREATE TABLE mailbox (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
     CREATE TABLE seen (
         mailbox INTEGER NOT NULL, remote_id TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
         verdict INTEGER, activity BLOB, disposition TEXT, settled_at INTEGER, not_before INTEGER, last_error TEXT,
         PRIMARY KEY (mailbox, remote_id)) WITHOUT ROWID;
     CREATE TABLE threshold (mailbox TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;
     CREATE TABLE ledger (activity BLOB PRIMARY KEY, at INTEGER NOT NULL, closed INTEGER NOT NULL, entry TEXT NOT NULL) WITHOUT ROWID;
     CREATE INDEX ledger_by_time ON ledger (closed, at);
     CREATE TABLE quarantine (
         id INTEGER PRIMARY KEY AUTOINCREMENT, mailbox TEXT NOT NULL, remote_id TEXT NOT NULL, item TEXT NOT NULL, raw BLOB,
         UNIQUE (mailbox, remote_id));
     CREATE TABLE lease (name TEXT PRIMARY KEY, holder TEXT NOT NULL, until INTEGER NOT NULL) WITHOUT ROWID;
     CREATE TABLE status (
         mailbox TEXT NOT NULL, direction INTEGER NOT NULL, status TEXT NOT NULL, PRIMARY KEY (mailbox, direction)) WITHOUT ROWID;",
    // The decisions, for `why` and `replay`.
    "CREATE TABLE decision (id INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, note TEXT NOT NULL, header BLOB);
     CREATE INDEX decision_by_time ON decision (at);
     CREATE TABLE decision_key (
         kind INTEGER NOT NULL, key TEXT NOT NULL, decision INTEGER NOT NULL,
         PRIMARY KEY (kind, key, decision)) WITHOUT ROWID;
     CREATE INDEX decision_key_of ON decision_key (decision);",
    // where the ids of a mailbox's seen rows come from
    "ALTER TABLE mailbox ADD COLUMN source TEXT;",
    // what adapters leave for the next listing
    "CREATE TABLE resume (mailbox TEXT PRIMARY KEY, source TEXT NOT NULL, token BLOB NOT NULL);",
];

/// Makes sure that the file exists and only its owner can read it: it holds subjects, addresses and, in quarantine, whole messages. SQLite
/// gives its side files the same permissions.
pub(super) fn create_file(path: &Path) -> Result<(), StateError> {
    let failed = |error: std::io::Error| StateError {
        message: format!("the state file {} cannot be opened: {error}; {}", path.display(), whose_turn(path)),
        transient: false,
        source: Some(Box::new(error)),
    };
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path).map_err(failed)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = file.metadata().map_err(failed)?.permissions().mode();
        if mode & 0o077 != 0 {
            file.set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        }
    }
    drop(file);
    Ok(())
}

fn set_up(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(64);
    // plans do not depend on the values that are bound, so that a statement is not prepared anew for them
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

/// A connection in WAL mode.
pub(super) fn connect(path: &Path) -> Result<Connection, StateError> {
    let open = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        set_up(&connection)?;
        let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        Ok((connection, mode))
    };
    let (connection, mode) = open().map_err(|error| store_error(path, error))?;
    if mode.eq_ignore_ascii_case("wal") {
        Ok(connection)
    } else {
        Err(StateError {
            message: format!(
                "the state file {} lies on a file system without shared memory (journal mode {mode:?} instead of WAL); put it on \
                 a local disk",
                path.display()
            ),
            transient: false,
            source: None,
        })
    }
}

/// A connection that creates and changes nothing, to a file that is there.
pub(super) fn connect_to_look(path: &Path) -> Result<Connection, StateError> {
    let open = || {
        let connection = if at_rest(path) {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
                | OpenFlags::SQLITE_OPEN_NO_MUTEX
                | OpenFlags::SQLITE_OPEN_URI;
            Connection::open_with_flags(immutable(path), flags)?
        } else {
            // read-write, since a reader may have to recover the write-ahead log; query_only keeps it from changing anything
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            Connection::open_with_flags(path, flags)?
        };
        set_up(&connection)?;
        connection.execute_batch("PRAGMA query_only = ON")?;
        let number = |what: &str| connection.query_row(what, [], |row| row.get::<_, i64>(0));
        let (tables, version) =
            (number("SELECT count(*) FROM sqlite_schema")?, number("PRAGMA user_version")?);
        let ours = tables == 0 || number("PRAGMA application_id")? == APPLICATION_ID;
        Ok((connection, ours, version))
    };
    let (connection, ours, version) = open().map_err(|error| store_error(path, error))?;
    let newest = STEPS.len();
    let why = match usize::try_from(version) {
        _ if !ours => NOT_OURS.to_owned(),
        Ok(done) if done == newest => return Ok(connection),
        Ok(done) if done < newest => {
            format!(
                "has layout {done}, this version needs {newest}; start the router, which brings it up to date"
            )
        }
        _ => too_new(version),
    };
    Err(StateError {
        message: format!("the state file {} {why}", path.display()),
        transient: false,
        source: None,
    })
}

/// Whether this program may not write the file or beside it, and nobody has it open, or there would be side files. Then it is read as
/// it lies: a connection of the usual kind would make side files, which may be impossible, or be in the owner's way.
fn at_rest(path: &Path) -> bool {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    let folder = path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    !(Path::new(&wal).exists() || may_write(path) && may_write(folder))
}

/// The file as SQLite's URI for a file that nobody changes.
fn immutable(path: &Path) -> String {
    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' => uri.push(char::from(*byte)),
            b if b.is_ascii_alphanumeric() => uri.push(char::from(*b)),
            b => uri.push_str(&format!("%{b:02X}")),
        }
    }
    uri + "?immutable=1"
}

/// Brings the layout up to date.
pub(super) fn migrate(path: &Path, connection: &Connection) -> Result<(), StateError> {
    match steps(connection) {
        Ok(None) => Ok(()),
        Ok(Some(why)) => Err(StateError {
            message: format!("the state file {} {why}", path.display()),
            transient: false,
            source: None,
        }),
        Err(error) => Err(store_error(path, error)),
    }
}

const NOT_OURS: &str = "is a database of something else; name another file in the settings";

fn too_new(version: i64) -> String {
    format!(
        "was written by a newer version of email-router (layout {version}, this version knows {}); run that version, or move the file \
         away",
        STEPS.len()
    )
}

/// `Some`: why the file is refused.
fn steps(connection: &Connection) -> rusqlite::Result<Option<String>> {
    // IMMEDIATE: of two processes that start at once, the second sees the finished layout
    let transaction = rusqlite::Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    let number = |what: &str| transaction.query_row(what, [], |row| row.get::<_, i64>(0));
    let version = number("PRAGMA user_version")?;
    let application = number("PRAGMA application_id")?;
    let tables = number("SELECT count(*) FROM sqlite_schema")?;
    let empty = tables == 0 && version == 0 && application == 0;
    if !empty && application != APPLICATION_ID {
        return Ok(Some(NOT_OURS.to_owned()));
    }
    let newest = STEPS.len();
    let done = match usize::try_from(version) {
        Ok(done) if done <= newest => done,
        _ => return Ok(Some(too_new(version))),
    };
    if done == newest {
        return Ok(None);
    }
    for step in STEPS.iter().skip(done) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", newest as i64)?;
    transaction.commit()?;
    Ok(None)
}
