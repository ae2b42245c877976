//! The file as a tree of elements with their places in the text. One pass over quick-xml's events, with every cap that keeps
//! hostile input cheap; nothing else of this crate reads XML before this pass accepted it.

use std::ops::Range;

use quick_xml::Reader;
use quick_xml::errors::{Error as XmlError, IllFormedError};
use quick_xml::events::attributes::AttrError;
use quick_xml::events::{BytesStart, Event};

use crate::finding::{LineIndex, Position};
use crate::wire::{Configuration, Content, Element};

/// The largest file read, in bytes. A thousand mailboxes take about half a megabyte.
pub const MAX_BYTES: usize = 4 * 1024 * 1024;
/// The deepest nesting read. The format itself needs five levels; yaserde takes quadratic time on deep nesting.
pub const MAX_DEPTH: usize = 64;
/// The most elements read.
pub const MAX_ELEMENTS: usize = 200_000;

/// Why a text is not a usable XML document, with the place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {message}")]
pub struct Damage {
    /// Where the damage was noticed.
    pub at: Position,
    /// What is wrong.
    pub message: String,
}

/// One element. No `Debug`: its text may be a password.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) attributes: Vec<String>,
    /// The text directly inside, entities resolved, not trimmed.
    pub(crate) text: String,
    /// Where that text stands, in pieces between comments and child elements.
    pub(crate) pieces: Vec<Range<usize>>,
    pub(crate) children: Vec<Node>,
    /// From the `<` of the start tag to the `>` of the end tag.
    pub(crate) span: Range<usize>,
    /// Between the tags; `None` for `<A/>`.
    pub(crate) inner: Option<Range<usize>>,
    pub(crate) at: Position,
}

impl Node {
    pub(crate) fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }
}

/// Reads a document.
///
/// # Errors
/// [`Damage`] for text that is not well-formed, that is larger, deeper or has more elements than the caps allow, that
/// declares a document type (entities are how small XML becomes large), or that uses an entity beyond XML's own five.
pub(crate) fn parse(text: &str) -> Result<Node, Damage> {
    let index = LineIndex::new(text);
    if text.len() > MAX_BYTES {
        let message = format!("the file is larger than the limit of {MAX_BYTES} bytes");
        return Err(Damage { at: Position::START, message });
    }
    Parser::new(text, &index).run()
}

struct Parser<'a> {
    index: &'a LineIndex<'a>,
    text: &'a str,
    /// Bytes in front of what the reader sees: the byte order mark.
    base: usize,
    open: Vec<Node>,
    root: Option<Node>,
    elements: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str, index: &'a LineIndex<'a>) -> Self {
        let base = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        Self { index, text, base, open: Vec::new(), root: None, elements: 0 }
    }

    fn run(mut self) -> Result<Node, Damage> {
        let mut reader = Reader::from_str(&self.text[self.base..]);
        let config = reader.config_mut();
        config.check_end_names = true;
        config.check_comments = true;
        loop {
            let from = self.offset(reader.buffer_position());
            let event = reader.read_event();
            let to = self.offset(reader.buffer_position());
            match event {
                Err(error) => {
                    let at = self.offset(reader.error_position()).max(from);
                    return Err(self.damage(at, self.ill_formed(&error)));
                }
                Ok(Event::Start(tag)) => self.start(&tag, from..to)?,
                Ok(Event::Empty(tag)) => {
                    self.start(&tag, from..to)?;
                    self.end(to, None);
                }
                Ok(Event::End(_)) => {
                    let from_inner = self.open.last().map_or(from, |n| n.span.end);
                    self.end(to, Some(from_inner..from));
                }
                Ok(Event::Text(content)) => self.characters(&content.into_inner(), from..to)?,
                Ok(Event::CData(content)) => self.characters(&content.into_inner(), from..to)?,
                Ok(Event::GeneralRef(reference)) => {
                    let resolved = match reference.resolve_char_ref() {
                        Ok(Some(c)) => c.to_string(),
                        Ok(None) => match quick_xml::escape::resolve_xml_entity(&reference) {
                            Some(text) => text.to_owned(),
                            None => return Err(self.damage(from, ENTITY.to_owned())),
                        },
                        Err(_) => return Err(self.damage(from, ENTITY.to_owned())),
                    };
                    self.characters(&resolved, from..to)?;
                }
                Ok(Event::DocType(_)) => {
                    let message = "a document type declaration is not allowed in this file".to_owned();
                    return Err(self.damage(from, message));
                }
                Ok(Event::Comment(_) | Event::PI(_) | Event::Decl(_)) => {}
                Ok(Event::Eof) => return self.finish(),
            }
        }
    }

    fn offset(&self, position: u64) -> usize {
        // the text is at most MAX_BYTES long, which fits any usize
        self.base + usize::try_from(position).unwrap_or(usize::MAX - self.base)
    }

    fn damage(&self, offset: usize, message: String) -> Damage {
        Damage { at: self.index.position(offset), message }
    }

    /// The library's message where it repeats nothing of the file, else our own.
    fn ill_formed(&self, error: &XmlError) -> String {
        match error {
            XmlError::IllFormed(IllFormedError::MismatchedEndTag { found, .. }) => {
                let found = known(found).map_or("this end tag".to_owned(), |n| format!("the end tag of {n}"));
                match self.open.last() {
                    Some(open) => format!(
                        "{found} does not close {}, which was opened at line {}",
                        spoken(&open.name),
                        open.at.line
                    ),
                    None => format!("{found} closes nothing"),
                }
            }
            XmlError::IllFormed(IllFormedError::UnmatchedEndTag(_)) => {
                "there is an end tag, but no element is open".to_owned()
            }
            XmlError::IllFormed(IllFormedError::UnclosedReference) => ENTITY.to_owned(),
            XmlError::IllFormed(IllFormedError::DoubleHyphenInComment) => {
                "a comment holds --, which XML does not allow".to_owned()
            }
            XmlError::Syntax(error) => lower(&error.to_string()),
            _ => "this is not well-formed XML".to_owned(),
        }
    }

    fn start(&mut self, tag: &BytesStart<'_>, span: Range<usize>) -> Result<(), Damage> {
        if !is_xml_name(tag.name().as_ref()) {
            let message = "here is a < that begins no tag; write < in a value as &lt;".to_owned();
            return Err(self.damage(span.start, message));
        }
        self.elements += 1;
        if self.elements > MAX_ELEMENTS {
            return Err(self.damage(span.start, format!("the file has more than {MAX_ELEMENTS} elements")));
        }
        if self.open.len() >= MAX_DEPTH {
            let message = format!("elements are nested more than {MAX_DEPTH} deep");
            return Err(self.damage(span.start, message));
        }
        if self.open.is_empty() && self.root.is_some() {
            return Err(self.damage(span.start, "there is a second root element".to_owned()));
        }
        let mut attributes = Vec::new();
        for attribute in tag.attributes() {
            match attribute {
                Ok(attribute) => attributes.push(attribute.key.as_ref().to_owned()),
                Err(AttrError::Duplicated(..)) => {
                    let message = format!("an attribute of {} stands twice", spoken(tag.name().as_ref()));
                    return Err(self.damage(span.start, message));
                }
                Err(_) => {
                    let message =
                        format!("an attribute of {} is not well-formed", spoken(tag.name().as_ref()));
                    return Err(self.damage(span.start, message));
                }
            }
        }
        self.open.push(Node {
            name: tag.name().as_ref().to_owned(),
            attributes,
            text: String::new(),
            pieces: Vec::new(),
            children: Vec::new(),
            at: self.index.position(span.start),
            span,
            inner: None,
        });
        Ok(())
    }

    fn end(&mut self, to: usize, inner: Option<Range<usize>>) {
        // the reader checks that end tags match, so there is an open element
        let Some(mut node) = self.open.pop() else { return };
        node.span.end = to;
        node.inner = inner;
        match self.open.last_mut() {
            Some(parent) => parent.children.push(node),
            None => self.root = Some(node),
        }
    }

    fn characters(&mut self, text: &str, span: Range<usize>) -> Result<(), Damage> {
        match self.open.last_mut() {
            Some(node) => {
                node.text.push_str(text);
                match node.pieces.last_mut() {
                    Some(last) if last.end == span.start => last.end = span.end,
                    _ => node.pieces.push(span),
                }
                Ok(())
            }
            None if text.chars().all(char::is_whitespace) => Ok(()),
            None => Err(self.damage(span.start, "there is text outside of the root element".to_owned())),
        }
    }

    fn finish(self) -> Result<Node, Damage> {
        if let Some(open) = self.open.last() {
            let message = format!(
                "the file ends before the end tag of {}, which was opened at line {}",
                spoken(&open.name),
                open.at.line
            );
            return Err(self.damage(self.text.len(), message));
        }
        let end = self.text.len();
        match self.root {
            Some(root) => Ok(root),
            // the words the original's service logged as event 16192
            None => {
                Err(Damage { at: self.index.position(end), message: "root element is missing".to_owned() })
            }
        }
    }
}

const ENTITY: &str = "here is an & that begins no entity of XML; write & in a value as &amp;";

/// The format's own spelling of an element's name. In a damaged file any other name may be a piece of a password that holds a `<`,
/// so no message about damage repeats one.
fn known(name: &str) -> Option<&'static str> {
    fn search(name: &str, elements: &[Element]) -> Option<&'static str> {
        elements.iter().find_map(|element| match element.content {
            _ if name.eq_ignore_ascii_case(element.name) => Some(element.name),
            Content::Section(inner) => search(name, inner),
            Content::Value => None,
        })
    }
    if name.eq_ignore_ascii_case("Configuration") {
        return Some("Configuration");
    }
    search(name, Configuration::ELEMENTS)
}

fn spoken(name: &str) -> &'static str {
    known(name).unwrap_or("an element")
}

/// Whether a tag can have this name (XML 1.0 section 2.3). Beyond ASCII everything is taken for a letter.
fn is_xml_name(name: &str) -> bool {
    let letter = |c: char| !c.is_ascii() || c.is_ascii_alphabetic() || matches!(c, '_' | ':');
    name.starts_with(letter)
        && name.chars().all(|c| letter(c) || c.is_ascii_digit() || matches!(c, '-' | '.'))
}

/// At most 80 characters of a text, control characters escaped, for messages.
pub(crate) fn shorten(text: &str) -> String {
    let mut short: String = text
        .chars()
        .take(80)
        .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect();
    if text.chars().nth(80).is_some() {
        short.push('…');
    }
    short
}

/// A library's message in the house's form: lower case first, no full stop.
pub(crate) fn lower(message: &str) -> String {
    let message = message.trim_end_matches('.');
    let mut chars = message.chars();
    chars.next().map_or_else(String::new, |c| c.to_lowercase().chain(chars).collect())
}

/// Escapes a value for element content.
pub(crate) fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            // a literal CR would become LF on reading (XML 1.0 section 2.11)
            '\r' => escaped.push_str("&#xD;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_text() {
        let text = "\u{feff}<?xml version=\"1.0\"?>\n<A x='1'>\n  <B> a&amp;<![CDATA[<b>]]> <!-- c -->z</B><C/>\n</A>\n";
        let root = parse(text).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((root.name.as_str(), root.at), ("A", Position { line: 2, column: 1 }));
        assert_eq!(root.attributes, ["x"]);
        let b = &root.children[0];
        assert_eq!(b.text, " a&<b> z");
        assert_eq!(b.at, Position { line: 3, column: 3 });
        assert_eq!(&text[b.inner.clone().unwrap()], " a&amp;<![CDATA[<b>]]> <!-- c -->z");
        assert_eq!(b.pieces.len(), 2);
        assert_eq!(&text[root.children[1].span.clone()], "<C/>");
        assert!(root.children[1].inner.is_none());
    }

    #[test]
    fn damages() {
        for (text, expected) in [
            ("", "1:1: root element is missing"),
            ("<a>\n<b>", "2:4: the file ends before the end tag of an element, which was opened at line 2"),
            ("<a>\n<user>", "2:7: the file ends before the end tag of User, which was opened at line 2"),
            ("<a></a><b/>", "1:8: there is a second root element"),
            ("<a/>x", "1:5: there is text outside of the root element"),
            (
                "<!DOCTYPE a [<!ENTITY x 'y'>]><a/>",
                "1:1: a document type declaration is not allowed in this file",
            ),
            ("<a>&x;</a>", "1:4: here is an & that begins no entity of XML; write & in a value as &amp;"),
            ("<a>&#x;</a>", "1:4: here is an & that begins no entity of XML; write & in a value as &amp;"),
            ("<a>&x</a>", "1:4: here is an & that begins no entity of XML; write & in a value as &amp;"),
            ("<a>x<y</a>", "1:5: here is a < that begins no tag; write < in a value as &lt;"),
            ("<a>1 < 2</a>", "1:6: here is a < that begins no tag; write < in a value as &lt;"),
            ("<a><!-- -- --></a>", "1:9: a comment holds --, which XML does not allow"),
            ("<Router b=1/>", "1:1: an attribute of Router is not well-formed"),
            ("<User b='1' b='2'/>", "1:1: an attribute of User stands twice"),
            ("<a b='1' b='2'/>", "1:1: an attribute of an element stands twice"),
            (
                "<Queue>\n<x></User>",
                "2:4: the end tag of User does not close an element, which was opened at line 2",
            ),
            ("<queue>\n</x>", "2:1: this end tag does not close Queue, which was opened at line 1"),
            ("</x>", "1:1: there is an end tag, but no element is open"),
        ] {
            assert_eq!(parse(text).err().map(|e| e.to_string()).as_deref(), Some(expected), "{text}");
        }
        let mismatch = parse("<a>\n <b></c></a>").err().unwrap();
        assert_eq!(mismatch.at, Position { line: 2, column: 5 });
    }

    #[test]
    fn caps() {
        let deep = "<a>".repeat(MAX_DEPTH + 1);
        assert_eq!(parse(&deep).err().unwrap().message, "elements are nested more than 64 deep");
        let deep = format!("{}{}", "<a>".repeat(MAX_DEPTH), "</a>".repeat(MAX_DEPTH));
        assert!(parse(&deep).is_ok());
        let wide = format!("<a>{}</a>", "<b/>".repeat(MAX_ELEMENTS));
        assert_eq!(parse(&wide).err().unwrap().message, "the file has more than 200000 elements");
        let large = format!("<a>{}</a>", " ".repeat(MAX_BYTES));
        assert_eq!(
            parse(&large).err().unwrap().message,
            "the file is larger than the limit of 4194304 bytes"
        );
    }
}
