//! The suite that every [`StateStore`] runs.
//!
//! An adapter's test gives a [`Stores`] and calls [`run`]. Each check opens its own empty store and opens it again between the
//! steps, so that what a method promised must have reached the place where the store keeps it.

use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use email_router_model::{ActivityId, EmailAddress, MailboxId, MessageId, RemoteId, Timestamp};

use crate::ports::{
    DecisionNote, DecisionQuery, LedgerEntry, LedgerResult, ProviderDirection, ProviderStatus,
    QuarantineItem, RecipientFates, RecipientWords, Settled, StateStore,
};
use crate::record::Step;
use crate::{DecisionRecord, KeptHeader, ReasonCode, StateError, Verdict};

/// Opens the stores of one adapter.
pub trait Stores: Debug + Send + Sync {
    /// Opens the store of this name: empty the first time, later with the data that was written under the name. The suite drops
    /// the handle it had before, except where it asks for two at the same time.
    fn open(&self, name: &str) -> Arc<dyn StateStore>;
}

/// Runs every check.
///
/// # Panics
/// When the adapter breaks a rule; the message names the check.
pub async fn run(stores: &dyn Stores) {
    seen_unknown(stores).await;
    seen_attempts(stores).await;
    seen_failures(stores).await;
    seen_settled(stores).await;
    seen_mailboxes_apart(stores).await;
    seen_many(stores).await;
    forget(stores).await;
    another_source(stores).await;
    resume_tokens(stores).await;
    forget_absent(stores).await;
    thresholds(stores).await;
    ledger(stores).await;
    ledger_order_and_prune(stores).await;
    ledger_refuses_unknown(stores).await;
    quarantine(stores).await;
    quarantine_pages(stores).await;
    leases(stores).await;
    leases_race(stores).await;
    statuses(stores).await;
    decisions(stores).await;
    concurrent_writers(stores).await;
    two_handles(stores).await;
}

fn at(ms: i64) -> Timestamp {
    // within the range of a timestamp for every number used here
    Timestamp::from_millisecond(1_700_000_000_000 + ms).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn mailbox(name: &str) -> MailboxId {
    MailboxId::new(name)
}

fn ids(range: std::ops::Range<usize>) -> Vec<RemoteId> {
    range.map(|n| RemoteId::new(format!("uid-{n:06}"))).collect()
}

fn one(id: &str) -> Vec<RemoteId> {
    vec![RemoteId::new(id)]
}

fn settled(id: &str, verdict: Verdict) -> Settled {
    Settled {
        id: RemoteId::new(id),
        verdict,
        activity_id: Some(activity(7)),
        disposition: "move Undeliverable/Ошибки".to_owned(),
        at: at(9),
    }
}

fn activity(n: u128) -> ActivityId {
    ActivityId::from_uuid(uuid::Uuid::from_u128(n))
}

fn ok<T>(check: &str, result: Result<T, StateError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{check}: the store failed: {error}"),
    }
}

async fn seen_unknown(stores: &dyn Stores) {
    let s = stores.open("seen-unknown");
    let m = mailbox("ann");
    assert_eq!(ok("seen_unknown", s.seen(&m, &ids(0..3)).await), [None, None, None]);
    assert_eq!(ok("seen_unknown", s.seen(&m, &[]).await), []);
    ok("seen_unknown", s.begin(&m, &[], at(0)).await);
    ok("seen_unknown", s.unbegin(&m, &one("never")).await);
    assert_eq!(ok("seen_unknown", s.seen(&m, &one("never")).await), [None], "unbegin creates nothing");
}

async fn seen_attempts(stores: &dyn Stores) {
    let (c, m) = ("seen_attempts", mailbox("ann"));
    for expected in 1..=3 {
        let s = stores.open("seen-attempts");
        ok(c, s.begin(&m, &one("a"), at(expected)).await);
        let seen = ok(c, s.seen(&m, &one("a")).await).remove(0).expect_known(c);
        assert_eq!(i64::from(seen.attempts), expected, "{c}: each begin counts one");
        assert_eq!((seen.settled, seen.not_before, seen.last_error), (None, None, None), "{c}");
    }
    let s = stores.open("seen-attempts");
    ok(c, s.begin(&m, &one("b"), at(4)).await);
    ok(c, s.unbegin(&m, &[RemoteId::new("a"), RemoteId::new("b")]).await);
    drop(s);
    let s = stores.open("seen-attempts");
    let seen = ok(c, s.seen(&m, &[RemoteId::new("a"), RemoteId::new("b")]).await);
    assert_eq!(seen[0].as_ref().map(|x| x.attempts), Some(2), "{c}: unbegin takes one back");
    assert_eq!(seen[1], None, "{c}: begun and taken back is as never begun");
}

async fn seen_failures(stores: &dyn Stores) {
    let (c, m) = ("seen_failures", mailbox("ann"));
    let s = stores.open("seen-failures");
    ok(c, s.begin(&m, &one("a"), at(0)).await);
    ok(c, s.note_failure(&m, &RemoteId::new("a"), "the CRM is busy", at(5_000)).await);
    drop(s);
    let s = stores.open("seen-failures");
    let seen = ok(c, s.seen(&m, &one("a")).await).remove(0).expect_known(c);
    assert_eq!((seen.attempts, seen.not_before), (1, Some(at(5_000))), "{c}");
    assert_eq!(seen.last_error.as_deref(), Some("the CRM is busy"), "{c}");
    ok(c, s.note_failure(&m, &RemoteId::new("a"), "naïve «Ошибка» 用户", at(-5)).await);
    ok(c, s.unbegin(&m, &one("a")).await);
    let seen = ok(c, s.seen(&m, &one("a")).await).remove(0).expect_known(c);
    assert_eq!(seen.attempts, 0, "{c}: a message that failed is not forgotten by unbegin");
    assert_eq!(seen.last_error.as_deref(), Some("naïve «Ошибка» 用户"), "{c}: the last failure stands");
    assert_eq!(seen.not_before, Some(at(-5)), "{c}");
}

async fn seen_settled(stores: &dyn Stores) {
    let (c, m) = ("seen_settled", mailbox("ann"));
    let s = stores.open("seen-settled");
    ok(c, s.begin(&m, &one("a"), at(0)).await);
    ok(c, s.settle(&m, &[]).await);
    for verdict in [Verdict::Discard, Verdict::Undeliverable, Verdict::LeftAlone, Verdict::Deliver] {
        ok(c, s.settle(&m, &[settled("a", verdict)]).await);
        let seen = ok(c, s.seen(&m, &one("a")).await).remove(0).expect_known(c);
        assert_eq!(seen.settled, Some(settled("a", verdict)), "{c}: the last settlement stands");
        assert_eq!(seen.attempts, 1, "{c}");
    }
    let bare =
        Settled { activity_id: None, disposition: "keep".to_owned(), ..settled("b", Verdict::Discard) };
    ok(c, s.settle(&m, std::slice::from_ref(&bare)).await);
    ok(c, s.begin(&m, &one("a"), at(1)).await);
    drop(s);
    let s = stores.open("seen-settled");
    let seen = ok(c, s.seen(&m, &[RemoteId::new("b"), RemoteId::new("a")]).await);
    assert_eq!(seen[0].as_ref().and_then(|x| x.settled.as_ref()), Some(&bare), "{c}: without begin, too");
    assert_eq!(
        seen[1].as_ref().and_then(|x| x.settled.as_ref()),
        Some(&settled("a", Verdict::Deliver)),
        "{c}: begin does not undo a settlement"
    );
}

async fn seen_mailboxes_apart(stores: &dyn Stores) {
    let c = "seen_mailboxes_apart";
    let s = stores.open("seen-apart");
    ok(c, s.begin(&mailbox("ann"), &one("a"), at(0)).await);
    assert_eq!(ok(c, s.seen(&mailbox("bob"), &one("a")).await), [None], "{c}");
    assert_eq!(ok(c, s.seen(&mailbox("Ann"), &one("a")).await), [None], "{c}: ids are compared exactly");
    assert_eq!(ok(c, s.seen(&mailbox("ann"), &one("A")).await), [None], "{c}: ids are compared exactly");
    assert_eq!(ok(c, s.forget_absent(&mailbox("bob"), &[]).await), 0, "{c}");
    assert!(ok(c, s.seen(&mailbox("ann"), &one("a")).await)[0].is_some(), "{c}");
}

/// More ids than any database lets a single statement have parameters, answered in the order asked.
async fn seen_many(stores: &dyn Stores) {
    let (c, m) = ("seen_many", mailbox("big"));
    let s = stores.open("seen-many");
    let all = ids(0..70_000);
    ok(c, s.begin(&m, &all[..40_000], at(0)).await);
    ok(c, s.begin(&m, &all[..10], at(0)).await);
    let mut asked = all.clone();
    asked.reverse();
    let seen = ok(c, s.seen(&m, &asked).await);
    assert_eq!(seen.len(), asked.len(), "{c}");
    for (index, answer) in seen.iter().rev().enumerate() {
        let expected = match index {
            0..10 => Some(2),
            10..40_000 => Some(1),
            _ => None,
        };
        assert_eq!(answer.as_ref().map(|x| x.attempts), expected, "{c}: id number {index}");
    }
    assert_eq!(ok(c, s.forget_absent(&m, &all[39_990..]).await), 39_990, "{c}");
    let seen = ok(c, s.seen(&m, &all[39_989..39_991]).await);
    assert_eq!((seen[0].is_none(), seen[1].is_some()), (true, true), "{c}");
}

async fn forget(stores: &dyn Stores) {
    let (c, m) = ("forget", mailbox("ann"));
    let s = stores.open("forget-some");
    ok(c, s.settle(&m, &[settled("done", Verdict::Deliver), settled("stays", Verdict::Discard)]).await);
    ok(c, s.begin(&m, &one("begun"), at(0)).await);
    ok(c, s.settle(&mailbox("bob"), &[settled("done", Verdict::Deliver)]).await);
    ok(c, s.forget(&m, &[]).await);
    ok(c, s.forget(&mailbox("nobody"), &one("done")).await);
    ok(c, s.forget(&m, &["done", "begun", "never"].map(RemoteId::new)).await);
    drop(s);
    let s = stores.open("forget-some");
    let asked = ["done", "begun", "stays"].map(RemoteId::new);
    let known: Vec<_> = ok(c, s.seen(&m, &asked).await).iter().map(Option::is_some).collect();
    assert_eq!(known, [false, false, true], "{c}");
    assert!(ok(c, s.seen(&mailbox("bob"), &one("done")).await)[0].is_some(), "{c}: other mailboxes stay");
}

async fn another_source(stores: &dyn Stores) {
    let (c, m) = ("another_source", mailbox("ann"));
    let s = stores.open("another-source");
    ok(c, s.settle(&m, &[settled("1", Verdict::Deliver)]).await);
    ok(c, s.begin(&m, &one("2"), at(0)).await);
    ok(c, s.settle(&mailbox("bob"), &[settled("1", Verdict::Deliver)]).await);
    let item = |subject: &str| QuarantineItem { subject: Some(subject.to_owned()), ..item("1", "one") };
    let first = ok(c, s.quarantine_put(&item("first")).await);
    assert_eq!(ok(c, s.read_from(&m, "ann on old").await), 0, "{c}: what is known is of this source");
    drop(s);
    let s = stores.open("another-source");
    assert_eq!(ok(c, s.read_from(&m, "ann on old").await), 0, "{c}: no other source");
    assert!(ok(c, s.seen(&m, &one("1")).await)[0].is_some(), "{c}");
    assert_eq!(ok(c, s.read_from(&m, "ann on new").await), 2, "{c}: settled and begun ones");
    drop(s);
    let s = stores.open("another-source");
    assert_eq!(ok(c, s.seen(&m, &["1", "2"].map(RemoteId::new)).await), [None, None], "{c}");
    assert!(ok(c, s.seen(&mailbox("bob"), &one("1")).await)[0].is_some(), "{c}: other mailboxes stay");
    let second = ok(c, s.quarantine_put(&item("second")).await);
    let kept: Vec<_> = ok(c, s.quarantine_list(0, 9).await).into_iter().map(|i| (i.id, i.subject)).collect();
    let expected = [(first, Some("first".to_owned())), (second, Some("second".to_owned()))];
    assert_eq!(kept, expected, "{c}: a message of the new source replaces none of the old one's");
    let old = ok(c, s.quarantine_get(first).await).map(|i| i.remote_id);
    assert!(old.is_some_and(|id| id != RemoteId::new("1")), "{c}");
    // there and back again: no two items get one id
    for source in ["ann on old", "ann on new", "ann on old"] {
        ok(c, s.read_from(&m, source).await);
        ok(c, s.quarantine_put(&item(source)).await);
    }
    let mut ids: Vec<_> = ok(c, s.quarantine_list(0, 9).await).into_iter().map(|i| i.remote_id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 5, "{c}: {ids:?}");
}

async fn resume_tokens(stores: &dyn Stores) {
    let (c, m) = ("resume_tokens", mailbox("ann"));
    let s = stores.open("resume");
    assert_eq!(ok(c, s.resume_token(&m, "here").await), None, "{c}");
    let (first, second) = (Bytes::from_static(b"first\0"), Bytes::from(vec![7; 100_000]));
    ok(c, s.set_resume_token(&m, "here", &first).await);
    ok(c, s.set_resume_token(&mailbox("bob"), "here", &second).await);
    drop(s);
    let s = stores.open("resume");
    assert_eq!(ok(c, s.resume_token(&m, "here").await), Some(first), "{c}: bytes survive");
    assert_eq!(ok(c, s.resume_token(&m, "there").await), None, "{c}: of another place");
    ok(c, s.set_resume_token(&m, "there", &second).await);
    assert_eq!(ok(c, s.resume_token(&m, "here").await), None, "{c}: the last one counts");
    assert_eq!(ok(c, s.resume_token(&m, "there").await), Some(second), "{c}");
}

async fn forget_absent(stores: &dyn Stores) {
    let (c, m) = ("forget_absent", mailbox("ann"));
    let s = stores.open("forget");
    ok(
        c,
        s.begin(&m, &[RemoteId::new("begun"), RemoteId::new("failed"), RemoteId::new("stays")], at(0)).await,
    );
    ok(c, s.note_failure(&m, &RemoteId::new("failed"), "x", at(1)).await);
    ok(c, s.settle(&m, &[settled("done", Verdict::Deliver)]).await);
    ok(c, s.begin(&mailbox("bob"), &one("begun"), at(0)).await);
    let present = [RemoteId::new("stays"), RemoteId::new("new")];
    assert_eq!(ok(c, s.forget_absent(&m, &present).await), 3, "{c}: begun, failed and settled ones go");
    assert_eq!(ok(c, s.forget_absent(&m, &present).await), 0, "{c}");
    drop(s);
    let s = stores.open("forget");
    let asked: Vec<_> = ["begun", "failed", "done", "stays"].map(RemoteId::new).to_vec();
    let known: Vec<_> = ok(c, s.seen(&m, &asked).await).iter().map(Option::is_some).collect();
    assert_eq!(known, [false, false, false, true], "{c}");
    assert!(ok(c, s.seen(&mailbox("bob"), &one("begun")).await)[0].is_some(), "{c}: other mailboxes stay");
    assert_eq!(ok(c, s.forget_absent(&m, &[]).await), 1, "{c}: an empty mailbox forgets all");
}

async fn thresholds(stores: &dyn Stores) {
    let (c, m) = ("thresholds", mailbox("ann"));
    let s = stores.open("thresholds");
    assert_eq!(ok(c, s.threshold(&m).await), None, "{c}");
    ok(c, s.set_threshold(&m, Some(at(1))).await);
    ok(c, s.set_threshold(&m, Some(at(2))).await);
    // the smallest date the original writes to have everything read again: 0001-01-01
    let first: Timestamp = Timestamp::from_second(-62_135_596_800).unwrap_or(Timestamp::MIN);
    ok(c, s.set_threshold(&mailbox("bob"), Some(first)).await);
    drop(s);
    let s = stores.open("thresholds");
    assert_eq!(ok(c, s.threshold(&m).await), Some(at(2)), "{c}");
    assert_eq!(ok(c, s.threshold(&mailbox("bob")).await), Some(first), "{c}");
    ok(c, s.set_threshold(&m, None).await);
    assert_eq!(ok(c, s.threshold(&m).await), None, "{c}");
}

fn entry(n: u128, attempt: u32, when: i64) -> LedgerEntry {
    let text = format!("<{n}@router.example>");
    LedgerEntry {
        activity_id: activity(n),
        message_id: self::message_id(&text),
        mailbox: mailbox("ann"),
        attempt,
        at: at(when),
        result: None,
        closed: false,
        earlier: None,
        refusals: 7,
    }
}

fn fates() -> RecipientFates {
    let address =
        |text: &str| -> EmailAddress { text.parse().unwrap_or_else(|_| panic!("{text} is an address")) };
    RecipientFates {
        at: at(6),
        accepted: vec![address("a@example.com")],
        refused: vec![RecipientWords {
            address: address("b@example.com"), reply: "550 «нет»".to_owned()
        }],
        waiting: vec![RecipientWords { address: address("c@example.com"), reply: "451 later".to_owned() }],
    }
}

fn results() -> [LedgerResult; 4] {
    [
        LedgerResult::Partly(fates()),
        LedgerResult::NotTaken {
            at: at(3),
            reason: "451 «позже»".to_owned(),
            permanent: false,
            counts: true,
        },
        LedgerResult::InDoubt { at: at(4), reason: "no answer after the final dot".to_owned() },
        LedgerResult::Accepted {
            at: at(5),
            reply: "250 2.0.0 queued as 4711".to_owned(),
            refused: vec!["x@example.com: 550 no".to_owned()],
        },
    ]
}

async fn ledger(stores: &dyn Stores) {
    let c = "ledger";
    let s = stores.open("ledger");
    assert_eq!(ok(c, s.ledger(&activity(1)).await), None, "{c}");
    assert_eq!(ok(c, s.ledger_open().await), [], "{c}");
    ok(c, s.ledger_close(&activity(1)).await);
    assert_eq!(ok(c, s.ledger(&activity(1)).await), None, "{c}: closing creates nothing");
    ok(c, s.ledger_begin(&entry(1, 1, 0)).await);
    drop(s);
    let s = stores.open("ledger");
    assert_eq!(ok(c, s.ledger_open().await), [entry(1, 1, 0)], "{c}");
    for result in results() {
        ok(c, s.ledger_result(&activity(1), &result).await);
        let expected = LedgerEntry { result: Some(result), ..entry(1, 1, 0) };
        assert_eq!(
            ok(c, s.ledger(&activity(1)).await).as_ref(),
            Some(&expected),
            "{c}: the last result stands"
        );
        assert_eq!(ok(c, s.ledger_open().await), [expected], "{c}: a result leaves the entry open");
    }
    ok(c, s.ledger_close(&activity(1)).await);
    ok(c, s.ledger_close(&activity(1)).await);
    drop(s);
    let s = stores.open("ledger");
    assert_eq!(ok(c, s.ledger_open().await), [], "{c}");
    let closed = ok(c, s.ledger(&activity(1)).await);
    assert!(
        closed.is_some_and(|e| e.closed && e.result == Some(results()[3].clone())),
        "{c}: it stays for reports"
    );
    ok(c, s.ledger_begin(&entry(1, 2, 9)).await);
    assert_eq!(
        ok(c, s.ledger_open().await),
        [entry(1, 2, 9)],
        "{c}: a new attempt is open and without result"
    );
}

async fn ledger_order_and_prune(stores: &dyn Stores) {
    let c = "ledger_order_and_prune";
    let s = stores.open("ledger-order");
    for (n, when) in [(3, 30), (1, 10), (2, 20), (4, 5)] {
        ok(c, s.ledger_begin(&entry(n, 1, when)).await);
    }
    let order: Vec<_> = ok(c, s.ledger_open().await).into_iter().map(|e| e.activity_id).collect();
    assert_eq!(order, [4, 1, 2, 3].map(activity), "{c}: oldest first");
    for n in [1, 2, 3] {
        ok(c, s.ledger_close(&activity(n)).await);
    }
    assert_eq!(ok(c, s.prune(at(20)).await), 1, "{c}: only closed ones, only older ones");
    assert_eq!(ok(c, s.prune(at(20)).await), 0, "{c}");
    drop(s);
    let s = stores.open("ledger-order");
    for (n, there) in [(1, false), (2, true), (3, true), (4, true)] {
        assert_eq!(ok(c, s.ledger(&activity(n)).await).is_some(), there, "{c}: entry {n}");
    }
    // what names recipients that have the message and others that wait is kept until the e-mail is settled
    let waiting = LedgerEntry { earlier: Some(fates()), ..entry(5, 2, 1) };
    for result in &results()[..3] {
        ok(c, s.ledger_begin(&waiting).await);
        ok(c, s.ledger_result(&activity(5), result).await);
        ok(c, s.ledger_close(&activity(5)).await);
        assert_eq!(ok(c, s.prune(at(20)).await), 0, "{c}: {result:?}");
        let kept = LedgerEntry { closed: true, result: Some(result.clone()), ..waiting.clone() };
        assert_eq!(ok(c, s.ledger(&activity(5)).await), Some(kept), "{c}");
    }
    ok(c, s.ledger_result(&activity(5), &results()[3]).await);
    assert_eq!(ok(c, s.prune(at(20)).await), 1, "{c}: settled");
}

async fn ledger_refuses_unknown(stores: &dyn Stores) {
    let c = "ledger_refuses_unknown";
    let s = stores.open("ledger-unknown");
    let error = s.ledger_result(&activity(1), &results()[0]).await;
    assert!(error.is_err_and(|e| !e.transient), "{c}: a result without a beginning is refused");
    assert_eq!(ok(c, s.ledger(&activity(1)).await), None, "{c}: what failed wrote nothing");
}

fn item(id: &str, reason: &str) -> QuarantineItem {
    QuarantineItem {
        id: 0,
        mailbox: mailbox("ann"),
        remote_id: RemoteId::new(id),
        class: "unreadable".to_owned(),
        reason: reason.to_owned(),
        at: at(1),
        attempts: 3,
        size: Some(5_000_000_000),
        message_id: MessageId::parse("<q@example.com>"),
        from: Some("Анна <ann@example.com>".to_owned()),
        subject: Some("Привет".to_owned()),
        raw: Some(Bytes::from_static(b"Subject: \0\xff\r\n\r\nx")),
    }
}

async fn quarantine(stores: &dyn Stores) {
    let c = "quarantine";
    let s = stores.open("quarantine");
    assert_eq!(ok(c, s.quarantine_get(1).await), None, "{c}");
    assert!(!ok(c, s.quarantine_delete(1).await), "{c}");
    let first = ok(c, s.quarantine_put(&item("a", "one")).await);
    let bare = QuarantineItem {
        size: None,
        message_id: None,
        from: None,
        subject: None,
        raw: None,
        ..item("b", "two")
    };
    let second = ok(c, s.quarantine_put(&bare).await);
    assert!(first > 0 && second > first, "{c}: ids grow from 1");
    drop(s);
    let s = stores.open("quarantine");
    let got = ok(c, s.quarantine_get(first).await);
    assert_eq!(got, Some(QuarantineItem { id: first, ..item("a", "one") }), "{c}: raw bytes come back");
    assert_eq!(
        ok(c, s.quarantine_get(second).await),
        Some(QuarantineItem { id: second, ..bare.clone() }),
        "{c}"
    );
    let again = QuarantineItem { raw: None, attempts: 9, ..item("a", "again") };
    assert_eq!(ok(c, s.quarantine_put(&again).await), first, "{c}: the same message keeps its id");
    let other = QuarantineItem { mailbox: mailbox("bob"), ..item("a", "other mailbox") };
    assert_ne!(ok(c, s.quarantine_put(&other).await), first, "{c}: another mailbox is another item");
    assert_eq!(
        ok(c, s.quarantine_get(first).await),
        Some(QuarantineItem { id: first, ..again }),
        "{c}: the new one replaces all of the old one"
    );
    assert!(ok(c, s.quarantine_delete(first).await), "{c}");
    assert!(!ok(c, s.quarantine_delete(first).await), "{c}");
    assert_eq!(ok(c, s.quarantine_get(first).await), None, "{c}");
}

async fn quarantine_pages(stores: &dyn Stores) {
    let c = "quarantine_pages";
    let s = stores.open("quarantine-pages");
    let mut put = Vec::new();
    for n in 0..5 {
        put.push(ok(c, s.quarantine_put(&item(&n.to_string(), "page")).await));
    }
    let mut listed = Vec::new();
    let mut after = 0;
    loop {
        let page = ok(c, s.quarantine_list(after, 2).await);
        assert!(page.len() <= 2 && page.iter().all(|q| q.raw.is_none()), "{c}: short pages without bytes");
        let Some(last) = page.last() else { break };
        after = last.id;
        listed.extend(page.iter().map(|q| q.id));
    }
    assert_eq!(listed, put, "{c}: oldest first, each once");
    assert_eq!(ok(c, s.quarantine_list(0, 0).await), [], "{c}");
}

async fn leases(stores: &dyn Stores) {
    let c = "leases";
    let s = stores.open("leases");
    assert!(ok(c, s.lease_acquire("m", "one", at(0), at(100)).await), "{c}: free");
    assert!(!ok(c, s.lease_acquire("m", "two", at(99), at(200)).await), "{c}: held");
    assert!(ok(c, s.lease_acquire("other", "two", at(0), at(100)).await), "{c}: names are apart");
    assert!(ok(c, s.lease_acquire("m", "one", at(50), at(150)).await), "{c}: its holder prolongs it");
    drop(s);
    let s = stores.open("leases");
    assert!(!ok(c, s.lease_acquire("m", "two", at(149), at(300)).await), "{c}: prolonged");
    assert!(ok(c, s.lease_acquire("m", "two", at(150), at(300)).await), "{c}: run out at its end");
    assert!(!ok(c, s.lease_acquire("m", "one", at(151), at(300)).await), "{c}: the old holder lost it");
    ok(c, s.lease_release("m", "one").await);
    assert!(
        !ok(c, s.lease_acquire("m", "one", at(151), at(300)).await),
        "{c}: only the holder gives it back"
    );
    ok(c, s.lease_release("m", "two").await);
    assert!(ok(c, s.lease_acquire("m", "one", at(151), at(300)).await), "{c}: given back");
    ok(c, s.lease_release("nobody's", "one").await);
}

async fn leases_race(stores: &dyn Stores) {
    let c = "leases_race";
    let (a, b) = (stores.open("leases-race"), stores.open("leases-race"));
    for round in 0..20 {
        let name = format!("m{round}");
        let mut tasks = Vec::new();
        for n in 0..8 {
            let store = if n % 2 == 0 { Arc::clone(&a) } else { Arc::clone(&b) };
            let name = name.clone();
            tasks.push(tokio::spawn(async move {
                store.lease_acquire(&name, &format!("holder {n}"), at(0), at(100)).await
            }));
        }
        let mut won = 0;
        for task in tasks {
            match task.await {
                Ok(result) => won += u32::from(ok(c, result)),
                Err(error) => panic!("{c}: {error}"),
            }
        }
        assert_eq!(won, 1, "{c}: exactly one of eight gets a free lease");
    }
}

fn status(name: &str, direction: ProviderDirection) -> ProviderStatus {
    ProviderStatus {
        mailbox: mailbox(name),
        direction,
        name: format!("User {name}"),
        address: format!("{name}@example.com"),
        last_run: Some(at(1)),
        last_success: None,
        last_error: Some("wrong password".to_owned()),
        failures: 2,
        backlog: Some(17),
        next_run: Some(at(60_000)),
        processed: 1 << 40,
    }
}

async fn statuses(stores: &dyn Stores) {
    use ProviderDirection::{Incoming, Outgoing};
    let c = "statuses";
    let s = stores.open("statuses");
    assert_eq!(ok(c, s.statuses().await), [], "{c}");
    for (name, direction) in [("bob", Outgoing), ("ann", Outgoing), ("ann", Incoming), ("bob", Incoming)] {
        ok(c, s.put_status(&status(name, direction)).await);
    }
    let new = ProviderStatus { failures: 0, last_error: None, backlog: None, ..status("bob", Incoming) };
    ok(c, s.put_status(&new).await);
    drop(s);
    let s = stores.open("statuses");
    let expected = [status("ann", Incoming), status("ann", Outgoing), new.clone(), status("bob", Outgoing)];
    assert_eq!(ok(c, s.statuses().await), expected, "{c}: by mailbox and direction, the last of each");
    ok(c, s.retain_statuses(&[(mailbox("bob"), Incoming), (mailbox("eve"), Incoming)]).await);
    assert_eq!(ok(c, s.statuses().await), [new], "{c}");
    ok(c, s.retain_statuses(&[]).await);
    assert_eq!(ok(c, s.statuses().await), [], "{c}");
}

fn message_id(text: &str) -> MessageId {
    MessageId::parse(text).unwrap_or_else(|| panic!("{text} is a message id"))
}

fn note(n: u128, message_id: &str, minute: i64) -> DecisionNote {
    let record = DecisionRecord {
        mailbox: "ann".to_owned(),
        remote_id: Some(format!("uid-{n}")),
        message_id: Some(self::message_id(message_id)),
        subject: format!("subject {n}, 报价"),
        from: "bob@customer.example".to_owned(),
        verdict: Verdict::Deliver,
        reason: ReasonCode::AcceptAll,
        because: "because".to_owned(),
        steps: vec![Step { rule: "owner".to_owned(), found: "ann".to_owned(), micros: Some(3) }],
        activity_id: Some(activity(n)),
        correlated: None,
        owner: None,
        regarding: None,
        queues: Vec::new(),
        parties: Vec::new(),
        automatic: None,
        written: None,
        attached: Vec::new(),
    };
    DecisionNote {
        at: at(minute * 60_000),
        mailbox: mailbox("ann"),
        received: Some(at(minute)),
        record,
        kept: KeptHeader::Shortened { bytes: 40_000 },
        header: n.is_multiple_of(2).then(|| Bytes::from(format!("Subject: {n}\r\n\r\n"))),
    }
}

/// Decisions come back whole, newest first, by each key; the oldest go first.
async fn decisions(stores: &dyn Stores) {
    let c = "decisions";
    let s = stores.open(c);
    let mut wrapper = note(9, "<wrapper@x>", 9);
    wrapper.record.attached = vec![note(10, "<inside@x>", 9).record];
    let first = vec![note(1, "<a@x>", 1), note(2, "<b@x>", 2), wrapper.clone()];
    ok(c, s.note_decisions(&first).await);
    ok(c, s.note_decisions(&[note(3, "<a@x>", 3)]).await);
    ok(c, s.note_decisions(&[]).await);
    drop(s);
    let s = stores.open(c);
    let by_id = |id: &str| DecisionQuery::MessageId(message_id(id));
    assert_eq!(
        ok(c, s.decisions(&by_id("<a@x>"), 10).await),
        [note(3, "<a@x>", 3), note(1, "<a@x>", 1)],
        "{c}: the message was decided about twice"
    );
    assert_eq!(ok(c, s.decisions(&by_id("<a@x>"), 1).await), [note(3, "<a@x>", 3)], "{c}: limit");
    assert_eq!(ok(c, s.decisions(&by_id("<nowhere@x>"), 10).await), [], "{c}");
    assert_eq!(ok(c, s.decisions(&by_id("<inside@x>"), 10).await), [wrapper.clone()], "{c}: attached");
    assert_eq!(ok(c, s.decisions(&DecisionQuery::Activity(activity(10)), 10).await), [wrapper], "{c}");
    assert_eq!(
        ok(c, s.decisions(&DecisionQuery::Activity(activity(2)), 10).await),
        [note(2, "<b@x>", 2)],
        "{c}"
    );
    let between = DecisionQuery::Between(at(60_000), at(3 * 60_000));
    assert_eq!(
        ok(c, s.decisions(&between, 10).await),
        [note(2, "<b@x>", 2), note(1, "<a@x>", 1)],
        "{c}: from is inclusive, to is not"
    );
    assert_eq!(ok(c, s.prune_decisions(at(2 * 60_000), 100).await), 1, "{c}: one is too old");
    assert_eq!(ok(c, s.prune_decisions(at(0), 2).await), 1, "{c}: one is too much");
    let all = DecisionQuery::Between(at(0), at(100 * 60_000));
    let left: Vec<_> = ok(c, s.decisions(&all, 10).await).into_iter().map(|n| n.record.activity_id).collect();
    assert_eq!(left, [Some(activity(9)), Some(activity(3))], "{c}");
    assert_eq!(ok(c, s.decisions(&by_id("<b@x>"), 10).await), [], "{c}: keys go with their decision");
    assert_eq!(ok(c, s.prune_decisions(at(0), 2).await), 0, "{c}: nothing more to do");
}

/// Many tasks at once; nothing is lost, no count is wrong.
async fn concurrent_writers(stores: &dyn Stores) {
    let c = "concurrent_writers";
    let s = stores.open("concurrent");
    let mut tasks = Vec::new();
    for n in 0..16_u128 {
        let s = Arc::clone(&s);
        tasks.push(tokio::spawn(async move {
            let m = mailbox("shared");
            for round in 0..10_i64 {
                s.begin(&m, &one("counter"), at(round)).await?;
                s.begin(&m, &[RemoteId::new(format!("{n}-{round}"))], at(round)).await?;
                s.ledger_begin(&entry(n, u32::try_from(round).unwrap_or(0), round)).await?;
                s.ledger_result(&activity(n), &results()[3]).await?;
                s.quarantine_put(&item(&format!("{n}-{round}"), "c")).await?;
            }
            s.ledger_close(&activity(n)).await
        }));
    }
    for task in tasks {
        match task.await {
            Ok(result) => ok(c, result),
            Err(error) => panic!("{c}: {error}"),
        }
    }
    drop(s);
    let s = stores.open("concurrent");
    let counter = ok(c, s.seen(&mailbox("shared"), &one("counter")).await).remove(0).expect_known(c);
    assert_eq!(counter.attempts, 160, "{c}: no update is lost");
    assert_eq!(ok(c, s.quarantine_list(0, 1000).await).len(), 160, "{c}");
    assert_eq!(ok(c, s.ledger_open().await), [], "{c}");
    assert_eq!(ok(c, s.forget_absent(&mailbox("shared"), &[]).await), 161, "{c}");
}

/// Two handles, as two processes have them: each sees at once what the other was told is written.
async fn two_handles(stores: &dyn Stores) {
    let c = "two_handles";
    let (a, b) = (stores.open("two"), stores.open("two"));
    let m = mailbox("ann");
    for n in 0..10 {
        let (writer, reader) = if n % 2 == 0 { (&a, &b) } else { (&b, &a) };
        ok(c, writer.begin(&m, &one("x"), at(n)).await);
        let seen = ok(c, reader.seen(&m, &one("x")).await).remove(0).expect_known(c);
        assert_eq!(i64::from(seen.attempts), n + 1, "{c}");
    }
}

trait ExpectKnown<T> {
    fn expect_known(self, check: &str) -> T;
}
impl<T> ExpectKnown<T> for Option<T> {
    fn expect_known(self, check: &str) -> T {
        self.unwrap_or_else(|| panic!("{check}: the store does not know what it was told"))
    }
}
