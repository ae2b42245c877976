//! Kills the router at any call it makes to a port: the call there, and every later one, never comes back, and the test drops the
//! run with everything the router had in memory.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use email_router_crm::{
    Attachment, Claim, CrmClient, CrmMailbox, Delivered, EmailLookup, EmailSummary, IncomingEmail,
    OrganizationSettings, OutgoingEmail, PendingEmail, PendingQuery, Resolution, SendOutcome,
};
use email_router_engine::ports::{
    DecisionNote, DecisionQuery, LedgerEntry, LedgerResult, ProviderDirection, ProviderStatus,
    QuarantineItem, SeenMessage, Settled,
};
use email_router_engine::{StateError, StateStore};
use email_router_model::{
    ActivityId, EmailAddress, Mailbox, MailboxId, MessageId, OrganizationId, RawMessage, RemoteId, Timestamp,
};
use email_router_transport::{
    Access, Capability, Disposition, Inbox, Outbound, Part, Probe, Receipt, ReceiveOptions, Stub,
    SubmitOptions, Transport,
};
use tokio::sync::Notify;

/// Where the router dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    Never,
    /// Before or after the n-th call, as `2 n` and `2 n + 1`.
    Number(usize),
    /// At the n-th point (from 1) of this name: `before settle`, `after dispose`, ...
    Named(&'static str, usize),
    /// Not at all, but the call at this point, counted as for [`Point::Number`], fails before or after it took effect.
    Error(usize),
}

/// One life of a router.
#[derive(Debug)]
pub struct Life {
    point: Point,
    passed: AtomicUsize,
    names: Mutex<Vec<String>>,
    dead: Mutex<bool>,
    died: Notify,
}

impl Life {
    pub fn until(point: Point) -> Arc<Self> {
        Arc::new(Self {
            point,
            passed: AtomicUsize::new(0),
            names: Mutex::default(),
            dead: Mutex::new(false),
            died: Notify::new(),
        })
    }

    /// All points so far, in order.
    pub fn names(&self) -> Vec<String> {
        self.names.lock().unwrap().clone()
    }

    /// Runs a router until it ends by itself or dies; `None` when it died.
    pub async fn live<T>(&self, run: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.died.notified() => None,
            value = run => Some(value),
        }
    }

    /// Passes a point; whether the call is to fail there.
    async fn point(&self, when: &str, what: &str) -> bool {
        let n = self.passed.fetch_add(1, Ordering::SeqCst);
        let name = format!("{when} {what}");
        let here = {
            let mut names = self.names.lock().unwrap();
            names.push(name.clone());
            match self.point {
                Point::Never | Point::Error(_) => false,
                Point::Number(at) => at == n,
                Point::Named(at, nth) => name == at && names.iter().filter(|n| **n == name).count() == nth,
            }
        };
        let dead = {
            let mut dead = self.dead.lock().unwrap();
            *dead |= here;
            *dead
        };
        if dead {
            self.died.notify_one();
            std::future::pending::<()>().await;
        }
        self.point == Point::Error(n)
    }
}

macro_rules! alive {
    ($self:ident, $name:literal, $call:expr) => {{
        if $self.life.point("before", $name).await {
            return Err(Self::lost());
        }
        let result = $call.await;
        if $self.life.point("after", $name).await {
            result?;
            return Err(Self::lost());
        }
        result
    }};
}

/// A state store of one life.
#[derive(Debug)]
pub struct MortalState {
    pub inner: Arc<dyn StateStore>,
    pub life: Arc<Life>,
}

impl MortalState {
    fn lost() -> StateError {
        StateError { message: "the store does not answer".to_owned(), transient: true, source: None }
    }
}

type Stored<T> = Result<T, StateError>;

#[async_trait]
impl StateStore for MortalState {
    async fn seen(&self, m: &MailboxId, ids: &[RemoteId]) -> Stored<Vec<Option<SeenMessage>>> {
        alive!(self, "seen", self.inner.seen(m, ids))
    }
    async fn begin(&self, m: &MailboxId, ids: &[RemoteId], at: Timestamp) -> Stored<()> {
        alive!(self, "begin", self.inner.begin(m, ids, at))
    }
    async fn unbegin(&self, m: &MailboxId, ids: &[RemoteId]) -> Stored<()> {
        alive!(self, "unbegin", self.inner.unbegin(m, ids))
    }
    async fn note_failure(&self, m: &MailboxId, id: &RemoteId, error: &str, at: Timestamp) -> Stored<()> {
        alive!(self, "note_failure", self.inner.note_failure(m, id, error, at))
    }
    async fn settle(&self, m: &MailboxId, settled: &[Settled]) -> Stored<()> {
        alive!(self, "settle", self.inner.settle(m, settled))
    }
    async fn read_from(&self, m: &MailboxId, source: &str) -> Stored<u64> {
        alive!(self, "read_from", self.inner.read_from(m, source))
    }
    async fn resume_token(&self, m: &MailboxId, source: &str) -> Stored<Option<bytes::Bytes>> {
        alive!(self, "resume_token", self.inner.resume_token(m, source))
    }
    async fn set_resume_token(&self, m: &MailboxId, source: &str, token: &bytes::Bytes) -> Stored<()> {
        alive!(self, "set_resume_token", self.inner.set_resume_token(m, source, token))
    }
    async fn forget_absent(&self, m: &MailboxId, present: &[RemoteId]) -> Stored<u64> {
        alive!(self, "forget_absent", self.inner.forget_absent(m, present))
    }
    async fn forget(&self, m: &MailboxId, ids: &[RemoteId]) -> Stored<()> {
        alive!(self, "forget", self.inner.forget(m, ids))
    }
    async fn threshold(&self, m: &MailboxId) -> Stored<Option<Timestamp>> {
        alive!(self, "threshold", self.inner.threshold(m))
    }
    async fn set_threshold(&self, m: &MailboxId, at: Option<Timestamp>) -> Stored<()> {
        alive!(self, "set_threshold", self.inner.set_threshold(m, at))
    }
    async fn ledger_begin(&self, entry: &LedgerEntry) -> Stored<()> {
        alive!(self, "ledger_begin", self.inner.ledger_begin(entry))
    }
    async fn ledger_result(&self, id: &ActivityId, result: &LedgerResult) -> Stored<()> {
        alive!(self, "ledger_result", self.inner.ledger_result(id, result))
    }
    async fn ledger_close(&self, id: &ActivityId) -> Stored<()> {
        alive!(self, "ledger_close", self.inner.ledger_close(id))
    }
    async fn ledger(&self, id: &ActivityId) -> Stored<Option<LedgerEntry>> {
        alive!(self, "ledger", self.inner.ledger(id))
    }
    async fn ledger_open(&self) -> Stored<Vec<LedgerEntry>> {
        alive!(self, "ledger_open", self.inner.ledger_open())
    }
    async fn quarantine_put(&self, item: &QuarantineItem) -> Stored<u64> {
        alive!(self, "quarantine_put", self.inner.quarantine_put(item))
    }
    async fn quarantine_list(&self, after: u64, limit: usize) -> Stored<Vec<QuarantineItem>> {
        alive!(self, "quarantine_list", self.inner.quarantine_list(after, limit))
    }
    async fn quarantine_get(&self, id: u64) -> Stored<Option<QuarantineItem>> {
        alive!(self, "quarantine_get", self.inner.quarantine_get(id))
    }
    async fn quarantine_delete(&self, id: u64) -> Stored<bool> {
        alive!(self, "quarantine_delete", self.inner.quarantine_delete(id))
    }
    async fn lease_acquire(
        &self,
        name: &str,
        holder: &str,
        now: Timestamp,
        until: Timestamp,
    ) -> Stored<bool> {
        alive!(self, "lease_acquire", self.inner.lease_acquire(name, holder, now, until))
    }
    async fn lease_release(&self, name: &str, holder: &str) -> Stored<()> {
        alive!(self, "lease_release", self.inner.lease_release(name, holder))
    }
    async fn put_status(&self, status: &ProviderStatus) -> Stored<()> {
        alive!(self, "put_status", self.inner.put_status(status))
    }
    async fn statuses(&self) -> Stored<Vec<ProviderStatus>> {
        alive!(self, "statuses", self.inner.statuses())
    }
    async fn retain_statuses(&self, present: &[(MailboxId, ProviderDirection)]) -> Stored<()> {
        alive!(self, "retain_statuses", self.inner.retain_statuses(present))
    }
    async fn prune(&self, before: Timestamp) -> Stored<u64> {
        alive!(self, "prune", self.inner.prune(before))
    }
    async fn note_decisions(&self, notes: &[DecisionNote]) -> Stored<()> {
        alive!(self, "note_decisions", self.inner.note_decisions(notes))
    }
    async fn decisions(&self, query: &DecisionQuery, limit: usize) -> Stored<Vec<DecisionNote>> {
        alive!(self, "decisions", self.inner.decisions(query, limit))
    }
    async fn prune_decisions(&self, before: Timestamp, keep: u64) -> Stored<u64> {
        alive!(self, "prune_decisions", self.inner.prune_decisions(before, keep))
    }
}

/// A CRM client of one life.
#[derive(Debug)]
pub struct MortalCrm {
    pub inner: Arc<dyn CrmClient>,
    pub life: Arc<Life>,
}

impl fmt::Display for MortalCrm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl MortalCrm {
    fn lost() -> email_router_crm::Error {
        email_router_crm::Error::new(email_router_crm::ErrorKind::Unreachable, "the CRM does not answer")
    }
}

type Answer<T> = email_router_crm::Result<T>;

#[async_trait]
impl CrmClient for MortalCrm {
    fn organization_id(&self) -> OrganizationId {
        self.inner.organization_id()
    }
    async fn settings(&self) -> Answer<OrganizationSettings> {
        alive!(self, "settings", self.inner.settings())
    }
    async fn mailboxes(&self) -> Answer<Vec<CrmMailbox>> {
        alive!(self, "mailboxes", self.inner.mailboxes())
    }
    async fn resolve(&self, addresses: &[EmailAddress]) -> Answer<Vec<Vec<Resolution>>> {
        alive!(self, "resolve", self.inner.resolve(addresses))
    }
    async fn find_emails(&self, lookup: &EmailLookup, limit: usize) -> Answer<Vec<EmailSummary>> {
        alive!(self, "find_emails", self.inner.find_emails(lookup, limit))
    }
    async fn exists(&self, id: &ActivityId) -> Answer<bool> {
        alive!(self, "exists", self.inner.exists(id))
    }
    async fn check_incoming(
        &self,
        message: &email_router_crm::IncomingCheck,
    ) -> Answer<email_router_crm::Verdict> {
        self.inner.check_incoming(message).await
    }
    async fn deliver_incoming(&self, email: IncomingEmail) -> Answer<Delivered> {
        alive!(self, "deliver_incoming", self.inner.deliver_incoming(email))
    }
    async fn pending_outgoing(&self, query: &PendingQuery) -> Answer<Vec<PendingEmail>> {
        alive!(self, "pending_outgoing", self.inner.pending_outgoing(query))
    }
    async fn claim(&self, email: &PendingEmail) -> Answer<Claim> {
        alive!(self, "claim", self.inner.claim(email))
    }
    async fn outgoing_email(&self, id: &ActivityId) -> Answer<OutgoingEmail> {
        alive!(self, "outgoing_email", self.inner.outgoing_email(id))
    }
    async fn attachments(&self, id: &ActivityId) -> Answer<Vec<Attachment>> {
        alive!(self, "attachments", self.inner.attachments(id))
    }
    async fn prepare_outgoing(&self, id: &ActivityId, m: &MessageId, token: bool) -> Answer<OutgoingEmail> {
        alive!(self, "prepare_outgoing", self.inner.prepare_outgoing(id, m, token))
    }
    async fn finish(&self, id: &ActivityId, outcome: &SendOutcome) -> Answer<()> {
        alive!(self, "finish", self.inner.finish(id, outcome))
    }
    async fn record_delivery(&self, report: &email_router_crm::DeliveryReport) -> Answer<bool> {
        alive!(self, "record_delivery", self.inner.record_delivery(report))
    }
}

/// A transport of one life.
#[derive(Debug)]
pub struct MortalTransport {
    pub inner: Arc<dyn Transport>,
    pub life: Arc<Life>,
}

impl fmt::Display for MortalTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl MortalTransport {
    fn lost() -> email_router_transport::Error {
        email_router_transport::Error::new(email_router_transport::ErrorKind::ConnectionLost, "lost")
    }
}

type Mailed<T> = email_router_transport::Result<T>;

#[async_trait]
impl Transport for MortalTransport {
    fn capability(&self) -> Capability {
        self.inner.capability()
    }
    async fn probe(&self, mailbox: &Mailbox, access: Access) -> Mailed<Probe> {
        alive!(self, "probe", self.inner.probe(mailbox, access))
    }
    async fn receive(&self, mailbox: &Mailbox, options: ReceiveOptions) -> Mailed<Box<dyn Inbox>> {
        let inner = alive!(self, "receive", self.inner.receive(mailbox, options))?;
        Ok(Box::new(MortalInbox { inner, life: Arc::clone(&self.life) }))
    }
    async fn submit(&self, sender: &Mailbox, message: &Outbound, options: SubmitOptions) -> Mailed<Receipt> {
        alive!(self, "submit", self.inner.submit(sender, message, options))
    }
    async fn find_submitted(&self, sender: &Mailbox, message_id: &MessageId) -> Mailed<Option<bool>> {
        alive!(self, "find_submitted", self.inner.find_submitted(sender, message_id))
    }
    async fn wait_for_mail(&self, mailbox: &Mailbox, limit: std::time::Duration) -> Mailed<bool> {
        alive!(self, "wait_for_mail", self.inner.wait_for_mail(mailbox, limit))
    }
}

struct MortalInbox {
    inner: Box<dyn Inbox>,
    life: Arc<Life>,
}

impl MortalInbox {
    fn lost() -> email_router_transport::Error {
        MortalTransport::lost()
    }
}

#[async_trait]
impl Inbox for MortalInbox {
    async fn next(&mut self) -> Mailed<Option<Stub>> {
        alive!(self, "next", self.inner.next())
    }
    async fn prefetch(&mut self, wanted: &[(RemoteId, Part)]) -> Mailed<()> {
        alive!(self, "prefetch", self.inner.prefetch(wanted))
    }
    async fn headers(&mut self, id: &RemoteId) -> Mailed<Bytes> {
        alive!(self, "headers", self.inner.headers(id))
    }
    async fn fetch(&mut self, id: &RemoteId) -> Mailed<RawMessage> {
        alive!(self, "fetch", self.inner.fetch(id))
    }
    fn resume_token(&mut self) -> Option<Bytes> {
        self.inner.resume_token()
    }
    async fn dispose(&mut self, id: &RemoteId, what: Disposition) -> Mailed<()> {
        alive!(self, "dispose", self.inner.dispose(id, what))
    }
    async fn close(self: Box<Self>) -> Mailed<()> {
        let Self { inner, life } = *self;
        life.point("before", "close").await;
        let result = inner.close().await;
        life.point("after", "close").await;
        result
    }
}
