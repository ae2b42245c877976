//! What the organization's metadata says: which tables have e-mail addresses, how tables, columns and lookups are called (`crm-contract.md` 5).

use std::collections::HashMap;

use email_router_model::RecordRef;
use serde_json::{Map, Value};

use super::web_api::Session;
use crate::{Error, ErrorKind, Result};

/// A table whose records can be participants of an e-mail and have an address, custom ones among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EmailTable {
    /// `contact`.
    pub(crate) logical_name: String,
    /// `contacts`.
    pub(crate) entity_set: String,
    /// `contactid`.
    pub(crate) primary_id: String,
    /// `fullname`.
    pub(crate) primary_name: String,
    /// All columns of format Email (9.2).
    pub(crate) email_columns: Vec<String>,
    /// Whether changes can be asked for (11.6).
    pub(crate) change_tracking: bool,
    /// Whether its records have an owner.
    pub(crate) has_owner: bool,
    /// Which column says whether a record is in use.
    pub(crate) state: StateColumn,
}

/// Which column says whether a record is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StateColumn {
    /// None: it always is.
    None,
    /// `statecode` 0.
    StateCode,
    /// `isdisabled` false.
    IsDisabled,
}

impl EmailTable {
    /// The columns that the mirror reads.
    pub(crate) fn select(&self) -> String {
        let mut columns = vec![self.primary_id.as_str(), self.primary_name.as_str(), "createdon"];
        columns.extend(self.email_columns.iter().map(String::as_str));
        if self.has_owner {
            columns.push("_ownerid_value");
        }
        match self.state {
            StateColumn::None => {}
            StateColumn::StateCode => columns.push("statecode"),
            StateColumn::IsDisabled => columns.push("isdisabled"),
        }
        columns.join(",")
    }
}

/// A column of a table that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Column {
    /// Characters, where it is a text.
    max_length: Option<usize>,
    create: bool,
    update: bool,
    read: bool,
}

/// The metadata that the router needs, read once for each connection.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    sets: HashMap<String, (String, String, String)>,
    email_tables: Vec<EmailTable>,
    columns: HashMap<String, HashMap<String, Column>>,
    /// By table, lookup and the table it points to: the name that `@odata.bind` takes.
    lookups: HashMap<(String, String, String), String>,
}

/// What `EntityDefinitions` is asked for.
const DEFINITION: &str = "LogicalName,EntitySetName,PrimaryIdAttribute,PrimaryNameAttribute,ChangeTrackingEnabled,OwnershipType,IsActivityParty";
/// Tables whose columns are written.
const WRITTEN: [&str; 4] = ["email", "activitymimeattachment", "contact", "lead"];
/// Tables whose lookups are written.
const REFERENCING: [&str; 6] =
    ["email", "activityparty", "queueitem", "activitymimeattachment", "contact", "lead"];

impl Tables {
    pub(crate) async fn read(session: &Session) -> Result<Self> {
        let doing = "reading which tables there are";
        let definitions =
            session.pages(format!("EntityDefinitions?$select={DEFINITION}"), &[], doing).all(100_000).await?;
        let mut tables = Self::default();
        let mut parties = Vec::new();
        for row in &definitions {
            let text = |name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            let (name, set) = (text("LogicalName"), text("EntitySetName"));
            if name.is_empty() || set.is_empty() {
                continue; // no table of the Web API
            }
            if flag(row, "IsActivityParty") {
                parties.push(row);
            }
            tables.sets.insert(name, (set, text("PrimaryIdAttribute"), text("PrimaryNameAttribute")));
        }
        for row in parties {
            if let Some(table) = email_table(session, row).await? {
                tables.email_tables.push(table);
            }
        }
        for table in WRITTEN {
            tables.columns.insert(table.to_owned(), columns(session, table).await?);
        }
        for table in REFERENCING {
            let path = format!(
                "EntityDefinitions(LogicalName='{table}')/ManyToOneRelationships?$select=ReferencingAttribute,ReferencedEntity,\
                 ReferencingEntityNavigationPropertyName"
            );
            for row in session.pages(path, &[], doing).all(100_000).await? {
                let text = |name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
                let key = (table.to_owned(), text("ReferencingAttribute"), text("ReferencedEntity"));
                tables.lookups.insert(key, text("ReferencingEntityNavigationPropertyName"));
            }
        }
        Ok(tables)
    }

    /// All tables with addresses.
    pub(crate) fn email_tables(&self) -> &[EmailTable] {
        &self.email_tables
    }

    /// A record in URLs, behind the version: `contacts(<id>)`.
    pub(crate) fn path(&self, record: &RecordRef) -> Result<String> {
        match self.sets.get(&record.table) {
            Some((set, ..)) => Ok(format!("{set}({})", record.id)),
            None => {
                let message = format!("the organization has no table {:?}", record.table);
                Err(Error::new(ErrorKind::NotFound, message))
            }
        }
    }

    /// Primary id and primary name of a table.
    pub(crate) fn primary(&self, table: &str) -> Option<(&str, &str)> {
        self.sets.get(table).map(|(_, id, name)| (id.as_str(), name.as_str()))
    }

    /// Sets a lookup: `attribute` of a new or changed row of `table` points to `record`. Left out where the organization has no such lookup.
    pub(crate) fn bind(
        &self,
        row: &mut Map<String, Value>,
        table: &str,
        attribute: &str,
        record: &RecordRef,
    ) -> Result<bool> {
        let key = (table.to_owned(), attribute.to_owned(), record.table.clone());
        // an owner is the table `owner` in metadata, whatever it is (user or team)
        let owner = (table.to_owned(), attribute.to_owned(), "owner".to_owned());
        let Some(name) = self.lookups.get(&key).or_else(|| self.lookups.get(&owner)) else {
            return Ok(false);
        };
        row.insert(format!("{name}@odata.bind"), Value::String(format!("/{}", self.path(record)?)));
        Ok(true)
    }

    /// Sets a column of a row of this table, as far as the organization has it and takes it; texts are cut to its length.
    pub(crate) fn set(&self, row: &mut Map<String, Value>, table: &str, name: &str, value: Value) {
        let Some(column) = self.column(table, name).filter(|column| column.create || column.update) else {
            return;
        };
        let value = match (value, column.max_length) {
            (Value::String(text), Some(most)) => Value::String(cut(text, most)),
            (value, _) => value,
        };
        row.insert(name.to_owned(), value);
    }

    fn column(&self, table: &str, name: &str) -> Option<&Column> {
        self.columns.get(table)?.get(name)
    }

    /// Whether e-mails have this column and it can be read.
    pub(crate) fn email_has(&self, name: &str) -> bool {
        self.column("email", name).is_some_and(|column| column.read)
    }

    /// Length of a text column of e-mails, in UTF-16 units.
    pub(crate) fn email_length(&self, name: &str) -> Option<usize> {
        self.column("email", name)?.max_length
    }

    /// Of these columns of an e-mail those that can be read, for `$select`; lookups are named as they are read (`_x_value`).
    pub(crate) fn email_select(&self, names: &[&str]) -> String {
        let known = |name: &&&str| {
            let attribute = name.strip_prefix('_').and_then(|name| name.strip_suffix("_value"));
            self.email_has(attribute.unwrap_or(name))
        };
        names.iter().filter(known).copied().collect::<Vec<_>>().join(",")
    }
}

/// At most so many UTF-16 units, which is how .NET counts characters.
pub(crate) fn cut(text: String, most: usize) -> String {
    let mut units = 0;
    match text.char_indices().find(|(_, c)| {
        units += c.len_utf16();
        units > most
    }) {
        Some((end, _)) => text[..end].to_owned(),
        None => text,
    }
}

/// A switch, which metadata writes as itself or as an object with a `Value`.
fn flag(row: &Value, name: &str) -> bool {
    row.get(name).map(|value| value.get("Value").unwrap_or(value)).and_then(Value::as_bool).unwrap_or(false)
}

async fn email_table(session: &Session, row: &Value) -> Result<Option<EmailTable>> {
    let text = |name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let logical_name = text("LogicalName");
    let path = format!(
        "EntityDefinitions(LogicalName='{logical_name}')/Attributes/Microsoft.Dynamics.CRM.StringAttributeMetadata?\
         $select=LogicalName,FormatName,IsValidForRead"
    );
    let doing = format!("reading which addresses the table {logical_name} has");
    let mut email_columns = Vec::new();
    for column in session.pages(path, &[], &doing).all(10_000).await? {
        let format = column.get("FormatName").map(|format| format.get("Value").unwrap_or(format));
        if format.and_then(Value::as_str) == Some("Email")
            && column.get("IsValidForRead").and_then(Value::as_bool) != Some(false)
            && let Some(name) = column.get("LogicalName").and_then(Value::as_str)
        {
            email_columns.push(name.to_owned());
        }
    }
    if email_columns.is_empty() {
        return Ok(None);
    }
    let state = match logical_name.as_str() {
        "systemuser" | "businessunit" | "equipment" => StateColumn::IsDisabled,
        "team" => StateColumn::None,
        _ => StateColumn::StateCode,
    };
    Ok(Some(EmailTable {
        entity_set: text("EntitySetName"),
        primary_id: text("PrimaryIdAttribute"),
        primary_name: text("PrimaryNameAttribute"),
        email_columns,
        change_tracking: flag(row, "ChangeTrackingEnabled"),
        has_owner: matches!(text("OwnershipType").as_str(), "UserOwned" | "TeamOwned"),
        state,
        logical_name,
    }))
}

async fn columns(session: &Session, table: &str) -> Result<HashMap<String, Column>> {
    let doing = format!("reading which columns the table {table} has");
    let base = format!("EntityDefinitions(LogicalName='{table}')/Attributes");
    let mut columns = HashMap::new();
    let path = format!("{base}?$select=LogicalName,IsValidForCreate,IsValidForUpdate,IsValidForRead");
    for row in session.pages(path, &[], &doing).all(10_000).await? {
        if let Some(name) = row.get("LogicalName").and_then(Value::as_str) {
            let is = |what: &str| row.get(what).and_then(Value::as_bool).unwrap_or(true);
            let (create, update) = (is("IsValidForCreate"), is("IsValidForUpdate"));
            let column = Column { max_length: None, create, update, read: is("IsValidForRead") };
            columns.insert(name.to_owned(), column);
        }
    }
    let path = format!("{base}/Microsoft.Dynamics.CRM.StringAttributeMetadata?$select=LogicalName,MaxLength");
    for row in session.pages(path, &[], &doing).all(10_000).await? {
        let length = row.get("MaxLength").and_then(Value::as_u64).and_then(|most| usize::try_from(most).ok());
        let name = row.get("LogicalName").and_then(Value::as_str);
        if let Some(column) = name.and_then(|name| columns.get_mut(name)) {
            column.max_length = length;
        }
    }
    Ok(columns)
}
