//! What the router shall do: which mailboxes, through which transports, how often.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use email_router_model::{Mailbox, MailboxId, RecordRef};
use email_router_transport::Transport;

use crate::{IncomingSettings, OutgoingSettings};

/// Everything the router shall do. Replaced as a whole when the configuration changes.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Mailboxes to read.
    pub incoming: Vec<Arc<IncomingRoute>>,
    /// Mailboxes to send for.
    pub outgoing: Vec<Arc<OutgoingRoute>>,
    /// How outgoing mail is sent, where [`Self::outgoing_by_mailbox`] does not say otherwise.
    pub outgoing_settings: OutgoingSettings,
    /// How the mail of single mailboxes is sent: profiles may have delays, attempts and sizes of their own. Mailboxes with equal
    /// settings are served by one pass, and passes run side by side.
    pub outgoing_by_mailbox: HashMap<MailboxId, OutgoingSettings>,
    /// When things run.
    pub schedule: Schedule,
}

impl Plan {
    /// The senders in groups that have one mail server and equal settings.
    pub(super) fn outgoing_lanes(&self) -> Vec<OutgoingLane<'_>> {
        let mut lanes: Vec<OutgoingLane<'_>> = Vec::new();
        let mut by_server: HashMap<String, Vec<usize>> = HashMap::new();
        for route in &self.outgoing {
            let settings = self.outgoing_by_mailbox.get(&route.mailbox.id).unwrap_or(&self.outgoing_settings);
            let server = route.transport.to_string();
            // as many lanes of one server as profiles, which are few
            let of_server = by_server.entry(server.clone()).or_default();
            match of_server.iter().find(|&&n| lanes[n].settings == settings) {
                Some(&n) => lanes[n].routes.push(route),
                None => {
                    of_server.push(lanes.len());
                    lanes.push(OutgoingLane { server, settings, routes: vec![route] });
                }
            }
        }
        lanes
    }
}

/// Senders that are served together; the lanes are served side by side, so that a slow server holds up nobody else's mail.
#[derive(Debug)]
pub(super) struct OutgoingLane<'a> {
    /// The name of the transport.
    pub(super) server: String,
    pub(super) settings: &'a OutgoingSettings,
    pub(super) routes: Vec<&'a OutgoingRoute>,
}

/// When things run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Schedule {
    /// Passes that run at the same time (`MaxThreads`).
    pub max_threads: usize,
    /// Longest time of a pass (`MaxThreadExecution`).
    pub max_thread_execution: Duration,
    /// How often the scheduler looks for passes that are due (`SchedulingPeriod`).
    pub scheduling_period: Duration,
    /// How often settings, users and queues are read from the CRM (`ConfigUpdatePeriod`).
    pub config_update_period: Duration,
    /// How often the CRM is asked for outgoing mail.
    pub outgoing_period: Duration,
    /// How long a stop waits for passes to end before it abandons them.
    pub stop_grace: Duration,
}

impl Default for Schedule {
    /// The published values; outgoing every 10 seconds; 30 seconds of grace.
    fn default() -> Self {
        Self {
            max_threads: 50,
            max_thread_execution: Duration::from_millis(600_000),
            scheduling_period: Duration::from_millis(1000),
            config_update_period: Duration::from_millis(3_600_000),
            outgoing_period: Duration::from_secs(10),
            stop_grace: Duration::from_secs(30),
        }
    }
}

/// A server that mailboxes share.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Server {
    /// Names the server: mailboxes with the same name share its limit and its back-off.
    pub name: String,
    /// Passes on it at the same time; where mailboxes of one server say different numbers, the least counts.
    pub max_sessions: usize,
}

/// One mailbox to read.
#[derive(Debug)]
pub struct IncomingRoute {
    /// The mailbox.
    pub mailbox: Mailbox,
    /// Its record in the CRM, when it has one (forward mailboxes may have none).
    pub record: Option<RecordRef>,
    /// How it is reached.
    pub transport: Arc<dyn Transport>,
    /// Names the messages' place: the login on a server, or the folder. When it changes, ids name other messages and what is remembered of
    /// the mailbox is forgotten ([`StateStore::read_from`](crate::StateStore::read_from)).
    pub source: String,
    /// How it is read.
    pub settings: IncomingSettings,
    /// How often.
    pub polling_period: Duration,
    /// Whether the mail system is asked to tell when mail arrives ([`Transport::wait_for_mail`]), on a connection of its own beside those of
    /// [`Server::max_sessions`]; the mailbox is read at once then, and every [`Self::polling_period`] all the same. No effect where it cannot.
    pub notify: bool,
    /// Where it lives.
    pub server: Server,
    /// Changes when anything about the route changes, its transport's settings included; an unchanged route keeps its schedule
    /// when the plan is replaced.
    pub fingerprint: u64,
}

/// One mailbox to send for.
#[derive(Debug)]
pub struct OutgoingRoute {
    /// The mailbox.
    pub mailbox: Mailbox,
    /// Its record in the CRM.
    pub record: RecordRef,
    /// How mail goes out.
    pub transport: Arc<dyn Transport>,
    /// As for [`IncomingRoute::fingerprint`].
    pub fingerprint: u64,
}
