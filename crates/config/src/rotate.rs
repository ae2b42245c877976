//! Setting secrets in a file, and exchanging the key they are encrypted under.

use std::collections::BTreeSet;
use std::path::Path;

use email_router_model::{Entropy, Secret};

use crate::credential_store::{CredentialStoreError, Resealed};
use crate::document::{Document, EditError, ElementPath};
use crate::files;
use crate::load::previous_path;
use crate::publish::{PublishError, publish_locked};
use crate::secret::{SECRET_ELEMENTS, SecretRef, is_secret_element};
use crate::store::{Key, SecretError, SecretStore, create_key_file, read_key_file, write_key_file};

/// Why a secret was not set, or the key not exchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RotateError {
    /// The file cannot be opened.
    #[error("{0}")]
    Document(String),
    /// The element cannot be set.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// The new file was refused.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// A key or secret is not to be had.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The key comes from the environment.
    #[error(
        "the key comes from the variable EMAIL_ROUTER_KEY, so this program cannot exchange it; use a key file"
    )]
    EnvironmentKey,
    /// The store of credentials cannot be encrypted anew.
    #[error(transparent)]
    Stored(#[from] CredentialStoreError),
    /// A file operation failed.
    #[error("cannot lock the folder of {0}")]
    Lock(String),
}

/// What [`rotate`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// Secrets encrypted anew in the file.
    pub secrets: usize,
    /// Secrets encrypted anew in its previous generation.
    pub previous_secrets: usize,
    /// Passwords encrypted anew in the store of credentials.
    pub stored: usize,
    /// Id of the key in use now.
    pub key_id: String,
}

/// Encrypts a secret into the document at `path` (its `Password` or `ClientSecret` element). The caller publishes the document.
///
/// # Errors
/// [`RotateError::Secret`], [`RotateError::Edit`]; the document is unchanged then.
pub fn set_secret(
    document: &mut Document,
    path: &ElementPath,
    secret: &Secret,
    store: &SecretStore,
    entropy: &dyn Entropy,
) -> Result<(), RotateError> {
    let sealed = store.key_or_create(entropy)?.seal(secret, entropy)?;
    document.set(path, &sealed.to_string())?;
    Ok(())
}

/// Encrypts every ciphertext of a document anew under `key`. How many there were.
///
/// # Errors
/// The first ciphertext that cannot be decrypted; the document is unchanged then.
pub fn reseal(
    document: &mut Document,
    store: &SecretStore,
    key: &Key,
    entropy: &dyn Entropy,
) -> Result<usize, RotateError> {
    let mut failed = None;
    let count = {
        let mut fresh = Vec::new();
        // first pass: decrypt and encrypt, so that nothing is changed when one fails
        document.replace_all(|name, text| {
            if let (true, Ok(reference @ SecretRef::Aead(_))) =
                (is_secret_element(name), SecretRef::parse(text))
            {
                match store.resolve(&reference).and_then(|secret| key.seal(&secret, entropy)) {
                    Ok(sealed) => fresh.push(sealed.to_string()),
                    Err(error) => failed = failed.take().or(Some(error)),
                }
            }
            None
        })?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        let mut fresh = fresh.into_iter();
        document.replace_all(|name, text| {
            let sealed = matches!(SecretRef::parse(text), Ok(SecretRef::Aead(_)));
            if sealed && is_secret_element(name) { fresh.next() } else { None }
        })?
    };
    Ok(count)
}

/// The keys under which a document's secrets are encrypted.
fn key_ids(document: &Document) -> BTreeSet<String> {
    let values = SECRET_ELEMENTS.iter().flat_map(|name| document.values(name));
    let sealed = values.filter_map(|text| match SecretRef::parse(text) {
        Ok(SecretRef::Aead(sealed)) => Some(sealed.key_id),
        _ => None,
    });
    sealed.collect()
}

/// Exchanges the key: a fresh key, every ciphertext of the file, of the store of credentials beside it, and of their previous generations
/// encrypted anew, the old key gone.
///
/// The steps are ordered so that a crash between any two leaves every ciphertext with its key: both keys into the key file (the new
/// one first), then the files and their previous generations, then the old key out. Running it again completes it. A previous
/// generation that is damaged or cannot be decrypted could not be used anyway; the file's own content takes its place. Keys that no file
/// uses and that are not the one in use, which rotations that failed left behind, are dropped first, so that the key file does not grow.
///
/// # Errors
/// [`RotateError`]. When a file could not be written, both keys stay in the key file.
pub fn rotate(path: &Path, store: &SecretStore, entropy: &dyn Entropy) -> Result<Rotated, RotateError> {
    rotate_in_steps(path, store, entropy, &mut || Ok(()))
}

/// The same, asking before each file that is written; an error ends it there, as a crash would.
fn rotate_in_steps(
    path: &Path,
    store: &SecretStore,
    entropy: &dyn Entropy,
    step: &mut dyn FnMut() -> Result<(), RotateError>,
) -> Result<Rotated, RotateError> {
    if store.key_is_from_environment() {
        return Err(RotateError::EnvironmentKey);
    }
    let _lock = files::lock_folder(path).map_err(|_| RotateError::Lock(path.display().to_string()))?;
    let key_file = store.key_file();
    if !key_file.exists() {
        create_key_file(key_file, entropy)?;
    }
    let old = read_key_file(key_file)?;
    let mut document = Document::load(path).map_err(RotateError::Document)?;
    // a file that could not be published would leave one more key in the key file at each try
    let (_, findings) = crate::load::check(document.as_str(), path);
    if findings.iter().any(crate::Finding::is_error) {
        return Err(PublishError::Invalid(findings).into());
    }
    let mut used = key_ids(&document);
    let new = Key::generate(entropy);
    let secrets = reseal(&mut document, store, &new, entropy)?;
    let stored = Resealed::of(path, store, &new, entropy)?;
    used.extend(stored.used.iter().cloned());
    let previous = previous_path(path);
    if let Ok(older) = Document::load(&previous) {
        used.extend(key_ids(&older));
    }
    let kept = old.iter().enumerate().filter(|(n, key)| *n == 0 || used.contains(key.id()));
    let keys: Vec<&Key> = std::iter::once(&new).chain(kept.map(|(_, key)| key)).collect();
    step()?;
    write_key_file(key_file, &keys)?;

    let mut previous_secrets = 0;
    let mut resealed_previous = None;
    if let Ok(mut older) = Document::load(&previous)
        && let Ok(count) = reseal(&mut older, store, &new, entropy)
    {
        previous_secrets = count;
        resealed_previous = Some(older);
    }
    step()?;
    publish_locked(path, document.as_str().as_bytes())?;
    step()?;
    // publishing has kept the file with the old ciphertext as the previous generation; what was before it goes back there
    match resealed_previous {
        Some(older) => files::replace_like(&previous, older.as_str().as_bytes(), path),
        None => files::replace_like(&previous, document.as_str().as_bytes(), path),
    }
    .map_err(|source| PublishError::Io { what: format!("write {}", previous.display()), source })?;
    step()?;
    stored.write_previous(path)?;
    step()?;
    stored.write(path)?;
    step()?;
    write_key_file(key_file, &[&new])?;
    Ok(Rotated { secrets, previous_secrets, stored: stored.count, key_id: new.id().to_owned() })
}
