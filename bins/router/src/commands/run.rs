//! `run`: the service.

use std::process::ExitCode;
use std::sync::Arc;

use email_router::assemble::Unserved;
use email_router::engine::router::RunReport;
use email_router::engine::{Event, Observer};
use email_router::logging::LogObserver;
use email_router::metrics::MetricsObserver;
use email_router::service::Organization;
use email_router::{OpenOptions, Service};
use metrics_exporter_prometheus::PrometheusBuilder;
use serde::Serialize;
use tokio::sync::Notify;

use super::{code, io_error, printing};
use crate::args::{Global, RunArgs};
use crate::listen::{self, Shown};
use crate::report::{Collector, Printer, Told};
use crate::{logs, output, signals};

/// Upper bounds of the histograms: a message takes milliseconds, and may have waited for days.
const SECONDS: [f64; 14] =
    [0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 300.0, 1800.0, 7200.0, 21_600.0, 86_400.0, 604_800.0];

/// Several observers as one.
#[derive(Debug)]
struct All(Vec<Arc<dyn Observer>>);

impl Observer for All {
    fn event(&self, event: &Event<'_>) {
        for observer in &self.0 {
            observer.event(event);
        }
    }
}

/// Wakes who waits for a changed configuration.
#[derive(Debug)]
struct Changed(Arc<Notify>);

impl Observer for Changed {
    fn event(&self, event: &Event<'_>) {
        if let Event::ConfigurationRefresh { changed: true } = event {
            self.0.notify_one();
        }
    }
}

/// What `run --once --json` prints.
#[derive(Serialize)]
struct Summary {
    listed: u64,
    processed: u64,
    delivered: u64,
    discarded: u64,
    undeliverable: u64,
    left_alone: u64,
    deferred: u64,
    backlog: u64,
    sent: u64,
    sending_later: u64,
    sending_failed: u64,
    in_doubt: u64,
    failures: Vec<(String, String)>,
    unserved: Vec<Unserved>,
    /// Each message, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<Vec<Told>>,
}

pub(crate) async fn run(global: &Global, args: &RunArgs) -> email_router::Result<ExitCode> {
    let settings = email_router::service::settings(&global.config)?;
    let log = logs::start(global, settings.system.log_level, settings.system.log_file.as_deref())
        .map_err(io_error("the log"))?;
    // real histograms, which Prometheus can add up over routers and time; without buckets they would be quantiles of this process
    let handle = PrometheusBuilder::new()
        .set_buckets(&SECONDS)
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(|e| {
            email_router::Error::Request(format!("the metrics recorder cannot be installed: {e}"))
        })?;
    let changed = Arc::new(Notify::new());
    let mut observers: Vec<Arc<dyn Observer>> = vec![
        Arc::new(MetricsObserver::install()),
        Arc::new(LogObserver),
        Arc::new(Changed(Arc::clone(&changed))),
    ];
    let collector = (args.verbose && args.once && global.json).then(|| Arc::new(Collector::default()));
    match &collector {
        Some(collector) => observers.push(Arc::clone(collector) as _),
        None if args.verbose => {
            observers.push(Arc::new(Printer { json: global.json, ..Printer::default() }));
        }
        None => {}
    }
    let options = OpenOptions { observer: Arc::new(All(observers)), ..OpenOptions::default() };
    let service = Arc::new(Service::open(&global.config, options).await?);
    for finding in service.findings() {
        tracing::warn!(%finding, "configuration");
    }

    let stop = signals::stop();
    if args.once {
        let report = service.run_once(&stop).await?;
        let unserved: Vec<Unserved> = service.organizations().flat_map(Organization::unserved).collect();
        return summary(global, &report, &unserved, collector.map(|c| c.take()));
    }
    // Here the configuration has already refused an address that others can reach, unless AllowNetworkListener says so.
    let configured = settings.router.status_listener.map(|address| (address, true));
    if let Some((address, anywhere)) =
        args.listen.map(|address| (address, args.listen_anywhere)).or(configured)
    {
        let listener = listen::bind(address, anywhere).await.map_err(io_error("the status listener"))?;
        tracing::info!(%address, "serving /metrics, /healthz and /status");
        let shown = Shown { metrics: handle, service: Arc::clone(&service) };
        let stop = stop.clone();
        tokio::spawn(async move {
            if let Err(error) = listen::serve(listener, shown, stop).await {
                tracing::error!(%error, "the status listener ended");
            }
        });
    }
    let running = Arc::clone(&service);
    tokio::spawn(async move {
        loop {
            changed.notified().await;
            log.follow(running.settings().await.system.log_level);
        }
    });
    service.run(stop).await?;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn summary(
    global: &Global,
    report: &RunReport,
    unserved: &[Unserved],
    messages: Option<Vec<Told>>,
) -> email_router::Result<ExitCode> {
    let (i, o) = (&report.incoming, &report.outgoing);
    let summary = Summary {
        listed: i.listed,
        processed: i.processed,
        delivered: i.delivered,
        discarded: i.discarded,
        undeliverable: i.undeliverable,
        left_alone: i.left_alone,
        deferred: i.deferred,
        backlog: i.backlog,
        sent: o.sent,
        sending_later: o.retried,
        sending_failed: o.failed,
        in_doubt: o.in_doubt,
        failures: report.failures.clone(),
        unserved: unserved.to_vec(),
        messages,
    };
    if global.json {
        output::json(&summary).map_err(printing)?;
    } else {
        output::line(&format!(
            "incoming: {} in the mailboxes, {} processed: {} delivered, {} discarded, {} into quarantine, {} too old; {} to be tried again",
            i.listed, i.processed, i.delivered, i.discarded, i.undeliverable, i.left_alone, i.deferred
        ))
        .map_err(printing)?;
        output::line(&format!(
            "outgoing: {} sent, {} later, {} failed, {} in doubt",
            o.sent, o.retried, o.failed, o.in_doubt
        ))
        .map_err(printing)?;
        // what is not served is among them
        for (mailbox, error) in &report.failures {
            output::line(&format!("failed: {mailbox}: {error}")).map_err(printing)?;
        }
    }
    let attention = !report.failures.is_empty() || i.undeliverable > 0 || o.failed > 0 || o.in_doubt > 0;
    Ok(code(attention))
}
