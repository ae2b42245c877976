//! What earlier passes left behind.

use std::time::Duration;

use email_router_crm::SendOutcome;
use email_router_model::{ActivityId, Classified as _, Retry, Scope};
use email_router_transport::ErrorKind;

use super::fates;
use super::pass::{OutgoingPass, Run};
use super::send::{Attempt, Elapsed, later};
use crate::ports::{LedgerEntry, LedgerResult};
use crate::{InDoubtPolicy, Result};

/// What could be found out about a message that may have gone out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// The mail system has it.
    Taken,
    /// It does not, or the policy is to send again.
    NotTaken,
    /// It may be able to tell later.
    NotYet,
    /// It cannot tell.
    Unknown,
}

impl OutgoingPass {
    /// Brings an open entry of the ledger to an end. Nothing is sent: what has to go out again goes back to Pending Send.
    pub(super) async fn end_entry(&self, run: &Run<'_>, sender: usize, entry: &LedgerEntry) -> Result<()> {
        let now = self.clock.now();
        let attempt = Attempt {
            id: &entry.activity_id,
            sender,
            number: entry.attempt,
            tries: entry.refusals.saturating_add(1),
            elapsed: Elapsed::Known(Duration::try_from(now.duration_since(entry.at)).unwrap_or_default()),
            waited: None,
            subject: self.subject(&entry.activity_id).await,
            earlier: entry.earlier.clone(),
        };
        let outcome = match &entry.result {
            Some(LedgerResult::Accepted { at, refused, .. }) => {
                SendOutcome::Sent { at: *at, refused: refused.clone() }
            }
            Some(LedgerResult::NotTaken { reason, permanent: true, .. }) => {
                fates::over_all(entry.earlier.as_ref(), SendOutcome::Failed { reason: reason.clone() })
            }
            Some(LedgerResult::Partly(so_far)) => SendOutcome::Retry {
                not_before: self.due(so_far.at, attempt.tries),
                reason: fates::waiting(so_far),
            },
            Some(LedgerResult::NotTaken { reason, at, .. }) => {
                SendOutcome::Retry { not_before: self.due(*at, attempt.tries), reason: reason.clone() }
            }
            None | Some(LedgerResult::InDoubt { .. }) => {
                let doubt = self.look_for(run, sender, entry).await;
                if doubt != Doubt::NotYet {
                    run.report(|r| r.count_recovered(sender));
                }
                return self.decide(run, &attempt, entry, doubt).await;
            }
        };
        self.left_behind(run, &attempt, &outcome).await
    }

    /// Concludes an attempt that an earlier pass left behind.
    pub(super) async fn left_behind(
        &self,
        run: &Run<'_>,
        attempt: &Attempt<'_>,
        outcome: &SendOutcome,
    ) -> Result<()> {
        run.report(|r| r.count_recovered(attempt.sender));
        self.conclude(run, attempt, outcome, &[]).await
    }

    /// Asks the mail system about a message in doubt.
    ///
    /// That a message is not among the sent ones proves nothing while the server may still be at work on it, so after an answer
    /// that did not come it is believed only after `PendingStatusDelay`. After a crash the connection was cut, and nothing is under way.
    pub(super) async fn look_for(&self, run: &Run<'_>, sender: usize, entry: &LedgerEntry) -> Doubt {
        let of = &run.senders[sender];
        let cannot_tell = match self.settings.in_doubt {
            InDoubtPolicy::Report => Doubt::Unknown,
            InDoubtPolicy::SendAgain => Doubt::NotTaken,
        };
        if entry.earlier.as_ref().is_some_and(|fates| !fates.accepted.is_empty()) {
            return cannot_tell; // it is among the sent ones since it went to the others
        }
        match of.transport.find_submitted(&of.mailbox, &entry.message_id).await {
            Ok(Some(true)) => Doubt::Taken,
            Ok(Some(false)) => match &entry.result {
                Some(LedgerResult::InDoubt { at, .. })
                    if self.clock.now() < later(*at, self.settings.pending_status_delay) =>
                {
                    Doubt::NotYet
                }
                _ => Doubt::NotTaken,
            },
            Ok(None) => cannot_tell,
            Err(error) => {
                let never = error.retry() == Retry::Never && error.scope() == Scope::Message;
                if never || error.kind() == ErrorKind::Unsupported {
                    return cannot_tell;
                }
                tracing::warn!(activity = %entry.activity_id, %error, "a message in doubt could not be looked for; the next pass asks again");
                if error.scope() > Scope::Message {
                    run.halt(sender, error.into());
                }
                Doubt::NotYet
            }
        }
    }

    /// Acts on what was found out.
    pub(super) async fn decide(
        &self,
        run: &Run<'_>,
        attempt: &Attempt<'_>,
        entry: &LedgerEntry,
        doubt: Doubt,
    ) -> Result<()> {
        let now = self.clock.now();
        let outcome = match doubt {
            Doubt::Taken => {
                let reply = "found among the messages sent".to_owned();
                let refused: Vec<_> =
                    entry.earlier.iter().flat_map(|f| &f.refused).map(ToString::to_string).collect();
                let result = LedgerResult::Accepted { at: entry.at, reply, refused: refused.clone() };
                self.state.ledger_result(attempt.id, &result).await?;
                SendOutcome::Sent { at: entry.at, refused }
            }
            Doubt::NotTaken => {
                let reason =
                    "the attempt before this one was cut off before the mail system took the message";
                let outcome = self.again_or_given_up(attempt.tries, reason.to_owned());
                match fates::over_all(entry.earlier.as_ref(), outcome) {
                    // that the router was stopped is no reason to wait
                    SendOutcome::Retry { reason, .. } if entry.result.is_none() => {
                        SendOutcome::Retry { not_before: now, reason }
                    }
                    outcome => outcome,
                }
            }
            Doubt::NotYet => {
                run.report(|r| r.count_undecided(attempt.sender));
                return Ok(());
            }
            Doubt::Unknown => {
                let reason = match &entry.result {
                    Some(LedgerResult::InDoubt { reason, .. }) => reason.clone(),
                    _ => format!(
                        "the router was stopped while the message was handed over; {}",
                        self.advice(entry)
                    ),
                };
                let result = LedgerResult::InDoubt { at: now, reason: reason.clone() };
                self.state.ledger_result(attempt.id, &result).await?;
                SendOutcome::InDoubt { reason }
            }
        };
        self.conclude(run, attempt, &outcome, &[]).await
    }

    /// What a person can do about a message in doubt.
    pub(super) fn advice(&self, entry: &LedgerEntry) -> String {
        let whom = match &entry.earlier {
            Some(fates) if !fates.accepted.is_empty() => {
                let waiting: Vec<_> = fates.waiting.iter().take(10).map(|r| r.address.as_str()).collect();
                format!(" to the last {} of its recipients ({})", fates.waiting.len(), waiting.join(", "))
            }
            _ => String::new(),
        };
        format!(
            "nobody knows whether it went out{whom}: look for {} in the log of the mail server or ask the recipient, then send it again or \
             mark it as sent",
            entry.message_id
        )
    }

    /// The subject, for whoever watches; empty where it cannot be read now.
    pub(super) async fn subject(&self, id: &ActivityId) -> String {
        self.crm.outgoing_email(id).await.map(|email| email.subject).unwrap_or_default()
    }
}
