//! `why` and `replay`: what was decided, and what would be decided under other settings.

use std::process::ExitCode;

use email_router::OpenOptions;
use email_router::crm::FilteringMethod;
use email_router::engine::{KeptHeader, Verdict};
use email_router::history::{PolicyChange, ReplayChange, ReplaySource};
use email_router::model::{EmailAddress, Timestamp};
use serde_json::json;

use super::{code, open, printing};
use crate::args::{Global, ReplayArgs};
use crate::{output, report};

pub(crate) async fn why(global: &Global, id: &str) -> email_router::Result<ExitCode> {
    let service = open(global, OpenOptions::look()).await?;
    let notes = service.why(id).await?;
    if global.json {
        output::json(&notes).map_err(printing)?;
        return Ok(code(notes.is_empty()));
    }
    for note in &notes {
        output::line(&format!("{}  in {}", note.at, note.mailbox)).map_err(printing)?;
        output::line(&note.record.to_string()).map_err(printing)?;
        if matches!(note.kept, KeptHeader::Shortened { .. } | KeptHeader::TooLong { .. }) {
            output::line(&note.kept.to_string()).map_err(printing)?;
        }
    }
    if notes.is_empty() {
        output::line(&format!(
            "nothing is noted about {id}: it did not come through this router, its decision is older than DecisionRetention, or \
             DecisionHistory is None"
        ))
        .map_err(printing)?;
    }
    Ok(code(notes.is_empty()))
}

pub(crate) async fn replay(global: &Global, args: &ReplayArgs) -> email_router::Result<ExitCode> {
    let changes = changes(args)?;
    let source = match (&args.source, &args.mailbox) {
        (Some(path), Some(mailbox)) => {
            let path = path.canonicalize().map_err(super::io_error(path.display().to_string()))?;
            ReplaySource::Path(path, mailbox.clone())
        }
        _ => ReplaySource::State(since(args.since.as_deref())?),
    };
    let service = open(global, OpenOptions::look()).await?;
    let mut printed = Ok(());
    let outcome = service
        .replay(&source, &changes, args.limit, |change| {
            if printed.is_ok() {
                printed = if global.json { output::json_line(&change) } else { print(&change, args.verbose) };
            }
        })
        .await?;
    printed.map_err(printing)?;
    let too_long = match outcome.too_long {
        0 => String::new(),
        n => format!(
            "; {n} of them with a header section too long to be kept: give replay those messages as files"
        ),
    };
    let summary = format!(
        "{} message{} decided anew: {} unchanged, {} changed; delivered {} now, {} then; {} passed over (header not kept, mailbox gone, or \
         unreadable{too_long}). nothing was written",
        outcome.messages,
        if outcome.messages == 1 { "" } else { "s" },
        outcome.unchanged,
        outcome.messages - outcome.unchanged,
        outcome.delivered.0,
        outcome.delivered.1,
        outcome.passed_over
    );
    let done =
        if global.json { output::json_line(&json!({ "summary": outcome })) } else { output::line(&summary) };
    done.map_err(printing)?;
    Ok(ExitCode::SUCCESS)
}

fn print(change: &ReplayChange, verbose: bool) -> std::io::Result<()> {
    let word = |verdict| match verdict {
        Verdict::Deliver => "delivered",
        Verdict::Discard => "discarded",
        Verdict::Undeliverable => "quarantine",
        Verdict::LeftAlone => "left alone",
    };
    let (now, then) = (&change.now, &change.then);
    output::line(&format!(
        "{} -> {}  {}  {}\n           from {}",
        word(now.verdict),
        word(then.verdict),
        now.mailbox,
        if now.subject.is_empty() { "(no subject)" } else { &now.subject },
        now.from
    ))?;
    for difference in &change.differences {
        output::line(&format!("           {difference}"))?;
    }
    if verbose {
        output::line(&format!(
            "--- now\n{}\n--- then\n{}",
            report::incoming(now, true),
            report::incoming(then, true)
        ))?;
    }
    Ok(())
}

fn changes(args: &ReplayArgs) -> email_router::Result<Vec<PolicyChange>> {
    let wrong =
        |text: &str, form: &str| email_router::Error::Request(format!("{text:?} is not of the form {form}"));
    let mut changes = Vec::new();
    for text in &args.set {
        let (name, value) = text.split_once('=').ok_or_else(|| wrong(text, "NAME=VALUE"))?;
        changes.push(PolicyChange::Setting(name.trim().to_owned(), value.to_owned()));
    }
    for text in &args.filter {
        let parsed = text.rsplit_once('=').and_then(|(address, filter)| {
            Some((
                EmailAddress::parse(address).ok()?,
                FilteringMethod::from_code(filter.trim().parse().ok()?)?,
            ))
        });
        let (address, filter) = parsed.ok_or_else(|| wrong(text, "ADDRESS=0..4"))?;
        changes.push(PolicyChange::Filter(address, filter));
    }
    Ok(changes)
}

fn since(text: Option<&str>) -> email_router::Result<Timestamp> {
    let Some(text) = text else { return Ok(Timestamp::MIN) };
    text.parse().map_err(|e| {
        email_router::Error::Request(format!(
            "--since {text:?} is no time ({e}); write it as 2026-11-01T00:00:00Z"
        ))
    })
}
