//! Forward mailboxes: a rule in each user's or queue's mailbox sends every message on, as an attachment, and the originals are
//! routed as if they had been found where they came from.
//!
//! # Who an original belongs to
//! Its recipients, as for any message. Where none of them is a user or queue (it came by Bcc or through a list), the mailbox whose rule
//! forwarded it, which is the author of the wrapper. The documentation of the original product does not say; this is our rule.
//!
//! # When the wrapper is settled
//! When all originals in it are: a wrapper is delivered if one of them became an activity, discarded if none did. An original that has to
//! wait makes the wrapper wait; those before it are found as their own duplicates the next time. An original that cannot be routed for
//! good, a wrapper without an original, and a wrapper that went in a circle are undeliverable: the wrapper goes to quarantine with the
//! reason.

use email_router_crm::{CrmMailbox, DeliveryMethod};
use email_router_model::{Classified as _, EmailAddress, MailboxKind, RawMessage, Scope};

use super::{IncomingParts, blank_record};
use crate::decide::{Decision, MailboxContext, OrganizationView};
use crate::message::{Attached, Message};
use crate::record::{DecisionRecord, Verdict};
use crate::{Error, IncomingSettings, Result};

/// Wrappers within wrappers that are opened: a message may pass several forward mailboxes.
const MAX_DEPTH: usize = 5;

/// What became of a wrapper.
#[derive(Debug)]
pub(super) struct Unwrapped {
    /// The decision, with those about the originals.
    pub(super) record: DecisionRecord,
    /// The class in quarantine, when it is undeliverable.
    pub(super) class: &'static str,
}

/// What is done with each original: nothing but deciding, or carrying out too.
pub(super) trait Carry {
    async fn carry(
        &mut self,
        raw: &RawMessage,
        message: &Message,
        decision: Decision,
    ) -> Result<DecisionRecord>;
}

impl IncomingParts {
    /// Routes the originals in a message from a forward mailbox. `None`: it is no wrapper but a message to the forward mailbox itself
    /// (a delivery report), to be decided like any other.
    ///
    /// # Errors
    /// What keeps an original from being settled now.
    pub(super) async fn unwrap(
        &self,
        view: &OrganizationView,
        context: &MailboxContext<'_>,
        settings: &IncomingSettings,
        raw: &RawMessage,
        release: bool,
        carry: &mut impl Carry,
    ) -> Result<Option<Unwrapped>> {
        let wrapper = Message::parse(raw, &settings.caps);
        if wrapper.automatic().is_some_and(|a| a.kind.is_report()) {
            return Ok(None);
        }
        let mut record = blank_record(&wrapper, Verdict::Discard, String::new());
        record.mailbox = context.mailbox.address.to_string();
        let undeliverable = |mut record: DecisionRecord, class, because: String| {
            record.verdict = Verdict::Undeliverable;
            record.because = because;
            Ok(Some(Unwrapped { record, class }))
        };
        if let Some(why) = circle(view, context, &wrapper) {
            return undeliverable(record, "forward-loop", why);
        }
        let forwarder = forwarder(view, &wrapper);
        if let Some(mailbox) = forwarder
            && mailbox.incoming != DeliveryMethod::ForwardMailbox
        {
            let why = format!(
                "{} {:?} forwards its mail, but its incoming delivery method in the CRM is not Forward Mailbox (3): set it, or take the \
                 rule out of its mailbox (InvalidForwardMailItem)",
                mailbox.kind, mailbox.name
            );
            return undeliverable(record, "invalid-forward-mail-item", why);
        }
        let (originals, unusable) = originals(view, raw, settings);
        if originals.is_empty() {
            let (class, why) = if Attached::read(raw, &settings.caps).looks_inline {
                (
                    "forwarded-inline",
                    "the message was forwarded in the text; its sender and recipients cannot be known for certain: let the rule forward it as an \
                     attachment",
                )
            } else {
                (
                    "no-attached-message",
                    "no message is attached to it: let the rule forward messages as attachments",
                )
            };
            let why =
                if unusable.is_empty() { why.to_owned() } else { format!("{why} ({})", unusable.join("; ")) };
            return undeliverable(record, class, why);
        }
        let inner = MailboxContext {
            mailbox: context.mailbox,
            record: forwarder.map(|m| m.record.clone()),
            forwarded: true,
        };
        let mut failed = unusable;
        for original in &originals {
            let message = Message::parse(original, &settings.caps);
            let decision = if release {
                self.decider.release(view, &inner, &message).await?
            } else {
                self.decider.decide(view, &inner, &message).await?
            };
            match carry.carry(original, &message, decision).await {
                Ok(decided) => record.attached.push(decided),
                // refused for good, this one alone: the others are routed all the same
                Err(error)
                    if error.scope() == Scope::Message
                        && error.retry() == email_router_model::Retry::Never =>
                {
                    let why = error.to_string();
                    failed.push(format!("{:?}: {why}", message.subject));
                    record.attached.push(blank_record(&message, Verdict::Undeliverable, why));
                }
                Err(error) => return Err(error),
            }
        }
        if !failed.is_empty() {
            let why = format!("not all attached messages could be routed: {}", failed.join("; "));
            return undeliverable(record, "attached-message-failed", why);
        }
        sum_up(&mut record);
        Ok(Some(Unwrapped { record, class: "" }))
    }
}

/// What became of the wrapper, from what became of its originals: the first activity stands for it.
fn sum_up(record: &mut DecisionRecord) {
    let best = record.attached.iter().find(|r| r.verdict == Verdict::Deliver).or(record.attached.first());
    if let Some(best) = best {
        (record.verdict, record.reason, record.activity_id) = (best.verdict, best.reason, best.activity_id);
        record.because = match record.attached.len() {
            1 => format!("the attached message: {}", best.because),
            n => {
                let delivered = record.attached.iter().filter(|r| r.verdict == Verdict::Deliver).count();
                format!("{delivered} of {n} attached messages delivered; the first: {}", best.because)
            }
        };
    }
}

/// Whether the wrapper went in a circle: a forward mailbox forwarded it, or it was delivered to this one before.
fn circle(view: &OrganizationView, context: &MailboxContext<'_>, wrapper: &Message) -> Option<String> {
    let is_forward =
        |address: &EmailAddress| view.mailboxes_at(address).any(|m| m.kind == MailboxKind::Forward);
    let author = wrapper.from.iter().chain(&wrapper.sender).filter_map(|p| p.address.as_ref());
    if let Some(address) = author.into_iter().find(|a| is_forward(a) || **a == context.mailbox.address) {
        return Some(format!(
            "it was sent by the forward mailbox {address}: forward mailboxes forward to each other; take the rule out of one of them"
        ));
    }
    let times = wrapper.envelope_to.iter().filter(|a| **a == context.mailbox.address).count();
    (times > 2).then(|| {
        format!(
            "it was delivered to {} {times} times (Delivered-To): it goes in a circle",
            context.mailbox.address
        )
    })
}

/// The user or queue whose rule forwarded the wrapper: its author.
fn forwarder<'v>(view: &'v OrganizationView, wrapper: &Message) -> Option<&'v CrmMailbox> {
    let authors = wrapper.from.iter().chain(&wrapper.sender).filter_map(|p| p.address.as_ref());
    authors.flat_map(|address| view.mailboxes_at(address)).find(|m| m.kind != MailboxKind::Forward)
}

/// The originals. An attached message that is itself a wrapper, sent to forward mailboxes only, is opened too.
fn originals(
    view: &OrganizationView,
    raw: &RawMessage,
    settings: &IncomingSettings,
) -> (Vec<RawMessage>, Vec<String>) {
    let mut originals = Vec::new();
    let mut unusable = Vec::new();
    let mut open = vec![(raw.clone(), 0)];
    while let Some((wrapper, depth)) = open.pop() {
        let attached = Attached::read(&wrapper, &settings.caps);
        unusable.extend(attached.unusable);
        // the last one is popped first, so that the order stays
        for message in attached.messages.into_iter().rev() {
            let header = Message::parse(&message, &settings.caps);
            let mut recipients = header.recipients().filter_map(|p| p.address.as_ref()).peekable();
            let is_wrapper = recipients.peek().is_some()
                && recipients.all(|a| view.mailboxes_at(a).any(|m| m.kind == MailboxKind::Forward))
                && !Attached::read(&message, &settings.caps).messages.is_empty();
            match is_wrapper {
                true if depth < MAX_DEPTH => open.push((message, depth + 1)),
                true => unusable.push(format!("{:?} lies in more than {MAX_DEPTH} wrappers", header.subject)),
                false => originals.push(message),
            }
        }
    }
    originals.reverse();
    (originals, unusable)
}

/// Only decides.
pub(super) struct DryRun<'a> {
    pub(super) view: &'a OrganizationView,
    pub(super) settings: &'a IncomingSettings,
}

impl Carry for DryRun<'_> {
    async fn carry(
        &mut self,
        raw: &RawMessage,
        message: &Message,
        decision: Decision,
    ) -> Result<DecisionRecord> {
        readable(message)?;
        Ok(super::planned(self.view, self.settings, raw, message, decision)?.record)
    }
}

/// Decides and delivers: backfill, retry from quarantine.
pub(super) struct AtHand<'a> {
    pub(super) parts: &'a IncomingParts,
    pub(super) view: &'a OrganizationView,
    pub(super) settings: &'a IncomingSettings,
}

impl Carry for AtHand<'_> {
    async fn carry(
        &mut self,
        raw: &RawMessage,
        message: &Message,
        decision: Decision,
    ) -> Result<DecisionRecord> {
        readable(message)?;
        self.parts.carry_out(self.view, self.settings, raw, message, decision).await
    }
}

pub(super) fn readable(message: &Message) -> Result<()> {
    match message.is_unreadable() {
        true => Err(Error::message("there is no header field in the attached message, so it is no message")),
        false => Ok(()),
    }
}
