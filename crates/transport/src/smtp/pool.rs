//! Connections kept for the next message: bounded for the server, closed when idle, never reused when anything is unsure.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use email_router_auth::Credentials;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::client::Connection;
use super::settings::{PoolSettings, SmtpSettings};

/// The connections of one transport.
pub(super) struct Pool {
    settings: PoolSettings,
    permits: Arc<Semaphore>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    /// Of all logins; the one used last comes last.
    idle: Vec<Idle>,
    /// Leases, each of which may have a connection.
    leased: usize,
    /// A task is waiting to close what is idle for too long.
    reaping: bool,
}

struct Idle {
    connection: Connection,
    /// With which it was opened: a changed password opens a new connection, a renewed token does not.
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
    // in this order: whoever is given the permit finds the lease no longer counted
    counted: Counted,
    _permit: Option<OwnedSemaphorePermit>,
}

/// Counts a lease until dropped.
struct Counted(Arc<Pool>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.lock().leased -= 1;
    }
}

impl Pool {
    pub(super) fn new(settings: PoolSettings) -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(settings.max_connections.min(Semaphore::MAX_PERMITS)));
        Arc::new(Self { settings, permits, open: Mutex::default() })
    }

    /// Waits until one more connection may be open; gives an idle one of this login where there is one and `fresh` does not forbid it,
    /// else makes room by closing the one of another login that is idle for longest.
    pub(super) async fn lease(self: &Arc<Self>, credentials: Option<Credentials>, fresh: bool) -> Lease {
        // the semaphore is never closed, so this does not fail
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        self.lock().leased += 1;
        let counted = Counted(Arc::clone(self));
        let mut lease = Lease { connection: None, credentials, reused: false, counted, _permit: permit };
        loop {
            // a separate statement: the lock is not held while the connection is looked at
            let idle = self.lock().of_login(lease.credentials.as_ref());
            let Some(mut idle) = idle else { break };
            // all older ones are dropped on the way to a fresh one: they are in no better state
            let usable = !fresh
                && same_login(idle.credentials.as_ref(), lease.credentials.as_ref())
                && idle.since.elapsed() < self.settings.idle_timeout;
            if usable && idle.connection.is_quiet().await {
                lease.connection = Some(idle.connection);
                lease.reused = true;
                return lease;
            }
        }
        loop {
            let idle = self.lock().in_the_way(self.settings.max_connections);
            match idle {
                Some(idle) => idle.connection.quit().await,
                None => return lease,
            }
        }
    }

    /// Takes all idle connections out.
    pub(super) fn drain(&self) -> Vec<Connection> {
        self.lock().idle.drain(..).map(|idle| idle.connection).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(self: &Arc<Self>, connection: Connection, credentials: Option<Credentials>) {
        let mut open = self.lock();
        open.idle.push(Idle { connection, credentials, since: Instant::now() });
        if !open.reaping {
            open.reaping = true;
            tokio::spawn(reap(Arc::downgrade(self), self.settings.idle_timeout));
        }
    }

    /// Takes out what is idle for too long. `None` when nothing is idle any more; else when to come again.
    fn expire(&self) -> (Vec<Connection>, Option<Instant>) {
        let mut open = self.lock();
        let expired = open.idle.partition_point(|idle| idle.since.elapsed() >= self.settings.idle_timeout);
        let expired = open.idle.drain(..expired).map(|idle| idle.connection).collect();
        let next = open.idle.first().map(|first| first.since + self.settings.idle_timeout);
        open.reaping = next.is_some();
        (expired, next)
    }
}

impl Open {
    /// The idle connection of this login that was used last.
    fn of_login(&mut self, credentials: Option<&Credentials>) -> Option<Idle> {
        let login = |credentials: Option<&Credentials>| credentials.map(|c| c.user.clone());
        let wanted = login(credentials);
        let found = self.idle.iter().rposition(|idle| login(idle.credentials.as_ref()) == wanted)?;
        Some(self.idle.remove(found))
    }

    /// The connection that is idle for longest, when with all leases there are more than allowed.
    fn in_the_way(&mut self, most: usize) -> Option<Idle> {
        (self.idle.len() + self.leased > most && !self.idle.is_empty()).then(|| self.idle.remove(0))
    }
}

/// Whether a connection that was opened with the one may be used with the other.
fn same_login(one: Option<&Credentials>, other: Option<&Credentials>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.opens_the_same_as(other),
        (None, None) => true,
        _ => false,
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

    /// Puts a new connection, opened with these credentials, under this lease.
    pub(super) fn put(
        &mut self,
        connection: Connection,
        credentials: Option<Credentials>,
    ) -> &mut Connection {
        self.reused = false;
        self.credentials = credentials;
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
        let pool = &self.counted.0;
        if connection.transactions < pool.settings.max_messages && !pool.settings.idle_timeout.is_zero() {
            pool.keep(connection, self.credentials.take());
        } else {
            // its place is free when the goodbye is said
            self.connection = Some(connection);
            tokio::spawn(self.close());
        }
    }
}
