//! A message as the rules see it: identity, participants, threading, content.
//!
//! [`Message`] is the header section, read once; it is all that a decision needs, so a message can be judged before its body was
//! fetched. [`Content`] is the rest, read only for a message that is delivered. Neither reading fails: what cannot be read yields
//! empty fields and a line in [`Message::defects`] or [`Content::removed_parts`].

mod attached;
mod calendar;
mod charset;
mod content;
mod decode;
mod fields;
mod file_name;
mod html;
mod mime;
mod parameters;
mod protection;
mod report;
mod roles;
mod winmail;

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use email_router_crm::{EmailLookup, Priority};
use email_router_model::{
    ActivityId, Direction, EmailAddress, Headers, MessageId, OrganizationId, RawMessage, Timestamp, header,
};

pub use attached::Attached;
pub use content::Content;
pub(crate) use fields::clean_line;
pub use report::Report;

use charset::RawText;
use parameters::Structured;

use crate::ParseCaps;
use crate::guard::{Automatic, AutomaticKind};

/// One mailbox named in an address field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Participant {
    /// The display name, decoded.
    pub name: Option<String>,
    /// The address; `None` when what stands there is no address.
    pub address: Option<EmailAddress>,
    /// What stands there, decoded, on one line.
    pub raw: String,
}

impl std::fmt::Display for Participant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.raw)
    }
}

/// The header section of a message, read.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Message {
    header: Bytes,
    digest: Option<String>,
    /// Whether this was read from a whole message; `false`: from its header section alone.
    pub whole: bool,
    /// The Message-ID field, normalised.
    pub message_id: Option<MessageId>,
    /// The From field on one line, as written.
    pub from_field: String,
    /// The author: the first mailbox of From with a valid address, else the first one (RFC 5322 3.6.2 allows several).
    pub from: Option<Participant>,
    /// The Sender field.
    pub sender: Option<Participant>,
    /// The Reply-To field.
    pub reply_to: Vec<Participant>,
    /// The To field.
    pub to: Vec<Participant>,
    /// The Cc field.
    pub cc: Vec<Participant>,
    /// The Bcc field; normally absent on received mail.
    pub bcc: Vec<Participant>,
    /// What mail servers noted about the envelope recipient: Delivered-To, X-Original-To, Envelope-To, X-Envelope-To.
    pub envelope_to: Vec<EmailAddress>,
    /// The Subject, decoded, on one line, cut to the cap.
    pub subject: String,
    /// The ids of In-Reply-To; almost always one.
    pub in_reply_to: Vec<MessageId>,
    /// The ids of References, oldest first; the last ones when there are more than the cap.
    pub references: Vec<MessageId>,
    /// The decoded Thread-Index as lower-case hexadecimal.
    pub thread_index: Option<String>,
    /// The id of the conversation as the mail system counts it, where it tells.
    pub conversation_id: Option<String>,
    /// The message class as the mail system counts it, where it has classes (Exchange).
    pub message_class: Option<String>,
    /// The Date field.
    pub date: Option<Timestamp>,
    /// When the mail system received it: what the mail system says, else the topmost Received field.
    pub received: Option<Timestamp>,
    /// Importance, X-Priority or Priority.
    pub priority: Priority,
    /// What a delivery report says; `None` for any other message, and where only the header section was read.
    pub report: Option<Report>,
    /// What could not be read, one line each.
    pub defects: Vec<String>,
    /// Something of the header section was left out because of a cap; what it was is among the defects.
    pub beyond_caps: bool,
}

impl Message {
    /// Reads a header section (a whole message is taken for its header section). Without Message-ID the identity stays
    /// unknown until the whole message is there.
    #[must_use]
    pub fn from_headers(bytes: &[u8], caps: &ParseCaps) -> Self {
        Self::read(Bytes::copy_from_slice(&bytes[section(bytes)]), caps)
    }

    /// Reads the header section of a whole message; the bytes are shared, not copied. The content digest is computed only
    /// when there is no Message-ID.
    #[must_use]
    pub fn parse(raw: &RawMessage, caps: &ParseCaps) -> Self {
        let bytes = raw.bytes();
        let section = section(bytes);
        let skip = section.start;
        let mut message = Self::read(bytes.slice(section), caps);
        message.whole = true;
        message.received = raw.received.or(message.received);
        message.conversation_id.clone_from(&raw.conversation_id);
        message.message_class.clone_from(&raw.message_class);
        if message.message_id.is_none() {
            message.digest = Some(RawMessage::new(bytes.slice(skip..)).content_digest());
        }
        message.report = Report::read(raw, &message, caps);
        message
    }

    /// What kind of automatic mail it is; `None` for mail that a person wrote.
    #[must_use]
    pub fn automatic(&self) -> Option<Automatic> {
        Automatic::of(self.headers())
    }

    /// Whether its header section is not enough to decide: it has no Message-ID, so that its identity depends on all of it, or it is a
    /// delivery report, whose body says what it is about.
    #[must_use]
    pub fn needs_body(&self) -> bool {
        !self.whole
            && (self.message_id.is_none()
                || self.automatic().is_some_and(|a| a.kind == AutomaticKind::DeliveryReport))
    }

    /// The body and the attachments of the whole message this was read from.
    #[must_use]
    pub fn content(
        &self,
        raw: &RawMessage,
        caps: &ParseCaps,
        settings: &email_router_crm::OrganizationSettings,
    ) -> Content {
        let mut content = Content::read(raw, caps, settings);
        content.incomplete |= self.beyond_caps;
        content
    }

    /// The 22 bytes of the Thread-Index that all mails of a conversation share, as lower-case hexadecimal; `None` where it is shorter.
    #[must_use]
    pub fn conversation_root(&self) -> Option<&str> {
        self.thread_index.as_deref()?.get(..EmailLookup::ROOT_DIGITS)
    }

    /// What tells this message from every other: its Message-ID, or `sha256:` and [`RawMessage::content_digest`] when it has none. `None`
    /// when it has none and only its header section was read: then the whole message must be fetched first.
    #[must_use]
    pub fn identity(&self) -> Option<String> {
        match (&self.message_id, &self.digest) {
            (Some(id), _) => Some(id.as_str().to_owned()),
            (None, Some(digest)) => Some(format!("sha256:{digest}")),
            (None, None) => None,
        }
    }

    /// The id its activity has in this organization, once its identity is known.
    #[must_use]
    pub fn activity_id(&self, organization: &OrganizationId) -> Option<ActivityId> {
        self.identity().map(|identity| ActivityId::derive(organization, Direction::Incoming, &identity))
    }

    /// The sender as a person reads it: name and address decoded, else the From field as it is.
    #[must_use]
    pub fn from_shown(&self) -> String {
        match &self.from {
            Some(Participant { name: Some(name), address: Some(address), .. }) => {
                format!("{name} <{address}>")
            }
            Some(Participant { name: None, address: Some(address), .. }) => address.to_string(),
            _ => self.from_field.clone(),
        }
    }

    /// Whether there is no header field at all: this is no Internet message.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        Headers::new(&self.header).iter().next().is_none()
    }

    /// The first value of any field, unfolded but not decoded.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        Headers::new(&self.header).get(name)
    }

    /// All fields.
    #[must_use]
    pub fn headers(&self) -> Headers<'_> {
        Headers::new(&self.header)
    }

    /// To, then Cc, then Bcc.
    pub fn recipients(&self) -> impl Iterator<Item = &Participant> {
        self.to.iter().chain(&self.cc).chain(&self.bcc)
    }

    fn read(mut header: Bytes, caps: &ParseCaps) -> Self {
        let mut defects = Vec::new();
        let too_long = header.len() > caps.max_header_bytes;
        if too_long {
            defects.push(format!(
                "the header section has {} bytes; only the first {} were read",
                header.len(),
                caps.max_header_bytes
            ));
            header.truncate(within_caps(&header, caps));
        }
        let fields = Headers::new(&header);
        let mut raw = RawFields::default();
        for field in fields.iter() {
            raw.note(field.name, field.raw_value);
        }
        for name in raw.repeated() {
            defects.push(format!("{name} stands there more than once; the first counts"));
        }
        let raw_text = RawText::of(raw.texts(), || {
            raw.content_type.and_then(|v| Structured::parse(v).get("charset").map(str::to_owned))
        });
        let mut reader = Reader { caps, raw_text, defects, beyond_caps: too_long };
        let mut from = reader.mailboxes("From", &raw.from);
        let first_valid = from.iter().position(|p| p.address.is_some()).unwrap_or(0);
        let from = (!from.is_empty()).then(|| from.swap_remove(first_valid));
        let from_field = raw
            .from
            .iter()
            .map(|v| reader.text("From", v))
            .map(|t| fields::clean_line(&t, 1000))
            .collect::<Vec<_>>();
        let subject = reader.subject(raw.subject);
        let in_reply_to = reader.ids("In-Reply-To", raw.in_reply_to, caps.max_references);
        let references = reader.ids("References", raw.references, caps.max_references);
        let mut message = Self {
            digest: None,
            whole: false,
            message_id: raw.message_id.and_then(|v| MessageId::parse(&reader.code("Message-ID", v))),
            from_field: fields::clean_line(&from_field.join(", "), 1000),
            from,
            sender: raw.sender.and_then(|v| reader.mailboxes("Sender", &[v]).into_iter().next()),
            reply_to: reader.mailboxes("Reply-To", &raw.reply_to),
            to: reader.mailboxes("To", &raw.to),
            cc: Vec::new(),
            bcc: Vec::new(),
            envelope_to: reader
                .mailboxes("Delivered-To", &raw.envelope_to)
                .into_iter()
                .filter_map(|p| p.address)
                .collect(),
            subject,
            in_reply_to,
            references,
            thread_index: raw.thread_index.and_then(|v| reader.thread_index(v)),
            conversation_id: None,
            message_class: None,
            date: raw.date.and_then(|v| reader.date("Date", v)),
            received: raw.received.and_then(|v| {
                // "Received: from ... ; date" (RFC 5321 4.4): the date is what follows the last semicolon
                let at = v.iter().rposition(|&b| b == b';')?;
                fields::date(&String::from_utf8_lossy(&v[at + 1..]))
            }),
            priority: priority(raw.importance, raw.x_priority, raw.priority),
            report: None,
            defects: Vec::new(),
            beyond_caps: false,
            header: Bytes::new(),
        };
        // the cap counts To, Cc and Bcc together
        let left = caps.max_recipients.saturating_sub(message.to.len());
        message.cc = reader.mailboxes_capped("Cc", &raw.cc, left);
        let left = left.saturating_sub(message.cc.len());
        message.bcc = reader.mailboxes_capped("Bcc", &raw.bcc, left);
        message.defects = reader.defects;
        message.beyond_caps = reader.beyond_caps;
        drop(raw);
        message.header = header;
        message
    }
}

/// Reads any bytes as a message, content included, and forgets the result: an entry for fuzzing. Returns how many parts were kept.
#[must_use]
pub fn fuzz_parse(bytes: &[u8]) -> usize {
    let caps = ParseCaps::default();
    let raw = RawMessage::new(bytes.to_vec());
    let message = Message::parse(&raw, &caps);
    let headers_alone = Message::from_headers(bytes, &caps);
    debug_assert_eq!(headers_alone.subject, message.subject);
    message.content(&raw, &caps, &email_router_crm::OrganizationSettings::default()).attachments.len()
}

/// Where the header section of a message stands.
pub(crate) fn section(message: &[u8]) -> Range<usize> {
    let start = leading_blank(message);
    start..start + header::section_end(&message[start..])
}

/// How much of a header section is read. It is cut behind a whole line, so that no field is read in half.
pub(crate) fn within_caps(section: &[u8], caps: &ParseCaps) -> usize {
    if section.len() <= caps.max_header_bytes {
        return section.len();
    }
    section[..caps.max_header_bytes].iter().rposition(|&b| b == b'\n').map_or(0, |n| n + 1)
}

/// Line ends and a byte order mark before the first field: some programs write them.
fn leading_blank(bytes: &[u8]) -> usize {
    let bom = if bytes.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    bom + bytes[bom..].iter().take_while(|b| matches!(b, b'\r' | b'\n')).count()
}

/// The values of the fields we read, found in one pass. Where a field must be unique (RFC 5322 3.6) the first counts.
#[derive(Default)]
struct RawFields<'a> {
    from: Vec<&'a [u8]>,
    to: Vec<&'a [u8]>,
    cc: Vec<&'a [u8]>,
    bcc: Vec<&'a [u8]>,
    reply_to: Vec<&'a [u8]>,
    envelope_to: Vec<&'a [u8]>,
    sender: Option<&'a [u8]>,
    subject: Option<&'a [u8]>,
    message_id: Option<&'a [u8]>,
    in_reply_to: Option<&'a [u8]>,
    references: Option<&'a [u8]>,
    thread_index: Option<&'a [u8]>,
    date: Option<&'a [u8]>,
    received: Option<&'a [u8]>,
    content_type: Option<&'a [u8]>,
    importance: Option<&'a [u8]>,
    x_priority: Option<&'a [u8]>,
    priority: Option<&'a [u8]>,
    subjects: usize,
    message_ids: usize,
    dates: usize,
    senders: usize,
}

impl<'a> RawFields<'a> {
    /// Fields that may stand once (RFC 5322 3.6) and are there again: two readers may well see two different messages.
    fn repeated(&self) -> impl Iterator<Item = &'static str> + use<> {
        let counts = [
            ("From", self.from.len()),
            ("Sender", self.senders),
            ("Subject", self.subjects),
            ("Message-ID", self.message_ids),
            ("Date", self.dates),
        ];
        counts.into_iter().filter(|(_, count)| *count > 1).map(|(name, _)| name)
    }

    /// Of the fields that hold text for people: subject and names.
    fn texts(&self) -> impl Iterator<Item = &'a [u8]> + use<'_, 'a> {
        [&self.from, &self.to, &self.cc, &self.bcc, &self.reply_to]
            .into_iter()
            .flatten()
            .chain(&self.sender)
            .chain(&self.subject)
            .copied()
    }

    fn note(&mut self, name: &[u8], value: &'a [u8]) {
        const LONGEST: usize = 13; // X-Original-To, X-Envelope-To
        if name.len() > LONGEST {
            return;
        }
        let mut lower = [0; LONGEST];
        let lower = &mut lower[..name.len()];
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        match &*lower {
            b"subject" => self.subjects += 1,
            b"message-id" => self.message_ids += 1,
            b"date" => self.dates += 1,
            b"sender" => self.senders += 1,
            _ => {}
        }
        let (list, single) = match &*lower {
            b"from" => (Some(&mut self.from), None),
            b"to" => (Some(&mut self.to), None),
            b"cc" => (Some(&mut self.cc), None),
            b"bcc" => (Some(&mut self.bcc), None),
            b"reply-to" => (Some(&mut self.reply_to), None),
            b"delivered-to" | b"x-original-to" | b"envelope-to" | b"x-envelope-to" => {
                (Some(&mut self.envelope_to), None)
            }
            b"sender" => (None, Some(&mut self.sender)),
            b"subject" => (None, Some(&mut self.subject)),
            b"message-id" => (None, Some(&mut self.message_id)),
            b"in-reply-to" => (None, Some(&mut self.in_reply_to)),
            b"references" => (None, Some(&mut self.references)),
            b"thread-index" => (None, Some(&mut self.thread_index)),
            b"date" => (None, Some(&mut self.date)),
            b"received" => (None, Some(&mut self.received)),
            b"content-type" => (None, Some(&mut self.content_type)),
            b"importance" => (None, Some(&mut self.importance)),
            b"x-priority" => (None, Some(&mut self.x_priority)),
            b"priority" => (None, Some(&mut self.priority)),
            _ => (None, None),
        };
        if let Some(list) = list {
            list.push(value);
        }
        if let Some(single) = single {
            // an empty first field does not hide a second one with content
            if single.is_none_or(|old| old.trim_ascii().is_empty()) {
                *single = Some(value);
            }
        }
    }
}

/// Turns values into what they say and collects what was wrong with them.
struct Reader<'c> {
    caps: &'c ParseCaps,
    raw_text: RawText,
    defects: Vec<String>,
    beyond_caps: bool,
}

impl Reader<'_> {
    /// A field that people write.
    fn text<'v>(&mut self, name: &str, value: &'v [u8]) -> Cow<'v, str> {
        let (text, read_as) = self.raw_text.read(value);
        if let Some(encoding) = read_as {
            self.defect(format!("{name} names no charset; it was read as {}", encoding.to_ascii_lowercase()));
        }
        text
    }

    /// A field that programs write: an id, a date. What an id says must not depend on how other fields were read.
    fn code<'v>(&mut self, name: &str, value: &'v [u8]) -> Cow<'v, str> {
        let (text, valid) = fields::utf8_or_1252(value);
        if !valid {
            self.defect(format!("{name} has bytes that are not UTF-8; they were read as windows-1252"));
        }
        text
    }

    fn defect(&mut self, defect: String) {
        if !self.defects.contains(&defect) {
            self.defects.push(defect);
        }
    }

    fn mailboxes(&mut self, name: &str, values: &[&[u8]]) -> Vec<Participant> {
        self.mailboxes_capped(name, values, self.caps.max_recipients)
    }

    fn mailboxes_capped(&mut self, name: &str, values: &[&[u8]], limit: usize) -> Vec<Participant> {
        let mut found = Vec::new();
        for value in values {
            let text = self.text(name, value);
            // one more than allowed, to see whether something is left out
            match fields::participants(&text, (limit - found.len().min(limit)).saturating_add(1)) {
                Some(more) => found.extend(more),
                None => self.defects.push(format!("{name} cannot be read")),
            }
            if found.len() > limit {
                found.truncate(limit);
                self.beyond_caps = true;
                self.defects
                    .push(format!("{name} names more recipients than the limit; the rest were left out"));
                break;
            }
        }
        found
    }

    fn subject(&mut self, value: Option<&[u8]>) -> String {
        let Some(value) = value else { return String::new() };
        let text = self.text("Subject", value);
        let decoded = fields::unstructured(&text).unwrap_or_else(|| {
            self.defects.push("Subject cannot be decoded; it is kept as written".to_owned());
            text.clone().into_owned()
        });
        if decoded.contains('\u{fffd}') && !text.contains('\u{fffd}') {
            self.defects.push("Subject has characters that its charset does not explain".to_owned());
        }
        let subject = fields::clean_line(&decoded, self.caps.max_subject_chars);
        // white space is put together, so only what is longer may have been cut
        if decoded.len() > self.caps.max_subject_chars
            && fields::clean_line(&decoded, usize::MAX).chars().count() > self.caps.max_subject_chars
        {
            self.beyond_caps = true;
            self.defects.push(format!("Subject was cut after {} characters", self.caps.max_subject_chars));
        }
        subject
    }

    fn ids(&mut self, name: &str, value: Option<&[u8]>, limit: usize) -> Vec<MessageId> {
        let Some(value) = value else { return Vec::new() };
        let text = self.code(name, value);
        // encoded words may not stand here (RFC 2047 5), but Python's standard library writes ids that are longer than a line so
        let decoded = if text.contains("=?") { fields::unstructured(&text) } else { None };
        let mut ids: Vec<MessageId> = MessageId::parse_list(decoded.as_deref().unwrap_or(&text)).collect();
        if ids.len() > limit {
            self.beyond_caps = true;
            self.defects.push(format!("{name} has {} ids; the last {limit} were looked at", ids.len()));
            ids.drain(..ids.len() - limit);
        }
        ids
    }

    fn date(&mut self, name: &str, value: &[u8]) -> Option<Timestamp> {
        let text = self.code(name, value);
        let date = fields::date(&text);
        if date.is_none() {
            self.defects.push(format!("{name} {:?} is no date", fields::clean_line(&text, 60)));
        }
        date
    }

    /// 22 bytes, then 5 for each reply (`crm-contract.md` 8.3). A longer chain than 200 replies is cut behind a whole entry.
    fn thread_index(&mut self, value: &[u8]) -> Option<String> {
        const ROOT: usize = 22;
        const LONGEST: usize = ROOT + 5 * 200;
        let bytes =
            fields::guarded(|| mail_parser::decoders::base64::base64_decode(value.trim_ascii())).flatten();
        match bytes {
            Some(bytes) if bytes.len() >= ROOT => {
                Some(email_router_model::raw::hex(&bytes[..bytes.len().min(LONGEST)]))
            }
            _ => {
                self.defects.push("Thread-Index cannot be read".to_owned());
                None
            }
        }
    }
}

fn priority(importance: Option<&[u8]>, x_priority: Option<&[u8]>, priority: Option<&[u8]>) -> Priority {
    let word = |value: Option<&[u8]>| {
        value.map(|v| String::from_utf8_lossy(v).trim().to_ascii_lowercase()).filter(|v| !v.is_empty())
    };
    // RFC 2156 5.3.4 (Importance) and 5.3.6 (Priority); X-Priority is custom: 1 highest to 5 lowest
    if let Some(word) = word(importance) {
        return match word.as_str() {
            "high" => Priority::High,
            "low" => Priority::Low,
            _ => Priority::Normal,
        };
    }
    if let Some(word) = word(x_priority) {
        return match word.as_bytes()[0] {
            b'1' | b'2' => Priority::High,
            b'4' | b'5' => Priority::Low,
            _ => Priority::Normal,
        };
    }
    match word(priority).as_deref() {
        Some("urgent") => Priority::High,
        Some("non-urgent") => Priority::Low,
        _ => Priority::Normal,
    }
}

#[cfg(test)]
mod tests;
