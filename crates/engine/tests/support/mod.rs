//! A CRM and a mail system in memory for the tests of outgoing mail, and a fuse that "kills the router" at any call to either
//! of them or to the state store.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)] // a test file, of which each test uses a part

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use email_router_crm::{
    Attachment, Claim, CrmClient, CrmMailbox, Delivered, EmailLookup, EmailStatus, EmailSummary,
    IncomingEmail, OrganizationSettings, OutgoingEmail, ParticipationType, Party, PendingEmail, PendingQuery,
    Priority, Resolution, SendOutcome,
};
use email_router_engine::outgoing::{OutgoingPass, OutgoingReport, Sender};
use email_router_engine::ports::{
    DecisionNote, DecisionQuery, LedgerEntry, LedgerResult, ProviderDirection, ProviderStatus,
    QuarantineItem, SeenMessage, Settled,
};
use email_router_engine::state_memory::MemoryState;
use email_router_engine::{Event, InDoubtPolicy, Observer, OutgoingSettings, StateError, StateStore};
use email_router_model::{
    ActivityId, Clock, EmailAddress, Mailbox, MailboxId, MailboxKind, ManualClock, MessageId, OrganizationId,
    RecordRef, RemoteId, Retry, SeededEntropy, Timestamp,
};
use email_router_transport::{
    Access, Capability, Error, ErrorKind, Inbox, Outbound, Probe, Receipt, ReceiveOptions, RecipientResult,
    RecipientStatus, SubmitOptions, Transport,
};
use tokio::sync::{Notify, watch};
use uuid::Uuid;

pub fn start() -> Timestamp {
    "2026-03-01T10:00:00Z".parse().unwrap()
}

pub fn address(text: &str) -> EmailAddress {
    text.parse().unwrap()
}

pub fn activity(n: u128) -> ActivityId {
    ActivityId::from_uuid(Uuid::from_u128(n))
}

// -------------------------------------------------------------------------------------------------------------- the fuse

/// Kills the router at one point: the call there never comes back, and the test drops the run.
#[derive(Debug, Default)]
pub struct Fuse {
    at: Option<usize>,
    named: Option<&'static str>,
    passed: AtomicUsize,
    pub tripped: Notify,
}

impl Fuse {
    pub fn none() -> Arc<Self> {
        Arc::default()
    }
    /// At the n-th point, counted from 0.
    pub fn at(n: usize) -> Arc<Self> {
        Arc::new(Self { at: Some(n), ..Self::default() })
    }
    /// At the first point of this name: `before claim`, `after submit`, ...
    pub fn named(name: &'static str) -> Arc<Self> {
        Arc::new(Self { named: Some(name), ..Self::default() })
    }
    pub async fn point(&self, when: &str, what: &str) {
        let n = self.passed.fetch_add(1, Ordering::SeqCst);
        let name = format!("{when} {what}");
        if self.at == Some(n) || self.named == Some(name.as_str()) {
            self.tripped.notify_one();
            std::future::pending::<()>().await;
        }
    }
}

macro_rules! fused {
    ($self:ident, $name:literal, $call:expr) => {{
        $self.fuse.point("before", $name).await;
        let result = $call.await;
        $self.fuse.point("after", $name).await;
        result
    }};
}

// --------------------------------------------------------------------------------------------------------------- the CRM

#[derive(Debug, Clone)]
pub struct Mail {
    pub email: OutgoingEmail,
    pub attachments: Vec<Attachment>,
    pub sender: RecordRef,
    pub status: EmailStatus,
    pub version: u64,
    pub modified_on: Timestamp,
    pub not_before: Option<Timestamp>,
    pub in_doubt: bool,
    pub report: Vec<String>,
}

impl Mail {
    fn read(&self) -> OutgoingEmail {
        let attachment_bytes = self.attachments.iter().map(|a| a.content.len() as u64).sum();
        OutgoingEmail { attachment_bytes, ..self.email.clone() }
    }
}

#[derive(Debug)]
pub struct TestCrm {
    pub clock: Arc<ManualClock>,
    pub mails: Mutex<BTreeMap<ActivityId, Mail>>,
    pub settings: Mutex<OrganizationSettings>,
    /// Fails the next call of this name with this error.
    pub failures: Mutex<Vec<(&'static str, email_router_crm::Error)>>,
    /// Changes the e-mail between listing and claim, as a person would.
    pub meddle: Mutex<Vec<ActivityId>>,
}

impl fmt::Display for TestCrm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("test CRM")
    }
}

impl TestCrm {
    pub fn new(clock: Arc<ManualClock>) -> Arc<Self> {
        Arc::new(Self {
            clock,
            mails: Mutex::default(),
            settings: Mutex::default(),
            failures: Mutex::default(),
            meddle: Mutex::default(),
        })
    }
    pub fn add(&self, mail: Mail) {
        self.mails.lock().unwrap().insert(mail.email.activity_id, mail);
    }
    pub fn mail(&self, n: u128) -> Mail {
        self.mails.lock().unwrap()[&activity(n)].clone()
    }
    pub fn change(&self, n: u128, change: impl FnOnce(&mut Mail)) {
        change(self.mails.lock().unwrap().get_mut(&activity(n)).unwrap());
    }
    pub fn fail(&self, call: &'static str, error: email_router_crm::Error) {
        self.failures.lock().unwrap().push((call, error));
    }
    fn failing(&self, call: &str) -> email_router_crm::Result<()> {
        let mut failures = self.failures.lock().unwrap();
        match failures.iter().position(|(name, _)| *name == call) {
            Some(n) => Err(failures.remove(n).1),
            None => Ok(()),
        }
    }
    fn missing(id: &ActivityId) -> email_router_crm::Error {
        email_router_crm::Error::new(
            email_router_crm::ErrorKind::NotFound,
            format!("there is no e-mail {id}"),
        )
    }
}

/// A mail from a sender (`users`: 1, 2, ...) to bob, pending.
pub fn mail(n: u128, user: u128) -> Mail {
    let party = |participation, name: &str, at: &str| Party {
        participation,
        record: None,
        address: Some(address(at)),
        name: Some(name.to_owned()),
    };
    Mail {
        email: OutgoingEmail {
            activity_id: activity(n),
            message_id: None,
            subject: format!("Offer {n}"),
            body: "<p>Hello <b>Bob</b></p>".to_owned(),
            body_mime_type: "text/html".to_owned(),
            parties: vec![
                party(ParticipationType::Sender, "Ann Lee", &format!("user{user}@example.com")),
                party(ParticipationType::To, "Bob", "bob@example.net"),
            ],
            parent_activity: None,
            parent_message_id: None,
            parent_references: Vec::new(),
            tracking_token: None,
            priority: Priority::Normal,
            delivery_receipt_requested: false,
            read_receipt_requested: false,
            delivery_attempts: 0,
            attachment_bytes: 0,
            created_on: start(),
        },
        attachments: Vec::new(),
        sender: record(user),
        status: EmailStatus::PendingSend,
        version: 1,
        modified_on: start(),
        not_before: None,
        in_doubt: false,
        report: Vec::new(),
    }
}

/// The same to these names at example.net.
pub fn mail_to(n: u128, user: u128, names: &[&str]) -> Mail {
    let mut mail = mail(n, user);
    let to = mail.email.parties.remove(1);
    mail.email.parties.extend(names.iter().map(|name| Party {
        address: Some(address(&format!("{name}@example.net"))),
        name: Some((*name).to_owned()),
        ..to.clone()
    }));
    mail
}

pub fn record(user: u128) -> RecordRef {
    RecordRef::new("systemuser", Uuid::from_u128(1_000_000 + user))
}

#[async_trait]
impl CrmClient for TestCrm {
    fn organization_id(&self) -> OrganizationId {
        OrganizationId::from_url("https://contoso.crm.dynamics.com/")
    }
    async fn settings(&self) -> email_router_crm::Result<OrganizationSettings> {
        Ok(self.settings.lock().unwrap().clone())
    }
    async fn mailboxes(&self) -> email_router_crm::Result<Vec<CrmMailbox>> {
        Ok(Vec::new())
    }
    async fn resolve(&self, addresses: &[EmailAddress]) -> email_router_crm::Result<Vec<Vec<Resolution>>> {
        Ok(vec![Vec::new(); addresses.len()])
    }
    async fn find_emails(&self, _: &EmailLookup, _: usize) -> email_router_crm::Result<Vec<EmailSummary>> {
        Ok(Vec::new())
    }
    async fn exists(&self, _: &ActivityId) -> email_router_crm::Result<bool> {
        Ok(false)
    }
    async fn check_incoming(
        &self,
        _: &email_router_crm::IncomingCheck,
    ) -> email_router_crm::Result<email_router_crm::Verdict> {
        Ok(email_router_crm::Verdict::RouterDecides)
    }
    async fn deliver_incoming(&self, _: IncomingEmail) -> email_router_crm::Result<Delivered> {
        Ok(Delivered::AlreadyThere)
    }
    async fn pending_outgoing(&self, query: &PendingQuery) -> email_router_crm::Result<Vec<PendingEmail>> {
        self.failing("pending")?;
        let mails = self.mails.lock().unwrap();
        let stale_before = query.now.checked_sub(query.stale_after).unwrap();
        let mut listed = Vec::new();
        for sender in &query.senders {
            let of_sender = mails.values().filter(|m| m.sender == *sender && !m.in_doubt).filter_map(|m| {
                let due = m.not_before.is_none_or(|t| t <= query.now);
                let stale = m.status == EmailStatus::Sending && m.modified_on < stale_before;
                (stale || (m.status == EmailStatus::PendingSend && due)).then(|| PendingEmail {
                    activity_id: m.email.activity_id,
                    sender: m.sender.clone(),
                    version: m.version,
                    delivery_attempts: m.email.delivery_attempts,
                    priority: m.email.priority,
                    stale,
                    modified_on: m.modified_on,
                })
            });
            listed.extend(of_sender.take(query.per_sender));
        }
        Ok(listed)
    }
    async fn claim(&self, email: &PendingEmail) -> email_router_crm::Result<Claim> {
        self.failing("claim")?;
        let meddled = self.meddle.lock().unwrap().contains(&email.activity_id);
        let mut mails = self.mails.lock().unwrap();
        let mail = mails.get_mut(&email.activity_id).ok_or_else(|| Self::missing(&email.activity_id))?;
        mail.version += u64::from(meddled);
        let takeable = matches!(mail.status, EmailStatus::PendingSend | EmailStatus::Sending);
        if mail.version != email.version || !takeable || mail.in_doubt {
            return Ok(Claim::Lost);
        }
        mail.version += 1;
        mail.status = EmailStatus::Sending;
        mail.modified_on = self.clock.now();
        mail.email.delivery_attempts += 1;
        Ok(Claim::Taken { attempt: mail.email.delivery_attempts })
    }
    async fn outgoing_email(&self, id: &ActivityId) -> email_router_crm::Result<OutgoingEmail> {
        let mails = self.mails.lock().unwrap();
        Ok(mails.get(id).ok_or_else(|| Self::missing(id))?.read())
    }
    async fn attachments(&self, id: &ActivityId) -> email_router_crm::Result<Vec<Attachment>> {
        self.failing("attachments")?;
        let mails = self.mails.lock().unwrap();
        Ok(mails.get(id).ok_or_else(|| Self::missing(id))?.attachments.clone())
    }
    async fn prepare_outgoing(
        &self,
        id: &ActivityId,
        message_id: &MessageId,
        with_token: bool,
    ) -> email_router_crm::Result<OutgoingEmail> {
        self.failing("prepare")?;
        let mut mails = self.mails.lock().unwrap();
        let mail = mails.get_mut(id).ok_or_else(|| Self::missing(id))?;
        mail.email.message_id.get_or_insert_with(|| message_id.clone());
        if with_token && mail.email.tracking_token.is_none() {
            mail.email.tracking_token = Some("CRM:0001001".to_owned());
            mail.email.subject.push_str(" CRM:0001001");
        }
        Ok(mail.read())
    }
    async fn record_delivery(
        &self,
        report: &email_router_crm::DeliveryReport,
    ) -> email_router_crm::Result<bool> {
        Err(Self::missing(&report.activity_id)) // incoming mail is not the business of this fake
    }
    async fn finish(&self, id: &ActivityId, outcome: &SendOutcome) -> email_router_crm::Result<()> {
        self.failing("finish")?;
        let now = self.clock.now();
        let mut mails = self.mails.lock().unwrap();
        let mail = mails.get_mut(id).ok_or_else(|| Self::missing(id))?;
        let sent = matches!(outcome, SendOutcome::Sent { .. });
        if mail.status == EmailStatus::Sent || (mail.status != EmailStatus::Sending && !sent) || mail.in_doubt
        {
            return Ok(());
        }
        mail.version += 1;
        mail.modified_on = now;
        match outcome {
            SendOutcome::Sent { refused, .. } => {
                mail.status = EmailStatus::Sent;
                mail.report.clone_from(refused);
            }
            SendOutcome::Retry { not_before, reason } => {
                mail.status = EmailStatus::PendingSend;
                mail.not_before = Some(*not_before);
                mail.report = vec![reason.clone()];
            }
            SendOutcome::Failed { reason } => {
                mail.status = EmailStatus::Failed;
                mail.report = vec![reason.clone()];
            }
            SendOutcome::InDoubt { reason } => {
                mail.in_doubt = true;
                mail.report = vec![reason.clone()];
            }
        }
        Ok(())
    }
}

/// The CRM behind a fuse.
#[derive(Debug)]
pub struct FusedCrm {
    pub inner: Arc<dyn CrmClient>,
    pub fuse: Arc<Fuse>,
}
impl fmt::Display for FusedCrm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl CrmClient for FusedCrm {
    fn organization_id(&self) -> OrganizationId {
        self.inner.organization_id()
    }
    async fn settings(&self) -> email_router_crm::Result<OrganizationSettings> {
        self.inner.settings().await
    }
    async fn mailboxes(&self) -> email_router_crm::Result<Vec<CrmMailbox>> {
        self.inner.mailboxes().await
    }
    async fn resolve(&self, addresses: &[EmailAddress]) -> email_router_crm::Result<Vec<Vec<Resolution>>> {
        self.inner.resolve(addresses).await
    }
    async fn find_emails(&self, l: &EmailLookup, n: usize) -> email_router_crm::Result<Vec<EmailSummary>> {
        self.inner.find_emails(l, n).await
    }
    async fn exists(&self, id: &ActivityId) -> email_router_crm::Result<bool> {
        self.inner.exists(id).await
    }
    async fn check_incoming(
        &self,
        message: &email_router_crm::IncomingCheck,
    ) -> email_router_crm::Result<email_router_crm::Verdict> {
        self.inner.check_incoming(message).await
    }
    async fn deliver_incoming(&self, email: IncomingEmail) -> email_router_crm::Result<Delivered> {
        self.inner.deliver_incoming(email).await
    }
    async fn pending_outgoing(&self, query: &PendingQuery) -> email_router_crm::Result<Vec<PendingEmail>> {
        fused!(self, "pending", self.inner.pending_outgoing(query))
    }
    async fn claim(&self, email: &PendingEmail) -> email_router_crm::Result<Claim> {
        fused!(self, "claim", self.inner.claim(email))
    }
    async fn outgoing_email(&self, id: &ActivityId) -> email_router_crm::Result<OutgoingEmail> {
        fused!(self, "outgoing_email", self.inner.outgoing_email(id))
    }
    async fn attachments(&self, id: &ActivityId) -> email_router_crm::Result<Vec<Attachment>> {
        fused!(self, "attachments", self.inner.attachments(id))
    }
    async fn prepare_outgoing(
        &self,
        id: &ActivityId,
        message_id: &MessageId,
        with_token: bool,
    ) -> email_router_crm::Result<OutgoingEmail> {
        fused!(self, "prepare", self.inner.prepare_outgoing(id, message_id, with_token))
    }
    async fn finish(&self, id: &ActivityId, outcome: &SendOutcome) -> email_router_crm::Result<()> {
        fused!(self, "finish", self.inner.finish(id, outcome))
    }
    async fn record_delivery(
        &self,
        report: &email_router_crm::DeliveryReport,
    ) -> email_router_crm::Result<bool> {
        fused!(self, "record_delivery", self.inner.record_delivery(report))
    }
}

// ------------------------------------------------------------------------------------------------------------- the state

/// The state store behind a fuse; can also fail.
#[derive(Debug)]
pub struct FusedState {
    pub inner: MemoryState,
    pub fuse: Arc<Fuse>,
    /// The next call of this name fails.
    pub failure: Mutex<Option<&'static str>>,
}

impl FusedState {
    fn failing(&self, call: &'static str) -> Result<(), StateError> {
        let mut failure = self.failure.lock().unwrap();
        if *failure == Some(call) {
            *failure = None;
            return Err(StateError { message: "the disk is full".to_owned(), transient: true, source: None });
        }
        Ok(())
    }
}

#[async_trait]
impl StateStore for FusedState {
    async fn seen(&self, m: &MailboxId, ids: &[RemoteId]) -> Result<Vec<Option<SeenMessage>>, StateError> {
        self.inner.seen(m, ids).await
    }
    async fn begin(&self, m: &MailboxId, ids: &[RemoteId], at: Timestamp) -> Result<(), StateError> {
        fused!(self, "begin", self.inner.begin(m, ids, at))
    }
    async fn unbegin(&self, m: &MailboxId, ids: &[RemoteId]) -> Result<(), StateError> {
        fused!(self, "unbegin", self.inner.unbegin(m, ids))
    }
    async fn note_failure(
        &self,
        m: &MailboxId,
        id: &RemoteId,
        error: &str,
        at: Timestamp,
    ) -> Result<(), StateError> {
        self.inner.note_failure(m, id, error, at).await
    }
    async fn settle(&self, m: &MailboxId, settled: &[Settled]) -> Result<(), StateError> {
        self.inner.settle(m, settled).await
    }
    async fn read_from(&self, m: &MailboxId, source: &str) -> Result<u64, StateError> {
        self.inner.read_from(m, source).await
    }
    async fn resume_token(&self, m: &MailboxId, source: &str) -> Result<Option<bytes::Bytes>, StateError> {
        self.inner.resume_token(m, source).await
    }
    async fn set_resume_token(
        &self,
        m: &MailboxId,
        source: &str,
        token: &bytes::Bytes,
    ) -> Result<(), StateError> {
        self.inner.set_resume_token(m, source, token).await
    }
    async fn forget_absent(&self, m: &MailboxId, present: &[RemoteId]) -> Result<u64, StateError> {
        self.inner.forget_absent(m, present).await
    }
    async fn forget(&self, m: &MailboxId, ids: &[RemoteId]) -> Result<(), StateError> {
        self.inner.forget(m, ids).await
    }
    async fn threshold(&self, m: &MailboxId) -> Result<Option<Timestamp>, StateError> {
        self.inner.threshold(m).await
    }
    async fn set_threshold(&self, m: &MailboxId, at: Option<Timestamp>) -> Result<(), StateError> {
        self.inner.set_threshold(m, at).await
    }
    async fn ledger_begin(&self, entry: &LedgerEntry) -> Result<(), StateError> {
        self.failing("ledger_begin")?;
        fused!(self, "ledger_begin", self.inner.ledger_begin(entry))
    }
    async fn ledger_result(&self, id: &ActivityId, result: &LedgerResult) -> Result<(), StateError> {
        self.failing("ledger_result")?;
        fused!(self, "ledger_result", self.inner.ledger_result(id, result))
    }
    async fn ledger_close(&self, id: &ActivityId) -> Result<(), StateError> {
        self.failing("ledger_close")?;
        fused!(self, "ledger_close", self.inner.ledger_close(id))
    }
    async fn ledger(&self, id: &ActivityId) -> Result<Option<LedgerEntry>, StateError> {
        self.inner.ledger(id).await
    }
    async fn ledger_open(&self) -> Result<Vec<LedgerEntry>, StateError> {
        self.inner.ledger_open().await
    }
    async fn quarantine_put(&self, item: &QuarantineItem) -> Result<u64, StateError> {
        self.inner.quarantine_put(item).await
    }
    async fn quarantine_list(&self, after: u64, limit: usize) -> Result<Vec<QuarantineItem>, StateError> {
        self.inner.quarantine_list(after, limit).await
    }
    async fn quarantine_get(&self, id: u64) -> Result<Option<QuarantineItem>, StateError> {
        self.inner.quarantine_get(id).await
    }
    async fn quarantine_delete(&self, id: u64) -> Result<bool, StateError> {
        self.inner.quarantine_delete(id).await
    }
    async fn lease_acquire(
        &self,
        name: &str,
        holder: &str,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool, StateError> {
        self.inner.lease_acquire(name, holder, now, until).await
    }
    async fn lease_release(&self, name: &str, holder: &str) -> Result<(), StateError> {
        self.inner.lease_release(name, holder).await
    }
    async fn put_status(&self, status: &ProviderStatus) -> Result<(), StateError> {
        self.inner.put_status(status).await
    }
    async fn statuses(&self) -> Result<Vec<ProviderStatus>, StateError> {
        self.inner.statuses().await
    }
    async fn retain_statuses(&self, present: &[(MailboxId, ProviderDirection)]) -> Result<(), StateError> {
        self.inner.retain_statuses(present).await
    }
    async fn prune(&self, before: Timestamp) -> Result<u64, StateError> {
        self.inner.prune(before).await
    }
    async fn note_decisions(&self, notes: &[DecisionNote]) -> Result<(), StateError> {
        self.inner.note_decisions(notes).await
    }
    async fn decisions(&self, query: &DecisionQuery, limit: usize) -> Result<Vec<DecisionNote>, StateError> {
        self.inner.decisions(query, limit).await
    }
    async fn prune_decisions(&self, before: Timestamp, keep: u64) -> Result<u64, StateError> {
        self.inner.prune_decisions(before, keep).await
    }
}

// ------------------------------------------------------------------------------------------------------- the mail system

/// What the mail system does with the next message.
#[derive(Debug)]
pub enum Answer {
    Take,
    Refuse(Error),
    /// Takes it for the first recipient only.
    TakeFirst,
    /// Gives each recipient the fate that belongs to its local part, and takes the message for the accepted ones.
    Each(Vec<(&'static str, RecipientStatus, &'static str)>),
    /// No answer comes; the message was taken or not.
    Doubt {
        taken: bool,
    },
    /// Waits for a permit of the gate, then takes it.
    Wait,
}

#[derive(Debug, Default)]
pub struct MailSystem {
    pub delivered: Mutex<Vec<Outbound>>,
    pub answers: Mutex<VecDeque<Answer>>,
    pub options: Mutex<Vec<SubmitOptions>>,
    pub busy: AtomicUsize,
    pub most_busy: AtomicUsize,
    pub arrived: Notify,
    pub gate: Notify,
}

impl MailSystem {
    pub fn answer(&self, answers: impl IntoIterator<Item = Answer>) {
        self.answers.lock().unwrap().extend(answers);
    }
    /// Everybody it was taken for, in order, over all submissions.
    pub fn reached(&self) -> Vec<String> {
        let delivered = self.delivered.lock().unwrap();
        delivered.iter().flat_map(|m| &m.envelope.recipients).map(|a| a.local_part().to_owned()).collect()
    }
    pub fn count(&self, n: u128) -> usize {
        let id = activity(n).to_string();
        self.delivered.lock().unwrap().iter().filter(|m| m.message_id.bare().starts_with(&id)).count()
    }
}

#[derive(Debug, Clone)]
pub struct TestTransport {
    pub system: Arc<MailSystem>,
    pub fuse: Arc<Fuse>,
    pub name: &'static str,
    /// Whether it can look for messages that were sent.
    pub can_find: bool,
}

impl fmt::Display for TestTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl TestTransport {
    async fn answer(&self, message: &Outbound) -> email_router_transport::Result<Receipt> {
        let answer = self.system.answers.lock().unwrap().pop_front().unwrap_or(Answer::Take);
        let take = || self.system.delivered.lock().unwrap().push(message.clone());
        let receipt = |last: RecipientStatus| Receipt {
            recipients: message
                .envelope
                .recipients
                .iter()
                .enumerate()
                .map(|(n, a)| RecipientResult {
                    address: a.clone(),
                    status: if n == 0 { RecipientStatus::Accepted } else { last },
                    reply: if n == 0 || last == RecipientStatus::Accepted { "250 ok" } else { "550 unknown" }
                        .to_owned(),
                })
                .collect(),
            reply: "250 queued".to_owned(),
        };
        match answer {
            Answer::Take => {
                take();
                Ok(receipt(RecipientStatus::Accepted))
            }
            Answer::TakeFirst => {
                take();
                Ok(receipt(RecipientStatus::Refused))
            }
            Answer::Each(fates) => {
                let fate = |a: &EmailAddress| {
                    let of = fates.iter().find(|(name, ..)| *name == a.local_part());
                    let (status, reply) = of.map_or((RecipientStatus::Accepted, "250 ok"), |f| (f.1, f.2));
                    RecipientResult { address: a.clone(), status, reply: reply.to_owned() }
                };
                let recipients: Vec<_> = message.envelope.recipients.iter().map(fate).collect();
                let mut taken = message.clone();
                taken.envelope.recipients.retain(|a| fate(a).status == RecipientStatus::Accepted);
                if taken.envelope.recipients.is_empty() {
                    let for_good = recipients.iter().all(|r| r.status == RecipientStatus::Refused);
                    let error = Error::new(ErrorKind::RecipientsRefused, "smtp mx refused all recipients");
                    return Err(if for_good { error } else { error.with_retry(Retry::Later(None)) }
                        .with_recipients(recipients));
                }
                self.system.delivered.lock().unwrap().push(taken);
                Ok(Receipt { recipients, reply: "250 queued".to_owned() })
            }
            Answer::Wait => {
                self.system.gate.notified().await;
                take();
                Ok(receipt(RecipientStatus::Accepted))
            }
            Answer::Refuse(error) => Err(error),
            Answer::Doubt { taken } => {
                if taken {
                    take();
                }
                Err(Error::new(ErrorKind::ConnectionLost, "smtp mx.example.com:25 closed the connection")
                    .with_retry(email_router_model::Retry::InDoubt))
            }
        }
    }
}

#[async_trait]
impl Transport for TestTransport {
    fn capability(&self) -> Capability {
        let mut capability = Capability::default();
        capability.submit = self.name.starts_with("smtp");
        capability.find_submitted = self.can_find;
        capability
    }
    async fn probe(&self, _: &Mailbox, _: Access) -> email_router_transport::Result<Probe> {
        Ok(Probe::default())
    }
    async fn receive(
        &self,
        _: &Mailbox,
        _: ReceiveOptions,
    ) -> email_router_transport::Result<Box<dyn Inbox>> {
        Err(email_router_transport::contract::unsupported(self, "receive"))
    }
    async fn submit(
        &self,
        _: &Mailbox,
        message: &Outbound,
        options: SubmitOptions,
    ) -> email_router_transport::Result<Receipt> {
        self.fuse.point("before", "submit").await;
        let busy = self.system.busy.fetch_add(1, Ordering::SeqCst) + 1;
        self.system.most_busy.fetch_max(busy, Ordering::SeqCst);
        self.system.arrived.notify_one();
        self.system.options.lock().unwrap().push(options);
        tokio::task::yield_now().await;
        let answer = self.answer(message).await;
        self.system.busy.fetch_sub(1, Ordering::SeqCst);
        self.fuse.point("after", "submit").await;
        answer
    }
    async fn find_submitted(
        &self,
        _: &Mailbox,
        message_id: &MessageId,
    ) -> email_router_transport::Result<Option<bool>> {
        self.fuse.point("before", "find_submitted").await;
        let delivered = self.system.delivered.lock().unwrap();
        Ok(self.can_find.then(|| delivered.iter().any(|m| m.message_id == *message_id)))
    }
}

// -------------------------------------------------------------------------------------------------------------- the world

/// What an observer heard.
#[derive(Debug, Default)]
pub struct Heard(pub Mutex<Vec<(String, SendOutcome)>>);
impl Observer for Heard {
    fn event(&self, event: &Event<'_>) {
        if let Event::Outgoing { subject, outcome, .. } = event {
            self.0.lock().unwrap().push(((*subject).to_owned(), (*outcome).clone()));
        }
    }
}

/// Everything that outlives a router.
#[derive(Debug)]
pub struct World {
    pub clock: Arc<ManualClock>,
    pub crm: Arc<TestCrm>,
    pub state: MemoryState,
    pub system: Arc<MailSystem>,
    pub heard: Arc<Heard>,
    pub settings: OutgoingSettings,
    pub can_find: bool,
    pub concurrency: usize,
}

impl World {
    pub fn new() -> Self {
        let clock = Arc::new(ManualClock::new(start()));
        let mut settings = OutgoingSettings::default();
        settings.message_id_domain = "router.example".to_owned();
        Self {
            crm: TestCrm::new(Arc::clone(&clock)),
            clock,
            state: MemoryState::new(),
            system: Arc::default(),
            heard: Arc::default(),
            settings,
            can_find: false,
            concurrency: 4,
        }
    }

    pub fn policy(mut self, policy: InDoubtPolicy) -> Self {
        self.settings.in_doubt = policy;
        self
    }

    pub fn sender(&self, user: u128, fuse: &Arc<Fuse>, name: &'static str) -> Sender {
        Sender {
            mailbox: Mailbox {
                id: MailboxId::new(format!("user{user}")),
                kind: MailboxKind::User,
                name: format!("User {user}"),
                address: address(&format!("user{user}@example.com")),
                login: None,
            },
            record: record(user),
            transport: Arc::new(TestTransport {
                system: Arc::clone(&self.system),
                fuse: Arc::clone(fuse),
                name,
                can_find: self.can_find,
            }),
            cautious: None,
        }
    }

    /// A new router on the same stores.
    pub fn router(&self, fuse: &Arc<Fuse>) -> OutgoingPass {
        self.router_on(FusedState {
            inner: self.state.clone(),
            fuse: Arc::clone(fuse),
            failure: Mutex::default(),
        })
    }

    pub fn router_on(&self, state: FusedState) -> OutgoingPass {
        let fuse = Arc::clone(&state.fuse);
        OutgoingPass::new(
            Arc::new(FusedCrm { inner: Arc::<TestCrm>::clone(&self.crm), fuse }),
            Arc::new(state),
            Arc::<ManualClock>::clone(&self.clock),
            Arc::new(SeededEntropy::new(7)),
            Arc::<Heard>::clone(&self.heard),
            self.settings.clone(),
        )
        .with_concurrency(self.concurrency)
    }

    /// One pass of a new router over these users, all on one mail system.
    pub async fn pass(&self, users: &[u128]) -> OutgoingReport {
        let fuse = Fuse::none();
        let senders: Vec<Sender> =
            users.iter().map(|&u| self.sender(u, &fuse, "smtp mx.example.com:25")).collect();
        let (_stop, stopped) = watch::channel(false);
        self.router(&fuse).run(&senders, &stopped, None).await.unwrap()
    }

    /// A pass that is killed where the fuse says; `true` when it was.
    pub async fn killed_pass(&self, users: &[u128], fuse: &Arc<Fuse>) -> bool {
        let senders: Vec<Sender> =
            users.iter().map(|&u| self.sender(u, fuse, "smtp mx.example.com:25")).collect();
        let (_stop, stopped) = watch::channel(false);
        let router = self.router(fuse);
        tokio::select! {
            biased;
            result = router.run(&senders, &stopped, None) => { result.unwrap(); false }
            () = fuse.tripped.notified() => true,
        }
    }

    pub fn later(&self, by: Duration) {
        self.clock.advance(by);
    }
}
