//! Connections that wait for the next request.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use crate::connect::Origin;
use crate::connection::Connection;
use crate::{Error, ErrorKind, HttpSettings, Login, Result, Scheme};

/// Which connections serve which requests: those of an origin, where a login proves the connection those of that login alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    origin: Origin,
    login: Option<(Scheme, String)>,
}

impl Key {
    pub(crate) fn new(origin: &Origin, bound: Option<&Login>) -> Self {
        let login = bound.map(|login| (login.scheme, login.credentials.user.clone()));
        Self { origin: origin.clone(), login }
    }
}

/// The connections of one key.
struct Slot {
    /// With the proof that they were opened with.
    login: Option<Login>,
    idle: Vec<Connection>,
    permits: Arc<Semaphore>,
}

/// All idle connections of a client.
pub(crate) struct Pool {
    slots: Mutex<Slots>,
    idle_timeout: Duration,
    most_idle: usize,
    most_of_a_login: usize,
}

#[derive(Default)]
struct Slots {
    by_key: HashMap<Key, Slot>,
    /// Somebody looks after those whose time is over.
    swept: bool,
}

/// The right to use one connection of a login.
pub(crate) type Permit = Option<OwnedSemaphorePermit>;

impl Pool {
    pub(crate) fn new(settings: &HttpSettings) -> Arc<Self> {
        Arc::new(Self {
            slots: Mutex::default(),
            idle_timeout: settings.idle_timeout,
            most_idle: settings.max_idle_connections,
            most_of_a_login: settings.max_connections_per_login.max(1),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        // nothing that holds the lock can leave it half done
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until this login may use one more connection.
    pub(crate) async fn permit(
        self: &Arc<Self>,
        key: &Key,
        login: &Login,
        patience: Duration,
    ) -> Result<Permit> {
        let permits = {
            let mut slots = self.lock();
            let slot = slots.by_key.entry(key.clone()).or_insert_with(|| self.slot(Some(login)));
            if slot.login.as_ref() != Some(login) {
                // another password: what the old one proved serves nobody any more
                *slot = self.slot(Some(login));
            }
            let permits = Arc::clone(&slot.permits);
            self.look_after(&mut slots);
            permits
        };
        match timeout(patience, permits.acquire_owned()).await {
            Ok(permit) => Ok(permit.ok()),
            Err(_) => Err(Error::new(
                ErrorKind::Timeout,
                format!(
                    "{}: all {} connections of this login are busy",
                    key.origin.place, self.most_of_a_login
                ),
            )),
        }
    }

    fn slot(&self, login: Option<&Login>) -> Slot {
        Slot {
            login: login.cloned(),
            idle: Vec::new(),
            permits: Arc::new(Semaphore::new(self.most_of_a_login)),
        }
    }

    /// An idle connection, the one that was used last.
    pub(crate) async fn take(&self, key: &Key, login: Option<&Login>) -> Option<Connection> {
        loop {
            let found = {
                let mut slots = self.lock();
                let slot = slots.by_key.get_mut(key)?;
                if slot.login.as_ref() != login {
                    return None;
                }
                slot.idle.pop()
            };
            let mut connection = found?;
            if connection.since.elapsed() < self.idle_timeout && connection.is_usable().await {
                return Some(connection);
            }
        }
    }

    /// Takes a connection back that has served its request.
    pub(crate) fn give_back(self: &Arc<Self>, key: &Key, login: Option<&Login>, mut connection: Connection) {
        connection.since = Instant::now();
        let mut slots = self.lock();
        let slot = slots.by_key.entry(key.clone()).or_insert_with(|| self.slot(login));
        if slot.login.as_ref() != login {
            return;
        }
        slot.idle.push(connection);
        // what was proven with some effort is kept: its number is limited anyway
        let most = if login.is_some() { self.most_of_a_login } else { self.most_idle };
        if slot.idle.len() > most {
            slot.idle.remove(0);
        }
        self.look_after(&mut slots);
    }

    /// Sees to it that somebody closes what is idle, and forgets the logins of slots that nobody uses.
    fn look_after(self: &Arc<Self>, slots: &mut Slots) {
        if !std::mem::replace(&mut slots.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(self), self.idle_timeout));
        }
    }

    /// Closes what was idle for too long and forgets the slots of which nothing is left; whether there are others.
    fn clean(&self) -> bool {
        let mut slots = self.lock();
        slots.by_key.retain(|_, slot| {
            slot.idle.retain(|connection| connection.since.elapsed() < self.idle_timeout);
            // a slot whose permits are out is in use
            !slot.idle.is_empty() || slot.permits.available_permits() < self.most_of_a_login
        });
        slots.swept = !slots.by_key.is_empty();
        slots.swept
    }
}

/// Closes idle connections also where no further request comes; ends with the last slot, or with the pool.
async fn sweep(pool: Weak<Pool>, every: Duration) {
    loop {
        tokio::time::sleep((every / 2).max(Duration::from_millis(100))).await;
        let Some(pool) = pool.upgrade() else { return };
        if !pool.clean() {
            return;
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slots = self.lock();
        let idle: usize = slots.by_key.values().map(|slot| slot.idle.len()).sum();
        f.debug_struct("Pool").field("slots", &slots.by_key.len()).field("idle", &idle).finish()
    }
}
