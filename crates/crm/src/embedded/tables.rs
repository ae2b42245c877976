//! The e-mail-enabled tables and where each keeps id, name, addresses and state. Custom tables have the shape of
//! [`CUSTOM`]'s columns, with their own prefix.

use rusqlite::{Connection, OptionalExtension as _};

use super::error::DbResult;

/// Where a table keeps what address look-ups need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TableShape {
    /// Logical name.
    pub(super) table: String,
    /// Primary key.
    pub(super) id: String,
    /// Column with the name.
    pub(super) name: String,
    /// Columns with addresses, the primary address first.
    pub(super) addresses: &'static [&'static str],
    /// SQL: whether the row is active.
    pub(super) active: &'static str,
    /// SQL: the owner's id and table.
    pub(super) owner: &'static str,
}

/// The custom e-mail-enabled table that every new file has.
pub(super) const FIRST_CUSTOM: &str = "new_supplier";

const PEOPLE: &[&str] = &["emailaddress1", "emailaddress2", "emailaddress3"];

/// The shape of a built-in table; `None` for others.
pub(super) fn built_in(table: &str) -> Option<TableShape> {
    let (name, addresses, active, owner) = match table {
        "systemuser" => (
            "fullname",
            &["internalemailaddress", "personalemailaddress", "mobilealertemail"][..],
            "isdisabled = 0",
            "systemuserid, 'systemuser'",
        ),
        "queue" => ("name", &["emailaddress"][..], "statecode = 0", "ownerid, owneridtype"),
        "contact" | "lead" => ("fullname", PEOPLE, "statecode = 0", "ownerid, owneridtype"),
        "account" => ("name", PEOPLE, "statecode = 0", "ownerid, owneridtype"),
        _ => return None,
    };
    Some(TableShape {
        table: table.to_owned(),
        id: format!("{table}id"),
        name: name.to_owned(),
        addresses,
        active,
        owner,
    })
}

/// The shape of a custom table with this name: `<table>id`, `<prefix>_name`, `emailaddress`.
pub(super) fn custom(table: &str) -> TableShape {
    let prefix = table.split('_').next().unwrap_or("new");
    TableShape {
        table: table.to_owned(),
        id: format!("{table}id"),
        name: format!("{prefix}_name"),
        addresses: &["emailaddress"],
        active: "statecode = 0",
        owner: "ownerid, owneridtype",
    }
}

/// The shape of an e-mail-enabled table of this file; `None` when there is none of this name.
pub(super) fn shape(conn: &Connection, table: &str) -> DbResult<Option<TableShape>> {
    if let Some(shape) = built_in(table) {
        return Ok(Some(shape));
    }
    let found: Option<i64> = conn
        .prepare_cached("SELECT 1 FROM entity WHERE logicalname = ?1")?
        .query_row([table], |r| r.get(0))
        .optional()?;
    Ok(found.map(|_| custom(table)))
}

/// Names of the custom tables.
pub(super) fn custom_tables(conn: &Connection) -> DbResult<Vec<String>> {
    let mut statement = conn.prepare_cached("SELECT logicalname FROM entity ORDER BY logicalname")?;
    let rows = statement.query_map([], |r| r.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Makes a custom table; nothing happens when it is there. The caller checked the name with [`is_custom_name`].
pub(super) fn create_custom(conn: &Connection, table: &str) -> DbResult<()> {
    let TableShape { id, name, .. } = custom(table);
    conn.execute_batch(&format!(
        "CREATE TABLE IF NOT EXISTS {table} ({id} TEXT PRIMARY KEY NOT NULL, {name} TEXT NOT NULL, emailaddress TEXT,
           ownerid TEXT, owneridtype TEXT, statecode INTEGER NOT NULL DEFAULT 0, createdon INTEGER NOT NULL,
           modifiedon INTEGER NOT NULL, versionnumber INTEGER NOT NULL DEFAULT 1);"
    ))?;
    conn.execute("INSERT OR IGNORE INTO entity (logicalname, iscustomentity) VALUES (?1, 1)", [table])?;
    Ok(())
}

/// Whether this may be the name of a custom table: a publisher's prefix of 2 to 8 letters or digits, `_`, then letters, digits
/// and `_`, at most 64 characters, lower case. Only such names ever become part of an SQL text.
pub(super) fn is_custom_name(table: &str) -> bool {
    let Some((prefix, rest)) = table.split_once('_') else { return false };
    let word = |t: &str| t.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    (2..=8).contains(&prefix.len())
        && prefix.starts_with(|c: char| c.is_ascii_lowercase())
        && prefix != "sqlite"
        && rest.starts_with(|c: char| c.is_ascii_lowercase())
        && word(rest)
        && word(prefix)
        && table.len() <= 64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_may_become_sql() {
        for (name, good) in [
            ("new_supplier", true),
            ("cr1a_vendor_2", true),
            ("contact", false),
            ("sqlite_x", false),
            ("new_", false),
            ("new_x; DROP TABLE email", false),
            ("New_supplier", false),
            ("n_x", false),
        ] {
            assert_eq!(is_custom_name(name), good, "{name}");
        }
    }
}
