//! The one thread that writes: it gathers the requests that wait into one transaction.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use email_router_engine::StateError;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::error::{Problem, stopped, store_error};

/// Requests that wait beyond this make their callers wait.
const QUEUE: usize = 1024;
/// At most this many requests share a transaction, so that the first of them does not wait for ever.
const BATCH: usize = 256;

/// What a write must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Durability {
    /// The death of the process.
    Process,
    /// Loss of power.
    Disk,
}

/// Answers a request after the commit, or with the reason why there was none.
type Reply = Box<dyn FnOnce(Result<(), StateError>) + Send>;
/// Does the change, or only takes note of why it cannot be done; `false` when it failed and has to be undone.
type Change = Box<dyn FnOnce(Result<&Connection, StateError>, &Path) -> (bool, Reply) + Send>;

struct Request {
    durability: Durability,
    change: Change,
}

/// The handle on the thread; dropping it waits for the writes already asked for.
pub(super) struct Writer {
    path: Arc<PathBuf>,
    requests: Option<mpsc::Sender<Request>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(path: Arc<PathBuf>, connection: Connection) -> Result<Self, StateError> {
        let (requests, queue) = mpsc::channel(QUEUE);
        let place = Arc::clone(&path);
        let thread = std::thread::Builder::new()
            .name("state-writer".to_owned())
            .spawn(move || work(&place, &connection, queue))
            .map_err(|error| StateError {
                message: format!(
                    "no thread can be started to write the state file {}: {error}",
                    path.display()
                ),
                transient: true,
                source: Some(Box::new(error)),
            })?;
        Ok(Self { path, requests: Some(requests), thread: Some(thread) })
    }

    pub(super) async fn write<T: Send + 'static>(
        &self,
        durability: Durability,
        change: impl FnOnce(&Connection) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, StateError> {
        let (answer, answered) = oneshot::channel();
        let change: Change = Box::new(move |connection, path| {
            let result = connection.and_then(|c| change(c).map_err(|problem| problem.into_state(path)));
            let good = result.is_ok();
            let reply: Reply = Box::new(move |committed| {
                // a caller that went away needs no answer; what it asked for is done all the same
                let _ = answer.send(result.and_then(|value| committed.map(|()| value)));
            });
            (good, reply)
        });
        let Some(requests) = &self.requests else { return Err(stopped(&self.path)) };
        if requests.send(Request { durability, change }).await.is_err() {
            return Err(stopped(&self.path));
        }
        answered.await.unwrap_or_else(|_| Err(stopped(&self.path)))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.requests.take()); // the thread ends when the queue is empty and closed
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it only fails when the thread panicked, which its callers were told
        }
    }
}

fn work(path: &Path, connection: &Connection, mut queue: mpsc::Receiver<Request>) {
    let mut flushing = None;
    while let Some(first) = queue.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH
            && let Ok(next) = queue.try_recv()
        {
            batch.push(next);
        }
        let durability = batch.iter().map(|r| r.durability).max().unwrap_or(Durability::Disk);
        write_batch(path, connection, durability, &mut flushing, batch);
    }
    // Fold the log into the file, so that what is left behind is one complete file. Where a reader of another process is in
    // the way, SQLite does it at the next opening.
    if let Err(error) = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
        tracing::warn!(file = %path.display(), %error, "the state file's log could not be folded in; this is done at the next start");
    }
}

fn write_batch(
    path: &Path,
    connection: &Connection,
    durability: Durability,
    flushing: &mut Option<Durability>,
    batch: Vec<Request>,
) {
    let begun = set_flushing(connection, durability, flushing)
        .and_then(|()| connection.execute_batch("BEGIN IMMEDIATE"));
    if let Err(error) = begun {
        let error = store_error(path, error);
        for request in batch {
            let (_, reply) = (request.change)(Err(copy(&error)), path);
            reply(Ok(()));
        }
        return;
    }
    let replies: Vec<Reply> = batch.into_iter().map(|r| in_savepoint(path, connection, r.change)).collect();
    match connection.execute_batch("COMMIT") {
        Ok(()) => replies.into_iter().for_each(|reply| reply(Ok(()))),
        Err(error) => {
            let _ = connection.execute_batch("ROLLBACK"); // fails where SQLite has rolled back itself
            let error = store_error(path, error);
            replies.into_iter().for_each(|reply| reply(Err(copy(&error))));
        }
    }
}

/// `PRAGMA synchronous` cannot change inside a transaction, so it is set before, when it is not already right.
fn set_flushing(
    connection: &Connection,
    durability: Durability,
    flushing: &mut Option<Durability>,
) -> rusqlite::Result<()> {
    if *flushing != Some(durability) {
        connection.execute_batch(match durability {
            Durability::Disk => "PRAGMA synchronous = FULL",
            Durability::Process => "PRAGMA synchronous = NORMAL",
        })?;
        *flushing = Some(durability);
    }
    Ok(())
}

/// Runs one change so that its failure undoes it alone.
fn in_savepoint(path: &Path, connection: &Connection, change: Change) -> Reply {
    // Some failures (a full disk) make SQLite roll back the whole transaction by itself. What came after would then be written
    // outside of it, so it is refused; COMMIT fails, and everybody is told.
    let ready = if connection.is_autocommit() {
        Err(StateError {
            message: format!("the state file {}: an earlier write of the same moment failed", path.display()),
            transient: true,
            source: None,
        })
    } else {
        connection.execute_batch("SAVEPOINT request").map_err(|error| store_error(path, error))
    };
    if let Err(error) = ready {
        return change(Err(error), path).1;
    }
    let (good, reply) = change(Ok(connection), path);
    let end = if good { "RELEASE request" } else { "ROLLBACK TO request; RELEASE request" };
    match connection.execute_batch(end) {
        Err(error) if good => {
            let error = store_error(path, error);
            Box::new(move |_| reply(Err(error)))
        }
        // what failed has its own reason to tell
        _ => reply,
    }
}

/// The same error for another caller.
fn copy(error: &StateError) -> StateError {
    StateError { message: error.message.clone(), transient: error.transient, source: None }
}

#[cfg(test)]
mod tests {
    use super::super::schema;
    use super::*;

    /// A write that must survive the loss of power is flushed (`PRAGMA synchronous` 2), others are not (1), whatever came before.
    #[tokio::test]
    async fn flushes_what_is_promised() {
        let dir = tempfile::tempdir().unwrap();
        let path = Arc::new(dir.path().join("state.db"));
        schema::create_file(&path).unwrap();
        let writer = Writer::start(Arc::clone(&path), schema::connect(&path).unwrap()).unwrap();
        for (durability, expected) in
            [(Durability::Process, 1), (Durability::Disk, 2), (Durability::Disk, 2), (Durability::Process, 1)]
        {
            let level: i64 = writer
                .write(durability, |c| Ok(c.query_row("PRAGMA synchronous", [], |row| row.get(0))?))
                .await
                .unwrap();
            assert_eq!(level, expected, "{durability:?}");
        }
    }

    /// A change that fails half-way leaves nothing behind, and its neighbours of the same transaction stay.
    #[tokio::test]
    async fn a_failure_undoes_itself_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = Arc::new(dir.path().join("state.db"));
        schema::create_file(&path).unwrap();
        let connection = schema::connect(&path).unwrap();
        connection.execute_batch("CREATE TABLE t (x)").unwrap();
        let writer = Arc::new(Writer::start(Arc::clone(&path), connection).unwrap());
        let tasks: Vec<_> = (0..40_i64)
            .map(|n| {
                let writer = Arc::clone(&writer);
                tokio::spawn(async move {
                    let change = move |c: &Connection| {
                        c.execute("INSERT INTO t VALUES (?1)", [n])?;
                        if n % 2 == 0 { Ok(()) } else { Err(Problem::Content("deliberate".to_owned())) }
                    };
                    writer.write(Durability::Process, change).await.is_ok()
                })
            })
            .collect();
        for (n, task) in tasks.into_iter().enumerate() {
            assert_eq!(task.await.unwrap(), n % 2 == 0);
        }
        let (rows, odd): (i64, i64) = writer
            .write(Durability::Process, |c| {
                Ok(c.query_row("SELECT count(*), sum(x % 2) FROM t", [], |r| Ok((r.get(0)?, r.get(1)?)))?)
            })
            .await
            .unwrap();
        assert_eq!((rows, odd), (20, 0));
    }

    /// Requests that wait share a transaction; one that must be flushed has all of it flushed.
    #[tokio::test]
    async fn what_waits_goes_together() {
        let dir = tempfile::tempdir().unwrap();
        let path = Arc::new(dir.path().join("state.db"));
        schema::create_file(&path).unwrap();
        let writer = Arc::new(Writer::start(Arc::clone(&path), schema::connect(&path).unwrap()).unwrap());
        let (go, gate) = std::sync::mpsc::channel::<()>();
        let (holds, held) = oneshot::channel();
        let blocker = Arc::clone(&writer);
        let first = tokio::spawn(async move {
            blocker
                .write(Durability::Process, move |_| {
                    let _ = holds.send(());
                    let _ = gate.recv();
                    Ok(())
                })
                .await
        });
        held.await.unwrap();
        let mut waiting = Vec::new();
        for n in 0..20 {
            let writer = Arc::clone(&writer);
            let durability = if n == 7 { Durability::Disk } else { Durability::Process };
            waiting.push(tokio::spawn(async move {
                writer
                    .write(durability, |c| {
                        c.execute_batch("CREATE TEMP TABLE IF NOT EXISTS together (x)")?;
                        Ok(c.query_row("PRAGMA synchronous", [], |row| row.get::<_, i64>(0))?)
                    })
                    .await
            }));
        }
        // the queue fills while the writer is held; only then may it go on
        while writer.requests.as_ref().unwrap().capacity() > QUEUE - 20 {
            tokio::task::yield_now().await;
        }
        go.send(()).unwrap();
        first.await.unwrap().unwrap();
        for task in waiting {
            assert_eq!(task.await.unwrap().unwrap(), 2, "the whole batch is flushed");
        }
    }
}
