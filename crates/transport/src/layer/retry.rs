//! Tries again what may be tried again, within a budget.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use email_router_model::{Classified, Entropy, Mailbox, MessageId, Retry};
use tokio::time::Instant;

use super::Operation;
use crate::contract::LONGEST_RETRY_DELAY;
use crate::{
    Access, Capability, Error, ErrorKind, Inbox, Outbound, Probe, Receipt, ReceiveOptions, Result,
    SubmitOptions, Transport,
};

/// How often and how patiently to try again.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct RetrySettings {
    /// Attempts in all, the first included; at least 1, which means: never again.
    pub max_attempts: u32,
    /// The wait before the second attempt; each further one is twice as long.
    pub first_delay: Duration,
    /// No wait of our own is longer than this.
    pub max_delay: Duration,
    /// All attempts and waits of one call together; no wait begins that would end after it.
    pub max_elapsed: Duration,
    /// How many retries all calls of this layer may spend together before successes earn new ones (10 successes earn one); keeps a dead
    /// server from being hammered by a thousand mailboxes.
    pub budget: u32,
}

impl Default for RetrySettings {
    /// 4 attempts, waits of about 1, 2 and 4 seconds, at most 30 seconds each and 2 minutes in all, 100 retries in the budget.
    fn default() -> Self {
        Self {
            max_attempts: 4,
            first_delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(30),
            max_elapsed: Duration::from_secs(120),
            budget: 100,
        }
    }
}

/// What is about to be tried again.
#[derive(Debug)]
#[non_exhaustive]
pub struct RetryEvent<'a> {
    /// The call.
    pub operation: Operation,
    /// For which mailbox.
    pub mailbox: &'a Mailbox,
    /// How many attempts were made so far.
    pub attempts: u32,
    /// How long until the next one.
    pub delay: Duration,
    /// Why the last one failed.
    pub error: &'a Error,
}

/// Hears of every retry before the wait; for logs, metrics and tests.
pub trait RetryObserver: Send + Sync + 'static {
    /// A call failed and is tried again after [`RetryEvent::delay`].
    fn retrying(&self, event: &RetryEvent<'_>);
}

/// Writes every retry to the log, at level *warn* from the third attempt on, else *info*.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogRetries;

impl RetryObserver for LogRetries {
    fn retrying(&self, event: &RetryEvent<'_>) {
        let (operation, attempts, error) = (event.operation, event.attempts, event.error);
        let (mailbox, delay) = (&event.mailbox.id, event.delay.as_secs_f64());
        if attempts >= 2 {
            tracing::warn!(%operation, %mailbox, attempts, delay, %error, "will try again");
        } else {
            tracing::info!(%operation, %mailbox, attempts, delay, %error, "will try again");
        }
    }
}

/// Tries calls again when their error says `Retry::Later`.
///
/// - Only what is safe: [`Transport::probe`], opening a session with [`Transport::receive`], [`Transport::find_submitted`], and a
///   [`Transport::submit`] that certainly took nothing. `Retry::InDoubt` is **never** repeated: it would send twice.
/// - Calls inside a session are not repeated: after a fault the session is over, and only the caller knows what it had done.
/// - The wait grows exponentially and is jittered over its upper half. A delay the server named is kept, never shortened; where
///   it does not fit into [`RetrySettings::max_elapsed`] the error is handed up as it is, with the delay, and the
///   caller schedules it.
/// - When attempts, time or budget are used up the last error is handed up with `Retry::Exhausted`, which tells the attempts.
/// - Dropping the call stops the retries.
/// - Ordering: *outside* of timeout and limit. Inside a timeout the deadline would cover all attempts; inside a limit a
///   waiting call would hold its permit. Two retry layers around each other multiply their attempts; use one.
pub struct Retrying<T> {
    inner: T,
    settings: RetrySettings,
    entropy: Arc<dyn Entropy>,
    observer: Arc<dyn RetryObserver>,
    /// Tenths of a retry.
    budget: Mutex<u64>,
}

impl<T: Transport> Retrying<T> {
    /// `inner` with retries, which go to the log.
    pub fn new(inner: T, settings: RetrySettings, entropy: Arc<dyn Entropy>) -> Self {
        let budget = Mutex::new(u64::from(settings.budget) * 10);
        Self { inner, settings, entropy, observer: Arc::new(LogRetries), budget }
    }

    /// The same with another observer.
    #[must_use]
    pub fn with_observer(mut self, observer: Arc<dyn RetryObserver>) -> Self {
        self.observer = observer;
        self
    }

    /// Waits before the next attempt, or hands the error up when there is none.
    async fn again(&self, call: &mut Call<'_>, error: Error) -> Result<()> {
        call.attempts += 1;
        let attempts = call.attempts;
        let Retry::Later(asked) = error.retry() else { return Err(error) };
        if error.kind() == ErrorKind::Cancelled {
            return Err(error);
        }
        let delay = self.delay(attempts, asked);
        let left = self.settings.max_elapsed.saturating_sub(call.begun.elapsed());
        if attempts >= self.settings.max_attempts || delay > left || !self.spend() {
            // a delay the server named is worth more to a scheduler than the count of attempts
            let used_up = if asked.is_some() { error.retry() } else { Retry::Exhausted { attempts } };
            return Err(error.with_retry(used_up));
        }
        let (operation, mailbox) = (call.operation, call.mailbox);
        self.observer.retrying(&RetryEvent { operation, mailbox, attempts, delay, error: &error });
        tokio::time::sleep(delay).await;
        Ok(())
    }

    /// The wait after so many attempts.
    fn delay(&self, attempts: u32, asked: Option<Duration>) -> Duration {
        let doublings = attempts.saturating_sub(1).min(31);
        let grown = self.settings.first_delay.saturating_mul(1 << doublings).min(self.settings.max_delay);
        let jittered = grown.mul_f64(0.5 + self.entropy.fraction() / 2.0);
        jittered.max(asked.unwrap_or_default()).min(LONGEST_RETRY_DELAY)
    }

    fn spend(&self) -> bool {
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        let enough = *budget >= 10;
        if enough {
            *budget -= 10;
        }
        enough
    }

    /// A success earns a tenth of a retry.
    fn earn<V>(&self, done: V) -> V {
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        *budget = (*budget + 1).min(u64::from(self.settings.budget) * 10);
        done
    }
}

/// One call with all its attempts.
struct Call<'a> {
    operation: Operation,
    mailbox: &'a Mailbox,
    begun: Instant,
    attempts: u32,
}

impl<'a> Call<'a> {
    fn new(operation: Operation, mailbox: &'a Mailbox) -> Self {
        Self { operation, mailbox, begun: Instant::now(), attempts: 0 }
    }
}

impl<T: fmt::Debug> fmt::Debug for Retrying<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retrying")
            .field("inner", &self.inner)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl<T: fmt::Display> fmt::Display for Retrying<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: Transport> Transport for Retrying<T> {
    fn capability(&self) -> Capability {
        self.inner.capability()
    }
    async fn probe(&self, mailbox: &Mailbox, access: Access) -> Result<Probe> {
        let mut call = Call::new(Operation::Probe, mailbox);
        loop {
            match self.inner.probe(mailbox, access).await {
                Ok(done) => return Ok(self.earn(done)),
                Err(error) => self.again(&mut call, error).await?,
            }
        }
    }
    async fn receive(&self, mailbox: &Mailbox, options: ReceiveOptions) -> Result<Box<dyn Inbox>> {
        let mut call = Call::new(Operation::Receive, mailbox);
        loop {
            match self.inner.receive(mailbox, options.clone()).await {
                Ok(done) => return Ok(self.earn(done)),
                Err(error) => self.again(&mut call, error).await?,
            }
        }
    }
    async fn submit(&self, sender: &Mailbox, message: &Outbound, options: SubmitOptions) -> Result<Receipt> {
        let mut call = Call::new(Operation::Submit, sender);
        loop {
            match self.inner.submit(sender, message, options.clone()).await {
                Ok(done) => return Ok(self.earn(done)),
                Err(error) => self.again(&mut call, error).await?,
            }
        }
    }
    async fn find_submitted(&self, sender: &Mailbox, message_id: &MessageId) -> Result<Option<bool>> {
        let mut call = Call::new(Operation::FindSubmitted, sender);
        loop {
            match self.inner.find_submitted(sender, message_id).await {
                Ok(done) => return Ok(self.earn(done)),
                Err(error) => self.again(&mut call, error).await?,
            }
        }
    }
    /// Not tried again: whoever waits for mail lists from time to time, and waits again.
    async fn wait_for_mail(&self, mailbox: &Mailbox, limit: Duration) -> Result<bool> {
        self.inner.wait_for_mail(mailbox, limit).await
    }
}
