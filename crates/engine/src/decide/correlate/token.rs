//! Tracking tokens in the subject (`crm-contract.md` 13.3).

use email_router_crm::token::Token;
use email_router_crm::{CorrelationMethod, EmailSummary};
use email_router_model::{EmailAddress, RecordRef};

use super::{Hit, MAX_CANDIDATES, Question, newness};
use crate::Result;
use crate::decide::Trace;
use crate::ports::CorrelationIndex;

const RULE: &str = "correlate tracking_token";

/// The e-mail of the first token, from the last one in the subject to the first, that is verified; else the first weak hit.
pub(super) async fn find(
    question: &Question<'_>,
    index: &dyn CorrelationIndex,
    trace: &mut Trace,
) -> Result<Option<Hit>> {
    let tokens = question.view.tokens().find(&question.message.subject);
    if tokens.is_empty() {
        trace.step(RULE, "the subject has no token");
        return Ok(None);
    }
    // last to first, since the newest is appended last; tokens of today's width before others
    let (current, other): (Vec<&Token>, Vec<&Token>) = tokens.iter().rev().partition(|t| t.current_width);
    let mut first_weak = None;
    for token in current.into_iter().chain(other) {
        let candidates = index.by_token(&token.text, MAX_CANDIDATES).await?;
        let best = candidates
            .iter()
            .filter(|e| !question.is_itself(e))
            .max_by_key(|e| (verified(question, e), same_subject(question, e), newness(e)));
        let Some(email) = best else {
            trace.step(RULE, format!("no e-mail has the token {}", token.text));
            continue;
        };
        let among =
            if candidates.len() > 1 { format!(", best of {}", candidates.len()) } else { String::new() };
        let what = format!("{} is {:?} ({}){among}", token.text, email.subject, email.activity_id);
        let mut hit = Hit::new(email, CorrelationMethod::TrackingToken, "tracking_token");
        if verified(question, email) {
            trace.step(RULE, what);
            hit.token = Some(token.text.clone());
            return Ok(Some(hit));
        }
        if !question.view.settings().allow_weak_token {
            trace.step(
                RULE,
                format!("{what}, but neither sender nor other recipients belong to it: not taken (allowweaktoken is off)"),
            );
            continue;
        }
        trace.step(RULE, format!("{what}; weak: neither sender nor other recipients belong to it"));
        hit.weak = true;
        first_weak = first_weak.or(Some(hit));
    }
    Ok(first_weak)
}

/// Whether the sender, or a recipient who is no user or queue of the CRM, belongs to the e-mail: as a party by address or record, or as
/// the record it is about.
///
/// Users and queues among the recipients prove nothing: whoever writes to the shop's one address and quotes a token would pass.
fn verified(question: &Question<'_>, email: &EmailSummary) -> bool {
    let Question { view, message, sender, resolved, .. } = question;
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
