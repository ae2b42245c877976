//! The outgoing side of the router: for each mail server one pass after the other over its senders, all servers side by side.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use email_router_model::{Classified as _, Retry, Timestamp};
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::watch;
use tokio::time::Instant;

use super::backoff::{self, jittered};
use super::outgoing_backoff::{OutgoingBackoff, Turn};
use super::plan::{OutgoingLane, Plan};
use super::{Router, pass_error};
use crate::outgoing::{OutgoingPass, OutgoingReport, Sender, SenderReport, Slots};
use crate::ports::{Event, ProviderDirection, ProviderEvent};
use crate::{Error, Result};

/// Submissions at the same time to one mail server; the transports have their own limits.
const SUBMISSIONS: usize = 16;

/// How long what is in flight at the end of a pass may go on. Transports end every step by a deadline of their own (RFC 5321 4.5.3.2 has
/// them at ten minutes at the most), so this cuts off only a server that drips.
const IN_FLIGHT: Duration = Duration::from_secs(30 * 60);

/// For how long the lease is taken at a time. It is prolonged five times as often while mail is sent.
const LEASE: Duration = Duration::from_secs(5 * 60);

/// What passes leave to later ones, those of the next plan included.
#[derive(Debug, Default)]
pub(super) struct OutgoingMemory {
    backoff: Mutex<OutgoingBackoff>,
    /// How many plans are at work: the current one, and old ones of which something is in flight.
    at_work: AtomicUsize,
}

/// What was done for all senders.
#[derive(Debug, Default)]
pub(super) struct OutgoingEnd {
    pub(super) report: OutgoingReport,
    /// Senders that failed, and why.
    pub(super) failures: Vec<(String, String)>,
    /// Why a whole lane was given up; the first of these.
    pub(super) error: Option<Error>,
}

/// What the lanes of a plan share.
struct Shared<'a> {
    stop: &'a watch::Receiver<bool>,
    limit: Duration,
    slots: Slots,
    memory: &'a OutgoingMemory,
    /// Come again after this, until `stop`; `None`: once is enough.
    again: Option<Duration>,
}

/// Why the lanes of a plan are no longer at work.
enum Halt {
    /// Another router has the lease.
    NotOurs,
    /// The lease was lost, or the state store cannot tell.
    Lost(Error),
}

impl Router {
    /// One pass over all senders of the plan.
    pub(super) async fn run_outgoing(&self, plan: &Plan, stop: &watch::Receiver<bool>) -> OutgoingEnd {
        match self.lanes(plan, stop, &OutgoingMemory::default(), None).await {
            Ok(end) => end,
            Err(Halt::NotOurs) => OutgoingEnd::default(),
            Err(Halt::Lost(error)) => OutgoingEnd { error: Some(error), ..OutgoingEnd::default() },
        }
    }

    /// Sends until `stop`, for the plan of the time.
    pub(super) async fn outgoing_loop(
        self: Arc<Self>,
        mut plans: watch::Receiver<Arc<Plan>>,
        mut stop: watch::Receiver<bool>,
    ) {
        let memory = OutgoingMemory::default();
        // an old plan ends what it has in flight, for which the new one need not wait: they never meet over an e-mail
        let mut at_work = FuturesUnordered::new();
        loop {
            let plan = Arc::clone(&plans.borrow_and_update());
            let (retire, retired) = watch::channel(*stop.borrow());
            at_work.push(self.send_for(plan, retired, &memory));
            let goes_on = loop {
                tokio::select! {
                    changed = plans.changed() => break changed.is_ok(),
                    () = super::stopped(&mut stop) => break false,
                    Some(()) = at_work.next() => {}
                }
            };
            retire.send_replace(true);
            if !goes_on {
                break;
            }
        }
        while at_work.next().await.is_some() {}
    }

    /// Sends for one plan until it is retired; while another router has the lease, looks every period whether it still has.
    async fn send_for(&self, plan: Arc<Plan>, mut retired: watch::Receiver<bool>, memory: &OutgoingMemory) {
        let period = plan.schedule.outgoing_period;
        let mut failures = 0;
        while !*retired.borrow() {
            let wait = match self.lanes(&plan, &retired, memory, Some(period)).await {
                Ok(_) => return, // no lane ends before it is retired
                Err(Halt::NotOurs) => {
                    tracing::debug!("another router sends for this organization");
                    period
                }
                Err(Halt::Lost(error)) => {
                    failures += 1;
                    tracing::warn!(%error, "mail cannot be sent now");
                    backoff::delay(&error, failures, period, &*self.parts.entropy)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(jittered(wait, &*self.parts.entropy)) => {}
                () = super::stopped(&mut retired) => {}
            }
        }
    }

    /// Works on all lanes of a plan side by side, under the lease.
    async fn lanes(
        &self,
        plan: &Plan,
        stop: &watch::Receiver<bool>,
        memory: &OutgoingMemory,
        again: Option<Duration>,
    ) -> Result<OutgoingEnd, Halt> {
        if plan.outgoing.is_empty() {
            if again.is_some() {
                super::stopped(&mut stop.clone()).await;
            }
            return Ok(OutgoingEnd::default());
        }
        let lease = format!("outgoing {}", self.parts.crm.organization_id().as_uuid());
        match self.take_lease(&lease).await {
            Ok(true) => {}
            Ok(false) => return Err(Halt::NotOurs),
            Err(error) => return Err(Halt::Lost(error)),
        }
        let shared = Shared {
            stop,
            limit: plan.schedule.max_thread_execution,
            slots: Slots::of(plan.outgoing.iter().map(|r| &r.transport)),
            memory,
            again,
        };
        shared.backoff().take_over(&plan.outgoing, Instant::now());
        memory.at_work.fetch_add(1, Ordering::SeqCst);
        let lanes = plan.outgoing_lanes();
        let ended = tokio::select! {
            ends = join_all(lanes.iter().map(|lane| self.lane(lane, &shared))) => {
                let mut sum = OutgoingEnd::default();
                ends.into_iter().for_each(|end| sum.add(end));
                Ok(sum)
            }
            // whoever has the lease next takes an open entry of the ledger for left behind
            () = self.keep_lease(&lease) => Err(Halt::Lost(pass_error(
                "sending was cut off since another router may have taken over; what was in flight is found out",
            ))),
        };
        if memory.at_work.fetch_sub(1, Ordering::SeqCst) == 1
            && let Err(error) = self.parts.state.lease_release(&lease, &self.parts.holder).await
        {
            tracing::warn!(%error, "the lease for sending could not be given back; it runs out by itself");
        }
        ended
    }

    async fn take_lease(&self, lease: &str) -> Result<bool> {
        let now = self.parts.clock.now();
        let until = now.saturating_add(LEASE).unwrap_or(Timestamp::MAX);
        Ok(self.parts.state.lease_acquire(lease, &self.parts.holder, now, until).await?)
    }

    /// Prolongs the lease; comes back when it is lost, or may be.
    async fn keep_lease(&self, lease: &str) {
        let mut taken = Instant::now();
        loop {
            tokio::time::sleep(LEASE / 5).await;
            match self.take_lease(lease).await {
                Ok(true) => taken = Instant::now(),
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(%error, "the lease for sending could not be prolonged; it is tried again");
                    if taken.elapsed() + LEASE / 5 >= LEASE {
                        return;
                    }
                }
            }
        }
    }

    /// The passes over one lane.
    async fn lane(&self, lane: &OutgoingLane<'_>, shared: &Shared<'_>) -> OutgoingEnd {
        let pass = OutgoingPass::new(
            Arc::clone(&self.parts.crm),
            Arc::clone(&self.parts.state),
            Arc::clone(&self.parts.clock),
            Arc::clone(&self.parts.entropy),
            Arc::clone(&self.parts.observer),
            lane.settings.clone(),
        )
        .with_concurrency(SUBMISSIONS)
        .with_in_flight(&self.in_flight)
        .with_slots(&shared.slots)
        .with_signer(self.parts.signer.clone());
        let (mut passes, mut failures) = (0_usize, 0_u32);
        loop {
            let mut end = OutgoingEnd::default();
            let senders = shared.senders(lane, passes);
            passes = passes.wrapping_add(1);
            let run = pass.run(&senders, shared.stop, Some(Instant::now() + shared.limit));
            // a panic is a fault of ours that must not end the outgoing side
            let run =
                tokio::time::timeout(shared.limit + IN_FLIGHT, AssertUnwindSafe(run).catch_unwind()).await;
            let report = run.map_or_else(
                |_| Err(pass_error("sending was cut off after MaxThreadExecution and half an hour; the next pass finds out what went out")),
                |ended| ended.unwrap_or_else(|_| Err(pass_error("sending ended in a panic, which is a fault of this program; the next pass goes on"))),
            );
            let accounted = match report {
                Ok(report) => self.account_outgoing(lane, report, shared, &mut end).await,
                Err(error) => Err(error),
            };
            let period = shared.again.unwrap_or_default();
            let wait = match accounted {
                Ok(()) => {
                    failures = 0;
                    period
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    if error.retry() == Retry::Never {
                        tracing::error!(server = %lane.server, %error, "mail cannot be sent");
                    } else {
                        tracing::warn!(server = %lane.server, %error, "mail cannot be sent now");
                    }
                    let wait = backoff::delay(&error, failures, period, &*self.parts.entropy);
                    end.error = Some(error);
                    wait
                }
            };
            if shared.again.is_none() {
                return end;
            }
            let mut stop = shared.stop.clone();
            tokio::select! {
                () = tokio::time::sleep(jittered(wait, &*self.parts.entropy)) => {}
                () = super::stopped(&mut stop) => return end,
            }
        }
    }

    /// Tells everybody what a pass did for each sender, and remembers it for the next.
    async fn account_outgoing(
        &self,
        lane: &OutgoingLane<'_>,
        report: OutgoingReport,
        shared: &Shared<'_>,
        sum: &mut OutgoingEnd,
    ) -> Result<()> {
        let period = shared.again.unwrap_or_default();
        let quiet = lane.settings.pending_status_delay.mul_f64(1.25);
        let now = Instant::now();
        let mut result = Ok(());
        for sender in &report.senders {
            let (left_alone, troubled) = {
                let mut backoff = shared.backoff();
                let delay = backoff.learn(sender, &lane.server, (period, quiet), now, &*self.parts.entropy);
                (delay, backoff.is_troubled(&sender.mailbox, &lane.server))
            };
            let idle = sender.worked() == 0 && (sender.recovered == 0 || troubled);
            let written = if sender.error.is_none() && idle {
                if troubled || sender.left_alone {
                    continue;
                }
                self.board.outgoing_idle(&sender.mailbox, shared.again).await
            } else {
                self.tell_outgoing(lane, sender, left_alone, sum);
                let next = shared.again.map(|again| left_alone.unwrap_or_default().max(again));
                let error = sender.error.as_ref().map(ToString::to_string);
                self.board.outgoing(&sender.mailbox, sender.sent + sender.failed, error, next).await
            };
            // the others are accounted all the same
            result = result.and(written);
        }
        sum.report.add(report);
        result
    }

    fn tell_outgoing(
        &self,
        lane: &OutgoingLane<'_>,
        sender: &SenderReport,
        left_alone: Option<Duration>,
        sum: &mut OutgoingEnd,
    ) {
        let mailbox = &sender.mailbox;
        let what = match &sender.error {
            Some(error) => {
                let seconds = left_alone.unwrap_or_default().as_secs();
                tracing::warn!(
                    %mailbox, %error, hint = error.hint().unwrap_or_default(), left_alone_for = seconds,
                    "mail could not be sent"
                );
                sum.failures.push((mailbox.to_string(), error.to_string()));
                self.parts.observer.event(&Event::PassFailed {
                    mailbox,
                    direction: ProviderDirection::Outgoing,
                    transport: &lane.server,
                    error,
                });
                ProviderEvent::Failed
            }
            None => ProviderEvent::Executed,
        };
        for what in [ProviderEvent::Started, what] {
            self.parts.observer.event(&Event::Provider {
                mailbox,
                direction: ProviderDirection::Outgoing,
                what,
            });
        }
    }
}

impl Shared<'_> {
    fn backoff(&self) -> MutexGuard<'_, OutgoingBackoff> {
        self.memory.backoff.lock().unwrap_or_else(PoisonError::into_inner) // each entry is whole after any panic
    }

    /// Who is served now, beginning with other senders each time, so that passes that come only to some starve nobody.
    fn senders(&self, lane: &OutgoingLane<'_>, passes: usize) -> Vec<Sender> {
        let (backoff, now) = (self.backoff(), Instant::now());
        let served = lane.routes.iter().filter_map(|route| {
            let cautious = match backoff.turn(&route.mailbox.id, &lane.server, now) {
                Turn::Served => None,
                Turn::Cautiously(scope) => Some(scope),
                Turn::LeftAlone(_) => return None,
            };
            Some(Sender {
                mailbox: route.mailbox.clone(),
                record: route.record.clone(),
                transport: Arc::clone(&route.transport),
                cautious,
            })
        });
        let mut senders: Vec<Sender> = served.collect();
        let first = passes.wrapping_mul(lane.settings.batch_size.max(1));
        if let Some(first) = first.checked_rem(senders.len()) {
            senders.rotate_left(first);
        }
        senders
    }
}

impl OutgoingEnd {
    fn add(&mut self, other: Self) {
        self.report.add(other.report);
        self.failures.extend(other.failures);
        self.error = self.error.take().or(other.error);
    }
}
