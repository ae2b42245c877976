//! What is different between two loads.

use std::collections::HashMap;
use std::fmt;

use email_router_crm::{Approval, CrmMailbox, DeliveryMethod, FilteringMethod, ServerSideSync};
use email_router_model::{MailboxKind, RecordRef};
use serde::Serialize;

use super::address_text;

/// The longest name written into a line or a file, in characters. Dataverse allows 200 for a user's name and a queue's.
const MAX_NAME: usize = 200;

/// A user, queue or forward mailbox that is different since the load before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MailboxChange {
    /// The record.
    pub record: RecordRef,
    /// Which of the three.
    pub kind: MailboxKind,
    /// Its name now, or what it was; see [`plain`].
    pub name: String,
    /// Its address now, or what it was; `-` where there is none.
    pub address: String,
    /// What.
    #[serde(flatten)]
    pub what: WhatChanged,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "change")]
pub enum WhatChanged {
    /// It was not there before.
    New,
    /// It is not there any more.
    Gone,
    /// Something about it changed.
    Changed {
        /// What.
        fields: Vec<ChangedField>,
    },
}

/// One field that changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChangedField {
    /// Which.
    pub field: &'static str,
    /// What it was.
    pub from: String,
    /// What it is.
    pub to: String,
}

/// What is different in `new`: what is new and what changed in the order of `new`, then what is gone in the order of `old`.
#[must_use]
pub fn diff(old: &[CrmMailbox], new: &[CrmMailbox]) -> Vec<MailboxChange> {
    let mut before: HashMap<&RecordRef, &CrmMailbox> = old.iter().map(|m| (&m.record, m)).collect();
    let mut changes = Vec::new();
    for now in new {
        match before.remove(&now.record) {
            None => changes.push(change(now, WhatChanged::New)),
            Some(was) => {
                let fields = fields(was, now);
                if !fields.is_empty() {
                    changes.push(change(now, WhatChanged::Changed { fields }));
                }
            }
        }
    }
    let gone = old.iter().filter(|m| before.contains_key(&m.record));
    changes.extend(gone.map(|m| change(m, WhatChanged::Gone)));
    changes
}

fn change(mailbox: &CrmMailbox, what: WhatChanged) -> MailboxChange {
    MailboxChange {
        record: mailbox.record.clone(),
        kind: mailbox.kind,
        name: plain(&mailbox.name),
        address: address_text(mailbox.address.as_ref()),
        what,
    }
}

fn fields(was: &CrmMailbox, now: &CrmMailbox) -> Vec<ChangedField> {
    let state = |m: &CrmMailbox| if m.disabled { "disabled" } else { "active" }.to_owned();
    let id = |r: &Option<RecordRef>| {
        r.as_ref().map_or_else(|| "none".to_owned(), |r| format!("{} {}", r.table, r.id))
    };
    let all = [
        ("name", plain(&was.name), plain(&now.name)),
        // as it is spelled: letter case does not count in look-ups, and is shown to people
        ("address", address_text(was.address.as_ref()), address_text(now.address.as_ref())),
        ("incoming", method(was.incoming).to_owned(), method(now.incoming).to_owned()),
        ("outgoing", method(was.outgoing).to_owned(), method(now.outgoing).to_owned()),
        ("approval", approval(was.approval).to_owned(), approval(now.approval).to_owned()),
        ("filter", filter(was.filter).to_owned(), filter(now.filter).to_owned()),
        ("owner", id(&was.owner), id(&now.owner)),
        ("default queue", id(&was.default_queue), id(&now.default_queue)),
        ("state", state(was), state(now)),
        ("server-side synchronization", sync(was.server_side_sync), sync(now.server_side_sync)),
    ];
    all.into_iter()
        .filter(|(_, from, to)| from != to)
        .map(|(field, from, to)| ChangedField { field, from, to })
        .collect()
}

fn sync(sync: ServerSideSync) -> String {
    match (sync.incoming, sync.outgoing) {
        (false, false) => "none",
        (true, false) => "incoming",
        (false, true) => "outgoing",
        (true, true) => "both",
    }
    .to_owned()
}

/// The delivery method, as the CRM's forms call it.
pub(super) fn method(method: DeliveryMethod) -> &'static str {
    match method {
        DeliveryMethod::None => "None",
        DeliveryMethod::Outlook => "Outlook",
        DeliveryMethod::EmailRouter => "Email Router",
        DeliveryMethod::ForwardMailbox => "Forward Mailbox",
    }
}

/// The approval, as the CRM's forms call it.
pub(super) fn approval(approval: Approval) -> &'static str {
    match approval {
        Approval::Empty => "Empty",
        Approval::Approved => "Approved",
        Approval::PendingApproval => "Pending Approval",
        Approval::Rejected => "Rejected",
    }
}

fn filter(filter: FilteringMethod) -> &'static str {
    match filter {
        FilteringMethod::All => "all",
        FilteringMethod::InResponseToCrmEmail => "in response to CRM e-mail",
        FilteringMethod::FromLeadsContactsAccounts => "from leads, contacts and accounts",
        FilteringMethod::FromEmailEnabledRecords => "from e-mail-enabled records",
        FilteringMethod::None => "none",
    }
}

impl fmt::Display for MailboxChange {
    /// One line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} <{}>", self.kind, self.name, self.address)?;
        match &self.what {
            WhatChanged::New => f.write_str(" is new"),
            WhatChanged::Gone => f.write_str(" is gone"),
            WhatChanged::Changed { fields } => {
                for (n, field) in fields.iter().enumerate() {
                    write!(f, "{} {field}", if n == 0 { ":" } else { "," })?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for ChangedField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {} to {}", self.field, self.from, self.to)
    }
}

/// A name that somebody typed into the CRM as one line of at most 200 characters: control characters, line ends, marks that turn the direction of
/// text and characters that XML does not have are blanks, and one blank stands for many.
#[must_use]
pub fn plain(name: &str) -> String {
    // XML 1.0 section 2.2; Unicode's bidirectional formatting characters, with which a name can pass itself off as another; line and paragraph separator
    let odd = |c: char| {
        c.is_control()
            || matches!(
                c,
                '\u{fffe}' | '\u{ffff}' | '\u{feff}' | '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}'
            )
            || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut out = String::new();
    let mut length = 0;
    for word in name.split(|c: char| odd(c) || c.is_whitespace()).filter(|word| !word.is_empty()) {
        if length > 0 {
            out.push(' ');
            length += 1;
        }
        for c in word.chars() {
            if length >= MAX_NAME {
                out.push('…');
                return out;
            }
            out.push(c);
            length += 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_becomes_one_short_line() {
        assert_eq!(plain("  Ann\u{1b}[2J\r\n\tLee\u{202e}\u{0}"), "Ann [2J Lee");
        assert_eq!(plain("\u{fffe}\u{85}"), "");
        let long = plain(&"x".repeat(10_000));
        assert_eq!(long.chars().count(), MAX_NAME + 1);
        assert_eq!(plain(&"y".repeat(MAX_NAME)), "y".repeat(MAX_NAME));
    }
}
