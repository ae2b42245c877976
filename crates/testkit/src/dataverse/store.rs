//! Rows, their versions and what happened to them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Map, Value, json};

use super::schema::{self, Kind, Table};

/// A refusal: status of HTTP, number, words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused(pub(super) u16, pub(super) u32, pub(super) String);

pub(super) type Outcome<T> = Result<T, Refused>;

pub(super) fn refused<T>(status: u16, code: u32, words: impl Into<String>) -> Outcome<T> {
    Err(Refused(status, code, words.into()))
}

pub(super) type Row = Map<String, Value>;

#[derive(Debug, Clone)]
pub(super) struct Versioned {
    pub(super) values: Row,
    pub(super) version: u64,
}

/// What a row was before a change.
type Undo = (&'static str, String, Option<Versioned>);

#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) rows: BTreeMap<String, Versioned>,
    /// By version: what was deleted.
    pub(super) deleted: BTreeMap<u64, String>,
}

/// The organization.
pub(super) struct Store {
    pub(super) tables: Vec<Table>,
    rows: HashMap<&'static str, Rows>,
    pub(super) version: u64,
    ids: u64,
    /// What to take back, for each transaction that is open, the innermost last.
    undo: Vec<Vec<Undo>>,
    /// Parties and attachments by e-mail, so that expanding costs nothing.
    children: HashMap<(&'static str, String), BTreeSet<String>>,
    pub(super) now: Box<dyn Fn() -> String + Send>,
    pub(super) rules: Rules,
}

/// What the organization refuses, where Microsoft has not published whether it does.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// `PATCH` that makes a row takes no nested parties.
    pub no_deep_upsert: bool,
    /// Completed e-mails take no change of these columns (`statuscode`, `messageid` ...).
    pub refused_columns: Vec<String>,
    /// There is no upload of attachments in blocks.
    pub no_blocks: bool,
    /// Completed e-mails do not take these as `statuscode` by `PATCH`.
    pub refused_statuses: Vec<u64>,
    /// There is no column `emailsender`.
    pub no_email_sender: bool,
}

impl Store {
    pub(super) fn new() -> Self {
        Self {
            tables: schema::tables(),
            rows: HashMap::new(),
            version: 1000,
            ids: 0,
            undo: Vec::new(),
            children: HashMap::new(),
            now: Box::new(|| "2026-11-22T10:00:00Z".to_owned()),
            rules: Rules::default(),
        }
    }

    pub(super) fn table(&self, set: &str) -> Option<&Table> {
        self.tables.iter().find(|table| table.set == set)
    }

    pub(super) fn named(&self, name: &str) -> Option<&Table> {
        self.tables.iter().find(|table| table.name == name)
    }

    pub(super) fn rows(&self, name: &str) -> Option<&Rows> {
        self.rows.get(name)
    }

    pub(super) fn row(&self, name: &str, id: &str) -> Option<&Versioned> {
        self.rows.get(name)?.rows.get(id)
    }

    pub(super) fn fresh_id(&mut self) -> String {
        self.ids += 1;
        format!("c0ffee00-0000-4000-8000-{:012x}", self.ids)
    }

    /// Rows of a table that belong to an e-mail, in the order in which they were made.
    pub(super) fn children(&self, table: &'static str, email: &str) -> Vec<&Versioned> {
        let ids = self.children.get(&(table, email.to_owned()));
        ids.into_iter().flatten().filter_map(|id| self.row(table, id)).collect()
    }

    /// From here on everything can be taken back.
    pub(super) fn begin(&mut self) {
        self.undo.push(Vec::new());
    }

    pub(super) fn commit(&mut self) {
        let done = self.undo.pop().unwrap_or_default();
        if let Some(outer) = self.undo.last_mut() {
            outer.extend(done);
        }
    }

    pub(super) fn roll_back(&mut self) {
        for (table, id, before) in self.undo.pop().unwrap_or_default().into_iter().rev() {
            if before.is_some() {
                // it was not deleted after all
                self.rows.entry(table).or_default().deleted.retain(|_, deleted| *deleted != id);
            }
            self.restore(table, &id, before);
        }
    }

    fn put(&mut self, table: &'static str, id: &str, row: Option<Versioned>) {
        let before = self.restore(table, id, row);
        if let Some(undo) = self.undo.last_mut() {
            undo.push((table, id.to_owned(), before));
        }
    }

    /// Puts a row in its place, or takes it out; gives what was there.
    fn restore(&mut self, table: &'static str, id: &str, row: Option<Versioned>) -> Option<Versioned> {
        let rows = self.rows.entry(table).or_default();
        let before = match row.clone() {
            Some(row) => rows.rows.insert(id.to_owned(), row),
            None => rows.rows.remove(id),
        };
        if let Some(parent) = parent_of(table, before.as_ref().or(row.as_ref())) {
            let children = self.children.entry((table, parent)).or_default();
            if row.is_some() {
                children.insert(id.to_owned());
            } else {
                children.remove(id);
            }
        }
        before
    }

    /// Puts a row in, or replaces its values.
    pub(super) fn write(&mut self, table: &'static str, id: &str, mut values: Row, is_new: bool) {
        self.version += 1;
        let now = Value::String((self.now)());
        if is_new {
            values.insert("createdon".to_owned(), now.clone());
        }
        values.insert("modifiedon".to_owned(), now);
        let version = self.version;
        self.put(table, id, Some(Versioned { values, version }));
    }

    pub(super) fn delete(&mut self, table: &'static str, id: &str) -> Outcome<()> {
        if self.row(table, id).is_none() {
            return missing(table, id);
        }
        self.version += 1;
        let version = self.version;
        self.put(table, id, None);
        self.rows.entry(table).or_default().deleted.insert(version, id.to_owned());
        if table == "email" {
            for child in ["activityparty", "activitymimeattachment"] {
                for id in self.children.remove(&(child, id.to_owned())).unwrap_or_default() {
                    self.put(child, &id, None);
                }
            }
        }
        Ok(())
    }

    /// Checks what a caller writes and brings it into the form of rows; nested parties are given back.
    pub(super) fn check(
        &self,
        table: &Table,
        body: &Row,
        is_new: bool,
    ) -> Outcome<(Row, Option<Vec<Value>>)> {
        let (mut row, mut parties) = (Row::new(), None);
        for (key, value) in body {
            if key.starts_with('@') || key == "@odata.type" {
                continue;
            }
            if table.name == "email" && key == "email_activity_parties" {
                let Value::Array(list) = value else {
                    return refused(400, 0x8004_8d19, "email_activity_parties is no collection");
                };
                parties = Some(list.clone());
                continue;
            }
            if let Some(navigation) = key.strip_suffix("@odata.bind") {
                let (column, target) = self.bound(table, navigation, value)?;
                row.insert(column, target);
                continue;
            }
            let Some(column) = table.column(key) else {
                return refused(
                    400,
                    0x8006_0888,
                    format!(
                        "Could not find a property named '{key}' on type 'Microsoft.Dynamics.CRM.{}'.",
                        table.name
                    ),
                );
            };
            let right = match (&column.kind, value) {
                (Kind::Lookup(_), _) => false,
                (_, Value::Null)
                | (Kind::Memo | Kind::Time | Kind::Binary, Value::String(_))
                | (Kind::Number, Value::Number(_))
                | (Kind::Flag, Value::Bool(_)) => true,
                (Kind::Text(most, _), Value::String(text)) => {
                    let length = text.encode_utf16().count();
                    if length > *most {
                        let words = format!(
                            "A validation error occurred. The length of the '{key}' attribute of the '{}' entity exceeded the maximum allowed length of '{most}'.",
                            table.name
                        );
                        return refused(400, 0x8004_4331, words);
                    }
                    true
                }
                (Kind::Id, Value::String(id)) => is_new && is_id(id),
                _ => false,
            };
            if !right {
                let words = format!(
                    "Error identified in Payload provided by the user for Entity :'{}': property {key}",
                    table.set
                );
                return refused(400, 0x8004_8d19, words);
            }
            // what cannot be written is passed over, as the platform does
            if !column.read_only {
                row.insert(key.clone(), value.clone());
            }
        }
        Ok((row, parties))
    }

    fn bound(&self, table: &Table, navigation: &str, value: &Value) -> Outcome<(String, Value)> {
        let undeclared = || {
            refused(
                400,
                0x8004_8d19,
                format!(
                    "An undeclared property '{navigation}' which only has property annotations in the payload but no property value was found in the payload."
                ),
            )
        };
        let candidates: Vec<_> = table
            .columns
            .iter()
            .filter_map(|column| match &column.kind {
                Kind::Lookup(targets) if !column.read_only => Some((column, targets)),
                _ => None,
            })
            .collect();
        if value.is_null() {
            let column = candidates.iter().find(|(column, targets)| {
                targets.iter().any(|target| table.navigation(column, target).as_deref() == Some(navigation))
            });
            return column.map_or_else(undeclared, |(column, _)| Ok((column.name.to_owned(), Value::Null)));
        }
        let reference = value.as_str().unwrap_or_default().trim_start_matches('/');
        let parsed = reference.strip_suffix(')').and_then(|text| text.split_once('('));
        let Some((set, id)) = parsed.filter(|(_, id)| is_id(id)) else {
            return refused(400, 0x8004_8d19, format!("Resource not found for the segment '{reference}'."));
        };
        let id = id.to_lowercase();
        let Some(target) = self.table(set) else { return undeclared() };
        for (column, targets) in candidates {
            if targets.contains(&target.name)
                && table.navigation(column, target.name).as_deref() == Some(navigation)
            {
                if self.row(target.name, &id).is_none() {
                    return missing(target.name, &id);
                }
                return Ok((column.name.to_owned(), json!({ "table": target.name, "id": id })));
            }
        }
        undeclared()
    }

    /// Makes a row with an id.
    pub(super) fn create(&mut self, set: &str, id: &str, body: &Row) -> Outcome<()> {
        let Some(table) = self.table(set).cloned() else { return no_set(set) };
        let (mut row, parties) = self.check(&table, body, true)?;
        row.insert(table.id.to_owned(), Value::String(id.to_owned()));
        match table.name {
            "email" => self.new_email(&mut row),
            "activitymimeattachment" => self.new_attachment(&mut row)?,
            "queueitem" => self.new_queue_item(&row)?,
            "contact" | "lead" => full_name(&mut row),
            _ => {}
        }
        if table.column("statecode").is_some() && row.get("statecode").is_none() {
            row.insert("statecode".to_owned(), json!(0));
        }
        self.write(table.name, id, row, true);
        if table.name == "email" {
            self.parties(id, parties.unwrap_or_default())?;
        }
        Ok(())
    }

    fn new_email(&self, row: &mut Row) {
        for (name, value) in [
            ("directioncode", json!(true)),
            ("prioritycode", json!(1)),
            ("deliveryprioritycode", json!(1)),
            ("deliveryattempts", json!(0)),
        ] {
            row.entry(name.to_owned()).or_insert(value);
        }
        // whatever the state that is given: an activity is made open
        row.insert("statecode".to_owned(), json!(0));
        row.insert("statuscode".to_owned(), json!(1));
    }

    fn new_attachment(&mut self, row: &mut Row) -> Outcome<()> {
        let Some(email) = row.get("objectid").and_then(|lookup| lookup["id"].as_str()).map(str::to_owned)
        else {
            return refused(400, 0x8004_0203, "objectid is required");
        };
        let state = self.row("email", &email).and_then(|row| row.values.get("statecode")?.as_u64());
        if state.is_some_and(|state| state != 0) {
            return refused(400, 0x8004_0233, "attachments cannot be added to a completed e-mail");
        }
        let organization =
            self.rows("organization").and_then(|rows| rows.rows.values().next()).map(|row| &row.values);
        let text = |name: &str| {
            organization.and_then(|row| row.get(name)?.as_str()).unwrap_or_default().to_lowercase()
        };
        let name = row.get("filename").and_then(Value::as_str).unwrap_or_default().to_lowercase();
        let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
        if text("blockedattachments").split(';').any(|blocked| !blocked.is_empty() && blocked == extension) {
            return refused(
                400,
                0x8004_3e09,
                "The attachment is either not a valid type or is too large. It cannot be uploaded or downloaded.",
            );
        }
        let body = row.get("body").and_then(Value::as_str).unwrap_or_default();
        let Some(size) = decoded(body) else { return refused(400, 0x8004_8d19, "body is no base64") };
        let most = organization.and_then(|row| row.get("maxuploadfilesize")?.as_u64()).unwrap_or(5_242_880);
        if size as u64 > most {
            return refused(400, 0x8004_4a02, "Attachment file size is too big.");
        }
        row.insert("filesize".to_owned(), json!(size));
        Ok(())
    }

    fn new_queue_item(&self, row: &Row) -> Outcome<()> {
        let of =
            |row: &Row, name: &str| row.get(name).and_then(|lookup| lookup["id"].as_str()).map(str::to_owned);
        let key = (of(row, "queueid"), of(row, "objectid"));
        if key.0.is_none() || key.1.is_none() {
            return refused(400, 0x8004_0203, "queueid and objectid are required");
        }
        let twice = self.rows("queueitem").is_some_and(|rows| {
            rows.rows
                .values()
                .any(|other| (of(&other.values, "queueid"), of(&other.values, "objectid")) == key)
        });
        if twice {
            refused(400, 0x8004_0526, "An active queue item already exists for the given object.")
        } else {
            Ok(())
        }
    }

    /// Replaces the parties of an e-mail.
    fn parties(&mut self, email: &str, parties: Vec<Value>) -> Outcome<()> {
        let Some(table) = self.named("activityparty").cloned() else { return no_set("activityparties") };
        let mut rows = Vec::new();
        for party in parties {
            let Value::Object(body) = party else { return refused(400, 0x8004_8d19, "a party is no object") };
            let (mut row, _) = self.check(&table, &body, true)?;
            row.insert("activityid".to_owned(), json!({ "table": "email", "id": email }));
            if row.get("partyid").is_none() && row.get("addressused").is_none() {
                return refused(400, 0x8004_0b00, "The party has neither a record nor an address.");
            }
            rows.push(row);
        }
        let senders: Vec<_> =
            rows.iter().filter(|row| row.get("participationtypemask") == Some(&json!(1))).collect();
        if senders.len() > 1 {
            return refused(400, 0x8004_0b01, "The e-mail has more than one sender.");
        }
        if let Some(sender) = senders.first().and_then(|row| row.get("partyid")).cloned()
            && !self.rules.no_email_sender
            && let Some(before) = self.row("email", email).cloned()
        {
            let mut values = before.values;
            values.insert("emailsender".to_owned(), sender);
            self.put("email", email, Some(Versioned { values, version: before.version }));
        }
        let old: Vec<String> =
            self.children.get(&(table.name, email.to_owned())).into_iter().flatten().cloned().collect();
        for id in old {
            self.put(table.name, &id, None);
        }
        for mut row in rows {
            let id = self.fresh_id();
            row.insert(table.id.to_owned(), Value::String(id.clone()));
            self.write(table.name, &id, row, true);
        }
        Ok(())
    }

    /// Changes a row.
    pub(super) fn update(&mut self, set: &str, id: &str, body: &Row) -> Outcome<()> {
        let Some(table) = self.table(set).cloned() else { return no_set(set) };
        let Some(before) = self.row(table.name, id).cloned() else { return missing(table.name, id) };
        let (row, parties) = self.check(&table, body, false)?;
        let completed = before.values.get("statecode").and_then(Value::as_u64) != Some(0);
        if table.name == "email" && completed {
            if parties.is_some() {
                return refused(400, 0x8004_0233, "the parties of a completed e-mail cannot be changed");
            }
            if let Some(column) = self.rules.refused_columns.iter().find(|column| row.contains_key(*column)) {
                return refused(
                    400,
                    0x8004_0233,
                    format!("{column} of a completed e-mail cannot be changed"),
                );
            }
            let status = row.get("statuscode").and_then(Value::as_u64);
            if let Some(status) = status.filter(|status| self.rules.refused_statuses.contains(status)) {
                return refused(400, 0x8004_0233, format!("a completed e-mail cannot become {status}"));
            }
        }
        let mut values = before.values;
        values.extend(row);
        if table.name == "email" && !states_fit(&values) {
            let words = "is not a valid status code for state code";
            return refused(400, 0x8004_8408, format!("{} {words}", values["statuscode"]));
        }
        self.write(table.name, id, values, false);
        match parties {
            Some(parties) => self.parties(id, parties),
            None => Ok(()),
        }
    }
}

/// The name of a person.
fn full_name(row: &mut Row) {
    let text = |name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let name = format!("{} {}", text("firstname"), text("lastname")).trim().to_owned();
    row.insert("fullname".to_owned(), Value::String(name));
}

/// `statecode` and `statuscode` of e-mails go together (5.1).
fn states_fit(row: &Row) -> bool {
    let number = |name: &str| row.get(name).and_then(Value::as_u64);
    match number("statecode") {
        Some(0) => matches!(number("statuscode"), Some(1 | 8)),
        Some(1) => matches!(number("statuscode"), Some(2 | 3 | 4 | 6 | 7)),
        Some(2) => number("statuscode") == Some(5),
        _ => false,
    }
}

fn parent_of(table: &str, row: Option<&Versioned>) -> Option<String> {
    let column = match table {
        "activityparty" => "activityid",
        "activitymimeattachment" => "objectid",
        _ => return None,
    };
    row?.values.get(column)?["id"].as_str().map(str::to_owned)
}

fn decoded(body: &str) -> Option<usize> {
    use base64::Engine as _;
    base64::prelude::BASE64_STANDARD.decode(body).ok().map(|bytes| bytes.len())
}

/// Whether it is a GUID.
pub(super) fn is_id(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(n, byte)| match n {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

pub(super) fn missing<T>(table: &str, id: &str) -> Outcome<T> {
    refused(404, 0x8004_0217, format!("{table} With Id = {id} Does Not Exist"))
}

pub(super) fn no_set<T>(set: &str) -> Outcome<T> {
    refused(404, 0x8006_0888, format!("Resource not found for the segment '{set}'."))
}
