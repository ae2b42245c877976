//! The message on its way to the server: line ends normalised first, then dots stuffed (RFC 5321 sections 2.3.8 and 4.5.2).
//!
//! The order matters. A dot behind a bare LF or CR is not "at the start of a line" to us before line ends are normalised, but
//! it is to some servers; what they take for the end of the data would let the rest of the body pass as new commands (SMTP smuggling).
//! Here every bare CR and every bare LF becomes CRLF before a dot is looked at, so that only the final line of our own is ever a
//! single dot.

/// What one pass over a message finds out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shape {
    /// Length in octets once all line ends are CRLF and the last line has one; the number for SIZE (RFC 1870) and BDAT.
    pub normal_len: u64,
    /// All line ends are CRLF, the last one included.
    pub normal: bool,
    /// No line begins with a dot.
    pub no_dots: bool,
    /// There are octets above 127.
    pub eight_bit: bool,
}

impl Shape {
    /// Looks at all of `message` once.
    #[must_use]
    pub fn of(message: &[u8]) -> Self {
        let Some(&last) = message.last() else {
            return Self { normal_len: 0, normal: true, no_dots: true, eight_bit: false };
        };
        let mut total = Counts::default();
        // blocks so short that the counters of one block fit into a byte each: the compiler makes vector code of the loop
        let mut at = 0;
        while at < message.len() {
            let end = (at + 255).min(message.len());
            total.add_block(&message[at..end], &message[at + 1..(end + 1).min(message.len())]);
            at = end;
        }
        // the last octet has no successor, so no block counted it as the first of a pair
        let Counts { lf, cr, crlf, lf_dot, high } = total;
        let ends_in_line_end = matches!(last, b'\n' | b'\r');
        let bare = (lf - crlf) + (cr - crlf);
        Self {
            normal_len: message.len() as u64 + bare + if ends_in_line_end { 0 } else { 2 },
            normal: bare == 0 && ends_in_line_end,
            no_dots: message[0] != b'.' && lf_dot == 0,
            eight_bit: high,
        }
    }
}

#[derive(Default)]
struct Counts {
    lf: u64,
    cr: u64,
    crlf: u64,
    lf_dot: u64,
    high: bool,
}

impl Counts {
    /// Adds a block of at most 255 octets; `next` is the same block one octet later, shorter by one at the end of the message.
    fn add_block(&mut self, block: &[u8], next: &[u8]) {
        let (mut lf, mut cr, mut bits) = (0u8, 0u8, 0u8);
        for &octet in block {
            lf += u8::from(octet == b'\n');
            cr += u8::from(octet == b'\r');
            bits |= octet;
        }
        let (mut crlf, mut lf_dot) = (0u8, 0u8);
        for (&one, &two) in block.iter().zip(next) {
            crlf += u8::from(one == b'\r') & u8::from(two == b'\n');
            lf_dot += u8::from(one == b'\n') & u8::from(two == b'.');
        }
        self.lf += u64::from(lf);
        self.cr += u64::from(cr);
        self.crlf += u64::from(crlf);
        self.lf_dot += u64::from(lf_dot);
        self.high |= bits >= 128;
    }
}

/// Gives the encoded message in blocks.
#[derive(Debug, Clone)]
pub struct Encoder {
    at: usize,
    at_line_start: bool,
    finished: bool,
    stuff: bool,
    /// Nothing has to change: blocks are plain copies.
    as_is: bool,
}

impl Encoder {
    /// For a message of this shape; `stuff` doubles dots at line starts (DATA), or does not (BDAT, which counts octets).
    #[must_use]
    pub fn new(shape: &Shape, stuff: bool) -> Self {
        let as_is = shape.normal && (shape.no_dots || !stuff);
        Self { at: 0, at_line_start: true, finished: false, stuff, as_is }
    }

    /// Appends the next block of `message` to `out`: about `limit` octets (at most four more), or what is left. `true`
    /// when that was the end.
    pub fn fill(&mut self, message: &[u8], out: &mut Vec<u8>, limit: usize) -> bool {
        let target = out.len() + limit.max(1);
        if self.as_is {
            let end = (self.at + limit.max(1)).min(message.len());
            out.extend_from_slice(&message[self.at..end]);
            self.at = end;
            self.finished = end == message.len();
            return self.finished;
        }
        while self.at < message.len() && out.len() < target {
            let rest = &message[self.at..];
            if self.at_line_start && self.stuff && rest[0] == b'.' {
                out.push(b'.');
            }
            let window = &rest[..rest.len().min((target - out.len().min(target)).max(1))];
            let line_end = window.iter().position(|&b| b == b'\n' || b == b'\r');
            let text = line_end.unwrap_or(window.len());
            out.extend_from_slice(&window[..text]);
            self.at += text;
            self.at_line_start = line_end.is_some();
            if line_end.is_some() {
                out.extend_from_slice(b"\r\n");
                self.at += if rest[text..].starts_with(b"\r\n") { 2 } else { 1 };
            }
        }
        if self.at == message.len() && !self.finished {
            self.finished = true;
            if !self.at_line_start {
                out.extend_from_slice(b"\r\n");
            }
        }
        self.finished
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(message: &[u8], stuff: bool, limit: usize) -> Vec<u8> {
        let mut encoder = Encoder::new(&Shape::of(message), stuff);
        let mut out = Vec::new();
        for _ in 0..=message.len() * 2 + 2 {
            let mut block = Vec::new();
            let end = encoder.fill(message, &mut block, limit);
            assert!(block.len() <= limit.max(1) + 4, "{} for {limit}", block.len());
            out.extend_from_slice(&block);
            if end {
                return out;
            }
        }
        panic!("no end after {} octets", out.len());
    }

    /// The rule in its plainest form, octet by octet.
    fn normalised(message: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut i = 0;
        while i < message.len() {
            match message[i] {
                b'\r' => {
                    out.extend_from_slice(b"\r\n");
                    i += usize::from(message.get(i + 1) == Some(&b'\n'));
                }
                b'\n' => out.extend_from_slice(b"\r\n"),
                other => out.push(other),
            }
            i += 1;
        }
        if !out.is_empty() && !out.ends_with(b"\r\n") {
            out.extend_from_slice(b"\r\n");
        }
        out
    }

    /// What a server does with the lines it gets up to the single dot (RFC 5321 4.5.2).
    fn unstuffed(wire: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for line in wire.split_inclusive(|&b| b == b'\n') {
            assert_ne!(line, b".\r\n", "the data would end here");
            out.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        }
        out
    }

    #[test]
    fn table() {
        for (message, wire) in [
            (&b""[..], &b""[..]),
            (b"a\r\n", b"a\r\n"),
            (b"a", b"a\r\n"),
            (b"a\nb", b"a\r\nb\r\n"),
            (b"a\rb\r", b"a\r\nb\r\n"),
            (b"a\r\r\nb\r\n", b"a\r\n\r\nb\r\n"),
            (b".", b"..\r\n"),
            (b".a\r\n..b\r\n", b"..a\r\n...b\r\n"),
            (b"a.\r\n", b"a.\r\n"),
            // SMTP smuggling: whatever some server takes for the end of the data is text here
            (b"a\n.\r\nb", b"a\r\n..\r\nb\r\n"),
            (b"a\r.\r\nb", b"a\r\n..\r\nb\r\n"),
            (b"a\r\n.\nb", b"a\r\n..\r\nb\r\n"),
            (b"a\r\n.\rb", b"a\r\n..\r\nb\r\n"),
            (b"a\n.\nb", b"a\r\n..\r\nb\r\n"),
            (b"a\r.\rb", b"a\r\n..\r\nb\r\n"),
            (b"a\r\n.\r\nMAIL FROM:<x@y>\r\n", b"a\r\n..\r\nMAIL FROM:<x@y>\r\n"),
            (b"a\r\n\0.\r\n", b"a\r\n\0.\r\n"),
        ] {
            for limit in [1, 2, 3, 1000] {
                assert_eq!(encode(message, true, limit), wire, "{message:?} in blocks of {limit}");
                assert_eq!(
                    encode(message, false, limit),
                    normalised(message),
                    "{message:?} without stuffing"
                );
            }
        }
    }

    #[test]
    fn shapes() {
        let long = b"0123456789012345678901234567890123456789\r\n".repeat(100);
        assert!(Shape::of(&long).normal && Shape::of(&long).no_dots && !Shape::of(&long).eight_bit);
        assert_eq!(Shape::of(&long).normal_len, 4200);
        assert!(Shape::of("caf\u{e9}".as_bytes()).eight_bit);
        assert_eq!(Shape::of(b"a\r\nb").normal_len, 6);
        assert!(!Shape::of(b".").no_dots);
    }

    fn nasty() -> impl Strategy<Value = Vec<u8>> {
        let octet = prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'.'), Just(b'a'), any::<u8>()];
        prop_oneof![
            proptest::collection::vec(octet.clone(), 0..40),
            (proptest::collection::vec(octet, 0..40), 200usize..600).prop_map(|(v, n)| v
                .iter()
                .copied()
                .cycle()
                .take(if v.is_empty() { 0 } else { n })
                .collect()),
        ]
    }

    proptest! {
        /// Every message survives the way through a server, but for its line ends, and never ends early.
        #[test]
        fn survives(message in nasty(), limit in 1usize..50) {
            let shape = Shape::of(&message);
            let normal = normalised(&message);
            prop_assert_eq!(shape.normal_len, normal.len() as u64);
            prop_assert_eq!(shape.normal, normal == message);
            prop_assert_eq!(shape.eight_bit, !message.is_ascii());
            prop_assert_eq!(unstuffed(&encode(&message, true, limit)), normal.clone());
            prop_assert_eq!(encode(&message, false, limit), normal);
        }
    }
}
