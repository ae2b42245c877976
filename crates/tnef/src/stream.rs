//! The stream: attributes of a message and of its attachments ([MS-OXTNEF] 2.1.3).

use std::borrow::Cow;

use crate::cursor::Cursor;
use crate::message::{Attachment, Content, Importance, Mailbox, Message, Recipient, RecipientKind};
use crate::properties::{Properties, Value, id};
use crate::rtf::{self, Body};
use crate::{Limits, SIGNATURE, text};

/// Attribute ids: the type in the high half, the name in the low half ([MS-OXTNEF] 2.1.3.3).
mod attribute {
    pub(super) const FROM: u32 = 0x0000_8000;
    pub(super) const SUBJECT: u32 = 0x0001_8004;
    pub(super) const MESSAGE_ID: u32 = 0x0001_8009;
    pub(super) const ATTACH_TITLE: u32 = 0x0001_8010;
    pub(super) const BODY: u32 = 0x0002_800c;
    pub(super) const DATE_SENT: u32 = 0x0003_8005;
    pub(super) const DATE_RECEIVED: u32 = 0x0003_8006;
    pub(super) const ATTACH_DATA: u32 = 0x0006_800f;
    pub(super) const ATTACH_TRANSPORT_FILENAME: u32 = 0x0006_9001;
    pub(super) const ATTACH_RENDERING: u32 = 0x0006_9002;
    pub(super) const MESSAGE_PROPERTIES: u32 = 0x0006_9003;
    pub(super) const RECIPIENTS: u32 = 0x0006_9004;
    pub(super) const ATTACHMENT_PROPERTIES: u32 = 0x0006_9005;
    pub(super) const OEM_CODE_PAGE: u32 = 0x0006_9007;
    pub(super) const MESSAGE_CLASS: u32 = 0x0007_8008;
}

/// Interface ids of objects in attachments, as they stand there.
const IID_MESSAGE: [u8; 16] = [0x07, 0x03, 0x02, 0, 0, 0, 0, 0, 0xc0, 0, 0, 0, 0, 0, 0, 0x46];

/// Attachment methods (PidTagAttachMethod).
const BY_REFERENCE: std::ops::RangeInclusive<u64> = 2..=4;
const EMBEDDED_MESSAGE: u64 = 5;
const OLE: u64 = 6;

/// What all streams of one reading share: limits, what is used of them, what was found wrong.
#[derive(Debug)]
pub(crate) struct Context<'l> {
    limits: &'l Limits,
    attachments: usize,
    recipients: usize,
    decoded: usize,
    pub(crate) defects: Vec<String>,
}

impl<'l> Context<'l> {
    pub(crate) fn new(limits: &'l Limits) -> Self {
        Self { limits, attachments: 0, recipients: 0, decoded: 0, defects: Vec::new() }
    }

    fn defect(&mut self, text: impl Into<String>) {
        const MOST: usize = 50;
        if self.defects.len() < MOST {
            let text = text.into();
            if !self.defects.contains(&text) {
                self.defects.push(text);
            }
        }
    }
}

/// The attributes of one stream, not yet decoded: the code page may stand behind what it is for.
#[derive(Default)]
struct Draft<'a> {
    code_page: Option<u32>,
    class: Option<&'a [u8]>,
    subject: Option<&'a [u8]>,
    message_id: Option<&'a [u8]>,
    from: Option<&'a [u8]>,
    body: Option<&'a [u8]>,
    sent: Option<i64>,
    received: Option<i64>,
    properties: Properties<'a>,
    recipients: Vec<Properties<'a>>,
    attachments: Vec<DraftAttachment<'a>>,
    /// The attachment that the attributes speak of is one too many.
    passing_over: bool,
}

#[derive(Default)]
struct DraftAttachment<'a> {
    ole: bool,
    title: Option<&'a [u8]>,
    transport_name: Option<&'a [u8]>,
    data: Option<&'a [u8]>,
    properties: Properties<'a>,
}

/// Reads a stream; `None` when it is not one. `depth` counts the streams around it.
pub(crate) fn read<'a>(bytes: &'a [u8], context: &mut Context<'_>, depth: usize) -> Option<Message<'a>> {
    let mut cursor = Cursor::new(bytes);
    if cursor.u32()? != SIGNATURE {
        return None;
    }
    cursor.u16()?; // a key for old clients
    let mut draft = Draft::default();
    // whatever follows the last whole attribute is too short to be one
    while !cursor.is_empty() {
        let Some((what, data)) = attribute(&mut cursor, context) else { break };
        draft.note(what, data, context);
    }
    Some(draft.finish(context, depth))
}

/// The next attribute: its id and its bytes. Its level is not looked at: the id says it as well.
fn attribute<'a>(cursor: &mut Cursor<'a>, context: &mut Context<'_>) -> Option<(u32, &'a [u8])> {
    let header = (|| Some((cursor.u8()?, cursor.u32()?, cursor.u32()?)))();
    let Some((level, what, length)) = header else {
        context.defect("the stream ends within an attribute");
        return None;
    };
    if !matches!(level, 1 | 2) {
        context.defect("something that is no attribute stands in the stream; what follows was not read");
        return None;
    }
    let Some(data) = usize::try_from(length).ok().and_then(|length| cursor.take(length)) else {
        context.defect("the stream ends within an attribute");
        return cursor.take(cursor.rest().len()).map(|rest| (what, rest));
    };
    let sum = data.iter().fold(0_u16, |sum, &b| sum.wrapping_add(u16::from(b)));
    match cursor.u16() {
        Some(checksum) if checksum == sum => {}
        Some(_) => context.defect("a checksum is wrong"),
        None => context.defect("the stream ends within an attribute"),
    }
    Some((what, data))
}

impl<'a> Draft<'a> {
    fn note(&mut self, what: u32, data: &'a [u8], context: &mut Context<'_>) {
        match what {
            attribute::OEM_CODE_PAGE => {
                self.code_page = Cursor::new(data).u32().filter(|n| *n != 0).or(self.code_page);
            }
            attribute::MESSAGE_CLASS => self.class = self.class.or(Some(data)),
            attribute::SUBJECT => self.subject = self.subject.or(Some(data)),
            attribute::MESSAGE_ID => self.message_id = self.message_id.or(Some(data)),
            attribute::FROM => self.from = self.from.or(Some(data)),
            attribute::BODY => self.body = self.body.or(Some(data)),
            attribute::DATE_SENT => self.sent = self.sent.or(date(data)),
            attribute::DATE_RECEIVED => self.received = self.received.or(date(data)),
            attribute::MESSAGE_PROPERTIES if !self.properties.read(&mut Cursor::new(data)) => {
                context.defect("the properties of the message break off");
            }
            attribute::RECIPIENTS => self.read_recipients(data, context),
            attribute::ATTACH_RENDERING => {
                let ole = Cursor::new(data).u16() == Some(2);
                if let Some(a) = self.begin_attachment(context) {
                    a.ole = ole;
                }
            }
            attribute::ATTACH_TITLE => {
                if let Some(a) = self.attachment(context) {
                    a.title = a.title.or(Some(data));
                }
            }
            attribute::ATTACH_TRANSPORT_FILENAME => {
                if let Some(a) = self.attachment(context) {
                    a.transport_name = a.transport_name.or(Some(data));
                }
            }
            attribute::ATTACH_DATA => {
                if let Some(a) = self.attachment(context) {
                    a.data = a.data.or(Some(data));
                }
            }
            attribute::ATTACHMENT_PROPERTIES => {
                let whole =
                    self.attachment(context).is_none_or(|a| a.properties.read(&mut Cursor::new(data)));
                if !whole {
                    context.defect("the properties of an attachment break off");
                }
            }
            _ => {}
        }
    }

    /// The attachment that the attributes speak of; opened here when a writer left out the attribute that begins one.
    fn attachment(&mut self, context: &mut Context<'_>) -> Option<&mut DraftAttachment<'a>> {
        if self.passing_over {
            return None;
        }
        if self.attachments.is_empty() {
            return self.begin_attachment(context);
        }
        self.attachments.last_mut()
    }

    fn begin_attachment(&mut self, context: &mut Context<'_>) -> Option<&mut DraftAttachment<'a>> {
        let most = context.limits.max_attachments;
        self.passing_over = context.attachments >= most;
        if self.passing_over {
            context.defect(format!("there are more attachments than the {most} that are read"));
            return None;
        }
        context.attachments += 1;
        self.attachments.push(DraftAttachment::default());
        self.attachments.last_mut()
    }

    fn read_recipients(&mut self, data: &'a [u8], context: &mut Context<'_>) {
        let most = context.limits.max_recipients;
        let mut cursor = Cursor::new(data);
        for _ in 0..cursor.u32().unwrap_or(0) {
            if context.recipients >= most {
                return context.defect(format!("there are more recipients than the {most} that are read"));
            }
            let mut row = Properties::default();
            let whole = row.read(&mut cursor);
            context.recipients += 1;
            self.recipients.push(row);
            if !whole {
                return context.defect("the list of recipients breaks off");
            }
        }
    }

    fn finish(self, context: &mut Context<'_>, depth: usize) -> Message<'a> {
        let p = &self.properties;
        let page = self.code_page.or_else(|| p.code_page(id::MESSAGE_CODEPAGE)).unwrap_or(text::WINDOWS_1252);
        let narrow = |bytes: Option<&'a [u8]>| {
            bytes.map(|b| text::decode(b, page).into_owned()).filter(|t| !t.is_empty())
        };
        let text = |id: u16| p.text(id, page).map(Cow::into_owned);
        let mailbox = |name: u16, address: u16, internet: u16| {
            let address = text(internet).or_else(|| text(address)).and_then(|a| internet_address(&a));
            let found = Mailbox { name: text(name), address };
            (found != Mailbox::default()).then_some(found)
        };
        let sender = mailbox(id::SENDER_NAME, id::SENDER_EMAIL_ADDRESS, id::SENDER_SMTP_ADDRESS)
            .or_else(|| trp(self.from?, page));
        let from = mailbox(
            id::SENT_REPRESENTING_NAME,
            id::SENT_REPRESENTING_EMAIL_ADDRESS,
            id::SENT_REPRESENTING_SMTP_ADDRESS,
        );
        let (from, sender) = match (from, sender) {
            (Some(from), Some(sender)) if from.address == sender.address => (Some(from), None),
            (Some(from), sender) => (Some(from), sender),
            (None, sender) => (sender, None),
        };
        let subject = text(id::SUBJECT).or_else(|| {
            let rest = text(id::NORMALIZED_SUBJECT)?;
            Some(format!("{}{rest}", text(id::SUBJECT_PREFIX).unwrap_or_default()))
        });
        let mut message = Message {
            class: text(id::MESSAGE_CLASS).or_else(|| narrow(self.class)),
            subject: subject.or_else(|| narrow(self.subject)),
            from,
            sender,
            recipients: self.recipients.iter().filter_map(|row| recipient(row, page)).collect(),
            sent: p.time(id::CLIENT_SUBMIT_TIME).or(self.sent),
            received: p.time(id::MESSAGE_DELIVERY_TIME).or(self.received),
            // attMessageID is the search key in hexadecimal in most streams; only what looks like a Message-ID is one
            message_id: text(id::INTERNET_MESSAGE_ID)
                .or_else(|| narrow(self.message_id).filter(|id| id.starts_with('<') && id.contains('@'))),
            in_reply_to: text(id::IN_REPLY_TO_ID),
            references: text(id::INTERNET_REFERENCES),
            conversation_index: match p.get(id::CONVERSATION_INDEX) {
                Some(Value::Binary(bytes)) => Some(bytes),
                _ => None,
            },
            importance: match p.number(id::IMPORTANCE) {
                Some(0) => Importance::Low,
                Some(2) => Importance::High,
                _ => Importance::Normal,
            },
            transport_headers: text(id::TRANSPORT_MESSAGE_HEADERS),
            text: text(id::BODY).or_else(|| narrow(self.body)),
            html: None,
            rtf: None,
            attachments: Vec::new(),
        };
        let internet_page = p.code_page(id::INTERNET_CODEPAGE);
        message.html = match p.get(id::HTML) {
            Some(Value::Binary(bytes)) => Some(text::decode_html(bytes, internet_page, page)),
            Some(_) => text(id::HTML),
            None => None,
        }
        .filter(|t| !t.is_empty());
        if let (Some(Value::Binary(rtf)), None) = (p.get(id::RTF_COMPRESSED), &message.html) {
            read_rtf(rtf, &mut message, context);
        }
        message.attachments = self.attachments.into_iter().map(|a| a.finish(page, context, depth)).collect();
        message
    }
}

/// The body that a compressed RTF carries.
fn read_rtf(compressed: &[u8], message: &mut Message<'_>, context: &mut Context<'_>) {
    let left = context.limits.max_decoded_bytes.saturating_sub(context.decoded);
    let found = match rtf::decompress(compressed, left) {
        Ok(found) => found,
        Err(problem) => return context.defect(format!("the formatted body cannot be read: {problem}")),
    };
    context.decoded += found.rtf.len();
    if let Some(problem) = found.problem {
        context.defect(format!("the formatted body: {problem}"));
    }
    let left = context.limits.max_decoded_bytes.saturating_sub(context.decoded);
    let (body, whole) = rtf::body(&found.rtf, left);
    if !whole {
        context.defect("the formatted body is longer than what is read of it");
    }
    let (Body::Html(text) | Body::Text(text) | Body::Rtf(text)) = &body;
    context.decoded += text.len();
    match body {
        Body::Html(html) => message.html = Some(html).filter(|t| !t.is_empty()),
        Body::Text(text) => message.text = message.text.take().or(Some(text).filter(|t| !t.is_empty())),
        Body::Rtf(text) => {
            message.text = message.text.take().or(Some(text).filter(|t| !t.trim().is_empty()));
            message.rtf = Some(found.rtf);
        }
    }
}

impl<'a> DraftAttachment<'a> {
    fn finish(self, page: u32, context: &mut Context<'_>, depth: usize) -> Attachment<'a> {
        let p = &self.properties;
        let text = |id: u16| p.text(id, page).map(Cow::into_owned);
        let narrow = |bytes: Option<&'a [u8]>| {
            bytes.map(|b| text::decode(b, page).into_owned()).filter(|t| !t.is_empty())
        };
        let method = p.number(id::ATTACH_METHOD).unwrap_or(0);
        let mut mime_type = text(id::ATTACH_MIME_TAG);
        let content = match p.get(id::ATTACH_DATA) {
            Some(Value::Object(kind, data)) if kind == IID_MESSAGE || method == EMBEDDED_MESSAGE => {
                match message(data, context, depth + 1) {
                    Some(message) => Content::Message(Box::new(message)),
                    None => {
                        mime_type = Some("application/ms-tnef".to_owned());
                        Content::Data(data)
                    }
                }
            }
            Some(Value::Object(_, data)) => Content::Ole(data),
            // where both are there, the property is the later one
            Some(Value::Binary(data)) if self.data.is_none() || !data.is_empty() => Content::Data(data),
            _ => match self.data {
                Some(data) if self.ole || method == OLE => Content::Ole(data),
                Some(data) => Content::Data(data),
                None => {
                    context.defect(if BY_REFERENCE.contains(&method) {
                        "an attachment is only a reference to a file elsewhere"
                    } else {
                        "an attachment has no content"
                    });
                    Content::Missing
                }
            },
        };
        let shown = p.number(id::ATTACH_FLAGS).is_some_and(|flags| flags & 4 != 0);
        let hidden = p.number(id::ATTACHMENT_HIDDEN).is_some_and(|n| n != 0);
        let content_id = text(id::ATTACH_CONTENT_ID)
            .map(|c| c.trim().trim_matches(['<', '>']).to_owned())
            .filter(|c| !c.is_empty());
        Attachment {
            name: text(id::ATTACH_LONG_FILENAME)
                .or_else(|| narrow(self.transport_name))
                .or_else(|| narrow(self.title))
                .or_else(|| text(id::ATTACH_FILENAME))
                .or_else(|| text(id::DISPLAY_NAME)),
            mime_type,
            inline: shown || (hidden && content_id.is_some()),
            content_id,
            content_location: text(id::ATTACH_CONTENT_LOCATION),
            content,
        }
    }
}

/// A message in an attachment, unless it is nested too deep or cannot be read.
fn message<'a>(data: &'a [u8], context: &mut Context<'_>, depth: usize) -> Option<Message<'a>> {
    if depth > context.limits.max_depth {
        context
            .defect(format!("messages nested deeper than {} were not taken apart", context.limits.max_depth));
        return None;
    }
    let found = read(data, context, depth);
    if found.is_none() {
        context.defect("an attached message cannot be read");
    }
    found
}

fn recipient(row: &Properties<'_>, page: u32) -> Option<Recipient> {
    let kind = match row.number(id::RECIPIENT_TYPE).unwrap_or(1) & 0xf {
        0 => return None, // the originator
        2 => RecipientKind::Cc,
        3 => RecipientKind::Bcc,
        _ => RecipientKind::To,
    };
    let text = |id: u16| row.text(id, page);
    let address =
        text(id::SMTP_ADDRESS).or_else(|| text(id::EMAIL_ADDRESS)).and_then(|a| internet_address(&a));
    let mailbox = Mailbox { name: text(id::DISPLAY_NAME).map(Cow::into_owned), address };
    (mailbox != Mailbox::default()).then_some(Recipient { kind, mailbox })
}

/// An address of the Internet; not one of an Exchange directory (`/o=...`).
fn internet_address(text: &str) -> Option<String> {
    const PREFIX: &str = "smtp:";
    let text = text.trim();
    let text = match text.get(..PREFIX.len()) {
        Some(prefix) if prefix.eq_ignore_ascii_case(PREFIX) => &text[PREFIX.len()..],
        _ => text,
    };
    (text.contains('@') && !text.starts_with('/')).then(|| text.to_owned())
}

/// The sender in its old form ([MS-OXTNEF] 2.1.3.3.10): sizes, then name and address with its type, each with a NUL.
fn trp(bytes: &[u8], page: u32) -> Option<Mailbox> {
    let mut cursor = Cursor::new(bytes);
    cursor.take(4)?;
    let (name, address) = (cursor.u16()?, cursor.u16()?);
    let name = text::decode(cursor.take(name.into())?, page);
    let address = text::decode(cursor.take(address.into())?, page);
    let found = Mailbox {
        name: Some(name.into_owned()).filter(|n| !n.is_empty()),
        address: internet_address(&address),
    };
    (found != Mailbox::default()).then_some(found)
}

/// Year, month, day, hour, minute, second, day of the week, two bytes each, as seconds since 1970.
fn date(bytes: &[u8]) -> Option<i64> {
    let mut cursor = Cursor::new(bytes);
    let mut next = || cursor.u16().map(i64::from);
    let (year, month, day, hour, minute, second) = (next()?, next()?, next()?, next()?, next()?, next()?);
    let valid = (1970..10_000).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second < 61;
    valid.then(|| crate::internet::days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}
