//! A small Exchange: Web Services and Autodiscover over mailboxes in memory, after Microsoft's reference of EWS.
//!
//! It is strict with requests: elements out of order, missing or unknown ones and missing attributes are `ErrorSchemaValidation`, as on Exchange. Logins are Basic
//! and Bearer. What goes wrong on demand is planned with [`EwsServer::plan`].

mod http;
mod ops;
mod schema;
mod store;
mod xml;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;

use crate::StopOnDrop;
use http::{Body, Request, Response};
use ops::{Caller, Refusal};
pub use store::Sent;
use store::State;
use xml::{Element, escape};

const XML: &str = "text/xml; charset=utf-8";

/// What the server is like.
#[derive(Clone)]
pub struct EwsOptions {
    /// The newest version of the schema that it knows.
    pub newest: &'static str,
    /// Speaks TLS.
    pub tls: Option<TlsAcceptor>,
    /// Writes answers with other prefixes and without a header.
    pub other_prefixes: bool,
    /// Puts a character that XML forbids into every subject, and tells every subject.
    pub illegal_characters: bool,
    /// Has no `autodiscover.svc`.
    pub plain_autodiscover_only: bool,
    /// Knows streaming notifications.
    pub notifications: bool,
}

impl Default for EwsOptions {
    /// Exchange 2016 in clear, with everything.
    fn default() -> Self {
        Self {
            newest: "Exchange2016",
            tls: None,
            other_prefixes: false,
            illegal_characters: false,
            plain_autodiscover_only: false,
            notifications: true,
        }
    }
}

/// Something that goes wrong.
#[derive(Debug, Clone)]
pub enum Mishap {
    /// Nothing: what is planned behind it has its turn at the next request.
    Well,
    /// A SOAP fault with this response code and, where there is one, this `BackOffMilliseconds`.
    Fault(&'static str, Option<&'static str>),
    /// The same as a response message.
    Refusal(&'static str, Option<&'static str>),
    /// A page with this status, content type and content.
    Page(u16, &'static str, String),
    /// A redirect to this URL.
    Redirect(u16, String),
    /// The line is cut before anything is done.
    Cut,
    /// It is done, and the line is cut instead of an answer.
    DoneThenCut,
    /// It is done, and the line is cut in the middle of the answer.
    DoneThenHalf,
    /// It is done, and no answer comes.
    DoneThenSilence,
    /// An answer of these bytes, as XML.
    Bytes(Vec<u8>),
}

/// What Autodiscover answers for an address.
#[derive(Debug, Clone)]
pub enum Discovery {
    /// These URLs of EWS: external, internal.
    Urls(Option<String>, Option<String>),
    /// Another address.
    Address(String),
    /// Another URL.
    Url(String),
    /// An error.
    Error,
}

/// A request that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// The method.
    pub method: String,
    /// The path.
    pub path: String,
    /// The operation, or empty.
    pub operation: String,
    /// Who had logged in.
    pub account: Option<String>,
    /// Whom it impersonated.
    pub impersonated: Option<String>,
    /// `X-AnchorMailbox`.
    pub anchor: Option<String>,
    /// `RequestServerVersion`.
    pub version: Option<String>,
    /// The body.
    pub body: String,
}

#[derive(Default)]
struct Inner {
    store: State,
    mishaps: Vec<(String, Mishap)>,
    discoveries: HashMap<String, Discovery>,
    heard: Vec<Heard>,
}

/// A listening server.
pub struct EwsServer {
    address: SocketAddr,
    scheme: &'static str,
    inner: Arc<Mutex<Inner>>,
    news: watch::Sender<u64>,
    _task: StopOnDrop,
}

impl std::fmt::Debug for EwsServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EwsServer({})", self.address)
    }
}

impl EwsServer {
    /// Starts a server.
    ///
    /// # Panics
    /// When there is no free port; that fails the test.
    pub async fn start(options: EwsOptions) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let inner = Arc::new(Mutex::new(Inner::default()));
        let (news, listen) = watch::channel(0);
        let scheme = if options.tls.is_some() { "https" } else { "http" };
        let tls = options.tls.clone();
        let shared = (Arc::clone(&inner), Arc::new(options), listen);
        let handler: http::Handler = Arc::new(move |request| {
            let (inner, options, news) = shared.clone();
            Box::pin(async move { answer(&inner, &options, news, request) })
        });
        let task = StopOnDrop(tokio::spawn(http::serve(listener, tls, handler)));
        Self { address, scheme, inner, news, _task: task }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// Its port on the loopback address.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The URL of EWS.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://localhost:{}/EWS/Exchange.asmx", self.scheme, self.port())
    }

    /// An account with a password and a mailbox of its own.
    pub fn add_user(&self, account: &str, password: &str, address: &str) {
        let mut inner = self.lock();
        inner.store.accounts.insert(account.to_lowercase(), password.to_owned());
        inner.store.own.insert(account.to_lowercase(), address.to_lowercase());
        inner.store.add_mailbox(address);
    }

    /// A token that logs in as an account.
    pub fn add_token(&self, token: &str, account: &str) {
        self.lock().store.tokens.insert(token.to_owned(), account.to_lowercase());
    }

    /// A token that is no good any more.
    pub fn revoke_token(&self, token: &str) {
        self.lock().store.tokens.remove(token);
    }

    /// Full Access of an account to a mailbox.
    pub fn grant_full_access(&self, account: &str, address: &str) {
        self.lock().store.full_access.insert((account.to_lowercase(), address.to_lowercase()));
    }

    /// Send As.
    pub fn grant_send_as(&self, account: &str, address: &str) {
        self.lock().store.send_as.insert((account.to_lowercase(), address.to_lowercase()));
    }

    /// Send on Behalf.
    pub fn grant_on_behalf(&self, account: &str, address: &str) {
        self.lock().store.on_behalf.insert((account.to_lowercase(), address.to_lowercase()));
    }

    /// The role of impersonation.
    pub fn grant_impersonation(&self, account: &str) {
        self.lock().store.impersonators.insert(account.to_lowercase());
    }

    /// An address that is refused as a recipient.
    pub fn refuse_recipient(&self, address: &str) {
        self.lock().store.refused_recipients.insert(address.to_lowercase());
    }

    /// Delivers a message into an inbox, and gives its id.
    pub fn put(&self, address: &str, mime: &[u8]) -> String {
        self.put_as(address, mime, "IPM.Note", true)
    }

    /// The same with another class, or without the header it came with.
    ///
    /// # Panics
    /// When there is no such mailbox.
    pub fn put_as(&self, address: &str, mime: &[u8], class: &str, transport_headers: bool) -> String {
        let id = {
            let mut inner = self.lock();
            let inbox =
                inner.store.mailboxes[&address.to_lowercase()].distinguished("inbox").expect("an inbox");
            let mut item = inner.store.new_item(mime);
            item.class = class.to_owned();
            item.transport_headers = transport_headers;
            inner.store.put(address, inbox, item)
        };
        self.news.send_modify(|n| *n += 1);
        id
    }

    /// What is in a folder: MIME and whether it is read. By the name in the schema, or as people see it.
    #[must_use]
    pub fn folder(&self, address: &str, name: &str) -> Vec<(Vec<u8>, bool)> {
        let inner = self.lock();
        let Some(mailbox) = inner.store.mailboxes.get(&address.to_lowercase()) else { return Vec::new() };
        let folder = mailbox.distinguished(name).or_else(|| mailbox.named(name));
        let items = folder.map_or(&[][..], |f| &mailbox.folders[f].items);
        items.iter().map(|item| (item.mime.clone(), item.read)).collect()
    }

    /// Takes everything out of an inbox.
    pub fn empty(&self, address: &str) {
        let mut inner = self.lock();
        let key = address.to_lowercase();
        let Some(inbox) = inner.store.mailboxes.get(&key).and_then(|m| m.distinguished("inbox")) else {
            return;
        };
        while !inner.store.mailboxes[&key].folders[inbox].items.is_empty() {
            inner.store.take(&key, inbox, 0);
        }
    }

    /// Removes a folder by its name, with what is in it.
    pub fn remove_folder(&self, address: &str, name: &str) {
        if let Some(mailbox) = self.lock().store.mailboxes.get_mut(&address.to_lowercase()) {
            mailbox.folders.retain(|folder| folder.name != name);
        }
    }

    /// Makes all states of `SyncFolderItems` invalid.
    pub fn forget_states(&self) {
        self.lock().store.forgotten_states += 1;
    }

    /// Outlook keeps rules of its own in a mailbox, or no more.
    pub fn set_outlook_blob(&self, address: &str, there: bool) {
        if let Some(mailbox) = self.lock().store.mailboxes.get_mut(&address.to_lowercase()) {
            mailbox.outlook_blob = there;
        }
    }

    /// Whether Outlook keeps rules of its own there.
    #[must_use]
    pub fn outlook_blob(&self, address: &str) -> bool {
        self.lock().store.mailboxes.get(&address.to_lowercase()).is_some_and(|m| m.outlook_blob)
    }

    /// Puts a rule into a mailbox as somebody else would: the content of its `Rule` element, in the prefix `t`.
    ///
    /// # Panics
    /// When that is no XML.
    pub fn add_rule(&self, address: &str, inside: &str) {
        let document = format!(
            "<t:Rule xmlns:t=\"http://schemas.microsoft.com/exchange/services/2006/types\">{inside}</t:Rule>"
        );
        let rule = Element::parse(document.as_bytes()).expect("a rule");
        if let Some(mailbox) = self.lock().store.mailboxes.get_mut(&address.to_lowercase()) {
            mailbox.rules.push(rule);
        }
    }

    /// What was sent.
    #[must_use]
    pub fn sent(&self) -> Vec<Sent> {
        self.lock().store.sent.clone()
    }

    /// What goes wrong at the next request of this operation (an operation, a path, or empty for any); each once, in the order they were planned.
    pub fn plan(&self, operation: &str, mishap: Mishap) {
        self.lock().mishaps.push((operation.to_owned(), mishap));
    }

    /// Nothing goes wrong any more.
    pub fn mend(&self) {
        self.lock().mishaps.clear();
    }

    /// What Autodiscover answers for an address; by default the URL of this server, for whoever has a mailbox.
    pub fn discovery(&self, address: &str, answer: Discovery) {
        self.lock().discoveries.insert(address.to_lowercase(), answer);
    }

    /// All requests so far.
    #[must_use]
    pub fn heard(&self) -> Vec<Heard> {
        self.lock().heard.clone()
    }

    /// How many subscriptions there are.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.lock().store.subscriptions.len()
    }
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn account(inner: &Inner, request: &Request) -> Option<String> {
    let (scheme, proof) = request.header("authorization")?.split_once(' ')?;
    match scheme.to_lowercase().as_str() {
        "basic" => {
            let pair = String::from_utf8(BASE64_STANDARD.decode(proof.trim()).ok()?).ok()?;
            let (name, password) = pair.split_once(':')?;
            let name = name.to_lowercase();
            (inner.store.accounts.get(&name)? == password).then_some(name)
        }
        "bearer" => inner.store.tokens.get(proof.trim()).cloned(),
        _ => None,
    }
}

fn answer(
    inner: &Mutex<Inner>,
    options: &EwsOptions,
    news: watch::Receiver<u64>,
    request: Request,
) -> Response {
    let mut guard = lock(inner);
    let inner = &mut *guard;
    let parsed = Element::parse(&request.body);
    let body = parsed.as_ref().ok().and_then(|envelope| envelope.child("s:Body")?.children.first());
    let operation = body.map(|b| b.name.split(':').nth(1).unwrap_or_default().to_owned()).unwrap_or_default();
    let who = account(inner, &request);
    let header = parsed.as_ref().ok().and_then(|envelope| envelope.child("s:Header"));
    let impersonated =
        header.and_then(|h| h.find("t:ConnectingSID")?.children.first().map(|c| c.text.trim().to_owned()));
    let version =
        header.and_then(|h| h.child("t:RequestServerVersion")?.attribute("Version").map(str::to_owned));
    inner.heard.push(Heard {
        method: request.method.clone(),
        path: request.path.clone(),
        operation: operation.clone(),
        account: who.clone(),
        impersonated: impersonated.clone(),
        anchor: request.header("x-anchormailbox").map(str::to_owned),
        version: version.clone(),
        body: String::from_utf8_lossy(&request.body).into_owned(),
    });
    let wanted = |name: &String| name.is_empty() || *name == operation || *name == request.path;
    let mishap = inner.mishaps.iter().position(|(name, _)| wanted(name)).map(|at| inner.mishaps.remove(at).1);
    match &mishap {
        Some(Mishap::Page(status, content_type, page)) => {
            return Response::new(*status, content_type, page.as_bytes());
        }
        Some(Mishap::Redirect(status, to)) => {
            let mut response =
                Response::new(*status, "text/html", "<html><title>Object moved</title></html>");
            response.headers.push(("Location", to.clone()));
            return response;
        }
        Some(Mishap::Cut) => {
            let mut response = Response::new(200, XML, "");
            response.body = Body::Nothing;
            return response;
        }
        Some(Mishap::Bytes(bytes)) => return Response::new(200, XML, bytes.clone()),
        _ => {}
    }
    let Some(who) = who else {
        let mut response =
            Response::new(401, "text/html", "<html><head><title>401 Unauthorized</title></head></html>");
        response.headers.push(("WWW-Authenticate", "Basic realm=\"exchange.test\"".to_owned()));
        return response;
    };
    let path = request.path.to_lowercase();
    if path.starts_with("/autodiscover/") {
        return autodiscover(inner, options, &request, &path, parsed.ok());
    }
    if path == "/ews/exchange.asmx" && request.method != "POST" {
        // Exchange shows its description to whoever looks
        return Response::new(200, "text/html", "<html><title>Service</title></html>");
    }
    if path != "/ews/exchange.asmx" {
        return Response::new(
            404,
            "text/html",
            "<html><head><title>404 - File or directory not found.</title></head></html>",
        );
    }
    let result = match &mishap {
        Some(Mishap::Fault(code, back_off)) => Err((Refusal::new(code, "Planned."), *back_off)),
        Some(Mishap::Refusal(code, back_off)) => Ok(planned(&operation, code, *back_off)),
        _ => {
            ews(inner, options, &who, impersonated, version, &parsed, body).map_err(|refusal| (refusal, None))
        }
    };
    let (status, content) = match result {
        Ok(content) => (200, content),
        Err((Refusal(code, text), back_off)) => (500, fault(code, &text, back_off)),
    };
    if status == 200
        && operation == "GetStreamingEvents"
        && let Some(subscription) = body.and_then(|b| b.find("t:SubscriptionId"))
    {
        let id = subscription.text.trim().to_owned();
        return stream(inner, options, news, &id);
    }
    let mut response = Response::new(status, XML, envelope(options, &content));
    let whole = std::mem::replace(&mut response.body, Body::Nothing);
    response.body = match (mishap, whole) {
        (Some(Mishap::DoneThenCut), _) => Body::Nothing,
        (Some(Mishap::DoneThenSilence), _) => Body::Silence,
        (Some(Mishap::DoneThenHalf), Body::Whole(bytes)) => Body::Half(bytes),
        (_, whole) => whole,
    };
    response
}

fn ews(
    inner: &mut Inner,
    options: &EwsOptions,
    who: &str,
    impersonated: Option<String>,
    version: Option<String>,
    parsed: &Result<Element, String>,
    body: Option<&Element>,
) -> Result<String, Refusal> {
    const VERSIONS: [&str; 7] = [
        "Exchange2007_SP1",
        "Exchange2010",
        "Exchange2010_SP1",
        "Exchange2010_SP2",
        "Exchange2013",
        "Exchange2013_SP1",
        "Exchange2016",
    ];
    let invalid = |why: &str| {
        Refusal::new("ErrorSchemaValidation", &format!("The request failed schema validation: {why}"))
    };
    let request = parsed.as_ref().map_err(|why| invalid(why))?;
    let place = |version: &str| VERSIONS.iter().position(|v| *v == version);
    let newest = place(options.newest).unwrap_or(VERSIONS.len());
    let version = version.unwrap_or_else(|| "Exchange2013".to_owned());
    let asked = place(&version);
    if asked.is_none_or(|asked| asked > newest) {
        return Err(Refusal::new("ErrorInvalidServerVersion", "The specified server version is invalid."));
    }
    if let Some(why) = schema::fault(request) {
        return Err(invalid(&why));
    }
    let text = request.write();
    for (what, since) in [
        ("item:ConversationId", 1),
        ("m:GetInboxRules", 2),
        ("m:StreamingSubscriptionRequest", 2),
        ("SuppressReadReceipts", 4),
    ] {
        if asked < Some(since) && text.contains(what) {
            return Err(invalid(&format!("{what} is not known in {version}.")));
        }
    }
    let body = body.ok_or_else(|| invalid("there is no operation."))?;
    if !options.notifications && matches!(body.name.as_str(), "m:Subscribe" | "m:GetStreamingEvents") {
        return Err(Refusal::new("ErrorInvalidOperation", "Notifications are not supported."));
    }
    let me = match &impersonated {
        None => inner.store.own.get(who).cloned().unwrap_or_default(),
        Some(address) => {
            if !inner.store.impersonators.contains(who) {
                return Err(Refusal::new(
                    "ErrorImpersonateUserDenied",
                    "The account does not have permission to impersonate the requested user.",
                ));
            }
            let address = address.to_lowercase();
            if !inner.store.mailboxes.contains_key(&address) {
                return Err(Refusal::new(
                    "ErrorNonExistentMailbox",
                    "The SMTP address has no mailbox associated with it.",
                ));
            }
            address
        }
    };
    let caller = Caller {
        account: who.to_owned(),
        me,
        impersonates: impersonated.is_some(),
        illegal_characters: options.illegal_characters,
    };
    if body.name == "m:GetStreamingEvents" {
        return Ok(String::new());
    }
    ops::run(&mut inner.store, &caller, body)
}

fn planned(operation: &str, code: &'static str, back_off: Option<&str>) -> String {
    let refusal = ops::message(operation, Err(Refusal::new(code, "Planned.")));
    let refusal = match back_off {
        None => refusal,
        Some(delay) => refusal.replace(
            "<m:DescriptiveLinkKey>",
            &format!("<m:MessageXml><t:Value Name=\"BackOffMilliseconds\">{delay}</t:Value></m:MessageXml><m:DescriptiveLinkKey>"),
        ),
    };
    format!(
        "<m:{operation}Response><m:ResponseMessages>{refusal}</m:ResponseMessages></m:{operation}Response>"
    )
}

fn fault(code: &str, text: &str, back_off: Option<&str>) -> String {
    let text = escape(text);
    let back_off = back_off
        .map(|delay| {
            format!("<t:MessageXml><t:Value Name=\"BackOffMilliseconds\">{delay}</t:Value></t:MessageXml>")
        })
        .unwrap_or_default();
    format!(
        "<s:Fault><faultcode xmlns:a=\"http://schemas.microsoft.com/exchange/services/2006/types\">a:{code}</faultcode>\
         <faultstring xml:lang=\"en-US\">{text}</faultstring><detail>\
         <e:ResponseCode xmlns:e=\"http://schemas.microsoft.com/exchange/services/2006/errors\">{code}</e:ResponseCode>\
         <e:Message xmlns:e=\"http://schemas.microsoft.com/exchange/services/2006/errors\">{text}</e:Message>{back_off}</detail></s:Fault>"
    )
}

fn envelope(options: &EwsOptions, content: &str) -> Vec<u8> {
    let namespaces = "xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
                      xmlns:m=\"http://schemas.microsoft.com/exchange/services/2006/messages\" \
                      xmlns:t=\"http://schemas.microsoft.com/exchange/services/2006/types\"";
    if options.other_prefixes {
        let text = format!("<s:Envelope {namespaces}><s:Body>{content}</s:Body></s:Envelope>");
        let mut text = text.replace("xmlns:t=", "xmlns:ns1=").replace("xmlns:m=", "xmlns=");
        for (from, to) in [("<t:", "<ns1:"), ("</t:", "</ns1:"), ("<m:", "<"), ("</m:", "</")] {
            text = text.replace(from, to);
        }
        return text.into_bytes();
    }
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><s:Envelope {namespaces}><s:Header>\
         <h:ServerVersionInfo MajorVersion=\"15\" MinorVersion=\"1\" MajorBuildNumber=\"2507\" MinorBuildNumber=\"6\" Version=\"V2017_07_11\" \
         xmlns:h=\"http://schemas.microsoft.com/exchange/services/2006/types\"/></s:Header><s:Body>{content}</s:Body></s:Envelope>"
    )
    .into_bytes()
}

/// One envelope at once, and one for each time something came into the folder.
fn stream(
    inner: &Inner,
    options: &EwsOptions,
    mut news: watch::Receiver<u64>,
    subscription: &str,
) -> Response {
    let status = |text: &str| format!("<m:ConnectionStatus>{text}</m:ConnectionStatus>");
    let wrap = |inside: &str| {
        let message = ops::message("GetStreamingEvents", Ok(inside.to_owned()));
        envelope(
            options,
            &format!(
                "<m:GetStreamingEventsResponse><m:ResponseMessages>{message}</m:ResponseMessages></m:GetStreamingEventsResponse>"
            ),
        )
    };
    if !inner.store.subscriptions.contains_key(subscription) {
        let message = ops::message(
            "GetStreamingEvents",
            Err(Refusal::new("ErrorSubscriptionNotFound", "There is no such subscription.")),
        );
        let content = format!(
            "<m:GetStreamingEventsResponse><m:ResponseMessages>{message}</m:ResponseMessages></m:GetStreamingEventsResponse>"
        );
        return Response::new(200, XML, envelope(options, &content));
    }
    let event = wrap(&format!(
        "<m:Notifications><m:Notification><t:SubscriptionId>{subscription}</t:SubscriptionId><t:NewMailEvent>\
         <t:TimeStamp>2026-11-25T12:00:00Z</t:TimeStamp><t:ItemId Id=\"AAA=\" ChangeKey=\"AQ==\"/><t:ParentFolderId Id=\"AAE=\" ChangeKey=\"AQ==\"/>\
         </t:NewMailEvent></m:Notification></m:Notifications>"
    ));
    let opened = wrap(&status("OK"));
    let (send, pieces) = mpsc::channel(4);
    news.mark_unchanged();
    tokio::spawn(async move {
        if send.send(opened).await.is_err() {
            return;
        }
        loop {
            tokio::select! {
                changed = news.changed() => {
                    if changed.is_err() || send.send(event.clone()).await.is_err() {
                        return;
                    }
                }
                () = send.closed() => return,
            }
        }
    });
    let mut response = Response::new(200, XML, "");
    response.body = Body::Stream(pieces);
    response
}

fn autodiscover(
    inner: &Inner,
    options: &EwsOptions,
    request: &Request,
    path: &str,
    parsed: Option<Element>,
) -> Response {
    let soap = path.ends_with("/autodiscover.svc");
    if request.method != "POST"
        || (soap && options.plain_autodiscover_only)
        || !(soap || path.ends_with("/autodiscover.xml"))
    {
        return Response::new(404, "text/html", "<html><title>404</title></html>");
    }
    let name = if soap { "a:Mailbox" } else { "o:EMailAddress" };
    let Some(address) = parsed.as_ref().and_then(|p| p.find(name)).map(|e| e.text.trim().to_lowercase())
    else {
        return Response::new(500, "text/html", "<html><title>Runtime Error</title></html>");
    };
    let host = request.header("host").unwrap_or("localhost");
    let here = format!("{}://{host}/EWS/Exchange.asmx", if options.tls.is_some() { "https" } else { "http" });
    let answer = match inner.discoveries.get(&address) {
        Some(answer) => answer.clone(),
        None if inner.store.mailboxes.contains_key(&address) => {
            Discovery::Urls(Some(here.clone()), Some(here))
        }
        None => Discovery::Error,
    };
    let content = if soap { soap_discovery(&answer) } else { plain_discovery(&address, &answer) };
    Response::new(200, XML, content)
}

fn soap_discovery(answer: &Discovery) -> String {
    let setting = |name: &str, url: &Option<String>| {
        url.as_ref().map_or_else(String::new, |url| {
            format!(
                "<UserSetting xmlns:i=\"http://www.w3.org/2001/XMLSchema-instance\" i:type=\"StringSetting\"><Name>{name}</Name><Value>{}</Value></UserSetting>",
                escape(url)
            )
        })
    };
    let (code, target, settings) = match answer {
        Discovery::Urls(external, internal) => (
            "NoError",
            String::new(),
            setting("ExternalEwsUrl", external) + &setting("InternalEwsUrl", internal),
        ),
        Discovery::Address(to) => ("RedirectAddress", to.clone(), String::new()),
        Discovery::Url(to) => ("RedirectUrl", to.clone(), String::new()),
        Discovery::Error => ("InvalidUser", String::new(), String::new()),
    };
    let target = if target.is_empty() {
        "<RedirectTarget xmlns:i=\"http://www.w3.org/2001/XMLSchema-instance\" i:nil=\"true\"/>".to_owned()
    } else {
        format!("<RedirectTarget>{}</RedirectTarget>", escape(&target))
    };
    format!(
        "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Header><h:ServerVersionInfo xmlns:h=\"http://schemas.microsoft.com/exchange/2010/Autodiscover\">\
         <h:MajorVersion>15</h:MajorVersion><h:MinorVersion>1</h:MinorVersion><h:MajorBuildNumber>2507</h:MajorBuildNumber><h:MinorBuildNumber>6</h:MinorBuildNumber>\
         <h:Version>Exchange2015</h:Version></h:ServerVersionInfo></s:Header><s:Body>\
         <GetUserSettingsResponseMessage xmlns=\"http://schemas.microsoft.com/exchange/2010/Autodiscover\"><Response><ErrorCode>NoError</ErrorCode><ErrorMessage/>\
         <UserResponses><UserResponse><ErrorCode>{code}</ErrorCode><ErrorMessage>{code}.</ErrorMessage>{target}<UserSettingErrors/><UserSettings>{settings}</UserSettings>\
         </UserResponse></UserResponses></Response></GetUserSettingsResponseMessage></s:Body></s:Envelope>"
    )
}

fn plain_discovery(address: &str, answer: &Discovery) -> String {
    let protocol = |kind: &str, url: &Option<String>| {
        url.as_ref().map_or_else(String::new, |url| {
            format!(
                "<Protocol><Type>{kind}</Type><Server>exchange.test</Server><EwsUrl>{}</EwsUrl></Protocol>",
                escape(url)
            )
        })
    };
    let account = match answer {
        Discovery::Urls(external, internal) => {
            format!("<Action>settings</Action>{}{}", protocol("EXCH", internal), protocol("EXPR", external))
        }
        Discovery::Address(to) => {
            format!("<Action>redirectAddr</Action><RedirectAddr>{}</RedirectAddr>", escape(to))
        }
        Discovery::Url(to) => {
            format!("<Action>redirectUrl</Action><RedirectUrl>{}</RedirectUrl>", escape(to))
        }
        Discovery::Error => {
            return "<?xml version=\"1.0\" encoding=\"utf-8\"?><Autodiscover xmlns=\"http://schemas.microsoft.com/exchange/autodiscover/responseschema/2006\"><Response>\
                    <Error Time=\"12:00:00\" Id=\"1\"><ErrorCode>500</ErrorCode><Message>The email address can't be found.</Message><DebugData/></Error></Response></Autodiscover>"
                .to_owned();
        }
    };
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><Autodiscover xmlns=\"http://schemas.microsoft.com/exchange/autodiscover/responseschema/2006\">\
         <Response xmlns=\"http://schemas.microsoft.com/exchange/autodiscover/outlook/responseschema/2006a\"><User><DisplayName>x</DisplayName>\
         <AutoDiscoverSMTPAddress>{}</AutoDiscoverSMTPAddress></User><Account><AccountType>email</AccountType>{account}</Account></Response></Autodiscover>",
        escape(address)
    )
}
