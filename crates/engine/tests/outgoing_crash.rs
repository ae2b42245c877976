//! The crash table of `outgoing`: a router is killed at every call it makes, a new one starts on the same stores.
#![allow(clippy::unwrap_used)] // a test file

mod support;

use std::time::Duration;

use email_router_crm::EmailStatus;
use email_router_engine::{InDoubtPolicy, StateStore as _};
use email_router_model::{MessageId, Retry};
use email_router_transport::{Error, ErrorKind, RecipientStatus};
use support::{Answer, Fuse, World, activity, mail, mail_to};

const HOUR: Duration = Duration::from_secs(3600);

/// Kills the pass at the named point, restarts at once, and again after `SendingStatusDelay`.
async fn crash_at(world: &World, point: &'static str) {
    assert!(world.killed_pass(&[1], &Fuse::named(point)).await, "the pass comes to {point}");
    world.pass(&[1]).await;
}

fn one_mail(world: World) -> World {
    world.crm.add(mail(1, 1));
    world
}

fn finding(mut world: World) -> World {
    world.can_find = true;
    world
}

async fn nothing_open(world: &World) {
    assert_eq!(world.state.ledger_open().await.unwrap(), [], "no entry is left open");
}

#[tokio::test]
async fn row_1_before_the_claim() {
    for point in ["before pending", "after pending", "before begin", "after begin", "before claim"] {
        let world = one_mail(World::new());
        crash_at(&world, point).await;
        assert_eq!(world.crm.mail(1).status, EmailStatus::Sent, "{point}");
        assert_eq!(world.system.count(1), 1, "{point}");
        nothing_open(&world).await;
    }
}

#[tokio::test]
async fn rows_2_and_3_between_claim_and_ledger() {
    for point in
        ["after claim", "before attachments", "before prepare", "after prepare", "before ledger_begin"]
    {
        let world = one_mail(World::new());
        crash_at(&world, point).await;
        // only the CRM knows of it, and says so after SendingStatusDelay
        assert_eq!(world.crm.mail(1).status, EmailStatus::Sending, "{point}");
        assert_eq!(world.system.count(1), 0, "{point}");
        world.later(HOUR);
        world.pass(&[1]).await;
        assert_eq!(world.crm.mail(1).status, EmailStatus::Sent, "{point}");
        assert_eq!((world.system.count(1), world.crm.mail(1).in_doubt), (1, false), "{point}");
        nothing_open(&world).await;
    }
}

#[tokio::test]
async fn rows_4_and_5_around_the_submission_where_nobody_can_tell() {
    for (point, delivered) in
        [("after ledger_begin", 0), ("before submit", 0), ("after submit", 1), ("before ledger_result", 1)]
    {
        let world = one_mail(World::new());
        crash_at(&world, point).await;
        let after = world.crm.mail(1);
        assert!(after.in_doubt && after.status == EmailStatus::Sending, "{point}: reported");
        assert!(after.report[0].contains(&activity(1).to_string()), "{point}: says what to look for");
        nothing_open(&world).await;
        // and it stays so: no later pass sends it
        world.later(24 * HOUR);
        world.pass(&[1]).await;
        assert_eq!(world.system.count(1), delivered, "{point}");
    }
}

#[tokio::test]
async fn rows_4_and_5_with_send_again() {
    for (point, delivered) in
        [("after ledger_begin", 1), ("before submit", 1), ("after submit", 2), ("before ledger_result", 2)]
    {
        let world = one_mail(World::new().policy(InDoubtPolicy::SendAgain));
        crash_at(&world, point).await;
        assert_eq!(world.crm.mail(1).status, EmailStatus::Sent, "{point}: at once, without waiting");
        assert_eq!(world.system.count(1), delivered, "{point}");
        let ids: Vec<MessageId> =
            world.system.delivered.lock().unwrap().iter().map(|m| m.message_id.clone()).collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "{point}: one Message-ID");
        nothing_open(&world).await;
    }
}

#[tokio::test]
async fn rows_4_and_5_where_the_mail_system_can_tell() {
    for point in ["after ledger_begin", "before submit", "after submit", "before ledger_result"] {
        let world = finding(one_mail(World::new()));
        crash_at(&world, point).await;
        assert_eq!(world.crm.mail(1).status, EmailStatus::Sent, "{point}");
        assert_eq!((world.system.count(1), world.crm.mail(1).in_doubt), (1, false), "{point}");
        nothing_open(&world).await;
    }
}

#[tokio::test]
async fn row_6_accepted_and_the_crm_not_told() {
    for point in ["after ledger_result", "before finish"] {
        let world = one_mail(World::new());
        world.system.answer([Answer::TakeFirst]);
        world.crm.change(1, |m| {
            let mut other = m.email.parties[1].clone();
            other.address = Some(support::address("nobody@example.net"));
            m.email.parties.push(other);
        });
        crash_at(&world, point).await;
        let after = world.crm.mail(1);
        assert_eq!((after.status, world.system.count(1)), (EmailStatus::Sent, 1), "{point}");
        assert_eq!(after.report, ["nobody@example.net: 550 unknown"], "{point}: refused recipients survive");
        nothing_open(&world).await;
    }
}

#[tokio::test]
async fn row_7_refused_and_the_crm_not_told() {
    for point in ["after ledger_result", "before finish"] {
        let world = one_mail(World::new());
        world
            .system
            .answer([Answer::Refuse(Error::new(ErrorKind::MessageRefused, "no").with_reply("554 spam"))]);
        crash_at(&world, point).await;
        let after = world.crm.mail(1);
        assert_eq!((after.status, world.system.count(1)), (EmailStatus::Failed, 0), "{point}");
        assert!(after.report[0].contains("554 spam"), "{point}: {:?}", after.report);
        nothing_open(&world).await;

        let world = one_mail(World::new());
        let later = Error::new(ErrorKind::MessageRefused, "greylisted").with_retry(Retry::Later(None));
        world.system.answer([Answer::Refuse(later)]);
        crash_at(&world, point).await;
        let after = world.crm.mail(1);
        assert_eq!((after.status, world.system.count(1)), (EmailStatus::PendingSend, 0), "{point}");
        world.later(HOUR);
        world.pass(&[1]).await;
        assert_eq!((world.crm.mail(1).status, world.system.count(1)), (EmailStatus::Sent, 1), "{point}");
        nothing_open(&world).await;
    }
}

#[tokio::test]
async fn row_7a_some_have_it_and_some_wait() {
    use RecipientStatus::{Refused, RefusedForNow};
    for point in ["after ledger_result", "before finish", "after finish", "after ledger_close"] {
        let world = World::new();
        world.crm.add(mail_to(1, 1, &["bob", "slow", "gone"]));
        world.system.answer([Answer::Each(vec![
            ("slow", RefusedForNow, "451 greylisted"),
            ("gone", Refused, "550 unknown"),
        ])]);
        crash_at(&world, point).await;
        let after = world.crm.mail(1);
        assert_eq!(after.status, EmailStatus::PendingSend, "{point}");
        assert!(after.report[0].contains("slow@example.net: 451 greylisted"), "{point}: {:?}", after.report);
        nothing_open(&world).await;
        world.later(HOUR);
        world.pass(&[1]).await;
        let after = world.crm.mail(1);
        assert_eq!(after.status, EmailStatus::Sent, "{point}");
        assert_eq!(after.report, ["gone@example.net: 550 unknown"], "{point}");
        assert_eq!(world.system.reached(), ["bob", "slow"], "{point}: each once");
        nothing_open(&world).await;
    }
}

/// The second submission, for those who waited, is cut off: nobody can tell, also where the mail system can look for the message,
/// since it went to the others under the same Message-ID.
#[tokio::test]
async fn row_7a_and_then_row_5() {
    let world = finding(World::new());
    world.crm.add(mail_to(1, 1, &["bob", "slow"]));
    world.system.answer([Answer::Each(vec![("slow", RecipientStatus::RefusedForNow, "451 later")])]);
    world.pass(&[1]).await;
    world.later(HOUR);
    crash_at(&world, "before submit").await;
    let after = world.crm.mail(1);
    assert!(after.in_doubt, "{after:?}");
    assert!(after.report[0].contains("slow@example.net"), "names those in doubt: {:?}", after.report);
    // a person sends it again: those who have it do not get it again
    world
        .crm
        .change(1, |m| (m.status, m.in_doubt, m.version) = (EmailStatus::PendingSend, false, m.version + 1));
    world.pass(&[1]).await;
    assert_eq!(world.crm.mail(1).status, EmailStatus::Sent);
    assert_eq!(world.system.reached(), ["bob", "slow"]);
}

#[tokio::test]
async fn row_8_noted_as_in_doubt() {
    for taken in [false, true] {
        let world = one_mail(World::new());
        world.system.answer([Answer::Doubt { taken }]);
        crash_at(&world, "after ledger_result").await;
        assert!(world.crm.mail(1).in_doubt, "nobody can tell");
        nothing_open(&world).await;

        let world = finding(one_mail(World::new()));
        world.system.answer([Answer::Doubt { taken }]);
        crash_at(&world, "after ledger_result").await;
        world.later(HOUR);
        world.pass(&[1]).await;
        world.later(HOUR);
        world.pass(&[1]).await;
        assert_eq!(
            (world.crm.mail(1).status, world.system.count(1)),
            (EmailStatus::Sent, 1),
            "taken: {taken}"
        );
        nothing_open(&world).await;
    }
}

#[tokio::test]
async fn rows_9_and_10_after_the_crm_was_told() {
    for point in
        ["after finish", "before ledger_close", "after ledger_close", "before unbegin", "after unbegin"]
    {
        let world = one_mail(World::new());
        crash_at(&world, point).await;
        let version = world.crm.mail(1).version;
        assert_eq!((world.crm.mail(1).status, world.system.count(1)), (EmailStatus::Sent, 1), "{point}");
        nothing_open(&world).await;
        world.later(HOUR);
        world.pass(&[1]).await;
        assert_eq!(world.crm.mail(1).version, version, "{point}: nothing changes any more");
    }
}

/// The state store is gone: an e-mail found in Sending with a Message-ID may have gone out, so it is reported; one without was
/// never handed over.
#[tokio::test]
async fn lost_state_never_sends_twice() {
    for (point, reported) in [("after submit", true), ("after prepare", true), ("after claim", false)] {
        let mut world = one_mail(World::new());
        assert!(world.killed_pass(&[1], &Fuse::named(point)).await);
        world.state = email_router_engine::state_memory::MemoryState::new();
        let delivered = world.system.count(1);
        world.later(HOUR);
        world.pass(&[1]).await;
        let after = world.crm.mail(1);
        assert_eq!(after.in_doubt, reported, "{point}");
        let expected = if reported { delivered } else { 1 };
        assert_eq!(world.system.count(1), expected, "{point}");
        nothing_open(&world).await;
    }
}

/// A person resets a failed e-mail, whose attempts count from 1 again, and the router dies before the ledger: the old, closed entry
/// says nothing about the new attempt.
#[tokio::test]
async fn an_old_entry_does_not_speak_for_a_new_attempt() {
    for point in ["after claim", "after prepare"] {
        let world = one_mail(World::new());
        world.system.answer([Answer::Refuse(Error::new(ErrorKind::MessageRefused, "no"))]);
        world.pass(&[1]).await;
        assert_eq!(world.crm.mail(1).status, EmailStatus::Failed);
        world.crm.change(1, |m| {
            (m.status, m.email.delivery_attempts) = (EmailStatus::PendingSend, 0);
            m.version += 1;
        });
        assert!(world.killed_pass(&[1], &Fuse::named(point)).await);
        world.later(HOUR);
        world.pass(&[1]).await;
        assert_eq!((world.crm.mail(1).status, world.system.count(1)), (EmailStatus::Sent, 1), "{point}");
        nothing_open(&world).await;
    }
}

/// An e-mail that kills the router before anything is handed over (too large for the memory, say) is given up in the end, and those that
/// it took along are not: what is found in Sending is tried alone.
#[tokio::test]
async fn an_e_mail_that_always_kills_the_router_is_given_up() {
    for point in ["before prepare", "before attachments"] {
        let mut world = one_mail(World::new());
        world.settings.maximum_delivery_attempts = 3;
        for attempt in 1..=3 {
            assert!(world.killed_pass(&[1], &Fuse::named(point)).await, "{point} {attempt}");
            assert_eq!(world.crm.mail(1).status, EmailStatus::Sending);
            world.later(HOUR);
        }
        world.pass(&[1]).await;
        let after = world.crm.mail(1);
        assert_eq!((after.status, world.system.count(1)), (EmailStatus::Failed, 0), "{point}");
        assert!(after.report[0].contains("3 attempts were cut off"), "{:?}", after.report);
        nothing_open(&world).await;
    }
    let world = World::new();
    for n in 1..=6 {
        world.crm.add(mail(n, 1 + n % 2));
    }
    assert!(world.killed_pass(&[1, 2], &Fuse::named("before ledger_begin")).await);
    let (stale, others): (Vec<_>, Vec<_>) =
        (1..=6).partition(|n| world.crm.mail(*n).status == EmailStatus::Sending);
    assert!(stale.len() > 1 && !others.is_empty(), "{stale:?} {others:?}");
    for n in others {
        world.crm.change(n, |m| m.status = EmailStatus::Draft);
    }
    world.later(HOUR);
    world.pass(&[1, 2]).await;
    assert!(stale.iter().all(|n| world.crm.mail(*n).status == EmailStatus::Sent));
    assert_eq!(world.system.most_busy.load(std::sync::atomic::Ordering::SeqCst), 1, "one at a time");
}

/// Every call is a crash point, one after the other, with several e-mails in flight; then two crashes in a row. Whatever happens:
/// at most once, nothing stuck, nothing silently given up.
#[tokio::test]
async fn every_point_of_a_busy_pass() {
    for can_find in [false, true] {
        let mut doubts = 0;
        let mut point = 0;
        loop {
            let mut world = World::new();
            world.can_find = can_find;
            world.concurrency = 3;
            for n in 1..=4 {
                world.crm.add(mail(n, 1 + n % 2));
            }
            let greylisted = Error::new(ErrorKind::MessageRefused, "later").with_retry(Retry::Later(None));
            world.system.answer([Answer::Take, Answer::Refuse(greylisted), Answer::Doubt { taken: true }]);
            if !world.killed_pass(&[1, 2], &Fuse::at(point)).await {
                assert!(point > 60, "the pass makes more than {point} calls");
                break;
            }
            world.killed_pass(&[1, 2], &Fuse::at(point / 2)).await;
            for _ in 0..4 {
                world.later(HOUR);
                world.pass(&[1, 2]).await;
            }
            for n in 1..=4 {
                let after = world.crm.mail(n);
                let settled = after.status == EmailStatus::Sent || after.in_doubt;
                assert!(settled, "point {point}: e-mail {n} is stuck: {after:?}");
                assert!(world.system.count(n) <= 1, "point {point}: e-mail {n} went out twice");
                assert!(
                    after.in_doubt || world.system.count(n) == 1,
                    "point {point}: e-mail {n} is Sent and never went out"
                );
                doubts += u32::from(after.in_doubt);
            }
            nothing_open(&world).await;
            point += 1;
        }
        assert_eq!(doubts == 0, can_find, "doubts remain exactly where the mail system cannot tell");
    }
}
