//! The vocabulary of email-router: addresses, ids, mailboxes, raw messages and their header section, secrets, time, error
//! axes. Every other crate builds on these types.
//!
//! What it deliberately is not: it does no I/O of its own (the capped readers work on what the caller names, [`permission`] only asks),
//! has no async code, knows no protocol, no CRM and no configuration file.
//!
//! | module | what |
//! |---|---|
//! | [`address`] | [`EmailAddress`] |
//! | [`caps`] | capped reading: the only way this workspace reads to an end |
//! | [`clock`] | [`Clock`], [`Entropy`]: time and randomness as dependencies |
//! | [`error`] | [`Retry`], [`Scope`], [`Classified`]: the axes every error of the workspace answers |
//! | [`header`] | the header section of an Internet message (RFC 5322), scanned without copying |
//! | [`ids`] | message, activity, remote, mailbox and record ids |
//! | [`mailbox`] | [`Mailbox`] and [`MailboxKind`] |
//! | [`permission`] | who may write a file, and who keeps this program from it |
//! | [`raw`] | [`RawMessage`]: the bytes of one message |
//! | [`redact`] | [`Redactor`]: takes secrets out of what servers say |
//! | [`secret`] | [`Secret`]: text that cannot be printed |
#![warn(missing_docs)]

pub mod address;
pub mod caps;
pub mod clock;
pub mod error;
pub mod header;
pub mod ids;
pub mod mailbox;
pub mod permission;
pub mod raw;
pub mod redact;
pub mod secret;

pub use address::{AddressError, EmailAddress};
pub use caps::{CapError, read_capped, read_file_capped};
pub use clock::{Clock, Entropy, ManualClock, SeededEntropy, SystemClock, SystemEntropy};
pub use error::{Classified, Retry, Scope, TlsFault};
pub use header::{HeaderField, Headers};
pub use ids::{ActivityId, Direction, MailboxId, MessageId, OrganizationId, RecordRef, RemoteId};
pub use mailbox::{Mailbox, MailboxKind};
pub use permission::{may_write, who_denies};
pub use raw::RawMessage;
pub use redact::Redactor;
pub use secret::Secret;

/// A point in time; always UTC.
pub use jiff::Timestamp;
