//! Looking secrets up, encrypting them, and the key that does it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use email_router_model::{CapError, Entropy, Secret, read_file_capped};
use zeroize::Zeroizing;

use crate::document::{Document, ElementPath};
use crate::load::{previous_path, text_of};
use crate::secret::{Sealed, SecretRef};
use crate::settings::is_windows_path;
use crate::tree::MAX_BYTES;

/// The longest secret, in bytes; a private key fits.
pub const MAX_SECRET: usize = 64 * 1024;
/// The environment variable that may hold the key instead of a key file: the line of a key file, or its base64 part alone.
pub const KEY_VARIABLE: &str = "EMAIL_ROUTER_KEY";
/// The environment variable in which systemd names the folder of credentials.
pub const CREDENTIALS_VARIABLE: &str = "CREDENTIALS_DIRECTORY";

const KEY_PREFIX: &str = "email-router-key:1:";
const KEY_FILE_LIMIT: u64 = 4096;

/// Why a secret or a key is not to be had. Never contains one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The environment variable is not set, or not text.
    #[error("the environment variable {0} is not set to a text")]
    Environment(String),
    /// A file cannot be read, or is too large.
    #[error("{0}")]
    File(String),
    /// The service was not given credentials.
    #[error(
        "credential:{0} needs the variable CREDENTIALS_DIRECTORY, which systemd sets for LoadCredential="
    )]
    NoCredentials(String),
    /// A secret that is not text.
    #[error("{0} does not hold UTF-8 text of one line")]
    NotText(String),
    /// A secret that is empty.
    #[error("{0} is empty")]
    Empty(String),
    /// A secret that is too long to encrypt.
    #[error("the secret is longer than {MAX_SECRET} bytes")]
    TooLong,
    /// There is no key at all.
    #[error("there is no key to decrypt with: neither a key file at {0} nor the variable EMAIL_ROUTER_KEY")]
    NoKey(String),
    /// The ciphertext belongs to another key.
    #[error("the secret was encrypted under the key {wanted}, which is not in {source_name}")]
    OtherKey {
        /// The key the ciphertext names.
        wanted: String,
        /// Where the keys at hand came from.
        source_name: String,
    },
    /// The key fits, the ciphertext does not: it was changed.
    #[error("the ciphertext under the key {0} was changed or cut; set the secret again")]
    Tampered(String),
    /// The key fits, the ciphertext does not: it was changed, or it belongs to another address or direction.
    #[error(
        "the ciphertext under the key {0} was changed or cut, or was made for another address or direction; set the password again"
    )]
    OtherEntry(String),
    /// Something that should be a key is not one.
    #[error("{0} does not hold a key of the form {KEY_PREFIX}BASE64 with 32 bytes")]
    BadKey(String),
    /// A file that should hold the key of references holds something else.
    #[error(
        "{0} does not hold a reference key, which is 64 hexadecimal digits; restore it from a copy, or remove it to have a new \
         one made (answers to mail sent so far are then found by Message-ID alone)"
    )]
    BadReferenceKey(String),
    /// Others can read the key.
    #[error("{path} can be read by others (mode {mode:o}); make it readable by its owner only (chmod 600)")]
    OpenToOthers {
        /// The key file.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
}

/// A 256-bit key. No `Display`, a `Debug` that shows the id only, wiped when dropped.
#[derive(Clone)]
pub struct Key {
    bytes: Zeroizing<[u8; 32]>,
    id: String,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

impl Key {
    /// A fresh key.
    #[must_use]
    pub fn generate(entropy: &dyn Entropy) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        entropy.fill(bytes.as_mut());
        Self::from_bytes(bytes)
    }

    /// The id that ciphertext names: 16 hexadecimal digits that follow from the key but do not reveal it.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    fn from_bytes(bytes: Zeroizing<[u8; 32]>) -> Self {
        // The tag of an empty message under a fixed nonce that no encryption uses (those are random) is a one-way function of the
        // key; 8 bytes of it are enough to tell a handful of keys apart.
        let cipher = XChaCha20Poly1305::new((&*bytes).into());
        let payload = Payload { msg: b"", aad: b"email-router key id" };
        let tag = cipher.encrypt(&XNonce::from([0xff; 24]), payload).unwrap_or_default();
        let id = email_router_model::raw::hex(&tag[..tag.len().min(8)]);
        Self { bytes, id }
    }

    fn parse(text: &str, source: &str) -> Result<Self, SecretError> {
        let body = text.trim();
        let body = body.strip_prefix(KEY_PREFIX).unwrap_or(body);
        let bad = || SecretError::BadKey(source.to_owned());
        let decoded = Zeroizing::new(STANDARD.decode(body).map_err(|_| bad())?);
        let bytes: [u8; 32] = decoded.as_slice().try_into().map_err(|_| bad())?;
        Ok(Self::from_bytes(Zeroizing::new(bytes)))
    }

    fn line(&self) -> Zeroizing<String> {
        let body = Zeroizing::new(STANDARD.encode(self.bytes.as_slice()));
        Zeroizing::new(format!("{KEY_PREFIX}{}\n", &*body))
    }

    /// Encrypts a secret with XChaCha20-Poly1305 under a random nonce. The associated data is the format's version and the key's
    /// id, so neither can be exchanged.
    ///
    /// # Errors
    /// [`SecretError::TooLong`], [`SecretError::Empty`], [`SecretError::NotText`] for control characters.
    pub fn seal(&self, secret: &Secret, entropy: &dyn Entropy) -> Result<SecretRef, SecretError> {
        self.seal_with(secret, &associated(&self.id), entropy).map(SecretRef::Aead)
    }

    /// The same with associated data of the caller's, which has to name the key.
    pub(crate) fn seal_with(
        &self,
        secret: &Secret,
        aad: &str,
        entropy: &dyn Entropy,
    ) -> Result<Sealed, SecretError> {
        let text = checked(secret.expose(), "the secret")?;
        let mut nonce = [0; 24];
        entropy.fill(&mut nonce);
        let payload = Payload { msg: text.as_bytes(), aad: aad.as_bytes() };
        let sealed =
            self.cipher().encrypt(&XNonce::from(nonce), payload).map_err(|_| SecretError::TooLong)?;
        Ok(Sealed { key_id: self.id.clone(), bytes: [&nonce[..], &sealed].concat() })
    }

    fn open(&self, sealed: &Sealed, aad: &str) -> Result<Secret, SecretError> {
        let tampered = || SecretError::Tampered(self.id.clone());
        let (nonce, body) = sealed.bytes.split_at_checked(24).ok_or_else(tampered)?;
        let nonce: [u8; 24] = nonce.try_into().map_err(|_| tampered())?;
        let payload = Payload { msg: body, aad: aad.as_bytes() };
        let clear = self.cipher().decrypt(&XNonce::from(nonce), payload).map_err(|_| tampered())?;
        let clear = Zeroizing::new(clear);
        let text = std::str::from_utf8(&clear).map_err(|_| tampered())?;
        Ok(Secret::from(text))
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new((&*self.bytes).into())
    }
}

fn associated(key_id: &str) -> String {
    format!("email-router secret, format 1, key {key_id}")
}

/// One line of text, not empty, not too long: what every protocol we speak can carry as a password.
fn checked<'a>(text: &'a str, source: &str) -> Result<&'a str, SecretError> {
    if text.is_empty() {
        return Err(SecretError::Empty(source.to_owned()));
    }
    if text.len() > MAX_SECRET {
        return Err(SecretError::TooLong);
    }
    if text.contains(['\0', '\r', '\n']) {
        return Err(SecretError::NotText(source.to_owned()));
    }
    Ok(text)
}

/// Which key file a configuration means: what its `Router/SecretKeyFile` says, whatever else is wrong with it, or
/// [`DEFAULT_KEY_FILE`](crate::DEFAULT_KEY_FILE) beside it. A first password has to be encrypted before there is a complete configuration, so
/// one that is not there or not valid yet is no error. Of a damaged one the previous generation is asked, as by
/// [`Settings::load`](crate::Settings::load).
///
/// # Errors
/// [`SecretError::File`] where the answer would be a guess: the configuration cannot be read, it is damaged and so is its previous
/// generation, or it names no one file of this system.
pub fn key_file_of(configuration: &Path) -> Result<PathBuf, SecretError> {
    let folder = crate::files::folder(configuration);
    let document = match read_file_capped(configuration, MAX_BYTES as u64) {
        Ok(bytes) => text_of(&bytes).and_then(Document::parse).or_else(|damage| {
            Document::load(&previous_path(configuration)).map_err(|previous| {
                SecretError::File(format!(
                    "{}:{damage}; nor does its previous generation say which key file is used ({previous}); repair the file first",
                    configuration.display()
                ))
            })
        })?,
        Err(CapError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Document::empty(),
        Err(error) => return Err(SecretError::File(error.to_string())),
    };
    let section = ElementPath::new("Router");
    let element = section.clone().child("SecretKeyFile");
    if document.count(&section) > 1 || document.count(&element) > 1 {
        let message = format!("{} has {element} more than once; remove one", configuration.display());
        return Err(SecretError::File(message));
    }
    match document.get(&element).filter(|text| !text.is_empty()) {
        None => Ok(folder.join(crate::DEFAULT_KEY_FILE)),
        Some(text) if cfg!(not(windows)) && is_windows_path(text) => Err(SecretError::File(format!(
            "{element} of {} is a Windows path, which means nothing on this system",
            configuration.display()
        ))),
        Some(text) => Ok(folder.join(text)),
    }
}

/// Creates a key file, readable by its owner only, with one fresh key.
///
/// # Errors
/// [`SecretError::File`] when it exists already or cannot be written; an existing key is never replaced.
pub fn create_key_file(path: &Path, entropy: &dyn Entropy) -> Result<Key, SecretError> {
    let key = Key::generate(entropy);
    crate::files::create_private(path, key.line().as_bytes())
        .map_err(|e| SecretError::File(format!("cannot create the key file {}: {e}", path.display())))?;
    Ok(key)
}

/// Refuses a key file on which anybody but the owner has any permission (on Unix).
pub(crate) fn owner_only(path: &Path) -> Result<(), SecretError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let metadata = std::fs::metadata(path)
            .map_err(|e| SecretError::File(format!("cannot read the key file {}: {e}", path.display())))?;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(SecretError::OpenToOthers { path: path.display().to_string(), mode });
        }
    }
    Ok(())
}

/// Reads a key file: one key a line, the one in use first, retired ones after it.
///
/// # Errors
/// [`SecretError::File`], [`SecretError::OpenToOthers`] (on Unix) when anybody but the owner has any permission on it,
/// [`SecretError::BadKey`].
pub fn read_key_file(path: &Path) -> Result<Vec<Key>, SecretError> {
    owner_only(path)?;
    let bytes =
        Zeroizing::new(read_file_capped(path, KEY_FILE_LIMIT).map_err(|e| SecretError::File(e.to_string()))?);
    let name = path.display().to_string();
    let text = std::str::from_utf8(&bytes).map_err(|_| SecretError::BadKey(name.clone()))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let keys = lines.map(|line| Key::parse(line, &name)).collect::<Result<Vec<_>, _>>()?;
    if keys.is_empty() { Err(SecretError::BadKey(name)) } else { Ok(keys) }
}

/// Replaces a key file atomically.
pub(crate) fn write_key_file(path: &Path, keys: &[&Key]) -> Result<(), SecretError> {
    let mut text = Zeroizing::new(String::new());
    for key in keys {
        text.push_str(&key.line());
    }
    crate::files::replace(path, text.as_bytes())
        .map_err(|e| SecretError::File(format!("cannot write the key file {}: {e}", path.display())))
}

type Environment = Box<dyn Fn(&str) -> Option<OsString> + Send + Sync>;

/// Looks secrets up and keeps none: who keeps an answer asks again when [`Self::stamp`] changes.
pub struct SecretStore {
    environment: Environment,
    key_file: PathBuf,
}

impl fmt::Debug for SecretStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretStore").field("key_file", &self.key_file).finish_non_exhaustive()
    }
}

impl SecretStore {
    /// A store that decrypts with the keys of `key_file` ([`RouterSettings::secret_key_file`](crate::RouterSettings)), or with
    /// the key in the variable `EMAIL_ROUTER_KEY` where that is set. The file is read only when a ciphertext has to be decrypted.
    #[must_use]
    pub fn new(key_file: impl Into<PathBuf>) -> Self {
        Self::with_environment(key_file, |name| std::env::var_os(name))
    }

    /// The same with another environment, for tests and for programs that keep their own.
    #[must_use]
    pub fn with_environment(
        key_file: impl Into<PathBuf>,
        environment: impl Fn(&str) -> Option<OsString> + Send + Sync + 'static,
    ) -> Self {
        Self { environment: Box::new(environment), key_file: key_file.into() }
    }

    /// The secret that a reference means.
    ///
    /// A file's or credential's one line end at its end is removed; any other line end in it is refused, as no protocol carries it.
    ///
    /// # Errors
    /// [`SecretError`]; it names the variable, file or key, never the secret.
    pub fn resolve(&self, reference: &SecretRef) -> Result<Secret, SecretError> {
        match reference {
            SecretRef::Env(name) => {
                let value = (self.environment)(name).and_then(|v| v.into_string().ok());
                let value = Zeroizing::new(value.ok_or_else(|| SecretError::Environment(name.clone()))?);
                checked(&value, &format!("the environment variable {name}")).map(Secret::from)
            }
            SecretRef::File(path) => secret_file(path),
            SecretRef::Credential(name) => {
                let folder = (self.environment)(CREDENTIALS_VARIABLE)
                    .ok_or_else(|| SecretError::NoCredentials(name.clone()))?;
                secret_file(&PathBuf::from(folder).join(name))
            }
            SecretRef::Aead(sealed) => self.open(sealed, &associated(&sealed.key_id)),
        }
    }

    /// Decrypts with the key that the ciphertext names, and with this associated data.
    pub(crate) fn open(&self, sealed: &Sealed, aad: &str) -> Result<Secret, SecretError> {
        let keys = self.keys()?;
        let key = keys.iter().find(|k| k.id == sealed.key_id).ok_or_else(|| SecretError::OtherKey {
            wanted: sealed.key_id.clone(),
            source_name: self.key_source(),
        })?;
        key.open(sealed, aad)
    }

    /// A number that changes when a file changes that these references read, the key file included. It looks at the files' metadata and
    /// not into them; it blocks as long as that takes. Environment variables do not change while a program runs.
    #[must_use]
    pub fn stamp<'a>(&self, references: impl IntoIterator<Item = &'a SecretRef>) -> u64 {
        let mut files = BTreeSet::new();
        for reference in references {
            match reference {
                SecretRef::Env(_) => {}
                SecretRef::File(path) => drop(files.insert(path.clone())),
                SecretRef::Credential(name) => {
                    files.extend(
                        (self.environment)(CREDENTIALS_VARIABLE).map(|f| PathBuf::from(f).join(name)),
                    );
                }
                SecretRef::Aead(_) => drop(files.insert(self.key_file.clone())),
            }
        }
        let mut stamp = DefaultHasher::new();
        for file in files {
            std::fs::metadata(&file).ok().map(|metadata| state_of(&metadata)).hash(&mut stamp);
            file.hash(&mut stamp);
        }
        stamp.finish()
    }

    /// The keys at hand, the one to encrypt with first.
    ///
    /// # Errors
    /// [`SecretError::NoKey`], or what is wrong with the key file or the variable.
    pub fn keys(&self) -> Result<Vec<Key>, SecretError> {
        if let Some(text) = (self.environment)(KEY_VARIABLE) {
            let source = format!("the environment variable {KEY_VARIABLE}");
            let text = Zeroizing::new(text.into_string().map_err(|_| SecretError::BadKey(source.clone()))?);
            return Ok(vec![Key::parse(&text, &source)?]);
        }
        if !self.key_file.exists() {
            return Err(SecretError::NoKey(self.key_file.display().to_string()));
        }
        read_key_file(&self.key_file)
    }

    /// The key to encrypt with; a key file with a fresh key is created when there is no key at all.
    ///
    /// # Errors
    /// As [`Self::keys`] and [`create_key_file`].
    pub fn key_or_create(&self, entropy: &dyn Entropy) -> Result<Key, SecretError> {
        match self.keys() {
            Ok(keys) => {
                keys.into_iter().next().ok_or_else(|| SecretError::NoKey(self.key_file.display().to_string()))
            }
            Err(SecretError::NoKey(_)) => create_key_file(&self.key_file, entropy),
            Err(error) => Err(error),
        }
    }

    /// The key file.
    #[must_use]
    pub fn key_file(&self) -> &Path {
        &self.key_file
    }

    /// Whether the key comes from the environment, where it cannot be rotated by this program.
    #[must_use]
    pub fn key_is_from_environment(&self) -> bool {
        (self.environment)(KEY_VARIABLE).is_some()
    }

    /// Where the key comes from, for people: the variable or the key file.
    #[must_use]
    pub fn key_source(&self) -> String {
        if self.key_is_from_environment() {
            format!("the environment variable {KEY_VARIABLE}")
        } else {
            self.key_file.display().to_string()
        }
    }
}

/// What differs when a file was written again or replaced. The time of the last change of the inode cannot be set back, as that of the
/// content can (`cp -p`).
#[cfg(unix)]
fn state_of(metadata: &std::fs::Metadata) -> impl Hash + use<> {
    use std::os::unix::fs::MetadataExt as _;
    (
        metadata.ino(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    )
}

#[cfg(not(unix))]
fn state_of(metadata: &std::fs::Metadata) -> impl Hash + use<> {
    (metadata.len(), metadata.modified().ok())
}

fn secret_file(path: &Path) -> Result<Secret, SecretError> {
    let bytes = read_file_capped(path, MAX_SECRET as u64).map_err(|e| SecretError::File(e.to_string()))?;
    let bytes = Zeroizing::new(bytes);
    let name = path.display().to_string();
    let text = std::str::from_utf8(&bytes).map_err(|_| SecretError::NotText(name.clone()))?;
    let text = text.strip_suffix('\n').map_or(text, |t| t.strip_suffix('\r').unwrap_or(t));
    checked(text, &name).map(Secret::from)
}
