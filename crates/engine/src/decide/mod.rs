//! From a message to a decision: filter, correlation, parties, owner, queue items.
//!
//! The order of the steps is `crm-contract.md` 13.1. A decision needs only the header section, writes nothing, and depends on nothing
//! but the message, the [`OrganizationView`], and what the CRM answers; the order of the CRM's answers does not matter.
//!
//! | file | what |
//! |---|---|
//! | `recipients.rs` | which users and queues the message is for |
//! | `filter.rs` | the five filters |
//! | `correlate.rs`, `token.rs` | which e-mail it answers |
//! | `parties.rs` | who the addresses are |
//! | `owner.rs`, `queues.rs` | who owns it, where it is queued |
//! | `view.rs` | settings and mailboxes of the organization |
//! | `explain.rs` | the decision record as text |

mod correlate;
mod explain;
mod filter;
mod owner;
mod parties;
mod queues;
mod recipients;
mod release;
mod token;
mod view;

use std::collections::HashSet;
use std::sync::Arc;

use email_router_crm::{CorrelationMethod, CrmClient, CrmMailbox, IncomingEmail, Party};
use email_router_model::{ActivityId, EmailAddress, Mailbox, RecordRef};

pub use correlate::Hit;
pub use token::{Token, TokenFinder};
pub use view::OrganizationView;

use crate::message::{Content, Message};
use crate::ports::CorrelationIndex;
use crate::record::{DecisionRecord, ReasonCode, Step, Verdict};
use crate::{Error, Result};
use correlate::{Correlation, Question};
use parties::Resolved;
use recipients::Recipients;

/// The mailbox a message was found in.
#[derive(Debug, Clone)]
pub struct MailboxContext<'a> {
    /// The mailbox as the router reads it.
    pub mailbox: &'a Mailbox,
    /// Its user or queue in the CRM; `None` for a forward mailbox.
    pub record: Option<RecordRef>,
}

/// Decides about incoming messages of one organization. Can be shared and called from many tasks.
#[derive(Debug, Clone)]
pub struct Decider {
    crm: Arc<dyn CrmClient>,
    index: Arc<dyn CorrelationIndex>,
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
    /// For a duplicate: the queue that is to get an item of the activity that is there. [`Decision::into_requeue`] makes the call.
    pub requeue: Option<RecordRef>,
    /// Every step, for people.
    pub record: DecisionRecord,
}

impl Decider {
    /// A decider that asks this CRM and finds earlier e-mails through this index.
    #[must_use]
    pub fn new(crm: Arc<dyn CrmClient>, index: Arc<dyn CorrelationIndex>) -> Self {
        Self { crm, index }
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
        let mut trace = Trace::default();
        for defect in &message.defects {
            trace.step("read", defect.as_str());
        }
        let draft = Draft { view, mailbox, message };
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
        if let Some(existing) = self.duplicate(view, message, &mut trace).await? {
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
        // 3, 4: for a user or queue
        let resolved = self.resolve(message, from).await?;
        let recipients = recipients::recipients(view, mailbox, message, &resolved, &mut trace);
        if recipients.mailboxes.is_empty() {
            let because = "no recipient is a user or queue that gets its mail through the router".to_owned();
            return Ok(draft.discard(ReasonCode::NoRecipientMatch, because, trace));
        }
        let mailbox_owner = recipients.read.and_then(owner::mailbox_owner);
        let sender = parties::sender(&resolved, from, mailbox_owner, view.settings());
        trace.step("sender", sender.how.as_str());
        // 5: mail between users is evaluated like any other, which is Microsoft's default (crm-contract.md 7.5)
        // 6: what it answers, unless no filter asks
        let question = Question { view, message, sender: &sender, resolved: &resolved };
        let deciding = filter::deciding(view, &recipients);
        let mut correlation = None;
        if filter::needs_correlation(view, &deciding) {
            correlation = Some(correlate::correlate(&question, &*self.index, &mut trace).await?);
        }
        // 7: the filters
        let hit = correlation.as_ref().and_then(|c: &Correlation| c.hit.as_ref());
        let Some((accepting, reason)) = filter::accept(view, &deciding, &sender, hit, &mut trace) else {
            let because = "none of the recipients' filters accepts it".to_owned();
            return Ok(draft.discard(ReasonCode::NoCorrelationMatch, because, trace));
        };
        let correlation = match correlation {
            Some(correlation) => correlation,
            None => correlate::correlate(&question, &*self.index, &mut trace).await?,
        };
        let why = (reason, accepted_because(accepting, reason));
        Ok(draft.deliver(why, Some(accepting), &question, &recipients, correlation, trace))
    }

    /// The activity this message already is: by its derived id, or an incoming e-mail with its Message-ID that another program made.
    async fn duplicate(
        &self,
        view: &OrganizationView,
        message: &Message,
        trace: &mut Trace,
    ) -> Result<Option<ActivityId>> {
        let Some(id) = message.activity_id(view.id()) else {
            trace.step("duplicate", "no Message-ID; not known before the whole message is read");
            return Ok(None);
        };
        if self.crm.exists(&id).await? {
            trace.step("duplicate", format!("{id} exists"));
            return Ok(Some(id));
        }
        if let Some(message_id) = &message.message_id {
            let found = self.index.by_message_ids(std::slice::from_ref(message_id)).await?;
            // the sent copy of the same message is another e-mail (crm-contract.md 7.4)
            let same = found.iter().filter(|e| !e.outgoing && e.message_id.as_ref() == Some(message_id));
            if let Some(existing) = same.map(|e| (e.created_on, e.activity_id)).max() {
                trace.step("duplicate", format!("the incoming e-mail {} has this Message-ID", existing.1));
                return Ok(Some(existing.1));
            }
        }
        trace.step("duplicate", "no incoming e-mail with this identity");
        Ok(None)
    }

    /// All addresses of the message in one call.
    async fn resolve(&self, message: &Message, from: &EmailAddress) -> Result<Resolved> {
        let mut seen = HashSet::new();
        let addresses: Vec<EmailAddress> = std::iter::once(from)
            .chain(message.recipients().filter_map(|p| p.address.as_ref()))
            .filter(|a| seen.insert(a.key()))
            .cloned()
            .collect();
        let answer = self.crm.resolve(&addresses).await?;
        Ok(Resolved::new(&addresses, answer))
    }
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
        let activity_id = message.activity_id(view.id()).ok_or_else(|| {
            Error::message(
                "the message has no Message-ID and was not read whole, so its identity is not known",
            )
        })?;
        Ok(self.email(activity_id, message, content))
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
                let parent = hit.parent();
                (hit.email.regarding, Some(hit.email.activity_id), parent, hit.token)
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
        }
    }
}

/// Collects the steps of a decision.
#[derive(Debug, Default)]
struct Trace(Vec<Step>);

impl Trace {
    /// At most this many steps of one rule are kept: a message to a thousand people must not hide what follows.
    const MAX_OF_A_RULE: usize = 50;

    fn step(&mut self, rule: impl Into<String>, found: impl Into<String>) {
        let rule = rule.into();
        let same = self.0.iter().rev().take_while(|s| s.rule == rule).count();
        match same.cmp(&Self::MAX_OF_A_RULE) {
            std::cmp::Ordering::Less => self.0.push(Step { rule, found: found.into() }),
            std::cmp::Ordering::Equal => self.0.push(Step { rule, found: "and more".to_owned() }),
            std::cmp::Ordering::Greater => {}
        }
    }
}

/// What every decision about a message has in common.
struct Draft<'a> {
    view: &'a OrganizationView,
    mailbox: &'a MailboxContext<'a>,
    message: &'a Message,
}

impl Draft<'_> {
    fn discard(&self, reason: ReasonCode, because: String, trace: Trace) -> Decision {
        self.end(Verdict::Discard, reason, because, trace)
    }

    /// What is left when it is clear that the message is delivered: owner, queue items, parties, effects of the correlation.
    fn deliver(
        &self,
        (reason, because): (ReasonCode, String),
        accepting: Option<&CrmMailbox>,
        question: &Question<'_>,
        recipients: &Recipients<'_>,
        correlation: Correlation,
        mut trace: Trace,
    ) -> Decision {
        let Question { sender, resolved, .. } = *question;
        let owner =
            owner::owner(self.view, &recipients.mailboxes, correlation.hit.as_ref(), sender, &mut trace);
        let queues = queues::queues(self.view, recipients, &mut trace);
        let mut decision = self.end(Verdict::Deliver, reason, because, trace);
        decision.parties = parties::parties(self.message, sender, resolved, self.view.settings());
        decision.is_duplicate_sender_unresolved = sender.is_duplicate_unresolved;
        decision.accepting = accepting.map(|a| a.record.clone());
        decision.record.owner.clone_from(&owner);
        decision.owner = owner;
        decision.record.queues.clone_from(&queues);
        decision.queues = queues;
        decision.correlation_method = correlation.method;
        if let Some(hit) = correlation.hit {
            decision.record.correlated = Some(hit.record());
            decision.record.regarding.clone_from(&hit.email.regarding);
            decision.hit = Some(hit);
        }
        decision
    }

    fn end(&self, verdict: Verdict, reason: ReasonCode, because: String, trace: Trace) -> Decision {
        let activity_id =
            if verdict == Verdict::Deliver { self.message.activity_id(self.view.id()) } else { None };
        let record = DecisionRecord {
            mailbox: self.mailbox.mailbox.address.to_string(),
            remote_id: None,
            message_id: self.message.message_id.clone(),
            subject: self.message.subject.clone(),
            from: self.message.from_shown(),
            verdict,
            reason,
            because,
            steps: trace.0,
            activity_id,
            correlated: None,
            owner: None,
            regarding: None,
            queues: Vec::new(),
        };
        Decision {
            verdict,
            reason,
            activity_id,
            hit: None,
            correlation_method: CorrelationMethod::None,
            parties: Vec::new(),
            owner: None,
            queues: Vec::new(),
            accepting: None,
            receiving: self.mailbox.record.clone(),
            submitted_by: self.mailbox.mailbox.address.clone(),
            is_duplicate_sender_unresolved: false,
            requeue: None,
            record,
        }
    }
}

#[cfg(test)]
mod tests;
