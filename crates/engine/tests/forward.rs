//! Forward mailboxes: the originals are routed, the wrappers are disposed of.
#![allow(clippy::unwrap_used)] // a test file

mod world;

use email_router_crm::{DeliveryMethod, Error as CrmError, ErrorKind as CrmErrorKind, FilteringMethod};
use email_router_engine::decide::MailboxContext;
use email_router_engine::router::IncomingRoute;
use email_router_engine::{IncomingSettings, Verdict};
use email_router_model::RawMessage;
use email_router_transport::memory::MemoryTransport;
use world::{Life, Place, Point, World, subjects};

struct Office {
    world: World,
    system: MemoryTransport,
    ann: Place,
    ben: Place,
    forward: Place,
}

impl Office {
    fn new() -> Self {
        let world = World::new();
        let (ann, ben) = (world.user("ann"), world.user("ben"));
        for place in [&ann, &ben] {
            world.crm.set_incoming(&place.record, DeliveryMethod::ForwardMailbox);
        }
        let forward = world.forward("forward");
        Self { world, system: MemoryTransport::new(), ann, ben, forward }
    }

    fn route(&self) -> IncomingRoute {
        let mut route = self.world.route(&self.forward, self.system.clone());
        route.record = None;
        route.settings.delete_after_processing = true;
        route
    }

    fn put(&self, message: &str) {
        self.system.put(self.forward.id(), RawMessage::new(message.replace('\n', "\r\n").into_bytes()));
    }

    async fn pass(&self) -> (u64, u64, u64) {
        let report = self.world.pass(&self.route()).await;
        (report.delivered, report.discarded, report.undeliverable)
    }

    fn left(&self) -> Vec<String> {
        subjects(&self.system, &self.forward)
    }
}

fn original(to: &str, subject: &str) -> String {
    format!(
        "From: Bob <bob@contoso.example>\nTo: {to}\nSubject: {subject}\nMessage-ID: <{subject}@contoso.example>\n\
         Date: Sun, 1 Mar 2026 10:00:00 +0000\n\nhello\n"
    )
}

fn wrapper(from: &str, originals: &[String]) -> String {
    let parts: String =
        originals.iter().map(|o| format!("--w\nContent-Type: message/rfc822\n\n{o}")).collect();
    format!(
        "From: {from}@fabrikam.example\nTo: forward@fabrikam.example\nSubject: FW\nMessage-ID: <wrapper-{}@fabrikam.example>\n\
         Content-Type: multipart/mixed; boundary=w\n\n--w\n\n{parts}--w--\n",
        parts.len()
    )
}

#[tokio::test(start_paused = true)]
async fn an_original_is_routed_as_if_found_where_it_came_from() {
    let office = Office::new();
    office.put(&wrapper("ann", &[original("ann@fabrikam.example", "one")]));
    assert_eq!(office.pass().await, (1, 0, 0));
    assert_eq!(office.left(), [""; 0], "deleted after processing");
    let emails = office.world.crm.emails();
    let [email] = &emails[..] else { panic!("{emails:?}") };
    assert_eq!(email.subject, "one");
    assert_eq!(email.owner.as_ref(), Some(&office.ann.record));
    assert_eq!(email.parties[0].address.as_ref().unwrap().as_str(), "bob@contoso.example");
}

#[tokio::test(start_paused = true)]
async fn an_original_without_known_recipients_belongs_to_who_forwarded_it() {
    let office = Office::new();
    office.put(&wrapper("ben", &[original("list@elsewhere.example", "by list")]));
    // its named recipient counts, not the forwarder
    office.put(&wrapper("ben", &[original("ann@fabrikam.example", "for ann alone")]));
    assert_eq!(office.pass().await, (2, 0, 0));
    let owner = |subject: &str| {
        let emails = office.world.crm.emails();
        emails.iter().find(|e| e.subject == subject).unwrap().owner.clone().unwrap()
    };
    assert_eq!(owner("by list"), office.ben.record);
    assert_eq!(owner("for ann alone"), office.ann.record);
}

#[tokio::test(start_paused = true)]
async fn several_originals_and_one_that_two_forwarded() {
    let office = Office::new();
    office.world.crm.set_filter(&office.ben.record, FilteringMethod::None);
    let both = [original("ann@fabrikam.example", "one"), original("ben@fabrikam.example", "two")];
    office.put(&wrapper("ann", &both));
    office.put(&wrapper("ben", &both[..1]));
    assert_eq!(
        office.pass().await,
        (1, 1, 0),
        "ben's filter refuses two; the second wrapper's original is there"
    );
    assert_eq!(office.world.crm.received(), ["one"]);
}

#[tokio::test(start_paused = true)]
async fn a_wrapper_within_a_wrapper() {
    let office = Office::new();
    let second = office.world.forward("second");
    let inner = wrapper("ann", &[original("ann@fabrikam.example", "deep")]);
    let outer = wrapper(
        "ben",
        &[inner.replace("forward@", "second@").replace("boundary=w", "boundary=v").replace("--w", "--v")],
    );
    office.put(&outer);
    assert_eq!(office.pass().await, (1, 0, 0));
    assert_eq!(office.world.crm.received(), ["deep"]);
    drop(second);
}

#[tokio::test(start_paused = true)]
async fn what_holds_no_original_is_undeliverable_with_a_reason() {
    let office = Office::new();
    let plain = "From: ann@fabrikam.example\nTo: forward@fabrikam.example\nSubject: plain\nMessage-ID: <p@x>\n\nhello\n";
    let inline = "From: ann@fabrikam.example\nTo: forward@fabrikam.example\nSubject: inline\nMessage-ID: <i@x>\n\n\
                  Begin forwarded message:\n\n> From: Bob\n";
    let circle = wrapper("forward", &[original("ann@fabrikam.example", "x")]);
    let broken = wrapper("ann", &["Subject: nobody's\n\nx\n".to_owned()]);
    for message in [plain, inline, &circle, &broken] {
        office.put(message);
    }
    assert_eq!(office.pass().await, (0, 0, 4));
    assert_eq!(
        office.world.classes().await,
        ["no-attached-message", "forwarded-inline", "forward-loop", "no-attached-message"]
    );
    let reasons: Vec<String> = office.world.quarantine().await.into_iter().map(|q| q.reason).collect();
    assert!(reasons[0].contains("let the rule forward messages as attachments"), "{reasons:?}");
    assert!(reasons[2].contains("take the rule out of one of them"), "{reasons:?}");
    assert!(reasons[3].contains("neither From nor Message-ID"), "{reasons:?}");
    assert_eq!(office.world.crm.received(), [""; 0]);
    assert_eq!(office.left(), [""; 0], "moved to Undeliverable");
}

#[tokio::test(start_paused = true)]
async fn only_who_receives_by_forward_mailbox_may_forward() {
    let office = Office::new();
    office.world.crm.set_incoming(&office.ann.record, DeliveryMethod::EmailRouter);
    office.put(&wrapper("ann", &[original("ann@fabrikam.example", "one")]));
    assert_eq!(office.pass().await, (0, 0, 1));
    assert_eq!(office.world.classes().await, ["invalid-forward-mail-item"]);
    // a wrapper whose author is nobody we know, as some systems write it: the recipients decide
    office.world.crm.set_incoming(&office.ann.record, DeliveryMethod::ForwardMailbox);
    office.put(&wrapper("rules", &[original("ann@fabrikam.example", "two")]));
    assert_eq!(office.pass().await, (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_wrapper_waits_until_all_its_originals_are_settled() {
    let office = Office::new();
    office.put(&wrapper(
        "ann",
        &[original("ann@fabrikam.example", "one"), original("ann@fabrikam.example", "two")],
    ));
    // the second delivery fails after it took effect: nobody knows
    office
        .world
        .crm
        .fail_next("deliver_incoming", 1, true, || CrmError::new(CrmErrorKind::Unreachable, "gone"));
    let (_, result) = office.world.try_pass(&office.route()).await;
    assert!(result.is_err());
    assert_eq!(office.left().len(), 1, "the wrapper is untouched");
    tokio::time::advance(std::time::Duration::from_secs(3600)).await;
    assert_eq!(office.pass().await, (1, 0, 0));
    assert_eq!(office.world.crm.received(), ["one", "two"], "each once");
    assert_eq!(office.left(), [""; 0]);
    assert_eq!(office.world.classes().await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn an_original_refused_for_good_does_not_take_the_others_with_it() {
    let office = Office::new();
    office.put(&wrapper(
        "ann",
        &[original("ann@fabrikam.example", "bad"), original("ann@fabrikam.example", "good")],
    ));
    office.world.crm.fail_next("deliver_incoming", 1, false, || {
        CrmError::new(CrmErrorKind::Invalid, "a plug-in says no")
    });
    assert_eq!(office.pass().await, (0, 0, 1));
    assert_eq!(office.world.crm.received(), ["good"]);
    let [item] = &office.world.quarantine().await[..] else { panic!() };
    assert!(item.reason.contains("bad") && item.reason.contains("a plug-in says no"), "{}", item.reason);
    // tried again by hand, the rest follows
    let parts = office.world.parts(&Life::until(Point::Never));
    let context = MailboxContext::new(&office.forward.mailbox, None);
    let raw = RawMessage::new(
        wrapper("ann", &[original("ann@fabrikam.example", "bad"), original("ann@fabrikam.example", "good")])
            .replace('\n', "\r\n")
            .into_bytes(),
    );
    let view = office.world.view().await;
    let settings = IncomingSettings::default();
    let routed = parts.route_one(&view, &context, &settings, &raw, false, true).await.unwrap();
    assert_eq!((routed.record.verdict, routed.record.attached.len()), (Verdict::Deliver, 2), "a dry run");
    assert_eq!(office.world.crm.received(), ["good"]);
    let routed = parts.route_one(&view, &context, &settings, &raw, false, false).await.unwrap();
    assert_eq!(routed.record.verdict, Verdict::Deliver);
    assert_eq!(office.world.crm.received(), ["bad", "good"]);
}

#[tokio::test(start_paused = true)]
async fn killed_anywhere_each_original_is_there_once() {
    for step in 0..200 {
        let office = Office::new();
        office.put(&wrapper(
            "ann",
            &[original("ann@fabrikam.example", "one"), original("ben@fabrikam.example", "two")],
        ));
        let killed = office.world.killed_pass(&office.route(), &Life::until(Point::Number(step))).await;
        tokio::time::advance(std::time::Duration::from_secs(3600)).await;
        office.pass().await;
        assert_eq!(office.world.crm.received(), ["one", "two"], "killed at call {step}");
        assert_eq!(office.left(), [""; 0], "killed at call {step}");
        if !killed {
            assert!(step > 5, "the pass has more steps than that");
            return;
        }
    }
    panic!("the pass never ends");
}
