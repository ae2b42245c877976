//! How email-router talks to a CRM: the [`CrmClient`] trait and its adapters.
//!
//! The trait has the router's verbs, not create-read-update-delete. Names of tables, columns, states and switches are Dataverse's,
//! so that whoever knows Dynamics knows them here.
//!
//! What it deliberately is not: it knows no mail system, parses no message and decides nothing; the engine does.
//!
//! | adapter | feature | what |
//! |---|---|---|
//! | [`embedded`] | `embedded` | a complete small CRM in one SQLite file |
//! | [`dataverse`] | `dataverse` | Dataverse and Dynamics 365 on Microsoft's servers |
#![warn(missing_docs)]

pub mod activity;
pub mod contract;
pub mod error;
pub mod organization;
mod setting;
pub mod smart;
pub mod subject;
pub mod token;

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "dataverse")]
pub mod dataverse;
#[cfg(feature = "embedded")]
pub mod embedded;

pub use activity::{
    Attachment, CorrelationMethod, DeliveryAction, DeliveryReport, EmailLookup, EmailStatus, EmailSummary,
    IncomingEmail, NewSender, OutgoingEmail, ParticipationType, Party, PendingEmail, Priority,
    RecipientReport, SmartHashes, SmartQuery,
};
pub use contract::{
    Claim, CrmClient, CrmMailbox, Delivered, DeliveryMethod, IncomingCheck, PendingQuery, ReasonCode,
    Resolution, SendOutcome, ServerSideSync, Verdict, stand_in_message_id,
};
pub use error::{Error, ErrorKind, Result};
pub use organization::{
    Approval, AutomaticMail, DEFAULT_HASH_FILTER_KEYWORDS, FilteringMethod, HitPolicy, OrganizationSettings,
    UnknownSender,
};
pub use setting::{Setting, changed_settings};
