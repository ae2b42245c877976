//! What a body in RTF says: the HTML or the plain text that it was made of ([MS-OXRTFEX]), else its words.

use std::collections::HashMap;

use crate::text;

/// The body that an RTF carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// The HTML that the RTF was made of.
    Html(String),
    /// The plain text that the RTF was made of.
    Text(String),
    /// The RTF is the original; its text.
    Rtf(String),
}

/// Reads an RTF; the text is cut at `max_bytes`, and the flag says whether it is whole. Linear in the size of the RTF.
#[must_use]
pub fn body(rtf: &[u8], max_bytes: usize) -> (Body, bool) {
    let mut reader = Reader::new(max_bytes);
    reader.read(rtf);
    let whole = !reader.full;
    let text = reader.out;
    (
        match reader.origin {
            Origin::Html => Body::Html(text),
            Origin::Text => Body::Text(text),
            Origin::Rtf => Body::Rtf(text),
        },
        whole,
    )
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Html,
    Text,
    Rtf,
}

/// What a group inherits and a closing brace takes back.
#[derive(Debug, Clone, Copy)]
struct Group {
    /// Of a destination that shows nothing.
    hidden: bool,
    /// Between `\htmlrtf` and `\htmlrtf0`: there for RTF readers only.
    rtf_only: bool,
    /// Inside the table of fonts.
    fonts: bool,
    code_page: u32,
    /// How many characters stand behind a `\u` for readers without Unicode (`\uc`).
    fallback: u8,
}

struct Reader {
    out: String,
    max_bytes: usize,
    full: bool,
    origin: Origin,
    group: Group,
    open: Vec<Group>,
    /// Groups beyond [`MAX_OPEN`], which share the state of the last one.
    too_deep: usize,
    /// Bytes of text that are not yet decoded: a character may be spread over several escapes.
    pending: Vec<u8>,
    /// The first half of a surrogate pair.
    high: Option<u16>,
    /// Characters still to be passed over behind a `\u`.
    skip: u8,
    default_page: u32,
    fonts: HashMap<i32, u32>,
    font: i32,
}

const MAX_OPEN: usize = 500;
const MAX_FONTS: usize = 2000;

/// Destinations whose text is not part of the body.
const HIDDEN: &[&str] = &[
    "colortbl",
    "stylesheet",
    "info",
    "pict",
    "object",
    "header",
    "headerl",
    "headerr",
    "headerf",
    "footer",
    "footerl",
    "footerr",
    "footerf",
    "filetbl",
    "listtable",
    "listoverridetable",
    "revtbl",
    "rsidtbl",
    "fldinst",
];

impl Reader {
    fn new(max_bytes: usize) -> Self {
        Self {
            out: String::new(),
            max_bytes,
            full: false,
            origin: Origin::Rtf,
            group: Group {
                hidden: false,
                rtf_only: false,
                fonts: false,
                code_page: text::WINDOWS_1252,
                fallback: 1,
            },
            open: Vec::new(),
            too_deep: 0,
            pending: Vec::new(),
            high: None,
            skip: 0,
            default_page: text::WINDOWS_1252,
            fonts: HashMap::new(),
            font: 0,
        }
    }

    fn read(&mut self, rtf: &[u8]) {
        let mut at = 0;
        let mut star = false;
        while at < rtf.len() && !self.full {
            let byte = rtf[at];
            at += 1;
            match byte {
                b'{' => {
                    self.flush();
                    self.skip = 0;
                    star = false;
                    if self.open.len() < MAX_OPEN { self.open.push(self.group) } else { self.too_deep += 1 }
                }
                b'}' => {
                    self.flush();
                    self.skip = 0;
                    star = false;
                    if self.too_deep > 0 {
                        self.too_deep -= 1;
                    } else if let Some(outer) = self.open.pop() {
                        self.group = outer;
                    }
                }
                b'\\' => at = self.control(rtf, at, &mut star),
                b'\r' | b'\n' | 0 => {}
                literal => self.literal(literal),
            }
        }
        self.flush();
    }

    /// A control word or symbol whose backslash stands before `at`; where it ends.
    fn control(&mut self, rtf: &[u8], at: usize, star: &mut bool) -> usize {
        const LONGEST: usize = 32;
        let Some(&first) = rtf.get(at) else { return at };
        if !first.is_ascii_alphabetic() {
            let hex = |n: usize| rtf.get(at + n).and_then(|b| char::from(*b).to_digit(16));
            match first {
                b'\'' => {
                    if let (Some(high), Some(low)) = (hex(1), hex(2)) {
                        self.literal((high * 16 + low) as u8); // two hexadecimal digits are at most 255
                        return at + 3;
                    }
                }
                b'*' => *star = true,
                b'\\' | b'{' | b'}' => self.literal(first),
                b'~' => self.symbol("&nbsp;", "\u{a0}"),
                b'_' => self.symbol("&shy;", "\u{2011}"),
                b'\r' | b'\n' => self.symbol("\r\n", "\r\n"),
                _ => {}
            }
            return at + 1;
        }
        let word_end = at + rtf[at..].iter().take(LONGEST).take_while(|b| b.is_ascii_alphabetic()).count();
        let mut end = word_end;
        let digits_from = end + usize::from(rtf.get(end) == Some(&b'-'));
        let digits = rtf[digits_from..].iter().take(10).take_while(|b| b.is_ascii_digit()).count();
        let mut number = None;
        if digits > 0 {
            end = digits_from + digits;
            number = std::str::from_utf8(&rtf[word_end..end]).ok().and_then(|t| t.parse::<i32>().ok());
        }
        if rtf.get(end) == Some(&b' ') {
            end += 1;
        }
        let word = std::str::from_utf8(&rtf[at..word_end]).unwrap_or_default(); // letters of ASCII
        let is_destination = std::mem::take(star);
        if word == "bin" {
            // so many bytes of anything
            let length = usize::try_from(number.unwrap_or(0)).unwrap_or(0);
            return end.saturating_add(length).min(rtf.len());
        }
        if self.skip > 0 {
            self.skip -= 1;
            return end;
        }
        self.flush();
        self.word(word, number, is_destination);
        end
    }

    fn word(&mut self, word: &str, number: Option<i32>, is_destination: bool) {
        if is_destination {
            if word == "htmltag" && self.origin == Origin::Html {
                self.group.rtf_only = false;
            } else {
                self.group.hidden = true;
            }
            return;
        }
        match word {
            "ansicpg" => {
                self.default_page = number.and_then(|n| u32::try_from(n).ok()).unwrap_or(self.default_page);
                self.group.code_page = self.default_page;
            }
            "fromhtml" if number != Some(0) => self.origin = Origin::Html,
            "fromtext" => self.origin = Origin::Text,
            "htmlrtf" if self.origin == Origin::Html => self.group.rtf_only = number != Some(0),
            "fonttbl" => {
                self.group.fonts = true;
                self.group.hidden = true;
            }
            "f" if self.group.fonts => self.font = number.unwrap_or(0),
            "f" => {
                let page = self.fonts.get(&number.unwrap_or(0)).copied();
                self.group.code_page = page.unwrap_or(self.default_page);
            }
            "fcharset" if self.group.fonts => {
                if self.fonts.len() < MAX_FONTS
                    && let Some(page) = charset_page(number.unwrap_or(1))
                {
                    self.fonts.insert(self.font, page);
                }
            }
            "plain" => self.group.code_page = self.default_page,
            "uc" => self.group.fallback = number.and_then(|n| u8::try_from(n).ok()).unwrap_or(1),
            "u" => {
                if let Some(number) = number {
                    self.unicode(number);
                    self.skip = self.group.fallback;
                }
            }
            "par" | "line" | "sect" | "page" | "row" | "softline" => self.symbol("\r\n", "\r\n"),
            "tab" | "cell" => self.symbol("\t", "\t"),
            "lquote" => self.symbol("&lsquo;", "\u{2018}"),
            "rquote" => self.symbol("&rsquo;", "\u{2019}"),
            "ldblquote" => self.symbol("&ldquo;", "\u{201c}"),
            "rdblquote" => self.symbol("&rdquo;", "\u{201d}"),
            "bullet" => self.symbol("&bull;", "\u{2022}"),
            "endash" => self.symbol("&ndash;", "\u{2013}"),
            "emdash" => self.symbol("&mdash;", "\u{2014}"),
            "enspace" => self.symbol("&ensp;", "\u{2002}"),
            "emspace" => self.symbol("&emsp;", "\u{2003}"),
            _ if HIDDEN.contains(&word) => self.group.hidden = true,
            _ => {}
        }
    }

    fn is_shown(&self) -> bool {
        !self.group.hidden && !self.group.rtf_only
    }

    fn literal(&mut self, byte: u8) {
        if self.skip > 0 {
            self.skip -= 1;
        } else if self.is_shown() {
            self.pending.push(byte);
            // a run without any control word must not pile up; behind ASCII no character is open in any code page but a few trail bytes
            if self.pending.len() >= 64 * 1024 && byte < 0x40 {
                self.flush();
            }
        }
    }

    fn unicode(&mut self, number: i32) {
        // negative for what is above 32767; some writers give the code point
        let Ok(unit) = u16::try_from(if number < 0 { number + 0x1_0000 } else { number }) else {
            if let Some(c) = u32::try_from(number).ok().and_then(char::from_u32) {
                self.push(c.encode_utf8(&mut [0; 4]));
            }
            return;
        };
        let units = match (self.high.take(), unit) {
            (Some(high), 0xdc00..=0xdfff) => vec![high, unit],
            (_, 0xd800..=0xdbff) => {
                self.high = Some(unit);
                return;
            }
            _ => vec![unit],
        };
        for c in char::decode_utf16(units) {
            self.push(c.unwrap_or(char::REPLACEMENT_CHARACTER).encode_utf8(&mut [0; 4]));
        }
    }

    /// Something that HTML writes as an entity and text as a character.
    fn symbol(&mut self, html: &str, text: &str) {
        if self.skip > 0 {
            self.skip -= 1;
            return;
        }
        self.flush();
        self.push(if self.origin == Origin::Html { html } else { text });
    }

    fn flush(&mut self) {
        if !self.pending.is_empty() {
            let pending = std::mem::take(&mut self.pending);
            let text = match text::code_page(self.group.code_page) {
                Some(page) => page.decode(&pending),
                None => encoding_rs::WINDOWS_1252.decode_without_bom_handling(&pending).0,
            };
            self.push(&text);
            self.pending = pending;
            self.pending.clear();
        }
    }

    fn push(&mut self, text: &str) {
        if !self.is_shown() {
            return;
        }
        if self.out.len() + text.len() > self.max_bytes {
            self.full = true;
            let mut cut = self.max_bytes.saturating_sub(self.out.len()).min(text.len());
            while !text.is_char_boundary(cut) {
                cut -= 1;
            }
            self.out.push_str(&text[..cut]);
            return;
        }
        self.out.push_str(text);
    }
}

/// The code page of a Windows character set (`\fcharset`).
fn charset_page(charset: i32) -> Option<u32> {
    Some(match charset {
        0 | 2 => 1252,
        77 => 10000,
        128 => 932,
        129 | 130 => 949,
        134 => 936,
        136 => 950,
        161 => 1253,
        162 => 1254,
        163 => 1258,
        177 => 1255,
        178 => 1256,
        186 => 1257,
        204 => 1251,
        222 => 874,
        238 => 1250,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(rtf: &str) -> Body {
        body(rtf.as_bytes(), 10_000).0
    }

    /// The example of [MS-OXRTFEX] 4 in spirit: markup in tags, its text outside, and RTF for other readers between htmlrtf.
    #[test]
    fn html() {
        let rtf = r"{\rtf1\ansi\ansicpg1251\fromhtml1 \deff0{\fonttbl {\f0\fmodern\fcharset0 Courier New;}{\f1\fswiss\fcharset204 Arial;}{\f2\fcharset128 MS;}}
{\colortbl\red0\green0\blue0;\red0\green0\blue255;}
{\*\htmltag19 <html>}{\*\htmltag34 <head>}{\*\mhtmltag17 <not this>}
{\*\htmltag241 <style>\par p \{ color:red \}\par </style>}
\pard\plain \f0\fs24{\*\htmltag64 <p>}\htmlrtf {\htmlrtf0 Caf\'e9 {\*\htmltag84 &lt;}\htmlrtf <\htmlrtf0 b{\f1 \'cf\'f0\'e8} {\f2 \'83\'65\'83X}\u8364?\u-10179 ?\u-8704 ?\~x\lquote y\htmlrtf\par}\htmlrtf0
{\*\htmltag72 </p>}{\*\generator nobody}{\*\htmltag27 </html>}}";
        let html = "<html><head><style>\r\np { color:red }\r\n</style><p>Café &lt;bПри テス€\u{1f600}&nbsp;x&lsquo;y</p></html>";
        assert_eq!(read(rtf), Body::Html(html.to_owned()));
    }

    #[test]
    fn text_and_plain_rtf() {
        let rtf = r"{\rtf1\ansi\ansicpg1252\fromtext{\fonttbl{\f0 x;}}\pard one\par two \{2\}\tab x\'80}";
        assert_eq!(read(rtf), Body::Text("one\r\ntwo {2}\tx€".to_owned()));
        let rtf = r"{\rtf1{\info{\title no}}{\*\unknown no}Hello {\b World}\line{\pict\bin4 }}}}no}\emdash}";
        assert_eq!(read(rtf), Body::Rtf("Hello World\r\n—".to_owned()));
        assert_eq!(read(""), Body::Rtf(String::new()));
        assert_eq!(read(r"{\rtf1 \u"), Body::Rtf(String::new()));
        // two characters stand for those who know no Unicode, the second one an escape
        assert_eq!(read(r"{\rtf1\uc2 a\u233 e\'65b\uc0\u233 c}"), Body::Rtf("aébéc".to_owned()));
    }

    #[test]
    fn hostile() {
        let (found, whole) = body(r"{\rtf1 ääää}".as_bytes(), 5);
        assert!(!whole, "{found:?}");
        assert!(matches!(found, Body::Rtf(text) if text.len() <= 5));
        let deep = format!("{}x{}y", "{".repeat(100_000), "}".repeat(100_000));
        assert_eq!(body(deep.as_bytes(), 10).0, Body::Rtf("xy".to_owned()));
        assert_eq!(read(r"{\rtf1 a\bin999999999 b"), Body::Rtf("a".to_owned()));
        assert_eq!(read(r"{\rtf1 a\'zz\'"), Body::Rtf("azz".to_owned()));
        assert_eq!(
            read(&format!(r"{{\rtf1 \{}99999999999 x", "q".repeat(50))),
            Body::Rtf("qqqqqqqqqqqqqqqqqq99999999999 x".to_owned())
        );
    }
}
