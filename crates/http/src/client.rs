//! The client: requests on pooled connections, those of a login on its own.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use email_router_auth::{Channel, Mechanism, Negotiate, Ntlm};
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, HeaderValue, PROXY_AUTHORIZATION, TRANSFER_ENCODING,
    USER_AGENT,
};
use http::{Method, StatusCode};
use http_body_util::Full;
use tokio::time::Instant;
use url::Url;
use zeroize::Zeroizing;

use crate::body::Streaming;
use crate::connect::{Connector, Origin};
use crate::connection::{Connection, Failed, Incomplete, Outgoing};
use crate::exchange::Proving;
use crate::pool::{Key, Permit, Pool};
use crate::{Body, Error, ErrorKind, HttpService, Login, Proxy, Request, Response, Result, Scheme, fault};

/// How to reach servers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HttpSettings {
    /// PEM files with certificates of authorities that are trusted beside those of the platform.
    pub extra_ca_files: Vec<PathBuf>,
    /// Which proxy is used.
    pub proxy: Proxy,
    /// Longest time for resolving the name, connecting, the proxy and the TLS handshake together.
    pub connect_timeout: Duration,
    /// Longest time without a byte of the answer: for its head, and for each piece of its body.
    pub patience: Duration,
    /// So long a connection is kept open while it is idle.
    pub idle_timeout: Duration,
    /// At most so many connections to one server are kept open while they are idle, beside those that a login proves.
    pub max_idle_connections: usize,
    /// At most so many connections of one login to one server, idle or not, where the login proves connections (NTLM, Negotiate); further
    /// requests wait, each for its patience. Those with [`Request::streaming`](crate::Request::streaming) do not count.
    pub max_connections_per_login: usize,
    /// Whether a password or token may travel over `http:`. Off unless an administrator turns it on.
    pub allow_cleartext_password: bool,
}

impl Default for HttpSettings {
    /// The platform's trust, the system's proxy, 30 s to connect, 100 s of patience (as Microsoft's own clients), 4 idle connections for 60 s, 8
    /// connections of a login.
    fn default() -> Self {
        Self {
            extra_ca_files: Vec::new(),
            proxy: Proxy::System,
            connect_timeout: Duration::from_secs(30),
            patience: Duration::from_secs(100),
            idle_timeout: Duration::from_secs(60),
            max_idle_connections: 4,
            max_connections_per_login: 8,
            allow_cleartext_password: false,
        }
    }
}

/// HTTP over the network.
pub struct HttpClient {
    settings: HttpSettings,
    connector: Connector,
    pool: Arc<Pool>,
    mechanisms: Vec<Arc<dyn Mechanism>>,
}

impl HttpClient {
    /// A client with these settings; reads the files of extra authorities. It knows NTLM, and Negotiate with a password.
    ///
    /// # Errors
    /// [`ErrorKind::Settings`] where a file or the proxy is no good.
    pub fn new(settings: HttpSettings) -> Result<Self> {
        let connector = Connector::new(&settings)?;
        let pool = Pool::new(&settings);
        let mechanisms: Vec<Arc<dyn Mechanism>> =
            vec![Arc::new(Negotiate::system()), Arc::new(Ntlm::system())];
        Ok(Self { settings, connector, pool, mechanisms })
    }

    /// The same client with a mechanism more, which is tried before the others of its name: Kerberos, for the identity of the process, is one of the
    /// name `GSS-SPNEGO`.
    #[must_use]
    pub fn with_mechanism(mut self, mechanism: Arc<dyn Mechanism>) -> Self {
        self.mechanisms.insert(0, mechanism);
        self
    }

    async fn answer(&self, mut request: Request) -> Result<Response> {
        let origin = Origin::of(&request.url)?;
        let login = request.login.take();
        let bound = login.as_ref().filter(|login| login.scheme.proves_connection());
        let plain = login.as_ref().filter(|login| !login.scheme.proves_connection());
        if plain.is_some() && !origin.tls && !self.settings.allow_cleartext_password {
            let message = format!("{}: a password or token is not sent without TLS", origin.place);
            return Err(Error::new(ErrorKind::Settings, message).with_hint("use an https: URL"));
        }
        let authorization = plain.map(|login| authorization(login, &origin.place)).transpose()?;
        let call = Call {
            patience: request.patience.unwrap_or(self.settings.patience),
            streaming: request.streaming,
            max_body_bytes: request.max_body_bytes,
            key: Key::new(&origin, bound),
            url: request.url.clone(),
            origin,
        };
        let outgoing = outgoing(request, authorization)?;
        match bound {
            None => self.pooled(call, &outgoing).await,
            Some(login) => self.proven(call, &outgoing, login).await,
        }
    }

    /// A request that brings its own proof, or none: any connection to its server will do.
    async fn pooled(&self, call: Call, request: &Outgoing) -> Result<Response> {
        let place = &call.origin.place;
        loop {
            let idle = self.pool.take(&call.key, None).await;
            let fresh = idle.is_none();
            let mut connection = match idle {
                Some(connection) => connection,
                None => self.connector.open(&call.origin, &call.url, false).await?,
            };
            match connection.send(call.through(request, &connection)?, call.patience, place).await {
                Ok(answer) => {
                    if let Some(forward) = &connection.forward
                        && answer.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED
                    {
                        let authorized = forward.authorization.is_some();
                        return Err(fault::proxy_refused(&forward.place, place, answer.status(), authorized));
                    }
                    return Ok(self.response(call, answer, connection, None, None));
                }
                Err(Failed::Unsent(_)) if !fresh => {}
                Err(Failed::Unsent(cause)) => return Err(fault::hyper(place, cause)),
                Err(Failed::Error(error)) => return Err(error),
            }
        }
    }

    /// A request whose login proves the connection.
    async fn proven(&self, call: Call, request: &Outgoing, login: &Login) -> Result<Response> {
        let place = call.origin.place.clone();
        // an answer that lasts for half an hour must not keep the connections of its login from everybody else
        let permit = match call.streaming {
            true => None,
            false => self.pool.permit(&call.key, login, call.patience).await?,
        };
        while let Some(mut connection) = self.pool.take(&call.key, Some(login)).await {
            match connection.send(request.clone(), call.patience, &place).await {
                // the server has forgotten the login, or wants it with each request: once more on a fresh connection
                Ok(answer) if answer.status() == StatusCode::UNAUTHORIZED => break,
                Ok(answer) => return Ok(self.response(call, answer, connection, Some(login), permit)),
                Err(Failed::Unsent(_)) => {}
                Err(Failed::Error(error)) => return Err(error),
            }
        }
        let mut connection = self.connector.open(&call.origin, &call.url, true).await?;
        let Origin { tls, host, port, .. } = &call.origin;
        let channel = if *tls {
            Channel::tls("HTTP", host.clone(), *port, connection.end_point.clone())
        } else {
            Channel::clear("HTTP", host.clone(), *port, self.settings.allow_cleartext_password)
        };
        let proving =
            Proving { login, mechanisms: &self.mechanisms, channel, patience: call.patience, place: &place };
        let answer = proving.send(&mut connection, request).await?;
        Ok(self.response(call, answer, connection, Some(login), permit))
    }

    fn response(
        &self,
        call: Call,
        answer: Incomplete,
        connection: Connection,
        login: Option<&Login>,
        permit: Permit,
    ) -> Response {
        let (head, incoming) = answer.into_parts();
        let Call { key, origin, patience, streaming, max_body_bytes, .. } = call;
        // a connection that is not proven, or not any more, serves nobody
        let reusable = login.is_none() || head.status != StatusCode::UNAUTHORIZED;
        let pool = reusable.then(|| (Arc::clone(&self.pool), key, login.cloned()));
        let source =
            Streaming::new(incoming, connection, pool, permit, patience, streaming, origin.place.clone());
        let body = Body::new(Box::new(source), max_body_bytes, origin.place);
        Response { status: head.status, headers: head.headers, body }
    }
}

/// What is to be kept of a request while it is under way.
struct Call {
    origin: Origin,
    url: Url,
    key: Key,
    patience: Duration,
    streaming: bool,
    max_body_bytes: u64,
}

impl Call {
    /// The request as this connection takes it: a proxy that passes it on wants the whole URL (RFC 9112 section 3.2.2).
    fn through(&self, request: &Outgoing, connection: &Connection) -> Result<Outgoing> {
        let mut request = request.clone();
        if let Some(forward) = &connection.forward {
            *request.uri_mut() = self.url[..url::Position::AfterQuery].parse().map_err(|_| {
                Error::new(ErrorKind::Settings, format!("{}: the URL cannot be used", self.origin.place))
            })?;
            if let Some(authorization) = &forward.authorization {
                request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
            }
        }
        Ok(request)
    }
}

#[async_trait]
impl HttpService for HttpClient {
    async fn send(&self, request: Request) -> Result<Response> {
        let start = Instant::now();
        let (method, place) = (request.method.clone(), request.url.origin().ascii_serialization());
        let scheme = request.login.as_ref().map_or("anonymous", |login| login.scheme.as_str());
        let result = self.answer(request).await;
        let took = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        // never a path, a query or a header: they hold mailboxes, tokens and passwords
        match &result {
            Ok(answer) => {
                let status = answer.status.as_u16();
                tracing::debug!(target: LOG, %method, server = %place, scheme, status, took_ms = took, "answered");
            }
            Err(error) => {
                let (kind, sent) = (error.kind(), error.was_sent());
                tracing::debug!(target: LOG, %method, server = %place, scheme, ?kind, sent, took_ms = took, "no answer: {error}");
            }
        }
        result
    }
}

/// The target of log lines about requests.
const LOG: &str = "email_router_http::requests";

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient")
            .field("settings", &self.settings)
            .field("mechanisms", &self.mechanisms)
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

/// The request as it goes to a server itself.
fn outgoing(request: Request, authorization: Option<HeaderValue>) -> Result<Outgoing> {
    let Request { method, url, mut headers, body, .. } = request;
    let place = url.origin().ascii_serialization();
    let unusable = |what| Error::new(ErrorKind::Settings, format!("{place}: the {what} cannot be sent"));
    // these are ours to write: a wrong one would have the server read another request than we sent
    for name in [AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, PROXY_AUTHORIZATION, TRANSFER_ENCODING] {
        headers.remove(name);
    }
    if !headers.contains_key(USER_AGENT) {
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("email-router/", env!("CARGO_PKG_VERSION"))),
        );
    }
    let authority = &url[url::Position::BeforeHost..url::Position::AfterPort];
    headers.insert(HOST, HeaderValue::from_str(authority).map_err(|_| unusable("host name"))?);
    if let Some(authorization) = authorization {
        headers.insert(AUTHORIZATION, authorization);
    }
    if body.is_empty() && [Method::POST, Method::PUT, Method::PATCH].contains(&method) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let mut outgoing = http::Request::new(Full::new(body));
    *outgoing.method_mut() = method;
    *outgoing.uri_mut() = path.parse().map_err(|_| unusable("path of the URL"))?;
    *outgoing.headers_mut() = headers;
    Ok(outgoing)
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
