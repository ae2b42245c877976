//! A whole world in memory for the tests of the incoming half and of the scheduler: a CRM, mail systems, a state store, and a
//! wall clock that goes with tokio's paused clock.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)] // a test file, of which each test uses a part

pub mod crash;
pub mod crm;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use email_router_crm::{CrmClient, FilteringMethod};
use email_router_engine::ReferenceSigner;
use email_router_engine::decide::{Decider, OrganizationView};
use email_router_engine::incoming::{IncomingParts, PassReport};
use email_router_engine::ports::{CrmIndex, QuarantineItem};
use email_router_engine::router::{IncomingRoute, OutgoingRoute, Router, RouterParts, Server};
use email_router_engine::state_memory::MemoryState;
use email_router_engine::{Event, IncomingSettings, Observer, Result, StateStore};
use email_router_model::{
    Clock, Mailbox, MailboxId, MailboxKind, MessageId, RawMessage, RecordRef, RemoteId, SeededEntropy,
    Timestamp,
};
use email_router_transport::memory::MemoryTransport;
use email_router_transport::{
    Access, Capability, Disposition, Inbox, Outbound, Part, Probe, Receipt, ReceiveOptions, Stub,
    SubmitOptions, Transport,
};
use tokio::sync::watch;
use tokio::time::Instant;

pub use crash::{Life, MortalCrm, MortalState, MortalTransport, Point};
pub use crm::MemoryCrm;

/// Goes with tokio's clock.
#[derive(Debug)]
pub struct TokioClock {
    begin: Timestamp,
    base: Instant,
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        self.begin.checked_add(self.base.elapsed()).unwrap()
    }
}

/// Writes down what it hears: `started ann`, `access ann`, `access ann: why not`, `deliver ann`, ...
#[derive(Debug, Default)]
pub struct Heard(Mutex<Vec<String>>);

impl Heard {
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
    pub fn count(&self, what: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|e| *e == what).count()
    }
    pub fn clear(&self) {
        self.0.lock().unwrap().clear();
    }
}

impl Observer for Heard {
    fn event(&self, event: &Event<'_>) {
        let text = match event {
            Event::MailboxAccess { mailbox, error: None } => format!("access {mailbox}"),
            Event::MailboxAccess { mailbox, error: Some(error) } => format!("access {mailbox}: {error}"),
            Event::Incoming { mailbox, record, .. } => {
                format!("{} {mailbox}", format!("{:?}", record.verdict).to_lowercase())
            }
            Event::IncomingDeferred { mailbox, .. } => format!("deferred {mailbox}"),
            Event::LoopSuspected { mailbox, limit, .. } => {
                let name = limit.split(|c: char| !c.is_alphanumeric()).find(|w| w.starts_with("looplimit"));
                format!("loop {mailbox}: {}", name.unwrap_or(limit))
            }
            Event::DeliveryReported { report } => {
                format!("reported {}", report.recipients.first().map_or("nobody", |r| r.action.as_str()))
            }
            Event::Provider { mailbox, direction, what } => {
                format!("{} {direction} {mailbox}", format!("{what:?}").to_lowercase())
            }
            Event::SchedulingCycle => "cycle".to_owned(),
            _ => return,
        };
        self.0.lock().unwrap().push(text);
    }
}

/// A mailbox and its record.
#[derive(Debug, Clone)]
pub struct Place {
    pub mailbox: Mailbox,
    pub record: RecordRef,
}

impl Place {
    pub fn id(&self) -> &MailboxId {
        &self.mailbox.id
    }
}

/// Everything that outlives a router.
#[derive(Debug)]
pub struct World {
    pub clock: Arc<TokioClock>,
    pub crm: Arc<MemoryCrm>,
    pub state: MemoryState,
    pub heard: Arc<Heard>,
    pub stop: watch::Sender<bool>,
}

impl World {
    /// Needs a paused tokio clock.
    pub fn new() -> Self {
        let clock =
            Arc::new(TokioClock { begin: "2026-03-01T10:00:00Z".parse().unwrap(), base: Instant::now() });
        Self {
            crm: MemoryCrm::new(Arc::<TokioClock>::clone(&clock)),
            clock,
            state: MemoryState::new(),
            heard: Arc::default(),
            stop: watch::channel(false).0,
        }
    }

    /// A user who accepts all mail.
    pub fn user(&self, name: &str) -> Place {
        self.place(MailboxKind::User, name)
    }

    pub fn queue(&self, name: &str) -> Place {
        self.place(MailboxKind::Queue, name)
    }

    pub fn forward(&self, name: &str) -> Place {
        self.place(MailboxKind::Forward, name)
    }

    fn place(&self, kind: MailboxKind, name: &str) -> Place {
        let at = format!("{name}@fabrikam.example");
        let record = self.crm.add(Some(kind), name, &at, FilteringMethod::All);
        let mailbox = Mailbox {
            id: name.into(),
            kind,
            name: name.to_owned(),
            address: at.parse().unwrap(),
            login: None,
        };
        Place { mailbox, record }
    }

    pub fn route(&self, place: &Place, transport: impl Transport) -> IncomingRoute {
        IncomingRoute {
            mailbox: place.mailbox.clone(),
            record: Some(place.record.clone()),
            transport: Arc::new(transport),
            source: "a mail system".to_owned(),
            settings: IncomingSettings::default(),
            polling_period: Duration::from_secs(60),
            notify: false,
            server: Server { name: "pop".to_owned(), max_sessions: 5 },
            fingerprint: 1,
        }
    }

    pub fn outgoing(&self, place: &Place, transport: impl Transport) -> Arc<OutgoingRoute> {
        Arc::new(OutgoingRoute {
            mailbox: place.mailbox.clone(),
            record: place.record.clone(),
            transport: Arc::new(transport),
            fingerprint: 1,
        })
    }

    pub fn parts(&self, life: &Arc<Life>) -> IncomingParts {
        let crm: Arc<dyn CrmClient> =
            Arc::new(MortalCrm { inner: Arc::<MemoryCrm>::clone(&self.crm), life: Arc::clone(life) });
        IncomingParts {
            decider: Arc::new(Decider::new(Arc::clone(&crm), Arc::new(CrmIndex(Arc::clone(&crm))))),
            crm,
            state: Arc::new(MortalState { inner: Arc::new(self.state.clone()), life: Arc::clone(life) }),
            clock: Arc::<TokioClock>::clone(&self.clock),
            entropy: Arc::new(SeededEntropy::new(1)),
            observer: Arc::<Heard>::clone(&self.heard),
            guard: Arc::default(),
        }
    }

    pub async fn view(&self) -> OrganizationView {
        OrganizationView::load(&*self.crm).await.unwrap()
    }

    /// One pass that says how it ended.
    pub async fn try_pass(&self, route: &IncomingRoute) -> (PassReport, Result<()>) {
        let parts = self.parts(&Life::until(Point::Never));
        parts.run(route, &self.view().await, &self.stop.subscribe()).await
    }

    /// One pass that ends well.
    pub async fn pass(&self, route: &IncomingRoute) -> PassReport {
        let (report, result) = self.try_pass(route).await;
        result.unwrap();
        report
    }

    /// A pass that is killed there; `false` when it ended before.
    pub async fn killed_pass(&self, route: &IncomingRoute, life: &Arc<Life>) -> bool {
        let parts = self.parts(life);
        let view = self.view().await;
        let mortal = IncomingRoute {
            mailbox: route.mailbox.clone(),
            record: route.record.clone(),
            transport: Arc::new(MortalTransport {
                inner: Arc::clone(&route.transport),
                life: Arc::clone(life),
            }),
            source: route.source.clone(),
            settings: route.settings.clone(),
            polling_period: route.polling_period,
            notify: route.notify,
            server: route.server.clone(),
            fingerprint: route.fingerprint,
        };
        life.live(parts.run(&mortal, &view, &self.stop.subscribe())).await.is_none()
    }

    /// A router of this name on the stores of this world, which dies with `life`.
    pub fn router(&self, holder: &str, seed: u64, life: &Arc<Life>) -> Arc<Router> {
        let crm: Arc<dyn CrmClient> =
            Arc::new(MortalCrm { inner: Arc::<MemoryCrm>::clone(&self.crm), life: Arc::clone(life) });
        Arc::new(Router::new(RouterParts {
            index: Arc::new(CrmIndex(Arc::clone(&crm))),
            crm,
            state: Arc::new(MortalState { inner: Arc::new(self.state.clone()), life: Arc::clone(life) }),
            clock: Arc::<TokioClock>::clone(&self.clock),
            entropy: Arc::new(SeededEntropy::new(seed)),
            observer: Arc::<Heard>::clone(&self.heard),
            holder: holder.to_owned(),
            signer: ReferenceSigner::new("k".repeat(32).into()).ok(),
        }))
    }

    /// A router that lives on.
    pub fn immortal(&self, holder: &str) -> Arc<Router> {
        self.router(holder, 1, &Life::until(Point::Never))
    }

    pub async fn quarantine(&self) -> Vec<QuarantineItem> {
        self.state.quarantine_list(0, usize::MAX).await.unwrap()
    }

    /// Classes in the quarantine, oldest first.
    pub async fn classes(&self) -> Vec<String> {
        self.quarantine().await.into_iter().map(|q| q.class).collect()
    }

    pub async fn attempts(&self, place: &Place, id: &RemoteId) -> Option<u32> {
        let seen = self.state.seen(place.id(), std::slice::from_ref(id)).await.unwrap();
        seen[0].as_ref().map(|s| s.attempts)
    }
}

/// What is left in a mailbox: subjects, oldest first.
pub fn subjects(system: &MemoryTransport, place: &Place) -> Vec<String> {
    system
        .messages(place.id())
        .iter()
        .map(|m| m.message.headers().get("Subject").unwrap_or_default())
        .collect()
}

/// A message from bob with this subject, which makes its Message-ID too.
pub fn mail(subject: &str) -> RawMessage {
    mail_from("bob@contoso.example", subject)
}

/// One that no filter accepts: it has no valid sender.
pub fn junk(subject: &str) -> RawMessage {
    mail_from("root@localhost", subject)
}

pub fn mail_from(from: &str, subject: &str) -> RawMessage {
    RawMessage::new(format!(
        "From: {from}\r\nTo: ann@fabrikam.example\r\nSubject: {subject}\r\nMessage-ID: <{subject}@contoso.example>\r\n\
         Date: Sun, 1 Mar 2026 10:00:00 +0000\r\n\r\nhello\r\n"
    ))
}

/// The same with so many bytes of body.
pub fn large(message: &RawMessage, size: usize) -> RawMessage {
    let line = b"0123456789012345678901234567890123456789012345678901234567890 \r\n";
    let mut bytes = message.bytes().to_vec();
    bytes.extend(line.iter().cycle().take(size));
    RawMessage::new(bytes)
}

/// POP3's way: dispositions at close, nothing but delete.
pub fn like_pop3() -> MemoryTransport {
    let mut capability = MemoryTransport::new().capability();
    capability.dispose_at_close = true;
    capability.mark_read = false;
    capability.move_to_folder = false;
    MemoryTransport::with_capability(capability)
}

/// The same without UIDL: listing reads every header section.
pub fn costly_to_list() -> MemoryTransport {
    let mut capability = like_pop3().capability();
    capability.costly_listing = true;
    MemoryTransport::with_capability(capability)
}

// ------------------------------------------------------------------------------------------------------------- watching

/// What a [`Watched`] transport saw and does.
#[derive(Debug, Default)]
pub struct Watch {
    open: AtomicUsize,
    most_open: AtomicUsize,
    opened: Mutex<Vec<(MailboxId, Instant)>>,
    /// Opening takes this long.
    pub open_takes: Mutex<Duration>,
    /// Submitting takes this long.
    pub submit_takes: Mutex<Duration>,
    /// Fetching in these mailboxes takes this long.
    pub fetch_takes: Mutex<HashMap<MailboxId, Duration>>,
    /// Listing each message takes this long.
    pub listing_takes: Mutex<Duration>,
    /// Each message is listed with this size.
    pub listed_size: Mutex<Option<u64>>,
    /// Fetching this message panics, as a fault of the program would.
    pub panic_at: Mutex<Option<RemoteId>>,
}

impl Watch {
    /// Most sessions that were open at the same time.
    pub fn most_open(&self) -> usize {
        self.most_open.load(Ordering::SeqCst)
    }
    /// When a mailbox was opened, or tried to, in seconds since `since`.
    pub fn opened(&self, mailbox: &MailboxId, since: Instant) -> Vec<u64> {
        let opened = self.opened.lock().unwrap();
        opened.iter().filter(|(id, _)| id == mailbox).map(|(_, at)| (*at - since).as_secs()).collect()
    }
    /// How often any mailbox was opened.
    pub fn count(&self) -> usize {
        self.opened.lock().unwrap().len()
    }
    pub fn fetching_takes(&self, mailbox: &MailboxId, time: Duration) {
        self.fetch_takes.lock().unwrap().insert(mailbox.clone(), time);
    }
}

/// A transport that is watched and slowed down.
#[derive(Debug)]
pub struct Watched<T> {
    pub inner: T,
    pub watch: Arc<Watch>,
}

impl<T: fmt::Display> fmt::Display for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

type Mailed<T> = email_router_transport::Result<T>;

struct Gauge(Arc<Watch>);

impl Gauge {
    fn new(watch: &Arc<Watch>) -> Self {
        let open = watch.open.fetch_add(1, Ordering::SeqCst) + 1;
        watch.most_open.fetch_max(open, Ordering::SeqCst);
        Self(Arc::clone(watch))
    }
}
impl Drop for Gauge {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl<T: Transport> Transport for Watched<T> {
    fn capability(&self) -> Capability {
        self.inner.capability()
    }
    async fn probe(&self, mailbox: &Mailbox, access: Access) -> Mailed<Probe> {
        self.inner.probe(mailbox, access).await
    }
    async fn receive(&self, mailbox: &Mailbox, options: ReceiveOptions) -> Mailed<Box<dyn Inbox>> {
        let gauge = Gauge::new(&self.watch);
        self.watch.opened.lock().unwrap().push((mailbox.id.clone(), Instant::now()));
        let takes = *self.watch.open_takes.lock().unwrap();
        tokio::time::sleep(takes).await;
        let inner = self.inner.receive(mailbox, options).await?;
        Ok(Box::new(WatchedInbox {
            inner,
            mailbox: mailbox.id.clone(),
            watch: Arc::clone(&self.watch),
            gauge,
        }))
    }
    async fn submit(&self, sender: &Mailbox, message: &Outbound, options: SubmitOptions) -> Mailed<Receipt> {
        let takes = *self.watch.submit_takes.lock().unwrap();
        tokio::time::sleep(takes).await;
        self.inner.submit(sender, message, options).await
    }
    async fn find_submitted(&self, sender: &Mailbox, message_id: &MessageId) -> Mailed<Option<bool>> {
        self.inner.find_submitted(sender, message_id).await
    }
    async fn wait_for_mail(&self, mailbox: &Mailbox, limit: Duration) -> Mailed<bool> {
        self.inner.wait_for_mail(mailbox, limit).await
    }
}

struct WatchedInbox {
    inner: Box<dyn Inbox>,
    mailbox: MailboxId,
    watch: Arc<Watch>,
    gauge: Gauge,
}

#[async_trait]
impl Inbox for WatchedInbox {
    async fn next(&mut self) -> Mailed<Option<Stub>> {
        let takes = *self.watch.listing_takes.lock().unwrap();
        tokio::time::sleep(takes).await;
        let mut stub = self.inner.next().await?;
        if let (Some(stub), Some(size)) = (&mut stub, *self.watch.listed_size.lock().unwrap()) {
            stub.size = Some(size);
        }
        Ok(stub)
    }
    async fn prefetch(&mut self, wanted: &[(RemoteId, Part)]) -> Mailed<()> {
        self.inner.prefetch(wanted).await
    }
    async fn headers(&mut self, id: &RemoteId) -> Mailed<Bytes> {
        self.inner.headers(id).await
    }
    async fn fetch(&mut self, id: &RemoteId) -> Mailed<RawMessage> {
        let takes = self.watch.fetch_takes.lock().unwrap().get(&self.mailbox).copied();
        if let Some(takes) = takes {
            tokio::time::sleep(takes).await;
        }
        let poison = self.watch.panic_at.lock().unwrap().as_ref() == Some(id);
        assert!(!poison, "a planned panic");
        self.inner.fetch(id).await
    }
    fn resume_token(&mut self) -> Option<Bytes> {
        self.inner.resume_token()
    }
    async fn dispose(&mut self, id: &RemoteId, what: Disposition) -> Mailed<()> {
        self.inner.dispose(id, what).await
    }
    async fn close(self: Box<Self>) -> Mailed<()> {
        let Self { inner, gauge, .. } = *self;
        let result = inner.close().await;
        drop(gauge);
        result
    }
}
