//! Which piece of an attachment is next (Microsoft Graph, `attachment: createUploadSession`).

use std::ops::Range;

use serde_json::Value;

use super::Malformed;

/// The piece after `start`: at most `block` bytes, the last one shorter.
#[must_use]
pub fn piece(start: usize, block: usize, total: usize) -> Range<usize> {
    start..start.saturating_add(block.max(1)).min(total)
}

/// `Content-Range` of a piece (RFC 9110 section 14.4).
#[must_use]
pub fn content_range(piece: &Range<usize>, total: usize) -> String {
    format!("bytes {}-{}/{total}", piece.start, piece.end.saturating_sub(1))
}

/// Where to go on: the beginning of the first range of `nextExpectedRanges`. `None` where the answer has no such field, or an empty one: then
/// all that was sent has arrived.
///
/// # Errors
/// [`Malformed`] where a range is no range, or lies beyond the attachment.
pub fn next_expected(session: &Value, total: usize) -> Result<Option<usize>, Malformed> {
    let ranges = session.get("nextExpectedRanges").or_else(|| session.get("NextExpectedRanges"));
    let Some(first) = ranges.and_then(Value::as_array).and_then(|ranges| ranges.first()) else {
        return Ok(None);
    };
    let bad = || Malformed::new("the upload session names a range that is none");
    let range = first.as_str().ok_or_else(bad)?;
    let start = range.split('-').next().unwrap_or("").trim().parse().map_err(|_| bad())?;
    if start >= total { Err(bad()) } else { Ok(Some(start)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn ranges_of_sessions() {
        for (ranges, expected) in [
            (json!(["0-"]), Ok(Some(0))),
            (json!(["327680"]), Ok(Some(327_680))),
            (json!(["100-200", "300-"]), Ok(Some(100))),
            (json!([]), Ok(None)),
            (json!(null), Ok(None)),
            (json!(["x"]), Err(())),
            (json!([5]), Err(())),
            (json!(["1000000-"]), Err(())),
        ] {
            let found = next_expected(&json!({"nextExpectedRanges": ranges}), 1_000_000).map_err(drop);
            assert_eq!(found, expected, "{ranges}");
        }
        assert_eq!(content_range(&piece(0, 10, 25), 25), "bytes 0-9/25");
        assert_eq!(content_range(&piece(20, 10, 25), 25), "bytes 20-24/25");
    }

    proptest! {
        #[test]
        fn pieces_cover_everything_once(total in 1usize..5000, block in 0usize..700) {
            let mut at = 0;
            while at < total {
                let next = piece(at, block, total);
                prop_assert_eq!(next.start, at);
                prop_assert!(next.end > at && next.end <= total);
                at = next.end;
            }
        }
    }
}
