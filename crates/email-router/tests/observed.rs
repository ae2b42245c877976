//! What somebody who watches the router gets to see: log entries and metrics.
#![allow(clippy::unwrap_used)] // helpers of tests

mod support;

use std::io;
use std::sync::{Arc, Mutex};

use email_router::engine::ports::LedgerEntry;
use email_router::metrics::MetricsObserver;
use email_router::model::{ActivityId, ManualClock, MessageId, Timestamp};
use email_router::{OpenOptions, Service};
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::Value;
use tokio::sync::watch;

const CONFIGURATION: &str = r#"<Configuration>
  <ConfigurationProfiles>
    <ConfigurationProfile><Name>in</Name><Direction>Incoming</Direction><ServerType>Maildir</ServerType><Path>{address}</Path></ConfigurationProfile>
  </ConfigurationProfiles>
  <Deployments><Deployment><Name>crm</Name><Type>Embedded</Type><Path>crm.sqlite</Path><DefaultIncomingProfile>in</DefaultIncomingProfile></Deployment></Deployments>
  <Mailboxes>
    <Queue><Name>Here</Name><EmailAddress>here@example.com</EmailAddress></Queue>
    <Queue><Name>Gone</Name><EmailAddress>gone@example.com</EmailAddress></Queue>
  </Mailboxes>
</Configuration>"#;

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);
impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn one_span_for_each_message_with_its_decision_and_metrics_beyond_the_counters() {
    let sink = Sink::default();
    let copy = sink.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || copy.clone())
        .finish();
    let _log = tracing::subscriber::set_default(subscriber);
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    let _metrics = metrics::set_default_local_recorder(&recorder);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("EmailAgent.xml");
    std::fs::write(&file, CONFIGURATION).unwrap();
    for part in ["tmp", "new", "cur"] {
        std::fs::create_dir_all(folder.path().join("here@example.com").join(part)).unwrap();
    }
    let text = "From: a@x.example\r\nTo: here@example.com\r\nSubject: hello\r\nMessage-ID: <1@x.example>\r\n\r\nhi\r\n";
    std::fs::write(folder.path().join("here@example.com/new/1.a"), text).unwrap();

    let options = || OpenOptions { observer: Arc::new(MetricsObserver::install()), ..OpenOptions::default() };
    let service = Service::open(&file, options()).await.unwrap();
    let admin = service.organization(None).unwrap().administration().unwrap();
    for name in ["here", "gone"] {
        support::add_queue(&admin, name, &format!("{name}@example.com")).await;
    }
    drop(service);
    let service = Service::open(&file, options()).await.unwrap();
    let (_open, stop) = watch::channel(false);
    let report = service.run_once(&stop).await.unwrap();
    assert_eq!((report.incoming.delivered, report.failures.len()), (1, 1), "{report:?}");

    let log = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
    let entries: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let decided: Vec<&Value> = entries.iter().filter(|e| e["fields"]["message"] == "decided").collect();
    assert_eq!(decided.len(), 1, "{log}");
    let span = &decided[0]["span"];
    assert_eq!(
        (&span["name"], &span["mailbox"], &span["message_id"], &span["verdict"]),
        (&"incoming".into(), &"crm/here@example.com".into(), &"<1@x.example>".into(), &"Deliver".into())
    );
    assert!(span["id"].is_string() && span["activity"].is_string(), "{span}");
    let record: Value = serde_json::from_str(decided[0]["fields"]["decision"].as_str().unwrap()).unwrap();
    assert_eq!(record["subject"], "hello");
    assert!(!record["steps"].as_array().unwrap().is_empty());

    let shown = metrics.render();
    for line in [
        "email_router_incoming_messages_delivered_total 1",
        "email_router_incoming_mailbox_access_failures_total 1",
        "email_router_mailbox_backlog_messages{mailbox=\"crm/here@example.com\"} 0",
        "email_router_passes_in_flight 0",
        "email_router_incoming_wait_seconds_count 1",
        "email_router_incoming_message_seconds_count 1",
    ] {
        assert!(shown.lines().any(|l| l == line), "{line} is missing:\n{shown}");
    }
    let errors = shown.lines().find(|l| l.starts_with("email_router_profile_errors_total{")).unwrap();
    assert!(errors.contains("direction=\"incoming\"") && errors.contains("kind=\"transport\""), "{errors}");
    assert!(errors.ends_with(" 1"), "{errors}");
}

#[tokio::test]
async fn the_ledger_keeps_what_is_open_and_ninety_days_of_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("EmailAgent.xml");
    std::fs::write(&file, CONFIGURATION).unwrap();
    let now: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
    let options = OpenOptions { clock: Arc::new(ManualClock::new(now)), ..OpenOptions::default() };
    let service = Service::open(&file, options).await.unwrap();
    let entry = |n: u128, days: u64, closed| LedgerEntry {
        activity_id: ActivityId::from_uuid(uuid::Uuid::from_u128(n)),
        message_id: MessageId::parse("<m@x.example>").unwrap(),
        mailbox: "crm/here@example.com".into(),
        attempt: 1,
        at: now.checked_sub(std::time::Duration::from_secs(days * 24 * 3600)).unwrap(),
        result: None,
        closed,
        earlier: None,
        refusals: 0,
    };
    let entries = [entry(1, 91, true), entry(2, 89, true), entry(3, 400, false)];
    for entry in &entries {
        service.state().ledger_begin(entry).await.unwrap();
    }
    let (_keep, stop) = watch::channel(false);
    service.run_once(&stop).await.unwrap();
    let mut kept = Vec::new();
    for entry in &entries {
        kept.push(service.state().ledger(&entry.activity_id).await.unwrap().is_some());
    }
    assert_eq!(kept, [false, true, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_deployment_that_fails_does_not_stop_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("EmailAgent.xml");
    let quick = "<Configuration><SystemConfiguration><ConfigRefreshPeriod>100</ConfigRefreshPeriod></SystemConfiguration>";
    let two = CONFIGURATION
        .replace("<Configuration>", quick)
        .replace(
            "<Deployments>",
            "<Deployments><Deployment><Name>broken</Name><Type>Embedded</Type><Path>broken.sqlite</Path></Deployment>",
        )
        .replace("<EmailAddress>", "<Deployment>crm</Deployment><EmailAddress>");
    std::fs::write(&file, &two).unwrap();
    for part in ["tmp", "new", "cur"] {
        std::fs::create_dir_all(folder.path().join("here@example.com").join(part)).unwrap();
    }
    let service = Arc::new(Service::open(&file, OpenOptions::default()).await.unwrap());
    let (stop, stopped) = watch::channel(false);
    rusqlite::Connection::open(folder.path().join("broken.sqlite"))
        .unwrap()
        .execute_batch("DROP TABLE mailbox")
        .unwrap();
    let running = tokio::spawn({
        let service = Arc::clone(&service);
        async move { service.run(stopped).await }
    });
    // what the CRM learns now is taken over later: the configuration is still watched
    let admin = service.organization(Some("crm")).unwrap().administration().unwrap();
    support::add_queue(&admin, "Here", "here@example.com").await;
    let text = "From: a@x.example\r\nTo: here@example.com\r\nSubject: hello\r\nMessage-ID: <1@x.example>\r\n\r\nhi\r\n";
    std::fs::write(folder.path().join("here@example.com/new/1.a"), text).unwrap();
    std::fs::write(&file, two.replace("<Name>Gone<", "<Name>Far<")).unwrap();
    let delivered = async {
        while admin.statistics().await.unwrap().incoming.get("received") != Some(&1) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(120), delivered).await.unwrap();
    assert!(!running.is_finished(), "it goes on until it is told to stop");
    stop.send_replace(true);
    let error = running.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("mailbox"), "{error}");
}
