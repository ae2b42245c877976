//! One deployment of the configuration: its organization once it is connected, and how it stands until then.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use email_router_config::{Deployment, DeploymentTarget, DeploymentType, SecretStore};
#[cfg(feature = "dataverse")]
use email_router_crm::dataverse::DataverseCrm;
#[cfg(feature = "embedded")]
use email_router_crm::embedded::{EmbeddedCrm, admin::Admin};
use email_router_crm::{CrmClient, CrmMailbox};
use email_router_engine::ports::CrmIndex;
use email_router_engine::router::{Plan, Router, RouterParts};
use email_router_model::{Retry, Timestamp};
use serde::Serialize;
use tokio::sync::{OnceCell, watch};

use super::Service;
use crate::access::AccessTarget;
use crate::assemble::{AccessToken, Assembled, Assembler, Unserved};
use crate::registry::{self, Crm, CrmOptions};
use crate::{Error, Result};

/// The first wait before another attempt to connect; it doubles with each.
const FIRST_DELAY: Duration = Duration::from_secs(5);

/// The longest wait while the error may pass by itself.
const LONGEST_DELAY: Duration = Duration::from_secs(5 * 60);

/// The wait where a person has to change something: often enough to notice that, too seldom to lock an account.
const REFUSED_DELAY: Duration = Duration::from_secs(15 * 60);

/// A deployment whose CRM is connected.
#[derive(Debug)]
pub struct Organization {
    name: String,
    /// Where it was connected; another place needs another connection.
    #[cfg_attr(not(feature = "dataverse"), allow(dead_code))]
    target: DeploymentTarget,
    adapter: Crm,
    router: Arc<Router>,
    /// The users and queues as the CRM had them when it was asked last.
    listed: Mutex<Arc<Vec<CrmMailbox>>>,
    assembled: Assembled,
    assembler: Assembler,
    /// What is not served now; `assembled` is what the service began with.
    unserved: Mutex<Vec<Unserved>>,
}

/// How it stands with a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeploymentStatus {
    /// Its name.
    pub name: String,
    /// Whether its CRM is connected; its mailboxes are not served before.
    pub connected: bool,
    /// Why not; `None` also where it was not tried, since the command needs no CRM.
    pub error: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// When it is tried again, in a router that runs.
    pub next_attempt: Option<Timestamp>,
}

/// A deployment's place in the service.
#[derive(Debug)]
pub(super) struct Slot {
    name: String,
    embedded: bool,
    organization: OnceCell<Organization>,
    trouble: Mutex<Trouble>,
}

/// What keeps a deployment from being connected.
#[derive(Debug, Default)]
struct Trouble {
    error: Option<String>,
    hint: Option<String>,
    next_attempt: Option<Timestamp>,
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
        &self.adapter.client
    }

    /// Its embedded CRM; `None` where the organization is on a server.
    #[cfg(feature = "embedded")]
    #[must_use]
    pub fn embedded(&self) -> Option<&EmbeddedCrm> {
        self.adapter.embedded.as_ref()
    }

    /// The administration of its embedded CRM.
    ///
    /// # Errors
    /// [`Error::Request`] where the organization is on a server.
    #[cfg(feature = "embedded")]
    pub fn administration(&self) -> Result<Admin> {
        self.embedded().map(EmbeddedCrm::admin).ok_or_else(|| {
            Error::Request(format!(
                "deployment {} is on a server ({}); this is for an embedded CRM only, there use the CRM's own pages",
                self.name, self.adapter.client
            ))
        })
    }

    /// Its CRM as Dataverse; `None` where it is embedded.
    #[cfg(feature = "dataverse")]
    #[must_use]
    pub fn dataverse(&self) -> Option<&DataverseCrm> {
        self.adapter.dataverse.as_ref()
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

    /// How it stands with the access tokens of the applications that its profiles and its CRM use; none without OAuth 2.0.
    #[must_use]
    pub fn access_tokens(&self) -> Vec<AccessToken> {
        let tokens = Vec::new();
        #[cfg(feature = "http")]
        let tokens = [tokens, self.assembler.access_tokens()].concat();
        #[cfg(feature = "dataverse")]
        let tokens = [tokens, self.adapter.login.iter().filter_map(|l| l.access_token()).collect()].concat();
        tokens
    }

    /// Reads the secrets of its login to a server anew; those of another target are not for the server that is connected.
    pub(super) async fn renew_login(&self, deployment: &Deployment, secrets: &SecretStore) {
        #[cfg(feature = "dataverse")]
        if let (Some(login), DeploymentTarget::Server(server)) = (&self.adapter.login, &deployment.target)
            && self.target == deployment.target
            && let Err(error) = login.renew(server, secrets).await
        {
            tracing::error!(%error, deployment = self.name, "the login to the CRM could not be read again; the one in use stays");
        }
        #[cfg(not(feature = "dataverse"))]
        let _ = (deployment, secrets);
    }

    pub(super) fn set_unserved(&self, unserved: Vec<Unserved>) {
        *self.unserved.lock().unwrap_or_else(PoisonError::into_inner) = unserved;
    }

    /// The users and queues as the CRM had them when it was asked last.
    pub(super) fn listed(&self) -> Arc<Vec<CrmMailbox>> {
        Arc::clone(&self.listed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_listed(&self, listed: Vec<CrmMailbox>) {
        *self.listed.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(listed);
    }

    pub(super) fn assembled(&self) -> &Assembled {
        &self.assembled
    }

    pub(super) fn targets(&self) -> &[AccessTarget] {
        &self.assembled.targets
    }

    pub(super) fn assembler(&self) -> &Assembler {
        &self.assembler
    }
}

impl Slot {
    pub(super) fn new(deployment: &Deployment) -> Self {
        Self {
            name: deployment.name.clone(),
            embedded: deployment.target.deployment_type() == DeploymentType::Embedded,
            organization: OnceCell::new(),
            trouble: Mutex::default(),
        }
    }

    /// Whether its CRM is a file.
    pub(super) fn is_embedded(&self) -> bool {
        self.embedded
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn organization(&self) -> Option<&Organization> {
        self.organization.get()
    }

    pub(super) fn status(&self) -> DeploymentStatus {
        let connected = self.organization.initialized();
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        DeploymentStatus {
            name: self.name.clone(),
            connected,
            error: trouble.error.clone().filter(|_| !connected),
            hint: trouble.hint.clone().filter(|_| !connected),
            next_attempt: trouble.next_attempt.filter(|_| !connected),
        }
    }

    pub(super) fn not_connected(&self) -> Error {
        let DeploymentStatus { name, error, hint, .. } = self.status();
        let why = error.unwrap_or_else(|| "it was not asked".to_owned());
        let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
        Error::Request(format!("deployment {name} is not connected: {why}{hint}"))
    }

    fn note(&self, error: &Error) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        *trouble = Trouble {
            error: Some(error.to_string()),
            hint: error.hint().map(str::to_owned),
            next_attempt: None,
        };
    }

    fn note_next(&self, at: Timestamp) {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).next_attempt = Some(at);
    }
}

impl Service {
    /// Connects a deployment by the settings as they are now; does nothing where it is connected.
    pub(super) async fn connect_one<'a>(&'a self, slot: &'a Slot) -> Result<&'a Organization> {
        let connected = slot.organization.get_or_try_init(|| self.open_organization(&slot.name)).await;
        if let Err(error) = &connected {
            slot.note(error);
        }
        connected
    }

    /// Connects a deployment, again and again until that succeeds; `None` when the service stops. A change of configuration or passwords is tried at
    /// once.
    pub(super) async fn keep_connecting<'a>(
        &'a self,
        slot: &'a Slot,
        mut stop: watch::Receiver<bool>,
    ) -> Option<&'a Organization> {
        let mut delay = FIRST_DELAY;
        let attempts = async {
            loop {
                // listening begins before the attempt: what changes meanwhile counts
                let mut changed = std::pin::pin!(self.changed.notified());
                changed.as_mut().enable();
                let error = match self.connect_one(slot).await {
                    Ok(organization) => return organization,
                    Err(error) => error,
                };
                let spread = delay.mul_f64(1.0 + self.options.entropy.fraction() / 4.0);
                let wait = match error.retry() {
                    Retry::Later(asked) => spread.max(asked.unwrap_or_default()),
                    _ => REFUSED_DELAY,
                };
                let next = self.now().checked_add(wait).unwrap_or(Timestamp::MAX);
                slot.note_next(next);
                let hint = error.hint().unwrap_or_default();
                tracing::warn!(deployment = slot.name, %error, hint, %next, "the CRM of this deployment cannot be connected, which is tried again; the others go on");
                delay = (delay * 2).min(LONGEST_DELAY);
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = &mut changed => {}
                }
            }
        };
        tokio::select! {
            organization = attempts => Some(organization),
            _ = stop.wait_for(|stop| *stop) => None,
        }
    }

    /// Opens the CRM of a deployment and assembles what serves it.
    async fn open_organization(&self, name: &str) -> Result<Organization> {
        let settings = self.settings().await;
        let deployment = settings
            .deployment(name)
            .ok_or_else(|| Error::Request(format!("deployment {name} is no longer in the configuration")))?;
        let secrets = SecretStore::new(settings.router.secret_key_file.clone());
        let options = &self.options;
        let adapter = registry::crm(
            deployment,
            &secrets,
            &CrmOptions {
                look: options.look,
                clock: Arc::clone(&options.clock),
                entropy: Arc::clone(&options.entropy),
            },
        )
        .await?;
        let crm = Arc::clone(&adapter.client);
        let router = Arc::new(Router::new(RouterParts {
            crm: Arc::clone(&crm),
            index: Arc::new(CrmIndex(Arc::clone(&crm))),
            state: Arc::clone(&self.state),
            clock: Arc::clone(&options.clock),
            entropy: Arc::clone(&options.entropy),
            observer: Arc::clone(&options.observer),
            holder: options.holder.clone(),
            signer: Some(self.signer.clone()),
        }));
        let listed = crm.mailboxes().await?;
        let assembler = Assembler::default();
        let assembled = assembler.assemble(&settings, deployment, &listed, &secrets);
        let unserved = Mutex::new(assembled.unserved.clone());
        Ok(Organization {
            name: deployment.name.clone(),
            target: deployment.target.clone(),
            adapter,
            router,
            listed: Mutex::new(Arc::new(listed)),
            assembled,
            assembler,
            unserved,
        })
    }
}
