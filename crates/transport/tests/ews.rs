//! What the EWS adapter does on a server that behaves.
#![cfg(feature = "ews")]
#![allow(clippy::unwrap_used)] // helpers of tests: what fails here fails the test

mod ews_support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use email_router_auth::{CredentialError, CredentialSource, Credentials};
use email_router_http::Scheme;
use email_router_model::{Classified as _, Mailbox, MessageId, RemoteId, Retry, Scope};
use email_router_testkit::ews::{EwsOptions, EwsServer, Mishap};
use email_router_transport::ews::{
    DeleteType, EwsSettings, EwsTransport, MailboxAccess, Sending, SentItems, Version,
};
use email_router_transport::{
    Access, Disposition, DsnNotify, DsnRequest, Envelope, ErrorKind, Outbound, Part, ReceiveOptions,
    RecipientStatus, SubmitOptions, Transport as _,
};
use ews_support::*;

const ALICE: &str = "alice@contoso.test";

fn with(server: &EwsServer, change: impl FnOnce(&mut EwsSettings)) -> EwsTransport {
    let mut settings = own(server);
    change(&mut settings);
    EwsTransport::new(settings).unwrap()
}

fn count(server: &EwsServer, operation: &str) -> usize {
    server.heard().iter().filter(|heard| heard.operation == operation).count()
}

async fn ids(transport: &EwsTransport, mailbox: &Mailbox) -> Vec<String> {
    let mut inbox = transport.receive(mailbox, ReceiveOptions::default()).await.unwrap();
    let ids = list(&mut inbox).await.iter().map(|stub| stub.id.as_str().to_owned()).collect();
    inbox.close().await.unwrap();
    ids
}

#[tokio::test]
async fn a_listing_tells_class_time_size_and_conversation() {
    let server = server(EwsOptions::default()).await;
    server.put(ALICE, &message(1, 500));
    server.put_as(ALICE, &message(2, 200), "IPM.Schedule.Meeting.Request", true);
    server.put_as(ALICE, &message(3, 200), "REPORT.IPM.Note.NDR", true);
    let mut inbox = transport(&server).receive(&mailbox("alice"), ReceiveOptions::default()).await.unwrap();
    let stubs = list(&mut inbox).await;
    let classes: Vec<_> = stubs.iter().map(|s| s.message_class.as_deref().unwrap()).collect();
    assert_eq!(classes, ["IPM.Note", "IPM.Schedule.Meeting.Request", "REPORT.IPM.Note.NDR"]);
    assert_eq!(stubs[0].size, Some(message(1, 500).len() as u64));
    assert!(stubs[0].received < stubs[1].received && stubs[0].received.is_some());
    let whole = inbox.fetch(&stubs[0].id).await.unwrap();
    assert_eq!(whole.received, stubs[0].received);
    assert!(whole.conversation_id.is_some() && whole.conversation_id == stubs[0].conversation_id);
    assert!(server.heard().iter().all(|heard| heard.anchor.as_deref() == Some(ALICE)));
}

/// After a restart: another transport, with what the first one left. Damaged or stale, it costs a listing and nothing else.
#[tokio::test]
async fn a_listing_survives_a_restart() {
    let server = server(EwsOptions::default()).await;
    for n in 0..5 {
        server.put(ALICE, &message(n, 100));
    }
    let (alice, page) = (mailbox("alice"), |s: &mut EwsSettings| s.page = 2);
    let session = async |resume: Option<Bytes>| {
        let mut options = ReceiveOptions::default();
        options.resume = resume;
        let mut inbox = with(&server, page).receive(&alice, options).await.unwrap();
        let ids: Vec<String> =
            list(&mut inbox).await.iter().map(|stub| stub.id.as_str().to_owned()).collect();
        let token = inbox.resume_token();
        inbox.close().await.unwrap();
        (ids, token)
    };
    let (first, token) = session(None).await;
    assert_eq!((first.len(), count(&server, "SyncFolderItems")), (5, 3));
    let token = token.unwrap();
    let new = server.put(ALICE, &message(9, 100));
    let (second, newer) = session(Some(token.clone())).await;
    assert_eq!(second[..5], first[..]);
    assert_eq!((second.len(), &second[5], count(&server, "SyncFolderItems")), (6, &new, 4));
    let newer = newer.unwrap();
    let (same, none) = session(Some(newer.clone())).await;
    assert_eq!((same, none), (second.clone(), None), "nothing new, so nothing new to keep");
    for (what, damaged) in [("cut", newer.slice(..newer.len() / 2)), ("nothing", Bytes::new())] {
        assert_eq!(session(Some(damaged)).await.0, second, "{what}");
    }
    server.forget_states();
    let (after, token) = session(Some(newer)).await;
    assert_eq!((after, token.is_some()), (second, true), "listed anew, without doubles");
}

#[tokio::test]
async fn later_sessions_ask_for_the_changes_alone() {
    let server = server(EwsOptions::default()).await;
    for n in 0..5 {
        server.put(ALICE, &message(n, 100));
    }
    let transport = with(&server, |s| s.page = 2);
    let alice = mailbox("alice");
    let first = ids(&transport, &alice).await;
    assert_eq!((first.len(), count(&server, "SyncFolderItems")), (5, 3));
    // one goes, one is moved away, one comes
    let mut inbox = transport.receive(&alice, ReceiveOptions::default()).await.unwrap();
    inbox.dispose(&RemoteId::new(&*first[0]), Disposition::Delete).await.unwrap();
    inbox.dispose(&RemoteId::new(&*first[3]), Disposition::Move("Elsewhere".into())).await.unwrap();
    inbox.dispose(&RemoteId::new(&*first[4]), Disposition::MarkRead).await.unwrap();
    inbox.close().await.unwrap();
    let new = server.put(ALICE, &message(9, 100));
    let before = count(&server, "SyncFolderItems");
    assert_eq!(ids(&transport, &alice).await, [&first[1], &first[2], &first[4], &new].map(String::clone));
    // four changes in pages of two
    assert_eq!(count(&server, "SyncFolderItems") - before, 2);
    let last = server.heard().into_iter().rfind(|h| h.operation == "SyncFolderItems").unwrap();
    assert!(last.body.contains("<m:SyncState>"));
    // a state that is lost begins anew, without doubles
    server.forget_states();
    assert_eq!(ids(&transport, &alice).await.len(), 4);
    assert_eq!(ids(&transport, &alice).await.len(), 4);
}

#[tokio::test]
async fn a_listing_that_breaks_off_goes_on_where_it_was() {
    let server = server(EwsOptions::default()).await;
    for n in 0..6 {
        server.put(ALICE, &message(n, 100));
    }
    let transport = with(&server, |s| s.page = 1);
    let alice = mailbox("alice");
    // each attempt gets one page further before it fails
    let mishaps = [Mishap::DoneThenHalf, Mishap::Fault("ErrorServerBusy", Some("10")), Mishap::Cut];
    for mishap in mishaps {
        server.plan("SyncFolderItems", Mishap::Well);
        server.plan("SyncFolderItems", mishap);
        assert!(transport.receive(&alice, ReceiveOptions::default()).await.is_err());
    }
    assert_eq!(count(&server, "SyncFolderItems"), 6);
    assert_eq!(ids(&transport, &alice).await.len(), 6);
    // three of six pages are known by then
    assert_eq!(count(&server, "SyncFolderItems"), 9);
}

#[tokio::test]
async fn messages_are_read_in_batches() {
    let server = server(EwsOptions::default()).await;
    for n in 0..25 {
        server.put(ALICE, &message(n, 200));
    }
    server.put(ALICE, &message(25, 300_000));
    let transport = with(&server, |s| s.batch_bytes = 100_000);
    let mut inbox = transport.receive(&mailbox("alice"), ReceiveOptions::default()).await.unwrap();
    let stubs = list(&mut inbox).await;
    let hint: Vec<_> = stubs.iter().map(|s| (s.id.clone(), Part::Whole)).collect();
    inbox.prefetch(&hint).await.unwrap();
    for (n, stub) in stubs.iter().enumerate() {
        let whole = inbox.fetch(&stub.id).await.unwrap();
        assert_eq!(whole.headers().get("Subject"), Some(format!("message {n}")));
    }
    // ten, ten, five, and the large one alone
    let sizes: Vec<_> = server
        .heard()
        .iter()
        .filter(|h| h.operation == "GetItem")
        .map(|h| h.body.matches("<t:ItemId ").count())
        .collect();
    assert_eq!(sizes, [10, 10, 5, 1]);
    // headers are batches of their own
    let hint: Vec<_> = stubs.iter().map(|s| (s.id.clone(), Part::Headers)).collect();
    inbox.prefetch(&hint).await.unwrap();
    for stub in &stubs {
        inbox.headers(&stub.id).await.unwrap();
    }
    assert_eq!(count(&server, "GetItem") - 4, 3);
}

#[tokio::test]
async fn a_message_without_the_header_it_came_with_is_read_whole_once() {
    let server = server(EwsOptions::default()).await;
    server.put_as(ALICE, &message(1, 400), "IPM.Note", false);
    let mut inbox = transport(&server).receive(&mailbox("alice"), ReceiveOptions::default()).await.unwrap();
    let id = inbox.next().await.unwrap().unwrap().id;
    let headers = inbox.headers(&id).await.unwrap();
    assert!(headers.starts_with(b"Received: from x by y") && headers.ends_with(b"\r\n\r\n"));
    let before = count(&server, "GetItem");
    assert_eq!(*inbox.fetch(&id).await.unwrap().bytes(), message(1, 400));
    assert_eq!(count(&server, "GetItem"), before);
}

#[tokio::test]
async fn deleting_as_the_settings_say() {
    for (how, in_the_bin) in
        [(DeleteType::MoveToDeletedItems, 1), (DeleteType::SoftDelete, 0), (DeleteType::HardDelete, 0)]
    {
        let server = server(EwsOptions::default()).await;
        let id = server.put(ALICE, &message(1, 100));
        let transport = with(&server, |s| s.delete_type = how);
        let mut inbox = transport.receive(&mailbox("alice"), ReceiveOptions::default()).await.unwrap();
        inbox.dispose(&RemoteId::new(id), Disposition::Delete).await.unwrap();
        inbox.close().await.unwrap();
        assert_eq!(server.folder(ALICE, "inbox").len(), 0);
        assert_eq!(server.folder(ALICE, "deleteditems").len(), in_the_bin, "{how:?}");
        let heard = server.heard().into_iter().rfind(|h| h.operation == "DeleteItem").unwrap();
        assert!(heard.body.contains(&format!("DeleteType=\"{how:?}\"")));
    }
}

#[tokio::test]
async fn a_change_key_is_fetched_where_the_server_wants_one() {
    let server = server(EwsOptions::default()).await;
    let id = server.put(ALICE, &message(1, 100));
    let mut inbox = transport(&server).receive(&mailbox("alice"), ReceiveOptions::default()).await.unwrap();
    server.plan("UpdateItem", Mishap::Refusal("ErrorChangeKeyRequiredForWriteOperations", None));
    inbox.dispose(&RemoteId::new(id), Disposition::MarkRead).await.unwrap();
    assert!(server.folder(ALICE, "inbox")[0].1);
    let last = server.heard().pop().unwrap();
    assert!(last.body.contains("ChangeKey=") && last.body.contains("SuppressReadReceipts=\"true\""));
}

#[tokio::test]
async fn folders_come_and_go_while_a_session_is_open() {
    let server = server(EwsOptions::default()).await;
    let all: Vec<_> = (0..4).map(|n| RemoteId::new(server.put(ALICE, &message(n, 100)))).collect();
    let mut inbox = transport(&server).receive(&mailbox("alice"), ReceiveOptions::default()).await.unwrap();
    let to = || Disposition::Move("Undeliverable".into());
    inbox.dispose(&all[0], to()).await.unwrap();
    inbox.dispose(&all[1], to()).await.unwrap();
    assert_eq!((count(&server, "FindFolder"), count(&server, "CreateFolder")), (1, 1));
    server.remove_folder(ALICE, "Undeliverable");
    inbox.dispose(&all[2], to()).await.unwrap();
    assert_eq!((count(&server, "FindFolder"), count(&server, "CreateFolder")), (2, 2));
    assert_eq!(server.folder(ALICE, "Undeliverable").len(), 1);
    // another session made it between our looking and our making
    server.remove_folder(ALICE, "Undeliverable");
    server.plan("CreateFolder", Mishap::Refusal("ErrorFolderExists", None));
    let error = inbox.dispose(&all[3], to()).await.unwrap_err();
    assert_eq!(error.scope(), Scope::Message);
    inbox.dispose(&all[3], to()).await.unwrap();
    inbox.close().await.unwrap();
}

#[tokio::test]
async fn whose_mailbox_may_be_opened() {
    let server = server(EwsOptions::default()).await;
    let open = async |access, name: &str, account: &str| {
        let credentials = Credentials::new(account, PASSWORD.into());
        let transport = with(&server, |s| {
            s.access = access;
            s.credentials = Arc::new(move |_: &Mailbox| Some(credentials.clone()));
        });
        transport.receive(&mailbox(name), ReceiveOptions::default()).await.map(drop)
    };
    use MailboxAccess as A;
    for access in [A::FullAccess, A::Impersonation, A::ImpersonationByAnyAddress] {
        open(access, "alice", "svc").await.unwrap();
        let error = open(access, "nobody", "svc").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AccessDenied, "{error}");
        assert!(
            error.hint().unwrap().contains("check the address nobody@contoso.test"),
            "{:?}",
            error.hint()
        );
    }
    let error = open(A::FullAccess, "alice", "bob").await.unwrap_err();
    assert_eq!(
        (error.kind(), error.retry(), error.scope()),
        (ErrorKind::AccessDenied, Retry::Never, Scope::Mailbox)
    );
    assert!(error.hint().unwrap().contains("Add-MailboxPermission -Identity alice@contoso.test -User bob"));
    let error = open(A::Impersonation, "alice", "bob").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AccessDenied);
    assert!(error.hint().unwrap().contains("ApplicationImpersonation -User bob"));
    // the server itself refuses
    let error = open(A::FullAccess, "alice", "mallory").await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Authentication, Retry::Never));
    assert!(error.to_string().contains("itself, whatever the mailbox"), "{error}");
    assert!(!format!("{error:?}").contains(PASSWORD));
}

/// Gives out tokens one after the other; the same again until it is refused.
#[derive(Debug)]
struct Tokens {
    given: AtomicUsize,
    refused: Mutex<Vec<String>>,
    last: usize,
}

#[async_trait]
impl CredentialSource for Tokens {
    async fn credentials(&self, mailbox: &Mailbox) -> Result<Option<Credentials>, CredentialError> {
        let n = self.given.load(Ordering::Relaxed);
        Ok(Some(Credentials::bearer(mailbox.login_name(), format!("token-{n}").into())))
    }
    fn refused(&self, _: &Mailbox, credentials: &Credentials) {
        self.refused.lock().unwrap().push(credentials.token().unwrap().expose().to_owned());
        if self.given.load(Ordering::Relaxed) < self.last {
            self.given.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[tokio::test]
async fn a_token_that_is_refused_is_renewed_once() {
    for (good, works, refused) in [
        ("token-0", true, vec![]),
        ("token-1", true, vec!["token-0"]),
        ("token-2", false, vec!["token-0", "token-1"]),
        // there is no other token: it is not tried again
        ("token-7", false, vec!["token-0"]),
    ] {
        let server = server(EwsOptions::default()).await;
        server.add_token(good, "alice");
        let last = if good == "token-7" { 0 } else { 5 };
        let tokens = Arc::new(Tokens { given: AtomicUsize::new(0), refused: Mutex::default(), last });
        let transport = with(&server, |s| {
            s.scheme = Scheme::Bearer;
            s.credentials = Arc::clone(&tokens) as Arc<dyn CredentialSource>;
        });
        let result = transport.receive(&mailbox("alice"), ReceiveOptions::default()).await;
        assert_eq!(result.is_ok(), works, "{good}");
        assert_eq!(*tokens.refused.lock().unwrap(), refused);
        if let Err(error) = result {
            assert_eq!(error.kind(), ErrorKind::Authentication);
            assert!(!format!("{error:?}").contains("token-"), "{error:?}");
        }
        assert_eq!(server.heard().len(), refused.len() + usize::from(works));
    }
}

#[tokio::test]
async fn the_version_the_server_understands_is_found_and_kept() {
    for (newest, requests, version) in [
        ("Exchange2016", 1, "Exchange2016"),
        ("Exchange2013", 3, "Exchange2013"),
        ("Exchange2010_SP1", 5, "Exchange2010_SP1"),
        ("Exchange2007_SP1", 7, "Exchange2007_SP1"),
        ("none of them", 7, ""),
    ] {
        let options = EwsOptions { newest, ..EwsOptions::default() };
        let server = server(options).await;
        let transport = with(&server, |s| s.version = Version::Exchange2016);
        if version.is_empty() {
            server.plan("", Mishap::Fault("ErrorInvalidServerVersion", None));
            for _ in 0..6 {
                server.plan("", Mishap::Fault("ErrorInvalidServerVersion", None));
            }
            let error =
                transport.receive(&mailbox("alice"), ReceiveOptions::default()).await.map(drop).unwrap_err();
            assert_eq!((error.kind(), error.scope()), (ErrorKind::Unsupported, Scope::Server));
            assert_eq!(server.heard().len(), requests);
            continue;
        }
        transport.receive(&mailbox("alice"), ReceiveOptions::default()).await.unwrap();
        assert_eq!(server.heard().len(), requests, "{newest}");
        transport.receive(&mailbox("bob"), ReceiveOptions::default()).await.unwrap();
        assert_eq!(server.heard().len(), requests + 1);
        assert_eq!(server.heard().pop().unwrap().version.as_deref(), Some(version));
    }
    // once a version was understood, a schema fault is the request's own
    let server = server(EwsOptions::default()).await;
    let transport = transport(&server);
    transport.receive(&mailbox("alice"), ReceiveOptions::default()).await.unwrap();
    server.plan("", Mishap::Fault("ErrorSchemaValidation", None));
    let error = transport.receive(&mailbox("alice"), ReceiveOptions::default()).await.map(drop).unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Protocol, Retry::Never));
    assert_eq!(server.heard().len(), 2);
}

fn outbound(id: &str, header: &str, recipients: &[&str]) -> Outbound {
    Outbound {
        envelope: Envelope {
            sender: Some(ALICE.parse().unwrap()),
            recipients: recipients.iter().map(|r| r.parse().unwrap()).collect(),
        },
        message_id: MessageId::parse(id).unwrap(),
        mime: Bytes::from(format!(
            "From: {ALICE}\r\n{header}Subject: x\r\nMessage-ID: <{id}>\r\n\r\nbody\r\n"
        )),
    }
}

#[tokio::test]
async fn in_whose_name_mail_goes_out() {
    use SentItems as Copies;
    for (sending, copies, account, sender, saved_in) in [
        (Sending::Own, Copies::OfSender, "alice", None, Some(ALICE)),
        (Sending::Own, Copies::None, "alice", None, None),
        (
            Sending::OnBehalfOf,
            Copies::OfSender,
            "delegate",
            Some("delegate@contoso.test"),
            Some("delegate@contoso.test"),
        ),
        (Sending::OnBehalfOf, Copies::OfMailbox, "delegate", Some("delegate@contoso.test"), Some(ALICE)),
        (Sending::SendAs, Copies::OfSender, "svc", None, Some("svc@contoso.test")),
        (Sending::SendAs, Copies::OfMailbox, "svc", None, Some(ALICE)),
        (Sending::Impersonation, Copies::OfSender, "svc", None, Some(ALICE)),
    ] {
        let server = server(EwsOptions::default()).await;
        server.add_user("delegate", PASSWORD, "delegate@contoso.test");
        server.grant_on_behalf("delegate", ALICE);
        server.grant_full_access("delegate", ALICE);
        let credentials = Credentials::new(account, PASSWORD.into());
        let transport = with(&server, |s| {
            s.sending = sending;
            s.sent_items = copies;
            s.credentials = Arc::new(move |_: &Mailbox| Some(credentials.clone()));
        });
        let message = outbound(
            "one@contoso.test",
            "To: Zoe <zoe@x.test>\r\nCc: bob@contoso.test\r\n",
            &["zoe@x.test", "bob@contoso.test", "blind@x.test"],
        );
        let receipt = transport.submit(&mailbox("alice"), &message, SubmitOptions::default()).await.unwrap();
        assert!(receipt.all_accepted() && receipt.recipients.len() == 3);
        let sent = server.sent().pop().unwrap();
        assert_eq!((sent.from.as_str(), sent.sender.as_deref()), (ALICE, sender), "{sending:?}");
        assert_eq!(sent.saved_in.as_deref(), saved_in, "{sending:?} {copies:?}");
        assert_eq!(sent.recipients, ["blind@x.test", "zoe@x.test", "bob@contoso.test"]);
        assert_eq!(sent.mime, message.mime);
        assert!(!sent.delivery_receipt);
        // and it can be found, where there is a copy
        let found = transport.find_submitted(&mailbox("alice"), &message.message_id).await.unwrap();
        assert_eq!(found, (copies != Copies::None).then_some(true));
        assert_eq!(transport.capability().find_submitted, copies != Copies::None);
        let other = MessageId::parse("other@contoso.test").unwrap();
        assert_eq!(
            transport.find_submitted(&mailbox("alice"), &other).await.unwrap(),
            (copies != Copies::None).then_some(false)
        );
    }
}

#[tokio::test]
async fn what_is_not_sent() {
    let server = server(EwsOptions::default()).await;
    server.refuse_recipient("bad@x.test");
    let to_zoe = |id: &str| outbound(id, "To: zoe@x.test\r\n", &["zoe@x.test"]);
    // no right to send for the mailbox
    let bob = Credentials::new("bob", PASSWORD.into());
    for sending in [Sending::OnBehalfOf, Sending::SendAs] {
        let credentials = bob.clone();
        let transport = with(&server, |s| {
            s.sending = sending;
            s.credentials = Arc::new(move |_: &Mailbox| Some(credentials.clone()));
        });
        let error =
            transport.submit(&mailbox("alice"), &to_zoe("a@b"), SubmitOptions::default()).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.retry(), error.scope()),
            (ErrorKind::AccessDenied, Retry::Never, Scope::Message)
        );
        assert!(error.hint().unwrap().contains("Add-ADPermission -Identity alice@contoso.test -User bob"));
    }
    let transport = with(&server, |s| s.max_message_bytes = 200);
    let alice = mailbox("alice");
    // nobody in To or Cc may be left out
    let partly = outbound("a@b", "To: zoe@x.test, ann@x.test\r\n", &["zoe@x.test"]);
    let error = transport.submit(&alice, &partly, SubmitOptions::default()).await.unwrap_err();
    assert_eq!((error.kind(), error.scope()), (ErrorKind::Unsupported, Scope::Message));
    let large =
        outbound("a@b", &format!("X-Filler: {}\r\nTo: zoe@x.test\r\n", "x".repeat(200)), &["zoe@x.test"]);
    assert_eq!(
        transport.submit(&alice, &large, SubmitOptions::default()).await.unwrap_err().kind(),
        ErrorKind::TooLarge
    );
    let nobody = outbound("a@b", "", &[]);
    assert_eq!(
        transport.submit(&alice, &nobody, SubmitOptions::default()).await.unwrap_err().kind(),
        ErrorKind::Settings
    );
    // one bad recipient, and none is taken
    let mixed = outbound("a@b", "To: zoe@x.test\r\n", &["zoe@x.test", "bad@x.test"]);
    let error = transport.submit(&alice, &mixed, SubmitOptions::default()).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::RecipientsRefused, Retry::Never));
    assert!(
        error.recipients().iter().all(|r| r.status == RecipientStatus::Refused)
            && error.recipients().len() == 2
    );
    assert!(server.sent().is_empty());
    // a receipt is asked for where a notification of success is
    let notify = DsnNotify { success: true, ..DsnNotify::default() };
    let mut options = SubmitOptions::default();
    options.dsn = Some(DsnRequest { notify, headers_only: false, envelope_id: None });
    transport.submit(&alice, &to_zoe("a@b"), options).await.unwrap();
    assert!(server.sent()[0].delivery_receipt);
}

#[tokio::test]
async fn an_answer_that_is_lost_leaves_it_in_doubt() {
    for (mishap, sent, retry) in [
        (Mishap::DoneThenCut, 1, Retry::InDoubt),
        (Mishap::DoneThenHalf, 1, Retry::InDoubt),
        (Mishap::DoneThenSilence, 1, Retry::InDoubt),
        (Mishap::Cut, 0, Retry::InDoubt),
        (Mishap::Page(502, "text/html", "<html><title>Bad Gateway</title>".into()), 0, Retry::InDoubt),
        (Mishap::Page(500, "text/html", "<html><title>Runtime Error</title>".into()), 0, Retry::InDoubt),
        (Mishap::Fault("ErrorTimeoutExpired", None), 0, Retry::InDoubt),
        (Mishap::Refusal("ErrorInternalServerError", None), 0, Retry::InDoubt),
        (Mishap::Bytes(b"<s:Envelope".to_vec()), 0, Retry::InDoubt),
        // these were turned away
        (Mishap::Page(503, "text/html", String::new()), 0, Retry::Later(None)),
        (
            Mishap::Fault("ErrorServerBusy", Some(" 3000\r\n ")),
            0,
            Retry::Later(Some(std::time::Duration::from_secs(3))),
        ),
        (
            Mishap::Refusal("ErrorServerBusy", Some("\n2000 ")),
            0,
            Retry::Later(Some(std::time::Duration::from_secs(2))),
        ),
        (Mishap::Refusal("ErrorMailboxMoveInProgress", None), 0, Retry::Later(None)),
        (Mishap::Refusal("ErrorMessageSizeExceeded", None), 0, Retry::Never),
    ] {
        let server = server(EwsOptions::default()).await;
        let transport = with(&server, |s| s.request_timeout = std::time::Duration::from_millis(500));
        let message = outbound("a@b", "To: zoe@x.test\r\n", &["zoe@x.test"]);
        let shown = format!("{mishap:?}");
        server.plan("CreateItem", mishap);
        let error =
            transport.submit(&mailbox("alice"), &message, SubmitOptions::default()).await.unwrap_err();
        assert_eq!(error.retry(), retry, "{shown}: {error}");
        assert_eq!(server.sent().len(), sent, "{shown}");
        let found = transport.find_submitted(&mailbox("alice"), &message.message_id).await.unwrap();
        assert_eq!(found, Some(sent == 1), "{shown}");
    }
    // nobody listens: certainly not sent
    let server = server(EwsOptions::default()).await;
    let transport = transport(&server);
    drop(server);
    let message = outbound("a@b", "To: zoe@x.test\r\n", &["zoe@x.test"]);
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    let error = transport.submit(&mailbox("alice"), &message, SubmitOptions::default()).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Refused, Retry::Later(None)));
}

#[tokio::test]
async fn test_access_tells_its_steps_and_changes_nothing() {
    let server = server(EwsOptions::default()).await;
    server.put(ALICE, &message(1, 100));
    let transport = with(&server, |s| {
        service(s);
        s.access = MailboxAccess::FullAccess;
        s.sending = Sending::SendAs;
    });
    let probe = transport.probe(&mailbox("alice"), Access::Incoming).await.unwrap();
    assert_eq!(probe.messages, Some(1));
    let steps: Vec<_> = probe.steps.iter().map(|s| s.what.as_str()).collect();
    assert_eq!(
        steps[0],
        format!(
            "connected to ews localhost:{}, Exchange 15.1.2507.6 (V2017_07_11), schema Exchange2013",
            server.port()
        )
    );
    assert_eq!(
        steps[1..],
        [
            "logged in with Basic",
            "opened the inbox of alice@contoso.test with Full Access",
            "listed 1 messages"
        ]
    );
    assert_eq!(probe.steps[1].warning.as_deref(), Some("the login was sent without TLS"));
    let probe = transport.probe(&mailbox("alice"), Access::Outgoing).await.unwrap();
    let last = probe.steps.last().unwrap();
    assert!(last.what == "sends as the mailbox" && last.warning.is_some(), "{probe:?}");
    assert!(server.sent().is_empty() && server.folder(ALICE, "drafts").is_empty());
    assert_eq!(count(&server, "CreateItem"), 0);
}

#[tokio::test]
async fn settings_that_cannot_work() {
    let server = server(EwsOptions::default()).await;
    let wrong: [fn(&mut EwsSettings); 6] = [
        |s| s.retrieve_count = 0,
        |s| s.retrieve_count = 101,
        |s| s.page = 513,
        |s| s.concurrent_submissions = 0,
        |s| s.request_timeout = std::time::Duration::ZERO,
        |s| {
            s.location = email_router_transport::ews::Location::Url(
                "https://user:hunter2@x.test/EWS/Exchange.asmx".parse().unwrap(),
            )
        },
    ];
    for change in wrong {
        let mut settings = own(&server);
        change(&mut settings);
        let error = EwsTransport::new(settings).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Settings);
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}
