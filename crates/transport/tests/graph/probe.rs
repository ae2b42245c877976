//! Test access.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use email_router_model::{Classified as _, Mailbox};
use email_router_testkit::graph::{Fault, GraphServer};
use email_router_transport::graph::GraphTransport;
use email_router_transport::net::Credentials;
use email_router_transport::{Access, ErrorKind, Probe, Transport};

use super::{ALICE, alice, message, settings};

fn token(claims: &str) -> String {
    format!("e30.{}.signature", BASE64_URL_SAFE_NO_PAD.encode(claims))
}

async fn with_claims(claims: &str) -> (GraphServer, GraphTransport) {
    let token = token(claims);
    let server = GraphServer::start(&[&token]).await;
    server.add_mailbox(ALICE);
    let mut settings = settings(&server);
    settings.credentials =
        Arc::new(move |m: &Mailbox| Some(Credentials::bearer(m.login_name(), token.clone().into())));
    (server, GraphTransport::new(settings))
}

fn warnings(probe: &Probe) -> String {
    probe.steps.iter().filter_map(|s| s.warning.as_deref()).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn incoming_counts_and_warns() {
    let (server, transport) = with_claims(
        r#"{"aud":"https://graph.microsoft.us","roles":["Mail.Read"],"app_displayname":"Router"}"#,
    )
    .await;
    server.deliver(ALICE, &message(1));
    server.deliver(ALICE, &message(2));
    let probe = transport.probe(&alice(), Access::Incoming).await.unwrap();
    assert_eq!(probe.messages, Some(2));
    assert!(probe.steps[0].what.contains("Router"));
    let warnings = warnings(&probe);
    for part in ["right cloud", "RBAC for Applications", "no Mail.ReadWrite"] {
        assert!(warnings.contains(part), "{warnings}");
    }
    assert!(server.requests().iter().all(|r| r.starts_with("GET")), "a probe changes nothing");
}

#[tokio::test]
async fn outgoing_sends_nothing() {
    let (server, transport) = with_claims(r#"{"scp":"Mail.Send Mail.ReadWrite"}"#).await;
    let probe = transport.probe(&alice(), Access::Outgoing).await.unwrap();
    assert_eq!((probe.messages, warnings(&probe).as_str()), (None, ""));
    assert!(server.requests().iter().all(|r| r.starts_with("GET")) && server.sent().is_empty());
    // sending needs no right to read, but then nobody can find out
    server.plan("GET", "sentitems", 1, Fault::error(403, "ErrorAccessDenied"));
    let probe = transport.probe(&alice(), Access::Outgoing).await.unwrap();
    assert!(warnings(&probe).contains("lost answer"), "{probe:?}");
    // no mailbox is no lack of rights
    server.plan("GET", "sentitems", 1, Fault::error(404, "MailboxNotEnabledForRESTAPI"));
    let error = transport.probe(&alice(), Access::Outgoing).await.unwrap_err();
    assert!(error.hint().unwrap().contains("EWS"));
}

#[tokio::test]
async fn a_missing_permission_is_named() {
    let (_server, transport) = with_claims(r#"{"roles":["Mail.ReadWrite"]}"#).await;
    let error = transport.probe(&alice(), Access::Outgoing).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AccessDenied);
    assert!(error.hint().unwrap().contains("Mail.Send"));
    let (server, transport) = with_claims("{}").await;
    let probe = transport.probe(&alice(), Access::Outgoing).await.unwrap();
    assert!(warnings(&probe).contains("cannot be seen"));
    server.plan("GET", "inbox", 1, Fault::error(403, "ErrorAccessDenied"));
    let error = transport.probe(&alice(), Access::Incoming).await.unwrap_err();
    assert!(error.hint().unwrap().contains("Mail.Read "), "{:?}", error.hint());
}
