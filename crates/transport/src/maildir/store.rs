//! The files themselves. Everything here blocks and belongs on a blocking thread.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use email_router_model::{RawMessage, RemoteId, Scope, Timestamp, header, read_capped};

use super::error;
use super::listing::{Entry, Links, fingerprint, messages, place, scan};
use super::proto::{self, FileName};
use crate::{Disposition, Error, ErrorKind, ReceiveOptions, Result, Stub};

/// How many messages one trip to the blocking thread looks at while listing.
const LISTED_AT_ONCE: usize = 64;
/// After how many calls a picture of the directory is too old to answer where a message went.
const PICTURE_LASTS: u32 = 256;

/// Makes sure that this is a Maildir whose folders are real directories. The root itself may be a symbolic link, which its administrator
/// made; a link inside could lead into the mailbox of somebody else.
pub(crate) fn check(root: &Path) -> Result<()> {
    let found = fs::metadata(root).map_err(|e| error::directory("open it", root, e))?;
    if !found.is_dir() {
        return Err(error::not_a_maildir(root, "it is no directory"));
    }
    for folder in ["cur", "new", "tmp"] {
        real_directory(&root.join(folder))?;
    }
    Ok(())
}

fn real_directory(path: &Path) -> Result<()> {
    let found = fs::symlink_metadata(path).map_err(|e| error::directory("open it", path, e))?;
    if found.is_symlink() {
        return Err(error::not_a_maildir(path, "it is a symbolic link"));
    }
    if !found.is_dir() {
        return Err(error::not_a_maildir(path, "it is no directory"));
    }
    Ok(())
}

/// Whether this process may create and remove files there; asks, and changes nothing.
pub(crate) fn writable(path: &Path) -> bool {
    #[cfg(unix)]
    return rustix::fs::access(path, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_ok();
    #[cfg(not(unix))]
    return fs::metadata(path).is_ok_and(|m| !m.permissions().readonly());
}

/// Creates what is missing of a Maildir, for its owner only.
pub(crate) fn create(root: &Path) -> Result<()> {
    let mut created = false;
    for folder in ["tmp", "new", "cur"] {
        let path = root.join(folder);
        if fs::symlink_metadata(&path).is_ok() {
            continue; // whatever it is, the check below judges it
        }
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&path).map_err(|e| error::directory("create it", &path, e))?;
        created = true;
    }
    check(root)?;
    if created {
        // a message that is durable in a directory that is not would be lost with it
        for directory in
            [Some(root), root.parent().filter(|p| !p.as_os_str().is_empty())].into_iter().flatten()
        {
            sync_directory(directory).map_err(|e| error::directory("make it durable", directory, e))?;
        }
    }
    Ok(())
}

pub(crate) fn modified(metadata: &Metadata) -> Option<Timestamp> {
    Timestamp::try_from(metadata.modified().ok()?).ok()
}

/// Opens a regular file, never through a symbolic link, and never waits for the other end of a pipe.
pub(crate) fn open(path: &Path) -> io::Result<(File, Metadata)> {
    open_regular(path, Links::PassOver)
}

/// As [`open`], also through a symbolic link where `links` says so.
pub(crate) fn open_regular(path: &Path, links: Links) -> io::Result<(File, Metadata)> {
    let mut options = fs::OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        let follow = if links == Links::List { OFlags::empty() } else { OFlags::NOFOLLOW };
        let flags = follow | OFlags::NONBLOCK;
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, flags.bits().cast_signed());
    }
    #[cfg(not(unix))]
    let _ = links;
    let file = options.open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    Ok((file, metadata))
}

/// The header section of a file, without reading its body.
pub(crate) fn read_headers(mut file: impl Read, path: &Path, limit: u64) -> Result<Bytes> {
    let mut bytes = Vec::new();
    let mut chunk = vec![0; 16 * 1024];
    loop {
        let end = header::section_end(&bytes);
        let complete =
            end < bytes.len() || bytes[..end].ends_with(b"\n\n") || bytes[..end].ends_with(b"\n\r\n");
        if !complete && end as u64 <= limit {
            let n = match file.read(&mut chunk) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(error::message("read it", path, e)),
            };
            bytes.extend_from_slice(&chunk[..n]);
            if n > 0 {
                continue;
            }
        }
        if end as u64 > limit {
            let text = format!(
                "maildir {}: the header section is larger than the limit of {limit} bytes",
                path.display()
            );
            return Err(Error::new(ErrorKind::TooLarge, text));
        }
        bytes.truncate(end);
        return Ok(Bytes::from(bytes));
    }
}

/// Where a message was found last, and what tells it from another file that has its base name.
#[derive(Debug, Clone)]
struct Known {
    in_new: bool,
    name: Vec<u8>,
    /// Device and number of the file, which stay when another program renames it.
    file: Option<(u64, u64)>,
    twin: Option<String>,
}

/// A Maildir that is being read.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
    options: ReceiveOptions,
    remaining: std::vec::IntoIter<Entry>,
    budget: usize,
    known: HashMap<RemoteId, Known>,
    /// What lay in the directory when it was last looked at, and how many calls ago.
    picture: Option<(Vec<Entry>, u32)>,
    changed: HashSet<PathBuf>,
}

impl Store {
    pub(crate) fn open(root: PathBuf, options: ReceiveOptions) -> Result<Self> {
        check(&root)?;
        let entries = messages(&root, Links::PassOver)?;
        // all twins before the first is listed: a file that belongs to one of them is never taken for another
        let twins = entries.iter().filter(|e| e.twin.is_some()).map(|e| (e.id(), Known::at(e))).collect();
        Ok(Self {
            root,
            budget: options.max_messages,
            options,
            remaining: entries.into_iter(),
            known: twins,
            picture: None,
            changed: HashSet::new(),
        })
    }

    /// The next few messages; none at the end.
    pub(crate) fn list_some(&mut self) -> Result<VecDeque<Stub>> {
        let mut stubs = VecDeque::new();
        while stubs.len() < LISTED_AT_ONCE && self.budget > 0 {
            let Some(entry) = self.remaining.next() else { break };
            let id = entry.id();
            self.known.entry(id.clone()).or_insert_with(|| Known::at(&entry));
            // a file that vanished or changed its name meanwhile; one that is there but unreadable is listed, and fetch says why
            let metadata = match self.locate(&id)? {
                Some(path) => fs::symlink_metadata(path).ok(),
                None => continue,
            };
            if let Some(known) = self.known.get_mut(&id) {
                known.file = metadata.as_ref().and_then(file_number);
            }
            let received = metadata.as_ref().and_then(modified);
            let size = metadata.map(|m| m.len());
            stubs.push_back(Stub { size, received, ..Stub::new(id) });
            self.budget -= 1;
        }
        Ok(stubs)
    }

    pub(crate) fn headers(&mut self, id: &RemoteId) -> Result<Bytes> {
        let limit = self.options.max_header_bytes;
        self.with_file(id, |file, _, path| read_headers(file, path, limit))
    }

    pub(crate) fn fetch(&mut self, id: &RemoteId) -> Result<RawMessage> {
        let limit = self.options.max_message_bytes;
        self.with_file(id, |file, metadata, path| {
            let bytes = read_capped(file, limit, "the message").map_err(|e| error::capped(path, e))?;
            let mut message = RawMessage::new(bytes);
            message.received = modified(metadata);
            Ok(message)
        })
    }

    /// Does it at once; what is gone is left alone.
    pub(crate) fn dispose(&mut self, id: &RemoteId, what: &Disposition) -> Result<()> {
        let mut tries = 0;
        loop {
            tries += 1;
            let Some(path) = self.locate(id)? else { return Ok(()) };
            let done = match what {
                Disposition::Keep => return Ok(()),
                Disposition::Delete => fs::remove_file(&path).map_err(|e| ("remove it", e)),
                Disposition::MarkRead => self.mark_read(&path, id).map_err(|e| ("mark it as read", e)),
                Disposition::Move(folder) => {
                    // the folder is at fault, not the inbox: whoever cannot be moved stays, and the others go on
                    let target = self.folder(folder).map_err(|e| e.with_scope(Scope::Message))?;
                    self.move_to(&path, &target).map_err(|e| ("move it", e))
                }
            };
            match done {
                Ok(()) => {
                    self.changed.extend(path.parent().map(Path::to_owned));
                    return Ok(());
                }
                // somebody else changed its flags or took it: look again
                Err((_, e)) if e.kind() == io::ErrorKind::NotFound && tries < 5 => {}
                Err((doing, e)) => return Err(error::message(doing, &path, e)),
            }
        }
    }

    /// Makes all dispositions durable.
    pub(crate) fn commit(&mut self) -> Result<()> {
        for directory in self.changed.drain() {
            sync_directory(&directory).map_err(|e| error::directory("make it durable", &directory, e))?;
        }
        Ok(())
    }

    fn with_file<T>(
        &mut self,
        id: &RemoteId,
        read: impl Fn(File, &Metadata, &Path) -> Result<T>,
    ) -> Result<T> {
        let text = format!("maildir {}: {id:?} is no longer there", self.root.display());
        let gone = Error::new(ErrorKind::MessageGone, text);
        let mut tries = 0;
        loop {
            tries += 1;
            let Some(path) = self.locate(id)? else { return Err(gone) };
            match open(&path) {
                Ok((file, metadata)) => return read(file, &metadata, &path),
                Err(e) if e.kind() == io::ErrorKind::NotFound && tries < 5 => {}
                Err(e) => return Err(error::message("open it", &path, e)),
            }
        }
    }

    /// Where the message is now; `None` when it is gone. Looks where it was last, then where a flag change usually puts it, then in the
    /// whole directory; that costs time in proportion to the directory, so the picture it gives is kept for a while.
    ///
    /// Another file of the same base name is never taken for it: that one was not read, and would be deleted in its place.
    fn locate(&mut self, id: &RemoteId) -> Result<Option<PathBuf>> {
        let known = self.known.get(id).cloned();
        if let Some(Known { twin: Some(twin), .. }) = &known {
            return self.locate_twin(id, twin);
        }
        let Some(base) = proto::base_of(id) else { return Ok(None) };
        if let Some(known) = known {
            let path = place(&self.root, known.in_new, &known.name);
            if is_file(&path) {
                return Ok(Some(path));
            }
            let info = proto::INFO.as_bytes();
            for (in_new, end) in [(false, [info, b"S"].concat()), (false, info.to_vec()), (true, Vec::new())]
            {
                let entry = Entry { time: (0, 0), name: [&base[..], &end].concat(), in_new, twin: None };
                let path = entry.path(&self.root);
                if is_file(&path) && known.is(&path) {
                    self.moved(id, &entry);
                    return Ok(Some(path));
                }
            }
        }
        for _ in 0..2 {
            if let Some((entries, age)) = &mut self.picture {
                *age += 1;
                let from = entries.partition_point(|e| proto::base(&e.name) < &base[..]);
                let named = entries[from..].iter().take_while(|e| proto::base(&e.name) == base);
                let there: Vec<Entry> =
                    named.clone().filter(|e| is_file(&e.path(&self.root))).cloned().collect();
                // a name that is gone does not come back; one that moved on is worth another look
                if named.count() == 0 && *age < PICTURE_LASTS {
                    return Ok(None);
                }
                let mut fit = there.iter().filter(|e| match self.known.get(id) {
                    Some(known) => known.is(&e.path(&self.root)),
                    None => true,
                });
                if let (Some(only), None) = (fit.next(), fit.next()) {
                    self.moved(id, only);
                    return Ok(Some(only.path(&self.root)));
                }
            }
            self.picture = Some((scan(&self.root, Links::PassOver)?, 0));
        }
        Ok(None)
    }

    /// As [`Self::locate`], for one of several files with the same base name: its content tells which it is.
    fn locate_twin(&mut self, id: &RemoteId, twin: &str) -> Result<Option<PathBuf>> {
        let content = twin.split_once('-').map_or(twin, |(_, content)| content);
        let Some(known) = self.known.get(id) else { return Ok(None) };
        let fits = |e: &Entry| {
            let path = e.path(&self.root);
            is_file(&path) && known.is(&path) && fingerprint(&path, Links::PassOver) == content
        };
        let last = Entry { time: (0, 0), name: known.name.clone(), in_new: known.in_new, twin: None };
        if fits(&last) {
            return Ok(Some(last.path(&self.root)));
        }
        let others: HashSet<(bool, &[u8])> = self
            .known
            .iter()
            .filter(|(other, _)| *other != id)
            .map(|(_, k)| (k.in_new, &k.name[..]))
            .collect();
        let base = last.base();
        let found = scan(&self.root, Links::PassOver)?
            .into_iter()
            .find(|e| proto::base(&e.name) == base && !others.contains(&(e.in_new, &e.name)) && fits(e));
        let path = found.as_ref().map(|e| e.path(&self.root));
        if let Some(entry) = found {
            self.moved(id, &entry);
        }
        Ok(path)
    }

    /// Remembers the new place of a message that was listed.
    fn moved(&mut self, id: &RemoteId, to: &Entry) {
        if let Some(known) = self.known.get_mut(id) {
            known.in_new = to.in_new;
            known.name = to.name.clone();
        }
    }

    fn mark_read(&mut self, path: &Path, id: &RemoteId) -> io::Result<()> {
        let name = FileName::parse(&proto::name_bytes(path.file_name().unwrap_or_default())).with(b'S');
        let cur = self.root.join("cur");
        for copy in 0..MOST_COPIES {
            let target = cur.join(name.copy(copy).in_cur());
            if target != path {
                // a rename would replace what is there
                if fs::symlink_metadata(&target).is_ok() {
                    continue;
                }
                fs::rename(path, &target)?;
            }
            let name = proto::name_bytes(target.file_name().unwrap_or_default());
            self.moved(id, &Entry { time: (0, 0), name, in_new: false, twin: None });
            self.changed.insert(cur);
            return Ok(());
        }
        Err(too_many_copies())
    }

    /// The Maildir++ folder of this name, created for its owner only when it is missing.
    fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.root.join(proto::folder_directory(name)?);
        if fs::symlink_metadata(&folder).is_ok_and(|m| m.is_symlink()) {
            return Err(error::not_a_maildir(&folder, "it is a symbolic link"));
        }
        create(&folder)?;
        // Maildir++: an empty file of this name tells a delivery agent that it is inside a folder
        let mark = folder.join("maildirfolder");
        match new_file(&mark) {
            Ok(_) => Ok(folder),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(folder),
            Err(e) => Err(error::directory("create it", &mark, e)),
        }
    }

    /// Moves a file with its flags; never over another one. The target is durable before the source goes, so a crash leaves the message in
    /// both places and never in none; doing it again then finds the same file there and only removes the source.
    fn move_to(&mut self, path: &Path, folder: &Path) -> io::Result<()> {
        let in_new = path.parent() == Some(&self.root.join("new"));
        let directory = folder.join(if in_new { "new" } else { "cur" });
        let name = proto::name_bytes(path.file_name().unwrap_or_default());
        for copy in 0..MOST_COPIES {
            let fresh = FileName::parse(&name).copy(copy);
            let target = match copy {
                0 => proto::os_string(name.clone()),
                _ if in_new => proto::os_string(fresh.base),
                _ => fresh.in_cur(),
            };
            match publish(path, &directory.join(target)) {
                Ok(()) => {
                    sync_directory(&directory)?;
                    return match fs::remove_file(path) {
                        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
                        _ => Ok(()),
                    };
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
        Err(too_many_copies())
    }
}

impl Known {
    fn at(entry: &Entry) -> Self {
        Self { in_new: entry.in_new, name: entry.name.clone(), file: None, twin: entry.twin.clone() }
    }

    /// Whether this is the file that was listed, as far as the system tells.
    fn is(&self, path: &Path) -> bool {
        let now = fs::symlink_metadata(path).ok().as_ref().and_then(file_number);
        self.file.is_none() || self.file == now
    }
}

/// So many files of one base name are more than anything would make.
const MOST_COPIES: usize = 1000;

fn too_many_copies() -> io::Error {
    let text = format!("{MOST_COPIES} files of this name are there");
    io::Error::new(io::ErrorKind::AlreadyExists, text)
}

fn is_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.is_file())
}

/// Device and number of a file, where the system has them.
fn file_number(metadata: &Metadata) -> Option<(u64, u64)> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        Some((metadata.dev(), metadata.ino()))
    }
    #[cfg(not(unix))]
    {
        let _ = metadata;
        None
    }
}

/// Gives a complete file its final name; never over another file. Succeeds when it already has that name too. The source may be gone
/// afterwards.
pub(super) fn publish(source: &Path, target: &Path) -> io::Result<()> {
    match fs::hard_link(source, target) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && same_file(source, target) => Ok(()),
        Err(e) if matches!(e.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) => Err(e),
        // file systems without hard links, and kernels that protect other people's files from them
        Err(_) if fs::symlink_metadata(target).is_ok() => Err(io::ErrorKind::AlreadyExists.into()),
        Err(_) => fs::rename(source, target),
    }
}

fn same_file(a: &Path, b: &Path) -> bool {
    let number = |p| fs::symlink_metadata(p).ok().as_ref().and_then(file_number);
    number(a).is_some() && number(a) == number(b)
}

pub(super) fn new_file(path: &Path) -> io::Result<File> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(path)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}
