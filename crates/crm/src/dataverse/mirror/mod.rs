//! What is known of an organization, in one SQLite file, so that deciding about a message costs no request: addresses, the e-mails that can be answered, and
//! notes on e-mails that Dataverse has no columns for.
//!
//! All but the notes can be read anew from the organization at any time. What answered `Ok` is on disk (`synchronous=FULL`): a note must not be lost, and a
//! page of rows costs one transaction.

mod emails;
mod file;
mod notes;
mod records;
mod report;
pub(crate) mod sync;
#[cfg(test)]
mod sync_tests;
#[cfg(test)]
mod tests;

use std::collections::{HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use email_router_model::{Classified as _, Clock, Timestamp};
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior};
use tokio::sync::{Semaphore, oneshot};
use uuid::Uuid;

pub(crate) use self::emails::MirrorEmail;
pub(crate) use self::notes::Note;
pub(crate) use self::records::MirrorRecord;
pub use self::report::{MirrorDifference, MirrorSize, MirrorTable, MirrorVerification};
use crate::{Error, ErrorKind, Result};

/// Most callers whose writing shares a transaction.
const MOST_TOGETHER: usize = 256;
/// Most reading connections.
const MAX_READERS: usize = 4;
/// What the mirror says is verified when it could not ask for changes for so many periods.
const STALE_AFTER: u32 = 10;

/// The file. Cloning is cheap; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Mirror(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: PathBuf,
    clock: Arc<dyn Clock>,
    writer: Mutex<Connection>,
    waiting: Mutex<Jobs>,
    readers: Mutex<Vec<Connection>>,
    reading: Arc<Semaphore>,
    /// Tables that the organization does not let us read, so that each is told once.
    forbidden: Mutex<HashSet<String>>,
}

/// Work that waits for a turn to write: does it, or hears why that cannot be; gives whether it is to be kept, and whom to tell.
type Job = Box<dyn FnOnce(Result<&Connection>) -> (bool, Tell) + Send>;
/// Tells a caller that what it wrote is durable, or why it is not.
type Tell = Box<dyn FnOnce(Option<Error>) + Send>;

#[derive(Default)]
struct Jobs(VecDeque<Job>);

impl std::fmt::Debug for Jobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} waiting", self.0.len())
    }
}

impl Mirror {
    /// Opens the file, or makes it, readable for its owner only.
    ///
    /// # Errors
    /// The file is damaged, of a newer version, or cannot be written.
    pub(crate) async fn open(file: &Path, clock: Arc<dyn Clock>) -> Result<Self> {
        let path = file.to_path_buf();
        blocking(move || {
            let writer = file::connect_to_write(&path).map_err(|cause| file::explain(&path, cause))?;
            Ok(Self(Arc::new(Inner {
                file: path,
                clock,
                writer: Mutex::new(writer),
                waiting: Mutex::default(),
                readers: Mutex::default(),
                reading: Arc::new(Semaphore::new(MAX_READERS)),
                forbidden: Mutex::default(),
            })))
        })
        .await
    }

    /// Makes it the mirror of this organization; `true` when it was empty or another one's, of which nothing is kept.
    pub(crate) async fn bind(&self, organization: Uuid) -> Result<bool> {
        self.write(move |tx| {
            let id = organization.to_string();
            if file::value(tx, "organization")?.as_deref() == Some(&id) {
                return Ok(false);
            }
            file::empty(tx)?;
            tx.execute_batch("DELETE FROM note; DELETE FROM counter;")?;
            file::set_value(tx, "organization", &id)?;
            Ok(true)
        })
        .await
    }

    /// The next reading of changes reads everything anew, and what it does not come across is forgotten then. Until it has ended the old rows answer:
    /// an empty mirror would say of every sender that nobody knows him.
    pub(crate) async fn rebuild(&self) -> Result<()> {
        self.write(|tx| {
            tx.execute_batch(
                "UPDATE source SET link = NULL, reading = NULL, resume = NULL, readon = NULL, since = NULL;
                 DELETE FROM meta WHERE name = 'emails';",
            )?;
            file::set_value(tx, "email-generation", &(file::email_generation(tx)? + 1).to_string())?;
            file::set_value(tx, "emails-read-anew", "1")
        })
        .await
    }

    /// Whether it could not ask for changes for long, so that what it says has to be verified.
    pub(crate) async fn stale(&self, now: Timestamp, period: Duration) -> bool {
        let read = self.read(|conn| file::value(conn, "synced")).await;
        let synced = read.ok().flatten().and_then(|text| text.parse::<Timestamp>().ok());
        let Some(synced) = synced else { return true };
        let patience = period.saturating_mul(STALE_AFTER).max(Duration::from_secs(60));
        now.duration_since(synced).try_into().is_ok_and(|age: Duration| age > patience)
    }

    /// When changes were read the last time.
    pub(crate) async fn synced_now(&self) -> Result<()> {
        let now = self.0.clock.now().to_string();
        self.write(move |tx| file::set_value(tx, "synced", &now)).await
    }

    async fn read<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let inner = Arc::clone(&self.0);
        let permit = Arc::clone(&inner.reading).acquire_owned().await.map_err(|_| stopped())?;
        blocking(move || {
            let idle = inner.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let done = idle.map_or_else(|| file::connect(&inner.file), Ok).and_then(|conn| {
                let result = work(&conn)?;
                inner.readers.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
                Ok(result)
            });
            drop(permit);
            done.map_err(|cause| file::explain(&inner.file, cause))
        })
        .await
    }

    /// Runs `work` in a transaction and answers when it is durable. All that wait while another transaction is made durable share the next one, since
    /// that is what costs: eight callers that deliver mail wait for one disk, not for eight.
    async fn write<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let inner = Arc::clone(&self.0);
        let (answer, answered) = oneshot::channel();
        let file = inner.file.clone();
        let job: Job = Box::new(move |conn| {
            let result = conn.and_then(|conn| work(conn).map_err(|cause| file::explain(&file, cause)));
            let kept = result.is_ok();
            let tell: Tell = Box::new(move |failed| {
                // its own error says more than that of the transaction; a caller that went away needs no answer
                let _ = answer.send(result.and_then(|value| failed.map_or(Ok(value), Err)));
            });
            (kept, tell)
        });
        inner.waiting.lock().unwrap_or_else(PoisonError::into_inner).0.push_back(job);
        // each brings a turn of its own: whose work another turn has done finds nothing to do
        tokio::task::spawn_blocking(move || inner.turn());
        answered.await.unwrap_or_else(|_| Err(stopped()))
    }
}

impl Inner {
    /// Writes what waits.
    fn turn(&self) {
        let mut conn = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let jobs: Vec<Job> = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let together = waiting.0.len().min(MOST_TOGETHER);
            waiting.0.drain(..together).collect()
        };
        if jobs.is_empty() {
            return;
        }
        let mut told = Vec::with_capacity(jobs.len());
        let failed = self.together(&mut conn, jobs, &mut told).err();
        for tell in told {
            tell(failed.as_ref().map(again));
        }
    }

    fn together(&self, conn: &mut Connection, jobs: Vec<Job>, told: &mut Vec<Tell>) -> Result<()> {
        let explain = |cause| file::explain(&self.file, cause);
        // another program (`email-router mirror`) may write, too
        let mut open = conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(explain);
        for job in jobs {
            let done = match &mut open {
                Ok(tx) => match tx.savepoint().map_err(explain) {
                    Ok(savepoint) => {
                        let (kept, tell) = job(Ok(&savepoint));
                        told.push(tell);
                        // what failed is taken back, and nothing else
                        if kept { savepoint.commit().map_err(explain) } else { Ok(()) }
                    }
                    Err(error) => {
                        told.push(job(Err(again(&error))).1);
                        Err(error)
                    }
                },
                Err(error) => {
                    told.push(job(Err(again(error))).1);
                    Ok(())
                }
            };
            if let Err(error) = done {
                open = Err(error);
            }
        }
        open?.commit().map_err(explain)
    }
}

/// The same error for another caller.
fn again(error: &Error) -> Error {
    let copy = Error::new(error.kind(), error.to_string());
    match error.hint() {
        Some(hint) => copy.with_hint(hint),
        None => copy,
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(stopped()))
}

fn stopped() -> Error {
    Error::new(ErrorKind::Busy, "the mirror was closed before it finished the request")
}
