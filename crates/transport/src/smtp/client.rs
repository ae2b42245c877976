//! One SMTP connection: drives the machines of [`proto`](super::proto) over a wire, with a deadline for every step.

use std::future::{Future as _, poll_fn};
use std::task::Poll;
use std::time::Duration;

use email_router_auth::Credentials;
use email_router_model::{EmailAddress, Scope, Secret};

use zeroize::Zeroizing;

use super::error;
use super::proto::command::MailParameters;
use super::proto::transaction::{Ending, Transaction};
use super::proto::{
    Capabilities, Class, Command, HeloName, Malformed, Obstacle, Opening, OpeningFault, OpeningRules,
    Outcome, Phase, Plan, Reply, ReplyReader, Step,
};
use super::settings::SmtpSettings;
use crate::net::{Redactor, TlsConnector, TlsMode, Wire, connect, fault};
use crate::{Error, ErrorKind, ProbeStep, Result, TlsFault};

/// What an answer that came ahead of time may take to be read once the connection is broken.
const SALVAGE: Duration = Duration::from_secs(5);
/// How long a connection that is given up may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(5);
/// A buffer larger than this is not kept with an idle connection.
const KEPT_BUFFER: usize = 256 * 1024;

/// An open, secured, logged-in connection.
///
/// It is passed by value through everything that can be cancelled: a future dropped in the middle takes the connection with it.
#[derive(Debug)]
pub(super) struct Connection {
    wire: Wire,
    replies: ReplyReader,
    /// Bytes to send; its room is reused.
    out: Vec<u8>,
    capabilities: Capabilities,
    mechanism: Option<&'static str>,
    /// What was sent to log in; a server that quotes it is not quoted.
    secrets: Redactor,
    /// Transactions so far.
    pub(super) transactions: u32,
}

/// A transaction with an outcome.
#[derive(Debug)]
pub(super) struct Sent {
    /// What the server decided.
    pub(super) outcome: Outcome,
    /// What the connection is good for.
    pub(super) ending: Ending,
    /// Whether any command of it was answered; a 421 that was waiting is no answer.
    pub(super) heard: bool,
}

/// Why a transaction has no outcome.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server cannot take this message; nothing was sent, the connection is good.
    Obstacle(Obstacle),
    /// The connection is of no more use.
    Broken {
        /// Why; in doubt where it is.
        error: Error,
        /// Nothing at all was heard in this transaction: on a connection that had been idle, the server had already left.
        unheard: bool,
    },
}

impl Connection {
    /// Connects, secures and logs in.
    pub(super) async fn open(
        settings: &SmtpSettings,
        tls: &TlsConnector,
        credentials: Option<Credentials>,
        steps: &mut Vec<ProbeStep>,
    ) -> Result<Self> {
        let wire = connect(&settings.endpoint, tls, "smtp").await?;
        steps.push(ProbeStep { what: "connected".to_owned(), warning: None });
        let helo = match (&settings.helo, wire.local_ip()) {
            (Some(name), _) => name.clone(),
            (None, Some(ip)) => HeloName::literal(ip),
            (None, None) => HeloName::literal(std::net::Ipv4Addr::LOCALHOST.into()),
        };
        let secret = credentials.as_ref().and_then(|c| c.secret().cloned());
        let mut machine = Opening::new(OpeningRules {
            helo,
            tls: settings.endpoint.tls,
            credentials,
            mechanisms: settings.mechanisms.clone(),
            cleartext_allowed: settings.allow_cleartext_password,
            host: settings.endpoint.host.clone(),
            port: settings.endpoint.port,
            server_end_point: wire.server_end_point(),
        });
        let mut this = Self {
            wire,
            replies: ReplyReader::default(),
            out: Vec::new(),
            capabilities: Capabilities::default(),
            mechanism: None,
            secrets: Redactor::default(),
            transactions: 0,
        };
        let opened = this.drive(settings, tls, secret.as_ref(), &mut machine).await;
        if let Some(version) = this.tls_version() {
            steps.push(ProbeStep { what: version.to_owned(), warning: None });
        }
        let named = machine.is_logging_in();
        let finished = opened.and_then(|()| {
            machine.finish().map_err(|why| {
                // it came inside a challenge, which is not cleaned
                let why = match why {
                    OpeningFault::LoginRefused(reply, told) => OpeningFault::LoginRefused(
                        reply,
                        told.map(|words| this.secrets.clean_excerpt(&words)),
                    ),
                    other => other,
                };
                error::opening(this.wire.place(), settings.endpoint.tls, why)
            })
        });
        // before somebody logs in it is no fault of the mailbox, but for a mailbox whose credentials cannot be used here
        let (mut capabilities, mechanism) = finished.map_err(|error| match error.kind() {
            ErrorKind::Authentication => error,
            _ if named => error,
            _ => error.with_scope(Scope::Server),
        })?;
        capabilities.pipelining &= settings.use_pipelining;
        capabilities.chunking &= settings.use_chunking;
        (this.capabilities, this.mechanism) = (capabilities, mechanism);
        Ok(this)
    }

    /// Does what the machine that opens the connection says, until it is done.
    async fn drive(
        &mut self,
        settings: &SmtpSettings,
        tls: &TlsConnector,
        secret: Option<&Secret>,
        machine: &mut Opening,
    ) -> Result<()> {
        loop {
            match machine.poll(&mut self.out) {
                Step::Send(phase) => {
                    self.nothing_unasked()?;
                    if let Some(secret) = secret.filter(|_| machine.is_logging_in()) {
                        self.remember(secret);
                    }
                    self.wire.arm_for(settings.deadline(phase));
                    let sent = self.wire.write_all(&self.out).await;
                    self.out.fill(0); // it may have held a password
                    self.out.clear();
                    sent?;
                }
                Step::Await(phase) => {
                    let reply = self.read_reply(settings.deadline(phase), phase).await?;
                    machine.on_reply(reply);
                }
                Step::Secure => {
                    // what the reply reader already has came in clear, too; the wire checks its own buffer
                    self.no_injection()?;
                    self.wire.arm_for(settings.endpoint.connect_timeout);
                    self.wire.start_tls(tls, &settings.endpoint.host).await?;
                    machine.secured(self.wire.server_end_point());
                }
                Step::Done => return Ok(()),
            }
        }
    }

    /// Uses DATA from now on.
    pub(super) fn forbid_chunking(&mut self) {
        self.capabilities.chunking = false;
    }

    /// The mechanism that was used to log in; `None` when nobody did.
    pub(super) fn mechanism(&self) -> Option<&'static str> {
        self.mechanism
    }

    /// `TLS 1.3`; `None` in clear.
    pub(super) fn tls_version(&self) -> Option<&'static str> {
        self.wire.tls_version()
    }

    /// Whether an idle connection is still as it was left: open, and nothing said meanwhile. Costs no round trip; a server that has
    /// just closed may go unnoticed.
    pub(super) async fn is_quiet(&mut self) -> bool {
        self.wire.arm_for(GOODBYE);
        let quiet = {
            let mut reading = std::pin::pin!(self.wire.read_more());
            // one look: whatever is ready is not what it should be. Dropping the future loses nothing.
            poll_fn(|cx| Poll::Ready(reading.as_mut().poll(cx).is_pending())).await
        };
        quiet && self.wire.buffered().is_empty() && self.replies.is_empty()
    }

    /// Sends one message.
    pub(super) async fn send(&mut self, settings: &SmtpSettings, plan: Plan<'_>) -> Result<Sent, Failure> {
        let mut machine = Transaction::new(plan, &self.capabilities).map_err(Failure::Obstacle)?;
        self.transactions += 1;
        self.out.clear();
        loop {
            match machine.poll(&mut self.out) {
                Step::Send(phase) => self.send_block(settings, phase, &mut machine).await?,
                Step::Await(phase) => match self.read_reply(settings.deadline(phase), phase).await {
                    Ok(reply) => machine.on_reply(reply),
                    Err(error) => return Err(broken(error, &machine, machine.gave_the_end())),
                },
                Step::Secure => {} // a transaction never asks for it
                Step::Done => {
                    if self.out.capacity() > KEPT_BUFFER {
                        self.out.shrink_to(KEPT_BUFFER);
                    }
                    let heard = machine.was_answered();
                    let Some((outcome, ending)) = machine.finish() else {
                        // not reached: a machine that is done has an outcome
                        return Err(Failure::Broken {
                            error: fault::closed(self.wire.place()),
                            unheard: false,
                        });
                    };
                    return Ok(Sent { outcome, ending, heard });
                }
            }
        }
    }

    /// Writes what the machine gave. A server that speaks meanwhile is heard, so that neither side waits for the other for ever.
    async fn send_block(
        &mut self,
        settings: &SmtpSettings,
        phase: Phase,
        machine: &mut Transaction<'_>,
    ) -> Result<(), Failure> {
        // said before anything was asked: its answers would be taken for others
        if let Some(reply) = self.next_received().map_err(|error| broken(error, machine, false))? {
            machine.on_unasked_reply(reply);
        }
        self.wire.arm_for(settings.deadline(phase));
        let mut done = 0;
        while done < self.out.len() && !machine.is_finished() {
            let mut accepted = 0;
            let written = self.wire.write_listening(&self.out[done..], &mut accepted).await;
            done += accepted;
            if let Err(why) = written {
                let handed_over = done == self.out.len() && machine.gave_the_end();
                self.out.clear();
                return self.salvage(machine, why, handed_over).await;
            }
            if done < self.out.len() {
                self.heard_meanwhile(machine).map_err(|error| broken(error, machine, false))?;
            }
        }
        self.out.clear();
        Ok(())
    }

    fn heard_meanwhile(&mut self, machine: &mut Transaction<'_>) -> Result<()> {
        while !machine.is_finished() {
            match self.next_received()? {
                None => break,
                Some(reply) if machine.is_sending_data() => machine.on_unasked_reply(reply),
                // answers to the first of a long group of commands
                Some(reply) => machine.on_reply(reply),
            }
        }
        Ok(())
    }

    /// A write failed. If the server said why, that is the outcome.
    async fn salvage(
        &mut self,
        machine: &mut Transaction<'_>,
        why: Error,
        handed_over: bool,
    ) -> Result<(), Failure> {
        // while a write is stuck the server is listened to, so only a broken connection can have something left to be read
        if why.kind() == ErrorKind::ConnectionLost
            && let Ok(reply) = self.read_reply(SALVAGE, Phase::DataBlock).await
        {
            if machine.is_sending_data() && !handed_over {
                machine.on_unasked_reply(reply);
            } else {
                machine.on_reply(reply);
            }
        }
        if machine.is_finished() { Ok(()) } else { Err(broken(why, machine, handed_over)) }
    }

    /// Offers a sender and takes it back.
    pub(super) async fn offer_sender(
        &mut self,
        settings: &SmtpSettings,
        sender: Option<&EmailAddress>,
    ) -> Result<()> {
        let needs_utf8 = sender.is_some_and(EmailAddress::needs_smtputf8);
        if let Some(address) = sender.filter(|_| needs_utf8 && !self.capabilities.smtputf8) {
            let obstacle = Obstacle::AddressNeedsUtf8(address.clone());
            return Err(error::obstacle(self.wire.place(), 0, &obstacle));
        }
        let parameters = MailParameters { smtputf8: needs_utf8, ..MailParameters::default() };
        let reply = self.ask(settings, Command::Mail(sender, parameters), Phase::Mail).await?;
        if reply.closes() {
            return Err(error::closing(self.wire.place(), &reply));
        }
        if reply.is_refusal() {
            return Err(error::sender_refused(self.wire.place(), sender, &reply));
        }
        if !reply.is_mail_action_done() {
            return Err(error::unexpected(self.wire.place(), "MAIL", &reply));
        }
        self.reset(settings).await
    }

    /// Takes back what was begun.
    pub(super) async fn reset(&mut self, settings: &SmtpSettings) -> Result<()> {
        let reply = self.ask(settings, Command::Rset, Phase::Command).await?;
        if reply.closes() {
            return Err(error::closing(self.wire.place(), &reply));
        }
        if !reply.is_mail_action_done() {
            return Err(error::unexpected(self.wire.place(), "RSET", &reply));
        }
        Ok(())
    }

    /// Says goodbye. Nothing depends on it.
    pub(super) async fn quit(mut self) {
        self.out.clear();
        Command::Quit.write(&mut self.out);
        self.wire.arm_for(GOODBYE);
        if self.wire.write_all(&self.out).await.is_ok() {
            // the answer is waited for so that the server does not see a reset connection; what it says is of no interest
            let _ = self.read_reply(GOODBYE, Phase::Command).await;
        }
    }

    async fn ask(&mut self, settings: &SmtpSettings, command: Command<'_>, phase: Phase) -> Result<Reply> {
        self.nothing_unasked()?;
        self.out.clear();
        command.write(&mut self.out);
        self.wire.arm_for(settings.deadline(phase));
        self.wire.write_all(&self.out).await?;
        self.read_reply(settings.deadline(phase), phase).await
    }

    /// One complete reply within the deadline, however slowly it drips.
    async fn read_reply(&mut self, within: Duration, phase: Phase) -> Result<Reply> {
        self.wire.arm_for(within);
        loop {
            if let Some(reply) = self.next_received()? {
                return Ok(reply);
            }
            if let Err(why) = self.wire.read_more().await {
                return Err(match why.kind() {
                    ErrorKind::Timeout => fault::timeout(self.wire.place(), &phase.to_string()),
                    ErrorKind::ConnectionLost => Error::new(
                        ErrorKind::ConnectionLost,
                        format!("{} closed the connection while {phase}", self.wire.place()),
                    )
                    .with_source(why),
                    _ => why,
                });
            }
        }
    }

    /// A reply out of what was already received.
    fn next_received(&mut self) -> Result<Option<Reply>> {
        let count = self.wire.buffered().len();
        if count > 0 {
            self.replies.push(self.wire.buffered());
            self.wire.consume(count);
        }
        let secrets = &self.secrets;
        match self.replies.next_reply() {
            // a challenge is for the mechanism, as it is; it is never shown
            Ok(Some(reply)) if reply.class() != Class::Intermediate => {
                Ok(Some(reply.map_words(|words| secrets.clean(words))))
            }
            Ok(reply) => Ok(reply),
            Err(why) => {
                let why: Malformed = why.map_words(|words| secrets.clean_excerpt(words));
                Err(error::malformed(self.wire.place(), &why))
            }
        }
    }

    /// Notes what is about to be sent to log in: from now on no answer shows the secret, nor the responses in these commands.
    fn remember(&mut self, secret: &Secret) {
        self.secrets.add(secret.expose());
        let said = Zeroizing::new(String::from_utf8_lossy(&self.out).into_owned());
        for line in said.lines() {
            let mut words = line.split(' ');
            let response = if line.starts_with("AUTH ") { words.nth(2) } else { words.next() };
            self.secrets.add(response.filter(|word| word.len() > 1).unwrap_or_default());
        }
    }

    /// Before a command: nothing may be waiting, or the next answer would belong to something else.
    fn nothing_unasked(&mut self) -> Result<()> {
        match self.next_received()? {
            Some(reply) => Err(error::unexpected(self.wire.place(), "nothing that was asked", &reply)),
            None if self.replies.is_empty() => Ok(()),
            None => Err(Error::new(
                ErrorKind::Protocol,
                format!("{} sent something that was not asked for", self.wire.place()),
            )),
        }
    }

    fn no_injection(&self) -> Result<()> {
        if self.replies.is_empty() && self.wire.buffered().is_empty() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Tls(TlsFault::Injection),
            format!("{} sent data in clear after it agreed to start TLS", self.wire.place()),
        )
        .with_hint("somebody on the network path may be tampering; do not log in over this connection"))
    }
}

/// Whether this way of reaching a server protects what is sent, for the report of test access.
pub(super) fn clear_warning(tls: TlsMode, encrypted: bool) -> Option<String> {
    match (encrypted, tls) {
        (true, _) => None,
        (false, TlsMode::StartTlsIfOffered) => {
            Some("the server offers no TLS; mail goes in clear".to_owned())
        }
        (false, _) => Some("mail goes in clear".to_owned()),
    }
}

fn broken(error: Error, machine: &Transaction<'_>, handed_over: bool) -> Failure {
    let unheard = !machine.was_answered() && error.kind() == ErrorKind::ConnectionLost;
    Failure::Broken { error: if handed_over { error::in_doubt(error) } else { error }, unheard }
}
