//! The messages of a window that are worked on at the same time. They are handed back in the order of the mailbox.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use email_router_model::{Classified as _, Scope};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;

use super::Routed;
use super::claims::{Claimed, Claims};
use super::desk::Job;
use crate::Result;
use crate::message::Message;

/// Messages of one mailbox that are worked on at the same time: enough that a CRM which answers slowly, or flushes each commit, has always
/// something to do; few enough that one mailbox does not crowd out the others.
pub(super) const AT_ONCE: usize = 32;

/// Bytes of the messages that were read and not handed back, beyond which a further one waits: a large one is worked on alone.
const BYTES_AT_ONCE: u64 = 8 << 20;

/// How the work on a message ended.
pub(super) enum Ended {
    /// It is gone: somebody else took it.
    Gone,
    Routed(Routed),
    /// It has to be done again, with users and queues that are new.
    ViewOutdated(Message),
}

/// A message whose work has ended.
pub(super) struct Done {
    pub(super) job: Job,
    pub(super) result: Result<Ended>,
    pub(super) elapsed: Duration,
    pub(super) span: tracing::Span,
}

impl Done {
    pub(super) fn new(job: Job, result: Result<Ended>, span: tracing::Span) -> Self {
        Self { elapsed: job.started.elapsed(), job, result, span }
    }
}

#[derive(Default)]
pub(super) struct Team<'a> {
    working: FuturesUnordered<BoxFuture<'a, (usize, Done)>>,
    /// Ended, and not handed back yet.
    done: BTreeMap<usize, Done>,
    /// What each message that was not handed back ties to others, and its bytes.
    claims: BTreeMap<usize, (Claims, u64)>,
    claimed: Claimed,
    bytes: u64,
    started: usize,
    handed_back: usize,
}

impl<'a> Team<'a> {
    /// Whether a message of so many bytes may be read now.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        self.is_idle() || (self.working.len() < AT_ONCE && self.bytes.saturating_add(bytes) <= BYTES_AT_ONCE)
    }

    /// Whether a message may be decided about now, beside those that are worked on.
    pub(super) fn allows(&self, claims: &Claims) -> bool {
        self.claimed.allows(claims)
    }

    /// Whether nothing is worked on and everything was handed back.
    pub(super) fn is_idle(&self) -> bool {
        self.handed_back == self.started
    }

    /// Whether one that was not handed back ended with an error that is not its own, so that a further message would meet it too.
    pub(super) fn is_failing(&self) -> bool {
        self.done.values().any(|d| d.result.as_ref().is_err_and(|error| error.scope() > Scope::Message))
    }

    /// Starts work on the next message of the mailbox.
    pub(super) fn start(&mut self, claims: Claims, bytes: u64, work: impl Future<Output = Done> + Send + 'a) {
        let number = self.add(claims, bytes);
        self.working.push(Box::pin(async move { (number, work.await) }));
    }

    /// The next message of the mailbox has ended already.
    pub(super) fn ended(&mut self, bytes: u64, done: Done) {
        let number = self.add(Claims::default(), bytes);
        self.done.insert(number, done);
    }

    fn add(&mut self, claims: Claims, bytes: u64) -> usize {
        let number = self.started;
        self.started += 1;
        self.claimed.add(&claims);
        self.bytes += bytes;
        self.claims.insert(number, (claims, bytes));
        number
    }

    /// Lets the work go on while something else is awaited.
    pub(super) async fn meanwhile<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = std::pin::pin!(other);
        loop {
            tokio::select! {
                biased;
                value = &mut other => return value,
                Some((number, done)) = self.working.next(), if !self.working.is_empty() => {
                    self.done.insert(number, done);
                }
            }
        }
    }

    /// Waits until the work on one more message has ended.
    pub(super) async fn one_more(&mut self) {
        if let Some((number, done)) = self.working.next().await {
            self.done.insert(number, done);
        }
    }

    /// The next message in the order of the mailbox, if its work has ended. What it is tied to stays claimed until [`Team::settled`].
    pub(super) fn next(&mut self) -> Option<Done> {
        self.done.remove(&self.handed_back)
    }

    /// Nothing is left to do about the message that was handed back last.
    pub(super) fn settled(&mut self) {
        if let Some((claims, bytes)) = self.claims.remove(&self.handed_back) {
            self.claimed.remove(&claims);
            self.bytes -= bytes;
        }
        self.handed_back += 1;
    }
}
