//! `run --once`, `explain`, `status`, `quarantine`, `import`, `import-state`.

use std::fs;

use serde_json::Value;

use crate::support::{World, mail, maildir_config};

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_else(|| panic!("no number {name} in {value:#}"))
}

/// Lets the CRM refuse messages with this subject for good, as a plug-in of the real one does.
fn refuse(world: &World, subject: &str) {
    let crm = rusqlite::Connection::open(world.path("crm.sqlite")).unwrap();
    crm.execute_batch(&format!(
        "CREATE TRIGGER refuse BEFORE INSERT ON email WHEN NEW.subject = '{subject}'
         BEGIN SELECT RAISE(ABORT, 'not in this CRM'); END"
    ))
    .unwrap();
}

fn accept_again(world: &World) {
    rusqlite::Connection::open(world.path("crm.sqlite"))
        .unwrap()
        .execute_batch("DROP TRIGGER refuse")
        .unwrap();
}

#[test]
fn a_run_prints_what_was_decided_for_people_and_for_programs() {
    let world = World::maildir();
    world.deliver("ann@example.com", "1", &mail("tom@example.net", "ann@example.com", "first"));
    world.deliver("ann@example.com", "2", &mail("", "ann@example.com", "nobody"));
    let report = world.json(["run", "--once", "--verbose"]);
    let counts = ["listed", "processed", "delivered", "discarded"].map(|n| number(&report, n));
    assert_eq!(counts, [2, 2, 1, 1]);
    let reasons: Vec<&str> =
        report["messages"].as_array().unwrap().iter().map(|m| m["reason"].as_str().unwrap()).collect();
    assert!(reasons.contains(&"AcceptAll") && reasons.contains(&"InvalidSender"), "{reasons:?}");
    world.deliver("support@example.com", "3", &mail("tom@example.net", "support@example.com", "second"));
    world
        .run(["run", "--once", "--verbose"])
        .ok()
        .says("DELIVERED")
        .says("second")
        .says("queue \"Support\" accepts all messages")
        .says("incoming: 3 in the mailboxes, 1 processed: 1 delivered, 0 discarded, 0 into quarantine");
}

#[test]
fn explain_says_why_and_writes_nothing() {
    let world = World::maildir();
    let file = world
        .write("question.eml", mail("Tom Okafor <tom@example.net>", "support@example.com", "A question"));
    let before = world.json(["crm", "stats"]);
    world
        .run(["explain", "question.eml"])
        .ok()
        .says("DELIVERED  ")
        .says("A question")
        .says("queue \"Support\" accepts all messages")
        .says("sender:")
        .says("nothing was written");
    let record = world.json(["explain", "question.eml", "--mailbox", "ann@example.com"]);
    assert_eq!((&record["verdict"], &record["reason"]), (&"deliver".into(), &"AcceptAll".into()));
    assert!(record["steps"].as_array().unwrap().len() >= 3, "{record:#}");
    assert_eq!(world.json(["crm", "stats"]), before);
    assert!(file.is_file());
    world.run(["explain", "nowhere.eml"]).with_code(1).complains("nowhere.eml");
    world
        .run(["explain", "question.eml", "-m", "bob"])
        .with_code(1)
        .complains("no enabled mailbox is called bob");
}

#[test]
fn status_tells_how_each_mailbox_is_doing() {
    let world = World::maildir();
    world.run(["status"]).ok().says("no mailbox was served yet");
    world.run(["run", "--once"]).ok();
    world.run(["status"]).ok().says("Ann Lee <ann@example.com>: last success 20").says("Support");
    // one mailbox fails, the other goes on
    let folder = world.path("mail/ann@example.com");
    fs::remove_dir_all(&folder).unwrap();
    fs::write(&folder, "in the way").unwrap();
    world.deliver("support@example.com", "1", &mail("tom@example.net", "support@example.com", "still"));
    world.run(["run", "--once"]).with_code(4).says("1 delivered").says("failed: ").says("ann@example.com");
    world.run(["status"]).with_code(4).says("FAILED 1 times").says("ann@example.com");
    let status = world.json(["status"]);
    let providers = status["providers"].as_array().unwrap();
    assert_eq!(providers.iter().filter(|p| !p["last_error"].is_null()).count(), 1, "{status:#}");
}

#[test]
fn a_mailbox_the_crm_does_not_know_is_named() {
    let world = World::with(&maildir_config("", ""));
    let ran = world
        .run(["run", "--once"])
        .with_code(4)
        .says("failed: crm/support@example.com: not served: ")
        .says("has no queue with the address support@example.com");
    assert_eq!(ran.out.matches("support@example.com: ").count(), 1, "said once: {}", ran.out);
    world
        .run(["status"])
        .with_code(4)
        .says("NOT SERVED")
        .says("has no user with the address ann@example.com");
}

#[test]
fn a_message_that_is_too_large_goes_to_quarantine_and_its_mailbox_goes_on() {
    let world = World::maildir();
    let large = mail("tom@example.net", "ann@example.com", "large") + &"0123456789\n".repeat(4000);
    world.deliver("ann@example.com", "1", &large);
    world.deliver("ann@example.com", "2", &mail("tom@example.net", "ann@example.com", "small"));
    world.run(["run", "--once"]).with_code(4).says("1 delivered, 0 discarded, 1 into quarantine");
    world.run(["quarantine", "list"]).ok().says("too-large").says("20000").says("ann@example.com");
    world.run(["status"]).with_code(4).says("1 messages in quarantine");
    let items = world.json(["quarantine", "list"]);
    let id = number(&items[0], "id").to_string();
    world.run(["quarantine", "show", &id]).ok().says("too-large: ").says("attempts");
    world
        .run(["quarantine", "show", &id, "--raw"])
        .with_code(1)
        .complains("were never read; the message itself is in the folder Undeliverable of its mailbox");
    world.run(["quarantine", "retry", &id]).with_code(4).says("stays in quarantine").says("move it back");
    // nothing is lost: the message is beside the inbox
    assert!(
        world.names("mail/ann@example.com/.Undeliverable/cur").len()
            + world.names("mail/ann@example.com/.Undeliverable/new").len()
            == 1
    );
    world.run(["quarantine", "delete", &id]).ok().says("deleted");
    world.run(["quarantine", "delete", &id]).with_code(4).says("there is no such item");
    world.run(["quarantine", "show", &id]).with_code(1).complains("quarantine list");
    world.run(["quarantine", "retry"]).with_code(2);
}

#[test]
fn a_mailbox_that_moved_is_read_anew() {
    let world = World::maildir();
    world.deliver("ann@example.com", "1", &mail("tom@example.net", "ann@example.com", "before"));
    world.run(["run", "--once"]).ok().says("1 delivered");
    fs::rename(world.path("mail"), world.path("moved")).unwrap();
    let text = mail("tom@example.net", "ann@example.com", "another under its name").replace('\n', "\r\n");
    fs::remove_dir_all(world.path("moved/ann@example.com/cur")).unwrap();
    fs::create_dir(world.path("moved/ann@example.com/cur")).unwrap();
    world.write("moved/ann@example.com/new/1", text);
    world.write("EmailAgent.xml", maildir_config("", "").replace("<Path>mail/", "<Path>moved/"));
    world.run(["run", "--once"]).ok().says("1 delivered");
    world.run(["run", "--once"]).ok().says(" 0 processed");
}

#[test]
fn what_was_too_large_is_read_anew_when_the_limit_was_raised() {
    let limited = maildir_config("", "").replacen(
        "</MaxMessageSize>",
        "</MaxMessageSize><MoveEmails>false</MoveEmails>",
        1,
    );
    let world = World::maildir();
    world.write("EmailAgent.xml", &limited);
    let large = mail("tom@example.net", "ann@example.com", "large") + &"0123456789\n".repeat(4000);
    world.deliver("ann@example.com", "1", &large);
    world.run(["run", "--once"]).with_code(4).says("1 into quarantine");
    let id = number(&world.json(["quarantine", "list"])[0], "id").to_string();
    world.write("EmailAgent.xml", limited.replace(">20000<", ">200000<"));
    world.run(["run", "--once"]).says(" 0 processed");
    world.run(["quarantine", "retry", &id]).ok().says("the next pass over its mailbox reads it anew");
    assert_eq!(world.json(["quarantine", "list"]), serde_json::json!([]));
    world.run(["run", "--once"]).ok().says("1 delivered");
}

#[test]
fn what_the_crm_refuses_is_kept_retried_and_released() {
    let world = World::maildir();
    refuse(&world, "refused");
    world.deliver("ann@example.com", "1", &mail("tom@example.net", "ann@example.com", "refused"));
    world.deliver("ann@example.com", "2", &mail("tom@example.net", "ann@example.com", "taken"));
    world.run(["run", "--once"]).with_code(4).says("1 delivered, 0 discarded, 1 into quarantine");
    let items = world.json(["quarantine", "list"]);
    assert_eq!(
        (items.as_array().unwrap().len(), &items[0]["class"]),
        (1, &"crm-refused".into()),
        "{items:#}"
    );
    assert!(items[0]["reason"].as_str().unwrap().contains("not in this CRM"), "{items:#}");
    let id = number(&items[0], "id").to_string();
    let raw = world.run(["quarantine", "show", &id, "--raw"]).ok();
    assert_eq!(raw.out, mail("tom@example.net", "ann@example.com", "refused").replace('\n', "\r\n"));
    world.run(["quarantine", "show", &id]).ok().says("Subject: refused").says("crm-refused: ");
    // as long as the CRM refuses, it stays
    world
        .run(["quarantine", "retry", "--class", "crm-refused"])
        .with_code(4)
        .says("stays in quarantine")
        .says("not in this CRM");
    accept_again(&world);
    world.run(["quarantine", "retry", &id]).ok().says(&format!("{id}: settled")).says("DELIVERED");
    assert_eq!(world.json(["quarantine", "list"]), serde_json::json!([]));
    assert_eq!(world.json(["crm", "stats"])["incoming"]["received"], 2);

    assert_eq!(world.json(["quarantine", "retry", "--all"]), serde_json::json!([]));
    world.run(["quarantine", "retry", "--all"]).ok().says("nothing is in quarantine");

    // a person overrules a filter: retry discards, release delivers
    refuse(&world, "second");
    world.deliver("ann@example.com", "3", &mail("stranger@example.org", "ann@example.com", "second"));
    world.run(["run", "--once"]).with_code(4);
    accept_again(&world);
    world.run(["crm", "set", "systemuser", "ann@example.com", "incomingemailfilteringmethod=4"]).ok();
    let explained = world.write("second.eml", mail("stranger@example.org", "ann@example.com", "second"));
    world.run(["explain", explained.to_str().unwrap()]).ok().says("DISCARDED");
    world.run(["quarantine", "release", "--all"]).ok().says("settled").says("DELIVERED");
    assert_eq!(world.json(["crm", "stats"])["incoming"]["received"], 3);
    world.run(["quarantine", "list"]).ok();
    world.run(["status"]).ok();
}

#[test]
fn what_is_no_message_stays_in_quarantine_until_it_is_released() {
    let world = World::maildir();
    let broken = "\n\nwhat was left of a message\n";
    world.deliver("ann@example.com", "1", broken);
    world.run(["run", "--once"]).with_code(4).says("1 into quarantine");
    let file = world.write("broken.eml", broken);
    world.run(["explain", file.to_str().unwrap(), "-m", "ann@example.com"]).ok().says("QUARANTINE ");
    world.run(["quarantine", "retry", "--all"]).with_code(4).says("stays in quarantine");
    let outcome = world.json(["import", "broken.eml", "-m", "ann@example.com"]);
    assert_eq!((number(&outcome, "quarantined"), number(&outcome, "discarded")), (1, 0));
    let items = world.json(["quarantine", "list"]);
    let items = items.as_array().unwrap();
    assert!(items.len() == 2 && items.iter().all(|i| i["class"] == "unreadable"), "{items:?}");
    let id = number(&items[0], "id").to_string();
    world.run(["quarantine", "release", &id]).ok().says("settled").says("DELIVERED");
    let received = world.json(["crm", "list", "email"]);
    assert_eq!(received[0]["sender"], "ann@example.com", "{received:#}");
}

#[test]
fn an_item_that_is_not_there_does_not_keep_the_others_from_their_turn() {
    let world = World::maildir();
    for name in ["1", "2", "3", "4"] {
        // one after the other, so that the numbers are known
        refuse(&world, name);
        world.deliver("ann@example.com", name, &mail("tom@example.net", "ann@example.com", name));
        world.run(["run", "--once"]).with_code(4).says("1 into quarantine");
        accept_again(&world);
    }
    let ids: Vec<u64> =
        world.json(["quarantine", "list"]).as_array().unwrap().iter().map(|i| number(i, "id")).collect();
    assert_eq!(ids, [1, 2, 3, 4]);
    world
        .run(["quarantine", "retry", "--class", "nonsense"])
        .ok()
        .says("nothing of class nonsense is in quarantine; there is: crm-refused");
    let ran = world.run(["quarantine", "retry", "1", "99", "2"]).with_code(4);
    for words in ["1: settled", "99: there is no such item", "2: settled"] {
        assert!(ran.out.lines().any(|line| line.starts_with(words)), "no {words} in {}", ran.out);
    }
    let told = world.json(["quarantine", "release", "98", "3"]);
    assert_eq!((&told[0]["id"], &told[0]["stays_because"]), (&98.into(), &"there is no such item".into()));
    assert_eq!((&told[1]["id"], &told[1]["stays_because"]), (&3.into(), &Value::Null), "{told:#}");
    let deleted = world.json(["quarantine", "delete", "97", "4"]);
    let expected = serde_json::json!([{"id": 97, "deleted": false}, {"id": 4, "deleted": true}]);
    assert_eq!(deleted, expected);
    assert_eq!(world.json(["quarantine", "list"]), serde_json::json!([]));
    world.run(["quarantine", "delete", "--class", "nonsense"]).ok().says("nothing is in quarantine");
}

/// Three samples in each form a person may have past mail in.
fn sources(world: &World) -> Vec<&'static str> {
    for (n, subject) in ["one", "two", "three"].into_iter().enumerate() {
        let text = mail("tom@example.net", "ann@example.com", subject);
        world.write(format!("past/{n}.eml"), &text);
        world.write(format!("old/cur/{n}:2,S"), &text);
    }
    for kind in ["new", "tmp"] {
        fs::create_dir_all(world.path("old").join(kind)).unwrap();
    }
    let mbox: String = ["one", "two", "three"]
        .map(|s| {
            format!(
                "From tom@example.net Fri Nov 20 10:00:00 2026\n{}\n",
                mail("tom@example.net", "ann@example.com", s)
            )
        })
        .concat();
    world.write("past.mbox", mbox);
    vec!["past", "old", "past.mbox"]
}

#[test]
fn past_mail_comes_in_from_every_form_once() {
    let world = World::maildir();
    for source in sources(&world) {
        world
            .run(["import", source, "--mailbox", "ann@example.com", "--dry-run"])
            .ok()
            .says("3 messages; ")
            .says("would be delivered");
    }
    assert_eq!(world.json(["crm", "stats"])["incoming"], serde_json::json!({}));
    world.run(["import", "past/0.eml", "-m", "Ann Lee"]).ok().says("past/0.eml: 1 messages; 1 delivered");
    world
        .run(["import", "past.mbox", "-m", "ann@example.com"])
        .ok()
        .says("past.mbox: 3 messages; 2 delivered, 1 discarded");
    world.run(["import", "old", "-m", "ann@example.com"]).ok().says("0 delivered, 3 discarded");
    world.run(["import", "past", "-m", "ann@example.com", "--verbose"]).ok().says("the CRM has it already");
    assert_eq!(world.json(["crm", "stats"])["incoming"]["received"], 3);
    world
        .run(["import", "past", "-m", "ann@example.com"])
        .ok()
        .says("3 passed over, which were settled before")
        .says("an earlier import was resumed");
    let outcome = world.json(["import", "past", "-m", "ann@example.com"]);
    assert_eq!((number(&outcome, "passed_over"), &outcome["resumed"]), (3, &true.into()));
    // by another name it is the same import
    #[cfg(unix)]
    for source in ["past", "past.mbox", "old", "past/0.eml"] {
        let link = world.path("link");
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(world.path(source), link).unwrap();
        let outcome = world.json(["import", "link", "-m", "ann@example.com"]);
        assert_eq!(outcome["passed_over"], outcome["messages"], "{source}: {outcome}");
    }
    let anew = world.json(["import", "past", "-m", "ann@example.com", "--from-start"]);
    assert_eq!((number(&anew, "passed_over"), number(&anew, "discarded")), (0, 3));
    world.run(["import", "nowhere", "-m", "ann@example.com"]).with_code(1).complains("nowhere");
    world.run(["import", "past", "-m", "bob"]).with_code(1).complains("no enabled mailbox is called bob");
}

#[test]
fn an_interrupted_import_goes_on_where_it_stopped() {
    let world = World::maildir();
    const MANY: u64 = 400;
    for n in 0..MANY {
        world.write(
            format!("many/{n:04}.eml"),
            mail("tom@example.net", "ann@example.com", &format!("past {n}")),
        );
    }
    let mut child = world
        .command(["import", "many", "-m", "ann@example.com"])
        .stdout(fs::File::create(world.path("out.txt")).unwrap())
        .spawn()
        .unwrap();
    let delivered = || world.json(["crm", "stats"])["incoming"]["received"].as_u64().unwrap_or(0);
    world.until("the first delivery", || delivered() > 0);
    let interrupt = format!("kill -INT {}", child.id());
    // it may have come to its end by now; then the second run has nothing left to do, which must hold as well
    let _ = std::process::Command::new("sh").args(["-c", &interrupt]).status();
    let code = child.wait().unwrap().code();
    let out = world.read("out.txt");
    match code {
        Some(4) => assert!(out.contains("interrupted; the same command goes on where it stopped"), "{out}"),
        other => assert_eq!(other, Some(0), "{out}"),
    }
    let done = delivered();
    let outcome = world.json(["import", "many", "-m", "ann@example.com"]);
    assert_eq!((number(&outcome, "messages"), number(&outcome, "passed_over")), (MANY, done));
    assert_eq!(number(&outcome, "delivered") + done, MANY);
    assert_eq!((delivered(), &outcome["interrupted"]), (MANY, &false.into()));
}

const STATE: &str = r#"<?xml version="1.0"?>
<SystemState>
  <M1><EmailAddress>ann@example.com</EmailAddress><LastError>0001-01-01T00:00:00</LastError><ThresholdDate>2026-11-19T00:00:00Z</ThresholdDate></M1>
  <M2><EmailAddress>gone@example.com</EmailAddress><ThresholdDate>2026-11-01T00:00:00Z</ThresholdDate></M2>
</SystemState>
"#;

#[test]
fn the_thresholds_of_the_original_are_taken_over() {
    let world = World::maildir();
    world.write("State.xml", STATE);
    world
        .run(["import-state", "State.xml", "--dry-run"])
        .with_code(4)
        .says("gone@example.com: not taken over, since no mailbox of this configuration has this address")
        .says("ann@example.com: only mail received after 2026-11-19")
        .says("1 of 2 threshold dates would be taken over");
    world.deliver(
        "ann@example.com",
        "1",
        &mail("tom@example.net", "ann@example.com", "new").replace("20 Nov", "18 Nov"),
    );
    let file = world.path("mail/ann@example.com/new/1");
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_794_960_000); // 18 November 2026
    fs::File::options().write(true).open(&file).unwrap().set_modified(old).unwrap();
    let shown = world.json(["import-state", "State.xml", "--dry-run"]);
    assert_eq!(shown["unknown"], serde_json::json!(["gone@example.com"]));
    world.run(["import-state", "State.xml"]).with_code(4).says("1 of 2 threshold dates taken over");
    world.run(["run", "--once"]).ok().says("0 delivered").says("1 too old");
}

#[test]
fn thresholds_of_mailboxes_that_only_the_crm_lists_are_taken_over_too() {
    let world = World::maildir();
    let config = maildir_config("", "")
        .replace("<Path>crm.sqlite", "<LoadMailboxes>true</LoadMailboxes><Path>crm.sqlite");
    let (start, end) = (config.find("<User>").unwrap(), config.find("</User>").unwrap() + "</User>".len());
    world.write("EmailAgent.xml", format!("{}{}", &config[..start], &config[end..]));
    world.write("State.xml", STATE.replace("gone@", "support@"));
    world
        .run(["import-state", "State.xml"])
        .ok()
        .says("crm/ann@example.com: only mail received after 2026-11-19")
        .says("crm/support@example.com: only mail received after 2026-11-01")
        .says("2 of 2 threshold dates taken over");
}

#[test]
fn a_damaged_state_file_gives_what_is_whole_and_says_so() {
    let world = World::maildir();
    world.write("State.xml", &STATE[..STATE.find("<ThresholdDate>2026-11-01").unwrap()]);
    let ran = world.run(["import-state", "State.xml"]).with_code(4).says("1 of 1 threshold dates taken over");
    assert!(ran.out.contains("State.xml:"), "{}", ran.out);
    let shown = world.json(["import-state", "State.xml"]);
    assert_eq!(shown["thresholds"].as_array().unwrap().len(), 1);
    assert!(!shown["findings"].as_array().unwrap().is_empty());
    world.run(["import-state", "nowhere.xml"]).with_code(1).complains("nowhere.xml");
}
