//! Which queues get an item (`crm-contract.md` 9.4 and 7.4).

use email_router_crm::CrmMailbox;
use email_router_model::{MailboxKind, RecordRef};

use super::recipients::Recipients;
use super::{OrganizationView, Trace};

/// The queues among the recipients, the queue whose mailbox was read, and the default queue of the owner, each as its switch says.
pub(super) fn queues(
    view: &OrganizationView,
    recipients: &Recipients<'_>,
    owner: Option<&RecordRef>,
    trace: &mut Trace,
) -> Vec<RecordRef> {
    let settings = view.settings();
    let mut queues: Vec<RecordRef> = Vec::new();
    if settings.create_queue_items_for_accepting_queue_recipients {
        let found = recipients.mailboxes.iter().filter(|m| m.kind == MailboxKind::Queue);
        queues.extend(found.map(|m| m.record.clone()));
    }
    if settings.create_queue_item_for_synchronizing_mailbox
        && let Some(read) = recipients.read.filter(|m| m.kind == MailboxKind::Queue)
        && !queues.contains(&read.record)
    {
        queues.push(read.record.clone());
    }
    if settings.auto_route_to_owner_queue
        && let Some(queue) = owner.and_then(|o| view.mailbox(o)).and_then(|user| user.default_queue.as_ref())
        && !queues.contains(queue)
    {
        queues.push(queue.clone());
    }
    if !queues.is_empty() {
        let names: Vec<String> = queues.iter().map(|q| name(view, q)).collect();
        trace.step("queues", names.join(", "));
    }
    queues
}

/// The queue that gets an item of an e-mail which is there already: the one whose mailbox was read, when
/// `SSSCreateAdditionalQueueItemsForAlreadyTrackedEmail` is on.
pub(super) fn queue_of_duplicate(view: &OrganizationView, read: Option<&CrmMailbox>) -> Option<RecordRef> {
    let wanted = view.settings().create_additional_queue_items_for_already_tracked_email;
    read.filter(|m| wanted && m.kind == MailboxKind::Queue).map(|m| m.record.clone())
}

fn name(view: &OrganizationView, queue: &RecordRef) -> String {
    view.mailbox(queue).map_or_else(|| queue.to_string(), |m| format!("{:?}", m.name))
}
