//! Authentication exchanges without I/O, shared by SASL (POP3, IMAP, SMTP) and HTTP.
//!
//! An [`Exchange`] eats the raw bytes of the server's challenges and gives the raw bytes of the answers; the protocol around it
//! does the base64 and the line framing. A [`Mechanism`] starts exchanges, and [`pick`] chooses the strongest of those both sides
//! know, never one that shows the password on a channel that anybody can read unless that is explicitly allowed.
//!
//! What it deliberately is not: it opens no connection, reads no clock, keeps no password longer than the exchange lives.
//!
//! | mechanism | source | wants | shows it to who can read the channel |
//! |---|---|---|---|
//! | [`OAuthBearer`] | RFC 7628 | access token | yes |
//! | [`XOAuth2`] | as published by Google and Microsoft | access token | yes |
//! | [`Negotiate`] | RFC 4178 around [`Ntlm`] | password | no |
//! | [`Ntlm`] | MS-NLMP, version 2 only | password | no |
//! | [`CramMd5`] | RFC 2195 | password | no |
//! | [`Plain`] | RFC 4616 | password | yes |
//! | [`Login`] | draft-murchison-sasl-login | password | yes |
//! | [`apop_digest`] | RFC 1939 section 7 (POP3 only, no SASL) | password | no |
//!
//! New mechanisms (Kerberos) implement the two traits; no list in this crate has to know them.
#![warn(missing_docs)]

mod bearer;
mod credentials;
mod mechanisms;
pub mod ntlm;
mod pick;
pub mod spnego;

pub use bearer::{OAuthBearer, XOAuth2};
pub use credentials::{
    CredentialError, CredentialFault, CredentialSource, Credentials, Proof, ProofKind, SharedCredentials,
};
pub use mechanisms::{CramMd5, Login, Plain, apop_digest};
pub use ntlm::Ntlm;
pub use pick::{Channel, OAUTH2, PickError, STRONGEST_FIRST, WINDOWS, pick};
pub use spnego::Negotiate;

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

    /// Whether a SASL profile sends [`Self::initial`] only when the server asks for it with a first challenge, whatever that says: there are
    /// servers that know this form alone ([MS-SMTPNTLM] 2.2.1.2 has words in that challenge). HTTP, where nothing asks, sends it at once. No by
    /// default.
    fn waits_to_be_asked(&self) -> bool {
        false
    }

    /// The answer to a challenge (decoded bytes, possibly none).
    ///
    /// # Errors
    /// The challenge cannot be answered; the caller cancels the exchange (SASL: a line with a single `*`).
    fn step(&mut self, challenge: &[u8]) -> Result<Response, AuthError>;

    /// The server says that the login worked; `last` is what it says to the mechanism beside that (HTTP; SASL has no room for it). Whoever
    /// proves its identity to us must have done so by now. Nothing is looked at by default.
    ///
    /// # Errors
    /// The server did not prove what it had to: the connection must not be used.
    fn finish(&mut self, last: Option<&[u8]>) -> Result<(), AuthError> {
        let _ = last;
        Ok(())
    }

    /// Why the server refused, where it told that inside the exchange (`{"status":"401",...}` of OAuth 2.0); without control characters, at most 300
    /// characters. Nothing by default.
    fn refusal(&self) -> Option<&str> {
        None
    }
}

/// A way to log in: starts an [`Exchange`] for a user.
pub trait Mechanism: std::fmt::Debug + Send + Sync {
    /// The registered name, upper case.
    fn name(&self) -> &'static str;

    /// With what it proves who somebody is; [`pick`] passes over a mechanism whose proof is missing.
    fn wants(&self) -> ProofKind;

    /// Whether who reads the channel learns the password (or something as good: an access token).
    fn shows_password(&self) -> bool;

    /// A fresh exchange for this user.
    ///
    /// # Errors
    /// [`AuthError::Unrepresentable`] when name or password cannot be sent with this mechanism, [`AuthError::WrongProof`] when it wants
    /// another proof than the credentials have.
    fn begin(&self, credentials: &Credentials, channel: &Channel) -> Result<Box<dyn Exchange>, AuthError>;
}

/// Why an exchange cannot go on. Contains neither name nor password nor the challenge.
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
    /// The server says inside the exchange that it does not accept what proves the identity.
    #[error("the server refused the {mechanism} login")]
    Refused {
        /// Name of the mechanism.
        mechanism: &'static str,
    },
    /// The mechanism takes another kind of proof than there is.
    #[error("{mechanism} needs {wants}, and there is none for this mailbox")]
    WrongProof {
        /// Name of the mechanism.
        mechanism: &'static str,
        /// As [`ProofKind::as_str`] says it.
        wants: &'static str,
    },
    /// The user name, password or token has a character that cannot be sent.
    #[error("the {what} contains {character}, which {mechanism} cannot send")]
    Unrepresentable {
        /// Name of the mechanism.
        mechanism: &'static str,
        /// `user name`, `password` or `access token`.
        what: &'static str,
        /// Which kind of character.
        character: &'static str,
    },
}
