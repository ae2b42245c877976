//! One session on the network: connect, secure, log in, ask.

use email_router_model::Scope;
use zeroize::Zeroizing;

use super::error::{Stage, refused, said_bye, violated};
use super::proto::name::Namespace;
use super::proto::{
    Argument, BadArgument, Code, Command, Condition, Connection, Event, Limits, Response, Status, Violation,
};
use super::settings::ImapSettings;
use crate::contract::ProbeStep;
use crate::net::{self, Redactor, TlsConnector, TlsMode, Wire};
use crate::{Error, ErrorKind, Result};

/// One command gets no more than this, in octets; more is noise, or meant to fill the memory.
const MOST_HEARD: u64 = 32 << 20;

/// What a server can do, upper case.
#[derive(Debug, Clone, Default)]
pub(super) struct Capabilities(Vec<String>);

impl Capabilities {
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|word| word == name)
    }

    pub(super) fn mechanisms(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|word| word.strip_prefix("AUTH="))
    }

    /// UID EXPUNGE and UID SEARCH RETURN are part of IMAP4rev2.
    pub(super) fn uidplus(&self) -> bool {
        self.has("UIDPLUS") || self.has("IMAP4REV2")
    }

    pub(super) fn esearch(&self) -> bool {
        self.has("ESEARCH") || self.has("IMAP4REV2")
    }

    pub(super) fn moves(&self) -> bool {
        self.has("MOVE") || self.has("IMAP4REV2")
    }

    pub(super) fn idle(&self) -> bool {
        self.has("IDLE") || self.has("IMAP4REV2")
    }

    pub(super) fn condstore(&self) -> bool {
        self.has("CONDSTORE") || self.has("QRESYNC")
    }
}

/// How a command ended, and what came meanwhile.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) condition: Condition,
    pub(super) data: Vec<Response>,
}

/// A connection and what is known about the server. Dropping a future of [`Session::event`] or [`Session::flush`] loses
/// nothing; an answer to [`Session::ask`] that nobody waits for any more comes out of `event` later.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) wire: Wire,
    pub(super) connection: Connection,
    /// Bytes to send; may hold a password.
    pub(super) out: Zeroizing<Vec<u8>>,
    sent: usize,
    pub(super) capabilities: Capabilities,
    /// How often the server told what it can do.
    pub(super) told: usize,
    pub(super) tls_mode: TlsMode,
    /// The server had logged us in before we said anything.
    pub(super) preauth: bool,
    /// Names of folders are sent as UTF-8.
    pub(super) utf8: bool,
    /// Where the user's folders are, once somebody asked.
    pub(super) namespace: Option<Namespace>,
    /// Octets heard so far.
    heard: u64,
    /// LOGOUT was sent: BYE is what is expected now.
    leaving: bool,
    /// What was sent to log in; a server that quotes it is not quoted.
    pub(super) secrets: Redactor,
}

impl Session {
    /// Connects, reads the greeting and the capabilities, and establishes TLS as the settings say.
    ///
    /// Nobody has been named yet, so whatever fails here is a matter of the whole server.
    pub(super) async fn open(
        settings: &ImapSettings,
        tls: &TlsConnector,
        steps: &mut Vec<ProbeStep>,
    ) -> Result<Self> {
        Self::reach(settings, tls, steps).await.map_err(|error| error.with_scope(Scope::Server))
    }

    async fn reach(settings: &ImapSettings, tls: &TlsConnector, steps: &mut Vec<ProbeStep>) -> Result<Self> {
        let endpoint = &settings.endpoint;
        let wire = net::connect(endpoint, tls, "imap").await?;
        let mut session = Self {
            wire,
            connection: Connection::new(Limits::default()),
            out: Zeroizing::new(Vec::with_capacity(512)),
            sent: 0,
            capabilities: Capabilities::default(),
            told: 0,
            tls_mode: endpoint.tls,
            preauth: false,
            utf8: false,
            namespace: None,
            heard: 0,
            leaving: false,
            secrets: Redactor::default(),
        };
        match session.event().await? {
            Event::Greeting(condition) if condition.status == Status::Bye => {
                return Err(refused(session.place(), Stage::Greeting, "the connection", &condition));
            }
            Event::Greeting(condition) => session.preauth = condition.status == Status::PreAuth,
            other => return Err(session.unexpected(&other)),
        }
        step(steps, "connected", None);
        if session.told == 0 {
            session.ask_capabilities().await?;
        }
        session.secure(settings, tls, steps).await?;
        Ok(session)
    }

    async fn secure(
        &mut self,
        settings: &ImapSettings,
        tls: &TlsConnector,
        steps: &mut Vec<ProbeStep>,
    ) -> Result<()> {
        let required = match settings.endpoint.tls {
            TlsMode::StartTls => true,
            TlsMode::StartTlsIfOffered => false,
            TlsMode::Implicit | TlsMode::None => {
                self.tls_step(steps);
                return Ok(());
            }
        };
        // a session that is logged in cannot begin TLS any more (RFC 9051 section 6.2.1): somebody on the way may have changed the greeting
        let offered = !self.preauth && self.capabilities.has("STARTTLS");
        let agreed = offered && self.ask(&Command::StartTls).await?.condition.is_ok();
        if agreed {
            self.wire.arm();
            self.wire.start_tls(tls, &settings.endpoint.host).await?;
            // what was said in clear may have been said by anybody
            self.capabilities = Capabilities::default();
            self.ask_capabilities().await?;
        } else if required {
            return Err(net::tls_not_offered(self.place(), "STARTTLS"));
        }
        self.tls_step(steps);
        Ok(())
    }

    fn tls_step(&self, steps: &mut Vec<ProbeStep>) {
        if let Some(version) = self.wire.tls_version() {
            step(steps, version, None);
        }
    }

    pub(super) async fn ask_capabilities(&mut self) -> Result<()> {
        let answer = self.ask(&Command::Capability).await?;
        match answer.condition.is_ok() {
            true => Ok(()),
            false => Err(self.refusal(Stage::Mailbox, "CAPABILITY", &answer.condition)),
        }
    }

    /// Ends the session. A server that hangs up after it said goodbye has done all it must.
    pub(super) async fn log_out(&mut self) -> Result<()> {
        self.leaving = true;
        match self.ask(&Command::Logout).await {
            Err(error) if error.kind() != ErrorKind::ConnectionLost => Err(error),
            _ => Ok(()),
        }
    }

    /// Appends a command to what is to be sent; returns its number.
    pub(super) fn push(&mut self, command: &Command) -> u64 {
        self.connection.push(command, &mut self.out)
    }

    /// Appends bytes that are no command.
    pub(super) fn push_raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Sends a command and waits for its end; nothing else may be under way.
    pub(super) async fn ask(&mut self, command: &Command) -> Result<Answer> {
        let number = self.push(command);
        let (mut data, before) = (Vec::new(), self.heard);
        loop {
            let event = self.event().await?;
            if self.heard - before > MOST_HEARD {
                let text = format!(
                    "{} sends more than {MOST_HEARD} octets in answer to {}",
                    self.place(),
                    command.request()
                );
                return Err(Error::new(ErrorKind::Protocol, text));
            }
            match event {
                Event::Done { number: done, condition, .. } if done == number => {
                    return Ok(Answer { condition, data });
                }
                // the end of a command whose caller went away
                Event::Done { .. } | Event::Data(Response::Other) => {}
                Event::Data(response) => data.push(response),
                other @ (Event::Greeting(_) | Event::Continue(_)) => return Err(self.unexpected(&other)),
            }
        }
    }

    /// Sends what waits to be sent.
    pub(super) async fn flush(&mut self) -> Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        self.wire.arm();
        while self.sent < self.out.len() {
            self.sent += self.wire.write_some(&self.out[self.sent..]).await?;
        }
        self.wire.flush().await?;
        self.out.clear();
        self.sent = 0;
        Ok(())
    }

    /// Starts the deadline anew: somebody begins to wait.
    pub(super) fn arm(&mut self) {
        self.wire.arm();
    }

    /// Waits for the next event for as long as the caller wants.
    pub(super) fn arm_for(&mut self, time: std::time::Duration) {
        self.wire.arm_for(time);
    }

    /// Sends what waits to be sent and reads until something is complete. The deadline moves on with each piece of a message and each end of a
    /// command; other answers do not move it, so that a server cannot hold the session with them.
    pub(super) async fn event(&mut self) -> Result<Event> {
        self.flush().await?;
        let mut progress = 0;
        loop {
            match self.connection.feed(self.wire.buffered()) {
                Err(violation) => return Err(self.violated(violation)),
                Ok((used, event)) => {
                    self.wire.consume(used);
                    self.heard += used as u64;
                    if let Some(event) = event {
                        return self.noted(event);
                    }
                }
            }
            progress += self.wire.read_more().await?;
            if progress >= Wire::PROGRESS && self.connection.in_literal() {
                self.wire.arm();
                progress = 0;
            }
        }
    }

    /// Takes note of what an event says about the server.
    fn noted(&mut self, event: Event) -> Result<Event> {
        let condition = match &event {
            Event::Greeting(condition) | Event::Done { condition, .. } => Some(condition),
            Event::Data(Response::Untagged(condition)) => Some(condition),
            Event::Data(Response::Capability(words)) => {
                self.capabilities = Capabilities(words.clone());
                self.told += 1;
                None
            }
            _ => None,
        };
        if let Some(Code::Capability(words)) = condition.and_then(|c| c.code.as_ref()) {
            self.capabilities = Capabilities(words.clone());
            self.told += 1;
        }
        match &event {
            Event::Done { .. } => self.wire.arm(),
            Event::Data(Response::Untagged(condition))
                if condition.status == Status::Bye && !self.leaving =>
            {
                return Err(said_bye(self.place(), &condition.map_words(|words| self.secrets.clean(words))));
            }
            _ => {}
        }
        Ok(event)
    }

    pub(super) fn place(&self) -> &str {
        self.wire.place()
    }

    pub(super) fn refusal(&self, stage: Stage, command: &str, condition: &Condition) -> Error {
        let condition = condition.map_words(|words| self.secrets.clean(words));
        refused(self.place(), stage, command, &condition)
    }

    pub(super) fn violated(&self, violation: Violation) -> Error {
        violated(self.place(), &violation.map_words(|words| self.secrets.clean_excerpt(words)))
    }

    /// A text that can stand in a command.
    pub(super) fn argument(&self, what: &str, text: &str) -> Result<Argument> {
        Argument::new(text).map_err(|why: BadArgument| {
            Error::new(ErrorKind::Settings, format!("{}: the {what} {why}", self.place()))
                .with_scope(Scope::Mailbox)
        })
    }

    /// An event that cannot come here.
    pub(super) fn unexpected(&self, event: &Event) -> Error {
        let what = match event {
            Event::Greeting(_) => "a greeting",
            Event::Continue(_) => "a request for more",
            Event::Data(_) => "data",
            Event::Done { .. } => "the end of a command",
        };
        Error::new(ErrorKind::Protocol, format!("{} sent {what} at the wrong time", self.place()))
    }
}

pub(super) fn step(steps: &mut Vec<ProbeStep>, what: &str, warning: Option<&str>) {
    steps.push(ProbeStep { what: what.to_owned(), warning: warning.map(str::to_owned) });
}
