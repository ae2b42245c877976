//! The few forms of DER (X.690) that SPNEGO consists of.

/// Tags of what SPNEGO is made of.
pub(super) mod tag {
    pub(in crate::spnego) const OCTET_STRING: u8 = 0x04;
    pub(in crate::spnego) const OBJECT_ID: u8 = 0x06;
    pub(in crate::spnego) const ENUMERATED: u8 = 0x0a;
    pub(in crate::spnego) const SEQUENCE: u8 = 0x30;
    pub(in crate::spnego) const APPLICATION_0: u8 = 0x60;

    /// `[n] EXPLICIT`.
    pub(in crate::spnego) const fn context(n: u8) -> u8 {
        0xa0 | n
    }
}

/// One element: its tag and its contents. `rest` begins behind it afterwards.
pub(super) fn read<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&[tag, first], mut after) = rest.split_first_chunk::<2>()?;
    // high tag numbers do not occur
    if tag & 0x1f == 0x1f {
        return None;
    }
    let length = match first {
        0..=0x7f => usize::from(first),
        // 0x80 is the indefinite form, which DER forbids; four octets of length are more than any message has
        0x81..=0x84 => {
            let (octets, behind) = after.split_at_checked(usize::from(first & 0x7f))?;
            after = behind;
            octets.iter().fold(0, |length, octet| length << 8 | usize::from(*octet))
        }
        _ => return None,
    };
    let (contents, behind) = after.split_at_checked(length)?;
    *rest = behind;
    Some((tag, contents))
}

/// The contents of an element of this tag; `None` where another one is next.
pub(super) fn expect<'a>(rest: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    read(rest).filter(|(found, _)| *found == tag).map(|(_, contents)| contents)
}

/// The contents of an element that is all there is.
pub(super) fn only(mut all: &[u8], tag: u8) -> Option<&[u8]> {
    expect(&mut all, tag).filter(|_| all.is_empty())
}

/// An element of these parts.
pub(super) fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(length + 6);
    out.push(tag);
    match u8::try_from(length) {
        Ok(short @ 0..=0x7f) => out.push(short),
        _ => {
            let octets = length.to_be_bytes();
            let zeros = octets.iter().take_while(|o| **o == 0).count();
            // at most eight
            out.push(0x80 | u8::try_from(octets.len() - zeros).unwrap_or(8));
            out.extend_from_slice(&octets[zeros..]);
        }
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths() {
        for (length, head) in [
            (0_usize, &[4, 0][..]),
            (127, &[4, 127]),
            (128, &[4, 0x81, 128]),
            (255, &[4, 0x81, 255]),
            (256, &[4, 0x82, 1, 0]),
            (70_000, &[4, 0x83, 1, 0x11, 0x70]),
        ] {
            let contents = vec![7; length];
            let out = element(4, &[&contents]);
            assert!(out.starts_with(head), "{length}");
            assert_eq!(only(&out, 4), Some(&contents[..]));
        }
    }

    #[test]
    fn malformed() {
        for bytes in [
            &[][..],
            &[4],
            &[4, 1],
            &[4, 0x80, 0, 0],
            &[4, 0x85, 0, 0, 0, 0, 1, 7],
            &[0x1f, 0x81, 1, 0],
            &[4, 0x84, 255, 255, 255, 255],
        ] {
            assert_eq!(read(&mut &*bytes), None, "{bytes:02x?}");
        }
        assert_eq!(only(&[4, 0, 4, 0], 4), None, "something behind it");
        assert_eq!(only(&[6, 0], 4), None, "another tag");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..4)) {
            let slices: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            let written = element(tag::SEQUENCE, &slices);
            prop_assert_eq!(only(&written, tag::SEQUENCE), Some(&parts.concat()[..]));
        }
    }
}
