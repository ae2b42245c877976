//! The Organization Service over SOAP.

use async_trait::async_trait;
use email_router_http::Method;
use email_router_model::RecordRef;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::request::{self, Typed, Written};
use super::response;
use super::tree::{Node, Ns};
use crate::dataverse::decides::service::{
    Cell, Delivery, Envelope, Fetch, OrganizationService, Page, Row, Who,
};
use crate::dataverse::settings::{ApiVersion, DataverseSettings};
use crate::dataverse::web_api::{Ask, Session};
use crate::{Error, ErrorKind, Result};

/// Where it is, behind the root of the organization. Who asks is proven by the transport there (`crm-contract.md` 4).
const PATH: &str = "XRMServices/2011/Organization.svc/web";

/// An organization, asked over SOAP. The session gives login, limits and patience; of the Web API nothing is used.
#[derive(Debug)]
pub(crate) struct SoapService {
    session: Session,
    url: String,
}

/// Connects to the Organization Service of an organization (CRM 2011 and later). Nothing is sent yet.
///
/// # Errors
/// The URL cannot be used.
pub(in crate::dataverse) fn connect(settings: &DataverseSettings) -> Result<SoapService> {
    let url = format!("{}/{PATH}", settings.url.as_str().trim_end_matches('/'));
    // the version is that of the Web API, which is not asked
    Ok(SoapService { session: Session::new(settings.clone(), ApiVersion::ALL[0])?, url })
}

impl SoapService {
    /// Sends a request; the answer's element. `harmless`: it may be sent again where no answer came.
    async fn ask(&self, request: Written, harmless: bool, doing: &str) -> Result<Node> {
        let Written { operation, envelope } = request;
        let action = format!(
            "\"http://schemas.microsoft.com/xrm/2011/Contracts/Services/IOrganizationService/{operation}\""
        );
        let ask = Ask::new(Method::POST, self.url.clone(), doing)
            .body("text/xml; charset=utf-8".to_owned(), envelope.into())
            .header("soapaction", &action)
            .header("accept", "text/xml");
        let answer = self.session.send(if harmless { ask.harmless() } else { ask }).await?;
        let node = response::body(&answer.body).map_err(|why| self.strange(doing, &why))?;
        if node.is(Ns::Services, &format!("{operation}Response")) {
            return Ok(node);
        }
        match response::fault(200, &answer.body) {
            Some(fault) => Err(fault.into_error(self.session.place(), doing)),
            None => Err(self.strange(doing, &format!("the answer is {:?}", node.name()))),
        }
    }

    fn strange(&self, doing: &str, why: &str) -> Error {
        let why = crate::dataverse::web_api::fault::one_line(why);
        Error::new(ErrorKind::Unreachable, format!("{}: {doing}: {why}", self.session.place())).with_hint(
            "check that Url is the root of the organization, and that no proxy or sign-in page answers in its place",
        )
    }

    fn missing(&self, doing: &str, what: &str) -> Error {
        self.strange(doing, &format!("the answer has no {what}"))
    }

    async fn execute(&self, request: Written, harmless: bool, doing: &str) -> Result<Map<String, Value>> {
        let answer = self.ask(request, harmless, doing).await?;
        response::results(&answer).ok_or_else(|| self.missing(doing, "Results"))
    }
}

#[async_trait]
impl OrganizationService for SoapService {
    fn place(&self) -> &str {
        self.session.place()
    }

    async fn who_am_i(&self) -> Result<Who> {
        let doing = "asking who we are";
        let results = self.execute(request::execute("WhoAmI", None, &[]), true, doing).await?;
        let id = |name: &str| {
            let id = results.get(name).and_then(Value::as_str).and_then(|id| Uuid::parse_str(id).ok());
            id.ok_or_else(|| self.missing(doing, name))
        };
        Ok(Who { user: id("UserId")?, organization: id("OrganizationId")? })
    }

    async fn version(&self) -> Result<String> {
        let doing = "asking for the server's version";
        let results = self.execute(request::execute("RetrieveVersion", None, &[]), true, doing).await?;
        Ok(results.get("Version").and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    async fn retrieve(&self, table: &str, id: Uuid, columns: &[&str]) -> Result<Row> {
        let doing = format!("reading a row of the table {table}");
        let answer = self.ask(request::retrieve(table, id, columns), true, &doing).await?;
        response::row(&answer).ok_or_else(|| self.missing(&doing, "RetrieveResult"))
    }

    async fn retrieve_multiple(&self, query: &Fetch, page: u32, cookie: Option<&str>) -> Result<Page> {
        let doing = format!("reading the table {}", query.table);
        let request = request::retrieve_multiple(&query.xml(page, cookie));
        let answer = self.ask(request, true, &doing).await?;
        response::page(&answer).ok_or_else(|| self.missing(&doing, "RetrieveMultipleResult"))
    }

    async fn create(&self, table: &str, values: &[(&str, Cell)]) -> Result<Uuid> {
        let doing = format!("making a row of the table {table}");
        let answer = self.ask(request::create(table, values), false, &doing).await?;
        let id = response::created(&answer).and_then(|id| Uuid::parse_str(id).ok());
        id.ok_or_else(|| self.missing(&doing, "CreateResult"))
    }

    /// State and status by SetState: Update takes them from CRM 2015 Update 1 on only.
    async fn update(&self, table: &str, id: Uuid, values: &[(&str, Cell)]) -> Result<()> {
        let doing = format!("changing a row of the table {table}");
        let mut plain = values.to_vec();
        let mut choice = |name: &str| {
            let place = plain.iter().position(|(column, _)| *column == name)?;
            match plain.remove(place).1 {
                Cell::Choice(number) => Some(number),
                _ => None,
            }
        };
        let state = choice("statecode").zip(choice("statuscode"));
        if !plain.is_empty() {
            self.ask(request::update(table, id, &plain), true, &doing).await?;
        }
        if let Some((state, status)) = state {
            let record = RecordRef::new(table, id);
            let parameters = [
                ("EntityMoniker", Typed::Reference(&record)),
                ("State", Typed::Choice(state)),
                ("Status", Typed::Choice(status)),
            ];
            self.ask(request::execute("SetState", None, &parameters), true, &doing).await?;
        }
        Ok(())
    }

    async fn check_incoming_email(&self, email: &Envelope<'_>) -> Result<(bool, i64)> {
        let doing = "asking whether a message belongs in the CRM (CheckIncomingEmail)";
        let results = self.execute(request::check_incoming_email(email), true, doing).await?;
        let should = results.get("ShouldDeliver").and_then(Value::as_bool);
        let should = should.ok_or_else(|| self.missing(doing, "ShouldDeliver"))?;
        Ok((should, results.get("ReasonCode").and_then(Value::as_i64).unwrap_or(-1)))
    }

    async fn deliver_incoming_email(&self, email: &Delivery<'_>) -> Result<Uuid> {
        let doing = "delivering a message (DeliverIncomingEmail)";
        let results = self.execute(request::deliver_incoming_email(email), false, doing).await?;
        let id = results.get("EmailId").and_then(Value::as_str).and_then(|id| Uuid::parse_str(id).ok());
        id.ok_or_else(|| self.missing(doing, "EmailId"))
    }

    async fn background_send_email(&self, query: &Fetch) -> Result<Vec<Row>> {
        let doing = "taking what is pending (BackgroundSendEmail)";
        let query = query.xml(1, None);
        let request = request::execute("BackgroundSendEmail", None, &[("Query", Typed::Fetch(&query))]);
        match self.execute(request, false, doing).await?.remove("EntityCollection") {
            Some(Value::Array(rows)) => Ok(rows
                .into_iter()
                .filter_map(|row| match row {
                    Value::Object(row) => Some(Row(row)),
                    _ => None,
                })
                .collect()),
            _ => Err(self.missing(doing, "EntityCollection")),
        }
    }

    async fn record_as_sent(&self, id: Uuid) -> Result<()> {
        let doing = "recording an e-mail as sent (SendEmail)";
        let parameters = [
            ("EmailId", Typed::Guid(id)),
            ("IssueSend", Typed::Boolean(false)),
            ("TrackingToken", Typed::Text("")),
        ];
        self.ask(request::execute("SendEmail", None, &parameters), true, doing).await.map(drop)
    }

    async fn tracking_token(&self, subject: &str, caller: Option<Uuid>) -> Result<String> {
        let doing = "asking for a tracking token (GetTrackingTokenEmail)";
        let request = request::execute("GetTrackingTokenEmail", caller, &[("Subject", Typed::Text(subject))]);
        let results = self.execute(request, false, doing).await?;
        let token = results.get("TrackingToken").and_then(Value::as_str);
        token.map(str::to_owned).ok_or_else(|| self.missing(doing, "TrackingToken"))
    }
}
