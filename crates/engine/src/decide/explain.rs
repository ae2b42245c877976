//! A decision as text that people can read; `email-router explain` and the quick start print it.

use std::fmt;

use email_router_crm::ParticipationType;

use crate::record::{DecisionRecord, Verdict};

/// So many parties are shown; the others stand in the record itself.
const MAX_PARTIES: usize = 20;

impl fmt::Display for DecisionRecord {
    /// Several lines: what the message is, what was decided and why, who the parties are, then every step. Text from the message has no control characters
    /// in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Deliver => "DELIVER",
            Verdict::Discard => "DISCARD",
            Verdict::Undeliverable => "UNDELIVERABLE",
            Verdict::LeftAlone => "LEFT ALONE",
        };
        writeln!(f, "{verdict}  {}", self.reason)?;
        writeln!(f, "  because     {}", self.because)?;
        writeln!(f, "  mailbox     {}", self.mailbox)?;
        line(f, "remote id", self.remote_id.as_deref())?;
        line(f, "from", Some(self.from.as_str()).filter(|t| !t.is_empty()))?;
        line(f, "subject", Some(self.subject.as_str()).filter(|t| !t.is_empty()))?;
        line(f, "message id", self.message_id.as_ref())?;
        line(f, "activity", self.activity_id.as_ref())?;
        if let Some(hit) = &self.correlated {
            let weak = if hit.weak { ", weak" } else { "" };
            writeln!(f, "  answers     {:?} ({}; by {}{weak})", hit.subject, hit.activity_id, hit.method)?;
        }
        line(f, "regarding", self.regarding.as_ref())?;
        line(f, "owner", self.owner.as_ref())?;
        for queue in &self.queues {
            line(f, "queue item", Some(queue))?;
        }
        line(f, "automatic", self.automatic.as_ref())?;
        if let Some(written) = &self.written {
            line(
                f,
                "body",
                Some(format!("{} characters of {}", written.body_chars, written.body_mime_type)),
            )?;
            for attachment in &written.attachments {
                line(f, "attachment", Some(attachment))?;
            }
            for removed in &written.removed_parts {
                line(f, "not stored", Some(removed))?;
            }
            line(f, "category", written.category.as_ref())?;
            line(f, "subcategory", written.subcategory.as_ref())?;
            line(f, "new record", written.new_sender.as_ref())?;
        }
        if !self.parties.is_empty() {
            writeln!(f, "  parties")?;
        }
        for party in self.parties.iter().take(MAX_PARTIES) {
            let field = match party.field {
                ParticipationType::Sender => "from",
                ParticipationType::To => "to",
                ParticipationType::Cc => "cc",
                ParticipationType::Bcc => "bcc",
            };
            writeln!(f, "    {field:<4} {}", party.why)?;
        }
        if let Some(more) = self.parties.len().checked_sub(MAX_PARTIES).filter(|more| *more > 0) {
            writeln!(f, "    and {more} more")?;
        }
        if !self.steps.is_empty() {
            writeln!(f, "  steps")?;
        }
        for (number, step) in self.steps.iter().enumerate() {
            write!(f, "    {:>2}. {}: {}", number + 1, step.rule, step.found)?;
            match step.micros {
                Some(micros) => writeln!(f, "  [{micros} \u{b5}s]")?,
                None => writeln!(f)?,
            }
        }
        for inner in &self.attached {
            writeln!(f, "  attached message")?;
            for text in inner.to_string().lines() {
                writeln!(f, "    {text}")?;
            }
        }
        Ok(())
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, value: Option<impl fmt::Display>) -> fmt::Result {
    match value {
        Some(value) => writeln!(f, "  {name:<11} {value}"),
        None => Ok(()),
    }
}
