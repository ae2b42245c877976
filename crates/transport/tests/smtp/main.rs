//! The SMTP adapter against servers that behave and servers that do not.
#![cfg(feature = "smtp")]
// a helper of a test that cannot go on fails the test
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod behaviour;
mod cancelled;
mod login;
mod misbehaving;
mod pool;
#[path = "../support/tokens.rs"]
mod source;
mod tokens;

use std::sync::Arc;

use email_router_model::{Mailbox, MailboxKind, MessageId};
use email_router_testkit::smtp::{SmtpOptions, SmtpServer};
use email_router_transport::net::{CredentialSource, Credentials, Endpoint, SharedCredentials, TlsMode};
use email_router_transport::smtp::{SmtpSettings, SmtpTransport};
use email_router_transport::{Envelope, Outbound, Receipt, Result, SubmitOptions, Transport};

pub(crate) const PASSWORD: &str = "tanstaaftanstaaf";

pub(crate) fn mailbox() -> Mailbox {
    Mailbox {
        id: "ann".into(),
        kind: MailboxKind::User,
        name: "Ann".into(),
        address: "ann@example.com".parse().unwrap(),
        login: None,
    }
}

pub(crate) fn outbound(recipients: &str, mime: impl AsRef<[u8]>) -> Outbound {
    Outbound {
        envelope: Envelope {
            sender: Some("ann@example.com".parse().unwrap()),
            recipients: recipients.split_whitespace().map(|a| a.parse().unwrap()).collect(),
        },
        message_id: MessageId::parse("<1@example.com>").unwrap(),
        mime: mime.as_ref().to_vec().into(),
    }
}

pub(crate) fn letter(subject: &str) -> Outbound {
    outbound("bob@example.net", format!("Subject: {subject}\r\n\r\nhello\r\n"))
}

pub(crate) fn settings(port: u16, tls: TlsMode) -> SmtpSettings {
    SmtpSettings::new(Endpoint::new("127.0.0.1", port, tls))
}

pub(crate) fn anonymous(settings: SmtpSettings) -> SmtpTransport {
    SmtpTransport::new(settings, Arc::new(SharedCredentials::none())).unwrap()
}

pub(crate) fn account(user: &str, password: &str) -> Arc<dyn CredentialSource> {
    Arc::new(SharedCredentials::account(Credentials::new(user, password.into())))
}

/// A server with these options and an anonymous client of it, in clear and with one connection.
pub(crate) async fn pair(options: SmtpOptions) -> (SmtpServer, SmtpTransport) {
    let server = SmtpServer::start(options).await;
    let mut settings = settings(server.port(), TlsMode::None);
    settings.pool.max_connections = 1;
    (server, anonymous(settings))
}

pub(crate) async fn submit(transport: &SmtpTransport, message: &Outbound) -> Result<Receipt> {
    transport.submit(&mailbox(), message, SubmitOptions::default()).await
}
