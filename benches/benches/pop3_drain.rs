//! Draining a mailbox by POP3: our adapter beside a bare pipelined reader and the programs people use, on the same Dovecot.
//!
//! Cost grows with the bytes of the mailbox; the number of round trips does not grow with the number of messages.
#![allow(missing_docs)] // a program, not an interface
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // a program for people; a failed step ends it
#![allow(clippy::disallowed_methods)] // real time and files are what is measured

use std::path::{Path, PathBuf};
use std::time::Duration;

use email_router_benches::child::{self, Run, Values};
use email_router_benches::peers::{PASSWORD, Source, user};
use email_router_benches::proxy::Proxy;
use email_router_benches::raw::{self, Keep};
use email_router_benches::table::Comparison;
use email_router_benches::{corpus, disk_folder, is_smoke, number, ours, rounds, skipped};

/// What the router asks for at once.
const ROUTER_WINDOW: usize = 64;

/// All messages hinted at once; the adapter has a window of its own.
const ALL: usize = usize::MAX;

fn main() {
    if let Some((name, args)) = child::task() {
        return child::report(&client(&name, &args));
    }
    let Some(source) = Source::find(8) else { return };
    let count = if is_smoke() { 20 } else { number("CORPUS", 300) };
    let mut bytes = 0;
    for n in 0..8 {
        let messages = corpus::realistic(count, &format!("{}@contoso.test", user(n)));
        bytes = source.fill(n, &messages);
    }
    println!("POP3 drain from {}", source.name());

    let part = |name: &str| std::env::var("PART").map_or(true, |only| only == name);
    let _ = run("raw", source.port(), None, 8, 0); // the server's first look at the files
    if part("one") {
        one(&source, count, bytes);
    }
    if part("eight") {
        eight(&source, count, bytes);
    }
    if let (true, Some((port, ca))) = (part("tls"), source.tls()) {
        let mut table = Comparison::default();
        for _ in 0..rounds() {
            table.add("raw pipelined, files, TLS", None, run("raw-files", port, Some(&ca), 1, 0));
            table.add("raw pipelined, ends counted, TLS", None, run("raw", port, Some(&ca), 1, 0));
            table.add("Pop3Transport, TLS", Some(0.85), run("ours", port, Some(&ca), 1, ALL));
            others(&mut table, &source, Some((port, &ca)));
        }
        table.print("one mailbox in TLS", count, bytes);
    }
    if part("far") {
        far(&source, count, bytes);
    }
}

fn one(source: &Source, count: usize, bytes: u64) {
    let mut table = Comparison::default();
    for _ in 0..rounds() {
        table.add("raw pipelined, files", None, run("raw-files", source.port(), None, 1, 0));
        table.add("raw pipelined, ends counted", None, run("raw", source.port(), None, 1, 0));
        table.add("raw pipelined, kept in memory", None, run("raw-memory", source.port(), None, 1, 0));
        table.add("Pop3Transport", Some(0.85), run("ours", source.port(), None, 1, ALL));
        others(&mut table, source, None);
    }
    if !is_smoke() {
        match crate_pop3(source, count) {
            Some(run) => table.add("crate pop3 1.0.6 (scaled from a part)", None, run),
            None => skipped("crate pop3", "not built; benches/README.md says how"),
        }
    }
    table.print("one mailbox", count, bytes);
}

fn eight(source: &Source, count: usize, bytes: u64) {
    let mut table = Comparison::default();
    for _ in 0..rounds() {
        table.add("raw pipelined, files, 8 threads", None, run("raw-files", source.port(), None, 8, 0));
        table.add("raw pipelined, ends counted, 8 threads", None, run("raw", source.port(), None, 8, 0));
        table.add("Pop3Transport, 8 mailboxes", Some(0.85), run("ours", source.port(), None, 8, ALL));
    }
    table.print("8 mailboxes at once", 8 * count, 8 * bytes);
}

fn far(source: &Source, count: usize, bytes: u64) {
    let far = Proxy::start(source.port(), Duration::from_millis(20));
    let mut table = Comparison::default();
    for _ in 0..rounds() {
        table.add("raw pipelined, files, 20 ms", None, run("raw-files", far.port, None, 1, 0));
        table.add("raw pipelined, ends counted, 20 ms", None, run("raw", far.port, None, 1, 0));
        table.add("Pop3Transport, 20 ms", Some(0.85), run("ours", far.port, None, 1, ALL));
        table.add("the same, hinted as the router does", None, run("ours", far.port, None, 1, ROUTER_WINDOW));
        match mpop(far.port, None) {
            Some(run) if !is_smoke() => table.add("mpop, 20 ms", None, run),
            _ => {}
        }
    }
    table.print("one mailbox, round trip of 20 ms (delaying proxy)", count, bytes);
}

/// Runs one of our clients as a process of its own.
fn run(what: &str, port: u16, ca: Option<&Path>, mailboxes: usize, ask: usize) -> Run {
    let ca = ca.map(|c| c.display().to_string()).unwrap_or_default();
    Run::from(&child::run(what, &[port.to_string(), ca, mailboxes.to_string(), ask.to_string()]))
}

fn client(what: &str, args: &[String]) -> Values {
    let (port, mailboxes): (u16, usize) = (args[0].parse().unwrap(), args[2].parse().unwrap());
    let ca = (!args[1].is_empty()).then(|| PathBuf::from(&args[1]));
    let ask: usize = args[3].parse().unwrap();
    let run = if what == "ours" {
        let runtime = ours::runtime();
        let transport = std::sync::Arc::new(ours::pop3(port, ca.as_deref()));
        let work = async {
            let mut tasks = tokio::task::JoinSet::new();
            for n in 0..mailboxes {
                let (transport, mailbox) = (std::sync::Arc::clone(&transport), ours::mailbox(&user(n)));
                tasks.spawn(async move { ours::drain(&*transport, &mailbox, ask).await });
            }
            tasks.join_all().await
        };
        Run::measure(|| runtime.block_on(work)).1
    } else {
        let folder = disk_folder();
        let keep = match what {
            "raw" => Keep::Count,
            "raw-files" => Keep::Files(folder.path()),
            _ => Keep::Memory,
        };
        let tls = ca.as_deref().map(raw::tls);
        Run::measure(|| raw::pop3_drain_all(port, tls.as_ref(), mailboxes, keep)).1
    };
    run.values()
}

/// The programs people use, each as it fetches one mailbox and keeps it on the server.
fn others(table: &mut Comparison, source: &Source, tls: Option<(u16, &Path)>) {
    if is_smoke() {
        return;
    }
    let port = tls.map_or(source.port(), |(port, _)| port);
    let programs: [(&str, Option<Run>); 3] = [
        ("mpop", mpop(port, tls.map(|(_, ca)| ca))),
        ("fdm", if tls.is_some() { None } else { fdm(port) }),
        ("fetchmail", if tls.is_some() { None } else { fetchmail(port) }),
    ];
    for (name, run) in programs {
        match run {
            Some(run) => table.add(name, None, run),
            None if tls.is_none() => skipped(name, "not installed, or it failed"),
            None => {}
        }
    }
}

fn mpop(port: u16, ca: Option<&Path>) -> Option<Run> {
    let folder = tempfile::tempdir().unwrap();
    let (config, file) = (folder.path().join("mpoprc"), folder.path().join("mbox"));
    let tls = match ca {
        Some(ca) => format!("tls on\ntls_starttls off\ntls_trust_file {}\nhost localhost", ca.display()),
        None => "tls off\nhost 127.0.0.1".to_owned(),
    };
    let text = format!(
        "defaults\n{tls}\naccount a\nport {port}\nauth user\nuser u000\npassword {PASSWORD}\nkeep on\nonly_new off\npipelining on\nuidls_file {}/uidls\nreceived_header off\ndelivery mbox {}\n",
        folder.path().display(),
        file.display()
    );
    private(&config, &text);
    child::other_program(&child::find_program("mpop")?, &["-C", config.to_str()?, "-Q", "a"])
}

fn fdm(port: u16) -> Option<Run> {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("fdm.conf");
    let text = format!(
        "set no-received\nset maximum-size 100M\nset lock-file \"{0}/lock\"\naction \"mbox\" mbox \"{0}/mbox\"\naccount \"a\" pop3 server \"127.0.0.1\" port {port} user \"u000\" pass \"{PASSWORD}\"\nmatch all action \"mbox\"\n",
        folder.path().display()
    );
    private(&config, &text);
    // -k keeps the mail on the server; as root it wants a user to become, which is root again
    child::other_program(
        &child::find_program("fdm")?,
        &["-q", "-f", config.to_str()?, "-k", "-u", "root", "fetch"],
    )
    .or_else(|| {
        child::other_program(&child::find_program("fdm")?, &["-q", "-f", config.to_str()?, "-k", "fetch"])
    })
}

fn fetchmail(port: u16) -> Option<Run> {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("fetchmailrc");
    let text = format!(
        "poll 127.0.0.1 protocol pop3 port {port} auth password username u000 password {PASSWORD} sslproto '' fetchall keep\n"
    );
    private(&config, &text);
    let (output, pid) = (folder.path().join("bsmtp"), folder.path().join("pid"));
    let args = [
        "-f",
        config.to_str()?,
        "--silent",
        "--bsmtp",
        output.to_str()?,
        "--pidfile",
        pid.to_str()?,
        "--nosyslog",
    ];
    child::other_program(&child::find_program("fetchmail")?, &args)
}

/// The crate `pop3`: a package with a lockfile of its own, `benches/pop3-baseline`. It takes a minute for what takes others a second, so it
/// reads the first messages only.
fn crate_pop3(source: &Source, count: usize) -> Option<Run> {
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/pop3-baseline/target/release/pop3-baseline");
    let program = std::env::var("POP3_BASELINE").unwrap_or_else(|_| built.to_owned());
    let most = count.min(40);
    let all = corpus::realistic(count, "u000@contoso.test");
    let size = |messages: &[Vec<u8>]| messages.iter().map(Vec::len).sum::<usize>() as f64;
    let run =
        child::other_program(&program, &[&source.port().to_string(), "u000", PASSWORD, &most.to_string()])?;
    let times = size(&all) / size(&all[..most]);
    Some(Run { wall: run.wall * times, cpu: run.cpu * times })
}

/// These programs refuse a file with a password that others may read.
fn private(file: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(file, text).unwrap();
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
}
