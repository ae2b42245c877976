//! A mailbox the router serves.

use serde::{Deserialize, Serialize};

use crate::{EmailAddress, MailboxId};

/// What a mailbox is to the CRM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MailboxKind {
    /// The mailbox of one CRM user.
    User,
    /// The mailbox of a CRM queue.
    Queue,
    /// A mailbox that receives other mailboxes' mail as attachments.
    Forward,
}

impl std::fmt::Display for MailboxKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::User => "user",
            Self::Queue => "queue",
            Self::Forward => "forward mailbox",
        })
    }
}

/// One mailbox, as transports, the engine and test access see it. Credentials are not part of it: they belong to the
/// transport that serves the mailbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mailbox {
    /// Identifies the mailbox in state, logs and metrics; stable across restarts and renames of the display name.
    pub id: MailboxId,
    /// User, queue or forward mailbox.
    pub kind: MailboxKind,
    /// The name people know it by.
    pub name: String,
    /// Its address.
    pub address: EmailAddress,
    /// The name to log in with, where it differs from the address.
    pub login: Option<String>,
}

impl Mailbox {
    /// The name to log in with: [`Self::login`], else the address.
    #[must_use]
    pub fn login_name(&self) -> &str {
        self.login.as_deref().unwrap_or(self.address.as_str())
    }
}

impl std::fmt::Display for Mailbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} <{}>", self.kind, self.name, self.address)
    }
}
