//! The one error of this crate.

use email_router_model::{Classified, Retry, Scope};

/// What every fallible call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the router could not be set up or run. The message says what, where and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration has errors; the findings say where.
    #[error("{message}")]
    Configuration {
        /// The first error, with how many more there are.
        message: String,
        /// All findings.
        findings: Vec<email_router_config::Finding>,
    },
    /// What the caller asked for does not exist or cannot be done.
    #[error("{0}")]
    Request(String),
    /// The CRM.
    #[error(transparent)]
    Crm(#[from] email_router_crm::Error),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] email_router_engine::Error),
    /// The state store.
    #[error(transparent)]
    State(#[from] email_router_engine::StateError),
    /// A mail system.
    #[error(transparent)]
    Transport(#[from] email_router_transport::Error),
    /// A file.
    #[error("{what}: {source}")]
    Io {
        /// Which file and what was tried.
        what: String,
        /// The cause.
        source: std::io::Error,
    },
}

/// What [`Error::Io`] names where a program could not print.
const STANDARD_OUTPUT: &str = "standard output";

impl Error {
    /// An error of printing to the standard output.
    #[must_use]
    pub fn printing(source: std::io::Error) -> Self {
        Self::Io { what: STANDARD_OUTPUT.to_owned(), source }
    }

    /// Whether whoever read the standard output has read enough and closed it (`email-router crm list email | head`): nothing is wrong then.
    #[must_use]
    pub fn is_reader_gone(&self) -> bool {
        matches!(self, Self::Io { what, source } if what == STANDARD_OUTPUT && source.kind() == std::io::ErrorKind::BrokenPipe)
    }

    /// What a person can do about it, where the message does not say it.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Crm(e) => e.hint(),
            Self::Engine(e) => e.hint(),
            Self::Transport(e) => e.hint(),
            _ => None,
        }
    }

    /// Whether trying again later can help.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self.retry(), Retry::Later(_))
    }

    /// May it be tried again, and when?
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Crm(e) => e.retry(),
            Self::Engine(e) => e.retry(),
            Self::State(e) => e.retry(),
            Self::Transport(e) => e.retry(),
            Self::Configuration { .. } | Self::Request(_) | Self::Io { .. } => Retry::Never,
        }
    }

    /// How much has to stop.
    #[must_use]
    pub fn scope(&self) -> Scope {
        match self {
            Self::Crm(e) => e.scope(),
            Self::Engine(e) => e.scope(),
            Self::Transport(e) => e.scope(),
            _ => Scope::Server,
        }
    }
}
