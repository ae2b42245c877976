//! POP3 (RFC 1939) with CAPA and response codes (RFC 2449, 3206), STLS (RFC 2595), implicit TLS (RFC 8314), SASL (RFC 5034).
//!
//! | module | what |
//! |---|---|
//! | [`settings`] | where the server is and how to log in |
//! | [`proto`] | the protocol without sockets: bytes in, events out |
//! | `client` | one session: connect, secure, log in, ask |
//! | `inbox` | [`Inbox`]: listing, pipelined reading, deletion at QUIT |
//! | `error` | the server's refusals, by kind, retry and scope |
//!
//! # Logging in
//! [`LoginMethod`] says how. Credentials that the server refuses are tried once; only where their source then gives others (a renewed access token)
//! a second login is tried in the same call.
//!
//! # Ids
//! A message's [`RemoteId`](email_router_model::RemoteId) is its unique-id from UIDL. Two servers need more:
//!
//! - Where unique-ids are not unique in a listing, each of the messages that share one gets `unique-id+digest of its headers`.
//! - Where there is no UIDL, the id is `digest-` and a digest of the header section read by TOP, or of the whole message where there is no
//!   TOP either. Header fields in which servers keep notes (`Status`, `X-UIDL` and the like) do not count.
//!
//! Messages that are the same even then get `-2`, `-3` and so on in the order of the listing. They are copies of each other, so it does not
//! matter which of them keeps which id when one is deleted.
//!
//! # Line ends
//! A message is given as the server sends it: CRLF line ends, stuffed dots removed, and with a CRLF at the very end even where the stored
//! message has none, since POP3 cannot express that (RFC 1939 section 3).

mod client;
mod error;
mod inbox;
pub mod proto;
pub mod settings;

pub use settings::{LoginMethod, Pop3Settings, Window};

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use email_router_model::Mailbox;

use crate::contract::{
    Access, Capability, Inbox, Outbound, Probe, ProbeStep, Receipt, ReceiveOptions, SubmitOptions,
    unsupported,
};
use crate::net::{LoginAttempt, TlsConnector};
use crate::{Error, ErrorKind, Result, Transport};

use client::{Session, expect_ok};
use inbox::Pop3Inbox;
use proto::Command;

/// Reads mailboxes by POP3. Cheap to share; holds no session.
pub struct Pop3Transport {
    settings: Arc<Pop3Settings>,
    tls: TlsConnector,
    /// Whether the last session found TOP missing.
    without_top: Arc<AtomicBool>,
    /// Whether the last session with a message found UIDL missing.
    without_uidl: AtomicBool,
}

impl Pop3Transport {
    /// A transport with these settings; reads the files of extra authorities.
    ///
    /// # Errors
    /// [`ErrorKind::Settings`] when one of those files is no good.
    pub fn new(settings: Pop3Settings) -> Result<Self> {
        let tls = TlsConnector::new(&settings.endpoint.extra_ca_files)?;
        Ok(Self {
            settings: Arc::new(settings),
            tls,
            without_top: Arc::default(),
            without_uidl: AtomicBool::new(false),
        })
    }

    async fn log_in(&self, mailbox: &Mailbox, steps: &mut Vec<ProbeStep>) -> Result<Session> {
        let source = &*self.settings.credentials;
        let mut attempt = LoginAttempt::first(source, mailbox).await?;
        loop {
            let Some(credentials) = &attempt.credentials else {
                return Err(Error::new(
                    ErrorKind::Settings,
                    format!("{self}: there are no credentials for the {mailbox}"),
                )
                .with_hint(
                    "POP3 has no anonymous access: give the mailbox or its profile a user name and a password",
                ));
            };
            let mut session = Session::open(&self.settings, &self.tls, steps).await?;
            match session.log_in(credentials, &self.settings, steps).await {
                Ok(()) => return Ok(session),
                Err(error) => attempt.again(error, source, mailbox).await?,
            }
            steps.push(ProbeStep {
                what: "renewed the credentials".to_owned(),
                warning: Some("the server refused those that were kept".to_owned()),
            });
        }
    }

    /// Test access, with what it did; tells how many messages wait.
    async fn look(&self, mailbox: &Mailbox, steps: &mut Vec<ProbeStep>) -> Result<u64> {
        let mut session = self.log_in(mailbox, steps).await?;
        let listing = session.list().await?;
        let count = listing.entries.len();
        let mut warnings = Vec::new();
        if !listing.unique_ids {
            warnings.push("the server has no unique-ids (UIDL): messages are told apart by digests");
        }
        if session.capabilities.known && !session.capabilities.top {
            warnings.push("the server has no TOP: large messages are read whole before the filter decides");
        }
        if session.capabilities.login_delay.is_some() {
            warnings
                .push("the server wants a pause between logins (LOGIN-DELAY): poll no more often than that");
        }
        steps.push(ProbeStep {
            what: format!("listed {count} messages"),
            warning: (!warnings.is_empty()).then(|| warnings.join("; ")),
        });
        let (status, _) = session.ask(Command::Quit).await?;
        expect_ok(&session, "QUIT", &status)?;
        steps.push(ProbeStep { what: "ended the session without a change".to_owned(), warning: None });
        Ok(count as u64)
    }
}

#[async_trait]
impl Transport for Pop3Transport {
    fn capability(&self) -> Capability {
        Capability {
            receive: true,
            stable_ids: true,
            headers_alone: !self.without_top.load(Ordering::Relaxed),
            costly_listing: self.without_uidl.load(Ordering::Relaxed),
            delete: true,
            dispose_at_close: true,
            ..Capability::default()
        }
    }

    async fn probe(&self, mailbox: &Mailbox, access: Access) -> Result<Probe> {
        if access == Access::Outgoing {
            return Err(unsupported(self, "send messages"));
        }
        let mut steps = Vec::new();
        match self.look(mailbox, &mut steps).await {
            Ok(count) => Ok(Probe { steps, messages: Some(count) }),
            Err(error) => Err(error.with_steps(steps)),
        }
    }

    async fn receive(&self, mailbox: &Mailbox, options: ReceiveOptions) -> Result<Box<dyn Inbox>> {
        let mut session = self.log_in(mailbox, &mut Vec::new()).await?;
        let listing = session.list().await?;
        let without_top = session.capabilities.known && !session.capabilities.top;
        self.without_top.store(without_top, Ordering::Relaxed);
        if !listing.entries.is_empty() {
            self.without_uidl.store(!listing.unique_ids, Ordering::Relaxed);
        }
        Ok(Box::new(Pop3Inbox::new(
            session,
            listing,
            options,
            self.settings.window,
            Arc::clone(&self.without_top),
        )))
    }

    async fn submit(&self, _: &Mailbox, _: &Outbound, _: SubmitOptions) -> Result<Receipt> {
        Err(unsupported(self, "send messages"))
    }
}

impl fmt::Display for Pop3Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.settings.endpoint.place("pop3"))
    }
}

impl fmt::Debug for Pop3Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pop3Transport").field("settings", &self.settings).finish_non_exhaustive()
    }
}
