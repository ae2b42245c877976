//! The POP3 adapter against a real Dovecot.
//!
//! Ports and the authority's certificate come from the environment (`DOVECOT_POP3`, `DOVECOT_POP3S`, `DOVECOT_CA`), the
//! Maildirs from `DOVECOT_MAIL`, access tokens from `DOVECOT_TOKENS`; `scripts/with-peers` starts the server and sets them. Without them the tests say SKIPPED, with
//! `REQUIRE_PEERS=1` they fail. Each test uses mailboxes of its own (u008 to u019), so they may run at the same time.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests, which say why they are skipped
#![cfg(feature = "pop3")]

mod support;

use std::path::PathBuf;
use std::sync::Arc;

use email_router_model::{Classified as _, Mailbox, Retry, Scope};
use email_router_transport::net::{Credentials, Endpoint, SharedCredentials, TlsConnector, TlsMode};
use email_router_transport::pop3::{LoginMethod, Pop3Settings, Pop3Transport};
use email_router_transport::{
    Access, Disposition, ErrorKind, Inbox, Part, ReceiveOptions, TlsFault, Transport,
};
use support::tokens::{Tokens, of_dovecot as token};
use support::*;

struct Dovecot {
    clear: u16,
    tls: u16,
    ca: PathBuf,
    mail: PathBuf,
}

fn dovecot() -> Option<Dovecot> {
    let value = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    let names = ["DOVECOT_POP3", "DOVECOT_POP3S", "DOVECOT_CA", "DOVECOT_MAIL"];
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
    })
}

impl Dovecot {
    fn settings(&self, mode: TlsMode) -> Pop3Settings {
        let port = if mode == TlsMode::Implicit { self.tls } else { self.clear };
        let mut settings = settings(port);
        settings.cleartext_allowed = mode == TlsMode::None;
        // what depends on no helper process: see scripts/peers/dovecot.sh
        settings.login = LoginMethod::Sasl(&[&email_router_auth::CramMd5]);
        settings.endpoint =
            Endpoint { extra_ca_files: vec![self.ca.clone()], ..Endpoint::new("localhost", port, mode) };
        settings
    }

    fn transport(&self, mode: TlsMode) -> Pop3Transport {
        Pop3Transport::new(self.settings(mode)).unwrap()
    }

    /// Puts messages into a Maildir, where the server must be able to read and remove them.
    fn fill(&self, user: &str, messages: &[Vec<u8>]) {
        let new = self.mail.join(user).join("new");
        for folder in ["new", "cur"] {
            for file in std::fs::read_dir(self.mail.join(user).join(folder)).unwrap() {
                std::fs::remove_file(file.unwrap().path()).unwrap();
            }
        }
        for (n, bytes) in messages.iter().enumerate() {
            let name = format!("{}.M{n}P1.peer", 1_700_000_000 + n);
            let staged = self.mail.join(user).join("tmp").join(&name);
            std::fs::write(&staged, bytes).unwrap();
            let mut access = std::fs::metadata(&staged).unwrap().permissions();
            std::os::unix::fs::PermissionsExt::set_mode(&mut access, 0o666);
            std::fs::set_permissions(&staged, access).unwrap();
            std::fs::rename(&staged, new.join(&name)).unwrap();
        }
    }
}

fn messages(count: usize) -> Vec<Vec<u8>> {
    // of 300 bytes to 100 KB, most of them small
    (0..count).map(|n| message(n, if n % 10 == 0 { 100_000 } else { 300 + n * 40 })).collect()
}

async fn open(transport: &Pop3Transport, mailbox: &Mailbox) -> Box<dyn Inbox> {
    transport.receive(mailbox, ReceiveOptions::default()).await.unwrap()
}

#[tokio::test]
async fn every_way_in() {
    let Some(dovecot) = dovecot() else { return };
    dovecot.fill("u010", &messages(3));
    for (mode, method, expected) in [
        (TlsMode::None, LoginMethod::Sasl(&[&email_router_auth::CramMd5]), "CRAM-MD5"),
        (TlsMode::None, LoginMethod::Apop, "APOP"),
        (TlsMode::None, LoginMethod::UserPass, "USER and PASS"),
        (TlsMode::None, LoginMethod::Sasl(&[&email_router_auth::Plain]), "PLAIN"),
        (TlsMode::None, LoginMethod::Sasl(&[&email_router_auth::Login]), "LOGIN"),
        (TlsMode::StartTls, LoginMethod::UserPass, "USER and PASS"),
        (TlsMode::StartTlsIfOffered, LoginMethod::Password, "PLAIN"),
        (TlsMode::Implicit, LoginMethod::Sasl(&[&email_router_auth::Plain]), "PLAIN"),
        (TlsMode::Implicit, LoginMethod::Apop, "APOP"),
    ] {
        let mut settings = dovecot.settings(mode);
        settings.login = method;
        let transport = Pop3Transport::new(settings).unwrap();
        let probe = transport.probe(&mailbox("u010"), Access::Incoming).await.unwrap();
        assert_eq!(probe.messages, Some(3));
        let steps: Vec<_> = probe.steps.iter().map(|s| s.what.as_str()).collect();
        assert!(steps.contains(&format!("logged in with {expected}").as_str()), "{mode:?}: {steps:?}");
        assert_eq!(steps.contains(&"TLS 1.3"), mode != TlsMode::None, "{steps:?}");
    }
}

/// Samba's `ntlm_auth` judges, inside TLS and without, with each form of a name. All NTLM logins of this file are in here: the server can do one
/// at a time.
#[tokio::test]
async fn windows_authentication() {
    let Some(dovecot) = dovecot() else { return };
    dovecot.fill("u008", &messages(2));
    for method in [LoginMethod::NTLM, LoginMethod::WINDOWS, LoginMethod::Strongest] {
        for mode in [TlsMode::None, TlsMode::StartTls, TlsMode::Implicit] {
            for name in ["u008", "u008@contoso.test", "CONTOSO\\u008"] {
                let mut settings = dovecot.settings(mode);
                settings.login = method;
                settings.cleartext_allowed = false;
                let credentials = Credentials::new(name, PASSWORD.into());
                settings.credentials = Arc::new(SharedCredentials::account(credentials));
                let transport = Pop3Transport::new(settings).unwrap();
                let probe = transport.probe(&mailbox("u008"), Access::Incoming).await.unwrap();
                assert_eq!(probe.messages, Some(2), "{name}");
                assert!(
                    probe.steps.iter().any(|s| s.what == "logged in with NTLM" && s.warning.is_none()),
                    "{:?}",
                    probe.steps
                );
            }
        }
    }
    let mut settings = dovecot.settings(TlsMode::StartTls);
    settings.login = LoginMethod::NTLM;
    settings.credentials = settings_with_password(1, "hunter2").credentials;
    let error =
        Pop3Transport::new(settings).unwrap().probe(&mailbox("u008"), Access::Incoming).await.unwrap_err();
    let axes = (error.kind(), error.retry(), error.scope());
    assert_eq!(axes, (ErrorKind::Authentication, Retry::Never, Scope::Mailbox), "{error}");
    assert!(error.reply().unwrap().starts_with("[AUTH]"), "{error}");
}

#[tokio::test]
async fn access_tokens() {
    let Some(dovecot) = dovecot() else { return };
    dovecot.fill("u009", &messages(2));
    let attempt = async |only: &'static [&'static dyn email_router_auth::Mechanism], tokens: &[&str]| {
        let tokens: Vec<String> = tokens.iter().map(|name| token(name)).collect();
        let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
        let source = Tokens::new("u009@contoso.test", &tokens);
        let mut settings = dovecot.settings(TlsMode::StartTls);
        settings.login = LoginMethod::Sasl(only);
        settings.credentials = source.clone();
        let result = Pop3Transport::new(settings).unwrap().probe(&mailbox("u009"), Access::Incoming).await;
        (result, source.refusals().len())
    };
    use email_router_auth::{OAUTH2, OAuthBearer, XOAuth2};
    for (mechanisms, name, reason) in [
        (&[&XOAuth2 as &dyn email_router_auth::Mechanism][..], "XOAUTH2", "\"status\":\"401\""),
        (&[&OAuthBearer], "OAUTHBEARER", "\"status\":\"invalid_token\""),
        (OAUTH2, "OAUTHBEARER", "invalid_token"),
    ] {
        let (probe, refused) = attempt(mechanisms, &["good"]).await;
        let probe = probe.unwrap();
        assert_eq!((probe.messages, refused), (Some(2), 0));
        assert!(probe.steps.iter().any(|s| s.what == format!("logged in with {name}")), "{:?}", probe.steps);
        for bad in ["expired", "forged", "delegated"] {
            let (result, refused) = attempt(mechanisms, &[bad]).await;
            let error = result.unwrap_err();
            assert_eq!((error.kind(), error.retry()), (ErrorKind::Authentication, Retry::Never), "{error}");
            assert!(error.reply().unwrap().contains(reason), "the reason shows: {error}");
            assert!(error.hint().unwrap().contains("access token"), "{error:?}");
            assert!(!format!("{error} {error:?}").contains(&token(bad)[..20]));
            assert_eq!(refused, 1, "the same token is not tried twice");
        }
        // one that has just expired is renewed in the same call
        let (probe, refused) = attempt(mechanisms, &["expired", "renewed"]).await;
        let steps = probe.unwrap().steps;
        assert!(refused == 1 && steps.iter().any(|s| s.what == "renewed the credentials"), "{steps:?}");
    }
    // no password mechanism gets a token
    let mut settings = dovecot.settings(TlsMode::StartTls);
    settings.login = LoginMethod::Strongest;
    settings.credentials = Tokens::new("u009", &[&token("good")]);
    let transport = Pop3Transport::new(settings).unwrap();
    let steps = transport.probe(&mailbox("u009"), Access::Incoming).await.unwrap().steps;
    assert!(steps.iter().any(|s| s.what == "logged in with OAUTHBEARER"), "{steps:?}");
}

#[tokio::test]
async fn wrong_passwords_and_certificates() {
    let Some(dovecot) = dovecot() else { return };
    for method in
        [LoginMethod::Sasl(&[&email_router_auth::CramMd5]), LoginMethod::Apop, LoginMethod::UserPass]
    {
        let mut settings = dovecot.settings(TlsMode::None);
        settings.login = method;
        settings.credentials = settings_with_password(1, "hunter2").credentials;
        let error = Pop3Transport::new(settings)
            .unwrap()
            .receive(&mailbox("u011"), ReceiveOptions::default())
            .await
            .err()
            .unwrap();
        assert_eq!(
            (error.kind(), error.retry(), error.scope()),
            (ErrorKind::Authentication, Retry::Never, Scope::Mailbox),
            "{error}"
        );
        assert!(error.reply().unwrap().starts_with("[AUTH]"), "{error}");
    }
    // the certificate is for localhost; asked for under another name it is the wrong one
    let connector = TlsConnector::new(std::slice::from_ref(&dovecot.ca)).unwrap();
    let tcp = tokio::net::TcpStream::connect(("127.0.0.1", dovecot.tls)).await.unwrap();
    let error =
        connector.handshake(tcp, "other.contoso.test", "pop3 other.contoso.test:995").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tls(TlsFault::WrongName), "{error}");
    assert!(error.to_string().contains("localhost"), "the names of the certificate help: {error}");
    for mode in [TlsMode::Implicit, TlsMode::StartTls] {
        let mut settings = dovecot.settings(mode);
        settings.endpoint.extra_ca_files.clear();
        let error = Pop3Transport::new(settings)
            .unwrap()
            .probe(&mailbox("u011"), Access::Incoming)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Tls(TlsFault::UnknownIssuer), "{error}");
    }
    let mut settings = dovecot.settings(TlsMode::None);
    settings.cleartext_allowed = false;
    settings.login = LoginMethod::UserPass;
    let error =
        Pop3Transport::new(settings).unwrap().probe(&mailbox("u011"), Access::Incoming).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Settings, "{error}");
}

/// Some hundred messages read with everything under way at once, byte for byte; deleted by QUIT and by nothing else.
#[tokio::test]
async fn drain_and_delete() {
    let Some(dovecot) = dovecot() else { return };
    let all = messages(300);
    for (mode, user) in [(TlsMode::None, "u012"), (TlsMode::Implicit, "u013")] {
        dovecot.fill(user, &all);
        let transport = dovecot.transport(mode);
        let mailbox = mailbox(user);
        for commit in [false, true, true] {
            let mut inbox = open(&transport, &mailbox).await;
            let stubs = list(&mut inbox).await;
            if stubs.is_empty() {
                inbox.close().await.unwrap();
                continue;
            }
            assert_eq!(stubs.len(), 300);
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
        let mut inbox = open(&transport, &mailbox).await;
        assert!(list(&mut inbox).await.is_empty());
        inbox.close().await.unwrap();
    }
}

#[tokio::test]
async fn headers_alone_and_what_is_not_asked_for() {
    let Some(dovecot) = dovecot() else { return };
    let all = messages(50);
    dovecot.fill("u014", &all);
    let transport = dovecot.transport(TlsMode::StartTls);
    let mut inbox = open(&transport, &mailbox("u014")).await;
    let stubs = list(&mut inbox).await;
    let hints: Vec<_> = stubs.iter().map(|s| (s.id.clone(), Part::Headers)).collect();
    inbox.prefetch(&hints).await.unwrap();
    for (stub, whole) in stubs.iter().zip(&all).rev() {
        let headers = inbox.headers(&stub.id).await.unwrap();
        assert!(whole.starts_with(&headers) && headers.ends_with(b"\r\n\r\n"));
    }
    // hinted and never asked for
    let hints: Vec<_> = stubs.iter().map(|s| (s.id.clone(), Part::Whole)).collect();
    inbox.prefetch(&hints).await.unwrap();
    inbox.fetch(&stubs[20].id).await.unwrap();
    inbox.close().await.unwrap();
    assert!(transport.capability().headers_alone);
}

#[tokio::test]
async fn mailboxes_side_by_side() {
    let Some(dovecot) = dovecot() else { return };
    let transport = Arc::new(dovecot.transport(TlsMode::StartTls));
    let users = ["u015", "u016", "u017", "u018"];
    let mut tasks = Vec::new();
    for (n, user) in users.into_iter().enumerate() {
        dovecot.fill(user, &messages(10 + n));
        let transport = Arc::clone(&transport);
        tasks.push(tokio::spawn(async move {
            let mut inbox = open(&transport, &mailbox(user)).await;
            let stubs = list(&mut inbox).await;
            for stub in &stubs {
                inbox.fetch(&stub.id).await.unwrap();
            }
            inbox.close().await.unwrap();
            stubs.len()
        }));
    }
    for (n, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.await.unwrap(), 10 + n);
    }
}

/// A message that another session removes between listing and fetching.
#[tokio::test]
async fn a_message_that_vanishes() {
    let Some(dovecot) = dovecot() else { return };
    dovecot.fill("u019", &messages(3));
    let transport = dovecot.transport(TlsMode::None);
    let mut slow = open(&transport, &mailbox("u019")).await;
    let stubs = list(&mut slow).await;
    let mut quick = open(&transport, &mailbox("u019")).await;
    assert_eq!(ids(&list(&mut quick).await), ids(&stubs));
    quick.dispose(&stubs[1].id, Disposition::Delete).await.unwrap();
    quick.close().await.unwrap();
    slow.fetch(&stubs[0].id).await.unwrap();
    match slow.fetch(&stubs[1].id).await {
        Err(error) if error.kind() == ErrorKind::MessageGone => {
            slow.fetch(&stubs[2].id).await.unwrap();
            slow.close().await.unwrap();
        }
        // Dovecot may also end the session when it finds a message missing
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionLost, "{error}"),
        Ok(_) => panic!("the message was deleted"),
    }
}
