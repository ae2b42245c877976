//! One mailbox at the service: requests with the right token, under the limits of Exchange Online, with patience where it is throttling.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use email_router_http::{
    HeaderMap, HeaderName, HeaderValue, Login, Method, Request, Response, Scheme, StatusCode, header,
    retry_after,
};
use email_router_model::{Mailbox, Scope};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::Url;

use super::error::{self, Stage};
use super::proto::fault::Fault;
use super::proto::{self, IMMUTABLE, batch, link};
use super::settings::GraphSettings;
use crate::net::Redactor;
use crate::{Error, ErrorKind, Result};

/// The most of a JSON answer that is read, in bytes: a page of 1000 messages, or a batch of header sections.
const MOST_JSON: u64 = 32 << 20;
/// The most of an error answer that is read.
const MOST_ERROR: usize = 64 << 10;
/// The delay before the second attempt where the service names none; doubles from then on.
const FIRST_DELAY: Duration = Duration::from_millis(500);

/// The settings, and how many requests are under way for each mailbox.
pub(super) struct Service {
    pub(super) settings: GraphSettings,
    pub(super) place: String,
    lanes: Mutex<HashMap<String, Weak<Semaphore>>>,
}

impl Service {
    pub(super) fn new(settings: GraphSettings) -> Self {
        let host = settings.base.host_str().unwrap_or("nowhere");
        let place = match settings.base.port() {
            Some(port) => format!("graph {host}:{port}"),
            None => format!("graph {host}"),
        };
        Self { settings, place, lanes: Mutex::default() }
    }

    /// The one counter of a mailbox's requests, however many sessions there are.
    fn lane(&self, user: &str) -> Arc<Semaphore> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = lanes.get(user).and_then(Weak::upgrade) {
            return lane;
        }
        lanes.retain(|_, lane| lane.strong_count() > 0);
        let lane = Arc::new(Semaphore::new(self.settings.places() as usize));
        lanes.insert(user.to_owned(), Arc::downgrade(&lane));
        lane
    }
}

/// A mailbox at the service. Cheap to clone; clones share the limits.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) service: Arc<Service>,
    /// Whose token is asked for.
    mailbox: Arc<Mailbox>,
    /// The mailbox in URLs.
    user: Arc<str>,
    lane: Arc<Semaphore>,
}

/// One request.
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) body: Option<(&'static str, Bytes)>,
    pub(super) headers: HeaderMap,
    pub(super) stage: Stage,
    /// Sending it again changes nothing: done also after an answer of 500 and its like.
    pub(super) harmless: bool,
    /// With our token.
    pub(super) authorized: bool,
    /// The service works on as many parts of a batch at a time as it allows requests, so nothing else may be under way beside one.
    pub(super) alone: bool,
    pub(super) most: u64,
}

impl Ask {
    pub(super) fn new(method: Method, url: Url, stage: Stage) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static("prefer"), HeaderValue::from_static(IMMUTABLE));
        let harmless = method == Method::GET;
        Self {
            method,
            url,
            body: None,
            headers,
            stage,
            harmless,
            authorized: true,
            alone: false,
            most: MOST_JSON,
        }
    }

    pub(super) fn json(mut self, body: &Value) -> Self {
        self.body = Some(("application/json", Bytes::from(body.to_string())));
        self
    }

    pub(super) fn header(mut self, name: HeaderName, value: &str) -> Self {
        // our own texts, which are all valid
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    /// A batch of these requests, all of which may be repeated.
    pub(super) fn batch(url: Url, parts: &[batch::Part], stage: Stage) -> Self {
        let mut ask = Self::new(Method::POST, url, stage).harmless();
        ask.body = Some(("application/json", Bytes::from(batch::request(parts))));
        ask.alone = true;
        ask
    }

    pub(super) fn harmless(mut self) -> Self {
        self.harmless = true;
        self
    }
}

/// An answer of status 2xx, and the place in the lane of its mailbox, which is given up with it.
pub(super) struct Answer {
    pub(super) response: Response,
    _permit: OwnedSemaphorePermit,
}

/// Why there is no answer of status 2xx.
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) fault: Fault,
    pub(super) error: Error,
}

/// What came of a request.
pub(super) enum Outcome {
    Done(Answer),
    Refused(Box<Refusal>),
}

impl Outcome {
    pub(super) fn done(self) -> Result<Answer> {
        match self {
            Self::Done(answer) => Ok(answer),
            Self::Refused(refusal) => Err(refusal.error),
        }
    }
}

impl Client {
    pub(super) fn new(service: Arc<Service>, mailbox: &Mailbox) -> Self {
        // a login name of another world (DOMAIN\name) is no user of Graph
        let user = match mailbox.login.as_deref() {
            Some(login) if login.contains('@') => login,
            _ => mailbox.address.as_str(),
        };
        Self::of(service, mailbox, user)
    }

    /// The mailbox of this name at the service, with the token for `mailbox`.
    pub(super) fn of(service: Arc<Service>, mailbox: &Mailbox, user: &str) -> Self {
        let lane = service.lane(&user.to_lowercase());
        Self { mailbox: Arc::new(mailbox.clone()), user: link::segment(user).into(), lane, service }
    }

    pub(super) fn place(&self) -> &str {
        &self.service.place
    }

    pub(super) fn settings(&self) -> &GraphSettings {
        &self.service.settings
    }

    /// What names the mailbox in what is remembered: where it is, not what we call it.
    pub(super) fn key(&self) -> String {
        self.user.to_lowercase()
    }

    /// `/users/<mailbox>` and what follows, as it stands in a batch.
    pub(super) fn path(&self, rest: &str) -> String {
        format!("/users/{}{rest}", self.user)
    }

    /// The URL of `/users/<mailbox>` and what follows.
    pub(super) fn url(&self, rest: &str) -> Result<Url> {
        self.absolute(&self.path(rest))
    }

    /// The URL of a path behind the version.
    pub(super) fn absolute(&self, path: &str) -> Result<Url> {
        let base = self.settings().base.as_str().trim_end_matches('/');
        Url::parse(&format!("{base}{path}")).map_err(|cause| {
            Error::new(ErrorKind::Settings, format!("{}: the base URL cannot be used", self.place()))
                .with_source(cause)
        })
    }

    pub(super) async fn login(&self) -> Result<Login> {
        match self.settings().credentials.credentials(&self.mailbox).await? {
            Some(credentials) if credentials.token().is_some() => {
                Ok(Login { scheme: Scheme::Bearer, credentials })
            }
            _ => {
                let message = format!("{}: there is no access token for the {}", self.place(), self.mailbox);
                Err(Error::new(ErrorKind::Settings, message)
                    .with_hint("Microsoft Graph knows OAuth 2.0 only: give the profile tenant, application id, and secret or certificate"))
            }
        }
    }

    /// Sends a request, waits where the service asks for it, and gives an answer of status 2xx.
    pub(super) async fn send(&self, ask: &Ask) -> Result<Answer> {
        self.outcome(ask).await?.done()
    }

    /// The same, with what an error answer says.
    pub(super) async fn outcome(&self, ask: &Ask) -> Result<Outcome> {
        let mut waited = Duration::ZERO;
        let mut attempt = 1;
        loop {
            let (answer, secrets) = self.once(ask).await?;
            let status = answer.response.status;
            if status.is_success() {
                return Ok(Outcome::Done(answer));
            }
            let wait = retry_after(&answer.response.headers, self.settings().clock.now());
            // the lane is given up before a wait
            let refusal = self.refusal(ask, answer.response, wait, &secrets).await;
            drop(answer._permit);
            let patient = refusal.error.kind() == ErrorKind::Throttled
                || (ask.harmless && matches!(status.as_u16(), 500 | 502 | 504));
            let delay = wait.unwrap_or_else(|| self.delay(attempt));
            if !patient
                || attempt >= self.settings().attempts
                || waited + delay > self.settings().longest_wait
            {
                return Ok(Outcome::Refused(Box::new(refusal)));
            }
            tracing::debug!(
                place = self.place(),
                status = status.as_u16(),
                ?delay,
                "asked to come back later"
            );
            tokio::time::sleep(delay).await;
            waited += delay;
            attempt += 1;
        }
    }

    /// The delay after the n-th attempt, where the service names none.
    pub(super) fn delay(&self, attempt: u32) -> Duration {
        let full = FIRST_DELAY.saturating_mul(1 << attempt.min(6).saturating_sub(1));
        full.mul_f64(0.5 + self.settings().entropy.fraction() / 2.0)
    }

    /// Sends a request once; twice where the token is refused and there is another one.
    async fn once(&self, ask: &Ask) -> Result<(Answer, Redactor)> {
        let mut secrets = Redactor::default();
        if !ask.authorized {
            return Ok((self.raw(ask, None).await?, secrets));
        }
        let login = self.login().await?;
        conceal(&mut secrets, &login);
        let answer = self.raw(ask, Some(login.clone())).await?;
        if answer.response.status != StatusCode::UNAUTHORIZED {
            return Ok((answer, secrets));
        }
        let source = &self.settings().credentials;
        source.refused(&self.mailbox, &login.credentials);
        let other = self.login().await?;
        if other == login {
            return Ok((answer, secrets));
        }
        drop(answer);
        conceal(&mut secrets, &other);
        let answer = self.raw(ask, Some(other.clone())).await?;
        if answer.response.status == StatusCode::UNAUTHORIZED {
            source.refused(&self.mailbox, &other.credentials);
        }
        Ok((answer, secrets))
    }

    async fn raw(&self, ask: &Ask, login: Option<Login>) -> Result<Answer> {
        // the semaphore is never closed
        let places = if ask.alone { self.settings().places() } else { 1 };
        let permit = Arc::clone(&self.lane).acquire_many_owned(places).await.map_err(|_| self.late(ask))?;
        let mut request = Request::new(ask.method.clone(), ask.url.clone());
        request.headers = ask.headers.clone();
        if let Some((content_type, body)) = &ask.body {
            request = request.with_body(content_type, body.clone());
        }
        request.max_body_bytes = ask.most;
        let request = request.with_login(login);
        let sent =
            tokio::time::timeout(self.settings().operation_timeout, self.settings().http.send(request)).await;
        match sent {
            Ok(Ok(response)) => Ok(Answer { response, _permit: permit }),
            Ok(Err(cause)) => Err(self.lost(ask, cause)),
            Err(_) => Err(self.late(ask)),
        }
    }

    async fn refusal(
        &self,
        ask: &Ask,
        response: Response,
        wait: Option<Duration>,
        secrets: &Redactor,
    ) -> Refusal {
        let status = response.status.as_u16();
        let id = response.header(&HeaderName::from_static("request-id")).map(str::to_owned);
        let body =
            tokio::time::timeout(self.settings().operation_timeout, response.body.excerpt(MOST_ERROR)).await;
        let body = secrets.clean_excerpt(&body.unwrap_or_default());
        let mut fault = Fault::read(body.as_bytes());
        fault.request_id = fault.request_id.or(id);
        let error = error::refused(self.place(), ask.stage, status, &fault, wait);
        let error = match ask.stage {
            Stage::Submission if error::leaves_in_doubt(status) => error::in_doubt(error),
            _ => error,
        };
        Refusal { status, fault, error }
    }

    /// Whatever keeps an answer from arriving.
    pub(super) fn lost(&self, ask: &Ask, cause: email_router_http::Error) -> Error {
        let sent = cause.was_sent();
        let error = Error::from(cause);
        match ask.stage {
            Stage::Submission if sent => error::in_doubt(error),
            // too large an answer about one message
            Stage::Message if error.kind() == ErrorKind::TooLarge => error.with_scope(Scope::Message),
            _ => error,
        }
    }

    fn late(&self, ask: &Ask) -> Error {
        let error = Error::new(ErrorKind::Timeout, format!("{} does not answer in time", self.place()));
        if ask.stage == Stage::Submission { error::in_doubt(error) } else { error }
    }

    /// All of the body of an answer.
    pub(super) async fn body(&self, ask: &Ask, answer: Answer) -> Result<Bytes> {
        let Answer { response, _permit } = answer;
        let html =
            response.header(&header::CONTENT_TYPE).is_some_and(|t| t.to_ascii_lowercase().contains("html"));
        let read = tokio::time::timeout(self.settings().operation_timeout, response.body.collect()).await;
        let body = read.map_err(|_| self.late(ask))?.map_err(|cause| self.lost(ask, cause))?;
        // a message may well be HTML, but the service never says so of anything it gives us
        if html {
            let page = Fault::read(&body[..body.len().min(MOST_ERROR)]);
            return Err(error::refused(self.place(), ask.stage, 200, &Fault { foreign: true, ..page }, None));
        }
        Ok(body)
    }

    /// The beginning of the body of an answer, up to where `enough` says so; the rest is not read.
    pub(super) async fn beginning(
        &self,
        ask: &Ask,
        answer: Answer,
        enough: impl Fn(&[u8]) -> bool,
        most: usize,
    ) -> Result<Vec<u8>> {
        let Answer { mut response, _permit } = answer;
        let mut all = BytesMut::new();
        let reading = async {
            while all.len() <= most && !enough(&all) {
                match response.body.chunk().await.map_err(|cause| self.lost(ask, cause))? {
                    Some(piece) => all.extend_from_slice(&piece),
                    None => break,
                }
            }
            Ok::<_, Error>(())
        };
        tokio::time::timeout(self.settings().operation_timeout, reading)
            .await
            .map_err(|_| self.late(ask))??;
        Ok(all.to_vec())
    }

    /// The answer as JSON.
    pub(super) async fn json(&self, ask: &Ask) -> Result<Value> {
        let answer = self.send(ask).await?;
        let body = self.body(ask, answer).await?;
        proto::json(&body).map_err(|why| error::malformed(self.place(), ask.stage, &why))
    }
}

fn conceal(secrets: &mut Redactor, login: &Login) {
    if let Some(secret) = login.credentials.secret() {
        secrets.add(secret.expose());
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("place", &self.place())
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}
