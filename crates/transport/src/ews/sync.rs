//! What is in an inbox: `SyncFolderItems`, page after page, with what was learnt kept between sessions.
//!
//! A mail system of this crate keeps nothing between two runs of the program, so the first session of a mailbox lists all ids (512 for each request). Later
//! sessions of the same transport ask for the changes alone. Where the server does not know the state any more the listing begins anew; an id is in the set
//! once however often it is told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use email_router_model::{Mailbox, RemoteId, Timestamp};

use super::client::{As, Session, lock};
use super::error::nonsense;
use super::proto::response::Changes;
use super::proto::{Folder, Operation};
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

    /// The state of the last listing of a mailbox.
    pub(super) fn state(&self, mailbox: &Mailbox) -> Option<String> {
        lock(&self.shelves).get(&Self::key(mailbox))?.state.clone()
    }
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

/// Lists an inbox.
pub(super) async fn list(
    memory: &Memory,
    session: &mut Session,
    folder: Folder<'_>,
    who: As,
    most: usize,
) -> Result<Vec<Stub>> {
    let page = session.client.settings.page;
    let mut loan = memory.lend(&session.identity.mailbox);
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
                    loan.shelf = Shelf::default();
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
            return Ok(loan.shelf.listing(most));
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
