//! Exchange Web Services (EWS): Exchange Server 2007 SP1 and newer, and Exchange Online as long as it had EWS.
//!
//! | module | what |
//! |---|---|
//! | [`settings`] | where Exchange is, who logs in, in whose name |
//! | [`proto`] | requests and responses without a network |
//! | `client` | one request: place, login, version of the schema, faults |
//! | [`autodiscover`] | finding out where the EWS of a mailbox is |
//! | [`srv`] | looking up SRV records |
//! | `sync` | what is in an inbox, and what is remembered of it |
//! | `inbox` | [`Inbox`]: reading in batches, disposing |
//! | `outgoing` | sending, and looking for what was sent |
//! | `rules` | [`InboxRules`](crate::rules::InboxRules) |
//! | `notify` | streaming notifications |
//! | `error` | what Exchange refuses, by kind, retry and scope |
//!
//! # Ids
//! A message's [`RemoteId`](email_router_model::RemoteId) is its EWS item id. It stays the same between sessions, whatever is done to the message in its folder;
//! a message that is moved to another folder and back gets another id, and counts as a message that came again (the CRM then recognizes it by its Message-ID).
//!
//! # What a listing costs
//! The first session of a mailbox asks for all ids of the inbox, 512 in a request. Later sessions of the same transport ask for what changed since
//! ([`EwsSettings::remembered`]). Sizes in a listing are those of Exchange's own form; the message as MIME may be smaller or larger.
//!
//! # Reading
//! `GetItem` with the MIME content, as many at once as [`EwsSettings::retrieve_count`] and [`EwsSettings::batch_bytes`] allow of those that
//! [`Inbox::prefetch`] named. The base64 of a message is decoded as it arrives, so that a message is in memory once. The header section alone is
//! the one the message came with (`PR_TRANSPORT_MESSAGE_HEADERS`), else the fields that Exchange lists; a message that has neither is read whole. Nothing is
//! marked as read by reading. Exchange keeps no MIME: what it gives is written anew from its own form each time, so bytes need not be those that were sent.
//!
//! # Disposing
//! Each disposition takes effect at once. Deleting moves to Deleted Items or more ([`EwsSettings::delete_type`]); the folder of a move is found beside the inbox by its name, or made.
//! Neither marking nor deleting sends a read receipt.
//!
//! # Sending
//! One `CreateItem` with the MIME. What Exchange makes of it:
//!
//! - There is no envelope. The message goes to everybody in To and Cc, and to the other recipients as Bcc; one whose header names somebody who is
//!   no recipient is refused here. The reverse-path is always the address it is sent from, whatever [`Envelope::sender`](crate::Envelope) says, also for the null
//!   reverse-path.
//! - All recipients are taken or none; later failures come as non-delivery reports into the sender's mailbox.
//! - [`Sending::OnBehalfOf`] and [`Sending::SendAs`] name the mailbox as From of the item. Exchange puts the account as Sender, unless it has the
//!   right Send As, which counts more than Send on Behalf: an account with both always sends *as*. Without either the answer is `ErrorSendAsDenied`.
//! - The Message-ID stays the one of the message. With a copy in Sent Items ([`EwsSettings::sent_items`]) it is how
//!   [`Transport::find_submitted`] finds out what became of a submission whose answer was lost; without a copy nobody can tell.
//!
//! # Versions
//! Requests are written for [`EwsSettings::version`]; a server that does not know it is asked in older ones, down to Exchange 2007 SP1, and the transport remembers
//! which one it understood.

pub mod autodiscover;
mod client;
mod error;
mod inbox;
mod notify;
mod outgoing;
pub mod proto;
mod rules;
pub mod settings;
pub mod srv;
mod sync;

pub use autodiscover::{Autodiscover, Confirm, SrvLookup, SrvTarget};
pub use proto::{DeleteType, Version};
pub use settings::{EwsSettings, Location, MailboxAccess, Sending, SentItems};
pub use srv::NameServers;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use email_router_model::{Mailbox, MessageId};
use tokio::sync::Semaphore;
use url::Url;

use crate::{
    Access, Capability, Inbox, Outbound, Probe, ProbeStep, Receipt, ReceiveOptions, Result, SubmitOptions,
    Transport,
};
use client::{As, Client, Failure, Session};
use inbox::EwsInbox;
use proto::{Folder, Operation};
use sync::Memory;

/// Reads and sends by Exchange Web Services.
///
/// Cheap to share in an `Arc`; all calls may run at the same time. Holds no session; what it remembers of inboxes saves requests and is never needed.
pub struct EwsTransport {
    client: Arc<Client>,
    memory: Arc<Memory>,
    submissions: Semaphore,
    place: String,
}

impl EwsTransport {
    /// A transport with these settings.
    ///
    /// # Errors
    /// [`ErrorKind::Settings`](crate::ErrorKind::Settings) for values that cannot work.
    pub fn new(settings: EwsSettings) -> Result<Self> {
        settings.check()?;
        Ok(Self {
            memory: Memory::new(settings.remembered),
            submissions: Semaphore::new(settings.concurrent_submissions.min(Semaphore::MAX_PERMITS)),
            place: settings.place(),
            client: Arc::new(Client::new(settings)),
        })
    }

    /// Where the EWS of a mailbox is, with the steps that Autodiscover took to find out; none where the URL is set or known from before.
    pub async fn discover(&self, mailbox: &Mailbox) -> (Vec<ProbeStep>, Result<Url>) {
        let mut steps = Vec::new();
        let session = self.client.session_with(mailbox, &mut steps).await;
        (steps, session.map(|session| session.url().clone()))
    }

    /// Test access, with what it did; tells how many messages wait.
    async fn look(
        &self,
        mailbox: &Mailbox,
        access: Access,
        steps: &mut Vec<ProbeStep>,
    ) -> Result<Option<u64>> {
        let mut session = self.client.session_with(mailbox, steps).await?;
        match access {
            Access::Incoming => self.probe_incoming(&mut session, steps).await,
            Access::Outgoing => self.probe_outgoing(&mut session, steps).await.map(|()| None),
        }
    }

    async fn probe_incoming(&self, session: &mut Session, steps: &mut Vec<ProbeStep>) -> Result<Option<u64>> {
        let settings = self.client.settings.clone();
        let (mailbox, who) = (session.identity.mailbox.clone(), As::reader(settings.access));
        let folder = folder_of(settings.access, "inbox", &mailbox);
        let opened = session.ask_one(&Operation::GetFolder(folder), "open the inbox", who).await;
        let answer = self.answered(session, steps, opened)?;
        let count = answer.folders().first().and_then(|(_, count)| *count);
        let how = match settings.access {
            MailboxAccess::Own => "as its own mailbox",
            MailboxAccess::FullAccess => "with Full Access",
            MailboxAccess::Impersonation | MailboxAccess::ImpersonationByAnyAddress => "by impersonation",
        };
        steps.push(step(format!("opened the inbox of {} {how}", mailbox.address), None));
        // a folder may be seen by those who may not read it
        session.ask_one(&Operation::FindFirst(folder), "list the inbox", who).await?;
        let what =
            count.map_or_else(|| "listed the inbox".to_owned(), |count| format!("listed {count} messages"));
        steps.push(step(what, None));
        Ok(count)
    }

    async fn probe_outgoing(&self, session: &mut Session, steps: &mut Vec<ProbeStep>) -> Result<()> {
        let settings = self.client.settings.clone();
        let (mailbox, who) = (session.identity.mailbox.clone(), outgoing::sender(settings.sending));
        let copies = outgoing::copies(settings.sending, settings.sent_items, &mailbox);
        let folder = copies.unwrap_or(Folder::Distinguished("msgfolderroot", None));
        let doing = "open the folder of sent messages";
        let opened = session.ask_one(&Operation::GetFolder(folder), doing, who).await;
        self.answered(session, steps, opened)?;
        match copies {
            Some(_) => steps.push(step("opened Sent Items".to_owned(), None)),
            None => steps.push(step(
                "no copies in Sent Items".to_owned(),
                Some("where an answer is lost nobody can tell whether the message was sent"),
            )),
        }
        let sender = format!("smtp:{}", mailbox.address);
        match session.ask_one(&Operation::ResolveNames(&sender), "look up the sender", who).await {
            Ok(_) => steps.push(step(format!("the address book has {}", mailbox.address), None)),
            Err(failure)
                if failure.code.as_deref().is_some_and(|code| code.starts_with("ErrorNameResolution")) =>
            {
                let what = format!("looked up {} in the address book", mailbox.address);
                steps.push(step(what, Some("it is not there; Exchange may refuse it as a sender")));
            }
            Err(failure) => return Err(failure.error),
        }
        let (what, warning) = match settings.sending {
            Sending::Own => (
                "sends from the account's own mailbox",
                "that the mailbox is the account's own shows only when something is sent".to_owned(),
            ),
            Sending::OnBehalfOf => (
                "sends on behalf of the mailbox",
                format!(
                    "the right Send on Behalf shows only when something is sent; {}",
                    error::send_on_behalf(&session.about())
                ),
            ),
            Sending::SendAs => (
                "sends as the mailbox",
                format!(
                    "the right Send As shows only when something is sent; {}",
                    error::send_as(&session.about())
                ),
            ),
            Sending::Impersonation => {
                steps.push(step("may act as the mailbox".to_owned(), None));
                return Ok(());
            }
        };
        steps.push(step(what.to_owned(), Some(&warning)));
        Ok(())
    }

    /// The first answer of a server: who is refused by a response code has logged in.
    fn answered<T>(
        &self,
        session: &Session,
        steps: &mut Vec<ProbeStep>,
        answer: Result<T, Failure>,
    ) -> Result<T> {
        if let Err(Failure { error, code: None, .. }) = answer {
            return Err(error);
        }
        let server = self.client.server().map_or_else(String::new, |server| format!(", Exchange {server}"));
        let version = self.client.version();
        steps.push(step(format!("connected to {}{server}, schema {version}", session.place), None));
        let insecure = session.url().scheme() != "https";
        let warning = insecure.then_some("the login was sent without TLS");
        steps.push(step(format!("logged in with {}", self.client.settings.scheme), warning));
        Ok(answer?)
    }
}

fn step(what: String, warning: Option<&str>) -> ProbeStep {
    ProbeStep { what, warning: warning.map(str::to_owned) }
}

/// A folder that every mailbox has, as the access names it.
fn folder_of<'a>(access: MailboxAccess, name: &'static str, mailbox: &'a Mailbox) -> Folder<'a> {
    Folder::Distinguished(name, (access == MailboxAccess::FullAccess).then_some(&mailbox.address))
}

#[async_trait]
impl Transport for EwsTransport {
    fn capability(&self) -> Capability {
        let settings = &self.client.settings;
        Capability {
            notifies: self.client.version() >= Version::Exchange2010Sp1,
            resumes: true,
            receive: true,
            submit: true,
            stable_ids: true,
            headers_alone: true,
            delete: true,
            mark_read: true,
            move_to_folder: true,
            find_submitted: settings.sent_items != SentItems::None,
            concurrent_submissions: Some(settings.concurrent_submissions),
            ..Capability::default()
        }
    }

    /// Incoming: finds the server, logs in, opens and lists the inbox. Outgoing: finds the server, logs in, opens the folder of the copies and looks the sender
    /// up; whether the account may send in the mailbox's name shows only when it does.
    async fn probe(&self, mailbox: &Mailbox, access: Access) -> Result<Probe> {
        // test access asks anew where the mailbox is
        self.client.forget(mailbox);
        let mut steps = Vec::new();
        match self.look(mailbox, access, &mut steps).await {
            Ok(messages) => Ok(Probe { steps, messages }),
            Err(error) => Err(error.with_steps(steps)),
        }
    }

    async fn receive(&self, mailbox: &Mailbox, options: ReceiveOptions) -> Result<Box<dyn Inbox>> {
        let settings = &self.client.settings;
        let mut session = self.client.session(mailbox).await?;
        let (folder, who) = (folder_of(settings.access, "inbox", mailbox), As::reader(settings.access));
        let resume = options.resume.clone();
        let (most, memory) = (options.max_messages, &self.memory);
        let listed = sync::list(memory, &mut session, folder, who, most, resume.as_deref()).await?;
        let token = listed.changed.then(|| memory.token(&session.place, mailbox)).flatten();
        Ok(Box::new(EwsInbox::new(session, who, options, listed.stubs, token)))
    }

    async fn submit(&self, sender: &Mailbox, message: &Outbound, options: SubmitOptions) -> Result<Receipt> {
        let _permit = self.submissions.acquire().await;
        let mut session = self.client.session(sender).await?;
        let result = outgoing::submit(&mut session, message, &options).await;
        match &result {
            Ok(_) => {
                tracing::debug!(server = %session.place, message_id = %message.message_id, "message handed over");
            }
            Err(why) => {
                tracing::debug!(server = %session.place, message_id = %message.message_id, %why, "message not handed over");
            }
        }
        result
    }

    async fn find_submitted(&self, sender: &Mailbox, message_id: &MessageId) -> Result<Option<bool>> {
        if self.client.settings.sent_items == SentItems::None {
            return Ok(None);
        }
        let mut session = self.client.session(sender).await?;
        outgoing::find(&mut session, message_id).await
    }

    async fn wait_for_mail(&self, mailbox: &Mailbox, limit: Duration) -> Result<bool> {
        notify::wait(&self.client, &self.memory, mailbox, limit).await
    }
}

impl fmt::Display for EwsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)
    }
}

impl fmt::Debug for EwsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EwsTransport").field("settings", &self.client.settings).finish_non_exhaustive()
    }
}
