//! What can go wrong with the file, in words that say what to do.

use std::path::Path;

use email_router_engine::StateError;
use email_router_model::who_denies;
use rusqlite::ffi::ErrorCode;

/// What a statement can end with.
#[derive(Debug)]
pub(super) enum Problem {
    /// SQLite failed.
    Sql(rusqlite::Error),
    /// A row holds what no version of this program writes.
    Content(String),
    /// The call itself is against the contract.
    Refused(StateError),
}

impl From<rusqlite::Error> for Problem {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl Problem {
    pub(super) fn into_state(self, path: &Path) -> StateError {
        match self {
            Self::Sql(error) => store_error(path, error),
            Self::Content(what) => damaged(path, &what, None),
            Self::Refused(error) => error,
        }
    }
}

/// Says what SQLite's error means for the person who runs the router.
pub(super) fn store_error(path: &Path, error: rusqlite::Error) -> StateError {
    let place = path.display();
    let denied;
    let (advice, transient) = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            let what = error.to_string();
            return damaged(path, &what, Some(Box::new(error)));
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            ("another process holds it for too long; it is tried again", true)
        }
        Some(ErrorCode::DiskFull) => ("the disk is full; make room, it is tried again", true),
        Some(ErrorCode::SystemIoFailure | ErrorCode::OutOfMemory) => {
            ("check the disk; it is tried again", true)
        }
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
            denied = whose_turn(path);
            (denied.as_str(), false)
        }
        _ => ("this is unexpected; please report it", false),
    };
    StateError {
        message: format!("the state file {place}: {error}; {advice}"),
        transient,
        source: Some(Box::new(error)),
    }
}

/// What to do about a file that this user may not open.
pub(super) fn whose_turn(path: &Path) -> String {
    match who_denies(path) {
        Some(whose) => {
            format!(
                "{whose}: run this as that user, or give the file and what is beside it to the user who runs the router (chown)"
            )
        }
        None => "its folder must exist, and the router must be allowed to write the file and its folder"
            .to_owned(),
    }
}

/// The file is damaged.
pub(super) fn damaged(
    path: &Path,
    what: &str,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
) -> StateError {
    let place = path.display();
    StateError {
        message: format!(
            "the state file {place} is damaged ({what}); stop the router, move {place} and its -wal and -shm files away, and \
             start again: no message is doubled in the CRM by that, mail is only read again; lost are thresholds, attempt \
             counts, the copies in quarantine and the send ledger (e-mails found in Sending are then reported, not sent again)"
        ),
        transient: false,
        source,
    }
}

/// The writing thread or the runtime ended before the call did.
pub(super) fn stopped(path: &Path) -> StateError {
    StateError {
        message: format!("the state file {} is being closed; nothing was written", path.display()),
        transient: true,
        source: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sql(code: i32) -> rusqlite::Error {
        rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None)
    }

    #[test]
    fn says_what_can_pass_by_itself() {
        use rusqlite::ffi;
        for (code, transient, word) in [
            (ffi::SQLITE_BUSY, true, "another process"),
            (ffi::SQLITE_FULL, true, "disk is full"),
            (ffi::SQLITE_IOERR, true, "check the disk"),
            (ffi::SQLITE_READONLY, false, "allowed to write"),
            (ffi::SQLITE_CORRUPT, false, "move"),
            (ffi::SQLITE_NOTADB, false, "move"),
        ] {
            let error = store_error(Path::new("state.db"), sql(code));
            assert_eq!(error.transient, transient, "{code}");
            assert!(error.message.contains(word) && error.message.contains("state.db"), "{}", error.message);
        }
    }
}
