//! One mailbox: listing, pipelined reading, deletion at QUIT.

use std::collections::hash_map::Entry::Vacant;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use email_router_model::{Classified as _, Headers, RawMessage, RemoteId, Retry, Scope};
use tokio::time::Instant;

use super::client::{Entry, Listing, Session};
use super::error::{Stage, is_gone};
use super::proto::{Body, Command, Event, Limits, Request, Status};
use super::settings::Window;
use crate::contract::{Disposition, Inbox, Part, ReceiveOptions, Stub};
use crate::{Error, ErrorKind, Result};

/// What a header section is taken to have when the window is reckoned, in octets.
const TYPICAL_HEADERS: u64 = 4096;

/// What a message of unknown size is taken to have, in octets.
const TYPICAL_MESSAGE: u64 = 64 * 1024;

/// The window a session begins with, in octets.
const FIRST_WINDOW: u64 = 2 << 20;

/// The window grows while a whole window of messages takes less time than this, and shrinks when it takes four times as long:
/// so that on a slow line no more is under way than can be read in a moment when the session has to end.
const WINDOW_TIME: Duration = Duration::from_millis(500);

/// How much of what nobody has asked for yet is kept, in octets, beyond one message.
const KEPT: u64 = 8 << 20;

/// A part of a message by its number in this session.
type Key = (u32, Part);

/// Where a part is on its way.
#[derive(Debug)]
enum Slot {
    /// Hinted, not yet asked for.
    Wanted,
    /// Asked for, not yet here.
    Flying,
    /// Here, not yet taken.
    Ready(Status, Option<Body>),
}

/// An open mailbox.
///
/// All requests go through one queue: hints are sent as far as the window allows, and [`Pop3Inbox::obtain`] reads answers until the one it
/// wants is there. Nothing is read unless somebody waits for it, so what is under way stays in the network.
pub(super) struct Pop3Inbox {
    session: Session,
    options: ReceiveOptions,
    window: Window,
    pipelining: bool,
    top: bool,
    without_top: Arc<AtomicBool>,
    entries: Vec<Entry>,
    /// The next entry to be listed.
    at: usize,
    ids: HashMap<RemoteId, usize>,
    shared_uids: HashSet<String>,
    hints: VecDeque<Key>,
    slots: HashMap<Key, Slot>,
    /// Parts under way, in order, with the octets reckoned for each.
    flying: VecDeque<(Key, u64)>,
    flying_bytes: u64,
    ready_bytes: u64,
    /// How much may be under way now.
    granted: u64,
    /// How much arrived since when under this window.
    arrived_since: (u64, Instant),
    /// The message read last as a whole, for whoever asked for its header section first.
    last_whole: Option<(u32, Bytes)>,
    deleted: HashSet<u32>,
    undeleted: VecDeque<u32>,
    delete_refused: Option<Status>,
    failed: Option<String>,
}

impl Pop3Inbox {
    pub(super) fn new(
        mut session: Session,
        listing: Listing,
        options: ReceiveOptions,
        window: Window,
        without_top: Arc<AtomicBool>,
    ) -> Self {
        session.connection.set_limits(Limits {
            headers: options.max_header_bytes,
            message: options.max_message_bytes,
            ..Limits::default()
        });
        let mut entries = listing.entries;
        let mut uses: HashMap<&str, u32> = HashMap::with_capacity(entries.len());
        for entry in &entries {
            if let Some(uid) = &entry.uid {
                *uses.entry(uid).or_default() += 1;
            }
        }
        // over the whole listing, so that max_messages does not change anybody's id
        let shared_uids: HashSet<String> =
            uses.iter().filter(|(_, count)| **count > 1).map(|(uid, _)| (*uid).to_owned()).collect();
        entries.truncate(options.max_messages);
        let mut ids = HashMap::with_capacity(entries.len());
        for (index, entry) in entries.iter().enumerate() {
            if let Some(uid) = entry.uid.as_deref().filter(|uid| !shared_uids.contains(*uid)) {
                ids.insert(RemoteId::new(uid), index);
            }
        }
        let top = session.capabilities.top || !session.capabilities.known;
        Self {
            pipelining: session.capabilities.pipelining,
            session,
            options,
            window,
            top,
            without_top,
            entries,
            at: 0,
            ids,
            shared_uids,
            hints: VecDeque::new(),
            slots: HashMap::new(),
            flying: VecDeque::new(),
            flying_bytes: 0,
            ready_bytes: 0,
            granted: FIRST_WINDOW.min(window.bytes),
            arrived_since: (0, Instant::now()),
            last_whole: None,
            deleted: HashSet::new(),
            undeleted: VecDeque::new(),
            delete_refused: None,
            failed: None,
        }
    }

    fn place(&self) -> &str {
        self.session.place()
    }

    fn usable(&self) -> Result<()> {
        match &self.failed {
            None => Ok(()),
            Some(why) => Err(Error::new(
                ErrorKind::ConnectionLost,
                format!("{}: the session has already failed: {why}", self.place()),
            )),
        }
    }

    fn index(&self, id: &RemoteId) -> Result<usize> {
        let known = self.ids.get(id).copied();
        known.ok_or_else(|| {
            Error::new(
                ErrorKind::MessageGone,
                format!("{}: there is no message {id} in this session", self.place()),
            )
        })
    }

    /// What is asked for to get this part: without TOP the whole message.
    fn key(&self, number: u32, part: Part) -> Key {
        (number, if self.top { part } else { Part::Whole })
    }

    fn reckoned(&self, key: Key) -> u64 {
        let found = self.entries.binary_search_by_key(&key.0, |e| e.number);
        let size = found.ok().and_then(|i| self.entries[i].size);
        match key.1 {
            Part::Headers => size.unwrap_or(TYPICAL_HEADERS).min(TYPICAL_HEADERS),
            Part::Whole => size.unwrap_or(TYPICAL_MESSAGE),
        }
    }

    fn too_large(&self, entry: &Entry) -> bool {
        entry.size.is_some_and(|size| size > self.options.max_message_bytes)
    }

    fn send(&mut self, key: Key) {
        let bytes = self.reckoned(key);
        let (number, part) = key;
        match part {
            Part::Headers => self.session.push(&Command::Top(number, 0), bytes),
            Part::Whole => self.session.push(&Command::Retr(number), bytes),
        }
        self.slots.insert(key, Slot::Flying);
        self.flying.push_back((key, bytes));
        self.flying_bytes += bytes;
    }

    /// Sends deletions and hints as far as the window allows; in batches, so that not every message costs a small packet.
    fn top_up(&mut self) {
        if !self.pipelining {
            if self.session.connection.waiting() == 0 {
                if let Some(number) = self.undeleted.pop_front() {
                    self.session.push(&Command::Dele(number), 0);
                } else if let Some(key) = self.next_hint() {
                    self.send(key);
                }
            }
            return;
        }
        let most = self.window.messages.max(1);
        while self.session.connection.waiting() < most {
            let Some(number) = self.undeleted.pop_front() else { break };
            self.session.push(&Command::Dele(number), 0);
        }
        let under_way = |inbox: &Self| inbox.flying_bytes + inbox.ready_bytes;
        if self.session.connection.waiting() > most / 2 || under_way(self) > self.granted / 2 {
            return;
        }
        while self.session.connection.waiting() < most && under_way(self) < self.granted {
            let Some(key) = self.next_hint() else { break };
            self.send(key);
        }
    }

    fn next_hint(&mut self) -> Option<Key> {
        // a hint that was asked for out of turn is no longer waiting
        std::iter::from_fn(|| self.hints.pop_front())
            .find(|key| matches!(self.slots.get(key), Some(Slot::Wanted)))
    }

    /// Takes one answer; `awaited` is what somebody waits for.
    fn arrived(&mut self, event: Event, awaited: Option<Key>) -> Result<()> {
        let Event::Answer { request, status, body } = event else {
            return Err(Error::new(ErrorKind::Protocol, format!("{} spoke out of turn", self.place())));
        };
        match request {
            Request::Top(_) | Request::Retr(_) => {
                let Some((key, bytes)) = self.flying.pop_front() else { return Ok(()) };
                self.flying_bytes -= bytes;
                let kept = body.as_ref().map_or(0, |b| b.bytes.len() as u64);
                // nobody waits for it and there is no room: it is asked for again when somebody does
                self.adapt_window(body.as_ref().map_or(0, |b| b.size));
                let full = self.ready_bytes > 0 && self.ready_bytes + kept > KEPT;
                if full && awaited != Some(key) {
                    self.slots.remove(&key);
                } else {
                    self.ready_bytes += kept;
                    self.slots.insert(key, Slot::Ready(status, body));
                }
            }
            Request::Dele(_) if !status.ok && !is_gone(&status) => self.delete_refused = Some(status),
            _ => {}
        }
        Ok(())
    }

    fn adapt_window(&mut self, arrived: u64) {
        let (sum, since) = &mut self.arrived_since;
        *sum += arrived;
        if *sum < self.granted {
            return;
        }
        let took = since.elapsed();
        if took < WINDOW_TIME {
            self.granted = self.granted.saturating_mul(2).min(self.window.bytes);
        } else if took > WINDOW_TIME * 4 {
            self.granted = (self.granted / 2).max(FIRST_WINDOW.min(self.window.bytes));
        }
        self.arrived_since = (0, Instant::now());
    }

    /// The answer to TOP or RETR. Dropping the future loses nothing.
    async fn obtain(&mut self, key: Key) -> Result<(Status, Option<Body>)> {
        loop {
            if let Some(Slot::Ready(..)) = self.slots.get(&key)
                && let Some(Slot::Ready(status, body)) = self.slots.remove(&key)
            {
                self.ready_bytes -= body.as_ref().map_or(0, |b| b.bytes.len() as u64);
                self.top_up();
                // what fails here is told by the next call: this answer is good
                if let Err(error) = self.session.flush().await {
                    self.broken(error);
                }
                return Ok((status, body));
            }
            let flying = matches!(self.slots.get(&key), Some(Slot::Flying));
            if !flying && (self.pipelining || self.session.connection.waiting() == 0) {
                self.send(key);
            }
            self.top_up();
            match self.session.event().await {
                Ok(event) => self.arrived(event, Some(key))?,
                Err(error) => return Err(self.broken(error)),
            }
        }
    }

    /// Notes an error that ends the session.
    fn broken(&mut self, error: Error) -> Error {
        if error.scope() != Scope::Message {
            self.failed = Some(error.to_string());
        }
        error
    }

    /// Reads a part; without TOP it is the whole message.
    async fn read(&mut self, index: usize, part: Part) -> Result<Bytes> {
        self.usable()?;
        let number = self.entries[index].number;
        let mut key = self.key(number, part);
        loop {
            if key.1 == Part::Whole {
                if let Some((last, bytes)) = &self.last_whole
                    && *last == number
                {
                    return Ok(bytes.clone());
                }
                if self.too_large(&self.entries[index]) {
                    return Err(
                        self.over(self.entries[index].size.unwrap_or(0), self.options.max_message_bytes)
                    );
                }
            }
            let (status, body) = self.obtain(key).await?;
            let Some(body) = body else {
                if key.1 == Part::Headers && !self.session.capabilities.known {
                    // a server without CAPA: perhaps it is TOP that is missing, perhaps the message. RETR tells.
                    key.1 = Part::Whole;
                    continue;
                }
                let request =
                    if key.1 == Part::Headers { Request::Top(number) } else { Request::Retr(number) };
                return Err(self.session.refusal(Stage::Message, &request.to_string(), &status));
            };
            if part == Part::Headers && key.1 == Part::Whole && self.top {
                self.forget_top();
            }
            if body.over_cap {
                let cap = match key.1 {
                    Part::Headers => self.options.max_header_bytes,
                    Part::Whole => self.options.max_message_bytes,
                };
                return Err(self.over(body.size, cap));
            }
            return Ok(Bytes::from(body.bytes));
        }
    }

    /// The server has no TOP.
    fn forget_top(&mut self) {
        self.top = false;
        self.without_top.store(true, Ordering::Relaxed);
        self.hints.retain(|key| key.1 == Part::Whole);
        self.slots.retain(|key, slot| key.1 == Part::Whole || !matches!(slot, Slot::Wanted));
    }

    fn over(&self, size: u64, cap: u64) -> Error {
        Error::new(
            ErrorKind::TooLarge,
            format!("{}: {size} bytes are more than the limit of {cap}", self.place()),
        )
    }

    /// The header section, read by TOP or cut from the whole message, which is kept for the next call then.
    async fn header_section(&mut self, index: usize) -> Result<Bytes> {
        let bytes = self.read(index, Part::Headers).await?;
        if !self.top {
            self.last_whole = Some((self.entries[index].number, bytes.clone()));
        }
        let section = Headers::new(&bytes).as_bytes().len();
        if section as u64 > self.options.max_header_bytes {
            return Err(self.over(section as u64, self.options.max_header_bytes));
        }
        Ok(bytes.slice(..section))
    }

    /// An id for a message whose unique-id is missing or shared, with its header section where that was read; `None` when the message
    /// has vanished, or the server refuses it for good.
    async fn identify(&mut self, index: usize) -> Result<Option<(RemoteId, Option<Bytes>)>> {
        let headers = match self.header_section(index).await {
            Ok(headers) => Some(headers),
            Err(error) if error.kind() == ErrorKind::MessageGone => return Ok(None),
            Err(error) if error.kind() == ErrorKind::TooLarge => None,
            // nobody can say when it can be read, so it must not keep all others from being read
            Err(error) if error.scope() == Scope::Message && error.retry() == Retry::Never => {
                let number = self.entries[index].number;
                tracing::warn!(%error, number, "a message that the server does not give out has no id and is passed over; it stays on the server");
                return Ok(None);
            }
            // the message is there but cannot be read now: without its id nobody could remember it, so the session ends
            Err(error) => return Err(self.broken(error.with_scope(Scope::Mailbox))),
        };
        let digest = match (&headers, self.top) {
            (None, _) => format!("size-{}", self.entries[index].size.unwrap_or(0)),
            (Some(headers), true) => identity(headers, b""),
            (Some(headers), false) => {
                let number = self.entries[index].number;
                let whole = self.last_whole.as_ref().filter(|(last, _)| *last == number);
                let body = whole.map_or(&b""[..], |(_, bytes)| &bytes[headers.len()..]);
                identity(headers, body)
            }
        };
        let base = match &self.entries[index].uid {
            Some(uid) => format!("{uid}+{}", &digest[..digest.len().min(16)]),
            None => format!("digest-{}", &digest[..digest.len().min(40)]),
        };
        let mut id = RemoteId::new(base.clone());
        let mut ordinal = 1;
        while self.ids.contains_key(&id) {
            ordinal += 1;
            id = RemoteId::new(format!("{base}-{ordinal}"));
        }
        self.ids.insert(id.clone(), index);
        // a piece of a whole message would keep all of it in memory as long as the caller keeps the stub
        let headers = headers.map(|h| if self.top { h } else { Bytes::copy_from_slice(&h) });
        Ok(Some((id, headers)))
    }

    fn needs_identity(&self, entry: &Entry) -> bool {
        entry.uid.as_ref().is_none_or(|uid| self.shared_uids.contains(uid))
    }

    fn hint(&mut self, number: u32, part: Part) {
        let key = self.key(number, part);
        if let Vacant(slot) = self.slots.entry(key) {
            slot.insert(Slot::Wanted);
            self.hints.push_back(key);
        }
    }

    /// Reads one answer and passes over what it is; for when nobody waits for messages.
    async fn settle_one(&mut self) -> Result<()> {
        match self.session.event().await {
            Ok(event) => self.arrived(event, None),
            Err(error) => Err(self.broken(error)),
        }
    }
}

#[async_trait]
impl Inbox for Pop3Inbox {
    async fn next(&mut self) -> Result<Option<Stub>> {
        self.usable()?;
        while let Some(entry) = self.entries.get(self.at).cloned() {
            let index = self.at;
            if !self.needs_identity(&entry) {
                self.at += 1;
                let id = RemoteId::new(entry.uid.unwrap_or_default());
                return Ok(Some(Stub { size: entry.size, ..Stub::new(id) }));
            }
            // have the next header sections under way too; whole messages only a few
            let ahead = if self.top { 64 } else { 4 };
            let upcoming: Vec<u32> = self.entries[index..]
                .iter()
                .take(ahead)
                .filter(|e| self.needs_identity(e) && (self.top || !self.too_large(e)))
                .map(|e| e.number)
                .collect();
            for number in upcoming {
                self.hint(number, Part::Headers);
            }
            let identified = self.identify(index).await?;
            self.at = index + 1;
            if let Some((id, headers)) = identified {
                return Ok(Some(Stub { size: entry.size, headers, ..Stub::new(id) }));
            }
        }
        Ok(None)
    }

    async fn prefetch(&mut self, wanted: &[(RemoteId, Part)]) -> Result<()> {
        self.usable()?;
        for (id, part) in wanted {
            let Some(&index) = self.ids.get(id) else { continue };
            let entry = &self.entries[index];
            let (number, whole) = (entry.number, self.key(entry.number, *part).1 == Part::Whole);
            if self.deleted.contains(&number) || (whole && self.too_large(entry)) {
                continue;
            }
            self.hint(number, *part);
        }
        self.top_up();
        match self.session.flush().await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.broken(error)),
        }
    }

    async fn headers(&mut self, id: &RemoteId) -> Result<Bytes> {
        self.usable()?;
        let index = self.index(id)?;
        self.header_section(index).await
    }

    async fn fetch(&mut self, id: &RemoteId) -> Result<RawMessage> {
        self.usable()?;
        let index = self.index(id)?;
        let bytes = self.read(index, Part::Whole).await?;
        if self.last_whole.as_ref().is_some_and(|(last, _)| *last == self.entries[index].number) {
            self.last_whole = None;
        }
        Ok(RawMessage::new(bytes))
    }

    async fn dispose(&mut self, id: &RemoteId, what: Disposition) -> Result<()> {
        self.usable()?;
        let number = match self.ids.get(id) {
            Some(&index) => self.entries[index].number,
            None => return Ok(()), // gone
        };
        match what {
            Disposition::Keep => Ok(()),
            Disposition::Delete => {
                if self.deleted.insert(number) {
                    self.undeleted.push_back(number);
                    self.top_up();
                }
                Ok(())
            }
            Disposition::MarkRead | Disposition::Move(_) => Err(Error::new(
                ErrorKind::Unsupported,
                format!("{}: POP3 can only keep or delete messages", self.place()),
            )),
        }
    }

    async fn close(mut self: Box<Self>) -> Result<()> {
        self.usable()?;
        self.hints.clear();
        loop {
            self.top_up();
            // what was hinted and never asked for is read and dropped here
            self.slots.retain(|_, slot| matches!(slot, Slot::Flying));
            self.ready_bytes = 0;
            if self.session.connection.waiting() == 0 {
                break;
            }
            self.settle_one().await?;
        }
        let deletions = self.deleted.len();
        let (status, _) = self.session.ask(Command::Quit).await.map_err(|error| match deletions {
            0 => error,
            _ => error.with_hint(
                "nobody knows whether the deletions took effect; the next session shows what is still there",
            ),
        })?;
        if !status.ok {
            return Err(self.session.refusal(Stage::Close, "QUIT", &status));
        }
        match self.delete_refused.take() {
            None => Ok(()),
            Some(status) => Err(self.session.refusal(Stage::Close, "DELE", &status)),
        }
    }
}

/// A digest of the header section without the fields in which servers keep notes of their own, and of the body.
fn identity(headers: &[u8], body: &[u8]) -> String {
    const NOTES: [&str; 7] =
        ["Status", "X-Status", "X-UIDL", "X-UID", "X-Keywords", "Content-Length", "X-Mozilla-Status"];
    let mut kept = Vec::with_capacity(headers.len() + body.len());
    for field in Headers::new(headers).iter().filter(|field| !NOTES.iter().any(|note| field.is(note))) {
        kept.extend_from_slice(field.name);
        kept.push(b':');
        kept.extend_from_slice(field.raw_value.trim_ascii());
        kept.push(b'\n');
    }
    kept.extend_from_slice(body);
    RawMessage::new(kept).digest()
}

#[cfg(test)]
mod tests {
    use super::identity;

    #[test]
    fn notes_of_the_server_do_not_change_the_identity() {
        let fresh = identity(b"From: a@b\r\nSubject: x\r\n y\r\n\r\n", b"");
        let noted = identity(b"From: a@b\r\nStatus: RO\r\nX-UIDL: 7\r\nSubject: x\r\n y\r\n\r\n", b"");
        assert_eq!(fresh, noted);
        assert_ne!(fresh, identity(b"From: a@b\r\nSubject: x\r\n z\r\n\r\n", b""));
        assert_ne!(fresh, identity(b"From: a@b\r\nSubject: x\r\n y\r\n\r\n", b"body"));
    }
}
