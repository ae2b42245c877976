//! Attachments taken out of a message that is too large for one request.
//!
//! What stays is a message of its own that becomes a draft; what was taken out is attached to the draft piece by piece. Only a part of a
//! `multipart/mixed` or `multipart/related` can be taken out, and nothing of a message that is signed or encrypted as a whole, which would not be
//! the same afterwards.

use std::ops::Range;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use email_router_model::Headers;

/// Deeper nesting than this is not looked into.
const DEEPEST: usize = 8;
/// More parts than this are not looked at.
const MOST_PARTS: usize = 1000;

/// Reads base64 as it is found: with or without padding.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// An attachment that was taken out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Its file name.
    pub name: String,
    /// Its media type, without parameters.
    pub content_type: String,
    /// The id by which HTML refers to it, without angle brackets.
    pub content_id: Option<String>,
    /// It is shown within the text.
    pub inline: bool,
    /// Its bytes, decoded.
    pub content: Bytes,
}

/// A part that may be taken out: its delimiter line and all up to the next one.
struct Found {
    whole: Range<usize>,
    content: Range<usize>,
    head: Range<usize>,
    related: bool,
}

/// The message without its largest attachments, so that `most` bytes are enough, and the attachments in their order; `None` where that cannot
/// be done. Line ends must be CRLF.
#[must_use]
pub fn split(message: &[u8], most: usize) -> Option<(Vec<u8>, Vec<Attachment>)> {
    let mut found = Vec::new();
    find(message, 0..message.len(), DEEPEST, &mut found);
    found.sort_by_key(|part| std::cmp::Reverse(part.whole.len()));
    let mut left = message.len();
    let mut taken = Vec::new();
    for part in found {
        if left <= most {
            break;
        }
        if let Some(attachment) = attachment(message, &part) {
            left -= part.whole.len();
            taken.push((part.whole, attachment));
        }
    }
    if left > most || taken.is_empty() {
        return None;
    }
    taken.sort_by_key(|(range, _)| range.start);
    let mut skeleton = Vec::with_capacity(left);
    let mut at = 0;
    for (range, _) in &taken {
        skeleton.extend_from_slice(&message[at..range.start]);
        at = range.end;
    }
    skeleton.extend_from_slice(&message[at..]);
    Some((skeleton, taken.into_iter().map(|(_, attachment)| attachment).collect()))
}

/// Finds what may be taken out of the entity at `range`.
fn find(message: &[u8], range: Range<usize>, depth: usize, found: &mut Vec<Found>) {
    let entity = &message[range.clone()];
    let headers = Headers::new(entity);
    let (kind, boundary) = media_type(&headers);
    let related = kind == "multipart/related";
    let holds_attachments = related || kind == "multipart/mixed";
    if depth == 0 || !(holds_attachments || kind == "multipart/alternative") {
        return;
    }
    let Some(boundary) = boundary.filter(|b| !b.is_empty()) else { return };
    let delimiter = format!("--{boundary}");
    let body = range.start + headers.as_bytes().len();
    let lines = delimiters(message, body..range.end, delimiter.as_bytes());
    for (n, pair) in lines.windows(2).take(MOST_PARTS).enumerate() {
        let [(start, inner), (end, _)] = pair else { continue };
        let part = *inner..*end;
        let head = Headers::new(&message[part.clone()]).as_bytes().len();
        let (kind, _) = media_type(&Headers::new(&message[part.clone()]));
        if kind.starts_with("multipart/") {
            find(message, part, depth - 1, found);
        } else if holds_attachments && n > 0 && !kind.starts_with("message/") {
            // the first part is the text
            found.push(Found {
                whole: *start..*end,
                head: part.start..part.start + head,
                // the line end before a delimiter belongs to it (RFC 2046 5.1.1)
                content: part.start + head..end.saturating_sub(2).max(part.start + head),
                related,
            });
        }
    }
}

/// Where the delimiter lines begin and where what follows them begins; the last one is the closing one.
fn delimiters(message: &[u8], range: Range<usize>, delimiter: &[u8]) -> Vec<(usize, usize)> {
    let mut lines = Vec::new();
    let finder = memchr::memmem::Finder::new(delimiter);
    for at in finder.find_iter(&message[range.clone()]) {
        let at = range.start + at;
        if at > range.start && message[at - 1] != b'\n' {
            continue;
        }
        let rest = &message[at + delimiter.len()..range.end];
        let line_end = memchr::memchr(b'\n', rest).map_or(rest.len(), |n| n + 1);
        let tail = rest[..line_end].trim_ascii();
        if tail.is_empty() || tail == b"--" {
            lines.push((at, at + delimiter.len() + line_end));
        }
        if tail == b"--" {
            break;
        }
    }
    lines
}

fn attachment(message: &[u8], part: &Found) -> Option<Attachment> {
    let headers = Headers::new(&message[part.head.clone()]);
    let encoding = headers.get("Content-Transfer-Encoding").unwrap_or_default().to_ascii_lowercase();
    let content = &message[part.content.clone()];
    let content = match encoding.as_str() {
        "base64" => {
            let compact: Vec<u8> = content.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
            Bytes::from(LENIENT.decode(compact).ok()?)
        }
        "" | "7bit" | "8bit" | "binary" => Bytes::copy_from_slice(content),
        _ => return None,
    };
    let (content_type, _) = media_type(&headers);
    let disposition = headers.get("Content-Disposition").unwrap_or_default();
    let name = parameter(&disposition, "filename")
        .or_else(|| parameter(&headers.get("Content-Type").unwrap_or_default(), "name"))
        .unwrap_or_else(|| "attachment".to_owned());
    let content_id = headers.get("Content-ID").map(|id| id.trim_matches(['<', '>', ' ']).to_owned());
    let inline =
        disposition.to_ascii_lowercase().starts_with("inline") || (part.related && content_id.is_some());
    Some(Attachment { name, content_type, content_id, inline, content })
}

/// The media type in lower case, `text/plain` where there is none, and the boundary.
fn media_type(headers: &Headers<'_>) -> (String, Option<String>) {
    let value = headers.get("Content-Type").unwrap_or_default();
    let kind = value.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    let kind = if kind.contains('/') { kind } else { "text/plain".to_owned() };
    (kind, parameter(&value, "boundary"))
}

/// A parameter of a header value (RFC 2045 5.1, RFC 2231 in UTF-8): quoted, encoded, in pieces, or plain.
fn parameter(value: &str, name: &str) -> Option<String> {
    let mut pieces: Vec<(usize, bool, String)> = Vec::new();
    for (attribute, text) in parameters(value) {
        let Some(rest) = attribute.strip_prefix(name) else { continue };
        if rest.is_empty() {
            return Some(decode_word(&text));
        }
        let Some(rest) = rest.strip_prefix('*') else { continue };
        let (number, encoded) = match rest.strip_suffix('*') {
            Some(number) => (number, true),
            None => (rest, rest.is_empty()),
        };
        pieces.push((number.parse().unwrap_or(0), encoded, text));
    }
    if pieces.is_empty() {
        return None;
    }
    pieces.sort_by_key(|(number, ..)| *number);
    let mut bytes = Vec::new();
    for (place, (_, encoded, text)) in pieces.iter().enumerate() {
        // charset'language'value stands in the first piece only
        let text = if *encoded && place == 0 { text.splitn(3, '\'').nth(2).unwrap_or(text) } else { text };
        if *encoded { percent_decode(text, &mut bytes) } else { bytes.extend_from_slice(text.as_bytes()) }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// All parameters, names in lower case, quotes taken away.
fn parameters(value: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut chars = value.chars().peekable();
    while chars.by_ref().any(|c| c == ';') {
        let mut name = String::new();
        while let Some(c) = chars.next_if(|c| !matches!(c, '=' | ';')) {
            name.push(c);
        }
        if chars.next_if_eq(&'=').is_none() {
            continue;
        }
        let mut text = String::new();
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.next_if_eq(&'"').is_some() {
            while let Some(c) = chars.next() {
                match c {
                    '"' => break,
                    '\\' => text.extend(chars.next()),
                    c => text.push(c),
                }
            }
        } else {
            while let Some(c) = chars.next_if(|c| *c != ';') {
                text.push(c);
            }
            text.truncate(text.trim_end().len());
        }
        out.push((name.trim().to_ascii_lowercase(), text));
    }
    out
}

fn percent_decode(text: &str, out: &mut Vec<u8>) {
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        let hex = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
        match b {
            b'%' => {
                if let (Some(high), Some(low)) = (hex(bytes.next()), hex(bytes.next())) {
                    out.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                }
            }
            b => out.push(b),
        }
    }
}

/// An encoded word of RFC 2047 in base64 and UTF-8, which mail programs put into names against the rules; anything else as it is.
fn decode_word(text: &str) -> String {
    let inner = text.trim().strip_prefix("=?").and_then(|t| t.strip_suffix("?="));
    let mut fields = inner.unwrap_or("").splitn(3, '?');
    match (fields.next(), fields.next(), fields.next()) {
        (Some(charset), Some("B" | "b"), Some(data)) if charset.eq_ignore_ascii_case("utf-8") => {
            let decoded = LENIENT.decode(data).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            decoded.unwrap_or_else(|| text.to_owned())
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::prelude::BASE64_STANDARD;

    fn lines(bytes: &[u8]) -> String {
        let text = BASE64_STANDARD.encode(bytes);
        text.as_bytes().chunks(76).map(|l| format!("{}\r\n", String::from_utf8_lossy(l))).collect()
    }

    fn message(large: &[u8], small: &[u8], picture: &[u8]) -> Vec<u8> {
        format!(
            "From: a@b\r\nMessage-ID: <x@y>\r\nContent-Type: multipart/mixed;\r\n boundary=\"out er\"\r\n\r\nprologue\r\n--out er\r\n\
             Content-Type: multipart/related; boundary=in\r\n\r\n--in\r\nContent-Type: text/html\r\n\r\n<img src=cid:p>\r\n--in\r\n\
             Content-Type: image/png; name=p.png\r\nContent-ID: <p>\r\nContent-Transfer-Encoding: base64\r\n\r\n{}--in--\r\n\
             --out er\r\nContent-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n\
             Content-Disposition: attachment; filename*0*=UTF-8''%C3%A9; filename*1=t\u{e9}.pdf\r\n\r\n{}--out er\r\n\
             Content-Type: application/zip; name=\"=?utf-8?B?w6kuemlw?=\"\r\nContent-Transfer-Encoding: base64\r\n\r\n{}--out er--\r\nepilogue\r\n",
            lines(picture),
            lines(large),
            lines(small)
        )
        .into_bytes()
    }

    #[test]
    fn the_largest_attachments_go_first() {
        let message = message(&[1; 30_000], &[2; 500], &[3; 900]);
        let (skeleton, taken) = split(&message, 5000).unwrap();
        assert_eq!(taken.len(), 1);
        assert_eq!(
            (taken[0].name.as_str(), taken[0].content_type.as_str()),
            ("\u{e9}t\u{e9}.pdf", "application/pdf")
        );
        assert_eq!((&taken[0].content[..], taken[0].inline), (&[1; 30_000][..], false));
        let text = String::from_utf8(skeleton).unwrap();
        assert!(
            text.contains("<x@y>")
                && text.contains("--in--\r\n--out er\r\nContent-Type: application/zip")
                && text.ends_with("epilogue\r\n")
        );
        let (_, all) = split(&message, 1250).unwrap();
        assert_eq!(all.iter().map(|a| a.content.len()).collect::<Vec<_>>(), [900, 30_000]);
        assert_eq!((all[0].inline, all[0].content_id.as_deref()), (true, Some("p")));
        let (_, all) = split(&message, 800).unwrap();
        assert_eq!(all.last().unwrap().name, "\u{e9}.zip");
    }

    #[test]
    fn what_cannot_be_split() {
        let body = "x".repeat(5000);
        for message in [
            format!("Subject: x\r\n\r\n{body}"),
            format!("Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n{body}\r\n--b--\r\n"),
            format!(
                "Content-Type: multipart/signed; boundary=b\r\n\r\n--b\r\n\r\nt\r\n--b\r\nContent-Type: a/b\r\n\r\n{body}\r\n--b--\r\n"
            ),
            format!(
                "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nt\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n{body}\r\n--b--\r\n"
            ),
            format!("Content-Type: multipart/mixed\r\n\r\n--b\r\n\r\n{body}"),
            format!("Content-Type: multipart/mixed; boundary=\"\"\r\n\r\n--\r\n\r\n{body}"),
        ] {
            assert!(split(message.as_bytes(), 1000).is_none(), "{}", &message[..60]);
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_lost(large in proptest::collection::vec(0u8.., 0..4000), small in proptest::collection::vec(0u8.., 0..300), most in 500usize..6000) {
            let message = message(&large, &small, b"png");
            if let Some((skeleton, taken)) = split(&message, most) {
                proptest::prop_assert!(skeleton.len() <= most);
                for attachment in taken {
                    proptest::prop_assert!(attachment.content == large || attachment.content == small || attachment.content == b"png"[..]);
                }
            }
        }
    }
}
