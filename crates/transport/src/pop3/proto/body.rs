//! Multi-line data (RFC 1939 section 3): the end is a line with a single dot; a line that begins with a dot has one more than
//! the message.

use memchr::memmem::Finder;

/// Data that has come to its end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Body {
    /// The data without the stuffed dots and without the final line; empty when it was larger than the cap.
    pub bytes: Vec<u8>,
    /// How many octets the data had, whether kept or not.
    pub size: u64,
    /// Whether it was larger than the cap and therefore dropped.
    pub over_cap: bool,
}

/// Whether the end was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// More is to come.
    No,
    /// The final line was read.
    Yes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Middle,
    AfterCr,
    LineStart,
    AfterDot,
    AfterDotCr,
}

/// Reads multi-line data piece by piece and keeps it up to a cap.
///
/// Only CRLF ends a line. A bare LF is part of the text: a server that stuffs after CRLF alone, as the RFC says, would otherwise
/// let the writer of a message end it early and have the rest taken for answers. Servers that end all their lines with LF alone
/// are recognized by their status line (`lf_only`).
#[derive(Debug)]
pub struct BodyReader {
    at: At,
    lf_only: bool,
    finder: Finder<'static>,
    cap: u64,
    body: Body,
}

impl BodyReader {
    /// A reader that keeps at most `cap` octets; a little more than `expected` is set aside at once (at most the cap and 64 MiB).
    #[must_use]
    pub fn new(cap: u64, expected: u64, lf_only: bool) -> Self {
        let room =
            usize::try_from((expected.saturating_add(expected / 32)).min(cap).min(64 << 20)).unwrap_or(0);
        let finder = if lf_only { Finder::new(b"\n.") } else { Finder::new(b"\r\n.") };
        let body = Body { bytes: Vec::with_capacity(room), size: 0, over_cap: false };
        Self { at: At::LineStart, lf_only, finder, cap, body }
    }

    /// How many octets were read so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.body.size
    }

    /// Takes the data out; to be called at the end.
    #[must_use]
    pub fn finish(self) -> Body {
        self.body
    }

    /// Reads on; returns how many octets of the input belong to the data. After [`Ended::Yes`] the rest belongs to the next
    /// answer, after [`Ended::No`] everything was used.
    pub fn feed(&mut self, input: &[u8]) -> (usize, Ended) {
        let mut used = 0;
        while used < input.len() {
            let byte = input[used];
            match self.at {
                At::Middle => {
                    used += self.block(&input[used..]);
                    continue;
                }
                At::AfterCr => {
                    self.at = At::Middle;
                    if byte == b'\n' {
                        self.keep(b"\n");
                        self.at = At::LineStart;
                        used += 1;
                    }
                }
                At::LineStart => {
                    self.at = At::Middle;
                    if byte == b'.' {
                        self.at = At::AfterDot;
                        used += 1;
                    }
                }
                At::AfterDot if byte == b'\r' => {
                    self.at = At::AfterDotCr;
                    used += 1;
                }
                At::AfterDot if byte == b'\n' && self.lf_only => return (used + 1, Ended::Yes),
                // the dot was the stuffed one: it is dropped, whatever follows
                At::AfterDot => {
                    self.at = At::Middle;
                    if byte == b'.' {
                        self.keep(b".");
                        used += 1;
                    }
                }
                At::AfterDotCr => {
                    if byte == b'\n' {
                        return (used + 1, Ended::Yes);
                    }
                    self.keep(b"\r");
                    self.at = if self.lf_only { At::Middle } else { At::AfterCr };
                }
            }
        }
        (used, Ended::No)
    }

    /// Copies up to the next line that begins with a dot, or all; returns how many octets were used.
    fn block(&mut self, input: &[u8]) -> usize {
        if let Some(found) = self.finder.find(input) {
            let line_end = found + self.finder.needle().len() - 1;
            self.keep(&input[..line_end]);
            self.at = At::LineStart;
            return line_end;
        }
        self.keep(input);
        self.at = match input {
            [.., b'\n'] if self.lf_only => At::LineStart,
            [.., b'\r', b'\n'] => At::LineStart,
            [.., b'\r'] if !self.lf_only => At::AfterCr,
            _ => At::Middle,
        };
        input.len()
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.body.size += bytes.len() as u64;
        if self.body.over_cap {
            return;
        }
        if self.body.size > self.cap {
            self.body.over_cap = true;
            self.body.bytes = Vec::new();
            return;
        }
        self.body.bytes.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use email_router_testkit::pop3::stuff;
    use proptest::prelude::*;

    fn read(input: &[u8], chunk: usize, cap: u64, lf_only: bool) -> (Option<Body>, usize) {
        let mut reader = BodyReader::new(cap, 0, lf_only);
        let mut used = 0;
        for piece in input.chunks(chunk) {
            let (count, ended) = reader.feed(piece);
            used += count;
            if ended == Ended::Yes {
                return (Some(reader.finish()), used);
            }
            assert_eq!(count, piece.len());
        }
        (None, used)
    }

    #[test]
    fn ends_and_dots() {
        for (input, text, rest) in [
            (".\r\n", "", ""),
            ("a\r\n.\r\n+OK", "a\r\n", "+OK"),
            ("..a\r\n.\r\n", ".a\r\n", ""),
            ("...\r\n.\r\n", "..\r\n", ""),
            // a server that did not stuff: the RFC has the first dot removed all the same
            (".a\r\n.\r\n", "a\r\n", ""),
            // a bare LF is text, so neither ends nor stuffs anything
            ("a\n.\nb\n.\r\n.\r\n", "a\n.\nb\n.\r\n", ""),
            ("a\r.\r\n.\r\n", "a\r.\r\n", ""),
            (".\rb\r\n.\r\n", "\rb\r\n", ""),
            (".\r\r\n.\r\n", "\r\r\n", ""),
            ("a\r\r\n.\r\n", "a\r\r\n", ""),
            ("\r\n.\r\n", "\r\n", ""),
            ("\r\n\r\n..\r\n.\r\n", "\r\n\r\n.\r\n", ""),
            (".\n\r\n.\r\n", "\n\r\n", ""),
        ] {
            for chunk in 1..=input.len() {
                let (body, used) = read(input.as_bytes(), chunk, 1000, false);
                let body = body.unwrap_or_else(|| panic!("no end in {input:?} by {chunk}"));
                assert_eq!(String::from_utf8_lossy(&body.bytes), text, "{input:?} by {chunk}");
                assert_eq!(body.size, text.len() as u64);
                assert_eq!(&input[used..], rest);
            }
        }
        for unended in ["", ".", ".\r", "a\r\n.", "a\n.\n", "a.\r\n", "\r.\r\n"] {
            assert_eq!(read(unended.as_bytes(), 1, 1000, false).0, None, "{unended:?}");
        }
    }

    #[test]
    fn line_feeds_alone() {
        for (input, text) in
            [("a\n..b\n.\n", "a\n.b\n"), (".\n", ""), ("a\r\n.\r\n", "a\r\n"), ("a\n\n.x\n.\n", "a\n\nx\n")]
        {
            for chunk in 1..=input.len() {
                let body = read(input.as_bytes(), chunk, 1000, true).0.unwrap();
                assert_eq!(String::from_utf8_lossy(&body.bytes), text, "{input:?} by {chunk}");
            }
        }
    }

    #[test]
    fn over_the_cap_nothing_is_kept_and_the_end_is_found() {
        let mut input = b"x".repeat(100);
        input.extend_from_slice(b"\r\n.\r\nrest");
        let (body, used) = read(&input, 7, 50, false);
        let body = body.unwrap();
        assert!(body.over_cap && body.bytes.capacity() == 0, "{body:?}");
        assert_eq!((body.size, &input[used..]), (102, &b"rest"[..]));
        assert!(!read(&input, 7, 102, false).0.unwrap().over_cap);
    }

    fn nasty() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"\r\n".to_vec()),
            Just(b".".to_vec()),
            Just(b"\r".to_vec()),
            Just(b"\n".to_vec()),
            Just(b"\r\n.".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..20),
        ];
        proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        /// What a server stuffs comes out as it was, with CRLF at the end; the size of the pieces does not matter.
        #[test]
        fn stuffed_and_back(message in nasty(), chunk in 1usize..50) {
            let mut wire = Vec::new();
            stuff(&message, &mut wire);
            wire.extend_from_slice(b"+OK next");
            let (body, used) = read(&wire, chunk, u64::MAX, false);
            let mut expected = message;
            if !expected.is_empty() && !expected.ends_with(b"\r\n") {
                expected.extend_from_slice(b"\r\n");
            }
            prop_assert_eq!(body.unwrap().bytes, expected);
            prop_assert_eq!(&wire[used..], b"+OK next");
        }

        #[test]
        fn pieces_do_not_matter(input in nasty(), chunk in 1usize..50, lf_only: bool) {
            prop_assert_eq!(read(&input, chunk, u64::MAX, lf_only), read(&input, usize::MAX, u64::MAX, lf_only));
        }
    }
}
