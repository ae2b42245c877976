//! Servers that do what no server should: one row for each, with its outcome.

use super::*;
use std::time::Duration;

use email_router_model::{Classified as _, Retry, Scope};
use email_router_testkit::script::{ScriptedServer, Step, parse};
use email_router_transport::{Error, ErrorKind, TlsFault};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const LATER: Retry = Retry::Later(None);
const NEVER: Retry = Retry::Never;
const DOUBT: Retry = Retry::InDoubt;

/// Which deadline is short in a row; the others are as long as ever, so that only the one that is meant can pass.
#[derive(Clone, Copy)]
enum Short {
    None,
    Greeting,
    Command,
    Mail,
    Rcpt,
    DataStart,
    DataEnd,
}

fn impatient(port: u16, tls: TlsMode, short: Short) -> SmtpSettings {
    let mut settings = settings(port, tls);
    let soon = Duration::from_millis(100);
    match short {
        Short::None => {}
        Short::Greeting => settings.deadlines.greeting = soon,
        Short::Command => settings.endpoint.operation_timeout = soon,
        Short::Mail => settings.deadlines.mail = soon,
        Short::Rcpt => settings.deadlines.rcpt = soon,
        Short::DataStart => settings.deadlines.data_start = soon,
        Short::DataEnd => settings.deadlines.data_end = soon,
    }
    settings
}

/// A script with further steps behind its text.
fn with(text: &str, more: &[Step]) -> Vec<Step> {
    let mut steps = parse(text);
    steps.extend_from_slice(more);
    steps
}

struct Row {
    name: &'static str,
    script: Vec<Step>,
    tls: TlsMode,
    short: Short,
    kind: ErrorKind,
    retry: Retry,
    scope: Scope,
    words: &'static str,
}

#[allow(clippy::too_many_lines)] // a table
fn table() -> Vec<Row> {
    use ErrorKind as K;
    const HELLO: &str = "S: 220 hi\nC: EHLO\nS: 250-a\nS: 250 PIPELINING\n";
    const ENVELOPE: &str = "S: 220 hi\nC: EHLO\nS: 250-a\nS: 250 PIPELINING\nC: MAIL\nC: RCPT\nC: DATA\n";
    const GO: &str = "S: 220 hi\nC: EHLO\nS: 250-a\nS: 250 PIPELINING\nC: MAIL\nC: RCPT\nC: DATA
        S: 250 a\nS: 250 b\nS: 354 go\nC: Subject\nC:\nC: hello\nC: .\n";
    const TLS: &str = "S: 220 hi\nC: EHLO\nS: 250-a\nS: 250 STARTTLS\nC: STARTTLS\n";
    let row = |name, script, short, kind, retry, scope, words| Row {
        name,
        script,
        tls: TlsMode::None,
        short,
        kind,
        retry,
        scope,
        words,
    };
    let starttls = |name, script, kind, scope, words| Row {
        name,
        script,
        tls: TlsMode::StartTls,
        short: Short::None,
        kind,
        retry: LATER,
        scope,
        words,
    };
    let (mailbox, server, message) = (Scope::Mailbox, Scope::Server, Scope::Message);
    vec![
        row(
            "garbage greeting",
            with("S: HTTP/1.1 400 Bad Request", &[]),
            Short::None,
            K::Protocol,
            LATER,
            server,
            "no SMTP reply",
        ),
        row(
            "binary greeting",
            vec![Step::send(b"\x16\x03\x01\x00\x05\0\0\n")],
            Short::None,
            K::Protocol,
            LATER,
            server,
            "no SMTP reply",
        ),
        row(
            "endless line",
            vec![Step::Flood(b"220 xxxxxxxxxxxxxxxx".to_vec(), 50_000_000)],
            Short::None,
            K::Protocol,
            LATER,
            server,
            "line longer than",
        ),
        row(
            "endless reply",
            vec![Step::Flood(b"220-xxxxxxxxxxxxxx\r\n".to_vec(), 50_000_000)],
            Short::None,
            K::Protocol,
            LATER,
            server,
            "reply longer than",
        ),
        row(
            "drip-feed",
            vec![Step::Drip(b"220-x\r\n".to_vec(), Duration::from_millis(5))],
            Short::Greeting,
            K::Timeout,
            LATER,
            server,
            "greeting",
        ),
        row("silence", vec![Step::Silence], Short::Greeting, K::Timeout, LATER, server, "greeting"),
        row(
            "early close",
            vec![Step::Close],
            Short::None,
            K::ConnectionLost,
            LATER,
            server,
            "closed the connection while waiting for the greeting",
        ),
        row(
            "close in the middle of a line",
            vec![Step::send("220 hel"), Step::Close],
            Short::None,
            K::ConnectionLost,
            LATER,
            server,
            "closed",
        ),
        row(
            "refusing greeting",
            parse("S: 554 5.7.1 blocked"),
            Short::None,
            K::Refused,
            LATER,
            Scope::Server,
            "554 5.7.1 blocked",
        ),
        row(
            "busy",
            parse("S: 421 4.3.2 too many connections"),
            Short::None,
            K::Throttled,
            LATER,
            server,
            "421 4.3.2",
        ),
        row(
            "EHLO unanswered",
            with("S: 220 hi\nC: EHLO", &[Step::Silence]),
            Short::Command,
            K::Timeout,
            LATER,
            server,
            "answer to a command",
        ),
        row(
            "close after EHLO",
            with("S: 220 hi\nC: EHLO\nS: 250-a", &[Step::Close]),
            Short::None,
            K::ConnectionLost,
            LATER,
            server,
            "closed",
        ),
        row(
            "codes of one reply differ",
            parse("S: 220 hi\nC: EHLO\nS: 250-a\nS: 251 b"),
            Short::None,
            K::Protocol,
            LATER,
            server,
            "different codes, 250 and 251",
        ),
        row(
            "EHLO and HELO refused",
            parse("S: 220 hi\nC: EHLO\nS: 500 what\nC: HELO\nS: 550 who"),
            Short::None,
            K::Protocol,
            LATER,
            server,
            "refused EHLO and HELO",
        ),
        row(
            "unasked reply with the answer to EHLO",
            vec![Step::line("220 hi"), Step::expect("EHLO"), Step::send("250 a\r\n250 unasked\r\n")],
            Short::None,
            K::Protocol,
            LATER,
            mailbox,
            "nothing that was asked",
        ),
        row(
            "MAIL unanswered",
            with(HELLO, &[Step::expect("MAIL"), Step::Silence]),
            Short::Mail,
            K::Timeout,
            LATER,
            mailbox,
            "MAIL",
        ),
        row(
            "close at MAIL",
            with(HELLO, &[Step::expect("MAIL"), Step::expect("RCPT"), Step::expect("DATA"), Step::Close]),
            Short::None,
            K::ConnectionLost,
            LATER,
            mailbox,
            "MAIL",
        ),
        row(
            "421 in the middle",
            with(ENVELOPE, &parse("S: 250 a\nS: 421 4.3.0 shutting down")),
            Short::None,
            K::Throttled,
            LATER,
            server,
            "421 4.3.0",
        ),
        row(
            "garbage to RCPT",
            with(ENVELOPE, &parse("S: 250 a\nS: what?")),
            Short::None,
            K::Protocol,
            LATER,
            mailbox,
            "no SMTP reply",
        ),
        row(
            "RCPT unanswered",
            with(ENVELOPE, &[Step::line("250 a"), Step::Silence]),
            Short::Rcpt,
            K::Timeout,
            LATER,
            mailbox,
            "RCPT",
        ),
        row(
            "DATA unanswered",
            with(ENVELOPE, &[Step::line("250 a"), Step::line("250 b"), Step::Silence]),
            Short::DataStart,
            K::Timeout,
            LATER,
            mailbox,
            "DATA",
        ),
        row(
            "250 to DATA",
            with(ENVELOPE, &parse("S: 250 a\nS: 250 b\nS: 250 c")),
            Short::None,
            K::Protocol,
            LATER,
            mailbox,
            "DATA",
        ),
        row(
            "an answer too many",
            with(ENVELOPE, &parse("S: 250 a\nS: 250 b\nS: 354 go\nS: 250 already")),
            Short::None,
            K::Protocol,
            LATER,
            mailbox,
            "nothing that was asked",
        ),
        row(
            "451 to DATA",
            with(ENVELOPE, &parse("S: 250 a\nS: 250 b\nS: 451 4.3.0 no")),
            Short::None,
            K::MessageRefused,
            LATER,
            message,
            "451 4.3.0",
        ),
        row(
            "5xx after the data",
            with(GO, &parse("S: 554 5.7.1 spam")),
            Short::None,
            K::MessageRefused,
            NEVER,
            message,
            "554 5.7.1 spam",
        ),
        row(
            "4xx after the data",
            with(GO, &parse("S: 452 4.2.2 full")),
            Short::None,
            K::MessageRefused,
            LATER,
            message,
            "452 4.2.2",
        ),
        row(
            "421 after the data",
            with(GO, &parse("S: 421 4.3.0 going down")),
            Short::None,
            K::Throttled,
            LATER,
            server,
            "421",
        ),
        row(
            "no answer to the final dot",
            with(GO, &[Step::Silence]),
            Short::DataEnd,
            K::Timeout,
            DOUBT,
            mailbox,
            "complete message",
        ),
        row(
            "drip-feed after the final dot",
            with(GO, &[Step::Drip(b"250-x\r\n".to_vec(), Duration::from_millis(5))]),
            Short::DataEnd,
            K::Timeout,
            DOUBT,
            mailbox,
            "complete message",
        ),
        row(
            "close after the final dot",
            with(GO, &[Step::Close]),
            Short::None,
            K::ConnectionLost,
            DOUBT,
            mailbox,
            "complete message",
        ),
        row(
            "half an answer to the final dot",
            with(GO, &[Step::send("250-queued as"), Step::Close]),
            Short::None,
            K::ConnectionLost,
            DOUBT,
            mailbox,
            "complete message",
        ),
        row(
            "garbage after the final dot",
            with(GO, &parse("S: thanks!")),
            Short::None,
            K::Protocol,
            DOUBT,
            mailbox,
            "no SMTP reply",
        ),
        row(
            "354 after the final dot",
            with(GO, &parse("S: 354 go on")),
            Short::None,
            K::Protocol,
            DOUBT,
            mailbox,
            "complete message",
        ),
        starttls(
            "STARTTLS injection",
            vec![
                Step::line("220 hi"),
                Step::expect("EHLO"),
                Step::send("250-a\r\n250 STARTTLS\r\n"),
                Step::expect("STARTTLS"),
                Step::send("220 go\r\n250 injected\r\n"),
            ],
            K::Tls(TlsFault::Injection),
            server,
            "in clear after it agreed",
        ),
        starttls(
            "STARTTLS offered and refused",
            with(TLS, &parse("S: 454 4.7.0 no certificate")),
            K::Tls(TlsFault::NotOffered),
            server,
            "454 4.7.0",
        ),
        starttls(
            "STARTTLS not offered",
            parse("S: 220 hi\nC: EHLO\nS: 250 a"),
            K::Tls(TlsFault::NotOffered),
            server,
            "does not offer STARTTLS",
        ),
        starttls("250 to STARTTLS", with(TLS, &parse("S: 250 ok")), K::Protocol, server, "STARTTLS"),
        starttls(
            "close in the handshake",
            with(TLS, &[Step::line("220 go"), Step::Close]),
            K::Tls(TlsFault::Other),
            server,
            "handshake",
        ),
    ]
}

#[tokio::test]
async fn outcomes() {
    let table = table();
    assert!(table.len() >= 10);
    for row in table {
        let server = ScriptedServer::start(vec![row.script]).await;
        let transport = anonymous(impatient(server.port(), row.tls, row.short));
        let error = submit(&transport, &letter("x")).await.expect_err(row.name);
        let axes = (error.kind(), error.retry(), error.scope());
        assert_eq!(axes, (row.kind, row.retry, row.scope), "{}: {error}", row.name);
        assert!(error.to_string().contains(row.words), "{}: {error}", row.name);
        assert!(error.to_string().starts_with("smtp 127.0.0.1:"), "{}: {error}", row.name);
        assert_eq!(error.is_in_doubt(), row.retry == DOUBT && error.hint().is_some(), "{}", row.name);
        assert_eq!(server.heard().mismatches, Vec::<String>::new(), "{}", row.name);
        assert_eq!(server.heard().sessions, 1, "{}: nothing is sent twice", row.name);
    }
}

/// A server on a bare socket, for what a script cannot do: it gets the message's beginning and then does `end`.
async fn stops_reading(end: &'static [u8], close: bool) -> (u16, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = [0; 1000];
        stream.write_all(b"220 hi\r\n").await.unwrap();
        let _ = stream.read(&mut heard).await.unwrap();
        stream.write_all(b"250-a\r\n250 PIPELINING\r\n").await.unwrap();
        let _ = stream.read(&mut heard).await.unwrap();
        stream.write_all(b"250 a\r\n250 b\r\n354 go\r\n").await.unwrap();
        let _ = stream.read(&mut heard).await.unwrap();
        stream.write_all(end).await.unwrap();
        if !close {
            std::future::pending::<()>().await;
        }
    });
    (port, task)
}

async fn send_large(settings: SmtpSettings) -> Error {
    let mime = "Subject: x\r\n\r\n".to_owned() + &"0123456789 words\r\n".repeat(2_000_000);
    submit(&anonymous(settings), &outbound("b@y", mime)).await.unwrap_err()
}

/// The server refuses in the middle of the data and reads no more: the refusal is heard although the write cannot go on.
#[tokio::test]
async fn a_refusal_in_the_middle_of_the_data() {
    let (port, task) = stops_reading(b"552 5.3.4 too big\r\n", false).await;
    let error = send_large(settings(port, TlsMode::None)).await;
    assert_eq!((error.kind(), error.retry()), (ErrorKind::TooLarge, NEVER), "{error}");
    task.abort();
}

/// The server stops reading without a word: the deadline of the block passes, and the message certainly was not taken.
#[tokio::test]
async fn a_server_that_stops_reading() {
    let (port, task) = stops_reading(b"", false).await;
    let mut settings = settings(port, TlsMode::None);
    settings.deadlines.data_block = Duration::from_millis(100);
    let error = send_large(settings).await;
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Timeout, LATER), "{error}");
    task.abort();
}

/// The connection breaks in the middle of the data: nothing was taken, so there is no doubt.
#[tokio::test]
async fn a_connection_lost_in_the_middle_of_the_data() {
    let (port, task) = stops_reading(b"", true).await;
    let error = send_large(settings(port, TlsMode::None)).await;
    assert_eq!((error.kind(), error.retry()), (ErrorKind::ConnectionLost, LATER), "{error}");
    task.await.unwrap();
}
