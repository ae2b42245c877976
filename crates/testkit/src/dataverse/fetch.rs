//! FetchXML: attributes, filters of conditions joined by and/or, linked tables, order, pages. What it does not know is refused, as the platform does.

use std::cmp::Ordering;

use email_router_model::Timestamp;
use serde_json::{Map, Value, json};

use super::schema::{Kind, Table};
use super::store::{Outcome, Store, Versioned, refused};
use super::xml::{self, Element};

/// A column of a row that a query found.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    /// `name`, or `alias.name`.
    pub(super) key: String,
    pub(super) table: &'static str,
    pub(super) column: String,
    pub(super) kind: Kind,
    pub(super) value: Value,
    pub(super) aliased: bool,
}

/// A row that a query found: its id, and its columns that are not empty.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) id: String,
    pub(super) cells: Vec<Cell>,
}

/// What a query finds.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) table: Table,
    pub(super) rows: Vec<Found>,
    pub(super) more: bool,
    pub(super) cookie: String,
}

fn bad<T>(words: impl Into<String>) -> Outcome<T> {
    refused(400, 0x8004_1100, format!("Invalid query: {}", words.into()))
}

fn no_attribute<T>(table: &str, name: &str) -> Outcome<T> {
    let words = format!(
        "'{table}' entity doesn't contain attribute with Name = '{name}' and NameMapping = 'Logical'."
    );
    refused(400, 0x8004_1103, words)
}

/// A column's kind; the number of a row's version is one, too.
fn kind_of(table: &Table, name: &str) -> Outcome<Kind> {
    match table.column(name) {
        Some(column) => Ok(column.kind.clone()),
        None if name == "versionnumber" => Ok(Kind::Number),
        None => no_attribute(table.name, name),
    }
}

fn value_of(row: &Versioned, name: &str) -> Value {
    match name {
        "versionnumber" => json!(row.version),
        _ => row.values.get(name).cloned().unwrap_or(Value::Null),
    }
}

/// An id, or that of the record a lookup points to.
fn id_of(value: &Value) -> Option<String> {
    value.get("id").unwrap_or(value).as_str().map(str::to_lowercase)
}

/// Finds what a query asks for.
pub(super) fn run(store: &Store, text: &str) -> Outcome<Page> {
    let fetch = xml::parse(text).or_else(bad)?;
    if fetch.name.1 != "fetch" || fetch.children.len() != 1 || fetch.children[0].name.1 != "entity" {
        return bad("one entity in fetch");
    }
    if let Some(unknown) = fetch.attributes.iter().find(|((_, name), _)| {
        !["version", "mapping", "count", "page", "paging-cookie", "top", "distinct"].contains(&name.as_str())
    }) {
        return bad(format!("the attribute {} of fetch", unknown.0.1));
    }
    let number = |name: &str| match fetch.attribute(name) {
        None => Ok(None),
        Some(text) => match text.parse::<usize>() {
            Ok(number) => Ok(Some(number)),
            Err(_) => bad(format!("{name} is {text}")),
        },
    };
    let entity = &fetch.children[0];
    let name = entity.attribute("name").unwrap_or_default();
    let Some(table) = store.named(name).cloned() else {
        return refused(
            400,
            0x8004_1102,
            format!("The entity with a name = '{name}' was not found in the MetadataCache."),
        );
    };
    let mut rows: Vec<(&Versioned, Found)> = Vec::new();
    let empty = std::collections::BTreeMap::new();
    for (id, row) in store.rows(table.name).map_or(&empty, |rows| &rows.rows) {
        let found = Found { id: id.clone(), cells: cells(&table, entity, row, None)? };
        let mut joined = vec![found];
        if !passes(&table, entity, row)? {
            joined.clear();
        }
        for link in entity.children.iter().filter(|child| child.name.1 == "link-entity") {
            joined = join(store, &table, row, link, joined)?;
        }
        rows.extend(joined.into_iter().map(|found| (row, found)));
    }
    // what is asked for is checked also where there are no rows
    check(&table, entity)?;
    let orders: Vec<_> = entity.children.iter().filter(|child| child.name.1 == "order").collect();
    rows.sort_by(|(a, x), (b, y)| {
        for order in &orders {
            let name = order.attribute("attribute").unwrap_or_default();
            let ordering = compare(&value_of(a, name), &value_of(b, name));
            let ordering =
                if order.attribute("descending") == Some("true") { ordering.reverse() } else { ordering };
            if ordering != Ordering::Equal {
                return ordering;
            }
        }
        x.id.cmp(&y.id)
    });
    let mut rows: Vec<Found> = rows.into_iter().map(|(_, found)| found).collect();
    if let Some(top) = number("top")? {
        if fetch.attribute("page").is_some() {
            return bad("top and page together");
        }
        rows.truncate(top);
    }
    let (count, page) = (number("count")?.unwrap_or(5000), number("page")?.unwrap_or(1));
    if !(1..=5000).contains(&count) || page == 0 {
        return bad("count is 1 to 5000, and page 1 or more");
    }
    if page > 1 && fetch.attribute("paging-cookie") != Some(cookie(page - 1, table.id).as_str()) {
        return bad("the paging-cookie of the page before");
    }
    let more = rows.len() > page * count;
    let rows = rows.into_iter().skip((page - 1) * count).take(count).collect();
    Ok(Page { cookie: cookie(page, table.id), table, rows, more })
}

fn cookie(page: usize, id: &str) -> String {
    format!("<cookie page=\"{page}\"><{id} last=\"{{1 & 2}}\" first=\"{{0}}\" /></cookie>")
}

fn check(table: &Table, entity: &Element) -> Outcome<()> {
    for child in &entity.children {
        match child.name.1.as_str() {
            "attribute" => kind_of(table, child.attribute("name").unwrap_or_default()).map(drop)?,
            "order" => kind_of(table, child.attribute("attribute").unwrap_or_default()).map(drop)?,
            "filter" => check_filter(table, child)?,
            "all-attributes" | "link-entity" => {}
            other => return bad(format!("the element {other}")),
        }
    }
    Ok(())
}

fn check_filter(table: &Table, filter: &Element) -> Outcome<()> {
    for child in &filter.children {
        match child.name.1.as_str() {
            "condition" => kind_of(table, child.attribute("attribute").unwrap_or_default()).map(drop)?,
            "filter" => check_filter(table, child)?,
            other => return bad(format!("the element {other} in a filter")),
        }
    }
    Ok(())
}

fn cells(table: &Table, entity: &Element, row: &Versioned, alias: Option<&str>) -> Outcome<Vec<Cell>> {
    let mut cells = Vec::new();
    for attribute in entity.children.iter().filter(|child| child.name.1 == "attribute") {
        let name = attribute.attribute("name").unwrap_or_default();
        let (kind, value) = (kind_of(table, name)?, value_of(row, name));
        if !value.is_null() {
            let key = alias.map_or_else(|| name.to_owned(), |alias| format!("{alias}.{name}"));
            let column = name.to_owned();
            cells.push(Cell { key, table: table.name, column, kind, value, aliased: alias.is_some() });
        }
    }
    Ok(cells)
}

fn join(
    store: &Store,
    table: &Table,
    row: &Versioned,
    link: &Element,
    before: Vec<Found>,
) -> Outcome<Vec<Found>> {
    let need = |name: &str| match link.attribute(name) {
        Some(value) => Ok(value),
        None => bad(format!("link-entity has no {name}")),
    };
    let Some(other) = store.named(need("name")?).cloned() else { return bad("link-entity names no table") };
    let (from, to, alias) = (need("from")?, need("to")?, need("alias")?);
    kind_of(&other, from)?;
    kind_of(table, to)?;
    check(&other, link)?;
    let key = id_of(&value_of(row, to));
    let mut matching = Vec::new();
    for linked in store.rows(other.name).into_iter().flat_map(|rows| rows.rows.values()) {
        if key.is_some() && id_of(&value_of(linked, from)) == key && passes(&other, link, linked)? {
            matching.push(cells(&other, link, linked, Some(alias))?);
        }
    }
    let outer = link.attribute("link-type") == Some("outer");
    let mut after = Vec::new();
    for found in before {
        if matching.is_empty() && outer {
            after.push(found.clone());
        }
        for cells in &matching {
            let mut joined = found.clone();
            joined.cells.extend(cells.iter().cloned());
            after.push(joined);
        }
    }
    Ok(after)
}

/// All filters of an entity or a linked one.
fn passes(table: &Table, entity: &Element, row: &Versioned) -> Outcome<bool> {
    for filter in entity.children.iter().filter(|child| child.name.1 == "filter") {
        if !filtered(table, filter, row)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn filtered(table: &Table, filter: &Element, row: &Versioned) -> Outcome<bool> {
    let any = filter.attribute("type") == Some("or");
    let mut results = Vec::new();
    for child in &filter.children {
        results.push(match child.name.1.as_str() {
            "filter" => filtered(table, child, row)?,
            _ => holds(table, child, row)?,
        });
    }
    Ok(if any { results.contains(&true) } else { !results.contains(&false) })
}

fn holds(table: &Table, condition: &Element, row: &Versioned) -> Outcome<bool> {
    let name = condition.attribute("attribute").unwrap_or_default();
    let (kind, value) = (kind_of(table, name)?, value_of(row, name));
    let operator = condition.attribute("operator").unwrap_or_default();
    let values: Vec<Value> = match condition.attribute("value") {
        Some(text) => vec![typed(&kind, text)?],
        None => condition.children.iter().map(|child| typed(&kind, &child.text)).collect::<Outcome<_>>()?,
    };
    match (operator, values.as_slice()) {
        ("null", []) => return Ok(value.is_null()),
        ("not-null", []) => return Ok(!value.is_null()),
        ("in", [_, ..]) => {
            return Ok(values
                .iter()
                .any(|wanted| !value.is_null() && compare(&value, wanted) == Ordering::Equal));
        }
        _ => {}
    }
    let [wanted] = values.as_slice() else { return bad(format!("the values of {operator}")) };
    if value.is_null() {
        return Ok(operator == "ne");
    }
    let ordering = compare(&value, wanted);
    Ok(match operator {
        "eq" => ordering == Ordering::Equal,
        "ne" => ordering != Ordering::Equal,
        "gt" => ordering == Ordering::Greater,
        "ge" => ordering != Ordering::Less,
        "lt" => ordering == Ordering::Less,
        "le" => ordering != Ordering::Greater,
        "like" => {
            let (text, pattern) = (text_of(&value), text_of(wanted));
            match pattern.strip_suffix('%') {
                Some(start) => text.starts_with(start),
                None => text == pattern,
            }
        }
        other => return bad(format!("the operator {other}")),
    })
}

/// The text of a condition as a value of the column's kind.
fn typed(kind: &Kind, text: &str) -> Outcome<Value> {
    Ok(match kind {
        Kind::Number => match text.parse::<i64>() {
            Ok(number) => json!(number),
            Err(_) => return bad(format!("{text:?} is no number")),
        },
        Kind::Flag => match text {
            "1" | "true" => json!(true),
            "0" | "false" => json!(false),
            _ => return bad(format!("{text:?} is neither true nor false")),
        },
        Kind::Id | Kind::Lookup(_) if !super::store::is_id(text) => {
            return bad(format!("{text:?} is no GUID"));
        }
        Kind::Time if text.parse::<Timestamp>().is_err() => return bad(format!("{text:?} is no time")),
        _ => json!(text),
    })
}

fn text_of(value: &Value) -> String {
    value.get("id").unwrap_or(value).as_str().unwrap_or_default().to_lowercase()
}

/// Without regard to letter case, as SQL Server does; times as times.
fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_i64().cmp(&b.as_i64()),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Null, Value::Null) => Ordering::Equal,
        (Value::Null, _) => Ordering::Less,
        (_, Value::Null) => Ordering::Greater,
        _ => {
            let (a, b) = (text_of(a), text_of(b));
            match (a.to_uppercase().parse::<Timestamp>(), b.to_uppercase().parse::<Timestamp>()) {
                (Ok(a), Ok(b)) => a.cmp(&b),
                _ => a.cmp(&b),
            }
        }
    }
}

/// The rows as the Web API answers them.
pub(super) fn json_of(store: &Store, page: &Page) -> Value {
    let rows: Vec<Value> = page.rows.iter().map(|found| row_json(store, page.table.id, found)).collect();
    let mut answer = json!({ "value": rows, "@Microsoft.Dynamics.CRM.morerecords": page.more });
    if page.more {
        let encoded = encode(&encode(&page.cookie));
        answer["@Microsoft.Dynamics.CRM.fetchxmlpagingcookie"] =
            json!(format!("<cookie pagenumber=\"2\" pagingcookie=\"{encoded}\" istracking=\"False\" />"));
    }
    answer
}

pub(super) fn row_json(store: &Store, id: &str, found: &Found) -> Value {
    let mut row = Map::new();
    row.insert(id.to_owned(), json!(found.id));
    for cell in &found.cells {
        if let Kind::Lookup(_) = cell.kind {
            // of a linked table the name stays as it is
            let key = if cell.aliased { cell.key.clone() } else { format!("_{}_value", cell.key) };
            let table = cell.value["table"].clone();
            if let Some(name) = title(store, &cell.value) {
                row.insert(format!("{key}@OData.Community.Display.V1.FormattedValue"), json!(name));
            }
            row.insert(format!("{key}@Microsoft.Dynamics.CRM.lookuplogicalname"), table);
            row.insert(key, cell.value["id"].clone());
        } else {
            row.insert(cell.key.clone(), cell.value.clone());
        }
    }
    Value::Object(row)
}

/// The name of the record that a lookup points to.
pub(super) fn title(store: &Store, lookup: &Value) -> Option<String> {
    let table = store.named(lookup["table"].as_str()?)?;
    let row = store.row(table.name, lookup["id"].as_str()?)?;
    row.values.get(table.title)?.as_str().map(str::to_owned)
}

fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
            byte => format!("%{byte:02x}"),
        })
        .collect()
}
