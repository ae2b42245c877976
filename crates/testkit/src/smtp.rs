//! A small well-behaved SMTP server that records what it takes, after RFC 5321, 2920, 3030, 3207 and 4954.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::{Io, StopOnDrop};

/// The CRAM-MD5 challenge.
const CHALLENGE: &str = "<1896.697170952@mail.example.com>";

/// What the server offers and refuses. The default offers everything but TLS and logins, and refuses nothing.
#[derive(Clone)]
pub struct SmtpOptions {
    /// Knows EHLO; without it only HELO.
    pub ehlo: bool,
    /// Offers PIPELINING; without it commands that come together are noted as a violation.
    pub pipelining: bool,
    /// Offers CHUNKING.
    pub chunking: bool,
    /// Offers 8BITMIME.
    pub eight_bit_mime: bool,
    /// Offers SMTPUTF8.
    pub smtputf8: bool,
    /// Offers DSN.
    pub dsn: bool,
    /// Offers SIZE with this limit; `Some(0)` is no limit.
    pub size: Option<u64>,
    /// The SASL mechanisms offered, of PLAIN, LOGIN and CRAM-MD5; with any, mail is taken only after a login.
    pub sasl: Vec<&'static str>,
    /// Names and passwords.
    pub users: Vec<(&'static str, &'static str)>,
    /// Offers STARTTLS and does it with this.
    pub starttls: Option<TlsAcceptor>,
    /// Speaks TLS from the first byte.
    pub implicit_tls: Option<TlsAcceptor>,
    /// Reverse-paths that begin with this get this reply.
    pub refuse_senders: Vec<(&'static str, &'static str)>,
    /// Recipients that begin with this get this reply.
    pub refuse_recipients: Vec<(&'static str, &'static str)>,
    /// A message that contains this gets this reply.
    pub refuse_content: Vec<(&'static str, &'static str)>,
    /// Closes the connection after so many messages, without a word.
    pub close_after: Option<usize>,
    /// Time between the arrival of bytes and the moment the server sees them: a round trip.
    pub latency: Duration,
}

impl Default for SmtpOptions {
    fn default() -> Self {
        Self {
            ehlo: true,
            pipelining: true,
            chunking: true,
            eight_bit_mime: true,
            smtputf8: true,
            dsn: true,
            size: Some(0),
            sasl: Vec::new(),
            users: Vec::new(),
            starttls: None,
            implicit_tls: None,
            refuse_senders: Vec::new(),
            refuse_recipients: Vec::new(),
            refuse_content: Vec::new(),
            close_after: None,
            latency: Duration::ZERO,
        }
    }
}

/// A message the server took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// What stood between the angle brackets of MAIL.
    pub sender: String,
    /// What stood behind them.
    pub parameters: String,
    /// What stood between the angle brackets of each accepted RCPT, and behind them.
    pub recipients: Vec<(String, String)>,
    /// The message, unstuffed.
    pub data: Vec<u8>,
    /// It came by BDAT.
    pub chunked: bool,
    /// Who had logged in.
    pub user: Option<String>,
    /// It came inside TLS.
    pub encrypted: bool,
    /// On which connection, counted from 1.
    pub session: usize,
}

#[derive(Default)]
struct State {
    taken: Vec<Taken>,
    commands: Vec<String>,
    violations: Vec<String>,
    sessions: usize,
    open: usize,
    most_open: usize,
}

/// A listening server.
pub struct SmtpServer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    _task: StopOnDrop,
}

impl std::fmt::Debug for SmtpServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SmtpServer({})", self.address)
    }
}

impl SmtpServer {
    /// Starts a server.
    ///
    /// # Panics
    /// When there is no free port; that fails the test.
    pub async fn start(options: SmtpOptions) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let options = Arc::new(options);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let (options, state) = (Arc::clone(&options), Arc::clone(&shared));
                let session = {
                    let mut state = lock(&state);
                    state.sessions += 1;
                    state.open += 1;
                    state.most_open = state.most_open.max(state.open);
                    state.sessions
                };
                tokio::spawn(async move {
                    let (io, encrypted): (Option<Box<dyn Io>>, bool) = match &options.implicit_tls {
                        None => (Some(Box::new(stream)), false),
                        Some(acceptor) => match acceptor.accept(stream).await {
                            Ok(tls) => (Some(Box::new(tls)), true),
                            Err(_) => (None, true),
                        },
                    };
                    if let Some(io) = io {
                        Session::new(io, encrypted, &options, &state, session).run().await;
                    }
                    lock(&state).open -= 1;
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

    /// The messages taken so far, in order.
    #[must_use]
    pub fn taken(&self) -> Vec<Taken> {
        lock(&self.state).taken.clone()
    }

    /// The command lines heard so far, over all connections.
    #[must_use]
    pub fn commands(&self) -> Vec<String> {
        lock(&self.state).commands.clone()
    }

    /// What clients did that they must not.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        lock(&self.state).violations.clone()
    }

    /// How many connections came, and how many were open at once at the most.
    #[must_use]
    pub fn connections(&self) -> (usize, usize) {
        let state = lock(&self.state);
        (state.sessions, state.most_open)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

struct Session<'a> {
    io: Option<Box<dyn Io>>,
    encrypted: bool,
    options: &'a SmtpOptions,
    state: &'a Mutex<State>,
    session: usize,
    input: Vec<u8>,
    /// How much of the input is consumed.
    at: usize,
    /// Replies that wait until everything heard is worked through, as RFC 2920 3.2 asks of servers.
    output: Vec<u8>,
    user: Option<String>,
    messages: usize,
    sender: Option<(String, String)>,
    recipients: Vec<(String, String)>,
    chunks: Vec<u8>,
}

impl<'a> Session<'a> {
    fn new(
        io: Box<dyn Io>,
        encrypted: bool,
        options: &'a SmtpOptions,
        state: &'a Mutex<State>,
        session: usize,
    ) -> Self {
        Self {
            io: Some(io),
            encrypted,
            options,
            state,
            session,
            input: Vec::new(),
            at: 0,
            output: Vec::new(),
            user: None,
            messages: 0,
            sender: None,
            recipients: Vec::new(),
            chunks: Vec::new(),
        }
    }

    async fn run(mut self) {
        self.say("220 mail.example.com ready");
        // `None` ends the session
        while self.command().await.is_some() {}
        let _ = self.flush().await;
        if let Some(mut io) = self.io.take() {
            let _ = io.shutdown().await;
        }
    }

    async fn command(&mut self) -> Option<()> {
        let line = self.line().await?;
        lock(self.state).commands.push(line.clone());
        let (verb, argument) = line.split_once(' ').unwrap_or((&line, ""));
        let verb = verb.to_ascii_uppercase();
        let group_end = matches!(verb.as_str(), "EHLO" | "HELO" | "STARTTLS" | "DATA" | "QUIT" | "AUTH");
        if self.at < self.input.len() && (group_end || (!self.options.pipelining && verb != "BDAT")) {
            self.violation(format!("more bytes behind {line:?} before it was answered"));
        }
        match verb.as_str() {
            "EHLO" if self.options.ehlo => self.ehlo(),
            "HELO" => self.say("250 mail.example.com"),
            "STARTTLS" if self.options.starttls.is_some() && !self.encrypted => self.starttls().await?,
            "AUTH" => self.auth(argument).await?,
            "MAIL" => self.mail(argument),
            "RCPT" => self.rcpt(argument),
            "DATA" if self.recipients.is_empty() => self.say("554 5.5.1 no valid recipients"),
            "DATA" => {
                self.say("354 go ahead");
                let data = self.data().await?;
                self.message(data, false)?;
            }
            "BDAT" if self.options.chunking => self.bdat(argument).await?,
            "RSET" => {
                self.forget();
                self.say("250 2.0.0 forgotten");
            }
            "NOOP" => self.say("250 2.0.0 ok"),
            "QUIT" => {
                self.say("221 2.0.0 bye");
                return None;
            }
            _ => self.say("500 5.5.2 what?"),
        }
        Some(())
    }

    fn ehlo(&mut self) {
        let o = self.options;
        let mut lines = vec!["mail.example.com".to_owned()];
        let mut offer = |on: bool, text: String| {
            if on {
                lines.push(text);
            }
        };
        offer(o.pipelining, "PIPELINING".into());
        offer(o.chunking, "CHUNKING".into());
        offer(o.eight_bit_mime, "8BITMIME".into());
        offer(o.smtputf8, "SMTPUTF8".into());
        offer(o.dsn, "DSN".into());
        offer(o.size.is_some(), format!("SIZE {}", o.size.unwrap_or(0)));
        offer(!o.sasl.is_empty(), format!("AUTH {}", o.sasl.join(" ")));
        offer(o.starttls.is_some() && !self.encrypted, "STARTTLS".into());
        offer(true, "ENHANCEDSTATUSCODES".into());
        let last = lines.len() - 1;
        for (n, line) in lines.iter().enumerate() {
            self.say(&format!("250{}{line}", if n == last { ' ' } else { '-' }));
        }
        self.forget();
    }

    async fn starttls(&mut self) -> Option<()> {
        self.say("220 2.0.0 go");
        self.flush().await?;
        let acceptor = self.options.starttls.clone()?;
        let io = self.io.take()?;
        self.io = Some(Box::new(acceptor.accept(io).await.ok()?));
        self.encrypted = true;
        self.forget();
        Some(())
    }

    async fn auth(&mut self, argument: &str) -> Option<()> {
        let (mechanism, initial) = argument.split_once(' ').unwrap_or((argument, ""));
        let mechanism = mechanism.to_ascii_uppercase();
        if !self.options.sasl.contains(&mechanism.as_str()) {
            self.say("504 5.5.4 no such mechanism");
            return Some(());
        }
        let given = match mechanism.as_str() {
            "PLAIN" => {
                let text = if initial.is_empty() { self.ask("").await? } else { decode(initial) };
                let mut parts = text.split('\0').skip(1).map(str::to_owned);
                let user = parts.next().unwrap_or_default();
                (user, parts.next().unwrap_or_default())
            }
            "LOGIN" => (self.ask("Username:").await?, self.ask("Password:").await?),
            _ => {
                let answer = self.ask(CHALLENGE).await?;
                let user = answer.rsplit_once(' ').map(|(user, _)| user.to_owned()).unwrap_or_default();
                let known = self.options.users.iter().find(|(name, _)| *name == user);
                let expected = known.map(|(name, password)| format!("{name} {}", cram(password)));
                let password = known.filter(|_| expected.as_deref() == Some(&answer));
                (user, password.map(|(_, p)| (*p).to_owned()).unwrap_or_default())
            }
        };
        if self
            .options
            .users
            .iter()
            .any(|(name, password)| (*name, *password) == (given.0.as_str(), given.1.as_str()))
        {
            self.user = Some(given.0);
            self.say("235 2.7.0 welcome");
        } else {
            self.say("535 5.7.8 wrong user name or password");
        }
        Some(())
    }

    async fn ask(&mut self, prompt: &str) -> Option<String> {
        self.say(&format!("334 {}", BASE64_STANDARD.encode(prompt)));
        let line = self.line().await?;
        Some(decode(&line))
    }

    fn mail(&mut self, argument: &str) {
        if self.sender.is_some() {
            self.violation("MAIL inside a transaction".to_owned());
            return self.say("503 5.5.1 nested MAIL");
        }
        if !self.options.sasl.is_empty() && self.user.is_none() {
            return self.say("530 5.7.0 authentication required");
        }
        let Some((path, parameters)) = path(argument, "FROM:") else { return self.say("501 5.5.4 syntax") };
        match self.options.refuse_senders.iter().find(|(begin, _)| path.starts_with(begin)) {
            Some((_, reply)) => self.say(reply),
            None => {
                self.sender = Some((path, parameters));
                self.say("250 2.1.0 sender ok");
            }
        }
    }

    fn rcpt(&mut self, argument: &str) {
        if self.sender.is_none() {
            return self.say("503 5.5.1 MAIL first");
        }
        let Some((path, parameters)) = path(argument, "TO:") else { return self.say("501 5.5.4 syntax") };
        match self.options.refuse_recipients.iter().find(|(begin, _)| path.starts_with(begin)) {
            Some((_, reply)) => self.say(reply),
            None => {
                self.say(&format!("250 2.1.5 recipient {path} ok"));
                self.recipients.push((path, parameters));
            }
        }
    }

    async fn data(&mut self) -> Option<Vec<u8>> {
        let mut data = Vec::new();
        loop {
            let line = self.raw_line().await?;
            if line == b".\r\n" {
                return Some(data);
            }
            let text = line.strip_suffix(b"\r\n").unwrap_or(&line);
            if text.len() == line.len() || text.contains(&b'\r') {
                self.violation("a bare CR or LF in the data".to_owned());
            }
            data.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        }
    }

    async fn bdat(&mut self, argument: &str) -> Option<()> {
        let (count, last) = argument.split_once(' ').unwrap_or((argument, ""));
        let count: usize = count.parse().ok()?;
        while self.input.len() - self.at < count {
            self.read().await?;
        }
        let chunk = self.take(count);
        if self.recipients.is_empty() {
            self.say("554 5.5.1 no valid recipients");
            return Some(());
        }
        self.chunks.extend_from_slice(&chunk);
        if last.eq_ignore_ascii_case("LAST") {
            let data = std::mem::take(&mut self.chunks);
            return self.message(data, true);
        }
        self.say("250 2.0.0 chunk ok");
        Some(())
    }

    fn message(&mut self, data: Vec<u8>, chunked: bool) -> Option<()> {
        let text = String::from_utf8_lossy(&data);
        let refusal = self.options.refuse_content.iter().find(|(words, _)| text.contains(words));
        self.messages += 1;
        match refusal {
            Some((_, reply)) => {
                self.forget();
                self.say(reply);
            }
            None => {
                let subject = text.lines().find_map(|l| l.strip_prefix("Subject: ")).unwrap_or("").to_owned();
                let (sender, parameters) = self.sender.take().unwrap_or_default();
                let recipients = std::mem::take(&mut self.recipients);
                let (user, encrypted, session) = (self.user.clone(), self.encrypted, self.session);
                let taken = Taken { sender, parameters, recipients, data, chunked, user, encrypted, session };
                let mut state = lock(self.state);
                state.taken.push(taken);
                let number = state.taken.len();
                drop(state);
                // the answer names the message, so that a test sees whether it belongs to what was sent
                self.say(&format!("250 2.0.0 taken as {number} with subject {subject}"));
            }
        }
        (self.options.close_after != Some(self.messages)).then_some(())
    }

    fn forget(&mut self) {
        self.sender = None;
        self.recipients.clear();
        self.chunks.clear();
    }

    fn violation(&self, what: String) {
        lock(self.state).violations.push(what);
    }

    fn say(&mut self, line: &str) {
        self.output.extend_from_slice(line.as_bytes());
        self.output.extend_from_slice(b"\r\n");
    }

    async fn flush(&mut self) -> Option<()> {
        let io = self.io.as_mut()?;
        io.write_all(&self.output).await.ok()?;
        io.flush().await.ok()?;
        self.output.clear();
        Some(())
    }

    async fn line(&mut self) -> Option<String> {
        let line = self.raw_line().await?;
        Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned())
    }

    async fn raw_line(&mut self) -> Option<Vec<u8>> {
        let mut searched = 0;
        loop {
            let rest = &self.input[self.at..];
            if let Some(end) = rest[searched..].iter().position(|&b| b == b'\n') {
                return Some(self.take(searched + end + 1));
            }
            searched = rest.len();
            self.read().await?;
        }
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let taken = self.input[self.at..self.at + count].to_vec();
        self.at += count;
        taken
    }

    async fn read(&mut self) -> Option<()> {
        self.flush().await?;
        self.input.drain(..std::mem::take(&mut self.at));
        let mut chunk = vec![0; 64 * 1024];
        let count = self.io.as_mut()?.read(&mut chunk).await.ok().filter(|&n| n > 0)?;
        if !self.options.latency.is_zero() {
            tokio::time::sleep(self.options.latency).await;
        }
        self.input.extend_from_slice(&chunk[..count]);
        Some(())
    }
}

/// `FROM:<path> parameters`.
fn path(argument: &str, keyword: &str) -> Option<(String, String)> {
    let rest = argument.get(keyword.len()..)?.strip_prefix('<')?;
    let matches = argument[..keyword.len()].eq_ignore_ascii_case(keyword);
    let (path, parameters) = rest.rsplit_once('>')?;
    matches.then(|| (path.to_owned(), parameters.trim().to_owned()))
}

fn decode(text: &str) -> String {
    String::from_utf8(BASE64_STANDARD.decode(text).unwrap_or_default()).unwrap_or_default()
}

fn cram(password: &str) -> String {
    let mut mac = <Hmac<Md5> as KeyInit>::new_from_slice(password.as_bytes()).expect("a key of any length");
    mac.update(CHALLENGE.as_bytes());
    mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect()
}
