//! What administrators ask about the mirror of an organization on a server, and do with it.

use std::path::Path;
use std::sync::Arc;

use email_router_config::{Deployment, DeploymentTarget, SecretStore, Settings};
use email_router_crm::dataverse::{DataverseCrm, MirrorSize, MirrorVerification};
use email_router_model::{SystemClock, SystemEntropy};
use serde::Serialize;

use crate::registry::{self, CrmOptions};
use crate::{Error, Result, service};

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MirrorTask {
    /// How much it holds.
    Size,
    /// Compare it with the organization.
    Verify,
    /// Read all of it anew. Safe beside a router that runs: every step is a transaction of the one file, and until all is read the old rows answer.
    Rebuild,
}

/// What came of it for one deployment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MirrorReport {
    /// Name of the deployment.
    pub deployment: String,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: MirrorOutcome,
}

/// What came of a [`MirrorTask`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum MirrorOutcome {
    /// How much it holds.
    Size(MirrorSize),
    /// What is different in the organization.
    Verified(MirrorVerification),
    /// It was read anew.
    Rebuilt {
        /// What it held before.
        before: MirrorSize,
        /// What it holds now.
        after: MirrorSize,
    },
    /// It could not be done; the mirror is what it was, or reads on from where it was interrupted.
    Failed {
        /// What happened.
        message: String,
        /// What to do, where the message does not say it.
        #[serde(skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
    },
}

impl MirrorReport {
    /// Whether it failed, or found the mirror otherwise than the organization.
    #[must_use]
    pub fn needs_attention(&self) -> bool {
        match &self.outcome {
            MirrorOutcome::Verified(found) => found.different > 0,
            MirrorOutcome::Failed { .. } => true,
            MirrorOutcome::Size(_) | MirrorOutcome::Rebuilt { .. } => false,
        }
    }
}

/// Does `task` for a deployment, or for each that is on a server. Connecting reads what the mirror has missed, as the router itself does. One that
/// fails keeps no other from it.
///
/// # Errors
/// [`Error::Configuration`] with all findings; [`Error::Request`] for a deployment that is not there or has no mirror.
pub async fn run(path: &Path, deployment: Option<&str>, task: MirrorTask) -> Result<Vec<MirrorReport>> {
    let settings = service::settings(path)?;
    let mut reports = Vec::new();
    for deployment in chosen(&settings, deployment)? {
        let outcome = one(&settings, deployment, task).await.unwrap_or_else(|error| MirrorOutcome::Failed {
            message: error.to_string(),
            hint: error.hint().map(str::to_owned),
        });
        reports.push(MirrorReport { deployment: deployment.name.clone(), outcome });
    }
    Ok(reports)
}

fn chosen<'a>(settings: &'a Settings, named: Option<&str>) -> Result<Vec<&'a Deployment>> {
    let on_server = |d: &&Deployment| matches!(d.target, DeploymentTarget::Server { .. });
    let Some(name) = named else {
        let all: Vec<&Deployment> = settings.deployments.iter().filter(on_server).collect();
        if all.is_empty() {
            return Err(Error::Request(
                "no deployment of the configuration is on a server; the embedded CRM needs no mirror"
                    .to_owned(),
            ));
        }
        return Ok(all);
    };
    match settings.deployment(name) {
        Some(deployment) if on_server(&deployment) => Ok(vec![deployment]),
        Some(_) => {
            Err(Error::Request(format!("deployment {name} is an embedded CRM, which needs no mirror")))
        }
        None => Err(Error::Request(format!("there is no deployment {name} in the configuration"))),
    }
}

async fn one(settings: &Settings, deployment: &Deployment, task: MirrorTask) -> Result<MirrorOutcome> {
    let secrets = SecretStore::new(settings.router.secret_key_file.clone());
    let options = CrmOptions { look: false, clock: Arc::new(SystemClock), entropy: Arc::new(SystemEntropy) };
    let crm = registry::crm(deployment, &secrets, &options).await?;
    let Some(crm) = &crm.dataverse else {
        return Err(Error::Request(format!("deployment {} has no mirror", deployment.name)));
    };
    carry_out(crm, task).await
}

/// Does `task` for an organization that is connected.
///
/// # Errors
/// The CRM's.
pub async fn carry_out(crm: &DataverseCrm, task: MirrorTask) -> Result<MirrorOutcome> {
    Ok(match task {
        MirrorTask::Size => MirrorOutcome::Size(crm.mirror_size().await?),
        MirrorTask::Verify => MirrorOutcome::Verified(crm.verify_mirror().await?),
        MirrorTask::Rebuild => {
            let before = crm.mirror_size().await?;
            crm.rebuild_mirror().await?;
            MirrorOutcome::Rebuilt { before, after: crm.mirror_size().await? }
        }
    })
}
