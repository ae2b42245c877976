//! What the client of an organization on a server needs, from the settings of its deployment.

use std::sync::Arc;

use email_router_auth::Credentials;
use email_router_config::{Deployment, DeploymentTarget, SecretStore, Settings};
use email_router_crm::dataverse::DataverseSettings;
use email_router_http::{HttpClient, HttpSettings, Login, Scheme};

use super::crm::CrmOptions;
use crate::{Error, Result};

pub(crate) async fn settings(
    settings: &Settings,
    deployment: &Deployment,
    secrets: &SecretStore,
    options: &CrmOptions,
) -> Result<DataverseSettings> {
    let DeploymentTarget::Server { url, credentials, .. } = &deployment.target else {
        return Err(Error::Request(format!("deployment {} is on no server", deployment.name)));
    };
    let request = |e: &dyn std::error::Error| Error::Request(e.to_string());
    let credentials = match credentials {
        Some((name, password)) => {
            Credentials::new(name.clone(), secrets.resolve(password).map_err(|e| request(&e))?)
        }
        None => return Err(Error::Request("the router's own account is not served yet".to_owned())),
    };
    let http = Arc::new(HttpClient::new(HttpSettings::default()).map_err(|e| request(&e))?);
    let login = Arc::new(Login { scheme: Scheme::Windows, credentials });
    let mut name = deployment.name.to_lowercase();
    name.retain(|c| c.is_ascii_alphanumeric());
    let mirror = settings.router.state_file.with_file_name(format!("email-router-mirror-{name}.db"));
    let mut made = DataverseSettings::new(url.clone(), http, login, mirror);
    made.clock = Arc::clone(&options.clock);
    made.entropy = Arc::clone(&options.entropy);
    Ok(made)
}
