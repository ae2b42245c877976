//! Recipients of one e-mail with different fates: whoever has it never gets it again, whoever was told to wait is tried again.
#![allow(clippy::unwrap_used)] // a test file

mod support;

use std::time::Duration;

use email_router_crm::EmailStatus;
use email_router_engine::StateStore as _;
use email_router_transport::RecipientStatus::{Refused, RefusedForNow, TooMany};
use email_router_transport::{Error, ErrorKind};
use support::{Answer, World, activity, mail_to};

const HOUR: Duration = Duration::from_secs(3600);

fn world(names: &[&str]) -> World {
    let world = World::new();
    world.crm.add(mail_to(1, 1, names));
    world
}

fn slow() -> Answer {
    Answer::Each(vec![("slow", RefusedForNow, "451 4.7.1 greylisted")])
}

#[tokio::test]
async fn who_was_told_to_wait_is_tried_again_and_the_others_are_not() {
    let world = world(&["bob", "slow", "gone"]);
    world.system.answer([Answer::Each(vec![
        ("slow", RefusedForNow, "451 4.7.1 greylisted"),
        ("gone", Refused, "550 5.1.1 unknown"),
    ])]);
    let report = world.pass(&[1]).await;
    assert_eq!((report.sent, report.retried), (0, 1));
    let after = world.crm.mail(1);
    assert_eq!(after.status, EmailStatus::PendingSend);
    assert_eq!(
        after.report,
        [
            "the mail server took the e-mail for 1 of 3 recipients and told these to wait: slow@example.net: 451 4.7.1 greylisted"
        ]
    );
    let waited = Duration::try_from(after.not_before.unwrap().duration_since(support::start())).unwrap();
    assert!(waited >= Duration::from_secs(300), "the usual back-off: {waited:?}");
    world.later(HOUR);
    world.pass(&[1]).await;
    let after = world.crm.mail(1);
    assert_eq!(after.status, EmailStatus::Sent);
    assert_eq!(after.report, ["gone@example.net: 550 5.1.1 unknown"]);
    assert_eq!(world.system.reached(), ["bob", "slow"]);
    let delivered = world.system.delivered.lock().unwrap();
    assert_eq!(delivered[0].mime, delivered[1].mime, "the same bytes under the same Message-ID");
}

#[tokio::test]
async fn it_is_sent_and_not_failed_when_those_who_wait_are_given_up() {
    // refused until the attempts are used up
    let mut patient = world(&["bob", "slow"]);
    patient.settings.maximum_delivery_attempts = 3;
    for _ in 0..3 {
        patient.system.answer([slow()]);
        patient.pass(&[1]).await;
        patient.later(2 * HOUR);
    }
    // refused for good in the end, alone or with the whole message
    let alone = world(&["bob", "slow"]);
    alone.system.answer([slow(), Answer::Each(vec![("slow", Refused, "550 no")])]);
    let whole = world(&["bob", "slow"]);
    whole.system.answer([slow(), Answer::Refuse(Error::new(ErrorKind::MessageRefused, "smtp mx: 554 spam"))]);
    for world in [&alone, &whole] {
        world.pass(&[1]).await;
        world.later(2 * HOUR);
        world.pass(&[1]).await;
    }
    for (world, words) in [(&patient, "given up after 3 attempts"), (&alone, "550 no"), (&whole, "554 spam")]
    {
        let after = world.crm.mail(1);
        assert_eq!((after.status, after.report.len()), (EmailStatus::Sent, 1), "{words}");
        assert!(
            after.report[0].starts_with("slow@example.net: ") && after.report[0].contains(words),
            "{words}: {:?}",
            after.report
        );
        assert_eq!(world.system.reached(), ["bob"], "{words}");
        // and it stays so, whatever the CRM says
        world.crm.change(1, |m| (m.status, m.version) = (EmailStatus::PendingSend, m.version + 1));
        world.pass(&[1]).await;
        assert_eq!(
            (world.crm.mail(1).status, world.system.reached().len()),
            (EmailStatus::Sent, 1),
            "{words}"
        );
    }
}

/// A server that takes two recipients in a transaction gets five in three transactions, at once and in one attempt.
#[tokio::test]
async fn too_many_recipients_go_in_several_transactions() {
    let world = world(&["a", "b", "c", "d", "e"]);
    let full = |names: &[&'static str]| {
        Answer::Each(names.iter().map(|n| (*n, TooMany, "452 4.5.3 too many recipients")).collect())
    };
    world.system.answer([full(&["c", "d", "e"]), full(&["e"])]);
    let report = world.pass(&[1]).await;
    assert_eq!((report.sent, report.retried), (1, 0));
    let after = world.crm.mail(1);
    assert_eq!((after.status, after.email.delivery_attempts), (EmailStatus::Sent, 1));
    assert!(after.report.is_empty(), "{:?}", after.report);
    assert_eq!(world.system.reached(), ["a", "b", "c", "d", "e"]);
    assert!(world.state.ledger(&activity(1)).await.unwrap().unwrap().closed);
}

/// The second of several transactions fails: what the first one took stays taken.
#[tokio::test]
async fn a_later_transaction_that_fails_takes_nothing_back() {
    let world = world(&["a", "b", "c"]);
    world.system.answer([
        Answer::Each(vec![("c", TooMany, "452 4.5.3 too many recipients")]),
        Answer::Refuse(Error::new(ErrorKind::ConnectionLost, "smtp mx closed the connection")),
    ]);
    world.pass(&[1]).await;
    assert_eq!(world.crm.mail(1).status, EmailStatus::PendingSend);
    world.later(HOUR);
    world.pass(&[1]).await;
    assert_eq!(world.crm.mail(1).status, EmailStatus::Sent);
    assert_eq!(world.system.reached(), ["a", "b", "c"]);
}

#[tokio::test]
async fn all_refused_names_each_with_all_words() {
    let long = "550 5.7.1 ".to_owned() + &"very long reasons ".repeat(20);
    let long: &'static str = long.leak();
    let names = ["a", "b", "c", "d"];
    let world = world(&names);
    world.system.answer([Answer::Each(names.iter().map(|n| (*n, Refused, long)).collect())]);
    world.pass(&[1]).await;
    let after = world.crm.mail(1);
    assert_eq!(after.status, EmailStatus::Failed);
    for name in names {
        assert!(after.report[0].contains(&format!("{name}@example.net: {long}")), "{:?}", after.report);
    }
}

/// Some refused for good and some for now, nobody taken: the next attempt does not bother the server with the first.
#[tokio::test]
async fn nobody_taken_yet() {
    let world = world(&["gone", "slow"]);
    world.system.answer([
        Answer::Each(vec![("gone", Refused, "550 unknown"), ("slow", RefusedForNow, "451 later")]),
        Answer::Take,
    ]);
    world.pass(&[1]).await;
    assert_eq!(world.crm.mail(1).status, EmailStatus::PendingSend);
    world.later(HOUR);
    world.pass(&[1]).await;
    let after = world.crm.mail(1);
    assert_eq!(
        (after.status, after.report),
        (EmailStatus::Sent, vec!["gone@example.net: 550 unknown".to_owned()])
    );
    assert_eq!(world.system.reached(), ["slow"]);
}
