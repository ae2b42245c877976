//! One pass over one mailbox: list, judge, deliver, record, dispose, close.
//!
//! The order is fixed: the CRM has the message, then it is recorded, only then it is touched at its source.
//!
//! # Crash table
//!
//! What a restart finds after a crash (kill -9, power) between two steps, and what it does.
//!
//! | the crash came after | the restart finds | and does |
//! |---|---|---|
//! | lease taken | a lease that runs out | waits for the lease, or takes it at once with the same holder name |
//! | attempt noted ([`StateStore::begin`]) | a message with one attempt more and no end | routes it again, alone; after [`IncomingSettings::max_attempts`] parks it, which stops a message that kills the process; if even parking kills it, the next time without reading it |
//! | body fetched, decision made | the same | routes it again; deciding changes nothing |
//! | delivered to the CRM | an activity with the derived id | decides *duplicate of itself*, records it as delivered; nothing is created twice |
//! | put into quarantine | an item for (mailbox, remote id) | puts it again, which replaces it |
//! | kept as *partial* (a message beyond the caps, before it is delivered) | the same | puts it again, which replaces it, and delivers |
//! | recorded ([`StateStore::settle`]) | an end with a disposition, the message still at its source | does the disposition, routes nothing |
//! | disposed of, not closed | as before where disposing takes effect at close (POP3), else the message is gone | as before, else nothing |
//! | closed, not forgotten ([`StateStore::forget`]) | the message is gone or kept | nothing; the record of a gone message is dropped at the next listing |

mod forward;

use std::collections::HashSet;
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use email_router_crm::{CrmClient, Delivered, DeliveryReport, IncomingEmail};
use email_router_model::{
    Classified, Clock, Entropy, Headers, MailboxId, MailboxKind, RawMessage, RemoteId, Retry, Scope,
    Timestamp,
};
use email_router_transport::{
    Capability, Disposition, ErrorKind as TransportErrorKind, Inbox, Part, ReceiveOptions, Stub,
};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::Instrument as _;
use tracing::field::Empty;

use self::forward::{Carry, Unwrapped};
use crate::decide::{Decider, Decision, MailboxContext, OrganizationView};
use crate::guard::LoopGuard;
use crate::guard::limits::Suspect;
use crate::message::Message;
use crate::ports::{DecisionNote, Event, Observer, QuarantineItem, SeenMessage, Settled, StateStore};
use crate::record::{DecisionRecord, ReasonCode, Verdict, WrittenRecord};
use crate::router::IncomingRoute;
use crate::router::backoff;
use crate::{Error, ErrorKind, IncomingSettings, KeepDecisions, Result};

/// Messages whose attempts are noted, prefetched, recorded and disposed of together.
const WINDOW: usize = 32;

/// A message that failed waits at least this long before it is tried again.
const FIRST_RETRY: Duration = Duration::from_secs(60);

/// Users and queues that were read again in a pass are new enough for so long.
const RENEW_AGAIN: Duration = Duration::from_secs(10);

/// What a pass works with; shared by all passes.
#[derive(Debug, Clone)]
pub struct IncomingParts {
    /// The CRM.
    pub crm: Arc<dyn CrmClient>,
    /// Decides about messages.
    pub decider: Arc<Decider>,
    /// What is remembered.
    pub state: Arc<dyn StateStore>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Jitter.
    pub entropy: Arc<dyn Entropy>,
    /// Hears what happens.
    pub observer: Arc<dyn Observer>,
    /// Holds back what looks like a loop.
    pub guard: Arc<LoopGuard>,
}

/// What a pass did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PassReport {
    /// Messages in the mailbox.
    pub listed: u64,
    /// Messages settled in this pass.
    pub processed: u64,
    /// Of these, delivered to the CRM.
    pub delivered: u64,
    /// Of these, discarded.
    pub discarded: u64,
    /// Of these, put into quarantine.
    pub undeliverable: u64,
    /// Of these, too old.
    pub left_alone: u64,
    /// Failed for now.
    pub deferred: u64,
    /// Not settled and not waiting for a retry: what the next pass has to do.
    pub backlog: u64,
    /// The CRM has users or queues that the view did not know, which was therefore read again.
    pub view_outdated: bool,
}

/// What became of one message.
#[derive(Debug)]
pub struct Routed {
    /// The decision.
    pub record: DecisionRecord,
    /// It could not be read as a message.
    pub corrupt: bool,
}

/// A candidate of this pass.
struct Candidate {
    stub: Stub,
    /// Attempts that were begun and did not end.
    attempts: u32,
    /// An earlier pass worked on it and may have delivered it.
    tried: bool,
    part: Part,
}

/// What was read of a message, for the quarantine and the note of the decision.
#[derive(Default)]
struct Read {
    headers: Option<Bytes>,
    whole: Option<RawMessage>,
}

impl Read {
    /// The header section, where anything was read.
    fn header(&self) -> Option<&[u8]> {
        let whole = self.whole.as_ref().map(|raw| Headers::new(raw.bytes()).as_bytes());
        whole.or(self.headers.as_deref())
    }
}

impl IncomingParts {
    /// Runs one pass. The report tells what was done also when an error ended the pass.
    ///
    /// Stops between two messages when `stop` becomes true; what is in flight is finished.
    pub async fn run(
        &self,
        route: &IncomingRoute,
        view: &OrganizationView,
        stop: &watch::Receiver<bool>,
    ) -> (PassReport, Result<()>) {
        let mut report = PassReport::default();
        let result = self.pass(route, view, stop, &mut report).await;
        (report, result)
    }

    /// As [`Self::run`]; `report` is kept up to date all the time, for a caller that drops the future.
    pub(crate) async fn pass(
        &self,
        route: &IncomingRoute,
        view: &OrganizationView,
        stop: &watch::Receiver<bool>,
        report: &mut PassReport,
    ) -> Result<()> {
        let mut options = ReceiveOptions::default();
        options.max_message_bytes = route.settings.max_message_bytes;
        options.max_header_bytes = route.settings.caps.max_header_bytes as u64;
        let opened = route.transport.receive(&route.mailbox, options).await.map_err(Error::from);
        self.observer
            .event(&Event::MailboxAccess { mailbox: &route.mailbox.id, error: opened.as_ref().err() });
        let mut inbox = opened?;

        let mut session = Session {
            parts: self,
            route,
            view,
            renewed: None,
            capability: route.transport.capability(),
            inbox: &mut *inbox,
            report,
            removed: Vec::new(),
        };
        let routed = session.route_all(stop).await;
        let removed = session.removed;
        let closed = match &routed {
            Err(error) if error.kind() == ErrorKind::Transport => return routed,
            _ => inbox.close().await,
        };
        match (closed, routed) {
            (Ok(()), routed) => {
                // Certainly gone now, so an id of these that is listed again is another message (some servers give the number of a
                // message as its id): it must not be taken for the one that was removed.
                if !removed.is_empty() {
                    self.state.forget(&route.mailbox.id, &removed).await?;
                }
                routed
            }
            (Err(closing), Ok(())) => Err(closing.into()),
            // Where the session itself is in order, what was disposed of so far shall take effect (POP3 deletes at QUIT). Whether it
            // does changes nothing: the next pass disposes again.
            (Err(closing), routed) => {
                tracing::debug!(mailbox = %route.mailbox.id, error = %closing, "the session could not be closed");
                routed
            }
        }
    }

    /// Judges and, unless `dry_run`, delivers one message that is at hand: backfill, retry from quarantine, `explain`.
    ///
    /// `accept_anyway` delivers it to the mailbox's owner whatever the filters say (release from quarantine). Without it, what is no
    /// message at all is [`Verdict::Undeliverable`], and the caller keeps it.
    ///
    /// # Errors
    /// Whatever the CRM says; the message is untouched then.
    pub async fn route_one(
        &self,
        view: &OrganizationView,
        context: &MailboxContext<'_>,
        settings: &IncomingSettings,
        raw: &RawMessage,
        accept_anyway: bool,
        dry_run: bool,
    ) -> Result<Routed> {
        let span = message_span(&context.mailbox.id, None);
        let routed = async {
            let (record, corrupt) =
                match self.unwrap_at_hand(view, context, settings, raw, accept_anyway, dry_run).await? {
                    Some(record) => (record, false),
                    None => self.route_at_hand(view, context, settings, raw, accept_anyway, dry_run).await?,
                };
            tell(&record);
            if !dry_run && settings.decisions != KeepDecisions::None {
                let note = DecisionNote {
                    at: self.clock.now(),
                    mailbox: context.mailbox.id.clone(),
                    received: raw.received,
                    record: record.clone(),
                    header: settings.decisions.header(Some(Headers::new(raw.bytes()).as_bytes())),
                };
                self.state.note_decisions(&[note]).await?;
            }
            Ok(Routed { record, corrupt })
        };
        routed.instrument(span).await
    }

    /// The decision about a message at hand, carried out unless `dry_run`, and whether it could not be read.
    async fn route_at_hand(
        &self,
        view: &OrganizationView,
        context: &MailboxContext<'_>,
        settings: &IncomingSettings,
        raw: &RawMessage,
        accept_anyway: bool,
        dry_run: bool,
    ) -> Result<(DecisionRecord, bool)> {
        let message = Message::parse(raw, &settings.caps);
        let decision = if accept_anyway {
            self.decider.release(view, context, &message).await?
        } else {
            self.decider.decide(view, context, &message).await?
        };
        let corrupt = message.is_unreadable();
        let record = if corrupt && !accept_anyway {
            // discarded for want of a sender, but perhaps a message that was damaged on its way: as in a pass, a person looks at it
            DecisionRecord { verdict: Verdict::Undeliverable, ..decision.record }
        } else if dry_run {
            planned(view, settings, raw, &message, decision)?.record
        } else {
            self.carry_out(view, settings, raw, &message, decision).await?
        };
        Ok((record, corrupt))
    }

    /// The same for a wrapper at hand; `None` for any other message.
    async fn unwrap_at_hand(
        &self,
        view: &OrganizationView,
        context: &MailboxContext<'_>,
        settings: &IncomingSettings,
        raw: &RawMessage,
        accept_anyway: bool,
        dry_run: bool,
    ) -> Result<Option<DecisionRecord>> {
        if context.mailbox.kind != MailboxKind::Forward {
            return Ok(None);
        }
        let unwrapped = match dry_run {
            true => {
                let mut carry = forward::DryRun { view, settings };
                self.unwrap(view, context, settings, raw, accept_anyway, &mut carry).await?
            }
            false => {
                let mut carry = forward::AtHand { parts: self, view, settings };
                self.unwrap(view, context, settings, raw, accept_anyway, &mut carry).await?
            }
        };
        Ok(unwrapped.map(|u| u.record))
    }

    /// Does what a decision says to the CRM.
    async fn carry_out(
        &self,
        view: &OrganizationView,
        settings: &IncomingSettings,
        raw: &RawMessage,
        message: &Message,
        decision: Decision,
    ) -> Result<DecisionRecord> {
        self.write(planned(view, settings, raw, message, decision)?).await
    }

    /// Does to the CRM what is planned.
    async fn write(&self, planned: Planned) -> Result<DecisionRecord> {
        let Planned { mut record, email, report, .. } = planned;
        if let Some(report) = &report {
            self.report_delivery(report).await?;
        }
        if let Some(email) = email {
            let id = email.activity_id;
            let delivered = self.crm.deliver_incoming(email).await?;
            if delivered == Delivered::AlreadyThere && record.verdict == Verdict::Deliver {
                // another pass delivered the same message between our question and our delivery
                record.verdict = Verdict::Discard;
                record.reason = ReasonCode::Duplicate;
                record.because = format!("the CRM has it already as {id}");
            }
        }
        Ok(record)
    }

    /// Tells the CRM what a delivery report says. An e-mail that is gone by now has nobody to be told.
    async fn report_delivery(&self, report: &DeliveryReport) -> Result<()> {
        match self.crm.record_delivery(report).await {
            Ok(new) => {
                if new {
                    self.observer.event(&Event::DeliveryReported { report });
                }
                Ok(())
            }
            Err(error) if error.scope() == Scope::Message && error.retry() == Retry::Never => {
                tracing::warn!(activity = %report.activity_id, %error, "the CRM does not take a delivery report");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// What a decision comes to.
struct Planned {
    record: DecisionRecord,
    /// What is handed to the CRM: the e-mail, or the call that adds a queue item to one that is there.
    email: Option<IncomingEmail>,
    /// What the CRM is told about another e-mail.
    report: Option<DeliveryReport>,
    /// The message goes beyond a cap: the e-mail has not all of it.
    incomplete: bool,
}

fn planned(
    view: &OrganizationView,
    settings: &IncomingSettings,
    raw: &RawMessage,
    message: &Message,
    mut decision: Decision,
) -> Result<Planned> {
    let mut record = decision.record.clone();
    let report = decision.report.take();
    if decision.verdict != Verdict::Deliver {
        return Ok(Planned { record, email: decision.into_requeue(message), report, incomplete: false });
    }
    let content = message.content(raw, &settings.caps, view.settings());
    let incomplete = content.incomplete;
    let email = decision.into_email(view, message, content)?;
    record.written = Some(WrittenRecord {
        body_mime_type: email.body_mime_type.clone(),
        body_chars: email.body.chars().count(),
        attachments: email
            .attachments
            .iter()
            .map(|a| format!("{} ({}, {} bytes)", a.file_name, a.mime_type, a.content.len()))
            .collect(),
        removed_parts: email.removed_parts.clone(),
        category: email.category.clone(),
        subcategory: email.subcategory.clone(),
        new_sender: email.new_sender.as_ref().map(|new| new.record.clone()),
    });
    Ok(Planned { record, email: Some(email), report, incomplete })
}

/// One open mailbox.
struct Session<'a> {
    parts: &'a IncomingParts,
    route: &'a IncomingRoute,
    view: &'a OrganizationView,
    /// The view as it was read in the middle of this pass, and when.
    renewed: Option<(Instant, OrganizationView)>,
    capability: Capability,
    inbox: &'a mut dyn Inbox,
    report: &'a mut PassReport,
    /// Deleted or moved in this session; certain when it is closed.
    removed: Vec<RemoteId>,
}

/// Carries out decisions about messages of an open mailbox.
struct Live<'a> {
    parts: &'a IncomingParts,
    route: &'a IncomingRoute,
    view: &'a OrganizationView,
    /// An earlier pass worked on the message.
    tried: bool,
    /// The message as it was listed.
    stub: &'a Stub,
    /// How often it was begun.
    attempts: u32,
    /// Whether its id names it in other sessions too.
    stable_ids: bool,
}

impl Live<'_> {
    /// Keeps the bytes of a message whose activity has not all of it.
    async fn keep_whole(&self, raw: &RawMessage, message: &Message) -> Result<()> {
        let reason = "it goes beyond a limit of what is taken apart, so its activity has not all of it; the whole message is kept here until somebody deletes it";
        let attached = self.route.mailbox.kind == MailboxKind::Forward;
        let remote_id = match message.identity() {
            // several messages of one wrapper, or ids that change from session to session
            Some(identity) if attached || !self.stable_ids => RemoteId::new(identity),
            _ => self.stub.id.clone(),
        };
        let item = QuarantineItem {
            id: 0,
            mailbox: self.route.mailbox.id.clone(),
            remote_id,
            class: "partial".to_owned(),
            reason: reason.to_owned(),
            at: self.parts.clock.now(),
            attempts: self.attempts,
            size: Some(raw.size()),
            message_id: message.message_id.clone(),
            from: Some(message.from_field.clone()).filter(|f| !f.is_empty()),
            subject: Some(message.subject.clone()).filter(|s| !s.is_empty()),
            raw: Some(raw.bytes().clone()),
        };
        Ok(self.parts.state.quarantine_put(&item).await.map(drop)?)
    }
}

impl Carry for Live<'_> {
    async fn carry(
        &mut self,
        raw: &RawMessage,
        message: &Message,
        decision: Decision,
    ) -> Result<DecisionRecord> {
        if self.route.mailbox.kind == MailboxKind::Forward {
            forward::readable(message)?;
        }
        let (settings, now) = (self.view.settings(), self.parts.clock.now());
        let regarding = decision.record.regarding.clone();
        let sender = message.from.as_ref().and_then(|p| p.address.as_ref());
        let suspect = sender.filter(|_| decision.verdict == Verdict::Deliver).map(|sender| Suspect {
            sender,
            mailbox: &self.route.mailbox.id,
            regarding: regarding.as_ref(),
            correlated: decision.hit.as_ref().map(|hit| hit.email.activity_id),
            // what was held grew old by that, and is counted all the same
            received: self.stub.received.or(message.received).or(message.date).filter(|_| !self.tried),
        });
        if let Some(suspect) = &suspect
            && let Some(held) = self.parts.guard.held(settings, suspect, now)
        {
            let wait = held.until.duration_since(now).try_into().unwrap_or(FIRST_RETRY);
            return Err(Error::held(held.why, wait));
        }
        let planned = planned(self.view, &self.route.settings, raw, message, decision)?;
        if planned.incomplete {
            // before it is delivered: a crash between the two must not lose what the activity has not
            self.keep_whole(raw, message).await?;
        }
        let mut record = self.parts.write(planned).await?;
        if let (Some(suspect), Verdict::Deliver) = (&suspect, record.verdict) {
            self.parts.guard.count(settings, suspect, now);
        }
        // A message that was tried before and is now a duplicate of its own derived activity was delivered by the attempt that a
        // crash or the CRM's silence ended: it counts as delivered.
        let own = self.parts.decider.activity_id(self.view, message);
        if self.tried && record.reason == ReasonCode::Duplicate && own.is_some() && record.activity_id == own
        {
            record.verdict = Verdict::Deliver;
            "an earlier attempt delivered it before that could be recorded".clone_into(&mut record.because);
        }
        Ok(record)
    }
}

/// How one candidate ended.
enum End {
    Settled(Settled, Box<DecisionNote>),
    Deferred,
    Gone,
}

impl Session<'_> {
    async fn route_all(&mut self, stop: &watch::Receiver<bool>) -> Result<()> {
        self.still_served()?;
        let mailbox = &self.route.mailbox.id;
        let forgotten = self.parts.state.read_from(mailbox, &self.route.source).await?;
        if forgotten > 0 {
            tracing::warn!(
                %mailbox, source = self.route.source, forgotten,
                "the mailbox is read from another place than before, so what was remembered of its messages is forgotten; what the CRM has already is not delivered again"
            );
        }
        let mut left = self.route.settings.max_messages_per_cycle.max(1);
        let mut listed = Vec::new();
        loop {
            let (stubs, complete) = self.list().await?;
            self.report.listed += stubs.len() as u64;
            listed.extend(stubs.iter().map(|s| s.id.clone()));
            if complete {
                self.parts.state.forget_absent(mailbox, &listed).await?;
            }
            let mut candidates = self.candidates(stubs).await?;
            self.report.backlog += candidates.len() as u64;
            candidates.truncate(left);
            left -= candidates.len();
            if !candidates.is_empty() {
                self.route_candidates(candidates, stop).await?;
            }
            if complete || *stop.borrow() {
                return Ok(());
            }
            if left == 0 {
                // nobody knows how many there are, but that there are more
                self.report.backlog = self.report.backlog.max(1);
                return Ok(());
            }
        }
    }

    /// The next messages, and whether these are the last: all of them, or where each costs a read no more than are worked on together, so
    /// that a mailbox too large to be listed in one pass gets on all the same.
    async fn list(&mut self) -> Result<(Vec<Stub>, bool)> {
        let costly = self.capability.costly_listing;
        let mut stubs = Vec::new();
        while !costly || stubs.len() < WINDOW {
            let Some(mut stub) = self.inbox.next().await? else { return Ok((stubs, true)) };
            if !costly {
                // a whole mailbox of header sections would be too much
                stub.headers = None;
            }
            stubs.push(stub);
        }
        Ok((stubs, false))
    }

    /// Those that are to be routed now; what is settled already is disposed of.
    async fn candidates(&mut self, stubs: Vec<Stub>) -> Result<Vec<Candidate>> {
        if stubs.is_empty() {
            return Ok(Vec::new());
        }
        // Where an id may name another message in the next session, what was noted about it says nothing about this one; then the CRM
        // alone tells what was delivered before.
        let seen = match self.capability.stable_ids {
            true => {
                let ids: Vec<RemoteId> = stubs.iter().map(|s| s.id.clone()).collect();
                self.parts.state.seen(&self.route.mailbox.id, &ids).await?
            }
            false => vec![None; stubs.len()],
        };
        let now = self.parts.clock.now();
        let mut candidates = Vec::new();
        for (stub, seen) in stubs.into_iter().zip(seen) {
            match seen {
                Some(SeenMessage { settled: Some(settled), .. }) => self.dispose_again(&settled).await?,
                Some(SeenMessage { not_before: Some(not_before), .. }) if not_before > now => {
                    self.report.deferred += 1
                }
                seen => candidates.push(self.candidate(stub, seen.as_ref())),
            }
        }
        Ok(candidates)
    }

    async fn route_candidates(
        &mut self,
        candidates: Vec<Candidate>,
        stop: &watch::Receiver<bool>,
    ) -> Result<()> {
        let mailbox = &self.route.mailbox.id;
        let threshold = self.parts.state.threshold(mailbox).await?.max(self.route.settings.process_from);
        let mut windows = windows(candidates).into_iter().peekable();
        if let Some(first) = windows.peek() {
            self.inbox.prefetch(&wanted(first)).await?;
        }
        while let Some(window) = windows.next() {
            if *stop.borrow() {
                break;
            }
            // The next window is asked for before this one is worked on, so that the line is never silent. A hint touches nothing: work
            // on a message begins when its attempt is noted.
            if let Some(next) = windows.peek() {
                self.inbox.prefetch(&wanted(next)).await?;
            }
            self.route_window(window, threshold, stop).await?;
        }
        Ok(())
    }

    fn candidate(&self, stub: Stub, seen: Option<&SeenMessage>) -> Candidate {
        let (attempts, tried) = (seen.map_or(0, |s| s.attempts), seen.is_some());
        let large = stub.size.is_none_or(|size| size > self.route.settings.header_first_above);
        // of a wrapper the header section tells nothing about the message inside
        let wrapper = self.route.mailbox.kind == MailboxKind::Forward;
        let part =
            if large && self.capability.headers_alone && !wrapper { Part::Headers } else { Part::Whole };
        Candidate { stub, attempts, tried, part }
    }

    async fn route_window(
        &mut self,
        window: Vec<Candidate>,
        threshold: Option<Timestamp>,
        stop: &watch::Receiver<bool>,
    ) -> Result<()> {
        let mailbox = self.route.mailbox.id.clone();
        let ids: Vec<RemoteId> = window.iter().map(|c| c.stub.id.clone()).collect();
        self.parts.state.begin(&mailbox, &ids, self.parts.clock.now()).await?;
        let mut settled = Vec::with_capacity(window.len());
        let mut notes = Vec::with_capacity(window.len());
        let mut untouched: HashSet<RemoteId> = ids.into_iter().collect();
        let mut broken = None;
        for candidate in window {
            if *stop.borrow() {
                break;
            }
            let (id, attempts) = (candidate.stub.id.clone(), candidate.attempts + 1);
            let span = message_span(&mailbox, Some(&id));
            match self.route_candidate(candidate, threshold).instrument(span).await {
                Ok(End::Settled(end, note)) => {
                    untouched.remove(&id);
                    settled.push(end);
                    notes.push(*note);
                }
                Ok(End::Deferred | End::Gone) => {
                    untouched.remove(&id);
                }
                Err(error) => {
                    broken = Some((id, attempts, error));
                    break;
                }
            }
        }
        // Whatever ended the window: what is done is recorded, what was not touched gets its attempt back. The reasons come first: a crash
        // in between has them twice rather than not at all.
        if self.route.settings.decisions != KeepDecisions::None && !notes.is_empty() {
            self.parts.state.note_decisions(&notes).await?;
        }
        self.parts.state.settle(&mailbox, &settled).await?;
        self.report.processed += settled.len() as u64;
        self.report.backlog = self.report.backlog.saturating_sub(settled.len() as u64);
        if let Some((id, attempts, error)) = &broken {
            self.note_break(id, *attempts, error, &mut untouched).await?;
        }
        let untouched: Vec<RemoteId> = untouched.into_iter().collect();
        if !untouched.is_empty() {
            self.parts.state.unbegin(&mailbox, &untouched).await?;
        }
        if let Some((.., error)) = broken {
            return Err(error);
        }
        for end in &settled {
            self.dispose_again(end).await?;
        }
        Ok(())
    }

    /// Notes at the message in hand that the pass ended with it.
    ///
    /// A session that breaks while a message is read may break because of that message: the attempt counts and the next one waits, so
    /// that a message on which the server always hangs up does not keep the others from being read. When the CRM fails the message is
    /// not to blame; the note only says that it may have been delivered although no answer came.
    async fn note_break(
        &mut self,
        id: &RemoteId,
        attempts: u32,
        error: &Error,
        untouched: &mut HashSet<RemoteId>,
    ) -> Result<()> {
        let not_before = match error.kind() {
            ErrorKind::Transport if breaks_session(error) => {
                untouched.remove(id);
                self.report.deferred += 1;
                self.report.backlog = self.report.backlog.saturating_sub(1);
                self.retry_at(error, attempts)
            }
            ErrorKind::Crm => self.parts.clock.now(),
            _ => return Ok(()),
        };
        self.parts.state.note_failure(&self.route.mailbox.id, id, &error.to_string(), not_before).await?;
        Ok(())
    }

    /// When a message that failed for the `attempts`-th time is tried again.
    fn retry_at(&self, error: &Error, attempts: u32) -> Timestamp {
        let delay = backoff::delay(error, attempts, FIRST_RETRY, &*self.parts.entropy);
        self.parts.clock.now().saturating_add(delay).unwrap_or(Timestamp::MAX)
    }

    /// An error returned ends the pass; whatever concerns the message alone is dealt with here.
    async fn route_candidate(&mut self, candidate: Candidate, threshold: Option<Timestamp>) -> Result<End> {
        let started = Instant::now();
        let attempts = candidate.attempts + 1;
        let mut read = Read::default();
        let routed = match self.judge(&candidate, threshold, &mut read).await {
            Ok(routed) => routed,
            Err(error) if error.scope() > Scope::Message || error.kind() == ErrorKind::State => {
                return Err(error);
            }
            Err(error) => match self.message_failed(&candidate.stub, attempts, error, &read).await? {
                Some(routed) => Some(routed),
                None => return Ok(End::Deferred),
            },
        };
        let stub = candidate.stub;
        let Some(Routed { record, corrupt }) = routed else {
            tracing::debug!("the message is gone from its mailbox; somebody else took it");
            // gone: somebody else took it; nothing to remember
            self.report.backlog = self.report.backlog.saturating_sub(1);
            return Ok(End::Gone);
        };
        match record.verdict {
            Verdict::Deliver => self.report.delivered += 1,
            Verdict::Discard => self.report.discarded += 1,
            Verdict::Undeliverable => self.report.undeliverable += 1,
            Verdict::LeftAlone => self.report.left_alone += 1,
        }
        tell(&record);
        let now = self.parts.clock.now();
        self.parts.observer.event(&Event::Incoming {
            mailbox: &self.route.mailbox.id,
            record: &record,
            corrupt,
            elapsed: started.elapsed(),
            waited: stub.received.and_then(|received| now.duration_since(received).try_into().ok()),
        });
        let end = Settled {
            id: stub.id,
            verdict: record.verdict,
            activity_id: record.activity_id,
            disposition: self.disposition(record.verdict),
            at: now,
        };
        let header = read.header().filter(|_| record.verdict != Verdict::LeftAlone);
        let note = DecisionNote {
            at: now,
            mailbox: self.route.mailbox.id.clone(),
            received: stub.received,
            record,
            header: self.route.settings.decisions.header(header),
        };
        Ok(End::Settled(end, Box::new(note)))
    }

    /// Judges one message and delivers it if it belongs in the CRM. `Ok(None)`: it is gone. `read` keeps the bytes for quarantine.
    async fn judge(
        &mut self,
        candidate: &Candidate,
        threshold: Option<Timestamp>,
        read: &mut Read,
    ) -> Result<Option<Routed>> {
        let route = self.route;
        let settings = &route.settings;
        let stub = &candidate.stub;
        let context = MailboxContext::new(&route.mailbox, route.record.clone());
        if candidate.attempts >= settings.max_attempts {
            return self.park(candidate, read).await.map(Some);
        }
        if candidate.part == Part::Headers {
            let headers = match &stub.headers {
                Some(listed) => Some(listed.clone()),
                None => gone_is_none(self.inbox.headers(&stub.id).await)?,
            };
            let Some(headers) = headers else { return Ok(None) };
            let headers = read.headers.insert(headers);
            let message = Message::from_headers(headers, &settings.caps);
            if let Some(record) = self.too_old(stub, &message, threshold) {
                return Ok(Some(Routed { record, corrupt: false }));
            }
            if !message.needs_body() {
                let decision = self.decide(&context, &message).await?;
                if decision.verdict != Verdict::Deliver {
                    return self
                        .settle_decision(candidate, read, &context, &message, decision)
                        .await
                        .map(Some);
                }
            }
        }
        let raw = match gone_is_none(self.inbox.fetch(&stub.id).await)? {
            Some(raw) => read.whole.insert(raw),
            None => return Ok(None),
        };
        let message = Message::parse(raw, &settings.caps);
        if let Some(record) = self.too_old(stub, &message, threshold) {
            return Ok(Some(Routed { record, corrupt: false }));
        }
        if route.mailbox.kind == MailboxKind::Forward {
            let raw = raw.clone();
            let mut carry = Live {
                parts: self.parts,
                route,
                view: self.view(),
                tried: candidate.tried,
                stub,
                attempts: candidate.attempts + 1,
                stable_ids: self.capability.stable_ids,
            };
            if let Some(unwrapped) =
                self.parts.unwrap(self.view(), &context, settings, &raw, false, &mut carry).await?
            {
                return self.settle_wrapper(candidate, read, unwrapped).await.map(Some);
            }
        }
        let decision = self.decide(&context, &message).await?;
        self.settle_decision(candidate, read, &context, &message, decision).await.map(Some)
    }

    fn view(&self) -> &OrganizationView {
        self.renewed.as_ref().map_or(self.view, |(_, view)| view)
    }

    /// Reads settings, users and queues again; `false` when that was done a moment ago, so that it would not help.
    async fn renew_view(&mut self) -> Result<bool> {
        self.report.view_outdated = true;
        if self.renewed.as_ref().is_some_and(|(at, _)| at.elapsed() < RENEW_AGAIN) {
            return Ok(false);
        }
        tracing::info!(mailbox = %self.route.mailbox.id, "the CRM has changed users or queues; they are read again");
        self.renewed = Some((Instant::now(), OrganizationView::load(&*self.parts.crm).await?));
        self.still_served()?;
        Ok(true)
    }

    /// Whose user or queue is gone, disabled or no longer read by the router is not read: nobody may be left for whom its mail is, and that
    /// is no reason to discard it. The next plan has no such mailbox.
    fn still_served(&self) -> Result<()> {
        let Some(record) =
            self.route.record.as_ref().filter(|_| self.route.mailbox.kind != MailboxKind::Forward)
        else {
            return Ok(());
        };
        let why = match self.view().mailbox(record) {
            None => "is no longer in the CRM",
            Some(mailbox) => match self.view().not_served(mailbox) {
                None => return Ok(()),
                Some(why) => why,
            },
        };
        let text = format!("{record}, whose mailbox this is, {why}; its messages stay where they are");
        let error = email_router_crm::Error::new(email_router_crm::ErrorKind::NotFound, text);
        Err(error.with_scope(Scope::Mailbox).into())
    }

    /// Decides with users and queues that are new enough: a message for one that was not known must not be discarded for good.
    async fn decide(&mut self, context: &MailboxContext<'_>, message: &Message) -> Result<Decision> {
        let decision = self.parts.decider.decide(self.view(), context, message).await?;
        if decision.view_is_outdated() && self.renew_view().await? {
            return self.parts.decider.decide(self.view(), context, message).await;
        }
        Ok(decision)
    }

    /// Carries a decision out. Where that fails since a queue is no longer there, it is made again with those that are.
    async fn settle_decision(
        &mut self,
        candidate: &Candidate,
        read: &Read,
        context: &MailboxContext<'_>,
        message: &Message,
        decision: Decision,
    ) -> Result<Routed> {
        match self.try_to_settle(candidate, read, message, decision).await {
            Err(error) if names_what_is_gone(&error) && self.renew_view().await? => {
                let decision = self.parts.decider.decide(self.view(), context, message).await?;
                self.try_to_settle(candidate, read, message, decision).await
            }
            settled => settled,
        }
    }

    async fn settle_wrapper(
        &mut self,
        candidate: &Candidate,
        read: &Read,
        Unwrapped { mut record, class }: Unwrapped,
    ) -> Result<Routed> {
        if record.verdict == Verdict::Undeliverable {
            let kept = self
                .quarantine(&candidate.stub, candidate.attempts + 1, class, &record.because, read)
                .await?;
            record.because = kept.because;
        }
        self.name(&mut record, &candidate.stub);
        Ok(Routed { record, corrupt: false })
    }

    /// Carries a decision out. Only the header section is there when it was enough to refuse the message.
    async fn try_to_settle(
        &mut self,
        candidate: &Candidate,
        read: &Read,
        message: &Message,
        decision: Decision,
    ) -> Result<Routed> {
        let stub = &candidate.stub;
        // The decision about something that is no message is to discard it, since it has no sender; but it may be a message that was
        // damaged on its way, so it is kept where a person can look at it.
        if message.is_unreadable() || decision.verdict == Verdict::Undeliverable {
            let record = self
                .quarantine(stub, candidate.attempts + 1, "unreadable", &decision.record.because, read)
                .await?;
            return Ok(Routed { record, corrupt: true });
        }
        let empty = RawMessage::new(Bytes::new());
        let raw = read.whole.as_ref().unwrap_or(&empty);
        let mut live = Live {
            parts: self.parts,
            route: self.route,
            view: self.view(),
            tried: candidate.tried,
            stub,
            attempts: candidate.attempts + 1,
            stable_ids: self.capability.stable_ids,
        };
        let mut record = live.carry(raw, message, decision).await?;
        self.name(&mut record, stub);
        Ok(Routed { record, corrupt: false })
    }

    fn name(&self, record: &mut DecisionRecord, stub: &Stub) {
        record.mailbox = self.route.mailbox.id.as_str().to_owned();
        record.remote_id = Some(stub.id.as_str().to_owned());
    }

    fn too_old(
        &self,
        stub: &Stub,
        message: &Message,
        threshold: Option<Timestamp>,
    ) -> Option<DecisionRecord> {
        let received = stub.received.or(message.received).or(message.date)?;
        let expired = self
            .route
            .settings
            .message_expiry
            .and_then(|expiry| self.parts.clock.now().checked_sub(expiry).ok());
        let because = match (threshold, expired) {
            (Some(t), _) if received <= t => {
                format!("received {received}, not after the threshold {t} of this mailbox")
            }
            (_, Some(t)) if received < t => {
                format!("received {received}, which is longer ago than the message expiry allows")
            }
            _ => return None,
        };
        let mut record = blank_record(message, Verdict::LeftAlone, because);
        self.name(&mut record, stub);
        Some(record)
    }

    /// A failure of this message alone: too large, refused by the CRM for good, or to be tried again. `None`: deferred.
    async fn message_failed(
        &mut self,
        stub: &Stub,
        attempts: u32,
        error: Error,
        read: &Read,
    ) -> Result<Option<Routed>> {
        let class = match (error.kind(), error.retry()) {
            (ErrorKind::Held, retry) => return self.hold(stub, &error, retry).await.map(|()| None),
            (ErrorKind::Transport, Retry::Never)
                if transport_kind(&error) == Some(TransportErrorKind::TooLarge) =>
            {
                "too-large"
            }
            (ErrorKind::Transport, Retry::Never) => "unreadable-at-source",
            (ErrorKind::Crm, Retry::Never) => "crm-refused",
            (_, Retry::Never) => "unprocessable",
            _ if attempts >= self.route.settings.max_attempts => "attempts-exhausted",
            _ => {
                let not_before = self.retry_at(&error, attempts);
                let text = error.to_string();
                tracing::warn!(attempts, error = text, %not_before, "the message failed for now");
                self.parts.state.note_failure(&self.route.mailbox.id, &stub.id, &text, not_before).await?;
                self.parts.observer.event(&Event::IncomingDeferred {
                    mailbox: &self.route.mailbox.id,
                    remote_id: &stub.id,
                    error: &text,
                });
                self.report.deferred += 1;
                self.report.backlog = self.report.backlog.saturating_sub(1);
                return Ok(None);
            }
        };
        let record = self.quarantine(stub, attempts, class, &error.to_string(), read).await?;
        Ok(Some(Routed { record, corrupt: false }))
    }

    /// A message over a loop limit waits. That is no failed attempt: a message is never parked for the pace of its sender.
    async fn hold(&mut self, stub: &Stub, error: &Error, retry: Retry) -> Result<()> {
        let wait = match retry {
            Retry::Later(Some(wait)) => wait,
            _ => FIRST_RETRY,
        };
        let (mailbox, limit) = (&self.route.mailbox.id, error.to_string());
        let until = self.parts.clock.now().saturating_add(wait).unwrap_or(Timestamp::MAX);
        self.parts.state.unbegin(mailbox, std::slice::from_ref(&stub.id)).await?;
        self.parts.state.note_failure(mailbox, &stub.id, &limit, until).await?;
        let event = Event::LoopSuspected { mailbox, remote_id: &stub.id, limit: &limit, until };
        self.parts.observer.event(&event);
        self.report.deferred += 1;
        self.report.backlog = self.report.backlog.saturating_sub(1);
        Ok(())
    }

    /// A message that was begun more often than allowed and never ended: keep what can be had of it and go on without it.
    async fn park(&mut self, candidate: &Candidate, read: &mut Read) -> Result<Routed> {
        let (stub, max) = (&candidate.stub, self.route.settings.max_attempts);
        let last = self.parts.state.seen(&self.route.mailbox.id, std::slice::from_ref(&stub.id)).await?;
        let said = last
            .into_iter()
            .flatten()
            .find_map(|s| s.last_error)
            .unwrap_or_else(|| "the router ended in the middle of it".to_owned());
        // Reading the bytes may be just what fails, or what ends the process. It has one chance; then the item has no bytes and
        // the message stays at its source.
        if candidate.attempts == max {
            match self.inbox.fetch(&stub.id).await {
                Ok(raw) => {
                    let message = Message::parse(&raw, &self.route.settings.caps);
                    if let Some(record) = self.is_there(&message).await? {
                        return Ok(Routed { record, corrupt: false });
                    }
                    read.whole = Some(raw);
                }
                Err(error) if error.scope() > Scope::Message => return Err(error.into()),
                Err(_) => {}
            }
        }
        let reason = format!("given up after {max} attempts; the last said: {said}");
        Ok(Routed {
            record: self.quarantine(stub, max, "attempts-exhausted", &reason, read).await?,
            corrupt: false,
        })
    }

    /// The record of a message that the CRM has although no attempt came to its end.
    async fn is_there(&mut self, message: &Message) -> Result<Option<DecisionRecord>> {
        let Some(id) = self.parts.decider.activity_id(self.view, message) else { return Ok(None) };
        if !self.parts.crm.exists(&id).await? {
            return Ok(None);
        }
        let because = "an earlier attempt delivered it before that could be recorded".to_owned();
        let mut record = blank_record(message, Verdict::Deliver, because);
        record.reason = ReasonCode::Duplicate;
        record.activity_id = Some(id);
        Ok(Some(record))
    }

    async fn quarantine(
        &mut self,
        stub: &Stub,
        attempts: u32,
        class: &str,
        reason: &str,
        read: &Read,
    ) -> Result<DecisionRecord> {
        let raw = read.whole.as_ref();
        let message = Message::from_headers(read.header().unwrap_or_default(), &self.route.settings.caps);
        let mut record = blank_record(&message, Verdict::Undeliverable, format!("{class}: {reason}"));
        self.name(&mut record, stub);
        let id = self
            .parts
            .state
            .quarantine_put(&QuarantineItem {
                id: 0,
                mailbox: self.route.mailbox.id.clone(),
                remote_id: match raw {
                    // the same message must not come here again with every session's new ids
                    Some(raw) if !self.capability.stable_ids => {
                        RemoteId::new(format!("sha256:{}", raw.digest()))
                    }
                    _ => stub.id.clone(),
                },
                class: class.to_owned(),
                reason: reason.to_owned(),
                at: self.parts.clock.now(),
                attempts,
                size: raw.map(RawMessage::size).or(stub.size),
                message_id: record.message_id.clone(),
                from: Some(record.from.clone()).filter(|f| !f.is_empty()),
                subject: Some(record.subject.clone()).filter(|s| !s.is_empty()),
                raw: raw.map(|r| r.bytes().clone()),
            })
            .await?;
        record.because = format!("{}; it is in quarantine as number {id}", record.because);
        Ok(record)
    }

    /// What shall become of a message at its source. A user's own mail that does not belong in the CRM is never deleted, whatever
    /// the profile says: `DeleteEmails` is about mail that was processed into the CRM, and about dedicated mailboxes.
    fn disposition(&self, verdict: Verdict) -> String {
        let settings = &self.route.settings;
        let dedicated = self.route.mailbox.kind != MailboxKind::User;
        match verdict {
            Verdict::Deliver if settings.delete_after_processing => "delete".to_owned(),
            Verdict::Discard if settings.delete_after_processing && dedicated => "delete".to_owned(),
            Verdict::Undeliverable if settings.move_undeliverable && self.capability.move_to_folder => {
                format!("move {}", settings.undeliverable_folder)
            }
            _ => "keep".to_owned(),
        }
    }

    async fn dispose_again(&mut self, settled: &Settled) -> Result<()> {
        let what = match settled.disposition.as_str() {
            "keep" => return Ok(()),
            "delete" => Disposition::Delete,
            other => match other.strip_prefix("move ") {
                Some(folder) => Disposition::Move(folder.to_owned()),
                None => return Ok(()),
            },
        };
        match self.inbox.dispose(&settled.id, what).await {
            Ok(()) => {
                self.removed.push(settled.id.clone());
                Ok(())
            }
            Err(error)
                if error.scope() == Scope::Message || error.kind() == TransportErrorKind::Unsupported =>
            {
                tracing::warn!(mailbox = %self.route.mailbox.id, id = %settled.id, %error, "a settled message could not be disposed of; it stays at its source");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The span of everything that is done about one message; [`tell`] fills it in when the decision is known.
fn message_span(mailbox: &MailboxId, id: Option<&RemoteId>) -> tracing::Span {
    tracing::info_span!(
        "incoming",
        %mailbox,
        id = id.map(RemoteId::as_str),
        message_id = Empty,
        verdict = Empty,
        reason = Empty,
        activity = Empty
    )
}

/// Notes the decision in the span of the message, and the whole record in the log: for a person where one has to look after the
/// message, else for those who want to see every message (LogLevel 3).
fn tell(record: &DecisionRecord) {
    let span = tracing::Span::current();
    span.record("verdict", tracing::field::debug(record.verdict));
    span.record("reason", tracing::field::debug(record.reason));
    if let Some(id) = &record.message_id {
        span.record("message_id", id.as_str());
    }
    if let Some(id) = &record.activity_id {
        span.record("activity", tracing::field::display(id));
    }
    if record.verdict == Verdict::Undeliverable {
        tracing::warn!(subject = record.subject, because = record.because, "the message cannot be routed");
    }
    if tracing::enabled!(tracing::Level::TRACE) {
        // one JSON document, so that a program that reads the log gets at every step
        let decision = serde_json::to_string(record).unwrap_or_else(|e| e.to_string());
        tracing::trace!(decision, "decided");
    }
}

/// The kind of a mail system's error.
pub(crate) fn transport_kind(error: &Error) -> Option<TransportErrorKind> {
    error.source()?.downcast_ref::<email_router_transport::Error>().map(email_router_transport::Error::kind)
}

/// Whether the CRM refused a delivery because a record it names is not there.
fn names_what_is_gone(error: &Error) -> bool {
    let crm = error.source().and_then(|s| s.downcast_ref::<email_router_crm::Error>());
    crm.is_some_and(|e| e.kind() == email_router_crm::ErrorKind::NotFound)
}

/// Whether an error may be the doing of the message that was being read: the connection broke or stalled with it, or the server
/// sent something that is no answer.
fn breaks_session(error: &Error) -> bool {
    use TransportErrorKind as K;
    matches!(transport_kind(error), Some(K::ConnectionLost | K::Protocol | K::Timeout))
}

/// The candidates in groups whose attempts are noted together.
///
/// A message that was begun before and never ended may have killed the process: it is begun alone, so that the messages beside it do
/// not pay for it.
fn windows(candidates: Vec<Candidate>) -> Vec<Vec<Candidate>> {
    let mut windows: Vec<Vec<Candidate>> = Vec::new();
    for candidate in candidates {
        let suspect = candidate.attempts > 0;
        match windows.last_mut() {
            Some(last) if !suspect && last.len() < WINDOW && last.iter().all(|c| c.attempts == 0) => {
                last.push(candidate)
            }
            _ => windows.push(vec![candidate]),
        }
    }
    windows
}

fn wanted(window: &[Candidate]) -> Vec<(RemoteId, Part)> {
    let known = |c: &&Candidate| c.part == Part::Headers && c.stub.headers.is_some();
    window.iter().filter(|c| !known(c)).map(|c| (c.stub.id.clone(), c.part)).collect()
}

/// A message that is gone is no failure.
fn gone_is_none<T>(result: email_router_transport::Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == TransportErrorKind::MessageGone => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The record of a message about which nothing was decided.
fn blank_record(message: &Message, verdict: Verdict, because: String) -> DecisionRecord {
    DecisionRecord {
        mailbox: String::new(),
        remote_id: None,
        message_id: message.message_id.clone(),
        subject: message.subject.clone(),
        from: message.from_field.clone(),
        verdict,
        reason: ReasonCode::Unknown,
        because,
        steps: Vec::new(),
        activity_id: None,
        correlated: None,
        owner: None,
        regarding: None,
        queues: Vec::new(),
        parties: Vec::new(),
        automatic: None,
        written: None,
        attached: Vec::new(),
    }
}
