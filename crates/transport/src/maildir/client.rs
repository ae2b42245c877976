//! The transport: puts the blocking work on blocking threads.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use email_router_model::{
    Classified, Clock, EmailAddress, Entropy, Mailbox, MessageId, RawMessage, RemoteId, Retry, Scope,
    SystemClock, SystemEntropy,
};

use super::delivery;
use super::listing::{self, Links};
use super::proto::{self, Unique};
use super::settings::{Delivery, MaildirSettings, PathTemplate};
use super::store::{self, Store};
use crate::contract::unsupported;
use crate::lines::crlf;
use crate::{
    Access, Capability, Disposition, Error, ErrorKind, Inbox, Outbound, Part, Probe, ProbeStep, Receipt,
    ReceiveOptions, RecipientResult, RecipientStatus, Result, Stub, SubmitOptions, Transport,
};

/// Mailboxes that are Maildirs. See the [module](super) for what it does with them. Clones share everything.
///
/// A future that is dropped leaves the blocking work it began to finish: a submission given up on may have been delivered.
#[derive(Debug, Clone)]
pub struct MaildirTransport {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: MaildirSettings,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    count: AtomicU64,
    /// Directories whose `tmp` was cleaned.
    cleaned: Mutex<HashSet<PathBuf>>,
}

impl MaildirTransport {
    /// A transport with these settings and the machine's clock and random numbers.
    #[must_use]
    pub fn new(settings: MaildirSettings) -> Self {
        Self::with_clock(settings, Arc::new(SystemClock), Arc::new(SystemEntropy))
    }

    /// A transport that takes time and random numbers from elsewhere; both go only into the names of new files.
    #[must_use]
    pub fn with_clock(settings: MaildirSettings, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        let (count, cleaned) = (AtomicU64::new(0), Mutex::default());
        Self { shared: Arc::new(Shared { settings, clock, entropy, count, cleaned }) }
    }

    fn incoming(&self, mailbox: &Mailbox) -> Result<PathBuf> {
        match &self.shared.settings.incoming {
            Some(path) => path.resolve(mailbox),
            None => Err(unsupported(self, "receive")),
        }
    }
}

impl fmt::Display for MaildirTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("maildir")?;
        if let Some(path) = &self.shared.settings.incoming {
            write!(f, " {path}")?;
        }
        match &self.shared.settings.delivery {
            Some(Delivery::Outbox { path, .. }) => write!(f, " to {path}"),
            Some(Delivery::Recipients { template }) => write!(f, " to {template}"),
            None => Ok(()),
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Transport for MaildirTransport {
    fn capability(&self) -> Capability {
        let receive = self.shared.settings.incoming.is_some();
        let delivery = self.shared.settings.delivery.as_ref();
        Capability {
            receive,
            submit: delivery.is_some(),
            stable_ids: receive,
            headers_alone: receive,
            costly_listing: false,
            delete: receive,
            mark_read: receive,
            move_to_folder: receive,
            dispose_at_close: false,
            notifies: false,
            resumes: false,
            find_submitted: matches!(delivery, Some(Delivery::Outbox { keeps_messages: true, .. })),
            per_recipient_results: matches!(delivery, Some(Delivery::Recipients { .. })),
            concurrent_submissions: None,
        }
    }

    async fn probe(&self, mailbox: &Mailbox, access: Access) -> Result<Probe> {
        match access {
            Access::Incoming => {
                let root = self.incoming(mailbox)?;
                blocking(move || probe_incoming(&root)).await
            }
            Access::Outgoing => {
                let Some(delivery) = &self.shared.settings.delivery else {
                    return Err(unsupported(self, "submit"));
                };
                match delivery {
                    Delivery::Outbox { path, .. } => {
                        let root = path.resolve(mailbox)?;
                        blocking(move || probe_outbox(&root)).await
                    }
                    Delivery::Recipients { template } => {
                        let above = template.fixed_part();
                        blocking(move || probe_recipients(&above)).await
                    }
                }
            }
        }
    }

    async fn receive(&self, mailbox: &Mailbox, options: ReceiveOptions) -> Result<Box<dyn Inbox>> {
        let root = self.incoming(mailbox)?;
        let store = blocking(move || Store::open(root, options)).await?;
        Ok(Box::new(MaildirInbox { store: Arc::new(Mutex::new(store)), ready: VecDeque::new(), over: None }))
    }

    async fn submit(&self, sender: &Mailbox, message: &Outbound, _options: SubmitOptions) -> Result<Receipt> {
        let Some(delivery) = &self.shared.settings.delivery else { return Err(unsupported(self, "submit")) };
        let (shared, message) = (self.shared.clone(), message.clone());
        let submitted = match delivery {
            Delivery::Outbox { path, .. } => {
                let root = path.resolve(sender)?;
                blocking(move || shared.to_outbox(&root, &message)).await
            }
            Delivery::Recipients { template } => {
                let template = template.clone();
                blocking(move || shared.to_recipients(&template, &message)).await
            }
        };
        // nobody knows how far work came that was stopped
        submitted.map_err(|e| if e.kind() == ErrorKind::Cancelled { e.with_retry(Retry::InDoubt) } else { e })
    }

    async fn wait_for_mail(&self, _: &Mailbox, _: Duration) -> Result<bool> {
        Err(unsupported(self, "tell when mail arrives"))
    }

    async fn find_submitted(&self, sender: &Mailbox, message_id: &MessageId) -> Result<Option<bool>> {
        match &self.shared.settings.delivery {
            Some(Delivery::Outbox { path, keeps_messages: true }) => {
                let (root, message_id) = (path.resolve(sender)?, message_id.clone());
                blocking(move || delivery::contains(&root, &message_id)).await.map(Some)
            }
            _ => Ok(None),
        }
    }
}

/// Runs file work on a blocking thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // the runtime stops, or the work panicked
        Err(e) => Err(Error::new(ErrorKind::Cancelled, "maildir: the file work was stopped").with_source(e)),
    }
}

impl Shared {
    fn to_outbox(&self, root: &Path, message: &Outbound) -> Result<Receipt> {
        store::create(root)?;
        let mut envelope = return_path(message);
        for recipient in &message.envelope.recipients {
            envelope.push_str(&format!("X-Envelope-To: {recipient}\r\n"));
        }
        let name = self.write(root, &envelope, message)?;
        let accepted = |address: &EmailAddress| RecipientResult {
            address: address.clone(),
            status: RecipientStatus::Accepted,
            reply: format!("written as {name}"),
        };
        let recipients = message.envelope.recipients.iter().map(accepted).collect();
        Ok(Receipt { recipients, reply: format!("written as {name}") })
    }

    fn to_recipients(&self, template: &PathTemplate, message: &Outbound) -> Result<Receipt> {
        let mut recipients = Vec::new();
        let mut doubt = None;
        for address in &message.envelope.recipients {
            let delivered = template.fill(address, None).and_then(|root| {
                store::check(&root)?;
                let envelope = format!("{}Delivered-To: {address}\r\n", return_path(message));
                self.write(&root, &envelope, message)
            });
            let (status, reply) = match delivered {
                Ok(name) => (RecipientStatus::Accepted, format!("written as {name}")),
                Err(e) => {
                    let for_good = e.retry() == Retry::Never;
                    let status =
                        if for_good { RecipientStatus::Refused } else { RecipientStatus::RefusedForNow };
                    let reply = e.to_string();
                    if e.is_in_doubt() {
                        doubt = Some(e);
                    }
                    (status, reply)
                }
            };
            recipients.push(RecipientResult { address: address.clone(), status, reply });
        }
        if let Some(doubt) = doubt {
            return Err(doubt);
        }
        if recipients.iter().any(|r| r.status == RecipientStatus::Accepted) {
            return Ok(Receipt { recipients, reply: "written".to_owned() });
        }
        let for_good = recipients.iter().all(|r| r.status == RecipientStatus::Refused);
        let words = recipients.iter().map(|r| r.reply.as_str()).collect::<Vec<_>>().join("; ");
        Err(Error::new(
            ErrorKind::RecipientsRefused,
            format!("maildir {template}: every recipient is refused"),
        )
        .with_retry(if for_good { Retry::Never } else { Retry::Later(None) })
        .with_reply(&words)
        .with_recipients(recipients)
        .with_hint("each recipient needs a Maildir of its own"))
    }

    /// Writes one file and gives its name.
    fn write(&self, root: &Path, envelope: &str, message: &Outbound) -> Result<String> {
        let now = self.clock.now();
        let first = {
            let mut cleaned = self.cleaned.lock().unwrap_or_else(PoisonError::into_inner);
            cleaned.insert(root.to_owned())
        };
        if first {
            delivery::clean(root, now);
        }
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let (process, random) = (std::process::id(), self.entropy.next_u64());
        let unique = Unique { now, process, count, random, host: &self.settings.host };
        let name = unique.name(&proto::tag_of(&message.message_id));
        delivery::write(root, name.clone(), &[envelope.as_bytes(), &crlf(&message.mime)])?.deliver()?;
        Ok(name)
    }
}

/// RFC 5321 4.4: the delivery writes the reverse-path at the beginning of the message. An address cannot hold a line end.
fn return_path(message: &Outbound) -> String {
    let sender = message.envelope.sender.as_ref().map(EmailAddress::as_str).unwrap_or_default();
    format!("Return-Path: <{sender}>\r\n")
}

fn step(what: String) -> ProbeStep {
    ProbeStep { what, warning: None }
}

fn probe_incoming(root: &Path) -> Result<Probe> {
    store::check(root)?;
    let mut steps = vec![step(format!("opened {}", root.display()))];
    let messages = listing::messages(root, Links::PassOver)?.len() as u64;
    steps.push(step(format!("listed {messages} messages")));
    steps.push(permission_step(root, store::writable));
    Ok(Probe { steps, messages: Some(messages) })
}

/// What may be done with messages. The folders beside the inbox, which are created as they are needed, lie in the root.
fn permission_step(root: &Path, writable: impl Fn(&Path) -> bool) -> ProbeStep {
    let locked = |folder: &PathBuf| !writable(folder);
    let warning = if let Some(folder) = [root.join("new"), root.join("cur")].into_iter().find(locked) {
        format!("{} is not writable: messages cannot be marked, moved or deleted", folder.display())
    } else if locked(&root.to_owned()) {
        format!(
            "{} is not writable: no folder can be created there, so messages can be moved only to folders that exist",
            root.display()
        )
    } else {
        return step("messages can be marked, moved and deleted".to_owned());
    };
    ProbeStep { what: "asked for permission to write".to_owned(), warning: Some(warning) }
}

fn probe_outbox(root: &Path) -> Result<Probe> {
    if !root.exists() {
        let above = root.ancestors().skip(1).find(|p| p.exists()).unwrap_or(Path::new("."));
        may_write(above)?;
        return Ok(Probe { steps: vec![step(format!("{} can be created", root.display()))], messages: None });
    }
    store::check(root)?;
    may_write(&root.join("tmp"))?;
    may_write(&root.join("new"))?;
    let what = format!("opened {}, which is writable", root.display());
    Ok(Probe { steps: vec![step(what)], messages: None })
}

fn probe_recipients(above: &Path) -> Result<Probe> {
    if above.is_dir() {
        let what = format!("opened {}, where the recipients' Maildirs are", above.display());
        return Ok(Probe { steps: vec![step(what)], messages: None });
    }
    let text = format!("maildir {}: there is no such directory", above.display());
    Err(Error::new(ErrorKind::Settings, text).with_hint("correct the path of the recipients' Maildirs"))
}

fn may_write(path: &Path) -> Result<()> {
    if store::writable(path) {
        return Ok(());
    }
    let shown = path.display();
    Err(Error::new(ErrorKind::AccessDenied, format!("maildir {shown}: no permission to write"))
        .with_hint(format!("give the account that runs the router write permission on {shown}")))
}

struct MaildirInbox {
    store: Arc<Mutex<Store>>,
    ready: VecDeque<Stub>,
    /// The error of scope mailbox that ended the session.
    over: Option<String>,
}

impl MaildirInbox {
    fn usable(&self) -> Result<()> {
        match &self.over {
            None => Ok(()),
            Some(why) => {
                Err(Error::new(ErrorKind::Storage, format!("maildir: the session has already failed: {why}")))
            }
        }
    }

    async fn with_store<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Store) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.usable()?;
        let store = self.store.clone();
        let result = blocking(move || work(&mut store.lock().unwrap_or_else(PoisonError::into_inner))).await;
        self.over = result.as_ref().err().filter(|e| e.scope() > Scope::Message).map(ToString::to_string);
        result
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Inbox for MaildirInbox {
    async fn next(&mut self) -> Result<Option<Stub>> {
        self.usable()?;
        if self.ready.is_empty() {
            self.ready = self.with_store(Store::list_some).await?;
        }
        Ok(self.ready.pop_front())
    }

    /// Nothing to gain: a file is read in one step.
    async fn prefetch(&mut self, _wanted: &[(RemoteId, Part)]) -> Result<()> {
        self.usable()
    }

    async fn headers(&mut self, id: &RemoteId) -> Result<Bytes> {
        let id = id.clone();
        self.with_store(move |store| store.headers(&id)).await
    }

    async fn fetch(&mut self, id: &RemoteId) -> Result<RawMessage> {
        let id = id.clone();
        self.with_store(move |store| store.fetch(&id)).await
    }

    fn resume_token(&mut self) -> Option<Bytes> {
        None
    }
    async fn dispose(&mut self, id: &RemoteId, what: Disposition) -> Result<()> {
        let id = id.clone();
        self.with_store(move |store| store.dispose(&id, &what)).await
    }

    async fn close(mut self: Box<Self>) -> Result<()> {
        self.with_store(Store::commit).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_writable_is_named() {
        let root = Path::new("/mail/ann");
        for (locked, told) in [
            ("", None),
            ("/mail/ann/new", Some("/mail/ann/new is not writable: messages cannot be")),
            ("/mail/ann/cur", Some("/mail/ann/cur is not writable: messages cannot be")),
            ("/mail/ann", Some("/mail/ann is not writable: no folder can be created")),
        ] {
            let step = permission_step(root, |path| path != Path::new(locked));
            let warning = step.warning.as_deref();
            assert_eq!(warning.is_some(), told.is_some(), "{step:?}");
            assert!(warning.is_none_or(|w| w.starts_with(told.unwrap())), "{step:?}");
        }
    }
}
