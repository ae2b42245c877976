//! A small well-behaved POP3 server with maildrops in memory, after RFC 1939, 2449, 2595, 3206 and 5034.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use crate::{Io, StopOnDrop};

/// The timestamp of the greeting and the CRAM-MD5 challenge.
const TIMESTAMP: &str = "<1896.697170952@mail.example.com>";

/// What the server can do. The default offers everything but TLS.
#[derive(Clone)]
pub struct Pop3Options {
    /// Answers CAPA.
    pub capa: bool,
    /// Answers UIDL.
    pub uidl: bool,
    /// Answers TOP.
    pub top: bool,
    /// Offers PIPELINING; without it commands that come together are noted as a violation.
    pub pipelining: bool,
    /// Sends a timestamp in the greeting and answers APOP.
    pub apop: bool,
    /// Offers USER and PASS.
    pub user_pass: bool,
    /// The SASL mechanisms offered, of PLAIN, LOGIN and CRAM-MD5.
    pub sasl: Vec<&'static str>,
    /// Offers STLS and does it with this.
    pub stls: Option<TlsAcceptor>,
    /// Speaks TLS from the first byte.
    pub implicit_tls: Option<TlsAcceptor>,
    /// Time between the arrival of a command and the moment the server sees it: a round trip.
    pub latency: Duration,
    /// Further lines of the answer to CAPA.
    pub extra_capabilities: Vec<String>,
    /// A session locks the maildrop, as RFC 1939 section 8 wants it; Dovecot by default does not.
    pub exclusive: bool,
    /// QUIT answers `-ERR` and removes nothing.
    pub quit_fails: bool,
}

impl Default for Pop3Options {
    fn default() -> Self {
        Self {
            capa: true,
            uidl: true,
            top: true,
            pipelining: true,
            apop: false,
            user_pass: true,
            sasl: vec!["PLAIN", "LOGIN"],
            stls: None,
            implicit_tls: None,
            latency: Duration::ZERO,
            extra_capabilities: Vec::new(),
            exclusive: true,
            quit_fails: false,
        }
    }
}

/// One message of a maildrop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// What UIDL tells; need not be unique.
    pub uid: String,
    /// The message as it is stored, not stuffed.
    pub bytes: Arc<Vec<u8>>,
    serial: u64,
}

#[derive(Default)]
struct State {
    passwords: BTreeMap<String, String>,
    maildrops: BTreeMap<String, Vec<Stored>>,
    locked: BTreeSet<String>,
    commands: Vec<String>,
    violations: Vec<String>,
    logins: usize,
    next_serial: u64,
    hung_up: usize,
}

/// A listening server.
pub struct Pop3Server {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    _task: StopOnDrop,
}

impl std::fmt::Debug for Pop3Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pop3Server({})", self.address)
    }
}

impl Pop3Server {
    /// Starts a server without users.
    ///
    /// # Panics
    /// When there is no free port; that fails the test.
    pub async fn start(options: Pop3Options) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let options = Arc::new(options);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let (options, state) = (Arc::clone(&options), Arc::clone(&shared));
                tokio::spawn(async move {
                    let io: Box<dyn Io> = match &options.implicit_tls {
                        None => Box::new(stream),
                        Some(acceptor) => match acceptor.accept(stream).await {
                            Ok(stream) => Box::new(stream),
                            Err(_) => return,
                        },
                    };
                    let encrypted = options.implicit_tls.is_some();
                    let mut session = Session {
                        options,
                        state,
                        encrypted,
                        named: None,
                        user: None,
                        listed: Vec::new(),
                        deleted: BTreeSet::new(),
                    };
                    session.run(io).await;
                    session.unlock();
                });
            }
        });
        Self { address, state, _task: StopOnDrop(task) }
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Adds a user with an empty maildrop.
    ///
    /// # Panics
    /// When a session panicked; that fails the test. So do the methods below.
    pub fn add_user(&self, name: &str, password: &str) {
        let mut state = self.state.lock().unwrap();
        state.passwords.insert(name.to_owned(), password.to_owned());
        state.maildrops.entry(name.to_owned()).or_default();
    }

    /// Appends a message to a user's maildrop.
    #[allow(clippy::missing_panics_doc)]
    pub fn put(&self, user: &str, uid: &str, bytes: impl Into<Vec<u8>>) {
        let mut state = self.state.lock().unwrap();
        state.next_serial += 1;
        let message =
            Stored { uid: uid.to_owned(), bytes: Arc::new(bytes.into()), serial: state.next_serial };
        state.maildrops.get_mut(user).expect("a known user").push(message);
    }

    /// Takes a message away behind the back of an open session.
    #[allow(clippy::missing_panics_doc)]
    pub fn take_away(&self, user: &str, uid: &str) {
        let mut state = self.state.lock().unwrap();
        state.maildrops.get_mut(user).expect("a known user").retain(|m| m.uid != uid);
    }

    /// Takes all messages away behind the back of an open session.
    #[allow(clippy::missing_panics_doc)]
    pub fn clear(&self, user: &str) {
        self.state.lock().unwrap().maildrops.get_mut(user).expect("a known user").clear();
    }

    /// Ends every open session at the next command it hears, without an answer.
    #[allow(clippy::missing_panics_doc)]
    pub fn hang_up(&self) {
        self.state.lock().unwrap().hung_up += 1;
    }

    /// What is in a user's maildrop.
    #[allow(clippy::missing_panics_doc)]
    #[must_use]
    pub fn messages(&self, user: &str) -> Vec<Stored> {
        self.state.lock().unwrap().maildrops[user].clone()
    }

    /// Every command heard, over all sessions; passwords included.
    #[allow(clippy::missing_panics_doc)]
    #[must_use]
    pub fn commands(&self) -> Vec<String> {
        self.state.lock().unwrap().commands.clone()
    }

    /// What clients did that the server's offer does not allow.
    #[allow(clippy::missing_panics_doc)]
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.state.lock().unwrap().violations.clone()
    }

    /// How many logins succeeded.
    #[allow(clippy::missing_panics_doc)]
    #[must_use]
    pub fn logins(&self) -> usize {
        self.state.lock().unwrap().logins
    }
}

struct Session {
    options: Arc<Pop3Options>,
    state: Arc<Mutex<State>>,
    encrypted: bool,
    named: Option<String>,
    user: Option<String>,
    listed: Vec<Stored>,
    deleted: BTreeSet<usize>,
}

enum Then {
    Continue,
    Login(&'static str),
    Tls,
    Close,
}

/// Bytes from the client, each piece seen only after the latency.
struct Input {
    pieces: mpsc::Receiver<(tokio::time::Instant, Vec<u8>)>,
    buffer: Vec<u8>,
    used: usize,
}

impl Input {
    fn new(
        mut io: ReadHalf<Box<dyn Io>>,
        latency: Duration,
    ) -> (Self, tokio::task::JoinHandle<ReadHalf<Box<dyn Io>>>) {
        let (sender, pieces) = mpsc::channel(1024);
        let task = tokio::spawn(async move {
            let mut chunk = vec![0; 16 * 1024];
            loop {
                tokio::select! {
                    () = sender.closed() => return io,
                    read = io.read(&mut chunk) => match read {
                        Ok(count) if count > 0 => {
                            let seen = tokio::time::Instant::now() + latency;
                            if sender.send((seen, chunk[..count].to_vec())).await.is_err() {
                                return io;
                            }
                        }
                        _ => return io,
                    },
                }
            }
        });
        (Self { pieces, buffer: Vec::new(), used: 0 }, task)
    }

    fn has_line(&self) -> bool {
        self.buffer[self.used..].contains(&b'\n')
    }

    async fn line(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = self.buffer[self.used..].iter().position(|&b| b == b'\n') {
                let line = self.buffer[self.used..=self.used + end].to_vec();
                self.used += end + 1;
                return Some(line.trim_ascii_end().to_vec());
            }
            self.buffer.drain(..self.used);
            self.used = 0;
            let (seen, piece) = self.pieces.recv().await?;
            tokio::time::sleep_until(seen).await;
            self.buffer.extend_from_slice(&piece);
        }
    }
}

impl Session {
    async fn run(&mut self, io: Box<dyn Io>) {
        let (reader, mut writer) = tokio::io::split(io);
        let (mut input, mut reading) = Input::new(reader, self.options.latency);
        let mut out = match self.options.apop {
            true => format!("+OK ready {TIMESTAMP}\r\n").into_bytes(),
            false => b"+OK ready\r\n".to_vec(),
        };
        let hung_up = self.state.lock().unwrap().hung_up;
        loop {
            if !input.has_line() || out.len() > 256 * 1024 {
                if writer.write_all(&out).await.is_err() || writer.flush().await.is_err() {
                    return;
                }
                out.clear();
            }
            let Some(line) = input.line().await else { return };
            let line = String::from_utf8_lossy(&line).into_owned();
            {
                let mut state = self.state.lock().unwrap();
                if state.hung_up != hung_up {
                    return;
                }
                state.commands.push(line.clone());
                if input.has_line() && !self.options.pipelining {
                    state.violations.push(format!("more commands together with {line:?}"));
                }
            }
            match self.command(&line, &mut out) {
                Then::Continue => {}
                Then::Login(mechanism) => {
                    let initial = line.split_whitespace().nth(2).map(str::to_owned);
                    if self.sasl(mechanism, initial, &mut input, &mut writer, &mut out).await.is_none() {
                        return;
                    }
                }
                Then::Close => {
                    let _ = writer.write_all(&out).await;
                    let _ = writer.shutdown().await;
                    return;
                }
                Then::Tls => {
                    if !input.buffer[input.used..].is_empty() {
                        self.state.lock().unwrap().violations.push("commands after STLS".to_owned());
                        return;
                    }
                    if writer.write_all(&out).await.is_err() {
                        return;
                    }
                    out.clear();
                    drop(input);
                    let Ok(reader) = reading.await else { return };
                    let Some(acceptor) = self.options.stls.clone() else { return };
                    let Ok(stream) = acceptor.accept(reader.unsplit(writer)).await else { return };
                    self.encrypted = true;
                    let (reader, new_writer) = tokio::io::split(Box::new(stream) as Box<dyn Io>);
                    writer = new_writer;
                    (input, reading) = Input::new(reader, self.options.latency);
                }
            }
        }
    }

    fn command(&mut self, line: &str, out: &mut Vec<u8>) -> Then {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let verb = verb.to_ascii_uppercase();
        match (verb.as_str(), self.user.is_some()) {
            ("CAPA", _) if self.options.capa => self.capabilities(out),
            ("QUIT", _) => {
                if self.options.quit_fails {
                    say(out, "-ERR some deleted messages not removed");
                } else {
                    self.commit();
                    say(out, "+OK bye");
                }
                return Then::Close;
            }
            ("STLS", false) if self.options.stls.is_some() && !self.encrypted => {
                say(out, "+OK begin TLS");
                return Then::Tls;
            }
            ("USER", false) if self.options.user_pass => {
                self.named = Some(rest.to_owned());
                say(out, "+OK send the password");
            }
            ("PASS", false) if self.options.user_pass => match self.named.take() {
                Some(name) => self.check(&name, out, |stored| stored == rest),
                None => say(out, "-ERR USER first"),
            },
            ("APOP", false) if self.options.apop => {
                let (name, digest) = rest.split_once(' ').unwrap_or((rest, ""));
                self.check(name, out, |stored| {
                    let mut md5 = Md5::new();
                    md5.update(TIMESTAMP);
                    md5.update(stored);
                    hex(&md5.finalize()) == digest
                });
            }
            ("AUTH", false) => {
                let wanted = rest.split(' ').next().unwrap_or_default();
                match self.options.sasl.iter().find(|m| m.eq_ignore_ascii_case(wanted)) {
                    Some(mechanism) => return Then::Login(mechanism),
                    None => say(out, "-ERR unknown mechanism"),
                }
            }
            (_, true) => self.transaction(&verb, rest, out),
            _ => say(out, "-ERR unknown command"),
        }
        Then::Continue
    }

    fn transaction(&mut self, verb: &str, rest: &str, out: &mut Vec<u8>) {
        let mut words = rest.split_whitespace();
        let number = words.next().map(|w| w.parse::<usize>().unwrap_or(0));
        let (uidl, top) = (self.options.uidl, self.options.top);
        let one = |session: &Self| {
            number
                .filter(|n| *n >= 1 && *n <= session.listed.len() && !session.deleted.contains(n))
                .map(|n| (n, session.listed[n - 1].clone()))
        };
        let left = |session: &Self| -> Vec<(usize, Stored)> {
            (1..=session.listed.len())
                .filter(|n| !session.deleted.contains(n))
                .map(|n| (n, session.listed[n - 1].clone()))
                .collect()
        };
        match verb {
            "NOOP" => say(out, "+OK"),
            "RSET" => {
                self.deleted.clear();
                say(out, "+OK");
            }
            "STAT" => {
                let all = left(self);
                let octets: usize = all.iter().map(|(_, m)| m.bytes.len()).sum();
                say(out, &format!("+OK {} {octets}", all.len()));
            }
            "LIST" | "UIDL" if verb == "LIST" || uidl => {
                let tell = |n: usize, m: &Stored| match verb {
                    "LIST" => format!("{n} {}", m.bytes.len()),
                    _ => format!("{n} {}", m.uid),
                };
                match (number, one(self)) {
                    (None, _) => {
                        say(out, "+OK");
                        for (n, message) in left(self) {
                            say(out, &tell(n, &message));
                        }
                        say(out, ".");
                    }
                    (Some(_), Some((n, message))) => say(out, &format!("+OK {}", tell(n, &message))),
                    (Some(_), None) => say(out, "-ERR no such message"),
                }
            }
            "RETR" | "TOP" if verb == "RETR" || top => {
                let present = one(self).filter(|(_, m)| self.still_there(m));
                let Some((_, message)) = present else { return say(out, "-ERR no such message") };
                let lines = match verb {
                    "TOP" => words.next().and_then(|w| w.parse::<usize>().ok()),
                    _ => Some(usize::MAX),
                };
                let Some(lines) = lines else { return say(out, "-ERR how many lines?") };
                say(out, &format!("+OK {} octets", message.bytes.len()));
                stuff(top_of(&message.bytes, lines), out);
            }
            "DELE" => match one(self) {
                Some((n, _)) => {
                    self.deleted.insert(n);
                    say(out, "+OK marked");
                }
                None => say(out, "-ERR no such message"),
            },
            _ => say(out, "-ERR unknown command"),
        }
    }

    fn capabilities(&self, out: &mut Vec<u8>) {
        let options = &self.options;
        say(out, "+OK");
        for (offered, name) in [
            (options.uidl, "UIDL"),
            (options.top, "TOP"),
            (options.pipelining, "PIPELINING"),
            (options.user_pass, "USER"),
            (options.stls.is_some() && !self.encrypted, "STLS"),
            (true, "RESP-CODES"),
            (true, "AUTH-RESP-CODE"),
        ] {
            if offered {
                say(out, name);
            }
        }
        if !options.sasl.is_empty() {
            say(out, &format!("SASL {}", options.sasl.join(" ")));
        }
        for line in &options.extra_capabilities {
            say(out, line);
        }
        say(out, ".");
    }

    async fn sasl(
        &mut self,
        mechanism: &str,
        initial: Option<String>,
        input: &mut Input,
        writer: &mut (impl tokio::io::AsyncWrite + Unpin),
        out: &mut Vec<u8>,
    ) -> Option<()> {
        let prompts: &[&str] = match mechanism {
            "LOGIN" => &["Username:", "Password:"],
            "CRAM-MD5" => &[TIMESTAMP],
            _ => &[""],
        };
        let mut answers = Vec::new();
        let mut initial = initial;
        for prompt in prompts {
            let answer = if let Some(given) = initial.take() {
                given.into_bytes()
            } else {
                say(out, &format!("+ {}", BASE64_STANDARD.encode(prompt)));
                writer.write_all(out).await.ok()?;
                writer.flush().await.ok()?;
                out.clear();
                input.line().await?
            };
            match BASE64_STANDARD.decode(&answer) {
                Ok(bytes) => answers.push(String::from_utf8_lossy(&bytes).into_owned()),
                Err(_) => {
                    say(out, "-ERR cancelled");
                    return Some(());
                }
            }
        }
        match mechanism {
            "LOGIN" => {
                let password = answers[1].clone();
                self.check(&answers[0].clone(), out, |stored| stored == password);
            }
            "CRAM-MD5" => {
                let (name, digest) = answers[0].rsplit_once(' ').unwrap_or(("", ""));
                self.check(name, out, |stored| {
                    let mut mac =
                        <Hmac<Md5> as KeyInit>::new_from_slice(stored.as_bytes()).expect("any key length");
                    mac.update(TIMESTAMP.as_bytes());
                    hex(&mac.finalize().into_bytes()) == digest
                });
            }
            _ => {
                let parts: Vec<&str> = answers[0].split('\0').collect();
                match parts.as_slice() {
                    [_, name, password] => self.check(name, out, |stored| stored == *password),
                    _ => say(out, "-ERR malformed"),
                }
            }
        }
        Some(())
    }

    fn check(&mut self, name: &str, out: &mut Vec<u8>, good: impl FnOnce(&str) -> bool) {
        let mut state = self.state.lock().unwrap();
        let right = state.passwords.get(name).is_some_and(|stored| good(stored));
        if !right {
            return say(out, "-ERR [AUTH] invalid user name or password");
        }
        if self.options.exclusive && !state.locked.insert(name.to_owned()) {
            return say(out, "-ERR [IN-USE] the maildrop is locked");
        }
        state.logins += 1;
        self.listed = state.maildrops[name].clone();
        self.user = Some(name.to_owned());
        say(out, "+OK logged in");
    }

    fn still_there(&self, message: &Stored) -> bool {
        let state = self.state.lock().unwrap();
        let Some(user) = &self.user else { return false };
        state.maildrops[user].iter().any(|m| m.serial == message.serial)
    }

    fn commit(&mut self) {
        let Some(user) = &self.user else { return };
        let gone: BTreeSet<u64> = self.deleted.iter().map(|n| self.listed[n - 1].serial).collect();
        let mut state = self.state.lock().unwrap();
        state.maildrops.get_mut(user).expect("a known user").retain(|m| !gone.contains(&m.serial));
        state.locked.remove(user);
        drop(state);
        self.user = None;
    }

    fn unlock(&mut self) {
        if let Some(user) = self.user.take() {
            self.state.lock().unwrap().locked.remove(&user);
        }
    }
}

fn say(out: &mut Vec<u8>, line: &str) {
    out.extend_from_slice(line.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The header section, the empty line and so many lines of the body.
fn top_of(message: &[u8], lines: usize) -> &[u8] {
    if lines == usize::MAX {
        return message;
    }
    let body = message.windows(4).position(|w| w == b"\r\n\r\n").map_or(message.len(), |at| at + 4);
    let mut end = body;
    for _ in 0..lines {
        match message[end..].iter().position(|&b| b == b'\n') {
            Some(at) => end += at + 1,
            None => return message,
        }
    }
    &message[..end]
}

/// Dot-stuffs (RFC 1939 section 3) and ends the answer.
pub fn stuff(message: &[u8], out: &mut Vec<u8>) {
    let mut rest = message;
    loop {
        if rest.first() == Some(&b'.') {
            out.push(b'.');
        }
        match rest.windows(2).position(|w| w == b"\r\n") {
            Some(at) => {
                out.extend_from_slice(&rest[..at + 2]);
                rest = &rest[at + 2..];
            }
            None => {
                out.extend_from_slice(rest);
                break;
            }
        }
        if rest.is_empty() {
            break;
        }
    }
    if !message.is_empty() && !message.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b".\r\n");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
