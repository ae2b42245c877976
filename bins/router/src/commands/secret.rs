//! `secret`: encrypted passwords for the configuration.

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use email_router::config::{SecretError, SecretStore, key_file_of};
use email_router::model::{Secret, SystemEntropy, read_capped};

use serde_json::json;

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
            if global.json {
                output::json(&json!({ "encrypted_anew": count })).map_err(printing)?;
            } else {
                let what = if count == 1 { "password" } else { "passwords" };
                output::line(&format!("{count} {what} encrypted with a new key")).map_err(printing)?;
            }
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
    let (key_id, source) = (key.id().to_string(), store.key_source().to_string());
    if global.json {
        let told = json!({ "encrypted": sealed.to_string(), "key": key_id, "key_source": source });
        output::json(&told).map_err(printing)?;
    } else {
        output::note(&format!("encrypted with the key {key_id} in {source}"));
        output::line(&sealed.to_string()).map_err(printing)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The same, asked for twice at the terminal: nobody sees a slip of the finger.
pub(super) fn read_twice() -> email_router::Result<Secret> {
    let first = read()?;
    if io::stdin().is_terminal() {
        let again = rpassword::prompt_password("the same again: ")
            .map(Secret::from)
            .map_err(io_error("the terminal"))?;
        if again != first {
            return Err(email_router::Error::Request(
                "the two passwords differ; nothing was stored".to_owned(),
            ));
        }
    }
    Ok(first)
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
