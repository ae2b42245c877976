//! The messages of SPNEGO (RFC 4178 section 4.2).

use super::der::{self, tag};

/// 1.3.6.1.5.5.2: SPNEGO itself.
const SPNEGO: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x02];
/// 1.3.6.1.4.1.311.2.2.10: NTLM ([MS-SPNG] 1.9).
pub(super) const NTLM: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x02, 0x0a];

/// What the server says (`NegTokenResp`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// How far it is.
    pub state: Option<State>,
    /// The object identifier of the mechanism it chose, in DER without tag and length; in its first answer only.
    pub mechanism: Option<Vec<u8>>,
    /// The message of that mechanism.
    pub token: Option<Vec<u8>>,
    /// Its signature under the list of mechanisms.
    pub list_signature: Option<Vec<u8>>,
}

/// `negState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The login worked.
    Completed,
    /// Another message is awaited.
    Incomplete,
    /// The server refuses.
    Rejected,
    /// Another message is awaited, with a signature.
    WantsSignature,
}

impl Answer {
    /// Reads an answer.
    ///
    /// # Errors
    /// What is wrong with it; nothing of it is quoted.
    pub fn parse(message: &[u8]) -> Result<Self, &'static str> {
        let bad = "it is no SPNEGO message";
        let mut fields = der::only(message, tag::context(1))
            .and_then(|inner| der::only(inner, tag::SEQUENCE))
            .ok_or(bad)?;
        let mut answer = Self::default();
        let mut last = None;
        while !fields.is_empty() {
            let (found, contents) = der::read(&mut fields).ok_or(bad)?;
            // each at most once, in this order
            if last.is_some_and(|last| found <= last) {
                return Err(bad);
            }
            last = Some(found);
            let octets = |expected| der::only(contents, expected).map(<[u8]>::to_vec).ok_or(bad);
            match found {
                0xa0 => {
                    answer.state = Some(match der::only(contents, tag::ENUMERATED) {
                        Some([0]) => State::Completed,
                        Some([1]) => State::Incomplete,
                        Some([2]) => State::Rejected,
                        Some([3]) => State::WantsSignature,
                        _ => return Err(bad),
                    });
                }
                0xa1 => answer.mechanism = Some(octets(tag::OBJECT_ID)?),
                0xa2 => answer.token = Some(octets(tag::OCTET_STRING)?),
                0xa3 => answer.list_signature = Some(octets(tag::OCTET_STRING)?),
                _ => return Err(bad),
            }
        }
        Ok(answer)
    }
}

/// The list of mechanisms we offer, which is what the signatures are made over.
pub(super) fn mechanisms() -> Vec<u8> {
    der::element(tag::SEQUENCE, &[&der::element(tag::OBJECT_ID, &[NTLM])])
}

/// Our first message (`NegTokenInit` inside the frame of RFC 2743 section 3.1) with the first message of the mechanism.
pub(super) fn initial(token: &[u8]) -> Vec<u8> {
    let list = der::element(tag::context(0), &[&mechanisms()]);
    let token = der::element(tag::context(2), &[&der::element(tag::OCTET_STRING, &[token])]);
    let init = der::element(tag::context(0), &[&der::element(tag::SEQUENCE, &[&list, &token])]);
    der::element(tag::APPLICATION_0, &[&der::element(tag::OBJECT_ID, &[SPNEGO]), &init])
}

/// Our next message (`NegTokenResp`) with the last one of the mechanism.
pub(super) fn next(token: &[u8], list_signature: Option<&[u8]>) -> Vec<u8> {
    let octets =
        |n, bytes: &[u8]| der::element(tag::context(n), &[&der::element(tag::OCTET_STRING, &[bytes])]);
    let state = der::element(tag::context(0), &[&[tag::ENUMERATED, 1, 1]]);
    let token = octets(2, token);
    let signature = list_signature.map(|signature| octets(3, signature)).unwrap_or_default();
    der::element(tag::context(1), &[&der::element(tag::SEQUENCE, &[&state, &token, &signature])])
}

#[cfg(test)]
mod tests {
    use super::*;
    use email_router_model::raw::hex;
    use proptest::prelude::*;

    #[test]
    fn our_messages() {
        assert_eq!(
            hex(&initial(b"ab")),
            "602206062b0601050502a0183016a00e300c060a2b06010401823702020aa20404026162"
        );
        assert_eq!(hex(&next(b"ab", None)), "a10d300ba0030a0101a20404026162");
        assert_eq!(hex(&next(b"ab", Some(b"c"))), "a1123010a0030a0101a20404026162a303040163");
    }

    #[test]
    fn answers() {
        let full = Answer {
            state: Some(State::Incomplete),
            mechanism: None,
            token: Some(b"ab".to_vec()),
            list_signature: Some(b"c".to_vec()),
        };
        assert_eq!(Answer::parse(&next(b"ab", Some(b"c"))), Ok(full));
        for (bytes, expected) in [
            (&[0xa1, 2, 0x30, 0][..], Answer::default()),
            (
                &[0xa1, 7, 0x30, 5, 0xa0, 3, 0x0a, 1, 0],
                Answer { state: Some(State::Completed), ..Answer::default() },
            ),
            (
                &[0xa1, 7, 0x30, 5, 0xa1, 3, 0x06, 1, 0x2b],
                Answer { mechanism: Some(vec![0x2b]), ..Answer::default() },
            ),
        ] {
            assert_eq!(Answer::parse(bytes), Ok(expected));
        }
    }

    #[test]
    fn malformed() {
        for (what, bytes) in [
            ("nothing", &[][..]),
            ("NTLM alone", b"NTLMSSP\0\x02\0\0\0"),
            ("something behind it", &[0xa1, 2, 0x30, 0, 0]),
            ("an unknown state", &[0xa1, 7, 0x30, 5, 0xa0, 3, 0x0a, 1, 4]),
            ("a state of two octets", &[0xa1, 8, 0x30, 6, 0xa0, 4, 0x0a, 2, 0, 0]),
            ("a field twice", &[0xa1, 12, 0x30, 10, 0xa0, 3, 0x0a, 1, 0, 0xa0, 3, 0x0a, 1, 0]),
            ("fields in the wrong order", &[0xa1, 12, 0x30, 10, 0xa1, 3, 0x06, 1, 0, 0xa0, 3, 0x0a, 1, 0]),
            ("an unknown field", &[0xa1, 7, 0x30, 5, 0xa4, 3, 0x04, 1, 0]),
            ("cut off", &[0xa1, 7, 0x30, 5, 0xa0, 3, 0x0a, 1]),
        ] {
            assert_eq!(Answer::parse(bytes), Err("it is no SPNEGO message"), "{what}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..60), at in 0_usize..20, byte: u8) {
            let _ = Answer::parse(&bytes);
            let mut near = next(&bytes, Some(&bytes));
            near[at % 12] = byte;
            let _ = Answer::parse(&near);
        }
    }
}
