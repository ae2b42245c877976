//! Test access: looks at what a session would need, and changes nothing.

use email_router_http::Method;
use email_router_model::Mailbox;
use serde_json::Value;

use super::client::{Ask, Client};
use super::error::{self, Stage};
use super::proto::claims::Claims;
use crate::contract::{Access, Probe, ProbeStep};
use crate::{Error, ErrorKind, Result};

/// The steps of one direction. `client` is the mailbox to be read, or the account that hands over.
pub(super) async fn probe(client: &Client, mailbox: &Mailbox, access: Access) -> Result<Probe> {
    let mut steps = Vec::new();
    match look(client, mailbox, access, &mut steps).await {
        Ok(messages) => Ok(Probe { steps, messages }),
        Err(error) => Err(error.with_steps(steps)),
    }
}

async fn look(
    client: &Client,
    mailbox: &Mailbox,
    access: Access,
    steps: &mut Vec<ProbeStep>,
) -> Result<Option<u64>> {
    let login = client.login().await?;
    let claims = login.credentials.token().and_then(Claims::read).unwrap_or_default();
    steps.push(token_step(client, &claims));
    match access {
        Access::Incoming => incoming(client, &claims, steps).await.map(Some),
        Access::Outgoing => outgoing(client, mailbox, &claims, steps).await.map(|()| None),
    }
}

fn token_step(client: &Client, claims: &Claims) -> ProbeStep {
    let host = client.settings().base.host_str().unwrap_or("");
    let mut what = "got an access token".to_owned();
    if let Some(application) = &claims.application {
        what = format!("{what} for the application {application}");
    }
    let mut warnings = Vec::new();
    // the other form of an audience is the application id of Graph, which is the same in all clouds
    if let Some(audience) = claims.audience.as_deref().filter(|a| a.contains("://"))
        && !audience.trim_start_matches("https://").trim_end_matches('/').eq_ignore_ascii_case(host)
    {
        warnings.push(format!("the token is for {audience}, not for {host}: is this the right cloud?"));
    }
    if !claims.roles.is_empty() {
        warnings.push(
            "application permissions reach every mailbox of the tenant unless they are limited by RBAC for Applications or an application access policy"
                .to_owned(),
        );
    }
    ProbeStep { what, warning: (!warnings.is_empty()).then(|| warnings.join("; ")) }
}

async fn incoming(client: &Client, claims: &Claims, steps: &mut Vec<ProbeStep>) -> Result<u64> {
    let inbox = folder(client, "inbox", Stage::Listing).await?;
    let count = inbox.get("totalItemCount").and_then(Value::as_u64).unwrap_or(0);
    steps.push(ProbeStep { what: format!("opened the Inbox: {count} messages"), warning: None });
    let url = client.url("/mailFolders/inbox/messages/delta?$select=receivedDateTime")?;
    let prefer = email_router_http::HeaderName::from_static("prefer");
    let ask = Ask::new(Method::GET, url, Stage::Listing).header(prefer, "odata.maxpagesize=1");
    client.json(&ask).await?;
    let may_change = !claims.has_permissions() || claims.allows(&["Mail.ReadWrite"]);
    steps.push(ProbeStep {
        what: "began a listing".to_owned(),
        warning: (!may_change).then(|| {
            "the token has no Mail.ReadWrite: messages can be read, but not deleted, moved or marked as read".to_owned()
        }),
    });
    Ok(count)
}

async fn outgoing(
    client: &Client,
    mailbox: &Mailbox,
    claims: &Claims,
    steps: &mut Vec<ProbeStep>,
) -> Result<()> {
    if claims.has_permissions() && !claims.allows(&["Mail.Send"]) {
        let message = format!("{}: the token has no permission to send for the {mailbox}", client.place());
        return Err(Error::new(ErrorKind::AccessDenied, message)
            .with_hint("grant the application Mail.Send with admin consent; Mail.ReadWrite, too, for messages beyond 3 MB"));
    }
    let sent = match folder(client, "sentitems", Stage::Finding).await {
        Ok(_) => None,
        // sending needs no right to read
        Err(error) if error.kind() == ErrorKind::AccessDenied && is_missing_right(&error) => Some(
            "Sent Items cannot be read: after a lost answer nobody can tell whether a message went out; grant Mail.Read".to_owned(),
        ),
        Err(error) => return Err(error),
    };
    steps.push(ProbeStep { what: "opened Sent Items".to_owned(), warning: sent });
    let large = !claims.has_permissions() || claims.allows(&["Mail.ReadWrite"]);
    let right = error::sending_right(&client.settings().send_access, mailbox);
    let warning = match (claims.has_permissions(), large) {
        (false, _) => Some(
            "the permissions in the token cannot be seen; whether it may send shows at the first message",
        ),
        (true, false) => Some("the token has no Mail.ReadWrite: messages beyond 3 MB cannot be sent"),
        (true, true) => None,
    };
    steps.push(ProbeStep { what: "may send".to_owned(), warning: warning.map(str::to_owned) });
    if let Some((what, warning)) = right {
        steps.push(ProbeStep { what, warning: Some(warning) });
    }
    Ok(())
}

/// A refusal by a lack of rights, and not for want of a mailbox.
fn is_missing_right(error: &Error) -> bool {
    use email_router_model::Classified as _;
    error.hint().is_some_and(|hint| hint.contains(Stage::Finding.permission()))
}

async fn folder(client: &Client, name: &str, stage: Stage) -> Result<Value> {
    let url =
        client.url(&format!("/mailFolders/{name}?$select=displayName,totalItemCount,unreadItemCount"))?;
    client.json(&Ask::new(Method::GET, url, stage)).await
}
