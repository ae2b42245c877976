//! Users, queues and forward mailboxes (`crm-contract.md` 5.4 and 5.5), in both modes.

use std::collections::HashMap;

use email_router_model::{EmailAddress, MailboxKind, RecordRef};
use serde_json::Value;
use uuid::Uuid;

use crate::dataverse::web_api::Session;
use crate::{Approval, CrmMailbox, DeliveryMethod, FilteringMethod, Result, ServerSideSync};

/// More users than this no organization has.
const MOST: usize = 2_000_000;
const PREFER: &[&str] =
    &["odata.maxpagesize=5000", "odata.include-annotations=\"Microsoft.Dynamics.CRM.lookuplogicalname\""];

/// What was read of users and queues.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    pub(crate) mailboxes: Vec<CrmMailbox>,
    /// The record `mailbox` of each user and queue that has one.
    pub(crate) default_mailboxes: HashMap<RecordRef, Uuid>,
}

/// Reads all users, queues and forward mailboxes. `by_synchronization`: the organization's channel is server-side synchronization.
pub(crate) async fn read(session: &Session, by_synchronization: bool) -> Result<Directory> {
    let mut directory = Directory::default();
    let users = "systemusers?$select=systemuserid,fullname,internalemailaddress,incomingemaildeliverymethod,\
                 outgoingemaildeliverymethod,emailrouteraccessapproval,isdisabled,_queueid_value,_defaultmailbox_value";
    let users = session.pages(users, PREFER, "reading the users").all(MOST).await?;
    let filters = "usersettingscollection?$select=systemuserid,incomingemailfilteringmethod";
    let filters = session.pages(filters, PREFER, "reading the users' settings").all(MOST).await?;
    let filters: HashMap<Uuid, FilteringMethod> =
        filters.iter().filter_map(|row| Some((id(row, "systemuserid")?, filter(row)))).collect();
    for row in &users {
        let Some(user) = id(row, "systemuserid") else { continue };
        let record = RecordRef::new("systemuser", user);
        directory.default_mailbox(row, &record);
        directory.mailboxes.push(CrmMailbox {
            kind: MailboxKind::User,
            name: text(row, "fullname"),
            address: address(row, "internalemailaddress"),
            filter: filters.get(&user).copied().unwrap_or_default(),
            owner: Some(record.clone()),
            default_queue: id(row, "_queueid_value").map(|queue| RecordRef::new("queue", queue)),
            disabled: row.get("isdisabled").and_then(Value::as_bool).unwrap_or(false),
            ..methods(row, record)
        });
    }
    let queues = "queues?$select=queueid,name,emailaddress,incomingemaildeliverymethod,outgoingemaildeliverymethod,\
                  emailrouteraccessapproval,incomingemailfilteringmethod,statecode,_ownerid_value,_defaultmailbox_value";
    for row in session.pages(queues, PREFER, "reading the queues").all(MOST).await? {
        let Some(queue) = id(&row, "queueid") else { continue };
        let record = RecordRef::new("queue", queue);
        directory.default_mailbox(&row, &record);
        directory.mailboxes.push(CrmMailbox {
            kind: MailboxKind::Queue,
            name: text(&row, "name"),
            address: address(&row, "emailaddress"),
            filter: filter(&row),
            owner: lookup(&row, "_ownerid_value"),
            disabled: number(&row, "statecode") != 0,
            ..methods(&row, record)
        });
    }
    let places: HashMap<RecordRef, usize> =
        directory.mailboxes.iter().enumerate().map(|(n, mailbox)| (mailbox.record.clone(), n)).collect();
    let mailboxes = "mailboxes?$select=mailboxid,name,emailaddress,isforwardmailbox,enabledforincomingemail,enabledforoutgoingemail,\
                     incomingemaildeliverymethod,outgoingemaildeliverymethod,statecode,_ownerid_value,_regardingobjectid_value";
    for row in session.pages(mailboxes, PREFER, "reading the mailboxes").all(MOST).await? {
        let Some(mailbox) = id(&row, "mailboxid") else { continue };
        let is = |name: &str| row.get(name).and_then(Value::as_bool).unwrap_or(false);
        let sync = ServerSideSync {
            incoming: by_synchronization
                && is("enabledforincomingemail")
                && matches!(number(&row, "incomingemaildeliverymethod"), 2 | 3),
            outgoing: by_synchronization
                && is("enabledforoutgoingemail")
                && number(&row, "outgoingemaildeliverymethod") == 2,
        };
        if is("isforwardmailbox") {
            directory.mailboxes.push(CrmMailbox {
                kind: MailboxKind::Forward,
                name: text(&row, "name"),
                address: address(&row, "emailaddress"),
                owner: lookup(&row, "_ownerid_value"),
                disabled: number(&row, "statecode") != 0,
                server_side_sync: sync,
                ..methods(&row, RecordRef::new("mailbox", mailbox))
            });
        } else if let Some(served) = lookup(&row, "_regardingobjectid_value")
            && let Some(place) = places.get(&served)
        {
            directory.mailboxes[*place].server_side_sync = sync;
        }
    }
    Ok(directory)
}

impl Directory {
    fn default_mailbox(&mut self, row: &Value, record: &RecordRef) {
        if let Some(mailbox) = id(row, "_defaultmailbox_value") {
            self.default_mailboxes.insert(record.clone(), mailbox);
        }
    }
}

fn methods(row: &Value, record: RecordRef) -> CrmMailbox {
    let code = |name: &str| u8::try_from(number(row, name)).unwrap_or_default();
    CrmMailbox {
        record,
        kind: MailboxKind::User,
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

fn text(row: &Value, name: &str) -> String {
    row.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

pub(crate) fn id(row: &Value, name: &str) -> Option<Uuid> {
    Uuid::parse_str(row.get(name)?.as_str()?).ok()
}

fn number(row: &Value, name: &str) -> i64 {
    row.get(name).and_then(Value::as_i64).unwrap_or_default()
}

fn address(row: &Value, name: &str) -> Option<EmailAddress> {
    EmailAddress::parse(row.get(name)?.as_str()?.trim()).ok()
}

fn filter(row: &Value) -> FilteringMethod {
    let code = row.get("incomingemailfilteringmethod").and_then(Value::as_u64);
    code.and_then(|code| FilteringMethod::from_code(u8::try_from(code).ok()?)).unwrap_or_default()
}

/// A lookup with the table it points to, where the server was asked for annotations.
pub(crate) fn lookup(row: &Value, name: &str) -> Option<RecordRef> {
    let table = row.get(format!("{name}@Microsoft.Dynamics.CRM.lookuplogicalname"))?.as_str()?;
    Some(RecordRef::new(table, id(row, name)?))
}
