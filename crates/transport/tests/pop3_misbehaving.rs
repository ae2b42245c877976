//! Servers that misbehave, and what becomes of each: one table.
//!
//! The crate `pop3` 1.0.6 was measured first; each of its mistakes is a test here or beside:
//!
//! | its mistake | our test |
//! |---|---|
//! | a wrong password is reported as a login | `wrong_password_once_and_never_again` (pop3.rs), `wrong_passwords_and_certificates` (dovecot.rs) |
//! | NOOP fails on success, RSET sends RETR | `lines` (proto/command.rs), `answers_belong_to_their_commands` |
//! | panics on STAT with text, 2 GiB, further words or a tab in a listing | `listings` (proto/listing.rs), "wrong counts" |
//! | panics on TLS faults and on a lost connection | `certificates` (net.rs), "closes ..." |
//! | endless loop and growing memory when the server closes in an answer | "message cut off", "listing cut off" |
//! | `..a` is not unstuffed | `ends_and_dots` (proto/body.rs), "bytes of every kind" |
//! | one octet beyond ASCII spoils the session | "bytes of every kind", `any_bytes` (pop3.rs) |
//! | a bare CR ends a line | `ends_and_dots` |
//! | an unknown status line is waited on for ever | "unknown answer to the password" |
//! | a greeting with `-ERR` counts as connected | "refusing greeting" |
//! | CRLF in the user name goes to the wire | `no_argument_breaks_the_line` (proto/command.rs), `credentials_that_cannot_be_sent` (pop3.rs) |
#![allow(clippy::unwrap_used)] // helpers of tests: what fails here fails the test
#![cfg(feature = "pop3")]

mod support;

use std::fmt::Write as _;
use std::time::Duration;

use email_router_model::Classified as _;
use email_router_testkit::script::{ScriptedServer, Step, parse};
use email_router_testkit::tls::{ServerCert, TestCa};
use email_router_transport::net::TlsMode;
use email_router_transport::pop3::proto::{Event, Limits, Request, Violation, replay};
use email_router_transport::pop3::{LoginMethod, Pop3Transport};
use email_router_transport::{Disposition, Error, ReceiveOptions, Transport};
use proptest::prelude::*;
use support::*;

/// A conversation up to the open mailbox, on a server without CAPA.
const LOGIN: &str =
    "S: +OK ready\n C: CAPA\n S: -ERR what?\n C: USER alice\n S: +OK\n C: PASS Secret123\n S: +OK in\n";

/// The listing of two messages.
const TWO: &str = "C: UIDL\n S: +OK\n S: 1 a\n S: 2 b\n S: .\n C: LIST\n S: +OK\n S: 1 50\n S: 2 60\n S: .\n";

/// One good message.
const GOOD: &str = "S: +OK\n S: Subject: x\n S:\n S: body\n S: .\n";

/// A script from text, with `{...}` pieces put in by name.
fn script(text: &str) -> Vec<Step> {
    parse(&text.replace("{LOGIN}", LOGIN).replace("{TWO}", TWO).replace("{GOOD}", GOOD))
}

fn and(text: &str, more: impl IntoIterator<Item = Step>) -> Vec<Step> {
    let mut steps = script(text);
    steps.extend(more);
    steps
}

fn told(error: &Error) -> String {
    format!("{:?} ({}, {})", error.kind(), error.scope(), error.retry())
}

/// Lists, reads and deletes everything, and writes down what happened.
async fn outcome(transport: &Pop3Transport) -> String {
    let mut text = String::new();
    let mut inbox = match transport.receive(&mailbox("alice"), ReceiveOptions::default()).await {
        Ok(inbox) => inbox,
        Err(error) => return format!("open: {}", told(&error)),
    };
    let mut stubs = Vec::new();
    loop {
        match inbox.next().await {
            Ok(Some(stub)) => stubs.push(stub),
            Ok(None) => break,
            Err(error) => return format!("list: {}", told(&error)),
        }
    }
    for stub in &stubs {
        let id = &stub.id;
        match inbox.fetch(id).await {
            Ok(message) => {
                let _ = write!(text, "{id}: {} bytes; ", message.size());
                if let Err(error) = inbox.dispose(id, Disposition::Delete).await {
                    let _ = write!(text, "dispose: {}; ", told(&error));
                }
            }
            Err(error) => {
                let _ = write!(text, "{id}: {}; ", told(&error));
            }
        }
    }
    match inbox.close().await {
        Ok(()) => text + "committed",
        Err(error) => format!("{text}close: {}", told(&error)),
    }
}

/// Name, what the server does, what becomes of it.
fn table() -> Vec<(&'static str, Vec<Step>, &'static str)> {
    const PROTOCOL: &str = "open: Protocol (mailbox, will be tried again)";
    const LOST: &str = "open: ConnectionLost (mailbox, will be tried again)";
    const TIMEOUT: &str = "open: Timeout (mailbox, will be tried again)";
    // before anybody was named it is the server
    const SERVER_PROTOCOL: &str = "open: Protocol (server, will be tried again)";
    const SERVER_LOST: &str = "open: ConnectionLost (server, will be tried again)";
    const SERVER_TIMEOUT: &str = "open: Timeout (server, will be tried again)";
    let pause = Duration::from_millis(5);
    vec![
        ("garbage greeting", script("S: HTTP/1.1 400 Bad Request"), SERVER_PROTOCOL),
        ("an SMTP server", script("S: 220 mail ESMTP"), SERVER_PROTOCOL),
        ("binary greeting", vec![Step::send([0x16, 3, 1, 0, 10, b'\n'])], SERVER_PROTOCOL),
        ("endless greeting line", vec![Step::Flood(vec![b'x'; 4096], usize::MAX)], SERVER_PROTOCOL),
        (
            "refusing greeting",
            script("S: -ERR too many users"),
            "open: Throttled (server, will be tried again)",
        ),
        ("no greeting at all", vec![Step::Silence], SERVER_TIMEOUT),
        ("greeting by drips", vec![Step::Drip(b"+".to_vec(), pause)], SERVER_TIMEOUT),
        ("closes at once", vec![Step::Close], SERVER_LOST),
        ("closes in the greeting", vec![Step::send("+OK rea"), Step::Close], SERVER_LOST),
        (
            "refusing greeting that speaks of a mailbox",
            script("S: -ERR [IN-USE] try later"),
            "open: MailboxLocked (server, will be tried again)",
        ),
        ("closes instead of telling what it can do", and("S: +OK\n C: CAPA", [Step::Close]), SERVER_LOST),
        ("closes during the login", and("S: +OK\n C: CAPA\n S: -ERR\n C: USER", [Step::Close]), LOST),
        (
            "unknown answer to the password",
            script("S: +OK\n C: CAPA\n S: -ERR\n C: USER\n S: +OK\n C: PASS\n S: SURE"),
            PROTOCOL,
        ),
        (
            "challenge for a password",
            script("S: +OK\n C: CAPA\n S: -ERR\n C: USER\n S: +OK\n C: PASS\n S: + more"),
            PROTOCOL,
        ),
        (
            "answers before it is asked",
            and("", [Step::send("+OK ready\r\n+OK injected\r\n"), Step::Silence]),
            SERVER_PROTOCOL,
        ),
        (
            "hangs in the login",
            and("S: +OK\n C: CAPA\n S: -ERR\n C: USER\n S: +OK\n C: PASS", [Step::Silence]),
            TIMEOUT,
        ),
        ("capabilities that never end", and("S: +OK\n C: CAPA\n S: +OK", [Step::Silence]), SERVER_TIMEOUT),
        (
            "pause between logins",
            script(
                "S: +OK\n C: CAPA\n S: +OK\n S: LOGIN-DELAY 60\n S: USER\n S: .\n C: USER\n S: +OK\n C: PASS\n S: -ERR [LOGIN-DELAY] slow down",
            ),
            "open: Throttled (mailbox, will be tried again after 60 s)",
        ),
        (
            "listing without numbers",
            script("{LOGIN} C: UIDL\n S: +OK\n S: one a\n S: .\n C: LIST\n S: +OK\n S: 1 9\n S: ."),
            "open: Protocol (mailbox, will be tried again)",
        ),
        (
            "listing with negative sizes",
            script(
                "{LOGIN} C: UIDL\n S: +OK\n S: 1 a\n S: .\n C: LIST\n S: +OK\n S: 1 -5\n S: .\n C: RETR 1\n {GOOD} C: DELE 1\n S: +OK\n C: QUIT\n S: +OK",
            ),
            "a: 20 bytes; committed",
        ),
        (
            "an id and a size missing",
            script(
                "{LOGIN} C: UIDL\n S: +OK\n S: 1\n S: 2 b\n S: .\n C: LIST\n S: +OK\n S: 1\n S: 2 9\n S: .\n C: TOP 1 0\n {GOOD} C: RETR 1\n {GOOD} C: DELE 1\n S: +OK\n C: RETR 2\n {GOOD} C: DELE 2\n S: +OK\n C: QUIT\n S: +OK",
            ),
            "digest-{DIGEST}: 20 bytes; b: 20 bytes; committed",
        ),
        ("listing that never ends", and("{LOGIN} C: UIDL\n S: +OK\n S: 1 a", [Step::Silence]), TIMEOUT),
        ("listing cut off", and("{LOGIN} C: UIDL\n S: +OK\n S: 1 a", [Step::Close]), LOST),
        (
            "wrong counts: three ids, two sizes",
            script(
                "{LOGIN} C: UIDL\n S: +OK 1 message\n S: 1 a\n S: 2 b\n S: 3 c\n S: .\n C: LIST\n S: +OK 9 messages\n S: 1 9\n S: 1 8\n S: 2 9 extra words\n S: .\n C: RETR 1\n {GOOD} C: DELE 1\n S: +OK\n C: RETR 2\n {GOOD} C: DELE 2\n S: +OK\n C: RETR 3\n {GOOD} C: DELE 3\n S: +OK\n C: QUIT\n S: +OK",
            ),
            "a: 20 bytes; b: 20 bytes; c: 20 bytes; committed",
        ),
        (
            "no messages, said as an error",
            script(
                "{LOGIN} C: UIDL\n S: -ERR no messages\n C: LIST\n S: -ERR no messages\n C: STAT\n S: +OK 0 0\n C: QUIT\n S: +OK",
            ),
            "committed",
        ),
        (
            "refuses to list, with messages",
            script("{LOGIN} C: UIDL\n S: -ERR no\n C: LIST\n S: -ERR no\n C: STAT\n S: +OK 2 100"),
            PROTOCOL,
        ),
        (
            "message without its final dot, then nothing",
            and("{LOGIN} {TWO} C: RETR 1\n S: +OK\n S: Subject: x", [Step::Silence]),
            "a: Timeout (mailbox, will be tried again); b: ConnectionLost (mailbox, will be tried again); close: ConnectionLost (mailbox, will be tried again)",
        ),
        (
            "message by drips",
            and("{LOGIN} {TWO} C: RETR 1\n S: +OK", [Step::Drip(b"x\r\n".to_vec(), pause)]),
            "a: Timeout (mailbox, will be tried again); b: ConnectionLost (mailbox, will be tried again); close: ConnectionLost (mailbox, will be tried again)",
        ),
        (
            "message cut off",
            and("{LOGIN} {TWO} C: RETR 1\n S: +OK\n S: Subject: x", [Step::Close]),
            "a: ConnectionLost (mailbox, will be tried again); b: ConnectionLost (mailbox, will be tried again); close: ConnectionLost (mailbox, will be tried again)",
        ),
        (
            "second message cut off: the first deletion is not committed",
            and("{LOGIN} {TWO} C: RETR 1\n {GOOD} C: DELE 1\n S: +OK\n C: RETR 2\n S: +OK", [Step::Close]),
            "a: 20 bytes; b: ConnectionLost (mailbox, will be tried again); close: ConnectionLost (mailbox, will be tried again)",
        ),
        (
            "an answer that nobody asked for is not taken for the next one",
            and(
                "{LOGIN} {TWO} C: RETR 1",
                [Step::send("+OK\r\nSubject: x\r\n\r\nbody\r\n.\r\n+OK and more\r\n"), Step::Silence],
            ),
            "a: 20 bytes; b: Protocol (mailbox, will be tried again); close: ConnectionLost (mailbox, will be tried again)",
        ),
        (
            "one message of a server without unique-ids that is refused for good",
            script(
                "{LOGIN} C: UIDL\n S: -ERR\n C: LIST\n S: +OK\n S: 1 9\n S: 2 9\n S: .\n C: TOP 1 0\n S: -ERR [SYS/PERM] damaged\n C: TOP 2 0\n {GOOD} C: RETR 1\n S: -ERR [SYS/PERM] damaged\n C: RETR 2\n {GOOD} C: DELE 2\n S: +OK\n C: QUIT\n S: +OK",
            ),
            "digest-{DIGEST}: 20 bytes; committed",
        ),
        (
            "message that vanished",
            script(
                "{LOGIN} {TWO} C: RETR 1\n S: -ERR gone\n C: RETR 2\n {GOOD} C: DELE 2\n S: +OK\n C: QUIT\n S: +OK",
            ),
            "a: MessageGone (message, will not be tried again); b: 20 bytes; committed",
        ),
        (
            "message that cannot be read now",
            script(
                "{LOGIN} {TWO} C: RETR 1\n S: -ERR [SYS/TEMP] disk\n C: RETR 2\n {GOOD} C: DELE 2\n S: +OK\n C: QUIT\n S: +OK",
            ),
            "a: Throttled (message, will be tried again); b: 20 bytes; committed",
        ),
        (
            "a code about sessions in answer to RETR concerns the message, and the others are read and committed",
            script(
                "{LOGIN} {TWO} C: RETR 1\n S: -ERR [IN-USE] not now\n C: RETR 2\n {GOOD} C: DELE 2\n S: +OK\n C: QUIT\n S: +OK",
            ),
            "a: Throttled (message, will be tried again); b: 20 bytes; committed",
        ),
        (
            "message larger than listed, bytes of every kind, dots",
            and(
                "{LOGIN} {TWO} C: RETR 1",
                [Step::send(
                    [b"+OK 5 octets\r\n..\xff\0\n.\r\n\r\n".as_slice(), &[b'y'; 500], b"\r\n.\r\n"].concat(),
                )]
                .into_iter()
                .chain(script(
                    "C: DELE 1\n S: +OK\n C: RETR 2\n {GOOD} C: DELE 2\n S: +OK\n C: QUIT\n S: +OK",
                )),
            ),
            "OPEN",
        ),
        (
            "DELE refused because it is gone",
            script(
                "{LOGIN} {TWO} C: RETR 1\n {GOOD} C: DELE 1\n S: -ERR no such message\n C: RETR 2\n {GOOD} C: DELE 2\n S: +OK\n C: QUIT\n S: +OK",
            ),
            "a: 20 bytes; b: 20 bytes; committed",
        ),
        (
            "DELE refused for good",
            script(
                "{LOGIN} {TWO} C: RETR 1\n {GOOD} C: DELE 1\n S: -ERR read-only mailbox\n C: RETR 2\n {GOOD} C: DELE 2\n S: +OK\n C: QUIT\n S: +OK",
            ),
            "a: 20 bytes; b: 20 bytes; close: Protocol (mailbox, will be tried again)",
        ),
        (
            "QUIT without an answer",
            and(
                "{LOGIN} {TWO} C: RETR 1\n {GOOD} C: DELE 1\n S: +OK\n C: RETR 2\n {GOOD} C: DELE 2\n S: +OK\n C: QUIT",
                [Step::Close],
            ),
            "a: 20 bytes; b: 20 bytes; close: ConnectionLost (mailbox, will be tried again)",
        ),
        (
            "QUIT refused",
            script(
                "{LOGIN} {TWO} C: RETR 1\n {GOOD} C: DELE 1\n S: +OK\n C: RETR 2\n {GOOD} C: DELE 2\n S: +OK\n C: QUIT\n S: -ERR some deleted messages not removed",
            ),
            "a: 20 bytes; b: 20 bytes; close: Protocol (mailbox, will be tried again)",
        ),
        (
            "lower case and line feeds alone",
            vec![
                Step::send("+ok hi\n"),
                Step::expect("CAPA"),
                Step::send("-err\n"),
                Step::expect("USER"),
                Step::send("+ok\n"),
                Step::expect("PASS"),
                Step::send("+ok\n"),
                Step::expect("UIDL"),
                Step::send("+ok\n1 a\n.\n"),
                Step::expect("LIST"),
                Step::send("+ok\n1 9\n.\n"),
                Step::expect("RETR 1"),
                Step::send("+ok\nSubject: x\n\n..dot\n.\n"),
                Step::expect("DELE"),
                Step::send("+ok\n"),
                Step::expect("QUIT"),
                Step::send("+ok\n"),
            ],
            "a: 17 bytes; committed",
        ),
    ]
}

/// Each row: the outcome, and that nobody waited for ever.
#[tokio::test]
async fn misbehaving_servers() {
    let mut wrong = Vec::new();
    for (name, script, expected) in table() {
        // the size of this one says itself which dots went: ".", 0xff, NUL, LF, ".", CRLF, CRLF, 500 y, CRLF
        let expected = match expected {
            "OPEN" => format!("a: {} bytes; b: 20 bytes; committed", 5 + 2 + 2 + 500 + 2),
            // of the header section, in its canonical form
            text => {
                let digest = email_router_model::RawMessage::new("Subject:x\n").digest();
                text.replace("{DIGEST}", &digest[..40])
            }
        };
        let server = ScriptedServer::start(vec![script]).await;
        let mut settings = settings(server.port());
        settings.endpoint.operation_timeout = Duration::from_millis(400);
        let got = outcome(&Pop3Transport::new(settings).unwrap()).await;
        let mismatches = server.heard().mismatches;
        if got != expected || !mismatches.is_empty() {
            wrong.push(format!("{name}\n  expected {expected}\n  got      {got}\n  {mismatches:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} rows\n{}", wrong.len(), wrong.join("\n"));
}

/// Answers go with the commands in their order, the ones without data too.
#[test]
fn answers_belong_to_their_commands() {
    let requests = [Request::Noop, Request::Rset, Request::Stat, Request::Dele(3), Request::Quit];
    let input = b"+OK ready\r\n+OK\r\n+OK reset\r\n+OK 2 320\r\n-ERR no such message\r\n+OK bye\r\n";
    let (events, violation) = replay(&requests, input, 5, Limits::default());
    assert_eq!(violation, None);
    let answers: Vec<_> = events
        .iter()
        .filter_map(|e| match e {
            Event::Answer { request, status, body: None } => Some((*request, status.ok)),
            _ => None,
        })
        .collect();
    let expected = [true, true, true, false, true];
    assert_eq!(answers, requests.into_iter().zip(expected).collect::<Vec<_>>());
}

/// SASL exchanges that go wrong.
#[tokio::test]
async fn broken_exchanges() {
    let hello = "S: +OK\n C: CAPA\n S: +OK\n S: SASL CRAM-MD5 LOGIN\n S: .\n";
    let challenges = "S: + Og==\n C: \n".repeat(40);
    for (name, script, expected) in [
        ("a challenge that is no base64", format!("{hello} C: AUTH CRAM-MD5\n S: + ???"), "Protocol"),
        (
            "an empty CRAM-MD5 challenge is given up",
            format!("{hello} C: AUTH CRAM-MD5\n S: +\n C: *\n S: -ERR cancelled"),
            "Authentication",
        ),
        (
            "one challenge too many is given up",
            format!("{hello} C: AUTH CRAM-MD5\n S: + PGE+\n C: \n {challenges}"),
            "Authentication",
        ),
        (
            "a temporary failure",
            format!("{hello} C: AUTH CRAM-MD5\n S: -ERR [SYS/TEMP] Temporary authentication failure."),
            "Throttled",
        ),
    ] {
        let server = ScriptedServer::start(vec![parse(&script)]).await;
        let mut settings = settings(server.port());
        settings.login = LoginMethod::Strongest;
        let error = Pop3Transport::new(settings)
            .unwrap()
            .receive(&mailbox("alice"), ReceiveOptions::default())
            .await
            .err()
            .unwrap();
        assert_eq!(format!("{:?}", error.kind()), expected, "{name}: {error}");
    }
}

/// A server that quotes what it heard does not get a password into an error, whole or cut, in clear or in base64.
#[tokio::test]
async fn echoing_servers() {
    const PLAIN: &str = "AGFsaWNlAFNlY3JldDEyMw==";
    const LOGIN: &str = "U2VjcmV0MTIz";
    let user = "S: +OK <1.2@h>\n C: CAPA\n S: -ERR\n C: USER\n";
    let sasl = |name: &str| format!("S: +OK\n C: CAPA\n S: +OK\n S: SASL {name}\n S: .\n C: AUTH {name}");
    let in_again = "C: CAPA\n S: +OK\n S: UIDL\n S: .\n C: LIST\n S: +OK\n S: 1 9\n S: .\n C: UIDL\n";
    let filler = "x".repeat(40);
    for (name, script, words) in [
        (
            "PASS",
            format!("{user} S: +OK\n C: PASS\n S: -ERR unknown \"PASS Secret123\""),
            "unknown \"PASS ***\"",
        ),
        (
            "upper case",
            format!("{user} S: +OK\n C: PASS\n S: -ERR unknown PASS SECRET123"),
            "unknown PASS ***",
        ),
        ("response code", format!("{user} S: +OK\n C: PASS\n S: -ERR [Secret123] no"), "[***] no"),
        ("no answer", format!("{user} S: +OK\n C: PASS\n S: PASS Secret123"), "\"PASS ***\", which is no"),
        (
            "cut",
            format!("{user} S: +OK\n C: PASS\n S: what is this: {filler} Secret123"),
            "***\", which is no",
        ),
        ("long", format!("{user} S: +OK\n C: PASS\n S: -ERR {} Secret123", "x".repeat(490)), "xxxx ***"),
        (
            "PLAIN",
            format!("{}\n S: -ERR unknown AUTH PLAIN {PLAIN}", sasl("PLAIN")),
            "unknown AUTH PLAIN ***",
        ),
        ("PLAIN, no answer", format!("{}\n S: {PLAIN}", sasl("PLAIN")), "\"***\", which is no"),
        (
            "LOGIN",
            format!(
                "{}\n S: + VXNlcjo=\n C: YWxpY2U=\n S: + UGFzczo=\n C: {LOGIN}\n S: -ERR {LOGIN}?",
                sasl("LOGIN")
            ),
            "said: ***?",
        ),
        (
            "after the login",
            format!("{}\n S: +OK in\n {in_again} S: -ERR unknown {PLAIN}", sasl("PLAIN")),
            "unknown ***",
        ),
        (
            "in a listing",
            format!("{}\n S: +OK in\n {in_again} S: +OK\n S: {PLAIN} 1\n S: .", sasl("PLAIN")),
            "line \"*** 1\"",
        ),
    ] {
        let server = ScriptedServer::start(vec![parse(&script)]).await;
        let mut settings = settings(server.port());
        settings.login =
            if script.contains("C: USER") { LoginMethod::UserPass } else { LoginMethod::ANY_SASL };
        let transport = Pop3Transport::new(settings).unwrap();
        let error = transport.receive(&mailbox("alice"), ReceiveOptions::default()).await.err().unwrap();
        let shown = format!("{error} {error:?} {:?}", error.hint());
        assert!(shown.contains(words) || error.to_string().contains(words), "{name}: {error}");
        let shown = shown.to_ascii_lowercase();
        for secret in ["secret", &PLAIN.to_ascii_lowercase()[..10], &LOGIN.to_ascii_lowercase()[..6]] {
            assert!(!shown.contains(secret), "{name}: {shown}");
        }
        assert_eq!(server.heard().mismatches, Vec::<String>::new(), "{name}");
    }
}

/// Answers smuggled in behind the agreement to start TLS end the session before anything secret is said.
#[tokio::test]
async fn injected_before_tls() {
    let ca = TestCa::new();
    let script = vec![
        Step::line("+OK"),
        Step::expect("CAPA"),
        Step::send("+OK\r\nSTLS\r\n.\r\n"),
        Step::expect("STLS"),
        Step::send("+OK go\r\n+OK\r\nSASL PLAIN\r\n.\r\n"),
        Step::StartTls(ca.acceptor(ServerCert::Good)),
        Step::Silence,
    ];
    let server = ScriptedServer::start(vec![script]).await;
    let mut settings = settings(server.port());
    settings.endpoint.tls = TlsMode::StartTls;
    let error = Pop3Transport::new(settings)
        .unwrap()
        .receive(&mailbox("alice"), ReceiveOptions::default())
        .await
        .err()
        .unwrap();
    assert_eq!(format!("{:?}", error.kind()), "Tls(Injection)", "{error}");
    assert!(!server.heard().lines.join(" ").contains("AUTH"));
}

/// A server that hangs when it is asked for TLS hangs for everybody.
#[tokio::test]
async fn hangs_at_stls() {
    let script = and("S: +OK\n C: CAPA\n S: +OK\n S: STLS\n S: .\n C: STLS", [Step::Silence]);
    let server = ScriptedServer::start(vec![script]).await;
    let mut settings = settings(server.port());
    settings.endpoint.tls = TlsMode::StartTls;
    settings.endpoint.operation_timeout = Duration::from_millis(100);
    assert_eq!(
        outcome(&Pop3Transport::new(settings).unwrap()).await,
        "open: Timeout (server, will be tried again)"
    );
}

/// A message that never ends is read and dropped up to a limit, a listing to its cap.
#[test]
fn nothing_is_endless() {
    let limits = Limits { line: 100, listing: 1000, headers: 50, message: 100, drained: 500 };
    let mut input = b"+OK ready\r\n+OK\r\n".to_vec();
    input.extend(b"line of a body\r\n".repeat(10_000));
    for (request, limit) in [(Request::Retr(1), 600), (Request::Top(1), 550), (Request::Uidl, 1000)] {
        let (_, violation) = replay(&[request], &input, 64, limits);
        assert_eq!(violation, Some(Violation::TooMuch { request, limit }));
    }
    // beyond the cap but within the limit: dropped, and the next answer is found
    let mut input = b"+OK ready\r\n+OK\r\n".to_vec();
    input.extend(b"line of a body\r\n".repeat(20));
    input.extend_from_slice(b".\r\n-ERR next\r\n");
    let (events, violation) = replay(&[Request::Retr(1), Request::Noop], &input, 7, limits);
    assert_eq!(violation, None);
    assert!(
        matches!(&events[1], Event::Answer { body: Some(body), .. } if body.over_cap && body.bytes.is_empty() && body.size == 320)
    );
    assert!(matches!(&events[2], Event::Answer { request: Request::Noop, status, .. } if !status.ok));
}

fn server_bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"+OK\r\n".to_vec()),
        Just(b"+OK text\n".to_vec()),
        Just(b"-ERR [AUTH] no\r\n".to_vec()),
        Just(b"+ PGE+\r\n".to_vec()),
        Just(b".\r\n".to_vec()),
        Just(b"..\r\n".to_vec()),
        Just(b"1 a\r\n".to_vec()),
        Just(b"\r".to_vec()),
        Just(b"\n".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..12),
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

fn requests() -> impl Strategy<Value = Vec<Request>> {
    let one = prop_oneof![
        Just(Request::Capa),
        Just(Request::User),
        Just(Request::Auth),
        Just(Request::Uidl),
        Just(Request::List),
        Just(Request::Retr(1)),
        Just(Request::Top(1)),
        Just(Request::Dele(1)),
        Just(Request::Quit),
    ];
    proptest::collection::vec(one, 0..12)
}

proptest! {
    /// However the bytes of the server are cut into pieces, the same events come out; and nothing panics.
    #[test]
    fn pieces_do_not_matter(input in server_bytes(), requests in requests(), chunk in 1usize..40) {
        let limits = Limits { line: 60, listing: 300, headers: 40, message: 80, drained: 200 };
        let whole = replay(&requests, &input, usize::MAX, limits);
        let pieces = replay(&requests, &input, chunk, limits);
        // a violation may be noticed earlier in small pieces (a line too long before its end), never another one
        prop_assert_eq!(&whole.0, &pieces.0);
        prop_assert_eq!(whole.1.is_some(), pieces.1.is_some());
    }
}
