//! The files themselves. Everything here blocks and belongs on a blocking thread.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use email_router_model::{Headers, MessageId, RawMessage, RemoteId, Scope, Timestamp, header, read_capped};

use super::error;
use super::proto::{self, FileName};
use crate::{Disposition, Error, ErrorKind, ReceiveOptions, Result, Stub};

/// How many messages one trip to the blocking thread looks at while listing.
const LISTED_AT_ONCE: usize = 64;
/// After how many calls a picture of the directory is too old to answer where a message went.
const PICTURE_LASTS: u32 = 256;
/// Specification: "a file in tmp which was not accessed in 36 hours" may be deleted. Seconds.
const STALE_AFTER: i64 = 36 * 60 * 60;

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

fn place(root: &Path, in_new: bool, name: &[u8]) -> PathBuf {
    root.join(if in_new { "new" } else { "cur" }).join(proto::os_string(name.to_vec()))
}

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

/// What is to become of symbolic links to messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    /// They are no messages: the owner of a mailbox could have whatever this process may read delivered, and the file he links to deleted.
    PassOver,
    /// They are, wherever they lead.
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
fn scan(root: &Path, links: Links) -> Result<Vec<Entry>> {
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
fn fingerprint(path: &Path, links: Links) -> String {
    let read = open_regular(path, links).ok().and_then(|(file, metadata)| {
        Some((metadata, read_capped(file.take(FINGERPRINTED), FINGERPRINTED, "the message").ok()?))
    });
    match read {
        Some((metadata, start)) => format!("{}-{}", metadata.len(), &RawMessage::new(start).digest()[..16]),
        None => "unread".to_owned(),
    }
}

fn for_each_file(directory: &Path, links: Links, mut see: impl FnMut(Vec<u8>, &fs::DirEntry)) -> Result<()> {
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
            stubs.push_back(Stub { id, size, received, headers: None });
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
fn publish(source: &Path, target: &Path) -> io::Result<()> {
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

fn new_file(path: &Path) -> io::Result<File> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(path)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

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
