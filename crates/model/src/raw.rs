//! The bytes of one message.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::{Headers, Timestamp};

/// One Internet message (RFC 5322) exactly as the mail system gave it, with what the mail system knows about it.
///
/// Cloning is cheap: the bytes are shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawMessage {
    bytes: Bytes,
    /// When the mail system received it, where the mail system tells.
    pub received: Option<Timestamp>,
    /// The id of the conversation as the mail system counts it (Exchange), where it tells.
    pub conversation_id: Option<String>,
}

impl RawMessage {
    /// A message with these bytes.
    #[must_use]
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into(), received: None, conversation_id: None }
    }

    /// All bytes: header section, empty line, body.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The header section.
    #[must_use]
    pub fn headers(&self) -> Headers<'_> {
        Headers::new(&self.bytes)
    }

    /// SHA-256 of all bytes in lower-case hexadecimal; the identity of a message that has no Message-ID. Costs a pass over the
    /// message, so it is not for the hot path.
    #[must_use]
    pub fn digest(&self) -> String {
        hex(&Sha256::digest(&self.bytes))
    }
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, b| {
        let _ = write!(text, "{b:02x}"); // writing to a String cannot fail
        text
    })
}
