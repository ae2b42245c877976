//! What the IMAP tests share.
#![allow(dead_code)] // each test program uses a part of it

use std::sync::Arc;
use std::time::Duration;

use email_router_model::{Mailbox, MailboxKind, RemoteId, Secret};
use email_router_transport::imap::{ImapSettings, ImapTransport};
use email_router_transport::net::{Credentials, Endpoint, TlsMode};
use email_router_transport::{Inbox, ReceiveOptions, Stub, Transport};

pub(crate) const PASSWORD: &str = "Secret123";

pub(crate) fn mailbox(name: &str) -> Mailbox {
    Mailbox {
        id: name.into(),
        kind: MailboxKind::User,
        name: name.to_owned(),
        address: format!("{name}@contoso.test").parse().unwrap(),
        login: Some(name.to_owned()),
    }
}

/// Settings for a server in clear on this port; the password of everybody is [`PASSWORD`].
pub(crate) fn settings(port: u16) -> ImapSettings {
    settings_with_password(port, PASSWORD)
}

pub(crate) fn settings_with_password(port: u16, password: &str) -> ImapSettings {
    let password = Secret::from(password);
    let source = move |mailbox: &Mailbox| Some(Credentials::new(mailbox.login_name(), password.clone()));
    let endpoint = Endpoint {
        connect_timeout: Duration::from_secs(20),
        operation_timeout: Duration::from_secs(20),
        ..Endpoint::new("localhost", port, TlsMode::None)
    };
    let mut settings = ImapSettings::new(endpoint, Arc::new(source));
    settings.cleartext_allowed = true;
    settings
}

pub(crate) fn transport(port: u16) -> ImapTransport {
    ImapTransport::new(settings(port)).unwrap()
}

pub(crate) async fn open(transport: &ImapTransport, user: &str) -> Box<dyn Inbox> {
    transport.receive(&mailbox(user), ReceiveOptions::default()).await.unwrap()
}

pub(crate) async fn list(inbox: &mut Box<dyn Inbox>) -> Vec<Stub> {
    let mut stubs = Vec::new();
    while let Some(stub) = inbox.next().await.unwrap() {
        stubs.push(stub);
    }
    stubs
}

pub(crate) fn ids(stubs: &[Stub]) -> Vec<&str> {
    stubs.iter().map(|s| s.id.as_str()).collect()
}

pub(crate) fn id(text: &str) -> RemoteId {
    RemoteId::new(text)
}

/// A message of about so many bytes.
pub(crate) fn message(n: usize, size: usize) -> Vec<u8> {
    let mut text = format!(
        "From: sender{n}@example.com\r\nTo: alice@contoso.test\r\nSubject: message {n}\r\nMessage-ID: <m{n}@example.com>\r\n\r\n"
    );
    let mut line = 0;
    while text.len() < size {
        line += 1;
        text.push_str(if line % 7 == 0 {
            "a line that ends with {7}\r\n"
        } else {
            "just a line of the body\r\n"
        });
    }
    text.into_bytes()
}
