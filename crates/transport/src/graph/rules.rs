//! Inbox rules (Microsoft Graph, resource `messageRule`). Needs `MailboxSettings.Read` to see and `MailboxSettings.ReadWrite` to change them.

use async_trait::async_trait;
use email_router_http::Method;
use email_router_model::Mailbox;
use serde_json::{Map, Value, json};
use url::Url;

use super::GraphTransport;
use super::client::{Ask, Client, Outcome};
use super::error::{self, Stage};
use super::proto::{Malformed, link, page};
use crate::rules::{ForwardRule, InboxRule, InboxRules, RuleCondition, RuleListing};
use crate::{Error, ErrorKind, Result};

const RULES: &str = "/mailFolders/inbox/messageRules";
/// More pages than this are no list of rules: Exchange keeps 256 KB of them.
const MOST_PAGES: usize = 100;

#[async_trait]
impl InboxRules for GraphTransport {
    async fn rules(&self, mailbox: &Mailbox) -> Result<RuleListing> {
        let client = self.client(mailbox);
        let mut rules = listed(&client).await?;
        rules.sort_by_key(|(sequence, _)| *sequence);
        // Graph never tells whether Outlook keeps rules of its own
        Ok(RuleListing { rules: rules.into_iter().map(|(_, rule)| rule).collect(), outlook_blob: false })
    }

    async fn create_rule(&self, mailbox: &Mailbox, rule: &ForwardRule, _: bool) -> Result<String> {
        let client = self.client(mailbox);
        let last = listed(&client).await?.iter().map(|(sequence, _)| *sequence).max().unwrap_or(0);
        let mut resource = resource(&client, rule)?;
        resource.insert("sequence".to_owned(), json!(last.saturating_add(1).max(1)));
        let ask =
            Ask::new(Method::POST, client.url(RULES)?, Stage::RuleChange).json(&Value::Object(resource));
        let made = client.json(&ask).await?;
        let made = read(&client, &made)?;
        check(&client, rule, &made)?;
        Ok(made.id)
    }

    async fn update_rule(&self, mailbox: &Mailbox, id: &str, rule: &ForwardRule, _: bool) -> Result<()> {
        let client = self.client(mailbox);
        let resource = resource(&client, rule)?;
        let ask = Ask::new(Method::PATCH, one(&client, id)?, Stage::RuleChange)
            .json(&Value::Object(resource))
            .harmless();
        let made = client.json(&ask).await?;
        check(&client, rule, &read(&client, &made)?)
    }

    async fn delete_rule(&self, mailbox: &Mailbox, id: &str, _: bool) -> Result<()> {
        let client = self.client(mailbox);
        let ask = Ask::new(Method::DELETE, one(&client, id)?, Stage::RuleChange).harmless();
        match client.outcome(&ask).await? {
            Outcome::Refused(refusal) if refusal.error.kind() != ErrorKind::MessageGone => Err(refusal.error),
            _ => Ok(()),
        }
    }
}

fn one(client: &Client, id: &str) -> Result<Url> {
    client.url(&format!("{RULES}/{}", link::segment(id)))
}

/// All rules with their places.
async fn listed(client: &Client) -> Result<Vec<(i64, InboxRule)>> {
    let malformed = |why: &Malformed| error::malformed(client.place(), Stage::Rules, why);
    let mut url = client.url(RULES)?;
    let mut rules = Vec::new();
    for _ in 0..MOST_PAGES {
        let found = client.json(&Ask::new(Method::GET, url, Stage::Rules)).await?;
        for entry in page::entries(&found).map_err(|why| malformed(&why))? {
            let sequence = entry.get("sequence").and_then(Value::as_i64).unwrap_or(i64::MAX);
            rules.push((sequence, read(client, entry)?));
        }
        match page::page_link(&client.settings().base, &found, "@odata.nextLink")
            .map_err(|why| malformed(&why))?
        {
            Some(next) => url = next,
            None => return Ok(rules),
        }
    }
    Err(malformed(&Malformed("the list of rules does not come to an end".to_owned())))
}

/// The resource for a rule of ours.
fn resource(client: &Client, rule: &ForwardRule) -> Result<Map<String, Value>> {
    let conditions = match rule.condition {
        RuleCondition::All => Value::Null,
        RuleCondition::SentToOrCcMe => json!({"sentToOrCcMe": true}),
        RuleCondition::Other => {
            let message = format!(
                "{}: a rule of ours applies to all mail, or to mail to the mailbox itself",
                client.place()
            );
            return Err(Error::new(ErrorKind::Settings, message));
        }
    };
    let address = rule.forward_to.as_str();
    let resource = json!({
        "displayName": rule.name,
        "isEnabled": true,
        "conditions": conditions,
        "exceptions": null,
        "actions": {"forwardAsAttachmentTo": [{"emailAddress": {"name": address, "address": address}}]},
    });
    match resource {
        Value::Object(fields) => Ok(fields),
        _ => Ok(Map::new()),
    }
}

/// The service keeps what it understood; what it answers has to be what was asked for.
fn check(client: &Client, wanted: &ForwardRule, made: &InboxRule) -> Result<()> {
    if wanted.is_met_by(made) {
        return Ok(());
    }
    let message =
        format!("{}: the service made another rule than it was asked for: {made:?}", client.place());
    Err(Error::new(ErrorKind::Protocol, message).with_hint("delete the rule and deploy it again"))
}

fn read(client: &Client, entry: &Value) -> Result<InboxRule> {
    let id = page::id(entry).map_err(|why| error::malformed(client.place(), Stage::Rules, &why))?;
    Ok(rule_of(id, entry))
}

fn rule_of(id: String, entry: &Value) -> InboxRule {
    let flag = |name: &str| entry.get(name).and_then(Value::as_bool);
    let actions = set(entry.get("actions"));
    let conditions = set(entry.get("conditions"));
    let recipients = actions.iter().find(|(name, _)| name.as_str() == "forwardAsAttachmentTo");
    let forwards_to: Vec<String> = recipients
        .and_then(|(_, list)| list.as_array())
        .into_iter()
        .flatten()
        .filter_map(|r| r.get("emailAddress")?.get("address")?.as_str())
        .map(str::to_lowercase)
        .collect();
    let condition = match &conditions[..] {
        [] => RuleCondition::All,
        [(name, value)] if name.as_str() == "sentToOrCcMe" && value.as_bool() == Some(true) => {
            RuleCondition::SentToOrCcMe
        }
        _ => RuleCondition::Other,
    };
    InboxRule {
        id,
        name: entry.get("displayName").and_then(Value::as_str).unwrap_or("").to_owned(),
        enabled: flag("isEnabled").unwrap_or(false),
        in_error: flag("hasError").unwrap_or(false),
        forwards_to,
        condition,
        // one that may not be changed was made by somebody with other means
        does_more: flag("isReadOnly").unwrap_or(false)
            || actions.iter().any(|(name, _)| name.as_str() != "forwardAsAttachmentTo")
            || !set(entry.get("exceptions")).is_empty(),
        stops: actions
            .iter()
            .any(|(name, value)| name.as_str() == "stopProcessingRules" && value.as_bool() == Some(true)),
    }
}

/// What is set in a group of conditions or actions: Graph may tell the others as null, false or empty lists.
fn set(group: Option<&Value>) -> Vec<(&String, &Value)> {
    let fields = group.and_then(Value::as_object).into_iter().flatten();
    fields
        .filter(|(name, value)| {
            let empty = match value {
                Value::Null | Value::Bool(false) => true,
                Value::Array(list) => list.is_empty(),
                Value::String(text) => text.is_empty(),
                _ => false,
            };
            !empty && !name.starts_with('@')
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_as_the_service_tells_them() {
        let forward = json!([{"emailAddress": {"name": "x", "address": "Forward@contoso.com"}}]);
        for (entry, condition, more, error, enabled) in [
            (
                json!({"isEnabled": true, "actions": {"forwardAsAttachmentTo": forward, "delete": false, "forwardTo": []}, "conditions": null}),
                RuleCondition::All,
                false,
                false,
                true,
            ),
            (
                json!({"isEnabled": true, "hasError": true, "conditions": {"sentToOrCcMe": true, "subjectContains": []}, "actions": {"forwardAsAttachmentTo": forward}}),
                RuleCondition::SentToOrCcMe,
                false,
                true,
                true,
            ),
            (
                json!({"conditions": {"sentToMe": true}, "actions": {"forwardAsAttachmentTo": forward, "stopProcessingRules": true}}),
                RuleCondition::Other,
                true,
                false,
                false,
            ),
            (
                json!({"isReadOnly": true, "actions": {"forwardAsAttachmentTo": forward}, "exceptions": {}}),
                RuleCondition::All,
                true,
                false,
                false,
            ),
            (
                json!({"actions": {"forwardAsAttachmentTo": forward}, "exceptions": {"subjectContains": ["x"]}}),
                RuleCondition::All,
                true,
                false,
                false,
            ),
        ] {
            let rule = rule_of("1".to_owned(), &entry);
            assert_eq!(rule.forwards_to, ["forward@contoso.com"]);
            assert_eq!(
                (rule.condition, rule.does_more, rule.in_error, rule.enabled),
                (condition, more, error, enabled),
                "{entry}"
            );
            assert_eq!(rule.stops, entry["actions"]["stopProcessingRules"] == true, "{entry}");
        }
        let strange = rule_of("1".to_owned(), &json!({"displayName": 5, "actions": [], "conditions": "x"}));
        assert!(strange.name.is_empty() && strange.forwards_to.is_empty());
    }
}
