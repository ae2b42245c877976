//! One session on the network: connect, secure, log in, ask.

use email_router_auth::{
    AuthError, Channel, Credentials, Exchange, Login, Mechanism, PickError, Plain, ProofKind,
    STRONGEST_FIRST, apop_digest, pick,
};
use email_router_model::{Scope, Secret};
use zeroize::Zeroizing;

use super::error::{Stage, refused, violated};
use super::proto::connection::excerpt;
use super::proto::listing::{Capabilities, parse_list, parse_stat, parse_uidl};
use super::proto::{Argument, BadArgument, Body, Command, Connection, Event, Limits, Status, Violation};
use super::settings::{LoginMethod, Pop3Settings};
use crate::contract::ProbeStep;
use crate::net::{self, Redactor, TlsConnector, TlsMode, Wire, no_mechanism_hint};
use crate::{Error, ErrorKind, Result};

/// A mechanism that needs more challenges than this is not one.
const MOST_CHALLENGES: usize = 16;

/// A message of the listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) number: u32,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<String>,
}

/// All messages of the mailbox, in the order of their numbers.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) entries: Vec<Entry>,
    /// The server has UIDL.
    pub(super) unique_ids: bool,
}

/// A connection and what is known about the server. Dropping a future of [`Session::event`] or [`Session::flush`] loses
/// nothing; the other methods belong to the time before the inbox exists, when the whole session is dropped with them.
#[derive(Debug)]
pub(super) struct Session {
    wire: Wire,
    pub(super) connection: Connection,
    /// Bytes to send; may hold a password.
    out: Zeroizing<Vec<u8>>,
    sent: usize,
    /// How many commands that await an answer are in `out`.
    unsent: usize,
    pub(super) capabilities: Capabilities,
    timestamp: Option<String>,
    tls_mode: TlsMode,
    /// What was sent to log in; a server that quotes it is not quoted.
    secrets: Redactor,
}

impl Session {
    /// Connects, reads the greeting and the capabilities, and establishes TLS as the settings say.
    ///
    /// Nobody has been named yet, so whatever fails here is a matter of the whole server.
    pub(super) async fn open(
        settings: &Pop3Settings,
        tls: &TlsConnector,
        steps: &mut Vec<ProbeStep>,
    ) -> Result<Self> {
        Self::reach(settings, tls, steps).await.map_err(|error| error.with_scope(Scope::Server))
    }

    async fn reach(settings: &Pop3Settings, tls: &TlsConnector, steps: &mut Vec<ProbeStep>) -> Result<Self> {
        let endpoint = &settings.endpoint;
        let wire = net::connect(endpoint, tls, "pop3").await?;
        let mut session = Self {
            wire,
            connection: Connection::new(Limits::default()),
            out: Zeroizing::new(Vec::with_capacity(512)),
            sent: 0,
            unsent: 0,
            capabilities: Capabilities::default(),
            timestamp: None,
            tls_mode: endpoint.tls,
            secrets: Redactor::default(),
        };
        match session.event().await? {
            Event::Greeting(status) if status.ok => {
                session.timestamp = status.timestamp().map(str::to_owned);
            }
            Event::Greeting(status) => {
                return Err(refused(session.wire.place(), Stage::Greeting, "the connection", &status, None));
            }
            other => return Err(session.unexpected(&other)),
        }
        step(steps, "connected", None);
        session.ask_capabilities().await?;
        session.secure(settings, tls, steps).await?;
        Ok(session)
    }

    async fn secure(
        &mut self,
        settings: &Pop3Settings,
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
        // a server without CAPA may still know STLS
        let worth_trying = self.capabilities.stls || (required && !self.capabilities.known);
        let agreed = worth_trying && self.ask(Command::Stls).await?.0.ok;
        if agreed {
            self.wire.arm();
            self.wire.start_tls(tls, &settings.endpoint.host).await?;
            // what was said in clear may have been said by anybody (RFC 2595 section 4)
            self.ask_capabilities().await?;
        } else if required {
            return Err(net::tls_not_offered(self.wire.place(), "STLS"));
        }
        self.tls_step(steps);
        Ok(())
    }

    fn tls_step(&self, steps: &mut Vec<ProbeStep>) {
        if let Some(version) = self.wire.tls_version() {
            step(steps, version, None);
        }
    }

    async fn ask_capabilities(&mut self) -> Result<()> {
        let (_, body) = self.ask(Command::Capa).await?;
        self.capabilities = body.map(|b| Capabilities::parse(&b.bytes)).unwrap_or_default();
        Ok(())
    }

    /// Logs in with one method; a password is sent in clear only where the settings allow that.
    pub(super) async fn log_in(
        &mut self,
        credentials: &Credentials,
        settings: &Pop3Settings,
        steps: &mut Vec<ProbeStep>,
    ) -> Result<()> {
        let channel = self.channel(settings);
        if let Some(secret) = credentials.secret() {
            self.secrets.add(secret.expose());
        }
        let how = match self.choose(credentials, settings.login, &channel)? {
            Chosen::Sasl(exchange) => self.sasl(exchange).await?,
            Chosen::Apop(timestamp) => {
                let digest = apop_digest(&timestamp, self.password(credentials)?);
                self.secrets.add(&digest);
                let digest = self.argument("password digest", &digest)?;
                let name = self.argument("user name", &credentials.user)?;
                let (status, _) = self.ask(Command::Apop(name, digest)).await?;
                self.logged_in("APOP", &status)?;
                ("APOP", None)
            }
            Chosen::UserPass => {
                let name = self.argument("user name", &credentials.user)?;
                let password = self.argument("password", self.password(credentials)?.expose())?;
                // together where the server allows it (RFC 2449 section 6.6); both answers are read, the first refusal counts
                self.push(&Command::User(name), 0);
                let together = self.capabilities.pipelining;
                if together {
                    self.push(&Command::Pass(password.clone()), 0);
                }
                let (user, _) = self.answer().await?;
                if !together {
                    self.logged_in("USER", &user)?;
                    self.push(&Command::Pass(password), 0);
                }
                let (pass, _) = self.answer().await?;
                self.logged_in("USER", &user)?;
                self.logged_in("PASS", &pass)?;
                ("USER and PASS", Some("password"))
            }
        };
        let (method, shown) = how;
        let warning =
            shown.filter(|_| !channel.encrypted).map(|what| format!("the {what} was sent without TLS"));
        step(steps, &format!("logged in with {method}"), warning.as_deref());
        Ok(())
    }

    fn channel(&self, settings: &Pop3Settings) -> Channel {
        let endpoint = &settings.endpoint;
        match self.wire.is_encrypted() {
            true => Channel::tls("pop", &endpoint.host, endpoint.port, self.wire.server_end_point()),
            false => Channel::clear("pop", &endpoint.host, endpoint.port, settings.cleartext_allowed),
        }
    }

    fn password<'a>(&self, credentials: &'a Credentials) -> Result<&'a Secret> {
        credentials.password().ok_or_else(|| {
            Error::new(
                ErrorKind::Settings,
                format!("{}: this login method needs a password, and there is none", self.wire.place()),
            )
        })
    }

    fn choose(&self, credentials: &Credentials, method: LoginMethod, channel: &Channel) -> Result<Chosen> {
        let offered = || self.capabilities.sasl.iter().map(String::as_str);
        match method {
            LoginMethod::Apop => match &self.timestamp {
                Some(timestamp) => Ok(Chosen::Apop(timestamp.clone())),
                None => Err(Error::new(
                    ErrorKind::Authentication,
                    format!("{} does not offer APOP (no timestamp in its greeting)", self.wire.place()),
                )
                .with_hint("choose another login method")),
            },
            LoginMethod::UserPass if channel.may_show_password() => Ok(Chosen::UserPass),
            LoginMethod::UserPass => Err(self.cleartext("USER and PASS", "password")),
            LoginMethod::Sasl(mechanisms) => pick(offered(), mechanisms, credentials, channel)
                .map(Chosen::Sasl)
                .map_err(|e| self.no_method(e)),
            LoginMethod::Strongest | LoginMethod::Password => {
                let user_pass =
                    self.capabilities.user || !self.capabilities.known || self.capabilities.sasl.is_empty();
                let hidden = Channel { encrypted: false, cleartext_allowed: false, ..channel.clone() };
                let (all, may_hide): (&[&dyn Mechanism], bool) = match method {
                    LoginMethod::Password => (&[&Plain, &Login], false),
                    _ => (STRONGEST_FIRST, true),
                };
                if let Ok(exchange) = pick(offered(), all, credentials, &hidden) {
                    return Ok(Chosen::Sasl(exchange));
                }
                let has_password = credentials.password().is_some();
                if let (Some(timestamp), false, true) =
                    (&self.timestamp, channel.encrypted, may_hide && has_password)
                {
                    return Ok(Chosen::Apop(timestamp.clone()));
                }
                use PickError::{NothingInCommon, ProofMissing};
                let user_pass = user_pass && has_password;
                match pick(offered(), all, credentials, channel) {
                    Ok(exchange) => Ok(Chosen::Sasl(exchange)),
                    Err(NothingInCommon { .. } | ProofMissing { .. })
                        if user_pass && channel.may_show_password() =>
                    {
                        Ok(Chosen::UserPass)
                    }
                    Err(NothingInCommon { .. } | ProofMissing { .. }) if user_pass => {
                        Err(self.cleartext("USER and PASS", "password"))
                    }
                    Err(error) => Err(self.no_method(error)),
                }
            }
        }
    }

    /// Runs an exchange (RFC 5034 section 4); returns its name and what it showed to who can read the channel.
    async fn sasl(
        &mut self,
        mut exchange: Box<dyn Exchange>,
    ) -> Result<(&'static str, Option<&'static str>)> {
        use base64::Engine as _;
        let encode = |bytes: &[u8]| Zeroizing::new(base64::prelude::BASE64_STANDARD.encode(bytes));
        let mechanism = exchange.mechanism();
        let mut initial = exchange.initial();
        let encoded = initial
            .as_ref()
            .map(|bytes| encode(bytes.as_slice()))
            .inspect(|text| self.secrets.add(text))
            .filter(|text| {
                !exchange.waits_to_be_asked() && Command::initial_response_fits(mechanism, text.len())
            });
        if encoded.is_some() {
            initial = None;
        }
        self.push(&Command::Auth(mechanism, encoded), 0);
        for _ in 0..MOST_CHALLENGES {
            let challenge = match self.event().await? {
                Event::Challenge(challenge) => challenge,
                Event::Answer { status, .. } if status.ok => {
                    exchange.finish(None).map_err(|error| self.broken_off(error))?;
                    let known = STRONGEST_FIRST.iter().find(|m| m.name() == mechanism && m.shows_password());
                    return Ok((
                        mechanism,
                        known.map(|m| match m.wants() {
                            ProofKind::AccessToken => "access token",
                            _ => "password",
                        }),
                    ));
                }
                Event::Answer { mut status, .. } => {
                    // what the mechanism was told says more than the status
                    if let Some(told) = exchange.refusal() {
                        status.text = format!("{}; {told}", status.text);
                    }
                    return Err(self.refusal(Stage::Login, &format!("AUTH {mechanism}"), &status));
                }
                other @ Event::Greeting(_) => return Err(self.unexpected(&other)),
            };
            // the initial response that did not fit answers the first, empty challenge
            let response = match initial.take() {
                Some(response) => Ok(response),
                None => exchange.step(&challenge),
            };
            match response {
                Ok(response) => {
                    self.secrets.add(&encode(&response));
                    self.connection.answer(&response, &mut self.out);
                }
                Err(error) => {
                    self.connection.cancel(&mut self.out);
                    let _ = self.event().await; // the server's "-ERR"; what it says does not matter any more
                    return Err(self.broken_off(error));
                }
            }
        }
        let text =
            format!("{} sent more than {MOST_CHALLENGES} challenges for {mechanism}", self.wire.place());
        Err(Error::new(ErrorKind::Protocol, text))
    }

    /// Lists the mailbox: UIDL and LIST, and the capabilities once more, which may have changed with the login.
    pub(super) async fn list(&mut self) -> Result<Listing> {
        let before = self.capabilities.clone();
        let mut commands = Vec::new();
        if before.known {
            commands.push(Command::Capa);
        }
        if before.uidl || !before.known {
            commands.push(Command::Uidl);
        }
        commands.push(Command::List);
        let mut uidl = None;
        let mut list = None;
        if before.pipelining {
            for command in &commands {
                self.push(command, 0);
            }
        }
        for command in commands {
            if !before.pipelining {
                self.push(&command, 0);
            }
            let (status, body) = self.answer().await?;
            match command {
                Command::Capa => {
                    self.capabilities = body.map(|b| Capabilities::parse(&b.bytes)).unwrap_or(before.clone());
                }
                Command::Uidl => uidl = Some((status, body)),
                _ => list = Some((status, body)),
            }
        }
        if uidl.is_none() && self.capabilities.uidl {
            uidl = Some(self.ask(Command::Uidl).await?);
        }
        let Some((list_status, list_body)) = list else { return Err(self.lost()) };
        let wrong = |v| self.violated(v);
        let uids = match &uidl {
            Some((_, Some(body))) => Some(parse_uidl(&body.bytes).map_err(wrong)?),
            _ => None,
        };
        let sizes = match list_body {
            Some(body) => parse_list(&body.bytes).map_err(wrong)?,
            None if uids.is_some() => Vec::new(),
            None => {
                // some servers refuse to list nothing
                let (status, _) = self.ask(Command::Stat).await?;
                match parse_stat(&status.text) {
                    Some((0, _)) if status.ok => Vec::new(),
                    _ => return Err(self.refusal(Stage::Mailbox, "LIST", &list_status)),
                }
            }
        };
        // a temporary refusal of UIDL on a server that has it must not turn into other ids
        if let (Some((status, None)), true) = (&uidl, self.capabilities.uidl && !sizes.is_empty()) {
            return Err(self.refusal(Stage::Mailbox, "UIDL", status));
        }
        let unique_ids = uids.is_some() || sizes.is_empty();
        Ok(Listing { entries: merge(uids.unwrap_or_default(), sizes), unique_ids })
    }

    /// Appends a command to what is to be sent.
    pub(super) fn push(&mut self, command: &Command, expected: u64) {
        self.connection.push(command, expected, &mut self.out);
        self.unsent += 1;
    }

    /// Sends a command and waits for its answer; nothing else may be under way.
    pub(super) async fn ask(&mut self, command: Command) -> Result<(Status, Option<Body>)> {
        self.push(&command, 0);
        self.answer().await
    }

    async fn answer(&mut self) -> Result<(Status, Option<Body>)> {
        match self.event().await? {
            Event::Answer { status, body, .. } => Ok((status, body)),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Sends what waits to be sent.
    pub(super) async fn flush(&mut self) -> Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        // Where no earlier answer is awaited, what is here already cannot be one: whoever sent it did not wait for the question. Taken
        // for an answer it would put this message's answer to the next command, and so on.
        let nothing_awaited = self.sent == 0 && self.unsent == self.connection.waiting();
        if nothing_awaited && !self.wire.buffered().is_empty() {
            let early = self.wire.buffered().split(|b| *b == b'\n').next().unwrap_or_default();
            return Err(self.violated(Violation::Unasked(excerpt(early))));
        }
        self.wire.arm();
        while self.sent < self.out.len() {
            self.sent += self.wire.write_some(&self.out[self.sent..]).await?;
        }
        self.wire.flush().await?;
        self.out.clear();
        (self.sent, self.unsent) = (0, 0);
        Ok(())
    }

    /// Sends what waits to be sent and reads until something is complete. While data comes the deadline moves on with it.
    pub(super) async fn event(&mut self) -> Result<Event> {
        self.flush().await?;
        self.wire.arm();
        let mut progress = 0;
        loop {
            match self.connection.feed(self.wire.buffered()) {
                Err(violation) => return Err(self.violated(violation)),
                Ok((used, event)) => {
                    self.wire.consume(used);
                    if let Some(event) = event {
                        return Ok(event);
                    }
                }
            }
            progress += self.wire.read_more().await?;
            if progress >= Wire::PROGRESS {
                self.wire.arm();
                progress = 0;
            }
        }
    }

    pub(super) fn place(&self) -> &str {
        self.wire.place()
    }

    pub(super) fn refusal(&self, stage: Stage, command: &str, status: &Status) -> Error {
        let status = status.map_words(|words| self.secrets.clean(words));
        refused(self.wire.place(), stage, command, &status, self.capabilities.login_delay)
    }

    fn violated(&self, violation: Violation) -> Error {
        violated(self.wire.place(), &violation.map_words(|words| self.secrets.clean_excerpt(words)))
    }

    fn logged_in(&self, command: &str, status: &Status) -> Result<()> {
        if status.ok { Ok(()) } else { Err(self.refusal(Stage::Login, command, status)) }
    }

    fn argument(&self, what: &str, text: &str) -> Result<Argument> {
        Argument::new(text).map_err(|why: BadArgument| {
            Error::new(ErrorKind::Settings, format!("{}: the {what} {why}", self.wire.place()))
                .with_scope(Scope::Mailbox)
        })
    }

    fn broken_off(&self, error: AuthError) -> Error {
        Error::new(ErrorKind::Authentication, format!("{}: {error}", self.wire.place())).with_source(error)
    }

    fn cleartext(&self, what: &str, secret: &str) -> Error {
        // where the settings rule TLS out they contradict themselves; else it is the server that lacks it
        let kind = match self.tls_mode {
            TlsMode::None => ErrorKind::Settings,
            _ => ErrorKind::Tls(crate::TlsFault::NotOffered),
        };
        Error::new(
            kind,
            format!("{}: {what} would send the {secret} without TLS, so nothing was sent", self.wire.place()),
        )
        .with_hint("use TLS; if that is impossible, allow clear text for this server explicitly")
    }

    fn no_method(&self, error: PickError) -> Error {
        match error {
            PickError::CleartextRefused { offered, secret } => self.cleartext(&offered, secret),
            PickError::Auth(error) => {
                Error::new(ErrorKind::Settings, format!("{}: {error}", self.wire.place())).with_source(error)
            }
            error => Error::new(ErrorKind::Authentication, format!("{}: {error}", self.wire.place()))
                .with_hint(
                    no_mechanism_hint(&error).unwrap_or("choose a login method that the server offers"),
                ),
        }
    }

    /// An event that cannot come here; the state machine gives none, so this is not reached.
    fn unexpected(&self, event: &Event) -> Error {
        let what = match event {
            Event::Greeting(_) => "a greeting",
            Event::Challenge(_) => "a challenge",
            Event::Answer { .. } => "an answer",
        };
        Error::new(ErrorKind::Protocol, format!("{} sent {what} at the wrong time", self.wire.place()))
    }

    fn lost(&self) -> Error {
        Error::new(ErrorKind::Protocol, format!("{} did not list the mailbox", self.wire.place()))
    }
}

enum Chosen {
    Sasl(Box<dyn Exchange>),
    Apop(String),
    UserPass,
}

/// An error unless the answer is positive.
pub(super) fn expect_ok(session: &Session, command: &str, status: &Status) -> Result<()> {
    if status.ok { Ok(()) } else { Err(session.refusal(Stage::Mailbox, command, status)) }
}

fn step(steps: &mut Vec<ProbeStep>, what: &str, warning: Option<&str>) {
    steps.push(ProbeStep { what: what.to_owned(), warning: warning.map(str::to_owned) });
}

/// Brings ids and sizes together by message number. Servers disagree with themselves now and then: a message that only one of the
/// two listings has is kept, and the first line that tells something about a number counts.
fn merge(uids: Vec<(u32, Option<String>)>, sizes: Vec<(u32, Option<u64>)>) -> Vec<Entry> {
    let mut all = std::collections::BTreeMap::new();
    let blank = |number| Entry { number, size: None, uid: None };
    for (number, size) in sizes {
        let entry = all.entry(number).or_insert_with(|| blank(number));
        entry.size = entry.size.or(size);
    }
    for (number, uid) in uids {
        let entry = all.entry(number).or_insert_with(|| blank(number));
        if entry.uid.is_none() {
            entry.uid = uid;
        }
    }
    all.into_values().collect()
}
