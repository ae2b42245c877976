//! File names: unique names, flags, ids, folders.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};

use email_router_model::{MessageId, RawMessage, RemoteId, Timestamp};

use crate::{Error, ErrorKind, Result};

/// What stands between the unique name and the flags. The colon of the specification may not stand in a file name on Windows; programs there
/// use the semicolon.
pub(crate) const INFO: &str = if cfg!(windows) { ";2," } else { ":2," };

/// A file name taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileName {
    /// The unique part, which stays when flags change.
    pub(crate) base: Vec<u8>,
    /// The flags, in ASCII order, each once: the standard ones are capitals (`D F P R S T`), small letters are Dovecot's keywords.
    pub(crate) flags: BTreeSet<u8>,
}

impl FileName {
    /// Takes a name apart at the last `:2,`. A name with other information behind a colon is a base name as a whole: nothing of it
    /// is lost when flags are set.
    pub(crate) fn parse(name: &[u8]) -> Self {
        let base = base(name);
        let flags = name.get(base.len() + INFO.len()..).unwrap_or_default();
        Self { base: base.to_vec(), flags: flags.iter().copied().collect() }
    }

    /// The name a file has in `cur`: always with information (specification: "when you move a file from new to cur, you have to change
    /// its name from uniq to uniq:info").
    pub(crate) fn in_cur(&self) -> OsString {
        let flags: Vec<u8> = self.flags.iter().copied().collect();
        os_string([&self.base, INFO.as_bytes(), &flags].concat())
    }

    /// The same under another base name, where files of the name are there already; as it is for 0.
    pub(crate) fn copy(&self, number: usize) -> Self {
        let mut copy = self.clone();
        if number > 0 {
            copy.base.extend_from_slice(format!(",copy{number}").as_bytes());
        }
        copy
    }

    /// The same with one more flag.
    pub(crate) fn with(mut self, flag: u8) -> Self {
        self.flags.insert(flag);
        self
    }
}

/// The unique part of a file name.
pub(crate) fn base(name: &[u8]) -> &[u8] {
    let info = INFO.as_bytes();
    &name[..name.windows(info.len()).rposition(|w| w == info).unwrap_or(name.len())]
}

/// The bytes of a file name.
#[cfg(unix)]
pub(crate) fn name_bytes(name: &OsStr) -> Vec<u8> {
    std::os::unix::ffi::OsStrExt::as_bytes(name).to_vec()
}
/// The bytes of a file name.
#[cfg(not(unix))]
pub(crate) fn name_bytes(name: &OsStr) -> Vec<u8> {
    name.to_string_lossy().into_owned().into_bytes()
}

/// The file name of these bytes.
#[cfg(unix)]
pub(crate) fn os_string(bytes: Vec<u8>) -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(bytes)
}
/// The file name of these bytes.
#[cfg(not(unix))]
pub(crate) fn os_string(bytes: Vec<u8>) -> OsString {
    OsString::from(String::from_utf8_lossy(&bytes).into_owned())
}

/// The remote id of a base name: the name itself where it is plain text; `%` and every byte that is no printable character become `%XX`,
/// so two names never give one id.
pub(crate) fn id_of(base: &[u8]) -> RemoteId {
    let mut text = String::with_capacity(base.len());
    for chunk in base.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '%' || c.is_control() {
                let mut bytes = [0; 4];
                c.encode_utf8(&mut bytes).bytes().for_each(|b| text.push_str(&format!("%{b:02X}")));
            } else {
                text.push(c);
            }
        }
        chunk.invalid().iter().for_each(|b| text.push_str(&format!("%{b:02X}")));
    }
    RemoteId::new(text)
}

/// The base name of a remote id; `None` for a text that is no id of ours or no file name.
pub(crate) fn base_of(id: &RemoteId) -> Option<Vec<u8>> {
    let mut base = Vec::with_capacity(id.as_str().len());
    let mut bytes = id.as_str().bytes();
    while let Some(b) = bytes.next() {
        if b == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            base.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            base.push(b);
        }
    }
    let is_name = !base.is_empty() && base[0] != b'.' && !base.iter().any(|b| matches!(b, b'/' | 0));
    is_name.then_some(base)
}

/// When a message was delivered, as its name tells: seconds, then the microseconds of `M123456`, as in `1700000000.M123456P7.host`.
pub(crate) fn time_in_name(base: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(base).ok()?;
    let (seconds, rest) = text.split_once('.')?;
    if seconds.is_empty() || seconds.len() > 11 || !seconds.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let middle = rest.split('.').next().unwrap_or_default();
    let digits = middle.split_once('M').map(|(_, d)| d).unwrap_or_default();
    let digits = &digits[..digits.bytes().take(6).take_while(u8::is_ascii_digit).count()];
    Some((seconds.parse().ok()?, digits.parse().unwrap_or(0)))
}

/// What makes a new file name unique on this machine and beyond.
#[derive(Debug, Clone)]
pub(crate) struct Unique<'a> {
    pub(crate) now: Timestamp,
    pub(crate) process: u32,
    pub(crate) count: u64,
    pub(crate) random: u64,
    pub(crate) host: &'a str,
}

impl Unique<'_> {
    /// A name in the form the specification recommends, with the tag of the Message-ID for [`tag_of`] behind the host.
    pub(crate) fn name(&self, tag: &str) -> String {
        let Self { process, count, random, .. } = self;
        let (seconds, micros) = (self.now.as_second(), self.now.subsec_microsecond());
        // specification: "/" in the host becomes \057 and ":" becomes \072
        let host: String = self
            .host
            .chars()
            .filter(|c| !c.is_control())
            .map(|c| match c {
                '/' => "\\057".to_owned(),
                ':' => "\\072".to_owned(),
                ',' | ';' => "_".to_owned(),
                c => c.to_string(),
            })
            .collect();
        format!("{seconds}.M{micros:06}P{process}Q{count}R{random:016x}.{host},I={tag}")
    }
}

/// Sixteen hexadecimal digits of a Message-ID's digest: stands in the names of submitted messages so that they are found without opening
/// every file.
pub(crate) fn tag_of(message_id: &MessageId) -> String {
    RawMessage::new(message_id.as_str().to_owned()).digest()[..16].to_owned()
}

/// The tag in a base name, where it has one.
pub(crate) fn tag_in(base: &[u8]) -> Option<&[u8]> {
    let at = base.windows(3).rposition(|w| w == b",I=")?;
    base.get(at + 3..at + 19)
}

/// The directory of a Maildir++ folder beside the inbox: `Undeliverable` is `.Undeliverable`, `A/B` is `.A.B`; what is not ASCII is written
/// in modified UTF-7 (RFC 3501 5.1.3), as Courier and Dovecot do.
pub(crate) fn folder_directory(name: &str) -> Result<String> {
    let mut directory = String::new();
    for part in name.split(['/', '.']) {
        if part.is_empty() || part.chars().any(char::is_control) {
            let text = format!("maildir: {name:?} cannot be the name of a folder");
            return Err(Error::new(ErrorKind::Settings, text).with_hint(
                "a folder name has printable characters; / or . stands between a folder and its subfolder",
            ));
        }
        directory.push('.');
        directory.push_str(&modified_utf7(part));
    }
    Ok(directory)
}

fn modified_utf7(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,";
    let mut out = String::new();
    let mut shifted: Vec<u16> = Vec::new();
    let flush = |shifted: &mut Vec<u16>, out: &mut String| {
        if shifted.is_empty() {
            return;
        }
        let bytes: Vec<u8> = shifted.drain(..).flat_map(u16::to_be_bytes).collect();
        out.push('&');
        for chunk in bytes.chunks(3) {
            let bits =
                chunk.iter().fold(0u32, |bits, b| bits << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
            for digit in 0..=chunk.len() {
                out.push(DIGITS[(bits >> (18 - 6 * digit)) as usize & 63] as char);
            }
        }
        out.push('-');
    };
    for c in text.chars() {
        if matches!(c, ' '..='~') {
            flush(&mut shifted, &mut out);
            out.push(c);
            if c == '&' {
                out.push('-');
            }
        } else {
            shifted.extend_from_slice(c.encode_utf16(&mut [0; 2]));
        }
    }
    flush(&mut shifted, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names() {
        for (name, base, flags) in [
            ("1.M2P3.host", "1.M2P3.host", ""),
            ("1.M2P3.host:2,", "1.M2P3.host", ""),
            ("1.M2P3.host,S=12:2,SR", "1.M2P3.host,S=12", "RS"),
            ("1.host:2,FSab", "1.host", "FSab"),
            ("1.host:1,odd", "1.host:1,odd", ""),
            ("strange:2,a:2,S", "strange:2,a", "S"),
        ] {
            let parsed = FileName::parse(name.as_bytes());
            let due = (base.as_bytes().to_vec(), flags.bytes().collect());
            assert_eq!((parsed.base, parsed.flags), due, "{name}");
        }
        let seen = FileName::parse(b"1.host:2,FTb").with(b'S').with(b'S');
        assert_eq!(seen.in_cur(), "1.host:2,FSTb");
    }

    #[test]
    fn times() {
        for (name, due) in [
            ("1700000000.M123456P7.host", Some((1_700_000_000, 123_456))),
            ("1700000000.P7M5V8.host", Some((1_700_000_000, 5))),
            ("1700000000.7_1.host", Some((1_700_000_000, 0))),
            ("1700000000", None),
            ("mail.1", None),
            ("99999999999999999999.x", None),
        ] {
            assert_eq!(time_in_name(name.as_bytes()), due, "{name}");
        }
    }

    #[test]
    fn folders() {
        for (name, due) in [
            ("Undeliverable", ".Undeliverable"),
            ("A/B", ".A.B"),
            ("Unzustellbar für uns", ".Unzustellbar f&APw-r uns"),
            ("R&D", ".R&-D"),
            ("台北", ".&U,BTFw-"),
            ("📫", ".&2D3c6w-"),
        ] {
            assert_eq!(folder_directory(name).unwrap(), due, "{name}");
        }
        for name in ["", "..", "../x", "/a", "a//b", "a\nb", "a/"] {
            assert!(folder_directory(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn unique_names() {
        let now = "2024-01-02T03:04:05.000678Z".parse().unwrap();
        let unique = Unique { now, process: 9, count: 3, random: 0xAB, host: "a/b:c" };
        let name = unique.name("0123456789abcdef");
        assert_eq!(name, "1704164645.M000678P9Q3R00000000000000ab.a\\057b\\072c,I=0123456789abcdef");
        assert_eq!(time_in_name(name.as_bytes()), Some((1_704_164_645, 678)));
        assert_eq!(tag_in(name.as_bytes()), Some(&b"0123456789abcdef"[..]));
        assert_eq!(tag_in(b"1.host"), None);
    }

    proptest! {
        #[test]
        fn ids_are_reversible(base in proptest::collection::vec(any::<u8>(), 1..40)) {
            let is_name = base[0] != b'.' && !base.iter().any(|b| matches!(b, b'/' | 0));
            let id = id_of(&base);
            prop_assert!(!id.as_str().chars().any(char::is_control));
            prop_assert_eq!(base_of(&id), is_name.then_some(base));
        }

        #[test]
        fn flags_print_and_parse(base in "[a-zA-Z0-9.,=_:]{1,30}", flags in "[A-Za-z]{0,12}") {
            let name = FileName { base: base.into_bytes(), flags: flags.bytes().collect() };
            prop_assert_eq!(FileName::parse(&name_bytes(&name.in_cur())), name);
        }
    }
}
