//! `import` and `import-state`: past mail, and the thresholds of the original router.

use std::path::Path;
use std::process::ExitCode;

use email_router::OpenOptions;
use email_router::backfill::{Backfill, BackfillOptions};
use email_router::config::SystemState;

use super::{code, open, printing};
use crate::args::{Global, ImportArgs};
use crate::{output, report, signals};

pub(crate) async fn run(global: &Global, args: &ImportArgs) -> email_router::Result<ExitCode> {
    let service = open(global, OpenOptions { look: args.dry_run, ..OpenOptions::default() }).await?;
    let stop = signals::stop();
    let backfill = Backfill::open(&service, &args.source, &args.mailbox).await?;
    let bar = output::progress(backfill.total_bytes(), "importing");
    let options = BackfillOptions { dry_run: args.dry_run, from_start: args.from_start };
    let (verbose, json) = (args.verbose || args.dry_run, global.json);
    let outcome = backfill
        .run(options, &stop, |progress| {
            bar.set_position(progress.bytes);
            if let (true, false, Some(record)) = (verbose, json, progress.record) {
                bar.suspend(|| {
                    // a closed standard output must not stop the import
                    let _ = output::line(&report::incoming(record, false));
                });
            }
        })
        .await?;
    bar.finish_and_clear();
    if global.json {
        output::json(&outcome).map_err(printing)?;
    } else {
        let would = if args.dry_run { "would be " } else { "" };
        output::line(&format!(
            "{}: {} messages; {} {would}delivered, {} {would}discarded, {} {would}put into quarantine{}{}",
            args.source.display(),
            outcome.messages,
            outcome.delivered,
            outcome.discarded,
            outcome.quarantined,
            match outcome.passed_over {
                0 => String::new(),
                n => format!(", {n} passed over, which were settled before"),
            },
            if outcome.resumed { "; an earlier import was resumed" } else { "" }
        ))
        .map_err(printing)?;
        for problem in &outcome.problems {
            output::line(&format!("not read: {problem}")).map_err(printing)?;
        }
        if outcome.interrupted {
            output::line("interrupted; the same command goes on where it stopped").map_err(printing)?;
        }
    }
    Ok(code(outcome.quarantined > 0 || outcome.interrupted || !outcome.problems.is_empty()))
}

pub(crate) async fn state(global: &Global, file: &Path, dry_run: bool) -> email_router::Result<ExitCode> {
    let imported = SystemState::load(file).map_err(|e| email_router::Error::Request(e.to_string()))?;
    let service = open(global, OpenOptions { look: dry_run, ..OpenOptions::default() }).await?;
    let thresholds = service.import_thresholds(&imported.thresholds, dry_run).await?;
    let unknown: Vec<&str> = thresholds.unknown.iter().map(|address| address.as_str()).collect();
    if global.json {
        let findings: Vec<String> = imported.findings.iter().map(ToString::to_string).collect();
        let shown =
            serde_json::json!({ "thresholds": thresholds.taken, "unknown": unknown, "findings": findings });
        output::json(&shown).map_err(printing)?;
    } else {
        for finding in &imported.findings {
            output::line(&finding.to_string()).map_err(printing)?;
        }
        for (mailbox, threshold) in &thresholds.taken {
            output::line(&format!("{mailbox}: only mail received after {threshold}")).map_err(printing)?;
        }
        for address in &unknown {
            output::line(&format!(
                "{address}: not taken over, since no mailbox of this configuration has this address"
            ))
            .map_err(printing)?;
        }
        let (of, would) = (imported.thresholds.len(), if dry_run { "would be " } else { "" });
        let taken = of - unknown.len();
        output::line(&format!("{taken} of {of} threshold dates {would}taken over")).map_err(printing)?;
    }
    // what was passed over or damaged is a mailbox without a threshold: somebody has to look
    Ok(code(!imported.findings.is_empty() || !unknown.is_empty()))
}
