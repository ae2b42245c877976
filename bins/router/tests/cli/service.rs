//! `run` as a service, the listener, and the command line itself.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::support::{World, mail, maildir_config};

/// An answer over HTTP: status and body. `None` while nobody listens.
fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let count = stream.read(&mut piece).ok()?;
        if count == 0 {
            break;
        }
        bytes.extend_from_slice(&piece[..count]);
        assert!(bytes.len() < 1 << 20, "an endless answer");
    }
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// A port that was free a moment ago.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Counted beside the program, whose configuration may be broken just now.
fn received(world: &World) -> u32 {
    let crm = rusqlite::Connection::open(world.path("crm.sqlite")).unwrap();
    crm.busy_timeout(Duration::from_secs(20)).unwrap();
    crm.query_row("SELECT count(*) FROM email WHERE directioncode = 0", [], |row| row.get(0)).unwrap()
}

#[test]
fn the_service_routes_what_arrives_and_stops_cleanly() {
    let world = World::maildir();
    world.deliver("ann@example.com", "1", &mail("tom@example.net", "ann@example.com", "before"));
    let service = world.start([]);
    world.until("the first delivery", || received(&world) == 1);
    world.deliver(
        "support@example.com",
        "2",
        &mail("tom@example.net", "support@example.com", "while it runs"),
    );
    world.until("the second delivery", || received(&world) == 2);
    world
        .run(["crm", "send", "--from", "ann@example.com", "--to", "tom@example.net", "--subject", "out"])
        .ok();
    world.until("sending", || world.names("out/new").len() == 1);
    assert_eq!(service.stop(), Some(0));
    world.run(["status"]).ok().says("1 processed");
    // a second start finds nothing to do twice
    let service = world.start([]);
    world.deliver("ann@example.com", "3", &mail("tom@example.net", "ann@example.com", "after"));
    world.until("the third delivery", || received(&world) == 3);
    assert_eq!(service.stop(), Some(0));
    assert_eq!(received(&world), 3);
}

/// A deployment on a server that cannot be connected is reported, and the others are served.
#[test]
fn a_deployment_that_cannot_be_connected_stops_nothing() {
    let world = World::maildir();
    // discard: nobody listens
    let provider = "<Deployments><Deployment><Name>provider</Name><Type>OnlineServiceProvider</Type><Url>http://127.0.0.1:9</Url>\
                    <UserName>u</UserName><Password>file:crm-password</Password><AllowHttp>true</AllowHttp>\
                    <Proxy><Url>None</Url></Proxy></Deployment>";
    let users = "<User><Name>Bob</Name><EmailAddress>bob@example.com</EmailAddress><Deployment>provider</Deployment></User>\
                 <User><Deployment>crm</Deployment>";
    let configuration = maildir_config(
        "<LogLevel>1</LogLevel>",
        "<AllowEmbeddedBesideOthers>true</AllowEmbeddedBesideOthers>",
    )
    .replace("<Deployments>", provider)
    .replacen("<User>", users, 1)
    .replace("<Queue>", "<Queue><Deployment>crm</Deployment>");
    world.write("crm-password", "geheim");
    world.write("EmailAgent.xml", configuration.replace("127.0.0.1:9", "127.0.0.1:9/main.aspx"));
    world.run(["check"]).with_code(3).says("leave out what begins with /main.aspx");
    world.write("EmailAgent.xml", configuration);
    world.run(["check"]).ok().says("as AllowEmbeddedBesideOthers allows");
    world.deliver("ann@example.com", "1", &mail("tom@example.net", "ann@example.com", "served"));
    let ran = world.run(["run", "--once"]).with_code(4).says("1 delivered");
    let ran = ran.says("failed: deployment provider: not connected: ");
    assert!(!format!("{}{}", ran.out, ran.err).contains("geheim"));
    world.run(["status"]).says("deployment provider is on a server, which was not asked");
    // the embedded one is meant where no other can be
    world.run(["crm", "stats"]).ok();
    world.run(["crm", "--deployment", "provider", "stats"]).with_code(1);
    let service = world.start([]);
    world.deliver(
        "ann@example.com",
        "2",
        &mail("tom@example.net", "ann@example.com", "while it is tried again"),
    );
    world.until("the second delivery", || received(&world) == 2);
    assert_eq!(service.stop(), Some(0));
}

#[test]
fn ctrl_c_stops_it_too() {
    let world = World::maildir();
    world.write("EmailAgent.xml", maildir_config("<LogLevel>2</LogLevel>", ""));
    let mut service = world.start([]);
    world.until("starting", || world.read("err.txt").contains("routing"));
    service.signal("INT");
    let mut status = None;
    world.until("the end", || {
        status = service.ended();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(0));
}

#[test]
fn what_is_published_is_taken_over_while_it_runs() {
    let world = World::maildir();
    let quiet = maildir_config("<LogLevel>1</LogLevel>", "");
    world.write("EmailAgent.xml", quiet.replace("<User>", "<User><Disabled>true</Disabled>"));
    let service = world.start([]);
    world.deliver("support@example.com", "1", &mail("tom@example.net", "support@example.com", "queue"));
    world.until("the delivery to the queue", || received(&world) == 1);
    world.deliver("ann@example.com", "2", &mail("tom@example.net", "ann@example.com", "user"));

    // a bad file changes nothing and is named; the settings in use stay
    world.write("EmailAgent.xml", "<Configuration><SystemConfiguration><MaxThreads>0</MaxThreads></SystemConfiguration></Configuration>");
    world.until("the refusal", || world.read("err.txt").contains("MaxThreads is 0"));
    world.deliver("support@example.com", "3", &mail("tom@example.net", "support@example.com", "queue again"));
    world.until("the delivery to the queue", || received(&world) == 2);

    // the good one serves Ann, and its LogLevel counts
    assert!(!world.read("err.txt").contains("DEBUG") && !world.read("err.txt").contains("INFO"));
    world.feed(["publish", "-"], &quiet.replace("<LogLevel>1<", "<LogLevel>2<")).ok();
    world.until("the delivery to Ann", || received(&world) == 3);
    world.until("the new LogLevel", || world.read("err.txt").contains("DEBUG"));

    // what a running router cannot take over, or what publishing would have refused, is told
    let quiet = maildir_config("<LogLevel>2</LogLevel>", "");
    world.write("EmailAgent.xml", quiet.replace("<LogLevel>", "<LogFile>other.log</LogFile><LogLevel>"));
    world.until("the new settings", || world.read("err.txt").contains("the new configuration is in use"));
    world.until("the advice", || {
        world
            .read("err.txt")
            .contains("LogFile, ReferenceKeyFile or StatusListener changed: restart the router")
    });
    let turned = quiet
        .replace("<Direction>Incoming</Direction>", "<Direction>Outgoing</Direction>")
        .replace("<DefaultIncomingProfile>in</DefaultIncomingProfile>", "");
    world.write("EmailAgent.xml", turned.replace("<MaxMessageSize>", "<!-- --><MaxMessageSize>"));
    world.until("the warning", || {
        world.read("err.txt").contains(
            "profile in was incoming and is outgoing now; give a profile of another direction another name",
        )
    });
    assert_eq!(service.stop(), Some(0));
}

/// The published scale: 0 no logging, 1 errors only, 2 by mailbox, 3 by message.
#[test]
fn log_levels_mean_what_is_published() {
    let world = World::maildir();
    // a mailbox without a folder fails, which may pass; a message that is no message goes into quarantine, which a person has to see to
    std::fs::remove_dir_all(world.path("mail/support@example.com")).unwrap();
    for (level, expected) in [
        ("0", &["ERROR"][..]),
        ("1", &["ERROR", "WARN"]),
        ("2", &["ERROR", "WARN", "DEBUG"]),
        ("3", &["ERROR", "WARN", "DEBUG", "TRACE"]),
    ] {
        let log = format!("<LogLevel>{level}</LogLevel><LogFile>{level}.log</LogFile>");
        world.write("EmailAgent.xml", maildir_config(&log, ""));
        world.deliver("ann@example.com", level, "\u{0}no field at all\n");
        let ran = world.run(["run", "--once"]).with_code(4);
        let levels = |text: &str| -> Vec<&str> {
            let known = ["ERROR", "WARN", "DEBUG", "TRACE"];
            let of = |line: &str| line.split_whitespace().nth(1).map(str::to_owned);
            known.into_iter().filter(|k| text.lines().any(|line| of(line).as_deref() == Some(*k))).collect()
        };
        let (file, err) = (world.read(format!("{level}.log")), &ran.err);
        assert_eq!(levels(err), expected, "{err}");
        assert_eq!(file, if level == "0" { "" } else { err.as_str() });
    }
    // what the command line says goes over it
    world.write("EmailAgent.xml", maildir_config("<LogLevel>0</LogLevel><LogFile>asked.log</LogFile>", ""));
    let ran = world.run(["--log", "debug", "run", "--once"]);
    assert!(ran.err.contains("DEBUG") && ran.err == world.read("asked.log"), "{}", ran.err);
}

#[test]
fn a_new_configuration_is_in_use_as_soon_as_the_crm_can_be_asked() {
    let world = World::maildir();
    let quiet = maildir_config("<LogLevel>2</LogLevel>", "");
    world.write("EmailAgent.xml", quiet.replace("<User>", "<User><Disabled>true</Disabled>"));
    let service = world.start([]);
    world.deliver("support@example.com", "1", &mail("tom@example.net", "support@example.com", "queue"));
    world.until("the delivery to the queue", || received(&world) == 1);
    world.deliver("ann@example.com", "2", &mail("tom@example.net", "ann@example.com", "user"));
    // forward mailboxes are listed with users and queues, and nothing else needs their table
    let crm = rusqlite::Connection::open(world.path("crm.sqlite")).unwrap();
    crm.busy_timeout(Duration::from_secs(20)).unwrap();
    crm.execute_batch("ALTER TABLE mailbox RENAME TO away").unwrap();
    world.write("EmailAgent.xml", &quiet);
    world.until("the failure", || world.read("err.txt").contains("users and queues could not be read"));
    assert!(!world.read("err.txt").contains("the new configuration is in use"));
    crm.execute_batch("ALTER TABLE away RENAME TO mailbox").unwrap();
    world.until("the delivery to Ann", || received(&world) == 2);
    // what was known of the users may have been enough for her
    world.until("the end of waiting", || world.read("err.txt").contains("the new configuration is in use"));
    assert_eq!(service.stop(), Some(0));
}

#[test]
fn users_are_loaded_at_config_update_period_however_rarely_the_file_is_looked_at() {
    let world = World::maildir();
    for kind in ["new", "cur", "tmp"] {
        std::fs::create_dir_all(world.path("mail/new@example.com").join(kind)).unwrap();
    }
    let config = maildir_config("<ConfigUpdatePeriod>1000</ConfigUpdatePeriod><LogLevel>1</LogLevel>", "")
        .replace("<ConfigRefreshPeriod>100<", "<ConfigRefreshPeriod>86400000<")
        .replace("ann@example.com", "new@example.com");
    world.write("EmailAgent.xml", config);
    let service = world.start([]);
    world.deliver("new@example.com", "1", &mail("tom@example.net", "new@example.com", "hello"));
    world.until("the start", || world.read("err.txt").contains("not served"));
    let new = ["crm", "set", "systemuser", "ann@example.com", "internalemailaddress=new@example.com"];
    world.run(new).ok();
    world.until("the delivery", || received(&world) == 1);
    assert_eq!(service.stop(), Some(0));
}

#[test]
fn the_listener_has_every_counter_health_and_status() {
    let world = World::maildir();
    world.deliver("ann@example.com", "1", &mail("tom@example.net", "ann@example.com", "counted"));
    world.deliver("ann@example.com", "2", &mail("", "ann@example.com", "not counted as delivered"));
    let address = free();
    let service = world.start(["--listen", &address.to_string()]);
    let mut metrics = String::new();
    world.until("counting", || {
        metrics = get(address, "/metrics").map(|(_, body)| body).unwrap_or_default();
        metrics.contains("email_router_incoming_messages_processed_total 2")
    });
    // the original's 21 counters: 19 counts, and two rates which PromQL makes of the processed ones
    let counts = [
        "incoming_messages_delivered",
        "incoming_messages_discarded",
        "incoming_messages_potentially_corrupted",
        "incoming_messages_processed",
        "incoming_messages_undelivered",
        "incoming_mailbox_access_attempts",
        "incoming_mailbox_access_failures",
        "outgoing_messages_delivered",
        "outgoing_messages_processed",
        "outgoing_messages_undelivered",
        "configuration_refreshes",
        "configuration_scheduling_cycles",
        "providers_load_failures",
        "providers_aborted",
        "providers_executed",
        "providers_failed",
        "providers_refreshed",
        "providers_removed",
        "providers_started",
    ];
    assert_eq!(counts.len() + 2, 21);
    for name in counts {
        let name = format!("email_router_{name}_total");
        assert!(
            metrics.contains(&format!("\n{name} ")) || metrics.starts_with(&name),
            "no {name} in\n{metrics}"
        );
        assert!(metrics.contains(&format!("# HELP {name} ")), "no word about {name}");
    }
    for line in [
        "email_router_incoming_messages_delivered_total 1",
        "email_router_incoming_messages_discarded_total 1",
    ] {
        assert!(metrics.contains(line), "no {line} in\n{metrics}");
    }
    for histogram in ["email_router_incoming_message_seconds", "email_router_passes_in_flight"] {
        assert!(metrics.contains(histogram), "no {histogram} in\n{metrics}");
    }
    assert_eq!(get(address, "/healthz").unwrap(), (200, "ok\n".to_owned()));
    let (code, status) = get(address, "/status").unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!((code, status["providers"].as_array().unwrap().len()), (200, 4));
    assert_eq!((&status["unserved"], &status["quarantine"]), (&serde_json::json!([]), &0.into()));
    let (_, text) = get(address, "/status?format=text").unwrap();
    assert!(text.contains("Ann Lee <ann@example.com>: last success 20"), "{text}");
    assert_eq!(get(address, "/nothing").unwrap().0, 404);
    assert_eq!(service.stop(), Some(0));
    assert!(get(address, "/healthz").is_none());
}

#[test]
fn the_status_page_has_what_is_not_served_and_follows_the_configuration() {
    let world = World::maildir();
    let whole = world.read("EmailAgent.xml");
    let stranger = "<User><Name>Bob</Name><EmailAddress>bob@example.com</EmailAddress></User>";
    world.write("EmailAgent.xml", whole.replace("<Mailboxes>", &format!("<Mailboxes>{stranger}")));
    let address = free();
    let service = world.start(["--listen", &address.to_string()]);
    let mut text = String::new();
    world.until("serving", || {
        text = get(address, "/status?format=text").map(|(_, body)| body).unwrap_or_default();
        text.contains("Ann Lee")
    });
    assert!(
        text.contains(
            "NOT SERVED crm/bob@example.com: the CRM of deployment crm has no user with the address"
        ),
        "{text}"
    );
    let status: serde_json::Value = serde_json::from_str(&get(address, "/status").unwrap().1).unwrap();
    assert_eq!(status["unserved"][0]["mailbox"], "crm/bob@example.com", "{status:#}");
    // whoever corrects the file sees it
    world.feed(["publish", "-"], &whole).ok();
    world.until("the correction", || {
        get(address, "/status?format=text").is_some_and(|(_, body)| !body.contains("NOT SERVED"))
    });
    assert_eq!(service.stop(), Some(0));
}

#[test]
fn a_listener_that_others_can_reach_is_refused_unless_asked_for() {
    let world = World::maildir();
    world
        .run(["run", "--listen", "0.0.0.0:0"])
        .with_code(1)
        .complains("0.0.0.0:0 can be reached from other machines")
        .complains("--listen-anywhere");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    world.run(["run", "--listen", &address]).with_code(1).complains(&format!("cannot listen on {address}"));
    world.run(["run", "--listen", "nonsense"]).with_code(2).complains("nonsense");
    // nothing that is asked for is left out in silence
    world.run(["run", "--once", "--listen", "127.0.0.1:0"]).with_code(2).complains("--once");
    world.run(["run", "--listen-anywhere"]).with_code(2).complains("--listen <ADDRESS:PORT>");
    world.write("EmailAgent.xml", maildir_config("", "<StatusListener>0.0.0.0:1</StatusListener>"));
    world.run(["run"]).with_code(3).complains("StatusListener").complains("AllowNetworkListener");
}

#[test]
fn the_log_goes_to_the_file_as_well() {
    let world = World::maildir();
    world.write(
        "EmailAgent.xml",
        maildir_config("<LogLevel>3</LogLevel><LogFile>log/router.log</LogFile>", ""),
    );
    world.run(["run", "--once"]).with_code(1).complains("LogFile").complains("router.log");
    std::fs::create_dir(world.path("log")).unwrap();
    world.deliver("ann@example.com", "1", &mail("tom@example.net", "ann@example.com", "in the log"));
    let ran = world.run(["run", "--once"]).ok();
    let log = world.read("log/router.log");
    assert!(log.contains("ann@example.com") && !log.contains('\u{1b}'), "{log}");
    assert_eq!(ran.err, log);
    let ran = world.run(["--log-format", "json", "--log", "debug", "run", "--once"]).ok();
    for line in ran.err.lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(entry["level"].is_string() && entry["timestamp"].is_string(), "{line}");
    }
    world.run(["--log", "=!=", "run", "--once"]).with_code(1).complains("--log");
}

/// Every command, with its subcommands.
const COMMANDS: &[&[&str]] = &[
    &[],
    &["run"],
    &["check"],
    &["publish"],
    &["explain"],
    &["status"],
    &["quarantine"],
    &["quarantine", "list"],
    &["quarantine", "show"],
    &["quarantine", "retry"],
    &["quarantine", "release"],
    &["quarantine", "delete"],
    &["secret"],
    &["secret", "set"],
    &["secret", "rotate"],
    &["crm"],
    &["crm", "list"],
    &["crm", "show"],
    &["crm", "add"],
    &["crm", "set"],
    &["crm", "delete"],
    &["crm", "import"],
    &["crm", "settings"],
    &["crm", "send"],
    &["crm", "resolve"],
    &["crm", "stats"],
    &["import"],
    &["import-state"],
    &["quickstart"],
    &["completions"],
];

#[test]
fn help_is_there_for_every_command_and_teaches() {
    let world = World::empty();
    for command in COMMANDS {
        let ran = world.run(command.iter().copied().chain(["--help"])).ok().says("Usage: email-router");
        assert!(ran.out.lines().next().unwrap().len() > 10, "{command:?}: {}", ran.out);
        // every argument and option says what it is for
        for line in ran.out.lines().filter(|l| l.trim_start().starts_with("--")) {
            assert!(line.len() < 200, "{command:?}: {line}");
        }
    }
    world.run(["--help"]).ok().says("Exit codes: 0 done").says("run --once").says("quickstart");
    world.run(["--version"]).ok().says("email-router ");
}

#[test]
fn a_wrong_command_line_is_2_and_helps() {
    let world = World::empty();
    world.run(["chekc"]).with_code(2).complains("check");
    world.run(["run", "--onec"]).with_code(2).complains("--once");
    world.run(Vec::<&str>::new()).with_code(2).complains("Usage:");
    world.run(["crm", "send", "--from", "a@example.com"]).with_code(2).complains("--to");
}

#[test]
fn completions_are_there_for_every_shell() {
    let world = World::empty();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        world.run(["completions", shell]).ok().says("email-router").says("quarantine");
    }
    world.run(["completions", "cmd"]).with_code(2);
}

#[test]
fn who_stops_reading_is_no_error() {
    let world = World::maildir();
    for words in [&["crm", "settings"][..], &["completions", "bash"], &["--json", "status"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = world.command(words).stdout(writer).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), said.as_ref()), (Some(0), ""), "{words:?}");
    }
}
