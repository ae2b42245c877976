//! A small HTTP/1.1 server (RFC 9112) whose answers come from a closure, and which does what no server should.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::{Io, StopOnDrop};

/// The largest head and the largest body that are taken, in bytes.
const HEAD_CAP: usize = 256 * 1024;
const BODY_CAP: usize = 64 * 1024 * 1024;

/// A request as it came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// On which connection, counted from 0.
    pub connection: usize,
    /// Which request of that connection, counted from 0.
    pub nth: usize,
    /// The method.
    pub method: String,
    /// The target: a path with its query, an absolute URL at a proxy, or `host:port` of `CONNECT`.
    pub target: String,
    /// The header, in order, as it was written.
    pub headers: Vec<(String, String)>,
    /// The body, without the framing of chunks.
    pub body: Vec<u8>,
}

impl Seen {
    /// The first field of this name, in any letter case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The path, without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}

/// What the server does with a request.
#[derive(Debug, Clone)]
pub struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    chunked: bool,
    acts: Vec<Act>,
}

/// One thing a server does with a connection beside answering.
#[derive(Debug, Clone)]
pub enum Act {
    /// Sends these bytes as they are.
    Send(Vec<u8>),
    /// Sends these bytes one at a time with this pause after each, over and over, until the client goes.
    Drip(Vec<u8>, Duration),
    /// Sends these bytes over and over, as fast as the client reads, until the client goes or so many bytes were sent.
    Flood(Vec<u8>, usize),
    /// Says nothing any more and waits until the client goes.
    Silence,
    /// Closes the connection.
    Close,
    /// As a proxy: opens a connection to this port of this machine and passes everything on, both ways.
    Tunnel(u16),
}

impl Answer {
    /// An answer of this status, without a body.
    #[must_use]
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), chunked: false, acts: Vec::new() }
    }

    /// Nothing but these acts.
    #[must_use]
    pub fn acts(acts: Vec<Act>) -> Self {
        Self { acts, ..Self::new(0) }
    }

    /// These bytes in place of an answer; then the connection is closed.
    #[must_use]
    pub fn raw(bytes: impl AsRef<[u8]>) -> Self {
        Self::acts(vec![Act::Send(bytes.as_ref().to_vec()), Act::Close])
    }

    /// The same answer with a header field more.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// The same answer with this body.
    #[must_use]
    pub fn body(mut self, content_type: &str, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        self.header("Content-Type", content_type)
    }

    /// The same answer, its body in chunks.
    #[must_use]
    pub fn chunked(mut self) -> Self {
        self.chunked = true;
        self
    }

    /// The same answer, and then this.
    #[must_use]
    pub fn then(mut self, act: Act) -> Self {
        self.acts.push(act);
        self
    }

    /// The same answer, announced with `Connection: close`, which then happens.
    #[must_use]
    pub fn closing(self) -> Self {
        self.header("Connection", "close").then(Act::Close)
    }

    /// The same answer, of whose body only so many bytes come; then the connection is closed.
    #[must_use]
    pub fn cut(self, body_bytes: usize) -> Self {
        let whole = self.bytes(false);
        let head = whole.windows(4).position(|end| end == b"\r\n\r\n").map_or(whole.len(), |at| at + 4);
        Self::raw(&whole[..whole.len().min(head + body_bytes)])
    }

    fn bytes(&self, head_only: bool) -> Vec<u8> {
        let mut out = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status)).into_bytes();
        for (name, value) in &self.headers {
            out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        // RFC 9110 section 8.6: neither an answer to CONNECT nor 204 has a length
        if self.chunked {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            for piece in self.body.chunks(1000) {
                out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                out.extend_from_slice(piece);
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(b"0\r\n\r\n");
        } else if self.status == 204 || self.acts.iter().any(|act| matches!(act, Act::Tunnel(_))) {
            out.extend_from_slice(b"\r\n");
        } else {
            out.extend_from_slice(format!("Content-Length: {}\r\n\r\n", self.body.len()).as_bytes());
            if !head_only {
                out.extend_from_slice(&self.body);
            }
        }
        out
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        407 => "Proxy Authentication Required",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Status",
    }
}

#[derive(Default)]
struct Notes {
    seen: Vec<Seen>,
    connections: usize,
    open: usize,
}

type Handler = dyn Fn(&Seen) -> Answer + Send + Sync;

/// A listening server.
pub struct HttpServer {
    address: SocketAddr,
    tls: bool,
    notes: Arc<Mutex<Notes>>,
    _task: StopOnDrop,
}

impl HttpServer {
    /// A server without TLS on a free port.
    ///
    /// # Panics
    /// When there is no port; that fails the test.
    pub async fn start(handler: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        Self::listen(0, None, handler).await
    }

    /// A server inside TLS on a free port.
    ///
    /// # Panics
    /// When there is no port; that fails the test.
    pub async fn start_tls(
        acceptor: TlsAcceptor,
        handler: impl Fn(&Seen) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::listen(0, Some(acceptor), handler).await
    }

    /// A server on this port of this machine, inside TLS where there is an acceptor.
    ///
    /// # Panics
    /// When the port is taken; that fails the test.
    pub async fn listen(
        port: u16,
        acceptor: Option<TlsAcceptor>,
        handler: impl Fn(&Seen) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let notes = Arc::new(Mutex::new(Notes::default()));
        let (tls, shared, handler) = (acceptor.is_some(), Arc::clone(&notes), Arc::new(handler));
        let task = tokio::spawn(async move {
            // dropped with this task, so that no session outlives the server
            let mut sessions = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let (acceptor, notes) = (acceptor.clone(), Arc::clone(&shared));
                let handler: Arc<Handler> = Arc::clone(&handler) as _;
                let number = {
                    let mut notes = notes.lock().unwrap();
                    notes.connections += 1;
                    notes.open += 1;
                    notes.connections - 1
                };
                sessions.spawn(async move {
                    let io: Option<Box<dyn Io>> = match acceptor {
                        Some(acceptor) => acceptor.accept(stream).await.ok().map(|io| Box::new(io) as _),
                        None => Some(Box::new(stream)),
                    };
                    if let Some(io) = io {
                        serve(io, number, &*handler, &notes).await;
                    }
                    notes.lock().unwrap().open -= 1;
                });
                while sessions.try_join_next().is_some() {}
            }
        });
        Self { address, tls, notes, _task: StopOnDrop(task) }
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// `http://localhost:PORT`, or with `https`; no slash at the end.
    #[must_use]
    pub fn base(&self) -> String {
        format!("{}://localhost:{}", if self.tls { "https" } else { "http" }, self.port())
    }

    /// All requests so far, in the order in which they were complete.
    ///
    /// # Panics
    /// When a handler panicked; that fails the test.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.notes.lock().unwrap().seen.clone()
    }

    /// How many connections came so far.
    ///
    /// # Panics
    /// When a handler panicked; that fails the test.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.notes.lock().unwrap().connections
    }

    /// How many connections are open.
    ///
    /// # Panics
    /// When a handler panicked; that fails the test.
    #[must_use]
    pub fn open(&self) -> usize {
        self.notes.lock().unwrap().open
    }
}

impl fmt::Debug for HttpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpServer").field("base", &self.base()).finish_non_exhaustive()
    }
}

async fn serve(mut io: Box<dyn Io>, connection: usize, handler: &Handler, notes: &Mutex<Notes>) {
    let mut pending = Vec::new();
    for nth in 0.. {
        let Some(mut seen) = read_request(&mut io, &mut pending).await else { return };
        (seen.connection, seen.nth) = (connection, nth);
        let answer = handler(&seen);
        let head_only = seen.method == "HEAD";
        notes.lock().unwrap().seen.push(seen);
        if answer.status != 0
            && (io.write_all(&answer.bytes(head_only)).await.is_err() || io.flush().await.is_err())
        {
            return;
        }
        for act in answer.acts {
            if !perform(&mut io, act).await {
                return;
            }
        }
    }
}

/// Whether the session goes on.
async fn perform(io: &mut Box<dyn Io>, act: Act) -> bool {
    match act {
        Act::Send(bytes) => io.write_all(&bytes).await.is_ok() && io.flush().await.is_ok(),
        Act::Drip(bytes, pause) => loop {
            for byte in &bytes {
                if io.write_all(std::slice::from_ref(byte)).await.is_err() || io.flush().await.is_err() {
                    return false;
                }
                tokio::time::sleep(pause).await;
            }
        },
        Act::Flood(bytes, most) => {
            let mut sent = 0;
            while sent < most {
                if io.write_all(&bytes).await.is_err() {
                    return false;
                }
                sent += bytes.len();
            }
            io.flush().await.is_ok()
        }
        Act::Silence => {
            let mut ignored = [0; 4096];
            while matches!(io.read(&mut ignored).await, Ok(count) if count > 0) {}
            false
        }
        Act::Close => {
            let _ = io.shutdown().await;
            false
        }
        Act::Tunnel(port) => {
            if let Ok(mut to) = TcpStream::connect(("127.0.0.1", port)).await {
                let _ = copy_bidirectional(io, &mut to).await;
            }
            false
        }
    }
}

async fn read_request(io: &mut Box<dyn Io>, pending: &mut Vec<u8>) -> Option<Seen> {
    let end = loop {
        if let Some(at) = pending.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        if pending.len() > HEAD_CAP {
            return None;
        }
        more(io, pending).await?;
    };
    let head: Vec<u8> = pending.drain(..end).collect();
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.split("\r\n").filter(|line| !line.is_empty());
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let mut seen = Seen { method, target, headers, ..Seen::default() };
    if seen.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
        seen.body = chunks(io, pending).await?;
    } else if let Some(length) = seen.header("content-length") {
        let length: usize = length.parse().ok().filter(|&l| l <= BODY_CAP)?;
        seen.body = exactly(io, pending, length).await?;
    }
    Some(seen)
}

async fn chunks(io: &mut Box<dyn Io>, pending: &mut Vec<u8>) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let at = loop {
            if let Some(at) = pending.windows(2).position(|w| w == b"\r\n") {
                break at;
            }
            more(io, pending).await?;
        };
        let line: Vec<u8> = pending.drain(..at + 2).collect();
        let size = String::from_utf8_lossy(&line[..at]).into_owned();
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size > BODY_CAP - body.len() {
            return None;
        }
        body.extend(exactly(io, pending, size).await?);
        exactly(io, pending, 2).await?;
        if size == 0 {
            return Some(body);
        }
    }
}

async fn exactly(io: &mut Box<dyn Io>, pending: &mut Vec<u8>, count: usize) -> Option<Vec<u8>> {
    while pending.len() < count {
        more(io, pending).await?;
    }
    Some(pending.drain(..count).collect())
}

async fn more(io: &mut Box<dyn Io>, pending: &mut Vec<u8>) -> Option<()> {
    let mut chunk = [0; 16 * 1024];
    match io.read(&mut chunk).await {
        Ok(0) | Err(_) => None,
        Ok(count) => {
            pending.extend_from_slice(&chunk[..count]);
            Some(())
        }
    }
}
