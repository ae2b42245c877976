//! A state store in memory, for tests and simulations.
//!
//! It keeps every rule of [`StateStore`] but one: nothing survives the process. A clone is another handle on the same data, so a
//! test restarts "the router" by building a new one on a clone.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use email_router_model::{ActivityId, MailboxId, RemoteId, Timestamp};

use crate::ports::{
    DecisionNote, DecisionQuery, LedgerEntry, LedgerResult, ProviderDirection, ProviderStatus,
    QuarantineItem, SeenMessage, Settled, StateError, StateStore,
};

/// A [`StateStore`] in memory. Cloning gives another handle on the same data.
#[derive(Debug, Clone, Default)]
pub struct MemoryState(Arc<Mutex<Data>>);

#[derive(Debug, Default)]
struct Data {
    seen: BTreeMap<(MailboxId, RemoteId), SeenMessage>,
    thresholds: BTreeMap<MailboxId, Timestamp>,
    ledger: BTreeMap<ActivityId, LedgerEntry>,
    sources: BTreeMap<MailboxId, String>,
    resume: BTreeMap<MailboxId, (String, Bytes)>,
    quarantine: BTreeMap<u64, QuarantineItem>,
    last_quarantine_id: u64,
    leases: BTreeMap<String, (String, Timestamp)>,
    statuses: BTreeMap<(MailboxId, ProviderDirection), ProviderStatus>,
    decisions: Vec<DecisionNote>,
}

impl MemoryState {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn data(&self) -> MutexGuard<'_, Data> {
        // no method leaves the data half changed when it panics: each changes one map entry at a time
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Data {
    fn entry(&mut self, mailbox: &MailboxId, id: &RemoteId) -> &mut SeenMessage {
        self.seen.entry((mailbox.clone(), id.clone())).or_insert(SeenMessage {
            attempts: 0,
            settled: None,
            not_before: None,
            last_error: None,
        })
    }
}

/// The error for a result without a beginning; the same words in every store.
#[must_use]
pub fn no_ledger_entry(id: &ActivityId) -> StateError {
    StateError {
        message: format!(
            "the send ledger has no entry for the e-mail {id}; an attempt begins with ledger_begin"
        ),
        transient: false,
        source: None,
    }
}

#[async_trait]
impl StateStore for MemoryState {
    async fn seen(
        &self,
        mailbox: &MailboxId,
        ids: &[RemoteId],
    ) -> Result<Vec<Option<SeenMessage>>, StateError> {
        let data = self.data();
        Ok(ids.iter().map(|id| data.seen.get(&(mailbox.clone(), id.clone())).cloned()).collect())
    }

    async fn begin(&self, mailbox: &MailboxId, ids: &[RemoteId], _at: Timestamp) -> Result<(), StateError> {
        let mut data = self.data();
        for id in ids {
            let seen = data.entry(mailbox, id);
            seen.attempts = seen.attempts.saturating_add(1);
        }
        Ok(())
    }

    async fn unbegin(&self, mailbox: &MailboxId, ids: &[RemoteId]) -> Result<(), StateError> {
        let mut data = self.data();
        for id in ids {
            let key = (mailbox.clone(), id.clone());
            let Some(seen) = data.seen.get_mut(&key) else { continue };
            seen.attempts = seen.attempts.saturating_sub(1);
            if seen.attempts == 0
                && seen.settled.is_none()
                && seen.not_before.is_none()
                && seen.last_error.is_none()
            {
                data.seen.remove(&key);
            }
        }
        Ok(())
    }

    async fn note_failure(
        &self,
        mailbox: &MailboxId,
        id: &RemoteId,
        error: &str,
        not_before: Timestamp,
    ) -> Result<(), StateError> {
        let mut data = self.data();
        let seen = data.entry(mailbox, id);
        seen.last_error = Some(error.to_owned());
        seen.not_before = Some(not_before);
        Ok(())
    }

    async fn settle(&self, mailbox: &MailboxId, settled: &[Settled]) -> Result<(), StateError> {
        let mut data = self.data();
        for end in settled {
            data.entry(mailbox, &end.id).settled = Some(end.clone());
        }
        Ok(())
    }

    async fn read_from(&self, mailbox: &MailboxId, source: &str) -> Result<u64, StateError> {
        let mut data = self.data();
        let before = data.sources.insert(mailbox.clone(), source.to_owned());
        if before.is_none_or(|before| before == source) {
            return Ok(0);
        }
        for item in data.quarantine.values_mut().filter(|item| item.mailbox == *mailbox) {
            let mark = format!("#{} ", item.id);
            if !item.remote_id.as_str().starts_with(&mark) {
                item.remote_id = RemoteId::new(mark + item.remote_id.as_str());
            }
        }
        let known = data.seen.len();
        data.seen.retain(|(of, _), _| of != mailbox);
        Ok((known - data.seen.len()) as u64)
    }

    async fn resume_token(&self, mailbox: &MailboxId, source: &str) -> Result<Option<Bytes>, StateError> {
        let data = self.data();
        Ok(data.resume.get(mailbox).filter(|(of, _)| of == source).map(|(_, token)| token.clone()))
    }

    async fn set_resume_token(
        &self,
        mailbox: &MailboxId,
        source: &str,
        token: &Bytes,
    ) -> Result<(), StateError> {
        self.data().resume.insert(mailbox.clone(), (source.to_owned(), token.clone()));
        Ok(())
    }

    async fn forget_absent(&self, mailbox: &MailboxId, present: &[RemoteId]) -> Result<u64, StateError> {
        let present: HashSet<&RemoteId> = present.iter().collect();
        let mut data = self.data();
        let before = data.seen.len();
        data.seen.retain(|(of, id), _| of != mailbox || present.contains(id));
        Ok((before - data.seen.len()) as u64)
    }

    async fn forget(&self, mailbox: &MailboxId, ids: &[RemoteId]) -> Result<(), StateError> {
        let mut data = self.data();
        for id in ids {
            data.seen.remove(&(mailbox.clone(), id.clone()));
        }
        Ok(())
    }

    async fn threshold(&self, mailbox: &MailboxId) -> Result<Option<Timestamp>, StateError> {
        Ok(self.data().thresholds.get(mailbox).copied())
    }

    async fn set_threshold(
        &self,
        mailbox: &MailboxId,
        threshold: Option<Timestamp>,
    ) -> Result<(), StateError> {
        let mut data = self.data();
        match threshold {
            Some(at) => data.thresholds.insert(mailbox.clone(), at),
            None => data.thresholds.remove(mailbox),
        };
        Ok(())
    }

    async fn ledger_begin(&self, entry: &LedgerEntry) -> Result<(), StateError> {
        self.data().ledger.insert(entry.activity_id, entry.clone());
        Ok(())
    }

    async fn ledger_result(&self, id: &ActivityId, result: &LedgerResult) -> Result<(), StateError> {
        let mut data = self.data();
        let entry = data.ledger.get_mut(id).ok_or_else(|| no_ledger_entry(id))?;
        entry.result = Some(result.clone());
        Ok(())
    }

    async fn ledger_close(&self, id: &ActivityId) -> Result<(), StateError> {
        if let Some(entry) = self.data().ledger.get_mut(id) {
            entry.closed = true;
        }
        Ok(())
    }

    async fn ledger(&self, id: &ActivityId) -> Result<Option<LedgerEntry>, StateError> {
        Ok(self.data().ledger.get(id).cloned())
    }

    async fn ledger_open(&self) -> Result<Vec<LedgerEntry>, StateError> {
        let mut open: Vec<LedgerEntry> = self.data().ledger.values().filter(|e| !e.closed).cloned().collect();
        open.sort_by_key(|e| (e.at, e.activity_id));
        Ok(open)
    }

    async fn quarantine_put(&self, item: &QuarantineItem) -> Result<u64, StateError> {
        let mut data = self.data();
        let same = data
            .quarantine
            .values()
            .find(|q| q.mailbox == item.mailbox && q.remote_id == item.remote_id)
            .map(|q| q.id);
        let id = same.unwrap_or_else(|| {
            data.last_quarantine_id += 1;
            data.last_quarantine_id
        });
        data.quarantine.insert(id, QuarantineItem { id, ..item.clone() });
        Ok(id)
    }

    async fn quarantine_list(&self, after: u64, limit: usize) -> Result<Vec<QuarantineItem>, StateError> {
        let data = self.data();
        let from = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
        Ok(data
            .quarantine
            .range(from)
            .take(limit)
            .map(|(_, q)| QuarantineItem { raw: None, ..q.clone() })
            .collect())
    }

    async fn quarantine_get(&self, id: u64) -> Result<Option<QuarantineItem>, StateError> {
        Ok(self.data().quarantine.get(&id).cloned())
    }

    async fn quarantine_delete(&self, id: u64) -> Result<bool, StateError> {
        Ok(self.data().quarantine.remove(&id).is_some())
    }

    async fn lease_acquire(
        &self,
        name: &str,
        holder: &str,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool, StateError> {
        let mut data = self.data();
        match data.leases.get(name) {
            Some((by, end)) if by != holder && *end > now => Ok(false),
            _ => {
                data.leases.insert(name.to_owned(), (holder.to_owned(), until));
                Ok(true)
            }
        }
    }

    async fn lease_release(&self, name: &str, holder: &str) -> Result<(), StateError> {
        let mut data = self.data();
        if data.leases.get(name).is_some_and(|(by, _)| by == holder) {
            data.leases.remove(name);
        }
        Ok(())
    }

    async fn put_status(&self, status: &ProviderStatus) -> Result<(), StateError> {
        self.data().statuses.insert((status.mailbox.clone(), status.direction), status.clone());
        Ok(())
    }

    async fn statuses(&self) -> Result<Vec<ProviderStatus>, StateError> {
        Ok(self.data().statuses.values().cloned().collect())
    }

    async fn retain_statuses(&self, present: &[(MailboxId, ProviderDirection)]) -> Result<(), StateError> {
        let present: HashSet<&(MailboxId, ProviderDirection)> = present.iter().collect();
        self.data().statuses.retain(|key, _| present.contains(key));
        Ok(())
    }

    async fn prune(&self, before: Timestamp) -> Result<u64, StateError> {
        let mut data = self.data();
        let had = data.ledger.len();
        data.ledger.retain(|_, e| e.is_needed() || e.at >= before);
        Ok((had - data.ledger.len()) as u64)
    }

    async fn note_decisions(&self, notes: &[DecisionNote]) -> Result<(), StateError> {
        self.data().decisions.extend_from_slice(notes);
        Ok(())
    }

    async fn decisions(&self, query: &DecisionQuery, limit: usize) -> Result<Vec<DecisionNote>, StateError> {
        let data = self.data();
        let mut found: Vec<DecisionNote> =
            data.decisions.iter().rev().filter(|note| query.matches(note)).cloned().collect();
        // the sort is stable: of two of one moment the later one stays first
        found.sort_by_key(|note| std::cmp::Reverse(note.at));
        found.truncate(limit);
        Ok(found)
    }

    async fn prune_decisions(&self, before: Timestamp, keep: u64) -> Result<u64, StateError> {
        let mut data = self.data();
        let all = data.decisions.len();
        data.decisions.retain(|note| note.at >= before);
        data.decisions.sort_by_key(|note| note.at);
        let excess = data.decisions.len().saturating_sub(usize::try_from(keep).unwrap_or(usize::MAX));
        data.decisions.drain(..excess);
        Ok((all - data.decisions.len()) as u64)
    }
}
