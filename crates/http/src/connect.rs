//! Opens connections: name, TCP, proxy, TLS, all within one deadline.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Version};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use url::Url;

use crate::connection::{Aborting, Connection, builder};
use crate::proxy::{Hop, Routes};
use crate::{Error, ErrorKind, HttpSettings, Result, fault};

/// Any byte stream, in clear or inside TLS.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) tls: bool,
    /// Without the brackets of an IPv6 address.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// `scheme://host:port`, the name of the server in messages; the path may hold a mailbox, the query a token.
    pub(crate) place: String,
}

impl Origin {
    pub(crate) fn of(url: &Url) -> Result<Self> {
        let place = url.origin().ascii_serialization();
        let wrong = |what: &str| Error::new(ErrorKind::Settings, format!("{place}: {what}"));
        let tls = match url.scheme() {
            "https" => true,
            "http" => false,
            other => return Err(wrong(&format!("a URL of HTTP begins with https: or http:, not {other}:"))),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("a name or password stands in the URL")
                .with_hint("set the account in the settings, not in the URL"));
        }
        let host =
            url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = url.port_or_known_default().unwrap_or_default();
        Ok(Self { tls, host, port, place })
    }

    /// `host:port`, as `CONNECT` and the `Host` field of a proxy request want it.
    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// Opens connections.
pub(crate) struct Connector {
    tls: TlsConnector,
    routes: Routes,
    timeout: Duration,
}

impl Connector {
    pub(crate) fn new(settings: &HttpSettings) -> Result<Self> {
        let tls = email_router_tls::client_config(&settings.extra_ca_files).map_err(|error| {
            let settings = Error::new(ErrorKind::Settings, error.message);
            match error.hint {
                Some(hint) => settings.with_hint(hint),
                None => settings,
            }
        })?;
        Ok(Self {
            tls: TlsConnector::from(Arc::new(tls)),
            routes: Routes::new(&settings.proxy)?,
            timeout: settings.connect_timeout,
        })
    }

    /// A fresh connection. With `own` it is for this origin alone, also where a proxy would pass requests in clear on: what proves a connection must
    /// not prove that of the proxy to the server.
    pub(crate) async fn open(&self, origin: &Origin, url: &Url, own: bool) -> Result<Connection> {
        let deadline = Instant::now() + self.timeout;
        let place = &origin.place;
        let (mut io, forward): (Box<dyn Io>, Option<Hop>) = match self.routes.hop(url)? {
            None => (Box::new(tcp(place, &origin.host, origin.port, deadline).await?), None),
            Some(hop) => {
                let unreachable = |cause: Error| match cause.kind() {
                    // a certificate stays a certificate
                    ErrorKind::Tls(_) => cause,
                    _ => fault::proxy_unreachable(&hop.place, &cause),
                };
                let mut io: Box<dyn Io> =
                    Box::new(tcp(&hop.place, &hop.host, hop.port, deadline).await.map_err(unreachable)?);
                if hop.tls {
                    io = self.handshake(io, &hop.place, &hop.host, deadline).await.map_err(unreachable)?.0;
                }
                if origin.tls || own {
                    let tunnel = timeout_at(deadline, tunnel(io, &hop, origin));
                    let io = tunnel.await.map_err(|_| {
                        fault::proxy_unreachable(&hop.place, &fault::slow(&hop.place, "opening a tunnel"))
                    })??;
                    (io, None)
                } else {
                    (io, Some(hop))
                }
            }
        };
        let mut end_point = None;
        if origin.tls {
            (io, end_point) = self.handshake(io, place, &origin.host, deadline).await?;
        }
        let forward = forward.map(Forward::new);
        Connection::start(io, end_point, forward).await.map_err(|cause| fault::hyper(place, cause))
    }

    /// TLS, and the channel binding of the server's certificate.
    async fn handshake(
        &self,
        io: Box<dyn Io>,
        place: &str,
        host: &str,
        deadline: Instant,
    ) -> Result<(Box<dyn Io>, Option<Vec<u8>>)> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| Error::new(ErrorKind::Settings, format!("{place}: {host:?} is no host name")))?;
        let done = timeout_at(deadline, self.tls.connect(name, io)).await;
        let tls = done
            .map_err(|_| {
                fault::slow(place, "the TLS handshake")
                    .with_hint("check that this port speaks TLS from the start")
            })?
            .map_err(|cause| fault::handshake(place, host, cause))?;
        let end_point = tls
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|chain| chain.first())
            .and_then(|certificate| email_router_tls::server_end_point(certificate));
        Ok((Box::new(tls), end_point))
    }
}

/// A proxy that passes requests in clear on.
#[derive(Debug)]
pub(crate) struct Forward {
    pub(crate) place: String,
    pub(crate) authorization: Option<http::HeaderValue>,
}

impl Forward {
    fn new(hop: Hop) -> Self {
        Self { place: hop.place, authorization: hop.authorization }
    }
}

/// Every address of the name is tried in the resolver's order; each gets an equal share of the time that is left.
async fn tcp(place: &str, host: &str, port: u16, deadline: Instant) -> Result<TcpStream> {
    let addresses: Vec<_> = match timeout_at(deadline, lookup_host((host, port))).await {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(cause)) => return Err(fault::unresolved(place, host, Some(cause))),
        Err(_) => return Err(fault::slow(place, "resolving the host name")),
    };
    let mut last = None;
    for (tried, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // without it a small request waits for the acknowledgement of the one before (40 ms)
                stream.set_nodelay(true).map_err(|cause| fault::connect(place, cause))?;
                return Ok(stream);
            }
            Ok(Err(cause)) => last = Some(fault::connect(place, cause)),
            Err(_) => last = Some(fault::slow(place, "connecting")),
        }
    }
    Err(last.unwrap_or_else(|| fault::unresolved(place, host, None)))
}

/// `CONNECT` (RFC 9110 section 9.3.6).
async fn tunnel(io: Box<dyn Io>, hop: &Hop, origin: &Origin) -> Result<Box<dyn Io>> {
    let lost = |cause: hyper::Error| fault::proxy_unreachable(&hop.place, &fault::hyper(&hop.place, cause));
    let (mut sender, connection) =
        builder().handshake::<_, Empty<Bytes>>(TokioIo::new(io)).await.map_err(lost)?;
    let driver = Aborting::spawn(async move {
        let _ = connection.with_upgrades().await;
    });
    let authority = origin.authority();
    let unusable = |_| Error::new(ErrorKind::Settings, format!("{} is no server's address", origin.place));
    let mut request = http::Request::builder()
        .method(Method::CONNECT)
        .version(Version::HTTP_11)
        .uri(&authority)
        .header(http::header::HOST, &authority)
        .body(Empty::new())
        .map_err(unusable)?;
    if let Some(authorization) = &hop.authorization {
        request.headers_mut().insert(http::header::PROXY_AUTHORIZATION, authorization.clone());
    }
    let answer = sender.send_request(request).await.map_err(lost)?;
    let status = answer.status();
    if !status.is_success() {
        return Err(fault::proxy_refused(&hop.place, &origin.place, status, hop.authorization.is_some()));
    }
    let upgraded = hyper::upgrade::on(answer).await.map_err(lost)?;
    // the driver has handed the stream over and ends by itself
    driver.detach();
    Ok(Box::new(TokioIo::new(upgraded)))
}

/// How much was written, and when the last time: whether a request left, and whether a large one still makes progress.
#[derive(Debug)]
pub(crate) struct Meter {
    written: AtomicU64,
    last: Mutex<Instant>,
}

impl Meter {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { written: AtomicU64::new(0), last: Mutex::new(Instant::now()) })
    }

    /// Bytes that were handed to the network so far.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// When the last ones were.
    pub(crate) fn last(&self) -> Instant {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

/// A stream whose writes are counted.
pub(crate) struct Metered(pub(crate) Box<dyn Io>, pub(crate) Arc<Meter>);

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.0).poll_write(cx, buf);
        if let Poll::Ready(Ok(count)) = &done {
            self.1.count(*count);
        }
        done
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.0).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(count)) = &done {
            self.1.count(*count);
        }
        done
    }
    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
