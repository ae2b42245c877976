//! Seeded failures, for tests and simulations.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use email_router_model::{Classified, Entropy, Mailbox, MessageId, RawMessage, RemoteId, Retry, Scope};

use super::Operation;
use crate::{
    Access, Capability, Disposition, Error, ErrorKind, Inbox, Outbound, Part, Probe, Receipt, ReceiveOptions,
    Result, Stub, SubmitOptions, Transport,
};

/// What goes wrong with one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The connection is lost before anything happened.
    FailBefore,
    /// The operation takes full effect, then the connection is lost and nobody hears of it. A submission is in doubt then.
    FailAfter,
    /// It takes longer, and then goes well.
    Delay(Duration),
    /// The message is gone: [`Inbox::headers`] and [`Inbox::fetch`] answer [`ErrorKind::MessageGone`]; others are untouched.
    Gone,
    /// Like [`Self::FailBefore`], and from now on every call on every session fails, as for a process that was killed. Ends with
    /// [`Faults::revive`].
    CrashBefore,
    /// Like [`Self::FailAfter`], and from now on every call fails. Ends with [`Faults::revive`].
    CrashAfter,
}

/// How likely each fault is, as fractions of 1; drawn once for every operation, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct FaultRates {
    /// [`FaultKind::FailBefore`].
    pub fail_before: f64,
    /// [`FaultKind::FailAfter`].
    pub fail_after: f64,
    /// [`FaultKind::Gone`].
    pub gone: f64,
    /// [`FaultKind::Delay`].
    pub delay: f64,
    /// The longest delay; uniform from zero.
    pub max_delay: Duration,
}

/// The faults of one simulation: a seeded dice and a script. Clones share it.
///
/// Operations are numbered from 0 in the order in which they reach the layer. A simulation runs once without faults, reads
/// [`Faults::operations`], and then once for every number and kind with [`Faults::at`]: a crash at every await.
#[derive(Clone)]
pub struct Faults {
    state: Arc<Mutex<State>>,
    entropy: Arc<dyn Entropy>,
}

struct State {
    rates: FaultRates,
    script: HashMap<u64, FaultKind>,
    operations: u64,
    hit: u64,
    crashed: bool,
}

impl Faults {
    /// No faults yet; what chance decides comes from `entropy`.
    #[must_use]
    pub fn new(entropy: Arc<dyn Entropy>) -> Self {
        let state = State {
            rates: FaultRates::default(),
            script: HashMap::new(),
            operations: 0,
            hit: 0,
            crashed: false,
        };
        Self { state: Arc::new(Mutex::new(state)), entropy }
    }

    /// From now on faults happen at these rates.
    pub fn set_rates(&self, rates: FaultRates) {
        self.state().rates = rates;
    }

    /// The operation with this number meets this fault, whatever the rates say.
    pub fn at(&self, operation: u64, kind: FaultKind) {
        self.state().script.insert(operation, kind);
    }

    /// How many operations there were so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// How many faults there were so far.
    #[must_use]
    pub fn hit(&self) -> u64 {
        self.state().hit
    }

    /// Whether a crash happened and was not yet ended.
    #[must_use]
    pub fn crashed(&self) -> bool {
        self.state().crashed
    }

    /// Ends a crash: new calls work again. Sessions that were open stay broken once they have met it.
    pub fn revive(&self) {
        self.state().crashed = false;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happens to the next operation.
    fn draw(&self) -> Option<FaultKind> {
        let mut state = self.state();
        let number = state.operations;
        state.operations += 1;
        if state.crashed {
            return Some(FaultKind::FailBefore);
        }
        let kind = match state.script.remove(&number) {
            Some(kind) => Some(kind),
            None => self.roll(state.rates),
        };
        state.hit += u64::from(kind.is_some());
        state.crashed = matches!(kind, Some(FaultKind::CrashBefore | FaultKind::CrashAfter));
        kind
    }

    fn roll(&self, rates: FaultRates) -> Option<FaultKind> {
        let dice = self.entropy.fraction();
        let mut edge = rates.fail_before;
        if dice < edge {
            return Some(FaultKind::FailBefore);
        }
        edge += rates.fail_after;
        if dice < edge {
            return Some(FaultKind::FailAfter);
        }
        edge += rates.gone;
        if dice < edge {
            return Some(FaultKind::Gone);
        }
        edge += rates.delay;
        (dice < edge).then(|| FaultKind::Delay(rates.max_delay.mul_f64(self.entropy.fraction())))
    }

    /// Runs one operation with the fault that is due.
    async fn around<V>(
        &self,
        operation: Operation,
        name: &str,
        call: impl Future<Output = Result<V>>,
    ) -> Result<V> {
        match self.draw() {
            None => call.await,
            Some(FaultKind::Delay(delay)) => {
                tokio::time::sleep(delay).await;
                call.await
            }
            Some(FaultKind::Gone) if matches!(operation, Operation::Fetch | Operation::Headers) => {
                Err(Error::new(ErrorKind::MessageGone, format!("{name}: injected: the message is gone")))
            }
            Some(FaultKind::Gone) => call.await,
            Some(FaultKind::FailBefore | FaultKind::CrashBefore) => {
                let text = format!("{name}: injected: connection lost before {operation}");
                Err(Error::new(ErrorKind::ConnectionLost, text))
            }
            Some(FaultKind::FailAfter | FaultKind::CrashAfter) => {
                call.await?; // an operation that fails by itself keeps its own error
                let text = format!("{name}: injected: connection lost after {operation}");
                let error = Error::new(ErrorKind::ConnectionLost, text);
                Err(if operation == Operation::Submit { error.with_retry(Retry::InDoubt) } else { error })
            }
        }
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Faults")
            .field("rates", &state.rates)
            .field("operations", &state.operations)
            .field("crashed", &state.crashed)
            .finish_non_exhaustive()
    }
}

/// Lets operations fail before or after their effect, take long, or find their message gone.
///
/// A session that met a fault of scope mailbox is over, as the contract says: further calls fail and the wrapped session is
/// dropped, not closed.
///
/// Ordering: directly around the adapter, so that retry, timeout and limit meet the faults. Outside of a retry layer its faults
/// would never be tried again.
#[derive(Debug)]
pub struct Fault<T> {
    inner: T,
    faults: Faults,
}

impl<T: Transport> Fault<T> {
    /// `inner` with these faults.
    pub fn new(inner: T, faults: Faults) -> Self {
        Self { inner, faults }
    }
}

impl<T: fmt::Display> fmt::Display for Fault<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: Transport> Transport for Fault<T> {
    fn capability(&self) -> Capability {
        self.inner.capability()
    }
    async fn probe(&self, mailbox: &Mailbox, access: Access) -> Result<Probe> {
        let name = self.inner.to_string();
        self.faults.around(Operation::Probe, &name, self.inner.probe(mailbox, access)).await
    }
    async fn receive(&self, mailbox: &Mailbox, options: ReceiveOptions) -> Result<Box<dyn Inbox>> {
        let name = self.inner.to_string();
        let inner =
            self.faults.around(Operation::Receive, &name, self.inner.receive(mailbox, options)).await?;
        Ok(Box::new(FaultInbox { inner: Some(inner), faults: self.faults.clone(), name }))
    }
    async fn submit(&self, sender: &Mailbox, message: &Outbound, options: SubmitOptions) -> Result<Receipt> {
        let name = self.inner.to_string();
        self.faults.around(Operation::Submit, &name, self.inner.submit(sender, message, options)).await
    }
    async fn find_submitted(&self, sender: &Mailbox, message_id: &MessageId) -> Result<Option<bool>> {
        let name = self.inner.to_string();
        let call = self.inner.find_submitted(sender, message_id);
        self.faults.around(Operation::FindSubmitted, &name, call).await
    }
    async fn wait_for_mail(&self, mailbox: &Mailbox, limit: Duration) -> Result<bool> {
        let name = self.inner.to_string();
        self.faults.around(Operation::WaitForMail, &name, self.inner.wait_for_mail(mailbox, limit)).await
    }
}

struct FaultInbox {
    /// `None` once the session is over.
    inner: Option<Box<dyn Inbox>>,
    faults: Faults,
    name: String,
}

impl FaultInbox {
    /// A fault of the mailbox or server ends the session.
    fn settle<V>(&mut self, result: Result<V>) -> Result<V> {
        if result.as_ref().is_err_and(|e| e.scope() > Scope::Message) {
            self.inner = None;
        }
        result
    }

    fn over(&self) -> Error {
        Error::new(ErrorKind::ConnectionLost, format!("{}: the session is over", self.name))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Inbox for FaultInbox {
    async fn next(&mut self) -> Result<Option<Stub>> {
        let Some(inner) = &mut self.inner else { return Err(self.over()) };
        let result = self.faults.around(Operation::Next, &self.name, inner.next()).await;
        self.settle(result)
    }
    async fn prefetch(&mut self, wanted: &[(RemoteId, Part)]) -> Result<()> {
        let Some(inner) = &mut self.inner else { return Err(self.over()) };
        let result = self.faults.around(Operation::Prefetch, &self.name, inner.prefetch(wanted)).await;
        self.settle(result)
    }
    async fn headers(&mut self, id: &RemoteId) -> Result<Bytes> {
        let Some(inner) = &mut self.inner else { return Err(self.over()) };
        let result = self.faults.around(Operation::Headers, &self.name, inner.headers(id)).await;
        self.settle(result)
    }
    async fn fetch(&mut self, id: &RemoteId) -> Result<RawMessage> {
        let Some(inner) = &mut self.inner else { return Err(self.over()) };
        let result = self.faults.around(Operation::Fetch, &self.name, inner.fetch(id)).await;
        self.settle(result)
    }
    fn resume_token(&mut self) -> Option<Bytes> {
        self.inner.as_mut().and_then(|inner| inner.resume_token())
    }
    async fn dispose(&mut self, id: &RemoteId, what: Disposition) -> Result<()> {
        let Some(inner) = &mut self.inner else { return Err(self.over()) };
        let result = self.faults.around(Operation::Dispose, &self.name, inner.dispose(id, what)).await;
        self.settle(result)
    }
    async fn close(mut self: Box<Self>) -> Result<()> {
        let Some(inner) = self.inner.take() else { return Err(self.over()) };
        self.faults.around(Operation::Close, &self.name, inner.close()).await
    }
}
