//! Takes the MIME content out of a response while it arrives.
//!
//! A response of `GetItem` is a little XML around much base64. [`Carver`] hands the XML on without the base64 (the *skeleton*, a few kilobytes, which an
//! XML reader then takes apart) and decodes the base64 in the pieces in which it comes, so that a message is in memory once.

use bytes::Bytes;

/// Which bytes of base64 a MIME content has; anything beyond the cap is read and dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Carved {
    /// The decoded content.
    Whole(Bytes),
    /// It has more bytes than the cap.
    TooLarge,
    /// It is no base64.
    Damaged,
}

/// Splits a response into its skeleton and the content of its elements of the local name `MimeContent`. In the skeleton such an element holds its
/// number, counted from 0, instead.
#[derive(Debug)]
pub struct Carver {
    skeleton: Vec<u8>,
    skeleton_cap: usize,
    content_cap: u64,
    /// What the next content is likely to have; saves copies while it grows.
    expected: usize,
    found: Vec<Carved>,
    state: State,
    decoder: Decoder,
}

/// The skeleton is larger than any response can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SkeletonTooLarge;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Text,
    /// Behind `<`, with what was read of it at this place of the skeleton.
    Markup {
        from: usize,
    },
    /// In a tag, in a value in these quotes.
    Quoted {
        from: usize,
        quote: u8,
    },
    /// In a comment, CDATA section or processing instruction, which ends in this.
    Until {
        from: usize,
        end: &'static [u8],
    },
    Content,
    /// In a character reference of a content.
    Reference,
}

impl Carver {
    /// A carver for one response: at most so many bytes of skeleton, and of each content.
    #[must_use]
    pub fn new(skeleton_cap: usize, content_cap: u64, expected: usize) -> Self {
        Self {
            skeleton: Vec::new(),
            skeleton_cap,
            content_cap,
            expected,
            found: Vec::new(),
            state: State::Text,
            decoder: Decoder::default(),
        }
    }

    /// The next piece of the response.
    ///
    /// # Errors
    /// [`SkeletonTooLarge`].
    pub fn push(&mut self, piece: &[u8]) -> Result<(), SkeletonTooLarge> {
        let mut rest = piece;
        while !rest.is_empty() {
            rest = match self.state {
                State::Content => self.content(rest),
                State::Reference => self.reference(rest),
                _ => self.markup(rest),
            };
            if self.skeleton.len() > self.skeleton_cap {
                return Err(SkeletonTooLarge);
            }
        }
        Ok(())
    }

    /// The skeleton, and the contents in the order in which they came.
    #[must_use]
    pub fn finish(self) -> (Vec<u8>, Vec<Carved>) {
        (self.skeleton, self.found)
    }

    fn markup<'a>(&mut self, input: &'a [u8]) -> &'a [u8] {
        let take = |state: &mut Vec<u8>, upto: usize| state.extend_from_slice(&input[..upto]);
        match self.state {
            State::Text => {
                let at = memchr::memchr(b'<', input);
                let upto = at.map_or(input.len(), |at| at + 1);
                take(&mut self.skeleton, upto);
                if at.is_some() {
                    self.state = State::Markup { from: self.skeleton.len() };
                }
                &input[upto..]
            }
            // a tag: only its end and values matter
            State::Markup { from } if self.skeleton.get(from).is_some_and(|b| !matches!(b, b'!' | b'?')) => {
                let at = memchr::memchr3(b'>', b'"', b'\'', input);
                let upto = at.map_or(input.len(), |at| at + 1);
                take(&mut self.skeleton, upto);
                match at.map(|at| input[at]) {
                    Some(b'>') => self.tag_ended(from),
                    Some(quote) if self.skeleton[from] != b'/' => {
                        self.state = State::Quoted { from, quote };
                    }
                    _ => {}
                }
                &input[upto..]
            }
            State::Markup { from } => {
                let byte = input[0];
                self.skeleton.push(byte);
                let so_far = &self.skeleton[from..];
                match byte {
                    b'>' => self.tag_ended(from),
                    b'"' | b'\'' if !so_far.starts_with(b"/") => {
                        self.state = State::Quoted { from, quote: byte };
                    }
                    _ => {
                        let end: Option<&'static [u8]> = match so_far {
                            b"!--" => Some(b"-->"),
                            b"![CDATA[" => Some(b"]]>"),
                            b"?" => Some(b"?>"),
                            _ => None,
                        };
                        if let Some(end) = end {
                            self.state = State::Until { from: self.skeleton.len(), end };
                        }
                    }
                }
                &input[1..]
            }
            State::Quoted { from, quote } => {
                let at = memchr::memchr(quote, input);
                let upto = at.map_or(input.len(), |at| at + 1);
                take(&mut self.skeleton, upto);
                if at.is_some() {
                    self.state = State::Markup { from };
                }
                &input[upto..]
            }
            State::Until { from, end } => {
                let at = memchr::memchr(b'>', input);
                let upto = at.map_or(input.len(), |at| at + 1);
                take(&mut self.skeleton, upto);
                if at.is_some() && self.skeleton[from..].ends_with(end) {
                    self.state = State::Text;
                }
                &input[upto..]
            }
            State::Content | State::Reference => input,
        }
    }

    fn tag_ended(&mut self, from: usize) {
        let tag = &self.skeleton[from..self.skeleton.len() - 1];
        let name_end = tag.iter().position(|b| b.is_ascii_whitespace() || *b == b'/').unwrap_or(tag.len());
        let name = &tag[..name_end];
        let local = name.iter().rposition(|&b| b == b':').map_or(name, |colon| &name[colon + 1..]);
        let opens = local == b"MimeContent" && !tag.ends_with(b"/");
        self.state = if opens { State::Content } else { State::Text };
        if opens {
            let room = u64::try_from(self.expected).unwrap_or(u64::MAX).min(self.content_cap);
            self.decoder = Decoder::with_room(usize::try_from(room).unwrap_or(0));
        }
    }

    fn content<'a>(&mut self, input: &'a [u8]) -> &'a [u8] {
        let at = memchr::memchr2(b'<', b'&', input);
        let upto = at.unwrap_or(input.len());
        self.decoder.push(&input[..upto], self.content_cap);
        match at.map(|at| input[at]) {
            None => {}
            Some(b'&') => self.state = State::Reference,
            Some(_) => {
                let number = self.found.len();
                self.skeleton.extend_from_slice(number.to_string().as_bytes());
                self.skeleton.push(b'<');
                self.found.push(std::mem::take(&mut self.decoder).finish(self.content_cap));
                self.state = State::Markup { from: self.skeleton.len() };
            }
        }
        &input[at.map_or(input.len(), |at| at + 1)..]
    }

    /// Only white space is written as a reference in base64 (`&#xD;`); whatever it is, it carries no bits.
    fn reference<'a>(&mut self, input: &'a [u8]) -> &'a [u8] {
        match input.iter().position(|b| matches!(b, b';' | b'<')) {
            Some(at) => {
                self.state = State::Content;
                &input[at + usize::from(input[at] == b';')..]
            }
            None => &[],
        }
    }
}

/// Decodes base64 that comes in pieces, with white space anywhere.
#[derive(Debug, Default)]
struct Decoder {
    out: Vec<u8>,
    /// Up to three characters that wait for the fourth.
    waiting: [u8; 4],
    held: usize,
    padded: bool,
    damaged: bool,
    too_large: bool,
}

const SKIP: u8 = 0xFE;
const BAD: u8 = 0xFF;
const PAD: u8 = 0xFD;

/// What each byte means: its six bits, or one of the three marks.
const VALUES: [u8; 256] = {
    let mut table = [BAD; 256];
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut at = 0;
    while at < 64 {
        table[alphabet[at] as usize] = at as u8;
        at += 1;
    }
    table[b'=' as usize] = PAD;
    table[b' ' as usize] = SKIP;
    table[b'\t' as usize] = SKIP;
    table[b'\r' as usize] = SKIP;
    table[b'\n' as usize] = SKIP;
    table
};

/// So many characters are decoded without a look at each.
const BLOCK: usize = 64;

/// A bit that no value has where it belongs.
const NO_VALUE: u32 = 1;

/// What each byte means at one of four places: its six bits where they belong, or [`NO_VALUE`].
const fn placed(shift: u32) -> [u32; 256] {
    let mut table = [NO_VALUE; 256];
    let mut at = 0;
    while at < 256 {
        if VALUES[at] < 64 {
            table[at] = (VALUES[at] as u32) << shift;
        }
        at += 1;
    }
    table
}

const FIRST: [u32; 256] = placed(26);
const SECOND: [u32; 256] = placed(20);
const THIRD: [u32; 256] = placed(14);
const FOURTH: [u32; 256] = placed(8);

/// The bytes of a block; `None` where anything but values is in it.
fn decoded(block: &[u8; BLOCK]) -> Option<[u8; BLOCK / 4 * 3]> {
    let mut bytes = [0; BLOCK / 4 * 3];
    let mut seen = 0;
    for (four, three) in block.as_chunks::<4>().0.iter().zip(bytes.as_chunks_mut::<3>().0) {
        let [a, b, c, d] = four.map(usize::from);
        let word = FIRST[a] | SECOND[b] | THIRD[c] | FOURTH[d];
        seen |= word;
        [three[0], three[1], three[2], _] = word.to_be_bytes();
    }
    (seen & NO_VALUE == 0).then_some(bytes)
}

impl Decoder {
    fn with_room(bytes: usize) -> Self {
        Self { out: Vec::with_capacity(bytes), ..Self::default() }
    }

    fn push(&mut self, text: &[u8], cap: u64) {
        if self.damaged || self.too_large {
            return;
        }
        let mut rest = text;
        while !rest.is_empty() {
            // as much at a time as nothing interrupts
            while self.held == 0
                && !self.padded
                && let Some((block, after)) = rest.split_first_chunk::<BLOCK>()
                && let Some(bytes) = decoded(block)
            {
                self.out.extend_from_slice(&bytes);
                rest = after;
                if self.out.len() as u64 > cap {
                    break;
                }
            }
            while self.held == 0
                && !self.padded
                && let Some(four) = rest.first_chunk::<4>()
            {
                let v = four.map(|b| VALUES[b as usize]);
                if (v[0] | v[1] | v[2] | v[3]) & 0xC0 != 0 {
                    break;
                }
                self.emit(v, 3);
                rest = &rest[4..];
                if self.out.len() as u64 > cap {
                    break;
                }
            }
            let Some((&byte, after)) = rest.split_first() else { break };
            rest = after;
            match VALUES[byte as usize] {
                SKIP => {}
                BAD => self.damaged = true,
                PAD => self.padded = true,
                _ if self.padded => self.damaged = true,
                value => {
                    self.waiting[self.held] = value;
                    self.held += 1;
                    if self.held == 4 {
                        self.emit(self.waiting, 3);
                        self.held = 0;
                    }
                }
            }
            if self.out.len() as u64 > cap {
                self.too_large = true;
            }
            if self.damaged || self.too_large {
                self.out = Vec::new();
                return;
            }
        }
        if self.out.len() as u64 > cap {
            self.too_large = true;
            self.out = Vec::new();
        }
    }

    fn emit(&mut self, v: [u8; 4], bytes: usize) {
        let three = [v[0] << 2 | v[1] >> 4, v[1] << 4 | v[2] >> 2, v[2] << 6 | v[3]];
        self.out.extend_from_slice(&three[..bytes]);
    }

    fn finish(mut self, cap: u64) -> Carved {
        if self.too_large {
            return Carved::TooLarge;
        }
        // a single character of six bits is no byte
        if self.damaged || self.held == 1 {
            return Carved::Damaged;
        }
        if self.held > 1 {
            let mut last = self.waiting;
            last[self.held..].fill(0);
            self.emit(last, self.held - 1);
        }
        if self.out.len() as u64 > cap {
            return Carved::TooLarge;
        }
        // what was reserved for a larger message is given back
        if self.out.capacity() > self.out.len() + self.out.len() / 4 + 4096 {
            self.out.shrink_to_fit();
        }
        Carved::Whole(Bytes::from(self.out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;
    use proptest::prelude::*;

    fn carve(input: &[u8], piece: usize, cap: u64) -> (String, Vec<Carved>) {
        let mut carver = Carver::new(1 << 20, cap, 0);
        for piece in input.chunks(piece) {
            carver.push(piece).unwrap();
        }
        let (skeleton, found) = carver.finish();
        (String::from_utf8(skeleton).unwrap(), found)
    }

    fn whole(text: &str) -> Carved {
        Carved::Whole(Bytes::from(text.to_owned()))
    }

    #[test]
    fn contents_come_out_and_the_rest_stays() {
        for (given, skeleton, found) in [
            ("<a>x</a>", "<a>x</a>", vec![]),
            (
                "<t:MimeContent CharacterSet=\"UTF-8\">aGk=</t:MimeContent>",
                "<t:MimeContent CharacterSet=\"UTF-8\">0</t:MimeContent>",
                vec![whole("hi")],
            ),
            (
                "<MimeContent>aG\r\n k&#xD;&#10;= </MimeContent><x:MimeContent\n>aGkh</x:MimeContent>",
                "<MimeContent>0</MimeContent><x:MimeContent\n>1</x:MimeContent>",
                vec![whole("hi"), whole("hi!")],
            ),
            ("<MimeContent></MimeContent>", "<MimeContent>0</MimeContent>", vec![whole("")]),
            ("<MimeContent/><b>aGk=</b>", "<MimeContent/><b>aGk=</b>", vec![]),
            ("<MimeContents>aGk=</MimeContents>", "<MimeContents>aGk=</MimeContents>", vec![]),
            ("<MimeContent>a*b</MimeContent>", "<MimeContent>0</MimeContent>", vec![Carved::Damaged]),
            ("<MimeContent>a</MimeContent>", "<MimeContent>0</MimeContent>", vec![Carved::Damaged]),
            ("<MimeContent>aGk=aGk=</MimeContent>", "<MimeContent>0</MimeContent>", vec![Carved::Damaged]),
            // a name in a comment, a CDATA section, an instruction or a value opens nothing
            ("<!-- <MimeContent> --><a/>", "<!-- <MimeContent> --><a/>", vec![]),
            ("<![CDATA[<MimeContent>]]><a/>", "<![CDATA[<MimeContent>]]><a/>", vec![]),
            ("<?x <MimeContent> ?><a/>", "<?x <MimeContent> ?><a/>", vec![]),
            ("<a b='<MimeContent>' c=\"'>\">t</a>", "<a b='<MimeContent>' c=\"'>\">t</a>", vec![]),
        ] {
            for piece in [1, 2, 3, 7, 1000] {
                assert_eq!(
                    carve(given.as_bytes(), piece, 1000),
                    (skeleton.to_owned(), found.clone()),
                    "{given}"
                );
            }
        }
    }

    #[test]
    fn damage_anywhere_in_a_long_content_is_found() {
        let content: Vec<u8> = (0..=255).collect();
        let encoded = BASE64_STANDARD.encode(&content);
        let [before, after] = ["<MimeContent>", "</MimeContent>"];
        for at in 0..encoded.len() {
            for (with, found) in
                [("*", Carved::Damaged), ("\r\n", Carved::Whole(Bytes::from(content.clone())))]
            {
                let given = format!("{before}{}{with}{}{after}", &encoded[..at], &encoded[at..]);
                assert_eq!(carve(given.as_bytes(), 1000, 1000).1, [found], "{with:?} at {at}");
            }
        }
    }

    #[test]
    fn caps() {
        let content = BASE64_STANDARD.encode([b'x'; 100]);
        let given = format!("<MimeContent>{content}</MimeContent><MimeContent>aGk=</MimeContent>");
        for piece in [1, 5, 1000] {
            let (_, found) = carve(given.as_bytes(), piece, 99);
            assert_eq!(found, [Carved::TooLarge, whole("hi")]);
            let (_, found) = carve(given.as_bytes(), piece, 100);
            assert!(matches!(&found[0], Carved::Whole(all) if all.len() == 100));
        }
        let mut carver = Carver::new(10, 10, 0);
        assert_eq!(carver.push(b"<a>0123456789</a>"), Err(SkeletonTooLarge));
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(
            content in prop::collection::vec(any::<u8>(), 0..300),
            piece in 1_usize..80,
            line in 1_usize..300,
        ) {
            let encoded = BASE64_STANDARD.encode(&content);
            let lines: Vec<&str> =
                encoded.as_bytes().chunks(line).map(|l| std::str::from_utf8(l).unwrap()).collect();
            let given = format!("<a><t:MimeContent>{}</t:MimeContent></a>", lines.join("\r\n"));
            let (skeleton, found) = carve(given.as_bytes(), piece, 1000);
            prop_assert_eq!(skeleton, "<a><t:MimeContent>0</t:MimeContent></a>");
            prop_assert_eq!(found, vec![Carved::Whole(Bytes::from(content))]);
        }

        #[test]
        fn pieces_make_no_difference(input in "[<>/!?\\-\\[\\]\"'&;:= aGkMimeContent]{0,200}", piece in 1_usize..20) {
            prop_assert_eq!(carve(input.as_bytes(), piece, 20), carve(input.as_bytes(), 10_000, 20));
        }
    }
}
