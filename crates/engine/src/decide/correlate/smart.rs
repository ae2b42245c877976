//! Smart matching: the words of the subject and the addresses (`crm-contract.md` 8.4 and 13.4).

use std::time::Duration;

use email_router_crm::{AutomaticMail, CorrelationMethod, EmailSummary, SmartQuery};
use email_router_model::{ActivityId, Timestamp};

use super::{Hit, MAX_CANDIDATES, Question};
use crate::Result;
use crate::decide::Trace;
use crate::ports::CorrelationIndex;

const RULE: &str = "correlate smart_matching";

pub(super) async fn find(
    question: &Question<'_>,
    index: &dyn CorrelationIndex,
    trace: &mut Trace,
) -> Result<Option<Hit>> {
    let settings = question.view.settings();
    if settings.disable_smart_matching_email_hash_creation {
        trace.step(RULE, "skipped: no hashes are made (DisableSmartMatchingEmailHashCreation)");
        return Ok(None);
    }
    if question.automatic && settings.automatic_mail != AutomaticMail::Track {
        trace.step(RULE, "skipped: the mail is automatic (automaticmail)");
        return Ok(None);
    }
    let hasher = question.view.smart();
    if let Some(problem) = hasher.problem() {
        trace.step(RULE, problem);
    }
    let words = hasher.words(&question.message.subject);
    if words.fell_back {
        trace.step(
            RULE,
            "hashfilterkeywords took too many steps on this subject; Dataverse's default was applied",
        );
    }
    let delta = settings.hash_delta_subject_count;
    let shown = words.words.join(" ");
    if words.words.is_empty() {
        trace.step(RULE, "the subject has no words to compare");
        return Ok(None);
    }
    if settings.smart_matching_common_subject_guard && words.say_little(delta) {
        trace.step(
            RULE,
            format!("the words {shown:?} say too little to tell a conversation by them (smartmatchingcommonsubjectguard)"),
        );
        return Ok(None);
    }
    let query = SmartQuery {
        hashes: hasher.hashes(&question.message.subject, question.addresses()),
        delta,
        min_addresses: settings.hash_min_address_count,
        not_before: not_before(question, settings.smart_matching_window_days),
    };
    let found = index.by_smart(&query, MAX_CANDIDATES).await?;
    let mut candidates: Vec<&EmailSummary> =
        found.iter().filter(|e| query.matches(e) && !question.is_itself(e)).collect();
    candidates.sort_by_key(|e| std::cmp::Reverse(rank(&query, e)));
    let Some(best) = candidates.first() else {
        trace.step(
            RULE,
            format!(
                "no e-mail has the words {shown:?} and {} of the {} addresses",
                query.min_addresses,
                query.hashes.addresses.len()
            ),
        );
        return Ok(None);
    };
    let name = |e: &EmailSummary| format!("{:?} ({})", e.subject, e.activity_id);
    if let Some(second) = candidates.get(1)
        && let (Some(one), Some(other)) = (&best.regarding, &second.regarding)
        && one != other
    {
        trace.step(
            RULE,
            format!(
                "ambiguous, so neither is taken: {} is about {one}, {} is about {other}",
                name(best),
                name(second)
            ),
        );
        return Ok(None);
    }
    let among = if candidates.len() > 1 { format!(", best of {}", candidates.len()) } else { String::new() };
    trace.step(
        RULE,
        format!(
            "{} has the words {shown:?} and {} of the addresses{among}",
            name(best),
            common(&query, best)
        ),
    );
    Ok(Some(Hit::new(best, CorrelationMethod::SmartMatching, "smart_matching")))
}

/// The beginning of the window, counted back from the message, not from now: the same message gets the same answer at any time. Without
/// a date there is no window.
fn not_before(question: &Question<'_>, days: u32) -> Timestamp {
    let message = question.message;
    match message.received.or(message.date) {
        Some(at) => {
            at.saturating_sub(Duration::from_secs(u64::from(days) * 86_400)).unwrap_or(Timestamp::MIN)
        }
        None => Timestamp::MIN,
    }
}

/// The better, the greater: how much the subjects agree, then the score of `crm-contract.md` 13.4 in thousandths (1 for an e-mail in the
/// other direction, up to 2 for common addresses), then the newest.
fn rank(query: &SmartQuery, email: &EmailSummary) -> (usize, usize, Timestamp, ActivityId) {
    let words = email.smart.words.iter().filter(|w| query.hashes.words.binary_search(w).is_ok()).count();
    let most_words = email.smart.words.len().max(query.hashes.words.len());
    let most = email.smart.addresses.len().max(query.hashes.addresses.len()).max(1);
    let score = usize::from(email.outgoing) * 1000 + 2000 * common(query, email) / most;
    (usize::MAX - (most_words - words), score, email.created_on, email.activity_id)
}

fn common(query: &SmartQuery, email: &EmailSummary) -> usize {
    email.smart.addresses.iter().filter(|a| query.hashes.addresses.binary_search(a).is_ok()).count()
}
