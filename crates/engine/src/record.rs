//! The record of a decision: every step in the order it was taken, so that a person can see why.

pub use email_router_crm::ReasonCode;
use email_router_model::{ActivityId, MessageId, RecordRef};
use serde::{Deserialize, Serialize};

/// How a message ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It becomes (or already is) an e-mail activity.
    Deliver,
    /// It does not belong in the CRM.
    Discard,
    /// It should have been delivered or judged and could not be; it is in quarantine.
    Undeliverable,
    /// It is older than the threshold or the expiry and is left alone.
    LeftAlone,
}

/// Everything about one decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecisionRecord {
    /// The mailbox it was found in.
    pub mailbox: String,
    /// Its id there, where it has one.
    pub remote_id: Option<String>,
    /// Its Message-ID.
    pub message_id: Option<MessageId>,
    /// Its subject, decoded.
    pub subject: String,
    /// Its sender: name and address decoded, else the From field as it is.
    pub from: String,
    /// How it ended.
    pub verdict: Verdict,
    /// Why, as a code.
    pub reason: ReasonCode,
    /// Why, in one sentence.
    pub because: String,
    /// Every step, in order.
    pub steps: Vec<Step>,
    /// The activity, when it was delivered.
    pub activity_id: Option<ActivityId>,
    /// The e-mail it answers, and how that was found.
    pub correlated: Option<CorrelatedRecord>,
    /// Owner of the activity.
    pub owner: Option<RecordRef>,
    /// Record the activity is about.
    pub regarding: Option<RecordRef>,
    /// Queues that get an item.
    pub queues: Vec<RecordRef>,
    /// Sender, then recipients, and how each was resolved, the first 200; empty unless it is delivered.
    #[serde(default)]
    pub parties: Vec<PartyRecord>,
    /// What kind of automatic mail it is, such as `auto-replied`; `None` for mail that a person wrote.
    #[serde(default)]
    pub automatic: Option<String>,
    /// What is written into the CRM beside the above; `None` unless it is delivered and was read whole.
    #[serde(default)]
    pub written: Option<WrittenRecord>,
    /// The decisions about the messages attached to this one, where it was found in a forward mailbox.
    #[serde(default)]
    pub attached: Vec<DecisionRecord>,
}

/// One party of a delivered message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartyRecord {
    /// `sender`, `to`, `cc` or `bcc`.
    pub field: email_router_crm::ParticipationType,
    /// The address, or what stands there.
    pub address: String,
    /// The record it was resolved to; `None` is an unresolved party.
    pub record: Option<RecordRef>,
    /// Why that record, or why none.
    pub why: String,
}

/// What a delivered message becomes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenRecord {
    /// `text/html` or `text/plain`.
    pub body_mime_type: String,
    /// Characters of the body.
    pub body_chars: usize,
    /// `name (type, bytes)` of each attachment.
    pub attachments: Vec<String>,
    /// What is not stored, and why.
    pub removed_parts: Vec<String>,
    /// `category` of the activity.
    pub category: Option<String>,
    /// `subcategory` of the activity.
    pub subcategory: Option<String>,
    /// The record that is created for an unknown sender.
    pub new_sender: Option<RecordRef>,
}

/// The e-mail a message answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CorrelatedRecord {
    /// That e-mail.
    pub activity_id: ActivityId,
    /// Its subject.
    pub subject: String,
    /// `in_reply_to`, `references`, `tracking_token`, `conversation_index`, `conversation_id`, `smart_matching`, `delivery_report`.
    pub method: String,
    /// A hit that something speaks against, and that nothing else supports.
    pub weak: bool,
}

/// One step of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Which rule: `sender`, `duplicate`, `recipients`, `correlate in_reply_to`, `filter ann@example.com`, `owner`, ...
    pub rule: String,
    /// What it looked for and found.
    pub found: String,
    /// How long it took, microseconds; only where the decision was asked to measure itself (`explain`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micros: Option<u64>,
}
