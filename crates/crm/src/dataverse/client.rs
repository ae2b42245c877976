//! An organization on a server as a [`CrmClient`]: finds out what it is, keeps the mirror up to date, and gives each call to who decides there.

use std::fmt;
use std::sync::{Arc, RwLock};

use async_trait::async_trait;
use email_router_model::{ActivityId, EmailAddress, MessageId, OrganizationId};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::mirror::{Mirror, MirrorSize, MirrorVerification};
use super::organization::{Organization, OrganizationReader};
use super::probe::OrganizationReport;
use super::records::RouterDecides;
use super::settings::{ApiVersion, DataverseSettings, EmailProcessing, Endpoint};
use super::tables::Tables;
use super::web_api::{Session, fault};
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
    router: Arc<RouterDecides>,
    reader: OrganizationReader,
    /// Only one reads changes at a time.
    syncing: Arc<Mutex<()>>,
    keeper: JoinHandle<()>,
}

impl Drop for Inner {
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
        let session = negotiate(&settings).await?;
        let reader = OrganizationReader::new(&session).await?;
        let organization = reader.read().await?;
        is_the_one(&settings, &session, &organization)?;
        let place = session.place();
        if settings.endpoint == Endpoint::OrganizationService {
            let message =
                format!("{place}: the Organization Service is not served by this version of the router");
            return Err(Error::new(ErrorKind::Refused, message));
        }
        match (settings.email_processing, organization.channel) {
            (EmailProcessing::Crm, Some(channel)) if channel != ROUTER_CHANNEL => {
                let message = format!(
                    "{place}: EmailProcessing is Crm, and the organization's e-mail channel is server-side synchronization \
                     (emailconnectionchannel {channel}), which refuses the router's messages"
                );
                return Err(Error::new(ErrorKind::Refused, message).with_hint(
                    "set EmailProcessing to Router, or the organization's e-mail channel to the Email Router",
                ));
            }
            _ => {}
        }
        let tables = Tables::read(&session).await?;
        let mirror = Mirror::open(&settings.mirror_file, Arc::clone(&settings.clock)).await?;
        if mirror.bind(organization.id).await? {
            tracing::info!("{place}: the mirror is begun for the organization {}", organization.unique_name);
        }
        let period = settings.mirror_period;
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
        Ok(Self(Arc::new(Inner { router, reader, syncing, keeper })))
    }

    /// The access test: asks for everything that the service will use, and changes nothing; not even the mirror is made.
    pub async fn probe(settings: &DataverseSettings) -> OrganizationReport {
        super::probe::probe(settings).await
    }

    /// Asks for what has changed now, and does not wait for the next turn of [`DataverseSettings::mirror_period`].
    ///
    /// # Errors
    /// The server did not answer, or the mirror cannot be written.
    pub async fn refresh(&self) -> Result<()> {
        let _turn = self.0.syncing.lock().await;
        refresh(&self.0.router, &self.0.reader).await
    }

    /// How much the mirror holds.
    ///
    /// # Errors
    /// The mirror cannot be read.
    pub async fn mirror_size(&self) -> Result<MirrorSize> {
        self.0.router.mirror.size().await
    }

    /// Compares names, addresses and states in the mirror with the organization. Costs a request for each 5,000 records.
    ///
    /// # Errors
    /// The server does not answer, or the mirror cannot be read.
    pub async fn verify_mirror(&self) -> Result<MirrorVerification> {
        let router = &self.0.router;
        router.mirror.verify(&router.session, &router.tables).await
    }

    /// Forgets what the mirror holds, but for notes on mail, and reads it anew.
    ///
    /// # Errors
    /// As [`Self::refresh`].
    pub async fn rebuild_mirror(&self) -> Result<()> {
        let _turn = self.0.syncing.lock().await;
        self.0.router.mirror.rebuild().await?;
        self.0.router.sync().await
    }

    /// What is known of the recipients of an outgoing e-mail from delivery reports, in any order.
    ///
    /// # Errors
    /// The mirror cannot be read.
    pub async fn reported(&self, id: &ActivityId) -> Result<Vec<RecipientReport>> {
        let note = self.0.router.mirror.note(id).await?.unwrap_or_default();
        Ok(note.recipients.into_iter().map(|recipient| recipient.last).collect())
    }

    /// The unique name of the organization.
    #[must_use]
    pub fn unique_name(&self) -> String {
        self.0.router.organization().unique_name.clone()
    }

    /// The version of the server, such as `9.2.24032.20`; empty where it does not tell.
    #[must_use]
    pub fn version(&self) -> String {
        self.0.router.organization().version.clone()
    }
}

async fn refresh(router: &RouterDecides, reader: &OrganizationReader) -> Result<()> {
    router.set_organization(reader.read().await?);
    router.sync().await
}

/// The newest version of the Web API that the server has (1).
pub(super) async fn negotiate(settings: &DataverseSettings) -> Result<Session> {
    let versions = match settings.api_version {
        Some(version) => vec![version],
        None => ApiVersion::ALL.to_vec(),
    };
    let mut last = None;
    for version in versions {
        let session = Session::new(settings.clone(), version)?;
        match session.get("WhoAmI", "asking who we are").await {
            Ok(_) => return Ok(session),
            Err(error) if [404, 501].iter().any(|status| fault::has_status(&error, *status)) => {
                last = Some(error)
            }
            Err(error) => return Err(error),
        }
    }
    let place = super::web_api::place(&settings.url);
    let error = Error::new(ErrorKind::Refused, format!("{place}: there is no Web API of a version the router knows"))
        .with_hint("check that Url is the root of the organization (without /api, /main.aspx); organizations before CRM 2016 need the Organization Service");
    Err(match last {
        Some(last) => error.with_source(last),
        None => error,
    })
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
        self.0.router.id
    }
    async fn settings(&self) -> Result<OrganizationSettings> {
        Ok(self.0.router.organization().settings.clone())
    }
    async fn mailboxes(&self) -> Result<Vec<CrmMailbox>> {
        self.0.router.mailboxes().await
    }
    async fn resolve(&self, addresses: &[EmailAddress]) -> Result<Vec<Vec<Resolution>>> {
        self.0.router.resolve(addresses).await
    }
    async fn find_emails(&self, lookup: &EmailLookup, limit: usize) -> Result<Vec<EmailSummary>> {
        self.0.router.find_emails(lookup, limit).await
    }
    async fn exists(&self, id: &ActivityId) -> Result<bool> {
        self.0.router.exists(id).await
    }
    async fn check_incoming(&self, _: &IncomingCheck) -> Result<Verdict> {
        Ok(Verdict::RouterDecides)
    }
    async fn deliver_incoming(&self, email: IncomingEmail) -> Result<Delivered> {
        self.0.router.deliver_incoming(email).await
    }
    async fn pending_outgoing(&self, query: &PendingQuery) -> Result<Vec<PendingEmail>> {
        self.0.router.pending_outgoing(query).await
    }
    async fn claim(&self, email: &PendingEmail) -> Result<Claim> {
        self.0.router.claim(email).await
    }
    async fn outgoing_email(&self, id: &ActivityId) -> Result<OutgoingEmail> {
        self.0.router.outgoing_email(id).await
    }
    async fn attachments(&self, id: &ActivityId) -> Result<Vec<Attachment>> {
        self.0.router.attachments(id).await
    }
    async fn prepare_outgoing(
        &self,
        id: &ActivityId,
        message_id: &MessageId,
        with_token: bool,
    ) -> Result<OutgoingEmail> {
        self.0.router.prepare_outgoing(id, message_id, with_token).await
    }
    async fn finish(&self, id: &ActivityId, outcome: &SendOutcome) -> Result<()> {
        self.0.router.finish(id, outcome).await
    }
    async fn record_delivery(&self, report: &DeliveryReport) -> Result<bool> {
        self.0.router.record_delivery(report).await
    }
}

impl fmt::Debug for DataverseCrm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataverseCrm").field("session", &self.0.router.session).finish_non_exhaustive()
    }
}

impl fmt::Display for DataverseCrm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.router.session.place())
    }
}
