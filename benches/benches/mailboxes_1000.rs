//! A thousand mailboxes with two new messages each, polled once, 16 at a time: connection and login dominate.
//!
//! Cost grows with the number of mailboxes (round trips of a session) and, less, with the messages in them.
#![allow(missing_docs)] // a program, not an interface
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // a program for people; a failed step ends it
#![allow(clippy::disallowed_methods)] // real time and files are what is measured

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use email_router_benches::child::{self, Run, Values};
use email_router_benches::peers::{PASSWORD, Source, user};
use email_router_benches::raw::{self, Keep};
use email_router_benches::table::Comparison;
use email_router_benches::{corpus, is_smoke, ours, rounds};

/// Sessions at once.
const AT_ONCE: usize = 16;

fn main() {
    if let Some((name, args)) = child::task() {
        return child::report(&client(&name, &args));
    }
    let Some(source) = Source::find(20) else { return };
    let mailboxes = source.users().min(if is_smoke() { 20 } else { 1000 });
    if mailboxes < 1000 && !is_smoke() {
        println!("only {mailboxes} mailboxes; MAILBOXES=1000 scripts/with-peers ... has a thousand");
    }
    let mut bytes = 0;
    for n in 0..mailboxes {
        let to = format!("{}@contoso.test", user(n));
        bytes += source
            .fill(n, &[corpus::message(2 * n, 4000, &to, ""), corpus::message(2 * n + 1, 8000, &to, "")]);
    }
    println!("{mailboxes} mailboxes of {}, two messages each", source.name());

    let mut table = Comparison::default();
    let _ = run("raw", source.port(), None, mailboxes); // the server's first look at the files
    for _ in 0..rounds() {
        table.add("raw, 16 at once", None, run("raw", source.port(), None, mailboxes));
        table.add("Pop3Transport, 16 at once", Some(0.9), run("ours", source.port(), None, mailboxes));
        table.add("Pop3Transport with USER/PASS", None, run("ours-user", source.port(), None, mailboxes));
    }
    table.print("in clear", 2 * mailboxes, bytes);

    if let Some((port, ca)) = source.tls() {
        let mut table = Comparison::default();
        for _ in 0..rounds() {
            table.add("raw, 16 at once, TLS", None, run("raw", port, Some(&ca), mailboxes));
            table.add("Pop3Transport, 16 at once, TLS", Some(0.9), run("ours", port, Some(&ca), mailboxes));
        }
        table.print("in TLS", 2 * mailboxes, bytes);
    }
}

fn run(what: &str, port: u16, ca: Option<&Path>, mailboxes: usize) -> Run {
    let ca = ca.map(|c| c.display().to_string()).unwrap_or_default();
    Run::from(&child::run(what, &[port.to_string(), ca, mailboxes.to_string()]))
}

fn client(what: &str, args: &[String]) -> Values {
    let (port, mailboxes): (u16, usize) = (args[0].parse().unwrap(), args[2].parse().unwrap());
    let ca = (!args[1].is_empty()).then(|| PathBuf::from(&args[1]));
    let next = Arc::new(AtomicUsize::new(0));
    let read = Arc::new(AtomicUsize::new(0));
    let run = if what.starts_with("ours") {
        let runtime = ours::runtime();
        let transport = Arc::new(match what {
            "ours" => ours::pop3(port, ca.as_deref()),
            _ => ours::pop3_user_pass(port),
        });
        let work = async {
            let mut tasks = tokio::task::JoinSet::new();
            for _ in 0..AT_ONCE {
                let (transport, next, read) = (Arc::clone(&transport), Arc::clone(&next), Arc::clone(&read));
                tasks.spawn(async move {
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= mailboxes {
                            return;
                        }
                        let (messages, _) = ours::drain(&*transport, &ours::mailbox(&user(n)), 32).await;
                        read.fetch_add(messages, Ordering::Relaxed);
                    }
                });
            }
            tasks.join_all().await
        };
        Run::measure(|| runtime.block_on(work)).1
    } else {
        let tls = ca.as_deref().map(raw::tls);
        let (tls, next, read) = (&tls, &next, &read);
        let work = || {
            std::thread::scope(|scope| {
                for _ in 0..AT_ONCE {
                    scope.spawn(move || {
                        loop {
                            let n = next.fetch_add(1, Ordering::Relaxed);
                            if n >= mailboxes {
                                return;
                            }
                            let (messages, _) = raw::pop3_connect_and_drain(
                                port,
                                tls.as_ref(),
                                &user(n),
                                PASSWORD,
                                Keep::Memory,
                            );
                            read.fetch_add(messages, Ordering::Relaxed);
                        }
                    });
                }
            });
        };
        Run::measure(work).1
    };
    assert_eq!(read.load(Ordering::Relaxed), 2 * mailboxes);
    run.values()
}
