//! One pass over one mailbox: list, judge, deliver, record, dispose, close.
//!
//! The order is fixed: the CRM has the message, then it is recorded, only then it is touched at its source.
//!
//! `session` is the open mailbox: it lists, reads, records and disposes, one thing after the other. `desk` is the work on one message, which
//! touches the mailbox nowhere; `team` has several of them in work at the same time, unless `claims` says that one may be what the
//! decision about the other finds. They are recorded in the order of the mailbox.
//!
//! # Crash table
//!
//! What a restart finds after a crash (kill -9, power) between two steps, and what it does. It holds for each message that is on its way.
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

mod claims;
mod desk;
mod forward;
mod session;
mod team;

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use email_router_crm::{CrmClient, Delivered, DeliveryReport, IncomingEmail};
use email_router_model::{
    Classified, Clock, Entropy, MailboxId, MailboxKind, RawMessage, RemoteId, Retry, Scope,
};
use email_router_transport::{ErrorKind as TransportErrorKind, ReceiveOptions};
use tokio::sync::watch;
use tracing::Instrument as _;
use tracing::field::Empty;

use self::desk::View;
use self::session::Session;
use crate::decide::{Decider, Decision, MailboxContext, OrganizationView};
use crate::guard::LoopGuard;
use crate::message::Message;
use crate::ports::{DecisionNote, Event, Observer, StateStore};
use crate::record::{DecisionRecord, ReasonCode, Verdict, WrittenRecord};
use crate::router::IncomingRoute;
use crate::{Error, ErrorKind, IncomingSettings, KeepDecisions, Result};

/// Messages whose attempts are noted, prefetched, recorded and disposed of together.
const WINDOW: usize = 64;

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
        if route.transport.capability().resumes {
            options.resume = self.state.resume_token(&route.mailbox.id, &route.source).await?;
        }
        let opened = route.transport.receive(&route.mailbox, options).await.map_err(Error::from);
        self.observer
            .event(&Event::MailboxAccess { mailbox: &route.mailbox.id, error: opened.as_ref().err() });
        let mut inbox = opened?;

        let mut session = Session {
            parts: self,
            route,
            view: View::Given(view),
            renewed: None,
            capability: route.transport.capability(),
            inbox: &mut *inbox,
            report,
            removed: Vec::new(),
        };
        let routed = session.route_all(stop).await;
        let removed = session.removed;
        let token = inbox.resume_token();
        let closed = match &routed {
            Err(error) if error.kind() == ErrorKind::Transport => return routed,
            _ => inbox.close().await,
        };
        match (closed, routed) {
            (Ok(()), routed) => {
                if let Some(token) = token
                    .filter(|token| token.len() <= email_router_transport::contract::LARGEST_RESUME_TOKEN)
                {
                    self.state.set_resume_token(&route.mailbox.id, &route.source, &token).await?;
                }
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
                let (header, kept) = settings.decisions.header(Some(raw.bytes()), &settings.caps);
                let note = DecisionNote {
                    at: self.clock.now(),
                    mailbox: context.mailbox.id.clone(),
                    received: raw.received,
                    record: record.clone(),
                    kept,
                    header,
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
