//! The embedded CRM as a [`CrmClient`].

use async_trait::async_trait;
use email_router_model::{ActivityId, EmailAddress, MessageId, OrganizationId};
use uuid::Uuid;

use super::sql::random_id;
use super::writer::Done;
use super::{EmbeddedCrm, incoming, lookup, outgoing, settings};
use crate::{
    Attachment, Claim, CrmClient, CrmMailbox, Delivered, DeliveryReport, EmailLookup, EmailSummary,
    IncomingEmail, OrganizationSettings, OutgoingEmail, PendingEmail, PendingQuery, Resolution, Result,
    SendOutcome,
};

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl CrmClient for EmbeddedCrm {
    fn organization_id(&self) -> OrganizationId {
        self.organization
    }

    async fn settings(&self) -> Result<OrganizationSettings> {
        self.read(settings::read).await
    }

    async fn mailboxes(&self) -> Result<Vec<CrmMailbox>> {
        self.read(lookup::mailboxes).await
    }

    async fn resolve(&self, addresses: &[EmailAddress]) -> Result<Vec<Vec<Resolution>>> {
        let addresses = addresses.to_vec();
        self.read(move |conn| addresses.iter().map(|a| lookup::resolve(conn, a)).collect()).await
    }

    async fn find_emails(&self, by: &EmailLookup, limit: usize) -> Result<Vec<EmailSummary>> {
        let by = by.clone();
        self.read(move |conn| lookup::find_emails(conn, &by, limit)).await
    }

    async fn exists(&self, id: &ActivityId) -> Result<bool> {
        let id = *id;
        self.read(move |conn| lookup::exists(conn, id)).await
    }

    async fn deliver_incoming(&self, email: &IncomingEmail) -> Result<Delivered> {
        let size = email.body.len() + email.attachments.iter().map(|a| a.content.len()).sum::<usize>() + 2048;
        let items: Vec<Uuid> = email.queues.iter().map(|_| random_id(&*self.entropy)).collect();
        let (email, now) = (email.clone(), self.clock.now());
        self.writer
            .write(size, move |conn| incoming::deliver(conn, &email, &items, now).map(Done::Commit))
            .await
    }

    async fn pending_outgoing(&self, query: &PendingQuery) -> Result<Vec<PendingEmail>> {
        let query = query.clone();
        self.read(move |conn| outgoing::pending(conn, &query)).await
    }

    async fn claim(&self, email: &PendingEmail) -> Result<Claim> {
        let (email, now) = (email.clone(), self.clock.now());
        self.write(move |conn| outgoing::claim(conn, &email, now)).await
    }

    async fn outgoing_email(&self, id: &ActivityId) -> Result<OutgoingEmail> {
        let id = *id;
        self.read(move |conn| outgoing::outgoing(conn, id)).await
    }

    async fn attachments(&self, id: &ActivityId) -> Result<Vec<Attachment>> {
        let id = *id;
        self.read(move |conn| outgoing::attachments(conn, id)).await
    }

    async fn prepare_outgoing(
        &self,
        id: &ActivityId,
        message_id: &MessageId,
        with_token: bool,
    ) -> Result<OutgoingEmail> {
        let (id, message_id) = (*id, message_id.clone());
        self.write(move |conn| outgoing::prepare(conn, id, &message_id, with_token)).await
    }

    async fn finish(&self, id: &ActivityId, outcome: &SendOutcome) -> Result<()> {
        let (id, outcome, now) = (*id, outcome.clone(), self.clock.now());
        self.write(move |conn| outgoing::finish(conn, id, &outcome, now)).await
    }

    async fn record_delivery(&self, report: &DeliveryReport) -> Result<bool> {
        // CONTRACT PLACEHOLDER: the CRM engineer implements this
        Err(crate::Error::new(crate::ErrorKind::Invalid, format!("not kept yet: {}", report.report)))
    }
}
