//! Memory: ten thousand mailboxes that are scheduled and idle, and one message of 25 MB on its way through everything.
//!
//! Cost grows with the number of mailboxes (a route and its schedule each) and with the largest messages under way at the same time.
#![allow(missing_docs)] // a program, not an interface
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // a program for people; a failed step ends it
#![allow(clippy::disallowed_methods)] // real time and files are what is measured

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use email_router_benches::child::{self, Memory, Values};
use email_router_benches::peers::{Source, user};
use email_router_benches::table::verdict;
use email_router_benches::{corpus, disk_folder, is_smoke, number, ours, router};
use email_router_engine::ports::{Event, Observer, ProviderEvent};
use rusqlite::Connection;
use tokio::sync::{Notify, watch};

/// Counts passes that ended.
#[derive(Debug, Default)]
struct Passes {
    ended: AtomicUsize,
    one_more: Notify,
}

impl Observer for Passes {
    fn event(&self, event: &Event<'_>) {
        if let Event::Provider { what: ProviderEvent::Executed | ProviderEvent::Failed, .. } = event {
            self.ended.fetch_add(1, Ordering::SeqCst);
            self.one_more.notify_one();
        }
    }
}

fn main() {
    if let Some((name, args)) = child::task() {
        let runtime = ours::runtime();
        let (port, number) = (args[0].parse().unwrap(), args[1].parse().unwrap());
        return child::report(&runtime.block_on(async move {
            let work = async move {
                if name == "idle" { idle(port, number).await } else { large(port, number).await }
            };
            tokio::spawn(work).await.unwrap()
        }));
    }
    let mailboxes = if is_smoke() { 200 } else { number("IDLE", 10_000) };
    let source = Source::test_kit(mailboxes);
    let run = |name: &str, number: usize| child::run(name, &[source.port().to_string(), number.to_string()]);
    println!("resident memory, MB");
    println!("{:<46} {:>9} {:>9} {:>9} {:>9} {:>12}", "", "before", "after", "peak", "counts", "target");
    let idle = run("idle", mailboxes);
    let mb = |values: &Values, name: &str| values.get(name) / 1e6;
    println!(
        "{:<46} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>12}",
        format!("{mailboxes} mailboxes by POP3, first poll over"),
        mb(&idle, "before"),
        mb(&idle, "after"),
        mb(&idle, "peak"),
        mb(&idle, "peak"),
        format!("150 {}", verdict(mb(&idle, "peak") <= 150.0))
    );
    let size = if is_smoke() { 1_000_000 } else { 25_000_000 };
    for (limit, what) in [(5_242_880, "attachment above the limit"), (131_072_000, "attachment stored")] {
        let to = format!("{}@contoso.test", user(0));
        let _ = source.fill(0, &[corpus::message(1, size, &to, "")]);
        let large = run("large", limit);
        let above = mb(&large, "peak") - mb(&large, "before");
        println!(
            "{:<46} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>12}",
            format!("one message of {} MB, {what}", size / 1_000_000),
            mb(&large, "before"),
            mb(&large, "after"),
            mb(&large, "peak"),
            above,
            format!("64 {}", verdict(above <= 64.0))
        );
    }
}

fn values(before: Memory, after: Memory) -> Values {
    Values::default()
        .with("before", before.now as f64)
        .with("after", after.now as f64)
        .with("peak", after.peak as f64)
}

/// So many mailboxes, each polled once and then not due for an hour.
async fn idle(port: u16, mailboxes: usize) -> Values {
    let before = Memory::read();
    let folder = disk_folder();
    let file = folder.path().join("crm.db");
    let crm = router::crm(&file);
    let served = {
        // in one transaction instead of ten thousand
        let mut conn = Connection::open(&file).unwrap();
        let tx = conn.transaction().unwrap();
        let served: Vec<_> = (0..mailboxes)
            .map(|n| {
                let mailbox = ours::mailbox(&user(n));
                let id = uuid::Uuid::from_u128(n as u128 + 1);
                let values = (id.to_string(), &mailbox.name, mailbox.address.as_str());
                tx.execute("INSERT INTO systemuser (systemuserid, fullname, internalemailaddress, createdon, modifiedon) VALUES (?1, ?2, ?3, 0, 0)", values).unwrap();
                (mailbox, email_router_model::RecordRef::new("systemuser", id))
            })
            .collect();
        tx.commit().unwrap();
        served
    };
    let passes = Arc::new(Passes::default());
    let router = router::router(folder.path(), crm, Arc::clone(&passes) as Arc<dyn Observer>);
    let plan = router::plan(Arc::new(ours::pop3(port, None)), served, 50);
    let (_plans, plan) = watch::channel(Arc::new(plan));
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(router.run(plan, stopped));
    while passes.ended.load(Ordering::SeqCst) < mailboxes {
        passes.one_more.notified().await;
    }
    // a few ticks of the scheduler with nothing due
    tokio::time::sleep(Duration::from_secs(3)).await;
    let after = Memory::read();
    stop.send(true).unwrap();
    running.await.unwrap().unwrap();
    values(before, after)
}

/// The message that waits in the first mailbox, after the router has read that mailbox's neighbour.
async fn large(port: u16, limit: usize) -> Values {
    let folder = disk_folder();
    let crm = router::crm(&folder.path().join("crm.db"));
    crm.admin().set_setting("maxuploadfilesize", &limit.to_string()).await.unwrap();
    let mut served = Vec::new();
    for n in [1, 0] {
        let mailbox = ours::mailbox(&user(n));
        let record = router::add_user(&crm, &mailbox, "all").await;
        served.push((mailbox, record));
    }
    let router = router::router(folder.path(), crm, Arc::new(Passes::default()));
    let transport = Arc::new(ours::pop3(port, None));
    let (_keep, stop) = watch::channel(false);
    let with_message = router::plan(Arc::clone(&transport) as _, vec![served.remove(1)], 1);
    router.run_once(&router::plan(transport, served, 1), &stop).await.unwrap();
    Memory::reset_peak();
    let before = Memory::read();
    let report = router.run_once(&with_message, &stop).await.unwrap();
    assert_eq!(report.incoming.delivered, 1, "{report:?}");
    values(before, Memory::read())
}
