//! The state in one SQLite file.

mod decisions;
mod error;
mod quarantine;
mod schema;
mod seen;
mod values;
mod writer;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use email_router_engine::ports::{
    DecisionNote, DecisionQuery, LedgerEntry, LedgerResult, ProviderDirection, ProviderStatus,
    QuarantineItem, SeenMessage, Settled,
};
use email_router_engine::state_memory::no_ledger_entry;
use email_router_engine::{StateError, StateStore};
use email_router_model::{ActivityId, MailboxId, RemoteId, Timestamp};
use rusqlite::{Connection, OptionalExtension as _, params};
use tokio::sync::Semaphore;

use error::Problem;
use values::{from_json, micros, time, to_json};
use writer::{Durability, Writer};

/// As many connections read at the same time; each is a file handle and a page cache.
const READERS: usize = 4;

/// The state store in one SQLite file, with its `-wal` and `-shm` files beside it while it is open.
///
/// # Durability
/// One thread writes; it puts all requests that wait into one transaction (each in a savepoint of its own, so that one that
/// fails takes no other with it) and answers them after the commit. A transaction that holds a write which the contract calls
/// durable (the send ledger, the quarantine) is flushed to the disk (`synchronous=FULL`). The others survive the death of the
/// process but may lose the last moments when the machine loses power (`synchronous=NORMAL`): the seen-set is repaired by delivering
/// again, which the CRM recognises by the activity id, so a flush for every message would buy nothing.
///
/// # Several handles
/// Readers have their own connections and never wait for the writer. Several processes on one machine may open the same file; a
/// network file system will not do (SQLite's locks need shared memory).
///
/// # A damaged file
/// Every call then fails with an error that is not transient and says to move the file away. Nothing is doubled in the CRM by
/// that; the seen-set is built anew by reading the mailboxes again. Lost are thresholds, attempt counts, the copies in
/// quarantine, and the send ledger: e-mails then found in Sending are reported and not sent again.
///
/// Dropping the last handle waits for the writes already asked for and folds the `-wal` file into the main file.
pub struct SqliteState {
    path: Arc<PathBuf>,
    /// `None`: only looking.
    writer: Option<Writer>,
    readers: Arc<Readers>,
}

impl SqliteState {
    /// Opens the file, creates it (readable by its owner only) when it is missing, and brings an older layout up to date.
    ///
    /// # Errors
    /// A file that cannot be opened or written, that is damaged, is no state file, or was written by a newer version.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StateError> {
        let path = Arc::new(path.as_ref().to_owned());
        schema::create_file(&path)?;
        let writing = schema::connect(&path)?;
        schema::migrate(&path, &writing)?;
        Ok(Self {
            writer: Some(Writer::start(Arc::clone(&path), writing)?),
            readers: Arc::new(Readers::new(&path, schema::connect)),
            path,
        })
    }

    /// Opens the file for looking only: nothing is created and nothing can be changed; `None` when there is no such file. Where this
    /// program may not write the file or its folder, it is read as it lies, which holds as long as nobody begins to write it.
    ///
    /// # Errors
    /// As [`open`](Self::open), and a file that an older version wrote. Every later attempt to write ends in an error.
    pub fn open_to_look(path: impl AsRef<Path>) -> Result<Option<Self>, StateError> {
        let path = Arc::new(path.as_ref().to_owned());
        if path.try_exists().is_ok_and(|there| !there) {
            return Ok(None);
        }
        let readers = Readers::new(&path, schema::connect_to_look);
        readers.put(readers.take()?);
        Ok(Some(Self { writer: None, readers: Arc::new(readers), path }))
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, StateError> {
        let readers = Arc::clone(&self.readers);
        let Ok(_permit) = self.readers.permits.acquire().await else {
            return Err(error::stopped(&self.path)); // the semaphore is never closed while a handle lives
        };
        let path = Arc::clone(&self.path);
        tokio::task::spawn_blocking(move || {
            let connection = readers.take()?;
            let result = query(&connection).map_err(|e| e.into_state(&path));
            readers.put(connection);
            result
        })
        .await
        .unwrap_or_else(|_| Err(error::stopped(&self.path)))
    }

    async fn write<T: Send + 'static>(
        &self,
        durability: Durability,
        change: impl FnOnce(&Connection) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, StateError> {
        match &self.writer {
            Some(writer) => writer.write(durability, change).await,
            None => Err(StateError {
                message: format!(
                    "the state file {} is open for looking only; nothing was written",
                    self.path.display()
                ),
                transient: false,
                source: None,
            }),
        }
    }
}

impl fmt::Debug for SqliteState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteState").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Idle reading connections.
struct Readers {
    path: Arc<PathBuf>,
    connect: fn(&Path) -> Result<Connection, StateError>,
    idle: Mutex<Vec<Connection>>,
    permits: Semaphore,
}

impl Readers {
    fn new(path: &Arc<PathBuf>, connect: fn(&Path) -> Result<Connection, StateError>) -> Self {
        Self {
            path: Arc::clone(path),
            connect,
            idle: Mutex::new(Vec::new()),
            permits: Semaphore::new(READERS),
        }
    }
    fn take(&self) -> Result<Connection, StateError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(|| (self.connect)(&self.path), Ok)
    }
    fn put(&self, connection: Connection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }
}

#[async_trait]
impl StateStore for SqliteState {
    async fn seen(
        &self,
        mailbox: &MailboxId,
        ids: &[RemoteId],
    ) -> Result<Vec<Option<SeenMessage>>, StateError> {
        let (mailbox, ids) = (mailbox.clone(), ids.to_vec());
        self.read(move |c| seen::seen(c, &mailbox, &ids)).await
    }

    async fn begin(&self, mailbox: &MailboxId, ids: &[RemoteId], _at: Timestamp) -> Result<(), StateError> {
        let (mailbox, ids) = (mailbox.clone(), ids.to_vec());
        self.write(Durability::Process, move |c| seen::begin(c, &mailbox, &ids)).await
    }

    async fn unbegin(&self, mailbox: &MailboxId, ids: &[RemoteId]) -> Result<(), StateError> {
        let (mailbox, ids) = (mailbox.clone(), ids.to_vec());
        self.write(Durability::Process, move |c| seen::unbegin(c, &mailbox, &ids)).await
    }

    async fn note_failure(
        &self,
        mailbox: &MailboxId,
        id: &RemoteId,
        error: &str,
        not_before: Timestamp,
    ) -> Result<(), StateError> {
        let (mailbox, id, error) = (mailbox.clone(), id.clone(), error.to_owned());
        self.write(Durability::Process, move |c| seen::note_failure(c, &mailbox, &id, &error, not_before))
            .await
    }

    async fn settle(&self, mailbox: &MailboxId, settled: &[Settled]) -> Result<(), StateError> {
        let (mailbox, settled) = (mailbox.clone(), settled.to_vec());
        self.write(Durability::Process, move |c| seen::settle(c, &mailbox, &settled)).await
    }

    async fn read_from(&self, mailbox: &MailboxId, source: &str) -> Result<u64, StateError> {
        let (mailbox, source) = (mailbox.clone(), source.to_owned());
        let (known, wanted) = (mailbox.clone(), source.clone());
        if self.read(move |c| seen::source(c, &known)).await?.as_ref() == Some(&wanted) {
            return Ok(0);
        }
        self.write(Durability::Process, move |c| seen::read_from(c, &mailbox, &source)).await
    }

    async fn resume_token(&self, mailbox: &MailboxId, source: &str) -> Result<Option<Bytes>, StateError> {
        let (mailbox, source) = (mailbox.clone(), source.to_owned());
        self.read(move |c| {
            let token: Option<Vec<u8>> = c
                .prepare_cached("SELECT token FROM resume WHERE mailbox = ?1 AND source = ?2")?
                .query_row([mailbox.as_str(), &source], |row| row.get(0))
                .optional()?;
            Ok(token.map(Bytes::from))
        })
        .await
    }

    async fn set_resume_token(
        &self,
        mailbox: &MailboxId,
        source: &str,
        token: &Bytes,
    ) -> Result<(), StateError> {
        let (mailbox, source, token) = (mailbox.clone(), source.to_owned(), token.clone());
        self.write(Durability::Process, move |c| {
            c.prepare_cached("INSERT OR REPLACE INTO resume (mailbox, source, token) VALUES (?1, ?2, ?3)")?
                .execute(params![mailbox.as_str(), source, &token[..]])?;
            Ok(())
        })
        .await
    }

    async fn forget_absent(&self, mailbox: &MailboxId, present: &[RemoteId]) -> Result<u64, StateError> {
        let (mailbox, present) = (mailbox.clone(), present.to_vec());
        self.write(Durability::Process, move |c| seen::forget_absent(c, &mailbox, &present)).await
    }

    async fn forget(&self, mailbox: &MailboxId, ids: &[RemoteId]) -> Result<(), StateError> {
        let (mailbox, ids) = (mailbox.clone(), ids.to_vec());
        self.write(Durability::Process, move |c| seen::forget(c, &mailbox, &ids)).await
    }

    async fn threshold(&self, mailbox: &MailboxId) -> Result<Option<Timestamp>, StateError> {
        let mailbox = mailbox.clone();
        self.read(move |c| {
            let at: Option<i64> = c
                .prepare_cached("SELECT at FROM threshold WHERE mailbox = ?1")?
                .query_row([mailbox.as_str()], |row| row.get(0))
                .optional()?;
            Ok(at.map(time))
        })
        .await
    }

    async fn set_threshold(
        &self,
        mailbox: &MailboxId,
        threshold: Option<Timestamp>,
    ) -> Result<(), StateError> {
        let mailbox = mailbox.clone();
        self.write(Durability::Process, move |c| {
            match threshold {
                Some(at) => c
                    .prepare_cached("INSERT OR REPLACE INTO threshold (mailbox, at) VALUES (?1, ?2)")?
                    .execute(params![mailbox.as_str(), micros(at)])?,
                None => c
                    .prepare_cached("DELETE FROM threshold WHERE mailbox = ?1")?
                    .execute([mailbox.as_str()])?,
            };
            Ok(())
        })
        .await
    }

    async fn ledger_begin(&self, entry: &LedgerEntry) -> Result<(), StateError> {
        let (id, at, closed) =
            (*entry.activity_id.as_uuid().as_bytes(), micros(entry.at), closed_code(entry));
        let text = to_json(entry)?;
        self.write(Durability::Disk, move |c| {
            c.prepare_cached(
                "INSERT OR REPLACE INTO ledger (activity, at, closed, entry) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![id, at, closed, text])?;
            Ok(())
        })
        .await
    }

    async fn ledger_result(&self, id: &ActivityId, result: &LedgerResult) -> Result<(), StateError> {
        let (id, result) = (*id, result.clone());
        self.write(Durability::Disk, move |c| {
            let mut entry = ledger_entry(c, &id)?.ok_or_else(|| Problem::Refused(no_ledger_entry(&id)))?;
            entry.result = Some(result);
            put_ledger(c, &entry)
        })
        .await
    }

    async fn ledger_close(&self, id: &ActivityId) -> Result<(), StateError> {
        let id = *id;
        self.write(Durability::Disk, move |c| match ledger_entry(c, &id)? {
            Some(entry) => put_ledger(c, &LedgerEntry { closed: true, ..entry }),
            None => Ok(()),
        })
        .await
    }

    async fn ledger(&self, id: &ActivityId) -> Result<Option<LedgerEntry>, StateError> {
        let id = *id;
        self.read(move |c| ledger_entry(c, &id)).await
    }

    async fn ledger_open(&self) -> Result<Vec<LedgerEntry>, StateError> {
        self.read(|c| {
            let mut query =
                c.prepare_cached("SELECT entry FROM ledger WHERE closed = 0 ORDER BY at, activity")?;
            let rows = query.query_map([], |row| row.get::<_, String>(0))?;
            rows.map(|text| from_json(&text?)).collect()
        })
        .await
    }

    async fn quarantine_put(&self, item: &QuarantineItem) -> Result<u64, StateError> {
        let item = item.clone();
        self.write(Durability::Disk, move |c| quarantine::put(c, &item)).await
    }

    async fn quarantine_list(&self, after: u64, limit: usize) -> Result<Vec<QuarantineItem>, StateError> {
        self.read(move |c| quarantine::list(c, after, limit)).await
    }

    async fn quarantine_get(&self, id: u64) -> Result<Option<QuarantineItem>, StateError> {
        self.read(move |c| quarantine::get(c, id)).await
    }

    async fn quarantine_delete(&self, id: u64) -> Result<bool, StateError> {
        self.write(Durability::Process, move |c| quarantine::delete(c, id)).await
    }

    async fn lease_acquire(
        &self,
        name: &str,
        holder: &str,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool, StateError> {
        let (name, holder) = (name.to_owned(), holder.to_owned());
        self.write(Durability::Process, move |c| {
            let taken = c
                .prepare_cached(
                    "INSERT INTO lease (name, holder, until) VALUES (?1, ?2, ?4)
                     ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until
                     WHERE lease.holder = excluded.holder OR lease.until <= ?3",
                )?
                .execute(params![name, holder, micros(now), micros(until)])?;
            Ok(taken > 0)
        })
        .await
    }

    async fn lease_release(&self, name: &str, holder: &str) -> Result<(), StateError> {
        let (name, holder) = (name.to_owned(), holder.to_owned());
        self.write(Durability::Process, move |c| {
            c.prepare_cached("DELETE FROM lease WHERE name = ?1 AND holder = ?2")?
                .execute(params![name, holder])?;
            Ok(())
        })
        .await
    }

    async fn put_status(&self, status: &ProviderStatus) -> Result<(), StateError> {
        let (mailbox, direction) = (status.mailbox.clone(), direction_code(status.direction));
        let text = to_json(status)?;
        self.write(Durability::Process, move |c| {
            c.prepare_cached(
                "INSERT OR REPLACE INTO status (mailbox, direction, status) VALUES (?1, ?2, ?3)",
            )?
            .execute(params![mailbox.as_str(), direction, text])?;
            Ok(())
        })
        .await
    }

    async fn statuses(&self) -> Result<Vec<ProviderStatus>, StateError> {
        self.read(|c| {
            let mut query = c.prepare_cached("SELECT status FROM status ORDER BY mailbox, direction")?;
            let rows = query.query_map([], |row| row.get::<_, String>(0))?;
            rows.map(|text| from_json(&text?)).collect()
        })
        .await
    }

    async fn retain_statuses(&self, present: &[(MailboxId, ProviderDirection)]) -> Result<(), StateError> {
        let present: std::collections::HashSet<(String, i64)> =
            present.iter().map(|(m, d)| (m.as_str().to_owned(), direction_code(*d))).collect();
        self.write(Durability::Process, move |c| {
            let mut query = c.prepare_cached("SELECT mailbox, direction FROM status")?;
            let all: Vec<(String, i64)> =
                query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
            let mut delete = c.prepare_cached("DELETE FROM status WHERE mailbox = ?1 AND direction = ?2")?;
            for (mailbox, direction) in all.iter().filter(|key| !present.contains(key)) {
                delete.execute(params![mailbox, direction])?;
            }
            Ok(())
        })
        .await
    }

    async fn prune(&self, before: Timestamp) -> Result<u64, StateError> {
        self.write(Durability::Process, move |c| {
            let gone = c
                .prepare_cached("DELETE FROM ledger WHERE closed = 1 AND at < ?1")?
                .execute([micros(before)])?;
            Ok(gone as u64)
        })
        .await
    }

    async fn note_decisions(&self, notes: &[DecisionNote]) -> Result<(), StateError> {
        let notes = notes.to_vec();
        self.write(Durability::Process, move |c| decisions::put(c, &notes)).await
    }

    async fn decisions(&self, query: &DecisionQuery, limit: usize) -> Result<Vec<DecisionNote>, StateError> {
        let query = query.clone();
        self.read(move |c| decisions::find(c, &query, limit)).await
    }

    async fn prune_decisions(&self, before: Timestamp, keep: u64) -> Result<u64, StateError> {
        let mut gone = 0;
        loop {
            // in batches, so that nobody waits long for the writer
            match self.write(Durability::Process, move |c| decisions::prune(c, before, keep)).await? {
                0 => return Ok(gone),
                some => gone += some,
            }
        }
    }
}

fn direction_code(direction: ProviderDirection) -> i64 {
    match direction {
        ProviderDirection::Incoming => 0,
        ProviderDirection::Outgoing => 1,
    }
}

/// 0 is open, 1 is closed, 2 is closed and kept for a later attempt.
fn closed_code(entry: &LedgerEntry) -> i64 {
    match (entry.closed, entry.is_needed()) {
        (false, _) => 0,
        (true, false) => 1,
        (true, true) => 2,
    }
}

fn ledger_entry(c: &Connection, id: &ActivityId) -> Result<Option<LedgerEntry>, Problem> {
    let text: Option<String> = c
        .prepare_cached("SELECT entry FROM ledger WHERE activity = ?1")?
        .query_row([id.as_uuid().as_bytes()], |row| row.get(0))
        .optional()?;
    text.map(|t| from_json(&t)).transpose()
}

fn put_ledger(c: &Connection, entry: &LedgerEntry) -> Result<(), Problem> {
    let text = to_json(entry).map_err(Problem::Refused)?;
    c.prepare_cached("UPDATE ledger SET closed = ?2, entry = ?3 WHERE activity = ?1")?.execute(params![
        entry.activity_id.as_uuid().as_bytes(),
        closed_code(entry),
        text
    ])?;
    Ok(())
}
