//! Layers: behaviour that wraps a [`Transport`](crate::Transport) and is one again.
//!
//! A layer changes one thing and forwards everything else, [`Transport::capability`](crate::Transport::capability) and the names
//! included, so layers nest in any order that makes sense. The order that does, from the outside in:
//!
//! ```text
//! trace( retry( limit( timeout( adapter ) ) ) )
//! ```
//!
//! - **retry outside timeout**: each attempt has its own deadline. The other way round the deadline covers all attempts and the
//!   waits between them, so that a server which asks for patience looks like a server that hangs.
//! - **retry outside limit**: a call that waits for its next attempt holds no permit. The other way round a few mailboxes that
//!   back off keep all others from working.
//! - **limit outside timeout**: waiting for a permit does not count as time the server took.
//! - **trace outermost**, where one span holds all attempts, or innermost, where each attempt has its own.
//! - [`fault`] goes directly around the adapter, so that every other layer meets its faults.

use std::fmt;

pub mod fault;
pub mod limit;
pub mod retry;
pub mod timeout;
pub mod trace;

pub use fault::Fault;
pub use limit::Limit;
pub use retry::Retrying;
pub use timeout::Timeout;
pub use trace::Trace;

/// The calls of [`Transport`](crate::Transport) and [`Inbox`](crate::Inbox) that can take time and fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Operation {
    /// [`Inbox::close`](crate::Inbox::close).
    Close,
    /// [`Inbox::dispose`](crate::Inbox::dispose).
    Dispose,
    /// [`Inbox::fetch`](crate::Inbox::fetch).
    Fetch,
    /// [`Transport::find_submitted`](crate::Transport::find_submitted).
    FindSubmitted,
    /// [`Inbox::headers`](crate::Inbox::headers).
    Headers,
    /// [`Inbox::next`](crate::Inbox::next).
    Next,
    /// [`Inbox::prefetch`](crate::Inbox::prefetch).
    Prefetch,
    /// [`Transport::probe`](crate::Transport::probe).
    Probe,
    /// [`Transport::receive`](crate::Transport::receive): opening the session.
    Receive,
    /// [`Transport::submit`](crate::Transport::submit).
    Submit,
    /// [`Transport::wait_for_mail`](crate::Transport::wait_for_mail).
    WaitForMail,
}

impl Operation {
    /// The name in logs and metrics: lower case with underscores.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Close => "close",
            Self::Dispose => "dispose",
            Self::Fetch => "fetch",
            Self::FindSubmitted => "find_submitted",
            Self::Headers => "headers",
            Self::Next => "next",
            Self::Prefetch => "prefetch",
            Self::Probe => "probe",
            Self::Receive => "receive",
            Self::Submit => "submit",
            Self::WaitForMail => "wait_for_mail",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
