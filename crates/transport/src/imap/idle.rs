//! Waiting for mail: IDLE (RFC 2177), or NOOP where the server has no IDLE.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::client::Session;
use super::error::Stage;
use super::proto::command::DONE;
use super::proto::{Command, Event, Response};
use crate::Result;

/// IDLE begins anew after this time: servers end a session that says nothing for 30 minutes (RFC 2177).
const RENEW: Duration = Duration::from_secs(28 * 60);

/// Without IDLE the server is asked this often.
const ASK_EVERY: Duration = Duration::from_secs(60);

/// What an event says about new mail in a folder that held `exists` messages.
struct Watch {
    exists: u32,
}

impl Watch {
    /// Whether there is new mail.
    fn sees(&mut self, response: &Response) -> bool {
        match response {
            Response::Exists(now) => {
                let more = *now > self.exists;
                self.exists = *now;
                more
            }
            Response::Recent(new) => *new > 0,
            Response::Expunge => {
                self.exists = self.exists.saturating_sub(1);
                false
            }
            _ => false,
        }
    }
}

/// Waits until a message arrives in the open folder, which held `exists` messages when it was opened; `false` at `until`.
pub(super) async fn wait(session: &mut Session, exists: u32, until: Instant) -> Result<bool> {
    let mut watch = Watch { exists };
    let mut idles = session.capabilities.idle();
    while Instant::now() < until {
        let begun = Instant::now();
        if idles {
            match idle(session, &mut watch, until.min(begun + RENEW)).await? {
                Ended::News => return Ok(true),
                // a server that does not keep it up is asked, too
                Ended::Quiet if begun.elapsed() >= ASK_EVERY => continue,
                Ended::Quiet => {}
                Ended::Refused => idles = false,
            }
        }
        tokio::time::sleep_until(until.min(begun + ASK_EVERY)).await;
        if noop(session, &mut watch).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// How an IDLE ended.
enum Ended {
    News,
    Quiet,
    /// The server offers it and does not do it.
    Refused,
}

async fn noop(session: &mut Session, watch: &mut Watch) -> Result<bool> {
    let answer = session.ask(&Command::Noop).await?;
    if !answer.condition.is_ok() {
        return Err(session.refusal(Stage::Mailbox, "NOOP", &answer.condition));
    }
    // each of them changes what is known
    let mut found = false;
    for response in &answer.data {
        found |= watch.sees(response);
    }
    Ok(found)
}

/// One IDLE, until there is news, it is time, or the server ends it.
async fn idle(session: &mut Session, watch: &mut Watch, until: Instant) -> Result<Ended> {
    let number = session.push(&Command::Idle);
    session.flush().await?;
    let (mut found, mut begun, mut ended) = (false, false, false);
    loop {
        if begun && !ended {
            // as long as it takes; the end comes from outside
            session.arm_for(RENEW * 2);
        }
        let event = match begun && !ended {
            true => timeout_at(until, session.event()).await,
            false => Ok(session.event().await),
        };
        match event {
            Err(_) => {}
            Ok(event) => match event? {
                Event::Continue(_) if !begun => begun = true,
                Event::Data(response) => found |= watch.sees(&response),
                Event::Done { number: done, condition, .. } if done == number => {
                    return Ok(match condition.is_ok() {
                        true if found => Ended::News,
                        true => Ended::Quiet,
                        false => Ended::Refused,
                    });
                }
                Event::Done { .. } => {}
                other => return Err(session.unexpected(&other)),
            },
        }
        if begun && !ended && (found || Instant::now() >= until) {
            ended = true;
            session.push_raw(DONE);
            session.flush().await?;
        }
    }
}
