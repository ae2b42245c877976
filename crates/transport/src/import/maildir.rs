//! A Maildir as a source.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use super::{ImportLimits, Imported, MessageSource, Position, Progress, read_message, resolve, size};
use crate::Result;
use crate::maildir::listing::{self, Entry, Links};
use crate::maildir::proto;
use crate::maildir::store;

const KIND: &str = "maildir";

/// The messages of one Maildir (without its subfolders), oldest first. Nothing is marked, moved or deleted.
#[derive(Debug)]
pub struct MaildirSource {
    root: PathBuf,
    limits: ImportLimits,
    remaining: std::iter::Peekable<std::vec::IntoIter<Entry>>,
    position: Option<Position>,
    progress: Progress,
}

impl MaildirSource {
    /// Lists the Maildir at `path`.
    ///
    /// # Errors
    /// When it is no Maildir or cannot be listed.
    pub fn open(path: &Path, limits: ImportLimits) -> Result<Self> {
        let root = resolve(path)?;
        store::check(&root)?;
        let entries = listing::messages(&root, Links::List)?;
        let total_bytes = entries.iter().map(|e| size(&e.path(&root))).sum();
        Ok(Self {
            root,
            limits,
            remaining: entries.into_iter().peekable(),
            position: None,
            progress: Progress { total_bytes, ..Progress::default() },
        })
    }
}

impl MessageSource for MaildirSource {
    fn next_message(&mut self) -> Result<Option<Imported>> {
        let Some(entry) = self.remaining.next() else { return Ok(None) };
        let position = position_of(&entry);
        self.position = Some(position.clone());
        let path = entry.path(&self.root);
        self.progress.done_bytes += size(&path);
        match read_message(&path, self.limits) {
            Ok(message) => {
                self.progress.messages += 1;
                Ok(Some(Imported { id: entry.id(), position, message }))
            }
            Err(e) => {
                self.progress.failed += 1;
                Err(e)
            }
        }
    }

    fn resume_after(&mut self, position: &Position) -> Result<()> {
        let unusable = || position.unusable(KIND);
        let (time, id) = position.place(KIND)?.split_once(':').ok_or_else(unusable)?;
        let (seconds, micros) = time.split_once('.').ok_or_else(unusable)?;
        let time: (i64, u32) =
            (seconds.parse().map_err(|_| unusable())?, micros.parse().map_err(|_| unusable())?);
        let (id, twin) = id.split_once('/').map_or((id, None), |(id, twin)| (id, Some(twin.to_owned())));
        let base = proto::base_of(&id.into()).ok_or_else(unusable)?;
        let is_behind = |e: &Entry| match (e.time, e.base()).cmp(&(time, base.clone())) {
            // where another file of this name came or went, nobody knows which was read: once more changes nothing
            Ordering::Equal => e.twin.is_some() == twin.is_some() && e.twin <= twin,
            order => order.is_lt(),
        };
        while let Some(entry) = self.remaining.next_if(is_behind) {
            self.progress.done_bytes += size(&entry.path(&self.root));
        }
        self.position = Some(position.clone());
        Ok(())
    }

    fn position(&self) -> Option<Position> {
        self.position.clone()
    }

    fn progress(&self) -> Progress {
        self.progress
    }
}

fn position_of(entry: &Entry) -> Position {
    let (seconds, micros) = entry.time;
    Position::new(KIND, format_args!("{seconds}.{micros}:{}", entry.id()))
}
