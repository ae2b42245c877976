//! Bytes into text: the declared charset where it fits, else what the bytes look like. No byte is dropped: what nothing explains is read as
//! windows-1252, and it is said.

use std::borrow::Cow;

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{DecoderResult, Encoding};
use mail_parser::decoders::charsets::DecoderFnc;
use mail_parser::decoders::charsets::map::charset_decoder;

use super::fields;

/// How much of a text is looked at to find out its charset.
const LOOKED_AT: usize = 64 * 1024;

/// What a label means.
enum Declared {
    /// Nothing, ASCII, UTF-8, or one of the labels for "not known".
    Unicode,
    Known(&'static Encoding),
    /// Korean and Chinese in seven bits: brought to eight bits first.
    SevenBit(fn(&[u8]) -> Vec<u8>, &'static Encoding),
    /// A charset of mail-parser's that the Encoding Standard does not have (UTF-7, IBM 850).
    Other(DecoderFnc),
    Unknown,
}

/// The text, and what was wrong with it.
pub(super) fn decode(bytes: &[u8], label: Option<&str>) -> (String, Option<String>) {
    let label = label.map(normalise).unwrap_or_default();
    let read_as = |text: String, encoding: &str, why: &str| {
        (text, Some(format!("{why}; it was read as {}", encoding.to_ascii_lowercase())))
    };
    // a byte order mark says more than any label
    if let Some((encoding, _)) = Encoding::for_bom(bytes) {
        let (text, clean) = strict(encoding, &bytes[if encoding == encoding_rs::UTF_8 { 3 } else { 2 }..]);
        if clean {
            return (text, None);
        }
    }
    match declared(&label) {
        Declared::Unicode => match std::str::from_utf8(bytes) {
            Ok(text) if !has_japanese_escapes(bytes) => (text.to_owned(), None),
            _ => {
                let why = match label.as_str() {
                    "" => "names no charset".to_owned(),
                    label => format!("is not in the charset it names, {label}"),
                };
                let (text, encoding) = detect(bytes);
                read_as(text, encoding, &why)
            }
        },
        Declared::Known(encoding) => {
            let (text, clean) = strict(encoding, bytes);
            if clean {
                return (text, None);
            }
            let why = format!("is not all in the charset it names, {label}");
            if let Ok(text) = std::str::from_utf8(bytes) {
                return read_as(text.to_owned(), "utf-8", &why);
            }
            if mostly_wrong(&text, bytes) {
                let (text, encoding) = detect(bytes);
                return read_as(text, encoding, &why);
            }
            (text, Some(format!("{why}; what does not fit was read as windows-1252")))
        }
        Declared::SevenBit(widen, encoding) => {
            let (text, clean) = strict(encoding, &widen(bytes));
            (text, (!clean).then(|| format!("is not all in the charset it names, {label}")))
        }
        Declared::Other(decoder) => match fields::guarded(|| decoder(bytes)) {
            Some(text) => {
                let odd = text.contains('\u{fffd}');
                (text, odd.then(|| format!("some bytes mean nothing in the charset {label}")))
            }
            None => {
                let (text, encoding) = detect(bytes);
                read_as(text, encoding, &format!("is not in the charset it names, {label}"))
            }
        },
        Declared::Unknown => {
            let (text, encoding) = detect(bytes);
            read_as(text, encoding, &format!("the charset {:?} is not known", fields::clean_line(&label, 40)))
        }
    }
}

/// The label without the junk that is seen around it: `_iso-2022-jp$ESC`, `"utf-8"`, `utf-8; format=flowed`, `us-ascii (plain)`.
fn normalise(label: &str) -> String {
    let label = label.trim().trim_start_matches(['_', '"', '\'', '=']);
    let end =
        label.find(|c: char| !(c.is_ascii_alphanumeric() || "-_.:+".contains(c))).unwrap_or(label.len());
    label[..end].trim_end_matches(['_', '-', '.', ':']).to_ascii_lowercase()
}

fn declared(label: &str) -> Declared {
    if matches!(
        label,
        "" | "utf-8"
            | "utf8"
            | "us-ascii"
            | "ascii"
            | "unknown-8bit"
            | "x-unknown"
            | "default_charset"
            | "8bit"
            | "unknown"
    ) {
        return Declared::Unicode;
    }
    // names that are seen in mail and that the Encoding Standard does not have
    let standard = match label {
        "iso-2022-kr" | "csiso2022kr" => return Declared::SevenBit(widen_korean, encoding_rs::EUC_KR),
        "hz-gb-2312" | "hz" => return Declared::SevenBit(widen_chinese, encoding_rs::GBK),
        "latin-1" | "iso8859_1" | "iso_8859_1" | "8859-1" | "ansi" | "cp-1252" | "win-1252"
        | "windows1252" => "latin1",
        "cp932" | "ms932" | "x-ms-cp932" | "cp943" => "shift_jis",
        "cp50220" | "cp50221" | "iso-2022-jp-1" | "iso-2022-jp-2" | "iso-2022-jp-3" | "iso-2022-jp-ms" => {
            "iso-2022-jp"
        }
        "cp936" | "ms936" | "gb_2312-80" | "gb2312_charset" | "chinesesimp" => "gbk",
        "cp949" | "ms949" | "uhc" | "ks_c_5601" | "ksc_5601" | "ks_c_5601-1989" => "euc-kr",
        "cp950" | "ms950" | "chinesetrad" => "big5",
        "win-1251" | "windows1251" | "cp-1251" => "windows-1251",
        "koi8r" => "koi8-r",
        "eucjp" => "euc-jp",
        other => other,
    };
    match Encoding::for_label_no_replacement(standard.as_bytes()) {
        Some(encoding) => Declared::Known(encoding),
        None => charset_decoder(label.as_bytes()).map_or(Declared::Unknown, Declared::Other),
    }
}

/// Decodes; a byte that means nothing becomes its character of windows-1252, and `false` says that there was one.
fn strict(encoding: &'static Encoding, bytes: &[u8]) -> (String, bool) {
    if let Some(text) = encoding.decode_without_bom_handling_and_without_replacement(bytes) {
        return (text.into_owned(), true);
    }
    let mut decoder = encoding.new_decoder_without_bom_handling();
    let mut text = String::with_capacity(bytes.len() + bytes.len() / 2);
    let mut at = 0;
    loop {
        if text.capacity() - text.len() < 1024 {
            text.reserve(1024 + (bytes.len() - at) / 2);
        }
        let (result, read) = decoder.decode_to_string_without_replacement(&bytes[at..], &mut text, true);
        at += read;
        match result {
            DecoderResult::InputEmpty => return (text, false),
            DecoderResult::OutputFull => {}
            DecoderResult::Malformed(bad, after) => {
                let end = at.saturating_sub(usize::from(after));
                let start = end.saturating_sub(usize::from(bad));
                text.push_str(&windows_1252(&bytes[start..end]));
            }
        }
    }
}

fn windows_1252(bytes: &[u8]) -> Cow<'_, str> {
    encoding_rs::WINDOWS_1252.decode_without_bom_handling(bytes).0
}

/// Whether so little of a text fits its charset that the charset is more likely wrong than the text damaged: one in four of the bytes that are
/// not ASCII means nothing in it.
fn mostly_wrong(text: &str, bytes: &[u8]) -> bool {
    // what did not fit was read as windows-1252, so it shows as characters of Latin-1 or of its upper end
    let foreign = bytes.iter().take(LOOKED_AT).filter(|b| !b.is_ascii()).count();
    let latin = text.chars().take(LOOKED_AT).filter(|c| ('\u{80}'..='\u{ff}').contains(c)).count();
    latin * 4 > foreign
}

/// What bytes without a usable label are: UTF-8, Japanese with escapes, else what they look like. The name of what they were read as too.
fn detect(bytes: &[u8]) -> (String, &'static str) {
    if let Some(text) = japanese(bytes) {
        return (text, "iso-2022-jp");
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        return (text.to_owned(), "utf-8");
    }
    match guess(bytes) {
        (Guess::As(encoding), Some(text)) => (text, encoding.name()),
        (guess, _) => guess.read(bytes),
    }
}

/// Text in Japanese escapes, where all of it is.
fn japanese(bytes: &[u8]) -> Option<String> {
    if !has_japanese_escapes(bytes) {
        return None;
    }
    encoding_rs::ISO_2022_JP
        .decode_without_bom_handling_and_without_replacement(bytes)
        .map(|text| text.into_owned())
}

/// How bytes are read that are not UTF-8 and that no label explains.
#[derive(Debug, Clone, Copy)]
enum Guess {
    /// As UTF-8, and as windows-1252 what is none.
    MostlyUtf8,
    As(&'static Encoding),
}

impl Guess {
    fn read(self, bytes: &[u8]) -> (String, &'static str) {
        match self {
            Self::MostlyUtf8 => {
                (fields::utf8_or_1252(bytes).0.into_owned(), "utf-8, with windows-1252 between")
            }
            Self::As(encoding) => (strict(encoding, bytes).0, encoding.name()),
        }
    }
}

/// What the bytes look like; and their text, where it was made to find that out: large ones are not to be decoded twice.
fn guess(bytes: &[u8]) -> (Guess, Option<String>) {
    if mostly_utf8(bytes) {
        return (Guess::MostlyUtf8, None);
    }
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
    detector.feed(&bytes[..bytes.len().min(LOOKED_AT)], true);
    let encoding = detector.guess(None, Utf8Detection::Deny);
    match strict(encoding, bytes) {
        // cut off within a character, or not what it looked like
        (text, false) if mostly_wrong(&text, bytes) => (Guess::As(encoding_rs::WINDOWS_1252), None),
        (text, _) => (Guess::As(encoding), Some(text)),
    }
}

/// How the text in the fields of one header section is read where it stands raw, against RFC 2047, which wants encoded words.
///
/// What is UTF-8 is UTF-8 (RFC 6532 3.1 allows it), whatever else the header says. The other fields were written by one program, and one of
/// them alone is too short to tell its charset; so all of them are looked at together: as the charset that the Content-Type of the message
/// names, where every byte fits it, else as what they look like. Only the header section counts, so that a decision made from it alone is the
/// one made from the whole message.
#[derive(Debug)]
pub(super) struct RawText(Guess);

impl RawText {
    /// `values` of the fields that hold text; `label` of the Content-Type.
    pub(super) fn of<'v>(
        values: impl Iterator<Item = &'v [u8]>,
        label: impl FnOnce() -> Option<String>,
    ) -> Self {
        let mut pool: Vec<u8> = Vec::new();
        for value in values.filter(|v| std::str::from_utf8(v).is_err()) {
            pool.extend_from_slice(value);
            pool.push(b'\n');
        }
        if pool.is_empty() {
            return Self(Guess::MostlyUtf8);
        }
        let declared = match declared(&label().map(|l| normalise(&l)).unwrap_or_default()) {
            // in eight bits it is the charset that it is brought to
            Declared::Known(encoding) | Declared::SevenBit(_, encoding) => Some(encoding),
            Declared::Unicode | Declared::Other(_) | Declared::Unknown => None,
        };
        // a header section has no room for UTF-16: its names and line ends are ASCII
        let fits = declared.filter(|e| e.is_ascii_compatible() && strict(e, &pool).1);
        Self(fits.map_or_else(|| guess(&pool).0, Guess::As))
    }

    /// The text of one of the fields, and what it was read as where that was not to be expected.
    pub(super) fn read<'v>(&self, value: &'v [u8]) -> (Cow<'v, str>, Option<&'static str>) {
        if let Some(text) = japanese(value) {
            return (Cow::Owned(text), Some("iso-2022-jp"));
        }
        if let Ok(text) = std::str::from_utf8(value) {
            return (Cow::Borrowed(text), None);
        }
        let (text, encoding) = self.0.read(value);
        (Cow::Owned(text), Some(encoding))
    }
}

/// UTF-8 with a few bytes of something else: more sequences of it are there than bytes that are none.
fn mostly_utf8(bytes: &[u8]) -> bool {
    let (mut good, mut bad) = (0, 0);
    for chunk in bytes[..bytes.len().min(LOOKED_AT)].utf8_chunks() {
        good += chunk.valid().bytes().filter(|b| *b >= 0xc0).count();
        bad += chunk.invalid().len();
    }
    good > bad
}

/// ESC $ @, ESC $ B, ESC ( J or ESC ( I begins Japanese in seven bits (RFC 1468).
fn has_japanese_escapes(bytes: &[u8]) -> bool {
    bytes[..bytes.len().min(LOOKED_AT)]
        .windows(3)
        .any(|w| w[0] == 0x1b && matches!(&w[1..], b"$@" | b"$B" | b"(J" | b"(I"))
}

/// ISO-2022-KR (RFC 1557): between SO and SI stands what EUC-KR has with the high bit.
fn widen_korean(bytes: &[u8]) -> Vec<u8> {
    let mut wide = false;
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        match byte {
            0x0e => wide = true,
            0x0f => wide = false,
            0x1b if rest.starts_with(b"$)C") => rest = &rest[3..],
            b'\n' => {
                wide = false;
                out.push(byte);
            }
            0x21..=0x7e if wide => out.push(byte | 0x80),
            _ => out.push(byte),
        }
    }
    out
}

/// HZ (RFC 1843): between `~{` and `~}` stands what GB 2312 has with the high bit; `~~` is a tilde.
fn widen_chinese(bytes: &[u8]) -> Vec<u8> {
    let mut wide = false;
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        match (byte, rest.first()) {
            (b'~', Some(b'{')) if !wide => (wide, rest) = (true, &rest[1..]),
            (b'~', Some(b'}')) if wide => (wide, rest) = (false, &rest[1..]),
            (b'~', Some(b'~')) if !wide => {
                out.push(b'~');
                rest = &rest[1..];
            }
            (b'\n', _) => {
                wide = false;
                out.push(byte);
            }
            (0x21..=0x7e, _) if wide => out.push(byte | 0x80),
            _ => out.push(byte),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn declared_and_right() {
        for (label, bytes, expected) in [
            ("iso-8859-1", &b"caf\xe9"[..], "café"),
            ("ISO-8859-15", b"\xa4", "€"),
            ("ks_c_5601-1987", b"\xc7\xd1\xb1\xdb", "한글"),
            ("cp949", b"\xc7\xd1\xb1\xdb", "한글"),
            ("iso-2022-kr", b"\x1b$)C\x0eGQ1[\x0f ok", "한글 ok"),
            ("hz-gb-2312", b"~{<:Ky2;~} ~~", "己所不 ~"),
            ("iso-2022-jp", b"\x1b$B$\"\x1b(B", "あ"),
            ("_iso-2022-jp$ESC", b"\x1b$B$\"\x1b(B", "あ"),
            ("\"utf-8\"", "é".as_bytes(), "é"),
            ("utf-8; x", "é".as_bytes(), "é"),
            ("gb2312", b"\xc4\xe3\xba\xc3", "你好"),
            ("big5", b"\xa7A\xa6n", "你好"),
            ("Shift_JIS", b"\x83\x65\x83\x58\x83\x67", "テスト"),
            ("koi8-r", b"\xf0\xd2\xc9", "При"),
            ("utf-7", b"+AOk-", "é"),
            ("utf-16le", b"a\0\xe9\0", "aé"),
            ("utf-16", b"\xff\xfea\0\xe9\0", "aé"),
            ("iso-8859-1", b"\xef\xbb\xbfcaf\xc3\xa9", "café"),
            ("", b"plain", "plain"),
        ] {
            assert_eq!(decode(bytes, Some(label)), (expected.to_owned(), None), "{label}");
        }
    }

    #[test]
    fn wrong_or_missing() {
        let russian = "Добрый день, отправляю вам договор";
        let koi8 = encoding_rs::KOI8_R.encode(russian).0;
        let cp1251 = encoding_rs::WINDOWS_1251.encode(russian).0;
        let chinese = "这是一封没有声明字符集的邮件";
        let gbk = encoding_rs::GBK.encode(chinese).0;
        let japanese = "これは文字コードの宣言がないメールです";
        let sjis = encoding_rs::SHIFT_JIS.encode(japanese).0;
        for (label, bytes, expected, read_as) in [
            ("us-ascii", &gbk[..], chinese, "gbk"),
            ("", &koi8[..], russian, "koi8-u"),
            ("", &cp1251[..], russian, "windows-1251"),
            ("", &sjis[..], japanese, "shift_jis"),
            ("utf-8", &sjis[..], japanese, "shift_jis"),
            ("x-what", "é".as_bytes(), "é", "utf-8"),
            ("euc-kr", "日本語のメール".as_bytes(), "日本語のメール", "utf-8"),
            ("us-ascii", b"\x1b$B$\"\x1b(B", "あ", "iso-2022-jp"),
            ("utf-8", b"caf\xe9", "café", "windows-1252"),
            ("utf-8", "é é é \u{20ac} \u{e9}\n".as_bytes().split_last().unwrap().1, "é é é € é", ""),
        ] {
            let (text, problem) = decode(bytes, Some(label));
            assert_eq!(text, expected, "{label}");
            let problem = problem.unwrap_or_default();
            assert!(problem.ends_with(read_as), "{label}: {problem}");
        }
        // one bad byte in a long text does not turn it over
        let bytes =
            [&b"\xc7\xd1\xb1\xdb \xc7\xd1\xb1\xdb \xc7\xd1\xb1\xdb \xff "[..], b"\xc7\xd1\xb1\xdb"].concat();
        assert_eq!(decode(&bytes, Some("euc-kr")).0, "한글 한글 한글 ÿ 한글");
        let bytes = ["grün schön für ".as_bytes(), b"\xe9"].concat();
        assert_eq!(decode(&bytes, Some("utf-8")).0, "grün schön für é");
    }

    proptest! {
        /// No byte disappears: whatever does not fit is still there as some character.
        #[test]
        fn nothing_is_dropped(bytes in proptest::collection::vec(0x80..=0xff_u8, 1..60), label in 0..8_usize) {
            let label = ["", "utf-8", "euc-kr", "gbk", "shift_jis", "iso-8859-1", "x-what", "iso-2022-jp"][label];
            let (text, _) = decode(&bytes, Some(label));
            // a character stands for at most four bytes
            prop_assert!(text.chars().count() * 4 >= bytes.len(), "{:?}", text);
        }

        #[test]
        fn any_bytes_any_label(bytes in proptest::collection::vec(any::<u8>(), 0..200), label in ".{0,20}") {
            let _ = decode(&bytes, Some(&label));
        }
    }
}
