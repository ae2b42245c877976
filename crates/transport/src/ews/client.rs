//! One request and its answer: where, by whom, in which version; and what is wrong with the answer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use email_router_auth::{CredentialSource, Credentials};
use email_router_http::{
    Body, HeaderName, HeaderValue, HttpService, Login, Method, Request, Response, Scheme, StatusCode, header,
    retry_after,
};
use email_router_model::{Mailbox, Scope};
use url::Url;
use zeroize::Zeroizing;

use super::autodiscover::Search;
use super::error::{self, About};
use super::proto::carve::{Carved, Carver};
use super::proto::request::CONTENT_TYPE;
use super::proto::{Impersonation, Operation, Reply, Version, response};
use super::settings::{EwsSettings, Location, MailboxAccess, place_of};
use crate::net::Redactor;
use crate::{Error, ErrorKind, ProbeStep, Result};

/// The largest response without its MIME contents: a page of a listing has about 400 bytes for each id.
const SKELETON: usize = 4 << 20;

/// How much of an error page is read.
const EXCERPT: usize = 16 << 10;

/// So many places that Autodiscover found are remembered at the most.
const REMEMBERED_PLACES: usize = 10_000;

/// Tells the servers before Exchange which mailbox a request is about.
const ANCHOR: HeaderName = HeaderName::from_static("x-anchormailbox");

/// What all sessions of a transport share.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) settings: EwsSettings,
    /// Where in [`Version::ALL`] the requests are written.
    version: AtomicUsize,
    /// The server has understood this version once: it is not the version that is wrong with a request.
    proven: AtomicBool,
    server: Mutex<Option<String>>,
    places: Mutex<HashMap<String, Url>>,
}

/// A failed request.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    /// The server may have done what was asked.
    pub(super) acted: bool,
    /// The response code, where there was one.
    pub(super) code: Option<String>,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, acted: false, code: None }
    }
}

impl From<email_router_http::Error> for Failure {
    fn from(error: email_router_http::Error) -> Self {
        Self { acted: error.was_sent(), error: error.into(), code: None }
    }
}

/// What of an answer is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// The largest response but for its MIME contents, in bytes.
    pub(super) skeleton: usize,
    /// The largest MIME content, in bytes.
    pub(super) content: u64,
    /// How many MIME contents there can be.
    pub(super) contents: u64,
    /// What a MIME content is likely to have.
    pub(super) expected: usize,
}

impl Limits {
    /// For a response without MIME content.
    pub(super) const PLAIN: Self = Self { skeleton: SKELETON, content: 0, contents: 0, expected: 0 };

    /// What is read from the network: base64 with line ends, and as much again of a content that is too large, so that the session goes on.
    fn body(&self) -> u64 {
        let contents = self.content.saturating_mul(3).saturating_mul(self.contents);
        contents.saturating_add(self.skeleton as u64).saturating_add(1 << 20)
    }
}

impl Client {
    pub(super) fn new(settings: EwsSettings) -> Self {
        let version = Version::ALL.iter().position(|v| *v == settings.version).unwrap_or_default();
        Self {
            settings,
            version: AtomicUsize::new(version),
            proven: AtomicBool::new(false),
            server: Mutex::default(),
            places: Mutex::default(),
        }
    }

    /// The version requests are written in now.
    pub(super) fn version(&self) -> Version {
        Version::ALL[self.version.load(Ordering::Relaxed).min(Version::ALL.len() - 1)]
    }

    /// Which server answered last.
    pub(super) fn server(&self) -> Option<String> {
        lock(&self.server).clone()
    }

    /// Goes down to the next older version, where this one was the newest tried; `false` below the oldest.
    fn step_down(&self, from: Version) -> bool {
        let Some(older) = from.older() else { return false };
        let index = |version| Version::ALL.iter().position(|v| *v == version).unwrap_or_default();
        // another session may have gone down meanwhile
        let _ =
            self.version.compare_exchange(index(from), index(older), Ordering::Relaxed, Ordering::Relaxed);
        tracing::debug!(%from, to = %self.version(), "the server does not know this version of the schema");
        true
    }

    /// A session for a mailbox: finds out where it is and who logs in.
    pub(super) async fn session(self: &Arc<Self>, mailbox: &Mailbox) -> Result<Session> {
        self.session_with(mailbox, &mut Vec::new()).await
    }

    /// The same, with the steps that Autodiscover took.
    pub(super) async fn session_with(
        self: &Arc<Self>,
        mailbox: &Mailbox,
        steps: &mut Vec<ProbeStep>,
    ) -> Result<Session> {
        let mut identity = Identity::of(&self.settings, mailbox).await?;
        let url = match &self.settings.location {
            Location::Url(url) => url.clone(),
            Location::Autodiscover(autodiscover) => {
                let key = mailbox.address.key();
                let known = lock(&self.places).get(&key).cloned();
                match known {
                    Some(url) => url,
                    None => {
                        let search = Search::new(&self.settings, autodiscover, &mut identity, steps);
                        let url = search.run(&mailbox.address).await?;
                        let mut places = lock(&self.places);
                        if places.len() >= REMEMBERED_PLACES {
                            places.clear();
                        }
                        places.insert(key, url.clone());
                        url
                    }
                }
            }
        };
        let place = place_of(&url);
        Ok(Session { client: Arc::clone(self), identity, url, place, broken: None })
    }

    /// Forgets where Autodiscover found a mailbox; the next session asks again.
    pub(super) fn forget(&self, mailbox: &Mailbox) {
        lock(&self.places).remove(&mailbox.address.key());
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Who asks for a mailbox.
pub(super) struct Identity {
    pub(super) mailbox: Mailbox,
    source: Arc<dyn CredentialSource>,
    scheme: Scheme,
    credentials: Credentials,
    redactor: Redactor,
}

impl Identity {
    async fn of(settings: &EwsSettings, mailbox: &Mailbox) -> Result<Self> {
        let source = Arc::clone(&settings.credentials);
        let Some(credentials) = source.credentials(mailbox).await? else {
            let place = settings.place();
            let text = format!("{place}: there are no credentials for the {mailbox}");
            let error = Error::new(ErrorKind::Settings, text);
            return Err(
                error.with_hint("Exchange has no anonymous access: give the mailbox or its profile a login")
            );
        };
        let scheme = settings.scheme;
        let mut identity =
            Self { mailbox: mailbox.clone(), source, scheme, credentials, redactor: Redactor::default() };
        identity.guard();
        Ok(identity)
    }

    /// What is sent to prove the identity must not come back in a message.
    fn guard(&mut self) {
        if let Some(secret) = self.credentials.secret() {
            self.redactor.add(secret.expose());
            let pair = Zeroizing::new(format!("{}:{}", self.credentials.user, secret.expose()));
            self.redactor.add(&Zeroizing::new(BASE64_STANDARD.encode(pair.as_bytes())));
        }
    }

    /// The name that logs in, for messages.
    pub(super) fn account(&self) -> &str {
        if self.credentials.user.is_empty() { "of this process" } else { &self.credentials.user }
    }

    pub(super) fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// A text of the server's without secrets.
    pub(super) fn clean(&self, text: &str) -> String {
        self.redactor.clean_excerpt(text)
    }

    /// Sends a request; where the login is refused and the source then has other credentials (a new token), once more.
    pub(super) async fn send(
        &mut self,
        http: &dyn HttpService,
        request: Request,
    ) -> Result<Response, Failure> {
        let login =
            |credentials: &Credentials| Some(Login { scheme: self.scheme, credentials: credentials.clone() });
        let answer = http.send(request.clone().with_login(login(&self.credentials))).await?;
        if answer.status != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        self.source.refused(&self.mailbox, &self.credentials);
        let others = self.source.credentials(&self.mailbox).await.map_err(Error::from)?;
        match others {
            Some(others) if others != self.credentials => {
                drop(answer);
                self.credentials = others;
                self.guard();
                let login = Some(Login { scheme: self.scheme, credentials: self.credentials.clone() });
                let answer = http.send(request.with_login(login)).await?;
                if answer.status == StatusCode::UNAUTHORIZED {
                    self.source.refused(&self.mailbox, &self.credentials);
                }
                Ok(answer)
            }
            _ => Ok(answer),
        }
    }
}

/// One mailbox on one server.
pub(super) struct Session {
    pub(super) client: Arc<Client>,
    pub(super) identity: Identity,
    url: Url,
    pub(super) place: String,
    /// Why every further call fails.
    broken: Option<String>,
}

/// Who a request is made as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum As {
    /// The account that logs in.
    Account,
    /// The user of the mailbox, by the primary address.
    Mailbox,
    /// The same by any address.
    MailboxByAnyAddress,
}

impl As {
    /// For reading with this access.
    pub(super) fn reader(access: MailboxAccess) -> Self {
        match access {
            MailboxAccess::Own | MailboxAccess::FullAccess => Self::Account,
            MailboxAccess::Impersonation => Self::Mailbox,
            MailboxAccess::ImpersonationByAnyAddress => Self::MailboxByAnyAddress,
        }
    }
}

impl Session {
    pub(super) fn about(&self) -> About<'_> {
        About {
            place: &self.place,
            mailbox: &self.identity.mailbox.address,
            account: self.identity.account(),
            scheme: self.identity.scheme(),
            online: is_online(&self.url),
        }
    }

    /// Where its requests go.
    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// The session cannot be used any more.
    pub(super) fn fail(&mut self, why: &Error) {
        self.broken.get_or_insert_with(|| why.to_string());
    }

    /// # Errors
    /// The session has failed before.
    pub(super) fn check(&self) -> Result<()> {
        match &self.broken {
            None => Ok(()),
            Some(why) => {
                let text = format!("{}: the session has failed before: {why}", self.place);
                Err(Error::new(ErrorKind::ConnectionLost, text))
            }
        }
    }

    /// The error for a problem in an answer.
    pub(super) fn refused(&self, doing: &str, problem: &response::Problem) -> Error {
        let mut problem = problem.clone();
        problem.text = self.identity.clean(&problem.text);
        error::refused(&self.about(), doing, &problem)
    }

    /// Asks for something of which there is one answer, and gives that; a problem in it is an error.
    pub(super) async fn ask_one(
        &mut self,
        operation: &Operation<'_>,
        doing: &str,
        who: As,
    ) -> Result<response::Answer, Failure> {
        let (reply, _) = self.ask(operation, doing, who, Limits::PLAIN).await?;
        let Some(answer) = reply.answers.into_iter().next() else {
            let error = error::nonsense(&self.about(), &"no answer in it");
            return Err(Failure { error, acted: true, code: None });
        };
        match &answer.problem {
            None => Ok(answer),
            Some(problem) => Err(Failure {
                error: self.refused(doing, problem),
                acted: error::may_have_acted(&problem.code),
                code: Some(problem.code.clone()),
            }),
        }
    }

    /// Asks for something; faults are errors, problems with single answers are not.
    pub(super) async fn ask(
        &mut self,
        operation: &Operation<'_>,
        doing: &str,
        who: As,
        limits: Limits,
    ) -> Result<(Reply, Vec<Carved>), Failure> {
        let deadline = self.client.settings.request_timeout;
        let result = match tokio::time::timeout(deadline, self.exchange(operation, doing, who, limits)).await
        {
            Ok(result) => result,
            Err(_) => {
                let text = format!("{} does not answer in time", self.place);
                Err(Failure { error: Error::new(ErrorKind::Timeout, text), acted: true, code: None })
            }
        };
        if let Err(failure) = &result
            && matches!(
                failure.error.kind(),
                ErrorKind::ConnectionLost
                    | ErrorKind::NameResolution
                    | ErrorKind::Refused
                    | ErrorKind::Settings
                    | ErrorKind::Timeout
                    | ErrorKind::Tls(_)
            )
        {
            // the mailbox may have moved to another server
            self.client.forget(&self.identity.mailbox);
        }
        result
    }

    async fn exchange(
        &mut self,
        operation: &Operation<'_>,
        doing: &str,
        who: As,
        limits: Limits,
    ) -> Result<(Reply, Vec<Carved>), Failure> {
        loop {
            let version = self.client.version();
            if version < operation.since() {
                let what = operation.name();
                let text = format!("{} has no {what}: it is older than {}", self.place, operation.since());
                return Err(Error::new(ErrorKind::Unsupported, text).into());
            }
            let answer = self.post(operation, version, who, &limits).await?;
            let (status, delay) =
                (answer.status, retry_after(&answer.headers, self.client.settings.clock.now()));
            // a fault has status 500, and so has many an error page
            if status != StatusCode::OK && status != StatusCode::INTERNAL_SERVER_ERROR {
                let page = answer.body.excerpt(EXCERPT).await;
                return Err(self.page(status, &page, delay));
            }
            let (skeleton, contents) = self.read(answer.body, &limits).await?;
            let reply = match response::read(&skeleton) {
                Ok(reply) => reply,
                Err(why) => {
                    let page = String::from_utf8_lossy(&skeleton[..skeleton.len().min(EXCERPT)]);
                    let lower = page.to_ascii_lowercase();
                    if status != StatusCode::OK || lower.contains("<html") || lower.contains("<!doctype html")
                    {
                        return Err(self.page(status, &page, delay));
                    }
                    let error = error::nonsense(&self.about(), &why);
                    return Err(Failure { error, acted: true, code: None });
                }
            };
            let (server, problem) = match &reply {
                Ok(reply) => (&reply.server, reply.answers.first().and_then(|a| a.problem.as_ref())),
                Err(fault) => (&fault.server, Some(&fault.problem)),
            };
            if server.is_some() {
                lock(&self.client.server).clone_from(server);
            }
            if let Some(problem) = problem
                && self.blames_version(&problem.code)
                && self.client.step_down(version)
            {
                continue;
            }
            return match reply {
                Ok(reply) => {
                    self.client.proven.store(true, Ordering::Relaxed);
                    Ok((reply, contents))
                }
                Err(fault) => Err(Failure {
                    error: self.refused(doing, &fault.problem),
                    acted: error::may_have_acted(&fault.problem.code),
                    code: Some(fault.problem.code),
                }),
            };
        }
    }

    fn blames_version(&self, code: &str) -> bool {
        match code {
            "ErrorInvalidServerVersion" => true,
            // also what a request that is wrong gets; in a version the server has understood that is not the reason
            "ErrorIncorrectSchemaVersion"
            | "ErrorSchemaValidation"
            | "ErrorInvalidSchemaVersionForMailboxVersion" => !self.client.proven.load(Ordering::Relaxed),
            _ => false,
        }
    }

    /// Sends a request and gives the answer unread, for answers that have no end.
    pub(super) async fn post(
        &mut self,
        operation: &Operation<'_>,
        version: Version,
        who: As,
        limits: &Limits,
    ) -> Result<Response, Failure> {
        let address = &self.identity.mailbox.address;
        let impersonation = match who {
            As::Account => None,
            As::Mailbox => Some(Impersonation::PrimarySmtpAddress(address)),
            As::MailboxByAnyAddress => Some(Impersonation::SmtpAddress(address)),
        };
        let mut request = Request::new(Method::POST, self.url.clone())
            .with_body(CONTENT_TYPE, operation.envelope(version, impersonation))
            .with_header(header::ACCEPT, HeaderValue::from_static("text/xml"));
        if let Ok(anchor) = HeaderValue::from_str(address.as_str()) {
            request = request.with_header(ANCHOR, anchor);
        }
        request.max_body_bytes = limits.body();
        request.streaming = matches!(operation, Operation::GetStreamingEvents(..));
        let http = Arc::clone(&self.client.settings.http);
        self.identity.send(&*http, request).await
    }

    async fn read(&self, mut body: Body, limits: &Limits) -> Result<(Vec<u8>, Vec<Carved>), Failure> {
        let mut carver = Carver::new(limits.skeleton, limits.content, limits.expected);
        while let Some(piece) = body.chunk().await? {
            if carver.push(&piece).is_err() {
                let text = format!("{} sent a response of more than {} bytes", self.place, limits.skeleton);
                let error = Error::new(ErrorKind::TooLarge, text).with_scope(Scope::Mailbox);
                return Err(Failure { error, acted: true, code: None });
            }
        }
        Ok(carver.finish())
    }

    /// The error for an answer that is no SOAP.
    pub(super) fn page(&self, status: StatusCode, page: &str, delay: Option<std::time::Duration>) -> Failure {
        let words = self.identity.clean(&error::words_of(page));
        // below 500 the request was turned away; what a gateway says of what is behind it nobody knows
        let acted =
            status.is_success() || (status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE);
        Failure { error: error::status(&self.about(), status, &words, delay), acted, code: None }
    }
}

/// Whether this is Exchange Online, in any of its clouds.
fn is_online(url: &Url) -> bool {
    const DOMAINS: [&str; 4] = ["office365.com", "office365.us", "outlook.com", "partner.outlook.cn"];
    url.host_str().is_some_and(|host| within(host, &DOMAINS))
}

/// Whether a host is one of these domains or within one.
pub(super) fn within(host: &str, domains: &[impl AsRef<str>]) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    domains.iter().any(|domain| {
        let domain = domain.as_ref().trim_matches('.').to_ascii_lowercase();
        !domain.is_empty()
            && (host == domain || host.strip_suffix(&domain).is_some_and(|rest| rest.ends_with('.')))
    })
}
