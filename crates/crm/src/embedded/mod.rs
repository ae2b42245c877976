//! A complete small CRM in one SQLite file.
//!
//! Tables and columns have Dataverse's names, so a person can look with any SQLite tool: `SELECT subject, statuscode,
//! datetime(createdon / 1000, 'unixepoch') FROM email`. Times are milliseconds since 1970 in UTC, ids are lower-case text.
//!
//! - Everything that writes goes through one writer with group commit: what answers `Ok` is on disk (`synchronous=FULL`), and
//!   requests that arrive while the disk works share the next transaction.
//! - Reading takes place on other connections and waits for nobody.
//! - Several programs may have the file open at once (two routers, or `email-router crm` beside a running router).
//! - What administers the records is in [`admin`]: [`EmbeddedCrm::admin`].
//!
//! Calls need a tokio runtime, since SQLite works on its blocking pool.

pub mod admin;
mod client;
mod delivery;
mod error;
mod hashes;
mod incoming;
mod lookup;
mod outgoing;
mod readers;
mod schema;
mod settings;
mod sql;
mod tables;
mod unresolved;
mod writer;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use email_router_model::{Clock, Entropy, OrganizationId};
use rusqlite::Connection;

use self::error::{DbError, DbResult};
use self::readers::Readers;
use self::writer::{Done, Writer};
use crate::Result;

pub use self::delivery::RecipientState;

/// One organization in one file. Cloning is cheap; clones share the file.
#[derive(Clone)]
pub struct EmbeddedCrm {
    file: PathBuf,
    organization: OrganizationId,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    writer: Arc<Writer>,
    readers: Arc<Readers>,
    look: bool,
}

impl EmbeddedCrm {
    /// Opens the file, or creates it (readable for its owner only) with an empty organization. The folder must exist. An older
    /// file is brought to the newest version; its e-mails get the hashes of smart matching then, as far back as smart matching looks, 1000 in a
    /// transaction. When that is interrupted, the next opening goes on with it.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::ErrorKind::Damaged) when the file is damaged, belongs to another program or was written by
    /// a newer version; [`ErrorKind::Storage`](crate::ErrorKind::Storage) when it cannot be created, read or written;
    /// [`ErrorKind::Busy`](crate::ErrorKind::Busy) when another program keeps it locked for 10 seconds.
    pub fn open(path: impl AsRef<Path>, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Result<Self> {
        let file = path.as_ref().to_path_buf();
        let made = (|| -> DbResult<_> {
            let mut conn = schema::connect_writer(&file)?;
            let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            settings::ensure_organization_id(&tx, sql::random_id(&*entropy))?;
            let id = settings::organization_id(&tx)?;
            if tables::custom_tables(&tx)?.is_empty() {
                tables::create_custom(&tx, tables::FIRST_CUSTOM)?;
            }
            tx.commit()?;
            while hashes::catch_up(&mut conn, clock.now())? {}
            Ok((conn, id))
        })();
        let (conn, id) = made.map_err(|e: DbError| e.at(&file))?;
        Ok(Self {
            organization: OrganizationId::from_uuid(id),
            clock,
            entropy,
            writer: Arc::new(Writer::new(file.clone(), conn)),
            readers: Arc::new(Readers::new(file.clone(), schema::connect_reader)),
            file,
            look: false,
        })
    }

    /// Opens a file that is there for looking only: nothing is created and no record can be changed. Where this program may not write
    /// the file or its folder, it is read as it lies, which holds as long as nobody begins to write it.
    ///
    /// # Errors
    /// As [`open`](Self::open), and [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) when the file is not there,
    /// [`ErrorKind::Damaged`](crate::ErrorKind::Damaged) when an older program wrote it. Every later attempt to write ends in
    /// [`ErrorKind::Storage`](crate::ErrorKind::Storage).
    pub fn open_to_look(
        path: impl AsRef<Path>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self> {
        let file = path.as_ref().to_path_buf();
        let opened =
            schema::connect_to_look(&file).and_then(|conn| Ok((settings::organization_id(&conn)?, conn)));
        let (id, conn) = opened.map_err(|e: DbError| e.at(&file))?;
        Ok(Self {
            organization: OrganizationId::from_uuid(id),
            clock,
            entropy,
            // a connection that refuses to write answers whoever tries
            writer: Arc::new(Writer::new(file.clone(), conn)),
            readers: Arc::new(Readers::new(file.clone(), schema::connect_to_look)),
            file,
            look: true,
        })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// Waits until everything asked for so far is done and moves it from the write-ahead log into the file itself, as well as
    /// other programs that have the file open allow. Dropping the last clone does the same as far as it can; nothing that
    /// answered `Ok` is ever lost without it.
    ///
    /// # Errors
    /// As any write.
    pub async fn close(self) -> Result<()> {
        if self.look {
            return Ok(()); // nothing was written, and dropping the connections is all there is to do
        }
        // an empty request: when it is done, so is everything before it
        self.write(|_| Ok(())).await?;
        self.readers.close();
        let (writer, file) = (Arc::clone(&self.writer), self.file.clone());
        let job = tokio::task::spawn_blocking(move || {
            // answers (busy, pages, moved); busy only means that another program reads, and its close does the rest
            writer.connection().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        });
        match job.await {
            Ok(done) => done.map_err(|e| DbError::from(e).at(&file)),
            Err(_) => Ok(()), // the runtime shuts down: dropping the connection does it
        }
    }

    async fn read<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> DbResult<T> + Send + 'static,
    {
        self.readers.read(work).await
    }

    async fn write<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> DbResult<T> + Send + 'static,
    {
        self.writer.write(4096, move |conn| work(conn).map(Done::Commit)).await
    }
}

impl fmt::Debug for EmbeddedCrm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedCrm").field("file", &self.file).finish_non_exhaustive()
    }
}

impl fmt::Display for EmbeddedCrm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "embedded CRM {}", self.file.display())
    }
}

#[cfg(test)]
mod tests;
