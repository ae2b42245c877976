//! The scheduler on a paused clock: limits, back-off, deadlines, stopping, new plans, two routers.
#![allow(clippy::unwrap_used)] // a test file

mod world;

use std::sync::Arc;
use std::time::Duration;

use email_router_crm::{EmailStatus, FilteringMethod};
use email_router_engine::StateStore as _;
use email_router_engine::ports::ProviderDirection;
use email_router_engine::router::{IncomingRoute, Plan, Router, Server};
use email_router_transport::layer::Operation;
use email_router_transport::memory::MemoryTransport;
use email_router_transport::{Error, ErrorKind};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use world::{Place, Watch, Watched, World, costly_to_list, like_pop3, mail, subjects};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

fn plan(routes: impl IntoIterator<Item = IncomingRoute>) -> Plan {
    let mut plan = Plan { incoming: routes.into_iter().map(Arc::new).collect(), ..Plan::default() };
    plan.outgoing_settings.message_id_domain = "router.example".to_owned();
    plan
}

/// A router that runs until it is stopped.
struct Running {
    plans: watch::Sender<Arc<Plan>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<email_router_engine::Result<()>>,
}

impl Running {
    fn start(router: Arc<Router>, plan: Plan) -> Self {
        let (plans, received) = watch::channel(Arc::new(plan));
        let (stop, stopped) = watch::channel(false);
        Self { plans, stop, task: tokio::spawn(router.run(received, stopped)) }
    }
    async fn stop(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap().unwrap();
    }
}

async fn run_for(world: &World, plan: Plan, time: Duration) {
    let running = Running::start(world.immortal("a"), plan);
    tokio::time::sleep(time).await;
    running.stop().await;
}

fn watched(world: &World, place: &Place, system: &MemoryTransport, watch: &Arc<Watch>) -> IncomingRoute {
    world.route(place, Watched { inner: system.clone(), watch: Arc::clone(watch) })
}

fn on(server: &str, max_sessions: usize, mut route: IncomingRoute) -> IncomingRoute {
    route.server = Server { name: server.to_owned(), max_sessions };
    route
}

fn refused() -> Error {
    Error::new(ErrorKind::Refused, "pop3 dead.example:110: nobody listens")
}

#[tokio::test(start_paused = true)]
async fn a_dead_server_is_asked_by_one_and_the_others_go_on() {
    let (world, system, begin) = (World::new(), MemoryTransport::new(), Instant::now());
    let (dead, alive) = (Arc::new(Watch::default()), Arc::new(Watch::default()));
    let mut routes = Vec::new();
    let places: Vec<Place> = (0..50).map(|n| world.user(&format!("dead{n}"))).collect();
    for place in &places {
        system.deny(place.id(), refused);
        routes.push(on("dead", 4, watched(&world, place, &system, &dead)));
    }
    let ann = world.user("ann");
    routes.push(on("alive", 4, watched(&world, &ann, &system, &alive)));
    let running = Running::start(world.immortal("a"), plan(routes));
    tokio::time::sleep(2 * HOUR).await;
    let mut times: Vec<u64> = places.iter().flat_map(|p| dead.opened(p.id(), begin)).collect();
    times.sort_unstable();
    let tries: Vec<u64> = times.iter().copied().filter(|t| *t > 10).collect();
    assert!(times.len() - tries.len() <= 4, "as many at first as are under way together: {times:?}");
    // one at a time, each time after longer: about 1, 2, 4, 8, 16, 32, 60 minutes
    assert!((5..=8).contains(&tries.len()), "{tries:?}");
    let gaps: Vec<u64> = tries.windows(2).map(|w| w[1] - w[0]).collect();
    assert!(gaps.windows(2).all(|g| g[1] > g[0] * 3 / 2 || g[1] >= 3600), "{gaps:?}");
    let polled = alive.opened(ann.id(), begin).len();
    assert!((105..=122).contains(&polled), "{polled}");
    // and when it comes back, all are read soon
    for place in &places {
        system.allow(place.id());
        system.put(place.id(), mail(&format!("to {}", place.id())));
    }
    tokio::time::sleep(HOUR + 20 * MINUTE).await;
    running.stop().await;
    assert_eq!(world.crm.received().len(), 50);
}

/// Silence and a lost connection say nothing for a server: they do not open the way to it for all its mailboxes.
#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_is_not_alive() {
    for kind in [ErrorKind::Timeout, ErrorKind::ConnectionLost] {
        let (world, system, begin) = (World::new(), MemoryTransport::new(), Instant::now());
        let watch = Arc::new(Watch::default());
        let places: Vec<Place> = (0..20).map(|n| world.user(&format!("u{n}"))).collect();
        system.deny(places[0].id(), refused);
        for place in &places[1..] {
            system.deny(place.id(), move || Error::new(kind, "pop3 hung.example:110: no answer"));
        }
        let routes = places.iter().map(|p| on("hung", 1, watched(&world, p, &system, &watch)));
        run_for(&world, plan(routes), 2 * HOUR).await;
        let tries = watch.opened(places[0].id(), begin);
        assert!(tries.len() <= 8, "{kind:?}: the waits get longer and longer: {tries:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrong_password_waits_and_touches_no_neighbour() {
    let (world, system, begin) = (World::new(), MemoryTransport::new(), Instant::now());
    let watch = Arc::new(Watch::default());
    let (ann, ben) = (world.user("ann"), world.user("ben"));
    system.deny(ann.id(), || Error::new(ErrorKind::Authentication, "wrong password"));
    let routes = [&ann, &ben].map(|p| watched(&world, p, &system, &watch));
    run_for(&world, plan(routes), 3 * HOUR).await;
    let tries = watch.opened(ann.id(), begin);
    assert!((4..=5).contains(&tries.len()), "{tries:?}");
    assert!(tries.windows(2).all(|w| w[1] - w[0] >= 900), "{tries:?}");
    assert!(watch.opened(ben.id(), begin).len() > 160);
    let statuses = world.state.statuses().await.unwrap();
    let of = |place: &Place| statuses.iter().find(|s| s.mailbox == *place.id()).unwrap().clone();
    assert_eq!(of(&ann).last_error.as_deref(), Some("wrong password"));
    assert_eq!((of(&ann).failures as usize, of(&ann).last_success), (tries.len(), None));
    assert!(of(&ann).next_run > of(&ann).last_run && of(&ben).last_error.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_view_that_cannot_be_read_again_is_used_and_asked_for_soon() {
    let world = World::new();
    world.user("ann");
    let router = world.immortal("a");
    let known = async || router.view(HOUR).await.unwrap().mailboxes().len();
    assert_eq!(known().await, 1);
    world.user("ben");
    assert_eq!(known().await, 1, "not older than allowed");
    world.crm.fail_next("mailboxes", 1, false, || {
        email_router_crm::Error::new(email_router_crm::ErrorKind::Busy, "the CRM is busy")
    });
    router.renew_view().await;
    assert_eq!(known().await, 1, "the old one stays in use");
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(known().await, 1, "a CRM that fails is not asked by every pass");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(known().await, 2);
}

/// Nobody logs in at a mail server while the CRM cannot take anything, one question at a time is asked, and all go on soon after.
#[tokio::test(start_paused = true)]
async fn a_dead_crm_is_asked_by_one_and_touches_no_mail_server() {
    let (world, system, begin) = (World::new(), MemoryTransport::new(), Instant::now());
    let watch = Arc::new(Watch::default());
    let places: Vec<Place> = (0..40).map(|n| world.user(&format!("u{n}"))).collect();
    for place in &places {
        system.put(place.id(), mail(&format!("to {}", place.id())));
    }
    let busy = || email_router_crm::Error::new(email_router_crm::ErrorKind::Busy, "the CRM is down");
    let running = Running::start(
        world.immortal("a"),
        plan(places.iter().map(|p| on("pop", 4, watched(&world, p, &system, &watch)))),
    );
    tokio::task::yield_now().await;
    for call in ["settings", "resolve", "exists", "find_emails"] {
        world.crm.fail_next(call, 1_000_000, false, busy);
    }
    tokio::time::sleep(HOUR).await;
    assert_eq!(world.crm.received().len(), 0);
    let opened: usize = places.iter().map(|p| watch.opened(p.id(), begin).len()).sum();
    assert!(opened <= 4, "as many as were under way together: {opened}");
    let asked = world.crm.count("settings");
    assert!((40..=60).contains(&asked), "one in at most 88 seconds: {asked}");
    for call in ["settings", "resolve", "exists", "find_emails"] {
        world.crm.recover(call);
    }
    tokio::time::sleep(2 * MINUTE).await;
    assert_eq!(world.crm.received().len(), 40, "all are read soon");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn limits_hold() {
    for once in [false, true] {
        let (world, system) = (World::new(), MemoryTransport::new());
        let watches: [Arc<Watch>; 3] = Default::default();
        *watches[0].open_takes.lock().unwrap() = Duration::from_secs(7);
        let mut routes = Vec::new();
        for n in 0..30 {
            let place = world.user(&format!("u{n:02}"));
            for m in 0..5 {
                system.put(place.id(), mail(&format!("m{n}-{m}")));
            }
            let (server, limit) = if n % 3 == 0 { (1, 2) } else { (2, 4) };
            let inner = Watched { inner: system.clone(), watch: Arc::clone(&watches[server]) };
            let outer = Watched { inner, watch: Arc::clone(&watches[0]) };
            let mut route = on(&format!("s{server}"), limit, world.route(&place, outer));
            route.settings.max_messages_per_cycle = 2;
            routes.push(route);
        }
        let mut plan = plan(routes);
        plan.schedule.max_threads = 6;
        for watch in &watches[1..] {
            *watch.open_takes.lock().unwrap() = Duration::from_secs(3);
        }
        if once {
            let report = world.immortal("a").run_once(&plan, &world.stop.subscribe()).await.unwrap();
            assert_eq!(
                (report.incoming.delivered, report.incoming.backlog, report.incoming.listed),
                (150, 0, 150)
            );
            assert_eq!(report.failures, []);
        } else {
            run_for(&world, plan, 20 * MINUTE).await;
        }
        assert_eq!(world.crm.received().len(), 150, "once {once}");
        let most: Vec<usize> = watches.iter().map(|w| w.most_open()).collect();
        assert_eq!(
            most,
            [6, 2, 4],
            "MaxThreads and the limits of both servers are used and kept; once {once}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn one_run_leaves_a_dead_server_alone() {
    let (world, system, watch) = (World::new(), MemoryTransport::new(), Arc::new(Watch::default()));
    let routes: Vec<_> = (0..20)
        .map(|n| {
            let place = world.user(&format!("u{n}"));
            system.deny(place.id(), refused);
            on("dead", 3, watched(&world, &place, &system, &watch))
        })
        .collect();
    let report = world.immortal("a").run_once(&plan(routes), &world.stop.subscribe()).await.unwrap();
    assert_eq!((report.failures.len(), watch.count()), (20, 3));
    assert_eq!(
        report.failures.iter().filter(|(_, why)| why.contains("failed for another mailbox")).count(),
        17
    );
}

#[tokio::test(start_paused = true)]
async fn a_hanging_pass_is_aborted_and_comes_back() {
    let (world, system, watch) = (World::new(), MemoryTransport::new(), Arc::new(Watch::default()));
    let (ann, ben) = (world.user("ann"), world.user("ben"));
    system.put(ann.id(), mail("m0"));
    watch.fetching_takes(ann.id(), 10 * HOUR);
    let routes = [&ann, &ben].map(|p| watched(&world, p, &system, &watch));
    let running = Running::start(world.immortal("a"), plan(routes));
    tokio::time::sleep(9 * MINUTE).await;
    assert_eq!(world.heard.count("aborted incoming ann"), 0);
    tokio::time::sleep(2 * MINUTE).await;
    assert_eq!(world.heard.count("aborted incoming ann"), 1);
    assert!(world.heard.count("executed incoming ben") >= 9, "the other mailbox was read all the time");
    let statuses = world.state.statuses().await.unwrap();
    let error = statuses.iter().find(|s| s.mailbox == *ann.id()).unwrap().last_error.clone().unwrap();
    assert!(error.contains("MaxThreadExecution"), "{error}");
    watch.fetching_takes(ann.id(), Duration::ZERO);
    tokio::time::sleep(5 * MINUTE).await;
    running.stop().await;
    assert_eq!(world.crm.received(), ["m0"]);
}

#[tokio::test(start_paused = true)]
async fn a_mailbox_too_full_for_one_pass_gets_on() {
    let (world, system, watch) = (World::new(), like_pop3(), Arc::new(Watch::default()));
    let ann = world.user("ann");
    for n in 0..200 {
        system.put(ann.id(), mail(&format!("m{n}")));
    }
    // 60 messages in the ten minutes of a pass
    watch.fetching_takes(ann.id(), Duration::from_secs(10));
    let mut route = watched(&world, &ann, &system, &watch);
    route.settings.delete_after_processing = true;
    run_for(&world, plan([route]), 80 * MINUTE).await;
    assert_eq!((world.crm.received().len(), subjects(&system, &ann).len()), (200, 0));
    assert!(world.heard.count("aborted incoming ann") >= 3);
    assert_eq!(world.classes().await, [""; 0]);
}

/// Listing all would take 25 minutes, a pass has ten.
#[tokio::test(start_paused = true)]
async fn a_mailbox_too_full_to_be_listed_in_one_pass_gets_on() {
    let (world, system, watch) = (World::new(), costly_to_list(), Arc::new(Watch::default()));
    let ann = world.user("ann");
    for n in 0..500 {
        system.put(ann.id(), mail(&format!("m{n}")));
    }
    *watch.listing_takes.lock().unwrap() = Duration::from_secs(3);
    let mut route = watched(&world, &ann, &system, &watch);
    route.settings.delete_after_processing = true;
    route.settings.max_messages_per_cycle = 100;
    run_for(&world, plan([route]), 60 * MINUTE).await;
    assert_eq!((world.crm.received().len(), subjects(&system, &ann).len()), (500, 0));
    assert_eq!(world.heard.count("aborted incoming ann"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stop_lets_a_pass_finish_for_a_while() {
    for (takes, delivered) in [(20, 1), (300, 0)] {
        let (world, system, watch) = (World::new(), MemoryTransport::new(), Arc::new(Watch::default()));
        let ann = world.user("ann");
        system.put(ann.id(), mail("m0"));
        watch.fetching_takes(ann.id(), Duration::from_secs(takes));
        let route = || watched(&world, &ann, &system, &watch);
        let running = Running::start(world.immortal("a"), plan([route()]));
        tokio::time::sleep(Duration::from_secs(5)).await;
        let asked = Instant::now();
        running.stop().await;
        assert!(asked.elapsed() <= Duration::from_secs(30), "the grace period");
        assert_eq!(world.crm.received().len(), delivered);
        watch.fetching_takes(ann.id(), Duration::ZERO);
        tokio::time::sleep(HOUR).await;
        assert_eq!(world.crm.received().len(), delivered, "nothing of it runs on");
        run_for(&world, plan([route()]), MINUTE).await;
        assert_eq!(world.crm.received().len(), 1, "the next start takes up what was left");
    }
}

#[tokio::test(start_paused = true)]
async fn everything_ends_with_the_run() {
    let (world, system) = (World::new(), MemoryTransport::new());
    let ann = world.user("ann");
    let bob = world.crm.add(None, "Bob", "bob@contoso.example", FilteringMethod::All);
    let mut plan = plan([world.route(&ann, system.clone())]);
    plan.outgoing.push(world.outgoing(&ann, system.clone()));
    let running = Running::start(world.immortal("a"), plan);
    let first = world.crm.send_mail(&ann.record, &bob, "first");
    tokio::time::sleep(MINUTE).await;
    assert_eq!(world.crm.email(first).status, EmailStatus::Sent);
    running.task.abort();
    assert!(running.task.await.unwrap_err().is_cancelled());
    let second = world.crm.send_mail(&ann.record, &bob, "second");
    tokio::time::sleep(HOUR).await;
    assert_eq!(world.crm.email(second).status, EmailStatus::PendingSend, "the outgoing side ended too");
}

/// A mailbox whose server tells of new mail is read at once, and one that is polled alone when it is due; failures of telling do no harm.
#[tokio::test(start_paused = true)]
async fn mail_that_is_told_of_is_read_at_once() {
    let world = World::new();
    let (ann, ben, system) = (world.user("ann"), world.user("ben"), MemoryTransport::new());
    let route = |place: &Place, notify: bool| {
        let mut route = world.route(place, system.clone());
        (route.polling_period, route.notify) = (24 * HOUR, notify);
        route
    };
    let running = Running::start(world.immortal("a"), plan([route(&ann, true), route(&ben, false)]));
    tokio::time::sleep(MINUTE).await;
    for n in 0..3 {
        system.put(ann.id(), mail(&format!("told {n}")));
        system.put(ben.id(), mail(&format!("polled {n}")));
        tokio::time::sleep(MINUTE).await;
        assert_eq!(world.crm.received().len(), n + 1, "Ann's mail alone");
    }
    // over the limit of a wait, and over an error of it
    tokio::time::sleep(HOUR).await;
    system.fail_next(Operation::WaitForMail, 2, || Error::new(ErrorKind::ConnectionLost, "cut"));
    for n in 4..6 {
        system.put(ann.id(), mail(&format!("later {n}")));
        tokio::time::sleep(HOUR).await;
        assert_eq!(world.crm.received().len(), n);
    }
    // a new plan that wants it no more ends the wait, and the mailbox is polled
    running.plans.send_replace(Arc::new(plan([route(&ann, false), route(&ben, false)])));
    tokio::time::sleep(MINUTE).await;
    let waits = system.count(Operation::WaitForMail);
    system.put(ann.id(), mail("nobody tells"));
    tokio::time::sleep(HOUR).await;
    assert_eq!((world.crm.received().len(), system.count(Operation::WaitForMail)), (5, waits));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_plan_is_taken_over() {
    let (world, system, watch) = (World::new(), MemoryTransport::new(), Arc::new(Watch::default()));
    let [ann, ben, cat, dan] = ["ann", "ben", "cat", "dan"].map(|n| world.user(n));
    let route = |place, fingerprint| {
        let mut route = watched(&world, place, &system, &watch);
        route.fingerprint = fingerprint;
        route
    };
    system.deny(ben.id(), || Error::new(ErrorKind::Authentication, "wrong password"));
    watch.fetching_takes(dan.id(), Duration::from_secs(30));
    let running = Running::start(world.immortal("a"), plan([route(&ann, 1), route(&ben, 1), route(&dan, 1)]));
    tokio::time::sleep(5 * MINUTE).await;
    assert_eq!(world.heard.count("failed incoming ben"), 1);
    // dan is changed while its pass is running
    system.put(dan.id(), mail("slow"));
    while world.heard.count("started incoming dan") == world.heard.count("executed incoming dan") {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    system.allow(ben.id());
    world.heard.clear();
    let begin = Instant::now();
    running.plans.send_replace(Arc::new(plan([route(&ben, 2), route(&cat, 1), route(&dan, 2)])));
    tokio::time::sleep(Duration::from_secs(5)).await;
    for event in [
        "removed incoming ann",
        "refreshed incoming ben",
        "refreshed incoming dan",
        "executed incoming ben",
        "executed incoming cat",
    ] {
        assert_eq!(world.heard.count(event), 1, "{event}: {:?}", world.heard.all());
    }
    tokio::time::sleep(40 * Duration::from_secs(1)).await;
    assert_eq!(world.heard.count("started incoming dan"), 1, "read again at once when its pass has ended");
    let opened = watch.opened(ann.id(), begin).len();
    tokio::time::sleep(10 * MINUTE).await;
    assert_eq!(world.heard.count("started incoming ann"), 0);
    assert_eq!(watch.opened(ann.id(), begin).len(), opened);
    let statuses = world.state.statuses().await.unwrap();
    let names: Vec<&str> = statuses.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["ben", "cat", "dan"]);
    assert!(statuses.iter().all(|s| s.direction == ProviderDirection::Incoming && s.failures == 0));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn senders_that_a_new_plan_takes_away_or_changes_are_told_of() {
    let (world, system) = (World::new(), MemoryTransport::new());
    let [ann, ben, cat] = ["ann", "ben", "cat"].map(|n| world.user(n));
    let plan = |senders: &[(&Place, u64)]| {
        let mut plan = plan([]);
        for (place, fingerprint) in senders {
            let mut route = Arc::into_inner(world.outgoing(place, system.clone())).unwrap();
            route.fingerprint = *fingerprint;
            plan.outgoing.push(Arc::new(route));
        }
        plan
    };
    let running = Running::start(world.immortal("a"), plan(&[(&ann, 1), (&ben, 1), (&cat, 1)]));
    tokio::time::sleep(MINUTE).await;
    assert_eq!(
        (world.heard.count("removed outgoing ann"), world.heard.count("refreshed outgoing ben")),
        (0, 0)
    );
    running.plans.send_replace(Arc::new(plan(&[(&ben, 2), (&cat, 1)])));
    tokio::time::sleep(MINUTE).await;
    running.stop().await;
    let told: Vec<String> = world
        .heard
        .all()
        .into_iter()
        .filter(|e| e.starts_with("removed") || e.starts_with("refreshed"))
        .collect();
    assert_eq!(told, ["removed outgoing ann", "refreshed outgoing ben"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_heard_and_recorded() {
    let (world, system) = (World::new(), MemoryTransport::new());
    let ann = world.user("ann");
    system.put(ann.id(), mail("m0"));
    system.put(ann.id(), world::junk("junk"));
    run_for(&world, plan([world.route(&ann, system.clone())]), Duration::from_secs(30)).await;
    let heard: Vec<String> = world.heard.all().into_iter().filter(|e| e != "cycle").collect();
    assert_eq!(
        heard,
        ["started incoming ann", "access ann", "deliver ann", "discard ann", "executed incoming ann"]
    );
    assert!((29..=31).contains(&world.heard.count("cycle")), "SchedulingPeriod is a second");
    let status = world.state.statuses().await.unwrap().remove(0);
    assert_eq!((status.processed, status.backlog, status.failures, status.last_error), (2, Some(0), 0, None));
    assert_eq!((status.last_success, status.address.as_str()), (status.last_run, "ann@fabrikam.example"));
    let wait = status.next_run.unwrap().duration_since(status.last_run.unwrap()).as_secs();
    assert!((60..=66).contains(&wait), "{wait}");
}

#[tokio::test(start_paused = true)]
async fn another_routers_lease_is_respected_and_says_nothing_about_the_server() {
    let (world, system, watch) = (World::new(), MemoryTransport::new(), Arc::new(Watch::default()));
    let (ann, ben) = (world.user("ann"), world.user("ben"));
    system.deny(ben.id(), refused);
    system.put(ann.id(), mail("m0"));
    let now = email_router_model::Clock::now(&*world.clock);
    let until = now.checked_add(HOUR).unwrap();
    assert!(world.state.lease_acquire("incoming ann", "other", now, until).await.unwrap());
    let routes = [&ann, &ben].map(|p| watched(&world, p, &system, &watch));
    let running = Running::start(world.immortal("a"), plan(routes));
    tokio::time::sleep(59 * MINUTE).await;
    assert_eq!((world.heard.count("started incoming ann"), world.crm.received().len()), (0, 0));
    let tries = watch.count();
    assert!(tries <= 8, "a skipped mailbox does not open the way to a dead server: {tries}");
    tokio::time::sleep(HOUR + 10 * MINUTE).await;
    assert_eq!(world.crm.received(), ["m0"], "when it ran out");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn two_routers_deliver_once() {
    let (world, system, watch) = (World::new(), like_pop3(), Arc::new(Watch::default()));
    system.set_exclusive(true);
    let places: Vec<Place> = (0..6).map(|n| world.user(&format!("u{n}"))).collect();
    let bob = world.crm.add(None, "Bob", "bob@contoso.example", FilteringMethod::All);
    let make = || {
        let mut plan = plan(places.iter().map(|place| {
            watch.fetching_takes(place.id(), Duration::from_secs(3));
            let mut route = watched(&world, place, &system, &watch);
            route.settings.delete_after_processing = true;
            route
        }));
        plan.outgoing = places.iter().map(|p| world.outgoing(p, system.clone())).collect();
        plan
    };
    let routers = ["a", "b"].map(|name| Running::start(world.immortal(name), make()));
    for n in 0..30 {
        system.put(places[n % 6].id(), mail(&format!("m{n}")));
        world.crm.send_mail(&places[n % 6].record, &bob, &format!("out{n}"));
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
    tokio::time::sleep(10 * MINUTE).await;
    for router in routers {
        router.stop().await;
    }
    assert_eq!((world.crm.received().len(), system.sent().len()), (30, 30));
    assert_eq!(world.crm.count("deliver_incoming"), 30, "none even tried twice");
    assert!(places.iter().all(|p| subjects(&system, p).is_empty()));
    assert!(
        !world.heard.all().iter().any(|e| e.starts_with("failed") || e.contains(": ")),
        "no mailbox was locked"
    );
}

#[tokio::test(start_paused = true)]
async fn a_panic_does_not_keep_a_mailbox() {
    let (world, system, watch) = (World::new(), MemoryTransport::new(), Arc::new(Watch::default()));
    let ann = world.user("ann");
    system.put(ann.id(), mail("m0"));
    let poison = system.put(ann.id(), mail("poison"));
    system.put(ann.id(), mail("m2"));
    *watch.panic_at.lock().unwrap() = Some(poison.clone());
    run_for(&world, plan([watched(&world, &ann, &system, &watch)]), 8 * HOUR).await;
    assert_eq!(world.crm.received(), ["m0", "m2"]);
    let items = world.quarantine().await;
    assert_eq!(
        (items.len(), items[0].class.as_str(), &items[0].remote_id),
        (1, "attempts-exhausted", &poison)
    );
    let status = world.state.statuses().await.unwrap().remove(0);
    assert_eq!((status.failures, status.backlog), (0, Some(0)), "the mailbox goes on");
}

#[tokio::test(start_paused = true)]
async fn a_hanging_submission_is_cut_off_before_another_router_takes_over() {
    let (world, system, watch) = (World::new(), MemoryTransport::new(), Arc::new(Watch::default()));
    let ann = world.user("ann");
    let bob = world.crm.add(None, "Bob", "bob@contoso.example", FilteringMethod::All);
    let id = world.crm.send_mail(&ann.record, &bob, "slow");
    *watch.submit_takes.lock().unwrap() = 2 * HOUR; // longer than anything may take
    let make = || {
        let mut plan = plan([]);
        let slow = Watched { inner: system.clone(), watch: Arc::clone(&watch) };
        plan.outgoing = vec![world.outgoing(&ann, slow)];
        plan
    };
    let routers = ["a", "b"].map(|name| Running::start(world.immortal(name), make()));
    tokio::time::sleep(5 * HOUR).await;
    assert_eq!(system.sent().len(), 0, "each attempt was cut off, none went on in the background");
    *watch.submit_takes.lock().unwrap() = Duration::ZERO;
    tokio::time::sleep(2 * HOUR).await;
    for router in routers {
        router.stop().await;
    }
    assert_eq!((system.sent().len(), world.crm.email(id).status), (1, EmailStatus::Sent));
}
