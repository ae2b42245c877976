//! The smallest HTTP/1.1 server that a test needs: keep-alive, bodies with a length or in chunks, answers that break off.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc::Receiver;
use tokio_rustls::TlsAcceptor;

use crate::Io;

/// The largest request: a message of 50 MB in base64.
const LARGEST: usize = 100 << 20;

/// A request.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// An answer.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Body,
}

/// The body of an answer.
#[derive(Debug)]
pub(super) enum Body {
    Whole(Vec<u8>),
    /// Half of it, then the line is cut.
    Half(Vec<u8>),
    /// Pieces as they come.
    Stream(Receiver<Vec<u8>>),
    /// The line is cut without a word.
    Nothing,
    /// The line stays open without a word.
    Silence,
}

impl Response {
    pub(super) fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![("Content-Type", content_type.to_owned())];
        Self { status, headers, body: Body::Whole(body.into()) }
    }
}

/// Answers requests.
pub(super) type Handler =
    Arc<dyn Fn(Request) -> Pin<Box<dyn Future<Output = Response> + Send>> + Send + Sync>;

pub(super) async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, handler: Handler) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let (tls, handler) = (tls.clone(), Arc::clone(&handler));
        tokio::spawn(async move {
            let mut io: Box<dyn Io> = match tls {
                None => Box::new(stream),
                Some(acceptor) => match acceptor.accept(stream).await {
                    Ok(stream) => Box::new(stream),
                    Err(_) => return,
                },
            };
            let mut buffer = Vec::new();
            while let Some(request) = read(&mut io, &mut buffer).await {
                let response = handler(request).await;
                if write(&mut io, response).await.is_none() {
                    return;
                }
            }
        });
    }
}

async fn fill(io: &mut Box<dyn Io>, buffer: &mut Vec<u8>) -> Option<()> {
    let n = io.read_buf(buffer).await.ok()?;
    (n > 0 && buffer.len() <= LARGEST).then_some(())
}

async fn read(io: &mut Box<dyn Io>, buffer: &mut Vec<u8>) -> Option<Request> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        fill(io, buffer).await?;
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .collect();
    let mut request = Request { method, path, headers, body: Vec::new() };
    if request.header("expect").is_some() {
        io.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.ok()?;
    }
    buffer.drain(..end);
    let length: usize = request.header("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
    while buffer.len() < length {
        fill(io, buffer).await?;
    }
    request.body = buffer.drain(..length).collect();
    Some(request)
}

async fn write(io: &mut Box<dyn Io>, response: Response) -> Option<()> {
    let mut head = format!("HTTP/1.1 {} X\r\n", response.status);
    for (name, value) in &response.headers {
        head += &format!("{name}: {value}\r\n");
    }
    match response.body {
        Body::Whole(body) => {
            head += &format!("Content-Length: {}\r\n\r\n", body.len());
            io.write_all(head.as_bytes()).await.ok()?;
            io.write_all(&body).await.ok()?;
            io.flush().await.ok()
        }
        Body::Half(body) => {
            head += &format!("Content-Length: {}\r\n\r\n", body.len());
            io.write_all(head.as_bytes()).await.ok()?;
            io.write_all(&body[..body.len() / 2]).await.ok()?;
            io.flush().await.ok()?;
            None
        }
        Body::Stream(mut pieces) => {
            io.write_all(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes()).await.ok()?;
            io.flush().await.ok()?;
            while let Some(piece) = pieces.recv().await {
                io.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await.ok()?;
                io.write_all(&piece).await.ok()?;
                io.write_all(b"\r\n").await.ok()?;
                io.flush().await.ok()?;
            }
            io.write_all(b"0\r\n\r\n").await.ok()?;
            io.flush().await.ok()
        }
        Body::Nothing => None,
        Body::Silence => std::future::pending().await,
    }
}
