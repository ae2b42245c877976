//! Pages of listings and deltas.

use email_router_model::Timestamp;
use serde_json::Value;
use url::Url;

use super::{Malformed, link, text};

/// The extended property that holds the size of a message (`PidTagMessageSize`, [MS-OXCMSG] and [MS-OXPROPS]), as Graph names it.
pub const SIZE: &str = "Integer 0x0E08";
/// The one that holds its class (`PidTagMessageClass`).
pub const CLASS: &str = "String 0x001A";

/// The query of a listing; `expand`: also ask for size and class.
#[must_use]
pub fn listing_query(expand: bool) -> String {
    let select = "$select=receivedDateTime,conversationId,parentFolderId";
    if !expand {
        return select.to_owned();
    }
    let filter = format!("singleValueExtendedProperties($filter=id eq '{SIZE}' or id eq '{CLASS}')");
    format!("{select}&$expand={}", link::query(&filter))
}

/// One page.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// What is new or changed, and what is gone, in the order of the page.
    pub changes: Vec<Change>,
    /// Where the next page is.
    pub next: Option<Url>,
    /// Where the changes after this page are asked for, on the last page of a delta.
    pub delta: Option<Url>,
}

/// One entry of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The message is there, with what the page tells of it.
    Present(String, Item),
    /// The message left the folder (`@removed`).
    Removed(String),
}

/// What a page tells of a message; a change may tell only what changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Item {
    /// When it was received.
    pub received: Option<Timestamp>,
    /// Its size in bytes.
    pub size: Option<u64>,
    /// The conversation it is in.
    pub conversation: Option<String>,
    /// Its class.
    pub class: Option<String>,
}

impl Item {
    /// Takes over what a later page tells.
    pub fn update(&mut self, later: Self) {
        self.received = later.received.or(self.received);
        self.size = later.size.or(self.size);
        self.conversation = later.conversation.or(self.conversation.take());
        self.class = later.class.or(self.class.take());
    }
}

/// Reads a page; links are followed only within the service at `base`.
///
/// # Errors
/// [`Malformed`] where there is no list, a message has no id, or a link leads away.
pub fn read(base: &Url, body: &[u8]) -> Result<Page, Malformed> {
    let page = super::json(body)?;
    let mut changes = Vec::new();
    for entry in entries(&page)? {
        let id = id(entry)?;
        changes.push(match entry.get("@removed") {
            Some(removed) if !removed.is_null() => Change::Removed(id),
            _ => Change::Present(id, item(entry)),
        });
    }
    let (next, delta) =
        (page_link(base, &page, "@odata.nextLink")?, page_link(base, &page, "@odata.deltaLink")?);
    Ok(Page { changes, next, delta })
}

/// The list of a page, whatever it is of.
///
/// # Errors
/// [`Malformed`] where there is none.
pub fn entries(page: &Value) -> Result<&[Value], Malformed> {
    match page.get("value") {
        Some(Value::Array(entries)) => Ok(entries),
        _ => Err(Malformed::new("the answer holds no list")),
    }
}

/// A link of a page.
///
/// # Errors
/// [`Malformed`] where it leads away.
pub fn page_link(base: &Url, page: &Value, field: &str) -> Result<Option<Url>, Malformed> {
    match page.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(link)) => link::followed(base, link).map(Some),
        Some(_) => Err(Malformed(format!("{field} is no text"))),
    }
}

/// The id of an entry.
///
/// # Errors
/// [`Malformed`] where there is none.
pub fn id(entry: &Value) -> Result<String, Malformed> {
    match text(entry, "id") {
        Some(id) if !id.is_empty() => Ok(id.to_owned()),
        _ => Err(Malformed::new("an entry of the list has no id")),
    }
}

fn item(entry: &Value) -> Item {
    let mut item = Item {
        received: text(entry, "receivedDateTime").and_then(|t| t.parse().ok()),
        conversation: text(entry, "conversationId").filter(|c| !c.is_empty()).map(str::to_owned),
        ..Item::default()
    };
    let properties = entry.get("singleValueExtendedProperties").and_then(Value::as_array);
    for property in properties.into_iter().flatten() {
        let (Some(id), Some(value)) = (text(property, "id"), text(property, "value")) else { continue };
        // the service writes the tag in its own way: Integer 0xe08
        match id.rsplit_once("0x").and_then(|(_, tag)| u32::from_str_radix(tag, 16).ok()) {
            Some(0x0E08) => item.size = value.parse().ok(),
            Some(0x001A) => item.class = Some(value.to_owned()).filter(|v| !v.is_empty()),
            _ => {}
        }
    }
    item
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Url {
        Url::parse("https://graph.microsoft.com/v1.0").unwrap()
    }

    #[test]
    fn a_page_of_a_delta() {
        let body = br#"{"@odata.context":"x","unknown":[1],"value":[
            {"@odata.etag":"W/1","id":"A","receivedDateTime":"2024-01-02T03:04:05Z","conversationId":"C",
             "singleValueExtendedProperties":[{"id":"Integer 0xe08","value":"1234"},{"id":"String 0x1a","value":"IPM.Note"}]},
            {"id":"B","receivedDateTime":null,"conversationId":7},
            {"id":"C","@removed":{"reason":"deleted"}}],
            "@odata.nextLink":"https://graph.microsoft.com/v1.0/users/a/x?$skiptoken=1"}"#;
        let page = read(&base(), body).unwrap();
        let item = Item {
            received: Some("2024-01-02T03:04:05Z".parse().unwrap()),
            size: Some(1234),
            conversation: Some("C".to_owned()),
            class: Some("IPM.Note".to_owned()),
        };
        assert_eq!(
            page.changes,
            [
                Change::Present("A".to_owned(), item),
                Change::Present("B".to_owned(), Item::default()),
                Change::Removed("C".to_owned())
            ]
        );
        assert!(page.next.is_some() && page.delta.is_none());
    }

    #[test]
    fn what_is_no_page() {
        for body in [
            "",
            "<html>",
            "[]",
            "{}",
            r#"{"value":{}}"#,
            r#"{"value":null}"#,
            r#"{"value":[{}]}"#,
            r#"{"value":[{"id":5}]}"#,
            r#"{"value":[null]}"#,
            r#"{"value":[],"@odata.nextLink":5}"#,
            r#"{"value":[],"@odata.deltaLink":"https://elsewhere.example/v1.0/x"}"#,
        ] {
            assert!(read(&base(), body.as_bytes()).is_err(), "{body}");
        }
        assert!(read(&base(), "\u{feff}{\"value\":[]}".as_bytes()).is_ok());
    }

    #[test]
    fn a_change_tells_only_what_changed() {
        let mut item = Item { size: Some(5), class: Some("IPM.Note".to_owned()), ..Item::default() };
        item.update(Item { conversation: Some("c".to_owned()), ..Item::default() });
        assert_eq!(
            (item.size, item.class.as_deref(), item.conversation.as_deref()),
            (Some(5), Some("IPM.Note"), Some("c"))
        );
    }
}
