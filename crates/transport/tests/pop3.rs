//! The POP3 adapter against a well-behaved server with and without each extension.
#![allow(clippy::unwrap_used)] // helpers of tests: what fails here fails the test
#![cfg(feature = "pop3")]

mod support;

use std::time::Duration;

use email_router_model::{Classified as _, Retry, Scope};
use email_router_testkit::pop3::{Pop3Options, Pop3Server};
use email_router_testkit::script::{ScriptedServer, parse};
use email_router_testkit::tls::{ServerCert, TestCa};
use email_router_transport::net::{SharedCredentials, TlsMode};
use email_router_transport::pop3::{LoginMethod, Pop3Transport, Window};
use email_router_transport::{
    Access, Disposition, ErrorKind, Inbox, Part, ReceiveOptions, TlsFault, Transport,
};
use proptest::prelude::*;
use support::*;

async fn server(options: Pop3Options, messages: usize) -> Pop3Server {
    let server = Pop3Server::start(options).await;
    server.add_user("alice", PASSWORD);
    for n in 0..messages {
        server.put("alice", &format!("uid{n}"), message(n, 300 + n * 100));
    }
    server
}

async fn open(transport: &Pop3Transport) -> Box<dyn Inbox> {
    transport.receive(&mailbox("alice"), ReceiveOptions::default()).await.unwrap()
}

/// Opens again after a session was dropped: the server frees the mailbox when it notices.
async fn reopen(transport: &Pop3Transport) -> Box<dyn Inbox> {
    for _ in 0..200 {
        match transport.receive(&mailbox("alice"), ReceiveOptions::default()).await {
            Ok(inbox) => return inbox,
            Err(error) if error.kind() == ErrorKind::MailboxLocked => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the server never freed the mailbox");
}

/// Every combination of what a server may lack gives the same messages, and nothing is sent that was not offered.
#[tokio::test]
async fn servers_that_lack_something() {
    for bits in 0..16 {
        let (uidl, top, capa, pipelining) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0, bits & 8 != 0);
        // without CAPA a server offers nothing
        let pipelining = pipelining && capa;
        let what = format!("uidl {uidl} top {top} capa {capa} pipelining {pipelining}");
        let server = server(Pop3Options { uidl, top, capa, pipelining, ..Pop3Options::default() }, 5).await;
        let transport = transport(server.port());
        let mut inbox = open(&transport).await;
        let stubs = list(&mut inbox).await;
        assert_eq!(stubs.len(), 5, "{what}");
        if uidl {
            assert_eq!(ids(&stubs), ["uid0", "uid1", "uid2", "uid3", "uid4"], "{what}");
        }
        let hints: Vec<_> =
            stubs.iter().flat_map(|s| [(s.id.clone(), Part::Headers), (s.id.clone(), Part::Whole)]).collect();
        inbox.prefetch(&hints).await.unwrap();
        for (n, stub) in stubs.iter().enumerate() {
            let whole = message(n, 300 + n * 100);
            assert_eq!(stub.size, Some(whole.len() as u64), "{what}");
            let headers = inbox.headers(&stub.id).await.unwrap();
            assert!(whole.starts_with(&headers) && headers.ends_with(b"\r\n\r\n"), "{what}");
            assert_eq!(&inbox.fetch(&stub.id).await.unwrap().bytes()[..], whole, "{what}");
        }
        inbox.dispose(&stubs[1].id, Disposition::Delete).await.unwrap();
        inbox.dispose(&stubs[3].id, Disposition::Delete).await.unwrap();
        assert_eq!(server.messages("alice").len(), 5, "nothing is deleted before QUIT: {what}");
        inbox.close().await.unwrap();
        let left: Vec<_> = server.messages("alice").into_iter().map(|m| m.uid).collect();
        assert_eq!(left, ["uid0", "uid2", "uid4"], "{what}");
        assert_eq!(server.violations(), Vec::<String>::new(), "{what}");
        assert_eq!(transport.capability().headers_alone, top, "{what}");

        // the ids are the same in the next session
        let mut inbox = open(&transport).await;
        let again = list(&mut inbox).await;
        assert_eq!(ids(&again), [stubs[0].id.as_str(), stubs[2].id.as_str(), stubs[4].id.as_str()], "{what}");
        inbox.close().await.unwrap();
    }
}

/// Which command logs in, by what is offered.
#[tokio::test]
async fn login_methods() {
    let plain = Pop3Options { sasl: vec![], ..Pop3Options::default() };
    let sasl = |names: &[&'static str]| Pop3Options { sasl: names.to_vec(), ..Pop3Options::default() };
    let apop = Pop3Options { apop: true, ..sasl(&["PLAIN"]) };
    let silent = Pop3Options { capa: false, ..plain.clone() };
    for (options, method, expected, warns) in [
        (sasl(&["PLAIN", "LOGIN", "CRAM-MD5"]), LoginMethod::Strongest, "AUTH CRAM-MD5", false),
        (sasl(&["LOGIN", "PLAIN"]), LoginMethod::Strongest, "AUTH PLAIN AGFsaWNlAFNlY3JldDEyMw==", true),
        (sasl(&["LOGIN"]), LoginMethod::Strongest, "AUTH LOGIN", true),
        (sasl(&["DIGEST-MD5"]), LoginMethod::Strongest, "USER alice", true),
        (plain.clone(), LoginMethod::Strongest, "USER alice", true),
        (silent, LoginMethod::Strongest, "USER alice", true),
        (apop.clone(), LoginMethod::Strongest, "APOP alice ", false),
        (apop.clone(), LoginMethod::Apop, "APOP alice ", false),
        (apop, LoginMethod::UserPass, "USER alice", true),
        (sasl(&["LOGIN"]), LoginMethod::ANY_SASL, "AUTH LOGIN", true),
    ] {
        let server = server(options, 1).await;
        let mut settings = settings(server.port());
        settings.login = method;
        let transport = Pop3Transport::new(settings).unwrap();
        let probe = transport.probe(&mailbox("alice"), Access::Incoming).await.unwrap();
        let commands = server.commands();
        assert!(commands.iter().any(|c| c.starts_with(expected)), "{expected}: {commands:?}");
        assert_eq!(probe.messages, Some(1));
        let login = probe.steps.iter().find(|s| s.what.starts_with("logged in")).unwrap();
        assert_eq!(login.warning.is_some(), warns, "{login:?}");
        let stored = server.messages("alice").len();
        assert_eq!(
            (stored, commands.iter().any(|c| c.starts_with("DELE"))),
            (1, false),
            "a probe changes nothing"
        );
    }
}

/// What cannot log in says why, and no password goes out.
#[tokio::test]
async fn no_login_without_a_safe_way() {
    let sasl = Pop3Options::default;
    let bare = || Pop3Options { sasl: vec![], ..Pop3Options::default() };
    let unknown = || Pop3Options { sasl: vec!["DIGEST-MD5"], ..Pop3Options::default() };
    let not_offered = ErrorKind::Tls(TlsFault::NotOffered);
    let optional = TlsMode::StartTlsIfOffered;
    for (options, tls, method, cleartext, kind, words) in [
        (
            sasl(),
            optional,
            LoginMethod::Strongest,
            false,
            not_offered,
            "PLAIN and LOGIN would send the password without TLS",
        ),
        (bare(), optional, LoginMethod::Strongest, false, not_offered, "USER and PASS would send"),
        (sasl(), optional, LoginMethod::UserPass, false, not_offered, "USER and PASS would send"),
        (sasl(), optional, LoginMethod::ANY_SASL, false, not_offered, "PLAIN and LOGIN would send"),
        (
            sasl(),
            TlsMode::None,
            LoginMethod::Strongest,
            false,
            ErrorKind::Settings,
            "PLAIN and LOGIN would send",
        ),
        (sasl(), TlsMode::None, LoginMethod::Apop, true, ErrorKind::Authentication, "does not offer APOP"),
        (
            unknown(),
            TlsMode::None,
            LoginMethod::ANY_SASL,
            true,
            ErrorKind::Authentication,
            "it offers DIGEST-MD5",
        ),
    ] {
        let server = server(options, 1).await;
        let mut settings = settings(server.port());
        settings.endpoint.tls = tls;
        settings.login = method;
        settings.cleartext_allowed = cleartext;
        let transport = Pop3Transport::new(settings).unwrap();
        let error = transport.probe(&mailbox("alice"), Access::Incoming).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert!(kind != not_offered || error.hint().is_some_and(|h| h.contains("allow clear text")));
        let sent = server.commands().join("\n");
        assert!(!sent.contains(PASSWORD) && !sent.contains("AUTH") && !sent.contains("USER"), "{sent}");
    }
}

#[tokio::test]
async fn wrong_password_once_and_never_again() {
    for sasl in [vec![], vec!["PLAIN"], vec!["LOGIN"], vec!["CRAM-MD5"]] {
        let server = server(Pop3Options { sasl, ..Pop3Options::default() }, 0).await;
        let transport = Pop3Transport::new(settings_with_password(server.port(), "hunter2")).unwrap();
        let error = transport.receive(&mailbox("alice"), ReceiveOptions::default()).await.err().unwrap();
        assert_eq!(
            (error.kind(), error.retry(), error.scope()),
            (ErrorKind::Authentication, Retry::Never, Scope::Mailbox)
        );
        let attempts =
            server.commands().iter().filter(|c| c.starts_with("AUTH") || c.starts_with("PASS")).count();
        assert_eq!(attempts, 1, "another method would count as a second wrong password");
        assert_eq!(server.logins(), 0);
        let shown = format!("{error} {error:?} {transport:?} {transport}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert_eq!(error.reply(), Some("[AUTH] invalid user name or password"));
    }
}

#[tokio::test]
async fn credentials_that_cannot_be_sent() {
    for (password, kind) in [("two\r\nDELE 1", ErrorKind::Settings), ("", ErrorKind::Settings)] {
        let server = server(Pop3Options { sasl: vec![], ..Pop3Options::default() }, 1).await;
        let transport = Pop3Transport::new(settings_with_password(server.port(), password)).unwrap();
        let error = transport.probe(&mailbox("alice"), Access::Incoming).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(!server.commands().iter().any(|c| c.starts_with("USER") || c.starts_with("DELE")));
    }
    let mut none = settings(1);
    none.credentials = std::sync::Arc::new(SharedCredentials::none());
    let error =
        Pop3Transport::new(none).unwrap().probe(&mailbox("alice"), Access::Incoming).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Settings, "{error}");
}

/// A password too long for an initial response answers the empty challenge (RFC 5034 section 4).
#[tokio::test]
async fn long_initial_response() {
    let long = "x".repeat(240);
    let server = Pop3Server::start(Pop3Options { sasl: vec!["PLAIN"], ..Pop3Options::default() }).await;
    server.add_user("alice", &long);
    let transport = Pop3Transport::new(settings_with_password(server.port(), &long)).unwrap();
    transport.probe(&mailbox("alice"), Access::Incoming).await.unwrap();
    assert!(server.commands().contains(&"AUTH PLAIN".to_owned()));
}

#[tokio::test]
async fn tls_modes() {
    let ca = TestCa::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, ca.pem()).unwrap();
    let acceptor = ca.acceptor(ServerCert::Good);
    let with_stls = Pop3Options { stls: Some(acceptor.clone()), ..Pop3Options::default() };
    let implicit = Pop3Options { implicit_tls: Some(acceptor.clone()), ..Pop3Options::default() };
    let without_capa = Pop3Options { capa: false, ..with_stls.clone() };
    for (options, mode, expected) in [
        (with_stls.clone(), TlsMode::StartTls, Ok(true)),
        (with_stls.clone(), TlsMode::StartTlsIfOffered, Ok(true)),
        (without_capa, TlsMode::StartTls, Ok(true)),
        (implicit, TlsMode::Implicit, Ok(true)),
        (Pop3Options::default(), TlsMode::StartTlsIfOffered, Ok(false)),
        (Pop3Options::default(), TlsMode::StartTls, Err(TlsFault::NotOffered)),
        (Pop3Options { capa: false, ..Pop3Options::default() }, TlsMode::StartTls, Err(TlsFault::NotOffered)),
    ] {
        let server = server(options, 2).await;
        let mut settings = settings(server.port());
        settings.endpoint.tls = mode;
        settings.endpoint.extra_ca_files = vec![file.clone()];
        // with TLS no permission for clear text is needed
        settings.cleartext_allowed = expected == Ok(false);
        let transport = Pop3Transport::new(settings).unwrap();
        let probe = transport.probe(&mailbox("alice"), Access::Incoming).await;
        match (probe, expected) {
            (Ok(probe), Ok(encrypted)) => {
                assert_eq!(probe.steps.iter().any(|s| s.what == "TLS 1.3"), encrypted, "{probe:?}");
                assert_eq!(probe.steps.iter().any(|s| s.warning.is_some()), !encrypted, "{probe:?}");
            }
            (Err(error), Err(fault)) => {
                assert_eq!(error.kind(), ErrorKind::Tls(fault), "{error}");
                assert!(!server.commands().join(" ").contains("AUTH"));
            }
            (probe, expected) => panic!("{mode:?}: expected {expected:?}, got {probe:?}"),
        }
        assert_eq!(server.violations(), Vec::<String>::new());
    }
}

/// The example session of RFC 1939 section 10, down to the digest.
#[tokio::test]
async fn rfc_1939_section_10() {
    let session = "
        S: +OK POP3 server ready <1896.697170952@dbc.mtview.ca.us>
        C: CAPA
        S: -ERR unknown command
        C: APOP mrose c4c9334bac560ecc979e58001b3e22fb
        S: +OK mrose's maildrop has 2 messages (320 octets)
        C: UIDL
        S: -ERR unknown command
        C: LIST
        S: +OK 2 messages (320 octets)
        S: 1 120
        S: 2 200
        S: .
        C: TOP 1 0
        S: +OK
        S: Subject: one
        S:
        S: .
        C: TOP 2 0
        S: +OK
        S: Subject: two
        S:
        S: .
        C: RETR 1
        S: +OK 120 octets
        S: Subject: one
        S:
        S: body
        S: .
        C: DELE 1
        S: +OK message 1 deleted
        C: QUIT
        S: +OK dewey POP3 server signing off (1 message left)";
    let server = ScriptedServer::start(vec![parse(session)]).await;
    let mut settings = settings_with_password(server.port(), "tanstaaf");
    settings.cleartext_allowed = false; // the digest shows no password
    let mut inbox = Pop3Transport::new(settings)
        .unwrap()
        .receive(&mailbox("mrose"), ReceiveOptions::default())
        .await
        .unwrap();
    let stubs = list(&mut inbox).await;
    assert_eq!(stubs.iter().map(|s| s.size).collect::<Vec<_>>(), [Some(120), Some(200)]);
    assert_eq!(stubs[1].headers.as_deref(), Some(&b"Subject: two\r\n\r\n"[..]));
    assert_eq!(&inbox.fetch(&stubs[0].id).await.unwrap().bytes()[..], b"Subject: one\r\n\r\nbody\r\n");
    inbox.dispose(&stubs[0].id, Disposition::Delete).await.unwrap();
    inbox.close().await.unwrap();
    assert_eq!(server.heard().mismatches, Vec::<String>::new());
}

/// A locked mailbox, and one that opens again after the session before was dropped in the middle.
#[tokio::test]
async fn locked_then_dropped() {
    let server = server(Pop3Options::default(), 3).await;
    let transport = transport(server.port());
    let mut first = open(&transport).await;
    let error = transport.receive(&mailbox("alice"), ReceiveOptions::default()).await.err().unwrap();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::MailboxLocked, Retry::Later(None)));

    let stubs = list(&mut first).await;
    first.dispose(&stubs[0].id, Disposition::Delete).await.unwrap();
    first.fetch(&stubs[1].id).await.unwrap();
    drop(first);
    let mut second = reopen(&transport).await;
    assert_eq!(list(&mut second).await.len(), 3, "without QUIT nothing is deleted");
    assert!(!server.commands().contains(&"QUIT".to_owned()));
    second.close().await.unwrap();
}

#[tokio::test]
async fn a_refused_quit_commits_nothing() {
    let server = server(Pop3Options { quit_fails: true, ..Pop3Options::default() }, 2).await;
    let mut inbox = open(&transport(server.port())).await;
    inbox.dispose(&id("uid0"), Disposition::Delete).await.unwrap();
    let error = inbox.close().await.unwrap_err();
    assert_eq!(error.scope(), Scope::Mailbox);
    assert!(error.to_string().contains("did not carry out all deletions"), "{error}");
    assert_eq!(server.messages("alice").len(), 2);
}

#[tokio::test]
async fn messages_that_vanish() {
    let server = server(Pop3Options::default(), 4).await;
    let transport = transport(server.port());
    let mut inbox = open(&transport).await;
    assert_eq!(list(&mut inbox).await.len(), 4);
    server.take_away("alice", "uid1");
    server.take_away("alice", "uid2");
    inbox
        .prefetch(&[(id("uid0"), Part::Whole), (id("uid1"), Part::Whole), (id("uid2"), Part::Headers)])
        .await
        .unwrap();
    inbox.fetch(&id("uid0")).await.unwrap();
    for error in [inbox.fetch(&id("uid1")).await.unwrap_err(), inbox.headers(&id("uid2")).await.unwrap_err()]
    {
        assert_eq!((error.kind(), error.scope()), (ErrorKind::MessageGone, Scope::Message), "{error}");
    }
    inbox.fetch(&id("uid3")).await.unwrap();
    let unknown = inbox.fetch(&id("never listed")).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::MessageGone);
    inbox.dispose(&id("uid1"), Disposition::Delete).await.unwrap();
    inbox.dispose(&id("never listed"), Disposition::Delete).await.unwrap();
    inbox.dispose(&id("uid3"), Disposition::Delete).await.unwrap();
    inbox.dispose(&id("uid3"), Disposition::Delete).await.unwrap();
    inbox.close().await.unwrap();
    assert_eq!(server.messages("alice").len(), 1);
}

#[tokio::test]
async fn dispositions_pop3_does_not_have() {
    let server = server(Pop3Options::default(), 1).await;
    let mut inbox = open(&transport(server.port())).await;
    for what in [Disposition::MarkRead, Disposition::Move("Undeliverable".to_owned())] {
        let error = inbox.dispose(&id("uid0"), what).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
    inbox.dispose(&id("uid0"), Disposition::Keep).await.unwrap();
    inbox.close().await.unwrap();
    assert_eq!(server.messages("alice").len(), 1);
    let sends = transport(server.port()).probe(&mailbox("alice"), Access::Outgoing).await.unwrap_err();
    assert_eq!(sends.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn sizes_are_capped_and_the_session_goes_on() {
    let server = server(Pop3Options::default(), 2).await;
    server.put("alice", "big", message(9, 50_000));
    let mut endless = b"Subject: x\r\n".to_vec();
    endless.extend(b"X-Filler: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n".repeat(200));
    endless.extend_from_slice(b"\r\nbody\r\n");
    server.put("alice", "headers", endless);
    let transport = transport(server.port());
    let mut options = ReceiveOptions::default();
    options.max_message_bytes = 20_000;
    options.max_header_bytes = 2_000;
    let mut inbox = transport.receive(&mailbox("alice"), options).await.unwrap();
    inbox.prefetch(&[(id("big"), Part::Whole), (id("headers"), Part::Headers)]).await.unwrap();
    let error = inbox.fetch(&id("big")).await.unwrap_err();
    assert_eq!((error.kind(), error.scope()), (ErrorKind::TooLarge, Scope::Message));
    assert_eq!(inbox.headers(&id("headers")).await.unwrap_err().kind(), ErrorKind::TooLarge);
    assert!(inbox.headers(&id("big")).await.is_ok());
    assert!(inbox.fetch(&id("uid1")).await.is_ok());
    inbox.close().await.unwrap();
    assert!(
        !server.commands().contains(&"RETR 3".to_owned()),
        "what LIST tells is not read to be thrown away"
    );
}

#[tokio::test]
async fn at_most_so_many() {
    let server = server(Pop3Options::default(), 10).await;
    let mut options = ReceiveOptions::default();
    options.max_messages = 3;
    let mut inbox = transport(server.port()).receive(&mailbox("alice"), options).await.unwrap();
    assert_eq!(ids(&list(&mut inbox).await), ["uid0", "uid1", "uid2"]);
    inbox.close().await.unwrap();
}

/// Unique-ids that are not unique get a digest; copies get a number.
#[tokio::test]
async fn shared_unique_ids() {
    let server = Pop3Server::start(Pop3Options::default()).await;
    server.add_user("alice", PASSWORD);
    for (uid, n) in [("same", 1), ("own", 2), ("same", 3), ("same", 3)] {
        server.put("alice", uid, message(n, 300));
    }
    let transport = transport(server.port());
    let mut first = Vec::new();
    for _ in 0..2 {
        let mut inbox = open(&transport).await;
        let stubs = list(&mut inbox).await;
        let now: Vec<String> = stubs.iter().map(|s| s.id.to_string()).collect();
        assert_eq!(now[1], "own");
        assert!(now[0].starts_with("same+") && now[2].starts_with("same+") && now[0] != now[2], "{now:?}");
        assert_eq!(now[3], format!("{}-2", now[2]));
        for (stub, n) in stubs.iter().zip([1, 2, 3, 3]) {
            assert_eq!(&inbox.fetch(&stub.id).await.unwrap().bytes()[..], message(n, 300));
        }
        assert!(first.is_empty() || first == now, "ids change between sessions");
        first = now;
        inbox.close().await.unwrap();
    }
}

/// Hints in any order, asked for in any other, some never, some twice; whatever the window.
#[tokio::test]
async fn hints_are_only_hints() {
    for (messages, bytes) in [(1, 1), (3, 2_000), (256, 32 << 20)] {
        let server = server(Pop3Options::default(), 40).await;
        let mut settings = settings(server.port());
        settings.window = Window { messages, bytes };
        let transport = Pop3Transport::new(settings).unwrap();
        let mut inbox = open(&transport).await;
        let hints: Vec<_> = (0..40).map(|n| (id(&format!("uid{n}")), Part::Whole)).collect();
        inbox.prefetch(&hints).await.unwrap();
        inbox.prefetch(&hints).await.unwrap();
        inbox.prefetch(&[(id("unknown"), Part::Whole)]).await.unwrap();
        for n in [39, 0, 1, 2, 2, 20, 7, 39] {
            let name = id(&format!("uid{n}"));
            let whole = message(n, 300 + n * 100);
            assert_eq!(&inbox.fetch(&name).await.unwrap().bytes()[..], whole);
            assert!(whole.starts_with(&inbox.headers(&name).await.unwrap()));
        }
        for n in [2, 20] {
            let name = id(&format!("uid{n}"));
            inbox.dispose(&name, Disposition::Delete).await.unwrap();
            // marked as deleted in this session: the server does not give it any more
            assert_eq!(inbox.fetch(&name).await.unwrap_err().kind(), ErrorKind::MessageGone);
        }
        inbox.close().await.unwrap();
        assert_eq!(server.messages("alice").len(), 38);
    }
}

/// A future dropped in the middle of a message leaves a session that goes on where it was.
#[tokio::test]
async fn dropped_futures_lose_nothing() {
    let options = Pop3Options { latency: Duration::from_millis(2), ..Pop3Options::default() };
    let server = Pop3Server::start(options).await;
    server.add_user("alice", PASSWORD);
    for n in 0..10 {
        server.put("alice", &format!("uid{n}"), message(n, 400_000));
    }
    let mut inbox = open(&transport(server.port())).await;
    for n in 0..10 {
        let id = id(&format!("uid{n}"));
        let mut polls = 0;
        loop {
            // polled a few times more in each round, then dropped
            polls += 1;
            let mut fetch = Box::pin(inbox.fetch(&id));
            let mut done = None;
            for _ in 0..polls {
                tokio::select! {
                    biased;
                    result = &mut fetch => { done = Some(result); break; }
                    () = tokio::task::yield_now() => {}
                }
            }
            if let Some(result) = done {
                assert_eq!(&result.unwrap().bytes()[..], message(n, 400_000));
                break;
            }
        }
    }
    inbox.close().await.unwrap();
    let fetched = server.commands().iter().filter(|c| c.starts_with("RETR")).count();
    assert_eq!(fetched, 10, "nothing was asked for twice");
}

/// Thousands of messages, read and deleted in one session.
#[tokio::test]
async fn a_large_mailbox() {
    let server = Pop3Server::start(Pop3Options::default()).await;
    server.add_user("alice", PASSWORD);
    for n in 0..3000 {
        server.put("alice", &format!("uid{n}"), message(n, 200));
    }
    let mut inbox = open(&transport(server.port())).await;
    let stubs = list(&mut inbox).await;
    let hints: Vec<_> = stubs.iter().map(|s| (s.id.clone(), Part::Whole)).collect();
    inbox.prefetch(&hints).await.unwrap();
    for (n, stub) in stubs.iter().enumerate() {
        assert_eq!(&inbox.fetch(&stub.id).await.unwrap().bytes()[..], message(n, 200));
        inbox.dispose(&stub.id, Disposition::Delete).await.unwrap();
    }
    inbox.close().await.unwrap();
    assert!(server.messages("alice").is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Whatever bytes a message has, they come as they are, with CRLF at the end.
    #[test]
    fn any_bytes(messages in proptest::collection::vec(proptest::collection::vec(
        prop_oneof![Just(b'.'), Just(b'\r'), Just(b'\n'), any::<u8>()], 1..400), 1..6)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = Pop3Server::start(Pop3Options::default()).await;
            server.add_user("alice", PASSWORD);
            for (n, bytes) in messages.iter().enumerate() {
                server.put("alice", &format!("uid{n}"), bytes.clone());
            }
            let mut inbox = open(&transport(server.port())).await;
            for (n, bytes) in messages.iter().enumerate() {
                let mut expected = bytes.clone();
                if !expected.ends_with(b"\r\n") {
                    expected.extend_from_slice(b"\r\n");
                }
                assert_eq!(inbox.fetch(&id(&format!("uid{n}"))).await.unwrap().bytes().to_vec(), expected);
            }
            inbox.close().await.unwrap();
        });
    }
}
