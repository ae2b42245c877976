//! Bytes read of a message above 64 KB that is discarded: the header section decides, the body stays on the server.
//!
//! Cost grows with the header section, not with the message.
#![allow(missing_docs)] // a program, not an interface
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // a program for people; a failed step ends it
#![allow(clippy::disallowed_methods)] // real time and files are what is measured

use std::sync::Arc;
use std::time::Duration;

use email_router_benches::peers::{Source, user};
use email_router_benches::proxy::Proxy;
use email_router_benches::table::verdict;
use email_router_benches::{corpus, disk_folder, is_smoke, ours, router};
use email_router_engine::ports::NoObserver;
use email_router_model::Headers;
use tokio::sync::watch;

fn main() {
    // needs no particular server: bytes are counted, not time
    let source = Source::dovecot().filter(|_| !is_smoke()).unwrap_or_else(|| Source::test_kit(1));
    println!("bytes from {} for a message that is discarded by the filter", source.name());
    println!(
        "{:>12} {:>10} {:>14} {:>14} {:>8}",
        "message", "header", "read each", "over header", "target 2048"
    );
    for size in [70_000, 1_000_000, 5_000_000] {
        let count = if is_smoke() { 3 } else { 20 };
        let to = format!("{}@contoso.test", user(0));
        let messages: Vec<_> = (0..count).map(|n| corpus::message(n + size, size, &to, "")).collect();
        let _ = source.fill(0, &messages);
        let header =
            messages.iter().map(|m| Headers::new(&corpus::with_crlf(m)).as_bytes().len()).max().unwrap_or(0);
        let proxy = Proxy::start(source.port(), Duration::ZERO);
        let runtime = ours::runtime();
        let folder = disk_folder();
        runtime.block_on(async {
            let crm = router::crm(&folder.path().join("crm.db"));
            let mailbox = ours::mailbox(&user(0));
            let record = router::add_user(&crm, &mailbox, "none").await;
            let plan = router::plan(Arc::new(ours::pop3(proxy.port, None)), vec![(mailbox, record)], 1);
            let (_keep, stop) = watch::channel(false);
            let report = router::router(folder.path(), crm, Arc::new(NoObserver))
                .run_once(&plan, &stop)
                .await
                .unwrap();
            assert_eq!(report.incoming.discarded, count as u64, "{report:?}");
        });
        // the whole session: greeting, login and listing are counted too
        let each = proxy.received() / count as u64;
        let over = each.saturating_sub(header as u64);
        println!("{size:>12} {header:>10} {each:>14} {over:>14} {:>8}", verdict(over <= 2048));
    }
}
