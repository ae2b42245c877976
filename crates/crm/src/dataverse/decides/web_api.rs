//! The Organization Service over the Web API: queries as FetchXML, messages as actions and functions (`crm-contract.md` 3).

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use email_router_http::Method;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::service::{Cell, Condition, Delivery, Envelope, Fetch, OrganizationService, Page, Row, Who};
use crate::dataverse::web_api::fault::Fault;
use crate::dataverse::web_api::{Ask, Session, literal};
use crate::{Error, ErrorKind, Result};

/// A longer path goes into a batch, which takes URLs of 64 KB (11.4).
const LONGEST_PATH: usize = 4000;
/// What no URL may have.
const LONGEST_OF_ALL: usize = 60_000;

/// An organization, asked over the Web API.
#[derive(Debug)]
pub(crate) struct WebApiService {
    session: Session,
}

/// The set of a table.
fn set(table: &str) -> String {
    match table {
        "usersettings" => "usersettingscollection".to_owned(),
        "activityparty" => "activityparties".to_owned(),
        "mailbox" => "mailboxes".to_owned(),
        other => format!("{other}s"),
    }
}

/// The column with the id of a table.
fn primary_id(table: &str) -> &'static str {
    match table {
        "email" => "activityid",
        "organization" => "organizationid",
        "systemuser" | "usersettings" => "systemuserid",
        "queue" => "queueid",
        "queueitem" => "queueitemid",
        "contact" => "contactid",
        "account" => "accountid",
        "lead" => "leadid",
        _ => "activitymimeattachmentid",
    }
}

impl WebApiService {
    pub(in crate::dataverse) fn new(session: Session) -> Self {
        Self { session }
    }

    async fn act(
        &self,
        path: &str,
        body: &Value,
        ask: impl FnOnce(Ask) -> Ask,
        doing: &str,
    ) -> Result<Value> {
        let answer = self.session.send(ask(Ask::new(Method::POST, path, doing).json(body))).await?;
        if answer.body.is_empty() { Ok(Value::Null) } else { answer.json() }
    }

    fn missing(&self, doing: &str, what: &str) -> Error {
        let message = format!("{}: {doing}: the answer has no {what}", self.place());
        Error::new(ErrorKind::Unreachable, message)
    }

    fn id(&self, answer: &Value, name: &str, doing: &str) -> Result<Uuid> {
        let id = answer.get(name).and_then(Value::as_str).and_then(|id| Uuid::parse_str(id).ok());
        id.ok_or_else(|| self.missing(doing, name))
    }
}

#[async_trait]
impl OrganizationService for WebApiService {
    fn place(&self) -> &str {
        self.session.place()
    }

    async fn who_am_i(&self) -> Result<Who> {
        let doing = "asking who we are";
        let who = self.session.get("WhoAmI", doing).await?;
        Ok(Who {
            user: self.id(&who, "UserId", doing)?,
            organization: self.id(&who, "OrganizationId", doing)?,
        })
    }

    async fn version(&self) -> Result<String> {
        let answer = self.session.get("RetrieveVersion()", "asking for the server's version").await?;
        Ok(answer.get("Version").and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    async fn retrieve(&self, table: &str, id: Uuid, columns: &[&str]) -> Result<Row> {
        let query = Fetch::new(table, columns)
            .with(Condition::new(primary_id(table), "eq", [id.to_string()]))
            .count(1);
        let row = self.retrieve_multiple(&query, 1, None).await?.rows.pop();
        row.ok_or_else(|| {
            let message = format!("{}: there is no {table} with the id {id}", self.place());
            Error::new(ErrorKind::NotFound, message)
        })
    }

    async fn retrieve_multiple(&self, query: &Fetch, page: u32, cookie: Option<&str>) -> Result<Page> {
        let doing = format!("reading the table {}", query.table);
        let path = format!("{}?fetchXml={}", set(&query.table), literal::encode(&query.xml(page, cookie)));
        let ask =
            Ask::new(Method::GET, path, doing.clone()).header("prefer", "odata.include-annotations=\"*\"");
        let answer = self.session.send(ask).await?.json()?;
        let rows = answer.get("value").and_then(Value::as_array);
        let rows = rows.ok_or_else(|| self.missing(&doing, "rows"))?;
        let cookie = answer.get("@Microsoft.Dynamics.CRM.fetchxmlpagingcookie").and_then(Value::as_str);
        Ok(Page {
            rows: rows.iter().filter_map(row).collect(),
            more: answer.get("@Microsoft.Dynamics.CRM.morerecords").and_then(Value::as_bool) == Some(true),
            cookie: cookie.and_then(paging_cookie),
        })
    }

    async fn create(&self, table: &str, values: &[(&str, Cell)]) -> Result<Uuid> {
        let doing = format!("making a row of the table {table}");
        let ask = Ask::new(Method::POST, set(table), doing.clone()).json(&Value::Object(body(values)));
        let answer = self.session.send(ask).await?;
        let place = answer.headers.get("odata-entityid").and_then(|value| value.to_str().ok());
        let id = place.and_then(|place| place.rsplit_once('(')?.1.strip_suffix(')'));
        id.and_then(|id| Uuid::parse_str(id).ok()).ok_or_else(|| self.missing(&doing, "OData-EntityId"))
    }

    async fn update(&self, table: &str, id: Uuid, values: &[(&str, Cell)]) -> Result<()> {
        let path = format!("{}({id})", set(table));
        let ask = Ask::new(Method::PATCH, path, format!("changing a row of the table {table}"))
            .json(&Value::Object(body(values)))
            .header("if-match", "*")
            .harmless();
        self.session.send(ask).await.map(drop)
    }

    async fn check_incoming_email(&self, email: &Envelope<'_>) -> Result<(bool, i64)> {
        let doing = "asking whether a message belongs in the CRM (CheckIncomingEmail)";
        let path = check_path(email);
        let answer = if path.len() <= LONGEST_PATH {
            self.session.get(&path, doing).await?
        } else {
            let parts = self.session.read_many(&[path], doing).await?;
            let part = parts.first().ok_or_else(|| self.missing(doing, "part"))?;
            if !(200..300).contains(&part.status) {
                return Err(Fault::parse(part.status, &part.body).into_error(self.place(), doing));
            }
            part.json().ok_or_else(|| self.missing(doing, "JSON"))?
        };
        let should = answer.get("ShouldDeliver").and_then(Value::as_bool);
        let should = should.ok_or_else(|| self.missing(doing, "ShouldDeliver"))?;
        Ok((should, answer.get("ReasonCode").and_then(Value::as_i64).unwrap_or(-1)))
    }

    async fn deliver_incoming_email(&self, email: &Delivery<'_>) -> Result<Uuid> {
        let doing = "delivering a message (DeliverIncomingEmail)";
        let mut body: Map<String, Value> = email
            .envelope
            .parameters()
            .into_iter()
            .map(|(name, value)| (name.to_owned(), Value::from(value)))
            .collect();
        let attachments: Vec<Value> = email
            .attachments
            .iter()
            .map(|attachment| {
                let mut row = json!({
                    "@odata.type": "Microsoft.Dynamics.CRM.activitymimeattachment",
                    "filename": attachment.file_name,
                    "mimetype": attachment.mime_type,
                    "body": BASE64_STANDARD.encode(&attachment.content),
                });
                if let Some(id) = attachment.content_id.as_ref().filter(|_| email.content_ids) {
                    row["attachmentcontentid"] = Value::from(id.as_str());
                }
                row
            })
            .collect();
        body.insert("ReceivedOn".to_owned(), Value::from(literal::iso(email.received_on)));
        body.insert("SubmittedBy".to_owned(), Value::from(email.submitted_by));
        body.insert("Importance".to_owned(), Value::from(email.importance.as_str()));
        body.insert("Body".to_owned(), Value::from(email.body));
        body.insert("Attachments".to_owned(), Value::from(attachments));
        // CheckIncomingEmail was asked a moment ago
        body.insert("ValidateBeforeCreate".to_owned(), Value::from(false));
        let path = "emails/Microsoft.Dynamics.CRM.DeliverIncomingEmail";
        let answer = self.act(path, &Value::Object(body), |ask| ask, doing).await?;
        self.id(&answer, "activityid", doing)
    }

    async fn background_send_email(&self, query: &Fetch) -> Result<Vec<Row>> {
        let doing = "taking what is pending (BackgroundSendEmail)";
        let body = json!({
            "Query": { "@odata.type": "Microsoft.Dynamics.CRM.FetchExpression", "Query": query.xml(1, None) }
        });
        let prefer = "odata.include-annotations=\"*\"";
        let answer =
            self.act("BackgroundSendEmail", &body, |ask| ask.header("prefer", prefer), doing).await?;
        let rows = answer.get("EntityCollection").and_then(Value::as_array);
        Ok(rows.ok_or_else(|| self.missing(doing, "EntityCollection"))?.iter().filter_map(row).collect())
    }

    async fn record_as_sent(&self, id: Uuid) -> Result<()> {
        let path = format!("emails({id})/Microsoft.Dynamics.CRM.SendEmail");
        let body = json!({ "IssueSend": false, "TrackingToken": "" });
        let doing = "recording an e-mail as sent (SendEmail)";
        self.act(&path, &body, Ask::harmless, doing).await.map(drop)
    }

    async fn tracking_token(&self, subject: &str, caller: Option<Uuid>) -> Result<String> {
        let doing = "asking for a tracking token (GetTrackingTokenEmail)";
        let as_caller = |ask: Ask| match caller {
            Some(caller) => ask.header("mscrmcallerid", &caller.to_string()),
            None => ask,
        };
        let answer =
            self.act("GetTrackingTokenEmail", &json!({ "Subject": subject }), as_caller, doing).await?;
        let token = answer.get("TrackingToken").and_then(Value::as_str);
        token.map(str::to_owned).ok_or_else(|| self.missing(doing, "TrackingToken"))
    }
}

/// The call of the function CheckIncomingEmail. Where the recipients do not fit into a URL, the last of them are left out: the CRM looks for one that accepts.
fn check_path(email: &Envelope<'_>) -> String {
    let mut email = email.clone();
    loop {
        let parameters = email.parameters();
        let names: Vec<_> =
            parameters.iter().enumerate().map(|(n, (name, _))| format!("{name}=@p{}", n + 1)).collect();
        let values: Vec<_> = parameters
            .iter()
            .enumerate()
            .map(|(n, (_, value))| format!("@p{}={}", n + 1, literal::text(value)))
            .collect();
        let path = format!("CheckIncomingEmail({})?{}", names.join(","), values.join("&"));
        let longest = email.addresses[1..].iter_mut().max_by_key(|list| list.len());
        match longest {
            Some(list) if path.len() > LONGEST_OF_ALL && !list.is_empty() => {
                let keep = list[..list.len() / 2].rfind(';').unwrap_or(0);
                list.truncate(keep);
            }
            _ => return path,
        }
    }
}

fn body(values: &[(&str, Cell)]) -> Map<String, Value> {
    values
        .iter()
        .map(|(name, cell)| match cell {
            Cell::Text(text) => ((*name).to_owned(), Value::from(text.as_str())),
            Cell::Int(number) | Cell::Choice(number) => ((*name).to_owned(), Value::from(*number)),
            Cell::Reference(record) => {
                // what an item of a queue is about may be of several tables
                let name = if *name == "objectid" {
                    format!("objectid_{}", record.table)
                } else {
                    (*name).to_owned()
                };
                let path = format!("/{}({})", set(&record.table), record.id);
                (format!("{name}@odata.bind"), Value::from(path))
            }
        })
        .collect()
}

/// A row under the logical names of its columns.
fn row(json: &Value) -> Option<Row> {
    const TABLE: &str = "@Microsoft.Dynamics.CRM.lookuplogicalname";
    const NAME: &str = "@OData.Community.Display.V1.FormattedValue";
    let json = json.as_object()?;
    let mut row = Map::new();
    for (key, value) in json {
        if key.contains('@') || value.is_null() {
            continue;
        }
        let annotation = |what: &str| json.get(&format!("{key}{what}")).and_then(Value::as_str);
        let name = key.replace("_x002e_", ".");
        let name = match name.strip_prefix('_').and_then(|name| name.strip_suffix("_value")) {
            Some(lookup) => lookup.to_owned(),
            None => name,
        };
        let value = match (annotation(TABLE), value.as_str()) {
            (Some(table), Some(id)) => Row::reference_value(id, table, annotation(NAME)),
            _ => value.clone(),
        };
        row.insert(name, value);
    }
    Some(Row(row))
}

/// The cookie for the next page, which the server encodes twice.
fn paging_cookie(annotation: &str) -> Option<String> {
    let value = annotation.split_once("pagingcookie=\"")?.1.split('"').next()?;
    let decode = |text: &str| {
        let pair = format!("x={text}");
        url::form_urlencoded::parse(pair.as_bytes()).next().map(|(_, value)| value.into_owned())
    };
    decode(&decode(value)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_fits_into_a_url() {
        let list = (0..9000).map(|n| format!("person{n}@contoso.example")).collect::<Vec<_>>().join(";");
        let email = Envelope {
            message_id: "<a@b>",
            subject: "it's 100%",
            addresses: ["ann@x.example".to_owned(), list, String::new(), "last@x.example".to_owned()],
        };
        let path = check_path(&email);
        assert!(path.len() <= LONGEST_OF_ALL && path.len() > LONGEST_OF_ALL / 4, "{}", path.len());
        assert!(path.starts_with(
            "CheckIncomingEmail(MessageId=@p1,Subject=@p2,From=@p3,To=@p4,Cc=@p5,Bcc=@p6)?@p1='%3Ca@b%3E'&@p2='it''s%20100%25'&@p3='ann@x.example'&@p4='person0@contoso.example;"
        ), "{}", &path[..200]);
        assert!(path.ends_with("@contoso.example'&@p5=''&@p6='last@x.example'"));
    }

    #[test]
    fn a_cookie_is_decoded_twice() {
        let given = "<cookie pagenumber=\"2\" pagingcookie=\"%253ccookie%2520page%253d%25221%2522%253e%253c%252fcookie%253e\" istracking=\"False\" />";
        assert_eq!(paging_cookie(given).as_deref(), Some("<cookie page=\"1\"></cookie>"));
    }
}
