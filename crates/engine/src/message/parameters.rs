//! Content-Type and Content-Disposition (RFC 2045 5.1, RFC 2183) as programs really write them: parameters in pieces and in percent codes
//! (RFC 2231), in encoded words where none may be, in raw 8-bit, without quotes around blanks.

use std::collections::BTreeMap;

use super::{charset, fields};

/// More parameters than that are not looked at.
const MAX_PARAMETERS: usize = 500;

/// A value with parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Structured {
    /// What stands before the first semicolon, without comments, lower case.
    pub(super) value: String,
    /// Names in lower case; of two with one name the first, the one of RFC 2231 before any other.
    parameters: Vec<(String, String)>,
}

/// One `name=value` as it stands there.
struct Written {
    bytes: Vec<u8>,
    /// In percent codes (a star behind the name).
    coded: bool,
}

impl Structured {
    /// Reads the value of a field. Linear; whatever stands there, something comes out.
    pub(super) fn parse(field: &[u8]) -> Self {
        let behind_comments =
            field.iter().rposition(|&b| b == b')').map_or(field.len() + 1, |at| field.len() - at);
        let mut scanner = Scanner { rest: field, behind_comments };
        let value = scanner.until_semicolon();
        let value = fields::utf8_or_1252(&value).0.trim().to_ascii_lowercase();
        let mut plain: Vec<(String, Written)> = Vec::new();
        let mut pieces: BTreeMap<String, BTreeMap<u32, Written>> = BTreeMap::new();
        let mut count = 0;
        while let Some((name, value)) = scanner.parameter() {
            count += 1;
            if count > MAX_PARAMETERS {
                break;
            }
            let (base, number, coded) = name_parts(&name);
            let written = Written { bytes: value, coded };
            match number {
                Some(number) => {
                    pieces.entry(base).or_default().entry(number).or_insert(written);
                }
                None if coded => {
                    pieces.entry(base).or_default().entry(0).or_insert(written);
                }
                None => plain.push((base, written)),
            }
        }
        let mut parameters: Vec<(String, String)> =
            pieces.into_iter().map(|(name, pieces)| (name, join(pieces.into_values()))).collect();
        for (name, written) in plain {
            if !parameters.iter().any(|(n, _)| *n == name) {
                parameters.push((name, text(&written.bytes)));
            }
        }
        Self { value, parameters }
    }

    /// A parameter that is not empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
    }
}

/// `filename*1*` is piece 1, in percent codes, of `filename`.
fn name_parts(name: &str) -> (String, Option<u32>, bool) {
    let (name, coded) = match name.strip_suffix('*') {
        Some(name) => (name, true),
        None => (name, false),
    };
    match name.rsplit_once('*').map(|(base, number)| (base, number.parse())) {
        Some((base, Ok(number))) => (base.to_owned(), Some(number), coded),
        _ => (name.to_owned(), None, coded),
    }
}

/// The pieces in their order as one value. The first one in percent codes names the charset (RFC 2231 4); characters may be cut apart
/// between two pieces, so bytes are joined before they become text.
fn join(pieces: impl Iterator<Item = Written>) -> String {
    let mut charset = None;
    let mut bytes = Vec::new();
    let mut any_coded = false;
    for piece in pieces {
        if !piece.coded {
            bytes.extend(piece.bytes);
            continue;
        }
        let mut coded = &piece.bytes[..];
        if !any_coded {
            let mut quotes = coded.iter().enumerate().filter(|(_, b)| **b == b'\'').map(|(at, _)| at);
            if let (Some(first), Some(second)) = (quotes.next(), quotes.next()) {
                charset = Some(String::from_utf8_lossy(&coded[..first]).into_owned());
                coded = &coded[second + 1..];
            }
        }
        any_coded = true;
        unescape(coded, &mut bytes);
    }
    if any_coded { charset::decode(&bytes, charset.as_deref()).0 } else { text(&bytes) }
}

/// Percent codes; what is none stands for itself.
fn unescape(coded: &[u8], into: &mut Vec<u8>) {
    let mut rest = coded;
    while let Some((&byte, behind)) = rest.split_first() {
        let hex = |n: usize| behind.get(n).and_then(|b| char::from(*b).to_digit(16));
        rest = match (byte, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                into.push((high * 16 + low) as u8); // two hexadecimal digits are at most 255
                &behind[2..]
            }
            _ => {
                into.push(byte);
                behind
            }
        };
    }
}

/// A value that nothing explains: encoded words (RFC 2047 5 forbids them here, and they are common), else raw bytes.
fn text(bytes: &[u8]) -> String {
    let text = charset::decode(bytes, None).0;
    if text.contains("=?") { encoded_words(&text) } else { text }
}

/// Text with encoded words in it, also where they touch other text; blanks between two of them are no text (RFC 2047 6.2).
fn encoded_words(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut behind_word = false;
    while let Some(begin) = rest.find("=?") {
        let word_end = word_end(&rest.as_bytes()[begin..]).map(|length| begin + length);
        let word = word_end.map(|end| &rest[begin..end]);
        let decoded = word.and_then(fields::unstructured).filter(|d| word != Some(d.as_str()));
        let before = &rest[..begin];
        if !(behind_word && decoded.is_some() && before.trim().is_empty()) {
            out.push_str(before);
        }
        match (decoded, word_end) {
            (Some(decoded), Some(end)) => {
                out.push_str(&decoded);
                rest = &rest[end..];
                behind_word = true;
            }
            _ => {
                out.push_str("=?");
                rest = &rest[begin + 2..];
                behind_word = false;
            }
        }
    }
    out.push_str(rest);
    out
}

/// How long the encoded word is that begins here: its charset and its encoding, each with a question mark, and its text up to `?=`. Words longer than
/// this are none, so that text full of beginnings is not searched to its end for each.
fn word_end(text: &[u8]) -> Option<usize> {
    const LONGEST: usize = 2000;
    let text = &text[..text.len().min(LONGEST)];
    let mut marks = text.iter().enumerate().skip(2).filter(|(_, b)| **b == b'?').map(|(at, _)| at);
    let encoding = marks.nth(1)?;
    marks.find(|&at| at > encoding && text.get(at + 1) == Some(&b'=')).map(|at| at + 2)
}

struct Scanner<'a> {
    rest: &'a [u8],
    /// So many bytes from the end stands the last closing parenthesis; a comment that is opened behind it is none.
    behind_comments: usize,
}

impl Scanner<'_> {
    fn next(&mut self) -> Option<u8> {
        let (&byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(byte)
    }

    /// The next parameter: its name in lower case, its value. `None` at the end.
    fn parameter(&mut self) -> Option<(String, Vec<u8>)> {
        loop {
            let mut name = Vec::new();
            let value = loop {
                match self.next() {
                    None => return None,
                    Some(b';') => break None,
                    Some(b'=') => break Some(self.value()),
                    Some(byte) if byte.is_ascii_whitespace() => {}
                    Some(byte) => name.push(byte),
                }
            };
            if let (Some(value), false) = (value, name.is_empty()) {
                name.truncate(100);
                let name = String::from_utf8_lossy(&name).to_ascii_lowercase();
                // only names of files have blanks in them when nobody quoted them
                let is_name = name.starts_with("name") || name.starts_with("filename");
                let (value, quoted) = value;
                let value = if quoted || is_name { value } else { first_word(value) };
                return Some((name, value));
            }
        }
    }

    /// A value and whether it was quoted; consumes the semicolon behind it.
    fn value(&mut self) -> (Vec<u8>, bool) {
        while self.rest.first().is_some_and(u8::is_ascii_whitespace) {
            self.rest = &self.rest[1..];
        }
        if self.rest.first() != Some(&b'"') {
            return (self.until_semicolon(), false);
        }
        self.rest = &self.rest[1..];
        let mut value = Vec::new();
        loop {
            match self.next() {
                None => return (trimmed(value), true),
                Some(b'"') => break,
                // of a path of Windows no backslash is an escape
                Some(b'\\') if matches!(self.rest.first(), Some(b'"' | b'\\')) => value.extend(self.next()),
                Some(b'\r' | b'\n') => {}
                Some(byte) => value.push(byte),
            }
        }
        // a comment, or what somebody forgot to quote
        self.until_semicolon();
        (value, true)
    }

    /// What stands before the next semicolon that is not in quotes or a comment; without comments and line ends.
    fn until_semicolon(&mut self) -> Vec<u8> {
        let mut found = Vec::new();
        let mut depth = 0_u32;
        while let Some(byte) = self.next() {
            match byte {
                b';' if depth == 0 => break,
                b'(' if depth > 0 || self.begins_comment(&found) => depth += 1,
                b')' if depth > 0 => depth -= 1,
                b'\r' | b'\n' => {}
                _ if depth > 0 => {}
                byte => found.push(byte),
            }
        }
        trimmed(found)
    }
}

impl Scanner<'_> {
    /// Whether the parenthesis that was just read opens a comment.
    fn begins_comment(&self, before: &[u8]) -> bool {
        before.last().is_none_or(u8::is_ascii_whitespace)
            && self.rest.len() >= self.behind_comments
            && !looks_like_a_copy(self.rest)
    }
}

/// `report (1).pdf`: a number in parentheses is part of a name and no comment.
fn looks_like_a_copy(rest: &[u8]) -> bool {
    let digits = rest.iter().take(6).take_while(|b| b.is_ascii_digit()).count();
    digits > 0 && rest.get(digits) == Some(&b')')
}

fn trimmed(mut bytes: Vec<u8>) -> Vec<u8> {
    let kept = bytes.trim_ascii_end().len();
    bytes.truncate(kept);
    let skip = bytes.len() - bytes.trim_ascii_start().len();
    bytes.drain(..skip);
    bytes
}

fn first_word(bytes: Vec<u8>) -> Vec<u8> {
    bytes.split(u8::is_ascii_whitespace).next().unwrap_or_default().to_vec()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn file_names() {
        for (field, expected) in [
            ("attachment; filename=\"report.pdf\"", "report.pdf"),
            ("attachment; FILENAME = report.pdf", "report.pdf"),
            ("attachment; filename=my report (1).pdf; size=3", "my report (1).pdf"),
            ("attachment; filename=\"a;b \\\"c\\\".txt\"", "a;b \"c\".txt"),
            ("attachment; filename=\"C:\\temp\\x.doc\"", "C:\\temp\\x.doc"),
            ("attachment; filename*=utf-8'en'%E2%82%AC%20rates.txt", "€ rates.txt"),
            (
                "attachment; filename=\"EURO rates.txt\"; filename*=utf-8''%e2%82%ac%20rates.txt",
                "€ rates.txt",
            ),
            (
                "attachment; filename*0*=utf-8''%E2%82; filename*1*=%AC; filename*2=\" a%20b.txt\"",
                "€ a%20b.txt",
            ),
            ("attachment; filename*1=\"b.txt\"; filename*0=\"a\"", "ab.txt"),
            ("attachment; filename*=iso-2022-jp''%1B%24B%24%22%1B%28B.txt", "あ.txt"),
            ("attachment; filename*=no%20charset.txt", "no charset.txt"),
            ("attachment; filename*=utf-8''100%.txt", "100%.txt"),
            ("attachment; filename=\"=?utf-8?Q?Pr=C3=BCfung.pdf?=\"", "Prüfung.pdf"),
            ("attachment; filename==?utf-8?B?w7w=?=.txt", "ü.txt"),
            (
                "attachment; filename=\"a =?utf-8?B?w7w=?= =?utf-8?Q?=C3=BC?= b =?no?= =?.txt\"",
                "a üü b =?no?= =?.txt",
            ),
            ("attachment;\r\n filename=\"=?utf-8?B?w7w=?=\r\n =?utf-8?B?w7w=?=.txt\"", "üü.txt"),
            ("attachment; filename=\"Prüfung.pdf\"", "Prüfung.pdf"),
            ("attachment; filename=\"never closed.pdf", "never closed.pdf"),
            ("attachment; filename=a.txt (the first)", "a.txt"),
            ("attachment; filename=\"a.txt\" (the first); x=y", "a.txt"),
            ("attachment; filename=first.txt; filename=second.txt", "first.txt"),
            ("attachment; = ; ; filename=x", "x"),
        ] {
            let found = Structured::parse(field.as_bytes());
            assert_eq!(
                (found.value.as_str(), found.get("filename")),
                ("attachment", Some(expected)),
                "{field}"
            );
        }
        let raw = Structured::parse(b"attachment; filename=\"Pr\xfcfung.pdf\"");
        assert_eq!(raw.get("filename"), Some("Prüfung.pdf"));
    }

    #[test]
    fn types() {
        let found =
            Structured::parse(b"TEXT/Plain (what (else)); charset=us-ascii (Plain text); format = flowed");
        assert_eq!(
            (found.value.as_str(), found.get("charset"), found.get("format")),
            ("text/plain", Some("us-ascii"), Some("flowed"))
        );
        let found = Structured::parse(b"multipart/mixed; boundary=----=_Part;charset=\"utf-8\"");
        assert_eq!((found.get("boundary"), found.get("charset")), (Some("----=_Part"), Some("utf-8")));
        assert_eq!(Structured::parse(b"text/plain; boundary=\"\"").get("boundary"), None);
        assert_eq!(Structured::parse(b""), Structured::default());
    }

    #[test]
    fn hostile() {
        let many: String = (0..100_000).map(|n| format!("; filename*{n}*=%41")).collect();
        let found = Structured::parse(format!("attachment{many}").as_bytes());
        assert_eq!(found.get("filename").map(str::len), Some(MAX_PARAMETERS));
        let open = format!("attachment; x={}", "(".repeat(200_000));
        assert!(Structured::parse(open.as_bytes()).get("x").is_some());
        let never_ended = format!("a; filename=\"{}\"", "=?a?b?".repeat(40_000));
        assert!(Structured::parse(never_ended.as_bytes()).get("filename").is_some());
        let words = format!("a; filename=\"{}\"", "=?utf-8?B?".repeat(20_000));
        assert!(Structured::parse(words.as_bytes()).get("filename").is_some());
        assert_eq!(Structured::parse("a; filename*99999999999=x".as_bytes()).get("filename"), None);
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Structured::parse(&bytes);
        }

        #[test]
        fn pieces_in_any_order(name in "[a-zé€ 日]{1,40}\\.txt", size in 1..9_usize, turn in any::<u64>()) {
            let coded: String = name.bytes().map(|b| format!("%{b:02X}")).collect();
            let chunks: Vec<&[u8]> = coded.as_bytes().chunks(size * 3).collect();
            let mut pieces: Vec<String> = chunks.iter().enumerate().map(|(n, c)| {
                let charset = if n == 0 { "utf-8''" } else { "" };
                format!("; filename*{n}*={charset}{}", std::str::from_utf8(c).unwrap())
            }).collect();
            let at = usize::try_from(turn % pieces.len() as u64).unwrap();
            pieces.rotate_left(at);
            let found = Structured::parse(format!("attachment{}", pieces.concat()).as_bytes());
            prop_assert_eq!(found.get("filename"), Some(name.as_str()));
        }
    }
}
