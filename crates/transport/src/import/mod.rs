//! Mail that lies in files, as a source for backfill: one `.eml` file, a folder tree of them, an mbox, a Maildir.
//!
//! A [`MessageSource`] gives messages one by one, in a fixed order, with an id that is the same at every run and a [`Position`] from which a
//! later run goes on. It reads only, keeps no more than one message in memory, and is synchronous: call it on a blocking thread.
//!
//! | source | order | id |
//! |---|---|---|
//! | [`EmlFiles`] | by path, folder by folder | the path below the folder that was opened |
//! | [`Mbox`] | as in the file | SHA-256 of the message, since an mbox has no ids |
//! | [`MaildirSource`] | oldest first | the one [`MaildirTransport`](crate::maildir::MaildirTransport) gives |
//!
//! # Symbolic links
//! A source may be a symbolic link, or lie behind one: it is the file or folder itself that is opened, and named in errors, so the ids and
//! positions are the same either way. Within a folder or a Maildir a link to a file gives the message that lies there, with the id of the
//! link, where the link belongs to root, to whoever imports, or to the owner of that file: else the owner of a mailbox could make a link to
//! what only the importer may read, and get it as an e-mail. A link that is not followed for that reason, leads nowhere, in a circle or to
//! a folder is an error of scope *message*. The folders `new` and `cur` of a Maildir may not be links.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # std::fs::write(folder.path().join("hello.eml"), "Subject: hello\n\n")?;
//! use email_router_transport::import::{self, ImportLimits};
//! let mut source = import::open(folder.path(), ImportLimits::default())?;
//! while let Some(item) = source.next_message()? {
//!     println!("{} {:?} {}", item.id, item.message.headers().get("Subject"), item.position);
//! }
//! # Ok(())
//! # }
//! ```

mod eml;
mod maildir;
pub mod mbox;

use std::fmt;
use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use email_router_model::{CapError, RawMessage, RemoteId, Scope};
use serde::{Deserialize, Serialize};

pub use eml::EmlFiles;
pub use maildir::MaildirSource;
pub use mbox::{Mbox, Quoting};

use crate::maildir::listing::Links;
use crate::maildir::proto;
use crate::maildir::store;
use crate::{Error, ErrorKind, Result};

/// Gives messages one by one.
pub trait MessageSource: fmt::Debug + Send {
    /// The next message, or `None` after the last.
    ///
    /// # Errors
    /// Of scope *message* when this one cannot be had (too large, unreadable, damaged): the source goes on behind it. Any other scope
    /// ends it.
    fn next_message(&mut self) -> Result<Option<Imported>>;

    /// Goes on behind a position that an earlier run reached, given before the first message is taken.
    ///
    /// # Errors
    /// [`ErrorKind::Settings`] when the position belongs to another kind of source, or the source has changed so that it no longer exists.
    fn resume_after(&mut self, position: &Position) -> Result<()>;

    /// Behind everything that was given so far, failures included; `None` before the first message.
    fn position(&self) -> Option<Position>;

    /// How far it is.
    fn progress(&self) -> Progress;
}

/// A message from a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Its id: the same at every run.
    pub id: RemoteId,
    /// Behind this message: where to go on when it is done.
    pub position: Position,
    /// The message, exactly as it lies there (an mbox: its quoting undone).
    pub message: RawMessage,
}

/// A place in a source. Its text is opaque; it is meant to be kept in a state store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(String);

impl Position {
    pub(crate) fn new(kind: &str, place: impl fmt::Display) -> Self {
        Self(format!("{kind}:{place}"))
    }

    /// What stands behind the kind, when it is this kind.
    pub(crate) fn place(&self, kind: &str) -> Result<&str> {
        self.0.strip_prefix(kind).and_then(|rest| rest.strip_prefix(':')).ok_or_else(|| self.unusable(kind))
    }

    pub(crate) fn unusable(&self, kind: &str) -> Error {
        Error::new(ErrorKind::Settings, format!("import: {:?} is no position in this {kind} source", self.0))
            .with_hint("the source changed since; start from the beginning: what is known already is not delivered twice")
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Position {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let known = ["eml", "maildir", "mbox"].iter().any(|kind| text.starts_with(&format!("{kind}:")));
        let position = Self(text.to_owned());
        if known { Ok(position) } else { Err(position.unusable("file")) }
    }
}

/// How far a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Progress {
    /// Messages given.
    pub messages: u64,
    /// Messages that could not be had.
    pub failed: u64,
    /// Bytes that lie behind, those skipped by [`MessageSource::resume_after`] included.
    pub done_bytes: u64,
    /// Bytes in all, as they were when the source was opened.
    pub total_bytes: u64,
}

/// What a source may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImportLimits {
    /// A larger message is not read: [`ErrorKind::TooLarge`]. Bytes.
    pub max_message_bytes: u64,
}

impl Default for ImportLimits {
    /// 150 MiB a message.
    fn default() -> Self {
        Self { max_message_bytes: 150 * 1024 * 1024 }
    }
}

impl ImportLimits {
    /// The same with another largest message, in bytes.
    #[must_use]
    pub fn with_max_message_bytes(mut self, bytes: u64) -> Self {
        self.max_message_bytes = bytes;
        self
    }
}

/// Opens whatever lies at `path`: a folder with `new` and `cur` is a Maildir, any other folder a tree of `.eml` files, a file that begins with
/// `From ` (or is named `.mbox`) an mbox in its usual quoting, any other file one message.
///
/// # Errors
/// [`ErrorKind::Settings`] when nothing is there, [`ErrorKind::AccessDenied`], [`ErrorKind::Storage`]; each names the path.
pub fn open(path: &Path, limits: ImportLimits) -> Result<Box<dyn MessageSource>> {
    let path = &*resolve(path)?;
    let found = fs::metadata(path).map_err(|e| unreadable(path, e))?;
    if found.is_dir() {
        return Ok(match path.join("new").is_dir() && path.join("cur").is_dir() {
            true => Box::new(MaildirSource::open(path, limits)?),
            false => Box::new(EmlFiles::open(path, limits)?),
        });
    }
    let named_mbox = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("mbox"));
    if named_mbox || mbox::looks_like_mbox(path)? {
        return Ok(Box::new(Mbox::open(path, Quoting::default(), limits)?));
    }
    Ok(Box::new(EmlFiles::open(path, limits)?))
}

/// An error of the whole source.
fn unreadable(path: &Path, source: std::io::Error) -> Error {
    use std::io::ErrorKind as Io;
    let kind = match source.kind() {
        Io::NotFound => ErrorKind::Settings,
        Io::PermissionDenied => ErrorKind::AccessDenied,
        _ => ErrorKind::Storage,
    };
    Error::new(kind, format!("import {}: {source}", path.display())).with_source(source)
}

/// Where the source is, without links on the way: however it was named, it is the same source.
fn resolve(path: &Path) -> Result<PathBuf> {
    path.canonicalize().map_err(|e| unreadable(path, e))
}

/// An error of one message, or of a folder on the way to some.
fn fault(doing: &str, path: &Path, source: std::io::Error) -> Error {
    let kind = match source.kind() {
        std::io::ErrorKind::NotFound => ErrorKind::MessageGone,
        _ => ErrorKind::Storage,
    };
    let link = fs::read_link(path).map(|to| format!(" (a link to {})", to.display())).unwrap_or_default();
    Error::new(kind, format!("import {}{link}: cannot {doing}: {source}", path.display()))
        .with_scope(Scope::Message)
        .with_source(source)
}

/// Reads one file as one message; every fault is one of this message.
fn read_message(path: &Path, limits: ImportLimits) -> Result<RawMessage> {
    let (file, metadata) = open_message(path).map_err(|e| fault("open it", path, e))?;
    let bytes = email_router_model::read_capped(file, limits.max_message_bytes, "the message").map_err(
        |e| match e {
            CapError::Io { source, .. } => fault("read it", path, source),
            too_large => Error::new(ErrorKind::TooLarge, format!("import {}: {too_large}", path.display())),
        },
    )?;
    let mut message = RawMessage::new(bytes);
    message.received = store::modified(&metadata);
    Ok(message)
}

/// Opens a file, or what a link leads to.
fn open_message(path: &Path) -> io::Result<(File, Metadata)> {
    let directly = store::open(path);
    // asked before it is followed, and the file after it is open: whoever exchanges one of them meanwhile gains nothing
    let Some(link) = fs::symlink_metadata(path).ok().filter(|m| directly.is_err() && m.is_symlink()) else {
        return directly;
    };
    if path.is_dir() {
        return Err(io::Error::other("links to folders are not followed; import that folder by itself"));
    }
    let (file, metadata) = store::open_regular(path, Links::List)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let importer = rustix::process::geteuid().as_raw();
        if !may_follow(link.uid(), metadata.uid(), importer) {
            let text = "the link belongs to another user than the file; import that file by itself";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
    }
    #[cfg(not(unix))]
    let _ = link;
    Ok((file, metadata))
}

/// Whether a link of one user may lead to a file of another, for a third who imports: all of them by number.
#[cfg(unix)]
fn may_follow(link: u32, file: u32, importer: u32) -> bool {
    const ROOT: u32 = 0;
    [ROOT, file, importer].contains(&link)
}

/// The size of a file, also behind a link.
fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |m| if m.is_file() { m.len() } else { 0 })
}

/// The id of a file below the folder that was opened.
fn id_of_path(components: &[Vec<u8>]) -> RemoteId {
    let names: Vec<_> = components.iter().map(|c| proto::id_of(c).as_str().to_owned()).collect();
    RemoteId::new(names.join("/"))
}

#[cfg(test)]
mod tests;
