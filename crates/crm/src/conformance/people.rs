//! Records created for unknown senders, and parties that are resolved later.

use super::*;
use crate::NewSender;

fn stranger(f: &dyn Fixture, message_id: &str, at: &str) -> Result<IncomingEmail> {
    let mut email = received(f, message_id)?;
    let at = address(at)?;
    let record = RecordRef::derive(&f.crm().organization_id(), "contact", &at);
    email.parties[0] = Party {
        participation: ParticipationType::Sender,
        record: Some(record.clone()),
        address: Some(at.clone()),
        name: Some("Zoë Stranger".to_owned()),
    };
    email.new_sender =
        Some(NewSender { record, name: "Zoë\r\nStranger".to_owned(), address: at, owner: None });
    Ok(email)
}

/// Where the CRM decides, whom it makes records for is its own affair: the router's wish counts for nothing, and refuses nothing.
async fn made_by_the_crm_alone(f: &dyn Fixture, email: IncomingEmail) -> Result<bool> {
    if f.decides() == Decides::Router {
        return Ok(false);
    }
    let id = email.activity_id;
    assert_eq!(f.crm().deliver_incoming(email).await?, Delivered::Created);
    assert_eq!(f.crm().resolve(&[address("zoe@strange.example")?]).await?, [vec![]]);
    assert_eq!(sender_of(f, id).await?, None);
    Ok(true)
}

async fn sender_of(f: &dyn Fixture, id: ActivityId) -> Result<Option<RecordRef>> {
    let found = f.crm().find_emails(&EmailLookup::Ids(vec![id]), 1).await?;
    Ok(found.first().and_then(|e| e.parties.first()).and_then(|p| p.record.clone()))
}

pub(super) async fn an_unknown_sender_is_created_once(f: &dyn Fixture) -> Result<()> {
    let ann = f.add_user("Ann", "ann@fabrikam.example", true).await?;
    let mut first = stranger(f, "<m1@x>", "Zoe@Strange.example")?;
    let Some(new) = &mut first.new_sender else { panic!("no new sender") };
    new.owner = Some(ann.clone());
    let record = new.record.clone();
    if made_by_the_crm_alone(f, first.clone()).await? {
        return Ok(());
    }
    assert_eq!(f.crm().deliver_incoming(first.clone()).await?, Delivered::Created);
    let mut second = stranger(f, "<m2@x>", "zoe@strange.example")?;
    let Some(new) = &mut second.new_sender else { panic!("no new sender") };
    assert_eq!(new.record, record, "the address says which record, whatever its letter case");
    new.name = "Somebody else".to_owned();
    for _ in 0..2 {
        f.crm().deliver_incoming(second.clone()).await?;
        f.crm().deliver_incoming(first.clone()).await?;
    }
    let found = f.crm().resolve(&[address("ZOE@strange.example")?]).await?.remove(0);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((&found[0].record, &found[0].owner, found[0].active), (&record, &Some(ann), true));
    assert!(found[0].name.starts_with("Zoë") && !found[0].name.contains(char::is_control), "{found:?}");
    for email in [&first, &second] {
        assert_eq!(sender_of(f, email.activity_id).await?, Some(record.clone()));
    }
    Ok(())
}

pub(super) async fn a_refused_delivery_creates_no_sender(f: &dyn Fixture) -> Result<()> {
    let mut no_queue = stranger(f, "<m1@x>", "zoe@strange.example")?;
    no_queue.queues = vec![Uuid::from_u128(404)];
    if made_by_the_crm_alone(f, no_queue.clone()).await? {
        return Ok(());
    }
    let mut a_user = stranger(f, "<m2@x>", "zoe@strange.example")?;
    if let Some(new) = &mut a_user.new_sender {
        new.record.table = "systemuser".to_owned();
    }
    for bad in [no_queue, a_user] {
        assert!(f.crm().deliver_incoming(bad.clone()).await.is_err(), "accepted {bad:?}");
        assert!(!f.crm().exists(&bad.activity_id).await?);
        assert_eq!(f.crm().resolve(&[address("zoe@strange.example")?]).await?, [vec![]]);
    }
    Ok(())
}

pub(super) async fn similar_parties_follow_only_when_asked(f: &dyn Fixture) -> Result<()> {
    for on in [false, true] {
        f.set_settings(&OrganizationSettings {
            resolve_similar_unresolved_email_address: on,
            ..OrganizationSettings::default()
        })
        .await?;
        let at = format!("zoe{on}@strange.example");
        let mut earlier = Vec::new();
        for n in 0..3 {
            let mut email = stranger(f, &format!("<{on}{n}@x>"), &at.to_uppercase())?;
            email.new_sender = None;
            email.parties[0].record = None;
            f.crm().deliver_incoming(email.clone()).await?;
            earlier.push(email.activity_id);
        }
        let other = received(f, &format!("<other{on}@x>"))?;
        f.crm().deliver_incoming(other.clone()).await?;
        let now = stranger(f, &format!("<now{on}@x>"), &at)?;
        if made_by_the_crm_alone(f, now.clone()).await? {
            continue;
        }
        let record = now.new_sender.as_ref().map(|n| n.record.clone());
        f.crm().deliver_incoming(now).await?;
        for id in earlier {
            assert_eq!(
                sender_of(f, id).await?,
                if on && f.resolves_similar_parties() { record.clone() } else { None }
            );
        }
        assert_eq!(sender_of(f, other.activity_id).await?, None, "another address");
    }
    Ok(())
}
