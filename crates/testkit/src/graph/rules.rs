//! Inbox rules (`messageRule`).

use serde_json::{Value, json};

use super::store::State;
use super::wire::Heard;
use super::{Done, Result, bad, json_body, refuse};

/// Rules a page; small, so that paging is seen.
const PAGE: usize = 3;

const FIELDS: [&str; 8] =
    ["displayName", "sequence", "isEnabled", "conditions", "actions", "exceptions", "hasError", "isReadOnly"];
const CONDITIONS: [&str; 6] =
    ["sentToOrCcMe", "sentToMe", "subjectContains", "bodyContains", "fromAddresses", "hasAttachments"];
const ACTIONS: [&str; 8] = [
    "forwardAsAttachmentTo",
    "forwardTo",
    "redirectTo",
    "delete",
    "moveToFolder",
    "markAsRead",
    "stopProcessingRules",
    "permanentDelete",
];

pub(super) fn handle(state: &mut State, heard: &Heard, mailbox: &str, rest: &[&str]) -> Result {
    let base = state.base.clone();
    let number = state.number();
    let owner = state.mailboxes.get_mut(mailbox).ok_or_else(|| bad("no mailbox"))?;
    let gone = || refuse(404, "ErrorItemNotFound", "The specified rule was not found.");
    match (heard.method.as_str(), rest) {
        ("GET", []) => {
            let query = heard.query();
            super::query::known(&query, &["$skip"]).map_err(bad)?;
            let skip = super::query::option(&query, "$skip").and_then(|n| n.parse().ok()).unwrap_or(0_usize);
            let value: Vec<&Value> = owner.rules.iter().skip(skip).take(PAGE).collect();
            let mut out = json!({"value": value});
            if owner.rules.len() > skip + PAGE {
                let link =
                    format!("{base}/users/{mailbox}/mailFolders/inbox/messageRules?$skip={}", skip + PAGE);
                out["@odata.nextLink"] = json!(link);
            }
            Ok(Done::Json(200, out))
        }
        ("POST", []) => {
            let mut rule = json_body(heard)?;
            check(&rule)?;
            if rule["displayName"].as_str().is_none() || rule["sequence"].as_i64().is_none_or(|s| s < 1) {
                return Err(refuse(
                    400,
                    "ErrorInboxRulesValidationError",
                    "A rule needs a name and a sequence.",
                ));
            }
            rule["id"] = json!(format!("rule-{number}"));
            owner.rules.push(rule.clone());
            Ok(Done::Json(201, rule))
        }
        (method, [id]) => {
            let place = owner.rules.iter().position(|r| r["id"] == *id).ok_or_else(gone)?;
            match method {
                "GET" => Ok(Done::Json(200, owner.rules[place].clone())),
                "DELETE" => {
                    owner.rules.remove(place);
                    Ok(Done::Empty(204))
                }
                "PATCH" => {
                    let change = json_body(heard)?;
                    check(&change)?;
                    if owner.rules[place]["isReadOnly"] == true {
                        return Err(refuse(403, "ErrorAccessDenied", "The rule is read-only."));
                    }
                    for (name, value) in change.as_object().into_iter().flatten() {
                        owner.rules[place][name] = value.clone();
                    }
                    Ok(Done::Json(200, owner.rules[place].clone()))
                }
                _ => Err(refuse(405, "MethodNotAllowed", "No such method here.")),
            }
        }
        _ => Err(bad("Resource not found for the segment.")),
    }
}

fn check(rule: &Value) -> Result<()> {
    let names = |value: &Value| -> Vec<String> {
        value.as_object().into_iter().flatten().map(|(n, _)| n.clone()).collect()
    };
    let strange = |value: &Value, known: &[&str]| {
        names(value).into_iter().find(|n| !known.contains(&n.as_str()) && !n.starts_with("@odata"))
    };
    let found = strange(rule, &FIELDS)
        .or_else(|| strange(&rule["conditions"], &CONDITIONS))
        .or_else(|| strange(&rule["exceptions"], &CONDITIONS))
        .or_else(|| strange(&rule["actions"], &ACTIONS));
    if let Some(name) = found {
        return Err(bad(format!("The property '{name}' does not exist on a message rule.")));
    }
    for recipient in rule["actions"]["forwardAsAttachmentTo"].as_array().into_iter().flatten() {
        if recipient["emailAddress"]["address"].as_str().is_none_or(|a| !a.contains('@')) {
            return Err(refuse(400, "ErrorInboxRulesValidationError", "A recipient has no address."));
        }
    }
    Ok(())
}
