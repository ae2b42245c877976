//! Outgoing mail on the embedded CRM and the mail system in memory, killed at every call.
#![allow(clippy::unwrap_used)] // a test file

mod support;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use email_router_crm::embedded::EmbeddedCrm;
use email_router_crm::embedded::admin::{NewEmail, fields};
use email_router_crm::{CrmClient, EmailStatus};
use email_router_engine::StateStore as _;
use email_router_engine::outgoing::{OutgoingPass, Sender};
use email_router_engine::ports::NoObserver;
use email_router_engine::settings::OutgoingSettings;
use email_router_engine::state_memory::MemoryState;
use email_router_model::{
    ActivityId, Mailbox, MailboxId, MailboxKind, ManualClock, RecordRef, SeededEntropy,
};
use email_router_transport::memory::MemoryTransport;
use email_router_transport::{
    Access, Capability, Inbox, Outbound, Probe, Receipt, ReceiveOptions, RecipientStatus, SubmitOptions,
    Transport,
};
use support::{Fuse, FusedCrm, FusedState, address, start};
use tokio::sync::watch;

#[derive(Debug)]
struct Fused(MemoryTransport, Arc<Fuse>);

impl fmt::Display for Fused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait]
impl Transport for Fused {
    fn capability(&self) -> Capability {
        self.0.capability()
    }
    async fn probe(&self, mailbox: &Mailbox, access: Access) -> email_router_transport::Result<Probe> {
        self.0.probe(mailbox, access).await
    }
    async fn receive(
        &self,
        mailbox: &Mailbox,
        o: ReceiveOptions,
    ) -> email_router_transport::Result<Box<dyn Inbox>> {
        self.0.receive(mailbox, o).await
    }
    async fn submit(
        &self,
        sender: &Mailbox,
        message: &Outbound,
        options: SubmitOptions,
    ) -> email_router_transport::Result<Receipt> {
        self.1.point("before", "submit").await;
        let receipt = self.0.submit(sender, message, options).await;
        self.1.point("after", "submit").await;
        receipt
    }
    async fn find_submitted(
        &self,
        sender: &Mailbox,
        id: &email_router_model::MessageId,
    ) -> email_router_transport::Result<Option<bool>> {
        self.1.point("before", "find_submitted").await;
        self.0.find_submitted(sender, id).await
    }
}

/// What outlives a router.
struct World {
    clock: Arc<ManualClock>,
    crm: EmbeddedCrm,
    state: MemoryState,
    mail_system: MemoryTransport,
    sender: RecordRef,
    mails: Vec<ActivityId>,
}

impl World {
    async fn new(folder: &Path, name: &str, can_find: bool) -> Self {
        let clock = Arc::new(ManualClock::new(start()));
        let file = folder.join(format!("{name}.db"));
        let crm =
            EmbeddedCrm::open(&file, Arc::<ManualClock>::clone(&clock), Arc::new(SeededEntropy::new(1)))
                .unwrap();
        let admin = crm.admin();
        let ann = [("fullname", "Ann Lee"), ("internalemailaddress", "ann@example.com")];
        let router = [("outgoingemaildeliverymethod", "2"), ("emailrouteraccessapproval", "1")];
        let sender =
            admin.add("systemuser", &fields(ann.into_iter().chain(router))).await.unwrap().reference();
        let mut contacts = Vec::new();
        for (who, at) in [("Bob", "bob@example.net"), ("Gone", "gone@example.net")] {
            let contact =
                admin.add("contact", &fields([("fullname", who), ("emailaddress1", at)])).await.unwrap();
            contacts.push(contact.reference());
        }
        let mut mails = Vec::new();
        for n in 0..2 {
            let mut new = NewEmail::new(sender.clone(), contacts[0].clone(), format!("Offer {n}"), "Hello");
            if n == 0 {
                new.cc.push(contacts[1].clone().into());
            }
            let created = admin.create_outgoing(&new).await.unwrap();
            assert!(created.warnings.is_empty(), "{:?}", created.warnings);
            mails.push(created.activity_id);
        }
        let mut capability = MemoryTransport::new().capability();
        capability.find_submitted = can_find;
        let mail_system = MemoryTransport::with_capability(capability);
        mail_system.refuse_recipient(address("gone@example.net"), RecipientStatus::Refused, "550 gone");
        Self { clock, crm, state: MemoryState::new(), mail_system, sender, mails }
    }

    /// One pass of a new router; `true` when the fuse killed it.
    async fn pass(&self, fuse: &Arc<Fuse>) -> bool {
        let crm: Arc<dyn CrmClient> = Arc::new(self.crm.clone());
        let router = OutgoingPass::new(
            Arc::new(FusedCrm { inner: crm, fuse: Arc::clone(fuse) }),
            Arc::new(FusedState {
                inner: self.state.clone(),
                fuse: Arc::clone(fuse),
                failure: Mutex::default(),
            }),
            Arc::<ManualClock>::clone(&self.clock),
            Arc::new(SeededEntropy::new(2)),
            Arc::new(NoObserver),
            OutgoingSettings::default(),
        )
        .with_concurrency(2);
        let senders = [Sender {
            mailbox: Mailbox {
                id: MailboxId::new("ann"),
                kind: MailboxKind::User,
                name: "Ann Lee".to_owned(),
                address: address("ann@example.com"),
                login: None,
            },
            record: self.sender.clone(),
            transport: Arc::new(Fused(self.mail_system.clone(), Arc::clone(fuse))),
            cautious: None,
        }];
        let (_stop, stopped) = watch::channel(false);
        tokio::select! {
            biased;
            result = router.run(&senders, &stopped, None) => { result.unwrap(); false }
            () = fuse.tripped.notified() => true,
        }
    }
}

#[tokio::test]
async fn killed_at_every_call() {
    let folder = tempfile::tempdir().unwrap();
    for can_find in [false, true] {
        let mut doubts = 0;
        let mut point = 0;
        loop {
            let world = World::new(folder.path(), &format!("{can_find}-{point}"), can_find).await;
            if !world.pass(&Fuse::at(point)).await {
                assert!(point > 30, "a pass makes more than {point} calls");
                break;
            }
            for _ in 0..2 {
                world.clock.advance(Duration::from_secs(3600));
                assert!(!world.pass(&Fuse::none()).await);
            }
            let sent = world.mail_system.sent();
            for (n, id) in world.mails.iter().enumerate() {
                let after = world.crm.admin().email(*id).await.unwrap();
                let times =
                    sent.iter().filter(|s| Some(&s.message.message_id) == after.message_id.as_ref()).count();
                assert!(times <= 1, "point {point}: e-mail {n} went out {times} times");
                if after.row.in_doubt {
                    doubts += 1;
                    continue;
                }
                assert_eq!((after.row.status, times), (EmailStatus::Sent, 1), "point {point}: e-mail {n}");
                let subject = &after.row.subject;
                assert!(subject.starts_with("Offer ") && subject.contains(" CRM:"), "{subject}");
                assert_eq!(subject.matches("CRM:").count(), 1, "one token, however often it was prepared");
            }
            assert_eq!(world.state.ledger_open().await.unwrap(), [], "point {point}");
            point += 1;
        }
        assert_eq!(doubts == 0, can_find, "doubts remain exactly where the mail system cannot tell");
    }
}

#[tokio::test]
async fn refused_recipients_are_kept_in_the_crm() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::new(folder.path(), "refused", true).await;
    world.pass(&Fuse::none()).await;
    let after = world.crm.admin().email(world.mails[0]).await.unwrap();
    assert_eq!(after.row.status, EmailStatus::Sent);
    assert_eq!(after.row.report.as_deref(), Some("gone@example.net: 550 gone"));
}
