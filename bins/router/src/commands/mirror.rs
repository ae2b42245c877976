//! `mirror`: what is kept of an organization on a server.

use std::process::ExitCode;

use email_router::config::LogLevel;
use email_router::crm::dataverse::MirrorSize;
use email_router::mirror::{MirrorOutcome, MirrorReport, MirrorTask, run as carry_out};

use super::{code, io_error, printing};
use crate::args::{Global, MirrorAction};
use crate::{logs, output};

pub(crate) async fn run(
    global: &Global,
    deployment: Option<&str>,
    action: MirrorAction,
) -> email_router::Result<ExitCode> {
    logs::start(global, LogLevel::Off, None).map_err(io_error("the log"))?;
    let task = match action {
        MirrorAction::Size => MirrorTask::Size,
        MirrorAction::Verify => MirrorTask::Verify,
        MirrorAction::Rebuild => MirrorTask::Rebuild,
    };
    let reports = carry_out(&global.config, deployment, task).await?;
    if global.json {
        output::json(&reports).map_err(printing)?;
    } else {
        reports.iter().try_for_each(show)?;
    }
    Ok(code(reports.iter().any(MirrorReport::needs_attention)))
}

fn show(MirrorReport { deployment, outcome }: &MirrorReport) -> email_router::Result<()> {
    let line = |text: String| output::line(&text).map_err(printing);
    match outcome {
        MirrorOutcome::Size(size) => {
            line(format!("{deployment}: {}", told(size)))?;
            let rows: Vec<Vec<String>> = size
                .tables
                .iter()
                .map(|t| vec![t.name.clone(), t.records.to_string(), t.addresses.to_string()])
                .collect();
            if rows.is_empty() {
                return Ok(());
            }
            output::table(&["Table", "Records", "Addresses"], &rows).map_err(printing)
        }
        MirrorOutcome::Verified(found) if found.different == 0 => {
            line(format!("{deployment}: {} records compared, all are as in the organization", found.compared))
        }
        MirrorOutcome::Verified(found) => {
            line(format!("{deployment}: {} records compared, {} differ", found.compared, found.different))?;
            for difference in &found.differences {
                line(format!("  {}: {}", difference.record, difference.what))?;
            }
            let more = found.different.saturating_sub(found.differences.len() as u64);
            if more > 0 {
                line(format!("  and {more} more"))?;
            }
            line(
                "what changed a moment ago may not have been read yet; if it stays, `email-router mirror rebuild` reads all anew"
                    .to_owned(),
            )
        }
        MirrorOutcome::Rebuilt { before, after } => {
            line(format!("{deployment}: all was read anew: {}", told(after)))?;
            line(format!("  before: {}", told(before)))
        }
        MirrorOutcome::Failed { message, hint } => {
            line(format!("{deployment}: FAILED: {message}"))?;
            hint.iter().try_for_each(|hint| line(format!("  what to do: {hint}")))
        }
    }
}

fn told(size: &MirrorSize) -> String {
    let records: u64 = size.tables.iter().map(|t| t.records).sum();
    let addresses: u64 = size.tables.iter().map(|t| t.addresses).sum();
    let read = size.synced_on.map_or_else(|| "never".to_owned(), |t| format!("{t:.0}"));
    format!(
        "{records} records with {addresses} addresses in {} tables, {} e-mails, {} notes, {} bytes; changes read {read}",
        size.tables.len(),
        size.emails,
        size.notes,
        size.bytes
    )
}
