//! `credential`: passwords of mailboxes that have none in the configuration.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::support::World;

const PASSWORD: &str = "Zq7-unmistakable-Password-42";
const STORE: &str = "email-router-credentials.xml";

/// Ann reads by POP3 with a password of her own, which the file does not have; and this in her section.
fn configuration(more: &str) -> String {
    format!(
        r#"<Configuration>
  <ConfigurationProfiles>
    <ConfigurationProfile><Name>in</Name><Direction>Incoming</Direction><ServerType>Pop3</ServerType><AuthenticationType>ClearText</AuthenticationType>
      <EmailServer>127.0.0.1</EmailServer><NetworkPort>1</NetworkPort><AccessCredentials>UserSpecified</AccessCredentials></ConfigurationProfile>
  </ConfigurationProfiles>
  <Deployments><Deployment><Name>crm</Name><Type>Embedded</Type><Path>crm.sqlite</Path><DefaultIncomingProfile>in</DefaultIncomingProfile></Deployment></Deployments>
  <Mailboxes><User><Name>Ann Lee</Name><EmailAddress>ann@example.com</EmailAddress>{more}</User></Mailboxes>
</Configuration>
"#
    )
}

fn unserved(world: &World) -> String {
    world.json(["status"])["unserved"].to_string()
}

/// No file of the folder has the password in clear.
fn nothing_in_clear(world: &World) {
    for name in world.names(".") {
        let path = world.path(&name);
        if path.is_file() {
            #[allow(clippy::disallowed_methods)] // a small file of this test
            let bytes = fs::read(path).unwrap();
            assert!(!bytes.windows(PASSWORD.len()).any(|w| w == PASSWORD.as_bytes()), "{name}");
        }
    }
}

#[test]
fn a_password_is_stored_used_listed_and_removed() {
    let world = World::empty();
    world.write("EmailAgent.xml", configuration(""));
    world.people();
    world.run(["check"]).ok();
    assert!(unserved(&world).contains("email-router credential set ann@example.com"), "{}", unserved(&world));
    world.run(["credential", "list"]).ok().complains("no passwords are stored");

    let ran = world.feed(["credential", "set", "Ann@Example.com"], &format!("{PASSWORD}\n")).ok();
    assert!(!ran.out.contains(PASSWORD) && !ran.err.contains(PASSWORD));
    assert_eq!(unserved(&world), "[]", "it is used, whatever its letter case");
    assert_eq!(world.path(STORE).metadata().unwrap().permissions().mode() & 0o777, 0o600);
    nothing_in_clear(&world);
    let told = world.json(["credential", "list"]);
    assert_eq!(
        told,
        json!([{ "address": "Ann@Example.com", "direction": null, "user_name": null, "problem": null }])
    );

    // one for reading alone counts before it; a second word changes it
    world
        .feed(["credential", "set", "ann@example.com", "--incoming", "--user-name", "CONTOSO\\ann"], PASSWORD)
        .ok();
    world.run(["credential", "list"]).ok().says("incoming mail").says("CONTOSO\\ann").says("used");
    world
        .run(["credential", "remove", "ann@example.com", "--outgoing"])
        .with_code(1)
        .complains("both directions");
    world
        .run(["credential", "remove", "ann@example.com"])
        .ok()
        .says("2 passwords of ann@example.com removed");
    assert!(unserved(&world).contains("credential set"));
    world
        .run(["credential", "remove", "ann@example.com"])
        .with_code(1)
        .complains("has no password of ann@example.com");
    world
        .feed(["credential", "set", "ann@example.com"], "\n")
        .with_code(1)
        .complains("the password is empty");
    world.feed(["credential", "set", "nonsense"], PASSWORD).with_code(2);
}

#[test]
fn the_list_says_what_is_not_used_and_why() {
    let world = World::empty();
    world.write("EmailAgent.xml", configuration("<Password>env:X</Password>"));
    for address in ["ann@example.com", "gone@example.com"] {
        world.feed(["credential", "set", address], PASSWORD).ok();
    }
    let problem = |world: &World, n: usize| -> String {
        let list: Value = world.json(["credential", "list"]);
        list[n]["problem"].as_str().unwrap_or_default().to_owned()
    };
    assert!(problem(&world, 0).contains("that counts"), "{}", problem(&world, 0));
    assert!(problem(&world, 1).contains("no mailbox"), "{}", problem(&world, 1));
    // two entries change places: a password is bound to its address
    let text = world.read(STORE);
    let swapped = text
        .replace("ann@example.com", "someone@example.com")
        .replace("gone@example.com", "ann@example.com")
        .replace("someone@example.com", "gone@example.com");
    world.write(STORE, swapped);
    world.write("EmailAgent.xml", configuration(""));
    world.people();
    assert!(problem(&world, 0).contains(&format!("{STORE}:")), "{}", problem(&world, 0));
    assert!(unserved(&world).contains(STORE));
    // another key
    world.write(STORE, text);
    fs::remove_file(world.path("email-router.key")).unwrap();
    world.feed(["secret", "set"], PASSWORD).ok();
    assert!(problem(&world, 0).contains("key"), "{}", problem(&world, 0));
}

#[test]
fn a_new_key_is_used_for_stored_passwords_too() {
    let world = World::empty();
    world.write("EmailAgent.xml", configuration(""));
    world.people();
    world.feed(["credential", "set", "ann@example.com"], PASSWORD).ok();
    let (key, store) = (world.read("email-router.key"), world.read(STORE));
    world.run(["secret", "rotate"]).ok().says("1 password encrypted with a new key");
    assert!(world.read("email-router.key") != key && world.read(STORE) != store);
    assert_eq!(unserved(&world), "[]");
}

#[test]
fn a_damaged_store_says_where_and_is_not_overwritten() {
    let world = World::empty();
    world.write("EmailAgent.xml", configuration(""));
    world.people();
    let damaged = "<EmailRouterCredentials>\n  <Credential><EmailAddress>ann@example.com";
    world.write(STORE, damaged);
    world
        .feed(["credential", "set", "ann@example.com"], PASSWORD)
        .with_code(1)
        .complains(&format!("{STORE}:2:"))
        .complains("nothing was changed");
    assert_eq!(world.read(STORE), damaged);
    assert!(unserved(&world).contains(STORE), "{}", unserved(&world));
    // of a store that was changed before there is the generation before
    fs::remove_file(world.path(STORE)).unwrap();
    for _ in 0..2 {
        world.feed(["credential", "set", "ann@example.com"], PASSWORD).ok();
    }
    world.write(STORE, damaged);
    assert_eq!(unserved(&world), "[]");
}
