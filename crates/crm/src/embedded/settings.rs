//! Settings of the organization: rows of the table `organization`, one for each setting that was changed.

use rusqlite::{Connection, OptionalExtension as _};
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::error::DbResult;
use crate::{Error, ErrorKind, OrganizationSettings};

/// Row that is not a setting: the namespace of activity ids.
const ORGANIZATION_ID: &str = "organizationid";

/// One setting of the organization, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Its Dataverse name.
    pub name: String,
    /// Its value now.
    pub value: Value,
    /// Its documented default.
    pub default: Value,
}

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
        .map(|(name, default)| Setting { value: now.get(&name).unwrap_or(&default).clone(), name, default })
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

/// Sets one setting from text. A list takes `;` between its items. A prefix that is replaced goes to the head of the history,
/// so that tokens in old subjects are still found.
pub(super) fn set(conn: &Connection, name: &str, text: &str) -> DbResult<Setting> {
    let before = read(conn)?;
    let mut map = object(&before)?;
    let name = canonical(&map, name)?;
    let wrong = |what: &str| Error::new(ErrorKind::Invalid, format!("{name} = {text:?}: {what}"));
    let text = text.trim();
    let value = match &map[&name] {
        Value::Bool(_) => match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Value::Bool(true),
            "false" | "0" | "no" | "off" => Value::Bool(false),
            _ => return Err(wrong("give true or false").into()),
        },
        Value::Number(_) => Value::from(text.parse::<i64>().map_err(|_| wrong("give a whole number"))?),
        Value::Array(_) => text
            .split(';')
            .map(str::trim)
            .filter(|t| !t.is_empty())
            .map(|t| Value::String(t.to_owned()))
            .collect(),
        _ => Value::String(text.to_owned()),
    };
    map.insert(name.clone(), value);
    let mut after: OrganizationSettings = serde_json::from_value(Value::Object(map))
        .map_err(|e| wrong(&format!("not a value of this setting ({e})")))?;
    for extension in &mut after.blocked_attachments {
        *extension = extension.trim_start_matches('.').to_lowercase();
    }
    if after.tracking_prefix != before.tracking_prefix {
        after.tracking_prefix_history.retain(|p| *p != before.tracking_prefix && *p != after.tracking_prefix);
        after.tracking_prefix_history.insert(0, before.tracking_prefix);
    }
    write(conn, &after)?;
    get(conn, &name)
}

/// One setting.
pub(super) fn get(conn: &Connection, name: &str) -> DbResult<Setting> {
    let (now, default) = (object(&read(conn)?)?, object(&OrganizationSettings::default())?);
    let name = canonical(&default, name)?;
    Ok(Setting { value: now[&name].clone(), default: default[&name].clone(), name })
}

/// The name as it is spelled; an error that lists the names when there is no such setting.
fn canonical(map: &Map<String, Value>, name: &str) -> Result<String, Error> {
    map.keys().find(|k| k.eq_ignore_ascii_case(name)).cloned().ok_or_else(|| {
        let names: Vec<_> = map.keys().map(String::as_str).collect();
        Error::new(ErrorKind::NotFound, format!("the organization has no setting {name:?}"))
            .with_hint(format!("the settings are: {}", names.join(", ")))
    })
}

/// The ranges of `crm-contract.md` 5.6, 8.2 and 16.
fn check(s: &OrganizationSettings) -> Result<(), Error> {
    let range = |name: &str, value: i64, low: i64, high: i64| {
        if (low..=high).contains(&value) {
            Ok(())
        } else {
            Err(Error::new(ErrorKind::Invalid, format!("{name} is {value}; it must be {low} to {high}")))
        }
    };
    for prefix in std::iter::once(&s.tracking_prefix).chain(&s.tracking_prefix_history) {
        let length = prefix.chars().count();
        if !(1..=20).contains(&length) || prefix.chars().any(char::is_control) || prefix.trim() != prefix {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "trackingprefix is {prefix:?}; it must be 1 to 20 characters without white space around"
                ),
            ));
        }
    }
    range("trackingtokenidbase", s.tracking_token_id_base.into(), 0, 2_147_483_647)?;
    range("trackingtokeniddigits", s.tracking_token_id_digits.into(), 1, 10)?;
    range("maximumtrackingnumber", s.maximum_tracking_number.into(), 1, 999_999_999)?;
    range("hashmaxcount", s.hash_max_count.into(), 1, 1000)?;
    range("hashdeltasubjectcount", s.hash_delta_subject_count.into(), 0, 1000)?;
    range("hashminaddresscount", s.hash_min_address_count.into(), 1, 1000)?;
    range("maxuploadfilesize", i64::try_from(s.max_upload_file_size).unwrap_or(i64::MAX), 1, 131_072_000)?;
    range("MaximumSubjectLengthOnMailServer", s.maximum_subject_length_on_mail_server.into(), 255, 400)?;
    range(
        "SSSForceFilteringMethodForUserMailboxes",
        s.force_filtering_method_for_user_mailboxes.into(),
        -1,
        4,
    )
}

fn object(settings: &OrganizationSettings) -> Result<Map<String, Value>, Error> {
    match serde_json::to_value(settings) {
        Ok(Value::Object(map)) => Ok(map),
        other => Err(Error::new(ErrorKind::Invalid, format!("settings do not form an object: {other:?}"))),
    }
}

fn bad_row(name: &str, error: &serde_json::Error) -> Error {
    Error::new(ErrorKind::Damaged, format!("the setting {name} in the CRM file cannot be read: {error}"))
        .with_hint("set it again with `email-router crm settings set`")
}
