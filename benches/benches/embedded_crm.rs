//! Durable deliveries per second of the embedded CRM beside a bare SQLite program that writes the same rows with the same number of
//! messages in a transaction, in the same run and alternating.
//!
//! Cost grows with the bytes written, and with the number of transactions: one for each batch that the load forms by itself.
#![allow(missing_docs)] // a program, not an interface
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // a program for people; a failed step ends it
#![allow(clippy::disallowed_methods)] // real time and files are what is measured

use std::time::Instant;

use email_router_benches::table::verdict;
use email_router_benches::{disk_folder, is_smoke, ours, rounds, router};
use email_router_crm::embedded::EmbeddedCrm;
use email_router_crm::{
    Attachment, CorrelationMethod, CrmClient as _, IncomingEmail, ParticipationType, Party, Priority,
};
use email_router_model::{ActivityId, Direction, MessageId, RecordRef};
use rusqlite::{Connection, params};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use uuid::Uuid;

fn main() {
    let runtime = ours::runtime();
    println!("durable deliveries (synchronous=FULL), median of {} alternating rounds", rounds());
    println!(
        "{:>8} {:>9} {:>12} {:>12} {:>7} {:>12}",
        "callers", "bytes", "bare msg/s", "CRM msg/s", "ratio", "target 0.80"
    );
    // from 81 KB on the CRM writes the attachment in another way than the rest; 64 of 5 MB are more than it puts into one transaction
    for (bytes, batches) in [(11_000, &[1, 8, 64][..]), (81_000, &[1, 8, 64]), (5_000_000, &[1, 8])] {
        for &batch in batches {
            compare(&runtime, bytes, batch);
        }
    }
}

fn compare(runtime: &Runtime, bytes: usize, batch: usize) {
    // as many as make a quarter of a gigabyte at most
    let messages =
        if is_smoke() { 2 * batch } else { (300 * batch).min(1024).min((250_000_000 / bytes).max(batch)) };
    let folder = disk_folder();
    let crm = router::crm(&folder.path().join("crm.db"));
    // the same tables, made by the CRM
    let bare_file = folder.path().join("bare.db");
    runtime.block_on(router::crm(&bare_file).close()).unwrap();
    let mut bare = Connection::open(&bare_file).unwrap();
    bare.execute_batch("PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 4000; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -16384; PRAGMA foreign_keys = ON")
        .unwrap();
    bare.set_prepared_statement_cache_capacity(32);
    let mut runs: Vec<(f64, f64)> = (0..rounds())
        .map(|round| {
            let emails: Vec<_> = (0..messages).map(|n| email(&crm, round * messages + n, bytes)).collect();
            let start = Instant::now();
            for chunk in emails.chunks(batch) {
                write_bare(&mut bare, chunk);
            }
            let bare_speed = messages as f64 / start.elapsed().as_secs_f64();
            (bare_speed, runtime.block_on(deliver(&crm, emails, batch)))
        })
        .collect();
    runs.sort_by(|a, b| (a.1 / a.0).total_cmp(&(b.1 / b.0)));
    let (bare_speed, crm_speed) = runs[runs.len() / 2];
    let ratio = crm_speed / bare_speed;
    println!(
        "{batch:>8} {bytes:>9} {bare_speed:>12.0} {crm_speed:>12.0} {ratio:>7.2} {:>12}",
        verdict(ratio >= 0.8)
    );
}

/// `at_once` callers, each with one message after the other: batches form by themselves.
async fn deliver(crm: &EmbeddedCrm, emails: Vec<IncomingEmail>, at_once: usize) -> f64 {
    let messages = emails.len();
    let mut lanes: Vec<Vec<IncomingEmail>> = vec![Vec::new(); at_once];
    for (n, email) in emails.into_iter().enumerate() {
        lanes[n % at_once].push(email);
    }
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for lane in lanes {
        let crm = crm.clone();
        tasks.spawn(async move {
            for email in lane {
                crm.deliver_incoming(email).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    messages as f64 / start.elapsed().as_secs_f64()
}

/// Half of it body, half attachment; four parties, two of them resolved.
fn email(crm: &EmbeddedCrm, n: usize, bytes: usize) -> IncomingEmail {
    let identity = format!("<{n}@bench.example>");
    let party = |participation, who: &str, record: Option<u128>| Party {
        participation,
        record: record.map(|id| RecordRef::new("contact", Uuid::from_u128(id))),
        address: Some(who.parse().unwrap()),
        name: Some("A Name".to_owned()),
    };
    IncomingEmail {
        activity_id: ActivityId::derive(&crm.organization_id(), Direction::Incoming, &identity),
        message_id: MessageId::parse(&identity),
        in_reply_to: MessageId::parse("<parent@bench.example>"),
        references: vec![MessageId::parse("<parent@bench.example>").unwrap()],
        conversation_index: None,
        subject: format!("Quote {n}"),
        body: "b".repeat(bytes / 2),
        body_mime_type: "text/html".to_owned(),
        parties: vec![
            party(ParticipationType::Sender, "bob@contoso.example", Some(n as u128 % 1000)),
            party(ParticipationType::To, "ann@fabrikam.example", Some(1)),
            party(ParticipationType::Cc, "carl@fabrikam.example", None),
            party(ParticipationType::Cc, "dora@fabrikam.example", None),
        ],
        regarding: None,
        correlated_activity: None,
        parent_activity: None,
        correlation_method: CorrelationMethod::None,
        tracking_token: Some(format!("CRM:{n:09}")),
        owner: None,
        queues: Vec::new(),
        accepting: None,
        receiving: None,
        submitted_by: None,
        is_duplicate_sender_unresolved: false,
        received_on: None,
        sent_on: None,
        priority: Priority::Normal,
        attachments: vec![Attachment {
            file_name: "a.pdf".to_owned(),
            mime_type: "application/pdf".to_owned(),
            content_id: None,
            content: vec![7; bytes / 2].into(),
        }],
        removed_parts: Vec::new(),
        text_body: None,
        category: None,
        subcategory: None,
        conversation_id: None,
        smart: email_router_crm::SmartHashes::default(),
        new_sender: None,
    }
}

/// One transaction with the rows that the CRM writes for these e-mails.
fn write_bare(conn: &mut Connection, emails: &[IncomingEmail]) {
    let tx = conn.transaction().unwrap();
    for e in emails {
        let id = e.activity_id.to_string();
        let sender = e.parties[0].record.as_ref().map(|r| r.id.to_string());
        tx.prepare_cached(
            "INSERT INTO email (activityid, directioncode, statecode, statuscode, createdon, modifiedon, prioritycode, attachmentcount,
               emailsender, emailsenderobjecttypecode, messageid, trackingtoken, trackingtokenkey, sender, inreplyto, mimetype, subject,
               torecipients, emailreferences, description)
             VALUES (?1, 0, 1, 4, 1772352000000, 1772352000000, 1, 1, ?2, 'contact', ?3, ?4, lower(?4), ?5, ?6, ?7, ?8, ?9, ?6, ?10)",
        )
        .unwrap()
        .execute(params![
            id,
            sender,
            e.message_id.as_ref().unwrap().as_str(),
            e.tracking_token,
            e.parties[0].address.as_ref().unwrap().as_str(),
            e.in_reply_to.as_ref().unwrap().as_str(),
            e.body_mime_type,
            e.subject,
            "ann@fabrikam.example;",
            e.body,
        ])
        .unwrap();
        for (ordinal, p) in e.parties.iter().enumerate() {
            let record = p.record.as_ref();
            tx.prepare_cached(
                "INSERT INTO activityparty (activityid, ordinal, participationtypemask, partyid, partyobjecttypecode, addressused, partyidname)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )
            .unwrap()
            .execute(params![
                id,
                ordinal as i64,
                p.participation.code(),
                record.map(|r| r.id.to_string()),
                record.map(|r| &r.table),
                p.address.as_ref().unwrap().as_str(),
                p.name
            ])
            .unwrap();
        }
        for a in &e.attachments {
            tx.prepare_cached(
                "INSERT INTO activitymimeattachment (objectid, attachmentnumber, filename, mimetype, filesize, body)
                 VALUES (?1, 1, ?2, ?3, ?4, ?5)",
            )
            .unwrap()
            .execute(params![id, a.file_name, a.mime_type, a.content.len() as i64, &a.content[..]])
            .unwrap();
        }
    }
    tx.commit().unwrap();
}
