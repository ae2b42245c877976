//! How Rust values are kept in columns: ids as lower-case text (as Dataverse writes them), times as milliseconds since 1970
//! in UTC, lists one item a line.

use email_router_model::{ActivityId, EmailAddress, MessageId, RecordRef, Timestamp};
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, Row};
use uuid::Uuid;

use super::error::DbResult;

/// A key in a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id(pub(super) Uuid);

impl ToSql for Id {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.0.to_string()))
    }
}

impl FromSql for Id {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Uuid::try_parse(value.as_str()?).map(Self).map_err(|e| FromSqlError::Other(Box::new(e)))
    }
}

impl From<ActivityId> for Id {
    fn from(id: ActivityId) -> Self {
        Self(*id.as_uuid())
    }
}

/// A point in time in a column.
#[derive(Debug, Clone, Copy)]
pub(super) struct Time(pub(super) Timestamp);

impl ToSql for Time {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.0.as_millisecond()))
    }
}

impl FromSql for Time {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let ms = value.as_i64()?;
        Timestamp::from_millisecond(ms).map(Self).map_err(|_| FromSqlError::OutOfRange(ms))
    }
}

pub(super) fn activity(id: Id) -> ActivityId {
    ActivityId::from_uuid(id.0)
}

/// The id half of a polymorphic look-up.
pub(super) fn ref_id(record: Option<&RecordRef>) -> Option<Id> {
    record.map(|r| Id(r.id))
}

/// The type half of a polymorphic look-up.
pub(super) fn ref_table(record: Option<&RecordRef>) -> Option<&str> {
    record.map(|r| r.table.as_str())
}

/// The polymorphic look-up in the columns `at` (id) and `at + 1` (table).
pub(super) fn reference(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<RecordRef>> {
    let (id, table): (Option<Id>, Option<String>) = (row.get(at)?, row.get(at + 1)?);
    Ok(id.zip(table).map(|(id, table)| RecordRef::new(table, id.0)))
}

/// A Message-ID column; text that is none reads as absent.
pub(super) fn message_id(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<MessageId>> {
    Ok(row.get::<_, Option<String>>(at)?.as_deref().and_then(MessageId::parse))
}

/// An address column; text that is no address reads as absent.
pub(super) fn address(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<EmailAddress>> {
    Ok(row.get::<_, Option<String>>(at)?.as_deref().and_then(|t| EmailAddress::parse(t).ok()))
}

/// Several lines as one column; `None` when there is none.
pub(super) fn lines<T: std::fmt::Display>(items: &[T]) -> Option<String> {
    (!items.is_empty()).then(|| {
        items.iter().map(|i| i.to_string().replace(['\r', '\n'], " ")).collect::<Vec<_>>().join("\n")
    })
}

/// Runs a statement that has no rows and no parameters, prepared once per connection.
pub(super) fn run(conn: &Connection, sql: &'static str) -> DbResult<()> {
    conn.prepare_cached(sql)?.execute([])?;
    Ok(())
}

/// A random id (UUID version 4) from this source.
pub(super) fn random_id(entropy: &dyn email_router_model::Entropy) -> Uuid {
    let mut bytes = [0; 16];
    entropy.fill(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}
