//! Past mail into the CRM: a Maildir, an mbox file, an `.eml` file or a folder of them, routed as if found in a mailbox.
//!
//! Each message goes through the same decision as live mail and is delivered at most once, whatever is repeated. What is settled is
//! remembered under the name of the source, so that an interrupted import goes on where it stopped.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use email_router_engine::ports::{QuarantineItem, Settled};
use email_router_engine::{DecisionRecord, Verdict};
use email_router_model::{Classified, MailboxId, RemoteId, Scope};
use email_router_transport::import::{self, ImportLimits, Imported};
use serde::Serialize;
use tokio::sync::{mpsc, watch};

use crate::service::{NamedMailbox, blocking};
use crate::{Error, Result, Service};

/// Messages that are read ahead while one is being delivered.
const AHEAD: usize = 4;

/// An import that is ready to run.
#[derive(Debug)]
pub struct Backfill<'a> {
    service: &'a Service,
    named: NamedMailbox<'a>,
    path: PathBuf,
    total_bytes: u64,
    /// Under this name the state store remembers what is settled.
    memory: MailboxId,
}

/// How to import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BackfillOptions {
    /// Decide and show, write nothing.
    pub dry_run: bool,
    /// Do not pass over what an earlier import settled.
    pub from_start: bool,
}

/// How far an import is.
#[derive(Debug)]
pub struct BackfillProgress<'a> {
    /// Messages read.
    pub messages: u64,
    /// Bytes of messages read.
    pub bytes: u64,
    /// The decision about the last one; `None` when it was settled before or could not be read.
    pub record: Option<&'a DecisionRecord>,
}

/// What an import did, or with `dry_run` would do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct BackfillOutcome {
    /// Messages in the source.
    pub messages: u64,
    /// Delivered to the CRM.
    pub delivered: u64,
    /// Do not belong there, or are there already.
    pub discarded: u64,
    /// Put into quarantine.
    pub quarantined: u64,
    /// Settled before, by an earlier import or because the source holds the message twice, and passed over.
    pub passed_over: u64,
    /// An earlier import was resumed.
    pub resumed: bool,
    /// It was stopped before the end.
    pub interrupted: bool,
    /// Messages that could not be read, with the reason.
    pub problems: Vec<String>,
    /// What this run settled.
    #[serde(skip)]
    settled_now: HashSet<RemoteId>,
}

impl<'a> Backfill<'a> {
    /// Opens the source for a mailbox named by address, name or id.
    ///
    /// # Errors
    /// [`Error::Request`] for an unknown mailbox; the transport's error when the source cannot be read.
    pub async fn open(service: &'a Service, source: &Path, mailbox: &str) -> Result<Self> {
        service.connect().await;
        let named = service.mailbox(mailbox)?;
        // the same source under another spelling of its path is the same source
        let path =
            source.canonicalize().map_err(|e| Error::Io { what: source.display().to_string(), source: e })?;
        let memory = MailboxId::new(format!("import {} into {}", path.display(), named.mailbox.id));
        let (opened, limits) = (path.clone(), limits(&named));
        let total_bytes =
            blocking(move || import::open(&opened, limits).map(|s| s.progress().total_bytes)).await??;
        Ok(Self { service, named, path, total_bytes, memory })
    }

    /// Size of the source in bytes, as far as that is known without reading it.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Runs to the end, or until `stop`; calls `progress` after each message.
    ///
    /// # Errors
    /// What stops everything: the CRM or the state store fails, the source ends in an error. What was done until then stays done.
    pub async fn run(
        &self,
        options: BackfillOptions,
        stop: &watch::Receiver<bool>,
        mut progress: impl FnMut(BackfillProgress<'_>),
    ) -> Result<BackfillOutcome> {
        let mut messages = read(self.path.clone(), limits(&self.named));
        let mut outcome = BackfillOutcome::default();
        let mut bytes = 0;
        while let Some(next) = messages.recv().await {
            if *stop.borrow() {
                outcome.interrupted = true;
                break;
            }
            outcome.messages += 1;
            let record = match next {
                Ok(imported) => {
                    bytes += imported.message.size();
                    self.one(&imported, options, &mut outcome).await?
                }
                Err(error) if error.scope() == Scope::Message => {
                    outcome.problems.push(error.to_string());
                    None
                }
                Err(error) => return Err(error.into()),
            };
            progress(BackfillProgress { messages: outcome.messages, bytes, record: record.as_ref() });
        }
        Ok(outcome)
    }

    async fn one(
        &self,
        imported: &Imported,
        options: BackfillOptions,
        outcome: &mut BackfillOutcome,
    ) -> Result<Option<DecisionRecord>> {
        let state = self.service.state();
        let id = std::slice::from_ref(&imported.id);
        let seen = state.seen(&self.memory, id).await?;
        if !options.from_start && seen.into_iter().flatten().any(|s| s.settled.is_some()) {
            outcome.passed_over += 1;
            // the same message twice in an mbox has one id; only what an earlier import settled means that one is resumed
            outcome.resumed |= !outcome.settled_now.contains(&imported.id);
            return Ok(None);
        }
        if !options.dry_run {
            state.begin(&self.memory, id, self.service.now()).await?;
        }
        let mut record =
            match self.service.route(&self.named, &imported.message, false, options.dry_run).await {
                Ok(record) => record,
                Err(Error::Engine(error)) if error.scope() == Scope::Message => {
                    let reason = error.to_string();
                    outcome.quarantined += 1;
                    if !options.dry_run {
                        self.quarantine(imported, "crm-refused", &reason).await?;
                        self.settle(&imported.id, Verdict::Undeliverable, None).await?;
                    }
                    return Ok(None);
                }
                Err(error) => return Err(error),
            };
        record.remote_id = Some(imported.id.as_str().to_owned());
        match record.verdict {
            Verdict::Deliver => outcome.delivered += 1,
            Verdict::Discard | Verdict::LeftAlone => outcome.discarded += 1,
            Verdict::Undeliverable => {
                outcome.quarantined += 1;
                if !options.dry_run {
                    self.quarantine(imported, "unreadable", &record.because).await?;
                }
            }
        }
        if !options.dry_run {
            self.settle(&imported.id, record.verdict, record.activity_id).await?;
            outcome.settled_now.insert(imported.id.clone());
        }
        Ok(Some(record))
    }

    async fn settle(
        &self,
        id: &RemoteId,
        verdict: Verdict,
        activity_id: Option<email_router_model::ActivityId>,
    ) -> Result<()> {
        let settled = Settled {
            id: id.clone(),
            verdict,
            activity_id,
            disposition: "keep".to_owned(),
            at: self.service.now(),
        };
        Ok(self.service.state().settle(&self.memory, &[settled]).await?)
    }

    async fn quarantine(&self, imported: &Imported, class: &str, reason: &str) -> Result<()> {
        let headers = imported.message.headers();
        self.service
            .state()
            .quarantine_put(&QuarantineItem {
                id: 0,
                mailbox: self.named.mailbox.id.clone(),
                remote_id: imported.id.clone(),
                class: class.to_owned(),
                reason: format!("{reason} (imported from {})", self.path.display()),
                at: self.service.now(),
                attempts: 1,
                size: Some(imported.message.size()),
                message_id: headers.get("Message-ID").and_then(|t| email_router_model::MessageId::parse(&t)),
                from: headers.get("From"),
                subject: headers.get("Subject"),
                raw: Some(imported.message.bytes().clone()),
            })
            .await?;
        Ok(())
    }
}

/// Reads a source on a thread of its own, a few messages ahead; ends when nobody receives any more.
pub(crate) fn read(
    path: PathBuf,
    limits: ImportLimits,
) -> mpsc::Receiver<email_router_transport::Result<Imported>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut source = match import::open(&path, limits) {
            Ok(source) => source,
            Err(error) => {
                // nobody receives: the import ended
                let _ = sender.blocking_send(Err(error));
                return;
            }
        };
        loop {
            let (next, ends) = match source.next_message() {
                Ok(None) => return,
                Ok(Some(imported)) => (Ok(imported), false),
                Err(error) => {
                    let ends = error.scope() > Scope::Message;
                    (Err(error), ends)
                }
            };
            if sender.blocking_send(next).is_err() || ends {
                return;
            }
        }
    });
    receiver
}

pub(crate) fn limits(named: &NamedMailbox<'_>) -> ImportLimits {
    ImportLimits::default().with_max_message_bytes(named.settings.max_message_bytes)
}
