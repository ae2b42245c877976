//! A message beyond the size of one request: a draft made of its MIME without the large attachments, which are then uploaded one by one
//! (Microsoft Graph, "attach large files to Outlook messages"), and sent.
//!
//! Of the two ways that Graph documents the MIME draft is taken: a draft in JSON can carry own header fields only if they begin with `x-`, so In-Reply-To,
//! References and Thread-Index would be lost. The draft's Message-ID is checked, and set again where it is another one, which Graph allows while it
//! is a draft. Needs `Mail.ReadWrite` beside `Mail.Send`.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use email_router_http::{Method, header};
use email_router_model::{Classified as _, Retry};
use serde_json::{Value, json};
use url::Url;

use super::client::{Ask, Client, Outcome};
use super::error::{self, Stage};
use super::proto::split::Attachment;
use super::proto::{Malformed, json as parse, link, page, split, upload};
use super::settings::BLOCK_UNIT;
use super::submit::{finish, search};
use crate::contract::{Outbound, Receipt};
use crate::{Error, ErrorKind, Result};

/// An attachment of this size and more is uploaded in pieces, a smaller one is not (Microsoft Graph: 3 MB).
const LARGE: usize = 3 * 1024 * 1024;
/// The largest attachment that Outlook takes (Microsoft Graph: 150 MB).
const LARGEST: usize = 150 * 1024 * 1024;
/// How often a lost piece is sent again in one session, and how often a session is begun.
const TRIES: usize = 3;

/// Hands over a message that does not fit into one request.
pub(super) async fn submit(client: &Client, message: &Outbound, mime: &[u8]) -> Result<Receipt> {
    let most = client.settings().largest_request / 4 * 3;
    let Some((skeleton, attachments)) = split::split(mime, most).filter(|(_, all)| fits(all)) else {
        let size = mime.len();
        let text = format!(
            "{}: {size} bytes are more than a request may have, and cannot be split into attachments",
            client.place()
        );
        return Err(
            Error::new(ErrorKind::TooLarge, text).with_hint("send it by SMTP, or with smaller attachments")
        );
    };
    // left over by an attempt that was cut off; Message-IDs of ours are nobody else's
    for draft in search(client, "drafts", &message.message_id).await? {
        delete(client, &draft).await;
    }
    let draft = create(client, &skeleton, message.message_id.as_str()).await?;
    let filled = async {
        for attachment in &attachments {
            attach(client, &draft, attachment).await?;
        }
        Ok(())
    };
    let sent = match filled.await {
        Ok(()) => {
            let url = client.url(&format!("/messages/{}/send", link::segment(&draft)))?;
            let ask = Ask::new(Method::POST, url, Stage::Submission).header(header::CONTENT_LENGTH, "0");
            finish(client, message, ask).await
        }
        Err(error) => Err(error),
    };
    // what may have been sent must not be deleted
    if sent.as_ref().is_err_and(|error: &Error| error.retry() != Retry::InDoubt) {
        delete(client, &draft).await;
    }
    sent
}

fn fits(attachments: &[Attachment]) -> bool {
    attachments.iter().all(|a| a.content.len() <= LARGEST)
}

async fn create(client: &Client, skeleton: &[u8], message_id: &str) -> Result<String> {
    let mut ask = Ask::new(Method::POST, client.url("/messages")?, Stage::Draft);
    ask.body = Some(("text/plain", Bytes::from(BASE64_STANDARD.encode(skeleton))));
    let draft = client.json(&ask).await?;
    let id = page::id(&draft).map_err(|why| error::malformed(client.place(), Stage::Draft, &why))?;
    if draft.get("internetMessageId").and_then(Value::as_str) != Some(message_id) {
        let url = client.url(&format!("/messages/{}", link::segment(&id)))?;
        let ask = Ask::new(Method::PATCH, url, Stage::Draft)
            .json(&json!({"internetMessageId": message_id}))
            .harmless();
        let named = client.json(&ask).await;
        if let Err(error) = named {
            delete(client, &id).await;
            return Err(error);
        }
    }
    Ok(id)
}

/// Deletes a draft of ours, as well as it can be done: what is left over is deleted by the next attempt.
async fn delete(client: &Client, draft: &str) {
    let Ok(url) = client.url(&format!("/messages/{}", link::segment(draft))) else { return };
    if let Err(error) = client.send(&Ask::new(Method::DELETE, url, Stage::Draft)).await
        && error.kind() != ErrorKind::MessageGone
    {
        tracing::warn!(place = client.place(), %error, "a draft of an unfinished submission is left in the mailbox");
    }
}

async fn attach(client: &Client, draft: &str, attachment: &Attachment) -> Result<()> {
    if attachment.content.len() >= LARGE {
        for attempt in 1.. {
            match upload_all(client, draft, attachment).await? {
                true => break,
                false if attempt >= TRIES => {
                    let text = format!(
                        "{}: the upload session ended {TRIES} times before the upload did",
                        client.place()
                    );
                    return Err(Error::new(ErrorKind::ConnectionLost, text));
                }
                false => tracing::debug!(
                    place = client.place(),
                    "the upload session has ended; another one is begun"
                ),
            }
        }
        return Ok(());
    }
    let mut resource = describe(attachment);
    resource["@odata.type"] = json!("#microsoft.graph.fileAttachment");
    resource["contentBytes"] = json!(BASE64_STANDARD.encode(&attachment.content));
    let url = client.url(&format!("/messages/{}/attachments", link::segment(draft)))?;
    client.send(&Ask::new(Method::POST, url, Stage::Draft).json(&resource)).await.map(drop)
}

fn describe(attachment: &Attachment) -> Value {
    let mut resource = json!({
        "name": attachment.name,
        "contentType": attachment.content_type,
        "isInline": attachment.inline,
    });
    if let Some(id) = &attachment.content_id {
        resource["contentId"] = json!(id);
    }
    resource
}

/// One upload session; `false` when it is over before all is there.
async fn upload_all(client: &Client, draft: &str, attachment: &Attachment) -> Result<bool> {
    let malformed = |why: &Malformed| error::malformed(client.place(), Stage::Draft, why);
    let mut item = describe(attachment);
    item["attachmentType"] = json!("file");
    item["size"] = json!(attachment.content.len());
    let url = client.url(&format!("/messages/{}/attachments/createUploadSession", link::segment(draft)))?;
    let ask = Ask::new(Method::POST, url, Stage::Draft).json(&json!({"AttachmentItem": item})).harmless();
    let session = client.json(&ask).await?;
    let url = session.get("uploadUrl").and_then(Value::as_str).unwrap_or("");
    let url = link::upload(&client.settings().base, url).map_err(|why| malformed(&why))?;
    let total = attachment.content.len();
    let content = attachment.content.clone();
    let block = (client.settings().upload_block / BLOCK_UNIT).max(1) * BLOCK_UNIT;
    let mut at = 0;
    let mut lost = 0;
    while at < total {
        let piece = upload::piece(at, block, total);
        let mut ask = Ask::new(Method::PUT, url.clone(), Stage::Draft)
            .header(header::CONTENT_RANGE, &upload::content_range(&piece, total))
            .harmless();
        ask.body = Some(("application/octet-stream", content.slice(piece.clone())));
        ask.authorized = false; // the URL is the authorization
        let next = match client.outcome(&ask).await {
            Ok(Outcome::Done(answer)) if answer.response.status.as_u16() == 201 => total,
            Ok(Outcome::Done(answer)) => {
                let body = client.body(&ask, answer).await?;
                let session = parse(&body).map_err(|why| malformed(&why))?;
                upload::next_expected(&session, total).map_err(|why| malformed(&why))?.unwrap_or(piece.end)
            }
            Ok(Outcome::Refused(refusal)) if matches!(refusal.status, 404 | 410 | 401) => return Ok(false),
            // a piece that the service has already
            Ok(Outcome::Refused(refusal)) if refusal.status == 416 => stand(client, &url, total).await?,
            Ok(Outcome::Refused(refusal)) => return Err(refusal.error),
            Err(error)
                if lost < TRIES && matches!(error.kind(), ErrorKind::ConnectionLost | ErrorKind::Timeout) =>
            {
                lost += 1;
                stand(client, &url, total).await?
            }
            Err(error) => return Err(error),
        };
        if next <= at {
            lost += 1;
            if lost > TRIES {
                return Err(malformed(&Malformed("the upload does not get on".to_owned())));
            }
        }
        at = next;
    }
    Ok(true)
}

/// Where an upload stands, after an answer was lost.
async fn stand(client: &Client, url: &Url, total: usize) -> Result<usize> {
    let mut ask = Ask::new(Method::GET, url.clone(), Stage::Draft);
    ask.authorized = false;
    let session = client.json(&ask).await?;
    let next = upload::next_expected(&session, total);
    Ok(next.map_err(|why| error::malformed(client.place(), Stage::Draft, &why))?.unwrap_or(total))
}
