//! A deadline for every operation.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use email_router_model::{Mailbox, MessageId, RawMessage, RemoteId, Retry};
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::Operation;
use crate::{
    Access, Capability, Disposition, Error, ErrorKind, Inbox, Outbound, Part, Probe, Receipt, ReceiveOptions,
    Result, Stub, SubmitOptions, Transport,
};

/// How long each operation may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deadlines {
    /// [`Transport::probe`].
    pub probe: Duration,
    /// [`Transport::receive`]: connect, secure, log in, and list where the protocol lists first.
    pub receive: Duration,
    /// [`Inbox::next`], [`Inbox::prefetch`] and [`Inbox::headers`].
    pub list: Duration,
    /// [`Inbox::fetch`]: must be enough for the largest message on the slowest line.
    pub fetch: Duration,
    /// [`Inbox::dispose`].
    pub dispose: Duration,
    /// [`Inbox::close`]. RFC 1939 section 6 lets the server delete in it.
    pub close: Duration,
    /// [`Transport::submit`]. RFC 5321 4.5.3.2 allows the server 10 minutes for the answer to the end of the data alone.
    pub submit: Duration,
    /// [`Transport::find_submitted`].
    pub find_submitted: Duration,
}

impl Default for Deadlines {
    /// One minute for a listing step or a disposition, five for opening, closing, probing and searching, ten for a message, thirty for a
    /// submission.
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(n * 60);
        Self {
            probe: minutes(5),
            receive: minutes(5),
            list: minutes(1),
            fetch: minutes(10),
            dispose: minutes(1),
            close: minutes(5),
            submit: minutes(30),
            find_submitted: minutes(5),
        }
    }
}

impl Deadlines {
    /// The same deadline for all.
    #[must_use]
    pub fn all(deadline: Duration) -> Self {
        Self {
            probe: deadline,
            receive: deadline,
            list: deadline,
            fetch: deadline,
            dispose: deadline,
            close: deadline,
            submit: deadline,
            find_submitted: deadline,
        }
    }

    fn of(&self, operation: Operation) -> Duration {
        match operation {
            Operation::Close => self.close,
            Operation::Dispose => self.dispose,
            Operation::Fetch => self.fetch,
            Operation::FindSubmitted => self.find_submitted,
            // the time to open its session; the caller's limit comes on top
            Operation::WaitForMail => self.receive,
            Operation::Headers | Operation::Next | Operation::Prefetch => self.list,
            Operation::Probe => self.probe,
            Operation::Receive => self.receive,
            Operation::Submit => self.submit,
        }
    }
}

/// Ends every operation that takes longer than its deadline with [`ErrorKind::Timeout`].
///
/// - The wrapped call is dropped, which leaves no half-used connection behind (contract of [`Transport`]).
/// - A **submission** that runs out of time is in doubt (`Retry::InDoubt`): this layer cannot know how far it came. An adapter
///   with time-outs of its own knows better, so let its own be shorter than this deadline; then the adapter's answer (`Later` before
///   the data, `InDoubt` after) is the one that arrives, and this layer is the net below.
/// - A **session** in which one call ran out of time is over: every further call fails, and no disposition may be taken as done.
/// - Ordering: put it *inside* a retry layer. `Retrying::new(Timeout::new(adapter, ..), ..)` gives each attempt its deadline;
///   `Timeout::new(Retrying::new(adapter, ..), ..)` cuts off the retries and the waits between them.
#[derive(Debug)]
pub struct Timeout<T> {
    inner: T,
    deadlines: Deadlines,
}

impl<T: Transport> Timeout<T> {
    /// `inner` with these deadlines.
    pub fn new(inner: T, deadlines: Deadlines) -> Self {
        Self { inner, deadlines }
    }

    async fn within<V>(
        &self,
        operation: Operation,
        mailbox: &Mailbox,
        call: impl Future<Output = Result<V>>,
    ) -> Result<V> {
        let deadline = self.deadlines.of(operation);
        let Ok(result) = timeout(deadline, call).await else {
            return Err(too_late(&self.inner, operation, mailbox, deadline));
        };
        result
    }
}

fn too_late(name: &dyn fmt::Display, operation: Operation, mailbox: &Mailbox, deadline: Duration) -> Error {
    let seconds = deadline.as_secs_f64();
    let text = format!("{name}: {operation} for {} did not end within {seconds} s", mailbox.address);
    let error = Error::new(ErrorKind::Timeout, text);
    if operation == Operation::Submit { error.with_retry(Retry::InDoubt) } else { error }
}

impl<T: fmt::Display> fmt::Display for Timeout<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: Transport> Transport for Timeout<T> {
    fn capability(&self) -> Capability {
        self.inner.capability()
    }
    async fn probe(&self, mailbox: &Mailbox, access: Access) -> Result<Probe> {
        self.within(Operation::Probe, mailbox, self.inner.probe(mailbox, access)).await
    }
    async fn receive(&self, mailbox: &Mailbox, options: ReceiveOptions) -> Result<Box<dyn Inbox>> {
        let inner = self.within(Operation::Receive, mailbox, self.inner.receive(mailbox, options)).await?;
        let (deadlines, mailbox, name) = (self.deadlines, mailbox.clone(), self.inner.to_string());
        Ok(Box::new(TimeoutInbox { inner: Some(inner), deadlines, mailbox, name }))
    }
    async fn submit(&self, sender: &Mailbox, message: &Outbound, options: SubmitOptions) -> Result<Receipt> {
        self.within(Operation::Submit, sender, self.inner.submit(sender, message, options)).await
    }
    async fn find_submitted(&self, sender: &Mailbox, message_id: &MessageId) -> Result<Option<bool>> {
        self.within(Operation::FindSubmitted, sender, self.inner.find_submitted(sender, message_id)).await
    }
    /// The caller's limit and the time to open a session.
    async fn wait_for_mail(&self, mailbox: &Mailbox, limit: Duration) -> Result<bool> {
        let call = self.inner.wait_for_mail(mailbox, limit);
        match timeout(limit.saturating_add(self.deadlines.of(Operation::WaitForMail)), call).await {
            Ok(answer) => answer,
            Err(_) => Ok(false),
        }
    }
}

struct TimeoutInbox {
    /// `None` after a call that ran out of time.
    inner: Option<Box<dyn Inbox>>,
    deadlines: Deadlines,
    mailbox: Mailbox,
    name: String,
}

impl TimeoutInbox {
    /// The answer of a call, or the end of the session.
    fn settle<V>(&mut self, operation: Operation, answer: Result<Result<V>, Elapsed>) -> Result<V> {
        answer.unwrap_or_else(|_| {
            self.inner = None;
            let deadline = self.deadlines.of(operation);
            Err(too_late(&self.name, operation, &self.mailbox, deadline))
        })
    }

    fn over(&self) -> Error {
        let text = format!("{}: the session of {} ran out of time before", self.name, self.mailbox.address);
        Error::new(ErrorKind::Timeout, text)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Inbox for TimeoutInbox {
    async fn next(&mut self) -> Result<Option<Stub>> {
        let Some(inner) = &mut self.inner else { return Err(self.over()) };
        let answer = timeout(self.deadlines.list, inner.next()).await;
        self.settle(Operation::Next, answer)
    }
    async fn prefetch(&mut self, wanted: &[(RemoteId, Part)]) -> Result<()> {
        let Some(inner) = &mut self.inner else { return Err(self.over()) };
        let answer = timeout(self.deadlines.list, inner.prefetch(wanted)).await;
        self.settle(Operation::Prefetch, answer)
    }
    async fn headers(&mut self, id: &RemoteId) -> Result<Bytes> {
        let Some(inner) = &mut self.inner else { return Err(self.over()) };
        let answer = timeout(self.deadlines.list, inner.headers(id)).await;
        self.settle(Operation::Headers, answer)
    }
    async fn fetch(&mut self, id: &RemoteId) -> Result<RawMessage> {
        let Some(inner) = &mut self.inner else { return Err(self.over()) };
        let answer = timeout(self.deadlines.fetch, inner.fetch(id)).await;
        self.settle(Operation::Fetch, answer)
    }
    fn resume_token(&mut self) -> Option<Bytes> {
        self.inner.as_mut().and_then(|inner| inner.resume_token())
    }
    async fn dispose(&mut self, id: &RemoteId, what: Disposition) -> Result<()> {
        let Some(inner) = &mut self.inner else { return Err(self.over()) };
        let answer = timeout(self.deadlines.dispose, inner.dispose(id, what)).await;
        self.settle(Operation::Dispose, answer)
    }
    async fn close(mut self: Box<Self>) -> Result<()> {
        let Some(inner) = self.inner.take() else { return Err(self.over()) };
        match timeout(self.deadlines.close, inner.close()).await {
            Ok(result) => result,
            Err(_) => Err(too_late(&self.name, Operation::Close, &self.mailbox, self.deadlines.close)),
        }
    }
}
