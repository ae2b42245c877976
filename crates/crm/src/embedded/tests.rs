//! What can be seen only from inside: query plans, group commit, the file itself.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use email_router_model::{ActivityId, Classified as _, ManualClock, Retry, SeededEntropy, Timestamp};
use rusqlite::Connection;
use uuid::Uuid;

use super::admin::{NewEmail, fields};
use super::error::DbError;
use super::{EmbeddedCrm, delivery, hashes, incoming, lookup, outgoing, schema, unresolved};
use crate::smart::SmartHasher;
use crate::{
    Attachment, CorrelationMethod, CrmClient as _, Delivered, DeliveryAction, DeliveryReport, EmailLookup,
    ErrorKind, IncomingEmail, ParticipationType, Party, Priority, RecipientReport, SmartHashes, SmartQuery,
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
        text_body: None,
        category: None,
        subcategory: None,
        conversation_id: None,
        smart: crate::SmartHashes::default(),
        new_sender: None,
    }
}

/// Of these bytes, none of them zero and no page like its neighbour.
fn attachment(name: &str, bytes: usize) -> Attachment {
    let content: Vec<u8> = (1..=251).cycle().take(bytes).collect();
    Attachment {
        file_name: name.to_owned(),
        mime_type: "application/pdf".to_owned(),
        content_id: None,
        content: content.into(),
    }
}

/// Keeps the writer at work until it is told to go on, so that those who ask meanwhile share a transaction.
async fn keep_busy(crm: &EmbeddedCrm) -> std::sync::mpsc::Sender<()> {
    let (go_on, told) = std::sync::mpsc::channel();
    let (started, running) = tokio::sync::oneshot::channel();
    let crm = crm.clone();
    tokio::spawn(async move {
        crm.write(move |_| {
            let _ = started.send(());
            told.recv().unwrap();
            Ok(())
        })
        .await
    });
    running.await.unwrap();
    go_on
}

#[test]
fn no_look_up_walks_through_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let crm = open(&folder).unwrap();
    let conn = crm.writer.connection();
    let numbers = "SELECT max(trackingtokenid) FROM usersettings";
    for (sql, index) in [
        (lookup::lookup_sql(lookup::BY_MESSAGE_ID), "email_messageid"),
        (lookup::lookup_sql(lookup::BY_TOKEN), "email_token"),
        (lookup::lookup_sql(lookup::BY_ID), "sqlite_autoindex_email_1"),
        (lookup::lookup_sql(lookup::BY_CONVERSATION_ROOT), "email_conversation"),
        (lookup::conversation_sql(), "emailcorrelation_conversation"),
        (lookup::posting_sql(), "INTEGER PRIMARY KEY"),
        (hashes::SAME_SUBJECT.to_owned(), "PRIMARY KEY (addresshash=? AND subjecthash=? AND createdon>?)"),
        (hashes::ANY_SUBJECT.to_owned(), "emailhash_newest (addresshash=? AND createdon>?)"),
        (unresolved::UNRESOLVED.to_owned(), "activityparty_unresolved"),
        (delivery::KNOWN_REPORT.to_owned(), "PRIMARY KEY"),
        (delivery::KNOWN_RECIPIENT.to_owned(), "PRIMARY KEY"),
        (lookup::RESOLVE.to_owned(), "PRIMARY KEY"),
        (lookup::PARTIES.to_owned(), "PRIMARY KEY"),
        (lookup::EXISTS.to_owned(), "sqlite_autoindex_email_1"),
        (outgoing::PENDING.to_owned(), "email_pending"),
        (outgoing::STALE.to_owned(), "email_sending"),
        (outgoing::CLAIM.to_owned(), "sqlite_autoindex_email_1"),
        (outgoing::OUTGOING.to_owned(), "sqlite_autoindex_email_1"),
        (outgoing::TOKEN_IN_USE.to_owned(), "email_token"),
        (outgoing::ATTACHMENTS.to_owned(), "sqlite_autoindex_activitymimeattachment_1"),
        (incoming::ADD_QUEUE_ITEM.to_owned(), "queueitem_object"),
        (numbers.to_owned(), "sqlite_autoindex_usersettings"),
        // what a deletion follows
        ("DELETE FROM email WHERE activityid = ?1".to_owned(), "sqlite_autoindex_email_1"),
        ("SELECT 1 FROM activityparty WHERE partyid = ?1".to_owned(), "activityparty_party"),
        ("SELECT 1 FROM emailsearch WHERE parentobjectid = ?1".to_owned(), "emailsearch_record"),
        ("SELECT 1 FROM emailhash WHERE correlationid = ?1".to_owned(), "emailhash_email"),
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

/// A statement that is prepared anew for each value costs several times as much.
#[test]
fn look_ups_are_prepared_once() {
    let folder = tempfile::tempdir().unwrap();
    let crm = open(&folder).unwrap();
    let reader = schema::connect_reader(&file(&folder)).unwrap();
    for sql in [
        lookup::lookup_sql(lookup::BY_MESSAGE_ID),
        lookup::lookup_sql(lookup::BY_TOKEN),
        lookup::RESOLVE.to_owned(),
        lookup::EXISTS.to_owned(),
    ] {
        for conn in [&*crm.writer.connection(), &reader] {
            let mut statement = conn.prepare(&sql).unwrap();
            let marks = statement.parameter_count();
            for value in 0..3 {
                let values = rusqlite::params_from_iter(vec![value; marks]);
                assert_eq!(
                    statement.query_map(values, |_| Ok(())).unwrap().count(),
                    usize::from(sql == lookup::EXISTS)
                );
            }
            assert_eq!(statement.get_status(rusqlite::StatementStatus::RePrepare), 0, "{sql}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_shares_a_transaction() {
    let folder = tempfile::tempdir().unwrap();
    let crm = open(&folder).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = tokio::task::JoinSet::new();
    // while the disk is busy, 50 arrive
    let go_on = keep_busy(&crm).await;
    let path = file(&folder);
    for n in 0..50_u128 {
        let (crm, seen, path) = (crm.clone(), Arc::clone(&seen), path.clone());
        tasks.spawn(async move {
            crm.write(move |conn| {
                incoming::deliver(
                    conn,
                    email(n, String::new()),
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
    go_on.send(()).unwrap();
    let results = tasks.join_all().await;
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 45);
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
    // often, since what comes next may find the writer anywhere between the panic and its next request
    for n in 0..50 {
        let result = crm
            .write::<(), _>(|conn| {
                conn.execute("INSERT INTO deletedemail VALUES ('x', 1)", [])?;
                panic!("deliberate")
            })
            .await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Busy);
        assert_eq!(crm.deliver_incoming(email(n, String::new())).await.unwrap(), Delivered::Created);
    }
    assert_eq!(crm.admin().statistics().await.unwrap().deleted, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attachment_that_cannot_be_written_takes_nobody_along() {
    let folder = tempfile::tempdir().unwrap();
    let crm = open(&folder).unwrap();
    // the row of such an attachment is there when its content turns out not to fit into it
    let trigger = "CREATE TEMP TRIGGER shorten AFTER INSERT ON main.activitymimeattachment WHEN NEW.filename = 'bad' BEGIN
         UPDATE activitymimeattachment SET body = zeroblob(1) WHERE activitymimeattachmentid = NEW.activitymimeattachmentid; END";
    crm.writer.connection().execute_batch(trigger).unwrap();
    let with = |n, second: &str| {
        let mut email = email(n, String::new());
        email.attachments =
            vec![attachment("first", incoming::LARGE + 1), attachment(second, incoming::LARGE)];
        email
    };
    let emails = [with(1, "good"), with(2, "bad"), with(3, "good")];
    let go_on = keep_busy(&crm).await;
    let mut tasks = Vec::new();
    for (n, email) in emails.iter().enumerate() {
        let email = email.clone();
        tasks.push(tokio::spawn({
            let crm = crm.clone();
            async move { crm.deliver_incoming(email).await }
        }));
        // in this order, and all before the writer goes on
        while crm.writer.waiting() < n + 1 {
            tokio::task::yield_now().await;
        }
    }
    go_on.send(()).unwrap();
    for (email, task) in emails.iter().zip(tasks) {
        let (bad, delivered) = (email.attachments[1].file_name == "bad", task.await.unwrap());
        assert_eq!(delivered.is_err(), bad, "{delivered:?}");
        assert_eq!(crm.exists(&email.activity_id).await.unwrap(), !bad);
        if !bad {
            assert_eq!(crm.attachments(&email.activity_id).await.unwrap(), email.attachments);
        }
    }
    let orphans =
        "SELECT count(*) FROM activitymimeattachment WHERE objectid NOT IN (SELECT activityid FROM email)";
    let count: i64 = crm.writer.connection().query_row(orphans, [], |r| r.get(0)).unwrap();
    assert_eq!(count, 0);
    crm.writer.connection().execute_batch("DROP TRIGGER shorten").unwrap();
    assert_eq!(crm.deliver_incoming(emails[1].clone()).await.unwrap(), Delivered::Created);
    assert_eq!(crm.attachments(&emails[1].activity_id).await.unwrap(), emails[1].attachments);
}

#[tokio::test]
async fn attachments_of_all_sizes_are_kept_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let crm = open(&folder).unwrap();
    let mut email = email(1, String::new());
    // the last is more than SQLite keeps in memory
    let sizes = [0, 1, incoming::LARGE - 1, incoming::LARGE, incoming::LARGE + 4097, 20 << 20];
    email.attachments = sizes.iter().map(|size| attachment(&size.to_string(), *size)).collect();
    crm.deliver_incoming(email.clone()).await.unwrap();
    crm.close().await.unwrap();
    let crm = open(&folder).unwrap();
    let found = crm.attachments(&email.activity_id).await.unwrap();
    // not assert_eq, which would print all of it
    assert!(found == email.attachments, "{:?}", found.iter().map(|a| a.content.len()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_full_disk_is_said_and_passes() {
    let folder = tempfile::tempdir().unwrap();
    let crm = open(&folder).unwrap();
    let pages =
        || -> i64 { crm.writer.connection().query_row("PRAGMA page_count", [], |r| r.get(0)).unwrap() };
    let limit = |pages: i64| {
        let sql = format!("PRAGMA max_page_count = {pages}");
        crm.writer.connection().query_row(&sql, [], |_| Ok(())).unwrap();
    };
    let mut large = email(2, String::new());
    large.attachments = vec![attachment("a", incoming::LARGE)];
    for (n, big) in [email(1, "x".repeat(1 << 20)), large].into_iter().enumerate() {
        limit(pages() + 5);
        let error = crm.deliver_incoming(big.clone()).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Storage, Retry::Later(None)));
        assert!(error.to_string().starts_with("no space left for the CRM file "), "{error}");
        assert!(!crm.exists(&big.activity_id).await.unwrap());
        // small ones may still fit, and later the big one too
        let small = email(n as u128 + 10, String::new());
        assert_eq!(crm.deliver_incoming(small).await.unwrap(), Delivered::Created);
        limit(1 << 30);
        assert_eq!(crm.deliver_incoming(big.clone()).await.unwrap(), Delivered::Created);
        assert!(crm.attachments(&big.activity_id).await.unwrap() == big.attachments);
    }
}

#[tokio::test]
async fn a_locked_file_is_busy_and_then_works() {
    let folder = tempfile::tempdir().unwrap();
    let crm = open(&folder).unwrap();
    crm.writer.connection().busy_timeout(std::time::Duration::ZERO).unwrap();
    let other = Connection::open(file(&folder)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = crm.deliver_incoming(email(1, String::new())).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Busy, Retry::Later(None)));
    // reading waits for nobody
    assert!(!crm.exists(&ActivityId::from_uuid(Uuid::from_u128(1))).await.unwrap());
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(crm.deliver_incoming(email(1, String::new())).await.unwrap(), Delivered::Created);
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
        // as an import from CSV of that time left it
        incoming::insert_for_test(&conn, &email(8, "imported".to_owned()));
        conn.execute("UPDATE email SET trackingtoken = 'CRM:0001007' WHERE description = 'imported'", [])
            .unwrap();
    }
    let crm = open(&folder).unwrap();
    let old = ActivityId::from_uuid(Uuid::from_u128(7));
    assert_eq!(crm.admin().email(old).await.unwrap().body, "old");
    crm.admin().delete_email(old).await.unwrap();
    assert!(crm.exists(&old).await.unwrap());
    let found = crm.find_emails(&EmailLookup::TrackingToken("crm:0001007".to_owned()), 9).await.unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    let id = crm.organization;
    crm.close().await.unwrap();
    let again = open(&folder).unwrap();
    assert_eq!(again.organization, id);
    let version: usize =
        again.writer.connection().query_row("PRAGMA user_version", [], |r| r.get::<_, u32>(0)).unwrap()
            as usize;
    assert_eq!(version, schema::STEPS.len());
}

/// The conversation index is found at once; hashes are made as far back as smart matching looks, in several transactions, and only once.
#[tokio::test]
async fn e_mails_of_an_older_file_can_be_correlated() {
    let folder = tempfile::tempdir().unwrap();
    let root = "01d5a1b2c3d4000102030405060708090a0b0c0d0e0f";
    {
        let conn = schema::connect_writer_with(&file(&folder), &schema::STEPS[..2]).unwrap();
        conn.execute_batch("BEGIN").unwrap();
        for n in 0..1500 {
            let mut email = email(n, String::new());
            email.subject = format!("RE: garden party {n}");
            email.conversation_index = (n % 500 == 0).then(|| format!("{root}0000000001"));
            email.received_on = Some("2026-02-27T08:00:00Z".parse().unwrap());
            let to = "ann@fabrikam.example".parse().unwrap();
            email.parties.push(Party {
                participation: ParticipationType::To,
                record: None,
                address: Some(to),
                name: None,
            });
            incoming::insert_for_test(&conn, &email);
        }
        let old = IncomingEmail {
            received_on: Some("2025-11-30T07:00:00Z".parse().unwrap()),
            ..email(2000, String::new())
        };
        incoming::insert_for_test(&conn, &old);
        conn.execute_batch("COMMIT").unwrap();
    }
    // killed after the first transaction
    {
        let mut conn = schema::connect_writer(&file(&folder)).unwrap();
        assert!(hashes::catch_up(&mut conn, "2026-03-01T08:00:00Z".parse().unwrap()).unwrap());
        let made: i64 = conn.query_row("SELECT count(*) FROM emailcorrelation", [], |r| r.get(0)).unwrap();
        assert!(made > 0 && made < 1500, "{made}");
    }
    for _ in 0..2 {
        let crm = open(&folder).unwrap();
        let count = |sql: &str| -> i64 { crm.writer.connection().query_row(sql, [], |r| r.get(0)).unwrap() };
        assert_eq!(count("SELECT count(*) FROM emailcorrelation"), 1500, "the old one is out of the window");
        assert_eq!(count("SELECT count(*) FROM emailhash"), 3000);
        assert_eq!(count("SELECT count(*) FROM hashbacklog"), 0);
        let settings = crm.settings().await.unwrap();
        let people = ["bob@contoso.example", "Ann@fabrikam.example"].map(|a| a.parse().unwrap());
        let query = SmartQuery {
            hashes: SmartHasher::new(&settings).hashes("RE: garden party 1234", &people),
            delta: 0,
            min_addresses: 2,
            not_before: Timestamp::UNIX_EPOCH,
        };
        let found = crm.find_emails(&EmailLookup::Smart(query), 5).await.unwrap();
        assert_eq!(found.iter().map(|e| e.activity_id.as_uuid().as_u128()).collect::<Vec<_>>(), [1234]);
        let by_root = EmailLookup::ConversationRoot(root.to_owned());
        assert_eq!(crm.find_emails(&by_root, 9).await.unwrap().len(), 3);
        crm.close().await.unwrap();
    }
}

/// What a look-up costs does not depend on how many e-mails share its subject and its addresses.
#[test]
fn smart_matching_costs_the_same_among_thousands() {
    let folder = tempfile::tempdir().unwrap();
    let crm = open(&folder).unwrap();
    let conn = crm.writer.connection();
    let add = |from: u128, to: u128| {
        conn.execute_batch("BEGIN").unwrap();
        for n in from..to {
            incoming::insert_for_test(&conn, &email(n, String::new()));
            let id = ActivityId::from_uuid(Uuid::from_u128(n));
            // support@ and the sender of a newsletter are in all of them, one customer is in the very first
            let addresses = if n == 0 { vec![1, 2, 3] } else { vec![1, 2] };
            let smart = SmartHashes { words: vec![7], addresses };
            hashes::insert(&conn, id, Timestamp::UNIX_EPOCH, None, &smart).unwrap();
        }
        conn.execute_batch("COMMIT").unwrap();
    };
    let query = |addresses: &[i64], delta| SmartQuery {
        hashes: SmartHashes { words: vec![7], addresses: addresses.to_vec() },
        delta,
        min_addresses: 2,
        not_before: Timestamp::UNIX_EPOCH,
    };
    let steps = |sql: &str| {
        let mut statement = conn.prepare(sql).unwrap();
        let subject: i64 =
            conn.query_row("SELECT subjecthash FROM emailhash LIMIT 1", [], |r| r.get(0)).unwrap();
        let parameters = rusqlite::params![1, subject, 0, i64::try_from(hashes::MOST_POSTINGS).unwrap()];
        let rows = statement.query_map(parameters, |_| Ok(())).unwrap().count();
        (rows, statement.get_status(rusqlite::StatementStatus::VmStep))
    };
    add(0, 1000);
    let before = [steps(hashes::SAME_SUBJECT), steps(hashes::ANY_SUBJECT)];
    add(1000, 4000);
    let after = [steps(hashes::SAME_SUBJECT), steps(hashes::ANY_SUBJECT)];
    assert_eq!(before, after);
    assert_eq!(before[0].0, hashes::MOST_POSTINGS);
    for delta in [0, 1] {
        let common = hashes::find(&conn, &query(&[1, 2], delta), 9).unwrap();
        let ids: Vec<u128> = common.iter().map(|(_, e)| e.activity_id.as_uuid().as_u128()).collect();
        assert_eq!(ids, (3991..4000).rev().collect::<Vec<u128>>(), "the newest");
        // the oldest of all is found by its rare address, whichever that is
        let rare = hashes::find(&conn, &query(&[1, 3], delta), 9).unwrap();
        assert_eq!(rare.len(), 1);
        assert_eq!(rare[0].1.activity_id.as_uuid().as_u128(), 0);
    }
}

#[tokio::test]
async fn what_belongs_to_an_e_mail_goes_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let crm = open(&folder).unwrap();
    let mut one = email(1, String::new());
    one.smart = SmartHashes { words: vec![1], addresses: vec![2, 3] };
    one.conversation_id = Some("c".to_owned());
    crm.deliver_incoming(one.clone()).await.unwrap();
    let rows = || -> i64 {
        let sql = "SELECT (SELECT count(*) FROM emailhash) + (SELECT count(*) FROM emailcorrelation)";
        crm.writer.connection().query_row(sql, [], |r| r.get(0)).unwrap()
    };
    assert_eq!(rows(), 3);
    crm.admin().delete_email(one.activity_id).await.unwrap();
    assert_eq!(rows(), 0);
}

/// Who sent an e-mail stands in the e-mail too.
#[tokio::test]
async fn a_resolved_sender_is_the_sender_of_its_e_mails() {
    let folder = tempfile::tempdir().unwrap();
    let crm = open(&folder).unwrap();
    let admin = crm.admin();
    let bob = admin.add("contact", &fields([("fullname", "Bob")])).await.unwrap().reference();
    admin.set_setting("resolvesimilarunresolvedemailaddress", "on").await.unwrap();
    for n in 0..3 {
        let mut email = email(n, String::new());
        email.is_duplicate_sender_unresolved = true;
        email.parties[0].address =
            Some(if n < 2 { "bob@x.example" } else { "ann@x.example" }.parse().unwrap());
        crm.deliver_incoming(email).await.unwrap();
    }
    let first = ActivityId::from_uuid(Uuid::from_u128(0));
    let done = admin.resolve_party(first, &"BOB@x.example".parse().unwrap(), &bob).await.unwrap();
    assert_eq!((done.here, done.elsewhere), (1, 1));
    let conn = crm.writer.connection();
    let mut statement = conn
        .prepare("SELECT emailsender, isduplicatesenderunresolved FROM email ORDER BY activityid")
        .unwrap();
    let rows: Vec<(Option<String>, bool)> =
        statement.query_map([], |r| Ok((r.get(0)?, r.get(1)?))).unwrap().collect::<Result<_, _>>().unwrap();
    let id = bob.id.to_string();
    assert_eq!(rows, [(Some(id.clone()), false), (Some(id), false), (None, true)]);
}

#[tokio::test]
async fn reports_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let crm = open(&folder).unwrap();
    let admin = crm.admin();
    let ann = admin
        .add("systemuser", &fields([("fullname", "Ann"), ("internalemailaddress", "ann@f.example")]))
        .await
        .unwrap();
    let new = NewEmail::new(ann.reference(), ann.reference(), "x", "body");
    let id = admin.create_outgoing(&new).await.unwrap().activity_id;
    let report = |n: usize| DeliveryReport {
        activity_id: id,
        report: format!("<r{n}@x>"),
        at: Timestamp::UNIX_EPOCH,
        recipients: vec![
            RecipientReport {
                address: format!("a{n}@x.example").parse().unwrap(),
                action: DeliveryAction::Failed,
                status: None,
                diagnostic: Some("no\r\nsuch user ".repeat(500)),
            };
            2
        ],
    };
    {
        let conn = crm.writer.connection();
        conn.execute_batch("BEGIN").unwrap();
        for n in 0..1005 {
            let new = delivery::record(&conn, &report(n)).unwrap();
            assert_eq!(new, n < 1000, "{n}");
        }
        conn.execute_batch("COMMIT").unwrap();
    }
    let mut wide = report(0);
    wide.report = "<wide@x>".to_owned();
    let details = admin.email(id).await.unwrap();
    assert_eq!(details.delivery.len(), 1000);
    let text = details.delivery[0].last.diagnostic.clone().unwrap();
    assert!(text.chars().count() == 1000 && !text.contains(char::is_control), "{text}");
    assert!(!crm.record_delivery(&wide).await.unwrap());
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
    crm.deliver_incoming(email(7, "seen".to_owned())).await.unwrap();
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
        ("has version 99; this program knows versions up to ", |p| {
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
        crm.deliver_incoming(email(n, "y".repeat(3000))).await.unwrap();
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
    crm.deliver_incoming(email(1, String::new())).await.unwrap();
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

#[tokio::test]
async fn tokens_of_imported_emails_are_found_and_not_given_out_again() {
    let folder = tempfile::tempdir().unwrap();
    let crm = open(&folder).unwrap();
    let admin = crm.admin();
    admin.set_setting("maximumtrackingnumber", "9").await.unwrap();
    let ann = admin
        .add("systemuser", &fields([("fullname", "Ann"), ("internalemailaddress", "ann@f.example")]))
        .await
        .unwrap();
    let mut csv = "activityid,statuscode,from,to,subject,trackingtoken\n".to_owned();
    for (n, token) in [(1, "CRM:00011"), (2, "crm:00012"), (3, "CRM:00014")] {
        csv += &format!("{},3,ann@f.example,ann@f.example,s,{token}\n", Uuid::from_u128(n));
    }
    admin.import_emails_csv(csv.as_bytes(), "email.csv", false).await.unwrap();
    for token in ["crm:00011", "CRM:00012", "CRM:00014"] {
        let found = crm.find_emails(&EmailLookup::TrackingToken(token.to_owned()), 9).await.unwrap();
        assert_eq!(found.len(), 1, "{token}");
    }
    let mut given = Vec::new();
    for _ in 0..8 {
        let new = NewEmail::new(ann.reference(), ann.reference(), "s", "b");
        let id = admin.create_outgoing(&new).await.unwrap().activity_id;
        let mid = email_router_model::MessageId::parse(&format!("{id}@r")).unwrap();
        given.push(crm.prepare_outgoing(&id, &mid, true).await.unwrap().tracking_token.unwrap());
    }
    // 0 follows the maximum 9; the last finds all in use and goes on with the counter
    assert_eq!(
        given,
        ["00013", "00015", "00016", "00017", "00018", "00019", "00010", "00011"].map(|n| format!("CRM:{n}"))
    );
}

#[test]
fn errors_of_rules_and_of_sqlite_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let crm = open(&folder).unwrap();
    let conn = crm.writer.connection();
    let error = conn.execute("INSERT INTO usersettings (systemuserid) VALUES ('nobody')", []).unwrap_err();
    assert_eq!(DbError::from(error).at(&file(&folder)).kind(), ErrorKind::Invalid, "foreign keys are on");
}
