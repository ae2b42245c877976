//! What SQLite says, in the terms of this crate.

use std::path::Path;

use email_router_model::who_denies;
use rusqlite::ErrorCode;

use crate::{Error, ErrorKind};

/// An error inside a statement or a transaction, before the name of the file is added.
#[derive(Debug)]
pub(super) enum DbError {
    /// SQLite refused.
    Sql(rusqlite::Error),
    /// A rule of the CRM was broken.
    Crm(Error),
}

pub(super) type DbResult<T> = Result<T, DbError>;

impl From<rusqlite::Error> for DbError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Error> for DbError {
    fn from(error: Error) -> Self {
        Self::Crm(error)
    }
}

impl DbError {
    /// The error callers see; `file` is named in it.
    pub(super) fn at(self, file: &Path) -> Error {
        match self {
            Self::Crm(error) => error,
            Self::Sql(error) => from_sqlite(error, file),
        }
    }
}

const DAMAGED_HINT: &str = "stop the router, keep a copy of the file with its -wal and -shm files, then restore a backup or rebuild it with \
     `sqlite3 FILE .recover | sqlite3 NEW`; the router never writes over a damaged file";

fn from_sqlite(error: rusqlite::Error, path: &Path) -> Error {
    let file = path.display();
    let kind = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => ErrorKind::Busy,
        Some(
            ErrorCode::DiskFull
            | ErrorCode::SystemIoFailure
            | ErrorCode::CannotOpen
            | ErrorCode::ReadOnly
            | ErrorCode::PermissionDenied
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::OutOfMemory,
        ) => ErrorKind::Storage,
        Some(ErrorCode::ConstraintViolation | ErrorCode::TooBig) => ErrorKind::Invalid,
        // not a database, malformed, or not of the shape that its version promises (missing table, column of another type)
        _ => ErrorKind::Damaged,
    };
    let (message, hint) = match (kind, error.sqlite_error_code()) {
        (ErrorKind::Busy, _) => (
            format!("the CRM file {file} is locked by another program"),
            "wait, or find out which program keeps the file open for writing",
        ),
        (ErrorKind::Storage, Some(ErrorCode::DiskFull)) => {
            (format!("no space left for the CRM file {file}"), "free space on that disk; nothing was lost")
        }
        (ErrorKind::Storage, _) => match who_denies(path) {
            Some(whose) => (
                format!("the CRM file {file} cannot be read or written: {error}; {whose}"),
                "run this as that user, or give the file, its -wal and -shm files and the folder to the user who runs the router (chown)",
            ),
            None => (
                format!("the CRM file {file} cannot be read or written: {error}"),
                "check that the folder exists, that this user may read and write it, and that the disk is well",
            ),
        },
        (ErrorKind::Invalid, _) => {
            (format!("the CRM file {file} refuses the record: {error}"), "correct the record")
        }
        _ => (format!("the CRM file {file} is damaged: {error}"), DAMAGED_HINT),
    };
    Error::new(kind, message).with_hint(hint).with_source(error)
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    fn map(code: i32) -> Error {
        DbError::Sql(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)).at(Path::new("crm.db"))
    }

    #[test]
    fn codes_become_kinds_that_say_what_to_do() {
        use email_router_model::{Classified as _, Retry};
        for (code, kind, retry) in [
            (ffi::SQLITE_FULL, ErrorKind::Storage, Retry::Later(None)),
            (ffi::SQLITE_IOERR, ErrorKind::Storage, Retry::Later(None)),
            (ffi::SQLITE_READONLY, ErrorKind::Storage, Retry::Later(None)),
            (ffi::SQLITE_BUSY, ErrorKind::Busy, Retry::Later(None)),
            (ffi::SQLITE_CORRUPT, ErrorKind::Damaged, Retry::Never),
            (ffi::SQLITE_NOTADB, ErrorKind::Damaged, Retry::Never),
            (ffi::SQLITE_CONSTRAINT, ErrorKind::Invalid, Retry::Never),
        ] {
            let error = map(code);
            assert_eq!((error.kind(), error.retry()), (kind, retry), "{code}");
            assert!(error.hint().is_some() && error.to_string().contains("crm.db"), "{error}");
        }
        assert_eq!(map(ffi::SQLITE_FULL).to_string(), "no space left for the CRM file crm.db");
    }
}
