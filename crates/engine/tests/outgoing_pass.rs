//! A pass over outgoing mail: flow, fairness, results, errors by scope, stop and deadline.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test file

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use email_router_crm::{Attachment, EmailStatus, ParticipationType, SendOutcome};
use email_router_engine::outgoing::InFlight;
use email_router_engine::ports::{LedgerEntry, LedgerResult};
use email_router_engine::{InDoubtPolicy, StateStore as _};
use email_router_model::{Clock as _, MessageId, Retry, Scope};
use email_router_transport::{DsnNotify, Error, ErrorKind};
use support::{Answer, Fuse, FusedState, World, activity, address, mail};
use tokio::sync::watch;

const MINUTE: Duration = Duration::from_secs(60);
const SERVER: &str = "smtp mx.example.com:25";

fn world(mails: impl IntoIterator<Item = (u128, u128)>) -> World {
    let world = World::new();
    for (n, user) in mails {
        world.crm.add(mail(n, user));
    }
    world
}

fn temporary() -> Error {
    Error::new(ErrorKind::MessageRefused, "smtp mx refused the message")
        .with_retry(Retry::Later(None))
        .with_reply("451 4.7.1 greylisted")
}

#[tokio::test]
async fn sends_once_and_tells_everybody() {
    let world = world([(1, 1)]);
    let report = world.pass(&[1]).await;
    assert_eq!((report.sent, report.retried, report.failed, report.in_doubt), (1, 0, 0, 0));
    assert_eq!((report.senders[0].sent, report.recovered, report.ended_early), (1, 0, false));
    let after = world.crm.mail(1);
    assert_eq!((after.status, after.email.delivery_attempts), (EmailStatus::Sent, 1));
    let expected = format!("<{}@router.example>", activity(1));
    assert_eq!(after.email.message_id.as_ref().unwrap().as_str(), expected);
    {
        let delivered = world.system.delivered.lock().unwrap();
        assert_eq!((delivered.len(), delivered[0].message_id.as_str()), (1, expected.as_str()));
        let text = String::from_utf8_lossy(&delivered[0].mime).into_owned();
        assert!(text.contains("Subject: Offer 1 CRM:0001001\r\n"), "{text}");
    }
    let heard = world.heard.0.lock().unwrap().clone();
    assert!(
        matches!(&heard[..], [(subject, SendOutcome::Sent { .. })] if subject == "Offer 1 CRM:0001001"),
        "{heard:?}"
    );
    let entry = world.state.ledger(&activity(1)).await.unwrap().unwrap();
    assert!(entry.closed && matches!(entry.result, Some(LedgerResult::Accepted { .. })));
    // the next pass has nothing to do
    world.pass(&[1]).await;
    assert_eq!(world.system.count(1), 1);
}

#[tokio::test]
async fn without_tokens_the_subject_stays() {
    let world = world([(1, 1)]);
    world.crm.settings.lock().unwrap().use_tracking_token = false;
    world.pass(&[1]).await;
    assert_eq!(world.crm.mail(1).email.subject, "Offer 1");
}

#[tokio::test]
async fn a_heavy_sender_starves_nobody() {
    // user 1 has 30 e-mails, users 2 to 7 have one or two each; five senders and two e-mails a round
    let mut mails: Vec<(u128, u128)> = (1..=30).map(|n| (n, 1)).collect();
    mails.extend((2..=7).flat_map(|user| [(100 + user, user), (200 + user, user)]));
    let mut world = world(mails);
    world.concurrency = 1;
    world.settings.request_batch_size = 2;
    let report = world.pass(&[1, 2, 3, 4, 5, 6, 7]).await;
    assert_eq!(report.sent, 42);
    let order: Vec<String> = {
        let delivered = world.system.delivered.lock().unwrap();
        delivered.iter().map(|m| m.envelope.sender.as_ref().unwrap().local_part().to_owned()).collect()
    };
    // within the first round of all seven: 14 e-mails
    let mut heavy = order[..14].iter().filter(|s| *s == "user1").count();
    assert_eq!(heavy, 2, "{order:?}");
    heavy = order[..5].iter().filter(|s| *s == "user1").count();
    assert_eq!(heavy, 1, "inside a round the senders take turns: {order:?}");
    assert!(order[14..].iter().all(|s| s == "user1"), "{order:?}");
}

#[tokio::test]
async fn a_permanent_refusal_fails_at_once_with_the_servers_words() {
    let mut world = world([(1, 1), (2, 1)]);
    world.concurrency = 1;
    world.system.answer([Answer::Refuse(
        Error::new(ErrorKind::RecipientsRefused, "all recipients were refused")
            .with_reply("550 5.1.1 no such user"),
    )]);
    let report = world.pass(&[1]).await;
    assert_eq!((report.failed, report.sent), (1, 1), "the next e-mail goes out");
    let after = world.crm.mail(1);
    assert_eq!((after.status, after.email.delivery_attempts), (EmailStatus::Failed, 1));
    assert!(after.report[0].contains("550 5.1.1 no such user"), "{:?}", after.report);
}

#[tokio::test]
async fn a_temporary_refusal_backs_off_and_gives_up_in_the_end() {
    let mut world = world([(1, 1)]);
    world.settings.maximum_delivery_attempts = 4;
    for attempt in 1..=4_u32 {
        world.system.answer([Answer::Refuse(temporary())]);
        let now = world.clock.now();
        world.pass(&[1]).await;
        let after = world.crm.mail(1);
        assert_eq!(after.email.delivery_attempts, attempt);
        assert!(after.report[0].contains("451 4.7.1 greylisted"), "{:?}", after.report);
        if attempt == 4 {
            assert_eq!(after.status, EmailStatus::Failed);
            assert!(after.report[0].starts_with("given up after 4 attempts"), "{:?}", after.report);
            break;
        }
        assert_eq!(after.status, EmailStatus::PendingSend);
        let waited = Duration::try_from(after.not_before.unwrap().duration_since(now)).unwrap();
        let base = 5 * MINUTE * 2_u32.pow(attempt - 1);
        assert!(waited >= base && waited < base + base / 5, "attempt {attempt}: {waited:?}");
        // before its time nothing happens
        world.later(base - MINUTE);
        world.pass(&[1]).await;
        assert_eq!(world.crm.mail(1).email.delivery_attempts, attempt);
        world.later(base);
    }
    assert_eq!(world.system.count(1), 0);
}

/// What lies outside of the message uses up none of its attempts and does not lengthen its delay, however long it lasts.
#[tokio::test]
async fn an_outage_uses_up_no_attempt() {
    let world = world([(1, 1)]);
    for n in 0..12 {
        let (kind, text) = if n % 2 == 0 {
            (ErrorKind::Refused, "smtp mx: connection refused")
        } else {
            (ErrorKind::Authentication, "smtp mx: wrong password")
        };
        world.system.answer([Answer::Refuse(Error::new(kind, text))]);
        world.pass(&[1]).await;
        assert_eq!(world.crm.mail(1).status, EmailStatus::PendingSend, "outage {n}");
        world.later(6 * MINUTE);
    }
    world.system.answer([Answer::Refuse(temporary())]);
    world.pass(&[1]).await;
    let after = world.crm.mail(1);
    assert_eq!(
        after.status,
        EmailStatus::PendingSend,
        "the first greylisting is the first: {:?}",
        after.report
    );
    let waits = Duration::try_from(after.not_before.unwrap().duration_since(world.clock.now())).unwrap();
    assert!(waits < 6 * MINUTE, "{waits:?}");
    world.later(6 * MINUTE);
    world.pass(&[1]).await;
    assert_eq!(world.crm.mail(1).status, EmailStatus::Sent);
}

/// A person who sets a failed e-mail back to its first attempt gives it all attempts again.
#[tokio::test]
async fn a_fresh_start_begins_to_count_again() {
    let mut world = world([(1, 1)]);
    world.settings.maximum_delivery_attempts = 2;
    for _ in 0..2 {
        world.system.answer([Answer::Refuse(temporary())]);
        world.pass(&[1]).await;
        world.later(20 * MINUTE);
    }
    assert_eq!(world.crm.mail(1).status, EmailStatus::Failed);
    world.crm.change(1, |m| {
        (m.status, m.email.delivery_attempts, m.version) = (EmailStatus::PendingSend, 0, m.version + 1);
        m.not_before = None;
    });
    world.system.answer([Answer::Refuse(temporary())]);
    world.pass(&[1]).await;
    assert_eq!(world.crm.mail(1).status, EmailStatus::PendingSend);
}

#[tokio::test]
async fn the_delay_is_a_day_at_most_and_the_servers_wish_counts() {
    let mut world = world([(1, 1), (2, 2)]);
    world.settings.maximum_delivery_attempts = 100;
    let many = LedgerEntry {
        activity_id: activity(1),
        message_id: MessageId::parse("<1@router.example>").unwrap(),
        mailbox: "user1".into(),
        attempt: 40,
        at: world.clock.now(),
        result: None,
        closed: true,
        earlier: None,
        refusals: 39,
    };
    world.state.ledger_begin(&many).await.unwrap();
    world.crm.change(1, |m| m.email.delivery_attempts = 40);
    world.system.answer([
        Answer::Refuse(temporary()),
        Answer::Refuse(temporary().with_retry(Retry::Later(Some(Duration::from_secs(90))))),
    ]);
    world.concurrency = 1;
    world.pass(&[1, 2]).await;
    let waits = |n| {
        let at = world.crm.mail(n).not_before.unwrap();
        Duration::try_from(at.duration_since(world.clock.now())).unwrap()
    };
    assert_eq!(waits(1), Duration::from_secs(24 * 3600));
    assert_eq!(waits(2), Duration::from_secs(90));
}

#[tokio::test]
async fn a_wrong_password_stops_this_sender_only_and_fails_no_mail() {
    let mut world = world([(1, 1), (2, 1), (3, 1), (10, 2)]);
    world.concurrency = 1;
    world.settings.maximum_delivery_attempts = 1;
    world.system.answer([Answer::Refuse(Error::new(ErrorKind::Authentication, "smtp mx: wrong password"))]);
    let report = world.pass(&[1, 2]).await;
    assert_eq!((report.retried, report.sent, report.failed), (1, 1, 0));
    let error = report.senders[0].error.as_ref().unwrap();
    assert_eq!(error.to_string(), "smtp mx: wrong password");
    assert!(report.senders[1].error.is_none() && !report.senders[1].left_alone);
    assert_eq!(world.crm.mail(10).status, EmailStatus::Sent, "the other sender on the same server is served");
    let first = world.crm.mail(1);
    assert_eq!(first.status, EmailStatus::PendingSend, "not Failed, although its attempts are used up");
    for n in [2, 3] {
        assert_eq!(world.crm.mail(n).email.delivery_attempts, 0, "the others were left alone");
    }
    // the password is right again
    world.later(6 * MINUTE);
    world.pass(&[1, 2]).await;
    assert!((1..=3).all(|n| world.crm.mail(n).status == EmailStatus::Sent));
}

#[tokio::test]
async fn a_dead_server_stops_all_its_senders_and_no_other() {
    let mut world = world([(1, 1), (2, 1), (10, 2), (20, 3)]);
    world.concurrency = 1;
    world.settings.batch_size = 1;
    world.system.answer([Answer::Refuse(Error::new(ErrorKind::Refused, "smtp mx: connection refused"))]);
    let fuse = Fuse::none();
    let senders = [
        world.sender(1, &fuse, SERVER),
        world.sender(2, &fuse, SERVER),
        world.sender(3, &fuse, "smtp other:25"),
    ];
    let (_stop, stopped) = watch::channel(false);
    let report = world.router(&fuse).run(&senders, &stopped, None).await.unwrap();
    assert!(report.senders[0].error.is_some() && report.senders[1].left_alone);
    assert_eq!(world.crm.mail(10).email.delivery_attempts, 0);
    assert_eq!(world.crm.mail(20).status, EmailStatus::Sent);
}

#[tokio::test]
async fn a_message_that_always_breaks_the_connection_neither_blocks_nor_stays_for_ever() {
    let mut world = world([(1, 1), (2, 1)]);
    world.concurrency = 1;
    world.settings.maximum_delivery_attempts = 2;
    let broken = || Answer::Refuse(Error::new(ErrorKind::ConnectionLost, "smtp mx closed the connection"));
    world.system.answer([broken()]);
    let report = world.pass(&[1]).await;
    assert_eq!(
        report.senders[0].error.as_ref().map(email_router_model::Classified::scope),
        Some(Scope::Mailbox)
    );
    world.pass(&[1]).await;
    assert_eq!(world.crm.mail(2).status, EmailStatus::Sent, "the next pass serves the others first");
    world.later(10 * MINUTE);
    world.system.answer([broken()]);
    world.pass(&[1]).await;
    assert_eq!(world.crm.mail(1).status, EmailStatus::Failed);
}

#[tokio::test]
async fn partial_acceptance_is_sent_and_names_who_was_refused() {
    let world = world([(1, 1)]);
    world.crm.change(1, |m| {
        let mut cc = m.email.parties[1].clone();
        (cc.participation, cc.address) = (ParticipationType::Cc, Some(address("gone@example.net")));
        m.email.parties.push(cc);
    });
    world.system.answer([Answer::TakeFirst]);
    let report = world.pass(&[1]).await;
    assert_eq!(report.sent, 1);
    let after = world.crm.mail(1);
    assert_eq!(
        (after.status, after.report),
        (EmailStatus::Sent, vec!["gone@example.net: 550 unknown".to_owned()])
    );
}

#[tokio::test]
async fn in_doubt_is_reported_and_never_repeated() {
    for taken in [false, true] {
        let world = world([(1, 1)]);
        world.system.answer([Answer::Doubt { taken }]);
        let report = world.pass(&[1]).await;
        assert_eq!((report.in_doubt, report.sent), (1, 0));
        world.later(100 * MINUTE);
        world.pass(&[1]).await;
        let after = world.crm.mail(1);
        assert!(after.in_doubt && after.report[0].contains("closed the connection"), "{:?}", after.report);
        assert_eq!(world.system.count(1), usize::from(taken));
    }
}

#[tokio::test]
async fn in_doubt_is_found_out_where_the_mail_system_can_tell() {
    for taken in [false, true] {
        let mut world = world([(1, 1)]);
        world.can_find = true;
        world.system.answer([Answer::Doubt { taken }]);
        let report = world.pass(&[1]).await;
        assert_eq!((report.sent, report.undecided), (u64::from(taken), u64::from(!taken)));
        // the server may still be at work on it: not repeated at once
        world.pass(&[1]).await;
        assert_eq!(world.system.count(1), usize::from(taken));
        world.later(6 * MINUTE);
        world.pass(&[1]).await;
        world.later(20 * MINUTE);
        world.pass(&[1]).await;
        assert_eq!(
            (world.crm.mail(1).status, world.system.count(1)),
            (EmailStatus::Sent, 1),
            "taken: {taken}"
        );
    }
}

#[tokio::test]
async fn in_doubt_is_sent_again_when_the_administrator_wants_it() {
    let world = world([(1, 1)]).policy(InDoubtPolicy::SendAgain);
    world.system.answer([Answer::Doubt { taken: true }]);
    let report = world.pass(&[1]).await;
    assert_eq!((report.retried, report.in_doubt), (1, 0));
    world.later(10 * MINUTE);
    world.pass(&[1]).await;
    assert_eq!((world.crm.mail(1).status, world.system.count(1)), (EmailStatus::Sent, 2));
    let delivered = world.system.delivered.lock().unwrap();
    assert_eq!(delivered[0].mime, delivered[1].mime, "the same bytes under the same Message-ID");
}

#[tokio::test]
async fn what_a_person_sends_again_after_a_report_goes_out() {
    let world = world([(1, 1)]);
    world.system.answer([Answer::Doubt { taken: false }]);
    world.pass(&[1]).await;
    world.crm.change(1, |m| {
        m.status = EmailStatus::PendingSend;
        m.in_doubt = false;
        m.version += 1;
    });
    world.pass(&[1]).await;
    assert_eq!((world.crm.mail(1).status, world.system.count(1)), (EmailStatus::Sent, 1));
}

#[tokio::test]
async fn an_accepted_mail_is_never_sent_again_whatever_the_crm_says() {
    let world = world([(1, 1)]);
    world.pass(&[1]).await;
    // the CRM was restored from a backup
    world.crm.change(1, |m| {
        m.status = EmailStatus::PendingSend;
        m.email.delivery_attempts = 0;
        m.version = 1;
    });
    let report = world.pass(&[1]).await;
    assert_eq!((report.sent, report.recovered), (1, 1));
    assert_eq!((world.crm.mail(1).status, world.system.count(1)), (EmailStatus::Sent, 1));
}

#[tokio::test]
async fn what_cannot_be_written_fails_with_the_reason() {
    let mut world = world([(1, 1), (2, 1), (3, 1), (4, 1)]);
    world.settings.max_message_bytes = 100_000;
    world.crm.change(1, |m| m.email.parties.truncate(1));
    world.crm.change(2, |m| m.email.parties[1].address = None);
    world.crm.change(3, |m| {
        m.attachments.push(Attachment {
            file_name: "big.bin".to_owned(),
            mime_type: "application/octet-stream".to_owned(),
            content_id: None,
            content: Bytes::from(vec![0; 200_000]),
        });
    });
    let report = world.pass(&[1]).await;
    assert_eq!((report.failed, report.sent), (3, 1));
    for (n, word) in
        [(1, "has no recipient"), (2, "\"Bob\", who has no e-mail address"), (3, "at most 100000 are sent")]
    {
        let after = world.crm.mail(n);
        assert_eq!(after.status, EmailStatus::Failed);
        assert!(after.report[0].contains(word), "{:?}", after.report);
    }
}

/// Attachments that cannot fit are not read: they could be larger than the memory.
#[tokio::test]
async fn attachments_that_are_too_large_are_not_read() {
    let mut world = world([(1, 1)]);
    world.settings.max_message_bytes = 100_000;
    world.crm.change(1, |m| {
        m.attachments.push(Attachment {
            file_name: "big.bin".to_owned(),
            mime_type: "application/octet-stream".to_owned(),
            content_id: None,
            content: Bytes::from(vec![0; 200_000]),
        });
    });
    let read = email_router_crm::Error::new(email_router_crm::ErrorKind::Unreachable, "they were read");
    world.crm.fail("attachments", read);
    let report = world.pass(&[1]).await;
    assert_eq!(report.failed, 1);
    assert!(world.crm.mail(1).report[0].contains("at most 100000 are sent"));
}

#[tokio::test]
async fn a_lost_claim_is_left_to_whoever_won() {
    let world = world([(1, 1), (2, 1)]);
    world.crm.meddle.lock().unwrap().push(activity(1));
    let report = world.pass(&[1]).await;
    assert_eq!((report.lost_claims, report.sent), (1, 1));
    assert_eq!(world.system.count(1), 0);
}

/// What stays listed has one turn in a pass, so that a pass ends; what lies behind it comes in the next.
#[tokio::test]
async fn a_pass_ends_although_the_list_does_not_get_shorter() {
    let world = world((1..=5).map(|n| (n, 1)));
    world.crm.meddle.lock().unwrap().extend((1..=5).map(activity));
    let report = tokio::time::timeout(MINUTE, world.pass(&[1])).await.expect("the pass ends");
    assert_eq!((report.lost_claims, report.sent), (5, 0));
}

#[tokio::test]
async fn stop_finishes_what_is_in_flight_and_begins_nothing() {
    let mut world = world([(1, 1), (2, 1), (3, 1)]);
    world.concurrency = 1;
    world.system.answer([Answer::Wait]);
    let fuse = Fuse::none();
    let senders = [world.sender(1, &fuse, SERVER)];
    let (stop, stopped) = watch::channel(false);
    let router = world.router(&fuse);
    let run = router.run(&senders, &stopped, None);
    let interrupt = async {
        world.system.arrived.notified().await;
        stop.send(true).unwrap();
        world.system.gate.notify_one();
    };
    let (report, ()) = tokio::join!(run, interrupt);
    let report = report.unwrap();
    assert!(report.ended_early);
    assert_eq!((report.sent, world.crm.mail(1).status), (1, EmailStatus::Sent));
    for n in [2, 3] {
        let after = world.crm.mail(n);
        assert_eq!((after.status, after.email.delivery_attempts), (EmailStatus::PendingSend, 0));
    }
    assert!(world.state.ledger_open().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_deadline_ends_a_pass_the_same_way() {
    let mut world = world([(1, 1), (2, 1)]);
    world.concurrency = 1;
    world.system.answer([Answer::Wait]);
    let fuse = Fuse::none();
    let senders = [world.sender(1, &fuse, SERVER)];
    let (_stop, stopped) = watch::channel(false);
    let router = world.router(&fuse);
    let deadline = tokio::time::Instant::now() + MINUTE;
    let run = router.run(&senders, &stopped, Some(deadline));
    let slow = async {
        tokio::time::sleep(2 * MINUTE).await;
        world.system.gate.notify_one();
    };
    let (report, ()) = tokio::join!(run, slow);
    let report = report.unwrap();
    assert!(report.ended_early);
    assert_eq!((report.sent, world.crm.mail(2).status), (1, EmailStatus::PendingSend));
}

/// Two passes over one sender, as when a plan is replaced: the second leaves alone what the first has in hand, and still does so
/// when it comes to it again.
#[tokio::test]
async fn passes_that_share_what_is_in_flight_never_meet() {
    let world = world([(1, 1)]);
    world.system.answer([Answer::Wait]);
    let (fuse, in_flight) = (Fuse::none(), InFlight::default());
    let senders = [world.sender(1, &fuse, SERVER)];
    let (_stop, stopped) = watch::channel(false);
    let first = world.router(&fuse).with_in_flight(&in_flight);
    let run = first.run(&senders, &stopped, None);
    let others = async {
        world.system.arrived.notified().await;
        for _ in 0..2 {
            let second = world.router(&fuse).with_in_flight(&in_flight);
            let report = second.run(&senders, &stopped, None).await.unwrap();
            assert_eq!((report.sent, report.in_doubt, report.recovered), (0, 0, 0));
        }
        world.system.gate.notify_one();
    };
    let (report, ()) = tokio::join!(run, others);
    assert_eq!((report.unwrap().sent, world.system.count(1)), (1, 1));
}

#[tokio::test]
async fn no_more_at_once_than_allowed() {
    for limit in [1, 3] {
        let mut world = world((1..=20).map(|n| (n, n % 4)));
        world.concurrency = limit;
        let report = world.pass(&[0, 1, 2, 3]).await;
        assert_eq!(report.sent, 20);
        assert_eq!(world.system.most_busy.load(std::sync::atomic::Ordering::SeqCst), limit);
    }
}

#[tokio::test]
async fn a_crm_that_fails_ends_the_pass_and_loses_nothing() {
    use email_router_crm::{Error as CrmError, ErrorKind as CrmKind};
    for call in ["pending", "claim", "attachments", "prepare", "finish"] {
        let world = world([(1, 1)]);
        world.crm.fail(call, CrmError::new(CrmKind::Unreachable, "the CRM does not answer"));
        let fuse = Fuse::none();
        let senders = [world.sender(1, &fuse, SERVER)];
        let (_stop, stopped) = watch::channel(false);
        let router = world.router(&fuse);
        let error = router.run(&senders, &stopped, None).await.unwrap_err();
        assert_eq!(error.to_string(), "the CRM does not answer", "{call}");
        // the same router goes on as soon as the CRM answers
        router.run(&senders, &stopped, None).await.unwrap();
        assert_eq!((world.crm.mail(1).status, world.system.count(1)), (EmailStatus::Sent, 1), "{call}");
    }
    // an error that concerns one e-mail fails this one only
    let world = world([(1, 1), (2, 1)]);
    world.crm.fail("prepare", CrmError::new(CrmKind::Invalid, "the party Bob has no address"));
    let report = world.pass(&[1]).await;
    assert_eq!((report.failed, report.sent), (1, 1));
}

#[tokio::test]
async fn a_state_store_that_fails_stops_before_anything_is_handed_over() {
    for (call, delivered) in [("ledger_begin", 0), ("ledger_result", 1), ("ledger_close", 1)] {
        let mut world = world([(1, 1), (2, 1)]);
        world.concurrency = 1;
        let fuse = Fuse::none();
        let senders = [world.sender(1, &fuse, SERVER)];
        let (_stop, stopped) = watch::channel(false);
        let router = world.router_on(FusedState {
            inner: world.state.clone(),
            fuse: Arc::clone(&fuse),
            failure: Mutex::new(Some(call)),
        });
        let result = router.run(&senders, &stopped, None).await;
        if call == "ledger_result" {
            // the CRM was told, so the result is not lost
            result.unwrap();
        } else {
            assert_eq!(result.unwrap_err().to_string(), "the disk is full", "{call}");
            assert_eq!(world.system.count(1), delivered, "{call}");
            assert_eq!(world.system.count(2), 0, "{call}: the pass ended");
        }
        router.run(&senders, &stopped, None).await.unwrap();
        for n in [1, 2] {
            assert_eq!((world.crm.mail(n).status, world.system.count(n)), (EmailStatus::Sent, 1), "{call}");
        }
    }
}

#[tokio::test]
async fn delivery_receipts_are_asked_for() {
    let mut world = world([(1, 1), (2, 1)]);
    world.concurrency = 1;
    world.crm.change(1, |m| m.email.delivery_receipt_requested = true);
    world.pass(&[1]).await;
    world.crm.add(mail(3, 1));
    world.crm.change(3, |m| m.email.delivery_receipt_requested = true);
    world.settings.request_dsn = false;
    world.pass(&[1]).await;
    let options = world.system.options.lock().unwrap();
    let asked = options[0].dsn.as_ref().unwrap();
    assert_eq!(asked.notify, DsnNotify { success: true, failure: true, delay: true });
    assert_eq!(asked.envelope_id.as_deref(), Some(activity(1).to_string().as_str()));
    assert!(options[1].dsn.is_none() && options[2].dsn.is_none());
}

#[tokio::test]
async fn a_sender_that_is_not_served_keeps_its_entries() {
    let world = world([(1, 1), (2, 2)]);
    assert!(world.killed_pass(&[1], &Fuse::named("after submit")).await);
    world.pass(&[2]).await;
    assert_eq!(world.state.ledger_open().await.unwrap().len(), 1, "somebody else may be at work on it");
    world.pass(&[1]).await;
    assert!(world.state.ledger_open().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_transport_that_cannot_send_uses_up_no_attempt() {
    let world = world([(1, 1)]);
    let fuse = Fuse::none();
    let senders = [world.sender(1, &fuse, "pop3 mx.example.com:110")];
    let (_stop, stopped) = watch::channel(false);
    let report = world.router(&fuse).run(&senders, &stopped, None).await.unwrap();
    let error = report.senders[0].error.as_ref().unwrap();
    assert_eq!(error.to_string(), "pop3 mx.example.com:110 cannot send");
    let after = world.crm.mail(1);
    assert_eq!((after.status, after.email.delivery_attempts), (EmailStatus::PendingSend, 0));
}
