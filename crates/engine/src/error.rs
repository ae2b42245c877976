//! The one error of this crate: what a transport, the CRM or the state store said, with the two axes kept.

use email_router_model::{Classified, Retry, Scope};

use crate::StateError;

/// What every fallible call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a pass or a message failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    retry: Retry,
    scope: Scope,
    message: String,
    hint: Option<String>,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Whose error it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The CRM's.
    Crm,
    /// Nobody's: the message waits, since its sender is over a loop limit.
    Held,
    /// The message cannot be read or written.
    Message,
    /// The state store's.
    State,
    /// The mail system's.
    Transport,
}

impl Error {
    /// A message that cannot be processed, for good.
    #[must_use]
    pub fn message(text: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Message,
            retry: Retry::Never,
            scope: Scope::Message,
            message: text.into(),
            hint: None,
            source: None,
        }
    }

    /// A message that has to wait this long, without a fault of its own.
    #[must_use]
    pub(crate) fn held(why: String, wait: std::time::Duration) -> Self {
        Self { kind: ErrorKind::Held, retry: Retry::Later(Some(wait)), ..Self::message(why) }
    }

    /// Whose error it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether it is the failure of what all mailboxes share: the CRM as a whole, or the state store.
    pub(crate) fn backend_failed(&self) -> bool {
        self.scope == Scope::Server && matches!(self.kind, ErrorKind::Crm | ErrorKind::State)
    }

    fn wrap<E: Classified + Send + Sync + 'static>(kind: ErrorKind, error: E) -> Self {
        Self {
            kind,
            retry: error.retry(),
            scope: error.scope(),
            message: error.to_string(),
            hint: error.hint().map(str::to_owned),
            source: Some(Box::new(error)),
        }
    }
}

impl Classified for Error {
    fn retry(&self) -> Retry {
        self.retry
    }
    fn scope(&self) -> Scope {
        self.scope
    }
    fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl From<email_router_transport::Error> for Error {
    fn from(error: email_router_transport::Error) -> Self {
        Self::wrap(ErrorKind::Transport, error)
    }
}
impl From<email_router_crm::Error> for Error {
    fn from(error: email_router_crm::Error) -> Self {
        Self::wrap(ErrorKind::Crm, error)
    }
}
impl From<StateError> for Error {
    fn from(error: StateError) -> Self {
        Self::wrap(ErrorKind::State, error)
    }
}
