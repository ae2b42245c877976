//! Text in the code pages of Windows and of DOS.

use std::borrow::Cow;

use encoding_rs::Encoding;

/// Western European, which Windows and we fall back to.
pub(crate) const WINDOWS_1252: u32 = 1252;

/// Code page 437 from 0x80 on, by `VENDORS/MICSFT/PC/CP437.TXT` of the Unicode Consortium.
const OEM_437: &str = "ÇüéâäàåçêëèïîìÄÅ\
    ÉæÆôöòûùÿÖÜ¢£¥₧ƒ\
    áíóúñÑªº¿⌐¬½¼¡«»\
    ░▒▓│┤╡╢╖╕╣║╗╝╜╛┐\
    └┴┬├─┼╞╟╚╔╩╦╠═╬╧\
    ╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀\
    αßΓπΣσµτΦΘΩδ∞φε∩\
    ≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

/// Code page 850 from 0x80 on, by `VENDORS/MICSFT/PC/CP850.TXT` of the Unicode Consortium.
const OEM_850: &str = "ÇüéâäàåçêëèïîìÄÅ\
    ÉæÆôöòûùÿÖÜø£Ø×ƒ\
    áíóúñÑªº¿®¬½¼¡«»\
    ░▒▓│┤ÁÂÀ©╣║╗╝¢¥┐\
    └┴┬├─┼ãÃ╚╔╩╦╠═╬¤\
    ðÐÊËÈıÍÎÏ┘┌█▄¦Ì▀\
    ÓßÔÒõÕµþÞÚÛÙýÝ¯´\
    \u{ad}±‗¾¶§÷¸°¨·¹³²■\u{a0}";

/// A code page that we can read.
#[derive(Debug, Clone, Copy)]
pub(crate) enum CodePage {
    /// One of the Encoding Standard's.
    Standard(&'static Encoding),
    /// One of DOS, which the Encoding Standard does not have: ASCII, and these characters behind it.
    Oem(&'static str),
}

impl CodePage {
    /// What the code page does not explain is U+FFFD.
    pub(crate) fn decode(self, bytes: &[u8]) -> Cow<'_, str> {
        match self {
            Self::Standard(encoding) => encoding.decode_without_bom_handling(bytes).0,
            Self::Oem(upper) => {
                let upper: Vec<char> = upper.chars().collect();
                let char_of = |&b: &u8| match b.checked_sub(0x80) {
                    None => char::from(b),
                    Some(at) => upper.get(usize::from(at)).copied().unwrap_or(char::REPLACEMENT_CHARACTER),
                };
                bytes.iter().map(char_of).collect()
            }
        }
    }
}

/// The code page of this number; `None` when we cannot read it.
pub(crate) fn code_page(number: u32) -> Option<CodePage> {
    let label = match number {
        437 => return Some(CodePage::Oem(OEM_437)),
        850 => return Some(CodePage::Oem(OEM_850)),
        874 => "windows-874",
        866 => "ibm866",
        932 | 943 => "shift_jis",
        936 | 1386 => "gbk",
        949 | 51949 => "euc-kr",
        950 => "big5",
        1200 => "utf-16le",
        1201 => "utf-16be",
        10000 => "macintosh",
        10007 => "x-mac-cyrillic",
        20127 | 28591 | 1252 => "windows-1252",
        20866 => "koi8-r",
        21866 => "koi8-u",
        20932 | 51932 => "euc-jp",
        50220..=50222 => "iso-2022-jp",
        51936 => "gbk",
        54936 => "gb18030",
        65001 => "utf-8",
        1250..=1258 => &format!("windows-{number}"),
        28592..=28606 => &format!("iso-8859-{}", number - 28590),
        _ => return None,
    };
    Encoding::for_label(label.as_bytes()).map(CodePage::Standard)
}

/// The text; what the code page does not explain is U+FFFD. An unknown code page is read as UTF-8 where that fits, else as
/// windows-1252. NULs at the end are the terminator and no text.
pub(crate) fn decode(bytes: &[u8], number: u32) -> Cow<'_, str> {
    let found = code_page(number);
    // of UTF-16 a zero byte at the end may be half a character
    let wide = matches!(found, Some(CodePage::Standard(e)) if e == encoding_rs::UTF_16LE || e == encoding_rs::UTF_16BE);
    let bytes = if wide { bytes } else { trim_nuls(bytes) };
    let text = match found {
        Some(found) => found.decode(bytes),
        None => match std::str::from_utf8(bytes) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => encoding_rs::WINDOWS_1252.decode_without_bom_handling(bytes).0,
        },
    };
    without_nuls(text)
}

/// UTF-16, little-endian. An odd last byte is passed over.
pub(crate) fn decode_wide(bytes: &[u8]) -> String {
    let (pairs, _) = bytes.as_chunks::<2>();
    let text: String = char::decode_utf16(pairs.iter().map(|p| u16::from_le_bytes(*p)))
        .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect();
    without_nuls(Cow::Owned(text)).into_owned()
}

/// HTML in the code page that its message names, else in what it fits.
pub(crate) fn decode_html(bytes: &[u8], internet: Option<u32>, other: u32) -> String {
    let bytes = trim_nuls(bytes);
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") || bytes.starts_with(b"\xef\xbb\xbf")
    {
        return encoding_rs::UTF_8.decode(bytes).0.into_owned();
    }
    match (internet, std::str::from_utf8(bytes)) {
        (Some(page), _) if code_page(page).is_some() => decode(bytes, page).into_owned(),
        (_, Ok(text)) => text.to_owned(),
        _ => decode(bytes, other).into_owned(),
    }
}

fn trim_nuls(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|&b| b != 0).map_or(0, |at| at + 1);
    &bytes[..end]
}

fn without_nuls(text: Cow<'_, str>) -> Cow<'_, str> {
    let kept = text.trim_end_matches('\0').len();
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(&text[..kept]),
        Cow::Owned(mut text) => {
            text.truncate(kept);
            Cow::Owned(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_pages() {
        for (bytes, page, expected) in [
            (&b"caf\xe9\0"[..], 1252, "café"),
            (b"\x83\x65\x83\x58\x83\x67", 932, "テスト"),
            (b"\xc7\xd1\xb1\xdb\0\0", 949, "한글"),
            (b"\xcf\xf0\xe8", 1251, "При"),
            (b"\xd0\x9f", 65001, "П"),
            (b"\xd0\x9f", 4711, "П"),
            (b"\xe9", 4711, "é"),
            (b"\xb1", 28592, "ą"),
            (b"\0\0", 1252, ""),
            (b"Gr\x81\xe1e \x9b \x80\xff\0", 437, "Grüße ¢ Ç\u{a0}"),
            (b"Gr\x81\xe1e \x9b \xb5\xd5\xf0", 850, "Grüße ø Áı\u{ad}"),
        ] {
            assert_eq!(decode(bytes, page), expected, "{page}");
        }
        for oem in [OEM_437, OEM_850] {
            let chars: std::collections::HashSet<char> = oem.chars().collect();
            assert_eq!((chars.len(), oem.chars().count()), (128, 128), "one character for each byte");
        }
        assert_eq!(decode_html(b"<p>\x81", Some(850), 1252), "<p>ü");
        assert_eq!(decode_wide(b"a\0\xe9\0\0\0x"), "aé");
        assert_eq!(decode_wide(b"\x3d\xd8"), "\u{fffd}");
        assert_eq!(decode_html(b"<p>\xe9", None, 1252), "<p>é");
        assert_eq!(decode_html("<p>é".as_bytes(), None, 1252), "<p>é");
        assert_eq!(decode_html("<p>é".as_bytes(), Some(1252), 1252), "<p>Ã©");
        assert_eq!(decode_html("\u{feff}<p>é".as_bytes(), Some(1252), 1252), "<p>é");
    }
}
