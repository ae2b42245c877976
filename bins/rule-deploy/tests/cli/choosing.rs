//! Whose rules are meant, which forward mailbox, which profile; and what the exit codes say.

use crate::support::{FORWARD, World, configuration, exchange, exchange_server, forward_mailbox};

const MAILDIR: &str = "<ConfigurationProfile><Name>folders</Name><Direction>Incoming</Direction><ServerType>Maildir</ServerType><Path>mail/{address}</Path></ConfigurationProfile>";

#[tokio::test(flavor = "multi_thread")]
async fn by_default_all_whose_mail_comes_by_the_forward_mailbox() {
    let server = exchange_server().await;
    let world = World::usual(&exchange("exchange", &server)).await;
    assert_eq!(world.rows(&["plan"], 4).0, ["Ann", "Support"]);
    // by name, address or id, each once, in the order of the command line
    let words = ["plan", "support", "ann@contoso.test", "crm/bob@contoso.test", "Ann"];
    assert_eq!(world.rows(&words, 4).0, ["Support", "Ann", "Bob"]);
    world.run(&["plan", "Ann", "nobody@contoso.test"]).with_code(1).complains("nobody@contoso.test");
    // who has the rule, however the mail comes in now
    assert_eq!(world.rows(&["verify", "--all"], 4).0, ["Ann", "Bob", "Carla", "Support"]);
    world.run(&["verify", "--all", "Ann"]).with_code(2);
    world.run(&["apply", "--yes", "Carla"]).with_code(0);
    let ran = world.run(&["remove", "--all"]).with_code(4).says("4 mailboxes, 1 not as wanted");
    assert!(ran.line("Carla").ends_with("present: to delete"), "{}", ran.out);
    world.run(&["remove", "--all", "--yes"]).with_code(0);
    assert_eq!(server.rules("carla@contoso.test").len(), 0);
    // a queue of the address of a user has the same mailbox, which gets the rule once
    world.crm(&[], &[("Ann too", "ann", "3"), ("Bob's", "bob", "3"), ("To itself", "crm", "3")]).await;
    let (names, row) = world.rows(&["apply", "--yes"], 4);
    assert_eq!(names.len(), 4, "{names:?}");
    for address in ["ann@contoso.test", "bob@contoso.test"] {
        assert_eq!(server.rules(address).len(), 1, "{address}");
    }
    let itself = &row("To itself")["outcome"];
    assert_eq!(itself["fault"], "configuration", "{itself:#}");
    assert!(itself["reason"].as_str().unwrap().contains("forward to itself"), "{itself:#}");
    assert_eq!(server.rules(FORWARD).len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_by_default_is_said_and_no_failure() {
    let server = exchange_server().await;
    let profile = exchange("exchange", &server);
    let world = World::with(&configuration(&profile, &forward_mailbox("Forward", FORWARD, "exchange")));
    world.run(&["plan"]).with_code(1).complains("crm.sqlite").complains("what to do: ");
    world.crm(&[("Bob", "bob", "2")], &[]).await;
    world
        .run(&["plan"])
        .with_code(0)
        .says("the CRM expects no user's or queue's mail by the forward mailbox");
    assert_eq!(world.run(&["plan", "--json"]).with_code(0).out, "[]\n");
}

/// A mailbox of the file is one of the CRM's, with what the file says of it.
#[tokio::test(flavor = "multi_thread")]
async fn mailboxes_of_the_file_count_beside_those_of_the_crm() {
    let server = exchange_server().await;
    let own = exchange("exchange", &server)
        .replace("OtherSpecified", "UserSpecified")
        .replace("<UserName>svc</UserName><Password>file:password</Password>", "");
    let forward = forward_mailbox("Forward", FORWARD, "exchange").replace(
        "</ForwardMailbox>",
        "<UserName>crm</UserName><Password>file:password</Password></ForwardMailbox>",
    );
    let user = |name: &str, more: &str| {
        format!(
            "<User><Name>{name}</Name><EmailAddress>{name}@contoso.test</EmailAddress><IncomingProfile>None</IncomingProfile>{more}</User>"
        )
    };
    let mailboxes = [
        forward,
        user("ann", "<UserName>ann</UserName><Password>file:password</Password>"),
        user("bob", "<UserName>bob</UserName><Password>env:NOT_SET_HERE</Password>"),
        user("carla", "<Disabled>true</Disabled>"),
    ];
    let world = World::with(&configuration(&own, &mailboxes.concat()));
    world
        .crm(
            &[("Ann", "ann", "3"), ("Bob", "bob", "3"), ("Carla", "carla", "3")],
            &[("Support", "support", "3")],
        )
        .await;
    let (names, row) = world.rows(&["apply", "--yes"], 4);
    assert_eq!(names, ["ann", "bob", "Support"], "the file's name and no disabled one");
    assert_eq!(row("ann")["outcome"]["status"], "done");
    for (name, words) in [("bob", "NOT_SET_HERE"), ("Support", "the mailbox has no Password")] {
        let found = &row(name)["outcome"];
        assert_eq!(found["fault"], "configuration", "{found:#}");
        assert!(found["reason"].as_str().unwrap().contains(words), "{found:#}");
        assert!(found["hint"].as_str().unwrap().contains("--profile"), "{found:#}");
    }
    assert_eq!(server.rules("ann@contoso.test").len(), 1);
    world.run(&["plan", "carla"]).with_code(1).complains("carla");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_several_forward_mailboxes_is_named() {
    let server = exchange_server().await;
    let profiles = exchange("exchange", &server) + MAILDIR;
    let two = forward_mailbox("Forward", FORWARD, "exchange")
        + &forward_mailbox("Other", "other@contoso.test", "folders");
    let world = World::with(&configuration(&profiles, &two));
    world.crm(&[("Ann", "ann", "3")], &[]).await;
    world
        .run(&["plan"])
        .with_code(1)
        .complains("name one of the forward mailboxes: crm@contoso.test, other@contoso.test");
    world
        .run(&["plan", "--forward-mailbox", "third"])
        .with_code(1)
        .complains("no enabled forward mailbox \"third\"");
    world
        .run(&["apply", "--yes", "--forward-mailbox", "forward"])
        .with_code(0)
        .says("Rule to crm@contoso.test");
    // that of the other is no Exchange
    world
        .run(&["plan", "--forward-mailbox", "Other"])
        .with_code(1)
        .complains("profile folders speaks Maildir, which knows no inbox rules");
    let other = ["--forward-mailbox", "other@contoso.test", "--profile", "exchange"];
    world.run(&[&["apply", "--yes"], &other[..]].concat()).with_code(0).says("done: update");
    assert!(server.rules("ann@contoso.test")[0].contains("other@contoso.test"));
    world
        .run(&["plan", "--forward-mailbox", "forward", "--profile", "folders"])
        .with_code(1)
        .complains("knows no inbox rules");
    world
        .run(&["plan", "--forward-mailbox", "forward", "--profile", "nowhere"])
        .with_code(1)
        .complains("no profile \"nowhere\"");

    // one that nobody reads is none
    let disabled = two.replace("<Name>Other</Name>", "<Name>Other</Name><Disabled>true</Disabled>");
    world.write("EmailAgent.xml", configuration(&profiles, &disabled));
    world.run(&["plan"]).with_code(4).says("Rule to crm@contoso.test");
    world.run(&["plan", "--forward-mailbox", "Other"]).with_code(1).complains("no enabled forward mailbox");
    world.write("EmailAgent.xml", configuration(&profiles, ""));
    world.run(&["plan"]).with_code(1).complains("add a ForwardMailbox");
}

#[test]
fn the_exit_codes_are_those_of_the_help() {
    let world = World::with(
        "<Configuration>\n<SystemConfiguration><MaxThreads>0</MaxThreads></SystemConfiguration></Configuration>",
    );
    world.run(&["plan"]).with_code(3).complains("EmailAgent.xml:2:22: error: MaxThreads is 0");
    world.run(&["plan", "--config", "nowhere.xml"]).with_code(3).complains("nowhere.xml");
    world.run(&[]).with_code(2);
    world.run(&["plan", "--condition", "sometimes"]).with_code(2).complains("to-or-cc-me");
    for name in ["", "two\nlines", "a\u{1b}[2J"] {
        let ran =
            world.run(&["plan", "--name", name]).with_code(2).complains("1 to 200 characters on one line");
        assert!(!ran.err.contains('\u{1b}'), "{:?}", ran.err);
    }
    // what changes nothing has no such switch
    for words in [["plan", "--yes"], ["verify", "--yes"], ["remove", "--condition"]] {
        world.run(&words).with_code(2);
    }
    let help = world.run(&["--help"]).with_code(0).says("Nothing is changed without --yes");
    help.says("3 the configuration has errors; 4 at least one mailbox is not as wanted, or failed");
    world.run(&["--version"]).with_code(0).says("email-router-rule-deploy ");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stops_reading_is_no_error() {
    let server = exchange_server().await;
    let world = World::usual(&exchange("exchange", &server)).await;
    for words in [&["plan"][..], &["plan", "--json"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = world.command(words).stdout(writer).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), said.as_ref()), (Some(0), ""), "{words:?}");
    }
}
