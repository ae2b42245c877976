//! What servers send to be proven who logs in.

use email_router_auth::ntlm::{Attribute, Challenge};
use email_router_auth::spnego::Answer;
use email_router_auth::{Channel, Credentials, Exchange, Mechanism, Negotiate, Ntlm};
use email_router_model::{ManualClock, SeededEntropy, Timestamp};

fn ntlm_mechanism() -> Ntlm<SeededEntropy, ManualClock> {
    Ntlm::new(SeededEntropy::new(1), ManualClock::new(Timestamp::UNIX_EPOCH))
}

fn begin(mechanism: &dyn Mechanism) -> Option<Box<dyn Exchange>> {
    let channel = Channel::tls("smtp", "mail.example.com", 587, Some(vec![7; 32]));
    mechanism.begin(&Credentials::new("CONTOSO\\alice", "hunter2".into()), &channel).ok()
}

/// A challenge of NTLM: what can be read holds nothing that is not in it, and its answer is well-formed: every field of it lies within it, behind
/// its header, and it repeats each attribute of the server but those that are the client's to say.
pub fn ntlm(data: &[u8]) {
    let challenge = Challenge::parse(data);
    if let Ok(challenge) = &challenge {
        let size: usize = challenge.target_info.iter().map(|a| a.value.len() + 4).sum();
        assert!(size <= data.len());
        assert!(challenge.target_info.iter().all(|a| a.id != Attribute::END));
    }
    let Some(mut exchange) = begin(&ntlm_mechanism()) else { return };
    assert_eq!(exchange.initial().map(|first| first.len()), Some(40));
    let answer = exchange.step(data);
    assert!(exchange.step(data).is_err(), "answers twice");
    let Ok(answer) = answer else { return };
    let Ok(challenge) = challenge else { unreachable!("answers what it cannot read") };
    let field = |at: usize| {
        let number = |at: usize| usize::from(u16::from_le_bytes([answer[at], answer[at + 1]]));
        let offset =
            u32::from_le_bytes([answer[at + 4], answer[at + 5], answer[at + 6], answer[at + 7]]) as usize;
        assert!(offset >= 88, "a field in the header");
        &answer[offset..offset + number(at)]
    };
    let fields: Vec<&[u8]> = [12, 20, 28, 36, 44, 52].into_iter().map(field).collect();
    assert_eq!(fields.iter().map(|f| f.len()).sum::<usize>() + 88, answer.len());
    assert_eq!(fields[0].len(), 24, "the LM response");
    let list = &fields[1][16 + 28..];
    let ours = [Attribute::FLAGS, Attribute::TARGET_NAME, Attribute::CHANNEL_BINDINGS];
    let kept = challenge.target_info.iter().filter(|a| !ours.contains(&a.id));
    let mut expected = Vec::new();
    for attribute in kept {
        expected.extend_from_slice(&attribute.id.to_le_bytes());
        expected.extend_from_slice(&(attribute.value.len() as u16).to_le_bytes());
        expected.extend_from_slice(&attribute.value);
    }
    assert!(list.starts_with(&expected));
}

/// A message of SPNEGO, as the first and as the last of a server: what can be read holds nothing that is not in it, and a login is never taken for
/// complete before the challenge was answered.
pub fn spnego(data: &[u8]) {
    if let Ok(answer) = Answer::parse(data) {
        let parts = [&answer.mechanism, &answer.token, &answer.list_signature];
        assert!(parts.into_iter().flatten().map(Vec::len).sum::<usize>() <= data.len());
    }
    let negotiate = Negotiate::new(ntlm_mechanism());
    let Some(mut exchange) = begin(&negotiate) else { return };
    assert!(exchange.finish(Some(data)).is_err(), "complete before it has begun");
    exchange.initial();
    if exchange.step(data).is_err() {
        return;
    }
    // the server goes on with the same: no challenge of it is an end
    assert!(exchange.step(data).is_err() && exchange.finish(Some(data)).is_err());
}
