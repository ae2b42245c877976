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
///
/// Where `path` is a symbolic link, the file it leads to is replaced and the link stays. Owner, group and permissions are those of
/// `like` where that is there (on Unix), else the file belongs to whoever runs this and nobody else may read it: an administrator
/// who publishes must not lock the account of the service out.
pub(crate) fn replace_like(path: &Path, content: &[u8], like: &Path) -> io::Result<()> {
    put(path, content, like, None)
}

/// The same, but that nobody except the owner may read or write the file, whatever the permissions of `like` are.
pub(crate) fn replace_private(path: &Path, content: &[u8], like: &Path) -> io::Result<()> {
    put(path, content, like, Some(0o600))
}

fn put(path: &Path, content: &[u8], like: &Path, mode: Option<u32>) -> io::Result<()> {
    let path = &resolved(path)?;
    let temporary = beside(path, ".new");
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {} // left over from a crash; writers hold the folder's lock
    }
    create_private(&temporary, content)?;
    let put = take_over_owner(&temporary, like, mode).and_then(|()| std::fs::rename(&temporary, path));
    if put.is_err() {
        let _ = std::fs::remove_file(&temporary); // the first error is what the caller has to know
        return put;
    }
    sync_folder(path)
}

/// The same with the owner and the permissions of the file that is replaced.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    replace_like(path, content, path)
}

/// Where a path leads: itself, or the file that a symbolic link means. A link that leads nowhere is an error, as it was put there for
/// a file that somebody expects to be changed.
fn resolved(path: &Path) -> io::Result<PathBuf> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => path.canonicalize(),
        _ => Ok(path.to_owned()),
    }
}

#[cfg(unix)]
fn take_over_owner(file: &Path, like: &Path, mode: Option<u32>) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
    let wanted = match std::fs::metadata(like) {
        Ok(wanted) => wanted,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let file = File::options().write(true).open(file)?;
    let now = file.metadata()?;
    if (now.uid(), now.gid()) != (wanted.uid(), wanted.gid()) {
        fchown(&file, Some(wanted.uid()), Some(wanted.gid())).map_err(|error| {
            let message = format!(
                "the file belongs to user {} and group {}, which cannot be kept ({error}); run this as that user or as root",
                wanted.uid(),
                wanted.gid()
            );
            io::Error::new(error.kind(), message)
        })?;
    }
    file.set_permissions(std::fs::Permissions::from_mode(mode.unwrap_or(wanted.mode() & 0o777)))?;
    file.sync_all()
}

#[cfg(not(unix))]
fn take_over_owner(_: &Path, _: &Path, _: Option<u32>) -> io::Result<()> {
    Ok(())
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
    // by the file and not by a link to it, so that those who publish through several links wait for each other
    let file = File::open(folder(&resolved(path)?))?;
    file.lock()?;
    Ok(Some(file))
}

fn sync_folder(path: &Path) -> io::Result<()> {
    // a rename is durable only once the folder is; Windows has no such call and needs none
    if cfg!(unix) { File::open(folder(path))?.sync_all() } else { Ok(()) }
}
