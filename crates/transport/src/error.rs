//! The one error of this crate.

use std::fmt;
use std::time::Duration;

use email_router_model::{Classified, Retry, Scope};

pub use email_router_model::TlsFault;

use crate::{ProbeStep, RecipientResult};

/// What every fallible call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a transport could not do what it was asked.
///
/// Three axes: [`Error::kind`] says what happened, [`Classified::retry`] whether it may be tried again, [`Classified::scope`] how
/// much has to stop. The message names the server or folder; the server's own words are kept beside it. It never contains a
/// secret.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    retry: Retry,
    scope: Scope,
    // boxed: an error travels in every result, and is kept below 128 bytes
    message: Box<str>,
    reply: Option<Box<str>>,
    hint: Option<Box<str>>,
    recipients: Box<[RecipientResult]>,
    steps: Box<[ProbeStep]>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// What happened, chosen by what a caller or an administrator can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Logged in, but this mailbox is not ours to open ("valid on the server but not for this mailbox"). Never retried.
    AccessDenied,
    /// The name or password is wrong, or the mechanism is refused. Never retried by itself: it would lock accounts.
    Authentication,
    /// The caller dropped or stopped the operation.
    Cancelled,
    /// The connection ended in the middle. Retried, unless in doubt.
    ConnectionLost,
    /// The other side speaks something this protocol does not allow.
    Protocol,
    /// The message is no longer in the mailbox. Never retried; nothing is lost, somebody else took it.
    MessageGone,
    /// The server refuses the content of the message.
    MessageRefused,
    /// Another session holds the mailbox (RFC 2449 `[IN-USE]`). Retried.
    MailboxLocked,
    /// The host name does not resolve. Retried.
    NameResolution,
    /// Every recipient was refused; [`Error::recipients`] has the fate of each.
    RecipientsRefused,
    /// Nobody listens there. Retried.
    Refused,
    /// The server refuses the sender address.
    SenderRefused,
    /// The transport's own settings are wrong. Never retried.
    Settings,
    /// A disk or file operation failed.
    Storage,
    /// The server says: too fast, too often, later. Retried after the delay it named.
    Throttled,
    /// No answer in time. Retried, unless in doubt.
    Timeout,
    /// TLS could not be established; the fault says why.
    Tls(TlsFault),
    /// Beyond a cap of ours or a limit of the server.
    TooLarge,
    /// The transport or the server cannot do this at all.
    Unsupported,
}

impl Error {
    /// An error of this kind, with the retry and scope that are usual for it. The message is lower case, without a full stop,
    /// and names the place (`pop3 mail.example.com:995`).
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        use ErrorKind as K;
        let retry = match kind {
            K::AccessDenied
            | K::Authentication
            | K::MessageGone
            | K::MessageRefused
            | K::RecipientsRefused
            | K::SenderRefused => Retry::Never,
            K::Settings | K::TooLarge | K::Unsupported => Retry::Never,
            K::Cancelled
            | K::ConnectionLost
            | K::Protocol
            | K::MailboxLocked
            | K::NameResolution
            | K::Refused => Retry::Later(None),
            K::Storage | K::Throttled | K::Timeout | K::Tls(_) => Retry::Later(None),
        };
        let scope = match kind {
            K::MessageGone | K::MessageRefused | K::RecipientsRefused | K::SenderRefused | K::TooLarge => {
                Scope::Message
            }
            K::AccessDenied
            | K::Authentication
            | K::Cancelled
            | K::ConnectionLost
            | K::MailboxLocked
            | K::Protocol => Scope::Mailbox,
            K::Settings | K::Storage | K::Throttled | K::Timeout | K::Unsupported => Scope::Mailbox,
            K::NameResolution | K::Refused | K::Tls(_) => Scope::Server,
        };
        Self {
            kind,
            retry,
            scope,
            message: message.into().into_boxed_str(),
            reply: None,
            hint: None,
            recipients: Box::default(),
            steps: Box::default(),
            source: None,
        }
    }

    /// The same error with another answer to "may it be tried again".
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// The same error, to be tried again after the delay the server named.
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

    /// The same error with the server's own words; control characters are replaced and the length is cut at 500 characters.
    #[must_use]
    pub fn with_reply(mut self, reply: &str) -> Self {
        self.reply = Some(
            reply
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .take(500)
                .collect::<String>()
                .trim()
                .into(),
        );
        self
    }

    /// The same error with what a person can do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into().into_boxed_str());
        self
    }

    /// The same error with the fate of each recipient, none of which was taken.
    #[must_use]
    pub fn with_recipients(mut self, recipients: Vec<RecipientResult>) -> Self {
        self.recipients = recipients.into_boxed_slice();
        self
    }

    /// The same error with the steps that were done before it, in order; test access shows them, and so the trail of a search that found nothing.
    #[must_use]
    pub fn with_steps(mut self, steps: Vec<ProbeStep>) -> Self {
        self.steps = steps.into_boxed_slice();
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

    /// The server's own words, where it said any.
    #[must_use]
    pub fn reply(&self) -> Option<&str> {
        self.reply.as_deref()
    }

    /// What happened, without the server's words.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The fate of each recipient where every one was refused; else empty.
    #[must_use]
    pub fn recipients(&self) -> &[RecipientResult] {
        &self.recipients
    }

    /// What was done before it, where that was kept: in [`Transport::probe`](crate::Transport::probe), and where Exchange was looked for.
    #[must_use]
    pub fn steps(&self) -> &[ProbeStep] {
        &self.steps
    }

    /// Whether the message may have been handed over although no answer came.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.retry == Retry::InDoubt
    }
}

#[cfg(feature = "net")]
impl From<email_router_auth::CredentialError> for Error {
    fn from(cause: email_router_auth::CredentialError) -> Self {
        use email_router_auth::CredentialFault as F;
        let kind = match cause.fault {
            F::Refused => ErrorKind::Authentication,
            F::Throttled => ErrorKind::Throttled,
            F::Settings => ErrorKind::Settings,
            _ => ErrorKind::ConnectionLost,
        };
        let error = Self::new(kind, cause.message.clone()).with_retry(cause.retry).with_scope(cause.scope);
        let error = match &cause.hint {
            Some(hint) => error.with_hint(hint.clone()),
            None => error,
        };
        error.with_source(cause)
    }
}

#[cfg(feature = "http")]
impl From<email_router_http::Error> for Error {
    /// Whether a request that was sent is in doubt only the adapter knows: it asks [`email_router_http::Error::was_sent`] first.
    fn from(cause: email_router_http::Error) -> Self {
        use email_router_http::ErrorKind as H;
        let kind = match cause.kind() {
            H::Authentication => ErrorKind::Authentication,
            H::ConnectionLost => ErrorKind::ConnectionLost,
            H::NameResolution => ErrorKind::NameResolution,
            H::Proxy | H::Refused => ErrorKind::Refused,
            H::Settings => ErrorKind::Settings,
            H::Timeout => ErrorKind::Timeout,
            H::Tls(fault) => ErrorKind::Tls(fault),
            H::TooLarge => ErrorKind::TooLarge,
            _ => ErrorKind::Protocol,
        };
        let error = Self::new(kind, cause.to_string()).with_retry(cause.retry()).with_scope(cause.scope());
        let error = match cause.hint() {
            Some(hint) => error.with_hint(hint),
            None => error,
        };
        error.with_source(cause)
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
        f.write_str(&self.message)?;
        if let Some(reply) = &self.reply {
            write!(f, " (the server said: {reply})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}
