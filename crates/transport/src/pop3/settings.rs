//! What a POP3 transport needs to know.

use std::fmt;
use std::sync::Arc;

use email_router_auth::{CredentialSource, Mechanism, Ntlm, OAUTH2, STRONGEST_FIRST, WINDOWS};

use crate::net::Endpoint;

/// How to reach a POP3 server and log in.
#[derive(Clone)]
pub struct Pop3Settings {
    /// Where the server is.
    pub endpoint: Endpoint,
    /// How to log in.
    pub login: LoginMethod,
    /// Whether the password may be sent without TLS. Off unless an administrator turns it on.
    pub cleartext_allowed: bool,
    /// Who logs in for a mailbox.
    pub credentials: Arc<dyn CredentialSource>,
    /// How much is asked for in advance where the server offers PIPELINING.
    pub window: Window,
}

impl Pop3Settings {
    /// This server and these credentials; the strongest login method, no password in clear.
    #[must_use]
    pub fn new(endpoint: Endpoint, credentials: Arc<dyn CredentialSource>) -> Self {
        Self {
            endpoint,
            login: LoginMethod::Strongest,
            cleartext_allowed: false,
            credentials,
            window: Window::default(),
        }
    }
}

impl fmt::Debug for Pop3Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pop3Settings")
            .field("endpoint", &self.endpoint)
            .field("login", &self.login)
            .field("cleartext_allowed", &self.cleartext_allowed)
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}

/// How to log in. One attempt is made with one method: trying another after a refusal would count as a second wrong password
/// and lock accounts.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum LoginMethod {
    /// The strongest that the server offers and the credentials have the proof for: a SASL mechanism that does not show the password; APOP on a
    /// channel without TLS; SASL PLAIN or LOGIN; USER and PASS. With an access token OAUTHBEARER or XOAUTH2.
    ///
    /// APOP is not chosen inside TLS: there it protects nothing, and servers send its timestamp for users who have no APOP secret.
    Strongest,
    /// The password itself: SASL PLAIN or LOGIN where the server offers one, else USER and PASS. For accounts whose passwords the server
    /// keeps as hashes, for which it cannot do CRAM-MD5 and APOP although it may offer them.
    Password,
    /// USER and PASS.
    UserPass,
    /// APOP.
    Apop,
    /// The first of these SASL mechanisms that the server offers.
    Sasl(&'static [&'static dyn Mechanism]),
}

impl LoginMethod {
    /// All SASL mechanisms of [`email_router_auth`], strongest first.
    pub const ANY_SASL: Self = Self::Sasl(STRONGEST_FIRST);
    /// NTLM.
    pub const NTLM: Self = Self::Sasl(&[&Ntlm::system()]);
    /// Windows authentication: SPNEGO, else NTLM alone.
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
    /// 256 commands, 32 MiB: enough for 10 Gbit/s at a round trip of 20 ms.
    fn default() -> Self {
        Self { messages: 256, bytes: 32 << 20 }
    }
}
