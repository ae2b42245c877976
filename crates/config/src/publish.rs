//! Publishing: putting a checked configuration in the place of the old one.

use std::fmt;
use std::io;
use std::path::Path;

use email_router_model::{CapError, Direction, read_file_capped};

use crate::document::{Document, EditError};
use crate::files;
use crate::finding::{Code, Finding, Severity};
use crate::load::{check, check_bytes, previous_path, text_of};
use crate::settings::{Settings, same_name};
use crate::tree::{self, MAX_BYTES, Node, shorten};

/// What [`publish`] did.
#[derive(Debug, Clone)]
pub struct Published {
    /// What the file now says.
    pub settings: Settings,
    /// Warnings.
    pub findings: Vec<Finding>,
    /// Whether the file that was there before is kept as the previous generation; `false` where there was none, or one that is
    /// damaged or has faults and must not push out a good previous generation.
    pub kept_previous: bool,
}

/// Why nothing was published; the file is as it was.
#[derive(Debug)]
#[non_exhaustive]
pub enum PublishError {
    /// The new text has faults.
    Invalid(Vec<Finding>),
    /// The file there is cannot be changed: it is not there, damaged, or would be damaged.
    Document(String),
    /// A file operation failed.
    Io {
        /// What was tried, with the file's name.
        what: String,
        /// The cause.
        source: io::Error,
    },
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(findings) => {
                let errors = findings.iter().filter(|f| f.is_error());
                write!(f, "nothing was published, the new configuration has faults")?;
                errors.take(1).try_for_each(|e| write!(f, ": {e}"))
            }
            Self::Document(what) => write!(f, "nothing was published: {what}"),
            Self::Io { what, source } => write!(f, "nothing was published, cannot {what}: {source}"),
        }
    }
}

impl std::error::Error for PublishError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Invalid(_) | Self::Document(_) => None,
            Self::Io { source, .. } => Some(source),
        }
    }
}

/// Publishes a text, or the bytes of a file, as the configuration file at `path`.
///
/// In this order: the text is checked, as a router that loads it would; it is held against the file it replaces, where a profile of the same name must have the
/// same direction; the old file, if settings can be made of it, becomes `NAME.previous`; the new one is written to a temporary file of its
/// owner's only, given the owner and permissions of the old one, synced, and renamed into place; the folder is synced. Where `path`
/// is a symbolic link, the file it leads to is replaced; `NAME.previous` stands beside the link, where loading looks for it. A crash at any moment leaves a whole file, the old or the new
/// one. Publishers of one folder wait for each other.
///
/// # Errors
/// [`PublishError`]; nothing has changed at `path` then.
pub fn publish(path: &Path, new: &(impl AsRef<[u8]> + ?Sized)) -> Result<Published, PublishError> {
    let _lock = files::lock_folder(path).map_err(|e| io_error("lock the folder of", path, e))?;
    publish_locked(path, new.as_ref())
}

/// Changes the configuration file at `path` and publishes it, as [`publish`] does; `None` where `edit` changed nothing, and nothing is written then. `edit`
/// gets what the file says besides. Nobody else publishes meanwhile, so that no change of another is lost.
///
/// # Errors
/// [`PublishError`], also for a file that has faults before; nothing has changed at `path` then.
pub fn publish_edited(
    path: &Path,
    edit: impl FnOnce(&mut Document, &Settings) -> Result<(), EditError>,
) -> Result<Option<Published>, PublishError> {
    let _lock = files::lock_folder(path).map_err(|e| io_error("lock the folder of", path, e))?;
    let mut document = Document::load(path).map_err(PublishError::Document)?;
    let before = document.as_str().to_owned();
    let settings = match check(&before, path) {
        (Some(settings), _) => settings,
        (None, findings) => return Err(PublishError::Invalid(findings)),
    };
    edit(&mut document, &settings).map_err(|e| PublishError::Document(e.to_string()))?;
    if document.as_str() == before {
        return Ok(None);
    }
    publish_locked(path, document.as_str().as_bytes()).map(Some)
}

/// Replaces a small file that is kept beside the configuration or the state, as [`publish`] replaces the configuration: a crash leaves the old or the
/// new one. One that was not there is readable by its owner only.
///
/// # Errors
/// The file operation that failed.
pub fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let _lock = files::lock_folder(path)?;
    files::replace(path, content)
}

/// [`publish`] for a caller that holds the folder's lock.
pub(crate) fn publish_locked(path: &Path, new: &[u8]) -> Result<Published, PublishError> {
    let (settings, mut findings) = check_bytes(new, path);
    let current = read_old(path)?;
    let current = current.as_deref().and_then(usable);
    let previous = previous_path(path);
    let older = read_old(&previous)?;
    if let (Some(old), Some(new)) = (current.or_else(|| older.as_deref().and_then(usable)), usable(new)) {
        findings.extend(changed_directions(&directions(old), &directions(new), path));
    }
    let settings = match settings {
        Some(settings) if !findings.iter().any(Finding::is_error) => settings,
        _ => return Err(PublishError::Invalid(findings)),
    };
    // what takes over when the new file is damaged has to be something that works
    let current = current.filter(|text| check(text, path).0.is_some());
    if let Some(current) = current {
        files::replace_like(&previous, current.as_bytes(), path)
            .map_err(|e| io_error("write", &previous, e))?;
    }
    files::replace(path, new).map_err(|e| io_error("write", path, e))?;
    Ok(Published { settings, findings, kept_previous: current.is_some() })
}

fn io_error(what: &str, path: &Path, source: io::Error) -> PublishError {
    PublishError::Io { what: format!("{what} {}", path.display()), source }
}

/// The old file's bytes; `None` where there is none or it is too large to be one of ours.
fn read_old(path: &Path) -> Result<Option<Vec<u8>>, PublishError> {
    match read_file_capped(path, MAX_BYTES as u64) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(CapError::Io { source, .. }) if source.kind() != io::ErrorKind::NotFound => {
            Err(io_error("read", path, source))
        }
        Err(_) => Ok(None),
    }
}

/// The text, where it is at least well-formed: the directions in it can be read whatever other faults it has.
fn usable(bytes: &[u8]) -> Option<&str> {
    text_of(bytes).ok().filter(|text| tree::parse(text).is_ok())
}

/// A profile's name, direction, and place.
type Way = (String, Direction, crate::finding::Position);

fn directions(text: &str) -> Vec<Way> {
    tree::parse(text).map(|root| directions_of(&root)).unwrap_or_default()
}

/// Read from the tree and not from settings, since the old file may have faults elsewhere.
fn directions_of(root: &Node) -> Vec<Way> {
    let child = |node: &Node, name: &str| {
        let found = node.children.iter().find(|c| c.is(name));
        found.map(|c| (c.text.trim().to_owned(), c.at))
    };
    let sections = root.children.iter().filter(|c| c.is("ConfigurationProfiles"));
    let profiles = sections.flat_map(|s| &s.children).filter(|c| c.is("ConfigurationProfile"));
    let way = |profile: &Node| {
        let (name, _) = child(profile, "Name")?;
        let (direction, at) = child(profile, "Direction")?;
        let direction = match direction.to_ascii_lowercase().as_str() {
            "incoming" => Direction::Incoming,
            "outgoing" => Direction::Outgoing,
            _ => return None,
        };
        Some((name, direction, at))
    };
    profiles.filter_map(way).collect()
}

/// "Direction cannot be changed after saving" (behaviour document 6.1).
fn changed_directions(old: &[Way], new: &[Way], path: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, direction, at) in new {
        let was = old.iter().find(|(o, _, _)| same_name(o, name)).map(|o| o.1);
        if let Some(was) = was.filter(|was| was != direction) {
            let message = format!(
                "profile \"{}\": Direction was saved as {was} and cannot be changed to {direction}; make a new profile \
                 under another name",
                shorten(name)
            );
            let element = "Configuration/ConfigurationProfiles/ConfigurationProfile/Direction";
            findings.push(Finding::new(Severity::Error, Code::DirectionChanged, path, *at, element, message));
        }
    }
    findings
}
