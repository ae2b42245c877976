//! Mode B of `crm-contract.md`: the router decides and writes records. What it decides by comes from the mirror, so that deciding costs no request.

mod attachments;
pub(crate) mod directory;
mod incoming;
mod lookup;
mod outgoing;
mod prepare;
mod reports;

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use email_router_model::{OrganizationId, RecordRef, Timestamp};
use uuid::Uuid;

use super::mirror::Mirror;
use super::organization::Organization;
use super::tables::Tables;
use super::web_api::Session;

/// An organization whose mail the router decides about.
#[derive(Debug)]
pub(crate) struct RouterDecides {
    pub(super) session: Session,
    pub(super) tables: Tables,
    pub(super) mirror: Mirror,
    /// As it was read last.
    pub(super) organization: RwLock<Arc<Organization>>,
    pub(super) id: OrganizationId,
    /// What the server has been found to allow.
    pub(super) routes: Routes,
    /// The record `mailbox` of users and queues, as they were read last.
    pub(super) default_mailboxes: RwLock<HashMap<RecordRef, Uuid>>,
    pub(super) own_writes: Mutex<outgoing::OwnWrites>,
}

/// What Microsoft has not published and the server has shown (`crm-contract.md` 18); each begins with the usual way.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    /// E-mails are created by POST with their id, since the server refuses PATCH with parties.
    pub(super) create_by_post: AtomicBool,
    /// An e-mail is recorded as sent by the message SendEmail, since the server refuses the change of its status.
    pub(super) sent_by_message: AtomicBool,
    /// The server does not let us count a user's tracking numbers.
    pub(super) own_counters: AtomicBool,
}

impl RouterDecides {
    /// The organization as it was read last.
    pub(super) fn organization(&self) -> Arc<Organization> {
        Arc::clone(&self.organization.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads what has changed.
    pub(super) async fn sync(&self) -> crate::Result<()> {
        self.mirror.sync(&self.session, &self.tables, &self.organization().settings).await
    }

    pub(super) fn now(&self) -> Timestamp {
        self.session.settings().clock.now()
    }
}
