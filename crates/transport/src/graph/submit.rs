//! Handing over messages (Microsoft Graph, `user: sendMail`, "send messages with MIME content"), and finding them again.
//!
//! # What is kept and what is not
//! - The message goes out as MIME, so that its Message-ID, its references and all other fields are ours. Graph stores the copy in Sent Items in
//!   every case: there is no switch for that with MIME.
//! - Graph has no envelope: it delivers to whom the header names. Recipients that only the envelope knows are put into a Bcc field, which Exchange
//!   takes out again. A header that names somebody whom the envelope does not is refused, since he would get the message.
//! - The reverse-path is the mailbox, always. Where the null reverse-path is asked for, `X-Auto-Response-Suppress: All` keeps Exchange servers from
//!   answering, which is what it is for.
//! - Exchange keeps a Message-ID that is there, as far as is known: Microsoft promises it nowhere. In case it is replaced, the field
//!   `X-Email-Router-Id` has it a second time, and whoever looks for the message looks for both.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use email_router_http::{HeaderName, Method};
use email_router_model::{EmailAddress, Headers, MessageId};
use serde_json::Value;

use super::client::{Ask, Client, Outcome, Refusal};
use super::error::{self, Stage};
use super::proto::{compose, link, page};
use super::settings::SendAccess;
use crate::contract::{Outbound, Receipt, RecipientResult, RecipientStatus};
use crate::lines::crlf;
use crate::{Error, ErrorKind, Result};

/// The field that has the Message-ID a second time.
pub(super) const ID_FIELD: &str = "X-Email-Router-Id";
/// The property of Exchange in which that field is kept ([MS-OXPROPS], `PS_INTERNET_HEADERS`).
const ID_PROPERTY: &str = "String {00020386-0000-0000-C000-000000000046} Name X-Email-Router-Id";

/// The message as it is handed over.
///
/// # Errors
/// [`ErrorKind::MessageRefused`] where the header names somebody whom the envelope does not.
pub(super) fn prepare(place: &str, access: &SendAccess, message: &Outbound) -> Result<Bytes> {
    let mut mime = crlf(&message.mime);
    let mut front = String::new();
    {
        let headers = Headers::new(&mime);
        let (hidden, foreign) = compose::compare(&headers, &message.envelope.recipients);
        if !foreign.is_empty() {
            let text =
                format!("{place}: the header names {}, who is not in the envelope", foreign.join(", "));
            return Err(Error::new(ErrorKind::MessageRefused, text).with_hint(
                "Microsoft Graph sends to everybody in To, Cc and Bcc: use SMTP for this message",
            ));
        }
        front.push_str(&compose::bcc(&hidden));
        if headers.get(ID_FIELD).is_none() {
            front.push_str(&format!("{ID_FIELD}: {}\r\n", message.message_id));
        }
    }
    if message.envelope.sender.is_none() {
        front.push_str("X-Auto-Response-Suppress: All\r\n");
    }
    match access {
        SendAccess::Mailbox => {}
        SendAccess::SendAs(_) => mime = Bytes::from(compose::without_field(&mime, "Sender")),
        SendAccess::OnBehalf(account) => {
            mime = Bytes::from(compose::without_field(&mime, "Sender"));
            front.push_str(&format!("Sender: <{account}>\r\n"));
        }
    }
    Ok(Bytes::from([front.as_bytes(), &mime].concat()))
}

/// Hands a prepared message over.
pub(super) async fn submit(client: &Client, message: &Outbound, mime: Bytes) -> Result<Receipt> {
    let encoded = mime.len().div_ceil(3) * 4;
    if encoded > client.settings().largest_request {
        return super::large::submit(client, message, &mime).await;
    }
    let mut ask = Ask::new(Method::POST, client.url("/sendMail")?, Stage::Submission);
    ask.body = Some(("text/plain", Bytes::from(BASE64_STANDARD.encode(&mime))));
    drop(mime);
    finish(client, message, ask).await
}

/// Sends the request that hands the message over, and reads what became of it.
pub(super) async fn finish(client: &Client, message: &Outbound, ask: Ask) -> Result<Receipt> {
    let answer = match client.outcome(&ask).await? {
        Outcome::Done(answer) => answer,
        Outcome::Refused(refusal) => return Err(refused(message, *refusal)),
    };
    let status = answer.response.status;
    let id = answer.response.header(&HeaderName::from_static("request-id")).unwrap_or("").to_owned();
    // the service answers without a body; a page of a proxy that says 200 has taken nothing, or perhaps it has
    client.body(&ask, answer).await.map_err(error::in_doubt)?;
    let reply = format!("{status}, request-id {id}");
    let accepted = |address: &EmailAddress| RecipientResult {
        address: address.clone(),
        status: RecipientStatus::Accepted,
        reply: reply.clone(),
    };
    Ok(Receipt { recipients: message.envelope.recipients.iter().map(accepted).collect(), reply })
}

/// Who was refused is known only where there is one recipient.
fn refused(message: &Outbound, refusal: Refusal) -> Error {
    let Refusal { error, .. } = refusal;
    match &message.envelope.recipients[..] {
        [only] if error.kind() == ErrorKind::RecipientsRefused => {
            let reply = error.reply().unwrap_or("").to_owned();
            let fate = RecipientResult { address: only.clone(), status: RecipientStatus::Refused, reply };
            error.with_recipients(vec![fate])
        }
        _ => error,
    }
}

/// Looks for a message in Sent Items.
pub(super) async fn find(client: &Client, id: &MessageId) -> Result<bool> {
    if !search(client, "sentitems", id).await?.is_empty() {
        return Ok(true);
    }
    let filter = format!(
        "singleValueExtendedProperties/Any(ep: ep/id eq '{ID_PROPERTY}' and ep/value eq {})",
        link::quoted(id.as_str())
    );
    let expand = format!("singleValueExtendedProperties($filter=id eq '{ID_PROPERTY}')");
    let query = format!("$expand={}&$select=internetMessageId", link::query(&expand));
    let found = filtered(client, "sentitems", &filter, &query).await?;
    Ok(found.iter().any(|entry| {
        let properties = entry.get("singleValueExtendedProperties").and_then(Value::as_array);
        let mut values = properties.into_iter().flatten().filter_map(|p| p.get("value")?.as_str());
        values.any(|value| value == id.as_str())
    }))
}

/// The ids of the messages in a folder that have this Message-ID; one page is enough.
pub(super) async fn search(client: &Client, folder: &str, id: &MessageId) -> Result<Vec<String>> {
    let filter = format!("internetMessageId eq {}", link::quoted(id.as_str()));
    let found = filtered(client, folder, &filter, "$select=internetMessageId").await?;
    // a service that passes over the filter must not make us take all messages for ours
    let ours =
        found.iter().filter(|e| e.get("internetMessageId").and_then(Value::as_str) == Some(id.as_str()));
    let ids: std::result::Result<_, _> = ours.map(page::id).collect();
    ids.map_err(|why| error::malformed(client.place(), Stage::Finding, &why))
}

async fn filtered(client: &Client, folder: &str, filter: &str, query: &str) -> Result<Vec<Value>> {
    let query = format!("$filter={}&{query}&$top=10", link::query(filter));
    let url = client.url(&format!("/mailFolders/{folder}/messages?{query}"))?;
    let found = client.json(&Ask::new(Method::GET, url, Stage::Finding)).await?;
    let entries =
        page::entries(&found).map_err(|why| error::malformed(client.place(), Stage::Finding, &why))?;
    Ok(entries.to_vec())
}
