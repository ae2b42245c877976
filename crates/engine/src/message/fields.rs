//! Values of header fields: what mail-parser makes of one field, guarded and made clean.
//!
//! mail-parser's field parsers want a line end behind the value and replace what is not UTF-8; both are seen to here. Its quoted-printable
//! decoder can underflow on malformed input where overflow checks are on, so every call runs under `catch_unwind`: a message
//! must never take the router down.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use email_router_model::{EmailAddress, Timestamp};
use mail_parser::decoders::charsets::map::charset_decoder;
use mail_parser::parsers::MessageStream;
use mail_parser::{Addr, Address, DateTime, HeaderValue};

use super::Participant;

/// Runs `read` and gives `None` when it panics.
pub(super) fn guarded<T>(read: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(read)).ok()
}

/// The bytes as text, and whether every byte of it was valid UTF-8. Bytes that are not are read as windows-1252, which has a character for
/// nearly all of them: raw 8-bit text in old mail is mostly that, and nothing is lost.
pub(super) fn utf8_or_1252(bytes: &[u8]) -> (Cow<'_, str>, bool) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return (Cow::Borrowed(text), true);
    }
    let mut text = String::with_capacity(bytes.len() + bytes.len() / 8);
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        match charset_decoder(b"windows-1252") {
            Some(decode) => text.push_str(&decode(chunk.invalid())),
            None => text.extend(chunk.invalid().iter().map(|&b| char::from(b))),
        }
    }
    (Cow::Owned(text), false)
}

/// One line without control characters: each run of white space and controls becomes one space; at most `max_chars` characters.
pub(crate) fn clean_line(text: &str, max_chars: usize) -> String {
    let mut line = String::with_capacity(text.len().min(max_chars.saturating_mul(4)));
    let mut gap = false;
    for (chars, c) in text.chars().filter(|c| !is_invisible_control(*c)).enumerate() {
        if chars >= max_chars {
            break;
        }
        if c.is_whitespace() || c.is_control() {
            gap = true;
        } else {
            if gap && !line.is_empty() {
                line.push(' ');
            }
            gap = false;
            line.push(c);
        }
    }
    line
}

/// Characters that reverse or hide text where it is shown (Unicode bidirectional controls).
pub(super) fn is_invisible_control(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn with_line_end(value: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(value.len() + 2);
    bytes.extend_from_slice(value.as_bytes());
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// Unstructured text (RFC 5322 2.2.1) with encoded words (RFC 2047) decoded; `None` when it cannot be read.
pub(super) fn unstructured(value: &str) -> Option<String> {
    guarded(|| match MessageStream::new(&with_line_end(value)).parse_unstructured() {
        HeaderValue::Text(text) => text.into_owned(),
        _ => String::new(),
    })
}

/// The mailboxes of an address list (RFC 5322 3.4), groups opened, at most `limit`; `None` when it cannot be read.
pub(super) fn participants(value: &str, limit: usize) -> Option<Vec<Participant>> {
    guarded(|| {
        let bytes = with_line_end(value);
        match MessageStream::new(&bytes).parse_address() {
            HeaderValue::Address(Address::List(list)) => list.iter().take(limit).map(participant).collect(),
            HeaderValue::Address(Address::Group(groups)) => {
                groups.iter().flat_map(|g| &g.addresses).take(limit).map(participant).collect()
            }
            _ => Vec::new(),
        }
    })
}

fn participant(found: &Addr<'_>) -> Participant {
    const MAX_NAME: usize = 400; // fullname, unresolvedpartyname and the like are at most this long
    let name = found.name.as_deref().map(|n| clean_line(n, MAX_NAME)).filter(|n| !n.is_empty());
    let written = found.address.as_deref().map(|a| clean_line(a, MAX_NAME)).filter(|a| !a.is_empty());
    let address = match &written {
        Some(written) => EmailAddress::parse(written).ok(),
        // a whole address inside quotes or an encoded word: wrong (RFC 2047 5 rule 3), but there is nothing else it could mean
        None => name.as_deref().and_then(|n| EmailAddress::parse(n).ok()),
    };
    let raw = match (&name, &written) {
        (Some(name), Some(written)) => format!("{name} <{written}>"),
        (Some(one), None) | (None, Some(one)) => one.clone(),
        (None, None) => String::new(),
    };
    let name = name.filter(|n| address.as_ref().is_none_or(|a| !a.as_str().eq_ignore_ascii_case(n)));
    Participant { name, address, raw }
}

/// A date (RFC 5322 3.3, obsolete forms too).
pub(super) fn date(value: &str) -> Option<Timestamp> {
    guarded(|| DateTime::parse_rfc822(&format!("{}\r\n", value.trim())))
        .flatten()
        .filter(|d| d.is_valid() && d.year >= 1970)
        .and_then(|d| Timestamp::from_second(d.to_timestamp()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_lists() {
        for (value, expected) in [
            ("Ann Lee <ann@example.com>", "Ann Lee|ann@example.com"),
            ("\"Lee, Ann\" <ann@example.com>, bob@example.com", "Lee, Ann|ann@example.com;|bob@example.com"),
            ("=?utf-8?Q?J=C3=BCrgen?= <j@example.com>", "Jürgen|j@example.com"),
            ("team: ann@example.com, Bob <bob@example.com>;", "|ann@example.com;Bob|bob@example.com"),
            ("undisclosed-recipients:;", ""),
            ("ann@example.com (Ann)", "Ann|ann@example.com"),
            ("<>", ""),
            ("\"ann@example.com\"", "|ann@example.com"),
            ("MAILER-DAEMON", "MAILER-DAEMON|"),
        ] {
            let found = participants(value, 100).unwrap();
            let text: Vec<String> = found
                .iter()
                .map(|p| {
                    format!(
                        "{}|{}",
                        p.name.as_deref().unwrap_or(""),
                        p.address.as_ref().map_or("", EmailAddress::as_str)
                    )
                })
                .collect();
            assert_eq!(text.join(";"), expected, "{value}");
        }
        assert_eq!(participants("a@b.c, d@e.f, g@h.i", 2).unwrap().len(), 2);
    }

    #[test]
    fn lines_and_bytes() {
        assert_eq!(clean_line(" a\r\n\t b\0c \u{202e}d ", 99), "a b c d");
        assert_eq!(clean_line("abcdef", 3), "abc");
        assert_eq!(utf8_or_1252(b"caf\xe9 \xe2\x82\xac \x80").0, "café € €");
        assert!(utf8_or_1252("é".as_bytes()).1);
    }

    #[test]
    fn dates() {
        for (value, seconds) in [
            ("Thu, 01 Jan 1970 01:00:10 +0100", Some(10)),
            ("1 Jan 1970 00:00:11 GMT", Some(11)),
            ("Thu, 99 Foo 2020 77:88:99", None),
            ("", None),
        ] {
            assert_eq!(date(value).map(|t| t.as_second()), seconds, "{value}");
        }
    }
}
