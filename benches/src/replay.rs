//! An HTTP/1.1 server that costs next to nothing: what it is asked for the first time it fetches from a fake of the test kit, and from then on it has the
//! answer ready. It knows a request by all of its bytes.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use memchr::memmem;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A listening server; its threads end with the process.
#[derive(Debug)]
pub struct Replay {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// The fake's port.
    origin: u16,
    /// What the fake calls itself in links.
    own_base: Vec<u8>,
    notes: Mutex<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    answers: HashMap<Arc<[u8]>, Arc<[u8]>>,
    /// The requests since [`Replay::take_requests`], in the order in which they came.
    requests: Vec<Arc<[u8]>>,
    recording: bool,
    fetched: usize,
    /// What this server is called.
    base: Vec<u8>,
}

impl Replay {
    /// A server on a free port, inside TLS with this configuration, before the fake on `origin`. `own_base` is what the fake calls itself in links.
    #[must_use]
    pub fn start(origin: u16, own_base: &str, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let base = if tls.is_some() {
            format!("https://localhost:{port}")
        } else {
            format!("http://127.0.0.1:{port}")
        };
        let notes = Notes { recording: true, base: base.into_bytes(), ..Notes::default() };
        let own_base = own_base.as_bytes().to_vec();
        let shared = Arc::new(Shared { origin, own_base, notes: Mutex::new(notes) });
        let of_threads = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let (tls, shared) = (tls.clone(), Arc::clone(&of_threads));
                thread::spawn(move || {
                    stream.set_nodelay(true).unwrap();
                    match tls {
                        None => shared.serve(stream),
                        Some(config) => {
                            shared.serve(StreamOwned::new(ServerConnection::new(config).unwrap(), stream));
                        }
                    }
                });
            }
        });
        Self { port, shared }
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Clients come through a proxy on this port, in clear: links lead there.
    pub fn behind(&self, port: u16) {
        self.shared.notes().base = format!("http://127.0.0.1:{port}").into_bytes();
    }

    /// The requests since the last time, in the order in which they came, and the bytes of all answers to them.
    #[must_use]
    pub fn take_requests(&self) -> (Vec<Arc<[u8]>>, u64) {
        let mut notes = self.shared.notes();
        let requests = std::mem::take(&mut notes.requests);
        let bytes = requests.iter().map(|request| notes.answers[request].len() as u64).sum();
        (requests, bytes)
    }

    /// The answer to a request that came before.
    #[must_use]
    pub fn answer(&self, request: &[u8]) -> Arc<[u8]> {
        Arc::clone(&self.shared.notes().answers[request])
    }

    /// From now on requests are not noted any more.
    pub fn stop_recording(&self) {
        self.shared.notes().recording = false;
    }

    /// How many answers it had to fetch so far.
    #[must_use]
    pub fn fetched(&self) -> usize {
        self.shared.notes().fetched
    }
}

impl Shared {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, mut stream: impl Read + Write) {
        let mut pending = Vec::new();
        while let Some(length) = message(&mut stream, &mut pending) {
            let request = &pending[..length];
            let known = {
                let mut notes = self.notes();
                let known = notes.answers.get_key_value(request).map(|(r, a)| (Arc::clone(r), Arc::clone(a)));
                if let (true, Some((request, _))) = (notes.recording, &known) {
                    let request = Arc::clone(request);
                    notes.requests.push(request);
                }
                known
            };
            let answer = known.map_or_else(|| self.fetch(request), |(_, answer)| answer);
            pending.drain(..length);
            if stream.write_all(&answer).is_err() || stream.flush().is_err() {
                return;
            }
        }
    }

    fn fetch(&self, request: &[u8]) -> Arc<[u8]> {
        let mut origin = TcpStream::connect(("127.0.0.1", self.origin)).unwrap();
        origin.write_all(request).unwrap();
        let mut answer = Vec::new();
        let length = message(&mut origin, &mut answer).expect("the fake answers");
        answer.truncate(length);
        let answer: Arc<[u8]> = self.renamed(answer).into();
        let mut notes = self.notes();
        let request: Arc<[u8]> = request.into();
        notes.answers.insert(Arc::clone(&request), Arc::clone(&answer));
        notes.fetched += 1;
        if notes.recording {
            notes.requests.push(request);
        }
        answer
    }

    /// With links that lead here.
    fn renamed(&self, answer: Vec<u8>) -> Vec<u8> {
        let head = memmem::find(&answer, b"\r\n\r\n").expect("a head") + 4;
        if memmem::find(&answer[..head], b"json").is_none() {
            return answer;
        }
        let (from, to) = (&self.own_base, self.notes().base.clone());
        let mut body = Vec::with_capacity(answer.len());
        let mut rest = &answer[head..];
        while let Some(at) = memmem::find(rest, from) {
            body.extend_from_slice(&rest[..at]);
            body.extend_from_slice(&to);
            rest = &rest[at + from.len()..];
        }
        body.extend_from_slice(rest);
        let fields = String::from_utf8_lossy(&answer[..head - 4]).into_owned();
        let mut out = Vec::with_capacity(head + body.len());
        for line in
            fields.split("\r\n").filter(|line| !line.to_ascii_lowercase().starts_with("content-length"))
        {
            out.extend_from_slice(line.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
        out.extend_from_slice(&body);
        out
    }
}

/// Reads until a request or an answer is there whole, and says how many bytes it has; `None` at the end of the connection.
fn message(stream: &mut impl Read, pending: &mut Vec<u8>) -> Option<usize> {
    let mut piece = vec![0; 64 * 1024];
    loop {
        if let Some(head) = memmem::find(pending, b"\r\n\r\n") {
            let all = head + 4 + content_length(&pending[..head]);
            if pending.len() >= all {
                return Some(all);
            }
        }
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(n) => pending.extend_from_slice(&piece[..n]),
        }
    }
}

/// What the head of a message says of its body.
fn content_length(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let value = head.split("\r\n").find_map(|line| line.strip_prefix("content-length:"));
    value.map_or(0, |value| value.trim().parse().expect("a length"))
}
