//! A Dataverse organization in memory, after the public reference of its Web API (`crm-contract.md` 1 to 5 and 11).
//!
//! It is strict: a table, column, lookup, option or state it does not know is the documented error; batches must be written as the real server wants them.
//! What Microsoft has not published is a rule ([`Rules`]) that a test switches.

mod batch;
mod fetch;
mod filter;
mod messages;
mod metadata;
mod query;
mod schema;
mod soap;
mod store;
mod xml;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use serde_json::{Map, Value, json};
use tokio_rustls::TlsAcceptor;

use crate::http::{Act, Answer, HttpServer, Seen};
pub use store::Rules;
use store::{Outcome, Refused, Store, refused};

/// The id of the organization.
pub const ORGANIZATION: &str = "0a0a0a0a-1111-4222-8333-444444444444";
/// The id of the user that asks.
pub const ROUTER: &str = "0b0b0b0b-1111-4222-8333-444444444444";
/// The token that is taken.
pub const TOKEN: &str = "the-one-good-token";
/// Answers of this status and code that a [`Plan`] gives.
type Fields = Vec<(&'static str, String)>;

/// What goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This answer, and nothing happens: status, header fields, body.
    Answer(u16, Fields, String),
    /// It happens, and the connection is cut before the answer.
    Lost,
    /// Nothing happens, and the connection is cut.
    Cut,
    /// It happens, and so many bytes of the answer's body come.
    Half(usize),
    /// Nothing happens, and no answer comes.
    Silence,
}

impl Fault {
    /// An error as the Web API writes it.
    #[must_use]
    pub fn error(status: u16, code: u32, words: &str) -> Self {
        let body = json!({ "error": { "code": format!("0x{code:08x}"), "message": words } });
        Self::Answer(status, Vec::new(), body.to_string())
    }

    /// Service protection (11.3).
    #[must_use]
    pub fn throttled(seconds: &str) -> Self {
        let body = json!({ "error": { "code": "0x80072322", "message": "Number of requests exceeded the limit of 6000 over time window of 300 seconds." } });
        Self::Answer(429, vec![("Retry-After", seconds.to_owned())], body.to_string())
    }
}

#[derive(Debug)]
struct Plan {
    method: String,
    part: String,
    times: usize,
    fault: Fault,
}

struct State {
    store: Store,
    plans: Vec<Plan>,
    requests: Vec<String>,
    denied: Vec<String>,
    untracked: Vec<String>,
    versions: Vec<&'static str>,
    anonymous: bool,
    expired_before: u64,
    uploads: HashMap<String, HashMap<String, Vec<u8>>>,
    server_version: &'static str,
    base: String,
}

/// The organization, on a port of this machine. It stops when it is dropped.
pub struct DataverseServer {
    http: HttpServer,
    state: Arc<Mutex<State>>,
}

impl DataverseServer {
    /// An organization called `contoso` without users; its token is [`TOKEN`].
    pub async fn start() -> Self {
        Self::listen(None).await
    }

    /// The same inside TLS.
    pub async fn start_tls(acceptor: TlsAcceptor) -> Self {
        Self::listen(Some(acceptor)).await
    }

    async fn listen(acceptor: Option<TlsAcceptor>) -> Self {
        let mut store = Store::new();
        let organization = json!({
            "name": "contoso", "emailconnectionchannel": 0, "emailcorrelationenabled": true, "enablesmartmatching": false,
            "trackingprefix": "CRM:", "trackingtokenidbase": 0, "trackingtokeniddigits": 3, "maximumtrackingnumber": 999,
            "hashmaxcount": 20, "hashdeltasubjectcount": 0, "hashminaddresscount": 2, "maxuploadfilesize": 5_242_880,
            "blockedattachments": "exe;js", "orgdborgsettings": "<OrgSettings></OrgSettings>",
        });
        made(&mut store, "organizations", ORGANIZATION, organization);
        made(&mut store, "systemusers", ROUTER, json!({ "fullname": "# email-router", "isdisabled": false }));
        made(
            &mut store,
            "usersettingscollection",
            ROUTER,
            json!({ "trackingtokenid": 1, "nexttrackingnumber": 1 }),
        );
        let state = Arc::new(Mutex::new(State {
            store,
            plans: Vec::new(),
            requests: Vec::new(),
            denied: Vec::new(),
            untracked: Vec::new(),
            versions: vec!["8.2", "9.0", "9.1", "9.2"],
            anonymous: false,
            expired_before: 0,
            uploads: HashMap::new(),
            server_version: "9.2.24032.20",
            base: String::new(),
        }));
        let serving = Arc::clone(&state);
        let http = HttpServer::listen(0, acceptor, move |seen| lock(&serving).serve(seen)).await;
        lock(&state).base = http.base();
        Self { http, state }
    }

    /// Its root, without a slash at the end.
    #[must_use]
    pub fn base(&self) -> String {
        self.http.base()
    }

    /// The server of HTTP below it.
    #[must_use]
    pub fn http(&self) -> &HttpServer {
        &self.http
    }

    /// The time as the organization sees it, as `2026-11-22T10:00:00Z`.
    pub fn set_clock(&self, now: impl Fn() -> String + Send + 'static) {
        lock(&self.state).store.now = Box::new(now);
    }

    /// Changes what the organization refuses.
    pub fn rules(&self, change: impl FnOnce(&mut Rules)) {
        change(&mut lock(&self.state).store.rules);
    }

    /// Makes a row as an administrator would, with the same checks.
    ///
    /// # Panics
    /// The organization refuses it.
    pub fn create(&self, set: &str, body: Value) -> String {
        let mut state = lock(&self.state);
        let id = state.store.fresh_id();
        made(&mut state.store, set, &id, body);
        id
    }

    /// The same, with an id of the caller's.
    ///
    /// # Panics
    /// The organization refuses it.
    pub fn create_as(&self, set: &str, id: &str, body: Value) {
        made(&mut lock(&self.state).store, set, id, body);
    }

    /// Changes a row.
    ///
    /// # Panics
    /// The organization refuses it.
    pub fn update(&self, set: &str, id: &str, body: Value) {
        let Value::Object(body) = body else { panic!("no object") };
        let done = lock(&self.state).store.update(set, id, &body);
        assert!(done.is_ok(), "{set}({id}): {done:?}");
    }

    /// Deletes a row; `false` where there is none.
    pub fn delete(&self, set: &str, id: &str) -> bool {
        let mut state = lock(&self.state);
        let Some(name) = state.store.table(set).map(|table| table.name) else { return false };
        state.store.delete(name, &id.to_lowercase()).is_ok()
    }

    /// A row's values as they are kept (lookups are objects with `table` and `id`); `None` where there is none.
    #[must_use]
    pub fn row(&self, set: &str, id: &str) -> Option<Map<String, Value>> {
        let state = lock(&self.state);
        let name = state.store.table(set)?.name;
        state.store.row(name, &id.to_lowercase()).map(|row| row.values.clone())
    }

    /// All rows of a set.
    #[must_use]
    pub fn rows(&self, set: &str) -> Vec<Map<String, Value>> {
        let state = lock(&self.state);
        let Some(name) = state.store.table(set).map(|table| table.name) else { return Vec::new() };
        state
            .store
            .rows(name)
            .into_iter()
            .flat_map(|rows| rows.rows.values())
            .map(|row| row.values.clone())
            .collect()
    }

    /// An enabled user whose mail goes through the router.
    pub fn add_user(&self, name: &str, address: &str, approved: bool) -> String {
        let id = self.create(
            "systemusers",
            json!({
                "fullname": name, "internalemailaddress": address, "isdisabled": false, "incomingemaildeliverymethod": 2,
                "outgoingemaildeliverymethod": 2, "emailrouteraccessapproval": u8::from(approved),
            }),
        );
        let mut state = lock(&self.state);
        let number = state.store.rows("usersettings").map_or(0, |rows| rows.rows.len()) + 1;
        let settings =
            json!({ "incomingemailfilteringmethod": 0, "trackingtokenid": number, "nexttrackingnumber": 1 });
        made(&mut state.store, "usersettingscollection", &id, settings);
        id
    }

    /// An active queue whose mail goes through the router, with an approved address.
    pub fn add_queue(&self, name: &str, address: &str) -> String {
        self.create(
            "queues",
            json!({
                "name": name, "emailaddress": address, "incomingemaildeliverymethod": 2, "outgoingemaildeliverymethod": 2,
                "emailrouteraccessapproval": 1, "incomingemailfilteringmethod": 0,
            }),
        )
    }

    /// Sets columns of the organization.
    pub fn set_organization(&self, columns: Value) {
        self.update("organizations", ORGANIZATION, columns);
    }

    /// The next so many requests of this method whose target has this text in it go wrong.
    pub fn plan(&self, method: &str, part: &str, times: usize, fault: Fault) {
        let plan = Plan { method: method.to_owned(), part: part.to_owned(), times, fault };
        lock(&self.state).plans.push(plan);
    }

    /// Nothing goes wrong any more.
    pub fn mend(&self) {
        lock(&self.state).plans.clear();
    }

    /// The router's user has not this privilege.
    pub fn deny(&self, privilege: &str) {
        lock(&self.state).denied.push(privilege.to_owned());
    }

    /// A table has no change tracking.
    pub fn untrack(&self, table: &str) {
        lock(&self.state).untracked.push(table.to_owned());
    }

    /// All tokens for changes that were given out have expired.
    pub fn expire_change_tokens(&self) {
        let mut state = lock(&self.state);
        state.store.version += 1;
        state.expired_before = state.store.version;
    }

    /// Which versions of the Web API there are.
    pub fn set_versions(&self, versions: &[&'static str]) {
        lock(&self.state).versions = versions.to_vec();
    }

    /// What is wrong with a filter of a set; `None`: nothing.
    #[must_use]
    pub fn filter_fault(&self, set: &str, filter: &str) -> Option<String> {
        let state = lock(&self.state);
        let table = state.store.table(set)?;
        let encoded = filter.replace('%', "%25").replace('&', "%26");
        query::options(&state.store, table, &format!("$filter={encoded}")).err().map(|refused| refused.2)
    }

    /// Everybody may ask.
    pub fn let_everybody_in(&self) {
        lock(&self.state).anonymous = true;
    }

    /// Method and target of each request so far, the path behind the version; parts of batches are preceded by `> `.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        lock(&self.state).requests.clone()
    }

    /// Forgets them.
    pub fn forget_requests(&self) {
        lock(&self.state).requests.clear();
    }
}

impl fmt::Debug for DataverseServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataverseServer").field("http", &self.http).finish_non_exhaustive()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn made(store: &mut Store, set: &str, id: &str, body: Value) {
    let Value::Object(body) = body else { panic!("no object") };
    let done = store.create(set, id, &body);
    assert!(done.is_ok(), "{set}: {done:?}");
    // an administrator may set the state at once
    let state: Map<String, Value> = body
        .iter()
        .filter(|(name, _)| matches!(name.as_str(), "statecode" | "statuscode"))
        .map(|(n, v)| (n.clone(), v.clone()))
        .collect();
    if !state.is_empty() {
        let done = store.update(set, id, &state);
        assert!(done.is_ok(), "{set}: {done:?}");
    }
}

/// What a request comes to.
struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Option<Value>,
}

impl Reply {
    fn json(body: Value) -> Self {
        Self { status: 200, headers: Vec::new(), body: Some(body) }
    }

    fn nothing() -> Self {
        Self { status: 204, headers: Vec::new(), body: None }
    }

    fn of(outcome: Outcome<Self>) -> Self {
        outcome.unwrap_or_else(|Refused(status, code, words)| Self {
            status,
            headers: Vec::new(),
            body: Some(json!({ "error": { "code": format!("0x{code:08x}"), "message": words } })),
        })
    }
}

impl State {
    fn serve(&mut self, seen: &Seen) -> Answer {
        let target = seen.target.clone();
        let is_soap = target == soap::PATH;
        let (path, version) = match target.strip_prefix("/api/data/v").and_then(|rest| rest.split_once('/')) {
            Some((version, path)) => (path.to_owned(), version.to_owned()),
            None if is_soap => {
                // the operation, or the message that is executed, tells requests apart
                let text = seen.text();
                let name = text.split_once("<a:RequestName>").and_then(|(_, rest)| rest.split('<').next());
                let action = seen.header("soapaction").unwrap_or_default().trim_matches('"');
                let operation = action.rsplit('/').next().unwrap_or_default();
                (format!("soap/{}", name.unwrap_or(operation)), String::new())
            }
            None => {
                return Answer::new(404).body(
                    "text/html",
                    "<html><head><title>404 - File or directory not found.</title></head></html>",
                );
            }
        };
        self.requests.push(format!("{} {path}", seen.method));
        let fault = self.planned(&seen.method, &path);
        match &fault {
            Some(Fault::Answer(status, fields, body)) => {
                let kind = if body.starts_with('<') { "text/html" } else { "application/json" };
                return fields.iter().fold(Answer::new(*status).body(kind, body), |answer, (name, value)| {
                    answer.header(name, value)
                });
            }
            Some(Fault::Cut) => return Answer::acts(vec![Act::Close]),
            Some(Fault::Silence) => return Answer::acts(vec![Act::Silence]),
            _ => {}
        }
        let token = seen.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        if !self.anonymous && token != Some(TOKEN) {
            let challenge = format!(
                "Bearer authorization_uri=https://login.microsoftonline.com/{}/oauth2/authorize, resource_id={}/",
                crate::oauth::TENANT,
                self.base
            );
            return Answer::new(401)
                .header("WWW-Authenticate", challenge)
                .body("text/plain", "HTTP Error 401 - Unauthorized: Access is denied");
        }
        if is_soap {
            let answer = self.soap(seen);
            return match fault {
                Some(Fault::Lost) => Answer::acts(vec![Act::Close]),
                Some(Fault::Half(bytes)) => answer.cut(bytes),
                _ => answer,
            };
        }
        if !self.versions.contains(&version.as_str()) {
            let reply = Reply::of(refused(
                501,
                0x8006_0900,
                format!("The Web API of version {version} is not supported"),
            ));
            return finished(&reply, self.store.version);
        }
        let base = format!("{}/api/data/v{version}/", self.base);
        let answer = if path == "$batch" {
            self.batch(seen, &base)
        } else if let Some(row) = path.strip_suffix("/body/$value") {
            self.bare_body(row)
        } else {
            finished(&self.one(seen, &path, &base), self.store.version)
        };
        match fault {
            Some(Fault::Lost) => Answer::acts(vec![Act::Close]),
            Some(Fault::Half(bytes)) => answer.cut(bytes),
            _ => answer,
        }
    }

    fn planned(&mut self, method: &str, path: &str) -> Option<Fault> {
        let plan = self
            .plans
            .iter_mut()
            .find(|plan| plan.times > 0 && plan.method == method && path.contains(&plan.part))?;
        plan.times -= 1;
        Some(plan.fault.clone())
    }

    /// One request, in a batch or for itself.
    fn one(&mut self, seen: &Seen, path: &str, base: &str) -> Reply {
        if seen.header("odata-version").is_some_and(|version| version != "4.0") {
            return Reply::of(refused(400, 0x8006_0888, "OData-Version must be 4.0"));
        }
        let (resource, query) = path.split_once('?').unwrap_or((path, ""));
        // what is refused leaves nothing behind
        self.store.begin();
        let outcome = match seen.method.as_str() {
            "GET" => self.read(seen, resource, query, base),
            "POST" => self.post(seen, resource, base),
            "PATCH" => self.patch(seen, resource, query, base),
            "DELETE" => self.remove(resource),
            other => refused(405, 0x8006_0888, format!("method {other}")),
        };
        if outcome.is_ok() {
            self.store.commit();
        } else {
            self.store.roll_back();
        }
        Reply::of(outcome)
    }

    fn read(&mut self, seen: &Seen, resource: &str, query: &str, base: &str) -> Outcome<Reply> {
        if matches!(resource, "WhoAmI" | "WhoAmI()") {
            return Ok(Reply::json(json!({
                "@odata.context": format!("{base}$metadata#Microsoft.Dynamics.CRM.WhoAmIResponse"),
                "BusinessUnitId": ORGANIZATION, "UserId": ROUTER, "OrganizationId": ORGANIZATION,
            })));
        }
        if resource == "RetrieveVersion()" {
            return Ok(Reply::json(json!({ "Version": self.server_version })));
        }
        if resource.starts_with("EntityDefinitions") {
            return metadata::answer(&self.store, resource, query, &self.untracked).map(Reply::json);
        }
        if let Some(user) = resource.strip_suffix("/Microsoft.Dynamics.CRM.RetrieveUserPrivileges()") {
            if user != format!("systemusers({ROUTER})") {
                return store::missing("systemuser", user);
            }
            let all = metadata::all_privileges(&self.store);
            let has = all.iter().filter(|name| !self.denied.contains(name));
            let rows: Vec<Value> = has
                .map(|name| json!({ "Depth": "Global", "PrivilegeId": metadata::privilege_id(name), "BusinessUnitId": ORGANIZATION }))
                .collect();
            return Ok(Reply::json(json!({ "RolePrivileges": rows })));
        }
        if let Some(call) = resource.strip_prefix("CheckIncomingEmail(") {
            let parameters = called(call, query)?;
            messages::exactly(&parameters, &["MessageId", "Subject", "From", "To", "Cc", "Bcc"])?;
            let (yes, reason) = messages::check(&self.store, &parameters)?;
            return Ok(Reply::json(json!({
                "@odata.context": format!("{base}$metadata#Microsoft.Dynamics.CRM.CheckIncomingEmailResponse"),
                "ShouldDeliver": yes, "ReasonCode": reason,
            })));
        }
        if let Some(xml) = query.strip_prefix("fetchXml=") {
            let page = fetch::run(&self.store, &query::decode(xml))?;
            if page.table.set != resource {
                return refused(400, 0x8004_0203, "the query is about another table");
            }
            self.allowed(page.table.name, "Read")?;
            return Ok(Reply::json(fetch::json_of(&self.store, &page)));
        }
        let prefer: Vec<&str> = seen
            .headers
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("prefer"))
            .map(|(_, v)| v.as_str())
            .collect();
        let prefer = prefer.join(",");
        let wish = query::Wish {
            page: prefer
                .split(',')
                .find_map(|part| part.trim().strip_prefix("odata.maxpagesize="))
                .and_then(|n| n.parse().ok()),
            track: prefer.contains("odata.track-changes"),
            annotations: prefer.split_once("odata.include-annotations=").map_or("", |(_, rest)| rest),
        };
        let (set, id) = key(resource)?;
        let Some(table) = self.store.table(set).cloned() else { return store::no_set(set) };
        self.allowed(table.name, "Read")?;
        match id {
            None => query::list(&self.store, set, query, base, wish, self.expired_before).map(Reply::json),
            Some(id) => {
                let options = query::options(&self.store, &table, query)?;
                match self.store.row(table.name, &id) {
                    Some(row) => Ok(Reply::json(query::shown(&self.store, &table, row, &options, wish))),
                    None => store::missing(table.name, &id),
                }
            }
        }
    }

    /// The content of an attachment, in base64 and nothing around it (3.5).
    fn bare_body(&self, resource: &str) -> Answer {
        let row = key(resource).and_then(|(set, id)| match (self.store.table(set), id) {
            (Some(table), Some(id)) => match self.store.row(table.name, &id) {
                Some(row) => Ok(row),
                None => store::missing(table.name, &id),
            },
            _ => store::no_set(set),
        });
        match row {
            Ok(row) => Answer::new(200)
                .body("text/plain", row.values.get("body").and_then(Value::as_str).unwrap_or_default()),
            Err(refusal) => finished(&Reply::of(Err(refusal)), self.store.version),
        }
    }

    fn allowed(&self, table: &str, kind: &str) -> Outcome<()> {
        let Some(table) = self.store.named(table) else { return Ok(()) };
        let name = metadata::privilege(table, kind);
        if self.denied.contains(&name) {
            let words = format!("Principal user (Id={ROUTER}, type=8) is missing {name} privilege");
            return refused(403, 0x8004_0220, words);
        }
        Ok(())
    }

    fn post(&mut self, seen: &Seen, resource: &str, base: &str) -> Outcome<Reply> {
        let body = object(seen)?;
        if let Some(email) = resource.strip_suffix("/Microsoft.Dynamics.CRM.SendEmail") {
            return self.send_email(email, &body);
        }
        match resource {
            "emails/Microsoft.Dynamics.CRM.DeliverIncomingEmail" => {
                let id = messages::deliver(&mut self.store, &body)?;
                Ok(Reply::json(json!({
                    "@odata.context": format!("{base}$metadata#emails/$entity"),
                    "@odata.type": "#Microsoft.Dynamics.CRM.email", "activityid": id,
                })))
            }
            "BackgroundSendEmail" => {
                let query = &body.get("Query").cloned().unwrap_or_default();
                if query["@odata.type"] != "Microsoft.Dynamics.CRM.FetchExpression" {
                    return refused(400, 0x8004_8d19, "Query must be of a type that derives from QueryBase");
                }
                let text = query["Query"].as_str().unwrap_or_default();
                let (page, attached) = messages::background_send(&mut self.store, text)?;
                let rows: Vec<Value> = page
                    .rows
                    .iter()
                    .map(|found| fetch::row_json(&self.store, page.table.id, found))
                    .collect();
                Ok(Reply::json(json!({ "EntityCollection": rows, "HasAttachments": attached })))
            }
            "GetTrackingTokenEmail" => {
                messages::exactly(&body, &["Subject"])?;
                let caller = seen.header("mscrmcallerid");
                let token = messages::tracking_token(&mut self.store, caller, &self.denied)?;
                Ok(Reply::json(json!({ "TrackingToken": token })))
            }
            "InitializeAttachmentBlocksUpload" | "UploadBlock" | "CommitAttachmentBlocksUpload"
                if self.store.rules.no_blocks =>
            {
                store::no_set(resource)
            }
            "InitializeAttachmentBlocksUpload" => {
                let token = self.store.fresh_id();
                self.uploads.insert(token.clone(), HashMap::new());
                Ok(Reply::json(json!({ "FileContinuationToken": token })))
            }
            "UploadBlock" => {
                let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
                let data = base64::prelude::BASE64_STANDARD.decode(text("BlockData"));
                match (self.uploads.get_mut(&text("FileContinuationToken")), data) {
                    (Some(blocks), Ok(data)) if data.len() <= 4 << 20 => {
                        blocks.insert(text("BlockId"), data);
                        Ok(Reply::nothing())
                    }
                    _ => refused(400, 0x8004_0203, "no such upload, or a block that is no good"),
                }
            }
            "CommitAttachmentBlocksUpload" => self.commit_upload(&body),
            set => {
                let Some(table) = self.store.table(set).cloned() else { return store::no_set(set) };
                self.allowed(table.name, "Create")?;
                let id = match body.get(table.id).and_then(Value::as_str) {
                    Some(id) => id.to_lowercase(),
                    None => self.store.fresh_id(),
                };
                if self.store.row(table.name, &id).is_some() {
                    return refused(412, 0x8004_0237, "Cannot insert duplicate key.");
                }
                self.store.create(set, &id, &body)?;
                Ok(Reply {
                    headers: vec![("OData-EntityId", format!("{base}{set}({id})"))],
                    ..Reply::nothing()
                })
            }
        }
    }

    fn commit_upload(&mut self, body: &Map<String, Value>) -> Outcome<Reply> {
        let token = body.get("FileContinuationToken").and_then(Value::as_str).unwrap_or_default();
        let (Some(blocks), Some(Value::Object(target))) = (self.uploads.remove(token), body.get("Target"))
        else {
            return refused(400, 0x8004_0203, "no such upload");
        };
        let mut content = Vec::new();
        for id in body.get("BlockList").and_then(Value::as_array).into_iter().flatten() {
            match blocks.get(id.as_str().unwrap_or_default()) {
                Some(block) => content.extend_from_slice(block),
                None => return refused(400, 0x8004_0203, "a block is missing"),
            }
        }
        let mut row = target.clone();
        let size = content.len();
        row.insert("body".to_owned(), json!(base64::prelude::BASE64_STANDARD.encode(content)));
        let id = self.store.fresh_id();
        self.store.create("activitymimeattachments", &id, &row)?;
        Ok(Reply::json(json!({ "ActivityMimeAttachmentId": id, "FileSizeInBytes": size })))
    }

    /// 2.4: `IssueSend` false records it as sent.
    fn send_email(&mut self, email: &str, body: &Map<String, Value>) -> Outcome<Reply> {
        let (set, Some(id)) = key(email)? else { return store::no_set(email) };
        let issue = body.get("IssueSend").and_then(Value::as_bool).unwrap_or(true);
        let Some(row) = self.store.row("email", &id).map(|row| row.values.clone()) else {
            return store::missing("email", &id);
        };
        if row.get("statecode") != Some(&json!(0)) {
            return refused(400, 0x8004_0233, "The e-mail must be in draft status to be sent.");
        }
        let status = if issue { 6 } else { 3 };
        let change = json!({ "statecode": 1, "statuscode": status });
        let Value::Object(change) = change else { return store::no_set(set) };
        self.store.update(set, &id, &change)?;
        Ok(Reply::json(json!({ "Subject": row.get("subject") })))
    }

    fn patch(&mut self, seen: &Seen, resource: &str, query: &str, base: &str) -> Outcome<Reply> {
        let (set, Some(id)) = key(resource)? else { return store::no_set(resource) };
        let body = object(seen)?;
        let Some(table) = self.store.table(set).cloned() else { return store::no_set(set) };
        let present = self.store.row(table.name, &id).map(|row| row.version);
        if let Some(wanted) = seen.header("if-match") {
            match present {
                None => return store::missing(table.name, &id),
                Some(version) if wanted != "*" && wanted != format!("W/\"{version}\"") => {
                    return refused(
                        412,
                        0x8006_0882,
                        "The version of the existing record doesn't match the RowVersion property provided.",
                    );
                }
                Some(_) => {}
            }
        }
        if seen.header("if-none-match") == Some("*") && present.is_some() {
            return refused(412, 0x8004_0237, "A record with matching key values already exists.");
        }
        if present.is_some() {
            self.allowed(table.name, "Write")?;
            self.store.update(set, &id, &body)?;
        } else {
            self.allowed(table.name, "Create")?;
            if self.store.rules.no_deep_upsert && body.contains_key("email_activity_parties") {
                return refused(
                    400,
                    0x8004_8d19,
                    "Deep insert of email_activity_parties is not supported with PATCH",
                );
            }
            self.store.create(set, &id, &body)?;
        }
        if seen.header("prefer").is_some_and(|prefer| prefer.contains("return=representation")) {
            let options = query::options(&self.store, &table, query)?;
            let row = self
                .store
                .row(table.name, &id)
                .map(|row| query::shown(&self.store, &table, row, &options, query::Wish::default()));
            return Ok(Reply::json(row.unwrap_or_default()));
        }
        Ok(Reply { headers: vec![("OData-EntityId", format!("{base}{set}({id})"))], ..Reply::nothing() })
    }

    fn remove(&mut self, resource: &str) -> Outcome<Reply> {
        let (set, Some(id)) = key(resource)? else { return store::no_set(resource) };
        let Some(name) = self.store.table(set).map(|table| table.name) else { return store::no_set(set) };
        self.allowed(name, "Delete")?;
        self.store.delete(name, &id)?;
        Ok(Reply::nothing())
    }

    fn batch(&mut self, seen: &Seen, base: &str) -> Answer {
        let items = match batch::parse(seen.header("content-type").unwrap_or_default(), &seen.body) {
            Ok(items) => items,
            Err(words) => {
                return finished(
                    &Reply::of(refused(400, 0x8006_0888, format!("The batch is no good: {words}"))),
                    0,
                );
            }
        };
        let on = seen.header("prefer").is_some_and(|prefer| prefer.contains("odata.continue-on-error"));
        let boundary = "batchresponse_11111111-2222-3333-4444-555555555555";
        let (mut out, mut status) = (String::new(), 200);
        for item in items {
            let mut failed = false;
            match item {
                batch::Item::Single(request) => {
                    let reply = self.part(&request, base);
                    failed = reply.status >= 400;
                    out.push_str(&format!("--{boundary}\r\n{}", inner(&reply, None)));
                }
                batch::Item::Changeset(changes) => {
                    let inner_boundary = "changesetresponse_99999999-2222-3333-4444-555555555555";
                    let mut text = String::new();
                    self.store.begin();
                    for (id, request) in changes {
                        let reply = self.part(&request, base);
                        if reply.status >= 400 {
                            failed = true;
                            text = format!("--{boundary}\r\n{}", inner(&reply, None));
                            break;
                        }
                        text.push_str(&format!("--{inner_boundary}\r\n{}", inner(&reply, Some(&id))));
                    }
                    if failed {
                        self.store.roll_back();
                        out.push_str(&text);
                    } else {
                        self.store.commit();
                        out.push_str(&format!(
                            "--{boundary}\r\nContent-Type: multipart/mixed; boundary={inner_boundary}\r\n\r\n{text}--{inner_boundary}--\r\n"
                        ));
                    }
                }
            }
            if failed && !on {
                status = 400;
                break;
            }
        }
        out.push_str(&format!("--{boundary}--\r\n"));
        Answer::new(status)
            .header("OData-Version", "4.0")
            .body(&format!("multipart/mixed; boundary={boundary}"), out)
    }

    fn part(&mut self, request: &Seen, base: &str) -> Reply {
        let path = request
            .target
            .strip_prefix(base)
            .or_else(|| request.target.strip_prefix(&base[self.base.len()..]));
        let Some(path) = path.map(str::to_owned) else {
            return Reply::of(refused(
                400,
                0x8006_0888,
                format!("a part for another place: {}", request.target),
            ));
        };
        self.requests.push(format!("> {} {path}", request.method));
        if let Some(Fault::Answer(status, _, body)) = self.planned(&format!("> {}", request.method), &path) {
            return Reply { status, headers: Vec::new(), body: serde_json::from_str(&body).ok() };
        }
        self.one(request, &path, base)
    }
}

/// The parameters of a function's call: `Name=@p1,Other=@p2)` and `@p1='...'&@p2='...'`.
fn called(call: &str, query: &str) -> Outcome<Map<String, Value>> {
    let bad =
        |words: &str| refused(400, 0x8006_0888, format!("Bad Request - Error in query syntax: {words}"));
    let Some(names) = call.strip_suffix(')') else { return bad(call) };
    let mut parameters = Map::new();
    for pair in names.split(',') {
        let Some((name, alias)) = pair.split_once('=').filter(|(_, alias)| alias.starts_with('@')) else {
            return bad(pair);
        };
        let value = query.split('&').find_map(|given| given.strip_prefix(alias)?.strip_prefix('='));
        let Some(value) = value.map(query::decode) else { return bad(alias) };
        let inside = value.strip_prefix('\'').and_then(|value| value.strip_suffix('\''));
        let Some(text) = inside.filter(|text| !text.replace("''", "").contains('\'')) else {
            return bad(&value);
        };
        parameters.insert(name.to_owned(), json!(text.replace("''", "'")));
    }
    Ok(parameters)
}

/// Set and key of a resource.
fn key(resource: &str) -> Outcome<(&str, Option<String>)> {
    match resource.split_once('(') {
        None => Ok((resource, None)),
        Some((set, rest)) => match rest.strip_suffix(')').filter(|id| store::is_id(id)) {
            Some(id) => Ok((set, Some(id.to_lowercase()))),
            None => refused(400, 0x8006_0888, format!("Bad Request - Error in query syntax: {resource}")),
        },
    }
}

fn object(seen: &Seen) -> Outcome<Map<String, Value>> {
    if !seen.header("content-type").unwrap_or_default().starts_with("application/json") {
        return refused(415, 0x8006_0888, "the body must be application/json");
    }
    match serde_json::from_slice(&seen.body) {
        Ok(Value::Object(body)) => Ok(body),
        _ => refused(400, 0x8004_8d19, "Error identified in Payload provided by the user"),
    }
}

fn finished(reply: &Reply, request: u64) -> Answer {
    let mut answer = Answer::new(reply.status)
        .header("OData-Version", "4.0")
        .header("x-ms-service-request-id", format!("dddddddd-0000-4000-8000-{request:012x}"))
        .header("x-ms-ratelimit-burst-remaining-xrm-requests", "5999");
    for (name, value) in &reply.headers {
        answer = answer.header(name, value);
    }
    match &reply.body {
        Some(body) => answer.body("application/json; odata.metadata=minimal", body.to_string()),
        None => answer,
    }
}

/// An answer inside a batch, with its part's header.
fn inner(reply: &Reply, id: Option<&str>) -> String {
    let mut out = "Content-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n".to_owned();
    if let Some(id) = id {
        out.push_str(&format!("Content-ID: {id}\r\n"));
    }
    let reason = if reply.status < 300 { "OK" } else { "Error" };
    out.push_str(&format!("\r\nHTTP/1.1 {} {reason}\r\nOData-Version: 4.0\r\n", reply.status));
    for (name, value) in &reply.headers {
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    match &reply.body {
        Some(body) => {
            out.push_str(&format!("Content-Type: application/json; odata.metadata=minimal\r\n\r\n{body}\r\n"))
        }
        None => out.push_str("\r\n\r\n"),
    }
    out
}
