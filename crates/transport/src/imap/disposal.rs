//! Marking, moving and removing messages: noted when it is asked for, carried out when the session ends.
//!
//! At the end one command does for hundreds of messages what would cost a round trip for each of them before, behind all that is under way. First
//! the moves, then the marks, then the deletions; a session that is cut in between has done some of it, and the next one shows what is left.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use email_router_model::{RemoteId, Scope};

use super::client::Session;
use super::error::{Stage, is_gone};
use super::folder::is_special_use;
use super::inbox::ImapInbox;
use super::listing::search;
use super::proto::{Argument, Code, Command, Condition, Request, Response, UidSet};
use crate::contract::Disposition;
use crate::{Error, ErrorKind, Result};

/// So many messages are named in one command, whose line then stays below the 8 KiB that every server takes (RFC 7162 section 4).
const AT_ONCE: usize = 500;

/// What shall become of the messages of a session.
#[derive(Debug, Default)]
pub(super) struct Disposals {
    removed: BTreeSet<u32>,
    delete: BTreeSet<u32>,
    mark_read: BTreeSet<u32>,
    moves: BTreeMap<String, BTreeSet<u32>>,
    /// Folders that were found or made, by the names they were given.
    folders: HashMap<String, Argument>,
    /// The first command that the server refused.
    refused: Option<(Request, Condition)>,
}

impl Disposals {
    /// Whether the message shall be moved or removed.
    pub(super) fn removes(&self, uid: u32) -> bool {
        self.removed.contains(&uid)
    }
}

impl ImapInbox {
    /// What [`Inbox::dispose`](crate::Inbox::dispose) promises. Before the first move into a folder that folder is made, if it is missing: where
    /// that does not work the message stays and the caller knows.
    pub(super) async fn note_disposal(&mut self, id: &RemoteId, what: Disposition) -> Result<()> {
        let Some((uid, _)) = self.find(id) else { return Ok(()) };
        if what == Disposition::Keep || self.disposals.removes(uid) {
            return Ok(());
        }
        if self.read_only() {
            return Err(Error::new(
                ErrorKind::AccessDenied,
                format!("{}: the folder can only be read", self.place()),
            )
            .with_scope(Scope::Message)
            .with_hint("give the account the right to change messages of this folder"));
        }
        match what {
            Disposition::Keep => return Ok(()),
            Disposition::MarkRead => {
                self.disposals.mark_read.insert(uid);
                return Ok(());
            }
            Disposition::Delete => {
                self.disposals.delete.insert(uid);
            }
            Disposition::Move(name) => {
                self.have_folder(&name).await?;
                self.disposals.moves.entry(name).or_default().insert(uid);
            }
        }
        self.disposals.removed.insert(uid);
        Ok(())
    }

    /// Finds a folder, or makes and subscribes it.
    async fn have_folder(&mut self, name: &str) -> Result<()> {
        if self.disposals.folders.contains_key(name) {
            return Ok(());
        }
        // what is asked from here on has an answer of its own
        self.settle().await?;
        let found = find_or_create(&mut self.session, name).await;
        self.paused = false;
        let folder = found.map_err(|error| self.broken(error))?;
        self.disposals.folders.insert(name.to_owned(), folder);
        Ok(())
    }

    /// Carries everything out; nothing else may be under way.
    pub(super) async fn carry_out(&mut self) -> Result<()> {
        let moving = std::mem::take(&mut self.disposals.moves);
        let moves = self.session.capabilities.moves();
        let mut copied = Vec::new();
        for (name, uids) in moving {
            let Some(folder) = self.disposals.folders.get(&name).cloned() else { continue };
            for set in sets(&uids) {
                let command = match moves {
                    true => Command::Move(UidSet::new(set.clone()), folder.clone()),
                    false => Command::Copy(UidSet::new(set.clone()), folder.clone()),
                };
                if self.done(&command).await? && !moves {
                    copied.extend(set);
                }
            }
        }
        for set in sets(&std::mem::take(&mut self.disposals.mark_read)) {
            self.done(&Command::StoreSeen(UidSet::new(set))).await?;
        }
        let mut delete = std::mem::take(&mut self.disposals.delete);
        delete.extend(copied);
        let uidplus = self.session.capabilities.uidplus();
        for set in sets(&delete) {
            let set = UidSet::new(set);
            if self.done(&Command::StoreDeleted(set.clone())).await? && uidplus {
                self.done(&Command::UidExpunge(set)).await?;
            }
        }
        if !uidplus && !delete.is_empty() {
            self.expunge_all(&delete).await?;
        }
        Ok(())
    }

    /// What the server refused to do, for the end of the session.
    pub(super) fn refusal(&mut self) -> Option<Error> {
        let (request, condition) = self.disposals.refused.take()?;
        let error = self.session.refusal(Stage::Dispose, &request.to_string(), &condition);
        Some(error.with_scope(Scope::Mailbox))
    }

    /// On a server without UIDPLUS: removes what is marked as deleted, if all of it was marked by this session.
    async fn expunge_all(&mut self, ours: &BTreeSet<u32>) -> Result<()> {
        let deleted = search(&mut self.session, &Command::SearchDeleted).await?;
        let foreign = deleted.iter().filter(|uid| !ours.contains(uid)).count();
        if foreign > 0 {
            tracing::warn!(
                place = self.place(),
                ours = ours.len(),
                foreign,
                "the server has no UIDPLUS and others have marked messages as deleted too: ours stay marked and are not removed",
            );
            return Ok(());
        }
        self.done(&Command::Expunge).await?;
        Ok(())
    }

    /// Whether the server did it; what it refused is kept for the end. Messages that are gone count as done.
    async fn done(&mut self, command: &Command) -> Result<bool> {
        let condition = self.session.ask(command).await?.condition;
        let done = condition.is_ok();
        if !done && !is_gone(&condition) && self.disposals.refused.is_none() {
            self.disposals.refused = Some((command.request(), condition));
        }
        Ok(done)
    }
}

/// The folder a disposition names. Errors that only this folder has are a matter of the message.
async fn find_or_create(session: &mut Session, name: &str) -> Result<Argument> {
    let folder = match session.folder(name).await {
        Err(error) if error.kind() == ErrorKind::Settings => return Err(error.with_scope(Scope::Message)),
        other => other?,
    };
    if is_special_use(name) {
        return Ok(folder);
    }
    let answer = session.ask(&Command::ListName(folder.clone())).await?;
    let there = answer.data.iter().any(|response| match response {
        Response::List(listed) => {
            let usable = ["\\Noselect", "\\NonExistent"]
                .map(|not| listed.attributes.iter().all(|attribute| !attribute.eq_ignore_ascii_case(not)));
            listed.name == folder.as_str() && usable == [true, true]
        }
        _ => false,
    });
    if there {
        return Ok(folder);
    }
    let created = session.ask(&Command::Create(folder.clone())).await?.condition;
    if created.is_ok() {
        // clients show what is subscribed; where that does not work the folder is there all the same
        session.ask(&Command::Subscribe(folder.clone())).await?;
        return Ok(folder);
    }
    // a server may list it under a name that is written in another way
    let exists =
        created.code == Some(Code::AlreadyExists) || created.text.to_ascii_lowercase().contains("exists");
    if exists {
        return Ok(folder);
    }
    let error = session.refusal(Stage::Dispose, &format!("CREATE {}", folder.as_str()), &created);
    Err(error.with_hint("make the folder, or give the account the right to make folders"))
}

fn sets(uids: &BTreeSet<u32>) -> Vec<Vec<u32>> {
    let uids: Vec<u32> = uids.iter().copied().collect();
    uids.chunks(AT_ONCE).map(<[u32]>::to_vec).collect()
}
