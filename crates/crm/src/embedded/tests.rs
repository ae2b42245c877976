//! What can be seen only from inside: query plans, group commit, the file itself.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use email_router_model::{ActivityId, Classified as _, ManualClock, Retry, SeededEntropy};
use rusqlite::Connection;
use uuid::Uuid;

use super::admin::{NewEmail, fields};
use super::error::DbError;
use super::{EmbeddedCrm, incoming, lookup, outgoing, schema};
use crate::{
    CorrelationMethod, CrmClient as _, Delivered, ErrorKind, IncomingEmail, ParticipationType, Party,
    Priority,
};

fn file(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("crm.db")
}

fn open(folder: &tempfile::TempDir) -> crate::Result<EmbeddedCrm> {
    let clock = ManualClock::new("2026-03-01T08:00:00Z".parse().unwrap());
    EmbeddedCrm::open(file(folder), Arc::new(clock), Arc::new(SeededEntropy::new(1)))
}

fn email(n: u128, body: String) -> IncomingEmail {
    IncomingEmail {
        activity_id: ActivityId::from_uuid(Uuid::from_u128(n)),
        message_id: None,
        in_reply_to: None,
        references: Vec::new(),
        conversation_index: None,
        subject: "subject".to_owned(),
        body,
        body_mime_type: "text/plain".to_owned(),
        parties: vec![Party {
            participation: ParticipationType::Sender,
            record: None,
            address: Some("bob@contoso.example".parse().unwrap()),
            name: None,
        }],
        regarding: None,
        correlated_activity: None,
        parent_activity: None,
        correlation_method: CorrelationMethod::None,
        tracking_token: None,
        owner: None,
        queues: Vec::new(),
        accepting: None,
        receiving: None,
        submitted_by: None,
        is_duplicate_sender_unresolved: false,
        received_on: None,
        sent_on: None,
        priority: Priority::Normal,
        attachments: Vec::new(),
        removed_parts: Vec::new(),
    }
}

#[test]
fn no_look_up_walks_through_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let crm = open(&folder).unwrap();
    let conn = crm.writer.connection();
    let numbers = "SELECT max(trackingtokenid) FROM usersettings";
    for (sql, index) in [
        (lookup::lookup_sql("messageid"), "email_messageid"),
        (lookup::lookup_sql("trackingtokenkey"), "email_token"),
        (lookup::lookup_sql("activityid"), "sqlite_autoindex_email_1"),
        (lookup::RESOLVE.to_owned(), "PRIMARY KEY"),
        (lookup::PARTIES.to_owned(), "PRIMARY KEY"),
        (lookup::EXISTS.to_owned(), "sqlite_autoindex_email_1"),
        (outgoing::PENDING.to_owned(), "email_pending"),
        (outgoing::STALE.to_owned(), "email_sending"),
        (outgoing::CLAIM.to_owned(), "sqlite_autoindex_email_1"),
        (outgoing::OUTGOING.to_owned(), "sqlite_autoindex_email_1"),
        (outgoing::ATTACHMENTS.to_owned(), "sqlite_autoindex_activitymimeattachment_1"),
        (incoming::ADD_QUEUE_ITEM.to_owned(), "queueitem_object"),
        (numbers.to_owned(), "sqlite_autoindex_usersettings"),
        // what a deletion follows
        ("DELETE FROM email WHERE activityid = ?1".to_owned(), "sqlite_autoindex_email_1"),
        ("SELECT 1 FROM activityparty WHERE partyid = ?1".to_owned(), "activityparty_party"),
        ("SELECT 1 FROM emailsearch WHERE parentobjectid = ?1".to_owned(), "emailsearch_record"),
    ] {
        let mut statement = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let marks = statement.parameter_count();
        let rows = statement
            .query_map(rusqlite::params_from_iter(vec![1; marks]), |r| r.get::<_, String>(3))
            .unwrap();
        let plan: Vec<String> = rows.map(Result::unwrap).collect();
        // "SCAN CONSTANT ROW" is the one row of an INSERT ... SELECT without a table
        assert!(plan.iter().all(|p| !p.starts_with("SCAN") || p == "SCAN CONSTANT ROW"), "{sql}\n{plan:#?}");
        assert!(plan.iter().any(|p| p.contains(index)), "{sql} does not use {index}\n{plan:#?}");
        assert!(plan.iter().all(|p| !p.contains("TEMP B-TREE FOR ORDER BY")), "{sql} sorts\n{plan:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_shares_a_transaction() {
    let folder = tempfile::tempdir().unwrap();
    let crm = open(&folder).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = tokio::task::JoinSet::new();
    // while the disk is busy, 50 more arrive
    let (busy, free) = std::sync::mpsc::channel::<()>();
    let (started, running) = tokio::sync::oneshot::channel();
    let first = crm.clone();
    tasks.spawn(async move {
        first
            .write(move |_| {
                let _ = started.send(());
                free.recv().unwrap();
                Ok(())
            })
            .await
    });
    running.await.unwrap();
    let path = file(&folder);
    for n in 0..50_u128 {
        let (crm, seen, path) = (crm.clone(), Arc::clone(&seen), path.clone());
        tasks.spawn(async move {
            crm.write(move |conn| {
                incoming::deliver(
                    conn,
                    &email(n, String::new()),
                    &[],
                    "2026-03-01T08:00:00Z".parse().unwrap(),
                )?;
                let count = "SELECT count(*) FROM email";
                let inside: i64 = conn.query_row(count, [], |r| r.get(0))?;
                let durable: i64 = schema::connect_reader(&path)?.query_row(count, [], |r| r.get(0))?;
                seen.lock().unwrap().push((inside, durable));
                // every tenth fails after it wrote: it alone is taken back
                if n % 10 == 9 {
                    Err(outgoing::invalid(ActivityId::from_uuid(Uuid::nil()), "fails"))
                } else {
                    Ok(())
                }
            })
            .await
        });
    }
    while crm.writer.waiting() < 50 {
        tokio::task::yield_now().await;
    }
    busy.send(()).unwrap();
    let results = tasks.join_all().await;
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 46);
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    assert!(seen.iter().all(|(_, durable)| *durable == 0), "all in one transaction: {seen:?}");
    // the last sees all others that stay, and itself even when it fails
    let most = seen.iter().map(|(inside, _)| *inside).max();
    assert!(matches!(most, Some(45 | 46)), "{seen:?}");
    assert_eq!(crm.admin().statistics().await.unwrap().incoming["received"], 45);
}

#[tokio::test]
async fn a_panic_in_one_request_leaves_the_writer_at_work() {
    let folder = tempfile::tempdir().unwrap();
    let crm = open(&folder).unwrap();
    let result = crm
        .write::<(), _>(|conn| {
            conn.execute("INSERT INTO deletedemail VALUES ('x', 1)", [])?;
            panic!("deliberate")
        })
        .await;
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Busy);
    assert_eq!(crm.deliver_incoming(&email(1, String::new())).await.unwrap(), Delivered::Created);
    assert_eq!(crm.admin().statistics().await.unwrap().deleted, 0);
}

#[tokio::test]
async fn a_full_disk_is_said_and_passes() {
    let folder = tempfile::tempdir().unwrap();
    let crm = open(&folder).unwrap();
    let pages: i64 = crm.writer.connection().query_row("PRAGMA page_count", [], |r| r.get(0)).unwrap();
    let limit = |pages: i64| {
        let sql = format!("PRAGMA max_page_count = {pages}");
        crm.writer.connection().query_row(&sql, [], |_| Ok(())).unwrap();
    };
    limit(pages + 5);
    let big = email(1, "x".repeat(1 << 20));
    let error = crm.deliver_incoming(&big).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Storage, Retry::Later(None)));
    assert!(error.to_string().starts_with("no space left for the CRM file "), "{error}");
    assert!(!crm.exists(&big.activity_id).await.unwrap());
    // small ones may still fit, and later the big one too
    assert_eq!(crm.deliver_incoming(&email(2, String::new())).await.unwrap(), Delivered::Created);
    limit(1 << 30);
    assert_eq!(crm.deliver_incoming(&big).await.unwrap(), Delivered::Created);
}

#[tokio::test]
async fn a_locked_file_is_busy_and_then_works() {
    let folder = tempfile::tempdir().unwrap();
    let crm = open(&folder).unwrap();
    crm.writer.connection().busy_timeout(std::time::Duration::ZERO).unwrap();
    let other = Connection::open(file(&folder)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = crm.deliver_incoming(&email(1, String::new())).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Busy, Retry::Later(None)));
    // reading waits for nobody
    assert!(!crm.exists(&ActivityId::from_uuid(Uuid::from_u128(1))).await.unwrap());
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(crm.deliver_incoming(&email(1, String::new())).await.unwrap(), Delivered::Created);
}

#[tokio::test]
async fn an_older_file_is_brought_up_to_date() {
    let folder = tempfile::tempdir().unwrap();
    {
        let conn = schema::connect_writer_with(&file(&folder), &schema::STEPS[..1]).unwrap();
        let version: u32 = conn.query_row("PRAGMA user_version", [], |r| r.get(0)).unwrap();
        assert_eq!(version, 1);
        incoming::insert_for_test(&conn, &email(7, "old".to_owned()));
        assert!(conn.prepare("SELECT * FROM deletedemail").is_err());
    }
    let crm = open(&folder).unwrap();
    let old = ActivityId::from_uuid(Uuid::from_u128(7));
    assert_eq!(crm.admin().email(old).await.unwrap().body, "old");
    crm.admin().delete_email(old).await.unwrap();
    assert!(crm.exists(&old).await.unwrap());
    let id = crm.organization;
    crm.close().await.unwrap();
    let again = open(&folder).unwrap();
    assert_eq!(again.organization, id);
    let version: usize =
        again.writer.connection().query_row("PRAGMA user_version", [], |r| r.get::<_, u32>(0)).unwrap()
            as usize;
    assert_eq!(version, schema::STEPS.len());
}

#[tokio::test]
async fn looking_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    // a name that would mean something in a URI
    let path = folder.path().join("a?b#c%41 ü.db");
    let clock = Arc::new(ManualClock::new("2026-03-01T08:00:00Z".parse().unwrap()));
    let look = || EmbeddedCrm::open_to_look(&path, Arc::clone(&clock) as _, Arc::new(SeededEntropy::new(1)));
    let error = look().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("is not there") && !path.exists(), "{error}");

    let crm = EmbeddedCrm::open(&path, Arc::clone(&clock) as _, Arc::new(SeededEntropy::new(2))).unwrap();
    let seen = look().unwrap();
    assert_eq!(seen.organization, crm.organization);
    crm.deliver_incoming(&email(7, "seen".to_owned())).await.unwrap();
    let id = ActivityId::from_uuid(Uuid::from_u128(7));
    assert_eq!(seen.admin().email(id).await.unwrap().body, "seen");
    let error = seen.admin().delete_email(id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage, "{error}");
    assert_eq!(crm.admin().email(id).await.unwrap().body, "seen");
    seen.close().await.unwrap();
    crm.close().await.unwrap();

    for (version, words) in [(1, "this program needs version"), (99, "knows versions up to")] {
        Connection::open(&path).unwrap().pragma_update(None, "user_version", version).unwrap();
        let error = look().unwrap_err();
        assert!(error.kind() == ErrorKind::Damaged && error.to_string().contains(words), "{error}");
    }
}

#[test]
fn files_that_are_none_of_ours_are_refused_and_left_alone() {
    type Make = fn(&std::path::Path);
    let cases: [(&str, Make); 4] = [
        ("file is not a database", |p| std::fs::write(p, vec![b'x'; 8192]).unwrap()),
        ("is an SQLite file, but not one of an embedded CRM", |p| {
            Connection::open(p).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
        }),
        ("has version 99; this program knows versions up to 2", |p| {
            let conn = schema::connect_writer(p).unwrap();
            conn.pragma_update(None, "user_version", 99).unwrap();
        }),
        ("malformed", |p| {
            drop(schema::connect_writer(p).unwrap());
            let mut bytes = std::fs::OpenOptions::new().write(true).open(p).unwrap();
            // the page of the schema's tree, after the header
            std::io::Seek::seek(&mut bytes, std::io::SeekFrom::Start(100)).unwrap();
            std::io::Write::write_all(&mut bytes, &[0xAB; 2000]).unwrap();
        }),
    ];
    for (message, make) in cases {
        let folder = tempfile::tempdir().unwrap();
        make(&file(&folder));
        let before = email_router_model::read_file_capped(&file(&folder), 1 << 20).unwrap();
        let error = open(&folder).unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Damaged, Retry::Never), "{error}");
        assert!(error.to_string().contains(message), "{error}");
        assert!(error.hint().is_some(), "{error}");
        let after = email_router_model::read_file_capped(&file(&folder), 1 << 20).unwrap();
        assert!(before == after, "{message}: the file was changed");
    }
}

#[tokio::test]
async fn damage_found_later_is_said_too() {
    let folder = tempfile::tempdir().unwrap();
    let crm = open(&folder).unwrap();
    for n in 0..50 {
        crm.deliver_incoming(&email(n, "y".repeat(3000))).await.unwrap();
    }
    crm.close().await.unwrap();
    // overwrite everything behind the first pages, where rows and indices live
    let size = std::fs::metadata(file(&folder)).unwrap().len();
    let mut damaged = std::fs::OpenOptions::new().write(true).open(file(&folder)).unwrap();
    std::io::Seek::seek(&mut damaged, std::io::SeekFrom::Start(size / 2)).unwrap();
    std::io::Write::write_all(&mut damaged, &vec![0xAB; usize::try_from(size / 2).unwrap()]).unwrap();
    drop(damaged);
    let crm = open(&folder).unwrap();
    let mut kinds = Vec::new();
    for n in 0..50 {
        if let Err(e) = crm.admin().email(ActivityId::from_uuid(Uuid::from_u128(n))).await {
            kinds.push(e.kind());
        }
    }
    assert!(!kinds.is_empty() && kinds.iter().all(|k| *k == ErrorKind::Damaged), "{kinds:?}");
    // the whole check reports it, whether as a finding or because it cannot even read on
    let check = crm.admin().check().await;
    assert!(check.as_ref().map_or(true, |found| !found.is_empty()), "{check:?}");
}

#[cfg(unix)]
#[tokio::test]
async fn files_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let crm = open(&folder).unwrap();
    crm.deliver_incoming(&email(1, String::new())).await.unwrap();
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
        names.push(entry.file_name());
    }
    assert_eq!(names.len(), 3, "{names:?}");
    let missing = folder.path().join("no/such/folder/crm.db");
    let error = EmbeddedCrm::open(&missing, crm.clock.clone(), crm.entropy.clone()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage);
    assert!(error.to_string().contains("no/such/folder/crm.db"), "{error}");
}

#[tokio::test]
async fn an_answer_keeps_the_token_of_its_thread() {
    let folder = tempfile::tempdir().unwrap();
    let crm = open(&folder).unwrap();
    let admin = crm.admin();
    let ann = admin
        .add("systemuser", &fields([("fullname", "Ann"), ("internalemailaddress", "ann@f.example")]))
        .await
        .unwrap();
    let send = async |subject: &str, parent: Option<ActivityId>| {
        let mut new = NewEmail::new(ann.reference(), ann.reference(), subject, "body");
        new.in_reply_to = parent;
        let id = admin.create_outgoing(&new).await.unwrap().activity_id;
        let mid = email_router_model::MessageId::parse(&format!("{id}@r")).unwrap();
        crm.prepare_outgoing(&id, &mid, true).await.unwrap()
    };
    let first = send("Quote", None).await;
    assert_eq!(first.subject, "Quote CRM:0001001");
    let second = send(&format!("RE: {}", first.subject), Some(first.activity_id)).await;
    assert_eq!(
        (second.subject.as_str(), second.tracking_token),
        ("RE: Quote CRM:0001001", first.tracking_token)
    );
    assert_eq!(second.parent_message_id, first.message_id);
    let third = send("RE: Quote", Some(second.activity_id)).await;
    assert_eq!(third.subject, "RE: Quote CRM:0001002");
    assert_eq!(third.parent_references, [first.message_id.unwrap()]);
}

#[test]
fn errors_of_rules_and_of_sqlite_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let crm = open(&folder).unwrap();
    let conn = crm.writer.connection();
    let error = conn.execute("INSERT INTO usersettings (systemuserid) VALUES ('nobody')", []).unwrap_err();
    assert_eq!(DbError::from(error).at(&file(&folder)).kind(), ErrorKind::Invalid, "foreign keys are on");
}
