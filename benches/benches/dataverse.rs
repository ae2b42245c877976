//! An organization of Dataverse: the first reading of its addresses into the mirror, look-ups there, and messages that are decided about and delivered.
//!
//! The first reading stands beside a bare client that reads the same pages and keeps nothing; it costs with the addresses, its memory with a page.
//! Deliveries stand beside a bare client that sends the very same requests. The server is the test kit's, in this process, so both sides wait for it.
#![allow(missing_docs)] // a program, not an interface
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // a program for people; a failed step ends it
#![allow(clippy::disallowed_methods)] // real time and files are what is measured

use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use email_router_auth::Credentials;
use email_router_benches::child::{self, Memory, Run, Values};
use email_router_benches::raw::{self, Keep};
use email_router_benches::table::{median, verdict};
use email_router_benches::{corpus, disk_folder, is_smoke, number, ours, rounds};
use email_router_crm::CrmClient;
use email_router_crm::dataverse::{DataverseCrm, DataverseSettings};
use email_router_engine::decide::{Decider, MailboxContext, OrganizationView};
use email_router_engine::message::Message;
use email_router_engine::ports::CrmIndex;
use email_router_engine::{ParseCaps, Verdict};
use email_router_http::{HttpService, Login, Request, Response, Scheme};
use email_router_model::{EmailAddress, Mailbox, RawMessage, RecordRef};
use email_router_testkit::dataverse::{DataverseServer, TOKEN};
use email_router_testkit::http::{Answer, HttpServer, Seen};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use uuid::Uuid;

/// Rows of a page, as the client asks for them.
const PAGE: usize = 5000;
/// Callers at the same time.
const CALLERS: usize = 8;
/// Memory of the first reading above what the connection takes, in MB: some pages, whatever the organization has.
const MOST_MEMORY: f64 = 64.0;

fn main() {
    if let Some((name, args)) = child::task() {
        let runtime = ours::runtime();
        return child::report(&match name.as_str() {
            "raw" => read_pages(&args),
            _ => runtime.block_on(first_reading(&args)),
        });
    }
    let runtime = ours::runtime();
    let part = |name: &str| std::env::var("PART").map_or(true, |only| only == name);
    if part("sync") {
        syncing(&runtime);
    }
    if part("mail") {
        delivering(&runtime);
    }
}

fn syncing(runtime: &Runtime) {
    let contacts = if is_smoke() { 2 * PAGE } else { number("ADDRESSES", 1_000_000) };
    let (organization, pages) = runtime.block_on(async {
        let organization = DataverseServer::start().await;
        let base = organization.base();
        let pages = HttpServer::start(move |seen| page(seen, contacts, &base)).await;
        (organization, pages)
    });
    let args = [organization.base(), pages.port().to_string(), contacts.to_string()];
    println!(
        "first reading of {contacts} contacts with an address each, median of {} alternating rounds",
        rounds()
    );
    let (mut bare, mut mirrors) = (Vec::new(), Vec::new());
    for _ in 0..rounds() {
        bare.push(child::run("raw", &args));
        mirrors.push(child::run("mirror", &args));
    }
    let of = |runs: &[Values], name: &str| median(runs.iter().map(|run| run.get(name)).collect());
    println!(
        "{:<28} {:>9} {:>9} {:>12} {:>9} {:>12}",
        "", "seconds", "CPU s", "addresses/s", "peak MB", "target"
    );
    for (name, runs) in [("bare reader", &bare), ("mirror", &mirrors)] {
        let above = of(runs, "memory") / 1e6;
        let target = if name == "mirror" {
            format!("{MOST_MEMORY} {}", verdict(above <= MOST_MEMORY))
        } else {
            String::new()
        };
        let wall = of(runs, "wall");
        println!(
            "{name:<28} {wall:>9.2} {:>9.2} {:>12.0} {above:>9.1} {target:>12}",
            of(runs, "cpu"),
            contacts as f64 / wall
        );
    }
    println!(
        "ratio {:.2}; file of {:.0} MB; with nothing changed {:.2} s and {:.0} requests; a look-up of 3 addresses {:.0} microseconds and {:.0} requests",
        of(&bare, "wall") / of(&mirrors, "wall"),
        of(&mirrors, "file") / 1e6,
        of(&mirrors, "again"),
        of(&mirrors, "again-requests"),
        of(&mirrors, "lookup") * 1e6,
        of(&mirrors, "lookup-requests"),
    );
}

fn path(skip: usize) -> String {
    format!("/api/data/v9.2/contacts?$skiptoken={skip}")
}

/// A page of contacts, made when it is asked for.
fn page(seen: &Seen, contacts: usize, base: &str) -> Answer {
    let mut body = String::with_capacity(PAGE * 450);
    body.push_str("{\"value\":[");
    let start: usize = seen.target.split_once("$skiptoken=").map_or(0, |(_, skip)| skip.parse().unwrap());
    let end = if seen.target.contains("$deltatoken") { start } else { (start + PAGE).min(contacts) };
    let owner = Uuid::from_u128(1);
    for n in start..end {
        let (comma, id) = (if n > start { "," } else { "" }, Uuid::from_u128((1 << 100) + n as u128));
        write!(
            body,
            "{comma}{{\"@odata.etag\":\"W/\\\"{n}\\\"\",\"contactid\":\"{id}\",\"fullname\":\"Person {n}\",\"createdon\":\"2026-01-01T00:00:00Z\",\
             \"emailaddress1\":\"{}\",\"emailaddress2\":null,\"emailaddress3\":null,\
             \"_ownerid_value@Microsoft.Dynamics.CRM.lookuplogicalname\":\"systemuser\",\"_ownerid_value\":\"{owner}\",\"statecode\":0}}",
            person(n)
        )
        .unwrap();
    }
    body.push(']');
    let link = if end == contacts || start == end {
        format!("\"@odata.deltaLink\":\"{base}/api/data/v9.2/contacts?$deltatoken=1\"")
    } else {
        format!("\"@odata.nextLink\":\"{base}{}\"", path(end))
    };
    write!(body, ",{link}}}").unwrap();
    Answer::new(200).body("application/json", body)
}

fn person(n: usize) -> String {
    format!("person{n}@fabrikam.example")
}

/// In a child: reads all pages, and keeps nothing.
fn read_pages(args: &[String]) -> Values {
    let (port, contacts) = (args[1].parse().unwrap(), args[2].parse::<usize>().unwrap());
    let requests: Vec<Vec<u8>> = (0..contacts.div_ceil(PAGE))
        .map(|n| format!("GET {} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", path(n * PAGE)).into_bytes())
        .collect();
    Memory::reset_peak();
    let before = Memory::read().now;
    let (_, run) = Run::measure(|| raw::http_read(port, None, &requests, 1, Keep::Count));
    run.values().with("memory", (Memory::read().peak - before) as f64)
}

/// In a child: connects with an empty mirror, asks for changes once more, and looks addresses up.
async fn first_reading(args: &[String]) -> Values {
    let contacts: usize = args[2].parse().unwrap();
    let folder = disk_folder();
    let http =
        Arc::new(Recorder { http: ours::http(None), contacts: args[1].parse().ok(), sent: Mutex::default() });
    let settings = settings(&args[0], http.clone(), folder.path());
    Memory::reset_peak();
    let before = Memory::read().now;
    let (start, cpu) = (Instant::now(), child::cpu_time());
    let crm = DataverseCrm::connect(settings).await.unwrap();
    let run = Run { wall: start.elapsed().as_secs_f64(), cpu: (child::cpu_time() - cpu).as_secs_f64() };
    let memory = Memory::read().peak - before;
    let requests = || std::mem::take(&mut *http.sent.lock().unwrap()).len() as f64;
    requests();
    let start = Instant::now();
    crm.refresh().await.unwrap();
    let (again, again_requests) = (start.elapsed().as_secs_f64(), requests());
    let lookups: usize = if is_smoke() { 100 } else { 10_000 };
    let start = Instant::now();
    for n in 0..lookups {
        let asked: Vec<EmailAddress> =
            (0..3).map(|m| person(((3 * n + m) * 7_919_317) % contacts).parse().unwrap()).collect();
        let found = crm.resolve(&asked).await.unwrap();
        assert!(found.iter().all(|hits| hits.len() == 1), "{asked:?}");
    }
    let lookup = start.elapsed().as_secs_f64() / lookups as f64;
    let size = crm.mirror_size().await.unwrap();
    assert_eq!(size.tables.iter().map(|table| table.addresses).sum::<u64>(), contacts as u64);
    run.values()
        .with("memory", memory as f64)
        .with("again", again)
        .with("again-requests", again_requests)
        .with("lookup", lookup)
        .with("lookup-requests", requests())
        .with("file", size.bytes as f64)
}

fn settings(base: &str, http: Arc<dyn HttpService>, folder: &Path) -> DataverseSettings {
    let login = Login { scheme: Scheme::Bearer, credentials: Credentials::bearer("router", TOKEN.into()) };
    let mut settings =
        DataverseSettings::new(base.parse().unwrap(), http, Arc::new(login), folder.join("mirror.db"));
    settings.max_connections = CALLERS;
    // asked for by hand, so that it falls into no measurement
    settings.mirror_period = Duration::from_secs(24 * 3600);
    settings
}

/// Sends requests, and remembers them; those for contacts go to the server of pages where there is one.
#[derive(Debug)]
struct Recorder {
    http: Arc<dyn HttpService>,
    contacts: Option<u16>,
    sent: Mutex<Vec<Request>>,
}

#[async_trait]
impl HttpService for Recorder {
    async fn send(&self, mut request: Request) -> email_router_http::Result<Response> {
        if self.contacts.is_some() && request.url.path().ends_with("/contacts") {
            request.url.set_port(self.contacts).unwrap();
        }
        self.sent.lock().unwrap().push(request.clone());
        self.http.send(request).await
    }
}

/// A request as it is on the wire.
fn on_the_wire(request: &Request) -> Vec<u8> {
    let mut head = format!(
        "{} {} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {}\r\n",
        request.method,
        request.url.path(),
        request.body.len()
    );
    for (name, value) in &request.headers {
        write!(head, "{name}: {}\r\n", value.to_str().unwrap()).unwrap();
    }
    head.push_str("\r\n");
    [head.as_bytes(), &request.body].concat()
}

struct World {
    organization: DataverseServer,
    crm: Arc<dyn CrmClient>,
    http: Arc<Recorder>,
    decider: Decider,
    view: OrganizationView,
    /// Of a user that accepts all mail, and of one that accepts answers only.
    mailboxes: [(Mailbox, RecordRef); 2],
    _folder: tempfile::TempDir,
}

async fn world() -> World {
    let organization = DataverseServer::start().await;
    let mailboxes = ["u000", "u001"].map(|name| {
        let mailbox = ours::mailbox(name);
        let id = organization.add_user(name, mailbox.address.as_str(), true);
        (mailbox, RecordRef::new("systemuser", Uuid::parse_str(&id).unwrap()))
    });
    let answers_only = json!({ "incomingemailfilteringmethod": 1 });
    organization.update("usersettingscollection", &mailboxes[1].1.id.to_string(), answers_only);
    for n in 0..1000 {
        organization.create("contacts", json!({ "lastname": "Person", "emailaddress1": person(n) }));
    }
    let folder = disk_folder();
    let http = Arc::new(Recorder { http: ours::http(None), contacts: None, sent: Mutex::default() });
    let crm =
        DataverseCrm::connect(settings(&organization.base(), http.clone(), folder.path())).await.unwrap();
    let crm: Arc<dyn CrmClient> = Arc::new(crm);
    let view = OrganizationView::load(&*crm).await.unwrap();
    let decider = Decider::new(Arc::clone(&crm), Arc::new(CrmIndex(Arc::clone(&crm))));
    World { organization, crm, http, decider, view, mailboxes, _folder: folder }
}

impl World {
    /// Decides about a message, and delivers it where that is the decision.
    async fn handle(&self, raw: RawMessage, user: usize) {
        let caps = ParseCaps::default();
        let message = Message::parse(&raw, &caps);
        let (mailbox, record) = &self.mailboxes[user];
        let context = MailboxContext::new(mailbox, Some(record.clone()));
        let decision = self.decider.decide(&self.view, &context, &message).await.unwrap();
        let expected = if user == 0 { Verdict::Deliver } else { Verdict::Discard };
        assert_eq!(decision.verdict, expected, "{:#?}", decision.record);
        if user == 0 {
            let content = message.content(&raw, &caps, self.view.settings());
            let email = decision.into_email(&self.view, &message, content).unwrap();
            self.crm.deliver_incoming(email).await.unwrap();
        }
    }

    /// All of these by some callers at the same time; messages a second, and what was sent.
    async fn handle_all(self: &Arc<Self>, messages: Vec<RawMessage>, user: usize) -> (f64, Vec<Request>) {
        self.http.sent.lock().unwrap().clear();
        let count = messages.len();
        let waiting = Arc::new(Mutex::new(messages));
        let start = Instant::now();
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            let (this, waiting) = (Arc::clone(self), Arc::clone(&waiting));
            callers.spawn(async move {
                loop {
                    let next = waiting.lock().unwrap().pop();
                    let Some(message) = next else { return };
                    this.handle(message, user).await;
                }
            });
        }
        while let Some(done) = callers.join_next().await {
            done.unwrap();
        }
        let speed = count as f64 / start.elapsed().as_secs_f64();
        (speed, std::mem::take(&mut *self.http.sent.lock().unwrap()))
    }

    /// The organization as before, so that the same can be created again.
    fn delete_emails(&self) -> usize {
        let emails = self.organization.rows("emails");
        for email in &emails {
            assert!(self.organization.delete("emails", email["activityid"].as_str().unwrap()));
        }
        emails.len()
    }
}

fn messages(round: usize, count: usize, user: usize) -> Vec<RawMessage> {
    (0..count)
        .map(|n| {
            let n = (2 * round + user) * count + n;
            let text = corpus::message(n, 11_000, &format!("u{user:03}@contoso.test"), "");
            RawMessage::new(corpus::with_crlf(&text))
        })
        .collect()
}

fn delivering(runtime: &Runtime) {
    let count = if is_smoke() { 2 * CALLERS } else { number("DELIVERED", 1000) };
    let world = Arc::new(runtime.block_on(world()));
    println!("\nmessages of 11 KB, {CALLERS} callers, median of {} alternating rounds of {count}", rounds());
    let port = world.organization.http().port();
    let (mut bare, mut ours, mut discarded) = (Vec::new(), Vec::new(), Vec::new());
    let (mut for_delivered, mut for_discarded) = (0.0_f64, 0.0_f64);
    for round in 0..rounds() {
        let (speed, sent) = runtime.block_on(world.handle_all(messages(round, count, 0), 0));
        assert_eq!(world.delete_emails(), count);
        ours.push(speed);
        for_delivered = for_delivered.max(sent.len() as f64 / count as f64);
        let requests: Vec<Vec<u8>> =
            sent.iter().filter(|request| !request.body.is_empty()).map(on_the_wire).collect();
        let start = Instant::now();
        let _ = raw::http_read(port, None, &requests, CALLERS, Keep::Count);
        bare.push(count as f64 / start.elapsed().as_secs_f64());
        assert_eq!(world.delete_emails(), count, "the bare client made the same");
        let (speed, sent) = runtime.block_on(world.handle_all(messages(round, count, 1), 1));
        discarded.push(speed);
        for_discarded = for_discarded.max(sent.len() as f64 / count as f64);
    }
    let (bare, ours, discarded) = (median(bare), median(ours), median(discarded));
    println!("{:<28} {:>12} {:>9} {:>14} {:>10}", "", "messages/s", "ratio", "calls/message", "target");
    println!("{:<28} {bare:>12.0}", "bare client, same creates");
    println!(
        "{:<28} {ours:>12.0} {:>9.2} {for_delivered:>14.3} {:>10}",
        "decided and delivered",
        ours / bare,
        format!("1 {}", verdict(for_delivered <= 1.0))
    );
    println!(
        "{:<28} {discarded:>12.0} {:>9} {for_discarded:>14.3} {:>10}",
        "decided and discarded",
        "",
        format!("0 {}", verdict(for_discarded <= 0.0))
    );
}
