//! A fake Microsoft Graph with mailboxes in memory, after the public reference of Graph v1.0.
//!
//! It is strict: a query option or property it does not know is an error, tokens are checked, an upload out of order or in pieces of another
//! size is refused, a fifth request at a time for one mailbox is throttled. What a client must never do is noted as a violation.

mod folders;
mod mail;
mod query;
mod rules;
mod sending;
mod store;
mod wire;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::StopOnDrop;
use store::{Mailbox, State};
use wire::{Heard, Reply};

/// Requests that are served at a time for one mailbox.
const CONCURRENCY: usize = 4;
/// The largest body of a request.
const LARGEST_REQUEST: usize = 4 << 20;

/// A message that was taken for delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Through which mailbox.
    pub mailbox: String,
    /// For whom: To, Cc and Bcc.
    pub recipients: Vec<String>,
    /// As it went on: without Bcc.
    pub mime: Vec<u8>,
    /// What was attached to the draft.
    pub attachments: Vec<Attached>,
}

/// An attachment of a draft.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub content: Vec<u8>,
    /// Whether it is shown within the text.
    pub inline: bool,
    /// In how many pieces it came; 0 for one that came in a request of its own.
    pub pieces: usize,
}

/// What goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This answer, and nothing happens: status, header fields, body.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// It happens, and the answer's body ends after so many bytes.
    Cut(usize),
    /// The connection is closed, and nothing happens.
    HangUp,
    /// It happens, and the connection is closed.
    ActAndHangUp,
}

impl Fault {
    /// An error answer of the service.
    #[must_use]
    pub fn error(status: u16, code: &str) -> Self {
        let body = json!({"error": {"code": code, "message": "as planned", "innerError": {"request-id": "planned-1"}}});
        Self::Answer(status, vec![("Content-Type", "application/json".to_owned())], body.to_string())
    }

    /// The service is throttling, for so many seconds, as it writes them.
    #[must_use]
    pub fn throttled(seconds: &str) -> Self {
        match Self::error(429, "ApplicationThrottled") {
            Self::Answer(status, mut headers, body) => {
                headers.push(("Retry-After", seconds.to_owned()));
                Self::Answer(status, headers, body)
            }
            other => other,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Planned {
    method: String,
    part: String,
    times: usize,
    fault: Fault,
}

/// A listening server.
pub struct GraphServer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    _task: StopOnDrop,
}

impl std::fmt::Debug for GraphServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GraphServer({})", self.address)
    }
}

impl GraphServer {
    /// Starts a server that knows these access tokens.
    ///
    /// # Panics
    /// When there is no free port; that fails the test.
    pub async fn start(tokens: &[&str]) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let state =
            Arc::new(Mutex::new(State { base: format!("http://{address}/v1.0"), ..State::default() }));
        let tokens: Arc<Vec<String>> = Arc::new(tokens.iter().map(|t| format!("Bearer {t}")).collect());
        let shared = Arc::clone(&state);
        let handler: wire::Handler = Arc::new(move |heard| {
            let (state, tokens) = (Arc::clone(&shared), Arc::clone(&tokens));
            Box::pin(async move { serve(&state, &tokens, heard).await })
        });
        let task = tokio::spawn(wire::serve(listener, handler));
        Self { address, state, _task: StopOnDrop(task) }
    }

    /// The base of all URLs, with the version.
    #[must_use]
    pub fn base(&self) -> String {
        format!("http://{}/v1.0", self.address)
    }

    /// Makes an empty mailbox.
    pub fn add_mailbox(&self, address: &str) {
        self.state().mailboxes.entry(address.to_lowercase()).or_default();
    }

    /// Delivers a message into the Inbox, and tells its immutable id.
    pub fn deliver(&self, mailbox: &str, mime: &[u8]) -> String {
        let number = self.state().put(mailbox, "inbox", mime, true);
        store::immutable_id(number)
    }

    /// Puts a message into the Inbox that never was on the way, so that no header fields are told of it.
    pub fn deposit(&self, mailbox: &str, mime: &[u8]) -> String {
        let number = self.state().put(mailbox, "inbox", mime, false);
        store::immutable_id(number)
    }

    /// What is in a folder, by well-known name or display name, oldest first, with whether it is read.
    #[must_use]
    pub fn folder(&self, mailbox: &str, folder: &str) -> Vec<(Vec<u8>, bool)> {
        let state = self.state();
        let Some(owner) = state.mailboxes.get(&mailbox.to_lowercase()) else { return Vec::new() };
        let own = owner.folders.iter().find(|(_, name)| name == folder).map(|(id, _)| id.as_str());
        let id = own.unwrap_or(folder);
        owner.messages.iter().filter(|m| m.folder == id).map(|m| (m.mime.clone(), m.read)).collect()
    }

    /// Takes everything out of the Inbox for good, as somebody else could.
    pub fn empty_inbox(&self, mailbox: &str) {
        let mut state = self.state();
        let owner = state.mailboxes.entry(mailbox.to_lowercase()).or_default();
        while let Some(place) = owner.messages.iter().position(|m| m.folder == "inbox") {
            owner.erased(place);
        }
    }

    /// Makes every delta token so far invalid.
    pub fn expire_tokens(&self) {
        self.state().epoch += 1;
    }

    /// From now on extended properties are refused with a delta.
    pub fn refuse_expand(&self) {
        self.state().expand_refused = true;
    }

    /// From now on the Message-ID of what is sent is replaced.
    pub fn rewrite_message_ids(&self) {
        self.state().rewrites_ids = true;
    }

    /// From now on nobody can send to this address.
    pub fn refuse_recipient(&self, address: &str) {
        self.state().refused.insert(address.to_lowercase());
    }

    /// Lets an account send for another mailbox, as it or only on its behalf.
    pub fn grant_sending(&self, account: &str, mailbox: &str, on_behalf: bool) {
        let mut state = self.state();
        let owner = state.mailboxes.entry(account.to_lowercase()).or_default();
        owner.may_send_for.push((mailbox.to_lowercase(), on_behalf));
    }

    /// The next `times` requests of this method whose decoded path and query contain this text go wrong; requests within a batch count, too.
    pub fn plan(&self, method: &str, part: &str, times: usize, fault: Fault) {
        let (method, part) = (method.to_owned(), part.to_owned());
        self.state().faults.push(Planned { method, part, times, fault });
    }

    /// Ends all that was planned.
    pub fn mend(&self) {
        self.state().faults.clear();
    }

    /// What was taken for delivery, in order.
    #[must_use]
    pub fn sent(&self) -> Vec<Sent> {
        self.state().sent.clone()
    }

    /// The rules of a mailbox, as they are kept.
    #[must_use]
    pub fn rules(&self, mailbox: &str) -> Vec<Value> {
        self.state().mailboxes.get(&mailbox.to_lowercase()).map(|m| m.rules.clone()).unwrap_or_default()
    }

    /// Puts a rule into a mailbox as another program would.
    pub fn add_rule(&self, mailbox: &str, mut rule: Value) {
        let mut state = self.state();
        let id = format!("rule-{}", state.number());
        rule["id"] = json!(id);
        state.mailboxes.entry(mailbox.to_lowercase()).or_default().rules.push(rule);
    }

    /// All requests so far: method, decoded path and query; those within a batch behind it, indented.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }

    /// Forgets the requests so far.
    pub fn forget_requests(&self) {
        self.state().requests.clear();
    }

    /// What clients did that they must not.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    /// How many requests there were at a time for one mailbox at the most.
    #[must_use]
    pub fn most_in_flight(&self) -> usize {
        self.state().most_in_flight
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a request is refused.
pub(crate) struct Refusal {
    status: u16,
    code: &'static str,
    message: String,
}

pub(crate) fn refuse(status: u16, code: &'static str, message: impl Into<String>) -> Refusal {
    Refusal { status, code, message: message.into() }
}

pub(crate) fn bad(message: impl Into<String>) -> Refusal {
    refuse(400, "BadRequest", message)
}

/// What a request comes to: status and JSON, or bytes that are none.
pub(crate) enum Done {
    Json(u16, Value),
    Raw(u16, Vec<u8>),
    Empty(u16),
}

pub(crate) type Result<T = Done> = std::result::Result<T, Refusal>;

async fn serve(state: &Mutex<State>, tokens: &[String], heard: Heard) -> Option<Reply> {
    let segments = heard.segments();
    let mailbox = match &segments[..] {
        [_, users, mailbox, ..] if users == "users" => Some(mailbox.to_lowercase()),
        _ => None,
    };
    let counted = |change: isize| {
        let mut state = lock(state);
        let owner = mailbox.as_ref().and_then(|m| state.mailboxes.get_mut(m));
        let count = owner.map_or(0, |owner: &mut Mailbox| {
            owner.in_flight = owner.in_flight.saturating_add_signed(change);
            owner.in_flight
        });
        state.most_in_flight = state.most_in_flight.max(count);
        count
    };
    let count = counted(1);
    // whoever comes meanwhile is seen
    for _ in 0..16 {
        tokio::task::yield_now().await;
    }
    let reply = match count {
        too_many if too_many > CONCURRENCY => {
            lock(state).violations.push(format!("{too_many} requests at a time for {mailbox:?}"));
            let error =
                refuse(429, "ApplicationThrottled", "Application is over its MailboxConcurrency limit.");
            Some(reply(Err(error)))
        }
        _ => answer(&mut lock(state), tokens, &heard, true),
    };
    counted(-1);
    reply
}

fn answer(state: &mut State, tokens: &[String], heard: &Heard, outer: bool) -> Option<Reply> {
    let segments = heard.segments();
    let query: Vec<String> = heard.query().into_iter().map(|(n, v)| format!("{n}={v}")).collect();
    let separator = if query.is_empty() { "" } else { "?" };
    let line = format!("{} /{}{separator}{}", heard.method, segments.join("/"), query.join("&"));
    state.requests.push(if outer { line.clone() } else { format!("  {line}") });
    let planned =
        state.faults.iter_mut().find(|p| p.times > 0 && p.method == heard.method && line.contains(&p.part));
    let fault = planned.map(|planned| {
        planned.times -= 1;
        planned.fault.clone()
    });
    match fault {
        Some(Fault::Answer(status, headers, body)) => {
            let headers = headers.into_iter().map(|(n, v)| (n.to_owned(), v)).collect();
            return Some(Reply { status, headers, body: body.into_bytes(), cut_after: None });
        }
        Some(Fault::HangUp) => return None,
        _ => {}
    }
    let done = match &segments[..] {
        [upload, session] if upload == "upload" => sending::upload(state, heard, session),
        [version, rest @ ..] if version == "v1.0" => match authorized(tokens, heard, outer) {
            Ok(()) if heard.body.len() > LARGEST_REQUEST => {
                Err(refuse(413, "RequestEntityTooLarge", "The request is larger than 4 MB."))
            }
            Ok(()) => route(state, tokens, heard, rest),
            Err(refusal) => Err(refusal),
        },
        _ => Err(bad("Resource not found for the segment.")),
    };
    let reply = reply(done);
    match fault {
        Some(Fault::ActAndHangUp) => None,
        Some(Fault::Cut(after)) => Some(Reply { cut_after: Some(after), ..reply }),
        _ => Some(reply),
    }
}

fn authorized(tokens: &[String], heard: &Heard, outer: bool) -> Result<()> {
    match heard.header("authorization") {
        None if !outer => Ok(()),
        Some(token) if tokens.iter().any(|known| known == token) => Ok(()),
        Some(_) => Err(refuse(
            401,
            "InvalidAuthenticationToken",
            "Access token validation failure. Invalid audience.",
        )),
        None => Err(refuse(401, "InvalidAuthenticationToken", "Access token is empty.")),
    }
}

fn reply(done: Result) -> Reply {
    let json_type =
        || ("Content-Type".to_owned(), "application/json;odata.metadata=minimal;charset=utf-8".to_owned());
    let id = ("request-id".to_owned(), "fake-request-1".to_owned());
    let (status, headers, body) = match done {
        Ok(Done::Json(status, value)) => (status, vec![id, json_type()], value.to_string().into_bytes()),
        Ok(Done::Raw(status, bytes)) => {
            (status, vec![id, ("Content-Type".to_owned(), "text/plain".to_owned())], bytes)
        }
        Ok(Done::Empty(status)) => (status, vec![id], Vec::new()),
        Err(Refusal { status, code, message }) => {
            let error = json!({"error": {"code": code, "message": message, "innerError": {"request-id": "fake-request-1"}}});
            (status, vec![id, json_type()], error.to_string().into_bytes())
        }
    };
    Reply { status, headers, body, cut_after: None }
}

fn route(state: &mut State, tokens: &[String], heard: &Heard, rest: &[String]) -> Result {
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    match &rest[..] {
        ["$batch"] => batch(state, tokens, heard),
        ["users", mailbox, rest @ ..] => {
            let mailbox = mailbox.to_lowercase();
            if !state.mailboxes.contains_key(&mailbox) {
                return Err(refuse(
                    404,
                    "ErrorInvalidUser",
                    format!("The requested user '{mailbox}' is invalid."),
                ));
            }
            match rest {
                ["sendMail"] => sending::send_mail(state, heard, &mailbox),
                ["mailFolders", "inbox", "messageRules", rest @ ..] => {
                    rules::handle(state, heard, &mailbox, rest)
                }
                ["mailFolders", rest @ ..] => folders::handle(state, heard, &mailbox, rest),
                ["messages", rest @ ..] => mail::handle(state, heard, &mailbox, rest),
                _ => {
                    Err(bad(format!("Resource not found for the segment '{}'.", rest.first().unwrap_or(&""))))
                }
            }
        }
        _ => Err(bad("Resource not found.")),
    }
}

/// A JSON body of one of the types that Graph takes for it.
pub(crate) fn json_body(heard: &Heard) -> Result<Value> {
    let kind = heard.header("content-type").unwrap_or("");
    if !kind.starts_with("application/json") {
        return Err(bad(format!("The content type '{kind}' is not supported here.")));
    }
    serde_json::from_slice(&heard.body).map_err(|_| bad("Unable to read JSON request payload."))
}

fn batch(state: &mut State, tokens: &[String], heard: &Heard) -> Result {
    if heard.method != "POST" {
        return Err(refuse(405, "MethodNotAllowed", "Only POST."));
    }
    let body = json_body(heard)?;
    let requests = body["requests"].as_array().ok_or_else(|| bad("No requests."))?;
    if requests.is_empty() || requests.len() > 20 {
        return Err(bad(format!("{} requests in a batch; 1 to 20 are allowed.", requests.len())));
    }
    let mut responses = Vec::new();
    let mut ids = std::collections::HashSet::new();
    for request in requests {
        let (Some(id), Some(method), Some(url)) =
            (request["id"].as_str(), request["method"].as_str(), request["url"].as_str())
        else {
            return Err(bad("A request in a batch needs id, method and url."));
        };
        if !ids.insert(id) || !url.starts_with('/') {
            return Err(bad("Ids are unique and URLs relative."));
        }
        let headers = request["headers"].as_object().into_iter().flatten();
        let headers: Vec<(String, String)> =
            headers.map(|(n, v)| (n.clone(), v.as_str().unwrap_or("").to_owned())).collect();
        let inner = Heard {
            method: method.to_owned(),
            target: format!("/v1.0{url}"),
            headers,
            body: if request["body"].is_null() {
                Vec::new()
            } else {
                request["body"].to_string().into_bytes()
            },
        };
        let reply = answer(state, tokens, &inner, false).unwrap_or(Reply { status: 504, ..Reply::default() });
        let headers: serde_json::Map<String, Value> =
            reply.headers.iter().map(|(n, v)| (n.clone(), json!(v))).collect();
        let body: Value = serde_json::from_slice(&reply.body).unwrap_or(Value::Null);
        responses.push(json!({"id": id, "status": reply.status, "headers": headers, "body": body}));
    }
    // the real service keeps no order
    responses.reverse();
    Ok(Done::Json(200, json!({"responses": responses})))
}
