//! What goes on beside the mail while a service runs: the configuration, passwords, users and queues that change, and what is kept long enough.

use std::sync::Arc;
use std::time::Duration;

use email_router_config::{LoadOutcome, Reload, Reloader, SecretRef, SecretStore, Settings};
use email_router_engine::ports::{Event, ProviderDirection, ProviderEvent};
use email_router_engine::router::Plan;
use email_router_model::{Direction, Timestamp};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Organization, Service, blocking};
use crate::Result;
use crate::assemble::Unserved;
use crate::load_data::diff;

/// How long the ledger keeps what became of a sent e-mail, for reports: 90 days after the attempt. What is open stays for ever.
const LEDGER_KEPT: Duration = Duration::from_secs(90 * 24 * 3600);

impl Service {
    /// Drops the statuses of what no organization serves any more. (Each router sees to its own while it runs.)
    pub(super) async fn forget_statuses(&self) -> Result<()> {
        // what is not connected has its statuses all the same
        if self.deployments().iter().any(|status| !status.connected) {
            return Ok(());
        }
        let mut served = Vec::new();
        for Plan { incoming, outgoing, .. } in self.organizations().map(Organization::plan) {
            served.extend(incoming.iter().map(|r| (r.mailbox.id.clone(), ProviderDirection::Incoming)));
            served.extend(outgoing.iter().map(|r| (r.mailbox.id.clone(), ProviderDirection::Outgoing)));
        }
        Ok(self.state.retain_statuses(&served).await.map(drop)?)
    }

    /// Forgets what the state has kept long enough, so that its file does not grow for ever.
    pub(super) async fn prune(&self) {
        let before = self.now().checked_sub(LEDGER_KEPT).unwrap_or(email_router_model::Timestamp::MIN);
        match self.state.prune(before).await {
            Ok(0) => {}
            Ok(entries) => tracing::info!(entries, "old entries of the send ledger were removed"),
            Err(error) => {
                tracing::warn!(%error, "old entries of the send ledger could not be removed; it is tried again")
            }
        }
        let settings = self.settings().await;
        let router = &settings.router;
        let before = self.now().checked_sub(router.decision_retention).unwrap_or(Timestamp::MIN);
        match self.state.prune_decisions(before, router.decisions_kept.into()).await {
            Ok(0) => {}
            Ok(decisions) => tracing::info!(decisions, "old decisions were removed"),
            Err(error) => tracing::warn!(%error, "old decisions could not be removed; it is tried again"),
        }
    }

    /// Watches file and CRM and hands new plans to the routers; never ends.
    pub(super) async fn watch(&self, plans: &[watch::Sender<Arc<Plan>>]) {
        // only one `run` at a time watches the file
        let mut reloader = self.reloader.lock().await;
        let (mut looked, mut updated) = (Instant::now(), Instant::now());
        // organizations that do not have their plan yet: the CRM could not be asked, and is asked again
        let mut waiting = vec![false; plans.len()];
        let mut taking_over = false;
        loop {
            let mut settings = self.settings().await;
            let shortest = Duration::from_millis(100);
            let next_look = looked + settings.system.config_refresh_period.max(shortest);
            let next_update = updated + settings.system.config_update_period.max(shortest);
            tokio::time::sleep_until(next_look.min(next_update)).await;
            let now = Instant::now();
            let mut due = now >= next_update;
            if now >= next_look {
                looked = now;
                let next = self.look(&mut reloader, &settings).await;
                self.options.observer.event(&Event::ConfigurationRefresh { changed: next.is_some() });
                taking_over |= next.is_some();
                due |= next.is_some();
                settings = next.unwrap_or(settings);
                due |= self.passwords_changed(&settings).await;
            }
            if due {
                self.changed.notify_waiters();
                self.prune().await;
                updated = now;
                waiting.fill(true);
            }
            let mut all = true;
            for ((slot, plan), waiting) in self.deployments.iter().zip(plans).zip(&mut waiting) {
                // one that is not connected waits on: it may get a plan by settings that are no longer in use
                if let (true, Some(organization)) = (*waiting, slot.organization()) {
                    *waiting = !self.replan(&settings, organization, plan, due).await;
                    all &= !*waiting;
                }
            }
            if taking_over && all {
                taking_over = false;
                tracing::info!(file = %self.path.display(), "the new configuration is in use");
            }
        }
    }

    /// The new settings, where the file has some that can be used.
    async fn look(&self, reloader: &mut Reloader, settings: &Settings) -> Option<Arc<Settings>> {
        match reloader.poll() {
            Reload::Unchanged => None,
            Reload::Changed(outcome) => {
                let LoadOutcome { settings: new, findings, .. } = *outcome;
                for finding in &findings {
                    tracing::warn!(%finding, "configuration");
                }
                if needs_restart(settings, &new) {
                    tracing::warn!(
                        "deployments, StateFile, LogFile, ReferenceKeyFile or StatusListener changed: restart the router to take that over; the rest is taken over now"
                    );
                }
                warn_of_turned_profiles(settings, &new);
                let new = Some(Arc::new(new)).filter(|new| **new != *settings)?;
                *self.settings.write().await = Arc::clone(&new);
                Some(new)
            }
            Reload::Refused(error) => {
                tracing::error!(%error, "the new configuration is not used; the settings in use stay");
                None
            }
        }
    }

    /// Whether a file changed since the passwords were read; they are to be read again then.
    async fn passwords_changed(&self, settings: &Arc<Settings>) -> bool {
        let mut seen = self.secrets.lock().await;
        // an error means that the program is ending
        let Ok(now) = secrets_stamp(settings).await else { return false };
        let changed = std::mem::replace(&mut *seen, now) != now;
        if changed {
            tracing::info!("a file of the passwords or of their key changed; they are read again");
        }
        changed
    }

    /// Makes the plan of an organization anew; `false` when the CRM could not be asked. What is `due` (the first try of a round) counts all the same
    /// then, with the users and queues that it had before.
    async fn replan(
        &self,
        settings: &Settings,
        organization: &Organization,
        plan: &watch::Sender<Arc<Plan>>,
        due: bool,
    ) -> bool {
        let Some(deployment) = settings.deployment(organization.name()) else { return true };
        let secrets = SecretStore::new(settings.router.secret_key_file.clone());
        organization.renew_login(deployment, &secrets).await;
        let known = organization.listed();
        let asked = match organization.crm().mailboxes().await {
            Ok(listed) => {
                for change in diff(&known, &listed) {
                    tracing::info!(deployment = organization.name(), "loaded from the CRM: {change}");
                }
                organization.set_listed(listed);
                organization.router().renew_view().await;
                true
            }
            Err(error) => {
                tracing::warn!(%error, deployment = organization.name(), "users and queues could not be read from the CRM, which is tried again soon; those known stay served");
                false
            }
        };
        if asked || due {
            let listed = organization.listed();
            let assembled = organization.assembler().assemble(settings, deployment, &listed, &secrets);
            self.announce_unserved(&assembled.unserved);
            organization.set_unserved(assembled.unserved);
            plan.send_replace(Arc::new(assembled.plan));
        }
        asked
    }

    pub(super) fn announce_unserved(&self, unserved: &[Unserved]) {
        for Unserved { mailbox, direction, reason, .. } in unserved {
            tracing::warn!(%mailbox, reason, "not served");
            let both = [ProviderDirection::Incoming, ProviderDirection::Outgoing];
            let directions: &[ProviderDirection] = match direction {
                Some(Direction::Incoming) => &both[..1],
                Some(Direction::Outgoing) => &both[1..],
                None => &both,
            };
            for direction in directions {
                self.options.observer.event(&Event::Provider {
                    mailbox,
                    direction: *direction,
                    what: ProviderEvent::LoadFailed,
                });
            }
        }
    }
}

/// [`SecretStore::stamp`] of everything that these settings read.
pub(super) async fn secrets_stamp(settings: &Arc<Settings>) -> Result<u64> {
    let settings = Arc::clone(settings);
    blocking(move || {
        let router = &settings.router;
        // the store of credentials is one file more, with the same key
        let stored = [&router.credentials_file, &router.secret_key_file].map(|f| SecretRef::File(f.clone()));
        SecretStore::new(router.secret_key_file.clone()).stamp(settings.secrets().chain(&stored))
    })
    .await
}

/// What a change of the settings cannot bring about while running.
fn needs_restart(old: &Settings, new: &Settings) -> bool {
    let targets = |s: &Settings| {
        s.deployments.iter().map(|d| (d.name.to_lowercase(), d.target.clone())).collect::<Vec<_>>()
    };
    targets(old) != targets(new)
        || old.router.state_file != new.router.state_file
        || old.system.log_file != new.system.log_file
        || old.router.reference_key_file != new.router.reference_key_file
        || old.router.status_listener != new.router.status_listener
}

/// "Direction cannot be changed after saving": publishing refuses it, a file changed by hand is taken as it is.
fn warn_of_turned_profiles(old: &Settings, new: &Settings) {
    for profile in &new.profiles {
        let (name, direction) = (&profile.name, profile.direction);
        if let Some(was) = old.profile(name).map(|was| was.direction).filter(|was| *was != direction) {
            tracing::warn!(
                "profile {name} was {was} and is {direction} now; give a profile of another direction another name"
            );
        }
    }
}
