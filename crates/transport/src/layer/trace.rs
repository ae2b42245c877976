//! A span for every operation.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use email_router_model::{Classified, Mailbox, MessageId, RawMessage, RemoteId};
use tracing::{Instrument, Span, debug, info_span};

use super::Operation;
use crate::{
    Access, Capability, Disposition, Error, Inbox, Outbound, Part, Probe, Receipt, ReceiveOptions, Result,
    Stub, SubmitOptions, Transport,
};

/// Runs every operation in a span `transport` with the fields `operation`, `transport` (its name), `mailbox` (its id), and where
/// there is one `message` (remote id or Message-ID).
///
/// A failure is an event at level *debug* with kind, retry and scope: whether an operator has to do something about it is decided by who
/// called, not here. Neither content nor credentials are written; the name of a transport has no secret by contract.
///
/// Ordering: outermost, one span holds all attempts of a retry layer and the wait for a permit; innermost, every attempt has its own.
/// Both at once is fine.
#[derive(Debug)]
pub struct Trace<T> {
    inner: T,
}

impl<T: Transport> Trace<T> {
    /// `inner`, traced.
    pub fn new(inner: T) -> Self {
        Self { inner }
    }

    fn span(&self, operation: Operation, mailbox: &Mailbox, message: Option<&str>) -> Span {
        span(&self.inner, operation, mailbox, message)
    }
}

fn span(name: &dyn fmt::Display, operation: Operation, mailbox: &Mailbox, message: Option<&str>) -> Span {
    info_span!("transport", %operation, transport = %name, mailbox = %mailbox.id, message)
}

async fn traced<V>(span: Span, call: impl Future<Output = Result<V>>) -> Result<V> {
    async {
        let result = call.await;
        if let Err(e) = &result {
            report(e);
        }
        result
    }
    .instrument(span)
    .await
}

fn report(error: &Error) {
    let (retry, scope) = (error.retry(), error.scope());
    debug!(kind = ?error.kind(), %retry, %scope, error = %error, "failed");
}

impl<T: fmt::Display> fmt::Display for Trace<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: Transport> Transport for Trace<T> {
    fn capability(&self) -> Capability {
        self.inner.capability()
    }
    async fn probe(&self, mailbox: &Mailbox, access: Access) -> Result<Probe> {
        let span = self.span(Operation::Probe, mailbox, None);
        traced(span, self.inner.probe(mailbox, access)).await
    }
    async fn receive(&self, mailbox: &Mailbox, options: ReceiveOptions) -> Result<Box<dyn Inbox>> {
        let span = self.span(Operation::Receive, mailbox, None);
        let inner = traced(span, self.inner.receive(mailbox, options)).await?;
        let (mailbox, name) = (mailbox.clone(), self.inner.to_string());
        Ok(Box::new(TraceInbox { inner, mailbox, name }))
    }
    async fn submit(&self, sender: &Mailbox, message: &Outbound, options: SubmitOptions) -> Result<Receipt> {
        let span = self.span(Operation::Submit, sender, Some(message.message_id.as_str()));
        traced(span, self.inner.submit(sender, message, options)).await
    }
    async fn find_submitted(&self, sender: &Mailbox, message_id: &MessageId) -> Result<Option<bool>> {
        let span = self.span(Operation::FindSubmitted, sender, Some(message_id.as_str()));
        traced(span, self.inner.find_submitted(sender, message_id)).await
    }
    async fn wait_for_mail(&self, mailbox: &Mailbox, limit: Duration) -> Result<bool> {
        let span = self.span(Operation::WaitForMail, mailbox, None);
        traced(span, self.inner.wait_for_mail(mailbox, limit)).await
    }
}

struct TraceInbox {
    inner: Box<dyn Inbox>,
    mailbox: Mailbox,
    name: String,
}

impl TraceInbox {
    fn span(&self, operation: Operation, id: Option<&RemoteId>) -> Span {
        span(&self.name, operation, &self.mailbox, id.map(RemoteId::as_str))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Inbox for TraceInbox {
    async fn next(&mut self) -> Result<Option<Stub>> {
        let span = self.span(Operation::Next, None);
        traced(span, self.inner.next()).await
    }
    async fn prefetch(&mut self, wanted: &[(RemoteId, Part)]) -> Result<()> {
        let span = self.span(Operation::Prefetch, None);
        traced(span, self.inner.prefetch(wanted)).await
    }
    async fn headers(&mut self, id: &RemoteId) -> Result<Bytes> {
        let span = self.span(Operation::Headers, Some(id));
        traced(span, self.inner.headers(id)).await
    }
    async fn fetch(&mut self, id: &RemoteId) -> Result<RawMessage> {
        let span = self.span(Operation::Fetch, Some(id));
        traced(span, self.inner.fetch(id)).await
    }
    fn resume_token(&mut self) -> Option<Bytes> {
        self.inner.resume_token()
    }
    async fn dispose(&mut self, id: &RemoteId, what: Disposition) -> Result<()> {
        let span = self.span(Operation::Dispose, Some(id));
        traced(span, self.inner.dispose(id, what)).await
    }
    async fn close(self: Box<Self>) -> Result<()> {
        let span = self.span(Operation::Close, None);
        traced(span, self.inner.close()).await
    }
}
