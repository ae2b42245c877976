//! What an EWS transport needs to know.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use email_router_auth::CredentialSource;
use email_router_http::{HttpService, Scheme};
use email_router_model::{Clock, SystemClock};
use url::Url;

pub use super::autodiscover::{Autodiscover, SrvLookup, SrvTarget};
pub use super::proto::{DeleteType, Version};
use crate::{Error, ErrorKind, Result};

/// How to reach Exchange, and what may be done there.
#[derive(Clone)]
pub struct EwsSettings {
    /// Where EWS is.
    pub location: Location,
    /// The HTTP client.
    pub http: Arc<dyn HttpService>,
    /// How to log in.
    pub scheme: Scheme,
    /// Who logs in for a mailbox.
    pub credentials: Arc<dyn CredentialSource>,
    /// How a mailbox is reached for reading, and its rules for changing.
    pub access: MailboxAccess,
    /// In whose name mail is sent.
    pub sending: Sending,
    /// Where the copy of a sent message is kept. Without one nobody can find out what became of a submission whose answer was lost.
    pub sent_items: SentItems,
    /// What deleting does.
    pub delete_type: DeleteType,
    /// The version of the schema to begin with; older ones are tried where the server does not know it.
    pub version: Version,
    /// How many messages are asked for at once (EWSRetrieveMessageCount), 1 to 100.
    pub retrieve_count: usize,
    /// So many bytes of messages are asked for at once at the most, by the sizes the server told; a larger message is asked for alone. This and one
    /// message are what a session keeps in memory.
    pub batch_bytes: u64,
    /// How many ids one page of a listing has, 1 to 512.
    pub page: u32,
    /// So many ids of all mailboxes together are remembered between sessions at the most, so that the next listing asks for the changes alone; about 400 bytes
    /// each. Zero remembers none.
    pub remembered: usize,
    /// So many submissions run at the same time; 1 or more.
    pub concurrent_submissions: usize,
    /// A message larger than this is not sent. Bytes.
    pub max_message_bytes: u64,
    /// The longest time for one request and its answer together.
    pub request_timeout: Duration,
    /// The time, for delays that a server names as dates.
    pub clock: Arc<dyn Clock>,
}

/// Where EWS is.
#[derive(Debug, Clone)]
pub enum Location {
    /// At this URL, which ends in `/EWS/Exchange.asmx`.
    Url(Url),
    /// Where Autodiscover says, for each mailbox.
    Autodiscover(Autodiscover),
}

/// How a mailbox is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum MailboxAccess {
    /// The account that logs in has this mailbox as its own.
    #[default]
    Own,
    /// The account has Full Access to the mailbox.
    FullAccess,
    /// The account acts as the mailbox's user (the role ApplicationImpersonation), named by the primary address.
    Impersonation,
    /// The same, named by any address of the mailbox.
    ImpersonationByAnyAddress,
}

/// In whose name mail is sent: the original's *User Type* and *Access Type*.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Sending {
    /// User type *User*: the account sends from its own mailbox.
    #[default]
    Own,
    /// User type *Administrator*, access type *Delegate Access*: the account sends for the mailbox. Recipients see "account on behalf of
    /// mailbox".
    OnBehalfOf,
    /// User type *Administrator*, access type *Send As*: the account sends as the mailbox. Recipients see the mailbox alone.
    SendAs,
    /// The account acts as the mailbox's user (the role ApplicationImpersonation), named by the primary address.
    Impersonation,
}

/// Where the copy of a sent message is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SentItems {
    /// In the Sent Items of whoever sends: of the account, or with impersonation of the mailbox.
    #[default]
    OfSender,
    /// In the Sent Items of the mailbox, for which an account that sends for it needs Full Access.
    OfMailbox,
    /// Nowhere.
    None,
}

impl EwsSettings {
    /// This place, client, login and credentials; own mailbox, copies in Sent Items, deletion to Deleted Items, Exchange 2013, 10 messages and 8 MiB
    /// at once, pages of 512, 200,000 ids remembered, 4 submissions at once, 150 MiB, 10 minutes.
    #[must_use]
    pub fn new(
        location: Location,
        http: Arc<dyn HttpService>,
        scheme: Scheme,
        credentials: Arc<dyn CredentialSource>,
    ) -> Self {
        Self {
            location,
            http,
            scheme,
            credentials,
            access: MailboxAccess::default(),
            sending: Sending::default(),
            sent_items: SentItems::default(),
            delete_type: DeleteType::default(),
            version: Version::Exchange2013,
            retrieve_count: 10,
            batch_bytes: 8 << 20,
            page: 512,
            remembered: 200_000,
            concurrent_submissions: 4,
            max_message_bytes: 150 << 20,
            request_timeout: Duration::from_secs(600),
            clock: Arc::new(SystemClock),
        }
    }

    /// `ews mail.contoso.com`, as an administrator would name it.
    pub(super) fn place(&self) -> String {
        match &self.location {
            Location::Url(url) => place_of(url),
            Location::Autodiscover(_) => "ews by autodiscover".to_owned(),
        }
    }

    /// # Errors
    /// [`ErrorKind::Settings`] for values that cannot work.
    pub(super) fn check(&self) -> Result<()> {
        let wrong = |what: &str| Err(Error::new(ErrorKind::Settings, format!("{}: {what}", self.place())));
        if let Location::Url(url) = &self.location
            && (!matches!(url.scheme(), "http" | "https") || url.host_str().is_none())
        {
            return wrong("the URL must begin with https:// and name a server");
        }
        if let Location::Url(url) = &self.location
            && (!url.username().is_empty() || url.password().is_some())
        {
            return wrong("a name or password does not belong into the URL");
        }
        if !(1..=100).contains(&self.retrieve_count) {
            return wrong("between 1 and 100 messages can be asked for at once");
        }
        if !(1..=512).contains(&self.page) {
            return wrong("a page of a listing has between 1 and 512 ids");
        }
        if self.concurrent_submissions == 0 {
            return wrong("at least one submission must be allowed at a time");
        }
        if self.request_timeout.is_zero() {
            return wrong("a deadline of zero would let nothing succeed");
        }
        Ok(())
    }
}

/// `ews mail.contoso.com`, with the port where it is not the usual one.
pub(super) fn place_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("ews {host}:{port}"),
        None => format!("ews {host}"),
    }
}

impl fmt::Debug for EwsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EwsSettings")
            .field("location", &self.location)
            .field("http", &self.http)
            .field("scheme", &self.scheme)
            .field("access", &self.access)
            .field("sending", &self.sending)
            .field("sent_items", &self.sent_items)
            .field("delete_type", &self.delete_type)
            .field("version", &self.version)
            .field("retrieve_count", &self.retrieve_count)
            .field("batch_bytes", &self.batch_bytes)
            .field("page", &self.page)
            .field("remembered", &self.remembered)
            .field("concurrent_submissions", &self.concurrent_submissions)
            .field("max_message_bytes", &self.max_message_bytes)
            .field("request_timeout", &self.request_timeout)
            .finish_non_exhaustive()
    }
}
