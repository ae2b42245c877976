//! What is in the folder, and what of it is remembered from one session to the next.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use email_router_model::{MailboxId, Timestamp};

use super::client::Session;
use super::error::Stage;
use super::folder::Selected;
use super::proto::{Command, Response};
use crate::{Error, ErrorKind, Result};

/// So many listed messages are remembered over all mailboxes; about 24 MB.
const MOST_REMEMBERED: usize = 1_000_000;

/// A message of the listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) uid: u32,
    pub(super) size: Option<u64>,
    pub(super) received: Option<Timestamp>,
    pub(super) state: State,
}

/// What is known about an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Its size and date were not asked for.
    Unasked,
    /// The server told about it.
    Told,
    /// It is gone, or marked as deleted.
    Gone,
}

impl Entry {
    fn new(uid: u32) -> Self {
        Self { uid, size: None, received: None, state: State::Unasked }
    }
}

/// What is remembered of a mailbox.
#[derive(Debug, Clone)]
struct Remembered {
    selected: Selected,
    /// The whole listing, where HIGHESTMODSEQ tells whether it still holds.
    entries: Option<Arc<Vec<Entry>>>,
}

/// What the last sessions found, for all mailboxes of a transport.
///
/// With CONDSTORE (RFC 7162) every change of a message raises HIGHESTMODSEQ, every arrival UIDNEXT, and what only takes messages away lowers
/// EXISTS. While all three and UIDVALIDITY are the same, the folder holds the same messages with the same flags, and the listing of the last session
/// is given again. It is compared as it was when that session opened the folder: whatever changed afterwards makes a difference then.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<HashMap<MailboxId, Remembered>>);

impl Memory {
    fn unchanged(&self, mailbox: &MailboxId, selected: &Selected) -> Option<Arc<Vec<Entry>>> {
        selected.modseq?;
        selected.uid_next?;
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.get(mailbox)?;
        let same = |s: &Selected| (s.uid_validity, s.uid_next, s.exists, s.modseq);
        if same(&known.selected) == same(selected) { known.entries.clone() } else { None }
    }

    /// Remembers how a folder was when it was opened; what was listed before is forgotten if that has changed.
    pub(super) fn opened(&self, mailbox: &MailboxId, selected: Selected) {
        let kept = self.unchanged(mailbox, &selected);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(mailbox.clone(), Remembered { selected, entries: kept });
    }

    /// Remembers a listing that went to its end.
    pub(super) fn listed(&self, mailbox: &MailboxId, selected: Selected, entries: Vec<Entry>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count: usize = all.values().filter_map(|r| r.entries.as_ref()).map(|e| e.len()).sum();
        if count + entries.len() > MOST_REMEMBERED {
            all.values_mut().for_each(|r| r.entries = None);
        }
        if entries.len() <= MOST_REMEMBERED
            && let Some(known) = all.get_mut(mailbox).filter(|known| known.selected == selected)
        {
            known.entries = Some(Arc::new(entries));
        }
    }

    /// UIDVALIDITY and UIDNEXT as the last session of the mailbox found them.
    pub(super) fn uid_next(&self, mailbox: &MailboxId) -> Option<(u32, Option<u32>)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(mailbox).map(|known| (known.selected.uid_validity, known.selected.uid_next))
    }
}

/// The messages of the open folder, oldest first, as far as they are not marked as deleted: from memory where nothing changed, else by UID SEARCH.
pub(super) async fn present(
    session: &mut Session,
    mailbox: &MailboxId,
    selected: &Selected,
    memory: &Memory,
) -> Result<Vec<Entry>> {
    if let Some(entries) = memory.unchanged(mailbox, selected) {
        return Ok(entries.to_vec());
    }
    memory.opened(mailbox, *selected);
    if selected.exists == 0 {
        return Ok(Vec::new());
    }
    let uids = search(session, &Command::SearchPresent(session.capabilities.esearch())).await?;
    Ok(uids.into_iter().map(Entry::new).collect())
}

/// What a search found, in ascending order.
pub(super) async fn search(session: &mut Session, command: &Command) -> Result<Vec<u32>> {
    let answer = session.ask(command).await?;
    if !answer.condition.is_ok() {
        return Err(session.refusal(Stage::Mailbox, "UID SEARCH", &answer.condition));
    }
    let mut uids = Vec::new();
    for response in answer.data {
        match response {
            Response::Search(found) => uids.extend(found),
            // a listing with a hole would make the missing messages look as if they were gone
            Response::Unreadable(word, _) => {
                let text = format!("{} sent an answer {word} that cannot be read", session.place());
                return Err(Error::new(ErrorKind::Protocol, text));
            }
            _ => {}
        }
    }
    uids.retain(|uid| *uid > 0);
    uids.sort_unstable();
    uids.dedup();
    Ok(uids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_given_again_while_nothing_changed() {
        let memory = Memory::default();
        let mailbox = MailboxId::from("a");
        let selected =
            Selected { exists: 2, uid_validity: 7, uid_next: Some(9), modseq: Some(40), read_only: false };
        assert!(memory.unchanged(&mailbox, &selected).is_none());
        memory.opened(&mailbox, selected);
        assert!(memory.unchanged(&mailbox, &selected).is_none(), "nothing was listed yet");
        memory.listed(&mailbox, selected, vec![Entry::new(3), Entry::new(8)]);
        assert_eq!(memory.unchanged(&mailbox, &selected).unwrap().len(), 2);
        memory.opened(&mailbox, selected);
        assert!(memory.unchanged(&mailbox, &selected).is_some());
        for changed in [
            Selected { exists: 1, ..selected },
            Selected { uid_validity: 8, ..selected },
            Selected { uid_next: Some(10), ..selected },
            Selected { modseq: Some(41), ..selected },
            Selected { modseq: None, ..selected },
            Selected { uid_next: None, ..selected },
        ] {
            assert!(memory.unchanged(&mailbox, &changed).is_none(), "{changed:?}");
        }
        assert!(memory.unchanged(&MailboxId::from("b"), &selected).is_none());
        // a listing of how it was before does not count for how it is now
        let later = Selected { modseq: Some(41), ..selected };
        memory.opened(&mailbox, later);
        memory.listed(&mailbox, selected, vec![Entry::new(3)]);
        assert!(memory.unchanged(&mailbox, &later).is_none());
        assert_eq!(memory.uid_next(&mailbox), Some((7, Some(9))));
    }
}
