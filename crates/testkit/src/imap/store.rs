//! Folders and messages.

use std::collections::BTreeSet;
use std::sync::Arc;

/// One message of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its UID.
    pub uid: u32,
    /// The message.
    pub bytes: Arc<Vec<u8>>,
    /// Its flags: `\Seen`.
    pub flags: BTreeSet<String>,
    /// When it was changed last (RFC 7162).
    pub modseq: u64,
}

/// One folder.
#[derive(Debug, Clone)]
pub struct Folder {
    pub(super) validity: u32,
    pub(super) uid_next: u32,
    pub(super) modseq: u64,
    pub(super) messages: Vec<Stored>,
    pub(super) special: Option<&'static str>,
    pub(super) subscribed: bool,
}

impl Folder {
    pub(super) fn new(validity: u32, special: Option<&'static str>) -> Self {
        Self { validity, uid_next: 1, modseq: 1, messages: Vec::new(), special, subscribed: false }
    }

    pub(super) fn append(&mut self, bytes: Vec<u8>) -> u32 {
        self.append_with(Arc::new(bytes), BTreeSet::new())
    }

    pub(super) fn append_with(&mut self, bytes: Arc<Vec<u8>>, flags: BTreeSet<String>) -> u32 {
        let uid = self.uid_next;
        self.uid_next += 1;
        self.modseq += 1;
        self.messages.push(Stored { uid, bytes, flags, modseq: self.modseq });
        uid
    }

    pub(super) fn remove(&mut self, which: impl Fn(&Stored) -> bool) {
        self.messages.retain(|message| !which(message));
    }

    pub(super) fn set_flags(&mut self, uids: &[u32], add: bool, flags: &[String]) {
        for message in self.messages.iter_mut().filter(|m| uids.contains(&m.uid)) {
            self.modseq += 1;
            message.modseq = self.modseq;
            for flag in flags {
                if add {
                    message.flags.insert(flag.clone());
                } else {
                    message.flags.remove(flag);
                }
            }
        }
    }

    pub(super) fn renumber(&mut self) {
        self.validity += 100_000;
        let first = self.uid_next + 1000;
        for (n, message) in self.messages.iter_mut().enumerate() {
            message.uid = first + u32::try_from(n).expect("few messages");
            self.uid_next = message.uid + 1;
        }
    }
}
