//! Connections are bounded, reused, and never trusted when anything is unsure.

use super::*;
use std::time::Duration;

use email_router_model::{Classified as _, Retry};
use email_router_testkit::script::{ScriptedServer, parse};
use email_router_transport::ErrorKind;

/// lettre 0.11 opened 20 connections for 20 sends with a pool of 2.
#[tokio::test]
async fn never_more_connections_than_allowed() {
    for max in [1, 2, 3] {
        let server = SmtpServer::start(SmtpOptions::default()).await;
        let mut settings = settings(server.port(), TlsMode::None);
        settings.pool.max_connections = max;
        let transport = Arc::new(anonymous(settings));
        let sends: Vec<_> = (0..20)
            .map(|n| {
                let transport = Arc::clone(&transport);
                tokio::spawn(
                    async move { submit(&transport, &letter(&format!("n{n}"))).await.unwrap().reply },
                )
            })
            .collect();
        for (n, send) in sends.into_iter().enumerate() {
            assert!(send.await.unwrap().ends_with(&format!(" n{n}")), "each got its own answer");
        }
        let (sessions, most) = server.connections();
        assert!(most <= max && sessions <= max, "{sessions} {most}");
        assert_eq!(server.taken().len(), 20);
        assert!(server.commands().iter().all(|c| !c.starts_with("NOOP")));
    }
}

/// Each mailbox with a login of its own: idle connections of the others make room, so that the server never sees more than allowed.
#[tokio::test]
async fn never_more_connections_than_allowed_over_all_logins() {
    let names = ["n0", "n1", "n2", "n3", "n4", "n5", "n6", "n7"];
    let server = SmtpServer::start(SmtpOptions {
        sasl: vec!["CRAM-MD5"],
        users: names.iter().map(|name| (*name, PASSWORD)).collect(),
        ..SmtpOptions::default()
    })
    .await;
    let own = |mailbox: &Mailbox| Some(Credentials::new(mailbox.name.clone(), PASSWORD.into()));
    let mut settings = settings(server.port(), TlsMode::None);
    settings.pool.max_connections = 3;
    let transport = Arc::new(SmtpTransport::new(settings, Arc::new(own)).unwrap());
    let send = |name: &'static str| {
        let transport = Arc::clone(&transport);
        async move {
            let sender = Mailbox { name: name.to_owned(), ..mailbox() };
            transport.submit(&sender, &letter(name), SubmitOptions::default()).await.unwrap()
        }
    };
    for round in 0..3 {
        // together, and one after the other
        let sends: Vec<_> = names.into_iter().map(|name| tokio::spawn(send(name))).collect();
        for task in sends {
            task.await.unwrap();
        }
        for name in names {
            send(name).await;
        }
        let (_, most) = server.connections();
        assert!(most <= 3, "round {round}: {most} at once");
    }
    let taken = server.taken();
    assert_eq!(taken.len(), 48);
    for message in taken {
        let text = String::from_utf8(message.data).unwrap();
        let name = message.user.unwrap();
        assert!(text.contains(&format!("Subject: {name}\r\n")), "{name} sent {text}");
    }
}

#[tokio::test]
async fn a_connection_is_worn_out_after_its_messages() {
    let server = SmtpServer::start(SmtpOptions::default()).await;
    let mut settings = settings(server.port(), TlsMode::None);
    settings.pool.max_messages = 2;
    let transport = anonymous(settings);
    for n in 0..5 {
        submit(&transport, &letter(&format!("{n}"))).await.unwrap();
    }
    let sessions: Vec<_> = server.taken().iter().map(|t| t.session).collect();
    assert_eq!(sessions, [1, 1, 2, 2, 3]);
    transport.close_idle().await;
    assert_eq!(server.commands().iter().filter(|c| *c == "QUIT").count(), 3);
}

#[tokio::test]
async fn idle_connections_are_closed_in_time() {
    let (server, transport) = pair(SmtpOptions::default()).await;
    submit(&transport, &letter("x")).await.unwrap();
    tokio::time::pause();
    let quits = || server.commands().iter().filter(|c| *c == "QUIT").count();
    tokio::time::advance(Duration::from_secs(20)).await;
    assert_eq!(quits(), 0);
    // the paused clock jumps from timer to timer, so this does not wait
    for _ in 0..10_000 {
        if quits() > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(quits(), 1);
    tokio::time::resume();
    submit(&transport, &letter("y")).await.unwrap();
    assert_eq!(server.taken()[1].session, 2);
}

/// A server may close an idle connection at any time; nothing was taken, so the message goes over a new one.
#[tokio::test]
async fn a_stale_connection_is_replaced() {
    let options = SmtpOptions { close_after: Some(1), ..SmtpOptions::default() };
    let (server, transport) = pair(options).await;
    for n in 0..10 {
        submit(&transport, &letter(&format!("{n}"))).await.unwrap();
    }
    assert_eq!((server.taken().len(), server.connections().0), (10, 10));
}

const TRANSACTION: &str =
    "S: 220 hi\nC: EHLO\nS: 250 a\nC: MAIL\nS: 250 a\nC: RCPT\nS: 250 b\nC: DATA\nS: 354 c
    C: Subject\nC:\nC: hello\nC: .\nS: 250 first\n";
const SECOND: &str = "S: 220 hi\nC: EHLO\nS: 250 a\nC: MAIL\nS: 250 a\nC: RCPT\nS: 250 b\nC: DATA\nS: 354 c
    C: Subject\nC:\nC: hello\nC: .\nS: 250 second\n";

#[tokio::test]
async fn what_an_idle_connection_says_is_never_taken_for_an_answer() {
    for farewell in [
        "S: 421 4.4.2 idle for too long", // in the place of the answer to MAIL or before
        "S: 250 a stray answer",          // waiting to be taken for that to MAIL
        "C: MAIL\nS: 421 4.4.2 idle for too long", // only when asked
    ] {
        let server =
            ScriptedServer::start(vec![parse(&format!("{TRANSACTION}{farewell}")), parse(SECOND)]).await;
        let transport = anonymous(settings(server.port(), TlsMode::None));
        assert_eq!(submit(&transport, &letter("x")).await.unwrap().reply, "250 first");
        if farewell.starts_with('S') {
            // let it arrive, so that the case is the one that is meant
            while server.heard().lines.len() < 8 {
                tokio::task::yield_now().await;
            }
        }
        match submit(&transport, &letter("x")).await {
            Ok(receipt) => assert_eq!(receipt.reply, "250 second"),
            // the stray answer came only after the look at the connection: found out one command later, and nothing was taken
            Err(error) => assert_eq!(
                (error.kind(), error.retry()),
                (ErrorKind::Protocol, Retry::Later(None)),
                "{error}"
            ),
        }
    }
}

/// Once anything was answered, nothing is sent a second time behind the caller's back.
#[tokio::test]
async fn only_an_unanswered_transaction_is_repeated() {
    let script = format!("{TRANSACTION}C: MAIL\nS: 250 a\nC: RCPT");
    let mut steps = parse(&script);
    steps.push(email_router_testkit::script::Step::Close);
    let server = ScriptedServer::start(vec![steps, parse(SECOND)]).await;
    let transport = anonymous(settings(server.port(), TlsMode::None));
    submit(&transport, &letter("x")).await.unwrap();
    let error = submit(&transport, &letter("x")).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::ConnectionLost, Retry::Later(None)), "{error}");
    assert_eq!(server.heard().sessions, 1);
    assert_eq!(submit(&transport, &letter("x")).await.unwrap().reply, "250 second");
}
