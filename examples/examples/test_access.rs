//! Test access from a program: can this mailbox be read? Nothing is changed on any server.
//!
//! ```sh
//! cargo run -p email-router-examples --example test_access
//! ```
//!
//! One target is a Maildir that is there, the other a POP3 server where nobody listens. For the mailboxes of a configuration file use
//! `access::targets(..)`.
#![allow(clippy::print_stdout)] // an example talks

use std::collections::BTreeMap;
use std::error::Error;
use std::net::TcpListener;
use std::sync::Arc;

use email_router::access::{AccessResult, AccessTarget, test_access};
use email_router::model::{Mailbox, MailboxKind};
use email_router::transport::maildir::{MailboxPath, MaildirSettings, MaildirTransport};
use email_router::transport::net::{Credentials, Endpoint, SharedCredentials, TlsMode};
use email_router::transport::pop3::{Pop3Settings, Pop3Transport};

fn mailbox(name: &str) -> Result<Mailbox, Box<dyn Error>> {
    let address = format!("{}@example.com", name.to_lowercase()).parse()?;
    Ok(Mailbox { id: name.into(), kind: MailboxKind::User, name: name.to_owned(), address, login: None })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    for part in ["new", "cur", "tmp"] {
        std::fs::create_dir_all(folder.path().join("ann").join(part))?;
    }
    let (ann, bob) = (mailbox("Ann")?, mailbox("Bob")?);
    let paths = BTreeMap::from([(ann.id.clone(), folder.path().join("ann"))]);
    let maildir =
        MaildirTransport::new(MaildirSettings::incoming(MailboxPath::Map(paths.into_iter().collect())));

    // a port where nobody listens: it was free a moment ago
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let account = SharedCredentials::account(Credentials::new("bob", "not needed, nobody answers".into()));
    let server = Endpoint::new("127.0.0.1", port, TlsMode::Implicit);
    let pop3 = Pop3Transport::new(Pop3Settings::new(server, Arc::new(account)))?;

    let targets = vec![
        AccessTarget { mailbox: ann, incoming: Some(Ok(Arc::new(maildir))), outgoing: None },
        AccessTarget { mailbox: bob, incoming: Some(Ok(Arc::new(pop3))), outgoing: None },
    ];
    let rows = test_access(targets, 8, |row| println!("checked {}", row.name)).await;
    for row in &rows {
        match &row.incoming {
            AccessResult::Succeeded { steps, messages, .. } => {
                println!("{}: {}; messages waiting: {messages:?}", row.address, steps.join(", "));
            }
            AccessResult::Failure { fault, reason, hint, steps } => {
                let until = if steps.is_empty() {
                    "at once".to_owned()
                } else {
                    format!("after: {}", steps.join(", "))
                };
                println!("{}: [{fault}] {reason} ({until})\n    what to do: {hint}", row.address);
            }
            AccessResult::NotConfigured => println!("{}: not configured", row.address),
        }
    }
    let failures = rows.iter().filter(|r| r.incoming.is_failure()).count();
    if failures != 1 {
        return Err(format!("one of the two should have failed, not {failures}").into());
    }
    Ok(())
}
