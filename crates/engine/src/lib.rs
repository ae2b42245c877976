//! Routing and correlation of e-mail: what a message is, whether it belongs in the CRM, which conversation and which records it
//! belongs to, and the thin asynchronous drivers that carry messages both ways.
//!
//! What it deliberately is not: it opens no socket and no database, reads no configuration file and knows no protocol. Mail
//! systems are behind [`Transport`](email_router_transport::Transport), the CRM behind [`CrmClient`](email_router_crm::CrmClient),
//! durable state behind [`StateStore`], everything that watches behind [`Observer`].
//!
//! | module | what |
//! |---|---|
//! | [`message`] | a message as the rules see it: identity, participants, threading, content |
//! | [`decide`] | filtering, correlation, parties, owner: from a message to a [`Decision`](decide::Decision) |
//! | [`record`] | the record of a decision that a person can read |
//! | [`mod@reference`] | ids in outgoing mail that nobody else can make |
//! | [`ports`] | [`StateStore`], [`CorrelationIndex`], [`Observer`] |
//! | [`incoming`] | one pass over one mailbox |
//! | [`outgoing`] | writing and submitting the CRM's mail |
//! | [`router`] | scheduling: which pass runs when |
#![warn(missing_docs)]

pub mod decide;
pub mod error;
pub mod guard;
pub mod incoming;
mod kept;
pub mod message;
pub mod outgoing;
pub mod ports;
pub mod record;
pub mod reference;
pub mod router;
pub mod settings;
pub mod state_memory;

#[cfg(feature = "conformance")]
pub mod conformance;

pub use error::{Error, ErrorKind, Result};
pub use kept::KeptHeader;
pub use ports::{CorrelationIndex, Event, Observer, StateError, StateStore};
pub use record::{DecisionRecord, ReasonCode, Verdict};
pub use reference::ReferenceSigner;
pub use settings::{InDoubtPolicy, IncomingSettings, KeepDecisions, OutgoingSettings, ParseCaps};
