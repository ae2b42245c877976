//! Work on one message: decide, carry out, keep what cannot be routed. Nothing here touches the mailbox, so several messages of it can be
//! worked on at the same time.

use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use email_router_model::{MailboxKind, RawMessage, RemoteId, Timestamp};
use email_router_transport::{Capability, Part, Stub};
use tokio::time::Instant;

use super::forward::{self, Carry, Unwrapped};
use super::{FIRST_RETRY, IncomingParts, Routed, blank_record, names_what_is_gone, planned};
use crate::decide::{Decision, MailboxContext, OrganizationView};
use crate::guard::limits::Suspect;
use crate::message::Message;
use crate::ports::QuarantineItem;
use crate::record::{DecisionRecord, ReasonCode, Verdict};
use crate::router::IncomingRoute;
use crate::{Error, Result};

/// A candidate of a pass.
pub(super) struct Candidate {
    pub(super) stub: Stub,
    /// Attempts that were begun and did not end.
    pub(super) attempts: u32,
    /// An earlier pass worked on it and may have delivered it.
    pub(super) tried: bool,
    pub(super) part: Part,
}

/// What was read of a message, for the quarantine and the note of the decision.
#[derive(Default)]
pub(super) struct Read {
    pub(super) headers: Option<Bytes>,
    pub(super) whole: Option<RawMessage>,
}

impl Read {
    /// Bytes that are held.
    pub(super) fn bytes(&self) -> u64 {
        let headers = self.headers.as_ref().map_or(0, |headers| headers.len() as u64);
        headers + self.whole.as_ref().map_or(0, RawMessage::size)
    }

    /// The header section, where anything was read.
    pub(super) fn header(&self) -> Option<&[u8]> {
        let whole = self.whole.as_ref().map(|raw| &raw.bytes()[crate::message::section(raw.bytes())]);
        whole.or(self.headers.as_deref())
    }
}

/// A message that is worked on.
pub(super) struct Job {
    pub(super) candidate: Candidate,
    pub(super) read: Read,
    pub(super) started: Instant,
}

impl Job {
    pub(super) fn new(candidate: Candidate) -> Self {
        Self { candidate, read: Read::default(), started: Instant::now() }
    }

    /// How often it was begun, this time included.
    pub(super) fn attempts(&self) -> u32 {
        self.candidate.attempts + 1
    }
}

/// The organization as a pass found it, or as it was read again in the middle of the pass.
#[derive(Clone)]
pub(super) enum View<'a> {
    Given(&'a OrganizationView),
    Renewed(Arc<OrganizationView>),
}

impl Deref for View<'_> {
    type Target = OrganizationView;

    fn deref(&self) -> &OrganizationView {
        match self {
            Self::Given(view) => view,
            Self::Renewed(view) => view,
        }
    }
}

/// What work on a message came to.
pub(super) enum Work {
    Routed(Box<Routed>),
    /// The header section does not settle it: the whole message is needed.
    WantsBody,
    /// The CRM has users or queues that the view does not know, or no longer those that it knows.
    ViewOutdated,
}

impl Work {
    /// Of work on a whole message with users and queues that are new enough, which ends in no other way.
    pub(super) fn decided(self) -> Result<Routed> {
        match self {
            Self::Routed(routed) => Ok(*routed),
            Self::WantsBody | Self::ViewOutdated => Err(Error::message(
                "nothing was decided about the whole message, which is a fault of this program",
            )),
        }
    }
}

/// What work on a message needs.
#[derive(Clone)]
pub(super) struct Desk<'a> {
    pub(super) parts: &'a IncomingParts,
    pub(super) route: &'a IncomingRoute,
    pub(super) view: View<'a>,
    pub(super) capability: Capability,
}

impl Desk<'_> {
    /// Decides about what was read of a message, and carries the decision out. `last`: an old view is no reason to refuse.
    pub(super) async fn work(&self, job: &Job, message: &Message, last: bool) -> Result<Work> {
        let context = MailboxContext::new(&self.route.mailbox, self.route.record.clone());
        // of a wrapper the header section tells nothing about the message inside
        if self.route.mailbox.kind == MailboxKind::Forward
            && let Some(raw) = &job.read.whole
        {
            let settings = &self.route.settings;
            let mut live = self.live(job);
            let unwrapped = self.parts.unwrap(&self.view, &context, settings, raw, false, &mut live).await?;
            if let Some(unwrapped) = unwrapped {
                return self
                    .settle_wrapper(job, unwrapped)
                    .await
                    .map(|routed| Work::Routed(Box::new(routed)));
            }
        }
        let decision = self.parts.decider.decide(&self.view, &context, message).await?;
        if decision.view_is_outdated() && !last {
            // a message for a user that was not known must not be discarded for good
            return Ok(Work::ViewOutdated);
        }
        if !message.whole && decision.verdict == Verdict::Deliver {
            return Ok(Work::WantsBody);
        }
        match self.settle(job, message, decision).await {
            Err(error) if names_what_is_gone(&error) && !last => Ok(Work::ViewOutdated),
            settled => settled.map(|routed| Work::Routed(Box::new(routed))),
        }
    }

    fn live<'s>(&'s self, job: &'s Job) -> Live<'s> {
        Live {
            parts: self.parts,
            route: self.route,
            view: &self.view,
            tried: job.candidate.tried,
            stub: &job.candidate.stub,
            attempts: job.attempts(),
            stable_ids: self.capability.stable_ids,
        }
    }

    async fn settle_wrapper(&self, job: &Job, Unwrapped { mut record, class }: Unwrapped) -> Result<Routed> {
        if record.verdict == Verdict::Undeliverable {
            record.because = self.quarantine(job, class, &record.because).await?.because;
        }
        self.name(&mut record, &job.candidate.stub);
        Ok(Routed { record, corrupt: false })
    }

    /// Carries a decision out. Only the header section is there when it was enough to refuse the message.
    async fn settle(&self, job: &Job, message: &Message, decision: Decision) -> Result<Routed> {
        // The decision about something that is no message is to discard it, since it has no sender; but it may be a message that was
        // damaged on its way, so it is kept where a person can look at it.
        if message.is_unreadable() || decision.verdict == Verdict::Undeliverable {
            let record = self.quarantine(job, "unreadable", &decision.record.because).await?;
            return Ok(Routed { record, corrupt: true });
        }
        let empty = RawMessage::new(Bytes::new());
        let raw = job.read.whole.as_ref().unwrap_or(&empty);
        let mut record = self.live(job).carry(raw, message, decision).await?;
        self.name(&mut record, &job.candidate.stub);
        Ok(Routed { record, corrupt: false })
    }

    pub(super) fn name(&self, record: &mut DecisionRecord, stub: &Stub) {
        record.mailbox = self.route.mailbox.id.as_str().to_owned();
        record.remote_id = Some(stub.id.as_str().to_owned());
    }

    pub(super) fn too_old(
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

    /// The record of a message that the CRM has although no attempt came to its end.
    pub(super) async fn is_there(&self, message: &Message) -> Result<Option<DecisionRecord>> {
        let Some(id) = self.parts.decider.activity_id(&self.view, message) else { return Ok(None) };
        if !self.parts.crm.exists(&id).await? {
            return Ok(None);
        }
        let because = "an earlier attempt delivered it before that could be recorded".to_owned();
        let mut record = blank_record(message, Verdict::Deliver, because);
        record.reason = ReasonCode::Duplicate;
        record.activity_id = Some(id);
        Ok(Some(record))
    }

    pub(super) async fn quarantine(&self, job: &Job, class: &str, reason: &str) -> Result<DecisionRecord> {
        let (stub, read) = (&job.candidate.stub, &job.read);
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
                attempts: job.attempts().min(self.route.settings.max_attempts),
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
    pub(super) fn disposition(&self, verdict: Verdict) -> String {
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
        let admitted = suspect.as_ref().map(|suspect| self.parts.guard.admit(settings, suspect, now));
        let admitted = admitted.transpose().map_err(|held| {
            let wait = held.until.duration_since(now).try_into().unwrap_or(FIRST_RETRY);
            Error::held(held.why, wait)
        })?;
        let planned = planned(self.view, &self.route.settings, raw, message, decision)?;
        if planned.incomplete {
            // before it is delivered: a crash between the two must not lose what the activity has not
            self.keep_whole(raw, message).await?;
        }
        let mut record = self.parts.write(planned).await?;
        if let (Some(admitted), Verdict::Deliver) = (admitted, record.verdict) {
            admitted.keep();
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
