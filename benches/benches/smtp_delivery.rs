//! Handing messages to an SMTP server: our adapter beside `smtp-source`, a bare pipelined sender and the transport of lettre, with equal sessions,
//! to Postfix's `smtp-sink`.
//!
//! Cost grows with the number of messages (two round trips each) and their bytes; connections are kept.
#![allow(missing_docs)] // a program, not an interface
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // a program for people; a failed step ends it
#![allow(clippy::disallowed_methods)] // real time and files are what is measured

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use email_router_benches::child::{self, Run, Values};
use email_router_benches::raw::{self, Pipelining};
use email_router_benches::table::Comparison;
use email_router_benches::{corpus, is_smoke, number, ours, rounds, skipped};
use email_router_model::{EmailAddress, MessageId};
use email_router_testkit::smtp::{SmtpOptions, SmtpServer};
use email_router_transport::net::{Endpoint, SharedCredentials, TlsMode};
use email_router_transport::smtp::{SmtpSettings, SmtpTransport};
use email_router_transport::{Envelope, Outbound, SubmitOptions, Transport as _};

fn main() {
    if let Some((name, args)) = child::task() {
        return child::report(&client(&name, &args));
    }
    let count = if is_smoke() { 40 } else { number("MESSAGES", 4000) };
    let runtime = ours::runtime();
    let sink = Sink::start(&runtime);
    let size = 8192;
    println!("SMTP to {}", sink.name);
    for sessions in [1, 8] {
        let mut table = Comparison::default();
        let _ = run("raw", sink.port, sessions, count.min(200), size);
        for _ in 0..rounds() {
            // the first row is what the others are measured by
            match smtp_source(sink.port, sessions, count, size) {
                Some(run) => table.add("smtp-source, connections kept", None, run),
                None => skipped("smtp-source", "not installed"),
            }
            table.add("raw, envelope pipelined", None, run("raw", sink.port, sessions, count, size));
            table.add(
                "raw, pipelined across messages",
                None,
                run("raw-across", sink.port, sessions, count, size),
            );
            table.add("SmtpTransport", Some(1.0), run("ours", sink.port, sessions, count, size));
            // a fortieth: it takes 40 ms a message where Nagle's algorithm meets delayed acknowledgements
            let few = (count / 40).max(sessions);
            let lettre = run("lettre", sink.port, sessions, few, size);
            let times = count as f64 / few as f64;
            table.add(
                "lettre (sync, pool)",
                None,
                Run { wall: lettre.wall * times, cpu: lettre.cpu * times },
            );
        }
        table.print(&format!("8 KB messages, {sessions} sessions"), count, (count * size) as u64);
    }
}

fn run(what: &str, port: u16, sessions: usize, count: usize, size: usize) -> Run {
    let args = [port.to_string(), sessions.to_string(), count.to_string(), size.to_string()];
    Run::from(&child::run(what, &args))
}

fn client(what: &str, args: &[String]) -> Values {
    let numbers: Vec<usize> = args.iter().map(|a| a.parse().unwrap()).collect();
    let [port, sessions, count, size] = numbers[..] else { panic!("four numbers: {args:?}") };
    let port = u16::try_from(port).unwrap();
    let message = corpus::with_crlf(&corpus::message(1, size - 1200, "b@fabrikam.example", ""));
    let message: Vec<u8> = String::from_utf8(message).unwrap().replace("\r\n.", "\r\n").into_bytes();
    let share = |n: usize| count / sessions + usize::from(n < count % sessions);
    let run = match what {
        "ours" => {
            let runtime = ours::runtime();
            let transport = Arc::new(transport(port, sessions));
            let message = bytes::Bytes::from(message);
            let work = async {
                let mut tasks = tokio::task::JoinSet::new();
                for n in 0..sessions {
                    let (transport, message, mine) = (Arc::clone(&transport), message.clone(), share(n));
                    tasks.spawn(async move {
                        let sender = ours::mailbox("a");
                        let to: EmailAddress = "b@fabrikam.example".parse().unwrap();
                        let mut out = Outbound {
                            envelope: Envelope { sender: Some(sender.address.clone()), recipients: vec![to] },
                            message_id: MessageId::parse("<a@b.example>").unwrap(),
                            mime: message,
                        };
                        for k in 0..mine {
                            out.message_id = MessageId::parse(&format!("<{n}.{k}@contoso.test>")).unwrap();
                            transport.submit(&sender, &out, SubmitOptions::default()).await.unwrap();
                        }
                    });
                }
                tasks.join_all().await;
                transport.close_idle().await;
            };
            Run::measure(|| runtime.block_on(work)).1
        }
        "lettre" => {
            use lettre::Transport as _;
            use lettre::transport::smtp::{PoolConfig, SmtpTransport};
            let pool = PoolConfig::new().max_size(u32::try_from(sessions).unwrap());
            let transport = SmtpTransport::builder_dangerous("127.0.0.1")
                .port(port)
                .pool_config(pool)
                .timeout(Some(Duration::from_secs(60)))
                .build();
            let from = "a@contoso.test".parse().unwrap();
            let to = "b@fabrikam.example".parse().unwrap();
            let envelope = lettre::address::Envelope::new(Some(from), vec![to]).unwrap();
            let work = || {
                std::thread::scope(|scope| {
                    for n in 0..sessions {
                        let (transport, envelope, message, mine) =
                            (&transport, &envelope, &message, share(n));
                        scope.spawn(move || {
                            for _ in 0..mine {
                                transport.send_raw(envelope, message).unwrap();
                            }
                        });
                    }
                });
            };
            Run::measure(work).1
        }
        _ => {
            let pipelining = if what == "raw" { Pipelining::Envelope } else { Pipelining::AcrossMessages };
            let work = || {
                std::thread::scope(|scope| {
                    for n in 0..sessions {
                        let (message, mine) = (&message, share(n));
                        scope.spawn(move || raw::smtp_send(port, message, mine, pipelining));
                    }
                });
            };
            Run::measure(work).1
        }
    };
    run.values()
}

fn transport(port: u16, sessions: usize) -> SmtpTransport {
    let mut settings = SmtpSettings::new(Endpoint::new("127.0.0.1", port, TlsMode::None));
    settings.pool.max_connections = sessions;
    settings.pool.max_messages = u32::MAX; // as the others: one connection from the first to the last
    SmtpTransport::new(settings, Arc::new(SharedCredentials::none())).unwrap()
}

fn smtp_source(port: u16, sessions: usize, count: usize, size: usize) -> Option<Run> {
    if is_smoke() {
        return None;
    }
    let server = format!("127.0.0.1:{port}");
    let (sessions, count, size) = (sessions.to_string(), count.to_string(), size.to_string());
    let args = [
        "-d",
        "-s",
        &sessions,
        "-m",
        &count,
        "-l",
        &size,
        "-f",
        "a@contoso.test",
        "-t",
        "b@fabrikam.example",
        &server,
    ];
    child::other_program(&child::find_program("smtp-source")?, &args)
}

/// An SMTP server that forgets everything it takes.
struct Sink {
    name: &'static str,
    port: u16,
    process: Option<Child>,
    _server: Option<SmtpServer>,
}

impl Sink {
    fn start(runtime: &tokio::runtime::Runtime) -> Self {
        if let Some(program) = child::find_program("smtp-sink").filter(|_| !is_smoke()) {
            // a port that was free a moment ago
            let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
            let mut command = Command::new(program);
            // it refuses to run as root, and says so only then
            if std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0 {
                command.args(["-u", "nobody"]);
            }
            command.args([&format!("127.0.0.1:{port}"), "1024"]).stdin(Stdio::null()).stdout(Stdio::null());
            // in its owner at once: dropping that ends the process, whatever happens
            let sink =
                Self { name: "smtp-sink", port, process: Some(command.spawn().unwrap()), _server: None };
            for _ in 0..200 {
                if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return sink;
                }
                std::thread::sleep(Duration::from_millis(25));
            }
            panic!("smtp-sink does not listen");
        }
        skipped("smtp-sink", "not installed, or a smoke run; the test kit's server takes its place");
        let server = runtime.block_on(SmtpServer::start(SmtpOptions::default()));
        Self { name: "test kit", port: server.port(), process: None, _server: Some(server) }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
