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
    /// The message class as the mail system counts it (`IPM.Note`), where it has classes (Exchange).
    pub message_class: Option<String>,
}

impl RawMessage {
    /// A message with these bytes.
    #[must_use]
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into(), received: None, conversation_id: None, message_class: None }
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

    /// SHA-256 of all bytes in lower-case hexadecimal. Costs a pass over the message, so it is not for the hot path.
    #[must_use]
    pub fn digest(&self) -> String {
        hex(&Sha256::digest(&self.bytes))
    }

    /// SHA-256 of what its author wrote, in lower-case hexadecimal: the identity of a message that has no Message-ID.
    ///
    /// Covers Date, From, To, Cc, Subject and the body, so it is the same in every mailbox that got the message and whatever mail systems
    /// note in it while they carry and keep it (Received, Delivered-To, Status, ...), fold anew, or do to line ends and to empty lines at
    /// the end. Where there is no Date the oldest Received field stands in, so that an alarm that a device sends again in the same
    /// words is another message. As costly as [`Self::digest`].
    #[must_use]
    pub fn content_digest(&self) -> String {
        const AUTHORS: [&str; 5] = ["Date", "From", "To", "Cc", "Subject"];
        let headers = self.headers();
        let mut hash = Sha256::new();
        let mut cover = |name: &str, value: &[u8]| {
            hash.update(name);
            for word in value.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()) {
                hash.update(b" ");
                hash.update(word);
            }
            hash.update(b"\n");
        };
        for name in AUTHORS {
            headers.iter().filter(|field| field.is(name)).for_each(|field| cover(name, field.raw_value));
        }
        if !headers.iter().any(|field| field.is("Date"))
            && let Some(oldest) = headers.iter().filter(|field| field.is("Received")).last()
        {
            cover("Received", oldest.raw_value);
        }
        let body = self.bytes[headers.as_bytes().len()..].trim_ascii_end();
        for line in body.split(|&byte| byte == b'\n') {
            hash.update(b"\n");
            hash.update(line.strip_suffix(b"\r").unwrap_or(line));
        }
        hex(&hash.finalize())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_digest_is_the_authors() {
        let digest = |text: &str| RawMessage::new(text.to_owned()).content_digest();
        let sent = "Date: Sun, 1 Mar 2026 10:00:00 +0000\r\nFrom: a@x\r\nTo: b@x\r\nSubject: one two\r\n\r\nhello\r\nyou\r\n";
        for same in [
            format!("Return-Path: <a@x>\r\nReceived: from x\r\n by y\r\nDelivered-To: c@x\r\n{sent}"),
            sent.replace("\r\n\r\n", "\r\nStatus: RO\r\nX-UID: 7\r\nContent-Length: 12\r\nLines: 2\r\n\r\n"),
            sent.replace("\r\n", "\n"),
            sent.replace("one two", "one\r\n\ttwo"),
            format!("{sent}\r\n"),
            sent.trim_end().to_owned(),
        ] {
            assert_eq!(digest(&same), digest(sent), "{same}");
        }
        for other in [
            sent.replace("10:00:00", "10:00:01"),
            sent.replace("a@x", "aa@x"),
            sent.replace("To: b@x\r\n", "Cc: b@x\r\n"),
            sent.replace("one two", "onetwo"),
            sent.replace("hello\r\nyou", "helloyou"),
            sent.replace("hello\r\nyou", "hello you"),
        ] {
            assert_ne!(digest(&other), digest(sent), "{other}");
        }
        // without a date the first hop tells two alarms apart, and the later hops do not tell apart two copies of one
        let alarm = |hops: &str| digest(&format!("{hops}From: disk@x\r\n\r\nfull\r\n"));
        let (first, later) = ("Received: by gate; 10:00\r\n", "Received: by gate; 11:00\r\n");
        assert_ne!(alarm(first), alarm(later));
        assert_eq!(alarm(&format!("Received: by store; 10:01\r\n{first}")), alarm(first));
    }
}
