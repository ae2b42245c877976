//! Delivery reports: what became of a message that was sent (RFC 3464, RFC 6533), and the forms that mail systems used before or use
//! beside it: qmail's, Exim's, and texts that just quote the message they speak of.
//!
//! A report names the message it is about by that message's own header, returned in a part of the report or below its text, and by
//! the envelope id we gave (RFC 3461 4.4). Nothing here says whether such a message exists; the decision looks it up.

use email_router_crm::{DeliveryAction, RecipientReport};
use email_router_model::{ActivityId, EmailAddress, Headers, MessageId, RawMessage};

use super::mime;
use super::{Message, clean_line, decode, fields, leading_blank};
use crate::ParseCaps;
use crate::guard::AutomaticKind;

/// At most this many recipients of a report are looked at.
const MAX_RECIPIENTS: usize = 500;
/// At most this many Message-IDs.
const MAX_IDS: usize = 20;
/// At most this much of a text is searched.
const MAX_TEXT: usize = 256 * 1024;
/// Characters of a diagnostic that are kept.
const MAX_DIAGNOSTIC: usize = 500;

/// What a delivery report says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Report {
    /// Message-IDs of the message it may be about, the most certain first.
    pub message_ids: Vec<MessageId>,
    /// The header section of that message, where it was returned.
    pub returned_header: Option<Vec<u8>>,
    /// The envelope id given with the message (Original-Envelope-Id); for ours the id of the activity.
    pub envelope_id: Option<ActivityId>,
    /// What became of each recipient.
    pub recipients: Vec<RecipientReport>,
    /// How it was read: `RFC 3464`, `qmail`, `Exim`, `text`.
    pub form: &'static str,
}

impl Report {
    /// The report in a whole message whose header section says that it is one; `None` when nothing in it tells what became of whom.
    #[must_use]
    pub(super) fn read(raw: &RawMessage, message: &Message, caps: &ParseCaps) -> Option<Self> {
        let automatic = message.automatic()?;
        if automatic.kind != AutomaticKind::DeliveryReport {
            return None;
        }
        let bytes = raw.bytes();
        let structure = mime::split(bytes, leading_blank(bytes), caps);
        let mut report = Self::default();
        for part in &structure.parts {
            match part.mime_type.as_str() {
                "message/delivery-status" | "message/global-delivery-status" => {
                    report.form = "RFC 3464";
                    report.status(&decode::body(bytes, part).0);
                }
                "message/rfc822"
                | "text/rfc822-headers"
                | "message/global"
                | "message/global-headers"
                | "message/rfc822-headers"
                    if report.returned_header.is_none() =>
                {
                    report.returned(&decode::body(bytes, part).0);
                }
                _ => {}
            }
        }
        if report.recipients.is_empty() {
            // none of the standard parts: a text tells
            let text = structure.parts.iter().find(|p| !p.is_multipart && p.mime_type.starts_with("text/"));
            let text = text.map(|part| decode::body(bytes, part).0).unwrap_or_default();
            report.text(&text, message);
        }
        (!report.recipients.is_empty()).then_some(report)
    }

    /// RFC 3464 2.1: groups of fields with empty lines between them; the first is about the message, each other about a recipient.
    fn status(&mut self, body: &[u8]) {
        for (number, group) in groups(body).into_iter().enumerate() {
            let fields = Headers::new(group);
            if number == 0
                && let Some(id) = fields.get("Original-Envelope-Id")
            {
                self.envelope_id = id.trim().trim_matches(['<', '>']).parse().ok();
            }
            let Some(action) = fields.get("Action").and_then(|word| {
                // "failed (permanent)": comments are allowed
                DeliveryAction::parse(word.split(['(', ';', ' ']).next().unwrap_or(""))
            }) else {
                continue;
            };
            // the address we sent to is the original one; the final one is where it ended after aliases (2.3.1, 2.3.2)
            let address = ["Original-Recipient", "Final-Recipient"]
                .into_iter()
                .filter_map(|name| fields.get(name))
                .find_map(|value| recipient(&value));
            let Some(address) = address else { continue };
            let status = fields.get("Status").as_deref().and_then(enhanced_status);
            let diagnostic = fields.get("Diagnostic-Code").map(|text| {
                let text = text.split_once(';').map_or(text.as_str(), |(_, rest)| rest).trim().to_owned();
                clean_line(&text, MAX_DIAGNOSTIC)
            });
            self.add(RecipientReport { address, action, status, diagnostic });
        }
    }

    /// The header section of the message that came back.
    fn returned(&mut self, bytes: &[u8]) {
        let skip = leading_blank(bytes);
        let section = Headers::new(&bytes[skip..]).as_bytes();
        if let Some(id) = Headers::new(section).get("Message-ID").and_then(|text| MessageId::parse(&text)) {
            self.message_ids.push(id);
            self.returned_header = Some(section.to_vec());
        }
    }

    /// Reports without parts.
    fn text(&mut self, body: &[u8], message: &Message) {
        let text = fields::utf8_or_1252(&body[..body.len().min(MAX_TEXT)]).0.replace("\r\n", "\n");
        let quoted_at = original_begins(&text);
        let (told, original) = text.split_at(quoted_at);
        self.find_ids(original, told);
        // Exim and Gmail name the failed recipients in the header
        let failed: Vec<EmailAddress> = message
            .headers()
            .all("X-Failed-Recipients")
            .flat_map(|list| {
                list.split(',').filter_map(|a| EmailAddress::parse(a.trim()).ok()).collect::<Vec<_>>()
            })
            .take(MAX_RECIPIENTS)
            .collect();
        let paragraphs = addressed_paragraphs(told);
        if !failed.is_empty() {
            self.form = "Exim";
            for address in failed {
                let why = paragraphs.iter().find(|(a, _)| *a == address).map(|(_, why)| why.clone());
                self.add(failure(address, why));
            }
        } else {
            self.form = if told.contains("This is the qmail-send program") { "qmail" } else { "text" };
            for (address, why) in paragraphs {
                self.add(failure(address, Some(why)));
            }
        }
    }

    /// Message-IDs: of the quoted message first, then any that the text mentions.
    fn find_ids(&mut self, original: &str, told: &str) {
        for text in [original, told] {
            for line in text.lines() {
                let line = line.trim_start_matches(['>', '|', ' ', '\t']);
                let Some((name, value)) = line.split_once(':') else { continue };
                if name.trim().eq_ignore_ascii_case("message-id")
                    && self.message_ids.len() < MAX_IDS
                    && let Some(id) = MessageId::parse(value)
                    && !self.message_ids.contains(&id)
                {
                    self.message_ids.push(id);
                }
            }
        }
    }

    fn add(&mut self, recipient: RecipientReport) {
        if self.recipients.len() < MAX_RECIPIENTS
            && !self.recipients.iter().any(|r| r.address == recipient.address)
        {
            self.recipients.push(recipient);
        }
    }
}

fn failure(address: EmailAddress, why: Option<String>) -> RecipientReport {
    let status = why.as_deref().and_then(find_status);
    // a text of the form "will keep trying" is a delay, whatever it is called
    let delayed = status.as_deref().is_some_and(|s| s.starts_with('4'))
        || why.as_deref().is_some_and(|why| {
            let why = why.to_ascii_lowercase();
            ["will retry", "will keep trying", "will be retried", "delayed", "still trying"]
                .iter()
                .any(|word| why.contains(word))
        });
    let action = if delayed { DeliveryAction::Delayed } else { DeliveryAction::Failed };
    RecipientReport { address, action, status, diagnostic: why.map(|why| clean_line(&why, MAX_DIAGNOSTIC)) }
}

/// `rfc822; ann@example.com`, `utf-8; ...` (RFC 6533 3), or the address alone where a system forgot the type.
fn recipient(value: &str) -> Option<EmailAddress> {
    let address = value.split_once(';').map_or(value, |(_, address)| address);
    EmailAddress::parse(address.trim().trim_matches(['<', '>'])).ok()
}

/// RFC 3463 2: `class.subject.detail`.
fn enhanced_status(text: &str) -> Option<String> {
    let code = text.split([' ', '(', ';']).next().unwrap_or("");
    let mut parts = code.split('.');
    let class = parts.next().is_some_and(|c| matches!(c, "2" | "4" | "5"));
    let number = |p: Option<&str>| {
        p.is_some_and(|p| (1..=3).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit()))
    };
    (class && number(parts.next()) && number(parts.next()) && parts.next().is_none()).then(|| code.to_owned())
}

/// The first enhanced status code that a text mentions.
fn find_status(text: &str) -> Option<String> {
    text.split(|c: char| !(c.is_ascii_digit() || c == '.'))
        .map(|word| word.trim_matches('.'))
        .find_map(enhanced_status)
}

/// Groups of lines between empty lines.
fn groups(body: &[u8]) -> Vec<&[u8]> {
    let mut groups = Vec::new();
    let mut rest = body;
    while !rest.is_empty() && groups.len() <= MAX_RECIPIENTS {
        let end = email_router_model::header::section_end(rest);
        let (group, tail) = rest.split_at(end);
        if !group.trim_ascii().is_empty() {
            groups.push(group);
        }
        rest = tail;
    }
    groups
}

/// Where the quoted message begins, by the lines that mail systems put above it; the end when there is none.
fn original_begins(text: &str) -> usize {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let lower = line.to_ascii_lowercase();
        let marks = lower.starts_with("--- below this line is a copy")
            || lower.starts_with("------ this is a copy")
            || lower.contains("---- original message")
            || lower.contains("message headers follow")
            || lower.contains("headers of the message follow")
            || lower.starts_with("--- the header of the original message")
            || lower.starts_with("--- the headers of the original message");
        if marks {
            return at;
        }
        at += line.len();
    }
    text.len()
}

/// Paragraphs that begin with an address: `<ann@example.com>:` and the reason (qmail), or the address alone on a line and the reason
/// indented below (Exim).
fn addressed_paragraphs(text: &str) -> Vec<(EmailAddress, String)> {
    let mut found: Vec<(EmailAddress, String)> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() {
            open = false;
            continue;
        }
        let (head, tail) = match trimmed.split_once(">:") {
            Some((address, tail)) => (address.trim_start_matches('<'), tail),
            None => (trimmed.trim_matches(['<', '>']).trim_end_matches(':'), ""),
        };
        if found.len() < MAX_RECIPIENTS
            && head.contains('@')
            && !head.contains(char::is_whitespace)
            && let Ok(address) = EmailAddress::parse(head)
        {
            found.push((address, tail.trim().to_owned()));
            open = true;
        } else if open && let Some((_, why)) = found.last_mut() {
            // a reason may go on over lines, but not for ever
            if why.len() < 4 * MAX_DIAGNOSTIC {
                if !why.is_empty() {
                    why.push(' ');
                }
                why.push_str(trimmed);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn report(text: &str) -> Option<Report> {
        let raw = RawMessage::new(text.replace('\n', "\r\n").into_bytes());
        Message::parse(&raw, &ParseCaps::default()).report
    }

    fn told(report: &Report) -> Vec<String> {
        report
            .recipients
            .iter()
            .map(|r| {
                format!(
                    "{} {} {} {}",
                    r.address,
                    r.action.as_str(),
                    r.status.as_deref().unwrap_or("-"),
                    r.diagnostic.as_deref().unwrap_or("-")
                )
            })
            .collect()
    }

    const STANDARD: &str = "From: MAILER-DAEMON@mx.example\nTo: ann@shop.example\nSubject: Undelivered\n\
        Content-Type: multipart/report; report-type=delivery-status; boundary=b\n\n--b\n\nSorry.\n--b\n\
        Content-Type: message/delivery-status\n\nReporting-MTA: dns; mx.example\n\
        Original-Envelope-Id: 96114af9-4db0-507e-bd96-bb05ada4ca2f\n\n\
        Original-Recipient: rfc822;Bob@x.example\nFinal-Recipient: rfc822; bob@inner.example\nAction: failed\nStatus: 5.1.1\n\
        Diagnostic-Code: smtp; 550 5.1.1 <bob@x.example>:\n Recipient address rejected\n\n\
        Final-Recipient: RFC822; carol@x.example\nAction: Delayed (will retry)\nStatus: 4.4.1\n\n\
        Final-Recipient: rfc822; dora@x.example\nAction: delivered\nStatus: 2.0.0\n\n\
        Final-Recipient: rfc822; no address\nAction: failed\nStatus: 5.0.0\n\
        --b\nContent-Type: text/rfc822-headers\n\nFrom: ann@shop.example\nMessage-ID: <offer@shop.example>\nSubject: Offer\n--b--\n";

    #[test]
    fn rfc_3464() {
        let found = report(STANDARD).unwrap();
        assert_eq!(
            told(&found),
            [
                "Bob@x.example failed 5.1.1 550 5.1.1 <bob@x.example>: Recipient address rejected",
                "carol@x.example delayed 4.4.1 -",
                "dora@x.example delivered 2.0.0 -",
            ]
        );
        assert_eq!(found.message_ids, [MessageId::parse("<offer@shop.example>").unwrap()]);
        assert_eq!(found.envelope_id.unwrap().to_string(), "96114af9-4db0-507e-bd96-bb05ada4ca2f");
        assert!(String::from_utf8(found.returned_header.unwrap()).unwrap().contains("Subject: Offer"));
        assert_eq!(found.form, "RFC 3464");
    }

    #[test]
    fn international_and_whole_message_returned_base64() {
        let text = "Return-Path: <>\nFrom: postmaster@mx.example\nContent-Type: multipart/report; boundary=b\n\n--b\n\
            Content-Type: message/global-delivery-status\n\nReporting-MTA: dns; mx.example\n\n\
            Final-Recipient: utf-8; j\u{fc}rgen@x.example\nAction: failed\nStatus: 5.1.2 (no such domain)\n--b\n\
            Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\nTWVzc2FnZS1JRDogPGFAYj4NClN1YmplY3Q6IHgNCg0KYm9keQ0K\n--b--\n";
        let found = report(text).unwrap();
        assert_eq!(told(&found), ["j\u{fc}rgen@x.example failed 5.1.2 -"]);
        assert_eq!(found.message_ids, [MessageId::parse("<a@b>").unwrap()]);
    }

    /// What is no proper transfer encoding is read as far as it goes, as in any other part.
    #[test]
    fn a_damaged_transfer_encoding_hides_nothing() {
        let status = "Reporting-MTA: dns; mx.example\n\nFinal-Recipient: rfc822; bob=40x.example\nAction: failed\nX-Odd: 100 =ZZ\n";
        let text = format!(
            "Return-Path: <>\nFrom: postmaster@mx.example\nContent-Type: multipart/report; boundary=b\n\n--b\n\
             Content-Type: message/delivery-status\nContent-Transfer-Encoding: quoted-printable\n\n{status}--b\n\
             Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\nTWVzc2FnZS1JRDog!PGFAYj4NClN1YmplY3Q6IHgNCg0KYm9keQ0K\n--b--\n"
        );
        let found = report(&text).unwrap();
        assert_eq!(told(&found), ["bob@x.example failed - -"]);
        assert_eq!(found.message_ids, [MessageId::parse("<a@b>").unwrap()]);
    }

    #[test]
    fn qmail() {
        let text = "Return-Path: <>\nFrom: MAILER-DAEMON@qmail.example\nSubject: failure notice\n\n\
            Hi. This is the qmail-send program at qmail.example.\nI'm afraid I wasn't able to deliver your message.\n\n\
            <bob@x.example>:\n192.0.2.1 does not like recipient.\nRemote host said: 550 5.1.1 no such user\nGiving up on 192.0.2.1.\n\n\
            <carol@x.example>: mailbox full (#4.2.2)\n\n\
            --- Below this line is a copy of the message.\n\nReturn-Path: <ann@shop.example>\nMessage-ID: <offer@shop.example>\n\nHello\n";
        let found = report(text).unwrap();
        assert_eq!(found.form, "qmail");
        assert_eq!(found.message_ids, [MessageId::parse("<offer@shop.example>").unwrap()]);
        assert_eq!(
            told(&found),
            [
                "bob@x.example failed 5.1.1 192.0.2.1 does not like recipient. Remote host said: 550 5.1.1 no such user Giving up on 192.0.2.1.",
                "carol@x.example delayed 4.2.2 mailbox full (#4.2.2)",
            ]
        );
    }

    #[test]
    fn exim() {
        let text = "X-Failed-Recipients: bob@x.example, dora@x.example\nFrom: Mail Delivery System <Mailer-Daemon@exim.example>\n\n\
            This message was created automatically by mail delivery software.\n\n  bob@x.example\n    host mx.x.example [192.0.2.1]\n    SMTP \
            error from remote mail server after RCPT TO:<bob@x.example>:\n    550 5.7.1 blocked\n\n\
            ------ This is a copy of the message, including all the headers. ------\n\nMessage-ID: <offer@shop.example>\n";
        let found = report(text).unwrap();
        assert_eq!(found.form, "Exim");
        let told = told(&found);
        assert!(told[0].starts_with("bob@x.example failed 5.7.1 host mx.x.example"), "{told:?}");
        assert_eq!(told[1], "dora@x.example failed - -");
        assert_eq!(found.message_ids.len(), 1);
    }

    #[test]
    fn what_is_no_report() {
        for text in [
            "From: bob@x.example\n\n<bob@x.example>: hello\nMessage-ID: <a@b>\n",
            "Auto-Submitted: auto-replied\n\n<bob@x.example>: away\n",
            "From: MAILER-DAEMON@x.example\nReturn-Path: <>\n\nnothing about anybody\n",
            "Content-Type: multipart/report; report-type=disposition-notification; boundary=b\n\n--b\n\
             Content-Type: message/disposition-notification\n\nFinal-Recipient: rfc822;a@b.example\n--b--\n",
        ] {
            assert_eq!(report(text), None, "{text}");
        }
    }

    #[test]
    fn status_codes() {
        for (text, expected) in [
            ("5.1.1", Some("5.1.1")),
            ("4.10.250 (x)", Some("4.10.250")),
            ("3.1.1", None),
            ("5.1", None),
            ("5.1.1.1", None),
            ("5.1.1234", None),
            ("", None),
        ] {
            assert_eq!(enhanced_status(text).as_deref(), expected, "{text}");
        }
        assert_eq!(find_status("host 10.1.1.1 said 550-5.7.26 no").as_deref(), Some("5.7.26"));
    }

    proptest! {
        #[test]
        fn damaged_reports_harm_nobody(cut in 0..2000usize, at in 0..2000usize, byte: u8) {
            let mut bytes = STANDARD.replace('\n', "\r\n").into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(cut.min(bytes.len()));
            let raw = RawMessage::new(bytes);
            let found = Message::parse(&raw, &ParseCaps::default()).report;
            prop_assert!(found.is_none_or(|r| r.recipients.len() <= MAX_RECIPIENTS));
        }
    }
}
