//! Folders, the messages in them, and what changed there.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::query::{self, Filter, option};
use super::store::{Message, Shape, State, WELL_KNOWN, immutable_id, mutable_id, resource};
use super::wire::Heard;
use super::{Done, Refusal, Result, bad, json_body, refuse};

/// The query options of a first delta request.
const DELTA: [&str; 3] = ["$select", "$expand", "$top"];
const LISTING: [&str; 7] = ["$select", "$expand", "$top", "$skip", "$filter", "$orderby", "$count"];

pub(super) fn handle(state: &mut State, heard: &Heard, mailbox: &str, rest: &[&str]) -> Result {
    match (heard.method.as_str(), rest) {
        ("GET", []) => list(state, heard, mailbox),
        ("POST", []) => create(state, heard, mailbox),
        ("GET", [folder]) => {
            query::known(&heard.query(), &["$select"]).map_err(bad)?;
            let id = find(state, mailbox, folder)?;
            Ok(Done::Json(200, state.mailboxes[mailbox].folder_resource(&id)))
        }
        ("GET", [folder, "messages"]) => {
            let id = find(state, mailbox, folder)?;
            messages(state, heard, mailbox, Some(&id))
        }
        ("GET", [folder, "messages", "delta" | "delta()"]) => {
            let id = find(state, mailbox, folder)?;
            delta(state, heard, mailbox, &id)
        }
        _ => Err(bad("Resource not found for the segment.")),
    }
}

fn find(state: &State, mailbox: &str, name: &str) -> Result<String> {
    let found = state.mailboxes[mailbox].folder(name);
    found.ok_or_else(|| refuse(404, "ErrorItemNotFound", "The specified object was not found in the store."))
}

fn list(state: &State, heard: &Heard, mailbox: &str) -> Result {
    let query = heard.query();
    query::known(&query, &["$select", "$filter", "$top"]).map_err(bad)?;
    let owner = &state.mailboxes[mailbox];
    let ids = WELL_KNOWN
        .iter()
        .map(|(id, _)| (*id).to_owned())
        .chain(owner.folders.iter().map(|(id, _)| id.clone()));
    let all: Vec<Value> = ids.map(|id| owner.folder_resource(&id)).collect();
    let wanted = match option(&query, "$filter").map(query::filter).transpose().map_err(bad)? {
        None => all,
        Some(Filter::DisplayName(name)) => all
            .into_iter()
            .filter(|f| f["displayName"].as_str().is_some_and(|n| n.eq_ignore_ascii_case(&name)))
            .collect(),
        Some(_) => return Err(bad("Invalid filter clause.")),
    };
    Ok(Done::Json(200, json!({"value": wanted})))
}

fn create(state: &mut State, heard: &Heard, mailbox: &str) -> Result {
    let body = json_body(heard)?;
    let Some(name) = body["displayName"].as_str().filter(|n| !n.is_empty()) else {
        return Err(bad("displayName is required."));
    };
    let number = state.number();
    let Some(owner) = state.mailboxes.get_mut(mailbox) else { return Err(bad("no mailbox")) };
    let taken = |other: &str| other.eq_ignore_ascii_case(name);
    if WELL_KNOWN.iter().any(|(_, n)| taken(n)) || owner.folders.iter().any(|(_, n)| taken(n)) {
        return Err(refuse(409, "ErrorFolderExists", "A folder with the specified name already exists."));
    }
    let id = format!("folder-{number}");
    owner.folders.push((id.clone(), name.to_owned()));
    Ok(Done::Json(201, owner.folder_resource(&id)))
}

/// How a request wants its messages.
pub(super) fn shape(heard: &Heard) -> Result<Shape> {
    let query = heard.query();
    let (properties, field) = query::expand(&query).map_err(bad)?;
    Ok(Shape { select: query::select(&query).map_err(bad)?, properties, field, immutable: immutable(heard) })
}

fn immutable(heard: &Heard) -> bool {
    heard.header("prefer").is_some_and(|p| p.contains("IdType=\"ImmutableId\""))
}

fn page_size(heard: &Heard) -> usize {
    let preferred = heard.header("prefer").unwrap_or("").split(',');
    let size =
        preferred.filter_map(|p| p.trim().strip_prefix("odata.maxpagesize=")).find_map(|n| n.parse().ok());
    let query = heard.query();
    size.or_else(|| option(&query, "$top").and_then(|n| n.parse().ok())).unwrap_or(10).clamp(1, 1000)
}

/// The messages of a folder, or of the whole mailbox.
pub(super) fn messages(state: &State, heard: &Heard, mailbox: &str, folder: Option<&str>) -> Result {
    let query = heard.query();
    query::known(&query, &LISTING).map_err(bad)?;
    let filter = option(&query, "$filter").map(query::filter).transpose().map_err(bad)?;
    if let Some(order) = option(&query, "$orderby")
        && !["receivedDateTime", "receivedDateTime asc", "receivedDateTime desc"].contains(&order)
    {
        return Err(bad("The sort is not supported."));
    }
    let shape = shape(heard)?;
    let (top, skip) =
        (page_size(heard), option(&query, "$skip").and_then(|n| n.parse().ok()).unwrap_or(0_usize));
    let fits = |m: &&Message| match &filter {
        None => true,
        Some(Filter::MessageId(id)) => m.message_id == *id,
        Some(Filter::Field(name, value)) => query::field(&m.mime, name).as_deref() == Some(value),
        Some(Filter::Read(read)) => m.read == *read,
        Some(Filter::DisplayName(_)) => false,
    };
    let mut found: Vec<&Message> = state.mailboxes[mailbox]
        .messages
        .iter()
        .filter(|m| folder.is_none_or(|f| m.folder == f))
        .filter(fits)
        .collect();
    found.sort_by_key(|m| m.number);
    if option(&query, "$orderby").is_none_or(|o| o.ends_with("desc")) {
        found.reverse();
    }
    let more = found.len() > skip.saturating_add(top);
    let value: Vec<Value> = found.into_iter().skip(skip).take(top).map(|m| resource(m, &shape)).collect();
    let mut out = json!({"@odata.context": format!("{}/$metadata#messages", state.base), "value": value});
    if more {
        let kept: Vec<String> = query
            .iter()
            .filter(|(n, _)| n != "$skip")
            .map(|(n, v)| format!("{n}={}", v.replace('%', "%25").replace(' ', "%20").replace('&', "%26")))
            .chain([format!("$skip={}", skip + top)])
            .collect();
        let path = heard.target.split('?').next().unwrap_or("").trim_start_matches("/v1.0");
        out["@odata.nextLink"] = json!(format!("{}{path}?{}", state.base, kept.join("&")));
    }
    Ok(Done::Json(200, out))
}

/// What a token of a delta stands for.
struct Token {
    /// Changes after this one,
    from: u64,
    /// and up to this one.
    upto: u64,
    /// Of which so many were told.
    told: usize,
    shape: Shape,
}

impl Token {
    fn write(&self, epoch: u64, folder: &str) -> String {
        let Self { from, upto, told, shape } = self;
        let text = format!(
            "{epoch};{folder};{from};{upto};{told};{};{};{}",
            shape.properties,
            shape.immutable,
            shape.select.join(",")
        );
        BASE64_URL_SAFE_NO_PAD.encode(text)
    }

    fn read(text: &str, epoch: u64, folder: &str) -> Option<Self> {
        let text = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let parts: Vec<&str> = text.split(';').collect();
        let [e, f, from, upto, told, properties, immutable, select] = parts[..] else { return None };
        if e != epoch.to_string() || f != folder {
            return None;
        }
        let select = select.split(',').filter(|s| !s.is_empty()).map(str::to_owned).collect();
        Some(Self {
            from: from.parse().ok()?,
            upto: upto.parse().ok()?,
            told: told.parse().ok()?,
            shape: Shape {
                select,
                properties: properties == "true",
                field: None,
                immutable: immutable == "true",
            },
        })
    }
}

fn delta(state: &mut State, heard: &Heard, mailbox: &str, folder: &str) -> Result {
    let query = heard.query();
    let owner = &state.mailboxes[mailbox];
    let gone = || -> Refusal {
        refuse(410, "syncStateNotFound", "The sync state generation is not found; synchronize anew.")
    };
    let mut token = match &query[..] {
        [(name, text)] if name == "$skiptoken" => Token::read(text, state.epoch, folder).ok_or_else(gone)?,
        [(name, text)] if name == "$deltatoken" => {
            let last = Token::read(text, state.epoch, folder).ok_or_else(gone)?;
            Token { from: last.upto, upto: owner.version, told: 0, shape: last.shape }
        }
        _ => {
            query::known(&query, &DELTA).map_err(bad)?;
            if state.expand_refused && option(&query, "$expand").is_some() {
                return Err(bad("$expand is not supported with delta."));
            }
            Token { from: 0, upto: owner.version, told: 0, shape: shape(heard)? }
        }
    };
    if immutable(heard) != token.shape.immutable {
        state
            .violations
            .push("a delta was begun with one kind of ids and continued with the other".to_owned());
    }
    let owner = &state.mailboxes[mailbox];
    let mut changes: Vec<(u64, Value)> = owner
        .messages
        .iter()
        .filter(|m| m.folder == folder && m.changed > token.from && m.changed <= token.upto)
        .map(|m| (m.changed, resource(m, &token.shape)))
        .collect();
    for (change, number, from) in
        owner.removed.iter().filter(|(v, _, f)| f == folder && *v > token.from && *v <= token.upto)
    {
        // one that came back is there
        if token.from > 0 && !owner.messages.iter().any(|m| m.number == *number && m.folder == folder) {
            let id = if token.shape.immutable {
                immutable_id(*number)
            } else {
                mutable_id(&Message { number: *number, folder: from.clone(), ..blank() })
            };
            changes.push((*change, json!({"id": id, "@removed": {"reason": "deleted"}})));
        }
    }
    changes.sort_by_key(|(change, _)| std::cmp::Reverse(*change));
    let size = page_size(heard);
    let more = changes.len() > token.told + size;
    let value: Vec<Value> = changes.into_iter().skip(token.told).take(size).map(|(_, v)| v).collect();
    let mut out =
        json!({"@odata.context": format!("{}/$metadata#Collection(message)", state.base), "value": value});
    token.told += size;
    let text = token.write(state.epoch, folder);
    let path = heard.target.split('?').next().unwrap_or("").trim_start_matches("/v1.0");
    let (link, name) =
        if more { ("@odata.nextLink", "$skiptoken") } else { ("@odata.deltaLink", "$deltatoken") };
    out[link] = json!(format!("{}{path}?{name}={text}", state.base));
    Ok(Done::Json(200, out))
}

fn blank() -> Message {
    Message {
        number: 0,
        folder: String::new(),
        mime: Vec::new(),
        read: false,
        draft: false,
        class: String::new(),
        travelled: false,
        message_id: String::new(),
        changed: 0,
        attachments: Vec::new(),
    }
}
