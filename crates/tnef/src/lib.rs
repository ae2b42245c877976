//! Reads `winmail.dat`: the Transport Neutral Encapsulation Format ([MS-OXTNEF]), in which Outlook and Exchange wrap bodies and attachments.
//!
//! [`parse`] gives the [`Message`] that a stream holds: subject, participants, bodies, and attachments, of which an attached message is one
//! more [`Message`]. Bytes of attachments are borrowed from the stream, so reading costs little memory beside it.
//! [`Message::to_internet_message`] writes a message as RFC 5322 mail, so that one that only exists inside a stream can be routed.
//!
//! The bytes are hostile: everything has a limit ([`Limits`]), time is linear in the size of the stream (times the depth of nested
//! messages), and nothing panics. What is wrong with a stream is told in [`Tnef::defects`] and does not keep the rest from being read.
//!
//! ```
//! use email_router_tnef::{Limits, parse};
//!
//! // a signature and a key, and nothing else: a message without anything
//! let tnef = parse(&[0x78, 0x9f, 0x3e, 0x22, 1, 0], &Limits::default()).unwrap();
//! assert!(tnef.message.attachments.is_empty() && tnef.is_complete());
//! assert!(parse(b"no TNEF", &Limits::default()).is_err());
//! ```
#![warn(missing_docs)]

mod cursor;
mod internet;
mod message;
mod properties;
pub mod rtf;
mod stream;
mod text;

pub use message::{Attachment, Content, Importance, Mailbox, Message, Recipient, RecipientKind};

/// The first four bytes of a stream, little-endian.
pub const SIGNATURE: u32 = 0x223e_9f78;

/// How much of a stream is read. What is beyond a limit is left out and told in [`Tnef::defects`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Messages within messages.
    pub max_depth: usize,
    /// Attachments of all messages together.
    pub max_attachments: usize,
    /// Recipients of all messages together.
    pub max_recipients: usize,
    /// Bytes that compressed bodies of all messages together may grow to, with what is taken out of them.
    pub max_decoded_bytes: usize,
}

impl Default for Limits {
    /// 8 messages within each other, 1000 attachments, 1000 recipients, 16 MiB.
    fn default() -> Self {
        Self {
            max_depth: 8,
            max_attachments: 1000,
            max_recipients: 1000,
            max_decoded_bytes: 16 * 1024 * 1024,
        }
    }
}

/// What was read of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tnef<'a> {
    /// The message it holds.
    pub message: Message<'a>,
    /// What was wrong with it or left out, each once.
    pub defects: Vec<String>,
}

impl Tnef<'_> {
    /// Whether the message tells all there is: nothing was wrong, nothing was left out, and it is ordinary mail. Otherwise the stream is
    /// worth keeping.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        fn all_notes(message: &Message<'_>) -> bool {
            message.is_note()
                && message.attachments.iter().all(|a| match &a.content {
                    Content::Message(message) => all_notes(message), // as deep as the limit at most
                    _ => true,
                })
        }
        self.defects.is_empty() && all_notes(&self.message)
    }
}

/// The bytes are no TNEF stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotTnef;

impl std::fmt::Display for NotTnef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("this is no TNEF stream: it does not begin with 78 9F 3E 22 and a key")
    }
}

impl std::error::Error for NotTnef {}

/// Reads a stream.
///
/// # Errors
/// When it does not begin like one. Whatever is wrong behind that is a defect.
pub fn parse<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Tnef<'a>, NotTnef> {
    let mut context = stream::Context::new(limits);
    let message = stream::read(bytes, &mut context, 0).ok_or(NotTnef)?;
    Ok(Tnef { message, defects: context.defects })
}
