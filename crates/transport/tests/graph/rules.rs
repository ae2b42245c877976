//! Inbox rules.

use email_router_model::Classified as _;
use email_router_testkit::graph::Fault;
use email_router_transport::ErrorKind;
use email_router_transport::rules::{ForwardRule, InboxRules, RULE_MARKER, RuleCondition};
use serde_json::json;

use super::{ALICE, alice, contoso, email};

fn forward(condition: RuleCondition) -> ForwardRule {
    ForwardRule {
        name: format!("Copy to CRM {RULE_MARKER}"),
        forward_to: email("Forward@contoso.test"),
        condition,
    }
}

#[tokio::test]
async fn a_rule_is_made_changed_and_deleted() {
    let (server, transport) = contoso(|_| {}).await;
    for n in [7, 3, 5, 1] {
        let rule = json!({"displayName": format!("own {n}"), "sequence": n, "isEnabled": true, "actions": {"delete": true}});
        server.add_rule(ALICE, rule);
    }
    let all = forward(RuleCondition::All);
    let id = transport.create_rule(&alice(), &all, false).await.unwrap();
    let listing = transport.rules(&alice()).await.unwrap();
    let names: Vec<_> = listing.rules.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(
        names,
        ["own 1", "own 3", "own 5", "own 7", all.name.as_str()],
        "the order of use, over pages"
    );
    let ours = &listing.rules[4];
    assert!(ours.is_ours() && all.is_met_by(ours) && ours.id == id && !listing.outlook_blob);
    assert!(listing.rules[..4].iter().all(|r| !r.is_ours() && r.does_more));

    let mine = forward(RuleCondition::SentToOrCcMe);
    transport.update_rule(&alice(), &id, &mine, false).await.unwrap();
    let listing = transport.rules(&alice()).await.unwrap();
    assert!(mine.is_met_by(&listing.rules[4]) && !all.is_met_by(&listing.rules[4]));
    // and back, which has to take the condition away
    transport.update_rule(&alice(), &id, &all, false).await.unwrap();
    assert!(all.is_met_by(&transport.rules(&alice()).await.unwrap().rules[4]));

    transport.delete_rule(&alice(), &id, false).await.unwrap();
    transport.delete_rule(&alice(), &id, false).await.unwrap();
    assert_eq!(server.rules(ALICE).len(), 4);
    let error = transport.update_rule(&alice(), &id, &mine, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MessageGone);
}

#[tokio::test]
async fn what_the_service_does_not_allow() {
    let (server, transport) = contoso(|_| {}).await;
    server.plan("POST", "messageRules", 1, Fault::error(403, "ErrorAccessDenied"));
    let error = transport.create_rule(&alice(), &forward(RuleCondition::All), false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AccessDenied);
    assert!(error.hint().unwrap().contains("MailboxSettings.ReadWrite"));
    server.plan("GET", "messageRules", 1, Fault::error(403, "ErrorAccessDenied"));
    let error = transport.rules(&alice()).await.unwrap_err();
    assert!(error.hint().unwrap().contains("MailboxSettings.Read "));
    server.plan("POST", "messageRules", 1, Fault::error(400, "ErrorInboxRulesValidationError"));
    let error = transport.create_rule(&alice(), &forward(RuleCondition::All), false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MessageRefused);
    let other = transport.create_rule(&alice(), &forward(RuleCondition::Other), false).await.unwrap_err();
    assert_eq!(other.kind(), ErrorKind::Settings);
    assert!(server.rules(ALICE).is_empty());
}

#[tokio::test]
async fn a_service_that_makes_another_rule_is_not_believed() {
    let (server, transport) = contoso(|_| {}).await;
    let made = r#"{"id": "r", "displayName": "x", "isEnabled": false, "actions": {}}"#;
    server.plan(
        "POST",
        "messageRules",
        1,
        Fault::Answer(201, vec![("Content-Type", "application/json".to_owned())], made.to_owned()),
    );
    let error = transport.create_rule(&alice(), &forward(RuleCondition::All), false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
}
