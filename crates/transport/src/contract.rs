//! The contract between the router and a mail system.
//!
//! A [`Transport`] is a cheap, shareable, stateless handle; [`Transport::receive`] opens a stateful [`Inbox`] that owns one session and
//! has an explicit end. Every rule below is tested by the suite in `conformance` (feature of the same name), which runs
//! against every adapter, every layer around one, `Box<dyn Transport>` and `Arc<dyn Transport>`.

use std::fmt::{Debug, Display};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use email_router_model::{EmailAddress, Mailbox, MessageId, RawMessage, RemoteId, Timestamp};
use serde::Serialize;

use crate::{Error, ErrorKind, Result};

/// One mail system, reached in one way with one set of settings.
///
/// # Contract
/// - Calls may come from any task at the same time. A handle holds no session between calls (a pool of idle connections is no
///   session).
/// - A method the capability denies answers [`ErrorKind::Unsupported`] at once, without touching the network.
/// - Dropping a future at any await leaves no half-used connection behind that a later call could read from.
/// - No error, `Debug` or `Display` shows a secret.
/// - `Display` names the mail system as an administrator would: `pop3 mail.example.com:995`.
///
/// # Wrappers
/// A wrapper implements every method and forwards what it does not change, [`Transport::capability`] included.
#[async_trait]
pub trait Transport: Debug + Display + Send + Sync + 'static {
    /// What this transport can do. Asked first; may change after the first session when the server decides.
    fn capability(&self) -> Capability;

    /// Test access: does all that a real session does up to the point where something would change, and changes nothing.
    ///
    /// Incoming: connect, secure, log in, list. Outgoing: connect, secure, log in, offer the sender address and take it back.
    ///
    /// # Errors
    /// The first step that fails ends the probe; [`Error::kind`] tells which kind of fault it is, [`Error::steps`] what had worked until then.
    async fn probe(&self, mailbox: &Mailbox, access: Access) -> Result<Probe>;

    /// Opens the mailbox for reading.
    ///
    /// An empty mailbox opens fine. Where the mail system locks mailboxes the lock is held until [`Inbox::close`] or drop.
    ///
    /// # Errors
    /// [`ErrorKind::Authentication`], [`ErrorKind::MailboxLocked`], network faults; [`ErrorKind::Unsupported`] where the capability says so.
    async fn receive(&self, mailbox: &Mailbox, options: ReceiveOptions) -> Result<Box<dyn Inbox>>;

    /// Hands one message over for delivery.
    ///
    /// `Ok` means that the mail system took responsibility for at least one recipient; [`Receipt::recipients`] tells each one's
    /// fate. The message arrives with the bytes given, but for line ends, which become CRLF.
    ///
    /// # Errors
    /// `Retry::Never` when the server refuses for good, `Retry::Later` when it refuses for now and certainly took nothing,
    /// `Retry::InDoubt` when the message was handed over completely and no answer came. All recipients refused is
    /// [`ErrorKind::RecipientsRefused`]: `Never` if every refusal was permanent, else `Later`; [`Error::recipients`](crate::Error::recipients)
    /// tells each one's fate.
    async fn submit(&self, sender: &Mailbox, message: &Outbound, options: SubmitOptions) -> Result<Receipt>;

    /// Looks for a message this sender submitted earlier; resolves an in-doubt submission. `Ok(None)`: cannot tell.
    ///
    /// # Errors
    /// Network faults. The default, for mail systems without a record of sent mail, is `Ok(None)`.
    async fn find_submitted(&self, _sender: &Mailbox, _message_id: &MessageId) -> Result<Option<bool>> {
        Ok(None)
    }

    /// Waits until something may have arrived in the mailbox, at most for `limit`: `true` where the server said so, `false` at the limit. Holds a
    /// session of its own, reads nothing and changes nothing. Mail that arrived before need not be told of, so a caller lists from time to time all
    /// the same; being told in vain is allowed.
    ///
    /// # Errors
    /// As [`Self::receive`]. The default, for mail systems that tell nothing by themselves, is [`ErrorKind::Unsupported`].
    async fn wait_for_mail(&self, _mailbox: &Mailbox, _limit: Duration) -> Result<bool> {
        Err(Error::new(ErrorKind::Unsupported, format!("{self} does not tell when mail arrives")))
    }
}

/// One session on one mailbox.
///
/// # Contract
/// - [`Inbox::next`] lists the messages present when the session began, oldest first where the server has an order, at most
///   [`ReceiveOptions::max_messages`]. It never repeats an id within a session. Messages that arrive meanwhile may be left to the next.
///   Whoever lists may read and dispose of what was listed before going on, and need not list to the end.
/// - After [`ErrorKind::MessageGone`] or any other error of scope *message* the session goes on. After an error of scope *mailbox* or *server* every
///   further call fails; nothing disposed of so far may be taken as done.
/// - Dropping an inbox without [`Inbox::close`] changes nothing in the mailbox where the protocol can undo (POP3 without QUIT), and leaves
///   every message not disposed of untouched everywhere.
#[async_trait]
pub trait Inbox: Send {
    /// The next message, or `None` after the last. Costs no body, but for [`Capability::costly_listing`].
    ///
    /// # Errors
    /// Scope mailbox or server only.
    async fn next(&mut self) -> Result<Option<Stub>>;

    /// Says which messages will be asked for next, in order, so that the session can have them under way (POP3 PIPELINING). A
    /// hint: an adapter may ignore it, a caller need not give it, and asking for something else stays allowed. What was hinted
    /// but never asked for is read and dropped at the latest in [`Inbox::close`]. Given again, it adds to what was hinted before.
    async fn prefetch(&mut self, _wanted: &[(RemoteId, Part)]) -> Result<()> {
        Ok(())
    }

    /// The header section of a message, with at most a few lines of the body; cheap where [`Capability::headers_alone`], else the whole
    /// message is read. Does not mark the message as read.
    ///
    /// # Errors
    /// [`ErrorKind::MessageGone`]; [`ErrorKind::TooLarge`] beyond [`ReceiveOptions::max_header_bytes`].
    async fn headers(&mut self, id: &RemoteId) -> Result<Bytes>;

    /// The whole message, exactly as the server keeps it (POP3 and IMAP: CRLF line ends, dots unstuffed). Asking twice is allowed.
    /// Does not mark the message as read.
    ///
    /// # Errors
    /// [`ErrorKind::MessageGone`]; [`ErrorKind::TooLarge`] beyond [`ReceiveOptions::max_message_bytes`], after which the session is still usable.
    async fn fetch(&mut self, id: &RemoteId) -> Result<RawMessage>;

    /// What a later session may be opened with so that its listing costs less ([`ReceiveOptions::resume`]), at most
    /// [`LARGEST_RESUME_TOKEN`] bytes. `None`: as before, or nothing worth keeping; always where [`Capability::resumes`] is not set. Asked for before
    /// [`Inbox::close`]; holds no secret.
    fn resume_token(&mut self) -> Option<Bytes> {
        None
    }

    /// What shall become of the message. Takes effect at the latest in [`Inbox::close`]; for a transport with
    /// [`Capability::dispose_at_close`] never before. Disposing of a message that is gone succeeds; twice the same succeeds.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when the capability denies this disposition; the message stays as it was.
    async fn dispose(&mut self, id: &RemoteId, what: Disposition) -> Result<()>;

    /// Ends the session; the commit point. `Ok` means that every disposition took effect.
    ///
    /// # Errors
    /// Then nobody knows which dispositions took effect; the next session shows what is still there.
    async fn close(self: Box<Self>) -> Result<()>;
}

/// What a transport can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Capability {
    /// [`Transport::receive`] works.
    pub receive: bool,
    /// [`Transport::submit`] works.
    pub submit: bool,
    /// A message keeps its [`RemoteId`] between sessions, and no other message gets it.
    pub stable_ids: bool,
    /// [`Inbox::headers`] costs less than the body.
    pub headers_alone: bool,
    /// [`Inbox::next`] reads the header section or all of each message, since the server tells no ids (POP3 without UIDL). A caller
    /// lists no further than it works, so that a session gets on; [`Stub::headers`] has what was read.
    pub costly_listing: bool,
    /// [`Disposition::Delete`] works.
    pub delete: bool,
    /// [`Disposition::MarkRead`] works.
    pub mark_read: bool,
    /// [`Disposition::Move`] works; the folder is created when it is missing.
    pub move_to_folder: bool,
    /// Dispositions take effect in [`Inbox::close`], all or none (POP3 QUIT).
    pub dispose_at_close: bool,
    /// [`Transport::find_submitted`] gives answers.
    pub find_submitted: bool,
    /// [`Transport::wait_for_mail`] works.
    pub notifies: bool,
    /// [`Inbox::resume_token`] gives tokens that make a later listing cost less ([`ReceiveOptions::resume`]).
    pub resumes: bool,
    /// [`Receipt`] has one result for each recipient, from the server itself.
    pub per_recipient_results: bool,
    /// So many submissions make progress at the same time, and further ones wait; `None`: no limit. A caller who begins no more
    /// than these has fewer messages in doubt after a crash.
    pub concurrent_submissions: Option<usize>,
}

/// Which direction test access shall check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Reading the mailbox.
    Incoming,
    /// Sending in its name.
    Outgoing,
}

/// What a successful probe found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Probe {
    /// The steps that were done, in order.
    pub steps: Vec<ProbeStep>,
    /// How many messages wait in the mailbox, where that is known.
    pub messages: Option<u64>,
}

/// One step of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProbeStep {
    /// What was done, as a person would say it: `connected`, `TLS 1.3`, `logged in with PLAIN`.
    pub what: String,
    /// Something worth knowing that is no failure: `password sent without TLS`.
    pub warning: Option<String>,
}

/// How to read a mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReceiveOptions {
    /// List at most this many messages in the session; `usize::MAX` for all.
    pub max_messages: usize,
    /// A message larger than this is not read: [`ErrorKind::TooLarge`]. Bytes.
    pub max_message_bytes: u64,
    /// A header section larger than this is not read. Bytes.
    pub max_header_bytes: u64,
    /// What [`Inbox::resume_token`] gave in an earlier session of this mailbox, also one of another run of the program. It says no more than what was
    /// listed then: an adapter for which it is of no use, or which finds it damaged, out of date or of another place, lists everything from the
    /// beginning, with the same result.
    pub resume: Option<Bytes>,
}

impl Default for ReceiveOptions {
    /// All messages, 150 MiB a message, 1 MiB a header section.
    fn default() -> Self {
        Self {
            max_messages: usize::MAX,
            max_message_bytes: 150 * 1024 * 1024,
            max_header_bytes: 1024 * 1024,
            resume: None,
        }
    }
}

/// A message in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stub {
    /// Its id; unique in the session.
    pub id: RemoteId,
    /// Size in bytes as the server tells it; may differ a little from what [`Inbox::fetch`] gives.
    pub size: Option<u64>,
    /// When the mail system received it.
    pub received: Option<Timestamp>,
    /// The header section, when it had to be read for the listing.
    pub headers: Option<Bytes>,
    /// The conversation the mail system put it into (Exchange's and Graph's `conversationId`); `None` where it has none.
    pub conversation_id: Option<String>,
    /// The message class (`PR_MESSAGE_CLASS`: `IPM.Note`, `IPM.Schedule.Meeting.Request`), where the mail system has classes (Exchange). An adapter
    /// lists items of every class; which of them are mail for the CRM is the caller's decision.
    pub message_class: Option<String>,
}

impl Stub {
    /// A message of which nothing but its id is known.
    #[must_use]
    pub fn new(id: RemoteId) -> Self {
        Self { id, size: None, received: None, headers: None, conversation_id: None, message_class: None }
    }
}

/// A part of a message, for [`Inbox::prefetch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// What [`Inbox::headers`] gives.
    Headers,
    /// What [`Inbox::fetch`] gives.
    Whole,
}

/// What shall become of a message at its source.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Disposition {
    /// Nothing.
    Keep,
    /// It is removed.
    Delete,
    /// It is marked as read.
    MarkRead,
    /// It is moved to the folder of this name beside the inbox.
    Move(String),
}

/// A message ready to go out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbound {
    /// Who it goes to and who hears of failures.
    pub envelope: Envelope,
    /// Its Message-ID; the same for every attempt.
    pub message_id: MessageId,
    /// The complete message (RFC 5322), Bcc field removed.
    pub mime: Bytes,
}

/// The envelope (RFC 5321 2.3.1): independent of what the header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The reverse-path; `None` is the null reverse-path `<>`.
    pub sender: Option<EmailAddress>,
    /// Everybody the message goes to; at least one, no address twice.
    pub recipients: Vec<EmailAddress>,
}

/// How to submit a message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SubmitOptions {
    /// Ask for delivery status notifications (RFC 3461), where the server offers them.
    pub dsn: Option<DsnRequest>,
}

/// A request for delivery status notifications (RFC 3461).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DsnRequest {
    /// When a notification is wanted.
    pub notify: DsnNotify,
    /// `RET=HDRS` instead of `RET=FULL`.
    pub headers_only: bool,
    /// The envelope id (`ENVID`), at most 100 characters.
    pub envelope_id: Option<String>,
}

/// `NOTIFY` of RFC 3461 4.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DsnNotify {
    /// On success.
    pub success: bool,
    /// On failure.
    pub failure: bool,
    /// On delay.
    pub delay: bool,
}

/// What the mail system said when it took a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Receipt {
    /// The fate of each recipient, in the order of the envelope.
    pub recipients: Vec<RecipientResult>,
    /// The server's final words, often with its queue id.
    pub reply: String,
}

impl Receipt {
    /// Whether the server took the message for every recipient.
    #[must_use]
    pub fn all_accepted(&self) -> bool {
        self.recipients.iter().all(|r| r.status == RecipientStatus::Accepted)
    }
}

/// The fate of one recipient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecipientResult {
    /// Who.
    pub address: EmailAddress,
    /// Taken or refused.
    pub status: RecipientStatus,
    /// The server's words about this recipient.
    pub reply: String,
}

/// Whether a recipient was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RecipientStatus {
    /// The server took responsibility.
    Accepted,
    /// Refused for now (4yz).
    RefusedForNow,
    /// One too many for one transaction, of which others were taken: it may be tried in another at once (RFC 5321 4.5.3.1.10).
    TooMany,
    /// Refused for good (5yz).
    Refused,
}

macro_rules! forward_transport {
    ($($handle:ty),*) => {$(
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl Transport for $handle {
            fn capability(&self) -> Capability {
                (**self).capability()
            }
            async fn probe(&self, mailbox: &Mailbox, access: Access) -> Result<Probe> {
                (**self).probe(mailbox, access).await
            }
            async fn receive(&self, mailbox: &Mailbox, options: ReceiveOptions) -> Result<Box<dyn Inbox>> {
                (**self).receive(mailbox, options).await
            }
            async fn submit(&self, sender: &Mailbox, message: &Outbound, options: SubmitOptions) -> Result<Receipt> {
                (**self).submit(sender, message, options).await
            }
            async fn find_submitted(&self, sender: &Mailbox, message_id: &MessageId) -> Result<Option<bool>> {
                (**self).find_submitted(sender, message_id).await
            }
            async fn wait_for_mail(&self, mailbox: &Mailbox, limit: Duration) -> Result<bool> {
                (**self).wait_for_mail(mailbox, limit).await
            }
        }
    )*};
}
forward_transport!(Box<dyn Transport>, Arc<dyn Transport>);

/// The error for a method that the capability denies.
#[must_use]
pub fn unsupported(transport: &dyn Display, what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{transport} cannot {what}"))
}

/// The largest token of [`Inbox::resume_token`], in bytes: 1 MiB. An adapter that would need more gives none.
pub const LARGEST_RESUME_TOKEN: usize = 1024 * 1024;

/// A delay with which a server may be asked to wait at the most, whatever it says: one day.
pub const LONGEST_RETRY_DELAY: Duration = Duration::from_secs(24 * 60 * 60);
