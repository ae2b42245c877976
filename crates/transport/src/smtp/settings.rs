//! How an SMTP server is reached and used.

use std::time::Duration;

use email_router_auth::{Mechanism, STRONGEST_FIRST};
use email_router_model::EmailAddress;

use super::proto::{HeloName, Phase};
use crate::net::Endpoint;
use crate::{Error, ErrorKind, Result};

/// Everything about one SMTP server but the credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmtpSettings {
    /// Where the server is and how TLS is used. Its operation timeout holds for EHLO, STARTTLS, AUTH, RSET and QUIT.
    pub endpoint: Endpoint,
    /// The name given with EHLO; `None` gives the address of this machine's end of the connection, `[192.0.2.1]`.
    pub helo: Option<HeloName>,
    /// Allow PLAIN and LOGIN without TLS. Off: then the login fails before the password is sent.
    pub allow_cleartext_password: bool,
    /// The only mechanisms to log in with, by name ([`STRONGEST_FIRST`] has them all), the preferred one first; empty for all that the credentials
    /// have the proof for, strongest first. For servers that offer what does not work, as CRAM-MD5 where the passwords are kept as hashes.
    pub mechanisms: Vec<String>,
    /// Which address bounces go to.
    pub envelope_sender: EnvelopeSender,
    /// What to do with 8-bit content when the server does not offer 8BITMIME.
    pub eight_bit: EightBit,
    /// Use PIPELINING (RFC 2920) where the server offers it. Off for servers that offer what they cannot do.
    pub use_pipelining: bool,
    /// Use CHUNKING (BDAT, RFC 3030) where the server offers it. Off for servers that offer what they cannot do.
    pub use_chunking: bool,
    /// A message larger than this is refused without asking the server. Bytes.
    pub max_message_bytes: u64,
    /// How long to wait in each part of a transaction.
    pub deadlines: Deadlines,
    /// How connections are kept.
    pub pool: PoolSettings,
}

/// Which address stands in MAIL FROM. The null reverse-path of an automatic message always stays null, whatever is chosen here: mail
/// that must never be answered must not bounce either (RFC 5321 6.1, RFC 3834 3).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum EnvelopeSender {
    /// What the envelope of the message says.
    #[default]
    FromMessage,
    /// The address of the mailbox that sends.
    SenderMailbox,
    /// This address for all mailboxes.
    Fixed(EmailAddress),
}

/// What to do with 8-bit content when the server does not offer 8BITMIME.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EightBit {
    /// Refuse for good, as RFC 6152 section 3 demands.
    #[default]
    Refuse,
    /// Send it as it is. Nearly every server takes it; a few clear the eighth bit.
    SendAnyway,
}

/// How long to wait for the server; defaults are the minimums of RFC 5321 4.5.3.2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deadlines {
    /// For the greeting: 5 minutes.
    pub greeting: Duration,
    /// For the answer to MAIL: 5 minutes.
    pub mail: Duration,
    /// For the answer to each RCPT: 5 minutes.
    pub rcpt: Duration,
    /// For the answer to DATA: 2 minutes.
    pub data_start: Duration,
    /// For handing over each block of the message, and for the answer to a chunk: 3 minutes.
    pub data_block: Duration,
    /// For the answer to the complete message: 10 minutes. A shorter one makes messages in doubt that the server was about to take.
    pub data_end: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(n * 60);
        Self {
            greeting: minutes(5),
            mail: minutes(5),
            rcpt: minutes(5),
            data_start: minutes(2),
            data_block: minutes(3),
            data_end: minutes(10),
        }
    }
}

/// How connections are kept for the next message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSettings {
    /// At most so many connections at once, all logins together, idle ones included; 1 or more. Exchange Online allows 3 for each login.
    pub max_connections: usize,
    /// A connection takes at most so many messages; 1 or more.
    pub max_messages: u32,
    /// A connection that had no message for so long is closed; zero keeps none.
    pub idle_timeout: Duration,
}

impl Default for PoolSettings {
    /// 3 connections, 100 messages, 30 seconds.
    fn default() -> Self {
        Self { max_connections: 3, max_messages: 100, idle_timeout: Duration::from_secs(30) }
    }
}

impl SmtpSettings {
    /// This server, with the defaults: no password in clear, envelope as in the message, 150 MiB, extensions used where offered.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            helo: None,
            allow_cleartext_password: false,
            mechanisms: Vec::new(),
            envelope_sender: EnvelopeSender::default(),
            eight_bit: EightBit::default(),
            use_pipelining: true,
            use_chunking: true,
            max_message_bytes: 150 * 1024 * 1024,
            deadlines: Deadlines::default(),
            pool: PoolSettings::default(),
        }
    }

    /// The same settings, logging in with these mechanisms alone ([`WINDOWS`](email_router_auth::WINDOWS), [`OAUTH2`](email_router_auth::OAUTH2)).
    #[must_use]
    pub fn with_mechanisms(mut self, mechanisms: &[&dyn Mechanism]) -> Self {
        self.mechanisms = mechanisms.iter().map(|m| m.name().to_owned()).collect();
        self
    }

    /// The deadline of a part of the conversation.
    #[must_use]
    pub(super) fn deadline(&self, phase: Phase) -> Duration {
        match phase {
            Phase::Greeting => self.deadlines.greeting,
            Phase::Command => self.endpoint.operation_timeout,
            Phase::Mail => self.deadlines.mail,
            Phase::Rcpt => self.deadlines.rcpt,
            Phase::DataStart => self.deadlines.data_start,
            Phase::DataBlock => self.deadlines.data_block,
            Phase::DataEnd => self.deadlines.data_end,
        }
    }

    /// # Errors
    /// [`ErrorKind::Settings`] for values that cannot work.
    pub(super) fn check(&self) -> Result<()> {
        let wrong = |what: &str| {
            Err(Error::new(ErrorKind::Settings, format!("{}: {what}", self.endpoint.place("smtp"))))
        };
        if self.endpoint.host.is_empty() {
            return wrong("the server name is empty");
        }
        if self.pool.max_connections == 0 || self.pool.max_messages == 0 {
            return wrong("the pool needs at least one connection and one message for each");
        }
        let known = |name: &String| STRONGEST_FIRST.iter().any(|m| m.name().eq_ignore_ascii_case(name));
        if let Some(name) = self.mechanisms.iter().find(|name| !known(name)) {
            let known = STRONGEST_FIRST.iter().map(|m| m.name()).collect::<Vec<_>>().join(", ");
            return wrong(&format!("{name:?} is no mechanism that is known here ({known})"));
        }
        let deadlines = &self.deadlines;
        let all = [
            deadlines.greeting,
            deadlines.mail,
            deadlines.rcpt,
            deadlines.data_start,
            deadlines.data_block,
            deadlines.data_end,
            self.endpoint.operation_timeout,
            self.endpoint.connect_timeout,
        ];
        if all.iter().any(Duration::is_zero) {
            return wrong("a deadline of zero would let nothing succeed");
        }
        Ok(())
    }
}
