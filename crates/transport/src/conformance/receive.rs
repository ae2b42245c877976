//! The cases of a transport that receives.

use std::collections::HashSet;
use std::future::Future;
use std::time::Duration;

use email_router_model::{Classified, Headers, Mailbox, RemoteId, Scope};

use super::{Because, Fixture, Outcome, Runner, cancelled_after, canonical, ensure, excerpt, must_fail};
use crate::layer::Operation;
use crate::{
    Access, Capability, Disposition, Error, ErrorKind, Inbox, Part, ReceiveOptions,
    Result as TransportResult, Stub, Transport,
};

/// What arrives while somebody waits is told of, and what arrives elsewhere is not; the limit ends the wait, and a session beside it works.
async fn wait_for_mail(fixture: &dyn Fixture) -> Outcome {
    let (transport, mailbox, other) = (fixture.transport(), fixture.mailbox(0), fixture.mailbox(1));
    let first = transport.wait_for_mail(&mailbox, Duration::from_millis(200)).await;
    // a server may turn out to be too old for it, which the capability says from then on
    if first.as_ref().is_err_and(|e| e.kind() == ErrorKind::Unsupported) && !transport.capability().notifies {
        return Ok(());
    }
    let told = first.because("wait in vain")?;
    ensure!(!told, "told of mail although none arrived");
    // nobody sees when the wait has begun, so mail arrives again and again
    let arriving = async {
        for n in 0..100 {
            fixture.put(&other, format!("Subject: other {n}\r\n\r\nx\r\n").as_bytes()).await;
            fixture.put(&mailbox, format!("Subject: mail {n}\r\n\r\nx\r\n").as_bytes()).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let waiting = transport.wait_for_mail(&mailbox, Duration::from_secs(60));
    let told = tokio::select! {
        told = waiting => told.because("wait")?,
        () = arriving => false,
    };
    ensure!(told, "not told of 100 messages that arrived one after the other");
    let mut inbox =
        transport.receive(&mailbox, ReceiveOptions::default()).await.because("receive after it")?;
    ensure!(inbox.next().await.because("list after it")?.is_some(), "the mailbox is empty after it");
    inbox.close().await.because("close")
}

pub(super) async fn all<F, Fut>(runner: &Runner<F>, capability: Capability)
where
    F: Fn() -> Fut,
    Fut: Future<Output = Box<dyn Fixture>>,
{
    runner.case("empty mailbox", |f| Box::pin(empty_mailbox(f))).await;
    runner.case("listing", |f| Box::pin(listing(f))).await;
    runner.case("listing in pieces", |f| Box::pin(listing_in_pieces(f))).await;
    runner.case("at most", |f| Box::pin(at_most(f))).await;
    runner.case("arrivals", |f| Box::pin(arrivals(f))).await;
    runner.case("probe incoming", |f| Box::pin(probe(f))).await;
    runner.case("prefetch", |f| Box::pin(prefetch(f))).await;
    runner.case("headers", |f| Box::pin(headers(f))).await;
    runner.case("reading leaves no mark", |f| Box::pin(reading_leaves_no_mark(f))).await;
    runner.case("bytes survive", |f| Box::pin(bytes_survive(f))).await;
    runner.case("fetch twice", |f| Box::pin(fetch_twice(f))).await;
    runner.case("unknown id", |f| Box::pin(unknown_id(f))).await;
    runner.case("gone", |f| Box::pin(gone(f))).await;
    runner.case("too large", |f| Box::pin(too_large(f))).await;
    runner.case("header too large", |f| Box::pin(header_too_large(f))).await;
    runner.case("keep", |f| Box::pin(keep(f))).await;
    runner.case("denied dispositions", |f| Box::pin(denied_dispositions(f))).await;
    for at in IN_A_SESSION {
        runner.case("broken session", |f| Box::pin(broken_session(f, at))).await;
    }
    runner.case("drop", |f| Box::pin(dropped(f))).await;
    runner.case("two mailboxes", |f| Box::pin(two_mailboxes(f))).await;
    runner.case("shared handle", |f| Box::pin(shared_handle(f))).await;
    runner.case("cancelled receive", |f| Box::pin(cancelled_receive(f))).await;
    if capability.stable_ids {
        runner.case("stable ids", |f| Box::pin(stable_ids(f))).await;
    }
    if capability.notifies {
        runner.case("wait for mail", |f| Box::pin(wait_for_mail(f))).await;
    }
    if capability.delete {
        runner.case("delete", |f| Box::pin(delete(f))).await;
    }
    if capability.mark_read {
        runner.case("mark read", |f| Box::pin(mark_read(f))).await;
    }
    if capability.move_to_folder {
        runner.case("move", |f| Box::pin(move_to_folder(f))).await;
    }
    runner.case("dispose twice", |f| Box::pin(dispose_twice(f))).await;
    runner.case("dispose of what is gone", |f| Box::pin(dispose_of_gone(f))).await;
}

/// A message that names its number in every part.
fn message(n: usize) -> Vec<u8> {
    format!(
        "From: Ann <ann@conformance.example>\r\nTo: bob@conformance.example\r\nSubject: number {n}\r\n\
         Message-ID: <{n}@conformance.example>\r\nDate: Mon, 1 Jan 2024 00:00:{n:02} +0000\r\n\r\nbody of {n}\r\n"
    )
    .into_bytes()
}

/// What makes a message number `n` in a header section or a whole message.
fn number_of(bytes: &[u8]) -> Option<usize> {
    Headers::new(bytes).get("Subject")?.strip_prefix("number ")?.parse().ok()
}

async fn fill(fixture: &dyn Fixture, mailbox: &Mailbox, numbers: std::ops::Range<usize>) {
    for n in numbers {
        fixture.put(mailbox, &message(n)).await;
    }
}

/// Opens the mailbox; a lock that a dropped session has not yet given back is waited for, a bounded number of times.
async fn open(
    transport: &dyn Transport,
    mailbox: &Mailbox,
    options: ReceiveOptions,
) -> TransportResult<Box<dyn Inbox>> {
    let mut tries = 0;
    loop {
        match transport.receive(mailbox, options.clone()).await {
            Err(e) if e.kind() == ErrorKind::MailboxLocked && tries < 200 => {
                tries += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => return other,
        }
    }
}

async fn open_all(fixture: &dyn Fixture, mailbox: &Mailbox) -> Result<Box<dyn Inbox>, String> {
    open(&*fixture.transport(), mailbox, ReceiveOptions::default()).await.because("receive")
}

/// Lists to the end.
async fn list(inbox: &mut dyn Inbox) -> Result<Vec<Stub>, String> {
    let mut stubs = Vec::new();
    while let Some(stub) = inbox.next().await.because("next")? {
        stubs.push(stub);
        ensure!(stubs.len() <= 1000, "the listing has no end");
    }
    ensure!(inbox.next().await.because("next after the end")?.is_none(), "a message after the end");
    Ok(stubs)
}

/// Lists to the end and gives the id of each message by its number.
async fn numbered(inbox: &mut dyn Inbox) -> Result<Vec<(usize, RemoteId)>, String> {
    let mut found = Vec::new();
    for stub in list(inbox).await? {
        let whole = inbox.fetch(&stub.id).await.because("fetch")?;
        let Some(n) = number_of(whole.bytes()) else {
            return Err(format!("{} is {}", stub.id, excerpt(whole.bytes())));
        };
        found.push((n, stub.id));
    }
    found.sort();
    Ok(found)
}

/// The numbers of the messages in the mailbox, seen from outside.
async fn left(fixture: &dyn Fixture, mailbox: &Mailbox) -> Vec<usize> {
    let mut numbers: Vec<usize> =
        fixture.left(mailbox).await.iter().filter_map(|l| number_of(&l.bytes)).collect();
    numbers.sort_unstable();
    numbers
}

fn session_goes_on(error: &Error, after: &str) -> Outcome {
    ensure!(
        error.scope() == Scope::Message,
        "{after} has scope {}, but only the message is hurt",
        error.scope()
    );
    Ok(())
}

async fn probe(fixture: &dyn Fixture) -> Outcome {
    let mailbox = fixture.mailbox(0);
    fill(fixture, &mailbox, 0..2).await;
    let before = fixture.left(&mailbox).await;
    let transport = fixture.transport();
    for _ in 0..2 {
        let probe = transport.probe(&mailbox, Access::Incoming).await.because("probe")?;
        ensure!(!probe.steps.is_empty(), "a probe without a step");
        ensure!(matches!(probe.messages, None | Some(2)), "the probe counts {:?} messages", probe.messages);
    }
    ensure!(fixture.left(&mailbox).await == before, "the probe changed the mailbox");
    let mut inbox = open_all(fixture, &mailbox).await?;
    ensure!(list(&mut *inbox).await?.len() == 2, "the probe changed the listing");
    inbox.close().await.because("close")
}

async fn empty_mailbox(fixture: &dyn Fixture) -> Outcome {
    let mut inbox = open_all(fixture, &fixture.mailbox(0)).await?;
    ensure!(list(&mut *inbox).await?.is_empty(), "an empty mailbox lists a message");
    inbox.close().await.because("close")
}

async fn listing(fixture: &dyn Fixture) -> Outcome {
    let mailbox = fixture.mailbox(0);
    fill(fixture, &mailbox, 0..12).await;
    let mut inbox = open_all(fixture, &mailbox).await?;
    let stubs = list(&mut *inbox).await?;
    let ids: HashSet<_> = stubs.iter().map(|s| s.id.clone()).collect();
    ensure!(
        stubs.len() == 12 && ids.len() == 12,
        "12 messages give {} stubs, {} ids",
        stubs.len(),
        ids.len()
    );
    let mut numbers = Vec::new();
    for stub in &stubs {
        let whole = inbox.fetch(&stub.id).await.because("fetch")?;
        numbers.extend(number_of(whole.bytes()));
        if let Some(size) = stub.size {
            // line ends are counted differently by different stores; 9 lines are at most 9 bytes
            ensure!(size.abs_diff(whole.size()) <= 10, "size {size} listed, {} fetched", whole.size());
        }
        if let Some(headers) = &stub.headers {
            ensure!(number_of(headers).is_some(), "headers in the listing are {}", excerpt(headers));
        }
    }
    if fixture.lists_oldest_first() {
        ensure!(numbers == (0..12).collect::<Vec<_>>(), "not oldest first: {numbers:?}");
    }
    inbox.close().await.because("close")
}

/// Between two pieces of the listing the messages of the first are read and disposed of; the rest is never listed.
async fn listing_in_pieces(fixture: &dyn Fixture) -> Outcome {
    let mailbox = fixture.mailbox(0);
    fill(fixture, &mailbox, 0..9).await;
    let can_delete = fixture.transport().capability().delete;
    let mut inbox = open_all(fixture, &mailbox).await?;
    let mut ids = HashSet::new();
    let mut deleted = Vec::new();
    for _ in 0..2 {
        let mut piece = Vec::new();
        for _ in 0..3 {
            let Some(stub) = inbox.next().await.because("next")? else {
                return Err("the listing ended early".to_owned());
            };
            ensure!(ids.insert(stub.id.clone()), "{} is listed twice", stub.id);
            piece.push(stub.id);
        }
        let hint: Vec<_> = piece.iter().map(|id| (id.clone(), Part::Whole)).collect();
        inbox.prefetch(&hint).await.because("a hint within the listing")?;
        for id in &piece {
            let whole = inbox.fetch(id).await.because("fetch within the listing")?;
            deleted.extend(number_of(whole.bytes()));
            if can_delete {
                inbox.dispose(id, Disposition::Delete).await.because("delete within the listing")?;
            }
        }
    }
    inbox.close().await.because("close before the end of the listing")?;
    let mut due: Vec<_> = (0..9).filter(|n| !can_delete || !deleted.contains(n)).collect();
    due.sort_unstable();
    let left = left(fixture, &mailbox).await;
    ensure!(left == due, "{left:?} are left, {due:?} were due");
    Ok(())
}

async fn at_most(fixture: &dyn Fixture) -> Outcome {
    let mailbox = fixture.mailbox(0);
    fill(fixture, &mailbox, 0..5).await;
    for (max, expected) in [(0, 0), (2, 2), (5, 5), (9, 5)] {
        let options = ReceiveOptions { max_messages: max, ..ReceiveOptions::default() };
        let mut inbox = open(&*fixture.transport(), &mailbox, options).await.because("receive")?;
        let stubs = list(&mut *inbox).await?;
        ensure!(stubs.len() == expected, "max_messages {max} lists {} of 5 messages", stubs.len());
        inbox.close().await.because("close")?;
    }
    Ok(())
}

async fn stable_ids(fixture: &dyn Fixture) -> Outcome {
    let mailbox = fixture.mailbox(0);
    fill(fixture, &mailbox, 0..4).await;
    let mut inbox = open_all(fixture, &mailbox).await?;
    let first = numbered(&mut *inbox).await?;
    let capability = fixture.transport().capability();
    if capability.delete {
        inbox.dispose(&first[1].1, Disposition::Delete).await.because("delete")?;
    }
    if capability.mark_read {
        inbox.dispose(&first[2].1, Disposition::MarkRead).await.because("mark read")?;
    }
    inbox.close().await.because("close")?;
    fill(fixture, &mailbox, 4..6).await;
    let mut inbox = open_all(fixture, &mailbox).await?;
    for (n, id) in numbered(&mut *inbox).await? {
        match first.get(n) {
            Some((_, before)) => ensure!(*before == id, "message {n} was {before} and is now {id}"),
            None => ensure!(first.iter().all(|(_, old)| *old != id), "a new message got the old id {id}"),
        }
    }
    inbox.close().await.because("close")
}

async fn arrivals(fixture: &dyn Fixture) -> Outcome {
    let mailbox = fixture.mailbox(0);
    fill(fixture, &mailbox, 0..3).await;
    let mut inbox = open_all(fixture, &mailbox).await?;
    let mut ids = HashSet::new();
    let first = inbox.next().await.because("next")?;
    ids.extend(first.map(|s| s.id));
    fill(fixture, &mailbox, 3..6).await;
    for stub in list(&mut *inbox).await? {
        ensure!(ids.insert(stub.id.clone()), "{} is listed twice", stub.id);
    }
    ensure!(ids.len() >= 3, "only {} of the 3 messages present are listed", ids.len());
    inbox.close().await.because("close")?;
    let mut inbox = open_all(fixture, &mailbox).await?;
    let numbers: Vec<_> = numbered(&mut *inbox).await?.into_iter().map(|(n, _)| n).collect();
    ensure!(numbers == (0..6).collect::<Vec<_>>(), "the next session lists {numbers:?}");
    inbox.close().await.because("close")
}

async fn prefetch(fixture: &dyn Fixture) -> Outcome {
    let mailbox = fixture.mailbox(0);
    fill(fixture, &mailbox, 0..6).await;
    let mut inbox = open_all(fixture, &mailbox).await?;
    let ids: Vec<_> = numbered(&mut *inbox).await?.into_iter().map(|(_, id)| id).collect();
    inbox.prefetch(&[]).await.because("an empty hint")?;
    let hint: Vec<_> = ids[..4].iter().map(|id| (id.clone(), Part::Whole)).collect();
    inbox.prefetch(&hint).await.because("a hint")?;
    // another order, another message, another part, the same again
    for n in [2, 5, 0, 2] {
        let whole = inbox.fetch(&ids[n]).await.because("fetch")?;
        ensure!(number_of(whole.bytes()) == Some(n), "asked for {n} and got {}", excerpt(whole.bytes()));
        let headers = inbox.headers(&ids[1]).await.because("headers")?;
        ensure!(number_of(&headers) == Some(1), "asked for headers of 1 and got {}", excerpt(&headers));
    }
    let hint: Vec<_> = ids.iter().map(|id| (id.clone(), Part::Headers)).collect();
    inbox.prefetch(&hint).await.because("a second hint while the first is open")?;
    let whole = inbox.fetch(&ids[4]).await.because("fetch")?;
    ensure!(number_of(whole.bytes()) == Some(4), "asked for 4 and got {}", excerpt(whole.bytes()));
    // the rest was never asked for
    inbox.close().await.because("close with an open hint")?;
    ensure!(left(fixture, &mailbox).await.len() == 6, "a hint changed the mailbox");
    Ok(())
}

async fn headers(fixture: &dyn Fixture) -> Outcome {
    let mailbox = fixture.mailbox(0);
    let mut long = message(0);
    for line in 0..2000 {
        long.extend_from_slice(format!("line {line} of a long body\r\n").as_bytes());
    }
    long.extend_from_slice(b"the last line\r\n");
    fixture.put(&mailbox, &long).await;
    fixture.put(&mailbox, b"Subject: number 1\r\nMessage-ID: <1@conformance.example>\r\n").await;
    let mut inbox = open_all(fixture, &mailbox).await?;
    for stub in list(&mut *inbox).await? {
        let bytes = inbox.headers(&stub.id).await.because("headers")?;
        let scanned = Headers::new(&bytes);
        let n = number_of(&bytes).ok_or_else(|| format!("no subject in {}", excerpt(&bytes)))?;
        let id = scanned.get("Message-ID");
        ensure!(id == Some(format!("<{n}@conformance.example>")), "Message-ID is {id:?}");
        ensure!(!bytes.windows(13).any(|w| w == b"the last line"), "headers reach to the end of the body");
        let whole = inbox.fetch(&stub.id).await.because("fetch")?;
        let section = canonical(whole.headers().as_bytes());
        ensure!(canonical(scanned.as_bytes()) == section, "headers differ from those of the whole message");
    }
    inbox.close().await.because("close")
}

async fn reading_leaves_no_mark(fixture: &dyn Fixture) -> Outcome {
    let mailbox = fixture.mailbox(0);
    fill(fixture, &mailbox, 0..2).await;
    let before = fixture.left(&mailbox).await;
    let mut inbox = open_all(fixture, &mailbox).await?;
    for (_, id) in numbered(&mut *inbox).await? {
        inbox.headers(&id).await.because("headers")?;
    }
    inbox.close().await.because("close")?;
    let after = fixture.left(&mailbox).await;
    ensure!(after.iter().all(|l| l.read != Some(true)), "reading marked a message as read");
    ensure!(after.len() == before.len(), "reading removed a message");
    Ok(())
}

async fn bytes_survive(fixture: &dyn Fixture) -> Outcome {
    let mailbox = fixture.mailbox(0);
    let head = "Subject: number 0\r\nMessage-ID: <0@conformance.example>\r\n\r\n";
    let long_line = "x".repeat(5000);
    let bodies: [&[u8]; 9] = [
        b"",
        b"no line end at the end",
        b".\r\n..\r\n...\r\n.a dot\r\nlast\r\n.\r\n",
        b"bare\nnewlines\nall along\n",
        b"8 bit: \xff\xfe\x80 \xc3\xa9 \xe2\x82\xac\r\n",
        b"\r\n\r\n\r\nempty lines\r\n\r\n\r\n",
        b"From the start\r\n>From quoted\r\nFrom: no header\r\n",
        b"+OK\r\n-ERR\r\nQUIT\r\nDATA\r\n250 ok\r\n",
        long_line.as_bytes(),
    ];
    let mut expected = HashSet::new();
    for (n, body) in bodies.iter().enumerate() {
        let raw = [head.replace('0', &n.to_string()).as_bytes(), body].concat();
        fixture.put(&mailbox, &raw).await;
        expected.insert(canonical(&raw));
    }
    let mut inbox = open_all(fixture, &mailbox).await?;
    for stub in list(&mut *inbox).await? {
        let whole = inbox.fetch(&stub.id).await.because("fetch")?;
        let known = expected.remove(&canonical(whole.bytes()));
        ensure!(known, "not what was delivered: {}", excerpt(whole.bytes()));
    }
    ensure!(expected.is_empty(), "never seen: {}", expected.iter().map(|e| excerpt(e)).collect::<String>());
    inbox.close().await.because("close")
}

async fn fetch_twice(fixture: &dyn Fixture) -> Outcome {
    let mailbox = fixture.mailbox(0);
    fill(fixture, &mailbox, 0..2).await;
    let mut inbox = open_all(fixture, &mailbox).await?;
    let ids = numbered(&mut *inbox).await?;
    for (n, id) in ids.iter().chain(ids.iter().rev()) {
        let whole = inbox.fetch(id).await.because("fetch again")?;
        ensure!(number_of(whole.bytes()) == Some(*n), "asked for {n} and got {}", excerpt(whole.bytes()));
    }
    inbox.close().await.because("close")
}

async fn unknown_id(fixture: &dyn Fixture) -> Outcome {
    let mailbox = fixture.mailbox(0);
    fill(fixture, &mailbox, 0..1).await;
    let mut inbox = open_all(fixture, &mailbox).await?;
    let ids = numbered(&mut *inbox).await?;
    for strange in ["no-such-message", "", "../../x", "a b\r\nDELE 1", "1"] {
        let strange = RemoteId::from(strange);
        if ids.iter().any(|(_, id)| *id == strange) {
            continue;
        }
        let error = must_fail(inbox.fetch(&strange).await, ErrorKind::MessageGone, "fetch of an unknown id")?;
        session_goes_on(&error, "an unknown id")?;
        let error =
            must_fail(inbox.headers(&strange).await, ErrorKind::MessageGone, "headers of an unknown id")?;
        session_goes_on(&error, "an unknown id")?;
    }
    inbox.fetch(&ids[0].1).await.because("fetch after an unknown id")?;
    inbox.close().await.because("close")?;
    ensure!(left(fixture, &mailbox).await == [0], "an unknown id changed the mailbox");
    Ok(())
}

async fn gone(fixture: &dyn Fixture) -> Outcome {
    let (mailbox, other) = (fixture.mailbox(0), fixture.mailbox(1));
    fill(fixture, &mailbox, 0..3).await;
    fill(fixture, &other, 7..8).await;
    let mut inbox = open_all(fixture, &mailbox).await?;
    let stubs = list(&mut *inbox).await?;
    if !fixture.empty(&mailbox).await {
        return inbox.close().await.because("close");
    }
    let result = inbox.fetch(&stubs[0].id).await;
    session_goes_on(
        &must_fail(result.map(|_| ()), ErrorKind::MessageGone, "fetch of what is gone")?,
        "gone",
    )?;
    let result = inbox.headers(&stubs[1].id).await;
    session_goes_on(
        &must_fail(result.map(|_| ()), ErrorKind::MessageGone, "headers of what is gone")?,
        "gone",
    )?;
    inbox.close().await.because("close after messages are gone")?;
    fill(fixture, &mailbox, 3..4).await;
    let mut inbox = open_all(fixture, &mailbox).await?;
    let numbers: Vec<_> = numbered(&mut *inbox).await?.into_iter().map(|(n, _)| n).collect();
    ensure!(numbers == [3], "after all are gone the next session lists {numbers:?}");
    inbox.close().await.because("close")
}

async fn too_large(fixture: &dyn Fixture) -> Outcome {
    let mailbox = fixture.mailbox(0);
    let mut large = message(0);
    large.extend(b"0123456789012345678901234567890123456789012345678901234567890123456789\r\n".repeat(1000));
    fixture.put(&mailbox, &large).await;
    fill(fixture, &mailbox, 1..3).await;
    let options = ReceiveOptions { max_message_bytes: 10_000, ..ReceiveOptions::default() };
    let mut inbox = open(&*fixture.transport(), &mailbox, options).await.because("receive")?;
    let (mut good, mut refused) = (0, 0);
    for stub in list(&mut *inbox).await? {
        match inbox.fetch(&stub.id).await {
            Ok(_) => good += 1,
            Err(e) if e.kind() == ErrorKind::TooLarge => {
                refused += 1;
                session_goes_on(&e, "too large")?;
                if fixture.transport().capability().headers_alone {
                    let headers = inbox.headers(&stub.id).await.because("headers of a large message")?;
                    ensure!(number_of(&headers) == Some(0), "headers are {}", excerpt(&headers));
                }
            }
            Err(e) => return Err(format!("fetch failed: {e}")),
        }
    }
    ensure!((good, refused) == (2, 1), "{good} read and {refused} refused of 2 small and 1 large");
    inbox.close().await.because("close")?;
    ensure!(left(fixture, &mailbox).await.len() == 3, "a message too large was touched");
    Ok(())
}

async fn header_too_large(fixture: &dyn Fixture) -> Outcome {
    let mailbox = fixture.mailbox(0);
    let mut large = b"Subject: number 0\r\n".to_vec();
    large.extend(b"X-Filler: 0123456789012345678901234567890123456789012345678901234567890\r\n".repeat(500));
    large.extend(b"Message-ID: <0@conformance.example>\r\n\r\nbody\r\n");
    fixture.put(&mailbox, &large).await;
    fill(fixture, &mailbox, 1..2).await;
    let options = ReceiveOptions { max_header_bytes: 8_000, ..ReceiveOptions::default() };
    let mut inbox = open(&*fixture.transport(), &mailbox, options).await.because("receive")?;
    let (mut good, mut refused) = (0, 0);
    for stub in list(&mut *inbox).await? {
        match inbox.headers(&stub.id).await {
            Ok(_) => good += 1,
            Err(e) if e.kind() == ErrorKind::TooLarge => {
                refused += 1;
                session_goes_on(&e, "too large a header section")?;
            }
            Err(e) => return Err(format!("headers failed: {e}")),
        }
        inbox.fetch(&stub.id).await.because("fetch after the headers")?;
    }
    ensure!((good, refused) == (1, 1), "{good} read and {refused} refused of 1 small and 1 large");
    inbox.close().await.because("close")
}

async fn keep(fixture: &dyn Fixture) -> Outcome {
    let mailbox = fixture.mailbox(0);
    fill(fixture, &mailbox, 0..2).await;
    let before = fixture.left(&mailbox).await;
    let mut inbox = open_all(fixture, &mailbox).await?;
    for (_, id) in numbered(&mut *inbox).await? {
        inbox.dispose(&id, Disposition::Keep).await.because("keep")?;
    }
    inbox.close().await.because("close")?;
    let after = fixture.left(&mailbox).await;
    ensure!(before.len() == after.len(), "keep removed a message");
    ensure!(after.iter().all(|l| l.read != Some(true)), "keep marked a message");
    Ok(())
}

/// Disposes of the middle one of three messages and gives back what is left.
async fn dispose_of_one(
    fixture: &dyn Fixture,
    what: &Disposition,
) -> Result<(Mailbox, Vec<super::Left>), String> {
    let mailbox = fixture.mailbox(0);
    fill(fixture, &mailbox, 0..3).await;
    let mut inbox = open_all(fixture, &mailbox).await?;
    let ids = numbered(&mut *inbox).await?;
    inbox.dispose(&ids[1].1, what.clone()).await.because("dispose")?;
    if fixture.transport().capability().dispose_at_close {
        ensure!(left(fixture, &mailbox).await == [0, 1, 2], "{what:?} took effect before close");
    }
    inbox.fetch(&ids[2].1).await.because("fetch of another message after dispose")?;
    inbox.close().await.because("close")?;
    let left = fixture.left(&mailbox).await;
    Ok((mailbox, left))
}

async fn delete(fixture: &dyn Fixture) -> Outcome {
    let (mailbox, _) = dispose_of_one(fixture, &Disposition::Delete).await?;
    let left = left(fixture, &mailbox).await;
    ensure!(left == [0, 2], "after deleting 1 of 0, 1, 2 there are {left:?}");
    Ok(())
}

async fn mark_read(fixture: &dyn Fixture) -> Outcome {
    let (_, left) = dispose_of_one(fixture, &Disposition::MarkRead).await?;
    ensure!(left.len() == 3, "marking as read removed a message");
    for message in left {
        let n = number_of(&message.bytes);
        let read = message.read.unwrap_or(n == Some(1));
        ensure!(read == (n == Some(1)), "message {n:?}: marked as read {read}, 1 was marked");
    }
    Ok(())
}

async fn move_to_folder(fixture: &dyn Fixture) -> Outcome {
    let (mailbox, _) = dispose_of_one(fixture, &Disposition::Move("Undeliverable".to_owned())).await?;
    let rest = left(fixture, &mailbox).await;
    ensure!(rest == [0, 2], "after moving 1 of 0, 1, 2 there are {rest:?}");
    let moved = fixture.folder(&mailbox, "Undeliverable").await;
    let numbers: Vec<_> = moved.iter().map(|m| number_of(m)).collect();
    ensure!(numbers == [Some(1)], "the folder holds {numbers:?}");
    ensure!(canonical(&moved[0]) == canonical(&message(1)), "moving changed the bytes");
    // the folder exists now, and its messages are no part of the inbox
    let mut inbox = open_all(fixture, &mailbox).await?;
    let ids = numbered(&mut *inbox).await?;
    ensure!(ids.len() == 2, "a moved message is still listed");
    let again = Disposition::Move("Undeliverable".to_owned());
    inbox.dispose(&ids[0].1, again).await.because("move into a folder that exists")?;
    inbox.close().await.because("close")?;
    ensure!(fixture.folder(&mailbox, "Undeliverable").await.len() == 2, "the second move did not arrive");
    Ok(())
}

/// The dispositions, each with whether the capability allows it.
fn dispositions(capability: Capability) -> [(Disposition, bool); 4] {
    [
        (Disposition::Keep, true),
        (Disposition::Delete, capability.delete),
        (Disposition::MarkRead, capability.mark_read),
        (Disposition::Move("Elsewhere".to_owned()), capability.move_to_folder),
    ]
}

async fn denied_dispositions(fixture: &dyn Fixture) -> Outcome {
    let mailbox = fixture.mailbox(0);
    fill(fixture, &mailbox, 0..1).await;
    let mut inbox = open_all(fixture, &mailbox).await?;
    let ids = numbered(&mut *inbox).await?;
    for (what, allowed) in dispositions(fixture.transport().capability()) {
        if !allowed {
            let result = inbox.dispose(&ids[0].1, what.clone()).await;
            must_fail(result, ErrorKind::Unsupported, &format!("{what:?}"))?;
        }
    }
    inbox.fetch(&ids[0].1).await.because("fetch after a denied disposition")?;
    inbox.close().await.because("close")?;
    ensure!(left(fixture, &mailbox).await == [0], "a denied disposition changed the mailbox");
    Ok(())
}

async fn dispose_twice(fixture: &dyn Fixture) -> Outcome {
    let mailbox = fixture.mailbox(0);
    let kinds = dispositions(fixture.transport().capability());
    fill(fixture, &mailbox, 0..kinds.len()).await;
    let mut inbox = open_all(fixture, &mailbox).await?;
    let ids = numbered(&mut *inbox).await?;
    for ((what, allowed), (_, id)) in kinds.iter().zip(&ids) {
        if *allowed {
            for time in ["first", "second"] {
                let doing = format!("{what:?} for the {time} time");
                inbox.dispose(id, what.clone()).await.because(&doing)?;
            }
        }
    }
    inbox.close().await.because("close")?;
    let expected: Vec<_> = kinds
        .iter()
        .enumerate()
        .filter(|(_, (what, allowed))| !allowed || matches!(what, Disposition::Keep | Disposition::MarkRead))
        .map(|(n, _)| n)
        .collect();
    let left = left(fixture, &mailbox).await;
    ensure!(left == expected, "{left:?} are left, {expected:?} were due");
    Ok(())
}

async fn dispose_of_gone(fixture: &dyn Fixture) -> Outcome {
    let mailbox = fixture.mailbox(0);
    let kinds = dispositions(fixture.transport().capability());
    fill(fixture, &mailbox, 0..kinds.len()).await;
    let mut inbox = open_all(fixture, &mailbox).await?;
    let ids = numbered(&mut *inbox).await?;
    let emptied = fixture.empty(&mailbox).await;
    for ((what, allowed), (_, id)) in kinds.iter().zip(&ids) {
        if *allowed {
            if emptied {
                inbox.dispose(id, what.clone()).await.because(&format!("{what:?} of what is gone"))?;
            }
            let unknown = RemoteId::from("no-such-message");
            inbox.dispose(&unknown, what.clone()).await.because(&format!("{what:?} of an unknown id"))?;
        }
    }
    inbox.close().await.because("close")?;
    let left = left(fixture, &mailbox).await.len();
    let expected = if emptied { 0 } else { kinds.len() };
    ensure!(left == expected, "{left} messages are left, {expected} were due");
    Ok(())
}

/// The calls of a session but for its end.
const IN_A_SESSION: [Operation; 5] =
    [Operation::Next, Operation::Prefetch, Operation::Headers, Operation::Fetch, Operation::Dispose];

async fn call(inbox: &mut dyn Inbox, operation: Operation, id: &RemoteId) -> TransportResult<()> {
    match operation {
        Operation::Next => inbox.next().await.map(drop),
        Operation::Prefetch => inbox.prefetch(&[(id.clone(), Part::Whole)]).await,
        Operation::Headers => inbox.headers(id).await.map(drop),
        Operation::Dispose => inbox.dispose(id, Disposition::Keep).await,
        _ => inbox.fetch(id).await.map(drop),
    }
}

/// The session fails in the middle of its listing; what it has at hand must not be given any more, also when the mail system is well again.
async fn broken_session(fixture: &dyn Fixture, at: Operation) -> Outcome {
    let mailbox = fixture.mailbox(0);
    fill(fixture, &mailbox, 0..4).await;
    let capability = fixture.transport().capability();
    let mut inbox = open_all(fixture, &mailbox).await?;
    let mut ids = Vec::new();
    while ids.len() < 2 {
        let Some(stub) = inbox.next().await.because("next")? else {
            return Err("the listing ended early".to_owned());
        };
        ids.push(stub.id);
    }
    if capability.delete {
        inbox.dispose(&ids[1], Disposition::Delete).await.because("delete")?;
    }
    if !fixture.break_session(&mailbox, at).await {
        return inbox.close().await.because("close");
    }
    // what was read ahead may still be given, but sooner or later the mail system is needed
    let mut broken = None;
    for operation in std::iter::once(at).chain([Operation::Fetch; 8]) {
        broken = call(&mut *inbox, operation, &ids[0]).await.err().filter(|e| e.scope() > Scope::Message);
        if broken.is_some() {
            break;
        }
    }
    let Some(broken) = broken else {
        return Err("no call fails although the session was broken".to_owned());
    };
    fixture.mend(&mailbox).await;
    let afterwards = |doing: String, result: TransportResult<()>| match result {
        Ok(()) => Err(format!("{doing} succeeds after the session failed ({broken})")),
        Err(e) if e.scope() > Scope::Message => Ok(()),
        Err(e) => Err(format!("{doing} after the session failed blames the message: {e}")),
    };
    for operation in [IN_A_SESSION, IN_A_SESSION].concat() {
        for id in &ids {
            afterwards(operation.to_string(), call(&mut *inbox, operation, id).await)?;
        }
    }
    for (what, allowed) in dispositions(capability) {
        if allowed {
            let doing = format!("{what:?}");
            afterwards(doing, inbox.dispose(&ids[0], what).await)?;
        }
    }
    afterwards("close".to_owned(), inbox.close().await)?;
    let left = left(fixture, &mailbox).await;
    let due = if capability.delete && !capability.dispose_at_close { 3 } else { 4 };
    ensure!(left.len() == due, "after a session that failed {left:?} are left, {due} of 4 were due");
    let mut inbox = open_all(fixture, &mailbox).await?;
    let listed = list(&mut *inbox).await?.len();
    ensure!(listed == due, "the session after one that failed lists {listed}, {due} are there");
    inbox.close().await.because("close")
}

async fn dropped(fixture: &dyn Fixture) -> Outcome {
    let mailbox = fixture.mailbox(0);
    fill(fixture, &mailbox, 0..3).await;
    let capability = fixture.transport().capability();
    let mut inbox = open_all(fixture, &mailbox).await?;
    let ids = numbered(&mut *inbox).await?;
    if capability.delete {
        inbox.dispose(&ids[0].1, Disposition::Delete).await.because("delete")?;
    }
    drop(inbox);
    let after = fixture.left(&mailbox).await;
    for n in [1, 2] {
        let found = after.iter().find(|l| number_of(&l.bytes) == Some(n));
        ensure!(found.is_some_and(|l| l.read != Some(true)), "message {n} was touched by a dropped session");
    }
    if capability.dispose_at_close {
        ensure!(after.len() == 3, "a dropped session deleted a message");
    }
    // and the mailbox opens again
    let mut inbox = open_all(fixture, &mailbox).await?;
    ensure!(list(&mut *inbox).await?.len() == after.len(), "the next session lists something else");
    inbox.close().await.because("close")
}

async fn two_mailboxes(fixture: &dyn Fixture) -> Outcome {
    let (a, b) = (fixture.mailbox(0), fixture.mailbox(1));
    fill(fixture, &a, 0..3).await;
    fill(fixture, &b, 10..12).await;
    let mut left_inbox = open_all(fixture, &a).await?;
    let mut right_inbox = open_all(fixture, &b).await?;
    let (in_a, in_b) = tokio::join!(numbered(&mut *left_inbox), numbered(&mut *right_inbox));
    let (in_a, in_b) = (in_a?, in_b?);
    ensure!(in_a.iter().map(|(n, _)| *n).eq(0..3), "the first mailbox lists {in_a:?}");
    ensure!(in_b.iter().map(|(n, _)| *n).eq(10..12), "the second mailbox lists {in_b:?}");
    if fixture.transport().capability().delete {
        right_inbox.dispose(&in_b[0].1, Disposition::Delete).await.because("delete")?;
    }
    left_inbox.close().await.because("close of the first")?;
    right_inbox.close().await.because("close of the second")?;
    ensure!(left(fixture, &a).await == [0, 1, 2], "deleting in one mailbox touched the other");
    Ok(())
}

async fn shared_handle(fixture: &dyn Fixture) -> Outcome {
    let transport = fixture.transport();
    let mailboxes = [fixture.mailbox(0), fixture.mailbox(1)];
    for (n, mailbox) in mailboxes.iter().enumerate() {
        fill(fixture, mailbox, n..n + 1).await;
    }
    let session = async |n: usize| -> Outcome {
        for _ in 0..5 {
            let mut inbox =
                open(&*transport, &mailboxes[n], ReceiveOptions::default()).await.because("receive")?;
            let ids = numbered(&mut *inbox).await?;
            ensure!(ids.len() == 1 && ids[0].0 == n, "mailbox {n} lists {ids:?}");
            inbox.close().await.because("close")?;
        }
        Ok(())
    };
    let (a, b) = tokio::join!(session(0), session(1));
    a.and(b)
}

async fn cancelled_receive(fixture: &dyn Fixture) -> Outcome {
    let mailbox = fixture.mailbox(0);
    fill(fixture, &mailbox, 0..3).await;
    let transport = fixture.transport();
    for polls in 1..=12 {
        drop(cancelled_after(polls, transport.receive(&mailbox, ReceiveOptions::default())).await);
        let mut inbox = open(&*transport, &mailbox, ReceiveOptions::default())
            .await
            .because("receive after a dropped one")?;
        let ids = numbered(&mut *inbox).await?;
        ensure!(ids.len() == 3, "after a receive dropped at await {polls} there are {ids:?}");
        drop(cancelled_after(polls, inbox.fetch(&ids[0].1)).await);
        drop(inbox);
    }
    ensure!(left(fixture, &mailbox).await == [0, 1, 2], "dropped calls changed the mailbox");
    Ok(())
}
