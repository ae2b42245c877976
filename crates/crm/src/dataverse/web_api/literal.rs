//! How values stand in URLs (`crm-contract.md` 11.7).

use std::fmt::Write as _;

use email_router_model::Timestamp;

/// A text as an OData literal, for a URL: quotes doubled inside, then percent-encoded.
pub(crate) fn text(value: &str) -> String {
    format!("'{}'", encode(&value.replace('\'', "''")))
}

/// A time as an OData literal; whole milliseconds.
pub(crate) fn time(value: Timestamp) -> String {
    encode(&iso(value))
}

/// A time as it stands in JSON; whole milliseconds.
pub(crate) fn iso(value: Timestamp) -> String {
    let millis = value.as_millisecond();
    Timestamp::from_millisecond(millis).unwrap_or(value).to_string()
}

/// Percent-encodes what has a meaning in a URL, or none: all but letters, digits, `-._~` and what OData writes itself.
pub(crate) fn encode(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 16);
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z'
            | b'a'..=b'z'
            | b'0'..=b'9'
            | b'-'
            | b'.'
            | b'_'
            | b'~'
            | b'('
            | b')'
            | b','
            | b'\''
            | b'@'
            | b'$'
            | b'*'
            | b'!'
            | b':'
            | b';'
            | b'=' => out.push(char::from(byte)),
            other => {
                let _ = write!(out, "%{other:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_cannot_leave_their_quotes() {
        for (value, expected) in [
            ("a", "'a'"),
            ("it's", "'it''s'"),
            ("<a+b@x>", "'%3Ca%2Bb@x%3E'"),
            ("a&b#c/d?e f%", "'a%26b%23c%2Fd%3Fe%20f%25'"),
            ("é", "'%C3%A9'"),
            ("' or 1 eq 1 or 'a' eq '", "'''%20or%201%20eq%201%20or%20''a''%20eq%20'''"),
        ] {
            assert_eq!(text(value), expected);
        }
    }

    #[test]
    fn times_have_milliseconds_at_the_most() {
        let at: Timestamp = "2026-11-22T10:00:00.123456Z".parse().unwrap();
        assert_eq!(time(at), "2026-11-22T10:00:00.123Z");
        assert_eq!(iso("2026-11-22T10:00:00Z".parse().unwrap()), "2026-11-22T10:00:00Z");
    }
}
