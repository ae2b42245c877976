//! Signed and encrypted mail: what it is called, and the text inside an S/MIME signature (RFC 8551, RFC 3156, RFC 5652).

use std::borrow::Cow;

use super::mime::Part;

/// What protects a message, as it is called in the activity (`subcategory`).
pub(super) const SMIME_SIGNED: &str = "S/MIME signed";
const SMIME_ENCRYPTED: &str = "S/MIME encrypted";
const SMIME_COMPRESSED: &str = "S/MIME compressed";
const SMIME_CERTIFICATES: &str = "S/MIME certificates";
const PGP_SIGNED: &str = "PGP signed";
const PGP_ENCRYPTED: &str = "PGP encrypted";

/// The label of a multipart that protects what is in it; `child` is the type of its second part.
pub(super) fn of_multipart(part: &Part, child: Option<&str>) -> Option<&'static str> {
    let protocol = part.content_type.get("protocol").map(str::to_ascii_lowercase);
    let protocol = protocol.as_deref().or(child).unwrap_or("");
    match part.mime_type.as_str() {
        "multipart/signed" if protocol.contains("pkcs7") => Some(SMIME_SIGNED),
        "multipart/signed" if protocol.contains("pgp") => Some(PGP_SIGNED),
        "multipart/encrypted" if protocol.contains("pgp") || child == Some("application/octet-stream") => {
            Some(PGP_ENCRYPTED)
        }
        _ => None,
    }
}

/// Whether a part is an S/MIME object: by its type, else by the name that such objects have (RFC 8551 3.2.1).
pub(super) fn is_smime(part: &Part) -> bool {
    match part.mime_type.as_str() {
        "application/pkcs7-mime" | "application/x-pkcs7-mime" => true,
        "application/octet-stream" => {
            part.file_name.as_deref().is_some_and(|n| n.to_ascii_lowercase().ends_with(".p7m"))
        }
        _ => false,
    }
}

/// The label of an S/MIME object: what it says it is, else what its bytes say.
pub(super) fn of_smime(part: &Part, content: &[u8]) -> &'static str {
    let kind = part.content_type.get("smime-type").map(str::to_ascii_lowercase);
    match kind.as_deref() {
        Some("signed-data" | "signed-receipt") => SMIME_SIGNED,
        Some("certs-only") => SMIME_CERTIFICATES,
        Some("compressed-data") => SMIME_COMPRESSED,
        Some("enveloped-data" | "authenveloped-data") => SMIME_ENCRYPTED,
        _ => match content_type(content) {
            Some((SIGNED_DATA, _)) => SMIME_SIGNED,
            Some((COMPRESSED_DATA, _)) => SMIME_COMPRESSED,
            _ => SMIME_ENCRYPTED,
        },
    }
}

/// The label of a text with an OpenPGP armour in it (RFC 9580 6.2, 7).
pub(super) fn of_text(text: &str) -> Option<&'static str> {
    let has =
        |header: &str| text.match_indices(header).any(|(at, _)| at == 0 || text.as_bytes()[at - 1] == b'\n');
    if has("-----BEGIN PGP MESSAGE-----") {
        return Some(PGP_ENCRYPTED);
    }
    has("-----BEGIN PGP SIGNED MESSAGE-----").then_some(PGP_SIGNED)
}

/// OIDs of RFC 5652 5.1 and RFC 3274 1.1, in DER.
const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2];
const COMPRESSED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 16, 1, 9];

const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const EXPLICIT_0: u8 = 0xa0;
const CONSTRUCTED: u8 = 0x20;

/// What a signature was made over: the MIME entity inside a SignedData (RFC 5652 5). The signature itself is not looked at. `None`: there is
/// none, or the bytes are something else.
pub(super) fn signed_content(message: &[u8]) -> Option<Cow<'_, [u8]>> {
    let (SIGNED_DATA, data) = content_type(message)? else { return None };
    let (_, data) = element(data, &[SEQUENCE])?.inside();
    let data = element(data, &[INTEGER])?.behind?;
    let data = element(data, &[SET])?.behind?;
    let (_, data) = element(data, &[SEQUENCE])?.inside();
    let data = element(data, &[OID])?.behind?;
    let (_, data) = element(data, &[EXPLICIT_0])?.inside();
    let octets = element(data, &[OCTET_STRING, OCTET_STRING | CONSTRUCTED])?;
    if octets.tag == OCTET_STRING {
        return octets.content.map(Cow::Borrowed);
    }
    // in pieces: BER as streaming writers make it
    let (_, mut rest) = octets.inside();
    let mut joined = Vec::new();
    while let Some(piece) = element(rest, &[OCTET_STRING]) {
        joined.extend_from_slice(piece.content?);
        rest = piece.behind?;
    }
    Some(Cow::Owned(joined))
}

/// The content type of a ContentInfo (RFC 5652 3) and the element with its content.
fn content_type(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_, data) = element(message, &[SEQUENCE])?.inside();
    let kind = element(data, &[OID])?;
    let (_, data) = element(kind.behind?, &[EXPLICIT_0])?.inside();
    Some((kind.content?, data))
}

/// An element in BER (X.690 8.1).
struct Element<'a> {
    tag: u8,
    /// Its content; `None` of one without a length, whose end is not looked for.
    content: Option<&'a [u8]>,
    /// Everything from the beginning of its content.
    open: &'a [u8],
    /// What follows it; `None` as above.
    behind: Option<&'a [u8]>,
}

impl<'a> Element<'a> {
    /// Its tag, and its content, or where it has no length all from its content on.
    fn inside(&self) -> (u8, &'a [u8]) {
        (self.tag, self.content.unwrap_or(self.open))
    }
}

/// The element at the beginning, if it has one of these tags.
fn element<'a>(bytes: &'a [u8], tags: &[u8]) -> Option<Element<'a>> {
    let (&tag, rest) = bytes.split_first()?;
    if !tags.contains(&tag) {
        return None;
    }
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x80 => return Some(Element { tag, content: None, open: rest, behind: None }),
        _ => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let digits = digits.strip_prefix(&[0; 4][..digits.len().saturating_sub(4).min(4)])?;
            if digits.len() > 4 {
                return None;
            }
            let length = digits.iter().fold(0_u64, |n, &b| n << 8 | u64::from(b));
            (usize::try_from(length).ok()?, rest)
        }
    };
    let (content, behind) = rest.split_at_checked(length)?;
    Some(Element { tag, content: Some(content), open: rest, behind: Some(behind) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = content.len();
        let mut out = vec![tag];
        match length {
            0..=0x7f => out.push(length as u8),
            0x80..=0xff => out.extend([0x81, length as u8]),
            _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
        }
        out.extend_from_slice(content);
        out
    }
    fn open(tag: u8, content: &[u8]) -> Vec<u8> {
        [&[tag, 0x80][..], content, &[0, 0]].concat()
    }
    fn signed(constructed: fn(u8, &[u8]) -> Vec<u8>, octets: &[u8]) -> Vec<u8> {
        let data_oid = der(OID, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1]);
        let inner = [data_oid, constructed(EXPLICIT_0, octets)].concat();
        let data = [der(INTEGER, &[1]), der(SET, &[]), constructed(SEQUENCE, &inner), der(SET, &[])].concat();
        let info = [der(OID, SIGNED_DATA), constructed(EXPLICIT_0, &constructed(SEQUENCE, &data))].concat();
        constructed(SEQUENCE, &info)
    }

    #[test]
    fn what_was_signed() {
        let text = b"Content-Type: text/plain\r\n\r\nsigned text".repeat(10);
        let found = signed(der, &der(OCTET_STRING, &text));
        assert_eq!(signed_content(&found).as_deref(), Some(&text[..]));
        let pieces = [der(OCTET_STRING, &text[..7]), der(OCTET_STRING, &text[7..])].concat();
        let found = signed(open, &open(OCTET_STRING | CONSTRUCTED, &pieces));
        assert_eq!(signed_content(&found).as_deref(), Some(&text[..]));
        assert_eq!(content_type(&found).map(|c| c.0), Some(SIGNED_DATA));
        for broken in [
            &b""[..],
            b"0",
            b"\x30\x82",
            b"\x30\x84\xff\xff\xff\xff",
            b"garbage",
            &[0x30, 0x88, 0, 0, 0, 0, 0, 0, 0, 0],
        ] {
            assert_eq!(signed_content(broken), None);
        }
    }

    #[test]
    fn armour() {
        assert_eq!(of_text("-----BEGIN PGP MESSAGE-----\r\n"), Some(PGP_ENCRYPTED));
        assert_eq!(of_text("hi\r\n-----BEGIN PGP SIGNED MESSAGE-----\r\n"), Some(PGP_SIGNED));
        assert_eq!(of_text("> -----BEGIN PGP MESSAGE-----"), None);
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..100), cut in any::<proptest::sample::Index>()) {
            let _ = signed_content(&bytes);
            let whole = signed(der, &der(OCTET_STRING, b"text"));
            let _ = signed_content(&whole[..cut.index(whole.len())]);
        }
    }
}
