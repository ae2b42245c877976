//! The embedded CRM passes the suite of every CRM.
#![allow(clippy::unwrap_used)] // helpers of tests, which may panic
#![cfg(all(feature = "conformance", feature = "embedded"))]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use email_router_crm::conformance::{Fixture, Seed, run};
use email_router_crm::embedded::EmbeddedCrm;
use email_router_crm::embedded::admin::{Admin, EmailFilter, NewEmail, fields};
use email_router_crm::{CrmClient, EmailStatus, OrganizationSettings, RecipientReport, Result};
use email_router_model::{ActivityId, Clock, ManualClock, RecordRef, SeededEntropy, Timestamp};

struct Embedded {
    crm: EmbeddedCrm,
    admin: Admin,
    clock: Arc<ManualClock>,
    _folder: tempfile::TempDir,
}

impl Embedded {
    fn new(seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new("2026-03-01T08:00:00Z".parse().unwrap()));
        let crm = EmbeddedCrm::open(
            folder.path().join("crm.db"),
            clock.clone(),
            Arc::new(SeededEntropy::new(seed)),
        );
        let crm = crm.unwrap();
        Self { admin: crm.admin(), crm, clock, _folder: folder }
    }

    async fn add(&self, table: &str, pairs: &[(&str, &str)]) -> Result<RecordRef> {
        Ok(self.admin.add(table, &fields(pairs.iter().copied())).await?.reference())
    }
}

#[async_trait]
impl Fixture for Embedded {
    fn crm(&self) -> Arc<dyn CrmClient> {
        Arc::new(self.crm.clone())
    }
    fn now(&self) -> Timestamp {
        self.clock.now()
    }
    fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }
    async fn add_user(&self, name: &str, address: &str, approved: bool) -> Result<RecordRef> {
        let approval = if approved { "approved" } else { "pending" };
        let pairs =
            [("fullname", name), ("internalemailaddress", address), ("emailrouteraccessapproval", approval)];
        self.add("systemuser", &pairs).await
    }
    async fn add_queue(&self, name: &str, address: &str) -> Result<RecordRef> {
        self.add("queue", &[("name", name), ("emailaddress", address)]).await
    }
    async fn add_contact(&self, name: &str, address: &str) -> Result<RecordRef> {
        self.add("contact", &[("fullname", name), ("emailaddress1", address)]).await
    }
    async fn disable(&self, record: &RecordRef) -> Result<()> {
        let change =
            if record.table == "systemuser" { ("isdisabled", "true") } else { ("statecode", "inactive") };
        self.admin.update(&record.table, &record.id.to_string(), &fields([change])).await.map(drop)
    }
    async fn take_from_router(&self, record: &RecordRef) -> Result<()> {
        let change = fields([("outgoingemaildeliverymethod", "none")]);
        self.admin.update(&record.table, &record.id.to_string(), &change).await.map(drop)
    }
    async fn set_settings(&self, settings: &OrganizationSettings) -> Result<()> {
        self.admin.replace_settings(settings).await
    }
    async fn send(&self, seed: &Seed) -> Result<ActivityId> {
        let mut email = NewEmail::new(seed.from.clone(), seed.to.clone(), seed.subject.clone(), "body");
        email.in_reply_to = seed.in_reply_to;
        email.delay_until = seed.delay_until;
        email.priority = seed.priority;
        email.attachments = seed.attachments.clone();
        Ok(self.admin.create_outgoing(&email).await?.activity_id)
    }
    async fn delete_email(&self, id: ActivityId) -> Result<bool> {
        self.admin.delete_email(id).await.map(|()| true)
    }
    async fn queue_items(&self, queue: &RecordRef) -> Result<Vec<ActivityId>> {
        Ok(self.admin.queue_items(queue.id, 100).await?.into_iter().map(|i| i.activity_id).collect())
    }
    async fn reported(&self, id: ActivityId) -> Result<Vec<RecipientReport>> {
        Ok(self.admin.email(id).await?.delivery.into_iter().map(|d| d.last).collect())
    }
    async fn status(&self, id: ActivityId) -> Result<EmailStatus> {
        Ok(self.admin.email(id).await?.row.status)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn embedded_conforms() {
    let mut seed = 0;
    run(|| {
        seed += 1;
        std::future::ready(Embedded::new(seed))
    })
    .await;
}

/// The router's simulations run on one thread with a paused clock; no call may let that clock run ahead.
#[tokio::test(start_paused = true)]
async fn embedded_conforms_on_a_paused_clock() {
    let start = tokio::time::Instant::now();
    let mut seed = 100;
    run(|| {
        seed += 1;
        std::future::ready(Embedded::new(seed))
    })
    .await;
    assert_eq!(start.elapsed(), Duration::ZERO);
}

/// Several processes: what one wrote the other reads, and both can write.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_routers_share_one_file() {
    let a = Embedded::new(1);
    let open =
        |seed| EmbeddedCrm::open(a.crm.path(), a.clock.clone(), Arc::new(SeededEntropy::new(seed))).unwrap();
    let b = open(2);
    assert_eq!(a.crm.organization_id(), b.organization_id());
    let ann = a.add_user("Ann", "ann@f.example", true).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..200 {
        let crm = if n % 2 == 0 { a.crm.clone() } else { b.clone() };
        let email = NewEmail::new(ann.clone(), ann.clone(), format!("n{n}"), "body");
        tasks.spawn(async move { crm.admin().create_outgoing(&email).await });
    }
    for done in tasks.join_all().await {
        done.unwrap();
    }
    let filter = EmailFilter { limit: 1000, ..EmailFilter::default() };
    assert_eq!(a.admin.emails(&filter).await.unwrap().len(), 200);
    a.crm.close().await.unwrap();
    assert_eq!(b.admin().emails(&filter).await.unwrap().len(), 200);
    assert_eq!(b.admin().check().await.unwrap(), Vec::<String>::new());
}
