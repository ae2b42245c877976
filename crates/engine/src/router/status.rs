//! How each mailbox is doing, kept in the state store for `status`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use email_router_model::{Clock, Mailbox, MailboxId};
use tokio::sync::Mutex;

use super::plan::Plan;
use crate::incoming::PassReport;
use crate::ports::{ProviderDirection, ProviderStatus, StateStore};
use crate::{Error, Result};

type Key = (MailboxId, ProviderDirection);

/// The statuses of all providers of the plan, in memory and in the state store.
#[derive(Debug)]
pub(crate) struct StatusBoard {
    state: Arc<dyn StateStore>,
    clock: Arc<dyn Clock>,
    statuses: Mutex<HashMap<Key, ProviderStatus>>,
}

impl StatusBoard {
    pub(crate) fn new(state: Arc<dyn StateStore>, clock: Arc<dyn Clock>) -> Self {
        Self { state, clock, statuses: Mutex::new(HashMap::new()) }
    }

    /// Begins with what the state store has, and drops what an earlier plan of this router had and this one has not. Others' statuses
    /// stay: the routers of several organizations share the state store.
    pub(crate) async fn load(&self, plan: &Plan) -> Result<()> {
        let stored: HashMap<Key, ProviderStatus> =
            self.state.statuses().await?.into_iter().map(|s| ((s.mailbox.clone(), s.direction), s)).collect();
        let incoming = plan.incoming.iter().map(|r| (&r.mailbox, ProviderDirection::Incoming));
        let outgoing = plan.outgoing.iter().map(|r| (&r.mailbox, ProviderDirection::Outgoing));
        let mut statuses = HashMap::new();
        for (mailbox, direction) in incoming.chain(outgoing) {
            let key = (mailbox.id.clone(), direction);
            let mut status = stored.get(&key).cloned().unwrap_or_else(|| blank(mailbox, direction));
            status.name.clone_from(&mailbox.name);
            mailbox.address.as_str().clone_into(&mut status.address);
            statuses.insert(key, status);
        }
        let before = std::mem::take(&mut *self.statuses.lock().await);
        if before.keys().any(|key| !statuses.contains_key(key)) {
            let gone = |key: &&Key| before.contains_key(key) && !statuses.contains_key(key);
            let present: Vec<Key> =
                stored.keys().filter(|key| !gone(key)).chain(statuses.keys()).cloned().collect();
            if let Err(error) = self.state.retain_statuses(&present).await {
                *self.statuses.lock().await = before;
                return Err(error.into());
            }
        }
        for (key, status) in &statuses {
            if !stored.contains_key(key) {
                self.state.put_status(status).await?;
            }
        }
        *self.statuses.lock().await = statuses;
        Ok(())
    }

    /// An incoming pass ended; `next` is the time until the next one.
    pub(crate) async fn incoming(
        &self,
        id: &MailboxId,
        report: &PassReport,
        error: Option<&Error>,
        next: Option<Duration>,
    ) -> Result<()> {
        let backlog = (error.is_none() || report.listed > 0).then_some(report.backlog + report.deferred);
        self.update(
            id,
            ProviderDirection::Incoming,
            report.processed,
            error.map(ToString::to_string),
            backlog,
            next,
        )
        .await
    }

    /// The outgoing mail of a sender was dealt with.
    pub(crate) async fn outgoing(
        &self,
        id: &MailboxId,
        processed: u64,
        error: Option<String>,
        next: Option<Duration>,
    ) -> Result<()> {
        self.update(id, ProviderDirection::Outgoing, processed, error, None, next).await
    }

    /// A sender has nothing to send and nothing is known against it: what it failed with before is over.
    pub(crate) async fn outgoing_idle(&self, id: &MailboxId, next: Option<Duration>) -> Result<()> {
        let key = (id.clone(), ProviderDirection::Outgoing);
        let failed = self.statuses.lock().await.get(&key).is_some_and(|s| s.last_error.is_some());
        // written only where it says something new: thousands of idle senders must not cost thousands of writes
        if failed { self.outgoing(id, 0, None, next).await } else { Ok(()) }
    }

    async fn update(
        &self,
        id: &MailboxId,
        direction: ProviderDirection,
        processed: u64,
        error: Option<String>,
        backlog: Option<u64>,
        next: Option<Duration>,
    ) -> Result<()> {
        let now = self.clock.now();
        let status = {
            let mut statuses = self.statuses.lock().await;
            let Some(status) = statuses.get_mut(&(id.clone(), direction)) else { return Ok(()) };
            status.last_run = Some(now);
            status.processed += processed;
            status.next_run = next.and_then(|n| now.checked_add(n).ok());
            if backlog.is_some() {
                status.backlog = backlog;
            }
            match error {
                None => {
                    status.last_success = Some(now);
                    status.last_error = None;
                    status.failures = 0;
                }
                Some(text) => {
                    status.last_error = Some(text);
                    status.failures = status.failures.saturating_add(1);
                }
            }
            status.clone()
        };
        self.state.put_status(&status).await?;
        Ok(())
    }
}

fn blank(mailbox: &Mailbox, direction: ProviderDirection) -> ProviderStatus {
    ProviderStatus {
        mailbox: mailbox.id.clone(),
        direction,
        name: mailbox.name.clone(),
        address: mailbox.address.as_str().to_owned(),
        last_run: None,
        last_success: None,
        last_error: None,
        failures: 0,
        backlog: None,
        next_run: None,
        processed: 0,
    }
}
