//! Logins with Kerberos tickets: an MIT key distribution centre, Dovecot for POP3 and IMAP, Postfix for SMTP.
//!
//! The realm comes from the environment (`KDC_DIR`, and `KRB5_CONFIG` for the Kerberos library), the servers' ports as for `dovecot.rs` and `postfix.rs`;
//! `scripts/with-peers` starts all and sets them. Without them the tests say SKIPPED, with `REQUIRE_PEERS=1` they fail.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests, which say why they are skipped
#![cfg(all(feature = "kerberos", feature = "imap", feature = "pop3", feature = "smtp"))]

mod support;

use std::path::PathBuf;
use std::sync::Arc;

use email_router_auth::{CredentialFault, CredentialSource as _, KERBEROS, WINDOWS};
use email_router_model::{Classified as _, Retry, Scope};
use email_router_transport::imap::{self, ImapSettings, ImapTransport};
use email_router_transport::net::{Endpoint, KerberosSettings, KerberosSource, TlsMode};
use email_router_transport::pop3::{LoginMethod, Pop3Settings, Pop3Transport};
use email_router_transport::smtp::{SmtpSettings, SmtpTransport};
use email_router_transport::{Access, ErrorKind, Probe, Result, Transport as _};
use support::mailbox;

struct Peers {
    kdc: PathBuf,
    pop3: u16,
    pop3s: u16,
    imap: u16,
    imaps: u16,
    submission: u16,
    ca: PathBuf,
}

fn peers() -> Option<Peers> {
    let value = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    let names = [
        "KDC_DIR",
        "KRB5_CONFIG",
        "DOVECOT_POP3",
        "DOVECOT_POP3S",
        "DOVECOT_IMAP",
        "DOVECOT_IMAPS",
        "POSTFIX_SUBM",
        "DOVECOT_CA",
    ];
    let found: Option<Vec<String>> = names.iter().map(|name| value(name)).collect();
    let Some(found) = found else {
        assert!(
            value("REQUIRE_PEERS").as_deref() != Some("1"),
            "REQUIRE_PEERS=1, but {names:?} are not all set"
        );
        println!("SKIPPED: no Kerberos realm ({names:?} are not all set; scripts/with-peers sets them)");
        return None;
    };
    Some(Peers {
        kdc: PathBuf::from(&found[0]),
        pop3: found[2].parse().unwrap(),
        pop3s: found[3].parse().unwrap(),
        imap: found[4].parse().unwrap(),
        imaps: found[5].parse().unwrap(),
        submission: found[6].parse().unwrap(),
        ca: PathBuf::from(&found[7]),
    })
}

impl Peers {
    /// Tickets from a cache, or with the key of a keytab, of those that `scripts/peers/kdc.sh` makes.
    fn tickets(&self, service: &'static str, file: &str) -> KerberosSettings {
        let path = self.kdc.join(file);
        let mut settings = KerberosSettings::new(service, "localhost");
        if file.ends_with(".keytab") {
            settings.keytab = Some(path);
        } else {
            settings.ticket_cache = Some(format!("FILE:{}", path.display()));
        }
        settings
    }

    async fn pop3(&self, mode: TlsMode, login: LoginMethod, tickets: KerberosSettings) -> Result<Probe> {
        let port = if mode == TlsMode::Implicit { self.pop3s } else { self.pop3 };
        let endpoint =
            Endpoint { extra_ca_files: vec![self.ca.clone()], ..Endpoint::new("localhost", port, mode) };
        let mut settings = Pop3Settings::new(endpoint, Arc::new(KerberosSource::new(tickets)));
        settings.login = login;
        Pop3Transport::new(settings)?.probe(&mailbox("alice"), Access::Incoming).await
    }

    async fn imap(
        &self,
        mode: TlsMode,
        login: imap::LoginMethod,
        tickets: KerberosSettings,
    ) -> Result<Probe> {
        let port = if mode == TlsMode::Implicit { self.imaps } else { self.imap };
        let endpoint =
            Endpoint { extra_ca_files: vec![self.ca.clone()], ..Endpoint::new("localhost", port, mode) };
        let mut settings = ImapSettings::new(endpoint, Arc::new(KerberosSource::new(tickets)));
        settings.login = login;
        ImapTransport::new(settings)?.probe(&mailbox("alice"), Access::Incoming).await
    }

    async fn smtp(&self, tickets: KerberosSettings) -> Result<Probe> {
        let mut endpoint = Endpoint::new("localhost", self.submission, TlsMode::StartTls);
        endpoint.extra_ca_files = vec![self.ca.clone()];
        let settings = SmtpSettings::new(endpoint);
        let transport = SmtpTransport::new(settings, Arc::new(KerberosSource::new(tickets)))?;
        transport.probe(&mailbox("alice"), Access::Outgoing).await
    }
}

fn has_step(probe: &Probe, what: &str) -> bool {
    probe.steps.iter().any(|step| step.what.contains(what))
}

#[tokio::test]
async fn pop3_by_ticket_cache_and_by_keytab() {
    let Some(peers) = peers() else { return };
    for (mode, login, file) in [
        // nothing that GSSAPI sends is worth hiding
        (TlsMode::None, LoginMethod::Strongest, "alice.ccache"),
        (TlsMode::StartTls, LoginMethod::Sasl(KERBEROS), "alice.keytab"),
        (TlsMode::Implicit, LoginMethod::Sasl(WINDOWS), "alice.ccache"),
        (TlsMode::Implicit, LoginMethod::Strongest, "alice.keytab"),
    ] {
        let probe = peers.pop3(mode, login, peers.tickets("pop", file)).await.unwrap();
        assert!(has_step(&probe, "logged in with GSSAPI"), "{mode:?} {file}: {:?}", probe.steps);
        assert!(probe.messages.is_some());
    }
    let mut named = peers.tickets("pop", "alice.keytab");
    named.principal = Some("alice@CONTOSO.TEST".to_owned());
    peers.pop3(TlsMode::None, LoginMethod::Strongest, named).await.unwrap();
}

#[tokio::test]
async fn imap_by_ticket_cache_and_by_keytab() {
    let Some(peers) = peers() else { return };
    for (mode, login, file) in [
        (TlsMode::None, imap::LoginMethod::Strongest, "alice.ccache"),
        (TlsMode::StartTls, imap::LoginMethod::Sasl(KERBEROS), "alice.keytab"),
        (TlsMode::Implicit, imap::LoginMethod::Strongest, "alice.ccache"),
    ] {
        let probe = peers.imap(mode, login, peers.tickets("imap", file)).await.unwrap();
        assert!(has_step(&probe, "logged in with GSSAPI"), "{mode:?} {file}: {:?}", probe.steps);
    }
}

#[tokio::test]
async fn smtp_by_ticket_cache_and_by_keytab() {
    let Some(peers) = peers() else { return };
    for file in ["alice.ccache", "alice.keytab"] {
        let probe = peers.smtp(peers.tickets("smtp", file)).await.unwrap();
        assert!(has_step(&probe, "GSSAPI"), "{file}: {:?}", probe.steps);
    }
}

/// Two thousand logins' worth of callers, and the library's caches used by several threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once() {
    let Some(peers) = peers() else { return };
    let sources: Vec<_> = ["pop", "smtp", "imap", "HTTP"]
        .into_iter()
        .flat_map(|service| ["alice.ccache", "alice.keytab"].map(|file| peers.tickets(service, file)))
        .map(KerberosSource::new)
        .collect();
    let mut tasks = Vec::new();
    for n in 0..2000 {
        let source = sources[n % sources.len()].clone();
        tasks.push(tokio::spawn(async move {
            let given = source.credentials(&mailbox("alice")).await;
            if n % 10 == 0
                && let Ok(Some(credentials)) = &given
            {
                source.refused(&mailbox("alice"), credentials);
            }
            given
        }));
    }
    for task in tasks {
        assert!(task.await.unwrap().unwrap().is_some());
    }
}

/// What is wrong with the tickets is known before anything is said to the mail server.
#[tokio::test]
async fn what_an_administrator_reads() {
    let Some(peers) = peers() else { return };
    let with = |file: &str, change: fn(&mut KerberosSettings)| {
        let mut settings = peers.tickets("pop", file);
        change(&mut settings);
        settings
    };
    let as_it_is = |_: &mut KerberosSettings| {};
    let later = Retry::Later(None);
    for (what, settings, kind, retry, message, hint) in [
        (
            "an expired ticket",
            with("expired.ccache", as_it_is),
            ErrorKind::Settings,
            later,
            "expired",
            "have expired: renew them",
        ),
        (
            "no cache",
            with("missing.ccache", as_it_is),
            ErrorKind::Settings,
            later,
            "No credentials cache found",
            "there are no Kerberos tickets for this service: name its keytab",
        ),
        (
            "somebody else's tickets",
            with("alice.ccache", |s| s.principal = Some("svc@CONTOSO.TEST".to_owned())),
            ErrorKind::Settings,
            later,
            "Kerberos for pop at localhost",
            "no Kerberos tickets for svc@CONTOSO.TEST",
        ),
        (
            "no keytab",
            with("missing.keytab", as_it_is),
            ErrorKind::Settings,
            later,
            "Kerberos for pop at localhost",
            "missing.keytab cannot be read by the user of this service",
        ),
        (
            "another principal's keytab",
            with("alice.keytab", |s| s.principal = Some("svc@CONTOSO.TEST".to_owned())),
            ErrorKind::Settings,
            later,
            "Kerberos for pop at localhost",
            "alice.keytab has no key of svc@CONTOSO.TEST",
        ),
        (
            "a host without a service principal",
            with("alice.ccache", |s| s.host = "mail.contoso.test".to_owned()),
            ErrorKind::Settings,
            Retry::Never,
            "pop/mail.contoso.test@CONTOSO.TEST not found",
            "use the server's full host name, as in its service principal name",
        ),
        (
            "a host of no realm",
            with("alice.keytab", |s| s.host = "mail.elsewhere.test".to_owned()),
            ErrorKind::Settings,
            Retry::Never,
            "Kerberos for pop at mail.elsewhere.test",
            "setspn -Q pop/mail.elsewhere.test",
        ),
        (
            "a user whom nobody knows",
            with("stranger.keytab", as_it_is),
            ErrorKind::Authentication,
            Retry::Never,
            "'nobody@CONTOSO.TEST' not found",
            "does not know this principal",
        ),
        (
            "an old key",
            with("stale.keytab", as_it_is),
            ErrorKind::Authentication,
            Retry::Never,
            "Kerberos for pop at localhost",
            "the key in the keytab is not the account's",
        ),
        (
            "no key distribution centre",
            with("down.keytab", as_it_is),
            ErrorKind::ConnectionLost,
            later,
            "Cannot contact any KDC for realm 'DOWN.TEST'",
            "no key distribution centre (domain controller) answers",
        ),
    ] {
        let error = peers.pop3(TlsMode::None, LoginMethod::Strongest, settings).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.retry(), error.scope()),
            (kind, retry, Scope::Server),
            "{what}: {error}"
        );
        assert!(error.to_string().contains(message), "{what}: {error}");
        assert!(error.hint().is_some_and(|h| h.contains(hint)), "{what}: {:?}", error.hint());
    }
}

/// The ticket vanishes between the source and the login: the login says why, and the server is told nothing more.
#[tokio::test]
async fn tickets_that_vanish() {
    let Some(peers) = peers() else { return };
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("tickets");
    std::fs::copy(peers.kdc.join("alice.ccache"), &cache).unwrap();
    let mut settings = KerberosSettings::new("pop", "localhost");
    settings.ticket_cache = Some(format!("FILE:{}", cache.display()));
    let source = KerberosSource::new(settings);
    source.credentials(&mailbox("alice")).await.unwrap();
    std::fs::remove_file(&cache).unwrap();
    // the source still remembers that all was well
    source.credentials(&mailbox("alice")).await.unwrap();
    let endpoint = Endpoint::new("localhost", peers.pop3, TlsMode::None);
    let transport = Pop3Transport::new(Pop3Settings::new(endpoint, Arc::new(source.clone()))).unwrap();
    let error = transport.probe(&mailbox("alice"), Access::Incoming).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Settings, Retry::Later(None)), "{error}");
    assert!(error.to_string().contains("No credentials cache found"), "{error}");
    assert!(error.hint().is_some_and(|h| h.contains("there are no Kerberos tickets")), "{:?}", error.hint());

    let endpoint = Endpoint::new("localhost", peers.imap, TlsMode::None);
    let transport = ImapTransport::new(ImapSettings::new(endpoint, Arc::new(source.clone()))).unwrap();
    let error = transport.probe(&mailbox("alice"), Access::Incoming).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Settings, Retry::Later(None)), "{error}");
    assert!(error.hint().is_some_and(|h| h.contains("there are no Kerberos tickets")), "{:?}", error.hint());

    let mut endpoint = Endpoint::new("localhost", peers.submission, TlsMode::StartTls);
    endpoint.extra_ca_files = vec![peers.ca.clone()];
    let transport = SmtpTransport::new(SmtpSettings::new(endpoint), Arc::new(source.clone())).unwrap();
    let error = transport.probe(&mailbox("alice"), Access::Outgoing).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Settings, Retry::Later(None)), "{error}");
    assert!(error.hint().is_some_and(|h| h.contains("there are no Kerberos tickets")), "{:?}", error.hint());

    // once it is told that something is wrong, it looks
    source.refused(&mailbox("alice"), &email_router_auth::Credentials::process_identity());
    let error = source.credentials(&mailbox("alice")).await.unwrap_err();
    assert_eq!(error.fault, CredentialFault::Settings);
}
