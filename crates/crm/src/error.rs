//! The one error of this crate.

use std::fmt;
use std::time::Duration;

use email_router_model::{Classified, Retry, Scope};

/// What every fallible call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the CRM did not do what it was asked: [`Error::kind`], whether to try again, and how much has to stop.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    retry: Retry,
    scope: Scope,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// What happened, chosen by what a caller or an administrator can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The CRM or its file is locked or overloaded. Retried.
    Busy,
    /// The file is damaged or was written by a newer version. Never retried.
    Damaged,
    /// What was given breaks a rule of the CRM (missing sender, blocked attachment). Never retried; concerns one message.
    Invalid,
    /// The record is not there.
    NotFound,
    /// The server does not let us do it: wrong credentials, a missing privilege, a setting of the organization. Never retried until a person
    /// changes something; concerns all of the organization.
    Refused,
    /// The disk is full or fails. Retried.
    Storage,
    /// The CRM does not answer. Retried.
    Unreachable,
}

impl Error {
    /// An error of this kind, with the retry and scope that are usual for it.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let (retry, scope) = match kind {
            ErrorKind::Busy | ErrorKind::Storage | ErrorKind::Unreachable => {
                (Retry::Later(None), Scope::Server)
            }
            ErrorKind::Damaged | ErrorKind::Refused => (Retry::Never, Scope::Server),
            ErrorKind::Invalid | ErrorKind::NotFound => (Retry::Never, Scope::Message),
        };
        Self { kind, retry, scope, message: message.into(), hint: None, source: None }
    }

    /// The same error with another answer to "may it be tried again".
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// The same error, to be tried again after this delay.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        self.with_retry(Retry::Later(Some(delay)))
    }

    /// The same error with another scope.
    #[must_use]
    pub fn with_scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// The same error with what a person can do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same error with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What happened.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
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

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}
