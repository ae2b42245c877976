//! The guard in a whole pass: loops are held and released, delivery reports reach the e-mail they speak of, automatic mail is treated
//! by policy.
#![allow(clippy::unwrap_used)] // a test file

mod world;

use std::time::Duration;

use email_router_crm::{AutomaticMail, CrmClient as _, DeliveryAction, FilteringMethod};
use email_router_engine::ports::{DecisionNote, DecisionQuery, StateStore as _};
use email_router_engine::{DecisionRecord, Verdict};
use email_router_model::{ActivityId, MessageId, RawMessage};
use email_router_transport::memory::MemoryTransport;
use world::{Life, Place, Point, World, mail_from};

fn message(text: &str) -> RawMessage {
    RawMessage::new(text.replace('\n', "\r\n").into_bytes())
}

async fn note(world: &World, id: &str) -> DecisionRecord {
    let query = DecisionQuery::MessageId(MessageId::parse(id).unwrap());
    let notes: Vec<DecisionNote> = world.state.decisions(&query, 10).await.unwrap();
    notes.into_iter().next().unwrap().record
}

#[tokio::test(start_paused = true)]
async fn a_loop_is_held_and_goes_on_by_itself() {
    let world = World::new();
    let ann = world.user("ann");
    let system = MemoryTransport::new();
    world.crm.settings_mut(|s| {
        s.loop_window_minutes = 10;
        s.loop_limit_per_pair = 3;
    });
    for n in 0..8 {
        system.put(ann.id(), mail_from("robot@contoso.example", &format!("loop-{n}")));
    }
    system.put(ann.id(), mail_from("bob@contoso.example", "a person"));
    // one guard over all passes, as in the running router
    let parts = world.parts(&Life::until(Point::Never));
    let route = world.route(&ann, system.clone());
    let view = world.view().await;
    let pass = async || {
        let (report, result) = parts.run(&route, &view, &world.stop.subscribe()).await;
        result.unwrap();
        (report.delivered, report.deferred, report.undeliverable)
    };
    assert_eq!(pass().await, (4, 5, 0), "three of the robot's, and the person's");
    assert_eq!(world.heard.count("loop ann: looplimitperpair"), 5, "{:?}", world.heard.all());
    assert_eq!(pass().await, (0, 5, 0), "still in the window");
    for (delivered, left) in [(3, 2), (2, 0)] {
        tokio::time::advance(Duration::from_secs(601)).await;
        assert_eq!(pass().await, (delivered, left, 0), "the window has moved on");
    }
    assert_eq!(world.crm.received().len(), 9, "nothing is lost");
    assert_eq!(world.classes().await, [""; 0], "nothing is parked, however often it was held");
}

/// An e-mail of a user to bob, with this Message-ID.
async fn sent(world: &World, from: &Place, id: &str) -> ActivityId {
    let bob = world.crm.add(None, "bob", "bob@contoso.example", FilteringMethod::All);
    let email = world.crm.send_mail(&from.record, &bob, "Offer");
    world.crm.prepare_outgoing(&email, &MessageId::parse(id).unwrap(), false).await.unwrap();
    email
}

fn report(about: &str, action: &str, number: u32) -> RawMessage {
    message(&format!(
        "Return-Path: <>\nFrom: MAILER-DAEMON@mx.example\nTo: ann@fabrikam.example\nSubject: report {number}\n\
         Message-ID: <report-{number}@mx.example>\nDate: Sun, 1 Mar 2026 10:0{number}:00 +0000\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=b\n\n--b\n\nSorry.\n--b\n\
         Content-Type: message/delivery-status\n\nReporting-MTA: dns; mx.example\n\n\
         Final-Recipient: rfc822; bob@contoso.example\nAction: {action}\nStatus: 5.1.1\nDiagnostic-Code: smtp; 550 no such user\n\n\
         --b\nContent-Type: text/rfc822-headers\n\nMessage-ID: {about}\nSubject: Offer\n--b--\n"
    ))
}

#[tokio::test(start_paused = true)]
async fn a_delivery_report_reaches_the_e_mail_it_speaks_of() {
    let world = World::new();
    let ann = world.user("ann");
    world.crm.set_filter(&ann.record, FilteringMethod::InResponseToCrmEmail);
    let email = sent(&world, &ann, "<offer@fabrikam.example>").await;
    let system = MemoryTransport::new();
    system.put(ann.id(), report("<offer@fabrikam.example>", "delayed", 1));
    system.put(ann.id(), report("<offer@fabrikam.example>", "failed", 2));
    system.put(ann.id(), report("<offer@fabrikam.example>", "delayed", 3));
    system.put(ann.id(), report("<somebody-else@elsewhere.example>", "failed", 4));
    let outcome = world.pass(&world.route(&ann, system)).await;
    assert_eq!(
        (outcome.delivered, outcome.discarded),
        (3, 1),
        "a report about someone else's mail is not ours"
    );
    let states = world.crm.email(email).reported;
    let [(state, _)] = &states[..] else { panic!("{states:?}") };
    assert_eq!(
        (state.action, state.status.as_deref()),
        (DeliveryAction::Failed, Some("5.1.1")),
        "a delay is no end"
    );
    assert_eq!(state.diagnostic.as_deref(), Some("550 no such user"));
    assert_eq!(world.heard.count("reported failed"), 1, "{:?}", world.heard.all());
    let record = note(&world, "<report-2@mx.example>").await;
    let hit = record.correlated.unwrap();
    assert_eq!((hit.activity_id, hit.method.as_str()), (email, "delivery_report"));
    assert_eq!(record.automatic.as_deref(), Some("delivery-report"));
    let record = note(&world, "<report-4@mx.example>").await;
    assert!(record.steps.iter().any(|s| s.found.contains("someone else's mail")), "{record}");
}

#[tokio::test(start_paused = true)]
async fn a_report_larger_than_the_header_limit_is_read_whole() {
    let world = World::new();
    let ann = world.user("ann");
    world.crm.set_filter(&ann.record, FilteringMethod::None);
    let email = sent(&world, &ann, "<offer@fabrikam.example>").await;
    let system = MemoryTransport::new();
    system.put(ann.id(), world::large(&report("<offer@fabrikam.example>", "failed", 1), 300_000));
    let outcome = world.pass(&world.route(&ann, system)).await;
    assert_eq!((outcome.delivered, outcome.discarded), (0, 1), "the filter refuses the report itself");
    assert_eq!(world.crm.email(email).reported.len(), 1, "the e-mail is updated all the same");
}

#[tokio::test(start_paused = true)]
async fn automatic_mail_by_policy() {
    let automatic = "Auto-Submitted: auto-replied\nFrom: bob@contoso.example\nTo: ann@fabrikam.example\nSubject: away\nMessage-ID: <auto@x>\n\naway\n";
    let list = "List-Id: <l.contoso.example>\nFrom: bob@contoso.example\nTo: ann@fabrikam.example\nSubject: list\nMessage-ID: <list@x>\n\nhello\n";
    let bounce = report("<nobody@x.example>", "failed", 5);
    let track = AutomaticMail::Track;
    for (policy, reports, expected) in [
        (track, track, [Verdict::Deliver; 3]),
        (AutomaticMail::TrackWithoutSmartMatching, track, [Verdict::Deliver; 3]),
        (AutomaticMail::Discard, track, [Verdict::Discard, Verdict::Deliver, Verdict::Deliver]),
        (track, AutomaticMail::Discard, [Verdict::Deliver, Verdict::Deliver, Verdict::Discard]),
    ] {
        let world = World::new();
        let ann = world.user("ann");
        world.crm.settings_mut(|s| {
            s.automatic_mail = policy;
            s.delivery_reports = reports;
        });
        let system = MemoryTransport::new();
        for text in [message(automatic), message(list), bounce.clone()] {
            system.put(ann.id(), text);
        }
        world.pass(&world.route(&ann, system)).await;
        let mut verdicts = Vec::new();
        for id in ["<auto@x>", "<list@x>", "<report-5@mx.example>"] {
            verdicts.push(note(&world, id).await.verdict);
        }
        assert_eq!(verdicts, expected, "{policy:?} {reports:?}");
    }
}
