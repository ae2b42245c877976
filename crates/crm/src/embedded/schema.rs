//! The shape of the file: tables and columns under their Dataverse names, and how an older file becomes a newer one.
//!
//! Conventions: ids are lower-case text, times are milliseconds since 1970 in UTC, booleans are 0 and 1, state codes are
//! Dataverse's numbers. Columns that Dataverse has not are marked `ours`. The large column of a table stands last, so that
//! reading the others does not walk through it.

use std::path::Path;
use std::time::Duration;

use email_router_model::{may_write, who_denies};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::error::{DbError, DbResult};
use crate::{Error, ErrorKind};

/// "emrt": what `file(1)` and we recognize the file by.
pub(super) const APPLICATION_ID: i32 = 0x656d_7274;

/// How long a statement waits for another program's transaction before it fails with "busy" (and the caller tries again).
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The steps from an empty file to the newest version; step `n` makes version `n + 1`. A step that was released never changes.
pub(super) const STEPS: &[&str] = &[
    RECORDS_AND_EMAILS,
    DELETED_EMAILS,
    TOKENS_OF_IMPORTED_EMAILS,
    CORRELATION_REPORTS_AND_UNRESOLVED,
    DEFAULT_QUEUES,
];

const RECORDS_AND_EMAILS: &str = "
-- settings under their Dataverse names, values as JSON; a missing one has its documented default
CREATE TABLE organization (name TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL) WITHOUT ROWID;

-- e-mail-enabled tables beyond the built-in ones
CREATE TABLE entity (logicalname TEXT PRIMARY KEY NOT NULL, iscustomentity INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE systemuser (
  systemuserid TEXT PRIMARY KEY NOT NULL, fullname TEXT NOT NULL, internalemailaddress TEXT, personalemailaddress TEXT,
  mobilealertemail TEXT, domainname TEXT, isdisabled INTEGER NOT NULL DEFAULT 0,
  incomingemaildeliverymethod INTEGER NOT NULL DEFAULT 2, outgoingemaildeliverymethod INTEGER NOT NULL DEFAULT 2,
  emailrouteraccessapproval INTEGER NOT NULL DEFAULT 1, createdon INTEGER NOT NULL, modifiedon INTEGER NOT NULL,
  versionnumber INTEGER NOT NULL DEFAULT 1);
CREATE INDEX systemuser_fullname ON systemuser (fullname);

CREATE TABLE usersettings (
  systemuserid TEXT PRIMARY KEY NOT NULL REFERENCES systemuser ON DELETE CASCADE,
  incomingemailfilteringmethod INTEGER NOT NULL DEFAULT 1, issendasallowed INTEGER NOT NULL DEFAULT 0,
  trackingtokenid INTEGER UNIQUE, nexttrackingnumber INTEGER NOT NULL DEFAULT 1) WITHOUT ROWID;

-- trackingtokenid and nexttrackingnumber of a queue are ours: Dataverse keeps them for users only
CREATE TABLE queue (
  queueid TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL, emailaddress TEXT, ownerid TEXT, owneridtype TEXT,
  incomingemailfilteringmethod INTEGER NOT NULL DEFAULT 0, incomingemaildeliverymethod INTEGER NOT NULL DEFAULT 2,
  outgoingemaildeliverymethod INTEGER NOT NULL DEFAULT 2, emailrouteraccessapproval INTEGER NOT NULL DEFAULT 1,
  queueviewtype INTEGER NOT NULL DEFAULT 0, statecode INTEGER NOT NULL DEFAULT 0, trackingtokenid INTEGER UNIQUE,
  nexttrackingnumber INTEGER NOT NULL DEFAULT 1, createdon INTEGER NOT NULL, modifiedon INTEGER NOT NULL,
  versionnumber INTEGER NOT NULL DEFAULT 1);

-- forward mailboxes
CREATE TABLE mailbox (
  mailboxid TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL, emailaddress TEXT, isforwardmailbox INTEGER NOT NULL DEFAULT 1,
  incomingemaildeliverymethod INTEGER NOT NULL DEFAULT 2, emailrouteraccessapproval INTEGER NOT NULL DEFAULT 1,
  statecode INTEGER NOT NULL DEFAULT 0, createdon INTEGER NOT NULL, modifiedon INTEGER NOT NULL,
  versionnumber INTEGER NOT NULL DEFAULT 1);

CREATE TABLE contact (
  contactid TEXT PRIMARY KEY NOT NULL, fullname TEXT NOT NULL, emailaddress1 TEXT, emailaddress2 TEXT, emailaddress3 TEXT,
  ownerid TEXT, owneridtype TEXT, statecode INTEGER NOT NULL DEFAULT 0, createdon INTEGER NOT NULL,
  modifiedon INTEGER NOT NULL, versionnumber INTEGER NOT NULL DEFAULT 1);
CREATE TABLE account (
  accountid TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL, emailaddress1 TEXT, emailaddress2 TEXT, emailaddress3 TEXT,
  ownerid TEXT, owneridtype TEXT, statecode INTEGER NOT NULL DEFAULT 0, createdon INTEGER NOT NULL,
  modifiedon INTEGER NOT NULL, versionnumber INTEGER NOT NULL DEFAULT 1);
CREATE TABLE lead (
  leadid TEXT PRIMARY KEY NOT NULL, fullname TEXT NOT NULL, emailaddress1 TEXT, emailaddress2 TEXT, emailaddress3 TEXT,
  ownerid TEXT, owneridtype TEXT, statecode INTEGER NOT NULL DEFAULT 0, createdon INTEGER NOT NULL,
  modifiedon INTEGER NOT NULL, versionnumber INTEGER NOT NULL DEFAULT 1);

-- every address of every e-mail-enabled record, in lower case; objecttypecode and emailcolumnname are ours
CREATE TABLE emailsearch (
  emailaddress TEXT NOT NULL, parentobjectid TEXT NOT NULL, objecttypecode TEXT NOT NULL, emailcolumnname TEXT NOT NULL,
  PRIMARY KEY (emailaddress, parentobjectid, emailcolumnname)) WITHOUT ROWID;
CREATE INDEX emailsearch_record ON emailsearch (parentobjectid);

-- ours: trackingtokenkey (the token in lower case), emailreferences, removedparts, deliveryreport (why it was refused, retried or
-- given up), indoubt
CREATE TABLE email (
  activityid TEXT PRIMARY KEY NOT NULL, directioncode INTEGER NOT NULL, statecode INTEGER NOT NULL, statuscode INTEGER NOT NULL,
  versionnumber INTEGER NOT NULL DEFAULT 1, createdon INTEGER NOT NULL, modifiedon INTEGER NOT NULL, senton INTEGER,
  actualend INTEGER, delayedemailsendtime INTEGER, postponeemailprocessinguntil INTEGER,
  deliveryattempts INTEGER NOT NULL DEFAULT 0, indoubt INTEGER NOT NULL DEFAULT 0, prioritycode INTEGER NOT NULL DEFAULT 1,
  deliveryprioritycode INTEGER NOT NULL DEFAULT 1, deliveryreceiptrequested INTEGER NOT NULL DEFAULT 0,
  readreceiptrequested INTEGER NOT NULL DEFAULT 0, notifications INTEGER NOT NULL DEFAULT 0,
  attachmentcount INTEGER NOT NULL DEFAULT 0, correlationmethod INTEGER NOT NULL DEFAULT 0,
  isduplicatesenderunresolved INTEGER NOT NULL DEFAULT 0, correlatedactivityid TEXT, parentactivityid TEXT,
  regardingobjectid TEXT, regardingobjecttypecode TEXT, ownerid TEXT, owneridtype TEXT, emailsender TEXT,
  emailsenderobjecttypecode TEXT, acceptingentityid TEXT, acceptingentitytypecode TEXT, receivingmailboxid TEXT,
  receivingmailboxtypecode TEXT, messageid TEXT, trackingtoken TEXT, trackingtokenkey TEXT, sender TEXT, submittedby TEXT,
  inreplyto TEXT, conversationindex TEXT, mimetype TEXT NOT NULL, subject TEXT NOT NULL, torecipients TEXT,
  emailreferences TEXT, removedparts TEXT, deliveryreport TEXT, description TEXT NOT NULL);
CREATE INDEX email_messageid ON email (messageid, createdon) WHERE messageid IS NOT NULL;
CREATE INDEX email_token ON email (trackingtokenkey, createdon) WHERE trackingtokenkey IS NOT NULL;
CREATE INDEX email_status ON email (statuscode, createdon);
CREATE INDEX email_regarding ON email (regardingobjectid) WHERE regardingobjectid IS NOT NULL;
CREATE INDEX email_pending
  ON email (emailsender, deliveryprioritycode DESC, modifiedon, delayedemailsendtime, postponeemailprocessinguntil)
  WHERE statuscode = 6;
CREATE INDEX email_sending ON email (emailsender, modifiedon) WHERE statuscode = 7 AND indoubt = 0;
CREATE INDEX email_indoubt ON email (modifiedon) WHERE indoubt = 1;

CREATE TABLE activityparty (
  activityid TEXT NOT NULL REFERENCES email ON DELETE CASCADE, ordinal INTEGER NOT NULL, participationtypemask INTEGER NOT NULL,
  partyid TEXT, partyobjecttypecode TEXT, addressused TEXT, partyidname TEXT, unresolvedpartyname TEXT,
  PRIMARY KEY (activityid, ordinal)) WITHOUT ROWID;
CREATE INDEX activityparty_party ON activityparty (partyid) WHERE partyid IS NOT NULL;

CREATE TABLE activitymimeattachment (
  activitymimeattachmentid INTEGER PRIMARY KEY, objectid TEXT NOT NULL REFERENCES email ON DELETE CASCADE,
  attachmentnumber INTEGER NOT NULL, filename TEXT NOT NULL, mimetype TEXT NOT NULL, attachmentcontentid TEXT,
  filesize INTEGER NOT NULL, body BLOB NOT NULL, UNIQUE (objectid, attachmentnumber));

CREATE TABLE queueitem (
  queueitemid TEXT PRIMARY KEY NOT NULL, objectid TEXT NOT NULL REFERENCES email ON DELETE CASCADE,
  objecttypecode TEXT NOT NULL DEFAULT 'email', queueid TEXT NOT NULL REFERENCES queue ON DELETE CASCADE, workerid TEXT,
  enteredon INTEGER NOT NULL, title TEXT NOT NULL, statecode INTEGER NOT NULL DEFAULT 0);
CREATE INDEX queueitem_object ON queueitem (objectid, queueid);
CREATE INDEX queueitem_queue ON queueitem (queueid, statecode, enteredon);
-- Dataverse refuses a second one with 0x80040526
CREATE UNIQUE INDEX queueitem_active ON queueitem (objectid, queueid) WHERE statecode = 0;
";

const DELETED_EMAILS: &str = "
-- ours: e-mails that a person deleted, so that delivering them again does not bring them back
CREATE TABLE deletedemail (activityid TEXT PRIMARY KEY NOT NULL, deletedon INTEGER NOT NULL) WITHOUT ROWID;
";

const TOKENS_OF_IMPORTED_EMAILS: &str = "
-- e-mails imported from CSV lacked what their token is looked up by (lower of SQLite knows ASCII, and so do prefixes but for rare ones)
UPDATE email SET trackingtokenkey = lower(trackingtoken) WHERE trackingtokenkey IS NULL AND trackingtoken IS NOT NULL;
";

const CORRELATION_REPORTS_AND_UNRESOLVED: &str = "
-- textbody is ours: the plain text beside an HTML body
ALTER TABLE email ADD COLUMN category TEXT;
ALTER TABLE email ADD COLUMN subcategory TEXT;
ALTER TABLE email ADD COLUMN textbody TEXT;
-- the 22 bytes that all mails of a conversation share
CREATE INDEX email_conversation ON email (substr(conversationindex, 1, 44), createdon) WHERE conversationindex IS NOT NULL;

-- ours: what correlation knows of an e-mail beside its own columns, kept apart so that reading it does not walk through a body; words
-- and addresses are the hashes of smart matching, 8 bytes each, sorted
CREATE TABLE emailcorrelation (
  correlationid INTEGER PRIMARY KEY, activityid TEXT NOT NULL UNIQUE REFERENCES email ON DELETE CASCADE,
  createdon INTEGER NOT NULL, conversationid TEXT, words BLOB NOT NULL, addresses BLOB NOT NULL);
CREATE INDEX emailcorrelation_conversation ON emailcorrelation (conversationid, createdon) WHERE conversationid IS NOT NULL;

-- ours: the inverted index of smart matching; subjecthash stands for all words of the subject together
CREATE TABLE emailhash (
  addresshash INTEGER NOT NULL, subjecthash INTEGER NOT NULL, createdon INTEGER NOT NULL,
  correlationid INTEGER NOT NULL REFERENCES emailcorrelation ON DELETE CASCADE,
  PRIMARY KEY (addresshash, subjecthash, createdon, correlationid)) WITHOUT ROWID;
CREATE INDEX emailhash_newest ON emailhash (addresshash, createdon);
CREATE INDEX emailhash_email ON emailhash (correlationid);

-- ours: e-mails of an older file whose hashes are still to be made are those with a smaller rowid; empty when there is none
CREATE TABLE hashbacklog (onlyrow INTEGER PRIMARY KEY CHECK (onlyrow = 1), beforerow INTEGER NOT NULL);
INSERT INTO hashbacklog SELECT 1, max(rowid) + 1 FROM email HAVING count(*) > 0;

-- ours: what was reported about the recipients of an e-mail that was sent, the last word for each; addresskey is the address in lower
-- case. And which reports were taken in already
CREATE TABLE emaildelivery (
  activityid TEXT NOT NULL REFERENCES email ON DELETE CASCADE, addresskey TEXT NOT NULL, address TEXT NOT NULL,
  action TEXT NOT NULL, status TEXT, diagnostic TEXT, reportedon INTEGER NOT NULL, report TEXT NOT NULL,
  PRIMARY KEY (activityid, addresskey)) WITHOUT ROWID;
CREATE TABLE emaildeliveryreport (
  activityid TEXT NOT NULL REFERENCES email ON DELETE CASCADE, report TEXT NOT NULL, reportedon INTEGER NOT NULL,
  PRIMARY KEY (activityid, report)) WITHOUT ROWID;

-- parties whose address no record had
CREATE INDEX activityparty_unresolved ON activityparty (addressused COLLATE NOCASE) WHERE partyid IS NULL;
";

const DEFAULT_QUEUES: &str = "
ALTER TABLE systemuser ADD COLUMN queueid TEXT REFERENCES queue ON DELETE SET NULL;
";

/// Opens the file for writing, creates it when it is not there, brings it to the newest version.
pub(super) fn connect_writer(file: &Path) -> DbResult<Connection> {
    connect_writer_with(file, STEPS)
}

/// As [`connect_writer`] with the program that knows only these steps.
pub(super) fn connect_writer_with(file: &Path, steps: &[&str]) -> DbResult<Connection> {
    create_owner_only(file)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(file, flags)?;
    set_up(&conn)?;
    // the first that reads the file: here a damaged one is found
    refuse_others(&conn, file)?;
    let mode: String = conn.query_row("PRAGMA journal_mode = WAL", [], |r| r.get(0))?;
    if mode != "wal" {
        return Err(Error::new(
            ErrorKind::Storage,
            format!(
                "the file system of {} cannot hold the CRM: SQLite chose {mode} instead of WAL",
                file.display()
            ),
        )
        .with_hint("put the file on a local file system")
        .into());
    }
    conn.execute_batch(
        "PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 4000; PRAGMA journal_size_limit = 67108864",
    )?;
    migrate(&mut conn, file, steps)?;
    Ok(conn)
}

/// Opens a file that is there for looking only: creates and changes nothing.
pub(super) fn connect_to_look(file: &Path) -> DbResult<Connection> {
    if file.try_exists().is_ok_and(|there| !there) {
        return Err(Error::new(ErrorKind::NotFound, format!("the CRM file {} is not there", file.display()))
            .with_hint("`email-router crm add` makes it with the first record, `email-router run` an empty one; or correct Path of the deployment")
            .into());
    }
    let conn = if at_rest(file) {
        let flags =
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
        let conn = Connection::open_with_flags(immutable(file), flags)?;
        set_up(&conn)?;
        conn
    } else {
        connect_reader(file)?
    };
    let version = conn.query_row("PRAGMA user_version", [], |r| r.get::<_, u32>(0))? as usize;
    refuse_others(&conn, file)?;
    match version.cmp(&STEPS.len()) {
        std::cmp::Ordering::Equal => Ok(conn),
        std::cmp::Ordering::Greater => Err(too_new(file, version, STEPS.len())),
        std::cmp::Ordering::Less => Err(Error::new(
            ErrorKind::Damaged,
            format!(
                "the CRM file {} has version {version}; this program needs version {}",
                file.display(),
                STEPS.len()
            ),
        )
        .with_hint(
            "start the router, or let `email-router crm` change something: that brings the file up to date",
        )
        .into()),
    }
}

/// Whether this program may not write the file or beside it, and nobody has it open, or there would be side files. Then it is read as
/// it lies: a connection of the usual kind would make side files, which may be impossible, or be in the owner's way.
fn at_rest(file: &Path) -> bool {
    let mut wal = file.as_os_str().to_owned();
    wal.push("-wal");
    let folder = file.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    !(Path::new(&wal).exists() || may_write(file) && may_write(folder))
}

/// The file as SQLite's URI for a file that nobody changes.
fn immutable(file: &Path) -> String {
    let mut uri = "file:".to_owned();
    for byte in file.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' => uri.push(char::from(*byte)),
            b if b.is_ascii_alphanumeric() => uri.push(char::from(*b)),
            b => uri.push_str(&format!("%{b:02X}")),
        }
    }
    uri + "?immutable=1"
}

/// Opens the file for reading.
pub(super) fn connect_reader(file: &Path) -> DbResult<Connection> {
    // read-write, since a reader may have to recover the write-ahead log; query_only keeps it from changing anything
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(file, flags)?;
    set_up(&conn)?;
    conn.execute_batch("PRAGMA query_only = ON")?;
    Ok(conn)
}

fn set_up(conn: &Connection) -> DbResult<()> {
    conn.busy_timeout(BUSY_TIMEOUT)?;
    conn.set_prepared_statement_cache_capacity(96);
    // Plans do not depend on the values that are bound. Without this a statement that could use a partial index is prepared anew each
    // time it is given values, which costs more than to run it.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    conn.execute_batch("PRAGMA foreign_keys = ON; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -16384; PRAGMA trusted_schema = OFF")?;
    Ok(())
}

fn migrate(conn: &mut Connection, file: &Path, steps: &[&str]) -> DbResult<()> {
    // immediate: two programs that open a new file at once make its tables once
    let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let version: usize = tx.query_row("PRAGMA user_version", [], |r| r.get::<_, u32>(0))? as usize;
    if version > steps.len() {
        return Err(too_new(file, version, steps.len()));
    }
    for (number, step) in steps.iter().enumerate().skip(version) {
        tx.execute_batch(step)?;
        tx.pragma_update(None, "user_version", u32::try_from(number + 1).unwrap_or(u32::MAX))?;
        tracing::info!(file = %file.display(), version = number + 1, "CRM file brought to version");
    }
    if version == 0 {
        tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    }
    tx.commit()?;
    Ok(())
}

fn refuse_others(conn: &Connection, file: &Path) -> DbResult<()> {
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0))?;
    let id: i32 = conn.query_row("PRAGMA application_id", [], |r| r.get(0))?;
    if tables > 0 && id != APPLICATION_ID {
        let text = format!("{} is an SQLite file, but not one of an embedded CRM", file.display());
        return Err(Error::new(ErrorKind::Damaged, text).with_hint("name another file for the CRM").into());
    }
    Ok(())
}

fn too_new(file: &Path, version: usize, known: usize) -> DbError {
    let text = format!(
        "the CRM file {} has version {version}; this program knows versions up to {known}",
        file.display()
    );
    Error::new(ErrorKind::Damaged, text)
        .with_hint("use the newer program that wrote it, or restore a backup from before that")
        .into()
}

/// Creates the file, readable for its owner only, when it is not there. The -wal and -shm files take over its permissions.
fn create_owner_only(file: &Path) -> DbResult<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(file) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => {
            let whose = who_denies(file).map(|text| format!("; {text}")).unwrap_or_default();
            let text = format!("cannot create the CRM file {}: {e}{whose}", file.display());
            Err(Error::new(ErrorKind::Storage, text)
                .with_hint("check that the folder exists and that this user may write it")
                .with_source(e)
                .into())
        }
    }
}
