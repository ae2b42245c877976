//! email-router as a library: from a configuration file, or from your own pieces, to a running router.
//!
//! | you want | use |
//! |---|---|
//! | the service as the command runs it | [`Service`] |
//! | your own transports or CRM | [`engine::router::Router`] with a [`engine::router::Plan`] of your own |
//! | to check every mailbox | [`access`] |
//! | to bring past mail in | [`backfill`] |
//! | the users and queues of the CRM, and their mailboxes in the configuration | [`load_data`] |
//! | the mirror of an organization on a server: size, comparison, reading anew | [`mirror`] |
//! | inbox rules that forward to the forward mailbox | [`rules`] |
//!
//! | feature (all on by default) | without it |
//! |---|---|
//! | `embedded`, `dataverse` | a deployment of that kind answers with the feature to enable |
//! | `maildir` | no Maildir adapter and no `backfill` and `history`, which read files |
//! | `pop3`, `imap`, `smtp`, `ews`, `graph` | a profile of that kind answers with the feature to enable |
//! | `http` | no OAuth 2.0 for any of them; comes with `ews` and `graph` |
//! | `kerberos` | no Local System Account for servers: the system's Kerberos library is never loaded |
//!
//! The crates below are re-exported under short names, so that one dependency is enough.
#![warn(missing_docs)]

pub mod access;
pub mod assemble;
#[cfg(feature = "maildir")]
pub mod backfill;
mod credentials;
pub mod error;
#[cfg(feature = "maildir")]
pub mod history;
pub mod load_data;
pub mod logging;
pub mod metrics;
#[cfg(feature = "dataverse")]
pub mod mirror;
pub mod quarantine;
mod registry;
pub mod rules;
pub mod service;
pub mod stored_credentials;

pub use email_router_config as config;
pub use email_router_crm as crm;
pub use email_router_engine as engine;
pub use email_router_model as model;
pub use email_router_state as state;
pub use email_router_transport as transport;

pub use error::{Error, Result};
pub use service::{OpenOptions, Service};
