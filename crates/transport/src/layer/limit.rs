//! At most so many sessions and submissions at once.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use email_router_model::{Mailbox, MessageId, RawMessage, RemoteId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    Access, Capability, Disposition, Error, ErrorKind, Inbox, Outbound, Part, Probe, Receipt, ReceiveOptions,
    Result, Stub, SubmitOptions, Transport,
};

/// How much may go on at once; clones share it, so several transports to one server keep one limit.
#[derive(Debug, Clone)]
pub struct Limits {
    sessions: Arc<Semaphore>,
    submissions: Arc<Semaphore>,
}

impl Limits {
    /// At most this many open sessions and, counted apart, this many submissions.
    #[must_use]
    pub fn new(sessions: NonZeroUsize, submissions: NonZeroUsize) -> Self {
        let semaphore = |n: NonZeroUsize| Arc::new(Semaphore::new(n.get().min(Semaphore::MAX_PERMITS)));
        Self { sessions: semaphore(sessions), submissions: semaphore(submissions) }
    }

    /// How many more sessions may be opened now.
    #[must_use]
    pub fn free_sessions(&self) -> usize {
        self.sessions.available_permits()
    }

    /// How many more submissions may begin now.
    #[must_use]
    pub fn free_submissions(&self) -> usize {
        self.submissions.available_permits()
    }
}

/// Lets calls wait for their turn.
///
/// - A session counts from [`Transport::receive`] until its [`Inbox`] is closed or dropped, also when the mailbox then stands
///   idle. Waiters are served in the order they came.
/// - A caller that holds one session and opens a second one on the same limit can wait for ever when all others do so too; open
///   one at a time, or raise the limit.
/// - A probe counts as a session or a submission, by its direction. [`Transport::find_submitted`] counts as a session;
///   [`Transport::wait_for_mail`] does not, since it would keep every permit for ever.
/// - Ordering: put it *inside* a retry layer, or a call that waits for its next attempt keeps its permit, and *outside* a
///   timeout layer, or waiting for a turn counts as time the server took.
#[derive(Debug)]
pub struct Limit<T> {
    inner: T,
    limits: Limits,
}

impl<T: Transport> Limit<T> {
    /// `inner` within these limits.
    pub fn new(inner: T, limits: Limits) -> Self {
        Self { inner, limits }
    }

    async fn permit(&self, semaphore: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit> {
        // the semaphore is never closed; if it were, whoever closed it wants everybody to stop
        semaphore
            .clone()
            .acquire_owned()
            .await
            .map_err(|e| Error::new(ErrorKind::Cancelled, format!("{}: stopped", self.inner)).with_source(e))
    }
}

impl<T: fmt::Display> fmt::Display for Limit<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: Transport> Transport for Limit<T> {
    fn capability(&self) -> Capability {
        self.inner.capability()
    }
    async fn probe(&self, mailbox: &Mailbox, access: Access) -> Result<Probe> {
        let semaphore = match access {
            Access::Incoming => &self.limits.sessions,
            Access::Outgoing => &self.limits.submissions,
        };
        let _permit = self.permit(semaphore).await?;
        self.inner.probe(mailbox, access).await
    }
    async fn receive(&self, mailbox: &Mailbox, options: ReceiveOptions) -> Result<Box<dyn Inbox>> {
        let permit = self.permit(&self.limits.sessions).await?;
        let inner = self.inner.receive(mailbox, options).await?;
        Ok(Box::new(LimitInbox { inner, permit }))
    }
    async fn submit(&self, sender: &Mailbox, message: &Outbound, options: SubmitOptions) -> Result<Receipt> {
        let _permit = self.permit(&self.limits.submissions).await?;
        self.inner.submit(sender, message, options).await
    }
    async fn find_submitted(&self, sender: &Mailbox, message_id: &MessageId) -> Result<Option<bool>> {
        let _permit = self.permit(&self.limits.sessions).await?;
        self.inner.find_submitted(sender, message_id).await
    }
    async fn wait_for_mail(&self, mailbox: &Mailbox, limit: Duration) -> Result<bool> {
        self.inner.wait_for_mail(mailbox, limit).await
    }
}

struct LimitInbox {
    // dropped in this order: the session ends before its permit is free
    inner: Box<dyn Inbox>,
    permit: OwnedSemaphorePermit,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Inbox for LimitInbox {
    async fn next(&mut self) -> Result<Option<Stub>> {
        self.inner.next().await
    }
    async fn prefetch(&mut self, wanted: &[(RemoteId, Part)]) -> Result<()> {
        self.inner.prefetch(wanted).await
    }
    async fn headers(&mut self, id: &RemoteId) -> Result<Bytes> {
        self.inner.headers(id).await
    }
    async fn fetch(&mut self, id: &RemoteId) -> Result<RawMessage> {
        self.inner.fetch(id).await
    }
    fn resume_token(&mut self) -> Option<Bytes> {
        self.inner.resume_token()
    }
    async fn dispose(&mut self, id: &RemoteId, what: Disposition) -> Result<()> {
        self.inner.dispose(id, what).await
    }
    async fn close(self: Box<Self>) -> Result<()> {
        let Self { inner, permit } = *self;
        let result = inner.close().await;
        drop(permit);
        result
    }
}
