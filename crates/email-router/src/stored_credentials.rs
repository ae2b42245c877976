//! The passwords of mailboxes that have none in the configuration, for who looks after them.

use std::path::Path;

use email_router_config::{
    CredentialStore, Credentials as Whose, SecretStore, Settings, StoredCredential, credentials_file,
    key_file_of,
};
use email_router_model::{Direction, EmailAddress, Secret, SystemEntropy};
use serde::Serialize;

use crate::{Error, Result};

/// A stored password, without the password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoredPassword {
    /// Whose.
    pub address: EmailAddress,
    /// For reading or sending; `None`: both.
    pub direction: Option<Direction>,
    /// The name to log in with; `None`: the mailbox's own.
    pub user_name: Option<String>,
    /// Why it cannot be used, or is not; `None`: it is.
    pub problem: Option<String>,
}

/// What is stored beside this configuration, in the order of the file.
///
/// # Errors
/// The store cannot be read; [`Error::Request`] says where and why.
pub fn list(config: &Path) -> Result<Vec<StoredPassword>> {
    let store = CredentialStore::load(&credentials_file(config)).map_err(request)?;
    let secrets = SecretStore::new(key_file_of(config).map_err(request)?);
    // a store may be filled before there is a configuration
    let settings = Settings::load(config).ok().map(|outcome| outcome.settings);
    Ok(store
        .entries()
        .iter()
        .map(|entry| StoredPassword {
            address: entry.address.clone(),
            direction: entry.direction,
            user_name: entry.user_name.clone(),
            problem: store
                .password(entry, &secrets)
                .err()
                .or_else(|| settings.as_ref().and_then(|settings| unused(settings, entry))),
        })
        .collect())
}

/// Stores a password for an address, for one direction or (`None`) both; a key file is made where there is no key.
///
/// # Errors
/// The store or the key cannot be read or written, with what to do.
pub fn set(
    config: &Path,
    address: &EmailAddress,
    direction: Option<Direction>,
    user_name: Option<&str>,
    password: &Secret,
) -> Result<()> {
    let secrets = SecretStore::new(key_file_of(config).map_err(request)?);
    email_router_config::set_credential(
        config,
        address,
        direction,
        user_name,
        password,
        &secrets,
        &SystemEntropy,
    )
    .map(drop)
    .map_err(request)
}

/// Removes what is stored for an address: all, or what is stored for one direction; how many entries that were.
///
/// # Errors
/// There is nothing stored, or the store cannot be written.
pub fn remove(config: &Path, address: &EmailAddress, direction: Option<Direction>) -> Result<usize> {
    email_router_config::remove_credential(config, address, direction).map_err(request)
}

fn request(error: impl std::error::Error) -> Error {
    Error::Request(error.to_string())
}

/// Why nobody asks for a password that is good.
fn unused(settings: &Settings, entry: &StoredCredential) -> Option<String> {
    let same = |address: &EmailAddress| address.key() == entry.address.key();
    let mut of_address = settings.mailboxes.iter().filter(|m| same(&m.mailbox.address)).peekable();
    if of_address.peek().is_none() {
        // who it belongs to may be known to the CRM alone
        let loaded = settings.deployments.iter().any(|deployment| deployment.load_mailboxes);
        return (!loaded).then(|| "no mailbox of the configuration has this address".to_owned());
    }
    let directions = match entry.direction {
        Some(direction) => vec![direction],
        None => vec![Direction::Incoming, Direction::Outgoing],
    };
    let mut reason = None;
    for mailbox in of_address {
        let own = directions
            .iter()
            .any(|d| settings.profile_of(mailbox, *d).is_some_and(|p| p.credentials == Whose::UserSpecified));
        match (own, &mailbox.password) {
            (true, None) => return None,
            (true, Some(_)) => {
                reason = Some("the mailbox has a Password in the configuration, and that counts".to_owned());
            }
            (false, _) => {
                reason = Some("no profile of the mailbox says UserSpecified for this direction".to_owned());
            }
        }
    }
    reason
}
