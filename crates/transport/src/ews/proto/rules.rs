//! Inbox rules in a response.

use super::response::Answer;
use super::tree::{Node, Ns};
use crate::rules::{InboxRule, RuleCondition, RuleListing};

/// The rules in a response to `GetInboxRules`, in the order of their priority, each with that priority.
#[must_use]
pub fn listing(answer: &Answer) -> (RuleListing, Vec<u32>) {
    let node = answer.node();
    let rules = node.child(Ns::Messages, "InboxRules").map_or(&[][..], Node::children);
    let mut found: Vec<(u32, InboxRule)> = rules.iter().filter_map(rule).collect();
    found.sort_by_key(|(priority, _)| *priority);
    let (priorities, rules) = found.into_iter().unzip();
    (RuleListing { rules, outlook_blob: node.is_true(Ns::Messages, "OutlookRuleBlobExists") }, priorities)
}

/// Whether an address is not one of mail but the name by which the directory knows a mailbox (`legacyExchangeDN`): so Exchange tells recipients of its own
/// (routing type `EX`).
#[must_use]
pub fn is_directory_name(address: &str) -> bool {
    address.starts_with('/') && address.contains("=")
}

/// The address of mail in a response to `ResolveNames`, where it found exactly one.
#[must_use]
pub fn resolved(answer: &Answer) -> Option<String> {
    let found = answer.node().child(Ns::Messages, "ResolutionSet")?;
    let [one] = found.children() else { return None };
    let address = one.child(Ns::Types, "Mailbox")?.text_of(Ns::Types, "EmailAddress")?;
    address.contains('@').then(|| address.to_lowercase())
}

fn rule(node: &Node) -> Option<(u32, InboxRule)> {
    let actions = node.child(Ns::Types, "Actions").map_or(&[][..], Node::children);
    let forward = |action: &&Node| action.is(Ns::Types, "ForwardAsAttachmentToRecipients");
    let forwards_to = actions
        .iter()
        .filter(forward)
        .flat_map(Node::children)
        .filter_map(|address| address.text_of(Ns::Types, "EmailAddress"))
        .map(str::to_lowercase)
        .collect();
    let exceptions = node.child(Ns::Types, "Exceptions").map_or(&[][..], Node::children);
    let rule = InboxRule {
        id: node.text_of(Ns::Types, "RuleId")?.to_owned(),
        name: node.text_of(Ns::Types, "DisplayName").unwrap_or_default().to_owned(),
        enabled: node.is_true(Ns::Types, "IsEnabled"),
        in_error: node.is_true(Ns::Types, "IsInError") || node.is_true(Ns::Types, "IsNotSupported"),
        forwards_to,
        condition: condition(node.child(Ns::Types, "Conditions").map_or(&[][..], Node::children)),
        does_more: !exceptions.is_empty() || actions.iter().any(|action| !forward(&action)),
        stops: node
            .child(Ns::Types, "Actions")
            .is_some_and(|actions| actions.is_true(Ns::Types, "StopProcessingRules")),
    };
    let priority = node.text_of(Ns::Types, "Priority").and_then(|p| p.parse().ok()).unwrap_or(u32::MAX);
    Some((priority, rule))
}

fn condition(predicates: &[Node]) -> RuleCondition {
    match predicates {
        [] => RuleCondition::All,
        [one] if one.is(Ns::Types, "SentToOrCcMe") && matches!(one.text().trim(), "true" | "1") => {
            RuleCondition::SentToOrCcMe
        }
        _ => RuleCondition::Other,
    }
}

/// What the server says about each part of a rule it refuses (`RuleOperationErrors`), as one line.
#[must_use]
pub fn operation_errors(answer: &Answer) -> String {
    let Some(errors) = answer.node().child(Ns::Messages, "RuleOperationErrors") else { return String::new() };
    let mut lines = Vec::new();
    for error in errors.children() {
        let validation = error.child(Ns::Types, "ValidationErrors").map_or(&[][..], Node::children);
        for fault in validation {
            let part = |name| fault.text_of(Ns::Types, name).unwrap_or_default();
            lines.push(format!("{}: {} ({})", part("FieldURI"), part("ErrorMessage"), part("ErrorCode")));
        }
    }
    lines.join("; ")
}

/// Whether the only thing wrong is that there is no such rule.
#[must_use]
pub fn says_rule_not_found(answer: &Answer) -> bool {
    let mut codes = Vec::new();
    collect(answer.node(), &mut codes);
    !codes.is_empty() && codes.iter().all(|code| code == "RuleNotFound")
}

fn collect(node: &Node, codes: &mut Vec<String>) {
    if node.is(Ns::Types, "ErrorCode") {
        codes.push(node.text().trim().to_owned());
    }
    node.children().iter().for_each(|child| collect(child, codes));
}
