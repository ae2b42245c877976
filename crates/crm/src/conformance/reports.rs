//! Delivery reports.

use super::*;
use crate::{DeliveryAction, DeliveryReport, RecipientReport};

fn recipient(at: &str, action: DeliveryAction, why: &str) -> Result<RecipientReport> {
    Ok(RecipientReport {
        address: address(at)?,
        action,
        status: Some("5.1.1".to_owned()),
        diagnostic: Some(why.to_owned()),
    })
}

async fn known(f: &dyn Fixture, id: ActivityId) -> Result<Vec<(String, DeliveryAction, String)>> {
    let mut all: Vec<_> = f
        .reported(id)
        .await?
        .into_iter()
        .map(|r| (r.address.key(), r.action, r.diagnostic.unwrap_or_default()))
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(all)
}

pub(super) async fn reports_keep_the_last_word(f: &dyn Fixture) -> Result<()> {
    use DeliveryAction::{Delayed, Delivered, Failed, Relayed};
    let (_, _, id) = one_waiting(f).await?;
    let at =
        |minute: i64| f.now().checked_add(Duration::from_secs(60 * minute.unsigned_abs())).unwrap_or(f.now());
    let bob = "bob@contoso.example";
    let say = async |name: &str, minute, recipients: Vec<RecipientReport>| {
        let report = DeliveryReport { activity_id: id, report: name.to_owned(), at: at(minute), recipients };
        f.crm().record_delivery(&report).await
    };
    let one = |action, why: &str| (bob.to_owned(), action, why.to_owned());
    assert_eq!(known(f, id).await?, []);
    assert!(say("<r1>", 10, vec![recipient(bob, Delayed, "first")?]).await?);
    assert!(!say("<r1>", 11, vec![recipient(bob, Failed, "the same report")?]).await?);
    assert_eq!(known(f, id).await?, [one(Delayed, "first")]);
    assert!(!say("<r2>", 9, vec![recipient(bob, Failed, "older")?]).await?);
    assert!(say("<r3>", 20, vec![recipient("BOB@contoso.example", Failed, "end")?]).await?);
    assert_eq!(known(f, id).await?, [one(Failed, "end")]);
    assert!(!say("<r4>", 30, vec![recipient(bob, Delayed, "late delay")?]).await?, "no delay after an end");
    assert!(!say("<r5>", 15, vec![recipient(bob, Delivered, "older end")?]).await?);
    assert_eq!(known(f, id).await?, [one(Failed, "end")]);
    assert!(say("<r6>", 40, vec![recipient(bob, Delivered, "after all")?]).await?);
    // a report that was taken in long ago comes again
    assert!(!say("<r3>", 50, vec![recipient(bob, Failed, "end")?]).await?);
    assert_eq!(known(f, id).await?, [one(Delivered, "after all")]);
    // several at once; one that the e-mail does not have is kept all the same
    let forward = "bob@elsewhere.example";
    assert!(
        say("<r7>", 60, vec![recipient(bob, Delayed, "")?, recipient(forward, Relayed, "forwarded")?])
            .await?
    );
    let both = [one(Delivered, "after all"), (forward.to_owned(), Relayed, "forwarded".to_owned())];
    assert_eq!(known(f, id).await?, both);
    assert!(!say("<r8>", 70, Vec::new()).await?);
    Ok(())
}

pub(super) async fn a_report_changes_nothing_about_sending(f: &dyn Fixture) -> Result<()> {
    let (ann, bob, id) = one_waiting(f).await?;
    let listed = pending(f, &[&ann]).await?;
    let failed = recipient("bob@contoso.example", DeliveryAction::Failed, "550\r\nno")?;
    let mut report =
        DeliveryReport { activity_id: id, report: "<r1>".to_owned(), at: f.now(), recipients: vec![failed] };
    assert!(f.crm().record_delivery(&report).await?);
    // what was listed can still be claimed, and sent
    assert_eq!(f.crm().claim(&listed[0]).await?, Claim::Taken { attempt: 1 });
    f.crm().finish(&id, &SendOutcome::Sent { at: f.now(), refused: Vec::new() }).await?;
    assert_eq!(f.status(id).await?, EmailStatus::Sent);
    assert_eq!(known(f, id).await?.len(), 1, "of {bob}");
    assert!(known(f, id).await?.iter().all(|(.., why)| !why.contains(char::is_control)), "one line");
    // and there must be such an e-mail, one that was sent
    report.activity_id = ActivityId::from_uuid(Uuid::from_u128(404));
    let kind = f.crm().record_delivery(&report).await.err().map(|e| e.kind());
    assert_eq!(kind, Some(ErrorKind::NotFound));
    let question = received(f, "<question@x>")?;
    f.crm().deliver_incoming(question.clone()).await?;
    report.activity_id = question.activity_id;
    let kind = f.crm().record_delivery(&report).await.err().map(|e| e.kind());
    assert_eq!(kind, Some(ErrorKind::Invalid));
    Ok(())
}
