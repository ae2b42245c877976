//! What the client needs to know of an organization on a server.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use email_router_auth::{CredentialError, Credentials};
use email_router_http::oauth::OAuthSource;
use email_router_http::{HttpService, Login, Scheme};
use email_router_model::{Clock, Entropy, SystemClock, SystemEntropy};
use url::Url;

/// How to reach an organization and what to do there.
#[derive(Clone)]
#[non_exhaustive]
pub struct DataverseSettings {
    /// The root of the organization, without `/api`: `https://contoso.crm4.dynamics.com/`, `https://crm.contoso.example/Contoso/`.
    pub url: Url,
    /// The unique name the organization must have (`organization.name`); another one is refused. `None`: any.
    pub unique_name: Option<String>,
    /// Sends the requests.
    pub http: Arc<dyn HttpService>,
    /// Who asks.
    pub login: Arc<dyn LoginSource>,
    /// Who decides which mail belongs in the CRM.
    pub email_processing: EmailProcessing,
    /// By which protocol the organization is asked.
    pub endpoint: Endpoint,
    /// The version of the Web API; `None`: the newest that the server has, of 9.2, 9.1, 9.0, 8.2, 8.1, 8.0.
    pub api_version: Option<ApiVersion>,
    /// The SQLite file with what is known of the organization; made where it is missing. One for each organization.
    pub mirror_file: PathBuf,
    /// So often the mirror asks for changes; what it says is verified before use when it could not ask for ten times as long.
    pub mirror_period: Duration,
    /// E-mails that are younger than this can be answered: so far back the mirror knows them.
    pub emails_remembered: Duration,
    /// A text column (at least 4,000 characters) of the table `email` in which the router keeps what Dataverse has no column for: references, the
    /// conversation, delivery reports, when the next attempt is due. `None`: only the mirror keeps it, so that other routers do not know it.
    pub note_column: Option<String>,
    /// Settings of the organization that Dataverse does not keep (our own), by the names of [`Setting`](crate::Setting), with their values.
    pub organization_settings: Vec<(String, String)>,
    /// Requests of this identity that are under way at the same time; 1 to 52 (`crm-contract.md` 11.3).
    pub max_connections: usize,
    /// The longest time that one call waits for a server that is throttling, all waits together; beyond it the caller is told to come back.
    pub longest_wait: Duration,
    /// The longest time for one request with all of its answer.
    pub operation_timeout: Duration,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Spreads delays.
    pub entropy: Arc<dyn Entropy>,
}

impl DataverseSettings {
    /// This organization, by this identity: all is found out at connect time; changes are asked for each minute, e-mails of 730 days, 8 requests at
    /// a time, waits of 2 minutes, 2 minutes a request.
    #[must_use]
    pub fn new(
        url: Url,
        http: Arc<dyn HttpService>,
        login: Arc<dyn LoginSource>,
        mirror_file: PathBuf,
    ) -> Self {
        Self {
            url,
            unique_name: None,
            http,
            login,
            email_processing: EmailProcessing::default(),
            endpoint: Endpoint::default(),
            api_version: None,
            mirror_file,
            mirror_period: Duration::from_secs(60),
            emails_remembered: Duration::from_secs(730 * 24 * 3600),
            note_column: None,
            organization_settings: Vec::new(),
            max_connections: 8,
            longest_wait: Duration::from_secs(120),
            operation_timeout: Duration::from_secs(120),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
        }
    }
}

impl fmt::Debug for DataverseSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataverseSettings")
            .field("url", &self.url.as_str())
            .field("unique_name", &self.unique_name)
            .field("email_processing", &self.email_processing)
            .field("endpoint", &self.endpoint)
            .field("api_version", &self.api_version)
            .field("mirror_file", &self.mirror_file)
            .finish_non_exhaustive()
    }
}

/// Who decides which mail belongs in the CRM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum EmailProcessing {
    /// The CRM where its e-mail channel is the Email Router (`organization.emailconnectionchannel` 1), else the router.
    #[default]
    Automatic,
    /// The CRM, by its messages CheckIncomingEmail, DeliverIncomingEmail and BackgroundSendEmail (mode A of `crm-contract.md`).
    Crm,
    /// The router, which writes records (mode B).
    Router,
}

/// By which protocol an organization is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Endpoint {
    /// The Web API where the server has it (CRM 2016 and later), else the Organization Service.
    #[default]
    Automatic,
    /// The Web API (OData 4).
    WebApi,
    /// The Organization Service (SOAP), for CRM 2011 to 2015. The CRM decides then.
    OrganizationService,
}

/// A version of the Web API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiVersion {
    /// 8 or 9.
    pub major: u8,
    /// After the point.
    pub minor: u8,
}

impl ApiVersion {
    /// All that were published, the newest first (`crm-contract.md` 1).
    pub const ALL: [Self; 6] = [
        Self::new(9, 2),
        Self::new(9, 1),
        Self::new(9, 0),
        Self::new(8, 2),
        Self::new(8, 1),
        Self::new(8, 0),
    ];

    /// This version.
    #[must_use]
    pub const fn new(major: u8, minor: u8) -> Self {
        Self { major, minor }
    }

    /// The version that is written like this: `9.2` or `v9.2`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim().trim_start_matches(['v', 'V']).split_once('.')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Gives the login for each request.
#[async_trait]
pub trait LoginSource: fmt::Debug + Send + Sync + 'static {
    /// The login now.
    ///
    /// # Errors
    /// A token or ticket cannot be had.
    async fn login(&self) -> Result<Login, CredentialError>;

    /// The server refused this login: a token that was kept must not be given out again. `true` when another attempt may have another login.
    fn refused(&self, _login: &Login) -> bool {
        false
    }
}

/// A login that stays: name and password, or the identity of the process.
#[async_trait]
impl LoginSource for Login {
    async fn login(&self) -> Result<Login, CredentialError> {
        Ok(self.clone())
    }
}

/// The access token of an application.
#[derive(Debug, Clone)]
pub struct Application {
    /// Gives the tokens; their scope is the organization's root URL and `/.default`.
    pub tokens: OAuthSource,
    /// The name in log lines: the application's id.
    pub name: String,
}

#[async_trait]
impl LoginSource for Application {
    async fn login(&self) -> Result<Login, CredentialError> {
        let token = self.tokens.token().await?;
        Ok(Login { scheme: Scheme::Bearer, credentials: Credentials::bearer(self.name.clone(), token) })
    }

    fn refused(&self, login: &Login) -> bool {
        self.tokens.refuse(&login.credentials)
    }
}
