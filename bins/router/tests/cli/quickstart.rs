//! The quick start: every row of `fixtures/quickstart/expected.tsv`, and nothing twice.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use crate::support::{Ran, World, root};

fn start(world: &World, words: &[&str]) -> Ran {
    let samples = root().join("fixtures/quickstart").display().to_string();
    let mut all = vec!["quickstart", "--from", &samples, "--into", "qs"];
    all.extend(words);
    world.run(all)
}

/// What `expected.tsv` says of one message.
struct Row {
    mailbox: String,
    file: String,
    reason: String,
    correlation: String,
    /// Subject of the e-mail it answers.
    answers: String,
    sender: String,
}

fn expected(world: &World) -> Vec<Row> {
    let text = world.read(root().join("fixtures/quickstart/expected.tsv"));
    let rows: Vec<Row> = text
        .lines()
        .skip(1)
        .map(|line| {
            let cells: Vec<&str> = line.split('\t').collect();
            let [mailbox, file, reason, correlation, answers, sender] = cells[..] else { panic!("{line}") };
            let [mailbox, file, reason, correlation, answers, sender] =
                [mailbox, file, reason, correlation, answers, sender].map(str::to_owned);
            Row { mailbox, file, reason, correlation, answers, sender }
        })
        .collect();
    assert!(rows.len() >= 40, "{} samples", rows.len());
    rows
}

/// The record a decision or an e-mail names, as the table writes it: `contact Maria Keller`.
fn named(world: &World, record: &Value, names: &mut HashMap<String, String>) -> String {
    let (Some(table), Some(id)) = (record["table"].as_str(), record["id"].as_str()) else {
        return "-".to_owned();
    };
    names
        .entry(id.to_owned())
        .or_insert_with(|| {
            let shown = world.json(["-c", "qs/EmailAgent.xml", "crm", "show", table, id]);
            format!("{table} {}", shown["name"].as_str().unwrap())
        })
        .clone()
}

#[test]
fn every_sample_becomes_what_the_table_says_and_the_second_run_routes_nothing() {
    let world = World::empty();
    let first: Value = serde_json::from_str(&start(&world, &["--json"]).ok().out).unwrap();
    let counts = [
        "listed",
        "processed",
        "delivered",
        "discarded",
        "undeliverable",
        "sent",
        "sending_failed",
        "in_doubt",
    ]
    .map(|name| first[name].as_u64().unwrap());
    let rows = expected(&world);
    assert_eq!(counts, [rows.len() as u64, rows.len() as u64, 47, 13, 0, 5, 0, 0]);

    let messages = first["messages"].as_array().unwrap();
    let incoming: Vec<&Value> = messages.iter().filter(|m| m["event"] == "incoming").collect();
    assert_eq!(incoming.len(), rows.len());
    let mut sent: Vec<&str> = messages
        .iter()
        .filter(|m| m["event"] == "outgoing" && m["outcome"]["outcome"] == "sent")
        .map(|m| m["subject"].as_str().unwrap())
        .collect();
    sent.sort_unstable();
    // each has a token that none of the imported e-mails has
    assert_eq!(
        sent,
        [
            "Delivery to the hut on 28 October CRM:0001002",
            "Kayaks in two deliveries CRM:0002004",
            "Prøvepakken er på vei CRM:0003002",
            "Sliders two days later are fine CRM:0006002",
            "保修登记完成 CRM:0005002",
        ]
    );

    let mut names = HashMap::new();
    let mut twins: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in &rows {
        let found: Vec<&&Value> = incoming
            .iter()
            .filter(|m| {
                let (mailbox, id) = (m["mailbox"].as_str().unwrap(), m["remote_id"].as_str().unwrap());
                mailbox.ends_with(&row.mailbox) && id.starts_with(&row.file)
            })
            .collect();
        let [decision] = found[..] else { panic!("{}: {} decisions", row.file, found.len()) };
        let reason = decision["reason"].as_str().unwrap();
        let what = format!("{} {}: {decision:#}", row.mailbox, row.file);
        if row.reason == "AcceptAll or Duplicate" {
            let id = decision["message_id"].as_str().unwrap().to_owned();
            twins.entry(id).or_default().push(reason.to_owned());
        } else {
            assert_eq!(reason, row.reason, "{what}");
        }
        let hit = &decision["correlated"];
        let correlation = match hit["method"].as_str() {
            None => "-".to_owned(),
            Some("in_reply_to") => "InReplyTo".to_owned(),
            Some("references") => "InReplyTo (by References)".to_owned(),
            Some("tracking_token") if hit["weak"] == true => "TrackingToken, weak".to_owned(),
            Some("tracking_token") => "TrackingToken".to_owned(),
            Some(other) => other.to_owned(),
        };
        assert_eq!(correlation, row.correlation, "{what}");
        assert_eq!(hit["subject"].as_str().unwrap_or("-"), row.answers, "{what}");
        if decision["verdict"] == "deliver" {
            let id = decision["activity_id"].as_str().unwrap();
            let email = world.json(["-c", "qs/EmailAgent.xml", "crm", "show", "email", id]);
            let parties = email["parties"].as_array().unwrap();
            let senders: Vec<&Value> = parties.iter().filter(|p| p["participation"] == "sender").collect();
            let [sender] = senders[..] else { panic!("{what}: {} senders", senders.len()) };
            assert_eq!(named(&world, &sender["record"], &mut names), row.sender, "{what}");
            assert_eq!(email["subject"], decision["subject"], "{what}");
        }
    }
    // whichever of a pair was read first is delivered
    assert_eq!(twins.len(), 2, "{twins:?}");
    for (id, mut reasons) in twins {
        reasons.sort();
        assert_eq!(reasons, ["AcceptAll", "Duplicate"], "{id}");
    }

    let before = world.json(["-c", "qs/EmailAgent.xml", "crm", "stats"]);
    let again = start(&world, &[]).ok().says("this folder was used before").says("nothing new");
    assert!(
        again.out.contains("0 processed: 0 delivered") && again.out.contains("outgoing: 0 sent"),
        "{}",
        again.out
    );
    assert_eq!(world.json(["-c", "qs/EmailAgent.xml", "crm", "stats"]), before);
    assert_eq!(world.names("qs/out/new").len(), 5);
}

#[test]
fn for_people_it_says_what_why_and_how_to_look() {
    let world = World::empty();
    let ran = start(&world, &[])
        .ok()
        .says("60 processed: 47 delivered, 13 discarded")
        .says("outgoing: 5 sent")
        .says("crm list email")
        .says("nothing is routed twice");
    assert_eq!(ran.out.matches("DELIVERED  ").count(), 47);
    assert_eq!(ran.out.matches("DISCARDED  ").count(), 13);
    assert_eq!(ran.out.matches("SENT       ").count(), 5);
    assert!(ran.out.contains("answers \"Your tent order 4711 CRM:0001001\" (by in_reply_to)"), "{}", ran.out);
    assert_eq!(ran.err, "");
    world.run(["-c", "qs/EmailAgent.xml", "crm", "list", "queueitem"]).ok().says("Support");
}

#[test]
fn one_that_was_killed_goes_on() {
    let world = World::empty();
    let samples = root().join("fixtures/quickstart");
    // half a mailbox, half a configuration, the first of the tables
    world.write("qs/mail/.support@fabrikam.test.partial/new/half", "From: ");
    world.write("qs/.EmailAgent.xml.partial", "<Configuration>");
    world.write("qs/first.xml", world.read(samples.join("EmailAgent.xml")));
    let users = samples.join("crm/systemuser.csv").display().to_string();
    world.run(["-c", "qs/first.xml", "crm", "import", "systemuser", &users]).ok();
    start(&world, &[]).ok().says("60 processed: 47 delivered, 13 discarded").says("outgoing: 5 sent");
    let left: Vec<String> = world.names("qs").into_iter().filter(|n| n.contains("partial")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn without_the_samples_it_says_where_to_run() {
    World::empty()
        .run(["quickstart"])
        .with_code(1)
        .complains("fixtures/quickstart holds no EmailAgent.xml; run this in the project's folder");
}
