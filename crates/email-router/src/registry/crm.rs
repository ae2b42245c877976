//! Which adapter serves a deployment.

use std::sync::Arc;

use email_router_config::{Deployment, DeploymentTarget, SecretStore};
#[cfg(feature = "dataverse")]
use email_router_crm::dataverse::DataverseCrm;
#[cfg(feature = "embedded")]
use email_router_crm::embedded::EmbeddedCrm;
use email_router_crm::{CrmClient, CrmMailbox};
use email_router_model::{Clock, Entropy};

use crate::Result;

/// What every CRM is opened with.
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

/// The users and queues of a deployment that loads its mailboxes; nothing is made or changed.
pub(crate) async fn listed(deployment: &Deployment, secrets: &SecretStore) -> Result<Vec<CrmMailbox>> {
    let options = CrmOptions {
        look: true,
        clock: Arc::new(email_router_model::SystemClock),
        entropy: Arc::new(email_router_model::SystemEntropy),
    };
    Ok(crm(deployment, secrets, &options).await?.client.mailboxes().await?)
}

#[cfg(not(all(feature = "embedded", feature = "dataverse")))]
fn not_built(deployment: &Deployment, feature: &str) -> crate::Error {
    crate::Error::Request(format!(
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
