//! A router from pieces of your own: no configuration file, no network.
//!
//! ```sh
//! cargo run -p email-router-examples --example embed_router
//! ```
//!
//! The mail system is one in memory, the CRM the embedded one, the state is kept in memory. Put your own `Transport`, `CrmClient`,
//! `StateStore` or `Observer` in the place of any of them; the router does not notice.
#![allow(clippy::print_stdout)] // an example talks

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use email_router::crm::CrmClient;
use email_router::crm::embedded::EmbeddedCrm;
use email_router::crm::embedded::admin::{NewEmail, fields};
use email_router::engine::ports::CrmIndex;
use email_router::engine::router::{IncomingRoute, OutgoingRoute, Plan, Router, RouterParts, Server};
use email_router::engine::state_memory::MemoryState;
use email_router::engine::{Event, IncomingSettings, Observer};
use email_router::model::{Mailbox, MailboxKind, RawMessage, SystemClock, SystemEntropy};
use email_router_transport::memory::MemoryTransport;

/// Hears what the router does.
#[derive(Debug)]
struct Narrator;

impl Observer for Narrator {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Incoming { record, .. } => {
                println!("in:  {:?} {:?}: {}", record.verdict, record.subject, record.because);
                if let Some(answered) = &record.correlated {
                    println!("     answers {:?} (by {})", answered.subject, answered.method);
                }
            }
            Event::Outgoing { subject, outcome, .. } => println!("out: {subject:?}: {outcome:?}"),
            _ => {}
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));

    // a CRM with a queue, a customer, and an e-mail that waits to be sent
    let crm = EmbeddedCrm::open(folder.path().join("crm.sqlite"), clock.clone(), entropy.clone())?;
    let admin = crm.admin();
    let queue = admin
        .add(
            "queue",
            &fields([
                ("name", "Support"),
                ("emailaddress", "support@example.com"),
                ("incomingemaildeliverymethod", "2"),
                ("outgoingemaildeliverymethod", "2"),
                ("emailrouteraccessapproval", "1"),
                ("incomingemailfilteringmethod", "0"),
            ]),
        )
        .await?;
    let customer = admin
        .add("contact", &fields([("fullname", "Tom Okafor"), ("emailaddress1", "tom@example.net")]))
        .await?;
    let mail = NewEmail::new(queue.reference(), customer.reference(), "Your kayak", "It left us today.");
    let waiting = admin.create_outgoing(&mail).await?.activity_id;

    // a mail system, and what shall be done with it
    let mail_system = MemoryTransport::new();
    let mailbox = Mailbox {
        id: "support".into(),
        kind: MailboxKind::Queue,
        name: "Support".to_owned(),
        address: "support@example.com".parse()?,
        login: None,
    };
    let mut settings = IncomingSettings::default();
    settings.delete_after_processing = true;
    let plan = Plan {
        incoming: vec![Arc::new(IncomingRoute {
            mailbox: mailbox.clone(),
            record: Some(queue.reference()),
            transport: Arc::new(mail_system.clone()),
            source: "memory".to_owned(),
            settings,
            polling_period: Duration::from_secs(60),
            notify: false,
            server: Server { name: "memory".to_owned(), max_sessions: 4 },
            fingerprint: 1,
        })],
        outgoing: vec![Arc::new(OutgoingRoute {
            mailbox: mailbox.clone(),
            record: queue.reference(),
            transport: Arc::new(mail_system.clone()),
            fingerprint: 1,
        })],
        ..Plan::default()
    };

    let crm: Arc<dyn CrmClient> = Arc::new(crm);
    let router = Router::new(RouterParts {
        crm: Arc::clone(&crm),
        index: Arc::new(CrmIndex(crm)),
        state: Arc::new(MemoryState::new()),
        clock,
        entropy,
        observer: Arc::new(Narrator),
        holder: "example".to_owned(),
        signer: None, // with a key that is kept, answers are found whatever a provider does to the Message-ID
    });

    // once: the e-mail goes out
    let (_keep, stop) = tokio::sync::watch::channel(false);
    router.run_once(&plan, &stop).await?;
    let sent = mail_system.sent();
    let sent = sent.first().ok_or("nothing was sent")?;

    // somebody answers it, somebody else writes for the first time
    let answer = format!(
        "From: tom@example.net\r\nTo: support@example.com\r\nSubject: Re: Your kayak\r\nMessage-ID: <1@example.net>\r\nIn-Reply-To: {}\r\n\r\nThank you!\r\n",
        sent.message.message_id
    );
    let question = "From: zoe@example.org\r\nTo: support@example.com\r\nSubject: Do you rent tents?\r\nMessage-ID: <2@example.org>\r\n\r\nFor a week in May.\r\n";
    mail_system.put(&mailbox.id, RawMessage::new(answer.into_bytes()));
    mail_system.put(&mailbox.id, RawMessage::new(question.as_bytes().to_vec()));

    // twice: both come in
    let report = router.run_once(&plan, &stop).await?;
    println!("{} processed, {} delivered", report.incoming.processed, report.incoming.delivered);
    println!("the e-mail that was sent is now {:?}", admin.email(waiting).await?.row.status);
    println!("left in the mailbox: {}", mail_system.messages(&mailbox.id).len());
    if report.incoming.delivered != 2 {
        return Err("two messages should have been delivered".into());
    }
    Ok(())
}
