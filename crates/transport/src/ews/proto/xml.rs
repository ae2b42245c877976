//! Writing XML.

use quick_xml::escape::escape;

/// A document under construction.
#[derive(Debug, Default)]
pub(super) struct Xml(String);

impl Xml {
    pub(super) fn new() -> Self {
        Self("<?xml version=\"1.0\" encoding=\"utf-8\"?>".to_owned())
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }

    /// What is written already, with its names and values in order.
    pub(super) fn raw(&mut self, markup: &str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    pub(super) fn reserve(&mut self, bytes: usize) {
        self.0.reserve(bytes);
    }

    /// An element without attributes, with what `inside` writes in it.
    pub(super) fn within(&mut self, name: &str, inside: impl FnOnce(&mut Self)) -> &mut Self {
        self.with(name, &[], inside)
    }

    /// An element with attributes, with what `inside` writes in it.
    pub(super) fn with(
        &mut self,
        name: &str,
        attributes: &[(&str, &str)],
        inside: impl FnOnce(&mut Self),
    ) -> &mut Self {
        self.start(name, attributes);
        self.0.push('>');
        inside(self);
        self.0.push_str("</");
        self.0.push_str(name);
        self.0.push('>');
        self
    }

    /// An element with text in it.
    pub(super) fn leaf(&mut self, name: &str, text: &str) -> &mut Self {
        self.within(name, |xml| xml.text(text))
    }

    /// An element with nothing in it.
    pub(super) fn empty(&mut self, name: &str, attributes: &[(&str, &str)]) -> &mut Self {
        self.start(name, attributes);
        self.0.push_str("/>");
        self
    }

    fn start(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.0.push('<');
        self.0.push_str(name);
        for (key, value) in attributes {
            self.0.push(' ');
            self.0.push_str(key);
            self.0.push_str("=\"");
            self.text(value);
            self.0.push('"');
        }
    }

    /// Text; characters that XML 1.0 forbids are left out, or the server would refuse the whole request.
    fn text(&mut self, text: &str) {
        let allowed = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..);
        if text.chars().all(allowed) {
            self.0.push_str(&escape(text));
        } else {
            let clean: String = text.chars().filter(|&c| allowed(c)).collect();
            self.0.push_str(&escape(&clean));
        }
    }
}
