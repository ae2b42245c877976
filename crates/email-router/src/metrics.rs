//! The counters of the original and more, through the `metrics` facade: whoever runs the router installs the recorder.
//!
//! Names follow the original's performance counters (object `MSCRMEmail`, 21 counters). Its two "per second" counters are rates
//! that the reader computes (`rate(email_router_incoming_messages_processed_total[1m])`).

use email_router_crm::SendOutcome;
use email_router_engine::ports::{ProviderDirection, ProviderEvent};
use email_router_engine::{ErrorKind, Event, Observer, Verdict};
use email_router_model::Timestamp;
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::assemble::AccessToken;
use crate::service::DeploymentStatus;

const INCOMING: &str = "email_router_incoming_messages";
const OUTGOING: &str = "email_router_outgoing_messages";

/// Name and meaning of each counter.
const COUNTERS: [(&str, &str); 23] = [
    ("email_router_incoming_messages_delivered_total", "incoming messages stored in the CRM"),
    ("email_router_incoming_messages_discarded_total", "incoming messages that do not belong in the CRM"),
    (
        "email_router_incoming_messages_potentially_corrupted_total",
        "incoming messages that could not be read as messages",
    ),
    ("email_router_incoming_messages_processed_total", "incoming messages settled"),
    (
        "email_router_incoming_messages_undelivered_total",
        "incoming messages that could not be delivered and are in quarantine",
    ),
    ("email_router_incoming_messages_deferred_total", "attempts at incoming messages that failed for now"),
    (
        "email_router_incoming_messages_held_total",
        "times an incoming message was held back because its sender is over a loop limit",
    ),
    ("email_router_delivery_reports_total", "delivery reports about e-mails of the CRM"),
    ("email_router_incoming_mailbox_access_attempts_total", "mailboxes opened or tried to"),
    ("email_router_incoming_mailbox_access_failures_total", "mailboxes that could not be opened"),
    ("email_router_outgoing_messages_delivered_total", "outgoing messages the mail server took"),
    ("email_router_outgoing_messages_processed_total", "outgoing messages tried"),
    ("email_router_outgoing_messages_undelivered_total", "outgoing messages given up"),
    (
        "email_router_outgoing_messages_in_doubt_total",
        "outgoing messages of which nobody knows whether they went out",
    ),
    ("email_router_configuration_refreshes_total", "times the configuration file was read again"),
    ("email_router_configuration_scheduling_cycles_total", "times the scheduler looked for work"),
    (
        "email_router_providers_load_failures_total",
        "providers that cannot run because their settings are wrong",
    ),
    ("email_router_providers_aborted_total", "passes stopped for running too long"),
    ("email_router_providers_executed_total", "passes that ended well"),
    ("email_router_providers_failed_total", "passes that ended in an error"),
    ("email_router_providers_refreshed_total", "providers replaced after a change of the configuration"),
    ("email_router_providers_removed_total", "providers no longer configured"),
    ("email_router_providers_started_total", "passes begun"),
];

/// Turns the engine's events into metrics.
#[derive(Debug, Clone, Copy)]
pub struct MetricsObserver(());

impl MetricsObserver {
    /// Describes every metric to the installed recorder and sets every counter to where it stands, so that all of them are there from
    /// the first scrape.
    #[must_use]
    pub fn install() -> Self {
        for (name, meaning) in COUNTERS {
            describe_counter!(name, Unit::Count, meaning);
            counter!(name).increment(0);
        }
        describe_gauge!("email_router_passes_in_flight", Unit::Count, "passes running now");
        gauge!("email_router_passes_in_flight").set(0.0);
        describe_histogram!(
            "email_router_incoming_message_seconds",
            Unit::Seconds,
            "from fetch to record of one incoming message"
        );
        describe_histogram!(
            "email_router_outgoing_message_seconds",
            Unit::Seconds,
            "from claim to result of one outgoing message"
        );
        describe_histogram!(
            "email_router_incoming_wait_seconds",
            Unit::Seconds,
            "from the arrival of an incoming message in its mailbox until it was settled"
        );
        describe_histogram!(
            "email_router_outgoing_wait_seconds",
            Unit::Seconds,
            "from an outgoing e-mail's becoming pending until the end of the attempt"
        );
        describe_gauge!(
            "email_router_access_token_valid_seconds",
            Unit::Seconds,
            "how long the present access token of an application (OAuth 2.0) is good; 0 where there is none"
        );
        describe_gauge!(
            "email_router_deployment_connected",
            Unit::Count,
            "1 where the CRM of a deployment is connected, 0 while it is tried again"
        );
        describe_gauge!(
            "email_router_mailbox_backlog_messages",
            Unit::Count,
            "messages that the last pass over a mailbox left to do, those that wait for a retry included"
        );
        describe_counter!(
            "email_router_profile_errors_total",
            Unit::Count,
            "passes that failed, by direction, kind of error and mail system (server): profiles that use one server count together"
        );
        Self(())
    }
}

/// The word for whose error it is.
fn kind(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Crm => "crm",
        ErrorKind::Message => "message",
        ErrorKind::State => "state",
        ErrorKind::Transport => "transport",
        _ => "other",
    }
}

impl Observer for MetricsObserver {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::MailboxAccess { error, .. } => {
                counter!("email_router_incoming_mailbox_access_attempts_total").increment(1);
                if error.is_some() {
                    counter!("email_router_incoming_mailbox_access_failures_total").increment(1);
                }
            }
            Event::Incoming { record, corrupt, elapsed, waited, .. } => {
                let end = match record.verdict {
                    Verdict::Deliver => Some("delivered"),
                    Verdict::Discard => Some("discarded"),
                    Verdict::Undeliverable => Some("undelivered"),
                    Verdict::LeftAlone => None,
                };
                if let Some(end) = end {
                    counter!(format!("{INCOMING}_{end}_total")).increment(1);
                    counter!("email_router_incoming_messages_processed_total").increment(1);
                }
                if *corrupt {
                    counter!("email_router_incoming_messages_potentially_corrupted_total").increment(1);
                }
                histogram!("email_router_incoming_message_seconds").record(elapsed.as_secs_f64());
                if let Some(waited) = waited {
                    histogram!("email_router_incoming_wait_seconds").record(waited.as_secs_f64());
                }
            }
            Event::IncomingDeferred { .. } => {
                counter!("email_router_incoming_messages_deferred_total").increment(1)
            }
            Event::LoopSuspected { .. } => counter!("email_router_incoming_messages_held_total").increment(1),
            Event::DeliveryReported { .. } => counter!("email_router_delivery_reports_total").increment(1),
            Event::Outgoing { outcome, elapsed, waited, .. } => {
                counter!("email_router_outgoing_messages_processed_total").increment(1);
                let end = match outcome {
                    SendOutcome::Sent { .. } => Some("delivered"),
                    SendOutcome::Failed { .. } => Some("undelivered"),
                    SendOutcome::InDoubt { .. } => Some("in_doubt"),
                    SendOutcome::Retry { .. } => None,
                };
                if let Some(end) = end {
                    counter!(format!("{OUTGOING}_{end}_total")).increment(1);
                }
                histogram!("email_router_outgoing_message_seconds").record(elapsed.as_secs_f64());
                if let Some(waited) = waited {
                    histogram!("email_router_outgoing_wait_seconds").record(waited.as_secs_f64());
                }
            }
            Event::Backlog { mailbox, messages } => {
                // as many as the counter of a mailbox can be without losing whole messages
                #[allow(clippy::cast_precision_loss)]
                gauge!("email_router_mailbox_backlog_messages", "mailbox" => mailbox.to_string())
                    .set(*messages as f64);
            }
            Event::PassFailed { direction, transport, error, .. } => {
                let direction = match direction {
                    ProviderDirection::Incoming => "incoming",
                    ProviderDirection::Outgoing => "outgoing",
                };
                counter!(
                    "email_router_profile_errors_total",
                    "direction" => direction,
                    "server" => (*transport).to_owned(),
                    "kind" => kind(error.kind())
                )
                .increment(1);
            }
            Event::SchedulingCycle => {
                counter!("email_router_configuration_scheduling_cycles_total").increment(1)
            }
            Event::ConfigurationRefresh { .. } => {
                counter!("email_router_configuration_refreshes_total").increment(1)
            }
            Event::Provider { what, .. } => {
                let (what, in_flight) = match what {
                    ProviderEvent::Aborted => ("aborted", -1.0),
                    ProviderEvent::Executed => ("executed", -1.0),
                    ProviderEvent::Failed => ("failed", -1.0),
                    ProviderEvent::LoadFailed => ("load_failures", 0.0),
                    ProviderEvent::Refreshed => ("refreshed", 0.0),
                    ProviderEvent::Removed => ("removed", 0.0),
                    ProviderEvent::Started => ("started", 1.0),
                };
                counter!(format!("email_router_providers_{what}_total")).increment(1);
                gauge!("email_router_passes_in_flight").increment(in_flight);
            }
            _ => {}
        }
    }
}

/// Sets the gauge of the deployments.
pub fn show_deployments(deployments: &[DeploymentStatus]) {
    for status in deployments {
        gauge!("email_router_deployment_connected", "deployment" => status.name.clone())
            .set(f64::from(u8::from(status.connected)));
    }
}

/// Sets the gauge of access tokens; to be called before the metrics are read, since time alone changes it.
pub fn show_access_tokens(tokens: &[AccessToken], now: Timestamp) {
    for token in tokens {
        let left = token.valid_until.map_or(0.0, |until| until.duration_since(now).as_secs_f64().max(0.0));
        gauge!("email_router_access_token_valid_seconds", "application" => token.application.clone())
            .set(left);
    }
}
