//! Settings of an organization as people name and write them.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::smart::SmartHasher;
use crate::{Error, ErrorKind, OrganizationSettings};

/// Most items of a list.
const MAX_ITEMS: usize = 1000;
/// Longest pattern of smart matching.
const MAX_PATTERN: usize = 4000;

/// One setting of the organization, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Its Dataverse name.
    pub name: String,
    /// Its value now.
    pub value: Value,
    /// Its documented default.
    pub default: Value,
    /// The texts it can be, where it is one of several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub choices: Option<&'static [&'static str]>,
}

/// The texts a setting can be, where it is one of several.
pub(crate) fn choices(name: &str) -> Option<&'static [&'static str]> {
    const HIT: &[&str] = &["accept", "weak", "refuse"];
    const AUTOMATIC: &[&str] = &["track", "track_without_smart_matching", "discard"];
    const UNKNOWN: &[&str] = &["none", "contact", "lead"];
    Some(match name {
        "forgedreference" | "unauthenticatedsender" => HIT,
        "automaticmail" | "deliveryreports" => AUTOMATIC,
        "createunknownsender" => UNKNOWN,
        _ => return None,
    })
}

/// These settings with one changed, from text. A list takes `;` between its items. A prefix that is replaced goes to the head of
/// the history, so that tokens in old subjects are still found.
///
/// # Errors
/// [`ErrorKind::NotFound`] for a setting that does not exist, naming those that do; [`ErrorKind::Invalid`] for a value it cannot have.
pub fn changed_settings(
    before: &OrganizationSettings,
    name: &str,
    text: &str,
) -> Result<OrganizationSettings, Error> {
    let mut map = object(before)?;
    let name = canonical(&map, name)?;
    let wrong = |what: &str| Error::new(ErrorKind::Invalid, format!("{name} = {text:?}: {what}"));
    let text = text.trim();
    let value = match &map[&name] {
        Value::Bool(_) => match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Value::Bool(true),
            "false" | "0" | "no" | "off" => Value::Bool(false),
            _ => return Err(wrong("give true or false")),
        },
        Value::Number(_) => Value::from(text.parse::<i64>().map_err(|_| wrong("give a whole number"))?),
        Value::Array(_) => text
            .split(';')
            .map(str::trim)
            .filter(|t| !t.is_empty())
            .map(|t| Value::String(t.to_owned()))
            .collect(),
        // a choice is spelled in lower case; what is no choice keeps its letters
        _ => match choices(&name) {
            Some(choices) if choices.iter().any(|c| c.eq_ignore_ascii_case(text)) => {
                Value::String(text.to_ascii_lowercase())
            }
            Some(choices) => return Err(wrong(&format!("give one of {}", choices.join(", ")))),
            None => Value::String(text.to_owned()),
        },
    };
    map.insert(name.clone(), value);
    let mut after: OrganizationSettings = serde_json::from_value(Value::Object(map))
        .map_err(|e| wrong(&format!("not a value of this setting ({e})")))?;
    for extension in &mut after.blocked_attachments {
        *extension = extension.trim_start_matches('.').to_lowercase();
    }
    for id in &mut after.trusted_authserv_ids {
        *id = id.to_lowercase();
    }
    if name == "hashfilterkeywords"
        && let Some(problem) = SmartHasher::new(&after).problem()
    {
        return Err(wrong(problem)); // what is refused here would quietly be replaced later
    }
    if after.tracking_prefix != before.tracking_prefix {
        after.tracking_prefix_history.retain(|p| *p != before.tracking_prefix && *p != after.tracking_prefix);
        after.tracking_prefix_history.insert(0, before.tracking_prefix.clone());
    }
    check(&after)?;
    Ok(after)
}

/// The name as it is spelled; an error that lists the names when there is no such setting.
pub(crate) fn canonical(map: &Map<String, Value>, name: &str) -> Result<String, Error> {
    map.keys().find(|k| k.eq_ignore_ascii_case(name)).cloned().ok_or_else(|| {
        let names: Vec<_> = map.keys().map(String::as_str).collect();
        Error::new(ErrorKind::NotFound, format!("the organization has no setting {name:?}"))
            .with_hint(format!("the settings are: {}", names.join(", ")))
    })
}

/// The ranges of `crm-contract.md` 5.6, 8.2 and 16.
pub(crate) fn check(s: &OrganizationSettings) -> Result<(), Error> {
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
    range("smartmatchingwindowdays", s.smart_matching_window_days.into(), 1, 3650)?;
    range("loopwindowminutes", s.loop_window_minutes.into(), 1, 1440)?;
    for (name, limit) in [
        ("looplimitpersender", s.loop_limit_per_sender),
        ("looplimitperpair", s.loop_limit_per_pair),
        ("looplimitperrecord", s.loop_limit_per_record),
    ] {
        range(name, limit.into(), 0, 1_000_000)?;
    }
    for (name, list) in [
        ("trackingprefixhistory", &s.tracking_prefix_history),
        ("blockedattachments", &s.blocked_attachments),
        ("trackedmessageclasses", &s.tracked_message_classes),
        ("trustedauthservids", &s.trusted_authserv_ids),
    ] {
        if list.len() > MAX_ITEMS {
            let what = format!("{name} has {} items; at most {MAX_ITEMS} are allowed", list.len());
            return Err(Error::new(ErrorKind::Invalid, what));
        }
    }
    for id in &s.trusted_authserv_ids {
        let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, ';' | '"' | '(' | ')' | ',');
        if id.is_empty() || id.len() > 255 || id.contains(bad) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("trustedauthservids has {id:?}, which is not the name of a mail server"),
            )
            .with_hint("take what stands first in its Authentication-Results fields (RFC 8601 2.5), such as mx.example.com"));
        }
    }
    if s.hash_filter_keywords.len() > MAX_PATTERN {
        let what = format!("hashfilterkeywords is longer than {MAX_PATTERN} bytes");
        return Err(Error::new(ErrorKind::Invalid, what));
    }
    range(
        "SSSForceFilteringMethodForUserMailboxes",
        s.force_filtering_method_for_user_mailboxes.into(),
        -1,
        4,
    )
}

pub(crate) fn object(settings: &OrganizationSettings) -> Result<Map<String, Value>, Error> {
    match serde_json::to_value(settings) {
        Ok(Value::Object(map)) => Ok(map),
        other => Err(Error::new(ErrorKind::Invalid, format!("settings do not form an object: {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A setting that nobody wrote down is one that nobody finds.
    #[test]
    fn every_setting_is_documented_with_its_default() {
        let text = include_str!("../SETTINGS.md");
        let mut rows = Vec::new();
        for line in text.lines().filter(|line| line.starts_with("| `")) {
            let mut cells = line.split(" | ");
            let name = cells.next().unwrap_or_default().trim_start_matches("| ").trim_matches('`');
            rows.push((name, cells.next().unwrap_or_default().trim_matches('`'), line));
        }
        let defaults = object(&OrganizationSettings::default()).unwrap();
        for (name, default) in &defaults {
            let row = rows.iter().find(|(n, ..)| n == name).unwrap_or_else(|| panic!("no row for {name}"));
            let written = match default {
                Value::String(t) if t.is_empty() => "empty".to_owned(),
                // the default pattern has a character that a table cannot hold; the long list stands below the table
                Value::String(t) => t.clone(),
                Value::Array(items) if items.is_empty() => "empty".to_owned(),
                Value::Array(items) if items.len() > 5 => "see below".to_owned(),
                Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(";"),
                other => other.to_string(),
            };
            assert_eq!(row.1, written, "{name}");
            for choice in choices(name).unwrap_or_default() {
                assert!(row.2.contains(&format!("`{choice}`")), "{name}: {choice}");
            }
        }
        for (name, ..) in rows {
            assert!(defaults.contains_key(name), "SETTINGS.md has {name}, which is no setting");
        }
        for extension in OrganizationSettings::default().blocked_attachments {
            assert!(text.contains(&format!("{extension};")), "{extension}");
        }
    }

    #[test]
    fn choices_are_what_the_settings_take() {
        let mut map = object(&OrganizationSettings::default()).unwrap();
        for name in map.keys().cloned().collect::<Vec<_>>() {
            let usual = map[&name].clone();
            for choice in choices(&name).unwrap_or_default() {
                map.insert(name.clone(), Value::from(*choice));
                serde_json::from_value::<OrganizationSettings>(Value::Object(map.clone())).unwrap();
            }
            if choices(&name).is_some() {
                map.insert(name.clone(), Value::from("nonsense"));
                assert!(serde_json::from_value::<OrganizationSettings>(Value::Object(map.clone())).is_err());
            } else if usual.is_string() {
                // what takes any text is no choice that was forgotten here
                map.insert(name.clone(), Value::from("nonsense"));
                assert!(
                    serde_json::from_value::<OrganizationSettings>(Value::Object(map.clone())).is_ok(),
                    "{name}"
                );
            }
            map.insert(name, usual);
        }
    }
}
