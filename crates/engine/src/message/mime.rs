//! The MIME structure of a message (RFC 2045, RFC 2046), found in one pass over its lines.
//!
//! Why not mail-parser's own tree: it takes attached messages apart too and drops its tree recursively, so a message of nested
//! attached messages can overflow the stack, which nothing can catch. Here an attached message stays one opaque part (it is
//! stored as a file anyway), nothing recurses, and depth and number of parts have caps. Fields, encodings and charsets are mail-parser's.

use std::collections::HashMap;
use std::ops::Range;

use super::fields;
use super::parameters::Structured;
use crate::ParseCaps;
use email_router_model::Headers;

/// Content-Transfer-Encoding (RFC 2045 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Base64,
    QuotedPrintable,
}

/// One part: a multipart, or a leaf with a body.
#[derive(Debug)]
pub(super) struct Part {
    /// Index of the multipart it stands in; smaller than its own.
    pub(super) parent: Option<usize>,
    pub(super) depth: usize,
    /// `type/subtype`, lower case.
    pub(super) mime_type: String,
    /// Content-Type, for its parameters.
    pub(super) content_type: Structured,
    pub(super) charset: Option<String>,
    pub(super) file_name: Option<String>,
    /// Content-Disposition says attachment.
    pub(super) is_attachment: bool,
    /// Content-Disposition says inline.
    pub(super) is_inline: bool,
    pub(super) content_id: Option<String>,
    /// Content-Location (RFC 2557 4.2).
    pub(super) location: Option<String>,
    pub(super) encoding: Encoding,
    /// Where it begins in the message, with its header section.
    pub(super) start: usize,
    /// Where its body stands in the message.
    pub(super) body: Range<usize>,
    pub(super) is_multipart: bool,
}

/// All parts, a parent before its children.
#[derive(Debug)]
pub(super) struct Structure {
    pub(super) parts: Vec<Part>,
    /// Parts beyond the cap.
    pub(super) left_out: usize,
    /// Multiparts nested deeper than the cap; each is kept as one opaque part.
    pub(super) too_deep: usize,
    /// Header sections of parts that were longer than the cap; the rest was not read.
    pub(super) long_headers: usize,
}

struct Open {
    part: usize,
    boundary: Vec<u8>,
    /// Whether the map's entry for the boundary is this one's; an inner multipart may repeat an outer boundary.
    owned: bool,
}

enum State {
    /// Before the first or behind the last delimiter of a multipart, or in a part beyond the cap.
    Outside,
    Header(usize),
    Body(usize),
}

struct Splitter<'a> {
    bytes: &'a [u8],
    caps: &'a ParseCaps,
    found: Structure,
    open: Vec<Open>,
    boundaries: HashMap<Vec<u8>, usize>,
    state: State,
}

/// Splits the message that begins at `start` of `bytes`.
pub(super) fn split(bytes: &[u8], start: usize, caps: &ParseCaps) -> Structure {
    let mut splitter = Splitter {
        bytes,
        caps,
        found: Structure { parts: Vec::new(), left_out: 0, too_deep: 0, long_headers: 0 },
        open: Vec::new(),
        boundaries: HashMap::new(),
        state: State::Header(start),
    };
    splitter.run(start);
    splitter.found
}

impl Splitter<'_> {
    fn run(&mut self, start: usize) {
        let bytes = self.bytes;
        let mut at = start;
        while at < bytes.len() {
            if let (State::Body(_), true) = (&self.state, self.open.is_empty()) {
                break; // a message of one part: nothing more to find
            }
            let line_end = bytes[at..].iter().position(|&b| b == b'\n').map_or(bytes.len(), |n| at + n + 1);
            let line = &bytes[at..line_end];
            if let Some((level, closing)) = self.delimiter(line) {
                self.delimited(at, line_end, level, closing);
            } else if let State::Header(from) = self.state
                && matches!(line, b"\n" | b"\r\n")
            {
                self.begin_part(from, at, line_end);
            }
            at = line_end;
        }
        self.end_leaf(bytes.len());
        for open in std::mem::take(&mut self.open) {
            self.found.parts[open.part].body.end = bytes.len();
        }
        self.multiparts_without_parts();
    }

    /// Which open multipart a line is a delimiter of, and whether it closes it (RFC 2046 5.1.1).
    fn delimiter(&self, line: &[u8]) -> Option<(usize, bool)> {
        let text = line.strip_prefix(b"--")?.trim_ascii_end();
        if self.open.is_empty() {
            return None;
        }
        if let Some(&level) = self.boundaries.get(text) {
            return Some((level, false));
        }
        self.boundaries.get(text.strip_suffix(b"--")?).map(|&level| (level, true))
    }

    fn delimited(&mut self, at: usize, line_end: usize, level: usize, closing: bool) {
        // the line end before a delimiter belongs to the delimiter
        let mut end = at;
        if end > 0 && self.bytes[end - 1] == b'\n' {
            end -= 1;
            if end > 0 && self.bytes[end - 1] == b'\r' {
                end -= 1;
            }
        }
        self.end_leaf(end);
        let keep = if closing { level } else { level + 1 };
        for open in self.open.drain(keep..) {
            let body = &mut self.found.parts[open.part].body;
            body.end = end.max(body.start);
            if open.owned {
                self.boundaries.remove(&open.boundary);
            }
        }
        self.state = if closing {
            State::Outside
        } else if self.found.parts.len() >= self.caps.max_parts {
            self.found.left_out += 1;
            State::Outside
        } else {
            State::Header(line_end)
        };
    }

    fn end_leaf(&mut self, end: usize) {
        match self.state {
            State::Body(part) => {
                let body = &mut self.found.parts[part].body;
                body.end = end.max(body.start);
            }
            // a header section that runs into a delimiter: a part without a body
            State::Header(from) => {
                let end = end.max(from);
                self.begin_part(from, end, end);
                if let State::Body(part) = self.state {
                    self.found.parts[part].body.end = end;
                }
            }
            State::Outside => {}
        }
        self.state = State::Outside;
    }

    fn begin_part(&mut self, header: usize, header_end: usize, body: usize) {
        let parent = self.open.last().map(|o| o.part);
        let depth = self.open.len();
        let in_digest = parent.is_some_and(|p| self.found.parts[p].mime_type == "multipart/digest");
        if header_end - header > self.caps.max_header_bytes {
            self.found.long_headers += 1;
        }
        let header_end = header_end.min(header + self.caps.max_header_bytes);
        let (mut part, boundary) = read_part(&self.bytes[header..header_end], in_digest);
        part.parent = parent;
        part.depth = depth;
        part.start = header;
        part.body = body..body;
        let index = self.found.parts.len();
        let boundary =
            boundary.or_else(|| if part.is_multipart { guess_boundary(&self.bytes[body..]) } else { None });
        if part.is_multipart && boundary.is_none() {
            part.mime_type = "text/plain".to_owned();
            part.charset = None;
        }
        if let Some(boundary) = boundary {
            if depth < self.caps.max_depth {
                let owned = !self.boundaries.contains_key(&boundary);
                if owned {
                    self.boundaries.insert(boundary.clone(), depth);
                }
                self.open.push(Open { part: index, boundary, owned });
                self.found.parts.push(part);
                self.state = State::Outside;
                return;
            }
            self.found.too_deep += 1;
        }
        part.is_multipart = false;
        self.found.parts.push(part);
        self.state = State::Body(index);
    }

    /// A multipart whose boundary never appears holds text, whatever it says of itself.
    fn multiparts_without_parts(&mut self) {
        let mut has_children = vec![false; self.found.parts.len()];
        for part in &self.found.parts {
            if let Some(parent) = part.parent {
                has_children[parent] = true;
            }
        }
        let left_out = self.found.left_out > 0;
        for (part, has_children) in self.found.parts.iter_mut().zip(has_children) {
            if part.is_multipart && !has_children && !left_out {
                part.is_multipart = false;
                part.mime_type = "text/plain".to_owned();
                part.charset = None;
            }
        }
    }
}

/// RFC 6838 4.2; whoever writes something else means no type that anybody knows.
fn is_restricted_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
}

/// The boundary of a multipart that names none: its first line with content, when that looks like a delimiter.
fn guess_boundary(body: &[u8]) -> Option<Vec<u8>> {
    const FAR: usize = 4096;
    let line = body[..body.len().min(FAR)]
        .split(|&b| b == b'\n')
        .map(<[u8]>::trim_ascii_end)
        .find(|l| !l.is_empty())?;
    let boundary = line.strip_prefix(b"--")?;
    // "-- " alone begins a signature; RFC 2046 5.1.1 allows 1 to 70 characters
    (!boundary.is_empty() && boundary.len() <= 70).then(|| boundary.to_vec())
}

/// The part its header describes, and its boundary when it is a multipart.
fn read_part(header: &[u8], in_digest: bool) -> (Part, Option<Vec<u8>>) {
    let mut content_type = None;
    let mut disposition = None;
    let mut content_id = None;
    let mut location = None;
    let mut encoding = Encoding::Identity;
    for field in Headers::new(header).iter() {
        if field.is("Content-Type") && content_type.is_none() {
            content_type = Some(Structured::parse(field.raw_value)).filter(|t| !t.value.is_empty());
        } else if field.is("Content-Disposition") && disposition.is_none() {
            disposition = Some(Structured::parse(field.raw_value));
        } else if field.is("Content-Transfer-Encoding") {
            let value = field.value().to_ascii_lowercase();
            encoding = match value.split([';', ' ', '(']).next().unwrap_or("") {
                "base64" => Encoding::Base64,
                "quoted-printable" => Encoding::QuotedPrintable,
                _ => Encoding::Identity,
            };
        } else if field.is("Content-ID") && content_id.is_none() {
            let id = fields::clean_line(&field.value(), 998);
            content_id = Some(id.trim_matches(['<', '>']).to_owned()).filter(|id| !id.is_empty());
        } else if field.is("Content-Location") && location.is_none() {
            let text = fields::unstructured(&fields::utf8_or_1252(field.raw_value).0).unwrap_or_default();
            location = Some(fields::clean_line(&text, 998)).filter(|l| !l.is_empty());
        }
    }
    let content_type = content_type.unwrap_or_default();
    let disposition = disposition.unwrap_or_default();
    // RFC 2045 5.2: text/plain when nothing is said; RFC 2046 5.1.5: a message in a digest
    let default = if in_digest { "message/rfc822" } else { "text/plain" };
    let is_type = |t: &&str| {
        t.len() <= 255
            && t.split_once('/').is_some_and(|(a, b)| is_restricted_name(a) && is_restricted_name(b))
    };
    let without_blanks: String = content_type.value.split_whitespace().collect();
    let mime_type = Some(without_blanks.as_str()).filter(is_type).unwrap_or(default).to_owned();
    let is_multipart = mime_type.starts_with("multipart/");
    let boundary = content_type
        .get("boundary")
        .filter(|_| is_multipart)
        .map(|b| b.trim_end().as_bytes().to_vec())
        .filter(|b| !b.is_empty() && b.len() <= 998);
    let part = Part {
        parent: None,
        depth: 0,
        charset: content_type.get("charset").map(str::to_owned),
        file_name: disposition.get("filename").or_else(|| content_type.get("name")).map(str::to_owned),
        is_attachment: disposition.value == "attachment",
        is_inline: disposition.value == "inline",
        content_id,
        location,
        encoding,
        start: 0,
        body: 0..0,
        is_multipart,
        mime_type,
        content_type,
    };
    (part, boundary)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(text: &str) -> Vec<(String, String)> {
        let bytes = text.replace('\n', "\r\n").into_bytes();
        split(&bytes, 0, &ParseCaps::default())
            .parts
            .iter()
            .map(|p| {
                let body =
                    if p.is_multipart { "" } else { std::str::from_utf8(&bytes[p.body.clone()]).unwrap() };
                (p.mime_type.clone(), body.to_owned())
            })
            .collect()
    }
    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    }

    #[test]
    fn one_part_and_none() {
        assert_eq!(shape("Subject: a\n\nx\ny"), pairs(&[("text/plain", "x\r\ny")]));
        assert_eq!(shape("Subject: a\n"), pairs(&[("text/plain", "")]));
        assert_eq!(shape(""), pairs(&[("text/plain", "")]));
    }

    #[test]
    fn nested_with_prologue_and_epilogue() {
        let text = "Content-Type: multipart/mixed; boundary=\"a\"\n\nprologue\n--a\nContent-Type: multipart/alternative; \
                    boundary=b\n\n--b\n\nplain --b not a delimiter\n--bb\n\n--b\nContent-Type: text/html\n\n<p>\n--b--\nepi\n--a\n\
                    Content-Type: message/rfc822\n\nSubject: in\nContent-Type: multipart/mixed; boundary=c\n\n--c\n\nx\n--c--\n--a--\nend";
        assert_eq!(
            shape(text),
            pairs(&[
                ("multipart/mixed", ""),
                ("multipart/alternative", ""),
                ("text/plain", "plain --b not a delimiter\r\n--bb\r\n"),
                ("text/html", "<p>"),
                (
                    "message/rfc822",
                    "Subject: in\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\nx\r\n--c--"
                ),
            ])
        );
    }

    #[test]
    fn malformed() {
        // inner multipart never closed; the outer delimiter closes it
        let text = "Content-Type: multipart/mixed; boundary=a\n\n--a\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\nx\n--a\n\ny\n";
        assert_eq!(
            shape(text),
            pairs(&[
                ("multipart/mixed", ""),
                ("multipart/mixed", ""),
                ("text/plain", "x"),
                ("text/plain", "y\r\n")
            ])
        );
        // a header section that runs into a delimiter
        let text =
            "Content-Type: multipart/mixed; boundary=a\n\n--a\nContent-Type: image/png\n--a\n\ny\n--a--\n";
        assert_eq!(shape(text), pairs(&[("multipart/mixed", ""), ("image/png", ""), ("text/plain", "y")]));
        // the boundary never appears
        let text = "Content-Type: multipart/mixed; boundary=a\n\nhello\n";
        assert_eq!(shape(text), pairs(&[("text/plain", "hello\r\n")]));
        // no boundary at all
        assert_eq!(shape("Content-Type: multipart/mixed\n\nhello\n"), pairs(&[("text/plain", "hello\r\n")]));
        assert_eq!(
            shape("Content-Type: multipart/mixed\n\n--q\n\nhello\n--q--\n"),
            pairs(&[("multipart/mixed", ""), ("text/plain", "hello")])
        );
    }

    #[test]
    fn bombs_meet_the_caps() {
        let mut deep = String::new();
        for n in 0..5000 {
            deep.push_str(&format!("Content-Type: multipart/mixed; boundary=b{n}\r\n\r\n--b{n}\r\n"));
        }
        deep.push_str("\r\ntext\r\n");
        let caps = ParseCaps::default();
        let found = split(deep.as_bytes(), 0, &caps);
        assert_eq!((found.parts.len(), found.too_deep, found.left_out), (caps.max_depth + 1, 1, 0));

        let mut wide = "Content-Type: multipart/mixed; boundary=b\r\n\r\n".to_owned();
        wide.push_str(&"--b\r\n\r\nx\r\n".repeat(20_000));
        let found = split(wide.as_bytes(), 0, &caps);
        assert_eq!((found.parts.len(), found.left_out), (caps.max_parts, 20_001 - caps.max_parts));
    }
}
