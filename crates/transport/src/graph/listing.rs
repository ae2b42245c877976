//! What is in the Inbox: a delta query (Microsoft Graph, "get incremental changes to messages in a folder"), remembered between sessions.
//!
//! Nothing depends on what is remembered: the first session of a mailbox lists everything, later ones ask for what changed and arrive at the same
//! list. A delta token that the service does not know any more leads to a new listing. Over a restart the engine keeps what was listed
//! ([`Listings::token`]), since a delta alone tells only what changed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use email_router_http::{HeaderName, Method};
use url::Url;

use super::client::{Ask, Client, Outcome};
use super::error::{self, Stage};
use super::proto::page::{self, Change, Item};
use super::proto::{IMMUTABLE, Malformed, resume};
use crate::{Error, Result};

/// A delta that has more pages than this does not end.
const MOST_PAGES: usize = 100_000;

/// The messages of an Inbox at one moment, and how to ask what changed since.
#[derive(Debug, Clone, Default)]
pub(super) struct Folder {
    pub(super) items: HashMap<String, Item>,
    delta: Option<Url>,
    /// The last round told something.
    changed: bool,
}

impl Folder {
    fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Present(id, item) => self.items.entry(id).or_default().update(item),
                Change::Removed(id) => drop(self.items.remove(&id)),
            }
        }
    }

    /// The messages, oldest first; those without a date come first, the ids decide among equals.
    pub(super) fn sorted(&self) -> Vec<(String, Item)> {
        let mut all: Vec<_> = self.items.iter().map(|(id, item)| (id.clone(), item.clone())).collect();
        all.sort_unstable_by(|(a, x), (b, y)| (x.received, a).cmp(&(y.received, b)));
        all
    }
}

/// What a session lists.
pub(super) struct Listed {
    /// The messages, oldest first.
    pub(super) messages: Vec<(String, Item)>,
    /// Whether that is something else than the session before had, or what it was opened with.
    pub(super) changed: bool,
}

/// The folders of all mailboxes, as far as there is room.
#[derive(Debug, Default)]
pub(super) struct Listings {
    kept: Mutex<Kept>,
    /// The service refuses to tell size and class with a delta.
    without_properties: AtomicBool,
}

#[derive(Debug, Default)]
struct Kept {
    folders: HashMap<String, (Folder, u64)>,
    uses: u64,
}

impl Listings {
    /// What is in the Inbox now; `resume` is what [`Self::token`] gave in another session.
    pub(super) async fn inbox(&self, client: &Client, resume: Option<&[u8]>) -> Result<Listed> {
        let known = self.kept().folders.get(&client.key()).map(|(folder, _)| folder.clone());
        let known = known.or_else(|| {
            let (items, delta) = resume::read(&client.settings().base, &client.key(), resume?)?;
            Some(Folder { items, delta: Some(delta), changed: false })
        });
        let folder = match known {
            Some(known) => match self.follow(client, known).await? {
                Some(folder) => folder,
                None => {
                    tracing::debug!(
                        place = client.place(),
                        "the delta token is no good any more; all is listed anew"
                    );
                    self.forget(client);
                    self.anew(client).await?
                }
            },
            None => self.anew(client).await?,
        };
        // who has no token yet gets one, also where nothing has changed
        let listed = Listed { messages: folder.sorted(), changed: folder.changed || resume.is_none() };
        self.keep(client, folder);
        Ok(listed)
    }

    /// What a later session may be opened with, also after a restart; `None` where it would be too large, or nothing is remembered.
    pub(super) fn token(&self, client: &Client) -> Option<Bytes> {
        let kept = self.kept();
        let (folder, _) = kept.folders.get(&client.key())?;
        resume::write(&client.settings().base, &client.key(), &folder.items, folder.delta.as_ref()?)
    }

    /// Takes messages out that are known to be gone.
    pub(super) fn remove<'a>(&self, client: &Client, ids: impl Iterator<Item = &'a str>) {
        if let Some((folder, _)) = self.kept().folders.get_mut(&client.key()) {
            ids.for_each(|id| drop(folder.items.remove(id)));
        }
    }

    async fn anew(&self, client: &Client) -> Result<Folder> {
        // a token can become invalid while its pages are read: once more, and then it is an error
        for _ in 0..2 {
            if let Some(folder) = self.follow(client, Folder::default()).await? {
                return Ok(folder);
            }
        }
        let why = Malformed("the service wants a new synchronization again and again".to_owned());
        Err(error::malformed(client.place(), Stage::Listing, &why))
    }

    /// Reads all pages from where the folder stands; `None` where the service wants a new synchronization.
    async fn follow(&self, client: &Client, mut folder: Folder) -> Result<Option<Folder>> {
        let fresh = folder.delta.is_none();
        folder.changed = fresh;
        let mut url = match folder.delta.take() {
            Some(url) => url,
            None => self.first(client)?,
        };
        let malformed = |why: &Malformed| error::malformed(client.place(), Stage::Listing, why);
        for page in 0..MOST_PAGES {
            let prefer =
                format!("{IMMUTABLE}, odata.maxpagesize={}", client.settings().page_size.clamp(1, 1000));
            let ask =
                Ask::new(Method::GET, url, Stage::Listing).header(HeaderName::from_static("prefer"), &prefer);
            let answer = match client.outcome(&ask).await? {
                Outcome::Done(answer) => answer,
                Outcome::Refused(refusal) if refusal.fault.wants_resync(refusal.status) => return Ok(None),
                Outcome::Refused(refusal) => {
                    let plain = self.without_properties.load(Ordering::Relaxed);
                    if refusal.status == 400 && fresh && page == 0 && !plain {
                        // an older deployment that cannot expand: sizes are nice to have, messages are not
                        tracing::debug!(error = %refusal.error, "the service does not tell sizes with a delta");
                        self.without_properties.store(true, Ordering::Relaxed);
                        url = self.first(client)?;
                        continue;
                    }
                    return Err(refusal.error);
                }
            };
            let body = client.body(&ask, answer).await?;
            let read = page::read(&client.settings().base, &body).map_err(|why| malformed(&why))?;
            folder.changed |= !read.changes.is_empty();
            folder.apply(read.changes);
            match (read.next, read.delta) {
                (Some(next), _) if next == ask.url => {
                    return Err(malformed(&Malformed(
                        "the service gave a page that leads to itself".to_owned(),
                    )));
                }
                (Some(next), _) => url = next,
                (None, Some(delta)) => {
                    folder.delta = Some(delta);
                    return Ok(Some(folder));
                }
                (None, None) => {
                    return Err(malformed(&Malformed(
                        "the last page of a delta has no link for the next one".to_owned(),
                    )));
                }
            }
        }
        Err(malformed(&Malformed("a delta does not come to an end".to_owned())))
    }

    fn first(&self, client: &Client) -> Result<Url, Error> {
        let query = page::listing_query(!self.without_properties.load(Ordering::Relaxed));
        client.url(&format!("/mailFolders/inbox/messages/delta?{query}"))
    }

    fn keep(&self, client: &Client, folder: Folder) {
        let most = client.settings().remembered_messages;
        let mut kept = self.kept();
        kept.folders.remove(&client.key());
        if folder.items.len() > most {
            return;
        }
        let mut room = most - folder.items.len();
        kept.uses += 1;
        let uses = kept.uses;
        // an empty folder takes some room, too
        let mut others: Vec<(u64, usize, String)> =
            kept.folders.iter().map(|(key, (f, used))| (*used, f.items.len().max(1), key.clone())).collect();
        others.sort_unstable_by(|a, b| b.cmp(a));
        for (_, size, key) in others {
            match room.checked_sub(size) {
                Some(left) => room = left,
                None => drop(kept.folders.remove(&key)),
            }
        }
        kept.folders.insert(client.key(), (folder, uses));
    }

    fn forget(&self, client: &Client) {
        self.kept().folders.remove(&client.key());
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
