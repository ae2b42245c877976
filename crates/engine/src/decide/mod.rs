//! From a message to a decision: filter, correlation, parties, owner, queue items.
//!
//! The order of the steps is `crm-contract.md` 13.1. A decision needs only the header section, writes nothing, and depends on nothing
//! but the message, the [`OrganizationView`], and what the CRM answers; the order of the CRM's answers does not matter.
//!
//! Where the CRM itself decides ([`CrmClient::check_incoming`]), its word is the verdict; the other steps are taken all the same, and say in the
//! record what this router makes of the message.
//!
//! | file | what |
//! |---|---|
//! | `recipients.rs` | which users and queues the message is for |
//! | `rights.rs`, `internal.rs` | rights-managed mail, mail between users |
//! | `filter.rs` | the five filters |
//! | `correlate/`, `trust.rs` | which e-mail it answers, and whether the sender is who he says |
//! | `parties.rs`, `unknown.rs` | who the addresses are; a record for an unknown sender |
//! | `owner.rs`, `queues.rs` | who owns it, where it is queued |
//! | `view.rs` | settings and mailboxes of the organization |
//! | `explain.rs` | the decision record as text |

mod correlate;
mod explain;
mod filter;
mod internal;
mod owner;
mod parties;
mod queues;
mod recipients;
mod release;
mod report;
mod rights;
pub mod trust;
mod unknown;
mod view;

use std::collections::HashSet;
use std::sync::Arc;

use email_router_crm::{
    AutomaticMail, CorrelationMethod, CrmClient, CrmMailbox, DeliveryReport, IncomingCheck, IncomingEmail,
    NewSender, Party, Verdict as CrmVerdict, stand_in_message_id,
};
use email_router_model::{ActivityId, Direction, EmailAddress, Mailbox, RecordRef};
use tokio::time::Instant;

pub use correlate::Hit;
pub use view::OrganizationView;

use crate::guard::{Automatic, AutomaticKind};
use crate::message::{Content, Message, Participant};
use crate::ports::CorrelationIndex;
use crate::record::{DecisionRecord, ReasonCode, Step, Verdict};
use crate::reference::{OwnMail, ReferenceSigner};
use crate::{Error, Result};
use correlate::{Correlation, Question};
use parties::Resolved;
use recipients::Recipients;

/// The mailbox a message was found in.
#[derive(Debug, Clone)]
pub struct MailboxContext<'a> {
    /// The mailbox as the router reads it.
    pub mailbox: &'a Mailbox,
    /// Its user or queue in the CRM; for an original in a forward mailbox that of the mailbox whose rule forwarded it, where that is
    /// known.
    pub record: Option<RecordRef>,
    /// The message was attached to one that a rule forwarded.
    pub forwarded: bool,
}

impl<'a> MailboxContext<'a> {
    /// The context of a message that was found in a mailbox itself.
    #[must_use]
    pub fn new(mailbox: &'a Mailbox, record: Option<RecordRef>) -> Self {
        Self { mailbox, record, forwarded: false }
    }
}

/// Decides about incoming messages of one organization. Can be shared and called from many tasks.
#[derive(Debug, Clone)]
pub struct Decider {
    crm: Arc<dyn CrmClient>,
    index: Arc<dyn CorrelationIndex>,
    signer: Option<ReferenceSigner>,
    timed: bool,
}

/// What becomes of a message. For one that is delivered, [`Decision::into_email`] makes the e-mail.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Decision {
    /// Deliver or discard. What is no message at all has no sender, so it is discarded; [`Message::is_unreadable`] tells it apart.
    pub verdict: Verdict,
    /// Why, as a code.
    pub reason: ReasonCode,
    /// The id of the activity it becomes or, for a duplicate, of the one that is there. `None` while the identity is not known: the
    /// message has no Message-ID and only its header section was read.
    pub activity_id: Option<ActivityId>,
    /// The e-mail it answers.
    pub hit: Option<Hit>,
    /// What `correlationmethod` says.
    pub correlation_method: CorrelationMethod,
    /// Sender first, then recipients; empty unless it is delivered.
    pub parties: Vec<Party>,
    /// The record that is created for an unknown sender; a party refers to it.
    pub new_sender: Option<NewSender>,
    /// Owner of the activity.
    pub owner: Option<RecordRef>,
    /// Queues that get an item.
    pub queues: Vec<RecordRef>,
    /// The user or queue whose filter accepted it.
    pub accepting: Option<RecordRef>,
    /// The user or queue whose mailbox was read.
    pub receiving: Option<RecordRef>,
    /// The address of the mailbox that was read.
    pub submitted_by: EmailAddress,
    /// Several records have the sender's address and the organization wants it unresolved then.
    pub is_duplicate_sender_unresolved: bool,
    /// What kind of automatic mail it is; `None` for mail that a person wrote.
    pub automatic: Option<Automatic>,
    /// What the CRM is to be told about the e-mail that a delivery report speaks of, whatever becomes of the report itself.
    pub report: Option<DeliveryReport>,
    /// For a duplicate: the queue that is to get an item of the activity that is there. [`Decision::into_requeue`] makes the call.
    pub requeue: Option<RecordRef>,
    /// The e-mail of this CRM that the message is: the router's own mail came back.
    pub own_mail: Option<ActivityId>,
    /// Every step, for people.
    pub record: DecisionRecord,
}

impl Decider {
    /// A decider that asks this CRM and finds earlier e-mails through this index.
    #[must_use]
    pub fn new(crm: Arc<dyn CrmClient>, index: Arc<dyn CorrelationIndex>) -> Self {
        Self { crm, index, signer: None, timed: false }
    }

    /// The same, and each step of its decision records says how long it took.
    #[must_use]
    pub fn timed(self) -> Self {
        Self { timed: true, ..self }
    }

    /// The same, which recognises references that were signed with this key. Without one every id is like any other.
    #[must_use]
    pub fn with_signer(mut self, signer: Option<ReferenceSigner>) -> Self {
        self.signer = signer;
        self
    }

    /// The e-mail of this CRM that a message is, where the router's own mail came back under whatever Message-ID.
    #[must_use]
    pub fn own_mail(&self, view: &OrganizationView, message: &Message) -> Option<OwnMail> {
        self.signer.as_ref()?.own_mail(view.id(), message)
    }

    /// The id of the activity a message becomes, once its identity is known. That of the router's own mail comes from the Message-ID it was sent
    /// with: two copies that came back under different Message-IDs are one activity.
    #[must_use]
    pub fn activity_id(&self, view: &OrganizationView, message: &Message) -> Option<ActivityId> {
        match self.own_mail(view, message) {
            Some(own) => Some(ActivityId::derive(view.id(), Direction::Incoming, own.message_id.as_str())),
            None => message.activity_id(view.id()),
        }
    }

    /// Decides about one message. Its header section is enough; with the whole message the verdict is the same, except that a message
    /// without Message-ID is recognised as a duplicate only when it is whole.
    ///
    /// # Errors
    /// Only what the CRM or the index said; nothing about the message itself is an error.
    pub async fn decide(
        &self,
        view: &OrganizationView,
        mailbox: &MailboxContext<'_>,
        message: &Message,
    ) -> Result<Decision> {
        self.judge(view, mailbox, message, false).await
    }

    /// As [`Decider::decide`]; `released`: a person tracks the message by hand, which does not change the verdict.
    async fn judge(
        &self,
        view: &OrganizationView,
        mailbox: &MailboxContext<'_>,
        message: &Message,
        released: bool,
    ) -> Result<Decision> {
        let mut trace = Trace::new(self.timed);
        for defect in &message.defects {
            trace.step("read", defect.as_str());
        }
        let own = self.own_mail(view, message);
        if let Some(own) = &own {
            trace.step(
                "own mail",
                format!("{} of this CRM came back; it was sent as {}", own.activity_id, own.message_id),
            );
        }
        let mut draft = self.draft(view, mailbox, message, own.as_ref());
        draft.released = released;
        if let Some(Automatic { kind, evidence }) = &draft.automatic {
            trace.step("automatic mail", format!("{}: {evidence}", kind.as_str()));
        }
        let tied = report::tie(message, &*self.index, &mut trace).await?;
        let (report, tied) = tied.map(|t| (t.report, t.correlation)).unzip();
        draft.report = report;
        // 0: an e-mail, where the mail system has other things beside (behaviour document, section 1)
        let classes = &view.settings().tracked_message_classes;
        if let Some(class) = &message.message_class
            && !classes.iter().any(|tracked| tracked.eq_ignore_ascii_case(class))
        {
            trace.step("message class", format!("{class} is not among trackedmessageclasses"));
            let because =
                format!("its message class is {class}, which is not tracked (trackedmessageclasses)");
            return Ok(draft.discard(ReasonCode::Unknown, because, trace));
        }
        // 1: a valid sender
        let Some(from) = valid_sender(message) else {
            trace.step("sender", format!("From is {:?}", message.from_field));
            let because = if message.is_unreadable() {
                "there is no header field in it, so it is no message".to_owned()
            } else if message.from_field.is_empty() {
                "there is no From field".to_owned()
            } else {
                format!("From {:?} has no address of the form name@domain.tld", message.from_field)
            };
            return Ok(draft.discard(ReasonCode::InvalidSender, because, trace));
        };
        // 2: not there already
        let known = self.known(&draft, &mut trace).await?;
        if let Some(existing) = known.received {
            let mut decision =
                draft.discard(ReasonCode::Duplicate, format!("the CRM has it already as {existing}"), trace);
            decision.activity_id = Some(existing);
            decision.record.activity_id = Some(existing);
            decision.requeue = queues::queue_of_duplicate(view, recipients::mailbox_read(view, mailbox));
            if let Some(queue) = &decision.requeue {
                decision.record.queues.push(queue.clone());
            }
            return Ok(decision);
        }
        if let Some(because) = draft.refused_as_automatic() {
            return Ok(draft.discard(ReasonCode::Unknown, because, trace));
        }
        if view.settings().restrict_irm_email_items && rights::is_rights_managed(message) {
            trace
                .step("rights", "it is rights-managed, and such mail is not tracked (RestrictIRMEmailItems)");
            let because = "it is rights-managed (RestrictIRMEmailItems)".to_owned();
            return Ok(draft.discard(ReasonCode::Unknown, because, trace));
        }
        // where the CRM decides, what follows only explains
        let decided = match self.ask_crm(&draft, from, &mut trace).await? {
            CrmVerdict::Discard(reason) => {
                let because = format!("the CRM does not want it: {reason}");
                return Ok(draft.discard(reason, because, trace));
            }
            CrmVerdict::Deliver(reason) => Some(reason),
            CrmVerdict::RouterDecides => None,
        };
        // 3, 4: for a user or queue
        let resolved = self.resolve(view, message, from).await?;
        let recipients = recipients::recipients(view, mailbox, message, &resolved, &mut trace);
        if recipients.mailboxes.is_empty() {
            let because = "no recipient is a user or queue that gets its mail through the router".to_owned();
            if decided.is_none() {
                return Ok(draft.discard(ReasonCode::NoRecipientMatch, because, trace));
            }
            trace.overruled(&because);
        }
        let mailbox_owner = recipients.read.and_then(owner::mailbox_owner);
        let sender = parties::sender(&resolved, from, mailbox_owner, view.settings());
        trace.step("sender", sender.how.as_str());
        if view.settings().override_v5_sender_conflict_resolution && resolved.count(from) > 1 {
            let because = "several records have the sender's address (OverrideV5SenderConflictResolution)";
            if decided.is_none() {
                return Ok(draft.discard(ReasonCode::NoCorrelationMatch, because.to_owned(), trace));
            }
            trace.overruled(because);
        }
        // 5: not mail between users, where the organization ignores that
        let (settings, sent) = (view.settings(), known.sent);
        let internal = internal::refusal(settings, from, &sender, &resolved, &recipients, sent, &mut trace);
        if let Some(because) = internal {
            if decided.is_none() {
                return Ok(draft.discard(ReasonCode::InternalEmailReject, because, trace));
            }
            trace.overruled(&because);
        }
        // 6: what it answers, unless no filter asks
        let question = self.question(&draft, &sender, &resolved);
        let deciding = filter::deciding(view, &recipients);
        let mut correlation = tied;
        if correlation.is_none() && filter::needs_correlation(view, &deciding) {
            correlation = Some(correlate::correlate(&question, &*self.index, &mut trace).await?);
        }
        // 7: the filters
        let hit = correlation.as_ref().and_then(Correlation::counting);
        let accepted = filter::accept(view, &deciding, &sender, hit, &mut trace);
        let (accepting, why) = match (decided, accepted) {
            (Some(reason), accepted) => {
                if accepted.is_none() {
                    trace.overruled("none of the recipients' filters accepts it");
                }
                (accepted.map(|(mailbox, _)| mailbox), (reason, format!("the CRM wants it: {reason}")))
            }
            (None, Some((mailbox, reason))) => (Some(mailbox), (reason, accepted_because(mailbox, reason))),
            (None, None) => {
                let because = "none of the recipients' filters accepts it".to_owned();
                return Ok(draft.discard(ReasonCode::NoCorrelationMatch, because, trace));
            }
        };
        let correlation = match correlation {
            Some(correlation) => correlation,
            None => correlate::correlate(&question, &*self.index, &mut trace).await?,
        };
        Ok(draft.deliver(why, accepting, (from, &question), &recipients, correlation, trace))
    }

    /// What the CRM says, where it decides. It wants a Message-ID: of a message without one it is not asked before its identity is known, and
    /// then the message is read whole.
    async fn ask_crm(&self, draft: &Draft<'_>, from: &EmailAddress, trace: &mut Trace) -> Result<CrmVerdict> {
        let message = draft.message;
        let stand_in = || draft.activity_id.and_then(stand_in_message_id);
        let Some(message_id) = message.message_id.clone().or_else(stand_in) else {
            return Ok(CrmVerdict::RouterDecides);
        };
        let addresses = |field: &[Participant]| field.iter().filter_map(|p| p.address.clone()).collect();
        let question = IncomingCheck {
            message_id,
            subject: message.subject.clone(),
            from: from.clone(),
            to: addresses(&message.to),
            cc: addresses(&message.cc),
            bcc: addresses(&message.bcc),
        };
        let verdict = self.crm.check_incoming(&question).await?;
        match verdict {
            CrmVerdict::RouterDecides => {}
            CrmVerdict::Deliver(reason) => trace.step("CheckIncomingEmail", format!("deliver: {reason}")),
            CrmVerdict::Discard(reason) => trace.step("CheckIncomingEmail", format!("discard: {reason}")),
        }
        Ok(verdict)
    }

    /// The e-mails this message already is: the received one by its derived id, or with its Message-ID where another program made it; the sent
    /// one with its Message-ID. The sent one is not looked for where the received one has the derived id.
    async fn known(&self, draft: &Draft<'_>, trace: &mut Trace) -> Result<Known> {
        let mut known = Known::default();
        let Some(id) = draft.activity_id else {
            trace.step("duplicate", "no Message-ID; not known before the whole message is read");
            return Ok(known);
        };
        if self.crm.exists(&id).await? {
            trace.step("duplicate", format!("{id} exists"));
            known.received = Some(id);
            return Ok(known);
        }
        let message_id = draft.own.map(|own| &own.message_id).or(draft.message.message_id.as_ref());
        if let Some(message_id) = message_id {
            let found = self.index.by_message_ids(std::slice::from_ref(message_id)).await?;
            // the sent copy of the same message is another e-mail (crm-contract.md 7.4)
            let newest = |outgoing: bool| {
                let same = found
                    .iter()
                    .filter(|e| e.outgoing == outgoing && e.message_id.as_ref() == Some(message_id));
                same.map(|e| (e.created_on, e.activity_id)).max().map(|(_, id)| id)
            };
            known.sent = newest(true);
            if let Some(existing) = newest(false) {
                trace.step("duplicate", format!("the incoming e-mail {existing} has this Message-ID"));
                known.received = Some(existing);
                return Ok(known);
            }
        }
        trace.step("duplicate", "no incoming e-mail with this identity");
        Ok(known)
    }

    fn draft<'a>(
        &self,
        view: &'a OrganizationView,
        mailbox: &'a MailboxContext<'a>,
        message: &'a Message,
        own: Option<&'a OwnMail>,
    ) -> Draft<'a> {
        Draft {
            view,
            mailbox,
            message,
            own,
            activity_id: self.activity_id(view, message),
            automatic: message.automatic(),
            report: None,
            released: false,
        }
    }

    fn question<'a>(
        &'a self,
        draft: &Draft<'a>,
        sender: &'a parties::Sender,
        resolved: &'a Resolved,
    ) -> Question<'a> {
        let Draft { view, message, own, .. } = *draft;
        let automatic = draft.automatic.is_some();
        Question { view, message, sender, resolved, own, signer: self.signer.as_ref(), automatic }
    }

    /// All addresses of the message in one call.
    async fn resolve(
        &self,
        view: &OrganizationView,
        message: &Message,
        from: &EmailAddress,
    ) -> Result<Resolved> {
        let mut seen = HashSet::new();
        let mut addresses: Vec<EmailAddress> = std::iter::once(from)
            .chain(message.recipients().filter_map(|p| p.address.as_ref()))
            .filter(|a| seen.insert(a.key()))
            .cloned()
            .collect();
        let named = addresses.len();
        if view.settings().plus_addressing {
            let bases: Vec<EmailAddress> =
                addresses.iter().filter_map(EmailAddress::without_detail).collect();
            addresses.extend(bases.into_iter().filter(|a| seen.insert(a.key())));
        }
        let answer = self.crm.resolve(&addresses).await?;
        let mut resolved = Resolved::new(&addresses, answer);
        if view.settings().plus_addressing {
            resolved.without_details(&addresses[..named]);
        }
        Ok(resolved)
    }
}

/// What is in the CRM of a message that is decided about.
#[derive(Debug, Default)]
struct Known {
    /// It was received before.
    received: Option<ActivityId>,
    /// It was sent from the CRM.
    sent: Option<ActivityId>,
}

/// The sender's address if it has the form `x@y.z` (`crm-contract.md` 7.3), or names a host by its number.
fn valid_sender(message: &Message) -> Option<&EmailAddress> {
    let address = message.from.as_ref()?.address.as_ref()?;
    (address.domain().contains('.') || address.domain().starts_with('[')).then_some(address)
}

fn accepted_because(accepting: &CrmMailbox, reason: ReasonCode) -> String {
    let who = format!("{} {:?}", accepting.kind, accepting.name);
    match reason {
        ReasonCode::AcceptAll => format!("{who} accepts all messages"),
        ReasonCode::CorrelationMatch => format!("it answers an e-mail of the CRM, and {who} accepts answers"),
        _ => format!("the sender is known to the CRM, and {who} accepts that"),
    }
}

impl Decision {
    /// The e-mail to deliver. `message` must have been read from the whole message, the one that was decided about.
    ///
    /// # Errors
    /// When the decision is not to deliver, or `message` has no identity because only its header section was read.
    pub fn into_email(
        self,
        view: &OrganizationView,
        message: &Message,
        content: Content,
    ) -> Result<IncomingEmail> {
        if self.verdict != Verdict::Deliver {
            return Err(Error::message(format!(
                "the message is not to be delivered: {}",
                self.record.because
            )));
        }
        let activity_id = self.activity_id.or_else(|| message.activity_id(view.id())).ok_or_else(|| {
            Error::message(
                "the message has no Message-ID and was not read whole, so its identity is not known",
            )
        })?;
        let people = message.from.iter().chain(message.recipients()).filter_map(|p| p.address.as_ref());
        let smart = match view.settings().disable_smart_matching_email_hash_creation {
            true => email_router_crm::SmartHashes::default(),
            false => view.smart().hashes(&message.subject, people),
        };
        Ok(IncomingEmail { smart, ..self.email(activity_id, message, content) })
    }

    /// Whether a recipient is a user or queue that the view does not know: it came into the CRM after the view was read, so what was decided
    /// may be wrong.
    #[must_use]
    pub fn view_is_outdated(&self) -> bool {
        self.record.steps.iter().any(|step| step.rule == recipients::UNKNOWN)
    }

    /// For a duplicate whose [`Decision::requeue`] is set: the e-mail to hand to
    /// [`CrmClient::deliver_incoming`], which then only adds the queue item. It carries the id of the activity that is there and no content.
    #[must_use]
    pub fn into_requeue(mut self, message: &Message) -> Option<IncomingEmail> {
        let queue = self.requeue.take()?;
        let activity_id = self.activity_id?;
        self.queues = vec![queue];
        Some(self.email(activity_id, message, Content::default()))
    }

    fn email(self, activity_id: ActivityId, message: &Message, content: Content) -> IncomingEmail {
        let (regarding, correlated_activity, parent_activity, tracking_token) = match self.hit {
            Some(hit) => {
                let (parent, regarding) = (hit.parent(), hit.regarding().cloned());
                let token = if hit.counts() { hit.token } else { None };
                (regarding, Some(hit.email.activity_id), parent, token)
            }
            None => (None, None, None, None),
        };
        IncomingEmail {
            activity_id,
            message_id: message.message_id.clone(),
            in_reply_to: message.in_reply_to.first().cloned(),
            references: message.references.clone(),
            conversation_index: message.thread_index.clone(),
            subject: message.subject.clone(),
            body: content.body,
            body_mime_type: content.body_mime_type,
            parties: self.parties,
            regarding,
            correlated_activity,
            parent_activity,
            correlation_method: self.correlation_method,
            tracking_token,
            owner: self.owner,
            queues: self.queues.into_iter().map(|q| q.id).collect(),
            accepting: self.accepting,
            receiving: self.receiving,
            submitted_by: Some(self.submitted_by),
            is_duplicate_sender_unresolved: self.is_duplicate_sender_unresolved,
            received_on: message.received,
            sent_on: message.date,
            priority: message.priority,
            attachments: content.attachments,
            removed_parts: content.removed_parts,
            text_body: content.text_body,
            category: self.automatic.map(|a| format!("automatic: {}", a.kind.as_str())),
            subcategory: content.subcategory,
            conversation_id: message.conversation_id.clone(),
            smart: email_router_crm::SmartHashes::default(),
            new_sender: self.new_sender,
        }
    }
}

/// Collects the steps of a decision.
#[derive(Debug)]
struct Trace {
    steps: Vec<Step>,
    /// When the last step was written, where steps are timed.
    since: Option<Instant>,
}

impl Trace {
    /// At most this many steps of one rule are kept: a message to a thousand people must not hide what follows.
    const MAX_OF_A_RULE: usize = 50;

    fn new(timed: bool) -> Self {
        Self { steps: Vec::new(), since: timed.then(Instant::now) }
    }

    /// What this router would have refused a message for that the CRM wants.
    fn overruled(&mut self, because: &str) {
        self.step("overruled by the CRM", because);
    }

    fn step(&mut self, rule: impl Into<String>, found: impl Into<String>) {
        let rule = rule.into();
        let same = self.steps.iter().rev().take_while(|s| s.rule == rule).count();
        if same > Self::MAX_OF_A_RULE {
            return;
        }
        let found = if same == Self::MAX_OF_A_RULE { "and more".to_owned() } else { found.into() };
        let micros = self.since.map(|since| u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX));
        self.steps.push(Step { rule, found, micros });
        self.since = self.since.map(|_| Instant::now());
    }
}

/// What every decision about a message has in common.
struct Draft<'a> {
    view: &'a OrganizationView,
    mailbox: &'a MailboxContext<'a>,
    message: &'a Message,
    own: Option<&'a OwnMail>,
    /// The activity it becomes, once its identity is known.
    activity_id: Option<ActivityId>,
    automatic: Option<Automatic>,
    report: Option<DeliveryReport>,
    /// A person tracks it by hand.
    released: bool,
}

impl Draft<'_> {
    /// At most this many parties stand in the decision record.
    const MAX_PARTIES_SHOWN: usize = 200;

    /// Why automatic mail of this kind is not tracked; `None` when it is.
    fn refused_as_automatic(&self) -> Option<String> {
        let Automatic { kind, evidence } = self.automatic.as_ref()?;
        let settings = self.view.settings();
        let (policy, name) = if kind.is_report() {
            (settings.delivery_reports, "deliveryreports")
        } else {
            (settings.automatic_mail, "automaticmail")
        };
        (policy == AutomaticMail::Discard && *kind != AutomaticKind::List).then(|| {
            format!("it is automatic mail, {} ({evidence}), which is not tracked ({name})", kind.as_str())
        })
    }

    fn discard(&self, reason: ReasonCode, because: String, trace: Trace) -> Decision {
        self.end(Verdict::Discard, reason, because, trace)
    }

    /// What is left when it is clear that the message is delivered: owner, queue items, parties, effects of the correlation.
    fn deliver(
        &self,
        (reason, because): (ReasonCode, String),
        accepting: Option<&CrmMailbox>,
        (from, question): (&EmailAddress, &Question<'_>),
        recipients: &Recipients<'_>,
        correlation: Correlation,
        mut trace: Trace,
    ) -> Decision {
        let Question { sender, resolved, .. } = *question;
        let (view, message) = (self.view, self.message);
        let created = unknown::table(view, message, from, resolved, self.released, &mut trace)
            .map(|table| RecordRef::derive(view.id(), table, from));
        let parties = parties::parties(message, (from, sender), resolved, created.as_ref(), view.settings());
        if parties.len() > Self::MAX_PARTIES_SHOWN {
            let shown = Self::MAX_PARTIES_SHOWN;
            trace
                .step("parties", format!("{} parties, of which the first {shown} are listed", parties.len()));
        }
        let owner =
            owner::owner(self.view, &recipients.mailboxes, correlation.counting(), sender, &mut trace);
        let queues = queues::queues(self.view, recipients, owner.as_ref(), &mut trace);
        let mut decision = self.end(Verdict::Deliver, reason, because, trace);
        let (parties, noted): (Vec<_>, Vec<_>) = parties.into_iter().unzip();
        decision.record.parties = noted;
        decision.record.parties.truncate(Self::MAX_PARTIES_SHOWN);
        decision.new_sender = created.map(|record| NewSender {
            record,
            name: parties.first().and_then(|p| p.name.clone()).unwrap_or_else(|| from.to_string()),
            address: from.clone(),
            owner: owner.clone(),
        });
        decision.parties = parties;
        decision.is_duplicate_sender_unresolved = sender.is_duplicate_unresolved;
        decision.accepting = accepting.map(|a| a.record.clone());
        decision.record.owner.clone_from(&owner);
        decision.owner = owner;
        decision.record.queues.clone_from(&queues);
        decision.queues = queues;
        decision.correlation_method = correlation.method;
        if let Some(hit) = correlation.hit {
            decision.record.correlated = Some(hit.record());
            decision.record.regarding = hit.regarding().cloned();
            decision.hit = Some(hit);
        }
        decision
    }

    fn end(&self, verdict: Verdict, reason: ReasonCode, because: String, trace: Trace) -> Decision {
        let activity_id = self.activity_id.filter(|_| verdict == Verdict::Deliver);
        let record = DecisionRecord {
            mailbox: self.mailbox.mailbox.address.to_string(),
            remote_id: None,
            message_id: self.message.message_id.clone(),
            subject: self.message.subject.clone(),
            from: self.message.from_shown(),
            verdict,
            reason,
            because,
            steps: trace.steps,
            activity_id,
            correlated: None,
            owner: None,
            regarding: None,
            queues: Vec::new(),
            parties: Vec::new(),
            automatic: self.automatic.as_ref().map(|a| a.kind.as_str().to_owned()),
            written: None,
            attached: Vec::new(),
        };
        Decision {
            automatic: self.automatic.clone(),
            report: self.report.clone(),
            verdict,
            reason,
            activity_id,
            hit: None,
            correlation_method: CorrelationMethod::None,
            parties: Vec::new(),
            new_sender: None,
            owner: None,
            queues: Vec::new(),
            accepting: None,
            receiving: self.mailbox.record.clone(),
            submitted_by: self.mailbox.mailbox.address.clone(),
            is_duplicate_sender_unresolved: false,
            requeue: None,
            own_mail: self.own.map(|own| own.activity_id),
            record,
        }
    }
}

#[cfg(test)]
mod tests;
