//! How long senders and mail servers are left alone after failures, from one outgoing pass to the next.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use email_router_model::{Classified as _, Entropy, MailboxId, Scope};
use tokio::time::Instant;

use super::backoff;
use super::plan::OutgoingRoute;
use crate::outgoing::SenderReport;

/// The failures in a row of senders and servers. What failed is left alone for [`backoff::delay`], then tried with one e-mail.
#[derive(Debug, Default)]
pub(super) struct OutgoingBackoff {
    senders: HashMap<MailboxId, Trouble>,
    /// By the name of the transport.
    servers: HashMap<String, Trouble>,
    /// Senders of whom something was taken since the start, and no failure since.
    proven: HashSet<MailboxId>,
    /// How each sender was configured in the last pass.
    known: HashMap<MailboxId, u64>,
}

#[derive(Debug, Clone, Copy)]
struct Trouble {
    failures: u32,
    since: Instant,
    until: Instant,
}

/// Whether a sender is served now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// As usual.
    Served,
    /// One e-mail first: nothing of this sender went out since the start or since it failed (`Mailbox`), or the server failed
    /// (`Server`).
    Cautiously(Scope),
    /// Not before then.
    LeftAlone(Instant),
}

impl OutgoingBackoff {
    /// Takes over the senders of a plan. Who is new or configured differently is tried at once, and so is its server, since what
    /// was changed may be what was wrong.
    pub(super) fn take_over(&mut self, routes: &[Arc<OutgoingRoute>], now: Instant) {
        let known: HashMap<_, _> = routes.iter().map(|r| (r.mailbox.id.clone(), r.fingerprint)).collect();
        let before = std::mem::replace(&mut self.known, known);
        for route in routes {
            let id = &route.mailbox.id;
            if before.get(id).is_some_and(|fingerprint| *fingerprint != route.fingerprint) {
                self.senders.remove(id);
                self.proven.remove(id);
                if let Some(server) = self.servers.get_mut(&route.transport.to_string()) {
                    server.until = now;
                }
            }
        }
        self.senders.retain(|id, _| self.known.contains_key(id));
        self.proven.retain(|id| self.known.contains_key(id));
        if !self.servers.is_empty() {
            let used: Vec<String> = routes.iter().map(|r| r.transport.to_string()).collect();
            self.servers.retain(|name, _| used.contains(name));
        }
    }

    /// Whether this sender is served now.
    pub(super) fn turn(&self, id: &MailboxId, server: &str, now: Instant) -> Turn {
        let (sender, server) = (self.senders.get(id), self.servers.get(server));
        match [sender, server].into_iter().flatten().map(|t| t.until).max() {
            Some(until) if until > now => Turn::LeftAlone(until),
            _ if server.is_some() => Turn::Cautiously(Scope::Server),
            None if self.proven.contains(id) => Turn::Served,
            _ => Turn::Cautiously(Scope::Mailbox),
        }
    }

    /// Whether something is known against this sender or its server.
    pub(super) fn is_troubled(&self, id: &MailboxId, server: &str) -> bool {
        self.senders.contains_key(id) || self.servers.contains_key(server)
    }

    /// Takes note of what a pass said about a sender; gives how long it is left alone when that was a failure. `quiet`: how long an e-mail
    /// that failed waits, so that its sender failing no more means something only after that.
    pub(super) fn learn(
        &mut self,
        report: &SenderReport,
        server: &str,
        (period, quiet): (Duration, Duration),
        now: Instant,
        entropy: &dyn Entropy,
    ) -> Option<Duration> {
        let id = &report.mailbox;
        let Some(error) = &report.error else {
            if report.worked() > 0 {
                self.senders.remove(id);
                self.servers.remove(server);
                self.proven.insert(id.clone());
            } else if !report.left_alone && self.senders.get(id).is_some_and(|t| now - t.since >= quiet) {
                self.senders.remove(id);
            }
            return None;
        };
        self.proven.remove(id);
        let fresh = Trouble { failures: 0, since: now, until: now };
        let trouble = if error.scope() == Scope::Server {
            self.servers.entry(server.to_owned()).or_insert(fresh)
        } else {
            self.senders.entry(id.clone()).or_insert(fresh)
        };
        // what was under way together counts as one failure of the server
        if trouble.until <= now {
            // who got something out before it failed is not failing in a row
            trouble.failures = if report.sent > 0 { 1 } else { trouble.failures.saturating_add(1) };
            trouble.since = now;
            trouble.until = now + backoff::delay(error, trouble.failures, period, entropy);
        }
        Some(trouble.until - now)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use email_router_model::SeededEntropy;
    use email_router_transport::{Error, ErrorKind};

    use super::*;

    const PERIOD: Duration = Duration::from_secs(10);
    const QUIET: Duration = Duration::from_secs(300);

    fn report(id: &str, sent: u64, error: Option<ErrorKind>) -> SenderReport {
        SenderReport {
            sent,
            error: error.map(|kind| Error::new(kind, "x").into()),
            ..SenderReport::new(id.into())
        }
    }

    struct Play(OutgoingBackoff, Instant);
    impl Play {
        fn learn(&mut self, report: &SenderReport) -> u64 {
            let entropy = SeededEntropy::new(1);
            self.0.learn(report, "s", (PERIOD, QUIET), self.1, &entropy).map_or(0, |d| d.as_secs())
        }
        fn turn(&self, id: &str) -> Turn {
            self.0.turn(&id.into(), "s", self.1)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_sender_with_a_wrong_password_waits_alone() {
        let mut play = Play(OutgoingBackoff::default(), Instant::now());
        assert!((900..=990).contains(&play.learn(&report("ann", 0, Some(ErrorKind::Authentication)))));
        assert!(matches!(play.turn("ann"), Turn::LeftAlone(_)));
        assert_eq!(play.turn("bob"), Turn::Cautiously(Scope::Mailbox));
        play.1 += Duration::from_secs(1000);
        assert_eq!(play.turn("ann"), Turn::Cautiously(Scope::Mailbox));
        assert!(
            (1800..=1980).contains(&play.learn(&report("ann", 0, Some(ErrorKind::Authentication)))),
            "longer"
        );
        play.1 += Duration::from_secs(2000);
        play.learn(&report("ann", 1, None));
        assert_eq!(play.turn("ann"), Turn::Served);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_server_is_left_alone_by_all() {
        let mut play = Play(OutgoingBackoff::default(), Instant::now());
        play.learn(&report("ann", 0, Some(ErrorKind::Refused)));
        let once = play.turn("ann");
        play.learn(&report("bob", 0, Some(ErrorKind::Refused)));
        assert_eq!(play.turn("bob"), once, "what was under way together is one failure");
        play.1 += Duration::from_secs(12);
        assert_eq!(play.turn("cid"), Turn::Cautiously(Scope::Server));
        assert!((20..=22).contains(&play.learn(&report("cid", 0, Some(ErrorKind::Refused)))));
        play.1 += Duration::from_secs(30);
        play.learn(&report("cid", 1, None));
        assert_eq!(play.turn("cid"), Turn::Served);
        assert_eq!(play.turn("ann"), Turn::Cautiously(Scope::Mailbox));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_to_send_proves_nothing_until_the_failed_e_mail_is_due() {
        let mut play = Play(OutgoingBackoff::default(), Instant::now());
        play.learn(&report("ann", 0, Some(ErrorKind::ConnectionLost)));
        play.1 += Duration::from_secs(20);
        play.learn(&report("ann", 0, None));
        assert!(play.0.is_troubled(&"ann".into(), "s"));
        play.1 += QUIET;
        play.learn(&report("ann", 0, None));
        assert!(!play.0.is_troubled(&"ann".into(), "s"));
    }
}
