//! HTTP/1.1 as far as a fake server needs it, written by hand so that a test can cut it anywhere.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// A request with a larger header than this is none.
const MOST_HEADER: usize = 64 << 10;
/// The largest body that is read at all.
const MOST_BODY: usize = 64 << 20;

/// A request that was heard.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard {
    pub(crate) method: String,
    /// Path and query as they were written.
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Heard {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// The segments of the path, decoded.
    pub(crate) fn segments(&self) -> Vec<String> {
        let path = self.target.split('?').next().unwrap_or("");
        path.split('/').filter(|s| !s.is_empty()).map(|s| decoded(s, false)).collect()
    }

    /// The query, decoded.
    pub(crate) fn query(&self) -> Vec<(String, String)> {
        let Some((_, query)) = self.target.split_once('?') else { return Vec::new() };
        query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                (decoded(name, true), decoded(value, true))
            })
            .collect()
    }
}

fn decoded(text: &str, plus: bool) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        match b {
            b'%' => {
                let pair = [bytes.next().unwrap_or(b'0'), bytes.next().unwrap_or(b'0')];
                let pair = std::str::from_utf8(&pair).unwrap_or("3F");
                out.push(u8::from_str_radix(pair, 16).unwrap_or(b'?'));
            }
            b'+' if plus => out.push(b' '),
            b => out.push(b),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// An answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The connection is closed after so many bytes of the body.
    pub(crate) cut_after: Option<usize>,
}

pub(crate) type Answering = Pin<Box<dyn Future<Output = Option<Reply>> + Send>>;
pub(crate) type Handler = Arc<dyn Fn(Heard) -> Answering + Send + Sync>;

/// Serves until it is dropped; a handler that gives `None` closes the connection without an answer.
pub(crate) async fn serve(listener: TcpListener, handler: Handler) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let handler = Arc::clone(&handler);
        connections.spawn(async move { while_open(stream, &handler).await });
        while connections.try_join_next().is_some() {}
    }
}

async fn while_open(stream: TcpStream, handler: &Handler) {
    let mut stream = BufReader::new(stream);
    while let Some(heard) = request(&mut stream).await {
        let head = heard.method == "HEAD";
        let Some(reply) = handler(heard).await else { return };
        let mut out = format!("HTTP/1.1 {} Status\r\n", reply.status);
        for (name, value) in &reply.headers {
            out.push_str(&format!("{name}: {value}\r\n"));
        }
        if reply.status != 204 {
            out.push_str(&format!("Content-Length: {}\r\n", reply.body.len()));
        }
        out.push_str("\r\n");
        let body = if head { &[][..] } else { &reply.body };
        let body = &body[..reply.cut_after.unwrap_or(body.len()).min(body.len())];
        let written = stream.get_mut().write_all(&[out.as_bytes(), body].concat()).await;
        if written.is_err() || reply.cut_after.is_some() {
            return;
        }
    }
}

async fn request(stream: &mut BufReader<TcpStream>) -> Option<Heard> {
    let mut lines = Vec::new();
    let mut total = 0;
    loop {
        let mut line = Vec::new();
        let read = (&mut *stream).take(MOST_HEADER as u64).read_until(b'\n', &mut line).await.ok()?;
        total += read;
        if read == 0 || total > MOST_HEADER {
            return None;
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let mut first = lines.first()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let split = |line: &String| line.split_once(':').map(|(n, v)| (n.trim().to_owned(), v.trim().to_owned()));
    let mut heard =
        Heard { method, target, headers: lines[1..].iter().filter_map(split).collect(), body: Vec::new() };
    if heard.header("expect").is_some() {
        stream.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.ok()?;
    }
    let length = heard.header("content-length").map_or(Some(0), |l| l.parse::<usize>().ok())?;
    if length > MOST_BODY || heard.header("transfer-encoding").is_some() {
        return None;
    }
    heard.body = vec![0; length];
    stream.read_exact(&mut heard.body).await.ok()?;
    Some(heard)
}
