//! Reading rows: `$select`, `$filter`, `$orderby`, `$top`, `$expand`, pages, changes (`crm-contract.md` 11.6).

use std::cmp::Ordering;

use email_router_model::Timestamp;
use serde_json::{Map, Value, json};

use super::filter::{self, Expression, Property};
use super::schema::{Kind, Table};
use super::store::{Outcome, Row, Store, Versioned, no_set, refused};

/// The options of a request, decoded.
#[derive(Debug, Clone, Default)]
pub(super) struct Options {
    select: Vec<String>,
    filter: Option<Expression>,
    order: Vec<(String, bool)>,
    top: Option<usize>,
    parties: Option<Vec<String>>,
    skip: usize,
    delta: Option<u64>,
}

/// How a caller wants rows.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wish<'a> {
    pub(super) page: Option<usize>,
    pub(super) track: bool,
    pub(super) annotations: &'a str,
}

pub(super) fn options(store: &Store, table: &Table, query: &str) -> Outcome<Options> {
    let mut options = Options::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decode(name), decode(value));
        let list = |text: &str| text.split(',').map(|part| part.trim().to_owned()).collect::<Vec<_>>();
        match name.as_str() {
            "$select" => options.select = list(&value),
            "$filter" => {
                let parsed = filter::parse(&value).or_else(|words| refused(400, 0x8006_0888, words))?;
                for name in parsed.properties() {
                    known(table, name)?;
                }
                options.filter = Some(parsed);
            }
            "$orderby" => {
                for part in list(&value) {
                    let (name, direction) = part.split_once(' ').unwrap_or((&part, "asc"));
                    known(table, name)?;
                    options.order.push((name.to_owned(), direction == "desc"));
                }
            }
            "$top" => options.top = value.parse().ok(),
            "$expand" => {
                let inner = value
                    .strip_prefix("email_activity_parties")
                    .filter(|_| table.name == "email")
                    .map(|rest| rest.trim_start_matches("($select=").trim_end_matches(')').to_owned());
                let Some(inner) = inner else {
                    return refused(400, 0x8006_0888, format!("Could not find a property named '{value}'"));
                };
                let parties = if inner.is_empty() { Vec::new() } else { list(&inner) };
                if let Some(table) = store.named("activityparty") {
                    for name in &parties {
                        known(table, name)?;
                    }
                }
                options.parties = Some(parties);
            }
            "$skiptoken" => options.skip = value.parse().unwrap_or_default(),
            "$deltatoken" => options.delta = value.parse().ok(),
            other => {
                return refused(400, 0x8006_0888, format!("The query parameter {other} is not supported"));
            }
        }
    }
    for name in &options.select {
        known(table, name)?;
    }
    Ok(options)
}

/// A property as it is read: lookups as `_x_value`.
fn known(table: &Table, name: &str) -> Outcome<()> {
    let lookup = name.strip_prefix('_').and_then(|name| name.strip_suffix("_value"));
    let column = table.column(lookup.unwrap_or(name));
    let right = column.is_some_and(|column| matches!(column.kind, Kind::Lookup(_)) == lookup.is_some());
    if right {
        Ok(())
    } else {
        let words = format!(
            "Could not find a property named '{name}' on type 'Microsoft.Dynamics.CRM.{}'.",
            table.name
        );
        refused(400, 0x8006_0888, words)
    }
}

/// The value of a property.
fn value(row: &Row, name: &str) -> Value {
    match name.strip_prefix('_').and_then(|name| name.strip_suffix("_value")) {
        Some(lookup) => row.get(lookup).map_or(Value::Null, |lookup| lookup["id"].clone()),
        None => row.get(name).cloned().unwrap_or(Value::Null),
    }
}

/// A row as it is answered.
pub(super) fn shown(
    store: &Store,
    table: &Table,
    row: &Versioned,
    options: &Options,
    wish: Wish<'_>,
) -> Value {
    let mut out = Map::new();
    out.insert("@odata.etag".to_owned(), json!(format!("W/\"{}\"", row.version)));
    let all: Vec<String> = table
        .columns
        .iter()
        .map(|column| match column.kind {
            Kind::Lookup(_) => format!("_{}_value", column.name),
            _ => column.name.to_owned(),
        })
        .collect();
    let select = if options.select.is_empty() { &all } else { &options.select };
    properties(store, &mut out, &row.values, select, wish);
    out.entry(table.id.to_owned()).or_insert_with(|| value(&row.values, table.id));
    if let Some(parties) = &options.parties {
        let id = row.values.get(table.id).and_then(Value::as_str).unwrap_or_default();
        let rows = store.children("activityparty", id).into_iter().map(|row| {
            let mut out = Map::new();
            properties(store, &mut out, &row.values, parties, wish);
            Value::Object(out)
        });
        out.insert("email_activity_parties".to_owned(), rows.collect());
    }
    Value::Object(out)
}

fn properties(store: &Store, out: &mut Map<String, Value>, row: &Row, select: &[String], wish: Wish<'_>) {
    for name in select {
        out.insert(name.clone(), value(row, name));
        let lookup = name.strip_prefix('_').and_then(|name| name.strip_suffix("_value"));
        let Some(reference) = lookup.and_then(|lookup| row.get(lookup)).filter(|lookup| !lookup.is_null())
        else {
            continue;
        };
        let target = reference["table"].as_str().unwrap_or_default();
        if wish.annotations.contains("lookuplogicalname") || wish.annotations.contains('*') {
            out.insert(format!("{name}@Microsoft.Dynamics.CRM.lookuplogicalname"), json!(target));
        }
        if wish.annotations.contains("FormattedValue") || wish.annotations.contains('*') {
            let id = reference["id"].as_str().unwrap_or_default();
            let title = store.named(target).and_then(|table| store.row(target, id)?.values.get(table.title));
            if let Some(title) = title {
                out.insert(format!("{name}@OData.Community.Display.V1.FormattedValue"), title.clone());
            }
        }
    }
}

/// The answer to a query of a set. `base`: root and version, with a slash.
pub(super) fn list(
    store: &Store,
    set: &str,
    query: &str,
    base: &str,
    wish: Wish<'_>,
    expired_before: u64,
) -> Outcome<Value> {
    let Some(table) = store.table(set) else { return no_set(set) };
    let options = options(store, table, query)?;
    let narrowed = options.filter.is_some()
        || !options.order.is_empty()
        || options.top.is_some()
        || options.parties.is_some();
    if (wish.track || options.delta.is_some()) && narrowed {
        return refused(
            400,
            0x8006_0888,
            "Change tracking does not work together with $filter, $orderby, $expand and $top",
        );
    }
    if options.delta.is_some_and(|token| token < expired_before) {
        return refused(
            400,
            0x8006_0888,
            "The data change token in the request has expired; all must be read again",
        );
    }
    let rows = store.rows(table.name);
    let mut found: Vec<&Versioned> = rows
        .into_iter()
        .flat_map(|rows| rows.rows.values())
        .filter(|row| options.delta.is_none_or(|token| row.version > token))
        .filter(|row| options.filter.as_ref().is_none_or(|filter| matches(store, filter, row)))
        .collect();
    if !options.order.is_empty() {
        found.sort_by(|a, b| {
            options.order.iter().fold(Ordering::Equal, |order, (name, descending)| {
                let (a, b) = (value(&a.values, name), value(&b.values, name));
                order.then_with(|| if *descending { in_order(&b, &a) } else { in_order(&a, &b) })
            })
        });
    }
    found.truncate(options.top.unwrap_or(usize::MAX));
    let page = wish.page.unwrap_or(5000).min(5000);
    let mut values: Vec<Value> = found
        .iter()
        .skip(options.skip)
        .take(page)
        .map(|row| shown(store, table, row, &options, wish))
        .collect();
    let mut answer = json!({ "@odata.context": format!("{base}$metadata#{set}") });
    let rest: Vec<&str> = query
        .split('&')
        .filter(|pair| !pair.starts_with("$skiptoken") && !pair.starts_with("$deltatoken"))
        .collect();
    let link = |token: String| {
        let mut parts: Vec<String> =
            rest.iter().filter(|part| !part.is_empty()).map(|part| (*part).to_owned()).collect();
        parts.push(token);
        format!("{base}{set}?{}", parts.join("&"))
    };
    if options.skip + page < found.len() {
        let mut token = format!("$skiptoken={}", options.skip + page);
        if let Some(delta) = options.delta {
            token.push_str(&format!("&$deltatoken={delta}"));
        }
        answer["@odata.nextLink"] = json!(link(token));
    } else if wish.track || options.delta.is_some() {
        if let Some(token) = options.delta {
            let deleted = rows.into_iter().flat_map(|rows| rows.deleted.range(token + 1..));
            values.extend(deleted.map(|(_, id)| {
                json!({ "@odata.context": format!("{base}$metadata#{set}/$deletedEntity"), "id": id, "reason": "deleted" })
            }));
        }
        answer["@odata.deltaLink"] = json!(link(format!("$deltatoken={}", store.version)));
    }
    answer["value"] = Value::Array(values);
    Ok(answer)
}

fn matches(store: &Store, filter: &Expression, row: &Versioned) -> bool {
    let property = |name: &str| value(&row.values, name);
    let id = row.values.get("activityid").and_then(Value::as_str).unwrap_or_default().to_owned();
    let rows = |name: &str| -> Vec<Property> {
        if name != "email_activity_parties" {
            return Vec::new();
        }
        let parties = store.children("activityparty", &id);
        parties
            .into_iter()
            .map(|row| {
                let row = row.values.clone();
                Box::new(move |name: &str| value(&row, name)) as Property
            })
            .collect()
    };
    filter.matches(&property, &rows)
}

fn in_order(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Null, Value::Null) => Ordering::Equal,
        (Value::Null, _) => Ordering::Less,
        (_, Value::Null) => Ordering::Greater,
        (Value::Number(a), Value::Number(b)) => a.as_i64().cmp(&b.as_i64()),
        (Value::String(a), Value::String(b)) => match (a.parse::<Timestamp>(), b.parse::<Timestamp>()) {
            (Ok(a), Ok(b)) => a.cmp(&b),
            _ => a.to_lowercase().cmp(&b.to_lowercase()),
        },
        _ => a.to_string().cmp(&b.to_string()),
    }
}

/// Without percent-encoding; `+` is a space, as in forms: who means a plus sign writes `%2B` (11.7).
pub(super) fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(if bytes[at] == b'+' { b' ' } else { bytes[at] });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
