//! The columns a person may read and write, table by table.

use email_router_model::EmailAddress;
use rusqlite::Connection;
use rusqlite::types::Value;
use serde::Serialize;

use super::super::error::{DbError, DbResult};
use super::super::lookup;
use super::super::sql::Id;
use super::super::tables;
use crate::{Error, ErrorKind};

/// A table of records, described for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableInfo {
    /// Logical name.
    pub name: String,
    /// Primary key column.
    pub id_column: String,
    /// Column with the name of a record.
    pub name_column: String,
    /// Whether an administrator made it.
    pub custom: bool,
    /// Columns that can be set.
    pub columns: Vec<ColumnInfo>,
}

/// A column that can be set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ColumnInfo {
    /// Dataverse name.
    pub name: String,
    /// What it takes.
    pub kind: ColumnKind,
    /// Whether a new record must have it.
    pub required: bool,
    /// What it is for.
    pub about: &'static str,
    /// Kept in `usersettings` rather than in the table itself.
    #[serde(skip)]
    pub(super) in_user_settings: bool,
}

/// What a column takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnKind {
    /// Text of at most so many characters.
    Text(usize),
    /// An e-mail address.
    Address,
    /// true or false.
    Flag,
    /// One of these numbers or words.
    Choice(&'static [(i64, &'static str)]),
    /// A user, by id or address; the owner.
    User,
    /// A queue, by id or address.
    Queue,
    /// A whole number from 0.
    Number,
}

const IN: &[(i64, &str)] = &[(0, "none"), (1, "outlook"), (2, "router"), (3, "forward")];
const OUT: &[(i64, &str)] = &[(0, "none"), (1, "outlook"), (2, "router")];
const APPROVAL: &[(i64, &str)] = &[(0, "empty"), (1, "approved"), (2, "pending"), (3, "rejected")];
const FILTER: &[(i64, &str)] = &[(0, "all"), (1, "response"), (2, "lac"), (3, "enabled"), (4, "none")];
const STATE: &[(i64, &str)] = &[(0, "active"), (1, "inactive")];
const VIEW: &[(i64, &str)] = &[(0, "public"), (1, "private")];

fn column(name: &str, kind: ColumnKind, about: &'static str) -> ColumnInfo {
    ColumnInfo { name: name.to_owned(), kind, required: false, about, in_user_settings: false }
}

fn required(name: &str, kind: ColumnKind, about: &'static str) -> ColumnInfo {
    ColumnInfo { required: true, ..column(name, kind, about) }
}

fn setting(name: &str, kind: ColumnKind, about: &'static str) -> ColumnInfo {
    ColumnInfo { in_user_settings: true, ..column(name, kind, about) }
}

/// The table of this name; an error that lists the tables when there is none.
pub(super) fn table(conn: &Connection, name: &str) -> DbResult<TableInfo> {
    let name = name.to_ascii_lowercase();
    if let Some(info) = known(&name) {
        return Ok(info);
    }
    let custom = tables::custom_tables(conn)?;
    if custom.contains(&name) {
        return Ok(custom_table(&name));
    }
    let all = BUILT_IN.iter().map(|t| (*t).to_owned()).chain(custom).collect::<Vec<_>>().join(", ");
    Err(Error::new(ErrorKind::NotFound, format!("there is no table {name:?}"))
        .with_hint(format!("the tables are: {all}"))
        .into())
}

/// All tables.
pub(super) fn all(conn: &Connection) -> DbResult<Vec<TableInfo>> {
    let custom = tables::custom_tables(conn)?;
    Ok(BUILT_IN.iter().filter_map(|t| known(t)).chain(custom.iter().map(|t| custom_table(t))).collect())
}

const BUILT_IN: &[&str] = &["systemuser", "queue", "mailbox", "contact", "account", "lead"];

fn custom_table(name: &str) -> TableInfo {
    let shape = tables::custom(name);
    let columns = vec![
        required(&shape.name, ColumnKind::Text(160), "name"),
        column("emailaddress", ColumnKind::Address, "its address"),
        column("ownerid", ColumnKind::User, "the user who owns it"),
        column("statecode", ColumnKind::Choice(STATE), "whether it is in use"),
    ];
    info(name, &shape.name, true, columns)
}

fn info(name: &str, name_column: &str, custom: bool, columns: Vec<ColumnInfo>) -> TableInfo {
    TableInfo {
        name: name.to_owned(),
        id_column: format!("{name}id"),
        name_column: name_column.to_owned(),
        custom,
        columns,
    }
}

fn known(name: &str) -> Option<TableInfo> {
    use ColumnKind::{Address, Choice, Flag, Number, Queue, Text, User};
    let (name_column, columns) = match name {
        "systemuser" => (
            "fullname",
            vec![
                required("fullname", Text(200), "full name"),
                column("internalemailaddress", Address, "the address of the mailbox"),
                column("personalemailaddress", Address, "a second address"),
                column("mobilealertemail", Address, "a third address"),
                column("domainname", Text(1024), "log-in name"),
                column("queueid", Queue, "the default queue, for AutoRouteToOwnerQueue"),
                column("isdisabled", Flag, "a disabled user sends, receives and resolves to nothing"),
                column("incomingemaildeliverymethod", Choice(IN), "how mail comes in"),
                column("outgoingemaildeliverymethod", Choice(OUT), "how mail goes out"),
                column("emailrouteraccessapproval", Choice(APPROVAL), "whether the address is approved"),
                setting("incomingemailfilteringmethod", Choice(FILTER), "which mail becomes an activity"),
                setting("issendasallowed", Flag, "others may send in this user's name"),
                setting("trackingtokenid", Number, "the user's number in tracking tokens"),
                setting("nexttrackingnumber", Number, "counter of the next tracking token"),
            ],
        ),
        "queue" => (
            "name",
            vec![
                required("name", Text(200), "name"),
                column("emailaddress", Address, "the address of the mailbox"),
                column("ownerid", User, "the user who owns it"),
                column("incomingemailfilteringmethod", Choice(FILTER), "which mail becomes an activity"),
                column("incomingemaildeliverymethod", Choice(IN), "how mail comes in"),
                column("outgoingemaildeliverymethod", Choice(OUT), "how mail goes out"),
                column("emailrouteraccessapproval", Choice(APPROVAL), "whether the address is approved"),
                column("queueviewtype", Choice(VIEW), "who sees it"),
                column("statecode", Choice(STATE), "whether it is in use"),
                column("trackingtokenid", Number, "the queue's number in tracking tokens"),
                column("nexttrackingnumber", Number, "counter of the next tracking token"),
            ],
        ),
        "mailbox" => (
            "name",
            vec![
                required("name", Text(200), "name"),
                required("emailaddress", Address, "the address of the forward mailbox"),
                column("incomingemaildeliverymethod", Choice(IN), "how mail comes in"),
                column("emailrouteraccessapproval", Choice(APPROVAL), "whether the address is approved"),
                column("statecode", Choice(STATE), "whether it is in use"),
            ],
        ),
        "contact" | "account" | "lead" => {
            let name_column = if name == "account" { "name" } else { "fullname" };
            (
                name_column,
                vec![
                    required(name_column, Text(160), "name"),
                    column("emailaddress1", Address, "primary address"),
                    column("emailaddress2", Address, "second address"),
                    column("emailaddress3", Address, "third address"),
                    column("ownerid", User, "the user who owns it"),
                    column("statecode", Choice(STATE), "whether it is in use"),
                ],
            )
        }
        _ => return None,
    };
    Some(info(name, name_column, false, columns))
}

impl TableInfo {
    /// The column of this name, whatever its letter case; an error that lists the columns when there is none.
    pub(super) fn column(&self, name: &str) -> Result<&ColumnInfo, Error> {
        self.columns.iter().find(|c| c.name.eq_ignore_ascii_case(name.trim())).ok_or_else(|| {
            let all = self.columns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ");
            Error::new(
                ErrorKind::NotFound,
                format!("the table {} has no column {:?}", self.name, name.trim()),
            )
            .with_hint(format!("its columns are: {} (the key), {all}", self.id_column))
        })
    }
}

impl ColumnInfo {
    /// The value for the column, `None` where the text is empty and the column then takes its default.
    pub(super) fn parse(&self, conn: &Connection, text: &str) -> DbResult<Option<Value>> {
        let text = text.trim();
        let wrong = |what: String| Error::new(ErrorKind::Invalid, format!("column {}: {what}", self.name));
        if text.is_empty() {
            return match self.kind {
                _ if self.required => Err(wrong("may not be empty".to_owned()).into()),
                ColumnKind::Text(_) | ColumnKind::Address | ColumnKind::User | ColumnKind::Queue => {
                    Ok(Some(Value::Null))
                }
                ColumnKind::Flag | ColumnKind::Choice(_) | ColumnKind::Number => Ok(None),
            };
        }
        let value = match &self.kind {
            ColumnKind::Text(most) => {
                let length = text.chars().count();
                if length > *most {
                    return Err(wrong(format!("{length} characters; at most {most} are allowed")).into());
                }
                if text.chars().any(char::is_control) {
                    return Err(wrong("may not contain control characters".to_owned()).into());
                }
                Value::Text(text.to_owned())
            }
            ColumnKind::Address => {
                let address = EmailAddress::parse(text).map_err(|e| wrong(e.to_string()))?;
                Value::Text(address.as_str().to_owned())
            }
            ColumnKind::Flag => match text.to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Value::Integer(1),
                "false" | "0" | "no" | "off" => Value::Integer(0),
                _ => return Err(wrong(format!("{text:?} is neither true nor false")).into()),
            },
            ColumnKind::Choice(choices) => {
                let found = choices.iter().find(|(n, word)| {
                    word.eq_ignore_ascii_case(text) || text.parse::<i64>().ok() == Some(*n)
                });
                let (number, _) = found.ok_or_else(|| {
                    let all = choices.iter().map(|(n, w)| format!("{n} {w}")).collect::<Vec<_>>().join(", ");
                    wrong(format!("{text:?} is not one of: {all}"))
                })?;
                Value::Integer(*number)
            }
            ColumnKind::Number => match text.parse::<i64>() {
                Ok(n) if (0..=2_147_483_647).contains(&n) => Value::Integer(n),
                _ => return Err(wrong(format!("{text:?} is not a whole number from 0 to 2147483647")).into()),
            },
            ColumnKind::User | ColumnKind::Queue => Value::Text(
                record(conn, if self.kind == ColumnKind::User { "systemuser" } else { "queue" }, text)
                    .map_err(|e| match e {
                        DbError::Crm(e) => DbError::Crm(wrong(e.to_string())),
                        e => e,
                    })?
                    .0
                    .to_string(),
            ),
        };
        Ok(Some(value))
    }
}

/// A user or queue by id or by one of its addresses.
fn record(conn: &Connection, table: &str, text: &str) -> DbResult<Id> {
    let what = if table == "systemuser" { "user" } else { table };
    let lost = || Error::new(ErrorKind::NotFound, format!("no {what} has the id or address {text:?}"));
    let id = match uuid::Uuid::try_parse(text) {
        Ok(id) => id,
        Err(_) => {
            let address = EmailAddress::parse(text).map_err(|_| lost())?;
            let found = lookup::resolve(conn, &address)?;
            let mut found = found.iter().filter(|r| r.record.table == table);
            match (found.next(), found.next()) {
                (Some(one), None) => one.record.id,
                (None, _) => return Err(lost().into()),
                (Some(_), Some(_)) => {
                    return Err(Error::new(
                        ErrorKind::Invalid,
                        format!(
                            "several records of the table {table} have the address {address}; give the id"
                        ),
                    )
                    .into());
                }
            }
        }
    };
    let there: bool = conn
        .prepare_cached(&format!("SELECT EXISTS (SELECT 1 FROM {table} WHERE {table}id = ?1)"))?
        .query_row([Id(id)], |r| r.get(0))?;
    if there { Ok(Id(id)) } else { Err(lost().into()) }
}
