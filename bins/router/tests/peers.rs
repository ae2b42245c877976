//! The command `email-router` between real servers: Dovecot (POP3), Postfix (SMTP) and the embedded CRM.
//!
//! `scripts/with-peers` starts them and sets the environment. Without them each test says SKIPPED; with `REQUIRE_PEERS=1` that is a failure.
// a helper of a test that cannot go on fails the test
#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "support/peers.rs"]
mod peers;
mod support;

use std::process::Command;

use peers::{
    PASSWORD, Peers, configuration, other_name, peers as servers, pop3, queue, relay, submission, trust,
};
use serde_json::Value;
use support::{World, eventually, mail};

/// A world with this configuration, whose queues are in the CRM.
fn world(profiles: &[String], mailboxes: &[String], queues: &[&str]) -> World {
    let world = World::with(&configuration(profiles, mailboxes));
    world.write("password", PASSWORD);
    world.write("wrong", "not the password");
    for user in queues {
        let (name, address) = (format!("name={user}"), format!("emailaddress={user}@contoso.test"));
        world
            .run([
                "crm",
                "add",
                "queue",
                &name,
                &address,
                "incomingemailfilteringmethod=0",
                "incomingemaildeliverymethod=2",
                "outgoingemaildeliverymethod=2",
                "emailrouteraccessapproval=1",
            ])
            .ok();
    }
    world.run(["crm", "settings", "allowunresolvedpartiesonemailsend=true"]).ok();
    world
}

fn letter(n: usize, user: &str) -> String {
    mail("customer@example.net", &format!("{user}@contoso.test"), &format!("letter {n} to {user}"))
        + ".a line with a dot\n..two\n"
}

#[test]
fn mail_goes_from_pop3_into_the_crm_and_leaves_the_server() {
    let Some(peers) = servers() else { return };
    for (user, port, tls) in [("u005", "DOVECOT_POP3S", "Implicit"), ("u006", "DOVECOT_POP3", "StartTls")] {
        let more = trust(&peers) + "<DeleteEmails>true</DeleteEmails>";
        let profile = pop3("in", "localhost", peers.get(port), tls, &more);
        let world = world(&[profile], &[queue(user, "in", "None", "file:password")], &[user]);
        peers.clear(user);
        (0..3).for_each(|n| peers.deliver(user, &letter(n, user)));
        world.run(["run", "--once"]).ok().says("3 in the mailboxes, 3 processed: 3 delivered");
        assert_eq!(peers.mail(user).len(), 0, "{tls}");
        let rows = world.json(["crm", "list", "email"]);
        assert_eq!(rows.as_array().unwrap().len(), 3);
        let shown = world.json(["crm", "show", "email", rows[0]["activity_id"].as_str().unwrap()]);
        let body = shown["body"].as_str().unwrap().replace("\r\n", "\n");
        assert_eq!(body, "Hello\n.a line with a dot\n..two\n");
        world.run(["run", "--once"]).ok().says("0 processed");
    }
}

#[test]
fn mail_that_stays_on_the_server_is_routed_once() {
    let Some(peers) = servers() else { return };
    let profile = pop3("in", "localhost", peers.get("DOVECOT_POP3S"), "Implicit", &trust(&peers));
    let world = world(&[profile], &[queue("u007", "in", "None", "file:password")], &["u007"]);
    peers.clear("u007");
    peers.deliver("u007", &letter(1, "u007"));
    world.run(["run", "--once"]).ok().says("1 delivered");
    peers.deliver("u007", &letter(2, "u007"));
    world.run(["run", "--once"]).ok().says("2 in the mailboxes, 1 processed: 1 delivered");
    assert_eq!(peers.mail("u007").len(), 2);
    assert_eq!(world.json(["crm", "stats"])["incoming"]["received"], 2);
}

#[test]
fn a_wrong_password_stops_its_own_mailbox_only() {
    let Some(peers) = servers() else { return };
    let profile = pop3("in", "localhost", peers.get("DOVECOT_POP3S"), "Implicit", &trust(&peers));
    let mailboxes = [queue("u008", "in", "None", "file:wrong"), queue("u009", "in", "None", "file:password")];
    let world = world(&[profile], &mailboxes, &["u008", "u009"]);
    peers.clear("u009");
    peers.deliver("u009", &letter(1, "u009"));
    let ran =
        world.run(["run", "--once"]).with_code(4).says("1 delivered").says("failed: crm/u008@contoso.test: ");
    assert!(ran.out.contains("Authentication failed") && !ran.out.contains("u009@contoso.test: "), "{ran:?}");
    assert!(!format!("{ran:?}").contains("not the password"), "{ran:?}");
    let ran = world.run(["status"]).with_code(4);
    assert_eq!(ran.out.matches("FAILED 1 times").count(), 1, "{}", ran.out);
}

#[test]
fn servers_that_cannot_be_trusted_or_reached_are_named_and_the_rest_goes_on() {
    let Some(peers) = servers() else { return };
    let port = peers.get("DOVECOT_POP3S");
    let profiles = [
        pop3("good", "localhost", port, "Implicit", &trust(&peers)),
        pop3("unknown authority", "localhost", port, "Implicit", ""),
        pop3("wrong name", "127.0.0.2", &other_name(port), "Implicit", &trust(&peers)),
        pop3("nobody there", "localhost", "1", "Implicit", &trust(&peers)),
        pop3("no such host", "mail.nowhere.invalid", "995", "Implicit", &trust(&peers)),
    ];
    let mailboxes = [
        queue("u010", "good", "None", "file:password"),
        queue("u011", "unknown authority", "None", "file:password"),
        queue("u012", "wrong name", "None", "file:password"),
        queue("u013", "nobody there", "None", "file:password"),
        queue("u014", "no such host", "None", "file:password"),
    ];
    let world = world(&profiles, &mailboxes, &["u010", "u011", "u012", "u013", "u014"]);
    peers.clear("u010");
    peers.deliver("u010", &letter(1, "u010"));
    let report = world.json(["run", "--once"]);
    assert_eq!(
        (&report["delivered"], report["failures"].as_array().unwrap().len()),
        (&1.into(), 4),
        "{report:#}"
    );
    let said = |user: &str| {
        let failures = report["failures"].as_array().unwrap();
        let failure = failures.iter().find(|f| f[0].as_str().unwrap().contains(user));
        failure.unwrap_or_else(|| panic!("{user}: {report:#}"))[1].as_str().unwrap().to_owned()
    };
    for (user, words) in [
        ("u011", &["localhost", "certificate", "authority"][..]),
        ("u012", &["127.0.0.2", "certificate"]),
        ("u013", &["refused the connection"]),
        ("u014", &["mail.nowhere.invalid"]),
    ] {
        for word in words {
            assert!(said(user).contains(word), "no {word:?} in {:?}", said(user));
        }
    }
}

/// Sends one e-mail; gives its id.
fn send(world: &World, from: &str, to: &[&str], subject: &str) -> String {
    let from = format!("{from}@contoso.test");
    let mut words = vec!["crm", "send", "--from", &from, "--subject", subject, "--body", "Hello"];
    for address in to {
        words.extend(["--to", address]);
    }
    world.json(words)["activity_id"].as_str().unwrap().to_owned()
}

fn email(world: &World, id: &str) -> Value {
    world.json(["crm", "show", "email", id])
}

#[test]
fn what_postfix_says_becomes_the_status_of_the_mail() {
    let Some(peers) = servers() else { return };
    let profile = relay("out", "localhost", peers.get("POSTFIX_SMTP"), "StartTls", &trust(&peers));
    let world = world(
        &[profile],
        &[queue("u000", "None", "out", ""), queue("refused", "None", "out", "")],
        &["u000", "refused"],
    );
    let one = format!("one{}@example.com", std::process::id());
    let grey = format!("grey@host{}.example.com", std::process::id());
    let sent = send(&world, "u000", &[&one], "goes out");
    let gone = send(&world, "u000", &["permfail@example.com"], "nobody there");
    let partly = send(&world, "u000", &[&one, "full@example.com"], "half of it");
    let busy = send(&world, "u000", &["tempfail@example.com"], "busy");
    let listed = send(&world, "u000", &[&grey], "greylisted");
    let content = send(&world, "u000", &[&one], "REFUSE-AFTER-DATA");
    let sender = send(&world, "refused", &[&one], "not from here");
    world.run(["run", "--once"]).with_code(4).says("outgoing: 2 sent, 2 later, 3 failed, 0 in doubt");

    let status = |id: &str| email(&world, id)["status"].as_str().unwrap().to_owned();
    let report = |id: &str| email(&world, id)["report"].as_str().unwrap_or_default().to_owned();
    assert_eq!((status(&sent).as_str(), report(&sent).as_str()), ("sent", ""));
    for (id, words) in [(&gone, "no such user"), (&content, "content refused"), (&sender, "sender refused")] {
        assert_eq!(status(id), "failed");
        assert!(report(id).contains(words) && report(id).contains("550"), "{}", report(id));
    }
    assert_eq!(status(&partly), "sent");
    assert!(
        report(&partly).contains("full@example.com") && report(&partly).contains("mailbox full"),
        "{}",
        report(&partly)
    );
    assert!(!report(&partly).contains(&one), "{}", report(&partly));
    for (id, words) in [(&busy, "mailbox busy"), (&listed, "greylisted")] {
        assert_eq!(status(id), "pending_send");
        assert!(report(id).contains(words), "{}", report(id));
    }
    // the second attempt at the greylisted one is accepted
    world.until("the greylisted mail", || {
        world.run(["run", "--once"]);
        status(&listed) == "sent"
    });
    assert_eq!(status(&busy), "pending_send");
    world.run(["crm", "list", "email", "--status", "failed"]).ok().says("nobody there").says("not from here");
    // a person gives one of them another chance
    world.run(["crm", "resolve", &gone, "again"]).ok().says("PendingSend");
}

#[test]
fn submission_logs_in_over_tls_of_both_kinds() {
    let Some(peers) = servers() else { return };
    for (port, tls, user) in [("POSTFIX_SUBM", "StartTls", "u001"), ("POSTFIX_SMTPS", "Implicit", "u002")] {
        let good = submission("good", "localhost", peers.get(port), tls, "file:password", &trust(&peers));
        let bad = submission("bad", "localhost", peers.get(port), tls, "file:wrong", &trust(&peers));
        let mailboxes = [queue(user, "None", "good", ""), queue("u003", "None", "bad", "")];
        let world = world(&[good, bad], &mailboxes, &[user, "u003"]);
        let sent = send(&world, user, &["someone@example.com"], "submitted");
        let waits = send(&world, "u003", &["someone@example.com"], "wrong password");
        let ran = world.run(["run", "--once"]).with_code(4).says("1 sent");
        assert!(
            ran.out.contains("u003@contoso.test") && ran.out.to_lowercase().contains("authentication"),
            "{ran:?}"
        );
        assert_eq!(email(&world, &sent)["status"], "sent");
        // a wrong password is nothing the message is to blame for: it waits until somebody corrects it
        assert_eq!(email(&world, &waits)["status"], "pending_send");
    }
}

/// Reads a message and sends an answer as mail programs do, with Python's own mail library.
const ANSWER: &str = r#"
import email, email.policy, smtplib, sys
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
port, customer, file = sys.argv[1:]
with open(file, "rb") as f:
    received = email.message_from_binary_file(f, policy=email.policy.default)
answer = EmailMessage()
answer["From"] = f"Customer <{customer}>"
answer["To"] = received["Reply-To"] or received["From"]
answer["Subject"] = "Re: " + received["Subject"]
answer["Date"] = formatdate()
answer["Message-ID"] = make_msgid(domain="customer.test")
answer["In-Reply-To"] = received["Message-ID"]
answer["References"] = received["Message-ID"]
answer.set_content("Thank you!\n\n> " + received.get_body().get_content())
with smtplib.SMTP("127.0.0.1", int(port)) as server:
    server.send_message(answer)
"#;

fn arrives(peers: &Peers, user: &str) -> String {
    let mut found = Vec::new();
    assert!(
        eventually(|| {
            found = peers.mail(user);
            !found.is_empty()
        }),
        "nothing arrived in the mailbox of {user}"
    );
    assert_eq!(found.len(), 1);
    found.remove(0).1
}

#[test]
fn full_circle() {
    let Some(peers) = servers() else { return };
    let more = trust(&peers) + "<DeleteEmails>true</DeleteEmails>";
    let profiles = [
        pop3("in", "localhost", peers.get("DOVECOT_POP3S"), "Implicit", &more),
        submission(
            "out",
            "localhost",
            peers.get("POSTFIX_SUBM"),
            "StartTls",
            "file:password",
            &trust(&peers),
        ),
    ];
    let world = world(&profiles, &[queue("alice", "in", "out", "file:password")], &["alice"]);
    ["alice", "bob"].iter().for_each(|user| peers.clear(user));
    world.run(["crm", "add", "contact", "fullname=The Customer", "emailaddress1=bob@contoso.test"]).ok();
    world.run(["crm", "add", "account", "name=Customer Works"]).ok();
    let accounts = world.json(["crm", "list", "account"]);
    let account = accounts[0]["id"].as_str().unwrap().to_owned();

    // out of the CRM, through Postfix, into the customer's mailbox
    let regarding = format!("account={account}");
    let sent = world.json([
        "crm",
        "send",
        "--from",
        "alice@contoso.test",
        "--to",
        "bob@contoso.test",
        "--subject",
        "Your order",
        "--body",
        "It left us today.\n",
        "--regarding",
        &regarding,
    ]);
    let sent = sent["activity_id"].as_str().unwrap().to_owned();
    world.run(["run", "--once"]).ok().says("1 sent");
    let received = arrives(&peers, "bob");
    let token = email(&world, &sent)["tracking_token"].as_str().unwrap().to_owned();
    assert!(received.contains(&token) && received.contains("It left us today."), "{received}");

    // the customer answers with a program of his own
    let (file, script) = (world.write("received.eml", &received), world.write("answer.py", ANSWER));
    let port = peers.get("POSTFIX_SMTP");
    let python =
        Command::new("python3").arg(script).args([port, "bob@contoso.test"]).arg(file).output().unwrap();
    assert!(python.status.success(), "{}", String::from_utf8_lossy(&python.stderr));
    let answer = arrives(&peers, "alice");
    assert!(answer.contains("In-Reply-To:"), "{answer}");

    // and the answer is what it is
    let report = world.json(["run", "--once", "--verbose"]);
    let decision = &report["messages"].as_array().unwrap().iter().find(|m| m["event"] == "incoming").unwrap();
    assert_eq!(
        (&decision["verdict"], &decision["correlated"]["method"]),
        (&"deliver".into(), &"in_reply_to".into()),
        "{report:#}"
    );
    assert_eq!(decision["correlated"]["activity_id"], sent.as_str());
    let stored = email(&world, decision["activity_id"].as_str().unwrap());
    assert_eq!(stored["correlated_activity"], sent.as_str());
    assert_eq!(
        (&stored["regarding"]["table"], &stored["regarding"]["id"]),
        (&"account".into(), &account.as_str().into())
    );
    assert!(stored["subject"].as_str().unwrap().contains(&token), "{stored:#}");
    let sender =
        stored["parties"].as_array().unwrap().iter().find(|p| p["participation"] == "sender").unwrap();
    assert_eq!(sender["record"]["table"], "contact");
    assert_eq!(stored["queue_items"].as_array().unwrap().len(), 1);
    assert_eq!(peers.mail("alice").len(), 0);
}
