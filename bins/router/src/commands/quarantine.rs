//! `quarantine`: messages that could not be routed.

use std::collections::{BTreeSet, HashSet};
use std::process::ExitCode;

use email_router::engine::ports::QuarantineItem;
use email_router::model::{Headers, MailboxId};
use email_router::quarantine::Retried;
use email_router::{OpenOptions, Service};
use serde::Serialize;

use super::{code, open, printing};
use crate::args::{Global, QuarantineAction, Which};
use crate::{output, report};

pub(crate) async fn run(global: &Global, action: QuarantineAction) -> email_router::Result<ExitCode> {
    let look = matches!(action, QuarantineAction::List | QuarantineAction::Show { .. });
    let service = open(global, OpenOptions { look, ..OpenOptions::default() }).await?;
    match action {
        QuarantineAction::List => list(global, &service.quarantined(None).await?),
        QuarantineAction::Show { id, raw } => {
            show(global, &service, service.quarantined_item(id).await?, raw)
        }
        QuarantineAction::Retry { which } => again(global, &service, &which, false).await,
        QuarantineAction::Release { which } => again(global, &service, &which, true).await,
        QuarantineAction::Delete { which } => delete(global, &service, &which).await,
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

fn show(
    global: &Global,
    service: &Service,
    item: QuarantineItem,
    raw: bool,
) -> email_router::Result<ExitCode> {
    if raw {
        let Some(bytes) = item.raw else {
            return Err(email_router::Error::Request(format!(
                "the bytes of item {} were never read; {}",
                item.id,
                whereabouts(service, &item.mailbox)
            )));
        };
        output::bytes(&bytes).map_err(printing)?;
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

/// Where a message is of which the quarantine has no bytes.
fn whereabouts(service: &Service, mailbox: &MailboxId) -> &'static str {
    let route = service.organizations().flat_map(|o| &o.plan().incoming).find(|r| r.mailbox.id == *mailbox);
    match route {
        Some(route) if route.settings.move_undeliverable && route.transport.capability().move_to_folder => {
            "the message itself is in the folder Undeliverable of its mailbox"
        }
        Some(_) => "the message itself is still in its mailbox",
        None => "the message itself is in its mailbox, which is not served any more",
    }
}

/// What became of an item that was to be deleted.
#[derive(Serialize)]
struct Deleted {
    id: u64,
    /// `false`: there was no such item.
    deleted: bool,
}

async fn delete(global: &Global, service: &Service, which: &Which) -> email_router::Result<ExitCode> {
    let mut told = Told::new(global);
    let mut missing = false;
    for (id, _) in chosen(global, service, which).await? {
        let deleted = match service.delete_quarantined(id).await {
            Ok(deleted) => deleted,
            Err(error) => return told.cut_off(error),
        };
        missing |= !deleted;
        let text = if deleted { format!("{id}: deleted") } else { no_such_item(id) };
        told.one(Deleted { id, deleted }, &text)?;
    }
    told.end(missing)
}

async fn again(
    global: &Global,
    service: &Service,
    which: &Which,
    release: bool,
) -> email_router::Result<ExitCode> {
    let mut told = Told::new(global);
    let mut attention = false;
    for (id, there) in chosen(global, service, which).await? {
        if !there {
            attention = true;
            let reason = "there is no such item".to_owned();
            told.one(
                Retried { id, record: None, stays_because: Some(reason), read_again: false },
                &no_such_item(id),
            )?;
            continue;
        }
        let result = match service.retry_quarantined(id, release).await {
            Ok(result) => result,
            Err(error) => return told.cut_off(error),
        };
        attention |= result.stays_because.is_some();
        let decision =
            result.record.as_ref().map(|r| format!("\n{}", report::incoming(r, false))).unwrap_or_default();
        let text = match &result.stays_because {
            Some(reason) => format!("{id}: stays in quarantine: {reason}{decision}"),
            None if result.read_again => {
                format!(
                    "{id}: its bytes were never read; the next pass over its mailbox reads it anew, by the rules"
                )
            }
            None => format!("{id}: settled{decision}"),
        };
        told.one(result, &text)?;
    }
    told.end(attention)
}

fn no_such_item(id: u64) -> String {
    format!("{id}: there is no such item; `email-router quarantine list` shows what there is")
}

/// What is told about each item: to people at once, to programs as one list at the end.
struct Told<T> {
    results: Option<Vec<T>>,
}

impl<T: Serialize> Told<T> {
    fn new(global: &Global) -> Self {
        Self { results: global.json.then(Vec::new) }
    }

    fn one(&mut self, result: T, text: &str) -> email_router::Result<()> {
        match &mut self.results {
            Some(results) => results.push(result),
            None => output::line(text).map_err(printing)?,
        }
        Ok(())
    }

    fn end(self, attention: bool) -> email_router::Result<ExitCode> {
        if let Some(results) = self.results {
            output::json(&results).map_err(printing)?;
        }
        Ok(code(attention))
    }

    /// Something stops the rest: what is done is told all the same.
    fn cut_off(self, error: email_router::Error) -> email_router::Result<ExitCode> {
        self.end(true)?;
        Err(error)
    }
}

/// The numbers of the items that are meant, and whether each is there. Says so where nothing is.
async fn chosen(global: &Global, service: &Service, which: &Which) -> email_router::Result<Vec<(u64, bool)>> {
    let items = service.quarantined(None).await?;
    if !which.ids.is_empty() {
        let there: HashSet<u64> = items.iter().map(|i| i.id).collect();
        return Ok(which.ids.iter().map(|id| (*id, there.contains(id))).collect());
    }
    let class = which.class.as_deref();
    let found: Vec<(u64, bool)> =
        items.iter().filter(|i| class.is_none_or(|c| c == i.class)).map(|i| (i.id, true)).collect();
    if found.is_empty() && !global.json {
        let classes: BTreeSet<&str> = items.iter().map(|i| i.class.as_str()).collect();
        let text = match class {
            Some(class) if !items.is_empty() => {
                let there = classes.into_iter().collect::<Vec<_>>().join(", ");
                format!("nothing of class {class} is in quarantine; there is: {there}")
            }
            _ => "nothing is in quarantine".to_owned(),
        };
        output::line(&text).map_err(printing)?;
    }
    Ok(found)
}
