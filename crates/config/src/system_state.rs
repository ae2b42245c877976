//! Import of the original's `Microsoft.Crm.Tools.EmailAgent.SystemState.xml`: up to when each mailbox has been processed.
//!
//! The file was rewritten in place all the time and is often found damaged (behaviour document, section 4), so this reader takes
//! what is whole and reports the rest. Of the file's shape only this is known: somewhere there is one element per mailbox, named by a
//! hash, with the children `EmailAddress`, `LastError` and `ThresholdDate`. Root and nesting are not, so any are accepted.

use std::collections::HashMap;
use std::path::Path;

use email_router_model::{CapError, EmailAddress, Timestamp, read_file_capped};
use quick_xml::Reader;
use quick_xml::events::Event;

use crate::finding::{Code, Finding, LineIndex, Position, Severity};
use crate::tree::{lower, shorten};

/// The largest file read, in bytes: a hundred thousand mailboxes.
pub const MAX_STATE_BYTES: u64 = 64 * 1024 * 1024;
/// The most findings listed; a hostile file has millions.
const MAX_FINDINGS: usize = 1_000;
/// The deepest nesting followed.
const MAX_OPEN: usize = 256;

/// What could be read out of a state file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SystemState {
    /// Per address, the time after which messages were not processed yet; in the order of the file, each address once.
    pub thresholds: Vec<(EmailAddress, Timestamp)>,
    /// What was passed over and why, and where the file is damaged: the first thousand of them, then how many more there are. None of them is an error: nothing here stops an import.
    pub findings: Vec<Finding>,
}

impl SystemState {
    /// Reads a file.
    ///
    /// # Errors
    /// [`CapError`] when the file cannot be read or is larger than [`MAX_STATE_BYTES`]. Damage is not an error.
    pub fn load(path: &Path) -> Result<Self, CapError> {
        read_file_capped(path, MAX_STATE_BYTES).map(|bytes| Self::import(&bytes, path))
    }

    /// Reads the bytes of a file; `path` is for the findings only.
    ///
    /// UTF-8, or UTF-16 with a byte order mark or a recognizable first `<`. Where tags are not closed or the file is cut, the
    /// complete entries before the damage count. Of an address that appears twice the later time counts. `0001-01-01` means that
    /// there is no threshold.
    #[must_use]
    pub fn import(bytes: &[u8], path: &Path) -> Self {
        let (text, replaced) = decode(bytes);
        let index = LineIndex::new(&text);
        let mut scan = Scan {
            path,
            index: &index,
            open: Vec::new(),
            entries: Vec::new(),
            known: HashMap::new(),
            findings: Vec::new(),
            left_out: 0,
        };
        if replaced {
            scan.warn(0, Code::Damaged, "the file holds bytes that are no text; they were passed over");
        }
        if text.trim_start_matches('\u{feff}').trim().is_empty() {
            scan.warn(0, Code::Damaged, "the file is empty, so there are no thresholds to import");
        } else {
            scan.run(&text);
        }
        if scan.left_out > 0 {
            let message = format!("and {} more findings, which are not listed", scan.left_out);
            scan.findings.push(Finding::new(
                Severity::Warning,
                Code::StateEntry,
                path,
                Position::START,
                "",
                message,
            ));
        }
        Self { thresholds: scan.entries, findings: scan.findings }
    }
}

/// Which of the two children an open element is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaf {
    Address,
    Threshold,
}

/// A text and where its element stands.
type Value = (String, usize);

/// An element that is open.
struct Frame {
    name: String,
    start: usize,
    text: String,
    leaf: Option<Leaf>,
    /// What was found below. `None` inside means there were several, so that nothing can be paired.
    address: Option<Option<Value>>,
    threshold: Option<Option<Value>>,
}

struct Scan<'a> {
    path: &'a Path,
    index: &'a LineIndex<'a>,
    open: Vec<Frame>,
    entries: Vec<(EmailAddress, Timestamp)>,
    /// Address to its place in `entries`.
    known: HashMap<EmailAddress, usize>,
    findings: Vec<Finding>,
    /// Findings beyond [`MAX_FINDINGS`].
    left_out: usize,
}

impl Scan<'_> {
    fn warn(&mut self, offset: usize, code: Code, message: &str) {
        if self.findings.len() >= MAX_FINDINGS {
            self.left_out += 1;
            return;
        }
        let at = if offset == 0 { Position::START } else { self.index.position(offset) };
        self.findings.push(Finding::new(Severity::Warning, code, self.path, at, "", message));
    }

    fn run(&mut self, text: &str) {
        let base = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        let mut reader = Reader::from_str(&text[base..]);
        let config = reader.config_mut();
        config.check_end_names = false;
        config.allow_unmatched_ends = true;
        config.allow_dangling_amp = true;
        let offset = |position: u64| base + usize::try_from(position).unwrap_or(0);
        let mut elements = false;
        loop {
            let from = offset(reader.buffer_position());
            match reader.read_event() {
                Ok(Event::Start(tag)) => {
                    elements = true;
                    if self.open.len() >= MAX_OPEN {
                        self.warn(
                            from,
                            Code::Damaged,
                            "elements are nested too deep; the rest was passed over",
                        );
                        return;
                    }
                    self.start(tag.local_name().as_ref(), from);
                }
                Ok(Event::Empty(_)) => elements = true,
                Ok(Event::End(tag)) => self.end(tag.local_name().as_ref(), from),
                Ok(Event::Text(t)) => self.characters(&t.into_inner()),
                Ok(Event::CData(t)) => self.characters(&t.into_inner()),
                Ok(Event::GeneralRef(r)) => {
                    let c = r.resolve_char_ref().ok().flatten();
                    let text = c.map(String::from);
                    let text = text.or_else(|| quick_xml::escape::resolve_xml_entity(&r).map(str::to_owned));
                    self.characters(&text.unwrap_or_default());
                }
                Ok(Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_)) => {}
                Ok(Event::Eof) => break,
                Err(error) => {
                    let message = format!(
                        "the file is damaged here: {}; the complete entries before it were taken",
                        lower(&error.to_string())
                    );
                    self.warn(offset(reader.error_position()).max(from), Code::Damaged, &message);
                    return;
                }
            }
        }
        if let Some(frame) = self.open.first() {
            let message = format!(
                "the file ends before the end tag of {}; the complete entries before it were taken",
                shorten(&frame.name)
            );
            self.warn(text.len(), Code::Damaged, &message);
        } else if !elements {
            self.warn(0, Code::Damaged, "the file holds no elements, so there are no thresholds to import");
        }
    }

    fn start(&mut self, name: &str, at: usize) {
        let leaf = match name.to_ascii_lowercase().as_str() {
            "emailaddress" => Some(Leaf::Address),
            "thresholddate" => Some(Leaf::Threshold),
            _ => None,
        };
        let frame = Frame {
            name: name.to_owned(),
            start: at,
            text: String::new(),
            leaf,
            address: None,
            threshold: None,
        };
        self.open.push(frame);
    }

    fn characters(&mut self, text: &str) {
        // the longest text that counts is an address; error texts may be long
        if let Some(frame) = self.open.last_mut().filter(|f| f.leaf.is_some() && f.text.len() < 1_000) {
            frame.text.push_str(text);
        }
    }

    /// Closes the nearest open element of that name, and everything inside that was left open, which is damage.
    fn end(&mut self, name: &str, at: usize) {
        let Some(depth) = self.open.iter().rposition(|f| f.name == name) else {
            let message = format!("there is an end tag of {}, which is not open", shorten(name));
            self.warn(at, Code::Damaged, &message);
            return;
        };
        while self.open.len() > depth + 1 {
            let Some(frame) = self.open.pop() else { break };
            let message =
                format!("the element {} is not closed; what it held was passed over", shorten(&frame.name));
            self.warn(frame.start, Code::Damaged, &message);
        }
        let Some(frame) = self.open.pop() else { return };
        // below the root and below an element named like a published hash, the neighbours are other mailboxes
        let at_root = self.open.len() <= 1 || is_hash(&frame.name);
        match (frame.leaf, self.open.last_mut()) {
            (Some(leaf), Some(parent)) => {
                let slot = if leaf == Leaf::Address { &mut parent.address } else { &mut parent.threshold };
                put(slot, Some((frame.text, frame.start)));
            }
            (Some(_), None) => {}
            (None, parent) => match (frame.address, frame.threshold) {
                (Some(Some(address)), Some(Some(threshold))) => self.entry(&address, &threshold),
                (Some(None), _) | (_, Some(None)) => {
                    let message = format!(
                        "the element {} holds several addresses or dates, so they cannot be paired",
                        shorten(&frame.name)
                    );
                    self.warn(frame.start, Code::StateEntry, &message);
                }
                // one half: the other may stand beside this element
                (address, threshold) if !at_root => {
                    if let Some(parent) = parent {
                        address.into_iter().for_each(|a| put(&mut parent.address, a));
                        threshold.into_iter().for_each(|t| put(&mut parent.threshold, t));
                    }
                }
                (Some(Some((address, at))), None) => {
                    let message = format!("{} has no ThresholdDate", shorten(address.trim()));
                    self.warn(at, Code::StateEntry, &message);
                }
                (None, Some(Some((_, at)))) => {
                    self.warn(at, Code::StateEntry, "a ThresholdDate has no EmailAddress beside it");
                }
                (None, None) => {}
            },
        }
    }

    fn entry(&mut self, (address, address_at): &Value, (date, date_at): &Value) {
        let address = match EmailAddress::parse(address) {
            Ok(address) => address,
            Err(error) => return self.warn(*address_at, Code::StateEntry, &format!("EmailAddress: {error}")),
        };
        let date = date.trim();
        if date.starts_with("0001-01-01") || date.is_empty() {
            let message =
                format!("{address} has no threshold (0001-01-01), so its whole mailbox would be processed");
            return self.warn(*date_at, Code::StateEntry, &message);
        }
        let Some((time, zoned)) = timestamp(date) else {
            let message = format!(
                "the ThresholdDate of {address} is \"{}\", which is not a date and time",
                shorten(date)
            );
            return self.warn(*date_at, Code::StateEntry, &message);
        };
        if !zoned {
            let message = format!("the ThresholdDate of {address} has no time zone; it is taken as UTC");
            self.warn(*date_at, Code::StateEntry, &message);
        }
        match self.known.get(&address) {
            None => {
                self.known.insert(address.clone(), self.entries.len());
                self.entries.push((address, time));
            }
            Some(&i) => {
                self.entries[i].1 = self.entries[i].1.max(time);
                let message = format!("{address} appears more than once; the latest threshold counts");
                self.warn(*address_at, Code::StateEntry, &message);
            }
        }
    }
}

/// Whether an element has the form of the published names: `h` and 27 letters or digits.
fn is_hash(name: &str) -> bool {
    name.len() == 28 && name.starts_with(['h', 'H']) && name.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// Fills a slot; a second value makes it ambiguous.
fn put(slot: &mut Option<Option<Value>>, value: Option<Value>) {
    *slot = Some(if slot.is_none() { value } else { None });
}

/// An ISO 8601 date and time, and whether it names a zone. Without one it is UTC, as the original wrote nothing else.
fn timestamp(text: &str) -> Option<(Timestamp, bool)> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some((time, true));
    }
    let civil: jiff::civil::DateTime = text.parse().ok()?;
    let time = format!("{civil}Z").parse().ok()?;
    Some((time, false))
}

/// The text, and whether some of it was no text.
fn decode(bytes: &[u8]) -> (String, bool) {
    let wide = match bytes {
        [0xff, 0xfe, rest @ ..] => Some((rest, false)),
        [0xfe, 0xff, rest @ ..] => Some((rest, true)),
        [b'<', 0, ..] => Some((bytes, false)),
        [0, b'<', ..] => Some((bytes, true)),
        _ => None,
    };
    let Some((rest, big)) = wide else {
        return match std::str::from_utf8(bytes) {
            Ok(text) => (text.to_owned(), false),
            Err(_) => (String::from_utf8_lossy(bytes).into_owned(), true),
        };
    };
    let units: Vec<u16> = rest
        .chunks_exact(2)
        .map(|c| if big { u16::from_be_bytes([c[0], c[1]]) } else { u16::from_le_bytes([c[0], c[1]]) })
        .collect();
    match String::from_utf16(&units) {
        Ok(text) => (text, rest.len() % 2 == 1),
        Err(_) => (String::from_utf16_lossy(&units), true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: &str = "<hzdzpo6bojytfabbohbc41r4rjho><EmailAddress>ann@contoso.example</EmailAddress>\
                       <LastError></LastError><ThresholdDate>2010-06-19T02:37:42.0000000Z</ThresholdDate>\
                       </hzdzpo6bojytfabbohbc41r4rjho>";
    const BOB: &str = "<hc7huh096asdikakwriugmr3p1bk>\n <EmailAddress> Bob@contoso.example </EmailAddress>\n \
                       <LastError>The request failed with HTTP status 503: Service Unavailable.</LastError>\n \
                       <ThresholdDate>2012-01-02T03:04:05.1234567Z</ThresholdDate>\n</hc7huh096asdikakwriugmr3p1bk>";

    fn import(text: &str) -> (Vec<String>, Vec<String>) {
        bytes(text.as_bytes())
    }

    fn bytes(bytes: &[u8]) -> (Vec<String>, Vec<String>) {
        let state = SystemState::import(bytes, Path::new("S.xml"));
        assert!(state.findings.iter().all(|f| !f.is_error()));
        (
            state.thresholds.iter().map(|(a, t)| format!("{a} {t}")).collect(),
            state.findings.iter().map(ToString::to_string).collect(),
        )
    }

    const ANN_ENTRY: &str = "ann@contoso.example 2010-06-19T02:37:42Z";
    const BOB_ENTRY: &str = "Bob@contoso.example 2012-01-02T03:04:05.1234567Z";

    #[test]
    fn whole_files_in_any_nesting() {
        for text in [
            format!("<?xml version=\"1.0\"?><SystemState>{ANN}{BOB}</SystemState>"),
            format!("\u{feff}<a><b><c>{ANN}</c><c>{BOB}</c></b></a>"),
            format!("{ANN}{BOB}"),
            format!("<a>{ANN}<Extra/><b>{BOB}</b></a>"),
        ] {
            assert_eq!(import(&text), (vec![ANN_ENTRY.into(), BOB_ENTRY.into()], vec![]), "{text}");
        }
        let deep = "<r><h><x><EmailAddress>a@b</EmailAddress></x><y><ThresholdDate>2020-01-01T00:00:00Z</ThresholdDate>\
                    </y></h></r>";
        assert_eq!(import(deep).0, ["a@b 2020-01-01T00:00:00Z"]);
    }

    #[test]
    fn utf16_with_and_without_mark() {
        let text = format!("<S>{ANN}</S>");
        let little: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let big: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        for input in
            [little.clone(), [&[0xff, 0xfe][..], &little].concat(), [&[0xfe, 0xff][..], &big].concat(), big]
        {
            assert_eq!(bytes(&input), (vec![ANN_ENTRY.into()], vec![]));
        }
        let odd = [&[0xff, 0xfe][..], &little, b"<"].concat();
        assert_eq!(bytes(&odd).0, [ANN_ENTRY]);
        assert_eq!(bytes(&odd).1.len(), 1);
    }

    #[test]
    fn findings_have_an_end() {
        let (entries, findings) = import(&format!("<S>{}{BOB}</S>", "</x>".repeat(5_000)));
        assert_eq!((entries.len(), findings.len()), (1, MAX_FINDINGS + 1));
        assert_eq!(
            findings.last().unwrap(),
            "S.xml:1:1: warning: and 4000 more findings, which are not listed [state-entry]"
        );
    }

    #[test]
    fn empty_files() {
        for text in ["", "\u{feff}", " \r\n"] {
            let expected =
                "S.xml:1:1: warning: the file is empty, so there are no thresholds to import [damaged]";
            assert_eq!(import(text), (vec![], vec![expected.into()]), "{text:?}");
        }
        assert_eq!(import("<SystemState/>"), (vec![], vec![]));
        assert_eq!(import("plain words").1.len(), 1);
        assert_eq!(bytes(&[0; 64]).0, Vec::<String>::new());
    }

    #[test]
    fn every_cut_keeps_the_entries_before_it() {
        let text = format!("<S>\n{ANN}\n{BOB}\n</S>");
        for cut in 0..text.len() {
            let (entries, findings) = import(&text[..cut]);
            let ann = cut >= text.find("</hzd").unwrap() + "</hzdzpo6bojytfabbohbc41r4rjho>".len();
            let bob = cut >= text.find("</hc7").unwrap() + "</hc7huh096asdikakwriugmr3p1bk>".len();
            let mut expected = Vec::new();
            if ann {
                expected.push(ANN_ENTRY);
            }
            if bob {
                expected.push(BOB_ENTRY);
            }
            assert_eq!(entries, expected, "cut at {cut}");
            assert!(!findings.is_empty(), "cut at {cut}");
        }
    }

    #[test]
    fn unclosed_tags_inside() {
        let broken = ANN.replace("</ThresholdDate>", "");
        let (entries, findings) = import(&format!("<S>{broken}\n{BOB}</S>"));
        assert_eq!(entries, [BOB_ENTRY]);
        assert!(
            findings[0].contains("the element ThresholdDate is not closed; what it held was passed over"),
            "{findings:?}"
        );
        let broken = ANN.replace("</EmailAddress>", "");
        assert_eq!(import(&format!("<S>{broken}{BOB}</S>")).0, [BOB_ENTRY]);
        let broken = ANN.replace("</hzdzpo6bojytfabbohbc41r4rjho>", "");
        assert_eq!(import(&format!("<S>{BOB}{broken}</S>")).0, [BOB_ENTRY]);
    }

    #[test]
    fn dates() {
        let with =
            |date: &str| import(&format!("<S>\n{}</S>", ANN.replace("2010-06-19T02:37:42.0000000Z", date)));
        assert_eq!(with("2010-06-19T04:37:42.0000000+02:00"), (vec![ANN_ENTRY.into()], vec![]));
        let (entries, findings) = with("2010-06-19T02:37:42.0000000");
        assert_eq!(entries, [ANN_ENTRY]);
        assert!(findings[0].ends_with("has no time zone; it is taken as UTC [state-entry]"), "{findings:?}");
        for date in ["0001-01-01T00:00:00.0000000Z", "0001-01-01", ""] {
            let (entries, findings) = with(date);
            assert_eq!(entries, Vec::<String>::new());
            assert!(
                findings[0].contains("ann@contoso.example has no threshold (0001-01-01)"),
                "{findings:?}"
            );
        }
        let (entries, findings) = with("yesterday");
        assert_eq!(entries, Vec::<String>::new());
        assert_eq!(
            findings,
            [
                "S.xml:2:102: warning: the ThresholdDate of ann@contoso.example is \"yesterday\", which is not a date and \
              time [state-entry]"
            ]
        );
    }

    #[test]
    fn duplicates_and_halves() {
        let later = ANN.replace("2010", "2015").replace("ann@", "ANN@");
        let earlier = ANN.replace("2010", "2005");
        let (entries, findings) = import(&format!("<S>{ANN}{later}{earlier}</S>"));
        assert_eq!(entries, ["ann@contoso.example 2015-06-19T02:37:42Z"]);
        assert_eq!(findings.len(), 2);
        // an address without a date and a date without an address are not one entry
        let halves = "<S><a><EmailAddress>x@y</EmailAddress></a><b><ThresholdDate>2020-01-01T00:00:00Z</ThresholdDate></b></S>";
        let (entries, findings) = import(halves);
        assert_eq!(entries, Vec::<String>::new());
        assert_eq!(findings.len(), 2);
        let bad = ANN.replace("ann@contoso.example", "nobody");
        assert_eq!(import(&format!("<S>{bad}{BOB}</S>")).0, [BOB_ENTRY]);
    }

    proptest::proptest! {
        /// Whatever the bytes: no panic, no address twice, every finding inside the text.
        #[test]
        fn anything_goes(parts in proptest::collection::vec(0usize..16, 0..24), noise in proptest::collection::vec(proptest::num::u8::ANY, 0..8)) {
            const PIECES: [&str; 16] = [
                "<S>", "</S>", "<h>", "</h>", "<EmailAddress>", "</EmailAddress>", "<ThresholdDate>", "</ThresholdDate>", "a@b", "c@d",
                "2020-01-01T00:00:00.0000000Z", "0001-01-01", "<", "&amp;", "\u{feff}", "<x/>",
            ];
            let mut input: Vec<u8> = parts.iter().flat_map(|i| PIECES[*i].bytes()).collect();
            input.extend(noise);
            let state = SystemState::import(&input, Path::new("S.xml"));
            let addresses: std::collections::HashSet<_> = state.thresholds.iter().map(|(a, _)| a).collect();
            proptest::prop_assert_eq!(addresses.len(), state.thresholds.len());
            proptest::prop_assert!(state.findings.iter().all(|f| f.line as usize <= input.len() + 1));
        }
    }
}
