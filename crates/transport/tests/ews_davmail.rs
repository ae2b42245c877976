//! The fake Exchange against a second client that is not ours: DavMail, which shows it to our own POP3 and SMTP adapters.
//!
//! `DAVMAIL=1` says that DavMail is installed. Without it the test says SKIPPED; with `REQUIRE_PEERS=1` that is a failure.
#![cfg(all(feature = "ews", feature = "pop3", feature = "smtp"))]
#![allow(clippy::print_stdout, clippy::unwrap_used)] // what fails here fails the test; the reason for skipping belongs on the output

mod ews_support;

use std::process::Command;
use std::sync::Arc;

use email_router_model::{Mailbox, MessageId};
use email_router_testkit::ews::EwsOptions;
use email_router_transport::net::{Credentials, Endpoint, TlsMode};
use email_router_transport::pop3::{Pop3Settings, Pop3Transport};
use email_router_transport::smtp::{SmtpSettings, SmtpTransport};
use email_router_transport::{
    Disposition, Envelope, Outbound, ReceiveOptions, SubmitOptions, Transport as _,
};
use ews_support::*;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/peers/davmail.sh");

/// Stops DavMail however the test ends.
struct Stop(std::path::PathBuf);

impl Drop for Stop {
    fn drop(&mut self) {
        let _ = Command::new(SCRIPT).arg("stop").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn davmail_works_with_the_fake_server() {
    if std::env::var("DAVMAIL").is_ok_and(|v| v == "1") {
        let server = server(EwsOptions::default()).await;
        for n in 0..3 {
            server.put("alice@contoso.test", &message(n, 300));
        }
        let folder = tempfile::tempdir().unwrap();
        let stop = Stop(folder.path().join("davmail"));
        let mut command = Command::new(SCRIPT);
        command.arg("start").arg(&stop.0).arg(server.url());
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        let port = |name: &str| -> u16 {
            let line = said.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
            line.unwrap().parse().unwrap()
        };
        read_and_delete(port("DAVMAIL_POP3")).await;
        let left = server.folder("alice@contoso.test", "inbox");
        assert_eq!(left.len(), 2);
        send(port("DAVMAIL_SMTP")).await;
        let sent = server.sent().pop().unwrap();
        assert_eq!(
            (sent.from.as_str(), sent.recipients),
            ("alice@contoso.test", vec!["bob@contoso.test".to_owned()])
        );
        assert!(String::from_utf8_lossy(&sent.mime).contains("by DavMail"));
        assert_eq!(server.folder("bob@contoso.test", "inbox").len(), 1);
    } else {
        assert!(!std::env::var("REQUIRE_PEERS").is_ok_and(|v| v == "1"), "DAVMAIL=1 must be set");
        println!("SKIPPED: DAVMAIL=1 is not set");
    }
}

fn endpoint(port: u16) -> Endpoint {
    Endpoint::new("127.0.0.1", port, TlsMode::None)
}

/// All three messages come through, byte for byte but for the header fields that DavMail changes; one is deleted.
async fn read_and_delete(port: u16) {
    let source = |mailbox: &Mailbox| Some(Credentials::new(mailbox.login_name(), PASSWORD.into()));
    let mut settings = Pop3Settings::new(endpoint(port), Arc::new(source));
    settings.cleartext_allowed = true;
    let transport = Pop3Transport::new(settings).unwrap();
    let mut inbox = transport.receive(&mailbox("alice"), ReceiveOptions::default()).await.unwrap();
    let stubs = list(&mut inbox).await;
    assert_eq!(stubs.len(), 3);
    let mut subjects = Vec::new();
    for stub in &stubs {
        let whole = inbox.fetch(&stub.id).await.unwrap();
        assert!(whole.bytes().ends_with(b"just a line of the body\r\n"));
        subjects.extend(whole.headers().get("Subject"));
    }
    subjects.sort();
    assert_eq!(subjects, ["message 0", "message 1", "message 2"]);
    inbox.dispose(&stubs[0].id, Disposition::Delete).await.unwrap();
    inbox.close().await.unwrap();
}

async fn send(port: u16) {
    let source = |mailbox: &Mailbox| Some(Credentials::new(mailbox.login_name(), PASSWORD.into()));
    let mut settings = SmtpSettings::new(endpoint(port));
    settings.allow_cleartext_password = true;
    let transport = SmtpTransport::new(settings, Arc::new(source)).unwrap();
    let mime = "From: alice@contoso.test\r\nTo: bob@contoso.test\r\nSubject: by DavMail\r\nMessage-ID: <d@contoso.test>\r\n\r\nhello\r\n";
    let message = Outbound {
        envelope: Envelope {
            sender: Some("alice@contoso.test".parse().unwrap()),
            recipients: vec!["bob@contoso.test".parse().unwrap()],
        },
        message_id: MessageId::parse("<d@contoso.test>").unwrap(),
        mime: mime.into(),
    };
    transport.submit(&mailbox("alice"), &message, SubmitOptions::default()).await.unwrap();
}
