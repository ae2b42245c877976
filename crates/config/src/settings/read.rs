//! Reading single values out of the wire types, with findings for what is wrong with them.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use email_router_model::Timestamp;

use crate::finding::{Code, Finding, Severity};
use crate::lint::{Places, REFUSED};
use crate::secret::SecretRef;
use crate::tree::shorten;
use crate::words::{Word, list};

/// Collects findings while values are read.
pub(super) struct Context<'a> {
    pub(super) file: &'a Path,
    /// Relative paths start here: the folder of the file.
    pub(super) folder: PathBuf,
    pub(super) places: &'a Places,
    pub(super) findings: Vec<Finding>,
}

/// One section of the file: its path for positions, and how messages call it.
#[derive(Clone)]
pub(super) struct Section {
    pub(super) path: String,
    /// `profile "Sales"`; empty for sections that stand once.
    pub(super) label: String,
}

impl Section {
    pub(super) fn once(path: &str) -> Self {
        Self { path: path.to_owned(), label: String::new() }
    }

    /// `label: message`, or the message alone.
    fn say(&self, message: &str) -> String {
        if self.label.is_empty() { message.to_owned() } else { format!("{}: {message}", self.label) }
    }

    fn child(&self, element: &str) -> String {
        if element.is_empty() { self.path.clone() } else { format!("{}/{element}", self.path) }
    }
}

impl Context<'_> {
    fn push(&mut self, severity: Severity, section: &Section, element: &str, code: Code, message: &str) {
        let path = section.child(element);
        let at = self.places.find(&path);
        self.findings.push(Finding::new(severity, code, self.file, at, &path, section.say(message)));
    }

    /// An error about an element of a section, or about the section itself (`element` empty).
    pub(super) fn error(&mut self, section: &Section, element: &str, code: Code, message: impl AsRef<str>) {
        self.push(Severity::Error, section, element, code, message.as_ref());
    }

    /// The same as a warning.
    pub(super) fn warn(&mut self, section: &Section, element: &str, code: Code, message: impl AsRef<str>) {
        self.push(Severity::Warning, section, element, code, message.as_ref());
    }

    pub(super) fn number(
        &mut self,
        section: &Section,
        element: &str,
        value: &Option<String>,
        range: RangeInclusive<u64>,
        unit: &str,
    ) -> Option<u64> {
        let text = value.as_deref()?;
        let (low, high) = (range.start(), range.end());
        let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
        match text.parse::<u64>() {
            Ok(number) if range.contains(&number) => return Some(number),
            Ok(number) => {
                let message = format!("{element} is {number}; it must be between {low} and {high}{unit}");
                self.error(section, element, Code::OutOfRange, message);
            }
            // a number beyond u64 or below zero is out of range, anything else is not a number
            Err(_) if is_integer(text) => {
                let text = shorten(text);
                let message = format!("{element} is {text}; it must be between {low} and {high}{unit}");
                self.error(section, element, Code::OutOfRange, message);
            }
            Err(_) => {
                let text = shorten(text);
                let message = format!(
                    "{element} is \"{text}\", which is not a whole number between {low} and {high}{unit}"
                );
                self.error(section, element, Code::InvalidValue, message);
            }
        }
        None
    }

    /// A number that fits `u32`; ranges given here always do.
    pub(super) fn count(
        &mut self,
        section: &Section,
        element: &str,
        value: &Option<String>,
        range: RangeInclusive<u32>,
        unit: &str,
    ) -> Option<u32> {
        let range = u64::from(*range.start())..=u64::from(*range.end());
        self.number(section, element, value, range, unit).and_then(|n| u32::try_from(n).ok())
    }

    /// A time in milliseconds, the unit of every time in the file.
    pub(super) fn millis(
        &mut self,
        section: &Section,
        element: &str,
        value: &Option<String>,
        range: RangeInclusive<u64>,
    ) -> Option<Duration> {
        self.number(section, element, value, range, "milliseconds").map(Duration::from_millis)
    }

    /// A moment (RFC 3339); its zone must be said, since the machine's own may change.
    pub(super) fn moment(
        &mut self,
        section: &Section,
        element: &str,
        value: &Option<String>,
    ) -> Option<Timestamp> {
        let text = value.as_deref()?;
        let moment = text.parse().ok();
        if moment.is_none() {
            let message = format!(
                "{element} is \"{}\", which is no date and time with its zone, such as 2026-11-01T00:00:00Z or 2026-11-01T00:00:00+01:00",
                shorten(text)
            );
            self.error(section, element, Code::InvalidValue, message);
        }
        moment
    }

    /// true or false, in the spellings of XML Schema (`1`, `0`), .NET (`True`, `False`) and people (`yes`, `no`).
    pub(super) fn flag(&mut self, section: &Section, element: &str, value: &Option<String>) -> Option<bool> {
        let text = value.as_deref()?;
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" => Some(true),
            "false" | "0" | "no" => Some(false),
            _ => {
                let message = format!("{element} is \"{}\", which is not one of true, false", shorten(text));
                self.error(section, element, Code::UnknownValue, message);
                None
            }
        }
    }

    pub(super) fn word<W: Word>(
        &mut self,
        section: &Section,
        element: &str,
        value: &Option<String>,
        allowed: &[W],
    ) -> Option<W> {
        let text = value.as_deref()?;
        let word = W::from_word(text).filter(|w| allowed.contains(w));
        if word.is_none() {
            let message =
                format!("{element} is \"{}\", which is not one of {}", shorten(text), list(allowed));
            self.error(section, element, Code::UnknownValue, message);
        }
        word
    }

    /// A word that must be there.
    pub(super) fn required_word<W: Word>(
        &mut self,
        section: &Section,
        element: &str,
        value: &Option<String>,
        allowed: &[W],
    ) -> Option<W> {
        if value.is_none() {
            let message = format!("{element} is missing; give one of {}", list(allowed));
            self.error(section, element, Code::MissingElement, message);
        }
        self.word(section, element, value, allowed)
    }

    /// A text that must be there.
    pub(super) fn required(
        &mut self,
        section: &Section,
        element: &str,
        value: &Option<String>,
        what: &str,
    ) -> Option<String> {
        if value.is_none() {
            let message = format!("{element} is missing; give {what}");
            self.error(section, element, Code::MissingElement, message);
        }
        value.clone()
    }

    /// A text that [`std::str::FromStr`] reads.
    pub(super) fn parsed<T: std::str::FromStr<Err: Display>>(
        &mut self,
        section: &Section,
        element: &str,
        value: &Option<String>,
    ) -> Option<T> {
        match value.as_deref()?.parse() {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                self.error(section, element, Code::InvalidValue, format!("{element}: {error}"));
                None
            }
        }
    }

    /// A path; a relative one starts at the folder of the file.
    pub(super) fn path(
        &mut self,
        section: &Section,
        element: &str,
        value: &Option<String>,
    ) -> Option<PathBuf> {
        let text = value.as_deref()?;
        if cfg!(not(windows)) && is_windows_path(text) {
            let name = element.split('#').next().unwrap_or(element);
            let message = format!("{name} is a Windows path, which means nothing on this system");
            self.error(section, element, Code::ForeignPath, message);
            return None;
        }
        Some(self.folder.join(text))
    }

    /// A reference to a secret. `None` also where a wrong one was reported already; [`is_given`] tells.
    pub(super) fn secret(&mut self, value: &Option<String>) -> Option<SecretRef> {
        let reference = SecretRef::parse(value.as_deref()?).ok()?;
        Some(reference.resolved(&self.folder))
    }

    /// Warns that an element has no effect.
    pub(super) fn no_effect(&mut self, section: &Section, element: &str, value: &Option<String>, why: &str) {
        if value.is_some() {
            let message = format!("{element} has no effect: {why}");
            self.warn(section, element, Code::Ignored, message);
        }
    }
}

/// Whether something stands there, right or wrong.
pub(super) fn is_given(value: &Option<String>) -> bool {
    value.is_some()
}

/// Whether a password stands there that was refused and reported already.
pub(super) fn is_refused(value: &Option<String>) -> bool {
    value.as_deref() == Some(REFUSED)
}

fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

pub(crate) fn is_windows_path(text: &str) -> bool {
    let bytes = text.as_bytes();
    let drive = bytes.len() >= 3 && bytes[0].is_ascii_alphabetic() && bytes[1] == b':' && bytes[2] == b'\\';
    drive || text.starts_with("\\\\")
}
