//! Faults of the file system as errors of this crate.

use std::io;
use std::path::Path;

use email_router_model::{CapError, Scope};

use crate::{Error, ErrorKind};

/// What an operation on a directory of a mailbox met; hurts the whole mailbox.
pub(crate) fn directory(doing: &str, path: &Path, source: io::Error) -> Error {
    let shown = path.display();
    let text = format!("maildir {shown}: cannot {doing}: {source}");
    match source.kind() {
        io::ErrorKind::NotFound => Error::new(ErrorKind::Settings, text).with_hint(format!(
            "there is no Maildir at {shown}; correct the path, or create it with the folders tmp, new and cur"
        )),
        io::ErrorKind::PermissionDenied => Error::new(ErrorKind::AccessDenied, text)
            .with_hint(format!("give the account that runs the router read and write permission on {shown}")),
        io::ErrorKind::NotADirectory => {
            Error::new(ErrorKind::Settings, text).with_hint(format!("{shown} must be a directory"))
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Error::new(ErrorKind::Storage, text).with_hint("free some space")
        }
        _ => Error::new(ErrorKind::Storage, text),
    }
    .with_source(source)
}

/// What an operation on one message met; hurts this message only.
pub(crate) fn message(doing: &str, path: &Path, source: io::Error) -> Error {
    let kind = match source.kind() {
        io::ErrorKind::NotFound => ErrorKind::MessageGone,
        _ => ErrorKind::Storage,
    };
    Error::new(kind, format!("maildir {}: cannot {doing}: {source}", path.display()))
        .with_scope(Scope::Message)
        .with_source(source)
}

/// What a capped read met.
pub(crate) fn capped(path: &Path, error: CapError) -> Error {
    match error {
        CapError::Io { source, .. } => message("read it", path, source),
        too_large => Error::new(ErrorKind::TooLarge, format!("maildir {}: {too_large}", path.display())),
    }
}

/// The directory at `path` is something a Maildir must not have there.
pub(crate) fn not_a_maildir(path: &Path, what: &str) -> Error {
    let shown = path.display();
    Error::new(ErrorKind::Settings, format!("maildir {shown}: {what}"))
        .with_hint("a Maildir is a directory with the folders tmp, new and cur, which are no symbolic links")
}
