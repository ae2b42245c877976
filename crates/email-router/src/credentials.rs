//! Who logs in by a profile: names and passwords, an application's tokens, Kerberos tickets, or nobody.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use async_trait::async_trait;
use email_router_auth::{CredentialError, CredentialSource, Credentials};
use email_router_config::{
    AuthenticationType, CredentialStore, Credentials as Whose, MailboxSettings, Profile, SecretStore,
    Settings,
};
use email_router_model::{Direction, Mailbox, MailboxId, Secret};

use crate::assemble::Kept;

/// Who logs in for the mailboxes of a profile.
pub(crate) struct Source {
    /// The source, or why there is none for any mailbox.
    pub(crate) credentials: Result<Arc<dyn CredentialSource>, String>,
    /// Mailboxes whose password cannot be had, and why; the others are served.
    pub(crate) missing: HashMap<MailboxId, String>,
    /// Changes with every secret that it holds.
    pub(crate) stamp: u64,
}

/// Puts the sources of profiles together; those of one application share its token.
pub(crate) struct Sources<'a> {
    settings: &'a Settings,
    secrets: &'a SecretStore,
    /// Passwords of mailboxes without one in the configuration, or why the file cannot be read.
    stored: Result<CredentialStore, String>,
    /// Of the assembly before.
    #[cfg_attr(not(feature = "http"), allow(dead_code))]
    kept: &'a Kept,
    #[cfg(feature = "http")]
    applications: Applications,
}

/// Applications with their tokens, by what identifies them.
#[cfg(feature = "http")]
pub(crate) type Applications = HashMap<ApplicationKey, email_router_http::oauth::OAuthSource>;

/// The application, its cloud, the scope, and a stamp of its secret and of how its token service is reached.
#[cfg(feature = "http")]
pub(crate) type ApplicationKey = (email_router_config::Application, email_router_config::Cloud, String, u64);

impl<'a> Sources<'a> {
    pub(crate) fn new(settings: &'a Settings, secrets: &'a SecretStore, kept: &'a Kept) -> Self {
        Self {
            settings,
            secrets,
            stored: CredentialStore::load(&settings.router.credentials_file)
                .inspect(|store| {
                    for finding in store.findings() {
                        tracing::warn!(%finding, "store of credentials");
                    }
                })
                .map_err(|e| e.to_string()),
            kept,
            #[cfg(feature = "http")]
            applications: HashMap::new(),
        }
    }

    /// The source of a profile for these mailboxes.
    pub(crate) fn of(
        &mut self,
        profile: &Profile,
        direction: Direction,
        mailboxes: &[&MailboxSettings],
    ) -> Source {
        let mut stamp = DefaultHasher::new();
        let anonymous =
            matches!(profile.authentication, AuthenticationType::Anonymous | AuthenticationType::None);
        let (credentials, missing) = match &profile.credentials {
            _ if anonymous => {
                (Ok(Arc::new(Accounts::default()) as Arc<dyn CredentialSource>), HashMap::new())
            }
            Whose::LocalSystem => (kerberos(profile), HashMap::new()),
            Whose::Application(application) => {
                (self.application(profile, application, &mut stamp), HashMap::new())
            }
            Whose::UserSpecified | Whose::OtherSpecified { .. } | Whose::EachAddress { .. } => {
                let (accounts, missing) = self.accounts(direction, mailboxes, &mut stamp);
                (Ok(Arc::new(accounts) as Arc<dyn CredentialSource>), missing)
            }
        };
        Source { credentials, missing, stamp: stamp.finish() }
    }

    fn accounts(
        &self,
        direction: Direction,
        mailboxes: &[&MailboxSettings],
        stamp: &mut DefaultHasher,
    ) -> (Accounts, HashMap<MailboxId, String>) {
        let (mut known, mut missing) = (HashMap::new(), HashMap::new());
        for mailbox in mailboxes {
            // a mailbox of UserSpecified without a Password of its own: what is stored for its address
            let profile = self.settings.profile_of(mailbox, direction);
            let own = profile.is_some_and(|p| p.credentials == Whose::UserSpecified);
            if own && mailbox.password.is_none() {
                match self.stored(mailbox, direction) {
                    Ok((login, secret)) => {
                        (mailbox.mailbox.id.as_str(), &login, secret.expose()).hash(stamp);
                        known.insert(mailbox.mailbox.id.clone(), Credentials::new(login, secret));
                    }
                    Err(reason) => drop(missing.insert(mailbox.mailbox.id.clone(), reason)),
                }
                continue;
            }
            let (Some(login), Some(reference)) =
                (self.settings.login(mailbox, direction), self.settings.password(mailbox, direction))
            else {
                missing.insert(
                    mailbox.mailbox.id.clone(),
                    "the mailbox has no Password, and its profile says UserSpecified".to_owned(),
                );
                continue;
            };
            match self.secrets.resolve(reference) {
                Ok(secret) => {
                    (mailbox.mailbox.id.as_str(), &login, secret.expose()).hash(stamp);
                    known.insert(mailbox.mailbox.id.clone(), Credentials::new(login, secret));
                }
                Err(error) => {
                    missing.insert(mailbox.mailbox.id.clone(), error.to_string());
                }
            }
        }
        (Accounts { known }, missing)
    }

    /// Name and password that the store of credentials has for a mailbox.
    fn stored(&self, mailbox: &MailboxSettings, direction: Direction) -> Result<(String, Secret), String> {
        let store = self.stored.as_ref().map_err(Clone::clone)?;
        let address = &mailbox.mailbox.address;
        let entry = store.find(address, direction).ok_or_else(|| {
            format!(
                "the mailbox has no Password, and its profile says UserSpecified; `email-router credential set {address}` stores one"
            )
        })?;
        let login = entry.user_name.as_deref().unwrap_or_else(|| mailbox.mailbox.login_name());
        Ok((login.to_owned(), store.password(entry, self.secrets)?))
    }

    #[cfg(not(feature = "http"))]
    fn application(
        &mut self,
        _: &Profile,
        _: &email_router_config::Application,
        _: &mut DefaultHasher,
    ) -> Result<Arc<dyn CredentialSource>, String> {
        Err("this program was built without OAuth 2.0; build it with the feature http".to_owned())
    }

    #[cfg(feature = "http")]
    fn application(
        &mut self,
        profile: &Profile,
        application: &email_router_config::Application,
        stamp: &mut DefaultHasher,
    ) -> Result<Arc<dyn CredentialSource>, String> {
        use email_router_config::Protocol;
        use email_router_http::oauth::{OAuthSettings, OAuthSource};
        use email_router_model::{SystemClock, SystemEntropy};
        let cloud = crate::registry::cloud(profile.options.cloud);
        let scope = application.scope.clone().unwrap_or_else(|| match profile.protocol {
            Protocol::MicrosoftGraph => cloud.graph_scope(),
            _ => cloud.outlook_scope(),
        });
        let proof = client_proof(&application.proof, self.secrets, stamp)?;
        let reached = (&profile.options.proxy, &profile.extra_ca_files, stamp.finish());
        let mut proof_stamp = DefaultHasher::new();
        format!("{reached:?}").hash(&mut proof_stamp);
        let key = (application.clone(), profile.options.cloud, scope.clone(), proof_stamp.finish());
        if let Some(known) = self.applications.get(&key).or_else(|| self.kept.applications.get(&key)) {
            let known = known.clone();
            self.applications.insert(key, known.clone());
            return Ok(Arc::new(known));
        }
        let mut settings = OAuthSettings::new(cloud, &application.tenant_id, &application.client_id, proof)
            .with_scope(scope);
        if let Some(authority) = &application.authority {
            settings = settings.with_authority(authority.clone());
        }
        let http = crate::registry::http_client(profile, self.secrets)?;
        let source = OAuthSource::new(settings, http, Arc::new(SystemClock), Arc::new(SystemEntropy))
            .map_err(|e| explained(&e))?;
        self.applications.insert(key, source.clone());
        Ok(Arc::new(source))
    }

    /// What the next assembly may take over.
    #[cfg(feature = "http")]
    pub(crate) fn into_applications(self) -> Applications {
        self.applications
    }
}

/// What proves an application, read now; its secret goes into the stamp.
#[cfg(feature = "http")]
pub(crate) fn client_proof(
    proof: &email_router_config::ApplicationProof,
    secrets: &SecretStore,
    stamp: &mut DefaultHasher,
) -> Result<email_router_http::oauth::ClientProof, String> {
    use email_router_config::ApplicationProof;
    use email_router_http::oauth::{AssertionAlgorithm, ClientCertificate, ClientProof};
    match proof {
        ApplicationProof::Secret(reference) => {
            let secret = secrets.resolve(reference).map_err(|e| e.to_string())?;
            secret.expose().hash(stamp);
            Ok(ClientProof::Secret(secret))
        }
        ApplicationProof::Certificate { certificate_file, private_key_file } => {
            let certificate =
                ClientCertificate::from_files(certificate_file, private_key_file, AssertionAlgorithm::Ps256)
                    .map_err(|e| explained(&e))?;
            certificate.thumbprint().hash(stamp);
            Ok(ClientProof::Certificate(certificate))
        }
    }
}

/// How it stands with the tokens of applications, by name.
#[cfg(feature = "http")]
pub(crate) fn access_tokens(applications: &Applications) -> Vec<crate::assemble::AccessToken> {
    let mut all: Vec<_> = applications
        .iter()
        .map(|((application, _, scope, _), source)| {
            access_token(&application.client_id, &application.tenant_id, scope, source)
        })
        .collect();
    all.sort_by(|a, b| a.application.cmp(&b.application));
    all
}

/// How it stands with the token of one application.
#[cfg(feature = "http")]
pub(crate) fn access_token(
    client: &str,
    tenant: &str,
    scope: &str,
    source: &email_router_http::oauth::OAuthSource,
) -> crate::assemble::AccessToken {
    let state = source.state();
    crate::assemble::AccessToken {
        application: format!("{client} of {tenant} for {scope}"),
        valid_until: state.valid_until,
        last_error: state.last_error.as_ref().map(explained),
    }
}

#[cfg(feature = "http")]
pub(crate) fn explained(error: &CredentialError) -> String {
    match &error.hint {
        Some(hint) => format!("{error}; {hint}"),
        None => error.to_string(),
    }
}

/// The Kerberos tickets of the process, or of a keytab, for the server of a profile.
#[cfg(feature = "kerberos")]
fn kerberos(profile: &Profile) -> Result<Arc<dyn CredentialSource>, String> {
    use email_router_config::{Location, Protocol};
    use email_router_transport::net::{KerberosSettings, KerberosSource};
    let service = match profile.protocol {
        Protocol::Pop3 => "pop",
        Protocol::Imap => "imap",
        Protocol::Smtp => "smtp",
        _ => "HTTP",
    };
    let host = match &profile.location {
        Location::Server { host, .. } => host.clone(),
        Location::WebServices(url) => url.host_str().unwrap_or_default().to_owned(),
        // a Maildir needs nobody
        Location::Folder(_) => return Ok(Arc::new(Accounts::default())),
        Location::Autodiscover | Location::Graph(_) => {
            return Err("LocalSystemAccount needs the server's name beforehand: give ExchangeWebServicesUrl in place of UseAutodiscover".to_owned());
        }
    };
    let mut settings = KerberosSettings::new(service, host);
    settings.principal.clone_from(&profile.options.kerberos.principal);
    settings.keytab.clone_from(&profile.options.kerberos.keytab_file);
    Ok(Arc::new(KerberosSource::new(settings)))
}

#[cfg(not(feature = "kerberos"))]
fn kerberos(profile: &Profile) -> Result<Arc<dyn CredentialSource>, String> {
    match profile.location {
        email_router_config::Location::Folder(_) => Ok(Arc::new(Accounts::default())),
        _ => Err("this program was built without Kerberos; build it with the feature kerberos".to_owned()),
    }
}

/// Name and password of each mailbox of a profile.
#[derive(Default)]
struct Accounts {
    known: HashMap<MailboxId, Credentials>,
}

#[async_trait]
impl CredentialSource for Accounts {
    async fn credentials(&self, mailbox: &Mailbox) -> Result<Option<Credentials>, CredentialError> {
        Ok(self.known.get(&mailbox.id).cloned())
    }
}
