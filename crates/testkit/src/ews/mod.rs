//! A small Exchange: Web Services and Autodiscover over mailboxes in memory, after Microsoft's reference of EWS.
//!
//! It is strict with requests: elements out of order, missing or unknown ones and missing attributes are `ErrorSchemaValidation`, as on Exchange. Logins are Basic
//! and Bearer. What goes wrong on demand is planned with [`EwsServer::plan`].

mod discovery;
mod front;
mod http;
mod items;
mod ops;
mod rules;
mod schema;
mod store;
mod xml;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::StopOnDrop;
pub use store::Sent;
use store::State;
use xml::Element;

const XML: &str = "text/xml; charset=utf-8";

/// What the server is like.
#[derive(Clone)]
pub struct EwsOptions {
    /// The newest version of the schema that it knows.
    pub newest: &'static str,
    /// The port to listen on; 0 for a free one.
    pub port: u16,
    /// Speaks TLS.
    pub tls: Option<TlsAcceptor>,
    /// Writes answers with other prefixes and without a header.
    pub other_prefixes: bool,
    /// Puts a character that XML forbids into every subject, and tells every subject.
    pub illegal_characters: bool,
    /// Tells the recipients of rules by their names in the directory where they are its own, as Exchange may (routing type `EX`).
    pub directory_names: bool,
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
            port: 0,
            tls: None,
            other_prefixes: false,
            illegal_characters: false,
            directory_names: false,
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
        let listener = TcpListener::bind(("127.0.0.1", options.port)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let inner = Arc::new(Mutex::new(Inner::default()));
        let (news, listen) = watch::channel(0);
        let scheme = if options.tls.is_some() { "https" } else { "http" };
        let tls = options.tls.clone();
        let shared = (Arc::clone(&inner), Arc::new(options), listen);
        let handler: http::Handler = Arc::new(move |request| {
            let (inner, options, news) = shared.clone();
            Box::pin(async move { front::answer(&inner, &options, news, request) })
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

    /// The rules of a mailbox as they are kept, each as XML.
    #[must_use]
    pub fn rules(&self, address: &str) -> Vec<String> {
        let inner = self.lock();
        let mailbox = inner.store.mailboxes.get(&address.to_lowercase());
        mailbox.map_or_else(Vec::new, |mailbox| mailbox.rules.iter().map(Element::write).collect())
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
