//! What becomes of messages: one batch under way, and what comes meanwhile gathers for the next (Microsoft Graph, `$batch`).
//!
//! The first disposition goes out at once; while it is under way the following ones wait and then go together. So nothing waits longer than
//! one round trip, and a mailbox that is emptied costs one request for twenty messages. Batches follow each other, so that two dispositions
//! of one message keep their order.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use email_router_http::{HeaderMap, Method, header, retry_after};
use email_router_model::{Classified as _, Scope};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::client::{Ask, Client, Outcome};
use super::error::{self, Stage};
use super::listing::Listings;
use super::proto::fault::Fault;
use super::proto::{batch, link, page};
use super::settings::Deletion;
use crate::contract::Disposition;
use crate::{Error, ErrorKind, Result};

/// The dispositions of a session. Dropping it stops what is under way; what was not sent is forgotten.
pub(super) struct Disposal {
    client: Client,
    listings: Arc<Listings>,
    queue: VecDeque<(String, Disposition)>,
    /// What each message was last told, so that the same is not asked for twice.
    told: HashMap<String, Disposition>,
    running: JoinSet<(HashMap<String, String>, Result<()>)>,
    /// Ids of folders by their names.
    folders: HashMap<String, String>,
    /// The first refusal that concerns single messages.
    refused: Option<Error>,
}

impl Disposal {
    pub(super) fn new(client: Client, listings: Arc<Listings>) -> Self {
        Self {
            client,
            listings,
            queue: VecDeque::new(),
            told: HashMap::new(),
            running: JoinSet::new(),
            folders: HashMap::new(),
            refused: None,
        }
    }

    /// Takes a disposition on.
    pub(super) fn add(&mut self, id: &str, what: Disposition) {
        let removed = |what: &Disposition| matches!(what, Disposition::Delete | Disposition::Move(_));
        match self.told.get(id) {
            Some(before) if removed(before) || *before == what => return,
            _ => {}
        }
        self.told.insert(id.to_owned(), what.clone());
        self.queue.push_back((id.to_owned(), what));
        self.begin();
    }

    /// Sees what has come back, without waiting.
    ///
    /// # Errors
    /// What concerns the mailbox or the server; a refusal that concerns a message is told at the end.
    pub(super) fn look(&mut self) -> Result<()> {
        while let Some(joined) = self.running.try_join_next() {
            self.ended(joined)?;
        }
        self.begin();
        Ok(())
    }

    /// Carries out all that is left.
    ///
    /// # Errors
    /// The first refusal.
    pub(super) async fn finish(&mut self) -> Result<()> {
        loop {
            self.begin();
            match self.running.join_next().await {
                Some(joined) => self.ended(joined)?,
                None => return self.refused.take().map_or(Ok(()), Err),
            }
        }
    }

    fn ended(
        &mut self,
        joined: Result<(HashMap<String, String>, Result<()>), tokio::task::JoinError>,
    ) -> Result<()> {
        let (folders, result) = joined.map_err(|_| {
            let message = format!("{}: dispositions were stopped", self.client.place());
            Error::new(ErrorKind::Cancelled, message)
        })?;
        self.folders = folders;
        match result {
            Err(error) if error.scope() > Scope::Message => Err(error),
            Err(error) => {
                self.refused.get_or_insert(error);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn begin(&mut self) {
        if !self.running.is_empty() || self.queue.is_empty() {
            return;
        }
        // of each message what was asked for first: the parts of a batch have no order
        let mut together = HashSet::new();
        let mut flock = Vec::new();
        for (id, what) in std::mem::take(&mut self.queue) {
            if flock.len() < batch::MOST && together.insert(id.clone()) {
                flock.push((id, what));
            } else {
                self.queue.push_back((id, what));
            }
        }
        let (client, listings) = (self.client.clone(), Arc::clone(&self.listings));
        let mut folders = std::mem::take(&mut self.folders);
        self.running.spawn(async move {
            let result = carry_out(&client, &listings, &mut folders, flock).await;
            (folders, result)
        });
    }
}

/// Carries out dispositions of different messages; the first refusal, when all others are done.
async fn carry_out(
    client: &Client,
    listings: &Listings,
    folders: &mut HashMap<String, String>,
    flock: Vec<(String, Disposition)>,
) -> Result<()> {
    let mut left = Vec::with_capacity(flock.len());
    let mut refused = None;
    for (id, what) in flock {
        match part(client, folders, &id, &what).await {
            Ok(Some(part)) => left.push((id, what, part)),
            Ok(None) => {}
            // a folder of this name cannot be made: that concerns those who shall go there
            Err(error) if error.scope() == Scope::Message => drop(refused.get_or_insert(error)),
            Err(error) => return Err(error),
        }
    }
    let mut waited = Duration::ZERO;
    let mut attempt = 1;
    while !left.is_empty() {
        let parts: Vec<batch::Part> = left.iter().map(|(.., part)| part.clone()).collect();
        let answers = ask(client, &parts).await?;
        let mut again = Vec::new();
        let mut delay = None;
        let mut throttled = None;
        let mut gone = Vec::new();
        for ((id, what, part), answer) in left.into_iter().zip(answers) {
            let fault = Fault::of(&answer.body);
            let error = match answer.status {
                200..300 => None,
                status => Some(error::refused(client.place(), Stage::Disposal, status, &fault, None)),
            };
            match error {
                // somebody else took it: as good as done
                Some(error) if error.kind() == ErrorKind::MessageGone => gone.push(id),
                Some(error)
                    if error.kind() == ErrorKind::Throttled || matches!(answer.status, 500 | 502 | 504) =>
                {
                    delay = delay.max(wait(client, &answer));
                    throttled = Some(error);
                    again.push((id, what, part));
                }
                Some(error) if error.scope() == Scope::Message => drop(refused.get_or_insert(error)),
                Some(error) => return Err(error),
                None if matches!(what, Disposition::Delete | Disposition::Move(_)) => gone.push(id),
                None => {}
            }
        }
        listings.remove(client, gone.iter().map(String::as_str));
        left = again;
        if let Some(error) = throttled {
            let delay = delay.unwrap_or_else(|| client.delay(attempt));
            if attempt >= client.settings().attempts || waited + delay > client.settings().longest_wait {
                return Err(error.after(delay).with_scope(Scope::Mailbox));
            }
            tokio::time::sleep(delay).await;
            waited += delay;
            attempt += 1;
        }
    }
    refused.map_or(Ok(()), Err)
}

fn wait(client: &Client, answer: &batch::Answer) -> Option<Duration> {
    let mut headers = HeaderMap::new();
    headers.insert(header::RETRY_AFTER, answer.retry_after.as_deref()?.parse().ok()?);
    retry_after(&headers, client.settings().clock.now())
}

async fn ask(client: &Client, parts: &[batch::Part]) -> Result<Vec<batch::Answer>> {
    // all of them may be repeated: a message that was moved is moved to where it is
    let ask = Ask::batch(client.absolute("/$batch")?, parts, Stage::Disposal);
    let answer = client.send(&ask).await.map_err(mailbox_matter)?;
    let body = client.body(&ask, answer).await.map_err(mailbox_matter)?;
    batch::answers(&body, parts.len()).map_err(|why| error::malformed(client.place(), Stage::Disposal, &why))
}

/// A batch that is refused as a whole is no fault of a message.
fn mailbox_matter(error: Error) -> Error {
    let scope = error.scope().max(Scope::Mailbox);
    error.with_scope(scope)
}

/// The request for a disposition; `None` where there is nothing to do.
///
/// Deleting is moving to Deleted Items, and not `DELETE`, which does the same the first time: an id outlives the move, and a second `DELETE`, after an
/// answer that was lost, would take the message out of Deleted Items, too.
async fn part(
    client: &Client,
    folders: &mut HashMap<String, String>,
    id: &str,
    what: &Disposition,
) -> Result<Option<batch::Part>> {
    let message = client.path(&format!("/messages/{}", link::segment(id)));
    let moved = |folder: &str| batch::Part {
        method: "POST",
        url: format!("{message}/move"),
        body: Some(json!({"destinationId": folder})),
    };
    Ok(Some(match what {
        Disposition::Keep => return Ok(None),
        Disposition::MarkRead => {
            batch::Part { method: "PATCH", url: message, body: Some(json!({"isRead": true})) }
        }
        Disposition::Delete => match client.settings().deletion {
            Deletion::DeletedItems => moved("deleteditems"),
            Deletion::Permanent => {
                batch::Part { method: "POST", url: format!("{message}/permanentDelete"), body: None }
            }
        },
        Disposition::Move(name) => {
            if !folders.contains_key(name) {
                let folder = folder(client, name).await?;
                folders.insert(name.clone(), folder);
            }
            moved(&folders[name])
        }
    }))
}

/// The id of the folder of this name beside the Inbox; it is created when it is missing.
async fn folder(client: &Client, name: &str) -> Result<String> {
    if let Some(id) = find_folder(client, name).await? {
        return Ok(id);
    }
    let ask = Ask::new(Method::POST, client.url("/mailFolders")?, Stage::Disposal)
        .json(&json!({"displayName": name}));
    match client.outcome(&ask).await? {
        Outcome::Done(answer) => {
            let body = client.body(&ask, answer).await?;
            folder_id(
                client,
                &super::proto::json(&body)
                    .map_err(|why| error::malformed(client.place(), Stage::Disposal, &why))?,
            )
        }
        // somebody was faster
        Outcome::Refused(refusal) if refusal.fault.is("ErrorFolderExists") || refusal.status == 409 => {
            let missing = || {
                let message = format!("{}: the folder {name:?} is there and is not found", client.place());
                Error::new(ErrorKind::Protocol, message)
            };
            find_folder(client, name).await?.ok_or_else(missing)
        }
        Outcome::Refused(refusal) => Err(refusal.error),
    }
}

async fn find_folder(client: &Client, name: &str) -> Result<Option<String>> {
    let filter = link::query(&format!("displayName eq {}", link::quoted(name)));
    let url = client.url(&format!("/mailFolders?$filter={filter}&$select=displayName"))?;
    let found = client.json(&Ask::new(Method::GET, url, Stage::Listing)).await?;
    let malformed = |why| error::malformed(client.place(), Stage::Listing, &why);
    let named = |folder: &&Value| {
        let told = folder.get("displayName").and_then(Value::as_str);
        told.is_some_and(|told| told.to_lowercase() == name.to_lowercase())
    };
    // a service that passes over the filter must not make us take another folder
    let found = page::entries(&found).map_err(malformed)?.iter().find(named);
    found.map(|folder| folder_id(client, folder)).transpose()
}

fn folder_id(client: &Client, folder: &Value) -> Result<String> {
    page::id(folder).map_err(|why| error::malformed(client.place(), Stage::Listing, &why))
}
