//! Group commit: everybody who waits while one transaction is being made durable shares the next one.
//!
//! There is no thread of its own. Who finds no writer at work starts one on tokio's blocking pool; it serves until nobody
//! waits. So a batch is as large as the load makes it, and a paused test clock stands still while a request is under way.
//!
//! Callers that were just answered tend to come back at once with their next request, but a little later than the writer. After a
//! batch of several it therefore waits a moment (less than a transaction takes) for about as many; without that, every second
//! transaction would hold only the first of them. A caller that is alone is never kept waiting.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::error::{DbError, DbResult};
use super::sql::run;
use crate::{Error, ErrorKind, Result};

/// Most requests in one transaction.
const MAX_BATCH: usize = 256;
/// Most bytes of bodies and attachments in one transaction, so that the write-ahead log stays small.
const MAX_BATCH_BYTES: usize = 32 << 20;

/// For each request of the last batch so long a wait for its callers to come back: a fifth of what writing a small message costs.
const COMPANY: Duration = Duration::from_micros(20);
/// The longest such wait.
const COMPANY_MOST: Duration = Duration::from_millis(2);
/// Smaller batches wait for nobody.
const COMPANY_FROM: usize = 4;

/// What a request wants to become of what it wrote.
pub(super) enum Done<T> {
    /// Keep it.
    Commit(T),
    /// Take it back (dry run); the answer is given all the same.
    Rollback(T),
}

#[derive(Debug)]
pub(super) struct Writer {
    file: PathBuf,
    queue: Mutex<Queue>,
    /// Told when as many wait as the writer hopes for.
    company: Condvar,
    connection: Mutex<Connection>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Box<dyn Request>>,
    working: bool,
    /// How many the writer hopes for before it begins.
    hoped: usize,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Queue({} waiting)", self.waiting.len())
    }
}

/// One waiting caller.
trait Request: Send {
    fn bytes(&self) -> usize;
    /// Does the work inside a transaction; `false` when what it wrote must be taken back.
    fn execute(&mut self, conn: &Connection) -> bool;
    /// Answers; `failed` says why the transaction as a whole came to nothing.
    fn answer(self: Box<Self>, failed: Option<Error>);
}

struct Job<T, F> {
    bytes: usize,
    file: PathBuf,
    work: Option<F>,
    result: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
}

impl<T, F> Request for Job<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> DbResult<Done<T>> + Send,
{
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn execute(&mut self, conn: &Connection) -> bool {
        let Some(work) = self.work.take() else { return false };
        let (keep, result) = match work(conn) {
            Ok(Done::Commit(value)) => (true, Ok(value)),
            Ok(Done::Rollback(value)) => (false, Ok(value)),
            Err(error) => (false, Err(error.at(&self.file))),
        };
        self.result = Some(result);
        keep
    }

    fn answer(self: Box<Self>, failed: Option<Error>) {
        let result = match (failed, self.result) {
            // its own error says more than that of the batch
            (_, Some(Err(error))) | (Some(error), _) => Err(error),
            (None, Some(Ok(value))) => Ok(value),
            (None, None) => Err(stopped()),
        };
        let _ = self.reply.send(result); // a caller that went away needs no answer
    }
}

impl Writer {
    pub(super) fn new(file: PathBuf, connection: Connection) -> Self {
        Self { file, queue: Mutex::default(), company: Condvar::new(), connection: Mutex::new(connection) }
    }

    /// Runs `work` in a transaction that other requests may share, and answers when it is durable. `bytes` is about how much it
    /// writes. When the caller stops waiting, the work is done all the same.
    pub(super) async fn write<T, F>(self: &Arc<Self>, bytes: usize, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> DbResult<Done<T>> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Job { bytes, file: self.file.clone(), work: Some(work), result: None, reply };
        let start = {
            let mut queue = lock(&self.queue);
            queue.waiting.push_back(Box::new(job));
            if queue.waiting.len() == queue.hoped {
                self.company.notify_one();
            }
            !std::mem::replace(&mut queue.working, true)
        };
        if start {
            let shift = Shift { writer: Arc::clone(self), finished: false };
            tokio::task::spawn_blocking(move || shift.serve());
        }
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// The writing connection, when no transaction is under way.
    pub(super) fn connection(&self) -> MutexGuard<'_, Connection> {
        lock(&self.connection)
    }

    /// How many wait and are not in a transaction yet.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        lock(&self.queue).waiting.len()
    }

    /// The next batch after one of `last` requests; `None`, and nobody works any more, when nobody waits.
    fn next_batch(&self, last: usize) -> Option<Vec<Box<dyn Request>>> {
        let mut queue = lock(&self.queue);
        if last >= COMPANY_FROM {
            queue.hoped = last - last / 8;
            let most = COMPANY.saturating_mul(u32::try_from(last).unwrap_or(u32::MAX)).min(COMPANY_MOST);
            let waited = self.company.wait_timeout_while(queue, most, |q| q.waiting.len() < q.hoped);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
            queue.hoped = 0;
        }
        let mut batch = Vec::new();
        let mut bytes = 0_usize;
        while batch.len() < MAX_BATCH && (batch.is_empty() || bytes < MAX_BATCH_BYTES) {
            let Some(request) = queue.waiting.pop_front() else { break };
            bytes = bytes.saturating_add(request.bytes());
            batch.push(request);
        }
        queue.working = !batch.is_empty();
        queue.working.then_some(batch)
    }

    fn commit(&self, conn: &Connection, batch: &mut [Box<dyn Request>]) -> DbResult<()> {
        if !conn.is_autocommit() {
            run(conn, "ROLLBACK")?; // a request panicked in the middle of its work
        }
        run(conn, "BEGIN IMMEDIATE")?;
        let alone = batch.len() == 1;
        for request in batch {
            if !alone {
                run(conn, "SAVEPOINT request")?;
            }
            let keep = request.execute(conn);
            if conn.is_autocommit() {
                // SQLite itself took everything back (disk full, I/O error): nobody's work is there
                return Err(Error::new(
                    ErrorKind::Storage,
                    format!("the CRM file {} could not take a transaction", self.file.display()),
                )
                .with_hint("check the free space and the health of the disk; nothing was written")
                .into());
            }
            match (keep, alone) {
                (true, true) => {}
                (false, true) => return run(conn, "ROLLBACK"),
                (keep, false) => {
                    if !keep {
                        run(conn, "ROLLBACK TO request")?;
                    }
                    run(conn, "RELEASE request")?;
                }
            }
        }
        run(conn, "COMMIT")
    }
}

/// The turn of one writer. However it ends, the next request can start another.
struct Shift {
    writer: Arc<Writer>,
    finished: bool,
}

impl Shift {
    fn serve(mut self) {
        let writer = Arc::clone(&self.writer);
        let conn = writer.connection();
        let mut last = 0;
        while let Some(mut batch) = writer.next_batch(last) {
            last = batch.len();
            // a request that panics must not take those with it that come after it: its caller may ask again before this unwinds
            let work = AssertUnwindSafe(|| writer.commit(&conn, &mut batch));
            let Ok(outcome) = catch_unwind(work) else { continue };
            if outcome.is_err() && !conn.is_autocommit() {
                // when even this fails, the next batch tries again before it begins
                let _ = run(&conn, "ROLLBACK");
            }
            tracing::trace!(requests = batch.len(), ok = outcome.is_ok(), "CRM transaction");
            let failed = outcome.err().map(|e: DbError| e.at(&writer.file));
            for request in batch {
                request.answer(failed.as_ref().map(again));
            }
        }
        self.finished = true;
    }
}

impl Drop for Shift {
    fn drop(&mut self) {
        if !self.finished {
            // cut short by a runtime that shuts down: the callers hear it when their requests are dropped
            let mut queue = lock(&self.writer.queue);
            queue.working = false;
            let orphans = std::mem::take(&mut queue.waiting);
            drop(queue);
            drop(orphans);
        }
    }
}

/// The same error for another caller.
fn again(error: &Error) -> Error {
    use email_router_model::Classified as _;
    let copy =
        Error::new(error.kind(), error.to_string()).with_retry(error.retry()).with_scope(error.scope());
    match error.hint() {
        Some(hint) => copy.with_hint(hint),
        None => copy,
    }
}

fn stopped() -> Error {
    Error::new(ErrorKind::Busy, "the CRM was stopped before it finished the request")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
