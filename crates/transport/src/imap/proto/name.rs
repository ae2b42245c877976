//! Names of folders: modified UTF-7 (RFC 3501 section 5.1.3), hierarchy and namespaces (RFC 2342).

use base64::Engine as _;
use base64::alphabet::IMAP_MUTF7;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};

/// Modified base64: `,` in the place of `/`, no padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(&IMAP_MUTF7, NO_PAD);

/// A name in modified UTF-7: printable ASCII stays, `&` becomes `&-`, all else base64 of UTF-16 between `&` and `-`.
#[must_use]
pub fn encode(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        if (' '..='~').contains(&c) {
            out.push(c);
            if c == '&' {
                out.push('-');
            }
            rest = &rest[1..];
            continue;
        }
        let end = rest.find(|c: char| (' '..='~').contains(&c)).unwrap_or(rest.len());
        let units: Vec<u8> = rest[..end].encode_utf16().flat_map(u16::to_be_bytes).collect();
        out.push('&');
        out.push_str(&BASE64.encode(units));
        out.push('-');
        rest = &rest[end..];
    }
    out
}

/// What a name in modified UTF-7 says; what is no modified UTF-7 stays as it is, since some servers give names as they are.
#[must_use]
pub fn decode(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(start) = rest.find('&') {
        out.push_str(&rest[..start]);
        let Some(end) = rest[start..].find('-').map(|at| start + at) else {
            rest = &rest[start..];
            break;
        };
        let inner = &rest[start + 1..end];
        let decoded = if inner.is_empty() { Some("&".to_owned()) } else { decode_units(inner) };
        out.push_str(decoded.as_deref().unwrap_or(&rest[start..=end]));
        rest = &rest[end + 1..];
    }
    out.push_str(rest);
    out
}

fn decode_units(text: &str) -> Option<String> {
    let bytes = BASE64.decode(text).ok()?;
    if bytes.len() % 2 != 0 {
        return None;
    }
    let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
    String::from_utf16(&units).ok()
}

/// Where a user's own folders are, as NAMESPACE or `LIST "" ""` tells.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Namespace {
    /// What all names begin with: nothing, or `INBOX.`.
    pub prefix: String,
    /// What separates levels; `None` where there are none.
    pub delimiter: Option<char>,
}

impl Namespace {
    /// The server's name of a folder, not yet encoded. Levels are separated by `/` in `name`, whatever the server's delimiter is; a name that has
    /// the prefix already gets no other.
    #[must_use]
    pub fn place(&self, name: &str) -> String {
        if name.eq_ignore_ascii_case("INBOX") {
            return "INBOX".to_owned();
        }
        let name = match self.delimiter {
            Some(delimiter) => name.replace('/', &delimiter.to_string()),
            None => name.to_owned(),
        };
        let prefix = &self.prefix;
        let begins = name.len() > prefix.len()
            && name.is_char_boundary(prefix.len())
            && name[..prefix.len()].eq_ignore_ascii_case(prefix);
        if begins { name } else { format!("{prefix}{name}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn modified_utf_7() {
        for (plain, encoded) in [
            ("INBOX", "INBOX"),
            ("Entwürfe", "Entw&APw-rfe"),
            ("A & B", "A &- B"),
            // RFC 3501 section 5.1.3
            ("~peter/mail/台北/日本語", "~peter/mail/&U,BTFw-/&ZeVnLIqe-"),
            ("😀", "&2D3eAA-"),
            ("", ""),
        ] {
            assert_eq!(encode(plain), encoded);
            assert_eq!(decode(encoded), plain);
        }
        for as_it_is in ["a&b", "&AA-", "&!-", "Entwürfe", "&2D0-"] {
            assert_eq!(decode(as_it_is), as_it_is);
        }
    }

    #[test]
    fn places() {
        let flat = Namespace { prefix: String::new(), delimiter: Some('/') };
        let nested = Namespace { prefix: "INBOX.".to_owned(), delimiter: Some('.') };
        for (namespace, name, place) in [
            (&flat, "inbox", "INBOX"),
            (&nested, "Inbox", "INBOX"),
            (&flat, "Support/In", "Support/In"),
            (&nested, "Support/In", "INBOX.Support.In"),
            (&nested, "inbox/Support", "inbox.Support"),
            (&nested, "INBOX.Support", "INBOX.Support"),
            (&Namespace::default(), "a/b", "a/b"),
            (&nested, "äöü", "INBOX.äöü"),
        ] {
            assert_eq!(namespace.place(name), place);
        }
    }

    proptest! {
        #[test]
        fn there_and_back(name in "\\PC{0,40}") {
            let encoded = encode(&name);
            prop_assert!(encoded.bytes().all(|b| (b' '..=b'~').contains(&b)), "{encoded}");
            prop_assert_eq!(decode(&encoded), name);
        }

        #[test]
        fn any_text_decodes(name in ".{0,40}") {
            let _ = decode(&name);
        }
    }
}
