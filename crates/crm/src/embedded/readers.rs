//! A few reading connections. In WAL mode they never wait for the writer, and the writer never waits for them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::error::{DbError, DbResult};
use super::sql::run;
use crate::{Error, ErrorKind, Result};

/// Most reading connections of one client.
const MAX_READERS: usize = 4;

#[derive(Debug)]
pub(super) struct Readers {
    file: PathBuf,
    connect: fn(&Path) -> DbResult<Connection>,
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(file: PathBuf, connect: fn(&Path) -> DbResult<Connection>) -> Self {
        Self { file, connect, idle: Mutex::default(), permits: Arc::new(Semaphore::new(MAX_READERS)) }
    }

    /// Runs `work` on one consistent snapshot of everything committed so far.
    pub(super) async fn read<T, F>(self: &Arc<Self>, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> DbResult<T> + Send + 'static,
    {
        let stopped = || Error::new(ErrorKind::Busy, "the CRM was stopped before it finished the request");
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| stopped())?;
        let this = Arc::clone(self);
        let job = tokio::task::spawn_blocking(move || {
            let result = this.on_connection(work).map_err(|e| e.at(&this.file));
            drop(permit);
            result
        });
        job.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Closes what is idle.
    pub(super) fn close(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn on_connection<T>(&self, work: impl FnOnce(&Connection) -> DbResult<T>) -> DbResult<T> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let conn = match idle {
            Some(conn) => conn,
            None => (self.connect)(&self.file)?,
        };
        run(&conn, "BEGIN")?;
        let result = work(&conn);
        if let Err(error @ DbError::Sql(_)) = result {
            return Err(error); // and the connection is closed, not kept
        }
        run(&conn, "COMMIT")?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
        result
    }
}
