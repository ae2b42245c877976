//! From a text or a file to settings and findings.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use email_router_model::{CapError, read_file_capped};

use crate::files::beside;
use crate::finding::{Code, Finding, Position, Severity};
use crate::lint::lint;
use crate::settings::{Settings, convert};
use crate::tree::{self, Damage, MAX_BYTES};
use crate::wire;

/// Checks the text of a configuration file. `path` is where it stands or will stand: relative paths in it start at its folder, and
/// findings name it. The settings are there exactly when no finding is an error. Findings are in the order of the file.
///
/// ```
/// use email_router_config::check;
/// let text = "<Configuration><SystemConfiguration><MaxThreads>0</MaxThreads></SystemConfiguration></Configuration>";
/// let (settings, findings) = check(text, "EmailAgent.xml".as_ref());
/// assert!(settings.is_none());
/// assert_eq!(
///     findings[0].to_string(),
///     "EmailAgent.xml:1:37: error: MaxThreads is 0; it must be between 1 and 10000 [out-of-range]"
/// );
/// ```
#[must_use]
pub fn check(text: &str, path: &Path) -> (Option<Settings>, Vec<Finding>) {
    check_bytes(text.as_bytes(), path)
}

/// The same for the bytes of a file, as a router that loads it sees them: what is not UTF-8 is damage.
#[must_use]
pub fn check_bytes(bytes: &[u8], path: &Path) -> (Option<Settings>, Vec<Finding>) {
    match text_of(bytes).and_then(|text| examine(text, path)) {
        Ok(checked) => checked,
        Err(damage) => (None, vec![damaged(path, &damage)]),
    }
}

/// The same, with damage kept apart from faults.
pub(crate) fn examine(text: &str, path: &Path) -> Result<(Option<Settings>, Vec<Finding>), Damage> {
    let root = tree::parse(text)?;
    let linted = lint(&root, path);
    let mut findings = linted.findings;
    let mut settings = None;
    if root.is("Configuration") {
        let wire: wire::Configuration = yaserde::de::from_str(&linted.clean)
            .map_err(|error| Damage { at: root.at, message: tree::lower(&error.to_string()) })?;
        let (converted, more) = convert(&wire, path, &linted.places);
        settings = converted.filter(|_| !findings.iter().any(Finding::is_error));
        findings.extend(more);
    }
    findings.sort_by_key(|f| (f.line, f.column)); // stable: what was found first stays first
    Ok((settings, findings))
}

fn damaged(path: &Path, damage: &Damage) -> Finding {
    let message = format!("the file is damaged: {}", damage.message);
    Finding::new(Severity::Error, Code::Damaged, path, damage.at, "", message)
}

/// What [`Settings::load`] found.
#[derive(Debug, Clone)]
pub struct LoadOutcome {
    /// The settings to run with.
    pub settings: Settings,
    /// Warnings; and the damage of the current file, as an error with its place, where the previous one is used.
    pub findings: Vec<Finding>,
    /// Which file the settings come from.
    pub generation: Generation,
}

/// Which of the two files kept by [`publish`](crate::publish()) is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Generation {
    /// The file itself.
    Current,
    /// `NAME.previous`: what the file held before it was published last.
    Previous,
}

/// Why there are no settings.
#[derive(Debug)]
#[non_exhaustive]
pub enum LoadError {
    /// The file can be read but has faults. The previous generation is not used then: somebody wrote this on purpose and has to
    /// hear about it.
    Invalid(Vec<Finding>),
    /// The file cannot be read at all, for lack of it or of permission.
    Unreadable(CapError),
}

impl LoadError {
    /// What is wrong with the file, where it could be read.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        match self {
            Self::Invalid(findings) => findings,
            Self::Unreadable(_) => &[],
        }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(findings) => {
                let mut errors = findings.iter().filter(|f| f.is_error());
                if let Some(first) = errors.next() {
                    write!(f, "{first}")?;
                }
                match errors.count() {
                    0 => Ok(()),
                    more => write!(f, " (and {more} more)"),
                }
            }
            Self::Unreadable(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable(error) => Some(error),
            Self::Invalid(_) => None,
        }
    }
}

impl Settings {
    /// Loads a configuration file.
    ///
    /// Where the file is damaged (cut, empty, not well-formed, not UTF-8), the previous generation beside it is used instead; the
    /// findings then hold the damage with its place and a warning that says so.
    ///
    /// # Errors
    /// [`LoadError::Unreadable`] for a file that is not there; [`LoadError::Invalid`] for one with faults, and for a damaged one
    /// whose previous generation cannot be used either, with the faults of both.
    pub fn load(path: &Path) -> Result<LoadOutcome, LoadError> {
        let bytes = match read_file_capped(path, MAX_BYTES as u64) {
            Ok(bytes) => bytes,
            Err(error @ CapError::TooLarge { .. }) => {
                let message = error.to_string();
                return fall_back(path, damaged(path, &Damage { at: Position::START, message }));
            }
            Err(error) => return Err(LoadError::Unreadable(error)),
        };
        Self::from_bytes(&bytes, path)
    }

    /// The same for the bytes of the current file, already read.
    pub(crate) fn from_bytes(bytes: &[u8], path: &Path) -> Result<LoadOutcome, LoadError> {
        match text_of(bytes).and_then(|text| examine(text, path)) {
            Ok((Some(settings), findings)) => {
                Ok(LoadOutcome { settings, findings, generation: Generation::Current })
            }
            Ok((None, findings)) => Err(LoadError::Invalid(findings)),
            Err(damage) => fall_back(path, damaged(path, &damage)),
        }
    }
}

/// Where the previous generation of a file is kept.
#[must_use]
pub fn previous_path(path: &Path) -> PathBuf {
    beside(path, ".previous")
}

fn fall_back(path: &Path, damage: Finding) -> Result<LoadOutcome, LoadError> {
    let previous = previous_path(path);
    let (settings, mut findings) = match load_previous(&previous) {
        Ok(loaded) => loaded,
        Err(mut findings) => {
            findings.insert(0, damage);
            return Err(LoadError::Invalid(findings));
        }
    };
    let message = format!(
        "the previous generation {} is used, since the current file is damaged; repair it and publish again",
        previous.display()
    );
    let at = Position { line: damage.line, column: damage.column };
    let notice = Finding::new(Severity::Warning, Code::PreviousGeneration, path, at, "", message);
    findings.splice(0..0, [damage, notice]);
    Ok(LoadOutcome { settings, findings, generation: Generation::Previous })
}

/// The previous generation, or why it cannot be used: nothing where there is none.
fn load_previous(previous: &Path) -> Result<(Settings, Vec<Finding>), Vec<Finding>> {
    let bytes = match read_file_capped(previous, MAX_BYTES as u64) {
        Ok(bytes) => bytes,
        Err(CapError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Err(Vec::new());
        }
        Err(error) => {
            let message = format!("the previous generation cannot be used either: {error}");
            let at = Position::START;
            let finding = Finding::new(Severity::Error, Code::PreviousGeneration, previous, at, "", message);
            return Err(vec![finding]);
        }
    };
    // relative paths start at the same folder, and findings have to name the file they are about
    match check_bytes(&bytes, previous) {
        (Some(settings), findings) => Ok((settings, findings)),
        (None, mut findings) => {
            findings.retain(Finding::is_error);
            for finding in &mut findings {
                finding.message =
                    format!("the previous generation cannot be used either: {}", finding.message);
            }
            Err(findings)
        }
    }
}

/// The text of a file: UTF-8, with or without a byte order mark.
pub(crate) fn text_of(bytes: &[u8]) -> Result<&str, Damage> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        let message = "the file is UTF-16; save it as UTF-8".to_owned();
        return Err(Damage { at: Position::START, message });
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let valid = std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default();
        let at = crate::finding::LineIndex::new(valid).position(valid.len());
        Damage { at, message: "here is a byte that is not UTF-8; save the file as UTF-8".to_owned() }
    })
}
