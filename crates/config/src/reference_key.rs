//! The key that signs references in outgoing mail.
//!
//! It belongs to the router, not to its configuration: it is made the first time it is needed, never shown, and kept, since mail
//! that was signed with it is answered for years. Routers of one organization share it.

use std::io;
use std::path::Path;

use email_router_model::{Entropy, Secret, read_file_capped};
use zeroize::Zeroizing;

use crate::files;
use crate::store::{SecretError, owner_only};

/// Octets of a key.
const KEY_OCTETS: usize = 32;
const FILE_LIMIT: u64 = 4096;

/// The key in this file: 64 hexadecimal digits. Where there is no such file it is created, readable by its owner only, with a fresh key.
///
/// # Errors
/// [`SecretError::File`] when it cannot be read or created, [`SecretError::OpenToOthers`] (on Unix) when anybody but the owner has any
/// permission on it, [`SecretError::BadReferenceKey`] when it holds something else; it is never overwritten.
pub fn reference_key(path: &Path, entropy: &dyn Entropy) -> Result<Secret, SecretError> {
    if let Some(key) = read(path)? {
        return Ok(key);
    }
    let line = Zeroizing::new(format!("{}\n", fresh(entropy).expose()));
    match files::create_whole(path, line.as_bytes(), entropy) {
        Ok(()) => {}
        // another process was faster; its key counts
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(file_error("create", path, &error)),
    }
    read(path)?.ok_or_else(|| file_error("find", path, &"it was removed just after it was made"))
}

/// The key in this file, as [`reference_key()`] reads it; `None` where there is no such file. Nothing is created.
///
/// # Errors
/// Those of [`reference_key()`] but for creating.
pub fn read(path: &Path) -> Result<Option<Secret>, SecretError> {
    if !path.try_exists().map_err(|e| file_error("find", path, &e))? {
        return Ok(None);
    }
    owner_only(path)?;
    let bytes =
        Zeroizing::new(read_file_capped(path, FILE_LIMIT).map_err(|e| SecretError::File(e.to_string()))?);
    let text = std::str::from_utf8(&bytes).unwrap_or_default().trim();
    if text.len() != 2 * KEY_OCTETS || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(SecretError::BadReferenceKey(path.display().to_string()));
    }
    Ok(Some(Secret::from(text)))
}

/// A new key, written nowhere.
#[must_use]
pub fn fresh(entropy: &dyn Entropy) -> Secret {
    let mut octets = Zeroizing::new([0; KEY_OCTETS]);
    entropy.fill(octets.as_mut());
    Secret::from(email_router_model::raw::hex(octets.as_slice()))
}

fn file_error(what: &str, path: &Path, error: &dyn std::fmt::Display) -> SecretError {
    SecretError::File(format!("cannot {what} the reference key file {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use email_router_model::SeededEntropy;

    use super::*;

    #[test]
    fn made_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reference.key");
        let key = reference_key(&path, &SeededEntropy::new(1)).unwrap();
        assert_eq!(key.expose().len(), 64);
        assert_eq!(reference_key(&path, &SeededEntropy::new(2)).unwrap(), key, "a key is never replaced");
        assert_eq!(read(&path).unwrap(), Some(key.clone()));
        assert_eq!(read(&folder.path().join("none")).unwrap(), None);
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "nothing is left beside it, none is made by reading"
        );
        let other = reference_key(&folder.path().join("other"), &SeededEntropy::new(2)).unwrap();
        assert_ne!(other, key);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            let error = reference_key(&path, &SeededEntropy::new(1)).unwrap_err();
            assert!(matches!(error, SecretError::OpenToOthers { mode: 0o640, .. }), "{error}");
        }
    }

    #[test]
    fn what_is_no_key_is_named_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reference.key");
        for content in ["", "email-router-key:1:AAAA", &"g".repeat(64), &"0a".repeat(31)] {
            let _ = fs::remove_file(&path);
            files::create_private(&path, content.as_bytes()).unwrap();
            let error = reference_key(&path, &SeededEntropy::new(1)).unwrap_err();
            assert!(matches!(error, SecretError::BadReferenceKey(_)), "{error}");
            let said = error.to_string();
            assert!(
                said.contains("reference.key") && (content.is_empty() || !said.contains(content)),
                "{said}"
            );
            assert_eq!(read_file_capped(&path, 4096).unwrap(), content.as_bytes());
        }
        let missing = folder.path().join("no/such/folder/key");
        let error = reference_key(&missing, &SeededEntropy::new(1)).unwrap_err();
        assert!(matches!(error, SecretError::File(_)), "{error}");
    }
}
