//! What a Graph transport needs to know.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use email_router_auth::CredentialSource;
use email_router_http::HttpService;
use email_router_http::oauth::Cloud;
use email_router_model::{Clock, EmailAddress, Entropy, SystemClock, SystemEntropy};
use url::Url;

/// How to reach Microsoft Graph and what to do there.
#[derive(Clone)]
pub struct GraphSettings {
    /// Sends the requests.
    pub http: Arc<dyn HttpService>,
    /// Where the service is, with its version and without a slash at the end.
    pub base: Url,
    /// Gives the access token for a mailbox. Its audience must be the cloud of [`Self::base`] ([`Cloud::graph_scope`]).
    pub credentials: Arc<dyn CredentialSource>,
    /// What deleting a message means.
    pub deletion: Deletion,
    /// In whose name mail is handed over.
    pub send_access: SendAccess,
    /// Messages a page of the listing; 1 to 1000.
    pub page_size: u32,
    /// Requests that are under way for one mailbox at the same time. Exchange Online serves 4 an application and mailbox and refuses the
    /// fifth (`MailboxConcurrency`).
    pub concurrency: usize,
    /// The largest body of a request, in bytes after base64. Graph takes 4 MB; a larger message goes out as a draft whose attachments
    /// are uploaded one by one.
    pub largest_request: usize,
    /// Bytes of one piece of an upload; rounded down to a multiple of 320 KiB, at least one. Microsoft advises less than 4 MB.
    pub upload_block: usize,
    /// Of so many messages, over all mailboxes, the listing is remembered between sessions, so that only changes are asked for. What does
    /// not fit is listed anew each time.
    pub remembered_messages: usize,
    /// Bytes of messages that are read ahead; one message is always allowed.
    pub read_ahead_bytes: u64,
    /// How often a request is sent at the most, where the service is throttling or fails for a moment.
    pub attempts: u32,
    /// The longest time that one call waits for a throttling service, all waits together; beyond it the caller is told to come back.
    pub longest_wait: Duration,
    /// The longest time for one request with all of its answer.
    pub operation_timeout: Duration,
    /// Tells the time, for delays that are given as a date.
    pub clock: Arc<dyn Clock>,
    /// Spreads the delays that the service does not name.
    pub entropy: Arc<dyn Entropy>,
}

impl GraphSettings {
    /// This cloud and these tokens. Deleted messages go to Deleted Items, each mailbox sends for itself; pages of 200, 4 requests at a
    /// time, 4 MiB a request, pieces of 3.75 MiB, 100 000 messages remembered, 32 MiB read ahead, 5 attempts within 2 minutes, 10 minutes
    /// a request.
    #[must_use]
    pub fn new(http: Arc<dyn HttpService>, cloud: Cloud, credentials: Arc<dyn CredentialSource>) -> Self {
        Self {
            http,
            base: base(cloud),
            credentials,
            deletion: Deletion::default(),
            send_access: SendAccess::default(),
            page_size: 200,
            concurrency: 4,
            largest_request: 4 << 20,
            upload_block: 12 * BLOCK_UNIT,
            remembered_messages: 100_000,
            read_ahead_bytes: 32 << 20,
            attempts: 5,
            longest_wait: Duration::from_secs(120),
            operation_timeout: Duration::from_secs(600),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
        }
    }
}

impl GraphSettings {
    /// [`Self::concurrency`] as it is used: at least one.
    pub(super) fn places(&self) -> u32 {
        u32::try_from(self.concurrency).unwrap_or(u32::MAX).clamp(1, 1000)
    }
}

/// The service of a cloud, with its version (Microsoft Graph, "national cloud deployments").
fn base(cloud: Cloud) -> Url {
    // the roots are literals
    #[allow(clippy::expect_used)]
    Url::parse(&format!("{}/v1.0", cloud.graph())).expect("a valid URL")
}

/// Pieces of an upload are multiples of this (Microsoft Graph, "upload large files"): 320 KiB.
pub(super) const BLOCK_UNIT: usize = 320 * 1024;

impl fmt::Debug for GraphSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GraphSettings")
            .field("base", &self.base.as_str())
            .field("deletion", &self.deletion)
            .field("send_access", &self.send_access)
            .field("page_size", &self.page_size)
            .field("concurrency", &self.concurrency)
            .field("largest_request", &self.largest_request)
            .finish_non_exhaustive()
    }
}

/// What deleting a message means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Deletion {
    /// It goes to Deleted Items, from where people can take it back.
    #[default]
    DeletedItems,
    /// It goes to the Purges folder of the recoverable items, which nobody sees (`permanentDelete`).
    Permanent,
}

/// In whose name mail is handed over.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SendAccess {
    /// Each mailbox hands over its own mail: application permission `Mail.Send`, or the user's own token.
    #[default]
    Mailbox,
    /// This account hands over all mail, in the name of the sender ("Send As"); it needs the right *Send As* on each mailbox. The copy is in
    /// the Sent Items of the account.
    SendAs(EmailAddress),
    /// This account hands over all mail, "on behalf of" the sender (Delegate Access): it stands in the field Sender. It needs the right *Send
    /// on Behalf* on each mailbox; where it has *Send As*, too, Exchange leaves Sender out. The copy is in the Sent Items of the account.
    OnBehalf(EmailAddress),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cloud_has_a_service() {
        for cloud in Cloud::ALL {
            assert_eq!(base(cloud).as_str(), format!("{}/v1.0", cloud.graph()));
        }
    }
}
