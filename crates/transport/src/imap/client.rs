//! One session on the network: connect, secure, log in, ask.

use email_router_auth::{
    Channel, Credentials, Exchange, Login, Mechanism, PickError, Plain, STRONGEST_FIRST, pick,
};
use email_router_model::{Scope, Secret};
use zeroize::Zeroizing;

use super::error::{Stage, refused, said_bye, violated};
use super::proto::name::Namespace;
use super::proto::{
    Argument, BadArgument, Code, Command, Condition, Connection, Event, Limits, Response, Status, Violation,
};
use super::settings::{ImapSettings, LoginMethod};
use crate::contract::ProbeStep;
use crate::net::{self, Redactor, TlsConnector, TlsMode, Wire};
use crate::{Error, ErrorKind, Result};

/// A mechanism that needs more challenges than this is not one.
const MOST_CHALLENGES: usize = 16;

/// More answers without a tag than this to one command are noise.
const MOST_DATA: usize = 100_000;

/// What a server can do, upper case.
#[derive(Debug, Clone, Default)]
pub(super) struct Capabilities(Vec<String>);

impl Capabilities {
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|word| word == name)
    }

    fn mechanisms(&self) -> impl Iterator<Item = &str> {
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

/// A folder that was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Selected {
    pub(super) exists: u32,
    pub(super) uid_validity: u32,
    pub(super) uid_next: Option<u32>,
    pub(super) modseq: Option<u64>,
    pub(super) read_only: bool,
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
    wire: Wire,
    pub(super) connection: Connection,
    /// Bytes to send; may hold a password.
    out: Zeroizing<Vec<u8>>,
    sent: usize,
    pub(super) capabilities: Capabilities,
    /// How often the server told what it can do.
    told: usize,
    tls_mode: TlsMode,
    /// The server had logged us in before we said anything.
    preauth: bool,
    /// Names of folders are sent as UTF-8.
    pub(super) utf8: bool,
    /// Where the user's folders are, once somebody asked.
    pub(super) namespace: Option<Namespace>,
    /// LOGOUT was sent: BYE is what is expected now.
    leaving: bool,
    /// What was sent to log in; a server that quotes it is not quoted.
    secrets: Redactor,
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

    async fn ask_capabilities(&mut self) -> Result<()> {
        let answer = self.ask(&Command::Capability).await?;
        match answer.condition.is_ok() {
            true => Ok(()),
            false => Err(self.refusal(Stage::Mailbox, "CAPABILITY", &answer.condition)),
        }
    }

    /// Logs in with one method; a password is sent in clear only where the settings allow that. Afterwards the capabilities are those
    /// of a session that is logged in.
    pub(super) async fn log_in(
        &mut self,
        credentials: &Credentials,
        settings: &ImapSettings,
        steps: &mut Vec<ProbeStep>,
    ) -> Result<()> {
        if self.preauth {
            let warning = "the server had logged us in before we said who we are (PREAUTH)";
            step(steps, "no login was needed", Some(warning));
        } else {
            let told = self.told;
            let channel = self.channel(settings);
            if let Some(secret) = credentials.secret() {
                self.secrets.add(secret.expose());
            }
            let (method, showed_password) = match self.choose(credentials, settings.login, &channel)? {
                Chosen::Sasl(exchange) => self.sasl(exchange).await?,
                Chosen::Command => (self.command_login(credentials).await?, true),
            };
            let warning =
                (showed_password && !channel.encrypted).then_some("the password was sent without TLS");
            step(steps, &format!("logged in with {method}"), warning);
            if self.told == told {
                self.ask_capabilities().await?;
            }
        }
        let utf8 = self.capabilities.has("UTF8=ACCEPT") || self.capabilities.has("UTF8=ONLY");
        if utf8 && self.capabilities.has("ENABLE") {
            let answer = self.ask(&Command::EnableUtf8).await?;
            let enabled =
                |r: &Response| matches!(r, Response::Enabled(on) if on.iter().any(|w| w == "UTF8=ACCEPT"));
            self.utf8 = answer.condition.is_ok() && answer.data.iter().any(enabled);
        }
        Ok(())
    }

    fn channel(&self, settings: &ImapSettings) -> Channel {
        let endpoint = &settings.endpoint;
        match self.wire.is_encrypted() {
            true => Channel::tls("imap", &endpoint.host, endpoint.port, self.wire.server_end_point()),
            false => Channel::clear("imap", &endpoint.host, endpoint.port, settings.cleartext_allowed),
        }
    }

    fn choose(&self, credentials: &Credentials, method: LoginMethod, channel: &Channel) -> Result<Chosen> {
        let offered = || self.capabilities.mechanisms();
        let command = credentials.password().is_some() && !self.capabilities.has("LOGINDISABLED");
        let disabled = || {
            Error::new(
                ErrorKind::Authentication,
                format!("{} does not allow LOGIN (LOGINDISABLED)", self.place()),
            )
            .with_hint("use TLS, or a login method that the server offers")
        };
        match method {
            LoginMethod::Command if self.capabilities.has("LOGINDISABLED") => Err(disabled()),
            LoginMethod::Command if channel.may_show_password() => Ok(Chosen::Command),
            LoginMethod::Command => Err(self.cleartext("LOGIN")),
            LoginMethod::Sasl(mechanisms) => pick(offered(), mechanisms, credentials, channel)
                .map(Chosen::Sasl)
                .map_err(|e| self.no_method(e)),
            LoginMethod::Strongest | LoginMethod::Password => {
                let all: &[&dyn Mechanism] = match method {
                    LoginMethod::Password => &[&Plain, &Login],
                    _ => STRONGEST_FIRST,
                };
                match pick(offered(), all, credentials, channel) {
                    Ok(exchange) => Ok(Chosen::Sasl(exchange)),
                    // what there is in common may want a token
                    Err(PickError::NothingInCommon { .. } | PickError::ProofMissing { .. }) if command => {
                        match channel.may_show_password() {
                            true => Ok(Chosen::Command),
                            false => Err(self.cleartext("LOGIN")),
                        }
                    }
                    Err(error) => Err(self.no_method(error)),
                }
            }
        }
    }

    /// The command LOGIN; what is not ASCII goes as literals.
    async fn command_login(&mut self, credentials: &Credentials) -> Result<&'static str> {
        let Some(password) = credentials.password().map(Secret::expose) else {
            return Err(Error::new(
                ErrorKind::Settings,
                format!("{}: LOGIN needs a password, and there is none", self.place()),
            ));
        };
        let name = self.argument("user name", &credentials.user)?;
        let password = self.argument("password", password)?;
        let command = match name.is_ascii() && password.is_ascii() {
            true => Command::Login(name, password),
            false => {
                let at_once = self.capabilities.has("LITERAL+") || self.capabilities.has("LITERAL-");
                Command::LoginLiteral(name, password, at_once)
            }
        };
        let mut pieces = match &command {
            Command::LoginLiteral(_, _, false) => command.pieces(),
            _ => Vec::new(),
        }
        .into_iter()
        .skip(1);
        let number = self.push(&command);
        loop {
            match self.event().await? {
                Event::Continue(_) => match pieces.next() {
                    Some(piece) => self.out.extend_from_slice(&piece),
                    None => return Err(self.violated(Violation::Unasked)),
                },
                Event::Done { number: done, condition, .. } if done == number => {
                    self.logged_in("LOGIN", &condition)?;
                    return Ok("LOGIN");
                }
                Event::Data(_) => {}
                other => return Err(self.unexpected(&other)),
            }
        }
    }

    /// Runs an exchange (RFC 9051 section 6.2.2); returns its name and whether it showed the password.
    async fn sasl(&mut self, mut exchange: Box<dyn Exchange>) -> Result<(&'static str, bool)> {
        use base64::Engine as _;
        use base64::prelude::BASE64_STANDARD;
        let encode = |bytes: &[u8]| Zeroizing::new(BASE64_STANDARD.encode(bytes));
        let mechanism = exchange.mechanism();
        let mut initial = exchange.initial();
        let mut with_command = None;
        if let Some(bytes) = &initial {
            let text = encode(bytes);
            self.secrets.add(&text);
            if self.capabilities.has("SASL-IR") {
                with_command = Some(text);
            }
        }
        if with_command.is_some() {
            initial = None;
        }
        let number = self.push(&Command::Authenticate(mechanism, with_command));
        let mut challenges = 0;
        while challenges <= MOST_CHALLENGES {
            let challenge = match self.event().await? {
                Event::Continue(text) => BASE64_STANDARD.decode(&text).ok(),
                Event::Data(_) => continue,
                Event::Done { number: done, condition, .. } if done == number => {
                    self.logged_in(&format!("AUTHENTICATE {mechanism}"), &condition)?;
                    let shows = STRONGEST_FIRST.iter().any(|m| m.name() == mechanism && m.shows_password());
                    return Ok((mechanism, shows));
                }
                other => return Err(self.unexpected(&other)),
            };
            challenges += 1;
            // the initial response that was not sent with the command answers the first challenge
            let response = match (initial.take(), challenge) {
                (Some(response), _) => Ok(response),
                (None, Some(challenge)) => exchange.step(&challenge).map_err(|error| {
                    let text = format!("{}: {error}", self.place());
                    Error::new(ErrorKind::Authentication, text).with_source(error)
                }),
                (None, None) => Err(Error::new(
                    ErrorKind::Protocol,
                    format!("{} sent a challenge that is not base64", self.place()),
                )),
            };
            match response {
                Ok(response) => {
                    self.secrets.add(&encode(&response));
                    self.connection.answer(&response, &mut self.out);
                }
                Err(error) => {
                    self.connection.cancel(&mut self.out);
                    let _ = self.event().await; // the server's "BAD"; what it says does not matter any more
                    return Err(error);
                }
            }
        }
        let text = format!("{} sent more than {MOST_CHALLENGES} challenges for {mechanism}", self.place());
        Err(Error::new(ErrorKind::Protocol, text))
    }

    /// Opens a folder, for reading and writing or for reading alone.
    pub(super) async fn select(&mut self, folder: Argument, writing: bool) -> Result<Selected> {
        let condstore = self.capabilities.condstore();
        let command = match writing {
            true => Command::Select(folder, condstore),
            false => Command::Examine(folder, condstore),
        };
        let answer = self.ask(&command).await?;
        if !answer.condition.is_ok() {
            return Err(self.refusal(Stage::Mailbox, &command.request().to_string(), &answer.condition));
        }
        let mut found =
            Selected { exists: 0, uid_validity: 0, uid_next: None, modseq: None, read_only: false };
        let codes = answer.data.iter().filter_map(|response| match response {
            Response::Untagged(condition) => condition.code.as_ref(),
            _ => None,
        });
        for code in codes.chain(&answer.condition.code) {
            match code {
                Code::UidValidity(validity) => found.uid_validity = *validity,
                Code::UidNext(next) => found.uid_next = Some(*next),
                Code::HighestModSeq(modseq) => found.modseq = Some(*modseq).filter(|m| *m > 0),
                Code::ReadOnly => found.read_only = true,
                Code::UidNotSticky => {
                    return Err(Error::new(
                        ErrorKind::Unsupported,
                        format!("{}: the ids of this folder change from session to session", self.place()),
                    )
                    .with_hint("read another folder, or this mailbox by POP3: without lasting ids mail would be read again each time"));
                }
                _ => {}
            }
        }
        for response in &answer.data {
            if let Response::Exists(exists) = response {
                found.exists = *exists;
            }
        }
        if found.uid_validity == 0 {
            let text = format!("{} tells no UIDVALIDITY for the folder", self.place());
            return Err(Error::new(ErrorKind::Protocol, text));
        }
        Ok(found)
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
        let mut data = Vec::new();
        loop {
            match self.event().await? {
                Event::Done { number: done, condition, .. } if done == number => {
                    return Ok(Answer { condition, data });
                }
                // the end of a command whose caller went away
                Event::Done { .. } | Event::Data(Response::Other) => {}
                Event::Data(response) if data.len() < MOST_DATA => data.push(response),
                Event::Data(_) => {
                    let text = format!(
                        "{} sends more than {MOST_DATA} answers to {}",
                        self.place(),
                        command.request()
                    );
                    return Err(Error::new(ErrorKind::Protocol, text));
                }
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

    /// Sends what waits to be sent and reads until something is complete. The deadline moves on with each message, each piece of one and each end
    /// of a command; other answers do not move it, so that a server cannot hold the session with them.
    pub(super) async fn event(&mut self) -> Result<Event> {
        self.flush().await?;
        let mut progress = 0;
        loop {
            match self.connection.feed(self.wire.buffered()) {
                Err(violation) => return Err(self.violated(violation)),
                Ok((used, event)) => {
                    self.wire.consume(used);
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
            Event::Done { .. } | Event::Data(Response::Fetch(_)) => self.wire.arm(),
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

    fn violated(&self, violation: Violation) -> Error {
        violated(self.place(), &violation.map_words(|words| self.secrets.clean_excerpt(words)))
    }

    fn logged_in(&self, command: &str, condition: &Condition) -> Result<()> {
        if condition.is_ok() { Ok(()) } else { Err(self.refusal(Stage::Login, command, condition)) }
    }

    /// A text that can stand in a command.
    pub(super) fn argument(&self, what: &str, text: &str) -> Result<Argument> {
        Argument::new(text).map_err(|why: BadArgument| {
            Error::new(ErrorKind::Settings, format!("{}: the {what} {why}", self.place()))
                .with_scope(Scope::Mailbox)
        })
    }

    fn cleartext(&self, what: &str) -> Error {
        // where the settings rule TLS out they contradict themselves; else it is the server that lacks it
        let kind = match self.tls_mode {
            TlsMode::None => ErrorKind::Settings,
            _ => ErrorKind::Tls(crate::TlsFault::NotOffered),
        };
        Error::new(
            kind,
            format!("{}: {what} would send the password without TLS, so nothing was sent", self.place()),
        )
        .with_hint("use TLS; if that is impossible, allow clear text for this server explicitly")
    }

    fn no_method(&self, error: PickError) -> Error {
        match error {
            PickError::CleartextRefused { offered } => self.cleartext(&offered),
            PickError::Auth(error) => {
                Error::new(ErrorKind::Settings, format!("{}: {error}", self.place())).with_source(error)
            }
            // another kind of credentials is needed, which no server said
            error @ PickError::ProofMissing { .. } => {
                Error::new(ErrorKind::Settings, format!("{}: {error}", self.place())).with_hint(
                    "choose a login method for these credentials, or give the mailbox what the server wants",
                )
            }
            error => Error::new(ErrorKind::Authentication, format!("{}: {error}", self.place()))
                .with_hint("choose a login method that the server offers"),
        }
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

enum Chosen {
    Sasl(Box<dyn Exchange>),
    Command,
}

pub(super) fn step(steps: &mut Vec<ProbeStep>, what: &str, warning: Option<&str>) {
    steps.push(ProbeStep { what: what.to_owned(), warning: warning.map(str::to_owned) });
}
