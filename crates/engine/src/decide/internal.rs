//! Mail between users of the CRM (`crm-contract.md` 7.5): what `ignoreinternalemail` and its three switches refuse.
//!
//! By default each such message becomes two e-mails, the sender's and the recipient's. An organization that wants one of them refuses the
//! received one: where the sent one is in the CRM, or always.

use email_router_crm::OrganizationSettings;
use email_router_model::{ActivityId, EmailAddress, MailboxKind};

use super::Trace;
use super::parties::{Resolved, Sender};
use super::recipients::Recipients;

/// Who wrote a message, as far as internal mail goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Author {
    User,
    Queue,
    Outsider,
}

/// Why the message is refused as internal mail; `None` when it is not. `sent` is an outgoing e-mail with the same Message-ID.
pub(super) fn refusal(
    settings: &OrganizationSettings,
    from: &EmailAddress,
    sender: &Sender,
    resolved: &Resolved,
    recipients: &Recipients<'_>,
    sent: Option<ActivityId>,
    trace: &mut Trace,
) -> Option<String> {
    if !settings.ignore_internal_email {
        return None;
    }
    let author = author(from, sender, resolved);
    if author == Author::Outsider {
        return None;
    }
    let to_queue = recipients.mailboxes.iter().any(|m| m.kind == MailboxKind::Queue);
    let (refused, found) = match (author, sent) {
        _ if to_queue && settings.do_not_ignore_internal_email_to_queues => (
            false,
            "goes to a queue too, and that is not ignored (DoNotIgnoreInternalEmailToQueues)".to_owned(),
        ),
        (Author::Queue, _) if !settings.ignore_internal_email_from_queues => (
            false,
            "was sent by a queue, and that is not ignored (IgnoreInternalEmailFromQueues is off)".to_owned(),
        ),
        (_, Some(sent)) => (true, format!("was sent from the CRM: {sent} has the same Message-ID")),
        (Author::Queue, None) => (false, "was sent by a queue, and the CRM has no sent copy".to_owned()),
        (_, None) if settings.ignore_internal_email_detection_enhancement => {
            (false, "was sent by a user, and the CRM has no sent copy".to_owned())
        }
        (_, None) => (true, "was sent by a user (IgnoreInternalEmailDetectionEnhancement is off)".to_owned()),
    };
    let verdict = if refused { "refused" } else { "evaluated as any other" };
    trace.step("internal", format!("it {found}: {verdict}"));
    refused.then(|| format!("it is mail between users, which the organization ignores: it {found}"))
}

/// The record that stands for the sender says it. Where several records have the address and none was chosen, one user or queue
/// among them is enough: the address is ours.
fn author(from: &EmailAddress, sender: &Sender, resolved: &Resolved) -> Author {
    let of = |table: &str| match table {
        "systemuser" => Author::User,
        "queue" => Author::Queue,
        _ => Author::Outsider,
    };
    match &sender.record {
        Some(record) => of(&record.table),
        None => {
            let all = resolved.of(from).iter().map(|r| of(&r.record.table));
            all.min_by_key(|a| *a as u8).unwrap_or(Author::Outsider)
        }
    }
}
