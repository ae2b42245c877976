//! Messages on their way: single reads, and reads ahead.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use email_router_http::Method;
use email_router_model::{Classified as _, Headers, Scope};
use tokio::task::JoinSet;

use super::client::{Ask, Client};
use super::error::{self, Stage};
use super::proto::fault::Fault;
use super::proto::{batch, header, link};
use crate::contract::{Part, ReceiveOptions};
use crate::{Error, ErrorKind, Result};

/// Which part of which message.
pub(super) type Key = (String, Part);

/// What is read ahead of a header section of which no size is known, for the limit.
const HEADERS_SIZE: u64 = 8 << 10;

enum Slot {
    Wanted,
    Flying,
    Ready(Result<Bytes>),
}

/// What one task brought.
type Brought = Vec<(Key, Result<Bytes>)>;

/// The reads of a session. Dropping it stops what is under way.
pub(super) struct Reads {
    client: Client,
    options: ReceiveOptions,
    tasks: JoinSet<Brought>,
    slots: HashMap<Key, Slot>,
    wanted: VecDeque<(Key, u64)>,
    /// Bytes that are under way or lie ready, as far as sizes are known.
    bytes: HashMap<Key, u64>,
}

impl Reads {
    pub(super) fn new(client: Client, options: ReceiveOptions) -> Self {
        Self {
            client,
            options,
            tasks: JoinSet::new(),
            slots: HashMap::new(),
            wanted: VecDeque::new(),
            bytes: HashMap::new(),
        }
    }

    /// Notes what will be asked for; `size` as it was listed.
    pub(super) fn hint(&mut self, key: Key, size: Option<u64>) {
        if key.1 == Part::Whole && size.is_some_and(|size| size > self.options.max_message_bytes) {
            return;
        }
        let size = if key.1 == Part::Headers { HEADERS_SIZE } else { size.unwrap_or(HEADERS_SIZE) };
        if !self.slots.contains_key(&key) {
            self.slots.insert(key.clone(), Slot::Wanted);
            self.wanted.push_back((key, size));
        }
    }

    /// Begins reads, as far as lane and memory allow.
    pub(super) fn top_up(&mut self) {
        self.collect_ready();
        while self.tasks.len() < self.client.settings().places() as usize {
            let mut flock: Vec<Key> = Vec::new();
            let mut sum: u64 = self.bytes.values().sum();
            while let Some((key, size)) = self.wanted.front().cloned() {
                if !matches!(self.slots.get(&key), Some(Slot::Wanted)) {
                    self.wanted.pop_front();
                    continue;
                }
                let full = sum > 0 && sum + size > self.client.settings().read_ahead_bytes;
                let fits = flock.is_empty() || (key.1 == Part::Headers && flock.len() < batch::MOST);
                if full || !fits {
                    break;
                }
                self.wanted.pop_front();
                sum += size;
                self.bytes.insert(key.clone(), size);
                self.slots.insert(key.clone(), Slot::Flying);
                let whole = key.1 == Part::Whole;
                flock.push(key);
                if whole {
                    break;
                }
            }
            if flock.is_empty() {
                return;
            }
            let (client, options) = (self.client.clone(), self.options.clone());
            self.tasks.spawn(async move {
                match &flock[..] {
                    [(id, Part::Whole)] => {
                        let read = whole(&client, &options, id).await;
                        vec![(flock[0].clone(), read)]
                    }
                    _ => sections(&client, &options, flock).await,
                }
            });
        }
    }

    /// A part of a message, from what was read ahead or read now. Dropping the future loses nothing.
    pub(super) async fn obtain(&mut self, key: &Key) -> Result<Bytes> {
        loop {
            self.top_up();
            match self.slots.get(key) {
                Some(Slot::Flying) => match self.tasks.join_next().await {
                    Some(Ok(brought)) => self.arrived(brought),
                    // a task that panicked or was stopped brings nothing: what it was for is read now
                    Some(Err(_)) | None => drop(self.slots.remove(key)),
                },
                Some(Slot::Ready(_)) => {
                    self.bytes.remove(key);
                    if let Some(Slot::Ready(read)) = self.slots.remove(key) {
                        self.top_up();
                        return read;
                    }
                }
                Some(Slot::Wanted) | None => {
                    self.slots.remove(key);
                    return match key.1 {
                        Part::Whole => whole(&self.client, &self.options, &key.0).await,
                        Part::Headers => section(&self.client, &self.options, &key.0).await,
                    };
                }
            }
        }
    }

    fn collect_ready(&mut self) {
        while let Some(joined) = self.tasks.try_join_next() {
            if let Ok(brought) = joined {
                self.arrived(brought);
            }
        }
    }

    fn arrived(&mut self, brought: Brought) {
        for (key, read) in brought {
            if let Ok(bytes) = &read {
                self.bytes.insert(key.clone(), bytes.len() as u64);
            }
            self.slots.insert(key, Slot::Ready(read));
        }
    }
}

/// The whole message, as Exchange writes it.
async fn whole(client: &Client, options: &ReceiveOptions, id: &str) -> Result<Bytes> {
    let mut ask = Ask::new(
        Method::GET,
        client.url(&format!("/messages/{}/$value", link::segment(id)))?,
        Stage::Message,
    );
    ask.most = options.max_message_bytes;
    let answer = client.send(&ask).await?;
    client.body(&ask, answer).await
}

/// The path of what is asked for the header section.
fn fields_of(id: &str) -> String {
    format!("/messages/{}?$select=internetMessageHeaders", link::segment(id))
}

/// How much JSON a header section within the limit may take: quotes, names and escapes double it at the most.
fn json_limit(options: &ReceiveOptions) -> u64 {
    options.max_header_bytes.saturating_mul(2).saturating_add(64 << 10)
}

/// The header section of one message.
async fn section(client: &Client, options: &ReceiveOptions, id: &str) -> Result<Bytes> {
    let mut ask = Ask::new(Method::GET, client.url(&fields_of(id))?, Stage::Message);
    ask.most = json_limit(options);
    let fields = client.json(&ask).await?;
    match header::section(&fields) {
        Some(section) => within(client, options, section),
        None => head(client, options, id).await,
    }
}

/// The header sections of several messages, in one request.
async fn sections(client: &Client, options: &ReceiveOptions, flock: Vec<Key>) -> Brought {
    if let [key] = &flock[..] {
        let read = section(client, options, &key.0).await;
        return vec![(key.clone(), read)];
    }
    let answers = ask_sections(client, options, &flock).await;
    let mut brought = Vec::with_capacity(flock.len());
    match answers {
        Ok(answers) => {
            for (key, answer) in flock.into_iter().zip(answers) {
                let read = match (answer.status, header::section(&answer.body)) {
                    (200..300, Some(section)) => within(client, options, section),
                    (200..300, None) => head(client, options, &key.0).await,
                    // busy just now: alone, with patience
                    (429 | 500..600, _) => section(client, options, &key.0).await,
                    (status, _) => Err(error::refused(
                        client.place(),
                        Stage::Message,
                        status,
                        &Fault::of(&answer.body),
                        None,
                    )),
                };
                brought.push((key, read));
            }
        }
        // twenty large ones together may be too much where each alone is not
        Err(error) if error.kind() == ErrorKind::TooLarge || error.scope() == Scope::Message => {
            for key in flock {
                let read = section(client, options, &key.0).await;
                brought.push((key, read));
            }
        }
        Err(error) => {
            let words = error.to_string();
            let (kind, retry, scope) = (error.kind(), error.retry(), error.scope());
            let again = || Error::new(kind, words.clone()).with_retry(retry).with_scope(scope);
            brought.extend(flock.into_iter().map(|key| (key, Err(again()))));
        }
    }
    brought
}

async fn ask_sections(
    client: &Client,
    options: &ReceiveOptions,
    flock: &[Key],
) -> Result<Vec<batch::Answer>> {
    let part = |(id, _): &Key| batch::Part { method: "GET", url: client.path(&fields_of(id)), body: None };
    let parts: Vec<_> = flock.iter().map(part).collect();
    let mut ask = Ask::batch(client.absolute("/$batch")?, &parts, Stage::Listing);
    ask.most = ask.most.max(json_limit(options));
    let answer = client.send(&ask).await?;
    let body = client.body(&ask, answer).await?;
    batch::answers(&body, parts.len()).map_err(|why| error::malformed(client.place(), Stage::Listing, &why))
}

/// The beginning of the message itself, for those whose resource tells no fields.
async fn head(client: &Client, options: &ReceiveOptions, id: &str) -> Result<Bytes> {
    let mut ask = Ask::new(
        Method::GET,
        client.url(&format!("/messages/{}/$value", link::segment(id)))?,
        Stage::Message,
    );
    ask.most = u64::MAX; // what follows the header section is not read
    let answer = client.send(&ask).await?;
    let most = usize::try_from(options.max_header_bytes).unwrap_or(usize::MAX);
    let ended = |bytes: &[u8]| {
        memchr::memmem::find(bytes, b"\n\r\n").or_else(|| memchr::memmem::find(bytes, b"\n\n")).is_some()
    };
    let bytes = client.beginning(&ask, answer, ended, most).await?;
    let section = Headers::new(&bytes).as_bytes().len();
    within(client, options, bytes[..section].to_vec())
}

fn within(client: &Client, options: &ReceiveOptions, section: Vec<u8>) -> Result<Bytes> {
    if section.len() as u64 > options.max_header_bytes {
        let (size, cap) = (section.len(), options.max_header_bytes);
        let message =
            format!("{}: a header section of {size} bytes is more than the limit of {cap}", client.place());
        return Err(Error::new(ErrorKind::TooLarge, message).with_scope(Scope::Message));
    }
    Ok(Bytes::from(section))
}
