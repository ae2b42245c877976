//! What an answer is made of: atoms, strings, lists (RFC 9051 section 4).

use super::reader::{Literal, PLACEHOLDER};

/// Lists within lists beyond this depth are not read.
const DEEPEST: usize = 32;

/// One value of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `NIL`.
    Nil,
    /// A word, with what stands in square brackets after it: `UID`, `\Seen`, `BODY[HEADER]<0>`.
    Atom(Vec<u8>),
    /// A quoted string, without its quotes and back-slashes.
    Quoted(Vec<u8>),
    /// A literal.
    Literal(Literal),
    /// A list in parentheses.
    List(Vec<Value>),
}

impl Value {
    /// The octets of an atom or a string.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Atom(bytes) | Self::Quoted(bytes) => Some(bytes),
            Self::Literal(literal) if !literal.over_cap => Some(&literal.bytes),
            _ => None,
        }
    }

    /// A number written in decimal digits.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        std::str::from_utf8(self.bytes()?).ok()?.parse().ok()
    }

    /// The values of a list; none for anything else.
    #[must_use]
    pub fn items(&self) -> &[Value] {
        match self {
            Self::List(items) => items,
            _ => &[],
        }
    }
}

/// Reads values one after the other; more spaces than one between them do not matter.
#[derive(Debug)]
pub struct Scanner<'a> {
    text: &'a [u8],
    literals: std::vec::IntoIter<Literal>,
}

impl<'a> Scanner<'a> {
    /// A scanner at the begin of `text`, in which each line feed stands for the next of the literals.
    #[must_use]
    pub fn new(text: &'a [u8], literals: Vec<Literal>) -> Self {
        Self { text, literals: literals.into_iter() }
    }

    /// What is left, without the spaces before it.
    #[must_use]
    pub fn rest(&mut self) -> &'a [u8] {
        self.skip_spaces();
        self.text
    }

    /// The literals not yet read.
    #[must_use]
    pub fn into_literals(self) -> Vec<Literal> {
        self.literals.collect()
    }

    /// The next value; `None` at the end, before a closing parenthesis, and where it cannot be read.
    pub fn value(&mut self) -> Option<Value> {
        self.nested(0)
    }

    /// Whether the next character, after spaces, is this one; it is read then.
    pub fn eat(&mut self, byte: u8) -> bool {
        self.skip_spaces();
        let found = self.text.first() == Some(&byte);
        if found {
            self.text = &self.text[1..];
        }
        found
    }

    fn skip_spaces(&mut self) {
        while let [b' ' | b'\t', rest @ ..] = self.text {
            self.text = rest;
        }
    }

    fn nested(&mut self, depth: usize) -> Option<Value> {
        self.skip_spaces();
        match *self.text.first()? {
            b')' => None,
            b'(' if depth >= DEEPEST => None,
            b'(' => {
                self.text = &self.text[1..];
                let mut items = Vec::new();
                while !self.eat(b')') {
                    items.push(self.nested(depth + 1)?);
                }
                Some(Value::List(items))
            }
            b'"' => self.quoted(),
            PLACEHOLDER => {
                self.text = &self.text[1..];
                self.literals.next().map(Value::Literal)
            }
            _ => Some(self.atom()),
        }
    }

    fn quoted(&mut self) -> Option<Value> {
        let mut out = Vec::new();
        let mut bytes = self.text[1..].iter().enumerate();
        while let Some((at, &byte)) = bytes.next() {
            match byte {
                b'"' => {
                    self.text = &self.text[at + 2..];
                    return Some(Value::Quoted(out));
                }
                b'\\' => out.push(*bytes.next()?.1),
                PLACEHOLDER => return None,
                other => out.push(other),
            }
        }
        None
    }

    fn atom(&mut self) -> Value {
        let mut at = 0;
        while let Some(&byte) = self.text.get(at) {
            match byte {
                b' ' | b'\t' | b'(' | b')' | b'"' | PLACEHOLDER => break,
                // BODY[HEADER.FIELDS (SUBJECT)]; a bracket that is never closed is a character like any other
                b'[' => at += bracketed(&self.text[at..]).unwrap_or(1),
                _ => at += 1,
            }
        }
        let (atom, rest) = self.text.split_at(at);
        self.text = rest;
        if atom.eq_ignore_ascii_case(b"NIL") { Value::Nil } else { Value::Atom(atom.to_vec()) }
    }
}

/// The length of `[...]` at the begin of the text.
fn bracketed(text: &[u8]) -> Option<usize> {
    let end = memchr::memchr(b']', text)?;
    (!text[..end].contains(&PLACEHOLDER)).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str, literals: &[&str]) -> String {
        let literals = literals
            .iter()
            .map(|l| Literal { bytes: l.as_bytes().to_vec(), size: l.len() as u64, over_cap: false })
            .collect();
        let mut scanner = Scanner::new(text.as_bytes(), literals);
        let mut out = String::new();
        while let Some(value) = scanner.value() {
            out.push_str(&shown(&value));
        }
        format!("{out}|{}", String::from_utf8_lossy(scanner.rest()))
    }

    fn shown(value: &Value) -> String {
        match value {
            Value::Nil => "nil ".to_owned(),
            Value::Atom(b) => format!("{} ", String::from_utf8_lossy(b)),
            Value::Quoted(b) => format!("{:?} ", String::from_utf8_lossy(b)),
            Value::Literal(l) => format!("<{}> ", String::from_utf8_lossy(&l.bytes)),
            Value::List(items) => format!("({}) ", items.iter().map(shown).collect::<String>()),
        }
    }

    #[test]
    fn values() {
        for (text, literals, expected) in [
            ("UID 5  FLAGS (\\Seen $x)", &[][..], "UID 5 FLAGS (\\Seen $x ) |"),
            ("BODY[HEADER.FIELDS (A B)]<0> \n)", &["x"], "BODY[HEADER.FIELDS (A B)]<0> <x> |)"),
            ("BODY[]\n", &["x"], "BODY[] <x> |"),
            ("\"a\\\"b\\\\\" nil NILS", &[], "\"a\\\"b\\\\\" nil NILS |"),
            ("a[b c", &[], "a[b c |"),
            ("()(()a)", &[], "() (() a ) |"),
            // cannot be read
            ("(a", &[], "|"),
            ("x \"open", &[], "x |\"open"),
            ("\n \n", &["one"], "<one> |"),
        ] {
            let got = all(text, literals);
            assert_eq!(got, expected, "{text:?}");
        }
        let deep = "(".repeat(100_000);
        assert!(Scanner::new(deep.as_bytes(), Vec::new()).value().is_none());
    }
}
