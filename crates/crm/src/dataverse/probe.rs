//! The access test of an organization: asks for everything that the service will use, and changes nothing.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::Value;

use super::client::{negotiate, try_negotiate};
use super::decides::service::OrganizationService as _;
use super::organization::{Organization, OrganizationReader};
use super::records::directory;
use super::settings::{DataverseSettings, EmailProcessing, Endpoint};
use super::soap;
use super::tables::Tables;
use super::web_api::{Session, place};
use crate::{Approval, CrmMailbox, DeliveryMethod, Error};
use email_router_model::{Classified as _, MailboxKind};

/// What the access test found of an organization.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OrganizationReport {
    /// Host and path of the organization.
    pub place: String,
    /// In the order in which it was asked; the first that failed ends the test where nothing more can be asked.
    pub checks: Vec<OrganizationCheck>,
    /// Users, queues and forward mailboxes, where it came so far.
    #[serde(skip)]
    pub mailboxes: Vec<CrmMailbox>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OrganizationCheck {
    /// What.
    pub name: &'static str,
    /// How it stands.
    pub state: CheckState,
    /// In one sentence.
    pub text: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckState {
    /// As it should be.
    Passed,
    /// Routing works; something deserves a look.
    Warning,
    /// Routing does not work, wholly or for some mail.
    Failed,
}

impl OrganizationReport {
    /// Whether nothing failed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.state != CheckState::Failed)
    }

    fn add(&mut self, name: &'static str, state: CheckState, text: impl Into<String>, hint: Option<&str>) {
        let hint = hint.map(str::to_owned);
        self.checks.push(OrganizationCheck { name, state, text: text.into(), hint });
    }

    fn failed(&mut self, name: &'static str, error: &Error) {
        self.add(name, CheckState::Failed, error.to_string(), error.hint());
    }
}

/// Which privileges the router's user needs: table, and the types of privilege as metadata calls them.
const NEEDED: &[(&str, &[&str])] = &[
    ("organization", &["Read"]),
    ("systemuser", &["Read", "AppendTo"]),
    ("usersettings", &["Read"]),
    ("queue", &["Read", "AppendTo"]),
    ("mailbox", &["Read"]),
    ("contact", &["Read", "AppendTo"]),
    ("account", &["Read", "AppendTo"]),
    ("lead", &["Read", "AppendTo"]),
    ("email", &["Create", "Read", "Write", "Append", "AppendTo", "Assign"]),
    ("queueitem", &["Create", "Read"]),
];

/// Asks the organization as the service would.
pub(super) async fn probe(settings: &DataverseSettings) -> OrganizationReport {
    let mut report =
        OrganizationReport { place: place(&settings.url), checks: Vec::new(), mailboxes: Vec::new() };
    let session = match settings.endpoint {
        Endpoint::OrganizationService => Ok(None),
        Endpoint::WebApi => negotiate(settings).await.map(Some),
        Endpoint::Automatic => try_negotiate(settings).await,
    };
    let session = match session {
        Ok(Some(session)) => session,
        Ok(None) => {
            by_organization_service(&mut report, settings).await;
            return report;
        }
        Err(error) => {
            report.failed("connection", &error);
            return report;
        }
    };
    let version =
        session.base().path_segments().and_then(|parts| parts.rev().nth(1)).unwrap_or("?").to_owned();
    report.add("connection", CheckState::Passed, format!("reached and logged in; Web API {version}"), None);
    let organization = match identify(&session).await {
        Ok(organization) => organization,
        Err(error) => {
            report.failed("organization", &error);
            return report;
        }
    };
    match super::client::is_the_one(settings, &session, &organization) {
        Ok(()) => {
            let version = if organization.version.is_empty() { "unknown" } else { &organization.version };
            let text = format!("{}, version {version}", organization.unique_name);
            report.add("organization", CheckState::Passed, text, None);
        }
        Err(error) => report.failed("organization", &error),
    }
    channel(&mut report, settings, &organization);
    let tables = match Tables::read(&session).await {
        Ok(tables) => tables,
        Err(error) => {
            report.failed("metadata", &error);
            return report;
        }
    };
    metadata(&mut report, settings, &tables);
    match missing_privileges(&session, &organization).await {
        Ok(missing) if missing.is_empty() => {
            report.add("privileges", CheckState::Passed, "all that the router needs", None);
        }
        Ok(missing) => report.add(
            "privileges",
            CheckState::Failed,
            format!("missing: {}", missing.join(", ")),
            Some("give the router's user a security role with them, at the level of the organization"),
        ),
        Err(error) => report.add(
            "privileges",
            CheckState::Warning,
            format!("they cannot be listed: {error}"),
            Some("give the router's user the right to read security roles, or rely on what the mailboxes report"),
        ),
    }
    match directory::read(&session, organization.channel == Some(0)).await {
        Ok(directory) => {
            people(&mut report, &organization, &directory.mailboxes);
            report.mailboxes = directory.mailboxes;
        }
        Err(error) => report.failed("mailboxes", &error),
    }
    report
}

/// What can be asked of an organization that has no Web API.
async fn by_organization_service(report: &mut OrganizationReport, settings: &DataverseSettings) {
    if settings.email_processing == EmailProcessing::Router {
        report.failed("connection", &super::client::only_the_server_decides(settings));
        return;
    }
    let service = match soap::connect(settings) {
        Ok(service) => service,
        Err(error) => return report.failed("connection", &error),
    };
    let who = match service.who_am_i().await {
        Ok(who) => who,
        Err(error) => return report.failed("connection", &error),
    };
    report.add("connection", CheckState::Passed, "reached and logged in; Organization Service", None);
    let row =
        match service.retrieve("organization", who.organization, &["name", "emailconnectionchannel"]).await {
            Ok(row) => row,
            Err(error) => return report.failed("organization", &error),
        };
    let name = row.text("name").unwrap_or_default();
    match &settings.unique_name {
        Some(wanted) if !wanted.eq_ignore_ascii_case(name) => {
            let text = format!(
                "it is called {:?}, and the deployment names {wanted:?}",
                super::web_api::fault::one_line(name)
            );
            report.add(
                "organization",
                CheckState::Failed,
                text,
                Some("correct Url or OrganizationName of the deployment"),
            );
        }
        _ => report.add("organization", CheckState::Passed, super::web_api::fault::one_line(name), None),
    }
    if row.int("emailconnectionchannel") == Some(0) {
        let text = "server-side synchronization, so the CRM refuses to decide for a router";
        report.add(
            "e-mail channel",
            CheckState::Failed,
            text,
            Some("set the organization's e-mail channel to the Email Router"),
        );
    } else {
        report.add(
            "e-mail channel",
            CheckState::Passed,
            "Email Router: the CRM decides which mail it takes",
            None,
        );
    }
    let text = "they are not listed over the Organization Service; what is missing is told when it is needed";
    report.add("privileges", CheckState::Warning, text, None);
}

async fn identify(session: &Session) -> crate::Result<Organization> {
    OrganizationReader::new(session).await?.read().await
}

fn channel(report: &mut OrganizationReport, settings: &DataverseSettings, organization: &Organization) {
    let name = "e-mail channel";
    let by_crm = organization.channel == Some(1);
    let (state, text, hint) = match (settings.email_processing, by_crm) {
        (EmailProcessing::Crm, false) => (
            CheckState::Failed,
            "server-side synchronization, so the CRM refuses to decide for a router, and EmailProcessing is Crm",
            Some("set EmailProcessing to Router, or the organization's e-mail channel to the Email Router"),
        ),
        (EmailProcessing::Automatic | EmailProcessing::Crm, true) => {
            (CheckState::Passed, "Email Router: the CRM decides which mail it takes", None)
        }
        (_, true) => (CheckState::Passed, "Email Router; the router decides, as EmailProcessing says", None),
        (_, false) => (CheckState::Passed, "server-side synchronization: the router decides", None),
    };
    report.add(name, state, text, hint);
}

fn metadata(report: &mut OrganizationReport, settings: &DataverseSettings, tables: &Tables) {
    let slow: Vec<_> = tables
        .email_tables()
        .iter()
        .filter(|table| !table.change_tracking)
        .map(|table| table.logical_name.as_str())
        .collect();
    let all = tables.email_tables().len();
    if slow.is_empty() {
        report.add("addresses", CheckState::Passed, format!("{all} tables, all with change tracking"), None);
    } else {
        let text = format!("{all} tables; without change tracking: {}", slow.join(", "));
        let hint = "turn change tracking on for them, so that the router need not read them again and again";
        report.add("addresses", CheckState::Warning, text, Some(hint));
    }
    if let Some(column) = &settings.note_column {
        let (state, text, hint) = match tables.email_length(column) {
            Some(4000..) if tables.email_has(column) => (CheckState::Passed, "can be used".to_owned(), None),
            Some(length) => {
                let text = format!("{column} has only {length} characters, so much of what is kept is lost");
                (CheckState::Warning, text, Some("give it 4,000 characters or more"))
            }
            None => {
                let text = format!("e-mails have no text column {column}");
                (
                    CheckState::Failed,
                    text,
                    Some("correct NoteColumn (the logical name, in lower case), or leave it out"),
                )
            }
        };
        report.add("note column", state, text, hint);
    }
}

/// The names of privileges that the user's security roles lack.
async fn missing_privileges(session: &Session, organization: &Organization) -> crate::Result<Vec<String>> {
    let doing = "reading the user's privileges";
    let path = format!("systemusers({})/Microsoft.Dynamics.CRM.RetrieveUserPrivileges()", organization.user);
    let own = session.get(&path, doing).await?;
    let depths: HashMap<String, String> = own
        .get("RolePrivileges")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|row| {
            let depth = row.get("Depth").map(|depth| depth.as_str().map_or(depth.to_string(), str::to_owned));
            Some((row.get("PrivilegeId")?.as_str()?.to_lowercase(), depth.unwrap_or_default()))
        })
        .collect();
    let mut missing = Vec::new();
    for (table, types) in NEEDED {
        let path = format!("EntityDefinitions(LogicalName='{table}')?$select=LogicalName,Privileges");
        let definition = match session.get(&path, doing).await {
            Ok(definition) => definition,
            Err(error) if error.kind() == crate::ErrorKind::NotFound => continue, // an organization without leads
            Err(error) => return Err(error),
        };
        for privilege in definition.get("Privileges").and_then(Value::as_array).into_iter().flatten() {
            let text = |name: &str| privilege.get(name).and_then(Value::as_str).unwrap_or_default();
            if !types.contains(&text("PrivilegeType")) {
                continue;
            }
            if !depths.contains_key(&text("PrivilegeId").to_lowercase()) {
                missing.push(text("Name").to_owned());
            }
        }
    }
    missing.sort();
    missing.dedup(); // activities share theirs
    Ok(missing)
}

fn people(report: &mut OrganizationReport, organization: &Organization, all: &[CrmMailbox]) {
    let ours = |m: &&CrmMailbox| {
        !m.disabled
            && (m.outgoing == DeliveryMethod::EmailRouter
                || matches!(m.incoming, DeliveryMethod::EmailRouter | DeliveryMethod::ForwardMailbox))
    };
    let served: Vec<_> = all.iter().filter(ours).collect();
    let text =
        format!("{} of {} users, queues and forward mailboxes use the router", served.len(), all.len());
    let (state, hint) = if served.is_empty() {
        (
            CheckState::Warning,
            Some(
                "set the delivery methods of users and queues to server-side synchronization or Email Router (2)",
            ),
        )
    } else {
        (CheckState::Passed, None)
    };
    report.add("mailboxes", state, text, hint);
    let synchronized: Vec<_> = served
        .iter()
        .filter(|m| m.server_side_sync.incoming || m.server_side_sync.outgoing)
        .map(|m| m.name.as_str())
        .collect();
    if !synchronized.is_empty() {
        let text = format!(
            "served by server-side synchronization too, so the router leaves them alone: {}",
            names(&synchronized)
        );
        let hint =
            "disable the mailbox records for incoming and outgoing e-mail, or do not give them to the router";
        report.add("server-side synchronization", CheckState::Failed, text, Some(hint));
    }
    let settings = &organization.settings;
    let waiting: Vec<_> = served
        .iter()
        .filter(|m| match m.kind {
            MailboxKind::User => settings.require_approval_for_user_email,
            MailboxKind::Queue => settings.require_approval_for_queue_email,
            MailboxKind::Forward => false,
        })
        .filter(|m| m.approval != Approval::Approved)
        .map(|m| m.name.as_str())
        .collect();
    if !waiting.is_empty() {
        let text =
            format!("the organization requires approved addresses, and these are not: {}", names(&waiting));
        report.add("approval", CheckState::Failed, text, Some("approve their e-mail addresses in the CRM"));
    }
}

/// The first names of a list, and how many more there are.
fn names(all: &[&str]) -> String {
    const SHOWN: usize = 10;
    let shown: Vec<_> = all.iter().take(SHOWN).map(|name| super::web_api::fault::one_line(name)).collect();
    match all.len().checked_sub(SHOWN) {
        Some(more @ 1..) => format!("{} and {more} more", shown.join(", ")),
        _ => shown.join(", "),
    }
}
