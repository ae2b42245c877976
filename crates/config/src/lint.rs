//! The pass over the file that knows places: unknown elements and attributes, duplicates, passwords in clear text. What it lets
//! through goes to yaserde as a cleaned copy.

use std::collections::HashMap;
use std::path::Path;

use crate::finding::{Code, Finding, Position, Severity};
use crate::secret::{SECRET_ELEMENTS, SecretRef, is_secret_element};
use crate::tree::{Node, escape, shorten};
use crate::wire::{Configuration, Content, Element};

/// What stands in the cleaned copy for a password that was refused and reported already.
pub(crate) const REFUSED: &str = "refused:";

/// Where each element stands, by its path. Elements that may repeat have `#N` after their name, N from 0.
#[derive(Debug, Default)]
pub(crate) struct Places(HashMap<String, Position>);

impl Places {
    /// The place of an element, or of the nearest parent that is there.
    pub(crate) fn find(&self, mut path: &str) -> Position {
        loop {
            if let Some(at) = self.0.get(path) {
                return *at;
            }
            match path.rfind('/') {
                Some(i) => path = &path[..i],
                None => return Position::START,
            }
        }
    }
}

/// What the pass found.
pub(crate) struct Linted {
    pub(crate) findings: Vec<Finding>,
    pub(crate) places: Places,
    /// The known half of the file, for yaserde.
    pub(crate) clean: String,
}

/// Goes over a file. `path` is for the findings only.
pub(crate) fn lint(root: &Node, path: &Path) -> Linted {
    lint_as(root, path, "Configuration", Configuration::ELEMENTS)
}

/// Goes over a file of another kind, whose root element is called `name`.
pub(crate) fn lint_as(root: &Node, path: &Path, name: &str, elements: &[Element]) -> Linted {
    let mut pass = Pass {
        file: path,
        out: Linted { findings: Vec::new(), places: Places::default(), clean: String::new() },
    };
    if root.is(name) {
        pass.attributes(root, name);
        pass.section(root, name, name, elements);
    } else {
        pass.report(
            Severity::Error,
            Code::UnknownElement,
            root,
            &root.name,
            format!("the root element is {}; it must be {name}", shorten(&root.name)),
        );
    }
    pass.out
}

struct Pass<'a> {
    file: &'a Path,
    out: Linted,
}

impl Pass<'_> {
    fn report(&mut self, severity: Severity, code: Code, node: &Node, element: &str, message: String) {
        self.out.findings.push(Finding::new(severity, code, self.file, node.at, element, message));
    }

    fn attributes(&mut self, node: &Node, path: &str) {
        if let Some(secret) =
            SECRET_ELEMENTS.iter().find(|s| node.is(s)).filter(|_| !node.attributes.is_empty())
        {
            let message = format!("an attribute of {secret} has no effect; it is kept as it is");
            return self.report(Severity::Warning, Code::UnknownAttribute, node, path, message);
        }
        for attribute in &node.attributes {
            // declarations of namespaces, and what .NET's serializer adds to every root element, mean nothing here
            if attribute == "xmlns" || ["xmlns:", "xml:", "xsi:"].iter().any(|p| attribute.starts_with(p)) {
                continue;
            }
            let message = format!(
                "unknown attribute {} of {} has no effect; it is kept as it is",
                shorten(attribute),
                shorten(&node.name)
            );
            self.report(Severity::Warning, Code::UnknownAttribute, node, path, message);
        }
    }

    fn section(&mut self, node: &Node, name: &str, path: &str, elements: &[Element]) {
        self.out.places.0.insert(path.to_owned(), node.at);
        self.out.clean.push_str(&format!("<{name}>"));
        if !node.text.trim().is_empty() {
            let message = format!("the text directly inside {name} has no effect; it is kept as it is");
            self.report(Severity::Warning, Code::Ignored, node, path, message);
        }
        let mut seen: HashMap<&str, (usize, Position)> = HashMap::new();
        for child in &node.children {
            let Some(element) = elements.iter().find(|e| child.is(e.name)) else {
                self.unknown(child, name, path, elements);
                continue;
            };
            // an empty value is none: it is not in the cleaned copy, where the numbers are counted
            if element.repeated && matches!(element.content, Content::Value) && child.text.trim().is_empty() {
                self.attributes(child, path);
                child.children.iter().for_each(|inner| self.unknown(inner, element.name, path, &[]));
                continue;
            }
            let (count, first) = seen.entry(element.name).or_insert((0, child.at));
            let number = *count;
            *count += 1;
            let first = *first;
            if number > 0 && !element.repeated {
                let message = format!(
                    "{} appears more than once in {name}; the first is at line {}; remove one",
                    element.name, first.line
                );
                let element_path = format!("{path}/{}", element.name);
                self.report(Severity::Error, Code::DuplicateElement, child, &element_path, message);
                continue;
            }
            let child_path = if element.repeated {
                format!("{path}/{}#{number}", element.name)
            } else {
                format!("{path}/{}", element.name)
            };
            self.attributes(child, &child_path);
            match element.content {
                Content::Section(inner) => self.section(child, element.name, &child_path, inner),
                Content::Value => self.value(child, element.name, &child_path),
            }
        }
        self.out.clean.push_str(&format!("</{name}>"));
    }

    fn value(&mut self, node: &Node, name: &str, path: &str) {
        self.out.places.0.insert(path.to_owned(), node.at);
        for child in &node.children {
            self.unknown(child, name, path, &[]);
        }
        let text = node.text.trim();
        let text = if is_secret_element(name) && !text.is_empty() && SecretRef::parse(text).is_err() {
            self.secret(node, name, text, path);
            REFUSED
        } else if text.contains(char::is_control) {
            let message = format!("{name} contains a control character; write it as one line of plain text");
            self.report(Severity::Error, Code::InvalidValue, node, path, message);
            return;
        } else {
            text
        };
        if !text.is_empty() {
            self.out.clean.push_str(&format!("<{name}>{}</{name}>", escape(text)));
        }
    }

    /// A secret that is no reference. The message never repeats it, whatever it is.
    fn secret(&mut self, node: &Node, name: &str, text: &str, path: &str) {
        let what = if name == "Password" { "password" } else { "secret" };
        let (code, message) = match SecretRef::parse(text) {
            Err(error) if error.is_clear_text() => (
                Code::ClearTextPassword,
                format!(
                    "{name} holds a {what} in clear text; write env:NAME, file:PATH, credential:NAME, or the ciphertext \
                     that `email-router secret set` makes, and change the {what}, since it was readable here"
                ),
            ),
            Err(error) => (Code::InvalidValue, format!("{name} is not a usable reference: {error}")),
            Ok(_) => return,
        };
        self.report(Severity::Error, code, node, path, message);
    }

    fn unknown(&mut self, child: &Node, parent: &str, path: &str, elements: &[Element]) {
        if is_secret_element(parent) {
            let message = format!("an element inside {parent} has no effect; write < in a value as &lt;");
            return self.report(Severity::Warning, Code::UnknownElement, child, path, message);
        }
        let name = shorten(&child.name);
        let mut message = format!("unknown element {name} in {parent} has no effect; it is kept as it is");
        if child.is("ProviderConfiguration") {
            message.push_str("; describe the provider as a ConfigurationProfile instead");
        } else if let Some(near) = nearest(&child.name, elements) {
            message.push_str(&format!("; did you mean {near}?"));
        }
        let element = format!("{path}/{name}");
        self.report(Severity::Warning, Code::UnknownElement, child, &element, message);
    }
}

/// The element whose name is at most two letters away.
fn nearest(name: &str, elements: &[Element]) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    if name.len() > 64 {
        return None;
    }
    let known = elements.iter().map(|e| (distance(&name, &e.name.to_ascii_lowercase()), e.name));
    known.filter(|(d, known)| *d <= 2 && known.len() > 4).min().map(|(_, known)| known)
}

/// Levenshtein distance in bytes; names are short.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replace = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
