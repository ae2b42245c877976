//! The adapters, set up as the router does.

use std::path::Path;
use std::sync::Arc;

use email_router_auth::Credentials;
use email_router_http::oauth::Cloud;
use email_router_http::{HeaderName, HttpClient, HttpService, HttpSettings, Login, Proxy, Request, Scheme};
use email_router_model::{Mailbox, MailboxId, MailboxKind, RemoteId};
use email_router_transport::ews::{EwsSettings, EwsTransport, Location};
use email_router_transport::graph::{GraphSettings, GraphTransport};
use email_router_transport::net::{Endpoint, TlsMode};
use email_router_transport::pop3::{LoginMethod, Pop3Settings, Pop3Transport};
use email_router_transport::{Part, ReceiveOptions, Transport};
use tokio::runtime::Runtime;

use crate::peers::{PASSWORD, user};

/// A runtime like the router's.
#[must_use]
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

/// The mailbox of a user of [`crate::peers`].
#[must_use]
pub fn mailbox(user: &str) -> Mailbox {
    Mailbox {
        id: MailboxId::new(user),
        kind: MailboxKind::User,
        name: user.to_owned(),
        address: format!("{user}@contoso.test").parse().unwrap(),
        login: Some(user.to_owned()),
    }
}

/// The POP3 adapter with its defaults, in clear or (with an authority) in TLS.
#[must_use]
pub fn pop3(port: u16, ca: Option<&Path>) -> Pop3Transport {
    Pop3Transport::new(pop3_settings(port, ca)).unwrap()
}

/// The same in clear, told to log in with USER and PASS.
#[must_use]
pub fn pop3_user_pass(port: u16) -> Pop3Transport {
    let mut settings = pop3_settings(port, None);
    settings.login = LoginMethod::UserPass;
    Pop3Transport::new(settings).unwrap()
}

fn pop3_settings(port: u16, ca: Option<&Path>) -> Pop3Settings {
    let endpoint = match ca {
        None => Endpoint::new("127.0.0.1", port, TlsMode::None),
        Some(ca) => {
            let mut endpoint = Endpoint::new("localhost", port, TlsMode::Implicit);
            endpoint.extra_ca_files.push(ca.to_owned());
            endpoint
        }
    };
    let credentials = |mailbox: &Mailbox| Some(Credentials::new(mailbox.login_name(), PASSWORD.into()));
    let mut settings = Pop3Settings::new(endpoint, Arc::new(credentials));
    settings.cleartext_allowed = true;
    settings
}

/// The access token of every mailbox at Graph.
pub const TOKEN: &str = "token-of-the-benches";

/// The HTTP client with its defaults, for this machine.
#[must_use]
pub fn http(ca: Option<&Path>) -> Arc<dyn HttpService> {
    let mut settings = HttpSettings::default();
    settings.proxy = Proxy::None;
    settings.allow_cleartext_password = ca.is_none();
    settings.extra_ca_files.extend(ca.map(Path::to_owned));
    Arc::new(HttpClient::new(settings).unwrap())
}

/// Where a server of this machine is.
#[must_use]
pub fn base(port: u16, ca: Option<&Path>) -> String {
    if ca.is_some() { format!("https://localhost:{port}") } else { format!("http://127.0.0.1:{port}") }
}

/// A request of user `n` as it was on the wire, for [`http`].
#[must_use]
pub fn request(base: &str, n: usize, bytes: &[u8]) -> Request {
    let head = memchr::memmem::find(bytes, b"\r\n\r\n").expect("a head");
    let text = std::str::from_utf8(&bytes[..head]).unwrap();
    let mut lines = text.split("\r\n");
    let mut first = lines.next().unwrap().split(' ');
    let (method, path) = (first.next().unwrap(), first.next().unwrap());
    let mut request = Request::new(method.parse().unwrap(), format!("{base}{path}").parse().unwrap());
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        match name {
            // the client writes these itself
            "host" | "user-agent" | "content-length" => {}
            "authorization" => {
                let (scheme, credentials) = if value.starts_with("Bearer") {
                    (Scheme::Bearer, Credentials::bearer("", TOKEN.into()))
                } else {
                    (Scheme::Basic, Credentials::new(user(n), PASSWORD.into()))
                };
                request.login = Some(Login { scheme, credentials });
            }
            name => drop(request.headers.insert(name.parse::<HeaderName>().unwrap(), value.parse().unwrap())),
        }
    }
    request.body = bytes[head + 4..].to_vec().into();
    request.max_body_bytes = u64::MAX;
    request
}

/// The EWS adapter with its defaults, in clear or (with an authority) in TLS.
#[must_use]
pub fn ews(port: u16, ca: Option<&Path>) -> EwsTransport {
    let location = Location::Url(format!("{}/EWS/Exchange.asmx", base(port, ca)).parse().unwrap());
    let credentials = |mailbox: &Mailbox| Some(Credentials::new(mailbox.login_name(), PASSWORD.into()));
    EwsTransport::new(EwsSettings::new(location, http(ca), Scheme::Basic, Arc::new(credentials))).unwrap()
}

/// The Graph adapter with its defaults, in clear or (with an authority) in TLS.
#[must_use]
pub fn graph(port: u16, ca: Option<&Path>) -> GraphTransport {
    let credentials = |_: &Mailbox| Some(Credentials::bearer("", TOKEN.into()));
    let mut settings = GraphSettings::new(http(ca), Cloud::Public, Arc::new(credentials));
    settings.base = format!("{}/v1.0", base(port, ca)).parse().unwrap();
    GraphTransport::new(settings)
}

/// Lists a mailbox and reads all of it into memory, one message at a time; `ask` messages are hinted at once, the next ones before these
/// are read, as the router does.
pub async fn drain(transport: &dyn Transport, mailbox: &Mailbox, ask: usize) -> (usize, u64) {
    let mut inbox = transport.receive(mailbox, ReceiveOptions::default()).await.unwrap();
    let mut ids: Vec<RemoteId> = Vec::new();
    while let Some(stub) = inbox.next().await.unwrap() {
        ids.push(stub.id);
    }
    let mut bytes = 0;
    let wanted = |some: &[RemoteId]| some.iter().map(|id| (id.clone(), Part::Whole)).collect::<Vec<_>>();
    let mut chunks = ids.chunks(ask.max(1)).peekable();
    if let Some(first) = chunks.peek() {
        inbox.prefetch(&wanted(first)).await.unwrap();
    }
    while let Some(some) = chunks.next() {
        if let Some(next) = chunks.peek() {
            inbox.prefetch(&wanted(next)).await.unwrap();
        }
        for id in some {
            bytes += inbox.fetch(id).await.unwrap().size();
        }
    }
    inbox.close().await.unwrap();
    (ids.len(), bytes)
}
