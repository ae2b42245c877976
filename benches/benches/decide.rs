//! Parsing a message and deciding about it, with ever more tracked e-mails in the embedded CRM; resolving an address; and parsing alone.
//!
//! Cost grows with the size of the message, and with the logarithm of the number of tracked e-mails: each look-up goes down one B-tree.
//! `TRACKED=10000000` measures up to ten million (12 GB on disk, some minutes to write them); `PART=parse` or `decide` measures one half.
#![allow(missing_docs)] // a program, not an interface
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // a program for people; a failed step ends it
#![allow(clippy::disallowed_methods)] // real time and files are what is measured

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use criterion::{Criterion, Throughput};
use email_router_benches::table::{median, verdict};
use email_router_benches::{corpus, disk_folder, is_smoke, number, ours, rounds, router};
use email_router_crm::smart::SmartHasher;
use email_router_crm::{CrmClient, OrganizationSettings};
use email_router_engine::decide::{Decider, MailboxContext, OrganizationView};
use email_router_engine::message::Message;
use email_router_engine::ports::CrmIndex;
use email_router_engine::{ParseCaps, Verdict};
use email_router_model::{EmailAddress, Mailbox, RawMessage, RecordRef};
use rusqlite::{Connection, params};
use uuid::Uuid;

/// What a message is to the CRM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    InReplyTo,
    Token,
    ConversationId,
    ConversationIndex,
    /// By the words of its subject and its addresses.
    Smart,
    /// The same where two words of the subject may differ.
    SmartInexact,
    /// Everything is looked for and nothing found.
    Nothing,
}

const KINDS: [(Kind, &str); 7] = [
    (Kind::InReplyTo, "answers by In-Reply-To"),
    (Kind::Token, "answers by token"),
    (Kind::ConversationId, "answers by conversation id"),
    (Kind::ConversationIndex, "answers by Thread-Index"),
    (Kind::Smart, "answers by smart matching"),
    (Kind::SmartInexact, "the same, 2 words may differ"),
    (Kind::Nothing, "answers nothing"),
];

fn main() {
    let part = |name: &str| std::env::var("PART").map_or(true, |only| only == name);
    if part("parse") {
        parsing();
    }
    if part("decide") {
        deciding();
    }
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
    crm: Arc<dyn CrmClient>,
    decider: Decider,
    view: OrganizationView,
    /// Where two words of a subject may differ.
    inexact: OrganizationView,
    mailbox: Mailbox,
    record: RecordRef,
    folder: tempfile::TempDir,
}

fn deciding() {
    let sizes: Vec<usize> = match (is_smoke(), number("TRACKED", 0)) {
        (true, _) => vec![100, 1000],
        (false, 0) => vec![10_000, 100_000, 1_000_000],
        (false, most) => vec![most / 1000, most / 100, most / 10, most],
    };
    let each = if is_smoke() { 20 } else { 1000 };
    // one thread beside SQLite's, as one mailbox is read
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let filled: Vec<Filled> = sizes.iter().map(|n| runtime.block_on(fill(*n))).collect();
    let ask = |name: &str, crm: &Filled, n: usize| match KINDS.iter().find(|(_, of)| *of == name) {
        Some((kind, _)) => runtime.block_on(crm.decide(*kind, message(*kind, n, crm.tracked), n)),
        None => runtime.block_on(crm.resolve(n)),
    };
    let names = || KINDS.iter().map(|(_, name)| *name).chain(["resolve one address alone"]);
    println!(
        "\nparse, decide and correlate one message of 4 KB, microseconds (median of {} rounds of {each})",
        rounds()
    );
    print!("{:<30}", "tracked e-mails");
    for crm in &filled {
        print!("{:>12}", crm.tracked);
    }
    println!("{:>9} {:>10}", "ratio", "target 3");
    for name in names() {
        let mut times = vec![Vec::new(); filled.len()];
        for round in 0..rounds() {
            for (at, crm) in filled.iter().enumerate() {
                times[at].push(time(each, |n| ask(name, crm, spread(n + round * each, crm.tracked))));
            }
        }
        let medians: Vec<f64> = times.into_iter().map(median).collect();
        let ratio = medians[medians.len() - 1] / medians[0];
        print!("{name:<30}");
        for m in &medians {
            print!("{m:>12.1}");
        }
        println!("{ratio:>9.2} {:>10}", verdict(ratio <= 3.0));
    }
    // behind all that is warm: what is forgotten is missing in the next row
    let few = (each / 20).max(1);
    print!(
        "\nthe same with nothing of the file in memory, each number of e-mails alone ({few} messages)\n{:<30}",
        "tracked e-mails"
    );
    for crm in &filled {
        print!("{:>12}", crm.tracked);
    }
    println!();
    for name in names() {
        print!("{name:<30}");
        for crm in &filled {
            crm.forget();
            let first = rounds() * each;
            print!("{:>12.0}", time(few, |n| ask(name, crm, spread(first + n, crm.tracked))));
        }
        println!();
    }
    for crm in &filled {
        let bytes = std::fs::metadata(crm.folder.path().join("crm.db")).unwrap().len();
        println!(
            "{} e-mails, {} addresses: file of {:.0} MB",
            crm.tracked,
            people(crm.tracked),
            bytes as f64 / 1e6
        );
    }
}

/// Microseconds for one of so many.
fn time(count: usize, work: impl Fn(usize)) -> f64 {
    let start = Instant::now();
    (0..count).for_each(work);
    start.elapsed().as_secs_f64() * 1e6 / count as f64
}

impl Filled {
    async fn decide(&self, kind: Kind, raw: RawMessage, n: usize) {
        let mut message = Message::parse(&raw, &ParseCaps::default());
        match kind {
            Kind::ConversationId => message.conversation_id = Some(conversation_id(n)),
            Kind::ConversationIndex => message.thread_index = Some(conversation_root(n)),
            _ => {}
        }
        let view = if kind == Kind::SmartInexact { &self.inexact } else { &self.view };
        let context = MailboxContext::new(&self.mailbox, Some(self.record.clone()));
        let decision = self.decider.decide(view, &context, &message).await.unwrap();
        let expected = if kind == Kind::Nothing { Verdict::Discard } else { Verdict::Deliver };
        assert_eq!(decision.verdict, expected, "{kind:?}: {:#?}", decision.record);
    }

    async fn resolve(&self, n: usize) {
        let found = self.crm.resolve(&[address(n % people(self.tracked)).parse().unwrap()]).await.unwrap();
        assert_eq!(found[0].len(), 1);
    }

    /// Lets go what the system has of the file in memory, so that the next look-ups read the disk.
    fn forget(&self) {
        let file = std::fs::File::open(self.folder.path().join("crm.db")).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
}

/// Spreads consecutive numbers over all e-mails, so that the pages of the last look-up do not serve the next. Each number once, where there is
/// a power of ten of them.
fn spread(n: usize, tracked: usize) -> usize {
    n.wrapping_mul(7_919_317) % tracked
}

/// Contacts with an address: one for ten e-mails.
fn people(tracked: usize) -> usize {
    (tracked / 10).max(977)
}

fn message(kind: Kind, n: usize, tracked: usize) -> RawMessage {
    let fields = match kind {
        Kind::InReplyTo => {
            format!("In-Reply-To: <{n}@crm.contoso.test>\nReferences: <{n}@crm.contoso.test>\n")
        }
        Kind::Nothing => format!("In-Reply-To: <{n}@elsewhere.example>\n"),
        _ => String::new(),
    };
    let text = String::from_utf8(corpus::message(n, 4000, "u000@contoso.test", &fields)).unwrap();
    let person = n % people(tracked);
    let text = text.replacen(&format!("person{}@", n % 977), &format!("person{person}@"), 1);
    let field = match kind {
        Kind::Token => format!("Subject: Re: {} Answer", token(n)),
        Kind::Smart => format!("Subject: Re: {}", subject(n)),
        Kind::SmartInexact => format!("Subject: Re: {} today", subject(n)),
        _ => format!("Subject: Something else about {n} other matters"),
    };
    let text = text.replacen(&format!("Subject: {}", subject(n)), &field, 1);
    assert!(text.contains(&field), "{field}");
    RawMessage::new(corpus::with_crlf(text.as_bytes()))
}

/// As `corpus` writes it.
fn subject(n: usize) -> String {
    format!("Question {n} about an order")
}

fn token(n: usize) -> String {
    format!("CRM:{:05}{:03}", n / 1000, n % 1000)
}

fn conversation_id(n: usize) -> String {
    format!("AAQkADAwATM0MDAAMS0{n:08}")
}

/// 22 bytes.
fn conversation_root(n: usize) -> String {
    format!("01da{n:040x}")
}

async fn fill(tracked: usize) -> Filled {
    let folder = disk_folder();
    let file = folder.path().join("crm.db");
    let crm = router::crm(&file);
    let mailbox = ours::mailbox("u000");
    let record = router::add_user(&crm, &mailbox, "response").await;
    crm.admin().set_setting("enablesmartmatching", "true").await.unwrap();
    crm.close().await.unwrap();
    bulk(&file, tracked, &record);
    let crm = router::crm(&file);
    let view = OrganizationView::load(&crm).await.unwrap();
    crm.admin().set_setting("hashdeltasubjectcount", "2").await.unwrap();
    let inexact = OrganizationView::load(&crm).await.unwrap();
    let crm: Arc<dyn CrmClient> = Arc::new(crm);
    let decider = Decider::new(Arc::clone(&crm), Arc::new(CrmIndex(Arc::clone(&crm))));
    Filled { tracked, crm, decider, view, inexact, mailbox, record, folder }
}

/// The rows the CRM has after sending so many e-mails. They are written in the order of their keys, and the indices made at the end: as the
/// CRM writes them, one after the other, ten million would take hours.
fn bulk(file: &std::path::Path, tracked: usize, owner: &RecordRef) {
    let mut conn = Connection::open(file).unwrap();
    conn.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -262144")
        .unwrap();
    let tables = "('email', 'emailcorrelation', 'emailhash', 'activityparty', 'emailsearch')";
    let indices: Vec<(String, String)> = conn
        .prepare(&format!("SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL AND tbl_name IN {tables}"))
        .unwrap()
        .query_map([], |r| Ok((r.get(0)?, r.get(1)?)))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert!(!indices.is_empty());
    for (name, _) in &indices {
        conn.execute_batch(&format!("DROP INDEX {name}")).unwrap();
    }
    let tx = conn.transaction().unwrap();
    contacts(&tx, people(tracked));
    emails(&tx, tracked, owner);
    tx.commit().unwrap();
    for (_, sql) in &indices {
        conn.execute_batch(sql).unwrap();
    }
    conn.execute_batch(
        "PRAGMA synchronous = FULL; PRAGMA journal_mode = WAL; PRAGMA wal_checkpoint(TRUNCATE)",
    )
    .unwrap();
    // only what is on the disk can be forgotten
    std::fs::File::open(file).unwrap().sync_all().unwrap();
}

fn contact_id(n: usize) -> String {
    Uuid::from_u128((1 << 100) + n as u128).to_string()
}

fn address(n: usize) -> String {
    format!("person{n}@fabrikam.example")
}

fn contacts(conn: &Connection, count: usize) {
    let mut contact = conn
        .prepare("INSERT INTO contact (contactid, fullname, emailaddress1, createdon, modifiedon) VALUES (?1, ?2, ?3, 0, 0)")
        .unwrap();
    for n in 0..count {
        contact.execute(params![contact_id(n), format!("Person {n}"), address(n)]).unwrap();
    }
    let mut search = conn
        .prepare("INSERT INTO emailsearch (emailaddress, parentobjectid, objecttypecode, emailcolumnname) VALUES (?1, ?2, 'contact', 'emailaddress1')")
        .unwrap();
    let mut sorted: Vec<(String, usize)> = (0..count).map(|n| (address(n), n)).collect();
    sorted.sort_unstable();
    for (address, n) in sorted {
        search.execute(params![address, contact_id(n)]).unwrap();
    }
}

fn emails(conn: &Connection, tracked: usize, owner: &RecordRef) {
    let mut email = conn
        .prepare(
            "INSERT INTO email (activityid, directioncode, statecode, statuscode, createdon, modifiedon, ownerid, owneridtype,
               emailsender, emailsenderobjecttypecode, messageid, trackingtoken, trackingtokenkey, sender, mimetype, subject, description,
               conversationindex)
             VALUES (?1, 1, 1, 3, ?2, ?2, ?3, 'systemuser', ?3, 'systemuser', ?4, ?5, lower(?5), 'u000@contoso.test', 'text/plain', ?6, 'Hello', ?7)",
        )
        .unwrap();
    let mut party = conn
        .prepare(
            "INSERT INTO activityparty (activityid, ordinal, participationtypemask, partyid, partyobjecttypecode, addressused, partyidname)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )
        .unwrap();
    let mut correlation = conn
        .prepare(
            "INSERT INTO emailcorrelation (correlationid, activityid, createdon, conversationid, words, addresses) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )
        .unwrap();
    let owner = owner.id.to_string();
    let hasher = SmartHasher::new(&OrganizationSettings::default());
    let blob = |hashes: &[i64]| hashes.iter().flat_map(|h| h.to_be_bytes()).collect::<Vec<u8>>();
    let mut postings = Vec::with_capacity(2 * tracked);
    for k in 0..tracked {
        // the keys of the activities say nothing about the order in which they were made, as in the CRM
        let n = spread(k, tracked);
        let activity = Uuid::from_u128(((k as u128) << 90) + n as u128).to_string();
        let created = CREATED + n as i64;
        let subject = format!("{} {}", subject(n), token(n));
        let root = conversation_root(n);
        let id = format!("<{n}@crm.contoso.test>");
        email.execute(params![activity, created, owner, id, token(n), subject, root]).unwrap();
        let person = n % people(tracked);
        let (ours, theirs) = ("u000@contoso.test", address(person));
        party.execute(params![activity, 0, 1, owner, "systemuser", ours, "u000"]).unwrap();
        party
            .execute(params![
                activity,
                1,
                2,
                contact_id(person),
                "contact",
                theirs,
                format!("Person {person}")
            ])
            .unwrap();
        let addresses: [EmailAddress; 2] = [ours.parse().unwrap(), theirs.parse().unwrap()];
        let smart = hasher.hashes(&subject, &addresses);
        let row = k as i64 + 1;
        correlation
            .execute(params![
                row,
                activity,
                created,
                conversation_id(n),
                blob(&smart.words),
                blob(&smart.addresses)
            ])
            .unwrap();
        let words = subject_hash(&smart.words);
        postings.extend(smart.addresses.iter().map(|address| (*address, words, created, row)));
    }
    postings.sort_unstable();
    let mut posting = conn
        .prepare("INSERT INTO emailhash (addresshash, subjecthash, createdon, correlationid) VALUES (?1, ?2, ?3, ?4)")
        .unwrap();
    for (address, words, created, row) in postings {
        posting.execute(params![address, words, created, row]).unwrap();
    }
}

/// Milliseconds; a month before the messages of the corpus, since smart matching does not look back for ever.
const CREATED: i64 = 1_769_904_000_000;

/// As `crates/crm/src/embedded/hashes.rs` has it; were it another, nothing would be found and the run would end.
fn subject_hash(words: &[i64]) -> i64 {
    let mixed = words.iter().fold(0x9e37_79b9_7f4a_7c15_u64, |hash, word| {
        (hash ^ word.cast_unsigned()).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29)
    });
    mixed.cast_signed()
}
