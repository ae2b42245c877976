//! `status`: how each mailbox is doing.

use std::process::ExitCode;

use email_router::assemble::{AccessToken, Unserved};
use email_router::engine::ports::ProviderStatus;
use email_router::service::{DeploymentStatus, Organization};
use email_router::{OpenOptions, Service};
use serde::Serialize;

use super::{code, open, printing};
use crate::args::Global;
use crate::output;

/// What `status` and the listener's `/status` show.
#[derive(Serialize)]
pub(crate) struct Shown {
    deployments: Vec<DeploymentStatus>,
    providers: Vec<ProviderStatus>,
    unserved: Vec<Unserved>,
    /// Of the applications of OAuth 2.0; known to the router that runs, and to nobody else.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    access_tokens: Vec<AccessToken>,
    quarantine: usize,
}

impl Shown {
    pub(crate) async fn of(service: &Service) -> email_router::Result<Self> {
        let (providers, unserved) = service.status().await?;
        let quarantine = service.quarantined(None).await?.len();
        let access_tokens = service.organizations().flat_map(Organization::access_tokens);
        // what nobody has asked for yet says nothing
        let access_tokens =
            access_tokens.filter(|t| t.valid_until.is_some() || t.last_error.is_some()).collect();
        Ok(Self { deployments: service.deployments(), providers, unserved, access_tokens, quarantine })
    }

    /// For people, one line for each mailbox and direction.
    pub(crate) fn text(&self) -> String {
        let mut text = text(&self.providers);
        for deployment in &self.deployments {
            text.push_str(&not_connected(deployment));
        }
        for not in &self.unserved {
            text.push_str(&not_served(not));
            text.push('\n');
        }
        for token in &self.access_tokens {
            let until = token.valid_until.map_or_else(|| "none".to_owned(), |t| format!("good until {t:.0}"));
            let error =
                token.last_error.as_ref().map(|e| format!(", CANNOT BE RENEWED: {e}")).unwrap_or_default();
            text.push_str(&format!("access token of {}: {until}{error}\n", token.application));
        }
        if self.quarantine > 0 {
            let count = self.quarantine;
            text.push_str(&format!("{count} messages in quarantine: email-router quarantine list\n"));
        }
        output::clean(&text)
    }
}

pub(crate) async fn run(global: &Global) -> email_router::Result<ExitCode> {
    let service = open(global, OpenOptions::look()).await?;
    let shown = Shown::of(&service).await?;
    if global.json {
        output::json(&shown).map_err(printing)?;
    } else {
        for finding in service.findings() {
            output::line(&finding.to_string()).map_err(printing)?;
        }
        output::line(shown.text().trim_end()).map_err(printing)?;
    }
    let failing = shown.providers.iter().any(|p| p.last_error.is_some());
    let apart = shown.deployments.iter().any(|d| d.error.is_some());
    Ok(code(!shown.unserved.is_empty() || shown.quarantine > 0 || failing || apart))
}

/// A deployment without its CRM, as a line; nothing for one that has it.
fn not_connected(status: &DeploymentStatus) -> String {
    let DeploymentStatus { name, connected, error, hint, next_attempt } = status;
    match error {
        _ if *connected => String::new(),
        None => format!(
            "deployment {name} is on a server, which was not asked: email-router-test-access asks it, and /status of the router that runs tells whether it is connected\n"
        ),
        Some(error) => {
            let hint = hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
            let next = next_attempt.map(|at| format!("; tried again {at:.0}")).unwrap_or_default();
            format!("NOT CONNECTED deployment {name}: {error}{hint}{next}\n")
        }
    }
}

/// A mailbox that is not served, as a line.
pub(crate) fn not_served(Unserved { mailbox, direction, reason, .. }: &Unserved) -> String {
    let direction = direction.map(|d| format!(" {d}")).unwrap_or_default();
    format!("NOT SERVED {mailbox}{direction}: {reason}")
}

/// The statuses as text.
fn text(providers: &[ProviderStatus]) -> String {
    if providers.is_empty() {
        return "no mailbox was served yet; start the router with `email-router run`\n".to_owned();
    }
    let mut text = String::new();
    for p in providers {
        let time = |t: &Option<_>| {
            t.as_ref()
                .map_or_else(|| "never".to_owned(), |t: &email_router::model::Timestamp| format!("{t:.0}"))
        };
        let backlog = p.backlog.map(|b| format!(", {b} waiting")).unwrap_or_default();
        let next = p.next_run.map(|t| format!(", next {t:.0}")).unwrap_or_default();
        text.push_str(&format!(
            "{:8}  {} <{}>: last success {}, {} processed{backlog}{next}\n",
            p.direction.to_string(),
            p.name,
            p.address,
            time(&p.last_success),
            p.processed,
        ));
        if let Some(error) = &p.last_error {
            text.push_str(&format!(
                "          FAILED {} times, last {}: {error}\n",
                p.failures,
                time(&p.last_run)
            ));
        }
    }
    text
}
