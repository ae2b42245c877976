//! `GetStreamingEvents` answers with one envelope after the other, without anything between them.

/// Cuts a stream into envelopes.
#[derive(Debug, Default)]
pub struct Envelopes(Vec<u8>);

/// An envelope with events has some hundred bytes for each.
const LARGEST: usize = 1 << 20;

/// An envelope that has no end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endless;

impl Envelopes {
    /// The next piece of the stream.
    ///
    /// # Errors
    /// [`Endless`].
    pub fn push(&mut self, piece: &[u8]) -> Result<(), Endless> {
        self.0.extend_from_slice(piece);
        if self.0.len() > LARGEST { Err(Endless) } else { Ok(()) }
    }

    /// The next envelope that is complete.
    pub fn next_envelope(&mut self) -> Option<Vec<u8>> {
        let end = end_of_envelope(&self.0)?;
        let rest = self.0.split_off(end);
        Some(std::mem::replace(&mut self.0, rest))
    }
}

/// Where the first `</prefix:Envelope>` ends.
fn end_of_envelope(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(open) = memchr::memmem::find(&bytes[from..], b"</").map(|at| from + at + 2) {
        let close = memchr::memchr(b'>', &bytes[open..]).map(|at| open + at)?;
        let name = bytes[open..close].trim_ascii_end();
        if name.rsplit(|&b| b == b':').next() == Some(b"Envelope") {
            return Some(close + 1);
        }
        from = open;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_after_the_other_in_any_pieces() {
        let stream = b"<?xml?><s:Envelope><a></a></s:Envelope><?xml?><Envelope>b</Envelope ><c>";
        for piece in 1..stream.len() {
            let mut envelopes = Envelopes::default();
            let mut found = Vec::new();
            for piece in stream.chunks(piece) {
                envelopes.push(piece).unwrap();
                found.extend(std::iter::from_fn(|| envelopes.next_envelope()));
            }
            assert_eq!(found.len(), 2);
            assert!(found[0].ends_with(b"</s:Envelope>") && found[1].ends_with(b"</Envelope >"));
        }
        assert_eq!(Envelopes::default().push(&[b'x'; LARGEST + 1]), Err(Endless));
    }
}
