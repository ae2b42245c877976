//! Parsing a message and deciding about it, with ever more tracked e-mails in the embedded CRM; and parsing alone.
//!
//! Cost grows with the size of the message, and with the logarithm of the number of tracked e-mails: each look-up goes down one B-tree.
#![allow(missing_docs)] // a program, not an interface
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // a program for people; a failed step ends it
#![allow(clippy::disallowed_methods)] // real time and files are what is measured

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use criterion::{Criterion, Throughput};
use email_router_benches::table::{median, verdict};
use email_router_benches::{corpus, disk_folder, is_smoke, number, ours, rounds, router};
use email_router_crm::{CrmClient, OrganizationSettings};
use email_router_engine::decide::{Decider, MailboxContext, OrganizationView};
use email_router_engine::message::Message;
use email_router_engine::ports::CrmIndex;
use email_router_engine::{ParseCaps, Verdict};
use email_router_model::{Mailbox, RawMessage, RecordRef};
use rusqlite::{Connection, params};
use uuid::Uuid;

/// What a message is to the CRM, and how it is made from the number of a tracked e-mail.
const KINDS: [(&str, Verdict); 3] = [
    ("answers by In-Reply-To", Verdict::Deliver),
    ("answers by token", Verdict::Deliver),
    ("answers nothing", Verdict::Discard),
];

fn main() {
    parsing();
    deciding();
}

fn parsing() {
    let mut criterion = Criterion::default().configure_from_args();
    let caps = ParseCaps::default();
    let settings = OrganizationSettings::default();
    for size in [8_000, 1_000_000] {
        let raw = RawMessage::new(corpus::with_crlf(&corpus::message(1, size, "ann@contoso.test", "")));
        let mut group = criterion.benchmark_group(format!("message of {size} bytes"));
        group.throughput(Throughput::Bytes(raw.size()));
        group.bench_function("header section", |b| {
            b.iter(|| Message::from_headers(black_box(raw.bytes()), &caps))
        });
        group.bench_function("parse", |b| b.iter(|| Message::parse(black_box(&raw), &caps)));
        group.bench_function("parse and content", |b| {
            b.iter(|| Message::parse(black_box(&raw), &caps).content(&raw, &caps, &settings));
        });
        group.finish();
    }
    criterion.final_summary();
}

/// A CRM with this many tracked e-mails.
struct Filled {
    tracked: usize,
    decider: Decider,
    view: OrganizationView,
    mailbox: Mailbox,
    record: RecordRef,
    _folder: tempfile::TempDir,
}

fn deciding() {
    let sizes: Vec<usize> = match (is_smoke(), number("TRACKED", 0)) {
        (true, _) => vec![100, 1000],
        (false, 0) => vec![10_000, 100_000, 1_000_000],
        (false, most) => vec![most / 100, most / 10, most],
    };
    let each = if is_smoke() { 20 } else { 1000 };
    // one thread beside SQLite's, as one mailbox is read
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let filled: Vec<Filled> = sizes.iter().map(|n| runtime.block_on(fill(*n))).collect();
    println!(
        "\nparse, decide and correlate one message of 4 KB, microseconds (median of {} rounds of {each})",
        rounds()
    );
    print!("{:<28}", "tracked e-mails");
    for size in &sizes {
        print!("{size:>12}");
    }
    println!("{:>9} {:>10}", "ratio", "target 3");
    for (kind, (name, expected)) in KINDS.iter().enumerate() {
        let mut times = vec![Vec::new(); filled.len()];
        for round in 0..rounds() {
            for (at, crm) in filled.iter().enumerate() {
                let messages: Vec<RawMessage> =
                    (0..each).map(|n| message(kind, spread(n + round * each, crm.tracked))).collect();
                let start = Instant::now();
                for raw in &messages {
                    runtime.block_on(crm.decide(raw, *expected));
                }
                times[at].push(start.elapsed().as_secs_f64() * 1e6 / each as f64);
            }
        }
        let medians: Vec<f64> = times.into_iter().map(median).collect();
        let ratio = medians[medians.len() - 1] / medians[0];
        print!("{name:<28}");
        for m in &medians {
            print!("{m:>12.1}");
        }
        println!("{ratio:>9.2} {:>10}", verdict(ratio <= 3.0));
    }
}

impl Filled {
    async fn decide(&self, raw: &RawMessage, expected: Verdict) {
        let message = Message::parse(raw, &ParseCaps::default());
        let context = MailboxContext::new(&self.mailbox, Some(self.record.clone()));
        let decision = self.decider.decide(&self.view, &context, &message).await.unwrap();
        assert_eq!(decision.verdict, expected, "{}", decision.record.because);
    }
}

/// Spreads consecutive numbers over all e-mails, so that the pages of the last look-up do not serve the next.
fn spread(n: usize, tracked: usize) -> usize {
    n.wrapping_mul(7_919_317) % tracked
}

fn message(kind: usize, n: usize) -> RawMessage {
    let person = n % 977;
    let fields = match kind {
        0 => format!("In-Reply-To: <{n}@crm.contoso.test>\nReferences: <{n}@crm.contoso.test>\n"),
        1 => String::new(),
        _ => format!("In-Reply-To: <{n}@elsewhere.example>\n"),
    };
    let mut text = String::from_utf8(corpus::message(n, 4000, "u000@contoso.test", &fields)).unwrap();
    if kind == 1 {
        text = text.replacen("Subject: Question", &format!("Subject: Re: {} Question", token(n)), 1);
    }
    assert!(text.contains(&format!("person{person}@")) || n != person);
    RawMessage::new(corpus::with_crlf(text.as_bytes()))
}

fn token(n: usize) -> String {
    format!("CRM:{:03}{:03}", n / 1000, n % 1000)
}

async fn fill(tracked: usize) -> Filled {
    let folder = disk_folder();
    let file = folder.path().join("crm.db");
    let crm = router::crm(&file);
    let mailbox = ours::mailbox("u000");
    let record = router::add_user(&crm, &mailbox, "response").await;
    crm.close().await.unwrap();
    bulk(&file, tracked, &record);
    let crm: Arc<dyn CrmClient> = Arc::new(router::crm(&file));
    let view = OrganizationView::load(&*crm).await.unwrap();
    let decider = Decider::new(Arc::clone(&crm), Arc::new(CrmIndex(crm)));
    Filled { tracked, decider, view, mailbox, record, _folder: folder }
}

/// The rows the CRM has after sending so many e-mails, written in one transaction; a contact for each tenth of them.
fn bulk(file: &std::path::Path, tracked: usize, owner: &RecordRef) {
    let mut conn = Connection::open(file).unwrap();
    conn.execute_batch("PRAGMA synchronous = OFF; PRAGMA cache_size = -262144").unwrap();
    let tx = conn.transaction().unwrap();
    {
        let mut contact = tx
            .prepare("INSERT INTO contact (contactid, fullname, emailaddress1, createdon, modifiedon) VALUES (?1, ?2, ?3, 0, 0)")
            .unwrap();
        let mut search = tx
            .prepare("INSERT INTO emailsearch (emailaddress, parentobjectid, objecttypecode, emailcolumnname) VALUES (?1, ?2, 'contact', 'emailaddress1')")
            .unwrap();
        let id = |n: usize| Uuid::from_u128((1 << 100) + n as u128).to_string();
        for n in 0..(tracked / 10).max(977) {
            let address = format!("person{n}@fabrikam.example");
            contact.execute(params![id(n), format!("Person {n}"), address]).unwrap();
            search.execute(params![address, id(n)]).unwrap();
        }
        let mut email = tx
            .prepare(
                "INSERT INTO email (activityid, directioncode, statecode, statuscode, createdon, modifiedon, ownerid, owneridtype,
                   emailsender, emailsenderobjecttypecode, messageid, trackingtoken, trackingtokenkey, sender, mimetype, subject, description)
                 VALUES (?1, 1, 1, 3, ?2, ?2, ?3, 'systemuser', ?3, 'systemuser', ?4, ?5, lower(?5), 'u000@contoso.test', 'text/plain', ?6, 'Hello')",
            )
            .unwrap();
        let mut party = tx
            .prepare(
                "INSERT INTO activityparty (activityid, ordinal, participationtypemask, partyid, partyobjecttypecode, addressused, partyidname)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )
            .unwrap();
        let owner = owner.id.to_string();
        for n in 0..tracked {
            // random ids, as the CRM makes them: the primary key is not filled in order
            let activity =
                Uuid::from_u128((n as u128).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835))
                    .to_string();
            let subject = format!("Order {n} {}", token(n));
            email
                .execute(params![
                    activity,
                    n as i64,
                    owner,
                    format!("<{n}@crm.contoso.test>"),
                    token(n),
                    subject
                ])
                .unwrap();
            party.execute(params![activity, 0, 1, owner, "systemuser", "u000@contoso.test", "u000"]).unwrap();
            let person = n % 977;
            let address = format!("person{person}@fabrikam.example");
            party
                .execute(params![activity, 1, 2, id(person), "contact", address, format!("Person {person}")])
                .unwrap();
        }
    }
    tx.commit().unwrap();
    conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
}
