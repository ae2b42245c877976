//! The IMAP adapter against a real Dovecot.
//!
//! Ports and the authority's certificate come from the environment (`DOVECOT_IMAP`, `DOVECOT_IMAPS`, `DOVECOT_CA`), the Maildirs from
//! `DOVECOT_MAIL`, access tokens from `DOVECOT_TOKENS`; `scripts/with-peers` starts the server and sets them. Without them the tests say SKIPPED,
//! with `REQUIRE_PEERS=1` they fail. Each test uses mailboxes of its own (u020 to u029), so they may run at the same time.
// helpers of tests, which say why they are skipped; the files are of our own making
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)]
#![cfg(all(feature = "imap", feature = "conformance"))]

mod imap_support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use email_router_model::{Classified as _, Mailbox, Retry, Scope, Secret};
use email_router_transport::conformance::{self, Fixture, Left};
use email_router_transport::imap::{ImapSettings, ImapTransport, LoginMethod};
use email_router_transport::net::{Credentials, Endpoint, TlsMode};
use email_router_transport::{Access, Disposition, ErrorKind, Part, ReceiveOptions, TlsFault, Transport};
use imap_support::*;

#[derive(Clone)]
struct Dovecot {
    clear: u16,
    tls: u16,
    ca: PathBuf,
    mail: PathBuf,
    tokens: PathBuf,
}

fn dovecot() -> Option<Dovecot> {
    let value = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    let names = ["DOVECOT_IMAP", "DOVECOT_IMAPS", "DOVECOT_CA", "DOVECOT_MAIL", "DOVECOT_TOKENS"];
    let found: Option<Vec<String>> = names.iter().map(|name| value(name)).collect();
    let Some(found) = found else {
        assert!(
            value("REQUIRE_PEERS").as_deref() != Some("1"),
            "REQUIRE_PEERS=1, but {names:?} are not all set"
        );
        println!("SKIPPED: no Dovecot ({names:?} are not all set; scripts/with-peers sets them)");
        return None;
    };
    Some(Dovecot {
        clear: found[0].parse().unwrap(),
        tls: found[1].parse().unwrap(),
        ca: PathBuf::from(&found[2]),
        mail: PathBuf::from(&found[3]),
        tokens: PathBuf::from(&found[4]),
    })
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let parts = ["new", "cur"].map(|part| std::fs::read_dir(folder.join(part)));
    parts.into_iter().flatten().flatten().map(|file| file.unwrap().path()).collect()
}

impl Dovecot {
    fn settings(&self, mode: TlsMode) -> ImapSettings {
        let port = if mode == TlsMode::Implicit { self.tls } else { self.clear };
        let mut settings = settings(port);
        settings.cleartext_allowed = mode == TlsMode::None;
        // the server can do one NTLM login at a time: they are all in one test
        settings.login = LoginMethod::Password;
        settings.endpoint =
            Endpoint { extra_ca_files: vec![self.ca.clone()], ..Endpoint::new("localhost", port, mode) };
        settings
    }

    fn transport(&self, mode: TlsMode) -> ImapTransport {
        ImapTransport::new(self.settings(mode)).unwrap()
    }

    /// Takes all mail out of a Maildir and its folders.
    fn clean(&self, user: &str) {
        let home = self.mail.join(user);
        for entry in std::fs::read_dir(&home).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name.starts_with('.') {
                files(&path).iter().for_each(|file| std::fs::remove_file(file).unwrap());
            }
        }
        files(&home).iter().for_each(|file| std::fs::remove_file(file).unwrap());
    }

    /// Puts a message into a Maildir, where the server must be able to read and remove it.
    fn put(&self, user: &str, n: usize, bytes: &[u8]) {
        let name = format!("{}.M{n}P{}.peer", 1_700_000_000 + n, std::process::id());
        let staged = self.mail.join(user).join("tmp").join(&name);
        std::fs::write(&staged, bytes).unwrap();
        let mut access = std::fs::metadata(&staged).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut access, 0o666);
        std::fs::set_permissions(&staged, access).unwrap();
        std::fs::rename(&staged, self.mail.join(user).join("new").join(&name)).unwrap();
    }

    fn fill(&self, user: &str, messages: &[Vec<u8>]) {
        self.clean(user);
        messages.iter().enumerate().for_each(|(n, bytes)| self.put(user, n, bytes));
    }

    /// Says these commands in a session of its own, as another client would; each must succeed.
    fn say(&self, user: &str, commands: &[&str]) {
        let stream = std::net::TcpStream::connect(("127.0.0.1", self.clear)).unwrap();
        let mut answers = BufReader::new(stream.try_clone().unwrap()).lines();
        let mut stream = stream;
        let login = format!("LOGIN {user} {PASSWORD}");
        for command in [login.as_str()].iter().chain(commands) {
            stream.write_all(format!("a {command}\r\n").as_bytes()).unwrap();
            let end = answers.by_ref().map(|line| line.unwrap()).find(|line| line.starts_with("a ")).unwrap();
            assert!(end.starts_with("a OK"), "{command}: {end}");
        }
    }
}

fn messages(count: usize) -> Vec<Vec<u8>> {
    // of 300 bytes to 100 KB, most of them small
    (0..count).map(|n| message(n, if n % 10 == 0 { 100_000 } else { 300 + n * 40 })).collect()
}

struct Peer {
    dovecot: Dovecot,
    transport: Arc<dyn Transport>,
    next: Arc<AtomicUsize>,
}

#[async_trait]
impl Fixture for Peer {
    fn transport(&self) -> Arc<dyn Transport> {
        Arc::clone(&self.transport)
    }
    fn mailbox(&self, which: usize) -> Mailbox {
        mailbox(["u020", "u021"][which])
    }
    async fn put(&self, mailbox: &Mailbox, raw: &[u8]) {
        self.dovecot.put(mailbox.login_name(), self.next.fetch_add(1, Ordering::Relaxed), raw);
    }
    async fn left(&self, mailbox: &Mailbox) -> Vec<Left> {
        files(&self.dovecot.mail.join(mailbox.login_name()))
            .into_iter()
            .map(|file| {
                let name = file.file_name().unwrap().to_string_lossy().into_owned();
                let flags = name.split_once(":2,").map(|(_, flags)| flags.to_owned()).unwrap_or_default();
                Left { bytes: std::fs::read(&file).unwrap(), read: Some(flags.contains('S')) }
            })
            .collect()
    }
    async fn folder(&self, mailbox: &Mailbox, name: &str) -> Vec<Vec<u8>> {
        let folder = self.dovecot.mail.join(mailbox.login_name()).join(format!(".{name}"));
        files(&folder).iter().map(|file| std::fs::read(file).unwrap()).collect()
    }
    async fn empty(&self, mailbox: &Mailbox) -> bool {
        self.dovecot
            .say(mailbox.login_name(), &["SELECT INBOX", "STORE 1:* +FLAGS.SILENT (\\Deleted)", "EXPUNGE"]);
        true
    }
    async fn locked_out(&self) -> Option<Mailbox> {
        Some(mailbox("mallory"))
    }
    fn secrets(&self) -> Vec<String> {
        vec![PASSWORD.to_owned()]
    }
}

#[tokio::test]
async fn conformance() {
    let Some(dovecot) = dovecot() else { return };
    // the server remembers the size of a file by its name
    let next = Arc::new(AtomicUsize::new(0));
    for mode in [TlsMode::None, TlsMode::Implicit] {
        conformance::run(|| async {
            for user in ["u020", "u021"] {
                dovecot.clean(user);
            }
            let transport = Arc::new(dovecot.transport(mode));
            let (dovecot, next) = (dovecot.clone(), Arc::clone(&next));
            Box::new(Peer { dovecot, transport, next }) as Box<dyn Fixture>
        })
        .await;
    }
}

fn with_token(settings: &mut ImapSettings, token: &str) {
    let token = Secret::from(token);
    settings.credentials =
        Arc::new(move |mailbox: &Mailbox| Some(Credentials::bearer(mailbox.login_name(), token.clone())));
}

#[tokio::test]
async fn every_way_in() {
    let Some(dovecot) = dovecot() else { return };
    dovecot.fill("u022", &messages(3));
    for (mode, method, token, expected) in [
        (TlsMode::None, LoginMethod::Command, None, "LOGIN"),
        (TlsMode::None, LoginMethod::Sasl(&[&email_router_auth::CramMd5]), None, "CRAM-MD5"),
        (TlsMode::None, LoginMethod::Password, None, "PLAIN"),
        (TlsMode::None, LoginMethod::Sasl(&[&email_router_auth::Login]), None, "LOGIN"),
        (TlsMode::StartTls, LoginMethod::Command, None, "LOGIN"),
        (TlsMode::StartTlsIfOffered, LoginMethod::NTLM, None, "NTLM"),
        (TlsMode::None, LoginMethod::NTLM, None, "NTLM"),
        (TlsMode::Implicit, LoginMethod::WINDOWS, None, "NTLM"),
        (TlsMode::Implicit, LoginMethod::Strongest, None, "NTLM"),
        (TlsMode::Implicit, LoginMethod::Sasl(&[&email_router_auth::Plain]), None, "PLAIN"),
        (TlsMode::Implicit, LoginMethod::Sasl(&[&email_router_auth::XOAuth2]), Some("good"), "XOAUTH2"),
        (TlsMode::StartTls, LoginMethod::OAUTH2, Some("good"), "OAUTHBEARER"),
        (TlsMode::StartTls, LoginMethod::Strongest, Some("renewed"), "OAUTHBEARER"),
    ] {
        let mut settings = dovecot.settings(mode);
        settings.login = method;
        if let Some(token) = token {
            with_token(&mut settings, &std::fs::read_to_string(dovecot.tokens.join(token)).unwrap());
        }
        let transport = ImapTransport::new(settings).unwrap();
        let probe = transport.probe(&mailbox("u022"), Access::Incoming).await.unwrap();
        assert_eq!(probe.messages, Some(3));
        let steps: Vec<_> = probe.steps.iter().map(|s| s.what.as_str()).collect();
        assert!(steps.contains(&format!("logged in with {expected}").as_str()), "{mode:?}: {steps:?}");
        assert_eq!(steps.contains(&"TLS 1.3"), mode != TlsMode::None, "{steps:?}");
    }
    let mut settings = dovecot.settings(TlsMode::StartTls);
    settings.login = LoginMethod::NTLM;
    settings.credentials = settings_with_password(1, "hunter2").credentials;
    let error =
        ImapTransport::new(settings).unwrap().probe(&mailbox("u022"), Access::Incoming).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Authentication, Retry::Never), "{error}");
    // a token that has just expired is renewed in the same call
    let tokens = ["expired", "good"].map(|name| std::fs::read_to_string(dovecot.tokens.join(name)).unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let mut settings = dovecot.settings(TlsMode::StartTls);
    settings.login = LoginMethod::OAUTH2;
    settings.credentials = Arc::new(move |mailbox: &Mailbox| {
        let token = &tokens[asked.fetch_add(1, Ordering::Relaxed).min(1)];
        Some(Credentials::bearer(mailbox.login_name(), Secret::from(token.as_str())))
    });
    let probe =
        ImapTransport::new(settings).unwrap().probe(&mailbox("u022"), Access::Incoming).await.unwrap();
    assert!(probe.steps.iter().any(|s| s.what == "renewed the credentials"), "{:?}", probe.steps);
}

#[tokio::test]
async fn wrong_passwords_tokens_and_certificates() {
    let Some(dovecot) = dovecot() else { return };
    let refused = async |settings: ImapSettings| {
        let transport = ImapTransport::new(settings).unwrap();
        let error = transport.receive(&mailbox("u023"), ReceiveOptions::default()).await.err().unwrap();
        assert_eq!(
            (error.kind(), error.retry(), error.scope()),
            (ErrorKind::Authentication, Retry::Never, Scope::Mailbox),
            "{error}"
        );
        assert!(error.reply().unwrap().starts_with("[AUTHENTICATIONFAILED]"), "{error}");
        error
    };
    for method in
        [LoginMethod::Sasl(&[&email_router_auth::CramMd5]), LoginMethod::Password, LoginMethod::Command]
    {
        let mut settings = dovecot.settings(TlsMode::StartTls);
        settings.login = method;
        settings.credentials = settings_with_password(1, "hunter2").credentials;
        refused(settings).await;
    }
    for token in ["expired", "forged", "delegated"] {
        for method in [
            LoginMethod::Sasl(&[&email_router_auth::XOAuth2]),
            LoginMethod::Sasl(&[&email_router_auth::OAuthBearer]),
        ] {
            let mut settings = dovecot.settings(TlsMode::Implicit);
            settings.login = method;
            with_token(&mut settings, &std::fs::read_to_string(dovecot.tokens.join(token)).unwrap());
            let error = refused(settings).await;
            assert!(
                error.hint().unwrap().contains("access token"),
                "what the server told inside shows: {error:?}"
            );
        }
    }
    for mode in [TlsMode::Implicit, TlsMode::StartTls] {
        let mut settings = dovecot.settings(mode);
        settings.endpoint.extra_ca_files.clear();
        let transport = ImapTransport::new(settings).unwrap();
        let error = transport.probe(&mailbox("u023"), Access::Incoming).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Tls(TlsFault::UnknownIssuer), "{error}");
    }
}

/// Some hundred messages read with everything under way at once, byte for byte; deleted at the end and by nothing else.
#[tokio::test]
async fn drain_and_delete() {
    let Some(dovecot) = dovecot() else { return };
    let all = messages(1100);
    for (mode, user) in [(TlsMode::None, "u024"), (TlsMode::Implicit, "u025")] {
        dovecot.fill(user, &all);
        let transport = dovecot.transport(mode);
        for commit in [false, true] {
            let mut inbox = open(&transport, user).await;
            let stubs = list(&mut inbox).await;
            assert_eq!(stubs.len(), 1100);
            let hints: Vec<_> = stubs.iter().map(|s| (s.id.clone(), Part::Whole)).collect();
            inbox.prefetch(&hints).await.unwrap();
            for (stub, expected) in stubs.iter().zip(&all) {
                let message = inbox.fetch(&stub.id).await.unwrap();
                assert!(&message.bytes()[..] == expected.as_slice(), "{}", stub.id);
                assert_eq!(stub.size, Some(expected.len() as u64));
                inbox.dispose(&stub.id, Disposition::Delete).await.unwrap();
            }
            if commit {
                inbox.close().await.unwrap();
            }
        }
        let mut inbox = open(&transport, user).await;
        assert!(list(&mut inbox).await.is_empty());
        inbox.close().await.unwrap();
    }
}

#[tokio::test]
async fn folders_and_special_use() {
    let Some(dovecot) = dovecot() else { return };
    dovecot.fill("u026", &messages(4));
    let transport = dovecot.transport(TlsMode::StartTls);
    let mut inbox = open(&transport, "u026").await;
    let stubs = list(&mut inbox).await;
    for (stub, folder) in stubs.iter().zip(["\\Junk", "Nicht zustellbar/für uns", "Nicht zustellbar/für uns"])
    {
        inbox.dispose(&stub.id, Disposition::Move(folder.to_owned())).await.unwrap();
    }
    inbox.dispose(&stubs[3].id, Disposition::MarkRead).await.unwrap();
    inbox.close().await.unwrap();
    for (folder, count) in [("\\Junk", 1), ("Spam", 1), ("Nicht zustellbar/für uns", 2), ("INBOX", 1)] {
        let mut settings = dovecot.settings(TlsMode::StartTls);
        settings.folder = folder.to_owned();
        let transport = ImapTransport::new(settings).unwrap();
        let mut inbox = open(&transport, "u026").await;
        assert_eq!(list(&mut inbox).await.len(), count, "{folder}");
        inbox.close().await.unwrap();
    }
    let mut settings = dovecot.settings(TlsMode::StartTls);
    settings.folder = "No/such folder".to_owned();
    let transport = ImapTransport::new(settings).unwrap();
    let error = transport.probe(&mailbox("u026"), Access::Incoming).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Settings, "{error}");
}

/// What Dovecot says with CONDSTORE lets an unchanged folder be known again, and each change be seen.
#[tokio::test]
async fn what_changed_is_seen() {
    let Some(dovecot) = dovecot() else { return };
    dovecot.fill("u027", &messages(3));
    let transport = dovecot.transport(TlsMode::None);
    let listed = async || {
        let mut inbox = open(&transport, "u027").await;
        let stubs = list(&mut inbox).await;
        inbox.close().await.unwrap();
        stubs
    };
    let first = listed().await;
    assert_eq!(first.len(), 3);
    assert_eq!(listed().await, first);
    dovecot.say("u027", &["SELECT INBOX", "STORE 2 +FLAGS.SILENT (\\Deleted)"]);
    assert_eq!(listed().await, [first[0].clone(), first[2].clone()]);
    dovecot.say("u027", &["SELECT INBOX", "EXPUNGE"]);
    assert_eq!(listed().await, [first[0].clone(), first[2].clone()]);
    dovecot.say("u027", &["SELECT INBOX", "STORE 1 +FLAGS.SILENT (\\Deleted)", "EXPUNGE"]);
    dovecot.put("u027", 9, &message(9, 0));
    let last = listed().await;
    assert_eq!((last.len(), &last[0]), (2, &first[2]));
    assert_eq!(listed().await, last);
}

#[tokio::test]
async fn idle() {
    let Some(dovecot) = dovecot() else { return };
    dovecot.fill("u028", &messages(2));
    let transport = Arc::new(dovecot.transport(TlsMode::Implicit));
    let alice = mailbox("u028");
    let mut inbox = open(&transport, "u028").await;
    assert_eq!(list(&mut inbox).await.len(), 2);
    inbox.close().await.unwrap();
    assert!(!transport.wait_for_mail(&alice, Duration::from_millis(1)).await.unwrap());
    let waiting =
        tokio::spawn(async move { transport.wait_for_mail(&mailbox("u028"), Duration::from_secs(60)).await });
    // before IDLE has begun or after: either way it is news
    let other = dovecot.clone();
    tokio::task::spawn_blocking(move || {
        other.say("u028", &["SELECT INBOX", "COPY 1 INBOX"]);
    })
    .await
    .unwrap();
    assert!(waiting.await.unwrap().unwrap());
}
