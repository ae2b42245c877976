//! The whole way in: POP3, parsing, filter, correlation, durable commit in the embedded CRM, record in the state, deletion.
//!
//! Cost grows with the number of messages (a commit each, shared by mailboxes that are read at the same time) and their bytes.
#![allow(missing_docs)] // a program, not an interface
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // a program for people; a failed step ends it
#![allow(clippy::disallowed_methods)] // real time and files are what is measured

use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use email_router_benches::child::{self, Run, Values};
use email_router_benches::peers::{Source, user};
use email_router_benches::raw::{self, Keep};
use email_router_benches::table::{Comparison, median, verdict};
use email_router_benches::{corpus, disk_folder, is_smoke, number, ours, rounds, router};
use email_router_engine::ports::NoObserver;
use rusqlite::Connection;
use tokio::sync::watch;

/// CPU seconds of the incumbents for a message (Znuny 6.5 the faster of the two, 230 to 300 ms), measured once on such a machine.
const ZNUNY: f64 = 0.230;

fn main() {
    if let Some((name, args)) = child::task() {
        return child::report(&client(&name, &args));
    }
    let Some(source) = Source::find(8) else { return };
    let count = if is_smoke() { 20 } else { number("CORPUS", 300) };
    for mailboxes in [1, 8] {
        let filled = || -> u64 {
            let fill = |n| source.fill(n, &corpus::realistic(count, &format!("{}@contoso.test", user(n))));
            (0..mailboxes).map(fill).sum()
        };
        let mut table = Comparison::default();
        let (mut bytes, mut cpu) = (0, Vec::new());
        for _ in 0..rounds() {
            bytes = filled();
            let args = [source.port().to_string(), mailboxes.to_string(), count.to_string()];
            let _ = child::run("raw", &args);
            table.add("raw drain, each into a file", None, Run::from(&child::run("raw-files", &args)));
            table.add("raw drain, nothing done with it", None, Run::from(&child::run("raw", &args)));
            table.add("raw drain into bare SQLite", None, Run::from(&child::run("sqlite", &args)));
            let run = Run::from(&child::run("route", &args));
            cpu.push(run.cpu / (mailboxes * count) as f64);
            table.add("routed into the embedded CRM", Some(0.5), run);
        }
        table.print(&format!("{mailboxes} mailboxes of {}", source.name()), mailboxes * count, bytes);
        let cpu = median(cpu);
        println!(
            "router CPU per message {:.2} ms, target 1.5: {}; {:.0} times less than Znuny, target 100: {}",
            cpu * 1e3,
            verdict(cpu <= 1.5e-3),
            ZNUNY / cpu,
            verdict(ZNUNY / cpu >= 100.0)
        );
    }
}

fn client(what: &str, args: &[String]) -> Values {
    let numbers: Vec<usize> = args.iter().map(|a| a.parse().unwrap()).collect();
    let [port, mailboxes, count] = numbers[..] else { panic!("three numbers: {args:?}") };
    let port = u16::try_from(port).unwrap();
    if what.starts_with("raw") {
        let folder = disk_folder();
        let keep = if what == "raw-files" { Keep::Files(folder.path()) } else { Keep::Count };
        return Run::measure(|| raw::pop3_drain_all(port, None, mailboxes, keep)).1.values();
    }
    if what == "sqlite" {
        return Run::measure(|| into_bare_sqlite(port, mailboxes, mailboxes * count)).1.values();
    }
    let folder = disk_folder();
    let runtime = ours::runtime();
    let crm = router::crm(&folder.path().join("crm.db"));
    let routed = runtime.block_on(async {
        let mut served = Vec::new();
        for n in 0..mailboxes {
            let mailbox = ours::mailbox(&user(n));
            let record = router::add_user(&crm, &mailbox, "all").await;
            served.push((mailbox, record));
        }
        let plan = router::plan(Arc::new(ours::pop3(port, None)), served, mailboxes);
        (router::router(folder.path(), crm, Arc::new(NoObserver)), plan)
    });
    let (router, plan) = routed;
    let (_keep, stop) = watch::channel(false);
    let (report, run) = Run::measure(|| {
        runtime.block_on(async move {
            tokio::spawn(async move { router.run_once(&plan, &stop).await }).await.unwrap().unwrap()
        })
    });
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    assert_eq!(report.incoming.delivered, (mailboxes * count) as u64, "{:?}", report.incoming);
    run.values()
}

/// The least that keeping the messages costs: each as it comes, one row without an index, the messages that came together in one
/// durable commit, as the embedded CRM has them.
fn into_bare_sqlite(port: u16, mailboxes: usize, messages: usize) {
    let folder = disk_folder();
    let mut bare = Connection::open(folder.path().join("bare.db")).unwrap();
    bare.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 4000;
         CREATE TABLE message (id INTEGER PRIMARY KEY, raw BLOB NOT NULL)",
    )
    .unwrap();
    let (sender, receiver) = sync_channel(16);
    std::thread::scope(|scope| {
        // the channel ends with the thread that has its sender
        scope.spawn(move || raw::pop3_drain_all(port, None, mailboxes, Keep::Send(&sender)));
        while let Ok(first) = receiver.recv() {
            let transaction = bare.transaction().unwrap();
            for raw in std::iter::once(first).chain(receiver.try_iter().take(63)) {
                let mut insert = transaction.prepare_cached("INSERT INTO message (raw) VALUES (?1)").unwrap();
                insert.execute([raw]).unwrap();
            }
            transaction.commit().unwrap();
        }
    });
    let kept: i64 = bare.query_row("SELECT count(*) FROM message", [], |r| r.get(0)).unwrap();
    assert_eq!(usize::try_from(kept).unwrap(), messages);
}
