//! The command `email-router-test-access` from outside, without mail servers.
// a helper of a test that cannot go on fails the test
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod support;

use std::net::TcpListener;

use email_router_testkit::script::{ScriptedServer, Step, parse};
use support::World;

/// A Maildir that is there, one that is not, and a POP3 server where nobody listens.
fn world() -> World {
    // free a moment ago
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let world = World::with(&format!(
        r#"<Configuration>
  <ConfigurationProfiles>
    <ConfigurationProfile><Name>folders</Name><Direction>Incoming</Direction><ServerType>Maildir</ServerType><Path>mail/{{address}}</Path></ConfigurationProfile>
    <ConfigurationProfile><Name>outbox</Name><Direction>Outgoing</Direction><ServerType>Maildir</ServerType><Path>out</Path></ConfigurationProfile>
    <ConfigurationProfile><Name>server</Name><Direction>Incoming</Direction><ServerType>Pop3</ServerType><AuthenticationType>ClearText</AuthenticationType>
      <EmailServer>127.0.0.1</EmailServer><NetworkPort>{port}</NetworkPort><AccessCredentials>UserSpecified</AccessCredentials></ConfigurationProfile>
  </ConfigurationProfiles>
  <Deployments><Deployment><Name>crm</Name><Type>Embedded</Type><Path>crm.sqlite</Path><DefaultIncomingProfile>folders</DefaultIncomingProfile></Deployment></Deployments>
  <Mailboxes>
    <User><Name>Ann</Name><EmailAddress>ann@example.com</EmailAddress><OutgoingProfile>outbox</OutgoingProfile></User>
    <User><Name>Bob</Name><EmailAddress>bob@example.com</EmailAddress></User>
    <User><Name>Carla</Name><EmailAddress>carla@example.com</EmailAddress><IncomingProfile>server</IncomingProfile><Password>env:HOME</Password></User>
    <User><Name>Dev</Name><EmailAddress>dev@example.com</EmailAddress><IncomingProfile>server</IncomingProfile><Password>env:NOT_SET_HERE</Password></User>
    <User><Name>Erik</Name><EmailAddress>erik@example.com</EmailAddress><Disabled>true</Disabled></User>
  </Mailboxes>
</Configuration>"#
    ));
    for folder in ["new", "cur", "tmp"] {
        world.write(format!("mail/ann@example.com/{folder}/.keep"), "");
    }
    world.write("mail/ann@example.com/new/1", "Subject: waiting\r\n\r\n");
    world
}

#[test]
fn the_table_has_a_row_for_every_enabled_mailbox_and_a_reason_with_a_hint_for_every_failure() {
    let ran = world().run(&[]).with_code(4);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), ["Name", "Address", "Incoming", "Outgoing"]);
    assert_eq!(
        lines[1].split_whitespace().collect::<Vec<_>>(),
        ["Ann", "ann@example.com", "Succeeded", "Succeeded"]
    );
    let row = |name: &str| {
        lines.iter().position(|l| l.starts_with(name)).unwrap_or_else(|| panic!("{name}: {}", ran.out))
    };
    for (name, words) in
        [("Bob", "bob@example.com"), ("Carla", "refused the connection"), ("Dev", "NOT_SET_HERE")]
    {
        let (status, hint) = (lines[row(name) + 1], lines[row(name) + 2]);
        assert!(
            status.trim_start().starts_with("Incoming Status: Failure - ") && status.contains(words),
            "{status}"
        );
        assert!(hint.trim_start().starts_with("what to do: ") && hint.len() > 30, "{hint}");
    }
    assert!(!ran.out.contains("Erik") && ran.out.ends_with("4 mailboxes, 3 with a failure\n"), "{}", ran.out);
}

#[test]
fn json_has_the_kind_of_each_fault() {
    let row = world().rows(&[], 4);
    assert_eq!(row("Ann")["incoming"]["status"], "succeeded");
    assert_eq!(row("Ann")["incoming"]["messages"], 1);
    assert_eq!(row("Bob")["outgoing"]["status"], "not_configured");
    for (name, fault) in [("Bob", "settings"), ("Carla", "refused"), ("Dev", "configuration")] {
        let found = &row(name)["incoming"];
        assert_eq!((&found["status"], &found["fault"]), (&"failure".into(), &fault.into()), "{found:#}");
        assert!(!found["reason"].as_str().unwrap().is_empty() && !found["hint"].as_str().unwrap().is_empty());
    }
}

/// Faults that no real server shows on demand: one server for each, which plays its script to every client.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_silent_talks_nonsense_or_lets_nobody_into_the_mailbox_is_told_apart() {
    let incoming = |name: &'static str, script: &str| (name, "Incoming", parse(script));
    let outgoing = |name: &'static str, script: &str| (name, "Outgoing", parse(script));
    let mut cases = vec![
        incoming("silent-in", "S: +OK ready"),
        incoming("nonsense-in", "S: SSH-2.0-OpenSSH_9.2"),
        incoming(
            "denied-in",
            "S: +OK ready\nC: CAPA\nS: +OK\nS: USER\nS: RESP-CODES\nS: .\nC: USER\nS: +OK\nC: PASS\nS: -ERR [SYS/PERM] mailbox not enabled",
        ),
        outgoing("silent-out", "S: 220 ready"),
        outgoing("nonsense-out", "S: SSH-2.0-OpenSSH_9.2"),
    ];
    for (name, _, script) in &mut cases {
        script.push(if name.starts_with("silent") { Step::Silence } else { Step::Close });
    }
    let (mut profiles, mut mailboxes, mut servers) = (String::new(), String::new(), Vec::new());
    for (name, direction, script) in cases {
        let server = ScriptedServer::start(vec![script]).await;
        let kind = match direction {
            "Incoming" => {
                "<ServerType>Pop3</ServerType><AuthenticationType>ClearText</AuthenticationType><AccessCredentials>UserSpecified</AccessCredentials>\
                 <AllowClearTextWithoutTls>true</AllowClearTextWithoutTls>"
            }
            _ => {
                "<ServerType>Smtp</ServerType><AuthenticationType>Anonymous</AuthenticationType><AccessCredentials>LocalSystemAccount</AccessCredentials>"
            }
        };
        profiles += &format!(
            "<ConfigurationProfile><Name>{name}</Name><Direction>{direction}</Direction>{kind}<EmailServer>127.0.0.1</EmailServer>\
             <NetworkPort>{}</NetworkPort><TlsMode>None</TlsMode><OperationTimeout>500</OperationTimeout></ConfigurationProfile>",
            server.port()
        );
        let password = if direction == "Incoming" { "<Password>file:password</Password>" } else { "" };
        mailboxes += &format!(
            "<User><Name>{name}</Name><EmailAddress>{name}@example.com</EmailAddress><{direction}Profile>{name}</{direction}Profile>{password}</User>"
        );
        servers.push(server);
    }
    let world = World::with(&format!(
        "<Configuration><ConfigurationProfiles>{profiles}</ConfigurationProfiles>\
         <Deployments><Deployment><Name>crm</Name><Type>Embedded</Type><Path>crm.sqlite</Path></Deployment></Deployments>\
         <Mailboxes>{mailboxes}</Mailboxes></Configuration>"
    ));
    world.write("password", "secret");
    let row = world.rows(&[], 4);
    for (name, fault, words, hint) in [
        ("silent-in", "timeout", "127.0.0.1", "raise the time-out"),
        ("nonsense-in", "protocol", "SSH-2.0", "check that this is a POP3 server"),
        ("denied-in", "access-denied", "mailbox not enabled", "not enabled for POP3"),
        ("silent-out", "timeout", "127.0.0.1", "raise the time-out"),
        ("nonsense-out", "protocol", "SSH-2.0", "belong to an SMTP server"),
    ] {
        let found = &row(name)[if name.ends_with("-in") { "incoming" } else { "outgoing" }];
        assert_eq!(
            (&found["status"], &found["fault"]),
            (&"failure".into(), &fault.into()),
            "{name}: {found:#}"
        );
        for (key, words) in [("reason", words), ("hint", hint)] {
            assert!(found[key].as_str().unwrap().contains(words), "{name}: {found:#}");
        }
    }
    let ran = world.run(&[]).with_code(4).says("5 mailboxes, 5 with a failure");
    assert_eq!(ran.out.matches(" Status: Failure - ").count(), 5, "{}", ran.out);
    assert_eq!(ran.out.matches("what to do: ").count(), 5, "{}", ran.out);
    for server in servers {
        assert_eq!(server.heard().mismatches, Vec::<String>::new());
    }
}

#[test]
fn chosen_mailboxes_and_one_direction() {
    let world = world();
    world.run(&["ann@example.com"]).with_code(0).says("1 mailboxes, 0 with a failure");
    world.run(&["Ann", "carla@example.com", "--direction", "outgoing"]).with_code(0).says("2 mailboxes");
    world.run(&["carla@example.com", "--direction", "incoming"]).with_code(4);
    world.run(&["Ann", "--verbose"]).with_code(0).says("1 messages wait");
    world
        .run(&["nobody@example.com"])
        .with_code(1)
        .complains("no enabled mailbox is called nobody@example.com");
    world.run(&["erik@example.com"]).with_code(1).complains("erik@example.com");
}

#[test]
fn nothing_is_changed() {
    let world = world();
    let names = || {
        let mut names: Vec<_> =
            std::fs::read_dir(world.path("")).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    world.run(&[]).with_code(4);
    assert_eq!(names(), before);
    assert!(world.path("mail/ann@example.com/new/1").is_file());
    for folder in ["mail/ann@example.com/cur", "mail/ann@example.com/tmp"] {
        assert_eq!(std::fs::read_dir(world.path(folder)).unwrap().count(), 1, "{folder}");
    }
    let sent = std::fs::read_dir(world.path("out/new")).into_iter().flatten().count();
    assert_eq!(sent, 0);
}

#[test]
fn who_stops_reading_is_no_error() {
    let world = world();
    for words in [&[][..], &["--json"], &["--verbose"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = world.command(words).stdout(writer).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), said.as_ref()), (Some(0), ""), "{words:?}");
    }
}

#[test]
fn mailboxes_that_the_crm_lists_need_the_crm() {
    let world = World::with(
        r#"<Configuration>
  <ConfigurationProfiles><ConfigurationProfile><Name>folders</Name><Direction>Incoming</Direction><ServerType>Maildir</ServerType><Path>mail/{address}</Path></ConfigurationProfile></ConfigurationProfiles>
  <Deployments><Deployment><Name>crm</Name><Type>Embedded</Type><Path>crm.sqlite</Path><LoadMailboxes>true</LoadMailboxes><DefaultIncomingProfile>folders</DefaultIncomingProfile></Deployment></Deployments>
</Configuration>"#,
    );
    world
        .run(&[])
        .with_code(4)
        .says("Deployment crm (embedded CRM ./crm.sqlite): Failure")
        .says("crm.sqlite is not there")
        .says("what to do: ")
        .says("; 1 of 1 deployments with a failure");
    assert!(!world.path("crm.sqlite").exists());
}

#[test]
fn the_exit_codes_are_those_of_the_help() {
    let world = World::with(
        "<Configuration>\n<SystemConfiguration><MaxThreads>0</MaxThreads></SystemConfiguration></Configuration>",
    );
    world.run(&[]).with_code(3).complains("EmailAgent.xml:2:22: error: MaxThreads is 0");
    world.run(&["--config", "nowhere.xml"]).with_code(3).complains("nowhere.xml");
    world.run(&["--direction", "sideways"]).with_code(2).complains("incoming");
    world
        .run(&["--help"])
        .with_code(0)
        .says("Exit codes: 0 everything succeeded")
        .says("Nothing is changed on any server");
    world.run(&["--version"]).with_code(0).says("email-router-test-access ");
}
