//! Connections kept for the next message: bounded for each login, closed when idle, never reused when anything is unsure.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use email_router_auth::Credentials;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::client::Connection;
use super::settings::{PoolSettings, SmtpSettings};

/// The idle connections of one transport.
pub(super) struct Pool {
    settings: PoolSettings,
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    /// By login name; anonymous has none.
    by_login: HashMap<Option<String>, Slot>,
    /// A task is waiting to close what is idle for too long.
    reaping: bool,
}

struct Slot {
    permits: Arc<Semaphore>,
    /// The one used last comes last.
    idle: Vec<Idle>,
}

struct Idle {
    connection: Connection,
    /// With which it was opened: a changed password opens a new connection.
    credentials: Option<Credentials>,
    since: Instant,
}

/// The right to have one connection, and the connection once there is one. Dropping it closes the connection; [`Lease::give_back`]
/// keeps it.
pub(super) struct Lease {
    /// `None` only before [`Lease::put`].
    connection: Option<Connection>,
    credentials: Option<Credentials>,
    reused: bool,
    pool: Arc<Pool>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Pool {
    pub(super) fn new(settings: PoolSettings) -> Arc<Self> {
        Arc::new(Self { settings, slots: Mutex::new(Slots::default()) })
    }

    /// Waits until one more connection may be open for this login; gives an idle one where there is one and `fresh` does not
    /// forbid it.
    pub(super) async fn lease(self: &Arc<Self>, credentials: Option<Credentials>, fresh: bool) -> Lease {
        let login = credentials.as_ref().map(|c| c.user.clone());
        let permits = {
            let mut slots = self.lock();
            let slot = slots.by_login.entry(login.clone()).or_insert_with(|| Slot {
                permits: Arc::new(Semaphore::new(self.settings.max_connections)),
                idle: Vec::new(),
            });
            Arc::clone(&slot.permits)
        };
        // the semaphore is never closed, so this does not fail
        let permit = permits.acquire_owned().await.ok();
        let mut lease =
            Lease { connection: None, credentials, reused: false, pool: Arc::clone(self), _permit: permit };
        loop {
            // a separate statement: the lock is not held while the connection is looked at
            let idle = self.lock().by_login.get_mut(&login).and_then(|slot| slot.idle.pop());
            let Some(mut idle) = idle else { return lease };
            // all older ones are dropped on the way to a fresh one: they are in no better state
            let usable = !fresh
                && idle.credentials == lease.credentials
                && idle.since.elapsed() < self.settings.idle_timeout;
            if usable && idle.connection.is_quiet().await {
                lease.connection = Some(idle.connection);
                lease.reused = true;
                return lease;
            }
        }
    }

    /// Takes all idle connections out.
    pub(super) fn drain(&self) -> Vec<Connection> {
        let mut slots = self.lock();
        slots.by_login.values_mut().flat_map(|slot| slot.idle.drain(..)).map(|idle| idle.connection).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(self: &Arc<Self>, connection: Connection, credentials: Option<Credentials>) {
        let login = credentials.as_ref().map(|c| c.user.clone());
        let mut slots = self.lock();
        if let Some(slot) = slots.by_login.get_mut(&login) {
            slot.idle.push(Idle { connection, credentials, since: Instant::now() });
        }
        if !slots.reaping {
            slots.reaping = true;
            tokio::spawn(reap(Arc::downgrade(self), self.settings.idle_timeout));
        }
    }

    /// Takes out what is idle for too long, and forgets logins nobody uses. `None` when nothing is idle any more; else when to come again.
    fn expire(&self) -> (Vec<Connection>, Option<Instant>) {
        let mut slots = self.lock();
        let (mut expired, mut next) = (Vec::new(), None::<Instant>);
        for slot in slots.by_login.values_mut() {
            let keep = slot.idle.partition_point(|idle| idle.since.elapsed() >= self.settings.idle_timeout);
            expired.extend(slot.idle.drain(..keep).map(|idle| idle.connection));
            if let Some(first) = slot.idle.first() {
                let at = first.since + self.settings.idle_timeout;
                next = Some(next.map_or(at, |n| n.min(at)));
            }
        }
        slots.by_login.retain(|_, slot| !slot.idle.is_empty() || Arc::strong_count(&slot.permits) > 1);
        slots.reaping = next.is_some();
        (expired, next)
    }
}

/// Closes idle connections in time, so that neither side keeps them for nothing. Ends with the last of them, or with the pool.
async fn reap(pool: Weak<Pool>, idle_timeout: Duration) {
    let mut next = Some(Instant::now() + idle_timeout);
    while let Some(at) = next {
        tokio::time::sleep_until(at).await;
        let Some(pool) = pool.upgrade() else { return };
        let (expired, later) = pool.expire();
        drop(pool);
        for connection in expired {
            connection.quit().await;
        }
        next = later;
    }
}

impl Lease {
    /// The connection; `None` when a new one has to be opened.
    pub(super) fn connection(&mut self) -> Option<&mut Connection> {
        self.connection.as_mut()
    }

    /// Puts a new connection under this lease.
    pub(super) fn put(&mut self, connection: Connection) -> &mut Connection {
        self.reused = false;
        self.connection.insert(connection)
    }

    /// Whether the connection had been idle.
    pub(super) fn reused(&self) -> bool {
        self.reused
    }

    /// Says goodbye.
    pub(super) async fn close(mut self) {
        if let Some(connection) = self.connection.take() {
            connection.quit().await;
        }
    }

    /// Takes back what was begun; the connection is kept when the server confirms that.
    pub(super) async fn reset(mut self, settings: Arc<SmtpSettings>) {
        let Some(connection) = self.connection.as_mut() else { return };
        if connection.reset(&settings).await.is_ok() {
            self.give_back();
        }
    }

    /// The connection stands between two transactions: it may be used again, if it is not worn out.
    pub(super) fn give_back(mut self) {
        let Some(connection) = self.connection.take() else { return };
        let settings = &self.pool.settings;
        if connection.transactions < settings.max_messages && !settings.idle_timeout.is_zero() {
            self.pool.keep(connection, self.credentials.take());
        } else {
            tokio::spawn(connection.quit());
        }
    }
}
