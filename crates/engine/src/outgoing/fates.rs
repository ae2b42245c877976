//! Recipients of one e-mail with different fates: who has it, who was refused for good, who waits for the next attempt.

use std::collections::HashSet;

use email_router_crm::SendOutcome;
use email_router_model::{EmailAddress, Timestamp};
use email_router_transport::{Error, RecipientResult, RecipientStatus};

use crate::ports::{RecipientFates, RecipientWords};

/// How much is told about single recipients, in bytes: some hundred of the longest answers, so that a mailing to thousands that a
/// server refuses one by one does not fill the CRM.
const MAX_TOLD: usize = 64 * 1024;

/// What is known after an attempt at those who waited, in which the mail system said this about them.
pub(super) fn after(
    earlier: Option<RecipientFates>,
    results: &[RecipientResult],
    at: Timestamp,
) -> RecipientFates {
    let mut fates = earlier.unwrap_or(RecipientFates {
        at,
        accepted: Vec::new(),
        refused: Vec::new(),
        waiting: Vec::new(),
    });
    fates.at = at;
    fates.waiting.clear();
    for result in results {
        let words = || RecipientWords { address: result.address.clone(), reply: result.reply.clone() };
        match result.status {
            RecipientStatus::Accepted => fates.accepted.push(result.address.clone()),
            RecipientStatus::Refused => fates.refused.push(words()),
            RecipientStatus::RefusedForNow | RecipientStatus::TooMany => fates.waiting.push(words()),
        }
    }
    fates
}

/// Takes out of the recipients those whose fate is settled.
pub(super) fn keep_unsettled(fates: &RecipientFates, recipients: &mut Vec<EmailAddress>) {
    let settled: HashSet<&EmailAddress> =
        fates.accepted.iter().chain(fates.refused.iter().map(|r| &r.address)).collect();
    recipients.retain(|r| !settled.contains(r));
}

/// Everybody who did not get it, when nothing more is tried.
pub(super) fn left_out(fates: &RecipientFates) -> Vec<String> {
    capped(fates.refused.iter().chain(&fates.waiting).map(ToString::to_string))
}

/// Why those who wait do.
pub(super) fn waiting(fates: &RecipientFates) -> String {
    let all = fates.accepted.len() + fates.refused.len() + fates.waiting.len();
    format!(
        "the mail server took the e-mail for {} of {all} recipients and told these to wait: {}",
        fates.accepted.len(),
        capped(fates.waiting.iter().map(ToString::to_string)).join("; ")
    )
}

/// What the mail system said, with all its words about single recipients.
pub(super) fn words(error: &Error) -> String {
    match error.recipients() {
        [] | [_] => error.to_string(),
        several => {
            let each = several.iter().map(|r| format!("{}: {}", r.address, r.reply));
            format!("{}: {}", error.message(), capped(each).join("; "))
        }
    }
}

/// An e-mail that some have is not Failed when it is given up for the others: it is Sent, and names them.
pub(super) fn over_all(fates: Option<&RecipientFates>, outcome: SendOutcome) -> SendOutcome {
    match (fates, outcome) {
        (Some(fates), SendOutcome::Failed { reason }) if !fates.accepted.is_empty() => {
            let refused = fates.refused.iter().map(ToString::to_string);
            let waiting = fates.waiting.iter().map(|r| format!("{}: {reason}", r.address));
            SendOutcome::Sent { at: fates.at, refused: capped(refused.chain(waiting)) }
        }
        (_, outcome) => outcome,
    }
}

fn capped(lines: impl Iterator<Item = String>) -> Vec<String> {
    let mut told = Vec::new();
    let (mut size, mut untold) = (0, 0);
    for line in lines {
        size += line.len();
        if size <= MAX_TOLD || told.is_empty() {
            told.push(line);
        } else {
            untold += 1;
        }
    }
    if untold > 0 {
        told.push(format!("and {untold} more"));
    }
    told
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn thousands_of_refusals_are_capped_and_counted() {
        let lines = (0..10_000).map(|n| format!("user{n}@example.net: {}", "x".repeat(100)));
        let told = capped(lines);
        let size: usize = told.iter().map(String::len).sum();
        assert!(size <= MAX_TOLD + 100, "{size}");
        assert_eq!(told.last().unwrap(), &format!("and {} more", 10_000 - (told.len() - 1)));
    }
}
