//! A pass: rounds over the senders until nothing is pending.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use email_router_crm::{CrmClient, PendingEmail, PendingQuery};
use email_router_model::{
    ActivityId, Classified as _, Clock, Entropy, Mailbox, MailboxId, RecordRef, RemoteId, Scope,
};
use email_router_transport::Transport;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::Instant;
use tracing::Instrument as _;

use super::compose::ComposeOptions;
use super::report::OutgoingReport;
use crate::ports::{Observer, StateStore};
use crate::reference::ReferenceSigner;
use crate::settings::OutgoingSettings;
use crate::{Error, Result};

/// Somebody whose mail is sent.
#[derive(Debug, Clone)]
pub struct Sender {
    /// The mailbox it is sent from.
    pub mailbox: Mailbox,
    /// The user or queue in the CRM.
    pub record: RecordRef,
    /// The mail system that takes it. Senders whose transports have one `Display` share a server: when it fails for one of them,
    /// the others are left alone too.
    pub transport: Arc<dyn Transport>,
    /// `Some(Scope::Mailbox)`: nothing of it went out lately, so its e-mails are tried one after the other until one had its turn without an
    /// error that concerns the others too. `Some(Scope::Server)`: the same for all senders of its mail system together.
    pub cautious: Option<Scope>,
}

/// How many more submissions each mail system can work on. Passes side by side that share one keep its limit together.
#[derive(Debug, Clone, Default)]
pub struct Slots(HashMap<String, Arc<Semaphore>>);

impl Slots {
    /// The limits of these mail systems, by their `Display`; of several with one name the smallest.
    #[must_use]
    pub fn of<'a>(transports: impl IntoIterator<Item = &'a Arc<dyn Transport>>) -> Self {
        let mut most: HashMap<String, usize> = HashMap::new();
        for transport in transports {
            if let Some(limit) = transport.capability().concurrent_submissions {
                let of = most.entry(transport.to_string()).or_insert(usize::MAX);
                *of = (*of).min(limit.max(1));
            }
        }
        let slots =
            most.into_iter().map(|(name, n)| (name, Arc::new(Semaphore::new(n.min(Semaphore::MAX_PERMITS)))));
        Self(slots.collect())
    }
}

/// The e-mails that passes of this process have in hand. Passes that share one never meet over an e-mail, whatever their settings.
#[derive(Debug, Clone, Default)]
pub struct InFlight(Arc<Mutex<HashSet<ActivityId>>>);

/// Sends what is pending in the CRM. Several of them that work on one organization must share their [`InFlight`].
pub struct OutgoingPass {
    pub(super) crm: Arc<dyn CrmClient>,
    pub(super) state: Arc<dyn StateStore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) settings: OutgoingSettings,
    concurrency: usize,
    in_flight: InFlight,
    signer: Option<ReferenceSigner>,
    slots: Option<Slots>,
}

impl OutgoingPass {
    /// A pass with these parts; it submits four e-mails at the same time.
    #[must_use]
    pub fn new(
        crm: Arc<dyn CrmClient>,
        state: Arc<dyn StateStore>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        observer: Arc<dyn Observer>,
        settings: OutgoingSettings,
    ) -> Self {
        Self {
            crm,
            state,
            clock,
            entropy,
            observer,
            settings,
            concurrency: 4,
            in_flight: InFlight::default(),
            signer: None,
            slots: None,
        }
    }

    /// The same, signing references with this key.
    #[must_use]
    pub fn with_signer(mut self, signer: Option<ReferenceSigner>) -> Self {
        self.signer = signer;
        self
    }

    /// The same with another number of e-mails submitted at the same time, at least 1.
    #[must_use]
    pub fn with_concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = concurrency.max(1);
        self
    }

    /// The same, sharing what is in flight with other passes.
    #[must_use]
    pub fn with_in_flight(mut self, in_flight: &InFlight) -> Self {
        self.in_flight = in_flight.clone();
        self
    }

    /// The same, sharing the limits of mail systems with other passes. Without, each run keeps them for itself.
    #[must_use]
    pub fn with_slots(mut self, slots: &Slots) -> Self {
        self.slots = Some(slots.clone());
        self
    }

    /// Ends what earlier passes left behind, then sends what is pending for these senders, in rounds of `batch_size` senders and
    /// `request_batch_size` e-mails of each, until nothing is pending, `stop` holds `true`, or `deadline` is over. Then it finishes
    /// what is in flight and begins nothing new. The caller holds the leases of the senders.
    ///
    /// Dropping the future is safe at any moment: it is the crash that [the table](super) describes.
    ///
    /// # Errors
    /// The CRM or the state store failed. What a mail system says is in the report instead, with the sender it concerns.
    pub async fn run(
        &self,
        senders: &[Sender],
        stop: &watch::Receiver<bool>,
        deadline: Option<Instant>,
    ) -> Result<OutgoingReport> {
        let run = Run::new(self, senders, stop, deadline);
        self.recover_in(&run).await?;
        let organization = self.crm.settings().await?;
        let options = ComposeOptions {
            organization: self.crm.organization_id(),
            max_message_bytes: self.settings.max_message_bytes,
            signer: self.signer.clone(),
        };
        for (n, sender) in senders.iter().enumerate() {
            if !sender.transport.capability().submit {
                // known before a claim, so no attempt is used up for it
                run.halt(n, email_router_transport::contract::unsupported(&sender.transport, "send").into());
            }
        }
        let how = How { with_token: organization.use_tracking_token, options };
        let mut tried = HashSet::new();
        let mut active: Vec<usize> = (0..senders.len()).collect();
        while !active.is_empty() && !run.ends() {
            let mut more = Vec::new();
            for group in active.chunks(self.settings.batch_size.max(1)) {
                if run.ends() {
                    break;
                }
                self.round(&run, &how, group, &mut tried, &mut more).await;
            }
            active = more;
        }
        run.finish()
    }

    /// Ends what an earlier run of these senders left open in the ledger, so that it need not wait for `SendingStatusDelay`. Sends
    /// nothing. [`Self::run`] begins with it.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn recover(
        &self,
        senders: &[Sender],
        stop: &watch::Receiver<bool>,
        deadline: Option<Instant>,
    ) -> Result<OutgoingReport> {
        let run = Run::new(self, senders, stop, deadline);
        self.recover_in(&run).await?;
        run.finish()
    }

    async fn recover_in(&self, run: &Run<'_>) -> Result<()> {
        let of: HashMap<&MailboxId, usize> =
            run.senders.iter().enumerate().map(|(n, s)| (&s.mailbox.id, n)).collect();
        let open = self.state.ledger_open().await?;
        let mine = open.into_iter().filter_map(|entry| Some((*of.get(&entry.mailbox)?, entry)));
        futures_util::stream::iter(mine)
            .map(|(sender, entry)| async move {
                if run.ends() || run.halted(sender) {
                    return;
                }
                let Some(_flight) = self.take_off(entry.activity_id) else { return };
                let span = super::send::email_span(&entry.mailbox, &entry.activity_id);
                if let Err(error) = self.end_entry(run, sender, &entry).instrument(span).await {
                    run.abort(error);
                }
            })
            .buffer_unordered(self.concurrency)
            .collect::<()>()
            .await;
        Ok(())
    }

    /// One round over one group of senders; adds those that may have more to `more`.
    async fn round(
        &self,
        run: &Run<'_>,
        how: &How,
        group: &[usize],
        tried: &mut HashSet<ActivityId>,
        more: &mut Vec<usize>,
    ) {
        let group: Vec<usize> = group.iter().copied().filter(|&n| !run.halted(n)).collect();
        if group.is_empty() {
            return;
        }
        let per_sender = self.settings.request_batch_size.max(1);
        let query = PendingQuery {
            senders: group.iter().map(|&n| run.senders[n].record.clone()).collect(),
            per_sender,
            now: self.clock.now(),
            stale_after: self.settings.sending_status_delay,
        };
        let listed = match self.crm.pending_outgoing(&query).await {
            Ok(listed) => listed,
            Err(error) => return run.abort(error.into()),
        };
        let mut queues: Vec<Vec<PendingEmail>> = vec![Vec::new(); group.len()];
        let mut full = vec![0; group.len()];
        for email in listed {
            let Some(n) = group.iter().position(|&s| run.senders[s].record == email.sender) else { continue };
            full[n] += 1;
            // what had its turn in this pass waits for the next, however often it is listed
            if tried.insert(email.activity_id) {
                queues[n].push(email);
            }
        }
        for (n, queue) in queues.iter().enumerate() {
            if full[n] >= per_sender && !queue.is_empty() {
                more.push(group[n]);
            }
        }
        let work = take_turns(&group, queues);
        let notes: Vec<RemoteId> = work.iter().map(|(_, email)| claim_note(email, 1)).collect();
        let noted = self.claims();
        if let Err(error) = self.state.begin(&noted, &notes, query.now).await {
            return run.abort(error.into());
        }
        let (left_behind, work): (Vec<_>, Vec<_>) = work.into_iter().partition(|(_, email)| email.stale);
        let (mut confident, mut doubtful) = (Vec::new(), vec![Vec::new(); run.senders.len()]);
        for (sender, email) in work {
            match run.caution(sender) {
                Some(Scope::Server) => self.turn(run, how, sender, &email).await,
                Some(_) => doubtful[sender].push(email),
                None => confident.push((sender, email)),
            }
        }
        let first = doubtful.into_iter().enumerate().filter(|(_, emails)| !emails.is_empty());
        let left: Vec<Vec<(usize, PendingEmail)>> = futures_util::stream::iter(first)
            .map(|(sender, emails)| async move {
                let mut emails = emails.into_iter();
                while run.caution(sender).is_some()
                    && let Some(email) = emails.next()
                {
                    self.turn(run, how, sender, &email).await;
                }
                emails.map(|email| (sender, email)).collect()
            })
            .buffer_unordered(self.concurrency)
            .collect()
            .await;
        confident.extend(left.into_iter().flatten());
        futures_util::stream::iter(confident)
            .map(|(sender, email)| async move { self.turn(run, how, sender, &email).await })
            .buffer_unordered(self.concurrency)
            .collect::<()>()
            .await;
        // one of them may have killed the process: alone, so that it takes nobody along
        for (sender, email) in left_behind {
            self.turn(run, how, sender, &email).await;
        }
        if !run.aborted() {
            // an aborted round may have left an e-mail in Sending, of which the note is the only evidence
            if let Err(error) = self.state.unbegin(&noted, &notes).await {
                run.abort(error.into());
            }
        }
    }

    /// The turn of one e-mail, unless its sender was halted meanwhile.
    async fn turn(&self, run: &Run<'_>, how: &How, sender: usize, email: &PendingEmail) {
        if run.ends() || run.halted(sender) {
            return;
        }
        // before the claim: what waits for a connection is not begun, so a crash leaves less in doubt
        let slot = run.slot(sender).await;
        if run.ends() || run.halted(sender) {
            return;
        }
        let Some(_flight) = self.take_off(email.activity_id) else { return };
        // a panic is a fault of ours that this e-mail brings out: what else is being submitted must not be cut off by it
        let sent = AssertUnwindSafe(self.send(run, how, sender, email)).catch_unwind().await;
        drop(slot);
        match sent {
            Ok(Ok(())) => run.prove(sender),
            Ok(Err(error)) => run.abort(error),
            Err(_) => {
                let text = format!(
                    "sending {} ended in a panic, which is a fault of this program; the other e-mails go on",
                    email.activity_id
                );
                tracing::error!(activity = %email.activity_id, "{text}");
                run.halt(sender, Error::message(text));
            }
        }
    }

    /// Where the state store keeps the notes of claims.
    pub(super) fn claims(&self) -> MailboxId {
        MailboxId::new(format!("outgoing claims of {}", self.crm.organization_id().as_uuid()))
    }

    /// Marks an e-mail as in flight; `None` when another pass of this process has it.
    fn take_off(&self, id: ActivityId) -> Option<Flight<'_>> {
        // built only when it is ours: dropping one takes the mark away, which is another's
        self.flying().insert(id).then(|| Flight { pass: self, id })
    }

    fn flying(&self) -> MutexGuard<'_, HashSet<ActivityId>> {
        self.in_flight.0.lock().unwrap_or_else(PoisonError::into_inner) // a set is whole after any panic
    }
}

impl fmt::Debug for OutgoingPass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutgoingPass")
            .field("crm", &self.crm)
            .field("settings", &self.settings)
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}

/// The note that says: this attempt was claimed by us. `ahead` is 1 before the claim and 0 for an e-mail found in Sending.
pub(super) fn claim_note(email: &PendingEmail, ahead: u32) -> RemoteId {
    RemoteId::new(format!("{}/{}", email.activity_id, email.delivery_attempts.saturating_add(ahead)))
}

/// One e-mail of each sender, then the next of each.
fn take_turns(group: &[usize], queues: Vec<Vec<PendingEmail>>) -> Vec<(usize, PendingEmail)> {
    let mut queues: Vec<_> = group.iter().copied().zip(queues.into_iter().map(Vec::into_iter)).collect();
    let mut work = Vec::new();
    loop {
        let before = work.len();
        for (sender, queue) in &mut queues {
            work.extend(queue.next().map(|email| (*sender, email)));
        }
        if work.len() == before {
            return work;
        }
    }
}

/// What holds for all e-mails of a run.
pub(super) struct How {
    pub(super) with_token: bool,
    pub(super) options: ComposeOptions,
}

/// An e-mail in flight, until dropped.
struct Flight<'a> {
    pass: &'a OutgoingPass,
    id: ActivityId,
}
impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.pass.flying().remove(&self.id);
    }
}

/// One run: whose, until when, and what came of it.
pub(super) struct Run<'a> {
    pub(super) senders: &'a [Sender],
    stop: &'a watch::Receiver<bool>,
    deadline: Option<Instant>,
    progress: Mutex<Progress>,
    slots: Slots,
}

struct Progress {
    report: OutgoingReport,
    halted: HashSet<usize>,
    dead_systems: HashSet<String>,
    /// Those that had failed before and took something now.
    proven_systems: HashSet<String>,
    abort: Option<Error>,
}

impl<'a> Run<'a> {
    fn new(
        pass: &OutgoingPass,
        senders: &'a [Sender],
        stop: &'a watch::Receiver<bool>,
        deadline: Option<Instant>,
    ) -> Self {
        let report = OutgoingReport::new(senders.iter().map(|s| s.mailbox.id.clone()));
        let progress = Progress {
            report,
            halted: HashSet::new(),
            dead_systems: HashSet::new(),
            proven_systems: HashSet::new(),
            abort: None,
        };
        let slots = pass.slots.clone().unwrap_or_else(|| Slots::of(senders.iter().map(|s| &s.transport)));
        Self { senders, stop, deadline, progress: Mutex::new(progress), slots }
    }

    /// Waits until the mail system of this sender can work on one submission more.
    async fn slot(&self, sender: usize) -> Option<SemaphorePermit<'_>> {
        let slots = self.slots.0.get(&self.senders[sender].transport.to_string())?;
        slots.acquire().await.ok() // never closed
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner) // counters are right after any panic
    }

    /// Nothing new begins.
    pub(super) fn ends(&self) -> bool {
        let over = *self.stop.borrow() || self.deadline.is_some_and(|d| Instant::now() >= d);
        let mut progress = self.progress();
        progress.report.ended_early |= over;
        over || progress.abort.is_some()
    }

    fn aborted(&self) -> bool {
        self.progress().abort.is_some()
    }

    fn halted(&self, sender: usize) -> bool {
        let mut progress = self.progress();
        if progress.halted.contains(&sender) {
            return true;
        }
        let dead = !progress.dead_systems.is_empty()
            && progress.dead_systems.contains(&self.senders[sender].transport.to_string());
        if dead {
            progress.report.senders[sender].left_alone = true;
        }
        dead
    }

    /// How far the sender is not to be trusted with several e-mails at once.
    fn caution(&self, sender: usize) -> Option<Scope> {
        let of = &self.senders[sender];
        let caution = of.cautious?;
        let progress = self.progress();
        let proven = match caution {
            Scope::Server => progress.proven_systems.contains(&of.transport.to_string()),
            _ => progress.report.senders[sender].worked() > 0,
        };
        (!proven).then_some(caution)
    }

    /// An e-mail of this sender had its turn.
    fn prove(&self, sender: usize) {
        let of = &self.senders[sender];
        let mut progress = self.progress();
        let went = progress.report.senders[sender].worked() > 0 && !progress.halted.contains(&sender);
        if went && of.cautious == Some(Scope::Server) {
            progress.proven_systems.insert(of.transport.to_string());
        }
    }

    /// An error of the mail system that concerns more than one e-mail: leaves the rest of the sender, or of the server, alone.
    pub(super) fn halt(&self, sender: usize, error: Error) {
        let mut progress = self.progress();
        progress.halted.insert(sender);
        if error.scope() == Scope::Server {
            progress.dead_systems.insert(self.senders[sender].transport.to_string());
        }
        progress.report.senders[sender].error.get_or_insert(error);
    }

    /// An error that ends the whole run.
    fn abort(&self, error: Error) {
        self.progress().abort.get_or_insert(error);
    }

    pub(super) fn report(&self, change: impl FnOnce(&mut OutgoingReport)) {
        change(&mut self.progress().report);
    }

    fn finish(self) -> Result<OutgoingReport> {
        let progress = self.progress.into_inner().unwrap_or_else(PoisonError::into_inner);
        match progress.abort {
            Some(error) => Err(error),
            None => Ok(progress.report),
        }
    }
}
