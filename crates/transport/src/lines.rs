//! Line ends, which every mail system of our own has to bring into the form of the wire.

use bytes::Bytes;

/// Every line end as CRLF (RFC 5322 2.3: CR and LF occur only together). A bare CR is a line end too, or it could hide one from
/// the next mail system. Costs nothing but a pass where all is well already.
pub(crate) fn crlf(bytes: &Bytes) -> Bytes {
    if is_crlf(bytes) {
        return bytes.clone();
    }
    let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 32);
    let mut rest = &bytes[..];
    while let Some(at) = rest.iter().position(|b| matches!(b, b'\r' | b'\n')) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(b"\r\n");
        let pair = rest[at..].starts_with(b"\r\n");
        rest = &rest[at + 1 + usize::from(pair)..];
    }
    out.extend_from_slice(rest);
    Bytes::from(out)
}

fn is_crlf(bytes: &[u8]) -> bool {
    let mut previous = 0;
    for &b in bytes {
        if (b == b'\n') != (previous == b'\r') {
            return false;
        }
        previous = b;
    }
    previous != b'\r'
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn line_ends() {
        for (given, due) in [
            ("", ""),
            ("a\r\nb\r\n", "a\r\nb\r\n"),
            ("a\nb", "a\r\nb"),
            ("a\rb\r", "a\r\nb\r\n"),
            ("\n\r\r\n\n", "\r\n\r\n\r\n\r\n"),
        ] {
            assert_eq!(crlf(&Bytes::from(given)), due, "{given:?}");
        }
    }

    proptest! {
        #[test]
        fn idempotent_and_clean(text in "[ab\r\n]{0,40}") {
            let once = crlf(&Bytes::from(text));
            prop_assert!(is_crlf(&once));
            prop_assert_eq!(crlf(&once), once);
        }
    }
}
