//! The contract between the router and a CRM. Tested by the suite in `conformance` against every adapter.

use std::fmt::{Debug, Display};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use email_router_model::{
    ActivityId, EmailAddress, MailboxKind, MessageId, OrganizationId, RecordRef, Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::{
    Approval, Attachment, DeliveryReport, EmailLookup, EmailSummary, FilteringMethod, IncomingEmail,
    OrganizationSettings, OutgoingEmail, PendingEmail, Result,
};

/// One organization of a CRM.
///
/// # Contract
/// - Calls may come from any task at the same time, from several routers too.
/// - `Ok` of a method that writes means: durable, also when the machine loses power now.
/// - A method that fails wrote nothing.
/// - Addresses are compared without regard to letter case.
#[async_trait]
pub trait CrmClient: Debug + Display + Send + Sync + 'static {
    /// The namespace of activity ids; never changes for an organization.
    fn organization_id(&self) -> OrganizationId;

    /// The settings now.
    async fn settings(&self) -> Result<OrganizationSettings>;

    /// Load Data: every user, queue and forward mailbox record, disabled ones included.
    async fn mailboxes(&self) -> Result<Vec<CrmMailbox>>;

    /// All records that have each address, in the order asked; an unknown address gives an empty list. At most 101 records an
    /// address are returned (more than 100 is "too many to choose", `crm-contract.md` 9.1).
    async fn resolve(&self, addresses: &[EmailAddress]) -> Result<Vec<Vec<Resolution>>>;

    /// E-mails that match, newest first, at most `limit`.
    async fn find_emails(&self, lookup: &EmailLookup, limit: usize) -> Result<Vec<EmailSummary>>;

    /// Whether an incoming e-mail with this id exists; says so also of one that a person deleted, where the CRM keeps that.
    async fn exists(&self, id: &ActivityId) -> Result<bool>;

    /// What the CRM says about a message before it is delivered, where the CRM decides (`CheckIncomingEmail`, `crm-contract.md` 2.1). Its header
    /// section is enough. Where the router decides the answer is [`Verdict::RouterDecides`], without a call.
    async fn check_incoming(&self, message: &IncomingCheck) -> Result<Verdict>;

    /// Creates the e-mail with parties, attachments, status Received and queue items, all or nothing, if none with its id exists. With
    /// them a record for an unknown sender ([`IncomingEmail::new_sender`]), unless one with its id is there; with
    /// `resolvesimilarunresolvedemailaddress` parties of earlier e-mails that have its address and no record become that record, soon
    /// after. With `DisableSmartMatchingEmailHashCreation` no hashes are kept, whatever the e-mail says.
    ///
    /// Delivering the same id again changes nothing and answers [`Delivered::AlreadyThere`]; then queue items named in the call
    /// and missing are added when `SSSCreateAdditionalQueueItemsForAlreadyTrackedEmail` is on, and nothing else in the call counts:
    /// it may have no content and no parties. A new e-mail has exactly one sender (`crm-contract.md` 5.2), else the error is
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid).
    ///
    /// The e-mail is handed over, so that a large one is not copied on its way; who may deliver it again keeps what it is made from.
    async fn deliver_incoming(&self, email: IncomingEmail) -> Result<Delivered>;

    /// E-mails of these senders in Pending Send whose time has come, and those left in Sending longer than
    /// [`PendingQuery::stale_after`]; fair: at most [`PendingQuery::per_sender`] for each sender, each sender's by priority and then oldest first.
    async fn pending_outgoing(&self, query: &PendingQuery) -> Result<Vec<PendingEmail>>;

    /// Compare-and-set: takes the e-mail for sending (status Sending, attempt counted) if its version is still the one listed.
    async fn claim(&self, email: &PendingEmail) -> Result<Claim>;

    /// Everything needed to write the message of a claimed e-mail.
    async fn outgoing_email(&self, id: &ActivityId) -> Result<OutgoingEmail>;

    /// The attachments of an e-mail, with content.
    async fn attachments(&self, id: &ActivityId) -> Result<Vec<Attachment>>;

    /// Gives the outgoing e-mail its identity before the first attempt: Message-ID, tracking token and the subject with the token. What
    /// is already set stays; the e-mail as it then is comes back. The token is taken from the counter of the sender
    /// (`crm-contract.md` 8.2) when `with_token`. The e-mail gets its hashes ([`crate::smart`]) too, so that answers are matched.
    async fn prepare_outgoing(
        &self,
        id: &ActivityId,
        message_id: &MessageId,
        with_token: bool,
    ) -> Result<OutgoingEmail>;

    /// What became of a claimed e-mail. Saying the same again changes nothing.
    async fn finish(&self, id: &ActivityId, outcome: &SendOutcome) -> Result<()>;

    /// Keeps what a mail system reported about the recipients of an outgoing e-mail; `true` when that changed what is known of one. The same
    /// report again changes nothing, and a report that is older than what is known of a recipient does not replace it; nor does
    /// *delayed* replace an end (*delivered*, *failed* ...). A recipient the e-mail does not have is kept all the same: lists and
    /// forwards report their own addresses. What is kept of one e-mail may be bounded, at 1,000 reports and recipients or more.
    ///
    /// Errors: not found, when there is no such e-mail; invalid, when it was received.
    async fn record_delivery(&self, report: &DeliveryReport) -> Result<bool>;
}

/// A user, queue or forward mailbox as the CRM has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrmMailbox {
    /// The record: `systemuser`, `queue` or `mailbox` (forward).
    pub record: RecordRef,
    /// Which of the three.
    pub kind: MailboxKind,
    /// Full name, or the queue's name.
    pub name: String,
    /// Its address, when it has a valid one.
    pub address: Option<EmailAddress>,
    /// How its mail comes in.
    pub incoming: DeliveryMethod,
    /// How its mail goes out.
    pub outgoing: DeliveryMethod,
    /// Whether an administrator approved the address.
    pub approval: Approval,
    /// Which mail becomes an activity.
    pub filter: FilteringMethod,
    /// Owner of a queue; a user owns itself.
    pub owner: Option<RecordRef>,
    /// Default queue of a user (`systemuser.queueid`), where the CRM tells.
    pub default_queue: Option<RecordRef>,
    /// Disabled users and inactive queues.
    pub disabled: bool,
    /// Which of its mail server-side synchronization carries; the router must leave that alone, or it happens twice.
    #[serde(default)]
    pub server_side_sync: ServerSideSync,
}

/// What server-side synchronization does for a mailbox (`crm-contract.md` 6.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct ServerSideSync {
    /// It reads the mailbox: `mailbox.enabledforincomingemail`, and the organization's channel is server-side synchronization.
    pub incoming: bool,
    /// It sends the mail: `mailbox.enabledforoutgoingemail`, likewise.
    pub outgoing: bool,
}

/// `incomingemaildeliverymethod` and `outgoingemaildeliverymethod`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryMethod {
    /// 0.
    #[default]
    None,
    /// 1: the CRM client for Outlook.
    Outlook,
    /// 2: the router (or server-side synchronization).
    EmailRouter,
    /// 3: a forward mailbox; incoming only.
    ForwardMailbox,
}

impl DeliveryMethod {
    /// Dataverse's number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Outlook => 1,
            Self::EmailRouter => 2,
            Self::ForwardMailbox => 3,
        }
    }

    /// The method with this number.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::None,
            1 => Self::Outlook,
            2 => Self::EmailRouter,
            3 => Self::ForwardMailbox,
            _ => return None,
        })
    }
}

/// A record that has an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolution {
    /// The record.
    pub record: RecordRef,
    /// Its name.
    pub name: String,
    /// Its owner, where records of this table have one.
    pub owner: Option<RecordRef>,
    /// Active, not disabled.
    pub active: bool,
    /// When it was created.
    pub created_on: Timestamp,
}

/// What a CRM that decides is told of a message before it is delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncomingCheck {
    /// Its Message-ID; of a message without one what [`stand_in_message_id`] makes of the activity's id.
    pub message_id: MessageId,
    /// Its subject.
    pub subject: String,
    /// Its sender.
    pub from: EmailAddress,
    /// The addresses of To.
    pub to: Vec<EmailAddress>,
    /// Of Cc.
    pub cc: Vec<EmailAddress>,
    /// Of Bcc, where the message has them.
    pub bcc: Vec<EmailAddress>,
}

/// The Message-ID under which a message without one is known to a CRM that wants one (`crm-contract.md` 7.4): made from the id of its activity,
/// which is made from its content. `None` never happens for an id.
#[must_use]
pub fn stand_in_message_id(id: ActivityId) -> Option<MessageId> {
    MessageId::parse(&format!("<{id}@email-router.invalid>"))
}

/// Who decides about a message, and how the CRM decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The router does.
    RouterDecides,
    /// The CRM wants it.
    Deliver(ReasonCode),
    /// The CRM does not want it.
    Discard(ReasonCode),
}

/// Why an incoming message was accepted or not; the codes of `CheckIncomingEmailResponse.ReasonCode` (`crm-contract.md` 2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ReasonCode {
    /// -1: it was not looked at, or for a reason that Microsoft gives no number.
    Unknown,
    /// 0: an incoming e-mail with this Message-ID exists.
    Duplicate,
    /// 1: recipients exist, but no filter accepts.
    NoCorrelationMatch,
    /// 2: it answers an e-mail of the CRM.
    CorrelationMatch,
    /// 3: no recipient is a user or queue.
    NoRecipientMatch,
    /// 4: mail between users.
    InternalEmailReject,
    /// 5: accepted because of the sender.
    SenderMatch,
    /// 6: a recipient accepts everything.
    AcceptAll,
    /// 7: there is no valid sender.
    InvalidSender,
}

impl ReasonCode {
    /// Microsoft's number.
    #[must_use]
    pub const fn code(self) -> i32 {
        match self {
            Self::Unknown => -1,
            Self::Duplicate => 0,
            Self::NoCorrelationMatch => 1,
            Self::CorrelationMatch => 2,
            Self::NoRecipientMatch => 3,
            Self::InternalEmailReject => 4,
            Self::SenderMatch => 5,
            Self::AcceptAll => 6,
            Self::InvalidSender => 7,
        }
    }

    /// The reason with this number; of a number that is not published [`Self::Unknown`].
    #[must_use]
    pub const fn from_code(code: i64) -> Self {
        match code {
            0 => Self::Duplicate,
            1 => Self::NoCorrelationMatch,
            2 => Self::CorrelationMatch,
            3 => Self::NoRecipientMatch,
            4 => Self::InternalEmailReject,
            5 => Self::SenderMatch,
            6 => Self::AcceptAll,
            7 => Self::InvalidSender,
            _ => Self::Unknown,
        }
    }

    /// Whether a message with this reason is delivered.
    #[must_use]
    pub const fn delivers(self) -> bool {
        matches!(self, Self::CorrelationMatch | Self::SenderMatch | Self::AcceptAll)
    }
}

impl std::fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?} ({})", self.code())
    }
}

/// What [`CrmClient::deliver_incoming`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivered {
    /// The e-mail is new.
    Created,
    /// It was there before, or was there and a person deleted it.
    AlreadyThere,
}

/// Which outgoing e-mails to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingQuery {
    /// The senders to serve.
    pub senders: Vec<RecordRef>,
    /// At most this many for each sender.
    pub per_sender: usize,
    /// The time now.
    pub now: Timestamp,
    /// An e-mail in Sending for longer than this was left behind (SendingStatusDelay).
    pub stale_after: Duration,
}

/// What became of an attempt to claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// It is ours; this is the number of the attempt, from 1.
    Taken {
        /// The number of the attempt.
        attempt: u32,
    },
    /// Somebody else changed or took it.
    Lost,
}

/// What became of an outgoing e-mail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum SendOutcome {
    /// The mail system has it: status Sent. Recipients that were refused are named with the server's words.
    Sent {
        /// When.
        at: Timestamp,
        /// `address: server's words` for each refused recipient; empty when all were taken.
        refused: Vec<String>,
    },
    /// Not now: back to Pending Send, not before this time.
    Retry {
        /// Not before.
        not_before: Timestamp,
        /// Why, with the server's words.
        reason: String,
    },
    /// Given up: status Failed.
    Failed {
        /// Why, with the server's words.
        reason: String,
    },
    /// Nobody knows whether it went out: stays in Sending, is listed as in doubt and not taken again until a person decides.
    InDoubt {
        /// What happened.
        reason: String,
    },
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl CrmClient for Arc<dyn CrmClient> {
    fn organization_id(&self) -> OrganizationId {
        (**self).organization_id()
    }
    async fn settings(&self) -> Result<OrganizationSettings> {
        (**self).settings().await
    }
    async fn mailboxes(&self) -> Result<Vec<CrmMailbox>> {
        (**self).mailboxes().await
    }
    async fn resolve(&self, addresses: &[EmailAddress]) -> Result<Vec<Vec<Resolution>>> {
        (**self).resolve(addresses).await
    }
    async fn find_emails(&self, lookup: &EmailLookup, limit: usize) -> Result<Vec<EmailSummary>> {
        (**self).find_emails(lookup, limit).await
    }
    async fn exists(&self, id: &ActivityId) -> Result<bool> {
        (**self).exists(id).await
    }
    async fn check_incoming(&self, message: &IncomingCheck) -> Result<Verdict> {
        (**self).check_incoming(message).await
    }
    async fn deliver_incoming(&self, email: IncomingEmail) -> Result<Delivered> {
        (**self).deliver_incoming(email).await
    }
    async fn pending_outgoing(&self, query: &PendingQuery) -> Result<Vec<PendingEmail>> {
        (**self).pending_outgoing(query).await
    }
    async fn claim(&self, email: &PendingEmail) -> Result<Claim> {
        (**self).claim(email).await
    }
    async fn outgoing_email(&self, id: &ActivityId) -> Result<OutgoingEmail> {
        (**self).outgoing_email(id).await
    }
    async fn attachments(&self, id: &ActivityId) -> Result<Vec<Attachment>> {
        (**self).attachments(id).await
    }
    async fn prepare_outgoing(
        &self,
        id: &ActivityId,
        message_id: &MessageId,
        with_token: bool,
    ) -> Result<OutgoingEmail> {
        (**self).prepare_outgoing(id, message_id, with_token).await
    }
    async fn finish(&self, id: &ActivityId, outcome: &SendOutcome) -> Result<()> {
        (**self).finish(id, outcome).await
    }
    async fn record_delivery(&self, report: &DeliveryReport) -> Result<bool> {
        (**self).record_delivery(report).await
    }
}
