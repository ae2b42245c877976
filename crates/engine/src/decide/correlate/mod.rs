//! Which e-mail of the CRM a message answers (`crm-contract.md` 8 and 13.2 to 13.4).
//!
//! The methods in their order; the first hit that counts wins. Each can be switched off.
//!
//! | file | method | e-mail becomes |
//! |---|---|---|
//! | `header.rs` | In-Reply-To, then References from the last to the first | correlated and parent |
//! | `token.rs` | tracking token in the subject | correlated |
//! | `conversation.rs` | conversation id of the mail system, then root of Thread-Index | correlated and parent |
//! | `smart.rs` | words of the subject and addresses | correlated |
//!
//! What an outside reader of the mail could have made up does not decide alone where the organization says so: a forged reference
//! (`forgedreference`), a sender who is not authenticated (`unauthenticatedsender`), a token of strangers (`allowweaktoken`).

mod conversation;
mod header;
mod smart;
mod token;

use std::collections::HashSet;

use email_router_crm::subject::{Prefix, strip_prefixes};
use email_router_crm::{CorrelationMethod, EmailSummary, HitPolicy, ParticipationType};
use email_router_model::{ActivityId, EmailAddress, RecordRef, Timestamp};

use super::parties::{Resolved, Sender};
use super::trust::{SenderTrust, Verdict, sender_trust};
use super::{OrganizationView, Trace};
use crate::message::Message;
use crate::ports::CorrelationIndex;
use crate::reference::{OwnMail, ReferenceSigner};
use crate::{Result, record::CorrelatedRecord};

/// At most this many e-mails with one token, of one conversation, or alike are compared; the newest ones are what matters.
const MAX_CANDIDATES: usize = 50;

/// The e-mail a message answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// That e-mail.
    pub email: EmailSummary,
    /// How it was found, as Dataverse counts it: References count as [`CorrelationMethod::InReplyTo`].
    pub method: CorrelationMethod,
    /// How it was found: `in_reply_to`, `references`, `tracking_token`, `conversation_id`, `conversation_index`, `smart_matching` or `delivery_report`.
    pub how: &'static str,
    /// The token both have. Not set for a weak hit, so that a stranger who quotes a token cannot make it his.
    pub token: Option<String>,
    /// A token hit whose sender and other recipients have nothing to do with the e-mail that was found. It [counts](Self::counts)
    /// all the same, as Microsoft has it.
    pub weak: bool,
    /// The organization lets it be named and nothing more ([`HitPolicy::Weak`]).
    pub named_only: bool,
}

impl Hit {
    /// Whether something is taken from the e-mail that was found, and filters accept because of it.
    #[must_use]
    pub fn counts(&self) -> bool {
        !self.named_only
    }

    /// The e-mail, where it counts as the parent: for hits by header and conversation (`crm-contract.md` 8.1).
    #[must_use]
    pub fn parent(&self) -> Option<ActivityId> {
        let parent =
            matches!(self.method, CorrelationMethod::InReplyTo | CorrelationMethod::ConversationIndex);
        (parent && self.counts()).then_some(self.email.activity_id)
    }

    /// The record that the e-mail is about, where it is taken over.
    #[must_use]
    pub fn regarding(&self) -> Option<&RecordRef> {
        self.email.regarding.as_ref().filter(|_| self.counts())
    }

    pub(super) fn record(&self) -> CorrelatedRecord {
        CorrelatedRecord {
            activity_id: self.email.activity_id,
            subject: self.email.subject.clone(),
            method: self.how.to_owned(),
            weak: self.weak || self.named_only,
        }
    }

    fn new(email: &EmailSummary, method: CorrelationMethod, how: &'static str) -> Self {
        Self { email: email.clone(), method, how, token: None, weak: false, named_only: false }
    }
}

/// What correlation found, and what `correlationmethod` says when it found nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Correlation {
    pub(super) hit: Option<Hit>,
    pub(super) method: CorrelationMethod,
}

impl Correlation {
    /// The hit, where filters, owner and regarding may go by it.
    pub(super) fn counting(&self) -> Option<&Hit> {
        self.hit.as_ref().filter(|hit| hit.counts())
    }
}

/// What correlation looks at.
pub(super) struct Question<'a> {
    pub(super) view: &'a OrganizationView,
    pub(super) message: &'a Message,
    pub(super) sender: &'a Sender,
    pub(super) resolved: &'a Resolved,
    /// The e-mail of the CRM that the message is, where the router's own mail came back.
    pub(super) own: Option<&'a OwnMail>,
    /// Checks references; without one all ids are alike.
    pub(super) signer: Option<&'a ReferenceSigner>,
    /// No person wrote it.
    pub(super) automatic: bool,
}

impl Question<'_> {
    /// Whether an e-mail is the message itself, or its sent copy: it is no answer to that.
    fn is_itself(&self, email: &EmailSummary) -> bool {
        let same_id = |id| email.message_id.as_ref() == Some(id);
        self.message.message_id.as_ref().is_some_and(same_id)
            || self.own.is_some_and(|own| own.activity_id == email.activity_id || same_id(&own.message_id))
    }

    /// A forward, which `DoNotCorrelateForwardedEmailsAsReplies` keeps out of the conversation: a forward prefix outermost, and nobody
    /// who got the old mail has to do with the new one (`crm-contract.md` 13.2).
    fn is_unwanted_forward(&self, old: &EmailSummary) -> bool {
        if !self.view.settings().do_not_correlate_forwarded_emails_as_replies {
            return false;
        }
        let subject = self.view.tokens().remove(&self.message.subject);
        if !matches!(strip_prefixes(&subject).outermost, Some(Prefix::Forward | Prefix::Either)) {
            return false;
        }
        let new: HashSet<String> = self.addresses().map(EmailAddress::key).collect();
        !old.parties
            .iter()
            .filter(|p| p.participation != ParticipationType::Sender)
            .filter_map(|p| p.address.as_ref())
            .any(|a| new.contains(&a.key()))
    }

    /// From, To, Cc, Bcc.
    fn addresses(&self) -> impl Iterator<Item = &EmailAddress> {
        self.message.from.iter().chain(self.message.recipients()).filter_map(|p| p.address.as_ref())
    }
}

/// Which methods are on.
#[derive(Debug, Clone, Copy)]
struct Methods {
    in_reply_to: bool,
    references: bool,
    token: bool,
    conversation: bool,
    smart: bool,
}

impl Methods {
    fn of(view: &OrganizationView) -> Self {
        let s = view.settings();
        let by_header =
            s.email_correlation_enabled && !s.ignore_conversation_index_and_in_reply_to_for_correlation;
        Self {
            in_reply_to: by_header && s.use_in_reply_to,
            references: by_header && s.use_references,
            token: s.use_tracking_token,
            conversation: by_header && s.use_conversation_index,
            smart: s.enable_smart_matching,
        }
    }
}

pub(super) async fn correlate(
    question: &Question<'_>,
    index: &dyn CorrelationIndex,
    trace: &mut Trace,
) -> Result<Correlation> {
    let on = Methods::of(question.view);
    if !(on.in_reply_to || on.references || on.token || on.conversation || on.smart) {
        trace.step("correlate", "skipped: correlation is switched off");
        return Ok(Correlation { hit: None, method: CorrelationMethod::Skipped });
    }
    let hit = first_hit(question, on, index, trace).await?;
    let method = hit.as_ref().map_or(CorrelationMethod::None, |h| h.method);
    Ok(Correlation { hit, method })
}

async fn first_hit(
    question: &Question<'_>,
    on: Methods,
    index: &dyn CorrelationIndex,
    trace: &mut Trace,
) -> Result<Option<Hit>> {
    let sender = SenderPolicy::of(question, trace);
    let off = |method: &str, trace: &mut Trace| {
        trace.step(format!("correlate {method}"), "skipped: switched off");
        None
    };
    let found = match on.in_reply_to || on.references {
        true => header::find(question, on, index, trace).await?,
        false => off("in_reply_to", trace),
    };
    if let Some(hit) = found.and_then(|hit| sender.admit(hit, trace)) {
        return Ok(Some(hit));
    }
    let found = match on.token {
        true => token::find(question, index, trace).await?,
        false => off("tracking_token", trace),
    };
    if let Some(hit) = found.and_then(|hit| sender.admit(hit, trace)) {
        return Ok(Some(hit));
    }
    let found = match on.conversation {
        true => conversation::find(question, index, trace).await?,
        false => off("conversation_index", trace),
    };
    if let Some(hit) = found.and_then(|hit| sender.admit(hit, trace)) {
        return Ok(Some(hit));
    }
    let found = match on.smart {
        true => smart::find(question, index, trace).await?,
        false => off("smart_matching", trace),
    };
    Ok(found.and_then(|hit| sender.admit(hit, trace)))
}

/// What hits may do because of who the sender is, or is not.
struct SenderPolicy(Option<HitPolicy>);

impl SenderPolicy {
    /// Asks the trusted mail servers, where the organization names some.
    fn of(question: &Question<'_>, trace: &mut Trace) -> Self {
        let settings = question.view.settings();
        if settings.trusted_authserv_ids.is_empty() {
            return Self(None);
        }
        let SenderTrust { verdict, because } = sender_trust(question.message, &settings.trusted_authserv_ids);
        trace.step("sender trust", format!("{verdict}: {because}"));
        Self((verdict == Verdict::Fail).then_some(settings.unauthenticated_sender))
    }

    fn admit(&self, mut hit: Hit, trace: &mut Trace) -> Option<Hit> {
        let what = match self.0 {
            None => return Some(hit),
            Some(HitPolicy::Accept) => "counts all the same",
            Some(HitPolicy::Weak) => "is named, and nothing is taken from it",
            Some(HitPolicy::Refuse) => "does not count",
        };
        let rule = format!("correlate {}", hit.how);
        trace.step(rule, format!("the sender is not authenticated; the hit {what} (unauthenticatedsender)"));
        hit.named_only |= self.0 == Some(HitPolicy::Weak);
        (self.0 != Some(HitPolicy::Refuse)).then_some(hit)
    }
}

/// Newest first, and the same answer whatever the order of the list.
fn newness(email: &EmailSummary) -> (Timestamp, ActivityId) {
    (email.created_on, email.activity_id)
}
