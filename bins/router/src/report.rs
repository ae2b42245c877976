//! Prints what the router decides while it works: `run --verbose` and the quick start.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use email_router::crm::SendOutcome;
use email_router::engine::{DecisionRecord, Event, Observer, Verdict};
use email_router::model::ActivityId;
use serde::Serialize;

use crate::output;

/// An observer that prints each message as it is decided: for people some lines each, for programs one JSON object a line.
#[derive(Debug, Default)]
pub(crate) struct Printer {
    /// For programs.
    pub(crate) json: bool,
    pub(crate) messages: AtomicU64,
}

impl Observer for Printer {
    fn event(&self, event: &Event<'_>) {
        let Some(told) = Told::of(event) else { return };
        if matches!(told, Told::Incoming(_) | Told::Outgoing { .. }) {
            self.messages.fetch_add(1, Ordering::Relaxed);
        }
        // a closed standard output must not stop the router
        let _ = if self.json { output::json_line(&told) } else { output::line(&told.text()) };
    }
}

/// An observer that keeps everything, for one JSON document at the end.
#[derive(Debug, Default)]
pub(crate) struct Collector(Mutex<Vec<Told>>);

impl Collector {
    /// What was heard so far; forgets it.
    pub(crate) fn take(&self) -> Vec<Told> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Observer for Collector {
    fn event(&self, event: &Event<'_>) {
        if let Some(told) = Told::of(event) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(told);
        }
    }
}

/// What is told about single messages and mailboxes; `event` says which.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub(crate) enum Told {
    /// The whole decision about a message.
    Incoming(Box<DecisionRecord>),
    /// A message that failed for now.
    Deferred { mailbox: String, remote_id: String, error: String },
    /// An e-mail that was tried.
    Outgoing { mailbox: String, activity_id: ActivityId, subject: String, outcome: SendOutcome },
    /// A mailbox that could not be opened.
    NotRead { mailbox: String, error: String },
}

impl Told {
    fn of(event: &Event<'_>) -> Option<Self> {
        Some(match event {
            Event::Incoming { record, .. } => Self::Incoming(Box::new((*record).clone())),
            Event::IncomingDeferred { mailbox, remote_id, error } => Self::Deferred {
                mailbox: mailbox.to_string(),
                remote_id: remote_id.to_string(),
                error: (*error).to_owned(),
            },
            Event::LoopSuspected { mailbox, remote_id, limit, .. } => Self::Deferred {
                mailbox: mailbox.to_string(),
                remote_id: remote_id.to_string(),
                error: (*limit).to_owned(),
            },
            Event::Outgoing { mailbox, activity_id, subject, outcome, .. } => Self::Outgoing {
                mailbox: mailbox.to_string(),
                activity_id: **activity_id,
                subject: (*subject).to_owned(),
                outcome: (*outcome).clone(),
            },
            Event::MailboxAccess { mailbox, error: Some(error) } => {
                Self::NotRead { mailbox: mailbox.to_string(), error: error.to_string() }
            }
            _ => return None,
        })
    }

    fn text(&self) -> String {
        match self {
            Self::Incoming(record) => incoming(record, false),
            Self::Deferred { mailbox, remote_id, error } => {
                format!("LATER      {mailbox} {remote_id}\n           {error}")
            }
            Self::Outgoing { mailbox, subject, outcome, .. } => outgoing(mailbox, subject, outcome),
            Self::NotRead { mailbox, error } => format!("NOT READ   {mailbox}\n           {error}"),
        }
    }
}

/// One incoming message in a few lines.
pub(crate) fn incoming(record: &DecisionRecord, steps: bool) -> String {
    let word = match record.verdict {
        Verdict::Deliver => "DELIVERED",
        Verdict::Discard => "DISCARDED",
        Verdict::Undeliverable => "QUARANTINE",
        Verdict::LeftAlone => "LEFT ALONE",
    };
    let subject = if record.subject.is_empty() { "(no subject)" } else { &record.subject };
    let mut text = format!(
        "{word:10} {}  {subject}\n           from {}: {}",
        record.mailbox, record.from, record.because
    );
    if let Some(hit) = &record.correlated {
        text.push_str(&format!(
            "\n           answers {:?} (by {}{})",
            hit.subject,
            hit.method,
            if hit.weak { ", weak" } else { "" }
        ));
    }
    if let Some(regarding) = &record.regarding {
        text.push_str(&format!("; regarding {regarding}"));
    }
    if let Some(owner) = &record.owner {
        text.push_str(&format!("\n           owner {owner}"));
    }
    for queue in &record.queues {
        text.push_str(&format!("; queue item in {queue}"));
    }
    if steps {
        // what a line more or less does not hide: the whole record, as far as it is not above
        if let Some(automatic) = &record.automatic {
            text.push_str(&format!("\n           automatic mail: {automatic}"));
        }
        for party in &record.parties {
            text.push_str(&format!("\n           party {:?} {}: {}", party.field, party.address, party.why));
        }
        if let Some(written) = &record.written {
            text.push_str(&format!(
                "\n           written: {} characters of {}",
                written.body_chars, written.body_mime_type
            ));
            for attachment in &written.attachments {
                text.push_str(&format!("\n           attachment {attachment}"));
            }
            for removed in &written.removed_parts {
                text.push_str(&format!("\n           not stored: {removed}"));
            }
            for label in [&written.category, &written.subcategory].into_iter().flatten() {
                text.push_str(&format!("\n           label {label}"));
            }
            if let Some(record) = &written.new_sender {
                text.push_str(&format!("\n           new record {record}"));
            }
        }
        for step in &record.steps {
            text.push_str(&format!("\n             {}: {}", step.rule, step.found));
            if let Some(micros) = step.micros {
                text.push_str(&format!("  [{micros} \u{b5}s]"));
            }
        }
    }
    for inner in &record.attached {
        for line in incoming(inner, steps).lines() {
            text.push_str(&format!("\n    {line}"));
        }
    }
    text
}

fn outgoing(mailbox: &str, subject: &str, outcome: &SendOutcome) -> String {
    match outcome {
        SendOutcome::Sent { refused, .. } if refused.is_empty() => format!("SENT       {mailbox}  {subject}"),
        SendOutcome::Sent { refused, .. } => {
            format!("SENT       {mailbox}  {subject}\n           not to: {}", refused.join("; "))
        }
        SendOutcome::Retry { not_before, reason } => {
            format!("LATER      {mailbox}  {subject}\n           not before {not_before}: {reason}")
        }
        SendOutcome::Failed { reason } => format!("FAILED     {mailbox}  {subject}\n           {reason}"),
        SendOutcome::InDoubt { reason } => {
            format!(
                "IN DOUBT   {mailbox}  {subject}\n           {reason}; decide with `email-router crm resolve`"
            )
        }
    }
}
