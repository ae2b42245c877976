//! Messages of one mailbox that are worked on at the same time, and those that are not.
#![allow(clippy::unwrap_used)] // a test file

mod world;

use std::sync::Arc;
use std::time::Duration;

use email_router_crm::{
    Error as CrmError, ErrorKind as CrmErrorKind, FilteringMethod, OrganizationSettings, UnknownSender,
};
use email_router_engine::StateStore as _;
use email_router_engine::ports::{DecisionNote, DecisionQuery};
use email_router_model::{Clock as _, RawMessage, SeededEntropy, Timestamp};
use email_router_transport::layer::fault::{FaultKind, Faults};
use email_router_transport::layer::{Fault, Operation};
use email_router_transport::memory::MemoryTransport;
use world::{Life, Place, Point, Watch, Watched, World, junk, large, mail, mail_from, subjects};

/// A mailbox, and a CRM in which a delivery takes longer than all the rest.
fn setup() -> (World, MemoryTransport, Place) {
    let world = World::new();
    let ann = world.user("ann");
    world.crm.deliveries_take(Duration::from_secs(1));
    (world, MemoryTransport::new(), ann)
}

/// A message with more fields.
fn with(subject: &str, id: &str, from: &str, fields: &str) -> RawMessage {
    RawMessage::new(format!(
        "From: {from}\r\nTo: ann@fabrikam.example\r\nSubject: {subject}\r\nMessage-ID: <{id}@contoso.example>\r\n\
         Date: Sun, 1 Mar 2026 10:00:00 +0000\r\n{fields}\r\nhello\r\n"
    ))
}

/// All that was noted about messages.
async fn notes(world: &World) -> Vec<DecisionNote> {
    world.state.decisions(&DecisionQuery::Between(Timestamp::MIN, Timestamp::MAX), 100).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_is_not_tied_together_is_delivered_together_and_told_in_order() {
    let (world, system, ann) = setup();
    for n in 0..50 {
        let subject = format!("m{n}");
        system.put(ann.id(), if n % 10 == 3 { junk(&subject) } else { mail(&subject) });
    }
    let report = world.pass(&world.route(&ann, system.clone())).await;
    assert_eq!((report.delivered, report.discarded, report.backlog), (45, 5, 0));
    assert_eq!(world.crm.most_deliveries(), 32);
    let notes = notes(&world).await;
    let mut told: Vec<(_, usize)> =
        notes.iter().map(|n| (n.at, n.record.subject[1..].parse().unwrap())).collect();
    told.sort_unstable();
    assert_eq!(told.iter().map(|(_, n)| *n).collect::<Vec<_>>(), (0..50).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn what_is_tied_together_goes_in_the_order_of_the_mailbox() {
    type Change = fn(&mut OrganizationSettings);
    let root = "AdAAAAAAAAAAAAAAAAAAAAAAAAAAAA==";
    let cases: [(&str, RawMessage, RawMessage, Change); 6] = [
        (
            "In-Reply-To",
            with("one", "1", "bob@contoso.example", ""),
            with("two", "2", "carol@contoso.example", "In-Reply-To: <1@contoso.example>\r\n"),
            |_| {},
        ),
        (
            "References",
            with("one", "1", "bob@contoso.example", ""),
            with("two", "2", "carol@contoso.example", "References: <0@x> <1@contoso.example>\r\n"),
            |_| {},
        ),
        (
            "Thread-Index",
            with("one", "1", "bob@contoso.example", &format!("Thread-Index: {root}\r\n")),
            with("two", "2", "carol@contoso.example", &format!("Thread-Index: {root}\r\n")),
            |_| {},
        ),
        (
            "subject and addresses",
            with("harvest festival tents", "1", "bob@contoso.example", ""),
            with("RE: harvest festival tents", "2", "bob@contoso.example", ""),
            |s| s.enable_smart_matching = true,
        ),
        (
            "a subject that may differ",
            with("harvest festival tents red", "1", "bob@contoso.example", ""),
            with("RE: harvest festival tents", "2", "bob@contoso.example", ""),
            |s| {
                s.enable_smart_matching = true;
                s.hash_delta_subject_count = 2;
            },
        ),
        (
            "tracking token",
            with("one CRM:0009009", "1", "bob@contoso.example", ""),
            with("two crm:0009009", "2", "bob@contoso.example", ""),
            |_| {},
        ),
    ];
    for (tie, first, second, change) in cases {
        let (world, system, ann) = setup();
        world.crm.settings_mut(change);
        // strangers before, between and behind
        let strangers = ["apple", "banana", "cherry"].map(mail);
        let [apple, banana, cherry] = strangers;
        for message in [apple, first, banana, second, cherry] {
            system.put(ann.id(), message);
        }
        let report = world.pass(&world.route(&ann, system.clone())).await;
        assert_eq!(report.delivered, 5, "{tie}");
        let emails = world.crm.emails();
        let by_id = |id: &str| {
            let wanted = |m: &email_router_model::MessageId| m.as_str().contains(id);
            emails.iter().find(|e| e.message_id.as_ref().is_some_and(wanted)).unwrap()
        };
        let (first, second) = (by_id("<1@contoso"), by_id("<2@contoso"));
        if tie == "tracking token" {
            // an incoming e-mail does not hand its token on; that both have one keeps their order all the same
            assert!(first.created_on < second.created_on, "{tie}");
            continue;
        }
        let notes = notes(&world).await;
        let of_second = notes.iter().find(|n| n.record.activity_id == Some(second.id)).unwrap();
        assert_eq!(of_second.record.correlated.as_ref().map(|c| c.activity_id), Some(first.id), "{tie}");
        let together = if tie == "a subject that may differ" { 1 } else { 3 };
        assert_eq!(world.crm.most_deliveries(), together, "{tie}");
    }
}

#[tokio::test(start_paused = true)]
async fn copies_become_one_activity_and_an_unknown_sender_one_record() {
    let (world, system, ann) = setup();
    world.crm.settings_mut(|s| s.create_unknown_sender = UnknownSender::Contact);
    for message in [mail("same"), mail("same"), mail_from("bob@contoso.example", "another"), mail("same")] {
        system.put(ann.id(), message);
    }
    let report = world.pass(&world.route(&ann, system.clone())).await;
    assert_eq!((report.delivered, report.discarded), (2, 2));
    assert_eq!(world.crm.most_deliveries(), 1);
    let senders: Vec<_> = world.crm.emails().iter().map(|e| e.parties[0].record.clone()).collect();
    assert!(senders[0].is_some() && senders.iter().all(|s| *s == senders[0]), "{senders:?}");
}

#[tokio::test(start_paused = true)]
async fn who_was_unknown_is_known_to_those_who_name_him_later() {
    for (named, together) in
        [("bob@contoso.example", 2), ("BOB+shop@contoso.example", 2), ("list@contoso.example", 4)]
    {
        let (world, system, ann) = setup();
        world.crm.settings_mut(|s| {
            s.create_unknown_sender = UnknownSender::Contact;
            s.plus_addressing = true;
        });
        let cc = format!("Cc: {named}\r\n");
        for (n, from) in
            ["carol@x.example", "bob@contoso.example", "dave@x.example", "erin@x.example"].iter().enumerate()
        {
            system.put(ann.id(), with(&format!("m{n}"), &n.to_string(), from, if n == 1 { "" } else { &cc }));
        }
        assert_eq!(world.pass(&world.route(&ann, system.clone())).await.delivered, 4);
        let mut emails = world.crm.emails();
        emails.sort_by(|a, b| a.subject.cmp(&b.subject));
        let known: Vec<bool> = emails.iter().map(|e| e.parties.last().unwrap().record.is_some()).collect();
        let bob = named != "list@contoso.example";
        // the last party of the second is the user it went to
        assert_eq!(known, [false, true, bob, bob], "{named}");
        assert_eq!(
            world.crm.most_deliveries(),
            together,
            "only who writes from an address changes who that is"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_loop_limit_is_not_passed_together() {
    let (world, system, ann) = setup();
    world.crm.settings_mut(|s| s.loop_limit_per_sender = 5);
    for n in 0..30 {
        system.put(ann.id(), mail(&format!("m{n}")));
    }
    let report = world.pass(&world.route(&ann, system.clone())).await;
    assert_eq!((report.delivered, report.deferred), (5, 25));
}

#[tokio::test(start_paused = true)]
async fn what_is_large_or_suspect_is_worked_on_alone() {
    // six messages, every second one of this size
    for (size, together) in [(100_000, 6), (2_000_000, 6), (6_000_000, 2), (9_000_000, 1)] {
        let (world, system, ann) = setup();
        for n in 0..6 {
            let message = mail(&format!("m{n}"));
            system.put(ann.id(), if n % 2 == 0 { large(&message, size) } else { message });
        }
        assert_eq!(world.pass(&world.route(&ann, system.clone())).await.delivered, 6);
        assert_eq!(world.crm.most_deliveries(), together, "{size}");
    }
    let (world, system, ann) = setup();
    let ids: Vec<_> = (0..6).map(|n| system.put(ann.id(), mail(&format!("m{n}")))).collect();
    world.state.begin(ann.id(), &ids, world.clock.now()).await.unwrap();
    assert_eq!(world.pass(&world.route(&ann, system.clone())).await.delivered, 6);
    assert_eq!(world.crm.most_deliveries(), 1, "each was begun before");
}

#[tokio::test(start_paused = true)]
async fn a_large_answer_is_judged_when_what_it_answers_is_there() {
    let (world, system, ann) = setup();
    world.queue("help");
    world.crm.set_filter(&ann.record, FilteringMethod::InResponseToCrmEmail);
    let question = "From: bob@contoso.example\r\nTo: ann@fabrikam.example, help@fabrikam.example\r\nSubject: one\r\n\
                    Message-ID: <1@contoso.example>\r\n\r\nhello\r\n";
    system.put(ann.id(), RawMessage::new(question));
    let answer = with("two", "2", "carol@contoso.example", "In-Reply-To: <1@contoso.example>\r\n");
    system.put(ann.id(), large(&answer, 1_000_000));
    let stranger = with("three", "3", "carol@contoso.example", "In-Reply-To: <0@contoso.example>\r\n");
    system.put(ann.id(), large(&stranger, 1_000_000));
    let report = world.pass(&world.route(&ann, system.clone())).await;
    assert_eq!(
        (report.delivered, report.discarded),
        (2, 1),
        "its header section alone decides about the answer"
    );
}

#[tokio::test(start_paused = true)]
async fn a_session_that_breaks_does_not_take_with_it_what_was_read() {
    let mut most = 0;
    for operation in 0.. {
        let (world, system, ann) = setup();
        for n in 0..10 {
            system.put(ann.id(), mail(&format!("m{n}")));
        }
        let faults = Faults::new(Arc::new(SeededEntropy::new(1)));
        faults.at(operation, FaultKind::FailBefore);
        let mut route = world.route(&ann, Fault::new(system.clone(), faults.clone()));
        route.settings.delete_after_processing = true;
        let (report, result) = world.try_pass(&route).await;
        if faults.hit() == 0 {
            break;
        }
        assert!(result.is_err(), "{operation}");
        assert_eq!((report.delivered, report.processed), (report.processed, report.delivered), "{operation}");
        assert_eq!(world.crm.emails().len() as u64, report.delivered, "{operation}: all is recorded");
        if report.delivered < 10 {
            most = most.max(report.delivered);
        }
        tokio::time::advance(Duration::from_secs(3600)).await;
        world.pass(&route).await;
        assert_eq!((world.crm.emails().len(), subjects(&system, &ann).len()), (10, 0), "{operation}");
    }
    assert_eq!(most, 9, "the tenth could not be read, the nine before it were on their way");
}

#[tokio::test(start_paused = true)]
async fn only_the_message_that_broke_the_session_is_blamed() {
    for (failing, size) in [(Operation::Fetch, 0), (Operation::Headers, 2_000)] {
        let mut at = 0;
        for broken in [false, true] {
            let (world, system, ann) = setup();
            let ids: Vec<_> =
                (0..20).map(|n| system.put(ann.id(), large(&mail(&format!("m{n}")), size))).collect();
            let faults = Faults::new(Arc::new(SeededEntropy::new(1)));
            if broken {
                faults.at(at, FaultKind::FailBefore);
            }
            let mut route = world.route(&ann, Fault::new(system.clone(), faults));
            route.settings.header_first_above = 1_000;
            let (report, result) = world.try_pass(&route).await;
            if !broken {
                let calls = system.calls();
                let sixth = calls.iter().enumerate().filter(|(_, call)| call.operation == failing).nth(5);
                at = sixth.unwrap().0 as u64;
                continue;
            }
            assert!(result.is_err());
            assert_eq!((report.delivered, report.deferred, report.backlog), (5, 1, 14), "{failing}");
            for (n, id) in ids.iter().enumerate() {
                let attempts = world.attempts(&ann, id).await.unwrap_or_default();
                assert_eq!(attempts, u32::from(n <= 5), "{failing} {n}");
            }
            let report = world.pass(&route).await;
            assert_eq!((report.delivered, report.deferred), (14, 1), "{failing}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_size_that_lies_does_not_fill_the_memory() {
    for (size, together) in [(1_000_000, 6), (6_000_000, 2), (9_000_000, 1)] {
        let (world, system, ann) = setup();
        for n in 0..6 {
            system.put(ann.id(), large(&mail(&format!("m{n}")), size));
        }
        let watch = Arc::new(Watch::default());
        *watch.listed_size.lock().unwrap() = Some(10);
        let report = world.pass(&world.route(&ann, Watched { inner: system, watch })).await;
        assert_eq!((report.delivered, world.crm.most_deliveries()), (6, together), "{size}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_ends_without_work_is_not_heaped_up_behind_what_takes_long() {
    let (world, system, ann) = setup();
    system.put(ann.id(), mail("slow"));
    for n in 0..20 {
        // their header sections say how old they are, and are read only with the rest
        let old = String::from_utf8(mail(&format!("m{n}")).bytes().to_vec()).unwrap().replace("2026", "2020");
        system.put(ann.id(), large(&RawMessage::new(old), 3_000_000));
    }
    let mut route = world.route(&ann, system.clone());
    route.settings.header_first_above = u64::MAX;
    route.settings.process_from = Some("2026-01-01T00:00:00Z".parse().unwrap());
    assert!(tokio::time::timeout(Duration::from_millis(500), world.pass(&route)).await.is_err());
    assert_eq!(system.count(Operation::Fetch), 3, "8 MiB is the most that is held");
    let report = world.pass(&route).await;
    assert_eq!((report.delivered, report.left_alone, report.backlog), (1, 20, 0));
}

#[tokio::test(start_paused = true)]
async fn an_old_view_is_renewed_once_for_all_that_need_it() {
    let (world, system, ann) = setup();
    let view = world.view().await;
    world.queue("new");
    for n in 0..40 {
        let to = if n % 4 == 3 { "ann" } else { "new" };
        let text = String::from_utf8(mail(&format!("m{n}")).bytes().to_vec()).unwrap();
        system.put(ann.id(), RawMessage::new(text.replace("To: ann@", &format!("To: {to}@"))));
    }
    let asked = world.crm.count("mailboxes");
    world.crm.deliveries_take(Duration::from_millis(100));
    let route = world.route(&ann, system.clone());
    let (report, result) =
        world.parts(&Life::until(Point::Never)).run(&route, &view, &world.stop.subscribe()).await;
    result.unwrap();
    assert_eq!((report.delivered, report.discarded, report.backlog), (40, 0, 0));
    assert_eq!((report.view_outdated, world.crm.count("mailboxes") - asked), (true, 1));
    let notes = notes(&world).await;
    let told: Vec<usize> = notes.iter().map(|n| n.record.subject[1..].parse().unwrap()).collect();
    assert_eq!(told.len(), 40);
}

#[tokio::test(start_paused = true)]
async fn a_crm_that_fails_in_the_middle_blames_nobody() {
    for effect in [false, true] {
        let (world, system, ann) = setup();
        let ids: Vec<_> = (0..50).map(|n| system.put(ann.id(), mail(&format!("m{n}")))).collect();
        let route = world.route(&ann, system.clone());
        let lost = || CrmError::new(CrmErrorKind::Unreachable, "no answer");
        world.crm.fail_next("deliver_incoming", 500, effect, lost);
        for _ in 0..7 {
            let (report, result) = world.try_pass(&route).await;
            assert!(result.unwrap_err().to_string().contains("no answer"));
            let there = world.crm.emails().len() as u64;
            // what came through without an answer is found there by the next pass
            assert!(report.processed <= there && report.deferred == 0, "{report:?}");
            assert_eq!(report.listed, 50);
            for id in &ids {
                let seen = world.state.seen(ann.id(), std::slice::from_ref(id)).await.unwrap();
                let unsettled = seen[0].as_ref().filter(|seen| seen.settled.is_none());
                assert_eq!(unsettled.map_or(0, |seen| seen.attempts), 0, "{id}");
            }
            if report.backlog == 0 || (effect && there == 50) {
                break;
            }
        }
        world.crm.recover("deliver_incoming");
        world.pass(&route).await;
        assert_eq!((world.crm.emails().len(), world.classes().await.len()), (50, 0));
        assert_eq!(world.heard.count("deliver ann"), 50);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_is_finished_when_the_router_stops() {
    let (world, system, ann) = setup();
    let ids: Vec<_> = (0..50).map(|n| system.put(ann.id(), mail(&format!("m{n}")))).collect();
    let mut route = world.route(&ann, system.clone());
    route.settings.delete_after_processing = true;
    let stopping = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        world.stop.send_replace(true);
    };
    let (report, ()) = tokio::join!(world.pass(&route), stopping);
    assert_eq!((report.delivered, report.processed, report.backlog), (32, 32, 18));
    assert_eq!(subjects(&system, &ann).len(), 18);
    for id in &ids {
        assert_eq!(world.attempts(&ann, id).await.unwrap_or_default(), 0, "{id}");
    }
    world.stop.send_replace(false);
    assert_eq!(world.pass(&route).await.delivered, 18);
}
