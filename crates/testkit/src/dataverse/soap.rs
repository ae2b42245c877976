//! The Organization Service at `/XRMServices/2011/Organization.svc/web` (`crm-contract.md` 4). Strict: namespaces, types, the order of members and the fields of
//! the header must be right; answers have the shape of recorded ones.

use serde_json::{Map, Value, json};

use super::fetch::{self, Cell, Found};
use super::schema::{Kind, Table};
use super::store::{self, Outcome, Refused, Store, refused};
use super::xml::{self, Element};
use super::{ORGANIZATION, ROUTER, State, messages};
use crate::http::{Answer, Seen};

/// The path behind the root.
pub(super) const PATH: &str = "/XRMServices/2011/Organization.svc/web";

const ENVELOPE: &str = "http://schemas.xmlsoap.org/soap/envelope/";
const SERVICES: &str = "http://schemas.microsoft.com/xrm/2011/Contracts/Services";
const CONTRACTS: &str = "http://schemas.microsoft.com/xrm/2011/Contracts";
const CRM: &str = "http://schemas.microsoft.com/crm/2011/Contracts";
const GENERIC: &str = "http://schemas.datacontract.org/2004/07/System.Collections.Generic";
const ARRAYS: &str = "http://schemas.microsoft.com/2003/10/Serialization/Arrays";
const SERIALIZATION: &str = "http://schemas.microsoft.com/2003/10/Serialization/";
const SCHEMA: &str = "http://www.w3.org/2001/XMLSchema";

/// Columns whose value is one of several.
const CHOICES: [&str; 12] = [
    "statecode",
    "statuscode",
    "prioritycode",
    "deliveryprioritycode",
    "participationtypemask",
    "incomingemaildeliverymethod",
    "outgoingemaildeliverymethod",
    "emailrouteraccessapproval",
    "incomingemailfilteringmethod",
    "notifications",
    "correlationmethod",
    "emailconnectionchannel",
];

/// What the deserializer of the server does not understand.
fn broken<T>(words: impl Into<String>) -> Outcome<T> {
    refused(
        500,
        0,
        format!("The formatter threw an exception while trying to deserialize the message: {}", words.into()),
    )
}

/// A value that a request has, of a type that is known.
#[derive(Debug, Clone)]
enum Typed {
    Text(String),
    Int(i64),
    Flag(bool),
    Time(String),
    Id(String),
    Choice(i64),
    Reference(String, String),
    Fetch(String),
    Entities(Vec<Map<String, Value>>),
}

impl State {
    /// One request.
    pub(super) fn soap(&mut self, seen: &Seen) -> Answer {
        let done = self.soap_request(seen);
        let (status, body) = match done {
            Ok(body) => (200, body),
            Err(Refused(_, code, words)) => (500, fault(code, &words)),
        };
        let text = format!("<s:Envelope xmlns:s=\"{ENVELOPE}\"><s:Body>{body}</s:Body></s:Envelope>");
        Answer::new(status).body("text/xml; charset=utf-8", text)
    }

    fn soap_request(&mut self, seen: &Seen) -> Outcome<String> {
        if seen.method != "POST" || seen.header("content-type") != Some("text/xml; charset=utf-8") {
            return broken("SOAP 1.1 is posted as text/xml; charset=utf-8");
        }
        let envelope = xml::parse(&seen.text()).or_else(broken)?;
        if envelope.name != (ENVELOPE.to_owned(), "Envelope".to_owned()) {
            return broken("the envelope");
        }
        let Some(body) = envelope.child(ENVELOPE, "Body").filter(|body| body.children.len() == 1) else {
            return broken("the body");
        };
        let operation = &body.children[0];
        let name = operation.name.1.as_str();
        let action = format!("\"{SERVICES}/IOrganizationService/{name}\"");
        if operation.name.0 != SERVICES || seen.header("soapaction") != Some(action.as_str()) {
            return broken(format!("the operation {name} with the action {:?}", seen.header("soapaction")));
        }
        let header = envelope.child(ENVELOPE, "Header");
        let caller = header.and_then(|header| header.child(CONTRACTS, "CallerId")).map(|id| id.text.clone());
        if header.is_some_and(|header| header.children.len() != usize::from(caller.is_some())) {
            return broken("the header");
        }
        let result = match name {
            "Execute" => self.execute(child(operation, SERVICES, "request")?, caller.as_deref())?,
            "Retrieve" => self.soap_retrieve(operation)?,
            "RetrieveMultiple" => {
                let Typed::Fetch(query) = typed(child(operation, SERVICES, "query")?)? else {
                    return broken("the query");
                };
                let page = fetch::run(&self.store, &query)?;
                self.allowed(page.table.name, "Read")?;
                let inside = collection(&self.store, page.table.name, &page.rows, page.more, &page.cookie);
                format!("<RetrieveMultipleResult {NAMES}>{inside}</RetrieveMultipleResult>")
            }
            "Create" => {
                let (table, _, row) = self.entity(child(operation, SERVICES, "entity")?, true)?;
                self.allowed(table.name, "Create")?;
                let id = self.store.fresh_id();
                self.store.create(table.set, &id, &row)?;
                format!("<CreateResult>{id}</CreateResult>")
            }
            "Update" => {
                let (table, id, row) = self.entity(child(operation, SERVICES, "entity")?, false)?;
                self.allowed(table.name, "Write")?;
                if row.contains_key("statecode") || row.contains_key("statuscode") {
                    return refused(400, 0x8004_0203, "The state of a record is changed by SetState.");
                }
                self.store.update(table.set, &id, &row)?;
                String::new()
            }
            _ => return broken(format!("the operation {name}")),
        };
        Ok(format!("<{name}Response xmlns=\"{SERVICES}\">{result}</{name}Response>"))
    }

    fn soap_retrieve(&mut self, operation: &Element) -> Outcome<String> {
        let text = |name: &str| child(operation, SERVICES, name).map(|child| child.text.clone());
        let (table, id) = (text("entityName")?, text("id")?);
        let columns = child(child(operation, SERVICES, "columnSet")?, CONTRACTS, "Columns")?;
        let mut query = format!("<fetch><entity name=\"{table}\">");
        for column in &columns.children {
            if column.name != (ARRAYS.to_owned(), "string".to_owned()) {
                return broken("the columns");
            }
            query.push_str(&format!("<attribute name=\"{}\"/>", column.text));
        }
        let key = self.store.named(&table).map_or("", |table| table.id);
        query.push_str(&format!(
            "<filter><condition attribute=\"{key}\" operator=\"eq\" value=\"{id}\"/></filter></entity></fetch>"
        ));
        let page = fetch::run(&self.store, &query)?;
        self.allowed(page.table.name, "Read")?;
        let Some(found) = page.rows.first() else { return store::missing(&table, &id) };
        let inside = entity_xml(&self.store, page.table.name, found);
        Ok(format!("<RetrieveResult {NAMES}>{inside}</RetrieveResult>"))
    }

    fn execute(&mut self, request: &Element, caller: Option<&str>) -> Outcome<String> {
        members(request, &["Parameters", "RequestId", "RequestName"])?;
        let name = child(request, CONTRACTS, "RequestName")?.text.clone();
        if request.kind != Some((CRM.to_owned(), format!("{name}Request"))) {
            return broken(format!("the type {:?} of the request {name}", request.kind));
        }
        if caller.is_some() && name != "GetTrackingTokenEmail" {
            return broken("a caller where none is needed");
        }
        let given = pairs(child(request, CONTRACTS, "Parameters")?)?;
        let names: Vec<&str> = given.iter().map(|(name, _)| name.as_str()).collect();
        let wrong = |what: &str| broken::<String>(format!("{what} of {name}"));
        let results: Vec<(&str, String)> = match (name.as_str(), names.as_slice()) {
            ("WhoAmI", []) => {
                [("UserId", ROUTER), ("BusinessUnitId", ORGANIZATION), ("OrganizationId", ORGANIZATION)]
                    .map(|(name, id)| (name, plain("guid", SERIALIZATION, id)))
                    .into()
            }
            ("RetrieveVersion", []) => vec![("Version", plain("string", SCHEMA, self.server_version))],
            ("SetState", ["EntityMoniker", "State", "Status"]) => {
                let (Typed::Reference(table, id), Typed::Choice(state), Typed::Choice(status)) =
                    (&given[0].1, &given[1].1, &given[2].1)
                else {
                    return wrong("the types");
                };
                let Some(set) = self.store.named(table).map(|table| table.set) else {
                    return wrong("the table");
                };
                let body = json!({ "statecode": state, "statuscode": status });
                if let Value::Object(body) = body {
                    self.store.update(set, &id.to_lowercase(), &body)?;
                }
                Vec::new()
            }
            ("CheckIncomingEmail", _) => {
                let parameters = json_of(&given);
                messages::exactly(&parameters, &["MessageId", "Subject", "From", "To", "Cc", "Bcc"])?;
                let (yes, reason) = messages::check(&self.store, &parameters)?;
                vec![
                    ("ShouldDeliver", plain("boolean", SCHEMA, if yes { "true" } else { "false" })),
                    ("ReasonCode", plain("int", SCHEMA, &reason.to_string())),
                ]
            }
            ("DeliverIncomingEmail", _) => {
                let id = messages::deliver(&mut self.store, &json_of(&given))?;
                vec![("EmailId", plain("guid", SERIALIZATION, &id))]
            }
            ("BackgroundSendEmail", ["Query"]) => {
                let Typed::Fetch(query) = &given[0].1 else { return wrong("the query") };
                let (page, attached) = messages::background_send(&mut self.store, query)?;
                let inside = collection(&self.store, "email", &page.rows, false, "");
                let flags: String =
                    attached.iter().map(|has| format!("<f:boolean>{has}</f:boolean>")).collect();
                vec![
                    ("EntityCollection", format!(" i:type=\"b:EntityCollection\">{inside}")),
                    ("HasAttachments", format!(" i:type=\"f:ArrayOfboolean\" xmlns:f=\"{ARRAYS}\">{flags}")),
                ]
            }
            ("SendEmail", ["EmailId", "IssueSend", "TrackingToken"]) => {
                let (Typed::Id(id), Typed::Flag(issue)) = (&given[0].1, &given[1].1) else {
                    return wrong("the types");
                };
                let body = json!({ "IssueSend": issue });
                if let Value::Object(body) = body {
                    self.send_email(&format!("emails({id})"), &body)?;
                }
                vec![("Subject", plain("string", SCHEMA, ""))]
            }
            ("GetTrackingTokenEmail", ["Subject"]) => {
                let token = messages::tracking_token(&mut self.store, caller, &self.denied)?;
                vec![("TrackingToken", plain("string", SCHEMA, &token))]
            }
            _ => return refused(400, 0x8004_0203, format!("The request {name} with {names:?} is not known")),
        };
        let inside: String = results
            .into_iter()
            .map(|(key, value)| {
                format!("<b:KeyValuePairOfstringanyType><d:key>{key}</d:key><d:value{value}</d:value></b:KeyValuePairOfstringanyType>")
            })
            .collect();
        Ok(format!(
            "<ExecuteResult {NAMES} xmlns:c=\"{CRM}\" i:type=\"c:{name}Response\"><b:ResponseName>{name}</b:ResponseName>\
             <b:Results xmlns:d=\"{GENERIC}\">{inside}</b:Results></ExecuteResult>"
        ))
    }

    /// An Entity: its table, id and row in the form that the Web API takes.
    fn entity(&self, entity: &Element, is_new: bool) -> Outcome<(Table, String, Map<String, Value>)> {
        members(
            entity,
            &["Attributes", "EntityState", "FormattedValues", "Id", "LogicalName", "RelatedEntities"],
        )?;
        let name = &child(entity, CONTRACTS, "LogicalName")?.text;
        let id = child(entity, CONTRACTS, "Id")?.text.to_lowercase();
        if !store::is_id(&id) || (is_new != (id == "00000000-0000-0000-0000-000000000000")) {
            return broken(format!("the id {id}"));
        }
        let Some(table) = self.store.named(name).cloned() else { return broken(format!("the table {name}")) };
        let mut row = Map::new();
        for (key, typed) in pairs(child(entity, CONTRACTS, "Attributes")?)? {
            let Some(column) = table.column(&key) else {
                let words = format!("'{name}' entity doesn't contain attribute with Name = '{key}'.");
                return refused(400, 0x8004_1103, words);
            };
            let (key, value) = match (&column.kind, typed) {
                (Kind::Text(..) | Kind::Memo | Kind::Binary, Typed::Text(text)) => (key, json!(text)),
                (Kind::Number, Typed::Choice(number)) if CHOICES.contains(&column.name) => {
                    (key, json!(number))
                }
                (Kind::Number, Typed::Int(number)) if !CHOICES.contains(&column.name) => (key, json!(number)),
                (Kind::Flag, Typed::Flag(flag)) => (key, json!(flag)),
                (Kind::Time, Typed::Time(time)) => (key, json!(time)),
                (Kind::Lookup(_), Typed::Reference(target, id)) => {
                    let set = self.store.named(&target).map_or("", |table| table.set);
                    let Some(navigation) = table.navigation(column, &target) else {
                        return broken(format!("{key} points to {target}"));
                    };
                    (format!("{navigation}@odata.bind"), json!(format!("/{set}({id})")))
                }
                (_, typed) => {
                    let words = format!("Incorrect attribute value type {typed:?} of {key}");
                    return refused(400, 0x8004_0203, words);
                }
            };
            row.insert(key, value);
        }
        Ok((table, id, row))
    }
}

const NAMES: &str = "xmlns:b=\"http://schemas.microsoft.com/xrm/2011/Contracts\" xmlns:i=\"http://www.w3.org/2001/XMLSchema-instance\"";

fn child<'a>(element: &'a Element, ns: &str, name: &str) -> Outcome<&'a Element> {
    match element.child(ns, name) {
        Some(child) => Ok(child),
        None => broken(format!("{} has no {name} of {ns}", element.name.1)),
    }
}

/// The members of a data contract are read in the order of the alphabet; one that comes late is passed over in silence, so it is refused here.
fn members(element: &Element, names: &[&str]) -> Outcome<()> {
    let given: Vec<&str> = element.children.iter().map(|child| child.name.1.as_str()).collect();
    if given == names && element.children.iter().all(|child| child.name.0 == CONTRACTS) {
        return Ok(());
    }
    broken(format!("the members {given:?} of {}", element.name.1))
}

fn pairs(dictionary: &Element) -> Outcome<Vec<(String, Typed)>> {
    let mut pairs = Vec::new();
    for pair in &dictionary.children {
        if pair.name != (CONTRACTS.to_owned(), "KeyValuePairOfstringanyType".to_owned()) {
            return broken(format!("{} in {}", pair.name.1, dictionary.name.1));
        }
        let (key, value) = (child(pair, GENERIC, "key")?, child(pair, GENERIC, "value")?);
        pairs.push((key.text.clone(), typed(value)?));
    }
    Ok(pairs)
}

fn typed(value: &Element) -> Outcome<Typed> {
    let Some((ns, kind)) = &value.kind else { return broken("a value without a type") };
    let text = value.text.clone();
    let number = |text: &str| text.parse::<i64>().or_else(|_| broken(format!("{text:?} is no number")));
    let inner = |name: &str| child(value, CONTRACTS, name);
    Ok(match (ns.as_str(), kind.as_str()) {
        (SCHEMA, "string") => Typed::Text(text),
        (SCHEMA, "int") => Typed::Int(number(&text)?),
        (SCHEMA, "boolean") => match text.as_str() {
            "true" => Typed::Flag(true),
            "false" => Typed::Flag(false),
            _ => return broken(format!("{text:?} is no boolean")),
        },
        (SCHEMA, "dateTime") => Typed::Time(text),
        (SERIALIZATION, "guid") if store::is_id(&text) => Typed::Id(text),
        (CONTRACTS, "OptionSetValue") => Typed::Choice(number(&inner("Value")?.text)?),
        (CONTRACTS, "EntityReference") => {
            members(value, &["Id", "LogicalName", "Name"])?;
            if !inner("Name")?.is_nil() {
                return broken("a name");
            }
            Typed::Reference(inner("LogicalName")?.text.clone(), inner("Id")?.text.clone())
        }
        (CONTRACTS, "FetchExpression") => Typed::Fetch(inner("Query")?.text.clone()),
        (CONTRACTS, "EntityCollection") => {
            members(
                value,
                &[
                    "Entities",
                    "EntityName",
                    "MinActiveRowVersion",
                    "MoreRecords",
                    "PagingCookie",
                    "TotalRecordCount",
                    "TotalRecordCountLimitExceeded",
                ],
            )?;
            if inner("EntityName")?.text != "activitymimeattachment" {
                return broken("attachments that are none");
            }
            let mut rows = Vec::new();
            for entity in &inner("Entities")?.children {
                rows.push(json_of(&pairs(child(entity, CONTRACTS, "Attributes")?)?));
            }
            Typed::Entities(rows)
        }
        (ns, kind) => return broken(format!("the type {kind} of {ns}")),
    })
}

/// Parameters as the Web API has them.
fn json_of(given: &[(String, Typed)]) -> Map<String, Value> {
    given
        .iter()
        .map(|(key, typed)| {
            let value = match typed {
                Typed::Text(text) | Typed::Time(text) | Typed::Id(text) | Typed::Fetch(text) => json!(text),
                Typed::Int(number) | Typed::Choice(number) => json!(number),
                Typed::Flag(flag) => json!(flag),
                Typed::Reference(table, id) => json!({ "table": table, "id": id }),
                Typed::Entities(rows) => json!(rows),
            };
            (key.clone(), value)
        })
        .collect()
}

fn escape(text: &str) -> String {
    // as the platform writes it: line feeds stay, carriage returns are a reference
    quick_xml::escape::escape(text).replace('\r', "&#xD;")
}

/// A value of a plain type; the tag is open.
fn plain(kind: &str, ns: &str, text: &str) -> String {
    format!(" xmlns:e=\"{ns}\" i:type=\"e:{kind}\">{}", escape(text))
}

fn cell_xml(store: &Store, cell: &Cell) -> String {
    let text = cell.value.as_str().unwrap_or_default();
    match &cell.kind {
        Kind::Id => plain("guid", SERIALIZATION, text),
        Kind::Text(..) | Kind::Memo | Kind::Binary => plain("string", SCHEMA, text),
        Kind::Flag => plain("boolean", SCHEMA, &cell.value.to_string()),
        Kind::Time => plain("dateTime", SCHEMA, text),
        Kind::Number if cell.column == "versionnumber" => plain("long", SCHEMA, &cell.value.to_string()),
        Kind::Number if CHOICES.contains(&cell.column.as_str()) => {
            format!(" i:type=\"b:OptionSetValue\"><b:Value>{}</b:Value>", cell.value)
        }
        Kind::Number => plain("int", SCHEMA, &cell.value.to_string()),
        Kind::Lookup(_) => {
            let name = fetch::title(store, &cell.value).map_or_else(
                || "<b:Name i:nil=\"true\"/>".to_owned(),
                |name| format!("<b:Name>{}</b:Name>", escape(&name)),
            );
            format!(
                " i:type=\"b:EntityReference\"><b:Id>{}</b:Id><b:LogicalName>{}</b:LogicalName>{name}",
                cell.value["id"].as_str().unwrap_or_default(),
                cell.value["table"].as_str().unwrap_or_default()
            )
        }
    }
}

/// The members of an Entity.
fn entity_xml(store: &Store, table: &str, found: &Found) -> String {
    let mut attributes = String::new();
    for cell in &found.cells {
        let value = cell_xml(store, cell);
        let value = if cell.aliased {
            format!(
                " i:type=\"b:AliasedValue\"><b:AttributeLogicalName>{}</b:AttributeLogicalName><b:EntityLogicalName>{}</b:EntityLogicalName>\
                 <b:Value{value}</b:Value>",
                cell.column, cell.table
            )
        } else {
            value
        };
        attributes.push_str(&format!(
            "<b:KeyValuePairOfstringanyType><c:key>{}</c:key><c:value{value}</c:value></b:KeyValuePairOfstringanyType>",
            cell.key
        ));
    }
    format!(
        "<b:Attributes xmlns:c=\"{GENERIC}\">{attributes}</b:Attributes><b:EntityState i:nil=\"true\"/>\
         <b:FormattedValues xmlns:c=\"{GENERIC}\"/><b:Id>{}</b:Id><b:LogicalName>{table}</b:LogicalName>\
         <b:RelatedEntities xmlns:c=\"{GENERIC}\"/>",
        found.id
    )
}

/// The members of an EntityCollection.
fn collection(store: &Store, table: &str, rows: &[Found], more: bool, cookie: &str) -> String {
    let entities: String = rows
        .iter()
        .map(|found| format!("<b:Entity>{}</b:Entity>", entity_xml(store, table, found)))
        .collect();
    let cookie = match more {
        true => format!("<b:PagingCookie>{}</b:PagingCookie>", escape(cookie)),
        false => "<b:PagingCookie i:nil=\"true\"/>".to_owned(),
    };
    format!(
        "<b:Entities>{entities}</b:Entities><b:EntityName>{table}</b:EntityName><b:MinActiveRowVersion>-1</b:MinActiveRowVersion>\
         <b:MoreRecords>{more}</b:MoreRecords>{cookie}<b:TotalRecordCount>-1</b:TotalRecordCount>\
         <b:TotalRecordCountLimitExceeded>false</b:TotalRecordCountLimitExceeded>"
    )
}

/// A fault of SOAP 1.1 (the recorded ones are of 1.2, with the same detail).
fn fault(code: u32, words: &str) -> String {
    let words = escape(words);
    if code == 0 {
        return format!(
            "<s:Fault><faultcode>s:Client</faultcode><faultstring xml:lang=\"en-US\">{words}</faultstring></s:Fault>"
        );
    }
    let signed = i32::from_ne_bytes(code.to_ne_bytes());
    format!(
        "<s:Fault><faultcode>s:Client</faultcode><faultstring xml:lang=\"en-US\">{words}</faultstring><detail><OrganizationServiceFault \
         xmlns=\"{CONTRACTS}\" xmlns:i=\"http://www.w3.org/2001/XMLSchema-instance\"><ErrorCode>{signed}</ErrorCode><ErrorDetails \
         xmlns:b=\"{GENERIC}\"/><Message>{words}</Message><Timestamp>2026-11-22T10:00:00.1234567Z</Timestamp><InnerFault i:nil=\"true\"/>\
         <TraceText i:nil=\"true\"/></OrganizationServiceFault></detail></s:Fault>"
    )
}
