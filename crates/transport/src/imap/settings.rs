//! What an IMAP transport needs to know.

use std::fmt;
use std::sync::Arc;

use email_router_auth::{CredentialSource, Mechanism, Ntlm, OAUTH2, STRONGEST_FIRST, WINDOWS};

use crate::net::Endpoint;

/// How to reach an IMAP server, log in, and which folder to read.
#[derive(Clone)]
pub struct ImapSettings {
    /// Where the server is: port 993 with TLS from the first byte, port 143 with STARTTLS.
    pub endpoint: Endpoint,
    /// How to log in.
    pub login: LoginMethod,
    /// Whether the password may be sent without TLS. Off unless an administrator turns it on.
    pub cleartext_allowed: bool,
    /// Who logs in for a mailbox.
    pub credentials: Arc<dyn CredentialSource>,
    /// Which folder is read: `INBOX`; a path with `/` between its levels, whatever the server uses; or a special use (RFC 6154) such as `\Junk`,
    /// `\Trash`, `\Archive`, which finds the folder whatever its name is. [`Disposition::Move`](crate::Disposition::Move) names folders the same way.
    pub folder: String,
    /// How much is asked for in advance.
    pub window: Window,
}

impl ImapSettings {
    /// This server and these credentials; the inbox, the strongest login method, no password in clear.
    #[must_use]
    pub fn new(endpoint: Endpoint, credentials: Arc<dyn CredentialSource>) -> Self {
        Self {
            endpoint,
            login: LoginMethod::Strongest,
            cleartext_allowed: false,
            credentials,
            folder: "INBOX".to_owned(),
            window: Window::default(),
        }
    }
}

impl fmt::Debug for ImapSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImapSettings")
            .field("endpoint", &self.endpoint)
            .field("login", &self.login)
            .field("cleartext_allowed", &self.cleartext_allowed)
            .field("folder", &self.folder)
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}

/// How to log in. One method is tried, and only one: trying another after a refusal would count as a second wrong password and lock
/// accounts.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum LoginMethod {
    /// The strongest that the server offers and the credentials have the proof for: a SASL mechanism that does not show the password, then one that
    /// does, then the command LOGIN (unless the server says LOGINDISABLED). With an access token OAUTHBEARER or XOAUTH2.
    Strongest,
    /// The password itself: SASL PLAIN or LOGIN where the server offers one, else the command LOGIN. For accounts whose passwords the server
    /// keeps as hashes, for which it cannot do CRAM-MD5 although it may offer it.
    Password,
    /// The command LOGIN (RFC 9051 section 6.2.3).
    Command,
    /// The first of these SASL mechanisms that the server offers.
    Sasl(&'static [&'static dyn Mechanism]),
}

impl LoginMethod {
    /// All SASL mechanisms of [`email_router_auth`], strongest first.
    pub const ANY_SASL: Self = Self::Sasl(STRONGEST_FIRST);
    /// NTLM.
    pub const NTLM: Self = Self::Sasl(&[&Ntlm::system()]);
    /// Windows authentication: Kerberos, or SPNEGO, else NTLM alone.
    pub const WINDOWS: Self = Self::Sasl(WINDOWS);
    /// An access token of OAuth 2.0: OAUTHBEARER, else XOAUTH2.
    pub const OAUTH2: Self = Self::Sasl(OAUTH2);
}

/// How many messages are asked for before the first of them has arrived. They are under way on the network then, not in memory:
/// this crate reads them from the socket only as they are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Commands without an answer; at least 1.
    pub messages: usize,
    /// Octets of messages under way, by the sizes the server told; one message is always allowed. A session begins with 2 MiB
    /// and goes up to this as far as the line is fast enough.
    pub bytes: u64,
}

impl Default for Window {
    /// 64 commands (some servers end a session that has more waiting), 32 MiB.
    fn default() -> Self {
        Self { messages: 64, bytes: 32 << 20 }
    }
}
