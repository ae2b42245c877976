//! Which e-mail of the CRM a message answers (`crm-contract.md` 8 and 13.2, 13.3).
//!
//! In-Reply-To, then References, then tracking tokens; the first hit wins. Conversation index and smart matching go behind tokens.

use std::collections::HashSet;

use email_router_crm::{CorrelationMethod, EmailSummary};
use email_router_model::{ActivityId, EmailAddress, MessageId, RecordRef};

use super::parties::{Resolved, Sender};
use super::token::Token;
use super::{OrganizationView, Trace};
use crate::message::Message;
use crate::ports::CorrelationIndex;
use crate::{Result, record::CorrelatedRecord};

/// At most this many e-mails with one token are compared; after a wrap of the counter the newest ones are what matters.
const MAX_CANDIDATES: usize = 50;

/// The e-mail a message answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// That e-mail.
    pub email: EmailSummary,
    /// How it was found, as Dataverse counts it: References count as [`CorrelationMethod::InReplyTo`].
    pub method: CorrelationMethod,
    /// How it was found: `in_reply_to`, `references` or `tracking_token`.
    pub how: &'static str,
    /// The token both have. Not set for a weak hit, so that a stranger who quotes a token cannot make it his.
    pub token: Option<String>,
    /// A token hit whose sender and other recipients have nothing to do with the e-mail that was found.
    pub weak: bool,
}

impl Hit {
    /// The e-mail, where it counts as the parent: for hits by header (`crm-contract.md` 8.1).
    #[must_use]
    pub fn parent(&self) -> Option<ActivityId> {
        (self.method == CorrelationMethod::InReplyTo).then_some(self.email.activity_id)
    }

    pub(super) fn record(&self) -> CorrelatedRecord {
        CorrelatedRecord {
            activity_id: self.email.activity_id,
            subject: self.email.subject.clone(),
            method: self.how.to_owned(),
            weak: self.weak,
        }
    }
}

/// What correlation found, and what `correlationmethod` says when it found nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Correlation {
    pub(super) hit: Option<Hit>,
    pub(super) method: CorrelationMethod,
}

/// What correlation looks at.
pub(super) struct Question<'a> {
    pub(super) view: &'a OrganizationView,
    pub(super) message: &'a Message,
    pub(super) sender: &'a Sender,
    pub(super) resolved: &'a Resolved,
}

pub(super) async fn correlate(
    question: &Question<'_>,
    index: &dyn CorrelationIndex,
    trace: &mut Trace,
) -> Result<Correlation> {
    let settings = question.view.settings();
    let by_header = settings.email_correlation_enabled
        && !settings.ignore_conversation_index_and_in_reply_to_for_correlation;
    let by_token = settings.use_tracking_token;
    if !by_header && !by_token {
        trace.step("correlate", "skipped: correlation is switched off");
        return Ok(Correlation { hit: None, method: CorrelationMethod::Skipped });
    }
    let mut hit = None;
    if by_header {
        hit = header_hit(question, index, trace).await?;
    } else {
        trace.step("correlate in_reply_to", "skipped: switched off");
    }
    if hit.is_none() {
        if by_token {
            hit = token_hit(question, index, trace).await?;
        } else {
            trace.step("correlate tracking_token", "skipped: switched off");
        }
    }
    let method = hit.as_ref().map_or(CorrelationMethod::None, |h| h.method);
    Ok(Correlation { hit, method })
}

async fn header_hit(
    question: &Question<'_>,
    index: &dyn CorrelationIndex,
    trace: &mut Trace,
) -> Result<Option<Hit>> {
    let (message, settings) = (question.message, question.view.settings());
    let references: &[MessageId] = if settings.use_references { &message.references } else { &[] };
    let mut seen = HashSet::new();
    let wanted: Vec<(&'static str, &MessageId)> = message
        .in_reply_to
        .iter()
        .map(|id| ("in_reply_to", id))
        .chain(references.iter().rev().map(|id| ("references", id)))
        // a message that names itself answers nothing
        .filter(|(_, id)| Some(*id) != message.message_id.as_ref() && seen.insert(*id))
        .collect();
    if wanted.is_empty() {
        trace.step("correlate in_reply_to", "there is no In-Reply-To and no References to look for");
        return Ok(None);
    }
    let ids: Vec<MessageId> = wanted.iter().map(|(_, id)| (*id).clone()).collect();
    let found = index.by_message_ids(&ids).await?;
    for (how, id) in &wanted {
        let Some(email) =
            found.iter().filter(|e| e.message_id.as_ref() == Some(*id)).max_by_key(|e| newness(e))
        else {
            continue;
        };
        let rule = format!("correlate {how}");
        if settings.do_not_correlate_forwarded_emails_as_replies && looks_forwarded(message, email) {
            trace.step(
                rule,
                format!("{id} is {:?}, but this looks like a forward of it: not taken", email.subject),
            );
            continue;
        }
        trace.step(rule, format!("{id} is {:?} ({})", email.subject, email.activity_id));
        let token = email.tracking_token.clone().filter(|token| {
            question.view.tokens().find(&message.subject).iter().any(|t| t.text.eq_ignore_ascii_case(token))
        });
        let hit = Hit { email: email.clone(), method: CorrelationMethod::InReplyTo, how, token, weak: false };
        return Ok(Some(hit));
    }
    let last = wanted.first().map_or("", |(_, id)| id.as_str());
    trace.step(
        "correlate in_reply_to",
        format!("none of {} ids (first looked for: {last}) is an e-mail of the CRM", wanted.len()),
    );
    Ok(None)
}

/// Newest first, and the same answer whatever the order of the list.
fn newness(email: &EmailSummary) -> (email_router_model::Timestamp, ActivityId) {
    (email.created_on, email.activity_id)
}

/// A forward: a forward prefix, and nobody who got the old mail has to do with the new one (`crm-contract.md` 13.2).
fn looks_forwarded(message: &Message, old: &EmailSummary) -> bool {
    // English, German, French, Spanish/Portuguese, Italian, Dutch, Swedish/Danish/Norwegian, Polish, Turkish, Chinese
    const PREFIXES: [&str; 13] =
        ["fw", "fwd", "wg", "tr", "rv", "enc", "i", "doorst", "vb", "vs", "pd", "ilt", "转发"];
    let Some((prefix, _)) = message.subject.split_once([':', '\u{ff1a}']) else { return false };
    if !PREFIXES.contains(&prefix.trim().to_lowercase().as_str()) {
        return false;
    }
    let new: HashSet<String> = message
        .from
        .iter()
        .chain(message.recipients())
        .filter_map(|p| p.address.as_ref())
        .map(EmailAddress::key)
        .collect();
    !old.parties
        .iter()
        .filter(|p| p.participation != email_router_crm::ParticipationType::Sender)
        .filter_map(|p| p.address.as_ref())
        .any(|a| new.contains(&a.key()))
}

async fn token_hit(
    question: &Question<'_>,
    index: &dyn CorrelationIndex,
    trace: &mut Trace,
) -> Result<Option<Hit>> {
    let tokens = question.view.tokens().find(&question.message.subject);
    if tokens.is_empty() {
        trace.step("correlate tracking_token", "the subject has no token");
        return Ok(None);
    }
    // last to first, since the newest is appended last; tokens of today's width before others
    let (current, other): (Vec<&Token>, Vec<&Token>) = tokens.iter().rev().partition(|t| t.current_width);
    for token in current.into_iter().chain(other) {
        let candidates = index.by_token(&token.text, MAX_CANDIDATES).await?;
        let own = question.message.message_id.as_ref();
        let best = candidates
            .iter()
            .filter(|e| own.is_none() || e.message_id.as_ref() != own)
            .max_by_key(|e| (verified(question, e), same_subject(question, e), newness(e)));
        let Some(email) = best else {
            trace.step("correlate tracking_token", format!("no e-mail has the token {}", token.text));
            continue;
        };
        let weak = !verified(question, email);
        let among =
            if candidates.len() > 1 { format!(", best of {}", candidates.len()) } else { String::new() };
        let what = format!("{} is {:?} ({}){among}", token.text, email.subject, email.activity_id);
        if weak && !question.view.settings().allow_weak_token {
            trace.step(
                "correlate tracking_token",
                format!("{what}, but neither sender nor other recipients belong to it: not taken (allowweaktoken is off)"),
            );
            continue;
        }
        let note = if weak { "; weak: neither sender nor other recipients belong to it" } else { "" };
        trace.step("correlate tracking_token", format!("{what}{note}"));
        return Ok(Some(Hit {
            email: email.clone(),
            method: CorrelationMethod::TrackingToken,
            how: "tracking_token",
            token: (!weak).then(|| token.text.clone()),
            weak,
        }));
    }
    Ok(None)
}

/// Whether the sender, or a recipient who is no user or queue of the CRM, belongs to the e-mail: as a party by address or record, or as
/// the record it is about.
///
/// Users and queues among the recipients prove nothing: whoever writes to the shop's one address and quotes a token would pass.
fn verified(question: &Question<'_>, email: &EmailSummary) -> bool {
    let Question { view, message, sender, resolved } = question;
    let belongs_record = |record: &RecordRef| {
        email.regarding.as_ref() == Some(record)
            || email.parties.iter().any(|p| p.record.as_ref() == Some(record))
    };
    let belongs_address =
        |address: &EmailAddress| email.parties.iter().any(|p| p.address.as_ref() == Some(address));
    if sender.record.as_ref().is_some_and(belongs_record) {
        return true;
    }
    if message.from.iter().filter_map(|p| p.address.as_ref()).any(belongs_address) {
        return true;
    }
    message.recipients().filter_map(|p| p.address.as_ref()).any(|address| {
        let rows = resolved.of(address);
        let ours = view.mailboxes_at(address).next().is_some()
            || rows.iter().any(|r| matches!(r.record.table.as_str(), "systemuser" | "queue"));
        !ours && (belongs_address(address) || rows.iter().any(|r| belongs_record(&r.record)))
    })
}

fn same_subject(question: &Question<'_>, email: &EmailSummary) -> bool {
    let tokens = question.view.tokens();
    tokens.base_subject(&email.subject) == tokens.base_subject(&question.message.subject)
}
