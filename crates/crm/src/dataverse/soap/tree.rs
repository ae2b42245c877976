//! An answer as a small tree, read from the events of quick-xml. Names are matched by namespace and local name, whatever the prefixes.
//!
//! Nothing in an answer makes it larger than it is: entities are not expanded, elements within elements and their number are limited.

use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::name::{QName, ResolveResult};
use quick_xml::reader::NsReader;

/// The namespaces that matter here (`crm-contract.md` 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ns {
    /// The envelope, of SOAP 1.1 and 1.2.
    Soap,
    /// Operations.
    Services,
    /// Core types.
    Contracts,
    /// Types of the messages about e-mail.
    Crm,
    /// Keys and values.
    Generic,
    /// `guid`.
    Serialization,
    /// XML Schema.
    Schema,
    /// Any other, or none.
    Other,
}

/// Operations.
pub(crate) const SERVICES: &str = "http://schemas.microsoft.com/xrm/2011/Contracts/Services";
/// Core types.
pub(crate) const CONTRACTS: &str = "http://schemas.microsoft.com/xrm/2011/Contracts";
/// Types of messages.
pub(crate) const CRM: &str = "http://schemas.microsoft.com/crm/2011/Contracts";
/// Keys and values.
pub(crate) const GENERIC: &str = "http://schemas.datacontract.org/2004/07/System.Collections.Generic";
/// `guid`.
pub(crate) const SERIALIZATION: &str = "http://schemas.microsoft.com/2003/10/Serialization/";
/// XML Schema.
pub(crate) const SCHEMA: &str = "http://www.w3.org/2001/XMLSchema";
/// `i:type`, `i:nil`.
pub(crate) const INSTANCE: &str = "http://www.w3.org/2001/XMLSchema-instance";
/// The envelope of SOAP 1.1.
pub(crate) const SOAP_11: &str = "http://schemas.xmlsoap.org/soap/envelope/";
const SOAP_12: &str = "http://www.w3.org/2003/05/soap-envelope";

impl Ns {
    fn of(uri: &str) -> Self {
        match uri {
            SOAP_11 | SOAP_12 => Self::Soap,
            SERVICES => Self::Services,
            CONTRACTS => Self::Contracts,
            CRM => Self::Crm,
            GENERIC => Self::Generic,
            SERIALIZATION => Self::Serialization,
            SCHEMA => Self::Schema,
            _ => Self::Other,
        }
    }

    fn resolved(resolved: &ResolveResult<'_>) -> Self {
        match resolved {
            ResolveResult::Bound(ns) => Self::of(ns.as_ref()),
            _ => Self::Other,
        }
    }
}

/// An element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    ns: Ns,
    name: Box<str>,
    /// `i:type`.
    kind: Option<(Ns, Box<str>)>,
    /// `i:nil`.
    nil: bool,
    children: Vec<Node>,
    text: String,
}

/// Elements within elements; an answer has about fifteen levels.
const DEEPEST: usize = 64;
/// Elements of an answer; a page of 5,000 rows has about 400,000.
const MOST: usize = 4_000_000;

impl Node {
    /// Reads a document; bytes that are no UTF-8 become replacement characters. The error says why it is none.
    pub(crate) fn parse(document: &[u8]) -> Result<Self, String> {
        let text = String::from_utf8_lossy(document);
        let mut reader = NsReader::from_str(text.trim_start_matches('\u{feff}').trim_start());
        reader.config_mut().allow_dangling_amp = true;
        let (mut open, mut count): (Vec<Self>, usize) = (Vec::new(), 0);
        loop {
            let event = reader.read_event().map_err(|cause| cause.to_string())?;
            let closed = match event {
                Event::Start(tag) => {
                    count += 1;
                    if open.len() == DEEPEST || count > MOST {
                        return Err("elements without end".to_owned());
                    }
                    open.push(Self::begin(&reader, &tag));
                    continue;
                }
                Event::Empty(tag) => {
                    count += 1;
                    if count > MOST {
                        return Err("elements without end".to_owned());
                    }
                    Self::begin(&reader, &tag)
                }
                Event::End(_) => open.pop().ok_or("an end without a beginning")?,
                Event::Eof => return Err("the document ends too early".to_owned()),
                Event::DocType(_) => return Err("a document type, which SOAP forbids".to_owned()),
                other => {
                    if let Some(node) = open.last_mut() {
                        node.add(&other);
                    } else if matches!(&other, Event::Text(text) if !text.trim().is_empty()) {
                        return Err("text where an element was due".to_owned());
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

    fn begin(reader: &NsReader<&[u8]>, tag: &BytesStart<'_>) -> Self {
        let resolver = reader.resolver();
        let (resolved, name) = resolver.resolve_element(tag.name());
        let (mut kind, mut nil) = (None, false);
        for attribute in tag.html_attributes().with_checks(false).flatten() {
            let (of, key) = resolver.resolve_attribute(attribute.key);
            if !matches!(&of, ResolveResult::Bound(ns) if ns.as_ref() == INSTANCE) {
                continue;
            }
            match key.as_ref() {
                "type" => {
                    let (of, local) = resolver.resolve_element(QName(attribute.value.trim()));
                    kind = Some((Ns::resolved(&of), local.as_ref().into()));
                }
                "nil" => nil = matches!(attribute.value.trim(), "true" | "1"),
                _ => {}
            }
        }
        Self {
            ns: Ns::resolved(&resolved),
            name: name.as_ref().into(),
            kind,
            nil,
            children: Vec::new(),
            text: String::new(),
        }
    }

    fn add(&mut self, event: &Event<'_>) {
        match event {
            // white space between elements is no text
            Event::Text(text) if self.children.is_empty() || !text.trim().is_empty() => {
                self.text.push_str(text)
            }
            Event::CData(data) => self.text.push_str(data),
            Event::GeneralRef(reference) => self.text.extend(character(reference)),
            _ => {}
        }
    }

    /// Whether it is the element of this name.
    pub(crate) fn is(&self, ns: Ns, name: &str) -> bool {
        self.ns == ns && &*self.name == name
    }

    /// Its local name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What `i:type` says: namespace and local name.
    pub(crate) fn kind(&self) -> Option<(Ns, &str)> {
        self.kind.as_ref().map(|(ns, name)| (*ns, &**name))
    }

    /// Whether it stands for nothing.
    pub(crate) fn is_nil(&self) -> bool {
        self.nil
    }

    /// The elements in it.
    pub(crate) fn children(&self) -> &[Self] {
        &self.children
    }

    /// The first element of this name in it.
    pub(crate) fn child(&self, ns: Ns, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.is(ns, name))
    }

    /// The first element of this local name in it.
    pub(crate) fn named(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| &*child.name == name)
    }

    /// The text in it.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The text of the first element of this name in it; `None` where it is missing, nil or empty.
    pub(crate) fn text_of(&self, ns: Ns, name: &str) -> Option<&str> {
        self.child(ns, name).map(|child| child.text.trim()).filter(|text| !text.is_empty())
    }
}

/// What a reference stands for; XML 1.0 forbids most control characters, as text they are harmless here.
fn character(reference: &BytesRef<'_>) -> Option<char> {
    let name: &str = reference;
    match name.strip_prefix('#') {
        Some(digits) => {
            let code = match digits.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16).ok(),
                None => digits.parse().ok(),
            };
            Some(code.and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER))
        }
        None => resolve_predefined_entity(name)?.chars().next(),
    }
}
