//! MAPI properties as TNEF writes them ([MS-OXTNEF] 2.1.3.4, `attMsgProps` and the like).

use std::borrow::Cow;

use crate::cursor::Cursor;
use crate::text;

/// Property ids ([MS-OXPROPS]).
pub(crate) mod id {
    pub(crate) const IMPORTANCE: u16 = 0x0017;
    pub(crate) const MESSAGE_CLASS: u16 = 0x001a;
    pub(crate) const SUBJECT: u16 = 0x0037;
    pub(crate) const CLIENT_SUBMIT_TIME: u16 = 0x0039;
    pub(crate) const SUBJECT_PREFIX: u16 = 0x003d;
    pub(crate) const SENT_REPRESENTING_NAME: u16 = 0x0042;
    pub(crate) const SENT_REPRESENTING_EMAIL_ADDRESS: u16 = 0x0065;
    pub(crate) const CONVERSATION_INDEX: u16 = 0x0071;
    pub(crate) const TRANSPORT_MESSAGE_HEADERS: u16 = 0x007d;
    pub(crate) const RECIPIENT_TYPE: u16 = 0x0c15;
    pub(crate) const SENDER_NAME: u16 = 0x0c1a;
    pub(crate) const SENDER_EMAIL_ADDRESS: u16 = 0x0c1f;
    pub(crate) const MESSAGE_DELIVERY_TIME: u16 = 0x0e06;
    pub(crate) const NORMALIZED_SUBJECT: u16 = 0x0e1d;
    pub(crate) const BODY: u16 = 0x1000;
    pub(crate) const RTF_COMPRESSED: u16 = 0x1009;
    pub(crate) const HTML: u16 = 0x1013;
    pub(crate) const INTERNET_MESSAGE_ID: u16 = 0x1035;
    pub(crate) const INTERNET_REFERENCES: u16 = 0x1039;
    pub(crate) const IN_REPLY_TO_ID: u16 = 0x1042;
    pub(crate) const DISPLAY_NAME: u16 = 0x3001;
    pub(crate) const EMAIL_ADDRESS: u16 = 0x3003;
    pub(crate) const ATTACH_DATA: u16 = 0x3701;
    pub(crate) const ATTACH_FILENAME: u16 = 0x3704;
    pub(crate) const ATTACH_METHOD: u16 = 0x3705;
    pub(crate) const ATTACH_LONG_FILENAME: u16 = 0x3707;
    pub(crate) const ATTACH_MIME_TAG: u16 = 0x370e;
    pub(crate) const ATTACH_CONTENT_ID: u16 = 0x3712;
    pub(crate) const ATTACH_CONTENT_LOCATION: u16 = 0x3713;
    pub(crate) const ATTACH_FLAGS: u16 = 0x3714;
    pub(crate) const SMTP_ADDRESS: u16 = 0x39fe;
    pub(crate) const INTERNET_CODEPAGE: u16 = 0x3fde;
    pub(crate) const MESSAGE_CODEPAGE: u16 = 0x3ffd;
    pub(crate) const SENDER_SMTP_ADDRESS: u16 = 0x5d01;
    pub(crate) const SENT_REPRESENTING_SMTP_ADDRESS: u16 = 0x5d02;
    pub(crate) const ATTACHMENT_HIDDEN: u16 = 0x7ffe;

    /// All of the above: the ones that are kept.
    pub(crate) const WANTED: &[u16] = &[
        IMPORTANCE,
        MESSAGE_CLASS,
        SUBJECT,
        CLIENT_SUBMIT_TIME,
        SUBJECT_PREFIX,
        SENT_REPRESENTING_NAME,
        SENT_REPRESENTING_EMAIL_ADDRESS,
        CONVERSATION_INDEX,
        TRANSPORT_MESSAGE_HEADERS,
        RECIPIENT_TYPE,
        SENDER_NAME,
        SENDER_EMAIL_ADDRESS,
        MESSAGE_DELIVERY_TIME,
        NORMALIZED_SUBJECT,
        BODY,
        RTF_COMPRESSED,
        HTML,
        INTERNET_MESSAGE_ID,
        INTERNET_REFERENCES,
        IN_REPLY_TO_ID,
        DISPLAY_NAME,
        EMAIL_ADDRESS,
        ATTACH_DATA,
        ATTACH_FILENAME,
        ATTACH_METHOD,
        ATTACH_LONG_FILENAME,
        ATTACH_MIME_TAG,
        ATTACH_CONTENT_ID,
        ATTACH_CONTENT_LOCATION,
        ATTACH_FLAGS,
        SMTP_ADDRESS,
        INTERNET_CODEPAGE,
        MESSAGE_CODEPAGE,
        SENDER_SMTP_ADDRESS,
        SENT_REPRESENTING_SMTP_ADDRESS,
        ATTACHMENT_HIDDEN,
    ];
}

/// The value of a property; of several values the first.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value<'a> {
    /// Integer, Boolean or time, as its bits.
    Number(u64),
    /// In the code page of its message.
    Narrow(&'a [u8]),
    /// In UTF-16.
    Wide(&'a [u8]),
    Binary(&'a [u8]),
    /// An interface id, which says what the bytes are, and the bytes.
    Object(&'a [u8], &'a [u8]),
}

/// The properties of one object that we want; of several with one id the first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Properties<'a>(Vec<(u16, Value<'a>)>);

impl<'a> Properties<'a> {
    pub(crate) fn get(&self, id: u16) -> Option<Value<'a>> {
        self.0.iter().find(|(i, _)| *i == id).map(|(_, v)| *v)
    }

    /// A text that is not empty.
    pub(crate) fn text(&self, id: u16, code_page: u32) -> Option<Cow<'a, str>> {
        let text = match self.get(id)? {
            Value::Narrow(bytes) => text::decode(bytes, code_page),
            Value::Wide(bytes) => Cow::Owned(text::decode_wide(bytes)),
            _ => return None,
        };
        Some(text).filter(|t| !t.is_empty())
    }

    pub(crate) fn number(&self, id: u16) -> Option<u64> {
        match self.get(id)? {
            Value::Number(n) => Some(n),
            _ => None,
        }
    }

    pub(crate) fn code_page(&self, id: u16) -> Option<u32> {
        self.number(id).and_then(|n| u32::try_from(n).ok()).filter(|n| *n != 0)
    }

    /// Seconds since 1970 of a time (PT_SYSTIME counts tenths of a microsecond since 1601).
    pub(crate) fn time(&self, id: u16) -> Option<i64> {
        const FROM_1601_TO_1970: i64 = 11_644_473_600;
        const YEAR_10000: i64 = 253_402_300_800;
        let seconds = i64::try_from(self.number(id)? / 10_000_000).ok()? - FROM_1601_TO_1970;
        (1..YEAR_10000).contains(&seconds).then_some(seconds)
    }

    /// Adds a list of properties: a count, then each with its tag. `false` when the list breaks off or holds a type that cannot be
    /// passed over; what stands before it counts.
    pub(crate) fn read(&mut self, cursor: &mut Cursor<'a>) -> bool {
        let Some(count) = cursor.u32() else { return false };
        for _ in 0..count {
            let Some((id, value)) = property(cursor) else { return false };
            if let Some(value) = value
                && id::WANTED.contains(&id)
                && self.get(id).is_none()
            {
                self.0.push((id, value));
            }
        }
        true
    }
}

/// Set in the type of a property with several values.
const MULTIPLE: u16 = 0x1000;

/// One property; its value is `None` when it has none or is of a type that we have no use for. `None`: broken.
fn property<'a>(cursor: &mut Cursor<'a>) -> Option<(u16, Option<Value<'a>>)> {
    let (kind, mut id) = (cursor.u16()?, cursor.u16()?);
    if id >= 0x8000 {
        // a named property: its set, and its number or its name in UTF-16, padded to four bytes
        cursor.take(16)?;
        if cursor.u32()? == 0 {
            cursor.u32()?;
        } else {
            let length = cursor.u32()?;
            padded(cursor, length)?;
        }
        id = 0; // none that we want
    }
    let base = kind & !MULTIPLE;
    let variable = matches!(base, 0x000d | 0x001e | 0x001f | 0x0102);
    let count = if kind & MULTIPLE != 0 || variable { cursor.u32()? } else { 1 };
    let mut first = None;
    for _ in 0..count {
        let value = match base {
            0x0000 | 0x0001 => return Some((id, None)),
            // two bytes and two of padding
            0x0002 | 0x000b => Some(Value::Number(u64::from(cursor.u32()? & 0xffff))),
            0x0003 | 0x000a | 0x0004 => Some(Value::Number(u64::from(cursor.u32()?))),
            0x0005..=0x0007 | 0x0014 | 0x0040 => Some(Value::Number(cursor.u64()?)),
            0x0048 => {
                cursor.take(16)?;
                None
            }
            0x001e => Some(Value::Narrow(sized(cursor)?)),
            0x001f => Some(Value::Wide(sized(cursor)?)),
            0x0102 => Some(Value::Binary(sized(cursor)?)),
            0x000d => sized(cursor)?.split_at_checked(16).map(|(kind, data)| Value::Object(kind, data)),
            _ => return None,
        };
        first = first.or(value);
    }
    Some((id, first))
}

fn sized<'a>(cursor: &mut Cursor<'a>) -> Option<&'a [u8]> {
    let length = cursor.u32()?;
    padded(cursor, length)
}

/// So many bytes, and the padding behind them, which some writers leave out at the end.
fn padded<'a>(cursor: &mut Cursor<'a>, length: u32) -> Option<&'a [u8]> {
    let length = usize::try_from(length).ok()?;
    let bytes = cursor.take(length)?;
    let padding = length.wrapping_neg() % 4;
    if cursor.take(padding).is_none() {
        cursor.take(cursor.rest().len());
    }
    Some(bytes)
}
