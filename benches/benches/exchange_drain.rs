//! Draining mailboxes by EWS and by Graph: our adapters beside a bare reader of the same answers, which decodes nothing; XML with base64 in it beside a
//! scan; memory with messages of 25 MB.
//!
//! The answers are those of the test kit's fakes, from a server that has them ready (`replay`), so that the client is what is measured. Cost grows with the
//! bytes of the mailbox, and with its messages by the answers they share: EWS gives 10 in an answer, Graph one.
#![allow(missing_docs)] // a program, not an interface
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // a program for people; a failed step ends it
#![allow(clippy::disallowed_methods)] // real time and files are what is measured

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use email_router_benches::child::{self, Memory, Run, Values};
use email_router_benches::peers::{PASSWORD, user};
use email_router_benches::proxy::Proxy;
use email_router_benches::raw::{self, Keep};
use email_router_benches::replay::Replay;
use email_router_benches::table::{Comparison, verdict};
use email_router_benches::{corpus, disk_folder, is_smoke, number, ours, rounds};
use email_router_testkit::ews::{EwsOptions, EwsServer};
use email_router_testkit::graph::GraphServer;
use email_router_testkit::tls::{ServerCert, TestCa};
use email_router_transport::Transport;
use email_router_transport::ews::proto::carve::Carver;
use email_router_transport::ews::proto::response;
use quick_xml::Reader;
use quick_xml::events::Event;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// What the router asks for at once.
const ROUTER_WINDOW: usize = 64;

/// The least speed relative to the bare reader.
const TARGET: f64 = 0.7;

/// glibc gives every block of 128 KiB back to the system when it is freed. By itself it keeps blocks of up to 32 MiB for the next one (mallopt(3)), for each
/// thread's arena.
const RETURNED: (&str, &str) = ("MALLOC_MMAP_THRESHOLD_", "131072");

/// The two protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Ews,
    Graph,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::Ews => "ews",
            Self::Graph => "graph",
        }
    }

    fn adapter(self) -> &'static str {
        match self {
            Self::Ews => "EwsTransport",
            Self::Graph => "GraphTransport",
        }
    }

    /// How many requests the adapter has under way for a mailbox.
    fn connections(self) -> usize {
        match self {
            Self::Ews => 1,
            Self::Graph => 4,
        }
    }

    fn transport(self, port: u16, ca: Option<&Path>) -> Arc<dyn Transport> {
        match self {
            Self::Ews => Arc::new(ours::ews(port, ca)),
            Self::Graph => Arc::new(ours::graph(port, ca)),
        }
    }
}

/// A fake with mailboxes.
enum Fake {
    Ews(EwsServer),
    Graph(GraphServer),
}

impl Fake {
    fn start(runtime: &Runtime, protocol: Protocol) -> Self {
        match protocol {
            Protocol::Ews => Self::Ews(runtime.block_on(EwsServer::start(EwsOptions::default()))),
            Protocol::Graph => Self::Graph(runtime.block_on(GraphServer::start(&[ours::TOKEN]))),
        }
    }

    /// Makes the mailbox of user `n` with these messages; gives their bytes.
    fn fill(&self, n: usize, messages: &[Vec<u8>]) -> u64 {
        let address = format!("{}@contoso.test", user(n));
        match self {
            Self::Ews(server) => server.add_user(&user(n), PASSWORD, &address),
            Self::Graph(server) => server.add_mailbox(&address),
        }
        let mut bytes = 0;
        for message in messages {
            let message = corpus::with_crlf(message);
            bytes += message.len() as u64;
            match self {
                Self::Ews(server) => drop(server.put(&address, &message)),
                Self::Graph(server) => drop(server.deliver(&address, &message)),
            }
        }
        bytes
    }

    /// Its port and what it calls itself in links.
    fn place(&self) -> (u16, String) {
        let base = match self {
            Self::Ews(server) => server.url(),
            Self::Graph(server) => server.base().trim_end_matches("/v1.0").to_owned(),
        };
        let port = base.split(':').nth(2).and_then(|rest| rest.split('/').next()).unwrap();
        (port.parse().unwrap(), base)
    }
}

/// A replaying server that has the answers for these mailboxes, and the requests for them in files.
struct Prepared {
    protocol: Protocol,
    replay: Replay,
    /// Where clients go: to the server, or to a proxy before it.
    port: u16,
    ca: Option<PathBuf>,
    requests: TempDir,
    /// Bytes of a mailbox's answers.
    answers: u64,
}

impl Prepared {
    fn new(protocol: Protocol, fake: &Fake, mailboxes: usize, in_tls: bool, delay: Option<Duration>) -> Self {
        let folder = disk_folder();
        let authority = in_tls.then(TestCa::new);
        let ca = authority.as_ref().map(|authority| {
            let file = folder.path().join("ca.pem");
            std::fs::write(&file, authority.pem()).unwrap();
            file
        });
        let tls = authority.map(|authority| Arc::clone(authority.acceptor(ServerCert::Good).config()));
        let (port, base) = fake.place();
        let replay = Replay::start(port, &base, tls);
        let port = delay.map_or(replay.port(), |delay| {
            let proxy = Proxy::start(replay.port(), delay);
            replay.behind(proxy.port);
            proxy.port
        });
        let mut new = Self { protocol, replay, port, ca, requests: folder, answers: 0 };
        for n in 0..mailboxes {
            let _ = new.run(protocol.name(), n, 1);
            let (requests, bytes) = new.replay.take_requests();
            new.answers = bytes;
            let mut file = Vec::new();
            for request in requests {
                file.extend_from_slice(&u64::try_from(request.len()).unwrap().to_le_bytes());
                file.extend_from_slice(&request);
            }
            std::fs::write(new.requests.path().join(n.to_string()), file).unwrap();
        }
        new.replay.stop_recording();
        new
    }

    /// Runs one of our clients as a process of its own, with so many mailboxes from this one on.
    fn run(&self, what: &str, first: usize, mailboxes: usize) -> Run {
        let ca = self.ca.as_ref().map(|ca| ca.display().to_string()).unwrap_or_default();
        let requests = self.requests.path().display().to_string();
        let connections = self.protocol.connections();
        let numbers = [usize::from(self.port), first, mailboxes, connections];
        let args: Vec<String> = [ca, requests].into_iter().chain(numbers.map(|n| n.to_string())).collect();
        Run::from(&child::run(what, &args))
    }
}

/// As a child has it.
struct Task {
    ca: Option<PathBuf>,
    requests: PathBuf,
    port: u16,
    first: usize,
    mailboxes: usize,
    connections: usize,
}

impl Task {
    fn of(args: &[String]) -> Self {
        let number = |at: usize| args[at].parse::<usize>().unwrap();
        Self {
            ca: (!args[0].is_empty()).then(|| PathBuf::from(&args[0])),
            requests: PathBuf::from(&args[1]),
            port: args[2].parse().unwrap(),
            first: number(3),
            mailboxes: number(4),
            connections: number(5),
        }
    }

    fn requests(&self, n: usize) -> Vec<Vec<u8>> {
        let file = std::fs::read(self.requests.join(n.to_string())).unwrap();
        let (mut requests, mut rest) = (Vec::new(), &file[..]);
        while let Some((length, after)) = rest.split_first_chunk::<8>() {
            let (request, after) = after.split_at(usize::try_from(u64::from_le_bytes(*length)).unwrap());
            requests.push(request.to_vec());
            rest = after;
        }
        requests
    }

    /// The bare reader, with so many connections for each mailbox.
    fn raw(&self, connections: usize, keep: &str) -> Run {
        let folder = disk_folder();
        let folders: Vec<PathBuf> = (0..self.mailboxes).map(|n| folder.path().join(n.to_string())).collect();
        folders.iter().for_each(|folder| std::fs::create_dir(folder).unwrap());
        let mailboxes: Vec<_> = (0..self.mailboxes).map(|n| self.requests(self.first + n)).collect();
        let tls = self.ca.as_deref().map(raw::tls);
        let read = || {
            std::thread::scope(|scope| {
                for (requests, folder) in mailboxes.iter().zip(&folders) {
                    let keep = match keep {
                        "memory" => Keep::Memory,
                        "files" => Keep::Files(folder),
                        _ => Keep::Count,
                    };
                    let tls = tls.as_ref();
                    scope.spawn(move || raw::http_read(self.port, tls, requests, connections, keep));
                }
            });
        };
        Run::measure(read).1
    }

    /// The client under the adapters with the same requests, whose answers it reads and forgets.
    fn http(&self) -> Run {
        let http = ours::http(self.ca.as_deref());
        let base = ours::base(self.port, self.ca.as_deref());
        let mut mailboxes = Vec::new();
        for n in 0..self.mailboxes {
            let requests = self.requests(self.first + n);
            let requests = requests.iter().map(|bytes| ours::request(&base, self.first + n, bytes));
            mailboxes.push(Arc::new(Mutex::new(requests.collect::<Vec<_>>().into_iter())));
        }
        let work = async {
            let mut tasks = tokio::task::JoinSet::new();
            for requests in mailboxes.iter().flat_map(|of_one| std::iter::repeat_n(of_one, self.connections))
            {
                let (http, requests) = (Arc::clone(&http), Arc::clone(requests));
                tasks.spawn(async move {
                    loop {
                        let next = requests.lock().unwrap().next();
                        let Some(request) = next else { return };
                        let mut answer = http.send(request).await.unwrap();
                        while answer.body.chunk().await.unwrap().is_some() {}
                    }
                });
            }
            tasks.join_all().await
        };
        Run::measure(|| ours::runtime().block_on(work)).1
    }

    fn ours(&self, protocol: Protocol) -> Run {
        let runtime = ours::runtime();
        let transport = protocol.transport(self.port, self.ca.as_deref());
        let work = async {
            let mut tasks = tokio::task::JoinSet::new();
            for n in 0..self.mailboxes {
                let (transport, mailbox) = (Arc::clone(&transport), ours::mailbox(&user(self.first + n)));
                tasks.spawn(async move { ours::drain(&*transport, &mailbox, ROUTER_WINDOW).await });
            }
            tasks.join_all().await
        };
        Run::measure(|| runtime.block_on(work)).1
    }

    /// What draining this mailbox needs above what draining another one has left.
    fn memory(&self, protocol: Protocol) -> Values {
        let transport = protocol.transport(self.port, self.ca.as_deref());
        let first = self.first;
        ours::runtime().block_on(async move {
            let work = async move {
                let _ = ours::drain(&*transport, &ours::mailbox(&user(0)), ROUTER_WINDOW).await;
                Memory::reset_peak();
                let before = Memory::read();
                let drained = ours::drain(&*transport, &ours::mailbox(&user(first)), ROUTER_WINDOW).await;
                let after = Memory::read();
                Values::default()
                    .with("before", before.now as f64)
                    .with("after", after.now as f64)
                    .with("peak", after.peak as f64)
                    .with("bytes", drained.1 as f64)
            };
            tokio::spawn(work).await.unwrap()
        })
    }
}

fn main() {
    if let Some((name, args)) = child::task() {
        let task = Task::of(&args);
        let values = match &*name {
            "ews" => task.ours(Protocol::Ews).values(),
            "graph" => task.ours(Protocol::Graph).values(),
            "raw" => task.raw(task.connections, "nothing").values(),
            "raw-one" => task.raw(1, "nothing").values(),
            "raw-memory" => task.raw(task.connections, "memory").values(),
            "raw-files" => task.raw(task.connections, "files").values(),
            "http" => task.http().values(),
            "memory-ews" => task.memory(Protocol::Ews),
            "memory-graph" => task.memory(Protocol::Graph),
            other => panic!("no client {other}"),
        };
        return child::report(&values);
    }
    let part = |name: &str| std::env::var("PART").map_or(true, |only| only == name);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for protocol in [Protocol::Ews, Protocol::Graph] {
        if part(protocol.name()) {
            drain(&runtime, protocol);
        }
        if part("far") {
            far(&runtime, protocol);
        }
    }
    if part("xml") {
        xml(&runtime);
    }
    if part("memory") {
        memory(&runtime);
    }
}

fn drain(runtime: &Runtime, protocol: Protocol) {
    let count = if is_smoke() { 20 } else { number("CORPUS", 300) };
    let fake = Fake::start(runtime, protocol);
    let mut bytes = 0;
    for n in 0..8 {
        bytes = fake.fill(n, &corpus::realistic(count, &format!("{}@contoso.test", user(n))));
    }
    for (in_tls, mailboxes) in [(false, 1), (false, 8), (true, 1), (true, 8)] {
        let prepared = Prepared::new(protocol, &fake, mailboxes, in_tls, None);
        let fetched = prepared.replay.fetched();
        let mut table = Comparison::default();
        for _ in 0..rounds() {
            let run = |what: &str| prepared.run(what, 0, mailboxes);
            table.add("raw, nothing kept", None, run("raw"));
            if protocol.connections() > 1 {
                table.add("raw, one connection a mailbox", None, run("raw-one"));
            }
            table.add("raw, each answer kept in memory", None, run("raw-memory"));
            table.add("raw, each answer into a file", None, run("raw-files"));
            table.add("HttpClient alone, nothing kept", None, run("http"));
            table.add(protocol.adapter(), Some(TARGET), run(protocol.name()));
        }
        let channel = if in_tls { "in TLS" } else { "in clear" };
        let title = format!(
            "{} {channel}, {mailboxes} at once, {:.2} bytes of answers for each of a message",
            protocol.name(),
            prepared.answers as f64 / bytes as f64
        );
        table.print(&title, count * mailboxes, bytes * mailboxes as u64);
        let more = prepared.replay.fetched() - fetched;
        if more > 0 {
            println!("{more} requests were not the recorded ones: the speed has the fake's in it");
        }
    }
}

/// One mailbox whose server has a round trip of 20 ms, as Exchange Online at its best.
fn far(runtime: &Runtime, protocol: Protocol) {
    let count = if is_smoke() { 20 } else { number("CORPUS", 300) };
    let fake = Fake::start(runtime, protocol);
    let bytes = fake.fill(0, &corpus::realistic(count, &format!("{}@contoso.test", user(0))));
    let prepared = Prepared::new(protocol, &fake, 1, false, Some(Duration::from_millis(20)));
    let mut table = Comparison::default();
    for _ in 0..rounds() {
        let run = |what: &str| prepared.run(what, 0, 1);
        table.add("raw, nothing kept, 20 ms", None, run("raw"));
        table.add(&format!("{}, 20 ms", protocol.adapter()), Some(TARGET), run(protocol.name()));
    }
    table.print(&format!("{}, round trip of 20 ms (delaying proxy)", protocol.name()), count, bytes);
}

/// An answer of `GetItem` for these messages, without its head.
fn get_item(runtime: &Runtime, messages: &[Vec<u8>]) -> Arc<[u8]> {
    let fake = Fake::start(runtime, Protocol::Ews);
    let _ = fake.fill(0, messages);
    let (port, base) = fake.place();
    let replay = Replay::start(port, &base, None);
    let drained = runtime.block_on(ours::drain(
        &ours::ews(replay.port(), None),
        &ours::mailbox(&user(0)),
        ROUTER_WINDOW,
    ));
    assert_eq!(drained.0, messages.len());
    let (requests, _) = replay.take_requests();
    let answers = requests.iter().map(|request| replay.answer(request));
    let largest = answers.max_by_key(|answer| answer.len()).unwrap();
    let head = memchr::memmem::find(&largest, b"\r\n\r\n").unwrap() + 4;
    largest[head..].into()
}

/// Reading answers that are in memory already, all in this process.
fn xml(runtime: &Runtime) {
    let to = format!("{}@contoso.test", user(0));
    let least = Duration::from_millis(if is_smoke() { 1 } else { 20 });
    for (what, messages) in [
        ("one message of 1 MB", vec![corpus::message(0, 1_000_000, &to, "")]),
        ("10 messages of 8 KB", (0..10).map(|n| corpus::message(n, 8_000, &to, "")).collect()),
    ] {
        let answer = get_item(runtime, &messages);
        // the adapter knows sizes from the listing
        let largest = messages.iter().map(|message| message.len() + message.len() / 8).max().unwrap();
        let mut table = Comparison::default();
        // as often for everybody, and long enough for the fastest
        let mut times = 1;
        while repeated(times, || scan(&answer)).wall < least.as_secs_f64() {
            times *= 2;
        }
        for _ in 0..rounds() {
            table.add("memchr for each <", None, repeated(times, || scan(&answer)));
            table.add("quick-xml events, nothing decoded", None, repeated(times, || events(&answer, false)));
            table.add("quick-xml events, crate base64", None, repeated(times, || events(&answer, true)));
            table.add(
                "ours: content carved out, then a tree",
                None,
                repeated(times, || ours(&answer, largest)),
            );
        }
        table.print(&format!("GetItem of {what}"), times * messages.len(), (times * answer.len()) as u64);
    }
}

fn repeated(times: usize, work: impl Fn() -> usize) -> Run {
    let once = || (0..times).map(|_| std::hint::black_box(work())).sum::<usize>();
    Run::measure(once).1
}

fn scan(answer: &[u8]) -> usize {
    memchr::memchr_iter(b'<', answer).count()
}

fn events(answer: &[u8], decode: bool) -> usize {
    let mut reader = Reader::from_reader(answer);
    let (mut inside, mut bytes) = (false, 0);
    loop {
        match reader.read_event().unwrap() {
            Event::Start(start) => inside = start.local_name().as_ref() == "MimeContent",
            Event::Text(text) if inside && decode => bytes += BASE64_STANDARD.decode(&*text).unwrap().len(),
            Event::Text(text) => bytes += text.len(),
            Event::Eof => return bytes,
            _ => inside = false,
        }
    }
}

/// As the adapter reads it, in pieces as they come from a connection.
fn ours(answer: &[u8], expected: usize) -> usize {
    let mut carver = Carver::new(1 << 20, 1 << 30, expected);
    for piece in answer.chunks(64 * 1024) {
        carver.push(piece).unwrap();
    }
    let (skeleton, contents) = carver.finish();
    let reply = response::read(&skeleton).unwrap().unwrap();
    assert_eq!(reply.answers.len(), contents.len());
    contents.len()
}

fn memory(runtime: &Runtime) {
    let size = if is_smoke() { 1_000_000 } else { 25_000_000 };
    let message = |n: usize| corpus::message(n, size, "u000@contoso.test", "");
    println!("\nresident memory, MB");
    println!("{:<60} {:>7} {:>7} {:>7} {:>7} {:>12}", "", "before", "after", "peak", "counts", "target");
    for protocol in [Protocol::Ews, Protocol::Graph] {
        let fake = Fake::start(runtime, protocol);
        let _ = fake.fill(0, &[corpus::message(100, 8_000, "u000@contoso.test", "")]);
        let _ = fake.fill(1, &[message(0)]);
        let _ = fake.fill(2, &(0..10).map(message).collect::<Vec<_>>());
        let (port, base) = fake.place();
        let replay = Replay::start(port, &base, None);
        for (mailbox, messages) in [(1, "one message"), (2, "10 messages")] {
            let args =
                ["", "", &replay.port().to_string(), &mailbox.to_string(), "1", "1"].map(str::to_owned);
            for (allocator, environment) in [("", None), (", glibc keeps no large blocks", Some(RETURNED))] {
                let found = child::run_with(&format!("memory-{}", protocol.name()), &args, environment);
                let mb = |name: &str| found.get(name) / 1e6;
                let above = mb("peak") - mb("before");
                println!(
                    "{:<60} {:>7.1} {:>7.1} {:>7.1} {:>7.1} {:>12}",
                    format!("{}: {messages} of {} MB{allocator}", protocol.name(), size / 1_000_000),
                    mb("before"),
                    mb("after"),
                    mb("peak"),
                    above,
                    format!("64 {}", verdict(above <= 64.0))
                );
            }
        }
    }
}
