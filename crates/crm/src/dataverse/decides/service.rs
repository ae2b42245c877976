//! The Organization Service as mode A uses it: rows, queries and the five messages about e-mail (`crm-contract.md` 2 and 4). Served by the Web API and by SOAP.

use std::fmt;

use async_trait::async_trait;
use email_router_model::{EmailAddress, RecordRef, Timestamp};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{Attachment, Result};

/// What the server does for the router. Reading, and what says so, is repeated where no answer came; nothing else is.
#[async_trait]
pub(in crate::dataverse) trait OrganizationService:
    fmt::Debug + Send + Sync + 'static
{
    /// The organization, for messages.
    fn place(&self) -> &str;

    /// WhoAmI.
    async fn who_am_i(&self) -> Result<Who>;

    /// The version of the server (`9.1.0.16819`); empty where it does not tell.
    async fn version(&self) -> Result<String>;

    /// These columns of a row; what is empty is left out.
    async fn retrieve(&self, table: &str, id: Uuid, columns: &[&str]) -> Result<Row>;

    /// A page of a query, from 1; `cookie` is what came with the page before.
    async fn retrieve_multiple(&self, query: &Fetch, page: u32, cookie: Option<&str>) -> Result<Page>;

    /// Makes a row. Not repeated.
    async fn create(&self, table: &str, values: &[(&str, Cell)]) -> Result<Uuid>;

    /// Changes columns of a row that is there; `statecode` and `statuscode` go together. The same change again changes nothing.
    async fn update(&self, table: &str, id: Uuid, values: &[(&str, Cell)]) -> Result<()>;

    /// CheckIncomingEmail: should it be delivered, and the reason's number.
    async fn check_incoming_email(&self, email: &Envelope<'_>) -> Result<(bool, i64)>;

    /// DeliverIncomingEmail; the id that the server gave the e-mail. Not repeated: whoever has no answer has to look.
    async fn deliver_incoming_email(&self, email: &Delivery<'_>) -> Result<Uuid>;

    /// BackgroundSendEmail: the e-mails that the server hands out of those the query finds. Not repeated.
    async fn background_send_email(&self, query: &Fetch) -> Result<Vec<Row>>;

    /// SendEmail with `IssueSend` false: records an e-mail as sent.
    async fn record_as_sent(&self, id: Uuid) -> Result<()>;

    /// GetTrackingTokenEmail, in the name of this user where one is given.
    async fn tracking_token(&self, subject: &str, caller: Option<Uuid>) -> Result<String>;
}

/// Who the router is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::dataverse) struct Who {
    pub(in crate::dataverse) user: Uuid,
    pub(in crate::dataverse) organization: Uuid,
}

/// What CheckIncomingEmail and DeliverIncomingEmail have in common.
#[derive(Debug, Clone)]
pub(in crate::dataverse) struct Envelope<'a> {
    pub(in crate::dataverse) message_id: &'a str,
    pub(in crate::dataverse) subject: &'a str,
    /// From, To, Cc, Bcc.
    pub(in crate::dataverse) addresses: [String; 4],
}

/// Between the addresses of a list. [GUESS] The documentation says only "addresses" (2.1).
const SEPARATOR: &str = ";";

impl<'a> Envelope<'a> {
    pub(super) fn new(message_id: &'a str, subject: &'a str, lists: [&[EmailAddress]; 4]) -> Self {
        let list =
            |list: &[EmailAddress]| list.iter().map(EmailAddress::as_str).collect::<Vec<_>>().join(SEPARATOR);
        Self { message_id, subject, addresses: lists.map(list) }
    }

    /// The parameters by their names.
    pub(in crate::dataverse) fn parameters(&self) -> [(&'static str, &str); 6] {
        let [from, to, cc, bcc] = &self.addresses;
        [
            ("MessageId", self.message_id),
            ("Subject", self.subject),
            ("From", from),
            ("To", to),
            ("Cc", cc),
            ("Bcc", bcc),
        ]
    }
}

/// What DeliverIncomingEmail is given.
#[derive(Debug, Clone)]
pub(in crate::dataverse) struct Delivery<'a> {
    pub(in crate::dataverse) envelope: Envelope<'a>,
    pub(in crate::dataverse) received_on: Timestamp,
    pub(in crate::dataverse) submitted_by: &'a str,
    /// `prioritycode` as text (2.3).
    pub(in crate::dataverse) importance: String,
    pub(in crate::dataverse) body: &'a str,
    pub(in crate::dataverse) attachments: &'a [Attachment],
    /// The organization has `attachmentcontentid` (not before CRM 2013).
    pub(in crate::dataverse) content_ids: bool,
}

/// A value that is written.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::dataverse) enum Cell {
    Text(String),
    Int(i32),
    /// A choice, a state, a status.
    Choice(i32),
    Reference(RecordRef),
}

/// A page of rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::dataverse) struct Page {
    pub(in crate::dataverse) rows: Vec<Row>,
    pub(in crate::dataverse) more: bool,
    pub(in crate::dataverse) cookie: Option<String>,
}

/// A row by the logical names of its columns; columns of a linked table as `alias.column`. Ids and times are texts, choices numbers, a reference is an
/// object of `id`, `table` and `name`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::dataverse) struct Row(pub(in crate::dataverse) Map<String, Value>);

impl Row {
    pub(in crate::dataverse) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str().filter(|text| !text.is_empty())
    }

    pub(in crate::dataverse) fn int(&self, name: &str) -> Option<i64> {
        match self.0.get(name)? {
            Value::Number(number) => number.as_i64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        }
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.0.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    /// An id, or that of the record a lookup points to.
    pub(super) fn id(&self, name: &str) -> Option<Uuid> {
        let value = self.0.get(name)?;
        Uuid::parse_str(value.get("id").unwrap_or(value).as_str()?).ok()
    }

    pub(super) fn time(&self, name: &str) -> Option<Timestamp> {
        self.text(name)?.parse().ok()
    }

    pub(super) fn reference(&self, name: &str) -> Option<RecordRef> {
        let value = self.0.get(name)?;
        Some(RecordRef::new(value.get("table")?.as_str()?, Uuid::parse_str(value.get("id")?.as_str()?).ok()?))
    }

    /// The name of the record a lookup points to.
    pub(super) fn name_of(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.get("name")?.as_str().filter(|name| !name.is_empty())
    }

    /// A reference as it stands in a row.
    pub(in crate::dataverse) fn reference_value(id: &str, table: &str, name: Option<&str>) -> Value {
        serde_json::json!({ "id": id, "table": table, "name": name })
    }
}

/// A query (FetchXML).
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::dataverse) struct Fetch {
    pub(in crate::dataverse) table: String,
    pub(in crate::dataverse) columns: Vec<String>,
    /// All of these must hold; each is one of several.
    pub(super) all: Vec<Vec<Condition>>,
    /// Column, and whether the greatest comes first.
    pub(super) order: Vec<(&'static str, bool)>,
    pub(super) links: Vec<Link>,
    /// Rows of a page.
    pub(super) count: u32,
}

/// What a column must be.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Condition {
    pub(super) column: &'static str,
    /// `eq`, `le`, `like`, `in`, `null` ...
    pub(super) operator: &'static str,
    pub(super) values: Vec<String>,
}

/// Rows of another table that belong to a row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Link {
    pub(super) table: &'static str,
    /// Its column, and ours.
    pub(super) on: (&'static str, &'static str),
    pub(super) alias: &'static str,
    /// Rows without one count too.
    pub(super) outer: bool,
    pub(super) columns: Vec<&'static str>,
    pub(super) all: Vec<Condition>,
}

impl Condition {
    pub(super) fn new(
        column: &'static str,
        operator: &'static str,
        values: impl IntoIterator<Item = String>,
    ) -> Self {
        Self { column, operator, values: values.into_iter().collect() }
    }

    fn write(&self, out: &mut String) {
        let column = self.column;
        let plain = |text: &str| quick_xml::escape::escape(printable(text)).into_owned();
        match self.values.as_slice() {
            [] => {
                out.push_str(&format!("<condition attribute=\"{column}\" operator=\"{}\"/>", self.operator))
            }
            [value] if self.operator != "in" => out.push_str(&format!(
                "<condition attribute=\"{column}\" operator=\"{}\" value=\"{}\"/>",
                self.operator,
                plain(value)
            )),
            values => {
                out.push_str(&format!("<condition attribute=\"{column}\" operator=\"{}\">", self.operator));
                for value in values {
                    out.push_str(&format!("<value>{}</value>", plain(value)));
                }
                out.push_str("</condition>");
            }
        }
    }
}

/// Characters that XML 1.0 forbids are left out, or the server would refuse the whole request.
pub(in crate::dataverse) fn printable(text: &str) -> String {
    text.chars().filter(|c| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..)).collect()
}

impl Fetch {
    /// All rows of a table, these columns.
    pub(super) fn new(table: &str, columns: &[&str]) -> Self {
        let columns = columns.iter().map(|&column| column.to_owned()).collect();
        Self { table: table.to_owned(), columns, count: 5000, ..Self::default() }
    }

    /// Only rows with this.
    pub(super) fn with(mut self, condition: Condition) -> Self {
        self.all.push(vec![condition]);
        self
    }

    /// Only rows with one of these.
    pub(super) fn with_any(mut self, conditions: Vec<Condition>) -> Self {
        self.all.push(conditions);
        self
    }

    pub(super) fn link(mut self, link: Link) -> Self {
        self.links.push(link);
        self
    }

    pub(super) fn order(mut self, column: &'static str, descending: bool) -> Self {
        self.order.push((column, descending));
        self
    }

    /// So many rows a page.
    pub(super) fn count(mut self, count: u32) -> Self {
        self.count = count;
        self
    }

    /// Without a column that the organization does not have, wherever it stands. What asks for its value then asks for nothing.
    pub(super) fn without(&mut self, column: &str) {
        self.columns.retain(|name| name != column);
        self.order.retain(|(name, _)| *name != column);
        for any in &mut self.all {
            if any.iter().any(|condition| condition.column == column) {
                any.clear();
            }
        }
        self.all.retain(|any| !any.is_empty());
        for link in &mut self.links {
            link.columns.retain(|name| *name != column);
        }
    }

    /// As XML, for this page.
    pub(in crate::dataverse) fn xml(&self, page: u32, cookie: Option<&str>) -> String {
        let mut out =
            format!("<fetch version=\"1.0\" mapping=\"logical\" count=\"{}\" page=\"{page}\"", self.count);
        if let Some(cookie) = cookie {
            out.push_str(&format!(" paging-cookie=\"{}\"", quick_xml::escape::escape(cookie)));
        }
        out.push_str(&format!("><entity name=\"{}\">", self.table));
        for column in &self.columns {
            out.push_str(&format!("<attribute name=\"{column}\"/>"));
        }
        for (column, descending) in &self.order {
            out.push_str(&format!("<order attribute=\"{column}\" descending=\"{descending}\"/>"));
        }
        if !self.all.is_empty() {
            out.push_str("<filter type=\"and\">");
            for any in &self.all {
                match any.as_slice() {
                    [one] => one.write(&mut out),
                    several => {
                        out.push_str("<filter type=\"or\">");
                        several.iter().for_each(|condition| condition.write(&mut out));
                        out.push_str("</filter>");
                    }
                }
            }
            out.push_str("</filter>");
        }
        for link in &self.links {
            let (theirs, ours) = link.on;
            let kind = if link.outer { "outer" } else { "inner" };
            out.push_str(&format!(
                "<link-entity name=\"{}\" from=\"{theirs}\" to=\"{ours}\" alias=\"{}\" link-type=\"{kind}\">",
                link.table, link.alias
            ));
            for column in &link.columns {
                out.push_str(&format!("<attribute name=\"{column}\"/>"));
            }
            if !link.all.is_empty() {
                out.push_str("<filter type=\"and\">");
                link.all.iter().for_each(|condition| condition.write(&mut out));
                out.push_str("</filter>");
            }
            out.push_str("</link-entity>");
        }
        out.push_str("</entity></fetch>");
        out
    }
}
