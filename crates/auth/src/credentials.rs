//! Who logs in.

use std::collections::HashMap;
use std::fmt;

use email_router_model::{Mailbox, MailboxId, Secret};

/// A user name and the secret that proves it.
///
/// The user name is shown in `Debug`, the secret never.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The name to log in with.
    pub user: String,
    /// The password.
    pub secret: Secret,
}

impl Credentials {
    /// This name and password.
    #[must_use]
    pub fn new(user: impl Into<String>, secret: Secret) -> Self {
        Self { user: user.into(), secret }
    }
}

/// Tells a transport with which credentials a mailbox is opened.
///
/// Called at the start of each session, from any task; it answers from memory and does not block. Closures of the same shape
/// are sources too.
pub trait CredentialSource: Send + Sync {
    /// The credentials for this mailbox; `None` when there are none, which means anonymous access where the protocol knows that
    /// (SMTP) and an error where it does not (POP3).
    fn credentials(&self, mailbox: &Mailbox) -> Option<Credentials>;
}

impl<F: Fn(&Mailbox) -> Option<Credentials> + Send + Sync> CredentialSource for F {
    fn credentials(&self, mailbox: &Mailbox) -> Option<Credentials> {
        self(mailbox)
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

impl CredentialSource for SharedCredentials {
    fn credentials(&self, mailbox: &Mailbox) -> Option<Credentials> {
        match self.by_mailbox.get(&mailbox.id) {
            Some(password) => Some(Credentials::new(mailbox.login_name(), password.clone())),
            None => self.account.clone(),
        }
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
        let ann = source.credentials(&mailbox("ann", None)).unwrap();
        assert_eq!((ann.user.as_str(), ann.secret.expose()), ("ann@example.com", "s3cr3t-ann"));
        assert_eq!(source.credentials(&mailbox("ann", Some("CORP\\ann"))).unwrap().user, "CORP\\ann");
        assert_eq!(source.credentials(&mailbox("bob", None)).unwrap().user, "svc");
        assert!(SharedCredentials::none().credentials(&mailbox("bob", None)).is_none());
        let shown = format!("{source:?} {ann:?}");
        assert!(!shown.contains("s3cr3t"), "{shown}");
    }
}
