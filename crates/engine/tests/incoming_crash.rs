//! The crash table of `incoming`, row by row, and a sweep: the router is killed before and after every call it makes to a port,
//! and a new one starts on the same stores.
#![allow(clippy::unwrap_used)] // a test file

mod world;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use email_router_crm::EmailStatus;
use email_router_engine::router::{IncomingRoute, OutgoingRoute, Plan};
use email_router_engine::{StateStore as _, Verdict};
use email_router_transport::Transport;
use email_router_transport::layer::Operation;
use email_router_transport::memory::MemoryTransport;
use futures_util::FutureExt as _;
use world::{
    Life, MortalTransport, Place, Point, World, costly_to_list, junk, large, like_pop3, mail, subjects,
};

/// A pass killed at a point, then the world as it is, then a pass that ends well.
async fn crash_at(world: &World, route: &IncomingRoute, point: &'static str, nth: usize) {
    assert!(
        world.killed_pass(route, &Life::until(Point::Named(point, nth))).await,
        "the pass comes to {point}"
    );
}

fn deleting(world: &World, place: &Place, system: &MemoryTransport) -> IncomingRoute {
    let mut route = world.route(place, system.clone());
    route.settings.delete_after_processing = true;
    route
}

#[tokio::test(start_paused = true)]
async fn row_attempt_noted() {
    let (world, system) = (World::new(), MemoryTransport::new());
    let ann = world.user("ann");
    let ids: Vec<_> = (0..3).map(|n| system.put(ann.id(), mail(&format!("m{n}")))).collect();
    let route = deleting(&world, &ann, &system);
    crash_at(&world, &route, "after begin", 1).await;
    assert_eq!(world.attempts(&ann, &ids[0]).await, Some(1));
    assert_eq!(world.pass(&route).await.delivered, 3);
    assert_eq!((world.crm.received().len(), subjects(&system, &ann).len()), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn row_attempt_noted_a_message_that_kills_the_process_is_parked() {
    let (world, system) = (World::new(), MemoryTransport::new());
    let ann = world.user("ann");
    system.put(ann.id(), mail("m0"));
    let poison = system.put(ann.id(), mail("poison"));
    system.put(ann.id(), mail("m2"));
    let route = deleting(&world, &ann, &system);
    let max = route.settings.max_attempts;
    // it is the second message that kills in the first life, and the only suspect that is read in each later one
    crash_at(&world, &route, "before fetch", 2).await;
    crash_at(&world, &route, "before fetch", 2).await;
    for _ in 2..max {
        crash_at(&world, &route, "before fetch", 1).await;
    }
    assert_eq!(world.attempts(&ann, &poison).await, Some(max));
    // parking reads it once more to keep its bytes; that kills too
    crash_at(&world, &route, "before fetch", 1).await;
    let report = world.pass(&route).await;
    assert_eq!((report.undeliverable, report.delivered), (1, 1), "m0 came in the second life");
    let item = &world.quarantine().await[0];
    assert_eq!((item.class.as_str(), &item.remote_id), ("attempts-exhausted", &poison));
    assert!(item.reason.contains("ended in the middle"), "{}", item.reason);
    assert_eq!(world.crm.received(), ["m0", "m2"]);
    assert_eq!(system.folder(ann.id(), "Undeliverable").len(), 1, "it is still there, out of the way");
}

/// It panics while others are on their way, before and behind it: they do not pay for it.
#[tokio::test(start_paused = true)]
async fn row_attempt_noted_a_message_that_panics_among_others_is_parked_alone() {
    let (world, system) = (World::new(), MemoryTransport::new());
    let ann = world.user("ann");
    world.crm.deliveries_take(Duration::from_millis(100));
    world.crm.panic_at("m20");
    let mut ids: Vec<_> = (0..80).map(|n| system.put(ann.id(), mail(&format!("m{n}")))).collect();
    let poison = ids.remove(20);
    let route = deleting(&world, &ann, &system);
    let mut panics = 0;
    loop {
        // a router that begins anew
        if AssertUnwindSafe(world.pass(&route)).catch_unwind().await.is_ok() {
            break;
        }
        panics += 1;
        assert_eq!(world.attempts(&ann, &poison).await, Some(panics));
        for seen in world.state.seen(ann.id(), &ids).await.unwrap().into_iter().flatten() {
            assert!(seen.settled.is_some() || seen.attempts == 1, "{seen:?}");
        }
        if panics == 1 {
            assert_eq!(world.crm.most_deliveries(), 32);
        }
        if panics == 2 {
            let mut before: Vec<String> = (0..20).map(|n| format!("m{n}")).collect();
            before.sort();
            let there = world.crm.received();
            assert!(
                before.iter().all(|m| there.contains(m)),
                "what stands before it is done with: {there:?}"
            );
        }
    }
    assert_eq!(panics, route.settings.max_attempts);
    let items = world.quarantine().await;
    assert_eq!(items.iter().map(|item| &item.remote_id).collect::<Vec<_>>(), [&poison]);
    assert_eq!((world.crm.received().len(), subjects(&system, &ann).len()), (79, 0));
}

#[tokio::test(start_paused = true)]
async fn row_body_fetched_and_decided() {
    for point in ["after fetch", "after resolve", "before deliver_incoming"] {
        let (world, system) = (World::new(), MemoryTransport::new());
        let ann = world.user("ann");
        system.put(ann.id(), mail("m0"));
        let route = deleting(&world, &ann, &system);
        crash_at(&world, &route, point, 1).await;
        assert_eq!(world.crm.received().len(), 0, "{point}");
        assert_eq!(world.pass(&route).await.delivered, 1, "{point}");
        assert_eq!((world.crm.received().len(), subjects(&system, &ann).len()), (1, 0), "{point}");
    }
}

#[tokio::test(start_paused = true)]
async fn row_delivered() {
    let (world, system) = (World::new(), MemoryTransport::new());
    let ann = world.user("ann");
    let id = system.put(ann.id(), mail("m0"));
    let route = deleting(&world, &ann, &system);
    crash_at(&world, &route, "after deliver_incoming", 1).await;
    assert_eq!((world.crm.received().len(), subjects(&system, &ann).len()), (1, 1));
    let report = world.pass(&route).await;
    assert_eq!((report.delivered, report.discarded), (1, 0), "a duplicate of itself counts as delivered");
    assert_eq!((world.crm.received().len(), subjects(&system, &ann).len()), (1, 0), "and is deleted");
    assert_eq!(world.crm.count("deliver_incoming"), 1);
    assert_eq!(world.attempts(&ann, &id).await, None, "what is certainly gone is forgotten");
}

#[tokio::test(start_paused = true)]
async fn row_put_into_quarantine() {
    let (world, system) = (World::new(), MemoryTransport::new());
    let ann = world.user("ann");
    system.put(ann.id(), email_router_model::RawMessage::new("\r\n\r\nno header at all\r\n"));
    let route = deleting(&world, &ann, &system);
    crash_at(&world, &route, "after quarantine_put", 1).await;
    let first = world.quarantine().await[0].id;
    assert_eq!(world.pass(&route).await.undeliverable, 1);
    let items = world.quarantine().await;
    assert_eq!(items.iter().map(|i| (i.id, i.class.as_str())).collect::<Vec<_>>(), [(first, "unreadable")]);
}

/// A message with more parts than are taken apart: delivered as far as that goes, and kept whole before it is, once.
#[tokio::test(start_paused = true)]
async fn row_kept_as_partial() {
    for point in ["after quarantine_put", "before deliver_incoming", "after deliver_incoming", "after settle"]
    {
        let (world, system) = (World::new(), MemoryTransport::new());
        let ann = world.user("ann");
        let plain = String::from_utf8(mail("wide").bytes().to_vec()).unwrap();
        let (header, _) = plain.split_once("\r\n\r\n").unwrap();
        let parts = "--b\r\nContent-Type: image/png\r\n\r\nx\r\n".repeat(9);
        let wide = format!("{header}\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n{parts}--b--\r\n");
        system.put(ann.id(), email_router_model::RawMessage::new(wide.clone()));
        system.put(ann.id(), mail("plain"));
        let mut route = deleting(&world, &ann, &system);
        route.settings.caps.max_parts = 5;
        crash_at(&world, &route, point, 1).await;
        let report = world.pass(&route).await;
        assert_eq!(report.undeliverable, 0, "{point}");
        let mut received = world.crm.received();
        received.sort();
        assert_eq!(received, ["plain", "wide"], "{point}");
        let items = world.quarantine().await;
        assert_eq!(items.len(), 1, "{point}: {items:?}");
        let item = world.state.quarantine_get(items[0].id).await.unwrap().unwrap();
        assert_eq!((item.class.as_str(), item.subject.as_deref()), ("partial", Some("wide")), "{point}");
        assert_eq!(item.raw.as_deref(), Some(wide.as_bytes()), "{point}");
        assert_eq!(subjects(&system, &ann).len(), 0, "{point}: the source is done with it");
    }
}

#[tokio::test(start_paused = true)]
async fn row_recorded_and_not_disposed_of() {
    let (world, system) = (World::new(), MemoryTransport::new());
    let ann = world.user("ann");
    for n in 0..3 {
        system.put(ann.id(), mail(&format!("m{n}")));
    }
    let route = deleting(&world, &ann, &system);
    crash_at(&world, &route, "after settle", 1).await;
    assert_eq!(subjects(&system, &ann).len(), 3);
    let fetched = system.count(Operation::Fetch);
    assert_eq!(world.pass(&route).await.processed, 0, "nothing is routed");
    assert_eq!((subjects(&system, &ann).len(), system.count(Operation::Fetch)), (0, fetched));
}

#[tokio::test(start_paused = true)]
async fn row_disposed_of_and_not_closed() {
    for (system, left) in [(MemoryTransport::new(), 0), (like_pop3(), 3)] {
        let world = World::new();
        let ann = world.user("ann");
        for n in 0..3 {
            system.put(ann.id(), mail(&format!("m{n}")));
        }
        let route = deleting(&world, &ann, &system);
        crash_at(&world, &route, "before close", 1).await;
        assert_eq!(subjects(&system, &ann).len(), left);
        assert_eq!(world.pass(&route).await.processed, 0);
        assert_eq!((subjects(&system, &ann).len(), world.crm.received().len()), (0, 3));
    }
}

#[tokio::test(start_paused = true)]
async fn row_closed() {
    let (world, system) = (World::new(), like_pop3());
    let ann = world.user("ann");
    let id = system.put(ann.id(), mail("m0"));
    let route = deleting(&world, &ann, &system);
    crash_at(&world, &route, "after close", 1).await;
    assert_eq!(subjects(&system, &ann).len(), 0);
    assert!(world.attempts(&ann, &id).await.is_some());
    assert_eq!(world.pass(&route).await.listed, 0);
    assert_eq!(
        world.attempts(&ann, &id).await,
        None,
        "the record of a gone message is dropped, in an empty mailbox too"
    );
}

/// The id of a removed message comes again as another message's, which must be read and not be taken for the removed one.
#[tokio::test(start_paused = true)]
async fn row_closed_and_the_id_reused() {
    for system in [like_pop3(), MemoryTransport::new()] {
        let world = World::new();
        let help = world.queue("help");
        for (id, message) in [
            ("1", mail("first")),
            ("2", junk("junk")),
            ("3", email_router_model::RawMessage::new("\r\n\r\nx")),
        ] {
            system.put_with_id(help.id(), id.into(), message);
        }
        let route = deleting(&world, &help, &system);
        assert_eq!(world.pass(&route).await.processed, 3);
        let stays = usize::from(!system.capability().move_to_folder);
        assert_eq!(subjects(&system, &help).len(), stays, "what cannot be moved stays");
        for (id, subject) in [("1", "second"), ("2", "third")] {
            system.put_with_id(help.id(), id.into(), mail(subject));
        }
        assert_eq!(world.pass(&route).await.processed, 2, "what stayed is still known");
        assert_eq!(world.crm.received(), ["first", "second", "third"]);
        assert_eq!(subjects(&system, &help).len(), stays);
    }
}

#[tokio::test(start_paused = true)]
async fn row_lease_taken() {
    let (world, system) = (World::new(), MemoryTransport::new());
    let ann = world.user("ann");
    system.put(ann.id(), mail("m0"));
    let plan = Plan { incoming: vec![Arc::new(deleting(&world, &ann, &system))], ..Plan::default() };
    let life = Life::until(Point::Named("after lease_acquire", 1));
    let stop = world.stop.subscribe();
    assert!(life.live(world.router("a", 1, &life).run_once(&plan, &stop)).await.is_none());
    let other = world.immortal("b").run_once(&plan, &stop).await.unwrap();
    assert_eq!((other.incoming.listed, other.failures.len()), (0, 0), "another router waits for the lease");
    let same = world.immortal("a").run_once(&plan, &stop).await.unwrap();
    assert_eq!(same.incoming.delivered, 1, "the same one takes it at once");

    system.put(ann.id(), mail("m1"));
    let life = Life::until(Point::Named("after lease_acquire", 1));
    assert!(life.live(world.router("a", 1, &life).run_once(&plan, &stop)).await.is_none());
    tokio::time::advance(plan.schedule.max_thread_execution + Duration::from_secs(61)).await;
    let other = world.immortal("b").run_once(&plan, &stop).await.unwrap();
    assert_eq!(other.incoming.delivered, 1, "and everybody when it ran out");
}

// ------------------------------------------------------------------------------------------------------------- the sweep

/// Two mailboxes, a queue and what waits to go out, all on one mail system.
struct Sweep {
    world: World,
    system: MemoryTransport,
    places: Vec<Place>,
    delete: bool,
}

impl Sweep {
    fn new(system: MemoryTransport, delete: bool) -> Self {
        let world = World::new();
        let places = vec![world.user("ann"), world.queue("help")];
        // duplicates in the queue's mailbox are delivered too, for the sake of a queue item
        world.crm.settings_mut(|s| s.create_additional_queue_items_for_already_tracked_email = true);
        let bob = world.crm.add(None, "Bob", "bob@contoso.example", email_router_crm::FilteringMethod::All);
        for (n, place) in places.iter().enumerate() {
            for m in 0..2 {
                system.put(place.id(), mail(&format!("m{n}{m}")));
            }
            system.put(place.id(), junk(&format!("junk{n}")));
            system.put(place.id(), mail(&format!("m{n}0"))); // a copy of the first
            system.put(place.id(), mail("both"));
            system.put(place.id(), email_router_model::RawMessage::new("\r\n\r\nunreadable\r\n"));
        }
        system.put(places[0].id(), large(&mail("large"), 4_000));
        for (n, place) in places.iter().enumerate() {
            world.crm.send_mail(&place.record, &bob, &format!("out{n}"));
        }
        Self { world, system, places, delete }
    }

    fn plan(&self, life: &Arc<Life>) -> Plan {
        let transport = |_: &Place| -> Arc<dyn Transport> {
            Arc::new(MortalTransport { inner: Arc::new(self.system.clone()), life: Arc::clone(life) })
        };
        let incoming = self.places.iter().map(|place| {
            let mut route = self.world.route(place, MemoryTransport::new());
            route.transport = transport(place);
            route.settings.delete_after_processing = self.delete;
            route.settings.header_first_above = 1_000;
            Arc::new(route)
        });
        let outgoing = self.places.iter().map(|place| {
            Arc::new(OutgoingRoute {
                mailbox: place.mailbox.clone(),
                record: place.record.clone(),
                transport: transport(place),
                fingerprint: 1,
            })
        });
        let mut plan = Plan { incoming: incoming.collect(), outgoing: outgoing.collect(), ..Plan::default() };
        plan.outgoing_settings.message_id_domain = "router.example".to_owned();
        plan
    }

    /// One life; `None` when it ended by death.
    async fn live(&self, point: Point) -> (Option<()>, Vec<String>) {
        let life = Life::until(point);
        let plan = self.plan(&life);
        let stop = self.world.stop.subscribe();
        let router = self.world.router("the router", 7, &life);
        let ended = life.live(router.run_once(&plan, &stop)).await;
        let ended = ended.map(|report| assert_eq!(report.unwrap().failures, []));
        (ended, life.names())
    }

    /// What must hold once a router ran to its end.
    async fn check(&self, at: &str) {
        let world = &self.world;
        assert_eq!(world.crm.received(), ["both", "large", "m00", "m01", "m10", "m11"], "{at}: each once");
        let mut queued = world.crm.queued(&self.places[1].record);
        queued.sort();
        assert_eq!(queued, ["both", "m10", "m11"], "{at}");
        for mail in world.crm.emails().iter().filter(|e| e.outgoing) {
            assert_eq!((mail.status, mail.in_doubt), (EmailStatus::Sent, false), "{at}: {}", mail.subject);
        }
        let mut sent: Vec<_> = self.system.sent().iter().map(|s| s.message.message_id.clone()).collect();
        sent.sort_by_key(|m| m.as_str().to_owned());
        sent.dedup();
        assert_eq!((sent.len(), self.system.sent().len()), (2, 2), "{at}: sent once");
        assert_eq!(world.state.ledger_open().await.unwrap(), [], "{at}");
        assert_eq!(world.classes().await, ["unreadable"; 2], "{at}");
        for (n, place) in self.places.iter().enumerate() {
            let left: Vec<String> = subjects(&self.system, place);
            let copies = left.iter().filter(|s| s.starts_with('m')).count();
            let moved = self.system.folder(place.id(), "Undeliverable").len();
            let can_move = self.system.capability().move_to_folder;
            assert_eq!(moved, usize::from(can_move), "{at}");
            if !self.delete {
                assert_eq!(left.len() + moved, if n == 0 { 7 } else { 6 }, "{at}: nothing is deleted");
            } else if n == 1 {
                assert_eq!(
                    left.len(),
                    usize::from(!can_move),
                    "{at}: a queue keeps only what is undeliverable"
                );
            } else {
                assert!(left.contains(&"junk0".to_owned()), "{at}: a user's discarded mail stays");
                assert!(
                    !left.contains(&"m01".to_owned()) && !left.contains(&"large".to_owned()),
                    "{at}: {left:?}"
                );
                assert!(copies <= 1, "{at}: {left:?}");
            }
            // nothing stuck: every message that is still there is settled
            let ids: Vec<_> = self.system.messages(place.id()).into_iter().map(|m| m.id).collect();
            for seen in world.state.seen(place.id(), &ids).await.unwrap() {
                let settled = seen.and_then(|s| s.settled);
                assert!(settled.is_some_and(|s| s.verdict != Verdict::LeftAlone), "{at}");
            }
        }
    }
}

async fn sweep(system: fn() -> MemoryTransport, delete: bool) {
    let whole = Sweep::new(system(), delete);
    let (_, names) = whole.live(Point::Never).await;
    whole.check("no crash").await;
    assert!(names.len() > 200, "{}", names.len());
    for (n, name) in names.iter().enumerate() {
        let at = format!("crash no. {n} {name}");
        let sweep = Sweep::new(system(), delete);
        let (ended, _) = sweep.live(Point::Number(n)).await;
        assert!(ended.is_none(), "{at}: the run comes to it");
        sweep.live(Point::Never).await;
        // what was claimed and not begun is found after SendingStatusDelay
        tokio::time::advance(Duration::from_secs(1900)).await;
        sweep.live(Point::Never).await;
        sweep.check(&at).await;
    }
}

#[tokio::test(start_paused = true)]
async fn sweep_at_once_and_delete() {
    sweep(MemoryTransport::new, true).await;
}

#[tokio::test(start_paused = true)]
async fn sweep_at_close_and_delete() {
    sweep(like_pop3, true).await;
}

#[tokio::test(start_paused = true)]
async fn sweep_of_a_costly_listing() {
    sweep(costly_to_list, true).await;
}

#[tokio::test(start_paused = true)]
async fn sweep_at_once_and_keep() {
    sweep(MemoryTransport::new, false).await;
}

/// Crashes on the way back from a crash.
#[tokio::test(start_paused = true)]
async fn sweep_of_two_crashes() {
    let (_, names) = Sweep::new(like_pop3(), true).live(Point::Never).await;
    for n in (0..names.len()).step_by(17) {
        for second in (0..names.len()).step_by(37) {
            let at = format!("crash no. {n} {}, then {second}", names[n]);
            let sweep = Sweep::new(like_pop3(), true);
            for point in [n, second] {
                sweep.live(Point::Number(point)).await;
            }
            sweep.live(Point::Never).await;
            tokio::time::advance(Duration::from_secs(1900)).await;
            sweep.live(Point::Never).await;
            sweep.check(&at).await;
        }
    }
}
