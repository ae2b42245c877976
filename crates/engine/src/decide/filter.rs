//! The five filters (`crm-contract.md` 7.2; 13.1, step 7).

use email_router_crm::{CrmMailbox, FilteringMethod};
use email_router_model::MailboxKind;

use super::correlate::Hit;
use super::parties::Sender;
use super::recipients::{Recipients, effective_filter};
use super::{OrganizationView, Trace};
use crate::record::ReasonCode;

/// Whose filters decide, in the order they are asked: the mailbox that was read, then To, Cc, Bcc.
pub(super) fn deciding<'v>(view: &OrganizationView, recipients: &Recipients<'v>) -> Vec<&'v CrmMailbox> {
    if view.settings().use_filtering_method_of_syncing_mailbox_only {
        return recipients.read.into_iter().collect();
    }
    let is_read = |m: &&CrmMailbox| recipients.read.is_some_and(|r| r.record == m.record);
    let (first, rest): (Vec<&CrmMailbox>, Vec<&CrmMailbox>) =
        recipients.mailboxes.iter().partition(|m| is_read(m));
    first.into_iter().chain(rest).collect()
}

/// Whether one of these filters asks what the message answers.
pub(super) fn needs_correlation(view: &OrganizationView, deciding: &[&CrmMailbox]) -> bool {
    for mailbox in deciding {
        match effective_filter(view, mailbox) {
            FilteringMethod::All => return false, // accepts before any other is asked
            FilteringMethod::None => {}
            _ => return true,
        }
    }
    false
}

/// The first mailbox that accepts, and why.
pub(super) fn accept<'v>(
    view: &OrganizationView,
    deciding: &[&'v CrmMailbox],
    sender: &Sender,
    hit: Option<&Hit>,
    trace: &mut Trace,
) -> Option<(&'v CrmMailbox, ReasonCode)> {
    if deciding.is_empty() {
        trace.step(
            "filter",
            "only the mailbox that was read may decide, and it is no user or queue that is served",
        );
    }
    let answer = view.settings().answers_pass_filters && hit.is_some();
    for mailbox in deciding {
        let filter = effective_filter(view, mailbox);
        let reason = match filter {
            FilteringMethod::All => Some(ReasonCode::AcceptAll),
            FilteringMethod::None => None,
            FilteringMethod::InResponseToCrmEmail => hit.map(|_| ReasonCode::CorrelationMatch),
            _ if answer => Some(ReasonCode::CorrelationMatch),
            FilteringMethod::FromLeadsContactsAccounts => {
                sender.is_customer().then_some(ReasonCode::SenderMatch)
            }
            FilteringMethod::FromEmailEnabledRecords => {
                sender.record.as_ref().map(|_| ReasonCode::SenderMatch)
            }
        };
        let forced = match filter == mailbox.filter {
            true => "",
            false if view.settings().do_not_auto_track_email => " (DoNotAutoTrackEmail)",
            false => " (forced)",
        };
        let who = mailbox.address.as_ref().map_or_else(|| mailbox.name.clone(), ToString::to_string);
        let verdict = match reason {
            Some(ReasonCode::AcceptAll) => "accepts".to_owned(),
            Some(ReasonCode::CorrelationMatch) => "accepts, since it answers an e-mail of the CRM".to_owned(),
            Some(_) => "accepts, since the sender is known".to_owned(),
            None => format!("does not accept: {}", refusal(filter)),
        };
        let kind = if mailbox.kind == MailboxKind::Queue { "queue" } else { "user" };
        trace.step(format!("filter {who}"), format!("{kind}, {}{forced}: {verdict}", describe(filter)));
        if let Some(reason) = reason {
            return Some((mailbox, reason));
        }
    }
    None
}

fn describe(filter: FilteringMethod) -> &'static str {
    match filter {
        FilteringMethod::All => "all messages",
        FilteringMethod::InResponseToCrmEmail => "messages in response to CRM e-mail",
        FilteringMethod::FromLeadsContactsAccounts => "messages from leads, contacts and accounts",
        FilteringMethod::FromEmailEnabledRecords => "messages from e-mail enabled records",
        FilteringMethod::None => "no messages",
    }
}

fn refusal(filter: FilteringMethod) -> &'static str {
    match filter {
        FilteringMethod::InResponseToCrmEmail => "it answers no e-mail of the CRM",
        FilteringMethod::FromLeadsContactsAccounts => "the sender is no lead, contact or account",
        FilteringMethod::FromEmailEnabledRecords => "no record has the sender's address",
        FilteringMethod::All | FilteringMethod::None => "nothing is tracked automatically",
    }
}
