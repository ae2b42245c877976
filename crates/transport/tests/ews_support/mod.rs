//! What the EWS tests share.
#![allow(dead_code)] // each test program uses a part of it

use std::sync::Arc;

use email_router_http::{HttpClient, HttpService, HttpSettings, Proxy, Scheme};
use email_router_model::{Mailbox, MailboxKind};
use email_router_testkit::ews::{EwsOptions, EwsServer};
use email_router_transport::ews::{EwsSettings, EwsTransport, Location};
use email_router_transport::net::{Credentials, SharedCredentials};
use email_router_transport::{Inbox, Stub};

pub(crate) const PASSWORD: &str = "Secret123-of-everybody";

pub(crate) fn address(name: &str) -> String {
    format!("{name}@contoso.test")
}

pub(crate) fn mailbox(name: &str) -> Mailbox {
    Mailbox {
        id: name.into(),
        kind: MailboxKind::User,
        name: name.to_owned(),
        address: address(name).parse().unwrap(),
        login: Some(name.to_owned()),
    }
}

/// A server with alice, bob and the account svc, which may do everything to both of them.
pub(crate) async fn server(options: EwsOptions) -> EwsServer {
    let server = EwsServer::start(options).await;
    for name in ["alice", "bob", "svc"] {
        server.add_user(name, PASSWORD, &address(name));
        server.grant_full_access("svc", &address(name));
        server.grant_send_as("svc", &address(name));
    }
    server.grant_impersonation("svc");
    server
}

pub(crate) fn http() -> Arc<dyn HttpService> {
    let mut settings = HttpSettings::default();
    settings.proxy = Proxy::None;
    settings.allow_cleartext_password = true;
    Arc::new(HttpClient::new(settings).unwrap())
}

/// Settings with which each mailbox logs in as itself.
pub(crate) fn own(server: &EwsServer) -> EwsSettings {
    let source = |mailbox: &Mailbox| Some(Credentials::new(mailbox.login_name(), PASSWORD.into()));
    let location = Location::Url(server.url().parse().unwrap());
    EwsSettings::new(location, http(), Scheme::Basic, Arc::new(source))
}

/// The account svc logs in, whatever the mailbox; but for mallory, whose password is wrong.
pub(crate) fn service(settings: &mut EwsSettings) {
    let account = SharedCredentials::account(Credentials::new("svc", PASSWORD.into()));
    settings.credentials = Arc::new(account.with_mailbox("mallory".into(), PASSWORD.into()));
}

pub(crate) fn transport(server: &EwsServer) -> EwsTransport {
    EwsTransport::new(own(server)).unwrap()
}

pub(crate) async fn list(inbox: &mut Box<dyn Inbox>) -> Vec<Stub> {
    let mut stubs = Vec::new();
    while let Some(stub) = inbox.next().await.unwrap() {
        stubs.push(stub);
    }
    stubs
}

/// A message of about so many bytes.
pub(crate) fn message(n: usize, size: usize) -> Vec<u8> {
    let mut text = format!(
        "Received: from x by y; Mon, 1 Jan 2024 00:00:00 +0000\r\nFrom: Ann <sender{n}@example.com>\r\nTo: alice@contoso.test\r\n\
         Subject: message {n}\r\nMessage-ID: <m{n}@example.com>\r\n\r\n"
    );
    while text.len() < size {
        text.push_str("just a line of the body\r\n");
    }
    text.into_bytes()
}
