//! Finding out where the EWS of a mailbox is: the order of places that Microsoft publishes \[MS-OXDISCO\], and what is followed.
//!
//! Asked are, in this order, until one answers: the URLs of the settings; `https://<domain>/autodiscover/`; `https://autodiscover.<domain>/autodiscover/`; where
//! `http://autodiscover.<domain>/autodiscover/autodiscover.xml` redirects to (asked without a login); the SRV record `_autodiscover._tcp.<domain>`. Each
//! server is asked by the SOAP form (`autodiscover.svc`) first, then by the plain form (`autodiscover.xml`). Service connection points in Active Directory are
//! not looked up: the router need not be a member of the domain.
//!
//! A name and password, or a token, is sent to nobody but over TLS; and to no other domain than the mailbox's, unless that is among the trusted domains or
//! confirmed. The same holds for redirects to another address. There are at most 20 requests for one mailbox.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use email_router_http::{Method, Request, Response, StatusCode, header};
use email_router_model::{Classified as _, EmailAddress, Scope};
use url::Url;

use super::client::{Failure, Identity, within};
use super::error::words_of;
use super::proto::autodiscover::{EwsUrls, Outcome, plain_request, read_plain, read_soap, soap_request};
use super::proto::request::CONTENT_TYPE;
use super::settings::EwsSettings;
use super::srv::NameServers;
use crate::{Error, ErrorKind, ProbeStep, Result};

/// So many requests are made for one mailbox at the most.
const HOPS: usize = 20;

/// So many servers may refuse the login before it is taken for wrong: each counts as a wrong password.
const REFUSALS: usize = 2;

/// The largest answer.
const LARGEST: u64 = 1 << 20;

/// How Autodiscover goes about.
#[derive(Clone)]
pub struct Autodiscover {
    /// URLs of Autodiscover that are asked before all others, whole, ending in `autodiscover.svc` or `autodiscover.xml`.
    pub first: Vec<Url>,
    /// Domains beside the mailbox's own that a redirect may lead to, with all that is within them.
    pub trusted_domains: Vec<String>,
    /// Asked about a redirect to any other domain; `None`: none is followed.
    pub confirm: Option<Confirm>,
    /// Take the URL for the server's own network where there are two.
    pub prefer_internal: bool,
    /// Looks up SRV records ([`NameServers`]); `None`: that step is left out.
    pub srv: Option<Arc<dyn SrvLookup>>,
    /// The longest time for one request.
    pub patience: Duration,
}

/// Says whether a redirect to this URL may be followed.
pub type Confirm = Arc<dyn Fn(&Url) -> bool + Send + Sync>;

impl Default for Autodiscover {
    /// No other URL, no other domain, the external URL, SRV records from the name servers of the system, 30 seconds.
    fn default() -> Self {
        Self {
            first: Vec::new(),
            trusted_domains: Vec::new(),
            confirm: None,
            prefer_internal: false,
            srv: Some(Arc::new(NameServers::of_system())),
            patience: Duration::from_secs(30),
        }
    }
}

impl fmt::Debug for Autodiscover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Autodiscover")
            .field("first", &self.first)
            .field("trusted_domains", &self.trusted_domains)
            .field("confirm", &self.confirm.is_some())
            .field("prefer_internal", &self.prefer_internal)
            .field("srv", &self.srv)
            .field("patience", &self.patience)
            .finish()
    }
}

/// Looks up SRV records (RFC 2782).
#[async_trait]
pub trait SrvLookup: fmt::Debug + Send + Sync {
    /// The targets for this name, in any order; empty where there is no such record.
    ///
    /// # Errors
    /// No answer; as a person would say it.
    async fn lookup(&self, name: &str) -> Result<Vec<SrvTarget>, String>;
}

/// One SRV record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SrvTarget {
    /// Lower is asked first.
    pub priority: u16,
    /// Higher is asked first among the same priority.
    pub weight: u16,
    /// The port.
    pub port: u16,
    /// The host.
    pub host: String,
}

/// One search.
pub(super) struct Search<'a> {
    settings: &'a EwsSettings,
    options: &'a Autodiscover,
    identity: &'a mut Identity,
    steps: &'a mut Vec<ProbeStep>,
    /// The domain of the mailbox, whatever addresses it is redirected to.
    home: String,
    asked: HashSet<String>,
    refusals: usize,
    network: Option<Error>,
}

/// What became of asking one server.
enum Visit {
    Found(Url),
    /// Begin anew with this address.
    Address(EmailAddress),
    /// The next form of the same server may know more.
    Nothing,
    /// The server is not worth another question.
    Useless,
}

impl<'a> Search<'a> {
    pub(super) fn new(
        settings: &'a EwsSettings,
        options: &'a Autodiscover,
        identity: &'a mut Identity,
        steps: &'a mut Vec<ProbeStep>,
    ) -> Self {
        let home = identity.mailbox.address.domain().to_ascii_lowercase();
        Self { settings, options, identity, steps, home, asked: HashSet::new(), refusals: 0, network: None }
    }

    /// The URL of EWS for an address.
    pub(super) async fn run(mut self, address: &EmailAddress) -> Result<Url> {
        let mut address = address.clone();
        let mut seen = HashSet::new();
        while seen.insert(address.key()) {
            match self.address(&address).await? {
                Visit::Found(url) => return Ok(url),
                Visit::Address(other) => address = other,
                Visit::Nothing | Visit::Useless => return Err(self.nothing(&address)),
            }
        }
        self.step(format!("{address} was asked for already"), Some("the redirects go round in a circle"));
        Err(self.nothing(&address))
    }

    async fn address(&mut self, address: &EmailAddress) -> Result<Visit> {
        let domain = address.domain();
        for url in self.options.first.clone() {
            match self.visit(url, address).await? {
                Visit::Nothing | Visit::Useless => {}
                visit => return Ok(visit),
            }
        }
        for host in [domain.to_owned(), format!("autodiscover.{domain}")] {
            match self.server(&host, address).await? {
                Visit::Nothing | Visit::Useless => {}
                visit => return Ok(visit),
            }
        }
        if let Some(url) = self.redirect_in_clear(domain).await {
            match self.visit(url, address).await? {
                Visit::Nothing | Visit::Useless => {}
                visit => return Ok(visit),
            }
        }
        for host in self.service_records(domain).await {
            match self.server(&host, address).await? {
                Visit::Nothing | Visit::Useless => {}
                visit => return Ok(visit),
            }
        }
        Ok(Visit::Nothing)
    }

    /// Both forms of a server.
    async fn server(&mut self, host: &str, address: &EmailAddress) -> Result<Visit> {
        for file in ["autodiscover.svc", "autodiscover.xml"] {
            let Ok(url) = Url::parse(&format!("https://{host}/autodiscover/{file}")) else { break };
            match self.visit(url, address).await? {
                Visit::Nothing => {}
                visit => return Ok(visit),
            }
        }
        Ok(Visit::Nothing)
    }

    /// Asks at a URL, and wherever that leads.
    async fn visit(&mut self, url: Url, address: &EmailAddress) -> Result<Visit> {
        let mut url = url;
        loop {
            if !self.asked.insert(format!("{url} {}", address.key())) {
                self.step(format!("{url} was asked already"), None);
                return Ok(Visit::Nothing);
            }
            if self.asked.len() > HOPS {
                self.step(format!("{url} is not asked any more"), Some("there are too many redirects"));
                return Err(self.nothing(address));
            }
            let soap = url.path().to_ascii_lowercase().ends_with(".svc");
            let answer = match self.post(&url, address, soap).await {
                Ok(answer) => answer,
                Err(failure) => {
                    self.step(format!("{url}: {}", failure.error), None);
                    self.network = Some(failure.error);
                    return Ok(Visit::Useless);
                }
            };
            let status = answer.status;
            if status.is_redirection() {
                let target = answer.header(&header::LOCATION).and_then(|to| url.join(to).ok());
                self.step(format!("{url}: HTTP {} to {}", status.as_u16(), shown(target.as_ref())), None);
                match target.filter(|target| self.may_follow(target)) {
                    Some(target) => url = target,
                    None => return Ok(Visit::Nothing),
                }
                continue;
            }
            if status == StatusCode::UNAUTHORIZED {
                self.step(format!("{url}: the login was refused (HTTP 401)"), None);
                self.refusals += 1;
                if self.refusals >= REFUSALS {
                    return Err(self.login_refused());
                }
                return Ok(Visit::Useless);
            }
            if status != StatusCode::OK && status != StatusCode::INTERNAL_SERVER_ERROR {
                self.step(format!("{url}: HTTP {}", status.as_u16()), None);
                return Ok(Visit::Nothing);
            }
            let document = match answer.body.collect().await {
                Ok(document) => document,
                Err(why) => {
                    self.step(format!("{url}: {why}"), None);
                    return Ok(Visit::Nothing);
                }
            };
            let outcome = if soap { read_soap(&document) } else { read_plain(&document) };
            match outcome {
                Ok(Outcome::Found(urls)) => return Ok(self.found(&url, &urls)),
                Ok(Outcome::RedirectAddress(to)) => return Ok(self.other_address(&url, &to)),
                Ok(Outcome::RedirectUrl(to)) => {
                    let target = url.join(&to).ok();
                    self.step(format!("{url} sends to {}", shown(target.as_ref())), None);
                    match target.filter(|target| self.may_follow(target)) {
                        Some(target) => url = target,
                        None => return Ok(Visit::Nothing),
                    }
                }
                Ok(Outcome::Refused(words)) => {
                    let words = self.identity.clean(&words);
                    self.step(format!("{url}: {words}"), None);
                    return Ok(Visit::Nothing);
                }
                Err(why) => {
                    let page = String::from_utf8_lossy(&document[..document.len().min(4096)]);
                    let title = self.identity.clean(&words_of(&page));
                    let what = if title.is_empty() { why.to_string() } else { title };
                    self.step(format!("{url} is no Autodiscover: {what}"), None);
                    return Ok(Visit::Nothing);
                }
            }
        }
    }

    async fn post(&mut self, url: &Url, address: &EmailAddress, soap: bool) -> Result<Response, Failure> {
        let body = if soap { soap_request(url.as_str(), address) } else { plain_request(address) };
        let mut request = Request::new(Method::POST, url.clone()).with_body(CONTENT_TYPE, body);
        request.max_body_bytes = LARGEST;
        let sent = self.identity.send(&*self.settings.http, request);
        match tokio::time::timeout(self.options.patience, sent).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::new(ErrorKind::Timeout, "no answer in time").into()),
        }
    }

    /// A redirect over plain HTTP may come from anybody on the way, so it is only taken as a hint where to ask by TLS.
    async fn redirect_in_clear(&mut self, domain: &str) -> Option<Url> {
        let url = Url::parse(&format!("http://autodiscover.{domain}/autodiscover/autodiscover.xml")).ok()?;
        let mut request = Request::new(Method::GET, url.clone());
        request.max_body_bytes = LARGEST;
        let answer = tokio::time::timeout(self.options.patience, self.settings.http.send(request)).await;
        let answer = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(why)) => {
                self.step(format!("{url}: {why}"), None);
                return None;
            }
            Err(_) => {
                self.step(format!("{url}: no answer in time"), None);
                return None;
            }
        };
        let code = answer.status.as_u16();
        if !answer.status.is_redirection() {
            self.step(format!("{url}: no redirect (HTTP {code})"), None);
            return None;
        }
        let target = answer.header(&header::LOCATION).and_then(|to| url.join(to).ok());
        self.step(format!("{url}: HTTP {code} to {}", shown(target.as_ref())), None);
        target.filter(|target| self.may_follow(target))
    }

    async fn service_records(&mut self, domain: &str) -> Vec<String> {
        let name = format!("_autodiscover._tcp.{domain}");
        let Some(srv) = self.options.srv.clone() else {
            self.step(format!("SRV {name}: not looked up"), None);
            return Vec::new();
        };
        let found = match tokio::time::timeout(self.options.patience, srv.lookup(&name)).await {
            Ok(found) => found,
            Err(_) => Err("no answer in time".to_owned()),
        };
        let mut targets = match found {
            Ok(targets) => targets,
            Err(why) => {
                self.step(format!("SRV {name}: {why}"), None);
                return Vec::new();
            }
        };
        if targets.is_empty() {
            self.step(format!("SRV {name}: there is none"), None);
        }
        targets.sort_by_key(|target| (target.priority, std::cmp::Reverse(target.weight)));
        let mut hosts = Vec::new();
        for target in targets {
            let host = target.host.trim_end_matches('.').to_owned();
            self.step(format!("SRV {name}: {host}:{}", target.port), None);
            // DNS may lie: its answer counts no more than a redirect
            if let Ok(url) = Url::parse(&format!("https://{host}:{}/", target.port))
                && self.may_follow(&url)
            {
                hosts.push(format!("{host}:{}", target.port));
            }
        }
        hosts
    }

    /// Whether a login may be sent there.
    fn may_follow(&mut self, url: &Url) -> bool {
        let host = url.host_str().unwrap_or_default();
        if url.scheme() != "https" {
            self.step(format!("{url} is not followed"), Some("it is not https"));
            return false;
        }
        let trusted = within(host, &[&self.home])
            || within(host, &self.options.trusted_domains)
            || self.options.confirm.as_ref().is_some_and(|confirm| confirm(url));
        if !trusted {
            let why = format!(
                "{host} is in another domain than the mailbox: where it is right, name it among the trusted domains"
            );
            self.step(format!("{url} is not followed"), Some(&why));
        }
        trusted
    }

    fn other_address(&mut self, url: &Url, to: &str) -> Visit {
        let Ok(address) = EmailAddress::parse(to) else {
            self.step(format!("{url} sends to an address that is none"), None);
            return Visit::Nothing;
        };
        self.step(format!("{url} sends to the address {address}"), None);
        // the login goes to the servers of that domain from now on
        let there = Url::parse(&format!("https://{}/", address.domain()));
        match there {
            Ok(there) if self.may_follow(&there) => Visit::Address(address),
            _ => Visit::Nothing,
        }
    }

    fn found(&mut self, at: &Url, urls: &EwsUrls) -> Visit {
        let (first, second) = if self.options.prefer_internal {
            (&urls.internal, &urls.external)
        } else {
            (&urls.external, &urls.internal)
        };
        for text in [first, second].into_iter().flatten() {
            match Url::parse(text) {
                // in clear only where the administrator asked in clear
                Ok(url) if url.scheme() == "https" || (url.scheme() == "http" && at.scheme() == "http") => {
                    self.step(format!("{at} tells the URL {url}"), None);
                    return Visit::Found(url);
                }
                _ => self.step(format!("{at} tells {text}"), Some("it is not https, and not used")),
            }
        }
        Visit::Nothing
    }

    fn step(&mut self, what: String, warning: Option<&str>) {
        self.steps.push(ProbeStep { what, warning: warning.map(str::to_owned) });
    }

    fn login_refused(&self) -> Error {
        let text = format!("autodiscover: the login of {} is refused", self.identity.account());
        Error::new(ErrorKind::Authentication, text)
            .with_hint(
                "check name and password, and whether the server offers this authentication type; no other was asked, since that locks accounts; \
                 test access shows which servers were",
            )
            .with_steps(self.steps.clone())
    }

    fn nothing(&self, address: &EmailAddress) -> Error {
        let text = format!("autodiscover finds no Exchange Web Services for {address}");
        let error = if self.refusals > 0 {
            Error::new(ErrorKind::Authentication, text)
        } else if let Some(network) = &self.network {
            // the next time the network may be well
            Error::new(network.kind(), text).with_retry(network.retry()).with_scope(Scope::Mailbox)
        } else {
            Error::new(ErrorKind::Settings, text)
        };
        error
            .with_hint(
                "set the URL of Exchange Web Services by hand (ExchangeWebServicesUrl), or see to it that one of the places that were asked answers; \
                 test access shows them step by step",
            )
            .with_steps(self.steps.clone())
    }
}

fn shown(url: Option<&Url>) -> String {
    url.map_or_else(|| "nowhere".to_owned(), Url::to_string)
}
