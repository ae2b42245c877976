//! Files that only their owner may read, replaced so that a crash leaves the old or the new one, never half of one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use email_router_model::Entropy;

/// Creates a file with this content, readable and writable by its owner only. Fails when it exists.
pub(crate) fn create_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    let mut file = options.open(path)?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    if written.is_err() {
        let _ = std::fs::remove_file(path); // the write error is what the caller has to know
    }
    written
}

/// The same, so that nobody ever sees a part of it, not even after a crash.
pub(crate) fn create_whole(path: &Path, content: &[u8], entropy: &dyn Entropy) -> io::Result<()> {
    let temporary = beside(path, &format!(".{:016x}", entropy.next_u64()));
    create_private(&temporary, content)?;
    // unlike a rename, a link never replaces what is there
    let linked = std::fs::hard_link(&temporary, path);
    let removed = std::fs::remove_file(&temporary);
    linked.and(removed)?;
    sync_folder(path)
}

/// Puts a file with this content in the place of `path`: temporary file in the same folder, fsync, rename, fsync of the folder.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = beside(path, ".new");
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {} // left over from a crash; writers hold the folder's lock
    }
    create_private(&temporary, content)?;
    if let Err(error) = std::fs::rename(&temporary, path) {
        let _ = std::fs::remove_file(&temporary); // the rename error is what the caller has to know
        return Err(error);
    }
    sync_folder(path)
}

/// `NAME` with something appended.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

/// The folder of a file; `.` where the path names none.
pub(crate) fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Keeps other publishers of the same folder out until it is dropped. On Windows folders cannot be locked; there, two publishers
/// at the same moment are kept apart only by the creation of the temporary file.
pub(crate) fn lock_folder(path: &Path) -> io::Result<Option<File>> {
    if cfg!(not(unix)) {
        return Ok(None);
    }
    let file = File::open(folder(path))?;
    file.lock()?;
    Ok(Some(file))
}

fn sync_folder(path: &Path) -> io::Result<()> {
    // a rename is durable only once the folder is; Windows has no such call and needs none
    if cfg!(unix) { File::open(folder(path))?.sync_all() } else { Ok(()) }
}
