//! The body and the attachments of a message that is delivered.

use std::borrow::Cow;

use bytes::Bytes;
use email_router_crm::{Attachment, OrganizationSettings};
use email_router_model::{Headers, RawMessage};
use mail_parser::decoders::base64::base64_decode;
use mail_parser::decoders::charsets::map::charset_decoder;
use mail_parser::decoders::quoted_printable::quoted_printable_decode;

use super::mime::{self, Encoding, Part};
use super::{fields, file_name, leading_blank};
use crate::ParseCaps;

/// At most this many lines about what was left out; one more says how many there were.
const MAX_NOTES: usize = 100;

/// What an activity stores of a message beside its header fields.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Content {
    /// The body. Where the message offers alternatives, the HTML one; several texts in a row are joined.
    pub body: String,
    /// `text/html` or `text/plain`.
    pub body_mime_type: String,
    /// The attachments that may be stored; an attached message is one of them, as `.eml`.
    pub attachments: Vec<Attachment>,
    /// What was left out or could not be read, and why, one line each.
    pub removed_parts: Vec<String>,
}

impl Content {
    /// Takes a whole message apart as far as `caps` allow. Attachments with a blocked extension or larger than
    /// [`OrganizationSettings::max_upload_file_size`] are left out and named.
    #[must_use]
    pub fn read(raw: &RawMessage, caps: &ParseCaps, settings: &OrganizationSettings) -> Self {
        let bytes = raw.bytes();
        let structure = mime::split(bytes, leading_blank(bytes), caps);
        let mut reader = Reader { bytes, settings, notes: Notes::default() };
        if structure.left_out > 0 {
            reader.notes.add(format!(
                "{} parts were left out: a message may have at most {}",
                structure.left_out, caps.max_parts
            ));
        }
        if structure.too_deep > 0 {
            reader.notes.add(format!(
                "{} parts nested deeper than {} were not taken apart",
                structure.too_deep, caps.max_depth
            ));
        }
        let roles = roles(&structure.parts);
        let mut texts = Vec::new();
        let mut attachments = Vec::new();
        for (index, part) in structure.parts.iter().enumerate() {
            match roles[index] {
                Role::Container | Role::OtherAlternative => {}
                Role::Body => texts.push((part.mime_type == "text/html", reader.text(index, part))),
                Role::Attachment => attachments.extend(reader.attachment(index, part)),
            }
        }
        let html = texts.iter().any(|(html, _)| *html);
        let mut body = join(texts, html);
        if let Some((cut, _)) = body.char_indices().nth(caps.max_body_chars) {
            body.truncate(cut);
            reader.notes.add(format!("the body was cut after {} characters", caps.max_body_chars));
        }
        Self {
            body,
            body_mime_type: if html { "text/html" } else { "text/plain" }.to_owned(),
            attachments,
            removed_parts: reader.notes.into_lines(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Container,
    Body,
    /// Text of an alternative that was not chosen.
    OtherAlternative,
    Attachment,
}

/// What becomes of each part. Of a multipart/alternative the last branch with HTML is shown, else the last with text (RFC 2046
/// 5.1.4: the last is the richest); whatever else its branches hold is kept as attachments.
fn roles(parts: &[Part]) -> Vec<Role> {
    let mut roles: Vec<Role> = parts
        .iter()
        .enumerate()
        .map(|(index, part)| match part {
            p if p.is_multipart => Role::Container,
            p if !matches!(p.mime_type.as_str(), "text/plain" | "text/html") => Role::Attachment,
            _ if index == 0 => Role::Body, // the message is nothing else, whatever it calls itself
            p if p.is_attachment || p.file_name.is_some() => Role::Attachment,
            _ => Role::Body,
        })
        .collect();
    // nothing but named texts: the first one that does not insist on being a file is what there is to read
    if !roles.contains(&Role::Body)
        && let Some(first) = parts.iter().position(|p| {
            !p.is_multipart && !p.is_attachment && matches!(p.mime_type.as_str(), "text/plain" | "text/html")
        })
    {
        roles[first] = Role::Body;
    }
    let mut has_html = vec![false; parts.len()];
    let mut has_text = vec![false; parts.len()];
    for index in (0..parts.len()).rev() {
        if roles[index] == Role::Body {
            has_text[index] = true;
            has_html[index] = parts[index].mime_type == "text/html";
        }
        if let Some(parent) = parts[index].parent {
            // children come behind their parent, so this one is complete
            has_html[parent] |= has_html[index];
            has_text[parent] |= has_text[index];
        }
    }
    let mut chosen: Vec<Option<usize>> = vec![None; parts.len()];
    for (index, part) in parts.iter().enumerate() {
        let Some(parent) = part.parent else { continue };
        if parts[parent].mime_type != "multipart/alternative" || !has_text[index] {
            continue;
        }
        let better = chosen[parent].is_none_or(|old| has_html[index] || !has_html[old]);
        if better {
            chosen[parent] = Some(index);
        }
    }
    let mut hidden = vec![false; parts.len()];
    for (index, part) in parts.iter().enumerate() {
        let Some(parent) = part.parent else { continue };
        let other_branch =
            parts[parent].mime_type == "multipart/alternative" && chosen[parent].is_some_and(|c| c != index);
        hidden[index] = hidden[parent] || other_branch;
        if hidden[index] && roles[index] == Role::Body {
            roles[index] = Role::OtherAlternative;
        }
    }
    roles
}

fn join(texts: Vec<(bool, String)>, html: bool) -> String {
    let mut body = String::new();
    for (index, (is_html, text)) in texts.into_iter().enumerate() {
        if index > 0 && !body.ends_with('\n') {
            body.push_str("\r\n");
        }
        if html && !is_html {
            body.push_str("<div style=\"white-space: pre-wrap\">");
            escape_html(&text, &mut body);
            body.push_str("</div>");
        } else if index == 0 {
            body = text;
        } else {
            body.push_str(&text);
        }
    }
    body
}

fn escape_html(text: &str, into: &mut String) {
    for c in text.chars() {
        match c {
            '&' => into.push_str("&amp;"),
            '<' => into.push_str("&lt;"),
            '>' => into.push_str("&gt;"),
            '"' => into.push_str("&quot;"),
            c => into.push(c),
        }
    }
}

#[derive(Default)]
struct Notes {
    lines: Vec<String>,
    more: usize,
}

impl Notes {
    fn add(&mut self, line: String) {
        if self.lines.len() < MAX_NOTES { self.lines.push(line) } else { self.more += 1 }
    }
    fn into_lines(mut self) -> Vec<String> {
        if self.more > 0 {
            self.lines.push(format!("and {} more", self.more));
        }
        self.lines
    }
}

struct Reader<'a> {
    bytes: &'a Bytes,
    settings: &'a OrganizationSettings,
    notes: Notes,
}

impl Reader<'_> {
    fn text(&mut self, index: usize, part: &Part) -> String {
        let decoded = self.decoded(index, part);
        let (text, problem) = decode_charset(&decoded, part.charset.as_deref());
        if let Some(problem) = problem {
            self.notes.add(format!("part {}: {problem}", index + 1));
        }
        // no CRM stores it, and some cut the text there
        if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
    }

    fn attachment(&mut self, index: usize, part: &Part) -> Option<Attachment> {
        let name = self.name(index, part);
        if let Some(extension) = file_name::extension(&name)
            && self.settings.blocked_attachments.iter().any(|b| b.eq_ignore_ascii_case(&extension))
        {
            self.notes.add(format!("attachment {name:?}: files of type {extension} are blocked"));
            return None;
        }
        let limit = self.settings.max_upload_file_size;
        // what is far too large is not even decoded: base64 needs four bytes for three, and line ends
        let smallest = match part.encoding {
            Encoding::Base64 if (part.body.len() / 4 * 3) as u64 <= limit => 0,
            Encoding::Base64 => {
                let body = &self.bytes[part.body.clone()];
                body.iter().filter(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/')).count() / 4 * 3
            }
            Encoding::QuotedPrintable => part.body.len() / 3,
            Encoding::Identity => part.body.len(),
        };
        let too_large = |size: usize| size as u64 > limit;
        let content = if too_large(smallest) { None } else { Some(self.decoded(index, part)) };
        let size = content.as_ref().map_or(smallest, Bytes::len);
        match content.filter(|_| !too_large(size)) {
            Some(content) => Some(Attachment {
                file_name: name,
                mime_type: part.mime_type.clone(),
                content_id: part.content_id.clone(),
                content,
            }),
            None => {
                self.notes.add(format!(
                    "attachment {name:?}: {size} bytes are more than the {limit} that may be stored"
                ));
                None
            }
        }
    }

    fn name(&self, index: usize, part: &Part) -> String {
        if let Some(name) = part.file_name.as_deref().and_then(file_name::sanitize) {
            return name;
        }
        let extension = file_name::extension_of(&part.mime_type);
        if extension == "eml" {
            let subject = Headers::new(&self.bytes[part.body.clone()])
                .iter()
                .find(|f| f.is("Subject"))
                .and_then(|f| fields::unstructured(&fields::utf8_or_1252(f.raw_value).0))
                .map(|s| fields::clean_line(&s, 200).replace(['/', '\\'], "_"));
            let name =
                subject.filter(|s| !s.is_empty()).and_then(|s| file_name::sanitize(&format!("{s}.eml")));
            return name.unwrap_or_else(|| "message.eml".to_owned());
        }
        format!("part-{}.{extension}", index + 1)
    }

    /// The body with its transfer encoding undone; not copied when there is none.
    fn decoded(&mut self, index: usize, part: &Part) -> Bytes {
        let body = self.bytes.slice(part.body.clone());
        match part.encoding {
            Encoding::Identity => body,
            Encoding::Base64 => {
                if let Some(Some(decoded)) = fields::guarded(|| base64_decode(&body)) {
                    return decoded.into();
                }
                self.notes
                    .add(format!("part {}: has bytes that are not base64; they were passed over", index + 1));
                let clean: Vec<u8> = body
                    .iter()
                    .copied()
                    .filter(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='))
                    .collect();
                fields::guarded(|| base64_decode(&clean)).flatten().map_or(body, Bytes::from)
            }
            Encoding::QuotedPrintable => {
                if let Some(Some(decoded)) = fields::guarded(|| quoted_printable_decode(&body)) {
                    return decoded.into();
                }
                self.notes
                    .add(format!("part {}: is not proper quoted-printable; read as far as it is", index + 1));
                lenient_quoted_printable(&body).into()
            }
        }
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

/// The text, and what was wrong with it. No byte is lost silently: what a charset does not explain shows as U+FFFD and is
/// reported, and what is not UTF-8 although it should be is read as windows-1252.
fn decode_charset(bytes: &[u8], label: Option<&str>) -> (String, Option<String>) {
    // "_iso-2022-jp$ESC" and the like: labels with junk around them are seen in the field
    let label = label
        .map(|l| l.split(['$', '*', '"', '\'', ' ']).next().unwrap_or("").trim_matches('_').to_lowercase());
    let label = label.as_deref().unwrap_or("");
    let unicode =
        matches!(label, "" | "utf-8" | "utf8" | "us-ascii" | "ascii" | "unknown-8bit" | "default_charset");
    let decoder = if unicode { None } else { charset_decoder(label.as_bytes()) };
    if let Some(decoder) = decoder
        && let Some(text) = fields::guarded(|| decoder(bytes))
    {
        let problem =
            text.contains('\u{fffd}').then(|| format!("some bytes mean nothing in the charset {label}"));
        return (text, problem);
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let (text, valid): (Cow<'_, str>, bool) = fields::utf8_or_1252(bytes);
    let problem = match (unicode, valid) {
        (true, true) => None,
        (true, false) => Some("has bytes that are not UTF-8; they were read as windows-1252".to_owned()),
        (false, _) => Some(format!(
            "the charset {:?} is not known; the text was read as UTF-8 or windows-1252",
            fields::clean_line(label, 40)
        )),
    };
    (text.into_owned(), problem)
}
