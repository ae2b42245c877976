//! A person overrules the filters: release from quarantine.

use email_router_model::EmailAddress;

use super::correlate;
use super::{
    Decider, Decision, MailboxContext, OrganizationView, Trace, owner, parties, recipients, valid_sender,
};
use crate::Result;
use crate::message::Message;
use crate::record::{ReasonCode, Verdict};

impl Decider {
    /// The decision to deliver `message` to the owner of the mailbox it was found in, whatever the filters say. Correlation, parties, owner and
    /// queue items are as for any other message; an unknown sender gets a contact where `AutoCreateContactOnPromote` is on. A message without a valid sender gets the mailbox's own address as its sender,
    /// since an e-mail of the CRM has exactly one.
    ///
    /// A duplicate stays a duplicate: it is in the CRM already.
    ///
    /// # Errors
    /// What the CRM or the index said.
    pub async fn release(
        &self,
        view: &OrganizationView,
        mailbox: &MailboxContext<'_>,
        message: &Message,
    ) -> Result<Decision> {
        let decided = self.judge(view, mailbox, message, true).await?;
        if decided.verdict == Verdict::Deliver || decided.reason == ReasonCode::Duplicate {
            return Ok(decided);
        }
        let mut trace = Trace { steps: decided.record.steps, ..Trace::new(self.timed) };
        trace.step("release", format!("a person overrules: {}", decided.record.because));
        let from: &EmailAddress = valid_sender(message).unwrap_or(&mailbox.mailbox.address);
        let resolved = self.resolve(view, message, from).await?;
        let mut recipients = recipients::recipients(view, mailbox, message, &resolved, &mut trace);
        let read = recipients::mailbox_read(view, mailbox);
        if recipients.mailboxes.is_empty() {
            recipients.mailboxes.extend(read);
        }
        let sender = parties::sender(&resolved, from, read.and_then(owner::mailbox_owner), view.settings());
        let own = self.own_mail(view, message);
        let mut draft = self.draft(view, mailbox, message, own.as_ref());
        draft.report = decided.report;
        draft.released = true;
        let question = self.question(&draft, &sender, &resolved);
        let correlation = correlate::correlate(&question, &*self.index, &mut trace).await?;
        let why = (ReasonCode::AcceptAll, "released by a person".to_owned());
        Ok(draft.deliver(why, read, (from, &question), &recipients, correlation, trace))
    }
}
