//! The conformance suite against the Graph adapter, on the strict server of the testkit.
#![cfg(all(feature = "graph", feature = "conformance"))]
// a fixture that cannot be made fails the test
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use email_router_http::oauth::Cloud;
use email_router_http::{HttpClient, HttpSettings, Proxy};
use email_router_model::{EmailAddress, Mailbox, MailboxKind};
use email_router_testkit::graph::{Fault, GraphServer};
use email_router_transport::Transport;
use email_router_transport::conformance::{self, Fixture, Left, Refused, Submitted};
use email_router_transport::graph::{GraphSettings, GraphTransport};
use email_router_transport::layer::{self, Operation};
use email_router_transport::net::Credentials;

const TOKEN: &str = "eyJ0b2tlbiI6InRhbnN0YWFmIn0";

struct Tenant {
    server: GraphServer,
    transport: Arc<dyn Transport>,
}

fn address(name: &str) -> String {
    format!("{name}@conformance.example")
}

async fn tenant(change: impl FnOnce(&mut GraphSettings)) -> Box<dyn Fixture> {
    let server = GraphServer::start(&[TOKEN]).await;
    for name in ["alice", "bob"] {
        server.add_mailbox(&address(name));
    }
    server.refuse_recipient("nobody@conformance.example");
    let mut http = fast();
    http.proxy = Proxy::None;
    http.allow_cleartext_password = true;
    let source = |mailbox: &Mailbox| {
        let token = if mailbox.name == "mallory" { "wrong-token" } else { TOKEN };
        Some(Credentials::bearer(mailbox.login_name(), token.into()))
    };
    let client = Arc::new(HttpClient::new(http).unwrap());
    let mut settings = GraphSettings::new(client, Cloud::Public, Arc::new(source));
    settings.base = server.base().parse().unwrap();
    change(&mut settings);
    Box::new(Tenant { transport: Arc::new(GraphTransport::new(settings)), server })
}

fn fast() -> HttpSettings {
    let mut settings = HttpSettings::default();
    settings.connect_timeout = Duration::from_secs(20);
    settings.patience = Duration::from_secs(20);
    settings
}

#[async_trait]
impl Fixture for Tenant {
    fn transport(&self) -> Arc<dyn Transport> {
        Arc::clone(&self.transport)
    }
    fn mailbox(&self, which: usize) -> Mailbox {
        mailbox(["alice", "bob"][which])
    }
    async fn put(&self, mailbox: &Mailbox, raw: &[u8]) {
        self.server.deliver(mailbox.address.as_str(), raw);
    }
    async fn left(&self, mailbox: &Mailbox) -> Vec<Left> {
        let inbox = self.server.folder(mailbox.address.as_str(), "inbox");
        inbox.into_iter().map(|(bytes, read)| Left { bytes, read: Some(read) }).collect()
    }
    async fn folder(&self, mailbox: &Mailbox, name: &str) -> Vec<Vec<u8>> {
        self.server.folder(mailbox.address.as_str(), name).into_iter().map(|(bytes, _)| bytes).collect()
    }
    async fn empty(&self, mailbox: &Mailbox) -> bool {
        self.server.empty_inbox(mailbox.address.as_str());
        true
    }
    async fn break_session(&self, mailbox: &Mailbox, _: Operation) -> bool {
        // what was disposed of is under way; the line is cut when it has arrived
        let deleted = async {
            while self.server.folder(mailbox.address.as_str(), "deleteditems").is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), deleted).await.unwrap();
        for method in ["GET", "POST", "PATCH"] {
            self.server.plan(method, "/", usize::MAX, Fault::HangUp);
        }
        true
    }
    async fn mend(&self, _: &Mailbox) {
        self.server.mend();
    }
    async fn submitted(&self) -> Vec<Submitted> {
        let address = |text: &String| text.parse::<EmailAddress>().unwrap();
        let sent = self.server.sent().into_iter();
        sent.map(|s| {
            // Graph knows no reverse-path but the mailbox; what asks for none is this field
            let null = s.mime.windows(30).any(|w| w == b"X-Auto-Response-Suppress: All\r");
            Submitted {
                sender: (!null).then(|| address(&s.mailbox)),
                recipients: s.recipients.iter().map(address).collect(),
                bytes: s.mime,
            }
        })
        .collect()
    }
    async fn refused_recipients(&self) -> Option<Refused> {
        Some(Refused { for_good: "nobody@conformance.example".parse().unwrap(), for_now: None })
    }
    async fn locked_out(&self) -> Option<Mailbox> {
        Some(mailbox("mallory"))
    }
    fn secrets(&self) -> Vec<String> {
        vec![TOKEN.to_owned(), "wrong-token".to_owned()]
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.server.violations(), Vec::<String>::new());
        }
    }
}

fn mailbox(name: &str) -> Mailbox {
    Mailbox {
        id: name.into(),
        kind: MailboxKind::User,
        name: name.to_owned(),
        address: address(name).parse().unwrap(),
        login: None,
    }
}

#[tokio::test]
async fn as_it_comes() {
    conformance::run(|| tenant(|_| {})).await;
}

#[tokio::test]
async fn small_pages_and_nothing_remembered() {
    conformance::run(|| {
        tenant(|settings| {
            settings.page_size = 2;
            settings.remembered_messages = 1;
            settings.read_ahead_bytes = 1;
            settings.concurrency = 1;
        })
    })
    .await;
}

#[tokio::test]
async fn erased_and_inside_a_layer() {
    conformance::run(|| async { conformance::wrapped(tenant(|_| {}).await, |inner| Arc::new(inner)) }).await;
    conformance::run(|| async {
        conformance::wrapped(tenant(|_| {}).await, |inner| Arc::new(layer::trace::Trace::new(inner)))
    })
    .await;
}
