//! What each layer adds, on a paused clock.
#![cfg(feature = "memory")]
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use email_router_model::{
    Classified, EmailAddress, Mailbox, MailboxKind, MessageId, RawMessage, Retry, SeededEntropy,
};
use email_router_transport::layer::fault::{FaultKind, FaultRates, Faults};
use email_router_transport::layer::limit::Limits;
use email_router_transport::layer::retry::{RetryEvent, RetryObserver, RetrySettings};
use email_router_transport::layer::timeout::Deadlines;
use email_router_transport::layer::{Fault, Limit, Operation, Retrying, Timeout, Trace};
use email_router_transport::memory::MemoryTransport;
use email_router_transport::{
    Access, Disposition, Envelope, Error, ErrorKind, Outbound, ReceiveOptions, SubmitOptions, Transport,
};
use tokio::time::Instant;

fn ann() -> Mailbox {
    Mailbox {
        id: "ann".into(),
        kind: MailboxKind::User,
        name: "Ann".to_owned(),
        address: address("ann@example.com"),
        login: None,
    }
}

fn address(text: &str) -> EmailAddress {
    text.parse().unwrap()
}

fn message() -> Outbound {
    Outbound {
        envelope: Envelope { sender: None, recipients: vec![address("bob@example.com")] },
        message_id: MessageId::parse("<1@example.com>").unwrap(),
        mime: Bytes::from("Message-ID: <1@example.com>\r\n\r\nx\r\n"),
    }
}

fn entropy() -> Arc<SeededEntropy> {
    Arc::new(SeededEntropy::new(42))
}

fn down() -> Error {
    Error::new(ErrorKind::Refused, "memory: down")
}

#[derive(Default)]
struct Heard(Mutex<Vec<(Operation, u32, Duration)>>);

impl RetryObserver for Heard {
    fn retrying(&self, event: &RetryEvent<'_>) {
        assert_eq!(event.mailbox.id, ann().id);
        self.0.lock().unwrap().push((event.operation, event.attempts, event.delay));
    }
}

#[tokio::test(start_paused = true)]
async fn retry_waits_longer_each_time_and_succeeds() {
    let (memory, heard) = (MemoryTransport::new(), Arc::new(Heard::default()));
    memory.fail_next(Operation::Submit, 3, down);
    let layer =
        Retrying::new(memory.clone(), RetrySettings::default(), entropy()).with_observer(heard.clone());
    let begun = Instant::now();
    layer.submit(&ann(), &message(), SubmitOptions::default()).await.unwrap();
    let heard = heard.0.lock().unwrap().clone();
    assert_eq!(heard.len(), 3);
    for (n, (operation, attempts, delay)) in heard.iter().enumerate() {
        let full = Duration::from_secs(1 << n);
        assert_eq!((*operation, *attempts), (Operation::Submit, n as u32 + 1));
        assert!(*delay >= full / 2 && *delay <= full, "delay {n} is {delay:?}");
    }
    let waited: Duration = heard.iter().map(|h| h.2).sum();
    assert!(begun.elapsed() >= waited && begun.elapsed() < waited + Duration::from_millis(10));
    assert_eq!(memory.sent().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn retry_never_repeats_what_may_have_happened() {
    let memory = MemoryTransport::new();
    memory.doubt_next_submission(true);
    let layer = Retrying::new(memory.clone(), RetrySettings::default(), entropy());
    let error = layer.submit(&ann(), &message(), SubmitOptions::default()).await.unwrap_err();
    assert_eq!(error.retry(), Retry::InDoubt);
    assert_eq!((memory.count(Operation::Submit), memory.sent().len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn retry_gives_up_with_the_count() {
    let memory = MemoryTransport::new();
    memory.fail_next(Operation::Probe, 100, down);
    let layer = Retrying::new(memory.clone(), RetrySettings::default(), entropy());
    let error = layer.probe(&ann(), Access::Incoming).await.unwrap_err();
    assert_eq!((error.retry(), error.kind()), (Retry::Exhausted { attempts: 4 }, ErrorKind::Refused));
    assert_eq!(memory.count(Operation::Probe), 4);
}

#[tokio::test(start_paused = true)]
async fn retry_leaves_alone_what_is_for_good_or_stopped() {
    for kind in [ErrorKind::Authentication, ErrorKind::Cancelled, ErrorKind::Settings] {
        let memory = MemoryTransport::new();
        memory.fail_next(Operation::Receive, 1, move || Error::new(kind, "memory: no"));
        let layer = Retrying::new(memory.clone(), RetrySettings::default(), entropy());
        let error = layer.receive(&ann(), ReceiveOptions::default()).await.err().unwrap();
        assert_eq!((error.kind(), memory.count(Operation::Receive)), (kind, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn retry_obeys_the_server_and_hands_up_long_delays() {
    let memory = MemoryTransport::new();
    let patience = |seconds| {
        move || Error::new(ErrorKind::Throttled, "memory: slow").after(Duration::from_secs(seconds))
    };
    memory.fail_next(Operation::Probe, 1, patience(45));
    let layer = Retrying::new(memory.clone(), RetrySettings::default(), entropy());
    let begun = Instant::now();
    layer.probe(&ann(), Access::Incoming).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(45), "tried again after {:?}", begun.elapsed());
    memory.fail_next(Operation::Probe, 1, patience(3600));
    let begun = Instant::now();
    let error = layer.probe(&ann(), Access::Incoming).await.unwrap_err();
    assert_eq!(error.retry(), Retry::Later(Some(Duration::from_secs(3600))));
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn retry_budget_protects_a_dead_server() {
    let memory = MemoryTransport::new();
    memory.fail_next(Operation::Probe, 1000, down);
    let settings = RetrySettings::default();
    let layer = Retrying::new(memory.clone(), settings, entropy());
    for _ in 0..200 {
        layer.probe(&ann(), Access::Incoming).await.unwrap_err();
    }
    // 200 first attempts and the budget of 100 retries, not 200 times 4
    assert_eq!(memory.count(Operation::Probe), 300);
}

#[tokio::test(start_paused = true)]
async fn timeout_ends_every_operation() {
    let memory = MemoryTransport::new();
    let id = memory.put(&ann().id, RawMessage::new(&b"Subject: x\r\n\r\n"[..]));
    let limit = Duration::from_secs(5);
    let slow = Duration::from_secs(3600);
    // operations: probe 0, submit 1, find 2, receive 3
    let faults = Faults::new(entropy());
    let layer = Timeout::new(Fault::new(memory.clone(), faults.clone()), Deadlines::all(limit));
    for n in 0..4 {
        faults.at(n, FaultKind::Delay(slow));
    }
    let begun = Instant::now();
    let probe = layer.probe(&ann(), Access::Incoming).await.unwrap_err();
    let submit = layer.submit(&ann(), &message(), SubmitOptions::default()).await.unwrap_err();
    let find = layer.find_submitted(&ann(), &message().message_id).await.unwrap_err();
    let receive = layer.receive(&ann(), ReceiveOptions::default()).await.err().unwrap();
    for error in [&probe, &submit, &find, &receive] {
        assert_eq!(error.kind(), ErrorKind::Timeout);
    }
    assert_eq!((probe.retry(), submit.retry()), (Retry::Later(None), Retry::InDoubt));
    assert_eq!(probe.to_string(), "memory: probe for ann@example.com did not end within 5 s");
    assert!(begun.elapsed() < 4 * limit + Duration::from_millis(10));

    for operation in 0..6 {
        let mut inbox = layer.receive(&ann(), ReceiveOptions::default()).await.unwrap();
        faults.at(faults.operations(), FaultKind::Delay(slow));
        let kind = match operation {
            0 => inbox.next().await.map(drop),
            1 => inbox.prefetch(&[]).await,
            2 => inbox.headers(&id).await.map(drop),
            3 => inbox.fetch(&id).await.map(drop),
            4 => inbox.dispose(&id, Disposition::Delete).await,
            _ => {
                assert_eq!(inbox.close().await.unwrap_err().kind(), ErrorKind::Timeout);
                continue;
            }
        }
        .unwrap_err()
        .kind();
        assert_eq!(kind, ErrorKind::Timeout, "operation {operation}");
        // the session is over, and its connection is given back
        assert!(inbox.next().await.is_err());
        assert_eq!(memory.open_sessions(&ann().id), 0);
        assert!(inbox.close().await.is_err());
    }
    assert_eq!(memory.messages(&ann().id).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn limit_counts_a_session_until_it_ends() {
    let memory = MemoryTransport::new();
    let limits = Limits::new(NonZeroUsize::new(2).unwrap(), NonZeroUsize::MIN);
    let layer = Arc::new(Limit::new(memory.clone(), limits.clone()));
    let first = layer.receive(&ann(), ReceiveOptions::default()).await.unwrap();
    let second = layer.receive(&ann(), ReceiveOptions::default()).await.unwrap();
    assert_eq!(limits.free_sessions(), 0);
    let waiting = tokio::spawn({
        let layer = layer.clone();
        async move { layer.receive(&ann(), ReceiveOptions::default()).await.unwrap().close().await.unwrap() }
    });
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!waiting.is_finished() && memory.open_sessions(&ann().id) == 2);
    // submissions have a limit of their own
    layer.submit(&ann(), &message(), SubmitOptions::default()).await.unwrap();
    first.close().await.unwrap();
    waiting.await.unwrap();
    drop(second);
    assert_eq!((limits.free_sessions(), limits.free_submissions()), (2, 1));
    // a call that fails or is dropped gives its permit back
    memory.fail_next(Operation::Receive, 1, down);
    assert!(layer.receive(&ann(), ReceiveOptions::default()).await.is_err());
    assert_eq!(limits.free_sessions(), 2);
}

#[tokio::test(start_paused = true)]
async fn faults_before_and_after_the_effect() {
    let memory = MemoryTransport::new();
    let faults = Faults::new(entropy());
    let layer = Fault::new(memory.clone(), faults.clone());
    faults.at(0, FaultKind::FailBefore);
    faults.at(1, FaultKind::FailAfter);
    let before = layer.submit(&ann(), &message(), SubmitOptions::default()).await.unwrap_err();
    assert_eq!((before.retry(), memory.sent().len()), (Retry::Later(None), 0));
    let after = layer.submit(&ann(), &message(), SubmitOptions::default()).await.unwrap_err();
    assert_eq!((after.retry(), memory.sent().len()), (Retry::InDoubt, 1));
    assert_eq!((faults.operations(), faults.hit()), (2, 2));

    let id = memory.put(&ann().id, RawMessage::new(&b"Subject: x\r\n\r\n"[..]));
    faults.at(3, FaultKind::Gone);
    faults.at(5, FaultKind::FailAfter);
    let mut inbox = layer.receive(&ann(), ReceiveOptions::default()).await.unwrap();
    assert_eq!(inbox.fetch(&id).await.unwrap_err().kind(), ErrorKind::MessageGone);
    inbox.fetch(&id).await.unwrap();
    inbox.dispose(&id, Disposition::Delete).await.unwrap_err();
    assert!(memory.messages(&ann().id).is_empty(), "fail-after has its effect");
    assert!(inbox.next().await.is_err() && inbox.close().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_crash_stops_everything_until_it_is_revived() {
    let memory = MemoryTransport::new();
    let faults = Faults::new(entropy());
    let layer = Fault::new(memory.clone(), faults.clone());
    let mut inbox = layer.receive(&ann(), ReceiveOptions::default()).await.unwrap();
    faults.at(1, FaultKind::CrashAfter);
    layer.submit(&ann(), &message(), SubmitOptions::default()).await.unwrap_err();
    assert!(faults.crashed() && memory.sent().len() == 1);
    assert!(inbox.next().await.is_err());
    assert!(layer.probe(&ann(), Access::Incoming).await.is_err());
    faults.revive();
    layer.probe(&ann(), Access::Incoming).await.unwrap();
    assert!(inbox.next().await.is_err(), "a session outlived the crash");
}

/// The same seed gives the same faults, another seed others.
#[tokio::test(start_paused = true)]
async fn faults_are_repeatable() {
    async fn run(seed: u64) -> Vec<bool> {
        let faults = Faults::new(Arc::new(SeededEntropy::new(seed)));
        let mut rates = FaultRates::default();
        rates.fail_before = 0.3;
        rates.delay = 0.3;
        rates.max_delay = Duration::from_secs(10);
        faults.set_rates(rates);
        let layer = Fault::new(MemoryTransport::new(), faults);
        let mut outcomes = Vec::new();
        for _ in 0..100 {
            outcomes.push(layer.probe(&ann(), Access::Incoming).await.is_ok());
        }
        outcomes
    }
    let first = run(7).await;
    assert_eq!(first, run(7).await);
    assert_ne!(first, run(8).await);
    let failed = first.iter().filter(|ok| !**ok).count();
    assert!((15..45).contains(&failed), "{failed} of 100 failed at a rate of 0.3");
}

/// The recommended order: a call that waits for its next attempt holds no permit.
#[tokio::test(start_paused = true)]
async fn retry_outside_limit_holds_no_permit_while_waiting() {
    let memory = MemoryTransport::new();
    let limits = Limits::new(NonZeroUsize::MIN, NonZeroUsize::MIN);
    let limited = Limit::new(memory.clone(), limits.clone());
    let layer = Arc::new(Retrying::new(limited, RetrySettings::default(), entropy()));
    memory.fail_next(Operation::Submit, 1, || down().after(Duration::from_secs(60)));
    let waiting = tokio::spawn({
        let layer = layer.clone();
        async move { layer.submit(&ann(), &message(), SubmitOptions::default()).await }
    });
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!((memory.count(Operation::Submit), limits.free_submissions()), (1, 1));
    waiting.await.unwrap().unwrap();
}

mod tracing_spans {
    use super::*;
    use std::fmt::Write as _;
    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    /// Writes down all spans and events as text.
    struct Recorder(Arc<Mutex<String>>);
    struct Text<'a>(&'a mut String);

    impl Visit for Text<'_> {
        fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
            let _ = write!(self.0, " {field}={value:?}");
        }
    }

    impl Subscriber for Recorder {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, span: &Attributes<'_>) -> Id {
            let mut text = self.0.lock().unwrap();
            text.push_str(span.metadata().name());
            span.record(&mut Text(&mut text));
            text.push('\n');
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, event: &Event<'_>) {
            let mut text = self.0.lock().unwrap();
            text.push_str("event");
            event.record(&mut Text(&mut text));
            text.push('\n');
        }
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    #[tokio::test]
    async fn name_operation_mailbox_and_failure() {
        let text = Arc::new(Mutex::new(String::new()));
        let guard = tracing::subscriber::set_default(Recorder(text.clone()));
        let memory = MemoryTransport::new();
        memory.put(&ann().id, RawMessage::new(&b"Subject: confidential\r\n\r\n"[..]));
        let layer = Trace::new(memory.clone());
        layer.submit(&ann(), &message(), SubmitOptions::default()).await.unwrap();
        let mut inbox = layer.receive(&ann(), ReceiveOptions::default()).await.unwrap();
        let stub = inbox.next().await.unwrap().unwrap();
        inbox.fetch(&stub.id).await.unwrap();
        memory.fail_next(Operation::Close, 1, down);
        inbox.close().await.unwrap_err();
        drop(guard);
        let text = text.lock().unwrap();
        let lines: Vec<_> = text.lines().filter(|l| l.starts_with("transport")).collect();
        assert_eq!(lines.len(), 5, "{text}");
        assert_eq!(
            lines[0],
            "transport operation=submit transport=memory mailbox=ann message=\"<1@example.com>\""
        );
        assert!(lines[3].contains("operation=fetch") && lines[3].contains(stub.id.as_str()), "{text}");
        assert!(text.contains("kind=Refused") && text.contains("memory: down"), "{text}");
        assert!(!text.contains("confidential"), "{text}");
    }
}
