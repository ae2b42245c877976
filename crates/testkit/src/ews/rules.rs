//! Inbox rules.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::ops::{Caller, Done, may_open};
use super::store::State;
use super::xml::{Element, escape};

pub(super) fn rules_of(state: &State, caller: &Caller, request: &Element) -> Done<String> {
    let address =
        request.text_of("m:MailboxSmtpAddress").map_or_else(|| caller.me.clone(), str::to_lowercase);
    may_open(state, caller, &address)?;
    Ok(address)
}

/// Exchange tells an `xs:boolean` that came as `1` as `true`.
fn canonical_booleans(element: &mut Element) {
    if element.children.is_empty() && !matches!(element.name.as_str(), "t:Priority" | "t:RuleId") {
        match element.text.trim() {
            "1" => element.text = "true".to_owned(),
            "0" => element.text = "false".to_owned(),
            _ => {}
        }
    }
    element.children.iter_mut().for_each(canonical_booleans);
}

pub(super) fn update_rules(state: &mut State, address: &str, request: &Element) -> String {
    let remove_blob = matches!(request.text_of("m:RemoveOutlookRuleBlob"), Some("true" | "1"));
    let answer = |class: &str, code: &str, inner: &str| {
        format!(
            "<m:UpdateInboxRulesResponse ResponseClass=\"{class}\">{}<m:ResponseCode>{code}</m:ResponseCode>{inner}</m:UpdateInboxRulesResponse>",
            if class == "Error" { "<m:MessageText>The rules were not changed.</m:MessageText>" } else { "" }
        )
    };
    let n = state.number();
    let Some(mailbox) = state.mailboxes.get_mut(address) else {
        return answer("Error", "ErrorNonExistentMailbox", "");
    };
    if mailbox.outlook_blob && !remove_blob {
        return answer("Error", "ErrorOutlookRuleBlobExists", "");
    }
    let mut rules = mailbox.rules.clone();
    let mut errors = String::new();
    for (index, operation) in request.children_of("m:Operations").iter().enumerate() {
        let wrong = |field: &str, code: &str, text: &str, value: &str| {
            format!(
                "<t:RuleOperationError><t:OperationIndex>{index}</t:OperationIndex><t:ValidationErrors><t:Error><t:FieldURI>{field}</t:FieldURI>\
                     <t:ErrorCode>{code}</t:ErrorCode><t:ErrorMessage>{text}</t:ErrorMessage><t:FieldValue>{}</t:FieldValue></t:Error></t:ValidationErrors></t:RuleOperationError>",
                escape(value)
            )
        };
        if operation.name == "t:DeleteRuleOperation" {
            let id = operation.text_of("t:RuleId").unwrap_or_default();
            let before = rules.len();
            rules.retain(|rule| rule.text_of("t:RuleId") != Some(id));
            if rules.len() == before {
                errors += &wrong("RuleId", "RuleNotFound", "There is no such rule.", id);
            }
            continue;
        }
        let mut rule = operation.child("t:Rule").cloned().unwrap_or_default();
        canonical_booleans(&mut rule);
        let id = rule.text_of("t:RuleId").map(str::to_owned);
        let priority = rule.text_of("t:Priority").map(str::to_owned);
        let taken = |r: &Element| {
            r.text_of("t:Priority") == priority.as_deref() && r.text_of("t:RuleId") != id.as_deref()
        };
        if rules.iter().any(taken) {
            errors += &wrong(
                "Priority",
                "DuplicatedPriority",
                "Another rule has this priority.",
                priority.as_deref().unwrap_or_default(),
            );
            continue;
        }
        let mut to = Vec::new();
        rule.all("t:EmailAddress", &mut to);
        if let Some(bad) =
            to.iter().find(|e| state.refused_recipients.contains(&e.text.trim().to_lowercase()))
        {
            errors += &wrong(
                "Action:ForwardAsAttachmentToRecipients",
                "InvalidAddress",
                "The address is invalid.",
                bad.text.trim(),
            );
            continue;
        }
        match (operation.name.as_str(), id) {
            ("t:CreateRuleOperation", Some(id)) => {
                errors += &wrong("RuleId", "CreateWithRuleId", "A new rule has no id.", &id)
            }
            ("t:CreateRuleOperation", None) => {
                let id = BASE64_STANDARD.encode(format!("rule {n} {index}"));
                rule.children
                    .insert(0, Element { name: "t:RuleId".to_owned(), text: id, ..Element::default() });
                rules.push(rule);
            }
            (_, Some(id)) => match rules.iter_mut().find(|r| r.text_of("t:RuleId") == Some(&id)) {
                Some(present) => *present = rule,
                None => errors += &wrong("RuleId", "RuleNotFound", "There is no such rule.", &id),
            },
            (_, None) => errors += &wrong("RuleId", "MissingParameter", "Which rule?", ""),
        }
    }
    if !errors.is_empty() {
        return answer(
            "Error",
            "ErrorInboxRulesValidationError",
            &format!("<m:RuleOperationErrors>{errors}</m:RuleOperationErrors>"),
        );
    }
    mailbox.rules = rules;
    mailbox.outlook_blob = false;
    answer("Success", "NoError", "")
}
