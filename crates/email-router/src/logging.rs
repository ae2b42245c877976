//! What happens to messages and mailboxes as structured log entries, through `tracing`: whoever runs the router installs the subscriber.
//!
//! The level says what an operator has to do. `error`: somebody must act (a message in quarantine, a mail not sent or in doubt). `warn`: it may
//! pass by itself (a message that failed for now, a pass that was stopped). `debug`: each mailbox. `trace`: each message with its whole
//! decision record.

use email_router_crm::SendOutcome;
use email_router_engine::ports::ProviderEvent;
use email_router_engine::{DecisionRecord, Event, Observer, Verdict};

/// Writes the engine's events to the log. Nothing of a body and no secret is written; texts from outside are escaped, so that no message can
/// forge an entry.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogObserver;

impl Observer for LogObserver {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Incoming { mailbox, record, elapsed, .. } => {
                let (subject, from, because) = (&record.subject, &record.from, &record.because);
                let (message_id, remote_id) = (name(&record.message_id), name(&record.remote_id));
                if record.verdict == Verdict::Undeliverable {
                    tracing::error!(%mailbox, remote_id, ?message_id, ?from, ?subject, ?because, "a message went into quarantine");
                } else {
                    let activity = name(&record.activity_id);
                    let (verdict, reason, steps) = (record.verdict, record.reason, steps(record));
                    tracing::trace!(%mailbox, remote_id, ?message_id, ?from, ?subject, ?verdict, %reason, ?because, activity, ?steps, ?elapsed, "message decided");
                }
            }
            Event::IncomingDeferred { mailbox, remote_id, error } => {
                tracing::warn!(%mailbox, %remote_id, ?error, "a message failed for now and is tried again");
            }
            Event::LoopSuspected { mailbox, remote_id, limit, until } => {
                tracing::error!(%mailbox, %remote_id, ?limit, %until, "a loop is suspected: the message is held back");
            }
            Event::DeliveryReported { report } => {
                let activity = &report.activity_id;
                for r in &report.recipients {
                    let (recipient, action) = (&r.address, r.action.as_str());
                    let (status, diagnostic) = (name(&r.status), name(&r.diagnostic));
                    tracing::info!(%activity, %recipient, action, status, ?diagnostic, "a delivery report came");
                }
            }
            Event::Outgoing { mailbox, activity_id, subject, outcome, elapsed, .. } => match outcome {
                SendOutcome::Sent { refused, .. } if refused.is_empty() => {
                    tracing::trace!(%mailbox, activity = %activity_id, ?subject, ?elapsed, "mail sent");
                }
                SendOutcome::Sent { refused, .. } => {
                    tracing::warn!(%mailbox, activity = %activity_id, ?subject, ?refused, "mail sent, but not to everybody");
                }
                SendOutcome::Retry { not_before, reason } => {
                    tracing::warn!(%mailbox, activity = %activity_id, ?subject, %not_before, ?reason, "mail is sent later");
                }
                SendOutcome::Failed { reason } => {
                    tracing::error!(%mailbox, activity = %activity_id, ?subject, ?reason, "mail was not sent");
                }
                SendOutcome::InDoubt { reason } => {
                    tracing::error!(%mailbox, activity = %activity_id, ?subject, ?reason, "nobody knows whether this mail was sent; decide with `email-router crm resolve`");
                }
            },
            // the engine says why itself where it gives a mailbox up
            Event::MailboxAccess { mailbox, error: None } => tracing::debug!(%mailbox, "mailbox opened"),
            Event::Provider { mailbox, direction, what } => {
                let entry = match what {
                    ProviderEvent::Aborted => {
                        tracing::warn!(%mailbox, %direction, "a pass was stopped for running longer than MaxThreadExecution");
                        return;
                    }
                    ProviderEvent::Executed => "pass done",
                    ProviderEvent::Failed => "pass failed",
                    ProviderEvent::LoadFailed => "not served",
                    ProviderEvent::Refreshed => "new settings are in use",
                    ProviderEvent::Removed => "no longer served",
                    ProviderEvent::Started => "pass begins",
                };
                tracing::debug!(%mailbox, %direction, "{entry}");
            }
            _ => {}
        }
    }
}

fn name(id: &Option<impl ToString>) -> String {
    id.as_ref().map(ToString::to_string).unwrap_or_default()
}

fn steps(record: &DecisionRecord) -> Vec<String> {
    record.steps.iter().map(|s| format!("{}: {}", s.rule, s.found)).collect()
}
