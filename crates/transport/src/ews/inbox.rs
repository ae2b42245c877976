//! One mailbox: listing, reading in batches, disposing.

use std::collections::{HashMap, VecDeque};
use std::vec::IntoIter;

use async_trait::async_trait;
use bytes::Bytes;
use email_router_model::{Classified as _, Headers, RawMessage, RemoteId, Scope};

use super::client::{As, Failure, Limits, Session};
use super::error::nonsense;
use super::folder_of;
use super::proto::carve::Carved;
use super::proto::response::{Item, Problem};
use super::proto::{self, Folder, Operation};
use crate::contract::{Disposition, Inbox, Part, ReceiveOptions, Stub};
use crate::{Error, ErrorKind, Result};

/// What a message of unknown size is taken to have, in bytes.
const TYPICAL: u64 = 64 << 10;

/// What a header section is taken to have, in bytes.
const TYPICAL_HEADERS: u64 = 4 << 10;

/// The longest id that is asked for; those of Exchange have about 150 characters.
const LONGEST_ID: usize = 2048;

/// What came for a message that was asked for.
#[derive(Debug)]
enum Found {
    Headers(Option<String>),
    Whole(Item, Carved),
    Problem(Problem),
}

impl Found {
    fn bytes(&self) -> u64 {
        match self {
            Self::Headers(text) => text.as_ref().map_or(0, |text| text.len() as u64),
            Self::Whole(_, Carved::Whole(bytes)) => bytes.len() as u64,
            _ => 0,
        }
    }
}

/// An open mailbox.
pub(super) struct EwsInbox {
    session: Session,
    who: As,
    options: ReceiveOptions,
    stubs: IntoIter<Stub>,
    /// The sizes the server told, for batches.
    sizes: HashMap<RemoteId, u64>,
    hints: VecDeque<(RemoteId, Part)>,
    /// What came with a batch and was not asked for yet, oldest first.
    ready: VecDeque<((RemoteId, Part), Found)>,
    /// Folders by name that were found or made in this session.
    folders: HashMap<String, String>,
    /// What a later session may be opened with.
    token: Option<Bytes>,
}

impl EwsInbox {
    pub(super) fn new(
        session: Session,
        who: As,
        options: ReceiveOptions,
        stubs: Vec<Stub>,
        token: Option<Bytes>,
    ) -> Self {
        let sizes = stubs.iter().filter_map(|stub| Some((stub.id.clone(), stub.size?))).collect();
        Self {
            session,
            who,
            options,
            stubs: stubs.into_iter(),
            sizes,
            hints: VecDeque::new(),
            ready: VecDeque::new(),
            folders: HashMap::new(),
            token,
        }
    }

    /// An error of more than one message ends the session.
    fn judged<T>(&mut self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result
            && error.scope() > Scope::Message
        {
            self.session.fail(error);
            self.ready.clear();
        }
        result
    }

    fn gone(&self, id: &RemoteId) -> Error {
        Error::new(ErrorKind::MessageGone, format!("{}: the message {id:?} is not there", self.session.place))
    }

    /// Asks for a part of a message, and for that of others that were hinted along with it.
    async fn obtain(&mut self, id: &RemoteId, part: Part) -> Result<Found> {
        self.session.check()?;
        if let Some(at) = self.ready.iter().position(|(key, _)| key.1 == part && key.0 == *id)
            && let Some((_, found)) = self.ready.remove(at)
        {
            return Ok(found);
        }
        if !may_be_id(id) {
            return Err(self.gone(id));
        }
        let batch = self.batch(id, part);
        let result = self.ask(&batch, part).await;
        let result = match result {
            // one of them made the answer too large; alone it does that to nobody else
            Err(error) if error.kind() == ErrorKind::TooLarge && batch.len() > 1 => {
                self.ask(&batch[..1], part).await
            }
            other => other,
        };
        match result {
            Ok(found) => {
                let mut found = batch.into_iter().zip(found);
                let first = found.next();
                self.keep(part, found);
                first.map(|(_, found)| found).ok_or_else(|| self.gone(id))
            }
            Err(error) if error.kind() == ErrorKind::TooLarge => Err(error.with_scope(Scope::Message)),
            Err(error) => self.judged(Err(error)),
        }
    }

    /// The message itself, then hinted ones as far as the settings allow.
    fn batch(&mut self, id: &RemoteId, part: Part) -> Vec<RemoteId> {
        let settings = &self.session.client.settings;
        let reckoned = |id: &RemoteId| match part {
            Part::Headers => self.options.max_header_bytes.min(TYPICAL_HEADERS),
            Part::Whole => self.sizes.get(id).copied().unwrap_or(TYPICAL),
        };
        let mut bytes = reckoned(id);
        let mut batch = vec![id.clone()];
        self.hints.retain(|hint| !(hint.1 == part && hint.0 == *id));
        let mut at = 0;
        while at < self.hints.len() && batch.len() < settings.retrieve_count {
            let (hinted, hinted_part) = &self.hints[at];
            if *hinted_part != part {
                at += 1;
                continue;
            }
            bytes = bytes.saturating_add(reckoned(hinted));
            if bytes > settings.batch_bytes {
                break;
            }
            if let Some((hinted, _)) = self.hints.remove(at)
                && !batch.contains(&hinted)
                && may_be_id(&hinted)
                && !self.ready.iter().any(|(key, _)| key.1 == part && key.0 == hinted)
            {
                batch.push(hinted);
            }
        }
        batch
    }

    /// Keeps what came along, and lets go of the oldest of what nobody asked for.
    fn keep(&mut self, part: Part, found: impl Iterator<Item = (RemoteId, Found)>) {
        self.ready.extend(found.map(|(id, found)| ((id, part), found)));
        let mut bytes: u64 = self.ready.iter().map(|(_, found)| found.bytes()).sum();
        while bytes > self.session.client.settings.batch_bytes
            && let Some((_, found)) = self.ready.pop_front()
        {
            bytes -= found.bytes();
        }
    }

    async fn ask(&mut self, batch: &[RemoteId], part: Part) -> Result<Vec<Found>> {
        let ids: Vec<&str> = batch.iter().map(RemoteId::as_str).collect();
        let count = ids.len() as u64;
        let (wanted, limits) = match part {
            Part::Whole => {
                let size =
                    batch.iter().filter_map(|id| self.sizes.get(id)).max().copied().unwrap_or_default();
                // what Exchange keeps and what it writes as MIME differ: text grows in base64, a second body is left out
                let expected = size.saturating_add(size / 8).min(self.options.max_message_bytes);
                let limits = Limits {
                    content: self.options.max_message_bytes,
                    contents: count,
                    expected: usize::try_from(expected).unwrap_or_default(),
                    ..Limits::PLAIN
                };
                (proto::Part::Mime, limits)
            }
            Part::Headers => {
                // the section comes twice, and each character of it may be written as a reference
                let each = self.options.max_header_bytes.saturating_mul(16);
                let room = usize::try_from(each.saturating_mul(count)).unwrap_or(usize::MAX);
                let skeleton = Limits::PLAIN.skeleton.saturating_add(room);
                (proto::Part::Headers, Limits { skeleton, ..Limits::PLAIN })
            }
        };
        let operation = Operation::GetItem(&ids, wanted);
        let (reply, mut contents) =
            self.session.ask(&operation, "read a message", self.who, limits).await.map_err(Error::from)?;
        if reply.answers.len() != ids.len() {
            let why = format!("{} answers to {} questions", reply.answers.len(), ids.len());
            return Err(nonsense(&self.session.about(), &why));
        }
        let answers = reply.answers.into_iter();
        let found = answers.map(|answer| match (&answer.problem, part) {
            (Some(problem), _) => Found::Problem(problem.clone()),
            (None, Part::Headers) => Found::Headers(answer.headers()),
            (None, Part::Whole) => {
                let item = answer.items().into_iter().next().unwrap_or_default();
                let content = answer.mime().and_then(|number| contents.get_mut(number));
                let content = content.map(|content| std::mem::replace(content, Carved::Damaged));
                Found::Whole(item, content.unwrap_or(Carved::Damaged))
            }
        });
        Ok(found.collect())
    }

    async fn whole(&mut self, id: &RemoteId) -> Result<RawMessage> {
        let place = self.session.place.clone();
        match self.obtain(id, Part::Whole).await? {
            Found::Whole(item, Carved::Whole(bytes)) => {
                let mut message = RawMessage::new(bytes);
                message.received = item.received;
                message.conversation_id = item.conversation_id;
                Ok(message)
            }
            Found::Whole(_, Carved::TooLarge) => {
                let most = self.options.max_message_bytes;
                let text = format!("{place}: the message {id} has more than {most} bytes");
                Err(Error::new(ErrorKind::TooLarge, text))
            }
            Found::Problem(problem) => {
                let error = self.session.refused("read a message", &problem);
                self.judged(Err(error))
            }
            Found::Whole(_, Carved::Damaged) | Found::Headers(_) => {
                let text = format!("{place}: the message {id} came without its content");
                Err(Error::new(ErrorKind::Protocol, text).with_scope(Scope::Message))
            }
        }
    }

    async fn section(&mut self, id: &RemoteId) -> Result<Bytes> {
        let section = match self.obtain(id, Part::Headers).await? {
            Found::Headers(Some(text)) => Bytes::from(text),
            Found::Problem(problem) => {
                let error = self.session.refused("read the header of a message", &problem);
                return self.judged(Err(error));
            }
            // a message that never left the organization has no header but the one Exchange writes with the whole
            _ => {
                let message = self.whole(id).await?;
                let section = Headers::new(message.bytes()).as_bytes().len();
                let section = message.bytes().slice(..section);
                let item = Item {
                    received: message.received,
                    conversation_id: message.conversation_id.clone(),
                    ..Item::default()
                };
                let whole = Found::Whole(item, Carved::Whole(message.bytes().clone()));
                self.keep(Part::Whole, std::iter::once((id.clone(), whole)));
                section
            }
        };
        if section.len() as u64 > self.options.max_header_bytes {
            let most = self.options.max_header_bytes;
            let text = format!("{}: the header of {id} has more than {most} bytes", self.session.place);
            return Err(Error::new(ErrorKind::TooLarge, text));
        }
        Ok(section)
    }

    /// The id of the folder of this name beside the inbox, which is made when it is missing.
    async fn folder(&mut self, name: &str) -> Result<String> {
        if let Some(id) = self.folders.get(name) {
            return Ok(id.clone());
        }
        let mailbox = self.session.identity.mailbox.clone();
        let top = folder_of(self.session.client.settings.access, "msgfolderroot", &mailbox);
        let doing = "find a folder";
        let mut made = false;
        loop {
            let find = Operation::FindFolder(top, name);
            let found = self.session.ask_one(&find, doing, self.who).await.map_err(Error::from)?;
            if let Some((id, _)) = found.folders().into_iter().next() {
                self.folders.insert(name.to_owned(), id.clone());
                return Ok(id);
            }
            if made {
                let text = format!("{}: the folder {name:?} is there and is not found", self.session.place);
                return Err(Error::new(ErrorKind::Storage, text).with_scope(Scope::Message));
            }
            let create = Operation::CreateFolder(top, name);
            match self.session.ask_one(&create, "make a folder", self.who).await {
                Ok(answer) => {
                    if let Some((id, _)) = answer.folders().into_iter().next() {
                        self.folders.insert(name.to_owned(), id.clone());
                        return Ok(id);
                    }
                    made = true;
                }
                // another session made it meanwhile
                Err(failure) if failure.code.as_deref() == Some("ErrorFolderExists") => made = true,
                Err(failure) => return Err(failure.error),
            }
        }
    }

    async fn mark_read(&mut self, id: &str) -> Result<(), Failure> {
        let doing = "mark a message as read";
        match self.session.ask_one(&Operation::MarkRead(id, None), doing, self.who).await {
            Err(failure)
                if failure.code.as_deref().is_some_and(|code| code.starts_with("ErrorChangeKeyRequired")) => {
            }
            other => return other.map(drop),
        }
        let ids = [id];
        let answer =
            self.session.ask_one(&Operation::GetItem(&ids, proto::Part::Id), doing, self.who).await?;
        let key = answer.items().into_iter().next().and_then(|item| item.change_key);
        self.session.ask_one(&Operation::MarkRead(id, key.as_deref()), doing, self.who).await.map(drop)
    }

    async fn move_to(&mut self, id: &str, name: &str) -> Result<(), Failure> {
        let doing = "move a message";
        let mut again = true;
        loop {
            let folder = self.folder(name).await?;
            let result =
                self.session.ask_one(&Operation::MoveItem(id, Folder::Id(&folder)), doing, self.who).await;
            match result {
                // somebody took the folder away since it was found
                Err(failure)
                    if again
                        && matches!(
                            failure.code.as_deref(),
                            Some("ErrorToFolderNotFound" | "ErrorFolderNotFound")
                        ) =>
                {
                    again = false;
                    self.folders.remove(name);
                }
                other => return other.map(drop),
            }
        }
    }
}

/// Ids are base64 in either alphabet. What is none is no id of a message; the server would refuse the whole request for it.
fn may_be_id(id: &RemoteId) -> bool {
    let id = id.as_str();
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=' | b'-' | b'_');
    !id.is_empty() && id.len() <= LONGEST_ID && id.bytes().all(known)
}

#[async_trait]
impl Inbox for EwsInbox {
    async fn next(&mut self) -> Result<Option<Stub>> {
        self.session.check()?;
        Ok(self.stubs.next())
    }

    async fn prefetch(&mut self, wanted: &[(RemoteId, Part)]) -> Result<()> {
        self.session.check()?;
        self.hints.extend(wanted.iter().cloned());
        Ok(())
    }

    async fn headers(&mut self, id: &RemoteId) -> Result<Bytes> {
        self.section(id).await
    }

    async fn fetch(&mut self, id: &RemoteId) -> Result<RawMessage> {
        self.whole(id).await
    }

    fn resume_token(&mut self) -> Option<Bytes> {
        self.token.take()
    }

    async fn dispose(&mut self, id: &RemoteId, what: Disposition) -> Result<()> {
        self.session.check()?;
        if what == Disposition::Keep || !may_be_id(id) {
            return Ok(());
        }
        let text = id.as_str();
        let how = self.session.client.settings.delete_type;
        let result = match &what {
            Disposition::Keep => Ok(()),
            Disposition::Delete => {
                let delete = Operation::DeleteItem(text, how);
                self.session.ask_one(&delete, "delete a message", self.who).await.map(drop)
            }
            Disposition::MarkRead => self.mark_read(text).await,
            Disposition::Move(name) => self.move_to(text, name).await,
        };
        match result {
            Err(failure) if failure.error.kind() == ErrorKind::MessageGone => Ok(()),
            Err(failure) => self.judged(Err(failure.error)),
            Ok(()) => Ok(()),
        }
    }

    async fn close(self: Box<Self>) -> Result<()> {
        self.session.check()
    }
}
