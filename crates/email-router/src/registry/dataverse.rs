//! What the client of an organization on a server needs, from the settings of its deployment.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use email_router_auth::{CredentialError, Credentials};
use email_router_config::{
    AuthenticationType, CrmEndpoint, Deployment, EmailProcessing as Wanted, SecretStore, ServerApplication,
    ServerCredentials, ServerDeployment,
};
use email_router_crm::dataverse::{
    ApiVersion, Application, DataverseSettings, EmailProcessing, Endpoint, LoginSource,
};
use email_router_crm::{Error as CrmError, ErrorKind};
use email_router_http::oauth::{ClientProof, OAuthSettings, OAuthSource};
use email_router_http::{
    HttpService, HttpSettings, Login, Method, Request, Scheme, StatusCode, challenges, header,
};
use email_router_model::{Classified as _, Clock, Entropy};

use super::crm::CrmOptions;
use crate::assemble::AccessToken;
use crate::credentials::{access_token, client_proof, explained};
use crate::{Error, Result};

/// Hosts that also are Microsoft's token services, by the names of the past, each with the one that is asked (`crm-contract.md` 10.1).
const OLD_AUTHORITIES: [(&str, &str); 2] = [
    ("login.windows.net", "login.microsoftonline.com"),
    ("login.chinacloudapi.cn", "login.partner.microsoftonline.cn"),
];

/// The client's settings, and the login in them, whose secrets may be read anew.
pub(crate) async fn settings(
    deployment: &Deployment,
    server: &ServerDeployment,
    secrets: &SecretStore,
    options: &CrmOptions,
) -> Result<(DataverseSettings, Arc<CurrentLogin>)> {
    let mut wanted = HttpSettings::default();
    wanted.extra_ca_files.clone_from(&server.extra_ca_files);
    wanted.connect_timeout = server.connection_timeout;
    wanted.patience = server.operation_timeout;
    wanted.max_idle_connections = server.max_connections as usize;
    wanted.max_connections_per_login = server.max_connections as usize;
    wanted.allow_cleartext_password = server.allow_http;
    let http = super::http(wanted, &server.proxy, secrets).map_err(Error::Request)?;
    let login = CurrentLogin::new(server, secrets, Arc::clone(&http), options).await?;
    let source = Arc::clone(&login) as Arc<dyn LoginSource>;
    let mut made = DataverseSettings::new(server.url.clone(), http, source, server.mirror_file.clone());
    made.unique_name.clone_from(&deployment.organization_name);
    made.email_processing = match server.email_processing {
        Wanted::Automatic => EmailProcessing::Automatic,
        Wanted::Crm => EmailProcessing::Crm,
        Wanted::Router => EmailProcessing::Router,
    };
    made.endpoint = match server.crm_endpoint {
        CrmEndpoint::Automatic => Endpoint::Automatic,
        CrmEndpoint::WebApi => Endpoint::WebApi,
        CrmEndpoint::OrganizationService => Endpoint::OrganizationService,
    };
    made.api_version = server.api_version.as_deref().and_then(ApiVersion::parse);
    made.mirror_period = server.mirror_period;
    made.emails_remembered = server.emails_remembered;
    made.note_column.clone_from(&server.note_column);
    made.organization_settings.clone_from(&server.organization_settings);
    made.max_connections = server.max_connections as usize;
    made.operation_timeout = server.operation_timeout;
    made.clock = Arc::clone(&options.clock);
    made.entropy = Arc::clone(&options.entropy);
    Ok((made, login))
}

/// The login of a deployment as its secrets are now: the client keeps it, and who watches the files of the secrets changes it.
#[derive(Debug)]
pub(crate) struct CurrentLogin {
    http: Arc<dyn HttpService>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    current: RwLock<Current>,
}

#[derive(Debug, Clone)]
struct Current {
    source: Arc<dyn LoginSource>,
    /// The application's tokens with id, tenant and scope.
    tokens: Option<(OAuthSource, [String; 3])>,
    /// Changes with the secret.
    stamp: u64,
}

impl CurrentLogin {
    async fn new(
        server: &ServerDeployment,
        secrets: &SecretStore,
        http: Arc<dyn HttpService>,
        options: &CrmOptions,
    ) -> Result<Arc<Self>> {
        let (clock, entropy) = (Arc::clone(&options.clock), Arc::clone(&options.entropy));
        let current = login(server, secrets, &http, &clock, &entropy, None).await?;
        Ok(Arc::new(Self { http, clock, entropy, current: RwLock::new(current) }))
    }

    /// Reads the secrets anew; the login stays the same, with its token, where they are the same.
    pub(crate) async fn renew(&self, server: &ServerDeployment, secrets: &SecretStore) -> Result<()> {
        let before = self.current();
        let renewed = login(server, secrets, &self.http, &self.clock, &self.entropy, Some(&before)).await?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = renewed;
        Ok(())
    }

    /// How it stands with the application's token.
    pub(crate) fn access_token(&self) -> Option<AccessToken> {
        let (source, [client, tenant, scope]) = self.current().tokens?;
        Some(access_token(&client, &tenant, &scope, &source))
    }

    fn current(&self) -> Current {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl LoginSource for CurrentLogin {
    async fn login(&self) -> Result<Login, CredentialError> {
        self.current().source.login().await
    }

    fn refused(&self, login: &Login) -> bool {
        self.current().source.refused(login)
    }
}

/// Who logs in, with the secrets as they are now; what was before where nothing has changed.
async fn login(
    server: &ServerDeployment,
    secrets: &SecretStore,
    http: &Arc<dyn HttpService>,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
    before: Option<&Current>,
) -> Result<Current> {
    let mut stamp = DefaultHasher::new();
    format!("{:?} {:?}", server.credentials, server.authentication).hash(&mut stamp);
    let scheme = match server.authentication {
        AuthenticationType::Ntlm => Scheme::Ntlm,
        AuthenticationType::OAuth2 => Scheme::Bearer,
        _ => Scheme::Windows,
    };
    match &server.credentials {
        ServerCredentials::LocalSystem => {
            let source = match before {
                Some(before) => Arc::clone(&before.source),
                None => process(server)?,
            };
            Ok(Current { source, tokens: None, stamp: stamp.finish() })
        }
        ServerCredentials::Login { user_name, password } => {
            let password = secrets.resolve(password).map_err(|e| Error::Request(e.to_string()))?;
            password.expose().hash(&mut stamp);
            let credentials = Credentials::new(user_name.clone(), password);
            let source = Arc::new(Login { scheme, credentials });
            Ok(Current { source, tokens: None, stamp: stamp.finish() })
        }
        ServerCredentials::Application(application) => {
            let proof = proof(application, secrets, &mut stamp)?;
            let stamp = stamp.finish();
            if let Some(before) = before.filter(|before| before.stamp == stamp) {
                return Ok(before.clone());
            }
            let (settings, tenant, scope) = match (&application.tenant_id, &application.authority) {
                // the resource is the root of the organization's site
                (None, Some(authority)) => {
                    let usual = || format!("{}/", server.url.origin().ascii_serialization());
                    let resource = application.scope.clone().unwrap_or_else(usual);
                    let settings =
                        OAuthSettings::ad_fs(authority.clone(), &resource, &application.client_id, proof);
                    (settings, authority.host_str().unwrap_or_default().to_owned(), resource)
                }
                (tenant, authority) => {
                    let tenant = match tenant {
                        Some(tenant) => tenant.clone(),
                        None => discovered_tenant(server, &**http).await?,
                    };
                    let scope = scope(server, application);
                    let cloud = super::cloud(server.cloud);
                    let mut settings =
                        OAuthSettings::new(cloud, &tenant, &application.client_id, proof).with_scope(&scope);
                    if let Some(authority) = authority {
                        settings = settings.with_authority(authority.clone());
                    }
                    (settings, tenant, scope)
                }
            };
            let tokens = OAuthSource::new(settings, Arc::clone(http), Arc::clone(clock), Arc::clone(entropy))
                .map_err(|e| Error::Request(explained(&e)))?;
            let source =
                Arc::new(Application { tokens: tokens.clone(), name: application.client_id.clone() });
            let known = [application.client_id.clone(), tenant, scope];
            Ok(Current { source, tokens: Some((tokens, known)), stamp })
        }
    }
}

/// What proves the application, or the service user at AD FS.
fn proof(
    application: &ServerApplication,
    secrets: &SecretStore,
    stamp: &mut DefaultHasher,
) -> Result<ClientProof> {
    let own =
        application.proof.as_ref().map(|proof| client_proof(proof, secrets, stamp).map_err(Error::Request));
    match (&application.account, own.transpose()?) {
        (Some((user, password)), own) => {
            let password = secrets.resolve(password).map_err(|e| Error::Request(e.to_string()))?;
            password.expose().hash(stamp);
            let secret = match own {
                Some(ClientProof::Secret(secret)) => Some(secret),
                None => None,
                Some(_) => {
                    let why =
                        "a service user at AD FS goes with a ClientSecret or none, not with a certificate";
                    return Err(Error::Request(why.to_owned()));
                }
            };
            Ok(ClientProof::Account { user: user.clone(), password, secret })
        }
        (None, Some(own)) => Ok(own),
        (None, None) => Err(Error::Request("the Application has neither secret nor certificate".to_owned())),
    }
}

/// The organization's root and `/.default`: one token for each organization (`crm-contract.md` 10.1).
fn scope(server: &ServerDeployment, application: &ServerApplication) -> String {
    let usual = || format!("{}/.default", server.url.origin().ascii_serialization());
    application.scope.clone().unwrap_or_else(usual)
}

/// The tenant that the organization names when somebody without a login asks (`crm-contract.md` 10.1). Only the tenant is taken from that answer, never where
/// the secret goes; and only where it names a token service of the deployment's cloud.
async fn discovered_tenant(server: &ServerDeployment, http: &dyn HttpService) -> Result<String> {
    let host = server.url.host_str().unwrap_or_default();
    let version = server.api_version.as_deref().unwrap_or("9.2");
    let unknown = |why: String| {
        let message = format!("{host}: the tenant of the organization could not be found out: {why}");
        let hint = "give TenantId in the Application of the deployment";
        Error::Crm(CrmError::new(ErrorKind::Refused, message).with_hint(hint))
    };
    let url = server.url.join(&format!("api/data/v{version}/WhoAmI"));
    let mut request = Request::new(Method::GET, url.map_err(|e| unknown(e.to_string()))?);
    request.max_body_bytes = 64 * 1024;
    let answer = http.send(request).await.map_err(|e| {
        let error = CrmError::new(ErrorKind::Unreachable, e.to_string()).with_retry(e.retry());
        Error::Crm(match e.hint() {
            Some(hint) => error.with_hint(hint),
            None => error,
        })
    })?;
    if answer.status != StatusCode::UNAUTHORIZED {
        return Err(unknown(format!("it answers {} to who does not log in", answer.status)));
    }
    let offered = challenges(&answer.headers, &header::WWW_AUTHENTICATE);
    let named = offered
        .iter()
        .filter(|c| c.is("Bearer"))
        .find_map(|c| c.parameter("authorization_uri").or_else(|| c.parameter("authorization")));
    let Some(named) = named else {
        return Err(unknown("it names no token service".to_owned()));
    };
    tenant_of(named, super::cloud(server.cloud).authority()).map_err(unknown)
}

/// The tenant in the address of a token service, where that is this one.
fn tenant_of(named: &str, authority: &str) -> Result<String, String> {
    let parts = |text: &str| {
        let rest = text.strip_prefix("https://")?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        Some((host.to_ascii_lowercase(), path.split('/').next().unwrap_or_default().to_owned()))
    };
    let ours = parts(authority).map(|(host, _)| host).unwrap_or_default();
    let shown: String = named.chars().filter(|c| c.is_ascii_graphic()).take(100).collect();
    let Some((host, tenant)) = parts(named) else {
        return Err(format!("it names {shown}, which is no address of a token service"));
    };
    let host =
        OLD_AUTHORITIES.iter().find(|(old, _)| *old == host).map_or(host, |(_, new)| (*new).to_owned());
    if host != ours {
        return Err(format!("it names the token service {shown}, and that of the cloud is {ours}"));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    let common = ["common", "organizations", "consumers"].contains(&tenant.to_ascii_lowercase().as_str());
    if tenant.is_empty() || common || !tenant.chars().all(plain) {
        return Err(format!("it names {shown}, in which there is no tenant"));
    }
    Ok(tenant)
}

/// The Kerberos tickets of the account that the router runs under.
#[cfg(feature = "kerberos")]
fn process(server: &ServerDeployment) -> Result<Arc<dyn LoginSource>> {
    use email_router_transport::net::{KerberosSettings, KerberosSource};

    #[derive(Debug)]
    struct Tickets(KerberosSource);

    #[async_trait]
    impl LoginSource for Tickets {
        async fn login(&self) -> Result<Login, CredentialError> {
            Ok(Login { scheme: Scheme::Windows, credentials: self.0.identity().await? })
        }

        fn refused(&self, _: &Login) -> bool {
            self.0.look_again();
            false
        }
    }
    let host = server.url.host_str().unwrap_or_default();
    let mut settings = KerberosSettings::new("HTTP", host);
    settings.principal.clone_from(&server.kerberos.principal);
    settings.keytab.clone_from(&server.kerberos.keytab_file);
    Ok(Arc::new(Tickets(KerberosSource::new(settings))))
}

#[cfg(not(feature = "kerberos"))]
fn process(_: &ServerDeployment) -> Result<Arc<dyn LoginSource>> {
    Err(Error::Request(
        "this program was built without Kerberos; build it with the feature kerberos".to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::tenant_of;

    #[test]
    fn only_microsofts_token_service_is_believed() {
        let login = "https://login.microsoftonline.com";
        for (named, authority, expected) in [
            (
                "https://login.microsoftonline.com/contoso.example/oauth2/authorize",
                login,
                Ok("contoso.example"),
            ),
            ("https://LOGIN.windows.net/6f2b/oauth2/authorize", login, Ok("6f2b")),
            ("https://login.chinacloudapi.cn/t/oauth2", "https://login.partner.microsoftonline.cn", Ok("t")),
            ("https://login.microsoftonline.us/t/x", login, Err("token service")),
            ("https://login.microsoftonline.com.evil.test/t", login, Err("token service")),
            ("https://login.microsoftonline.com@evil.test/t", login, Err("token service")),
            ("http://login.microsoftonline.com/t", login, Err("no address")),
            ("https://login.microsoftonline.com/common/oauth2", login, Err("no tenant")),
            ("https://login.microsoftonline.com", login, Err("no tenant")),
            ("https://login.microsoftonline.com/a%2fb", login, Err("no tenant")),
        ] {
            match (tenant_of(named, authority), expected) {
                (Ok(tenant), Ok(expected)) => assert_eq!(tenant, expected),
                (Err(why), Err(word)) => assert!(why.contains(word), "{why}"),
                (found, _) => panic!("{named}: {found:?}"),
            }
        }
    }
}
