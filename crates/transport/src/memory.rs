//! A mail system in memory: for tests, simulations and as the shortest complete example of an adapter.
//!
//! The handle is shared: clones look at the same mail system, so a test keeps one and gives another to the router. It counts
//! every call, can be told to fail, to leave a submission in doubt, to lock mailboxes, to refuse recipients, and to behave like
//! a mail system that can do less ([`MemoryTransport::with_capability`]).

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use email_router_model::{
    Classified, EmailAddress, Mailbox, MailboxId, MessageId, RawMessage, RemoteId, Retry, Scope,
};
use tokio::sync::watch;

use crate::contract::unsupported;
use crate::layer::Operation;
use crate::lines::crlf;
use crate::{
    Access, Capability, Disposition, Error, ErrorKind, Inbox, Outbound, Part, Probe, ProbeStep, Receipt,
    ReceiveOptions, RecipientResult, RecipientStatus, Result, Stub, SubmitOptions, Transport,
};

/// A mail system in memory. A mailbox that was never filled is empty.
#[derive(Clone)]
pub struct MemoryTransport {
    capability: Capability,
    state: Arc<Mutex<State>>,
}

/// A message in a mailbox or folder of a [`MemoryTransport`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its id, unique in the whole mail system.
    pub id: RemoteId,
    /// The message.
    pub message: RawMessage,
    /// Whether it is marked as read.
    pub read: bool,
}

/// A message a [`MemoryTransport`] took for delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The mailbox it was sent from.
    pub sender: MailboxId,
    /// What was handed over, with CRLF line ends; the envelope holds the recipients that were taken.
    pub message: Outbound,
}

/// A call that reached a [`MemoryTransport`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Which.
    pub operation: Operation,
    /// On or for which mailbox.
    pub mailbox: MailboxId,
    /// About which message, where the call names one: its remote id, or the Message-ID of a submission.
    pub message: Option<String>,
}

/// Makes an error; called once for every failure.
pub type MakeError = Arc<dyn Fn() -> Error + Send + Sync>;

#[derive(Default)]
struct State {
    next_id: u64,
    next_session: u64,
    mailboxes: HashMap<MailboxId, BTreeMap<RemoteId, Stored>>,
    folders: HashMap<(MailboxId, String), Vec<Stored>>,
    sent: Vec<Sent>,
    calls: Vec<Call>,
    failures: HashMap<Operation, VecDeque<MakeError>>,
    doubts: VecDeque<bool>,
    denied: HashMap<MailboxId, MakeError>,
    refused: HashMap<EmailAddress, (RecipientStatus, String)>,
    exclusive: bool,
    open: HashMap<MailboxId, HashSet<u64>>,
    /// Who waits for mail is told here.
    arrivals: HashMap<MailboxId, watch::Sender<()>>,
}

impl MemoryTransport {
    /// An empty mail system that can do everything.
    #[must_use]
    pub fn new() -> Self {
        Self::with_capability(Capability {
            receive: true,
            submit: true,
            stable_ids: true,
            headers_alone: true,
            costly_listing: false,
            delete: true,
            mark_read: true,
            move_to_folder: true,
            dispose_at_close: false,
            find_submitted: true,
            notifies: true,
            resumes: false,
            per_recipient_results: true,
            concurrent_submissions: None,
        })
    }

    /// An empty mail system that can do this much and behaves accordingly: without stable ids each session numbers its
    /// messages anew, with dispositions at close nothing happens before, and so on.
    #[must_use]
    pub fn with_capability(capability: Capability) -> Self {
        Self { capability, state: Arc::default() }
    }

    /// Puts a message into a mailbox, behind all others, and tells its id.
    pub fn put(&self, mailbox: &MailboxId, message: RawMessage) -> RemoteId {
        let mut state = self.state();
        state.next_id += 1;
        let id = RemoteId::new(format!("m{:012}", state.next_id)); // sorts by age
        drop(state);
        self.put_with_id(mailbox, id.clone(), message);
        id
    }

    /// Puts a message into a mailbox under an id of the caller's choice, as a server that gives the id of a deleted message to a new
    /// one; replaces a message that has the id. Messages are listed in the order of their ids.
    pub fn put_with_id(&self, mailbox: &MailboxId, id: RemoteId, message: RawMessage) {
        let stored = Stored { id: id.clone(), message, read: false };
        let mut state = self.state();
        state.mailboxes.entry(mailbox.clone()).or_default().insert(id, stored);
        state.arrivals.entry(mailbox.clone()).or_default().send_replace(());
    }

    /// Takes all messages out of a mailbox, as another client would.
    pub fn take_all(&self, mailbox: &MailboxId) -> Vec<Stored> {
        self.state().mailboxes.remove(mailbox).unwrap_or_default().into_values().collect()
    }

    /// What is in a mailbox, oldest first.
    #[must_use]
    pub fn messages(&self, mailbox: &MailboxId) -> Vec<Stored> {
        self.state().mailboxes.get(mailbox).map(|m| m.values().cloned().collect()).unwrap_or_default()
    }

    /// What is in a folder, in the order of moving.
    #[must_use]
    pub fn folder(&self, mailbox: &MailboxId, folder: &str) -> Vec<Stored> {
        self.state().folders.get(&(mailbox.clone(), folder.to_owned())).cloned().unwrap_or_default()
    }

    /// What was taken for delivery, in order.
    #[must_use]
    pub fn sent(&self) -> Vec<Sent> {
        self.state().sent.clone()
    }

    /// All calls so far, in order, failed ones too.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// How many calls of this kind there were.
    #[must_use]
    pub fn count(&self, operation: Operation) -> usize {
        self.state().calls.iter().filter(|c| c.operation == operation).count()
    }

    /// How many sessions are open on a mailbox.
    #[must_use]
    pub fn open_sessions(&self, mailbox: &MailboxId) -> usize {
        self.state().open.get(mailbox).map_or(0, HashSet::len)
    }

    /// Lets the next `times` calls of this kind fail without effect; adds to what is already planned.
    pub fn fail_next(
        &self,
        operation: Operation,
        times: usize,
        error: impl Fn() -> Error + Send + Sync + 'static,
    ) {
        let error: MakeError = Arc::new(error);
        let mut state = self.state();
        state.failures.entry(operation).or_default().extend(std::iter::repeat_n(error, times));
    }

    /// Leaves the next submission in doubt: it answers [`ErrorKind::ConnectionLost`] with `Retry::InDoubt`, and was delivered or
    /// not as `delivered` says.
    pub fn doubt_next_submission(&self, delivered: bool) {
        self.state().doubts.push_back(delivered);
    }

    /// Lets every attempt to open or probe this mailbox fail, until [`Self::allow`].
    pub fn deny(&self, mailbox: &MailboxId, error: impl Fn() -> Error + Send + Sync + 'static) {
        self.state().denied.insert(mailbox.clone(), Arc::new(error));
    }

    /// Ends [`Self::deny`].
    pub fn allow(&self, mailbox: &MailboxId) {
        self.state().denied.remove(mailbox);
    }

    /// Refuses a recipient from now on, with these words.
    pub fn refuse_recipient(&self, address: EmailAddress, status: RecipientStatus, reply: &str) {
        self.state().refused.insert(address, (status, reply.to_owned()));
    }

    /// Whether a mailbox can be open only once at a time, as with POP3 (RFC 1939 section 4); off in the beginning.
    pub fn set_exclusive(&self, exclusive: bool) {
        self.state().exclusive = exclusive;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryTransport {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryTransport").field("capability", &self.capability).finish_non_exhaustive()
    }
}

impl fmt::Display for MemoryTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

impl State {
    /// Writes the call down and fails it when that is planned.
    fn enter(&mut self, operation: Operation, mailbox: &MailboxId, message: Option<&str>) -> Result<()> {
        self.calls.push(Call { operation, mailbox: mailbox.clone(), message: message.map(str::to_owned) });
        match self.failures.get_mut(&operation).and_then(VecDeque::pop_front) {
            Some(make) => Err(make()),
            None => Ok(()),
        }
    }

    fn dispose(&mut self, mailbox: &MailboxId, id: &RemoteId, what: &Disposition) {
        let Some(messages) = self.mailboxes.get_mut(mailbox) else { return };
        let Some(message) = messages.get_mut(id) else { return };
        match what {
            Disposition::Keep => {}
            Disposition::MarkRead => message.read = true,
            Disposition::Delete => drop(messages.remove(id)),
            Disposition::Move(folder) => {
                let place = (mailbox.clone(), folder.clone());
                self.folders.entry(place).or_default().extend(messages.remove(id));
            }
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Transport for MemoryTransport {
    fn capability(&self) -> Capability {
        self.capability
    }

    async fn probe(&self, mailbox: &Mailbox, access: Access) -> Result<Probe> {
        let mut state = self.state();
        match access {
            Access::Incoming if !self.capability.receive => return Err(unsupported(self, "receive")),
            Access::Outgoing if !self.capability.submit => return Err(unsupported(self, "submit")),
            Access::Incoming | Access::Outgoing => {}
        }
        state.enter(Operation::Probe, &mailbox.id, None)?;
        if let Some(make) = state.denied.get(&mailbox.id) {
            return Err(make());
        }
        let messages = (access == Access::Incoming)
            .then(|| state.mailboxes.get(&mailbox.id).map_or(0, |messages| messages.len() as u64));
        Ok(Probe {
            steps: vec![ProbeStep { what: "looked into memory".to_owned(), warning: None }],
            messages,
        })
    }

    async fn receive(&self, mailbox: &Mailbox, options: ReceiveOptions) -> Result<Box<dyn Inbox>> {
        if !self.capability.receive {
            return Err(unsupported(self, "receive"));
        }
        let mut state = self.state();
        state.enter(Operation::Receive, &mailbox.id, None)?;
        if let Some(make) = state.denied.get(&mailbox.id) {
            return Err(make());
        }
        if state.exclusive && state.open.get(&mailbox.id).is_some_and(|open| !open.is_empty()) {
            let message = format!("memory: {} is open in another session", mailbox.id);
            return Err(Error::new(ErrorKind::MailboxLocked, message));
        }
        state.next_session += 1;
        let session = state.next_session;
        state.open.entry(mailbox.id.clone()).or_default().insert(session);
        let stored = state.mailboxes.get(&mailbox.id);
        let listing = stored
            .into_iter()
            .flat_map(BTreeMap::values)
            .take(options.max_messages)
            .enumerate()
            .map(|(n, m)| {
                let shown = match self.capability.stable_ids {
                    true => m.id.clone(),
                    false => RemoteId::new(format!("{session}/{}", n + 1)),
                };
                (shown, m.id.clone())
            })
            .collect::<VecDeque<_>>();
        let real = listing.iter().cloned().collect();
        drop(state);
        Ok(Box::new(MemoryInbox {
            transport: self.clone(),
            mailbox: mailbox.id.clone(),
            options,
            session,
            listing,
            real,
            pending: Vec::new(),
            broken: false,
        }))
    }

    async fn submit(&self, sender: &Mailbox, message: &Outbound, _options: SubmitOptions) -> Result<Receipt> {
        if !self.capability.submit {
            return Err(unsupported(self, "submit"));
        }
        let mut state = self.state();
        state.enter(Operation::Submit, &sender.id, Some(message.message_id.as_str()))?;
        let recipients: Vec<_> = message
            .envelope
            .recipients
            .iter()
            .map(|address| {
                let refusal = state.refused.get(address).cloned();
                let (status, reply) = refusal.unwrap_or((RecipientStatus::Accepted, "taken".to_owned()));
                RecipientResult { address: address.clone(), status, reply }
            })
            .collect();
        let accepted: Vec<_> = recipients
            .iter()
            .filter(|r| r.status == RecipientStatus::Accepted)
            .map(|r| r.address.clone())
            .collect();
        let all_or_none = !self.capability.per_recipient_results && accepted.len() < recipients.len();
        if accepted.is_empty() || all_or_none {
            let for_good = recipients
                .iter()
                .all(|r| matches!(r.status, RecipientStatus::Accepted | RecipientStatus::Refused));
            let words = recipients.iter().map(|r| r.reply.as_str()).collect::<Vec<_>>().join("; ");
            return Err(Error::new(ErrorKind::RecipientsRefused, "memory: the recipients are refused")
                .with_retry(if for_good { Retry::Never } else { Retry::Later(None) })
                .with_reply(&words)
                .with_recipients(if all_or_none && !accepted.is_empty() { Vec::new() } else { recipients }));
        }
        let doubt = state.doubts.pop_front();
        if doubt != Some(false) {
            let mut taken = message.clone();
            taken.envelope.recipients = accepted;
            taken.mime = crlf(&message.mime);
            state.sent.push(Sent { sender: sender.id.clone(), message: taken });
        }
        if doubt.is_some() {
            let text = "memory: the connection ended before the answer came";
            return Err(Error::new(ErrorKind::ConnectionLost, text).with_retry(Retry::InDoubt));
        }
        Ok(Receipt { recipients, reply: format!("queued as {}", state.sent.len()) })
    }

    async fn find_submitted(&self, sender: &Mailbox, message_id: &MessageId) -> Result<Option<bool>> {
        if !self.capability.find_submitted {
            return Ok(None);
        }
        let mut state = self.state();
        state.enter(Operation::FindSubmitted, &sender.id, Some(message_id.as_str()))?;
        Ok(Some(state.sent.iter().any(|s| s.sender == sender.id && s.message.message_id == *message_id)))
    }

    async fn wait_for_mail(&self, mailbox: &Mailbox, limit: Duration) -> Result<bool> {
        if !self.capability.notifies {
            return Err(unsupported(self, "tell when mail arrives"));
        }
        let mut arrivals = {
            let mut state = self.state();
            state.enter(Operation::WaitForMail, &mailbox.id, None)?;
            state.arrivals.entry(mailbox.id.clone()).or_default().subscribe()
        };
        Ok(tokio::time::timeout(limit, arrivals.changed()).await.is_ok_and(|changed| changed.is_ok()))
    }
}

struct MemoryInbox {
    transport: MemoryTransport,
    mailbox: MailboxId,
    options: ReceiveOptions,
    session: u64,
    /// Shown id and real id of what is still to be listed.
    listing: VecDeque<(RemoteId, RemoteId)>,
    /// Real ids by shown ids.
    real: HashMap<RemoteId, RemoteId>,
    /// Dispositions that wait for close.
    pending: Vec<(RemoteId, Disposition)>,
    /// After an error of scope mailbox or server nothing works any more.
    broken: bool,
}

impl MemoryInbox {
    fn enter(&mut self, operation: Operation, id: Option<&RemoteId>) -> Result<()> {
        if self.broken {
            let text = format!("memory: the session on {} has ended", self.mailbox);
            return Err(Error::new(ErrorKind::ConnectionLost, text));
        }
        let entered = self.transport.state().enter(operation, &self.mailbox, id.map(RemoteId::as_str));
        if let Err(e) = &entered {
            self.broken = e.scope() > Scope::Message;
        }
        entered
    }

    /// The id in the store; also for an id the session has not listed, where ids are stable.
    fn real(&self, id: &RemoteId) -> RemoteId {
        match self.real.get(id) {
            Some(real) => real.clone(),
            None if self.transport.capability.stable_ids => id.clone(),
            None => RemoteId::from(""),
        }
    }

    fn find(&self, id: &RemoteId) -> Result<Stored> {
        let real = self.real(id);
        let state = self.transport.state();
        let found = state.mailboxes.get(&self.mailbox).and_then(|messages| messages.get(&real));
        found.cloned().ok_or_else(|| {
            Error::new(ErrorKind::MessageGone, format!("memory: {id:?} is not in {}", self.mailbox))
        })
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Inbox for MemoryInbox {
    async fn next(&mut self) -> Result<Option<Stub>> {
        self.enter(Operation::Next, None)?;
        while let Some((shown, real)) = self.listing.pop_front() {
            let state = self.transport.state();
            if let Some(m) = state.mailboxes.get(&self.mailbox).and_then(|messages| messages.get(&real)) {
                let costly = self.transport.capability.costly_listing;
                let headers = costly.then(|| Bytes::copy_from_slice(m.message.headers().as_bytes()));
                let (size, received) = (Some(m.message.size()), m.message.received);
                return Ok(Some(Stub {
                    size,
                    received,
                    headers,
                    conversation_id: m.message.conversation_id.clone(),
                    message_class: m.message.message_class.clone(),
                    ..Stub::new(shown)
                }));
            }
        }
        Ok(None)
    }

    async fn prefetch(&mut self, _wanted: &[(RemoteId, Part)]) -> Result<()> {
        self.enter(Operation::Prefetch, None)
    }

    async fn headers(&mut self, id: &RemoteId) -> Result<Bytes> {
        self.enter(Operation::Headers, Some(id))?;
        let stored = self.find(id)?;
        let section = stored.message.headers().as_bytes().len();
        if section as u64 > self.options.max_header_bytes {
            let limit = self.options.max_header_bytes;
            let text = format!("memory: the header section of {id} has {section} bytes, {limit} are allowed");
            return Err(Error::new(ErrorKind::TooLarge, text));
        }
        Ok(stored.message.bytes().slice(..section))
    }

    async fn fetch(&mut self, id: &RemoteId) -> Result<RawMessage> {
        self.enter(Operation::Fetch, Some(id))?;
        let stored = self.find(id)?;
        let (size, limit) = (stored.message.size(), self.options.max_message_bytes);
        if size > limit {
            let text = format!("memory: {id} has {size} bytes, {limit} are allowed");
            return Err(Error::new(ErrorKind::TooLarge, text));
        }
        Ok(stored.message)
    }

    fn resume_token(&mut self) -> Option<Bytes> {
        None
    }
    async fn dispose(&mut self, id: &RemoteId, what: Disposition) -> Result<()> {
        self.enter(Operation::Dispose, Some(id))?;
        let capability = self.transport.capability;
        let can = match &what {
            Disposition::Keep => true,
            Disposition::Delete => capability.delete,
            Disposition::MarkRead => capability.mark_read,
            Disposition::Move(_) => capability.move_to_folder,
        };
        if !can {
            return Err(unsupported(&self.transport, &format!("do {what:?} with a message")));
        }
        let real = self.real(id);
        if capability.dispose_at_close {
            self.pending.push((real, what));
        } else {
            self.transport.state().dispose(&self.mailbox, &real, &what);
        }
        Ok(())
    }

    async fn close(mut self: Box<Self>) -> Result<()> {
        self.enter(Operation::Close, None)?;
        let pending = std::mem::take(&mut self.pending);
        let mut state = self.transport.state();
        for (id, what) in pending {
            state.dispose(&self.mailbox, &id, &what);
        }
        Ok(())
    }
}

impl Drop for MemoryInbox {
    fn drop(&mut self) {
        if let Some(open) = self.transport.state().open.get_mut(&self.mailbox) {
            open.remove(&self.session);
        }
    }
}
