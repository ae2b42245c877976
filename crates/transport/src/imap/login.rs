//! Logging in: which method, and how it goes.

use email_router_auth::{
    AuthError, Channel, Credentials, Exchange, Login, Mechanism, PickError, Plain, ProofKind,
    STRONGEST_FIRST, pick,
};
use email_router_model::Secret;
use zeroize::Zeroizing;

use super::client::{Session, step};
use super::error::Stage;
use super::proto::{Command, Event, Response, Violation};
use super::settings::{ImapSettings, LoginMethod};
use crate::contract::ProbeStep;
use crate::net::{TlsMode, no_mechanism_hint};
use crate::{Error, ErrorKind, Result};

/// A mechanism that needs more challenges than this is not one.
const MOST_CHALLENGES: usize = 16;

enum Chosen {
    Sasl(Box<dyn Exchange>),
    Command,
}

impl Session {
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
            let (method, shown) = match self.choose(credentials, settings.login, &channel)? {
                Chosen::Sasl(exchange) => self.sasl(exchange).await?,
                Chosen::Command => (self.command_login(credentials).await?, Some("password")),
            };
            let warning =
                shown.filter(|_| !channel.encrypted).map(|what| format!("the {what} was sent without TLS"));
            step(steps, &format!("logged in with {method}"), warning.as_deref());
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
            LoginMethod::Command => Err(self.cleartext("LOGIN", "password")),
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
                            false => Err(self.cleartext("LOGIN", "password")),
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
                    return match condition.is_ok() {
                        true => Ok("LOGIN"),
                        false => Err(self.refusal(Stage::Login, "LOGIN", &condition)),
                    };
                }
                Event::Data(_) => {}
                other => return Err(self.unexpected(&other)),
            }
        }
    }

    /// Runs an exchange (RFC 9051 section 6.2.2); returns its name and what it showed to who can read the channel.
    async fn sasl(
        &mut self,
        mut exchange: Box<dyn Exchange>,
    ) -> Result<(&'static str, Option<&'static str>)> {
        use base64::Engine as _;
        use base64::prelude::BASE64_STANDARD;
        let encode = |bytes: &[u8]| Zeroizing::new(BASE64_STANDARD.encode(bytes));
        let mechanism = exchange.mechanism();
        let mut initial = exchange.initial();
        let mut with_command = None;
        if let Some(bytes) = &initial {
            let text = encode(bytes);
            self.secrets.add(&text);
            if self.capabilities.has("SASL-IR") && !exchange.waits_to_be_asked() {
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
                Event::Done { number: done, mut condition, .. } if done == number => {
                    if condition.is_ok() {
                        exchange.finish(None).map_err(|error| self.broken_off(error))?;
                        let known =
                            STRONGEST_FIRST.iter().find(|m| m.name() == mechanism && m.shows_password());
                        let shown = known.map(|m| match m.wants() {
                            ProofKind::AccessToken => "access token",
                            _ => "password",
                        });
                        return Ok((mechanism, shown));
                    }
                    // what the mechanism was told says more than the status
                    if let Some(told) = exchange.refusal() {
                        condition.text = format!("{}; {told}", condition.text);
                    }
                    return Err(self.refusal(Stage::Login, &format!("AUTHENTICATE {mechanism}"), &condition));
                }
                other => return Err(self.unexpected(&other)),
            };
            challenges += 1;
            // the initial response that was not sent with the command answers the first challenge
            let response = match (initial.take(), challenge) {
                (Some(response), _) => Ok(response),
                (None, Some(challenge)) => exchange.step(&challenge).map_err(|error| self.broken_off(error)),
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

    fn broken_off(&self, error: AuthError) -> Error {
        if let AuthError::Ticket(cause) = error {
            return cause.into();
        }
        Error::new(ErrorKind::Authentication, format!("{}: {error}", self.place())).with_source(error)
    }

    fn cleartext(&self, what: &str, secret: &str) -> Error {
        // where the settings rule TLS out they contradict themselves; else it is the server that lacks it
        let kind = match self.tls_mode {
            TlsMode::None => ErrorKind::Settings,
            _ => ErrorKind::Tls(crate::TlsFault::NotOffered),
        };
        Error::new(
            kind,
            format!("{}: {what} would send the {secret} without TLS, so nothing was sent", self.place()),
        )
        .with_hint("use TLS; if that is impossible, allow clear text for this server explicitly")
    }

    fn no_method(&self, error: PickError) -> Error {
        match error {
            PickError::CleartextRefused { offered, secret } => self.cleartext(&offered, secret),
            PickError::Auth(AuthError::Ticket(cause)) => cause.into(),
            PickError::Auth(error) => {
                Error::new(ErrorKind::Settings, format!("{}: {error}", self.place())).with_source(error)
            }
            error => Error::new(ErrorKind::Authentication, format!("{}: {error}", self.place())).with_hint(
                no_mechanism_hint(&error).unwrap_or("choose a login method that the server offers"),
            ),
        }
    }
}
