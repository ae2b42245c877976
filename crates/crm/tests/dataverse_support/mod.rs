//! An organization of the test kit's server as a fixture.
#![allow(dead_code, clippy::unwrap_used)] // each test binary uses a part; helpers of tests may panic

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use email_router_auth::Credentials;
use email_router_crm::conformance::{Fixture, Seed};
use email_router_crm::dataverse::{DataverseCrm, DataverseSettings};
use email_router_crm::{CrmClient, EmailStatus, OrganizationSettings, RecipientReport, Result};
use email_router_http::{HttpClient, HttpSettings, Login, Proxy, Scheme};
use email_router_model::{ActivityId, Clock, ManualClock, RecordRef, SeededEntropy, Timestamp};
use email_router_testkit::dataverse::{DataverseServer, TOKEN};
use serde_json::{Value, json};
use uuid::Uuid;

pub(crate) struct World {
    pub(crate) server: DataverseServer,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) settings: Mutex<DataverseSettings>,
    crm: Mutex<Option<DataverseCrm>>,
    pub(crate) folder: tempfile::TempDir,
}

impl World {
    /// An empty organization, and a client that is not connected yet.
    pub(crate) async fn new() -> Self {
        let server = DataverseServer::start().await;
        let clock = Arc::new(ManualClock::new("2026-03-01T08:00:00Z".parse().unwrap()));
        let of_server = Arc::clone(&clock);
        server.set_clock(move || of_server.now().to_string());
        let folder = tempfile::tempdir().unwrap();
        let mut settings = settings(&server, folder.path().join("mirror.db"), TOKEN);
        settings.clock = clock.clone();
        settings.entropy = Arc::new(SeededEntropy::new(7));
        Self { server, clock, settings: Mutex::new(settings), crm: Mutex::default(), folder }
    }

    /// The same, connected.
    pub(crate) async fn connected() -> Self {
        let world = Self::new().await;
        world.reconnect().await.unwrap();
        world
    }

    pub(crate) async fn reconnect(&self) -> Result<DataverseCrm> {
        let settings = self.settings.lock().unwrap().clone();
        let crm = DataverseCrm::connect(settings).await?;
        *self.crm.lock().unwrap() = Some(crm.clone());
        Ok(crm)
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut DataverseSettings)) {
        change(&mut self.settings.lock().unwrap());
    }

    pub(crate) fn client(&self) -> DataverseCrm {
        self.crm.lock().unwrap().clone().unwrap()
    }

    pub(crate) async fn refreshed(&self, table: &str, id: String) -> Result<RecordRef> {
        self.client().refresh().await?;
        Ok(RecordRef::new(table, Uuid::parse_str(&id).unwrap()))
    }
}

/// This server by a token, as the router would ask it.
pub(crate) fn settings(
    server: &DataverseServer,
    mirror: std::path::PathBuf,
    token: &str,
) -> DataverseSettings {
    let mut http = HttpSettings::default();
    http.proxy = Proxy::None;
    http.allow_cleartext_password = true;
    let login = Login { scheme: Scheme::Bearer, credentials: Credentials::bearer("router", token.into()) };
    let mut settings = DataverseSettings::new(
        server.base().parse().unwrap(),
        Arc::new(HttpClient::new(http).unwrap()),
        Arc::new(login),
        mirror,
    );
    settings.mirror_period = Duration::from_secs(3600);
    settings
}

fn written(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(";"),
        other => other.to_string(),
    }
}

fn set_of(table: &str) -> &'static str {
    match table {
        "systemuser" => "systemusers",
        "queue" => "queues",
        "contact" => "contacts",
        "account" => "accounts",
        other => panic!("a fixture for {other}"),
    }
}

pub(crate) fn bind(record: &RecordRef) -> String {
    format!("/{}({})", set_of(&record.table), record.id)
}

#[async_trait]
impl Fixture for World {
    fn crm(&self) -> Arc<dyn CrmClient> {
        Arc::new(self.client())
    }
    fn now(&self) -> Timestamp {
        self.clock.now()
    }
    fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }
    async fn add_user(&self, name: &str, address: &str, approved: bool) -> Result<RecordRef> {
        let id = self.server.add_user(name, address, approved);
        self.refreshed("systemuser", id).await
    }
    async fn add_queue(&self, name: &str, address: &str) -> Result<RecordRef> {
        let id = self.server.add_queue(name, address);
        self.refreshed("queue", id).await
    }
    async fn add_contact(&self, name: &str, address: &str) -> Result<RecordRef> {
        let id = self.server.create("contacts", json!({ "lastname": name, "emailaddress1": address }));
        self.refreshed("contact", id).await
    }
    async fn disable(&self, record: &RecordRef) -> Result<()> {
        let change = if record.table == "systemuser" {
            json!({ "isdisabled": true })
        } else {
            json!({ "statecode": 1 })
        };
        self.server.update(set_of(&record.table), &record.id.to_string(), change);
        self.client().refresh().await
    }
    async fn take_from_router(&self, record: &RecordRef) -> Result<()> {
        let change = json!({ "outgoingemaildeliverymethod": 0 });
        self.server.update(set_of(&record.table), &record.id.to_string(), change);
        Ok(())
    }
    async fn set_settings(&self, settings: &OrganizationSettings) -> Result<()> {
        let Ok(Value::Object(all)) = serde_json::to_value(settings) else { panic!("settings") };
        let organization =
            self.server.row("organizations", email_router_testkit::dataverse::ORGANIZATION).unwrap();
        let (mut columns, mut switches, mut ours) = (json!({}), String::new(), Vec::new());
        for (name, value) in all {
            let text = written(&value);
            if organization.contains_key(&name) || name == "hashfilterkeywords" || name.starts_with("require")
            {
                columns[name] = if value.is_array() { json!(text) } else { value };
            } else if name.contains(char::is_uppercase) {
                switches.push_str(&format!("<{name}>{text}</{name}>"));
            } else {
                ours.push((name, text)); // what Dataverse does not keep is a setting of the deployment
            }
        }
        columns["orgdborgsettings"] = json!(format!("<OrgSettings>{switches}</OrgSettings>"));
        self.server.set_organization(columns);
        let defaults = serde_json::to_value(OrganizationSettings::default()).unwrap();
        ours.retain(|(name, text): &(String, String)| written(&defaults[name.as_str()]) != *text);
        let changed = self.settings.lock().unwrap().organization_settings != ours;
        if changed {
            self.change(|settings| settings.organization_settings = ours);
            return self.reconnect().await.map(drop);
        }
        // who has a client already sees it, too
        self.client().refresh().await
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
            self.server.create(
                "activitymimeattachments",
                json!({
                    "objectid_email@odata.bind": format!("/emails({id})"), "filename": file.file_name, "mimetype": file.mime_type,
                    "attachmentcontentid": file.content_id, "attachmentnumber": n + 1, "body": body,
                }),
            );
        }
        self.server.update("emails", &id, json!({ "statecode": 1, "statuscode": 6 }));
        self.client().refresh().await?;
        Ok(ActivityId::from_uuid(Uuid::parse_str(&id).unwrap()))
    }
    async fn delete_email(&self, id: ActivityId) -> Result<bool> {
        assert!(self.server.delete("emails", &id.to_string()));
        Ok(true)
    }
    fn finds_what_was_deleted_lately(&self) -> bool {
        true
    }
    fn resolves_similar_parties(&self) -> bool {
        false
    }
    async fn queue_items(&self, queue: &RecordRef) -> Result<Vec<ActivityId>> {
        let rows = self.server.rows("queueitems").into_iter();
        let of_queue = rows.filter(|row| row["queueid"]["id"] == queue.id.to_string());
        Ok(of_queue
            .filter_map(|row| Uuid::parse_str(row["objectid"]["id"].as_str()?).ok())
            .map(ActivityId::from_uuid)
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
