//! What is said to Microsoft Graph and what it says, without sockets.
//!
//! | module | what |
//! |---|---|
//! | [`link`] | URLs of requests, and whether a link of an answer may be followed |
//! | [`page`] | pages of listings and deltas |
//! | [`resume`] | what is kept of a listing over a restart |
//! | [`header`] | the header section out of `internetMessageHeaders` |
//! | [`batch`] | several requests in one (`$batch`) |
//! | [`fault`] | error answers |
//! | [`upload`] | which piece of an attachment is next |
//! | [`compose`] | recipients that only the envelope names, and other fields in front of a message |
//! | [`split`] | attachments taken out of a message that is too large for one request |
//! | [`claims`] | what an access token says about itself |
//!
//! Answers are read with tolerance: unknown fields, missing ones and `null` are all the same. What cannot be left out (the id of a
//! message) is an error, so that nothing is passed over in silence.

pub mod batch;
pub mod claims;
pub mod compose;
pub mod fault;
pub mod header;
pub mod link;
pub mod page;
pub mod resume;
pub mod split;
pub mod upload;

use serde_json::Value;

/// `Prefer` of every request: a message keeps its id when it is moved within its mailbox (Microsoft Graph, "obtain immutable identifiers").
pub const IMMUTABLE: &str = "IdType=\"ImmutableId\"";

/// An answer that is not what it has to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

impl Malformed {
    fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

/// JSON out of the body of an answer.
///
/// # Errors
/// [`Malformed`] where it is none.
pub fn json(body: &[u8]) -> Result<Value, Malformed> {
    // a byte order mark is no JSON (RFC 8259 section 8.1), but a reader may pass over it
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    serde_json::from_slice(body).map_err(|error| Malformed(format!("the answer is no JSON: {error}")))
}

/// A text in a field; `None` also where it is something else.
fn text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value.get(field)?.as_str()
}
