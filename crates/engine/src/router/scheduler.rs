//! Which mailbox is read next: pure bookkeeping, time handed in.
//!
//! Every mailbox has a due time. A due mailbox waits in the queue of its server; servers take turns, so that one with ten
//! thousand mailboxes does not starve the others. A server that failed is closed for a while, then tried with one mailbox before
//! all may go on (a circuit breaker), so that a dead server is not hammered by a thousand mailboxes. The same holds for the CRM and the
//! state store, which all passes need: while they fail, one mailbox at a time finds out whether they are back.
//!
//! Cost: O(log n) for each pass in the number of mailboxes; about 200 bytes for each idle mailbox.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use email_router_model::{Entropy, MailboxId};
use tokio::time::Instant;

use super::backoff::jittered;
use super::plan::{IncomingRoute, Server};

/// The mailboxes and when they are due.
#[derive(Debug, Default)]
pub(crate) struct Scheduler {
    slots: HashMap<MailboxId, Slot>,
    due: BinaryHeap<Reverse<(Instant, MailboxId)>>,
    servers: HashMap<String, ServerState>,
    /// Servers with waiting mailboxes, in turn. A name stands here at most once.
    turn: VecDeque<String>,
    backend: Backend,
}

/// The CRM and the state store.
#[derive(Debug, Default)]
struct Backend {
    failures: u32,
    /// Closed until then; afterwards one mailbox at a time until somebody says that they answered.
    closed_until: Option<Instant>,
    /// The mailbox whose pass finds out.
    probe: Option<MailboxId>,
}

#[derive(Debug)]
struct Slot {
    route: Arc<IncomingRoute>,
    due: Instant,
    phase: Phase,
    failures: u32,
    /// Mail arrived while its pass was running, perhaps after it had listed: it is due again at once.
    woken: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Waiting,
    Running,
    /// Changed in the plan while its pass was running: due at once when that ends, whatever it says about the old settings.
    RunningChanged,
    /// Removed from the plan while its pass was running.
    RunningRemoved,
}

#[derive(Debug, Default)]
struct ServerState {
    max_sessions: usize,
    running: usize,
    waiting: VecDeque<MailboxId>,
    failures: u32,
    /// Closed until then; afterwards one mailbox at a time until one succeeds.
    closed_until: Option<Instant>,
}

/// What changed when a plan was replaced.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) removed: Vec<MailboxId>,
    pub(crate) refreshed: Vec<MailboxId>,
}

impl Scheduler {
    /// Takes over the routes of a plan: new ones become due within `spread`, changed ones at once, unchanged ones keep their time.
    pub(crate) fn replace(
        &mut self,
        routes: &[Arc<IncomingRoute>],
        now: Instant,
        spread: Duration,
        entropy: &dyn Entropy,
    ) -> Changes {
        let mut changes = Changes::default();
        let wanted: HashMap<&MailboxId, &Arc<IncomingRoute>> =
            routes.iter().map(|r| (&r.mailbox.id, r)).collect();
        self.slots.retain(|id, slot| {
            if wanted.contains_key(id) {
                return true;
            }
            if slot.phase != Phase::RunningRemoved {
                changes.removed.push(id.clone());
            }
            if matches!(slot.phase, Phase::Running | Phase::RunningChanged | Phase::RunningRemoved) {
                slot.phase = Phase::RunningRemoved;
                return true;
            }
            false
        });
        for server in self.servers.values_mut() {
            server.waiting.retain(|id| wanted.contains_key(id));
        }
        let mut limits: HashMap<&str, usize> = HashMap::new();
        for Server { name, max_sessions } in routes.iter().map(|r| &r.server) {
            let limit = (*max_sessions).max(1);
            limits.entry(name).and_modify(|l| *l = limit.min(*l)).or_insert(limit);
        }
        for (name, limit) in limits {
            self.servers.entry(name.to_owned()).or_default().max_sessions = limit;
        }
        for route in routes {
            let name = &route.server.name;
            let id = &route.mailbox.id;
            match self.slots.get_mut(id) {
                Some(slot) if slot.route.fingerprint == route.fingerprint => {
                    slot.route = Arc::clone(route);
                    if slot.phase == Phase::RunningRemoved {
                        slot.phase = Phase::Running;
                    }
                }
                Some(slot) => {
                    changes.refreshed.push(id.clone());
                    slot.failures = 0;
                    let old_server =
                        std::mem::replace(&mut slot.route, Arc::clone(route)).server.name.clone();
                    // what was changed may be what was wrong with the server: one mailbox finds out
                    if let Some(server) = self.servers.get_mut(name)
                        && server.closed_until.is_some_and(|until| until > now)
                    {
                        server.closed_until = Some(now);
                    }
                    match slot.phase {
                        Phase::RunningRemoved | Phase::Running | Phase::RunningChanged => {
                            slot.phase = Phase::RunningChanged
                        }
                        Phase::Idle | Phase::Waiting => {
                            if let Some(server) = self.servers.get_mut(&old_server) {
                                server.waiting.retain(|w| w != id);
                            }
                            self.make_due(id.clone(), now);
                        }
                    }
                }
                None => {
                    let due = now + spread.mul_f64(entropy.fraction());
                    self.slots.insert(
                        id.clone(),
                        Slot { route: Arc::clone(route), due, phase: Phase::Idle, failures: 0, woken: false },
                    );
                    self.due.push(Reverse((due, id.clone())));
                }
            }
        }
        let used: HashSet<&str> = routes.iter().map(|r| r.server.name.as_str()).collect();
        self.servers.retain(|name, server| server.running > 0 || used.contains(name.as_str()));
        changes.removed.sort();
        changes
    }

    /// The next mailbox that may be read now, marked as running; `None` when none is due or no server has room.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Arc<IncomingRoute>> {
        self.queue_due(now);
        let closed = self.backend.closed_until;
        if closed.is_some_and(|until| until > now || self.backend.probe.is_some()) {
            return None;
        }
        for _ in 0..self.turn.len() {
            let name = self.turn.pop_front()?;
            let Some(server) = self.servers.get_mut(&name) else { continue };
            let room = match server.closed_until {
                Some(until) if until > now => 0,
                Some(_) => 1usize.saturating_sub(server.running),
                None => server.max_sessions.saturating_sub(server.running),
            };
            let next = if room > 0 { server.waiting.pop_front() } else { None };
            server.running += usize::from(next.is_some());
            if !server.waiting.is_empty() {
                self.turn.push_back(name);
            }
            if let Some(slot) = next.and_then(|id| self.slots.get_mut(&id)) {
                slot.phase = Phase::Running;
                self.backend.probe = closed.map(|_| slot.route.mailbox.id.clone());
                return Some(Arc::clone(&slot.route));
            }
        }
        None
    }

    /// A pass ended well (or found nothing wrong with mailbox and server); the next is due after the polling period, or at once when `more`.
    pub(crate) fn succeeded(
        &mut self,
        route: &IncomingRoute,
        more: bool,
        now: Instant,
        entropy: &dyn Entropy,
    ) -> Option<Instant> {
        if let Some(server) = self.servers.get_mut(&route.server.name) {
            server.failures = 0;
            server.closed_until = None;
        }
        let after = if more { Duration::ZERO } else { jittered(route.polling_period, entropy) };
        self.ended(route, now + after, 0, now)
    }

    /// A pass ended before it came to the server, which says nothing about server and mailbox; the next is due after `delay`.
    pub(crate) fn untried(
        &mut self,
        route: &IncomingRoute,
        delay: Duration,
        now: Instant,
    ) -> Option<Instant> {
        let failures = self.failures(&route.mailbox.id);
        self.failed(route, false, failures, delay, now)
    }

    /// A pass failed for the mailbox alone, for the `failures`-th time in a row; the next is due after `delay`. `answered`: the
    /// server said something.
    pub(crate) fn failed(
        &mut self,
        route: &IncomingRoute,
        answered: bool,
        failures: u32,
        delay: Duration,
        now: Instant,
    ) -> Option<Instant> {
        // the server answered, so it is not the server
        if answered && let Some(server) = self.servers.get_mut(&route.server.name) {
            server.failures = 0;
            server.closed_until = None;
        }
        self.ended(route, now + delay, failures, now)
    }

    /// A pass failed because of the server: all its mailboxes wait for `delay`, which the caller computes from
    /// [`Self::server_failures`].
    pub(crate) fn server_failed(
        &mut self,
        route: &IncomingRoute,
        delay: Duration,
        now: Instant,
    ) -> Option<Instant> {
        if let Some(server) = self.servers.get_mut(&route.server.name) {
            // passes that were under way together count as one failure
            if server.closed_until.is_none_or(|until| until <= now) {
                server.failures = server.failures.saturating_add(1);
                server.closed_until = Some(now + delay);
            }
        }
        let until = self.servers.get(&route.server.name).and_then(|s| s.closed_until).unwrap_or(now + delay);
        let failures = self.failures(&route.mailbox.id);
        self.ended(route, until, failures + 1, now)
    }

    /// A pass failed because of the CRM or the state store: all mailboxes wait for `delay`, which the caller computes from
    /// [`Self::backend_failures`].
    pub(crate) fn backend_failed(
        &mut self,
        route: &IncomingRoute,
        delay: Duration,
        now: Instant,
    ) -> Option<Instant> {
        // passes that were under way together count as one failure
        let until = match self.backend.closed_until {
            Some(until) if until > now => until,
            _ => {
                self.backend.failures = self.backend.failures.saturating_add(1);
                now + delay
            }
        };
        self.backend.closed_until = Some(until);
        // neither the mailbox nor its server is to blame
        let failures = self.failures(&route.mailbox.id);
        self.ended(route, until, failures, now)
    }

    /// The CRM and the state store answered to a pass that was to find that out: all may go on.
    pub(crate) fn backend_answered(&mut self) {
        self.backend.failures = 0;
        self.backend.closed_until = None;
    }

    /// Whether the pass of this mailbox, which [`Self::next`] just gave, is to find out whether CRM and state store are back.
    pub(crate) fn is_probe(&self, id: &MailboxId) -> bool {
        self.backend.probe.as_ref() == Some(id)
    }

    /// Failures of the CRM or the state store in a row.
    pub(crate) fn backend_failures(&self) -> u32 {
        self.backend.failures
    }

    /// Failed passes of this mailbox in a row.
    pub(crate) fn failures(&self, id: &MailboxId) -> u32 {
        self.slots.get(id).map_or(0, |s| s.failures)
    }

    /// Failures of this server in a row.
    pub(crate) fn server_failures(&self, name: &str) -> u32 {
        self.servers.get(name).map_or(0, |s| s.failures)
    }

    /// How many mailboxes there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Something may have arrived in a mailbox: it is due now. One that failed waits as before: that mail arrives does not repair it.
    pub(crate) fn wake(&mut self, id: &MailboxId, now: Instant) {
        let Some(slot) = self.slots.get_mut(id) else { return };
        match slot.phase {
            Phase::Idle if slot.failures == 0 && slot.due > now => self.make_due(id.clone(), now),
            Phase::Running => slot.woken = true,
            _ => {}
        }
    }

    fn queue_due(&mut self, now: Instant) {
        while let Some(Reverse((at, _))) = self.due.peek() {
            if *at > now {
                return;
            }
            let Some(Reverse((at, id))) = self.due.pop() else { return };
            let Some(slot) = self.slots.get_mut(&id) else { continue };
            // an entry that is not the slot's current one was replaced by a later decision
            if slot.phase != Phase::Idle || slot.due != at {
                continue;
            }
            slot.phase = Phase::Waiting;
            let name = slot.route.server.name.clone();
            let server = self.servers.entry(name.clone()).or_default();
            server.waiting.push_back(id);
            if !self.turn.contains(&name) {
                self.turn.push_back(name);
            }
        }
    }

    fn make_due(&mut self, id: MailboxId, at: Instant) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.phase = Phase::Idle;
            slot.due = at;
            self.due.push(Reverse((at, id)));
        }
    }

    fn ended(
        &mut self,
        route: &IncomingRoute,
        next: Instant,
        failures: u32,
        now: Instant,
    ) -> Option<Instant> {
        if self.is_probe(&route.mailbox.id) {
            self.backend.probe = None;
        }
        if let Some(server) = self.servers.get_mut(&route.server.name) {
            server.running = server.running.saturating_sub(1);
            if !server.waiting.is_empty() && !self.turn.contains(&route.server.name) {
                self.turn.push_back(route.server.name.clone());
            }
        }
        let id = &route.mailbox.id;
        let slot = self.slots.get_mut(id)?;
        let next = match slot.phase {
            Phase::RunningRemoved => {
                self.slots.remove(id);
                return None;
            }
            Phase::RunningChanged => now,
            _ => {
                slot.failures = failures;
                if std::mem::take(&mut slot.woken) && failures == 0 { now } else { next }
            }
        };
        self.make_due(id.clone(), next);
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::IncomingSettings;
    use email_router_model::{Mailbox, MailboxKind, SeededEntropy};
    use email_router_transport::memory::MemoryTransport;

    fn route(name: &str, server: &str, max_sessions: usize, fingerprint: u64) -> Arc<IncomingRoute> {
        Arc::new(IncomingRoute {
            mailbox: Mailbox {
                id: name.into(),
                kind: MailboxKind::User,
                name: name.to_owned(),
                address: format!("{name}@x.test").parse().unwrap(),
                login: None,
            },
            record: None,
            transport: Arc::new(MemoryTransport::default()),
            source: name.to_owned(),
            notify: false,
            settings: IncomingSettings::default(),
            polling_period: Duration::from_secs(60),
            server: Server { name: server.to_owned(), max_sessions },
            fingerprint,
        })
    }

    fn started(scheduler: &mut Scheduler, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| scheduler.next(now)).map(|r| r.mailbox.id.as_str().to_owned()).collect()
    }

    #[test]
    fn servers_take_turns_within_their_limits() {
        let (entropy, now) = (SeededEntropy::new(1), Instant::now());
        let mut s = Scheduler::default();
        let routes: Vec<_> = (0..10)
            .map(|n| route(&format!("a{n}"), "big", 3, 0))
            .chain([route("b", "small", 1, 0)])
            .collect();
        s.replace(&routes, now, Duration::ZERO, &entropy);
        let names = started(&mut s, now);
        assert_eq!(names.len(), 4, "{names:?}");
        assert!(
            names[..2].contains(&"b".to_owned()),
            "the small server does not wait for the big one: {names:?}"
        );
        let first = routes.iter().find(|r| r.mailbox.id.as_str() == names[0]).unwrap();
        s.succeeded(first, false, now, &entropy);
        assert_eq!(started(&mut s, now).len(), usize::from(names[0] != "b"));
    }

    #[test]
    fn of_several_limits_for_a_server_the_least_counts() {
        let (entropy, now) = (SeededEntropy::new(1), Instant::now());
        for limits in [[2, 5, 9], [9, 5, 2], [5, 2, 9]] {
            let mut s = Scheduler::default();
            let routes: Vec<_> =
                (0..9).map(|n| route(&format!("a{n}"), "shared", limits[n / 3], 0)).collect();
            s.replace(&routes, now, Duration::ZERO, &entropy);
            assert_eq!(started(&mut s, now).len(), 2, "{limits:?}");
        }
        // and a new plan may raise it
        let mut s = Scheduler::default();
        s.replace(&[route("a", "shared", 1, 0), route("b", "shared", 1, 0)], now, Duration::ZERO, &entropy);
        assert_eq!(started(&mut s, now).len(), 1);
        s.replace(&[route("a", "shared", 2, 0), route("b", "shared", 2, 0)], now, Duration::ZERO, &entropy);
        assert_eq!(started(&mut s, now).len(), 1);
    }

    #[test]
    fn a_dead_server_is_tried_with_one_mailbox() {
        let (entropy, now) = (SeededEntropy::new(1), Instant::now());
        let mut s = Scheduler::default();
        let routes: Vec<_> = (0..100).map(|n| route(&format!("a{n:02}"), "dead", 5, 0)).collect();
        s.replace(&routes, now, Duration::ZERO, &entropy);
        let running = started(&mut s, now);
        assert_eq!(running.len(), 5);
        for name in &running {
            let r = routes.iter().find(|r| r.mailbox.id.as_str() == name).unwrap();
            s.server_failed(r, Duration::from_secs(30), now);
        }
        assert_eq!(s.server_failures("dead"), 1, "failures under way together count once");
        assert!(started(&mut s, now + Duration::from_secs(29)).is_empty());
        let later = now + Duration::from_secs(31);
        let one = started(&mut s, later);
        assert_eq!(one.len(), 1);
        let r = routes.iter().find(|r| r.mailbox.id.as_str() == one[0]).unwrap();
        s.succeeded(r, false, later, &entropy);
        assert_eq!(started(&mut s, later).len(), 5);
    }

    #[test]
    fn a_dead_crm_is_asked_for_one_mailbox_whatever_its_server() {
        let (entropy, now) = (SeededEntropy::new(1), Instant::now());
        let mut s = Scheduler::default();
        let routes: Vec<_> =
            (0..6).map(|n| route(&format!("a{n}"), if n < 3 { "one" } else { "two" }, 5, 0)).collect();
        let by_name = |name: &str| routes.iter().find(|r| r.mailbox.id.as_str() == name).unwrap();
        s.replace(&routes, now, Duration::ZERO, &entropy);
        assert_eq!(started(&mut s, now).len(), 6);
        for r in &routes {
            assert!(!s.is_probe(&r.mailbox.id));
            s.backend_failed(r, Duration::from_secs(30), now);
        }
        assert_eq!((s.backend_failures(), s.failures(&"a1".into())), (1, 0), "counts once, blames nobody");
        assert!(started(&mut s, now + Duration::from_secs(29)).is_empty());
        let mut later = now + Duration::from_secs(31);
        for failures in 2..4 {
            let probe = started(&mut s, later);
            assert_eq!(probe.len(), 1);
            assert!(s.is_probe(&by_name(&probe[0]).mailbox.id));
            s.backend_failed(by_name(&probe[0]), Duration::from_secs(30), later);
            assert_eq!(s.backend_failures(), failures);
            later += Duration::from_secs(31);
        }
        // a pass that ended without having asked opens nothing
        let probe = started(&mut s, later);
        s.untried(by_name(&probe[0]), Duration::from_secs(60), later);
        let probe = started(&mut s, later);
        assert_eq!(probe.len(), 1);
        s.backend_answered();
        s.succeeded(by_name(&probe[0]), false, later, &entropy);
        assert_eq!((started(&mut s, later).len(), s.backend_failures()), (4, 0));
    }

    #[test]
    fn mail_that_arrives_makes_a_mailbox_due() {
        let (entropy, now) = (SeededEntropy::new(1), Instant::now());
        let mut s = Scheduler::default();
        let a = route("a", "s", 9, 1);
        s.replace(std::slice::from_ref(&a), now, Duration::ZERO, &entropy);
        assert_eq!(started(&mut s, now), ["a"]);
        s.succeeded(&a, false, now, &entropy);
        assert!(started(&mut s, now).is_empty());
        s.wake(&"nobody".into(), now);
        s.wake(&a.mailbox.id, now);
        s.wake(&a.mailbox.id, now);
        assert_eq!(started(&mut s, now), ["a"], "it is due at once, and once");
        // while it is read: perhaps after it was listed
        s.wake(&a.mailbox.id, now);
        s.succeeded(&a, false, now, &entropy);
        assert_eq!(started(&mut s, now), ["a"]);
        s.succeeded(&a, false, now, &entropy);
        assert!(started(&mut s, now).is_empty(), "but not for ever");
        // what failed is not hammered because mail arrives
        s.wake(&a.mailbox.id, now);
        assert_eq!(started(&mut s, now), ["a"]);
        s.wake(&a.mailbox.id, now);
        s.failed(&a, true, 1, Duration::from_secs(60), now);
        s.wake(&a.mailbox.id, now);
        assert!(started(&mut s, now).is_empty());
    }

    #[test]
    fn replacing_the_plan() {
        let (entropy, now) = (SeededEntropy::new(1), Instant::now());
        let mut s = Scheduler::default();
        let (a, b, c) = (route("a", "s", 9, 1), route("b", "s", 9, 1), route("c", "s", 9, 1));
        s.replace(&[a.clone(), b.clone(), c.clone()], now, Duration::ZERO, &entropy);
        assert_eq!(started(&mut s, now).len(), 3);
        s.succeeded(&a, false, now, &entropy);
        // a unchanged and idle, b changed while running, c removed while running
        let changes = s.replace(&[a.clone(), route("b", "s", 9, 2)], now, Duration::ZERO, &entropy);
        assert_eq!(changes, Changes { removed: vec!["c".into()], refreshed: vec!["b".into()] });
        assert!(started(&mut s, now).is_empty(), "a keeps its time, b is still running");
        assert_eq!(s.succeeded(&c, false, now, &entropy), None);
        assert!(s.succeeded(&b, true, now, &entropy).is_some());
        assert_eq!(started(&mut s, now), ["b"]);
        assert_eq!(s.len(), 2);
    }
}
