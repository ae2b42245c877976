//! What smart matching compares (`crm-contract.md` 8.4 and 13.4): hashes of the words of a subject and of the addresses of an e-mail.
//!
//! The engine computes them for received messages, a CRM that makes the outgoing e-mails computes them for those; both must come to
//! the same numbers, so the computation is here.

use email_router_model::EmailAddress;

use crate::{OrganizationSettings, SmartHashes};

/// Computes the hashes of one organization's e-mails.
#[derive(Debug, Clone)]
pub struct SmartHasher {
    max: usize,
}

impl SmartHasher {
    /// The hasher for these settings.
    #[must_use]
    pub fn new(settings: &OrganizationSettings) -> Self {
        Self { max: settings.hash_max_count as usize }
    }

    /// The hashes of an e-mail with this subject and these addresses (From, To, Cc, Bcc, in this order).
    #[must_use]
    pub fn hashes<'a>(
        &self,
        subject: &str,
        addresses: impl IntoIterator<Item = &'a EmailAddress>,
    ) -> SmartHashes {
        let words = subject.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty());
        let words = words.map(|w| hash(&w.to_lowercase()));
        SmartHashes {
            words: sorted(words, self.max),
            addresses: sorted(addresses.into_iter().map(|a| hash(&a.key())), self.max),
        }
    }
}

/// The first `max` different ones, sorted.
fn sorted(hashes: impl Iterator<Item = i64>, max: usize) -> Vec<i64> {
    let mut found = Vec::new();
    for hash in hashes {
        if found.len() == max {
            break;
        }
        if !found.contains(&hash) {
            found.push(hash);
        }
    }
    found.sort_unstable();
    found
}

/// FNV-1a, 64 bits: the same on every machine and in every version.
fn hash(text: &str) -> i64 {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash.cast_signed()
}
