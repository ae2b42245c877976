//! Decisions and whole deliveries per second of CPU, beside what others were measured to need for a mail of the same mix.
//!
//! The others do not run here: each needs a database server and an hour of set-up. Their figures are CPU seconds for a mail on two cores of a
//! Xeon of 2.5 GHz, measured once with 400 such mails (12 MB), PostgreSQL with fsync; ours are CPU seconds of this machine. So the
//! factors are orders of magnitude, not percentages.
//!
//! Cost grows with the bytes of the mails and a share of a disk flush for each; the number of tracked e-mails: bench `decide`.
#![allow(missing_docs)] // a program, not an interface
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // a program for people; a failed step ends it
#![allow(clippy::disallowed_methods)] // real time and files are what is measured

use std::path::Path;
use std::sync::Arc;

use email_router_benches::child::{self, Run, Values};
use email_router_benches::table::median;
use email_router_benches::{corpus, disk_folder, is_smoke, number, ours, rounds, router};
use email_router_crm::CrmClient;
use email_router_engine::decide::{Decider, MailboxContext, OrganizationView};
use email_router_engine::message::Message;
use email_router_engine::ports::{CrmIndex, NoObserver};
use email_router_engine::{ParseCaps, Verdict};
use email_router_model::RawMessage;
use email_router_transport::maildir::{MailboxPath, MaildirSettings, MaildirTransport};
use tokio::sync::watch;

/// Milliseconds of CPU for a mail, the better of the measured ones.
const OTHERS: [(&str, &str, f64); 6] = [
    ("Request Tracker 5.0.3", "parse, correlate, store", 327.0),
    ("Znuny 6.5.1", "parse, correlate, store", 231.0),
    ("getmail6 6.18", "IMAP to Maildir only", 13.0),
    ("fetchmail 6.4", "IMAP to a program only", 5.0),
    ("fdm 1.9", "IMAP to Maildir only", 2.1),
    ("mpop 1.4", "POP3 to Maildir only", 0.3),
];

fn main() {
    if let Some((name, args)) = child::task() {
        return child::report(&client(&name, &args));
    }
    let count = if is_smoke() { 20 } else { number("CORPUS", 400) };
    let measure = |what: &str| {
        let runs: Vec<Run> =
            (0..rounds()).map(|_| Run::from(&child::run(what, &[count.to_string()]))).collect();
        let of = |f: fn(&Run) -> f64| median(runs.iter().map(f).collect()) / count as f64;
        (of(|r| r.cpu) * 1e3, of(|r| r.wall) * 1e3)
    };
    let (decide, decide_wall) = measure("decide");
    let (route, route_wall) = measure("route");
    println!("CPU for a mail, {count} mails of the help-desk mix, median of {} rounds", rounds());
    println!(
        "{:<24} {:<42} {:>10} {:>12} {:>12} {:>11}",
        "", "path", "CPU ms", "per second", "decisions", "deliveries"
    );
    println!("{:<24} {:<42} {:>10} {:>12} {:>12} {:>11}", "", "", "", "and core", "x faster", "x faster");
    let ours = [
        ("email-router", "parse, filter, correlate, resolve", decide, decide_wall),
        ("email-router", "the same from Maildir, durable in the CRM", route, route_wall),
    ];
    for (name, path, cpu, wall) in ours {
        println!(
            "{name:<24} {path:<42} {cpu:>10.3} {:>12.0}   ({:.0} per second as it ran)",
            1e3 / cpu,
            1e3 / wall
        );
    }
    for (name, path, cpu) in OTHERS {
        println!(
            "{name:<24} {path:<42} {cpu:>10.1} {:>12.1} {:>12.0} {:>11.0}",
            1e3 / cpu,
            cpu / decide,
            cpu / route
        );
    }
}

fn client(what: &str, args: &[String]) -> Values {
    let count: usize = args[0].parse().unwrap();
    let folder = disk_folder();
    let runtime = ours::runtime();
    let crm = router::crm(&folder.path().join("crm.db"));
    let mailbox = ours::mailbox("u000");
    let record = runtime.block_on(router::add_user(&crm, &mailbox, "all"));
    let maildir = folder.path().join("mail");
    fill(&maildir, &corpus::help_desk(count, 0));
    let path = MailboxPath::Fixed(maildir);
    let transport = Arc::new(MaildirTransport::new(MaildirSettings::incoming(path)));
    let plan = router::plan(transport, vec![(mailbox.clone(), record.clone())], 1);
    let routing = {
        let router = router::router(folder.path(), crm.clone(), Arc::new(NoObserver));
        let (keep, stop) = watch::channel(false);
        async move {
            let _keep = keep;
            tokio::spawn(async move { router.run_once(&plan, &stop).await }).await.unwrap().unwrap()
        }
    };
    let (report, run) = Run::measure(|| runtime.block_on(routing));
    assert_eq!(report.incoming.delivered, count as u64, "{:?}", report.failures);
    if what == "route" {
        return run.values();
    }
    // the next mails, of which three in ten answer one of these
    let crm: Arc<dyn CrmClient> = Arc::new(crm);
    let view = runtime.block_on(OrganizationView::load(&*crm)).unwrap();
    let decider = Decider::new(Arc::clone(&crm), Arc::new(CrmIndex(crm)));
    let context = MailboxContext::new(&mailbox, Some(record));
    let mails: Vec<RawMessage> = corpus::help_desk(count, 1).into_iter().map(RawMessage::new).collect();
    let (answers, run) = Run::measure(|| {
        let decided = mails.iter().filter(|raw| {
            let message = Message::parse(raw, &ParseCaps::default());
            let decision = runtime.block_on(decider.decide(&view, &context, &message)).unwrap();
            assert_eq!(decision.verdict, Verdict::Deliver);
            decision.hit.is_some()
        });
        decided.count()
    });
    assert_eq!(answers, (0..count).filter(|n| n % 10 < 3).count());
    run.values()
}

fn fill(maildir: &Path, messages: &[Vec<u8>]) {
    for sub in ["new", "cur", "tmp"] {
        std::fs::create_dir_all(maildir.join(sub)).unwrap();
    }
    for (n, message) in messages.iter().enumerate() {
        std::fs::write(maildir.join("new").join(format!("{}.{n}.host", 1_772_000_000 + n)), message).unwrap();
    }
}
