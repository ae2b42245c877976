//! One NTLM exchange: from the challenge to the answer and the keys that follow from it.

use email_router_model::{Secret, Timestamp};
use zeroize::Zeroizing;

use super::crypto::{self, Key, Side};
use super::{Attribute, Challenge, SIGNATURE, flags};
use crate::{AuthError, Channel, Response};

/// What we ask for.
const OFFER: u32 = flags::UNICODE
    | flags::REQUEST_TARGET
    | flags::SIGN
    | flags::NTLM
    | flags::ALWAYS_SIGN
    | flags::EXTENDED_SESSION_SECURITY
    | flags::VERSION
    | flags::KEY_128
    | flags::KEY_56;

/// The version field: Windows 10 without a build, revision 15 of NTLM. Servers only log it, but some refuse messages without it.
const VERSION: [u8; 8] = [10, 0, 0, 0, 0, 0, 0, 15];

/// NEGOTIATE_MESSAGE (2.2.1.1): 40 octets, with version, without domain and workstation.
const NEGOTIATE: [u8; 40] = negotiate();

/// Where the checksum lies in AUTHENTICATE_MESSAGE, and where its payload begins (2.2.1.3).
const MIC: usize = 72;
const PAYLOAD: usize = 88;

/// `MsvAvFlags`: the message has a checksum.
const HAS_MIC: u32 = 2;

const fn negotiate() -> [u8; 40] {
    let mut message = [0; 40];
    let (mut n, signature, offer) = (0, *b"NTLMSSP\0\x01\0\0\0", OFFER.to_le_bytes());
    while n < signature.len() {
        message[n] = signature[n];
        n += 1;
    }
    n = 0;
    while n < 4 {
        message[12 + n] = offer[n];
        n += 1;
    }
    // both fields for names are empty; they point to where the payload would begin
    (message[20], message[28]) = (40, 40);
    n = 0;
    while n < 8 {
        message[32 + n] = VERSION[n];
        n += 1;
    }
    message
}

/// An exchange under way.
pub(crate) struct Context {
    mechanism: &'static str,
    user: String,
    domain: String,
    /// `None` as soon as it has been used.
    key: Option<Key>,
    binding: [u8; 16],
    target: String,
    client_challenge: [u8; 8],
    /// FILETIME, for servers that do not tell theirs.
    now: u64,
    session_key: Option<Key>,
}

impl Context {
    /// # Errors
    /// [`AuthError::Unrepresentable`] for an empty user name (that would be anonymous) and for NUL.
    pub(super) fn new(
        mechanism: &'static str,
        name: &str,
        password: &Secret,
        channel: &Channel,
        client_challenge: [u8; 8],
        now: Timestamp,
    ) -> Result<Self, AuthError> {
        // DOMAIN\user; a name with @ goes as it is, with no domain, and the server looks it up
        let (domain, user) = name.split_once('\\').unwrap_or(("", name));
        let bad = |what, character| Err(AuthError::Unrepresentable { mechanism, what, character });
        if user.is_empty() {
            return bad("user name", "no character at all");
        }
        if name.contains('\0') {
            return bad("user name", "a NUL character");
        }
        // lengths are counted in 16 bits
        if name.len() > MOST_NAME {
            return bad("user name", "more than 1024 octets");
        }
        Ok(Self {
            mechanism,
            user: user.to_owned(),
            domain: domain.to_owned(),
            key: Some(crypto::response_key(password.expose(), user, domain)),
            binding: channel.server_end_point.as_deref().map_or([0; 16], crypto::binding_hash),
            target: format!(
                "{}/{}",
                channel.service,
                channel.host.chars().take(MOST_NAME).collect::<String>()
            ),
            client_challenge,
            now: file_time(now),
            session_key: None,
        })
    }

    /// The first message.
    pub(crate) fn negotiate(&self) -> [u8; 40] {
        NEGOTIATE
    }

    /// The answer to the challenge; works once.
    pub(crate) fn authenticate(&mut self, message: &[u8]) -> Result<Response, AuthError> {
        let mechanism = self.mechanism;
        let key = self.key.take().ok_or(AuthError::UnexpectedChallenge { mechanism })?;
        let bad = |why| AuthError::BadChallenge { mechanism, why };
        let challenge = Challenge::parse(message).map_err(bad)?;
        if challenge.flags & flags::UNICODE == 0 {
            return Err(bad("it wants names in a character set of the eighties"));
        }
        let target_info = self.target_info(&challenge).ok_or_else(|| bad("its attributes are too long"))?;
        let server_challenge = &challenge.server_challenge;
        let time = challenge.timestamp();
        let proof = crypto::prove(
            &key,
            server_challenge,
            &self.client_challenge,
            time.unwrap_or(self.now),
            &target_info,
        );
        // a server that tells its time reads no LM response (3.1.5.1.2)
        let lm_response = match time {
            Some(_) => vec![0; 24],
            None => crypto::lm_response(&key, server_challenge, &self.client_challenge),
        };
        let agreed = challenge.flags & (OFFER | flags::TARGET_INFO);
        let mut answer =
            self.encode(agreed, &lm_response, &proof.nt_response).ok_or_else(|| bad("it is too long"))?;
        let mic = crypto::hmac_md5(&proof.session_key, &[&NEGOTIATE, message, &answer]);
        answer[MIC..PAYLOAD].copy_from_slice(&mic);
        // without extended session security there are no signing keys of this kind
        if agreed & flags::EXTENDED_SESSION_SECURITY != 0 {
            self.session_key = Some(proof.session_key);
        }
        Ok(answer)
    }

    /// What the server sent, with what we know about checksum, channel and service. Something of that kind from the server is left out: it is
    /// ours to say.
    fn target_info(&self, challenge: &Challenge) -> Option<Vec<u8>> {
        let ours = [Attribute::FLAGS, Attribute::CHANNEL_BINDINGS, Attribute::TARGET_NAME];
        let mut list = Vec::new();
        for attribute in challenge.target_info.iter().filter(|a| !ours.contains(&a.id)) {
            Attribute::write(attribute.id, &attribute.value, &mut list);
        }
        let attribute_flags = challenge.attribute_flags() | HAS_MIC;
        Attribute::write(Attribute::FLAGS, &attribute_flags.to_le_bytes(), &mut list);
        Attribute::write(Attribute::CHANNEL_BINDINGS, &self.binding, &mut list);
        Attribute::write(Attribute::TARGET_NAME, &crypto::utf16(&self.target), &mut list);
        Attribute::write(Attribute::END, &[], &mut list);
        // with what stands around it, it must still be countable in 16 bits
        (list.len() < usize::from(u16::MAX) - 64).then_some(list)
    }

    /// AUTHENTICATE_MESSAGE with room for the checksum; `None` where a part is longer than can be told.
    fn encode(&self, agreed: u32, lm_response: &[u8], nt_response: &[u8]) -> Option<Response> {
        let (domain, user) = (crypto::utf16(&self.domain), crypto::utf16(&self.user));
        let mut message = Zeroizing::new(Vec::with_capacity(PAYLOAD + nt_response.len() + 128));
        message.extend_from_slice(SIGNATURE);
        message.extend_from_slice(&3_u32.to_le_bytes());
        let in_the_payload = [&domain, &user, &Vec::new(), lm_response, nt_response, &[]] as [&[u8]; 6];
        let mut offset = PAYLOAD;
        let mut fields = [[0; 8]; 6];
        for (field, part) in fields.iter_mut().zip(in_the_payload) {
            let length = u16::try_from(part.len()).ok()?.to_le_bytes();
            field[..2].copy_from_slice(&length);
            field[2..4].copy_from_slice(&length);
            field[4..].copy_from_slice(&u32::try_from(offset).ok()?.to_le_bytes());
            offset += part.len();
        }
        let [domain, user, workstation, lm, nt, session_key] = fields;
        for field in [lm, nt, domain, user, workstation, session_key] {
            message.extend_from_slice(&field);
        }
        message.extend_from_slice(&agreed.to_le_bytes());
        message.extend_from_slice(if agreed & flags::VERSION == 0 { &[0; 8] } else { &VERSION });
        message.extend_from_slice(&[0; PAYLOAD - MIC]);
        for part in in_the_payload {
            message.extend_from_slice(part);
        }
        Some(message)
    }

    /// Whether the challenge has been answered.
    pub(crate) fn is_complete(&self) -> bool {
        self.key.is_none()
    }

    /// Our signature under this, as our first signed message; `None` before the end, or where both sides have no way to sign.
    pub(crate) fn sign(&self, message: &[u8]) -> Option<[u8; 16]> {
        let session_key = self.session_key.as_ref()?;
        Some(crypto::sign(&crypto::signing_key(session_key, Side::Client), 0, message))
    }

    /// Whether this is the server's signature under its first signed message.
    pub(crate) fn is_signed_by_server(&self, message: &[u8], signature: &[u8]) -> bool {
        let Some(session_key) = &self.session_key else { return false };
        let expected = crypto::sign(&crypto::signing_key(session_key, Side::Server), 0, message);
        signature.len() == expected.len()
            && signature.iter().zip(expected).fold(0, |different, (a, b)| different | (a ^ b)) == 0
    }
}

/// The longest user name (octets) and host name (characters): far beyond what Windows allows, and short enough for every length field.
const MOST_NAME: usize = 1024;

/// Tenths of microseconds since 1601.
fn file_time(time: Timestamp) -> u64 {
    const UNIX_EPOCH: i64 = 11_644_473_600_000; // in milliseconds
    u64::try_from(time.as_millisecond().saturating_add(UNIX_EPOCH)).unwrap_or(0).saturating_mul(10_000)
}

#[cfg(test)]
mod tests {
    use super::super::challenge::tests::{sample, with_attributes};
    use super::*;
    use email_router_model::raw::hex;

    fn channel() -> Channel {
        Channel::tls("HTTP", "mail.example.com", 443, Some(vec![0x5a; 32]))
    }

    fn context(name: &str, channel: &Channel) -> Context {
        let epoch = Timestamp::UNIX_EPOCH;
        Context::new("NTLM", name, &"Password".into(), channel, [0xaa; 8], epoch).unwrap()
    }

    /// What a field of AUTHENTICATE points to.
    fn field(message: &[u8], at: usize) -> &[u8] {
        let number = |at: usize| usize::from(u16::from_le_bytes([message[at], message[at + 1]]));
        assert_eq!(number(at), number(at + 2));
        &message[number(at + 4)..number(at + 4) + number(at)]
    }

    /// The attributes inside an NTLMv2 response.
    fn attributes(message: &[u8]) -> Vec<(u16, Vec<u8>)> {
        let mut list = &field(message, 20)[16 + 28..];
        let mut found = Vec::new();
        loop {
            let (id, length) = (u16::from_le_bytes([list[0], list[1]]), usize::from(list[2]));
            if id == 0 {
                assert_eq!(list.len(), 8, "end mark and four zeros");
                return found;
            }
            found.push((id, list[4..4 + length].to_vec()));
            list = &list[4 + length..];
        }
    }

    /// Byte by byte, against the layout of 2.2.1.1 and 2.2.2.10.
    #[test]
    fn the_first_message_has_forty_octets() {
        assert_eq!(
            hex(&NEGOTIATE),
            "4e544c4d5353500001000000158208a2000000002800000000000000280000000a0000000000000f"
        );
    }

    #[test]
    fn the_answer() {
        let mut context = context("Domain\\User", &channel());
        assert!(!context.is_complete() && context.sign(b"x").is_none());
        let answer = context.authenticate(&sample()).unwrap();
        assert!(answer.starts_with(b"NTLMSSP\0\x03\0\0\0"));
        assert_eq!(field(&answer, 28), crypto::utf16("Domain"));
        assert_eq!(field(&answer, 36), crypto::utf16("User"));
        assert_eq!((field(&answer, 44), field(&answer, 52)), (&[][..], &[][..]), "workstation, session key");
        // the server of 4.2.4 tells no time, so there is an LMv2 response, as published
        assert_eq!(hex(field(&answer, 12)), "86c35097ac9cec102554764a57cccc19aaaaaaaaaaaaaaaa");
        assert_eq!(answer[60..64], (0xe28a_8233 & (OFFER | flags::TARGET_INFO)).to_le_bytes());
        assert_eq!(answer[64..72], VERSION);
        let binding = crypto::binding_hash(&[0x5a; 32]).to_vec();
        let target = crypto::utf16("HTTP/mail.example.com");
        let expected = [
            (2, crypto::utf16("Domain")),
            (1, crypto::utf16("Server")),
            (6, vec![2, 0, 0, 0]),
            (10, binding),
            (9, target),
        ];
        assert_eq!(attributes(&answer), expected);

        // the checksum: over all three messages, the third with zeros in its place
        let key = crypto::response_key("Password", "User", "Domain");
        let nt = field(&answer, 20);
        let session_key = crypto::hmac_md5(&key, &[&nt[..16]]);
        assert_eq!(nt[..16], crypto::hmac_md5(&key, &[&sample()[24..32], &nt[16..]]));
        let mut blank = answer.to_vec();
        blank[MIC..PAYLOAD].fill(0);
        assert_eq!(answer[MIC..PAYLOAD], crypto::hmac_md5(&session_key, &[&NEGOTIATE, &sample(), &blank]));
        assert!(context.is_complete() && context.sign(b"x").is_some());
        assert!(context.authenticate(&sample()).is_err(), "works once");
    }

    #[test]
    fn a_server_that_tells_its_time_gets_it_back_and_no_lm_response() {
        let attributes_sent: [(u16, &[u8]); 5] = [
            (7, b"\x01\x02\x03\x04\x05\x06\x07\x08"),
            (6, b"\x01\0\0\0"),
            (9, b"x\0"),
            (10, &[7; 16]),
            (2, b"D\0"),
        ];
        let answer = context("user@example.com", &channel())
            .authenticate(&with_attributes(!0, &attributes_sent))
            .unwrap();
        assert_eq!(field(&answer, 12), [0; 24]);
        assert_eq!(&field(&answer, 20)[24..32], b"\x01\x02\x03\x04\x05\x06\x07\x08");
        assert_eq!(
            (field(&answer, 28), field(&answer, 36)),
            (&[][..], &crypto::utf16("user@example.com")[..])
        );
        let found = attributes(&answer);
        assert_eq!(found[0], (7, b"\x01\x02\x03\x04\x05\x06\x07\x08".to_vec()));
        assert_eq!(found[2], (6, vec![3, 0, 0, 0]), "the server's flags stay, ours is added");
        for id in [6, 9, 10] {
            assert_eq!(found.iter().filter(|(other, _)| *other == id).count(), 1, "{id}");
        }
        assert_ne!(found[3].1, [7; 16], "a binding out of the challenge counts for nothing");
    }

    #[test]
    fn without_tls_the_binding_is_zero() {
        let clear = Channel::clear("pop", "mail.example.com", 110, false);
        let answer = context("user", &clear).authenticate(&sample()).unwrap();
        assert!(attributes(&answer).contains(&(10, vec![0; 16])));
        assert!(attributes(&answer).contains(&(9, crypto::utf16("pop/mail.example.com"))));
    }

    #[test]
    fn challenges_that_cannot_be_answered() {
        for (message, why) in [
            (with_attributes(!flags::UNICODE, &[]), "it wants names in a character set of the eighties"),
            (with_attributes(!0, &[(2, &[b'x'; 65_500])]), "its attributes are too long"),
            (b"ntlm supported".to_vec(), "it is no NTLM message"),
        ] {
            let error = context("user", &channel()).authenticate(&message).unwrap_err();
            assert_eq!(error, AuthError::BadChallenge { mechanism: "NTLM", why });
        }
        // no signing keys without extended session security; the login itself needs none
        let mut plain = context("user", &channel());
        plain.authenticate(&with_attributes(flags::UNICODE | flags::NTLM | flags::TARGET_INFO, &[])).unwrap();
        assert!(plain.sign(b"x").is_none());
    }

    #[test]
    fn file_times() {
        assert_eq!(file_time(Timestamp::UNIX_EPOCH), 116_444_736_000_000_000);
    }
}
