//! Settings of the engine, already checked; the facade fills them from the configuration file.

use std::time::Duration;

use email_router_model::Timestamp;

/// How one mailbox is read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct IncomingSettings {
    /// At most this many messages are routed in one pass (`MaxMessageCount`).
    pub max_messages_per_cycle: usize,
    /// Only messages received after this are processed (`ProcessEmailsReceivedAfter`). Where the state store has a threshold of its own too, the
    /// later of the two counts.
    pub process_from: Option<Timestamp>,
    /// Messages older than this are left alone (`MessageExpiry`).
    pub message_expiry: Option<Duration>,
    /// Delete at the source after processing (`DeleteEmails`).
    pub delete_after_processing: bool,
    /// Move undeliverable messages to [`Self::undeliverable_folder`] where the server has folders (`MoveEmails`). They are
    /// kept in the router's quarantine in any case.
    pub move_undeliverable: bool,
    /// Name of that folder.
    pub undeliverable_folder: String,
    /// A message larger than this has its header section judged before its body is read. Bytes.
    pub header_first_above: u64,
    /// A message that failed this often is parked in quarantine.
    pub max_attempts: u32,
    /// Largest message that is read. Bytes. Larger ones go to quarantine without their bytes.
    pub max_message_bytes: u64,
    /// Caps of the MIME reading.
    pub caps: ParseCaps,
    /// What is remembered of each decision.
    pub decisions: KeepDecisions,
}

/// What the state store remembers of each decision, for `why` and `replay`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum KeepDecisions {
    /// Nothing.
    None,
    /// The record of the decision: sender, subject, every step.
    Records,
    /// The record and the header section of the message, so that the decision can be made anew under other settings. What of it is kept, and
    /// up to which length: [`KeptHeader`](crate::KeptHeader).
    #[default]
    WithHeaders,
}

impl Default for IncomingSettings {
    /// The defaults of the configuration file (`crates/config/FORMAT.md`); a test of the facade compares the two.
    fn default() -> Self {
        Self {
            max_messages_per_cycle: 500,
            process_from: None,
            message_expiry: None,
            delete_after_processing: false,
            move_undeliverable: true,
            undeliverable_folder: "Undeliverable".to_owned(),
            header_first_above: 64 * 1024,
            max_attempts: 5,
            max_message_bytes: 50 * 1024 * 1024,
            caps: ParseCaps::default(),
            decisions: KeepDecisions::default(),
        }
    }
}

/// How far a message is taken apart. Beyond a cap the rest is left out and named; the message is still usable.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParseCaps {
    /// Nesting of multiparts and attached messages.
    pub max_depth: usize,
    /// MIME parts.
    pub max_parts: usize,
    /// Bytes of the header section.
    pub max_header_bytes: usize,
    /// Ids of References that are looked at, the last ones.
    pub max_references: usize,
    /// Recipients that are looked at, the first ones.
    pub max_recipients: usize,
    /// Characters of the body that are kept.
    pub max_body_chars: usize,
    /// Characters of the subject that are kept (Dataverse: 800).
    pub max_subject_chars: usize,
}

impl Default for ParseCaps {
    /// As for [`IncomingSettings`].
    fn default() -> Self {
        Self {
            max_depth: 32,
            max_parts: 1000,
            max_header_bytes: 256 * 1024,
            max_references: 100,
            max_recipients: 1000,
            max_body_chars: 16 * 1024 * 1024,
            max_subject_chars: 800,
        }
    }
}

/// How outgoing mail is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutgoingSettings {
    /// Senders asked for at once (`BatchSize`).
    pub batch_size: usize,
    /// E-mails of each sender at once (`RequestBatchSize`).
    pub request_batch_size: usize,
    /// How long a refused e-mail waits (`PendingStatusDelay`); doubled with each attempt, with jitter.
    pub pending_status_delay: Duration,
    /// An e-mail in Sending for longer than this was left behind (`SendingStatusDelay`).
    pub sending_status_delay: Duration,
    /// After this many attempts it fails (`MaximumDeliveryAttempts`).
    pub maximum_delivery_attempts: u32,
    /// What to do when nobody knows whether a message went out.
    pub in_doubt: InDoubtPolicy,
    /// Domain of the Message-IDs we make; a fully qualified name of ours.
    pub message_id_domain: String,
    /// Largest message that is sent. Bytes.
    pub max_message_bytes: u64,
    /// Ask the mail server for delivery status notifications when the activity wants a delivery receipt.
    pub request_dsn: bool,
}

impl Default for OutgoingSettings {
    fn default() -> Self {
        Self {
            batch_size: 5,
            request_batch_size: 5,
            pending_status_delay: Duration::from_millis(300_000),
            sending_status_delay: Duration::from_millis(1_800_000),
            maximum_delivery_attempts: 10,
            in_doubt: InDoubtPolicy::Report,
            message_id_domain: "email-router.invalid".to_owned(),
            max_message_bytes: 50 * 1024 * 1024,
            request_dsn: true,
        }
    }
}

/// What to do with a message of which nobody knows whether it went out, when neither the ledger nor the mail system can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum InDoubtPolicy {
    /// It stays in Sending and is reported; a person decides. Never sends twice.
    #[default]
    Report,
    /// It is sent again under the same Message-ID; the recipient may get it twice.
    SendAgain,
}
