//! The files of a service: configuration, passwords, keys, state.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use email_router_config::{Finding, LoadError, Published, SecretStore, Settings, key_file_of};
use email_router_engine::StateStore;
use email_router_engine::state_memory::MemoryState;
use email_router_model::{Secret, SystemEntropy};
use email_router_state::SqliteState;

use super::{OpenOptions, blocking};
use crate::{Error, Result};

/// The settings of a configuration file; warnings are left out.
///
/// # Errors
/// [`Error::Configuration`] with all findings.
pub fn settings(path: &Path) -> Result<Settings> {
    Settings::load(path).map(|outcome| outcome.settings).map_err(load_error)
}

/// Checks a new configuration and puts it in the place of `path`, atomically; the findings that come back are warnings. `from` is where the bytes come from:
/// findings name it, since that is the file to correct.
///
/// # Errors
/// [`Error::Configuration`] when the new one has errors, else what kept it from being written; the file is as it was then.
pub fn publish(path: &Path, new: &[u8], from: &Path) -> Result<Published> {
    let renamed = |mut findings: Vec<Finding>| {
        findings.iter_mut().filter(|f| f.path == path).for_each(|f| f.path = from.to_owned());
        findings
    };
    match email_router_config::publish(path, new) {
        Ok(published) => Ok(Published { findings: renamed(published.findings), ..published }),
        Err(email_router_config::PublishError::Invalid(findings)) => {
            let findings = renamed(findings);
            let message = email_router_config::PublishError::Invalid(findings.clone()).to_string();
            Err(Error::Configuration { message, findings })
        }
        Err(error) => Err(Error::Request(error.to_string())),
    }
}

/// Exchanges the key of the encrypted passwords; returns how many were encrypted anew.
///
/// # Errors
/// [`Error::Request`] with what is wrong; every password can still be decrypted then.
pub fn rotate_secrets(path: &Path) -> Result<usize> {
    let request = |e: &dyn std::error::Error| Error::Request(e.to_string());
    let store = SecretStore::new(key_file_of(path).map_err(|e| request(&e))?);
    let rotated = email_router_config::rotate(path, &store, &SystemEntropy).map_err(|e| request(&e))?;
    Ok(rotated.secrets + rotated.stored)
}

/// Errors keep all findings.
pub(super) fn load_error(error: LoadError) -> Error {
    match error {
        LoadError::Unreadable(cause) => Error::Configuration {
            message: format!("{cause}; say --config FILE, or see the README for a first configuration"),
            findings: Vec::new(),
        },
        invalid => {
            Error::Configuration { message: invalid.to_string(), findings: invalid.findings().to_vec() }
        }
    }
}

pub(super) fn open_state(file: &Path, look: bool) -> Result<Arc<dyn StateStore>> {
    if !look {
        return Ok(Arc::new(SqliteState::open(file)?));
    }
    Ok(match SqliteState::open_to_look(file)? {
        Some(state) => Arc::new(state),
        None => Arc::new(MemoryState::new()),
    })
}

/// The key of references. Who only looks makes none, and is told where it may not be read: references are then ids like any other.
pub(super) async fn reference_key(file: PathBuf, options: &OpenOptions) -> Result<Secret> {
    let (look, entropy) = (options.look, Arc::clone(&options.entropy));
    blocking(move || match look {
        false => email_router_config::reference_key(&file, &*entropy),
        true => match email_router_config::reference_key::read(&file) {
            Ok(Some(key)) => Ok(key),
            Ok(None) => Ok(email_router_config::reference_key::fresh(&*entropy)),
            Err(error) => {
                tracing::warn!(%error, "references that this router has signed are not recognised here");
                Ok(email_router_config::reference_key::fresh(&*entropy))
            }
        },
    })
    .await?
    .map_err(|error| Error::Request(error.to_string()))
}
