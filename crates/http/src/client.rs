//! The client: reqwest for logins that go with each request.

use std::error::Error as _;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderValue};
use url::Url;
use zeroize::Zeroizing;

use crate::{Body, BodySource, Error, ErrorKind, HttpService, Login, Request, Response, Result, Scheme};

/// How to reach servers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HttpSettings {
    /// PEM files with certificates of authorities that are trusted beside those of the platform.
    pub extra_ca_files: Vec<PathBuf>,
    /// Which proxy is used.
    pub proxy: Proxy,
    /// Longest time for resolving the name, connecting and the TLS handshake together.
    pub connect_timeout: Duration,
    /// Longest time without a byte of the answer: for its head, and for each piece of its body.
    pub patience: Duration,
    /// At most so many connections to one server are kept open while they are idle.
    pub max_idle_connections: usize,
    /// Whether a password or token may travel over `http:`. Off unless an administrator turns it on.
    pub allow_cleartext_password: bool,
}

impl Default for HttpSettings {
    /// The platform's trust, the system's proxy, 30 s to connect, 100 s of patience (as Microsoft's own clients), 4 idle connections.
    fn default() -> Self {
        Self {
            extra_ca_files: Vec::new(),
            proxy: Proxy::System,
            connect_timeout: Duration::from_secs(30),
            patience: Duration::from_secs(100),
            max_idle_connections: 4,
            allow_cleartext_password: false,
        }
    }
}

/// Which proxy is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proxy {
    /// What the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`) or the platform says.
    System,
    /// None, whatever the environment says.
    None,
    /// This one for every server; name and password for it may be in the URL.
    Url(Url),
}

/// HTTP over the network.
pub struct HttpClient {
    settings: HttpSettings,
    pooled: reqwest::Client,
}

impl HttpClient {
    /// A client with these settings; reads the files of extra authorities.
    ///
    /// # Errors
    /// [`ErrorKind::Settings`] where a file or the proxy is no good.
    pub fn new(settings: HttpSettings) -> Result<Self> {
        let tls = email_router_tls::client_config(&settings.extra_ca_files).map_err(|error| {
            let settings = Error::new(ErrorKind::Settings, error.message);
            match error.hint {
                Some(hint) => settings.with_hint(hint),
                None => settings,
            }
        })?;
        let unusable = |cause: reqwest::Error| {
            Error::new(ErrorKind::Settings, "the HTTP client cannot be set up")
                .with_source(cause.without_url())
        };
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .connect_timeout(settings.connect_timeout)
            .read_timeout(settings.patience)
            .tcp_nodelay(true)
            .pool_max_idle_per_host(settings.max_idle_connections)
            .user_agent(concat!("email-router/", env!("CARGO_PKG_VERSION")));
        match &settings.proxy {
            Proxy::System => {}
            Proxy::None => builder = builder.no_proxy(),
            Proxy::Url(url) => builder = builder.proxy(reqwest::Proxy::all(url.clone()).map_err(unusable)?),
        }
        Ok(Self { pooled: builder.build().map_err(unusable)?, settings })
    }

    async fn pooled(&self, request: Request, place: String) -> Result<Response> {
        let Request { method, url, headers, body, login, max_body_bytes, patience } = request;
        let mut outgoing = self.pooled.request(method, url).headers(headers).body(body);
        if let Some(login) = &login {
            outgoing = outgoing.header(AUTHORIZATION, authorization(login, &place)?);
        }
        let patience = patience.unwrap_or(self.settings.patience);
        let answer = tokio::time::timeout(patience, outgoing.send())
            .await
            .map_err(|_| late(&place).sent())?
            .map_err(|cause| fault(&place, cause))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let source = Pooled { answer, patience, place: place.clone() };
        Ok(Response { status, headers, body: Body::new(Box::new(source), max_body_bytes, place) })
    }
}

#[async_trait]
impl HttpService for HttpClient {
    async fn send(&self, request: Request) -> Result<Response> {
        let place = place(&request.url);
        if let Some(login) = &request.login
            && request.url.scheme() != "https"
            && matches!(login.scheme, Scheme::Basic | Scheme::Bearer)
            && !self.settings.allow_cleartext_password
        {
            let message = format!("{place}: a password or token is not sent without TLS");
            return Err(Error::new(ErrorKind::Settings, message).with_hint("use an https: URL"));
        }
        match request.login.as_ref().map(|login| login.scheme) {
            None | Some(Scheme::Basic | Scheme::Bearer) => self.pooled(request, place).await,
            Some(scheme) => {
                let message = format!("{place}: {scheme} is not served by this version");
                Err(Error::new(ErrorKind::Settings, message))
            }
        }
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// `scheme://host:port`, the name of the server in messages; the path may hold a mailbox, the query a token.
fn place(url: &Url) -> String {
    url.origin().ascii_serialization()
}

fn authorization(login: &Login, place: &str) -> Result<HeaderValue> {
    let missing =
        |what: &str| Error::new(ErrorKind::Settings, format!("{place}: {} needs {what}", login.scheme));
    let text = Zeroizing::new(match login.scheme {
        Scheme::Basic => {
            let password = login.credentials.password().ok_or_else(|| missing("a password"))?;
            let user = &login.credentials.user;
            if user.contains(':') {
                // RFC 7617 section 2: the first colon ends the name
                return Err(missing("a user name without a colon"));
            }
            let pair = Zeroizing::new(format!("{user}:{}", password.expose()));
            format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(pair.as_bytes()))
        }
        _ => {
            let token = login.credentials.token().ok_or_else(|| missing("an access token"))?;
            format!("Bearer {}", token.expose())
        }
    });
    let mut value =
        HeaderValue::from_str(&text).map_err(|_| missing("a token of visible ASCII characters"))?;
    value.set_sensitive(true);
    Ok(value)
}

struct Pooled {
    answer: reqwest::Response,
    patience: Duration,
    place: String,
}

#[async_trait]
impl BodySource for Pooled {
    async fn chunk(&mut self) -> Result<Option<Bytes>> {
        match tokio::time::timeout(self.patience, self.answer.chunk()).await {
            Ok(Ok(piece)) => Ok(piece),
            Ok(Err(cause)) => Err(fault(&self.place, cause).sent()),
            Err(_) => Err(late(&self.place).sent()),
        }
    }
}

pub(crate) fn late(place: &str) -> Error {
    Error::new(ErrorKind::Timeout, format!("{place} does not answer in time"))
        .with_hint("check that the server is not overloaded, or raise the time-out")
}

/// What reqwest says, by kind.
fn fault(place: &str, cause: reqwest::Error) -> Error {
    let cause = cause.without_url();
    let mut io = None;
    let mut inner = cause.source();
    while let Some(error) = inner {
        io = error.downcast_ref::<std::io::Error>().or(io);
        inner = error.source();
    }
    let error = if cause.is_connect() {
        connecting(place, io, &cause)
    } else if cause.is_timeout() {
        late(place).sent()
    } else if cause.is_builder() {
        Error::new(ErrorKind::Settings, format!("{place}: the request cannot be sent: {cause}"))
    } else {
        Error::new(ErrorKind::ConnectionLost, format!("{place}: the connection was lost")).sent()
    };
    error.with_source(cause)
}

fn connecting(place: &str, io: Option<&std::io::Error>, cause: &reqwest::Error) -> Error {
    let hint = "check server name, port, proxy and firewall";
    match io {
        Some(io) if email_router_tls::rustls_error(io).is_some() => {
            let host = place.rsplit('/').next().unwrap_or(place);
            let fault = email_router_tls::handshake_fault(place, host, io);
            let error = Error::new(ErrorKind::Tls(fault.kind), fault.message);
            match fault.hint {
                Some(hint) => error.with_hint(hint),
                None => error,
            }
        }
        Some(io) if io.kind() == std::io::ErrorKind::ConnectionRefused => {
            Error::new(ErrorKind::Refused, format!("{place} refused the connection: nobody listens there"))
                .with_hint(hint)
        }
        _ if cause.is_timeout() => {
            Error::new(ErrorKind::Timeout, format!("{place}: connecting took too long")).with_hint(hint)
        }
        _ => Error::new(ErrorKind::Refused, format!("{place} cannot be reached")).with_hint(hint),
    }
}
