//! What is in an inbox: `SyncFolderItems`, page after page, with what was learnt kept between sessions.
//!
//! The first session of a mailbox lists all ids (512 for each request). Later ones ask for the changes alone: those of the same transport by what it remembers,
//! those of another run of the program by the token that was left for them ([`Inbox::resume_token`](crate::Inbox::resume_token)). Where the server does not know the
//! state any more the listing begins anew; an id is in the set once however often it is told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use email_router_model::{Mailbox, RemoteId, Timestamp};
use serde::{Deserialize, Serialize};

use super::client::{As, Session, lock};
use super::error::nonsense;
use super::proto::response::Changes;
use super::proto::{Folder, Operation};
use crate::contract::LARGEST_RESUME_TOKEN;
use crate::{Error, ErrorKind, Result, Stub};

/// More messages than any inbox should have; beyond it the listing is given up.
const MOST: usize = 2_000_000;

/// So many pages may come one after the other that change nothing: a server that does not come to an end must not hold the session.
const EMPTY_PAGES: usize = 100;

/// What is remembered of all mailboxes.
#[derive(Debug)]
pub(super) struct Memory {
    limit: usize,
    shelves: Mutex<HashMap<String, Shelf>>,
}

/// What is remembered of one mailbox: the messages there, as of a state.
#[derive(Debug, Default)]
struct Shelf {
    state: Option<String>,
    items: HashMap<String, Known>,
    /// Counts arrivals, for messages that were received in the same second.
    next: u64,
    /// The last listing told something.
    changed: bool,
}

#[derive(Debug)]
struct Known {
    order: u64,
    received: Option<Timestamp>,
    size: Option<u64>,
    class: Option<Box<str>>,
    conversation_id: Option<Box<str>>,
}

/// A shelf that was taken out, so that no other session changes it; goes back when dropped, at whatever page the session stopped.
struct Loan<'a> {
    memory: &'a Memory,
    key: String,
    shelf: Shelf,
}

impl Memory {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, shelves: Mutex::default() })
    }

    fn key(mailbox: &Mailbox) -> String {
        format!("{}\n{}", mailbox.id, mailbox.address.key())
    }

    fn lend(&self, mailbox: &Mailbox) -> Loan<'_> {
        let key = Self::key(mailbox);
        let shelf = lock(&self.shelves).remove(&key).unwrap_or_default();
        Loan { memory: self, key, shelf }
    }

    /// What a later session may be opened with, also after a restart; `None` where it would be too large, or nothing is remembered.
    pub(super) fn token(&self, place: &str, mailbox: &Mailbox) -> Option<Bytes> {
        let key = Self::key(mailbox);
        let shelves = lock(&self.shelves);
        let shelf = shelves.get(&key)?;
        // an id alone has some 150 characters: what cannot fit is not written first
        if shelf.items.len() > LARGEST_RESUME_TOKEN / 64 {
            return None;
        }
        let entry = |(id, known): (&String, &Known)| Entry {
            id: id.clone(),
            order: known.order,
            received: known.received.map(Timestamp::as_second),
            size: known.size,
            class: known.class.as_deref().map(str::to_owned),
            conversation_id: known.conversation_id.as_deref().map(str::to_owned),
        };
        let token = Token {
            form: FORM,
            place: format!("{place}\n{key}"),
            state: shelf.state.clone()?,
            items: shelf.items.iter().map(entry).collect(),
        };
        let bytes = serde_json::to_vec(&token).ok()?;
        (bytes.len() <= LARGEST_RESUME_TOKEN).then(|| Bytes::from(bytes))
    }

    /// The state of the last listing of a mailbox.
    pub(super) fn state(&self, mailbox: &Mailbox) -> Option<String> {
        lock(&self.shelves).get(&Self::key(mailbox))?.state.clone()
    }
}

/// The form of a token; others are not read.
const FORM: u32 = 1;

/// What is left for a session after a restart: a state tells only what changed since, so the messages belong to it.
#[derive(Serialize, Deserialize)]
struct Token {
    form: u32,
    /// Of which mailbox of which server.
    place: String,
    state: String,
    items: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    id: String,
    order: u64,
    /// Seconds of Unix time.
    received: Option<i64>,
    size: Option<u64>,
    class: Option<String>,
    conversation_id: Option<String>,
}

/// The shelf of a token; `None` where it is damaged, or of another mailbox or server.
fn resumed(place: &str, mailbox: &Mailbox, token: &[u8]) -> Option<Shelf> {
    if token.len() > LARGEST_RESUME_TOKEN {
        return None;
    }
    let token: Token = serde_json::from_slice(token).ok()?;
    if token.form != FORM || token.place != format!("{place}\n{}", Memory::key(mailbox)) {
        return None;
    }
    let next = token.items.iter().map(|entry| entry.order).max().map_or(0, |order| order.saturating_add(1));
    let known = |entry: Entry| {
        let known = Known {
            order: entry.order,
            received: entry.received.and_then(|s| Timestamp::from_second(s).ok()),
            size: entry.size,
            class: entry.class.map(String::into_boxed_str),
            conversation_id: entry.conversation_id.map(String::into_boxed_str),
        };
        (entry.id, known)
    };
    let items = token.items.into_iter().filter(|entry| !entry.id.is_empty()).map(known).collect();
    Some(Shelf { state: Some(token.state), items, next, changed: false })
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        let mut shelves = lock(&self.memory.shelves);
        let others: usize = shelves.values().map(|shelf| shelf.items.len()).sum();
        if self.shelf.state.is_some() && others + self.shelf.items.len() <= self.memory.limit {
            shelves.insert(std::mem::take(&mut self.key), std::mem::take(&mut self.shelf));
        }
    }
}

impl Shelf {
    fn apply(&mut self, changes: Changes) {
        self.changed |= !changes.present.is_empty() || !changes.gone.is_empty();
        for item in changes.present {
            let order = self.items.get(&item.id).map_or(self.next, |known| known.order);
            self.next += 1;
            let known = Known {
                order,
                received: item.received,
                size: item.size,
                class: item.class.map(String::into_boxed_str),
                conversation_id: item.conversation_id.map(String::into_boxed_str),
            };
            self.items.insert(item.id, known);
        }
        for id in &changes.gone {
            self.items.remove(id);
        }
        self.state = Some(changes.state);
    }

    /// Oldest first; what has no time of its own comes last.
    fn listing(&self, most: usize) -> Vec<Stub> {
        let mut all: Vec<(&String, &Known)> = self.items.iter().collect();
        let age = |known: &Known| (known.received.is_none(), known.received, known.order);
        if most < all.len() {
            if most == 0 {
                return Vec::new();
            }
            all.select_nth_unstable_by_key(most - 1, |(_, known)| age(known));
            all.truncate(most);
        }
        all.sort_unstable_by_key(|(_, known)| age(known));
        let stub = |(id, known): (&String, &Known)| {
            let mut stub = Stub::new(RemoteId::new(id.as_str()));
            stub.size = known.size;
            stub.received = known.received;
            stub.message_class = known.class.as_deref().map(str::to_owned);
            stub.conversation_id = known.conversation_id.as_deref().map(str::to_owned);
            stub
        };
        all.into_iter().map(stub).collect()
    }
}

/// What is in an inbox.
pub(super) struct Listed {
    /// Oldest first.
    pub(super) stubs: Vec<Stub>,
    /// Something is new since the listing before, or nothing was left of one: worth a new token.
    pub(super) changed: bool,
}

/// Lists an inbox; `resume` is what [`Memory::token`] gave in another session.
pub(super) async fn list(
    memory: &Memory,
    session: &mut Session,
    folder: Folder<'_>,
    who: As,
    most: usize,
    resume: Option<&[u8]>,
) -> Result<Listed> {
    let page = session.client.settings.page;
    let mut loan = memory.lend(&session.identity.mailbox);
    if loan.shelf.state.is_none()
        && let Some(token) = resume
        && let Some(shelf) = resumed(&session.place, &session.identity.mailbox, token)
    {
        loan.shelf = shelf;
    }
    loan.shelf.changed = resume.is_none();
    let mut empty_pages = 0;
    loop {
        let state = loan.shelf.state.take();
        let operation = Operation::SyncFolderItems(folder, state.as_deref(), page);
        let answer = match session.ask_one(&operation, "list the inbox", who).await {
            Ok(answer) => answer,
            Err(failure) => {
                let lost = failure.code.as_deref().is_some_and(|code| {
                    matches!(
                        code,
                        "ErrorInvalidSyncStateData" | "ErrorSyncFolderNotFound" | "ErrorInvalidSyncState"
                    )
                });
                if lost && state.is_some() {
                    tracing::debug!(mailbox = %session.identity.mailbox.address, "the server has lost the state of the listing; it begins anew");
                    loan.shelf = Shelf { changed: true, ..Shelf::default() };
                    continue;
                }
                // what is on the shelf is right as of this state
                loan.shelf.state = state;
                return Err(failure.error);
            }
        };
        let Some(changes) = answer.changes() else {
            return Err(nonsense(&session.about(), &"a listing without a state"));
        };
        let last = changes.last;
        empty_pages = if changes.present.is_empty() && changes.gone.is_empty() { empty_pages + 1 } else { 0 };
        let stuck = !last && (empty_pages > EMPTY_PAGES || state.as_ref() == Some(&changes.state));
        loan.shelf.apply(changes);
        if stuck {
            loan.shelf = Shelf::default();
            return Err(nonsense(&session.about(), &"a listing that does not come to an end"));
        }
        if loan.shelf.items.len() > MOST {
            loan.shelf = Shelf::default();
            let text = format!(
                "{}: more than {MOST} messages in the inbox of {}",
                session.place, session.identity.mailbox.address
            );
            return Err(Error::new(ErrorKind::TooLarge, text).with_scope(email_router_model::Scope::Mailbox));
        }
        if last {
            return Ok(Listed { stubs: loan.shelf.listing(most), changed: loan.shelf.changed });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::proto::response::Item;
    use super::*;

    fn item(id: &str, second: Option<i64>) -> Item {
        let received = second.map(|s| Timestamp::from_second(s).unwrap());
        Item { id: id.to_owned(), received, ..Item::default() }
    }

    fn ids(shelf: &Shelf, most: usize) -> Vec<String> {
        shelf.listing(most).into_iter().map(|stub| stub.id.as_str().to_owned()).collect()
    }

    #[test]
    fn oldest_first_once_each() {
        let mut shelf = Shelf::default();
        shelf.apply(Changes {
            state: "1".into(),
            last: true,
            present: vec![item("none", None), item("b", Some(5)), item("c", Some(5)), item("a", Some(3))],
            gone: vec![],
        });
        assert_eq!(ids(&shelf, usize::MAX), ["a", "b", "c", "none"]);
        assert_eq!(ids(&shelf, 2), ["a", "b"]);
        assert_eq!(ids(&shelf, 0), [""; 0]);
        shelf.apply(Changes {
            state: "2".into(),
            last: true,
            present: vec![item("b", Some(5)), item("d", Some(4))],
            gone: vec!["a".into(), "unknown".into()],
        });
        assert_eq!(ids(&shelf, usize::MAX), ["d", "b", "c", "none"]);
    }

    #[test]
    fn a_token_brings_back_what_was_listed_and_nothing_else() {
        let memory = Memory::new(100);
        let mailbox = |id: &str| Mailbox {
            id: id.into(),
            kind: email_router_model::MailboxKind::User,
            name: id.to_owned(),
            address: "ann@contoso.test".parse().unwrap(),
            login: None,
        };
        let mut loan = memory.lend(&mailbox("ann"));
        let present = vec![item("b", Some(5)), item("a", Some(3)), item("none", None)];
        loan.shelf.apply(Changes { state: "state 7".into(), last: true, present, gone: vec![] });
        let before = ids(&loan.shelf, usize::MAX);
        drop(loan);
        let token = memory.token("ews here", &mailbox("ann")).unwrap();
        let shelf = resumed("ews here", &mailbox("ann"), &token).unwrap();
        assert_eq!((ids(&shelf, usize::MAX), shelf.state.as_deref()), (before, Some("state 7")));
        assert!(resumed("ews there", &mailbox("ann"), &token).is_none());
        assert!(resumed("ews here", &mailbox("ben"), &token).is_none());
        assert!(resumed("ews here", &mailbox("ann"), &token[1..]).is_none());
        assert!(memory.token("ews here", &mailbox("ben")).is_none());
        // what would be too large is not kept
        let memory = Memory::new(100_000);
        let mut loan = memory.lend(&mailbox("ann"));
        let present = (0..20_000).map(|n| item(&format!("{n:0150}"), None)).collect();
        loan.shelf.apply(Changes { state: "1".into(), last: true, present, gone: vec![] });
        drop(loan);
        assert!(memory.token("ews here", &mailbox("ann")).is_none());
    }

    #[test]
    fn no_more_is_remembered_than_allowed() {
        let memory = Memory::new(2);
        let mailbox = |id: &str| Mailbox {
            id: id.into(),
            kind: email_router_model::MailboxKind::User,
            name: id.to_owned(),
            address: "ann@contoso.test".parse().unwrap(),
            login: None,
        };
        for (id, count, remembered) in [("a", 2, true), ("b", 1, false), ("a", 3, false)] {
            let mut loan = memory.lend(&mailbox(id));
            loan.shelf = Shelf::default();
            let present = (0..count).map(|n| item(&n.to_string(), None)).collect();
            loan.shelf.apply(Changes { state: "1".into(), last: true, present, gone: vec![] });
            drop(loan);
            assert_eq!(memory.state(&mailbox(id)).is_some(), remembered, "{id} {count}");
        }
    }
}
