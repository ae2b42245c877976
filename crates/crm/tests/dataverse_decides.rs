//! Dataverse where the CRM decides passes the suite of every CRM, over the Web API and over SOAP; and what only this mode has.
#![cfg(all(feature = "conformance", feature = "dataverse"))]
#![allow(clippy::unwrap_used)] // helpers of tests, which may panic

mod dataverse_support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use dataverse_support::{bind, settings};
use email_router_crm::conformance::{Decides, Fixture, Seed, run};
use email_router_crm::dataverse::{DataverseSettings, Endpoint, ServerDecides};
use email_router_crm::{
    Claim, CorrelationMethod, CrmClient, Delivered, EmailStatus, ErrorKind, IncomingCheck, IncomingEmail,
    OrganizationSettings, ParticipationType, Party, PendingQuery, Priority, ReasonCode, RecipientReport,
    Result, SendOutcome, SmartHashes, Verdict,
};
use email_router_model::{
    ActivityId, Classified as _, Clock, Direction, ManualClock, MessageId, RecordRef, Retry, Scope,
    SeededEntropy, Timestamp,
};
use email_router_testkit::dataverse::{DataverseServer, Fault, ORGANIZATION, TOKEN};
use serde_json::{Value, json};
use uuid::Uuid;

struct World {
    server: DataverseServer,
    clock: Arc<ManualClock>,
    settings: DataverseSettings,
    crm: Mutex<Option<ServerDecides>>,
    _folder: tempfile::TempDir,
}

impl World {
    async fn new(endpoint: Endpoint) -> Self {
        let server = DataverseServer::start().await;
        server.set_organization(json!({ "emailconnectionchannel": 1 }));
        let clock = Arc::new(ManualClock::new("2026-03-01T08:00:00Z".parse().unwrap()));
        let of_server = Arc::clone(&clock);
        server.set_clock(move || of_server.now().to_string());
        let folder = tempfile::tempdir().unwrap();
        let mut settings = settings(&server, folder.path().join("mirror.db"), TOKEN);
        settings.clock = clock.clone();
        settings.entropy = Arc::new(SeededEntropy::new(7));
        settings.endpoint = endpoint;
        let world = Self { server, clock, settings, crm: Mutex::default(), _folder: folder };
        world.reconnect().await;
        world
    }

    /// As after a crash: what was not written down is forgotten.
    async fn reconnect(&self) -> ServerDecides {
        let crm = ServerDecides::connect(self.settings.clone()).await.unwrap();
        *self.crm.lock().unwrap() = Some(crm.clone());
        crm
    }

    fn client(&self) -> ServerDecides {
        self.crm.lock().unwrap().clone().unwrap()
    }

    /// What DeliverIncomingEmail is called in the list of requests.
    fn called(&self, message: &str) -> usize {
        self.server.requests().iter().filter(|request| request.contains(message)).count()
    }

    async fn ann(&self) -> RecordRef {
        self.add_user("Ann", "ann@fabrikam.example", true).await.unwrap()
    }

    async fn pending(&self, sender: &RecordRef) -> Vec<email_router_crm::PendingEmail> {
        let query = PendingQuery {
            senders: vec![sender.clone()],
            per_sender: 10,
            now: self.now(),
            stale_after: Duration::from_secs(1800),
        };
        self.client().pending_outgoing(&query).await.unwrap()
    }
}

fn record(table: &str, id: &str) -> RecordRef {
    RecordRef::new(table, Uuid::parse_str(id).unwrap())
}

fn set_of(table: &str) -> &'static str {
    match table {
        "systemuser" => "systemusers",
        "queue" => "queues",
        _ => "contacts",
    }
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(";"),
        other => other.to_string(),
    }
}

#[async_trait]
impl Fixture for World {
    fn crm(&self) -> Arc<dyn CrmClient> {
        Arc::new(self.client())
    }
    fn decides(&self) -> Decides {
        Decides::Crm
    }
    fn now(&self) -> Timestamp {
        self.clock.now()
    }
    fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }
    async fn add_user(&self, name: &str, address: &str, approved: bool) -> Result<RecordRef> {
        Ok(record("systemuser", &self.server.add_user(name, address, approved)))
    }
    async fn add_queue(&self, name: &str, address: &str) -> Result<RecordRef> {
        Ok(record("queue", &self.server.add_queue(name, address)))
    }
    async fn add_contact(&self, name: &str, address: &str) -> Result<RecordRef> {
        let body = json!({ "lastname": name, "emailaddress1": address });
        Ok(record("contact", &self.server.create("contacts", body)))
    }
    async fn disable(&self, record: &RecordRef) -> Result<()> {
        let change = match record.table.as_str() {
            "systemuser" => json!({ "isdisabled": true }),
            _ => json!({ "statecode": 1 }),
        };
        self.server.update(set_of(&record.table), &record.id.to_string(), change);
        Ok(())
    }
    async fn take_from_router(&self, record: &RecordRef) -> Result<()> {
        let change = json!({ "outgoingemaildeliverymethod": 0 });
        self.server.update(set_of(&record.table), &record.id.to_string(), change);
        Ok(())
    }
    async fn set_settings(&self, settings: &OrganizationSettings) -> Result<()> {
        let Ok(Value::Object(all)) = serde_json::to_value(settings) else { panic!("settings") };
        let there = self.server.row("organizations", ORGANIZATION).unwrap();
        let (mut columns, mut switches) = (json!({}), String::new());
        for (name, value) in all {
            let text = text_of(&value);
            if there.contains_key(&name) || name == "hashfilterkeywords" || name.starts_with("require") {
                columns[name] = if value.is_array() { json!(text) } else { value };
            } else if name.contains(char::is_uppercase) {
                switches.push_str(&format!("<{name}>{text}</{name}>"));
            }
        }
        columns["orgdborgsettings"] = json!(format!("<OrgSettings>{switches}</OrgSettings>"));
        self.server.set_organization(columns);
        Ok(())
    }
    async fn send(&self, seed: &Seed) -> Result<ActivityId> {
        let priority = seed.priority.code();
        let mut email = json!({
            "subject": seed.subject, "description": "<p>body</p>", "mimetype": "text/html", "directioncode": true,
            "prioritycode": priority, "deliveryprioritycode": priority,
            "email_activity_parties": [
                { "participationtypemask": 1, format!("partyid_{}@odata.bind", seed.from.table): bind(&seed.from) },
                { "participationtypemask": 2, format!("partyid_{}@odata.bind", seed.to.table): bind(&seed.to) },
            ],
        });
        if let Some(parent) = seed.in_reply_to {
            email["parentactivityid@odata.bind"] = json!(format!("/emails({parent})"));
        }
        if let Some(until) = seed.delay_until {
            email["delayedemailsendtime"] = json!(until.to_string());
        }
        let id = self.server.create("emails", email);
        for (n, file) in seed.attachments.iter().enumerate() {
            let body = base64::prelude::BASE64_STANDARD.encode(&file.content);
            let row = json!({
                "objectid_email@odata.bind": format!("/emails({id})"), "filename": file.file_name,
                "mimetype": file.mime_type, "attachmentcontentid": file.content_id, "attachmentnumber": n + 1, "body": body,
            });
            self.server.create("activitymimeattachments", row);
        }
        self.server.update("emails", &id, json!({ "statecode": 1, "statuscode": 6 }));
        Ok(ActivityId::from_uuid(Uuid::parse_str(&id).unwrap()))
    }
    async fn delete_email(&self, id: ActivityId) -> Result<bool> {
        Ok(self.server.delete("emails", &id.to_string()))
    }
    async fn queue_items(&self, queue: &RecordRef) -> Result<Vec<ActivityId>> {
        let rows = self.server.rows("queueitems").into_iter();
        let of_queue = rows.filter(|row| row["queueid"]["id"] == queue.id.to_string());
        Ok(of_queue
            .map(|row| ActivityId::from_uuid(row["objectid"]["id"].as_str().unwrap().parse().unwrap()))
            .collect())
    }
    async fn reported(&self, id: ActivityId) -> Result<Vec<RecipientReport>> {
        self.client().reported(&id).await
    }
    async fn status(&self, id: ActivityId) -> Result<EmailStatus> {
        let row = self.server.row("emails", &id.to_string()).unwrap();
        Ok(EmailStatus::from_code(u8::try_from(row["statuscode"].as_u64().unwrap()).unwrap()).unwrap())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_passes_the_suite_over_the_web_api() {
    run(|| World::new(Endpoint::WebApi)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_passes_the_suite_over_soap() {
    run(|| World::new(Endpoint::OrganizationService)).await;
}

const ENDPOINTS: [Endpoint; 2] = [Endpoint::WebApi, Endpoint::OrganizationService];

fn incoming(crm: &ServerDecides, message_id: &str) -> IncomingEmail {
    let message_id = MessageId::parse(message_id).unwrap();
    let party = |participation, address: &str| Party {
        participation,
        record: None,
        address: Some(address.parse().unwrap()),
        name: None,
    };
    IncomingEmail {
        activity_id: ActivityId::derive(&crm.organization_id(), Direction::Incoming, message_id.as_str()),
        message_id: Some(message_id),
        in_reply_to: None,
        references: Vec::new(),
        conversation_index: None,
        subject: "Größe <&> ]]> \u{1} 'x'".to_owned(),
        body: "<p>a\r\nb</p>".to_owned(),
        body_mime_type: "text/html".to_owned(),
        parties: vec![
            party(ParticipationType::Sender, "bob@contoso.example"),
            party(ParticipationType::To, "ann@fabrikam.example"),
        ],
        regarding: None,
        correlated_activity: None,
        parent_activity: None,
        correlation_method: CorrelationMethod::None,
        tracking_token: None,
        owner: None,
        queues: Vec::new(),
        accepting: None,
        receiving: None,
        submitted_by: Some("ann@fabrikam.example".parse().unwrap()),
        is_duplicate_sender_unresolved: false,
        received_on: None,
        sent_on: None,
        priority: Priority::Normal,
        attachments: Vec::new(),
        removed_parts: Vec::new(),
        text_body: None,
        category: None,
        subcategory: None,
        conversation_id: None,
        smart: SmartHashes::default(),
        new_sender: None,
    }
}

/// The server delivers, and its answer is lost: whoever asks again finds that out, also after a crash, and nothing is there twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_to_a_delivery_makes_no_second_email() {
    for endpoint in ENDPOINTS {
        for crash in [false, true] {
            let world = World::new(endpoint).await;
            let email = incoming(&world.client(), "<m1@x>");
            assert!(!world.client().exists(&email.activity_id).await.unwrap());
            world.server.plan("POST", "DeliverIncomingEmail", 1, Fault::Lost);
            let error = world.client().deliver_incoming(email.clone()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
            assert_eq!(world.called("DeliverIncomingEmail"), 1, "what may have happened is not repeated");
            let crm = if crash { world.reconnect().await } else { world.client() };
            assert!(crm.exists(&email.activity_id).await.unwrap());
            assert_eq!(crm.deliver_incoming(email).await.unwrap(), Delivered::AlreadyThere);
            assert_eq!((world.called("DeliverIncomingEmail"), world.server.rows("emails").len()), (1, 1));
        }
        // nothing happened: then it is delivered
        let world = World::new(endpoint).await;
        let email = incoming(&world.client(), "<m1@x>");
        world.server.plan("POST", "DeliverIncomingEmail", 1, Fault::Cut);
        assert!(world.client().deliver_incoming(email.clone()).await.is_err());
        assert!(!world.client().exists(&email.activity_id).await.unwrap());
        assert_eq!(world.client().deliver_incoming(email.clone()).await.unwrap(), Delivered::Created);
        let row = &world.server.rows("emails")[0];
        // a character that XML cannot have is left out over SOAP
        let subject = match endpoint {
            Endpoint::OrganizationService => email.subject.replace('\u{1}', ""),
            _ => email.subject.clone(),
        };
        assert_eq!((&row["subject"], row["directioncode"].as_bool()), (&json!(subject), Some(false)));
    }
}

/// Two routers: what the server handed out to one the other does not get; what one left behind the other takes after a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_is_handed_out_once() {
    for endpoint in ENDPOINTS {
        let world = World::new(endpoint).await;
        let ann = world.ann().await;
        let bob = world.add_contact("Bob", "bob@contoso.example").await.unwrap();
        let id = world.send(&Seed::new(&ann, &bob, "Quote")).await.unwrap();
        let listed = world.pending(&ann).await;
        assert_eq!((listed.len(), listed[0].activity_id), (1, id));
        assert_eq!(world.status(id).await.unwrap(), EmailStatus::Sending);
        assert_eq!(world.pending(&ann).await, listed, "handed out and claimed by nobody");
        // the router ends before it claims
        let again = world.reconnect().await;
        assert_eq!(again.claim(&listed[0]).await.unwrap(), Claim::Lost);
        assert_eq!(world.pending(&ann).await, []);
        world.advance(Duration::from_secs(1801));
        let stale = world.pending(&ann).await;
        assert_eq!((stale.len(), stale[0].stale, stale[0].delivery_attempts), (1, true, 0));
        assert_eq!(again.claim(&stale[0]).await.unwrap(), Claim::Taken { attempt: 1 });
    }
}

/// Which way to Sent the server takes is found out, and remembered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sent_is_said_in_the_way_that_the_server_takes() {
    for endpoint in ENDPOINTS {
        let world = World::new(endpoint).await;
        let ann = world.ann().await;
        let bob = world.add_contact("Bob", "bob@contoso.example").await.unwrap();
        let ids = [
            world.send(&Seed::new(&ann, &bob, "a")).await.unwrap(),
            world.send(&Seed::new(&ann, &bob, "b")).await.unwrap(),
        ];
        for listed in world.pending(&ann).await {
            world.client().claim(&listed).await.unwrap();
        }
        // the status alone is refused once, and the message wants a draft
        let (method, part) = match endpoint {
            Endpoint::OrganizationService => ("POST", "SetState"),
            _ => ("PATCH", "emails("),
        };
        let words = "the status of a completed e-mail cannot be changed";
        let refusal = match endpoint {
            Endpoint::OrganizationService => soap_fault(-2_147_220_941, words, ""),
            _ => Fault::error(400, 0x8004_0233, words),
        };
        world.server.plan(method, part, 1, refusal);
        for id in ids {
            let outcome = SendOutcome::Sent { at: world.now(), refused: Vec::new() };
            world.client().finish(&id, &outcome).await.unwrap();
            assert_eq!(world.status(id).await.unwrap(), EmailStatus::Sent);
        }
        assert_eq!(
            world.called("SendEmail") - world.called("BackgroundSendEmail"),
            4,
            "each is said by the message, and wants a draft first"
        );
    }
}

fn soap_fault(code: i32, words: &str, details: &str) -> Fault {
    let body = format!(
        "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body><s:Fault><faultcode>s:Server</faultcode><faultstring>{words}</faultstring>\
         <detail><OrganizationServiceFault xmlns=\"http://schemas.microsoft.com/xrm/2011/Contracts\"><ErrorCode>{code}</ErrorCode><ErrorDetails \
         xmlns:b=\"http://schemas.datacontract.org/2004/07/System.Collections.Generic\">{details}</ErrorDetails><Message>{words}</Message>\
         </OrganizationServiceFault></detail></s:Fault></s:Body></s:Envelope>"
    );
    Fault::Answer(500, Vec::new(), body)
}

/// An organization with server-side synchronization refuses the router's messages: at connect time, and when somebody changes it later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_side_synchronization_is_refused_clearly() {
    for endpoint in ENDPOINTS {
        let world = World::new(endpoint).await;
        let check = IncomingCheck {
            message_id: MessageId::parse("<m1@x>").unwrap(),
            subject: String::new(),
            from: "bob@contoso.example".parse().unwrap(),
            to: vec!["ann@fabrikam.example".parse().unwrap()],
            cc: Vec::new(),
            bcc: Vec::new(),
        };
        world.server.set_organization(json!({ "emailconnectionchannel": 0 }));
        let error = world.client().check_incoming(&check).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.retry(), error.scope()),
            (ErrorKind::Refused, Retry::Never, Scope::Server)
        );
        assert!(error.to_string().contains("0x8005e246 (-2147098042)"), "{error}");
        assert!(error.hint().unwrap().contains("set EmailProcessing"), "{error}");
        assert_eq!(world.called("CheckIncomingEmail"), 1, "not repeated");
        let error = ServerDecides::connect(world.settings.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.hint().unwrap().contains("EmailProcessing"), "{error}");
    }
}

/// The limits of service protection, as a fault says them (11.3).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_that_asks_for_a_pause_is_obeyed() {
    let world = World::new(Endpoint::OrganizationService).await;
    let details = "<b:KeyValuePairOfstringanyType><b:key>Retry-After</b:key><b:value>00:05:00</b:value></b:KeyValuePairOfstringanyType>";
    world.server.plan(
        "POST",
        "soap/Retrieve",
        1,
        soap_fault(-2_147_015_902, "Number of requests exceeded the limit", details),
    );
    let error = world.client().settings().await.unwrap_err();
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::Busy, Retry::Later(Some(Duration::from_secs(300)))),
        "{error}"
    );
    world.server.forget_requests();
    let error = world.client().settings().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert_eq!(world.server.requests(), Vec::<String>::new(), "nobody asks before the time is over");
}

/// Tokens are counted for the sender where we may ask in its name, else for ourselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_right_to_act_for_others_tokens_are_ours() {
    for endpoint in ENDPOINTS {
        let world = World::new(endpoint).await;
        world.server.deny("prvActOnBehalfOfAnotherUser");
        let ann = world.ann().await;
        let bob = world.add_contact("Bob", "bob@contoso.example").await.unwrap();
        let mut tokens = Vec::new();
        for n in 0..2 {
            let id = world.send(&Seed::new(&ann, &bob, "x")).await.unwrap();
            let id_of = MessageId::parse(&format!("<{n}@r>")).unwrap();
            let email = world.client().prepare_outgoing(&id, &id_of, true).await.unwrap();
            tokens.push(email.tracking_token.unwrap());
        }
        assert_eq!(tokens, ["CRM:0001001", "CRM:0001002"]);
        assert_eq!(world.called("GetTrackingTokenEmail"), 3, "it is asked for once in her name");
    }
}

/// A list of recipients that no URL holds goes into a batch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_recipients_are_asked_about() {
    for endpoint in ENDPOINTS {
        let world = World::new(endpoint).await;
        world.ann().await;
        let mut to: Vec<_> =
            (0..300).map(|n| format!("o'person{n}@contoso.example").parse().unwrap()).collect();
        to.push("ann@fabrikam.example".parse().unwrap());
        let check = IncomingCheck {
            message_id: MessageId::parse("<m1@x>").unwrap(),
            subject: "100% #1 / 2 + 3?".to_owned(),
            from: "bob@contoso.example".parse().unwrap(),
            to,
            cc: Vec::new(),
            bcc: Vec::new(),
        };
        let verdict = world.client().check_incoming(&check).await.unwrap();
        assert_eq!(verdict, Verdict::Deliver(ReasonCode::AcceptAll));
        let batches = world.called("$batch");
        assert_eq!(batches, usize::from(endpoint == Endpoint::WebApi));
    }
}

/// What does not fit on a page is read on the next ones, by the server's cookie.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_lists_are_read_to_their_end() {
    for endpoint in ENDPOINTS {
        let world = World::new(endpoint).await;
        for n in 0..5100 {
            world.server.add_queue(&format!("Queue <{n}>"), &format!("q{n}@fabrikam.example"));
        }
        world.server.forget_requests();
        let all = world.client().mailboxes().await.unwrap();
        let names: std::collections::HashSet<_> = all.iter().map(|mailbox| mailbox.name.clone()).collect();
        assert!(names.contains("Queue <0>") && names.contains("Queue <5099>"));
        assert_eq!(all.iter().filter(|mailbox| mailbox.record.table == "queue").count(), 5100);
        assert_eq!(world.server.requests().len(), 4, "users, two pages of queues, forward mailboxes");
    }
}
