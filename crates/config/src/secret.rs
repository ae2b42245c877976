//! References to secrets: what may stand in a `Password` or `ClientSecret` element instead of the secret.

use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// The elements that hold references to secrets. No message repeats their content, not even the name of an element in it, which may be a piece
/// of a password.
pub(crate) const SECRET_ELEMENTS: [&str; 2] = ["Password", "ClientSecret"];

/// Whether an element holds a reference to a secret; letter case does not count.
pub(crate) fn is_secret_element(name: &str) -> bool {
    SECRET_ELEMENTS.iter().any(|secret| secret.eq_ignore_ascii_case(name))
}

/// Where a secret is to be found, or the secret itself encrypted. Never the secret in clear.
///
/// ```
/// use email_router_config::SecretRef;
/// assert_eq!(SecretRef::parse("env:POP3_PASSWORD")?, SecretRef::Env("POP3_PASSWORD".to_owned()));
/// assert!(SecretRef::parse("hunter2").unwrap_err().is_clear_text());
/// # Ok::<(), email_router_config::SecretRefError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SecretRef {
    /// `env:NAME`: an environment variable.
    Env(String),
    /// `file:PATH`: the content of a file, one line end at its end removed. A relative path starts at the configuration's folder.
    File(PathBuf),
    /// `credential:NAME`: a file of that name in `$CREDENTIALS_DIRECTORY` (systemd's `LoadCredential=`).
    Credential(String),
    /// `aead:1:KEYID:BASE64`: encrypted under the router's key.
    Aead(Sealed),
}

/// A secret encrypted under the key that `key_id` names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sealed {
    /// Which key: 16 hexadecimal digits.
    pub key_id: String,
    /// 24 bytes of nonce, then the ciphertext with its 16-byte tag.
    pub(crate) bytes: Vec<u8>,
}

/// Why a text is not a reference to a secret. It never repeats the text, which may be a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecretRefError {
    /// No known prefix: the text is most likely a password.
    #[error("it must begin with env:, file:, credential: or aead:")]
    ClearText,
    /// A name of an environment variable or credential that cannot be one.
    #[error("the name after {0} must be letters, digits, '_', '-' or '.', and not empty")]
    Name(&'static str),
    /// No path after `file:`.
    #[error("there is no path after file:")]
    Path,
    /// Ciphertext that is cut or changed.
    #[error("the ciphertext after aead: is not complete; set the secret again")]
    Ciphertext,
    /// Ciphertext of a later version.
    #[error("the ciphertext has a format that this version does not know")]
    Version,
}

impl SecretRefError {
    /// Whether the text is most likely a password in clear.
    #[must_use]
    pub fn is_clear_text(self) -> bool {
        self == Self::ClearText
    }
}

/// The longest ciphertext, in bytes: a nonce, 64 KiB of secret, a tag.
const MAX_SEALED: usize = 24 + super::store::MAX_SECRET + 16;

impl SecretRef {
    /// Reads a reference.
    ///
    /// # Errors
    /// [`SecretRefError`]; its message never repeats the text.
    pub fn parse(text: &str) -> Result<Self, SecretRefError> {
        let text = text.trim();
        if let Some(name) = text.strip_prefix("env:") {
            return name_of(name, "env:").map(Self::Env);
        }
        if let Some(name) = text.strip_prefix("credential:") {
            return name_of(name, "credential:").map(Self::Credential);
        }
        if let Some(path) = text.strip_prefix("file:") {
            return if path.is_empty() { Err(SecretRefError::Path) } else { Ok(Self::File(path.into())) };
        }
        let sealed = text.strip_prefix("aead:").ok_or(SecretRefError::ClearText)?;
        let mut parts = sealed.splitn(3, ':');
        let (Some(version), Some(key_id), Some(body)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(SecretRefError::Ciphertext);
        };
        if version != "1" {
            return Err(SecretRefError::Version);
        }
        let hexadecimal = key_id.len() == 16 && key_id.bytes().all(|b| b.is_ascii_hexdigit());
        if !hexadecimal || body.len() > MAX_SEALED * 2 {
            return Err(SecretRefError::Ciphertext);
        }
        let bytes = STANDARD_NO_PAD.decode(body).map_err(|_| SecretRefError::Ciphertext)?;
        if bytes.len() < 24 + 16 {
            return Err(SecretRefError::Ciphertext);
        }
        Ok(Self::Aead(Sealed { key_id: key_id.to_ascii_lowercase(), bytes }))
    }

    /// The same reference with a relative `file:` path made to start at `folder`.
    #[must_use]
    pub fn resolved(self, folder: &Path) -> Self {
        match self {
            Self::File(path) => Self::File(folder.join(path)),
            other => other,
        }
    }
}

fn name_of(name: &str, prefix: &'static str) -> Result<String, SecretRefError> {
    let good = !name.is_empty()
        && name.len() <= 255
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    if good { Ok(name.to_owned()) } else { Err(SecretRefError::Name(prefix)) }
}

impl fmt::Display for SecretRef {
    /// The form that stands in the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Credential(name) => write!(f, "credential:{name}"),
            Self::Aead(sealed) => {
                write!(f, "aead:1:{}:{}", sealed.key_id, STANDARD_NO_PAD.encode(&sealed.bytes))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        for text in ["env:A_B", "file:/run/x y", "credential:pop3.password"] {
            assert_eq!(SecretRef::parse(text).unwrap().to_string(), text);
        }
        for (text, expected) in [
            ("hunter2", SecretRefError::ClearText),
            ("", SecretRefError::ClearText),
            ("ENV:A", SecretRefError::ClearText),
            ("env:", SecretRefError::Name("env:")),
            ("env:A=B", SecretRefError::Name("env:")),
            ("credential:../shadow", SecretRefError::Name("credential:")),
            ("credential:..", SecretRefError::Name("credential:")),
            ("file:", SecretRefError::Path),
            ("aead:1:0011223344556677:AAAA", SecretRefError::Ciphertext),
            ("aead:1:xx:AAAA", SecretRefError::Ciphertext),
            ("aead:2:0011223344556677:AAAA", SecretRefError::Version),
        ] {
            assert_eq!(SecretRef::parse(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn relative_files_start_at_the_folder() {
        let reference = SecretRef::parse("file:secrets/pop").unwrap().resolved(Path::new("/etc/router"));
        assert_eq!(reference, SecretRef::File("/etc/router/secrets/pop".into()));
    }
}
