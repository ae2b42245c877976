//! A CRM in memory that keeps the whole contract (the suite runs against it in `incoming.rs`), fast enough for thousands of
//! crashes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use email_router_crm::conformance::{Fixture, Seed};
use email_router_crm::smart::SmartHasher;
use email_router_crm::token::{TokenFormat, append_token};
use email_router_crm::{
    Approval, Attachment, Claim, CrmClient, CrmMailbox, Delivered, DeliveryAction, DeliveryMethod,
    DeliveryReport, EmailLookup, EmailStatus, EmailSummary, Error, ErrorKind, FilteringMethod, IncomingEmail,
    NewSender, OrganizationSettings, OutgoingEmail, ParticipationType, Party, PendingEmail, PendingQuery,
    Priority, RecipientReport, Resolution, Result, SendOutcome, SmartHashes,
};
use email_router_model::{
    ActivityId, Clock, EmailAddress, Entropy as _, MailboxKind, ManualClock, MessageId, OrganizationId,
    RecordRef, SeededEntropy, Timestamp,
};
use uuid::Uuid;

#[derive(Debug, Clone)]
struct Row {
    mailbox: CrmMailbox,
    is_mailbox: bool,
    created_on: Timestamp,
}

#[derive(Debug, Clone)]
pub struct Email {
    pub id: ActivityId,
    pub outgoing: bool,
    pub message_id: Option<MessageId>,
    pub references: Vec<MessageId>,
    pub subject: String,
    pub body: String,
    pub parties: Vec<Party>,
    pub regarding: Option<RecordRef>,
    pub owner: Option<RecordRef>,
    pub token: Option<String>,
    pub parent: Option<ActivityId>,
    pub attachments: Vec<Attachment>,
    pub status: EmailStatus,
    pub sender: Option<RecordRef>,
    pub version: u64,
    pub attempts: u32,
    pub priority: Priority,
    pub created_on: Timestamp,
    pub modified_on: Timestamp,
    pub not_before: Option<Timestamp>,
    pub in_doubt: bool,
    pub conversation_index: Option<String>,
    pub conversation_id: Option<String>,
    pub smart: SmartHashes,
    /// What was reported about each recipient, and when; the last word.
    pub reported: Vec<(RecipientReport, Timestamp)>,
    /// Reports that were taken in.
    pub reports: HashSet<String>,
}

type MakeError = Arc<dyn Fn() -> Error + Send + Sync>;

#[derive(Default)]
struct Data {
    settings: OrganizationSettings,
    rows: Vec<Row>,
    emails: Vec<Email>,
    deleted: HashSet<ActivityId>,
    queue_items: Vec<(Uuid, ActivityId)>,
    tokens: HashMap<RecordRef, (u32, u32)>,
    created: u128,
    /// By name of the call: whether it takes effect before it fails, and how it fails.
    failures: HashMap<&'static str, VecDeque<(bool, MakeError)>>,
    calls: HashMap<&'static str, usize>,
    /// Delivering a message with this subject panics.
    poison: Option<String>,
}

/// The CRM.
pub struct MemoryCrm {
    data: Mutex<Data>,
    clock: Arc<dyn Clock>,
    advance: Option<Arc<ManualClock>>,
    /// How long a delivery takes, and how many were under way at the same time.
    pace: Mutex<Pace>,
    /// How long everything else takes that is asked about an incoming message, and a delivery on top: at random.
    moods: Mutex<Option<SeededEntropy>>,
}

#[derive(Debug, Default)]
struct Pace {
    takes: Duration,
    under_way: usize,
    most: usize,
}

impl fmt::Debug for MemoryCrm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryCrm")
    }
}
impl fmt::Display for MemoryCrm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CRM in memory")
    }
}

fn not_found(what: impl fmt::Display) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no {what}"))
}

impl MemoryCrm {
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            data: Mutex::default(),
            clock,
            advance: None,
            pace: Mutex::default(),
            moods: Mutex::default(),
        })
    }

    fn data(&self) -> MutexGuard<'_, Data> {
        self.data.lock().unwrap()
    }

    pub fn add(&self, kind: Option<MailboxKind>, name: &str, at: &str, filter: FilteringMethod) -> RecordRef {
        let now = self.clock.now();
        let mut data = self.data();
        data.created += 1;
        let table = match kind {
            Some(MailboxKind::User) => "systemuser",
            Some(MailboxKind::Queue) => "queue",
            Some(MailboxKind::Forward) => "mailbox",
            None => "contact",
        };
        let record = RecordRef::new(table, Uuid::from_u128(data.created));
        data.rows.push(Row {
            mailbox: CrmMailbox {
                record: record.clone(),
                kind: kind.unwrap_or(MailboxKind::User),
                name: name.to_owned(),
                address: Some(at.parse().unwrap()),
                incoming: DeliveryMethod::EmailRouter,
                outgoing: DeliveryMethod::EmailRouter,
                approval: Approval::Approved,
                filter,
                owner: (table == "systemuser").then(|| record.clone()),
                default_queue: None,
                disabled: false,
                server_side_sync: Default::default(),
            },
            is_mailbox: kind.is_some(),
            created_on: now,
        });
        record
    }

    pub fn set_filter(&self, record: &RecordRef, filter: FilteringMethod) {
        let mut data = self.data();
        let row = data.rows.iter_mut().find(|row| row.mailbox.record == *record);
        row.unwrap().mailbox.filter = filter;
    }

    /// A person deletes a user or queue.
    pub fn remove(&self, record: &RecordRef) {
        self.data().rows.retain(|row| row.mailbox.record != *record);
    }

    /// A mail from a user or queue to an address, in Pending Send.
    pub fn send_mail(&self, from: &RecordRef, to: &RecordRef, subject: &str) -> ActivityId {
        self.create(&Seed::new(from, to, subject)).unwrap()
    }

    /// Changes an e-mail as a person would.
    pub fn set_status(&self, id: ActivityId, status: EmailStatus) {
        let mut data = self.data();
        let mail = data.emails.iter_mut().find(|e| e.id == id).unwrap();
        (mail.status, mail.version) = (status, mail.version + 1);
    }

    fn create(&self, seed: &Seed) -> Result<ActivityId> {
        let now = self.clock.now();
        let mut data = self.data();
        data.created += 1;
        let id = ActivityId::from_uuid(Uuid::from_u128(0xe_0000_0000 + data.created));
        let party = |participation, record: &RecordRef| {
            let row = data.row(record).ok_or_else(|| not_found(record))?;
            let (address, name) = (row.mailbox.address.clone(), Some(row.mailbox.name.clone()));
            Ok(Party { participation, record: Some(record.clone()), address, name })
        };
        let parties =
            vec![party(ParticipationType::Sender, &seed.from)?, party(ParticipationType::To, &seed.to)?];
        data.emails.push(Email {
            id,
            outgoing: true,
            message_id: None,
            references: Vec::new(),
            subject: seed.subject.clone(),
            body: "body".to_owned(),
            parties,
            regarding: None,
            owner: None,
            token: None,
            parent: seed.in_reply_to,
            attachments: seed.attachments.clone(),
            status: EmailStatus::PendingSend,
            sender: Some(seed.from.clone()),
            version: 1,
            attempts: 0,
            priority: seed.priority,
            created_on: now,
            modified_on: now,
            not_before: seed.delay_until,
            in_doubt: false,
            conversation_index: None,
            conversation_id: None,
            smart: SmartHashes::default(),
            reported: Vec::new(),
            reports: HashSet::new(),
        });
        Ok(id)
    }

    /// Every e-mail there is.
    pub fn emails(&self) -> Vec<Email> {
        self.data().emails.clone()
    }

    /// Subjects of the received e-mails, sorted.
    pub fn received(&self) -> Vec<String> {
        let mut all: Vec<String> =
            self.data().emails.iter().filter(|e| !e.outgoing).map(|e| e.subject.clone()).collect();
        all.sort();
        all
    }

    pub fn email(&self, id: ActivityId) -> Email {
        self.data().emails.iter().find(|e| e.id == id).unwrap().clone()
    }

    /// Subjects of the e-mails that a queue has an item for.
    pub fn queued(&self, queue: &RecordRef) -> Vec<String> {
        let data = self.data();
        let items = data.queue_items.iter().filter(|(q, _)| *q == queue.id);
        items.filter_map(|(_, id)| Some(data.emails.iter().find(|e| e.id == *id)?.subject.clone())).collect()
    }

    pub fn settings_mut(&self, change: impl FnOnce(&mut OrganizationSettings)) {
        change(&mut self.data().settings);
    }

    /// Changes how a user or queue gets its mail.
    pub fn set_incoming(&self, record: &RecordRef, method: DeliveryMethod) {
        let mut data = self.data();
        data.rows.iter_mut().find(|r| r.mailbox.record == *record).unwrap().mailbox.incoming = method;
    }

    /// A person says what an e-mail is about.
    pub fn set_regarding(&self, id: ActivityId, record: &RecordRef) {
        let mut data = self.data();
        data.emails.iter_mut().find(|e| e.id == id).unwrap().regarding = Some(record.clone());
    }

    /// Records of people, with name and address.
    pub fn people(&self) -> Vec<(RecordRef, String, Option<EmailAddress>)> {
        let data = self.data();
        let people = data.rows.iter().filter(|row| !row.is_mailbox).map(|row| &row.mailbox);
        people.map(|m| (m.record.clone(), m.name.clone(), m.address.clone())).collect()
    }

    /// A person deletes an e-mail.
    pub fn delete(&self, id: ActivityId) {
        let mut data = self.data();
        data.emails.retain(|e| e.id != id);
        data.deleted.insert(id);
    }

    /// (queue, e-mail) of every queue item.
    pub fn queue_items(&self) -> Vec<(Uuid, ActivityId)> {
        self.data().queue_items.clone()
    }

    /// The next `times` calls of this name fail; with `effect` they have done their work before.
    pub fn fail_next(
        &self,
        call: &'static str,
        times: usize,
        effect: bool,
        error: impl Fn() -> Error + Send + Sync + 'static,
    ) {
        let make: MakeError = Arc::new(error);
        let entry = (effect, make);
        self.data().failures.entry(call).or_default().extend(std::iter::repeat_n(entry, times));
    }

    /// Delivering a message with this subject panics, as a fault of the program would.
    pub fn panic_at(&self, subject: &str) {
        self.data().poison = Some(subject.to_owned());
    }

    /// No further call of this name fails.
    pub fn recover(&self, call: &'static str) {
        self.data().failures.remove(call);
    }

    /// From now on a delivery takes so long.
    pub fn deliveries_take(&self, takes: Duration) {
        *self.pace.lock().unwrap() = Pace { takes, ..Pace::default() };
    }

    /// From now on every answer takes up to 20 ms.
    pub fn answers_take_random_times(&self, seed: u64) {
        *self.moods.lock().unwrap() = Some(SeededEntropy::new(seed));
    }

    async fn mood(&self) {
        let drawn = self.moods.lock().unwrap().as_ref().map(|mood| mood.next_u64() % 20);
        if let Some(millis) = drawn {
            tokio::time::sleep(Duration::from_millis(1 + millis)).await;
        }
    }

    /// How many deliveries were under way at the same time since then.
    pub fn most_deliveries(&self) -> usize {
        self.pace.lock().unwrap().most
    }

    /// How often a call was made.
    pub fn count(&self, call: &'static str) -> usize {
        self.data().calls.get(call).copied().unwrap_or_default()
    }

    /// Does `work` unless a failure is planned; a planned failure with effect comes after it.
    fn call<T>(&self, name: &'static str, work: impl FnOnce(&mut Data, Timestamp) -> Result<T>) -> Result<T> {
        let now = self.clock.now();
        let mut data = self.data();
        *data.calls.entry(name).or_default() += 1;
        let failure = data.failures.get_mut(name).and_then(VecDeque::pop_front);
        match failure {
            Some((false, make)) => Err(make()),
            Some((true, make)) => work(&mut data, now).and_then(|_| Err(make())),
            None => work(&mut data, now),
        }
    }
}

impl Data {
    fn create_sender(&mut self, new: &NewSender, now: Timestamp) -> Result<()> {
        if !matches!(new.record.table.as_str(), "contact" | "lead") {
            return Err(Error::new(ErrorKind::Invalid, "only a contact or a lead is created for a sender"));
        }
        if self.row(&new.record).is_some() {
            return Ok(());
        }
        self.rows.push(Row {
            mailbox: CrmMailbox {
                record: new.record.clone(),
                kind: MailboxKind::User,
                name: new.name.replace(char::is_control, " "),
                address: Some(new.address.clone()),
                incoming: DeliveryMethod::None,
                outgoing: DeliveryMethod::None,
                approval: Approval::Empty,
                filter: FilteringMethod::None,
                owner: new.owner.clone(),
                default_queue: None,
                disabled: false,
                server_side_sync: Default::default(),
            },
            is_mailbox: false,
            created_on: now,
        });
        if self.settings.resolve_similar_unresolved_email_address {
            let parties = self.emails.iter_mut().flat_map(|e| &mut e.parties);
            for party in parties.filter(|p| p.record.is_none() && p.address.as_ref() == Some(&new.address)) {
                party.record = Some(new.record.clone());
            }
        }
        Ok(())
    }
    fn row(&self, record: &RecordRef) -> Option<&Row> {
        self.rows.iter().find(|r| r.mailbox.record == *record)
    }
    fn mail(&mut self, id: &ActivityId) -> Result<&mut Email> {
        let email = self.emails.iter_mut().find(|e| e.id == *id).ok_or_else(|| not_found(id))?;
        match email.outgoing {
            true => Ok(email),
            false => Err(Error::new(ErrorKind::Invalid, format!("{id} was received"))),
        }
    }
    fn outgoing(&mut self, id: &ActivityId) -> Result<OutgoingEmail> {
        let e = self.mail(id)?.clone();
        let parent = e.parent.and_then(|p| self.emails.iter().find(|e| e.id == p));
        Ok(OutgoingEmail {
            activity_id: e.id,
            message_id: e.message_id,
            subject: e.subject,
            body: e.body,
            body_mime_type: "text/plain".to_owned(),
            parties: e.parties,
            parent_activity: e.parent,
            parent_message_id: parent.and_then(|p| p.message_id.clone()),
            parent_references: parent.map(|p| p.references.clone()).unwrap_or_default(),
            tracking_token: e.token,
            priority: e.priority,
            delivery_receipt_requested: false,
            read_receipt_requested: false,
            delivery_attempts: e.attempts,
            attachment_bytes: e.attachments.iter().map(|a| a.content.len() as u64).sum(),
            created_on: e.created_on,
        })
    }
    fn add_queue_items(&mut self, email: &IncomingEmail) {
        for queue in &email.queues {
            let item = (*queue, email.activity_id);
            if !self.queue_items.contains(&item) {
                self.queue_items.push(item);
            }
        }
    }
}

#[async_trait]
impl CrmClient for MemoryCrm {
    fn organization_id(&self) -> OrganizationId {
        OrganizationId::from_url("https://contoso.crm.dynamics.com/")
    }
    async fn settings(&self) -> Result<OrganizationSettings> {
        self.call("settings", |data, _| Ok(data.settings.clone()))
    }
    async fn mailboxes(&self) -> Result<Vec<CrmMailbox>> {
        self.call("mailboxes", |data, _| {
            Ok(data.rows.iter().filter(|r| r.is_mailbox).map(|r| r.mailbox.clone()).collect())
        })
    }
    async fn resolve(&self, addresses: &[EmailAddress]) -> Result<Vec<Vec<Resolution>>> {
        self.mood().await;
        self.call("resolve", |data, _| {
            let of = |address: &EmailAddress| {
                let rows = data.rows.iter().filter(|r| {
                    let m = &r.mailbox;
                    m.address.as_ref().is_some_and(|a| a.key() == address.key())
                        && !(m.disabled && m.record.table == "systemuser")
                });
                rows.take(101)
                    .map(|r| Resolution {
                        record: r.mailbox.record.clone(),
                        name: r.mailbox.name.clone(),
                        owner: r.mailbox.owner.clone(),
                        active: !r.mailbox.disabled,
                        created_on: r.created_on,
                    })
                    .collect()
            };
            Ok(addresses.iter().map(of).collect())
        })
    }
    async fn find_emails(&self, lookup: &EmailLookup, limit: usize) -> Result<Vec<EmailSummary>> {
        self.mood().await;
        self.call("find_emails", |data, _| {
            let mut found: Vec<EmailSummary> = data
                .emails
                .iter()
                .rev()
                .map(|e| EmailSummary {
                    activity_id: e.id,
                    outgoing: e.outgoing,
                    message_id: e.message_id.clone(),
                    subject: e.subject.clone(),
                    tracking_token: e.token.clone(),
                    regarding: e.regarding.clone(),
                    owner: e.owner.clone(),
                    parties: e.parties.clone(),
                    created_on: e.created_on,
                    conversation_index: e.conversation_index.clone(),
                    conversation_id: e.conversation_id.clone(),
                    smart: e.smart.clone(),
                })
                .filter(|e| lookup.matches(e))
                .collect();
            found.sort_by_key(|e| std::cmp::Reverse(e.created_on));
            found.truncate(limit);
            Ok(found)
        })
    }
    async fn exists(&self, id: &ActivityId) -> Result<bool> {
        self.mood().await;
        self.call(
            "exists",
            |data, _| Ok(data.deleted.contains(id) || data.emails.iter().any(|e| e.id == *id)),
        )
    }
    async fn check_incoming(&self, _: &email_router_crm::IncomingCheck) -> Result<email_router_crm::Verdict> {
        Ok(email_router_crm::Verdict::RouterDecides)
    }
    async fn deliver_incoming(&self, email: IncomingEmail) -> Result<Delivered> {
        let takes = {
            let mut pace = self.pace.lock().unwrap();
            pace.under_way += 1;
            pace.most = pace.most.max(pace.under_way);
            pace.takes
        };
        // a delivery is never done at once, so that whoever works beside it has his turn
        tokio::task::yield_now().await;
        self.mood().await;
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        self.pace.lock().unwrap().under_way -= 1;
        let poison = self.data().poison.as_ref() == Some(&email.subject);
        assert!(!poison, "a planned panic");
        self.call("deliver_incoming", |data, now| {
            let queue_there =
                |q: &Uuid| data.rows.iter().any(|r| r.mailbox.record == RecordRef::new("queue", *q));
            if let Some(missing) = email.queues.iter().find(|q| !queue_there(q)) {
                return Err(not_found(format!("queue {missing}")));
            }
            if data.deleted.contains(&email.activity_id) {
                return Ok(Delivered::AlreadyThere);
            }
            if data.emails.iter().any(|e| e.id == email.activity_id) {
                if data.settings.create_additional_queue_items_for_already_tracked_email {
                    data.add_queue_items(&email);
                }
                return Ok(Delivered::AlreadyThere);
            }
            let senders = email.parties.iter().filter(|p| p.participation == ParticipationType::Sender);
            if senders.count() != 1 {
                return Err(Error::new(ErrorKind::Invalid, "an e-mail has one sender"));
            }
            if let Some(new) = &email.new_sender {
                data.create_sender(new, now)?;
            }
            data.emails.push(Email {
                id: email.activity_id,
                outgoing: false,
                message_id: email.message_id.clone(),
                references: email.references.clone(),
                subject: email.subject.clone(),
                body: email.body.clone(),
                parties: email.parties.clone(),
                regarding: email.regarding.clone(),
                owner: email.owner.clone(),
                token: email.tracking_token.clone(),
                parent: email.parent_activity,
                attachments: email.attachments.clone(),
                status: EmailStatus::Received,
                sender: None,
                version: 1,
                attempts: 0,
                priority: email.priority,
                created_on: now,
                modified_on: now,
                not_before: None,
                in_doubt: false,
                conversation_index: email.conversation_index.clone(),
                conversation_id: email.conversation_id.clone(),
                smart: match data.settings.disable_smart_matching_email_hash_creation {
                    true => SmartHashes::default(),
                    false => email.smart.clone(),
                },
                reported: Vec::new(),
                reports: HashSet::new(),
            });
            data.add_queue_items(&email);
            Ok(Delivered::Created)
        })
    }
    async fn pending_outgoing(&self, query: &PendingQuery) -> Result<Vec<PendingEmail>> {
        self.call("pending_outgoing", |data, _| {
            let stale_before = query.now.checked_sub(query.stale_after).unwrap();
            let mut all = Vec::new();
            for sender in &query.senders {
                let Some(row) = data.row(sender) else { continue };
                let approval = match row.mailbox.kind {
                    MailboxKind::User => data.settings.require_approval_for_user_email,
                    _ => data.settings.require_approval_for_queue_email,
                };
                if row.mailbox.disabled
                    || row.mailbox.outgoing != DeliveryMethod::EmailRouter
                    || (approval && row.mailbox.approval != Approval::Approved)
                {
                    continue;
                }
                let mut of_sender: Vec<PendingEmail> = data
                    .emails
                    .iter()
                    .filter(|e| e.sender.as_ref() == Some(sender) && !e.in_doubt)
                    .filter_map(|e| {
                        let stale = e.status == EmailStatus::Sending && e.modified_on < stale_before;
                        let due = e.status == EmailStatus::PendingSend
                            && e.not_before.is_none_or(|t| t <= query.now);
                        (stale || due).then(|| PendingEmail {
                            activity_id: e.id,
                            sender: sender.clone(),
                            version: e.version,
                            delivery_attempts: e.attempts,
                            priority: e.priority,
                            stale,
                            modified_on: e.modified_on,
                        })
                    })
                    .collect();
                of_sender.sort_by_key(|e| (std::cmp::Reverse(e.priority.code()), e.modified_on));
                of_sender.truncate(query.per_sender);
                all.append(&mut of_sender);
            }
            Ok(all)
        })
    }
    async fn claim(&self, email: &PendingEmail) -> Result<Claim> {
        self.call("claim", |data, now| {
            let Ok(mail) = data.mail(&email.activity_id) else { return Ok(Claim::Lost) };
            let open = matches!(mail.status, EmailStatus::PendingSend | EmailStatus::Sending);
            if mail.version != email.version || mail.in_doubt || !open {
                return Ok(Claim::Lost);
            }
            mail.status = EmailStatus::Sending;
            mail.version += 1;
            mail.attempts += 1;
            mail.modified_on = now;
            mail.not_before = None;
            Ok(Claim::Taken { attempt: mail.attempts })
        })
    }
    async fn outgoing_email(&self, id: &ActivityId) -> Result<OutgoingEmail> {
        self.call("outgoing_email", |data, _| data.outgoing(id))
    }
    async fn attachments(&self, id: &ActivityId) -> Result<Vec<Attachment>> {
        self.call("attachments", |data, _| {
            let found = data.emails.iter().find(|e| e.id == *id).ok_or_else(|| not_found(id))?;
            Ok(found.attachments.clone())
        })
    }
    async fn prepare_outgoing(
        &self,
        id: &ActivityId,
        message_id: &MessageId,
        with_token: bool,
    ) -> Result<OutgoingEmail> {
        self.call("prepare_outgoing", |data, _| {
            let settings = data.settings.clone();
            let mail = data.mail(id)?;
            mail.message_id.get_or_insert_with(|| message_id.clone());
            if with_token && mail.token.is_none() {
                let sender = mail.sender.clone().ok_or_else(|| not_found("sender"))?;
                let next_user = u32::try_from(data.tokens.len()).unwrap() + 1;
                let format = TokenFormat::new(&settings);
                let numbers = data.tokens.entry(sender).or_insert((next_user, 1));
                let token = format.make(numbers.0, numbers.1);
                numbers.1 = format.after(numbers.1);
                let mail = data.mail(id)?;
                let limit = settings.maximum_subject_length_on_mail_server as usize;
                mail.subject = append_token(&mail.subject, &token, limit);
                mail.token = Some(token);
            }
            let mail = data.mail(id)?;
            if !settings.disable_smart_matching_email_hash_creation {
                let addresses = mail.parties.iter().filter_map(|p| p.address.as_ref());
                mail.smart = SmartHasher::new(&settings).hashes(&mail.subject, addresses);
            }
            data.outgoing(id)
        })
    }
    async fn record_delivery(&self, report: &DeliveryReport) -> Result<bool> {
        self.mood().await;
        self.call("record_delivery", |data, _| {
            let mail = data.mail(&report.activity_id)?;
            if !mail.reports.insert(report.report.clone()) {
                return Ok(false);
            }
            let before = mail.reported.clone();
            for new in &report.recipients {
                let mut new = new.clone();
                new.diagnostic = new.diagnostic.map(|d| d.replace(char::is_control, " "));
                match mail.reported.iter_mut().find(|(old, _)| old.address == new.address) {
                    None => mail.reported.push((new, report.at)),
                    Some((_, at)) if report.at < *at => {}
                    Some((old, _))
                        if new.action == DeliveryAction::Delayed && old.action != DeliveryAction::Delayed => {
                    }
                    Some(old) => *old = (new, report.at),
                }
            }
            Ok(mail.reported != before)
        })
    }
    async fn finish(&self, id: &ActivityId, outcome: &SendOutcome) -> Result<()> {
        self.call("finish", |data, now| {
            let mail = data.mail(id)?;
            let sending = mail.status == EmailStatus::Sending;
            match outcome {
                SendOutcome::Sent { .. } if mail.status == EmailStatus::Sent => return Ok(()),
                SendOutcome::Sent { .. } => mail.status = EmailStatus::Sent,
                _ if !sending => return Ok(()),
                SendOutcome::Retry { not_before, .. } => {
                    mail.status = EmailStatus::PendingSend;
                    mail.not_before = Some(*not_before);
                }
                SendOutcome::Failed { .. } => mail.status = EmailStatus::Failed,
                SendOutcome::InDoubt { .. } if mail.in_doubt => return Ok(()),
                SendOutcome::InDoubt { .. } => {}
            }
            mail.in_doubt = matches!(outcome, SendOutcome::InDoubt { .. });
            mail.version += 1;
            mail.modified_on = now;
            Ok(())
        })
    }
}

/// A fresh organization for the suite.
pub struct Fresh(Arc<MemoryCrm>);

impl Fresh {
    pub fn new() -> Self {
        let clock = Arc::new(ManualClock::new("2026-03-01T08:00:00Z".parse().unwrap()));
        let advance = Some(Arc::clone(&clock));
        Self(Arc::new(MemoryCrm {
            data: Mutex::default(),
            clock,
            advance,
            pace: Mutex::default(),
            moods: Mutex::default(),
        }))
    }
}

#[async_trait]
impl Fixture for Fresh {
    fn crm(&self) -> Arc<dyn CrmClient> {
        Arc::<MemoryCrm>::clone(&self.0)
    }
    fn now(&self) -> Timestamp {
        self.0.clock.now()
    }
    fn advance(&self, by: Duration) {
        self.0.advance.as_ref().unwrap().advance(by);
    }
    async fn add_user(&self, name: &str, address: &str, approved: bool) -> Result<RecordRef> {
        let record = self.0.add(Some(MailboxKind::User), name, address, FilteringMethod::default());
        if !approved {
            self.0.data().rows.last_mut().unwrap().mailbox.approval = Approval::PendingApproval;
        }
        Ok(record)
    }
    async fn add_queue(&self, name: &str, address: &str) -> Result<RecordRef> {
        Ok(self.0.add(Some(MailboxKind::Queue), name, address, FilteringMethod::default()))
    }
    async fn add_contact(&self, name: &str, address: &str) -> Result<RecordRef> {
        Ok(self.0.add(None, name, address, FilteringMethod::default()))
    }
    async fn disable(&self, record: &RecordRef) -> Result<()> {
        let mut data = self.0.data();
        data.rows.iter_mut().find(|r| r.mailbox.record == *record).unwrap().mailbox.disabled = true;
        Ok(())
    }
    async fn take_from_router(&self, record: &RecordRef) -> Result<()> {
        let mut data = self.0.data();
        let row = data.rows.iter_mut().find(|r| r.mailbox.record == *record).unwrap();
        row.mailbox.outgoing = DeliveryMethod::None;
        Ok(())
    }
    async fn set_settings(&self, settings: &OrganizationSettings) -> Result<()> {
        self.0.data().settings = settings.clone();
        Ok(())
    }
    async fn send(&self, email: &Seed) -> Result<ActivityId> {
        self.0.create(email)
    }
    async fn delete_email(&self, id: ActivityId) -> Result<bool> {
        let mut data = self.0.data();
        data.emails.retain(|e| e.id != id);
        data.deleted.insert(id);
        Ok(true)
    }
    async fn queue_items(&self, queue: &RecordRef) -> Result<Vec<ActivityId>> {
        Ok(self.0.data().queue_items.iter().filter(|(q, _)| *q == queue.id).map(|(_, id)| *id).collect())
    }
    async fn reported(&self, id: ActivityId) -> Result<Vec<RecipientReport>> {
        Ok(self.0.email(id).reported.into_iter().map(|(report, _)| report).collect())
    }
    async fn status(&self, id: ActivityId) -> Result<EmailStatus> {
        Ok(self.0.email(id).status)
    }
}
