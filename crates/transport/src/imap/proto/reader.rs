//! Where an answer ends: lines and literals (RFC 9051 section 4.3), each up to a cap.

use memchr::memchr;

use super::connection::Violation;

/// Stands in [`Raw::text`] for each literal; no line has one.
pub const PLACEHOLDER: u8 = b'\n';

/// The most literals of one answer.
const MOST_LITERALS: usize = 64;

/// So much is set aside for a literal at once, in octets; more only as it arrives.
const FIRST_ROOM: u64 = 1 << 20;

/// A string that a server sent with its size before it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Literal {
    /// The octets; empty when there were more than the cap.
    pub bytes: Vec<u8>,
    /// How many octets there were, whether kept or not.
    pub size: u64,
    /// Whether there were more than the cap.
    pub over_cap: bool,
}

/// One whole answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Raw {
    /// Its lines without line ends, one after the other; each literal is one [`PLACEHOLDER`].
    pub text: Vec<u8>,
    /// The literals in order.
    pub literals: Vec<Literal>,
}

/// How much of an answer is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// Octets of all its lines together.
    pub text: usize,
    /// Octets of its literals; what is beyond is read and dropped.
    pub literal: u64,
    /// Octets announced beyond the cap before the server is taken to be one that never ends.
    pub drained: u64,
}

/// Cuts what a server sends into answers.
///
/// Only the size of a literal is looked at, so that no content can make the next answer be read at a wrong place. Nothing is set aside for what a
/// server merely announces.
#[derive(Debug, Default)]
pub struct Reader {
    raw: Raw,
    filling: Option<Filling>,
}

#[derive(Debug)]
struct Filling {
    left: u64,
    literal: Literal,
}

impl Reader {
    /// Whether a literal is being read.
    #[must_use]
    pub fn in_literal(&self) -> bool {
        self.filling.is_some()
    }

    /// Takes bytes: returns how many were used up, and the answer once it is whole.
    ///
    /// # Errors
    /// [`Violation`] beyond the caps; nothing can be read any more.
    pub fn feed(&mut self, input: &[u8], caps: Caps) -> Result<(usize, Option<Raw>), Violation> {
        let mut used = 0;
        loop {
            if let Some(filling) = &mut self.filling {
                let count = usize::try_from(filling.left).unwrap_or(usize::MAX).min(input.len() - used);
                filling.take(&input[used..used + count]);
                used += count;
                if filling.left > 0 {
                    return Ok((used, None));
                }
                if let Some(full) = self.filling.take() {
                    self.raw.literals.push(full.literal);
                }
            }
            let end = memchr(b'\n', &input[used..]).map(|at| used + at);
            let line = &input[used..end.unwrap_or(input.len())];
            if self.raw.text.len() + line.len() > caps.text {
                return Err(Violation::LineTooLong(caps.text));
            }
            self.raw.text.extend_from_slice(line);
            let Some(end) = end else { return Ok((input.len(), None)) };
            used = end + 1;
            if self.raw.text.last() == Some(&b'\r') {
                self.raw.text.pop();
            }
            match self.announced()? {
                Some(size) => self.begin(size, caps)?,
                None => return Ok((used, Some(std::mem::take(&mut self.raw)))),
            }
        }
    }

    /// The size of the literal announced at the end of the line; its announcement becomes a placeholder.
    fn announced(&mut self) -> Result<Option<u64>, Violation> {
        let text = &self.raw.text;
        if !text.ends_with(b"}") || !may_have_literals(text) {
            return Ok(None);
        }
        let Some(open) = memchr::memrchr(b'{', text) else { return Ok(None) };
        let inner = &text[open + 1..text.len() - 1];
        let digits = inner.strip_suffix(b"+").unwrap_or(inner);
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return Ok(None);
        }
        let size = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
        let Some(size) = size else { return Err(Violation::TooMuch(u64::MAX)) };
        // "~{5}" is a literal that may hold NUL (RFC 3516)
        let start = if text[..open].ends_with(b"~") { open - 1 } else { open };
        self.raw.text.truncate(start);
        self.raw.text.push(PLACEHOLDER);
        Ok(Some(size))
    }

    fn begin(&mut self, size: u64, caps: Caps) -> Result<(), Violation> {
        let kept: u64 = self.raw.literals.iter().map(|literal| literal.bytes.len() as u64).sum();
        let cap = caps.literal.saturating_sub(kept);
        if size > caps.literal.saturating_add(caps.drained) || self.raw.literals.len() >= MOST_LITERALS {
            return Err(Violation::TooMuch(size));
        }
        let over_cap = size > cap;
        let room = if over_cap { 0 } else { size.min(FIRST_ROOM) };
        let bytes = Vec::with_capacity(usize::try_from(room).unwrap_or(0));
        self.filling = Some(Filling { left: size, literal: Literal { bytes, size, over_cap } });
        Ok(())
    }
}

impl Filling {
    fn take(&mut self, bytes: &[u8]) {
        self.left -= bytes.len() as u64;
        if self.literal.over_cap {
            return;
        }
        let kept = &mut self.literal.bytes;
        if kept.capacity() - kept.len() < bytes.len() {
            // by what has arrived, never beyond what is to come
            let more = (kept.len() as u64 * 3).min(self.left) + bytes.len() as u64;
            kept.reserve_exact(usize::try_from(more).unwrap_or(bytes.len()));
        }
        kept.extend_from_slice(bytes);
    }
}

/// Whether an answer that begins so may have literals. The words of a status answer are free text and may end with anything.
fn may_have_literals(text: &[u8]) -> bool {
    let Some(rest) = text.strip_prefix(b"* ") else { return false };
    let word = rest.split(|b| *b == b' ').next().unwrap_or_default();
    ![&b"OK"[..], b"NO", b"BAD", b"BYE", b"PREAUTH"].iter().any(|status| word.eq_ignore_ascii_case(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPS: Caps = Caps { text: 200, literal: 10, drained: 100 };

    fn read(input: &[u8], chunk: usize) -> Result<Vec<Raw>, Violation> {
        let mut reader = Reader::default();
        let mut found = Vec::new();
        for piece in input.chunks(chunk) {
            let mut used = 0;
            while let (count, Some(raw)) = reader.feed(&piece[used..], CAPS)? {
                used += count;
                found.push(raw);
            }
        }
        Ok(found)
    }

    #[test]
    fn lines_and_literals() {
        for (input, expected) in [
            ("* OK hi\r\nA1 OK\r\n", vec![("* OK hi", vec![]), ("A1 OK", vec![])]),
            ("* X {3}\r\na\r\n y\r\n", vec![("* X \n y", vec!["a\r\n"])]),
            ("* X {0}\r\n {1}\r\nb\r\n", vec![("* X \n \n", vec!["", "b"])]),
            ("* X ~{2}\r\nab\r\n", vec![("* X \n", vec!["ab"])]),
            ("* X {2+}\r\nab\r\n", vec![("* X \n", vec!["ab"])]),
            // free text, and what is no size
            ("* OK read {3}\r\n", vec![("* OK read {3}", vec![])]),
            ("A1 NO see {3}\r\n", vec![("A1 NO see {3}", vec![])]),
            ("+ go {3}\r\n", vec![("+ go {3}", vec![])]),
            ("* X {}\r\n* X {-1}\r\n", vec![("* X {}", vec![]), ("* X {-1}", vec![])]),
            // bare line feeds
            ("* OK\n* X {1}\na\n", vec![("* OK", vec![]), ("* X \n", vec!["a"])]),
        ] {
            for chunk in 1..=input.len() {
                let found = read(input.as_bytes(), chunk).unwrap();
                let shown: Vec<(String, Vec<String>)> = found
                    .iter()
                    .map(|raw| {
                        let literals =
                            raw.literals.iter().map(|l| String::from_utf8_lossy(&l.bytes).into_owned());
                        (String::from_utf8_lossy(&raw.text).into_owned(), literals.collect())
                    })
                    .collect();
                let expected: Vec<(String, Vec<String>)> = expected
                    .iter()
                    .map(|(text, literals)| {
                        ((*text).to_owned(), literals.iter().map(|l| (*l).to_owned()).collect())
                    })
                    .collect();
                assert_eq!(shown, expected, "{input:?} by {chunk}");
            }
        }
    }

    #[test]
    fn caps() {
        let found = read(b"* X {11}\r\n01234567890 {2}\r\nab\r\n", 4).unwrap();
        let literals = &found[0].literals;
        assert!(literals[0].over_cap && literals[0].bytes.capacity() == 0, "{literals:?}");
        assert_eq!((literals[0].size, literals[1].bytes.as_slice()), (11, &b"ab"[..]));
        // the cap is for all literals of an answer together
        let found = read(b"* X {8}\r\n01234567 {3}\r\nabc\r\n", 4).unwrap();
        assert!(found[0].literals[1].over_cap);
        for (input, violation) in [
            ("* X {111}\r\n".to_owned(), Violation::TooMuch(111)),
            ("* X {99999999999999999999999}\r\n".to_owned(), Violation::TooMuch(u64::MAX)),
            (format!("* X {}", "y".repeat(300)), Violation::LineTooLong(200)),
            (format!("* X {}", "{0}\r\n".repeat(100)), Violation::TooMuch(0)),
        ] {
            assert_eq!(read(input.as_bytes(), 7), Err(violation), "{input}");
        }
    }

    #[test]
    fn nothing_is_set_aside_for_an_announcement() {
        let caps = Caps { text: 200, literal: 1 << 40, drained: 0 };
        let mut reader = Reader::default();
        reader.feed(b"* 1 FETCH (BODY[] {1000000000000}\r\nabc", caps).unwrap();
        assert!(reader.filling.as_ref().unwrap().literal.bytes.capacity() as u64 <= FIRST_ROOM);
        assert!(reader.in_literal());
    }
}
