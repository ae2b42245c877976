//! The body and the attachments of a message that is delivered.

use std::collections::HashMap;

use bytes::Bytes;
use email_router_crm::{Attachment, OrganizationSettings};
use email_router_model::RawMessage;

use super::mime::{self, Part, Structure};
use super::roles::{Role, Versions, roles};
use super::{
    Message, calendar, charset, decode, fields, file_name, html, leading_blank, protection, winmail,
};
use crate::ParseCaps;

/// At most this many lines about what was left out; one more says how many there were.
const MAX_NOTES: usize = 100;

/// What an activity stores of a message beside its header fields.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Content {
    /// The body. Where the message offers alternatives, the HTML one; several texts are joined in their order, with the names of pictures
    /// that stand between them.
    pub body: String,
    /// `text/html` or `text/plain`.
    pub body_mime_type: String,
    /// The plain text that the message offers beside an HTML body.
    pub text_body: Option<String>,
    /// The attachments that may be stored; an attached message is one of them, as `.eml`. What a `winmail.dat` holds is here instead of it.
    pub attachments: Vec<Attachment>,
    /// What was left out or could not be read, and why, one line each.
    pub removed_parts: Vec<String>,
    /// How the message is protected, such as `S/MIME signed`; what protects it is among the attachments as it came.
    pub subcategory: Option<String>,
    /// Something was left out because of a cap ([`ParseCaps`]), not by a policy of the organization: the whole message is worth keeping.
    pub incomplete: bool,
}

impl Content {
    /// Takes a whole message apart as far as `caps` allow. Attachments with a blocked extension or larger than
    /// [`OrganizationSettings::max_upload_file_size`] are left out and named.
    #[must_use]
    pub fn read(raw: &RawMessage, caps: &ParseCaps, settings: &OrganizationSettings) -> Self {
        let bytes = raw.bytes();
        let mut gathered = Gathered { caps: caps.clone(), settings: settings.clone(), ..Gathered::default() };
        gathered.read(bytes, leading_blank(bytes), false);
        gathered.finish()
    }
}

/// A text of the body, in its place.
#[derive(Debug)]
struct Piece {
    is_html: bool,
    text: String,
    versions: Versions,
}

/// Of a message that offers one version, and of the two of another.
pub(super) const BOTH: Versions = Versions { main: true, plain: true };
pub(super) const MAIN: Versions = Versions { main: true, plain: false };
pub(super) const PLAIN: Versions = Versions { main: false, plain: true };

/// What is found of a message, also of one inside a signature or a `winmail.dat`.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) caps: ParseCaps,
    pub(super) settings: OrganizationSettings,
    pieces: Vec<Piece>,
    /// Names of pictures and files that stand where the text goes on.
    between: Vec<(String, Versions)>,
    attachments: Vec<Attachment>,
    /// Which attachment has which Content-Location.
    locations: HashMap<String, usize>,
    notes: Vec<String>,
    more_notes: usize,
    subcategory: Option<&'static str>,
    /// The first calendar object, for a message that has no text.
    calendar: Option<String>,
    pub(super) incomplete: bool,
}

impl Gathered {
    /// Reads the entity that begins at `start`. `within` tells that it is inside a signature, so that a signature in it is not opened too.
    fn read(&mut self, bytes: &Bytes, start: usize, within: bool) {
        let structure = mime::split(bytes, start, &self.caps);
        self.tell_caps(&structure);
        let parts = &structure.parts;
        let roles = roles(parts);
        let mut children: Vec<usize> = vec![0; parts.len()];
        let mut second_child: Vec<Option<usize>> = vec![None; parts.len()];
        // the outermost signature is the one that says what the message is
        let mut signed = within;
        for (index, part) in parts.iter().enumerate() {
            if let Some(parent) = part.parent {
                children[parent] += 1;
                if children[parent] == 2 {
                    second_child[parent] = Some(index);
                }
            }
        }
        for (index, part) in parts.iter().enumerate() {
            match roles[index] {
                Role::Container => {
                    let second = second_child[index].map(|n| &parts[n]);
                    let label = protection::of_multipart(part, second.map(|p| p.mime_type.as_str()));
                    self.label(label);
                    let is_signed = label.is_some() && part.mime_type == "multipart/signed";
                    if let (true, Some(signature)) = (is_signed && !signed, second) {
                        signed = true;
                        self.keep_signed(bytes, &parts[index + 1], signature);
                    }
                }
                Role::Body(Versions { main: false, plain: false }) => {}
                Role::Body(versions) => self.text(bytes, index, part, versions),
                Role::Attachment(versions) => {
                    let mixed = part.parent.is_some_and(|p| parts[p].mime_type == "multipart/mixed");
                    if mixed && part.is_inline && !part.mime_type.starts_with("message/") {
                        let name = part.file_name.as_deref().and_then(file_name::sanitize);
                        self.between.extend(name.map(|name| (name, versions)));
                    }
                    self.part(bytes, index, part, within);
                }
            }
        }
    }

    fn tell_caps(&mut self, structure: &Structure) {
        let (max_parts, max_depth) = (self.caps.max_parts, self.caps.max_depth);
        if structure.left_out > 0 {
            let left_out = structure.left_out;
            self.cap(format!("{left_out} parts were left out: a message may have at most {max_parts}"));
        }
        if structure.too_deep > 0 {
            let too_deep = structure.too_deep;
            self.cap(format!("{too_deep} parts nested deeper than {max_depth} were not taken apart"));
        }
        if structure.long_headers > 0 {
            let (count, most) = (structure.long_headers, self.caps.max_header_bytes);
            self.cap(format!("{count} parts have more header than the {most} bytes that are read"));
        }
    }

    fn finish(mut self) -> Content {
        if self.pieces.iter().all(|p| p.text.trim().is_empty())
            && let Some(words) = self.calendar.take().and_then(|c| calendar::in_words(&c))
        {
            self.pieces.clear();
            self.add_text(words, false, BOTH);
        }
        let is_html = self.pieces.iter().any(|p| p.is_html && p.versions.main);
        // only where some part offers both
        let has_plain = is_html && self.pieces.iter().any(|p| p.versions == PLAIN && !p.is_html);
        let pieces = std::mem::take(&mut self.pieces);
        let text_body = has_plain.then(|| {
            join(
                pieces.iter().filter(|p| p.versions.plain && !p.is_html).map(|p| (false, p.text.as_str())),
                false,
            )
        });
        let mut body = join_owned(pieces, is_html);
        if is_html && !self.locations.is_empty() {
            self.link(&mut body);
        }
        let body = self.cut(body);
        let text_body = text_body.map(|text| self.cut(text)).filter(|t| !t.trim().is_empty());
        if self.more_notes > 0 {
            self.notes.push(format!("and {} more", self.more_notes));
        }
        Content {
            body,
            body_mime_type: if is_html { "text/html" } else { "text/plain" }.to_owned(),
            text_body,
            attachments: self.attachments,
            removed_parts: self.notes,
            subcategory: self.subcategory.map(str::to_owned),
            incomplete: self.incomplete,
        }
    }

    /// Gives the pictures that the body names by Content-Location (RFC 2557) a Content-ID, which is what a CRM shows them by.
    fn link(&mut self, body: &mut String) {
        let id = |attachment: usize| format!("part{attachment}@content-location");
        let (linked, used) =
            html::link(body, |location| self.locations.get(location).copied().map(|n| (n, id(n))));
        for attachment in used {
            self.attachments[attachment].content_id = Some(id(attachment));
        }
        if let Some(linked) = linked {
            *body = linked;
        }
    }

    fn cut(&mut self, mut body: String) -> String {
        // a character has at least one byte, so most bodies need no counting
        if body.len() > self.caps.max_body_chars
            && let Some((cut, _)) = body.char_indices().nth(self.caps.max_body_chars)
        {
            body.truncate(cut);
            self.cap(format!("the body was cut after {} characters", self.caps.max_body_chars));
        }
        body
    }

    /// How many attachments more there may be.
    pub(super) fn room(&self) -> usize {
        self.caps.max_parts.saturating_sub(self.attachments.len())
    }

    /// Says what was left out.
    pub(super) fn note(&mut self, line: String) {
        if self.notes.len() < MAX_NOTES { self.notes.push(line) } else { self.more_notes += 1 }
    }

    /// Says what was left out because of a cap.
    fn cap(&mut self, line: String) {
        self.incomplete = true;
        self.note(line);
    }

    /// The first label is that of the outermost protection.
    fn label(&mut self, label: Option<&'static str>) {
        self.subcategory = self.subcategory.or(label);
    }

    fn text(&mut self, bytes: &Bytes, index: usize, part: &Part, versions: Versions) {
        let decoded = self.decoded(bytes, index, part);
        let (text, problem) = charset::decode(&decoded, part.charset.as_deref());
        if let Some(problem) = problem {
            self.note(format!("part {}: {problem}", index + 1));
        }
        self.label(protection::of_text(&text));
        self.add_text(text, part.mime_type == "text/html", versions);
    }

    /// Adds a text to the body, and before it the names of what stands between it and the text before.
    pub(super) fn add_text(&mut self, text: String, is_html: bool, versions: Versions) {
        let between = std::mem::take(&mut self.between);
        if !self.pieces.is_empty() {
            for (name, versions) in between {
                self.pieces.push(Piece { is_html: false, text: format!("[{name}]"), versions });
            }
        }
        // no CRM stores a NUL, and some cut the text there
        let text = if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text };
        self.pieces.push(Piece { is_html, text, versions });
    }

    /// Whether there is something to read so far; and whether it has HTML.
    pub(super) fn has_text(&self) -> (bool, bool) {
        let texts = || self.pieces.iter().filter(|p| p.versions.main && !p.text.trim().is_empty());
        (texts().next().is_some(), texts().any(|p| p.is_html))
    }

    /// What was read so far becomes the plain version of HTML that follows.
    pub(super) fn demote_texts(&mut self) {
        self.pieces.retain(|p| !p.text.trim().is_empty());
        for piece in &mut self.pieces {
            piece.versions.main = false;
        }
    }

    /// A part that is not text to be read.
    fn part(&mut self, bytes: &Bytes, index: usize, part: &Part, within: bool) {
        match part.mime_type.as_str() {
            "message/partial" => {
                let number = part.content_type.get("number").unwrap_or("?");
                let total = part.content_type.get("total").unwrap_or("?");
                self.note(format!(
                    "part {}: is piece {} of {} of a larger message (message/partial), which is not put together; it was kept as it is",
                    index + 1,
                    fields::clean_line(number, 10),
                    fields::clean_line(total, 10)
                ));
            }
            "message/external-body" => {
                let access = part.content_type.get("access-type").unwrap_or("unknown");
                self.note(format!(
                    "part {}: stands for a file elsewhere (message/external-body, access {}), which is not fetched; the reference was kept",
                    index + 1,
                    fields::clean_line(access, 40)
                ));
                // where it lies is told by the parameters of the type, so these are kept too
                let whole = bytes.slice(part.start.min(part.body.start)..part.body.end);
                let name = self.name(bytes, index, part);
                self.attach(name, part.mime_type.clone(), None, whole.len(), || whole);
                return;
            }
            _ if protection::is_smime(part) => return self.smime(bytes, index, part, within),
            _ if winmail::is_winmail(part) => return self.winmail(bytes, index, part),
            "text/calendar" if self.calendar.is_none() && part.body.len() <= 1024 * 1024 => {
                let (decoded, _) = decode::body(bytes, part);
                self.calendar = Some(charset::decode(&decoded, part.charset.as_deref()).0);
            }
            _ => {}
        }
        self.attach_part(bytes, index, part);
    }

    /// An S/MIME object: kept as it is, and the text inside a signature read. What is in a signature in that is not looked at.
    fn smime(&mut self, bytes: &Bytes, index: usize, part: &Part, within: bool) {
        let decoded = self.decoded(bytes, index, part);
        self.label(Some(protection::of_smime(part, &decoded)));
        // a message that is nothing else shows what was signed; beside other parts it is a file
        if index == 0
            && !within
            && let Some(content) = protection::signed_content(&decoded)
        {
            let content = match content {
                std::borrow::Cow::Borrowed(content) => decoded.slice_ref(content),
                std::borrow::Cow::Owned(content) => content.into(),
            };
            self.read(&content, 0, true);
        }
        let name = self.name(bytes, index, part);
        self.attach(name, part.mime_type.clone(), None, decoded.len(), || decoded);
    }

    fn winmail(&mut self, bytes: &Bytes, index: usize, part: &Part) {
        let decoded = self.decoded(bytes, index, part);
        if winmail::unpack(self, &decoded) {
            return;
        }
        let name = self.name(bytes, index, part);
        let kept = self.attach(name, part.mime_type.clone(), None, decoded.len(), || decoded);
        self.incomplete |= !kept;
    }

    /// The part that was signed, byte for byte, beside its signature: read anew it would no longer fit.
    fn keep_signed(&mut self, bytes: &Bytes, signed: &Part, signature: &Part) {
        let end = signed.body.end.max(signed.start);
        let entity = bytes.slice(signed.start.min(end)..end);
        let name = match signature.mime_type.as_str() {
            "application/pgp-signature" => "signed-by-pgp.mime",
            _ => "signed-by-smime.mime",
        };
        // no message/rfc822: it is not a message that was attached
        let mime_type = "application/octet-stream".to_owned();
        self.attach(name.to_owned(), mime_type, None, entity.len(), || entity);
    }

    fn attach_part(&mut self, bytes: &Bytes, index: usize, part: &Part) {
        let name = self.name(bytes, index, part);
        let body = &bytes[part.body.clone()];
        // what is far too large is not even decoded
        let smallest = decode::smallest_size(body, part.encoding, self.settings.max_upload_file_size);
        let mut problem = None;
        let content = || {
            let (content, what) = decode::body(bytes, part);
            problem = what;
            content
        };
        let kept = self.attach(name, part.mime_type.clone(), part.content_id.clone(), smallest, content);
        if let Some(problem) = problem {
            self.note(format!("part {}: {problem}", index + 1));
        }
        if let (true, Some(location), None) = (kept, &part.location, &part.content_id) {
            self.locations.entry(location.clone()).or_insert(self.attachments.len() - 1);
        }
    }

    /// Keeps an attachment, unless the organization does not want it or there are too many. `size`: at least so many bytes it has; only when
    /// that may be stored is its content asked for. Whether it was kept.
    pub(super) fn attach(
        &mut self,
        name: String,
        mime_type: String,
        content_id: Option<String>,
        size: usize,
        content: impl FnOnce() -> Bytes,
    ) -> bool {
        if let Some(extension) = file_name::extension(&name)
            && self.settings.blocked_attachments.iter().any(|b| b.eq_ignore_ascii_case(&extension))
        {
            self.note(format!("attachment {name:?}: files of type {extension} are blocked"));
            return false;
        }
        if self.room() == 0 {
            let most = self.caps.max_parts;
            self.cap(format!("attachment {name:?}: was left out: a message may have at most {most} parts"));
            return false;
        }
        let limit = self.settings.max_upload_file_size;
        let content = if size as u64 > limit { Err(size) } else { Ok(content()) };
        let size = match content {
            Ok(content) if content.len() as u64 <= limit => {
                self.attachments.push(Attachment { file_name: name, mime_type, content_id, content });
                return true;
            }
            Ok(content) => content.len(),
            Err(size) => size,
        };
        self.note(format!("attachment {name:?}: {size} bytes are more than the {limit} that may be stored"));
        false
    }

    fn name(&self, bytes: &Bytes, index: usize, part: &Part) -> String {
        if let Some(name) = part.file_name.as_deref().and_then(file_name::sanitize) {
            return name;
        }
        if let Some(name) = file_name::usual_name(&part.mime_type) {
            return name.to_owned();
        }
        let extension = file_name::extension_of(&part.mime_type);
        if extension == "eml" {
            // in base64 against the rules (RFC 2046 5.2.1) its header section has to be decoded; its subject stands near its beginning
            let beginning = part.body.start..part.body.end.min(part.body.start + 64 * 1024);
            let (beginning, _) = decode::decode(bytes.slice(beginning), part.encoding);
            let subject = Message::from_headers(&beginning, &self.caps).subject;
            return file_name::of_message(Some(&subject));
        }
        format!("part-{}.{extension}", index + 1)
    }

    /// The body with its transfer encoding undone; not copied when there is none.
    fn decoded(&mut self, bytes: &Bytes, index: usize, part: &Part) -> Bytes {
        let (decoded, problem) = decode::body(bytes, part);
        if let Some(problem) = problem {
            self.note(format!("part {}: {problem}", index + 1));
        }
        decoded
    }
}

/// The version that is shown. A single text, which is what most messages are, is not copied.
fn join_owned(mut pieces: Vec<Piece>, html: bool) -> String {
    pieces.retain(|p| p.versions.main);
    match &mut pieces[..] {
        [one] if one.is_html == html => std::mem::take(&mut one.text),
        all => join(all.iter().map(|p| (p.is_html, p.text.as_str())), html),
    }
}

fn join<'a>(texts: impl Iterator<Item = (bool, &'a str)>, html: bool) -> String {
    let mut body = String::new();
    for (index, (is_html, text)) in texts.enumerate() {
        if index > 0 && !body.ends_with('\n') {
            body.push_str("\r\n");
        }
        if html && !is_html {
            body.push_str("<div style=\"white-space: pre-wrap\">");
            html::escape(text, &mut body);
            body.push_str("</div>");
        } else {
            body.push_str(text);
        }
    }
    body
}
