//! Changing a file without touching what is not changed: comments, unknown elements, white space, line ends and byte order mark
//! stay as they are, byte for byte.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::str::FromStr;

use email_router_model::read_file_capped;

use crate::load::text_of;
use crate::tree::{self, Damage, MAX_BYTES, Node, escape, shorten};

/// The text of a configuration file, open for changes. Every change leaves a well-formed document.
///
/// ```
/// use email_router_config::Document;
/// let mut document = Document::parse("<Configuration>\n  <!-- ours -->\n  <Odd x='1'/>\n</Configuration>")?;
/// document.set(&"SystemConfiguration/MaxThreads".parse()?, "20")?;
/// assert_eq!(
///     document.as_str(),
///     "<Configuration>\n  <!-- ours -->\n  <Odd x='1'/>\n  <SystemConfiguration>\n    <MaxThreads>20</MaxThreads>\n  \
///      </SystemConfiguration>\n</Configuration>"
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Document {
    text: String,
    root: Node,
}

/// The way to an element, from below the root: names separated by `/`.
///
/// Where several elements have the name, `[2]` picks the second and `[Name=Sales]` (quoted where it holds `]`, `/` or `"`:
/// `[Name="a/b"]`, with `\` before `"` and `\`) the one whose child `Name` has that text; both ignore letter case in names, and
/// `[Name=...]` ignores it in the text too, as the file does. Without either, the first is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElementPath(Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    name: String,
    pick: Pick,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pick {
    First,
    /// Counted from 1.
    Number(usize),
    /// The child of this name has this text.
    Child(String, String),
}

/// Why a change was not made; the document is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// The path cannot be read.
    #[error(
        "{0:?} is not a path of element names such as ConfigurationProfiles/ConfigurationProfile[Name=Sales]/EmailServer"
    )]
    Path(String),
    /// There is no such element, and it cannot be created, since the path picks one by number or child.
    #[error("there is no element {0}")]
    NotFound(String),
    /// The element holds other elements, so it has no value.
    #[error("the element {0} holds other elements, so it has no value to set")]
    NotAValue(String),
    /// A value that XML cannot carry.
    #[error("the value for {0} holds a control character")]
    Value(String),
    /// The document would no longer be readable; the caps are the only known cause.
    #[error("the change would damage the file: {0}")]
    Damage(Damage),
}

impl ElementPath {
    /// The path to a child of the root.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(vec![Step { name: name.to_owned(), pick: Pick::First }])
    }

    /// The path to the root itself.
    pub(crate) fn root() -> Self {
        Self(Vec::new())
    }

    /// The path to a child of what this path names.
    #[must_use]
    pub fn child(mut self, name: &str) -> Self {
        self.0.push(Step { name: name.to_owned(), pick: Pick::First });
        self
    }

    /// Picks the last step's element by the text of its child `Name`.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        if let Some(last) = self.0.last_mut() {
            last.pick = Pick::Child("Name".to_owned(), name.to_owned());
        }
        self
    }

    /// Picks the last step's element by its number among those of its name, counted from 1.
    #[must_use]
    pub fn number(mut self, number: usize) -> Self {
        if let Some(last) = self.0.last_mut() {
            last.pick = Pick::Number(number);
        }
        self
    }

    /// A path that has this text; what [`FromStr`] reads.
    fn read(text: &str) -> Option<Self> {
        let mut steps = Vec::new();
        let mut rest = text;
        loop {
            let end = rest.find(['/', '[']).unwrap_or(rest.len());
            let name = rest[..end].to_owned();
            if !is_name(&name) {
                return None;
            }
            rest = &rest[end..];
            let mut pick = Pick::First;
            if let Some(inner) = rest.strip_prefix('[') {
                let (picked, after) = read_pick(inner)?;
                pick = picked;
                rest = after;
            }
            steps.push(Step { name, pick });
            if rest.is_empty() {
                return Some(Self(steps));
            }
            rest = rest.strip_prefix('/')?;
        }
    }
}

fn read_pick(inner: &str) -> Option<(Pick, &str)> {
    let digits = inner.len() - inner.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    if digits > 0 {
        let number = inner[..digits].parse().ok().filter(|n| *n > 0)?;
        return Some((Pick::Number(number), inner[digits..].strip_prefix(']')?));
    }
    let (child, value) = inner.split_once('=')?;
    if !is_name(child) {
        return None;
    }
    let Some(quoted) = value.strip_prefix('"') else {
        let (value, after) = value.split_once(']')?;
        return Some((Pick::Child(child.to_owned(), value.to_owned()), after));
    };
    let mut text = String::new();
    let mut chars = quoted.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '"' => return Some((Pick::Child(child.to_owned(), text), quoted[i + 1..].strip_prefix(']')?)),
            '\\' => text.push(chars.next()?.1),
            c => text.push(c),
        }
    }
    None
}

/// The names we write; a subset of what XML allows.
fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'))
}

impl FromStr for ElementPath {
    type Err = EditError;
    fn from_str(text: &str) -> Result<Self, EditError> {
        Self::read(text).ok_or_else(|| EditError::Path(shorten(text)))
    }
}

impl fmt::Display for ElementPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("/")?;
            }
            f.write_str(&step.name)?;
            match &step.pick {
                Pick::First => {}
                Pick::Number(number) => write!(f, "[{number}]")?,
                Pick::Child(name, text) => {
                    write!(f, "[{name}=\"{}\"]", text.replace('\\', "\\\\").replace('"', "\\\""))?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Document {
    /// The size only: a file may hold a password that should not be there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Document").field("bytes", &self.text.len()).finish_non_exhaustive()
    }
}

impl Document {
    /// An empty configuration.
    #[must_use]
    pub fn empty() -> Self {
        let text =
            "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<Configuration>\n</Configuration>\n".to_owned();
        // the text is a constant of this function and well-formed; a test opens it
        #[allow(clippy::expect_used)]
        let root = tree::parse(&text).expect("a well-formed constant");
        Self { text, root }
    }

    /// Opens a text.
    ///
    /// # Errors
    /// [`Damage`] with the place where it is not well-formed.
    pub fn parse(text: impl Into<String>) -> Result<Self, Damage> {
        let text = text.into();
        let root = tree::parse(&text)?;
        Ok(Self { text, root })
    }

    /// Opens a file.
    ///
    /// # Errors
    /// A message that names the file, and the place of the damage if it is damaged.
    pub fn load(path: &Path) -> Result<Self, String> {
        let bytes = read_file_capped(path, MAX_BYTES as u64).map_err(|e| e.to_string())?;
        let text = text_of(&bytes);
        text.and_then(Self::parse).map_err(|damage| format!("{}:{damage}", path.display()))
    }

    /// The whole text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The root element.
    pub(crate) fn root(&self) -> &Node {
        &self.root
    }

    /// The text of an element, without surrounding white space; `None` when there is no such element.
    #[must_use]
    pub fn get(&self, path: &ElementPath) -> Option<&str> {
        self.find(path).map(|node| node.text.trim())
    }

    /// How many elements the path's last step could mean.
    #[must_use]
    pub fn count(&self, path: &ElementPath) -> usize {
        let Some((last, parents)) = path.0.split_last() else { return 0 };
        let parent = walk(&self.root, parents);
        parent.map_or(0, |p| p.children.iter().filter(|c| c.is(&last.name)).count())
    }

    /// Sets the text of an element, creating it and its parents where they are not there. White space around an old value stays.
    ///
    /// # Errors
    /// [`EditError`]; the document is unchanged then.
    pub fn set(&mut self, path: &ElementPath, value: &str) -> Result<(), EditError> {
        if value.chars().any(char::is_control) {
            return Err(EditError::Value(path.to_string()));
        }
        let depth = (0..=path.0.len()).rev().find(|n| walk(&self.root, &path.0[..*n]).is_some()).unwrap_or(0);
        let missing = &path.0[depth..];
        if missing.is_empty() {
            return self.replace_value(path, value);
        }
        if missing.iter().any(|step| step.pick != Pick::First) {
            return Err(EditError::NotFound(path.to_string()));
        }
        let names: Vec<&str> = missing.iter().map(|s| s.name.as_str()).collect();
        let style = self.style();
        self.insert_into(&path.0[..depth], |indent| element(&names, value, indent, &style))
    }

    /// Adds an element at the end of a section, with children in the given order; the section is created where it is not there.
    /// `section` is a path of plain names.
    ///
    /// # Errors
    /// [`EditError`]; the document is unchanged then.
    pub fn insert(
        &mut self,
        section: &ElementPath,
        name: &str,
        children: &[(&str, &str)],
    ) -> Result<(), EditError> {
        self.insert_all(section, &[(name, children.to_vec())])
    }

    /// Removes an element and the line it stood on, where nothing else stands there. Whether there was one.
    ///
    /// # Errors
    /// [`EditError::Damage`] is the only one; the document is unchanged then.
    pub fn remove(&mut self, path: &ElementPath) -> Result<bool, EditError> {
        let Some(node) = self.find(path).filter(|_| !path.0.is_empty()) else { return Ok(false) };
        let span = self.whole_lines(node);
        self.splice(&[(span, String::new())])?;
        Ok(true)
    }

    /// Where an element stands, with its line where nothing else stands there.
    fn whole_lines(&self, node: &Node) -> Range<usize> {
        let mut span = node.span.clone();
        let before = &self.text[..span.start];
        let indent = before.len() - before.trim_end_matches([' ', '\t']).len();
        let starts_line = before[..before.len() - indent].ends_with(['\n', '\r']);
        let after = &self.text[span.end..];
        let blank = after.len() - after.trim_start_matches([' ', '\t']).len();
        let line_end = ["\r\n", "\n", "\r"].iter().find(|e| after[blank..].starts_with(**e));
        if let (true, Some(line_end)) = (starts_line, line_end) {
            span = span.start - indent..span.end + blank + line_end.len();
        }
        span
    }

    /// Sets the texts of many elements that are there, in one step however many they are.
    ///
    /// # Errors
    /// As [`Self::set`], and [`EditError::NotFound`] for an element that is not there; the document is unchanged then.
    pub fn set_all(&mut self, values: &[(ElementPath, String)]) -> Result<(), EditError> {
        let mut edits = Vec::new();
        for (path, value) in values {
            if value.chars().any(char::is_control) {
                return Err(EditError::Value(path.to_string()));
            }
            let node = self.find(path).ok_or_else(|| EditError::NotFound(path.to_string()))?;
            if !node.children.is_empty() || path.0.is_empty() {
                return Err(EditError::NotAValue(path.to_string()));
            }
            edits.extend(value_edits(node, value, &self.text));
        }
        edits.sort_by_key(|(range, _)| range.start);
        self.splice(&edits)
    }

    /// Adds many elements at the end of a section as [`Self::insert`] adds one, in one step however many they are.
    ///
    /// # Errors
    /// As [`Self::insert`]; the document is unchanged then.
    pub fn insert_all(
        &mut self,
        section: &ElementPath,
        records: &[(&str, Vec<(&str, &str)>)],
    ) -> Result<(), EditError> {
        for (name, children) in records {
            if let Some(bad) = [name].into_iter().chain(children.iter().map(|(n, _)| n)).find(|n| !is_name(n))
            {
                return Err(EditError::Path(shorten(bad)));
            }
            if let Some((bad, _)) = children.iter().find(|(_, v)| v.chars().any(char::is_control)) {
                return Err(EditError::Value(format!("{section}/{name}/{bad}")));
            }
        }
        if records.is_empty() {
            return Ok(());
        }
        let depth =
            (0..=section.0.len()).rev().find(|n| walk(&self.root, &section.0[..*n]).is_some()).unwrap_or(0);
        let missing = &section.0[depth..];
        if missing.iter().any(|step| step.pick != Pick::First) {
            return Err(EditError::NotFound(section.to_string()));
        }
        let names: Vec<&str> = missing.iter().map(|s| s.name.as_str()).collect();
        let style = self.style();
        self.insert_into(&section.0[..depth], |indent| all_records(&names, records, indent, &style))
    }

    /// Removes many elements as [`Self::remove`] removes one; those that are not there do not count.
    ///
    /// # Errors
    /// As [`Self::remove`]; the document is unchanged then.
    pub fn remove_all(&mut self, paths: &[ElementPath]) -> Result<(), EditError> {
        let found = paths.iter().filter(|path| !path.0.is_empty()).filter_map(|path| self.find(path));
        let mut spans: Vec<Edit> = found.map(|node| (self.whole_lines(node), String::new())).collect();
        spans.sort_by_key(|(range, _)| range.start);
        spans.dedup();
        self.splice(&spans)
    }

    /// The texts of all elements of this name, in the order of the file.
    pub(crate) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let mut rest = vec![&self.root];
        std::iter::from_fn(move || {
            let node = rest.pop()?;
            rest.extend(node.children.iter().rev());
            Some(node)
        })
        .filter(move |node| node.is(name))
        .map(|node| node.text.trim())
    }

    /// Replaces the text of every element that `change` has an answer for; `change` gets each element's name and text. How many.
    pub(crate) fn replace_all(
        &mut self,
        mut change: impl FnMut(&str, &str) -> Option<String>,
    ) -> Result<usize, EditError> {
        fn visit(
            node: &Node,
            change: &mut impl FnMut(&str, &str) -> Option<String>,
            out: &mut Vec<Edit>,
            text: &str,
        ) {
            if node.children.is_empty()
                && let Some(value) = change(&node.name, node.text.trim())
            {
                out.extend(value_edits(node, &value, text));
            }
            for child in &node.children {
                visit(child, change, out, text);
            }
        }
        let mut edits = Vec::new();
        let mut count = 0;
        let mut counted = |name: &str, text: &str| change(name, text).inspect(|_| count += 1);
        visit(&self.root, &mut counted, &mut edits, &self.text);
        self.splice(&edits)?;
        Ok(count)
    }

    fn find(&self, path: &ElementPath) -> Option<&Node> {
        walk(&self.root, &path.0)
    }

    fn replace_value(&mut self, path: &ElementPath, value: &str) -> Result<(), EditError> {
        let Some(node) = self.find(path) else { return Err(EditError::NotFound(path.to_string())) };
        if !node.children.is_empty() || path.0.is_empty() {
            return Err(EditError::NotAValue(path.to_string()));
        }
        let edits = value_edits(node, value, &self.text);
        self.splice(&edits)
    }

    /// Inserts what `make` builds for the right indentation at the end of a section.
    fn insert_into(&mut self, parent: &[Step], make: impl FnOnce(&str) -> String) -> Result<(), EditError> {
        let Some(node) = walk(&self.root, parent) else { return Ok(()) }; // the caller found it
        let Style { line_end, unit } = self.style();
        let own = self.indent_of(node.span.start);
        let indent = match node.children.last() {
            Some(last) => self.indent_of(last.span.start).unwrap_or_default(),
            None => format!("{}{unit}", own.clone().unwrap_or_default()),
        };
        let own = own.unwrap_or_default();
        let edit = match &node.inner {
            // <A/> becomes <A> with content; everything of the tag before the slash stays
            None => {
                let tag = &self.text[node.span.clone()];
                let slash = node.span.start + tag.rfind('/').unwrap_or(tag.len() - 1);
                let name = &node.name;
                (
                    slash..node.span.end,
                    format!(">{line_end}{indent}{}{line_end}{own}</{name}>", make(&indent)),
                )
            }
            Some(inner) => {
                // after the last thing that is not white space, so that what stands before the end tag stays before it
                let content = &self.text[inner.clone()];
                let at = inner.start + content.trim_end().len();
                let closing = if content[content.trim_end().len()..].contains(['\n', '\r']) {
                    String::new()
                } else {
                    format!("{line_end}{own}")
                };
                (at..at, format!("{line_end}{indent}{}{closing}", make(&indent)))
            }
        };
        self.splice(&[edit])
    }

    /// The white space before an element on its line; `None` where something else stands there.
    fn indent_of(&self, offset: usize) -> Option<String> {
        let line = self.text[..offset].rfind(['\n', '\r']).map_or(0, |i| i + 1);
        let before = self.text[line..offset].trim_start_matches('\u{feff}');
        before.chars().all(|c| c == ' ' || c == '\t').then(|| before.to_owned())
    }

    fn style(&self) -> Style {
        let line_end = if self.text.contains("\r\n") { "\r\n" } else { "\n" };
        let first = self.root.children.first().and_then(|c| self.indent_of(c.span.start));
        let root = self.indent_of(self.root.span.start).unwrap_or_default();
        let unit = first.and_then(|f| f.strip_prefix(&root).map(str::to_owned)).filter(|u| !u.is_empty());
        Style { line_end, unit: unit.unwrap_or_else(|| "  ".to_owned()) }
    }

    fn splice(&mut self, edits: &[Edit]) -> Result<(), EditError> {
        let mut text = String::with_capacity(self.text.len() + 64);
        let mut done = 0;
        for (range, new) in edits {
            text.push_str(&self.text[done..range.start]);
            text.push_str(new);
            done = range.end;
        }
        text.push_str(&self.text[done..]);
        let root = tree::parse(&text).map_err(EditError::Damage)?;
        self.text = text;
        self.root = root;
        Ok(())
    }
}

/// Replace this range with this text; edits are in the order of the text and do not overlap.
type Edit = (Range<usize>, String);

struct Style {
    line_end: &'static str,
    unit: String,
}

fn walk<'a>(root: &'a Node, steps: &[Step]) -> Option<&'a Node> {
    steps.iter().try_fold(root, |node, step| {
        let mut same = node.children.iter().filter(|c| c.is(&step.name));
        match &step.pick {
            Pick::First => same.next(),
            Pick::Number(number) => same.nth(number - 1),
            Pick::Child(name, text) => same.find(|c| {
                let child = c.children.iter().find(|c| c.is(name));
                child.is_some_and(|c| crate::settings::same_name(&c.text, text))
            }),
        }
    })
}

/// The edits that give a leaf a new text. Comments inside it stay; white space around the old text too.
fn value_edits(node: &Node, value: &str, text: &str) -> Vec<Edit> {
    let value = escape(value);
    let Some(inner) = &node.inner else {
        let tag = &text[node.span.clone()];
        let slash = node.span.start + tag.rfind('/').unwrap_or(tag.len() - 1);
        return vec![(slash..node.span.end, format!(">{value}</{}>", node.name))];
    };
    let trimmed = |piece: &Range<usize>| {
        let whole = &text[piece.clone()];
        let start = piece.start + (whole.len() - whole.trim_start().len());
        start..start + whole.trim().len()
    };
    let old: Vec<Range<usize>> = node.pieces.iter().map(trimmed).filter(|r| !r.is_empty()).collect();
    if old.is_empty() {
        return vec![(inner.start..inner.start, value)];
    }
    old.into_iter()
        .enumerate()
        .map(|(i, r)| (r, if i == 0 { value.clone() } else { String::new() }))
        .collect()
}

/// `<A><B>value</B></A>`, one element a line except the innermost.
fn element(names: &[&str], value: &str, indent: &str, style: &Style) -> String {
    match names {
        [] => String::new(),
        [name] => format!("<{name}>{}</{name}>", escape(value)),
        [name, rest @ ..] => {
            let Style { line_end, unit } = style;
            let deeper = format!("{indent}{unit}");
            let inner = element(rest, value, &deeper, style);
            format!("<{name}>{line_end}{deeper}{inner}{line_end}{indent}</{name}>")
        }
    }
}

fn all_records(names: &[&str], records: &[(&str, Vec<(&str, &str)>)], indent: &str, style: &Style) -> String {
    let Style { line_end, unit } = style;
    let deeper = format!("{indent}{unit}");
    if let [outer, rest @ ..] = names {
        let inner = all_records(rest, records, &deeper, style);
        return format!("<{outer}>{line_end}{deeper}{inner}{line_end}{indent}</{outer}>");
    }
    let one = |(name, children): &(&str, Vec<(&str, &str)>)| {
        let mut text = format!("<{name}>");
        for (child, value) in children {
            text.push_str(&format!("{line_end}{deeper}<{child}>{}</{child}>", escape(value)));
        }
        text.push_str(&format!("{line_end}{indent}</{name}>"));
        text
    };
    records.iter().map(one).collect::<Vec<_>>().join(&format!("{line_end}{indent}"))
}
