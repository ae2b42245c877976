//! Reading changes from an organization of the test kit.

use email_router_auth::Credentials;
use email_router_http::{HttpClient, HttpSettings, Login, Proxy, Scheme};
use email_router_model::{ActivityId, EmailAddress, ManualClock};
use email_router_testkit::dataverse::{DataverseServer, Fault, TOKEN};
use serde_json::json;

use super::tests::clock;
use super::*;
use crate::dataverse::tables::Tables;
use crate::dataverse::web_api::Session;
use crate::dataverse::{ApiVersion, DataverseSettings};
use crate::{EmailLookup, OrganizationSettings};

const DAY: Duration = Duration::from_secs(24 * 3600);

struct World {
    server: DataverseServer,
    clock: Arc<ManualClock>,
    session: Session,
    tables: Tables,
    mirror: Mirror,
    folder: tempfile::TempDir,
}

impl World {
    async fn new(prepare: impl FnOnce(&DataverseServer)) -> Self {
        Self::with(prepare, |_| {}).await
    }

    async fn with(
        prepare: impl FnOnce(&DataverseServer),
        change: impl FnOnce(&mut DataverseSettings),
    ) -> Self {
        let server = DataverseServer::start().await;
        let clock = clock();
        let of_server = Arc::clone(&clock);
        server.set_clock(move || of_server.now().to_string());
        prepare(&server);
        let folder = tempfile::tempdir().unwrap();
        let mut http = HttpSettings::default();
        http.proxy = Proxy::None;
        http.allow_cleartext_password = true;
        let login =
            Login { scheme: Scheme::Bearer, credentials: Credentials::bearer("router", TOKEN.into()) };
        let mut settings = DataverseSettings::new(
            server.base().parse().unwrap(),
            Arc::new(HttpClient::new(http).unwrap()),
            Arc::new(login),
            folder.path().join("mirror.db"),
        );
        settings.clock = clock.clone();
        change(&mut settings);
        let session = Session::new(settings, ApiVersion::new(9, 2)).unwrap();
        let tables = Tables::read(&session).await.unwrap();
        server.forget_requests();
        let mirror = Mirror::open(&folder.path().join("mirror.db"), clock.clone()).await.unwrap();
        Self { server, clock, session, tables, mirror, folder }
    }

    async fn sync(&self) -> Result<()> {
        self.mirror.sync(&self.session, &self.tables, &OrganizationSettings::default()).await
    }

    async fn restart(&mut self) {
        self.mirror = Mirror::open(&self.folder.path().join("mirror.db"), self.clock.clone()).await.unwrap();
    }

    async fn who_has(&self, address: &str) -> Vec<String> {
        let address: EmailAddress = address.parse().unwrap();
        let found = self.mirror.resolve(&[address]).await.unwrap();
        found[0].iter().map(|hit| format!("{} {}", hit.record.table, hit.name)).collect()
    }

    async fn emails(&self, ids: &[&str]) -> Vec<String> {
        let ids = ids.iter().map(|id| ActivityId::from_uuid(Uuid::parse_str(id).unwrap())).collect();
        let mut found = self.mirror.find_emails(&EmailLookup::Ids(ids), 100).await.unwrap();
        found.sort_by(|a, b| a.subject.cmp(&b.subject));
        found.into_iter().map(|email| email.subject).collect()
    }

    /// The requests for rows of a set since they were asked for the last time.
    fn asked(&self, set: &str) -> Vec<String> {
        let start = format!("GET {set}?");
        self.server.requests().into_iter().filter(|request| request.starts_with(&start)).collect()
    }
}

fn contact(name: &str, address: &str) -> serde_json::Value {
    json!({ "lastname": name, "emailaddress1": address })
}

#[tokio::test]
async fn all_tables_are_read_once_and_then_only_their_changes() {
    let world = World::new(|_| {}).await;
    let server = &world.server;
    server.add_user("Ann", "ann@fabrikam.example", true);
    server.add_queue("Help", "help@fabrikam.example");
    let bob = server.create(
        "contacts",
        json!({ "lastname": "Bob", "emailaddress1": "bob@contoso.example", "emailaddress3": "b@contoso.example" }),
    );
    server.create("accounts", json!({ "name": "Contoso", "emailaddress2": "Bob@Contoso.example" }));
    server.create("leads", json!({ "lastname": "Lea", "emailaddress1": "lea@contoso.example" }));
    let patient =
        server.create("new_patients", json!({ "new_name": "Pat", "new_email": "pat@contoso.example" }));
    world.sync().await.unwrap();
    assert_eq!(world.who_has("ANN@fabrikam.example").await, ["systemuser Ann"]);
    assert_eq!(world.who_has("help@fabrikam.example").await, ["queue Help"]);
    let mut both = world.who_has("bob@contoso.example").await;
    both.sort();
    assert_eq!(both, ["account Contoso", "contact Bob"]);
    assert_eq!(world.who_has("b@contoso.example").await, ["contact Bob"]);
    assert_eq!(world.who_has("lea@contoso.example").await, ["lead Lea"]);
    assert_eq!(world.who_has("pat@contoso.example").await, ["new_patient Pat"]);

    server.forget_requests();
    server.update("contacts", &bob, json!({ "emailaddress1": "bob@northwind.example" }));
    server.delete("new_patients", &patient);
    world.sync().await.unwrap();
    assert_eq!(world.who_has("bob@contoso.example").await, ["account Contoso"]);
    assert_eq!(world.who_has("bob@northwind.example").await, ["contact Bob"]);
    assert_eq!(world.who_has("pat@contoso.example").await, [] as [&str; 0]);
    for set in ["systemusers", "queues", "contacts", "accounts", "leads", "new_patients"] {
        let asked = world.asked(set);
        assert_eq!((asked.len(), asked[0].contains("deltatoken")), (1, true), "{asked:?}");
    }
}

#[tokio::test]
async fn when_the_token_for_changes_has_expired_all_is_read_and_what_is_gone_is_forgotten() {
    let world = World::new(|_| {}).await;
    let bob = world.server.create("contacts", contact("Bob", "bob@contoso.example"));
    world.server.create("contacts", contact("Eve", "eve@contoso.example"));
    world.sync().await.unwrap();
    world.server.delete("contacts", &bob);
    world.server.create("contacts", contact("New", "new@contoso.example"));
    world.server.expire_change_tokens();
    world.sync().await.unwrap();
    assert_eq!(world.who_has("bob@contoso.example").await, [] as [&str; 0]);
    assert_eq!(world.who_has("eve@contoso.example").await, ["contact Eve"]);
    assert_eq!(world.who_has("new@contoso.example").await, ["contact New"]);
    // and from then on changes again
    world.server.forget_requests();
    world.sync().await.unwrap();
    assert!(world.asked("contacts").iter().all(|request| request.contains("deltatoken")));
}

#[tokio::test]
async fn a_table_without_change_tracking_is_asked_by_time_and_read_anew_each_day() {
    // the organization's clock is not ours
    let world = World::new(|server| server.untrack("contact")).await;
    let behind = Arc::clone(&world.clock);
    world.server.set_clock(move || behind.now().saturating_sub(DAY / 2).unwrap().to_string());
    let bob = world.server.create("contacts", contact("Bob", "bob@contoso.example"));
    let eve = world.server.create("contacts", contact("Eve", "eve@contoso.example"));
    world.sync().await.unwrap();
    assert_eq!(world.who_has("bob@contoso.example").await, ["contact Bob"]);

    world.clock.advance(Duration::from_secs(3600));
    world.server.update("contacts", &bob, json!({ "emailaddress1": "bob@northwind.example" }));
    world.server.create("contacts", contact("New", "new@contoso.example"));
    world.server.delete("contacts", &eve);
    world.server.forget_requests();
    world.sync().await.unwrap();
    assert_eq!(world.who_has("bob@contoso.example").await, [] as [&str; 0]);
    assert_eq!(world.who_has("bob@northwind.example").await, ["contact Bob"]);
    assert_eq!(world.who_has("new@contoso.example").await, ["contact New"]);
    let asked = world.asked("contacts");
    assert_eq!((asked.len(), asked[0].contains("modifiedon")), (1, true), "{asked:?}");
    assert_eq!(
        world.who_has("eve@contoso.example").await,
        ["contact Eve"],
        "that one was deleted is not told"
    );

    world.clock.advance(DAY);
    world.sync().await.unwrap();
    assert_eq!(world.who_has("eve@contoso.example").await, [] as [&str; 0]);
    assert_eq!(world.who_has("bob@northwind.example").await, ["contact Bob"]);
}

#[tokio::test]
async fn what_changes_while_a_table_without_change_tracking_is_read_is_not_missed() {
    let mut world = World::new(|server| server.untrack("contact")).await;
    let first = world.server.create("contacts", contact("First", "first@contoso.example"));
    for n in 0..5000 {
        world.server.create("contacts", contact("C", &format!("c{n}@contoso.example")));
    }
    world.server.plan("GET", "skiptoken", 1, Fault::error(403, 0x8004_0220, "for now"));
    world.sync().await.unwrap_err();
    // hours later, with the first page read long ago
    world.clock.advance(Duration::from_secs(5 * 3600));
    world.server.update("contacts", &first, json!({ "emailaddress1": "moved@contoso.example" }));
    world.clock.advance(Duration::from_secs(5 * 3600));
    world.restart().await;
    world.sync().await.unwrap();
    world.sync().await.unwrap();
    assert_eq!(world.who_has("moved@contoso.example").await, ["contact First"]);
}

#[tokio::test]
async fn a_reading_that_was_interrupted_goes_on_where_it_was() {
    let mut world = World::new(|server| {
        for n in 0..5001 {
            server.create("contacts", contact("C", &format!("c{n}@contoso.example")));
        }
    })
    .await;
    world.server.plan("GET", "skiptoken", 1, Fault::error(403, 0x8004_0220, "for now"));
    let error = world.sync().await.unwrap_err();
    assert!(error.to_string().contains("contact"), "{error}");
    world.restart().await;
    world.server.forget_requests();
    world.sync().await.unwrap();
    let asked = world.asked("contacts");
    assert_eq!((asked.len(), asked[0].contains("skiptoken=5000")), (1, true), "{asked:?}");
    let contacts = world.mirror.size().await.unwrap().tables;
    let contacts = contacts.iter().find(|table| table.name == "contact").unwrap();
    assert_eq!((contacts.records, contacts.addresses), (5001, 5001));
}

#[tokio::test]
async fn a_table_that_may_not_be_read_does_not_stop_the_rest() {
    let world = World::new(|server| server.deny("prvReadnew_patient")).await;
    world.server.create("contacts", contact("Bob", "bob@contoso.example"));
    world.sync().await.unwrap();
    assert_eq!(world.who_has("bob@contoso.example").await, ["contact Bob"]);
    // without contacts every customer would be a stranger
    let world = World::new(|server| server.deny("prvReadContact")).await;
    let error = world.sync().await.unwrap_err();
    assert!(error.to_string().contains("prvReadContact"), "{error}");
}

fn sent(subject: &str, message_id: &str) -> serde_json::Value {
    json!({
        "subject": subject, "messageid": message_id, "directioncode": true, "statecode": 1, "statuscode": 3,
        "email_activity_parties": [
            { "participationtypemask": 1, "addressused": "ann@fabrikam.example" },
            { "participationtypemask": 2, "addressused": "bob@contoso.example" },
        ],
    })
}

#[tokio::test]
async fn emails_are_known_as_far_back_as_they_are_remembered_and_deleted_ones_until_all_are_read() {
    let world = World::with(|_| {}, |settings| settings.emails_remembered = 10 * DAY).await;
    let old = world.server.create("emails", sent("Old", "<old@x>"));
    world.clock.advance(6 * DAY);
    let middle = world.server.create("emails", sent("Middle offer", "<middle@x>"));
    world.clock.advance(5 * DAY);
    let new = world.server.create("emails", sent("New offer", "<new@x>"));
    world.sync().await.unwrap();
    let all = [old.as_str(), &middle, &new];
    assert_eq!(world.emails(&all).await, ["Middle offer", "New offer"]);
    let found = world
        .mirror
        .find_emails(
            &EmailLookup::MessageIds(vec![email_router_model::MessageId::parse("<new@x>").unwrap()]),
            5,
        )
        .await
        .unwrap();
    assert_eq!(found[0].parties.len(), 2);
    // hashed here, since Dataverse keeps no hashes of ours
    let hasher = crate::smart::SmartHasher::new(&OrganizationSettings::default());
    let addresses: Vec<EmailAddress> =
        ["ann@fabrikam.example", "bob@contoso.example"].iter().map(|text| text.parse().unwrap()).collect();
    assert_eq!(found[0].smart, hasher.hashes("New offer", &addresses));

    // changes only
    world.clock.advance(Duration::from_secs(3600));
    world.server.update("emails", &new, json!({ "trackingtoken": "CRM:0001001" }));
    world.server.forget_requests();
    world.sync().await.unwrap();
    let token = EmailLookup::TrackingToken("crm:0001001".to_owned());
    assert_eq!(world.mirror.find_emails(&token, 5).await.unwrap().len(), 1);
    assert!(world.asked("emails")[0].contains("modifiedon"));

    // a rebuild finds what was deleted; while it is under way all is answered
    world.server.delete("emails", &middle);
    world.sync().await.unwrap();
    assert_eq!(world.emails(&all).await, ["Middle offer", "New offer"]);
    world.mirror.rebuild().await.unwrap();
    assert_eq!(world.emails(&all).await, ["Middle offer", "New offer"]);
    world.sync().await.unwrap();
    assert_eq!(world.emails(&all).await, ["New offer"]);
    world.clock.advance(10 * DAY);
    world.sync().await.unwrap();
    assert_eq!(world.emails(&all).await, [] as [&str; 0]);
}

#[tokio::test]
async fn a_rebuild_that_cannot_read_leaves_the_old_answers() {
    let world = World::new(|_| {}).await;
    let bob = world.server.create("contacts", contact("Bob", "bob@contoso.example"));
    world.server.create("contacts", contact("Eve", "eve@contoso.example"));
    world.sync().await.unwrap();
    world.server.delete("contacts", &bob);
    world.mirror.rebuild().await.unwrap();
    world.server.plan("GET", "contacts", 1, Fault::error(403, 0x8004_0220, "for now"));
    world.sync().await.unwrap_err();
    assert_eq!(world.who_has("eve@contoso.example").await, ["contact Eve"]);
    world.sync().await.unwrap();
    assert_eq!(world.who_has("eve@contoso.example").await, ["contact Eve"]);
    assert_eq!(world.who_has("bob@contoso.example").await, [] as [&str; 0]);
}

#[tokio::test]
async fn another_routers_note_is_taken_from_the_column() {
    let world =
        World::with(|_| {}, |settings| settings.note_column = Some("new_routernote".to_owned())).await;
    let note = Note {
        changed_on: Some("2026-02-01T00:00:00Z".parse().unwrap()),
        conversation_id: Some("the mail system's".to_owned()),
        ..Note::default()
    };
    let mut row = sent("Offer", "<offer@x>");
    row["new_routernote"] = json!(note.to_json(4000));
    let id = world.server.create("emails", row);
    let mut row = sent("By a person", "<person@x>");
    row["new_routernote"] = json!("not a note");
    world.server.create("emails", row);
    world.sync().await.unwrap();
    let lookup = EmailLookup::ConversationId("the mail system's".to_owned());
    let found = world.mirror.find_emails(&lookup, 5).await.unwrap();
    assert_eq!(found.iter().map(|email| email.activity_id.to_string()).collect::<Vec<_>>(), [id]);
    assert_eq!(world.mirror.size().await.unwrap().notes, 1);
}

#[tokio::test]
async fn comparing_names_what_is_different() {
    let world = World::new(|_| {}).await;
    let bob = world.server.create("contacts", contact("Bob", "bob@contoso.example"));
    let eve = world.server.create("contacts", contact("Eve", "eve@contoso.example"));
    world.sync().await.unwrap();
    let same = world.mirror.verify(&world.session, &world.tables).await.unwrap();
    assert_eq!((same.compared, same.different), (2, 0), "{same:?}");
    world.server.update("contacts", &bob, json!({ "emailaddress1": "other@contoso.example" }));
    world.server.delete("contacts", &eve);
    let new = world.server.create("contacts", contact("New", "new@contoso.example"));
    let found = world.mirror.verify(&world.session, &world.tables).await.unwrap();
    assert_eq!((found.compared, found.different), (3, 3), "{found:?}");
    for id in [&bob, &eve, &new] {
        assert!(found.differences.iter().any(|d| d.record == format!("contact({id})")), "{found:?}");
    }
    world.sync().await.unwrap();
    assert_eq!(world.mirror.verify(&world.session, &world.tables).await.unwrap().different, 0);
}
