//! Handing over messages: sendMail, drafts, upload sessions.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::query::{addresses, field, fields, without_bcc};
use super::store::{State, Upload};
use super::wire::Heard;
use super::{Attached, Done, Result, Sent, bad, json_body, mail, refuse};

/// Pieces of an upload but the last are multiples of this.
const UNIT: usize = 320 * 1024;
/// An upload session is for attachments from this size on.
const LEAST_UPLOAD: usize = 3 << 20;

/// The MIME in a body of base64.
fn mime(heard: &Heard) -> Result<Vec<u8>> {
    let compact: Vec<u8> = heard.body.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
    let decoded = BASE64_STANDARD.decode(compact);
    decoded.map_err(|_| {
        refuse(400, "ErrorMimeContentInvalidBase64String", "Invalid base64 string for MIME content.")
    })
}

fn is_mime(heard: &Heard) -> bool {
    heard.header("content-type").is_some_and(|t| t.starts_with("text/plain"))
}

pub(super) fn send_mail(state: &mut State, heard: &Heard, mailbox: &str) -> Result {
    if heard.method != "POST" {
        return Err(refuse(405, "MethodNotAllowed", "Only POST."));
    }
    let (mime, keep) = if is_mime(heard) {
        (mime(heard)?, true)
    } else {
        let body = json_body(heard)?;
        let part = |name: &str| {
            let fields = body.as_object().into_iter().flatten();
            fields
                .filter(|(n, _)| n.eq_ignore_ascii_case(name))
                .map(|(_, v)| v)
                .next()
                .cloned()
                .unwrap_or_default()
        };
        (from_json(&part("message"), mailbox)?, part("saveToSentItems").as_bool().unwrap_or(true))
    };
    deliver(state, mailbox, &mime, Vec::new(), keep)?;
    Ok(Done::Empty(202))
}

/// A message out of its resource, as plain as can be.
fn from_json(message: &Value, mailbox: &str) -> Result<Vec<u8>> {
    let list = |name: &str| -> Vec<String> {
        let all = message[name].as_array().into_iter().flatten();
        all.filter_map(|r| r["emailAddress"]["address"].as_str()).map(|a| format!("<{a}>")).collect()
    };
    let mut out = format!("From: <{mailbox}>\r\nSubject: {}\r\n", message["subject"].as_str().unwrap_or(""));
    for (name, field) in [("toRecipients", "To"), ("ccRecipients", "Cc"), ("bccRecipients", "Bcc")] {
        let all = list(name);
        if !all.is_empty() {
            out.push_str(&format!("{field}: {}\r\n", all.join(", ")));
        }
    }
    for header in message["internetMessageHeaders"].as_array().into_iter().flatten() {
        let (name, value) = (header["name"].as_str().unwrap_or(""), header["value"].as_str().unwrap_or(""));
        if !name.to_lowercase().starts_with("x-") {
            let text = format!("The internet message header name '{name}' should start with 'x-' or 'X-'.");
            return Err(refuse(400, "InvalidInternetMessageHeader", text));
        }
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    out.push_str(&format!("\r\n{}", message["body"]["content"].as_str().unwrap_or("")));
    Ok(out.into_bytes())
}

/// Everything that may not happen to a message, and then its delivery.
fn deliver(
    state: &mut State,
    mailbox: &str,
    mime: &[u8],
    attachments: Vec<Attached>,
    keep: bool,
) -> Result<()> {
    let named = |name: &str| {
        let all = fields(mime).into_iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        all.flat_map(|(_, v)| addresses(&v.replace(['\r', '\n'], " "))).collect::<Vec<_>>()
    };
    let recipients: Vec<String> = ["To", "Cc", "Bcc"].into_iter().flat_map(named).collect();
    if recipients.is_empty() || recipients.iter().any(|r| state.refused.contains(&r.to_lowercase())) {
        return Err(refuse(400, "ErrorInvalidRecipients", "At least one recipient isn't valid."));
    }
    if let Some(from) = named("From").first().map(|f| f.to_lowercase()).filter(|f| f != mailbox) {
        let granted = state.mailboxes[mailbox].may_send_for.iter().find(|(other, _)| *other == from);
        let on_behalf = named("Sender").iter().any(|s| s.eq_ignore_ascii_case(mailbox));
        match granted {
            Some((_, only_behalf)) if !only_behalf || on_behalf => {}
            _ => {
                let text = "The user account which was used to submit this request does not have the right to send mail on behalf of the specified sending account.";
                return Err(refuse(403, "ErrorSendAsDenied", text));
            }
        }
    }
    let onward = without_bcc(mime);
    if keep {
        state.put(mailbox, "sentitems", mime, false);
    }
    state.sent.push(Sent { mailbox: mailbox.to_owned(), recipients, mime: onward, attachments });
    Ok(())
}

pub(super) fn create_draft(state: &mut State, heard: &Heard, mailbox: &str) -> Result {
    let mime = if is_mime(heard) { mime(heard)? } else { from_json(&json_body(heard)?, mailbox)? };
    let number = state.put(mailbox, "drafts", &mime, false);
    if let Some(message) = state.mailboxes.get_mut(mailbox).and_then(|m| m.messages.last_mut()) {
        message.draft = true;
    }
    let immutable = heard.header("prefer").is_some_and(|p| p.contains("ImmutableId"));
    Ok(Done::Json(201, mail::draft(state, mailbox, number, immutable)))
}

pub(super) fn send_draft(state: &mut State, mailbox: &str, place: usize) -> Result {
    let message = state.mailboxes[mailbox].messages[place].clone();
    if !message.draft {
        return Err(refuse(400, "ErrorInvalidOperation", "Not a draft."));
    }
    let mut mime = message.mime.clone();
    if field(&mime, "Message-ID").as_deref() != Some(&message.message_id) {
        mime = [format!("Message-ID: {}\r\n", message.message_id).as_bytes(), &mime].concat();
    }
    deliver(state, mailbox, &mime, message.attachments, false)?;
    if let Some(owner) = state.mailboxes.get_mut(mailbox) {
        owner.messages[place].draft = false;
        owner.moved(place, "sentitems");
    }
    Ok(Done::Empty(202))
}

pub(super) fn begin_upload(state: &mut State, heard: &Heard, mailbox: &str, place: usize) -> Result {
    let body = json_body(heard)?;
    let item = body["AttachmentItem"].clone();
    let (Some(total), Some("file")) = (item["size"].as_u64(), item["attachmentType"].as_str()) else {
        return Err(bad("AttachmentItem needs attachmentType, name and size."));
    };
    let total = usize::try_from(total).map_err(|_| bad("too large"))?;
    if total < LEAST_UPLOAD || item["name"].as_str().is_none_or(str::is_empty) {
        let text = "The size of the attachment is below the minimum for an upload session.";
        return Err(refuse(400, "ErrorAttachmentSizeShouldNotBeLessThanMinimumSize", text));
    }
    let session = format!("session-{}", state.number());
    let message = state.mailboxes[mailbox].messages[place].number;
    let upload = Upload { mailbox: mailbox.to_owned(), message, item, total, data: Vec::new(), pieces: 0 };
    state.uploads.insert(session.clone(), upload);
    let root = state.base.trim_end_matches("/v1.0");
    Ok(Done::Json(
        201,
        json!({
            "uploadUrl": format!("{root}/upload/{session}?authtoken=secret-of-{session}"),
            "expirationDateTime": "2099-01-01T00:00:00Z",
            "nextExpectedRanges": ["0-"],
        }),
    ))
}

/// Requests to the URL of an upload session.
pub(super) fn upload(state: &mut State, heard: &Heard, session: &str) -> Result {
    let Some(open) = state.uploads.get_mut(session) else {
        return Err(refuse(404, "ErrorItemNotFound", "The upload session is not found or has expired."));
    };
    if heard.header("authorization").is_some() {
        state.violations.push("an upload with an Authorization header".to_owned());
        return Err(refuse(401, "Unauthorized", "The URL is the authorization."));
    }
    let standing = |open: &Upload| json!({"expirationDateTime": "2099-01-01T00:00:00Z", "nextExpectedRanges": [open.data.len().to_string()]});
    match heard.method.as_str() {
        "GET" => return Ok(Done::Json(200, standing(open))),
        "DELETE" => {
            state.uploads.remove(session);
            return Ok(Done::Empty(204));
        }
        "PUT" => {}
        _ => return Err(refuse(405, "MethodNotAllowed", "No such method here.")),
    }
    let range = heard.header("content-range").and_then(|r| r.strip_prefix("bytes "));
    let parts = range.and_then(|r| {
        let (range, total) = r.split_once('/')?;
        let (start, end) = range.split_once('-')?;
        Some((start.parse::<usize>().ok()?, end.parse::<usize>().ok()?, total.parse::<usize>().ok()?))
    });
    let Some((start, end, total)) = parts else { return Err(bad("Content-Range is required.")) };
    if total != open.total || end < start || end >= total || end - start + 1 != heard.body.len() {
        return Err(bad("Content-Range does not fit."));
    }
    if start != open.data.len() {
        return Err(refuse(416, "ErrorInvalidRange", "The range is not the next one."));
    }
    if !heard.body.len().is_multiple_of(UNIT) && end + 1 != total {
        state.violations.push(format!("a piece of {} bytes is no multiple of 320 KiB", heard.body.len()));
        return Err(bad("The piece is no multiple of 320 KiB."));
    }
    open.data.extend_from_slice(&heard.body);
    open.pieces += 1;
    if open.data.len() < open.total {
        return Ok(Done::Json(200, standing(open)));
    }
    let Some(Upload { mailbox, message, item, data, pieces, .. }) = state.uploads.remove(session) else {
        return Err(bad("no session"));
    };
    let attached = Attached {
        name: item["name"].as_str().unwrap_or("").to_owned(),
        content: data,
        inline: item["isInline"].as_bool().unwrap_or(false),
        pieces,
    };
    let owner = state.mailboxes.get_mut(&mailbox);
    match owner.and_then(|owner| owner.messages.iter_mut().find(|m| m.number == message)) {
        Some(message) => message.attachments.push(attached),
        None => return Err(refuse(404, "ErrorItemNotFound", "The message is gone.")),
    }
    Ok(Done::Empty(201))
}

impl super::GraphServer {
    /// Ends every upload session before its upload does.
    pub fn expire_uploads(&self) {
        self.state().uploads.clear();
    }
}
