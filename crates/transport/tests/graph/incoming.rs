//! Reading mailboxes.

use bytes::Bytes;
use email_router_model::{Classified as _, Headers, Scope};
use email_router_testkit::graph::Fault;
use email_router_transport::graph::{Deletion, GraphTransport};
use email_router_transport::{Disposition, ErrorKind, Part, ReceiveOptions, Transport};

use super::{ALICE, alice, contoso, count, list, message, open, settings};

#[tokio::test]
async fn a_listing_tells_size_class_conversation_and_date() {
    let (server, transport) = contoso(|_| {}).await;
    let id = server.deliver(ALICE, &message(1));
    let mut inbox = open(&transport).await;
    let stubs = list(&mut *inbox).await;
    assert_eq!(stubs.len(), 1);
    let stub = &stubs[0];
    assert_eq!(stub.id.as_str(), id, "not the immutable id");
    assert_eq!(stub.size, Some(message(1).len() as u64));
    assert_eq!(stub.message_class.as_deref(), Some("IPM.Note"));
    assert_eq!(stub.conversation_id.as_deref(), Some("conversation-1"));
    assert_eq!(stub.received, Some("2024-05-01T00:00:01Z".parse().unwrap()));
    let whole = inbox.fetch(&stub.id).await.unwrap();
    assert_eq!((whole.received, whole.conversation_id), (stub.received, stub.conversation_id.clone()));
}

#[tokio::test]
async fn the_second_session_asks_for_changes_only() {
    let (server, transport) = contoso(|settings| settings.page_size = 10).await;
    for n in 0..35 {
        server.deliver(ALICE, &message(n));
    }
    assert_eq!(list(&mut *open(&transport).await).await.len(), 35);
    assert_eq!(count(&server, "GET"), 4, "four pages of ten");
    server.forget_requests();
    let mut inbox = open(&transport).await;
    let stubs = list(&mut *inbox).await;
    assert_eq!((stubs.len(), count(&server, "GET")), (35, 1));
    assert!(server.requests()[0].contains("$deltatoken="), "{:?}", server.requests());
    // one is new, one is marked (which tells it again), one is gone
    server.deliver(ALICE, &message(99));
    inbox.dispose(&stubs[3].id, Disposition::MarkRead).await.unwrap();
    inbox.dispose(&stubs[5].id, Disposition::Delete).await.unwrap();
    inbox.close().await.unwrap();
    let after = list(&mut *open(&transport).await).await;
    assert_eq!(after.len(), 35);
    assert!(after.iter().all(|s| s.id != stubs[5].id) && after[3].id == stubs[3].id);
    assert_eq!(after[3].size, stubs[3].size, "what a change does not tell is kept");
}

#[tokio::test]
async fn a_delta_token_that_is_forgotten_leads_to_a_new_listing_without_doubles() {
    for code in ["", "resyncRequired", "SyncStateNotFound"] {
        let (server, transport) = contoso(|_| {}).await;
        for n in 0..3 {
            server.deliver(ALICE, &message(n));
        }
        let first = list(&mut *open(&transport).await).await;
        match code {
            "" => server.expire_tokens(),
            code => server.plan("GET", "$deltatoken", 1, Fault::error(400, code)),
        }
        server.deliver(ALICE, &message(3));
        let second = list(&mut *open(&transport).await).await;
        assert_eq!(second.len(), 4, "{code}");
        assert_eq!(second[..3], first[..], "{code}");
    }
}

#[tokio::test]
async fn a_listing_that_broke_is_taken_up_where_the_last_whole_one_ended() {
    let (server, transport) = contoso(|settings| settings.page_size = 2).await;
    for n in 0..6 {
        server.deliver(ALICE, &message(n));
    }
    assert_eq!(list(&mut *open(&transport).await).await.len(), 6);
    for n in 6..12 {
        server.deliver(ALICE, &message(n));
    }
    server.plan("GET", "$skiptoken", 1, Fault::HangUp);
    let error = transport.receive(&alice(), ReceiveOptions::default()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::ConnectionLost);
    let numbers: Vec<_> = list(&mut *open(&transport).await).await.into_iter().map(|s| s.id).collect();
    assert_eq!(numbers.len(), 12);
}

#[tokio::test]
async fn a_service_that_does_not_expand_still_lists() {
    let (server, transport) = contoso(|_| {}).await;
    server.refuse_expand();
    server.deliver(ALICE, &message(1));
    let stubs = list(&mut *open(&transport).await).await;
    assert_eq!((stubs.len(), stubs[0].size), (1, None));
    // and is not asked again
    server.forget_requests();
    server.expire_tokens();
    list(&mut *open(&transport).await).await;
    assert!(server.requests().iter().all(|r| !r.contains("$expand")), "{:?}", server.requests());
}

#[tokio::test]
async fn what_is_remembered_is_bounded() {
    let (server, transport) = contoso(|settings| settings.remembered_messages = 4).await;
    for n in 0..5 {
        server.deliver(ALICE, &message(n));
    }
    for _ in 0..2 {
        assert_eq!(list(&mut *open(&transport).await).await.len(), 5);
    }
    assert!(server.requests().iter().all(|r| !r.contains("$deltatoken")), "{:?}", server.requests());
}

#[tokio::test]
async fn header_sections_are_read_in_batches_and_keep_their_folding() {
    let (server, transport) = contoso(|_| {}).await;
    for n in 0..45 {
        server.deliver(ALICE, &message(n));
    }
    let mut inbox = open(&transport).await;
    let stubs = list(&mut *inbox).await;
    server.forget_requests();
    let hint: Vec<_> = stubs.iter().map(|s| (s.id.clone(), Part::Headers)).collect();
    inbox.prefetch(&hint).await.unwrap();
    for (n, stub) in stubs.iter().enumerate() {
        let section = inbox.headers(&stub.id).await.unwrap();
        let whole = message(n);
        assert_eq!(section, Headers::new(&whole).as_bytes());
    }
    assert_eq!(count(&server, "POST /v1.0/$batch"), 3, "{:?}", server.requests());
    assert_eq!(count(&server, "GET"), 0);
}

#[tokio::test]
async fn a_message_without_header_fields_is_read_from_its_beginning() {
    let (server, transport) = contoso(|_| {}).await;
    let mut large = message(1);
    large.extend(b"0123456789\r\n".repeat(400_000));
    server.deposit(ALICE, &large);
    server.deposit(ALICE, &message(2));
    let options = ReceiveOptions::default();
    let mut inbox = transport.receive(&alice(), options).await.unwrap();
    let stubs = list(&mut *inbox).await;
    let hint: Vec<_> = stubs.iter().map(|s| (s.id.clone(), Part::Headers)).collect();
    inbox.prefetch(&hint).await.unwrap();
    for stub in &stubs {
        let section = inbox.headers(&stub.id).await.unwrap();
        assert!(section.starts_with(b"Received: from a\r\n\tby b") && section.ends_with(b"\r\n\r\n"));
        assert!(section.len() < 400, "the body was read, too");
    }
    assert_eq!(count(&server, "GET /v1.0/users/alice@contoso.test/messages/"), 2);
}

#[tokio::test]
async fn messages_are_read_ahead_four_at_a_time_and_no_more() {
    let (server, transport) = contoso(|_| {}).await;
    for n in 0..30 {
        server.deliver(ALICE, &message(n));
    }
    let mut inbox = open(&transport).await;
    let stubs = list(&mut *inbox).await;
    let hint: Vec<_> = stubs.iter().map(|s| (s.id.clone(), Part::Whole)).collect();
    inbox.prefetch(&hint).await.unwrap();
    for (n, stub) in stubs.iter().enumerate() {
        assert_eq!(inbox.fetch(&stub.id).await.unwrap().bytes(), &message(n));
    }
    assert!(server.most_in_flight() > 1, "one after the other");
    assert!(server.most_in_flight() <= 4 && server.violations().is_empty());
    assert_eq!(
        server.requests().iter().filter(|r| r.ends_with("/$value")).count(),
        30,
        "something was read twice"
    );
}

#[tokio::test]
async fn two_sessions_of_a_mailbox_share_its_limit() {
    let (server, transport) = contoso(|_| {}).await;
    for n in 0..20 {
        server.deliver(ALICE, &message(n));
    }
    let read_all = async || {
        let mut inbox = open(&transport).await;
        let stubs = list(&mut *inbox).await;
        let hint: Vec<_> = stubs.iter().map(|s| (s.id.clone(), Part::Whole)).collect();
        inbox.prefetch(&hint).await.unwrap();
        for stub in &stubs {
            inbox.fetch(&stub.id).await.unwrap();
        }
    };
    tokio::join!(read_all(), read_all(), read_all());
    assert_eq!(server.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn dispositions_go_in_batches_in_their_order() {
    let (server, transport) = contoso(|_| {}).await;
    for n in 0..60 {
        server.deliver(ALICE, &message(n));
    }
    let mut inbox = open(&transport).await;
    let stubs = list(&mut *inbox).await;
    server.forget_requests();
    for (n, stub) in stubs.iter().enumerate() {
        let what = match n % 3 {
            0 => Disposition::Delete,
            1 => Disposition::Move("Undeliverable".to_owned()),
            _ => Disposition::MarkRead,
        };
        inbox.dispose(&stub.id, Disposition::MarkRead).await.unwrap();
        inbox.dispose(&stub.id, what).await.unwrap();
    }
    inbox.close().await.unwrap();
    let read = |folder: &str| server.folder(ALICE, folder).iter().filter(|(_, read)| *read).count();
    assert_eq!((read("inbox"), read("deleteditems"), read("Undeliverable")), (20, 20, 20));
    let batches = count(&server, "POST /v1.0/$batch");
    // 60 marks, 20 moves and 20 deletions
    assert!((5..=9).contains(&batches), "{batches} batches for 100 dispositions");
    assert_eq!(
        count(&server, "POST /v1.0/users/alice@contoso.test/mailFolders"),
        1,
        "the folder was made once"
    );
}

#[tokio::test]
async fn deleting_for_good_and_deleting_twice() {
    for (deletion, left) in [(Deletion::DeletedItems, 1), (Deletion::Permanent, 0)] {
        let (server, transport) = contoso(|settings| settings.deletion = deletion).await;
        server.deliver(ALICE, &message(1));
        let mut inbox = open(&transport).await;
        let stubs = list(&mut *inbox).await;
        // the answer is lost after it happened; what is done again must not take it out of Deleted Items
        server.plan("POST", "/v1.0/$batch", 1, Fault::Answer(502, vec![], String::new()));
        inbox.dispose(&stubs[0].id, Disposition::Delete).await.unwrap();
        inbox.close().await.unwrap();
        let mut inbox = open(&transport).await;
        assert!(list(&mut *inbox).await.is_empty());
        assert_eq!(server.folder(ALICE, "deleteditems").len(), left);
    }
}

#[tokio::test]
async fn throttled_parts_of_a_batch_are_asked_again_alone() {
    let (server, transport) = contoso(|_| {}).await;
    for n in 0..10 {
        server.deliver(ALICE, &message(n));
    }
    let mut inbox = open(&transport).await;
    let stubs = list(&mut *inbox).await;
    server.forget_requests();
    server.plan("POST", "/move", 3, Fault::throttled("0.01"));
    for stub in &stubs {
        inbox.dispose(&stub.id, Disposition::Delete).await.unwrap();
    }
    inbox.close().await.unwrap();
    assert_eq!(server.folder(ALICE, "deleteditems").len(), 10);
    assert_eq!(count(&server, "  POST"), 13, "ten, and three again");
}

#[tokio::test]
async fn a_disposition_that_is_refused_is_told_at_the_end_and_holds_up_no_other() {
    let (server, transport) = contoso(|_| {}).await;
    for n in 0..4 {
        server.deliver(ALICE, &message(n));
    }
    let mut inbox = open(&transport).await;
    let stubs = list(&mut *inbox).await;
    server.plan("POST", &format!("{}/move", stubs[1].id), 1, Fault::error(400, "ErrorMoveCopyFailed"));
    for stub in &stubs {
        inbox.dispose(&stub.id, Disposition::Delete).await.unwrap();
    }
    let error = inbox.close().await.err().unwrap();
    assert!(error.to_string().contains("ErrorMoveCopyFailed"), "{error}");
    assert_eq!(error.scope(), Scope::Message);
    assert_eq!(server.folder(ALICE, "inbox").len(), 1);
}

#[tokio::test]
async fn without_the_right_to_change_the_session_ends_with_a_hint() {
    let (server, transport) = contoso(|_| {}).await;
    server.deliver(ALICE, &message(1));
    let mut inbox = open(&transport).await;
    let stubs = list(&mut *inbox).await;
    server.plan("POST", "/move", 1, Fault::error(403, "ErrorAccessDenied"));
    inbox.dispose(&stubs[0].id, Disposition::Delete).await.unwrap();
    let error = inbox.close().await.err().unwrap();
    assert_eq!((error.kind(), error.scope()), (ErrorKind::AccessDenied, Scope::Mailbox));
    assert!(error.hint().unwrap().contains("Mail.ReadWrite"));
}

#[tokio::test]
async fn a_message_that_somebody_moved_is_no_longer_listed_and_keeps_its_id() {
    let (server, transport) = contoso(|_| {}).await;
    server.deliver(ALICE, &message(1));
    let mut inbox = open(&transport).await;
    let stubs = list(&mut *inbox).await;
    inbox.dispose(&stubs[0].id, Disposition::Move("Elsewhere".to_owned())).await.unwrap();
    inbox.close().await.unwrap();
    assert!(list(&mut *open(&transport).await).await.is_empty());
    assert_eq!(server.folder(ALICE, "Elsewhere").len(), 1);
}

#[tokio::test]
async fn a_listing_is_taken_up_again_after_a_restart() {
    let (server, transport) = contoso(|_| {}).await;
    for n in 0..20 {
        server.deliver(ALICE, &message(n));
    }
    let mut inbox = open(&transport).await;
    let before = list(&mut *inbox).await;
    let token = inbox.resume_token().expect("a token of a first listing");
    inbox.close().await.unwrap();
    let mut options = ReceiveOptions::default();
    options.resume = Some(token.clone());
    let mut again = transport.receive(&alice(), options).await.unwrap();
    assert_eq!(again.resume_token(), None, "nothing has changed");
    assert!(open(&transport).await.resume_token().is_some(), "the caller has none");
    server.deliver(ALICE, &message(99));

    let resumed = async |token: &[u8]| {
        let restarted = GraphTransport::new(settings(&server));
        let mut options = ReceiveOptions::default();
        options.resume = Some(Bytes::copy_from_slice(token));
        server.forget_requests();
        let mut inbox = restarted.receive(&alice(), options).await.unwrap();
        let stubs = list(&mut *inbox).await;
        assert_eq!(stubs.len(), 21);
        assert_eq!(stubs[..20], before[..]);
        assert!(inbox.resume_token().is_some_and(|next| next[..] != *token));
        server.requests()
    };
    let requests = resumed(&token).await;
    assert!(requests.len() == 1 && requests[0].contains("$deltatoken"), "{requests:?}");
    // whatever is wrong with it, all is listed
    let text = String::from_utf8(token.to_vec()).unwrap();
    for bad in [
        String::new(),
        "{}".to_owned(),
        text[..text.len() / 2].to_owned(),
        text.replace("alice@contoso.test", "bob@contoso.test"),
        text.replace("\"form\":1", "\"form\":2"),
    ] {
        assert!(resumed(bad.as_bytes()).await[0].contains("$select"), "{bad}");
    }
    // and where the service has forgotten the delta
    server.expire_tokens();
    assert_eq!(resumed(&token).await.len(), 2);
}
