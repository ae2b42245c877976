//! `quarantine`: messages that could not be routed.

use std::io::Write;
use std::process::ExitCode;

use email_router::engine::ports::QuarantineItem;
use email_router::model::Headers;
use email_router::{OpenOptions, Service};

use super::{code, open, printing};
use crate::args::{Global, QuarantineAction, Which};
use crate::{output, report};

pub(crate) async fn run(global: &Global, action: QuarantineAction) -> email_router::Result<ExitCode> {
    let look = matches!(action, QuarantineAction::List | QuarantineAction::Show { .. });
    let service = open(global, OpenOptions { look, ..OpenOptions::default() }).await?;
    match action {
        QuarantineAction::List => list(global, &service.quarantined(None).await?),
        QuarantineAction::Show { id, raw } => show(global, service.quarantined_item(id).await?, raw),
        QuarantineAction::Retry { which } => again(global, &service, &which, false).await,
        QuarantineAction::Release { which } => again(global, &service, &which, true).await,
        QuarantineAction::Delete { which } => {
            let ids = ids(&service, &which).await?;
            let mut missing = false;
            for id in ids {
                let gone = service.delete_quarantined(id).await?;
                missing |= !gone;
                let text =
                    if gone { format!("{id}: deleted") } else { format!("{id}: there is no such item") };
                output::line(&text).map_err(printing)?;
            }
            Ok(code(missing))
        }
    }
}

fn list(global: &Global, items: &[QuarantineItem]) -> email_router::Result<ExitCode> {
    if global.json {
        output::json(&items).map_err(printing)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|i| {
            let what = i
                .subject
                .clone()
                .or_else(|| i.message_id.as_ref().map(ToString::to_string))
                .unwrap_or_default();
            vec![
                i.id.to_string(),
                format!("{:.0}", i.at),
                i.class.clone(),
                i.mailbox.to_string(),
                what,
                i.reason.clone(),
            ]
        })
        .collect();
    output::table(&["Id", "Since", "Class", "Mailbox", "Message", "Reason"], &rows).map_err(printing)?;
    Ok(ExitCode::SUCCESS)
}

fn show(global: &Global, item: QuarantineItem, raw: bool) -> email_router::Result<ExitCode> {
    if raw {
        let Some(bytes) = item.raw else {
            return Err(email_router::Error::Request(format!(
                "the bytes of item {} were never read; it is still in its mailbox",
                item.id
            )));
        };
        std::io::stdout().lock().write_all(&bytes).map_err(printing)?;
        return Ok(ExitCode::SUCCESS);
    }
    if global.json {
        output::json(&item).map_err(printing)?;
        return Ok(ExitCode::SUCCESS);
    }
    let size = item.size.map_or_else(|| "unknown size".to_owned(), |s| format!("{s} bytes"));
    output::line(&format!(
        "item {} of {}, here since {:.0}, {} attempts, {size}",
        item.id, item.mailbox, item.at, item.attempts
    ))
    .map_err(printing)?;
    output::line(&format!("{}: {}", item.class, item.reason)).map_err(printing)?;
    if let Some(bytes) = &item.raw {
        let head = String::from_utf8_lossy(Headers::new(bytes).as_bytes()).replace('\r', "");
        output::line(&format!("\n{}", head.chars().take(8000).collect::<String>().trim_end()))
            .map_err(printing)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn again(
    global: &Global,
    service: &Service,
    which: &Which,
    release: bool,
) -> email_router::Result<ExitCode> {
    let mut results = Vec::new();
    for id in ids(service, which).await? {
        results.push(service.retry_quarantined(id, release).await?);
    }
    if global.json {
        output::json(&results).map_err(printing)?;
    } else {
        for result in &results {
            let decision = result
                .record
                .as_ref()
                .map(|r| format!("\n{}", report::incoming(r, false)))
                .unwrap_or_default();
            let text = match &result.stays_because {
                Some(reason) => format!("{}: stays in quarantine: {reason}{decision}", result.id),
                None => format!("{}: settled{decision}", result.id),
            };
            output::line(&text).map_err(printing)?;
        }
    }
    Ok(code(results.iter().any(|r| r.stays_because.is_some())))
}

async fn ids(service: &Service, which: &Which) -> email_router::Result<Vec<u64>> {
    if !which.ids.is_empty() {
        return Ok(which.ids.clone());
    }
    Ok(service.quarantined(which.class.as_deref()).await?.iter().map(|i| i.id).collect())
}
