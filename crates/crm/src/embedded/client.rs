//! The embedded CRM as a [`CrmClient`].

use async_trait::async_trait;
use email_router_model::{ActivityId, EmailAddress, MessageId, OrganizationId, RecordRef};
use uuid::Uuid;

use super::sql::random_id;
use super::writer::Done;
use super::{EmbeddedCrm, delivery, incoming, lookup, outgoing, settings, unresolved};
use crate::{
    Attachment, Claim, CrmClient, CrmMailbox, Delivered, DeliveryReport, EmailLookup, EmailSummary,
    IncomingCheck, IncomingEmail, OrganizationSettings, OutgoingEmail, PendingEmail, PendingQuery,
    Resolution, Result, SendOutcome, Verdict,
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

    async fn check_incoming(&self, _: &IncomingCheck) -> Result<Verdict> {
        Ok(Verdict::RouterDecides)
    }

    async fn deliver_incoming(&self, email: IncomingEmail) -> Result<Delivered> {
        let text = email.text_body.as_ref().map_or(0, String::len);
        let size =
            email.body.len() + text + email.attachments.iter().map(|a| a.content.len()).sum::<usize>() + 2048;
        let items: Vec<Uuid> = email.queues.iter().map(|_| random_id(&*self.entropy)).collect();
        let new_sender = email.new_sender.clone();
        let now = self.clock.now();
        let (delivered, others) = self
            .writer
            .write(size, move |conn| incoming::deliver(conn, email, &items, now).map(Done::Commit))
            .await?;
        if let Some(new) = new_sender.filter(|_| others)
            && let Err(error) = self.resolve_similar(&new.address, &new.record).await
        {
            // the e-mail is there; what is left of the others can be resolved at any time
            tracing::warn!(%error, record = %new.record, "not all unresolved parties with this address were resolved");
        }
        Ok(delivered)
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
        let report = report.clone();
        self.write(move |conn| delivery::record(conn, &report)).await
    }
}

impl EmbeddedCrm {
    /// Makes the record the party of all e-mails in which the address stands unresolved; how many parties. Each transaction takes a bounded
    /// number of them.
    pub(super) async fn resolve_similar(&self, address: &EmailAddress, record: &RecordRef) -> Result<u64> {
        let mut all = 0;
        loop {
            let (address, record) = (address.clone(), record.clone());
            match self.write(move |conn| unresolved::resolve_similar(conn, &address, &record)).await? {
                0 => return Ok(all),
                some => all += some,
            }
        }
    }
}
