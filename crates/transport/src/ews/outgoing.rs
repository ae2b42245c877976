//! Sending: one `CreateItem`, and looking for what became of one.

use std::collections::HashSet;

use email_router_model::{EmailAddress, Headers, Mailbox, MessageId, Retry, Scope};

use super::client::{As, Failure, Session};
use super::proto::request::Sending as Item;
use super::proto::{Folder, Operation};
use super::settings::{Sending, SentItems};
use crate::lines::crlf;
use crate::{Error, ErrorKind, Outbound, Receipt, RecipientResult, RecipientStatus, Result, SubmitOptions};

/// Who the requests of a submission are made as.
pub(super) fn sender(sending: Sending) -> As {
    match sending {
        Sending::Impersonation => As::Mailbox,
        Sending::Own | Sending::OnBehalfOf | Sending::SendAs => As::Account,
    }
}

/// The folder that keeps the copies; `None` where there is none.
pub(super) fn copies<'a>(sending: Sending, sent: SentItems, mailbox: &'a Mailbox) -> Option<Folder<'a>> {
    let of_another = matches!(sending, Sending::OnBehalfOf | Sending::SendAs);
    match sent {
        SentItems::None => None,
        SentItems::OfMailbox if of_another => {
            Some(Folder::Distinguished("sentitems", Some(&mailbox.address)))
        }
        SentItems::OfSender | SentItems::OfMailbox => Some(Folder::Distinguished("sentitems", None)),
    }
}

/// The addresses of the fields To and Cc, by their keys; text that is no address is passed over.
fn named(header: &Headers<'_>) -> HashSet<String> {
    let mut found = HashSet::new();
    for field in ["To", "Cc"] {
        for value in header.all(field) {
            found.extend(addresses(&value));
        }
    }
    found
}

/// The keys of the addresses in a field (RFC 5322 3.4): in angle brackets, or between commas; comments and quoted names do not count.
fn addresses(value: &str) -> Vec<String> {
    let mut found = Vec::new();
    let (mut word, mut bracket): (String, Option<String>) = (String::new(), None);
    let (mut quoted, mut comment, mut escaped) = (false, 0_u32, false);
    let mut in_bracket = false;
    for c in value.chars().chain([',']) {
        if escaped {
            escaped = false;
            word.push(c);
            continue;
        }
        match c {
            '\\' if quoted || comment > 0 => {
                escaped = true;
                word.push(c);
            }
            '"' if comment == 0 => {
                quoted = !quoted;
                word.push(c);
            }
            _ if quoted => word.push(c),
            '(' => comment += 1,
            ')' if comment > 0 => comment -= 1,
            _ if comment > 0 => {}
            '<' => {
                word.clear();
                in_bracket = true;
            }
            '>' if in_bracket => {
                bracket = Some(std::mem::take(&mut word));
                in_bracket = false;
            }
            // the name of a group ends, its members follow
            ':' if !in_bracket => word.clear(),
            ',' | ';' if !in_bracket => {
                let text = bracket.take().unwrap_or_else(|| std::mem::take(&mut word));
                found.extend(EmailAddress::parse(text.trim()).ok().map(|address| address.key()));
                word.clear();
            }
            c => word.push(c),
        }
    }
    found
}

/// Recipients whom the header does not name; an error where the header names somebody who is no recipient.
fn blind<'a>(place: &str, message: &'a Outbound) -> Result<Vec<&'a EmailAddress>> {
    let header = Headers::new(&message.mime);
    let named = named(&header);
    let recipients: HashSet<String> = message.envelope.recipients.iter().map(EmailAddress::key).collect();
    if let Some(other) = named.iter().find(|key| !recipients.contains(*key)) {
        let text =
            format!("{place} sends to everybody whom To and Cc name, and {other} is not to get this message");
        return Err(Error::new(ErrorKind::Unsupported, text)
            .with_scope(Scope::Message)
            .with_hint("send it by SMTP, which has an envelope of its own"));
    }
    Ok(message.envelope.recipients.iter().filter(|address| !named.contains(&address.key())).collect())
}

/// Hands a message over.
pub(super) async fn submit(
    session: &mut Session,
    message: &Outbound,
    options: &SubmitOptions,
) -> Result<Receipt> {
    let (sending, sent, most) = {
        let settings = &session.client.settings;
        (settings.sending, settings.sent_items, settings.max_message_bytes)
    };
    let place = session.place.clone();
    let size = message.mime.len() as u64;
    if size > most {
        let text = format!("{place}: the message has {size} bytes; at most {most} are allowed here");
        return Err(Error::new(ErrorKind::TooLarge, text));
    }
    if message.envelope.recipients.is_empty() {
        let error = Error::new(ErrorKind::Settings, format!("{place}: the message has no recipient"));
        return Err(error.with_scope(Scope::Message));
    }
    let bcc = blind(&place, message)?;
    let mime = crlf(&message.mime);
    let mailbox = session.identity.mailbox.clone();
    let item = Item {
        mime: &mime,
        bcc: &bcc,
        from: matches!(sending, Sending::OnBehalfOf | Sending::SendAs).then_some(&mailbox.address),
        delivery_receipt: options.dsn.as_ref().is_some_and(|dsn| dsn.notify.success),
        copy: copies(sending, sent, &mailbox),
    };
    let doing = "send a message";
    match session.ask_one(&Operation::CreateItem(item), doing, sender(sending)).await {
        Ok(_) => Ok(Receipt {
            recipients: fates(message, RecipientStatus::Accepted, ""),
            reply: "NoError".to_owned(),
        }),
        Err(failure) => Err(refused(message, failure)),
    }
}

fn fates(message: &Outbound, status: RecipientStatus, reply: &str) -> Vec<RecipientResult> {
    let fate = |address: &EmailAddress| RecipientResult {
        address: address.clone(),
        status,
        reply: reply.to_owned(),
    };
    message.envelope.recipients.iter().map(fate).collect()
}

fn refused(message: &Outbound, failure: Failure) -> Error {
    let Failure { error, acted, .. } = failure;
    if acted {
        return error.with_retry(Retry::InDoubt);
    }
    if error.kind() == ErrorKind::RecipientsRefused {
        // Exchange does not say which of them it means, and takes none
        let reply = error.reply().unwrap_or_default().to_owned();
        return error.with_recipients(fates(message, RecipientStatus::Refused, &reply));
    }
    error
}

/// Looks for a message among the copies.
pub(super) async fn find(session: &mut Session, message_id: &MessageId) -> Result<Option<bool>> {
    let (sending, sent) = (session.client.settings.sending, session.client.settings.sent_items);
    let mailbox = session.identity.mailbox.clone();
    let Some(folder) = copies(sending, sent, &mailbox) else { return Ok(None) };
    let find = Operation::FindMessageId(folder, message_id);
    let answer = session.ask_one(&find, "look for a sent message", sender(sending)).await?;
    let items = answer.items();
    let same = |text: &String| MessageId::parse(text).as_ref() == Some(message_id);
    if items.iter().any(|item| item.message_id.as_ref().is_some_and(same)) {
        return Ok(Some(true));
    }
    // a server that gives something else has not understood the question
    Ok(items.is_empty().then_some(false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use email_router_model::MessageId;

    #[test]
    fn whom_a_field_names() {
        for (value, due) in [
            ("a@x.test", vec!["a@x.test"]),
            ("Ann <A@x.test>, \"Lee, Bob\" <b@x.test>", vec!["a@x.test", "b@x.test"]),
            ("undisclosed-recipients:;", vec![]),
            ("team: a@x.test, <b@x.test>; c@x.test", vec!["a@x.test", "b@x.test", "c@x.test"]),
            ("a@x.test (not z@x.test), \"<q@x.test>\" <c@x.test>", vec!["a@x.test", "c@x.test"]),
            ("\"quo\\\"ted, <d@x.test>\" <e@x.test>", vec!["e@x.test"]),
            ("nobody, <>, ,", vec![]),
        ] {
            assert_eq!(addresses(value), due, "{value}");
        }
    }

    #[test]
    fn who_is_blind_and_who_must_not_get_it() {
        let message = |header: &str, recipients: &[&str]| Outbound {
            envelope: crate::Envelope {
                sender: None,
                recipients: recipients.iter().map(|r| r.parse().unwrap()).collect(),
            },
            message_id: MessageId::parse("<a@b>").unwrap(),
            mime: format!("{header}\r\n\r\nbody").into(),
        };
        let with_bcc = message("To: a@x.test\r\nCC: Bob <b@x.test>", &["B@x.test", "a@x.test", "c@x.test"]);
        let blind_ones: Vec<_> =
            blind("p", &with_bcc).unwrap().iter().map(|a| a.as_str().to_owned()).collect();
        assert_eq!(blind_ones, ["c@x.test"]);
        let error = blind("p", &message("To: a@x.test, b@x.test", &["a@x.test"])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}
