//! From an outgoing e-mail of the CRM to the message that goes out (RFC 5322, MIME).
//!
//! The same input gives the same bytes, so that all attempts of an e-mail are one message: the Date is the time of creation,
//! the Message-ID comes from the activity, and so do the boundaries of the MIME parts.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use email_router_crm::{Attachment, OutgoingEmail, ParticipationType, Party, Priority};
use email_router_model::{ActivityId, EmailAddress, MessageId, OrganizationId};
use email_router_transport::{Envelope, Outbound};
use lettre::message::header::{
    ContentDisposition, ContentId, ContentTransferEncoding, ContentType, HeaderName, HeaderValue,
};
use lettre::message::{Mailbox, Mailboxes, Message, MessageBuilder, MultiPart, SinglePart, header};

use crate::error::{Error, Result};
use crate::reference::{REFERENCE_HEADER, ReferenceSigner};

/// The field that marks mail of this router; its value is the organization's id. Mail that comes back with it is our own.
pub const LOOP_HEADER: &str = "X-Email-Router-Organization";

/// Longest display name that is written, in characters; Dataverse's full names have at most 160.
const MAX_NAME_CHARS: usize = 256;
/// Longest subject that is written, in characters; Dataverse's column has 800.
const MAX_SUBJECT_CHARS: usize = 800;
/// Longest file name that is written, in characters; Dataverse's column has 255.
const MAX_FILE_NAME_CHARS: usize = 255;
/// At most so many ids in References: the first, which names the conversation, and the last ones.
const MAX_REFERENCES: usize = 50;
/// Ids longer than this do not fit on a line of 998 octets (RFC 5322 2.1.1) with the name of the field, and are left out.
const MAX_ID_OCTETS: usize = 980;

/// How messages are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComposeOptions {
    /// The value of [`LOOP_HEADER`].
    pub organization: OrganizationId,
    /// Largest message, in bytes as it goes out.
    pub max_message_bytes: u64,
    /// Signs references, so that answers are recognised whatever becomes of the Message-ID.
    pub signer: Option<ReferenceSigner>,
}

/// The Message-ID of an outgoing e-mail, the same for every attempt: `<ACTIVITY.TAG@domain>`, signed
/// ([`reference`](mod@crate::reference)); without a signer `<ACTIVITY@domain>`.
///
/// # Errors
/// Never with a domain that is a host name.
pub fn message_id(activity: &ActivityId, domain: &str, options: &ComposeOptions) -> Result<MessageId> {
    if let Some(signer) = &options.signer {
        return signer.message_id(&options.organization, activity, domain);
    }
    MessageId::parse(&format!("<{activity}@{domain}>"))
        .ok_or_else(|| Error::message(format!("{activity}@{domain:?} is no Message-ID")))
}

/// Writes the message of a prepared e-mail.
///
/// From is the sender party; To and Cc are written, Bcc is in the envelope only. In-Reply-To and References come from the e-mail
/// that is answered; with a signer a signed reference stands at the end of References, and in [`REFERENCE_HEADER`]. An HTML body also gets a plain text part; pictures that the HTML names by `cid:` go beside it
/// (multipart/related), all other attachments behind (multipart/mixed). Attachments are always encoded as base64, texts as
/// quoted-printable or base64. What comes from the CRM cannot add a field: control characters become spaces. All is ASCII, but for an
/// address outside of ASCII, which goes as it is (RFC 6532) and needs a server with SMTPUTF8.
///
/// # Errors
/// No Message-ID, no sender or recipient with an address, or larger than allowed. The e-mail cannot be sent as it is.
pub fn compose(
    email: &OutgoingEmail,
    attachments: &[Attachment],
    options: &ComposeOptions,
) -> Result<Outbound> {
    let id = &email.activity_id;
    let message_id = email.message_id.clone().ok_or_else(|| {
        Error::message(format!("the e-mail {id} has no Message-ID; it must be prepared first"))
    })?;
    let (from_party, from) = email
        .parties
        .iter()
        .filter(|p| p.participation == ParticipationType::Sender)
        .find_map(|p| p.address.as_ref().map(|a| (p, a)))
        .ok_or_else(|| Error::message(format!("the e-mail {id} has no sender with an e-mail address")))?;
    let envelope = envelope(email, from)?;
    fits(email, attachments.iter().map(|a| a.content.len() as u64).sum(), options)?;

    let mut message = addressed(email, from_party, from)
        .raw_header(subject(&email.subject))
        .date(date(email))
        .raw_header(verbatim("Message-ID", message_id.as_str().to_owned()));
    let signed = signed_reference(email, &message_id, options)?;
    let (in_reply_to, references) = threading(email, signed.as_ref());
    if let Some(parent) = in_reply_to {
        message = message.raw_header(verbatim("In-Reply-To", parent.as_str().to_owned()));
    }
    if !references.is_empty() {
        message = message.raw_header(verbatim("References", folded("References", &references)));
    }
    message = message.raw_header(verbatim(LOOP_HEADER, options.organization.as_uuid().to_string()));
    let own = options.signer.as_ref().and_then(|s| s.header_value(&options.organization, id, &message_id));
    if let Some(own) = own {
        // the Message-ID gets a line of its own; both lines stay within 998 octets
        message = message.raw_header(verbatim(REFERENCE_HEADER, own.replace(' ', "\r\n ")));
    }
    message = importance(message, email.priority);
    if email.read_receipt_requested && from.as_str().is_ascii() {
        message = message.raw_header(verbatim("Disposition-Notification-To", format!("<{from}>"))); // RFC 8098 2.1
    }
    let built = match body(email, attachments) {
        Body::One(part) => message.singlepart(part),
        Body::Many(parts) => message.multipart(parts),
    };
    let built = built.map_err(|e| Error::message(format!("the e-mail {id} cannot be written: {e}")))?;
    let mime = built.formatted();
    within(id, mime.len() as u64, options.max_message_bytes)?;
    Ok(Outbound { envelope, message_id, mime: Bytes::from(mime) })
}

/// Whether a message with so many bytes of attachments can be small enough.
pub(super) fn fits(email: &OutgoingEmail, attachment_bytes: u64, options: &ComposeOptions) -> Result<()> {
    // base64 takes 4 octets for 3, and 2 for each line of 76
    let least = (attachment_bytes / 3).saturating_mul(4).saturating_add(email.body.len() as u64);
    within(&email.activity_id, least, options.max_message_bytes)
}

fn within(id: &ActivityId, size: u64, limit: u64) -> Result<()> {
    if size > limit {
        return Err(Error::message(format!(
            "the e-mail {id} has {size} bytes or more; at most {limit} are sent: take an attachment away or raise the limit"
        )));
    }
    Ok(())
}

/// Everybody once, whatever field and spelling; the comparison is that of [`EmailAddress`].
fn envelope(email: &OutgoingEmail, from: &EmailAddress) -> Result<Envelope> {
    let mut known = HashSet::new();
    let mut recipients = Vec::new();
    for party in email.parties.iter().filter(|p| p.participation != ParticipationType::Sender) {
        let Some(address) = &party.address else {
            let who = party.name.as_deref().unwrap_or("without a name");
            return Err(Error::message(format!(
                "the e-mail {} has the recipient {who:?}, who has no e-mail address",
                email.activity_id
            )));
        };
        if known.insert(address.key()) {
            recipients.push(address.clone());
        }
    }
    if recipients.is_empty() {
        return Err(Error::message(format!("the e-mail {} has no recipient", email.activity_id)));
    }
    Ok(Envelope { sender: Some(from.clone()), recipients })
}

fn addressed(email: &OutgoingEmail, from_party: &Party, from: &EmailAddress) -> MessageBuilder {
    let mut message = Message::builder().from(mailbox(from_party, from));
    let field = |which: ParticipationType| -> Mailboxes {
        email
            .parties
            .iter()
            .filter(|p| p.participation == which)
            .filter_map(|p| p.address.as_ref().map(|a| mailbox(p, a)))
            .collect()
    };
    let (to, cc) = (field(ParticipationType::To), field(ParticipationType::Cc));
    let hidden = to.iter().next().is_none() && cc.iter().next().is_none();
    if to.iter().next().is_some() {
        message = message.mailbox(header::To::from(to));
    }
    if cc.iter().next().is_some() {
        message = message.mailbox(header::Cc::from(cc));
    }
    if hidden {
        // RFC 5322 3.6.3 allows a message without a destination field, but some servers do not
        message = message.raw_header(verbatim("To", "undisclosed-recipients:;".to_owned()));
    }
    // lettre wants an envelope of its own; it is not used
    let address = lettre_address(from);
    match lettre::address::Envelope::new(Some(address.clone()), vec![address]) {
        Ok(envelope) => message.envelope(envelope),
        Err(_) => message,
    }
}

/// Our address type has already refused everything that could break a header, and knows more addresses of the field than
/// lettre's check does (`a..b@example.com`).
fn lettre_address(address: &EmailAddress) -> lettre::Address {
    lettre::Address::new_dangerous(address.local_part(), address.domain())
}

fn mailbox(party: &Party, address: &EmailAddress) -> Mailbox {
    let name = party.name.as_deref().map(|n| one_line(n, MAX_NAME_CHARS)).filter(|n| !n.is_empty());
    Mailbox::new(name, lettre_address(address))
}

/// Text from the CRM as it may stand in a header: line breaks and other controls become spaces, the length is capped.
fn one_line(text: &str, max_chars: usize) -> String {
    let spaced: String = text
        .chars()
        .map(|c| if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') { ' ' } else { c })
        .take(max_chars)
        .collect();
    spaced.trim().to_owned()
}

/// lettre encodes single words and leaves ASCII as it is. Two kinds of subject would not come back as they were: one that happens to
/// look like an encoded word, and one with several spaces beside an encoded word. These are encoded as a whole here (RFC 2047 4.2).
fn subject(text: &str) -> HeaderValue {
    let text = one_line(text, MAX_SUBJECT_CHARS);
    if !text.contains("=?") && (text.is_ascii() || !text.contains("  ")) {
        return HeaderValue::new(HeaderName::new_from_ascii_str("Subject"), text);
    }
    // a character has at most 4 octets, 12 characters encoded: with at most 48 the first line stays within 76
    let mut words = vec![String::new()];
    for c in text.chars() {
        let mut octets = [0; 4];
        let encoded: String = c.encode_utf8(&mut octets).bytes().map(|b| format!("={b:02X}")).collect();
        match words.last_mut() {
            Some(word) if word.len() + encoded.len() <= 48 => word.push_str(&encoded),
            _ => words.push(encoded),
        }
    }
    let words: Vec<String> = words.iter().map(|word| format!("=?utf-8?q?{word}?=")).collect();
    verbatim("Subject", words.join("\r\n "))
}

/// A field whose value is ASCII, without controls, and folded already.
fn verbatim(name: &'static str, value: String) -> HeaderValue {
    HeaderValue::dangerous_new_pre_encoded(HeaderName::new_from_ascii_str(name), value.clone(), value)
}

/// The Date field knows the years 1970 to 9999.
fn date(email: &OutgoingEmail) -> SystemTime {
    let seconds = email.created_on.as_second().clamp(0, 253_402_300_799).unsigned_abs();
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// The id that stands in References for this e-mail, under the domain of its Message-ID.
fn signed_reference(
    email: &OutgoingEmail,
    message_id: &MessageId,
    options: &ComposeOptions,
) -> Result<Option<MessageId>> {
    let Some(signer) = &options.signer else { return Ok(None) };
    let domain = message_id.bare().rsplit('@').next().unwrap_or_default();
    signer.reference(&options.organization, &email.activity_id, domain).map(Some)
}

/// In-Reply-To, and References as RFC 5322 3.6.4 makes them: those of the parent, then the parent. Ids that cannot be written in
/// ASCII, or on a line, are left out.
///
/// The signed reference comes last: an answer repeats them all and appends our Message-ID, so whoever reads its ids from the end finds
/// this e-mail before those it answered.
fn threading<'a>(
    email: &'a OutgoingEmail,
    signed: Option<&'a MessageId>,
) -> (Option<&'a MessageId>, Vec<&'a MessageId>) {
    let writable = |id: &&MessageId| {
        let text = id.as_str();
        text.len() <= MAX_ID_OCTETS && text.bytes().all(|b| b.is_ascii_graphic())
    };
    let parent = email.parent_message_id.as_ref().filter(writable);
    let mut known = HashSet::new();
    let mut ids: Vec<&MessageId> = email
        .parent_references
        .iter()
        .filter(|id| Some(*id) != parent)
        .filter(writable)
        .filter(|id| known.insert(id.as_str()))
        .collect();
    ids.extend(parent);
    ids.extend(signed.filter(writable));
    if ids.len() > MAX_REFERENCES {
        ids.drain(1..ids.len() - (MAX_REFERENCES - 1));
    }
    (parent, ids)
}

/// The ids, folded so that a line has at most 78 octets, or holds one id.
fn folded(name: &str, ids: &[&MessageId]) -> String {
    let mut value = String::new();
    let mut line = name.len() + 1;
    for (n, id) in ids.iter().enumerate() {
        let id = id.as_str();
        if line + 1 + id.len() > 78 && n > 0 {
            value.push_str("\r\n");
            line = 0;
        }
        if line == 0 || n > 0 {
            value.push(' ');
        }
        value.push_str(id);
        line += 1 + id.len();
    }
    value
}

fn importance(message: MessageBuilder, priority: Priority) -> MessageBuilder {
    let (importance, number) = match priority {
        Priority::Normal => return message,
        Priority::High => ("high", "1"),
        Priority::Low => ("low", "5"),
    };
    message
        .raw_header(verbatim("Importance", importance.to_owned())) // RFC 4021 2.1.30
        .raw_header(verbatim("X-Priority", number.to_owned()))
}

enum Body {
    One(SinglePart),
    Many(MultiPart),
}

fn body(email: &OutgoingEmail, attachments: &[Attachment]) -> Body {
    let html = email.body_mime_type.trim().to_ascii_lowercase().starts_with("text/html");
    let (inline, attached): (Vec<_>, Vec<_>) =
        attachments.iter().partition(|a| html && content_id(a).is_some_and(|cid| names(&email.body, cid)));
    let content = if html {
        Body::Many(alternative(email, &inline))
    } else {
        Body::One(text(ContentType::TEXT_PLAIN, &email.body))
    };
    if attached.is_empty() {
        return content;
    }
    let mixed = MultiPart::mixed().boundary(boundary(email, "mixed"));
    let mut mixed = match content {
        Body::One(part) => mixed.singlepart(part),
        Body::Many(parts) => mixed.multipart(parts),
    };
    for attachment in attached {
        let disposition = ContentDisposition::attachment(&file_name(attachment));
        mixed = mixed.singlepart(file(attachment, disposition, None));
    }
    Body::Many(mixed)
}

fn alternative(email: &OutgoingEmail, inline: &[&Attachment]) -> MultiPart {
    let plain = mail_parser::decoders::html::html_to_text(&email.body);
    let html = text(ContentType::TEXT_HTML, &email.body);
    let alternative = MultiPart::alternative()
        .boundary(boundary(email, "alternative"))
        .singlepart(text(ContentType::TEXT_PLAIN, plain.trim()));
    if inline.is_empty() {
        return alternative.singlepart(html);
    }
    let mut related = MultiPart::related().boundary(boundary(email, "related")).singlepart(html);
    for attachment in inline {
        let disposition = ContentDisposition::inline_with_name(&file_name(attachment));
        related = related.singlepart(file(attachment, disposition, content_id(attachment)));
    }
    alternative.multipart(related)
}

/// `=_` can stand neither in quoted-printable nor in base64 (RFC 2045 6.7 recommends it for this), and every part is one of the
/// two: no text that somebody wrote can end a part.
fn boundary(email: &OutgoingEmail, part: &str) -> String {
    format!("=_{part}_{}", email.activity_id.as_uuid().simple())
}

fn text(kind: ContentType, content: &str) -> SinglePart {
    let content = content.replace("\r\n", "\n").replace('\r', "\n");
    let foreign = content.bytes().filter(|b| !b.is_ascii()).count();
    // quoted-printable takes three octets for a foreign one, base64 four for any three
    let encoding = if foreign > content.len() / 6 {
        ContentTransferEncoding::Base64
    } else {
        ContentTransferEncoding::QuotedPrintable
    };
    SinglePart::builder().header(kind).header(encoding).body(content)
}

fn file(attachment: &Attachment, disposition: ContentDisposition, content_id: Option<&str>) -> SinglePart {
    let mut part = SinglePart::builder().header(media_type(attachment)).header(disposition);
    if let Some(id) = content_id {
        part = part.header(ContentId::from(format!("<{id}>")));
    }
    part.header(ContentTransferEncoding::Base64).body(attachment.content.to_vec())
}

/// The type without its parameters. `message/*` and `multipart/*` must not be encoded (RFC 2045 6.4), which would let their content
/// break the message; they go as plain bytes, and the file name says what they are.
fn media_type(attachment: &Attachment) -> ContentType {
    let essence = attachment.mime_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let token = |t: &str| {
        !t.is_empty()
            && t.len() <= 127
            && t.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
    };
    let usable = essence
        .split_once('/')
        .is_some_and(|(kind, sub)| token(kind) && token(sub) && !matches!(kind, "message" | "multipart"));
    usable
        .then(|| ContentType::parse(&essence).ok())
        .flatten()
        .or_else(|| ContentType::parse("application/octet-stream").ok())
        .unwrap_or(ContentType::TEXT_PLAIN) // a constant that parses; this is never reached
}

/// The Content-ID where it can be written as it is; a changed one would no longer be the one the HTML names.
fn content_id(attachment: &Attachment) -> Option<&str> {
    let id = attachment.content_id.as_deref()?.trim();
    let id = id.strip_prefix('<').and_then(|i| i.strip_suffix('>')).unwrap_or(id);
    let fits = !id.is_empty() && id.len() <= 200;
    (fits && id.bytes().all(|b| b.is_ascii_graphic() && !b"<>\"()\\".contains(&b))).then_some(id)
}

/// Whether the HTML shows the picture (RFC 2392). What it does not show would be invisible, so it is attached instead.
fn names(html: &str, content_id: &str) -> bool {
    html.match_indices(content_id).any(|(at, _)| {
        let before = html.as_bytes()[..at].last_chunk::<4>();
        before.is_some_and(|b| b.eq_ignore_ascii_case(b"cid:"))
    })
}

/// The file name without a path.
fn file_name(attachment: &Attachment) -> String {
    let name = one_line(&attachment.file_name, usize::MAX);
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default().trim();
    let last: String = last.chars().take(MAX_FILE_NAME_CHARS).collect();
    if last.is_empty() { "attachment".to_owned() } else { last }
}
