//! What went wrong in the field with systems of this kind, as tests: `fixtures/field/cases.tsv` names each case and the test that shows it
//! cannot happen here. This file has those that belong to no other.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // a test file, which reads files of the project

mod world;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use email_router_crm::{Error as CrmError, ErrorKind as CrmErrorKind};
use email_router_engine::Verdict;
use email_router_engine::ports::{DecisionQuery, StateStore as _};
use email_router_model::{MessageId, RawMessage};
use email_router_transport::memory::MemoryTransport;
use email_router_transport::{Error, ErrorKind, Transport as _};
use world::{World, junk, like_pop3, mail, mail_from, subjects};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn every_case_has_a_test_that_exists() {
    let table = std::fs::read_to_string(root().join("fixtures/field/cases.tsv")).unwrap();
    let mut numbers = BTreeSet::new();
    for line in table.lines().filter(|l| !l.starts_with('#')) {
        let cells: Vec<&str> = line.split('\t').collect();
        let [number, _reports, what, tests] = cells[..] else { panic!("not four cells: {line}") };
        assert!(!what.is_empty(), "{line}");
        numbers.insert(number.parse::<u32>().unwrap());
        for test in tests.split(';') {
            let (file, name) = test.split_once("::").unwrap_or_else(|| panic!("no FILE::NAME: {test}"));
            let bytes =
                std::fs::read(root().join(file)).unwrap_or_else(|e| panic!("case {number}: {file}: {e}"));
            let source = String::from_utf8_lossy(&bytes);
            // a test, a case of a table, or a file of a folder of cases
            let there = if file.ends_with(".rs") {
                source.contains(&format!("fn {name}("))
            } else {
                source.contains(name)
            };
            assert!(there, "case {number}: there is no {name} in {file}");
        }
    }
    assert_eq!(numbers, (1..=40).collect(), "each of the forty, once or more");
}

#[tokio::test(start_paused = true)]
async fn fifty_failing_messages_do_not_keep_a_new_one() {
    let world = World::new();
    let (ann, system) = (world.user("ann"), MemoryTransport::new());
    for n in 0..50 {
        system.put(ann.id(), mail(&format!("bad-{n}")));
    }
    let route = world.route(&ann, system.clone());
    world.crm.fail_next("deliver_incoming", 50, false, || CrmError::new(CrmErrorKind::Invalid, "no"));
    world.pass(&route).await;
    system.put(ann.id(), mail("new"));
    let report = world.pass(&route).await;
    assert_eq!((report.delivered, report.processed), (1, 1));
    assert_eq!(world.crm.received(), ["new"]);
    assert_eq!(world.quarantine().await.len(), 50, "none is lost, none is tried for ever");
}

#[tokio::test(start_paused = true)]
async fn every_listed_message_is_accounted_for() {
    let world = World::new();
    let (ann, system) = (world.user("ann"), MemoryTransport::new());
    for n in 0..30 {
        system.put(ann.id(), if n % 3 == 0 { junk(&format!("junk-{n}")) } else { mail(&format!("m-{n}")) });
    }
    system.put(ann.id(), RawMessage::new("no header\r\n"));
    world.crm.fail_next("deliver_incoming", 2, false, || CrmError::new(CrmErrorKind::Busy, "later"));
    let mut route = world.route(&ann, system);
    route.settings.max_messages_per_cycle = 7;
    let mut settled = 0;
    loop {
        let (report, result) = world.try_pass(&route).await;
        settled += report.processed;
        assert_eq!(
            report.processed,
            report.delivered + report.discarded + report.undeliverable + report.left_alone
        );
        if result.is_ok() {
            assert_eq!(settled + report.deferred + report.backlog, report.listed, "{report:?}");
            if report.deferred + report.backlog == 0 {
                break;
            }
        }
        tokio::time::advance(std::time::Duration::from_secs(3600)).await;
    }
    assert_eq!(settled, 31);
}

#[tokio::test(start_paused = true)]
async fn receiving_answers_nobody_and_a_mailbox_that_cannot_be_opened_loses_nothing() {
    let world = World::new();
    let (ann, system) = (world.user("ann"), MemoryTransport::new());
    system.put(ann.id(), mail("one"));
    system.deny(ann.id(), || Error::new(ErrorKind::Authentication, "wrong password"));
    let route = world.route(&ann, system.clone());
    assert!(world.try_pass(&route).await.1.is_err());
    assert_eq!(subjects(&system, &ann), ["one"]);
    system.allow(ann.id());
    assert_eq!(world.pass(&route).await.delivered, 1);
    assert!(world.crm.emails().iter().all(|e| !e.outgoing), "no answer, no notification");
    assert!(system.sent().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_becomes_of_one_message_touches_no_other() {
    for system in [MemoryTransport::new(), like_pop3()] {
        let world = World::new();
        let queue = world.queue("support");
        for subject in ["a", "b", "c", "d"] {
            system.put(queue.id(), mail(subject));
        }
        system.put(queue.id(), junk("refused"));
        let mut route = world.route(&queue, system.clone());
        route.settings.delete_after_processing = true;
        // the limit makes the refused one the only one that is reached in the second pass
        route.settings.max_messages_per_cycle = 2;
        world.pass(&route).await;
        assert_eq!(subjects(&system, &queue), ["c", "d", "refused"]);
        route.settings.max_messages_per_cycle = 100;
        world.pass(&route).await;
        assert_eq!(subjects(&system, &queue), [""; 0]);
        assert_eq!(world.crm.received().len(), 4);
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_id_used_again_is_a_duplicate_that_says_so() {
    let world = World::new();
    let (ann, system) = (world.user("ann"), MemoryTransport::new());
    system.put(ann.id(), mail("same"));
    let route = world.route(&ann, system.clone());
    world.pass(&route).await;
    system.put(ann.id(), mail_from("carol@contoso.example", "same"));
    let report = world.pass(&route).await;
    assert_eq!((report.delivered, report.discarded), (0, 1));
    let query = DecisionQuery::MessageId(MessageId::parse("<same@contoso.example>").unwrap());
    let notes = world.state.decisions(&query, 10).await.unwrap();
    assert_eq!(notes[0].record.from, "carol@contoso.example");
    assert!(notes[0].record.because.contains("the CRM has it already as"), "{}", notes[0].record.because);
    assert_eq!(subjects(&system, &ann).len(), 2, "and the message stays where it is");
}

#[tokio::test(start_paused = true)]
async fn no_hostile_message_keeps_its_neighbours() {
    let world = World::new();
    let (ann, system) = (world.user("ann"), MemoryTransport::new());
    let mut hostile = 0_u64;
    for entry in std::fs::read_dir(root().join("fixtures/malformed")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "eml") {
            system.put(ann.id(), RawMessage::new(std::fs::read(&path).unwrap()));
            system.put(ann.id(), mail(&format!("good-{hostile}")));
            hostile += 1;
        }
    }
    assert!(hostile >= 30);
    let report = world.pass(&world.route(&ann, system)).await;
    assert_eq!((report.processed, report.deferred), (2 * hostile, 0));
    let good = world.crm.received().into_iter().filter(|s| s.starts_with("good-")).count();
    assert_eq!(good as u64, hostile, "every second message is delivered");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_delivered_is_put_away_once_and_heard_of_once() {
    let world = World::new();
    let (ann, system) = (world.user("ann"), MemoryTransport::new());
    let copies = system.clone();
    system.put(ann.id(), RawMessage::new("no header\r\n"));
    system.put(ann.id(), mail("refused"));
    let route = world.route(&ann, system);
    world.crm.fail_next("deliver_incoming", 1, false, || CrmError::new(CrmErrorKind::Invalid, "no"));
    for _ in 0..10 {
        world.pass(&route).await;
        tokio::time::advance(std::time::Duration::from_secs(3600)).await;
    }
    assert_eq!(world.classes().await, ["unreadable", "crm-refused"]);
    assert_eq!(copies.folder(ann.id(), "Undeliverable").len(), 2, "one copy each, not one a pass");
    assert_eq!(world.crm.count("deliver_incoming"), 1, "a refusal for good is no loop");
    assert_eq!(world.heard.count("undeliverable ann"), 2, "two messages, two events, ten passes");
}

#[tokio::test(start_paused = true)]
async fn one_message_for_two_queues_is_one_e_mail_in_both() {
    let world = World::new();
    let (a, b) = (world.queue("sales"), world.queue("support"));
    let text = mail("both").bytes().to_vec();
    let text = String::from_utf8(text)
        .unwrap()
        .replace("ann@fabrikam.example", "sales@fabrikam.example, support@fabrikam.example");
    let system = MemoryTransport::new();
    for place in [&a, &b] {
        system.put(place.id(), RawMessage::new(text.clone()));
    }
    assert_eq!(world.pass(&world.route(&a, system.clone())).await.delivered, 1);
    assert_eq!(
        world.pass(&world.route(&b, system)).await.discarded,
        1,
        "the same message in another mailbox"
    );
    assert_eq!(world.crm.received(), ["both"]);
    assert_eq!(world.crm.queue_items().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn without_message_id_and_without_stable_ids_it_is_one_e_mail() {
    let world = World::new();
    let ann = world.user("ann");
    let mut capability = MemoryTransport::new().capability();
    capability.stable_ids = false;
    let system = MemoryTransport::with_capability(capability);
    let text = "From: bob@contoso.example\r\nTo: ann@fabrikam.example\r\nSubject: no id\r\n\r\nhello\r\n";
    let route = world.route(&ann, system.clone());
    for _ in 0..3 {
        system.put(ann.id(), RawMessage::new(text));
        world.pass(&route).await;
        system.take_all(ann.id());
    }
    // another one of the same hour, subject and sender is another message
    system.put(ann.id(), RawMessage::new(text.replace("hello", "hello again")));
    world.pass(&route).await;
    assert_eq!(world.crm.received(), ["no id", "no id"]);
}

#[tokio::test(start_paused = true)]
async fn what_a_person_deleted_does_not_come_back() {
    let world = World::new();
    let (ann, system) = (world.user("ann"), MemoryTransport::new());
    system.put(ann.id(), mail("gone"));
    let route = world.route(&ann, system);
    world.pass(&route).await;
    let id = world.crm.emails()[0].id;
    world.crm.delete(id);
    // the state is lost too: the message is read again
    let again = World { state: email_router_engine::state_memory::MemoryState::new(), ..world };
    let report = again.pass(&route).await;
    assert_eq!((report.delivered, report.discarded), (0, 1));
    assert_eq!(again.crm.received(), [""; 0]);
    let note = &again.state.decisions(&DecisionQuery::Activity(id), 1).await.unwrap()[0];
    assert_eq!(note.record.verdict, Verdict::Discard);
}
