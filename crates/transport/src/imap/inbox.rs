//! One folder: listing in slices, pipelined reading.

use std::collections::hash_map::Entry::Vacant;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use email_router_model::{Classified as _, Headers, MailboxId, RawMessage, RemoteId, Scope};
use tokio::time::Instant;

use super::client::Session;
use super::disposal::Disposals;
use super::error::Stage;
use super::folder::Selected;
use super::listing::{Entry, Memory, State};
use super::proto::{Command, Condition, Event, Fetched, Limits, Literal, Request, Response, Status, UidSet};
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

/// Sizes and dates are asked for so many messages at a time.
const SLICE: usize = 500;

/// A part of a message by its UID.
type Key = (u32, Part);

/// What came of asking for a part.
#[derive(Debug)]
pub(super) struct Outcome {
    condition: Condition,
    body: Option<Literal>,
    /// Something came meanwhile that could not be read, and may have been the part.
    doubtful: bool,
}

/// Where a part is on its way.
#[derive(Debug)]
enum Slot {
    /// Hinted, not yet asked for.
    Wanted,
    /// Asked for, not yet here.
    Flying,
    /// Here, not yet taken.
    Ready(Outcome),
}

/// A part that was asked for.
#[derive(Debug)]
struct Flight {
    number: u64,
    key: Key,
    /// Octets reckoned for it.
    reckoned: u64,
    body: Option<Literal>,
    doubtful: bool,
}

/// Sizes and dates under way: which entries, and how it went so far.
#[derive(Debug)]
struct Slice {
    number: u64,
    entries: std::ops::Range<usize>,
    doubtful: bool,
    done: bool,
}

/// An open folder.
///
/// All requests go through one queue: hints are sent as far as the window allows, and [`ImapInbox::obtain`] reads answers until the one it
/// wants is there. Nothing is read unless somebody waits for it, so what is under way stays in the network.
pub(super) struct ImapInbox {
    pub(super) session: Session,
    selected: Selected,
    options: ReceiveOptions,
    window: Window,
    entries: Vec<Entry>,
    /// The next entry to be listed.
    at: usize,
    /// All messages of the folder are in `entries`, and nothing about them was doubtful.
    whole: bool,
    remember: Option<(Arc<Memory>, MailboxId)>,
    slice: Option<Slice>,
    hints: VecDeque<Key>,
    slots: HashMap<Key, Slot>,
    /// Parts under way, in order.
    flying: VecDeque<Flight>,
    flying_bytes: u64,
    ready_bytes: u64,
    /// How much may be under way now.
    granted: u64,
    /// How much arrived since when under this window.
    arrived_since: (u64, Instant),
    /// Nothing new is sent: what is under way shall come to its end.
    pub(super) paused: bool,
    pub(super) disposals: Disposals,
    failed: Option<String>,
}

impl ImapInbox {
    pub(super) fn new(
        mut session: Session,
        selected: Selected,
        mut entries: Vec<Entry>,
        options: ReceiveOptions,
        window: Window,
        remember: (Arc<Memory>, MailboxId),
    ) -> Self {
        session.connection.set_limits(Limits {
            headers: options.max_header_bytes,
            message: options.max_message_bytes,
            ..Limits::default()
        });
        let whole = entries.len() <= options.max_messages;
        entries.truncate(options.max_messages);
        Self {
            session,
            selected,
            options,
            window,
            entries,
            at: 0,
            whole,
            remember: Some(remember),
            slice: None,
            hints: VecDeque::new(),
            slots: HashMap::new(),
            flying: VecDeque::new(),
            flying_bytes: 0,
            ready_bytes: 0,
            granted: FIRST_WINDOW.min(window.bytes),
            arrived_since: (0, Instant::now()),
            paused: false,
            disposals: Disposals::default(),
            failed: None,
        }
    }

    pub(super) fn place(&self) -> &str {
        self.session.place()
    }

    pub(super) fn read_only(&self) -> bool {
        self.selected.read_only
    }

    pub(super) fn usable(&mut self) -> Result<()> {
        // whoever paused may have been dropped
        self.paused = false;
        match &self.failed {
            None => Ok(()),
            Some(why) => Err(Error::new(
                ErrorKind::ConnectionLost,
                format!("{}: the session has already failed: {why}", self.place()),
            )),
        }
    }

    fn id(&self, uid: u32) -> RemoteId {
        RemoteId::new(format!("{}.{uid}", self.selected.uid_validity))
    }

    /// The UID and place in the listing of a message of this session.
    pub(super) fn find(&self, id: &RemoteId) -> Option<(u32, usize)> {
        let (validity, uid) = id.as_str().split_once('.')?;
        let uid: u32 = uid.parse().ok()?;
        // "+5" and "05" are numbers, but no ids of ours
        if validity.parse() != Ok(self.selected.uid_validity) || self.id(uid) != *id {
            return None;
        }
        self.entries.binary_search_by_key(&uid, |entry| entry.uid).ok().map(|index| (uid, index))
    }

    fn index(&self, id: &RemoteId) -> Result<usize> {
        match self.find(id) {
            Some((_, index)) => Ok(index),
            None => Err(self.gone(&format!("message {id}"))),
        }
    }

    fn gone(&self, what: &str) -> Error {
        Error::new(ErrorKind::MessageGone, format!("{}: {what} is no longer in the folder", self.place()))
    }

    fn size(&self, uid: u32) -> Option<u64> {
        let found = self.entries.binary_search_by_key(&uid, |entry| entry.uid);
        found.ok().and_then(|index| self.entries[index].size)
    }

    fn reckoned(&self, (uid, part): Key) -> u64 {
        match part {
            Part::Headers => self.size(uid).unwrap_or(TYPICAL_HEADERS).min(TYPICAL_HEADERS),
            Part::Whole => self.size(uid).unwrap_or(TYPICAL_MESSAGE),
        }
    }

    fn too_large(&self, uid: u32) -> Option<u64> {
        self.size(uid).filter(|size| *size > self.options.max_message_bytes)
    }

    fn send(&mut self, key: Key) {
        let (uid, part) = key;
        let reckoned = self.reckoned(key);
        let number = match part {
            Part::Headers => self.session.push(&Command::FetchHeaders(uid)),
            Part::Whole => self.session.push(&Command::FetchWhole(uid)),
        };
        self.slots.insert(key, Slot::Flying);
        self.flying.push_back(Flight { number, key, reckoned, body: None, doubtful: false });
        self.flying_bytes += reckoned;
    }

    /// Sends hints as far as the window allows; in batches, so that not every message costs a small packet.
    fn top_up(&mut self) {
        if self.paused {
            return;
        }
        let most = self.window.messages.max(1);
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

    /// Takes one event; `awaited` is what somebody waits for.
    fn arrived(&mut self, event: Event, awaited: Option<Key>) -> Result<()> {
        match event {
            Event::Data(Response::Fetch(fetched)) => self.fetched(fetched),
            // its strings are those of something else
            Event::Data(Response::Unreadable(..)) => self.doubt(Vec::new()),
            Event::Data(_) => {}
            Event::Done { request, number, condition } => match request {
                Request::FetchHeaders(_) | Request::FetchWhole(_) => self.landed(number, condition, awaited),
                Request::FetchListing => {
                    if let Some(slice) = self.slice.as_mut().filter(|slice| slice.number == number) {
                        slice.done = true;
                        slice.doubtful |= !condition.is_ok();
                    }
                }
                // of a call that was dropped: whoever called it knows that it did not come to its end
                _ => {}
            },
            Event::Greeting(_) | Event::Continue(_) => return Err(self.session.unexpected(&event)),
        }
        Ok(())
    }

    /// What the server told about a message: a part that is under way, or its size and date.
    fn fetched(&mut self, mut fetched: Fetched) {
        let parts = [(Part::Whole, fetched.whole.take()), (Part::Headers, fetched.headers.take())];
        let mut taken = false;
        for (part, body) in parts {
            let Some(body) = body else { continue };
            taken = true;
            let alone = self.flying.len() == 1;
            let flight = self.flying.iter_mut().find(|flight| match fetched.uid {
                Some(uid) => flight.key == (uid, part),
                // without its UID it can only be the one that was asked for
                None => alone && flight.key.1 == part,
            });
            match flight {
                Some(flight) => flight.body = Some(body),
                // of a message that was not asked for: perhaps the server got the UID wrong, so it is asked once more
                None if fetched.uid.is_some() => self.doubt(Vec::new()),
                None => self.doubt(vec![body]),
            }
        }
        if taken {
            return;
        }
        if fetched.damaged || fetched.absent || !fetched.stray.is_empty() {
            let strings = std::mem::take(&mut fetched.stray);
            self.doubt(strings);
        }
        let Some(uid) = fetched.uid else { return };
        if let Ok(index) = self.entries.binary_search_by_key(&uid, |entry| entry.uid) {
            let entry = &mut self.entries[index];
            entry.size = fetched.size.or(entry.size);
            entry.received = fetched.received.or(entry.received);
            let deleted =
                |flags: &Vec<String>| flags.iter().any(|flag| flag.eq_ignore_ascii_case("\\Deleted"));
            // news about the flags alone, before the entry was asked for, must not take its size from it
            if entry.state == State::Unasked && (fetched.size.is_some() || self.slice.is_some()) {
                entry.state = match fetched.flags.as_ref().is_some_and(deleted) {
                    true => State::Gone,
                    false => State::Told,
                };
            }
        }
    }

    /// Something came that cannot be attributed. Where one message alone is under way, its largest string is that message.
    fn doubt(&mut self, strings: Vec<Literal>) {
        if let Some(slice) = &mut self.slice {
            slice.doubtful = true;
        }
        // whose answer it was nobody knows: whoever gets no other is asked for again
        self.flying.iter_mut().for_each(|flight| flight.doubtful = true);
        if let [flight] = self.flying.make_contiguous()
            && flight.key.1 == Part::Whole
            && flight.body.is_none()
        {
            flight.body = strings.into_iter().max_by_key(|literal| literal.size);
        }
    }

    /// The end of a request for a part.
    fn landed(&mut self, number: u64, condition: Condition, awaited: Option<Key>) {
        let Some(at) = self.flying.iter().position(|flight| flight.number == number) else { return };
        let Some(flight) = self.flying.remove(at) else { return };
        self.flying_bytes -= flight.reckoned;
        let kept = flight.body.as_ref().map_or(0, |body| body.bytes.len() as u64);
        self.adapt_window(flight.body.as_ref().map_or(0, |body| body.size));
        // nobody waits for it and there is no room: it is asked for again when somebody does
        let full = self.ready_bytes > 0 && self.ready_bytes + kept > KEPT;
        if full && awaited != Some(flight.key) {
            self.slots.remove(&flight.key);
        } else {
            self.ready_bytes += kept;
            let outcome = Outcome { condition, body: flight.body, doubtful: flight.doubtful };
            self.slots.insert(flight.key, Slot::Ready(outcome));
        }
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

    /// What comes of asking for a part. Dropping the future loses nothing.
    async fn obtain(&mut self, key: Key) -> Result<Outcome> {
        self.session.arm();
        loop {
            if let Some(Slot::Ready(_)) = self.slots.get(&key)
                && let Some(Slot::Ready(outcome)) = self.slots.remove(&key)
            {
                self.ready_bytes -= outcome.body.as_ref().map_or(0, |body| body.bytes.len() as u64);
                self.top_up();
                // what fails here is told by the next call: this answer is good
                if let Err(error) = self.session.flush().await {
                    self.broken(error);
                }
                return Ok(outcome);
            }
            if !matches!(self.slots.get(&key), Some(Slot::Flying)) {
                self.send(key);
            }
            self.top_up();
            self.one(Some(key)).await?;
        }
    }

    /// Reads one event.
    async fn one(&mut self, awaited: Option<Key>) -> Result<()> {
        let event = match self.session.event().await {
            Ok(event) => event,
            Err(error) => return Err(self.broken(error)),
        };
        self.arrived(event, awaited).map_err(|error| self.broken(error))
    }

    /// Waits until nothing is under way; nothing new is sent meanwhile nor afterwards, until the next call.
    pub(super) async fn settle(&mut self) -> Result<()> {
        self.paused = true;
        self.session.arm();
        while self.session.connection.waiting() > 0 {
            self.one(None).await?;
        }
        Ok(())
    }

    /// Notes an error that ends the session.
    pub(super) fn broken(&mut self, error: Error) -> Error {
        if error.scope() != Scope::Message {
            self.failed = Some(error.to_string());
        }
        error
    }

    /// Reads a part. Where its answer cannot be read, the whole message is asked for once more, alone; the second value tells whether that
    /// happened.
    async fn read(&mut self, index: usize, part: Part) -> Result<(Literal, Part)> {
        let uid = self.entries[index].uid;
        let mut key = (uid, part);
        let mut again = false;
        loop {
            if let (Part::Whole, Some(size)) = (key.1, self.too_large(uid)) {
                return Err(self.over(size, self.options.max_message_bytes));
            }
            if again {
                self.settle().await?;
                if let Some(Slot::Ready(outcome)) = self.slots.remove(&key) {
                    self.ready_bytes -= outcome.body.as_ref().map_or(0, |body| body.bytes.len() as u64);
                }
            }
            let outcome = self.obtain(key).await?;
            self.paused = false;
            let request = match key.1 {
                Part::Headers => Request::FetchHeaders(uid),
                Part::Whole => Request::FetchWhole(uid),
            };
            if let Some(body) = outcome.body {
                let cap = match key.1 {
                    Part::Headers => self.options.max_header_bytes,
                    Part::Whole => self.options.max_message_bytes,
                };
                // the cap of the connection is that of the largest part under way
                if body.over_cap || body.size > cap {
                    return Err(self.over(body.size, cap));
                }
                return Ok((body, key.1));
            }
            let unclear = outcome.doubtful || outcome.condition.status == Status::Bad;
            match outcome.condition.is_ok() {
                true if !outcome.doubtful => return Err(self.gone(&format!("message {uid}"))),
                _ if unclear && !again => {
                    tracing::debug!(uid, "the answer to a message cannot be read; it is asked for alone");
                    again = true;
                    key.1 = Part::Whole;
                }
                true => {
                    let text = format!("{}: the answer to {request} cannot be read", self.place());
                    return Err(Error::new(ErrorKind::Protocol, text).with_scope(Scope::Message));
                }
                false => {
                    return Err(self.session.refusal(
                        Stage::Message,
                        &request.to_string(),
                        &outcome.condition,
                    ));
                }
            }
        }
    }

    fn over(&self, size: u64, cap: u64) -> Error {
        Error::new(
            ErrorKind::TooLarge,
            format!("{}: {size} bytes are more than the limit of {cap}", self.place()),
        )
    }

    /// Asks for size, date and flags of the entries from here on, a slice of them.
    async fn load(&mut self, from: usize) -> Result<()> {
        if self.slice.is_none() {
            let entries = from..self.entries.len().min(from + SLICE);
            let uids = self.entries[entries.clone()].iter().map(|entry| entry.uid).collect();
            let number = self.session.push(&Command::FetchListing(UidSet::new(uids)));
            self.slice = Some(Slice { number, entries, doubtful: false, done: false });
        }
        self.session.arm();
        while self.slice.as_ref().is_some_and(|slice| !slice.done) {
            self.one(None).await?;
        }
        if let Some(slice) = self.slice.take() {
            for entry in &mut self.entries[slice.entries] {
                if entry.state == State::Unasked {
                    // not told about: gone, unless something was told that could not be read. Then it is listed without its size.
                    entry.state = if slice.doubtful { State::Told } else { State::Gone };
                    self.whole &= !slice.doubtful;
                }
            }
        }
        Ok(())
    }

    fn hint(&mut self, key: Key) {
        if let Vacant(slot) = self.slots.entry(key) {
            slot.insert(Slot::Wanted);
            self.hints.push_back(key);
        }
    }
}

#[async_trait]
impl Inbox for ImapInbox {
    async fn next(&mut self) -> Result<Option<Stub>> {
        self.usable()?;
        while let Some(entry) = self.entries.get(self.at).copied() {
            match entry.state {
                State::Unasked => self.load(self.at).await?,
                State::Gone => self.at += 1,
                State::Told => {
                    self.at += 1;
                    let stub = Stub::new(self.id(entry.uid));
                    return Ok(Some(Stub { size: entry.size, received: entry.received, ..stub }));
                }
            }
        }
        if let Some((memory, mailbox)) = self.remember.take()
            && self.whole
        {
            let told = self.entries.iter().filter(|entry| entry.state == State::Told).copied().collect();
            memory.listed(&mailbox, self.selected, told);
        }
        Ok(None)
    }

    async fn prefetch(&mut self, wanted: &[(RemoteId, Part)]) -> Result<()> {
        self.usable()?;
        for (id, part) in wanted {
            let Some((uid, _)) = self.find(id) else { continue };
            let too_large = *part == Part::Whole && self.too_large(uid).is_some();
            if !self.disposals.removes(uid) && !too_large {
                self.hint((uid, *part));
            }
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
        let (body, part) = self.read(index, Part::Headers).await?;
        let bytes = Bytes::from(body.bytes);
        if part == Part::Headers {
            return Ok(bytes);
        }
        let section = Headers::new(&bytes).as_bytes().len();
        if section as u64 > self.options.max_header_bytes {
            return Err(self.over(section as u64, self.options.max_header_bytes));
        }
        Ok(bytes.slice(..section))
    }

    async fn fetch(&mut self, id: &RemoteId) -> Result<RawMessage> {
        self.usable()?;
        let index = self.index(id)?;
        let (body, _) = self.read(index, Part::Whole).await?;
        Ok(RawMessage::new(body.bytes))
    }

    async fn dispose(&mut self, id: &RemoteId, what: Disposition) -> Result<()> {
        self.usable()?;
        self.note_disposal(id, what).await
    }

    async fn close(mut self: Box<Self>) -> Result<()> {
        self.usable()?;
        self.hints.clear();
        self.slots.retain(|_, slot| matches!(slot, Slot::Flying));
        self.ready_bytes = 0;
        self.settle().await?;
        self.carry_out().await?;
        self.session.log_out().await?;
        match self.refusal() {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }
}
