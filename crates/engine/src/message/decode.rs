//! Content-Transfer-Encoding undone (RFC 2045 6), as far as it goes.

use bytes::Bytes;
use mail_parser::decoders::base64::base64_decode;
use mail_parser::decoders::quoted_printable::quoted_printable_decode;

use super::fields;
use super::mime::{Encoding, Part};

/// The body of a part of a message without its transfer encoding; and what was wrong with it.
pub(super) fn body(message: &Bytes, part: &Part) -> (Bytes, Option<&'static str>) {
    decode(message.slice(part.body.clone()), part.encoding)
}

/// The body without its transfer encoding, not copied when there is none; and what was wrong with it.
pub(super) fn decode(body: Bytes, encoding: Encoding) -> (Bytes, Option<&'static str>) {
    match encoding {
        Encoding::Identity => (body, None),
        Encoding::Base64 => {
            if let Some(Some(decoded)) = fields::guarded(|| base64_decode(&body)) {
                return (decoded.into(), None);
            }
            let clean: Vec<u8> = body
                .iter()
                .copied()
                .filter(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='))
                .collect();
            let decoded = fields::guarded(|| base64_decode(&clean)).flatten().map_or(body, Bytes::from);
            (decoded, Some("has bytes that are not base64; they were passed over"))
        }
        Encoding::QuotedPrintable => {
            if let Some(Some(decoded)) = fields::guarded(|| quoted_printable_decode(&body)) {
                return (decoded.into(), None);
            }
            let problem = "is not proper quoted-printable; read as far as it is";
            (lenient_quoted_printable(&body).into(), Some(problem))
        }
    }
}

/// At least the bytes a body has once it is decoded; costs a look at each byte only where the body may be larger than `limit`.
pub(super) fn smallest_size(body: &[u8], encoding: Encoding, limit: u64) -> usize {
    match encoding {
        // base64 needs four bytes for three, and line ends
        Encoding::Base64 if (body.len() / 4 * 3) as u64 <= limit => 0,
        Encoding::Base64 => {
            body.iter().filter(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/')).count() / 4 * 3
        }
        Encoding::QuotedPrintable => body.len() / 3,
        Encoding::Identity => body.len(),
    }
}

/// Quoted-printable where an `=` that begins no escape stands for itself (RFC 2045 6.7, note on robust implementations).
fn lenient_quoted_printable(body: &[u8]) -> Vec<u8> {
    let hex = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16));
    let mut decoded = Vec::with_capacity(body.len());
    let mut at = 0;
    while at < body.len() {
        let rest = &body[at..];
        at += match rest {
            [b'=', b'\r', b'\n', ..] => 3,
            [b'=', b'\n', ..] => 2,
            [b'=', tail @ ..] => match (hex(tail.first()), hex(tail.get(1))) {
                (Some(high), Some(low)) => {
                    decoded.push((high * 16 + low) as u8); // two hexadecimal digits are at most 255
                    3
                }
                _ => {
                    decoded.push(b'=');
                    1
                }
            },
            _ => {
                decoded.push(rest[0]);
                1
            }
        };
    }
    decoded
}
