//! A mail system of your own behind `Transport`, checked by the suite that every transport of the project runs.
//!
//! ```sh
//! cargo run -p email-router-examples --example custom_transport
//! ```
//!
//! The mail system is a drop folder, as scanners and fax servers have them: one folder for each mailbox with one `.eml` file for each
//! message; outgoing messages become files in `out`, each with its envelope beside it.
#![allow(clippy::print_stdout)] // an example talks
#![allow(clippy::expect_used)] // a fixture that cannot work is a failed check

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use email_router::model::{
    EmailAddress, Headers, Mailbox, MailboxKind, RawMessage, RemoteId, Scope, read_file_capped,
};
use email_router::transport::contract::unsupported;
use email_router::transport::{
    Access, Capability, Disposition, Error, ErrorKind, Inbox, Outbound, Probe, ProbeStep, Receipt,
    ReceiveOptions, RecipientResult, RecipientStatus, Result, Stub, SubmitOptions, Transport,
};
use email_router_transport::conformance::{self, Fixture, Left, Submitted};

/// The mail system. A handle: cheap to share, no session in it.
#[derive(Debug)]
struct DropFolder {
    root: PathBuf,
    next: AtomicU64,
}

impl fmt::Display for DropFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "drop folder {}", self.root.display())
    }
}

impl DropFolder {
    fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), next: AtomicU64::new(0) }
    }

    /// An error that names the file and is tried again: disks fill up and are emptied.
    fn failed(&self, path: &Path, error: &io::Error) -> Error {
        Error::new(ErrorKind::Storage, format!("{self}: {}: {error}", path.display()))
    }

    fn folder(&self, mailbox: &Mailbox) -> PathBuf {
        self.root.join(mailbox.address.as_str())
    }

    /// The messages of a mailbox by name, which here is the order of arrival. No folder is an empty mailbox.
    fn list(&self, mailbox: &Mailbox) -> Result<Vec<PathBuf>> {
        let folder = self.folder(mailbox);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(self.failed(&folder, &error)),
        };
        let mut files: Vec<PathBuf> = entries.filter_map(io::Result::ok).map(|e| e.path()).collect();
        files.retain(|f| f.extension().is_some_and(|e| e == "eml"));
        files.sort();
        Ok(files)
    }
}

#[async_trait]
impl Transport for DropFolder {
    fn capability(&self) -> Capability {
        // what is not promised here is never asked for
        let mut capability = Capability::default();
        (capability.receive, capability.submit) = (true, true);
        (capability.stable_ids, capability.delete) = (true, true);
        capability
    }

    async fn probe(&self, mailbox: &Mailbox, access: Access) -> Result<Probe> {
        let waiting = self.list(mailbox)?.len() as u64;
        let what = format!("{} can be listed", self.folder(mailbox).display());
        let messages = (access == Access::Incoming).then_some(waiting);
        Ok(Probe { steps: vec![ProbeStep { what, warning: None }], messages })
    }

    async fn receive(&self, mailbox: &Mailbox, options: ReceiveOptions) -> Result<Box<dyn Inbox>> {
        let waiting = self.list(mailbox)?.into_iter().take(options.max_messages).collect();
        Ok(Box::new(Session { name: self.to_string(), folder: self.folder(mailbox), waiting, options }))
    }

    async fn submit(&self, sender: &Mailbox, message: &Outbound, _: SubmitOptions) -> Result<Receipt> {
        let out = self.root.join("out");
        fs::create_dir_all(&out).map_err(|e| self.failed(&out, &e))?;
        let name = format!("{:08}-{}", self.next.fetch_add(1, Ordering::Relaxed), sender.id);
        let mut envelope =
            vec![message.envelope.sender.as_ref().map_or_else(String::new, ToString::to_string)];
        envelope.extend(message.envelope.recipients.iter().map(ToString::to_string));
        // the message last and by rename: a reader never sees half a message, nor one without its envelope
        let (path, temporary) = (out.join(format!("{name}.eml")), out.join(format!("{name}.tmp")));
        fs::write(out.join(format!("{name}.envelope")), envelope.join("\n"))
            .and_then(|()| fs::write(&temporary, crlf(&message.mime)))
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(|e| self.failed(&path, &e))?;
        let accepted = |address: &EmailAddress| RecipientResult {
            address: address.clone(),
            status: RecipientStatus::Accepted,
            reply: "written".to_owned(),
        };
        let recipients = message.envelope.recipients.iter().map(accepted).collect();
        Ok(Receipt { recipients, reply: format!("written to {}", path.display()) })
    }
}

/// The contract wants CRLF, whatever the message came with.
fn crlf(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\r' => {
                bytes.next_if_eq(&b'\n');
                out.extend_from_slice(b"\r\n");
            }
            b'\n' => out.extend_from_slice(b"\r\n"),
            other => out.push(other),
        }
    }
    out
}

/// One session on one mailbox.
struct Session {
    name: String,
    folder: PathBuf,
    waiting: VecDeque<PathBuf>,
    options: ReceiveOptions,
}

impl Session {
    /// The file of a message that is there. An id may come from anywhere, so only a bare file name counts.
    fn find(&self, id: &RemoteId) -> Result<(PathBuf, u64)> {
        let path = self.folder.join(id.as_str());
        let bare = path.file_name().is_some_and(|name| name == id.as_str()) && id.as_str().ends_with(".eml");
        match path.metadata() {
            Ok(about) if bare && about.is_file() => Ok((path, about.len())),
            _ => Err(Error::new(ErrorKind::MessageGone, format!("{}: {id} is gone", self.name))),
        }
    }
}

/// A fault of one file. After one of the whole mailbox every further call of the session would have to fail.
fn damaged(text: String) -> Error {
    Error::new(ErrorKind::Storage, text).with_scope(Scope::Message)
}

#[async_trait]
impl Inbox for Session {
    async fn next(&mut self) -> Result<Option<Stub>> {
        // one that went away meanwhile is passed over
        while let Some(path) = self.waiting.pop_front() {
            if let (Ok(about), Some(name)) = (path.metadata(), path.file_name()) {
                let id = RemoteId::new(name.to_string_lossy());
                return Ok(Some(Stub { size: Some(about.len()), ..Stub::new(id) }));
            }
        }
        Ok(None)
    }

    async fn headers(&mut self, id: &RemoteId) -> Result<Bytes> {
        let whole = self.fetch(id).await?;
        let section = Headers::new(whole.bytes());
        if section.as_bytes().len() as u64 > self.options.max_header_bytes {
            let limit = self.options.max_header_bytes;
            let text = format!("{}: the header section of {id} has more than {limit} bytes", self.name);
            return Err(Error::new(ErrorKind::TooLarge, text));
        }
        Ok(whole.bytes().slice(..section.as_bytes().len()))
    }

    async fn fetch(&mut self, id: &RemoteId) -> Result<RawMessage> {
        let (path, size) = self.find(id)?;
        if size > self.options.max_message_bytes {
            return Err(Error::new(ErrorKind::TooLarge, format!("{}: {id} has {size} bytes", self.name)));
        }
        let bytes = read_file_capped(&path, self.options.max_message_bytes)
            .map_err(|e| damaged(format!("{}: {e}", self.name)))?;
        Ok(RawMessage::new(bytes))
    }

    async fn dispose(&mut self, id: &RemoteId, what: Disposition) -> Result<()> {
        match what {
            Disposition::Keep => Ok(()),
            Disposition::Delete => match self.find(id) {
                Ok((path, _)) => {
                    fs::remove_file(path).map_err(|e| damaged(format!("{}: {id}: {e}", self.name)))
                }
                Err(_) => Ok(()), // what is gone already needs no more
            },
            Disposition::MarkRead => Err(unsupported(&self.name, "mark messages as read")),
            Disposition::Move(_) => Err(unsupported(&self.name, "move messages")),
        }
    }

    async fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// A fresh drop folder for each case of the suite, filled and looked at from outside.
struct Outside {
    folder: tempfile::TempDir,
    transport: Arc<DropFolder>,
    arrivals: AtomicU64,
}

impl Outside {
    fn fresh() -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let transport = Arc::new(DropFolder::new(folder.path()));
        Ok(Self { folder, transport, arrivals: AtomicU64::new(0) })
    }

    fn files(&self, folder: &str) -> Vec<PathBuf> {
        let read = fs::read_dir(self.folder.path().join(folder)).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> = read.map(|e| e.path()).collect();
        files.retain(|f| f.extension().is_some_and(|e| e == "eml"));
        files.sort();
        files
    }

    fn bytes(path: &Path) -> Vec<u8> {
        read_file_capped(path, 1 << 30).expect("a file of this test")
    }
}

#[async_trait]
impl Fixture for Outside {
    fn transport(&self) -> Arc<dyn Transport> {
        Arc::clone(&self.transport) as _
    }
    fn mailbox(&self, which: usize) -> Mailbox {
        let name = if which == 0 { "ann" } else { "bob" };
        let address = format!("{name}@example.com").parse().expect("an address");
        Mailbox { id: name.into(), kind: MailboxKind::User, name: name.to_owned(), address, login: None }
    }
    async fn put(&self, mailbox: &Mailbox, raw: &[u8]) {
        let folder = self.folder.path().join(mailbox.address.as_str());
        fs::create_dir_all(&folder).expect("a folder");
        let number = self.arrivals.fetch_add(1, Ordering::Relaxed);
        fs::write(folder.join(format!("{number:08}.eml")), raw).expect("a file");
    }
    async fn left(&self, mailbox: &Mailbox) -> Vec<Left> {
        let files = self.files(mailbox.address.as_str());
        files.iter().map(|f| Left { bytes: Self::bytes(f), read: None }).collect()
    }
    async fn empty(&self, mailbox: &Mailbox) -> bool {
        for file in self.files(mailbox.address.as_str()) {
            fs::remove_file(file).expect("a file of this test");
        }
        true
    }
    async fn submitted(&self) -> Vec<Submitted> {
        let read = |path: &PathBuf| {
            let envelope = String::from_utf8(Self::bytes(&path.with_extension("envelope"))).expect("UTF-8");
            let mut addresses = envelope.split('\n').map(|line| line.parse().ok());
            let sender = addresses.next().flatten();
            Submitted { sender, recipients: addresses.flatten().collect(), bytes: Self::bytes(path) }
        };
        self.files("out").iter().map(read).collect()
    }
}

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn StdError>> {
    println!("{} runs the conformance suite", DropFolder::new(Path::new("example")));
    conformance::run(|| async {
        Box::new(Outside::fresh().expect("a temporary folder")) as Box<dyn Fixture>
    })
    .await;
    println!("every case that its capability asks for held");

    // and in use
    let outside = Outside::fresh()?;
    let ann = outside.mailbox(0);
    outside.put(&ann, b"From: scanner@example.com\r\nSubject: Scan 17\r\n\r\nSee attachment.\r\n").await;
    let mut inbox = outside.transport().receive(&ann, ReceiveOptions::default()).await?;
    while let Some(stub) = inbox.next().await? {
        let message = inbox.fetch(&stub.id).await?;
        println!("{}: {}", stub.id, message.headers().get("Subject").unwrap_or_default());
        inbox.dispose(&stub.id, Disposition::Delete).await?;
    }
    inbox.close().await?;
    println!("left in the mailbox: {}", outside.left(&ann).await.len());
    Ok(())
}
