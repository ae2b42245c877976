//! Mode A of `crm-contract.md`: the CRM decides which mail belongs in it, ties it to conversations and records, and hands out what is to be sent. The router asks
//! (CheckIncomingEmail), delivers (DeliverIncomingEmail), takes (BackgroundSendEmail) and tells what became of it.

mod incoming;
mod lookup;
mod outgoing;
pub(super) mod service;
mod web_api;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use email_router_model::{ActivityId, EmailAddress, MessageId, OrganizationId, Timestamp};
use serde_json::Value;
use uuid::Uuid;

use self::service::{Fetch, OrganizationService, Page, Row};
pub(super) use self::web_api::WebApiService;
use super::client::negotiate;
use super::mirror::Mirror;
use super::settings::{DataverseSettings, Endpoint};
use super::web_api::fault::{self, code};
use super::{organization, soap};
use crate::{
    Attachment, Claim, CrmClient, CrmMailbox, Delivered, DeliveryReport, EmailLookup, EmailSummary, Error,
    ErrorKind, IncomingCheck, IncomingEmail, OrganizationSettings, OutgoingEmail, PendingEmail, PendingQuery,
    RecipientReport, Resolution, Result, SendOutcome, Verdict,
};

/// An organization that decides about its mail itself. Cloning is cheap; clones share all.
#[derive(Clone)]
pub struct ServerDecides(Arc<Inner>);

struct Inner {
    service: Arc<dyn OrganizationService>,
    /// Of the mirror the notes alone.
    mirror: Mirror,
    settings: DataverseSettings,
    organization: Uuid,
    id: OrganizationId,
    unique_name: String,
    version: String,
    /// Tables and columns that the organization was asked for and does not have: old versions have fewer.
    missing: Mutex<HashSet<(String, String)>>,
    /// What the server has handed out to us and nobody has claimed yet.
    handed_out: Mutex<HashMap<Uuid, PendingEmail>>,
    /// Work on one e-mail, one after the other; an e-mail has the lock of its number.
    turns: [tokio::sync::Mutex<()>; 64],
    /// The server does not take the status Sent, and is told by SendEmail.
    sent_by_message: AtomicBool,
    /// The server does not let us ask in a sender's name.
    not_in_other_names: AtomicBool,
}

/// Columns of the organization (`crm-contract.md` 1).
const ORGANIZATION: [&str; 22] = [
    "name",
    "emailconnectionchannel",
    "emailcorrelationenabled",
    "enablesmartmatching",
    "trackingprefix",
    "trackingtokenidbase",
    "trackingtokeniddigits",
    "maximumtrackingnumber",
    "hashfilterkeywords",
    "hashmaxcount",
    "hashdeltasubjectcount",
    "hashminaddresscount",
    "ignoreinternalemail",
    "requireapprovalforuseremail",
    "requireapprovalforqueueemail",
    "allowunresolvedpartiesonemailsend",
    "unresolveemailaddressifmultiplematch",
    "resolvesimilarunresolvedemailaddress",
    "maxuploadfilesize",
    "blockedattachments",
    "orgdborgsettings",
    "organizationid",
];

/// There is no such column, as FetchXML and the Web API say it.
const NO_COLUMN: [i32; 2] = [code::hex(0x8004_1103), code::hex(0x8006_0888)];

impl ServerDecides {
    /// Connects to an organization by the endpoint of the settings, and opens the file with the router's notes.
    ///
    /// # Errors
    /// The server cannot be reached, does not let us in, has another organization there, or one whose e-mail goes through server-side synchronization.
    pub async fn connect(settings: DataverseSettings) -> Result<Self> {
        let service: Arc<dyn OrganizationService> = match settings.endpoint {
            Endpoint::OrganizationService => Arc::new(soap::connect(&settings)?),
            Endpoint::WebApi | Endpoint::Automatic => {
                Arc::new(WebApiService::new(negotiate(&settings).await?))
            }
        };
        let mirror = Mirror::open(&settings.mirror_file, Arc::clone(&settings.clock)).await?;
        Self::new(service, mirror, settings).await
    }

    /// An organization behind this service; the mirror keeps the notes.
    pub(in crate::dataverse) async fn new(
        service: Arc<dyn OrganizationService>,
        mirror: Mirror,
        settings: DataverseSettings,
    ) -> Result<Self> {
        let who = service.who_am_i().await?;
        let version = match service.version().await {
            Ok(version) => version,
            // it only decides two defaults
            Err(error) if fault::of(&error).is_some() => String::new(),
            Err(error) => return Err(error),
        };
        mirror.bind(who.organization).await?;
        let this = Self(Arc::new(Inner {
            service,
            mirror,
            settings,
            organization: who.organization,
            id: OrganizationId::from_uuid(who.organization),
            unique_name: String::new(),
            version,
            missing: Mutex::default(),
            handed_out: Mutex::default(),
            turns: std::array::from_fn(|_| tokio::sync::Mutex::default()),
            sent_by_message: AtomicBool::default(),
            not_in_other_names: AtomicBool::default(),
        }));
        let row = this.organization_row().await?;
        let place = this.0.service.place().to_owned();
        let name = row.text("name").unwrap_or_default().to_owned();
        match &this.0.settings.unique_name {
            Some(wanted) if !wanted.eq_ignore_ascii_case(&name) => {
                let name = fault::one_line(&name);
                let message = format!(
                    "{place}: the organization there is called {name:?}, and the deployment names {wanted:?}"
                );
                return Err(Error::new(ErrorKind::Refused, message)
                    .with_hint("correct Url or OrganizationName of the deployment"));
            }
            _ => {}
        }
        if row.int("emailconnectionchannel") == Some(0) {
            let message = format!(
                "{place}: the organization uses server-side synchronization (emailconnectionchannel 0), which refuses the router's messages"
            );
            return Err(Error::new(ErrorKind::Refused, message).with_hint(
                "set EmailProcessing of the deployment to Router, or the organization's e-mail channel to the Email Router",
            ));
        }
        Ok(match Arc::try_unwrap(this.0) {
            Ok(inner) => Self(Arc::new(Inner { unique_name: name, ..inner })),
            Err(shared) => Self(shared),
        })
    }

    /// The file with the notes.
    pub(super) fn mirror(&self) -> &Mirror {
        &self.0.mirror
    }

    /// The unique name of the organization.
    #[must_use]
    pub fn unique_name(&self) -> &str {
        &self.0.unique_name
    }

    /// The version of the server, such as `8.2.2.112`; empty where it does not tell.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.0.version
    }

    /// What is known of the recipients of an outgoing e-mail from delivery reports, in any order.
    ///
    /// # Errors
    /// The notes cannot be read.
    pub async fn reported(&self, id: &ActivityId) -> Result<Vec<RecipientReport>> {
        let note = self.0.mirror.note(id).await?.unwrap_or_default();
        Ok(note.recipients.into_iter().map(|recipient| recipient.last).collect())
    }

    async fn organization_row(&self) -> Result<Row> {
        self.row("organization", self.0.organization, &ORGANIZATION).await
    }

    fn now(&self) -> Timestamp {
        self.0.settings.clock.now()
    }

    /// The lock of an e-mail.
    async fn turn(&self, id: &Uuid) -> tokio::sync::MutexGuard<'_, ()> {
        let number = usize::from(id.as_bytes()[15]) % self.0.turns.len();
        self.0.turns[number].lock().await
    }

    /// The id in the CRM of an e-mail that may be named by the id the router derived for it.
    async fn in_crm(&self, id: &ActivityId) -> Result<Uuid> {
        let note = self.0.mirror.note(id).await?;
        Ok(note.and_then(|note| note.activity).unwrap_or(*id.as_uuid()))
    }

    fn is_missing(&self, table: &str, column: &str) -> bool {
        let missing = self.0.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing.contains(&(table.to_owned(), column.to_owned()))
    }

    /// Keeps that the organization does not have the column that the error is about; `None`: it is about something else, or that was known.
    fn learn(&self, table: &str, error: &Error) -> Option<String> {
        if !fault::is(error, &NO_COLUMN) {
            return None;
        }
        let words = &fault::of(error)?.message;
        let column = ["Name = '", "named '"].iter().find_map(|before| {
            let rest = words.split_once(before)?.1;
            rest.split('\'').next().map(str::to_owned)
        })?;
        let mut missing = self.0.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing.insert((table.to_owned(), column.clone())).then(|| {
            tracing::debug!(table, column, "the organization does not have this column");
            column
        })
    }

    /// A row; columns that the organization does not have are left out.
    async fn row(&self, table: &str, id: Uuid, columns: &[&str]) -> Result<Row> {
        loop {
            let there: Vec<_> =
                columns.iter().copied().filter(|column| !self.is_missing(table, column)).collect();
            match self.0.service.retrieve(table, id, &there).await {
                Err(error) if self.learn(table, &error).is_some() => {}
                row => return row,
            }
        }
    }

    async fn page(&self, query: &mut Fetch, page: u32, cookie: Option<&str>) -> Result<Page> {
        let known: Vec<_> = {
            let missing = self.0.missing.lock().unwrap_or_else(PoisonError::into_inner);
            missing
                .iter()
                .filter(|(table, _)| *table == query.table)
                .map(|(_, column)| column.clone())
                .collect()
        };
        known.iter().for_each(|column| query.without(column));
        loop {
            match self.0.service.retrieve_multiple(query, page, cookie).await {
                Err(error) => match self.learn(&query.table, &error) {
                    Some(column) => query.without(&column),
                    None => return Err(error),
                },
                Ok(page) => return Ok(page),
            }
        }
    }

    /// All rows of a query, at most `most`; more is an error, since what is left out would be forgotten.
    async fn rows(&self, mut query: Fetch, most: usize) -> Result<Vec<Row>> {
        let (mut all, mut cookie) = (Vec::new(), None::<String>);
        for number in 1.. {
            let page = self.page(&mut query, number, cookie.as_deref()).await?;
            let empty = page.rows.is_empty();
            all.extend(page.rows);
            if all.len() > most {
                let message =
                    format!("{}: more than {most} rows of the table {}", self.0.service.place(), query.table);
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            if !page.more || empty {
                break;
            }
            cookie = page.cookie;
        }
        Ok(all)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl CrmClient for ServerDecides {
    fn organization_id(&self) -> OrganizationId {
        self.0.id
    }
    async fn settings(&self) -> Result<OrganizationSettings> {
        let row = Value::Object(self.organization_row().await?.0);
        organization::settings(&row, &self.0.version, &self.0.settings.organization_settings)
    }
    async fn mailboxes(&self) -> Result<Vec<CrmMailbox>> {
        self.read_mailboxes(None).await
    }
    async fn resolve(&self, addresses: &[EmailAddress]) -> Result<Vec<Vec<Resolution>>> {
        self.resolve_addresses(addresses).await
    }
    async fn find_emails(&self, lookup: &EmailLookup, limit: usize) -> Result<Vec<EmailSummary>> {
        self.look_up(lookup, limit).await
    }
    async fn exists(&self, id: &ActivityId) -> Result<bool> {
        self.was_delivered(id).await
    }
    async fn check_incoming(&self, message: &IncomingCheck) -> Result<Verdict> {
        self.check(message).await
    }
    async fn deliver_incoming(&self, email: IncomingEmail) -> Result<Delivered> {
        self.deliver(email).await
    }
    async fn pending_outgoing(&self, query: &PendingQuery) -> Result<Vec<PendingEmail>> {
        self.pending(query).await
    }
    async fn claim(&self, email: &PendingEmail) -> Result<Claim> {
        self.take(email).await
    }
    async fn outgoing_email(&self, id: &ActivityId) -> Result<OutgoingEmail> {
        self.outgoing(id).await
    }
    async fn attachments(&self, id: &ActivityId) -> Result<Vec<Attachment>> {
        self.read_attachments(id).await
    }
    async fn prepare_outgoing(
        &self,
        id: &ActivityId,
        message_id: &MessageId,
        with_token: bool,
    ) -> Result<OutgoingEmail> {
        self.prepare(id, message_id, with_token).await
    }
    async fn finish(&self, id: &ActivityId, outcome: &SendOutcome) -> Result<()> {
        self.end(id, outcome).await
    }
    async fn record_delivery(&self, report: &DeliveryReport) -> Result<bool> {
        self.keep_report(report).await
    }
}

impl fmt::Debug for ServerDecides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerDecides").field("service", &self.0.service).finish_non_exhaustive()
    }
}

impl fmt::Display for ServerDecides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.service.place())
    }
}
