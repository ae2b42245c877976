//! A request as a tree, and writing.

use quick_xml::events::Event;
use quick_xml::name::ResolveResult;
use quick_xml::reader::NsReader;

/// The prefixes that the tables of this server use, and what they stand for.
const NAMESPACES: [(&str, &str); 6] = [
    ("s", "http://schemas.xmlsoap.org/soap/envelope/"),
    ("m", "http://schemas.microsoft.com/exchange/services/2006/messages"),
    ("t", "http://schemas.microsoft.com/exchange/services/2006/types"),
    ("a", "http://schemas.microsoft.com/exchange/2010/Autodiscover"),
    ("wsa", "http://www.w3.org/2005/08/addressing"),
    ("o", "http://schemas.microsoft.com/exchange/autodiscover/outlook/requestschema/2006"),
];

/// An element.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Element {
    /// `t:ItemId`, with the prefixes of this server, `?:name` in an unknown namespace.
    pub(super) name: String,
    pub(super) attributes: Vec<(String, String)>,
    pub(super) children: Vec<Element>,
    pub(super) text: String,
}

impl Element {
    /// Reads a document; strictly, as a server does.
    pub(super) fn parse(document: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(document).map_err(|e| e.to_string())?;
        let mut reader = NsReader::from_str(text);
        let mut open: Vec<Self> = Vec::new();
        loop {
            let (resolved, event) = reader.read_resolved_event().map_err(|e| e.to_string())?;
            let name_of = |local: &str| {
                let prefix = match &resolved {
                    ResolveResult::Bound(ns) => {
                        NAMESPACES.iter().find(|(_, uri)| *uri == ns.as_ref()).map_or("?", |(p, _)| *p)
                    }
                    _ => "?",
                };
                format!("{prefix}:{local}")
            };
            let closed = match event {
                Event::Start(tag) => {
                    let attributes = attributes(&tag)?;
                    let name = name_of(tag.local_name().as_ref());
                    open.push(Self { name, attributes, ..Self::default() });
                    continue;
                }
                Event::Empty(tag) => {
                    let name = name_of(tag.local_name().as_ref());
                    Self { name, attributes: attributes(&tag)?, ..Self::default() }
                }
                Event::End(_) => open.pop().ok_or("an end without a beginning")?,
                Event::Eof => return Err("the document ends too early".to_owned()),
                Event::Text(text) => {
                    if text.chars().any(|c| c.is_control() && !matches!(c, '\t' | '\r' | '\n')) {
                        return Err("a character that XML forbids".to_owned());
                    }
                    if let Some(node) = open.last_mut() {
                        node.text.push_str(&text);
                    }
                    continue;
                }
                Event::CData(text) => {
                    if let Some(node) = open.last_mut() {
                        node.text.push_str(&text);
                    }
                    continue;
                }
                Event::GeneralRef(reference) => {
                    let resolved = match reference.resolve_char_ref().map_err(|e| e.to_string())? {
                        Some(c) => c.to_string(),
                        None => quick_xml::escape::resolve_predefined_entity(&reference)
                            .ok_or("an unknown entity")?
                            .to_owned(),
                    };
                    if let Some(node) = open.last_mut() {
                        node.text.push_str(&resolved);
                    }
                    continue;
                }
                _ => continue,
            };
            match open.last_mut() {
                Some(parent) => parent.children.push(closed),
                None => return Ok(closed),
            }
        }
    }

    pub(super) fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|c| c.name == name)
    }

    pub(super) fn children_of<'a>(&'a self, name: &str) -> &'a [Self] {
        self.child(name).map_or(&[], |c| &c.children)
    }

    pub(super) fn text_of(&self, name: &str) -> Option<&str> {
        self.child(name).map(|c| c.text.trim())
    }

    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn find(&self, name: &str) -> Option<&Self> {
        self.children.iter().find_map(|c| if c.name == name { Some(c) } else { c.find(name) })
    }

    pub(super) fn all<'a>(&'a self, name: &str, found: &mut Vec<&'a Self>) {
        for child in &self.children {
            if child.name == name {
                found.push(child);
            }
            child.all(name, found);
        }
    }

    /// The element written again, with this server's prefixes.
    pub(super) fn write(&self) -> String {
        let attributes: String =
            self.attributes.iter().map(|(key, value)| format!(" {key}=\"{}\"", escape(value))).collect();
        let inside: String = self.children.iter().map(Self::write).collect();
        let text = if self.children.is_empty() { escape(&self.text) } else { String::new() };
        format!("<{0}{attributes}>{text}{inside}</{0}>", self.name)
    }
}

fn attributes(tag: &quick_xml::events::BytesStart<'_>) -> Result<Vec<(String, String)>, String> {
    let mut found = Vec::new();
    for attribute in tag.attributes() {
        let attribute = attribute.map_err(|e| e.to_string())?;
        let key: &str = attribute.key.as_ref();
        if key.starts_with("xmlns") || key.contains(':') {
            continue;
        }
        let value = quick_xml::escape::unescape(&attribute.value).map_err(|e| e.to_string())?;
        found.push((key.to_owned(), value.into_owned()));
    }
    Ok(found)
}

/// Text for an answer; characters that XML forbids are written as references, as Exchange does.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() => out.push_str(&format!("&#x{:X};", c as u32)),
            c => out.push(c),
        }
    }
    out
}
