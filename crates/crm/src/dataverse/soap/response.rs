//! What the server answers.

use serde_json::{Map, Value};
use std::time::Duration;

use super::tree::{Node, Ns};
use crate::dataverse::decides::service::{Page, Row};
use crate::dataverse::web_api::fault::{Fault, code, one_line, parse_code};

/// The first element of the body of an answer.
pub(super) fn body(document: &[u8]) -> Result<Node, String> {
    let envelope = Node::parse(document)?;
    if !envelope.is(Ns::Soap, "Envelope") {
        return Err(format!("the answer is {:?} and no SOAP", envelope.name()));
    }
    let body = envelope.child(Ns::Soap, "Body").ok_or("the answer has no body")?;
    body.children().first().cloned().ok_or_else(|| "the answer says nothing".to_owned())
}

/// The fault in an answer; `None`: it is no SOAP, or no fault. `status` is that of HTTP, which is 500 for whatever a fault is about.
pub(in crate::dataverse) fn fault(status: u16, document: &[u8]) -> Option<Fault> {
    let fault = body(document).ok().filter(|node| node.is(Ns::Soap, "Fault"))?;
    // SOAP 1.2 has Detail and Reason, SOAP 1.1 detail and faultstring without a namespace
    let detail = fault.named("Detail").or_else(|| fault.named("detail"));
    let said = detail.and_then(|detail| detail.child(Ns::Contracts, "OrganizationServiceFault"));
    let reason = || {
        let reason = fault.named("Reason").and_then(|reason| reason.named("Text"));
        reason.or_else(|| fault.named("faultstring")).map(Node::text).unwrap_or_default()
    };
    let code = said.and_then(|said| said.text_of(Ns::Contracts, "ErrorCode")).and_then(parse_code);
    let message = said.and_then(|said| said.text_of(Ns::Contracts, "Message")).unwrap_or_else(reason);
    let details = said.and_then(|said| said.child(Ns::Contracts, "ErrorDetails"));
    let retry_after = details.and_then(|details| {
        pairs(details).find(|(key, _)| *key == "Retry-After").and_then(|(_, value)| duration(value.text()))
    });
    let sender =
        fault.named("Code").and_then(|code| code.named("Value")).or_else(|| fault.named("faultcode"));
    // a fault that the client is to blame for, or that the server has a number for, will come again
    let status = match code {
        Some(code) if code::SERVICE_PROTECTION.contains(&code) => 429,
        Some(code::OBJECT_DOES_NOT_EXIST | code::RECORD_NOT_FOUND_BY_KEY) => 404,
        Some(code::PRIVILEGE_DENIED) => 403,
        Some(code::SQL_TIMEOUT | code::GENERIC_SQL | UNEXPECTED) => status,
        Some(_) => 400,
        None if sender.is_some_and(|code| {
            let code = code.text().trim();
            code.ends_with("Sender") || code.ends_with("Client")
        }) =>
        {
            400
        }
        None => status,
    };
    Some(Fault { status, code, message: one_line(message), request: None, retry_after })
}

/// UnExpected, which may be anything (2.8).
const UNEXPECTED: i32 = code::hex(0x8004_0216);

/// `00:00:05` (TimeSpan), `PT5S` (duration) or seconds.
fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    if let Some(time) = text.strip_prefix("PT") {
        let (mut seconds, mut number) = (0.0, String::new());
        for c in time.chars() {
            let unit = match c {
                'H' => 3600.0,
                'M' => 60.0,
                'S' => 1.0,
                c => {
                    number.push(c);
                    continue;
                }
            };
            seconds += number.parse::<f64>().ok()? * unit;
            number.clear();
        }
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let seconds = text.split(':').try_fold(0.0, |sum, part| Some(sum * 60.0 + part.parse::<f64>().ok()?))?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// Keys and values of a dictionary.
fn pairs(dictionary: &Node) -> impl Iterator<Item = (&str, &Node)> {
    dictionary
        .children()
        .iter()
        .filter_map(|pair| Some((pair.child(Ns::Generic, "key")?.text(), pair.child(Ns::Generic, "value")?)))
}

/// The results of an Execute by their names.
pub(super) fn results(answer: &Node) -> Option<Map<String, Value>> {
    let result = answer.child(Ns::Services, "ExecuteResult")?;
    let results = result.child(Ns::Contracts, "Results")?;
    Some(pairs(results).map(|(key, value)| (key.to_owned(), self::value(value))).collect())
}

/// The id in the answer to a Create.
pub(super) fn created(answer: &Node) -> Option<&str> {
    answer.text_of(Ns::Services, "CreateResult")
}

/// The row in the answer to a Retrieve.
pub(super) fn row(answer: &Node) -> Option<Row> {
    answer.child(Ns::Services, "RetrieveResult").map(entity)
}

/// The rows in the answer to a RetrieveMultiple.
pub(super) fn page(answer: &Node) -> Option<Page> {
    answer.child(Ns::Services, "RetrieveMultipleResult").map(collection)
}

fn collection(node: &Node) -> Page {
    let entities = node.child(Ns::Contracts, "Entities").map(Node::children).unwrap_or_default();
    Page {
        rows: entities.iter().filter(|child| child.is(Ns::Contracts, "Entity")).map(entity).collect(),
        more: node.text_of(Ns::Contracts, "MoreRecords") == Some("true"),
        cookie: node.text_of(Ns::Contracts, "PagingCookie").map(str::to_owned),
    }
}

fn entity(node: &Node) -> Row {
    let mut row = Map::new();
    let table = node.text_of(Ns::Contracts, "LogicalName");
    if let (Some(table), Some(id)) = (table, node.text_of(Ns::Contracts, "Id")) {
        // an activity's own column is activitypointer's
        row.insert(format!("{table}id"), Value::from(id));
    }
    if let Some(attributes) = node.child(Ns::Contracts, "Attributes") {
        for (key, value) in pairs(attributes) {
            match self::value(value) {
                Value::Null => {}
                value => {
                    row.insert(key.to_owned(), value);
                }
            }
        }
    }
    Row(row)
}

/// A value by its type; of a type that is not known its text.
fn value(node: &Node) -> Value {
    if node.is_nil() {
        return Value::Null;
    }
    let text = node.text().trim();
    match node.kind() {
        Some((Ns::Schema, "boolean")) => Value::from(matches!(text, "true" | "1")),
        Some((Ns::Schema, "int" | "long" | "short" | "byte")) => {
            text.parse::<i64>().map_or_else(|_| Value::from(text), Value::from)
        }
        Some((Ns::Contracts, "OptionSetValue" | "Money")) => {
            let value = node.text_of(Ns::Contracts, "Value").unwrap_or_default();
            value.parse::<i64>().map_or_else(|_| Value::from(value), Value::from)
        }
        Some((Ns::Contracts, "EntityReference")) => {
            let of = |name| node.text_of(Ns::Contracts, name);
            Row::reference_value(
                of("Id").unwrap_or_default(),
                of("LogicalName").unwrap_or_default(),
                of("Name"),
            )
        }
        // a column of a linked table
        Some((Ns::Contracts, "AliasedValue")) => {
            node.child(Ns::Contracts, "Value").map_or(Value::Null, self::value)
        }
        Some((Ns::Contracts, "EntityCollection")) => {
            collection(node).rows.into_iter().map(|row| Value::Object(row.0)).collect()
        }
        Some((Ns::Contracts, "Entity")) => Value::Object(entity(node).0),
        // arrays of plain values
        Some((_, kind)) if kind.starts_with("ArrayOf") => node
            .children()
            .iter()
            .map(|item| match item.name() {
                "boolean" => Value::from(item.text().trim() == "true"),
                _ => Value::from(item.text()),
            })
            .collect(),
        _ => Value::from(node.text()),
    }
}
