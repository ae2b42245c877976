//! The outgoing side of the router: one pass after the other over all senders of the organization.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use email_router_model::{Classified, MailboxId, Retry, Scope, Timestamp};
use tokio::sync::watch;
use tokio::time::Instant;

use super::backoff::jittered;
use super::plan::Plan;
use super::{Router, backoff};
use crate::Result;
use crate::outgoing::{OutgoingPass, OutgoingReport, Sender};
use crate::ports::{Event, ProviderDirection, ProviderEvent};

/// Submissions at the same time, all senders of equal settings together; the transports have their own limits for each server.
const SUBMISSIONS: usize = 16;

/// How long what is in flight at the end of a pass may go on; shorter than what the lease has beyond the pass.
const IN_FLIGHT: Duration = Duration::from_secs(45);

impl Router {
    /// One pass over all senders of the plan; failures of single senders go into `failures`.
    pub(super) async fn run_outgoing(
        &self,
        plan: &Plan,
        stop: &watch::Receiver<bool>,
        next: Option<Duration>,
        failures: &mut Vec<(String, String)>,
    ) -> Result<OutgoingReport> {
        if plan.outgoing.is_empty() {
            return Ok(OutgoingReport::default());
        }
        let limit = plan.schedule.max_thread_execution;
        let lease = format!("outgoing {}", self.parts.crm.organization_id().as_uuid());
        let now = self.parts.clock.now();
        let until = now.saturating_add(limit + Duration::from_secs(60)).unwrap_or(Timestamp::MAX);
        if !self.parts.state.lease_acquire(&lease, &self.parts.holder, now, until).await? {
            tracing::debug!("another router sends for this organization");
            return Ok(OutgoingReport::default());
        }
        let deadline = Instant::now() + limit;
        let groups = plan.outgoing_groups().into_iter().map(|(settings, routes)| {
            let senders: Vec<Sender> = routes
                .into_iter()
                .map(|r| Sender {
                    mailbox: r.mailbox.clone(),
                    record: r.record.clone(),
                    transport: Arc::clone(&r.transport),
                })
                .collect();
            let pass = OutgoingPass::new(
                Arc::clone(&self.parts.crm),
                Arc::clone(&self.parts.state),
                Arc::clone(&self.parts.clock),
                Arc::clone(&self.parts.entropy),
                Arc::clone(&self.parts.observer),
                settings.clone(),
            )
            .with_concurrency(SUBMISSIONS)
            .with_in_flight(&self.in_flight)
            .with_signer(self.parts.signer.clone());
            async move { pass.run(&senders, stop, Some(deadline)).await }
        });
        // What is in flight at the deadline may end, but not beyond the lease: whoever has it next takes an open entry of the ledger
        // for left behind. A group that fails does not cut the others off.
        let groups: Vec<_> = groups.collect();
        let run = async {
            let mut sum = OutgoingReport::default();
            for report in futures_util::future::join_all(groups).await {
                sum.add(report?);
            }
            Ok::<_, crate::Error>(sum)
        };
        let result = tokio::time::timeout(limit + IN_FLIGHT, run).await.unwrap_or_else(|_| {
            let text = format!(
                "sending was cut off after {} s (MaxThreadExecution and what was in flight); the next pass finds out what went out",
                (limit + IN_FLIGHT).as_secs()
            );
            Err(email_router_transport::Error::new(email_router_transport::ErrorKind::Timeout, text).into())
        });
        if let Err(error) = self.parts.state.lease_release(&lease, &self.parts.holder).await {
            tracing::warn!(%error, "the lease for sending could not be given back; it runs out by itself");
        }
        let report = result?;
        let transports: HashMap<&MailboxId, String> =
            plan.outgoing.iter().map(|r| (&r.mailbox.id, r.transport.to_string())).collect();
        for sender in &report.senders {
            let worked = sender.sent + sender.retried + sender.failed + sender.in_doubt + sender.undecided;
            let what = match &sender.error {
                Some(error) => {
                    tracing::warn!(mailbox = %sender.mailbox, %error, hint = error.hint().unwrap_or_default(), "mail could not be sent");
                    failures.push((sender.mailbox.to_string(), error.to_string()));
                    self.parts.observer.event(&Event::PassFailed {
                        mailbox: &sender.mailbox,
                        direction: ProviderDirection::Outgoing,
                        transport: transports.get(&sender.mailbox).map_or("", String::as_str),
                        error,
                    });
                    ProviderEvent::Failed
                }
                None if worked == 0 => continue,
                None => ProviderEvent::Executed,
            };
            for what in [ProviderEvent::Started, what] {
                self.parts.observer.event(&Event::Provider {
                    mailbox: &sender.mailbox,
                    direction: ProviderDirection::Outgoing,
                    what,
                });
            }
            let error = sender.error.as_ref().map(ToString::to_string);
            self.board.outgoing(&sender.mailbox, sender.sent + sender.failed, error, next).await?;
        }
        Ok(report)
    }

    /// Sends until `stop`: a pass every outgoing period, later after failures of everything.
    pub(super) async fn outgoing_loop(
        self: Arc<Self>,
        mut plans: watch::Receiver<Arc<Plan>>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut failures = 0u32;
        loop {
            if *stop.borrow() {
                return;
            }
            let plan = Arc::clone(&plans.borrow_and_update());
            let period = plan.schedule.outgoing_period;
            let wait = match self.run_outgoing(&plan, &stop, Some(period), &mut Vec::new()).await {
                // a sender whose server named a delay is left to the e-mails' own "not before"
                Ok(report) => {
                    failures = 0;
                    let dead = !report.senders.is_empty()
                        && report.senders.iter().all(|s| {
                            s.left_alone || s.error.as_ref().is_some_and(|e| e.scope() == Scope::Server)
                        });
                    if dead { period.max(Duration::from_secs(30)) } else { period }
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    if error.retry() == Retry::Never {
                        tracing::error!(%error, "mail cannot be sent");
                    } else {
                        tracing::warn!(%error, "mail cannot be sent now");
                    }
                    backoff::delay(&error, failures, period, &*self.parts.entropy)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(jittered(wait, &*self.parts.entropy)) => {}
                changed = plans.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = super::stopped(&mut stop) => return,
            }
        }
    }
}
