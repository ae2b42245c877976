//! A future dropped at any await leaves nothing behind that a later call could read.

use super::*;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use email_router_transport::{Access, ErrorKind};

/// Polls a future so many times and then gives up on it.
struct AtMost<F>(Pin<Box<F>>, usize);

impl<F: Future> Future for AtMost<F> {
    type Output = Option<F::Output>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.1 == 0 {
            return Poll::Ready(None);
        }
        self.1 -= 1;
        self.0.as_mut().poll(cx).map(Some)
    }
}

/// lettre 0.11 reported success for a mail that the server had refused, because it read the answer to the cancelled one before.
#[tokio::test]
async fn the_next_message_gets_its_own_answers() {
    // on a connection of the pool and on one that has to be opened first
    for (pipelining, chunking, warm) in [
        (true, true, true),
        (true, true, false),
        (true, false, false),
        (false, false, true),
        (false, false, false),
    ] {
        let server = SmtpServer::start(SmtpOptions {
            pipelining,
            chunking,
            refuse_content: vec![("REJECTED", "554 5.6.0 content rejected")],
            refuse_recipients: vec![("nobody", "550 5.1.1 no such user")],
            ..SmtpOptions::default()
        })
        .await;
        let mut settings = settings(server.port(), TlsMode::None);
        settings.pool.max_connections = 1; // a permit that is lost would stop everything
        let transport = anonymous(settings);
        let mut cancelled = 0;
        for k in 0.. {
            if !warm {
                transport.close_idle().await;
            }
            let first =
                outbound("bob@example.net nobody@example.net", format!("Subject: first{k}\r\n\r\nx\r\n"));
            let done = AtMost(Box::pin(submit(&transport, &first)), k).await;

            let error = submit(&transport, &letter("REJECTED")).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::MessageRefused, "{error}");
            let receipt = submit(&transport, &letter(&format!("second{k}"))).await.unwrap();
            assert!(receipt.reply.ends_with(&format!("second{k}")), "{receipt:?}");
            assert_eq!(receipt.recipients.len(), 1);

            match done {
                None => cancelled += 1,
                Some(result) => {
                    assert!(result.unwrap().reply.ends_with(&format!("first{k}")));
                    break;
                }
            }
        }
        // every await on the way was one step: opening, envelope, data
        assert!(cancelled >= if warm { 3 } else { 5 }, "{cancelled}");
        assert_eq!(server.violations(), Vec::<String>::new());
        assert_eq!(
            server.taken().iter().filter(|t| t.data.starts_with(b"Subject: second")).count(),
            cancelled + 1
        );
    }
}

#[tokio::test]
async fn a_dropped_probe_leaves_nothing() {
    let server = SmtpServer::start(SmtpOptions::default()).await;
    let mut settings = settings(server.port(), TlsMode::None);
    settings.pool.max_connections = 1;
    let transport = anonymous(settings);
    let ann = mailbox();
    for k in 0.. {
        let done = AtMost(Box::pin(transport.probe(&ann, Access::Outgoing)), k).await;
        let receipt = submit(&transport, &letter(&format!("m{k}"))).await.unwrap();
        assert!(receipt.reply.ends_with(&format!("m{k}")), "{receipt:?}");
        if done.is_some() {
            assert!(k > 3);
            break;
        }
    }
    assert_eq!(server.violations(), Vec::<String>::new());
}
