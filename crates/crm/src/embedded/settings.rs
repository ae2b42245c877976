//! Settings of the organization: rows of the table `organization`, one for each setting that was changed.

use rusqlite::{Connection, OptionalExtension as _};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::error::DbResult;
use crate::setting::{Setting, canonical, changed_settings as changed, check, choices, object};
use crate::{Error, ErrorKind, OrganizationSettings};

/// Row that is not a setting: the namespace of activity ids.
const ORGANIZATION_ID: &str = "organizationid";

/// All settings as they are now.
pub(super) fn read(conn: &Connection) -> DbResult<OrganizationSettings> {
    let mut statement = conn.prepare_cached("SELECT name, value FROM organization")?;
    let rows = statement.query_map([], |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?)))?;
    let mut map = Map::new();
    for row in rows {
        let (name, text) = row?;
        let value = serde_json::from_str(&text).map_err(|e| bad_row(&name, &e))?;
        map.insert(name, value);
    }
    serde_json::from_value(Value::Object(map)).map_err(|e| bad_row("organization", &e).into())
}

/// Whether a switch whose default is off is on: cheaper than reading all settings, for what is asked with every e-mail.
pub(super) fn is_on(conn: &Connection, name: &str) -> DbResult<bool> {
    let mut statement = conn.prepare_cached("SELECT value = 'true' FROM organization WHERE name = ?1")?;
    Ok(statement.query_row([name], |r| r.get(0)).optional()?.unwrap_or(false))
}

/// `DisableSmartMatchingEmailHashCreation`, for [`is_on`].
pub(super) const NO_HASHES: &str = "DisableSmartMatchingEmailHashCreation";
/// `resolvesimilarunresolvedemailaddress`, for [`is_on`].
pub(super) const RESOLVE_SIMILAR: &str = "resolvesimilarunresolvedemailaddress";

/// Makes up the id of the organization the first time.
pub(super) fn ensure_organization_id(conn: &Connection, fresh: Uuid) -> DbResult<()> {
    conn.execute(
        "INSERT OR IGNORE INTO organization (name, value) VALUES (?1, ?2)",
        (ORGANIZATION_ID, Value::String(fresh.to_string()).to_string()),
    )?;
    Ok(())
}

/// The id of the organization.
pub(super) fn organization_id(conn: &Connection) -> DbResult<Uuid> {
    let text: Option<String> = conn
        .query_row("SELECT value FROM organization WHERE name = ?1", [ORGANIZATION_ID], |r| r.get(0))
        .optional()?;
    text.and_then(|t| serde_json::from_str::<Uuid>(&t).ok())
        .ok_or_else(|| Error::new(ErrorKind::Damaged, "the CRM file holds no valid organizationid").into())
}

/// Every setting with its value and default, by name.
pub(super) fn list(conn: &Connection) -> DbResult<Vec<Setting>> {
    let (now, default) = (object(&read(conn)?)?, object(&OrganizationSettings::default())?);
    Ok(default
        .into_iter()
        .map(|(name, default)| Setting {
            value: now.get(&name).unwrap_or(&default).clone(),
            choices: choices(&name),
            name,
            default,
        })
        .collect())
}

/// Stores all settings that differ from their default, after checking them.
pub(super) fn write(conn: &Connection, settings: &OrganizationSettings) -> DbResult<()> {
    check(settings)?;
    let default = object(&OrganizationSettings::default())?;
    for (name, value) in object(settings)? {
        if default.get(&name) == Some(&value) {
            conn.execute("DELETE FROM organization WHERE name = ?1", [&name])?;
        } else {
            conn.execute(
                "INSERT INTO organization (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2",
                (&name, value.to_string()),
            )?;
        }
    }
    Ok(())
}

/// Sets one setting from text.
pub(super) fn set(conn: &Connection, name: &str, text: &str) -> DbResult<Setting> {
    let after = changed(&read(conn)?, name, text)?;
    write(conn, &after)?;
    get(conn, name)
}

/// One setting.
pub(super) fn get(conn: &Connection, name: &str) -> DbResult<Setting> {
    let (now, default) = (object(&read(conn)?)?, object(&OrganizationSettings::default())?);
    let name = canonical(&default, name)?;
    let (value, default) = (now[&name].clone(), default[&name].clone());
    Ok(Setting { value, default, choices: choices(&name), name })
}

fn bad_row(name: &str, error: &serde_json::Error) -> Error {
    Error::new(ErrorKind::Damaged, format!("the setting {name} in the CRM file cannot be read: {error}"))
        .with_hint("set it again with `email-router crm settings set`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_that_are_read_alone_are_off_by_default() {
        let defaults = object(&OrganizationSettings::default()).unwrap();
        for name in [NO_HASHES, RESOLVE_SIMILAR] {
            assert_eq!(defaults[name], Value::Bool(false), "{name}");
        }
    }
}
