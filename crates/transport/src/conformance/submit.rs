//! The cases of a transport that submits.

use std::collections::HashSet;
use std::future::Future;

use bytes::Bytes;
use email_router_model::{Classified, EmailAddress, Mailbox, MessageId, Retry};

use super::{Because, Fixture, Outcome, Runner, Submitted, cancelled_after, ensure, excerpt};
use crate::{Access, Capability, Envelope, ErrorKind, Outbound, RecipientStatus, SubmitOptions};

pub(super) async fn all<F, Fut>(runner: &Runner<F>, capability: Capability)
where
    F: Fn() -> Fut,
    Fut: Future<Output = Box<dyn Fixture>>,
{
    runner.case("probe outgoing", |f| Box::pin(probe(f))).await;
    runner.case("submit", |f| Box::pin(submit(f))).await;
    runner.case("null sender", |f| Box::pin(null_sender(f))).await;
    runner.case("line ends", |f| Box::pin(line_ends(f))).await;
    runner.case("recipients", |f| Box::pin(recipients(f))).await;
    runner.case("shared handle for submit", |f| Box::pin(shared_handle(f))).await;
    runner.case("cancelled submit", |f| Box::pin(cancelled_submit(f))).await;
    if capability.find_submitted {
        runner.case("find submitted", |f| Box::pin(find_submitted(f))).await;
    }
}

/// A message of `sender` with this Message-ID.
pub(super) fn message(id: &str, sender: &Mailbox, recipients: &[&str]) -> Outbound {
    let recipients = recipients.iter().map(|r| EmailAddress::parse(r)).collect::<Result<Vec<_>, _>>();
    let mime = format!(
        "From: <{}>\r\nTo: undisclosed-recipients:;\r\nSubject: {id}\r\nMessage-ID: <{id}>\r\n\r\nbody of {id}\r\n",
        sender.address
    );
    // the ids and addresses are literals of this suite
    #[allow(clippy::expect_used)]
    Outbound {
        envelope: Envelope {
            sender: Some(sender.address.clone()),
            recipients: recipients.expect("the suite's addresses are valid"),
        },
        message_id: MessageId::parse(id).expect("the suite's ids are valid"),
        mime: Bytes::from(mime),
    }
}

/// What arrived of this message: its bytes stand at the end, after trace fields of the mail system.
fn arrived<'a>(submitted: &'a [Submitted], message: &Outbound) -> Vec<&'a Submitted> {
    submitted.iter().filter(|s| s.bytes.ends_with(&message.mime)).collect()
}

async fn probe(fixture: &dyn Fixture) -> Outcome {
    let transport = fixture.transport();
    for _ in 0..2 {
        let probe = transport.probe(&fixture.mailbox(0), Access::Outgoing).await.because("probe")?;
        ensure!(!probe.steps.is_empty(), "a probe without a step");
    }
    ensure!(fixture.submitted().await.is_empty(), "the probe sent a message");
    Ok(())
}

async fn submit(fixture: &dyn Fixture) -> Outcome {
    let transport = fixture.transport();
    let sender = fixture.mailbox(0);
    let to = ["zoe@conformance.example", "abe@conformance.example", "mia@conformance.example"];
    let messages = [message("one@c.example", &sender, &to), message("two@c.example", &sender, &to[..1])];
    for message in &messages {
        let receipt = transport.submit(&sender, message, SubmitOptions::default()).await.because("submit")?;
        let named: Vec<_> = receipt.recipients.iter().map(|r| r.address.clone()).collect();
        ensure!(
            named == message.envelope.recipients,
            "the receipt names {named:?}, not the envelope's order"
        );
        ensure!(receipt.all_accepted(), "not accepted: {:?}", receipt.recipients);
    }
    let submitted = fixture.submitted().await;
    for message in &messages {
        let found = arrived(&submitted, message);
        ensure!(!found.is_empty(), "{} did not arrive as it was given", message.message_id);
        let mut got: Vec<_> = found.iter().flat_map(|s| s.recipients.iter().map(EmailAddress::key)).collect();
        let mut due: Vec<_> = message.envelope.recipients.iter().map(EmailAddress::key).collect();
        got.sort();
        due.sort();
        ensure!(got == due, "arrived for {got:?}, was for {due:?}");
        ensure!(
            found.iter().all(|s| s.sender == message.envelope.sender),
            "reverse-path {:?} arrived, {:?} was given",
            found[0].sender,
            message.envelope.sender
        );
    }
    Ok(())
}

async fn null_sender(fixture: &dyn Fixture) -> Outcome {
    let sender = fixture.mailbox(0);
    let mut message = message("null@c.example", &sender, &["zoe@conformance.example"]);
    message.envelope.sender = None;
    let transport = fixture.transport();
    transport.submit(&sender, &message, SubmitOptions::default()).await.because("submit")?;
    let submitted = fixture.submitted().await;
    let found = arrived(&submitted, &message);
    ensure!(found.len() == 1, "{} messages arrived", found.len());
    let due = if fixture.keeps_reverse_path() { None } else { Some(&sender.address) };
    ensure!(found[0].sender.as_ref() == due, "the null reverse-path arrived as {:?}", found[0].sender);
    Ok(())
}

async fn line_ends(fixture: &dyn Fixture) -> Outcome {
    let transport = fixture.transport();
    let sender = fixture.mailbox(0);
    let head = "Subject: x\nMessage-ID: <ends@c.example>\r\n\n";
    let bodies: [&[u8]; 7] = [
        b"bare\nnewlines\n.\n.\r\n..\nend",
        b"smuggled\n.\nMAIL FROM:<a@b>\nend\n",
        b"smuggled\r.\rend\r\n",
        b"smuggled\r\n.\rend\n.\r\nMAIL FROM:<a@b>\r\n",
        b".\r\n",
        b"8 bit \xff\xc3\xa9\r\n",
        b"",
    ];
    for (n, body) in bodies.iter().enumerate() {
        let mut message = message("ends@c.example", &sender, &["zoe@conformance.example"]);
        let mark = format!("X-Mark: mark-{n}-\n");
        message.mime = Bytes::from([mark.as_bytes(), head.as_bytes(), body].concat());
        if let Err(e) = transport.submit(&sender, &message, SubmitOptions::default()).await {
            // a server without 8BITMIME may refuse it; everything else is due
            let eight_bit = !message.mime.is_ascii();
            ensure!(eight_bit && e.kind() == ErrorKind::MessageRefused, "submit of {body:?} failed: {e}");
            continue;
        }
        let submitted = fixture.submitted().await;
        let mark = mark.trim_end();
        let found: Vec<_> = submitted.iter().filter_map(|s| from_mark(&s.bytes, mark)).collect();
        ensure!(found.len() == 1, "{} messages arrived for one", found.len());
        let (due, got) = (lines(&message.mime), lines(found[0]));
        ensure!(due == got, "arrived as {}", excerpt(found[0]));
        ensure!(only_crlf(found[0]), "line ends other than CRLF arrived: {}", excerpt(found[0]));
    }
    let submitted = fixture.submitted().await.len();
    ensure!(submitted <= bodies.len(), "{submitted} messages arrived, {} were sent", bodies.len());
    Ok(())
}

/// The part of what arrived that begins with the mark line.
fn from_mark<'a>(bytes: &'a [u8], mark: &str) -> Option<&'a [u8]> {
    let at = bytes.windows(mark.len()).position(|w| w == mark.as_bytes())?;
    Some(&bytes[at..])
}

/// The lines of a message, whatever ends them; an empty last line does not count.
fn lines(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut lines = vec![Vec::new()];
    let mut previous = 0;
    for &b in bytes {
        match b {
            b'\n' if previous == b'\r' => {}
            b'\r' | b'\n' => lines.push(Vec::new()),
            _ => {
                if let Some(line) = lines.last_mut() {
                    line.push(b);
                }
            }
        }
        previous = b;
    }
    if lines.last().is_some_and(Vec::is_empty) {
        lines.pop();
    }
    lines
}

fn only_crlf(bytes: &[u8]) -> bool {
    (0..bytes.len()).all(|n| match bytes[n] {
        b'\n' => n > 0 && bytes[n - 1] == b'\r',
        b'\r' => bytes.get(n + 1) == Some(&b'\n'),
        _ => true,
    })
}

async fn recipients(fixture: &dyn Fixture) -> Outcome {
    let Some(refused) = fixture.refused_recipients().await else { return Ok(()) };
    let transport = fixture.transport();
    let sender = fixture.mailbox(0);
    let per_recipient = transport.capability().per_recipient_results;
    let good = "zoe@conformance.example";
    if per_recipient {
        let mut bad = vec![(refused.for_good.clone(), RecipientStatus::Refused)];
        bad.extend(refused.for_now.clone().map(|a| (a, RecipientStatus::RefusedForNow)));
        for (n, (address, status)) in bad.into_iter().enumerate() {
            let mixed = message(
                &format!("mixed{n}@c.example"),
                &sender,
                &["abe@conformance.example", address.as_str(), good],
            );
            let receipt = transport
                .submit(&sender, &mixed, SubmitOptions::default())
                .await
                .because("submit to some")?;
            let statuses: Vec<_> = receipt.recipients.iter().map(|r| r.status).collect();
            let due = [RecipientStatus::Accepted, status, RecipientStatus::Accepted];
            ensure!(statuses == due, "the receipt says {statuses:?}, {due:?} was due");
            ensure!(
                !receipt.recipients[1].reply.is_empty(),
                "a refused recipient without the server's words"
            );
            let submitted = fixture.submitted().await;
            let for_bad = arrived(&submitted, &mixed).iter().any(|s| s.recipients.contains(&address));
            ensure!(!for_bad, "a message arrived for a refused recipient");
        }
    }
    let before = fixture.submitted().await.len();
    let only = message("refused@c.example", &sender, &[refused.for_good.as_str()]);
    let error = match transport.submit(&sender, &only, SubmitOptions::default()).await {
        Ok(receipt) => return Err(format!("all recipients refused gave {receipt:?}")),
        Err(e) => e,
    };
    ensure!(error.kind() == ErrorKind::RecipientsRefused, "all recipients refused is {:?}", error.kind());
    ensure!(error.retry() == Retry::Never, "refused for good {}", error.retry());
    fates_told(&error, &only, &[RecipientStatus::Refused])?;
    if let Some(address) = refused.for_now {
        let mixed = message("later@c.example", &sender, &[refused.for_good.as_str(), address.as_str()]);
        match transport.submit(&sender, &mixed, SubmitOptions::default()).await {
            Ok(receipt) => return Err(format!("all recipients refused gave {receipt:?}")),
            Err(e) => {
                ensure!(e.kind() == ErrorKind::RecipientsRefused, "all recipients refused is {:?}", e.kind());
                // a layer that tried again says how often
                let later = matches!(e.retry(), Retry::Later(_) | Retry::Exhausted { .. });
                ensure!(later, "refused for now {}", e.retry());
                fates_told(&e, &mixed, &[RecipientStatus::Refused, RecipientStatus::RefusedForNow])?;
            }
        }
    }
    ensure!(fixture.submitted().await.len() == before, "something arrived although all were refused");
    Ok(())
}

fn fates_told(error: &crate::Error, message: &Outbound, due: &[RecipientStatus]) -> Outcome {
    let told: Vec<_> = error.recipients().iter().map(|r| (&r.address, r.status)).collect();
    let due: Vec<_> = message.envelope.recipients.iter().zip(due.iter().copied()).collect();
    ensure!(told == due, "the error tells the fates {told:?}, {due:?} were due");
    Ok(())
}

async fn shared_handle(fixture: &dyn Fixture) -> Outcome {
    let transport = fixture.transport();
    let senders = [fixture.mailbox(0), fixture.mailbox(1)];
    let send = async |n: usize| -> Outcome {
        for m in 0..5 {
            let message = message(&format!("{n}-{m}@c.example"), &senders[n], &["zoe@conformance.example"]);
            let receipt =
                transport.submit(&senders[n], &message, SubmitOptions::default()).await.because("submit")?;
            ensure!(receipt.all_accepted(), "not accepted: {receipt:?}");
        }
        Ok(())
    };
    let (a, b) = tokio::join!(send(0), send(1));
    a.and(b)?;
    let submitted = fixture.submitted().await;
    let distinct: HashSet<_> = submitted.iter().map(|s| &s.bytes).collect();
    ensure!(submitted.len() == 10 && distinct.len() == 10, "{} arrived of 10", distinct.len());
    Ok(())
}

async fn cancelled_submit(fixture: &dyn Fixture) -> Outcome {
    let transport = fixture.transport();
    let sender = fixture.mailbox(0);
    let to = ["zoe@conformance.example"];
    let mut dropped = Vec::new();
    for polls in 1..=16 {
        let given_up = message(&format!("dropped{polls}@c.example"), &sender, &to);
        let whole = message(&format!("whole{polls}@c.example"), &sender, &to);
        let done =
            cancelled_after(polls, transport.submit(&sender, &given_up, SubmitOptions::default())).await;
        dropped.push((given_up, done.is_some()));
        let receipt = transport
            .submit(&sender, &whole, SubmitOptions::default())
            .await
            .because("submit after a dropped one")?;
        ensure!(receipt.all_accepted(), "not accepted: {receipt:?}");
        let submitted = fixture.submitted().await;
        let count = arrived(&submitted, &whole).len();
        ensure!(count == 1, "after a submit dropped at await {polls} the next arrived {count} times");
    }
    let submitted = fixture.submitted().await;
    for (message, finished) in dropped {
        let count = arrived(&submitted, &message).len();
        ensure!(
            count == 1 || (count == 0 && !finished),
            "a dropped {} arrived {count} times",
            message.message_id
        );
    }
    let torn = submitted
        .iter()
        .find(|s| !s.bytes.ends_with(b"@c.example\r\n") || !s.bytes.windows(8).any(|w| w == b"body of "));
    ensure!(torn.is_none(), "a torn message arrived: {}", torn.map_or(String::new(), |t| excerpt(&t.bytes)));
    Ok(())
}

async fn find_submitted(fixture: &dyn Fixture) -> Outcome {
    let transport = fixture.transport();
    let sender = fixture.mailbox(0);
    let sent = message("sent@c.example", &sender, &["zoe@conformance.example"]);
    let other = message("other@c.example", &sender, &["zoe@conformance.example"]);
    let answer = transport.find_submitted(&sender, &sent.message_id).await.because("find before")?;
    ensure!(answer == Some(false), "before anything was sent: {answer:?}");
    transport.submit(&sender, &other, SubmitOptions::default()).await.because("submit")?;
    let answer = transport.find_submitted(&sender, &sent.message_id).await.because("find another")?;
    ensure!(answer == Some(false), "when only another was sent: {answer:?}");
    transport.submit(&sender, &sent, SubmitOptions::default()).await.because("submit")?;
    let answer = transport.find_submitted(&sender, &sent.message_id).await.because("find")?;
    ensure!(answer == Some(true), "after it was sent: {answer:?}");
    Ok(())
}
