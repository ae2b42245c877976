//! Authentication exchanges without I/O, shared by SASL (POP3, SMTP, later IMAP) and HTTP.
//!
//! An [`Exchange`] eats the raw bytes of the server's challenges and gives the raw bytes of the answers; the protocol around it
//! does the base64 and the line framing. A [`Mechanism`] starts exchanges, and [`pick`] chooses the strongest of those both sides
//! know, never one that shows the password on a channel that anybody can read unless that is explicitly allowed.
//!
//! What it deliberately is not: it opens no connection, reads no clock, keeps no password longer than the exchange lives.
//!
//! | mechanism | source | shows the password to who can read the channel |
//! |---|---|---|
//! | [`CramMd5`] | RFC 2195 | no |
//! | [`Plain`] | RFC 4616 | yes |
//! | [`Login`] | draft-murchison-sasl-login | yes |
//! | `Gssapi` (feature `kerberos`) | RFC 4752 | no |
//! | [`apop_digest`] | RFC 1939 section 7 (POP3 only, no SASL) | no |
//!
//! New mechanisms (NTLM, XOAUTH2, Kerberos) implement the two traits; no list in this crate has to know them.
#![warn(missing_docs)]

mod credentials;
#[cfg(feature = "kerberos")]
mod kerberos;
mod mechanisms;
mod pick;

pub use credentials::{
    CredentialError, CredentialFault, CredentialSource, Credentials, Proof, SharedCredentials, TicketStore,
};
#[cfg(feature = "kerberos")]
pub use kerberos::{Gssapi, Ticket, fetch_ticket};
pub use mechanisms::{CramMd5, Login, Plain, apop_digest};
pub use pick::{Channel, PickError, STRONGEST_FIRST, pick};

use zeroize::Zeroizing;

/// Bytes for the other side; wiped from memory when dropped, since they may contain the password.
pub type Response = Zeroizing<Vec<u8>>;

/// One run of an authentication mechanism, from the client's side.
///
/// The caller sends [`Exchange::initial`] with the command that names the mechanism, or (where the protocol or the length
/// forbids that, or it is `None`) sends the command alone; then it answers every challenge with [`Exchange::step`] until the
/// server says whether the login worked. An initial response that was not sent with the command is the answer to a first, empty
/// challenge (RFC 4422 section 3.3): the caller keeps it and sends it then, without calling `step`.
///
/// An exchange serves one login and is dropped afterwards.
pub trait Exchange: Send {
    /// The registered name of the mechanism, upper case: `CRAM-MD5`.
    fn mechanism(&self) -> &'static str;

    /// What a client that speaks first says; `None` where the server speaks first. Called once.
    fn initial(&mut self) -> Option<Response>;

    /// The answer to a challenge (decoded bytes, possibly none).
    ///
    /// # Errors
    /// The challenge cannot be answered; the caller cancels the exchange (SASL: a line with a single `*`).
    fn step(&mut self, challenge: &[u8]) -> Result<Response, AuthError>;
}

/// A way to log in: starts an [`Exchange`] for a user.
pub trait Mechanism: std::fmt::Debug + Send + Sync {
    /// The registered name, upper case.
    fn name(&self) -> &'static str;

    /// Whether who reads the channel learns the password (or something as good).
    fn shows_password(&self) -> bool;

    /// A fresh exchange for this user.
    ///
    /// # Errors
    /// [`AuthError::Unrepresentable`] when name or password cannot be sent with this mechanism, [`AuthError::WrongProof`] when it wants
    /// another proof than the credentials have.
    fn begin(&self, credentials: &Credentials, channel: &Channel) -> Result<Box<dyn Exchange>, AuthError>;
}

/// Why an exchange cannot go on. Contains neither password nor challenge, and a name only where a ticket is missing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// The server asked for something the mechanism has no answer to.
    #[error("the server sent a challenge that {mechanism} does not know")]
    UnexpectedChallenge {
        /// Name of the mechanism.
        mechanism: &'static str,
    },
    /// The challenge is not of the form that the mechanism prescribes.
    #[error("the server's {mechanism} challenge is malformed: {why}")]
    BadChallenge {
        /// Name of the mechanism.
        mechanism: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The mechanism takes another kind of proof than there is.
    #[error("{mechanism} needs {wants}, and there is none for this mailbox")]
    WrongProof {
        /// Name of the mechanism.
        mechanism: &'static str,
        /// `a password`, `an access token`, `a Kerberos ticket`.
        wants: &'static str,
    },
    /// There is no Kerberos ticket for this server, or the server does not stand its test.
    #[error(transparent)]
    Ticket(#[from] CredentialError),
    /// The user name or password has a character that cannot be sent.
    #[error("the {what} contains {character}, which {mechanism} cannot send")]
    Unrepresentable {
        /// Name of the mechanism.
        mechanism: &'static str,
        /// `user name` or `password`.
        what: &'static str,
        /// Which kind of character.
        character: &'static str,
    },
}
