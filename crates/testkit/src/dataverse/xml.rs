//! XML as a small tree, for requests.

use quick_xml::events::Event;
use quick_xml::name::{QName, ResolveResult};
use quick_xml::reader::NsReader;

/// Namespace and local name.
pub(super) type Name = (String, String);

#[derive(Debug, Clone, Default)]
pub(super) struct Element {
    pub(super) name: Name,
    pub(super) attributes: Vec<(Name, String)>,
    /// `i:type`, resolved.
    pub(super) kind: Option<Name>,
    pub(super) children: Vec<Element>,
    pub(super) text: String,
}

const INSTANCE: &str = "http://www.w3.org/2001/XMLSchema-instance";

fn bound(resolved: &ResolveResult<'_>) -> String {
    match resolved {
        ResolveResult::Bound(ns) => ns.as_ref().to_owned(),
        _ => String::new(),
    }
}

/// The document element.
pub(super) fn parse(text: &str) -> Result<Element, String> {
    let mut reader = NsReader::from_str(text);
    let mut open: Vec<Element> = Vec::new();
    loop {
        let event = reader.read_event().map_err(|cause| cause.to_string())?;
        let (tag, empty) = match &event {
            Event::Start(tag) => (tag, false),
            Event::Empty(tag) => (tag, true),
            Event::End(_) => {
                let closed = open.pop().ok_or("an end without a beginning")?;
                match open.last_mut() {
                    Some(parent) => parent.children.push(closed),
                    None => return Ok(closed),
                }
                continue;
            }
            Event::Eof => return Err("the document ends too early".to_owned()),
            Event::Text(text) => {
                if let Some(element) = open.last_mut() {
                    element.text.push_str(text);
                }
                continue;
            }
            Event::GeneralRef(reference) => {
                let name: &str = reference;
                let c = match name.strip_prefix('#') {
                    Some(number) => match number.strip_prefix('x') {
                        Some(hex) => u32::from_str_radix(hex, 16).ok(),
                        None => number.parse().ok(),
                    }
                    .and_then(char::from_u32)
                    .map(String::from),
                    None => quick_xml::escape::resolve_predefined_entity(name).map(str::to_owned),
                };
                let c = c.ok_or_else(|| format!("the reference &{name};"))?;
                if let Some(element) = open.last_mut() {
                    element.text.push_str(&c);
                }
                continue;
            }
            Event::DocType(_) => return Err("a document type".to_owned()),
            _ => continue,
        };
        let resolver = reader.resolver();
        let (ns, local) = resolver.resolve_element(tag.name());
        let mut element = Element { name: (bound(&ns), local.as_ref().to_owned()), ..Element::default() };
        for attribute in tag.attributes() {
            let attribute = attribute.map_err(|cause| cause.to_string())?;
            let key = attribute.key.as_ref();
            if key == "xmlns" || key.starts_with("xmlns:") {
                continue;
            }
            let (ns, local) = resolver.resolve_attribute(attribute.key);
            let name = (bound(&ns), local.as_ref().to_owned());
            let value = quick_xml::escape::unescape(&attribute.value).map_err(|cause| cause.to_string())?;
            if name == (INSTANCE.to_owned(), "type".to_owned()) {
                let (ns, local) = resolver.resolve_element(QName(&value));
                if matches!(ns, ResolveResult::Unknown(_)) {
                    return Err(format!("the prefix of the type {value} is not declared"));
                }
                element.kind = Some((bound(&ns), local.as_ref().to_owned()));
            }
            element.attributes.push((name, value.into_owned()));
        }
        if empty {
            match open.last_mut() {
                Some(parent) => parent.children.push(element),
                None => return Ok(element),
            }
        } else {
            open.push(element);
        }
    }
}

impl Element {
    /// An attribute without a namespace.
    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes
            .iter()
            .find(|((ns, local), _)| ns.is_empty() && local == name)
            .map(|(_, v)| v.as_str())
    }

    pub(super) fn is_nil(&self) -> bool {
        self.attributes.iter().any(|((ns, local), v)| ns == INSTANCE && local == "nil" && v == "true")
    }

    pub(super) fn child(&self, ns: &str, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name.0 == ns && child.name.1 == name)
    }
}
