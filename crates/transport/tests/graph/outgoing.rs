//! Handing over messages and finding them again.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use email_router_model::{Classified as _, MessageId, Retry, Scope};
use email_router_testkit::graph::{Fault, GraphServer, Sent};
use email_router_transport::graph::{GraphTransport, SendAccess};
use email_router_transport::{
    Envelope, ErrorKind, Outbound, RecipientStatus, Result, SubmitOptions, Transport,
};

use super::{ALICE, alice, contoso, count, email, mailbox};

fn outbound(mime: impl Into<Bytes>, recipients: &[&str]) -> Outbound {
    Outbound {
        envelope: Envelope {
            sender: Some(email(ALICE)),
            recipients: recipients.iter().map(|r| email(r)).collect(),
        },
        message_id: MessageId::parse("it's-one@contoso.test").unwrap(),
        mime: mime.into(),
    }
}

fn plain() -> Outbound {
    let mime = format!(
        "From: Alice <{ALICE}>\r\nTo: Zoe <zoe@example.com>\r\nMessage-ID: <it's-one@contoso.test>\r\nReferences: <a@b>\r\nSubject: s\r\n\r\nbody\r\n"
    );
    outbound(mime, &["zoe@example.com"])
}

/// A message with attachments of these sizes.
fn with_attachments(sizes: &[usize]) -> Outbound {
    let mut mime = format!(
        "From: Alice <{ALICE}>\r\nTo: zoe@example.com\r\nMessage-ID: <it's-one@contoso.test>\r\nReferences: <a@b>\r\n\
         MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\nsee attached\r\n"
    );
    for (n, size) in sizes.iter().enumerate() {
        mime.push_str(&format!(
            "--b\r\nContent-Type: application/x-{n}\r\nContent-Disposition: attachment; filename=\"file {n}.bin\"\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        ));
        let text = BASE64_STANDARD.encode(bytes(n, *size));
        for line in text.as_bytes().chunks(76) {
            mime.push_str(std::str::from_utf8(line).unwrap());
            mime.push_str("\r\n");
        }
    }
    mime.push_str("--b--\r\n");
    outbound(mime, &["zoe@example.com"])
}

fn bytes(seed: usize, size: usize) -> Vec<u8> {
    (0..size).map(|n| u8::try_from((n / 7 + n * seed) % 251).unwrap()).collect()
}

async fn send(transport: &GraphTransport, message: &Outbound) -> Result<()> {
    let receipt = transport.submit(&alice(), message, SubmitOptions::default()).await?;
    assert!(receipt.all_accepted() && receipt.reply.contains("request-id"));
    Ok(())
}

fn only(server: &GraphServer) -> Sent {
    let mut sent = server.sent();
    assert_eq!(sent.len(), 1, "{} were sent", sent.len());
    sent.remove(0)
}

#[tokio::test]
async fn recipients_of_the_envelope_alone_are_blind_copies() {
    let (server, transport) = contoso(|_| {}).await;
    let mut message = plain();
    message.envelope.recipients.extend([email("hidden@example.com"), email("other@example.com")]);
    send(&transport, &message).await.unwrap();
    let sent = only(&server);
    assert_eq!(sent.recipients, ["zoe@example.com", "hidden@example.com", "other@example.com"]);
    assert!(sent.mime.ends_with(&message.mime));
    let text = String::from_utf8(sent.mime).unwrap();
    assert!(!text.contains("hidden@") && text.starts_with("X-Email-Router-Id: <it's-one@contoso.test>\r\n"));
}

#[tokio::test]
async fn somebody_in_the_header_who_is_not_in_the_envelope_gets_nothing() {
    let (server, transport) = contoso(|_| {}).await;
    let mut message = plain();
    message.envelope.recipients = vec![email("hidden@example.com")];
    let error = send(&transport, &message).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.retry(), error.scope()),
        (ErrorKind::MessageRefused, Retry::Never, Scope::Message)
    );
    assert!(error.to_string().contains("zoe@example.com") && server.requests().is_empty());
}

#[tokio::test]
async fn a_lost_answer_is_in_doubt_and_found_out_by_its_id() {
    for (fault, arrived) in [
        (Fault::ActAndHangUp, true),
        (Fault::HangUp, false),
        (Fault::Answer(504, vec![], String::new()), false),
        (
            Fault::Answer(
                200,
                vec![("Content-Type", "text/html".to_owned())],
                "<html>welcome</html>".to_owned(),
            ),
            false,
        ),
    ] {
        let (server, transport) = contoso(|_| {}).await;
        server.plan("POST", "sendMail", 1, fault.clone());
        let message = plain();
        let error = send(&transport, &message).await.unwrap_err();
        assert!(error.is_in_doubt(), "{fault:?}: {error}");
        assert_eq!(count(&server, "POST"), 1, "sent again although in doubt");
        let found = transport.find_submitted(&alice(), &message.message_id).await.unwrap();
        assert_eq!(found, Some(arrived), "{fault:?}");
        let other = MessageId::parse("it''s-one@contoso.test").unwrap();
        assert_eq!(transport.find_submitted(&alice(), &other).await.unwrap(), Some(false));
    }
}

#[tokio::test]
async fn a_message_id_that_the_service_replaced_is_found_by_our_own_field() {
    let (server, transport) = contoso(|_| {}).await;
    server.rewrite_message_ids();
    let message = plain();
    assert_eq!(transport.find_submitted(&alice(), &message.message_id).await.unwrap(), Some(false));
    send(&transport, &message).await.unwrap();
    assert_eq!(transport.find_submitted(&alice(), &message.message_id).await.unwrap(), Some(true));
}

#[tokio::test]
async fn refusals_and_throttling() {
    let (server, transport) = contoso(|settings| settings.attempts = 2).await;
    server.refuse_recipient("zoe@example.com");
    let error = send(&transport, &plain()).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::RecipientsRefused, Retry::Never));
    assert_eq!(error.recipients()[0].status, RecipientStatus::Refused);
    let mut two = plain();
    two.envelope.recipients.push(email("fine@example.com"));
    let error = send(&transport, &two).await.unwrap_err();
    assert!(error.recipients().is_empty(), "nobody knows which of two");

    let (server, transport) = contoso(|settings| settings.attempts = 2).await;
    server.plan("POST", "sendMail", 1, Fault::throttled("0.005"));
    send(&transport, &plain()).await.unwrap();
    server.plan("POST", "sendMail", 2, Fault::throttled("0.005"));
    let error = send(&transport, &plain()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Throttled);
    assert!(matches!(error.retry(), Retry::Later(Some(_))), "certainly not taken: {}", error.retry());
    assert_eq!(server.sent().len(), 1);
}

#[tokio::test]
async fn in_the_name_of_another() {
    let account = "router@contoso.test";
    for (access, granted, sender, kind) in [
        (SendAccess::SendAs(email(account)), Some(false), None, None),
        (SendAccess::OnBehalf(email(account)), Some(true), Some("Sender: <router@contoso.test>"), None),
        (SendAccess::SendAs(email(account)), Some(true), None, Some(ErrorKind::SenderRefused)),
        (SendAccess::SendAs(email(account)), None, None, Some(ErrorKind::SenderRefused)),
    ] {
        let (server, transport) = contoso(|settings| settings.send_access = access.clone()).await;
        server.add_mailbox(account);
        if let Some(on_behalf) = granted {
            server.grant_sending(account, ALICE, on_behalf);
        }
        let mut message = plain();
        message.mime = Bytes::from([b"Sender: somebody@else\r\n", &message.mime[..]].concat());
        match (send(&transport, &message).await, kind) {
            (Ok(()), None) => {
                let sent = only(&server);
                assert_eq!(sent.mailbox, account);
                let text = String::from_utf8(sent.mime).unwrap();
                assert_eq!(text.lines().find(|l| l.starts_with("Sender")), sender);
                assert_eq!(
                    transport.find_submitted(&alice(), &message.message_id).await.unwrap(),
                    Some(true)
                );
                assert_eq!(transport.capability().concurrent_submissions, Some(4));
            }
            (Err(error), Some(kind)) => {
                assert_eq!(error.kind(), kind);
                assert!(error.hint().unwrap().contains("Add-RecipientPermission"));
            }
            (other, _) => panic!("{access:?} {granted:?}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_large_message_goes_out_as_a_draft_with_uploads() {
    let (server, transport) = contoso(|_| {}).await;
    let sizes = [5 << 20, 1000, (3 << 20) + 1, 2 << 20];
    let message = with_attachments(&sizes);
    send(&transport, &message).await.unwrap();
    let sent = only(&server);
    assert_eq!(sent.recipients, ["zoe@example.com"]);
    let text = String::from_utf8(sent.mime).unwrap();
    for part in [
        "Message-ID: <it's-one@contoso.test>",
        "References: <a@b>",
        "see attached",
        "file 1.bin",
        "file 3.bin",
    ] {
        assert!(text.contains(part), "{part} is missing");
    }
    let attached: Vec<_> = sent.attachments.iter().map(|a| (a.name.as_str(), a.pieces)).collect();
    assert_eq!(attached, [("file 0.bin", 2), ("file 2.bin", 1)]);
    assert_eq!(
        (&sent.attachments[0].content, &sent.attachments[1].content),
        (&bytes(0, sizes[0]), &bytes(2, sizes[2]))
    );
    assert_eq!(transport.find_submitted(&alice(), &message.message_id).await.unwrap(), Some(true));
    assert!(server.folder(ALICE, "drafts").is_empty());
    assert_eq!(server.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn smaller_attachments_are_taken_out_where_many_are_too_much() {
    let (server, transport) = contoso(|_| {}).await;
    send(&transport, &with_attachments(&[2 << 20, 2 << 20, 2 << 20])).await.unwrap();
    let sent = only(&server);
    assert!(!sent.attachments.is_empty() && sent.attachments.iter().all(|a| a.pieces == 0));
}

#[tokio::test]
async fn an_upload_survives_lost_pieces_and_sessions() {
    let message = with_attachments(&[9 << 20]);
    for fault in [
        Fault::HangUp,
        Fault::ActAndHangUp,
        Fault::throttled("0.001"),
        Fault::error(503, "ServiceUnavailable"),
        Fault::error(404, "ErrorItemNotFound"),
    ] {
        let (server, transport) = contoso(|_| {}).await;
        server.plan("PUT", "/upload/", 1, fault.clone());
        send(&transport, &message).await.unwrap();
        assert_eq!(only(&server).attachments[0].content, bytes(0, 9 << 20), "{fault:?}");
    }
}

#[tokio::test]
async fn a_large_message_that_fails_leaves_no_draft_behind() {
    let message = with_attachments(&[4 << 20]);
    for (method, part) in [("POST", "createUploadSession"), ("PUT", "/upload/"), ("PATCH", "/messages/")] {
        let (server, transport) = contoso(|settings| settings.attempts = 1).await;
        server.rewrite_message_ids();
        server.plan(method, part, usize::MAX, Fault::error(403, "ErrorAccessDenied"));
        let error = send(&transport, &message).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AccessDenied, "{part}: {error}");
        assert!(error.hint().unwrap().contains("Mail.ReadWrite") && !error.is_in_doubt());
        assert!(server.folder(ALICE, "drafts").is_empty() && server.sent().is_empty(), "{part}");
    }
}

#[tokio::test]
async fn a_draft_keeps_its_message_id_and_a_lost_answer_to_its_sending_is_in_doubt() {
    let (server, transport) = contoso(|_| {}).await;
    server.rewrite_message_ids();
    let message = with_attachments(&[4 << 20]);
    server.plan("POST", "/send", 1, Fault::ActAndHangUp);
    let error = send(&transport, &message).await.unwrap_err();
    assert!(error.is_in_doubt());
    assert_eq!(transport.find_submitted(&alice(), &message.message_id).await.unwrap(), Some(true));
    assert!(String::from_utf8_lossy(&only(&server).mime).contains("Message-ID: <it's-one@contoso.test>"));
    assert_eq!(count(&server, "DELETE"), 0, "what may have been sent was deleted");
}

#[tokio::test]
async fn a_draft_of_an_attempt_that_was_cut_off_is_removed_by_the_next() {
    let (server, transport) = contoso(|settings| settings.attempts = 1).await;
    let message = with_attachments(&[4 << 20]);
    server.plan("POST", "createUploadSession", 1, Fault::error(400, "x"));
    server.plan("DELETE", "/messages/", 1, Fault::error(503, "x"));
    send(&transport, &message).await.unwrap_err();
    assert_eq!(server.folder(ALICE, "drafts").len(), 1);
    send(&transport, &message).await.unwrap();
    assert!(server.folder(ALICE, "drafts").is_empty());
    only(&server);
}

#[tokio::test]
async fn what_cannot_be_split_is_too_large() {
    let (server, transport) = contoso(|_| {}).await;
    let mut message = plain();
    message.mime = Bytes::from([&message.mime[..], &b"0123456789abcde\r\n".repeat(300_000)].concat());
    let error = send(&transport, &message).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.retry(), error.scope()),
        (ErrorKind::TooLarge, Retry::Never, Scope::Message)
    );
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn a_mailbox_that_is_not_there() {
    let (_server, transport) = contoso(|_| {}).await;
    let nobody = mailbox("nobody@contoso.test");
    let error = transport.submit(&nobody, &plain(), SubmitOptions::default()).await.unwrap_err();
    assert_eq!((error.kind(), error.scope()), (ErrorKind::AccessDenied, Scope::Mailbox));
}
