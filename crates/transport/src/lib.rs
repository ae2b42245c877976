//! How email-router talks to mail systems: the [`Transport`] trait, its adapters and the layers around them.
//!
//! What it deliberately is not: it knows no CRM, decides nothing about a message, keeps nothing between two sessions. An
//! adapter never knows another adapter.
//!
//! | adapter | feature | receive | submit |
//! |---|---|---|---|
//! | [`maildir`] | `maildir` | yes | yes |
//! | [`imap`] | `imap` | yes | no |
//! | [`pop3`] | `pop3` | yes | no |
//! | [`smtp`] | `smtp` | no | yes |
//! | [`memory`] | `memory` | yes | yes |
//!
//! [`import`] reads mail that lies in files (`.eml`, mbox, Maildir) as a source for backfill.
//!
//! | layer | what it adds |
//! |---|---|
//! | [`layer::retry`] | tries again what may be tried again, within a budget |
//! | [`layer::timeout`] | a deadline for every operation |
//! | [`layer::limit`] | at most so many sessions at once |
//! | [`layer::trace`] | a span for every operation |
//! | [`layer::fault`] | seeded failures, for tests |
#![warn(missing_docs)]

pub mod contract;
pub mod error;
pub mod layer;
pub mod rules;

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "imap")]
pub mod imap;
#[cfg(feature = "maildir")]
pub mod import;
#[cfg(any(feature = "maildir", feature = "memory"))]
mod lines;
#[cfg(feature = "maildir")]
pub mod maildir;
#[cfg(feature = "memory")]
pub mod memory;
#[cfg(feature = "net")]
pub mod net;
#[cfg(feature = "pop3")]
pub mod pop3;
#[cfg(feature = "smtp")]
pub mod smtp;

pub use contract::{
    Access, Capability, Disposition, DsnNotify, DsnRequest, Envelope, Inbox, Outbound, Part, Probe,
    ProbeStep, Receipt, ReceiveOptions, RecipientResult, RecipientStatus, Stub, SubmitOptions, Transport,
};
pub use error::{Error, ErrorKind, Result, TlsFault};
