//! One question of DNS: the SRV records of a name (RFC 1035, RFC 2782). No more of it is needed here than fits into one datagram.

use crate::ews::SrvTarget;

/// SRV.
const SRV: u16 = 33;

/// Names within names: a chain of pointers must come to an end.
const MOST_LABELS: usize = 128;

/// What came is no answer to the question.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// It belongs to another question, or is no answer at all; the right one may still come.
    #[error("an answer to another question")]
    Another,
    /// The server cannot tell.
    #[error("the name server cannot tell (code {0})")]
    Failed(u8),
    /// It was cut off, or breaks the rules.
    #[error("an answer that cannot be read")]
    Malformed,
}

/// The question for a name, with this number; `None` where the name cannot be asked for.
#[must_use]
pub fn question(id: u16, name: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(name.len() + 18);
    out.extend_from_slice(&id.to_be_bytes());
    // recursion desired, one question
    out.extend_from_slice(&[0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|n| (1..=63).contains(n))?;
        if !label.is_ascii() {
            return None;
        }
        out.push(length);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out.extend_from_slice(&SRV.to_be_bytes());
    out.extend_from_slice(&[0, 1]);
    // a name has at most 255 octets
    (out.len() <= 12 + 255 + 4).then_some(out)
}

/// The targets in the answer to a question; empty where the name has none.
///
/// # Errors
/// [`NoAnswer`].
pub fn answer(question: &[u8], datagram: &[u8]) -> Result<Vec<SrvTarget>, NoAnswer> {
    let mut reader = Reader { all: datagram, at: 0 };
    let id = reader.u16().ok_or(NoAnswer::Another)?;
    let flags = reader.u16().ok_or(NoAnswer::Another)?;
    let asked = question.get(..2).map(|id| u16::from_be_bytes([id[0], id[1]]));
    if Some(id) != asked || flags & 0x8000 == 0 {
        return Err(NoAnswer::Another);
    }
    let body = |reader: &mut Reader<'_>| {
        let (questions, answers) = (reader.u16()?, reader.u16()?);
        reader.at += 4;
        Some((questions, answers))
    };
    let (questions, answers) = body(&mut reader).ok_or(NoAnswer::Malformed)?;
    // the question comes back as it was asked, but for the case of its letters
    let (from, length) = (12, question.len().saturating_sub(12));
    let echoed = datagram.get(from..from + length);
    if questions != 1 || !echoed.is_some_and(|echo| echo.eq_ignore_ascii_case(&question[from..])) {
        return Err(NoAnswer::Another);
    }
    reader.at = from + length;
    match (flags & 0x000F) as u8 {
        0 => {}
        // no such name
        3 => return Ok(Vec::new()),
        code => return Err(NoAnswer::Failed(code)),
    }
    if flags & 0x0200 != 0 {
        return Err(NoAnswer::Malformed);
    }
    let mut targets = Vec::new();
    for _ in 0..answers {
        targets.extend(reader.record().ok_or(NoAnswer::Malformed)?);
    }
    // a single dot says: decidedly not offered
    targets.retain(|target| !target.host.is_empty());
    Ok(targets)
}

struct Reader<'a> {
    all: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn u16(&mut self) -> Option<u16> {
        let two = self.all.get(self.at..self.at + 2)?;
        self.at += 2;
        Some(u16::from_be_bytes([two[0], two[1]]))
    }

    /// The next record, where it is SRV; `Some(None)` for any other.
    fn record(&mut self) -> Option<Option<SrvTarget>> {
        self.name()?;
        let (kind, class) = (self.u16()?, self.u16()?);
        self.at += 4;
        let length = usize::from(self.u16()?);
        let end = self.at + length;
        if end > self.all.len() {
            return None;
        }
        let target = if kind == SRV && class == 1 {
            let (priority, weight, port) = (self.u16()?, self.u16()?, self.u16()?);
            Some(SrvTarget { priority, weight, port, host: self.name()? })
        } else {
            None
        };
        self.at = end;
        Some(target)
    }

    /// A name with its pointers followed; leaves the reader behind it.
    fn name(&mut self) -> Option<String> {
        let mut labels: Vec<String> = Vec::new();
        let (mut at, mut end) = (self.at, None);
        for _ in 0..MOST_LABELS {
            let length = usize::from(*self.all.get(at)?);
            match length {
                0 => {
                    self.at = end.unwrap_or(at + 1);
                    return Some(labels.join("."));
                }
                1..=63 => {
                    let label = self.all.get(at + 1..at + 1 + length)?;
                    // nothing else is a host's name, and this one ends up in a URL
                    if !label.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
                        return None;
                    }
                    labels.push(String::from_utf8_lossy(label).into_owned());
                    at += 1 + length;
                }
                0xC0.. => {
                    let low = usize::from(*self.all.get(at + 1)?);
                    end.get_or_insert(at + 2);
                    at = (length & 0x3F) << 8 | low;
                }
                _ => return None,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAME: &str = "_autodiscover._tcp.contoso.test";

    /// An answer with these records: kind and data.
    fn reply(question: &[u8], flags: u16, records: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut out = question.to_vec();
        out[2..4].copy_from_slice(&flags.to_be_bytes());
        out[6..8].copy_from_slice(&u16::try_from(records.len()).unwrap().to_be_bytes());
        for (kind, data) in records {
            out.extend_from_slice(&[0xC0, 12]);
            out.extend_from_slice(&kind.to_be_bytes());
            out.extend_from_slice(&[0, 1, 0, 0, 0, 60]);
            out.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
            out.extend_from_slice(data);
        }
        out
    }

    #[test]
    fn records_come_out() {
        let asked = question(0x1234, NAME).unwrap();
        // the second host ends in a pointer to "contoso.test" of the question
        let at = u8::try_from(12 + "_autodiscover._tcp".len() + 1).unwrap();
        let full = [&[0, 10, 0, 5, 1, 0xBB, 4][..], b"mail", &[7], b"contoso", &[4], b"test", &[0]].concat();
        let short = [&[0, 20, 0, 0, 0x20, 0xFB, 6][..], b"backup", &[0xC0, at]].concat();
        let found =
            answer(&asked, &reply(&asked, 0x8180, &[(SRV, full), (5, vec![0]), (SRV, short)])).unwrap();
        let told: Vec<_> = found.iter().map(|t| (t.priority, t.weight, t.port, t.host.as_str())).collect();
        assert_eq!(told, [(10, 5, 443, "mail.contoso.test"), (20, 0, 8443, "backup.contoso.test")]);
    }

    #[test]
    fn what_is_no_answer() {
        let asked = question(7, NAME).unwrap();
        let other = question(8, NAME).unwrap();
        let host = |host: &[u8]| [&[0, 0, 0, 0, 0, 1][..], host].concat();
        for (datagram, due) in [
            (reply(&asked, 0x8180, &[]), Ok(vec![])),
            (reply(&asked, 0x8183, &[]), Ok(vec![])),
            (reply(&asked, 0x8180, &[(SRV, host(&[0]))]), Ok(vec![])),
            (reply(&asked, 0x8182, &[]), Err(NoAnswer::Failed(2))),
            (reply(&asked, 0x8380, &[]), Err(NoAnswer::Malformed)),
            (reply(&other, 0x8180, &[]), Err(NoAnswer::Another)),
            (asked.clone(), Err(NoAnswer::Another)),
            (vec![], Err(NoAnswer::Another)),
            // a pointer to itself, a name that is none, an answer that is cut off
            (
                reply(&asked, 0x8180, &[(SRV, host(&[0xC0, u8::try_from(asked.len()).unwrap() + 18]))]),
                Err(NoAnswer::Malformed),
            ),
            (reply(&asked, 0x8180, &[(SRV, host(b"\x03a/b\x00"))]), Err(NoAnswer::Malformed)),
            (reply(&asked, 0x8180, &[(SRV, host(b"\x3fab"))]), Err(NoAnswer::Malformed)),
        ] {
            assert_eq!(answer(&asked, &datagram), due, "{datagram:?}");
        }
    }

    #[test]
    fn names_that_cannot_be_asked_for() {
        for name in ["", ".", "a..b", &"x".repeat(64), &"x.".repeat(200), "ü.test"] {
            assert_eq!(question(1, name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_datagram_is_safe(tail in prop::collection::vec(any::<u8>(), 0..200)) {
            let asked = question(7, NAME).unwrap();
            let mut datagram = reply(&asked, 0x8180, &[]);
            datagram[7] = 3;
            datagram.extend(tail);
            if let Ok(found) = answer(&asked, &datagram) {
                let plain = |host: &str| host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
                prop_assert!(found.iter().all(|target| !target.host.is_empty() && plain(&target.host)));
            }
        }
    }
}
