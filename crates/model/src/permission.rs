//! Who may write a file, and who keeps this program from it: an error that names the owner is one a person can act on.

use std::path::{Path, PathBuf};

/// Whether this program's user may read and write the file or folder at `path`; `false` where it is not there. Asks without
/// opening: to close another handle of a file would drop the locks that SQLite holds on it.
#[must_use]
pub fn may_write(path: &Path) -> bool {
    #[cfg(unix)]
    {
        use rustix::fs::{Access, AtFlags, CWD, accessat};
        accessat(CWD, path, Access::READ_OK | Access::WRITE_OK, AtFlags::EACCESS).is_ok()
    }
    #[cfg(not(unix))]
    {
        std::fs::metadata(path).is_ok_and(|m| !m.permissions().readonly())
    }
}

/// Which of an SQLite file, its `-wal` and `-shm` files and its folder this program's user may not read and write, with owner and
/// mode: `crm.sqlite belongs to root (user 0) and has mode 600`. `None` where nothing is in the way, or the system does not tell.
#[must_use]
pub fn who_denies(file: &Path) -> Option<String> {
    let side = |suffix: &str| {
        let mut name = file.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    [file.to_owned(), side("-wal"), side("-shm"), folder.to_owned()]
        .into_iter()
        .find(|path| path.exists() && !may_write(path))
        .and_then(|path| described(&path))
}

#[cfg(unix)]
fn described(path: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt as _;
    let found = std::fs::metadata(path).ok()?;
    let root = if found.uid() == 0 { "root (user 0)".to_owned() } else { format!("user {}", found.uid()) };
    Some(format!("{} belongs to {root} and has mode {:o}", path.display(), found.mode() & 0o7777))
}

#[cfg(not(unix))]
fn described(path: &Path) -> Option<String> {
    Some(format!("{} is read-only", path.display()))
}
