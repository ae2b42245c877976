//! The ports of the engine: what it needs from the outside beside mail systems and the CRM.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use email_router_crm::{CrmClient, EmailLookup, EmailSummary, SmartQuery};
use email_router_model::{
    ActivityId, Classified, EmailAddress, MailboxId, MessageId, RemoteId, Retry, Scope, Timestamp,
};
use email_router_transport::RecipientResult;
use serde::{Deserialize, Serialize};

use crate::{DecisionRecord, KeptHeader, Verdict};

// ---------------------------------------------------------------------------------------------------------------- state

/// What the router must remember across restarts.
///
/// # Contract
/// - Calls may come from any task at the same time, from several processes too.
/// - `Ok` of [`StateStore::ledger_begin`], [`StateStore::ledger_result`], [`StateStore::ledger_close`] and [`StateStore::quarantine_put`] means durable, also
///   when the machine loses power now. The other writes survive the death of the process, and may lose the last moments when
///   the machine loses power: each of them can be repeated, since delivery to the CRM is idempotent.
/// - A method that fails wrote nothing.
#[async_trait]
pub trait StateStore: Debug + Send + Sync + 'static {
    /// What is known of these messages, in the order asked; `None` for a message never begun.
    async fn seen(
        &self,
        mailbox: &MailboxId,
        ids: &[RemoteId],
    ) -> Result<Vec<Option<SeenMessage>>, StateError>;

    /// Notes that work on these messages begins: their attempts grow by one. Noted first, so that a message that kills the
    /// process is counted too.
    async fn begin(&self, mailbox: &MailboxId, ids: &[RemoteId], at: Timestamp) -> Result<(), StateError>;

    /// Takes back one attempt of each of these messages, which were begun but not touched (the pass stopped before them).
    async fn unbegin(&self, mailbox: &MailboxId, ids: &[RemoteId]) -> Result<(), StateError>;

    /// Notes that a message failed for now, and not to try before `not_before`.
    async fn note_failure(
        &self,
        mailbox: &MailboxId,
        id: &RemoteId,
        error: &str,
        not_before: Timestamp,
    ) -> Result<(), StateError>;

    /// Notes that messages are settled: the CRM has them, or they are discarded, or in quarantine. Settling twice keeps the last.
    async fn settle(&self, mailbox: &MailboxId, settled: &[Settled]) -> Result<(), StateError>;

    /// Notes where this mailbox is read from now. When that is another place than before, an id names another message there: then all
    /// that is known of its messages is forgotten, and items in quarantine get ids that no message there has. Returns how many
    /// messages were forgotten; 0 the first time. Forgetting is safe, since delivery to the CRM is idempotent.
    async fn read_from(&self, mailbox: &MailboxId, source: &str) -> Result<u64, StateError>;

    /// What an adapter left of an earlier session of this mailbox, read from the same place
    /// ([`ReceiveOptions::resume`](email_router_transport::ReceiveOptions::resume)). Losing it costs a listing.
    async fn resume_token(&self, mailbox: &MailboxId, source: &str) -> Result<Option<Bytes>, StateError>;

    /// Keeps that in place of what was there.
    async fn set_resume_token(
        &self,
        mailbox: &MailboxId,
        source: &str,
        token: &Bytes,
    ) -> Result<(), StateError>;

    /// Forgets the settled messages of this mailbox that are not in `present` (the whole listing of the mailbox): they are gone from
    /// the source. Returns how many. Begun and failed ones are forgotten too.
    async fn forget_absent(&self, mailbox: &MailboxId, present: &[RemoteId]) -> Result<u64, StateError>;

    /// Forgets these messages, whatever is known of them. Called for those that a session removed from the source and that was closed
    /// well, since an id of theirs that comes again names another message (RFC 1939 section 7 forbids reuse only while a message
    /// exists), and for those that a person wants to be read anew.
    async fn forget(&self, mailbox: &MailboxId, ids: &[RemoteId]) -> Result<(), StateError>;

    /// Only messages received after this are processed.
    async fn threshold(&self, mailbox: &MailboxId) -> Result<Option<Timestamp>, StateError>;

    /// Sets or clears that.
    async fn set_threshold(
        &self,
        mailbox: &MailboxId,
        threshold: Option<Timestamp>,
    ) -> Result<(), StateError>;

    /// Notes, before anything is handed to a mail system, that this attempt begins.
    async fn ledger_begin(&self, entry: &LedgerEntry) -> Result<(), StateError>;

    /// Notes what the mail system said.
    async fn ledger_result(&self, id: &ActivityId, result: &LedgerResult) -> Result<(), StateError>;

    /// The CRM knows the result: the entry is no longer needed for recovery (it is kept for reports until it is pruned).
    async fn ledger_close(&self, id: &ActivityId) -> Result<(), StateError>;

    /// The entry of this e-mail, open or closed.
    async fn ledger(&self, id: &ActivityId) -> Result<Option<LedgerEntry>, StateError>;

    /// All open entries, oldest first: what a restart has to bring to an end.
    async fn ledger_open(&self) -> Result<Vec<LedgerEntry>, StateError>;

    /// Keeps a message that could not be routed. Putting the same (mailbox, remote id) again replaces it and keeps its id.
    async fn quarantine_put(&self, item: &QuarantineItem) -> Result<u64, StateError>;

    /// The items, oldest first, without raw bytes; at most `limit` after the id `after`.
    async fn quarantine_list(&self, after: u64, limit: usize) -> Result<Vec<QuarantineItem>, StateError>;

    /// One item with its raw bytes.
    async fn quarantine_get(&self, id: u64) -> Result<Option<QuarantineItem>, StateError>;

    /// Removes an item; `false` when there was none.
    async fn quarantine_delete(&self, id: u64) -> Result<bool, StateError>;

    /// Takes the lease of this name for `holder` until `until`, or prolongs it when `holder` has it. `false`: somebody else has it and it
    /// has not run out at `now`.
    async fn lease_acquire(
        &self,
        name: &str,
        holder: &str,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool, StateError>;

    /// Gives the lease back if `holder` has it.
    async fn lease_release(&self, name: &str, holder: &str) -> Result<(), StateError>;

    /// Replaces the status of a provider (a mailbox in one direction).
    async fn put_status(&self, status: &ProviderStatus) -> Result<(), StateError>;

    /// All statuses, by mailbox and direction.
    async fn statuses(&self) -> Result<Vec<ProviderStatus>, StateError>;

    /// Removes the statuses of providers that are not in `present` (`mailbox id`, `direction`).
    async fn retain_statuses(&self, present: &[(MailboxId, ProviderDirection)]) -> Result<(), StateError>;

    /// Removes closed ledger entries older than this, but none that a later attempt needs ([`LedgerEntry::is_needed`]); open ones stay.
    /// Returns how many.
    async fn prune(&self, before: Timestamp) -> Result<u64, StateError>;

    /// Keeps the decisions about messages, for `why` and `replay`. A later decision about the same (mailbox, remote id) is kept beside the
    /// earlier one.
    async fn note_decisions(&self, notes: &[DecisionNote]) -> Result<(), StateError>;

    /// Decisions that match, newest first, at most `limit`. Costs O(log n) in the number kept for a look-up by Message-ID.
    async fn decisions(&self, query: &DecisionQuery, limit: usize) -> Result<Vec<DecisionNote>, StateError>;

    /// Removes decisions noted before `before`, and the oldest ones beyond `keep`. Returns how many.
    async fn prune_decisions(&self, before: Timestamp, keep: u64) -> Result<u64, StateError>;
}

/// The decision about one incoming message, as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecisionNote {
    /// When it was made.
    pub at: Timestamp,
    /// The mailbox the message was found in.
    pub mailbox: MailboxId,
    /// When the mail system received the message, where that is known.
    pub received: Option<Timestamp>,
    /// The decision.
    pub record: DecisionRecord,
    /// What of its header section is kept.
    #[serde(default)]
    pub kept: KeptHeader,
    /// That: enough to decide anew (`replay`).
    #[serde(skip)]
    pub header: Option<Bytes>,
}

/// Which decisions.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecisionQuery {
    /// About the message with this Message-ID.
    MessageId(MessageId),
    /// That led to this activity, or found it there.
    Activity(ActivityId),
    /// Noted from the first time (inclusive) up to the second (exclusive).
    Between(Timestamp, Timestamp),
}

impl DecisionQuery {
    /// Whether a note is one of these; a message attached to a forwarded one counts with it.
    #[must_use]
    pub fn matches(&self, note: &DecisionNote) -> bool {
        fn about(record: &DecisionRecord, is: &dyn Fn(&DecisionRecord) -> bool) -> bool {
            is(record) || record.attached.iter().any(|inner| about(inner, is))
        }
        match self {
            Self::MessageId(id) => about(&note.record, &|r| r.message_id.as_ref() == Some(id)),
            Self::Activity(id) => about(&note.record, &|r| r.activity_id.as_ref() == Some(id)),
            Self::Between(from, to) => (*from..*to).contains(&note.at),
        }
    }
}

/// Why the state store failed. Every such error stops the router from touching anything: scope *server*.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct StateError {
    /// What happened, with the file or server, and what to do.
    pub message: String,
    /// Whether it can pass by itself (a lock, a full disk).
    pub transient: bool,
    /// The cause.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Classified for StateError {
    fn retry(&self) -> Retry {
        if self.transient { Retry::Later(None) } else { Retry::Never }
    }
    fn scope(&self) -> Scope {
        Scope::Server
    }
}

/// What is known of a message in a mailbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenMessage {
    /// How often work on it began.
    pub attempts: u32,
    /// How it ended; `None` while it has not.
    pub settled: Option<Settled>,
    /// Not to be tried before.
    pub not_before: Option<Timestamp>,
    /// What the last attempt said.
    pub last_error: Option<String>,
}

/// The end of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// The message.
    pub id: RemoteId,
    /// How it ended.
    pub verdict: Verdict,
    /// The activity, when it was delivered.
    pub activity_id: Option<ActivityId>,
    /// What shall become of it at the source, so that a restart can do it: `keep`, `delete` or `move FOLDER`.
    pub disposition: String,
    /// When.
    pub at: Timestamp,
}

/// One attempt to submit an outgoing e-mail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// The e-mail.
    pub activity_id: ActivityId,
    /// Its Message-ID.
    pub message_id: MessageId,
    /// The mailbox it is sent from.
    pub mailbox: MailboxId,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// When the attempt began.
    pub at: Timestamp,
    /// What the mail system said; `None` while it has not: after a crash, in doubt.
    pub result: Option<LedgerResult>,
    /// Whether the CRM knows the result.
    pub closed: bool,
    /// What earlier attempts settled, when this one is for the recipients that were told to wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earlier: Option<RecipientFates>,
    /// How many attempts before this one count towards MaximumDeliveryAttempts: those that can have failed because of the message.
    #[serde(default)]
    pub refusals: u32,
}

impl LedgerEntry {
    /// [`Self::refusals`] for the next attempt.
    #[must_use]
    pub fn refusals_after(&self) -> u32 {
        let counts = match &self.result {
            Some(LedgerResult::NotTaken { counts, .. }) => *counts,
            Some(LedgerResult::Accepted { .. }) => false,
            // what has no answer may have killed the router or the connection
            Some(LedgerResult::Partly(_) | LedgerResult::InDoubt { .. }) | None => true,
        };
        self.refusals.saturating_add(counts.into())
    }

    /// What is known of single recipients after this attempt; `None` while all share one fate.
    #[must_use]
    pub fn fates(&self) -> Option<&RecipientFates> {
        match &self.result {
            Some(LedgerResult::Partly(fates)) => Some(fates),
            _ => self.earlier.as_ref(),
        }
    }

    /// Whether a later attempt needs this entry, so that it must not be pruned: it is open, or it alone knows which recipients
    /// have the message and which still wait.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        let ended = matches!(self.result, Some(LedgerResult::Accepted { .. }));
        !self.closed || (!ended && self.fates().is_some())
    }
}

/// What the mail system decided about the recipients of an e-mail so far, all attempts together, while some of them wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientFates {
    /// When the last of these decisions fell.
    pub at: Timestamp,
    /// Those for whom it took the message: it is never sent to them again.
    pub accepted: Vec<EmailAddress>,
    /// Those it refused for good.
    pub refused: Vec<RecipientWords>,
    /// Those it told to wait.
    pub waiting: Vec<RecipientWords>,
}

/// A recipient, and what the mail system said about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientWords {
    /// Who.
    pub address: EmailAddress,
    /// The mail system's words.
    pub reply: String,
}

impl std::fmt::Display for RecipientWords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.address, self.reply)
    }
}

/// What the mail system said to an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "result")]
pub enum LedgerResult {
    /// It took the message for at least one recipient, and none of the others waits.
    Accepted {
        /// When.
        at: Timestamp,
        /// Its words.
        reply: String,
        /// `address: server's words` for each refused recipient.
        refused: Vec<String>,
    },
    /// It decided about some recipients, and others wait for the next attempt.
    Partly(RecipientFates),
    /// It certainly took nothing.
    NotTaken {
        /// When.
        at: Timestamp,
        /// Its words.
        reason: String,
        /// For good.
        permanent: bool,
        /// Whether it can be the doing of the message; an outage, a wrong password or a certificate is not.
        #[serde(default)]
        counts: bool,
    },
    /// Nobody knows.
    InDoubt {
        /// When.
        at: Timestamp,
        /// What happened.
        reason: String,
    },
}

/// A message that could not be routed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineItem {
    /// Its id in the quarantine; 0 before it is put there.
    pub id: u64,
    /// Where it was found.
    pub mailbox: MailboxId,
    /// Its id there.
    pub remote_id: RemoteId,
    /// Why it is here: a class such as `too-large`, `unreadable`, `crm-refused`, `attempts-exhausted`, or `partial`: it was
    /// delivered, but not all of it.
    pub class: String,
    /// Why, in words, with what to do.
    pub reason: String,
    /// When it came here.
    pub at: Timestamp,
    /// How often it was tried.
    pub attempts: u32,
    /// Size in bytes, where known.
    pub size: Option<u64>,
    /// Its Message-ID, where known.
    pub message_id: Option<MessageId>,
    /// Its sender as written, where known.
    pub from: Option<String>,
    /// Its subject, where known.
    pub subject: Option<String>,
    /// Its bytes; `None` in lists, and when it was never read.
    #[serde(skip)]
    pub raw: Option<Bytes>,
}

/// Which way a provider works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderDirection {
    /// From a mailbox into the CRM.
    Incoming,
    /// From the CRM out.
    Outgoing,
}

impl std::fmt::Display for ProviderDirection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Incoming => "incoming",
            Self::Outgoing => "outgoing",
        })
    }
}

/// How a mailbox is doing in one direction, for `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderStatus {
    /// The mailbox.
    pub mailbox: MailboxId,
    /// Which way.
    pub direction: ProviderDirection,
    /// The name people know it by.
    pub name: String,
    /// Its address.
    pub address: String,
    /// When the last pass ended.
    pub last_run: Option<Timestamp>,
    /// When the last pass without an error ended.
    pub last_success: Option<Timestamp>,
    /// What the last pass said, when it failed.
    pub last_error: Option<String>,
    /// Failed passes in a row.
    pub failures: u32,
    /// Messages that wait: not yet settled in the mailbox, or pending in the CRM.
    pub backlog: Option<u64>,
    /// When the next pass begins at the earliest.
    pub next_run: Option<Timestamp>,
    /// Messages processed since the status was first written.
    pub processed: u64,
}

// ---------------------------------------------------------------------------------------------------------- correlation

/// Where correlation looks up the e-mails of the CRM. Every look-up costs O(log n) in their number.
#[async_trait]
pub trait CorrelationIndex: Debug + Send + Sync + 'static {
    /// E-mails with one of these Message-IDs, in either direction, newest first.
    async fn by_message_ids(&self, ids: &[MessageId]) -> Result<Vec<EmailSummary>, email_router_crm::Error>;
    /// E-mails with this tracking token, newest first, at most `limit`.
    async fn by_token(&self, token: &str, limit: usize)
    -> Result<Vec<EmailSummary>, email_router_crm::Error>;
    /// E-mails with these ids.
    async fn by_ids(&self, ids: &[ActivityId]) -> Result<Vec<EmailSummary>, email_router_crm::Error>;
    /// E-mails of the conversation whose index begins with these 44 hexadecimal digits, newest first, at most `limit`.
    async fn by_conversation_root(
        &self,
        root: &str,
        limit: usize,
    ) -> Result<Vec<EmailSummary>, email_router_crm::Error>;
    /// E-mails with this conversation id of the mail system, newest first, at most `limit`.
    async fn by_conversation_id(
        &self,
        id: &str,
        limit: usize,
    ) -> Result<Vec<EmailSummary>, email_router_crm::Error>;
    /// E-mails that smart matching may take, newest first, at most `limit`.
    async fn by_smart(
        &self,
        query: &SmartQuery,
        limit: usize,
    ) -> Result<Vec<EmailSummary>, email_router_crm::Error>;
}

/// The index that asks the CRM itself; right where the CRM is in the same process.
#[derive(Debug, Clone)]
pub struct CrmIndex(pub Arc<dyn CrmClient>);

#[async_trait]
impl CorrelationIndex for CrmIndex {
    async fn by_message_ids(&self, ids: &[MessageId]) -> Result<Vec<EmailSummary>, email_router_crm::Error> {
        self.0.find_emails(&EmailLookup::MessageIds(ids.to_vec()), ids.len().saturating_mul(4)).await
    }
    async fn by_token(
        &self,
        token: &str,
        limit: usize,
    ) -> Result<Vec<EmailSummary>, email_router_crm::Error> {
        self.0.find_emails(&EmailLookup::TrackingToken(token.to_owned()), limit).await
    }
    async fn by_ids(&self, ids: &[ActivityId]) -> Result<Vec<EmailSummary>, email_router_crm::Error> {
        self.0.find_emails(&EmailLookup::Ids(ids.to_vec()), ids.len()).await
    }
    async fn by_conversation_root(
        &self,
        root: &str,
        limit: usize,
    ) -> Result<Vec<EmailSummary>, email_router_crm::Error> {
        self.0.find_emails(&EmailLookup::ConversationRoot(root.to_owned()), limit).await
    }
    async fn by_conversation_id(
        &self,
        id: &str,
        limit: usize,
    ) -> Result<Vec<EmailSummary>, email_router_crm::Error> {
        self.0.find_emails(&EmailLookup::ConversationId(id.to_owned()), limit).await
    }
    async fn by_smart(
        &self,
        query: &SmartQuery,
        limit: usize,
    ) -> Result<Vec<EmailSummary>, email_router_crm::Error> {
        self.0.find_emails(&EmailLookup::Smart(query.clone()), limit).await
    }
}

// ------------------------------------------------------------------------------------------------------------- observer

/// Hears what the engine does: metrics, progress, the printout of the quick start. Must return quickly and never panic.
pub trait Observer: Debug + Send + Sync + 'static {
    /// Something happened.
    fn event(&self, event: &Event<'_>);
}

/// An observer that hears nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoObserver;

impl Observer for NoObserver {
    fn event(&self, _: &Event<'_>) {}
}

/// What an observer hears. The counters of the original (behaviour document, section 11) can be computed from these alone.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A mailbox was opened, or could not be.
    MailboxAccess {
        /// Which.
        mailbox: &'a MailboxId,
        /// Why not.
        error: Option<&'a crate::Error>,
    },
    /// An incoming message is settled.
    Incoming {
        /// Where it was found.
        mailbox: &'a MailboxId,
        /// The whole decision.
        record: &'a DecisionRecord,
        /// It could not be read as a message (counted as potentially corrupted).
        corrupt: bool,
        /// From fetch to record.
        elapsed: Duration,
        /// From its arrival in the mailbox until now, where the mail system tells when it arrived.
        waited: Option<Duration>,
    },
    /// An incoming message failed for now and will be tried again.
    IncomingDeferred {
        /// Where.
        mailbox: &'a MailboxId,
        /// Which.
        remote_id: &'a RemoteId,
        /// Why.
        error: &'a str,
    },
    /// A message is held back because its sender, or the conversation, is over a loop limit; it is routed when the window has moved
    /// on.
    LoopSuspected {
        /// Where.
        mailbox: &'a MailboxId,
        /// Which.
        remote_id: &'a RemoteId,
        /// Which limit, and about whom.
        limit: &'a str,
        /// When it is looked at again.
        until: Timestamp,
    },
    /// A delivery report was about an e-mail of ours, and the CRM has it now.
    DeliveryReported {
        /// What it says.
        report: &'a email_router_crm::DeliveryReport,
    },
    /// An outgoing e-mail was tried.
    Outgoing {
        /// The sender's mailbox.
        mailbox: &'a MailboxId,
        /// Which e-mail.
        activity_id: &'a ActivityId,
        /// Its subject.
        subject: &'a str,
        /// What became of it.
        outcome: &'a email_router_crm::SendOutcome,
        /// The fate of each recipient, when the mail system took it.
        recipients: &'a [RecipientResult],
        /// From claim to result.
        elapsed: Duration,
        /// From becoming pending in the CRM to this attempt; `None` for an attempt that an earlier pass left behind.
        waited: Option<Duration>,
    },
    /// A pass over a mailbox, or what it takes to send for a mailbox, failed.
    PassFailed {
        /// Which mailbox.
        mailbox: &'a MailboxId,
        /// Which way.
        direction: ProviderDirection,
        /// The transport's name (its `Display`): profiles with one server and one name count together.
        transport: &'a str,
        /// Why.
        error: &'a crate::Error,
    },
    /// What a pass over a mailbox left to do; from complete passes only.
    Backlog {
        /// Which mailbox.
        mailbox: &'a MailboxId,
        /// Messages not settled, those that wait for a retry included.
        messages: u64,
    },
    /// The scheduler looked for providers to run.
    SchedulingCycle,
    /// The configuration was read again; `changed` when it differed.
    ConfigurationRefresh {
        /// Whether it differed.
        changed: bool,
    },
    /// Something happened to a provider (one mailbox in one direction).
    Provider {
        /// Which mailbox.
        mailbox: &'a MailboxId,
        /// Which way.
        direction: ProviderDirection,
        /// What.
        what: ProviderEvent,
    },
}

/// What can happen to a provider; the original's `Service providers ...` counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProviderEvent {
    /// Stopped for running longer than MaxThreadExecution.
    Aborted,
    /// A pass ended well.
    Executed,
    /// A pass ended in an error.
    Failed,
    /// Its settings are wrong; it does not run.
    LoadFailed,
    /// Replaced after a change of the configuration.
    Refreshed,
    /// No longer configured.
    Removed,
    /// A pass began.
    Started,
}
