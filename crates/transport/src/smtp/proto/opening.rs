//! From a fresh connection to one that takes messages: greeting, EHLO, STARTTLS, EHLO again, AUTH.

use email_router_auth::{
    AuthError, Channel, Credentials, Exchange, PickError, Response, STRONGEST_FIRST, pick,
};

use super::command::decode_challenge;
use super::{Capabilities, Class, Command, HeloName, Phase, Reply, Step};
use crate::net::TlsMode;

/// How a connection is opened.
#[derive(Debug, Clone)]
pub struct OpeningRules {
    /// The name to introduce ourselves with.
    pub helo: HeloName,
    /// When TLS is used; with [`TlsMode::Implicit`] it is already established.
    pub tls: TlsMode,
    /// Who logs in; `None` for anonymous.
    pub credentials: Option<Credentials>,
    /// The only mechanisms to use, the preferred one first; empty for all.
    pub mechanisms: Vec<String>,
    /// Whether a password may be sent without TLS.
    pub cleartext_allowed: bool,
    /// The server's host name, as it was configured.
    pub host: String,
    /// The server's port.
    pub port: u16,
    /// With [`TlsMode::Implicit`] the channel binding of the server's certificate.
    pub server_end_point: Option<Vec<u8>>,
}

/// Why a connection cannot be opened.
#[derive(Debug)]
pub enum OpeningFault {
    /// The greeting is a refusal.
    GreetingRefused(Reply),
    /// Neither EHLO nor HELO is accepted.
    HelloRefused(Reply),
    /// STARTTLS is required and not offered.
    TlsNotOffered,
    /// STARTTLS was offered, but refused when asked for.
    TlsRefused(Reply),
    /// There are credentials, but no way to use them.
    NoMechanism(PickError),
    /// The exchange broke down on our side.
    Exchange(AuthError),
    /// The server refuses the login; what it told the mechanism as the reason, as it is.
    LoginRefused(Reply, Option<String>),
    /// 421: the server closes.
    Closing(Reply),
    /// An answer that does not fit the command.
    Unexpected(&'static str, Reply),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Greeting,
    SendEhlo,
    Ehlo,
    SendHelo,
    Helo,
    SendStartTls,
    StartTls,
    Secure,
    SendAuth,
    Auth,
    SendAnswer,
    SendCancel,
    Cancel,
    Finished,
}

/// The machine that opens a connection.
pub struct Opening {
    rules: OpeningRules,
    state: State,
    encrypted: bool,
    capabilities: Capabilities,
    exchange: Option<Box<dyn Exchange>>,
    /// An initial response that goes out only when the server asks for it.
    pending: Option<Response>,
    fault: Option<OpeningFault>,
    mechanism: Option<&'static str>,
}

/// The longest initial response that goes out with the AUTH command: the line is then within the 512 octets of RFC 5321 4.5.3.1.4
/// (RFC 4954 section 4 demands it).
const LONGEST_INITIAL: usize = 360;

impl Opening {
    /// Starts with a connection on which nothing was read yet.
    #[must_use]
    pub fn new(rules: OpeningRules) -> Self {
        let encrypted = rules.tls == TlsMode::Implicit;
        Self {
            rules,
            state: State::Greeting,
            encrypted,
            capabilities: Capabilities::default(),
            exchange: None,
            pending: None,
            fault: None,
            mechanism: None,
        }
    }

    /// What to do next; commands are appended to `out`.
    pub fn poll(&mut self, out: &mut Vec<u8>) -> Step {
        match self.state {
            State::Greeting => Step::Await(Phase::Greeting),
            State::SendEhlo => {
                Command::Ehlo(&self.rules.helo).write(out);
                self.send(State::Ehlo)
            }
            State::SendHelo => {
                Command::Helo(&self.rules.helo).write(out);
                self.send(State::Helo)
            }
            State::SendStartTls => {
                Command::StartTls.write(out);
                self.send(State::StartTls)
            }
            State::SendAuth => {
                let Some(exchange) = self.exchange.as_mut() else {
                    self.state = State::Finished; // not reached: the state is entered with an exchange
                    return Step::Done;
                };
                let initial = exchange.initial();
                let short = !exchange.waits_to_be_asked()
                    && initial.as_ref().is_some_and(|i| i.len() <= LONGEST_INITIAL);
                let (now, later) = if short { (initial, None) } else { (None, initial) };
                self.pending = later;
                Command::Auth(exchange.mechanism(), now.as_deref().map(Vec::as_slice)).write(out);
                self.send(State::Auth)
            }
            State::SendAnswer => {
                match self.pending.take() {
                    Some(answer) => Command::AuthAnswer(&answer).write(out),
                    None => Command::AuthCancel.write(out), // not reached: the state is entered with an answer
                }
                self.send(State::Auth)
            }
            State::SendCancel => {
                Command::AuthCancel.write(out);
                self.send(State::Cancel)
            }
            State::Secure => Step::Secure,
            State::Finished => Step::Done,
            State::Ehlo | State::Helo | State::StartTls | State::Auth | State::Cancel => {
                Step::Await(Phase::Command)
            }
        }
    }

    fn send(&mut self, next: State) -> Step {
        self.state = next;
        Step::Send(Phase::Command)
    }

    /// Takes a reply.
    pub fn on_reply(&mut self, reply: Reply) {
        if reply.closes() {
            return self.fail(OpeningFault::Closing(reply));
        }
        match self.state {
            State::Greeting => match (reply.code(), reply.class()) {
                (220, _) => self.go(State::SendEhlo),
                (_, Class::Transient | Class::Permanent) => self.fail(OpeningFault::GreetingRefused(reply)),
                _ => self.fail(OpeningFault::Unexpected("the connection", reply)),
            },
            State::Ehlo => match reply.class() {
                Class::Completed if reply.is_mail_action_done() => {
                    self.capabilities = Capabilities::from_ehlo(&reply);
                    self.after_hello()
                }
                // "command not known", "not implemented", "no": an old server wants HELO (RFC 5321 3.2)
                Class::Permanent => self.go(State::SendHelo),
                Class::Transient => self.fail(OpeningFault::HelloRefused(reply)),
                _ => self.fail(OpeningFault::Unexpected("EHLO", reply)),
            },
            State::Helo => match reply.class() {
                Class::Completed if reply.is_mail_action_done() => {
                    self.capabilities = Capabilities::default();
                    self.after_hello()
                }
                Class::Transient | Class::Permanent => self.fail(OpeningFault::HelloRefused(reply)),
                _ => self.fail(OpeningFault::Unexpected("HELO", reply)),
            },
            State::StartTls => match (reply.code(), reply.class()) {
                (220, _) => self.go(State::Secure),
                (_, Class::Transient | Class::Permanent) => self.fail(OpeningFault::TlsRefused(reply)),
                _ => self.fail(OpeningFault::Unexpected("STARTTLS", reply)),
            },
            State::Auth => self.on_auth_reply(reply),
            State::Cancel => self.go(State::Finished), // the fault is known since before
            _ => self.fail(OpeningFault::Unexpected("nothing that was asked", reply)),
        }
    }

    /// TLS is established, with this channel binding: everything learned before is forgotten (RFC 3207 4.2).
    pub fn secured(&mut self, server_end_point: Option<Vec<u8>>) {
        self.encrypted = true;
        self.rules.server_end_point = server_end_point;
        self.capabilities = Capabilities::default();
        self.state = State::SendEhlo;
    }

    /// Whether somebody has begun to log in. Up to then everything that fails is a matter of the server.
    #[must_use]
    pub fn is_logging_in(&self) -> bool {
        self.exchange.is_some()
    }

    /// What the server offers, and the mechanism that was used to log in.
    ///
    /// # Errors
    /// The fault that ended the opening.
    pub fn finish(self) -> Result<(Capabilities, Option<&'static str>), OpeningFault> {
        match self.fault {
            Some(fault) => Err(fault),
            None => Ok((self.capabilities, self.mechanism)),
        }
    }

    fn go(&mut self, state: State) {
        self.state = state;
    }

    fn fail(&mut self, fault: OpeningFault) {
        self.fault = Some(fault);
        self.state = State::Finished;
    }

    fn after_hello(&mut self) {
        if !self.encrypted {
            match (self.rules.tls, self.capabilities.starttls) {
                (TlsMode::StartTls, false) => return self.fail(OpeningFault::TlsNotOffered),
                (TlsMode::StartTls | TlsMode::StartTlsIfOffered, true) => {
                    return self.go(State::SendStartTls);
                }
                _ => {}
            }
        }
        let Some(credentials) = &self.rules.credentials else { return self.go(State::Finished) };
        let channel = Channel {
            encrypted: self.encrypted,
            cleartext_allowed: self.rules.cleartext_allowed,
            service: "smtp",
            host: self.rules.host.clone(),
            port: self.rules.port,
            server_end_point: self.rules.server_end_point.clone(),
        };
        let wanted = &self.rules.mechanisms;
        let named = |name: &String| {
            let name = name.clone();
            STRONGEST_FIRST.iter().copied().filter(move |m| m.name().eq_ignore_ascii_case(&name))
        };
        let mechanisms: Vec<_> = match wanted.is_empty() {
            true => STRONGEST_FIRST.to_vec(),
            false => wanted.iter().flat_map(named).collect(),
        };
        let offered = self.capabilities.auth.iter().map(String::as_str);
        match pick(offered, &mechanisms, credentials, &channel) {
            Ok(exchange) => {
                self.mechanism = Some(exchange.mechanism());
                self.exchange = Some(exchange);
                self.go(State::SendAuth)
            }
            Err(why) => self.fail(OpeningFault::NoMechanism(why)),
        }
    }

    fn on_auth_reply(&mut self, reply: Reply) {
        match (reply.code(), reply.class()) {
            (_, Class::Completed) if reply.code() / 10 == 23 => {
                match self.exchange.as_mut().map(|e| e.finish(None)) {
                    Some(Err(why)) => self.fail(OpeningFault::Exchange(why)),
                    _ => self.go(State::Finished),
                }
            }
            (334, _) => {
                if self.pending.is_some() {
                    return self.go(State::SendAnswer);
                }
                let text = reply.lines().first().map_or("", String::as_str);
                let Some(challenge) = decode_challenge(text) else {
                    self.fault = Some(OpeningFault::Unexpected("AUTH", reply));
                    return self.go(State::SendCancel);
                };
                match self.exchange.as_mut().map(|e| e.step(&challenge)) {
                    Some(Ok(answer)) => {
                        self.pending = Some(answer);
                        self.go(State::SendAnswer)
                    }
                    Some(Err(why)) => {
                        self.fault = Some(OpeningFault::Exchange(why));
                        self.go(State::SendCancel);
                    }
                    None => self.fail(OpeningFault::Unexpected("AUTH", reply)),
                }
            }
            (_, Class::Transient | Class::Permanent) => {
                let told = self.exchange.as_ref().and_then(|e| e.refusal()).map(str::to_owned);
                self.fail(OpeningFault::LoginRefused(reply, told))
            }
            _ => self.fail(OpeningFault::Unexpected("AUTH", reply)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ReplyReader;
    use super::*;

    /// Plays a transcript: `S:` lines are given to the machine, `C:` lines must be what it says, `T:` must be where it asks for TLS.
    fn play(
        rules: OpeningRules,
        transcript: &str,
    ) -> Result<(Capabilities, Option<&'static str>), OpeningFault> {
        let mut machine = Opening::new(rules);
        let mut reader = ReplyReader::default();
        let mut said = Vec::new();
        let mut lines = transcript.lines().map(str::trim).filter(|l| !l.is_empty()).peekable();
        loop {
            match machine.poll(&mut said) {
                Step::Send(_) => {}
                Step::Await(_) => {
                    while !said.is_empty() {
                        let expected =
                            lines.next().and_then(|l| l.strip_prefix("C:")).unwrap_or("<nothing>").trim();
                        let at = said.iter().position(|&b| b == b'\n').unwrap() + 1;
                        let line = String::from_utf8(said.drain(..at).collect()).unwrap();
                        assert_eq!(line.trim_end(), expected);
                    }
                    loop {
                        if let Some(reply) = reader.next_reply().unwrap() {
                            machine.on_reply(reply);
                            break;
                        }
                        let line = lines
                            .next()
                            .and_then(|l| l.strip_prefix("S: "))
                            .expect("the server has to speak");
                        reader.push(format!("{line}\r\n").as_bytes());
                    }
                }
                Step::Secure => {
                    assert_eq!(lines.next(), Some("T:"));
                    machine.secured(None);
                }
                Step::Done => {
                    assert_eq!(lines.next(), None);
                    return machine.finish();
                }
            }
        }
    }

    fn rules(tls: TlsMode, login: bool) -> OpeningRules {
        OpeningRules {
            helo: HeloName::parse("me").unwrap(),
            tls,
            host: "mail.example.com".into(),
            port: 587,
            server_end_point: None,
            credentials: login.then(|| Credentials::new("tim", "tanstaaftanstaaf".into())),
            mechanisms: Vec::new(),
            cleartext_allowed: false,
        }
    }

    #[test]
    fn good_transcripts() {
        let cleartext = OpeningRules { cleartext_allowed: true, ..rules(TlsMode::None, true) };
        for (name, rules, transcript, mechanism) in [
            ("anonymous", rules(TlsMode::None, false), "S: 220 hi\nC: EHLO me\nS: 250 a", None),
            ("long greeting", rules(TlsMode::None, false), "S: 220-hi\nS: 220 there\nC: EHLO me\nS: 250 a", None),
            (
                "HELO only",
                rules(TlsMode::StartTlsIfOffered, false),
                "S: 220 hi\nC: EHLO me\nS: 502 what\nC: HELO me\nS: 250 a",
                None,
            ),
            (
                "STARTTLS, EHLO again, other mechanisms inside TLS",
                rules(TlsMode::StartTls, true),
                "S: 220 hi\nC: EHLO me\nS: 250-a\nS: 250-AUTH CRAM-MD5\nS: 250 starttls\nC: STARTTLS\nS: 220 go\nT:
                 C: EHLO me\nS: 250-a\nS: 250 AUTH PLAIN\nC: AUTH PLAIN AHRpbQB0YW5zdGFhZnRhbnN0YWFm\nS: 235 2.7.0 ok",
                Some("PLAIN"),
            ),
            (
                "if offered, and it is",
                rules(TlsMode::StartTlsIfOffered, false),
                "S: 220 hi\nC: EHLO me\nS: 250-a\nS: 250 STARTTLS\nC: STARTTLS\nS: 220 go\nT:\nC: EHLO me\nS: 250-a\nS: 250 STARTTLS",
                None,
            ),
            (
                "CRAM-MD5 needs no TLS (RFC 2195 section 2)",
                rules(TlsMode::None, true),
                "S: 220 hi\nC: EHLO me\nS: 250-a\nS: 250 AUTH LOGIN CRAM-MD5\nC: AUTH CRAM-MD5
                 S: 334 PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UucmVzdG9uLm1jaS5uZXQ+
                 C: dGltIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw\nS: 235 ok",
                Some("CRAM-MD5"),
            ),
            (
                "LOGIN, implicit TLS, odd prompts",
                rules(TlsMode::Implicit, true),
                "S: 220 hi\nC: EHLO me\nS: 250-a\nS: 250 AUTH=LOGIN\nC: AUTH LOGIN\nS: 334 VXNlciBOYW1lAA==\nC: dGlt
                 S: 334\nC: dGFuc3RhYWZ0YW5zdGFhZg==\nS: 235 ok",
                Some("LOGIN"),
            ),
            (
                "password in clear where it is allowed",
                cleartext,
                "S: 220 hi\nC: EHLO me\nS: 250-a\nS: 250 AUTH PLAIN\nC: AUTH PLAIN AHRpbQB0YW5zdGFhZnRhbnN0YWFm\nS: 235 ok",
                Some("PLAIN"),
            ),
        ] {
            let got = play(rules, transcript);
            assert_eq!(got.map(|(_, m)| m).map_err(|e| format!("{e:?}")), Ok(mechanism), "{name}");
        }
    }

    /// A long initial response does not go out with the command (RFC 4954 section 4).
    #[test]
    fn long_initial_response() {
        let mut rules = rules(TlsMode::Implicit, false);
        rules.credentials = Some(Credentials::new("tim", "p".repeat(400).into()));
        let mut expected = Vec::new();
        Command::AuthAnswer(format!("\0tim\0{}", "p".repeat(400)).as_bytes()).write(&mut expected);
        let transcript = format!(
            "S: 220 hi\nC: EHLO me\nS: 250-a\nS: 250 AUTH PLAIN\nC: AUTH PLAIN\nS: 334\nC: {}\nS: 235 ok",
            String::from_utf8(expected).unwrap().trim_end()
        );
        assert!(play(rules, &transcript).is_ok());
    }

    #[test]
    fn bad_transcripts() {
        use OpeningFault as F;
        type Check = fn(&F) -> bool;
        let table: &[(&str, OpeningRules, &str, Check)] = &[
            ("554 greeting", rules(TlsMode::None, false), "S: 554 no", |f| matches!(f, F::GreetingRefused(_))),
            ("421 greeting", rules(TlsMode::None, false), "S: 421 busy", |f| matches!(f, F::Closing(_))),
            ("a greeting of another protocol's code", rules(TlsMode::None, false), "S: 250 ok", |f| matches!(f, F::Unexpected(..))),
            ("no EHLO, no HELO", rules(TlsMode::None, false), "S: 220 hi\nC: EHLO me\nS: 500 x\nC: HELO me\nS: 504 x", |f| {
                matches!(f, F::HelloRefused(_))
            }),
            ("EHLO later", rules(TlsMode::None, false), "S: 220 hi\nC: EHLO me\nS: 451 x", |f| matches!(f, F::HelloRefused(_))),
            ("STARTTLS not offered", rules(TlsMode::StartTls, true), "S: 220 hi\nC: EHLO me\nS: 250-a\nS: 250 AUTH PLAIN", |f| {
                matches!(f, F::TlsNotOffered)
            }),
            ("HELO hides STARTTLS", rules(TlsMode::StartTls, false), "S: 220 hi\nC: EHLO me\nS: 500 x\nC: HELO me\nS: 250 a", |f| {
                matches!(f, F::TlsNotOffered)
            }),
            (
                "STARTTLS refused",
                rules(TlsMode::StartTlsIfOffered, false),
                "S: 220 hi\nC: EHLO me\nS: 250-a\nS: 250 STARTTLS\nC: STARTTLS\nS: 454 x",
                |f| matches!(f, F::TlsRefused(_)),
            ),
            ("no password in clear", rules(TlsMode::None, true), "S: 220 hi\nC: EHLO me\nS: 250-a\nS: 250 AUTH PLAIN LOGIN", |f| {
                matches!(f, F::NoMechanism(PickError::CleartextRefused { .. }))
            }),
            ("no password in clear where TLS is not offered", rules(TlsMode::StartTlsIfOffered, true), "S: 220 hi\nC: EHLO me\nS: 250-a\nS: 250 AUTH PLAIN LOGIN", |f| {
                matches!(f, F::NoMechanism(PickError::CleartextRefused { .. }))
            }),
            ("no AUTH", rules(TlsMode::Implicit, true), "S: 220 hi\nC: EHLO me\nS: 250 a", |f| {
                matches!(f, F::NoMechanism(PickError::NothingInCommon { .. }))
            }),
            (
                "wrong password",
                rules(TlsMode::Implicit, true),
                "S: 220 hi\nC: EHLO me\nS: 250-a\nS: 250 AUTH PLAIN\nC: AUTH PLAIN AHRpbQB0YW5zdGFhZnRhbnN0YWFm\nS: 535 5.7.8 no",
                |f| matches!(f, F::LoginRefused(r, None) if r.code() == 535),
            ),
            (
                "250 is no login",
                rules(TlsMode::Implicit, true),
                "S: 220 hi\nC: EHLO me\nS: 250-a\nS: 250 AUTH PLAIN\nC: AUTH PLAIN AHRpbQB0YW5zdGFhZnRhbnN0YWFm\nS: 250 ok",
                |f| matches!(f, F::Unexpected("AUTH", _)),
            ),
            (
                "a challenge that is no base64 is cancelled",
                rules(TlsMode::Implicit, true),
                "S: 220 hi\nC: EHLO me\nS: 250-a\nS: 250 AUTH CRAM-MD5\nC: AUTH CRAM-MD5\nS: 334 ***\nC: *\nS: 501 x",
                |f| matches!(f, F::Unexpected("AUTH", _)),
            ),
            (
                "endless challenges",
                rules(TlsMode::Implicit, true),
                "S: 220 hi\nC: EHLO me\nS: 250-a\nS: 250 AUTH LOGIN\nC: AUTH LOGIN\nS: 334\nC: dGlt\nS: 334\nC: dGFuc3RhYWZ0YW5zdGFhZg==
                 S: 334\nC: *\nS: 501 x",
                |f| matches!(f, F::Exchange(_)),
            ),
        ];
        for (name, rules, transcript, check) in table {
            let fault = play(rules.clone(), transcript).expect_err(name);
            assert!(check(&fault), "{name}: {fault:?}");
            assert!(!format!("{fault:?}").contains("tanstaaf"), "{name}");
        }
    }
}
