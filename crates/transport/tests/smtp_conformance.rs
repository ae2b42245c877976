//! The conformance suite against the SMTP adapter, on servers with and without the extensions.
#![cfg(all(feature = "smtp", feature = "conformance"))]
// a fixture that cannot be made fails the test
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use async_trait::async_trait;
use email_router_model::{EmailAddress, Mailbox, MailboxKind};
use email_router_testkit::smtp::{SmtpOptions, SmtpServer};
use email_router_transport::conformance::{self, Fixture, Refused, Submitted};
use email_router_transport::net::{Credentials, Endpoint, SharedCredentials, TlsMode};
use email_router_transport::smtp::{SmtpSettings, SmtpTransport};
use email_router_transport::{Transport, layer};

const PASSWORD: &str = "tanstaaftanstaaf";

struct Relay {
    server: SmtpServer,
    transport: Arc<dyn Transport>,
}

async fn relay(options: SmtpOptions) -> Box<dyn Fixture> {
    let server = SmtpServer::start(SmtpOptions {
        sasl: vec!["CRAM-MD5"],
        users: vec![("tim", PASSWORD)],
        refuse_recipients: vec![("nobody", "550 5.1.1 no such user"), ("grey", "451 4.7.1 greylisted")],
        ..options
    })
    .await;
    let settings = SmtpSettings::new(Endpoint::new("127.0.0.1", server.port(), TlsMode::None));
    let account = SharedCredentials::account(Credentials::new("tim", PASSWORD.into()));
    let transport = Arc::new(SmtpTransport::new(settings, Arc::new(account)).unwrap());
    Box::new(Relay { server, transport })
}

#[async_trait]
impl Fixture for Relay {
    fn transport(&self) -> Arc<dyn Transport> {
        Arc::clone(&self.transport)
    }
    fn mailbox(&self, which: usize) -> Mailbox {
        let name = ["alice", "bob"][which];
        Mailbox {
            id: name.into(),
            kind: MailboxKind::User,
            name: name.to_owned(),
            address: format!("{name}@example.com").parse().unwrap(),
            login: None,
        }
    }
    async fn submitted(&self) -> Vec<Submitted> {
        let address = |text: &str| text.parse::<EmailAddress>().unwrap();
        let taken = self.server.taken().into_iter();
        taken
            .map(|t| Submitted {
                sender: (!t.sender.is_empty()).then(|| address(&t.sender)),
                recipients: t.recipients.iter().map(|(path, _)| address(path)).collect(),
                bytes: t.data,
            })
            .collect()
    }
    async fn refused_recipients(&self) -> Option<Refused> {
        let address = |text: &str| text.parse::<EmailAddress>().unwrap();
        Some(Refused { for_good: address("nobody@example.net"), for_now: Some(address("grey@example.net")) })
    }
    fn secrets(&self) -> Vec<String> {
        vec![PASSWORD.to_owned()]
    }
}

#[tokio::test]
async fn with_all_extensions() {
    conformance::run(|| relay(SmtpOptions::default())).await;
}

#[tokio::test]
async fn without_chunking() {
    conformance::run(|| relay(SmtpOptions { chunking: false, ..SmtpOptions::default() })).await;
}

#[tokio::test]
async fn the_least_a_server_must_have() {
    let least = SmtpOptions {
        pipelining: false,
        chunking: false,
        eight_bit_mime: false,
        smtputf8: false,
        dsn: false,
        size: None,
        ..SmtpOptions::default()
    };
    conformance::run(|| relay(least.clone())).await;
}

#[tokio::test]
async fn erased_and_inside_a_layer() {
    conformance::run(|| async {
        conformance::wrapped(relay(SmtpOptions::default()).await, |inner| Arc::new(inner))
    })
    .await;
    conformance::run(|| async {
        conformance::wrapped(relay(SmtpOptions::default()).await, |inner| {
            Arc::new(layer::trace::Trace::new(inner))
        })
    })
    .await;
}
