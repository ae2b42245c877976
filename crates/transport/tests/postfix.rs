//! The SMTP adapter against a real Postfix.
//!
//! `POSTFIX_SMTP`, `POSTFIX_AUTH`, `POSTFIX_SUBM`, `POSTFIX_SMTPS` are its ports on localhost (anonymous relay with STARTTLS, login with
//! optional STARTTLS, login with STARTTLS required, implicit TLS), `POSTFIX_CA` the PEM file of its authority. The accounts are alice and
//! bob with the password Secret123; tempfail@, permfail@, full@ and grey@contoso.test are refused with 450, 550, 552 and 451. The
//! certificate is for localhost, not for 127.0.0.2.
//!
//! Without these variables each test says SKIPPED; with `REQUIRE_PEERS=1` that is a failure.
#![cfg(feature = "smtp")]
// a helper of a test that cannot go on fails the test; the reason for skipping belongs on the output
#![allow(clippy::expect_used, clippy::print_stdout, clippy::unwrap_used)]

#[path = "support/tokens.rs"]
mod tokens;

use std::sync::Arc;

use email_router_model::{Classified as _, Mailbox, MailboxKind, MessageId, Retry, Scope};
use email_router_transport::net::{Credentials, Endpoint, SharedCredentials, TlsMode};
use email_router_transport::smtp::{SmtpSettings, SmtpTransport};
use email_router_transport::{
    Access, Envelope, ErrorKind, Outbound, RecipientStatus, SubmitOptions, TlsFault, Transport,
};
use tokens::{Tokens, of_dovecot as token};

/// The port in this variable and the authority's file.
fn peer(variable: &str) -> Option<(u16, String)> {
    let value = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    match (value(variable), value("POSTFIX_CA")) {
        (Some(port), Some(ca)) => Some((port.parse().expect("a port"), ca)),
        _ if value("REQUIRE_PEERS").as_deref() == Some("1") => {
            panic!("{variable} and POSTFIX_CA must be set")
        }
        _ => {
            println!("SKIPPED: {variable} or POSTFIX_CA is not set");
            None
        }
    }
}

fn settings(host: &str, (port, ca): &(u16, String), tls: TlsMode) -> SmtpSettings {
    let mut endpoint = Endpoint::new(host, *port, tls);
    endpoint.extra_ca_files = vec![ca.into()];
    SmtpSettings::new(endpoint)
}

fn anonymous(settings: SmtpSettings) -> SmtpTransport {
    SmtpTransport::new(settings, Arc::new(SharedCredentials::none())).unwrap()
}

/// Whoever uses NTLM holds this: the server can do one such login at a time (see `scripts/peers/dovecot.sh`).
static NTLM: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn alice(mut settings: SmtpSettings, password: &str) -> SmtpTransport {
    if settings.mechanisms.is_empty() {
        settings.mechanisms = vec!["CRAM-MD5".into()];
    }
    let credentials = Credentials::new("alice", password.into());
    SmtpTransport::new(settings, Arc::new(SharedCredentials::account(credentials))).unwrap()
}

fn mailbox() -> Mailbox {
    Mailbox {
        id: "alice".into(),
        kind: MailboxKind::User,
        name: "Alice".into(),
        address: "alice@contoso.test".parse().unwrap(),
        login: None,
    }
}

fn message(recipients: &str) -> Outbound {
    let mime = "From: alice@contoso.test\nSubject: test\nMessage-ID: <p@contoso.test>\n\n.one\n\u{e4}\n";
    Outbound {
        envelope: Envelope {
            sender: Some("alice@contoso.test".parse().unwrap()),
            recipients: recipients.split(' ').map(|a| a.parse().unwrap()).collect(),
        },
        message_id: MessageId::parse("<p@contoso.test>").unwrap(),
        mime: mime.into(),
    }
}

async fn submit(
    transport: &SmtpTransport,
    recipients: &str,
) -> email_router_transport::Result<email_router_transport::Receipt> {
    transport.submit(&mailbox(), &message(recipients), SubmitOptions::default()).await
}

#[tokio::test]
async fn relay_with_and_without_starttls() {
    let Some(peer) = peer("POSTFIX_SMTP") else { return };
    for (tls, step) in
        [(TlsMode::StartTls, "TLS 1.3"), (TlsMode::StartTlsIfOffered, "TLS 1.3"), (TlsMode::None, "no TLS")]
    {
        for (pipelining, chunking) in [(true, true), (true, false), (false, false)] {
            let mut settings = settings("localhost", &peer, tls);
            (settings.use_pipelining, settings.use_chunking) = (pipelining, chunking);
            let transport = anonymous(settings);
            for _ in 0..3 {
                let receipt = submit(&transport, "someone@example.com").await.unwrap();
                assert!(receipt.all_accepted() && receipt.reply.contains("queued as"), "{receipt:?}");
            }
            let probe = transport.probe(&mailbox(), Access::Outgoing).await.unwrap();
            assert_eq!(probe.steps[1].what, step);
            transport.close_idle().await;
        }
    }
}

#[tokio::test]
async fn submission_with_each_mechanism() {
    let Some(peer) = peer("POSTFIX_SUBM") else { return };
    let _alone = NTLM.lock().await;
    for (only, used) in [
        ("PLAIN", "PLAIN"),
        ("LOGIN", "LOGIN"),
        ("CRAM-MD5", "CRAM-MD5"),
        ("NTLM", "NTLM"),
        ("GSS-SPNEGO NTLM", "NTLM"),
    ] {
        let mut settings = settings("localhost", &peer, TlsMode::StartTls);
        settings.mechanisms = only.split_whitespace().map(str::to_owned).collect();
        let transport = alice(settings.clone(), "Secret123");
        assert!(submit(&transport, "someone@example.com").await.unwrap().all_accepted());
        let probe = transport.probe(&mailbox(), Access::Outgoing).await.unwrap();
        let steps: Vec<_> = probe.steps.iter().map(|s| s.what.as_str()).collect();
        assert_eq!(steps[..3], ["connected", "TLS 1.3", &format!("logged in with {used}")]);
        let error = submit(&alice(settings, "wrong"), "someone@example.com").await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Authentication, Retry::Never), "{error}");
    }
    // nothing is offered here without TLS
    let bare = settings("localhost", &peer, TlsMode::None);
    let error = submit(&alice(bare, "Secret123"), "someone@example.com").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Authentication, "{error}");
}

#[tokio::test]
async fn names_of_windows() {
    let Some(peer) = peer("POSTFIX_SUBM") else { return };
    let _alone = NTLM.lock().await;
    let all = settings("localhost", &peer, TlsMode::StartTls);
    let windows = all.clone().with_mechanisms(email_router_auth::WINDOWS);
    for (name, settings) in
        [("alice", &windows), ("alice@contoso.test", &windows), ("CONTOSO\\alice", &windows), ("alice", &all)]
    {
        let credentials = Credentials::new(name, "Secret123".into());
        let transport =
            SmtpTransport::new(settings.clone(), Arc::new(SharedCredentials::account(credentials))).unwrap();
        let probe = transport.probe(&mailbox(), Access::Outgoing).await.unwrap();
        assert_eq!(probe.steps[2].what, "logged in with NTLM", "{name}");
        assert!(submit(&transport, "someone@example.com").await.unwrap().all_accepted(), "{name}");
    }
}

/// With tokens of an application, which open every mailbox.
#[tokio::test]
async fn access_tokens() {
    let Some(peer) = peer("POSTFIX_SUBM") else { return };
    let transport = |only: &str, names: &[&str]| {
        let tokens: Vec<String> = names.iter().map(|name| token(name)).collect();
        let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
        let source = Tokens::new("alice@contoso.test", &tokens);
        let mut settings = settings("localhost", &peer, TlsMode::StartTls);
        settings.mechanisms = only.split_whitespace().map(str::to_owned).collect();
        (SmtpTransport::new(settings, source.clone()).unwrap(), source)
    };
    for (only, used) in [("XOAUTH2", "XOAUTH2"), ("OAUTHBEARER", "OAUTHBEARER"), ("", "OAUTHBEARER")] {
        let (good, source) = transport(only, &["good"]);
        let probe = good.probe(&mailbox(), Access::Outgoing).await.unwrap();
        assert_eq!(probe.steps[2].what, format!("logged in with {used}"));
        assert!(submit(&good, "someone@example.com").await.unwrap().all_accepted());
        assert_eq!(source.refusals(), Vec::<String>::new());
        for name in ["expired", "forged"] {
            let (bad, source) = transport(only, &[name]);
            let error = submit(&bad, "someone@example.com").await.unwrap_err();
            let axes = (error.kind(), error.retry(), error.scope());
            assert_eq!(axes, (ErrorKind::Authentication, Retry::Never, Scope::Mailbox), "{error}");
            assert!(error.reply().unwrap().contains("\"status\":"), "the reason shows: {error}");
            assert!(!format!("{error:?}").contains(&token(name)[..20]));
            assert_eq!(source.refusals().len(), 1, "the same token is not tried twice");
        }
        let (renewing, source) = transport(only, &["expired", "renewed"]);
        assert!(submit(&renewing, "someone@example.com").await.unwrap().all_accepted());
        assert_eq!(source.refusals().len(), 1);
    }
}

#[tokio::test]
async fn implicit_tls() {
    let Some(peer) = peer("POSTFIX_SMTPS") else { return };
    let transport = alice(settings("localhost", &peer, TlsMode::Implicit), "Secret123");
    assert!(submit(&transport, "someone@example.com").await.unwrap().all_accepted());
}

#[tokio::test]
async fn wrong_password_and_no_password() {
    let Some(peer) = peer("POSTFIX_AUTH") else { return };
    let error = submit(&alice(settings("localhost", &peer, TlsMode::StartTls), "wrong"), "a@b.example")
        .await
        .unwrap_err();
    let axes = (error.kind(), error.retry(), error.scope());
    assert_eq!(axes, (ErrorKind::Authentication, Retry::Never, Scope::Mailbox), "{error}");
    assert!(error.reply().unwrap().starts_with("535"), "{error}");
    // without a login this door refuses every recipient
    let error =
        submit(&anonymous(settings("localhost", &peer, TlsMode::StartTls)), "a@b.example").await.unwrap_err();
    assert_eq!(error.retry(), Retry::Never, "{error}");
    // CRAM-MD5 needs no TLS
    submit(&alice(settings("localhost", &peer, TlsMode::None), "Secret123"), "someone@example.com")
        .await
        .unwrap();
}

#[tokio::test]
async fn refused_recipients() {
    let Some(peer) = peer("POSTFIX_SMTP") else { return };
    let transport = anonymous(settings("localhost", &peer, TlsMode::StartTls));
    let all = "alice@contoso.test permfail@contoso.test tempfail@contoso.test full@contoso.test grey@contoso.test bob@contoso.test";
    let receipt = submit(&transport, all).await.unwrap();
    use RecipientStatus::{Accepted, Refused, RefusedForNow};
    let fates: Vec<_> = receipt.recipients.iter().map(|r| r.status).collect();
    assert_eq!(fates, [Accepted, Refused, RefusedForNow, Refused, RefusedForNow, Accepted], "{receipt:?}");
    assert!(receipt.recipients[4].reply.contains("greylisted"));
    for (recipients, retry, words) in [
        ("permfail@contoso.test", Retry::Never, "550"),
        ("permfail@contoso.test tempfail@contoso.test", Retry::Later(None), "450"),
        ("permfail@contoso.test full@contoso.test", Retry::Never, "552"),
    ] {
        let error = submit(&transport, recipients).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::RecipientsRefused, retry), "{error}");
        assert!(error.reply().unwrap().contains(words), "{error}");
    }
    assert!(submit(&transport, "alice@contoso.test").await.unwrap().all_accepted());
    // greylisting: the second attempt is let through
    assert!(submit(&transport, "grey@contoso.test").await.unwrap().all_accepted());
}

/// The same server under another address.
async fn under_another_name(port: u16) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.2:0").await.unwrap();
    let other = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    other
}

#[tokio::test]
async fn the_wrong_name_and_an_unknown_authority() {
    let Some(peer) = peer("POSTFIX_SMTP") else { return };
    let other = (under_another_name(peer.0).await, peer.1.clone());
    let transport = anonymous(settings("127.0.0.2", &other, TlsMode::StartTls));
    let error = submit(&transport, "someone@example.com").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tls(TlsFault::WrongName), "{error}");
    let stranger = SmtpSettings::new(Endpoint::new("localhost", peer.0, TlsMode::StartTls));
    let error = submit(&anonymous(stranger), "someone@example.com").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tls(TlsFault::UnknownIssuer), "{error}");
}
