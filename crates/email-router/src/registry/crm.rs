//! Which adapter serves a deployment.

use std::sync::Arc;

use email_router_config::{Deployment, DeploymentTarget, SecretStore};
#[cfg(feature = "dataverse")]
use email_router_crm::dataverse::DataverseCrm;
#[cfg(feature = "embedded")]
use email_router_crm::embedded::EmbeddedCrm;
use email_router_crm::{CrmClient, CrmMailbox};
use email_router_model::{Clock, Entropy, SystemClock, SystemEntropy};

use crate::access::{CheckState, CrmCheck, DeploymentRow};
use crate::{Error, Result};

/// What every CRM is opened with.
#[cfg_attr(not(feature = "embedded"), allow(dead_code))] // only a file can be looked at without being made
pub(crate) struct CrmOptions {
    /// Nothing is created.
    pub(crate) look: bool,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
}

/// A CRM, also by the type of its adapter for what only that can do.
#[derive(Debug)]
pub(crate) struct Crm {
    pub(crate) client: Arc<dyn CrmClient>,
    #[cfg(feature = "embedded")]
    pub(crate) embedded: Option<EmbeddedCrm>,
    #[cfg(feature = "dataverse")]
    pub(crate) dataverse: Option<DataverseCrm>,
    /// Who logs in to the server.
    #[cfg(feature = "dataverse")]
    pub(crate) login: Option<Arc<super::dataverse::CurrentLogin>>,
}

/// The CRM of a deployment: the file opened, or the server connected.
#[cfg_attr(not(feature = "dataverse"), allow(unused_variables))] // only servers take what they give
pub(crate) async fn crm(deployment: &Deployment, secrets: &SecretStore, options: &CrmOptions) -> Result<Crm> {
    match &deployment.target {
        #[cfg(feature = "embedded")]
        DeploymentTarget::Embedded { path } => {
            let crm = embedded(path, options).await?;
            Ok(Crm {
                client: Arc::new(crm.clone()),
                embedded: Some(crm),
                #[cfg(feature = "dataverse")]
                dataverse: None,
                #[cfg(feature = "dataverse")]
                login: None,
            })
        }
        #[cfg(not(feature = "embedded"))]
        DeploymentTarget::Embedded { .. } => Err(not_built(deployment, "embedded")),
        #[cfg(feature = "dataverse")]
        DeploymentTarget::Server(server) => {
            let (settings, login) = super::dataverse::settings(deployment, server, secrets, options).await?;
            let crm = DataverseCrm::connect(settings).await?;
            Ok(Crm {
                client: Arc::new(crm.clone()),
                #[cfg(feature = "embedded")]
                embedded: None,
                dataverse: Some(crm),
                login: Some(login),
            })
        }
        #[cfg(not(feature = "dataverse"))]
        DeploymentTarget::Server(_) => Err(not_built(deployment, "dataverse")),
    }
}

fn looking() -> CrmOptions {
    CrmOptions { look: true, clock: Arc::new(SystemClock), entropy: Arc::new(SystemEntropy) }
}

/// Asks the CRM of a deployment for all that the service will use, by the same settings; nothing is made or changed. With it come the users and queues, where it
/// came so far.
pub(crate) async fn probe(
    deployment: &Deployment,
    secrets: &SecretStore,
) -> (DeploymentRow, Vec<CrmMailbox>) {
    let options = looking();
    let row = |crm: String, checks| DeploymentRow { deployment: deployment.name.clone(), crm, checks };
    match &deployment.target {
        DeploymentTarget::Embedded { path } => {
            let place = format!("embedded CRM {}", path.display());
            // where the mailboxes come from it, nothing is served without it
            if !deployment.load_mailboxes && !path.exists() {
                let text = "the file is not there yet; the router makes it when it starts".to_owned();
                let check = CrmCheck { name: "file", state: CheckState::Warning, text, hint: None };
                return (row(place, vec![check]), Vec::new());
            }
            let listed = async { Ok(crm(deployment, secrets, &options).await?.client.mailboxes().await?) };
            match listed.await {
                Ok(mailboxes) => {
                    let text = format!("{} users, queues and forward mailboxes", mailboxes.len());
                    (row(place, vec![CrmCheck::passed("file", text)]), mailboxes)
                }
                Err(error) => (row(place, vec![CrmCheck::failed("file", &error)]), Vec::new()),
            }
        }
        #[cfg(feature = "dataverse")]
        DeploymentTarget::Server(server) => {
            match super::dataverse::settings(deployment, server, secrets, &options).await {
                Ok((settings, _)) => {
                    let report = DataverseCrm::probe(&settings).await;
                    (
                        row(report.place, report.checks.into_iter().map(CrmCheck::from).collect()),
                        report.mailboxes,
                    )
                }
                Err(error) => {
                    (row(server.url.to_string(), vec![CrmCheck::failed("login", &error)]), Vec::new())
                }
            }
        }
        #[cfg(not(feature = "dataverse"))]
        DeploymentTarget::Server(server) => {
            let error = not_built(deployment, "dataverse");
            (row(server.url.to_string(), vec![CrmCheck::failed("login", &error)]), Vec::new())
        }
    }
}

/// The users and queues of a deployment, as the CRM has them now; nothing is made or changed.
pub(crate) async fn listed(deployment: &Deployment, secrets: &SecretStore) -> Result<Vec<CrmMailbox>> {
    if let DeploymentTarget::Embedded { .. } = deployment.target {
        return Ok(crm(deployment, secrets, &looking()).await?.client.mailboxes().await?);
    }
    let (row, mailboxes) = probe(deployment, secrets).await;
    match row.checks.into_iter().find(|check| check.state == CheckState::Failed) {
        Some(failed) if mailboxes.is_empty() => {
            let hint = failed.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
            Err(Error::Request(format!("{}: {}{hint}", row.crm, failed.text)))
        }
        _ => Ok(mailboxes),
    }
}

#[cfg(not(all(feature = "embedded", feature = "dataverse")))]
fn not_built(deployment: &Deployment, feature: &str) -> Error {
    Error::Request(format!(
        "this program was built without deployments of type {}; build it with the feature {feature}",
        deployment.target.deployment_type()
    ))
}

#[cfg(feature = "embedded")]
async fn embedded(file: &std::path::Path, options: &CrmOptions) -> Result<EmbeddedCrm> {
    let (file, look) = (file.to_owned(), options.look);
    let (clock, entropy) = (Arc::clone(&options.clock), Arc::clone(&options.entropy));
    let opened = crate::service::blocking(move || match look {
        true => EmbeddedCrm::open_to_look(file, clock, entropy),
        false => EmbeddedCrm::open(file, clock, entropy),
    });
    Ok(opened.await??)
}
