//! Text in Windows code pages.

use std::borrow::Cow;

use encoding_rs::Encoding;

/// Western European, which Windows and we fall back to.
pub(crate) const WINDOWS_1252: u32 = 1252;

/// The encoding of a Windows code page; `None` when it is not one of the Encoding Standard's.
pub(crate) fn encoding(code_page: u32) -> Option<&'static Encoding> {
    let label = match code_page {
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
        1250..=1258 => return Encoding::for_label(format!("windows-{code_page}").as_bytes()),
        28592..=28606 => return Encoding::for_label(format!("iso-8859-{}", code_page - 28590).as_bytes()),
        _ => return None,
    };
    Encoding::for_label(label.as_bytes())
}

/// The text; what the code page does not explain is U+FFFD. An unknown code page is read as UTF-8 where that fits, else as
/// windows-1252. NULs at the end are the terminator and no text.
pub(crate) fn decode(bytes: &[u8], code_page: u32) -> Cow<'_, str> {
    let found = encoding(code_page);
    // of UTF-16 a zero byte at the end may be half a character
    let wide = found.is_some_and(|e| e == encoding_rs::UTF_16LE || e == encoding_rs::UTF_16BE);
    let bytes = if wide { bytes } else { trim_nuls(bytes) };
    let text = match found {
        Some(encoding) => encoding.decode_without_bom_handling(bytes).0,
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
pub(crate) fn decode_html(bytes: &[u8], code_page: Option<u32>, other: u32) -> String {
    let bytes = trim_nuls(bytes);
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") || bytes.starts_with(b"\xef\xbb\xbf")
    {
        return encoding_rs::UTF_8.decode(bytes).0.into_owned();
    }
    match (code_page, std::str::from_utf8(bytes)) {
        (Some(page), _) if encoding(page).is_some() => decode(bytes, page).into_owned(),
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
        ] {
            assert_eq!(decode(bytes, page), expected, "{page}");
        }
        assert_eq!(decode_wide(b"a\0\xe9\0\0\0x"), "aé");
        assert_eq!(decode_wide(b"\x3d\xd8"), "\u{fffd}");
        assert_eq!(decode_html(b"<p>\xe9", None, 1252), "<p>é");
        assert_eq!(decode_html("<p>é".as_bytes(), None, 1252), "<p>é");
        assert_eq!(decode_html("<p>é".as_bytes(), Some(1252), 1252), "<p>Ã©");
        assert_eq!(decode_html("\u{feff}<p>é".as_bytes(), Some(1252), 1252), "<p>é");
    }
}
