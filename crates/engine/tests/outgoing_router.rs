//! The outgoing side of the running router: back-off from pass to pass, servers side by side, panics, the lease.
#![allow(clippy::unwrap_used)] // a test file

mod world;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use email_router_crm::{EmailStatus, FilteringMethod};
use email_router_engine::StateStore as _;
use email_router_engine::router::{OutgoingRoute, Plan, Router};
use email_router_model::{ActivityId, Mailbox, MailboxId, RecordRef};
use email_router_transport::{
    Access, Capability, Error, ErrorKind, Inbox, Outbound, Probe, Receipt, ReceiveOptions, RecipientResult,
    RecipientStatus, SubmitOptions, Transport,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use world::{Place, World};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

type Mailed<T> = email_router_transport::Result<T>;

/// What a relay does with the mail of a sender, until told otherwise.
#[derive(Debug, Clone, Copy)]
enum Rule {
    Refuse(ErrorKind),
    Takes(Duration),
    Panic,
}

#[derive(Debug, Default)]
struct Log {
    rules: Mutex<HashMap<MailboxId, Rule>>,
    tries: Mutex<Vec<(MailboxId, Instant)>>,
    taken: Mutex<Vec<(MailboxId, Instant)>>,
}

/// A mail server that keeps a log.
#[derive(Debug, Clone)]
struct Relay {
    name: &'static str,
    log: Arc<Log>,
}

impl Relay {
    fn new(name: &'static str) -> Self {
        Self { name, log: Arc::default() }
    }
    fn rule(&self, place: &Place, rule: Rule) {
        self.log.rules.lock().unwrap().insert(place.id().clone(), rule);
    }
    fn repair(&self) {
        self.log.rules.lock().unwrap().clear();
    }
    fn tries(&self) -> usize {
        self.log.tries.lock().unwrap().len()
    }
    fn taken(&self) -> usize {
        self.log.taken.lock().unwrap().len()
    }
    /// When the last message of this sender was taken.
    fn last(&self, place: &Place) -> Option<Instant> {
        self.log.taken.lock().unwrap().iter().rev().find(|(id, _)| id == place.id()).map(|(_, at)| *at)
    }
}

impl fmt::Display for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

#[async_trait]
impl Transport for Relay {
    fn capability(&self) -> Capability {
        let mut capability = Capability::default();
        capability.submit = true;
        capability
    }
    async fn probe(&self, _: &Mailbox, _: Access) -> Mailed<Probe> {
        Ok(Probe::default())
    }
    async fn receive(&self, _: &Mailbox, _: ReceiveOptions) -> Mailed<Box<dyn Inbox>> {
        Err(email_router_transport::contract::unsupported(self, "receive"))
    }
    async fn submit(&self, sender: &Mailbox, message: &Outbound, _: SubmitOptions) -> Mailed<Receipt> {
        self.log.tries.lock().unwrap().push((sender.id.clone(), Instant::now()));
        let rule = self.log.rules.lock().unwrap().get(&sender.id).copied();
        match rule {
            Some(Rule::Refuse(kind)) => {
                tokio::time::sleep(SECOND / 10).await;
                return Err(Error::new(kind, format!("{self} says no")));
            }
            Some(Rule::Takes(time)) => tokio::time::sleep(time).await,
            Some(Rule::Panic) => panic!("a planned panic"),
            None => {}
        }
        self.log.taken.lock().unwrap().push((sender.id.clone(), Instant::now()));
        let fate = |a: &email_router_model::EmailAddress| RecipientResult {
            address: a.clone(),
            status: RecipientStatus::Accepted,
            reply: "250 ok".to_owned(),
        };
        Ok(Receipt {
            recipients: message.envelope.recipients.iter().map(fate).collect(),
            reply: "250".to_owned(),
        })
    }
}

struct Scene {
    world: World,
    bob: RecordRef,
}

impl Scene {
    fn new() -> Self {
        let world = World::new();
        let bob = world.crm.add(None, "Bob", "bob@contoso.example", FilteringMethod::All);
        Self { world, bob }
    }
    fn send(&self, from: &Place) -> ActivityId {
        self.world.crm.send_mail(&from.record, &self.bob, "hello")
    }
    fn status(&self, id: ActivityId) -> EmailStatus {
        self.world.crm.email(id).status
    }
    fn plan(&self, senders: &[(&Place, &Relay)]) -> Plan {
        let mut plan = Plan::default();
        plan.outgoing_settings.message_id_domain = "router.example".to_owned();
        plan.outgoing =
            senders.iter().map(|(place, relay)| self.world.outgoing(place, (*relay).clone())).collect();
        plan
    }
    async fn last_error(&self) -> Option<String> {
        self.world.state.statuses().await.unwrap().remove(0).last_error
    }
}

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

#[tokio::test(start_paused = true)]
async fn a_wrong_password_is_tried_rarely_and_once_at_a_time() {
    let (scene, relay) = (Scene::new(), Relay::new("smtp relay"));
    let (ann, eve) = (scene.world.user("ann"), scene.world.user("eve"));
    relay.rule(&ann, Rule::Refuse(ErrorKind::Authentication));
    let mails: Vec<_> = (0..25).map(|_| scene.send(&ann)).collect();
    let running = Running::start(scene.world.immortal("a"), scene.plan(&[(&ann, &relay), (&eve, &relay)]));
    tokio::time::sleep(14 * MINUTE).await;
    assert_eq!(relay.tries(), 1, "one login in a quarter of an hour locks no account");
    assert_eq!(scene.last_error().await.as_deref(), Some("smtp relay says no"));
    let other = scene.send(&eve);
    tokio::time::sleep(MINUTE / 2).await;
    assert_eq!(scene.status(other), EmailStatus::Sent, "the other sender of the server is served");
    tokio::time::sleep(3 * HOUR).await;
    assert!(relay.tries() <= 8, "{} tries in three hours", relay.tries());
    // a changed configuration is tried at once
    relay.repair();
    let mut changed = scene.plan(&[(&eve, &relay)]);
    let route = scene.world.outgoing(&ann, relay.clone());
    changed.outgoing.push(Arc::new(OutgoingRoute { fingerprint: 2, ..Arc::into_inner(route).unwrap() }));
    running.plans.send_replace(Arc::new(changed));
    tokio::time::sleep(6 * MINUTE).await; // the one that was tried waits for PendingStatusDelay
    assert!(mails.iter().all(|id| scene.status(*id) == EmailStatus::Sent));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_server_is_asked_rarely_by_one_sender_and_comes_back() {
    let (scene, dead, other) = (Scene::new(), Relay::new("smtp dead"), Relay::new("smtp other"));
    let users: Vec<Place> = (0..10).map(|n| scene.world.user(&format!("user{n}"))).collect();
    let ann = scene.world.user("ann");
    let mut mails = Vec::new();
    for user in &users {
        dead.rule(user, Rule::Refuse(ErrorKind::Refused));
        mails.extend((0..3).map(|_| scene.send(user)));
    }
    let mut senders: Vec<_> = users.iter().map(|u| (u, &dead)).collect();
    senders.push((&ann, &other));
    let running = Running::start(scene.world.immortal("a"), scene.plan(&senders));
    tokio::time::sleep(HOUR).await;
    assert!(dead.tries() <= 15, "{} tries in an hour", dead.tries());
    let mail = scene.send(&ann);
    tokio::time::sleep(MINUTE / 2).await;
    assert_eq!(scene.status(mail), EmailStatus::Sent, "the other server is served");
    dead.repair();
    tokio::time::sleep(2 * HOUR).await;
    assert!(mails.iter().all(|id| scene.status(*id) == EmailStatus::Sent));
    assert!(scene.world.state.statuses().await.unwrap().iter().all(|s| s.last_error.is_none()));
    running.stop().await;
}

/// A server that takes 25 minutes for each message holds up neither the mail that waits for another server nor what comes later.
#[tokio::test(start_paused = true)]
async fn a_slow_server_holds_up_no_other() {
    let (scene, tarpit, healthy) = (Scene::new(), Relay::new("smtp tarpit"), Relay::new("smtp healthy"));
    let slow: Vec<Place> = (0..20).map(|n| scene.world.user(&format!("slow{n}"))).collect();
    let ann = scene.world.user("ann");
    for user in &slow {
        tarpit.rule(user, Rule::Takes(25 * MINUTE));
        scene.send(user);
    }
    scene.send(&ann);
    let mut senders: Vec<_> = slow.iter().map(|u| (u, &tarpit)).collect();
    senders.push((&ann, &healthy));
    let begin = Instant::now();
    let running = Running::start(scene.world.immortal("a"), scene.plan(&senders));
    for n in 1..=90 {
        if n == 20 {
            // a new plan is taken over although something is in flight for the old one
            running.plans.send_replace(Arc::new(scene.plan(&senders)));
        }
        tokio::time::sleep(MINUTE).await;
        assert_eq!(healthy.taken(), n, "after {n} minutes");
        let waited = healthy.last(&ann).unwrap() - (begin + MINUTE * (u32::try_from(n).unwrap() - 1));
        assert!(waited < 30 * SECOND, "minute {n}: {waited:?}");
        scene.send(&ann);
    }
    for user in &slow {
        let tries = tarpit.log.tries.lock().unwrap();
        assert!(tries.iter().filter(|(id, _)| id == user.id()).count() <= 1, "{} more than once", user.id());
    }
    assert!(tarpit.taken() >= 15, "{}", tarpit.taken());
    running.stop().await;
}

/// A pass that comes only to some senders before its time is over: the next begins with others.
#[tokio::test(start_paused = true)]
async fn short_passes_starve_nobody() {
    let (scene, relay) = (Scene::new(), Relay::new("smtp relay"));
    let users: Vec<Place> = (0..8).map(|n| scene.world.user(&format!("user{n}"))).collect();
    for user in &users {
        relay.rule(user, Rule::Takes(40 * SECOND));
        for _ in 0..200 {
            scene.send(user);
        }
    }
    let senders: Vec<_> = users.iter().map(|u| (u, &relay)).collect();
    let mut plan = scene.plan(&senders);
    plan.schedule.max_thread_execution = MINUTE;
    plan.outgoing_settings.batch_size = 2;
    let running = Running::start(scene.world.immortal("a"), plan);
    tokio::time::sleep(20 * MINUTE).await;
    for user in &users {
        assert!(relay.last(user).is_some(), "{} was starved", user.id());
    }
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_stops_neither_the_others_nor_the_outgoing_side() {
    let (scene, relay) = (Scene::new(), Relay::new("smtp relay"));
    let (ann, eve) = (scene.world.user("ann"), scene.world.user("eve"));
    relay.rule(&ann, Rule::Panic);
    relay.rule(&eve, Rule::Takes(MINUTE));
    scene.send(&ann);
    let first = scene.send(&eve);
    let running = Running::start(scene.world.immortal("a"), scene.plan(&[(&ann, &relay), (&eve, &relay)]));
    tokio::time::sleep(5 * MINUTE).await;
    assert_eq!(scene.status(first), EmailStatus::Sent, "what was being submitted beside it is not cut off");
    let error = scene.last_error().await.unwrap();
    assert!(error.contains("ended in a panic"), "{error}");
    relay.repair();
    let (later, own) = (scene.send(&eve), scene.send(&ann));
    tokio::time::sleep(2 * MINUTE).await;
    assert_eq!(scene.status(later), EmailStatus::Sent);
    assert_eq!(scene.status(own), EmailStatus::Sent, "the sender itself goes on");
    running.stop().await;
}

/// A submission that takes longer than MaxThreadExecution ends by its own deadlines; the lease is kept until then, so that nobody else
/// takes it for left behind.
#[tokio::test(start_paused = true)]
async fn what_is_in_flight_may_end() {
    let (scene, relay) = (Scene::new(), Relay::new("smtp relay"));
    let ann = scene.world.user("ann");
    relay.rule(&ann, Rule::Takes(25 * MINUTE));
    let id = scene.send(&ann);
    let routers =
        ["a", "b"].map(|name| Running::start(scene.world.immortal(name), scene.plan(&[(&ann, &relay)])));
    tokio::time::sleep(HOUR).await;
    assert_eq!((scene.status(id), relay.tries(), relay.taken()), (EmailStatus::Sent, 1, 1));
    for router in routers {
        router.stop().await;
    }
}

/// An error is not shown for ever when the e-mail that met it is gone.
#[tokio::test(start_paused = true)]
async fn an_idle_sender_has_no_error_in_the_end() {
    let (scene, relay) = (Scene::new(), Relay::new("smtp relay"));
    let ann = scene.world.user("ann");
    relay.rule(&ann, Rule::Refuse(ErrorKind::ConnectionLost));
    let id = scene.send(&ann);
    let running = Running::start(scene.world.immortal("a"), scene.plan(&[(&ann, &relay)]));
    tokio::time::sleep(MINUTE).await;
    assert!(scene.last_error().await.is_some(), "while the e-mail waits for its next attempt");
    scene.world.crm.set_status(id, EmailStatus::Canceled);
    tokio::time::sleep(10 * MINUTE).await;
    assert_eq!(scene.last_error().await, None);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn one_run_reports_every_server() {
    let (scene, dead, healthy) = (Scene::new(), Relay::new("smtp dead"), Relay::new("smtp healthy"));
    let (ann, eve) = (scene.world.user("ann"), scene.world.user("eve"));
    dead.rule(&ann, Rule::Refuse(ErrorKind::Refused));
    scene.send(&ann);
    scene.send(&eve);
    let plan = scene.plan(&[(&ann, &dead), (&eve, &healthy)]);
    let (_stop, stopped) = watch::channel(false);
    let report = scene.world.immortal("a").run_once(&plan, &stopped).await.unwrap();
    assert_eq!((report.outgoing.sent, report.outgoing.retried), (1, 1));
    assert_eq!(report.failures, [("ann".to_owned(), "smtp dead says no".to_owned())]);
}
