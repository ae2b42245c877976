//! What happens to one request: mishaps, login, version, schema, operation, envelope.

use std::sync::Mutex;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio::sync::{mpsc, watch};

use super::discovery::autodiscover;
use super::http::{Body, Request, Response};
use super::ops::{self, Caller, Refusal};
use super::xml::{Element, escape};
use super::{EwsOptions, Heard, Inner, Mishap, XML, lock, schema};

fn account(inner: &Inner, request: &Request) -> Option<String> {
    let (scheme, proof) = request.header("authorization")?.split_once(' ')?;
    match scheme.to_lowercase().as_str() {
        "basic" => {
            let pair = String::from_utf8(BASE64_STANDARD.decode(proof.trim()).ok()?).ok()?;
            let (name, password) = pair.split_once(':')?;
            let name = name.to_lowercase();
            (inner.store.accounts.get(&name)? == password).then_some(name)
        }
        "bearer" => inner.store.tokens.get(proof.trim()).cloned(),
        _ => None,
    }
}

pub(super) fn answer(
    inner: &Mutex<Inner>,
    options: &EwsOptions,
    news: watch::Receiver<u64>,
    request: Request,
) -> Response {
    let mut guard = lock(inner);
    let inner = &mut *guard;
    let parsed = Element::parse(&request.body);
    let body = parsed.as_ref().ok().and_then(|envelope| envelope.child("s:Body")?.children.first());
    let operation = body.map(|b| b.name.split(':').nth(1).unwrap_or_default().to_owned()).unwrap_or_default();
    let who = account(inner, &request);
    let header = parsed.as_ref().ok().and_then(|envelope| envelope.child("s:Header"));
    let impersonated =
        header.and_then(|h| h.find("t:ConnectingSID")?.children.first().map(|c| c.text.trim().to_owned()));
    let version =
        header.and_then(|h| h.child("t:RequestServerVersion")?.attribute("Version").map(str::to_owned));
    inner.heard.push(Heard {
        method: request.method.clone(),
        path: request.path.clone(),
        operation: operation.clone(),
        account: who.clone(),
        impersonated: impersonated.clone(),
        anchor: request.header("x-anchormailbox").map(str::to_owned),
        version: version.clone(),
        body: String::from_utf8_lossy(&request.body).into_owned(),
    });
    let wanted = |name: &String| name.is_empty() || *name == operation || *name == request.path;
    let mishap = inner.mishaps.iter().position(|(name, _)| wanted(name)).map(|at| inner.mishaps.remove(at).1);
    match &mishap {
        Some(Mishap::Page(status, content_type, page)) => {
            return Response::new(*status, content_type, page.as_bytes());
        }
        Some(Mishap::Redirect(status, to)) => {
            let mut response =
                Response::new(*status, "text/html", "<html><title>Object moved</title></html>");
            response.headers.push(("Location", to.clone()));
            return response;
        }
        Some(Mishap::Cut) => {
            let mut response = Response::new(200, XML, "");
            response.body = Body::Nothing;
            return response;
        }
        Some(Mishap::Bytes(bytes)) => return Response::new(200, XML, bytes.clone()),
        _ => {}
    }
    let Some(who) = who else {
        let mut response =
            Response::new(401, "text/html", "<html><head><title>401 Unauthorized</title></head></html>");
        response.headers.push(("WWW-Authenticate", "Basic realm=\"exchange.test\"".to_owned()));
        return response;
    };
    let path = request.path.to_lowercase();
    if path.starts_with("/autodiscover/") {
        return autodiscover(inner, options, &request, &path, parsed.ok());
    }
    if path == "/ews/exchange.asmx" && request.method != "POST" {
        // Exchange shows its description to whoever looks
        return Response::new(200, "text/html", "<html><title>Service</title></html>");
    }
    if path != "/ews/exchange.asmx" {
        return Response::new(
            404,
            "text/html",
            "<html><head><title>404 - File or directory not found.</title></head></html>",
        );
    }
    let result = match &mishap {
        Some(Mishap::Fault(code, back_off)) => Err((Refusal::new(code, "Planned."), *back_off)),
        Some(Mishap::Refusal(code, back_off)) => Ok(planned(&operation, code, *back_off)),
        _ => {
            ews(inner, options, &who, impersonated, version, &parsed, body).map_err(|refusal| (refusal, None))
        }
    };
    let (status, content) = match result {
        Ok(content) => (200, content),
        Err((Refusal(code, text), back_off)) => (500, fault(code, &text, back_off)),
    };
    if status == 200
        && operation == "GetStreamingEvents"
        && let Some(subscription) = body.and_then(|b| b.find("t:SubscriptionId"))
    {
        let id = subscription.text.trim().to_owned();
        return stream(inner, options, news, &id);
    }
    let mut response = Response::new(status, XML, envelope(options, &content));
    let whole = std::mem::replace(&mut response.body, Body::Nothing);
    response.body = match (mishap, whole) {
        (Some(Mishap::DoneThenCut), _) => Body::Nothing,
        (Some(Mishap::DoneThenSilence), _) => Body::Silence,
        (Some(Mishap::DoneThenHalf), Body::Whole(bytes)) => Body::Half(bytes),
        (_, whole) => whole,
    };
    response
}

fn ews(
    inner: &mut Inner,
    options: &EwsOptions,
    who: &str,
    impersonated: Option<String>,
    version: Option<String>,
    parsed: &Result<Element, String>,
    body: Option<&Element>,
) -> Result<String, Refusal> {
    const VERSIONS: [&str; 7] = [
        "Exchange2007_SP1",
        "Exchange2010",
        "Exchange2010_SP1",
        "Exchange2010_SP2",
        "Exchange2013",
        "Exchange2013_SP1",
        "Exchange2016",
    ];
    let invalid = |why: &str| {
        Refusal::new("ErrorSchemaValidation", &format!("The request failed schema validation: {why}"))
    };
    let request = parsed.as_ref().map_err(|why| invalid(why))?;
    let place = |version: &str| VERSIONS.iter().position(|v| *v == version);
    let newest = place(options.newest).unwrap_or(VERSIONS.len());
    let version = version.unwrap_or_else(|| "Exchange2013".to_owned());
    let asked = place(&version);
    if asked.is_none_or(|asked| asked > newest) {
        return Err(Refusal::new("ErrorInvalidServerVersion", "The specified server version is invalid."));
    }
    if let Some(why) = schema::fault(request) {
        return Err(invalid(&why));
    }
    let text = request.write();
    for (what, since) in [
        ("item:ConversationId", 1),
        ("m:GetInboxRules", 2),
        ("m:StreamingSubscriptionRequest", 2),
        ("SuppressReadReceipts", 4),
    ] {
        if asked < Some(since) && text.contains(what) {
            return Err(invalid(&format!("{what} is not known in {version}.")));
        }
    }
    let body = body.ok_or_else(|| invalid("there is no operation."))?;
    if !options.notifications && matches!(body.name.as_str(), "m:Subscribe" | "m:GetStreamingEvents") {
        return Err(Refusal::new("ErrorInvalidOperation", "Notifications are not supported."));
    }
    let me = match &impersonated {
        None => inner.store.own.get(who).cloned().unwrap_or_default(),
        Some(address) => {
            if !inner.store.impersonators.contains(who) {
                return Err(Refusal::new(
                    "ErrorImpersonateUserDenied",
                    "The account does not have permission to impersonate the requested user.",
                ));
            }
            let address = address.to_lowercase();
            if !inner.store.mailboxes.contains_key(&address) {
                return Err(Refusal::new(
                    "ErrorNonExistentMailbox",
                    "The SMTP address has no mailbox associated with it.",
                ));
            }
            address
        }
    };
    let caller = Caller {
        account: who.to_owned(),
        me,
        impersonates: impersonated.is_some(),
        illegal_characters: options.illegal_characters,
        directory_names: options.directory_names,
    };
    if body.name == "m:GetStreamingEvents" {
        return Ok(String::new());
    }
    ops::run(&mut inner.store, &caller, body)
}

fn planned(operation: &str, code: &'static str, back_off: Option<&str>) -> String {
    let refusal = ops::message(operation, Err(Refusal::new(code, "Planned.")));
    let refusal = match back_off {
        None => refusal,
        Some(delay) => refusal.replace(
            "<m:DescriptiveLinkKey>",
            &format!("<m:MessageXml><t:Value Name=\"BackOffMilliseconds\">{delay}</t:Value></m:MessageXml><m:DescriptiveLinkKey>"),
        ),
    };
    format!(
        "<m:{operation}Response><m:ResponseMessages>{refusal}</m:ResponseMessages></m:{operation}Response>"
    )
}

fn fault(code: &str, text: &str, back_off: Option<&str>) -> String {
    let text = escape(text);
    let back_off = back_off
        .map(|delay| {
            format!("<t:MessageXml><t:Value Name=\"BackOffMilliseconds\">{delay}</t:Value></t:MessageXml>")
        })
        .unwrap_or_default();
    format!(
        "<s:Fault><faultcode xmlns:a=\"http://schemas.microsoft.com/exchange/services/2006/types\">a:{code}</faultcode>\
         <faultstring xml:lang=\"en-US\">{text}</faultstring><detail>\
         <e:ResponseCode xmlns:e=\"http://schemas.microsoft.com/exchange/services/2006/errors\">{code}</e:ResponseCode>\
         <e:Message xmlns:e=\"http://schemas.microsoft.com/exchange/services/2006/errors\">{text}</e:Message>{back_off}</detail></s:Fault>"
    )
}

fn envelope(options: &EwsOptions, content: &str) -> Vec<u8> {
    let namespaces = "xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
                      xmlns:m=\"http://schemas.microsoft.com/exchange/services/2006/messages\" \
                      xmlns:t=\"http://schemas.microsoft.com/exchange/services/2006/types\"";
    if options.other_prefixes {
        let text = format!("<s:Envelope {namespaces}><s:Body>{content}</s:Body></s:Envelope>");
        let mut text = text.replace("xmlns:t=", "xmlns:ns1=").replace("xmlns:m=", "xmlns=");
        for (from, to) in [("<t:", "<ns1:"), ("</t:", "</ns1:"), ("<m:", "<"), ("</m:", "</")] {
            text = text.replace(from, to);
        }
        return text.into_bytes();
    }
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><s:Envelope {namespaces}><s:Header>\
         <h:ServerVersionInfo MajorVersion=\"15\" MinorVersion=\"1\" MajorBuildNumber=\"2507\" MinorBuildNumber=\"6\" Version=\"V2017_07_11\" \
         xmlns:h=\"http://schemas.microsoft.com/exchange/services/2006/types\"/></s:Header><s:Body>{content}</s:Body></s:Envelope>"
    )
    .into_bytes()
}

/// One envelope at once, and one for each time something came into the folder.
fn stream(
    inner: &Inner,
    options: &EwsOptions,
    mut news: watch::Receiver<u64>,
    subscription: &str,
) -> Response {
    let status = |text: &str| format!("<m:ConnectionStatus>{text}</m:ConnectionStatus>");
    let wrap = |inside: &str| {
        let message = ops::message("GetStreamingEvents", Ok(inside.to_owned()));
        envelope(
            options,
            &format!(
                "<m:GetStreamingEventsResponse><m:ResponseMessages>{message}</m:ResponseMessages></m:GetStreamingEventsResponse>"
            ),
        )
    };
    if !inner.store.subscriptions.contains_key(subscription) {
        let message = ops::message(
            "GetStreamingEvents",
            Err(Refusal::new("ErrorSubscriptionNotFound", "There is no such subscription.")),
        );
        let content = format!(
            "<m:GetStreamingEventsResponse><m:ResponseMessages>{message}</m:ResponseMessages></m:GetStreamingEventsResponse>"
        );
        return Response::new(200, XML, envelope(options, &content));
    }
    let event = wrap(&format!(
        "<m:Notifications><m:Notification><t:SubscriptionId>{subscription}</t:SubscriptionId><t:NewMailEvent>\
         <t:TimeStamp>2026-11-25T12:00:00Z</t:TimeStamp><t:ItemId Id=\"AAA=\" ChangeKey=\"AQ==\"/><t:ParentFolderId Id=\"AAE=\" ChangeKey=\"AQ==\"/>\
         </t:NewMailEvent></m:Notification></m:Notifications>"
    ));
    let opened = wrap(&status("OK"));
    let (send, pieces) = mpsc::channel(4);
    news.mark_unchanged();
    tokio::spawn(async move {
        if send.send(opened).await.is_err() {
            return;
        }
        loop {
            tokio::select! {
                changed = news.changed() => {
                    if changed.is_err() || send.send(event.clone()).await.is_err() {
                        return;
                    }
                }
                () = send.closed() => return,
            }
        }
    });
    let mut response = Response::new(200, XML, "");
    response.body = Body::Stream(pieces);
    response
}
