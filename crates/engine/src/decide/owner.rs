//! Who owns the activity (`crm-contract.md` 9.3).

use email_router_crm::CrmMailbox;
use email_router_model::RecordRef;

use super::correlate::Hit;
use super::parties::Sender;
use super::{OrganizationView, Trace};

/// The owner: of the e-mail that is answered, else of the customer who wrote, each only if he is among the owners of the mailboxes that
/// got the message; else the first of those.
pub(super) fn owner(
    view: &OrganizationView,
    recipients: &[&CrmMailbox],
    hit: Option<&Hit>,
    sender: &Sender,
    trace: &mut Trace,
) -> Option<RecordRef> {
    let eligible: Vec<&RecordRef> = recipients.iter().filter_map(|m| mailbox_owner(m)).collect();
    let correlated = hit.and_then(|h| h.email.owner.as_ref());
    let customer = sender.owner.as_ref().filter(|_| sender.is_customer());
    let (owner, why) = match (correlated, customer) {
        (Some(owner), _) if eligible.contains(&owner) => (Some(owner), "owns the e-mail that is answered"),
        (_, Some(owner)) if eligible.contains(&owner) => (Some(owner), "owns the sender's record"),
        _ => (eligible.first().copied(), "the first recipient, or the owner of the first queue"),
    };
    match owner {
        Some(owner) => {
            let name =
                view.mailbox(owner).map_or_else(|| owner.to_string(), |m| format!("{} {:?}", m.kind, m.name));
            trace.step("owner", format!("{name}: {why}"));
        }
        None => trace.step("owner", "none of the recipients has an owner"),
    }
    owner.cloned()
}

/// A user owns itself, a queue its owner.
pub(super) fn mailbox_owner(mailbox: &CrmMailbox) -> Option<&RecordRef> {
    mailbox.owner.as_ref().or_else(|| (mailbox.record.table == "systemuser").then_some(&mailbox.record))
}
