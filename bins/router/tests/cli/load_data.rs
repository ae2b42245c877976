//! `load-data`: users and queues, how each is served, what changed, and their mailboxes in the configuration.

use std::fs;

use serde_json::{Value, json};

use crate::support::{World, maildir_config};

/// Two organizations: the first knows one queue by hand, with a comment and something of somebody else's; the second none.
const CONFIG: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<Configuration>
  <SystemConfiguration><SchedulingPeriod>50</SchedulingPeriod><ConfigRefreshPeriod>100</ConfigRefreshPeriod><ConfigUpdatePeriod>1000</ConfigUpdatePeriod></SystemConfiguration>
  <ConfigurationProfiles>
    <ConfigurationProfile><Name>in</Name><Direction>Incoming</Direction><ServerType>Maildir</ServerType><Path>mail/{address}</Path></ConfigurationProfile>
    <ConfigurationProfile><Name>out</Name><Direction>Outgoing</Direction><ServerType>Maildir</ServerType><Path>out</Path></ConfigurationProfile>
    <ConfigurationProfile><Name>other</Name><Direction>Outgoing</Direction><ServerType>Maildir</ServerType><Path>other</Path></ConfigurationProfile>
  </ConfigurationProfiles>
  <Deployments>
    <Deployment><Name>crm</Name><Type>Embedded</Type><Path>crm.sqlite</Path>
      <DefaultIncomingProfile>in</DefaultIncomingProfile><DefaultOutgoingProfile>out</DefaultOutgoingProfile></Deployment>
    <Deployment><Name>second</Name><Type>Embedded</Type><Path>second.sqlite</Path><DefaultIncomingProfile>in</DefaultIncomingProfile></Deployment>
  </Deployments>
  <Mailboxes>
    <!-- the front desk -->
    <Queue><Name>Desk</Name><EmailAddress>support@example.com</EmailAddress><Deployment>crm</Deployment><OutgoingProfile>None</OutgoingProfile><Odd/></Queue>
  </Mailboxes>
</Configuration>
"#;

/// [`CONFIG`] with Ann, Support and Tom in the first organization, and both there.
fn two() -> World {
    let world = World::with(CONFIG);
    add(
        &world,
        "crm",
        "systemuser",
        "Ann Lee",
        "ann@example.com",
        &["incomingemaildeliverymethod=2", "outgoingemaildeliverymethod=2"],
    );
    add(&world, "crm", "queue", "Support", "support@example.com", &["incomingemaildeliverymethod=2"]);
    add(&world, "second", "queue", "Sales", "sales@second.example", &["incomingemaildeliverymethod=2"]);
    world
}

/// Without more it receives and sends by nobody.
fn add(world: &World, deployment: &str, table: &str, name: &str, address: &str, more: &[&str]) {
    let (named, at) = match table {
        "systemuser" => (format!("fullname={name}"), format!("internalemailaddress={address}")),
        _ => (format!("name={name}"), format!("emailaddress={address}")),
    };
    let words = ["crm", "--deployment", deployment, "add", table, &named, &at];
    let methods = ["incomingemaildeliverymethod", "outgoingemaildeliverymethod"];
    let none: Vec<String> = methods
        .iter()
        .filter(|m| !more.iter().any(|w| w.starts_with(**m)))
        .map(|m| format!("{m}=0"))
        .collect();
    let none = none.iter().map(String::as_str);
    world.run(words.into_iter().chain(more.iter().copied()).chain(none)).ok();
}

fn sql(world: &World, file: &str, statement: &str) {
    rusqlite::Connection::open(world.path(file)).unwrap().execute_batch(statement).unwrap();
}

/// The row with this address.
fn row<'a>(report: &'a Value, deployment: usize, address: &str) -> &'a Value {
    let rows = report["deployments"][deployment]["rows"].as_array().unwrap();
    rows.iter().find(|r| r["address"] == address).unwrap_or_else(|| panic!("no {address} in {report:#}"))
}

#[test]
fn each_row_says_which_profiles_serve_it_and_why_one_is_not_served() {
    let world = World::maildir();
    let out = &["outgoingemaildeliverymethod=1", "incomingemaildeliverymethod=1"];
    add(&world, "crm", "systemuser", "Olga Outlook", "olga@example.com", out);
    let both = &["incomingemaildeliverymethod=2", "outgoingemaildeliverymethod=2"];
    add(
        &world,
        "crm",
        "systemuser",
        "Ben Pending",
        "ben@example.com",
        &[both[0], both[1], "emailrouteraccessapproval=2"],
    );
    add(&world, "crm", "queue", "New", "new@example.com", &[both[0], "emailrouteraccessapproval=1"]);
    add(&world, "crm", "queue", "Twin", "ANN@example.com", both);
    add(&world, "crm", "queue", "Far", "far@example.com", &["incomingemaildeliverymethod=3"]);
    world.run(["crm", "add", "queue", "name=Nowhere", both[0], both[1]]).ok();
    world.run(["crm", "settings", "requireapprovalforuseremail=true"]).ok();
    let ran = world.run(["load-data"]).with_code(4);
    for text in [
        "crm (Embedded): 3 users, 5 queues, 0 forward mailboxes: 2 served, 5 needing attention, 1 not meant for the router",
        "Kind",
        "first load",
        "its address is not approved in the CRM (emailrouteraccessapproval is Pending Approval)",
        "it has no valid e-mail address in the CRM; correct emailaddress there",
        "the configuration does not list it",
        "has the address of the user Ann Lee, which is served",
        "no forward mailbox of this deployment is read",
        "email-router load-data --publish",
    ] {
        assert!(
            ran.out.split_whitespace().collect::<Vec<_>>().join(" ").contains(text),
            "no {text:?} in\n{}",
            ran.out
        );
    }
    assert!(!ran.out.contains("Olga"), "{}", ran.out);
    assert!(ran.out.lines().all(|line| line.chars().count() <= 120), "{}", ran.out);
    let ann = ran.out.lines().find(|l| l.contains("ann@example.com")).unwrap();
    let words: Vec<&str> = ann.split_whitespace().collect();
    assert_eq!(
        words,
        ["user", "Ann", "Lee", "ann@example.com", "Router:", "in", "Router:", "out", "yes", "all"]
    );
    world
        .run(["load-data", "--all", "--kind", "user", "olga"])
        .ok()
        .says("Olga Outlook")
        .says("off: the CRM does not use the router for it: it receives by Outlook and sends by Outlook");
    // the exit code is about what was asked for
    world.run(["load-data", "Ann Lee"]).ok().says("1 user, 0 queues");
    world
        .run(["load-data", "nobody"])
        .with_code(1)
        .complains("no user, queue or forward mailbox has a name or address with nobody");
    let report = world.json(["load-data", "--all"]);
    let shown = |address: &str| {
        let r = row(&report, 0, address);
        json!([
            r["kind"],
            r["state"],
            r["listed"],
            r["incoming_profile"],
            r["outgoing_profile"],
            r["incoming"],
            r["approval"]
        ])
    };
    assert_eq!(
        shown("ann@example.com"),
        json!(["user", "served", "by_hand", "in", "out", "email_router", "approved"])
    );
    assert_eq!(
        shown("new@example.com"),
        json!(["queue", "needs_attention", "no", "in", null, "email_router", "approved"])
    );
    assert_eq!(shown("olga@example.com"), json!(["user", "off", "no", null, null, "outlook", "approved"]));
}

#[test]
fn what_changed_since_the_last_load_is_told_field_by_field() {
    let world = World::maildir();
    world.run(["load-data"]).ok().says("first load");
    world.run(["load-data"]).ok().says("nothing changed since the load of");
    add(&world, "crm", "systemuser", "Ben Roe", "ben@example.com", &["incomingemaildeliverymethod=1"]);
    world
        .run(["crm", "set", "queue", "support@example.com", "name=Help", "incomingemailfilteringmethod=4"])
        .ok();
    let ran = world.run(["load-data", "--changed"]).ok();
    let ran = ran
        .says("+ user Ben Roe <ben@example.com> is new")
        .says("~ queue Help <support@example.com>: name from Support to Help, filter from all to none");
    assert!(!ran.out.contains("Ann"), "{}", ran.out);
    world.run(["crm", "delete", "systemuser", "ben@example.com"]).ok();
    let report = world.json(["load-data"]);
    let change = &report["deployments"][0]["changes"][0];
    assert_eq!((&change["change"], &change["address"]), (&"gone".into(), &"ben@example.com".into()));
    // what cannot be read is written anew, and said
    world.write("email-router-state.db.loaded", "{half");
    world.run(["load-data"]).ok().says("first load").complains("cannot be read");
    world.run(["load-data"]).ok().says("nothing changed");
}

#[test]
fn publishing_adds_follows_and_removes_its_own_and_touches_nothing_else() {
    let world = two();
    world.run(["load-data"]).with_code(4);
    let ran = world.run(["load-data", "--publish"]).ok();
    ran.says("published: 2 added, 0 changed, 0 removed").says("+ user Ann Lee <ann@example.com> of crm");
    let first = world.read("EmailAgent.xml");
    for kept in ["<!-- the front desk -->", "<Queue><Name>Desk</Name>", "<Odd/>"] {
        assert!(first.contains(kept), "{first}");
    }
    assert_eq!(first.matches("<LoadedRecord>").count(), 2, "{first}");
    // nothing but the two is new
    let rest: String =
        first.lines().filter(|l| CONFIG.lines().any(|c| c == *l)).fold(String::new(), |a, l| a + l + "\n");
    assert_eq!(rest, CONFIG);
    let sales = "<Deployment>second</Deployment>\n      <IncomingProfile>in</IncomingProfile>\n      <OutgoingProfile>None</OutgoingProfile>";
    assert!(first.contains(sales), "{first}");
    world.run(["check"]).ok().says("3 mailboxes");

    fs::remove_file(world.path("EmailAgent.xml.previous")).unwrap();
    world.run(["load-data", "--publish"]).ok().says("published nothing");
    assert_eq!(world.read("EmailAgent.xml"), first);
    assert!(!world.path("EmailAgent.xml.previous").exists());

    // the CRM changes; a profile that somebody chose stays
    world.write("EmailAgent.xml", first.replace("<OutgoingProfile>out<", "<OutgoingProfile>other<"));
    let ann = ["fullname=Ann Roe", "internalemailaddress=roe@example.com", "incomingemaildeliverymethod=0"];
    world.run(["crm", "--deployment", "crm", "set", "systemuser", "ann@example.com"].iter().chain(&ann)).ok();
    world.run(["crm", "--deployment", "second", "delete", "queue", "sales@second.example"]).ok();
    world.run(["crm", "--deployment", "crm", "delete", "queue", "support@example.com"]).ok();
    world
        .run(["load-data", "--publish"])
        .with_code(4)
        .says("published: 0 added, 1 changed, 1 removed")
        .says("IncomingProfile from in to None")
        .says("has no queue with the address");
    let now = world.read("EmailAgent.xml");
    for there in [
        "<Name>Ann Roe<",
        "<EmailAddress>roe@example.com<",
        "<IncomingProfile>None<",
        "<OutgoingProfile>other<",
        "<Queue><Name>Desk</Name>",
    ] {
        assert!(now.contains(there), "no {there} in\n{now}");
    }
    assert!(!now.contains("sales@second.example"), "{now}");
    // and back
    world
        .run([
            "crm",
            "--deployment",
            "crm",
            "set",
            "systemuser",
            "roe@example.com",
            "incomingemaildeliverymethod=2",
        ])
        .ok();
    world.run(["load-data", "--publish"]).with_code(4).says("IncomingProfile from None to in");
    // without the mark it is somebody's own
    let own = world.read("EmailAgent.xml");
    let (start, end) =
        (own.find("<LoadedRecord>").unwrap(), own.find("</LoadedRecord>").unwrap() + "</LoadedRecord>".len());
    let own = format!("{}{}", &own[..start], &own[end..]);
    world.write("EmailAgent.xml", &own);
    world.run(["crm", "--deployment", "crm", "delete", "systemuser", "roe@example.com"]).ok();
    world.run(["load-data", "--publish"]).with_code(4).says("published nothing");
    assert_eq!(world.read("EmailAgent.xml"), own);
}

#[test]
fn a_record_made_anew_under_the_same_address_takes_over_its_mailbox() {
    let world = two();
    world.run(["load-data", "--publish"]).ok();
    world.run(["crm", "--deployment", "second", "delete", "queue", "sales@second.example"]).ok();
    add(
        &world,
        "second",
        "systemuser",
        "Sam Sales",
        "sales@second.example",
        &["incomingemaildeliverymethod=2"],
    );
    world.run(["load-data", "--publish"]).ok().says("published: 1 added, 0 changed, 1 removed");
    world.run(["load-data", "--publish"]).ok().says("published nothing");
    world.run(["check"]).ok().says("3 mailboxes");
}

#[test]
fn what_would_be_faulty_is_not_published() {
    let world = two();
    let broken = CONFIG.replace("<ConfigUpdatePeriod>1000<", "<ConfigUpdatePeriod>0<");
    world.write("EmailAgent.xml", &broken);
    world.run(["load-data", "--publish"]).with_code(3).complains("ConfigUpdatePeriod");
    assert_eq!(world.read("EmailAgent.xml"), broken);
    // its address went to one of the file: the row says so, the file stays without fault
    world.write("EmailAgent.xml", CONFIG);
    world.run(["load-data", "--publish"]).ok();
    let good = world.read("EmailAgent.xml");
    sql(
        &world,
        "crm.sqlite",
        "UPDATE systemuser SET internalemailaddress = 'support@example.com' WHERE fullname = 'Ann Lee'",
    );
    world.run(["load-data", "--publish"]).with_code(3).complains("support@example.com").complains("already");
    assert_eq!(world.read("EmailAgent.xml"), good);
}

#[test]
fn a_deployment_that_fails_keeps_no_other_from_being_loaded() {
    let world = two();
    world.run(["load-data", "--publish"]).ok();
    let published = world.read("EmailAgent.xml");
    fs::rename(world.path("second.sqlite"), world.path("away.sqlite")).unwrap();
    let ran = world.run(["load-data", "--publish"]).with_code(4);
    ran.says("second (Embedded): NOT LOADED")
        .says("second.sqlite is not there")
        .says("Ann Lee")
        .says("published nothing");
    assert_eq!(world.read("EmailAgent.xml"), published);
    world.run(["load-data", "--deployment", "CRM"]).ok();
    world
        .run(["load-data", "--deployment", "third"])
        .with_code(1)
        .complains("the configuration has: crm, second");
    // its last load is still known
    fs::rename(world.path("away.sqlite"), world.path("second.sqlite")).unwrap();
    let report = world.json(["load-data"]);
    assert_eq!(report["deployments"][1]["changes"], json!([]));
    assert!(report["deployments"][1]["last_load"].is_string(), "{report:#}");
}

#[test]
fn hostile_names_move_no_cursor_and_break_no_file() {
    let world = two();
    let long = "x".repeat(10_000);
    let name = format!("]]></Name><Password>x</Password>\u{1b}[2J\u{202e}\r\n\u{ffff}{long}");
    sql(&world, "crm.sqlite", &format!("UPDATE systemuser SET fullname = '{name}'"));
    sql(&world, "second.sqlite", "UPDATE queue SET name = char(9, 10)");
    let ran = world.run(["load-data", "--publish"]).ok();
    assert!(
        ran.out.lines().all(|line| !line.chars().any(|c| c.is_control() || c == '\u{202e}')),
        "{}",
        ran.out
    );
    assert!(ran.out.len() < 4000, "{}", ran.out.len());
    let file = world.read("EmailAgent.xml");
    assert!(file.contains("<Name>]]&gt;&lt;/Name&gt;&lt;Password&gt;x&lt;/Password&gt; [2J xxx"), "{file}");
    assert!(file.contains("<Name>sales@second.example</Name>"), "{file}");
    world.run(["check"]).ok().says("3 mailboxes");
    world.run(["load-data", "--publish"]).ok().says("published nothing");
    let report = world.json(["load-data"]);
    assert_eq!(row(&report, 0, "ann@example.com")["name"], name.as_str());
}

#[test]
fn the_service_follows_the_crm_and_goes_on_while_it_fails() {
    let config = maildir_config("<ConfigUpdatePeriod>1000</ConfigUpdatePeriod>", "");
    let world = World::with(
        &config.replace("<Path>crm.sqlite", "<LoadMailboxes>true</LoadMailboxes><Path>crm.sqlite"),
    );
    world.people();
    let running = world.start(["--log", "info"]);
    let logged = |text: &str| {
        let text = text.to_owned();
        world.until(&text.clone(), || world.read("err.txt").contains(&text));
    };
    logged("routing mailboxes=");
    add(&world, "crm", "queue", "Sales", "sales@example.com", &["incomingemaildeliverymethod=2"]);
    logged("loaded from the CRM: queue Sales <sales@example.com> is new");
    // one organization that cannot be asked keeps what it knew
    sql(&world, "crm.sqlite", "ALTER TABLE mailbox RENAME TO away");
    logged("those known stay served");
    sql(&world, "crm.sqlite", "ALTER TABLE away RENAME TO mailbox");
    world.run(["crm", "set", "queue", "sales@example.com", "incomingemailfilteringmethod=4"]).ok();
    logged("loaded from the CRM: queue Sales <sales@example.com>: filter from all to none");
    assert_eq!(running.stop(), Some(0));
    assert!(!world.read("err.txt").contains("is gone"), "{}", world.read("err.txt"));
}
