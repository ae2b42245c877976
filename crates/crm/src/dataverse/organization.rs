//! The row of the organization: who it is, and its settings (`crm-contract.md` 1, 5.6 and 16).

use serde_json::Value;
use uuid::Uuid;

use super::web_api::Session;
use crate::setting::{changed_settings, object};
use crate::{Error, ErrorKind, OrganizationSettings, Result};

/// What the organization says of itself.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Organization {
    pub(crate) id: Uuid,
    /// The router's user there.
    pub(crate) user: Uuid,
    /// `organization.name`.
    pub(crate) unique_name: String,
    /// `emailconnectionchannel`: 0 server-side synchronization, 1 Email Router.
    pub(crate) channel: Option<u64>,
    /// Of the server, such as `9.2.24032.20`; empty where it does not tell.
    pub(crate) version: String,
    pub(crate) settings: OrganizationSettings,
}

/// The columns that are not settings.
const IDENTITY: [&str; 4] = ["organizationid", "name", "emailconnectionchannel", "orgdborgsettings"];

/// Reads columns of the organization and keeps which of them there are: some do not exist in old versions (1).
#[derive(Debug, Clone)]
pub(crate) struct OrganizationReader {
    session: Session,
    select: String,
    user: Uuid,
    id: Uuid,
    version: String,
    ours: Vec<(String, String)>,
}

impl OrganizationReader {
    pub(crate) async fn new(session: &Session) -> Result<Self> {
        let who = session.get("WhoAmI", "asking who we are").await?;
        let id = |name: &str| {
            who.get(name).and_then(Value::as_str).and_then(|id| Uuid::parse_str(id).ok()).ok_or_else(|| {
                let message = format!("{}: the answer to WhoAmI has no {name}", session.place());
                Error::new(ErrorKind::Unreachable, message)
                    .with_hint("check that Url is the root of an organization")
            })
        };
        let (user, organization) = (id("UserId")?, id("OrganizationId")?);
        let doing = "reading which settings an organization has";
        let path = "EntityDefinitions(LogicalName='organization')/Attributes?$select=LogicalName";
        let there = session.pages(path, &[], doing).all(10_000).await?;
        let there: Vec<_> =
            there.iter().filter_map(|row| row.get("LogicalName").and_then(Value::as_str)).collect();
        let settings = object(&OrganizationSettings::default())?;
        let select: Vec<_> = IDENTITY
            .into_iter()
            .chain(settings.keys().map(String::as_str))
            .filter(|name| there.contains(name))
            .collect();
        let version = match session.get("RetrieveVersion()", "asking for the server's version").await {
            Ok(answer) => answer.get("Version").and_then(Value::as_str).unwrap_or_default().to_owned(),
            // it only decides two defaults
            Err(error) if super::web_api::fault::of(&error).is_some() => String::new(),
            Err(error) => return Err(error),
        };
        Ok(Self {
            session: session.clone(),
            select: select.join(","),
            user,
            id: organization,
            version,
            ours: session.settings().organization_settings.clone(),
        })
    }

    /// The organization now.
    pub(crate) async fn read(&self) -> Result<Organization> {
        let doing = "reading the organization";
        let path = format!("organizations({})?$select={}", self.id, self.select);
        let row = self.session.get(&path, doing).await?;
        let text = |name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(Organization {
            id: self.id,
            user: self.user,
            unique_name: text("name"),
            channel: row.get("emailconnectionchannel").and_then(Value::as_u64),
            version: self.version.clone(),
            settings: settings(&row, &self.version, &self.ours)?,
        })
    }
}

/// The settings that a row has; what is absent is the default of that version.
pub(crate) fn settings(
    row: &Value,
    version: &str,
    ours: &[(String, String)],
) -> Result<OrganizationSettings> {
    let mut settings = OrganizationSettings {
        name: row.get("name").and_then(Value::as_str).unwrap_or_default().to_owned(),
        ..OrganizationSettings::default()
    };
    // the two switches whose default depends on the version (16)
    settings.do_not_ignore_internal_email_to_queues = at_least(version, &[8, 2, 2, 1309]);
    settings.create_queue_item_for_synchronizing_mailbox = at_least(version, &[9, 2, 21114, 136]);
    let mut given: Vec<(String, String)> = Vec::new();
    let known = object(&settings)?;
    for (name, value) in row.as_object().into_iter().flatten() {
        if !known.contains_key(name) || name == "name" {
            continue;
        }
        match value {
            Value::String(text) => given.push((name.clone(), text.clone())),
            Value::Bool(_) | Value::Number(_) => given.push((name.clone(), value.to_string())),
            _ => {}
        }
    }
    if let Some(xml) = row.get("orgdborgsettings").and_then(Value::as_str) {
        given.extend(switches(xml).into_iter().filter(|(name, _)| known.contains_key(name)));
    }
    for (name, text) in given {
        // the separator of the history of prefixes is not published (18), so only a prefix that can be one counts
        match changed_settings(&settings, &name, &text) {
            Ok(changed) => settings = changed,
            Err(error) => tracing::warn!(setting = name, "the organization's setting is not used: {error}"),
        }
    }
    settings
        .tracking_prefix_history
        .retain(|prefix| *prefix != OrganizationSettings::default().tracking_prefix);
    for (name, text) in ours {
        settings = changed_settings(&settings, name, text)?;
    }
    Ok(settings)
}

/// Elements of `orgdborgsettings`: `<OrgSettings><Name>value</Name>...</OrgSettings>`. What is no such XML has none.
fn switches(xml: &str) -> Vec<(String, String)> {
    use quick_xml::events::Event;
    let mut reader = quick_xml::Reader::from_str(xml);
    let (mut found, mut name, mut depth) = (Vec::new(), None, 0);
    loop {
        match reader.read_event() {
            Ok(Event::Start(start)) => {
                depth += 1;
                name = (depth == 2).then(|| start.local_name().as_ref().to_owned());
            }
            Ok(Event::End(_)) => {
                depth -= 1;
                name = None;
            }
            Ok(Event::Text(text)) => {
                if let Some(name) = name.take() {
                    let text: &str = text.as_ref();
                    found.push((name, text.trim().to_owned()));
                }
            }
            Ok(Event::Eof) | Err(_) => return found,
            Ok(_) => {}
        }
        if found.len() > 10_000 {
            return found;
        }
    }
}

/// Whether a version (`9.2.24032.20`) is this one or a later one; one that is not known counts as the newest.
fn at_least(version: &str, least: &[u32; 4]) -> bool {
    let numbers: Vec<u32> = version.split('.').map_while(|number| number.parse().ok()).collect();
    numbers.is_empty() || numbers.as_slice() >= &least[..]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_becomes_settings() {
        let row = json!({
            "name": "contoso", "emailcorrelationenabled": false, "maximumtrackingnumber": 99999, "trackingprefix": "KAW",
            "blockedattachments": "exe;.JS", "maxuploadfilesize": 131_072_000, "hashfilterkeywords": "((", "enablesmartmatching": null,
            "orgdborgsettings": "<OrgSettings><MaximumSubjectLengthOnMailServer>400</MaximumSubjectLengthOnMailServer>\
                <RestrictIRMEmailItems> true </RestrictIRMEmailItems><Unknown>1</Unknown></OrgSettings>",
        });
        let got = settings(&row, "9.2.24032.20", &[("plusaddressing".to_owned(), "on".to_owned())]).unwrap();
        let expected = OrganizationSettings {
            name: "contoso".to_owned(),
            email_correlation_enabled: false,
            maximum_tracking_number: 99_999,
            tracking_prefix: "KAW".to_owned(),
            blocked_attachments: vec!["exe".to_owned(), "js".to_owned()],
            max_upload_file_size: 131_072_000,
            maximum_subject_length_on_mail_server: 400,
            restrict_irm_email_items: true,
            plus_addressing: true,
            ..OrganizationSettings::default()
        };
        assert_eq!(got, expected);
        assert!(settings(&row, "", &[("nonsense".to_owned(), "1".to_owned())]).is_err());
    }

    #[test]
    fn defaults_depend_on_the_version() {
        for (version, queues, item) in [
            ("8.1.0.359", false, false),
            ("8.2.2.1309", true, false),
            ("9.1.0.16819", true, false),
            ("9.2.21114.136", true, true),
            ("9.2.24032.20", true, true),
            ("", true, true),
        ] {
            let got = settings(&json!({}), version, &[]).unwrap();
            assert_eq!(
                (got.do_not_ignore_internal_email_to_queues, got.create_queue_item_for_synchronizing_mailbox),
                (queues, item),
                "{version}"
            );
        }
    }
}
