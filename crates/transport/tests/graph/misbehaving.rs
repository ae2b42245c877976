//! A service, or what stands in between, that does not behave.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use email_router_auth::{CredentialError, CredentialSource};
use email_router_model::{Classified as _, Mailbox, Retry, Scope};
use email_router_testkit::graph::{Fault, GraphServer};
use email_router_transport::graph::GraphTransport;
use email_router_transport::net::Credentials;
use email_router_transport::{Disposition, Error, ErrorKind, Part, ReceiveOptions, Transport};

use super::{ALICE, TOKEN, alice, contoso, count, list, message, open, settings};

async fn refused(transport: &GraphTransport) -> Error {
    transport.receive(&alice(), ReceiveOptions::default()).await.err().expect("an error")
}

fn json(body: &str) -> Fault {
    Fault::Answer(200, vec![("Content-Type", "application/json".to_owned())], body.to_owned())
}

fn page(status: u16) -> Fault {
    let body = "<html><head><title>Blocked</title></head><body>by the company proxy</body></html>";
    Fault::Answer(status, vec![("Content-Type", "text/html".to_owned())], body.to_owned())
}

#[tokio::test]
async fn a_message_cut_in_its_middle_is_never_given() {
    for cut in [0, 1, 60, 150] {
        let (server, transport) = contoso(|_| {}).await;
        server.deliver(ALICE, &message(1));
        let mut inbox = open(&transport).await;
        let stubs = list(&mut *inbox).await;
        server.plan("GET", "$value", 1, Fault::Cut(cut));
        inbox.prefetch(&[(stubs[0].id.clone(), Part::Whole)]).await.unwrap();
        let error = inbox.fetch(&stubs[0].id).await.unwrap_err();
        assert_eq!((error.kind(), error.scope()), (ErrorKind::ConnectionLost, Scope::Mailbox), "{cut}");
        // the session is over, the next one is not
        assert!(inbox.fetch(&stubs[0].id).await.is_err());
        let mut again = open(&transport).await;
        list(&mut *again).await;
        assert_eq!(again.fetch(&stubs[0].id).await.unwrap().bytes(), &message(1));
    }
}

#[tokio::test]
async fn a_storm_of_throttling_is_waited_out_within_bounds() {
    let (server, transport) = contoso(|_| {}).await;
    server.deliver(ALICE, &message(1));
    server.plan("GET", "delta", 4, Fault::throttled("0.001"));
    assert_eq!(list(&mut *open(&transport).await).await.len(), 1);
    assert_eq!(count(&server, "GET"), 5);

    server.plan("GET", "delta", 5, Fault::throttled("0.001"));
    let error = refused(&transport).await;
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::Throttled, Retry::Later(Some(Duration::from_millis(1))))
    );

    // a long delay is the caller's to wait
    server.mend();
    server.plan("GET", "delta", 1, Fault::throttled("3600"));
    let error = refused(&transport).await;
    assert_eq!(error.retry(), Retry::Later(Some(Duration::from_secs(3600))));
    assert_eq!(error.scope(), Scope::Mailbox);
}

#[tokio::test]
async fn answers_that_make_no_sense_are_errors() {
    for body in [
        "",
        "not json",
        "[]",
        "{}",
        r#"{"value": {"id": 1}}"#,
        r#"{"value": [{"id": 7}], "@odata.deltaLink": "x"}"#,
        r#"{"value": ["text"]}"#,
        r#"{"value": []}"#,
        r#"{"value": [], "@odata.nextLink": 5}"#,
        r#"{"value": [], "@odata.nextLink": "https://evil.example/v1.0/users/a?$skiptoken=x"}"#,
        r#"{"value": [], "@odata.deltaLink": "https://evil.example/v1.0/users/a?$deltatoken=x"}"#,
    ] {
        let (server, transport) = contoso(|_| {}).await;
        server.plan("GET", "delta", 1, json(body));
        let error = refused(&transport).await;
        assert_eq!((error.kind(), error.scope()), (ErrorKind::Protocol, Scope::Mailbox), "{body}");
        assert!(
            list(&mut *open(&transport).await).await.is_empty(),
            "{body}: the next session does not get on"
        );
    }
}

#[tokio::test]
async fn a_link_to_another_place_is_not_followed() {
    let (server, transport) = contoso(|_| {}).await;
    let thief = GraphServer::start(&["anything"]).await;
    server.plan(
        "GET",
        "delta",
        1,
        json(&format!(r#"{{"value": [], "@odata.nextLink": "{}/users/x"}}"#, thief.base())),
    );
    assert_eq!(refused(&transport).await.kind(), ErrorKind::Protocol);
    assert!(thief.requests().is_empty(), "the token was carried to another place");
}

#[tokio::test]
async fn a_page_that_leads_to_itself_ends() {
    let (server, transport) = contoso(|_| {}).await;
    let link = format!(
        "{}/users/alice@contoso.test/mailFolders/inbox/messages/delta?$skiptoken=same",
        server.base()
    );
    server.plan(
        "GET",
        "delta",
        usize::MAX,
        json(&format!(r#"{{"value": [], "@odata.nextLink": "{link}"}}"#)),
    );
    assert_eq!(refused(&transport).await.kind(), ErrorKind::Protocol);
}

#[tokio::test]
async fn a_token_that_is_never_good_ends() {
    let (server, transport) = contoso(|_| {}).await;
    server.plan("GET", "delta", usize::MAX, Fault::error(410, "resyncRequired"));
    assert_eq!(refused(&transport).await.kind(), ErrorKind::Protocol);
    assert_eq!(count(&server, "GET"), 2);
}

#[tokio::test]
async fn pages_of_a_proxy_are_named_as_such() {
    for (status, kind) in [
        (200, ErrorKind::Protocol),
        (403, ErrorKind::Protocol),
        (407, ErrorKind::Protocol),
        (502, ErrorKind::Protocol),
    ] {
        let (server, transport) = contoso(|settings| settings.attempts = 1).await;
        server.plan("GET", "delta", 1, page(status));
        let error = refused(&transport).await;
        assert_eq!((error.kind(), error.scope()), (kind, Scope::Server), "{status}");
        assert!(
            error.to_string().contains("company proxy") && error.hint().unwrap().contains("proxy"),
            "{status}: {error}"
        );
    }
}

#[tokio::test]
async fn a_message_in_html_from_a_proxy_is_not_taken_for_mail() {
    let (server, transport) = contoso(|_| {}).await;
    server.deliver(ALICE, &message(1));
    let mut inbox = open(&transport).await;
    let stubs = list(&mut *inbox).await;
    server.plan("GET", "$value", 1, page(200));
    assert_eq!(inbox.fetch(&stubs[0].id).await.unwrap_err().kind(), ErrorKind::Protocol);
}

#[tokio::test]
async fn one_message_that_cannot_be_read_does_not_end_the_session() {
    for code in ["ErrorInternalServerError", "ErrorCorruptData"] {
        let (server, transport) = contoso(|settings| settings.attempts = 1).await;
        for n in 0..3 {
            server.deliver(ALICE, &message(n));
        }
        let mut inbox = open(&transport).await;
        let stubs = list(&mut *inbox).await;
        let hint: Vec<_> = stubs.iter().map(|s| (s.id.clone(), Part::Whole)).collect();
        server.plan("GET", &format!("{}/$value", stubs[1].id), usize::MAX, Fault::error(500, code));
        inbox.prefetch(&hint).await.unwrap();
        assert!(inbox.fetch(&stubs[0].id).await.is_ok());
        let error = inbox.fetch(&stubs[1].id).await.unwrap_err();
        assert_eq!(error.scope(), Scope::Message, "{error}");
        assert!(inbox.fetch(&stubs[2].id).await.is_ok());
        inbox.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_batch_that_is_answered_wrongly_ends_the_session() {
    for body in [
        r#"{"responses": []}"#,
        r#"{"responses": [{"id": "0", "status": 204}, {"id": "0", "status": 204}]}"#,
        "[]",
        "x",
    ] {
        let (server, transport) = contoso(|_| {}).await;
        server.deliver(ALICE, &message(1));
        let mut inbox = open(&transport).await;
        let stubs = list(&mut *inbox).await;
        server.plan("POST", "$batch", 1, json(body));
        inbox.dispose(&stubs[0].id, Disposition::Delete).await.unwrap();
        let error = inbox.close().await.err().unwrap();
        assert_eq!((error.kind(), error.scope()), (ErrorKind::Protocol, Scope::Mailbox), "{body}");
        // what became of it shows in the next session
        assert_eq!(list(&mut *open(&transport).await).await.len(), 1);
    }
}

#[tokio::test]
async fn a_batch_of_header_sections_that_fails_leaves_each_to_be_read_alone() {
    let (server, transport) = contoso(|_| {}).await;
    for n in 0..3 {
        server.deliver(ALICE, &message(n));
    }
    let mut inbox = open(&transport).await;
    let stubs = list(&mut *inbox).await;
    server.plan("GET", &format!("{}?$select", stubs[0].id), 1, Fault::throttled("0"));
    server.plan("GET", &format!("{}?$select", stubs[1].id), 1, Fault::error(404, "ErrorItemNotFound"));
    let hint: Vec<_> = stubs.iter().map(|s| (s.id.clone(), Part::Headers)).collect();
    inbox.prefetch(&hint).await.unwrap();
    assert!(inbox.headers(&stubs[0].id).await.is_ok());
    assert_eq!(inbox.headers(&stubs[1].id).await.unwrap_err().kind(), ErrorKind::MessageGone);
    assert!(inbox.headers(&stubs[2].id).await.is_ok());
}

#[tokio::test]
async fn a_huge_answer_is_not_read_to_its_end() {
    let (server, transport) = contoso(|_| {}).await;
    server.plan("GET", "delta", 1, json(&"[".repeat(40 << 20)));
    let error = refused(&transport).await;
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert!(error.scope() > Scope::Message);
}

/// Gives out one token until it is refused, then the next.
#[derive(Debug)]
struct Renewed {
    tokens: Vec<&'static str>,
    at: AtomicUsize,
    refusals: AtomicUsize,
}

#[async_trait]
impl CredentialSource for Renewed {
    async fn credentials(&self, mailbox: &Mailbox) -> Result<Option<Credentials>, CredentialError> {
        let at = self.at.load(Ordering::SeqCst).min(self.tokens.len() - 1);
        Ok(Some(Credentials::bearer(mailbox.login_name(), self.tokens[at].into())))
    }
    fn refused(&self, _: &Mailbox, _: &Credentials) {
        self.refusals.fetch_add(1, Ordering::SeqCst);
        self.at.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_refused_token_is_renewed_once() {
    for (tokens, good, requests) in [
        (vec!["stale", TOKEN], true, 2),
        (vec!["stale"], false, 1),
        (vec!["stale", "stale too", TOKEN], false, 2),
    ] {
        let server = GraphServer::start(&[TOKEN]).await;
        server.add_mailbox(ALICE);
        let source = Arc::new(Renewed { tokens, at: AtomicUsize::new(0), refusals: AtomicUsize::new(0) });
        let mut settings = settings(&server);
        settings.credentials = Arc::clone(&source) as _;
        let transport = GraphTransport::new(settings);
        let result = transport.receive(&alice(), ReceiveOptions::default()).await;
        assert_eq!(result.is_ok(), good, "{:?}", source.tokens);
        if let Err(error) = result {
            assert_eq!((error.kind(), error.retry()), (ErrorKind::Authentication, Retry::Never));
            assert!(error.hint().unwrap().contains("cloud"), "{:?}", error.hint());
        }
        assert_eq!(server.requests().len(), requests, "{:?}", source.tokens);
    }
}

#[tokio::test]
async fn a_server_that_quotes_the_token_is_not_quoted() {
    let (server, transport) = contoso(|_| {}).await;
    let body = format!(r#"{{"error": {{"code": "Odd", "message": "what is {TOKEN}?"}}}}"#);
    server.plan("GET", "delta", 1, Fault::Answer(400, vec![], body.clone()));
    server.plan("GET", "delta", 1, Fault::Answer(400, vec![], body));
    let error = refused(&transport).await;
    let shown = format!("{error} {error:?} {:?}", error.hint());
    assert!(shown.contains("what is ***") && !shown.contains(TOKEN), "{shown}");
}

#[tokio::test]
async fn no_token_and_no_mailbox() {
    let (server, transport) = contoso(|_| {}).await;
    let stranger = super::mailbox("nobody@contoso.test");
    let error = transport.receive(&stranger, ReceiveOptions::default()).await.err().unwrap();
    assert_eq!(
        (error.kind(), error.retry(), error.scope()),
        (ErrorKind::AccessDenied, Retry::Never, Scope::Mailbox)
    );
    assert!(error.hint().unwrap().contains("licence"), "{:?}", error.hint());
    let mut without = settings(&server);
    without.credentials = Arc::new(|_: &Mailbox| Some(Credentials::new("alice", "a-password".into())));
    let error = refused(&GraphTransport::new(without)).await;
    assert_eq!(error.kind(), ErrorKind::Settings);
    assert!(error.hint().unwrap().contains("OAuth"));
}

#[tokio::test]
async fn a_service_that_passes_over_filters_is_not_believed() {
    let (server, transport) = contoso(|_| {}).await;
    server.deliver(ALICE, &message(1));
    let mut inbox = open(&transport).await;
    let stubs = list(&mut *inbox).await;
    // all folders for one, and all messages for one
    server.plan(
        "GET",
        "displayName eq",
        1,
        json(r#"{"value": [{"id": "inbox", "displayName": "Inbox"}, {"id": "archive", "displayName": "Archive"}]}"#),
    );
    inbox.dispose(&stubs[0].id, Disposition::Move("Undeliverable".to_owned())).await.unwrap();
    inbox.close().await.unwrap();
    assert_eq!(server.folder(ALICE, "Undeliverable").len(), 1);
    server.plan(
        "GET",
        "sentitems",
        2,
        json(r#"{"value": [{"id": "x", "internetMessageId": "<other@x>", "singleValueExtendedProperties": [{"value": "<other@x>"}]}]}"#),
    );
    let id = email_router_model::MessageId::parse("ours@x").unwrap();
    assert_eq!(transport.find_submitted(&alice(), &id).await.unwrap(), Some(false));
}
