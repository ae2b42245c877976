//! What the server is asked (`crm-contract.md` 4). Members stand in the order of the alphabet, as a data contract has them.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use email_router_model::RecordRef;
use quick_xml::escape::escape;
use uuid::Uuid;

use super::tree::{CONTRACTS, CRM, GENERIC, INSTANCE, SCHEMA, SERIALIZATION, SERVICES, SOAP_11};
use crate::dataverse::decides::service::{Cell, Delivery, Envelope, printable};
use crate::dataverse::web_api::literal;

/// `anyType` values of parameters and columns.
pub(super) enum Typed<'a> {
    Text(&'a str),
    Int(i32),
    Boolean(bool),
    Time(String),
    Guid(Uuid),
    Choice(i32),
    Reference(&'a RecordRef),
    Fetch(&'a str),
    Attachments(&'a Delivery<'a>),
}

/// One request: the operation it belongs to, and its envelope.
pub(super) struct Written {
    pub(super) operation: &'static str,
    pub(super) envelope: String,
}

fn envelope(operation: &'static str, caller: Option<Uuid>, inside: impl FnOnce(&mut String)) -> Written {
    let mut out = format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><s:Envelope xmlns:s=\"{SOAP_11}\">");
    if let Some(caller) = caller {
        out.push_str(&format!(
            "<s:Header><a:CallerId xmlns:a=\"{CONTRACTS}\">{caller}</a:CallerId></s:Header>"
        ));
    }
    out.push_str(&format!(
        "<s:Body><{operation} xmlns=\"{SERVICES}\" xmlns:a=\"{CONTRACTS}\" xmlns:i=\"{INSTANCE}\">"
    ));
    inside(&mut out);
    out.push_str(&format!("</{operation}></s:Body></s:Envelope>"));
    Written { operation, envelope: out }
}

/// Text between tags.
fn text(out: &mut String, text: &str) {
    out.push_str(&escape(printable(text)));
}

fn value(out: &mut String, tag: &str, value: &Typed<'_>) {
    let mut leaf = |kind: &str, ns: &str, content: &str| {
        out.push_str(&format!("<{tag} i:type=\"t:{kind}\" xmlns:t=\"{ns}\">"));
        text(out, content);
        out.push_str(&format!("</{tag}>"));
    };
    match value {
        Typed::Text(content) => leaf("string", SCHEMA, content),
        Typed::Int(number) => leaf("int", SCHEMA, &number.to_string()),
        Typed::Boolean(is) => leaf("boolean", SCHEMA, if *is { "true" } else { "false" }),
        Typed::Time(time) => leaf("dateTime", SCHEMA, time),
        Typed::Guid(id) => leaf("guid", SERIALIZATION, &id.to_string()),
        Typed::Choice(number) => out.push_str(&format!(
            "<{tag} i:type=\"a:OptionSetValue\"><a:Value>{number}</a:Value></{tag}>"
        )),
        Typed::Reference(record) => out.push_str(&format!(
            "<{tag} i:type=\"a:EntityReference\"><a:Id>{}</a:Id><a:LogicalName>{}</a:LogicalName><a:Name i:nil=\"true\"/></{tag}>",
            record.id,
            escape(record.table.as_str())
        )),
        Typed::Fetch(query) => {
            out.push_str(&format!("<{tag} i:type=\"a:FetchExpression\"><a:Query>"));
            text(out, query);
            out.push_str(&format!("</a:Query></{tag}>"));
        }
        Typed::Attachments(delivery) => {
            out.push_str(&format!("<{tag} i:type=\"a:EntityCollection\"><a:Entities>"));
            for attachment in delivery.attachments {
                let body = BASE64_STANDARD.encode(&attachment.content);
                let mut columns = vec![
                    ("filename", Typed::Text(&attachment.file_name)),
                    ("mimetype", Typed::Text(&attachment.mime_type)),
                    ("body", Typed::Text(&body)),
                ];
                if let Some(id) = attachment.content_id.as_deref().filter(|_| delivery.content_ids) {
                    columns.push(("attachmentcontentid", Typed::Text(id)));
                }
                out.push_str("<a:Entity>");
                entity(out, "activitymimeattachment", Uuid::nil(), &columns);
                out.push_str("</a:Entity>");
            }
            // the name also when there is none (Microsoft's sample, 4)
            out.push_str(&format!(
                "</a:Entities><a:EntityName>activitymimeattachment</a:EntityName><a:MinActiveRowVersion i:nil=\"true\"/>\
                 <a:MoreRecords>false</a:MoreRecords><a:PagingCookie i:nil=\"true\"/><a:TotalRecordCount>0</a:TotalRecordCount>\
                 <a:TotalRecordCountLimitExceeded>false</a:TotalRecordCountLimitExceeded></{tag}>"
            ));
        }
    }
}

fn pairs(out: &mut String, tag: &str, values: &[(&str, Typed<'_>)]) {
    out.push_str(&format!("<{tag} xmlns:c=\"{GENERIC}\">"));
    for (key, typed) in values {
        out.push_str(&format!("<a:KeyValuePairOfstringanyType><c:key>{key}</c:key>"));
        value(out, "c:value", typed);
        out.push_str("</a:KeyValuePairOfstringanyType>");
    }
    out.push_str(&format!("</{tag}>"));
}

/// The members of an Entity.
fn entity(out: &mut String, table: &str, id: Uuid, columns: &[(&str, Typed<'_>)]) {
    pairs(out, "a:Attributes", columns);
    out.push_str(&format!(
        "<a:EntityState i:nil=\"true\"/><a:FormattedValues xmlns:c=\"{GENERIC}\"/><a:Id>{id}</a:Id><a:LogicalName>{table}</a:LogicalName>\
         <a:RelatedEntities xmlns:c=\"{GENERIC}\"/>"
    ));
}

/// A message; those of the SDK are of the namespace of Microsoft.Crm.Sdk.Messages.
pub(super) fn execute(name: &str, caller: Option<Uuid>, parameters: &[(&str, Typed<'_>)]) -> Written {
    envelope("Execute", caller, |out| {
        out.push_str(&format!("<request i:type=\"b:{name}Request\" xmlns:b=\"{CRM}\">"));
        pairs(out, "a:Parameters", parameters);
        out.push_str(&format!(
            "<a:RequestId i:nil=\"true\"/><a:RequestName>{name}</a:RequestName></request>"
        ));
    })
}

pub(super) fn retrieve(table: &str, id: Uuid, columns: &[&str]) -> Written {
    envelope("Retrieve", None, |out| {
        out.push_str(&format!(
            "<entityName>{table}</entityName><id>{id}</id><columnSet><a:AllColumns>false</a:AllColumns>\
             <a:Columns xmlns:d=\"http://schemas.microsoft.com/2003/10/Serialization/Arrays\">"
        ));
        for column in columns {
            out.push_str(&format!("<d:string>{column}</d:string>"));
        }
        out.push_str("</a:Columns></columnSet>");
    })
}

pub(super) fn retrieve_multiple(query: &str) -> Written {
    envelope("RetrieveMultiple", None, |out| value(out, "query", &Typed::Fetch(query)))
}

pub(super) fn create(table: &str, columns: &[(&str, Cell)]) -> Written {
    envelope("Create", None, |out| {
        out.push_str("<entity>");
        entity(out, table, Uuid::nil(), &typed(columns));
        out.push_str("</entity>");
    })
}

pub(super) fn update(table: &str, id: Uuid, columns: &[(&str, Cell)]) -> Written {
    envelope("Update", None, |out| {
        out.push_str("<entity>");
        entity(out, table, id, &typed(columns));
        out.push_str("</entity>");
    })
}

pub(super) fn check_incoming_email(email: &Envelope<'_>) -> Written {
    let parameters = email.parameters().map(|(name, value)| (name, Typed::Text(value)));
    execute("CheckIncomingEmail", None, &parameters)
}

pub(super) fn deliver_incoming_email(email: &Delivery<'_>) -> Written {
    let mut parameters: Vec<_> =
        email.envelope.parameters().map(|(name, value)| (name, Typed::Text(value))).into();
    parameters.extend([
        ("ReceivedOn", Typed::Time(literal::iso(email.received_on))),
        ("SubmittedBy", Typed::Text(email.submitted_by)),
        ("Importance", Typed::Text(&email.importance)),
        ("Body", Typed::Text(email.body)),
        ("Attachments", Typed::Attachments(email)),
        // CheckIncomingEmail was asked a moment ago
        ("ValidateBeforeCreate", Typed::Boolean(false)),
    ]);
    execute("DeliverIncomingEmail", None, &parameters)
}

fn typed<'a>(columns: &'a [(&'a str, Cell)]) -> Vec<(&'a str, Typed<'a>)> {
    let typed = |cell: &'a Cell| match cell {
        Cell::Text(text) => Typed::Text(text),
        Cell::Int(number) => Typed::Int(*number),
        Cell::Choice(number) => Typed::Choice(*number),
        Cell::Reference(record) => Typed::Reference(record),
    };
    columns.iter().map(|(name, cell)| (*name, typed(cell))).collect()
}
