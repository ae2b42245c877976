//! The memory transport, each layer around it, and erased handles run the conformance suite.
#![cfg(all(feature = "conformance", feature = "memory"))]
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use email_router_model::{Classified, Mailbox, MailboxKind, RawMessage, RemoteId, Retry, SeededEntropy};
use email_router_transport::conformance::{self, Fixture, Left, Refused, Submitted, wrapped};
use email_router_transport::layer::fault::Faults;
use email_router_transport::layer::limit::Limits;
use email_router_transport::layer::retry::RetrySettings;
use email_router_transport::layer::timeout::Deadlines;
use email_router_transport::layer::{Fault, Limit, Operation, Retrying, Timeout, Trace};
use email_router_transport::memory::MemoryTransport;
use email_router_transport::{
    Capability, Disposition, Error, ErrorKind, ReceiveOptions, RecipientStatus, Transport,
};

struct Memory(MemoryTransport);

fn mailbox(name: &str) -> Mailbox {
    Mailbox {
        id: name.into(),
        kind: MailboxKind::User,
        name: name.to_owned(),
        address: format!("{name}@conformance.example").parse().unwrap(),
        login: None,
    }
}

#[async_trait]
impl Fixture for Memory {
    fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(self.0.clone())
    }
    fn mailbox(&self, which: usize) -> Mailbox {
        mailbox(["ann", "bob"][which])
    }
    async fn put(&self, mailbox: &Mailbox, raw: &[u8]) {
        self.0.put(&mailbox.id, RawMessage::new(raw.to_vec()));
    }
    async fn left(&self, mailbox: &Mailbox) -> Vec<Left> {
        let left = |s: email_router_transport::memory::Stored| Left {
            bytes: s.message.bytes().to_vec(),
            read: Some(s.read),
        };
        self.0.messages(&mailbox.id).into_iter().map(left).collect()
    }
    async fn folder(&self, mailbox: &Mailbox, name: &str) -> Vec<Vec<u8>> {
        self.0.folder(&mailbox.id, name).into_iter().map(|s| s.message.bytes().to_vec()).collect()
    }
    async fn empty(&self, mailbox: &Mailbox) -> bool {
        self.0.take_all(&mailbox.id);
        true
    }
    async fn break_session(&self, _mailbox: &Mailbox, at: Operation) -> bool {
        self.0.fail_next(at, 1, || Error::new(ErrorKind::ConnectionLost, "memory: cut"));
        true
    }
    async fn submitted(&self) -> Vec<Submitted> {
        let submitted = |s: email_router_transport::memory::Sent| Submitted {
            sender: s.message.envelope.sender,
            recipients: s.message.envelope.recipients,
            bytes: s.message.mime.to_vec(),
        };
        self.0.sent().into_iter().map(submitted).collect()
    }
    async fn refused_recipients(&self) -> Option<Refused> {
        let [for_good, for_now] = ["never", "later"].map(|n| mailbox(n).address);
        self.0.refuse_recipient(for_good.clone(), RecipientStatus::Refused, "550 never heard of");
        self.0.refuse_recipient(for_now.clone(), RecipientStatus::RefusedForNow, "451 come back");
        Some(Refused { for_good, for_now: Some(for_now) })
    }
    async fn locked_out(&self) -> Option<Mailbox> {
        let mailbox = mailbox("stranger");
        self.0.deny(&mailbox.id, || Error::new(ErrorKind::Authentication, "memory: wrong password"));
        Some(mailbox)
    }
}

fn full() -> Capability {
    MemoryTransport::new().capability()
}

async fn with_capability(change: fn(&mut Capability)) {
    let mut capability = full();
    change(&mut capability);
    conformance::run(|| async {
        Box::new(Memory(MemoryTransport::with_capability(capability))) as Box<dyn Fixture>
    })
    .await;
}

async fn with_layer(layer: fn(Arc<dyn Transport>) -> Arc<dyn Transport>) {
    conformance::run(|| async { wrapped(Box::new(Memory(MemoryTransport::new())), layer) }).await;
}

fn entropy() -> Arc<SeededEntropy> {
    Arc::new(SeededEntropy::new(1))
}

#[tokio::test(start_paused = true)]
async fn plain() {
    with_capability(|_| {}).await;
}

#[tokio::test(start_paused = true)]
async fn exclusive_like_pop3() {
    conformance::run(|| async {
        let mut capability = full();
        capability.dispose_at_close = true;
        capability.submit = false;
        capability.find_submitted = false;
        capability.mark_read = false;
        capability.move_to_folder = false;
        let transport = MemoryTransport::with_capability(capability);
        transport.set_exclusive(true);
        Box::new(Memory(transport)) as Box<dyn Fixture>
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn each_capability_missing() {
    with_capability(|c| c.receive = false).await;
    with_capability(|c| c.submit = false).await;
    with_capability(|c| c.stable_ids = false).await;
    with_capability(|c| c.headers_alone = false).await;
    with_capability(|c| c.delete = false).await;
    with_capability(|c| c.mark_read = false).await;
    with_capability(|c| c.move_to_folder = false).await;
    with_capability(|c| c.dispose_at_close = true).await;
    with_capability(|c| c.find_submitted = false).await;
    with_capability(|c| c.per_recipient_results = false).await;
}

#[tokio::test(start_paused = true)]
async fn erased_handles() {
    with_layer(|inner| Arc::new(Box::new(inner) as Box<dyn Transport>)).await;
    with_layer(|inner| Arc::new(inner) as Arc<dyn Transport>).await;
}

#[tokio::test(start_paused = true)]
async fn retry() {
    with_layer(|inner| Arc::new(Retrying::new(inner, RetrySettings::default(), entropy()))).await;
}

#[tokio::test(start_paused = true)]
async fn timeout() {
    with_layer(|inner| Arc::new(Timeout::new(inner, Deadlines::default()))).await;
}

#[tokio::test(start_paused = true)]
async fn limit() {
    let two = NonZeroUsize::new(2).unwrap();
    conformance::run(|| async {
        wrapped(Box::new(Memory(MemoryTransport::new())), |inner| {
            Arc::new(Limit::new(inner, Limits::new(two, NonZeroUsize::MIN)))
        })
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn trace() {
    with_layer(|inner| Arc::new(Trace::new(inner))).await;
}

#[tokio::test(start_paused = true)]
async fn fault_without_faults() {
    with_layer(|inner| Arc::new(Fault::new(inner, Faults::new(entropy())))).await;
}

#[tokio::test(start_paused = true)]
async fn all_layers_in_the_recommended_order() {
    with_layer(|inner| {
        let inner = Timeout::new(Fault::new(inner, Faults::new(entropy())), Deadlines::default());
        let three = NonZeroUsize::new(3).unwrap();
        let inner = Limit::new(inner, Limits::new(three, three));
        Arc::new(Trace::new(Retrying::new(inner, RetrySettings::default(), entropy())))
    })
    .await;
}

/// The suite itself must be able to fail: a transport that breaks one rule is caught by the case of that rule.
mod broken {
    use super::*;
    use bytes::Bytes;
    use email_router_model::MessageId;
    use email_router_transport::{
        Access, Inbox, Outbound, Part, Probe, Receipt, Result, Stub, SubmitOptions,
    };

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Sin {
        DeletesOnDrop,
        DoublesSubmission,
        EndsSessionOnGone,
        ForgetsMark,
        GoesOnAfterFailure,
        IgnoresMaximum,
        ProbeMarks,
        RepeatsIds,
        SwapsAnswers,
    }

    #[derive(Debug)]
    struct Sinner(MemoryTransport, Sin);
    struct SinnerInbox {
        inner: Option<Box<dyn Inbox>>,
        sin: Sin,
        last: Option<Stub>,
        hinted: Option<RemoteId>,
        transport: MemoryTransport,
        mailbox: Mailbox,
    }

    impl std::fmt::Display for Sinner {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "{:?}", self.1)
        }
    }

    #[async_trait]
    impl Transport for Sinner {
        fn capability(&self) -> Capability {
            self.0.capability()
        }
        async fn probe(&self, mailbox: &Mailbox, access: Access) -> Result<Probe> {
            if self.1 == Sin::ProbeMarks {
                for m in self.0.messages(&mailbox.id) {
                    let mut inbox = self.0.receive(mailbox, ReceiveOptions::default()).await?;
                    inbox.dispose(&m.id, Disposition::MarkRead).await?;
                }
            }
            self.0.probe(mailbox, access).await
        }
        async fn receive(&self, mailbox: &Mailbox, mut options: ReceiveOptions) -> Result<Box<dyn Inbox>> {
            if self.1 == Sin::IgnoresMaximum {
                options.max_messages = usize::MAX;
            }
            let inner = Some(self.0.receive(mailbox, options).await?);
            let (transport, mailbox) = (self.0.clone(), mailbox.clone());
            Ok(Box::new(SinnerInbox { inner, sin: self.1, last: None, hinted: None, transport, mailbox }))
        }
        async fn submit(
            &self,
            sender: &Mailbox,
            message: &Outbound,
            options: SubmitOptions,
        ) -> Result<Receipt> {
            if self.1 == Sin::DoublesSubmission {
                self.0.submit(sender, message, options.clone()).await?;
            }
            self.0.submit(sender, message, options).await
        }
        async fn find_submitted(&self, sender: &Mailbox, id: &MessageId) -> Result<Option<bool>> {
            self.0.find_submitted(sender, id).await
        }
        async fn wait_for_mail(&self, mailbox: &Mailbox, limit: Duration) -> Result<bool> {
            self.0.wait_for_mail(mailbox, limit).await
        }
    }

    impl SinnerInbox {
        fn inner(&mut self) -> &mut dyn Inbox {
            &mut **self.inner.as_mut().unwrap()
        }
    }

    #[async_trait]
    impl Inbox for SinnerInbox {
        async fn next(&mut self) -> Result<Option<Stub>> {
            if self.sin == Sin::RepeatsIds
                && let Some(again) = self.last.take()
            {
                return Ok(Some(again));
            }
            let stub = self.inner().next().await?;
            self.last = stub.clone();
            Ok(stub)
        }
        async fn prefetch(&mut self, wanted: &[(RemoteId, Part)]) -> Result<()> {
            self.hinted = wanted.first().map(|(id, _)| id.clone());
            self.inner().prefetch(wanted).await
        }
        async fn headers(&mut self, id: &RemoteId) -> Result<Bytes> {
            self.inner().headers(id).await
        }
        async fn fetch(&mut self, id: &RemoteId) -> Result<RawMessage> {
            if self.sin == Sin::SwapsAnswers
                && let Some(hinted) = self.hinted.take()
            {
                return self.inner().fetch(&hinted).await;
            }
            let result = self.inner().fetch(id).await;
            if self.sin == Sin::GoesOnAfterFailure
                && result.as_ref().is_err_and(|e| e.kind() == ErrorKind::ConnectionLost)
            {
                self.inner = Some(self.transport.receive(&self.mailbox, ReceiveOptions::default()).await?);
            }
            if self.sin == Sin::EndsSessionOnGone && result.is_err() {
                return Err(Error::new(ErrorKind::ConnectionLost, "gone"));
            }
            result
        }
        async fn dispose(&mut self, id: &RemoteId, what: Disposition) -> Result<()> {
            let forgets = self.sin == Sin::ForgetsMark && what == Disposition::MarkRead;
            self.inner().dispose(id, if forgets { Disposition::Keep } else { what }).await
        }
        async fn close(mut self: Box<Self>) -> Result<()> {
            self.inner.take().unwrap().close().await
        }
    }

    impl Drop for SinnerInbox {
        fn drop(&mut self) {
            if self.sin == Sin::DeletesOnDrop && self.inner.is_some() {
                self.transport.take_all(&self.mailbox.id);
            }
        }
    }

    #[test]
    fn every_sin_is_caught() {
        for (sin, case) in [
            (Sin::DeletesOnDrop, "drop"),
            (Sin::DoublesSubmission, "submit"),
            (Sin::EndsSessionOnGone, "unknown id"),
            (Sin::ForgetsMark, "mark read"),
            (Sin::GoesOnAfterFailure, "broken session"),
            (Sin::IgnoresMaximum, "at most"),
            (Sin::ProbeMarks, "probe incoming"),
            (Sin::RepeatsIds, "listing"),
            (Sin::SwapsAnswers, "prefetch"),
        ] {
            let panic = suite(sin).join().expect_err(&format!("{sin:?} is not caught"));
            let text = panic.downcast_ref::<String>().unwrap();
            assert!(text.contains(&format!("case {case:?} fails")), "{sin:?} gives {text}");
        }
    }

    /// The suite on a thread of its own, so that its panic can be looked at.
    fn suite(sin: Sin) -> std::thread::JoinHandle<()> {
        std::thread::spawn(move || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            let runtime = builder.enable_time().start_paused(true).build().unwrap();
            runtime.block_on(conformance::run(|| async {
                let memory = MemoryTransport::new();
                let sinner = memory.clone();
                wrapped(Box::new(Memory(memory)), move |_| Arc::new(Sinner(sinner, sin)))
            }));
        })
    }
}

#[tokio::test(start_paused = true)]
async fn planned_failures_happen_once_and_are_counted() {
    let memory = MemoryTransport::new();
    let ann = mailbox("ann");
    memory.put(&ann.id, RawMessage::new(&b"Subject: x\r\n\r\n"[..]));
    memory.fail_next(Operation::Receive, 2, || Error::new(ErrorKind::Refused, "memory: down"));
    for _ in 0..2 {
        let error = memory.receive(&ann, ReceiveOptions::default()).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Refused);
    }
    let mut inbox = memory.receive(&ann, ReceiveOptions::default()).await.unwrap();
    memory.fail_next(Operation::Next, 1, || Error::new(ErrorKind::ConnectionLost, "memory: cut"));
    assert_eq!(inbox.next().await.unwrap_err().kind(), ErrorKind::ConnectionLost);
    assert!(inbox.next().await.is_err(), "a session goes on after an error of its mailbox");
    assert_eq!(memory.open_sessions(&ann.id), 1);
    drop(inbox);
    assert_eq!((memory.open_sessions(&ann.id), memory.count(Operation::Receive)), (0, 3));
}

#[tokio::test(start_paused = true)]
async fn submissions_in_doubt() {
    use bytes::Bytes;
    use email_router_model::MessageId;
    use email_router_transport::{Envelope, Outbound, SubmitOptions};
    let ann = mailbox("ann");
    for delivered in [false, true] {
        let memory = MemoryTransport::new();
        memory.doubt_next_submission(delivered);
        let message = Outbound {
            envelope: Envelope { sender: None, recipients: vec![ann.address.clone()] },
            message_id: MessageId::parse("<1@x>").unwrap(),
            mime: Bytes::from("Message-ID: <1@x>\r\n\r\n"),
        };
        let error = memory.submit(&ann, &message, SubmitOptions::default()).await.unwrap_err();
        assert_eq!(error.retry(), Retry::InDoubt);
        assert_eq!(memory.find_submitted(&ann, &message.message_id).await.unwrap(), Some(delivered));
    }
}
