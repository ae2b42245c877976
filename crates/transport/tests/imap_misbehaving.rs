//! IMAP servers that misbehave, and what becomes of each: one table.
//!
//! The crates for IMAP were measured first; what they got wrong is a test here or beside:
//!
//! | their mistake | our test |
//! |---|---|
//! | imap-proto 0.17 (the parser of async-imap) panics on `INTERNALDATE NIL` | `messages` (proto/response.rs), "dates and sizes that are none" |
//! | it overflows the stack on nested lists, which ends the process | `values` (proto/value.rs), "lists without end in lists" |
//! | it knows no ESEARCH and no `SEARCH ... (MODSEQ n)` | `kinds` (proto/response.rs) |
//! | imap-codec 2.0.0-alpha.10 refuses an answer for one item it does not know, for a flag with a bracket, for `* OK` without words | `messages`, `conditions`, "items nobody asked for" |
//! | both want a literal whole in memory before they look at it | `nothing_is_set_aside_for_an_announcement` (proto/reader.rs), "a huge literal announced" |
#![allow(clippy::unwrap_used)] // helpers of tests: what fails here fails the test
#![cfg(feature = "imap")]

mod imap_support;

use std::fmt::Write as _;
use std::time::Duration;

use email_router_model::Classified as _;
use email_router_testkit::script::{ScriptedServer, Step, parse};
use email_router_testkit::tls::{ServerCert, TestCa};
use email_router_transport::imap::ImapTransport;
use email_router_transport::net::TlsMode;
use email_router_transport::{Disposition, Error, Part, ReceiveOptions, Transport};
use imap_support::*;

/// A conversation up to the open folder, on a server with UIDPLUS.
const LOGIN: &str =
    "S: * OK [CAPABILITY IMAP4rev1] ready\n C: E1 LOGIN\n S: E1 OK [CAPABILITY IMAP4rev1 UIDPLUS] in\n";

/// A folder with two messages.
const TWO: &str = "C: E2 SELECT\n S: * 2 EXISTS\n S: * OK [UIDVALIDITY 7] x\n S: * OK [UIDNEXT 9] x\n S: E2 OK [READ-WRITE] open\n \
                   C: E3 UID SEARCH UNDELETED\n S: * SEARCH 3 5\n S: E3 OK found\n \
                   C: E4 UID FETCH 3,5 (UID RFC822.SIZE INTERNALDATE FLAGS)\n S: * 1 FETCH (UID 3 RFC822.SIZE 20 FLAGS ())\n \
                   S: * 2 FETCH (UID 5 RFC822.SIZE 20 FLAGS ())\n S: E4 OK told\n";

/// The second message, then the end: both were read and are deleted.
const REST: &str = "C: E6 UID FETCH 5\n S: * 2 FETCH (UID 5 BODY[] {20}\n S: Subject: x\n S:\n S: body\n S: )\n S: E6 OK\n {END7}";

/// The end of a session that deletes both messages, from a command of this number on.
fn end(first: usize) -> String {
    format!(
        "C: E{first} UID STORE 3,5 +FLAGS.SILENT (\\Deleted)\n S: E{first} OK\n C: E{0} UID EXPUNGE 3,5\n S: E{0} OK\n \
         C: E{1} LOGOUT\n S: * BYE\n S: E{1} OK\n",
        first + 1,
        first + 2
    )
}

/// A script from text, with `{...}` pieces put in by name.
fn script(text: &str) -> Vec<Step> {
    let text = text.replace("{LOGIN}", LOGIN).replace("{TWO}", TWO).replace("{REST}", REST);
    parse(&text.replace("{END7}", &end(7)).replace("{END8}", &end(8)))
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
async fn outcome(transport: &ImapTransport) -> String {
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
#[allow(clippy::too_many_lines)] // it is a table
fn table() -> Vec<(&'static str, Vec<Step>, &'static str)> {
    const PROTOCOL: &str = "open: Protocol (mailbox, will be tried again)";
    const LOST: &str = "open: ConnectionLost (mailbox, will be tried again)";
    // before anybody was named it is the server
    const SERVER_PROTOCOL: &str = "open: Protocol (server, will be tried again)";
    const SERVER_LOST: &str = "open: ConnectionLost (server, will be tried again)";
    const SERVER_TIMEOUT: &str = "open: Timeout (server, will be tried again)";
    const BOTH: &str = "7.3: 20 bytes; 7.5: 20 bytes; committed";
    const CUT: &str = "7.3: ConnectionLost (mailbox, will be tried again); 7.5: ConnectionLost (mailbox, will be tried again); close: ConnectionLost (mailbox, will be tried again)";
    const BROKEN: &str = "7.3: Protocol (mailbox, will be tried again); 7.5: ConnectionLost (mailbox, will be tried again); close: ConnectionLost (mailbox, will be tried again)";
    let pause = Duration::from_millis(5);
    vec![
        ("garbage greeting", script("S: HTTP/1.1 400 Bad Request"), SERVER_PROTOCOL),
        ("a POP3 server", script("S: +OK ready"), SERVER_PROTOCOL),
        ("an SMTP server", script("S: 220 mail ESMTP"), SERVER_PROTOCOL),
        ("binary greeting", vec![Step::send([0x16, 3, 1, 0, 10, b'\n'])], SERVER_PROTOCOL),
        ("endless greeting line", vec![Step::Flood(vec![b'x'; 4096], usize::MAX)], SERVER_PROTOCOL),
        ("no greeting at all", vec![Step::Silence], SERVER_TIMEOUT),
        ("greeting by drips", vec![Step::Drip(b"*".to_vec(), pause)], SERVER_TIMEOUT),
        ("closes at once", vec![Step::Close], SERVER_LOST),
        ("closes in the greeting", vec![Step::send("* OK rea"), Step::Close], SERVER_LOST),
        (
            "says goodbye at once",
            script("S: * BYE [UNAVAILABLE] overloaded"),
            "open: Throttled (server, will be tried again)",
        ),
        (
            "no capabilities",
            script("S: * OK\n C: E1 CAPABILITY\n S: E1 BAD what?"),
            SERVER_PROTOCOL,
        ),
        (
            "answers the login with another tag",
            script("S: * OK [CAPABILITY IMAP4rev1] hi\n C: E1 LOGIN\n S: A1 OK in"),
            PROTOCOL,
        ),
        (
            "asks for more in the login",
            script("S: * OK [CAPABILITY IMAP4rev1] hi\n C: E1 LOGIN\n S: + more"),
            PROTOCOL,
        ),
        (
            "closes in the login",
            and("S: * OK [CAPABILITY IMAP4rev1] hi\n C: E1 LOGIN", [Step::Close]),
            LOST,
        ),
        (
            "says goodbye instead of letting us in",
            script("S: * OK [CAPABILITY IMAP4rev1] hi\n C: E1 LOGIN\n S: * BYE too many connections"),
            LOST,
        ),
        (
            "challenge that is not base64",
            script("S: * OK [CAPABILITY IMAP4rev1 AUTH=CRAM-MD5] hi\n C: E1 AUTHENTICATE CRAM-MD5\n S: + !!\n C: *\n S: E1 BAD x"),
            PROTOCOL,
        ),
        (
            "challenges without end",
            and(
                "S: * OK [CAPABILITY IMAP4rev1 AUTH=LOGIN] hi\n C: E1 AUTHENTICATE LOGIN",
                [Step::Flood(b"+ eA==\r\n".to_vec(), 1 << 20)],
            ),
            "open: Authentication (mailbox, will not be tried again)",
        ),
        (
            "noise without end",
            and("{LOGIN} C: E2 SELECT", [Step::Drip(b"* 5 EXISTS\r\n".to_vec(), Duration::from_millis(1))]),
            "open: Timeout (mailbox, will be tried again)",
        ),
        (
            "no UIDVALIDITY",
            script("{LOGIN} C: E2 SELECT\n S: * 0 EXISTS\n S: E2 OK open"),
            PROTOCOL,
        ),
        (
            "ids that do not last",
            script("{LOGIN} C: E2 SELECT\n S: * 0 EXISTS\n S: * OK [UIDVALIDITY 7] x\n S: * NO [UIDNOTSTICKY] x\n S: E2 OK open"),
            "open: Unsupported (mailbox, will not be tried again)",
        ),
        (
            "a search that cannot be read",
            script("{LOGIN} C: E2 SELECT\n S: * 2 EXISTS\n S: * OK [UIDVALIDITY 7] x\n S: E2 OK open\n C: E3 UID SEARCH\n S: * SEARCH 3 five\n S: E3 OK"),
            PROTOCOL,
        ),
        (
            "a search that is refused",
            script("{LOGIN} C: E2 SELECT\n S: * 2 EXISTS\n S: * OK [UIDVALIDITY 7] x\n S: E2 OK open\n C: E3 UID SEARCH\n S: E3 NO [UNAVAILABLE] later"),
            "open: Throttled (mailbox, will be tried again)",
        ),
        (
            "all is well",
            script("{LOGIN} {TWO} C: E5 UID FETCH 3\n S: * 1 FETCH (UID 3 BODY[] {20}\n S: Subject: x\n S:\n S: body\n S: )\n S: E5 OK\n {REST}"),
            BOTH,
        ),
        (
            "other letter case, line feeds alone, more spaces, items in another order",
            and(
                "{LOGIN} {TWO} C: E5 UID FETCH 3",
                [Step::send("* 1 fetch ( body[]  {20}\nSubject: x\r\n\r\nbody\r\n  uid 3 )\nE5 ok\n")]
                    .into_iter()
                    .chain(script("{REST}")),
            ),
            BOTH,
        ),
        (
            "items nobody asked for, and news in between",
            script("{LOGIN} {TWO} C: E5 UID FETCH 3\n S: * 3 EXISTS\n S: * OK\n S: * VANISHED 8\n S: * X-NEW ((a) {2}\n S: ab\"\n S: * 1 FETCH (FLAGS (\\Seen $a[b]) UID 3 X-NEW (a (b NIL)) BODY[] {20}\n S: Subject: x\n S:\n S: body\n S: )\n S: * 2 EXPUNGE\n S: E5 OK\n {REST}"),
            BOTH,
        ),
        (
            "dates and sizes that are none",
            script("{LOGIN} C: E2 SELECT\n S: * 2 EXISTS\n S: * OK [UIDVALIDITY 7] x\n S: E2 OK open\n C: E3 UID SEARCH\n S: * SEARCH 5 3 5 0\n S: E3 OK\n C: E4 UID FETCH 3,5\n S: * 1 FETCH (UID 3 RFC822.SIZE NIL INTERNALDATE NIL FLAGS NIL)\n S: * 2 FETCH (UID 5 INTERNALDATE \"99-Foo\" RFC822.SIZE -1)\n S: E4 OK\n C: E5 UID FETCH 3\n S: * 1 FETCH (UID 3 BODY[] {20}\n S: Subject: x\n S:\n S: body\n S: )\n S: E5 OK\n {REST}"),
            BOTH,
        ),
        (
            "lists without end in lists, and a listing that cannot be read: what was found is listed all the same",
            and(
                "{LOGIN} C: E2 SELECT\n S: * 2 EXISTS\n S: * OK [UIDVALIDITY 7] x\n S: E2 OK open\n C: E3 UID SEARCH\n S: * SEARCH 3 5\n S: E3 OK\n C: E4 UID FETCH 3,5",
                [Step::send(format!("* 1 FETCH (UID 3 X {}\r\n* 2 FETCH (UID\r\nE4 OK\r\n", "(".repeat(60_000)))]
                    .into_iter()
                    .chain(script("C: E5 UID FETCH 3\n S: * 1 FETCH (UID 3 BODY[] {20}\n S: Subject: x\n S:\n S: body\n S: )\n S: E5 OK\n {REST}")),
            ),
            BOTH,
        ),
        (
            "a message that the listing does not tell about is gone",
            script("{LOGIN} C: E2 SELECT\n S: * 2 EXISTS\n S: * OK [UIDVALIDITY 7] x\n S: E2 OK open\n C: E3 UID SEARCH\n S: * SEARCH 3 5\n S: E3 OK\n C: E4 UID FETCH 3,5\n S: E4 OK\n C: E5 LOGOUT\n S: E5 OK"),
            "committed",
        ),
        (
            "an answer without its UID",
            script("{LOGIN} {TWO} C: E5 UID FETCH 3\n S: * 1 FETCH (BODY[] {20}\n S: Subject: x\n S:\n S: body\n S: )\n S: E5 OK\n {REST}"),
            BOTH,
        ),
        (
            "an answer that cannot be read, but has the message in it",
            script("{LOGIN} {TWO} C: E5 UID FETCH 3\n S: * 1 FETCH (UID three BODY ((( {20}\n S: Subject: x\n S:\n S: body\n S: )\n S: E5 OK\n {REST}"),
            BOTH,
        ),
        (
            "the message of another UID is not taken; asked once more it is right",
            script(&format!("{{LOGIN}} {{TWO}} C: E5 UID FETCH 3\n S: * 2 FETCH (UID 5 BODY[] {{20}}\n S: Subject: y\n S:\n S: body\n S: )\n S: E5 OK\n C: E6 UID FETCH 3\n S: * 1 FETCH (UID 3 BODY[] {{21}}\n S: Subject: xx\n S:\n S: body\n S: )\n S: E6 OK\n C: E7 UID FETCH 5\n S: * 2 FETCH (UID 5 BODY[] {{20}}\n S: Subject: x\n S:\n S: body\n S: )\n S: E7 OK\n {}", end(8))),
            "7.3: 21 bytes; 7.5: 20 bytes; committed",
        ),
        (
            "no body where there should be one, twice",
            script("{LOGIN} {TWO} C: E5 UID FETCH 3\n S: * 1 FETCH (UID 3 BODY[] NIL)\n S: E5 OK\n C: E6 UID FETCH 3\n S: * 1 FETCH (UID 3 BODY[] NIL)\n S: E6 OK\n C: E7 UID FETCH 5\n S: * 2 FETCH (UID 5 BODY[] NIL)\n S: E7 OK\n C: E8 UID FETCH 5\n S: * 2 FETCH (UID 5 BODY[] NIL)\n S: E8 OK\n C: E9 LOGOUT\n S: E9 OK"),
            "7.3: Protocol (message, will be tried again); 7.5: Protocol (message, will be tried again); committed",
        ),
        (
            "an empty message",
            script("{LOGIN} {TWO} C: E5 UID FETCH 3\n S: * 1 FETCH (UID 3 BODY[] \"\")\n S: E5 OK\n C: E6 UID FETCH 5\n S: * 2 FETCH (UID 5 BODY[] {0}\n S: )\n S: E6 OK\n {END7}"),
            "7.3: 0 bytes; 7.5: 0 bytes; committed",
        ),
        (
            "a message that is gone",
            script("{LOGIN} {TWO} C: E5 UID FETCH 3\n S: E5 OK nothing\n C: E6 UID FETCH 5\n S: E6 NO [EXPUNGEISSUED] gone\n C: E7 LOGOUT\n S: E7 OK"),
            "7.3: MessageGone (message, will not be tried again); 7.5: MessageGone (message, will not be tried again); committed",
        ),
        (
            "a message that cannot be read now, and one that is damaged",
            script("{LOGIN} {TWO} C: E5 UID FETCH 3\n S: E5 NO [SERVERBUG] disk\n C: E6 UID FETCH 5\n S: E6 BAD what\n C: E7 UID FETCH 5\n S: E7 BAD what\n C: E8 LOGOUT\n S: E8 OK"),
            "7.3: Throttled (message, will be tried again); 7.5: Protocol (message, will be tried again); committed",
        ),
        (
            "a size that was a lie",
            script("{LOGIN} {TWO} C: E5 UID FETCH 3\n S: * 1 FETCH (UID 3 BODY[] {3}\n S: a\n S: )\n S: E5 OK\n {REST}"),
            "7.3: 3 bytes; 7.5: 20 bytes; committed",
        ),
        (
            "a literal longer than announced is no answer",
            script("{LOGIN} {TWO} C: E5 UID FETCH 3\n S: * 1 FETCH (UID 3 BODY[] {3}\n S: a\n S: bcd\n S: )\n S: E5 OK"),
            BROKEN,
        ),
        (
            "a huge literal announced",
            script("{LOGIN} {TWO} C: E5 UID FETCH 3\n S: * 1 FETCH (UID 3 BODY[] {9999999999999}"),
            BROKEN,
        ),
        (
            "a literal nobody asked for",
            script("{LOGIN} {TWO} C: E5 UID FETCH 3\n S: * X {999999999}"),
            BROKEN,
        ),
        ("closes in a literal", and("{LOGIN} {TWO} C: E5 UID FETCH 3\n S: * 1 FETCH (UID 3 BODY[] {20}\n S: Subj", [Step::Close]), CUT),
        (
            "falls silent in a literal",
            and("{LOGIN} {TWO} C: E5 UID FETCH 3\n S: * 1 FETCH (UID 3 BODY[] {20}\n S: Subj", [Step::Silence]),
            "7.3: Timeout (mailbox, will be tried again); 7.5: ConnectionLost (mailbox, will be tried again); close: ConnectionLost (mailbox, will be tried again)",
        ),
        (
            "says goodbye in the middle",
            script("{LOGIN} {TWO} C: E5 UID FETCH 3\n S: * BYE shutting down"),
            CUT,
        ),
        (
            "answers a command twice",
            script("{LOGIN} {TWO} C: E5 UID FETCH 3\n S: E5 OK\n S: E5 OK\n C: E6 UID FETCH 5"),
            "7.3: MessageGone (message, will not be tried again); 7.5: Protocol (mailbox, will be tried again); close: ConnectionLost (mailbox, will be tried again)",
        ),
        (
            "UID EXPUNGE without an answer",
            and(
                "{LOGIN} {TWO} C: E5 UID FETCH 3\n S: E5 OK\n C: E6 UID FETCH 5\n S: * 2 FETCH (UID 5 BODY[] \"x\")\n S: E6 OK\n C: E7 UID STORE 5\n S: E7 OK\n C: E8 UID EXPUNGE 5",
                [Step::Close],
            ),
            "7.3: MessageGone (message, will not be tried again); 7.5: 1 bytes; close: ConnectionLost (mailbox, will be tried again)",
        ),
        (
            "STORE refused",
            script("{LOGIN} {TWO} C: E5 UID FETCH 3\n S: E5 OK\n C: E6 UID FETCH 5\n S: * 2 FETCH (UID 5 BODY[] \"x\")\n S: E6 OK\n C: E7 UID STORE 5\n S: E7 NO [NOPERM] no\n C: E8 LOGOUT\n S: E8 OK"),
            "7.3: MessageGone (message, will not be tried again); 7.5: 1 bytes; close: AccessDenied (mailbox, will not be tried again)",
        ),
        (
            "UIDPLUS is gone after the login, and back with the folder",
            script("S: * OK [CAPABILITY IMAP4rev1 UIDPLUS] ready\n C: E1 LOGIN\n S: E1 OK [CAPABILITY IMAP4rev1] in\n {TWO} C: E5 UID FETCH 3\n S: * CAPABILITY IMAP4rev1 UIDPLUS\n S: * 1 FETCH (UID 3 BODY[] {20}\n S: Subject: x\n S:\n S: body\n S: )\n S: E5 OK\n {REST}"),
            BOTH,
        ),
        (
            "hangs up in place of a goodbye",
            and("{LOGIN} {TWO} C: E5 UID FETCH 3\n S: E5 OK\n C: E6 UID FETCH 5\n S: E6 OK\n C: E7 LOGOUT", [Step::Close]),
            "7.3: MessageGone (message, will not be tried again); 7.5: MessageGone (message, will not be tried again); committed",
        ),
    ]
}

/// Each row: the outcome, and that nobody waited for ever.
#[tokio::test]
async fn misbehaving_servers() {
    let mut wrong = Vec::new();
    for (name, script, expected) in table() {
        let server = ScriptedServer::start(vec![script]).await;
        let mut settings = settings(server.port());
        settings.endpoint.operation_timeout = Duration::from_millis(300);
        let transport = ImapTransport::new(settings).unwrap();
        let outcome = tokio::time::timeout(Duration::from_secs(60), outcome(&transport)).await;
        let outcome = outcome.unwrap_or_else(|_| "waits for ever".to_owned());
        let heard = server.heard();
        if outcome != expected || !heard.mismatches.is_empty() {
            wrong.push(format!("{name}:\n   is {outcome}\n  not {expected}\n  {:?}", heard.mismatches));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What stands in clear behind the agreement to STARTTLS must not be taken for an answer inside TLS.
#[tokio::test]
async fn starttls_injection() {
    let ca = TestCa::new();
    for injected in ["* CAPABILITY AUTH=PLAIN\r\n", "* OK half a li", "E2 OK\r\n"] {
        let script = vec![
            Step::line("* OK [CAPABILITY IMAP4rev1 STARTTLS] hi"),
            Step::expect("E1 STARTTLS"),
            Step::send(format!("E1 OK begin\r\n{injected}")),
            Step::StartTls(ca.acceptor(ServerCert::Good)),
            Step::Silence,
        ];
        let server = ScriptedServer::start(vec![script]).await;
        let mut settings = settings(server.port());
        settings.endpoint.tls = TlsMode::StartTls;
        let transport = ImapTransport::new(settings).unwrap();
        let error = transport.receive(&mailbox("alice"), ReceiveOptions::default()).await.err().unwrap();
        assert_eq!(format!("{:?}", error.kind()), "Tls(Injection)", "{error}");
        assert!(!server.heard().lines.join(" ").contains("LOGIN"));
    }
}

/// A server that repeats what it heard does not make us show the password.
#[tokio::test]
async fn a_quoted_password_is_not_shown() {
    for line in ["E1 BAD LOGIN \"alice\" \"Secret123\"", "what is LOGIN Secret123"] {
        let script = script(&format!("S: * OK [CAPABILITY IMAP4rev1] hi\n C: E1 LOGIN\n S: {line}"));
        let server = ScriptedServer::start(vec![script]).await;
        let transport = transport(server.port());
        let error = transport.receive(&mailbox("alice"), ReceiveOptions::default()).await.err().unwrap();
        let shown = format!("{error} {error:?} {:?}", error.hint());
        assert!(!shown.contains(PASSWORD) && shown.contains("***"), "{shown}");
    }
}

/// IDLE that is refused or ended at once by the server becomes asking now and then, not a storm of commands.
#[tokio::test(start_paused = true)]
async fn idle_that_does_not_last() {
    let login = "S: * OK [CAPABILITY IMAP4rev1] hi\n C: E1 LOGIN\n S: E1 OK [CAPABILITY IMAP4rev1 IDLE] in\n C: E2 EXAMINE\n \
                 S: * 0 EXISTS\n S: * OK [UIDVALIDITY 7] x\n S: E2 OK open\n";
    for (ends, again) in
        [("S: E3 BAD not here", ""), ("S: + go\n S: E3 OK", "C: E5 IDLE\n S: + go\n S: E5 OK\n")]
    {
        let script = script(&format!(
            "{login} C: E3 IDLE\n {ends}\n C: E4 NOOP\n S: E4 OK\n {again} C: E{0} NOOP\n S: * 1 EXISTS\n S: E{0} OK\n C: E{1} LOGOUT\n S: E{1} OK",
            if again.is_empty() { 5 } else { 6 },
            if again.is_empty() { 6 } else { 7 },
        ));
        let server = ScriptedServer::start(vec![script]).await;
        let news = transport(server.port()).wait_for_mail(&mailbox("alice"), Duration::from_secs(900)).await;
        assert!(news.unwrap(), "{ends}: {:?}", server.heard());
    }
}

/// What a server sends in answer to one command has a limit, however it is made up.
#[tokio::test]
async fn answers_do_not_fill_the_memory() {
    let line = format!("* LIST (\\A) \"/\" \"{}\"\r\n", "x".repeat(60_000));
    let script = and(
        "S: * OK [CAPABILITY IMAP4rev1] hi\n C: E1 LOGIN\n S: E1 OK [CAPABILITY IMAP4rev1] in\n C: E2 LIST",
        [Step::Flood(line.into_bytes(), usize::MAX)],
    );
    let server = ScriptedServer::start(vec![script]).await;
    let mut settings = settings(server.port());
    settings.folder = "\\Junk".to_owned();
    let transport = ImapTransport::new(settings).unwrap();
    let error = transport.receive(&mailbox("alice"), ReceiveOptions::default()).await.err().unwrap();
    assert_eq!(told(&error), "Protocol (mailbox, will be tried again)", "{error}");
    assert!(error.to_string().contains("LIST"), "{error}");
}

/// Answers in another order, one of which cannot be read: its message is asked for alone and not taken for gone.
#[tokio::test]
async fn an_unreadable_answer_among_others() {
    let text = format!(
        "{{LOGIN}} {{TWO}} C: E5 UID FETCH 3\n C: E6 UID FETCH 5\n S: * 2 FETCH (UID five BODY[] {{20}}\n S: Subject: y\n S:\n S: body\n S: )\n \
         S: E6 OK\n S: * 1 FETCH (UID 3 BODY[] {{20}}\n S: Subject: x\n S:\n S: body\n S: )\n S: E5 OK\n \
         C: E7 UID FETCH 5\n S: * 2 FETCH (UID 5 BODY[] {{20}}\n S: Subject: z\n S:\n S: body\n S: )\n S: E7 OK\n {}",
        end(8)
    );
    let server = ScriptedServer::start(vec![script(&text)]).await;
    let mut inbox = open(&transport(server.port()), "alice").await;
    let stubs = list(&mut inbox).await;
    let hints: Vec<_> = stubs.iter().map(|stub| (stub.id.clone(), Part::Whole)).collect();
    inbox.prefetch(&hints).await.unwrap();
    for (stub, subject) in stubs.iter().zip(["Subject: x", "Subject: z"]) {
        let message = inbox.fetch(&stub.id).await.unwrap();
        assert!(message.bytes().starts_with(subject.as_bytes()), "{subject}");
        inbox.dispose(&stub.id, Disposition::Delete).await.unwrap();
    }
    inbox.close().await.unwrap();
    assert_eq!(server.heard().mismatches, Vec::<String>::new());
}
