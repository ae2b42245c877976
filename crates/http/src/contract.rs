//! What a client of HTTP can ask for.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::{Bytes, BytesMut};
use email_router_auth::Credentials;
use email_router_model::Redactor;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use url::Url;
use zeroize::Zeroizing;

use crate::{Error, ErrorKind, Result};

/// Sends one request and gives the answer, whatever its status.
///
/// # Contract
/// - Calls may come from any task at the same time.
/// - A status of 400 or more is an answer, not an error. A redirect is an answer, too: whoever asks decides whether it is followed.
/// - Nothing is sent twice by itself, but on a connection that the server had closed while it was idle, and for the legs of an authentication
///   exchange.
/// - Dropping the future, or the body before its end, leaves no connection behind that a later request could read from.
/// - No error, `Debug` or log line shows a secret.
#[async_trait]
pub trait HttpService: fmt::Debug + Send + Sync + 'static {
    /// Sends a request; the answer's head has arrived when it returns, the body is read from [`Response::body`].
    ///
    /// # Errors
    /// No answer came. [`Error::was_sent`] tells whether the server may have acted on the request.
    async fn send(&self, request: Request) -> Result<Response>;
}

/// One request. Its `Debug` shows neither the query of the URL nor the header's values nor the body: each may hold a secret.
#[derive(Clone)]
#[non_exhaustive]
pub struct Request {
    /// The method.
    pub method: Method,
    /// Where to; `http` or `https`, without user information.
    pub url: Url,
    /// The header, without `Authorization`, which comes from [`Self::login`].
    pub headers: HeaderMap,
    /// The body; may be empty.
    pub body: Bytes,
    /// Who asks; `None`: anonymous.
    pub login: Option<Login>,
    /// The largest body of the answer that is read, in bytes; beyond it is [`ErrorKind::TooLarge`].
    pub max_body_bytes: u64,
    /// The longest time without a byte of the answer (its head, then each piece of its body), in place of the client's; for requests whose
    /// answer is long in coming.
    pub patience: Option<Duration>,
    /// The answer comes piece by piece as something happens (streaming notifications): only the time between two pieces counts. Otherwise a body must
    /// come at no less than 1 KiB for each second after the first [`Self::patience`].
    pub streaming: bool,
}

impl Request {
    /// A request without header, body and login; the answer may have 16 MiB.
    #[must_use]
    pub fn new(method: Method, url: Url) -> Self {
        Self {
            method,
            url,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            login: None,
            max_body_bytes: 16 * 1024 * 1024,
            patience: None,
            streaming: false,
        }
    }

    /// The same request with this body.
    #[must_use]
    pub fn with_body(mut self, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        self.headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        self.body = body.into();
        self
    }

    /// The same request with a header field more, in place of one of the same name. The value must be valid already.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// The same request by this identity.
    #[must_use]
    pub fn with_login(mut self, login: Option<Login>) -> Self {
        self.login = login;
        self
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("url", &&self.url[..url::Position::AfterPath])
            .field("headers", &self.headers.keys().collect::<Vec<_>>())
            .field("body_bytes", &self.body.len())
            .field("login", &self.login)
            .finish_non_exhaustive()
    }
}

/// Who asks, and how that is proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// How.
    pub scheme: Scheme,
    /// Who.
    pub credentials: Credentials,
}

impl Login {
    /// What keeps the proof out of the server's words, in every form in which a server may quote it: an error page that shows the request, XML or JSON with
    /// its escapes, the value of the header.
    #[must_use]
    pub fn redactor(&self) -> Redactor {
        let mut redactor = Redactor::default();
        let Some(secret) = self.credentials.secret() else { return redactor };
        let plain = secret.expose();
        redactor.add(plain);
        for apostrophe in ["&#39;", "&apos;"] {
            redactor.add(&spelled(plain, |c| match c {
                '&' => Some("&amp;".into()),
                '<' => Some("&lt;".into()),
                '>' => Some("&gt;".into()),
                '"' => Some("&quot;".into()),
                '\'' => Some(apostrophe.into()),
                _ => None,
            }));
        }
        redactor.add(&spelled(plain, |c| matches!(c, '\\' | '"').then(|| format!("\\{c}"))));
        // as .NET writes JSON
        redactor.add(&spelled(plain, |c| match c {
            '\\' => Some("\\\\".into()),
            '&' | '<' | '>' | '"' | '\'' | '+' => Some(format!("\\u{:04X}", u32::from(c))),
            c if !c.is_ascii() => {
                Some(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04X}")).collect())
            }
            _ => None,
        }));
        let form: Zeroizing<String> =
            Zeroizing::new(url::form_urlencoded::byte_serialize(plain.as_bytes()).collect());
        redactor.add(&form);
        redactor.add(&Zeroizing::new(form.replace('+', "%20")));
        let pair = Zeroizing::new(format!("{}:{plain}", self.credentials.user));
        redactor.add(&Zeroizing::new(BASE64_STANDARD.encode(pair.as_bytes())));
        redactor
    }
}

/// The text with some characters written in another way.
fn spelled(text: &str, other: impl Fn(char) -> Option<String>) -> Zeroizing<String> {
    let mut out = Zeroizing::new(String::with_capacity(text.len() * 6));
    for c in text.chars() {
        match other(c) {
            Some(other) => out.push_str(&other),
            None => out.push(c),
        }
    }
    out
}

/// How a login is proven (the registered authentication schemes of HTTP).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scheme {
    /// `Basic` (RFC 7617): name and password with each request; refused without TLS unless [`HttpSettings::allow_cleartext_password`](crate::HttpSettings).
    Basic,
    /// `Bearer` (RFC 6750): an access token with each request; refused without TLS in the same way.
    Bearer,
    /// `NTLM`: proves a connection, not a request.
    Ntlm,
    /// `Negotiate` (RFC 4559): Kerberos for the identity of the process, NTLM inside SPNEGO for a password; proves a connection.
    Negotiate,
    /// Windows authentication: `Negotiate`, or `NTLM` where the server offers only that.
    Windows,
}

impl Scheme {
    /// Whether a login proves the connection, and not each request.
    #[must_use]
    pub fn proves_connection(self) -> bool {
        matches!(self, Self::Ntlm | Self::Negotiate | Self::Windows)
    }

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Basic => "Basic",
            Self::Bearer => "Bearer",
            Self::Ntlm => "NTLM",
            Self::Negotiate => "Negotiate",
            Self::Windows => "Windows authentication",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An answer whose head has arrived.
#[derive(Debug)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The header.
    pub headers: HeaderMap,
    /// The body, not read yet.
    pub body: Body,
}

impl Response {
    /// A header field as text; `None` where it is missing or not visible ASCII.
    #[must_use]
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Where a body comes from, piece by piece. Implemented by the client, and by tests.
#[async_trait]
pub trait BodySource: Send {
    /// The next piece; `None` at the end.
    async fn chunk(&mut self) -> Result<Option<Bytes>>;

    /// How many bytes are still to come, where the server has said so; nobody has checked that.
    fn left(&self) -> Option<u64> {
        None
    }
}

/// The body of an answer, read piece by piece under a cap.
pub struct Body {
    source: Box<dyn BodySource>,
    left: u64,
    cap: u64,
    place: String,
}

/// So much room is made at the most for a body on the server's word alone, in bytes. What stays unused costs no memory, only addresses.
const MOST_ROOM: u64 = 32 << 20;

impl Body {
    /// A body of at most `cap` bytes; `place` names the server in errors.
    #[must_use]
    pub fn new(source: Box<dyn BodySource>, cap: u64, place: String) -> Self {
        Self { source, left: cap, cap, place }
    }

    /// A body that is here already; for tests.
    #[must_use]
    pub fn of(bytes: impl Into<Bytes>) -> Self {
        struct Once(Option<Bytes>);
        #[async_trait]
        impl BodySource for Once {
            async fn chunk(&mut self) -> Result<Option<Bytes>> {
                Ok(self.0.take())
            }
        }
        Self::new(Box::new(Once(Some(bytes.into()))), u64::MAX, "a test".to_owned())
    }

    /// The next piece, never empty; `None` at the end. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] beyond the cap, network faults.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        loop {
            let Some(piece) = self.source.chunk().await? else { return Ok(None) };
            let length = piece.len() as u64;
            if length > self.left {
                let message = format!("{} answered with more than {} bytes", self.place, self.cap);
                return Err(Error::new(ErrorKind::TooLarge, message).sent());
            }
            self.left -= length;
            if length > 0 {
                return Ok(Some(piece));
            }
        }
    }

    /// All of it.
    ///
    /// # Errors
    /// As [`Self::chunk`].
    pub async fn collect(mut self) -> Result<Bytes> {
        // each piece is let go before the next one is read, so that the connection can read that into the same buffer
        let announced = self.source.left().unwrap_or(0).min(self.left).min(MOST_ROOM);
        let mut all = BytesMut::with_capacity(usize::try_from(announced).unwrap_or(0));
        while let Some(piece) = self.chunk().await? {
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }

    /// The beginning of it, as text for an error message; at most `most` bytes, whatever is wrong with the rest.
    pub async fn excerpt(mut self, most: usize) -> String {
        let mut all = Vec::new();
        while all.len() < most {
            match self.chunk().await {
                Ok(Some(piece)) => all.extend_from_slice(&piece[..piece.len().min(most - all.len())]),
                _ => break,
            }
        }
        String::from_utf8_lossy(&all).into_owned()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("cap", &self.cap).field("left", &self.left).finish_non_exhaustive()
    }
}
