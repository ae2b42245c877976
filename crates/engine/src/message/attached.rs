//! The original messages in a message that a rule forwarded "as an attachment".

use bytes::Bytes;
use email_router_model::{Headers, RawMessage};

use super::mime::{self, Part};
use super::{decode, fields, file_name, leading_blank};
use crate::ParseCaps;

/// At most this many attached messages are routed; a rule attaches one.
const MAX_ATTACHED: usize = 100;
/// At most this much of a text is searched for the marks of an inline forward.
const MAX_TEXT: usize = 64 * 1024;

/// What a message from a forward mailbox holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Attached {
    /// The attached messages, in order.
    pub messages: Vec<RawMessage>,
    /// Attached messages that cannot be routed, and why, one line each.
    pub unusable: Vec<String>,
    /// Whether the text looks like a message that was forwarded in the text, not as an attachment.
    pub looks_inline: bool,
}

impl Attached {
    /// Looks for attached messages: `message/rfc822` and `message/global`, also encoded with base64 against RFC 2046 5.2.1; files called
    /// `.eml` of whatever type; messages within `winmail.dat`.
    #[must_use]
    pub fn read(raw: &RawMessage, caps: &ParseCaps) -> Self {
        let bytes = raw.bytes();
        let structure = mime::split(bytes, leading_blank(bytes), caps);
        let mut found = Self::default();
        for part in structure.parts.iter().filter(|p| !p.is_multipart) {
            found.part(bytes, part, raw, caps);
        }
        if structure.left_out > 0 {
            found.unusable.push(format!("{} parts beyond the limit were not looked at", structure.left_out));
        }
        if found.messages.is_empty() {
            found.looks_inline = structure
                .parts
                .iter()
                .filter(|p| !p.is_multipart && p.mime_type.starts_with("text/"))
                .any(|part| looks_inline(&decode::body(bytes, part).0));
        }
        found
    }

    fn part(&mut self, bytes: &Bytes, part: &Part, wrapper: &RawMessage, caps: &ParseCaps) {
        let name = part.file_name.as_deref().and_then(file_name::sanitize);
        let is_eml =
            name.as_deref().and_then(file_name::extension).is_some_and(|e| e.eq_ignore_ascii_case("eml"));
        let is_tnef = matches!(part.mime_type.as_str(), "application/ms-tnef" | "application/vnd.ms-tnef")
            || name.as_deref().is_some_and(|n| n.eq_ignore_ascii_case("winmail.dat"));
        if matches!(part.mime_type.as_str(), "message/rfc822" | "message/global") || is_eml {
            self.add(decode::body(bytes, part).0, wrapper, name.as_deref().unwrap_or("the attached message"));
        } else if is_tnef {
            self.tnef(&decode::body(bytes, part).0, wrapper, caps);
        }
    }

    /// Messages attached within a `winmail.dat`: written anew as Internet messages, since they exist nowhere else.
    fn tnef(&mut self, bytes: &[u8], wrapper: &RawMessage, caps: &ParseCaps) {
        let Ok(tnef) = email_router_tnef::parse(bytes, &email_router_tnef::Limits::default()) else {
            self.unusable.push("winmail.dat cannot be read".to_owned());
            return;
        };
        for attachment in &tnef.message.attachments {
            let name = attachment.name.as_deref().unwrap_or("a message in winmail.dat");
            match &attachment.content {
                email_router_tnef::Content::Message(message) => {
                    // what an Internet message of these parts may have at the most: the stream, encoded with base64
                    let most = bytes.len().saturating_mul(3).saturating_add(caps.max_header_bytes);
                    match message.to_internet_message(most) {
                        Some(written) => self.add(written.into(), wrapper, name),
                        None => self.unusable.push(format!("{name} in winmail.dat is too large")),
                    }
                }
                email_router_tnef::Content::Data(data)
                    if file_name::extension(name).is_some_and(|e| e.eq_ignore_ascii_case("eml")) =>
                {
                    self.add(Bytes::copy_from_slice(data), wrapper, name);
                }
                _ => {}
            }
        }
    }

    fn add(&mut self, content: Bytes, wrapper: &RawMessage, name: &str) {
        let skip = leading_blank(&content);
        let name = fields::clean_line(name, 100);
        // a message has at least an author or an identity
        let headers = Headers::new(&content[skip..]);
        let [is_message, has_received] = [&["From", "Message-ID"][..], &["Received"]]
            .map(|names| names.iter().any(|n| headers.get(n).is_some()));
        if !is_message {
            self.unusable.push(format!("{name} has neither From nor Message-ID, so it is no message"));
        } else if self.messages.len() >= MAX_ATTACHED {
            self.unusable.push(format!("{name} is beyond the {MAX_ATTACHED} that are looked at"));
        } else {
            let mut message = RawMessage::new(content);
            // what the original's own Received fields say comes first; they are read with it
            message.received = wrapper.received.filter(|_| !has_received);
            self.messages.push(message);
        }
    }
}

/// The lines that mail programs put above a message that they forward in the text.
fn looks_inline(body: &[u8]) -> bool {
    let text = fields::utf8_or_1252(&body[..body.len().min(MAX_TEXT)]).0.to_lowercase();
    ["-----original message-----", "begin forwarded message:", "---------- forwarded message", "-------- forwarded message"]
        .iter()
        .any(|mark| text.contains(mark))
        // Outlook writes the fields alone, one a line
        || text.lines().any(|line| line.trim_start().starts_with("from:"))
            && text.lines().any(|line| line.trim_start().starts_with("sent:") || line.trim_start().starts_with("date:"))
            && text.lines().any(|line| line.trim_start().starts_with("subject:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Attached {
        Attached::read(&RawMessage::new(text.replace('\n', "\r\n").into_bytes()), &ParseCaps::default())
    }
    fn subjects(found: &Attached) -> Vec<String> {
        found.messages.iter().map(|m| m.headers().get("Subject").unwrap_or_default()).collect()
    }

    const HEAD: &str = "From: ann@shop.example\nTo: forward@shop.example\nSubject: FW: x\nContent-Type: multipart/mixed; boundary=b\n\n";

    #[test]
    fn every_form_of_attachment() {
        let inner = "From: bob@x.example\nSubject: one\n\nbody\n";
        let base64 = "RnJvbTogYm9iQHguZXhhbXBsZQ0KU3ViamVjdDogb25lDQoNCmJvZHkNCg==\n";
        for (what, part) in [
            ("plain", format!("Content-Type: message/rfc822\n\n{inner}")),
            ("international", format!("Content-Type: message/global\n\n{inner}")),
            (
                "base64 against the rule",
                format!("Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\n{base64}"),
            ),
            (
                "as a file",
                format!(
                    "Content-Type: application/octet-stream; name=\"a.EML\"\nContent-Transfer-Encoding: base64\n\n{base64}"
                ),
            ),
            (
                "as a text file",
                format!(
                    "Content-Type: text/plain\nContent-Disposition: attachment; filename=a.eml\n\n{inner}"
                ),
            ),
        ] {
            let found = read(&format!("{HEAD}--b\n\nsee attached\n--b\n{part}\n--b--\n"));
            assert_eq!(subjects(&found), ["one"], "{what}");
            assert_eq!(found.unusable, [""; 0], "{what}");
        }
    }

    #[test]
    fn several_and_unusable_ones() {
        let text = format!(
            "{HEAD}--b\nContent-Type: message/rfc822\n\nFrom: a@b.example\nSubject: one\n\n1\n--b\nContent-Type: message/rfc822\n\n\
             Subject: nobody's\n\nx\n--b\nContent-Type: message/rfc822\n\nMessage-ID: <2@b>\nSubject: two\n\n2\n--b--\n"
        );
        let found = read(&text);
        assert_eq!(subjects(&found), ["one", "two"]);
        assert!(found.unusable[0].contains("neither From nor Message-ID"), "{:?}", found.unusable);
        let many = "--b\nContent-Type: message/rfc822\n\nFrom: a@b.example\n\n1\n".repeat(MAX_ATTACHED + 2);
        let found = read(&format!("{HEAD}{many}--b--\n"));
        assert_eq!((found.messages.len(), found.unusable.len()), (MAX_ATTACHED, 2));
    }

    #[test]
    fn inline_forwards_are_seen_and_not_taken_for_attachments() {
        for (text, inline) in [
            ("hello\n", false),
            ("-----Original Message-----\nFrom: bob\n", true),
            ("Begin forwarded message:\n\n> From: Bob\n", true),
            ("see below\n\nFrom: Bob\nSent: Monday\nTo: Ann\nSubject: x\n", true),
            ("From: the boss, with love\n", false),
        ] {
            let found = read(&format!("From: ann@shop.example\nSubject: FW: x\n\n{text}"));
            assert_eq!((found.messages.len(), found.looks_inline), (0, inline), "{text}");
        }
    }
}
