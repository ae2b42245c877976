//! Writing messages into a Maildir, and finding them again. Everything here blocks and belongs on a blocking thread.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use email_router_model::{Headers, MessageId, Timestamp};

use super::error;
use super::listing::{Links, for_each_file};
use super::proto::{self, FileName};
use super::store::{check, modified, new_file, open, publish, read_headers, sync_directory};
use crate::{ReceiveOptions, Result};

/// Specification: "a file in tmp which was not accessed in 36 hours" may be deleted. Seconds.
const STALE_AFTER: i64 = 36 * 60 * 60;

/// A message written to `tmp` and durable there, not yet delivered. Dropping it takes it away again.
#[derive(Debug)]
pub(crate) struct Written {
    root: PathBuf,
    name: String,
}

/// Writes a new message to `tmp`.
pub(crate) fn write(root: &Path, name: String, pieces: &[&[u8]]) -> Result<Written> {
    let path = root.join("tmp").join(&name);
    let failed = |e| error::directory("write to it", &path, e);
    let mut file = new_file(&path).map_err(failed)?;
    let written = Written { root: root.to_owned(), name };
    pieces.iter().try_for_each(|piece| file.write_all(piece)).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    Ok(written)
}

impl Written {
    /// Delivers it. An error that is in doubt means: readers can see it, but a power cut could undo it.
    pub(crate) fn deliver(self) -> Result<()> {
        let new = self.root.join("new");
        let (source, target) = (self.root.join("tmp").join(&self.name), new.join(&self.name));
        publish(&source, &target).map_err(|e| error::directory("deliver to it", &target, e))?;
        sync_directory(&new).map_err(|e| {
            error::directory("make it durable", &new, e).with_retry(email_router_model::Retry::InDoubt)
        })
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        // gone already where it was renamed; where that fails for another reason the 36-hour rule takes care of it
        let _ = fs::remove_file(self.root.join("tmp").join(&self.name));
    }
}

/// Removes what a crash left in `tmp` 36 hours ago or earlier. Failures do not matter: the next start tries again.
pub(crate) fn clean(root: &Path, now: Timestamp) {
    let _ = for_each_file(&root.join("tmp"), Links::PassOver, |_, file| {
        let age = file.metadata().ok().and_then(|m| modified(&m)).map(|t| now.as_second() - t.as_second());
        if age.is_some_and(|seconds| seconds > STALE_AFTER) {
            let _ = fs::remove_file(file.path());
        }
    });
}

/// Whether a message with this Message-ID lies in the Maildir or one of its folders.
pub(crate) fn contains(root: &Path, message_id: &MessageId) -> Result<bool> {
    match fs::metadata(root) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        _ => check(root)?,
    }
    let mut directories = vec![root.to_owned()];
    let failed = |e| error::directory("list it", root, e);
    for entry in fs::read_dir(root).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = proto::name_bytes(&entry.file_name());
        if name.starts_with(b".") && entry.file_type().is_ok_and(|t| t.is_dir()) {
            directories.push(entry.path());
        }
    }
    let tag = proto::tag_of(message_id);
    // names tell where we wrote them; files with other names are opened, and only when no name tells
    let mut untold = Vec::new();
    for directory in directories {
        for folder in ["new", "cur"] {
            let mut candidates = Vec::new();
            let listed = for_each_file(&directory.join(folder), Links::PassOver, |name, file| {
                match proto::tag_in(&FileName::parse(&name).base) {
                    Some(found) if found == tag.as_bytes() => candidates.push(file.path()),
                    Some(_) => {}
                    None => untold.push(file.path()),
                }
            });
            // a directory that begins with a dot and is no folder
            if let Err(e) = listed
                && directory == root
            {
                return Err(e);
            }
            if candidates.iter().any(|path| has_message_id(path, message_id)) {
                return Ok(true);
            }
        }
    }
    Ok(untold.iter().any(|path| has_message_id(path, message_id)))
}

fn has_message_id(path: &Path, wanted: &MessageId) -> bool {
    let limit = ReceiveOptions::default().max_header_bytes;
    let Ok((file, _)) = open(path) else { return false };
    let Ok(section) = read_headers(file, path, limit) else { return false };
    let found = Headers::new(&section).get("Message-ID").and_then(|value| MessageId::parse(&value));
    found.is_some_and(|id| id == *wanted)
}
