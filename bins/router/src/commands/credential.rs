//! `credential`: passwords of users and queues that have none in the configuration.

use std::process::ExitCode;

use email_router::model::{Direction, EmailAddress};
use email_router::stored_credentials;
use serde_json::json;

use super::printing;
use super::secret::read_twice;
use crate::args::{CredentialAction, Global, WhichWay};
use crate::output;

pub(crate) fn run(global: &Global, action: &CredentialAction) -> email_router::Result<ExitCode> {
    match action {
        CredentialAction::Set { address, way, user_name } => set(global, address, way, user_name.as_deref()),
        CredentialAction::List => list(global),
        CredentialAction::Remove { address, way } => remove(global, address, way),
    }
}

fn set(
    global: &Global,
    address: &EmailAddress,
    way: &WhichWay,
    user_name: Option<&str>,
) -> email_router::Result<ExitCode> {
    let secret = read_twice()?;
    if secret.is_empty() {
        return Err(email_router::Error::Request(format!(
            "the password is empty; pipe it in: printf %s \"$PASSWORD\" | email-router credential set {address}"
        )));
    }
    let direction = way.direction();
    stored_credentials::set(&global.config, address, direction, user_name, &secret)?;
    if global.json {
        output::json(&json!({ "address": address, "direction": direction })).map_err(printing)?;
    } else {
        let what = format!("the password of {address} for {} is stored", mail(direction));
        output::line(&what).map_err(printing)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn list(global: &Global) -> email_router::Result<ExitCode> {
    let stored = stored_credentials::list(&global.config)?;
    if global.json {
        output::json(&stored).map_err(printing)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = stored
        .into_iter()
        .map(|entry| {
            vec![
                entry.address.to_string(),
                mail(entry.direction).to_owned(),
                entry.user_name.unwrap_or_else(|| "(the mailbox's own)".to_owned()),
                entry.problem.unwrap_or_else(|| "used".to_owned()),
            ]
        })
        .collect();
    if rows.is_empty() {
        output::note("no passwords are stored; `email-router credential set ADDRESS` stores one");
    } else {
        output::table(&["ADDRESS", "FOR", "LOGS IN AS", "STATE"], &rows).map_err(printing)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn remove(global: &Global, address: &EmailAddress, way: &WhichWay) -> email_router::Result<ExitCode> {
    let count = stored_credentials::remove(&global.config, address, way.direction())?;
    if global.json {
        output::json(&json!({ "removed": count })).map_err(printing)?;
    } else {
        let what = if count == 1 { "password" } else { "passwords" };
        output::line(&format!("{count} {what} of {address} removed")).map_err(printing)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn mail(direction: Option<Direction>) -> &'static str {
    match direction {
        None => "all mail",
        Some(Direction::Incoming) => "incoming mail",
        Some(Direction::Outgoing) => "outgoing mail",
    }
}
