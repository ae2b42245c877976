//! Inbox rules and streaming notifications of the EWS adapter.
#![cfg(feature = "ews")]
#![allow(clippy::unwrap_used)] // helpers of tests: what fails here fails the test

mod ews_support;

use std::time::Duration;

use email_router_model::{Classified as _, Retry};
use email_router_testkit::ews::{EwsOptions, Mishap};
use email_router_transport::ews::{EwsTransport, MailboxAccess};
use email_router_transport::rules::{ForwardRule, InboxRules as _, RuleCondition};
use email_router_transport::{ErrorKind, ReceiveOptions, Transport as _};
use ews_support::*;

fn rule(condition: RuleCondition) -> ForwardRule {
    ForwardRule {
        name: "Forward to the CRM [email-router]".to_owned(),
        forward_to: "Forward@contoso.test".parse().unwrap(),
        condition,
    }
}

#[tokio::test]
async fn a_rule_is_made_changed_and_deleted() {
    for access in [MailboxAccess::Own, MailboxAccess::FullAccess, MailboxAccess::Impersonation] {
        let server = server(EwsOptions::default()).await;
        let foreign = "<t:RuleId>other</t:RuleId><t:DisplayName>to the bin</t:DisplayName><t:Priority>3</t:Priority><t:IsEnabled>true</t:IsEnabled>\
                       <t:Conditions><t:FromAddresses><t:Address><t:EmailAddress>x@y.test</t:EmailAddress></t:Address></t:FromAddresses></t:Conditions>\
                       <t:Actions><t:Delete>true</t:Delete></t:Actions>";
        server.add_rule("alice@contoso.test", foreign);
        let mut settings = own(&server);
        settings.access = access;
        if access != MailboxAccess::Own {
            service(&mut settings);
        }
        let transport = EwsTransport::new(settings).unwrap();
        let alice = mailbox("alice");
        let before = transport.rules(&alice).await.unwrap();
        assert_eq!(before.rules.len(), 1);
        assert!(before.rules[0].does_more && !before.rules[0].is_ours());
        assert_eq!(before.rules[0].condition, RuleCondition::Other);

        let (all, mine) = (rule(RuleCondition::All), rule(RuleCondition::SentToOrCcMe));
        let id = transport.create_rule(&alice, &all, false).await.unwrap();
        let listing = transport.rules(&alice).await.unwrap();
        assert_eq!(listing.rules.len(), 2);
        // behind the other
        assert!(listing.rules[1].id == id && all.is_met_by(&listing.rules[1]), "{listing:?}");
        assert!(!mine.is_met_by(&listing.rules[1]));

        transport.update_rule(&alice, &id, &mine, false).await.unwrap();
        let listing = transport.rules(&alice).await.unwrap();
        assert!(mine.is_met_by(&listing.rules[1]), "{listing:?}");

        transport.delete_rule(&alice, &id, false).await.unwrap();
        transport.delete_rule(&alice, &id, false).await.unwrap();
        assert_eq!(transport.rules(&alice).await.unwrap(), before);
        let error = transport.update_rule(&alice, &id, &all, false).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MessageGone);
    }
}

#[tokio::test]
async fn what_the_server_refuses() {
    let server = server(EwsOptions::default()).await;
    let transport = transport(&server);
    let alice = mailbox("alice");
    // Outlook's own rules are lost only where that is allowed
    server.set_outlook_blob("alice@contoso.test", true);
    assert!(transport.rules(&alice).await.unwrap().outlook_blob);
    let error = transport.create_rule(&alice, &rule(RuleCondition::All), false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MessageRefused);
    assert!(
        error.reply().unwrap().contains("ErrorOutlookRuleBlobExists")
            && error.hint().unwrap().contains("Outlook")
    );
    assert!(server.outlook_blob("alice@contoso.test"));
    transport.create_rule(&alice, &rule(RuleCondition::All), true).await.unwrap();
    assert!(!server.outlook_blob("alice@contoso.test"));
    // the server says what is wrong with which part
    server.refuse_recipient("forward@contoso.test");
    let error = transport.create_rule(&alice, &rule(RuleCondition::All), false).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::MessageRefused, Retry::Never));
    let said = error.reply().unwrap();
    assert!(
        said.contains("Action:ForwardAsAttachmentToRecipients: The address is invalid. (InvalidAddress)"),
        "{said}"
    );
    // a rule that is not ours is not made at all
    let foreign = ForwardRule { name: "no marker".to_owned(), ..rule(RuleCondition::All) };
    let before = server.heard().len();
    assert_eq!(transport.create_rule(&alice, &foreign, false).await.unwrap_err().kind(), ErrorKind::Settings);
    assert_eq!(
        transport.create_rule(&alice, &rule(RuleCondition::Other), false).await.unwrap_err().kind(),
        ErrorKind::Settings
    );
    assert_eq!(server.heard().len(), before);
}

#[tokio::test]
async fn an_old_server_has_no_rules_and_no_notifications() {
    let server = server(EwsOptions { newest: "Exchange2010", ..EwsOptions::default() }).await;
    let transport = transport(&server);
    let alice = mailbox("alice");
    transport.receive(&alice, ReceiveOptions::default()).await.unwrap();
    assert_eq!(transport.rules(&alice).await.unwrap_err().kind(), ErrorKind::Unsupported);
    let error = transport.wait_for_mail(&alice, Duration::from_secs(60)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn notifications_that_are_not_offered() {
    let server = server(EwsOptions { notifications: false, ..EwsOptions::default() }).await;
    let error =
        transport(&server).wait_for_mail(&mailbox("alice"), Duration::from_secs(60)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn mail_that_comes_ends_the_wait() {
    let server = server(EwsOptions::default()).await;
    let transport = transport(&server);
    let alice = mailbox("alice");
    let (waited, ()) = tokio::join!(transport.wait_for_mail(&alice, Duration::from_secs(600)), async {
        while !server.heard().iter().any(|h| h.operation == "GetStreamingEvents") {
            tokio::task::yield_now().await;
        }
        server.put("alice@contoso.test", &message(1, 100));
    });
    assert!(waited.unwrap());
    // the subscription is given back
    assert_eq!(server.subscriptions(), 0);
}

#[tokio::test]
async fn mail_that_came_before_the_wait_ends_it_at_once() {
    let server = server(EwsOptions::default()).await;
    let transport = transport(&server);
    let alice = mailbox("alice");
    transport.receive(&alice, ReceiveOptions::default()).await.unwrap().close().await.unwrap();
    server.put("alice@contoso.test", &message(1, 100));
    assert!(transport.wait_for_mail(&alice, Duration::from_secs(600)).await.unwrap());
    assert!(!server.heard().iter().any(|h| h.operation == "GetStreamingEvents"));
}

#[tokio::test]
async fn a_wait_ends_without_mail_and_with_errors() {
    let server = server(EwsOptions::default()).await;
    let transport = transport(&server);
    let alice = mailbox("alice");
    assert!(!transport.wait_for_mail(&alice, Duration::ZERO).await.unwrap());
    server.plan("GetStreamingEvents", Mishap::Fault("ErrorServerBusy", Some("5000")));
    let error = transport.wait_for_mail(&alice, Duration::from_secs(600)).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::Throttled, Retry::Later(Some(Duration::from_secs(5))))
    );
    server.plan("Subscribe", Mishap::Refusal("ErrorAccessDenied", None));
    let error = transport.wait_for_mail(&alice, Duration::from_secs(600)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AccessDenied);
}
