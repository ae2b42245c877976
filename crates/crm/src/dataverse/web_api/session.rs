//! Requests by one identity: its login, its budget, its patience.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use email_router_http::{
    HeaderMap, HeaderName, HeaderValue, Login, Method, Request, Response, StatusCode, header, retry_after,
};
use email_router_model::Classified as _;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use url::Url;

use super::fault::{self, Fault};
use super::pages::Pages;
use crate::dataverse::settings::{ApiVersion, DataverseSettings};
use crate::{Error, ErrorKind, Result};

/// The most of a JSON answer that is read, in bytes: a page of 5,000 rows, or an attachment of 131,072,000 bytes in base64.
const MOST_JSON: u64 = 256 << 20;
/// The most of an error answer that is read.
const MOST_ERROR: usize = 64 << 10;
/// How often a request is sent at the most.
const ATTEMPTS: u32 = 5;
/// The delay before the second attempt where the server names none; doubles from then on.
const FIRST_DELAY: Duration = Duration::from_millis(500);

/// One request, by a path behind the version (`emails?$top=1`) or by a whole URL (a link that the server gave).
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Option<(String, Bytes)>,
    /// Sending it again changes nothing more than sending it once.
    harmless: bool,
    doing: String,
}

impl Ask {
    /// A request; `doing` says in error messages what it was for (`reading the organization`). Reading is harmless.
    pub(crate) fn new(method: Method, path: impl Into<String>, doing: impl Into<String>) -> Self {
        let harmless = matches!(method, Method::GET | Method::DELETE);
        Self {
            method,
            path: path.into(),
            headers: HeaderMap::new(),
            body: None,
            harmless,
            doing: doing.into(),
        }
    }

    /// With this JSON.
    pub(crate) fn json(mut self, body: &Value) -> Self {
        self.body = Some(("application/json; charset=utf-8".to_owned(), Bytes::from(body.to_string())));
        self
    }

    /// With this body.
    pub(crate) fn body(mut self, content_type: String, body: Bytes) -> Self {
        self.body = Some((content_type, body));
        self
    }

    /// With a header field more (two of one name: both).
    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        // our own texts and what the server gave us in a header; what is neither is left out
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.append(HeaderName::from_static(name), value);
        }
        self
    }

    /// May be sent again where no answer came.
    pub(crate) fn harmless(mut self) -> Self {
        self.harmless = true;
        self
    }
}

/// An answer of status 2xx, or 304.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    place: Arc<str>,
    doing: String,
}

impl Answer {
    /// Its JSON.
    pub(crate) fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).map_err(|cause| {
            let message = format!("{}: {}: the answer is no JSON ({cause})", self.place, self.doing);
            Error::new(ErrorKind::Unreachable, message)
                .with_hint("check that Url names the organization, and that no proxy or sign-in page answers in its place")
        })
    }
}

/// An organization's Web API, as one identity sees it. Clones share the budget.
#[derive(Clone)]
pub(crate) struct Session(Arc<Inner>);

struct Inner {
    settings: DataverseSettings,
    /// Root, version and a slash.
    base: Url,
    place: Arc<str>,
    budget: Semaphore,
    /// Until when the server wants to be left alone by this identity.
    paused: Mutex<Option<Instant>>,
}

impl Session {
    /// The organization's Web API in this version.
    pub(crate) fn new(settings: DataverseSettings, version: ApiVersion) -> Result<Self> {
        let place: Arc<str> = place(&settings.url).into();
        let root = settings.url.as_str().trim_end_matches('/');
        let base = Url::parse(&format!("{root}/api/data/v{version}/")).map_err(|cause| {
            Error::new(ErrorKind::Refused, format!("{place}: Url cannot be used")).with_source(cause)
        })?;
        let budget = Semaphore::new(settings.max_connections.clamp(1, 52));
        Ok(Self(Arc::new(Inner { settings, base, place, budget, paused: Mutex::new(None) })))
    }

    pub(crate) fn settings(&self) -> &DataverseSettings {
        &self.0.settings
    }

    /// The organization, for messages.
    pub(crate) fn place(&self) -> &Arc<str> {
        &self.0.place
    }

    /// Root, version and a slash.
    pub(crate) fn base(&self) -> &Url {
        &self.0.base
    }

    /// Reads a JSON object.
    pub(crate) async fn get(&self, path: &str, doing: &str) -> Result<Value> {
        self.send(Ask::new(Method::GET, path, doing)).await?.json()
    }

    /// All rows of a query, page by page. `prefer`: what stands in the field Prefer (`odata.maxpagesize=500`).
    pub(crate) fn pages(&self, path: impl Into<String>, prefer: &[&str], doing: &str) -> Pages {
        Pages::new(self.clone(), path.into(), prefer, doing)
    }

    /// Sends a request as often as it takes: waits where the server asks for it, repeats what is harmless where a moment may help.
    ///
    /// # Errors
    /// No answer of status 2xx (or 304); [`fault::of`] gives what the server said.
    pub(crate) async fn send(&self, ask: Ask) -> Result<Answer> {
        let mut waited = Duration::ZERO;
        let mut renewed = false;
        let mut attempt = 1;
        loop {
            self.rest(&ask, &mut waited).await?;
            let (error, delay) = match self.once(&ask).await? {
                Outcome::Done(answer) => return Ok(answer),
                Outcome::Unauthorized(login, fault) => {
                    if !renewed && self.0.settings.login.refused(&login) {
                        renewed = true; // a token that ended early; one more, then it is no accident
                        continue;
                    }
                    return Err(fault.into_error(&self.0.place, &ask.doing));
                }
                Outcome::Throttled(fault) => {
                    let delay = fault.retry_after.unwrap_or_else(|| self.delay(attempt));
                    self.pause(delay);
                    (fault.into_error(&self.0.place, &ask.doing).after(delay), delay)
                }
                Outcome::Passing(fault) => {
                    let delay = fault.retry_after.unwrap_or_else(|| self.delay(attempt));
                    (fault.into_error(&self.0.place, &ask.doing), delay)
                }
                Outcome::Lost(error) => (error, self.delay(attempt)),
            };
            if attempt >= ATTEMPTS || waited + delay > self.0.settings.longest_wait {
                return Err(error);
            }
            tracing::debug!(attempt, delay_ms = delay.as_millis(), "{error}; trying again");
            waited += delay;
            tokio::time::sleep(delay).await;
            attempt += 1;
        }
    }

    /// Waits while the server wants to be left alone by this identity.
    async fn rest(&self, ask: &Ask, waited: &mut Duration) -> Result<()> {
        loop {
            let until = *self.0.paused.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(left) = until.and_then(|until| until.checked_duration_since(Instant::now())) else {
                return Ok(());
            };
            if left.is_zero() {
                return Ok(());
            }
            if *waited + left > self.0.settings.longest_wait {
                let message = format!(
                    "{}: {}: the organization asked for a pause of {} s more",
                    self.0.place,
                    ask.doing,
                    left.as_secs() + 1
                );
                return Err(Error::new(ErrorKind::Busy, message).after(left));
            }
            *waited += left;
            tokio::time::sleep(left).await;
        }
    }

    /// All requests of this identity wait: the server's wish grows while one keeps calling (11.3).
    fn pause(&self, delay: Duration) {
        let until = Instant::now() + delay;
        let mut paused = self.0.paused.lock().unwrap_or_else(PoisonError::into_inner);
        if paused.is_none_or(|present| present < until) {
            *paused = Some(until);
        }
    }

    fn delay(&self, attempt: u32) -> Duration {
        // several routers must not come back at the same moment
        FIRST_DELAY
            .saturating_mul(1 << attempt.min(8))
            .mul_f64(0.5 + self.0.settings.entropy.fraction() / 2.0)
    }

    /// One attempt.
    async fn once(&self, ask: &Ask) -> Result<Outcome> {
        let inner = &*self.0;
        let _permit = inner.budget.acquire().await.map_err(|_| {
            Error::new(ErrorKind::Unreachable, format!("{}: {}: shutting down", inner.place, ask.doing))
        })?;
        let login = inner.settings.login.login().await.map_err(|cause| self.no_login(ask, cause))?;
        let request = self.request(ask, &login)?;
        let exchange = async {
            let response = inner.settings.http.send(request).await?;
            Self::answer(response).await
        };
        let outcome = tokio::time::timeout(inner.settings.operation_timeout, exchange).await;
        let (status, headers, body) = match outcome {
            Ok(Ok(answer)) => answer,
            Ok(Err(cause)) => {
                let again =
                    cause.retry() != email_router_model::Retry::Never && (ask.harmless || !cause.was_sent());
                let error = fault::transport(&inner.place, &ask.doing, cause);
                return if again { Ok(Outcome::Lost(error)) } else { Err(error) };
            }
            Err(_) => {
                let message = format!(
                    "{}: {}: no answer within {} s",
                    inner.place,
                    ask.doing,
                    inner.settings.operation_timeout.as_secs()
                );
                let error = Error::new(ErrorKind::Unreachable, message).with_hint(
                    "the server is slow; raise OperationTimeout of the deployment if it always is",
                );
                return if ask.harmless { Ok(Outcome::Lost(error)) } else { Err(error) };
            }
        };
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            let place = Arc::clone(&inner.place);
            return Ok(Outcome::Done(Answer { headers, body, place, doing: ask.doing.clone() }));
        }
        let secrets = login.redactor();
        let mut fault =
            Fault::parse(status.as_u16(), secrets.clean(&String::from_utf8_lossy(&body)).as_bytes());
        fault.retry_after = retry_after(&headers, inner.settings.clock.now()).or(fault.retry_after);
        fault.request = request_id(&headers);
        Ok(if status == StatusCode::UNAUTHORIZED {
            Outcome::Unauthorized(login, fault)
        } else if fault.is_throttling() {
            Outcome::Throttled(fault)
        } else if ask.harmless && fault.is_passing() {
            Outcome::Passing(fault)
        } else {
            return Err(fault.into_error(&inner.place, &ask.doing));
        })
    }

    fn request(&self, ask: &Ask, login: &Login) -> Result<Request> {
        let unusable =
            |why: &str| Error::new(ErrorKind::Invalid, format!("{}: {}: {why}", self.0.place, ask.doing));
        let absolute = ask.path.starts_with("https://") || ask.path.starts_with("http://");
        let url = if absolute {
            Url::parse(&ask.path).ok()
        } else {
            Url::parse(&format!("{}{}", self.0.base, ask.path)).ok()
        }
        .ok_or_else(|| unusable("the server gave a link that is no URL"))?;
        // the login goes to the organization and nowhere else, whatever link a server gives
        if url.origin() != self.0.base.origin() {
            return Err(unusable("the server gave a link to another server"));
        }
        let mut request = Request::new(ask.method.clone(), url).with_login(Some(login.clone()));
        request.headers = ask.headers.clone();
        for (name, value) in [
            (header::ACCEPT, "application/json"),
            (HeaderName::from_static("odata-version"), "4.0"),
            (HeaderName::from_static("odata-maxversion"), "4.0"),
        ] {
            request.headers.entry(name).or_insert(HeaderValue::from_static(value));
        }
        // Microsoft's samples send it to defeat caches (11.1)
        if ask.method == Method::GET {
            request.headers.entry(header::IF_NONE_MATCH).or_insert(HeaderValue::from_static("null"));
        }
        if let Some((content_type, body)) = &ask.body {
            let value = HeaderValue::from_str(content_type).map_err(|_| unusable("bad content type"))?;
            request.headers.insert(header::CONTENT_TYPE, value);
            request.body = body.clone();
        }
        request.max_body_bytes = MOST_JSON;
        Ok(request)
    }

    async fn answer(response: Response) -> email_router_http::Result<(StatusCode, HeaderMap, Bytes)> {
        let (status, headers) = (response.status, response.headers);
        let body = if status.is_success() {
            response.body.collect().await?
        } else {
            Bytes::from(response.body.excerpt(MOST_ERROR).await)
        };
        Ok((status, headers, body))
    }

    fn no_login(&self, ask: &Ask, cause: email_router_auth::CredentialError) -> Error {
        no_login(&self.0.place, &ask.doing, cause)
    }
}

/// There are no credentials to ask with.
pub(crate) fn no_login(place: &str, doing: &str, cause: email_router_auth::CredentialError) -> Error {
    let mut error =
        Error::new(ErrorKind::Refused, format!("{place}: {doing}: {cause}")).with_retry(cause.retry);
    if let Some(hint) = &cause.hint {
        error = error.with_hint(hint.clone());
    }
    error.with_source(cause)
}

enum Outcome {
    Done(Answer),
    Unauthorized(Login, Fault),
    Throttled(Fault),
    Passing(Fault),
    Lost(Error),
}

/// How an organization is called in messages: host and path of its root.
pub(crate) fn place(url: &Url) -> String {
    let host = url.host_str().unwrap_or("nowhere");
    let path = url.path().trim_end_matches('/');
    match url.port() {
        Some(port) => format!("CRM {host}:{port}{path}"),
        None => format!("CRM {host}{path}"),
    }
}

/// What names the request in the server's trace (11.1).
fn request_id(headers: &HeaderMap) -> Option<String> {
    ["x-ms-service-request-id", "req_id"]
        .iter()
        .find_map(|name| headers.get(*name)?.to_str().ok())
        .map(|id| fault::one_line(&id.chars().take(80).collect::<String>()))
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("base", &self.0.base.as_str()).finish_non_exhaustive()
    }
}
