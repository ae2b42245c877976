//! The durable [`StateStore`](email_router_engine::StateStore): what the router must remember across restarts, in one SQLite file.
//!
//! What it deliberately is not: it decides nothing, knows no mail system and no CRM. Losing the file never doubles a message in
//! the CRM, since delivery there is idempotent; see [`SqliteState`] for what is lost.
//!
//! | store | feature |
//! |---|---|
//! | [`SqliteState`] | `sqlite` |
#![warn(missing_docs)]

#[cfg(feature = "sqlite")]
mod sqlite;

#[cfg(feature = "sqlite")]
pub use sqlite::SqliteState;
