//! A message out of a stream as Internet mail (RFC 5322, RFC 2045).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::message::{Attachment, Content, Importance, Mailbox, Message, RecipientKind};

/// The longest line of base64 (RFC 2045 6.8).
const BASE64_LINE: usize = 76;

impl Message<'_> {
    /// Writes the message as RFC 5322 mail: its header section, its bodies as alternatives, its attachments behind them; a message
    /// within it as message/rfc822. Only ASCII, lines of at most 998 octets (other than a header section it came with, which is written as it is).
    /// The same message gives the same bytes.
    ///
    /// The header section is the one it came with through the Internet, where the stream has it, without its MIME fields; else it is made
    /// of the properties. `None` when the mail would be larger than `max_bytes`.
    #[must_use]
    pub fn to_internet_message(&self, max_bytes: usize) -> Option<Vec<u8>> {
        let estimate = self.estimate();
        if estimate > max_bytes {
            return None;
        }
        let mut out = Vec::with_capacity(estimate);
        self.write(&mut out, 0);
        (out.len() <= max_bytes).then_some(out)
    }

    /// At least the bytes of contents once they are written.
    fn estimate(&self) -> usize {
        let texts = [&self.text, &self.html].into_iter().flatten().map(String::len);
        let headers = self.transport_headers.as_ref().map_or(0, String::len);
        let rtf = self.rtf.as_ref().map_or(0, Vec::len);
        let encoded = |n: usize| n / 3 * 4 + n / 3 * 4 / BASE64_LINE * 2;
        let attachments = self.attachments.iter().map(|a| match &a.content {
            Content::Data(data) | Content::Ole(data) => encoded(data.len()),
            Content::Message(message) => message.estimate(), // no deeper than the limit of the reader
            Content::Missing => 0,
        });
        headers + texts.chain([rtf]).map(encoded).chain(attachments).sum::<usize>()
    }

    fn write(&self, out: &mut Vec<u8>, depth: usize) {
        self.write_header(out);
        line(out, "MIME-Version: 1.0");
        let attachments = || self.attachments.iter().filter(|a| a.content != Content::Missing);
        let mixed = self.rtf.is_some() || attachments().next().is_some();
        // base64 has no underscore, and messages within have other numbers: no boundary occurs in a part
        let boundary = format!("=_tnef_{depth}_mixed");
        if mixed {
            line(out, &format!("Content-Type: multipart/mixed; boundary=\"{boundary}\"\r\n"));
            line(out, &format!("--{boundary}"));
        }
        self.write_bodies(out, depth);
        if let Some(rtf) = &self.rtf {
            line(out, &format!("--{boundary}"));
            part(
                out,
                "application/rtf",
                "Content-Disposition: attachment; filename=\"message.rtf\"\r\n",
                rtf,
            );
        }
        for attachment in attachments() {
            line(out, &format!("--{boundary}"));
            attachment.write(out, depth);
        }
        if mixed {
            line(out, &format!("--{boundary}--"));
        }
    }

    fn write_bodies(&self, out: &mut Vec<u8>, depth: usize) {
        let text = |out: &mut Vec<u8>, kind: &str, text: &str| {
            part(out, &format!("text/{kind}; charset=utf-8"), "", text.as_bytes());
        };
        match (&self.text, &self.html) {
            (Some(plain), Some(html)) => {
                let boundary = format!("=_tnef_{depth}_alternative");
                line(out, &format!("Content-Type: multipart/alternative; boundary=\"{boundary}\"\r\n"));
                line(out, &format!("--{boundary}"));
                text(out, "plain", plain);
                line(out, &format!("--{boundary}"));
                text(out, "html", html);
                line(out, &format!("--{boundary}--"));
            }
            (None, Some(html)) => text(out, "html", html),
            (plain, None) => text(out, "plain", plain.as_deref().unwrap_or_default()),
        }
    }

    fn write_header(&self, out: &mut Vec<u8>) {
        let came_with = self.transport_headers.as_deref().map(fields_to_keep).unwrap_or_default();
        let has = |name: &str| came_with.iter().any(|f| field_is(f, name));
        let usable = has("From");
        if usable {
            for field in &came_with {
                line(out, field);
            }
        }
        let missing = |name: &str| !usable || !has(name);
        let mut people = |name: &str, mailboxes: &mut dyn Iterator<Item = &Mailbox>| {
            let written: Vec<String> = mailboxes.map(address).filter(|a| !a.is_empty()).collect();
            if !written.is_empty() && missing(name) {
                line(out, &format!("{name}: {}", written.join(",\r\n ")));
            }
        };
        people("From", &mut self.from.iter());
        people("Sender", &mut self.sender.iter());
        for (name, kind) in
            [("To", RecipientKind::To), ("Cc", RecipientKind::Cc), ("Bcc", RecipientKind::Bcc)]
        {
            people(name, &mut self.recipients.iter().filter(|r| r.kind == kind).map(|r| &r.mailbox));
        }
        if let Some(subject) = self.subject.as_deref().filter(|_| missing("Subject")) {
            line(out, &format!("Subject: {}", unstructured(subject)));
        }
        if let Some(sent) = self.sent.or(self.received).filter(|_| missing("Date")) {
            line(out, &format!("Date: {}", date(sent)));
        }
        let ids = |value: &Option<String>| {
            let text = value.as_deref().unwrap_or_default();
            let ids: Vec<&str> = text
                .split_ascii_whitespace()
                .filter(|id| id.len() <= 900 && id.bytes().all(|b| b.is_ascii_graphic()))
                .collect();
            ids.join("\r\n ")
        };
        for (name, value) in [
            ("Message-ID", &self.message_id),
            ("In-Reply-To", &self.in_reply_to),
            ("References", &self.references),
        ] {
            let value = ids(value);
            if !value.is_empty() && missing(name) {
                line(out, &format!("{name}: {value}"));
            }
        }
        let index = self.conversation_index.filter(|i| i.len() >= 22 && i.len() <= 690);
        if let Some(index) = index.filter(|_| missing("Thread-Index")) {
            line(out, &format!("Thread-Index: {}", BASE64.encode(index)));
        }
        let importance = match self.importance {
            Importance::Low => "low",
            Importance::High => "high",
            Importance::Normal => return,
        };
        if missing("Importance") {
            line(out, &format!("Importance: {importance}"));
        }
    }
}

impl Attachment<'_> {
    fn write(&self, out: &mut Vec<u8>, depth: usize) {
        let mut fields = format!(
            "Content-Disposition: {}{}\r\n",
            if self.inline { "inline" } else { "attachment" },
            self.name.as_deref().map(file_name).unwrap_or_default()
        );
        if let Some(id) = self.content_id.as_deref().filter(|id| is_plain(id)) {
            fields.push_str(&format!("Content-ID: <{id}>\r\n"));
        }
        if let Some(location) = self.content_location.as_deref().filter(|l| is_plain(l)) {
            fields.push_str(&format!("Content-Location: {location}\r\n"));
        }
        let mime_type = self.mime_type.as_deref().filter(|t| is_media_type(t));
        match &self.content {
            Content::Message(message) => {
                out.extend_from_slice(fields.as_bytes());
                line(out, "Content-Type: message/rfc822\r\n");
                message.write(out, depth + 1);
            }
            Content::Data(data) => part(out, mime_type.unwrap_or("application/octet-stream"), &fields, data),
            Content::Ole(data) => part(out, mime_type.unwrap_or("application/x-oleobject"), &fields, data),
            Content::Missing => {}
        }
    }
}

fn line(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// A part in base64; `fields` end with a line end.
fn part(out: &mut Vec<u8>, mime_type: &str, fields: &str, content: &[u8]) {
    line(out, &format!("Content-Type: {mime_type}\r\n{fields}Content-Transfer-Encoding: base64\r\n"));
    for chunk in content.chunks(BASE64_LINE / 4 * 3) {
        line(out, &BASE64.encode(chunk));
    }
}

/// The fields of a header section that still hold for a message that is written anew, unfolded lines kept as they are.
fn fields_to_keep(section: &str) -> Vec<String> {
    let mut fields: Vec<String> = Vec::new();
    let mut keep = false;
    for text in section.split('\n').map(|l| l.trim_end_matches('\r')) {
        let text: String = text.chars().filter(|c| *c == '\t' || !c.is_control()).collect();
        if text.is_empty() {
            break;
        }
        if text.starts_with([' ', '\t']) {
            if let (true, Some(last)) = (keep && !text.trim().is_empty(), fields.last_mut()) {
                last.push_str("\r\n");
                last.push_str(&text);
            }
            continue;
        }
        let name = text.split_once(':').map_or("", |(name, _)| name.trim_end());
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic());
        let lower = name.to_ascii_lowercase();
        keep = is_name && !lower.starts_with("content-") && lower != "mime-version";
        if keep {
            fields.push(text);
        }
    }
    fields
}

fn field_is(field: &str, name: &str) -> bool {
    field.split_once(':').is_some_and(|(n, _)| n.trim_end().eq_ignore_ascii_case(name))
}

/// A value on one line without controls, in encoded words (RFC 2047) where it is not plain ASCII.
fn unstructured(text: &str) -> String {
    const LONGEST_PLAIN: usize = 900;
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(2000).collect();
    let text = text.trim();
    if text.is_ascii() && text.len() <= LONGEST_PLAIN && !text.contains("=?") {
        return text.to_owned();
    }
    let mut words = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        // 45 octets make 60 of base64, which with "=?utf-8?B?" and "?=" stays below 75
        let mut cut = rest.len().min(45);
        while !rest.is_char_boundary(cut) {
            cut -= 1;
        }
        let (word, behind) = rest.split_at(cut);
        words.push(format!("=?utf-8?B?{}?=", BASE64.encode(word)));
        rest = behind;
    }
    words.join("\r\n ")
}

/// One mailbox of an address field; a name alone where there is no Internet address.
fn address(mailbox: &Mailbox) -> String {
    let address = mailbox.address.as_deref().filter(|a| {
        a.len() <= 320 && a.bytes().all(|b| b.is_ascii_graphic() && !b"<>,;:\"()\\".contains(&b))
    });
    let name = mailbox.name.as_deref().map(str::trim).filter(|n| !n.is_empty());
    let phrase = name.map(|name| {
        let plain = name.is_ascii() && !name.contains("=?") && !name.contains(|c: char| c.is_control());
        if plain && name.len() <= 200 {
            format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
        } else {
            unstructured(&name.chars().take(400).collect::<String>())
        }
    });
    match (phrase, address) {
        (Some(phrase), Some(address)) => format!("{phrase} <{address}>"),
        (None, Some(address)) => address.to_owned(),
        (Some(phrase), None) => phrase,
        (None, None) => String::new(),
    }
}

/// `; filename=...`, in the encoding of RFC 2231 where the name is not plain.
fn file_name(name: &str) -> String {
    let name: String = name.chars().filter(|c| !c.is_control()).take(255).collect();
    if name.is_ascii() && !name.contains(['"', '\\']) {
        return format!("; filename=\"{name}\"");
    }
    let encoded: String = name
        .bytes()
        .map(|b| {
            if b.is_ascii_alphanumeric() || b"-._".contains(&b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect();
    // 255 characters of four octets each make 3060 octets: in pieces, so that no line is too long
    let mut written = String::new();
    let mut rest = encoded.as_str();
    for number in 0.. {
        let mut cut = rest.len().min(600);
        // not within an escape
        if rest.len() > cut {
            cut -= rest[..cut].bytes().rev().take(2).position(|b| b == b'%').map_or(0, |n| n + 1);
        }
        let charset = if number == 0 { "utf-8''" } else { "" };
        written.push_str(&format!(";\r\n filename*{number}*={charset}{}", &rest[..cut]));
        rest = &rest[cut..];
        if rest.is_empty() {
            break;
        }
    }
    written
}

/// Whether it may be written into a header field as it is.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.len() <= 900 && text.bytes().all(|b| b.is_ascii_graphic())
}

fn is_media_type(text: &str) -> bool {
    let is_token = |t: &str| {
        !t.is_empty()
            && t.len() <= 127
            && t.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
    };
    let multipart_or_message =
        |kind: &str| kind.eq_ignore_ascii_case("multipart") || kind.eq_ignore_ascii_case("message");
    text.split_once('/').is_some_and(|(kind, sub)| {
        // in base64 neither may be (RFC 2046 5.1 and 5.2)
        is_token(kind) && is_token(sub) && !multipart_or_message(kind)
    })
}

/// Days from 1970-01-01 to a date of the Gregorian calendar; the year is counted from March, so that the leap day is its last.
pub(crate) fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// RFC 5322 3.3, in UTC.
fn date(seconds: i64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (day, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // the year that begins at or before the day: the estimate is right or one too large
    let mut year = 1970 + day.div_euclid(365);
    while days(year, 1, 1) > day {
        year -= 1;
    }
    let mut month = 12;
    while days(year, month, 1) > day {
        month -= 1;
    }
    format!(
        "{}, {:02} {} {year:04} {:02}:{:02}:{:02} +0000",
        DAYS[day.rem_euclid(7) as usize],
        day - days(year, month, 1) + 1,
        MONTHS[(month - 1) as usize],
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (seconds, expected) in [
            (0, "Thu, 01 Jan 1970 00:00:00 +0000"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 +0000"),
            (1_767_225_599, "Wed, 31 Dec 2025 23:59:59 +0000"),
            (253_402_300_799, "Fri, 31 Dec 9999 23:59:59 +0000"),
        ] {
            assert_eq!(date(seconds), expected);
        }
        assert_eq!(days(2000, 2, 29) * 86_400, 951_782_400);
        assert_eq!(days(1970, 1, 1), 0);
    }

    #[test]
    fn values() {
        assert_eq!(unstructured("a\r\nBcc: b"), "a  Bcc: b");
        assert_eq!(unstructured("é"), "=?utf-8?B?w6k=?=");
        let long = unstructured(&"ü".repeat(100));
        assert!(long.split("\r\n ").all(|w| w.len() <= 75 && w.starts_with("=?utf-8?B?")), "{long}");
        let mailbox = |name: &str, address: &str| {
            super::address(&Mailbox {
                name: Some(name.to_owned()).filter(|n| !n.is_empty()),
                address: Some(address.to_owned()).filter(|n| !n.is_empty()),
            })
        };
        assert_eq!(mailbox("Lee, \"Ann\"", "a@b.example"), "\"Lee, \\\"Ann\\\"\" <a@b.example>");
        assert_eq!(mailbox("", "a@b.example"), "a@b.example");
        assert_eq!(mailbox("Ann", "a@b.example>\r\nBcc: <c@d.example"), "\"Ann\"");
        assert_eq!(mailbox("", ""), "");
        assert_eq!(file_name("a b.txt"), "; filename=\"a b.txt\"");
        assert_eq!(file_name("ü\"\n.txt"), ";\r\n filename*0*=utf-8''%C3%BC%22.txt");
        let long = file_name(&"日".repeat(250));
        let pieces: String = long
            .split(";\r\n ")
            .skip(1)
            .map(|p| p.split_once("*=").unwrap().1.trim_start_matches("utf-8''"))
            .collect();
        assert_eq!(pieces, "%E6%97%A5".repeat(250));
        assert!(long.lines().all(|l| l.len() < 700), "{long}");
    }
}
