//! The users and queues a message is for (`crm-contract.md` 13.1, step 3).

use std::collections::HashSet;

use email_router_crm::{CrmMailbox, FilteringMethod};
use email_router_model::{EmailAddress, MailboxKind};

use super::parties::Resolved;
use super::{MailboxContext, OrganizationView, Trace};
use crate::message::Message;

/// The mailboxes among the recipients, in the order To, Cc, Bcc.
#[derive(Debug)]
pub(super) struct Recipients<'v> {
    /// Enabled, approved where that is required, served by the router. The mailbox that was read is the last one where it was
    /// added although no field names it.
    pub(super) mailboxes: Vec<&'v CrmMailbox>,
    /// The record of the mailbox that was read, where it is served.
    pub(super) read: Option<&'v CrmMailbox>,
}

/// The rule of the step that tells of a user or queue which is not among the mailboxes of the view.
pub(super) const UNKNOWN: &str = "recipients unknown";

/// The filter that applies to a mailbox: none for a user where nothing is tracked automatically (`DoNotAutoTrackEmail`), else the one that is
/// forced on users, else its own.
pub(super) fn effective_filter(view: &OrganizationView, mailbox: &CrmMailbox) -> FilteringMethod {
    if mailbox.kind == MailboxKind::User && view.settings().do_not_auto_track_email {
        return FilteringMethod::None;
    }
    let forced = u8::try_from(view.settings().force_filtering_method_for_user_mailboxes)
        .ok()
        .and_then(FilteringMethod::from_code);
    match forced {
        Some(forced) if mailbox.kind == MailboxKind::User => forced,
        _ => mailbox.filter,
    }
}

/// The mailbox record that was read, when the router serves it.
pub(super) fn mailbox_read<'v>(
    view: &'v OrganizationView,
    read: &MailboxContext<'_>,
) -> Option<&'v CrmMailbox> {
    let record = read.record.as_ref()?;
    view.mailbox(record).filter(|m| view.not_served(m).is_none())
}

pub(super) fn recipients<'v>(
    view: &'v OrganizationView,
    read: &MailboxContext<'_>,
    message: &Message,
    resolved: &Resolved,
    trace: &mut Trace,
) -> Recipients<'v> {
    let settings = view.settings();
    let mut mailboxes: Vec<&CrmMailbox> = Vec::new();
    let mut seen_addresses: HashSet<String> = HashSet::new();
    let mut seen_records = HashSet::new();
    let mut not_found = 0usize;
    // the address itself, then without what stands behind a plus sign
    let forms = |address: &EmailAddress| {
        let base = address.without_detail().filter(|_| settings.plus_addressing);
        std::iter::once(address.clone()).chain(base).collect::<Vec<_>>()
    };
    let mut names_read = false;
    let mut accept = |mailbox: &'v CrmMailbox, address: &EmailAddress, trace: &mut Trace| {
        if !seen_records.insert(&mailbox.record) {
            return;
        }
        match view.not_served(mailbox) {
            Some(why) => {
                trace.step("recipients", format!("{address}: {} {:?} {why}", mailbox.kind, mailbox.name))
            }
            None => {
                trace.step("recipients", format!("{address}: {} {:?}", mailbox.kind, mailbox.name));
                mailboxes.push(mailbox);
            }
        }
    };
    for address in message.recipients().filter_map(|p| p.address.as_ref()) {
        if !seen_addresses.insert(address.key()) {
            continue;
        }
        let forms = forms(address);
        names_read |= forms.contains(&read.mailbox.address);
        let rows = resolved.of(address);
        if settings.unresolve_email_address_if_multiple_match && rows.len() > 1 {
            trace.step(
                "recipients",
                format!("{address}: {} records match, so it stays unresolved (unresolveemailaddressifmultiplematch)", rows.len()),
            );
            continue;
        }
        let mut any = false;
        for row in rows.iter().filter(|r| matches!(r.record.table.as_str(), "systemuser" | "queue")) {
            any = true;
            match view.mailbox(&row.record) {
                Some(mailbox) => accept(mailbox, address, trace),
                None => trace.step(
                    UNKNOWN,
                    format!(
                        "{address}: {} {:?} is newer than the mailboxes that were loaded",
                        row.record, row.name
                    ),
                ),
            }
        }
        // the address the mailbox is read under, where the CRM's record has another one
        if (*address == read.mailbox.address || (rows.is_empty() && forms.contains(&read.mailbox.address)))
            && !read.forwarded
            && let Some(mailbox) = read.record.as_ref().and_then(|r| view.mailbox(r))
        {
            any = true;
            accept(mailbox, address, trace);
        }
        if !any {
            // disabled users never resolve; say so rather than "not found"
            let known = forms.iter().flat_map(|a| view.mailboxes_at(a));
            let known = known.into_iter().find_map(|m| Some((m, view.not_served(m)?)));
            match known {
                Some((mailbox, why)) => {
                    trace.step("recipients", format!("{address}: {} {:?} {why}", mailbox.kind, mailbox.name))
                }
                None => not_found += 1,
            }
        }
    }
    if not_found > 0 {
        trace.step(
            "recipients",
            format!("{not_found} of {} addresses are neither user nor queue", seen_addresses.len()),
        );
    }
    let read_mailbox = mailbox_read(view, read);
    if (read.forwarded || !names_read)
        && let Some(mailbox) = read_mailbox
        && !mailboxes.iter().any(|m| m.record == mailbox.record)
    {
        // a list or Bcc: the mailbox that was read is named nowhere (crm-contract.md 7.2 and 13.1)
        let all = effective_filter(view, mailbox) == FilteringMethod::All;
        // an original belongs to its recipients; to the mailbox whose rule forwarded it only where none of them is known
        let (counts, what) = match (read.forwarded, settings.accept_by_mailbox, all) {
            (true, ..) if mailboxes.is_empty() => (true, "counted as recipient: its rule forwarded it"),
            (true, ..) => (false, "not counted: others are named"),
            (false, true, _) => (true, "counted as recipient (acceptbymailbox)"),
            (false, false, true) => (true, "counted as recipient: its filter is All"),
            (false, false, false) => (false, "not counted: its filter is not All"),
        };
        let (who, how) = match read.forwarded {
            true => (format!("{} {:?}", mailbox.kind, mailbox.name), "forwarded it"),
            false => (read.mailbox.address.to_string(), "was read"),
        };
        trace.step("recipients", format!("{who} {how} but is not named (list or Bcc): {what}"));
        if counts {
            mailboxes.push(mailbox);
        }
    }
    Recipients { mailboxes, read: read_mailbox }
}
