//! What was decided about past messages, and what would be decided about them under other settings.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use email_router_crm::{
    Attachment, Claim, CrmClient, CrmMailbox, Delivered, DeliveryReport, EmailLookup, EmailSummary,
    FilteringMethod, IncomingEmail, OrganizationSettings, OutgoingEmail, PendingEmail, PendingQuery,
    Resolution, SendOutcome,
};
use email_router_engine::decide::{Decider, MailboxContext, OrganizationView};
use email_router_engine::message::Message;
use email_router_engine::ports::{CrmIndex, DecisionNote, DecisionQuery};
use email_router_engine::{DecisionRecord, KeptHeader, Verdict};
use email_router_model::{
    ActivityId, Classified as _, EmailAddress, MessageId, OrganizationId, RecordRef, Scope, Timestamp,
};
use serde::Serialize;

use crate::service::NamedMailbox;
use crate::{Error, Result, Service, backfill};

/// At most this many decisions about one message are shown.
const MAX_WHY: usize = 100;

/// A change of policy that [`Service::replay`] tries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyChange {
    /// A setting of the organization, by its Dataverse name, and its value as text.
    Setting(String, String),
    /// The filter of the user or queue with this address.
    Filter(EmailAddress, FilteringMethod),
}

/// Where the past messages are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplaySource {
    /// The decisions the state keeps, noted since this time; those whose header section was kept can be made anew.
    State(Timestamp),
    /// A Maildir, an mbox file, an `.eml` file or a folder of them, judged as if found in the mailbox of this name.
    Path(PathBuf, String),
}

/// What changes for one message.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReplayChange {
    /// The decision under the settings as they are.
    pub now: DecisionRecord,
    /// The decision under the changed ones.
    pub then: DecisionRecord,
    /// What differs, one line each.
    pub differences: Vec<String>,
}

/// What a replay found.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct ReplayOutcome {
    /// Messages decided anew.
    pub messages: u64,
    /// Of these, without a difference.
    pub unchanged: u64,
    /// Of these, delivered under the settings as they are, and under the changed ones.
    pub delivered: (u64, u64),
    /// Messages that could not be decided anew: their header section was not kept, their mailbox is gone, they cannot be read.
    pub passed_over: u64,
    /// Of these, with a header section that is too long to be kept. They can be given to a replay themselves ([`ReplaySource::Path`]).
    pub too_long: u64,
}

impl Service {
    /// What was decided about the message with this Message-ID, or about the activity with this id, newest first. [`DecisionNote::kept`] says
    /// whether [`Self::replay`] can decide about it again.
    ///
    /// # Errors
    /// [`Error::Request`] for a text that is neither; the state store's.
    pub async fn why(&self, id: &str) -> Result<Vec<DecisionNote>> {
        let query = match (id.parse::<ActivityId>(), MessageId::parse(id)) {
            (Ok(activity), _) => DecisionQuery::Activity(activity),
            (_, Some(message_id)) => DecisionQuery::MessageId(message_id),
            _ => {
                return Err(Error::Request(format!(
                    "{id:?} is neither a Message-ID, such as <1@example.com>, nor the id of an activity"
                )));
            }
        };
        Ok(self.state().decisions(&query, MAX_WHY).await?)
    }

    /// Decides anew about past messages, under the settings as they are and under changed ones, and tells where the two differ. Writes
    /// nothing.
    ///
    /// The CRM is looked at as it was when a message came: the e-mail that it became, and all that came after it, do not count. Records
    /// and addresses are those of today. Both decisions are made from the header section. Of one that was longer than 32 KiB the state has
    /// the fields that decisions read, which decide the same; where those alone are longer, the message is passed over
    /// ([`ReplayOutcome::too_long`]) rather than decided from a part of them.
    ///
    /// # Errors
    /// [`Error::Request`] for a change that cannot be made or an unknown mailbox; what the CRM or the source says.
    pub async fn replay(
        &self,
        source: &ReplaySource,
        changes: &[PolicyChange],
        limit: usize,
        mut tell: impl FnMut(ReplayChange) + Send,
    ) -> Result<ReplayOutcome> {
        self.connect().await;
        let mut replay =
            Replay { changes, views: HashMap::new(), outcome: ReplayOutcome::default(), tell: &mut tell };
        match source {
            ReplaySource::State(since) => {
                let query = DecisionQuery::Between(*since, Timestamp::MAX);
                let mut notes = self.state().decisions(&query, limit).await?;
                notes.reverse();
                for note in notes {
                    let (Some(header), Ok(named)) = (&note.header, self.mailbox(note.mailbox.as_str()))
                    else {
                        replay.outcome.passed_over += 1;
                        replay.outcome.too_long += u64::from(matches!(note.kept, KeptHeader::TooLong { .. }));
                        continue;
                    };
                    let message = Message::from_headers(header, &named.settings.caps);
                    replay.one(&named, &message, Some(note.at)).await?;
                }
            }
            ReplaySource::Path(path, mailbox) => {
                let named = self.mailbox(mailbox)?;
                let mut messages = backfill::read(path.clone(), backfill::limits(&named));
                for _ in 0..limit {
                    match messages.recv().await {
                        None => break,
                        Some(Ok(imported)) => {
                            // read whole, since the identity of a message without Message-ID depends on it
                            let message = Message::parse(&imported.message, &named.settings.caps);
                            replay.one(&named, &message, None).await?;
                        }
                        Some(Err(error)) if error.scope() == Scope::Message => {
                            replay.outcome.passed_over += 1
                        }
                        Some(Err(error)) => return Err(error.into()),
                    }
                }
            }
        }
        Ok(replay.outcome)
    }
}

/// A replay in the making.
struct Replay<'a> {
    changes: &'a [PolicyChange],
    /// Of each organization by its name: as it is, and with the changes.
    views: HashMap<String, (OrganizationView, OrganizationView)>,
    outcome: ReplayOutcome,
    tell: &'a mut (dyn FnMut(ReplayChange) + Send),
}

impl Replay<'_> {
    async fn one(
        &mut self,
        named: &NamedMailbox<'_>,
        message: &Message,
        decided: Option<Timestamp>,
    ) -> Result<()> {
        let crm = named.organization.crm();
        let name = named.organization.name();
        if !self.views.contains_key(name) {
            let now = OrganizationView::load(&**crm).await?;
            let then = changed_view(&now, self.changes)?;
            self.views.insert(name.to_owned(), (now, then));
        }
        let Some((now, then)) = self.views.get(name) else { return Ok(()) };
        let own = message.activity_id(now.id());
        let before = match (decided, own) {
            (Some(at), _) => Some(at),
            (None, Some(own)) => {
                let found = crm.find_emails(&EmailLookup::Ids(vec![own]), 1).await.map_err(crm_error)?;
                found.first().map(|email| email.created_on)
            }
            (None, None) => None,
        };
        let past: Arc<dyn CrmClient> =
            Arc::new(Past { crm: Arc::clone(crm), own, message_id: message.message_id.clone(), before });
        let decider = Decider::new(Arc::clone(&past), Arc::new(CrmIndex(past)));
        let context = MailboxContext::new(&named.mailbox, named.record.clone());
        let now = decider.decide(now, &context, message).await?;
        let then = decider.decide(then, &context, message).await?;
        self.outcome.messages += 1;
        self.outcome.delivered.0 += u64::from(now.verdict == Verdict::Deliver);
        self.outcome.delivered.1 += u64::from(then.verdict == Verdict::Deliver);
        let differences = differences(&now.record, &then.record);
        if differences.is_empty() {
            self.outcome.unchanged += 1;
        } else {
            (self.tell)(ReplayChange { now: now.record, then: then.record, differences });
        }
        Ok(())
    }
}

fn crm_error(error: email_router_crm::Error) -> Error {
    Error::Engine(error.into())
}

/// The view with the changes made.
fn changed_view(view: &OrganizationView, changes: &[PolicyChange]) -> Result<OrganizationView> {
    let mut settings = view.settings().clone();
    let mut mailboxes = view.mailboxes().to_vec();
    for change in changes {
        match change {
            PolicyChange::Setting(name, text) => {
                settings = email_router_crm::changed_settings(&settings, name, text).map_err(crm_error)?;
            }
            PolicyChange::Filter(address, filter) => {
                let mut found =
                    mailboxes.iter_mut().filter(|m| m.address.as_ref() == Some(address)).peekable();
                if found.peek().is_none() {
                    return Err(Error::Request(format!(
                        "no user or queue of the CRM has the address {address}"
                    )));
                }
                found.for_each(|mailbox| mailbox.filter = *filter);
            }
        }
    }
    Ok(OrganizationView::new(*view.id(), settings, mailboxes))
}

/// What differs for the people who read the CRM.
fn differences(now: &DecisionRecord, then: &DecisionRecord) -> Vec<String> {
    fn text<T: ToString>(value: Option<T>) -> String {
        value.map_or_else(|| "none".to_owned(), |v| v.to_string())
    }
    let hit = |r: &DecisionRecord| {
        text(r.correlated.as_ref().map(|c| format!("{:?} ({}, by {})", c.subject, c.activity_id, c.method)))
    };
    let list = |records: &[RecordRef]| {
        text(
            (!records.is_empty())
                .then(|| records.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        )
    };
    let parties = |r: &DecisionRecord| -> String {
        let all: Vec<String> =
            r.parties.iter().map(|p| format!("{} is {}", p.address, text(p.record.as_ref()))).collect();
        text((!all.is_empty()).then(|| all.join(", ")))
    };
    [
        (
            "verdict",
            format!("{:?} {}", now.verdict, now.reason),
            format!("{:?} {}", then.verdict, then.reason),
        ),
        ("answers", hit(now), hit(then)),
        ("regarding", text(now.regarding.as_ref()), text(then.regarding.as_ref())),
        ("owner", text(now.owner.as_ref()), text(then.owner.as_ref())),
        ("queue items", list(&now.queues), list(&then.queues)),
        ("parties", parties(now), parties(then)),
        ("automatic", text(now.automatic.as_ref()), text(then.automatic.as_ref())),
    ]
    .into_iter()
    .filter(|(_, now, then)| now != then)
    .map(|(what, now, then)| format!("{what}: {now} -> {then}"))
    .collect()
}

/// A CRM as it was before one message came: without what that message became, and without what came later. Nothing can be written
/// through it.
#[derive(Debug)]
struct Past {
    crm: Arc<dyn CrmClient>,
    own: Option<ActivityId>,
    message_id: Option<MessageId>,
    before: Option<Timestamp>,
}

impl std::fmt::Display for Past {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} as it was", self.crm)
    }
}

impl Past {
    fn was_there(&self, email: &EmailSummary) -> bool {
        let itself = Some(email.activity_id) == self.own
            || (!email.outgoing && email.message_id.is_some() && email.message_id == self.message_id);
        !itself && self.before.is_none_or(|before| email.created_on < before)
    }

    fn read_only<T>(&self) -> email_router_crm::Result<T> {
        Err(email_router_crm::Error::new(
            email_router_crm::ErrorKind::Invalid,
            format!("{self} cannot be changed"),
        ))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl CrmClient for Past {
    fn organization_id(&self) -> OrganizationId {
        self.crm.organization_id()
    }
    async fn settings(&self) -> email_router_crm::Result<OrganizationSettings> {
        self.crm.settings().await
    }
    async fn mailboxes(&self) -> email_router_crm::Result<Vec<CrmMailbox>> {
        self.crm.mailboxes().await
    }
    async fn resolve(&self, addresses: &[EmailAddress]) -> email_router_crm::Result<Vec<Vec<Resolution>>> {
        self.crm.resolve(addresses).await
    }
    async fn find_emails(
        &self,
        by: &EmailLookup,
        limit: usize,
    ) -> email_router_crm::Result<Vec<EmailSummary>> {
        // what is left out must not take the place of what is wanted
        const HIDDEN: usize = 64;
        let mut found = self.crm.find_emails(by, limit.saturating_add(HIDDEN)).await?;
        found.retain(|email| self.was_there(email));
        found.truncate(limit);
        Ok(found)
    }
    async fn exists(&self, id: &ActivityId) -> email_router_crm::Result<bool> {
        if Some(*id) == self.own { Ok(false) } else { self.crm.exists(id).await }
    }
    async fn check_incoming(
        &self,
        _: &email_router_crm::IncomingCheck,
    ) -> email_router_crm::Result<email_router_crm::Verdict> {
        // a CRM that decides says what it makes of the message now, which is that it has it
        Ok(email_router_crm::Verdict::RouterDecides)
    }
    async fn deliver_incoming(&self, _: IncomingEmail) -> email_router_crm::Result<Delivered> {
        self.read_only()
    }
    async fn pending_outgoing(&self, _: &PendingQuery) -> email_router_crm::Result<Vec<PendingEmail>> {
        self.read_only()
    }
    async fn claim(&self, _: &PendingEmail) -> email_router_crm::Result<Claim> {
        self.read_only()
    }
    async fn outgoing_email(&self, id: &ActivityId) -> email_router_crm::Result<OutgoingEmail> {
        self.crm.outgoing_email(id).await
    }
    async fn attachments(&self, id: &ActivityId) -> email_router_crm::Result<Vec<Attachment>> {
        self.crm.attachments(id).await
    }
    async fn prepare_outgoing(
        &self,
        _: &ActivityId,
        _: &MessageId,
        _: bool,
    ) -> email_router_crm::Result<OutgoingEmail> {
        self.read_only()
    }
    async fn finish(&self, _: &ActivityId, _: &SendOutcome) -> email_router_crm::Result<()> {
        self.read_only()
    }
    async fn record_delivery(&self, _: &DeliveryReport) -> email_router_crm::Result<bool> {
        self.read_only()
    }
}
