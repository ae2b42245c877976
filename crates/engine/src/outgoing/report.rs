//! What a pass did.

use email_router_crm::SendOutcome;
use email_router_model::MailboxId;

use crate::Error;

/// What a pass did, in all and for each sender.
#[derive(Debug, Default)]
pub struct OutgoingReport {
    /// E-mails the mail system took.
    pub sent: u64,
    /// E-mails that went back to Pending Send.
    pub retried: u64,
    /// E-mails given up.
    pub failed: u64,
    /// E-mails of which nobody knows whether they went out, reported to the CRM.
    pub in_doubt: u64,
    /// E-mails in doubt that the mail system may still tell about; the next pass asks again.
    pub undecided: u64,
    /// E-mails that somebody else changed or took between listing and claim.
    pub lost_claims: u64,
    /// How many of all these were left behind by an earlier pass.
    pub recovered: u64,
    /// It was stopped, or its time was over, before all that was pending had its turn.
    pub ended_early: bool,
    /// The same for each sender, in the order given.
    pub senders: Vec<SenderReport>,
}

/// What a pass did for one sender.
#[derive(Debug)]
pub struct SenderReport {
    /// The sender's mailbox.
    pub mailbox: MailboxId,
    /// E-mails the mail system took.
    pub sent: u64,
    /// E-mails that went back to Pending Send.
    pub retried: u64,
    /// E-mails given up.
    pub failed: u64,
    /// E-mails of which nobody knows whether they went out.
    pub in_doubt: u64,
    /// E-mails left for the next pass to find out.
    pub undecided: u64,
    /// How many of all these were left behind by an earlier pass.
    pub recovered: u64,
    /// The first error that concerns more than one e-mail: wrong password, server down. The rest of this sender was left alone.
    pub error: Option<Error>,
    /// The sender was left alone because the server failed for another one.
    pub left_alone: bool,
}

impl SenderReport {
    pub(crate) fn new(mailbox: MailboxId) -> Self {
        Self {
            mailbox,
            sent: 0,
            retried: 0,
            failed: 0,
            in_doubt: 0,
            undecided: 0,
            recovered: 0,
            error: None,
            left_alone: false,
        }
    }

    /// E-mails that had their turn, without those of which an earlier pass had left only the end to be told.
    #[must_use]
    pub fn worked(&self) -> u64 {
        (self.sent + self.retried + self.failed + self.in_doubt + self.undecided)
            .saturating_sub(self.recovered)
    }
}

impl OutgoingReport {
    pub(super) fn new(mailboxes: impl Iterator<Item = MailboxId>) -> Self {
        Self { senders: mailboxes.map(SenderReport::new).collect(), ..Self::default() }
    }

    /// Adds what another pass did, for other senders.
    pub fn add(&mut self, other: Self) {
        let Self { sent, retried, failed, in_doubt, undecided, lost_claims, recovered, ended_early, senders } =
            other;
        self.sent += sent;
        self.retried += retried;
        self.failed += failed;
        self.in_doubt += in_doubt;
        self.undecided += undecided;
        self.lost_claims += lost_claims;
        self.recovered += recovered;
        self.ended_early |= ended_early;
        self.senders.extend(senders);
    }

    pub(super) fn count(&mut self, sender: usize, outcome: &SendOutcome) {
        let of = &mut self.senders[sender];
        let (all, one) = match outcome {
            SendOutcome::Sent { .. } => (&mut self.sent, &mut of.sent),
            SendOutcome::Retry { .. } => (&mut self.retried, &mut of.retried),
            SendOutcome::Failed { .. } => (&mut self.failed, &mut of.failed),
            SendOutcome::InDoubt { .. } => (&mut self.in_doubt, &mut of.in_doubt),
        };
        *all += 1;
        *one += 1;
    }

    pub(super) fn count_recovered(&mut self, sender: usize) {
        self.recovered += 1;
        self.senders[sender].recovered += 1;
    }

    pub(super) fn count_undecided(&mut self, sender: usize) {
        self.undecided += 1;
        self.senders[sender].undecided += 1;
    }
}
