//! Sets of UIDs (RFC 9051, `sequence-set`).

use std::fmt;

/// UIDs in ascending order without repetition, written as ranges: `3:7,9`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UidSet(Vec<(u32, u32)>);

impl UidSet {
    /// One message.
    #[must_use]
    pub fn one(uid: u32) -> Self {
        Self(vec![(uid, uid)])
    }

    /// These messages, in any order; neighbours become one range.
    #[must_use]
    pub fn new(mut uids: Vec<u32>) -> Self {
        uids.sort_unstable();
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for uid in uids {
            match ranges.last_mut() {
                Some((_, last)) if uid <= last.saturating_add(1) => *last = uid.max(*last),
                _ => ranges.push((uid, uid)),
            }
        }
        Self(ranges)
    }

    /// Whether there is no message in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads what a server wrote; `None` unless all of it can be read and it holds at most `most` messages. A range may be given from its end
    /// (`9:7`); 0 and `*` name no message.
    #[must_use]
    pub fn parse(text: &[u8], most: usize) -> Option<Vec<u32>> {
        let text = std::str::from_utf8(text).ok()?;
        let mut uids = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (a, b) = part.split_once(':').unwrap_or((part, part));
            let (a, b): (u32, u32) = (a.parse().ok()?, b.parse().ok()?);
            let (low, high) = (a.min(b), a.max(b));
            if low == 0 || u64::from(high - low) >= (most.saturating_sub(uids.len())) as u64 {
                return None;
            }
            uids.extend(low..=high);
        }
        uids.sort_unstable();
        uids.dedup();
        Some(uids)
    }
}

impl fmt::Display for UidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (low, high)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            if low == high {
                write!(f, "{comma}{low}")?;
            } else {
                write!(f, "{comma}{low}:{high}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn written_and_read() {
        for (uids, text) in [
            (vec![], ""),
            (vec![5], "5"),
            (vec![7, 5, 6, 9, 9], "5:7,9"),
            (vec![u32::MAX, u32::MAX - 1, 1], "1,4294967294:4294967295"),
        ] {
            assert_eq!(UidSet::new(uids).to_string(), text);
        }
        for (text, uids) in [
            ("1:3,5", Some(vec![1, 2, 3, 5])),
            ("3:1", Some(vec![1, 2, 3])),
            ("2,2,1:2", Some(vec![1, 2])),
            ("", Some(vec![])),
            ("0", None),
            ("1:*", None),
            ("1:4294967295", None),
            ("4294967296", None),
            ("a", None),
        ] {
            assert_eq!(UidSet::parse(text.as_bytes(), 100), uids, "{text}");
        }
    }

    proptest! {
        #[test]
        fn there_and_back(uids in proptest::collection::btree_set(1u32..500, 0..60)) {
            let uids: Vec<u32> = uids.into_iter().collect();
            let text = UidSet::new(uids.clone()).to_string();
            prop_assert_eq!(UidSet::parse(text.as_bytes(), 1000), Some(uids));
        }
    }
}
