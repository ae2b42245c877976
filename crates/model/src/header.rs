//! The header section of an Internet message, scanned without copying (RFC 5322 section 2.2).
//!
//! This is for the few fields that protocols and guards need before anything is parsed: identity, loops, dates. The full
//! reading of a message, with decoded words and parameters, is the engine's, through a MIME parser.

/// A view of a header section; borrows the message.
#[derive(Debug, Clone, Copy)]
pub struct Headers<'a>(&'a [u8]);

/// One header field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeaderField<'a> {
    /// The field name as written, without the colon and without white space before it.
    pub name: &'a [u8],
    /// What follows the colon up to the end of the field, still folded, without the final line break.
    pub raw_value: &'a [u8],
}

impl HeaderField<'_> {
    /// The value unfolded (RFC 5322 2.2.3), invalid UTF-8 replaced, surrounding white space removed.
    #[must_use]
    pub fn value(&self) -> String {
        String::from_utf8_lossy(self.raw_value)
            .chars()
            .filter(|c| !matches!(c, '\r' | '\n'))
            .collect::<String>()
            .trim()
            .to_owned()
    }

    /// Whether the field has this name; letter case does not count.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

impl<'a> Headers<'a> {
    /// The header section at the start of `message`, which may be a whole message or a header section alone. CRLF and bare
    /// LF both end a line.
    #[must_use]
    pub fn new(message: &'a [u8]) -> Self {
        Self(&message[..section_end(message)])
    }

    /// The header section with the empty line that ends it, where there is one.
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// All fields in order. Lines that are no field (no colon) are passed over.
    pub fn iter(&self) -> impl Iterator<Item = HeaderField<'a>> + use<'a> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            while !rest.is_empty() {
                let end = field_end(rest);
                let (field, tail) = rest.split_at(end);
                rest = tail;
                let field = trim_line_end(field);
                if let Some(colon) = field.iter().position(|&b| b == b':') {
                    let name = field[..colon].trim_ascii();
                    if !name.is_empty() && !name.iter().any(u8::is_ascii_whitespace) {
                        return Some(HeaderField { name, raw_value: &field[colon + 1..] });
                    }
                }
            }
            None
        })
    }

    /// The value of the first field of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<String> {
        self.iter().find(|f| f.is(name)).map(|f| f.value())
    }

    /// The values of all fields of this name, in order.
    pub fn all(&self, name: &str) -> impl Iterator<Item = String> + use<'a> {
        let name = name.to_owned();
        self.iter().filter(move |f| f.is(&name)).map(|f| f.value())
    }
}

/// Where the header section of `message` ends: behind the first empty line, or at the end when there is none.
#[must_use]
pub fn section_end(message: &[u8]) -> usize {
    let mut at = 0;
    while at < message.len() {
        let line_end = message[at..].iter().position(|&b| b == b'\n').map_or(message.len(), |n| at + n + 1);
        if matches!(&message[at..line_end], b"\n" | b"\r\n") {
            return line_end;
        }
        at = line_end;
    }
    message.len()
}

/// The end of the first field: its lines up to one that does not begin with white space.
fn field_end(section: &[u8]) -> usize {
    let mut at = 0;
    loop {
        at = section[at..].iter().position(|&b| b == b'\n').map_or(section.len(), |n| at + n + 1);
        if at >= section.len() || !matches!(section[at], b' ' | b'\t') {
            return at;
        }
    }
}

fn trim_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_folding_and_end() {
        let text =
            b"Subject: a\r\n b\r\nX-No-Colon line\r\nmessage-id :<1@x>\r\n\r\nSubject: not a header\r\n";
        let headers = Headers::new(text);
        assert_eq!(headers.get("subject").unwrap(), "a b");
        assert_eq!(headers.get("Message-ID").unwrap(), "<1@x>");
        assert_eq!(headers.iter().count(), 2);
        assert_eq!(section_end(b"a: b\n\nbody"), 6);
        assert_eq!(section_end(b"a: b\n"), 5);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let headers = Headers::new(&bytes);
            prop_assert!(headers.iter().all(|f| !f.value().contains(['\r', '\n'])));
        }
    }
}
