//! The conformance suite against the POP3 adapter, on servers with and without the extensions.
#![allow(clippy::unwrap_used)] // helpers of tests: what fails here fails the test
#![cfg(all(feature = "pop3", feature = "conformance"))]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use email_router_model::Mailbox;
use email_router_testkit::pop3::{Pop3Options, Pop3Server};
use email_router_transport::Transport;
use email_router_transport::conformance::{self, Fixture, Left};
use email_router_transport::layer::Operation;
use support::*;

struct Maildrops {
    server: Pop3Server,
    transport: Arc<dyn Transport>,
    next: AtomicUsize,
}

async fn maildrops(options: Pop3Options) -> Box<dyn Fixture> {
    let server = Pop3Server::start(Pop3Options { exclusive: false, ..options }).await;
    server.add_user("alice", PASSWORD);
    server.add_user("bob", PASSWORD);
    let transport = Arc::new(transport(server.port()));
    Box::new(Maildrops { server, transport, next: AtomicUsize::new(0) })
}

fn user(mailbox: &Mailbox) -> &str {
    mailbox.login_name()
}

#[async_trait]
impl Fixture for Maildrops {
    fn transport(&self) -> Arc<dyn Transport> {
        Arc::clone(&self.transport)
    }
    fn mailbox(&self, which: usize) -> Mailbox {
        mailbox(["alice", "bob"][which])
    }
    async fn put(&self, mailbox: &Mailbox, raw: &[u8]) {
        let uid = format!("uid{}", self.next.fetch_add(1, Ordering::Relaxed));
        // as a delivery agent stores it: every line ends in CRLF, or POP3 could not tell where one ends
        let mut stored = Vec::with_capacity(raw.len() + raw.len() / 16);
        for (at, &byte) in raw.iter().enumerate() {
            if byte == b'\n' && (at == 0 || raw[at - 1] != b'\r') {
                stored.push(b'\r');
            }
            stored.push(byte);
        }
        self.server.put(user(mailbox), &uid, stored);
    }
    async fn left(&self, mailbox: &Mailbox) -> Vec<Left> {
        let messages = self.server.messages(user(mailbox));
        messages.into_iter().map(|m| Left { bytes: m.bytes.to_vec(), read: None }).collect()
    }
    async fn empty(&self, mailbox: &Mailbox) -> bool {
        self.server.clear(user(mailbox));
        true
    }
    async fn break_session(&self, _mailbox: &Mailbox, _at: Operation) -> bool {
        self.server.hang_up();
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
    conformance::run(|| maildrops(Pop3Options::default())).await;
}

#[tokio::test]
async fn without_pipelining() {
    conformance::run(|| maildrops(Pop3Options { pipelining: false, ..Pop3Options::default() })).await;
}

#[tokio::test]
async fn without_uidl() {
    conformance::run(|| maildrops(Pop3Options { uidl: false, ..Pop3Options::default() })).await;
}

#[tokio::test]
async fn the_least_a_server_must_have() {
    let least =
        Pop3Options { capa: false, uidl: false, top: false, pipelining: false, ..Pop3Options::default() };
    conformance::run(|| maildrops(least.clone())).await;
}
