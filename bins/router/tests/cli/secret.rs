//! `secret`, and that no output, log or file ever has a password.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;

use crate::support::{World, maildir_config};

const PASSWORD: &str = "Zq7-unmistakable-Password-41";

/// One POP3 and one SMTP account with this reference, on ports where nobody listens.
fn accounts(reference: &str, other: &str) -> String {
    format!(
        r#"<Configuration>
  <SystemConfiguration><LogLevel>3</LogLevel><LogFile>router.log</LogFile></SystemConfiguration>
  <ConfigurationProfiles>
    <ConfigurationProfile><Name>in</Name><Direction>Incoming</Direction><ServerType>Pop3</ServerType><AuthenticationType>ClearText</AuthenticationType>
      <EmailServer>127.0.0.1</EmailServer><NetworkPort>1</NetworkPort><AccessCredentials>UserSpecified</AccessCredentials></ConfigurationProfile>
    <ConfigurationProfile><Name>out</Name><Direction>Outgoing</Direction><ServerType>Smtp</ServerType><AuthenticationType>ClearText</AuthenticationType>
      <EmailServer>127.0.0.1</EmailServer><NetworkPort>1</NetworkPort><AccessCredentials>OtherSpecified</AccessCredentials>
      <UserName>router</UserName><Password>{other}</Password></ConfigurationProfile>
  </ConfigurationProfiles>
  <Deployments><Deployment><Name>crm</Name><Type>Embedded</Type><Path>crm.sqlite</Path>
    <DefaultIncomingProfile>in</DefaultIncomingProfile><DefaultOutgoingProfile>out</DefaultOutgoingProfile></Deployment></Deployments>
  <Mailboxes><User><Name>Ann Lee</Name><EmailAddress>ann@example.com</EmailAddress><Password>{reference}</Password></User></Mailboxes>
</Configuration>
"#
    )
}

/// Fails when a file in this folder has the password; returns how many files were looked at.
fn search(folder: &Path, allowed: &[&str]) -> usize {
    let mut seen = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            seen += search(&path, allowed);
            continue;
        }
        if allowed.iter().any(|name| path.ends_with(name)) {
            continue;
        }
        #[allow(clippy::disallowed_methods)] // a small file of this test
        let bytes = fs::read(&path).unwrap();
        assert!(!has_password(&bytes), "{} has the password", path.display());
        seen += 1;
    }
    seen
}

fn has_password(bytes: &[u8]) -> bool {
    bytes.windows(PASSWORD.len()).any(|w| w == PASSWORD.as_bytes())
}

#[test]
fn set_makes_an_owner_only_key_and_prints_ciphertext_that_works() {
    // a first password, before there is a configuration
    let world = World::empty();
    let ran = world.feed(["secret", "set"], &format!("{PASSWORD}\n")).ok();
    let sealed = ran.out.trim().to_owned();
    assert!(sealed.starts_with("aead:1:") && !sealed.contains(char::is_whitespace), "{sealed}");
    assert!(!has_password(ran.out.as_bytes()) && !has_password(ran.err.as_bytes()));
    assert_eq!(world.path("email-router.key").metadata().unwrap().permissions().mode() & 0o777, 0o600);

    // the same password is never the same ciphertext
    let again = world.feed(["secret", "set"], PASSWORD).ok();
    assert_ne!(again.out.trim(), sealed);

    let told: Value =
        serde_json::from_str(&world.feed(["--json", "secret", "set"], PASSWORD).ok().out).unwrap();
    assert!(told["key_source"].as_str().unwrap().contains("email-router.key"), "{told}");
    let third = told["encrypted"].as_str().unwrap();

    world.write("EmailAgent.xml", accounts(third, again.out.trim()));
    world.run(["check"]).ok();
    world.people();
    world.run(["status"]);
    let unserved = world.json(["status"])["unserved"].to_string();
    assert_eq!(unserved, "[]");
}

#[test]
fn rotate_encrypts_everything_anew_and_the_passwords_stay_usable() {
    let world = World::empty();
    let sealed = world.feed(["secret", "set"], PASSWORD).ok().out.trim().to_owned();
    world.write("EmailAgent.xml", accounts(&sealed, &sealed));
    world.people();
    let key = world.read("email-router.key");
    let ran = world.run(["secret", "rotate"]).ok().says("2 passwords encrypted with a new key");
    assert!(!has_password(ran.out.as_bytes()));
    assert_ne!(world.read("email-router.key"), key);
    assert!(!world.read("EmailAgent.xml").contains(&sealed));
    assert_eq!(world.path("email-router.key").metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(world.json(["secret", "rotate"]), serde_json::json!({"encrypted_anew": 2}));
    assert_eq!(world.json(["status"])["unserved"].to_string(), "[]");
    search(&world.path(""), &[]);
}

#[test]
fn the_key_file_is_the_configurations_whatever_else_is_wrong_with_it() {
    let world = World::empty();
    let named = |text: &str| {
        text.replace(
            "</Configuration>",
            "<Router><SecretKeyFile>own.key</SecretKeyFile></Router></Configuration>",
        )
    };
    // the password is not there yet, which is an error of the configuration
    world.write("EmailAgent.xml", named(&accounts("env:X", "")));
    world.run(["check"]).with_code(3);
    let sealed = world.feed(["secret", "set"], PASSWORD).ok().complains("own.key").out.trim().to_owned();
    assert_eq!(world.names("."), ["EmailAgent.xml", "own.key"]);
    let whole = named(&accounts(&sealed, &sealed));
    world.write("EmailAgent.xml", &whole);
    world.people();
    assert_eq!(world.json(["status"])["unserved"].to_string(), "[]");

    // damaged: the previous generation says it; without one nobody knows, and no second key is made
    world.feed(["publish", "-"], &whole).ok();
    world.write("EmailAgent.xml", "<Configuration><Router>");
    world.feed(["secret", "set"], PASSWORD).ok().complains("own.key");
    fs::remove_file(world.path("EmailAgent.xml.previous")).unwrap();
    for command in [["secret", "set"], ["secret", "rotate"]] {
        world
            .feed(command, PASSWORD)
            .with_code(1)
            .complains("EmailAgent.xml:1:24")
            .complains("which key file is used");
    }
    assert!(!world.path("email-router.key").exists());
    for (router, message) in [
        ("<SecretKeyFile>a</SecretKeyFile><SecretKeyFile>b</SecretKeyFile>", "more than once"),
        ("<SecretKeyFile>C:\\a.key</SecretKeyFile>", "Windows path"),
    ] {
        world.write("EmailAgent.xml", format!("<Configuration><Router>{router}</Router></Configuration>"));
        world.feed(["secret", "set"], PASSWORD).with_code(1).complains(message);
    }
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let world = World::empty();
    let sealed = world.feed(["secret", "set"], PASSWORD).ok().out.trim().to_owned();
    world.write("EmailAgent.xml", accounts(&sealed, &sealed));
    world.people();
    fs::set_permissions(world.path("email-router.key"), fs::Permissions::from_mode(0o644)).unwrap();
    world.feed(["secret", "set"], PASSWORD).with_code(1).complains("email-router.key").complains("600");
    world.run(["status"]).with_code(4).says("NOT SERVED").says("email-router.key");
    world.run(["secret", "rotate"]).with_code(1).complains("email-router.key");
    assert!(world.read("EmailAgent.xml").contains(&sealed));
}

#[test]
fn nonsense_is_refused() {
    let world = World::with(&maildir_config("", ""));
    world.feed(["secret", "set"], "").with_code(1).complains("the password is empty");
    world.feed(["secret", "set"], "\n").with_code(1).complains("the password is empty");
    world.write("EmailAgent.xml", accounts(PASSWORD, "env:NOT_SET"));
    let ran = world.run(["check"]).with_code(3);
    assert!(!has_password(ran.out.as_bytes()) && ran.out.contains("Password"), "{}", ran.out);
}

#[test]
fn no_output_log_or_file_ever_has_a_password() {
    let world = World::empty();
    world.write("EmailAgent.xml", accounts("file:password.txt", "env:ROUTER_PASSWORD"));
    world.write("password.txt", PASSWORD);
    world.people();
    world.run(["crm", "send", "--from", "ann@example.com", "--to", "tom@example.net", "--subject", "x"]).ok();
    let mut printed = 0;
    for log in [None, Some("0"), Some("1"), Some("2"), Some("3"), Some("trace")] {
        for words in [
            &["run", "--once", "--verbose"][..],
            &["--log-format", "json", "run", "--once"],
            &["status"],
            &["check"],
        ] {
            let mut command = world.command(words);
            match log {
                Some("trace") => drop(command.args(["--log", "trace"])),
                Some(level) => {
                    let text = accounts("file:password.txt", "env:ROUTER_PASSWORD");
                    let from = "<LogLevel>3</LogLevel>";
                    world.write(
                        "EmailAgent.xml",
                        text.replace(from, &format!("<LogLevel>{level}</LogLevel>")),
                    );
                }
                None => {}
            }
            let output = command.env("ROUTER_PASSWORD", PASSWORD).output().unwrap();
            assert!(!has_password(&output.stdout), "{log:?} {words:?}");
            assert!(!has_password(&output.stderr), "{log:?} {words:?}");
            printed += output.stdout.len() + output.stderr.len();
        }
    }
    // there was something to search in
    assert!(printed > 10_000, "{printed} bytes were printed");
    assert!(world.read("router.log").len() > 1000);
    assert!(search(&world.path(""), &["password.txt"]) >= 4);
    assert_eq!(world.path("router.log").metadata().unwrap().permissions().mode() & 0o777, 0o600);
}
