//! Conversations and smart matching: what is kept, and what each look-up finds.

use super::*;
use crate::smart::SmartHasher;
use crate::{EmailSummary, SmartQuery};

const ROOT: &str = "01d5a1b2c3d4000102030405060708090a0b0c0d0e0f";

/// Where the CRM decides, conversations and smart matching are its own affair: the router keeps nothing for them, so nothing is found.
async fn found_by_the_crm_alone(f: &dyn Fixture, lookups: &[EmailLookup]) -> Result<bool> {
    if f.decides() == Decides::Router {
        return Ok(false);
    }
    for lookup in lookups {
        assert_eq!(f.crm().find_emails(lookup, 10).await?, [], "{lookup:?}");
    }
    Ok(true)
}

async fn find(f: &dyn Fixture, lookup: &EmailLookup) -> Result<Vec<ActivityId>> {
    Ok(f.crm().find_emails(lookup, 10).await?.iter().map(|e| e.activity_id).collect())
}

/// Delivers an e-mail with these hashes.
async fn hashed(f: &dyn Fixture, name: &str, words: &[i64], addresses: &[i64]) -> Result<ActivityId> {
    let mut email = received(f, &format!("<{name}@x>"))?;
    email.smart = SmartHashes { words: words.to_vec(), addresses: addresses.to_vec() };
    f.crm().deliver_incoming(email.clone()).await?;
    f.advance(Duration::from_secs(1));
    Ok(email.activity_id)
}

fn query(words: &[i64], addresses: &[i64]) -> SmartQuery {
    SmartQuery {
        hashes: SmartHashes { words: words.to_vec(), addresses: addresses.to_vec() },
        delta: 0,
        min_addresses: 2,
        not_before: Timestamp::UNIX_EPOCH,
    }
}

pub(super) async fn an_email_is_found_by_its_conversation(f: &dyn Fixture) -> Result<()> {
    let mut expected = Vec::new();
    for (n, index) in [ROOT.to_owned(), format!("{ROOT}0000000001"), format!("{ROOT}00000000010000000002")]
        .into_iter()
        .enumerate()
    {
        let mut email = received(f, &format!("<m{n}@x>"))?;
        email.conversation_index = Some(index);
        email.conversation_id = Some("AAQkAD0=".to_owned());
        f.crm().deliver_incoming(email.clone()).await?;
        f.advance(Duration::from_secs(1));
        expected.insert(0, email.activity_id);
    }
    let mut other = received(f, "<other@x>")?;
    other.conversation_index = Some(ROOT.replacen("01", "02", 1));
    other.conversation_id = Some("aaqkad0=".to_owned());
    f.crm().deliver_incoming(other).await?;
    let root = EmailLookup::ConversationRoot(ROOT.to_owned());
    if found_by_the_crm_alone(f, &[root, EmailLookup::ConversationId("AAQkAD0=".to_owned())]).await? {
        return Ok(());
    }
    assert_eq!(find(f, &EmailLookup::ConversationRoot(ROOT.to_owned())).await?, expected, "newest first");
    assert_eq!(find(f, &EmailLookup::ConversationRoot(ROOT[..20].to_owned())).await?, [], "no root");
    assert_eq!(find(f, &EmailLookup::ConversationRoot(ROOT.replace('a', "c"))).await?, []);
    let by_id = EmailLookup::ConversationId("AAQkAD0=".to_owned());
    assert_eq!(find(f, &by_id).await?, expected, "ids of conversations are compared exactly");
    let newest = f.crm().find_emails(&by_id, 1).await?;
    assert_eq!(newest.iter().map(|e| e.activity_id).collect::<Vec<_>>(), expected[..1]);
    assert_eq!(newest[0].conversation_id.as_deref(), Some("AAQkAD0="));
    assert_eq!(newest[0].conversation_index, Some(format!("{ROOT}00000000010000000002")));
    Ok(())
}

pub(super) async fn smart_matching_compares_words_and_addresses(f: &dyn Fixture) -> Result<()> {
    let plain = hashed(f, "plain", &[1, 2, 3], &[10, 20, 30]).await?;
    let longer = hashed(f, "longer", &[1, 2, 3, 4], &[10, 20]).await?;
    let other = hashed(f, "other", &[1, 2, 9], &[10, 20]).await?;
    hashed(f, "stranger", &[1, 2, 3], &[10, 99]).await?;
    hashed(f, "no words", &[], &[10, 20]).await?;
    hashed(f, "no addresses", &[1, 2, 3], &[]).await?;
    let smart = |q: SmartQuery| EmailLookup::Smart(q);
    let usual = query(&[1, 2, 3], &[10, 20]);
    if found_by_the_crm_alone(f, &[smart(usual.clone())]).await? {
        return Ok(());
    }
    assert_eq!(find(f, &smart(usual.clone())).await?, [plain]);
    let one_word = SmartQuery { delta: 1, ..usual.clone() };
    assert_eq!(find(f, &smart(one_word.clone())).await?, [other, longer, plain]);
    assert_eq!(find(f, &smart(SmartQuery { min_addresses: 3, ..usual.clone() })).await?, []);
    let three = SmartQuery { min_addresses: 3, ..query(&[1, 2, 3], &[10, 20, 30, 40]) };
    assert_eq!(find(f, &smart(three)).await?, [plain]);
    for nothing in [query(&[], &[10, 20]), query(&[1, 2, 3], &[]), query(&[1, 2, 3], &[-10, 77])] {
        for delta in [0, 5] {
            let lookup = smart(SmartQuery { delta, min_addresses: 1, ..nothing.clone() });
            assert_eq!(find(f, &lookup).await?, [], "{lookup:?}");
        }
    }
    // no e-mail has none of the addresses in common, whatever the query says
    let none_common = SmartQuery { min_addresses: 0, ..query(&[1, 2, 3], &[77]) };
    assert_eq!(find(f, &smart(none_common)).await?, []);
    let found = f.crm().find_emails(&smart(one_word), 2).await?;
    let ids = |list: &[EmailSummary]| list.iter().map(|e| e.activity_id).collect::<Vec<_>>();
    assert_eq!(ids(&found), [other, longer], "the newest where there are more than the limit");
    assert_eq!(found[1].smart, SmartHashes { words: vec![1, 2, 3, 4], addresses: vec![10, 20] });
    assert_eq!(found[1].parties.len(), 3);
    Ok(())
}

pub(super) async fn smart_matching_does_not_look_back_for_ever(f: &dyn Fixture) -> Result<()> {
    let old = hashed(f, "old", &[1, 2], &[10, 20]).await?;
    let between = f.now();
    let new = hashed(f, "new", &[1, 2], &[10, 20]).await?;
    if found_by_the_crm_alone(f, &[EmailLookup::Smart(query(&[1, 2], &[10, 20]))]).await? {
        return Ok(());
    }
    for delta in [0, 1] {
        let all = SmartQuery { delta, ..query(&[1, 2], &[10, 20]) };
        assert_eq!(find(f, &EmailLookup::Smart(all.clone())).await?, [new, old]);
        let recent = EmailLookup::Smart(SmartQuery { not_before: between, ..all });
        assert_eq!(find(f, &recent).await?, [new], "what is as old as the limit counts");
    }
    Ok(())
}

/// Many e-mails share the subject and one address; the rare address finds the one that is meant.
pub(super) async fn smart_matching_finds_the_rare_among_many(f: &dyn Fixture) -> Result<()> {
    let meant = hashed(f, "meant", &[1], &[5, 7]).await?;
    for n in 0..60 {
        hashed(f, &format!("n{n}"), &[1], &[5, 1000 + n]).await?;
    }
    if found_by_the_crm_alone(f, &[EmailLookup::Smart(query(&[1], &[5, 7]))]).await? {
        return Ok(());
    }
    for delta in [0, 1] {
        let lookup = EmailLookup::Smart(SmartQuery { delta, ..query(&[1], &[5, 7]) });
        assert_eq!(f.crm().find_emails(&lookup, 1).await?.len(), 1);
        assert_eq!(find(f, &lookup).await?, [meant]);
    }
    Ok(())
}

pub(super) async fn without_hashes_nothing_is_matched(f: &dyn Fixture) -> Result<()> {
    f.set_settings(&OrganizationSettings {
        disable_smart_matching_email_hash_creation: true,
        ..OrganizationSettings::default()
    })
    .await?;
    let id = hashed(f, "m1", &[1, 2], &[10, 20]).await?;
    let (ann, _, sent) = one_waiting(f).await?;
    f.crm().prepare_outgoing(&sent, &mid("<first@r>")?, false).await?;
    let everything = query(&[1, 2], &[10, 20]);
    assert_eq!(find(f, &EmailLookup::Smart(everything)).await?, []);
    let found = f.crm().find_emails(&EmailLookup::Ids(vec![id, sent]), 2).await?;
    assert!(found.iter().all(|e| e.smart == SmartHashes::default()), "{found:?} of {ann}");
    Ok(())
}

pub(super) async fn an_answer_to_an_outgoing_email_is_matched(f: &dyn Fixture) -> Result<()> {
    let (ann, bob) = (
        f.add_user("Ann", "ann@fabrikam.example", true).await?,
        f.add_contact("Bob", "bob@contoso.example").await?,
    );
    let id = f.send(&Seed::new(&ann, &bob, "Garden party in summer")).await?;
    let settings = OrganizationSettings::default();
    let people = [address("bob@contoso.example")?, address("ANN@fabrikam.example")?];
    let answer = SmartHasher::new(&settings).hashes("Garden party in summer", &people);
    let lookup = EmailLookup::Smart(SmartQuery { hashes: answer, ..query(&[], &[]) });
    for _ in 0..2 {
        f.crm().prepare_outgoing(&id, &mid("<first@r>")?, false).await?;
        if found_by_the_crm_alone(f, std::slice::from_ref(&lookup)).await? {
            continue;
        }
        assert_eq!(find(f, &lookup).await?, [id]);
    }
    Ok(())
}
