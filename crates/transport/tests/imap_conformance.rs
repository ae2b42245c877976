//! The conformance suite against the IMAP adapter, on servers with and without the extensions.
#![allow(clippy::unwrap_used)] // helpers of tests: what fails here fails the test
#![cfg(all(feature = "imap", feature = "conformance"))]

mod imap_support;

use std::sync::Arc;

use async_trait::async_trait;
use email_router_model::Mailbox;
use email_router_testkit::imap::{ImapOptions, ImapServer};
use email_router_transport::Transport;
use email_router_transport::conformance::{self, Fixture, Left};
use email_router_transport::layer::Operation;
use imap_support::*;

struct Folders {
    server: ImapServer,
    transport: Arc<dyn Transport>,
    prefix: &'static str,
}

async fn folders(options: ImapOptions) -> Box<dyn Fixture> {
    let prefix = options.namespace.unwrap_or_default();
    let server = ImapServer::start(options).await;
    server.add_user("alice", PASSWORD);
    server.add_user("bob", PASSWORD);
    let transport = Arc::new(transport(server.port()));
    Box::new(Folders { server, transport, prefix })
}

#[async_trait]
impl Fixture for Folders {
    fn transport(&self) -> Arc<dyn Transport> {
        Arc::clone(&self.transport)
    }
    fn mailbox(&self, which: usize) -> Mailbox {
        mailbox(["alice", "bob"][which])
    }
    async fn put(&self, mailbox: &Mailbox, raw: &[u8]) {
        self.server.put(mailbox.login_name(), "INBOX", raw);
    }
    async fn left(&self, mailbox: &Mailbox) -> Vec<Left> {
        let messages = self.server.messages(mailbox.login_name(), "INBOX").unwrap();
        // what is marked as deleted is no longer there for anybody who looks
        let left = messages.into_iter().filter(|m| !m.flags.contains("\\Deleted"));
        left.map(|m| Left { bytes: m.bytes.to_vec(), read: Some(m.flags.contains("\\Seen")) }).collect()
    }
    async fn folder(&self, mailbox: &Mailbox, name: &str) -> Vec<Vec<u8>> {
        let name = format!("{}{name}", self.prefix);
        let messages = self.server.messages(mailbox.login_name(), &name).unwrap_or_default();
        messages.into_iter().map(|m| m.bytes.to_vec()).collect()
    }
    async fn empty(&self, mailbox: &Mailbox) -> bool {
        self.server.clear(mailbox.login_name(), "INBOX");
        true
    }
    async fn break_session(&self, _mailbox: &Mailbox, _at: Operation) -> bool {
        self.server.hang_up_at("UID FETCH");
        true
    }
    async fn locked_out(&self) -> Option<Mailbox> {
        Some(mailbox("mallory"))
    }
    fn secrets(&self) -> Vec<String> {
        vec![PASSWORD.to_owned()]
    }
}

#[tokio::test]
async fn with_all_extensions() {
    conformance::run(|| folders(ImapOptions::default())).await;
}

#[tokio::test]
async fn below_the_inbox() {
    let options = ImapOptions { namespace: Some("INBOX."), delimiter: '.', ..ImapOptions::default() };
    conformance::run(|| folders(options.clone())).await;
}

#[tokio::test]
async fn without_uidplus() {
    conformance::run(|| folders(ImapOptions { uidplus: false, ..ImapOptions::default() })).await;
}

#[tokio::test]
async fn the_least_a_server_must_have() {
    conformance::run(|| folders(ImapOptions::least())).await;
}
