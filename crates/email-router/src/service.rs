//! The router as a service: a configuration file in, mail moving, until it is told to stop.

mod files;
mod organization;
mod watching;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use email_router_config::{Finding, Reloader, Settings};
use email_router_engine::decide::{Decider, MailboxContext, OrganizationView};
use email_router_engine::ports::{NoObserver, Observer, ProviderStatus};
use email_router_engine::router::RunReport;
use email_router_engine::{DecisionRecord, IncomingSettings, ReferenceSigner, StateStore};
use email_router_model::{
    Clock, Direction, EmailAddress, Entropy, Headers, Mailbox, MailboxId, RawMessage, RecordRef, SystemClock,
    SystemEntropy, Timestamp,
};
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Mutex, Notify, RwLock, watch};
use tokio::task::JoinSet;

use crate::assemble::{Thresholds, Unserved, thresholds};
use crate::{Error, Result};

pub use files::{publish, rotate_secrets, settings};
pub use organization::{DeploymentStatus, Organization};

use files::{load_error, open_state, reference_key};
use organization::Slot;
use watching::secrets_stamp;

/// How old the view of the CRM may be by which a single message is judged.
const VIEW_AGE: Duration = Duration::from_secs(5);

/// What a service works with beside its configuration.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Hears what happens.
    pub observer: Arc<dyn Observer>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Jitter, ids, keys.
    pub entropy: Arc<dyn Entropy>,
    /// Names this router among others that share the state; the same after a restart.
    pub holder: String,
    /// Only look: state and CRM are opened without creating or changing anything; a state that is not there is empty, a CRM that is not
    /// there an error. The service can then explain, show and count, not run.
    pub look: bool,
}

impl OpenOptions {
    /// The default, but for looking only.
    #[must_use]
    pub fn look() -> Self {
        Self { look: true, ..Self::default() }
    }
}

impl Default for OpenOptions {
    /// Nobody listens, the machine's clock and random numbers, the holder `router`, files made where they are not there.
    fn default() -> Self {
        Self {
            observer: Arc::new(NoObserver),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            holder: "router".to_owned(),
            look: false,
        }
    }
}

/// A router made from a configuration file.
///
/// Each deployment works for itself: one that cannot be connected is tried again while the others run.
#[derive(Debug)]
pub struct Service {
    path: PathBuf,
    reloader: Mutex<Reloader>,
    /// What the files of the passwords looked like just before the passwords in use were read.
    secrets: Mutex<u64>,
    options: OpenOptions,
    settings: RwLock<Arc<Settings>>,
    findings: Vec<Finding>,
    state: Arc<dyn StateStore>,
    /// The file whose lock says that a router works with the state.
    lock_file: PathBuf,
    signer: ReferenceSigner,
    deployments: Vec<Slot>,
    /// Wakes deployments that wait for their next attempt: configuration or passwords changed.
    changed: Notify,
}

/// A mailbox that a person named, with all that is needed to judge a message found in it.
#[derive(Debug, Clone)]
pub struct NamedMailbox<'a> {
    /// Its organization.
    pub organization: &'a Organization,
    /// The mailbox.
    pub mailbox: Mailbox,
    /// Its record in the CRM.
    pub record: Option<RecordRef>,
    /// How it is read.
    pub settings: IncomingSettings,
}

impl Service {
    /// Loads the configuration and opens the state and embedded CRMs. Nothing runs yet, no mail system is contacted and no CRM on a server:
    /// [`Self::connect`] does that.
    ///
    /// # Errors
    /// [`Error::Configuration`] with all findings; the state store's errors, and the CRM's where it is the only one.
    pub async fn open(path: &Path, options: OpenOptions) -> Result<Self> {
        let (reloader, outcome) = Reloader::load(path).map_err(load_error)?;
        let (settings, look) = (outcome.settings, options.look);
        let state_file = settings.router.state_file.clone();
        let mut lock_file = state_file.clone().into_os_string();
        lock_file.push(".lock");
        let state = blocking(move || open_state(&state_file, look)).await??;
        let settings = Arc::new(settings);
        let stamp = secrets_stamp(&settings).await?;
        let key = reference_key(settings.router.reference_key_file.clone(), &options).await?;
        let signer = ReferenceSigner::new(key)?;
        let deployments = settings.deployments.iter().map(Slot::new).collect();
        let service = Self {
            path: path.to_owned(),
            reloader: Mutex::new(reloader),
            secrets: Mutex::new(stamp),
            options,
            settings: RwLock::new(Arc::clone(&settings)),
            findings: outcome.findings,
            state,
            lock_file: lock_file.into(),
            signer,
            deployments,
            changed: Notify::new(),
        };
        for slot in &service.deployments {
            // what is on this machine needs no patience; beside others it may fail alone
            if slot.is_embedded()
                && let Err(error) = service.connect_one(slot).await
                && service.deployments.len() == 1
            {
                return Err(error);
            }
        }
        Ok(service)
    }

    /// Warnings of the configuration, and the damage where the previous generation is in use.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The settings now.
    pub async fn settings(&self) -> Arc<Settings> {
        Arc::clone(&*self.settings.read().await)
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> &Arc<dyn StateStore> {
        &self.state
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.options.clock.now()
    }

    /// The deployments that are connected, in the order of the configuration.
    pub fn organizations(&self) -> impl Iterator<Item = &Organization> {
        self.deployments.iter().filter_map(Slot::organization)
    }

    /// How it stands with each deployment, in the order of the configuration.
    #[must_use]
    pub fn deployments(&self) -> Vec<DeploymentStatus> {
        self.deployments.iter().map(Slot::status).collect()
    }

    /// The connected deployment of this name; without a name the only one there is, or the only embedded one.
    ///
    /// # Errors
    /// [`Error::Request`] naming the deployments there are, or saying why it is not connected.
    pub fn organization(&self, name: Option<&str>) -> Result<&Organization> {
        let slot = self.slot(name)?;
        slot.organization().ok_or_else(|| slot.not_connected())
    }

    /// The deployment of this name, connected now where it was not; without a name the only one there is, or the only embedded one.
    ///
    /// # Errors
    /// [`Error::Request`] naming the deployments there are; the CRM's errors.
    pub async fn connected(&self, name: Option<&str>) -> Result<&Organization> {
        self.connect_one(self.slot(name)?).await
    }

    fn slot(&self, name: Option<&str>) -> Result<&Slot> {
        let names = || self.deployments.iter().map(Slot::name).collect::<Vec<_>>().join(", ");
        match name {
            Some(name) => {
                self.deployments.iter().find(|s| s.name().eq_ignore_ascii_case(name)).ok_or_else(|| {
                    Error::Request(format!(
                        "there is no deployment {name}; the configuration has: {}",
                        names()
                    ))
                })
            }
            None => match self.deployments.as_slice() {
                [one] => Ok(one),
                [] => Err(Error::Request(
                    "the configuration has no deployment; add one under Deployments".to_owned(),
                )),
                several => {
                    let mut embedded = several.iter().filter(|slot| slot.is_embedded());
                    match (embedded.next(), embedded.next()) {
                        (Some(only), None) => Ok(only),
                        _ => Err(Error::Request(format!("say which deployment: {}", names()))),
                    }
                }
            },
        }
    }

    /// Connects the deployments that are not connected, all at the same time. One that cannot be is reported by [`Self::deployments`]; the others
    /// work.
    pub async fn connect(&self) {
        join_all(self.deployments.iter().map(|slot| self.connect_one(slot))).await;
    }

    /// The mailbox that a person names by address, name or id.
    ///
    /// # Errors
    /// [`Error::Request`] when there is none.
    pub fn mailbox(&self, text: &str) -> Result<NamedMailbox<'_>> {
        self.find_mailbox(|m| is_called(m, text)).ok_or_else(|| unknown_mailbox(text))
    }

    fn find_mailbox(&self, wanted: impl Fn(&Mailbox) -> bool) -> Option<NamedMailbox<'_>> {
        for organization in self.organizations() {
            if let Some(route) = organization.plan().incoming.iter().find(|r| wanted(&r.mailbox)) {
                let (mailbox, record, settings) =
                    (route.mailbox.clone(), route.record.clone(), route.settings.clone());
                return Some(NamedMailbox { organization, mailbox, record, settings });
            }
        }
        for organization in self.organizations() {
            if let Some(target) = organization.targets().iter().find(|t| wanted(&t.mailbox)) {
                let mailbox = target.mailbox.clone();
                let record = organization
                    .listed()
                    .iter()
                    .find(|l| l.kind == mailbox.kind && l.address.as_ref() == Some(&mailbox.address))
                    .map(|l| l.record.clone());
                return Some(NamedMailbox {
                    organization,
                    mailbox,
                    record,
                    settings: IncomingSettings::default(),
                });
            }
        }
        None
    }

    /// Says what would become of a message and why. Writes nothing. Without a mailbox it is judged as if found in the first configured mailbox
    /// among its recipients, else in the first mailbox of all.
    ///
    /// # Errors
    /// [`Error::Request`] when no mailbox fits; the CRM's errors.
    pub async fn explain(&self, raw: &RawMessage, mailbox: Option<&str>) -> Result<DecisionRecord> {
        self.connect().await;
        let named = match mailbox {
            Some(text) => self.mailbox(text)?,
            None => {
                let to = recipients(raw);
                self.find_mailbox(|m| to.contains(&m.address))
                    .or_else(|| self.find_mailbox(|_| true))
                    .ok_or_else(|| {
                        Error::Request(
                            "the configuration has no enabled mailbox; add one under Mailboxes".to_owned(),
                        )
                    })?
            }
        };
        let router = named.organization.router();
        let view = router.view(VIEW_AGE).await?;
        let context = MailboxContext::new(&named.mailbox, named.record.clone());
        let mut parts = router.incoming().clone();
        parts.decider = Arc::new(Decider::clone(&parts.decider).timed());
        Ok(parts.route_one(&view, &context, &named.settings, raw, false, true).await?.record)
    }

    /// Routes one message that is at hand, as if it was found in this mailbox.
    ///
    /// # Errors
    /// The CRM's errors.
    pub async fn route(
        &self,
        named: &NamedMailbox<'_>,
        raw: &RawMessage,
        accept_anyway: bool,
        dry_run: bool,
    ) -> Result<DecisionRecord> {
        let router = named.organization.router();
        let view: Arc<OrganizationView> = router.view(VIEW_AGE).await?;
        let context = MailboxContext::new(&named.mailbox, named.record.clone());
        Ok(router
            .incoming()
            .route_one(&view, &context, &named.settings, raw, accept_anyway, dry_run)
            .await?
            .record)
    }

    /// How each provider is doing, and what is not served at all.
    ///
    /// # Errors
    /// The state store's.
    pub async fn status(&self) -> Result<(Vec<ProviderStatus>, Vec<Unserved>)> {
        let unserved = self.organizations().flat_map(Organization::unserved).collect();
        Ok((self.state.statuses().await?, unserved))
    }

    /// Sets the threshold dates of the original's state file for the mailboxes of the configuration, disabled ones included, and for those
    /// loaded from the CRM. With `dry_run` nothing is written.
    ///
    /// # Errors
    /// The state store's.
    pub async fn import_thresholds(
        &self,
        imported: &[(EmailAddress, Timestamp)],
        dry_run: bool,
    ) -> Result<Thresholds> {
        let settings = self.settings().await;
        let configured = settings.mailboxes.iter().map(|m| &m.mailbox);
        let loaded = self.organizations().flat_map(Organization::targets).map(|t| &t.mailbox);
        let thresholds = thresholds(configured.chain(loaded), imported);
        if !dry_run {
            for (mailbox, threshold) in &thresholds.taken {
                self.state().set_threshold(mailbox, Some(*threshold)).await?;
            }
        }
        Ok(thresholds)
    }

    /// Reads every mailbox once and sends what is pending. What is configured and not served is among the failures of the report.
    ///
    /// # Errors
    /// What stops everything, another router that works with the same state file included; what happened to single mailboxes is in
    /// the report.
    pub async fn run_once(&self, stop: &watch::Receiver<bool>) -> Result<RunReport> {
        let mut sum = RunReport::default();
        let _alone = self.alone()?;
        self.connect().await;
        for status in self.deployments().into_iter().filter(|status| !status.connected) {
            let hint = status.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
            let error = status.error.unwrap_or_default();
            sum.failures
                .push((format!("deployment {}", status.name), format!("not connected: {error}{hint}")));
        }
        self.forget_statuses().await?;
        self.prune().await;
        for organization in self.organizations() {
            self.announce_unserved(&organization.assembled().unserved);
            for Unserved { mailbox, direction, reason, .. } in &organization.assembled().unserved {
                let what = match direction {
                    None => "not served",
                    Some(Direction::Incoming) => "not read",
                    Some(Direction::Outgoing) => "not sent for",
                };
                sum.failures.push((mailbox.to_string(), format!("{what}: {reason}")));
            }
            let report = organization.router().run_once(organization.plan(), stop).await?;
            sum.add(report);
        }
        Ok(sum)
    }

    /// Runs until `stop` becomes true. Reads the configuration again when the file changes, and the passwords when one of their files does
    /// (ConfigRefreshPeriod), and the CRM's users and queues at ConfigUpdatePeriod; a bad new file keeps the old settings running and says why.
    ///
    /// # Errors
    /// What keeps the router from starting, another router that works with the same state file included. A deployment that cannot be connected
    /// is tried again. Where the router of one deployment fails, that is logged at once, the others go on, and the error comes at the end.
    pub async fn run(&self, stop: watch::Receiver<bool>) -> Result<()> {
        let _alone = self.alone()?;
        self.forget_statuses().await?;
        self.prune().await;
        let plans: Vec<_> = self
            .deployments
            .iter()
            .map(|slot| {
                let plan = slot.organization().map(|o| o.plan().clone()).unwrap_or_default();
                watch::Sender::new(Arc::new(plan))
            })
            .collect();
        let mut running = JoinSet::new();
        let mut connecting: FuturesUnordered<_> = self
            .deployments
            .iter()
            .zip(&plans)
            .map(|(slot, plan)| {
                let stop = stop.clone();
                async move { (self.keep_connecting(slot, stop).await, plan) }
            })
            .collect();
        let (mut stopping, mut stopped) = (stop.clone(), false);
        let mut watching = std::pin::pin!(self.watch(&plans));
        let mut result = Ok(());
        // without a deployment there is nothing to do but to wait for the stop
        while !(running.is_empty() && connecting.is_empty() && (stopped || !self.deployments.is_empty())) {
            tokio::select! {
                () = &mut watching, if !stopped => {}
                () = async { let _ = stopping.wait_for(|stop| *stop).await; }, if !stopped => stopped = true,
                Some((connected, plan)) = connecting.next() => {
                    let Some(organization) = connected else { continue };
                    self.announce_unserved(&organization.unserved());
                    plan.send_if_modified(|plan| {
                        let late = plan.incoming.is_empty() && plan.outgoing.is_empty();
                        if late {
                            *plan = Arc::new(organization.plan().clone());
                        }
                        late
                    });
                    let (name, router) = (organization.name().to_owned(), Arc::clone(organization.router()));
                    let (receiver, stop) = (plan.subscribe(), stop.clone());
                    running.spawn(async move {
                        let ended = router.run(receiver, stop).await;
                        if let Err(error) = &ended {
                            tracing::error!(%error, deployment = name, "the router of this deployment ended; the others go on");
                        }
                        ended
                    });
                }
                Some(ended) = running.join_next() => match ended {
                    Ok(Err(error)) if result.is_ok() => result = Err(error.into()),
                    Err(error) if error.is_panic() => {
                        tracing::error!("the router of a deployment ended in a panic, which is a fault of this program; the others go on");
                        result = Err(Error::Request("a router ended in a panic".to_owned()));
                    }
                    _ => {}
                }
            }
        }
        result
    }

    /// Makes sure that this is the only router on this machine that works with the state file, until the result is dropped or the
    /// process ends, however it ends. A second one would take what the first has in hand for left behind by a crash: both have the
    /// same name in leases, so that a restart need not wait for them.
    fn alone(&self) -> Result<File> {
        if self.options.look {
            return Err(Error::Request(
                "the service was opened for looking only; open it without `look` to run it".to_owned(),
            ));
        }
        let io = |source| {
            let whose = email_router_model::who_denies(&self.lock_file)
                .map(|t| format!(" ({t})"))
                .unwrap_or_default();
            Error::Io { what: format!("the lock file {}{whose}", self.lock_file.display()), source }
        };
        let mut options = File::options();
        options.create(true).truncate(false).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&self.lock_file).map_err(io)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(Error::Request(format!(
                "another router is running with this state file ({} is locked); stop it first, or let it do the work",
                self.lock_file.display()
            ))),
            Err(TryLockError::Error(source)) => Err(io(source)),
        }
    }
}

pub(crate) fn is_called(mailbox: &Mailbox, text: &str) -> bool {
    mailbox.id == MailboxId::new(text)
        || mailbox.name.eq_ignore_ascii_case(text)
        || EmailAddress::parse(text).is_ok_and(|address| address == mailbox.address)
}

pub(crate) fn unknown_mailbox(text: &str) -> Error {
    Error::Request(format!(
        "no enabled mailbox is called {text}; `email-router status` lists them by address"
    ))
}

/// Everybody in To, Cc and the delivery headers, cheaply: only to guess in which mailbox a file would have been found.
fn recipients(raw: &RawMessage) -> Vec<EmailAddress> {
    let headers: Headers<'_> = raw.headers();
    ["Delivered-To", "X-Original-To", "Envelope-To", "To", "Cc"]
        .iter()
        .flat_map(|name| headers.all(name).collect::<Vec<_>>())
        .flat_map(|value| {
            value
                .split([',', ';'])
                .filter_map(|part| {
                    EmailAddress::parse(
                        part.rsplit_once('<').map_or(part, |(_, a)| a.trim_end_matches(['>', ' '])),
                    )
                    .ok()
                })
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Runs what blocks on tokio's pool for that.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::Request(format!("the program is ending: {e}")))
}
