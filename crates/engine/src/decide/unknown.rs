//! A contact or lead for a sender whom no record knows (`createunknownsender`, ours; `AutoCreateContactOnPromote`, `crm-contract.md` 9.2).
//!
//! A record is made for a person who wrote to us. So none is made for what no person wrote, for an address nobody reads, and for an
//! address in a domain of our own mailboxes: that is a colleague, or somebody who pretends to be one.

use email_router_crm::{OrganizationSettings, UnknownSender};
use email_router_model::EmailAddress;

use super::parties::Resolved;
use super::{OrganizationView, Trace};
use crate::message::Message;

/// Local parts of addresses that programs write from; compared without `-`, `_` and `.`.
const NOBODY: [&str; 9] = [
    "noreply",
    "donotreply",
    "nichtantworten",
    "mailerdaemon",
    "postmaster",
    "bounce",
    "bounces",
    "notifications",
    "nobody",
];

/// The table in which a record is made for the sender; `None` when none is made. `released`: a person tracks the message by hand.
pub(super) fn table(
    view: &OrganizationView,
    message: &Message,
    from: &EmailAddress,
    resolved: &Resolved,
    released: bool,
    trace: &mut Trace,
) -> Option<&'static str> {
    let table = wanted(view.settings(), released)?;
    if resolved.count(from) > 0 {
        return None; // known, or several have the address and none was chosen
    }
    match reason_against(view, message, from) {
        Some(reason) => {
            trace.step("new sender", format!("no {table} is created for {from}: {reason}"));
            None
        }
        None => {
            trace.step("new sender", format!("a {table} is created for {from}"));
            Some(table)
        }
    }
}

fn wanted(settings: &OrganizationSettings, released: bool) -> Option<&'static str> {
    let by_hand = released && settings.auto_create_contact_on_promote;
    let fallback = if by_hand { UnknownSender::Contact } else { UnknownSender::None };
    settings.create_unknown_sender.table().or(fallback.table())
}

fn reason_against(view: &OrganizationView, message: &Message, from: &EmailAddress) -> Option<&'static str> {
    let ours = |m: &email_router_crm::CrmMailbox| {
        m.address.as_ref().is_some_and(|a| a.domain().to_lowercase() == from.domain().to_lowercase())
    };
    let bare: String = from.local_part().to_lowercase().replace(['-', '_', '.'], "");
    if view.mailboxes().iter().any(ours) {
        Some("its domain is that of our own mailboxes")
    } else if NOBODY.contains(&bare.as_str()) {
        Some("nobody reads that address")
    } else if message.header("Return-Path").is_some_and(|v| v.trim() == "<>") {
        Some("its return path is empty")
    } else if message.automatic().is_some() {
        Some("no person wrote the message")
    } else {
        None
    }
}
