//! Load Data (`email-router-behaviour.md` 6.6): the users, queues and forward mailboxes of each deployment, which profiles serve them, why one is not
//! served, what changed since the last load, and their mailboxes in the configuration.

mod diff;
mod memory;
mod publish;
mod rows;

use std::path::Path;
use std::sync::Arc;

use email_router_config::{Deployment, Finding, SecretStore, Settings};
use email_router_crm::CrmMailbox;
use email_router_engine::decide::OrganizationView;
use email_router_model::{
    Clock, Direction, EmailAddress, MailboxKind, SystemClock, SystemEntropy, Timestamp,
};
use serde::Serialize;

pub use diff::{ChangedField, MailboxChange, WhatChanged, diff, plain};

use crate::assemble::Unserved;
use crate::registry::{self, CrmOptions};
use crate::service;
use crate::{Error, Result};

/// What [`load`] shall do.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Only this deployment; `None`: all.
    pub deployment: Option<String>,
    /// Write the mailboxes into the configuration.
    pub publish: bool,
    /// Tells when the load was.
    pub clock: Arc<dyn Clock>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { deployment: None, publish: false, clock: Arc::new(SystemClock) }
    }
}

/// What a load found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoadReport {
    /// Each deployment, in the order of the file.
    pub deployments: Vec<DeploymentLoad>,
    /// What was written into the configuration, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published: Option<Publication>,
    /// Why this load is not remembered, so that the next one cannot be compared with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_remembered: Option<String>,
}

/// What was loaded of one deployment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeploymentLoad {
    /// Its name.
    pub name: String,
    /// Where it runs.
    #[serde(rename = "type")]
    pub deployment_type: String,
    /// Why it could not be loaded; the rest is empty then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<LoadFailure>,
    /// Every user, queue and forward mailbox, in the order of the CRM.
    pub rows: Vec<LoadRow>,
    /// Mailboxes of the configuration that the CRM has no record for.
    pub unmatched: Vec<Unserved>,
    /// When it was loaded the last time before; `None`: never.
    pub last_load: Option<Timestamp>,
    /// What is different since then; empty at the first load.
    pub changes: Vec<MailboxChange>,
}

/// Why a deployment could not be loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoadFailure {
    /// What happened.
    pub message: String,
    /// What to do, where the message does not say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// One user, queue or forward mailbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoadRow {
    /// As the CRM has it. The name is what somebody typed there; [`plain`] makes it fit for a line.
    #[serde(flatten)]
    pub mailbox: CrmMailbox,
    /// The profile by which its mail is read, its own or the deployment's; `None` where none is, or the CRM does not use the router for that.
    pub incoming_profile: Option<String>,
    /// The profile by which its mail is sent, likewise.
    pub outgoing_profile: Option<String>,
    /// Where the router knows it from.
    pub listed: Listed,
    /// How it stands.
    pub state: RowState,
    /// Why it is not served, or not wholly, and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Where the router knows a mailbox from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Listed {
    /// The configuration lists it, a person wrote that.
    ByHand,
    /// The configuration lists it, published by Load Data.
    Published,
    /// The deployment has `LoadMailboxes`.
    LoadMailboxes,
    /// It does not know it.
    No,
}

/// How a row stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RowState {
    /// The router serves it in every way the CRM wants.
    Served,
    /// The CRM does not mean it for the router, or the configuration disables it.
    Off,
    /// It is meant for the router, which cannot serve it, or not wholly.
    NeedsAttention,
}

/// What was written into the configuration.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Publication {
    /// Whether anything was.
    pub written: bool,
    /// New mailboxes.
    pub added: Vec<PublishedMailbox>,
    /// Mailboxes that follow the CRM.
    pub changed: Vec<PublishedMailbox>,
    /// Mailboxes that are gone.
    pub removed: Vec<PublishedMailbox>,
    /// Warnings about the file as it is now.
    pub findings: Vec<String>,
}

/// A mailbox that publishing added, changed or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PublishedMailbox {
    /// Its deployment.
    pub deployment: String,
    /// User, queue or forward mailbox.
    pub kind: MailboxKind,
    /// Its name in the file.
    pub name: String,
    /// Its address in the file.
    pub address: String,
    /// What was changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<ChangedField>,
}

impl LoadRow {
    /// Whether somebody has to do something so that it is served.
    #[must_use]
    pub fn needs_attention(&self) -> bool {
        self.state == RowState::NeedsAttention
    }
}

impl DeploymentLoad {
    /// Whether it failed, or something of it needs a person.
    #[must_use]
    pub fn needs_attention(&self) -> bool {
        self.error.is_some() || !self.unmatched.is_empty() || self.rows.iter().any(LoadRow::needs_attention)
    }
}

/// What the CRM of a deployment answered.
type Answer<'a> = (&'a Deployment, Result<OrganizationView>);

/// Loads the users, queues and forward mailboxes of the deployments of a configuration. A deployment that fails keeps nobody else from being loaded.
///
/// What the CRM said is remembered beside the state file, for the comparison of the next load: a file of its own, since the state belongs to the
/// router that runs, and this is what whoever administers it saw last.
///
/// # Errors
/// [`Error::Configuration`] with all findings, also for what publishing would make of the file, which is as it was then; [`Error::Request`] for a
/// deployment that is not there, or a file that could not be written.
pub async fn load(path: &Path, options: &LoadOptions) -> Result<LoadReport> {
    let mut settings = service::settings(path)?;
    let chosen: Vec<Deployment> = chosen(&settings, options.deployment.as_deref())?;
    let secrets = SecretStore::new(settings.router.secret_key_file.clone());
    let store = &secrets;
    let asked = chosen.iter().map(|d| async move { (d, ask(d, store, options).await) });
    let answers: Vec<Answer<'_>> = futures_util::future::join_all(asked).await;

    let memory_file = memory::file(&settings);
    let (memory, mut not_remembered) = memory::read(&memory_file);
    let published = if options.publish {
        let published = publish::publish(path, &answers)?;
        settings = service::settings(path)?;
        Some(published)
    } else {
        None
    };
    let mut deployments = Vec::with_capacity(answers.len());
    for (deployment, answer) in &answers {
        let mut load = DeploymentLoad {
            name: deployment.name.clone(),
            deployment_type: deployment.target.deployment_type().to_string(),
            error: None,
            rows: Vec::new(),
            unmatched: Vec::new(),
            last_load: None,
            changes: Vec::new(),
        };
        match answer {
            Ok(view) => {
                let assembled = rows::rows(&settings, deployment, view, &secrets);
                (load.rows, load.unmatched) = (assembled.rows, assembled.unmatched);
                if let Some(last) = memory.get(&deployment.name) {
                    load.last_load = Some(last.at);
                    load.changes = diff(&last.mailboxes, view.mailboxes());
                }
            }
            Err(error) => {
                let hint = error.hint().map(str::to_owned);
                load.error = Some(LoadFailure { message: error.to_string(), hint });
            }
        }
        deployments.push(load);
    }
    let loaded = answers.iter().filter_map(|(d, a)| Some((d.name.as_str(), a.as_ref().ok()?.mailboxes())));
    let memory = memory.with(loaded, options.clock.now(), &settings);
    if let Err(error) = memory::write(&memory_file, &memory) {
        not_remembered = Some(error);
    }
    Ok(LoadReport { deployments, published, not_remembered })
}

fn chosen(settings: &Settings, only: Option<&str>) -> Result<Vec<Deployment>> {
    let Some(name) = only else { return Ok(settings.deployments.to_vec()) };
    settings.deployment(name).map(|deployment| vec![deployment.clone()]).ok_or_else(|| {
        let names: Vec<&str> = settings.deployments.iter().map(|d| d.name.as_str()).collect();
        Error::Request(format!("there is no deployment {name}; the configuration has: {}", names.join(", ")))
    })
}

/// Asks the CRM of a deployment, without creating anything in it.
async fn ask(
    deployment: &Deployment,
    secrets: &SecretStore,
    options: &LoadOptions,
) -> Result<OrganizationView> {
    let (clock, entropy) = (Arc::clone(&options.clock), Arc::new(SystemEntropy));
    let crm = registry::crm(deployment, secrets, &CrmOptions { look: true, clock, entropy }).await?;
    Ok(OrganizationView::load(&*crm.client).await?)
}

/// The warnings as text.
fn told(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(ToString::to_string).collect()
}

/// The default profile of a deployment in a direction, for a record of this kind.
fn default_profile(deployment: &Deployment, direction: Direction, kind: MailboxKind) -> Option<&str> {
    match direction {
        Direction::Incoming => deployment.default_incoming_profile.as_deref(),
        // a forward mailbox only receives (behaviour document, section 8)
        Direction::Outgoing => {
            deployment.default_outgoing_profile.as_deref().filter(|_| kind != MailboxKind::Forward)
        }
    }
}

/// An address as text, `-` where there is none.
fn address_text(address: Option<&EmailAddress>) -> String {
    address.map_or_else(|| "-".to_owned(), ToString::to_string)
}
