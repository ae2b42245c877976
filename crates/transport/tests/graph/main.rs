//! The Graph adapter against the strict server of the testkit.
#![cfg(feature = "graph")]
// a helper of a test that cannot go on fails the test
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod incoming;
mod misbehaving;
mod outgoing;
mod probe;
mod rules;

use std::sync::Arc;
use std::time::Duration;

use email_router_http::oauth::Cloud;
use email_router_http::{HttpClient, HttpSettings, Proxy};
use email_router_model::{EmailAddress, Mailbox, MailboxKind};
use email_router_testkit::graph::GraphServer;
use email_router_transport::graph::{GraphSettings, GraphTransport};
use email_router_transport::net::Credentials;
use email_router_transport::{Inbox, ReceiveOptions, Stub, Transport};

const TOKEN: &str = "good-token";
const ALICE: &str = "alice@contoso.test";

fn http() -> Arc<HttpClient> {
    let mut settings = HttpSettings::default();
    settings.proxy = Proxy::None;
    settings.allow_cleartext_password = true;
    settings.connect_timeout = Duration::from_secs(20);
    settings.patience = Duration::from_secs(20);
    Arc::new(HttpClient::new(settings).unwrap())
}

fn settings(server: &GraphServer) -> GraphSettings {
    let source = |mailbox: &Mailbox| Some(Credentials::bearer(mailbox.login_name(), TOKEN.into()));
    let mut settings = GraphSettings::new(http(), Cloud::Public, Arc::new(source));
    settings.base = server.base().parse().unwrap();
    settings
}

/// A server with the mailbox of Alice, and a transport for it.
async fn contoso(change: impl FnOnce(&mut GraphSettings)) -> (GraphServer, GraphTransport) {
    let server = GraphServer::start(&[TOKEN]).await;
    server.add_mailbox(ALICE);
    let mut settings = settings(&server);
    change(&mut settings);
    (server, GraphTransport::new(settings))
}

fn mailbox(address: &str) -> Mailbox {
    Mailbox {
        id: address.into(),
        kind: MailboxKind::User,
        name: address.to_owned(),
        address: address.parse().unwrap(),
        login: None,
    }
}

fn alice() -> Mailbox {
    mailbox(ALICE)
}

fn email(text: &str) -> EmailAddress {
    text.parse().unwrap()
}

fn message(n: usize) -> Vec<u8> {
    format!(
        "Received: from a\r\n\tby b; Mon, 1 Jan 2024 00:00:00 +0000\r\nFrom: zoe@example.com\r\nTo: {ALICE}\r\nSubject: number {n}\r\n\
         Message-ID: <m{n}@example.com>\r\n\r\nbody of {n}\r\n"
    )
    .into_bytes()
}

async fn open(transport: &GraphTransport) -> Box<dyn Inbox> {
    transport.receive(&alice(), ReceiveOptions::default()).await.unwrap()
}

async fn list(inbox: &mut dyn Inbox) -> Vec<Stub> {
    let mut stubs = Vec::new();
    while let Some(stub) = inbox.next().await.unwrap() {
        stubs.push(stub);
    }
    stubs
}

/// How many requests begin with this.
fn count(server: &GraphServer, begin: &str) -> usize {
    server.requests().iter().filter(|r| r.starts_with(begin)).count()
}
