//! The conformance suite against the EWS adapter, on servers of several kinds and with every access.
#![cfg(all(feature = "ews", feature = "conformance"))]
#![allow(clippy::unwrap_used)] // helpers of tests: what fails here fails the test

mod ews_support;

use std::sync::Arc;

use async_trait::async_trait;
use email_router_model::{EmailAddress, Mailbox};
use email_router_testkit::ews::{EwsOptions, EwsServer, Mishap};
use email_router_transport::Transport;
use email_router_transport::conformance::{self, Fixture, Left, Refused, Submitted};
use email_router_transport::ews::{EwsSettings, EwsTransport, MailboxAccess, Sending, SentItems};
use email_router_transport::layer::{Operation, trace};
use ews_support::*;

struct Exchange {
    server: EwsServer,
    transport: Arc<dyn Transport>,
}

async fn exchange(options: EwsOptions, change: impl FnOnce(&mut EwsSettings)) -> Box<dyn Fixture> {
    let server = server(options).await;
    server.refuse_recipient("nobody@example.net");
    let mut settings = own(&server);
    change(&mut settings);
    let transport = Arc::new(EwsTransport::new(settings).unwrap());
    Box::new(Exchange { server, transport })
}

fn address(text: &str) -> EmailAddress {
    text.parse().unwrap()
}

#[async_trait]
impl Fixture for Exchange {
    fn transport(&self) -> Arc<dyn Transport> {
        Arc::clone(&self.transport)
    }
    fn mailbox(&self, which: usize) -> Mailbox {
        mailbox(["alice", "bob"][which])
    }
    async fn put(&self, mailbox: &Mailbox, raw: &[u8]) {
        self.server.put(mailbox.address.as_str(), raw);
    }
    async fn left(&self, mailbox: &Mailbox) -> Vec<Left> {
        let items = self.server.folder(mailbox.address.as_str(), "inbox");
        items.into_iter().map(|(bytes, read)| Left { bytes, read: Some(read) }).collect()
    }
    async fn folder(&self, mailbox: &Mailbox, name: &str) -> Vec<Vec<u8>> {
        self.server.folder(mailbox.address.as_str(), name).into_iter().map(|(bytes, _)| bytes).collect()
    }
    async fn empty(&self, mailbox: &Mailbox) -> bool {
        self.server.empty(mailbox.address.as_str());
        true
    }
    async fn break_session(&self, _mailbox: &Mailbox, _at: Operation) -> bool {
        self.server.plan("", Mishap::Cut);
        true
    }
    async fn mend(&self, _mailbox: &Mailbox) {
        self.server.mend();
    }
    async fn submitted(&self) -> Vec<Submitted> {
        let sent = self.server.sent().into_iter();
        sent.map(|sent| Submitted {
            sender: Some(address(&sent.from)),
            recipients: sent.recipients.iter().map(|r| address(r)).collect(),
            bytes: sent.mime,
        })
        .collect()
    }
    async fn refused_recipients(&self) -> Option<Refused> {
        Some(Refused { for_good: address("nobody@example.net"), for_now: None })
    }
    async fn locked_out(&self) -> Option<Mailbox> {
        Some(mailbox("mallory"))
    }
    fn secrets(&self) -> Vec<String> {
        vec![PASSWORD.to_owned()]
    }
    fn keeps_reverse_path(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn own_mailbox() {
    conformance::run(|| exchange(EwsOptions::default(), |_| {})).await;
}

#[tokio::test]
async fn full_access_and_send_as() {
    let change = |settings: &mut EwsSettings| {
        service(settings);
        settings.access = MailboxAccess::FullAccess;
        settings.sending = Sending::SendAs;
        settings.sent_items = SentItems::OfMailbox;
    };
    conformance::run(|| exchange(EwsOptions::default(), change)).await;
}

#[tokio::test]
async fn impersonation() {
    let change = |settings: &mut EwsSettings| {
        service(settings);
        settings.access = MailboxAccess::Impersonation;
        settings.sending = Sending::Impersonation;
    };
    conformance::run(|| exchange(EwsOptions::default(), change)).await;
}

/// One message at a time, pages of two, nothing remembered, the oldest schema, copies nowhere.
#[tokio::test]
async fn the_smallest_settings_on_the_oldest_server() {
    let change = |settings: &mut EwsSettings| {
        settings.retrieve_count = 1;
        settings.page = 2;
        settings.remembered = 0;
        settings.concurrent_submissions = 1;
        settings.sent_items = SentItems::None;
    };
    let options = EwsOptions { newest: "Exchange2007_SP1", ..EwsOptions::default() };
    conformance::run(|| exchange(options.clone(), change)).await;
}

#[tokio::test]
async fn answers_written_in_another_way() {
    let options = EwsOptions { other_prefixes: true, illegal_characters: true, ..EwsOptions::default() };
    conformance::run(|| exchange(options.clone(), |_| {})).await;
}

#[tokio::test]
async fn erased_and_inside_a_layer() {
    conformance::run(|| async {
        let inner = exchange(EwsOptions::default(), |_| {}).await;
        conformance::wrapped(inner, |inner| Arc::new(inner))
    })
    .await;
    conformance::run(|| async {
        let inner = exchange(EwsOptions::default(), |_| {}).await;
        conformance::wrapped(inner, |inner| Arc::new(trace::Trace::new(inner)))
    })
    .await;
}
