//! What a decision needs to know of the organization, as one snapshot.

use std::collections::HashMap;

use email_router_crm::smart::SmartHasher;
use email_router_crm::token::TokenFinder;
use email_router_crm::{Approval, CrmClient, CrmMailbox, DeliveryMethod, OrganizationSettings};
use email_router_model::{EmailAddress, MailboxKind, OrganizationId, RecordRef};

use crate::Result;

/// Settings and mailboxes of an organization at one moment. Cheap to share behind an `Arc`; made anew when the CRM's settings are read
/// again.
#[derive(Debug, Clone)]
pub struct OrganizationView {
    id: OrganizationId,
    settings: OrganizationSettings,
    mailboxes: Vec<CrmMailbox>,
    by_record: HashMap<RecordRef, usize>,
    by_address: HashMap<String, Vec<usize>>,
    tokens: TokenFinder,
    smart: SmartHasher,
}

impl OrganizationView {
    /// The view of these settings and mailboxes.
    #[must_use]
    pub fn new(id: OrganizationId, settings: OrganizationSettings, mailboxes: Vec<CrmMailbox>) -> Self {
        let mut by_record = HashMap::with_capacity(mailboxes.len());
        let mut by_address: HashMap<String, Vec<usize>> = HashMap::with_capacity(mailboxes.len());
        for (index, mailbox) in mailboxes.iter().enumerate() {
            by_record.insert(mailbox.record.clone(), index);
            if let Some(address) = &mailbox.address {
                by_address.entry(address.key()).or_default().push(index);
            }
        }
        let (tokens, smart) = (TokenFinder::new(&settings), SmartHasher::new(&settings));
        if let Some(problem) = smart.problem() {
            tracing::warn!(problem, "smart matching works with another pattern than the organization wants");
        }
        Self { id, settings, mailboxes, by_record, by_address, tokens, smart }
    }

    /// Asks the CRM for settings and mailboxes.
    ///
    /// # Errors
    /// What the CRM said.
    pub async fn load(crm: &dyn CrmClient) -> Result<Self> {
        Ok(Self::new(crm.organization_id(), crm.settings().await?, crm.mailboxes().await?))
    }

    /// The organization.
    #[must_use]
    pub fn id(&self) -> &OrganizationId {
        &self.id
    }

    /// Its settings.
    #[must_use]
    pub fn settings(&self) -> &OrganizationSettings {
        &self.settings
    }

    /// All mailboxes, disabled ones too.
    #[must_use]
    pub fn mailboxes(&self) -> &[CrmMailbox] {
        &self.mailboxes
    }

    /// The mailbox of a user or queue.
    #[must_use]
    pub fn mailbox(&self, record: &RecordRef) -> Option<&CrmMailbox> {
        self.by_record.get(record).map(|&index| &self.mailboxes[index])
    }

    /// The mailboxes with this address; more than one only where the CRM's data is ambiguous.
    pub fn mailboxes_at(&self, address: &EmailAddress) -> impl Iterator<Item = &CrmMailbox> {
        self.by_address.get(&address.key()).into_iter().flatten().map(|&index| &self.mailboxes[index])
    }

    /// How tracking tokens of this organization look.
    #[must_use]
    pub fn tokens(&self) -> &TokenFinder {
        &self.tokens
    }

    /// What smart matching compares in this organization.
    #[must_use]
    pub fn smart(&self) -> &SmartHasher {
        &self.smart
    }

    /// Whether the address of a mailbox may be used: an administrator approved it, or the organization does not ask for that. A forward mailbox needs
    /// no approval.
    #[must_use]
    pub fn is_approved(&self, mailbox: &CrmMailbox) -> bool {
        let required = match mailbox.kind {
            MailboxKind::User => self.settings.require_approval_for_user_email,
            MailboxKind::Queue => self.settings.require_approval_for_queue_email,
            MailboxKind::Forward => false,
        };
        !required || mailbox.approval == Approval::Approved
    }

    /// Why the router does not process mail for this mailbox; `None` when it does.
    #[must_use]
    pub fn not_served(&self, mailbox: &CrmMailbox) -> Option<&'static str> {
        if mailbox.kind == MailboxKind::Forward {
            return Some("is a forward mailbox, neither user nor queue");
        }
        if mailbox.disabled {
            Some("is disabled")
        } else if !self.is_approved(mailbox) {
            Some("has an address that is not approved")
        } else if !matches!(mailbox.incoming, DeliveryMethod::EmailRouter | DeliveryMethod::ForwardMailbox) {
            Some("does not get its mail through the router")
        } else if mailbox.server_side_sync.incoming && mailbox.incoming == DeliveryMethod::EmailRouter {
            Some("gets its mail by server-side synchronization too")
        } else {
            None
        }
    }
}
