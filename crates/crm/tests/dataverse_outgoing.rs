//! What the suite of every CRM does not ask of outgoing mail on a Dataverse server: heavy senders, races of routers, lost answers, servers that refuse.
#![cfg(all(feature = "conformance", feature = "dataverse"))]
#![allow(clippy::unwrap_used)] // helpers of tests may panic

mod dataverse_support;

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use dataverse_support::World;
use email_router_crm::conformance::{Fixture, Seed};
use email_router_crm::dataverse::DataverseCrm;
use email_router_crm::{
    Attachment, Claim, CrmClient, DeliveryAction, DeliveryReport, EmailLookup, EmailStatus, ErrorKind,
    OutgoingEmail, PendingEmail, PendingQuery, RecipientReport, SendOutcome,
};
use email_router_model::{ActivityId, EmailAddress, MessageId, RecordRef};
use email_router_testkit::dataverse::Fault;
use tokio::task::JoinSet;

const HALF_AN_HOUR: Duration = Duration::from_secs(1800);

/// An organization with a user and a contact.
struct Scene {
    world: World,
    ann: RecordRef,
    bob: RecordRef,
}

impl Scene {
    async fn new() -> Self {
        Self::of(World::connected().await).await
    }

    async fn with_note_column() -> Self {
        let world = World::new().await;
        world.change(|settings| settings.note_column = Some("new_routernote".to_owned()));
        world.reconnect().await.unwrap();
        Self::of(world).await
    }

    async fn of(world: World) -> Self {
        let ann = world.add_user("Ann", "ann@fabrikam.example", true).await.unwrap();
        let bob = world.add_contact("Bob", "bob@contoso.example").await.unwrap();
        Self { world, ann, bob }
    }

    async fn send(&self, subject: &str) -> ActivityId {
        self.world.send(&Seed::new(&self.ann, &self.bob, subject)).await.unwrap()
    }

    /// So many that wait, each a second younger than the one before.
    fn pile(&self, sender: &RecordRef, count: usize) -> Vec<ActivityId> {
        let make = |n: usize| {
            self.world.clock.advance(Duration::from_secs(1));
            let email = serde_json::json!({
                "subject": n.to_string(), "directioncode": true, "statecode": 1, "statuscode": 6,
                "email_activity_parties": [
                    { "participationtypemask": 1, "partyid_systemuser@odata.bind": dataverse_support::bind(sender) },
                    { "participationtypemask": 2, "partyid_contact@odata.bind": dataverse_support::bind(&self.bob) },
                ],
            });
            self.world.server.create("emails", email).parse().map(ActivityId::from_uuid).unwrap()
        };
        (0..count).map(make).collect()
    }

    /// Another router, with a mirror of its own.
    async fn another(&self, name: &str) -> DataverseCrm {
        let mut settings = self.world.settings.lock().unwrap().clone();
        settings.mirror_file = self.world.folder.path().join(name);
        DataverseCrm::connect(settings).await.unwrap()
    }

    async fn pending(
        &self,
        crm: &DataverseCrm,
        senders: &[&RecordRef],
        per_sender: usize,
    ) -> Vec<PendingEmail> {
        let query = PendingQuery {
            senders: senders.iter().map(|sender| (*sender).clone()).collect(),
            per_sender,
            now: self.world.now(),
            stale_after: HALF_AN_HOUR,
        };
        crm.pending_outgoing(&query).await.unwrap()
    }

    /// The only one that waits, claimed.
    async fn claimed(&self, crm: &DataverseCrm) -> ActivityId {
        let listed = self.pending(crm, &[&self.ann], 10).await;
        assert_eq!(listed.len(), 1, "{listed:?}");
        assert!(matches!(crm.claim(&listed[0]).await.unwrap(), Claim::Taken { .. }));
        listed[0].activity_id
    }

    /// Requests whose method and target have all of these texts in them.
    fn asked(&self, parts: &[&str]) -> usize {
        let requests = self.world.server.requests();
        requests.iter().filter(|request| parts.iter().all(|part| request.contains(part))).count()
    }

    fn sent(&self) -> SendOutcome {
        SendOutcome::Sent { at: self.world.now(), refused: Vec::new() }
    }

    fn retry(&self, after: Duration) -> SendOutcome {
        let not_before = self.world.now().checked_add(after).unwrap();
        SendOutcome::Retry { not_before, reason: "451 later".to_owned() }
    }
}

async fn prepare(crm: &DataverseCrm, id: &ActivityId) -> OutgoingEmail {
    crm.prepare_outgoing(id, &message_id(id), true).await.unwrap()
}

fn message_id(id: &ActivityId) -> MessageId {
    MessageId::parse(&format!("<{id}@router.example>")).unwrap()
}

fn ids(listed: &[PendingEmail]) -> Vec<ActivityId> {
    listed.iter().map(|email| email.activity_id).collect()
}

#[tokio::test]
async fn a_heavy_sender_costs_no_more_than_a_page() {
    let scene = Scene::new().await;
    let world = &scene.world;
    let dan = world.add_user("Dan", "dan@fabrikam.example", true).await.unwrap();
    let eve = world.add_user("Eve", "eve@fabrikam.example", true).await.unwrap();
    let heavy = scene.pile(&scene.ann, 600);
    let mut light = Vec::new();
    for sender in [&dan, &eve, &dan] {
        world.clock.advance(Duration::from_secs(1));
        light.push(world.send(&Seed::new(sender, &scene.bob, "light")).await.unwrap());
    }
    world.server.forget_requests();
    let listed = scene.pending(&world.client(), &[&scene.ann, &dan, &eve], 5).await;
    let wanted: Vec<_> = heavy[..5].iter().chain(&[light[0], light[2], light[1]]).copied().collect();
    assert_eq!(ids(&listed), wanted);
    assert_eq!(scene.asked(&["GET emails?"]), 2, "{:?}", world.server.requests());
}

#[tokio::test]
async fn many_senders_cost_one_request_where_little_waits() {
    let scene = Scene::new().await;
    let mut senders = Vec::new();
    for n in 0..40 {
        let address = format!("user{n}@fabrikam.example");
        let id = scene.world.server.add_user(&format!("User {n}"), &address, true);
        senders.push(RecordRef::new("systemuser", id.parse().unwrap()));
    }
    let senders: Vec<&RecordRef> = senders.iter().collect();
    let (first, last) = (scene.pile(senders[0], 3), scene.pile(senders[39], 1));
    let wanted: Vec<_> = first.into_iter().chain(last).collect();
    // a user that is not asked about, and then more mail of it than a page holds
    let mut requests = Vec::new();
    for others in [1, 300] {
        scene.pile(&scene.ann, others);
        scene.world.server.forget_requests();
        assert_eq!(ids(&scene.pending(&scene.world.client(), &senders, 5).await), wanted);
        requests.push(scene.asked(&["GET emails?"]));
    }
    assert_eq!(requests, [1, 4]);
}

#[tokio::test]
async fn senders_are_found_by_the_party_where_emailsender_is_missing() {
    let world = World::new().await;
    world.server.rules(|rules| rules.no_email_sender = true);
    world.reconnect().await.unwrap();
    let scene = Scene::of(world).await;
    let dan = scene.world.add_user("Dan", "dan@fabrikam.example", true).await.unwrap();
    let of_ann = scene.send("Quote").await;
    let of_dan = scene.world.send(&Seed::new(&dan, &scene.bob, "Other")).await.unwrap();
    let crm = scene.world.client();
    assert_eq!(ids(&scene.pending(&crm, &[&scene.ann], 10).await), [of_ann]);
    assert_eq!(ids(&scene.pending(&crm, &[&dan, &scene.ann], 10).await), [of_dan, of_ann]);
    assert_eq!(scene.asked(&["emailsender"]), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_routers_one_takes_each_email() {
    let scene = Scene::new().await;
    let (ours, theirs) = (scene.world.client(), scene.another("theirs.db").await);
    for n in 0..10 {
        scene.send(&format!("Quote {n}")).await;
    }
    let listed = scene.pending(&ours, &[&scene.ann], 10).await;
    assert_eq!(scene.pending(&theirs, &[&scene.ann], 10).await, listed);
    let mut tasks = JoinSet::new();
    for (crm, email) in [&ours, &theirs].into_iter().flat_map(|crm| listed.iter().map(move |e| (crm, e))) {
        let (crm, email) = (crm.clone(), email.clone());
        tasks.spawn(async move { (email.activity_id, crm.claim(&email).await.unwrap()) });
    }
    let taken: Vec<_> = tasks.join_all().await;
    let taken: Vec<_> = taken.into_iter().filter(|(_, claim)| *claim != Claim::Lost).collect();
    assert_eq!(taken.len(), 10, "{taken:?}");
    assert_eq!(taken.iter().map(|(id, _)| *id).collect::<HashSet<_>>().len(), 10);
}

#[tokio::test]
async fn what_a_router_changes_itself_does_not_lose_its_claim() {
    let scene = Scene::new().await;
    let (ours, theirs) = (scene.world.client(), scene.another("theirs.db").await);
    let id = scene.send("Quote").await;
    let listed = scene.pending(&ours, &[&scene.ann], 10).await;
    prepare(&ours, &id).await;
    assert_eq!(theirs.claim(&listed[0]).await.unwrap(), Claim::Lost, "to them it is another version");
    assert_eq!(ours.claim(&listed[0]).await.unwrap(), Claim::Taken { attempt: 1 });
    assert_eq!(ours.claim(&listed[0]).await.unwrap(), Claim::Lost);
    // a change of somebody else between two of ours
    let id = scene.send("Quote 2").await;
    let listed = scene.pending(&ours, &[&scene.ann], 10).await;
    ours.prepare_outgoing(&id, &message_id(&id), false).await.unwrap();
    scene.world.server.update("emails", &id.to_string(), serde_json::json!({ "subject": "corrected" }));
    prepare(&ours, &id).await;
    assert_eq!(ours.claim(&listed[0]).await.unwrap(), Claim::Lost);
}

#[tokio::test]
async fn a_claim_whose_answer_is_lost_is_taken_up_again() {
    let scene = Scene::new().await;
    let crm = scene.world.client();
    let id = scene.send("Quote").await;
    let listed = scene.pending(&crm, &[&scene.ann], 10).await;
    scene.world.server.plan("PATCH", "emails(", 1, Fault::Lost);
    let error = crm.claim(&listed[0]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    assert_eq!(scene.world.status(id).await.unwrap(), EmailStatus::Sending);
    assert_eq!(scene.pending(&crm, &[&scene.ann], 10).await, []);
    scene.world.advance(HALF_AN_HOUR + Duration::from_secs(1));
    let listed = scene.pending(&crm, &[&scene.ann], 10).await;
    assert!(listed[0].stale && listed[0].activity_id == id, "{listed:?}");
    assert_eq!(crm.claim(&listed[0]).await.unwrap(), Claim::Taken { attempt: 2 });
}

#[tokio::test]
async fn an_end_whose_answer_is_lost_is_no_error() {
    let scene = Scene::new().await;
    let crm = scene.world.client();
    let id = scene.send("Quote").await;
    scene.claimed(&crm).await;
    scene.world.server.plan("PATCH", "emails(", 1, Fault::Lost);
    crm.finish(&id, &scene.retry(Duration::from_secs(60))).await.unwrap();
    assert_eq!(scene.world.status(id).await.unwrap(), EmailStatus::PendingSend);
    assert_eq!(scene.pending(&crm, &[&scene.ann], 10).await, [], "its time has not come");
    scene.world.advance(Duration::from_secs(61));
    scene.claimed(&crm).await;
    scene.world.server.plan("PATCH", "emails(", 1, Fault::Lost);
    crm.finish(&id, &scene.sent()).await.unwrap();
    assert_eq!(scene.world.status(id).await.unwrap(), EmailStatus::Sent);
    // what comes later does not take it back
    crm.finish(&id, &SendOutcome::Failed { reason: "550".to_owned() }).await.unwrap();
    assert_eq!(scene.world.status(id).await.unwrap(), EmailStatus::Sent);
}

#[tokio::test]
async fn an_end_does_not_take_an_email_from_who_claimed_it_meanwhile() {
    let scene = Scene::new().await;
    let crm = scene.world.client();
    let id = scene.send("Quote").await;
    scene.claimed(&crm).await;
    // the answer to our change is lost; before we ask again, another router has it
    scene.world.server.plan("PATCH", "emails(", 1, Fault::Lost);
    let finishing = tokio::spawn({
        let (crm, outcome) = (crm.clone(), scene.retry(Duration::ZERO));
        async move { crm.finish(&id, &outcome).await }
    });
    while scene.world.status(id).await.unwrap() != EmailStatus::PendingSend {
        tokio::task::yield_now().await;
    }
    let again = serde_json::json!({ "statuscode": 7, "deliveryattempts": 2 });
    scene.world.server.update("emails", &id.to_string(), again);
    finishing.await.unwrap().unwrap();
    assert_eq!(scene.world.status(id).await.unwrap(), EmailStatus::Sending);
}

#[tokio::test]
async fn where_sent_is_refused_the_message_for_it_is_used() {
    let scene = Scene::new().await;
    scene.world.server.rules(|rules| rules.refused_statuses = vec![3]);
    let crm = scene.world.client();
    for first in [true, false] {
        let id = scene.send("Quote").await;
        scene.claimed(&crm).await;
        prepare(&crm, &id).await;
        scene.world.server.forget_requests();
        crm.finish(&id, &scene.sent()).await.unwrap();
        assert_eq!(scene.world.status(id).await.unwrap(), EmailStatus::Sent);
        // the second time it is not tried in vain: only the way back to draft
        assert_eq!(scene.asked(&["PATCH emails("]), if first { 2 } else { 1 });
        crm.finish(&id, &scene.sent()).await.unwrap();
        assert_eq!(scene.world.status(id).await.unwrap(), EmailStatus::Sent);
    }
}

#[tokio::test]
async fn an_identity_that_the_crm_does_not_take_is_kept() {
    let scene = Scene::new().await;
    scene.world.server.rules(|rules| rules.refused_columns = vec!["messageid".to_owned()]);
    let crm = scene.world.client();
    let id = scene.send("Quote").await;
    let first = prepare(&crm, &id).await;
    assert_eq!(first.message_id, Some(message_id(&id)));
    let token = first.tracking_token.clone().unwrap();
    assert_eq!(first.subject, format!("Quote {token}"));
    assert_eq!(prepare(&crm, &id).await, first);
    crm.rebuild_mirror().await.unwrap();
    assert_eq!(crm.outgoing_email(&id).await.unwrap(), first);
    for lookup in
        [EmailLookup::MessageIds(vec![message_id(&id)]), EmailLookup::TrackingToken(token.to_lowercase())]
    {
        let found = crm.find_emails(&lookup, 10).await.unwrap();
        assert_eq!(found.len(), 1, "{lookup:?}");
        assert_eq!((found[0].activity_id, &found[0].subject), (id, &first.subject));
    }
}

#[tokio::test]
async fn a_deleted_party_is_a_fault_of_the_email() {
    let scene = Scene::new().await;
    let crm = scene.world.client();
    let id = scene.send("Quote").await;
    assert!(scene.world.server.delete("contacts", &scene.bob.id.to_string()));
    let error = crm.outgoing_email(&id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains(&scene.bob.id.to_string()), "{error}");
}

#[tokio::test]
async fn large_attachments_are_read_by_themselves() {
    let scene = Scene::new().await;
    let crm = scene.world.client();
    let mut seed = Seed::new(&scene.ann, &scene.bob, "Quote");
    for (n, size) in [3, 3 << 20, 0, 1 << 20].into_iter().enumerate() {
        seed.attachments.push(Attachment {
            file_name: format!("{n}.bin"),
            mime_type: "application/octet-stream".to_owned(),
            content_id: (n == 1).then(|| "inline@x".to_owned()),
            content: (0..size).map(|byte: u32| byte.to_le_bytes()[n % 2]).collect::<Vec<_>>().into(),
        });
    }
    let id = scene.world.send(&seed).await.unwrap();
    assert_eq!(crm.outgoing_email(&id).await.unwrap().attachment_bytes, 3 + (3 << 20) + (1 << 20));
    scene.world.server.forget_requests();
    assert!(crm.attachments(&id).await.unwrap() == seed.attachments);
    assert_eq!(scene.asked(&["/body/$value"]), 1);
    // nothing in place of a file is an error, not an empty file
    let nothing = Fault::Answer(200, Vec::new(), String::new());
    scene.world.server.plan("GET", "/body/$value", 1, nothing);
    let error = crm.attachments(&id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    scene.world.server.plan("GET", "/body/$value", 1, Fault::Answer(200, Vec::new(), "%%%%".to_owned()));
    let error = crm.attachments(&id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert_eq!(seed.attachments[2].content, Bytes::new());
}

async fn tokens(crms: &[DataverseCrm], emails: &[ActivityId]) -> HashSet<String> {
    let mut tasks = JoinSet::new();
    for (n, id) in emails.iter().enumerate() {
        let (crm, id) = (crms[n % crms.len()].clone(), *id);
        tasks.spawn(async move {
            // a colleague may be faster five times; the next turn of the router asks again
            loop {
                match crm.prepare_outgoing(&id, &message_id(&id), true).await {
                    Ok(email) => return email.tracking_token.unwrap(),
                    Err(error) if error.kind() == ErrorKind::Busy => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
    tasks.join_all().await.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routers_count_tokens_together() {
    let scene = Scene::new().await;
    let crms = [scene.world.client(), scene.another("theirs.db").await];
    let mut emails = Vec::new();
    for n in 0..12 {
        emails.push(scene.send(&format!("Quote {n}")).await);
    }
    assert_eq!(tokens(&crms, &emails).await.len(), 12);
    let settings = scene.world.server.row("usersettingscollection", &scene.ann.id.to_string()).unwrap();
    assert_eq!(settings["nexttrackingnumber"], 13);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_counting_is_refused_the_mirror_counts() {
    let scene = Scene::new().await;
    let crm = scene.world.client();
    let by_the_crm = scene.send("first").await;
    let mut all = tokens(std::slice::from_ref(&crm), &[by_the_crm]).await;
    scene.world.server.deny("prvWriteUserSettings");
    let mut emails = Vec::new();
    for n in 0..3 {
        emails.push(scene.send(&format!("Quote {n}")).await);
    }
    all.extend(tokens(&[crm], &emails).await);
    // none that is in use already
    assert_eq!(all.len(), 4, "{all:?}");
}

#[tokio::test]
async fn who_puts_an_email_in_doubt_back_has_decided() {
    for scene in [Scene::new().await, Scene::with_note_column().await] {
        let crm = scene.world.client();
        let id = scene.send("Quote").await;
        scene.claimed(&crm).await;
        crm.finish(&id, &SendOutcome::InDoubt { reason: "cut after DATA".to_owned() }).await.unwrap();
        scene.world.advance(2 * HALF_AN_HOUR);
        assert_eq!(scene.pending(&crm, &[&scene.ann], 10).await, []);
        scene.world.server.update("emails", &id.to_string(), serde_json::json!({ "statuscode": 6 }));
        assert_eq!(scene.claimed(&crm).await, id);
        // and what is left behind now is no doubt of then
        scene.world.advance(2 * HALF_AN_HOUR);
        assert_eq!(scene.claimed(&crm).await, id);
    }
}

#[tokio::test]
async fn routers_share_their_notes_in_the_column() {
    let scene = Scene::with_note_column().await;
    let (ours, theirs) = (scene.world.client(), scene.another("theirs.db").await);
    let id = scene.send("Quote").await;
    scene.claimed(&ours).await;
    ours.finish(&id, &scene.retry(Duration::from_secs(600))).await.unwrap();
    scene.world.advance(Duration::from_secs(590));
    assert_eq!(scene.pending(&theirs, &[&scene.ann], 10).await, []);
    scene.world.advance(Duration::from_secs(11));
    scene.claimed(&theirs).await;
    // both take reports in, at the same time by the clock, and none is lost
    let report = |name: &str, address: &str| DeliveryReport {
        activity_id: id,
        report: name.to_owned(),
        at: scene.world.now(),
        recipients: vec![RecipientReport {
            address: EmailAddress::parse(address).unwrap(),
            action: DeliveryAction::Delivered,
            status: None,
            diagnostic: None,
        }],
    };
    assert!(ours.record_delivery(&report("r1", "a@x.example")).await.unwrap());
    assert!(theirs.record_delivery(&report("r2", "b@x.example")).await.unwrap());
    assert!(!theirs.record_delivery(&report("r1", "a@x.example")).await.unwrap());
    assert!(ours.record_delivery(&report("r3", "c@x.example")).await.unwrap());
    for crm in [&ours, &theirs] {
        crm.refresh().await.unwrap();
        let mut addresses: Vec<_> =
            crm.reported(&id).await.unwrap().into_iter().map(|known| known.address.to_string()).collect();
        addresses.sort();
        assert_eq!(addresses, ["a@x.example", "b@x.example", "c@x.example"]);
    }
}
