//! Which messages lie in a Maildir.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use email_router_model::{RawMessage, RemoteId, read_capped};

use super::store::{modified, open_regular};
use super::{error, proto};
use crate::Result;

/// One file in `new` or `cur`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Seconds and microseconds of the delivery.
    pub(crate) time: (i64, u32),
    /// The whole file name.
    pub(crate) name: Vec<u8>,
    /// In `new`, else in `cur`.
    pub(crate) in_new: bool,
    /// What tells it from other files of the same base name; `None` where there is no other.
    pub(crate) twin: Option<String>,
}

impl Entry {
    /// The base name, and behind a slash, which no file name has, what tells twins apart.
    pub(crate) fn id(&self) -> RemoteId {
        let id = proto::id_of(proto::base(&self.name));
        match &self.twin {
            Some(twin) => RemoteId::new(format!("{id}/{twin}")),
            None => id,
        }
    }

    pub(crate) fn path(&self, root: &Path) -> PathBuf {
        place(root, self.in_new, &self.name)
    }

    pub(crate) fn base(&self) -> Vec<u8> {
        proto::base(&self.name).to_vec()
    }
}

pub(super) fn place(root: &Path, in_new: bool, name: &[u8]) -> PathBuf {
    root.join(if in_new { "new" } else { "cur" }).join(proto::os_string(name.to_vec()))
}

/// What is to become of symbolic links to messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    /// They are no messages: the owner of a mailbox could have whatever this process may read delivered, and the file he links to deleted.
    PassOver,
    /// They are listed; whoever reads one says how far it may lead.
    List,
}

/// All messages, oldest first, each with an id of its own. Only names are kept; a file is asked for its time only where the name does not
/// tell.
///
/// A base name is unique in a Maildir, but copying, restoring or synchronizing can put a second file of that name beside the first. Passing
/// over one would lose it, and what is decided about one must not be done to the other: so each is listed, told apart by its content.
pub(crate) fn messages(root: &Path, links: Links) -> Result<Vec<Entry>> {
    let mut found = Vec::new();
    let mut rest = scan(root, links)?.into_iter().peekable();
    while let Some(first) = rest.next() {
        let base = first.base();
        let mut group = vec![first];
        while let Some(twin) = rest.next_if(|e| proto::base(&e.name) == base) {
            group.push(twin);
        }
        if group.len() > 1 {
            group = tell_apart(root, links, group);
        }
        found.append(&mut group);
    }
    found.sort_unstable_by(|a, b| {
        (a.time, proto::base(&a.name), &a.twin).cmp(&(b.time, proto::base(&b.name), &b.twin))
    });
    Ok(found)
}

/// All names, sorted by base name. A message that is moved meanwhile may be there twice.
pub(super) fn scan(root: &Path, links: Links) -> Result<Vec<Entry>> {
    let mut entries: Vec<Entry> = Vec::new();
    // new first: what somebody moves from new to cur meanwhile is then seen twice rather than not at all
    for (folder, in_new) in [("new", true), ("cur", false)] {
        for_each_file(&root.join(folder), links, |name, file| {
            let time = proto::time_in_name(proto::base(&name)).unwrap_or_else(|| {
                let modified = file.metadata().ok().and_then(|m| modified(&m));
                modified.map_or((0, 0), |t| (t.as_second(), t.subsec_microsecond().unsigned_abs()))
            });
            entries.push(Entry { time, name, in_new, twin: None });
        })?;
    }
    entries.sort_unstable_by(|a, b| {
        (proto::base(&a.name), a.in_new, &a.name).cmp(&(proto::base(&b.name), b.in_new, &b.name))
    });
    Ok(entries)
}

/// Of entries with one base name those whose files are there: more than one get marks that flags do not change.
fn tell_apart(root: &Path, links: Links, group: Vec<Entry>) -> Vec<Entry> {
    let is_there =
        |e: &Entry| !fs::symlink_metadata(e.path(root)).is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
    let (mut there, moved): (Vec<Entry>, Vec<Entry>) = group.into_iter().partition(is_there);
    if there.len() < 2 {
        // one message that was moved while the folders were read; where it is now shows when it is asked for
        let missing = 1 - there.len();
        there.extend(moved.into_iter().take(missing));
        return there;
    }
    let mut copies: HashMap<String, usize> = HashMap::new();
    for entry in &mut there {
        let content = fingerprint(&entry.path(root), links);
        let copy = copies.entry(content.clone()).or_default();
        *copy += 1;
        entry.twin = Some(format!("{copy}-{content}"));
    }
    there
}

/// How much of a file goes into its fingerprint. Bytes.
const FINGERPRINTED: u64 = 64 * 1024;

/// Tells files of one base name apart: the size and a digest of the beginning. What is the same even then is numbered; one that cannot be
/// read has a fingerprint too, so that reading it tells why.
pub(super) fn fingerprint(path: &Path, links: Links) -> String {
    let read = open_regular(path, links).ok().and_then(|(file, metadata)| {
        Some((metadata, read_capped(file.take(FINGERPRINTED), FINGERPRINTED, "the message").ok()?))
    });
    match read {
        Some((metadata, start)) => format!("{}-{}", metadata.len(), &RawMessage::new(start).digest()[..16]),
        None => "unread".to_owned(),
    }
}

pub(super) fn for_each_file(
    directory: &Path,
    links: Links,
    mut see: impl FnMut(Vec<u8>, &fs::DirEntry),
) -> Result<()> {
    let failed = |e| error::directory("list it", directory, e);
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = proto::name_bytes(&entry.file_name());
        let counts = |kind: fs::FileType| kind.is_file() || (kind.is_symlink() && links == Links::List);
        if name.first() != Some(&b'.') && entry.file_type().is_ok_and(counts) {
            see(name, &entry);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was seen in `new` and again in `cur`, because it was moved in between, is one message with its ordinary id.
    #[test]
    fn a_message_moved_while_listing_is_no_twin() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("cur")).unwrap();
        let entry = |name: &str, in_new| Entry { time: (1, 0), name: name.into(), in_new, twin: None };
        let seen = ["1.x:2,", "1.x:2,S"].map(|name| entry(&name.replace(":2,", proto::INFO), false));
        let seen = [&[entry("1.x", true)], &seen[..]].concat();
        let left = |seen: &[Entry]| {
            let left = tell_apart(root.path(), Links::PassOver, seen.to_vec());
            assert!(left.len() == 1 && left[0].id().as_str() == "1.x", "{left:?}");
            left[0].path(root.path())
        };
        left(&seen); // it was moved on, to where nobody has looked yet
        let now = seen[2].path(root.path());
        fs::write(&now, "").unwrap();
        assert_eq!(left(&seen), now);
    }
}
