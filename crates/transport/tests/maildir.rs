//! Maildir: the conformance suite, and what the suite cannot know about files.
#![cfg(all(feature = "conformance", feature = "maildir", unix))]
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use email_router_model::{
    Classified, Mailbox, MailboxKind, ManualClock, MessageId, RemoteId, Retry, Scope, SeededEntropy,
    Timestamp,
};
use email_router_transport::conformance::{self, Fixture, Left, Refused, Submitted};
use email_router_transport::layer::Operation;
use email_router_transport::maildir::{
    Delivery, MailboxPath, MaildirSettings, MaildirTransport, PathTemplate,
};
use email_router_transport::{
    Access, Disposition, Envelope, ErrorKind, Inbox, Outbound, ReceiveOptions, SubmitOptions, Transport,
};
use tempfile::TempDir;

fn mailbox(name: &str) -> Mailbox {
    Mailbox {
        id: name.into(),
        kind: MailboxKind::User,
        name: name.to_owned(),
        address: format!("{name}@conformance.example").parse().unwrap(),
        login: None,
    }
}

fn make_maildir(root: &Path) {
    for folder in ["tmp", "new", "cur"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut files: Vec<_> = entries.map(|e| e.unwrap().path()).filter(|p| p.is_file()).collect();
    files.sort();
    files
}

fn names(directory: &Path) -> Vec<String> {
    files(directory).iter().map(|p| p.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

fn read(path: &Path) -> Vec<u8> {
    email_router_model::read_file_capped(path, 10_000_000).unwrap()
}

struct World {
    directory: TempDir,
    transport: MaildirTransport,
    recipients: bool,
    count: AtomicU64,
}

impl World {
    fn new(recipients: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |tail: &str| PathTemplate::parse(&format!("{}/{tail}", directory.path().display())).unwrap();
        for name in ["ann", "bob"] {
            make_maildir(&directory.path().join(format!("{name}@conformance.example")));
        }
        for name in ["zoe", "abe", "mia"] {
            make_maildir(&directory.path().join(format!("to/{name}")));
        }
        let mut settings = MaildirSettings::incoming(MailboxPath::Template(at("{address}")));
        settings.delivery = Some(if recipients {
            Delivery::Recipients { template: at("to/{local}") }
        } else {
            let path = MailboxPath::Fixed(directory.path().join("out/box"));
            Delivery::Outbox { path, keeps_messages: true }
        });
        let clock = Arc::new(ManualClock::new(Timestamp::from_second(1_700_000_000).unwrap()));
        let transport = MaildirTransport::with_clock(settings, clock, Arc::new(SeededEntropy::new(1)));
        Self { directory, transport, recipients, count: AtomicU64::new(0) }
    }

    fn root(&self, mailbox: &Mailbox) -> PathBuf {
        self.directory.path().join(mailbox.address.as_str())
    }

    fn outbox(&self) -> PathBuf {
        self.directory.path().join("out/box")
    }
}

#[async_trait]
impl Fixture for World {
    fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(self.transport.clone())
    }
    fn mailbox(&self, which: usize) -> Mailbox {
        mailbox(["ann", "bob"][which])
    }
    async fn put(&self, mailbox: &Mailbox, raw: &[u8]) {
        // every other name without a time, and every third seen by a mail reader
        let n = self.count.fetch_add(1, Ordering::SeqCst);
        let folder = if n % 3 == 2 { ("cur", ":2,") } else { ("new", "") };
        let name = format!("{}.M{:06}P1.host{}", 1_600_000_000 + n / 10, n % 10, folder.1);
        fs::write(self.root(mailbox).join(folder.0).join(name), raw).unwrap();
    }
    async fn left(&self, mailbox: &Mailbox) -> Vec<Left> {
        let root = self.root(mailbox);
        let mut all = files(&root.join("new"));
        all.extend(files(&root.join("cur")));
        let left = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap();
            let read_flag = name.split_once(":2,").is_some_and(|(_, flags)| flags.contains('S'));
            Left { bytes: read(path), read: Some(read_flag) }
        };
        all.iter().map(left).collect()
    }
    async fn folder(&self, mailbox: &Mailbox, name: &str) -> Vec<Vec<u8>> {
        let root = self.root(mailbox).join(format!(".{name}"));
        let mut all = files(&root.join("new"));
        all.extend(files(&root.join("cur")));
        all.iter().map(|p| read(p)).collect()
    }
    async fn empty(&self, mailbox: &Mailbox) -> bool {
        for folder in ["new", "cur"] {
            files(&self.root(mailbox).join(folder)).iter().for_each(|p| fs::remove_file(p).unwrap());
        }
        true
    }
    async fn break_session(&self, mailbox: &Mailbox, _at: Operation) -> bool {
        for folder in ["new", "cur"] {
            fs::rename(self.root(mailbox).join(folder), self.root(mailbox).join(format!("{folder} away")))
                .unwrap();
        }
        true
    }
    async fn mend(&self, mailbox: &Mailbox) {
        for folder in ["new", "cur"] {
            fs::rename(self.root(mailbox).join(format!("{folder} away")), self.root(mailbox).join(folder))
                .unwrap();
        }
    }
    async fn submitted(&self) -> Vec<Submitted> {
        let directories = match self.recipients {
            true => ["zoe", "abe", "mia"].map(|n| self.directory.path().join(format!("to/{n}/new"))).to_vec(),
            false => vec![self.outbox().join("new")],
        };
        let mut submitted = Vec::new();
        for path in directories.iter().flat_map(|d| files(d)) {
            let bytes = read(&path);
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let mut lines = text.split("\r\n");
            let sender = lines
                .next()
                .unwrap()
                .strip_prefix("Return-Path: <")
                .unwrap()
                .trim_end_matches('>')
                .to_owned();
            let field = if self.recipients { "Delivered-To: " } else { "X-Envelope-To: " };
            let recipients = lines.map_while(|l| l.strip_prefix(field)).map(|a| a.parse().unwrap()).collect();
            submitted.push(Submitted { sender: sender.parse().ok(), recipients, bytes });
        }
        submitted
    }
    async fn refused_recipients(&self) -> Option<Refused> {
        let for_good = "nobody@conformance.example".parse().unwrap();
        self.recipients.then_some(Refused { for_good, for_now: None })
    }
    async fn locked_out(&self) -> Option<Mailbox> {
        Some(mailbox("missing"))
    }
}

#[tokio::test]
async fn conformance_with_an_outbox() {
    conformance::run(|| async { Box::new(World::new(false)) as Box<dyn Fixture> }).await;
}

#[tokio::test]
async fn conformance_with_recipients() {
    conformance::run(|| async { Box::new(World::new(true)) as Box<dyn Fixture> }).await;
}

#[tokio::test]
async fn conformance_receive_only_and_submit_only() {
    conformance::run(|| async {
        let mut world = World::new(false);
        let template = format!("{}/{{address}}", world.directory.path().display());
        let path = MailboxPath::Template(PathTemplate::parse(&template).unwrap());
        world.transport = MaildirTransport::new(MaildirSettings::incoming(path));
        Box::new(world) as Box<dyn Fixture>
    })
    .await;
    conformance::run(|| async {
        let mut world = World::new(false);
        let delivery = Delivery::Outbox { path: MailboxPath::Fixed(world.outbox()), keeps_messages: false };
        world.transport = MaildirTransport::new(MaildirSettings::outgoing(delivery));
        Box::new(world) as Box<dyn Fixture>
    })
    .await;
}

fn message(id: &str) -> Outbound {
    Outbound {
        envelope: Envelope {
            sender: Some("ann@conformance.example".parse().unwrap()),
            recipients: vec!["zoe@conformance.example".parse().unwrap()],
        },
        message_id: MessageId::parse(id).unwrap(),
        mime: Bytes::from(format!("Message-ID: <{id}>\n\nx\n")),
    }
}

#[tokio::test]
async fn names_of_any_bytes_and_foreign_flags_are_kept() {
    let world = World::new(false);
    let ann = mailbox("ann");
    let root = world.root(&ann);
    let strange = OsStr::from_bytes(b"w\xff\xfe n%ame\x01:1,x");
    fs::write(root.join("new").join(strange), "Subject: strange\n\n").unwrap();
    fs::write(root.join("cur/1700000000.flags:2,DTab"), "Subject: flags\n\n").unwrap();
    fs::write(root.join("cur/.hidden"), "x").unwrap();
    let mut inbox = world.transport.receive(&ann, ReceiveOptions::default()).await.unwrap();
    let mut ids = Vec::new();
    while let Some(stub) = inbox.next().await.unwrap() {
        inbox.fetch(&stub.id).await.unwrap();
        inbox.dispose(&stub.id, Disposition::MarkRead).await.unwrap();
        inbox.fetch(&stub.id).await.unwrap();
        ids.push(stub.id.as_str().to_owned());
    }
    inbox.close().await.unwrap();
    ids.sort();
    assert_eq!(ids, ["1700000000.flags", "w%FF%FE n%25ame%01:1,x"]);
    assert!(root.join("cur/1700000000.flags:2,DSTab").exists());
    assert!(root.join("cur").join(OsStr::from_bytes(b"w\xff\xfe n%ame\x01:1,x:2,S")).exists());
    assert!(names(&root.join("new")).is_empty());
}

#[tokio::test]
async fn flags_changed_by_somebody_else_during_the_session() {
    let world = World::new(false);
    let ann = mailbox("ann");
    let root = world.root(&ann);
    for n in 0..3 {
        fs::write(root.join(format!("new/170000000{n}.x")), format!("Subject: {n}\n\n")).unwrap();
    }
    let mut inbox = world.transport.receive(&ann, ReceiveOptions::default()).await.unwrap();
    let mut ids = Vec::new();
    while let Some(stub) = inbox.next().await.unwrap() {
        ids.push(stub.id);
    }
    fs::rename(root.join("new/1700000000.x"), root.join("cur/1700000000.x:2,FRS")).unwrap();
    fs::rename(root.join("new/1700000001.x"), root.join("cur/1700000001.x:2,S")).unwrap();
    for id in &ids {
        inbox.fetch(id).await.unwrap();
    }
    fs::rename(root.join("cur/1700000000.x:2,FRS"), root.join("cur/1700000000.x:2,FR")).unwrap();
    inbox.dispose(&ids[0], Disposition::MarkRead).await.unwrap();
    inbox.dispose(&ids[1], Disposition::Delete).await.unwrap();
    inbox.close().await.unwrap();
    assert_eq!(names(&root.join("cur")), ["1700000000.x:2,FRS"]);
}

/// What an inbox lists: id and content.
async fn listed(inbox: &mut dyn Inbox) -> Vec<(RemoteId, String)> {
    let mut found = Vec::new();
    while let Some(stub) = inbox.next().await.unwrap() {
        let content = inbox.fetch(&stub.id).await.unwrap();
        found.push((stub.id, String::from_utf8_lossy(content.bytes()).into_owned()));
    }
    found
}

/// All contents of a mailbox, sorted.
fn contents(root: &Path) -> Vec<String> {
    let all = [files(&root.join("new")), files(&root.join("cur"))].concat();
    let mut all: Vec<_> = all.iter().map(|p| String::from_utf8(read(p)).unwrap()).collect();
    all.sort();
    all
}

/// Files with one base name, two of which are copies of each other.
const TWINS: [(&str, &str); 5] = [
    ("new/1.x", "S: a\n\n"),
    ("cur/1.x:2,", "S: b\n\n"),
    ("cur/1.x:2,F", "S: copy\n\n"),
    ("cur/1.x:2,S", "S: copy\n\n"),
    ("new/2.x", "S: other\n\n"),
];

#[tokio::test]
async fn files_of_one_base_name_are_messages_of_their_own() {
    let world = World::new(false);
    let ann = mailbox("ann");
    let root = world.root(&ann);
    for (name, content) in TWINS {
        fs::write(root.join(name), content).unwrap();
    }
    let open = async || world.transport.receive(&ann, ReceiveOptions::default()).await.unwrap();
    let first = listed(&mut *open().await).await;
    let ids: HashSet<_> = first.iter().map(|(id, _)| id.clone()).collect();
    assert_eq!(ids.len(), 5, "{first:?}");
    assert_eq!(first[4], ("2.x".into(), "S: other\n\n".to_owned()));
    let mut read: Vec<_> = first.iter().map(|(_, content)| content.clone()).collect();
    read.sort();
    assert_eq!(read, contents(&root));
    let mut probe = world.transport.probe(&ann, Access::Incoming).await.unwrap();
    assert_eq!(probe.messages.take(), Some(5));
    // the same ids although flags change and files move
    fs::rename(root.join("cur/1.x:2,"), root.join("cur/1.x:2,DR")).unwrap();
    fs::rename(root.join("new/1.x"), root.join("cur/1.x:2,")).unwrap();
    let mut inbox = open().await;
    let second = listed(&mut *inbox).await;
    assert_eq!(second.iter().collect::<HashSet<_>>(), first.iter().collect());
    // a name that stands for all of them stands for none
    inbox.dispose(&"1.x".into(), Disposition::Delete).await.unwrap();
    assert_eq!(inbox.fetch(&"1.x".into()).await.unwrap_err().kind(), ErrorKind::MessageGone);
    // each is deleted by its own id, and by no other, however often and whatever happens to its name
    let mut due = contents(&root);
    for (n, (id, content)) in second.iter().take(3).enumerate() {
        for entry in files(&root.join("cur")) {
            let mut name = entry.file_name().unwrap().to_owned();
            name.push(["a", "b", "c"][n]);
            fs::rename(&entry, entry.with_file_name(name)).unwrap();
        }
        for _ in 0..2 {
            inbox.dispose(id, Disposition::Delete).await.unwrap();
        }
        due.remove(due.iter().position(|d| d == content).unwrap());
        assert_eq!(contents(&root), due, "{id}");
        assert_eq!(inbox.fetch(id).await.unwrap_err().kind(), ErrorKind::MessageGone);
    }
    inbox.close().await.unwrap();
    // the last one is alone
    assert_eq!(listed(&mut *open().await).await[0], ("1.x".into(), second[3].1.clone()));
}

#[tokio::test]
async fn twins_are_marked_and_moved_without_replacing_each_other() {
    for what in [Disposition::MarkRead, Disposition::Move("Old".to_owned())] {
        let world = World::new(false);
        let ann = mailbox("ann");
        let root = world.root(&ann);
        for (name, content) in TWINS {
            fs::write(root.join(name), content).unwrap();
        }
        let before = contents(&root);
        let mut inbox = world.transport.receive(&ann, ReceiveOptions::default()).await.unwrap();
        for (id, content) in listed(&mut *inbox).await {
            for _ in 0..2 {
                inbox.dispose(&id, what.clone()).await.unwrap();
            }
            if what == Disposition::MarkRead {
                assert_eq!(inbox.fetch(&id).await.unwrap().bytes(), content.as_bytes());
            }
        }
        inbox.close().await.unwrap();
        let after = if what == Disposition::MarkRead { root.clone() } else { root.join(".Old") };
        assert_eq!(contents(&after), before, "{what:?}");
        let marked = world.left(&ann).await.iter().filter(|l| l.read == Some(true)).count();
        assert_eq!(marked, if what == Disposition::MarkRead { 5 } else { 0 });
    }
}

/// Another file takes the name of one that was read, while the session goes on: it was not read, so nothing is done to it.
#[tokio::test]
async fn another_file_of_the_name_is_not_taken_for_the_one_that_was_read() {
    for name in ["cur/1.x:2,S", "cur/1.x:2,", "cur/1.x:2,RT"] {
        let world = World::new(false);
        let ann = mailbox("ann");
        let root = world.root(&ann);
        fs::write(root.join("new/1.x"), "S: read\n\n").unwrap();
        let mut inbox = world.transport.receive(&ann, ReceiveOptions::default()).await.unwrap();
        let id = listed(&mut *inbox).await.remove(0).0;
        fs::write(root.join(name), "S: not read\n\n").unwrap();
        fs::rename(root.join("new/1.x"), root.join("cur/1.x:2,F")).unwrap();
        assert_eq!(inbox.fetch(&id).await.unwrap().bytes(), &b"S: read\n\n"[..], "{name}");
        fs::remove_file(root.join("cur/1.x:2,F")).unwrap();
        assert_eq!(inbox.fetch(&id).await.unwrap_err().kind(), ErrorKind::MessageGone, "{name}");
        inbox.dispose(&id, Disposition::MarkRead).await.unwrap();
        inbox.dispose(&id, Disposition::Delete).await.unwrap();
        inbox.close().await.unwrap();
        assert_eq!(read(&root.join(name)), b"S: not read\n\n");
    }
}

/// A crash between the write and the rename leaves a file in tmp only; it is cleaned after 36 hours, not before.
#[tokio::test]
async fn a_crash_before_delivery_leaves_nothing_in_new() {
    let world = World::new(false);
    let (ann, outbox) = (mailbox("ann"), world.outbox());
    make_maildir(&outbox);
    for (name, age) in [("old", 37), ("young", 35)] {
        let path = outbox.join("tmp").join(name);
        fs::write(&path, "half a mess").unwrap();
        let then = Timestamp::from_second(1_700_000_000 - age * 3600).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(then.into()).unwrap();
    }
    assert!(names(&outbox.join("new")).is_empty());
    assert_eq!(
        world.transport.find_submitted(&ann, &MessageId::parse("half").unwrap()).await.unwrap(),
        Some(false)
    );
    world.transport.submit(&ann, &message("1@x"), SubmitOptions::default()).await.unwrap();
    assert_eq!(names(&outbox.join("tmp")), ["young"]);
    assert_eq!(names(&outbox.join("new")).len(), 1);
}

#[tokio::test]
async fn what_is_created_is_for_the_owner_only() {
    let world = World::new(false);
    let (ann, outbox) = (mailbox("ann"), world.outbox());
    world.transport.probe(&ann, Access::Outgoing).await.unwrap();
    assert!(!world.directory.path().join("out").exists(), "the probe created something");
    world.transport.submit(&ann, &message("1@x"), SubmitOptions::default()).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for directory in
        [outbox.parent().unwrap().to_owned(), outbox.clone(), outbox.join("new"), outbox.join("tmp")]
    {
        assert_eq!(mode(&directory), 0o700, "{}", directory.display());
    }
    assert_eq!(mode(&files(&outbox.join("new"))[0]), 0o600);
    let text = String::from_utf8(read(&files(&outbox.join("new"))[0])).unwrap();
    assert_eq!(
        text,
        "Return-Path: <ann@conformance.example>\r\nX-Envelope-To: zoe@conformance.example\r\n\
         Message-ID: <1@x>\r\n\r\nx\r\n"
    );
}

#[tokio::test]
async fn submissions_are_found_where_a_program_moved_them() {
    let world = World::new(false);
    let (ann, outbox) = (mailbox("ann"), world.outbox());
    let find =
        async |id: &str| world.transport.find_submitted(&ann, &MessageId::parse(id).unwrap()).await.unwrap();
    assert_eq!(find("1@x").await, Some(false), "an outbox that does not exist yet holds nothing");
    world.transport.submit(&ann, &message("1@x"), SubmitOptions::default()).await.unwrap();
    let file = files(&outbox.join("new")).remove(0);
    make_maildir(&outbox.join(".Sent"));
    fs::create_dir(outbox.join(".cache")).unwrap(); // no folder of mail
    let mut name = file.file_name().unwrap().to_owned();
    name.push(":2,S");
    fs::rename(&file, outbox.join(".Sent/cur").join(name)).unwrap();
    assert_eq!((find("1@x").await, find("2@x").await), (Some(true), Some(false)));
    // renamed beyond recognition
    let file = files(&outbox.join(".Sent/cur")).remove(0);
    fs::rename(&file, outbox.join(".Sent/cur/renamed")).unwrap();
    assert_eq!((find("1@x").await, find("2@x").await), (Some(true), Some(false)));
}

#[tokio::test]
async fn what_is_no_maildir_says_so() {
    let world = World::new(false);
    let ann = mailbox("ann");
    let root = world.root(&ann);
    let error_for = async |prepare: &dyn Fn()| {
        prepare();
        let opened = world.transport.receive(&ann, ReceiveOptions::default()).await.err().unwrap();
        let probed = world.transport.probe(&ann, Access::Incoming).await.unwrap_err();
        assert_eq!(opened.to_string(), probed.to_string());
        assert_eq!((opened.kind(), opened.scope()), (ErrorKind::Settings, Scope::Mailbox));
        assert!(opened.hint().is_some());
        opened.to_string()
    };
    let shown = root.display();
    let text = error_for(&|| fs::remove_dir(root.join("cur")).unwrap()).await;
    assert!(text.starts_with(&format!("maildir {shown}/cur: cannot open it: ")), "{text}");
    let text = error_for(&|| symlink("/etc", root.join("cur")).unwrap()).await;
    assert_eq!(text, format!("maildir {shown}/cur: it is a symbolic link"));
    let text = error_for(&|| {
        fs::remove_file(root.join("cur")).unwrap();
        fs::write(root.join("cur"), "").unwrap();
    })
    .await;
    assert_eq!(text, format!("maildir {shown}/cur: it is no directory"));
    let text = error_for(&|| {
        fs::remove_dir_all(&root).unwrap();
        fs::write(&root, "From ann\n").unwrap();
    })
    .await;
    assert_eq!(text, format!("maildir {shown}: it is no directory"));
    // an outbox whose new is a link is not written to
    make_maildir(&world.outbox());
    fs::remove_dir(world.outbox().join("new")).unwrap();
    let elsewhere = world.directory.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, world.outbox().join("new")).unwrap();
    let error = world.transport.submit(&ann, &message("1@x"), SubmitOptions::default()).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Settings, Retry::Never));
    assert!(files(&elsewhere).is_empty());
}

#[tokio::test]
async fn links_and_pipes_in_a_mailbox_are_no_messages() {
    let world = World::new(false);
    let ann = mailbox("ann");
    let root = world.root(&ann);
    let secret = world.directory.path().join("secret");
    fs::write(&secret, "Subject: secret\n\n").unwrap();
    symlink(&secret, root.join("new/1.link")).unwrap();
    fs::create_dir(root.join("new/2.directory")).unwrap();
    fs::write(root.join("new/3.file"), "Subject: x\n\n").unwrap();
    fs::write(root.join("new/4.empty"), "").unwrap();
    let mut inbox = world.transport.receive(&ann, ReceiveOptions::default()).await.unwrap();
    let mut ids = Vec::new();
    while let Some(stub) = inbox.next().await.unwrap() {
        ids.push(stub.id);
    }
    assert_eq!(ids.iter().map(|i| i.as_str()).collect::<Vec<_>>(), ["3.file", "4.empty"]);
    assert!(inbox.fetch(&ids[1]).await.unwrap().bytes().is_empty());
    assert!(inbox.headers(&ids[1]).await.unwrap().is_empty());
    // a file that becomes a link after it was listed
    fs::remove_file(root.join("new/3.file")).unwrap();
    symlink(&secret, root.join("new/3.file")).unwrap();
    assert_eq!(inbox.fetch(&ids[0]).await.unwrap_err().kind(), ErrorKind::MessageGone);
    assert_eq!(inbox.fetch(&"1.link".into()).await.unwrap_err().kind(), ErrorKind::MessageGone);
    inbox.dispose(&"1.link".into(), Disposition::Delete).await.unwrap();
    inbox.close().await.unwrap();
    assert!(secret.exists() && root.join("new/1.link").is_symlink());
}

#[tokio::test]
async fn moving_overwrites_nothing_and_survives_a_crash_in_the_middle() {
    let world = World::new(false);
    let ann = mailbox("ann");
    let root = world.root(&ann);
    let folder = root.join(".Bad.Mail");
    make_maildir(&folder);
    fs::write(folder.join("cur/1.x:2,F"), "an older one").unwrap();
    fs::write(root.join("cur/1.x:2,F"), "the new one").unwrap();
    fs::write(root.join("new/2.x"), "linked already").unwrap();
    fs::hard_link(root.join("new/2.x"), folder.join("new/2.x")).unwrap();
    let mut inbox = world.transport.receive(&ann, ReceiveOptions::default()).await.unwrap();
    for id in ["1.x", "2.x"] {
        inbox.dispose(&id.into(), Disposition::Move("Bad/Mail".to_owned())).await.unwrap();
    }
    let error = inbox.dispose(&"1.x".into(), Disposition::Move("../up".to_owned())).await;
    assert!(error.is_ok(), "what is gone is left alone");
    inbox.close().await.unwrap();
    assert_eq!(names(&folder.join("cur")), ["1.x,copy1:2,F", "1.x:2,F"]);
    assert_eq!(read(&folder.join("cur/1.x:2,F")), b"an older one");
    assert_eq!(names(&folder.join("new")), ["2.x"]);
    assert!(names(&root.join("new")).is_empty() && names(&root.join("cur")).is_empty());
    assert!(folder.join("maildirfolder").exists());
}

#[tokio::test]
async fn a_folder_name_cannot_lead_out() {
    let world = World::new(false);
    let ann = mailbox("ann");
    fs::write(world.root(&ann).join("new/1.x"), "Subject: x\n\n").unwrap();
    let mut inbox = world.transport.receive(&ann, ReceiveOptions::default()).await.unwrap();
    let error = inbox.dispose(&"1.x".into(), Disposition::Move("../up".to_owned())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Settings);
    assert!(world.root(&ann).join("new/1.x").exists());
}

/// What cannot be moved is a matter of that message: the session goes on, and so does the mailbox.
#[tokio::test]
async fn a_folder_that_cannot_be_had_does_not_end_the_session() {
    let world = World::new(false);
    let ann = mailbox("ann");
    let root = world.root(&ann);
    fs::write(root.join(".Undeliverable"), "a file where the folder should be").unwrap();
    symlink("/etc", root.join(".Link")).unwrap();
    fs::write(root.join("new/1.x"), "Subject: x\n\n").unwrap();
    let mut inbox = world.transport.receive(&ann, ReceiveOptions::default()).await.unwrap();
    for folder in ["Undeliverable", "Link", "../up", ""] {
        let error = inbox.dispose(&"1.x".into(), Disposition::Move(folder.to_owned())).await.unwrap_err();
        assert_eq!(error.scope(), Scope::Message, "{folder}: {error}");
    }
    inbox.fetch(&"1.x".into()).await.unwrap();
    inbox.close().await.unwrap();
    assert!(root.join("new/1.x").exists());
}

#[tokio::test]
async fn unsafe_addresses_and_missing_paths_are_settings_errors() {
    let world = World::new(true);
    let ann = mailbox("ann");
    let mut evil = message("1@x");
    evil.envelope.recipients = vec!["../ann@x".parse().unwrap(), "zoe@conformance.example".parse().unwrap()];
    let receipt = world.transport.submit(&ann, &evil, SubmitOptions::default()).await.unwrap();
    assert!(receipt.recipients[0].reply.contains("may not stand in a file name"), "{receipt:?}");
    let map = MailboxPath::Map([("ann".into(), world.root(&ann))].into());
    let transport = MaildirTransport::new(MaildirSettings::incoming(map));
    transport.receive(&ann, ReceiveOptions::default()).await.unwrap().close().await.unwrap();
    let error = transport.receive(&mailbox("bob"), ReceiveOptions::default()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Settings);
}

/// 20,000 messages are listed by name in batches; ten thousand that vanish do not cost a look at the directory each.
#[tokio::test]
async fn large_mailboxes() {
    let world = World::new(false);
    let ann = mailbox("ann");
    let root = world.root(&ann);
    let first = root.join("tmp/original");
    fs::write(&first, "Subject: x\n\nbody\n").unwrap();
    for n in 0..20_000 {
        fs::hard_link(&first, root.join(format!("new/{}.M{n:06}P1.host", 1_700_000_000 + n))).unwrap();
    }
    let mut inbox = world.transport.receive(&ann, ReceiveOptions::default()).await.unwrap();
    let mut ids = Vec::new();
    while let Some(stub) = inbox.next().await.unwrap() {
        ids.push(stub.id);
    }
    assert_eq!(ids.len(), 20_000);
    assert!(ids.is_sorted());
    files(&root.join("new")).iter().for_each(|p| fs::remove_file(p).unwrap());
    for id in ids.iter().step_by(20) {
        assert_eq!(inbox.fetch(id).await.unwrap_err().kind(), ErrorKind::MessageGone);
    }
    inbox.close().await.unwrap();
}

#[test]
fn the_clock_is_the_one_given() {
    let world = World::new(false);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        world.transport.submit(&mailbox("ann"), &message("1@x"), SubmitOptions::default()).await.unwrap();
    });
    let name = names(&world.outbox().join("new")).remove(0);
    assert!(name.starts_with("1700000000.M000000P"), "{name}");
}
