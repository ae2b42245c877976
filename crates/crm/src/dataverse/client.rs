//! An organization on a server as a [`CrmClient`]: finds out what it is, keeps the mirror up to date, and gives each call to who decides there.

use std::fmt;
use std::sync::{Arc, RwLock};

use async_trait::async_trait;
use email_router_model::{ActivityId, EmailAddress, MessageId, OrganizationId};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::decides::{ServerDecides, WebApiService};
use super::mirror::{Mirror, MirrorSize, MirrorVerification};
use super::organization::{Organization, OrganizationReader};
use super::probe::OrganizationReport;
use super::records::RouterDecides;
use super::settings::{ApiVersion, DataverseSettings, EmailProcessing, Endpoint};
use super::tables::Tables;
use super::web_api::{Session, fault, place};
use crate::{
    Attachment, Claim, CrmClient, CrmMailbox, Delivered, DeliveryReport, EmailLookup, EmailSummary, Error,
    ErrorKind, IncomingCheck, IncomingEmail, OrganizationSettings, OutgoingEmail, PendingEmail, PendingQuery,
    RecipientReport, Resolution, Result, SendOutcome, Verdict,
};

/// `organization.emailconnectionchannel` of an organization whose channel is the Email Router.
const ROUTER_CHANNEL: u64 = 1;

/// One organization of Dataverse or Dynamics 365. Cloning is cheap; clones share the connection and the mirror.
#[derive(Clone)]
pub struct DataverseCrm(Arc<Inner>);

struct Inner {
    /// Who decides.
    crm: Decider,
    place: Arc<str>,
}

enum Decider {
    /// The router: mode B.
    Router(Router),
    /// The CRM: mode A.
    Server(ServerDecides),
}

struct Router {
    router: Arc<RouterDecides>,
    reader: OrganizationReader,
    /// Only one reads changes at a time.
    syncing: Arc<Mutex<()>>,
    keeper: JoinHandle<()>,
}

impl Drop for Router {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl DataverseCrm {
    /// Finds the organization, what version it is and who decides there, and reads the mirror as far as it is not up to date: the first time all
    /// addresses and the e-mails of [`DataverseSettings::emails_remembered`]. From then on the mirror is kept up to date in the background, until the last clone
    /// is dropped. Needs a tokio runtime.
    ///
    /// # Errors
    /// The server cannot be reached, does not let us in, has another organization there, or works in a way the settings exclude.
    pub async fn connect(settings: DataverseSettings) -> Result<Self> {
        let session = match settings.endpoint {
            Endpoint::OrganizationService => None,
            Endpoint::WebApi => Some(negotiate(&settings).await?),
            Endpoint::Automatic => try_negotiate(&settings).await?,
        };
        let Some(session) = session else {
            if settings.email_processing == EmailProcessing::Router {
                return Err(only_the_server_decides(&settings));
            }
            let place: Arc<str> = place(&settings.url).into();
            let settings = DataverseSettings { endpoint: Endpoint::OrganizationService, ..settings };
            let crm = Decider::Server(ServerDecides::connect(settings).await?);
            return Ok(Self(Arc::new(Inner { crm, place })));
        };
        let reader = OrganizationReader::new(&session).await?;
        let organization = reader.read().await?;
        is_the_one(&settings, &session, &organization)?;
        let place = Arc::clone(session.place());
        let by_server = match settings.email_processing {
            EmailProcessing::Router => false,
            EmailProcessing::Crm => true,
            EmailProcessing::Automatic => organization.channel == Some(ROUTER_CHANNEL),
        };
        let mirror = Mirror::open(&settings.mirror_file, Arc::clone(&settings.clock)).await?;
        let crm = if by_server {
            let service = Arc::new(WebApiService::new(session));
            Decider::Server(ServerDecides::new(service, mirror, settings).await?)
        } else {
            Decider::Router(Router::connect(session, reader, organization, mirror).await?)
        };
        Ok(Self(Arc::new(Inner { crm, place })))
    }

    /// The access test: asks for everything that the service will use, and changes nothing; not even the mirror is made.
    pub async fn probe(settings: &DataverseSettings) -> OrganizationReport {
        super::probe::probe(settings).await
    }

    /// Asks for what has changed now, and does not wait for the next turn of [`DataverseSettings::mirror_period`]. Where the CRM decides there is
    /// nothing to ask for.
    ///
    /// # Errors
    /// The server did not answer, or the mirror cannot be written.
    pub async fn refresh(&self) -> Result<()> {
        match &self.0.crm {
            Decider::Router(this) => {
                let _turn = this.syncing.lock().await;
                refresh(&this.router, &this.reader).await
            }
            Decider::Server(_) => Ok(()),
        }
    }

    /// How much the mirror holds; where the CRM decides, notes alone.
    ///
    /// # Errors
    /// The mirror cannot be read.
    pub async fn mirror_size(&self) -> Result<MirrorSize> {
        match &self.0.crm {
            Decider::Router(this) => this.router.mirror.size().await,
            Decider::Server(this) => this.mirror().size().await,
        }
    }

    /// Compares names, addresses and states in the mirror with the organization. Costs a request for each 5,000 records. Where the CRM decides there is
    /// nothing to compare.
    ///
    /// # Errors
    /// The server does not answer, or the mirror cannot be read.
    pub async fn verify_mirror(&self) -> Result<MirrorVerification> {
        match &self.0.crm {
            Decider::Router(this) => {
                this.router.mirror.verify(&this.router.session, &this.router.tables).await
            }
            Decider::Server(_) => Ok(MirrorVerification::default()),
        }
    }

    /// Forgets what the mirror holds, but for notes on mail, and reads it anew.
    ///
    /// # Errors
    /// As [`Self::refresh`].
    pub async fn rebuild_mirror(&self) -> Result<()> {
        match &self.0.crm {
            Decider::Router(this) => {
                let _turn = this.syncing.lock().await;
                this.router.mirror.rebuild().await?;
                this.router.sync().await
            }
            Decider::Server(_) => Ok(()),
        }
    }

    /// What is known of the recipients of an outgoing e-mail from delivery reports, in any order.
    ///
    /// # Errors
    /// The mirror cannot be read.
    pub async fn reported(&self, id: &ActivityId) -> Result<Vec<RecipientReport>> {
        match &self.0.crm {
            Decider::Router(this) => {
                let note = this.router.mirror.note(id).await?.unwrap_or_default();
                Ok(note.recipients.into_iter().map(|recipient| recipient.last).collect())
            }
            Decider::Server(this) => this.reported(id).await,
        }
    }

    /// Whether the CRM decides which mail it takes, and not the router.
    #[must_use]
    pub fn crm_decides(&self) -> bool {
        matches!(self.0.crm, Decider::Server(_))
    }

    /// The unique name of the organization.
    #[must_use]
    pub fn unique_name(&self) -> String {
        match &self.0.crm {
            Decider::Router(this) => this.router.organization().unique_name.clone(),
            Decider::Server(this) => this.unique_name().to_owned(),
        }
    }

    /// The version of the server, such as `9.2.24032.20`; empty where it does not tell.
    #[must_use]
    pub fn version(&self) -> String {
        match &self.0.crm {
            Decider::Router(this) => this.router.organization().version.clone(),
            Decider::Server(this) => this.version().to_owned(),
        }
    }

    fn decider(&self) -> &dyn CrmClient {
        match &self.0.crm {
            Decider::Router(this) => &*this.router,
            Decider::Server(this) => this,
        }
    }
}

impl Router {
    /// Reads the mirror as far as it is not up to date, and keeps it so.
    async fn connect(
        session: Session,
        reader: OrganizationReader,
        organization: Organization,
        mirror: Mirror,
    ) -> Result<Self> {
        let tables = Tables::read(&session).await?;
        if mirror.bind(organization.id).await? {
            tracing::info!(
                "{}: the mirror is begun for the organization {}",
                session.place(),
                fault::one_line(&organization.unique_name)
            );
        }
        let period = session.settings().mirror_period;
        let id = OrganizationId::from_uuid(organization.id);
        let router = Arc::new(RouterDecides::new(session, tables, mirror, organization, id));
        let syncing = Arc::new(Mutex::new(()));
        router.sync().await?;
        let (kept, turn, reading) = (Arc::downgrade(&router), Arc::clone(&syncing), reader.clone());
        let keeper = tokio::spawn(async move {
            loop {
                tokio::time::sleep(period).await;
                let Some(router) = kept.upgrade() else { return };
                let _turn = turn.lock().await;
                if let Err(error) = refresh(&router, &reading).await {
                    tracing::warn!("the mirror could not ask for changes: {error}");
                }
            }
        });
        Ok(Self { router, reader, syncing, keeper })
    }
}

async fn refresh(router: &RouterDecides, reader: &OrganizationReader) -> Result<()> {
    router.set_organization(reader.read().await?);
    router.sync().await
}

/// The newest version of the Web API that the server has (1).
pub(super) async fn negotiate(settings: &DataverseSettings) -> Result<Session> {
    match try_negotiate(settings).await? {
        Some(session) => Ok(session),
        None => {
            let message =
                format!("{}: there is no Web API of a version the router knows", place(&settings.url));
            Err(Error::new(ErrorKind::Refused, message).with_hint(
                "check that Url is the root of the organization (without /api, /main.aspx); organizations before CRM 2016 have the Organization Service alone",
            ))
        }
    }
}

/// The same; `None` where the server has none.
pub(super) async fn try_negotiate(settings: &DataverseSettings) -> Result<Option<Session>> {
    let versions = match settings.api_version {
        Some(version) => vec![version],
        None => ApiVersion::ALL.to_vec(),
    };
    for version in versions {
        let session = Session::new(settings.clone(), version)?;
        match session.get("WhoAmI", "asking who we are").await {
            Ok(_) => return Ok(Some(session)),
            Err(error) if [404, 501].iter().any(|status| fault::has_status(&error, *status)) => {
                tracing::debug!("{error}");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Over the Organization Service the router does not decide.
pub(super) fn only_the_server_decides(settings: &DataverseSettings) -> Error {
    let message = format!(
        "{}: EmailProcessing is Router, which needs the Web API, and the organization is asked by the Organization Service",
        place(&settings.url)
    );
    Error::new(ErrorKind::Refused, message)
        .with_hint("set EmailProcessing to Automatic or Crm, or CrmEndpoint to WebApi")
}

/// An organization of another name is not touched.
pub(super) fn is_the_one(
    settings: &DataverseSettings,
    session: &Session,
    organization: &Organization,
) -> Result<()> {
    match &settings.unique_name {
        Some(wanted) if !wanted.eq_ignore_ascii_case(&organization.unique_name) => {
            let message = format!(
                "{}: the organization there is called {:?}, and the deployment names {wanted:?}",
                session.place(),
                fault::one_line(&organization.unique_name)
            );
            Err(Error::new(ErrorKind::Refused, message)
                .with_hint("correct Url or OrganizationName of the deployment; the unique name stands in the organization's developer resources"))
        }
        _ => Ok(()),
    }
}

impl RouterDecides {
    pub(super) fn new(
        session: Session,
        tables: Tables,
        mirror: Mirror,
        organization: Organization,
        id: OrganizationId,
    ) -> Self {
        Self {
            session,
            tables,
            mirror,
            organization: RwLock::new(Arc::new(organization)),
            id,
            routes: super::records::Routes::default(),
            default_mailboxes: RwLock::default(),
            own_writes: std::sync::Mutex::default(),
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl CrmClient for DataverseCrm {
    fn organization_id(&self) -> OrganizationId {
        self.decider().organization_id()
    }
    async fn settings(&self) -> Result<OrganizationSettings> {
        self.decider().settings().await
    }
    async fn mailboxes(&self) -> Result<Vec<CrmMailbox>> {
        self.decider().mailboxes().await
    }
    async fn resolve(&self, addresses: &[EmailAddress]) -> Result<Vec<Vec<Resolution>>> {
        self.decider().resolve(addresses).await
    }
    async fn find_emails(&self, lookup: &EmailLookup, limit: usize) -> Result<Vec<EmailSummary>> {
        self.decider().find_emails(lookup, limit).await
    }
    async fn exists(&self, id: &ActivityId) -> Result<bool> {
        self.decider().exists(id).await
    }
    async fn check_incoming(&self, message: &IncomingCheck) -> Result<Verdict> {
        self.decider().check_incoming(message).await
    }
    async fn deliver_incoming(&self, email: IncomingEmail) -> Result<Delivered> {
        self.decider().deliver_incoming(email).await
    }
    async fn pending_outgoing(&self, query: &PendingQuery) -> Result<Vec<PendingEmail>> {
        self.decider().pending_outgoing(query).await
    }
    async fn claim(&self, email: &PendingEmail) -> Result<Claim> {
        self.decider().claim(email).await
    }
    async fn outgoing_email(&self, id: &ActivityId) -> Result<OutgoingEmail> {
        self.decider().outgoing_email(id).await
    }
    async fn attachments(&self, id: &ActivityId) -> Result<Vec<Attachment>> {
        self.decider().attachments(id).await
    }
    async fn prepare_outgoing(
        &self,
        id: &ActivityId,
        message_id: &MessageId,
        with_token: bool,
    ) -> Result<OutgoingEmail> {
        self.decider().prepare_outgoing(id, message_id, with_token).await
    }
    async fn finish(&self, id: &ActivityId, outcome: &SendOutcome) -> Result<()> {
        self.decider().finish(id, outcome).await
    }
    async fn record_delivery(&self, report: &DeliveryReport) -> Result<bool> {
        self.decider().record_delivery(report).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl CrmClient for RouterDecides {
    fn organization_id(&self) -> OrganizationId {
        self.id
    }
    async fn settings(&self) -> Result<OrganizationSettings> {
        Ok(self.organization().settings.clone())
    }
    async fn mailboxes(&self) -> Result<Vec<CrmMailbox>> {
        RouterDecides::mailboxes(self).await
    }
    async fn resolve(&self, addresses: &[EmailAddress]) -> Result<Vec<Vec<Resolution>>> {
        RouterDecides::resolve(self, addresses).await
    }
    async fn find_emails(&self, lookup: &EmailLookup, limit: usize) -> Result<Vec<EmailSummary>> {
        RouterDecides::find_emails(self, lookup, limit).await
    }
    async fn exists(&self, id: &ActivityId) -> Result<bool> {
        RouterDecides::exists(self, id).await
    }
    async fn check_incoming(&self, _: &IncomingCheck) -> Result<Verdict> {
        Ok(Verdict::RouterDecides)
    }
    async fn deliver_incoming(&self, email: IncomingEmail) -> Result<Delivered> {
        RouterDecides::deliver_incoming(self, email).await
    }
    async fn pending_outgoing(&self, query: &PendingQuery) -> Result<Vec<PendingEmail>> {
        RouterDecides::pending_outgoing(self, query).await
    }
    async fn claim(&self, email: &PendingEmail) -> Result<Claim> {
        RouterDecides::claim(self, email).await
    }
    async fn outgoing_email(&self, id: &ActivityId) -> Result<OutgoingEmail> {
        RouterDecides::outgoing_email(self, id).await
    }
    async fn attachments(&self, id: &ActivityId) -> Result<Vec<Attachment>> {
        RouterDecides::attachments(self, id).await
    }
    async fn prepare_outgoing(
        &self,
        id: &ActivityId,
        message_id: &MessageId,
        with_token: bool,
    ) -> Result<OutgoingEmail> {
        RouterDecides::prepare_outgoing(self, id, message_id, with_token).await
    }
    async fn finish(&self, id: &ActivityId, outcome: &SendOutcome) -> Result<()> {
        RouterDecides::finish(self, id, outcome).await
    }
    async fn record_delivery(&self, report: &DeliveryReport) -> Result<bool> {
        RouterDecides::record_delivery(self, report).await
    }
}

impl fmt::Display for RouterDecides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.session.place())
    }
}

impl fmt::Debug for DataverseCrm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataverseCrm")
            .field("place", &self.0.place)
            .field("crm_decides", &self.crm_decides())
            .finish_non_exhaustive()
    }
}

impl fmt::Display for DataverseCrm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.place)
    }
}
