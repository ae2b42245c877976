//! The mailboxes of the fake service.

use std::collections::{HashMap, HashSet};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::query::{addresses, field, fields};

/// The well-known folders and their display names.
pub(crate) const WELL_KNOWN: [(&str, &str); 5] = [
    ("inbox", "Inbox"),
    ("drafts", "Drafts"),
    ("sentitems", "Sent Items"),
    ("deleteditems", "Deleted Items"),
    ("archive", "Archive"),
];

#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) number: u64,
    pub(crate) folder: String,
    pub(crate) mime: Vec<u8>,
    pub(crate) read: bool,
    pub(crate) draft: bool,
    pub(crate) class: String,
    /// Whether `internetMessageHeaders` tells anything; not for what never was on the way.
    pub(crate) travelled: bool,
    pub(crate) message_id: String,
    /// The change by which it got where and as it is.
    pub(crate) changed: u64,
    pub(crate) attachments: Vec<super::Attached>,
}

#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    pub(crate) messages: Vec<Message>,
    /// Ids and names of folders that were created.
    pub(crate) folders: Vec<(String, String)>,
    pub(crate) rules: Vec<Value>,
    /// Change, number and folder of what left a folder.
    pub(crate) removed: Vec<(u64, u64, String)>,
    pub(crate) version: u64,
    pub(crate) in_flight: usize,
    /// Addresses that may be named as From, and whether only on behalf.
    pub(crate) may_send_for: Vec<(String, bool)>,
}

#[derive(Debug)]
pub(crate) struct Upload {
    pub(crate) mailbox: String,
    pub(crate) message: u64,
    pub(crate) item: Value,
    pub(crate) total: usize,
    pub(crate) data: Vec<u8>,
    pub(crate) pieces: usize,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) mailboxes: HashMap<String, Mailbox>,
    pub(crate) next: u64,
    /// Tokens of another epoch are not known any more.
    pub(crate) epoch: u64,
    pub(crate) uploads: HashMap<String, Upload>,
    pub(crate) sent: Vec<super::Sent>,
    pub(crate) requests: Vec<String>,
    pub(crate) violations: Vec<String>,
    pub(crate) faults: Vec<super::Planned>,
    pub(crate) refused: HashSet<String>,
    pub(crate) most_in_flight: usize,
    pub(crate) expand_refused: bool,
    pub(crate) rewrites_ids: bool,
    pub(crate) base: String,
}

impl State {
    pub(crate) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Puts a message into a folder.
    pub(crate) fn put(&mut self, mailbox: &str, folder: &str, mime: &[u8], travelled: bool) -> u64 {
        let number = self.number();
        let mime = written_anew(mime);
        let mut message_id = field(&mime, "Message-ID").unwrap_or_default();
        if message_id.is_empty() || (self.rewrites_ids && !travelled) {
            message_id = format!("<made-{number}@fake.example>");
        }
        let owner = self.mailboxes.entry(mailbox.to_lowercase()).or_default();
        owner.version += 1;
        owner.messages.push(Message {
            number,
            folder: folder.to_owned(),
            mime,
            read: false,
            draft: false,
            class: "IPM.Note".to_owned(),
            travelled,
            message_id,
            changed: owner.version,
            attachments: Vec::new(),
        });
        number
    }
}

/// Exchange keeps no MIME but writes it anew, always with the empty line behind the header.
fn written_anew(mime: &[u8]) -> Vec<u8> {
    let ended = mime.windows(3).any(|w| w == b"\n\r\n") || mime.windows(2).any(|w| w == b"\n\n");
    let mut out = mime.to_vec();
    if !ended {
        out.extend_from_slice(if mime.ends_with(b"\n") { b"\r\n" } else { b"\r\n\r\n" });
    }
    out
}

impl Mailbox {
    /// The place of a message by either kind of id.
    pub(crate) fn find(&self, id: &str) -> Option<usize> {
        self.messages.iter().position(|m| immutable_id(m.number) == id || mutable_id(m) == id)
    }

    pub(crate) fn moved(&mut self, place: usize, folder: &str) {
        if self.messages[place].folder == folder {
            return;
        }
        self.version += 1;
        let message = &mut self.messages[place];
        self.removed.push((
            self.version,
            message.number,
            std::mem::replace(&mut message.folder, folder.to_owned()),
        ));
        message.changed = self.version;
    }

    pub(crate) fn erased(&mut self, place: usize) {
        self.version += 1;
        let message = self.messages.remove(place);
        self.removed.push((self.version, message.number, message.folder));
    }

    pub(crate) fn touched(&mut self, place: usize) {
        self.version += 1;
        self.messages[place].changed = self.version;
    }

    /// The id of a folder by its id or well-known name.
    pub(crate) fn folder(&self, name: &str) -> Option<String> {
        let lower = name.to_lowercase();
        let known = WELL_KNOWN.iter().find(|(id, _)| *id == lower).map(|(id, _)| (*id).to_owned());
        known.or_else(|| self.folders.iter().find(|(id, _)| id == name).map(|(id, _)| id.clone()))
    }

    pub(crate) fn folder_resource(&self, id: &str) -> Value {
        let name = WELL_KNOWN.iter().find(|(known, _)| *known == id).map(|(_, name)| (*name).to_owned());
        let name =
            name.or_else(|| self.folders.iter().find(|(own, _)| own == id).map(|(_, name)| name.clone()));
        let total = self.messages.iter().filter(|m| m.folder == id).count();
        let unread = self.messages.iter().filter(|m| m.folder == id && !m.read).count();
        json!({"id": id, "displayName": name, "totalItemCount": total, "unreadItemCount": unread})
    }
}

pub(crate) fn immutable_id(number: u64) -> String {
    format!("AAkALg{}=", BASE64_URL_SAFE_NO_PAD.encode(format!("message {number:06}")))
}

/// The id that changes with the folder.
pub(crate) fn mutable_id(message: &Message) -> String {
    format!("AAMkAG{}=", BASE64_URL_SAFE_NO_PAD.encode(format!("{} {:06}", message.folder, message.number)))
}

/// What is asked for of a message resource.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shape {
    pub(crate) select: Vec<String>,
    pub(crate) properties: bool,
    /// A header field that is asked for as a property.
    pub(crate) field: Option<String>,
    pub(crate) immutable: bool,
}

pub(crate) fn resource(message: &Message, shape: &Shape) -> Value {
    let id = if shape.immutable { immutable_id(message.number) } else { mutable_id(message) };
    let people = |name: &str| -> Vec<Value> {
        let list = field(&message.mime, name).unwrap_or_default();
        addresses(&list).into_iter().map(|a| json!({"emailAddress": {"name": a, "address": a}})).collect()
    };
    let second = message.number % 60;
    let minute = message.number / 60 % 60;
    let hour = message.number / 3600 % 24;
    let day = 1 + message.number / 86_400 % 28;
    let received = format!("2024-05-{day:02}T{hour:02}:{minute:02}:{second:02}Z");
    let headers: Vec<Value> =
        fields(&message.mime).into_iter().map(|(n, v)| json!({"name": n, "value": v})).collect();
    let body =
        message.mime.windows(4).position(|w| w == b"\r\n\r\n").map_or(&[][..], |at| &message.mime[at + 4..]);
    let all = json!({
        "receivedDateTime": received, "sentDateTime": received, "createdDateTime": received,
        "conversationId": format!("conversation-{}", message.number),
        "parentFolderId": message.folder, "internetMessageId": message.message_id,
        "subject": field(&message.mime, "Subject"), "isRead": message.read, "isDraft": message.draft,
        "from": people("From").first(), "sender": people("From").first(),
        "toRecipients": people("To"), "ccRecipients": people("Cc"), "bccRecipients": [],
        "hasAttachments": !message.attachments.is_empty(), "importance": "normal",
        "bodyPreview": "", "body": {"contentType": "text", "content": String::from_utf8_lossy(body)},
        "internetMessageHeaders": if message.travelled { json!(headers) } else { Value::Null },
    });
    let mut out = json!({"@odata.etag": format!("W/\"{}\"", message.changed), "id": id});
    for (name, value) in all.as_object().into_iter().flatten() {
        // the header fields come only when they are asked for
        let wanted = if shape.select.is_empty() {
            name != "internetMessageHeaders"
        } else {
            shape.select.contains(name)
        };
        if wanted {
            out[name] = value.clone();
        }
    }
    if shape.properties {
        out["singleValueExtendedProperties"] = json!([
            {"id": "Integer 0xe08", "value": message.mime.len().to_string()},
            {"id": "String 0x1a", "value": message.class},
        ]);
    }
    if let Some(value) = shape.field.as_ref().and_then(|name| field(&message.mime, name)) {
        out["singleValueExtendedProperties"] = json!([{"id": "String {00020386}", "value": value}]);
    }
    out
}
