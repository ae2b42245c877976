//! `crm`: the embedded CRM without SQL.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

use email_router::crm::embedded::EmbeddedCrm;
use email_router::crm::{CrmClient as _, DeliveryAction, DeliveryReport, RecipientReport};
use email_router::model::{SystemClock, SystemEntropy};

use crate::support::{World, mail};

#[test]
fn records_are_added_listed_shown_changed_and_deleted() {
    let world = World::maildir();
    world.run(["crm", "list", "contact"]).ok().says("Tom Okafor").says("tom@example.net");
    let shown = world.json(["crm", "show", "contact", "tom@example.net"]);
    assert_eq!(shown["name"], "Tom Okafor");
    let id = shown["id"].as_str().unwrap().to_owned();
    world.run(["crm", "set", "contact", &id, "fullname=Thomas Okafor"]).ok().says("Thomas Okafor");
    world.run(["crm", "show", "contact", &id]).ok().says("emailaddress1 = tom@example.net");
    world.run(["crm", "delete", "contact", "tom@example.net"]).ok().says("deleted contact Thomas Okafor");
    assert_eq!(world.json(["crm", "list", "contact"]), serde_json::json!([]));
    world.run(["crm", "show", "contact", &id]).with_code(1).complains("contact");
}

#[test]
fn mistakes_say_what_there_is() {
    let world = World::maildir();
    world.run(["crm", "list", "contacts"]).with_code(1).complains("contacts").complains("contact");
    world.run(["crm", "add", "contact", "fullname=X", "shoesize=44"]).with_code(1).complains("shoesize");
    world
        .run(["crm", "add", "contact", "fullname"])
        .with_code(1)
        .complains("fullname is not of the form COLUMN=VALUE");
    world
        .run(["crm", "add", "contact", "fullname=X", "emailaddress1=nonsense"])
        .with_code(1)
        .complains("nonsense");
    world.run(["crm", "list", "email", "--status", "lost"]).with_code(1).complains("PendingSend");
    world.run(["crm", "show", "email", "zz"]).with_code(1).complains("crm list email");
    world.run(["crm", "--deployment", "no", "stats"]).with_code(1).complains("the configuration has: crm");
}

#[test]
fn csv_comes_in_whole_or_not_at_all_and_mistakes_have_a_line() {
    let world = World::maildir();
    world.write(
        "good.csv",
        "fullname,emailaddress1\nMaria Keller,maria@example.net\n\"Dubois, Claire\",claire@example.net\n",
    );
    world.run(["crm", "import", "contact", "good.csv", "--dry-run"]).ok().says("2 would be added");
    assert_eq!(world.json(["crm", "stats"])["records"]["contact"], 1);
    world.run(["crm", "import", "contact", "good.csv"]).ok().says("good.csv: 2 added, 0 changed");
    world.run(["crm", "list", "contact"]).ok().says("Dubois, Claire");
    world.write(
        "bad.csv",
        "fullname,emailaddress1\nFine,fine@example.net\nWrong,nonsense\n,empty@example.net\n",
    );
    world
        .run(["crm", "import", "contact", "bad.csv"])
        .with_code(1)
        .complains("bad.csv, line 3, column emailaddress1: \"nonsense\"")
        .complains("bad.csv, line 4, column fullname");
    assert_eq!(world.json(["crm", "stats"])["records"]["contact"], 3);
    world.run(["crm", "import", "contact", "nowhere.csv"]).with_code(1).complains("nowhere.csv");
}

#[test]
fn settings_are_shown_and_changed() {
    let world = World::maildir();
    world.run(["crm", "settings"]).ok().says("trackingprefix").says("CRM:");
    world.run(["crm", "settings", "trackingprefix=KEY:", "trackingtokeniddigits"]).ok().says("KEY:");
    let changed = world.json(["crm", "settings", "trackingprefix"]);
    assert_eq!((&changed[0]["value"], &changed[0]["default"]), (&"KEY:".into(), &"CRM:".into()));
    world.run(["crm", "settings", "trackingprefixx"]).with_code(1).complains("trackingprefixx");
    world.run(["crm", "settings", "trackingtokeniddigits=many"]).with_code(1).complains("many");
    world
        .run(["crm", "settings", "createunknownsender=Contact"])
        .ok()
        .says("\"contact\"")
        .says("default \"none\"; one of none, contact, lead");
    world
        .run(["crm", "settings", "createunknownsender=account"])
        .with_code(1)
        .complains("give one of none, contact, lead");
}

#[test]
fn an_e_mail_is_written_sent_and_answered() {
    let world = World::maildir();
    world.write("note.txt", "the note");
    let made = world.json([
        "crm",
        "send",
        "--from",
        "ann@example.com",
        "--to",
        "Tom <tom@example.net>",
        "--subject",
        "Offer",
        "--body",
        "Hello",
        "--attach",
        "note.txt",
    ]);
    let id = made["activity_id"].as_str().unwrap().to_owned();
    world.run(["crm", "list", "email", "--status", "pendingsend"]).ok().says("Offer");
    world.run(["run", "--once"]).ok().says("outgoing: 1 sent, 0 later, 0 failed, 0 in doubt");
    let shown = world.json(["crm", "show", "email", &id]);
    assert_eq!(shown["status"], "sent");
    let files = world.names("out/new");
    assert_eq!(files.len(), 1, "{files:?}");
    let text = world.read(format!("out/new/{}", files[0]));
    assert!(text.contains("note.txt") && text.contains("CRM:"), "{text}");

    // an answer to it carries on the conversation
    let answer = world.feed(
        [
            "--json",
            "crm",
            "send",
            "--from",
            "ann@example.com",
            "--to",
            "tom@example.net",
            "--subject",
            "Re: Offer",
            "--in-reply-to",
            &id[..13],
            "--body",
            "-",
        ],
        "from the standard input",
    );
    let answer: serde_json::Value = serde_json::from_str(&answer.ok().out).unwrap();
    let answer = world.json(["crm", "show", "email", answer["activity_id"].as_str().unwrap()]);
    assert_eq!(answer["parent_activity"].as_str(), Some(id.as_str()));
    assert_eq!(answer["body"], "from the standard input");
    world
        .run(["crm", "show", "email", &id[..13]])
        .ok()
        .says("Offer")
        .says("attachment 1: note.txt (text/plain, 8 bytes)");
    world.run(["crm", "delete", "email", &id]).ok().says("deleted e-mail");
    world
        .run(["crm", "send", "--from", "nobody@example.com", "--to", "tom@example.net"])
        .with_code(1)
        .complains("nobody@example.com");
    world
        .run(["crm", "send", "--from", "ann@example.com", "--to", "nonsense"])
        .with_code(1)
        .complains("nonsense");
}

/// A mail server that takes each message and hangs up without an answer to it, on a port of its own.
fn loses_its_answers() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            stream.write_all(b"220 here\r\n").unwrap();
            // whoever hangs up first ends the session, not the test
            while let Some(Ok(line)) = lines.next() {
                let answer: &[u8] = match line.split(' ').next() {
                    Some("DATA") => b"354 go on\r\n",
                    Some(".") => break,
                    Some("EHLO" | "MAIL" | "RCPT" | "QUIT") => b"250 good\r\n",
                    _ => continue,
                };
                stream.write_all(answer).unwrap();
            }
        }
    });
    port
}

fn status(world: &World, id: &str) -> (String, bool) {
    let shown = world.json(["crm", "show", "email", id]);
    (shown["status"].as_str().unwrap().to_owned(), shown["in_doubt"].as_bool().unwrap())
}

#[test]
fn what_is_in_doubt_is_decided_by_a_person() {
    let world = World::maildir();
    let by_maildir = world.read("EmailAgent.xml");
    let smtp = format!(
        "<ServerType>Smtp</ServerType><AuthenticationType>Anonymous</AuthenticationType><EmailServer>127.0.0.1</EmailServer>\
         <NetworkPort>{}</NetworkPort><TlsMode>None</TlsMode><AccessCredentials>LocalSystemAccount</AccessCredentials>",
        loses_its_answers()
    );
    world.write(
        "EmailAgent.xml",
        by_maildir.replace("<ServerType>Maildir</ServerType><Path>out</Path>", &smtp),
    );
    let send = || {
        let words =
            ["crm", "send", "--from", "ann@example.com", "--to", "tom@example.net", "--subject", "Offer"];
        world.json(words)["activity_id"].as_str().unwrap().to_owned()
    };
    let ids = [send(), send(), send()];
    for _ in &ids {
        // a server that loses a connection is left alone after the first e-mail, and a fresh start tries it anew
        world.run(["run", "--once"]).with_code(4).says("outgoing: 0 sent, 0 later, 0 failed, 1 in doubt");
    }
    for id in &ids {
        assert_eq!(status(&world, id), ("sending".to_owned(), true));
    }
    world.run(["crm", "list", "email"]).ok().says("Sending (in doubt)");
    for (id, word, is) in
        [(&ids[0], "sent", "Sent"), (&ids[1], "again", "PendingSend"), (&ids[2], "failed", "Failed")]
    {
        world.run(["crm", "resolve", id, word]).ok().says(&format!("e-mail {id} is now {is}"));
        assert!(!status(&world, id).1, "{id} {word}");
    }
    // it is decided: what failed can be sent again, the others are settled or the router's
    for (id, word, is) in [
        (&ids[0], "again", "Sent"),
        (&ids[1], "failed", "PendingSend"),
        (&ids[1], "again", "PendingSend"),
        (&ids[2], "sent", "Failed"),
    ] {
        world
            .run(["crm", "resolve", id, word])
            .with_code(1)
            .complains(&format!("e-mail {id} is {is} and not in doubt"))
            .complains("crm list email");
    }
    world.run(["crm", "resolve", &ids[2], "again"]).ok().says("is now PendingSend");
    world.run(["crm", "resolve", &ids[2], "burnt"]).with_code(2);

    // by a mail system that answers both go out, once
    world.write(
        "EmailAgent.xml",
        by_maildir.replace(
            "</ConfigRefreshPeriod>",
            "</ConfigRefreshPeriod><ProviderOverrides><PendingStatusDelay>0</PendingStatusDelay></ProviderOverrides>",
        ),
    );
    world.run(["run", "--once"]).ok().says("outgoing: 2 sent, 0 later, 0 failed, 0 in doubt");
    assert_eq!(world.names("out/new").len(), 2);
    assert_eq!(ids.each_ref().map(|id| status(&world, id)), [(); 3].map(|()| ("sent".to_owned(), false)));
}

#[test]
fn what_only_waits_is_not_for_a_person_to_decide() {
    let world = World::maildir();
    // the outgoing folder cannot be made: a file is in its place
    world.write("out", "in the way");
    let words = ["crm", "send", "--from", "ann@example.com", "--to", "tom@example.net", "--subject", "Offer"];
    let made = world.json(words);
    let id = made["activity_id"].as_str().unwrap().to_owned();
    let ran = world.run(["run", "--once"]);
    assert!(ran.out.contains("0 sent"), "{ran:?}");
    assert_eq!(status(&world, &id), ("pending_send".to_owned(), false));
    world.run(["crm", "resolve", &id, "failed"]).with_code(1).complains("is PendingSend and not in doubt");
    assert_eq!(status(&world, &id), ("pending_send".to_owned(), false));
}

#[test]
fn statistics_count() {
    let stats = World::maildir().json(["crm", "stats"]);
    assert_eq!((&stats["records"]["systemuser"], &stats["records"]["queue"]), (&1.into(), &1.into()));
}

#[test]
fn a_party_is_resolved_by_a_person() {
    let world = World::maildir();
    for subject in ["First", "Second"] {
        let text = mail("Zoe <zoe@strange.example>", "ann@example.com", subject);
        world.deliver("ann@example.com", subject, &text);
    }
    world.run(["run", "--once"]).ok();
    let list = world.json(["crm", "list", "email"]);
    let ids: Vec<&str> =
        list.as_array().unwrap().iter().map(|e| e["activity_id"].as_str().unwrap()).collect();
    world.run(["crm", "show", "email", ids[0]]).ok().says("zoe@strange.example> unresolved");
    let resolve =
        |id: &str, record: &str| world.run(["crm", "resolve-party", id, "ZOE@strange.example", record]);
    resolve(ids[0], "tom@example.net").with_code(1).complains("TABLE=ID");
    resolve(ids[0], "contact=nobody@example.net").with_code(1).complains("nobody@example.net");
    resolve(ids[0], "contact=tom@example.net").ok().says("1 party in e-mail");
    resolve(ids[0], "contact=tom@example.net").with_code(1).complains("no unresolved party");
    world.run(["crm", "show", "email", ids[1]]).ok().says("unresolved");
    world.run(["crm", "settings", "resolvesimilarunresolvedemailaddress=true"]).ok();
    let third = mail("Zoe <zoe@strange.example>", "ann@example.com", "Third");
    world.deliver("ann@example.com", "third", &third);
    world.run(["run", "--once"]).ok();
    let words = ["crm", "resolve-party", ids[1], "zoe@strange.example", "contact=tom@example.net"];
    assert_eq!(world.json(words), serde_json::json!({"here": 1, "elsewhere": 1}));
    assert_eq!(world.json(["crm", "show", "email", ids[1]])["parties"][0]["record"]["table"], "contact");
}

#[test]
fn an_unknown_sender_becomes_a_contact_once() {
    let world = World::maildir();
    world.run(["crm", "settings", "createunknownsender=contact"]).ok();
    for (n, from) in
        ["Zoe Day <zoe@new.example>", "ZOE@New.example", "noreply@new.example"].iter().enumerate()
    {
        let text = mail(from, "ann@example.com", &format!("Hello {n}"));
        world.deliver("ann@example.com", &format!("m{n}"), &text);
    }
    world.run(["run", "--once"]).ok();
    let contacts = world.json(["crm", "list", "contact"]);
    let names: Vec<&str> = contacts.as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    let zoe = world.json(["crm", "show", "contact", "zoe@new.example"]);
    let ann = world.json(["crm", "show", "systemuser", "ann@example.com"]);
    assert_eq!(zoe["fields"]["ownerid"], ann["id"]);
    let mut senders = 0;
    for email in world.json(["crm", "list", "email"]).as_array().unwrap() {
        let shown = world.json(["crm", "show", "email", email["activity_id"].as_str().unwrap()]);
        senders += usize::from(shown["parties"][0]["record"]["id"] == zoe["id"]);
    }
    assert_eq!(senders, 2);
}

#[test]
fn what_was_reported_about_a_sent_e_mail_is_shown() {
    let world = World::maildir();
    let made = world.json(["crm", "send", "--from", "ann@example.com", "--to", "tom@example.net"]);
    let id = made["activity_id"].as_str().unwrap();
    let clock = std::sync::Arc::new(SystemClock);
    let crm = EmbeddedCrm::open(world.path("crm.sqlite"), clock, std::sync::Arc::new(SystemEntropy)).unwrap();
    let report = DeliveryReport {
        activity_id: id.parse().unwrap(),
        report: "<r1@mx.example.net>".to_owned(),
        at: "2026-11-20T10:00:00Z".parse().unwrap(),
        recipients: vec![RecipientReport {
            address: "tom@example.net".parse().unwrap(),
            action: DeliveryAction::Failed,
            status: Some("5.1.1".to_owned()),
            diagnostic: Some("550 no such user".to_owned()),
        }],
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert!(runtime.block_on(crm.record_delivery(&report)).unwrap());
    runtime.block_on(crm.close()).unwrap();
    world
        .run(["crm", "show", "email", id])
        .ok()
        .says("delivery to tom@example.net: failed 5.1.1, reported 2026-11-20T10:00:00Z: 550 no such user");
    let shown = &world.json(["crm", "show", "email", id])["delivery"][0];
    assert_eq!((&shown["action"], &shown["report"]), (&"failed".into(), &"<r1@mx.example.net>".into()));
}
