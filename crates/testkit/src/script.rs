//! A server that plays a script: it sends prepared bytes, waits for lines and notes them, and does what no server should.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::{Io, StopOnDrop};

/// One thing the server does.
#[derive(Clone)]
pub enum Step {
    /// Sends these bytes in one piece.
    Send(Vec<u8>),
    /// Waits for a line that begins with this text (letter case does not count); any other line ends the session with a noted
    /// mismatch.
    Expect(String),
    /// Does the TLS handshake as the server.
    StartTls(TlsAcceptor),
    /// Sends these bytes one at a time with this pause after each, over and over, until the client goes.
    Drip(Vec<u8>, Duration),
    /// Sends these bytes over and over as fast as the client reads, until the client goes or so many bytes were sent.
    Flood(Vec<u8>, usize),
    /// Says nothing any more and waits until the client goes.
    Silence,
    /// Closes the connection.
    Close,
}

impl Step {
    /// [`Step::Send`] of a line, with CRLF added.
    #[must_use]
    pub fn line(text: &str) -> Self {
        Self::Send(format!("{text}\r\n").into_bytes())
    }
    /// [`Step::Send`].
    #[must_use]
    pub fn send(bytes: impl AsRef<[u8]>) -> Self {
        Self::Send(bytes.as_ref().to_vec())
    }
    /// [`Step::Expect`].
    #[must_use]
    pub fn expect(text: &str) -> Self {
        Self::Expect(text.to_owned())
    }
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Send(bytes) => write!(f, "Send({})", bytes.escape_ascii()),
            Self::Expect(text) => write!(f, "Expect({text:?})"),
            Self::StartTls(_) => f.write_str("StartTls"),
            Self::Drip(bytes, pause) => write!(f, "Drip({}, {pause:?})", bytes.escape_ascii()),
            Self::Flood(bytes, most) => write!(f, "Flood({}, {most})", bytes.escape_ascii()),
            Self::Silence => f.write_str("Silence"),
            Self::Close => f.write_str("Close"),
        }
    }
}

/// A script in text: `S: ` is a line the server sends, `C: ` the beginning of a line it waits for; empty lines and lines that
/// begin with `#` are passed over.
///
/// # Panics
/// On any other line; that fails the test.
#[must_use]
pub fn parse(text: &str) -> Vec<Step> {
    text.lines()
        .map(str::trim_start)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| match line.split_once(':') {
            Some(("S", rest)) => Step::line(rest.strip_prefix(' ').unwrap_or(rest)),
            Some(("C", rest)) => Step::expect(rest.trim()),
            _ => panic!("a script line is \"S: ...\" or \"C: ...\", not {line:?}"),
        })
        .collect()
}

/// What the server heard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    /// Every line, without line ends, over all sessions.
    pub lines: Vec<String>,
    /// Where a client said something else than the script expected.
    pub mismatches: Vec<String>,
    /// How many connections came.
    pub sessions: usize,
}

/// A listening script.
#[derive(Debug)]
pub struct ScriptedServer {
    address: SocketAddr,
    heard: Arc<Mutex<Heard>>,
    _task: StopOnDrop,
}

impl ScriptedServer {
    /// Plays one script for each connection, the last one for all further ones.
    ///
    /// # Panics
    /// When there is no script or no port; that fails the test.
    pub async fn start(scripts: Vec<Vec<Step>>) -> Self {
        assert!(!scripts.is_empty(), "a scripted server needs a script");
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let heard = Arc::new(Mutex::new(Heard::default()));
        let notes = Arc::clone(&heard);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let session = {
                    let mut notes = notes.lock().unwrap();
                    notes.sessions += 1;
                    notes.sessions - 1
                };
                let script = scripts[session.min(scripts.len() - 1)].clone();
                let notes = Arc::clone(&notes);
                tokio::spawn(async move { play(Box::new(stream), script, &notes).await });
            }
        });
        Self { address, heard, _task: StopOnDrop(task) }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// What it heard so far.
    ///
    /// # Panics
    /// When the server's task panicked; that fails the test.
    #[must_use]
    pub fn heard(&self) -> Heard {
        self.heard.lock().unwrap().clone()
    }
}

async fn play(mut io: Box<dyn Io>, script: Vec<Step>, notes: &Mutex<Heard>) {
    let mut pending = Vec::new();
    for step in script {
        match step {
            Step::Send(bytes) => {
                if io.write_all(&bytes).await.is_err() || io.flush().await.is_err() {
                    return;
                }
            }
            Step::Expect(text) => {
                let Some(line) = next_line(&mut io, &mut pending, notes).await else { return };
                let matches = line.get(..text.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(&text));
                if !matches {
                    let mismatch = format!("expected {text:?}, heard {line:?}");
                    notes.lock().unwrap().mismatches.push(mismatch);
                    return;
                }
            }
            Step::StartTls(acceptor) => match acceptor.accept(io).await {
                Ok(stream) => io = Box::new(stream),
                Err(_) => return,
            },
            Step::Drip(bytes, pause) => loop {
                for byte in &bytes {
                    if io.write_all(std::slice::from_ref(byte)).await.is_err() || io.flush().await.is_err() {
                        return;
                    }
                    tokio::time::sleep(pause).await;
                }
            },
            Step::Flood(bytes, most) => {
                let mut sent = 0;
                while sent < most {
                    if io.write_all(&bytes).await.is_err() {
                        return;
                    }
                    sent += bytes.len();
                }
            }
            Step::Silence => {
                while next_line(&mut io, &mut pending, notes).await.is_some() {}
                return;
            }
            Step::Close => {
                let _ = io.shutdown().await;
                return;
            }
        }
    }
    // the script is over: note what the client still says, and wait for it to go
    while next_line(&mut io, &mut pending, notes).await.is_some() {}
}

async fn next_line(io: &mut Box<dyn Io>, pending: &mut Vec<u8>, notes: &Mutex<Heard>) -> Option<String> {
    loop {
        if let Some(end) = pending.iter().position(|&b| b == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
            notes.lock().unwrap().lines.push(line.clone());
            return Some(line);
        }
        let mut chunk = [0; 4096];
        match io.read(&mut chunk).await {
            Ok(0) | Err(_) => return None,
            Ok(count) => pending.extend_from_slice(&chunk[..count]),
        }
    }
}
