//! One e-mail: from the claim to the end of the attempt.

use std::time::Duration;

use email_router_crm::{Claim, OutgoingEmail, PendingEmail, SendOutcome};
use email_router_model::{ActivityId, Classified as _, MailboxId, MessageId, Retry, Scope, Timestamp};
use email_router_transport::contract::LONGEST_RETRY_DELAY;
use email_router_transport::{
    DsnNotify, DsnRequest, ErrorKind, Outbound, RecipientResult, RecipientStatus, SubmitOptions,
};
use tokio::time::Instant;
use tracing::Instrument as _;
use tracing::field::Empty;

use super::compose::{compose, fits, message_id};
use super::fates;
use super::pass::{How, OutgoingPass, Run, claim_note};
use super::recovery::Doubt;
use crate::ports::{LedgerEntry, LedgerResult, RecipientFates};
use crate::{Error, Result};

/// An e-mail that is ours for one attempt.
pub(super) struct Attempt<'a> {
    pub(super) id: &'a ActivityId,
    pub(super) sender: usize,
    pub(super) number: u32,
    /// The same without the attempts that failed for reasons outside of the message (outages, wrong passwords) and those that were
    /// cut off before anything was handed over: what MaximumDeliveryAttempts and the growing delay are about.
    pub(super) tries: u32,
    pub(super) elapsed: Elapsed,
    /// How long it had been pending.
    pub(super) waited: Option<Duration>,
    pub(super) subject: String,
    /// What earlier attempts settled, when some recipients had to wait.
    pub(super) earlier: Option<RecipientFates>,
}

/// How long an attempt takes.
pub(super) enum Elapsed {
    Since(Instant),
    /// Begun by an earlier process.
    Known(Duration),
}

/// What is known of an e-mail that was just claimed.
enum Evidence {
    /// This attempt hands it over for the first time, or again after a certain refusal.
    Clean,
    /// What became of the last attempt is known, and the CRM was not told.
    Known(LedgerResult),
    /// An attempt began, and nobody noted how it ended. `None`: not in our ledger either.
    Doubt(Option<LedgerEntry>),
}

impl OutgoingPass {
    /// Claims a listed e-mail and brings the attempt to an end, in a span of its own.
    pub(super) async fn send(
        &self,
        run: &Run<'_>,
        how: &How,
        sender: usize,
        email: &PendingEmail,
    ) -> Result<()> {
        let span = email_span(&run.senders[sender].mailbox.id, &email.activity_id);
        self.send_one(run, how, sender, email).instrument(span).await
    }

    async fn send_one(&self, run: &Run<'_>, how: &How, sender: usize, email: &PendingEmail) -> Result<()> {
        let started = Instant::now();
        let number = match self.crm.claim(email).await? {
            Claim::Taken { attempt } => attempt,
            Claim::Lost => {
                run.report(|r| r.lost_claims += 1);
                return Ok(());
            }
        };
        let id = &email.activity_id;
        let mut attempt = Attempt {
            id,
            sender,
            number,
            tries: 1,
            elapsed: Elapsed::Since(started),
            waited: self.clock.now().duration_since(email.modified_on).try_into().ok(),
            subject: String::new(),
            earlier: None,
        };
        if let Err(error) = self.claimed(run, how, email, &mut attempt).await {
            return self.unable(run, &attempt, error).await;
        }
        Ok(())
    }

    /// An error before anything was handed over. One that concerns this e-mail alone ends it; after any other it goes back as it
    /// was, as far as the CRM can still be told, and the run ends.
    async fn unable(&self, run: &Run<'_>, attempt: &Attempt<'_>, error: Stopped) -> Result<()> {
        match error {
            Stopped::Before(error) if error.scope() == Scope::Message => {
                let outcome = SendOutcome::Failed { reason: error.to_string() };
                let outcome = fates::over_all(attempt.earlier.as_ref(), outcome);
                self.conclude(run, attempt, &outcome, &[]).await
            }
            Stopped::Before(error) => {
                let outcome = SendOutcome::Retry { not_before: self.clock.now(), reason: error.to_string() };
                if let Err(second) = self.crm.finish(attempt.id, &outcome).await {
                    tracing::warn!(
                        activity = %attempt.id, error = %second,
                        "an e-mail stays in Sending and is taken up again after SendingStatusDelay"
                    );
                }
                Err(error)
            }
            Stopped::After(error) => Err(error),
        }
    }

    async fn claimed(
        &self,
        run: &Run<'_>,
        how: &How,
        listed: &PendingEmail,
        attempt: &mut Attempt<'_>,
    ) -> Result<(), Stopped> {
        let entry = self.state.ledger(attempt.id).await?;
        attempt.earlier = entry.as_ref().and_then(LedgerEntry::fates).cloned();
        // numbers that begin again were set back by a person, who wants a fresh start
        let before = entry.as_ref().filter(|e| e.attempt < attempt.number);
        attempt.tries = before.map_or(0, LedgerEntry::refusals_after).saturating_add(1);
        let cut_off = attempt.number.saturating_sub(1).saturating_sub(before.map_or(0, |e| e.attempt));
        match self.evidence(listed, entry).await? {
            Evidence::Clean => {}
            Evidence::Known(result) => {
                attempt.subject = self.subject(attempt.id).await;
                let told = match result {
                    LedgerResult::NotTaken { at, reason, permanent: false, .. } => {
                        let due = self.due(at, attempt.tries.saturating_sub(1));
                        (due > self.clock.now()).then_some(SendOutcome::Retry { not_before: due, reason })
                    }
                    LedgerResult::Partly(so_far) => {
                        let due = self.due(so_far.at, attempt.tries.saturating_sub(1));
                        let reason = fates::waiting(&so_far);
                        (due > self.clock.now()).then_some(SendOutcome::Retry { not_before: due, reason })
                    }
                    LedgerResult::NotTaken { reason, .. } => {
                        Some(fates::over_all(attempt.earlier.as_ref(), SendOutcome::Failed { reason }))
                    }
                    LedgerResult::Accepted { at, refused, .. } => Some(SendOutcome::Sent { at, refused }),
                    LedgerResult::InDoubt { reason, .. } => Some(SendOutcome::InDoubt { reason }),
                };
                if let Some(outcome) = told {
                    return self.left_behind(run, attempt, &outcome).await.map_err(Stopped::After);
                }
            }
            Evidence::Doubt(entry) => {
                if self.in_doubt(run, attempt, entry).await? {
                    return Ok(());
                }
            }
        }
        // found in Sending: what cut the last attempts off may be this e-mail
        if listed.stale && cut_off >= self.settings.maximum_delivery_attempts {
            let text = format!("given up: {cut_off} attempts were cut off before anything was handed over");
            return Err(Error::message(text).into());
        }
        let (email, mut message) = self.written(how, attempt).await?;
        if let Some(earlier) = &attempt.earlier {
            fates::keep_unsettled(earlier, &mut message.envelope.recipients);
            if message.envelope.recipients.is_empty() {
                return Err(Error::message("none of its recipients waits for it any more").into());
            }
        }
        self.hand_over(run, attempt, &email, message).await
    }

    async fn evidence(&self, listed: &PendingEmail, entry: Option<LedgerEntry>) -> Result<Evidence> {
        if let Some(LedgerEntry { result: Some(accepted @ LedgerResult::Accepted { .. }), .. }) = entry {
            return Ok(Evidence::Known(accepted)); // whatever the CRM says: it went out
        }
        if !listed.stale {
            // in Pending Send; a closed entry tells of an attempt whose end the CRM knows
            return Ok(match entry {
                Some(LedgerEntry {
                    result: Some(LedgerResult::NotTaken { .. } | LedgerResult::Partly(_)),
                    ..
                }) => Evidence::Clean,
                Some(open) if !open.closed => Evidence::Doubt(Some(open)),
                _ => Evidence::Clean,
            });
        }
        match entry {
            Some(open) if !open.closed => Ok(match open.result {
                Some(result @ (LedgerResult::NotTaken { .. } | LedgerResult::Partly(_))) => {
                    Evidence::Known(result)
                }
                _ => Evidence::Doubt(Some(open)),
            }),
            // a closed entry is about an earlier attempt, whose end the CRM was told
            _ => {
                // our own note of the claim, and nothing in the ledger: it never came to handing over
                let seen = self.state.seen(&self.claims(), &[claim_note(listed, 0)]).await?;
                let ours = seen.into_iter().flatten().next().is_some();
                Ok(if ours { Evidence::Clean } else { Evidence::Doubt(None) })
            }
        }
    }

    /// Looks into a doubt; `true` when that ended the attempt, `false` when the e-mail may be sent.
    async fn in_doubt(
        &self,
        run: &Run<'_>,
        attempt: &mut Attempt<'_>,
        entry: Option<LedgerEntry>,
    ) -> Result<bool, Stopped> {
        let entry = match entry {
            Some(entry) => entry,
            None => {
                let email = self.crm.outgoing_email(attempt.id).await?;
                // every router gives the Message-ID before it hands over: without one nothing went out
                let Some(message_id) = email.message_id else { return Ok(false) };
                let entry = self.entry(run, attempt, message_id);
                self.state.ledger_begin(&entry).await?;
                entry
            }
        };
        attempt.subject = self.subject(attempt.id).await;
        match self.look_for(run, attempt.sender, &entry).await {
            Doubt::NotTaken => Ok(false),
            decided => {
                self.decide(run, attempt, &entry, decided).await.map_err(Stopped::After)?;
                Ok(true)
            }
        }
    }

    /// The message of a claimed e-mail. Attachments that cannot fit are not read.
    async fn written(&self, how: &How, attempt: &mut Attempt<'_>) -> Result<(OutgoingEmail, Outbound)> {
        let identity = message_id(attempt.id, &self.settings.message_id_domain, &how.options)?;
        let email = self.crm.prepare_outgoing(attempt.id, &identity, how.with_token).await?;
        attempt.subject.clone_from(&email.subject);
        fits(&email, email.attachment_bytes, &how.options)?;
        let attachments = self.crm.attachments(attempt.id).await?;
        let message = compose(&email, &attachments, &how.options)?;
        tracing::Span::current().record("message_id", message.message_id.as_str());
        Ok((email, message))
    }

    /// Submits, and once more for the rest when the mail system took as many recipients as it takes in one transaction.
    async fn hand_over(
        &self,
        run: &Run<'_>,
        attempt: &mut Attempt<'_>,
        email: &OutgoingEmail,
        mut message: Outbound,
    ) -> Result<(), Stopped> {
        let sender = &run.senders[attempt.sender];
        let mut told: Vec<RecipientResult> = Vec::new();
        loop {
            let entry = self.entry(run, attempt, message.message_id.clone());
            self.state.ledger_begin(&entry).await.map_err(|e| match told.as_slice() {
                [] => Stopped::Before(e.into()),
                _ => Stopped::After(e.into()),
            })?;
            // from here on the error of a port never means that nothing was handed over
            let submitted = sender.transport.submit(&sender.mailbox, &message, self.options(email)).await;
            let now = self.clock.now();
            let receipt = match submitted {
                Ok(receipt) => receipt,
                Err(error) => {
                    return self.not_taken(run, attempt, entry, error).await.map_err(Stopped::After);
                }
            };
            let any = |status| receipt.recipients.iter().any(|r| r.status == status);
            let at_once = any(RecipientStatus::TooMany) && any(RecipientStatus::Accepted);
            let so_far = fates::after(attempt.earlier.take(), &receipt.recipients, now);
            told.retain(|earlier| receipt.recipients.iter().all(|r| r.address != earlier.address));
            told.extend(receipt.recipients);
            let last = !at_once && attempt.tries >= self.settings.maximum_delivery_attempts;
            if so_far.waiting.is_empty() || last {
                let refused = fates::left_out(&so_far);
                let reply = receipt.reply;
                self.note(attempt, &LedgerResult::Accepted { at: now, reply, refused: refused.clone() })
                    .await;
                let outcome = SendOutcome::Sent { at: now, refused };
                return self.conclude(run, attempt, &outcome, &told).await.map_err(Stopped::After);
            }
            self.note(attempt, &LedgerResult::Partly(so_far.clone())).await;
            if at_once && !run.ends() {
                message.envelope.recipients = so_far.waiting.iter().map(|r| r.address.clone()).collect();
                attempt.earlier = Some(so_far);
                continue;
            }
            let reason = fates::waiting(&so_far);
            let outcome = if at_once {
                SendOutcome::Retry { not_before: now, reason }
            } else {
                self.again_or_given_up(attempt.tries, reason)
            };
            return self.conclude(run, attempt, &outcome, &told).await.map_err(Stopped::After);
        }
    }

    /// A submission ended in an error: in doubt, or nothing was taken.
    async fn not_taken(
        &self,
        run: &Run<'_>,
        attempt: &Attempt<'_>,
        entry: LedgerEntry,
        error: email_router_transport::Error,
    ) -> Result<()> {
        let now = self.clock.now();
        if error.is_in_doubt() {
            let reason = format!("{error}; {}", self.advice(&entry));
            let result = LedgerResult::InDoubt { at: now, reason };
            self.note(attempt, &result).await;
            let entry = LedgerEntry { result: Some(result), ..entry };
            if error.scope() > Scope::Message {
                run.halt(attempt.sender, error.into());
            }
            let doubt = self.look_for(run, attempt.sender, &entry).await;
            return self.decide(run, attempt, &entry, doubt).await;
        }
        let told = error.recipients().to_vec();
        let decided = (!told.is_empty()).then(|| fates::after(attempt.earlier.clone(), &told, now));
        let so_far = decided.as_ref().or(attempt.earlier.as_ref());
        let outcome = fates::over_all(so_far, self.refusal(attempt.tries, &error));
        let result = match (&outcome, decided) {
            (SendOutcome::Sent { refused, .. }, _) => {
                LedgerResult::Accepted { at: now, reply: fates::words(&error), refused: refused.clone() }
            }
            (SendOutcome::Retry { .. }, Some(decided)) => LedgerResult::Partly(decided),
            (outcome, _) => LedgerResult::NotTaken {
                at: now,
                reason: fates::words(&error),
                permanent: matches!(outcome, SendOutcome::Failed { .. }),
                counts: counts(&error),
            },
        };
        self.note(attempt, &result).await;
        if error.scope() > Scope::Message {
            run.halt(attempt.sender, error.into());
        }
        self.conclude(run, attempt, &outcome, &told).await
    }

    /// Keeps what the mail system said. When that fails the CRM is told all the same: it is the second witness.
    async fn note(&self, attempt: &Attempt<'_>, result: &LedgerResult) {
        if let Err(error) = self.state.ledger_result(attempt.id, result).await {
            tracing::error!(activity = %attempt.id, %error, "the send ledger could not be written after a submission");
        }
    }

    /// Tells the CRM, closes the ledger entry, and counts.
    pub(super) async fn conclude(
        &self,
        run: &Run<'_>,
        attempt: &Attempt<'_>,
        outcome: &SendOutcome,
        recipients: &[RecipientResult],
    ) -> Result<()> {
        match self.crm.finish(attempt.id, outcome).await {
            Ok(()) => {}
            // the e-mail is gone or has moved on; there is nobody to tell
            Err(error) if error.scope() == Scope::Message && error.retry() == Retry::Never => {
                tracing::warn!(activity = %attempt.id, %error, ?outcome, "the CRM does not take the outcome of an e-mail");
            }
            Err(error) => return Err(error.into()),
        }
        self.state.ledger_close(attempt.id).await?;
        run.report(|r| r.count(attempt.sender, outcome));
        tell(attempt, outcome, recipients);
        self.observer.event(&crate::Event::Outgoing {
            mailbox: &run.senders[attempt.sender].mailbox.id,
            activity_id: attempt.id,
            subject: &attempt.subject,
            outcome,
            recipients,
            elapsed: match attempt.elapsed {
                Elapsed::Since(started) => started.elapsed(),
                Elapsed::Known(elapsed) => elapsed,
            },
            waited: attempt.waited,
        });
        Ok(())
    }

    fn entry(&self, run: &Run<'_>, attempt: &Attempt<'_>, message_id: MessageId) -> LedgerEntry {
        LedgerEntry {
            activity_id: *attempt.id,
            message_id,
            mailbox: run.senders[attempt.sender].mailbox.id.clone(),
            attempt: attempt.number,
            at: self.clock.now(),
            result: None,
            closed: false,
            earlier: attempt.earlier.clone(),
            refusals: attempt.tries.saturating_sub(1),
        }
    }

    fn options(&self, email: &OutgoingEmail) -> SubmitOptions {
        let mut options = SubmitOptions::default();
        if email.delivery_receipt_requested && self.settings.request_dsn {
            options.dsn = Some(DsnRequest {
                notify: DsnNotify { success: true, failure: true, delay: true },
                headers_only: true,
                envelope_id: Some(email.activity_id.to_string()),
            });
        }
        options
    }

    /// What becomes of an e-mail that the mail system certainly did not take.
    ///
    /// A fault that lies outside of the message (password, unreachable server, certificate, settings) does not make it fail, however
    /// often it happens, and does not count: the e-mail waits for `PendingStatusDelay`. A connection that breaks or stalls can be the
    /// doing of the message, so it counts like a refusal.
    fn refusal(&self, tries: u32, error: &email_router_transport::Error) -> SendOutcome {
        let reason = fates::words(error);
        if error.scope() == Scope::Message && error.retry() == Retry::Never {
            return SendOutcome::Failed { reason };
        }
        let counts = counts(error);
        let delay = match error.retry() {
            Retry::Later(Some(asked)) => asked.min(LONGEST_RETRY_DELAY),
            _ if counts => return self.again_or_given_up(tries, reason),
            _ => self.settings.pending_status_delay.min(LONGEST_RETRY_DELAY),
        };
        if counts && tries >= self.settings.maximum_delivery_attempts {
            return given_up(tries, &reason);
        }
        SendOutcome::Retry { not_before: later(self.clock.now(), delay), reason }
    }

    /// Back to Pending Send after the delay of this attempt, up to a fifth longer so that e-mails that failed together do not
    /// come back together; or given up when this was the last attempt.
    pub(super) fn again_or_given_up(&self, tries: u32, reason: String) -> SendOutcome {
        if tries >= self.settings.maximum_delivery_attempts {
            return given_up(tries, &reason);
        }
        let delay = self.delay(tries).mul_f64(1.0 + self.entropy.fraction() / 5.0).min(LONGEST_RETRY_DELAY);
        SendOutcome::Retry { not_before: later(self.clock.now(), delay), reason }
    }

    /// `PendingStatusDelay`, doubled with each attempt, at most a day.
    fn delay(&self, tries: u32) -> Duration {
        let factor = 1_u32.checked_shl(tries.saturating_sub(1)).unwrap_or(u32::MAX);
        self.settings.pending_status_delay.saturating_mul(factor).min(LONGEST_RETRY_DELAY)
    }

    /// When an attempt that was refused at `at` may be repeated.
    pub(super) fn due(&self, at: Timestamp, tries: u32) -> Timestamp {
        later(at, self.delay(tries))
    }
}

/// The span of everything that is done about one e-mail; [`tell`] fills it in at the end.
pub(super) fn email_span(mailbox: &MailboxId, activity: &ActivityId) -> tracing::Span {
    tracing::info_span!("outgoing", %mailbox, %activity, message_id = Empty, attempt = Empty, outcome = Empty)
}

/// Notes how the attempt ended: loudly where a person has to do something, else for those who want to see every message.
fn tell(attempt: &Attempt<'_>, outcome: &SendOutcome, recipients: &[RecipientResult]) {
    let span = tracing::Span::current();
    span.record("attempt", attempt.number);
    let subject = attempt.subject.as_str();
    match outcome {
        SendOutcome::Sent { refused, .. } => {
            span.record("outcome", "sent");
            if !refused.is_empty() {
                tracing::warn!(
                    subject,
                    ?refused,
                    "the mail server took the e-mail, but not for these recipients"
                );
            }
            tracing::trace!(subject, ?recipients, "sent");
        }
        SendOutcome::Retry { not_before, reason } => {
            span.record("outcome", "retry");
            tracing::info!(subject, reason, %not_before, "the e-mail could not be sent now");
        }
        SendOutcome::Failed { reason } => {
            span.record("outcome", "failed");
            tracing::warn!(subject, reason, "the e-mail is given up");
        }
        SendOutcome::InDoubt { reason } => {
            span.record("outcome", "in doubt");
            tracing::warn!(subject, reason, "nobody knows whether the e-mail went out");
        }
    }
}

/// An error, and whether something may have been handed over before it.
enum Stopped {
    Before(Error),
    After(Error),
}

impl<E: Into<Error>> From<E> for Stopped {
    fn from(error: E) -> Self {
        Self::Before(error.into())
    }
}

/// Whether an error that took nothing counts towards MaximumDeliveryAttempts.
fn counts(error: &email_router_transport::Error) -> bool {
    error.scope() == Scope::Message
        || matches!(error.kind(), ErrorKind::ConnectionLost | ErrorKind::Protocol | ErrorKind::Timeout)
}

fn given_up(tries: u32, reason: &str) -> SendOutcome {
    SendOutcome::Failed { reason: format!("given up after {tries} attempts; the last one: {reason}") }
}

pub(super) fn later(at: Timestamp, delay: Duration) -> Timestamp {
    at.checked_add(delay).unwrap_or(Timestamp::MAX)
}
