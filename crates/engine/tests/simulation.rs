//! The whole router in a world where everything fails: seeded faults of the mail systems, crashes at random calls, mail that comes
//! and goes meanwhile. When the faults end, nothing may be lost, doubled or stuck.
//!
//! `SIM_SEED=7` runs one seed again, `SIM_SEEDS=1000` runs more of them.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test file, which names the seed that failed

mod world;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use email_router_crm::{EmailStatus, Error as CrmError, ErrorKind as CrmErrorKind, FilteringMethod};
use email_router_engine::ports::ProviderDirection;
use email_router_engine::router::{Plan, Server};
use email_router_engine::{StateStore as _, Verdict};
use email_router_model::{Entropy as _, RawMessage, RecordRef, SeededEntropy};
use email_router_transport::Transport;
use email_router_transport::layer::Fault;
use email_router_transport::layer::fault::{FaultRates, Faults};
use email_router_transport::memory::MemoryTransport;
use tokio::sync::watch;
use world::{Life, MortalTransport, Place, Point, World, junk, large, like_pop3, mail, subjects};

struct Site {
    place: Place,
    system: MemoryTransport,
    server: usize,
    delete: bool,
}

struct Simulation {
    seed: u64,
    dice: SeededEntropy,
    world: World,
    faults: Arc<Faults>,
    sites: Vec<Site>,
    bob: RecordRef,
    wanted: BTreeSet<String>,
    /// Of these, those of which there is one copy in one mailbox.
    single: BTreeSet<String>,
    outgoing: usize,
    crashes: usize,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let dice = SeededEntropy::new(seed);
        let world = World::new();
        let bob = world.crm.add(None, "Bob", "bob@contoso.example", FilteringMethod::All);
        let systems = [MemoryTransport::new(), like_pop3(), like_pop3()];
        let sites = (0..5).map(|n| {
            let place = if n % 2 == 0 { world.user(&format!("u{n}")) } else { world.queue(&format!("q{n}")) };
            Site { place, system: systems[n % 3].clone(), server: n % 3, delete: dice.fraction() < 0.7 }
        });
        let sites = sites.collect();
        let faults = Arc::new(Faults::new(Arc::new(SeededEntropy::new(seed ^ 0xfa17))));
        let (wanted, single, outgoing, crashes) = (BTreeSet::new(), BTreeSet::new(), 0, 0);
        Self { seed, dice, world, faults, sites, bob, wanted, single, outgoing, crashes }
    }

    fn below(&self, n: u64) -> u64 {
        self.dice.next_u64() % n
    }

    fn plan(&self, life: &Arc<Life>) -> Plan {
        let transport = |site: &Site| -> Arc<dyn Transport> {
            let faulty = Fault::new(site.system.clone(), (*self.faults).clone());
            Arc::new(MortalTransport { inner: Arc::new(faulty), life: Arc::clone(life) })
        };
        let mut plan = Plan::default();
        for site in &self.sites {
            let mut route = self.world.route(&site.place, site.system.clone());
            route.transport = transport(site);
            route.server = Server { name: format!("s{}", site.server), max_sessions: 1 + site.server };
            route.polling_period = Duration::from_secs(120);
            route.settings.delete_after_processing = site.delete;
            route.settings.header_first_above = 1_000;
            route.settings.max_messages_per_cycle = 4;
            // the world is worse than any real one; whether parking works is tested elsewhere
            route.settings.max_attempts = 60;
            plan.incoming.push(Arc::new(route));
            let mut out = Arc::into_inner(self.world.outgoing(&site.place, site.system.clone())).unwrap();
            out.transport = transport(site);
            plan.outgoing.push(Arc::new(out));
        }
        plan.schedule.max_threads = 3;
        plan.schedule.scheduling_period = Duration::from_secs(5);
        plan.schedule.outgoing_period = Duration::from_secs(30);
        plan.schedule.max_thread_execution = Duration::from_secs(120);
        plan.outgoing_settings.message_id_domain = "router.example".to_owned();
        plan.outgoing_settings.maximum_delivery_attempts = 1000;
        plan
    }

    /// Something happens in the world.
    fn event(&mut self, n: usize) {
        let site = &self.sites[self.below(self.sites.len() as u64) as usize];
        let subject = format!("m{n}");
        if self.below(3) == 0 {
            let calls = ["resolve", "exists", "deliver_incoming", "claim", "prepare_outgoing", "finish"];
            let call = calls[self.below(6) as usize];
            let effect = self.below(2) == 0;
            self.world.crm.fail_next(call, 1, effect, || {
                CrmError::new(CrmErrorKind::Unreachable, "injected: no answer")
            });
        }
        match self.below(10) {
            0 => {
                site.system.put(site.place.id(), junk(&format!("junk{n}")));
            }
            1 => {
                // the same message in all mailboxes, and twice in one
                for site in self.sites.iter().chain([site]) {
                    site.system.put(site.place.id(), mail(&subject));
                }
                self.wanted.insert(subject);
            }
            2 => {
                site.system.put(site.place.id(), large(&mail(&subject), 2_000));
                self.single.insert(subject.clone());
                self.wanted.insert(subject);
            }
            3 => {
                // no Message-ID: known by its digest
                let text = format!("From: bob@contoso.example\r\nSubject: {subject}\r\n\r\nhello\r\n");
                site.system.put(site.place.id(), RawMessage::new(text));
                self.single.insert(subject.clone());
                self.wanted.insert(subject);
            }
            4..=6 => {
                self.world.crm.send_mail(&site.place.record, &self.bob, &format!("out{n}"));
                self.outgoing += 1;
            }
            _ => {
                site.system.put(site.place.id(), mail(&subject));
                self.single.insert(subject.clone());
                self.wanted.insert(subject);
            }
        }
    }

    /// Runs a router for `time`; a new one each time it dies.
    async fn run_for(&mut self, time: Duration, mortal: bool) {
        let end = tokio::time::Instant::now() + time;
        while tokio::time::Instant::now() < end {
            let point = if mortal { Point::Number(self.below(600) as usize) } else { Point::Never };
            let life = Life::until(point);
            let (_plans, plans) = watch::channel(Arc::new(self.plan(&life)));
            let (stop, stopped) = watch::channel(false);
            let router = self.world.router("the router", self.dice.next_u64(), &life);
            let stopper = async {
                tokio::time::sleep_until(end).await;
                stop.send_replace(true);
                std::future::pending::<()>().await;
            };
            let lived = life.live(async {
                tokio::select! {
                    result = router.run(plans, stopped) => result.unwrap(),
                    () = stopper => {}
                }
            });
            self.crashes += usize::from(lived.await.is_none());
        }
    }

    async fn unsettled(&self) -> Vec<String> {
        let mut all = Vec::new();
        for site in &self.sites {
            let messages = site.system.messages(site.place.id());
            let ids: Vec<_> = messages.iter().map(|m| m.id.clone()).collect();
            for (id, seen) in ids.iter().zip(self.world.state.seen(site.place.id(), &ids).await.unwrap()) {
                let gone_soon = |d: &str| d == "delete";
                match seen.and_then(|s| s.settled) {
                    Some(settled) if !gone_soon(&settled.disposition) => {}
                    other => all.push(format!("{} {id}: {other:?}", site.place.id())),
                }
            }
        }
        let open = |e: &&world::crm::Email| e.outgoing && e.status != EmailStatus::Sent;
        all.extend(
            self.world.crm.emails().iter().filter(open).map(|e| format!("{}: {:?}", e.subject, e.status)),
        );
        all
    }

    async fn nothing_stuck(&self) {
        assert_eq!(self.unsettled().await, [""; 0]);
        assert_eq!(self.world.state.ledger_open().await.unwrap(), []);
        assert_eq!(self.world.classes().await, [""; 0], "nothing is parked");
        // a sender whose last word a crash swallowed says so until it sends again; a mailbox is read again in any case
        let mut statuses = self.world.state.statuses().await.unwrap();
        statuses.retain(|s| s.direction == ProviderDirection::Incoming);
        assert!(statuses.iter().all(|s| s.last_error.is_none() && s.failures == 0), "{statuses:?}");
    }

    fn nothing_lost(&self) {
        let received: BTreeSet<String> = self.world.crm.received().into_iter().collect();
        assert_eq!(received, self.wanted);
        let sent: usize = self.systems().iter().map(|s| s.sent().len()).sum();
        assert_eq!(sent, self.outgoing);
    }

    fn nothing_twice(&self) {
        assert_eq!(self.world.crm.received().len(), self.wanted.len());
        let mut ids = BTreeSet::new();
        for sent in self.systems().iter().flat_map(|s| s.sent()) {
            assert!(
                ids.insert(sent.message.message_id.as_str().to_owned()),
                "{} went out twice",
                sent.message.message_id
            );
        }
    }

    async fn sources_are_as_configured(&self) {
        for site in &self.sites {
            let left = subjects(&site.system, &site.place);
            let user = site.place.record.table == "systemuser";
            if site.delete && !user {
                assert_eq!(left, [""; 0], "{}", site.place.id());
            }
            if site.delete {
                // what a user keeps is junk and further copies
                let kept: Vec<&String> = left.iter().filter(|s| self.single.contains(*s)).collect();
                assert!(kept.is_empty(), "{}: {kept:?}", site.place.id());
            }
            let ids: Vec<_> = site.system.messages(site.place.id()).into_iter().map(|m| m.id).collect();
            for seen in self.world.state.seen(site.place.id(), &ids).await.unwrap() {
                let verdict = seen.unwrap().settled.unwrap().verdict;
                let kept =
                    if site.delete { verdict == Verdict::Discard } else { verdict != Verdict::LeftAlone };
                assert!(kept, "{}: {verdict:?}", site.place.id());
            }
        }
    }

    fn systems(&self) -> Vec<&MemoryTransport> {
        (0..3).map(|n| &self.sites[n].system).collect()
    }
}

async fn simulate(seed: u64) -> (u64, usize) {
    let mut sim = Simulation::new(seed);
    let mut rates = FaultRates::default();
    (rates.fail_before, rates.fail_after, rates.gone, rates.delay) = (0.01, 0.01, 0.005, 0.05);
    rates.max_delay = Duration::from_secs(20);
    sim.faults.set_rates(rates);
    for n in 0..50 {
        sim.event(n);
        let pause = Duration::from_secs(1 + sim.below(120));
        sim.run_for(pause, true).await;
    }
    sim.faults.set_rates(FaultRates::default());
    // the longest back-off is an hour and a tenth, that of a message grows with its attempts
    for _ in 0..24 {
        sim.run_for(Duration::from_secs(1200), false).await;
        if sim.unsettled().await.is_empty() {
            break;
        }
    }
    sim.run_for(Duration::from_secs(4200), false).await;
    sim.nothing_stuck().await;
    sim.nothing_lost();
    sim.nothing_twice();
    sim.sources_are_as_configured().await;
    assert_eq!(sim.seed, seed);
    (sim.faults.hit(), sim.crashes)
}

/// Names the seed when a simulation panics.
struct Seed(u64);
impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the simulation failed; run it again with SIM_SEED={}", self.0);
        }
    }
}

#[test]
fn nothing_lost_nothing_twice_nothing_stuck() {
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let seeds = match number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIM_SEEDS").unwrap_or(30),
    };
    let (mut faults, mut crashes, count) = (0, 0, seeds.end - seeds.start);
    for seed in seeds {
        let _named = Seed(seed);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let (f, c) = runtime.block_on(simulate(seed));
        faults += f;
        crashes += c;
    }
    println!("{count} seeds, {faults} faults, {crashes} crashes");
    assert!(faults > 0 && crashes > 0, "the world was too kind");
}
