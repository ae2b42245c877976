//! Scheduling: which pass runs when, how many at once, what happens after a failure, and how everything stops.
//!
//! The [`Router`] owns no mailbox and no connection between two passes; ten thousand idle mailboxes cost a few megabytes.

pub mod backoff;
mod notify;
mod outgoing_backoff;
mod outgoing_task;
mod plan;
mod scheduler;
mod status;

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use email_router_crm::CrmClient;
use email_router_model::{Classified, Clock, Entropy, MailboxId, Scope, Timestamp};
use email_router_transport::ErrorKind as TransportErrorKind;
use futures_util::FutureExt as _;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::notify::Watchers;
pub use self::plan::{IncomingRoute, OutgoingRoute, Plan, Schedule, Server};
use self::scheduler::Scheduler;
use self::status::StatusBoard;
use crate::decide::{Decider, OrganizationView};
use crate::incoming::{IncomingParts, PassReport, transport_kind};
use crate::outgoing::InFlight;
use crate::ports::{CorrelationIndex, Event, Observer, ProviderDirection, ProviderEvent, StateStore};
use crate::reference::ReferenceSigner;
use crate::{Error, ErrorKind, Result};

/// What a router works with.
#[derive(Debug, Clone)]
pub struct RouterParts {
    /// The CRM.
    pub crm: Arc<dyn CrmClient>,
    /// Where correlation looks.
    pub index: Arc<dyn CorrelationIndex>,
    /// What is remembered.
    pub state: Arc<dyn StateStore>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Jitter.
    pub entropy: Arc<dyn Entropy>,
    /// Hears what happens.
    pub observer: Arc<dyn Observer>,
    /// Names this router in leases: the same after a restart on the same machine, different from every other router.
    pub holder: String,
    /// Signs references in outgoing mail and recognises them in answers. Without one, answers are found by their ids alone.
    pub signer: Option<ReferenceSigner>,
}

/// The running router: passes over mailboxes, and the outgoing loop.
#[derive(Debug)]
pub struct Router {
    parts: RouterParts,
    incoming: IncomingParts,
    view: Arc<ViewCache>,
    board: StatusBoard,
    in_flight: InFlight,
}

/// What a run did, all passes together.
#[derive(Debug, Default)]
pub struct RunReport {
    /// Incoming messages.
    pub incoming: PassReport,
    /// Outgoing e-mails tried.
    pub outgoing: crate::outgoing::OutgoingReport,
    /// Passes that failed: the mailbox and why.
    pub failures: Vec<(String, String)>,
}

/// Settings, users and queues as they were last read.
#[derive(Debug)]
struct ViewCache {
    crm: Arc<dyn CrmClient>,
    cached: Mutex<Option<CachedView>>,
}

#[derive(Debug)]
struct CachedView {
    view: Arc<OrganizationView>,
    read: Instant,
    /// Somebody knows that the CRM has another one.
    outdated: bool,
    /// When reading it again failed last.
    failed: Option<Instant>,
}

/// How long a view that could not be read again is used before that is tried once more.
const VIEW_RETRY: Duration = Duration::from_secs(10);

impl ViewCache {
    async fn renew(&self) {
        if let Some(known) = &mut *self.cached.lock().await {
            (known.outdated, known.failed) = (true, None);
        }
    }

    /// Asks the CRM now, and unlike [`Self::get`] fails when the CRM does.
    async fn ask(&self) -> Result<Arc<OrganizationView>> {
        let mut cached = self.cached.lock().await;
        let view = Arc::new(OrganizationView::load(&*self.crm).await?);
        let read = Instant::now();
        *cached = Some(CachedView { view: Arc::clone(&view), read, outdated: false, failed: None });
        Ok(view)
    }

    async fn get(&self, max_age: Duration) -> Result<Arc<OrganizationView>> {
        let mut cached = self.cached.lock().await;
        if let Some(known) = &*cached {
            let fresh = !known.outdated && known.read.elapsed() < max_age;
            if fresh || known.failed.is_some_and(|at| at.elapsed() < VIEW_RETRY.min(max_age)) {
                return Ok(Arc::clone(&known.view));
            }
        }
        match (OrganizationView::load(&*self.crm).await, &mut *cached) {
            (Ok(view), cached) => {
                let view = Arc::new(view);
                let read = Instant::now();
                *cached = Some(CachedView { view: Arc::clone(&view), read, outdated: false, failed: None });
                Ok(view)
            }
            (Err(error), Some(known)) => {
                tracing::warn!(%error, "settings, users and queues could not be read from the CRM again; the old ones stay in use until they can");
                known.failed = Some(Instant::now());
                Ok(Arc::clone(&known.view))
            }
            (Err(error), None) => Err(error),
        }
    }
}

/// How a pass ended.
struct PassEnd {
    route: Arc<IncomingRoute>,
    report: PassReport,
    result: Result<()>,
    aborted: bool,
    skipped: bool,
    /// It was to find out whether CRM and state store are back, and both answered.
    asked: bool,
}

/// The first delay after a failure of the CRM or the state store.
const BACKEND_PERIOD: Duration = Duration::from_secs(5);

/// So often that delay is doubled; then it is 80 seconds, since one question does no harm and everybody waits for the answer.
const BACKEND_DOUBLINGS: u32 = 4;

impl Router {
    /// A router that is not running yet.
    #[must_use]
    pub fn new(parts: RouterParts) -> Self {
        let decider = Decider::new(Arc::clone(&parts.crm), Arc::clone(&parts.index));
        let incoming = IncomingParts {
            crm: Arc::clone(&parts.crm),
            decider: Arc::new(decider.with_signer(parts.signer.clone())),
            state: Arc::clone(&parts.state),
            clock: Arc::clone(&parts.clock),
            entropy: Arc::clone(&parts.entropy),
            observer: Arc::clone(&parts.observer),
            guard: Arc::default(),
        };
        let board = StatusBoard::new(Arc::clone(&parts.state), Arc::clone(&parts.clock));
        let view = Arc::new(ViewCache { crm: Arc::clone(&parts.crm), cached: Mutex::new(None) });
        Self { parts, incoming, view, board, in_flight: InFlight::default() }
    }

    /// What routes single messages: backfill, retry from quarantine, explain.
    #[must_use]
    pub fn incoming(&self) -> &IncomingParts {
        &self.incoming
    }

    /// Settings, users and queues of the organization, read again when the last reading is older than `max_age`.
    ///
    /// # Errors
    /// What the CRM said, when nothing was ever read. A failed re-reading keeps the old view, logs a warning and is tried again after some
    /// seconds.
    pub async fn view(&self, max_age: Duration) -> Result<Arc<OrganizationView>> {
        self.view.get(max_age).await
    }

    /// Makes the next use read settings, users and queues again, however new they are.
    pub async fn renew_view(&self) {
        self.view.renew().await;
    }

    /// Reads every mailbox once and sends what is pending, then returns.
    ///
    /// # Errors
    /// Only what stops everything: the CRM cannot be read at all, the state store fails. What happened to single mailboxes is in the report.
    pub async fn run_once(&self, plan: &Plan, stop: &watch::Receiver<bool>) -> Result<RunReport> {
        let mut report = RunReport::default();
        self.view(Duration::ZERO).await?;
        self.board.load(plan).await?;

        let mut scheduler = Scheduler::default();
        scheduler.replace(&plan.incoming, Instant::now(), Duration::ZERO, &*self.parts.entropy);
        let mut passes = JoinSet::new();
        let mut untried: HashSet<MailboxId> = plan.incoming.iter().map(|r| r.mailbox.id.clone()).collect();
        // Each mailbox has its one turn: it becomes due again only in a time that this run does not reach.
        let never = Duration::from_secs(365 * 24 * 3600);
        let mut backend_failure = None;
        loop {
            while passes.len() < plan.schedule.max_threads.max(1) && !*stop.borrow() {
                let Some(route) = scheduler.next(Instant::now()) else { break };
                untried.remove(&route.mailbox.id);
                self.start_pass(&mut passes, route, false, &plan.schedule, stop);
            }
            let Some(end) = passes.join_next().await else { break };
            let Ok(end) = end else { continue };
            let now = Instant::now();
            let more = end.has_more() && !*stop.borrow();
            match &end.result {
                Err(error) if error.kind() == ErrorKind::State => {
                    return Err(Error::message(error.to_string()));
                }
                Err(error) if error.backend_failed() => {
                    backend_failure.get_or_insert_with(|| error.to_string());
                    scheduler.backend_failed(&end.route, never, now)
                }
                Err(error) if end.server_failed(error) => scheduler.server_failed(&end.route, never, now),
                _ if more => scheduler.succeeded(&end.route, true, now, &*self.parts.entropy),
                _ => scheduler.failed(&end.route, end.answered(), 1, never, now),
            };
            self.account(&end, None).await?;
            add(&mut report.incoming, &end.report);
            if more {
                // what is left over is counted by the pass that takes it up
                report.incoming.backlog -= end.report.backlog;
                report.incoming.listed -= end.report.listed;
            }
            if let Err(error) = end.result {
                report.failures.push((end.route.mailbox.id.as_str().to_owned(), error.to_string()));
            }
        }
        if !*stop.borrow() {
            for route in plan.incoming.iter().filter(|r| untried.contains(&r.mailbox.id)) {
                let text = match &backend_failure {
                    Some(failure) => format!("not read, since the CRM failed for another mailbox: {failure}"),
                    None => format!("not read, since {} failed for another mailbox", route.server.name),
                };
                report.failures.push((route.mailbox.id.as_str().to_owned(), text));
            }
        }
        if !*stop.borrow() {
            let end = self.run_outgoing(plan, stop).await;
            report.outgoing = end.report;
            report.failures.extend(end.failures);
            match end.error {
                Some(error) if error.kind() == ErrorKind::State => return Err(error),
                Some(error) => report.failures.push(("outgoing mail".to_owned(), error.to_string())),
                None => {}
            }
        }
        Ok(report)
    }

    /// Runs until `stop` becomes true, then lets passes finish for [`Schedule::stop_grace`] and abandons what is left (which the crash
    /// tables cover). Takes over each new plan as it comes.
    ///
    /// # Errors
    /// What keeps the router from starting: the CRM cannot be read, the state store fails.
    pub async fn run(
        self: Arc<Self>,
        mut plans: watch::Receiver<Arc<Plan>>,
        stop: watch::Receiver<bool>,
    ) -> Result<()> {
        let mut plan = Arc::clone(&plans.borrow_and_update());
        self.view(Duration::ZERO).await?;
        self.board.load(&plan).await?;
        // in a set, so that it ends with this future, however that ends
        let mut outgoing = JoinSet::new();
        outgoing.spawn(Arc::clone(&self).outgoing_loop(plans.clone(), stop.clone()));

        let mut scheduler = Scheduler::default();
        self.take_over(&mut scheduler, &plan);
        let (mut watchers, mut arrivals) = Watchers::new(Arc::clone(&self.parts.entropy));
        watchers.replace(&plan.incoming);
        let mut passes: JoinSet<PassEnd> = JoinSet::new();
        let mut tick = tokio::time::interval(plan.schedule.scheduling_period.max(Duration::from_millis(10)));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut stopping = stop.clone();
        let mut board_is_old = false;
        tracing::info!(mailboxes = scheduler.len(), outgoing = plan.outgoing.len(), "routing");
        loop {
            tokio::select! {
                () = stopped(&mut stopping) => break,
                _ = tick.tick() => {
                    self.parts.observer.event(&Event::SchedulingCycle);
                    if board_is_old {
                        board_is_old = self.board.load(&plan).await.is_err();
                    }
                }
                changed = plans.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    let before = std::mem::replace(&mut plan, Arc::clone(&plans.borrow_and_update()));
                    self.senders_changed(&before, &plan);
                    if let Err(error) = self.board.load(&plan).await {
                        tracing::warn!(%error, "the statuses of a new plan could not be recorded; it is tried again");
                        board_is_old = true;
                    }
                    self.take_over(&mut scheduler, &plan);
                    watchers.replace(&plan.incoming);
                    tick = tokio::time::interval(plan.schedule.scheduling_period.max(Duration::from_millis(10)));
                    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                }
                Some(mailbox) = arrivals.recv() => scheduler.wake(&mailbox, Instant::now()),
                Some(ended) = passes.join_next() => {
                    if let Ok(end) = ended {
                        self.ended(&mut scheduler, end).await;
                    }
                }
                Some(ended) = outgoing.join_next() => {
                    // it ends by itself only when the router stops, which the other branches notice
                    if ended.is_err() {
                        tracing::error!("the outgoing side ended in a panic, which is a fault of this program; it is started again");
                        outgoing.spawn(Arc::clone(&self).outgoing_loop(plans.clone(), stop.clone()));
                    }
                }
            }
            while passes.len() < plan.schedule.max_threads.max(1) {
                let Some(route) = scheduler.next(Instant::now()) else { break };
                let probing = scheduler.is_probe(&route.mailbox.id);
                self.start_pass(&mut passes, route, probing, &plan.schedule, &stop);
            }
        }

        drop(watchers);
        tracing::info!(running = passes.len(), "stopping: passes that are running may finish");
        let drain = async {
            while let Some(ended) = passes.join_next().await {
                if let Ok(end) = ended {
                    self.ended(&mut scheduler, end).await;
                }
            }
            while outgoing.join_next().await.is_some() {}
        };
        if tokio::time::timeout(plan.schedule.stop_grace, drain).await.is_err() {
            tracing::warn!(
                "passes were abandoned after the grace period; the next start takes up what they left"
            );
        }
        Ok(())
    }

    fn take_over(&self, scheduler: &mut Scheduler, plan: &Plan) {
        let spread = Duration::from_secs(2).min(plan.schedule.scheduling_period * 2);
        let changes = scheduler.replace(&plan.incoming, Instant::now(), spread, &*self.parts.entropy);
        for mailbox in &changes.removed {
            self.provider(mailbox, ProviderDirection::Incoming, ProviderEvent::Removed);
        }
        for mailbox in &changes.refreshed {
            self.provider(mailbox, ProviderDirection::Incoming, ProviderEvent::Refreshed);
        }
    }

    /// Tells which senders a new plan takes away or changes; the next outgoing pass works by it.
    fn senders_changed(&self, before: &Plan, after: &Plan) {
        let now: HashMap<&MailboxId, u64> =
            after.outgoing.iter().map(|r| (&r.mailbox.id, r.fingerprint)).collect();
        for route in &before.outgoing {
            let what = match now.get(&route.mailbox.id) {
                None => ProviderEvent::Removed,
                Some(fingerprint) if *fingerprint != route.fingerprint => ProviderEvent::Refreshed,
                Some(_) => continue,
            };
            self.provider(&route.mailbox.id, ProviderDirection::Outgoing, what);
        }
    }

    fn provider(&self, mailbox: &MailboxId, direction: ProviderDirection, what: ProviderEvent) {
        self.parts.observer.event(&Event::Provider { mailbox, direction, what });
    }

    fn start_pass(
        &self,
        passes: &mut JoinSet<PassEnd>,
        route: Arc<IncomingRoute>,
        probing: bool,
        schedule: &Schedule,
        stop: &watch::Receiver<bool>,
    ) {
        let incoming = self.incoming.clone();
        let views = Arc::clone(&self.view);
        let stop = stop.clone();
        let (limit, max_age) = (schedule.max_thread_execution, schedule.config_update_period);
        let holder = self.parts.holder.clone();
        passes.spawn(async move {
            let lease = format!("incoming {}", route.mailbox.id);
            let now = incoming.clock.now();
            let until = now.saturating_add(limit + Duration::from_secs(60)).unwrap_or(Timestamp::MAX);
            let mut end = PassEnd { route, report: PassReport::default(), result: Ok(()), aborted: false, skipped: false, asked: false };
            let leased = incoming.state.lease_acquire(&lease, &holder, now, until).await;
            if let Ok(false) = leased {
                tracing::debug!(mailbox = %end.route.mailbox.id, "another router reads this mailbox");
                end.skipped = true;
                return end;
            }
            // told of every pass of which the end will be told, so that the two can be counted against each other
            let started = Event::Provider { mailbox: &end.route.mailbox.id, direction: ProviderDirection::Incoming, what: ProviderEvent::Started };
            incoming.observer.event(&started);
            if let Err(error) = leased {
                end.result = Err(error.into());
                return end;
            }
            let pass = async {
                let view = if probing { views.ask().await? } else { views.get(max_age).await? };
                end.asked = probing;
                let result = incoming.pass(&end.route, &view, &stop, &mut end.report).await;
                if end.report.view_outdated {
                    views.renew().await;
                }
                result
            };
            // A panic is a fault of ours that one message brings out: the mailbox must not stay marked as running for ever, and the
            // attempts that were begun lead to the message being parked.
            let run = tokio::time::timeout(limit, AssertUnwindSafe(pass).catch_unwind()).await;
            (end.result, end.aborted) = match run {
                Ok(Ok(result)) => (result, false),
                Ok(Err(_)) => (Err(pass_error("ended in a panic, which is a fault of this program; the message in hand is parked if that happens again")), false),
                Err(_) => {
                    let seconds = limit.as_secs();
                    (Err(pass_error(&format!("stopped after {seconds} s (MaxThreadExecution); what was done is recorded, the next pass goes on"))), true)
                }
            };
            if let Err(error) = incoming.state.lease_release(&lease, &holder).await {
                tracing::warn!(%error, mailbox = %end.route.mailbox.id, "the lease could not be given back; it runs out by itself");
            }
            end
        });
    }

    async fn ended(&self, scheduler: &mut Scheduler, end: PassEnd) {
        let (now, entropy) = (Instant::now(), &*self.parts.entropy);
        let route = &*end.route;
        if end.asked && !end.result.as_ref().is_err_and(Error::backend_failed) {
            scheduler.backend_answered();
        }
        let next = match &end.result {
            Ok(()) if end.skipped => {
                scheduler.untried(route, backoff::jittered(route.polling_period, entropy), now)
            }
            Ok(()) => scheduler.succeeded(route, end.has_more(), now, entropy),
            Err(error) if error.backend_failed() => {
                let failures = (scheduler.backend_failures() + 1).min(BACKEND_DOUBLINGS + 1);
                let delay = backoff::delay(error, failures, BACKEND_PERIOD, entropy);
                scheduler.backend_failed(route, delay, now)
            }
            Err(error) if end.server_failed(error) => {
                let delay = backoff::delay(
                    error,
                    scheduler.server_failures(&route.server.name) + 1,
                    route.polling_period,
                    entropy,
                );
                scheduler.server_failed(route, delay, now)
            }
            Err(error) => {
                // a mailbox too full for one pass is no failing mailbox as long as each pass gets on
                let failures = if end.aborted && end.report.processed > 0 {
                    0
                } else {
                    scheduler.failures(&route.mailbox.id)
                };
                let delay = backoff::delay(error, failures + 1, route.polling_period, entropy);
                scheduler.failed(route, end.answered(), failures + 1, delay, now)
            }
        };
        let next = next.map(|at| at.saturating_duration_since(now));
        if let Err(error) = self.account(&end, next).await {
            tracing::warn!(%error, "the status of a mailbox could not be recorded");
        }
    }

    async fn account(&self, end: &PassEnd, next: Option<Duration>) -> Result<()> {
        if end.skipped {
            return Ok(());
        }
        let id = &end.route.mailbox.id;
        match &end.result {
            Ok(()) => {
                self.provider(id, ProviderDirection::Incoming, ProviderEvent::Executed);
                let r = &end.report;
                self.parts.observer.event(&Event::Backlog { mailbox: id, messages: r.backlog + r.deferred });
                tracing::debug!(
                    mailbox = %id, listed = r.listed, delivered = r.delivered, discarded = r.discarded,
                    undeliverable = r.undeliverable, left_alone = r.left_alone, deferred = r.deferred,
                    backlog = r.backlog, "the mailbox was read"
                );
            }
            Err(error) => {
                self.parts.observer.event(&Event::PassFailed {
                    mailbox: id,
                    direction: ProviderDirection::Incoming,
                    transport: &end.route.server.name,
                    error,
                });
                let what = if end.aborted { ProviderEvent::Aborted } else { ProviderEvent::Failed };
                self.provider(id, ProviderDirection::Incoming, what);
                tracing::warn!(mailbox = %id, %error, hint = error.hint().unwrap_or_default(), "the mailbox could not be read");
            }
        }
        self.board.incoming(id, &end.report, end.result.as_ref().err(), next).await
    }
}

impl PassEnd {
    /// There is more to do, and going on at once leads somewhere.
    fn has_more(&self) -> bool {
        self.result.is_ok() && !self.skipped && self.report.backlog > 0 && self.report.processed > 0
    }

    /// The whole server is to be left alone.
    fn server_failed(&self, error: &Error) -> bool {
        error.scope() == Scope::Server && error.kind() == ErrorKind::Transport
    }

    /// The mail server said something, so that it is known to be alive. Silence and a lost connection are no answer.
    fn answered(&self) -> bool {
        let answer = match &self.result {
            Ok(()) => true,
            Err(error) => transport_kind(error).is_some_and(|kind| {
                !matches!(kind, TransportErrorKind::ConnectionLost | TransportErrorKind::Timeout)
            }),
        };
        self.report.listed > 0 || (!self.skipped && !self.aborted && answer)
    }
}

/// The error of a pass that did not come to its end.
fn pass_error(text: &str) -> Error {
    email_router_transport::Error::new(email_router_transport::ErrorKind::Timeout, text).into()
}

/// Waits until the router shall stop. Its own function, so that the guard of the value never lives in a task that moves between threads.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // an error means that nobody can say stop any more: the owner is gone, so stop
    let _ = stop.wait_for(|stop| *stop).await;
}

impl RunReport {
    /// Adds what another run did.
    pub fn add(&mut self, other: Self) {
        let Self { incoming, outgoing, failures } = other;
        add(&mut self.incoming, &incoming);
        self.outgoing.add(outgoing);
        self.failures.extend(failures);
    }
}

fn add(sum: &mut PassReport, one: &PassReport) {
    let PassReport {
        listed,
        processed,
        delivered,
        discarded,
        undeliverable,
        left_alone,
        deferred,
        backlog,
        view_outdated,
    } = one;
    sum.listed += listed;
    sum.processed += processed;
    sum.delivered += delivered;
    sum.discarded += discarded;
    sum.undeliverable += undeliverable;
    sum.left_alone += left_alone;
    sum.deferred += deferred;
    sum.backlog += backlog;
    sum.view_outdated |= view_outdated;
}
