//! Streaming notifications: waiting for mail instead of polling.

use std::time::Duration;

use email_router_http::{Body, StatusCode, retry_after};
use email_router_model::Mailbox;
use tokio::time::Instant;

use super::client::{As, Client, Failure, Limits, Session};
use super::error::nonsense;
use super::folder_of;
use super::proto::stream::Envelopes;
use super::proto::{Operation, response};
use super::sync::Memory;
use crate::{Error, ErrorKind, Result};
use std::sync::Arc;

/// The longest wait the server grants, in minutes.
const LONGEST: u64 = 30;

const DOING: &str = "wait for mail";

/// Waits until mail comes into the inbox, at most so long. `false`: none came.
pub(super) async fn wait(
    client: &Arc<Client>,
    memory: &Memory,
    mailbox: &Mailbox,
    limit: Duration,
) -> Result<bool> {
    let deadline = Instant::now() + limit;
    let mut session = client.session(mailbox).await?;
    let who = As::reader(client.settings.access);
    let subscription = subscribe(&mut session, who).await?;
    // what came between the last listing and the subscription nobody would tell of
    let result = match changed_meanwhile(&mut session, memory, who).await {
        Ok(true) => Ok(true),
        Ok(false) => listen(&mut session, &subscription, who, deadline).await,
        Err(error) => Err(error),
    };
    // a subscription that is forgotten here ends by itself half an hour later
    let _ = session.ask_one(&Operation::Unsubscribe(&subscription), DOING, who).await;
    result
}

async fn subscribe(session: &mut Session, who: As) -> Result<String> {
    let mailbox = session.identity.mailbox.clone();
    let folder = folder_of(session.client.settings.access, "inbox", &mailbox);
    let answer = session.ask_one(&Operation::Subscribe(folder), DOING, who).await;
    let answer = match answer {
        Ok(answer) => answer,
        Err(failure) => return Err(unsupported(session, failure)),
    };
    match answer.subscription() {
        Some(id) => Ok(id.to_owned()),
        None => Err(nonsense(&session.about(), &"a subscription without an id")),
    }
}

/// A server that does not know the operation, or does not allow it for another's mailbox: the caller polls.
fn unsupported(session: &Session, failure: Failure) -> Error {
    let code = failure.code.as_deref().unwrap_or_default();
    let cannot = matches!(
        code,
        "ErrorInvalidOperation"
            | "ErrorInvalidRequest"
            | "ErrorSchemaValidation"
            | "ErrorInvalidSubscriptionRequest"
            | "ErrorSubscriptionDelegateAccessNotSupported"
            | "ErrorProxiedSubscriptionCallFailure"
    );
    if !cannot {
        return failure.error;
    }
    let text = format!("{} has no notifications for this mailbox", session.place);
    Error::new(ErrorKind::Unsupported, text).with_reply(failure.error.reply().unwrap_or(code))
}

async fn changed_meanwhile(session: &mut Session, memory: &Memory, who: As) -> Result<bool> {
    let mailbox = session.identity.mailbox.clone();
    let Some(state) = memory.state(&mailbox) else { return Ok(false) };
    let (access, page) = (session.client.settings.access, session.client.settings.page);
    let sync = Operation::SyncFolderItems(folder_of(access, "inbox", &mailbox), Some(&state), page);
    match session.ask_one(&sync, DOING, who).await {
        Ok(answer) => {
            Ok(answer.changes().is_some_and(|changes| !changes.present.is_empty() || !changes.last))
        }
        // the next listing begins anew and finds whatever there is
        Err(failure) if failure.code.as_deref() == Some("ErrorInvalidSyncStateData") => Ok(true),
        Err(failure) => Err(failure.error),
    }
}

async fn listen(session: &mut Session, subscription: &str, who: As, deadline: Instant) -> Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let minutes = left.as_secs().div_ceil(60).clamp(1, LONGEST);
        let wait = Operation::GetStreamingEvents(subscription, u32::try_from(minutes).unwrap_or(1));
        let version = session.client.version();
        let heard = async {
            let limits = Limits { skeleton: 64 << 20, ..Limits::PLAIN };
            let answer = session.post(&wait, version, who, &limits).await?;
            if answer.status != StatusCode::OK {
                let delay = retry_after(&answer.headers, session.client.settings.clock.now());
                let status = answer.status;
                let page = answer.body.excerpt(16 << 10).await;
                return Err(match response::read(page.as_bytes()) {
                    Ok(Err(fault)) => Failure {
                        error: session.refused(DOING, &fault.problem),
                        acted: false,
                        code: Some(fault.problem.code),
                    },
                    _ => session.page(status, &page, delay),
                });
            }
            hear(session, answer.body).await
        };
        match tokio::time::timeout(left, heard).await {
            Err(_) => return Ok(false),
            Ok(Ok(Heard::Mail)) => return Ok(true),
            // the server's half hour is over
            Ok(Ok(Heard::Closed)) => {}
            Ok(Err(failure)) => return Err(unsupported(session, failure)),
        }
    }
}

enum Heard {
    Mail,
    Closed,
}

async fn hear(session: &Session, mut body: Body) -> Result<Heard, Failure> {
    let mut envelopes = Envelopes::default();
    while let Some(piece) = body.chunk().await? {
        if envelopes.push(&piece).is_err() {
            return Err(nonsense(&session.about(), &"an event without an end").into());
        }
        while let Some(envelope) = envelopes.next_envelope() {
            let reply = match response::read(&envelope) {
                Ok(Ok(reply)) => reply,
                Ok(Err(fault)) => {
                    let error = session.refused(DOING, &fault.problem);
                    return Err(Failure { error, acted: false, code: Some(fault.problem.code) });
                }
                Err(why) => return Err(nonsense(&session.about(), &why).into()),
            };
            for answer in &reply.answers {
                if let Some(problem) = &answer.problem {
                    let error = session.refused(DOING, problem);
                    return Err(Failure { error, acted: false, code: Some(problem.code.clone()) });
                }
                if answer.tells_of_mail() {
                    return Ok(Heard::Mail);
                }
                if answer.is_closed() {
                    return Ok(Heard::Closed);
                }
            }
        }
    }
    Ok(Heard::Closed)
}
