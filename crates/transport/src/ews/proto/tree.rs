//! A response as a small tree, read from the events of quick-xml.
//!
//! Names are matched by namespace and local name, whatever the prefixes. Unknown elements, attributes and character references are read over: Exchange
//! writes characters that XML forbids (`&#x8;`) when they are in a subject, and newer servers have more elements than older documents.

use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::name::ResolveResult;
use quick_xml::reader::NsReader;

/// The namespaces that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ns {
    /// SOAP 1.1 envelope.
    Soap,
    /// `.../exchange/services/2006/messages`
    Messages,
    /// `.../exchange/services/2006/types`
    Types,
    /// `.../exchange/services/2006/errors`, the details of a fault.
    Errors,
    /// `.../exchange/2010/Autodiscover`, the SOAP form of Autodiscover.
    Autodiscover,
    /// `.../exchange/autodiscover/...`, the plain form: its namespaces differ between the parts and the years of a response.
    PlainAutodiscover,
    /// Any other, or none.
    Other,
}

impl Ns {
    fn of(uri: &str) -> Self {
        match uri {
            "http://schemas.xmlsoap.org/soap/envelope/" => Self::Soap,
            "http://schemas.microsoft.com/exchange/services/2006/messages" => Self::Messages,
            "http://schemas.microsoft.com/exchange/services/2006/types" => Self::Types,
            "http://schemas.microsoft.com/exchange/services/2006/errors" => Self::Errors,
            "http://schemas.microsoft.com/exchange/2010/Autodiscover" => Self::Autodiscover,
            other if other.starts_with("http://schemas.microsoft.com/exchange/autodiscover/") => {
                Self::PlainAutodiscover
            }
            _ => Self::Other,
        }
    }
}

/// An element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    ns: Ns,
    name: Box<str>,
    attributes: Vec<(Box<str>, String)>,
    children: Vec<Node>,
    text: String,
}

/// What came is no XML, or no XML of this protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotXml(pub String);

/// Elements within elements; EWS has about ten levels.
const DEEPEST: usize = 64;

impl Node {
    /// Reads a document; bytes that are no UTF-8 become replacement characters.
    ///
    /// # Errors
    /// [`NotXml`], also where the document ends too early.
    pub fn parse(document: &[u8]) -> Result<Self, NotXml> {
        let text = String::from_utf8_lossy(document);
        let mut reader = NsReader::from_str(text.trim_start_matches('\u{feff}').trim_start());
        reader.config_mut().allow_dangling_amp = true;
        let mut open: Vec<Self> = Vec::new();
        loop {
            let (resolved, event) = reader.read_resolved_event().map_err(|e| NotXml(e.to_string()))?;
            let closed = match event {
                Event::Start(tag) => {
                    if open.len() == DEEPEST {
                        return Err(NotXml("elements within elements without end".to_owned()));
                    }
                    let node = Self::begin(&resolved, &tag);
                    open.push(node);
                    continue;
                }
                Event::Empty(tag) => Self::begin(&resolved, &tag),
                Event::End(_) => match open.pop() {
                    Some(node) => node,
                    None => return Err(NotXml("an end without a beginning".to_owned())),
                },
                Event::Eof => return Err(NotXml("the document ends too early".to_owned())),
                other => {
                    if let Some(node) = open.last_mut() {
                        node.add(&other);
                    } else if matches!(&other, Event::Text(text) if !text.trim().is_empty()) {
                        return Err(NotXml("text where an element was due".to_owned()));
                    }
                    continue;
                }
            };
            match open.last_mut() {
                Some(parent) => parent.children.push(closed),
                None => return Ok(closed),
            }
        }
    }

    fn begin(resolved: &ResolveResult<'_>, tag: &BytesStart<'_>) -> Self {
        let ns = match resolved {
            ResolveResult::Bound(ns) => Ns::of(ns.as_ref()),
            _ => Ns::Other,
        };
        let attributes = tag
            .html_attributes()
            .with_checks(false)
            .flatten()
            .map(|a| (a.key.local_name().as_ref().into(), unescape(&a.value)))
            .collect();
        Self {
            ns,
            name: tag.local_name().as_ref().into(),
            attributes,
            children: Vec::new(),
            text: String::new(),
        }
    }

    fn add(&mut self, event: &Event<'_>) {
        match event {
            // white space between elements is no text
            Event::Text(text) if self.children.is_empty() || !text.trim().is_empty() => {
                self.text.push_str(text);
            }
            Event::CData(data) => self.text.push_str(data),
            Event::GeneralRef(reference) => self.text.extend(character(reference)),
            _ => {}
        }
    }

    /// Whether it is the element of this name.
    #[must_use]
    pub fn is(&self, ns: Ns, name: &str) -> bool {
        self.ns == ns && &*self.name == name
    }

    /// Its local name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The elements in it.
    #[must_use]
    pub fn children(&self) -> &[Self] {
        &self.children
    }

    /// The first element of this name in it.
    #[must_use]
    pub fn child(&self, ns: Ns, name: &str) -> Option<&Self> {
        self.children.iter().find(|c| c.is(ns, name))
    }

    /// The first element of this local name in it, whatever its namespace.
    #[must_use]
    pub fn child_named(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|c| &*c.name == name)
    }

    /// The first element of this name in it, at any depth.
    #[must_use]
    pub fn find(&self, ns: Ns, name: &str) -> Option<&Self> {
        self.children.iter().find_map(|c| if c.is(ns, name) { Some(c) } else { c.find(ns, name) })
    }

    /// The text in it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text of the first element of this name in it, white space around it removed; `None` where it is missing or empty.
    #[must_use]
    pub fn text_of(&self, ns: Ns, name: &str) -> Option<&str> {
        self.child(ns, name).map(|c| c.text.trim()).filter(|t| !t.is_empty())
    }

    /// An `xs:boolean`, which is `true` or `1`.
    #[must_use]
    pub fn is_true(&self, ns: Ns, name: &str) -> bool {
        matches!(self.text_of(ns, name), Some("true" | "1"))
    }

    /// The value of an attribute without prefix.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| &**key == name).map(|(_, value)| value.as_str())
    }
}

/// What a reference stands for. XML 1.0 forbids most control characters; as text they are harmless here.
fn character(reference: &BytesRef<'_>) -> Option<char> {
    match referenced(reference) {
        Some(c) => Some(c),
        None => resolve_predefined_entity(reference).and_then(|text| text.chars().next()),
    }
}

fn referenced(name: &str) -> Option<char> {
    let digits = name.strip_prefix('#')?;
    let code = match digits.strip_prefix(['x', 'X']) {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => digits.parse().ok(),
    };
    Some(code.and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER))
}

/// A value with its references resolved; what is none stays as it is.
fn unescape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let mut rest = value;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let resolved = rest[1..].split_once(';').and_then(|(name, after)| {
            let c = referenced(name).or_else(|| resolve_predefined_entity(name)?.chars().next())?;
            Some((c, after))
        });
        match resolved {
            Some((c, after)) => {
                out.push(c);
                rest = after;
            }
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: &str = "http://schemas.microsoft.com/exchange/services/2006/types";

    #[test]
    fn namespaces_count_and_prefixes_do_not() {
        for document in [
            format!("<a xmlns:t='{T}'><t:Subject>x</t:Subject></a>"),
            format!("<a xmlns:any='{T}'><any:Subject>x</any:Subject></a>"),
            format!("\u{feff}\r\n<a><Subject xmlns='{T}'>x</Subject></a>"),
            format!(
                "<?xml version='1.0'?><!-- c --><a xmlns:t='{T}'><new/>text<t:Subject>x</t:Subject></a><!-- c -->"
            ),
        ] {
            let node = Node::parse(document.as_bytes()).unwrap();
            assert_eq!(node.text_of(Ns::Types, "Subject"), Some("x"), "{document}");
        }
        let foreign = Node::parse(b"<a xmlns:t='urn:other'><t:Subject>x</t:Subject></a>").unwrap();
        assert_eq!(foreign.text_of(Ns::Types, "Subject"), None);
    }

    #[test]
    fn characters_that_xml_forbids() {
        let given = b"<a id='&#x8;&amp;&quot;&x;&'>a&#x8;b\x08c&#0;d&amp;&lt;e&nbsp;f &#x20AC; & g<![CDATA[<&>]]>\xff</a>";
        let node = Node::parse(given).unwrap();
        assert_eq!(node.text(), "a\u{8}b\u{8}c\0d&<ef \u{20ac} & g<&>\u{fffd}");
        assert_eq!(node.attribute("id"), Some("\u{8}&\"&x;&"));
    }

    #[test]
    fn no_xml() {
        for given in ["", "   ", "hello", "<a>", "<a></b>", "<a", "<html><br></html>", "</a>"] {
            assert!(Node::parse(given.as_bytes()).is_err(), "{given}");
        }
        assert!(Node::parse("<a>".repeat(100_000).as_bytes()).is_err());
    }
}
