//! The suite that every CrmClient runs.
//!
//! Implement [`Fixture`] for the CRM, call [`run`] in a test: each rule of the contract gets a fresh organization and fails with its
//! name and what it saw. The client is used as `Arc<dyn CrmClient>` throughout, so the erased handle is tested with it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use email_router_model::{ActivityId, Direction, EmailAddress, MailboxKind, MessageId, RecordRef, Timestamp};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::token::TokenFormat;
use crate::{
    Attachment, Claim, CorrelationMethod, CrmClient, Delivered, DeliveryMethod, EmailLookup, EmailStatus,
    ErrorKind, IncomingCheck, IncomingEmail, OrganizationSettings, ParticipationType, Party, PendingEmail,
    PendingQuery, Priority, ReasonCode, RecipientReport, Result, SendOutcome, SmartHashes, Verdict,
};

mod correlation;
mod people;
mod reports;

/// Who decides in the CRM under test; rules demand what then must hold, none is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Decides {
    /// The router: what it says of an e-mail (id, parties, owner, regarding, token, queues, what is kept for correlation) is what the CRM keeps.
    #[default]
    Router,
    /// The CRM: it makes the id, resolves parties and queues, ties conversations. It finds a delivered e-mail by the router's id all the same.
    Crm,
}

/// One fresh organization and the means to put records into it.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// The client under test.
    fn crm(&self) -> Arc<dyn CrmClient>;
    /// Who decides there.
    fn decides(&self) -> Decides {
        Decides::Router
    }
    /// The time as the CRM sees it.
    fn now(&self) -> Timestamp;
    /// Moves that time forward.
    fn advance(&self, by: Duration);
    /// Adds an enabled user whose mail goes through the router; its address is not approved unless `approved`.
    async fn add_user(&self, name: &str, address: &str, approved: bool) -> Result<RecordRef>;
    /// Adds an active queue whose mail goes through the router, with an approved address.
    async fn add_queue(&self, name: &str, address: &str) -> Result<RecordRef>;
    /// Adds an active contact.
    async fn add_contact(&self, name: &str, address: &str) -> Result<RecordRef>;
    /// Disables a user, or makes another record inactive.
    async fn disable(&self, record: &RecordRef) -> Result<()>;
    /// Makes the router not responsible for mail of this user or queue any more.
    async fn take_from_router(&self, record: &RecordRef) -> Result<()>;
    /// Replaces the settings of the organization.
    async fn set_settings(&self, settings: &OrganizationSettings) -> Result<()>;
    /// Makes an outgoing e-mail in Pending Send, by a person.
    async fn send(&self, email: &Seed) -> Result<ActivityId>;
    /// Deletes an e-mail, as a person would; `false` when this CRM does not remember deletions.
    async fn delete_email(&self, id: ActivityId) -> Result<bool>;
    /// Whether [`CrmClient::find_emails`] may name an e-mail that a person deleted a moment ago: a mirror learns of that when the e-mail is used. Whoever
    /// delivers what points to it is then told to decide again.
    fn finds_what_was_deleted_lately(&self) -> bool {
        false
    }
    /// Whether the adapter itself does what `resolvesimilarunresolvedemailaddress` asks for; on a server that is the server's affair.
    fn resolves_similar_parties(&self) -> bool {
        true
    }
    /// The active items of a queue.
    async fn queue_items(&self, queue: &RecordRef) -> Result<Vec<ActivityId>>;
    /// What is known of the recipients of an outgoing e-mail from delivery reports, in any order.
    async fn reported(&self, id: ActivityId) -> Result<Vec<RecipientReport>>;
    /// Status of an e-mail.
    async fn status(&self, id: ActivityId) -> Result<EmailStatus>;
}

/// An outgoing e-mail that a [`Fixture`] makes.
#[derive(Debug, Clone)]
pub struct Seed {
    /// A user or queue.
    pub from: RecordRef,
    /// To.
    pub to: RecordRef,
    /// Subject.
    pub subject: String,
    /// The e-mail it answers.
    pub in_reply_to: Option<ActivityId>,
    /// Not before.
    pub delay_until: Option<Timestamp>,
    /// Priority.
    pub priority: Priority,
    /// Attachments.
    pub attachments: Vec<Attachment>,
}

impl Seed {
    /// A plain e-mail.
    #[must_use]
    pub fn new(from: &RecordRef, to: &RecordRef, subject: &str) -> Self {
        Self {
            from: from.clone(),
            to: to.clone(),
            subject: subject.to_owned(),
            in_reply_to: None,
            delay_until: None,
            priority: Priority::Normal,
            attachments: Vec::new(),
        }
    }
}

/// Runs every rule, each on what `fresh` makes.
///
/// # Panics
/// At the first rule that does not hold, with its name.
pub async fn run<F, M, R>(mut fresh: M)
where
    F: Fixture + 'static,
    M: FnMut() -> R,
    R: Future<Output = F>,
{
    macro_rules! rules {
        ($($rule:path),* $(,)?) => { $(
            if let Err(e) = $rule(&fresh().await).await {
                panic!("{}: {e}", stringify!($rule));
            }
        )* };
    }
    rules![
        settings_are_read_as_they_were_set,
        the_organization_keeps_its_id,
        who_decides_says_so,
        mailboxes_list_every_record,
        resolve_answers_in_the_order_asked,
        resolve_stops_at_101,
        a_delivery_is_found_again,
        delivering_again_changes_nothing,
        twenty_deliver_the_same_at_once,
        a_bad_delivery_writes_nothing,
        a_deleted_email_does_not_come_back,
        additional_queue_items_only_when_asked_for,
        find_emails_gives_the_newest_first,
        one_of_many_wins_a_claim,
        pending_is_fair_and_ordered,
        what_is_delayed_waits,
        what_was_left_in_sending_is_stale,
        a_retry_waits_and_counts,
        finishing_twice_changes_nothing,
        in_doubt_is_not_listed_again,
        only_approved_senders_send,
        an_outgoing_email_has_all_it_needs,
        preparing_twice_gives_the_same,
        tokens_count_per_sender_and_start_over,
        what_is_not_there_is_not_found,
        correlation::an_email_is_found_by_its_conversation,
        correlation::smart_matching_compares_words_and_addresses,
        correlation::smart_matching_does_not_look_back_for_ever,
        correlation::smart_matching_finds_the_rare_among_many,
        correlation::without_hashes_nothing_is_matched,
        correlation::an_answer_to_an_outgoing_email_is_matched,
        people::an_unknown_sender_is_created_once,
        people::a_refused_delivery_creates_no_sender,
        people::similar_parties_follow_only_when_asked,
        reports::reports_keep_the_last_word,
        reports::a_report_changes_nothing_about_sending,
    ];
}

/// The id under which the CRM has an e-mail that was delivered.
async fn in_crm(f: &dyn Fixture, delivered: ActivityId) -> Result<ActivityId> {
    if f.decides() == Decides::Router {
        return Ok(delivered);
    }
    let found = f.crm().find_emails(&EmailLookup::Ids(vec![delivered]), 2).await?;
    assert_eq!(found.len(), 1, "{delivered} is found by the router's id");
    Ok(found[0].activity_id)
}

fn address(text: &str) -> Result<EmailAddress> {
    EmailAddress::parse(text).map_err(|e| crate::Error::new(ErrorKind::Invalid, e.to_string()))
}

fn mid(text: &str) -> Result<MessageId> {
    MessageId::parse(text).ok_or_else(|| crate::Error::new(ErrorKind::Invalid, text.to_owned()))
}

fn party(participation: ParticipationType, record: Option<&RecordRef>, at: &str) -> Result<Party> {
    Ok(Party {
        participation,
        record: record.cloned(),
        address: Some(address(at)?),
        name: Some(at.to_uppercase()),
    })
}

/// A received e-mail with everything filled in.
fn received(f: &dyn Fixture, message_id: &str) -> Result<IncomingEmail> {
    let message_id = mid(message_id)?;
    Ok(IncomingEmail {
        activity_id: ActivityId::derive(&f.crm().organization_id(), Direction::Incoming, message_id.as_str()),
        message_id: Some(message_id),
        in_reply_to: Some(mid("<parent@x>")?),
        references: vec![mid("<root@x>")?, mid("<parent@x>")?],
        conversation_index: Some("01d5a1".to_owned()),
        subject: "Grüße, 报价 CRM:0001001".to_owned(),
        body: "<p>body</p>".to_owned(),
        body_mime_type: "text/html".to_owned(),
        parties: vec![
            party(ParticipationType::Sender, None, "bob@contoso.example")?,
            party(ParticipationType::To, None, "ann@fabrikam.example")?,
            party(ParticipationType::Cc, None, "carol@fabrikam.example")?,
        ],
        regarding: None,
        correlated_activity: None,
        parent_activity: None,
        correlation_method: CorrelationMethod::TrackingToken,
        tracking_token: Some("CRM:0001001".to_owned()),
        owner: None,
        queues: Vec::new(),
        accepting: None,
        receiving: None,
        submitted_by: Some(address("ann@fabrikam.example")?),
        is_duplicate_sender_unresolved: false,
        received_on: Some(f.now()),
        sent_on: Some(f.now()),
        priority: Priority::High,
        attachments: vec![Attachment {
            file_name: "a.bin".to_owned(),
            mime_type: "application/octet-stream".to_owned(),
            content_id: Some("c@x".to_owned()),
            content: Bytes::from_static(b"\0\x01\xff"),
        }],
        removed_parts: vec!["b.exe: blocked".to_owned()],
        text_body: Some("body".to_owned()),
        category: Some("automatic: auto-replied".to_owned()),
        subcategory: Some("S/MIME signed".to_owned()),
        conversation_id: Some("AAQkAD0=".to_owned()),
        smart: SmartHashes { words: vec![-5, 3, 8], addresses: vec![1, 2, 4] },
        new_sender: None,
    })
}

fn pending_query(f: &dyn Fixture, senders: &[&RecordRef], per_sender: usize) -> PendingQuery {
    PendingQuery {
        senders: senders.iter().map(|s| (*s).clone()).collect(),
        per_sender,
        now: f.now(),
        stale_after: Duration::from_secs(1800),
    }
}

async fn pending(f: &dyn Fixture, senders: &[&RecordRef]) -> Result<Vec<PendingEmail>> {
    f.crm().pending_outgoing(&pending_query(f, senders, 100)).await
}

/// A user, a contact and an e-mail from the one to the other.
async fn one_waiting(f: &dyn Fixture) -> Result<(RecordRef, RecordRef, ActivityId)> {
    let ann = f.add_user("Ann", "ann@fabrikam.example", true).await?;
    let bob = f.add_contact("Bob", "bob@contoso.example").await?;
    let id = f.send(&Seed::new(&ann, &bob, "Quote")).await?;
    Ok((ann, bob, id))
}

async fn claim_one(f: &dyn Fixture, sender: &RecordRef) -> Result<ActivityId> {
    let listed = pending(f, &[sender]).await?;
    assert_eq!(listed.len(), 1, "{listed:?}");
    let claim = f.crm().claim(&listed[0]).await?;
    assert!(matches!(claim, Claim::Taken { .. }), "{claim:?}");
    Ok(listed[0].activity_id)
}

/// Who decides says so, and changes nothing by it.
async fn who_decides_says_so(f: &dyn Fixture) -> Result<()> {
    f.add_user("Ann", "ann@fabrikam.example", true).await?;
    let check = |to: &str, message_id: &str| -> Result<IncomingCheck> {
        Ok(IncomingCheck {
            message_id: mid(message_id)?,
            subject: "it's a + b & c".to_owned(),
            from: address("bob@contoso.example")?,
            to: vec![address(to)?, address("o'hara@contoso.example")?],
            cc: vec![address("carol@fabrikam.example")?],
            bcc: Vec::new(),
        })
    };
    let email = received(f, "<there@x>")?;
    f.crm().deliver_incoming(email).await?;
    let mut said = Vec::new();
    for _ in 0..2 {
        said.clear();
        for (to, message_id) in [
            ("ann@fabrikam.example", "<new@x>"),
            ("ann@fabrikam.example", "<there@x>"),
            ("nobody@fabrikam.example", "<new@x>"),
        ] {
            said.push(f.crm().check_incoming(&check(to, message_id)?).await?);
        }
    }
    let expected = match f.decides() {
        Decides::Router => [Verdict::RouterDecides; 3],
        Decides::Crm => [
            Verdict::Deliver(ReasonCode::AcceptAll),
            Verdict::Discard(ReasonCode::Duplicate),
            Verdict::Discard(ReasonCode::NoRecipientMatch),
        ],
    };
    assert_eq!(said, expected);
    assert_eq!(f.crm().find_emails(&EmailLookup::MessageIds(vec![mid("<new@x>")?]), 1).await?, []);
    Ok(())
}

async fn settings_are_read_as_they_were_set(f: &dyn Fixture) -> Result<()> {
    let settings = OrganizationSettings {
        tracking_prefix: "KAW".to_owned(),
        maximum_tracking_number: 99_999,
        tracking_token_id_digits: 4,
        require_approval_for_user_email: true,
        blocked_attachments: vec!["exe".to_owned(), "js".to_owned()],
        maximum_subject_length_on_mail_server: 400,
        create_queue_item_for_synchronizing_mailbox: false,
        ..OrganizationSettings::default()
    };
    f.set_settings(&settings).await?;
    assert_eq!(f.crm().settings().await?, settings);
    Ok(())
}

async fn the_organization_keeps_its_id(f: &dyn Fixture) -> Result<()> {
    let crm = f.crm();
    assert_eq!(crm.organization_id(), crm.organization_id());
    assert_ne!(*crm.organization_id().as_uuid(), Uuid::nil());
    Ok(())
}

async fn mailboxes_list_every_record(f: &dyn Fixture) -> Result<()> {
    let ann = f.add_user("Ann", "ann@fabrikam.example", true).await?;
    let dan = f.add_user("Dan", "dan@fabrikam.example", true).await?;
    let help = f.add_queue("Help", "help@fabrikam.example").await?;
    f.disable(&dan).await?;
    let all = f.crm().mailboxes().await?;
    for (record, kind, name, at, disabled) in [
        (&ann, MailboxKind::User, "Ann", "ann@fabrikam.example", false),
        (&dan, MailboxKind::User, "Dan", "dan@fabrikam.example", true),
        (&help, MailboxKind::Queue, "Help", "help@fabrikam.example", false),
    ] {
        let Some(found) = all.iter().find(|m| m.record == *record) else {
            panic!("{name} is missing in {all:?}")
        };
        assert_eq!((found.kind, found.name.as_str(), found.disabled), (kind, name, disabled));
        assert_eq!(found.address, Some(address(at)?));
        assert_eq!(
            (found.incoming, found.outgoing),
            (DeliveryMethod::EmailRouter, DeliveryMethod::EmailRouter)
        );
    }
    Ok(())
}

async fn resolve_answers_in_the_order_asked(f: &dyn Fixture) -> Result<()> {
    let ann = f.add_user("Ann", "ann@fabrikam.example", true).await?;
    let bob = f.add_contact("Bob", "Bob@Contoso.example").await?;
    f.advance(Duration::from_secs(1));
    let twin = f.add_contact("Bob's twin", "bob@contoso.example").await?;
    let old = f.add_contact("Old", "old@contoso.example").await?;
    let gone = f.add_user("Gone", "gone@fabrikam.example", true).await?;
    f.disable(&old).await?;
    f.disable(&gone).await?;
    let asked = [
        "nobody@x.example",
        "BOB@contoso.EXAMPLE",
        "ann@fabrikam.example",
        "old@contoso.example",
        "gone@fabrikam.example",
    ];
    let asked = asked.into_iter().map(address).collect::<Result<Vec<_>>>()?;
    let found = f.crm().resolve(&asked).await?;
    let records: Vec<Vec<&RecordRef>> = found.iter().map(|r| r.iter().map(|r| &r.record).collect()).collect();
    assert_eq!(records, [vec![], vec![&bob, &twin], vec![&ann], vec![&old], vec![]]);
    assert_eq!((found[1][0].name.as_str(), found[1][0].active, found[3][0].active), ("Bob", true, false));
    assert!(found[1][0].created_on < found[1][1].created_on);
    assert_eq!(f.crm().resolve(&[]).await?, Vec::<Vec<_>>::new());
    Ok(())
}

async fn resolve_stops_at_101(f: &dyn Fixture) -> Result<()> {
    for n in 0..103 {
        f.add_contact(&format!("Twin {n}"), "twin@contoso.example").await?;
    }
    let found = f.crm().resolve(&[address("twin@contoso.example")?]).await?;
    assert_eq!(found[0].len(), 101);
    Ok(())
}

async fn a_delivery_is_found_again(f: &dyn Fixture) -> Result<()> {
    let crm = f.crm();
    let help = f.add_queue("Help", "help@fabrikam.example").await?;
    let mut email = received(f, "<m1@x>")?;
    email.queues = vec![help.id];
    email.parties.push(party(ParticipationType::To, Some(&help), "help@fabrikam.example")?);
    email.regarding = Some(f.add_contact("Bob", "bob@elsewhere.example").await?);
    email.owner = Some(f.add_user("Ann", "ann@elsewhere.example", true).await?);
    assert!(!crm.exists(&email.activity_id).await?);
    assert_eq!(crm.deliver_incoming(email.clone()).await?, Delivered::Created);
    assert!(crm.exists(&email.activity_id).await?);
    assert_eq!(crm.attachments(&email.activity_id).await?, email.attachments);
    let id = in_crm(f, email.activity_id).await?;
    assert_eq!(f.status(id).await?, EmailStatus::Received);
    assert_eq!(f.queue_items(&help).await?, [id]);
    if f.decides() == Decides::Crm {
        return what_the_crm_made(f, &email, id).await;
    }
    for lookup in [
        EmailLookup::MessageIds(vec![mid("<no@x>")?, mid("<m1@x>")?, mid("<m1@x>")?]),
        EmailLookup::TrackingToken("crm:0001001".to_owned()),
        EmailLookup::Ids(vec![email.activity_id, ActivityId::from_uuid(Uuid::from_u128(1))]),
    ] {
        let found = crm.find_emails(&lookup, 10).await?;
        assert_eq!(found.len(), 1, "{lookup:?}");
        let one = &found[0];
        assert_eq!((one.activity_id, one.outgoing), (email.activity_id, false));
        assert_eq!((&one.message_id, &one.subject), (&email.message_id, &email.subject));
        assert_eq!((&one.tracking_token, &one.regarding), (&email.tracking_token, &email.regarding));
        assert_eq!((&one.owner, &one.parties), (&email.owner, &email.parties));
        assert_eq!((&one.conversation_index, &one.smart), (&email.conversation_index, &email.smart));
        assert_eq!(one.conversation_id, email.conversation_id);
    }
    // Message-IDs are compared exactly
    assert_eq!(crm.find_emails(&EmailLookup::MessageIds(vec![mid("<M1@x>")?]), 10).await?, []);
    Ok(())
}

/// Of an e-mail whose fate the CRM decides it keeps what the message says, and has parties of its own finding.
async fn what_the_crm_made(f: &dyn Fixture, email: &IncomingEmail, id: ActivityId) -> Result<()> {
    for lookup in [
        EmailLookup::MessageIds(vec![mid("<no@x>")?, mid("<m1@x>")?, mid("<m1@x>")?]),
        EmailLookup::Ids(vec![email.activity_id, ActivityId::from_uuid(Uuid::from_u128(1))]),
        EmailLookup::Ids(vec![id]),
    ] {
        let found = f.crm().find_emails(&lookup, 10).await?;
        assert_eq!(found.len(), 1, "{lookup:?}");
        let one = &found[0];
        assert_eq!((one.activity_id, one.outgoing), (id, false));
        assert_eq!((&one.message_id, &one.subject), (&email.message_id, &email.subject));
        let at = |parties: &[Party]| -> Vec<_> {
            parties.iter().map(|p| (p.participation, p.address.clone())).collect()
        };
        let (mut theirs, mut ours) = (at(&one.parties), at(&email.parties));
        theirs.sort();
        ours.sort();
        assert_eq!(theirs, ours);
    }
    assert_eq!(f.crm().find_emails(&EmailLookup::MessageIds(vec![mid("<M1@x>")?]), 10).await?, []);
    Ok(())
}

async fn delivering_again_changes_nothing(f: &dyn Fixture) -> Result<()> {
    let crm = f.crm();
    let email = received(f, "<m1@x>")?;
    assert_eq!(crm.deliver_incoming(email.clone()).await?, Delivered::Created);
    let mut other = email.clone();
    other.subject = "something else".to_owned();
    other.attachments.clear();
    assert_eq!(crm.deliver_incoming(other).await?, Delivered::AlreadyThere);
    let found = crm.find_emails(&EmailLookup::Ids(vec![email.activity_id]), 10).await?;
    assert_eq!((found.len(), &found[0].subject), (1, &email.subject));
    assert_eq!(crm.attachments(&email.activity_id).await?.len(), 1);
    Ok(())
}

async fn twenty_deliver_the_same_at_once(f: &dyn Fixture) -> Result<()> {
    let email = received(f, "<m1@x>")?;
    let mut tasks = JoinSet::new();
    for _ in 0..20 {
        let (crm, email) = (f.crm(), email.clone());
        tasks.spawn(async move { crm.deliver_incoming(email).await });
    }
    let mut created = 0;
    while let Some(done) = tasks.join_next().await {
        match done {
            Ok(result) => created += usize::from(result? == Delivered::Created),
            Err(e) => panic!("a delivery panicked: {e}"),
        }
    }
    assert_eq!(created, 1);
    assert_eq!(f.crm().find_emails(&EmailLookup::Ids(vec![email.activity_id]), 10).await?.len(), 1);
    Ok(())
}

async fn a_bad_delivery_writes_nothing(f: &dyn Fixture) -> Result<()> {
    let crm = f.crm();
    let mut no_sender = received(f, "<m1@x>")?;
    no_sender.parties.remove(0);
    let mut no_queue = received(f, "<m2@x>")?;
    no_queue.queues = vec![Uuid::from_u128(404)];
    let mut bad = vec![no_sender];
    match f.decides() {
        Decides::Router => bad.push(no_queue),
        // the router's queues are not asked for
        Decides::Crm => assert_eq!(crm.deliver_incoming(no_queue).await?, Delivered::Created),
    }
    for bad in bad {
        let Err(error) = crm.deliver_incoming(bad.clone()).await else { panic!("accepted {bad:?}") };
        assert!(matches!(error.kind(), ErrorKind::Invalid | ErrorKind::NotFound), "{error}");
        assert!(!crm.exists(&bad.activity_id).await?);
        assert_eq!(crm.find_emails(&EmailLookup::Ids(vec![bad.activity_id]), 1).await?, []);
    }
    // and one that fails among good ones takes none with it
    let mut tasks = JoinSet::new();
    for n in 0..10 {
        let mut email = received(f, &format!("<n{n}@x>"))?;
        if n == 5 {
            email.parties.clear();
        }
        let crm = f.crm();
        tasks.spawn(async move { crm.deliver_incoming(email).await.is_ok() });
    }
    let outcomes = tasks.join_all().await;
    assert_eq!(outcomes.into_iter().filter(|ok| *ok).count(), 9);
    Ok(())
}

async fn a_deleted_email_does_not_come_back(f: &dyn Fixture) -> Result<()> {
    let crm = f.crm();
    let email = received(f, "<m1@x>")?;
    crm.deliver_incoming(email.clone()).await?;
    if f.delete_email(in_crm(f, email.activity_id).await?).await? {
        assert!(crm.exists(&email.activity_id).await?);
        assert_eq!(crm.deliver_incoming(email.clone()).await?, Delivered::AlreadyThere);
        let found = crm.find_emails(&EmailLookup::Ids(vec![email.activity_id]), 10).await?;
        assert!(found.is_empty() || f.finds_what_was_deleted_lately());
    }
    Ok(())
}

async fn additional_queue_items_only_when_asked_for(f: &dyn Fixture) -> Result<()> {
    let crm = f.crm();
    let (one, two) = (f.add_queue("One", "one@f.example").await?, f.add_queue("Two", "two@f.example").await?);
    let mut email = received(f, "<m1@x>")?;
    email.queues = vec![one.id, one.id];
    if f.decides() == Decides::Crm {
        // it looks for queues among the recipients
        email.parties.push(party(ParticipationType::To, None, "one@f.example")?);
    }
    crm.deliver_incoming(email.clone()).await?;
    assert_eq!(f.queue_items(&one).await?.len(), 1, "one active item per object and queue");
    email.queues = vec![one.id, two.id];
    crm.deliver_incoming(email.clone()).await?;
    assert_eq!(f.queue_items(&two).await?, []);
    f.set_settings(&OrganizationSettings {
        create_additional_queue_items_for_already_tracked_email: true,
        ..OrganizationSettings::default()
    })
    .await?;
    // who only wants a queue item has nothing else to say
    email.parties.clear();
    email.body.clear();
    for _ in 0..2 {
        assert_eq!(crm.deliver_incoming(email.clone()).await?, Delivered::AlreadyThere);
    }
    assert_eq!((f.queue_items(&one).await?.len(), f.queue_items(&two).await?.len()), (1, 1));
    Ok(())
}

async fn find_emails_gives_the_newest_first(f: &dyn Fixture) -> Result<()> {
    let mut ids = Vec::new();
    for n in 0..5 {
        let email = received(f, &format!("<m{n}@x>"))?;
        f.crm().deliver_incoming(email.clone()).await?;
        ids.insert(0, in_crm(f, email.activity_id).await?);
        f.advance(Duration::from_secs(1));
    }
    let token = match f.decides() {
        Decides::Router => EmailLookup::TrackingToken("CRM:0001001".to_owned()),
        Decides::Crm => {
            EmailLookup::MessageIds((0..5).map(|n| mid(&format!("<m{n}@x>"))).collect::<Result<_>>()?)
        }
    };
    for limit in [0, 1, 3, 5, 9] {
        let found = f.crm().find_emails(&token, limit).await?;
        let got: Vec<_> = found.iter().map(|e| e.activity_id).collect();
        assert_eq!(got, ids[..limit.min(5)], "limit {limit}");
    }
    let by_id = f.crm().find_emails(&EmailLookup::Ids(ids.iter().rev().copied().collect()), 2).await?;
    assert_eq!(by_id.iter().map(|e| e.activity_id).collect::<Vec<_>>(), ids[..2]);
    Ok(())
}

async fn one_of_many_wins_a_claim(f: &dyn Fixture) -> Result<()> {
    let (ann, _, id) = one_waiting(f).await?;
    let listed = pending(f, &[&ann]).await?;
    assert_eq!((listed.len(), listed[0].activity_id, listed[0].delivery_attempts), (1, id, 0));
    assert_eq!((&listed[0].sender, listed[0].stale), (&ann, false));
    let mut tasks = JoinSet::new();
    for _ in 0..20 {
        let (crm, email) = (f.crm(), listed[0].clone());
        tasks.spawn(async move { crm.claim(&email).await });
    }
    let mut taken = Vec::new();
    for claim in tasks.join_all().await {
        if let Claim::Taken { attempt } = claim? {
            taken.push(attempt);
        }
    }
    assert_eq!(taken, [1]);
    assert_eq!(f.status(id).await?, EmailStatus::Sending);
    assert_eq!(pending(f, &[&ann]).await?, []);
    Ok(())
}

async fn pending_is_fair_and_ordered(f: &dyn Fixture) -> Result<()> {
    let ann = f.add_user("Ann", "ann@fabrikam.example", true).await?;
    let help = f.add_queue("Help", "help@fabrikam.example").await?;
    let idle = f.add_user("Idle", "idle@fabrikam.example", true).await?;
    let bob = f.add_contact("Bob", "bob@contoso.example").await?;
    let mut of_ann = Vec::new();
    for n in 0..6 {
        let priority = match n {
            3 => Priority::High,
            0 => Priority::Low,
            _ => Priority::Normal,
        };
        of_ann.push(f.send(&Seed { priority, ..Seed::new(&ann, &bob, &format!("n{n}")) }).await?);
        f.advance(Duration::from_secs(1));
    }
    let of_help = f.send(&Seed::new(&help, &bob, "help")).await?;
    let list = f.crm().pending_outgoing(&pending_query(f, &[&ann, &help, &idle], 3)).await?;
    let got = |sender: &RecordRef| -> Vec<ActivityId> {
        list.iter().filter(|e| e.sender == *sender).map(|e| e.activity_id).collect()
    };
    assert_eq!(got(&ann), [of_ann[3], of_ann[1], of_ann[2]], "priority, then the oldest");
    assert_eq!(got(&help), [of_help]);
    assert_eq!(list.len(), 4);
    assert_eq!(f.crm().pending_outgoing(&pending_query(f, &[], 3)).await?, []);
    let all = pending(f, &[&ann]).await?;
    assert_eq!(all.last().map(|e| (e.activity_id, e.priority)), Some((of_ann[0], Priority::Low)));
    Ok(())
}

async fn what_is_delayed_waits(f: &dyn Fixture) -> Result<()> {
    let (ann, bob, now) = (
        f.add_user("Ann", "ann@fabrikam.example", true).await?,
        f.add_contact("Bob", "bob@contoso.example").await?,
        f.now(),
    );
    let later = now.checked_add(Duration::from_secs(60)).unwrap_or(now);
    let id = f.send(&Seed { delay_until: Some(later), ..Seed::new(&ann, &bob, "later") }).await?;
    assert_eq!(pending(f, &[&ann]).await?, []);
    f.advance(Duration::from_secs(59));
    assert_eq!(pending(f, &[&ann]).await?, []);
    f.advance(Duration::from_secs(1));
    assert_eq!(pending(f, &[&ann]).await?.first().map(|e| e.activity_id), Some(id));
    Ok(())
}

async fn what_was_left_in_sending_is_stale(f: &dyn Fixture) -> Result<()> {
    let (ann, _, id) = one_waiting(f).await?;
    claim_one(f, &ann).await?;
    f.advance(Duration::from_secs(1800));
    assert_eq!(pending(f, &[&ann]).await?, [], "not longer than stale_after yet");
    f.advance(Duration::from_secs(1));
    let listed = pending(f, &[&ann]).await?;
    assert_eq!(
        listed.iter().map(|e| (e.activity_id, e.stale, e.delivery_attempts)).collect::<Vec<_>>(),
        [(id, true, 1)]
    );
    assert_eq!(f.crm().claim(&listed[0]).await?, Claim::Taken { attempt: 2 });
    assert_eq!(f.crm().claim(&listed[0]).await?, Claim::Lost);
    assert_eq!(pending(f, &[&ann]).await?, [], "fresh again");
    Ok(())
}

async fn a_retry_waits_and_counts(f: &dyn Fixture) -> Result<()> {
    let (ann, _, id) = one_waiting(f).await?;
    for attempt in 1..=3 {
        let listed = pending(f, &[&ann]).await?;
        assert_eq!(listed.first().map(|e| e.delivery_attempts), Some(attempt - 1));
        assert_eq!(f.crm().claim(&listed[0]).await?, Claim::Taken { attempt });
        let now = f.now();
        let not_before = now.checked_add(Duration::from_secs(300)).unwrap_or(now);
        let outcome = SendOutcome::Retry { not_before, reason: "451 greylisted".to_owned() };
        for _ in 0..2 {
            f.crm().finish(&id, &outcome).await?;
        }
        assert_eq!(f.status(id).await?, EmailStatus::PendingSend);
        f.advance(Duration::from_secs(299));
        assert_eq!(pending(f, &[&ann]).await?, []);
        f.advance(Duration::from_secs(1));
    }
    Ok(())
}

async fn finishing_twice_changes_nothing(f: &dyn Fixture) -> Result<()> {
    let sent = SendOutcome::Sent { at: f.now(), refused: vec!["x@y: 550 no".to_owned()] };
    let failed = SendOutcome::Failed { reason: "554 no".to_owned() };
    let (ann, bob, id) = one_waiting(f).await?;
    claim_one(f, &ann).await?;
    for _ in 0..2 {
        f.crm().finish(&id, &sent).await?;
        assert_eq!(f.status(id).await?, EmailStatus::Sent);
    }
    // what was sent stays sent
    f.crm().finish(&id, &failed).await?;
    assert_eq!(f.status(id).await?, EmailStatus::Sent);
    let id = f.send(&Seed::new(&ann, &bob, "second")).await?;
    claim_one(f, &ann).await?;
    for _ in 0..2 {
        f.crm().finish(&id, &failed).await?;
        assert_eq!(f.status(id).await?, EmailStatus::Failed);
    }
    assert_eq!(pending(f, &[&ann]).await?, []);
    Ok(())
}

async fn in_doubt_is_not_listed_again(f: &dyn Fixture) -> Result<()> {
    let (ann, _, id) = one_waiting(f).await?;
    let listed = pending(f, &[&ann]).await?;
    f.crm().claim(&listed[0]).await?;
    for _ in 0..2 {
        f.crm().finish(&id, &SendOutcome::InDoubt { reason: "cut after DATA".to_owned() }).await?;
        assert_eq!(f.status(id).await?, EmailStatus::Sending);
    }
    f.advance(Duration::from_secs(100_000));
    assert_eq!(pending(f, &[&ann]).await?, []);
    // the router may still learn that it went out
    f.crm().finish(&id, &SendOutcome::Sent { at: f.now(), refused: Vec::new() }).await?;
    assert_eq!(f.status(id).await?, EmailStatus::Sent);
    Ok(())
}

async fn only_approved_senders_send(f: &dyn Fixture) -> Result<()> {
    let ann = f.add_user("Ann", "ann@fabrikam.example", true).await?;
    let eve = f.add_user("Eve", "eve@fabrikam.example", false).await?;
    let max = f.add_user("Max", "max@fabrikam.example", true).await?;
    let bob = f.add_contact("Bob", "bob@contoso.example").await?;
    for from in [&ann, &eve, &max] {
        f.send(&Seed::new(from, &bob, "x")).await?;
    }
    let senders = |list: Vec<PendingEmail>| list.into_iter().map(|e| e.sender).collect::<HashSet<_>>();
    let all = [&ann, &eve, &max];
    assert_eq!(senders(pending(f, &all).await?).len(), 3, "approval is not required by default");
    f.set_settings(&OrganizationSettings {
        require_approval_for_user_email: true,
        ..OrganizationSettings::default()
    })
    .await?;
    assert_eq!(senders(pending(f, &all).await?), HashSet::from([ann.clone(), max.clone()]));
    f.take_from_router(&max).await?;
    assert_eq!(senders(pending(f, &all).await?), HashSet::from([ann.clone()]));
    f.disable(&ann).await?;
    assert_eq!(pending(f, &all).await?, []);
    Ok(())
}

async fn an_outgoing_email_has_all_it_needs(f: &dyn Fixture) -> Result<()> {
    let (ann, bob) = (
        f.add_user("Ann", "ann@fabrikam.example", true).await?,
        f.add_contact("Bob", "bob@contoso.example").await?,
    );
    let question = received(f, "<question@x>")?;
    f.crm().deliver_incoming(question.clone()).await?;
    let attachments = question.attachments.clone();
    let asked = in_crm(f, question.activity_id).await?;
    let created = f.now();
    let id = f
        .send(&Seed {
            in_reply_to: Some(asked),
            attachments: attachments.clone(),
            ..Seed::new(&ann, &bob, "RE: Quote")
        })
        .await?;
    f.advance(Duration::from_secs(5));
    claim_one(f, &ann).await?;
    let email = f.crm().outgoing_email(&id).await?;
    assert_eq!((email.activity_id, email.subject.as_str(), email.delivery_attempts), (id, "RE: Quote", 1));
    assert_eq!((email.created_on, &email.message_id, &email.tracking_token), (created, &None, &None));
    assert_eq!(email.parent_activity, Some(asked));
    assert_eq!(
        (&email.parent_message_id, &email.parent_references),
        (&question.message_id, &question.references)
    );
    let parties: Vec<_> = email
        .parties
        .iter()
        .map(|p| (p.participation, p.record.clone(), p.address.clone(), p.name.clone()))
        .collect();
    let expected = [
        (
            ParticipationType::Sender,
            Some(ann),
            Some(address("ann@fabrikam.example")?),
            Some("Ann".to_owned()),
        ),
        (ParticipationType::To, Some(bob), Some(address("bob@contoso.example")?), Some("Bob".to_owned())),
    ];
    assert_eq!(parties, expected);
    assert_eq!(f.crm().attachments(&id).await?, attachments);
    assert_eq!(email.attachment_bytes, attachments.iter().map(|a| a.content.len() as u64).sum::<u64>());
    Ok(())
}

async fn preparing_twice_gives_the_same(f: &dyn Fixture) -> Result<()> {
    let (ann, _, id) = one_waiting(f).await?;
    let listed = pending(f, &[&ann]).await?;
    let without = f.crm().prepare_outgoing(&id, &mid("<first@r>")?, false).await?;
    assert_eq!((&without.message_id, &without.tracking_token), (&Some(mid("<first@r>")?), &None));
    assert_eq!(without.subject, "Quote");
    let once = f.crm().prepare_outgoing(&id, &mid("<second@r>")?, true).await?;
    assert_eq!(once.message_id, Some(mid("<first@r>")?), "what is set stays");
    let Some(token) = once.tracking_token.clone() else { panic!("no token in {once:?}") };
    assert_eq!(once.subject, format!("Quote {token}"));
    assert_eq!(f.crm().prepare_outgoing(&id, &mid("<third@r>")?, true).await?, once);
    assert_eq!(f.crm().outgoing_email(&id).await?, once);
    let found = f.crm().find_emails(&EmailLookup::TrackingToken(token.to_lowercase()), 5).await?;
    assert_eq!(found.iter().map(|e| (e.activity_id, e.outgoing)).collect::<Vec<_>>(), [(id, true)]);
    let found = f.crm().find_emails(&EmailLookup::MessageIds(vec![mid("<first@r>")?]), 5).await?;
    assert_eq!(found.len(), 1);
    // preparing is no change that makes a claim lose
    assert_eq!(f.crm().claim(&listed[0]).await?, Claim::Taken { attempt: 1 });
    Ok(())
}

async fn tokens_count_per_sender_and_start_over(f: &dyn Fixture) -> Result<()> {
    let settings = OrganizationSettings { maximum_tracking_number: 2, ..OrganizationSettings::default() };
    f.set_settings(&settings).await?;
    let ann = f.add_user("Ann", "ann@fabrikam.example", true).await?;
    let help = f.add_queue("Help", "help@fabrikam.example").await?;
    let bob = f.add_contact("Bob", "bob@contoso.example").await?;
    let mut tokens = Vec::new();
    for from in [&ann, &help, &ann, &ann, &ann] {
        let id = f.send(&Seed::new(from, &bob, "x")).await?;
        let email = f.crm().prepare_outgoing(&id, &mid(&format!("<{id}@r>"))?, true).await?;
        tokens.push(email.tracking_token.unwrap_or_default());
    }
    let format = TokenFormat::new(&settings);
    let digits = |t: &String| t.strip_prefix("CRM:").map(str::to_owned).unwrap_or_default();
    assert!(tokens.iter().all(|t| digits(t).len() == format.digits()), "{tokens:?}");
    let user = |t: &String| digits(t)[1..4].to_owned();
    assert_ne!(user(&tokens[0]), user(&tokens[1]), "each sender has its number");
    let counters: Vec<_> = [0, 2, 3, 4].iter().map(|n| digits(&tokens[*n])[4..].to_owned()).collect();
    assert_eq!(counters, ["1", "2", "0", "1"], "the counter starts over after the maximum");
    assert_eq!(tokens[0], tokens[4], "so the same token names several");
    let found = f.crm().find_emails(&EmailLookup::TrackingToken(tokens[0].clone()), 10).await?;
    assert_eq!(found.len(), 2);
    Ok(())
}

async fn what_is_not_there_is_not_found(f: &dyn Fixture) -> Result<()> {
    let crm = f.crm();
    let nobody = ActivityId::from_uuid(Uuid::from_u128(404));
    let failed = SendOutcome::Failed { reason: String::new() };
    let kinds = [
        crm.outgoing_email(&nobody).await.map(drop).err().map(|e| e.kind()),
        crm.attachments(&nobody).await.map(drop).err().map(|e| e.kind()),
        crm.prepare_outgoing(&nobody, &mid("<a@b>")?, true).await.map(drop).err().map(|e| e.kind()),
        crm.finish(&nobody, &failed).await.err().map(|e| e.kind()),
    ];
    assert_eq!(kinds, [Some(ErrorKind::NotFound); 4]);
    // what was received cannot be sent
    let email = received(f, "<m1@x>")?;
    crm.deliver_incoming(email.clone()).await?;
    let error = crm.outgoing_email(&email.activity_id).await.map(drop).err().map(|e| e.kind());
    assert_eq!(error, Some(ErrorKind::Invalid));
    Ok(())
}
