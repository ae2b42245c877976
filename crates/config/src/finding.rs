//! What is wrong with a file, and where.

use std::fmt;
use std::path::{Path, PathBuf};

/// One thing to tell about a configuration or state file.
///
/// Its [`Display`](fmt::Display) is one line, `FILE:LINE:COLUMN: error: MESSAGE [CODE]`, the form that editors jump to. It never
/// contains a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// Whether the file can be used in spite of it.
    pub severity: Severity,
    /// Which rule was broken; stable, for programs.
    pub code: Code,
    /// What is wrong and what to do, for people.
    pub message: String,
    /// Line of the element, counted from 1.
    pub line: u32,
    /// Column of the element's `<`, counted from 1 in characters.
    pub column: u32,
    /// The file.
    pub path: PathBuf,
    /// The element, as a path of element names from the root; empty when the file as a whole is meant.
    pub element: String,
}

/// Whether a file can be used in spite of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// It can be used; something in it has no effect or is unwise.
    Warning,
    /// It cannot be used.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

macro_rules! codes {
    ($($(#[$meta:meta])* $variant:ident $text:literal),* $(,)?) => {
        /// Which rule a finding is about.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Code { $($(#[$meta])* $variant),* }

        impl Code {
            /// The code's stable name, in lower case with hyphens.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }
    };
}

codes! {
    /// A password stands in clear text in the file.
    ClearTextPassword "clear-text-password",
    /// A password would travel without encryption.
    ClearTextWithoutTls "clear-text-without-tls",
    /// The previous generation of the file is used, since the current one is damaged, or cannot be used either.
    PreviousGeneration "previous-generation",
    /// The file cannot be read as XML.
    Damaged "damaged",
    /// A profile changed its direction.
    DirectionChanged "direction-changed",
    /// Two things have the same name.
    DuplicateName "duplicate-name",
    /// An element that may stand once stands twice.
    DuplicateElement "duplicate-element",
    /// A path of another operating system.
    ForeignPath "foreign-path",
    /// The element has no effect here.
    Ignored "ignored-element",
    /// A combination of server type, protocol, authentication, credentials, user type and access type that is not allowed.
    InvalidCombination "invalid-combination",
    /// A text that is not of the required form.
    InvalidValue "invalid-value",
    /// A required element is not there.
    MissingElement "missing-element",
    /// Deployments of different families in one router.
    MixedFamilies "mixed-deployment-families",
    /// Exchange Online beside on-premises servers or POP3.
    MixedServers "mixed-servers",
    /// Something would be reachable from the network that should not be.
    NetworkListener "network-listener",
    /// Valid, but this version of the router cannot do it yet.
    NotInThisVersion "not-in-this-version",
    /// A number outside its range.
    OutOfRange "out-of-range",
    /// Something that its maker has switched off.
    Retired "retired",
    /// Two mailboxes would read the same messages, or two deployments would be one CRM.
    SharedSource "shared-source",
    /// An entry of a state file that cannot be used.
    StateEntry "state-entry",
    /// A credential would travel without encryption to the CRM.
    UnencryptedDeployment "unencrypted-deployment",
    /// Mail would travel without encryption.
    UnencryptedMail "unencrypted-mail",
    /// An attribute that this program does not know; kept as it is.
    UnknownAttribute "unknown-attribute",
    /// An element that this program does not know; kept as it is.
    UnknownElement "unknown-element",
    /// A name that refers to nothing.
    UnknownReference "unknown-reference",
    /// A word that is not one of the allowed ones.
    UnknownValue "unknown-value",
    /// A profile is used for the other direction.
    WrongDirection "wrong-direction",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Finding {
    pub(crate) fn new(
        severity: Severity,
        code: Code,
        path: &Path,
        at: Position,
        element: &str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            severity,
            code,
            message: message.into(),
            line: at.line,
            column: at.column,
            path: path.to_owned(),
            element: element.to_owned(),
        }
    }

    /// Whether the file cannot be used because of it.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { severity, code, message, line, column, path, .. } = self;
        write!(f, "{}:{line}:{column}: {severity}: {message} [{code}]", path.display())
    }
}

/// A place in a text; both counted from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line.
    pub line: u32,
    /// Column.
    pub column: u32,
}

impl Position {
    /// The first character of a text.
    pub const START: Self = Self { line: 1, column: 1 };
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Finds lines and columns of byte offsets; lines end with LF, CRLF or a lone CR (XML 1.0 section 2.11). A look-up costs the same
/// however long the line is: a hostile file may be one line of megabytes.
pub(crate) struct LineIndex<'a> {
    text: &'a str,
    starts: Vec<usize>,
    /// Characters before each block of [`BLOCK`] bytes.
    blocks: Vec<usize>,
}

const BLOCK: usize = 512;

impl<'a> LineIndex<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        let bytes = text.as_bytes();
        let mut starts = vec![0];
        let mut blocks = Vec::with_capacity(bytes.len() / BLOCK + 1);
        let mut characters = 0;
        for (i, b) in bytes.iter().enumerate() {
            if i % BLOCK == 0 {
                blocks.push(characters);
            }
            characters += usize::from(begins_character(*b));
            if *b == b'\n' || (*b == b'\r' && bytes.get(i + 1) != Some(&b'\n')) {
                starts.push(i + 1);
            }
        }
        Self { text, starts, blocks }
    }

    /// The place of the byte at `offset`; beyond the end means the end. A byte order mark has no width.
    pub(crate) fn position(&self, offset: usize) -> Position {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = self.starts[line - 1];
        let mark = usize::from(line == 1 && offset > 0 && self.text.starts_with('\u{feff}'));
        let column = self.characters(offset) - self.characters(start) - mark + 1;
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Position { line: small(line), column: small(column) }
    }

    /// Characters before `offset`.
    fn characters(&self, offset: usize) -> usize {
        let block = offset / BLOCK;
        match self.blocks.get(block) {
            Some(before) => {
                let rest = &self.text.as_bytes()[block * BLOCK..offset];
                before + rest.iter().filter(|b| begins_character(**b)).count()
            }
            // the end of a text that fills its last block
            None => block.checked_sub(1).map_or(0, |last| {
                let rest = &self.text.as_bytes()[last * BLOCK..offset];
                self.blocks[last] + rest.iter().filter(|b| begins_character(**b)).count()
            }),
        }
    }
}

/// Whether a byte of UTF-8 begins a character.
fn begins_character(byte: u8) -> bool {
    byte & 0xc0 != 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions() {
        let text = "\u{feff}<a>\r\n é<b/>\rx\n";
        let index = LineIndex::new(text);
        assert_eq!(index.position(3), Position { line: 1, column: 1 });
        assert_eq!(index.position(text.find("<b").unwrap()), Position { line: 2, column: 3 });
        assert_eq!(index.position(text.find('x').unwrap()), Position { line: 3, column: 1 });
        assert_eq!(index.position(9999), Position { line: 4, column: 1 });
    }

    #[test]
    fn long_lines_count_right() {
        for line in ["a".repeat(3 * BLOCK), "é".repeat(BLOCK), format!("\n{}", "ab€".repeat(700))] {
            let index = LineIndex::new(&line);
            for (i, _) in line.char_indices().chain([(line.len(), ' ')]) {
                let start = line[..i].rfind('\n').map_or(0, |n| n + 1);
                let column = line[start..i].chars().count() as u32 + 1;
                assert_eq!(index.position(i).column, column, "{i}");
            }
        }
    }
}
