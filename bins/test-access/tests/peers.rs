//! The command `email-router-test-access` against Dovecot and Postfix: every fault is told apart, and nothing is changed on either server.
//!
//! `scripts/with-peers` starts them and sets the environment. Without them each test says SKIPPED; with `REQUIRE_PEERS=1` that is a failure.
// a helper of a test that cannot go on fails the test
#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "../../router/tests/support/peers.rs"]
mod peers;
mod support;

use peers::{
    PASSWORD, Peers, configuration, other_name, peers as servers, pop3, queue, relay, submission, trust,
};
use support::World;

fn world(profiles: &[String], mailboxes: &[String]) -> World {
    let world = World::with(&configuration(profiles, mailboxes));
    world.write("password", PASSWORD);
    world.write("wrong", "not the password");
    world
}

/// What the sink of Postfix holds: the mail that went to other servers.
fn sink() -> usize {
    std::env::var("SMTP_SINK_MAIL")
        .ok()
        .and_then(|folder| std::fs::read_dir(folder).ok())
        .map_or(0, Iterator::count)
}

fn incoming(peers: &Peers) -> World {
    let (pop3s, clear) = (peers.get("DOVECOT_POP3S"), peers.get("DOVECOT_POP3"));
    let allow = "<AllowClearTextWithoutTls>true</AllowClearTextWithoutTls>";
    let ca = trust(peers);
    let profiles = [
        pop3("tls", "localhost", pop3s, "Implicit", &ca),
        pop3("stls", "localhost", clear, "StartTls", &ca),
        pop3("clear", "localhost", clear, "None", allow),
        pop3("refused", "localhost", "1", "Implicit", &ca),
        pop3("unknown", "mail.nowhere.invalid", "995", "Implicit", &ca),
        pop3("name", "127.0.0.2", &other_name(pop3s), "Implicit", &ca),
        pop3("authority", "localhost", pop3s, "Implicit", ""),
        pop3("no tls there", "localhost", clear, "Implicit", &ca),
    ];
    let user = |user: &str, profile: &str, file: &str| queue(user, profile, "None", &format!("file:{file}"));
    let mailboxes = [
        user("u000", "tls", "password"),
        user("u001", "stls", "password"),
        user("u002", "clear", "password"),
        user("u003", "tls", "wrong"),
        user("u004", "refused", "password"),
        user("u005", "unknown", "password"),
        user("u006", "name", "password"),
        user("u007", "authority", "password"),
        user("u008", "no tls there", "password"),
    ];
    world(&profiles, &mailboxes)
}

#[test]
fn every_fault_of_reading_is_told_apart_and_nothing_changes() {
    let Some(peers) = servers() else { return };
    peers.clear("u000");
    peers.deliver("u000", "From: a@example.net\nSubject: waits\n\nHello\n");
    let before = peers.mail("u000");
    let world = incoming(&peers);
    let row = world.rows(&[], 4);
    for (name, messages) in [("u000", 1), ("u001", 0), ("u002", 0)] {
        let found = &row(name)["incoming"];
        assert_eq!(found["status"], "succeeded", "{found:#}");
        if name == "u000" {
            assert_eq!(found["messages"], messages);
        }
        let steps = found["steps"].to_string();
        assert!(
            steps.contains("connected") && steps.contains("logged in") && steps.contains("listed"),
            "{steps}"
        );
        assert_eq!(steps.contains("TLS 1."), name != "u002", "{steps}");
    }
    for (name, fault, words) in [
        ("u003", "authentication", "Authentication failed"),
        ("u004", "refused", "nobody listens"),
        ("u005", "name-resolution", "mail.nowhere.invalid"),
        ("u006", "tls-wrong-name", "127.0.0.2"),
        ("u007", "tls-unknown-issuer", "not trusted"),
        ("u008", "tls", "localhost"),
    ] {
        let found = &row(name)["incoming"];
        assert_eq!((&found["status"], &found["fault"]), (&"failure".into(), &fault.into()), "{found:#}");
        assert!(found["reason"].as_str().unwrap().contains(words), "{found:#}");
        assert!(found["hint"].as_str().unwrap().len() > 20, "{found:#}");
        assert!(!found.to_string().contains("not the password"), "{found:#}");
    }
    assert_eq!(peers.mail("u000"), before);

    let ran = world.run(&[]).with_code(4).says("9 mailboxes, 6 with a failure");
    assert_eq!(ran.out.matches("Incoming Status: Failure - ").count(), 6, "{}", ran.out);
    assert_eq!(ran.out.matches("what to do: ").count(), 6, "{}", ran.out);
    world.run(&["u000@contoso.test", "u001"]).with_code(0).says("2 mailboxes, 0 with a failure");
    assert_eq!(peers.mail("u000"), before);
}

#[test]
fn every_fault_of_sending_is_told_apart_and_nothing_is_sent() {
    let Some(peers) = servers() else { return };
    let (smtp, subm, smtps) =
        (peers.get("POSTFIX_SMTP"), peers.get("POSTFIX_SUBM"), peers.get("POSTFIX_SMTPS"));
    let ca = trust(&peers);
    let profiles = [
        relay("relay", "localhost", smtp, "StartTls", &ca),
        relay("clear", "localhost", smtp, "None", ""),
        submission("submission", "localhost", subm, "StartTls", "file:password", &ca),
        submission("smtps", "localhost", smtps, "Implicit", "file:password", &ca),
        submission("password", "localhost", subm, "StartTls", "file:wrong", &ca),
        relay("refused", "localhost", "1", "StartTls", &ca),
        relay("unknown", "mail.nowhere.invalid", "25", "StartTls", &ca),
        relay("name", "127.0.0.2", &other_name(smtp), "StartTls", &ca),
        relay("authority", "localhost", smtp, "StartTls", ""),
    ];
    let user = |user: &str, profile: &str| queue(user, "None", profile, "");
    let mailboxes = [
        user("u010", "relay"),
        user("u011", "clear"),
        user("u012", "submission"),
        user("u013", "smtps"),
        user("u014", "password"),
        user("u015", "refused"),
        user("u016", "unknown"),
        user("u017", "name"),
        user("u018", "authority"),
        user("refused", "relay"),
    ];
    let world = world(&profiles, &mailboxes);
    let before = (sink(), peers.mail("u010"));
    let row = world.rows(&[], 4);
    for name in ["u010", "u011", "u012", "u013"] {
        let found = &row(name)["outgoing"];
        assert_eq!(found["status"], "succeeded", "{found:#}");
        let steps = found["steps"].to_string();
        assert!(steps.contains(&format!("sender {name}@contoso.test accepted")), "{steps}");
        assert_eq!(steps.contains("TLS 1."), name != "u011", "{steps}");
        assert_eq!(found["warnings"].to_string().contains("in clear"), name == "u011", "{found:#}");
        assert_eq!(steps.contains("logged in"), ["u012", "u013"].contains(&name), "{steps}");
    }
    for (name, fault, words) in [
        ("u014", "authentication", "authentication failed"),
        ("u015", "refused", "nobody listens"),
        ("u016", "name-resolution", "mail.nowhere.invalid"),
        ("u017", "tls-wrong-name", "127.0.0.2"),
        ("u018", "tls-unknown-issuer", "not trusted"),
        ("refused", "sender-refused", "sender refused"),
    ] {
        let found = &row(name)["outgoing"];
        assert_eq!((&found["status"], &found["fault"]), (&"failure".into(), &fault.into()), "{found:#}");
        assert!(found["reason"].as_str().unwrap().contains(words), "{found:#}");
        assert!(found["hint"].as_str().unwrap().len() > 20, "{found:#}");
    }
    assert!(row("refused")["outgoing"]["reason"].as_str().unwrap().contains("550"));
    let ran = world.run(&["--direction", "outgoing"]).with_code(4).says("10 mailboxes, 6 with a failure");
    assert!(
        ran.out.contains("Outgoing Status: Failure - ")
            && ran.out.contains("allowed to send as this address"),
        "{}",
        ran.out
    );
    assert_eq!((sink(), peers.mail("u010")), before);
}

#[test]
fn a_password_in_clear_is_not_even_tried() {
    let Some(peers) = servers() else { return };
    // the configuration refuses it without the explicit word
    let profile = pop3("clear", "localhost", peers.get("DOVECOT_POP3"), "None", "");
    let world = world(&[profile], &[queue("u009", "clear", "None", "file:password")]);
    world.run(&[]).with_code(3).complains("AllowClearTextWithoutTls");
}
