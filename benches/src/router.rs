//! A router on an embedded CRM in a temporary folder.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use email_router_crm::CrmClient;
use email_router_crm::embedded::EmbeddedCrm;
use email_router_crm::embedded::admin::fields;
use email_router_engine::IncomingSettings;
use email_router_engine::ports::{CrmIndex, Observer};
use email_router_engine::router::{IncomingRoute, Plan, Router, RouterParts, Server};
use email_router_model::{Mailbox, RecordRef, SystemClock, SystemEntropy};
use email_router_state::SqliteState;
use email_router_transport::Transport;

/// Opens or makes the CRM in this file.
#[must_use]
pub fn crm(file: &Path) -> EmbeddedCrm {
    EmbeddedCrm::open(file, Arc::new(SystemClock), Arc::new(SystemEntropy)).unwrap()
}

/// Adds a user with this address and filter (`all`, `response`, `none` ...).
pub async fn add_user(crm: &EmbeddedCrm, mailbox: &Mailbox, filter: &str) -> RecordRef {
    let values = fields([
        ("fullname", mailbox.name.as_str()),
        ("internalemailaddress", mailbox.address.as_str()),
        ("incomingemailfilteringmethod", filter),
    ]);
    crm.admin().add("systemuser", &values).await.unwrap().reference()
}

/// A router that works as the program does: embedded CRM, state on disk.
#[must_use]
pub fn router(folder: &Path, crm: EmbeddedCrm, observer: Arc<dyn Observer>) -> Arc<Router> {
    let crm: Arc<dyn CrmClient> = Arc::new(crm);
    Arc::new(Router::new(RouterParts {
        index: Arc::new(CrmIndex(Arc::clone(&crm))),
        crm,
        state: Arc::new(SqliteState::open(folder.join("state.db")).unwrap()),
        clock: Arc::new(SystemClock),
        entropy: Arc::new(SystemEntropy),
        observer,
        holder: "bench".to_owned(),
        signer: None,
    }))
}

/// Reads these mailboxes through one transport, `sessions` at a time, and deletes what was processed.
#[must_use]
pub fn plan(transport: Arc<dyn Transport>, mailboxes: Vec<(Mailbox, RecordRef)>, sessions: usize) -> Plan {
    let server = Server { name: transport.to_string(), max_sessions: sessions };
    let mut plan = Plan::default();
    plan.schedule.max_threads = sessions;
    plan.incoming = mailboxes
        .into_iter()
        .map(|(mailbox, record)| {
            let mut settings = IncomingSettings::default();
            settings.delete_after_processing = true;
            Arc::new(IncomingRoute {
                source: server.name.clone(),
                mailbox,
                record: Some(record),
                transport: Arc::clone(&transport),
                settings,
                polling_period: Duration::from_secs(3600),
                notify: false,
                server: server.clone(),
                fingerprint: 0,
            })
        })
        .collect();
    plan
}
