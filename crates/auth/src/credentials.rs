//! Who logs in.

use std::collections::HashMap;
use std::fmt;

use async_trait::async_trait;
use email_router_model::{Classified, Mailbox, MailboxId, Retry, Scope, Secret};

/// A name and what proves it.
///
/// The name is shown in `Debug`, the proof never.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The name to log in with. With [`Proof::BearerToken`] the mailbox that is opened; with [`Proof::ProcessIdentity`] empty, or the Kerberos principal
    /// to take from the ticket cache or keytab.
    pub user: String,
    /// What proves it.
    pub proof: Proof,
}

/// What proves who somebody is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Proof {
    /// A password.
    Password(Secret),
    /// An OAuth 2.0 access token (RFC 6750).
    BearerToken(Secret),
    /// The identity this process runs under: its Kerberos ticket cache, or the machine's keytab.
    ProcessIdentity,
}

/// The kinds of [`Proof`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProofKind {
    /// A password.
    Password,
    /// An OAuth 2.0 access token.
    AccessToken,
    /// The identity of the process: a Kerberos ticket.
    ProcessIdentity,
}

impl ProofKind {
    /// `a password`, `an access token`, `a Kerberos ticket`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Password => "a password",
            Self::AccessToken => "an access token",
            Self::ProcessIdentity => "a Kerberos ticket",
        }
    }
}

impl fmt::Display for ProofKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Proof {
    /// Which kind it is.
    #[must_use]
    pub const fn kind(&self) -> ProofKind {
        match self {
            Self::Password(_) => ProofKind::Password,
            Self::BearerToken(_) => ProofKind::AccessToken,
            Self::ProcessIdentity => ProofKind::ProcessIdentity,
        }
    }
}

impl Credentials {
    /// This name and password.
    #[must_use]
    pub fn new(user: impl Into<String>, password: Secret) -> Self {
        Self { user: user.into(), proof: Proof::Password(password) }
    }

    /// This access token, for the mailbox of this name.
    #[must_use]
    pub fn bearer(user: impl Into<String>, token: Secret) -> Self {
        Self { user: user.into(), proof: Proof::BearerToken(token) }
    }

    /// The identity of the process.
    #[must_use]
    pub fn process_identity() -> Self {
        Self { user: String::new(), proof: Proof::ProcessIdentity }
    }

    /// The password, where that is the proof.
    #[must_use]
    pub fn password(&self) -> Option<&Secret> {
        match &self.proof {
            Proof::Password(secret) => Some(secret),
            _ => None,
        }
    }

    /// The access token, where that is the proof.
    #[must_use]
    pub fn token(&self) -> Option<&Secret> {
        match &self.proof {
            Proof::BearerToken(secret) => Some(secret),
            _ => None,
        }
    }

    /// Whether a session that was logged in with `other` is as good as one logged in with these: the same name with the same password, or with
    /// any access token. Tokens are renewed every hour, and a session outlives the one it began with.
    #[must_use]
    pub fn opens_the_same_as(&self, other: &Self) -> bool {
        self.user == other.user
            && match (&self.proof, &other.proof) {
                (Proof::BearerToken(_), Proof::BearerToken(_)) => true,
                (one, another) => one == another,
            }
    }

    /// What must never be shown: password or token.
    #[must_use]
    pub fn secret(&self) -> Option<&Secret> {
        self.password().or_else(|| self.token())
    }
}

/// Tells a transport with which credentials a mailbox is opened.
///
/// Called at the start of each session, from any task. Most sources answer from memory; one of OAuth 2.0 may ask the token service, once for all who
/// wait. Closures of the shape `Fn(&Mailbox) -> Option<Credentials>` are sources too.
#[async_trait]
pub trait CredentialSource: Send + Sync {
    /// The credentials for this mailbox; `None` when there are none, which means anonymous access where the protocol knows that
    /// (SMTP) and an error where it does not (POP3).
    ///
    /// # Errors
    /// [`CredentialError`] where a token or ticket cannot be had.
    async fn credentials(&self, mailbox: &Mailbox) -> Result<Option<Credentials>, CredentialError>;

    /// The mail system refused these credentials: a token that was kept must not be given out again. Nothing happens by default.
    fn refused(&self, _mailbox: &Mailbox, _credentials: &Credentials) {}
}

#[async_trait]
impl<F: Fn(&Mailbox) -> Option<Credentials> + Send + Sync> CredentialSource for F {
    async fn credentials(&self, mailbox: &Mailbox) -> Result<Option<Credentials>, CredentialError> {
        Ok(self(mailbox))
    }
}

/// Why there are no credentials although there should be. Contains no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CredentialError {
    /// What happened.
    pub fault: CredentialFault,
    /// What happened, as a person would say it; names the token service or ticket cache, and its words.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// May it be tried again?
    pub retry: Retry,
    /// How much has to stop.
    pub scope: Scope,
}

/// The kinds of [`CredentialError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CredentialFault {
    /// The token service or the key distribution centre refuses the identity itself.
    Refused,
    /// It asks to come back later.
    Throttled,
    /// It cannot be reached, or answers nonsense.
    Unavailable,
    /// What was configured cannot be used.
    Settings,
}

impl Classified for CredentialError {
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

/// A plain source: one password for each mailbox, and one account for all the others.
#[derive(Clone, Default)]
pub struct SharedCredentials {
    by_mailbox: HashMap<MailboxId, Secret>,
    account: Option<Credentials>,
}

impl SharedCredentials {
    /// No credentials at all.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// The same account whatever the mailbox (a relay account, an access account for all mailboxes).
    #[must_use]
    pub fn account(credentials: Credentials) -> Self {
        Self { by_mailbox: HashMap::new(), account: Some(credentials) }
    }

    /// The same source, with a password of its own for a mailbox, which then logs in as [`Mailbox::login_name`].
    #[must_use]
    pub fn with_mailbox(mut self, mailbox: MailboxId, password: Secret) -> Self {
        self.by_mailbox.insert(mailbox, password);
        self
    }
}

impl SharedCredentials {
    fn of(&self, mailbox: &Mailbox) -> Option<Credentials> {
        match self.by_mailbox.get(&mailbox.id) {
            Some(password) => Some(Credentials::new(mailbox.login_name(), password.clone())),
            None => self.account.clone(),
        }
    }
}

#[async_trait]
impl CredentialSource for SharedCredentials {
    async fn credentials(&self, mailbox: &Mailbox) -> Result<Option<Credentials>, CredentialError> {
        Ok(self.of(mailbox))
    }
}

impl fmt::Debug for SharedCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedCredentials")
            .field("mailboxes", &self.by_mailbox.len())
            .field("account", &self.account.as_ref().map(|c| &c.user))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use email_router_model::MailboxKind;

    fn mailbox(id: &str, login: Option<&str>) -> Mailbox {
        Mailbox {
            id: id.into(),
            kind: MailboxKind::User,
            name: id.to_owned(),
            address: format!("{id}@example.com").parse().unwrap(),
            login: login.map(str::to_owned),
        }
    }

    #[test]
    fn a_mailbox_of_its_own_beats_the_account() {
        let source = SharedCredentials::account(Credentials::new("svc", "s3cr3t-svc".into()))
            .with_mailbox("ann".into(), "s3cr3t-ann".into());
        let ann = source.of(&mailbox("ann", None)).unwrap();
        assert_eq!((ann.user.as_str(), ann.password().unwrap().expose()), ("ann@example.com", "s3cr3t-ann"));
        assert_eq!(source.of(&mailbox("ann", Some("CORP\\ann"))).unwrap().user, "CORP\\ann");
        assert_eq!(source.of(&mailbox("bob", None)).unwrap().user, "svc");
        assert!(SharedCredentials::none().of(&mailbox("bob", None)).is_none());
        let shown = format!("{source:?} {ann:?}");
        assert!(!shown.contains("s3cr3t"), "{shown}");
    }

    #[test]
    fn a_renewed_token_opens_the_same_and_a_changed_password_does_not() {
        let password = |text: &str| Credentials::new("ann", text.into());
        let token = |user: &str, text: &str| Credentials::bearer(user, text.into());
        for (one, other, same) in [
            (password("x"), password("x"), true),
            (password("x"), password("y"), false),
            (token("ann", "x"), token("ann", "y"), true),
            (token("ann", "x"), token("bob", "x"), false),
            (token("ann", "x"), password("x"), false),
            (Credentials::process_identity(), Credentials::process_identity(), true),
        ] {
            assert_eq!(one.opens_the_same_as(&other), same);
            assert_eq!(other.opens_the_same_as(&one), same);
        }
    }
}
