//! The file: what it answers, and what it keeps whatever happens.

use std::collections::BTreeMap;

use email_router_model::{ActivityId, EmailAddress, ManualClock, MessageId, RecordRef};
use proptest::prelude::*;

use super::*;
use crate::{
    DeliveryAction, EmailLookup, EmailStatus, EmailSummary, RecipientReport, SmartHashes, SmartQuery,
};

pub(super) fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new("2026-03-01T08:00:00Z".parse().unwrap()))
}

async fn open(folder: &tempfile::TempDir) -> Result<Mirror> {
    Mirror::open(&folder.path().join("mirror.db"), clock()).await
}

fn at(seconds: u8) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + i64::from(seconds)).unwrap()
}

fn id(n: u8) -> ActivityId {
    ActivityId::from_uuid(Uuid::from_u128(u128::from(n)))
}

fn address(text: &str) -> EmailAddress {
    text.parse().unwrap()
}

fn record(n: u128, address: &str) -> MirrorRecord {
    MirrorRecord {
        id: Uuid::from_u128(n),
        name: format!("Record {n}"),
        addresses: vec![address.to_owned()],
        owner: None,
        active: true,
        created_on: at(0),
    }
}

fn email(n: u8) -> MirrorEmail {
    let summary = EmailSummary {
        activity_id: id(n),
        outgoing: true,
        message_id: None,
        subject: "Offer".to_owned(),
        tracking_token: None,
        regarding: None,
        owner: None,
        parties: Vec::new(),
        created_on: at(n),
        conversation_index: None,
        conversation_id: None,
        smart: SmartHashes::default(),
    };
    MirrorEmail { summary, status: EmailStatus::Sent }
}

async fn ids_of(mirror: &Mirror, of: &str) -> Vec<u128> {
    let found = mirror.resolve(&[address(of)]).await.unwrap();
    found[0].iter().map(|hit| hit.record.id.as_u128()).collect()
}

/// Values of few kinds, so that e-mails share them.
fn emails() -> impl Strategy<Value = MirrorEmail> {
    let hashes = |most: usize| {
        prop::collection::btree_set(0..4_i64, 0..most).prop_map(|set| set.into_iter().collect::<Vec<_>>())
    };
    let texts = (
        prop::option::of(0..4_u8),
        prop::option::of(0..3_u8),
        prop::option::of(0..3_u8),
        prop::option::of(0..3_u8),
    );
    (0..12_u8, 0..6_u8, texts, hashes(4), hashes(4)).prop_map(
        |(n, created, (message, token, root, conversation), words, addresses)| {
            let mut email = email(n);
            let summary = &mut email.summary;
            summary.created_on = at(created);
            summary.message_id = message.map(message_id);
            summary.tracking_token = token.map(|n| format!("Crm:000{n}"));
            summary.conversation_index = root.map(|n| format!("{}{created:02}", n.to_string().repeat(44)));
            summary.conversation_id = conversation.map(|n| format!("Conversation {n}"));
            summary.smart = SmartHashes { words, addresses };
            email
        },
    )
}

fn message_id(n: u8) -> MessageId {
    MessageId::parse(&format!("<M{n}@contoso.example>")).unwrap()
}

fn lookups() -> impl Strategy<Value = EmailLookup> {
    let hashes =
        || prop::collection::btree_set(0..4_i64, 0..4).prop_map(|set| set.into_iter().collect::<Vec<_>>());
    prop_oneof![
        prop::collection::vec(0..5_u8, 0..4)
            .prop_map(|ids| EmailLookup::MessageIds(ids.into_iter().map(message_id).collect())),
        (0..4_u8).prop_map(|n| EmailLookup::TrackingToken(format!("cRM:000{n}"))),
        prop::collection::vec(0..13_u8, 0..4)
            .prop_map(|ids| EmailLookup::Ids(ids.into_iter().map(id).collect())),
        (0..4_u8, prop_oneof![Just(44_usize), Just(43)])
            .prop_map(|(n, digits)| EmailLookup::ConversationRoot(n.to_string().repeat(digits))),
        (0..4_u8).prop_map(|n| EmailLookup::ConversationId(format!("Conversation {n}"))),
        (hashes(), hashes(), 0..3_u32, 0..3_u32, 0..6_u8).prop_map(
            |(words, addresses, delta, min_addresses, since)| {
                let hashes = SmartHashes { words, addresses };
                EmailLookup::Smart(SmartQuery { hashes, delta, min_addresses, not_before: at(since) })
            }
        ),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever index answers: the contract says what is found. E-mails come again with other values, and go.
    #[test]
    fn emails_are_found_as_the_contract_says(
        all in prop::collection::vec(emails(), 0..30),
        gone in prop::collection::vec(0..12_u8, 0..3),
        lookups in prop::collection::vec((lookups(), 0..6_usize), 1..12),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let mirror = open(&folder).await.unwrap();
            let mut model = BTreeMap::new();
            for email in &all {
                model.insert(email.summary.activity_id, email.summary.clone());
            }
            mirror.apply_emails(all, None).await.unwrap();
            for n in gone {
                let known = mirror.forget_email(&id(n)).await.unwrap();
                assert_eq!(known, model.remove(&id(n)).is_some());
            }
            for (lookup, limit) in lookups {
                let mut expected: Vec<_> = model.values().filter(|email| lookup.matches(email)).cloned().collect();
                expected.sort_by(|a, b| b.created_on.cmp(&a.created_on).then(b.activity_id.cmp(&a.activity_id)));
                let found = mirror.find_emails(&lookup, limit).await.unwrap();
                // of several made in the same moment any may be left out
                let times = |found: &[EmailSummary]| found.iter().take(limit).map(|email| email.created_on).collect::<Vec<_>>();
                assert_eq!(times(&found), times(&expected), "{lookup:?}");
                assert!(found.iter().all(|email| expected.contains(email)), "{lookup:?}");
                assert!(found.windows(2).all(|two| two[0].activity_id != two[1].activity_id));
            }
        });
    }

    /// Records come, change their addresses and go; who has an address is what the last word about each says.
    #[test]
    fn addresses_resolve_as_the_last_word_says(
        steps in prop::collection::vec((0..3_usize, 0..5_u128, prop::collection::vec(0..4_usize, 0..3), any::<bool>(), 0..4_u8, prop::bool::weighted(0.2)), 0..40),
    ) {
        const TABLES: [&str; 3] = ["systemuser", "contact", "new_patient"];
        const ADDRESSES: [&str; 4] = ["Ann@Contoso.example", "ann@contoso.EXAMPLE", "ÉVA@contoso.example", "no address"];
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let mirror = open(&folder).await.unwrap();
            let mut model: BTreeMap<(usize, u128), MirrorRecord> = BTreeMap::new();
            for (table, n, addresses, active, created, delete) in steps {
                let mut row = record(n, "");
                row.addresses = addresses.into_iter().map(|n| ADDRESSES[n].to_owned()).collect();
                row.active = active;
                row.created_on = at(created);
                let (rows, deleted) = if delete { (Vec::new(), vec![row.id]) } else { (vec![row.clone()], Vec::new()) };
                mirror.apply_changes(TABLES[table], rows, deleted, None, None).await.unwrap();
                if delete { model.remove(&(table, n)); } else { model.insert((table, n), row); }
            }
            let asked = [address("ANN@contoso.example"), address("éva@contoso.example"), address("nobody@contoso.example")];
            let found = mirror.resolve(&asked).await.unwrap();
            assert_eq!(found.len(), 3);
            for (asked, found) in asked.iter().zip(found) {
                let has = |row: &MirrorRecord| row.addresses.iter().any(|text| EmailAddress::parse(text).is_ok_and(|a| a.key() == asked.key()));
                let mut expected: Vec<_> = model
                    .iter()
                    .filter(|((table, _), row)| has(row) && (row.active || TABLES[*table] != "systemuser"))
                    .map(|((table, _), row)| (row.created_on, row.id, RecordRef::new(TABLES[*table], row.id), row.active))
                    .collect();
                expected.sort_by_key(|(created, id, record, _)| (*created, *id, record.table.clone()));
                let mut found: Vec<_> = found.into_iter().map(|hit| (hit.created_on, hit.record.id, hit.record, hit.active)).collect();
                assert!(found.windows(2).all(|two| (two[0].0, two[0].1) <= (two[1].0, two[1].1)), "the oldest comes first");
                found.sort_by_key(|(created, id, record, _)| (*created, *id, record.table.clone()));
                assert_eq!(found, expected);
            }
        });
    }
}

#[tokio::test]
async fn at_most_101_records_are_told_of_one_address() {
    let folder = tempfile::tempdir().unwrap();
    let mirror = open(&folder).await.unwrap();
    let rows = (1..=150).map(|n| record(n, "shared@contoso.example")).collect();
    mirror.apply_changes("contact", rows, Vec::new(), None, None).await.unwrap();
    let found = ids_of(&mirror, "Shared@contoso.example").await;
    assert_eq!(found, (1..=101).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_full_reading_that_is_cut_short_leaves_the_old_rows_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mirror = open(&folder).await.unwrap();
    mirror.begin_full("contact", None).await.unwrap();
    mirror
        .apply_full("contact", vec![record(1, "a@x.example"), record(2, "b@x.example")], None)
        .await
        .unwrap();
    mirror.end_full("contact", Some("changes-1".to_owned())).await.unwrap();
    assert_eq!(mirror.source("contact").await.unwrap().link.as_deref(), Some("changes-1"));

    mirror.begin_full("contact", None).await.unwrap();
    mirror.apply_full("contact", vec![record(3, "c@x.example")], Some("page-2".to_owned())).await.unwrap();
    drop(mirror);

    let mirror = open(&folder).await.unwrap();
    let source = mirror.source("contact").await.unwrap();
    assert_eq!((source.reading.is_some(), source.resume.as_deref()), (true, Some("page-2")));
    for (address, n) in [("a@x.example", 1), ("b@x.example", 2), ("c@x.example", 3)] {
        assert_eq!(ids_of(&mirror, address).await, [n], "until the reading has ended the old rows answer");
    }
    // made by the router meanwhile, after its page was read
    let stranger = RecordRef::new("contact", Uuid::from_u128(9));
    mirror.add_record(&stranger, "New", &address("new@x.example"), None, at(9)).await.unwrap();
    mirror.apply_full("contact", vec![record(2, "b@x.example")], None).await.unwrap();
    mirror.end_full("contact", Some("changes-2".to_owned())).await.unwrap();
    assert_eq!(ids_of(&mirror, "a@x.example").await, [] as [u128; 0], "it was not there any more");
    for (address, n) in [("b@x.example", 2), ("c@x.example", 3), ("new@x.example", 9)] {
        assert_eq!(ids_of(&mirror, address).await, [n]);
    }
    let source = mirror.source("contact").await.unwrap();
    assert_eq!((source.reading, source.resume, source.link.as_deref()), (None, None, Some("changes-2")));

    // the next reading does not see what a person deleted before it was ever told
    mirror.begin_full("contact", None).await.unwrap();
    mirror.end_full("contact", None).await.unwrap();
    assert_eq!(ids_of(&mirror, "new@x.example").await, [] as [u128; 0]);
}

#[tokio::test]
async fn what_a_note_knows_completes_what_the_crm_gives_whichever_comes_first() {
    let folder = tempfile::tempdir().unwrap();
    let mirror = open(&folder).await.unwrap();
    let known = SmartHashes { words: vec![1], addresses: vec![2] };
    let hashes = known.clone();
    mirror
        .update_note(&id(1), move |note| {
            note.conversation_id = Some("mail system's".to_owned());
            note.smart = Some(hashes);
        })
        .await
        .unwrap();
    let mut given = email(1);
    given.summary.smart = SmartHashes { words: vec![7], addresses: vec![8] };
    mirror.apply_emails(vec![given], Some(at(5))).await.unwrap();
    let found =
        mirror.find_emails(&EmailLookup::ConversationId("mail system's".to_owned()), 5).await.unwrap();
    assert_eq!(found.iter().map(|email| &email.smart).collect::<Vec<_>>(), [&known]);
    assert_eq!(mirror.watermark().await.unwrap(), Some(at(5)));
}

#[tokio::test]
async fn notes_and_counters_survive_a_rebuild_and_another_organization_gets_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mirror = open(&folder).await.unwrap();
    let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
    assert!(mirror.bind(one).await.unwrap());
    assert!(!mirror.bind(one).await.unwrap());
    mirror.apply_changes("contact", vec![record(1, "a@x.example")], Vec::new(), None, None).await.unwrap();
    mirror.apply_emails(vec![email(1), email(2)], Some(at(2))).await.unwrap();
    mirror.delivered(&id(3)).await.unwrap();

    mirror.rebuild().await.unwrap();
    assert!(!mirror.bind(one).await.unwrap());
    assert!(mirror.is_delivered(&id(3)).await.unwrap());
    assert_eq!(mirror.watermark().await.unwrap(), None, "all is asked for again");
    // until all was read the old e-mails answer; then only what was read
    let all = EmailLookup::Ids(vec![id(1), id(2)]);
    assert_eq!(mirror.find_emails(&all, 5).await.unwrap().len(), 2);
    mirror.apply_emails(vec![email(2)], Some(at(2))).await.unwrap();
    mirror.end_emails().await.unwrap();
    let left = mirror.find_emails(&all, 5).await.unwrap();
    assert_eq!(left.iter().map(|email| email.activity_id).collect::<Vec<_>>(), [id(2)]);
    // without a rebuild nothing is forgotten at the end of a reading
    mirror.apply_emails(vec![email(1)], Some(at(2))).await.unwrap();
    mirror.end_emails().await.unwrap();
    assert_eq!(mirror.find_emails(&all, 5).await.unwrap().len(), 2);

    assert!(mirror.bind(two).await.unwrap());
    assert_eq!(ids_of(&mirror, "a@x.example").await, [] as [u128; 0]);
    assert!(!mirror.is_delivered(&id(3)).await.unwrap());
    assert_eq!(mirror.size().await.unwrap().emails, 0);
}

#[tokio::test]
async fn old_emails_and_notes_are_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let clock = clock();
    let mirror = Mirror::open(&folder.path().join("mirror.db"), clock.clone()).await.unwrap();
    let mut many: Vec<_> = Vec::new();
    for n in 0..2500_u128 {
        let mut old = email(1);
        old.summary.activity_id = ActivityId::from_uuid(Uuid::from_u128(1000 + n));
        many.push(old);
    }
    many.push(email(10));
    mirror.apply_emails(many, None).await.unwrap();
    mirror.delivered(&id(50)).await.unwrap();
    mirror.prune(at(10)).await.unwrap();
    let size = mirror.size().await.unwrap();
    assert_eq!((size.emails, size.notes), (1, 1));
    clock.advance(Duration::from_secs(60));
    mirror.prune(clock.now()).await.unwrap();
    let size = mirror.size().await.unwrap();
    assert_eq!((size.emails, size.notes), (0, 0));
}

#[tokio::test]
async fn a_note_that_is_too_long_for_its_column_loses_what_matters_least() {
    let report = |n: usize| RecipientReport {
        address: address(&format!("r{n}@contoso.example")),
        action: DeliveryAction::Failed,
        status: None,
        diagnostic: Some("no such mailbox".repeat(10)),
    };
    let note = Note {
        not_before: Some(at(1)),
        in_doubt: Some("the answer was lost".to_owned()),
        smart: Some(SmartHashes { words: vec![i64::MAX; 20], addresses: vec![i64::MIN; 20] }),
        references: (0..50).map(message_id).collect(),
        recipients: (0..200).map(|n| notes::Recipient { last: report(n), at: at(1) }).collect(),
        ..Note::default()
    };
    assert_eq!(
        Note::from_json(&note.to_json(1_000_000)).as_ref(),
        Some(&note),
        "nothing is lost where there is room"
    );
    let text = note.to_json(4000);
    assert!(text.encode_utf16().count() <= 4000);
    let read = Note::from_json(&text).unwrap();
    assert_eq!((read.not_before, &read.in_doubt), (note.not_before, &note.in_doubt));
    assert_eq!((read.smart, read.recipients.len()), (None, 10));
    let text = note.to_json(200);
    let read = Note::from_json(&text).unwrap();
    assert_eq!((read.not_before, &read.in_doubt), (note.not_before, &note.in_doubt));
    assert_eq!(Note::from_json("written by a person"), None);
}

#[tokio::test]
async fn each_queue_has_a_number_of_its_own_and_each_sender_a_counter() {
    let folder = tempfile::tempdir().unwrap();
    let mirror = open(&folder).await.unwrap();
    let sender = |table: &str, n: u128| RecordRef::new(table, Uuid::from_u128(n));
    let after = |next: u32, maximum: u32| if next >= maximum { 0 } else { next + 1 };
    let (help, sales, ann) = (sender("queue", 1), sender("queue", 2), sender("systemuser", 3));
    let next = async |mirror: &Mirror, of: &RecordRef, user| {
        mirror.next_token_number(of, user, 40, after, 2).await.unwrap()
    };
    assert_eq!(next(&mirror, &help, None).await, (41, 1));
    assert_eq!(next(&mirror, &sales, None).await, (42, 1));
    assert_eq!(next(&mirror, &ann, Some(7)).await, (7, 1));
    drop(mirror);
    let mirror = open(&folder).await.unwrap();
    assert_eq!(next(&mirror, &help, None).await, (41, 2));
    assert_eq!(next(&mirror, &help, None).await, (41, 0), "it starts over after the maximum");
    assert_eq!(next(&mirror, &help, None).await, (41, 1));
    // the organization has given 41 to a user meanwhile
    let moved = mirror.next_token_number(&help, None, 41, after, 2).await.unwrap();
    assert_eq!(moved, (43, 2));
}

#[tokio::test]
async fn a_file_that_cannot_be_used_says_why_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mirror.db");
    drop(open(&folder).await.unwrap());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let conn = Connection::open(&file).unwrap();
    conn.pragma_update(None, "user_version", 99).unwrap();
    drop(conn);
    let newer = open(&folder).await.unwrap_err();
    assert!(newer.to_string().contains("newer version"), "{newer}");
    assert!(newer.hint().is_some());

    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(folder.path().join(format!("mirror.db{end}")));
    }
    std::fs::write(&file, "this is no database, but a text that is long enough to be looked at".repeat(100))
        .unwrap();
    let damaged = open(&folder).await.unwrap_err();
    assert_eq!(damaged.kind(), ErrorKind::Damaged, "{damaged}");
    assert!(damaged.hint().is_some());
    let nowhere = Mirror::open(&folder.path().join("none/mirror.db"), clock()).await.unwrap_err();
    assert_eq!(nowhere.kind(), ErrorKind::Storage, "{nowhere}");
}

#[tokio::test]
async fn what_it_says_is_old_once_it_could_not_ask_for_ten_periods() {
    let folder = tempfile::tempdir().unwrap();
    let clock = clock();
    let mirror = Mirror::open(&folder.path().join("mirror.db"), clock.clone()).await.unwrap();
    let period = Duration::from_secs(60);
    assert!(mirror.stale(clock.now(), period).await, "it never asked");
    mirror.synced_now().await.unwrap();
    clock.advance(10 * period);
    assert!(!mirror.stale(clock.now(), period).await);
    clock.advance(Duration::from_secs(1));
    assert!(mirror.stale(clock.now(), period).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_write_at_the_same_time_share_a_transaction_and_not_their_errors() {
    const WRITTEN: &str = "SELECT count(*) FROM meta WHERE name LIKE 'caller %'";
    let folder = tempfile::tempdir().unwrap();
    let mirror = open(&folder).await.unwrap();
    // nobody gets a turn until all wait
    let inner = Arc::clone(&mirror.0);
    let turn = inner.writer.lock().unwrap();
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..40_u8 {
        let mirror = mirror.clone();
        callers.spawn(async move {
            let (wrong, beside) = (n % 4 == 0, Connection::open(&mirror.0.file).unwrap());
            let done = mirror
                .write(move |tx| {
                    file::set_value(tx, &format!("caller {n}"), "was here")?;
                    let durable: u32 = beside.query_row(WRITTEN, [], |row| row.get(0))?;
                    if wrong { Err(file::bad("on purpose")) } else { Ok(durable) }
                })
                .await;
            assert_eq!(done.ok(), (!wrong).then_some(0), "nobody's work was durable before that of all");
        });
    }
    while inner.waiting.lock().unwrap().0.len() < 40 {
        std::thread::yield_now();
    }
    drop(turn);
    while let Some(done) = callers.join_next().await {
        done.unwrap();
    }
    let kept: u32 = mirror.read(|conn| conn.query_row(WRITTEN, [], |row| row.get(0))).await.unwrap();
    assert_eq!(kept, 30);
}
