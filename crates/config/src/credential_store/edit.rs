//! Changing the store: set, remove, encrypt anew. What is not changed stays byte for byte, unknown elements included.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::Path;

use email_router_model::{Direction, EmailAddress, Entropy, Secret};

use super::{
    ADDRESS, BOTH, CredentialStore, CredentialStoreError, DIRECTION, ENTRY, PASSWORD, StoredCredential,
    USER_NAME, bound_to, credentials_file, opened,
};
use crate::document::{EditError, ElementPath};
use crate::files;
use crate::load::previous_path;
use crate::secret::SecretRef;
use crate::store::{Key, SecretError, SecretStore};

/// Stores a password for an address, for one direction or (`None`) for both, in the store beside `configuration`; a key file is made where there
/// is no key. Setting it for both takes the place of what was stored for single directions. A user name that was stored stays where none is
/// given.
///
/// The old file becomes `NAME.previous`; the new one is written to a temporary file of its owner's only, synced and renamed into place. Whoever
/// changes a file of this folder waits for the others.
///
/// # Errors
/// [`CredentialStoreError`]; the file is as it was then.
pub fn set_credential(
    configuration: &Path,
    address: &EmailAddress,
    direction: Option<Direction>,
    user_name: Option<&str>,
    password: &Secret,
    secrets: &SecretStore,
    entropy: &dyn Entropy,
) -> Result<StoredCredential, CredentialStoreError> {
    let user_name = user_name.map(str::trim);
    if user_name.is_some_and(|name| name.is_empty() || name.contains(char::is_control)) {
        return Err(CredentialStoreError::UserName);
    }
    let path = credentials_file(configuration);
    let _lock = files::lock_folder(configuration).map_err(|e| io_error("lock the folder of", &path, e))?;
    let mut store = CredentialStore::open(&path)?;
    let old = store.document.as_str().to_owned();
    let key = secrets.key_or_create(entropy)?;
    let sealed = key.seal_with(password, &bound_to(key.id(), address, direction), entropy)?;
    store.put(address, direction, user_name, &SecretRef::Aead(sealed).to_string())?;
    let path = &path;
    // what does not parse any more is not written
    let changed = CredentialStore::parse(store.document.as_str().as_bytes(), path)
        .map_err(|damage| CredentialStoreError::Damaged { path: path.clone(), damage })?;
    let stored = changed.entries.into_iter().find(|e| e.address == *address && e.direction == direction);
    if path.exists() {
        write(&previous_path(path), &old, configuration, path)?;
    }
    write(path, store.document.as_str(), configuration, path)?;
    stored.ok_or_else(|| CredentialStoreError::NotStored {
        path: path.clone(),
        address: address.clone(),
        direction,
    })
}

/// Removes what is stored for an address: everything, or (`Some`) what is stored for one direction alone. How many entries that were. They are
/// removed from the previous generation too: who removes a password wants it gone.
///
/// # Errors
/// [`CredentialStoreError`]; the file is as it was then.
pub fn remove_credential(
    configuration: &Path,
    address: &EmailAddress,
    direction: Option<Direction>,
) -> Result<usize, CredentialStoreError> {
    let path = credentials_file(configuration);
    let _lock = files::lock_folder(configuration).map_err(|e| io_error("lock the folder of", &path, e))?;
    let mut store = CredentialStore::open(&path)?;
    let matching = |e: &&StoredCredential| direction.is_none() || e.direction == direction;
    let numbers: Vec<usize> = store.of(address).filter(matching).map(|e| e.number).collect();
    if numbers.is_empty() {
        return Err(match store.of(address).any(|e| e.direction.is_none()) {
            true => CredentialStoreError::BothAtOnce(address.clone()),
            false => CredentialStoreError::NotStored { path, address: address.clone(), direction },
        });
    }
    store.remove(&numbers)?;
    let new = store.document.as_str();
    let previous = previous_path(&path);
    // first: after a crash the entry is still in the file, and removing it again does all of this
    if previous.exists() {
        write(&previous, new, configuration, &path)?;
    }
    write(&path, new, configuration, &path)?;
    Ok(numbers.len())
}

/// The store and its previous generation with every password encrypted anew, not written yet.
pub(crate) struct Resealed {
    /// Passwords of the store itself.
    pub(crate) count: usize,
    /// The keys that the files on disk need.
    pub(crate) used: BTreeSet<String>,
    current: Option<String>,
    previous: Option<String>,
}

impl Resealed {
    /// Encrypts what is stored beside `configuration` anew under `key`. A previous generation that cannot be decrypted could not be used anyway; the
    /// file's own content takes its place.
    ///
    /// # Errors
    /// A store that is damaged or has faults: its passwords would be lost with the old key. The first password that cannot be decrypted.
    pub(crate) fn of(
        configuration: &Path,
        secrets: &SecretStore,
        key: &Key,
        entropy: &dyn Entropy,
    ) -> Result<Self, CredentialStoreError> {
        let path = credentials_file(configuration);
        let previous = previous_path(&path);
        let mut resealed = Self { count: 0, used: BTreeSet::new(), current: None, previous: None };
        if path.exists() {
            let mut store = CredentialStore::open(&path)?;
            if let Some(fault) = store.findings.iter().find(|f| f.is_error()) {
                return Err(CredentialStoreError::Fault(Box::new(fault.clone())));
            }
            resealed.used.extend(store.key_ids());
            resealed.count = store.reseal(secrets, key, entropy)?;
            resealed.current = Some(store.document.as_str().to_owned());
        }
        if previous.exists() {
            resealed.previous.clone_from(&resealed.current);
            if let Ok(mut older) = CredentialStore::open(&previous) {
                resealed.used.extend(older.key_ids());
                if older.reseal(secrets, key, entropy).is_ok() {
                    resealed.previous = Some(older.document.as_str().to_owned());
                }
            }
        }
        Ok(resealed)
    }

    /// Puts the previous generation in its place, where there is one.
    pub(crate) fn write_previous(&self, configuration: &Path) -> Result<(), CredentialStoreError> {
        let path = credentials_file(configuration);
        let text = self.previous.as_ref();
        text.map_or(Ok(()), |text| write(&previous_path(&path), text, configuration, &path))
    }

    /// Puts the store in its place, where there is one.
    pub(crate) fn write(&self, configuration: &Path) -> Result<(), CredentialStoreError> {
        let path = credentials_file(configuration);
        self.current.as_ref().map_or(Ok(()), |text| write(&path, text, configuration, &path))
    }
}

impl CredentialStore {
    fn of<'a>(&'a self, address: &EmailAddress) -> impl Iterator<Item = &'a StoredCredential> + use<'a> {
        let numbers = self.by_address.get(&address.key()).map(Vec::as_slice).unwrap_or_default();
        numbers.iter().map(|n| &self.entries[*n])
    }

    fn put(
        &mut self,
        address: &EmailAddress,
        direction: Option<Direction>,
        user_name: Option<&str>,
        sealed: &str,
    ) -> Result<(), EditError> {
        let replaced: Vec<&StoredCredential> =
            self.of(address).filter(|e| direction.is_none() || e.direction == direction).collect();
        let kept = replaced.iter().find(|e| e.direction == direction).map(|e| e.number);
        let stored_name = replaced.iter().find(|e| e.direction == direction && e.user_name.is_some());
        let stored_name = stored_name.or_else(|| replaced.iter().find(|e| e.user_name.is_some()));
        let user_name =
            user_name.map(str::to_owned).or_else(|| stored_name.and_then(|e| e.user_name.clone()));
        let surplus: Vec<usize> = replaced.iter().map(|e| e.number).filter(|n| Some(*n) != kept).collect();
        match kept {
            Some(number) => {
                let entry = ElementPath::new(ENTRY).number(number);
                // whatever stood there, elements in a password in clear text included
                self.document.remove(&entry.clone().child(PASSWORD))?;
                if let Some(name) = user_name {
                    self.document.set(&entry.clone().child(USER_NAME), &name)?;
                }
                self.document.set(&entry.child(PASSWORD), sealed)?;
            }
            None => {
                let direction = match direction {
                    None => BOTH,
                    Some(Direction::Incoming) => "Incoming",
                    Some(Direction::Outgoing) => "Outgoing",
                };
                let mut children = vec![(ADDRESS, address.as_str()), (DIRECTION, direction)];
                children.extend(user_name.as_deref().map(|name| (USER_NAME, name)));
                children.push((PASSWORD, sealed));
                self.document.insert(&ElementPath::root(), ENTRY, &children)?;
            }
        }
        self.remove(&surplus)
    }

    /// Removes entries by their numbers, from the last on, so that the others keep theirs meanwhile.
    fn remove(&mut self, numbers: &[usize]) -> Result<(), EditError> {
        let mut numbers = numbers.to_vec();
        numbers.sort_unstable();
        for number in numbers.into_iter().rev() {
            self.document.remove(&ElementPath::new(ENTRY).number(number))?;
        }
        Ok(())
    }

    fn key_ids(&self) -> impl Iterator<Item = String> {
        self.entries.iter().filter_map(|e| e.password.as_ref().map(|sealed| sealed.key_id.clone()))
    }

    /// Encrypts every password of the document anew. How many there were.
    fn reseal(
        &mut self,
        secrets: &SecretStore,
        key: &Key,
        entropy: &dyn Entropy,
    ) -> Result<usize, CredentialStoreError> {
        let mut fresh: HashMap<String, String> = HashMap::new();
        for entry in &self.entries {
            let Some(sealed) = &entry.password else { continue };
            let again = || -> Result<SecretRef, SecretError> {
                let secret = opened(entry, sealed, secrets)?;
                let aad = bound_to(key.id(), &entry.address, entry.direction);
                key.seal_with(&secret, &aad, entropy).map(SecretRef::Aead)
            };
            let old = SecretRef::Aead(sealed.clone()).to_string();
            fresh.insert(old, again()?.to_string());
        }
        // by what it was, which is unique: each has a nonce of its own
        Ok(self.document.replace_all(|name, text| match SecretRef::parse(text) {
            Ok(reference) if name.eq_ignore_ascii_case(PASSWORD) => {
                fresh.get(&reference.to_string()).cloned()
            }
            _ => None,
        })?)
    }
}

/// Writes a file of the store. It belongs to whom the store belongs to, and the first one to whom the configuration belongs: an administrator must
/// not lock the account of the service out.
fn write(path: &Path, text: &str, configuration: &Path, store: &Path) -> Result<(), CredentialStoreError> {
    let like = if store.exists() { store } else { configuration };
    files::replace_private(path, text.as_bytes(), like).map_err(|e| io_error("write", path, e))
}

fn io_error(what: &str, path: &Path, source: io::Error) -> CredentialStoreError {
    CredentialStoreError::Io { what: format!("{what} {}", path.display()), source }
}
