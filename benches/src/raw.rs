//! Bare clients: blocking sockets, everything pipelined, nothing checked that is not needed to find the end. What the server can do at most.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;

use memchr::memmem::Finder;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::peers::{PASSWORD, user};

/// What is done with the messages.
#[derive(Debug, Clone, Copy)]
pub enum Keep<'a> {
    /// Only their ends are counted.
    Count,
    /// Each is kept in memory of its own until the next one has come.
    Memory,
    /// Each is written into a file of its own in this folder: what the targets call the practical limit of a server.
    Files(&'a Path),
    /// Each goes to somebody else.
    Send(&'a SyncSender<Vec<u8>>),
}

/// Reads a whole mailbox over a connection and says how many messages and bytes came.
pub fn pop3_drain(stream: impl Read + Write, user: &str, password: &str, keep: Keep<'_>) -> (usize, u64) {
    let mut reader = Reader { stream, buffer: vec![0; 256 * 1024], start: 0, end: 0, bytes: 0 };
    reader.line();
    reader.send(&format!("USER {user}\r\nPASS {password}\r\nSTAT\r\n"));
    reader.line();
    reader.line();
    let stat = reader.line();
    let count: usize = stat
        .split(' ')
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or_else(|| panic!("STAT answered {stat:?}"));
    let requests: String =
        (1..=count).map(|n| format!("RETR {n}\r\n")).chain(["QUIT\r\n".to_owned()]).collect();
    // a few hundred kilobytes at most; the socket takes that without being read
    reader.send(&requests);
    let finder = Finder::new(b"\r\n.\r\n");
    let mut message = Vec::new();
    for n in 0..count {
        let wanted = !matches!(keep, Keep::Count);
        reader.until_terminator(&finder, wanted.then_some(&mut message));
        let message = std::mem::take(&mut message);
        match keep {
            Keep::Files(folder) => std::fs::write(folder.join(format!("{user}-{n}")), message).unwrap(),
            Keep::Send(to) => to.send(message).expect("somebody takes them"),
            Keep::Count | Keep::Memory => {}
        }
    }
    reader.line();
    (count, reader.bytes)
}

/// As [`pop3_drain`] on a plain connection to 127.0.0.1, or inside TLS when `ca` is there.
#[must_use]
pub fn pop3_connect_and_drain(
    port: u16,
    tls: Option<&Arc<ClientConfig>>,
    user: &str,
    password: &str,
    keep: Keep<'_>,
) -> (usize, u64) {
    let tcp = connect(port);
    match tls {
        None => pop3_drain(tcp, user, password, keep),
        Some(config) => pop3_drain(inside_tls(tcp, config), user, password, keep),
    }
}

fn connect(port: u16) -> TcpStream {
    let tcp = TcpStream::connect(("127.0.0.1", port)).unwrap();
    tcp.set_nodelay(true).unwrap();
    tcp
}

fn inside_tls(tcp: TcpStream, config: &Arc<ClientConfig>) -> StreamOwned<ClientConnection, TcpStream> {
    let name = ServerName::try_from("localhost").unwrap();
    StreamOwned::new(ClientConnection::new(Arc::clone(config), name).unwrap(), tcp)
}

/// Reads so many mailboxes of [`crate::peers`] at once, a thread each.
pub fn pop3_drain_all(port: u16, tls: Option<&Arc<ClientConfig>>, mailboxes: usize, keep: Keep<'_>) {
    std::thread::scope(|scope| {
        for n in 0..mailboxes {
            scope.spawn(move || pop3_connect_and_drain(port, tls, &user(n), PASSWORD, keep));
        }
    });
}

/// Sends these HTTP requests over so many connections, on each the next one when the answer to the one before has been read, and gives the bytes of all
/// bodies. [`Keep::Send`] is not known here.
#[must_use]
pub fn http_read(
    port: u16,
    tls: Option<&Arc<ClientConfig>>,
    requests: &[Vec<u8>],
    connections: usize,
    keep: Keep<'_>,
) -> u64 {
    let next = AtomicUsize::new(0);
    let one = || {
        let tcp = connect(port);
        match tls {
            None => http_read_some(tcp, requests, &next, keep),
            Some(config) => http_read_some(inside_tls(tcp, config), requests, &next, keep),
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..connections).map(|_| scope.spawn(one)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    })
}

fn http_read_some(
    stream: impl Read + Write,
    requests: &[Vec<u8>],
    next: &AtomicUsize,
    keep: Keep<'_>,
) -> u64 {
    let mut reader = Reader { stream, buffer: vec![0; 256 * 1024], start: 0, end: 0, bytes: 0 };
    let (mut bodies, mut last) = (0, Vec::new());
    loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        let Some(request) = requests.get(n) else { break };
        reader.stream.write_all(request).unwrap();
        reader.stream.flush().unwrap();
        let status = reader.line();
        assert!(status.starts_with("HTTP/1.1 200"), "the server said {status}");
        let mut length = 0;
        loop {
            let line = reader.line();
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap();
            }
        }
        if matches!(keep, Keep::Memory | Keep::Files(_)) {
            let mut body = Vec::with_capacity(length);
            reader.exactly(length, Some(&mut body));
            last = body;
        } else {
            reader.exactly(length, None);
        }
        if let Keep::Files(folder) = keep {
            std::fs::write(folder.join(n.to_string()), &last).unwrap();
        }
        bodies += length as u64;
    }
    drop(last);
    bodies
}

/// TLS that trusts this authority only.
#[must_use]
pub fn tls(ca: &Path) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

struct Reader<S> {
    stream: S,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    bytes: u64,
}

impl<S: Read + Write> Reader<S> {
    fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
        self.stream.flush().unwrap();
    }

    /// Reads more behind what is there; moves what is there to the front when there is no room.
    fn more(&mut self) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let n = self.stream.read(&mut self.buffer[self.end..]).unwrap();
        assert!(n > 0, "the server closed the connection");
        self.end += n;
        self.bytes += n as u64;
    }

    fn line(&mut self) -> String {
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.buffer[self.start..self.end]) {
                let line =
                    String::from_utf8_lossy(&self.buffer[self.start..self.start + at]).trim_end().to_owned();
                self.start += at + 1;
                assert!(!line.starts_with("-ERR") && !line.starts_with(['4', '5']), "the server said {line}");
                return line;
            }
            self.more();
        }
    }

    /// Passes over so many bytes.
    fn exactly(&mut self, length: usize, kept: Option<&mut Vec<u8>>) {
        let have = length.min(self.end - self.start);
        let mut left = length - have;
        match kept {
            Some(kept) => {
                kept.extend_from_slice(&self.buffer[self.start..self.start + have]);
                let read = (&mut self.stream).take(left as u64).read_to_end(kept).unwrap();
                assert_eq!(read, left, "the server closed the connection");
                self.start += have;
            }
            None => {
                self.start += have;
                while left > 0 {
                    self.more();
                    let passed = left.min(self.end - self.start);
                    self.start += passed;
                    left -= passed;
                }
            }
        }
    }

    /// Passes over one answer with a body. The line end of the status line counts: an empty body ends with it.
    fn until_terminator(&mut self, finder: &Finder<'_>, mut keep: Option<&mut Vec<u8>>) {
        while self.start == self.end {
            self.more();
        }
        assert_eq!(self.buffer[self.start], b'+', "the server refused a message");
        loop {
            let have = &self.buffer[self.start..self.end];
            match finder.find(have) {
                Some(at) => {
                    if let Some(kept) = &mut keep {
                        kept.extend_from_slice(&have[..at]);
                    }
                    self.start += at + 5;
                    return;
                }
                None => {
                    // the last four bytes may begin the terminator
                    let done = have.len().saturating_sub(4);
                    if let Some(kept) = &mut keep {
                        kept.extend_from_slice(&have[..done]);
                    }
                    self.start += done;
                    self.more();
                }
            }
        }
    }
}

/// How far a bare SMTP client pipelines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pipelining {
    /// MAIL, RCPT and DATA together, then the message: two round trips for each message, as a client that hears the fate of a message before it
    /// begins the next.
    Envelope,
    /// The next envelope together with the message: one round trip.
    AcrossMessages,
}

/// Sends one message (CRLF, no line that begins with a dot) so many times over one connection.
pub fn smtp_send(port: u16, message: &[u8], count: usize, pipelining: Pipelining) {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut reader = Reader { stream, buffer: vec![0; 16 * 1024], start: 0, end: 0, bytes: 0 };
    reader.line();
    reader.send("EHLO bench.test\r\n");
    while reader.line().as_bytes().get(3) == Some(&b'-') {}
    let envelope = "MAIL FROM:<a@contoso.test>\r\nRCPT TO:<b@fabrikam.example>\r\nDATA\r\n";
    let body = [message, b".\r\n"].concat();
    let with_next = [&body[..], envelope.as_bytes()].concat();
    if count == 0 {
        return;
    }
    reader.send(envelope);
    for n in 1..=count {
        for _ in 0..3 {
            reader.line();
        }
        let last = n == count;
        if last || pipelining == Pipelining::Envelope {
            reader.stream.write_all(&body).unwrap();
            reader.line();
            if !last {
                reader.send(envelope);
            }
        } else {
            reader.stream.write_all(&with_next).unwrap();
            reader.line();
        }
    }
    reader.send("QUIT\r\n");
    reader.line();
}
