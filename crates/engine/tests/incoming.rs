//! One pass over one mailbox: what is fetched, what becomes of each message in the CRM, in the state and at the source.
#![allow(clippy::unwrap_used)] // a test file

mod world;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use email_router_crm::{Error as CrmError, ErrorKind as CrmErrorKind, FilteringMethod, ParticipationType};
use email_router_engine::decide::MailboxContext;
use email_router_engine::{IncomingSettings, StateStore as _, Verdict};
use email_router_model::{Classified as _, Mailbox, MailboxKind, RawMessage, RemoteId, Scope};
use email_router_transport::layer::Operation;
use email_router_transport::memory::MemoryTransport;
use email_router_transport::{
    Access, Capability, Disposition, Error, ErrorKind, Inbox, Outbound, Probe, Receipt, ReceiveOptions, Stub,
    SubmitOptions, Transport,
};
use world::{Life, MemoryCrm, Place, Point, World, costly_to_list, junk, large, like_pop3, mail, subjects};

const MEGABYTE: usize = 1_000_000;

fn setup() -> (World, MemoryTransport, Place) {
    let world = World::new();
    let ann = world.user("ann");
    (world, MemoryTransport::new(), ann)
}

fn later(world: &World, by: u64) -> email_router_model::Timestamp {
    email_router_model::Clock::now(&*world.clock).checked_add(Duration::from_secs(by)).unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_crm_of_these_tests_keeps_the_contract() {
    email_router_crm::conformance::run(|| std::future::ready(world::crm::Fresh::new())).await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_message_does_not_cost_its_body() {
    let (world, system, ann) = setup();
    let refused = system.put(ann.id(), large(&junk("junk"), MEGABYTE));
    let wanted = system.put(ann.id(), large(&mail("wanted"), MEGABYTE));
    let small = system.put(ann.id(), junk("small"));
    let report = world.pass(&world.route(&ann, system.clone())).await;
    assert_eq!((report.delivered, report.discarded, report.backlog), (1, 2, 0));
    let asked = |operation| -> Vec<RemoteId> {
        let calls = system.calls();
        let of = calls.into_iter().filter(|c| c.operation == operation);
        of.filter_map(|c| c.message).map(RemoteId::new).collect()
    };
    assert_eq!(asked(Operation::Headers), [refused, wanted.clone()]);
    assert_eq!(asked(Operation::Fetch), [wanted, small], "the refused megabyte is never fetched");
}

#[tokio::test(start_paused = true)]
async fn a_second_pass_fetches_nothing() {
    let (world, system, ann) = setup();
    for n in 0..40 {
        system.put(ann.id(), mail(&format!("m{n}")));
    }
    let route = world.route(&ann, system.clone());
    assert_eq!(world.pass(&route).await.processed, 40);
    let fetched = system.count(Operation::Fetch);
    system.put(ann.id(), mail("new"));
    assert_eq!(world.pass(&route).await.processed, 1);
    assert_eq!(system.count(Operation::Fetch), fetched + 1);
    assert_eq!(world.crm.received().len(), 41);
}

#[tokio::test(start_paused = true)]
async fn dispositions() {
    // kind, delete, move, POP3; what stays of (wanted, junk, unreadable), and what is in the folder
    let table = [
        (MailboxKind::User, false, true, false, "wanted junk", 1),
        (MailboxKind::User, true, true, false, "junk", 1), // a user's discarded mail is never deleted
        (MailboxKind::User, true, false, false, "junk -", 0),
        (MailboxKind::User, true, true, true, "junk -", 0), // no folders: it stays, and is in quarantine
        (MailboxKind::Queue, true, true, false, "", 1),
        (MailboxKind::Queue, true, true, true, "-", 0),
        (MailboxKind::Queue, false, false, true, "wanted junk -", 0),
    ];
    for (kind, delete, moving, pop3, left, moved) in table {
        let world = World::new();
        let system = if pop3 { like_pop3() } else { MemoryTransport::new() };
        let place = if kind == MailboxKind::User { world.user("ann") } else { world.queue("ann") };
        system.put(place.id(), mail("wanted"));
        system.put(place.id(), junk("junk"));
        system.put(place.id(), RawMessage::new("\r\n\r\nnot a message"));
        let mut route = world.route(&place, system.clone());
        route.settings.delete_after_processing = delete;
        route.settings.move_undeliverable = moving;
        let report = world.pass(&route).await;
        let case = format!("{kind} delete {delete} move {moving} pop3 {pop3}");
        assert_eq!((report.delivered, report.discarded, report.undeliverable), (1, 1, 1), "{case}");
        let there = subjects(&system, &place);
        let there: Vec<&str> = there.iter().map(|s| if s.is_empty() { "-" } else { s.as_str() }).collect();
        assert_eq!(there.join(" "), left, "{case}");
        assert_eq!(system.folder(place.id(), "Undeliverable").len(), moved, "{case}");
        assert_eq!(world.classes().await, ["unreadable"], "{case}: kept in any case");
        assert!(system.messages(place.id()).iter().all(|m| !m.read), "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn quarantine_has_what_a_person_needs() {
    let (world, system, ann) = setup();
    let big = system.put(ann.id(), large(&mail("big"), MEGABYTE));
    let blocked = system.put(ann.id(), mail("blocked"));
    let unreadable = system.put(ann.id(), RawMessage::new("\r\n\r\nnot a message"));
    system.put(ann.id(), large(&junk("big junk"), MEGABYTE));
    world.crm.fail_next("deliver_incoming", 1, false, || {
        CrmError::new(CrmErrorKind::Invalid, "not with that attachment")
    });
    let mut route = world.route(&ann, system.clone());
    route.settings.max_message_bytes = 500_000;
    let report = world.pass(&route).await;
    assert_eq!((report.undeliverable, report.discarded), (3, 1), "junk is refused however large it is");
    let mut items = world.quarantine().await;
    // they were worked on together, so either may have come first
    items.sort_by(|a, b| a.remote_id.cmp(&b.remote_id));
    let told: Vec<_> = items
        .iter()
        .map(|i| (i.class.as_str(), &i.remote_id, i.subject.as_deref(), i.from.as_deref()))
        .collect();
    let from = Some("bob@contoso.example");
    let expected = [
        ("too-large", &big, Some("big"), from),
        ("crm-refused", &blocked, Some("blocked"), from),
        ("unreadable", &unreadable, None, None),
    ];
    assert_eq!(told, expected);
    assert!(items[0].reason.contains("500000") && items[1].reason.contains("not with that attachment"));
    assert!(items[0].size > Some(MEGABYTE as u64), "{:?}", items[0].size);
    let mut kept = Vec::new();
    for item in &items {
        kept.push(world.state.quarantine_get(item.id).await.unwrap().unwrap().raw.is_some());
    }
    assert_eq!(kept, [false, true, true]);
    // a second pass changes nothing
    assert_eq!(world.pass(&route).await.processed, 0);
    assert_eq!(world.quarantine().await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_gone_is_no_failure() {
    let (world, system, ann) = setup();
    for subject in ["a", "b", "c"] {
        system.put(ann.id(), mail(subject));
    }
    system.fail_next(Operation::Fetch, 1, || Error::new(ErrorKind::MessageGone, "somebody took it"));
    let report = world.pass(&world.route(&ann, system.clone())).await;
    assert_eq!((report.delivered, report.undeliverable, report.deferred, report.backlog), (2, 0, 0, 0));
    assert_eq!(world.crm.received(), ["b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn a_failing_message_waits_and_is_parked_at_last() {
    let (world, system, ann) = setup();
    let bad = system.put(ann.id(), mail("bad"));
    system.put(ann.id(), mail("good"));
    let again = || Error::new(ErrorKind::Storage, "disk").with_scope(Scope::Message);
    let route = world.route(&ann, system.clone());
    system.fail_next(Operation::Fetch, 1, again);
    let report = world.pass(&route).await;
    assert_eq!(
        (report.delivered, report.deferred, report.backlog),
        (1, 1, 0),
        "the mailbox goes on; what waits is no backlog"
    );
    let fetched = system.count(Operation::Fetch);
    tokio::time::advance(Duration::from_secs(59)).await;
    assert_eq!(world.pass(&route).await.deferred, 1);
    assert_eq!(system.count(Operation::Fetch), fetched, "not before its time");
    let max = route.settings.max_attempts;
    for attempt in 2..=max {
        tokio::time::advance(Duration::from_secs(3600)).await;
        system.fail_next(Operation::Fetch, 1, again);
        let report = world.pass(&route).await;
        assert_eq!(report.undeliverable, u64::from(attempt == max), "attempt {attempt}");
    }
    let items = world.quarantine().await;
    assert_eq!(
        (items[0].class.as_str(), &items[0].remote_id, items[0].attempts),
        ("attempts-exhausted", &bad, max)
    );
    assert!(items[0].reason.contains("disk"));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_breaks_the_session_does_not_keep_the_others() {
    let (world, system, ann) = setup();
    let bad = system.put(ann.id(), mail("bad"));
    system.put(ann.id(), mail("good"));
    let route = world.route(&ann, system.clone());
    let hang_up = || Error::new(ErrorKind::ConnectionLost, "the server hung up");
    system.fail_next(Operation::Fetch, 1, hang_up);
    let (report, result) = world.try_pass(&route).await;
    assert!(result.is_err());
    assert_eq!((report.deferred, world.attempts(&ann, &bad).await), (1, Some(1)), "the attempt counts");
    assert_eq!(world.pass(&route).await.delivered, 1, "the next pass reads the other one first");
    for _ in 1..route.settings.max_attempts {
        tokio::time::advance(Duration::from_secs(4000)).await;
        system.fail_next(Operation::Fetch, 1, hang_up);
        assert!(world.try_pass(&route).await.1.is_err());
    }
    // parking tries to keep its bytes once, and then does without
    tokio::time::advance(Duration::from_secs(40_000)).await;
    system.fail_next(Operation::Fetch, 1, hang_up);
    assert!(world.try_pass(&route).await.1.is_err());
    tokio::time::advance(Duration::from_secs(40_000)).await;
    assert_eq!(world.pass(&route).await.undeliverable, 1);
    assert_eq!(world.classes().await, ["attempts-exhausted"]);
}

#[tokio::test(start_paused = true)]
async fn no_message_is_blamed_for_what_fails_around_it() {
    let (world, system, ann) = setup();
    let ids: Vec<_> = (0..5).map(|n| system.put(ann.id(), mail(&format!("m{n}")))).collect();
    let route = world.route(&ann, system.clone());
    for _ in 0..20 {
        // before any message was in hand, and the CRM away
        system.fail_next(Operation::Prefetch, 1, || Error::new(ErrorKind::ConnectionLost, "lost"));
        assert!(world.try_pass(&route).await.1.is_err());
        world
            .crm
            .fail_next("resolve", 5, false, || CrmError::new(CrmErrorKind::Unreachable, "the CRM is away"));
        assert!(world.try_pass(&route).await.1.is_err());
    }
    for id in &ids {
        assert_eq!(world.attempts(&ann, id).await.unwrap_or(0), 0, "{id}");
    }
    assert_eq!(world.pass(&route).await.delivered, 5);
    assert_eq!(world.classes().await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_delivery_whose_answer_was_lost_counts_as_delivered() {
    let (world, system, ann) = setup();
    system.put(ann.id(), mail("m0"));
    let mut route = world.route(&ann, system.clone());
    route.settings.delete_after_processing = true;
    world
        .crm
        .fail_next("deliver_incoming", 1, true, || CrmError::new(CrmErrorKind::Unreachable, "no answer"));
    assert!(world.try_pass(&route).await.1.is_err());
    assert_eq!((world.crm.received().len(), subjects(&system, &ann).len()), (1, 1));
    let report = world.pass(&route).await;
    assert_eq!((report.delivered, report.discarded, subjects(&system, &ann).len()), (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_crm_failing_in_the_middle_keeps_what_is_done() {
    let system = like_pop3();
    let world = World::new();
    let ann = world.user("ann");
    for n in 0..40 {
        system.put(ann.id(), mail(&format!("m{n}")));
    }
    let mut route = world.route(&ann, system.clone());
    route.settings.delete_after_processing = true;
    // the 33rd, which is the first of the second window
    let healthy = world.crm.count("deliver_incoming");
    assert_eq!(healthy, 0);
    let parts = world.parts(&Life::until(Point::Never));
    let view = world.view().await;
    route.settings.max_messages_per_cycle = 32;
    parts.run(&route, &view, &world.stop.subscribe()).await.1.unwrap();
    route.settings.max_messages_per_cycle = 1000;
    world.crm.fail_next("deliver_incoming", 1, false, || CrmError::new(CrmErrorKind::Busy, "locked"));
    let (report, result) = parts.run(&route, &view, &world.stop.subscribe()).await;
    assert_eq!(
        (report.processed, report.backlog, result.unwrap_err().to_string().as_str()),
        (7, 1, "locked"),
        "those that were on their way with it came through"
    );
    assert_eq!(subjects(&system, &ann).len(), 8);
    assert_eq!(world.pass(&route).await.delivered, 1);
    assert_eq!((world.crm.received().len(), subjects(&system, &ann).len()), (40, 0));
}

#[tokio::test(start_paused = true)]
async fn threshold_and_expiry() {
    let (world, system, ann) = setup();
    let now = email_router_model::Clock::now(&*world.clock);
    for (subject, hours) in [("ancient", 100), ("old", 30), ("edge", 24), ("new", 1)] {
        let mut message = mail(subject);
        message.received = Some(now.checked_sub(Duration::from_secs(hours * 3600)).unwrap());
        system.put(ann.id(), message);
    }
    let mut route = world.route(&ann, system.clone());
    route.settings.delete_after_processing = true;
    route.settings.message_expiry = Some(Duration::from_secs(48 * 3600));
    world
        .state
        .set_threshold(ann.id(), Some(now.checked_sub(Duration::from_secs(24 * 3600)).unwrap()))
        .await
        .unwrap();
    let report = world.pass(&route).await;
    assert_eq!((report.left_alone, report.delivered), (3, 1), "what came at the threshold is not after it");
    assert_eq!(subjects(&system, &ann), ["ancient", "old", "edge"], "left alone is left there");
    assert_eq!(world.pass(&route).await.processed, 0);
    // without a threshold of its own the setting counts
    world.state.set_threshold(ann.id(), None).await.unwrap();
    let mut message = mail("between");
    message.received = Some(now.checked_sub(Duration::from_secs(3600)).unwrap());
    system.put(ann.id(), message);
    route.settings.process_from = Some(now);
    assert_eq!(world.pass(&route).await.left_alone, 1);
    // with one, the later of the two
    world.state.set_threshold(ann.id(), Some(later(&world, 100))).await.unwrap();
    for (subject, after, at) in [("a", 50, 100), ("b", 150, 150), ("c", 150, 160)] {
        route.settings.process_from = Some(later(&world, after));
        let mut message = mail(subject);
        message.received = Some(later(&world, at));
        system.put(ann.id(), message);
        assert_eq!(world.pass(&route).await.delivered, u64::from(subject == "c"), "{subject}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cycle_has_its_limit_and_tells_the_backlog() {
    let (world, system, ann) = setup();
    for n in 0..25 {
        system.put(ann.id(), mail(&format!("m{n:02}")));
    }
    let mut route = world.route(&ann, system.clone());
    route.settings.max_messages_per_cycle = 10;
    let mut told = Vec::new();
    for _ in 0..4 {
        let report = world.pass(&route).await;
        told.push((report.listed, report.processed, report.backlog));
    }
    assert_eq!(told, [(25, 10, 15), (25, 10, 5), (25, 5, 0), (25, 0, 0)]);
}

/// Where listing costs a read of each message, no more is listed than is worked on, and nothing is forgotten that was not listed.
#[tokio::test(start_paused = true)]
async fn a_costly_listing_goes_as_far_as_the_work() {
    let (world, system) = (World::new(), costly_to_list());
    let ann = world.user("ann");
    let ids: Vec<_> = (0..100).map(|n| system.put(ann.id(), mail(&format!("m{n:02}")))).collect();
    let mut route = world.route(&ann, system.clone());
    route.settings.delete_after_processing = true;
    route.settings.max_messages_per_cycle = 40;
    world.state.begin(ann.id(), &[ids[99].clone(), "never listed".into()], later(&world, 0)).await.unwrap();
    let mut told = Vec::new();
    for pass in 1..=3 {
        let listed = system.count(Operation::Next);
        let report = world.pass(&route).await;
        assert!(system.count(Operation::Next) <= listed + 65, "two windows and the end");
        told.push((report.listed, report.processed, report.backlog, subjects(&system, &ann).len()));
        // only a listing that came to its end shows what is gone
        assert_eq!(world.attempts(&ann, &"never listed".into()).await.is_some(), pass == 1);
        assert_eq!(world.attempts(&ann, &ids[99]).await.is_some(), pass < 3);
    }
    assert_eq!(told, [(64, 40, 24, 60), (60, 40, 20, 20), (20, 20, 0, 0)]);
    assert_eq!(world.crm.received().len(), 100);
}

/// The header section that came with the listing is not asked for again.
#[tokio::test(start_paused = true)]
async fn header_sections_of_a_costly_listing_are_used() {
    let (world, system) = (World::new(), costly_to_list());
    let ann = world.user("ann");
    system.put(ann.id(), large(&junk("junk"), MEGABYTE));
    system.put(ann.id(), large(&mail("wanted"), MEGABYTE));
    let report = world.pass(&world.route(&ann, system.clone())).await;
    assert_eq!((report.delivered, report.discarded), (1, 1));
    assert_eq!((system.count(Operation::Headers), system.count(Operation::Fetch)), (0, 1));
}

/// What Exchange keeps beside e-mail is refused for its class, and its body is not read for that, however small it is.
#[tokio::test(start_paused = true)]
async fn items_of_other_classes_are_reported_and_not_read() {
    let (world, system, ann) = setup();
    let class = |message: RawMessage, class: &str| {
        let mut message = message;
        message.message_class = Some(class.to_owned());
        message
    };
    system.put(ann.id(), class(mail("meeting"), "IPM.Schedule.Meeting.Request"));
    system.put(ann.id(), class(mail("letter"), "IPM.Note"));
    let report = world.pass(&world.route(&ann, system.clone())).await;
    assert_eq!((report.delivered, report.discarded), (1, 1));
    assert_eq!((system.count(Operation::Headers), system.count(Operation::Fetch)), (1, 1));
    assert_eq!(world.crm.received().len(), 1);
}

/// A mail system whose listing costs less with what an earlier session left.
#[derive(Debug, Clone, Default)]
struct Resuming {
    inner: MemoryTransport,
    /// What each session was opened with.
    opened: Arc<Mutex<Vec<Option<Bytes>>>>,
}

struct ResumingInbox(Box<dyn Inbox>, Bytes);

impl std::fmt::Display for Resuming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("resuming")
    }
}

#[async_trait]
impl Transport for Resuming {
    fn capability(&self) -> Capability {
        let mut capability = self.inner.capability();
        capability.resumes = true;
        capability
    }
    async fn probe(&self, mailbox: &Mailbox, access: Access) -> email_router_transport::Result<Probe> {
        self.inner.probe(mailbox, access).await
    }
    async fn receive(
        &self,
        mailbox: &Mailbox,
        options: ReceiveOptions,
    ) -> email_router_transport::Result<Box<dyn Inbox>> {
        let number = {
            let mut opened = self.opened.lock().unwrap();
            opened.push(options.resume.clone());
            opened.len()
        };
        let inner = self.inner.receive(mailbox, options).await?;
        Ok(Box::new(ResumingInbox(inner, Bytes::from(format!("session {number}")))))
    }
    async fn submit(
        &self,
        sender: &Mailbox,
        message: &Outbound,
        options: SubmitOptions,
    ) -> email_router_transport::Result<Receipt> {
        self.inner.submit(sender, message, options).await
    }
}

#[async_trait]
impl Inbox for ResumingInbox {
    async fn next(&mut self) -> email_router_transport::Result<Option<Stub>> {
        self.0.next().await
    }
    async fn headers(&mut self, id: &RemoteId) -> email_router_transport::Result<Bytes> {
        self.0.headers(id).await
    }
    async fn fetch(&mut self, id: &RemoteId) -> email_router_transport::Result<RawMessage> {
        self.0.fetch(id).await
    }
    fn resume_token(&mut self) -> Option<Bytes> {
        Some(self.1.clone())
    }
    async fn dispose(&mut self, id: &RemoteId, what: Disposition) -> email_router_transport::Result<()> {
        self.0.dispose(id, what).await
    }
    async fn close(self: Box<Self>) -> email_router_transport::Result<()> {
        self.0.close().await
    }
}

/// What a session leaves for the next one is kept once the session was closed well, and given to no other place.
#[tokio::test(start_paused = true)]
async fn a_listing_is_resumed() {
    let (world, system, ann) = setup();
    let resuming = Resuming { inner: system.clone(), opened: Arc::default() };
    let route = world.route(&ann, resuming.clone());
    world.pass(&route).await;
    world.pass(&route).await;
    system.fail_next(Operation::Close, 1, || Error::new(ErrorKind::ConnectionLost, "cut"));
    world.try_pass(&route).await.1.unwrap_err();
    world.pass(&route).await;
    let mut elsewhere = world.route(&ann, resuming.clone());
    elsewhere.source = "another place".to_owned();
    world.pass(&elsewhere).await;
    let opened = resuming.opened.lock().unwrap().clone();
    let session = |n: u32| Some(Bytes::from(format!("session {n}")));
    assert_eq!(opened, [None, session(1), session(2), session(2), None]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_gives_back_what_was_not_touched() {
    let (world, system, ann) = setup();
    let ids: Vec<_> = (0..10).map(|n| system.put(ann.id(), mail(&format!("m{n}")))).collect();
    let route = world.route(&ann, system.clone());
    // the third fetch takes long, and meanwhile somebody stops the router
    let watch = Arc::new(world::Watch::default());
    watch.fetching_takes(ann.id(), Duration::from_secs(10));
    let mut slow = world.route(&ann, world::Watched { inner: system.clone(), watch });
    slow.settings = route.settings.clone();
    let stopper = async {
        tokio::time::sleep(Duration::from_secs(25)).await;
        world.stop.send_replace(true);
    };
    let ((report, result), ()) = tokio::join!(world.try_pass(&slow), stopper);
    result.unwrap();
    assert_eq!((report.delivered, report.backlog), (3, 7), "what is in flight is finished");
    assert_eq!(world.attempts(&ann, &ids[2]).await, Some(1));
    assert_eq!(world.attempts(&ann, &ids[3]).await, None);
    world.stop.send_replace(false);
    assert_eq!(world.pass(&route).await.delivered, 7);
}

#[tokio::test(start_paused = true)]
async fn duplicates_are_delivered_once() {
    let (world, system, ann) = setup();
    let ben = world.user("ben");
    for _ in 0..3 {
        system.put(ann.id(), mail("same"));
    }
    let report = world.pass(&world.route(&ann, system.clone())).await;
    assert_eq!((report.delivered, report.discarded), (1, 2), "in one mailbox");
    // in two mailboxes read at the same time, each waiting for the other's fetch
    let watch = Arc::new(world::Watch::default());
    for place in [&ann, &ben] {
        system.put(place.id(), mail("both"));
        watch.fetching_takes(place.id(), Duration::from_secs(5));
    }
    let slow =
        |place| world.route(place, world::Watched { inner: system.clone(), watch: Arc::clone(&watch) });
    let (at_ann, at_ben) = (slow(&ann), slow(&ben));
    let ((a, _), (b, _)) = tokio::join!(world.try_pass(&at_ann), world.try_pass(&at_ben));
    assert_eq!((a.delivered + b.delivered, a.discarded + b.discarded), (1, 1));
    assert_eq!(world.crm.received(), ["both", "same"]);
}

#[tokio::test(start_paused = true)]
async fn copies_without_message_id_are_one_message() {
    let (world, system, ann) = setup();
    let ben = world.user("ben");
    let text = "From: bob@contoso.example\r\nTo: ann@fabrikam.example\r\nSubject: scan\r\nDate: Sun, 1 Mar 2026 10:00:00 +0000\r\n\r\npage\r\n";
    system.put(
        ann.id(),
        RawMessage::new(format!("Delivered-To: ann@fabrikam.example\r\nStatus: RO\r\n{text}")),
    );
    system.put(ben.id(), RawMessage::new(format!("\r\nReceived: by mx\r\n{text}")));
    for (place, delivered) in [(&ann, 1), (&ben, 0)] {
        assert_eq!(world.pass(&world.route(place, system.clone())).await.delivered, delivered);
    }
    assert_eq!(world.crm.received(), ["scan"]);
}

/// The view of a pass is up to an hour old; what came into the CRM and left it since is looked up before anything is settled by it.
#[tokio::test(start_paused = true)]
async fn users_and_queues_of_the_last_hour_count() {
    let (world, system, _) = setup();
    let help = world.queue("help");
    let parts = world.parts(&Life::until(Point::Never));
    let (route, stop) = (world.route(&help, system.clone()), world.stop.subscribe());
    let to = |name: &str, subject: &str| {
        let text = String::from_utf8(mail(subject).bytes().to_vec()).unwrap();
        RawMessage::new(text.replace("ann@fabrikam.example", &format!("{name}@fabrikam.example")))
    };
    world.crm.set_filter(&help.record, FilteringMethod::None);
    let old = world.view().await;
    // a user who is new: nobody else is addressed, so the message would be discarded
    world.user("ben");
    for n in 0..3 {
        system.put(help.id(), to("ben", &format!("new{n}")));
    }
    system.put(help.id(), to("nobody", "for nobody"));
    let loads = world.crm.count("mailboxes");
    let (report, result) = parts.run(&route, &old, &stop).await;
    result.unwrap();
    assert_eq!((report.delivered, report.discarded, report.view_outdated), (3, 1, true));
    assert_eq!(world.crm.count("mailboxes") - loads, 1, "read again once");
    // a queue goes between the decision and the delivery: decided once more, with those that are there
    world.crm.fail_next("deliver_incoming", 1, false, || {
        CrmError::new(CrmErrorKind::NotFound, "the queue does not exist")
    });
    system.put(help.id(), to("ann", "again"));
    let report = world.pass(&route).await;
    assert_eq!((report.delivered, report.undeliverable, report.view_outdated), (1, 0, true));
    // the queue that is read goes: its mail is not for nobody, it is left alone
    let gone = world.queue("gone");
    let old = world.view().await;
    world.crm.remove(&gone.record);
    system.put(gone.id(), to("gone", "left alone"));
    for view in [old, world.view().await] {
        let (report, result) = parts.run(&world.route(&gone, system.clone()), &view, &stop).await;
        let error = result.unwrap_err();
        assert_eq!((report.processed, error.scope()), (0, Scope::Mailbox), "{error}");
        assert!(error.to_string().contains("no longer in the CRM"), "{error}");
    }
    assert_eq!(subjects(&system, &gone), ["left alone"]);
}

/// Some servers number messages from 1: on another server the same id is another message.
#[tokio::test(start_paused = true)]
async fn a_mailbox_that_moved_is_read_anew() {
    let world = World::new();
    let ann = world.user("ann");
    let (old, new) = (MemoryTransport::new(), MemoryTransport::new());
    assert_eq!(old.put(ann.id(), mail("old")), new.put(ann.id(), mail("new")));
    new.put(ann.id(), mail("old"));
    assert_eq!(world.pass(&world.route(&ann, old)).await.delivered, 1);
    let mut moved = world.route(&ann, new);
    moved.source = "another mail system".to_owned();
    let report = world.pass(&moved).await;
    assert_eq!((report.delivered, report.discarded), (1, 1), "what came along is a duplicate");
    assert_eq!(world.crm.received(), ["new", "old"]);
    assert_eq!(world.pass(&moved).await.processed, 0);
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_in_a_queue_gets_the_additional_queue_item() {
    let (world, system, ann) = setup();
    let help = world.queue("help");
    world.crm.settings_mut(|s| s.create_additional_queue_items_for_already_tracked_email = true);
    for place in [&ann, &help] {
        system.put(place.id(), mail("both"));
        assert_eq!(world.pass(&world.route(place, system.clone())).await.undeliverable, 0);
    }
    assert_eq!(
        (world.crm.received(), world.crm.queued(&help.record)),
        (vec!["both".into()], vec!["both".into()])
    );
    assert_eq!(world.quarantine().await, []);
}

#[tokio::test(start_paused = true)]
async fn a_close_that_fails_loses_nothing() {
    for effect in [false, true] {
        let world = World::new();
        let (system, ann) = (like_pop3(), world.user("ann"));
        for n in 0..3 {
            system.put(ann.id(), mail(&format!("m{n}")));
        }
        let faults = email_router_transport::layer::fault::Faults::new(Arc::new(
            email_router_model::SeededEntropy::new(1),
        ));
        let mut route =
            world.route(&ann, email_router_transport::layer::Fault::new(system.clone(), faults.clone()));
        route.settings.delete_after_processing = true;
        use email_router_transport::layer::fault::FaultKind::{FailAfter, FailBefore};
        // receive, 4 next, prefetch, 3 fetches, 3 disposals come before close
        faults.at(12, if effect { FailAfter } else { FailBefore });
        let (report, result) = world.try_pass(&route).await;
        assert!(result.unwrap_err().to_string().contains("close"));
        assert_eq!((report.delivered, subjects(&system, &ann).len()), (3, if effect { 0 } else { 3 }));
        let fetched = system.count(Operation::Fetch);
        assert_eq!(world.pass(&route).await.processed, 0, "disposed of again without routing");
        assert_eq!((subjects(&system, &ann).len(), system.count(Operation::Fetch)), (0, fetched));
        assert_eq!(world.crm.received().len(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn without_stable_ids_the_crm_alone_remembers() {
    let mut capability = MemoryTransport::new().capability();
    capability.stable_ids = false;
    let (world, _, ann) = setup();
    let system = MemoryTransport::with_capability(capability);
    system.put(ann.id(), mail("m0"));
    system.put(ann.id(), RawMessage::new("\r\n\r\nunreadable"));
    let mut route = world.route(&ann, system.clone());
    route.settings.move_undeliverable = false;
    for _ in 0..3 {
        world.pass(&route).await;
    }
    assert_eq!((world.crm.received().len(), world.classes().await.len()), (1, 1));
    // an id of an earlier session that was settled as delete must not delete another message unread
    route.settings.delete_after_processing = true;
    let ids: Vec<RemoteId> =
        (1..20).flat_map(|s| (1..4).map(move |n| RemoteId::new(format!("{s}/{n}")))).collect();
    let settled: Vec<_> = ids
        .iter()
        .map(|id| email_router_engine::ports::Settled {
            id: id.clone(),
            verdict: Verdict::Deliver,
            activity_id: None,
            disposition: "delete".to_owned(),
            at: later(&world, 0),
        })
        .collect();
    world.state.settle(ann.id(), &settled).await.unwrap();
    system.put(ann.id(), mail("m1"));
    world.pass(&route).await;
    assert_eq!(world.crm.received(), ["m0", "m1"]);
}

#[tokio::test(start_paused = true)]
async fn one_message_at_hand() {
    let (world, _, ann) = setup();
    let parts = world.parts(&Life::until(Point::Never));
    let view = world.view().await;
    let settings = IncomingSettings::default();
    let mailbox: &Mailbox = &ann.mailbox;
    let context = MailboxContext::new(mailbox, Some(ann.record.clone()));
    let (wanted, refused) = (mail("wanted"), junk("junk"));
    for (raw, anyway, verdict) in [
        (&wanted, false, Verdict::Deliver),
        (&refused, false, Verdict::Discard),
        (&refused, true, Verdict::Deliver),
    ] {
        let routed = parts.route_one(&view, &context, &settings, raw, anyway, true).await.unwrap();
        assert_eq!((routed.record.verdict, routed.corrupt), (verdict, false));
    }
    assert_eq!(
        (world.crm.count("deliver_incoming"), world.crm.received().len()),
        (0, 0),
        "a dry run writes nothing"
    );
    assert_eq!(world.quarantine().await.len(), 0);
    let routed = parts.route_one(&view, &context, &settings, &refused, true, false).await.unwrap();
    assert_eq!(routed.record.verdict, Verdict::Deliver);
    assert_eq!(world.crm.received(), ["junk"], "released");
    let again = parts.route_one(&view, &context, &settings, &refused, true, false).await.unwrap();
    assert_eq!((again.record.verdict, MemoryCrm::received(&world.crm).len()), (Verdict::Discard, 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_no_message_is_undeliverable_until_a_person_releases_it() {
    let (world, _, ann) = setup();
    let parts = world.parts(&Life::until(Point::Never));
    let view = world.view().await;
    let settings = IncomingSettings::default();
    let context = MailboxContext::new(&ann.mailbox, Some(ann.record.clone()));
    let raw = RawMessage::new("\r\n\r\nnot a message");
    for dry_run in [true, false] {
        let routed = parts.route_one(&view, &context, &settings, &raw, false, dry_run).await.unwrap();
        assert_eq!(
            (routed.record.verdict, routed.corrupt),
            (Verdict::Undeliverable, true),
            "dry run {dry_run}"
        );
    }
    assert_eq!(world.crm.count("deliver_incoming"), 0);
    // released: the mailbox's own address stands in for the sender, whatever From says
    let invalid = RawMessage::new("From: Bob <bob@localhost>\r\nSubject: invalid\r\n\r\n");
    for raw in [raw, invalid] {
        let routed = parts.route_one(&view, &context, &settings, &raw, true, false).await.unwrap();
        assert_eq!(routed.record.verdict, Verdict::Deliver);
        let email = world.crm.email(routed.record.activity_id.unwrap());
        let senders: Vec<_> =
            email.parties.iter().filter(|p| p.participation == ParticipationType::Sender).collect();
        let [sender] = senders[..] else { panic!("{senders:?}") };
        assert_eq!(
            (sender.address.as_ref(), sender.record.as_ref()),
            (Some(&ann.mailbox.address), Some(&ann.record))
        );
    }
}
