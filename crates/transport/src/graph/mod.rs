//! Microsoft Graph v1.0: Exchange Online mailboxes, in and out, and their inbox rules.
//!
//! | module | what |
//! |---|---|
//! | [`settings`] | which cloud, which tokens, which limits |
//! | [`proto`] | requests and answers without sockets |
//! | `client` | one mailbox: tokens, four requests at a time, patience with throttling |
//! | `listing` | the Inbox by delta queries, remembered between sessions; what the engine keeps of it over a restart |
//! | `inbox`, `reads`, `disposal` | [`Inbox`]: reading ahead, header sections and dispositions in batches |
//! | `submit`, `large` | sendMail with MIME; a draft and upload sessions for what is too large |
//! | `rules` | [`InboxRules`](crate::rules::InboxRules) by `messageRules` |
//! | `probe` | test access |
//! | `error` | the service's refusals, by kind, retry and scope |
//!
//! # Permissions
//! | for | least permission |
//! |---|---|
//! | reading and keeping | `Mail.Read` |
//! | deleting, moving, marking as read | `Mail.ReadWrite` |
//! | sending | `Mail.Send`; to find a message after a lost answer `Mail.Read`; beyond 3 MB `Mail.ReadWrite` |
//! | inbox rules | `MailboxSettings.Read`; to change them `MailboxSettings.ReadWrite` |
//!
//! As application permissions they reach every mailbox of the tenant, unless RBAC for Applications in Exchange Online (or an application access
//! policy, its predecessor) limits the application to some.
//!
//! # Mailboxes
//! A mailbox is named to the service by its login name where that is a user principal name (it has an `@`), else by its address.
//!
//! # Ids
//! A message's [`RemoteId`](email_router_model::RemoteId) is its immutable id: it stays the same when the message is moved within its mailbox.
//!
//! # What a message is
//! Exchange keeps no MIME: it writes it anew at each `$value`. Header fields come as they were on the way; the structure of the body may differ from
//! what was sent.

mod client;
mod disposal;
mod error;
mod inbox;
mod large;
mod listing;
mod probe;
pub mod proto;
mod reads;
mod rules;
pub mod settings;
mod submit;

pub use settings::{Deletion, GraphSettings, SendAccess};

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use email_router_model::{Mailbox, MessageId};

use crate::contract::{Access, Capability, Inbox, Outbound, Probe, Receipt, ReceiveOptions, SubmitOptions};
use crate::{Result, Transport};

use client::{Client, Service};
use inbox::GraphInbox;
use listing::Listings;

/// Exchange Online by Microsoft Graph. Cheap to share; remembers listings, but holds no session.
pub struct GraphTransport {
    service: Arc<Service>,
    listings: Arc<Listings>,
}

impl GraphTransport {
    /// A transport with these settings.
    #[must_use]
    pub fn new(settings: GraphSettings) -> Self {
        Self { service: Arc::new(Service::new(settings)), listings: Arc::default() }
    }

    fn client(&self, mailbox: &Mailbox) -> Client {
        Client::new(Arc::clone(&self.service), mailbox)
    }

    /// The mailbox through which a sender's mail is handed over.
    fn outgoing(&self, sender: &Mailbox) -> Client {
        match &self.service.settings.send_access {
            SendAccess::Mailbox => self.client(sender),
            SendAccess::SendAs(account) | SendAccess::OnBehalf(account) => {
                Client::of(Arc::clone(&self.service), sender, account.as_str())
            }
        }
    }
}

#[async_trait]
impl Transport for GraphTransport {
    fn capability(&self) -> Capability {
        let one_account = !matches!(self.service.settings.send_access, SendAccess::Mailbox);
        Capability {
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
            notifies: false,
            resumes: true,
            per_recipient_results: false,
            concurrent_submissions: one_account.then_some(self.service.settings.concurrency.max(1)),
        }
    }

    async fn probe(&self, mailbox: &Mailbox, access: Access) -> Result<Probe> {
        let client = match access {
            Access::Incoming => self.client(mailbox),
            Access::Outgoing => self.outgoing(mailbox),
        };
        probe::probe(&client, mailbox, access).await
    }

    async fn receive(&self, mailbox: &Mailbox, options: ReceiveOptions) -> Result<Box<dyn Inbox>> {
        let client = self.client(mailbox);
        let listed = self.listings.inbox(&client, options.resume.as_deref()).await?;
        Ok(Box::new(GraphInbox::new(client, Arc::clone(&self.listings), options, listed)))
    }

    async fn submit(&self, sender: &Mailbox, message: &Outbound, _: SubmitOptions) -> Result<Receipt> {
        let client = self.outgoing(sender);
        let mime = submit::prepare(client.place(), &self.service.settings.send_access, message)?;
        submit::submit(&client, message, mime).await
    }

    async fn find_submitted(&self, sender: &Mailbox, message_id: &MessageId) -> Result<Option<bool>> {
        submit::find(&self.outgoing(sender), message_id).await.map(Some)
    }
}

impl fmt::Display for GraphTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.service.place)
    }
}

impl fmt::Debug for GraphTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GraphTransport").field("settings", &self.service.settings).finish_non_exhaustive()
    }
}
