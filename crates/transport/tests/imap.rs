//! How the IMAP adapter behaves, against a server in memory.
#![allow(clippy::unwrap_used)] // helpers of tests: what fails here fails the test
#![cfg(feature = "imap")]

mod imap_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use email_router_auth::{CredentialError, CredentialSource};
use email_router_model::{Classified as _, Mailbox, Retry, Scope};
use email_router_testkit::imap::{ImapOptions, ImapServer};
use email_router_testkit::tls::{ServerCert, TestCa};
use email_router_transport::imap::{ImapTransport, LoginMethod};
use email_router_transport::net::{Credentials, TlsMode};
use email_router_transport::{Access, Disposition, ErrorKind, Part, ReceiveOptions, TlsFault, Transport};
use imap_support::*;

async fn server(options: ImapOptions) -> ImapServer {
    let server = ImapServer::start(options).await;
    server.add_user("alice", PASSWORD);
    server
}

/// How many commands were heard that begin so.
fn heard(server: &ImapServer, begin: &str) -> usize {
    server.commands().iter().filter(|command| command.starts_with(begin)).count()
}

async fn steps(transport: &ImapTransport) -> Vec<String> {
    let probe = transport.probe(&mailbox("alice"), Access::Incoming).await.unwrap();
    probe.steps.into_iter().map(|step| step.what).collect()
}

#[tokio::test]
async fn every_way_to_log_in() {
    let all = || ImapOptions { sasl: vec!["PLAIN", "LOGIN", "CRAM-MD5"], ..ImapOptions::default() };
    for (options, method, expected, said) in [
        (all(), LoginMethod::Strongest, "CRAM-MD5", "AUTHENTICATE CRAM-MD5"),
        (all(), LoginMethod::Password, "PLAIN", "AUTHENTICATE PLAIN AGFsaWNlAFNlY3JldDEyMw=="),
        (
            ImapOptions { sasl_ir: false, ..all() },
            LoginMethod::Sasl(&[&email_router_auth::Plain]),
            "PLAIN",
            "AUTHENTICATE PLAIN",
        ),
        (all(), LoginMethod::Sasl(&[&email_router_auth::Login]), "LOGIN", "AUTHENTICATE LOGIN"),
        (all(), LoginMethod::Command, "LOGIN", "LOGIN \"alice\" \"Secret123\""),
        (ImapOptions::least(), LoginMethod::Strongest, "LOGIN", "LOGIN \"alice\" \"Secret123\""),
    ] {
        let server = server(options).await;
        let mut settings = settings(server.port());
        settings.login = method;
        let steps = steps(&ImapTransport::new(settings).unwrap()).await;
        assert!(steps.contains(&format!("logged in with {expected}")), "{steps:?}");
        assert!(server.commands().iter().any(|c| c == said), "{said}: {:?}", server.commands());
        assert_eq!(server.logins(), 1);
    }
}

#[tokio::test]
async fn passwords_beyond_ascii_and_with_quotes() {
    for literal_plus in [true, false] {
        let options = ImapOptions { sasl: Vec::new(), literal_plus, ..ImapOptions::default() };
        let server = ImapServer::start(options).await;
        for (user, password) in [("jürgen", "пароль"), ("a\"b", "c\\d {5}")] {
            server.add_user(user, password);
            let transport = ImapTransport::new(settings_with_password(server.port(), password)).unwrap();
            let mailbox = Mailbox { login: Some(user.to_owned()), ..mailbox("alice") };
            transport.probe(&mailbox, Access::Incoming).await.unwrap();
        }
        assert_eq!(server.logins(), 2);
    }
}

#[derive(Default)]
struct Counting(AtomicUsize);

#[async_trait]
impl CredentialSource for Counting {
    async fn credentials(&self, mailbox: &Mailbox) -> Result<Option<Credentials>, CredentialError> {
        Ok(Some(Credentials::new(mailbox.login_name(), "hunter2".into())))
    }
    fn refused(&self, _: &Mailbox, _: &Credentials) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_wrong_password_is_tried_once() {
    for (method, verb) in [(LoginMethod::Strongest, "AUTHENTICATE"), (LoginMethod::Command, "LOGIN")] {
        let server = server(ImapOptions::default()).await;
        let mut settings = settings(server.port());
        let source = Arc::new(Counting::default());
        settings.login = method;
        settings.credentials = Arc::clone(&source) as Arc<dyn CredentialSource>;
        let transport = ImapTransport::new(settings).unwrap();
        let error = transport.receive(&mailbox("alice"), ReceiveOptions::default()).await.err().unwrap();
        assert_eq!(
            (error.kind(), error.retry(), error.scope()),
            (ErrorKind::Authentication, Retry::Never, Scope::Mailbox),
            "{error}"
        );
        assert!(error.reply().unwrap().starts_with("[AUTHENTICATIONFAILED]"), "{error}");
        assert_eq!((heard(&server, verb), server.logins()), (1, 0));
        assert_eq!(source.0.load(Ordering::Relaxed), 1, "the source hears of the refusal");
    }
}

#[tokio::test]
async fn no_password_in_clear_and_no_disabled_login() {
    let server = server(ImapOptions::default()).await;
    for method in [LoginMethod::Strongest, LoginMethod::Command, LoginMethod::Password] {
        let mut settings = settings(server.port());
        settings.cleartext_allowed = false;
        settings.login = method;
        let transport = ImapTransport::new(settings).unwrap();
        let error = transport.probe(&mailbox("alice"), Access::Incoming).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Settings, "{error}");
    }
    assert!(server.commands().iter().all(|c| !c.contains(PASSWORD)), "{:?}", server.commands());
    let disabled =
        self::server(ImapOptions { login: false, sasl: Vec::new(), ..ImapOptions::default() }).await;
    for method in [LoginMethod::Strongest, LoginMethod::Command] {
        let mut settings = settings(disabled.port());
        settings.login = method;
        let transport = ImapTransport::new(settings).unwrap();
        let error = transport.probe(&mailbox("alice"), Access::Incoming).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Authentication, "{error}");
    }
    assert_eq!(heard(&disabled, "LOGIN"), 0);
}

#[tokio::test]
async fn tls_in_every_mode() {
    let ca = TestCa::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, ca.pem()).unwrap();
    for (mode, starttls, implicit) in [
        (TlsMode::Implicit, false, true),
        (TlsMode::StartTls, true, false),
        (TlsMode::StartTlsIfOffered, true, false),
        (TlsMode::StartTlsIfOffered, false, false),
    ] {
        let acceptor = ca.acceptor(ServerCert::Good);
        let server = server(ImapOptions {
            starttls: starttls.then(|| acceptor.clone()),
            implicit_tls: implicit.then(|| acceptor.clone()),
            ..ImapOptions::default()
        })
        .await;
        let mut settings = settings(server.port());
        settings.endpoint.tls = mode;
        settings.endpoint.extra_ca_files = vec![file.clone()];
        let steps = steps(&ImapTransport::new(settings).unwrap()).await;
        assert_eq!(steps.contains(&"TLS 1.3".to_owned()), starttls || implicit, "{steps:?}");
        // what was said before TLS counts for nothing: the capabilities are asked for again
        assert_eq!(heard(&server, "CAPABILITY"), usize::from(starttls));
    }
    for preauth in [None, Some("alice")] {
        let starttls = preauth.map(|_| ca.acceptor(ServerCert::Good));
        let server = server(ImapOptions { preauth, starttls, ..ImapOptions::default() }).await;
        let mut settings = settings(server.port());
        settings.endpoint.tls = TlsMode::StartTls;
        settings.endpoint.extra_ca_files = vec![file.clone()];
        let transport = ImapTransport::new(settings).unwrap();
        let error = transport.probe(&mailbox("alice"), Access::Incoming).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Tls(TlsFault::NotOffered), "{error}");
        assert_eq!(server.logins(), 0);
    }
}

#[tokio::test]
async fn a_server_that_has_logged_us_in() {
    let server = server(ImapOptions { preauth: Some("alice"), ..ImapOptions::default() }).await;
    server.put("alice", "INBOX", message(1, 0));
    let probe = transport(server.port()).probe(&mailbox("alice"), Access::Incoming).await.unwrap();
    assert_eq!(probe.messages, Some(1));
    assert!(probe.steps.iter().any(|s| s.warning.as_ref().is_some_and(|w| w.contains("PREAUTH"))));
    assert_eq!(server.logins(), 0);
}

#[tokio::test]
async fn ids_are_uidvalidity_and_uid() {
    let server = server(ImapOptions::default()).await;
    for n in 1..=3 {
        server.put("alice", "INBOX", message(n, 0));
    }
    server.take_away("alice", "INBOX", 2);
    let transport = transport(server.port());
    let mut inbox = open(&transport, "alice").await;
    let before = list(&mut inbox).await;
    assert_eq!(ids(&before), ["1001.1", "1001.3"]);
    assert_eq!(before[0].size, Some(message(1, 0).len() as u64));
    assert_eq!(before[0].received.unwrap().to_string(), "2024-07-17T09:44:25Z");
    for strange in ["1001.2", "1000.1", "1001.01", "1001.+1", "1.1001", "1001.1.1", "1001."] {
        let error = inbox.fetch(&id(strange)).await.unwrap_err();
        assert_eq!((error.kind(), error.scope()), (ErrorKind::MessageGone, Scope::Message), "{strange}");
    }
    inbox.close().await.unwrap();
    server.renumber("alice", "INBOX");
    let mut inbox = open(&transport, "alice").await;
    let after = list(&mut inbox).await;
    assert_eq!(after.len(), 2);
    assert!(after.iter().all(|stub| stub.id.as_str().starts_with("101001.")), "{:?}", ids(&after));
    assert_eq!(inbox.fetch(&before[0].id).await.unwrap_err().kind(), ErrorKind::MessageGone);
    inbox.close().await.unwrap();
}

#[tokio::test]
async fn a_large_folder_is_listed_in_slices() {
    for esearch in [true, false] {
        let server = server(ImapOptions { esearch, ..ImapOptions::default() }).await;
        for n in 0..1200 {
            server.put("alice", "INBOX", message(n, 0));
        }
        server.flag("alice", "INBOX", 700, "\\Deleted");
        let transport = transport(server.port());
        let mut inbox = open(&transport, "alice").await;
        assert_eq!(heard(&server, "UID FETCH"), 0);
        inbox.next().await.unwrap().unwrap();
        assert_eq!(heard(&server, "UID FETCH"), 1);
        let rest = list(&mut inbox).await;
        assert_eq!(rest.len(), 1198, "what is marked as deleted is not listed");
        assert_eq!(heard(&server, "UID FETCH"), 3);
        assert!(rest.iter().all(|stub| stub.size.is_some() && stub.received.is_some()));
        inbox.close().await.unwrap();
    }
}

/// Without a change nothing is listed again; every kind of change is seen.
#[tokio::test]
async fn an_unchanged_folder_is_not_listed_again() {
    let server = server(ImapOptions::default()).await;
    for n in 1..=4 {
        server.put("alice", "INBOX", message(n, 0));
    }
    let transport = transport(server.port());
    let mut listed = 0;
    let mut poll = async |expected: &[&str], lists: bool| {
        let mut inbox = open(&transport, "alice").await;
        let stubs = list(&mut inbox).await;
        assert_eq!(ids(&stubs), expected);
        assert!(stubs.iter().all(|stub| stub.size.is_some()));
        inbox.fetch(&stubs[0].id).await.unwrap();
        inbox.close().await.unwrap();
        let now = heard(&server, "UID SEARCH");
        assert_eq!(now > listed, lists, "{expected:?}");
        listed = now;
    };
    poll(&["1001.1", "1001.2", "1001.3", "1001.4"], true).await;
    poll(&["1001.1", "1001.2", "1001.3", "1001.4"], false).await;
    server.flag("alice", "INBOX", 2, "\\Deleted");
    poll(&["1001.1", "1001.3", "1001.4"], true).await;
    poll(&["1001.1", "1001.3", "1001.4"], false).await;
    server.take_away("alice", "INBOX", 3);
    poll(&["1001.1", "1001.4"], true).await;
    server.put("alice", "INBOX", message(5, 0));
    server.take_away("alice", "INBOX", 2);
    poll(&["1001.1", "1001.4", "1001.5"], true).await;
    poll(&["1001.1", "1001.4", "1001.5"], false).await;
    server.renumber("alice", "INBOX");
    let mut inbox = open(&transport, "alice").await;
    assert!(list(&mut inbox).await[0].id.as_str().starts_with("101001."));
    inbox.close().await.unwrap();
    // without CONDSTORE nothing can be known
    let plain = self::server(ImapOptions { condstore: false, ..ImapOptions::default() }).await;
    plain.put("alice", "INBOX", message(1, 0));
    let transport = self::transport(plain.port());
    for _ in 0..2 {
        let mut inbox = open(&transport, "alice").await;
        assert_eq!(list(&mut inbox).await.len(), 1);
        inbox.close().await.unwrap();
    }
    assert_eq!(heard(&plain, "UID SEARCH"), 2);
}

/// A session that lists a part, or is limited to it, must not make the next one believe that this is all.
#[tokio::test]
async fn a_part_of_a_listing_is_not_remembered() {
    let server = server(ImapOptions::default()).await;
    for n in 1..=3 {
        server.put("alice", "INBOX", message(n, 0));
    }
    let transport = transport(server.port());
    let mut options = ReceiveOptions::default();
    options.max_messages = 1;
    let mut inbox = transport.receive(&mailbox("alice"), options).await.unwrap();
    assert_eq!(list(&mut inbox).await.len(), 1);
    inbox.close().await.unwrap();
    let mut inbox = open(&transport, "alice").await;
    inbox.next().await.unwrap();
    inbox.close().await.unwrap();
    let mut inbox = open(&transport, "alice").await;
    assert_eq!(list(&mut inbox).await.len(), 3);
    inbox.close().await.unwrap();
}

#[tokio::test]
async fn hints_are_under_way_together_and_bodies_of_all_sizes_survive() {
    let server = server(ImapOptions::default()).await;
    let all: Vec<_> = (0..150).map(|n| message(n, if n % 10 == 0 { 300_000 } else { n * 30 })).collect();
    for bytes in &all {
        server.put("alice", "INBOX", bytes.clone());
    }
    let mut settings = settings(server.port());
    settings.window.bytes = 1 << 20;
    let transport = ImapTransport::new(settings).unwrap();
    let mut inbox = open(&transport, "alice").await;
    let stubs = list(&mut inbox).await;
    let hints: Vec<_> = stubs.iter().map(|s| (s.id.clone(), Part::Whole)).collect();
    inbox.prefetch(&hints).await.unwrap();
    // in an order of its own, with headers between
    for (stub, bytes) in stubs.iter().zip(&all).rev().step_by(3).chain(stubs.iter().zip(&all)) {
        assert!(inbox.fetch(&stub.id).await.unwrap().bytes()[..] == bytes[..], "{}", stub.id);
        let headers = inbox.headers(&stub.id).await.unwrap();
        assert!(bytes.starts_with(&headers) && headers.ends_with(b"\r\n\r\n"));
    }
    inbox.close().await.unwrap();
    assert!(server.messages("alice", "INBOX").unwrap().iter().all(|m| m.flags.is_empty()));
}

#[tokio::test]
async fn dispositions_take_few_commands() {
    let server = server(ImapOptions::default()).await;
    for n in 0..30 {
        server.put("alice", "INBOX", message(n, 0));
    }
    let transport = transport(server.port());
    let mut inbox = open(&transport, "alice").await;
    let stubs = list(&mut inbox).await;
    for (n, stub) in stubs.iter().enumerate() {
        let what = match n {
            0..10 => Disposition::Delete,
            10..15 => Disposition::MarkRead,
            15..18 => Disposition::Move("Undeliverable".to_owned()),
            _ => Disposition::Keep,
        };
        inbox.dispose(&stub.id, what).await.unwrap();
    }
    assert_eq!(server.messages("alice", "INBOX").unwrap().len(), 30, "nothing happens before the end");
    inbox.close().await.unwrap();
    let said: Vec<_> = server.commands();
    for due in [
        "UID MOVE 16:18 \"Undeliverable\"",
        "UID STORE 11:15 +FLAGS.SILENT (\\Seen)",
        "UID STORE 1:10 +FLAGS.SILENT (\\Deleted)",
        "UID EXPUNGE 1:10",
        "CREATE \"Undeliverable\"",
        "SUBSCRIBE \"Undeliverable\"",
    ] {
        assert_eq!(said.iter().filter(|c| *c == due).count(), 1, "{due}: {said:?}");
    }
    assert!(server.folders("alice").contains(&("Undeliverable".to_owned(), true)));
    assert_eq!(server.messages("alice", "INBOX").unwrap().len(), 17);
}

/// EXPUNGE removes what others marked, too.
#[tokio::test]
async fn without_uidplus_nothing_of_others_is_removed() {
    for (foreign, left) in [(false, 2), (true, 3)] {
        let server = server(ImapOptions { uidplus: false, ..ImapOptions::default() }).await;
        for n in 1..=3 {
            server.put("alice", "INBOX", message(n, 0));
        }
        let transport = transport(server.port());
        let mut inbox = open(&transport, "alice").await;
        let stubs = list(&mut inbox).await;
        inbox.dispose(&stubs[1].id, Disposition::Delete).await.unwrap();
        if foreign {
            server.flag("alice", "INBOX", 3, "\\Deleted");
        }
        inbox.close().await.unwrap();
        let messages = server.messages("alice", "INBOX").unwrap();
        assert_eq!(messages.len(), left);
        assert_eq!(messages.iter().any(|m| m.uid == 2 && m.flags.contains("\\Deleted")), foreign);
        // either way it is not listed any more
        let mut inbox = open(&transport, "alice").await;
        assert!(list(&mut inbox).await.iter().all(|stub| stub.id != stubs[1].id));
        inbox.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_folder_that_cannot_be_had_concerns_the_message() {
    let options = ImapOptions { namespace: Some("INBOX."), delimiter: '.', ..ImapOptions::default() };
    let server = server(options).await;
    server.add_folder("alice", "INBOX.Spam", Some("\\Junk"));
    for n in 1..=5 {
        server.put("alice", "INBOX", message(n, 0));
    }
    let transport = transport(server.port());
    let mut inbox = open(&transport, "alice").await;
    let stubs = list(&mut inbox).await;
    for bad in ["x\r\nE9 DELETE INBOX", "a\0b", "", "\\Archive"] {
        let error = inbox.dispose(&stubs[0].id, Disposition::Move(bad.to_owned())).await.unwrap_err();
        assert_eq!((error.kind(), error.scope()), (ErrorKind::Settings, Scope::Message), "{bad:?}: {error}");
    }
    for (stub, folder) in stubs.iter().zip(["\\Junk", "Nicht zustellbar/für uns", "\"quoted\\ & more\""]) {
        inbox.dispose(&stub.id, Disposition::Move(folder.to_owned())).await.unwrap();
    }
    inbox.fetch(&stubs[4].id).await.unwrap();
    inbox.close().await.unwrap();
    for (folder, count) in [
        ("INBOX", 2),
        ("INBOX.Spam", 1),
        ("INBOX.Nicht zustellbar.f&APw-r uns", 1),
        ("INBOX.\"quoted\\ &- more\"", 1),
    ] {
        assert_eq!(server.messages("alice", folder).map(|m| m.len()), Some(count), "{folder}");
    }
    assert!(server.commands().iter().all(|c| !c.contains("DELETE INBOX")));
}

#[tokio::test]
async fn the_folder_that_is_read() {
    for (options, folder, stored) in [
        (ImapOptions::default(), "inbox", "INBOX"),
        (ImapOptions::default(), "\\Junk", "Spam & Co"),
        (ImapOptions { special_use: false, ..ImapOptions::default() }, "\\junk", "Spam & Co"),
        (ImapOptions::default(), "Support/In", "Support/In"),
        (ImapOptions::default(), "Entwürfe", "Entw&APw-rfe"),
        (ImapOptions { utf8: true, ..ImapOptions::default() }, "Entwürfe", "Entwürfe"),
        (
            ImapOptions { namespace: Some("INBOX."), delimiter: '.', ..ImapOptions::default() },
            "Support/In",
            "INBOX.Support.In",
        ),
        (
            ImapOptions { namespace: None, delimiter: '.', ..ImapOptions::default() },
            "Support/In",
            "Support.In",
        ),
    ] {
        let server = server(options).await;
        if stored != "INBOX" {
            server.add_folder("alice", stored, stored.starts_with("Spam").then_some("\\Junk"));
        }
        server.put("alice", stored, message(7, 0));
        let mut settings = settings(server.port());
        settings.folder = folder.to_owned();
        let transport = ImapTransport::new(settings).unwrap();
        let mut inbox = open(&transport, "alice").await;
        assert_eq!(list(&mut inbox).await.len(), 1, "{folder}");
        inbox.close().await.unwrap();
    }
    let server = server(ImapOptions::default()).await;
    for (folder, kind) in [
        ("Missing", ErrorKind::Settings),
        ("\\Archive", ErrorKind::Settings),
        ("a\r\nb", ErrorKind::Settings),
    ] {
        let mut settings = settings(server.port());
        settings.folder = folder.to_owned();
        let transport = ImapTransport::new(settings).unwrap();
        let error = transport.receive(&mailbox("alice"), ReceiveOptions::default()).await.err().unwrap();
        assert_eq!((error.kind(), error.scope()), (kind, Scope::Mailbox), "{error}");
        assert!(error.hint().is_some() || folder.contains('\r'));
    }
    let mut settings = settings(server.port());
    settings.folder = " ".to_owned();
    assert_eq!(ImapTransport::new(settings).unwrap_err().kind(), ErrorKind::Settings);
}

#[tokio::test]
async fn a_probe_opens_for_reading_alone() {
    let server = server(ImapOptions::least()).await;
    server.put("alice", "INBOX", message(1, 0));
    let probe = transport(server.port()).probe(&mailbox("alice"), Access::Incoming).await.unwrap();
    assert_eq!(probe.messages, Some(1));
    assert_eq!((heard(&server, "EXAMINE"), heard(&server, "SELECT")), (1, 0));
    let warning = probe.steps.iter().find_map(|s| s.warning.clone().filter(|w| w.contains("UIDPLUS")));
    assert!(warning.is_some_and(|w| w.contains("IDLE")), "{:?}", probe.steps);
}

/// Waits until a command of this name was heard.
async fn until_heard(server: &ImapServer, command: &str) {
    while heard(server, command) == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn idle_tells_of_new_mail() {
    let server = server(ImapOptions::default()).await;
    let transport = transport(server.port());
    let alice = mailbox("alice");
    let wait = transport.wait_for_mail(&alice, Duration::from_secs(3600));
    let put = async {
        until_heard(&server, "IDLE").await;
        server.put("alice", "INBOX", message(1, 0));
    };
    let (news, ()) = tokio::join!(wait, put);
    assert!(news.unwrap());
    // nobody has read it yet
    assert!(transport.wait_for_mail(&alice, Duration::from_secs(3600)).await.unwrap());
    let mut inbox = open(&transport, "alice").await;
    assert_eq!(list(&mut inbox).await.len(), 1);
    inbox.close().await.unwrap();
    assert!(!transport.wait_for_mail(&alice, Duration::ZERO).await.unwrap());
    // what is taken away is no news, what comes afterwards is
    let wait = transport.wait_for_mail(&alice, Duration::from_secs(3600));
    let before = heard(&server, "IDLE");
    let change = async {
        while heard(&server, "IDLE") == before {
            tokio::task::yield_now().await;
        }
        server.clear("alice", "INBOX");
        server.put("alice", "INBOX", message(2, 0));
    };
    let (news, ()) = tokio::join!(wait, change);
    assert!(news.unwrap());
}

/// Sessions that say nothing for half an hour are ended by servers.
#[tokio::test(start_paused = true)]
async fn idle_is_renewed_and_ends_at_the_limit() {
    let server = server(ImapOptions::default()).await;
    let transport = transport(server.port());
    assert!(!transport.wait_for_mail(&mailbox("alice"), Duration::from_secs(3600)).await.unwrap());
    assert_eq!(heard(&server, "IDLE"), 3, "28 and 28 and 4 minutes");
    assert_eq!(heard(&server, "LOGOUT"), 1);
}

#[tokio::test(start_paused = true)]
async fn without_idle_the_server_is_asked() {
    let server = server(ImapOptions { idle: false, ..ImapOptions::default() }).await;
    let transport = transport(server.port());
    let alice = mailbox("alice");
    assert!(!transport.wait_for_mail(&alice, Duration::from_secs(600)).await.unwrap());
    assert_eq!(heard(&server, "NOOP"), 10);
    let put = async {
        while heard(&server, "NOOP") == 10 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        server.put("alice", "INBOX", message(1, 0));
    };
    let (news, ()) = tokio::join!(transport.wait_for_mail(&alice, Duration::from_secs(600)), put);
    assert!(news.unwrap());
}

/// A future that is dropped anywhere leaves nothing that a later call takes for its own answer.
#[tokio::test]
async fn dropped_calls_leave_nothing_behind() {
    let server = server(ImapOptions::default()).await;
    for n in 0..6 {
        server.put("alice", "INBOX", message(n, n * 2000));
    }
    let transport = transport(server.port());
    for polls in 0..12 {
        let mut inbox = open(&transport, "alice").await;
        let stubs = list(&mut inbox).await;
        dropped_after(polls, inbox.fetch(&stubs[5].id)).await;
        dropped_after(polls, inbox.headers(&stubs[4].id)).await;
        dropped_after(polls, inbox.dispose(&stubs[0].id, Disposition::Move("Elsewhere".to_owned()))).await;
        for (n, stub) in stubs.iter().enumerate() {
            let bytes = inbox.fetch(&stub.id).await.unwrap();
            assert!(bytes.bytes()[..] == message(n, n * 2000)[..], "{n} after {polls}");
            let headers = inbox.headers(&stub.id).await.unwrap();
            assert!(message(n, 0).starts_with(&headers), "{n} after {polls}");
        }
        drop(inbox);
    }
    assert_eq!(server.messages("alice", "INBOX").unwrap().len(), 6);
}

async fn dropped_after<T>(polls: usize, future: impl Future<Output = T>) {
    let mut future = std::pin::pin!(future);
    let mut done = 0;
    std::future::poll_fn(|context| {
        if done == polls || future.as_mut().poll(context).is_ready() {
            return std::task::Poll::Ready(());
        }
        done += 1;
        std::task::Poll::Pending
    })
    .await;
}
