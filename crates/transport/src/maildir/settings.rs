//! Where the Maildirs are.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use email_router_model::{EmailAddress, Mailbox, MailboxId};

use crate::{Error, ErrorKind, Result};

/// The settings of a [`MaildirTransport`](super::MaildirTransport).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MaildirSettings {
    /// The Maildir each mailbox is read from; `None`: this transport does not receive.
    pub incoming: Option<MailboxPath>,
    /// Where messages are written; `None`: this transport does not submit.
    pub delivery: Option<Delivery>,
    /// The name of this machine in the names of new files. Two machines that write into the same directory over a network should have
    /// different ones (names have 64 random bits besides).
    pub host: String,
}

impl MaildirSettings {
    /// Reads mailboxes at these paths; does not submit.
    #[must_use]
    pub fn incoming(path: MailboxPath) -> Self {
        Self { incoming: Some(path), delivery: None, host: "localhost".to_owned() }
    }

    /// Writes messages there; does not receive.
    #[must_use]
    pub fn outgoing(delivery: Delivery) -> Self {
        Self { incoming: None, delivery: Some(delivery), host: "localhost".to_owned() }
    }
}

/// Where submitted messages are written.
#[derive(Debug, Clone)]
pub enum Delivery {
    /// One file for each message, in one Maildir, which is created when it is missing.
    Outbox {
        /// The outbox of each sender; the same for all, when the path has no placeholder.
        path: MailboxPath,
        /// Whether messages stay in the outbox or one of its folders. Then
        /// [`find_submitted`](crate::Transport::find_submitted) can tell for sure whether a message was written. `false` when another
        /// program takes them away: a message that is not there may then have been carried on.
        keeps_messages: bool,
    },
    /// One file in the Maildir of each recipient. It must exist: a missing one means that there is no such recipient.
    Recipients {
        /// With `{address}`, `{local}` and `{domain}`.
        template: PathTemplate,
    },
}

/// Gives the Maildir of a mailbox; `None` when it has none.
pub type PathFunction = dyn Fn(&Mailbox) -> Option<PathBuf> + Send + Sync;

/// The Maildir of a mailbox.
#[derive(Clone)]
pub enum MailboxPath {
    /// This one, whatever the mailbox.
    Fixed(PathBuf),
    /// The same form for all.
    Template(PathTemplate),
    /// One by one; a mailbox that is not in it cannot be opened.
    Map(BTreeMap<MailboxId, PathBuf>),
    /// As a function of the mailbox; `None` when it has no Maildir.
    Function(Arc<PathFunction>),
}

impl MailboxPath {
    /// The path for this mailbox.
    ///
    /// # Errors
    /// [`ErrorKind::Settings`] when there is none, or when the address or id would lead out of the template.
    pub fn resolve(&self, mailbox: &Mailbox) -> Result<PathBuf> {
        match self {
            Self::Fixed(path) => Ok(path.clone()),
            Self::Template(template) => template.fill(&mailbox.address, Some(&mailbox.id)),
            Self::Map(map) => map.get(&mailbox.id).cloned().ok_or_else(|| no_path(mailbox)),
            Self::Function(function) => function(mailbox).ok_or_else(|| no_path(mailbox)),
        }
    }
}

impl fmt::Debug for MailboxPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(path) => f.debug_tuple("Fixed").field(path).finish(),
            Self::Template(template) => f.debug_tuple("Template").field(template).finish(),
            Self::Map(map) => f.debug_tuple("Map").field(map).finish(),
            Self::Function(_) => f.write_str("Function(..)"),
        }
    }
}

impl fmt::Display for MailboxPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(path) => path.display().fmt(f),
            Self::Template(template) => template.fmt(f),
            Self::Map(map) => write!(f, "({} paths)", map.len()),
            Self::Function(_) => f.write_str("(computed paths)"),
        }
    }
}

/// A path with placeholders.
///
/// | placeholder | stands for |
/// |---|---|
/// | `{address}` | the address, lower case |
/// | `{local}` | what stands before its `@`, lower case |
/// | `{domain}` | what stands behind, lower case |
/// | `{id}` | the id of the mailbox, as it is (not for recipients) |
///
/// ```
/// use email_router_transport::maildir::PathTemplate;
/// let template = PathTemplate::parse("/var/mail/{domain}/{local}/Maildir")?;
/// let path = template.fill(&"Ann@Example.com".parse()?, None)?;
/// assert_eq!(path.to_str(), Some("/var/mail/example.com/ann/Maildir"));
/// assert!(template.fill(&"../ann@example.com".parse()?, None).is_err());
/// assert!(PathTemplate::parse("/var/mail/{user}").is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathTemplate {
    text: String,
    parts: Vec<TemplatePart>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum TemplatePart {
    Literal(String),
    Address,
    Local,
    Domain,
    Id,
}

impl PathTemplate {
    /// Reads a template. A `{` always begins a placeholder.
    ///
    /// # Errors
    /// [`ErrorKind::Settings`] for an unknown placeholder, one that does not end, or an empty text.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            let hint = "the placeholders are {address}, {local}, {domain} and {id}";
            Error::new(ErrorKind::Settings, format!("maildir path {text:?}: {why}")).with_hint(hint)
        };
        if text.is_empty() {
            return Err(wrong("the path is empty"));
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((literal, after)) = rest.split_once('{') {
            let Some((name, tail)) = after.split_once('}') else {
                return Err(wrong("a placeholder does not end"));
            };
            parts.push(TemplatePart::Literal(literal.to_owned()));
            parts.push(match name {
                "address" => TemplatePart::Address,
                "local" => TemplatePart::Local,
                "domain" => TemplatePart::Domain,
                "id" => TemplatePart::Id,
                other => return Err(wrong(&format!("there is no placeholder {{{other}}}"))),
            });
            rest = tail;
        }
        parts.push(TemplatePart::Literal(rest.to_owned()));
        Ok(Self { text: text.to_owned(), parts })
    }

    /// The path for this address.
    ///
    /// # Errors
    /// [`ErrorKind::Settings`] when a value could lead elsewhere (it holds a slash, or begins with a dot), or an id is needed and there is none.
    pub fn fill(&self, address: &EmailAddress, id: Option<&MailboxId>) -> Result<PathBuf> {
        let mut path = String::new();
        for part in &self.parts {
            match part {
                TemplatePart::Literal(text) => path.push_str(text),
                TemplatePart::Address => path.push_str(self.safe(&address.key())?),
                TemplatePart::Local => path.push_str(self.safe(&address.local_part().to_lowercase())?),
                TemplatePart::Domain => path.push_str(self.safe(&address.domain().to_lowercase())?),
                TemplatePart::Id => {
                    let id = id.map(MailboxId::as_str).unwrap_or_default();
                    path.push_str(self.safe(id)?);
                }
            }
        }
        Ok(PathBuf::from(path))
    }

    /// The directory above the first placeholder.
    pub(crate) fn fixed_part(&self) -> PathBuf {
        let literal = match &self.parts[..] {
            [TemplatePart::Literal(whole)] => return PathBuf::from(whole),
            [TemplatePart::Literal(first), ..] => first.as_str(),
            _ => "",
        };
        match literal.rfind('/') {
            Some(0) => PathBuf::from("/"),
            Some(end) => PathBuf::from(&literal[..end]),
            None => PathBuf::from("."),
        }
    }

    fn safe<'a>(&self, value: &'a str) -> Result<&'a str> {
        let bad = value.is_empty()
            || value.starts_with('.')
            || value.chars().any(|c| matches!(c, '/' | '\\') || c.is_control());
        if bad {
            let text = format!("maildir path {:?}: {value:?} may not stand in a file name", self.text);
            let hint = "give this mailbox a path of its own";
            return Err(Error::new(ErrorKind::Settings, text).with_hint(hint));
        }
        Ok(value)
    }
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn no_path(mailbox: &Mailbox) -> Error {
    Error::new(ErrorKind::Settings, format!("maildir: {mailbox} has no path"))
        .with_hint("give the mailbox the path of its Maildir")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn fixed_part_is_the_directory_above() {
        for (template, due) in
            [("/a/b/{local}/c", "/a/b"), ("/a/x-{id}", "/a"), ("/a/b", "/a/b"), ("{id}", ".")]
        {
            let template = PathTemplate::parse(template).unwrap();
            assert_eq!(template.fixed_part(), Path::new(due), "{template}");
        }
    }

    #[test]
    fn wrong_templates_say_why() {
        for (text, why) in [("", "empty"), ("/a/{local", "does not end"), ("/a/{b}", "no placeholder {b}")] {
            let error = PathTemplate::parse(text).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
    }
}
