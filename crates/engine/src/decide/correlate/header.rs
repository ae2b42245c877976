//! In-Reply-To and References: ids of e-mails that the CRM has, and references that this router signed.

use std::collections::HashSet;

use email_router_crm::{CorrelationMethod, EmailSummary, HitPolicy};
use email_router_model::{ActivityId, MessageId};

use super::{Hit, Methods, Question, newness};
use crate::Result;
use crate::decide::Trace;
use crate::ports::CorrelationIndex;
use crate::reference::Reference;

/// An id that the message names.
struct Named<'a> {
    how: &'static str,
    id: &'a MessageId,
    reference: Reference,
}

pub(super) async fn find(
    question: &Question<'_>,
    on: Methods,
    index: &dyn CorrelationIndex,
    trace: &mut Trace,
) -> Result<Option<Hit>> {
    let named = named(question, on);
    let Some(first) = named.first() else {
        trace.step("correlate in_reply_to", "there is no In-Reply-To and no References to look for");
        return Ok(None);
    };
    let forged = question.view.settings().forged_reference;
    // a signed reference says which e-mail it is, whatever Message-ID the CRM has for it
    let activities: Vec<ActivityId> = named
        .iter()
        .filter_map(|n| match n.reference {
            Reference::Signed(activity) => Some(activity),
            _ => None,
        })
        .collect();
    let ids: Vec<MessageId> = named
        .iter()
        .filter(|n| match n.reference {
            Reference::Plain => true,
            Reference::Forged(_) => forged != HitPolicy::Refuse,
            Reference::Signed(_) => false,
        })
        .map(|n| n.id.clone())
        .collect();
    let by_activity = if activities.is_empty() { Vec::new() } else { index.by_ids(&activities).await? };
    let by_id = if ids.is_empty() { Vec::new() } else { index.by_message_ids(&ids).await? };
    for Named { how, id, reference } in &named {
        let rule = format!("correlate {how}");
        let email = match reference {
            Reference::Signed(activity) => {
                let email = by_activity.iter().find(|e| e.activity_id == *activity);
                if email.is_none() {
                    trace.step(
                        rule,
                        format!("{id} is signed by this router for {activity}, which the CRM does not have"),
                    );
                    continue;
                }
                email
            }
            Reference::Forged(_) if forged == HitPolicy::Refuse => {
                trace.step(
                    rule,
                    format!("{id} is forged: its signature is wrong; not looked for (forgedreference)"),
                );
                continue;
            }
            Reference::Plain | Reference::Forged(_) => newest(&by_id, id),
        };
        let is_forged = matches!(reference, Reference::Forged(_));
        let Some(email) = email.filter(|e| !question.is_itself(e)) else {
            if is_forged {
                trace.step(rule, format!("{id} is forged: its signature is wrong; no e-mail has this id"));
            }
            continue;
        };
        let what = format!("{id} is {:?}", email.subject);
        if question.is_unwanted_forward(email) {
            trace.step(rule, format!("{what}, but this looks like a forward of it: not taken"));
            continue;
        }
        let mut hit = Hit::new(email, CorrelationMethod::InReplyTo, how);
        let note = match (reference, forged) {
            (Reference::Signed(_), _) => ", signed by this router",
            (Reference::Forged(_), HitPolicy::Weak) => {
                hit.named_only = true;
                "; forged: its signature is wrong, so nothing is taken from it (forgedreference)"
            }
            (Reference::Forged(_), _) => {
                "; forged: its signature is wrong; it counts all the same (forgedreference)"
            }
            (Reference::Plain, _) => "",
        };
        trace.step(rule, format!("{what} ({}){note}", email.activity_id));
        let tokens = question.view.tokens().find(&question.message.subject);
        hit.token = email
            .tracking_token
            .clone()
            .filter(|token| tokens.iter().any(|t| t.text.eq_ignore_ascii_case(token)));
        return Ok(Some(hit));
    }
    trace.step(
        "correlate in_reply_to",
        format!(
            "none of {} ids (first looked for: {}) is an e-mail of the CRM",
            named.len(),
            first.id.as_str()
        ),
    );
    Ok(None)
}

/// The ids in the order in which they are tried, each once.
fn named<'a>(question: &Question<'a>, on: Methods) -> Vec<Named<'a>> {
    let message = question.message;
    let in_reply_to = message.in_reply_to.iter().filter(|_| on.in_reply_to).map(|id| ("in_reply_to", id));
    let references = message.references.iter().rev().filter(|_| on.references).map(|id| ("references", id));
    let (mut ids, mut activities) = (HashSet::new(), HashSet::new());
    in_reply_to
        .chain(references)
        // a message that names itself answers nothing
        .filter(|(_, id)| Some(*id) != message.message_id.as_ref() && ids.insert(*id))
        .map(|(how, id)| {
            let reference = question.signer.map_or(Reference::Plain, |s| s.judge(question.view.id(), id));
            Named { how, id, reference }
        })
        // an e-mail stands there by its Message-ID and by its reference
        .filter(|named| match named.reference {
            Reference::Signed(activity) => activities.insert(activity),
            Reference::Plain | Reference::Forged(_) => true,
        })
        .collect()
}

fn newest<'e>(found: &'e [EmailSummary], id: &MessageId) -> Option<&'e EmailSummary> {
    found.iter().filter(|e| e.message_id.as_ref() == Some(id)).max_by_key(|e| newness(e))
}
