//! Single messages: reading, marking, moving, deleting; drafts and their attachments.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::folders::{messages, shape};
use super::store::{Shape, State, resource};
use super::wire::Heard;
use super::{Attached, Done, Result, bad, json_body, query, refuse, sending};

/// An attachment beyond this needs an upload session.
const LARGE: usize = 3 << 20;

pub(super) fn handle(state: &mut State, heard: &Heard, mailbox: &str, rest: &[&str]) -> Result {
    let [id, action @ ..] = rest else {
        return match heard.method.as_str() {
            "GET" => messages(state, heard, mailbox, None),
            "POST" => sending::create_draft(state, heard, mailbox),
            _ => Err(refuse(405, "MethodNotAllowed", "No such method here.")),
        };
    };
    let found = state.mailboxes[mailbox].find(id);
    let Some(place) = found else {
        return Err(refuse(404, "ErrorItemNotFound", "The specified object was not found in the store."));
    };
    let allowed: &[&str] =
        if action.is_empty() && heard.method == "GET" { &["$select", "$expand"] } else { &[] };
    query::known(&heard.query(), allowed).map_err(bad)?;
    match (heard.method.as_str(), action) {
        ("GET", []) => {
            Ok(Done::Json(200, resource(&state.mailboxes[mailbox].messages[place], &shape(heard)?)))
        }
        ("GET", ["$value"]) => Ok(Done::Raw(200, state.mailboxes[mailbox].messages[place].mime.clone())),
        ("PATCH", []) => patch(state, heard, mailbox, place),
        ("DELETE", []) => {
            let owner = state.mailboxes.get_mut(mailbox).ok_or_else(|| bad("no mailbox"))?;
            let message = &owner.messages[place];
            if message.folder == "deleteditems" || message.draft {
                owner.erased(place);
            } else {
                owner.moved(place, "deleteditems");
            }
            Ok(Done::Empty(204))
        }
        ("POST", ["move"]) => {
            let body = json_body(heard)?;
            // names of parameters have no letter case
            let fields = body.as_object().into_iter().flatten();
            let to =
                fields.filter(|(n, _)| n.eq_ignore_ascii_case("destinationId")).find_map(|(_, v)| v.as_str());
            let owner = state.mailboxes.get_mut(mailbox).ok_or_else(|| bad("no mailbox"))?;
            let Some(folder) = to.and_then(|to| owner.folder(to)) else {
                return Err(refuse(
                    404,
                    "ErrorFolderNotFound",
                    "The specified folder could not be found in the store.",
                ));
            };
            owner.moved(place, &folder);
            Ok(Done::Json(201, resource(&owner.messages[place], &shape(heard)?)))
        }
        ("POST", ["permanentDelete"]) => {
            let owner = state.mailboxes.get_mut(mailbox).ok_or_else(|| bad("no mailbox"))?;
            owner.erased(place);
            Ok(Done::Empty(204))
        }
        ("POST", ["send"]) => sending::send_draft(state, mailbox, place),
        ("POST", ["attachments"]) => attach(state, heard, mailbox, place),
        ("POST", ["attachments", "createUploadSession"]) => {
            sending::begin_upload(state, heard, mailbox, place)
        }
        _ => Err(bad("Resource not found for the segment.")),
    }
}

fn patch(state: &mut State, heard: &Heard, mailbox: &str, place: usize) -> Result {
    let body = json_body(heard)?;
    let owner = state.mailboxes.get_mut(mailbox).ok_or_else(|| bad("no mailbox"))?;
    for (name, value) in body.as_object().ok_or_else(|| bad("No object."))? {
        let message = &mut owner.messages[place];
        match (name.as_str(), value) {
            // an annotation, such as the type, changes nothing
            (name, _) if name.starts_with('@') => {}
            ("isRead", Value::Bool(read)) => message.read = *read,
            ("internetMessageId", Value::String(id)) if message.draft => message.message_id.clone_from(id),
            ("internetMessageId", _) => return Err(refuse(400, "ErrorInvalidPropertySet", "Not a draft.")),
            _ => return Err(bad(format!("The property '{name}' cannot be changed here."))),
        }
    }
    owner.touched(place);
    Ok(Done::Json(200, resource(&owner.messages[place], &shape(heard)?)))
}

fn attach(state: &mut State, heard: &Heard, mailbox: &str, place: usize) -> Result {
    let body = json_body(heard)?;
    if body["@odata.type"] != "#microsoft.graph.fileAttachment" {
        return Err(bad("An attachment has a type."));
    }
    let (Some(name), Some(content)) = (body["name"].as_str(), body["contentBytes"].as_str()) else {
        return Err(bad("An attachment has a name and bytes."));
    };
    let content = BASE64_STANDARD.decode(content).map_err(|_| bad("contentBytes is no base64."))?;
    if content.len() >= LARGE {
        return Err(refuse(413, "RequestEntityTooLarge", "Use an upload session."));
    }
    let owner = state.mailboxes.get_mut(mailbox).ok_or_else(|| bad("no mailbox"))?;
    let inline = body["isInline"].as_bool().unwrap_or(false);
    owner.messages[place].attachments.push(Attached { name: name.to_owned(), content, inline, pieces: 0 });
    Ok(Done::Json(201, json!({"id": "attachment", "name": name})))
}

/// The resource of a new draft.
pub(super) fn draft(state: &State, mailbox: &str, number: u64, immutable: bool) -> Value {
    let shape = Shape { immutable, ..Shape::default() };
    let found = state.mailboxes[mailbox].messages.iter().find(|m| m.number == number);
    found.map(|m| resource(m, &shape)).unwrap_or_default()
}
