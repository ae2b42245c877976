//! Servers that answer with error pages, nonsense, too much or nothing.
#![cfg(feature = "ews")]
#![allow(clippy::unwrap_used)] // helpers of tests: what fails here fails the test

mod ews_support;

use std::time::Duration;

use email_router_model::{Classified as _, Retry, Scope};
use email_router_testkit::ews::{EwsOptions, Mishap};
use email_router_transport::ews::EwsTransport;
use email_router_transport::{Disposition, Error, ErrorKind, Part, ReceiveOptions, Transport as _};
use ews_support::*;

const ALICE: &str = "alice@contoso.test";

const MESSAGES: &str = "http://schemas.microsoft.com/exchange/services/2006/messages";
const TYPES: &str = "http://schemas.microsoft.com/exchange/services/2006/types";

fn soap(body: &str) -> Mishap {
    Mishap::Bytes(
        format!(
            "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" xmlns:m=\"{MESSAGES}\" xmlns:t=\"{TYPES}\"><s:Body>{body}</s:Body></s:Envelope>"
        )
        .into_bytes(),
    )
}

fn sync_page(inside: &str) -> Mishap {
    soap(&format!(
        "<m:SyncFolderItemsResponse><m:ResponseMessages><m:SyncFolderItemsResponseMessage ResponseClass=\"Success\"><m:ResponseCode>NoError</m:ResponseCode>{inside}\
         </m:SyncFolderItemsResponseMessage></m:ResponseMessages></m:SyncFolderItemsResponse>"
    ))
}

async fn open_with(mishap: Mishap) -> Error {
    let server = server(EwsOptions::default()).await;
    let mut settings = own(&server);
    settings.request_timeout = Duration::from_millis(500);
    let transport = EwsTransport::new(settings).unwrap();
    server.plan("", mishap);
    let error = transport.receive(&mailbox("alice"), ReceiveOptions::default()).await.map(drop).unwrap_err();
    assert!(!format!("{error:?}").contains(PASSWORD));
    error
}

#[tokio::test]
async fn answers_that_open_no_mailbox() {
    use ErrorKind as K;
    let page = |title: &str| {
        format!("<!DOCTYPE html><html><head><title>{title}</title></head><body><br></body></html>")
    };
    let basic = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, format!("alice:{PASSWORD}"));
    for (mishap, kind, retry, scope, words) in [
        (
            Mishap::Page(401, "text/html", page("Unauthorized")),
            K::Authentication,
            Retry::Never,
            Scope::Mailbox,
            "Unauthorized",
        ),
        (
            Mishap::Page(403, "text/html", page("Forbidden")),
            K::AccessDenied,
            Retry::Never,
            Scope::Mailbox,
            "Forbidden",
        ),
        (
            Mishap::Page(404, "text/html", page("Not Found")),
            K::Settings,
            Retry::Never,
            Scope::Server,
            "Not Found",
        ),
        (
            Mishap::Page(440, "text/html", page("Login Timeout")),
            K::Settings,
            Retry::Never,
            Scope::Server,
            "Login Timeout",
        ),
        (
            Mishap::Page(503, "text/html", page("Service Unavailable")),
            K::Throttled,
            Retry::Later(None),
            Scope::Server,
            "Service Unavailable",
        ),
        (
            Mishap::Page(500, "text/html", page("Runtime Error")),
            K::Protocol,
            Retry::Later(None),
            Scope::Mailbox,
            "Runtime Error",
        ),
        (
            Mishap::Page(200, "text/html", page("Outlook")),
            K::Protocol,
            Retry::Later(None),
            Scope::Mailbox,
            "Outlook",
        ),
        (
            Mishap::Page(200, "text/plain", "hello".into()),
            K::Protocol,
            Retry::Later(None),
            Scope::Mailbox,
            "",
        ),
        (
            Mishap::Page(418, "text/plain", "a teapot".into()),
            K::Protocol,
            Retry::Later(None),
            Scope::Mailbox,
            "a teapot",
        ),
        // a server that quotes what it was sent
        (
            Mishap::Page(400, "text/plain", format!("bad: Basic {basic} {PASSWORD}")),
            K::Protocol,
            Retry::Later(None),
            Scope::Mailbox,
            "bad: Basic *** ***",
        ),
        (
            Mishap::Redirect(302, "https://mail.contoso.test/owa/auth/logon.aspx".into()),
            K::Settings,
            Retry::Never,
            Scope::Server,
            "",
        ),
        (Mishap::Cut, K::ConnectionLost, Retry::Later(None), Scope::Mailbox, ""),
        (Mishap::DoneThenHalf, K::ConnectionLost, Retry::Later(None), Scope::Mailbox, ""),
        (Mishap::DoneThenSilence, K::Timeout, Retry::Later(None), Scope::Mailbox, ""),
        (Mishap::Bytes(Vec::new()), K::Protocol, Retry::Later(None), Scope::Mailbox, ""),
        (Mishap::Bytes(b"<a>".repeat(500)), K::Protocol, Retry::Later(None), Scope::Mailbox, ""),
        (Mishap::Bytes(vec![b'x'; 6 << 20]), K::TooLarge, Retry::Never, Scope::Mailbox, ""),
        (soap(""), K::Protocol, Retry::Later(None), Scope::Mailbox, ""),
        (
            soap("<m:SyncFolderItemsResponse><m:ResponseMessages/></m:SyncFolderItemsResponse>"),
            K::Protocol,
            Retry::Later(None),
            Scope::Mailbox,
            "",
        ),
        (sync_page(""), K::Protocol, Retry::Later(None), Scope::Mailbox, ""),
        (
            Mishap::Fault("ErrorServerBusy", Some(" 7000 ")),
            K::Throttled,
            Retry::Later(Some(Duration::from_secs(7))),
            Scope::Mailbox,
            "ErrorServerBusy",
        ),
        (
            Mishap::Refusal("ErrorServerBusy", Some("7000")),
            K::Throttled,
            Retry::Later(Some(Duration::from_secs(7))),
            Scope::Mailbox,
            "ErrorServerBusy",
        ),
        (
            Mishap::Refusal("ErrorServerBusy", Some("soon")),
            K::Throttled,
            Retry::Later(None),
            Scope::Mailbox,
            "ErrorServerBusy",
        ),
        (
            Mishap::Fault("ErrorNonExistentMailbox", None),
            K::AccessDenied,
            Retry::Never,
            Scope::Mailbox,
            "ErrorNonExistentMailbox",
        ),
        (
            Mishap::Refusal("ErrorMailboxStoreUnavailable", None),
            K::MailboxLocked,
            Retry::Later(None),
            Scope::Mailbox,
            "ErrorMailboxStoreUnavailable",
        ),
        (
            Mishap::Refusal("ErrorOfTomorrow", None),
            K::Protocol,
            Retry::Later(None),
            Scope::Mailbox,
            "ErrorOfTomorrow",
        ),
    ] {
        let shown = format!("{mishap:?}");
        let shown = &shown[..shown.len().min(200)];
        let error = open_with(mishap).await;
        assert_eq!((error.kind(), error.retry(), error.scope()), (kind, retry, scope), "{shown}: {error}");
        let reply = error.reply().unwrap_or_default();
        assert!(reply.contains(words), "{shown}: {reply}");
        assert!(error.to_string().contains("localhost"), "{error}");
    }
}

#[tokio::test]
async fn a_listing_that_never_ends() {
    let server = server(EwsOptions::default()).await;
    let transport = transport(&server);
    let alice = mailbox("alice");
    // the same state again and again
    for _ in 0..3 {
        server.plan(
            "",
            sync_page(
                "<m:SyncState>QQ==</m:SyncState><m:IncludesLastItemInRange>false</m:IncludesLastItemInRange>",
            ),
        );
    }
    let error = transport.receive(&alice, ReceiveOptions::default()).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
    server.mend();
    // other states without a message
    for n in 0..300 {
        server.plan(
            "",
            sync_page(&format!(
                "<m:SyncState>{n}</m:SyncState><m:IncludesLastItemInRange>false</m:IncludesLastItemInRange>"
            )),
        );
    }
    let error = transport.receive(&alice, ReceiveOptions::default()).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
    server.mend();
    transport.receive(&alice, ReceiveOptions::default()).await.unwrap();
}

#[tokio::test]
async fn one_message_of_a_batch_is_wrong() {
    let server = server(EwsOptions::default()).await;
    let mut ids = Vec::new();
    for n in 0..4 {
        let size = if n == 1 { 50_000 } else { 200 };
        server.put(ALICE, &message(n, size));
    }
    let mut options = ReceiveOptions::default();
    options.max_message_bytes = 20_000;
    let mut inbox = transport(&server).receive(&mailbox("alice"), options).await.unwrap();
    ids.extend(list(&mut inbox).await.into_iter().map(|stub| stub.id));
    let hint: Vec<_> = ids.iter().map(|id| (id.clone(), Part::Whole)).collect();
    inbox.prefetch(&hint).await.unwrap();
    inbox.fetch(&ids[0]).await.unwrap();
    let error = inbox.fetch(&ids[1]).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.retry(), error.scope()),
        (ErrorKind::TooLarge, Retry::Never, Scope::Message)
    );
    inbox.fetch(&ids[2]).await.unwrap();
    // all of that was one request
    assert_eq!(server.heard().iter().filter(|h| h.operation == "GetItem").count(), 1);
    inbox.fetch(&ids[3]).await.unwrap();
    inbox.headers(&ids[1]).await.unwrap();
    inbox.close().await.unwrap();
}

#[tokio::test]
async fn problems_with_one_message_leave_the_session() {
    let content = |mime: &str| {
        soap(&format!(
            "<m:GetItemResponse><m:ResponseMessages><m:GetItemResponseMessage ResponseClass=\"Success\"><m:ResponseCode>NoError</m:ResponseCode><m:Items><t:Message>{mime}\
             <t:ItemId Id=\"AAA=\"/></t:Message></m:Items></m:GetItemResponseMessage></m:ResponseMessages></m:GetItemResponse>"
        ))
    };
    for (mishap, kind) in [
        (Mishap::Refusal("ErrorItemNotFound", None), ErrorKind::MessageGone),
        (Mishap::Refusal("ErrorCorruptData", None), ErrorKind::MessageRefused),
        (Mishap::Refusal("ErrorContentConversionFailed", None), ErrorKind::MessageRefused),
        (content("<t:MimeContent>****</t:MimeContent>"), ErrorKind::Protocol),
        (content("<t:MimeContent>QUJD<b/></t:MimeContent>"), ErrorKind::Protocol),
        (content(""), ErrorKind::Protocol),
    ] {
        let server = server(EwsOptions::default()).await;
        server.put(ALICE, &message(1, 100));
        let mut inbox =
            transport(&server).receive(&mailbox("alice"), ReceiveOptions::default()).await.unwrap();
        let id = inbox.next().await.unwrap().unwrap().id;
        let shown = format!("{mishap:?}");
        server.plan("GetItem", mishap);
        let result = inbox.fetch(&id).await;
        let error = result.unwrap_err();
        assert_eq!((error.kind(), error.scope()), (kind, Scope::Message), "{shown}");
        inbox.fetch(&id).await.unwrap();
        inbox.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_session_that_failed_stays_failed() {
    for (operation, mishap) in [
        ("GetItem", Mishap::Fault("ErrorServerBusy", None)),
        ("GetItem", Mishap::Refusal("ErrorAccessDenied", None)),
        ("DeleteItem", Mishap::DoneThenCut),
        ("MoveItem", Mishap::Page(503, "text/html", String::new())),
    ] {
        let server = server(EwsOptions::default()).await;
        server.put(ALICE, &message(1, 100));
        let mut inbox =
            transport(&server).receive(&mailbox("alice"), ReceiveOptions::default()).await.unwrap();
        let id = inbox.next().await.unwrap().unwrap().id;
        server.plan(operation, mishap);
        let failed = match operation {
            "GetItem" => inbox.fetch(&id).await.map(drop),
            "DeleteItem" => inbox.dispose(&id, Disposition::Delete).await,
            _ => inbox.dispose(&id, Disposition::Move("x".into())).await,
        };
        assert!(failed.unwrap_err().scope() > Scope::Message, "{operation}");
        let before = server.heard().len();
        assert!(inbox.next().await.is_err());
        assert!(inbox.fetch(&id).await.is_err());
        assert!(inbox.dispose(&id, Disposition::Keep).await.is_err());
        assert!(inbox.close().await.is_err());
        assert_eq!(server.heard().len(), before, "a session that failed asks no more");
    }
}

#[tokio::test]
async fn a_large_message_comes_whole() {
    let server = server(EwsOptions::default()).await;
    let large = message(1, 12 << 20);
    server.put(ALICE, &large);
    let mut inbox = transport(&server).receive(&mailbox("alice"), ReceiveOptions::default()).await.unwrap();
    let id = inbox.next().await.unwrap().unwrap().id;
    assert!(*inbox.fetch(&id).await.unwrap().bytes() == large);
}
