//! What is sent, and what becomes of the answers.

use super::*;
use email_router_model::{Classified as _, Retry, Scope};
use email_router_testkit::script::{ScriptedServer, parse};
use email_router_transport::smtp::{EightBit, EnvelopeSender};
use email_router_transport::{Access, DsnNotify, DsnRequest, ErrorKind, ReceiveOptions, RecipientStatus};
use proptest::prelude::*;

#[tokio::test]
async fn a_message_arrives_as_it_is_and_costs_no_needless_command() {
    for (chunking, expected) in
        [(false, "EHLO,MAIL,RCPT,DATA,MAIL,RCPT,DATA"), (true, "EHLO,MAIL,RCPT,BDAT,MAIL,RCPT,BDAT")]
    {
        let (server, transport) = pair(SmtpOptions { chunking, ..SmtpOptions::default() }).await;
        for subject in ["one", "two"] {
            let receipt = submit(&transport, &letter(subject)).await.unwrap();
            assert!(receipt.all_accepted() && receipt.reply.ends_with(subject), "{receipt:?}");
            assert_eq!(receipt.recipients[0].reply, "250 2.1.5 recipient bob@example.net ok");
        }
        let verbs: Vec<_> =
            server.commands().iter().map(|c| c.split(' ').next().unwrap().to_owned()).collect();
        assert_eq!(verbs.join(","), expected);
        assert_eq!(server.commands()[0], "EHLO [127.0.0.1]");
        let taken = server.taken();
        assert_eq!(taken[0].data, b"Subject: one\r\n\r\nhello\r\n"); // nothing added in front of the final dot
        assert_eq!((taken[0].sender.as_str(), taken[0].parameters.as_str()), ("ann@example.com", "SIZE=23"));
        assert_eq!(taken[0].chunked, chunking);
        assert_eq!((server.connections().0, server.violations()), (1, vec![]));
    }
}

#[tokio::test]
async fn works_with_a_server_that_knows_nothing() {
    for ehlo in [true, false] {
        let bare = SmtpOptions {
            ehlo,
            pipelining: false,
            chunking: false,
            eight_bit_mime: false,
            smtputf8: false,
            dsn: false,
            size: None,
            ..SmtpOptions::default()
        };
        let (server, transport) = pair(bare).await;
        let options = SubmitOptions::default();
        transport.submit(&mailbox(), &outbound("b@y c@y", "a\n.\nb"), options).await.unwrap();
        let taken = server.taken();
        assert_eq!(taken[0].data, b"a\r\n.\r\nb\r\n");
        assert_eq!((taken[0].parameters.as_str(), taken[0].recipients.len()), ("", 2));
        assert_eq!(server.violations(), Vec::<String>::new());
    }
}

/// lettre 0.11 lets dots behind a bare LF through (SMTP smuggling): here no form ends the data early or arrives as a bare CR or LF.
#[tokio::test]
async fn no_message_ends_its_own_data() {
    for chunking in [false, true] {
        let (server, transport) = pair(SmtpOptions { chunking, ..SmtpOptions::default() }).await;
        let ends = ["\n.\r\n", "\r.\r\n", "\r\n.\n", "\r\n.\r", "\n.\n", "\r.\r", "\r\n.\r\n", "\r\n\0.\r\n"];
        for end in ends {
            let mime =
                format!("Subject: x\r\n\r\nbefore{end}MAIL FROM:<evil@x>\r\nRCPT TO:<victim@y>\r\nDATA\r\n");
            submit(&transport, &outbound("b@y", mime)).await.unwrap();
        }
        let taken = server.taken();
        assert_eq!(taken.len(), ends.len());
        for message in &taken {
            assert!(
                message.data.ends_with(b"DATA\r\n") && message.sender == "ann@example.com",
                "{message:?}"
            );
        }
        assert_eq!(server.violations(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn each_recipient_has_its_own_fate() {
    let refuse = vec![
        ("perm", "550 5.1.1 no such user"),
        ("temp", "450 4.2.1 try again later"),
        ("full", "552 5.2.2 mailbox full"),
        ("many", "552 5.5.3 too many recipients"),
        ("bare552", "552 too many recipients"),
        ("rfc452", "452 4.5.3 too many recipients"),
    ];
    for chunking in [false, true] {
        let options = SmtpOptions { chunking, refuse_recipients: refuse.clone(), ..SmtpOptions::default() };
        let (server, transport) = pair(options).await;
        let all = "good@y perm@y temp@y full@y many@y bare552@y rfc452@y";
        let receipt = submit(&transport, &outbound(all, "x\r\n")).await.unwrap();
        use RecipientStatus::{Accepted, Refused, RefusedForNow, TooMany};
        let fates: Vec<_> = receipt.recipients.iter().map(|r| r.status).collect();
        assert_eq!(fates, [Accepted, Refused, RefusedForNow, Refused, TooMany, TooMany, TooMany]);
        assert_eq!(receipt.recipients[3].reply, "552 5.2.2 mailbox full");
        assert_eq!(server.taken()[0].recipients[0].0, "good@y");

        for (recipients, retry) in [
            ("perm@y full@y", Retry::Never),
            ("perm@y temp@y", Retry::Later(None)),
            ("temp@y", Retry::Later(None)),
        ] {
            let error = submit(&transport, &outbound(recipients, "x\r\n")).await.unwrap_err();
            assert_eq!((error.kind(), error.retry()), (ErrorKind::RecipientsRefused, retry), "{recipients}");
            let words = error.reply().unwrap();
            assert!(recipients.split(' ').all(|r| words.contains(r)), "{words}");
            let told: Vec<_> = error.recipients().iter().map(|r| r.address.as_str()).collect();
            assert_eq!(told.join(" "), recipients);
        }
        // what was refused is reset, and the connection is good for the next
        assert!(submit(&transport, &letter("after")).await.unwrap().reply.ends_with("after"));
        assert_eq!((server.taken().len(), server.connections().0), (2, 1));
        assert_eq!(server.violations(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn refusals_are_told_apart() {
    let options = SmtpOptions {
        size: Some(400),
        refuse_senders: vec![
            ("nobody", "550 5.7.60 client does not have permissions to send as this sender"),
            ("slow", "451 4.3.0 lookup failed"),
            ("nologin", "530 5.7.0 authentication required"),
            ("notls", "530 5.7.0 Must issue a STARTTLS command first"),
            ("full", "452 4.3.1 insufficient system storage"),
            ("odd", "555 5.5.4 unsupported option"),
            ("auth503", "503 5.5.1 Error: send AUTH command first"),
            ("order503", "503 5.5.1 bad sequence of commands"),
        ],
        refuse_recipients: vec![("norelay", "530 5.7.0 authentication required")],
        refuse_content: vec![
            ("SPAM", "554 5.7.1 spam"),
            ("GREY", "451 4.7.1 greylisted"),
            ("BIG", "552 5.3.4 message too big"),
        ],
        ..SmtpOptions::default()
    };
    let (server, transport) = pair(options).await;
    let (later, never) = (Retry::Later(None), Retry::Never);
    for (sender, recipient, body, kind, retry, scope, words) in [
        ("nobody", "b", "", ErrorKind::SenderRefused, never, Scope::Message, "refused the sender nobody@x"),
        ("slow", "b", "", ErrorKind::SenderRefused, later, Scope::Message, "451 4.3.0 lookup failed"),
        ("nologin", "b", "", ErrorKind::Authentication, never, Scope::Mailbox, "demands a login"),
        ("notls", "b", "", ErrorKind::Settings, never, Scope::Mailbox, "demands TLS"),
        ("full", "b", "", ErrorKind::Throttled, later, Scope::Server, "no room"),
        ("odd", "b", "", ErrorKind::Protocol, never, Scope::Message, "does not accept MAIL"),
        ("auth503", "b", "", ErrorKind::Authentication, never, Scope::Mailbox, "demands a login"),
        ("order503", "b", "", ErrorKind::Protocol, never, Scope::Message, "does not accept MAIL"),
        ("ok", "norelay", "", ErrorKind::Authentication, never, Scope::Mailbox, "demands a login"),
        ("ok", "b", "SPAM", ErrorKind::MessageRefused, never, Scope::Message, "554 5.7.1 spam"),
        ("ok", "b", "GREY", ErrorKind::MessageRefused, later, Scope::Message, "451 4.7.1 greylisted"),
        ("ok", "b", "BIG", ErrorKind::TooLarge, never, Scope::Message, "too large"),
        ("ok", "b", &"long\r\n".repeat(100), ErrorKind::TooLarge, never, Scope::Message, "takes at most 400"),
    ] {
        let mut message = outbound(&format!("{recipient}@y"), format!("Subject: x\r\n\r\n{body}\r\n"));
        message.envelope.sender = Some(format!("{sender}@x").parse().unwrap());
        let error = submit(&transport, &message).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.retry(), error.scope()),
            (kind, retry, scope),
            "{sender} {body}: {error}"
        );
        assert!(error.to_string().contains(words), "{error}");
        assert!(error.to_string().contains("smtp 127.0.0.1:"), "{error}");
    }
    assert!(server.commands().iter().all(|c| !c.contains("SIZE=6")), "what is too large was not even tried");
    assert_eq!((server.taken().len(), server.connections().0), (0, 1));
}

#[tokio::test]
async fn what_the_server_cannot_carry_fails_clearly() {
    let bare = SmtpOptions { eight_bit_mime: false, smtputf8: false, ..SmtpOptions::default() };
    let (server, transport) = pair(bare.clone()).await;
    use ErrorKind::{MessageRefused, Unsupported};
    for (recipients, mime, kind, words) in [
        ("ü@y", "x\r\n".as_bytes(), Unsupported, "internationalized addresses (SMTPUTF8), which ü@y needs"),
        ("b@y", "Subject: ü\r\n\r\nx\r\n".as_bytes(), MessageRefused, "internationalized headers"),
        ("b@y", b"Subject: x\r\n\r\n\xfc\r\n", MessageRefused, "8-bit content (8BITMIME)"),
        ("b@y", b"Subject: \xfc\r\n\r\nx\r\n", MessageRefused, "8-bit content (8BITMIME)"), // no UTF-8: not SMTPUTF8's matter
    ] {
        let error = submit(&transport, &outbound(recipients, mime)).await.unwrap_err();
        let axes = (error.kind(), error.retry(), error.scope());
        assert_eq!(axes, (kind, Retry::Never, Scope::Message));
        assert!(error.to_string().contains(words), "{error}");
    }
    assert_eq!(server.commands().len(), 1, "only EHLO");
    let mut anyway = settings(server.port(), TlsMode::None);
    anyway.eight_bit = EightBit::SendAnyway;
    submit(&anonymous(anyway), &outbound("b@y", b"\xfc\r\n")).await.unwrap();
    assert_eq!(server.taken()[0].data, b"\xfc\r\n");

    // and where it can, the parameters say so
    let (server, transport) = pair(SmtpOptions::default()).await;
    let dsn = DsnRequest {
        notify: DsnNotify { success: true, failure: true, delay: true },
        headers_only: true,
        envelope_id: Some("env 1".into()),
    };
    let mut options = SubmitOptions::default();
    options.dsn = Some(dsn);
    let message = outbound("ü@y b+c@y", "Subject: ü\r\n\r\nü\r\n");
    transport.submit(&mailbox(), &message, options.clone()).await.unwrap();
    let taken = &server.taken()[0];
    assert_eq!(taken.parameters, "SIZE=19 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=env+201");
    assert_eq!(taken.recipients[0].1, "NOTIFY=SUCCESS,FAILURE,DELAY");
    assert_eq!(taken.recipients[1].1, "NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;b+2Bc@y");
    if let Some(dsn) = options.dsn.as_mut() {
        dsn.envelope_id = Some("x".repeat(101));
    }
    let error = transport.submit(&mailbox(), &message, options).await.unwrap_err();
    assert_eq!((error.kind(), error.scope()), (ErrorKind::Settings, Scope::Message));
}

#[tokio::test]
async fn envelope_sender_rules() {
    let server = SmtpServer::start(SmtpOptions::default()).await;
    let given = || Some("other@example.org".parse().unwrap());
    for (rule, envelope, expected) in [
        (EnvelopeSender::FromMessage, given(), "other@example.org"),
        (EnvelopeSender::SenderMailbox, given(), "ann@example.com"),
        (EnvelopeSender::Fixed("bounces@example.com".parse().unwrap()), given(), "bounces@example.com"),
        // an automatic message must not bounce, whatever the rule
        (EnvelopeSender::FromMessage, None, ""),
        (EnvelopeSender::SenderMailbox, None, ""),
        (EnvelopeSender::Fixed("bounces@example.com".parse().unwrap()), None, ""),
    ] {
        let mut settings = settings(server.port(), TlsMode::None);
        settings.envelope_sender = rule;
        let mut message = letter("x");
        message.envelope.sender = envelope;
        submit(&anonymous(settings), &message).await.unwrap();
        assert_eq!(server.taken().last().unwrap().sender, expected);
    }
}

#[tokio::test]
async fn wrong_settings_and_wrong_messages() {
    let refused = |change: fn(&mut SmtpSettings)| {
        let mut wrong = settings(25, TlsMode::StartTls);
        change(&mut wrong);
        SmtpTransport::new(wrong, Arc::new(SharedCredentials::none())).unwrap_err().to_string()
    };
    assert!(refused(|s| s.pool.max_connections = 0).contains("at least one connection"));
    assert!(refused(|s| s.pool.max_messages = 0).contains("at least one connection"));
    assert!(refused(|s| s.deadlines.data_end = std::time::Duration::ZERO).contains("a deadline of zero"));
    assert!(refused(|s| s.mechanisms = vec!["SPA".into()]).contains("\"SPA\" is no mechanism"));
    assert!(refused(|s| s.endpoint.host = String::new()).contains("server name is empty"));
    assert!(refused(|s| s.endpoint.extra_ca_files = vec!["/nonexistent.pem".into()]).contains("nonexistent"));

    let (server, transport) = pair(SmtpOptions::default()).await;
    let error = submit(&transport, &outbound("", "x")).await.unwrap_err();
    assert_eq!((error.kind(), error.scope()), (ErrorKind::Settings, Scope::Message));
    let mut small = settings(server.port(), TlsMode::None);
    small.max_message_bytes = 3;
    let error = submit(&anonymous(small), &outbound("b@y", "1234")).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::TooLarge, Retry::Never));
    assert_eq!(server.connections().0, 0, "nothing of this touched the network");
}

#[tokio::test]
async fn probe_changes_nothing_and_denied_methods_say_so() {
    let options =
        SmtpOptions { refuse_senders: vec![("eve", "550 5.7.1 not yours")], ..SmtpOptions::default() };
    let (server, transport) = pair(options).await;
    let probe = transport.probe(&mailbox(), Access::Outgoing).await.unwrap();
    let steps: Vec<_> = probe.steps.iter().map(|s| s.what.as_str()).collect();
    assert_eq!(steps, ["connected", "no TLS", "no login", "sender ann@example.com accepted"]);
    assert_eq!(probe.steps[1].warning.as_deref(), Some("mail goes in clear"));
    assert_eq!(server.commands()[1..], ["MAIL FROM:<ann@example.com>", "RSET", "QUIT"]);
    let eve = Mailbox { address: "eve@example.com".parse().unwrap(), ..mailbox() };
    let error = transport.probe(&eve, Access::Outgoing).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SenderRefused);
    assert_eq!(server.taken().len(), 0);

    let capability = transport.capability();
    assert!(capability.submit && capability.per_recipient_results && !capability.receive);
    let connections = server.connections().0;
    let error = transport.probe(&mailbox(), Access::Incoming).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let error = transport.receive(&mailbox(), ReceiveOptions::default()).await.err().unwrap();
    assert_eq!((error.kind(), server.connections().0), (ErrorKind::Unsupported, connections));
    assert_eq!(transport.to_string(), format!("smtp 127.0.0.1:{}", server.port()));
}

/// 9 MB through small buffers, in every way a message can go.
#[tokio::test]
async fn large_messages() {
    let mime = "Subject: x\r\n\r\n".to_owned() + &"..dots and 0123456789 words\n".repeat(330_000);
    let expected = mime.replace("\r\n", "\n").replace('\n', "\r\n").into_bytes();
    for (pipelining, chunking) in [(true, true), (true, false), (false, false)] {
        let (server, transport) = pair(SmtpOptions { pipelining, chunking, ..SmtpOptions::default() }).await;
        submit(&transport, &outbound("b@y", &mime)).await.unwrap();
        let taken = server.taken().remove(0);
        assert_eq!(taken.parameters, format!("SIZE={}", expected.len()));
        assert!(taken.data == expected && server.violations().is_empty());
    }
}

/// A group of commands larger than all socket buffers: both sides write at once and neither waits for ever.
#[tokio::test]
async fn very_many_recipients() {
    let (server, transport) = pair(SmtpOptions::default()).await;
    let list: Vec<String> =
        (0..20_000).map(|n| format!("somebody.with.a.rather.long.name.{n}@example.net")).collect();
    let receipt = submit(&transport, &outbound(&list.join(" "), "x\r\n")).await.unwrap();
    assert_eq!(receipt.recipients.len(), 20_000);
    assert!(receipt.recipients.iter().zip(&list).all(|(r, a)| r.reply.contains(a)));
    assert_eq!(server.taken()[0].recipients.len(), 20_000);
}

#[test]
fn any_body_survives_the_way_through_a_server() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let guard = runtime.enter();
    let by_data = runtime.block_on(pair(SmtpOptions { chunking: false, ..SmtpOptions::default() }));
    let by_bdat = runtime.block_on(pair(SmtpOptions::default()));
    let octet = prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'.'), any::<u8>()];
    proptest!(ProptestConfig::with_cases(64), |(body in proptest::collection::vec(octet, 0..300))| {
        let text: Vec<u8> = body.clone();
        for (server, transport) in [&by_data, &by_bdat] {
            let before = server.taken().len();
            runtime.block_on(submit(transport, &outbound("b@y", &text))).unwrap();
            let taken = server.taken();
            prop_assert_eq!(taken.len(), before + 1);
            // the same lines, however they were ended
            let lines = |bytes: &[u8]| {
                let mut out = vec![vec![]];
                let mut rest = bytes;
                while let Some((&first, tail)) = rest.split_first() {
                    rest = tail;
                    match first {
                        b'\r' => {
                            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
                            out.push(vec![]);
                        }
                        b'\n' => out.push(vec![]),
                        other => out.last_mut().unwrap().push(other),
                    }
                }
                if out.last().unwrap().is_empty() {
                    out.pop();
                }
                out
            };
            prop_assert_eq!(lines(&taken[before].data), lines(&text));
            prop_assert_eq!(server.violations(), Vec::<String>::new());
        }
    });
    drop(guard);
}

/// A server that offers CHUNKING and does not know BDAT is given DATA, once and for all; nothing is lost and nothing goes twice.
#[tokio::test]
async fn chunking_that_is_offered_and_not_known() {
    for refusal in ["500 5.5.1 command unrecognized", "502 not implemented"] {
        let hello = "S: 220 hi\nC: EHLO\nS: 250-a\nS: 250-PIPELINING\nS: 250 CHUNKING\n";
        let first = format!("{hello}C: MAIL\nC: RCPT\nS: 250 a\nS: 250 b\nC: BDAT\nS: {refusal}");
        let again = format!(
            "{hello}C: MAIL\nC: RCPT\nC: DATA\nS: 250 a\nS: 250 b\nS: 354 go\nC: Subject: x\nC:\nC: hello\nC: .\nS: 250 queued 1
             C: MAIL\nC: RCPT\nC: DATA\nS: 250 a\nS: 250 b\nS: 354 go\nC: Subject: y\nC:\nC: hello\nC: .\nS: 250 queued 2"
        );
        let server = ScriptedServer::start(vec![parse(&first), parse(&again)]).await;
        let mut settings = settings(server.port(), TlsMode::None);
        settings.pool.max_connections = 1;
        let transport = anonymous(settings);
        assert_eq!(submit(&transport, &letter("x")).await.unwrap().reply, "250 queued 1");
        assert_eq!(submit(&transport, &letter("y")).await.unwrap().reply, "250 queued 2");
        assert_eq!(server.heard().mismatches, Vec::<String>::new(), "{refusal}");
    }
}

/// Without TLS no certificate authority is needed, so none is looked for.
#[tokio::test]
async fn clear_text_needs_no_certificate_authorities() {
    let server = SmtpServer::start(SmtpOptions::default()).await;
    let mut clear = settings(server.port(), TlsMode::None);
    clear.endpoint.extra_ca_files = vec!["/nowhere/ca.pem".into()];
    submit(&anonymous(clear.clone()), &letter("x")).await.unwrap();
    clear.endpoint.tls = TlsMode::StartTlsIfOffered;
    let error = SmtpTransport::new(clear, Arc::new(SharedCredentials::none())).unwrap_err();
    assert!(error.to_string().contains("/nowhere/ca.pem"), "{error}");
}
