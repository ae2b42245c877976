//! Which application asks which token service for what.

use std::time::Duration;

use email_router_auth::{CredentialError, CredentialFault};
use email_router_model::{Retry, Scope, Secret};
use url::{Host, Url};

use super::{ClientCertificate, Cloud};

/// An application and the token it asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OAuthSettings {
    /// The token service's address without the tenant, in place of [`Cloud::authority`]: for a cloud that is not listed, or a test. `https`,
    /// or `http` to this machine.
    pub authority: Option<Url>,
    /// The cloud.
    pub cloud: Cloud,
    /// The tenant: its id (a GUID) or one of its domains. `common`, `organizations` and `consumers` are no tenant.
    pub tenant: String,
    /// The application's (client) id.
    pub client_id: String,
    /// What proves the application.
    pub proof: ClientProof,
    /// What the token is for; ends with `/.default`, see [`Cloud::graph_scope`] and [`Cloud::outlook_scope`]. At AD FS: the resource, as it is registered there.
    pub scope: String,
    /// Which kind of token service it is.
    pub service: TokenService,
    /// So long before it expires a token is renewed; at most a half of its lifetime.
    pub renewal_margin: Duration,
    /// Longest time for one request to the token service.
    pub patience: Duration,
}

impl OAuthSettings {
    /// This application, with the scope of Exchange Online; renewed 5 minutes before expiry, 30 s for a request.
    #[must_use]
    pub fn new(
        cloud: Cloud,
        tenant: impl Into<String>,
        client_id: impl Into<String>,
        proof: ClientProof,
    ) -> Self {
        Self {
            authority: None,
            cloud,
            tenant: tenant.into(),
            client_id: client_id.into(),
            proof,
            scope: cloud.outlook_scope(),
            service: TokenService::EntraId,
            renewal_margin: Duration::from_secs(300),
            patience: Duration::from_secs(30),
        }
    }

    /// This application at an Active Directory Federation Services of one's own (`crm-contract.md` 10.2): `authority` is its root, `resource` what the token is for.
    #[must_use]
    pub fn ad_fs(
        authority: Url,
        resource: impl Into<String>,
        client_id: impl Into<String>,
        proof: ClientProof,
    ) -> Self {
        Self {
            authority: Some(authority),
            scope: resource.into(),
            service: TokenService::AdFs,
            ..Self::new(Cloud::Public, "adfs", client_id, proof)
        }
    }

    /// The same application with a token for something else.
    #[must_use]
    pub fn with_scope(mut self, scope: impl Into<String>) -> Self {
        self.scope = scope.into();
        self
    }

    /// The same application at another token service.
    #[must_use]
    pub fn with_authority(mut self, authority: Url) -> Self {
        self.authority = Some(authority);
        self
    }

    /// The address that tokens are asked for at.
    ///
    /// # Errors
    /// A setting that cannot be used, by name.
    pub fn token_endpoint(&self) -> Result<Url, CredentialError> {
        let authority = match &self.authority {
            Some(url) => url.clone(),
            None => Url::parse(self.cloud.authority()).map_err(|e| unusable(format!("the cloud: {e}")))?,
        };
        let loopback = match authority.host() {
            Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => ip.is_loopback(),
            None => false,
        };
        if authority.scheme() != "https" && !(authority.scheme() == "http" && loopback) {
            return Err(unusable("the authority must be an https: URL: the application's secret goes there")
                .hinted("write it as https://login.microsoftonline.com"));
        }
        if !authority.username().is_empty()
            || authority.password().is_some()
            || authority.query().is_some()
            || authority.fragment().is_some()
        {
            return Err(unusable("the authority has a user, query or fragment in its URL")
                .hinted("write it as https://login.microsoftonline.com"));
        }
        if self.client_id.is_empty() || !self.client_id.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(unusable("the client id is empty or has spaces in it")
                .hinted("give the application (client) id of the application's overview page"));
        }
        let path: &[&str] = match self.service {
            TokenService::AdFs => {
                if self.scope.is_empty() || !self.scope.bytes().all(|b| b.is_ascii_graphic()) {
                    return Err(unusable("the resource is empty or has spaces in it"));
                }
                &["adfs", "oauth2", "token"]
            }
            TokenService::EntraId => {
                self.check_entra_id()?;
                &[self.tenant.as_str(), "oauth2", "v2.0", "token"]
            }
        };
        let mut endpoint = authority;
        endpoint
            .path_segments_mut()
            .map_err(|()| unusable("the authority has no path"))?
            .pop_if_empty()
            .extend(path);
        Ok(endpoint)
    }

    /// What only Entra ID asks for.
    fn check_entra_id(&self) -> Result<(), CredentialError> {
        let tenant = self.tenant.as_str();
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        if tenant.is_empty() || tenant.starts_with('.') || !tenant.chars().all(plain) {
            return Err(unusable("the tenant is neither an id nor a domain")
                .hinted("give the directory (tenant) id of the application's overview page"));
        }
        if ["common", "organizations", "consumers"].iter().any(|t| tenant.eq_ignore_ascii_case(t)) {
            return Err(unusable(format!("{tenant:?} is no tenant that an application can log in to"))
                .hinted("give the directory (tenant) id of the application's overview page"));
        }
        if !self.scope.ends_with("/.default") || !self.scope.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(unusable(format!("the scope {:?} does not end with /.default", self.scope)).hinted(
                "an application asks for all permissions it was granted: https://outlook.office365.com/.default",
            ));
        }
        if matches!(self.proof, ClientProof::Account { .. }) {
            return Err(unusable(
                "an application proves itself with a secret or certificate there, not with a user",
            ));
        }
        Ok(())
    }
}

/// What proves an application to the token service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientProof {
    /// A client secret.
    Secret(Secret),
    /// A certificate that is registered with the application, and its key.
    Certificate(ClientCertificate),
    /// Name and password of a service user, in whose name the application asks (RFC 6749 section 4.3); AD FS alone takes that, since an application of its own is
    /// no user of a CRM.
    Account {
        /// `user@contoso.example` or `CONTOSO\\user`.
        user: String,
        /// Its password.
        password: Secret,
        /// The application's secret, where it has one.
        secret: Option<Secret>,
    },
}

/// The kinds of token services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TokenService {
    /// Microsoft Entra ID, version 2.0 of its endpoint.
    #[default]
    EntraId,
    /// Active Directory Federation Services, 2012 R2 and later.
    AdFs,
}

/// A setting that cannot be used.
pub(super) fn unusable(message: impl Into<String>) -> CredentialError {
    CredentialError {
        fault: CredentialFault::Settings,
        message: message.into(),
        hint: None,
        retry: Retry::Never,
        scope: Scope::Server,
    }
}

/// Adds what to do.
pub(super) trait Hinted {
    /// The same error with this hint.
    fn hinted(self, hint: impl Into<String>) -> Self;
}

impl Hinted for CredentialError {
    fn hinted(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(tenant: &str, client: &str) -> OAuthSettings {
        OAuthSettings::new(Cloud::Public, tenant, client, ClientProof::Secret("s3cr3t".into()))
    }

    #[test]
    fn the_endpoint_of_each_cloud_and_of_other_authorities() {
        for (cloud, authority, expected) in [
            (Cloud::Public, None, "https://login.microsoftonline.com/contoso.test/oauth2/v2.0/token"),
            (Cloud::UsDefense, None, "https://login.microsoftonline.us/contoso.test/oauth2/v2.0/token"),
            (Cloud::China, None, "https://login.partner.microsoftonline.cn/contoso.test/oauth2/v2.0/token"),
            (
                Cloud::Public,
                Some("http://127.0.0.1:81"),
                "http://127.0.0.1:81/contoso.test/oauth2/v2.0/token",
            ),
            (Cloud::Public, Some("http://[::1]/x/"), "http://[::1]/x/contoso.test/oauth2/v2.0/token"),
            (
                Cloud::Public,
                Some("https://sts.a.test/p"),
                "https://sts.a.test/p/contoso.test/oauth2/v2.0/token",
            ),
        ] {
            let mut settings = settings("contoso.test", "app");
            settings.cloud = cloud;
            settings.authority = authority.map(|url| url.parse().unwrap());
            assert_eq!(settings.token_endpoint().unwrap().as_str(), expected);
        }
    }

    #[test]
    fn what_cannot_be_used_is_said_by_name() {
        let with = |authority: &str| settings("t", "app").with_authority(authority.parse().unwrap());
        for (settings, word) in [
            (settings("", "app"), "tenant"),
            (settings("a/b", "app"), "tenant"),
            (settings("..", "app"), "tenant"),
            (settings("Common", "app"), "tenant"),
            (settings("t", ""), "client id"),
            (settings("t", "a b"), "client id"),
            (settings("t", "app").with_scope("https://graph.microsoft.com/Mail.Read"), "scope"),
            (settings("t", "app").with_scope("a b/.default"), "scope"),
            (with("http://login.microsoftonline.com"), "https"),
            (with("http://127.0.0.1.evil.test"), "https"),
            (with("ftp://localhost"), "https"),
            (with("https://user:s3cr3t@sts.a.test"), "user"),
            (with("https://sts.a.test/?x=1"), "query"),
        ] {
            let error = settings.token_endpoint().unwrap_err();
            assert_eq!((error.fault, error.retry), (CredentialFault::Settings, Retry::Never));
            assert!(error.message.contains(word), "{error}");
            assert!(!format!("{error:?} {settings:?}").contains("s3cr3t") || word == "user", "{settings:?}");
        }
    }
}
