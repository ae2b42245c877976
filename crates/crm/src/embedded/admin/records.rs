//! Records of the tables: list, show, add, update, delete.

use std::collections::BTreeMap;

use email_router_model::{EmailAddress, RecordRef, Timestamp};
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, OptionalExtension as _, Row, params_from_iter};
use serde::Serialize;
use uuid::Uuid;

use super::super::error::DbResult;
use super::super::sql::{Id, Time};
use super::super::tables;
use super::columns::{ColumnInfo, ColumnKind, TableInfo, table};
use crate::{Error, ErrorKind};

/// Column name and text for each column to be set. Letter case of names does not count; an empty text clears an optional column.
pub type Fields = BTreeMap<String, String>;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Record {
    /// Logical name of its table.
    pub table: String,
    /// Primary key.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// Columns by Dataverse name; choices as numbers, flags as `true` or `false`.
    pub fields: BTreeMap<String, serde_json::Value>,
    /// When it was created.
    pub created_on: Timestamp,
    /// When it was last changed.
    pub modified_on: Timestamp,
}

impl Record {
    /// The record as others refer to it.
    #[must_use]
    pub fn reference(&self) -> RecordRef {
        RecordRef::new(self.table.clone(), self.id)
    }
}

/// Which records to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecordFilter {
    /// Only those whose name or one of whose addresses contains this text; letter case of ASCII letters does not count.
    pub text: Option<String>,
    /// At most this many; 0 means 100.
    pub limit: usize,
    /// Pass over so many first.
    pub offset: usize,
}

fn select(info: &TableInfo) -> String {
    let columns: Vec<String> = info
        .columns
        .iter()
        .map(|c| if c.in_user_settings { format!("s.{}", c.name) } else { format!("t.{}", c.name) })
        .collect();
    let join = if info.name == "systemuser" {
        " LEFT JOIN usersettings s ON s.systemuserid = t.systemuserid"
    } else {
        ""
    };
    format!(
        "SELECT t.{}, t.{}, t.createdon, t.modifiedon, {} FROM {} t{join}",
        info.id_column,
        info.name_column,
        columns.join(", "),
        info.name
    )
}

fn read(info: &TableInfo, row: &Row<'_>) -> rusqlite::Result<Record> {
    let mut fields = BTreeMap::new();
    for (n, column) in info.columns.iter().enumerate() {
        let value = match (row.get_ref(n + 4)?, &column.kind) {
            (ValueRef::Integer(i), ColumnKind::Flag) => serde_json::Value::Bool(i != 0),
            (ValueRef::Integer(i), _) => serde_json::Value::from(i),
            (ValueRef::Text(t), _) => serde_json::Value::from(String::from_utf8_lossy(t)),
            _ => serde_json::Value::Null,
        };
        fields.insert(column.name.clone(), value);
    }
    Ok(Record {
        table: info.name.clone(),
        id: row.get::<_, Id>(0)?.0,
        name: row.get(1)?,
        fields,
        created_on: row.get::<_, Time>(2)?.0,
        modified_on: row.get::<_, Time>(3)?.0,
    })
}

pub(super) fn list(conn: &Connection, name: &str, filter: &RecordFilter) -> DbResult<Vec<Record>> {
    let info = table(conn, name)?;
    let mut sql = select(&info);
    let mut parameters = Vec::new();
    if let Some(text) = &filter.text {
        let searched = info.columns.iter().filter(|c| c.kind == ColumnKind::Address).map(|c| &c.name);
        let terms: Vec<String> = std::iter::once(&info.name_column)
            .chain(searched)
            .map(|c| format!("t.{c} LIKE ?1 ESCAPE '\\'"))
            .collect();
        sql.push_str(&format!(" WHERE {}", terms.join(" OR ")));
        let escaped = text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
        parameters.push(Value::Text(format!("%{escaped}%")));
    }
    let limit = if filter.limit == 0 { 100 } else { filter.limit };
    sql.push_str(&format!(
        " ORDER BY t.{}, t.{} LIMIT {limit} OFFSET {}",
        info.name_column, info.id_column, filter.offset
    ));
    let mut statement = conn.prepare(&sql)?;
    let rows = statement.query_map(params_from_iter(parameters), |r| read(&info, r))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The record with this id, or the only one of the table with this address.
pub(super) fn find(conn: &Connection, name: &str, key: &str) -> DbResult<Record> {
    let info = table(conn, name)?;
    let lost = || Error::new(ErrorKind::NotFound, format!("the table {} has no record {key:?}", info.name));
    let id = match Uuid::try_parse(key.trim()) {
        Ok(id) => id,
        Err(_) => {
            let address = EmailAddress::parse(key)
                .map_err(|_| lost().with_hint("give the id of the record or its e-mail address"))?;
            let ids = with_address(conn, &info, &address, None)?;
            match ids[..] {
                [one] => one,
                [] => return Err(lost().into()),
                _ => {
                    return Err(Error::new(
                        ErrorKind::Invalid,
                        format!("several records of {} have the address {address}", info.name),
                    )
                    .with_hint("give the id")
                    .into());
                }
            }
        }
    };
    by_id(conn, &info, id)?.ok_or_else(|| lost().into())
}

pub(super) fn by_id(conn: &Connection, info: &TableInfo, id: Uuid) -> DbResult<Option<Record>> {
    let sql = format!("{} WHERE t.{} = ?1", select(info), info.id_column);
    Ok(conn.prepare_cached(&sql)?.query_row([Id(id)], |r| read(info, r)).optional()?)
}

/// Records of the table with this address in the given column, or in any.
pub(super) fn with_address(
    conn: &Connection,
    info: &TableInfo,
    address: &EmailAddress,
    column: Option<&str>,
) -> DbResult<Vec<Uuid>> {
    if info.name == "mailbox" {
        // forward mailboxes are no parties and stand in no address index; there are few of them
        let mut statement =
            conn.prepare_cached("SELECT mailboxid FROM mailbox WHERE emailaddress = ?1 COLLATE NOCASE")?;
        let rows = statement.query_map([address.as_str()], |r| Ok(r.get::<_, Id>(0)?.0))?;
        return Ok(rows.collect::<Result<_, _>>()?);
    }
    let mut statement = conn.prepare_cached(
        "SELECT DISTINCT parentobjectid FROM emailsearch
         WHERE emailaddress = ?1 AND objecttypecode = ?2 AND emailcolumnname = coalesce(?3, emailcolumnname) LIMIT 101",
    )?;
    let rows = statement.query_map((address.key(), &info.name, column), |r| Ok(r.get::<_, Id>(0)?.0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Adds a record with this id.
pub(super) fn add(
    conn: &Connection,
    info: &TableInfo,
    id: Uuid,
    fields: &Fields,
    now: Timestamp,
) -> DbResult<()> {
    let values = parse(conn, info, fields)?;
    if let Some(missing) =
        info.columns.iter().find(|c| c.required && !values.iter().any(|(v, _)| v.name == c.name))
    {
        return Err(
            Error::new(ErrorKind::Invalid, format!("column {}: may not be missing", missing.name)).into()
        );
    }
    let mut names = vec![info.id_column.clone(), "createdon".to_owned(), "modifiedon".to_owned()];
    let mut parameters = vec![
        Value::Text(id.to_string()),
        Value::Integer(now.as_millisecond()),
        Value::Integer(now.as_millisecond()),
    ];
    for (column, value) in values.iter().filter(|(c, _)| !c.in_user_settings) {
        names.push(column.name.clone());
        parameters.push(value.clone());
        if column.kind == ColumnKind::User && *value != Value::Null {
            names.push("owneridtype".to_owned());
            parameters.push(Value::Text("systemuser".to_owned()));
        }
    }
    let marks = vec!["?"; names.len()].join(", ");
    let sql = format!("INSERT INTO {} ({}) VALUES ({marks})", info.name, names.join(", "));
    conn.prepare_cached(&sql)?.execute(params_from_iter(parameters))?;
    after_write(conn, info, id, &values)
}

/// Changes columns of a record.
pub(super) fn update(
    conn: &Connection,
    info: &TableInfo,
    id: Uuid,
    fields: &Fields,
    now: Timestamp,
) -> DbResult<()> {
    let values = parse(conn, info, fields)?;
    let mut sets = vec!["modifiedon = ?".to_owned(), "versionnumber = versionnumber + 1".to_owned()];
    let mut parameters = vec![Value::Integer(now.as_millisecond())];
    for (column, value) in values.iter().filter(|(c, _)| !c.in_user_settings) {
        sets.push(format!("{} = ?", column.name));
        parameters.push(value.clone());
        if column.kind == ColumnKind::User {
            sets.push("owneridtype = ?".to_owned());
            parameters.push(match value {
                Value::Null => Value::Null,
                _ => Value::Text("systemuser".to_owned()),
            });
        }
    }
    parameters.push(Value::Text(id.to_string()));
    let sql = format!("UPDATE {} SET {} WHERE {} = ?", info.name, sets.join(", "), info.id_column);
    if conn.prepare_cached(&sql)?.execute(params_from_iter(parameters))? == 0 {
        return Err(
            Error::new(ErrorKind::NotFound, format!("the table {} has no record {id}", info.name)).into()
        );
    }
    after_write(conn, info, id, &values)
}

fn parse<'a>(
    conn: &Connection,
    info: &'a TableInfo,
    fields: &Fields,
) -> DbResult<Vec<(&'a ColumnInfo, Value)>> {
    let mut values = Vec::new();
    for (name, text) in fields {
        let column = info.column(name)?;
        if values.iter().any(|(c, _): &(&ColumnInfo, Value)| c.name == column.name) {
            return Err(
                Error::new(ErrorKind::Invalid, format!("column {} is given twice", column.name)).into()
            );
        }
        if let Some(value) = column.parse(conn, text)? {
            values.push((column, value));
        }
    }
    Ok(values)
}

/// Settings of a user, its number in tokens, and the address index.
fn after_write(
    conn: &Connection,
    info: &TableInfo,
    id: Uuid,
    values: &[(&ColumnInfo, Value)],
) -> DbResult<()> {
    if info.name == "systemuser" {
        conn.prepare_cached("INSERT OR IGNORE INTO usersettings (systemuserid) VALUES (?1)")?
            .execute([Id(id)])?;
        for (column, value) in values.iter().filter(|(c, _)| c.in_user_settings) {
            conn.prepare_cached(&format!(
                "UPDATE usersettings SET {} = ?2 WHERE systemuserid = ?1",
                column.name
            ))?
            .execute((Id(id), value))?;
        }
    }
    if tables::shape(conn, &info.name)?.is_none() {
        return Ok(()); // a forward mailbox is no party
    }
    for (column, value) in values.iter().filter(|(c, _)| c.kind == ColumnKind::Address) {
        conn.prepare_cached("DELETE FROM emailsearch WHERE parentobjectid = ?1 AND emailcolumnname = ?2")?
            .execute((Id(id), &column.name))?;
        if let Value::Text(text) = value
            && let Ok(address) = EmailAddress::parse(text)
        {
            conn.prepare_cached(
                "INSERT INTO emailsearch (emailaddress, parentobjectid, objecttypecode, emailcolumnname) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute((address.key(), Id(id), &info.name, &column.name))?;
        }
    }
    Ok(())
}

/// Deletes a record. A user or queue that e-mails or other records need stays, with the reason.
pub(super) fn delete(conn: &Connection, info: &TableInfo, id: Uuid) -> DbResult<()> {
    let keep = |why: &str, hint: &str| {
        Error::new(ErrorKind::Invalid, format!("{} {id} cannot be deleted: {why}", info.name))
            .with_hint(hint.to_owned())
    };
    let any =
        |sql: &str| -> DbResult<bool> { Ok(conn.prepare_cached(sql)?.query_row([Id(id)], |r| r.get(0))?) };
    if matches!(info.name.as_str(), "systemuser" | "queue")
        && (any("SELECT EXISTS (SELECT 1 FROM email WHERE statuscode = 6 AND emailsender = ?1)")?
            || any("SELECT EXISTS (SELECT 1 FROM email WHERE statuscode = 7 AND emailsender = ?1)")?)
    {
        return Err(keep("e-mails of it wait to be sent", "cancel or send them first").into());
    }
    if info.name == "systemuser" {
        if any("SELECT EXISTS (SELECT 1 FROM activityparty WHERE partyid = ?1)")? {
            return Err(keep("it is a party of e-mails", "disable it instead: isdisabled=true").into());
        }
        if any("SELECT EXISTS (SELECT 1 FROM queue WHERE ownerid = ?1)")? {
            return Err(keep("it owns a queue", "give the queue another owner first").into());
        }
    }
    let sql = format!("DELETE FROM {} WHERE {} = ?1", info.name, info.id_column);
    if conn.prepare_cached(&sql)?.execute([Id(id)])? == 0 {
        return Err(
            Error::new(ErrorKind::NotFound, format!("the table {} has no record {id}", info.name)).into()
        );
    }
    conn.prepare_cached("DELETE FROM emailsearch WHERE parentobjectid = ?1")?.execute([Id(id)])?;
    Ok(())
}
