//! E-mail activities as the router writes and reads them.

use bytes::Bytes;
use email_router_model::{ActivityId, EmailAddress, MessageId, RecordRef, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// `statuscode` of an e-mail activity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmailStatus {
    /// 1, open.
    Draft,
    /// 2, completed.
    Completed,
    /// 3, completed: handed to the mail system.
    Sent,
    /// 4, completed: came from the mail system.
    Received,
    /// 5, canceled.
    Canceled,
    /// 6, completed: waits for the router.
    PendingSend,
    /// 7, completed: a router has it.
    Sending,
    /// 8, open: given up.
    Failed,
}

impl EmailStatus {
    /// Dataverse's `statuscode`.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Draft => 1,
            Self::Completed => 2,
            Self::Sent => 3,
            Self::Received => 4,
            Self::Canceled => 5,
            Self::PendingSend => 6,
            Self::Sending => 7,
            Self::Failed => 8,
        }
    }

    /// Dataverse's `statecode` that goes with it: 0 open, 1 completed, 2 canceled.
    #[must_use]
    pub const fn state_code(self) -> u8 {
        match self {
            Self::Draft | Self::Failed => 0,
            Self::Canceled => 2,
            _ => 1,
        }
    }

    /// The status with this number.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Draft,
            2 => Self::Completed,
            3 => Self::Sent,
            4 => Self::Received,
            5 => Self::Canceled,
            6 => Self::PendingSend,
            7 => Self::Sending,
            8 => Self::Failed,
            _ => return None,
        })
    }
}

/// `correlationmethod` of an e-mail activity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CorrelationMethod {
    /// 0.
    #[default]
    None,
    /// 1: correlation was switched off.
    Skipped,
    /// 3: In-Reply-To, or References.
    InReplyTo,
    /// 4.
    TrackingToken,
    /// 5.
    ConversationIndex,
    /// 6.
    SmartMatching,
    /// 7: a delivery report, tied to the e-mail it speaks of. Dataverse names the value and does not use it.
    Custom,
}

impl CorrelationMethod {
    /// Dataverse's number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Skipped => 1,
            Self::InReplyTo => 3,
            Self::TrackingToken => 4,
            Self::ConversationIndex => 5,
            Self::SmartMatching => 6,
            Self::Custom => 7,
        }
    }

    /// The method with this number.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::None,
            1 => Self::Skipped,
            3 => Self::InReplyTo,
            4 => Self::TrackingToken,
            5 => Self::ConversationIndex,
            6 => Self::SmartMatching,
            7 => Self::Custom,
            _ => return None,
        })
    }
}

/// `participationtypemask` of a party on an e-mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParticipationType {
    /// 1.
    Sender,
    /// 2.
    To,
    /// 3.
    Cc,
    /// 4.
    Bcc,
}

impl ParticipationType {
    /// Dataverse's number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Sender => 1,
            Self::To => 2,
            Self::Cc => 3,
            Self::Bcc => 4,
        }
    }

    /// The type with this number.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Sender,
            2 => Self::To,
            3 => Self::Cc,
            4 => Self::Bcc,
            _ => return None,
        })
    }
}

/// One participant of an e-mail; an `activityparty` row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// In which field.
    pub participation: ParticipationType,
    /// The record; `None` is an unresolved party.
    pub record: Option<RecordRef>,
    /// `addressused`: the address as the message has it.
    pub address: Option<EmailAddress>,
    /// The display name as the message has it (`unresolvedpartyname` when there is no record).
    pub name: Option<String>,
}

/// A file that belongs to an e-mail; an `activitymimeattachment` row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// At most 255 characters, no path.
    pub file_name: String,
    /// `type/subtype`.
    pub mime_type: String,
    /// Content-ID without angle brackets, for pictures inside the body.
    pub content_id: Option<String>,
    /// The content, decoded.
    #[serde(skip)]
    pub content: Bytes,
}

/// `prioritycode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// 0.
    Low,
    /// 1.
    #[default]
    Normal,
    /// 2.
    High,
}

impl Priority {
    /// Dataverse's number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Low => 0,
            Self::Normal => 1,
            Self::High => 2,
        }
    }

    /// The priority with this number; unknown numbers are normal.
    #[must_use]
    pub const fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Low,
            2 => Self::High,
            _ => Self::Normal,
        }
    }
}

/// A received message as the router delivers it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IncomingEmail {
    /// Its id; derived, so that delivering twice creates once.
    pub activity_id: ActivityId,
    /// `messageid`.
    pub message_id: Option<MessageId>,
    /// `inreplyto`.
    pub in_reply_to: Option<MessageId>,
    /// The ids of the References field, oldest first; kept for threading, no Dataverse column.
    pub references: Vec<MessageId>,
    /// `conversationindex`: the decoded `Thread-Index`, as lower-case hexadecimal.
    pub conversation_index: Option<String>,
    /// `subject`.
    pub subject: String,
    /// `description`: the body.
    pub body: String,
    /// `mimetype` of the body: `text/html` or `text/plain`.
    pub body_mime_type: String,
    /// Sender first, then To, Cc, Bcc in order.
    pub parties: Vec<Party>,
    /// `regardingobjectid`.
    pub regarding: Option<RecordRef>,
    /// `correlatedactivityid`.
    pub correlated_activity: Option<ActivityId>,
    /// `parentactivityid`.
    pub parent_activity: Option<ActivityId>,
    /// `correlationmethod`.
    pub correlation_method: CorrelationMethod,
    /// `trackingtoken`.
    pub tracking_token: Option<String>,
    /// `ownerid`: a systemuser or team.
    pub owner: Option<RecordRef>,
    /// Queues that get a queue item.
    pub queues: Vec<Uuid>,
    /// `acceptingentityid`: the user or queue whose filter accepted it.
    pub accepting: Option<RecordRef>,
    /// `receivingmailboxid`, as the record (user, queue) of the mailbox that was read.
    pub receiving: Option<RecordRef>,
    /// `submittedby`: the address of the mailbox that was read.
    pub submitted_by: Option<EmailAddress>,
    /// `isduplicatesenderunresolved`.
    pub is_duplicate_sender_unresolved: bool,
    /// When the mail system received it (`actualend`).
    pub received_on: Option<Timestamp>,
    /// The Date field of the message (`senton`).
    pub sent_on: Option<Timestamp>,
    /// `prioritycode`.
    pub priority: Priority,
    /// Attachments that are stored.
    pub attachments: Vec<Attachment>,
    /// What was not stored and why, one line each; `notifications` is 1 when there is any.
    pub removed_parts: Vec<String>,
    /// The plain text the message offers beside an HTML body; ours, Dataverse keeps one body.
    pub text_body: Option<String>,
    /// `category`, at most 250 characters: what kind of automatic mail it is, such as `automatic: auto-replied`.
    pub category: Option<String>,
    /// `subcategory`, at most 250 characters: how it is protected, such as `S/MIME signed`.
    pub subcategory: Option<String>,
    /// The id of the conversation as the mail system counts it (Exchange), where it gives one; kept for correlation, no
    /// Dataverse column.
    pub conversation_id: Option<String>,
    /// What smart matching compares; empty when the organization wants no hashes.
    pub smart: SmartHashes,
    /// A record that is created with the e-mail, in the same transaction, because nobody has the sender's address. A party of the
    /// e-mail refers to it.
    pub new_sender: Option<NewSender>,
}

/// A contact or lead that is created for an unknown sender.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewSender {
    /// Table (`contact` or `lead`) and id; the id is derived from organization, table and address, so that two messages of one
    /// stranger create one record.
    pub record: RecordRef,
    /// Its name: the display name of the sender, else the address.
    pub name: String,
    /// Its address.
    pub address: EmailAddress,
    /// Its owner: that of the e-mail.
    pub owner: Option<RecordRef>,
}

/// The hashes of an e-mail that smart matching compares (`crm-contract.md` 8.4 and 13.4). Sorted, each once.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SmartHashes {
    /// Of the words of the subject, at most `hashmaxcount`.
    pub words: Vec<i64>,
    /// Of the addresses of From, To, Cc and Bcc, at most `hashmaxcount`.
    pub addresses: Vec<i64>,
}

/// Which e-mails smart matching looks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmartQuery {
    /// The hashes of the new message.
    pub hashes: SmartHashes,
    /// How many words either side may have that the other has not (`hashdeltasubjectcount`).
    pub delta: u32,
    /// How many addresses must be common (`hashminaddresscount`).
    pub min_addresses: u32,
    /// Older e-mails are not looked at.
    pub not_before: Timestamp,
}

/// What correlation needs to know of an e-mail in the CRM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmailSummary {
    /// Its id.
    pub activity_id: ActivityId,
    /// Whether the CRM sent it.
    pub outgoing: bool,
    /// Its Message-ID.
    pub message_id: Option<MessageId>,
    /// Its subject.
    pub subject: String,
    /// Its tracking token.
    pub tracking_token: Option<String>,
    /// What it is about.
    pub regarding: Option<RecordRef>,
    /// Its owner.
    pub owner: Option<RecordRef>,
    /// All its parties.
    pub parties: Vec<Party>,
    /// When it was created.
    pub created_on: Timestamp,
    /// Its `conversationindex`, as lower-case hexadecimal.
    pub conversation_index: Option<String>,
    /// The id of the conversation as the mail system counts it.
    pub conversation_id: Option<String>,
    /// Its hashes; empty when it has none.
    pub smart: SmartHashes,
}

/// What to look for among the e-mails of the CRM. Every look-up costs O(log n) in their number. An adapter that answers from a mirror may name an e-mail that
/// was deleted lately; delivering what points to it fails with an error that may be tried again, and then it is not named any more.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum EmailLookup {
    /// With one of these Message-IDs, in either direction.
    MessageIds(Vec<MessageId>),
    /// With this tracking token; letter case does not count.
    TrackingToken(String),
    /// With these ids.
    Ids(Vec<ActivityId>),
    /// Whose `conversationindex` begins with these 44 hexadecimal digits in lower case (the 22 bytes all mails of a conversation share). A root of
    /// another length finds nothing.
    ConversationRoot(String),
    /// With this conversation id of the mail system.
    ConversationId(String),
    /// That smart matching may take: all that agree in words and addresses as far as the query asks, the newest of them where there
    /// are more than the limit. An adapter may compare only the newest 500 e-mails of each address of the query (with `delta` 0: of each
    /// address with that subject), so that what thousands of e-mails share costs no more than what few do.
    Smart(SmartQuery),
}

impl EmailLookup {
    /// Hexadecimal digits of the root of a conversation index.
    pub const ROOT_DIGITS: usize = 44;

    /// Whether an e-mail is one of these: what every adapter must come to, by whatever index.
    #[must_use]
    pub fn matches(&self, email: &EmailSummary) -> bool {
        match self {
            Self::MessageIds(ids) => email.message_id.as_ref().is_some_and(|id| ids.contains(id)),
            Self::TrackingToken(token) => {
                email.tracking_token.as_ref().is_some_and(|t| t.to_lowercase() == token.to_lowercase())
            }
            Self::Ids(ids) => ids.contains(&email.activity_id),
            Self::ConversationRoot(root) => {
                root.len() == Self::ROOT_DIGITS
                    && email.conversation_index.as_ref().is_some_and(|index| index.starts_with(root.as_str()))
            }
            Self::ConversationId(id) => email.conversation_id.as_ref() == Some(id),
            Self::Smart(query) => query.matches(email),
        }
    }
}

impl SmartQuery {
    /// Whether smart matching may take this e-mail (`crm-contract.md` 13.4): at most `delta` words that only one of the two has,
    /// at least `min_addresses` common addresses (always one), not too old. One without words in its subject matches nothing.
    #[must_use]
    pub fn matches(&self, email: &EmailSummary) -> bool {
        let common = |a: &[i64], b: &[i64]| a.iter().filter(|hash| b.binary_search(hash).is_ok()).count();
        let (ours, theirs) = (&self.hashes, &email.smart);
        let words = common(&ours.words, &theirs.words);
        let most = ours.words.len().max(theirs.words.len());
        email.created_on >= self.not_before
            && !ours.words.is_empty()
            && !theirs.words.is_empty()
            && most - words <= self.delta as usize
            && common(&ours.addresses, &theirs.addresses) >= self.min_addresses.max(1) as usize
    }
}

/// What a mail system reported about an e-mail that was sent (RFC 3464).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryReport {
    /// The e-mail it is about.
    pub activity_id: ActivityId,
    /// Identity of the report (its Message-ID, or a digest); the same report again changes nothing.
    pub report: String,
    /// When the report arrived.
    pub at: Timestamp,
    /// What it says of each recipient.
    pub recipients: Vec<RecipientReport>,
}

/// What a delivery report says of one recipient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientReport {
    /// The address the e-mail was sent to.
    pub address: EmailAddress,
    /// What became of it.
    pub action: DeliveryAction,
    /// The enhanced status code (RFC 3463), such as `5.1.1`.
    pub status: Option<String>,
    /// Why, in the words of the mail system, on one line.
    pub diagnostic: Option<String>,
}

/// The Action field of a delivery report (RFC 3464 2.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryAction {
    /// Not yet, and the mail system goes on trying: no failure.
    Delayed,
    /// In the recipient's mailbox.
    Delivered,
    /// Sent on to several addresses; no further report.
    Expanded,
    /// Given up.
    Failed,
    /// Handed to a system that reports nothing.
    Relayed,
}

impl DeliveryAction {
    /// The word of RFC 3464.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delayed => "delayed",
            Self::Delivered => "delivered",
            Self::Expanded => "expanded",
            Self::Failed => "failed",
            Self::Relayed => "relayed",
        }
    }

    /// The action with this word; letter case does not count.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Delayed, Self::Delivered, Self::Expanded, Self::Failed, Self::Relayed]
            .into_iter()
            .find(|action| action.as_str().eq_ignore_ascii_case(word.trim()))
    }
}

/// An outgoing e-mail that waits, in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingEmail {
    /// Its id.
    pub activity_id: ActivityId,
    /// Who sends it: a systemuser or queue.
    pub sender: RecordRef,
    /// Version of the row; a claim with an old one fails.
    pub version: u64,
    /// `deliveryattempts` so far.
    pub delivery_attempts: u32,
    /// `deliveryprioritycode`.
    pub priority: Priority,
    /// Whether it was found in Sending, left behind by a router that died.
    pub stale: bool,
    /// When it became pending; the oldest goes first.
    pub modified_on: Timestamp,
}

/// An outgoing e-mail with all that is needed to write the message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutgoingEmail {
    /// Its id.
    pub activity_id: ActivityId,
    /// Its Message-ID, once one was given.
    pub message_id: Option<MessageId>,
    /// Subject, without or with the token.
    pub subject: String,
    /// Body.
    pub body: String,
    /// `text/html` or `text/plain`.
    pub body_mime_type: String,
    /// Sender, To, Cc, Bcc. `address` is always filled in: `addressused`, else the primary address of the record.
    pub parties: Vec<Party>,
    /// The e-mail this answers.
    pub parent_activity: Option<ActivityId>,
    /// Message-ID of that e-mail.
    pub parent_message_id: Option<MessageId>,
    /// References of that e-mail, oldest first.
    pub parent_references: Vec<MessageId>,
    /// The token, once one was given.
    pub tracking_token: Option<String>,
    /// `prioritycode`.
    pub priority: Priority,
    /// `deliveryreceiptrequested`.
    pub delivery_receipt_requested: bool,
    /// `readreceiptrequested`.
    pub read_receipt_requested: bool,
    /// `deliveryattempts`, the running one included.
    pub delivery_attempts: u32,
    /// The sizes of its attachments together, in bytes, decoded; known without reading them, so that one too many is never read.
    pub attachment_bytes: u64,
    /// When it was created in the CRM; the Date field of the message, the same for each attempt.
    pub created_on: Timestamp,
}
