//! The computations of NTLMv2 ([MS-NLMP] 3.3.2, 3.4.4, 3.4.5), on hash functions that are not ours.

use hmac::{Hmac, KeyInit, Mac};
use md4::Md4;
use md5::{Digest, Md5};
use zeroize::Zeroizing;

/// A key of 128 bits, wiped when dropped.
pub(super) type Key = Zeroizing<[u8; 16]>;

/// `NTOWFv2`: what stands for the password; made of the NT hash, the user name in upper case and the domain as it is sent.
pub(super) fn response_key(password: &str, user: &str, domain: &str) -> Key {
    let password = Zeroizing::new(utf16(password));
    let hash = Zeroizing::new(<[u8; 16]>::from(Md4::digest(password.as_slice())));
    Zeroizing::new(hmac_md5(&hash, &[&utf16(&upper_case(user)), &utf16(domain)]))
}

/// The NTLMv2 response of 3.3.2, without and with its end, and the session key that follows from it.
pub(super) struct Proof {
    pub(super) nt_response: Vec<u8>,
    pub(super) session_key: Key,
}

/// Answers the server's challenge; `time` is a FILETIME, `target_info` ends with its end mark.
pub(super) fn prove(
    key: &Key,
    server_challenge: &[u8; 8],
    client_challenge: &[u8; 8],
    time: u64,
    target_info: &[u8],
) -> Proof {
    let mut temp = Vec::with_capacity(32 + target_info.len());
    temp.extend_from_slice(&[1, 1, 0, 0, 0, 0, 0, 0]); // versions of the response, reserved
    temp.extend_from_slice(&time.to_le_bytes());
    temp.extend_from_slice(client_challenge);
    temp.extend_from_slice(&[0; 4]);
    temp.extend_from_slice(target_info);
    temp.extend_from_slice(&[0; 4]);
    let proof = hmac_md5(key, &[server_challenge, &temp]);
    let session_key = Zeroizing::new(hmac_md5(key, &[&proof]));
    let mut nt_response = proof.to_vec();
    nt_response.append(&mut temp);
    Proof { nt_response, session_key }
}

/// The LMv2 response, for servers so old that they send no time.
pub(super) fn lm_response(key: &Key, server_challenge: &[u8; 8], client_challenge: &[u8; 8]) -> Vec<u8> {
    let mut response = hmac_md5(key, &[server_challenge, client_challenge]).to_vec();
    response.extend_from_slice(client_challenge);
    response
}

/// The hash of the channel binding: MD5 over a `gss_channel_bindings_struct` (RFC 2744 3.11) without addresses whose application data
/// is the name of the binding (RFC 5929) and the digest of the certificate.
pub(super) fn binding_hash(server_end_point: &[u8]) -> [u8; 16] {
    const NAME: &[u8] = b"tls-server-end-point:";
    // the digest of a certificate has at most 64 octets
    let length = u32::try_from(NAME.len() + server_end_point.len()).unwrap_or(u32::MAX);
    let mut md5 = Md5::new();
    md5.update([0; 16]); // type and length of the addresses of both sides
    md5.update(length.to_le_bytes());
    md5.update(NAME);
    md5.update(server_end_point);
    md5.finalize().into()
}

/// Who signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

/// The key with which one side signs (3.4.5.2, extended session security).
pub(super) fn signing_key(session_key: &Key, side: Side) -> Key {
    let magic: &[u8] = match side {
        Side::Client => b"session key to client-to-server signing key magic constant\0",
        Side::Server => b"session key to server-to-client signing key magic constant\0",
    };
    let mut md5 = Md5::new();
    md5.update(session_key.as_slice());
    md5.update(magic);
    Zeroizing::new(md5.finalize().into())
}

/// A signature (3.4.4.2, extended session security) without the encryption that only goes with an exchanged key, which we do not ask for.
pub(super) fn sign(key: &Key, sequence: u32, message: &[u8]) -> [u8; 16] {
    let checksum = hmac_md5(key, &[&sequence.to_le_bytes(), message]);
    let mut signature = [0; 16];
    signature[0] = 1; // version
    signature[4..12].copy_from_slice(&checksum[..8]);
    signature[12..].copy_from_slice(&sequence.to_le_bytes());
    signature
}

/// HMAC-MD5 with a key shorter than the block of MD5, which is filled up with zeros (RFC 2104 section 2).
pub(super) fn hmac_md5(key: &[u8; 16], parts: &[&[u8]]) -> [u8; 16] {
    let mut block = Zeroizing::new([0_u8; 64]);
    block[..16].copy_from_slice(key);
    let mut mac = <Hmac<Md5> as KeyInit>::new((&*block).into());
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// UTF-16, little end first.
pub(super) fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// Upper case as Windows makes it: one UTF-16 unit for one. `ß` stays, since `SS` would be two; letters outside ASCII never
/// become ASCII ones (`ı`, `ſ`).
fn upper_case(text: &str) -> String {
    text.chars()
        .map(|c| {
            let mut upper = c.to_uppercase();
            match (upper.next(), upper.next()) {
                (Some(u), None)
                    if c.len_utf16() == 1 && u.len_utf16() == 1 && u.is_ascii() == c.is_ascii() =>
                {
                    u
                }
                _ => c,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use email_router_model::raw::hex;

    /// `Domain` and `Server`, [MS-NLMP] 4.2.4.
    const TARGET_INFO: &[u8] = b"\x02\0\x0c\0D\0o\0m\0a\0i\0n\0\x01\0\x0c\0S\0e\0r\0v\0e\0r\0\0\0\0\0";
    const SERVER: [u8; 8] = [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef];
    const CLIENT: [u8; 8] = [0xaa; 8];

    #[test]
    fn ms_nlmp_4_2_4() {
        let key = response_key("Password", "User", "Domain");
        assert_eq!(hex(&key[..]), "0c868a403bfd7a93a3001ef22ef02e3f", "4.2.4.1.1 NTOWFv2");
        let proof = prove(&key, &SERVER, &CLIENT, 0, TARGET_INFO);
        assert_eq!(
            hex(&proof.session_key[..]),
            "8de40ccadbc14a82f15cb0ad0de95ca3",
            "4.2.4.1.2 session base key"
        );
        assert_eq!(
            hex(&lm_response(&key, &SERVER, &CLIENT)),
            "86c35097ac9cec102554764a57cccc19aaaaaaaaaaaaaaaa",
            "4.2.4.2.1 LMv2 response"
        );
        assert_eq!(
            hex(&proof.nt_response[..16]),
            "68cd0ab851e51c96aabc927bebef6a1c",
            "4.2.4.2.2 NTLMv2 response"
        );
        assert_eq!(
            hex(&proof.nt_response[16..]),
            format!(
                "0101000000000000{}{}00000000{}00000000",
                "00".repeat(8),
                "aa".repeat(8),
                hex(TARGET_INFO)
            ),
            "4.2.4.1.3 temp"
        );
    }

    #[test]
    fn ms_nlmp_4_2_4_4_signing_key() {
        let random = Zeroizing::new([0x55; 16]);
        assert_eq!(hex(&signing_key(&random, Side::Client)[..]), "4788dc861b4782f35d43fd98fe1a2d39");
        assert_ne!(signing_key(&random, Side::Client), signing_key(&random, Side::Server));
    }

    #[test]
    fn a_signature_depends_on_all_that_is_signed() {
        let key = Zeroizing::new([7; 16]);
        let signature = sign(&key, 3, b"text");
        assert_eq!((&signature[..4], &signature[12..]), (&[1, 0, 0, 0][..], &[3, 0, 0, 0][..]));
        for other in
            [sign(&key, 4, b"text"), sign(&key, 3, b"test"), sign(&Zeroizing::new([8; 16]), 3, b"text")]
        {
            assert_ne!(signature[4..12], other[4..12]);
        }
    }

    #[test]
    fn upper_case_keeps_the_length() {
        for (text, expected) in [
            ("user", "USER"),
            ("müller", "MÜLLER"),
            ("straße", "STRAßE"),
            ("ıſi", "ıſI"),
            ("ÿ𐐨ŉ", "Ÿ𐐨ŉ"),
            ("жук", "ЖУК"),
        ] {
            assert_eq!(upper_case(text), expected);
            assert_eq!(upper_case(text).encode_utf16().count(), text.encode_utf16().count());
        }
    }
}
