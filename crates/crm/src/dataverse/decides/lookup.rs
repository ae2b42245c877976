//! Users and queues; records and e-mails, which only explain what the CRM decided.

use std::collections::HashMap;

use email_router_model::{ActivityId, EmailAddress, MailboxKind, MessageId, RecordRef, Timestamp};
use uuid::Uuid;

use super::ServerDecides;
use super::service::{Condition, Fetch, Link, Row};
use crate::{
    Approval, CrmMailbox, DeliveryMethod, EmailLookup, EmailSummary, ErrorKind, FilteringMethod,
    ParticipationType, Party, Resolution, Result, ServerSideSync, SmartHashes,
};

/// More rows than this no list has.
const MOST: usize = 1_000_000;
/// So many values stand in one condition (11.7).
const VALUES: usize = 20;
/// More records with one address are too many to choose from (9.1).
const MOST_OF_AN_ADDRESS: usize = 101;

/// A table whose records have addresses: its name, the column of the name, of the addresses, of the state. Tables that an organization made are not looked at.
const TABLES: [(&str, &str, &[&str], &str); 5] = [
    (
        "systemuser",
        "fullname",
        &["internalemailaddress", "personalemailaddress", "mobilealertemail"],
        "isdisabled",
    ),
    ("queue", "name", &["emailaddress"], "statecode"),
    ("contact", "fullname", &["emailaddress1", "emailaddress2", "emailaddress3"], "statecode"),
    ("account", "name", &["emailaddress1", "emailaddress2", "emailaddress3"], "statecode"),
    ("lead", "fullname", &["emailaddress1", "emailaddress2", "emailaddress3"], "statecode"),
];

impl ServerDecides {
    /// All users, queues and forward mailboxes, or those users and queues.
    pub(super) async fn read_mailboxes(&self, only: Option<&[RecordRef]>) -> Result<Vec<CrmMailbox>> {
        let mut all = Vec::new();
        let wanted = |table: &str| -> Option<Vec<String>> {
            only.map(|only| only.iter().filter(|r| r.table == table).map(|r| r.id.to_string()).collect())
        };
        let users = Fetch::new(
            "systemuser",
            &[
                "systemuserid",
                "fullname",
                "internalemailaddress",
                "incomingemaildeliverymethod",
                "outgoingemaildeliverymethod",
                "emailrouteraccessapproval",
                "isdisabled",
                "queueid",
            ],
        )
        .link(Link {
            table: "usersettings",
            on: ("systemuserid", "systemuserid"),
            alias: "settings",
            outer: true,
            columns: vec!["incomingemailfilteringmethod"],
            all: Vec::new(),
        });
        for row in self.chosen(users, "systemuserid", wanted("systemuser")).await? {
            let Some(id) = row.id("systemuserid") else { continue };
            let record = RecordRef::new("systemuser", id);
            all.push(CrmMailbox {
                name: row.text("fullname").unwrap_or_default().to_owned(),
                address: address(&row, "internalemailaddress"),
                filter: filter(&row, "settings.incomingemailfilteringmethod"),
                owner: Some(record.clone()),
                default_queue: row.id("queueid").map(|queue| RecordRef::new("queue", queue)),
                disabled: row.flag("isdisabled"),
                ..mailbox(&row, MailboxKind::User, record)
            });
        }
        let queues = Fetch::new(
            "queue",
            &[
                "queueid",
                "name",
                "emailaddress",
                "incomingemaildeliverymethod",
                "outgoingemaildeliverymethod",
                "emailrouteraccessapproval",
                "incomingemailfilteringmethod",
                "statecode",
                "ownerid",
            ],
        );
        for row in self.chosen(queues, "queueid", wanted("queue")).await? {
            let Some(id) = row.id("queueid") else { continue };
            all.push(CrmMailbox {
                name: row.text("name").unwrap_or_default().to_owned(),
                address: address(&row, "emailaddress"),
                filter: filter(&row, "incomingemailfilteringmethod"),
                owner: row.reference("ownerid"),
                disabled: row.int("statecode").unwrap_or_default() != 0,
                ..mailbox(&row, MailboxKind::Queue, RecordRef::new("queue", id))
            });
        }
        if only.is_none() {
            let columns =
                ["mailboxid", "name", "emailaddress", "incomingemaildeliverymethod", "statecode", "ownerid"];
            let forward = Fetch::new("mailbox", &columns).with(Condition::new(
                "isforwardmailbox",
                "eq",
                ["1".to_owned()],
            ));
            let rows = match self.rows(forward, MOST).await {
                Ok(rows) => rows,
                // before CRM 2013 there is no such table
                Err(error) if matches!(error.kind(), ErrorKind::Invalid | ErrorKind::NotFound) => Vec::new(),
                Err(error) => return Err(error),
            };
            for row in rows {
                let Some(id) = row.id("mailboxid") else { continue };
                all.push(CrmMailbox {
                    name: row.text("name").unwrap_or_default().to_owned(),
                    address: address(&row, "emailaddress"),
                    owner: row.reference("ownerid"),
                    disabled: row.int("statecode").unwrap_or_default() != 0,
                    ..mailbox(&row, MailboxKind::Forward, RecordRef::new("mailbox", id))
                });
            }
        }
        Ok(all)
    }

    /// The rows of a query, or only those with these ids.
    async fn chosen(&self, query: Fetch, id: &'static str, ids: Option<Vec<String>>) -> Result<Vec<Row>> {
        let Some(ids) = ids else { return self.rows(query, MOST).await };
        let mut rows = Vec::new();
        for some in ids.chunks(VALUES) {
            let condition = Condition::new(id, "in", some.to_vec());
            rows.extend(self.rows(query.clone().with(condition), MOST).await?);
        }
        Ok(rows)
    }

    pub(super) async fn resolve_addresses(&self, addresses: &[EmailAddress]) -> Result<Vec<Vec<Resolution>>> {
        let mut found: HashMap<String, Vec<Resolution>> = HashMap::new();
        for some in addresses.chunks(VALUES) {
            let values: Vec<String> = some.iter().map(|a| a.as_str().to_owned()).collect();
            let wanted: Vec<String> = some.iter().map(EmailAddress::key).collect();
            for (table, name, columns, state) in TABLES {
                let id = format!("{table}id");
                let mut select = vec![id.as_str(), name, "createdon", state];
                select.extend(columns);
                if table != "systemuser" {
                    select.push("ownerid");
                }
                let any = columns.iter().map(|column| Condition::new(column, "in", values.clone())).collect();
                let query = Fetch::new(table, &select).with_any(any).order("createdon", false);
                for row in self.rows(query, MOST).await? {
                    let active = match state {
                        "isdisabled" => !row.flag(state),
                        _ => row.int(state).unwrap_or_default() == 0,
                    };
                    // disabled users never resolve (7.3)
                    let Some(id) = row.id(&id).filter(|_| active || table != "systemuser") else { continue };
                    let hit = Resolution {
                        record: RecordRef::new(table, id),
                        name: row.text(name).unwrap_or_default().to_owned(),
                        owner: row.reference("ownerid"),
                        active,
                        created_on: row.time("createdon").unwrap_or(Timestamp::UNIX_EPOCH),
                    };
                    let mut keys: Vec<_> =
                        columns.iter().filter_map(|c| address(&row, c)).map(|a| a.key()).collect();
                    keys.sort_unstable();
                    keys.dedup();
                    for key in keys.into_iter().filter(|key| wanted.contains(key)) {
                        let hits = found.entry(key).or_default();
                        if !hits.iter().any(|known| known.record == hit.record) {
                            hits.push(hit.clone());
                        }
                    }
                }
            }
        }
        for hits in found.values_mut() {
            hits.sort_by_key(|hit| (hit.created_on, hit.record.id));
            hits.truncate(MOST_OF_AN_ADDRESS);
        }
        Ok(addresses.iter().map(|address| found.get(&address.key()).cloned().unwrap_or_default()).collect())
    }

    /// E-mails by what the CRM has columns for. Conversations and smart matching are its own affair, so by those nothing is found.
    pub(super) async fn look_up(&self, lookup: &EmailLookup, limit: usize) -> Result<Vec<EmailSummary>> {
        let (column, values, ids): (_, Vec<String>, Vec<ActivityId>) = match lookup {
            EmailLookup::MessageIds(ids) => {
                ("messageid", ids.iter().map(|id| id.as_str().to_owned()).collect(), Vec::new())
            }
            EmailLookup::TrackingToken(token) => ("trackingtoken", vec![token.clone()], Vec::new()),
            EmailLookup::Ids(given) => {
                let mut ids = Vec::new();
                for id in given {
                    ids.push(ActivityId::from_uuid(self.in_crm(id).await?));
                }
                ("activityid", ids.iter().map(ToString::to_string).collect(), ids)
            }
            EmailLookup::ConversationRoot(_) | EmailLookup::ConversationId(_) | EmailLookup::Smart(_) => {
                return Ok(Vec::new());
            }
        };
        let exact = if ids.is_empty() { lookup.clone() } else { EmailLookup::Ids(ids) };
        let mut found: Vec<EmailSummary> = Vec::new();
        for some in values.chunks(VALUES) {
            let columns = [
                "activityid",
                "directioncode",
                "messageid",
                "subject",
                "trackingtoken",
                "regardingobjectid",
                "ownerid",
                "createdon",
            ];
            let query = Fetch::new("email", &columns)
                .with(Condition::new(column, "in", some.to_vec()))
                .order("createdon", true);
            // the CRM does not look at letter case, and a token names several
            for row in self.rows(query, MOST).await?.iter().filter_map(summary) {
                if exact.matches(&row) && !found.iter().any(|known| known.activity_id == row.activity_id) {
                    found.push(row);
                }
            }
        }
        found.sort_by_key(|email| std::cmp::Reverse((email.created_on, email.activity_id)));
        found.truncate(limit);
        let ids: Vec<Uuid> = found.iter().map(|email| *email.activity_id.as_uuid()).collect();
        let mut parties = self.parties(&ids).await?;
        for email in &mut found {
            email.parties = parties.remove(email.activity_id.as_uuid()).unwrap_or_default();
        }
        Ok(found)
    }

    /// Sender, To, Cc and Bcc of e-mails.
    pub(super) async fn parties(&self, emails: &[Uuid]) -> Result<HashMap<Uuid, Vec<Party>>> {
        let mut parties: HashMap<Uuid, Vec<Party>> = HashMap::new();
        for some in emails.chunks(VALUES) {
            let columns =
                ["activityid", "participationtypemask", "addressused", "partyid", "unresolvedpartyname"];
            let query = Fetch::new("activityparty", &columns)
                .with(Condition::new("activityid", "in", some.iter().map(Uuid::to_string)))
                .with(Condition::new("participationtypemask", "in", (1..=4).map(|n: u8| n.to_string())))
                .order("participationtypemask", false);
            for row in self.rows(query, MOST).await? {
                let kind = row.int("participationtypemask").and_then(|n| u8::try_from(n).ok());
                let Some(participation) = kind.and_then(ParticipationType::from_code) else { continue };
                let Some(email) = row.id("activityid") else { continue };
                let name = row.name_of("partyid").or(row.text("unresolvedpartyname"));
                parties.entry(email).or_default().push(Party {
                    participation,
                    record: row.reference("partyid"),
                    address: address(&row, "addressused"),
                    name: name.map(str::to_owned),
                });
            }
        }
        Ok(parties)
    }

    /// The primary addresses of records (6.1).
    pub(super) async fn primary_address(&self, record: &RecordRef) -> Result<Option<EmailAddress>> {
        let Some((table, _, columns, _)) = TABLES.into_iter().find(|(table, ..)| *table == record.table)
        else {
            return Ok(None);
        };
        match self.row(table, record.id, &columns[..1]).await {
            Ok(row) => Ok(address(&row, columns[0])),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The received e-mail with this Message-ID.
    pub(super) async fn received(&self, message_id: &MessageId) -> Result<Option<Uuid>> {
        let query = Fetch::new("email", &["activityid", "messageid", "directioncode"])
            .with(Condition::new("messageid", "eq", [message_id.as_str().to_owned()]))
            .with(Condition::new("directioncode", "eq", ["0".to_owned()]));
        let rows = self.rows(query, MOST).await?;
        let same =
            |row: &&Row| row.text("messageid") == Some(message_id.as_str()) && !row.flag("directioncode");
        Ok(rows.iter().find(same).and_then(|row| row.id("activityid")))
    }
}

fn summary(row: &Row) -> Option<EmailSummary> {
    Some(EmailSummary {
        activity_id: ActivityId::from_uuid(row.id("activityid")?),
        outgoing: row.flag("directioncode"),
        message_id: row.text("messageid").and_then(MessageId::parse),
        subject: row.text("subject").unwrap_or_default().to_owned(),
        tracking_token: row.text("trackingtoken").map(str::to_owned),
        regarding: row.reference("regardingobjectid"),
        owner: row.reference("ownerid"),
        parties: Vec::new(),
        created_on: row.time("createdon").unwrap_or(Timestamp::UNIX_EPOCH),
        conversation_index: None,
        conversation_id: None,
        smart: SmartHashes::default(),
    })
}

pub(super) fn address(row: &Row, name: &str) -> Option<EmailAddress> {
    EmailAddress::parse(row.text(name)?.trim()).ok()
}

fn filter(row: &Row, name: &str) -> FilteringMethod {
    let code = row.int(name).and_then(|code| u8::try_from(code).ok());
    code.and_then(FilteringMethod::from_code).unwrap_or_default()
}

fn mailbox(row: &Row, kind: MailboxKind, record: RecordRef) -> CrmMailbox {
    let code = |name: &str| row.int(name).and_then(|code| u8::try_from(code).ok()).unwrap_or_default();
    CrmMailbox {
        record,
        kind,
        name: String::new(),
        address: None,
        incoming: DeliveryMethod::from_code(code("incomingemaildeliverymethod")).unwrap_or_default(),
        outgoing: DeliveryMethod::from_code(code("outgoingemaildeliverymethod")).unwrap_or_default(),
        approval: Approval::from_code(code("emailrouteraccessapproval")).unwrap_or_default(),
        filter: FilteringMethod::default(),
        owner: None,
        default_queue: None,
        disabled: false,
        server_side_sync: ServerSideSync::default(),
    }
}
