//! `status`: how each mailbox is doing.

use std::process::ExitCode;

use email_router::OpenOptions;
use email_router::assemble::Unserved;
use email_router::engine::ports::ProviderStatus;
use serde::Serialize;

use super::{code, open, printing};
use crate::args::Global;
use crate::output;

#[derive(Serialize)]
struct Shown<'a> {
    providers: &'a [ProviderStatus],
    unserved: &'a [Unserved],
    quarantine: usize,
}

pub(crate) async fn run(global: &Global) -> email_router::Result<ExitCode> {
    let service = open(global, OpenOptions::look()).await?;
    let (providers, unserved) = service.status().await?;
    let quarantine = service.quarantined(None).await?.len();
    if global.json {
        output::json(&Shown { providers: &providers, unserved: &unserved, quarantine }).map_err(printing)?;
    } else {
        for finding in service.findings() {
            output::line(&finding.to_string()).map_err(printing)?;
        }
        output::line(text(&providers).trim_end()).map_err(printing)?;
        for not in &unserved {
            output::line(&not_served(not)).map_err(printing)?;
        }
        if quarantine > 0 {
            output::line(&format!("{quarantine} messages in quarantine: email-router quarantine list"))
                .map_err(printing)?;
        }
    }
    Ok(code(!unserved.is_empty() || quarantine > 0 || providers.iter().any(|p| p.last_error.is_some())))
}

/// A mailbox that is not served, as a line.
pub(crate) fn not_served(Unserved { mailbox, direction, reason }: &Unserved) -> String {
    let direction = direction.map(|d| format!(" {d}")).unwrap_or_default();
    format!("NOT SERVED {mailbox}{direction}: {reason}")
}

/// The statuses as text.
pub(crate) fn text(providers: &[ProviderStatus]) -> String {
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
