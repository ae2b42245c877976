//! The decision table (`fixtures/decisions/table.json`) and properties over its cases, against a small CRM in memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use email_router_crm::smart::SmartHasher;
use email_router_crm::{
    Approval, Attachment, Claim, Delivered, DeliveryMethod, EmailLookup, EmailSummary, Error as CrmError,
    ErrorKind as CrmErrorKind, FilteringMethod, OrganizationSettings, OutgoingEmail, ParticipationType,
    PendingEmail, PendingQuery, Resolution, SendOutcome,
};
use email_router_model::{
    Direction, MailboxId, MailboxKind, MessageId, OrganizationId, RawMessage, Timestamp,
};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::*;
use crate::ParseCaps;
use crate::ports::CrmIndex;

type CrmResult<T> = Result<T, CrmError>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    records: Vec<RecordRow>,
    mailboxes: Vec<Value>,
    emails: Vec<EmailRow>,
    cases: Vec<Case>,
}

#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
struct RecordRow {
    name: String,
    table: String,
    addresses: Vec<String>,
    owner: Option<String>,
    #[serde(default = "yes")]
    active: bool,
    created: i64,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
struct EmailRow {
    name: String,
    message_id: Option<String>,
    outgoing: bool,
    subject: String,
    token: Option<String>,
    regarding: Option<String>,
    owner: Option<String>,
    /// `field record address`, with `-` for no record.
    parties: Vec<String>,
    created: i64,
    /// Thread-Index as hexadecimal digits.
    conversation_index: Option<String>,
    conversation_id: Option<String>,
}

#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// The record whose mailbox is read.
    read: String,
    /// The address it is read under, where that is not its first one.
    read_as: Option<String>,
    #[serde(default)]
    settings: serde_json::Map<String, Value>,
    /// Changes of mailboxes, by record.
    #[serde(default)]
    mailboxes: HashMap<String, serde_json::Map<String, Value>>,
    /// Message-IDs that this router delivered before, also when a person deleted them since.
    #[serde(default)]
    delivered: Vec<String>,
    /// A person releases the message.
    #[serde(default)]
    release: bool,
    /// So many further contacts with this address.
    #[serde(default)]
    crowd: HashMap<String, usize>,
    header: Vec<String>,
    /// The id of the conversation that the mail system gives with the message.
    conversation_id: Option<String>,
    /// The message class that the mail system gives with the message.
    message_class: Option<String>,
    expect: Expect,
}

#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
struct Expect {
    reason: i32,
    /// The e-mail it answers; `""` for none.
    hit: Option<String>,
    how: Option<String>,
    weak: Option<bool>,
    method: Option<u8>,
    regarding: Option<String>,
    parent: Option<bool>,
    token: Option<String>,
    owner: Option<String>,
    accepting: Option<String>,
    queues: Option<Vec<String>>,
    parties: Option<Vec<String>>,
    requeue: Option<String>,
    existing: Option<String>,
    sender_ambiguous: Option<bool>,
    /// `table address name of owner` of the record that is created for the sender; `""`, and where it is not said: none.
    #[serde(default)]
    new_sender: String,
    /// A text that some step must contain.
    step: Option<String>,
}

fn table() -> Table {
    serde_json::from_str(include_str!("../../../../fixtures/decisions/table.json")).unwrap()
}

/// A CRM that knows what the table says. The order of its answers can be turned.
#[derive(Debug)]
struct TableCrm {
    verdict: email_router_crm::Verdict,
    names: HashMap<String, RecordRef>,
    records: Vec<(Resolution, Vec<EmailAddress>)>,
    mailboxes: Vec<CrmMailbox>,
    settings: OrganizationSettings,
    emails: Vec<EmailSummary>,
    email_names: HashMap<String, ActivityId>,
    delivered: Vec<ActivityId>,
    turn: usize,
    resolve_calls: AtomicUsize,
    find_calls: AtomicUsize,
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

impl TableCrm {
    fn new(table: &Table, case: &Case) -> Self {
        let names: HashMap<String, RecordRef> = (1u128..)
            .zip(&table.records)
            .map(|(n, r)| (r.name.clone(), RecordRef::new(r.table.clone(), Uuid::from_u128(n))))
            .collect();
        let reference = |name: &String| names.get(name).unwrap_or_else(|| panic!("no record {name}")).clone();
        let mut records: Vec<(Resolution, Vec<EmailAddress>)> = table
            .records
            .iter()
            .map(|r| {
                let resolution = Resolution {
                    record: reference(&r.name),
                    name: r.name.clone(),
                    owner: r.owner.as_ref().map(reference),
                    active: r.active,
                    created_on: at(r.created),
                };
                (resolution, r.addresses.iter().map(|a| a.parse().unwrap()).collect())
            })
            .collect();
        for (address, count) in &case.crowd {
            records.extend((0..*count).map(|n| {
                let resolution = Resolution {
                    record: RecordRef::new("contact", Uuid::from_u128(10_000 + n as u128)),
                    name: format!("one of {count}"),
                    owner: None,
                    active: true,
                    created_on: at(200),
                };
                (resolution, vec![address.parse().unwrap()])
            }));
        }
        let mailboxes = table
            .mailboxes
            .iter()
            .map(|row| {
                let name = row["record"].as_str().unwrap().to_owned();
                let mut row = row.as_object().unwrap().clone();
                row.extend(case.mailboxes.get(&name).cloned().unwrap_or_default());
                let text = |key: &str| row.get(key).and_then(Value::as_str);
                let set = |key: &str, usual: &str| Value::from(text(key).unwrap_or(usual));
                let source = table.records.iter().find(|r| r.name == name).unwrap();
                CrmMailbox {
                    record: reference(&name),
                    kind: if source.table == "queue" { MailboxKind::Queue } else { MailboxKind::User },
                    name: name.clone(),
                    address: source.addresses.first().map(|a| a.parse().unwrap()),
                    incoming: serde_json::from_value::<DeliveryMethod>(set("incoming", "email_router"))
                        .unwrap(),
                    outgoing: DeliveryMethod::EmailRouter,
                    approval: serde_json::from_value::<Approval>(set("approval", "empty")).unwrap(),
                    filter: serde_json::from_value::<FilteringMethod>(set(
                        "filter",
                        "in_response_to_crm_email",
                    ))
                    .unwrap(),
                    owner: text("owner").map(|o| reference(&o.to_owned())),
                    default_queue: text("default_queue").map(|q| reference(&q.to_owned())),
                    disabled: row.get("disabled").and_then(Value::as_bool).unwrap_or(false),
                    server_side_sync: Default::default(),
                }
            })
            .collect();
        let mut email_names = HashMap::new();
        let emails = (1000u128..)
            .zip(&table.emails)
            .map(|(n, e)| {
                let activity_id = ActivityId::from_uuid(Uuid::from_u128(n));
                email_names.insert(e.name.clone(), activity_id);
                let parties = e.parties.iter().map(|p| {
                    let mut words = p.split(' ');
                    let field =
                        serde_json::from_value::<ParticipationType>(Value::from(words.next().unwrap()))
                            .unwrap();
                    let record = words.next().filter(|w| *w != "-").map(|w| reference(&w.to_owned()));
                    let address = words.next().map(|w| w.parse().unwrap());
                    Party { participation: field, record, address, name: None }
                });
                EmailSummary {
                    activity_id,
                    outgoing: e.outgoing,
                    message_id: e.message_id.as_deref().and_then(|id| MessageId::parse(&fill(table, id))),
                    subject: e.subject.clone(),
                    tracking_token: e.token.clone(),
                    regarding: e.regarding.as_ref().map(reference),
                    owner: e.owner.as_ref().map(reference),
                    parties: parties.collect(),
                    created_on: at(e.created),
                    conversation_index: e.conversation_index.clone(),
                    conversation_id: e.conversation_id.clone(),
                    smart: email_router_crm::SmartHashes::default(),
                }
            })
            .collect();
        let organization = organization();
        let delivered = case
            .delivered
            .iter()
            .map(|id| ActivityId::derive(&organization, Direction::Incoming, &fill(table, id)))
            .collect();
        // an unknown name of a setting would silently test nothing
        let known = serde_json::to_value(OrganizationSettings::default()).unwrap();
        for key in case.settings.keys() {
            assert!(known.get(key).is_some(), "{}: no setting {key}", case.name);
        }
        let settings: OrganizationSettings =
            serde_json::from_value(Value::Object(case.settings.clone())).unwrap();
        let hasher = SmartHasher::new(&settings);
        let mut emails: Vec<EmailSummary> = emails;
        for email in &mut emails {
            let addresses = email.parties.iter().filter_map(|p| p.address.as_ref());
            email.smart = hasher.hashes(&email.subject, addresses);
        }
        Self {
            verdict: email_router_crm::Verdict::RouterDecides,
            names,
            records,
            mailboxes,
            settings,
            emails,
            email_names,
            delivered,
            turn: 0,
            resolve_calls: AtomicUsize::new(0),
            find_calls: AtomicUsize::new(0),
        }
    }

    fn turned<T: Clone>(&self, list: impl Iterator<Item = T>) -> Vec<T> {
        let mut list: Vec<T> = list.collect();
        if !list.is_empty() {
            let by = self.turn % list.len();
            list.rotate_left(by);
            if self.turn % 2 == 1 {
                list.reverse();
            }
        }
        list
    }

    fn name_of(&self, record: &RecordRef) -> String {
        self.names.iter().find(|(_, r)| *r == record).map_or_else(|| record.to_string(), |(n, _)| n.clone())
    }
    fn email_name(&self, id: ActivityId) -> String {
        self.email_names.iter().find(|(_, i)| **i == id).map_or_else(|| id.to_string(), |(n, _)| n.clone())
    }
}

impl std::fmt::Display for TableCrm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("table")
    }
}

fn only_incoming<T>() -> CrmResult<T> {
    Err(CrmError::new(CrmErrorKind::Invalid, "the table is about incoming mail"))
}

#[async_trait]
impl CrmClient for TableCrm {
    fn organization_id(&self) -> OrganizationId {
        organization()
    }
    async fn settings(&self) -> CrmResult<OrganizationSettings> {
        Ok(self.settings.clone())
    }
    async fn mailboxes(&self) -> CrmResult<Vec<CrmMailbox>> {
        Ok(self.turned(self.mailboxes.iter().cloned()))
    }
    async fn resolve(&self, addresses: &[EmailAddress]) -> CrmResult<Vec<Vec<Resolution>>> {
        self.resolve_calls.fetch_add(1, Ordering::SeqCst);
        let of = |address| {
            self.turned(self.records.iter().filter(|(_, a)| a.contains(address)).map(|(r, _)| r.clone()))
        };
        Ok(addresses.iter().map(of).collect())
    }
    async fn find_emails(&self, lookup: &EmailLookup, limit: usize) -> CrmResult<Vec<EmailSummary>> {
        self.find_calls.fetch_add(1, Ordering::SeqCst);
        let found = self.turned(self.emails.iter().filter(|e| lookup.matches(e)).cloned());
        assert!(found.len() <= limit, "the table never has more than the limit");
        Ok(found)
    }
    async fn exists(&self, id: &ActivityId) -> CrmResult<bool> {
        Ok(self.delivered.contains(id))
    }
    async fn check_incoming(
        &self,
        _: &email_router_crm::IncomingCheck,
    ) -> CrmResult<email_router_crm::Verdict> {
        Ok(self.verdict)
    }
    async fn deliver_incoming(&self, _: IncomingEmail) -> CrmResult<Delivered> {
        only_incoming()
    }
    async fn pending_outgoing(&self, _: &PendingQuery) -> CrmResult<Vec<PendingEmail>> {
        only_incoming()
    }
    async fn claim(&self, _: &PendingEmail) -> CrmResult<Claim> {
        only_incoming()
    }
    async fn outgoing_email(&self, _: &ActivityId) -> CrmResult<OutgoingEmail> {
        only_incoming()
    }
    async fn attachments(&self, _: &ActivityId) -> CrmResult<Vec<Attachment>> {
        only_incoming()
    }
    async fn prepare_outgoing(&self, _: &ActivityId, _: &MessageId, _: bool) -> CrmResult<OutgoingEmail> {
        only_incoming()
    }
    async fn finish(&self, _: &ActivityId, _: &SendOutcome) -> CrmResult<()> {
        only_incoming()
    }
    async fn record_delivery(&self, _: &email_router_crm::DeliveryReport) -> CrmResult<bool> {
        only_incoming()
    }
}

fn organization() -> OrganizationId {
    OrganizationId::from_url("https://table.example/")
}

fn signer() -> ReferenceSigner {
    ReferenceSigner::new("k".repeat(32).into()).unwrap()
}

/// In ids and headers `{signed NAME}` becomes the Message-ID that this router gives the e-mail, `{reference NAME}` the id that stands for it
/// in References, `{own NAME}` the value of the field by which it is recognised, and `{forged NAME}` a Message-ID with a wrong
/// signature.
fn fill(table: &Table, text: &str) -> String {
    let mut text = text.to_owned();
    if !text.contains('{') {
        return text;
    }
    for (n, email) in (1000u128..).zip(&table.emails) {
        let id = ActivityId::from_uuid(Uuid::from_u128(n));
        let signed = signer().message_id(&organization(), &id, "router.example").unwrap();
        let reference = signer().reference(&organization(), &id, "router.example").unwrap();
        let own = signer().header_value(&organization(), &id, &signed).unwrap();
        for (what, value) in [
            ("signed", signed.as_str()),
            ("reference", reference.as_str()),
            ("own", own.as_str()),
            ("forged", forged(&signed).as_str()),
        ] {
            text = text.replace(&format!("{{{what} {}}}", email.name), value);
        }
    }
    text
}

fn message_bytes(table: &Table, case: &Case) -> Vec<u8> {
    fill(table, &format!("{}\r\n\r\nbody\r\n", case.header.join("\r\n"))).into_bytes()
}

/// The id with another last digit of its signature.
fn forged(signed: &MessageId) -> MessageId {
    let (local, domain) = signed.bare().split_once('@').unwrap();
    let digit = if local.ends_with('0') { '1' } else { '0' };
    MessageId::parse(&format!("{}{digit}@{domain}", &local[..local.len() - 1])).unwrap()
}

fn mailbox(table: &Table, case: &Case) -> Mailbox {
    let record = table.records.iter().find(|r| r.name == case.read).unwrap();
    Mailbox {
        id: MailboxId::from("m"),
        kind: if record.table == "queue" { MailboxKind::Queue } else { MailboxKind::User },
        name: case.read.clone(),
        address: case.read_as.as_ref().unwrap_or(&record.addresses[0]).parse().unwrap(),
        login: None,
    }
}

fn run(
    table: &Table,
    case: &Case,
    crm: TableCrm,
    message: &Message,
) -> (Decision, Arc<TableCrm>, OrganizationView) {
    let mailbox = mailbox(table, case);
    let crm = Arc::new(crm);
    let record = crm.names.get(&case.read).cloned();
    let client: Arc<dyn CrmClient> = crm.clone();
    let decider =
        Decider::new(client.clone(), Arc::new(CrmIndex(client.clone()))).with_signer(Some(signer()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (view, decision) = runtime.block_on(async {
        let view = OrganizationView::load(&*client).await.unwrap();
        let context = MailboxContext::new(&mailbox, record);
        let decision = match case.release {
            true => decider.release(&view, &context, message).await.unwrap(),
            false => decider.decide(&view, &context, message).await.unwrap(),
        };
        (view, decision)
    });
    (decision, crm, view)
}

fn whole(table: &Table, case: &Case) -> Message {
    let mut raw = RawMessage::new(message_bytes(table, case));
    raw.conversation_id.clone_from(&case.conversation_id);
    raw.message_class.clone_from(&case.message_class);
    Message::parse(&raw, &ParseCaps::default())
}

fn check(table: &Table, case: &Case) {
    let name = &case.name;
    let message = whole(table, case);
    let (decision, crm, view) = run(table, case, TableCrm::new(table, case), &message);
    let text = format!("{name}\n{}", decision.record);
    let expect = &case.expect;
    assert_eq!(decision.reason.code(), expect.reason, "{text}");
    assert_eq!(decision.verdict == Verdict::Deliver, decision.reason.delivers(), "{text}");
    let decisions = if case.release { 2 } else { 1 };
    assert!(crm.resolve_calls.load(Ordering::SeqCst) <= decisions, "{text}");
    let record_name = |r: &Option<RecordRef>| r.as_ref().map_or_else(String::new, |r| crm.name_of(r));
    if let Some(hit) = &expect.hit {
        let found = decision.hit.as_ref().map_or_else(String::new, |h| crm.email_name(h.email.activity_id));
        assert_eq!(&found, hit, "{text}");
        assert_eq!(decision.record.correlated.is_some(), !hit.is_empty(), "{text}");
    }
    if let Some(how) = &expect.how {
        assert_eq!(decision.hit.as_ref().map(|h| h.how), Some(how.as_str()), "{text}");
    }
    if let Some(weak) = expect.weak {
        assert_eq!(decision.hit.as_ref().map(|h| h.weak), Some(weak), "{text}");
    }
    if let Some(owner) = &expect.owner {
        assert_eq!(&record_name(&decision.owner), owner, "{text}");
    }
    if let Some(accepting) = &expect.accepting {
        assert_eq!(&record_name(&decision.accepting), accepting, "{text}");
    }
    if let Some(queues) = &expect.queues {
        let found: Vec<String> = decision.queues.iter().map(|q| crm.name_of(q)).collect();
        assert_eq!(&found, queues, "{text}");
    }
    if let Some(requeue) = &expect.requeue {
        assert_eq!(&record_name(&decision.requeue), requeue, "{text}");
        assert_eq!(decision.clone().into_requeue(&message).is_some(), !requeue.is_empty(), "{text}");
    }
    if let Some(existing) = &expect.existing {
        assert_eq!(&crm.email_name(decision.activity_id.unwrap()), existing, "{text}");
    }
    if let Some(ambiguous) = expect.sender_ambiguous {
        assert_eq!(decision.is_duplicate_sender_unresolved, ambiguous, "{text}");
    }
    if let Some(step) = &expect.step {
        assert!(text.contains(step.as_str()), "no {step:?} in {text}");
    }
    // the header section alone gives the same verdict
    let mut alone = Message::from_headers(&message_bytes(table, case), &ParseCaps::default());
    alone.conversation_id.clone_from(&case.conversation_id);
    alone.message_class.clone_from(&case.message_class);
    let (by_header, _, _) = run(table, case, TableCrm::new(table, case), &alone);
    assert_eq!(by_header.hit, decision.hit, "{text}");
    assert_eq!((by_header.verdict, by_header.reason), (decision.verdict, decision.reason), "{text}");

    if decision.verdict != Verdict::Deliver {
        assert!(decision.into_email(&view, &message, Content::default()).is_err(), "{text}");
        return;
    }
    let noted = decision.record.parties.clone();
    let email = decision.into_email(&view, &message, Content::default()).unwrap();
    assert_eq!(noted.len(), email.parties.len(), "{text}");
    for (noted, party) in noted.iter().zip(&email.parties) {
        assert_eq!((noted.field, &noted.record), (party.participation, &party.record), "{text}");
        assert!(noted.why.contains(&noted.address), "{text}");
    }
    let new = email.new_sender.as_ref();
    let made = new.map(|n| {
        assert_eq!(email.parties[0].record.as_ref(), Some(&n.record), "{text}");
        assert_eq!(n.record, RecordRef::derive(view.id(), &n.record.table, &n.address), "{text}");
        format!("{} {} {} of {}", n.record.table, n.address, n.name, record_name(&n.owner))
    });
    assert_eq!(made.unwrap_or_default(), expect.new_sender, "{text}");
    if let Some(method) = expect.method {
        assert_eq!(email.correlation_method.code(), method, "{text}");
    }
    if let Some(regarding) = &expect.regarding {
        assert_eq!(&record_name(&email.regarding), regarding, "{text}");
    }
    if let Some(parent) = expect.parent {
        assert_eq!(email.parent_activity.is_some(), parent, "{text}");
        assert!(!parent || email.parent_activity == email.correlated_activity, "{text}");
    }
    if let Some(token) = &expect.token {
        assert_eq!(email.tracking_token.as_deref().unwrap_or(""), token, "{text}");
    }
    if let Some(parties) = &expect.parties {
        let found: Vec<String> = email
            .parties
            .iter()
            .map(|p| {
                let address = p.address.as_ref().map_or("-", EmailAddress::as_str);
                let record = match &p.record {
                    Some(record) if new.is_some_and(|n| n.record == *record) => "new".to_owned(),
                    Some(record) => crm.name_of(record),
                    None => "-".to_owned(),
                };
                format!("{} {record} {address}", format!("{:?}", p.participation).to_lowercase())
            })
            .collect();
        assert_eq!(&found, parties, "{text}");
    }
}

#[test]
fn decision_table() {
    let table = table();
    for case in &table.cases {
        check(&table, case);
    }
    let mut names: Vec<&str> = table.cases.iter().map(|c| c.name.as_str()).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|w| w[0] != w[1]), "each case has its own name");
}

/// Correlation is asked for only when a filter needs it, or the message is accepted.
#[test]
fn questions_to_the_crm() {
    let table = table();
    for (name, resolve, find) in [
        ("no From", 0, 0),
        ("same Message-ID as an incoming e-mail of ours", 0, 0),
        ("same Message-ID as an incoming e-mail of another program", 0, 1),
        ("no user or queue among recipients", 1, 1),
        ("None, correlated", 1, 1),
        ("a reply by In-Reply-To", 1, 2),
        ("Response, unknown sender, not correlated", 1, 1),
        ("two tokens, the last one unknown", 1, 3),
        ("conversation index, the newest of the conversation", 1, 2),
        ("conversation id that is not known, then the index", 1, 3),
        ("smart matching is off by default", 1, 1),
        ("smart matching C: another word", 1, 2),
        ("smart matching: Microsoft's false positive is refused", 1, 1),
        ("a signed Message-ID that the CRM does not know", 1, 2),
        ("a forged reference, refused", 1, 1),
    ] {
        let case = table.cases.iter().find(|c| c.name == name).unwrap();
        let (_, crm, _) = run(&table, case, TableCrm::new(&table, case), &whole(&table, case));
        let asked = (crm.resolve_calls.load(Ordering::SeqCst), crm.find_calls.load(Ordering::SeqCst));
        assert_eq!(asked, (resolve, find), "{name}");
    }
}

/// Where the CRM decides, its word is the verdict; only what is no mail, is there already or is not tracked at all is not asked about.
#[test]
fn the_word_of_a_crm_that_decides() {
    use email_router_crm::Verdict as Said;
    let table = table();
    for case in table.cases.iter().filter(|case| !case.release) {
        let message = whole(&table, case);
        let hear =
            |verdict| run(&table, case, TableCrm { verdict, ..TableCrm::new(&table, case) }, &message).0;
        let alone = hear(Said::RouterDecides);
        let unasked =
            matches!(alone.reason, ReasonCode::Unknown | ReasonCode::Duplicate | ReasonCode::InvalidSender);
        let (wanted, refused) = (
            hear(Said::Deliver(ReasonCode::SenderMatch)),
            hear(Said::Discard(ReasonCode::InternalEmailReject)),
        );
        let text = format!("{}\n{}\n{}", case.name, wanted.record, refused.record);
        if unasked {
            assert_eq!((wanted.reason, refused.reason), (alone.reason, alone.reason), "{text}");
            continue;
        }
        assert_eq!((wanted.verdict, wanted.reason), (Verdict::Deliver, ReasonCode::SenderMatch), "{text}");
        assert_eq!(
            (refused.verdict, refused.reason),
            (Verdict::Discard, ReasonCode::InternalEmailReject),
            "{text}"
        );
        let overruled = |d: &Decision| d.record.steps.iter().any(|s| s.rule == "overruled by the CRM");
        assert_eq!(overruled(&wanted), alone.verdict == Verdict::Discard, "{text}");
    }
}

/// Smart matching does not look at mail that no person wrote, unless the organization tracks it like any other.
#[tokio::test]
async fn automatic_mail_and_smart_matching() {
    let table = table();
    let name = "smart matching B: words equal, two addresses";
    let mut case = table.cases.iter().find(|c| c.name == name).unwrap().clone();
    for (policy, automatic, expected) in [
        ("track_without_smart_matching", false, true),
        ("track_without_smart_matching", true, false),
        ("discard", true, false),
        ("track", true, true),
    ] {
        case.settings.insert("automaticmail".to_owned(), Value::from(policy));
        let crm: Arc<dyn CrmClient> = Arc::new(TableCrm::new(&table, &case));
        let view = OrganizationView::load(&*crm).await.unwrap();
        let message = whole(&table, &case);
        let from = valid_sender(&message).unwrap();
        let decider = Decider::new(crm.clone(), Arc::new(CrmIndex(crm)));
        let resolved = decider.resolve(&view, &message, from).await.unwrap();
        let sender = parties::sender(&resolved, from, None, view.settings());
        let mailbox = mailbox(&table, &case);
        let context = MailboxContext::new(&mailbox, None);
        let draft = decider.draft(&view, &context, &message, None);
        let question = Question { automatic, ..decider.question(&draft, &sender, &resolved) };
        let mut trace = Trace::new(false);
        let found = correlate::correlate(&question, &*decider.index, &mut trace).await.unwrap();
        assert_eq!(found.hit.is_some(), expected, "{policy} {automatic} {trace:?}");
        let said = trace.steps.iter().any(|s| s.found.contains("the mail is automatic"));
        assert_eq!(said, !expected, "{policy} {automatic}");
    }
}

/// A signature proves who made an id, not that the e-mail is still there; and ids mean nothing to a router without the key.
#[test]
fn signed_references_to_what_is_not_there_or_not_ours() {
    let mut table = table();
    let name = "a signed Message-ID that the CRM does not know";
    let case = table.cases.iter().find(|c| c.name == name).unwrap().clone();
    let message = whole(&table, &case);
    let (decision, ..) = run(&table, &case, TableCrm::new(&table, &case), &message);
    assert!(decision.hit.is_some());
    let mut crm = TableCrm::new(&table, &case);
    crm.emails.remove(0);
    let (decision, ..) = run(&table, &case, crm, &message);
    assert_eq!(decision.hit, None);
    assert!(decision.record.to_string().contains("which the CRM does not have"), "{}", decision.record);

    // without the key it is an id like any other: found only where the CRM has it
    let signed = message.in_reply_to[0].as_str().to_owned();
    for known in [false, true] {
        if known {
            table.emails[1].message_id = Some(signed.clone());
        }
        let crm: Arc<dyn CrmClient> = Arc::new(TableCrm::new(&table, &case));
        let decider = Decider::new(crm.clone(), Arc::new(CrmIndex(crm.clone())));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mailbox = mailbox(&table, &case);
        let decision = runtime.block_on(async {
            let view = OrganizationView::load(&*crm).await.unwrap();
            let context = MailboxContext::new(&mailbox, None);
            decider.decide(&view, &context, &message).await.unwrap()
        });
        assert_eq!(decision.hit.is_some(), known, "{}", decision.record);
    }
}

/// What becomes an e-mail takes hashes and conversation along, so that later mail can be compared with it.
#[test]
fn a_delivered_email_has_what_later_mail_is_compared_with() {
    let table = table();
    let mut case =
        table.cases.iter().find(|c| c.name == "conversation id of the mail system").unwrap().clone();
    let message = whole(&table, &case);
    let email = |case: &Case| {
        let (decision, _, view) = run(&table, case, TableCrm::new(&table, case), &message);
        decision.into_email(&view, &message, Content::default()).unwrap()
    };
    let delivered = email(&case);
    assert_eq!(delivered.conversation_id.as_deref(), Some("AAQkAD0="));
    assert_eq!((delivered.smart.words.len(), delivered.smart.addresses.len()), (2, 2));
    case.settings.insert("DisableSmartMatchingEmailHashCreation".to_owned(), Value::from(true));
    assert_eq!(email(&case).smart, email_router_crm::SmartHashes::default());
}

#[test]
fn a_thousand_recipients_do_not_hide_the_rest() {
    let mut table = table();
    let mut case = table.cases.iter().find(|c| c.name == "All accepts anyone").unwrap().clone();
    let many: Vec<String> = (0..1200).map(|n| format!("u{n}@shop.example")).collect();
    for (n, address) in many.iter().enumerate() {
        let row = serde_json::json!({"name": format!("u{n}"), "table": "systemuser", "addresses": [address], "owner": null, "created": 1});
        table.records.push(serde_json::from_value(row).unwrap());
        table.mailboxes.push(serde_json::json!({"record": format!("u{n}"), "filter": "none"}));
    }
    case.header[1] = format!("To: ann@shop.example,\r\n {}", many.join(",\r\n "));
    let message = whole(&table, &case);
    let (decision, ..) = run(&table, &case, TableCrm::new(&table, &case), &message);
    assert_eq!((decision.reason, decision.parties.len()), (ReasonCode::AcceptAll, 1001));
    assert!(decision.record.steps.len() < 70, "{}", decision.record.steps.len());
    assert_eq!(decision.record.steps.last().unwrap().rule, "owner");
    assert_eq!(decision.record.parties.len(), 200);
    let text = decision.record.to_string();
    assert!(text.contains("parties: 1001 parties, of which the first 200 are listed"), "{text}");
    assert!(text.contains("    and 180 more\n") && text.lines().count() < 120, "{text}");
    assert!(
        message.defects.iter().any(|d| d.contains("more recipients than the limit")),
        "{:?}",
        message.defects
    );
}

#[test]
fn without_message_id_the_whole_message_decides_identity() {
    let table = table();
    let mut case = table.cases.iter().find(|c| c.name == "All accepts anyone").unwrap().clone();
    case.header.retain(|h| !h.starts_with("Message-ID"));
    let alone = Message::from_headers(&message_bytes(&table, &case), &ParseCaps::default());
    let (decision, _, view) = run(&table, &case, TableCrm::new(&table, &case), &alone);
    assert_eq!((decision.verdict, decision.activity_id), (Verdict::Deliver, None));
    assert!(decision.into_email(&view, &alone, Content::default()).is_err());
    let message = whole(&table, &case);
    let (decision, ..) = run(&table, &case, TableCrm::new(&table, &case), &message);
    assert_eq!(decision.activity_id, message.activity_id(view.id()));
    case.delivered = vec![message.identity().unwrap()];
    let (decision, ..) = run(&table, &case, TableCrm::new(&table, &case), &message);
    assert_eq!(decision.reason, ReasonCode::Duplicate);
}

#[test]
fn what_is_no_message_has_no_sender() {
    let table = table();
    let case = &table.cases[0];
    let message = Message::parse(&RawMessage::new(&b"\x00\x01garbage"[..]), &ParseCaps::default());
    let (decision, ..) = run(&table, case, TableCrm::new(&table, case), &message);
    assert_eq!((decision.verdict, decision.reason), (Verdict::Discard, ReasonCode::InvalidSender));
    assert!(decision.record.because.contains("no header field"), "{}", decision.record.because);
}

/// `fixtures/malformed/outcomes.tsv`, read by a mailbox that accepts everything.
#[test]
fn malformed_messages() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/malformed");
    let read = |name: &str| email_router_model::read_file_capped(&folder.join(name), 64 << 20).unwrap();
    let outcomes = String::from_utf8(read("outcomes.tsv")).unwrap();
    let mut table = table();
    table.records[0].addresses.push("inbox@fabrikam.test".to_owned());
    let case = table.cases.iter().find(|c| c.name == "All accepts anyone").unwrap();
    let caps = ParseCaps::default();
    let mut count = 0;
    for row in outcomes.lines().skip(1) {
        let (file, rest) = row.split_once('\t').unwrap();
        let expected: Vec<&str> = rest.split('\t').next().unwrap().split('|').collect();
        let raw = RawMessage::new(read(file));
        let message = Message::parse(&raw, &caps);
        let (decision, _, view) = run(&table, case, TableCrm::new(&table, case), &message);
        let found = match decision.verdict {
            Verdict::Deliver => "delivered".to_owned(),
            _ => format!("discarded:{:?}", decision.reason),
        };
        assert!(
            // what goes into quarantine before it is judged is judged here all the same
            expected.contains(&found.as_str()) || expected == ["quarantined"],
            "{file}: {found}, expected {expected:?}\n{}",
            decision.record
        );
        let alone = Message::from_headers(raw.bytes(), &caps);
        let (by_header, ..) = run(&table, case, TableCrm::new(&table, case), &alone);
        assert_eq!((by_header.verdict, by_header.reason), (decision.verdict, decision.reason), "{file}");
        if decision.verdict == Verdict::Deliver {
            let content = message.content(&raw, &caps, view.settings());
            assert!(
                content.attachments.len() < caps.max_parts && content.removed_parts.len() <= 101,
                "{file}"
            );
            for a in &content.attachments {
                let bad = |c: char| c.is_control() || matches!(c, '/' | '\\');
                assert!(
                    !a.file_name.contains(bad) && a.file_name.chars().count() <= 255,
                    "{file}: {:?}",
                    a.file_name
                );
                assert!(!a.file_name.to_lowercase().ends_with(".exe"), "{file}: {:?}", a.file_name);
            }
            let email = decision.into_email(&view, &message, content).unwrap();
            assert!(
                email.subject.chars().count() <= 800 && !email.subject.contains(char::is_control),
                "{file}"
            );
            assert!(!email.body.contains('\0'), "{file}");
            assert!(email.parties.iter().all(|p| p.participation != ParticipationType::Bcc), "{file}");
            assert!(
                email.references.len() <= caps.max_references
                    && email.parties.len() <= caps.max_recipients + 1,
                "{file}"
            );
        }
        count += 1;
    }
    assert!(count >= 60, "{count}");
}

/// What a person must find in some of them.
#[test]
fn malformed_messages_keep_their_text() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/malformed");
    let content = |name: &str| {
        let raw =
            RawMessage::new(email_router_model::read_file_capped(&folder.join(name), 64 << 20).unwrap());
        Content::read(&raw, &ParseCaps::default(), &OrganizationSettings::default())
    };
    for file in [
        "boundary-missing.eml",
        "boundary-never-occurs.eml",
        "boundary-text-in-a-line.eml",
        "boundary-unquoted.eml",
        "body-nul-octets.eml",
        "charset-unknown.eml",
        "charset-with-escape.eml",
        "content-type-garbage.eml",
        "content-type-is-an-encoded-word.eml",
        "quoted-printable-broken.eml",
        "transfer-encoding-unknown.eml",
        "no-newline-at-end.eml",
        "body-raw-binary.eml",
        "charset-lies.eml",
        "base64-cut-off.eml",
        "utf-7.eml",
        "uuencoded-attachment.eml",
    ] {
        let content = content(file);
        assert!(
            !content.body.trim().is_empty(),
            "{file}: {:?} {:?}",
            content.removed_parts,
            content.attachments
        );
    }
    for file in ["multipart-nested-200.eml", "multipart-nested-5000.eml", "parts-20000.eml"] {
        assert!(!content(file).removed_parts.is_empty(), "{file}");
    }
}

#[test]
fn the_record_reads_well() {
    let table = table();
    let case = table.cases.iter().find(|c| c.name == "a reply by In-Reply-To").unwrap();
    let (decision, ..) = run(&table, case, TableCrm::new(&table, case), &whole(&table, case));
    let expected = include_str!("../../../../fixtures/decisions/reply.txt");
    assert_eq!(decision.record.to_string(), expected);
}

/// An e-mail that has nothing to do with any case: its ids, tokens, conversation and parties occur nowhere in the table. Its words do.
fn unrelated(n: u128, created: i64) -> EmailSummary {
    let strangers: [EmailAddress; 2] =
        ["a", "b"].map(|name| format!("{name}{n}@noise.example").parse().unwrap());
    EmailSummary {
        activity_id: ActivityId::from_uuid(Uuid::from_u128(500_000 + n)),
        outgoing: n.is_multiple_of(2),
        message_id: MessageId::parse(&format!("<noise-{n}@nowhere.example>")),
        subject: "Offer 12".to_owned(),
        tracking_token: Some(format!("CRM:09{:05}", n % 100_000)),
        regarding: None,
        owner: None,
        parties: Vec::new(),
        created_on: at(created),
        conversation_index: Some(format!("{n:044x}")),
        conversation_id: Some(format!("noise {n}")),
        smart: SmartHasher::new(&OrganizationSettings::default()).hashes("Offer 12", &strangers),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]
    #[test]
    fn neither_order_nor_unrelated_mail_matters(
        pick in any::<proptest::sample::Index>(),
        turn in 0..24usize,
        noise in proptest::collection::vec((0..10_000u128, 0..5_000_000i64), 0..20),
    ) {
        let table = table();
        let case = &table.cases[pick.index(table.cases.len())];
        let message = whole(&table, case);
        let (plain, ..) = run(&table, case, TableCrm::new(&table, case), &message);
        let mut crm = TableCrm::new(&table, case);
        crm.turn = turn;
        crm.emails.extend(noise.into_iter().map(|(n, created)| unrelated(n, created)));
        let (turned, ..) = run(&table, case, crm, &message);
        prop_assert_eq!(turned, plain);
    }
}
