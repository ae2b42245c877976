//! The router as a service: a configuration file in, mail moving, until it is told to stop.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use email_router_config::{
    Deployment, DeploymentTarget, Finding, LoadError, LoadOutcome, Reload, Reloader, SecretStore, Settings,
};
use email_router_crm::{CrmClient, CrmMailbox, embedded::EmbeddedCrm};
use email_router_engine::decide::{MailboxContext, OrganizationView};
use email_router_engine::ports::{
    CrmIndex, Event, NoObserver, Observer, ProviderDirection, ProviderEvent, ProviderStatus,
};
use email_router_engine::router::{Plan, Router, RouterParts, RunReport};
use email_router_engine::state_memory::MemoryState;
use email_router_engine::{DecisionRecord, IncomingSettings, StateStore};
use email_router_model::{
    Clock, Direction, EmailAddress, Entropy, Headers, Mailbox, MailboxId, RawMessage, RecordRef, SystemClock,
    SystemEntropy,
};
use email_router_state::SqliteState;
use tokio::sync::{Mutex, RwLock, watch};
use tokio::task::JoinSet;

use crate::assemble::{Assembled, Unserved, assemble};
use crate::{Error, Result};

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
#[derive(Debug)]
pub struct Service {
    path: PathBuf,
    reloader: Mutex<Reloader>,
    options: OpenOptions,
    settings: RwLock<Arc<Settings>>,
    findings: Vec<Finding>,
    state: Arc<dyn StateStore>,
    /// The file whose lock says that a router works with the state.
    lock_file: PathBuf,
    organizations: Vec<Organization>,
}

/// One deployment of the configuration.
#[derive(Debug)]
pub struct Organization {
    name: String,
    crm: Arc<dyn CrmClient>,
    embedded: EmbeddedCrm,
    router: Arc<Router>,
    listed: Vec<CrmMailbox>,
    assembled: Assembled,
    /// What is not served now; `assembled` is what the service began with.
    unserved: StdMutex<Vec<Unserved>>,
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

impl Organization {
    /// Name of the deployment.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its CRM.
    #[must_use]
    pub fn crm(&self) -> &Arc<dyn CrmClient> {
        &self.crm
    }

    /// Its embedded CRM, for administration.
    #[must_use]
    pub fn embedded(&self) -> &EmbeddedCrm {
        &self.embedded
    }

    /// Its router.
    #[must_use]
    pub fn router(&self) -> &Arc<Router> {
        &self.router
    }

    /// What of the configuration is served.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.assembled.plan
    }

    /// What of the configuration is not served now, and why.
    #[must_use]
    pub fn unserved(&self) -> Vec<Unserved> {
        self.unserved.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_unserved(&self, unserved: Vec<Unserved>) {
        *self.unserved.lock().unwrap_or_else(PoisonError::into_inner) = unserved;
    }
}

impl Service {
    /// Loads the configuration and opens state and CRM. Nothing runs yet and no mail system is contacted.
    ///
    /// # Errors
    /// [`Error::Configuration`] with all findings; the CRM's and the state store's errors.
    pub async fn open(path: &Path, options: OpenOptions) -> Result<Self> {
        let (reloader, outcome) = Reloader::load(path).map_err(load_error)?;
        let (settings, look) = (outcome.settings, options.look);
        let state_file = settings.router.state_file.clone();
        let mut lock_file = state_file.clone().into_os_string();
        lock_file.push(".lock");
        let state = blocking(move || open_state(&state_file, look)).await??;
        let secrets = SecretStore::new(settings.router.secret_key_file.clone());
        let mut organizations = Vec::new();
        for deployment in &settings.deployments {
            organizations.push(organization(&settings, deployment, &secrets, &state, &options).await?);
        }
        Ok(Self {
            path: path.to_owned(),
            reloader: Mutex::new(reloader),
            options,
            settings: RwLock::new(Arc::new(settings)),
            findings: outcome.findings,
            state,
            lock_file: lock_file.into(),
            organizations,
        })
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
    pub fn now(&self) -> email_router_model::Timestamp {
        self.options.clock.now()
    }

    /// The deployments.
    #[must_use]
    pub fn organizations(&self) -> &[Organization] {
        &self.organizations
    }

    /// The deployment of this name; without a name the only one there is.
    ///
    /// # Errors
    /// [`Error::Request`] naming the deployments there are.
    pub fn organization(&self, name: Option<&str>) -> Result<&Organization> {
        let names = || self.organizations.iter().map(|o| o.name.as_str()).collect::<Vec<_>>().join(", ");
        match name {
            Some(name) => {
                self.organizations.iter().find(|o| o.name.eq_ignore_ascii_case(name)).ok_or_else(|| {
                    Error::Request(format!(
                        "there is no deployment {name}; the configuration has: {}",
                        names()
                    ))
                })
            }
            None => match self.organizations.as_slice() {
                [one] => Ok(one),
                [] => Err(Error::Request(
                    "the configuration has no deployment; add one under Deployments".to_owned(),
                )),
                _ => Err(Error::Request(format!("say which deployment: {}", names()))),
            },
        }
    }

    /// The mailbox that a person names by address, name or id.
    ///
    /// # Errors
    /// [`Error::Request`] when there is none.
    pub fn mailbox(&self, text: &str) -> Result<NamedMailbox<'_>> {
        self.find_mailbox(|m| is_called(m, text)).ok_or_else(|| unknown_mailbox(text))
    }

    fn find_mailbox(&self, wanted: impl Fn(&Mailbox) -> bool) -> Option<NamedMailbox<'_>> {
        for organization in &self.organizations {
            if let Some(route) = organization.assembled.plan.incoming.iter().find(|r| wanted(&r.mailbox)) {
                let (mailbox, record, settings) =
                    (route.mailbox.clone(), route.record.clone(), route.settings.clone());
                return Some(NamedMailbox { organization, mailbox, record, settings });
            }
        }
        for organization in &self.organizations {
            if let Some(target) = organization.assembled.targets.iter().find(|t| wanted(&t.mailbox)) {
                let mailbox = target.mailbox.clone();
                let record = organization
                    .listed
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
        let routed = self.route(&named, raw, false, true).await?;
        Ok(routed)
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
        let router = &named.organization.router;
        let view: Arc<OrganizationView> = router.view(Duration::from_secs(5)).await?;
        let context = MailboxContext { mailbox: &named.mailbox, record: named.record.clone() };
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
        let unserved = self.organizations.iter().flat_map(Organization::unserved).collect();
        Ok((self.state.statuses().await?, unserved))
    }

    /// Reads every mailbox once and sends what is pending. What is configured and not served is among the failures of the report.
    ///
    /// # Errors
    /// What stops everything, another router that works with the same state file included; what happened to single mailboxes is in
    /// the report.
    pub async fn run_once(&self, stop: &watch::Receiver<bool>) -> Result<RunReport> {
        let mut sum = RunReport::default();
        let _alone = self.alone()?;
        self.forget_statuses().await?;
        for organization in &self.organizations {
            self.announce_unserved(&organization.assembled.unserved);
            for Unserved { mailbox, direction, reason } in &organization.assembled.unserved {
                let what = match direction {
                    None => "not served",
                    Some(Direction::Incoming) => "not read",
                    Some(Direction::Outgoing) => "not sent for",
                };
                sum.failures.push((mailbox.to_string(), format!("{what}: {reason}")));
            }
            let report = organization.router.run_once(&organization.assembled.plan, stop).await?;
            sum.add(report);
        }
        Ok(sum)
    }

    /// Runs until `stop` becomes true. Reads the configuration again when the file changes (ConfigRefreshPeriod) and the CRM's users
    /// and queues at ConfigUpdatePeriod; a bad new file keeps the old settings running and says why.
    ///
    /// # Errors
    /// What keeps the router from starting, another router that works with the same state file included.
    pub async fn run(&self, stop: watch::Receiver<bool>) -> Result<()> {
        let _alone = self.alone()?;
        self.forget_statuses().await?;
        let mut plans = Vec::new();
        let mut running = JoinSet::new();
        for organization in &self.organizations {
            self.announce_unserved(&organization.assembled.unserved);
            let (sender, receiver) = watch::channel(Arc::new(organization.assembled.plan.clone()));
            plans.push(sender);
            running.spawn(Arc::clone(&organization.router).run(receiver, stop.clone()));
        }
        let mut stopping = stop.clone();
        let mut result = Ok(());
        tokio::select! {
            () = self.watch(&plans) => {}
            () = async { let _ = stopping.wait_for(|stop| *stop).await; } => {}
            Some(ended) = running.join_next(), if !self.organizations.is_empty() => {
                if let Ok(Err(error)) = ended {
                    result = Err(error.into());
                }
            }
        }
        while let Some(ended) = running.join_next().await {
            if let (Ok(Err(error)), true) = (ended, result.is_ok()) {
                result = Err(error.into());
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

    /// Drops the statuses of what no organization serves any more. (Each router sees to its own while it runs.)
    async fn forget_statuses(&self) -> Result<()> {
        let mut served = Vec::new();
        for Plan { incoming, outgoing, .. } in self.organizations.iter().map(Organization::plan) {
            served.extend(incoming.iter().map(|r| (r.mailbox.id.clone(), ProviderDirection::Incoming)));
            served.extend(outgoing.iter().map(|r| (r.mailbox.id.clone(), ProviderDirection::Outgoing)));
        }
        Ok(self.state.retain_statuses(&served).await.map(drop)?)
    }

    /// Watches file and CRM and hands new plans to the routers; never ends.
    async fn watch(&self, plans: &[watch::Sender<Arc<Plan>>]) {
        // only one `run` at a time watches the file
        let mut reloader = self.reloader.lock().await;
        let mut since_update = tokio::time::Instant::now();
        loop {
            let settings = self.settings().await;
            tokio::time::sleep(settings.system.config_refresh_period.max(Duration::from_millis(100))).await;
            let next = match reloader.poll() {
                Reload::Unchanged => None,
                Reload::Changed(outcome) => {
                    let LoadOutcome { settings: new, findings, .. } = *outcome;
                    for finding in &findings {
                        tracing::warn!(%finding, "configuration");
                    }
                    if needs_restart(&settings, &new) {
                        tracing::warn!(
                            "deployments, StateFile or StatusListener changed: restart the router to take that over; the rest is taken over now"
                        );
                    }
                    Some(Arc::new(new)).filter(|new| **new != *settings)
                }
                Reload::Refused(error) => {
                    tracing::error!(%error, "the new configuration is not used; the settings in use stay");
                    None
                }
            };
            if let Some(new) = &next {
                *self.settings.write().await = Arc::clone(new);
                tracing::info!(file = %self.path.display(), "the new configuration is in use");
            }
            self.options.observer.event(&Event::ConfigurationRefresh { changed: next.is_some() });
            if next.is_none() && since_update.elapsed() < settings.system.config_update_period {
                continue;
            }
            since_update = tokio::time::Instant::now();
            let settings = next.unwrap_or(settings);
            for (organization, plan) in self.organizations.iter().zip(plans) {
                self.replan(&settings, organization, plan).await;
            }
        }
    }

    async fn replan(
        &self,
        settings: &Settings,
        organization: &Organization,
        plan: &watch::Sender<Arc<Plan>>,
    ) {
        let Some(deployment) = settings.deployment(&organization.name) else { return };
        match organization.crm.mailboxes().await {
            Ok(listed) => {
                organization.router.forget_view().await;
                let secrets = SecretStore::new(settings.router.secret_key_file.clone());
                let assembled = assemble(settings, deployment, &listed, &secrets);
                self.announce_unserved(&assembled.unserved);
                organization.set_unserved(assembled.unserved);
                plan.send_replace(Arc::new(assembled.plan));
            }
            Err(error) => {
                tracing::warn!(%error, "users and queues could not be read from the CRM; what was served stays served")
            }
        }
    }

    fn announce_unserved(&self, unserved: &[Unserved]) {
        for Unserved { mailbox, direction, reason } in unserved {
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

/// The settings of a configuration file; warnings are left out.
///
/// # Errors
/// [`Error::Configuration`] with all findings.
pub fn settings(path: &Path) -> Result<Settings> {
    load(path).map(|outcome| outcome.settings)
}

/// Checks a new configuration and puts it in the place of `path`, atomically; returns the warnings. `from` is where the text comes from:
/// findings name it, since that is the file to correct.
///
/// # Errors
/// [`Error::Configuration`] when the new one has errors, else what kept it from being written; the file is as it was then.
pub fn publish(path: &Path, text: &str, from: &Path) -> Result<Vec<Finding>> {
    let renamed = |mut findings: Vec<Finding>| {
        findings.iter_mut().filter(|f| f.path == path).for_each(|f| f.path = from.to_owned());
        findings
    };
    match email_router_config::publish(path, text) {
        Ok(published) => Ok(renamed(published.findings)),
        Err(email_router_config::PublishError::Invalid(findings)) => {
            let findings = renamed(findings);
            let message = email_router_config::PublishError::Invalid(findings.clone()).to_string();
            Err(Error::Configuration { message, findings })
        }
        Err(error) => Err(Error::Request(error.to_string())),
    }
}

/// Exchanges the key of the encrypted passwords; returns how many were encrypted anew.
///
/// # Errors
/// [`Error::Request`] with what is wrong; every password can still be decrypted then.
pub fn rotate_secrets(path: &Path) -> Result<usize> {
    let store = SecretStore::new(key_file(path));
    let rotated = email_router_config::rotate(path, &store, &SystemEntropy)
        .map_err(|e| Error::Request(e.to_string()))?;
    Ok(rotated.secrets)
}

/// Where the key of the encrypted passwords is: what the configuration says, or beside a configuration that cannot be used yet (a first
/// password has to be encrypted before there is a complete one).
#[must_use]
pub fn key_file(path: &Path) -> PathBuf {
    match Settings::load(path) {
        Ok(outcome) => outcome.settings.router.secret_key_file,
        Err(_) => path.parent().unwrap_or(Path::new("")).join(email_router_config::DEFAULT_KEY_FILE),
    }
}

/// Loads the configuration; errors keep all findings.
pub(crate) fn load(path: &Path) -> Result<LoadOutcome> {
    Settings::load(path).map_err(load_error)
}

fn load_error(error: LoadError) -> Error {
    match error {
        LoadError::Unreadable(cause) => Error::Configuration {
            message: format!("{cause}; say --config FILE, or see the README for a first configuration"),
            findings: Vec::new(),
        },
        invalid => {
            Error::Configuration { message: invalid.to_string(), findings: invalid.findings().to_vec() }
        }
    }
}

fn open_state(file: &Path, look: bool) -> Result<Arc<dyn StateStore>> {
    if !look {
        return Ok(Arc::new(SqliteState::open(file)?));
    }
    Ok(match SqliteState::open_to_look(file)? {
        Some(state) => Arc::new(state),
        None => Arc::new(MemoryState::new()),
    })
}

/// The CRM file of a deployment.
///
/// # Errors
/// [`Error::Request`] for a kind of deployment that this version does not serve.
pub(crate) fn crm_file(deployment: &Deployment) -> Result<&Path> {
    match &deployment.target {
        DeploymentTarget::Embedded { path } => Ok(path),
        other => Err(Error::Request(format!(
            "deployment {}: this version serves the embedded CRM only, not {}",
            deployment.name,
            other.deployment_type()
        ))),
    }
}

async fn organization(
    settings: &Settings,
    deployment: &Deployment,
    secrets: &SecretStore,
    state: &Arc<dyn StateStore>,
    options: &OpenOptions,
) -> Result<Organization> {
    let (file, look) = (crm_file(deployment)?.to_owned(), options.look);
    let (clock, entropy) = (Arc::clone(&options.clock), Arc::clone(&options.entropy));
    let embedded = blocking(move || match look {
        true => EmbeddedCrm::open_to_look(file, clock, entropy),
        false => EmbeddedCrm::open(file, clock, entropy),
    })
    .await??;
    let crm: Arc<dyn CrmClient> = Arc::new(embedded.clone());
    let router = Arc::new(Router::new(RouterParts {
        crm: Arc::clone(&crm),
        index: Arc::new(CrmIndex(Arc::clone(&crm))),
        state: Arc::clone(state),
        clock: Arc::clone(&options.clock),
        entropy: Arc::clone(&options.entropy),
        observer: Arc::clone(&options.observer),
        holder: options.holder.clone(),
    }));
    let listed = crm.mailboxes().await?;
    let assembled = assemble(settings, deployment, &listed, secrets);
    let unserved = StdMutex::new(assembled.unserved.clone());
    Ok(Organization { name: deployment.name.clone(), crm, embedded, router, listed, assembled, unserved })
}

/// What a change of the settings cannot bring about while running.
fn needs_restart(old: &Settings, new: &Settings) -> bool {
    let targets = |s: &Settings| {
        s.deployments.iter().map(|d| (d.name.to_lowercase(), d.target.clone())).collect::<Vec<_>>()
    };
    targets(old) != targets(new)
        || old.router.state_file != new.router.state_file
        || old.router.status_listener != new.router.status_listener
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
