//! `secret`: encrypted passwords for the configuration.

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use email_router::config::{SecretError, SecretStore, key_file_of};
use email_router::model::{Secret, SystemEntropy, read_capped};

use super::{io_error, printing};
use crate::args::{Global, SecretAction};
use crate::output;

/// Longest password that is read.
const LIMIT: u64 = 64 * 1024;

pub(crate) fn run(global: &Global, action: &SecretAction) -> email_router::Result<ExitCode> {
    match action {
        SecretAction::Set => set(global),
        SecretAction::Rotate => {
            let count = email_router::service::rotate_secrets(&global.config)?;
            output::line(&format!("{count} passwords encrypted with a new key")).map_err(printing)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn set(global: &Global) -> email_router::Result<ExitCode> {
    let request = |e: SecretError| email_router::Error::Request(e.to_string());
    // before anybody types a password in vain
    let store = SecretStore::new(key_file_of(&global.config).map_err(request)?);
    let secret = read()?;
    if secret.is_empty() {
        return Err(email_router::Error::Request(
            "the password is empty; pipe it in: printf %s \"$PASSWORD\" | email-router secret set".to_owned(),
        ));
    }
    let key = store.key_or_create(&SystemEntropy).map_err(request)?;
    let sealed = key.seal(&secret, &SystemEntropy).map_err(request)?;
    output::note(&format!("encrypted with the key {} in {}", key.id(), store.key_source()));
    output::line(&sealed.to_string()).map_err(printing)?;
    Ok(ExitCode::SUCCESS)
}

/// The password: asked for at the terminal, where it is not shown, else the standard input without its line end.
fn read() -> email_router::Result<Secret> {
    if io::stdin().is_terminal() {
        return rpassword::prompt_password("password (it is not shown): ")
            .map(Secret::from)
            .map_err(io_error("the terminal"));
    }
    let bytes = read_capped(io::stdin().lock(), LIMIT, "standard input")
        .map_err(|e| email_router::Error::Request(e.to_string()))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| email_router::Error::Request("the password is not UTF-8 text".to_owned()))?;
    let line = text.strip_suffix('\n').map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t));
    Ok(Secret::from(line))
}
