//! Mail systems that tell when mail arrives: somebody waits at each mailbox that wants it, and wakes it.
//!
//! Nothing depends on it: what is not told of is found when the mailbox is read next.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use email_router_model::{Entropy, MailboxId};
use email_router_transport::ErrorKind;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::backoff;
use super::plan::IncomingRoute;

/// How long one call waits. RFC 2177 lets an IMAP server end IDLE after 30 minutes.
const LIMIT: Duration = Duration::from_secs(25 * 60);

/// A mail system that tells all the time is listened to so often, and its mailbox read no more often than that for it.
const PAUSE: Duration = Duration::from_secs(1);

/// How long after a first failure somebody waits again.
const FIRST_RETRY: Duration = Duration::from_secs(30);

/// Those who wait. Dropping it ends them all.
#[derive(Debug)]
pub(super) struct Watchers {
    tasks: JoinSet<()>,
    /// By mailbox: the fingerprint of its route, and how to end the task.
    watched: HashMap<MailboxId, (u64, AbortHandle)>,
    told: mpsc::Sender<MailboxId>,
    entropy: Arc<dyn Entropy>,
}

impl Watchers {
    /// Nobody yet; who arrives is told by the receiver.
    pub(super) fn new(entropy: Arc<dyn Entropy>) -> (Self, mpsc::Receiver<MailboxId>) {
        let (told, arrivals) = mpsc::channel(1024);
        (Self { tasks: JoinSet::new(), watched: HashMap::new(), told, entropy }, arrivals)
    }

    /// Watches the mailboxes of a plan that want it, and no others; whose route has not changed goes on waiting.
    pub(super) fn replace(&mut self, routes: &[Arc<IncomingRoute>]) {
        let wanted: HashMap<&MailboxId, &Arc<IncomingRoute>> = routes
            .iter()
            .filter(|route| route.notify && route.transport.capability().notifies)
            .map(|route| (&route.mailbox.id, route))
            .collect();
        self.watched.retain(|id, (fingerprint, task)| {
            let stays = wanted.get(id).is_some_and(|route| route.fingerprint == *fingerprint);
            if !stays {
                task.abort();
            }
            stays
        });
        while self.tasks.try_join_next().is_some() {}
        for (id, route) in wanted {
            if !self.watched.contains_key(id) {
                let watching = watch(Arc::clone(route), self.told.clone(), Arc::clone(&self.entropy));
                let task = self.tasks.spawn(watching);
                self.watched.insert(id.clone(), (route.fingerprint, task));
            }
        }
    }
}

async fn watch(route: Arc<IncomingRoute>, told: mpsc::Sender<MailboxId>, entropy: Arc<dyn Entropy>) {
    let mailbox = &route.mailbox;
    let mut failures = 0;
    loop {
        match route.transport.wait_for_mail(mailbox, LIMIT).await {
            Ok(arrived) => {
                failures = 0;
                if arrived && told.send(mailbox.id.clone()).await.is_err() {
                    return; // the router has ended
                }
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                tracing::info!(mailbox = %mailbox.id, %error, "mail is looked for by polling alone");
                return;
            }
            Err(error) => {
                // the pass that reads the mailbox tells of what is wrong with it
                tracing::debug!(mailbox = %mailbox.id, %error, "nobody tells of new mail at the moment");
                failures += 1;
                tokio::time::sleep(backoff::delay(&error, failures, FIRST_RETRY, &*entropy)).await;
            }
        }
    }
}
