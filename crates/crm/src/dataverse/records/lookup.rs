//! What decisions ask: answered by the mirror, without a request; verified first when the mirror could not ask for changes for long (`crm-contract.md` 13.5).

use std::collections::HashSet;
use std::sync::{Arc, PoisonError};

use email_router_model::{ActivityId, EmailAddress, RecordRef};
use uuid::Uuid;

use super::{RouterDecides, directory};
use crate::dataverse::organization::Organization;
use crate::{CrmMailbox, EmailLookup, EmailSummary, ErrorKind, Resolution, Result};

impl RouterDecides {
    pub(crate) async fn mailboxes(&self) -> Result<Vec<CrmMailbox>> {
        let by_synchronization = self.organization().channel == Some(0);
        let read = directory::read(&self.session, by_synchronization).await?;
        *self.default_mailboxes.write().unwrap_or_else(PoisonError::into_inner) = read.default_mailboxes;
        Ok(read.mailboxes)
    }

    /// The record `mailbox` of a user or queue, as far as it was read.
    pub(super) fn default_mailbox(&self, record: &RecordRef) -> Option<Uuid> {
        self.default_mailboxes.read().unwrap_or_else(PoisonError::into_inner).get(record).copied()
    }

    pub(crate) async fn resolve(&self, addresses: &[EmailAddress]) -> Result<Vec<Vec<Resolution>>> {
        let mut found = self.mirror.resolve(addresses).await?;
        if self.is_stale().await {
            let hits: HashSet<_> = found.iter().flatten().map(|hit| hit.record.clone()).collect();
            let gone = self.gone(hits).await?;
            for hits in &mut found {
                hits.retain(|hit| !gone.contains(&hit.record));
            }
        }
        Ok(found)
    }

    pub(crate) async fn find_emails(&self, lookup: &EmailLookup, limit: usize) -> Result<Vec<EmailSummary>> {
        let mut found = self.mirror.find_emails(lookup, limit).await?;
        if self.is_stale().await {
            let hits = found.iter().map(|hit| RecordRef::new("email", *hit.activity_id.as_uuid())).collect();
            let gone = self.gone(hits).await?;
            found.retain(|hit| !gone.iter().any(|record| record.id == *hit.activity_id.as_uuid()));
        }
        Ok(found)
    }

    /// Whether the mirror could not ask for changes for long.
    pub(super) async fn is_stale(&self) -> bool {
        self.mirror.stale(self.now(), self.session.settings().mirror_period).await
    }

    /// Which of these records are not there any more; the mirror forgets them.
    async fn gone(&self, hits: HashSet<RecordRef>) -> Result<HashSet<RecordRef>> {
        let mut gone = HashSet::new();
        for record in hits {
            let (id, _) = self.tables.primary(&record.table).unwrap_or(("activityid", ""));
            let path = format!("{}?$select={id}", self.tables.path(&record)?);
            match self.session.get(&path, "verifying what the mirror says").await {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    if record.table == "email" {
                        self.mirror.forget_email(&ActivityId::from_uuid(record.id)).await?;
                    } else {
                        self.mirror.forget_record(&record.table, record.id).await?;
                    }
                    gone.insert(record);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(gone)
    }

    pub(crate) fn set_organization(&self, organization: Organization) {
        *self.organization.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(organization);
    }
}
