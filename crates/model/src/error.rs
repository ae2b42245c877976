//! The axes on which every error of the workspace answers: may it be tried again, and how much has to stop.
//!
//! Each crate has one error struct with its own *kind* (what happened) and these two axes beside it, so that a caller decides
//! by questions and not by matching on where an error arose.

use std::fmt;
use std::time::Duration;

/// May the operation be tried again?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// No: the same call gives the same answer until a person changes something.
    Never,
    /// Yes, not before the delay the other side asked for (or at the caller's own pace when it named none).
    Later(Option<Duration>),
    /// Nobody knows whether it took effect: a message may have been handed over although no answer came. Never repeat it
    /// blindly; find out first.
    InDoubt,
    /// It was tried again as often as allowed.
    Exhausted {
        /// How many attempts were made.
        attempts: u32,
    },
}

/// How much has to stop because of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Only this message; the next one may well succeed.
    Message,
    /// This mailbox (wrong password, mailbox locked); others on the same server may well succeed.
    Mailbox,
    /// The whole server (refused connection, certificate, maintenance): leave all its mailboxes alone for a while.
    Server,
}

/// What every error of the workspace can answer.
pub trait Classified: std::error::Error {
    /// May the operation be tried again?
    fn retry(&self) -> Retry;
    /// How much has to stop.
    fn scope(&self) -> Scope;
    /// What a person can do about it; `None` when the message already says all there is.
    fn hint(&self) -> Option<&str> {
        None
    }
}

/// Which fault kept TLS from being established.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TlsFault {
    /// The certificate's time is over, or not yet come.
    Expired,
    /// The peer sent bytes in clear after STARTTLS was agreed: an injection attack (CVE-2011-0411 and kin).
    Injection,
    /// The server does not offer TLS although it is required.
    NotOffered,
    /// Something else in the handshake; the message tells.
    Other,
    /// Self-signed, or signed by an authority nobody here trusts.
    UnknownIssuer,
    /// The certificate is for another name.
    WrongName,
}

impl fmt::Display for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => f.write_str("will not be tried again"),
            Self::Later(None) => f.write_str("will be tried again"),
            Self::Later(Some(after)) => {
                write!(f, "will be tried again after {} s", after.as_secs_f64().ceil())
            }
            Self::InDoubt => f.write_str("nobody knows whether it took effect"),
            Self::Exhausted { attempts } => write!(f, "given up after {attempts} attempts"),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Message => "message",
            Self::Mailbox => "mailbox",
            Self::Server => "server",
        })
    }
}
