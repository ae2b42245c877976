//! The one error of this crate.

use std::fmt;

use email_router_model::{Classified, Retry, Scope, TlsFault};

/// What every fallible call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why no answer came. The message names the server; it never contains a secret.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    sent: bool,
    scope: Option<Scope>,
    message: String,
    hint: Option<Box<str>>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The exchange of an authentication scheme cannot go on: the server does not offer the scheme, or its challenge is no good. A login that the server
    /// refuses is no error but an answer of status 401.
    Authentication,
    /// The connection ended before the answer did.
    ConnectionLost,
    /// The host name does not resolve.
    NameResolution,
    /// What came is not HTTP.
    Protocol,
    /// The proxy refuses.
    Proxy,
    /// Nobody listens there.
    Refused,
    /// The request or the client's settings cannot be used.
    Settings,
    /// No answer in time.
    Timeout,
    /// TLS could not be established.
    Tls(TlsFault),
    /// The answer is larger than allowed.
    TooLarge,
}

impl Error {
    /// An error of this kind. The message is lower case, without a full stop, and names the place.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, sent: false, scope: None, message: message.into(), hint: None, source: None }
    }

    /// The same error, after the request was handed to the network: the server may have acted on it.
    #[must_use]
    pub fn sent(mut self) -> Self {
        self.sent = true;
        self
    }

    /// The same error, of a request that did not leave: what was sent was not the request itself.
    #[must_use]
    pub(crate) fn unsent(mut self) -> Self {
        self.sent = false;
        self
    }

    /// The same error, by which this much has to stop, where that does not follow from its kind.
    #[must_use]
    pub fn with_scope(mut self, scope: Scope) -> Self {
        self.scope = Some(scope);
        self
    }

    /// The same error with what a person can do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into().into_boxed_str());
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

    /// Whether the request may have reached the server, which may have acted on it.
    #[must_use]
    pub fn was_sent(&self) -> bool {
        self.sent
    }
}

impl Classified for Error {
    /// Never for settings, authentication and answers that are too large; later for all else. What was sent and is not harmless to repeat is in
    /// doubt, which only the caller can know ([`Error::was_sent`]).
    fn retry(&self) -> Retry {
        match self.kind {
            ErrorKind::Authentication | ErrorKind::Settings | ErrorKind::TooLarge => Retry::Never,
            _ => Retry::Later(None),
        }
    }
    fn scope(&self) -> Scope {
        if let Some(scope) = self.scope {
            return scope;
        }
        match self.kind {
            ErrorKind::NameResolution | ErrorKind::Proxy | ErrorKind::Refused | ErrorKind::Tls(_) => {
                Scope::Server
            }
            _ => Scope::Mailbox,
        }
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
