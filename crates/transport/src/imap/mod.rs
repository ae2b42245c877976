//! IMAP (RFC 3501 and 9051) with STARTTLS, implicit TLS (RFC 8314), SASL (RFC 4959), IDLE, UIDPLUS, MOVE, CONDSTORE, SPECIAL-USE, NAMESPACE, LITERAL+,
//! ESEARCH and UTF8=ACCEPT, each where the server offers it.
//!
//! | module | what |
//! |---|---|
//! | [`settings`] | where the server is, how to log in, which folder |
//! | [`proto`] | the protocol without sockets: bytes in, events out |
//! | `client` | one session: connect, secure, ask |
//! | `login` | which login method, and how it goes |
//! | `folder` | which folder a name means (hierarchy, namespace, special use), and opening it |
//! | `listing` | which messages are there, and what is remembered of that |
//! | `inbox` | [`Inbox`]: listing in slices, pipelined reading, dispositions |
//! | `disposal` | marking, moving and removing messages |
//! | `idle` | waiting for mail |
//! | `error` | the server's refusals, by kind, retry and scope |
//!
//! # Ids
//! A message's [`RemoteId`](email_router_model::RemoteId) is `UIDVALIDITY.UID`. When UIDVALIDITY changes (a folder was made anew, or a server lost
//! its index) all messages have new ids, as RFC 9051 section 2.3.1.1 wants it: they are read again, and the identity of each message keeps it from
//! being delivered twice.
//!
//! # Marks
//! Reading never marks a message as read (`BODY.PEEK`). What is marked as deleted is not listed. A message is removed by marking it and then UID EXPUNGE of
//! just this message (UIDPLUS). A server without UIDPLUS can only remove all that is marked, by whomever: that is done only if
//! nothing else is marked; otherwise the messages stay marked as deleted, and a warning says so.
//!
//! All this happens when the session ends ([`Inbox::close`]), in a few commands for all messages. A session that is dropped or cut before changes nothing. One
//! that is cut within these commands has done some of it.
//!
//! # What cannot be read
//! The end of an answer is found without understanding it. Where the answer to a message cannot be understood, the message is asked for once more
//! with nothing else under way, and whatever string comes then is the message. Where none comes, the error has scope *message*.

mod client;
mod disposal;
mod error;
mod folder;
mod idle;
mod inbox;
mod listing;
mod login;
pub mod proto;
pub mod settings;

pub use settings::{ImapSettings, LoginMethod, Window};

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use email_router_model::Mailbox;
use tokio::time::Instant;

use crate::contract::{
    Access, Capability, Inbox, Outbound, Probe, ProbeStep, Receipt, ReceiveOptions, SubmitOptions,
    unsupported,
};
use crate::net::{LoginAttempt, TlsConnector};
use crate::{Error, ErrorKind, Result, Transport};

use client::{Session, step};
use folder::Selected;
use inbox::ImapInbox;
use listing::Memory;
use proto::Command;

/// Reads a folder of mailboxes by IMAP. Cheap to share; holds no session.
pub struct ImapTransport {
    settings: Arc<ImapSettings>,
    tls: TlsConnector,
    memory: Arc<Memory>,
}

impl ImapTransport {
    /// A transport with these settings; reads the files of extra authorities.
    ///
    /// # Errors
    /// [`ErrorKind::Settings`] when one of those files is no good, or the name of the folder is empty.
    pub fn new(settings: ImapSettings) -> Result<Self> {
        if settings.folder.trim().is_empty() {
            let place = settings.endpoint.place("imap");
            return Err(Error::new(ErrorKind::Settings, format!("{place}: the name of the folder is empty"))
                .with_hint("name the folder to be read; INBOX is where mail arrives"));
        }
        let tls = TlsConnector::of(&settings.endpoint)?;
        Ok(Self { settings: Arc::new(settings), tls, memory: Arc::default() })
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
                .with_hint("give the mailbox or its profile a user name and a password, or a token"));
            };
            let mut session = Session::open(&self.settings, &self.tls, steps).await?;
            match session.log_in(credentials, &self.settings, steps).await {
                Ok(()) => return Ok(session),
                Err(error) => attempt.again(error, source, mailbox).await?,
            }
            step(steps, "renewed the credentials", Some("the server refused those that were kept"));
        }
    }

    async fn open(
        &self,
        mailbox: &Mailbox,
        writing: bool,
        steps: &mut Vec<ProbeStep>,
    ) -> Result<(Session, Selected)> {
        let mut session = self.log_in(mailbox, steps).await?;
        let folder = session.folder(&self.settings.folder).await?;
        let selected = session.select(folder, writing).await?;
        Ok((session, selected))
    }

    /// Test access, with what it did; tells how many messages wait.
    async fn look(&self, mailbox: &Mailbox, steps: &mut Vec<ProbeStep>) -> Result<u64> {
        let (mut session, selected) = self.open(mailbox, false, steps).await?;
        step(steps, &format!("opened {} for reading", self.settings.folder), None);
        let count = match selected.exists {
            0 => 0,
            _ => {
                let command = Command::SearchPresent(session.capabilities.esearch());
                listing::search(&mut session, &command).await?.len()
            }
        };
        let mut warnings = Vec::new();
        if !session.capabilities.uidplus() {
            warnings.push(
                "the server has no UIDPLUS: deleted messages are removed only when nobody else has marked one as deleted",
            );
        }
        if !session.capabilities.idle() {
            warnings.push("the server has no IDLE: new mail is found by polling");
        }
        let warning = (!warnings.is_empty()).then(|| warnings.join("; "));
        step(steps, &format!("listed {count} messages"), warning.as_deref());
        session.log_out().await?;
        step(steps, "ended the session without a change", None);
        Ok(count as u64)
    }
}

#[async_trait]
impl Transport for ImapTransport {
    fn capability(&self) -> Capability {
        Capability {
            receive: true,
            stable_ids: true,
            headers_alone: true,
            delete: true,
            mark_read: true,
            move_to_folder: true,
            dispose_at_close: true,
            notifies: true,
            ..Capability::default()
        }
    }

    /// Waits until there is mail that the last session of this mailbox (opened by [`Transport::receive`] of this same transport) did not see. It is a hint to
    /// poll, and may be `true` once too often. IDLE is used where the server offers it and begun anew before the server would end it; else the server
    /// is asked once a minute.
    async fn wait_for_mail(&self, mailbox: &Mailbox, limit: Duration) -> Result<bool> {
        let until = Instant::now() + limit;
        let (mut session, selected) = self.open(mailbox, false, &mut Vec::new()).await?;
        let news = match self.memory.uid_next(&mailbox.id) {
            Some((validity, next)) => {
                validity != selected.uid_validity
                    || next.zip(selected.uid_next).is_some_and(|(was, is)| is > was)
            }
            // nobody has looked yet
            None => selected.exists > 0,
        };
        let news = news || idle::wait(&mut session, selected.exists, until).await?;
        session.log_out().await?;
        Ok(news)
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
        let (mut session, selected) = self.open(mailbox, true, &mut Vec::new()).await?;
        let entries = listing::present(&mut session, &mailbox.id, &selected, &self.memory).await?;
        let remember = (Arc::clone(&self.memory), mailbox.id.clone());
        Ok(Box::new(ImapInbox::new(session, selected, entries, options, self.settings.window, remember)))
    }

    async fn submit(&self, _: &Mailbox, _: &Outbound, _: SubmitOptions) -> Result<Receipt> {
        Err(unsupported(self, "send messages"))
    }
}

impl fmt::Display for ImapTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.settings.endpoint.place("imap"))
    }
}

impl fmt::Debug for ImapTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImapTransport").field("settings", &self.settings).finish_non_exhaustive()
    }
}
