//! SMTP submission and relay (RFC 5321).
//!
//! [`SmtpTransport`] sends through one server, with one set of [`SmtpSettings`], for any number of mailboxes.
//!
//! # Which extensions are used, where offered
//! PIPELINING (the whole envelope and DATA in one write), SIZE (a message beyond the server's limit is not even tried), 8BITMIME,
//! SMTPUTF8 (when an address or the header needs it), CHUNKING, DSN, STARTTLS, AUTH (all mechanisms of
//! [`email_router_auth`]), ENHANCEDSTATUSCODES.
//!
//! # What the server's answers become
//! | answer | result |
//! |---|---|
//! | some recipients taken, some refused | a receipt with each one's fate |
//! | all recipients refused | [`ErrorKind::RecipientsRefused`], never again if all were refused for good |
//! | MAIL refused | [`ErrorKind::SenderRefused`]; 530: [`ErrorKind::Authentication`] |
//! | DATA, a chunk or the complete message refused | [`ErrorKind::MessageRefused`] or [`ErrorKind::TooLarge`] |
//! | larger than the announced SIZE, 8-bit content without 8BITMIME, UTF-8 in the header without SMTPUTF8 | the same two kinds, before anything is sent |
//! | an address that needs SMTPUTF8 and a server without it | [`ErrorKind::Unsupported`], scope message |
//! | 421 anywhere | [`ErrorKind::Throttled`], scope server, nothing was taken |
//! | 535 | [`ErrorKind::Authentication`], never again, unless the source then gives other credentials (a renewed access token): once, in the same call |
//! | 454 and other 4yz to a login | the same kind, later |
//! | refusing greeting (554) | [`ErrorKind::Refused`], later: it is about this machine, not about a message |
//! | connection lost or time out before the message was written completely | later; nothing was taken |
//! | the same, or nonsense, behind the complete message | in doubt |
//!
//! 5yz is permanent and 4yz is not, with an exception for recipients: `X.5.3`, and a plain 452 or 552 behind accepted recipients, mean
//! "too many recipients" (RFC 5321 4.5.3.1.10). Behind accepted ones that is [`RecipientStatus::TooMany`](crate::RecipientStatus::TooMany),
//! which may be tried at once, else for now.
//!
//! # The bytes of the message
//! Line ends become CRLF before dots are stuffed, so no message can end its own data (SMTP smuggling). A message without a
//! line end at its end gets one. Nothing else is changed. 8-bit bytes in the header section count as SMTPUTF8 when they are valid UTF-8 and
//! else as 8-bit content.
//!
//! # Connections
//! At most [`PoolSettings::max_connections`], all logins together; an idle one of another login makes room. A changed password needs a new
//! connection, a renewed access token does not. A connection goes back to the pool only after a complete transaction or
//! a RSET that was answered; a future that is dropped drops its connection. An idle connection that the server has closed meanwhile is replaced
//! once, when nothing was answered in the new transaction.

mod client;
mod error;
mod pool;
pub mod proto;
mod settings;

pub use proto::HeloName;
pub use settings::{Deadlines, EightBit, EnvelopeSender, PoolSettings, SmtpSettings};

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use email_router_auth::{ProofKind, STRONGEST_FIRST};
use email_router_model::{EmailAddress, Headers, Mailbox, Scope};

use crate::contract::unsupported;
use crate::net::{CredentialSource, LoginAttempt, TlsConnector};
use crate::{
    Access, Capability, Error, ErrorKind, Inbox, Outbound, Probe, ProbeStep, Receipt, ReceiveOptions, Result,
    SubmitOptions, Transport,
};
use client::{Connection, Failure, Sent};
use pool::{Lease, Pool};
use proto::body::Shape;
use proto::transaction::Ending;
use proto::{Outcome, Plan};

/// Sends mail through one SMTP server.
///
/// Cheap to share in an `Arc`; all calls may run at the same time, as many as the pool has connections. Needs a Tokio
/// runtime with time and I/O.
pub struct SmtpTransport {
    settings: Arc<SmtpSettings>,
    place: String,
    tls: TlsConnector,
    credentials: Arc<dyn CredentialSource>,
    pool: Arc<Pool>,
    /// The server offered CHUNKING and then did not know the command.
    chunking_fails: AtomicBool,
}

impl SmtpTransport {
    /// A transport for this server. A mailbox for which `credentials` has none sends without logging in.
    ///
    /// # Errors
    /// [`ErrorKind::Settings`] for values that cannot work and for authority files that cannot be read.
    pub fn new(settings: SmtpSettings, credentials: Arc<dyn CredentialSource>) -> Result<Self> {
        settings.check()?;
        let tls = TlsConnector::of(&settings.endpoint)?;
        let pool = Pool::new(settings.pool.clone());
        let place = settings.endpoint.place("smtp");
        Ok(Self {
            settings: Arc::new(settings),
            place,
            tls,
            credentials,
            pool,
            chunking_fails: AtomicBool::new(false),
        })
    }

    /// Says goodbye on all idle connections. The transport stays usable; dropping it without this just closes them.
    pub async fn close_idle(&self) {
        for connection in self.pool.drain() {
            connection.quit().await;
        }
    }

    /// The reverse-path by the rule of the settings.
    fn reverse_path<'a>(
        &'a self,
        mailbox: &'a Mailbox,
        given: Option<&'a EmailAddress>,
    ) -> Option<&'a EmailAddress> {
        let given = given?; // the null reverse-path stays
        Some(match &self.settings.envelope_sender {
            EnvelopeSender::FromMessage => given,
            EnvelopeSender::SenderMailbox => &mailbox.address,
            EnvelopeSender::Fixed(address) => address,
        })
    }

    fn check(&self, message: &Outbound, options: &SubmitOptions) -> Result<()> {
        let size = message.mime.len() as u64;
        if size > self.settings.max_message_bytes {
            let limit = self.settings.max_message_bytes;
            let text =
                format!("{}: the message has {size} octets; at most {limit} are allowed here", self.place);
            return Err(Error::new(ErrorKind::TooLarge, text));
        }
        let wrong = |what: &str| {
            let text = format!("{}: {what}", self.place);
            Err(Error::new(ErrorKind::Settings, text).with_scope(Scope::Message))
        };
        if message.envelope.recipients.is_empty() {
            return wrong("the message has no recipient");
        }
        // RFC 3461 4.4: at most 100 characters
        let id = options.dsn.as_ref().and_then(|dsn| dsn.envelope_id.as_ref());
        if id.is_some_and(|id| id.is_empty() || id.len() > 100) {
            return wrong("the envelope id must have 1 to 100 characters");
        }
        Ok(())
    }

    /// Opens a connection; if it has to be with other credentials than those of the attempt, it has those afterwards.
    /// `steps` has what was done by the last attempt, also where it failed.
    async fn open(
        &self,
        mailbox: &Mailbox,
        attempt: &mut LoginAttempt,
        steps: &mut Vec<ProbeStep>,
    ) -> Result<Connection> {
        loop {
            steps.clear();
            match Connection::open(&self.settings, &self.tls, attempt.credentials.clone(), steps).await {
                Ok(connection) => return Ok(connection),
                Err(error) => attempt.again(error, &*self.credentials, mailbox).await?,
            }
        }
    }

    async fn send(&self, sender: &Mailbox, plan: Plan<'_>) -> Result<(Sent, Lease)> {
        let mut attempt = LoginAttempt::first(&*self.credentials, sender).await?;
        let mut fresh = false;
        loop {
            let mut lease = self.pool.lease(attempt.credentials.clone(), fresh).await;
            let reused = lease.reused();
            let connection = match lease.connection() {
                Some(connection) => connection,
                None => {
                    let opened = self.open(sender, &mut attempt, &mut Vec::new()).await?;
                    lease.put(opened, attempt.credentials.clone())
                }
            };
            if self.chunking_fails.load(Ordering::Relaxed) {
                connection.forbid_chunking();
            }
            match connection.send(&self.settings, plan).await {
                // nothing was taken; once, since no connection uses it from now on
                Ok(Sent { outcome: Outcome::ChunkingUnknown(reply), .. }) => {
                    self.chunking_fails.store(true, Ordering::Relaxed);
                    tracing::warn!(server = %self.place, %reply, "the server offers CHUNKING but does not know BDAT; DATA is used instead");
                    fresh = true;
                }
                // the server left while the connection was idle; it has taken nothing, so a new connection is safe. Once: a new
                // connection is not a reused one.
                Err(Failure::Broken { unheard: true, error }) if reused && !error.is_in_doubt() => {
                    fresh = true
                }
                Ok(Sent { outcome: Outcome::Closing(_), heard: false, .. }) if reused => fresh = true,
                Ok(sent) => return Ok((sent, lease)),
                Err(Failure::Obstacle(obstacle)) => {
                    lease.give_back();
                    return Err(error::obstacle(&self.place, plan.shape.normal_len, &obstacle));
                }
                Err(Failure::Broken { error, .. }) => return Err(error),
            }
        }
    }

    fn receipt(&self, plan: &Plan<'_>, outcome: Outcome) -> Result<Receipt> {
        let place = &self.place;
        match outcome {
            Outcome::Taken { recipients, last } => {
                let results = plan
                    .recipients
                    .iter()
                    .zip(&recipients)
                    .map(|(address, reply)| error::fate(address, reply, true));
                Ok(Receipt { recipients: results.collect(), reply: error::words(&last) })
            }
            Outcome::SenderRefused(reply) => Err(error::sender_refused(place, plan.sender, &reply)),
            Outcome::RecipientsRefused(replies) => {
                let refused: Vec<_> = plan.recipients.iter().zip(&replies).collect();
                Err(error::recipients_refused(place, &refused))
            }
            Outcome::MessageRefused(reply) | Outcome::ChunkingUnknown(reply) => {
                Err(error::message_refused(place, &reply))
            }
            Outcome::Closing(reply) => Err(error::closing(place, &reply)),
            Outcome::Unexpected { command, reply, in_doubt } => {
                let error = error::unexpected(place, command, &reply);
                Err(if in_doubt { error::in_doubt(error) } else { error })
            }
        }
    }

    /// Test access, with what it did.
    async fn look(&self, mailbox: &Mailbox, steps: &mut Vec<ProbeStep>) -> Result<()> {
        let mut attempt = LoginAttempt::first(&*self.credentials, mailbox).await?;
        let kept = attempt.credentials.clone();
        // the bound of the pool holds for test access, too; what is idle makes room
        let mut lease = self.pool.lease(kept.clone(), true).await;
        let opened = self.open(mailbox, &mut attempt, steps).await?;
        let connection = lease.put(opened, attempt.credentials.clone());
        let step = |what: String, warning: Option<String>| ProbeStep { what, warning };
        let encrypted = connection.tls_version();
        if encrypted.is_none() {
            let warning = client::clear_warning(self.settings.endpoint.tls, false);
            steps.push(step("no TLS".into(), warning));
        }
        match connection.mechanism() {
            Some(name) => {
                if kept != attempt.credentials {
                    let warning = "the server refused the credentials that were kept".to_owned();
                    steps.push(step("renewed the credentials".into(), Some(warning)));
                }
                let shown = STRONGEST_FIRST.iter().find(|m| m.name() == name && m.shows_password());
                let warning = shown.filter(|_| encrypted.is_none()).map(|m| match m.wants() {
                    ProofKind::AccessToken => "access token sent without TLS".to_owned(),
                    _ => "password sent without TLS".to_owned(),
                });
                steps.push(step(format!("logged in with {name}"), warning));
            }
            None => steps.push(step("no login".into(), None)),
        }
        let sender = self.reverse_path(mailbox, Some(&mailbox.address));
        connection.offer_sender(&self.settings, sender).await?;
        steps.push(step(format!("sender {} accepted", sender.unwrap_or(&mailbox.address)), None));
        lease.close().await;
        Ok(())
    }
}

#[async_trait]
impl Transport for SmtpTransport {
    fn capability(&self) -> Capability {
        Capability {
            submit: true,
            per_recipient_results: true,
            concurrent_submissions: Some(self.settings.pool.max_connections),
            ..Capability::default()
        }
    }

    /// Outgoing: connects, secures, logs in, offers the sender (by the rule of [`EnvelopeSender`]) and takes it back with RSET. Some servers
    /// judge the sender only together with a recipient; those accept here what they refuse later.
    async fn probe(&self, mailbox: &Mailbox, access: Access) -> Result<Probe> {
        if access == Access::Incoming {
            return Err(unsupported(self, "read mailboxes"));
        }
        let mut steps = Vec::new();
        match self.look(mailbox, &mut steps).await {
            Ok(()) => Ok(Probe { steps, messages: None }),
            Err(error) => Err(error.with_steps(steps)),
        }
    }

    async fn receive(&self, _mailbox: &Mailbox, _options: ReceiveOptions) -> Result<Box<dyn Inbox>> {
        Err(unsupported(self, "read mailboxes"))
    }

    async fn submit(&self, sender: &Mailbox, message: &Outbound, options: SubmitOptions) -> Result<Receipt> {
        self.check(message, &options)?;
        let header = Headers::new(&message.mime).as_bytes();
        let shape = Shape::of(&message.mime);
        let plan = Plan {
            sender: self.reverse_path(sender, message.envelope.sender.as_ref()),
            recipients: &message.envelope.recipients,
            message: &message.mime,
            shape,
            utf8_header: shape.eight_bit && !header.is_ascii() && std::str::from_utf8(header).is_ok(),
            dsn: options.dsn.as_ref(),
            eight_bit_anyway: self.settings.eight_bit == EightBit::SendAnyway,
        };
        let (sent, lease) = self.send(sender, plan).await?;
        match sent.ending {
            Ending::Clean => lease.give_back(),
            // behind the caller's back: a server that does not answer RSET must not hold up the result
            Ending::NeedsReset => drop(tokio::spawn(lease.reset(Arc::clone(&self.settings)))),
            Ending::Broken => drop(lease),
        }
        let result = self.receipt(&plan, sent.outcome);
        match &result {
            Ok(receipt) => {
                tracing::debug!(server = %self.place, message_id = %message.message_id, reply = %receipt.reply, "message handed over")
            }
            Err(why) => {
                tracing::debug!(server = %self.place, message_id = %message.message_id, %why, "message not handed over")
            }
        }
        result
    }
}

impl fmt::Display for SmtpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)
    }
}

impl fmt::Debug for SmtpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmtpTransport").field("settings", &self.settings).finish_non_exhaustive()
    }
}
