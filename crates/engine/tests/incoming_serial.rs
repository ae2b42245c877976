//! What several messages at the same time come to is what they come to one after the other: small worlds at random, each routed twice.
//!
//! `SIM_SEED=7` runs one world again, `SIM_SEEDS=10000` runs more of them.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test file, which names the seed that failed

mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use email_router_crm::{
    AutomaticMail, CrmClient as _, FilteringMethod, HitPolicy, OrganizationSettings, UnknownSender,
};
use email_router_engine::StateStore as _;
use email_router_engine::decide::Decider;
use email_router_engine::incoming::{IncomingParts, PassReport};
use email_router_engine::ports::{CrmIndex, DecisionQuery};
use email_router_engine::router::IncomingRoute;
use email_router_engine::{ReferenceSigner, Result};
use email_router_model::{ActivityId, Entropy as _, MessageId, RawMessage, SeededEntropy, Timestamp};
use email_router_transport::Transport;
use email_router_transport::memory::MemoryTransport;
use world::{Life, MortalTransport, Place, Point, World, large, like_pop3};

/// A world that is the same for each seed, before anything in it was routed.
struct Site {
    world: World,
    place: Place,
    route: IncomingRoute,
    signer: ReferenceSigner,
    dice: SeededEntropy,
    /// Sent from the CRM: activity, Message-ID, subject with its token.
    sent: Vec<(ActivityId, MessageId, String)>,
}

impl Site {
    /// With filters that take everything where `open`.
    async fn new(seed: u64, open: bool) -> Self {
        let (world, dice) = (World::new(), SeededEntropy::new(seed));
        let below = |n: u64| dice.next_u64() % n;
        let (ann, help, forward) = (world.user("ann"), world.queue("help"), world.forward("all"));
        let bob = world.crm.add(None, "Bob", "bob@contoso.example", FilteringMethod::All);
        world.crm.add(None, "Bob's boss", "boss@contoso.example", FilteringMethod::All);
        for place in [&ann, &help] {
            let filter = match below(5) {
                0 => FilteringMethod::InResponseToCrmEmail,
                1 => FilteringMethod::FromLeadsContactsAccounts,
                _ => FilteringMethod::All,
            };
            let filter = if open { FilteringMethod::All } else { filter };
            world.crm.set_filter(&place.record, filter);
        }
        world.crm.settings_mut(|settings| some_settings(settings, &dice));
        let signer = ReferenceSigner::new("k".repeat(32).into()).unwrap();
        let org = world.crm.organization_id();
        let mut sent = Vec::new();
        for n in 0..3 {
            let subject = ["winter harvest festival", "tents in the garden", "order 123456"][n];
            let id = world.crm.send_mail(if n == 1 { &help.record } else { &ann.record }, &bob, subject);
            let message_id = match n {
                0 => MessageId::parse("<sent@fabrikam.example>").unwrap(),
                _ => signer.message_id(&org, &id, "fabrikam.example").unwrap(),
            };
            let prepared = world.crm.prepare_outgoing(&id, &message_id, true).await.unwrap();
            if below(2) == 0 {
                world.crm.set_regarding(id, &bob);
            }
            sent.push((id, message_id, prepared.subject));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let place = match below(8) {
            0 => forward,
            1..4 => help,
            _ => ann,
        };
        let system = if below(4) == 0 { like_pop3() } else { MemoryTransport::new() };
        let mut route = world.route(&place, system.clone());
        route.settings.header_first_above = 1_000;
        route.settings.delete_after_processing = below(2) == 0;
        let site = Self { world, place, route, signer, dice, sent };
        for _ in 0..3 + site.below(22) {
            let message = site.message();
            for _ in 0..1 + u64::from(site.below(8) == 0) {
                system.put(site.place.id(), message.clone());
            }
        }
        site.world.crm.answers_take_random_times(seed);
        site
    }

    fn below(&self, n: u64) -> u64 {
        self.dice.next_u64() % n
    }

    fn pick<'a>(&self, from: &[&'a str]) -> &'a str {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }

    /// An id that others have or name too.
    fn id(&self) -> String {
        let org = self.world.crm.organization_id();
        let (activity, message_id, _) = &self.sent[usize::try_from(self.below(3)).unwrap()];
        match self.below(12) {
            0 => message_id.as_str().to_owned(),
            1 => self.signer.reference(&org, activity, "fabrikam.example").unwrap().as_str().to_owned(),
            2 => format!("<{activity}.{}@fabrikam.example>", "0".repeat(32)),
            _ => format!("<{}@contoso.example>", self.below(12)),
        }
    }

    fn subject(&self) -> String {
        let prefix = self.pick(&["", "", "RE: ", "FW: "]);
        let words = self.pick(&[
            "winter harvest festival",
            "harvest festival winter",
            "winter harvest festival tents",
            "tents in the garden",
            "order 123456",
            "hello",
            "",
        ]);
        let token = match self.below(5) {
            0 => "CRM:0009009".to_owned(),
            1 => "crm:0009009".to_owned(),
            2 => {
                let (_, _, subject) = &self.sent[usize::try_from(self.below(3)).unwrap()];
                let token = subject.rsplit(' ').next().unwrap().to_owned();
                if self.below(2) == 0 { token.to_lowercase() } else { token }
            }
            _ => String::new(),
        };
        format!("{prefix}{words} {token}")
    }

    fn message(&self) -> RawMessage {
        if self.place.record.table == "mailbox" && self.below(4) > 0 {
            let inner = String::from_utf8(self.plain().bytes().to_vec()).unwrap();
            return RawMessage::new(format!(
                "From: ann@fabrikam.example\r\nTo: all@fabrikam.example\r\nSubject: forwarded\r\nMessage-ID: <w{}@fabrikam.example>\r\n\
                 Content-Type: multipart/mixed; boundary=w\r\n\r\n--w\r\nContent-Type: message/rfc822\r\n\r\n{inner}\r\n--w--\r\n",
                self.dice.next_u64()
            ));
        }
        match self.below(20) {
            0 => RawMessage::new("\r\n\r\nno header at all\r\n"),
            1..=2 => self.report(),
            _ => self.plain(),
        }
    }

    fn plain(&self) -> RawMessage {
        let from = self.pick(&[
            "bob@contoso.example",
            "carol@contoso.example",
            "carol+shop@contoso.example",
            "dave@contoso.example",
            "Erin <ERIN@contoso.example>",
            "boss@contoso.example",
            "ann@fabrikam.example",
            "help@fabrikam.example",
            "root@localhost",
        ]);
        let to = self.pick(&[
            "ann@fabrikam.example",
            "help@fabrikam.example",
            "ann@fabrikam.example, help@fabrikam.example",
        ]);
        let mut text = format!("From: {from}\r\nTo: {to}\r\nSubject: {}\r\n", self.subject());
        text += "Date: Sun, 1 Mar 2026 09:00:00 +0000\r\n";
        if self.below(3) == 0 {
            let cc = self.pick(&[
                "carol@contoso.example",
                "carol+shop@contoso.example",
                "dave@contoso.example, erin@contoso.example",
                "list@contoso.example",
            ]);
            text += &format!("Cc: {cc}\r\n");
        }
        if self.below(8) > 0 {
            text += &format!("Message-ID: {}\r\n", self.id());
        }
        if self.below(3) == 0 {
            text += &format!("In-Reply-To: {}\r\n", self.id());
        }
        if self.below(3) == 0 {
            text += &format!("References: {} {}\r\n", self.id(), self.id());
        }
        if self.below(4) == 0 {
            let (root, tail) = (self.pick(&["A", "B", "C"]), self.pick(&["", "AAAA", "BBBB"]));
            text += &format!("Thread-Index: {}{tail}\r\n", root.repeat(32));
        }
        if self.below(10) == 0 {
            text += "Auto-Submitted: auto-replied\r\n";
        }
        if self.below(12) == 0 {
            let (activity, message_id, _) = &self.sent[usize::try_from(self.below(3)).unwrap()];
            let org = self.world.crm.organization_id();
            let value = self.signer.header_value(&org, activity, message_id).unwrap();
            text += &format!("X-Email-Router-Reference: {value}\r\n");
        }
        let body = if self.below(2) == 0 { "hello" } else { "good bye" };
        let mut message = RawMessage::new(format!("{text}\r\n{body}\r\n"));
        if self.below(5) == 0 {
            message = large(&message, 2_000);
        }
        if self.below(6) == 0 {
            message.conversation_id = Some(self.pick(&["one", "two"]).to_owned());
        }
        message
    }

    fn report(&self) -> RawMessage {
        let (activity, ..) = &self.sent[usize::try_from(self.below(3)).unwrap()];
        let envelope =
            if self.below(2) == 0 { format!("Original-Envelope-Id: {activity}\r\n") } else { String::new() };
        RawMessage::new(format!(
            "From: mailer-daemon@contoso.example\r\nTo: ann@fabrikam.example\r\nSubject: {}\r\nMessage-ID: {}\r\n\
             Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n--b\r\n\r\nSorry.\r\n--b\r\n\
             Content-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.contoso.example\r\n{envelope}\r\n\
             Final-Recipient: rfc822; bob@contoso.example\r\nAction: {}\r\nStatus: 5.1.1\r\n\r\n--b\r\n\
             Content-Type: text/rfc822-headers\r\n\r\nMessage-ID: {}\r\n\r\n--b--\r\n",
            self.subject(),
            self.id(),
            self.pick(&["failed", "delayed", "delivered"]),
            self.id(),
        ))
    }

    fn parts(&self, life: &Arc<Life>) -> IncomingParts {
        let parts = self.world.parts(life);
        let decider = Decider::new(Arc::clone(&parts.crm), Arc::new(CrmIndex(Arc::clone(&parts.crm))));
        IncomingParts { decider: Arc::new(decider.with_signer(Some(self.signer.clone()))), ..parts }
    }

    /// A pass of one life; `None` where it ended by death.
    async fn pass(&self, life: &Arc<Life>) -> Option<(PassReport, Result<()>)> {
        let (parts, view) = (self.parts(life), self.world.view().await);
        let route = IncomingRoute {
            mailbox: self.route.mailbox.clone(),
            record: self.route.record.clone(),
            transport: Arc::new(MortalTransport {
                inner: Arc::<dyn Transport>::clone(&self.route.transport),
                life: Arc::clone(life),
            }),
            source: self.route.source.clone(),
            settings: self.route.settings.clone(),
            polling_period: self.route.polling_period,
            notify: false,
            server: self.route.server.clone(),
            fingerprint: 1,
        };
        life.live(parts.run(&route, &view, &self.world.stop.subscribe())).await
    }

    /// Passes until nothing is left to do.
    async fn route_all(&self) {
        loop {
            let (report, result) = self.pass(&Life::until(Point::Never)).await.unwrap();
            result.unwrap();
            assert_eq!(report.deferred, 0);
            if report.backlog == 0 {
                break;
            }
        }
    }

    /// What the CRM has, as text that says nothing of the times.
    fn content(&self) -> BTreeMap<String, String> {
        let mut content = BTreeMap::new();
        for e in self.world.crm.emails() {
            let text = format!(
                "{:?} {:?} {:?} parties {:?} regarding {:?} owner {:?} token {:?} parent {:?} {:?} {:?} reported {:?} {:?}",
                e.message_id,
                e.subject,
                e.body.len(),
                e.parties,
                e.regarding,
                e.owner,
                e.token,
                e.parent,
                e.conversation_index,
                e.conversation_id,
                e.reported,
                e.references,
            );
            assert!(content.insert(format!("e-mail {}", e.id), text).is_none(), "each once");
        }
        for (record, name, address) in self.world.crm.people() {
            assert!(content.insert(format!("person {record}"), format!("{name} {address:?}")).is_none());
        }
        for (queue, id) in self.world.crm.queue_items() {
            assert!(content.insert(format!("item {queue} {id}"), String::new()).is_none());
        }
        content
    }

    /// What was decided about each message, and what is in quarantine, without its number.
    async fn decisions(&self) -> BTreeMap<String, String> {
        let all = DecisionQuery::Between(Timestamp::MIN, Timestamp::MAX);
        let mut decisions = BTreeMap::new();
        for note in self.world.state.decisions(&all, 10_000).await.unwrap() {
            let mut record = note.record;
            if let Some((because, _)) = record.because.split_once("; it is in quarantine") {
                record.because = because.to_owned();
            }
            let id = record.remote_id.clone().unwrap();
            let text = serde_json::to_string_pretty(&record).unwrap();
            assert!(decisions.insert(id, text).is_none(), "each is decided once");
        }
        for item in self.world.quarantine().await {
            decisions
                .insert(format!("quarantine {}", item.remote_id), format!("{} {}", item.class, item.reason));
        }
        decisions
    }
}

fn some_settings(s: &mut OrganizationSettings, dice: &SeededEntropy) {
    let below = |n: u64| dice.next_u64() % n;
    let one_in = |n: u64| below(n) == 0;
    s.create_unknown_sender = match below(3) {
        0 => UnknownSender::None,
        1 => UnknownSender::Contact,
        _ => UnknownSender::Lead,
    };
    s.resolve_similar_unresolved_email_address = one_in(2);
    s.plus_addressing = one_in(2);
    s.enable_smart_matching = one_in(2);
    s.hash_delta_subject_count = u32::try_from(below(6)).unwrap().saturating_sub(3);
    s.hash_min_address_count = 1 + u32::try_from(below(2)).unwrap();
    s.smart_matching_common_subject_guard = one_in(2);
    s.smart_matching_whitespace_words = one_in(4);
    s.disable_smart_matching_email_hash_creation = one_in(8);
    s.ignore_internal_email = one_in(2);
    s.ignore_internal_email_detection_enhancement = one_in(2);
    s.ignore_internal_email_from_queues = one_in(2);
    s.do_not_ignore_internal_email_to_queues = one_in(2);
    s.use_tracking_token = !one_in(8);
    s.use_in_reply_to = !one_in(8);
    s.use_references = !one_in(8);
    s.use_conversation_index = !one_in(8);
    s.allow_weak_token = one_in(2);
    s.accept_by_mailbox = one_in(2);
    s.answers_pass_filters = one_in(2);
    s.do_not_correlate_forwarded_emails_as_replies = one_in(2);
    s.create_additional_queue_items_for_already_tracked_email = one_in(2);
    s.override_v5_sender_conflict_resolution = one_in(8);
    s.automatic_mail =
        [AutomaticMail::Track, AutomaticMail::TrackWithoutSmartMatching, AutomaticMail::Discard]
            [usize::try_from(below(3)).unwrap()];
    s.delivery_reports = if one_in(3) { AutomaticMail::Discard } else { AutomaticMail::Track };
    s.forged_reference = if one_in(3) { HitPolicy::Refuse } else { HitPolicy::Accept };
}

fn assert_same(one: &BTreeMap<String, String>, other: &BTreeMap<String, String>, what: &str) {
    for (key, text) in one {
        let there = other.get(key).map_or("nothing", String::as_str);
        assert!(there == text, "{what} {key}, together:\n{there}\none after the other:\n{text}");
    }
    let more: Vec<_> = other.keys().filter(|key| !one.contains_key(*key)).collect();
    assert!(more.is_empty(), "{what}: only together {more:?}");
}

/// Names the seed when a world fails.
struct Seed(u64);
impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the world failed; run it again with SIM_SEED={}", self.0);
        }
    }
}

fn for_each_seed<F: Future<Output = ()>>(usual: u64, test: impl Fn(u64) -> F) {
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let seeds = match number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIM_SEEDS").unwrap_or(usual),
    };
    for seed in seeds {
        let _named = Seed(seed);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(test(seed));
    }
}

/// The world routed one message after the other.
async fn serial(seed: u64, open: bool) -> Site {
    let mut site = Site::new(seed, open).await;
    site.route.settings.max_messages_per_cycle = 1;
    site.route_all().await;
    site
}

#[test]
fn together_as_one_after_the_other() {
    for_each_seed(150, |seed| async move {
        let (together, serial) = (Site::new(seed, false).await, serial(seed, false).await);
        together.route_all().await;
        assert_same(&serial.decisions().await, &together.decisions().await, "decision");
        assert_same(&serial.content(), &together.content(), "CRM");
    });
}

// What is discarded and not recorded when a crash comes is decided anew, when others behind it may be in the CRM already: as if it had come
// later. So the filters are open in these worlds.

/// How many calls to ports there are in a world, and of which kind.
async fn points(seed: u64) -> Vec<String> {
    let life = Life::until(Point::Never);
    Site::new(seed, true).await.pass(&life).await.unwrap().1.unwrap();
    life.names()
}

#[test]
fn killed_anywhere_and_then_as_one_after_the_other() {
    for_each_seed(40, |seed| async move {
        let (serial, points) = (serial(seed, true).await, points(seed).await);
        let dice = SeededEntropy::new(!seed);
        for _ in 0..12 {
            let site = Site::new(seed, true).await;
            let mut at = Vec::new();
            for _ in 0..1 + dice.next_u64() % 3 {
                let n = usize::try_from(dice.next_u64() % points.len() as u64).unwrap();
                at.push(format!("{n} {}", points[n]));
                site.pass(&Life::until(Point::Number(n))).await;
            }
            site.route_all().await;
            assert_same(&serial.content(), &site.content(), &format!("killed at {at:?}: CRM"));
            assert_eq!(site.world.classes().await, serial.world.classes().await, "killed at {at:?}");
        }
    });
}

#[test]
fn crm_or_state_failing_anywhere_and_then_as_one_after_the_other() {
    for_each_seed(40, |seed| async move {
        let (serial, points) = (serial(seed, true).await, points(seed).await);
        let dice = SeededEntropy::new(!seed);
        let mail_system = ["receive", "next", "prefetch", "headers", "fetch", "dispose", "close"];
        for _ in 0..12 {
            let n = usize::try_from(dice.next_u64() % points.len() as u64).unwrap();
            if mail_system.iter().any(|call| points[n].ends_with(&format!(" {call}"))) {
                continue; // a message may be to blame, and waits
            }
            let site = Site::new(seed, true).await;
            let at = format!("{n} {}", points[n]);
            let (report, result) = site.pass(&Life::until(Point::Error(n))).await.unwrap();
            assert_eq!(report.deferred, 0, "{at}");
            let error = result.unwrap_err();
            assert!(error.to_string().contains("does not answer"), "{at}: {error}");
            site.route_all().await;
            assert_same(&serial.content(), &site.content(), &format!("failing at {at}: CRM"));
            assert_eq!(site.world.classes().await, serial.world.classes().await, "failing at {at}");
        }
    });
}
