//! References that nobody else can make: ids in outgoing mail that are signed with a key of this router.
//!
//! An answer names the e-mail it answers by Message-ID. That fails where a provider gives our mail another Message-ID on its way out
//! (Amazon SES, Mailjet), and it believes whoever writes an id into his mail. So outgoing mail carries, under one signature
//! ([`ReferenceSigner`], HMAC-SHA-256 over organization and activity, truncated to 96 bits):
//!
//! - its Message-ID, `<ACTIVITY.TAG@domain>`;
//! - a second id at the end of References, `<ref.ACTIVITY.TAG@domain>`, which answers repeat (RFC 5322 3.6.4) whatever became of the
//!   Message-ID;
//! - the field [`REFERENCE_HEADER`], by which mail of ours that comes back is recognised.
//!
//! A tag begins with 32 bits that name key and organization, so an id that another router made, or this one under a former key, is
//! told apart from one that was tampered with: the first two are ordinary ids, the last is forged.

use email_router_model::raw::hex;
use email_router_model::{ActivityId, MessageId, OrganizationId, Secret};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::error::{Error, Result};
use crate::message::Message;

/// The field that says which e-mail a message of ours is, and what its Message-ID was.
pub const REFERENCE_HEADER: &str = "X-Email-Router-Reference";

/// Before the activity in an id that is only a reference.
const REFERENCE_MARK: &str = "ref.";
/// Octets of a tag that name the key.
const KEY_ID: usize = 4;
/// Octets of a tag that sign (RFC 2104 5: at least half of the hash is advised, 80 bits are the least; an attacker has no way to try
/// more than one at a time).
const SIGNATURE: usize = 12;
/// At most so many of our fields in one message are looked at.
const MAX_FIELDS: usize = 4;
/// The longest Message-ID that the field carries: with it a line has less than 998 octets (RFC 5322 2.1.1).
const MAX_ID_OCTETS: usize = 850;

/// Makes and checks signed references. Cloning shares nothing secret with anybody: the key is not printed, not serialized, and
/// wiped from memory when dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceSigner {
    key: Secret,
}

/// What an id of In-Reply-To or References is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reference {
    /// An id like any other: nothing is known of it.
    Plain,
    /// Made by this router for this e-mail of the organization.
    Signed(ActivityId),
    /// It names our key and this e-mail, and the signature is wrong.
    Forged(ActivityId),
}

/// A message that this router sent and that came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnMail {
    /// The e-mail it is.
    pub activity_id: ActivityId,
    /// The Message-ID it was sent with, whatever it has now.
    pub message_id: MessageId,
}

impl ReferenceSigner {
    /// The least length of a key.
    pub const MIN_KEY: usize = 32;

    /// A signer with this key: random text, the same for all routers of an organization.
    ///
    /// # Errors
    /// When it has less than [`Self::MIN_KEY`] octets.
    pub fn new(key: Secret) -> Result<Self> {
        if key.expose().len() < Self::MIN_KEY {
            return Err(Error::message(format!(
                "the key of references is too short; it needs {} characters",
                Self::MIN_KEY
            )));
        }
        Ok(Self { key })
    }

    /// The Message-ID of an outgoing e-mail: `<ACTIVITY.TAG@domain>`.
    ///
    /// # Errors
    /// Never with a domain that is a host name.
    pub fn message_id(
        &self,
        organization: &OrganizationId,
        activity: &ActivityId,
        domain: &str,
    ) -> Result<MessageId> {
        let tag = self.tag("id", organization, activity, "");
        id(&format!("{activity}.{tag}@{domain}"))
    }

    /// The id that stands for it in References: `<ref.ACTIVITY.TAG@domain>`.
    ///
    /// # Errors
    /// As for [`Self::message_id`].
    pub fn reference(
        &self,
        organization: &OrganizationId,
        activity: &ActivityId,
        domain: &str,
    ) -> Result<MessageId> {
        let tag = self.tag("id", organization, activity, "");
        id(&format!("{REFERENCE_MARK}{activity}.{tag}@{domain}"))
    }

    /// The value of [`REFERENCE_HEADER`]; `None` for a Message-ID that cannot be written on a line.
    #[must_use]
    pub fn header_value(
        &self,
        organization: &OrganizationId,
        activity: &ActivityId,
        message_id: &MessageId,
    ) -> Option<String> {
        let text = message_id.as_str();
        let writable = text.len() <= MAX_ID_OCTETS && text.bytes().all(|b| b.is_ascii_graphic());
        writable.then(|| format!("{activity}.{} {text}", self.tag("own mail", organization, activity, text)))
    }

    /// What an id is. Letter case of activity and tag does not count; the domain does not either, since some programs change it.
    #[must_use]
    pub fn judge(&self, organization: &OrganizationId, id: &MessageId) -> Reference {
        let Some((local, _)) = id.bare().split_once('@') else { return Reference::Plain };
        let local = match local.get(..REFERENCE_MARK.len()) {
            Some(mark) if mark.eq_ignore_ascii_case(REFERENCE_MARK) => &local[REFERENCE_MARK.len()..],
            _ => local,
        };
        self.open("id", organization, local, "")
    }

    /// Whether a message is mail of ours, by its Message-ID or the field it was sent with. A field that does not verify is ignored:
    /// it may be that of another router.
    #[must_use]
    pub fn own_mail(&self, organization: &OrganizationId, message: &Message) -> Option<OwnMail> {
        if let Some(message_id) = &message.message_id
            && let Reference::Signed(activity_id) = self.judge(organization, message_id)
        {
            return Some(OwnMail { activity_id, message_id: message_id.clone() });
        }
        message.headers().all(REFERENCE_HEADER).take(MAX_FIELDS).find_map(|value| {
            let (reference, message_id) = value.split_once(' ')?;
            let message_id = MessageId::parse(message_id)?;
            match self.open("own mail", organization, reference, message_id.as_str()) {
                Reference::Signed(activity_id) => Some(OwnMail { activity_id, message_id }),
                Reference::Plain | Reference::Forged(_) => None,
            }
        })
    }

    /// `ACTIVITY.TAG`, read and checked.
    fn open(&self, what: &str, organization: &OrganizationId, text: &str, more: &str) -> Reference {
        let read = || {
            let (activity, tag) = text.split_once('.')?;
            // 36 characters: the form with hyphens, the only one we write
            let activity: ActivityId = (activity.len() == 36).then(|| activity.parse().ok()).flatten()?;
            let tag: [u8; KEY_ID + SIGNATURE] = unhex(tag)?;
            Some((activity, tag))
        };
        let Some((activity, tag)) = read() else { return Reference::Plain };
        let (key_id, signature) = tag.split_at(KEY_ID);
        if key_id != &self.key_id(organization)[..KEY_ID] {
            return Reference::Plain;
        }
        let parts = parts(what, organization, &activity, more);
        // compares in constant time
        match self.mac(&parts).map(|mac| mac.verify_truncated_left(signature)) {
            Some(Ok(())) => Reference::Signed(activity),
            _ => Reference::Forged(activity),
        }
    }

    fn tag(&self, what: &str, organization: &OrganizationId, activity: &ActivityId, more: &str) -> String {
        let signature = self.sign(&parts(what, organization, activity, more));
        hex(&[&self.key_id(organization)[..KEY_ID], &signature[..SIGNATURE]].concat())
    }

    fn key_id(&self, organization: &OrganizationId) -> [u8; 32] {
        self.sign(&[b"key", organization.as_uuid().as_bytes()])
    }

    fn sign(&self, parts: &[&[u8]]) -> [u8; 32] {
        self.mac(parts).map(|mac| mac.finalize().into_bytes().into()).unwrap_or_default()
    }

    /// The MAC over these parts, each with its length before it. `None` never happens: HMAC takes a key of any length.
    fn mac(&self, parts: &[&[u8]]) -> Option<Hmac<Sha256>> {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(self.key.expose().as_bytes()).ok()?;
        mac.update(b"email-router reference 1");
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        Some(mac)
    }
}

/// What is signed.
fn parts<'a>(
    what: &'a str,
    organization: &'a OrganizationId,
    activity: &'a ActivityId,
    more: &'a str,
) -> [&'a [u8]; 4] {
    [what.as_bytes(), organization.as_uuid().as_bytes(), activity.as_uuid().as_bytes(), more.as_bytes()]
}

fn id(text: &str) -> Result<MessageId> {
    MessageId::parse(text).ok_or_else(|| Error::message(format!("{text:?} is no Message-ID")))
}

/// Exactly `N` octets as hexadecimal digits.
fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut octets = [0; N];
    for (octet, pair) in octets.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
        *octet = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(octets)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::ParseCaps;

    fn signer(key: &str) -> ReferenceSigner {
        ReferenceSigner::new(Secret::from(key.repeat(32))).unwrap()
    }
    fn organization(name: &str) -> OrganizationId {
        OrganizationId::from_url(name)
    }
    fn activity() -> ActivityId {
        "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap()
    }

    #[test]
    fn made_and_recognised() {
        let (ours, org) = (signer("a"), organization("https://one.example/"));
        let id = ours.message_id(&org, &activity(), "router.example").unwrap();
        // the form is a promise: mail that is out there has it (computed with Python's hmac)
        assert_eq!(
            id.as_str(),
            "<0f8fad5b-d9cb-469f-a165-70867728950e.d9b3d2b1ecad99e69392404566c0accf@router.example>"
        );
        let reference = ours.reference(&org, &activity(), "router.example").unwrap();
        assert_eq!(reference.bare(), format!("ref.{}", id.bare()));
        for text in [
            id.as_str().to_owned(),
            id.as_str().to_uppercase(),
            reference.as_str().to_owned(),
            reference.as_str().to_uppercase(),
            id.as_str().replace("router.example", "elsewhere.example"),
        ] {
            let id = MessageId::parse(&text).unwrap();
            assert_eq!(ours.judge(&org, &id), Reference::Signed(activity()), "{text}");
            // another router, another organization of this router
            assert_eq!(signer("b").judge(&org, &id), Reference::Plain, "{text}");
            assert_eq!(ours.judge(&organization("https://two.example/"), &id), Reference::Plain, "{text}");
        }
        for plain in [
            "<0f8fad5b-d9cb-469f-a165-70867728950e@router.example>",
            "<0f8fad5bd9cb469fa16570867728950e.d9b3d2b1ecad99e69392404566c0accf@router.example>",
            "<x.d9b3d2b1ecad99e69392404566c0accf@router.example>",
            "<0f8fad5b-d9cb-469f-a165-70867728950e.1a0c@router.example>",
            "<a@b>",
            "<ab>",
            "<é@b>",
        ] {
            assert_eq!(ours.judge(&org, &MessageId::parse(plain).unwrap()), Reference::Plain, "{plain}");
        }
    }

    #[test]
    fn own_mail_comes_back_under_any_name() {
        let (ours, org) = (signer("a"), organization("https://one.example/"));
        let sent = ours.message_id(&org, &activity(), "router.example").unwrap();
        let own = OwnMail { activity_id: activity(), message_id: sent.clone() };
        let read = |header: String| {
            let read =
                |header: &[u8]| ours.own_mail(&org, &Message::from_headers(header, &ParseCaps::default()));
            let found = read(header.as_bytes());
            // what is kept of a long header section must be recognised the same
            assert_eq!(read(&crate::kept::read_by_decisions(header.as_bytes())), found, "{header}");
            found
        };
        let value = ours.header_value(&org, &activity(), &sent).unwrap();
        assert_eq!(read(format!("Message-ID: {sent}")).as_ref(), Some(&own));
        assert_eq!(
            read(format!("Message-ID: <new@ses.example>\r\n{REFERENCE_HEADER}: {value}")).as_ref(),
            Some(&own)
        );
        let folded = value.replace(' ', "\r\n ");
        assert_eq!(
            read(format!("{REFERENCE_HEADER}: x y\r\nx-email-router-reference: {folded}")).as_ref(),
            Some(&own)
        );
        // the Message-ID is signed with the rest; a reference is no Message-ID of an e-mail
        for bad in [
            value.replace("router.example", "other.example"),
            value.replace("0f8fad5b", "0f8fad5c"),
            format!("{} {sent}", sent.bare().split('@').next().unwrap()),
            String::new(),
        ] {
            assert_eq!(read(format!("{REFERENCE_HEADER}: {bad}")), None, "{bad}");
        }
        let long = MessageId::parse(&"x".repeat(900)).unwrap();
        assert_eq!(ours.header_value(&org, &activity(), &long), None);
    }

    #[test]
    fn the_key_is_long_and_never_shown() {
        assert!(ReferenceSigner::new(Secret::from("short")).is_err());
        let text = format!("{:?}", signer("kk"));
        assert!(!text.contains("kk") && text.contains("***"), "{text}");
    }

    proptest! {
        #[test]
        fn one_changed_digit_is_forged(at in 0_usize..24, digit in 0_usize..16, n in any::<u128>()) {
            let (ours, org) = (signer("a"), organization("https://one.example/"));
            let activity = ActivityId::from_uuid(Uuid::from_u128(n));
            let id = ours.message_id(&org, &activity, "x.example").unwrap();
            let mut text = id.as_str().as_bytes().to_vec();
            let place = "<".len() + 36 + ".".len() + 2 * KEY_ID + at;
            let new = b"0123456789abcdef"[digit];
            let expected = if text[place] == new { Reference::Signed(activity) } else { Reference::Forged(activity) };
            text[place] = new;
            let id = MessageId::parse(std::str::from_utf8(&text).unwrap()).unwrap();
            prop_assert_eq!(ours.judge(&org, &id), expected);
        }
        #[test]
        fn any_id(text in any::<String>()) {
            if let Some(id) = MessageId::parse(&text) {
                prop_assert_eq!(signer("a").judge(&organization("x"), &id), Reference::Plain);
            }
        }
    }
}
