//! One rustls configuration for every connection of email-router.
//!
//! | item | what |
//! |---|---|
//! | [`client_config`] | TLS 1.2 and 1.3 on ring, the platform's trust and the administrator's authorities; no switch turns the check off |
//! | [`handshake_fault`] | what went wrong, by kind, with a hint what to do |
//! | [`server_end_point`] | the channel binding of RFC 5929 section 4, which NTLM, Kerberos and Extended Protection use |
#![warn(missing_docs)]

mod binding;
mod config;
mod fault;

pub use binding::server_end_point;
pub use config::{ConfigError, client_config};
pub use fault::{HandshakeFault, handshake_fault, rustls_error};
