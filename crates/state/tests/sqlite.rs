//! The SQLite store keeps the contract, and what it acknowledged.

#![allow(clippy::unwrap_used)] // a test file

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use email_router_engine::StateStore;
use email_router_engine::conformance::{self, Stores};
use email_router_engine::ports::{LedgerEntry, LedgerResult, QuarantineItem};
use email_router_model::{ActivityId, MailboxId, MessageId, RemoteId, Timestamp};
use email_router_state::SqliteState;
use tempfile::TempDir;

#[derive(Debug)]
struct Files(TempDir);

impl Stores for Files {
    fn open(&self, name: &str) -> Arc<dyn StateStore> {
        Arc::new(SqliteState::open(self.0.path().join(format!("{name}.db"))).unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conformance() {
    conformance::run(&Files(tempfile::tempdir().unwrap())).await;
}

fn entry(n: u128) -> LedgerEntry {
    LedgerEntry {
        activity_id: ActivityId::from_uuid(uuid::Uuid::from_u128(n)),
        message_id: MessageId::parse("<a@b>").unwrap(),
        mailbox: MailboxId::new("ann"),
        attempt: 1,
        at: Timestamp::UNIX_EPOCH,
        result: None,
        closed: false,
        earlier: None,
        refusals: 0,
    }
}

/// How often the files are copied, and how many writes of each task lie between two copies.
const CRASHES: usize = 5;
const STEP: usize = 10;

fn wal(path: &Path) -> PathBuf {
    path.with_extension("db-wal")
}

/// Everything that was acknowledged is in the files, whenever the process dies: the files are copied while four tasks write, and the
/// copy is opened as a restart would open it. The tasks may run only a little ahead of the copying, so that the log stays below the
/// size at which SQLite folds it into the main file: two files cannot be copied at one moment, and only a kill stops at one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let store = Arc::new(SqliteState::open(&path).unwrap());
    // a bare record of what was acknowledged, per task
    let acknowledged: Arc<Vec<AtomicUsize>> = Arc::new((0..4).map(|_| AtomicUsize::new(0)).collect());
    let allowed = Arc::new(AtomicUsize::new(2 * STEP));
    let mailbox = MailboxId::new("ann");
    let mut tasks = Vec::new();
    for task in 0..4_usize {
        let (store, acknowledged, allowed, mailbox) =
            (Arc::clone(&store), Arc::clone(&acknowledged), Arc::clone(&allowed), mailbox.clone());
        tasks.push(tokio::spawn(async move {
            for n in 0..(CRASHES + 1) * STEP {
                while n >= allowed.load(Ordering::SeqCst) {
                    tokio::task::yield_now().await;
                }
                let id = RemoteId::new(format!("{task}-{n}"));
                if task % 2 == 0 {
                    store.begin(&mailbox, &[id], Timestamp::UNIX_EPOCH).await.unwrap();
                } else {
                    store.ledger_begin(&entry((task * 1_000_000 + n) as u128)).await.unwrap();
                }
                acknowledged[task].store(n + 1, Ordering::SeqCst);
            }
        }));
    }
    for crash in 0..CRASHES {
        while acknowledged.iter().any(|n| n.load(Ordering::SeqCst) < (crash + 1) * STEP) {
            tokio::task::yield_now().await;
        }
        let promised: Vec<usize> = acknowledged.iter().map(|n| n.load(Ordering::SeqCst)).collect();
        let copy = dir.path().join(format!("crash{crash}.db"));
        // the main file first: a log copied later holds all that the main file may lack
        std::fs::copy(&path, &copy).unwrap();
        std::fs::copy(wal(&path), wal(&copy)).unwrap();
        assert!(
            std::fs::metadata(wal(&copy)).unwrap().len() < 1000 * 4120,
            "the log was not folded in meanwhile"
        );
        let restarted = SqliteState::open(&copy).unwrap();
        for (task, promised) in promised.into_iter().enumerate() {
            for n in 0..promised {
                let there = if task % 2 == 0 {
                    let id = RemoteId::new(format!("{task}-{n}"));
                    restarted.seen(&mailbox, &[id]).await.unwrap()[0].is_some()
                } else {
                    let id = entry((task * 1_000_000 + n) as u128).activity_id;
                    restarted.ledger(&id).await.unwrap().is_some()
                };
                assert!(there, "crash {crash}: write {n} of task {task} was acknowledged and is gone");
            }
        }
        allowed.fetch_add(STEP, Ordering::SeqCst);
    }
    for task in tasks {
        task.await.unwrap();
    }
}

/// What was asked for before the drop is written, and one complete file is left.
#[tokio::test(flavor = "multi_thread")]
async fn drop_flushes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let store = SqliteState::open(&path).unwrap();
    let mailbox = MailboxId::new("ann");
    store.begin(&mailbox, &[RemoteId::new("a")], Timestamp::UNIX_EPOCH).await.unwrap();
    {
        // asked for, and the answer not waited for
        let ids = [RemoteId::new("b")];
        let mut pending = store.begin(&mailbox, &ids, Timestamp::UNIX_EPOCH);
        let poll = std::future::poll_fn(|cx| {
            let _ = pending.as_mut().poll(cx);
            std::task::Poll::Ready(())
        });
        poll.await;
    }
    drop(store);
    assert!(
        !wal(&path).exists() || std::fs::metadata(wal(&path)).unwrap().len() == 0,
        "the log is folded in"
    );
    let alone = dir.path().join("alone.db");
    std::fs::copy(&path, &alone).unwrap();
    let store = SqliteState::open(&alone).unwrap();
    let seen = store.seen(&mailbox, &[RemoteId::new("a"), RemoteId::new("b")]).await.unwrap();
    assert!(seen.iter().all(Option::is_some), "{seen:?}");
}

#[cfg(unix)]
#[tokio::test]
async fn only_the_owner_can_read_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    std::fs::write(&path, b"").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let store = SqliteState::open(&path).unwrap();
    store.begin(&MailboxId::new("a"), &[RemoteId::new("b")], Timestamp::UNIX_EPOCH).await.unwrap();
    for file in [path.clone(), wal(&path), path.with_extension("db-shm")] {
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }
}

#[tokio::test]
async fn refuses_what_is_not_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);

    // another database
    let other = rusqlite::Connection::open(path("crm.db")).unwrap();
    other.execute_batch("CREATE TABLE email (id INTEGER)").unwrap();
    drop(other);
    let error = SqliteState::open(path("crm.db")).unwrap_err();
    assert!(error.message.contains("is a database of something else") && !error.transient, "{error}");

    // a newer layout
    drop(SqliteState::open(path("new.db")).unwrap());
    let newer = rusqlite::Connection::open(path("new.db")).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    drop(newer);
    let error = SqliteState::open(path("new.db")).unwrap_err();
    assert!(error.message.contains("newer version of email-router (layout 99"), "{error}");
    assert!(!error.transient);

    // no database at all
    std::fs::write(path("text.db"), "<Configuration/>\n".repeat(100)).unwrap();
    let error = SqliteState::open(path("text.db")).unwrap_err();
    assert!(error.message.contains("is damaged") && error.message.contains("-wal"), "{error}");
    assert!(!error.transient);

    // no folder
    let error = SqliteState::open(path("nowhere/state.db")).unwrap_err();
    assert!(error.message.contains("its folder must exist"), "{error}");
}

/// Looking creates and changes nothing, sees what a running router writes, and names what it cannot read.
#[tokio::test(flavor = "multi_thread")]
async fn looking_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // a name that would mean something in a URI
    let path = dir.path().join("a?b#c%41 ü.db");
    assert!(SqliteState::open_to_look(&path).unwrap().is_none());
    assert!(!path.exists());

    let (mailbox, at) = (MailboxId::new("ann"), Timestamp::UNIX_EPOCH);
    let router = SqliteState::open(&path).unwrap();
    let look = SqliteState::open_to_look(&path).unwrap().unwrap();
    router.set_threshold(&mailbox, Some(at)).await.unwrap();
    assert_eq!(look.threshold(&mailbox).await.unwrap(), Some(at));
    let error = look.set_threshold(&mailbox, None).await.unwrap_err();
    assert!(error.message.contains("open for looking only") && !error.transient, "{error}");
    assert_eq!(router.threshold(&mailbox).await.unwrap(), Some(at));
    drop((router, look));

    let layout = |version: i64| {
        let file = rusqlite::Connection::open(&path).unwrap();
        file.pragma_update(None, "user_version", version).unwrap();
        drop(file);
        SqliteState::open_to_look(&path).unwrap_err().message
    };
    let (older, newer) = (layout(0), layout(99));
    assert!(older.contains("start the router, which brings it up to date"), "{older}");
    assert!(newer.contains("newer version of email-router (layout 99"), "{newer}");
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "application_id", 7).unwrap();
    let error = SqliteState::open_to_look(&path).unwrap_err();
    assert!(error.message.contains("is a database of something else"), "{error}");
}

/// A file damaged in the middle says so at the call that meets the damage, and says what to do.
#[tokio::test(flavor = "multi_thread")]
async fn damage_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let mailbox = MailboxId::new("ann");
    let ids: Vec<RemoteId> = (0..5000).map(|n| RemoteId::new(format!("message number {n}"))).collect();
    let store = SqliteState::open(&path).unwrap();
    store.begin(&mailbox, &ids, Timestamp::UNIX_EPOCH).await.unwrap();
    drop(store);
    let mut bytes = email_router_model::read_file_capped(&path, 100 << 20).unwrap();
    let middle = bytes.len() / 4;
    bytes[middle..].fill(0x5a);
    std::fs::write(&path, bytes).unwrap();
    // opening reads the first pages only; at the latest the look-up meets the damage
    let error = match SqliteState::open(&path) {
        Err(error) => error,
        Ok(store) => store.seen(&mailbox, &ids).await.unwrap_err(),
    };
    assert!(error.message.contains("is damaged") && error.message.contains("move"), "{error}");
    assert!(!error.transient);
}

/// Large bytes come back; a list does not carry them.
#[tokio::test]
async fn quarantine_keeps_large_messages() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteState::open(dir.path().join("state.db")).unwrap();
    let raw: Bytes = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect::<Vec<_>>().into();
    let item = QuarantineItem {
        id: 0,
        mailbox: MailboxId::new("ann"),
        remote_id: RemoteId::new("1"),
        class: "too-large".to_owned(),
        reason: "x".to_owned(),
        at: Timestamp::UNIX_EPOCH,
        attempts: 1,
        size: Some(3_000_000),
        message_id: None,
        from: None,
        subject: None,
        raw: Some(raw.clone()),
    };
    let id = store.quarantine_put(&item).await.unwrap();
    assert_eq!(store.quarantine_get(id).await.unwrap().unwrap().raw, Some(raw));
    assert_eq!(store.quarantine_list(0, 10).await.unwrap()[0].raw, None);
}

/// A write that fails undoes itself alone: the others of its transaction stay.
#[tokio::test(flavor = "multi_thread")]
async fn one_failure_takes_no_other_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteState::open(dir.path().join("state.db")).unwrap());
    let mut tasks = Vec::new();
    for n in 0..50_u128 {
        let good = Arc::clone(&store);
        tasks.push(tokio::spawn(async move { good.ledger_begin(&entry(n)).await.is_ok() }));
        let bad = Arc::clone(&store);
        tasks.push(tokio::spawn(async move {
            let result = LedgerResult::InDoubt { at: Timestamp::UNIX_EPOCH, reason: String::new() };
            bad.ledger_result(&entry(1000 + n).activity_id, &result).await.is_err()
        }));
    }
    for task in tasks {
        assert!(task.await.unwrap());
    }
    assert_eq!(store.ledger_open().await.unwrap().len(), 50);
}
