//! Which folder of the server a name of the settings means, and opening it.

use super::client::Session;
use super::error::Stage;
use super::proto::name::{Namespace, encode};
use super::proto::{Argument, Code, Command, ListedFolder, Response};
use crate::{Error, ErrorKind, Result};

/// A folder that was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Selected {
    pub(super) exists: u32,
    pub(super) uid_validity: u32,
    pub(super) uid_next: Option<u32>,
    pub(super) modseq: Option<u64>,
    pub(super) read_only: bool,
}

/// Whether a name asks for what a folder is for, not for what it is called.
pub(super) fn is_special_use(name: &str) -> bool {
    name.starts_with('\\')
}

impl Session {
    /// Opens a folder, for reading and writing or for reading alone.
    pub(super) async fn select(&mut self, folder: Argument, writing: bool) -> Result<Selected> {
        let condstore = self.capabilities.condstore();
        let command = match writing {
            true => Command::Select(folder, condstore),
            false => Command::Examine(folder, condstore),
        };
        let answer = self.ask(&command).await?;
        if !answer.condition.is_ok() {
            return Err(self.refusal(Stage::Mailbox, &command.request().to_string(), &answer.condition));
        }
        let mut found =
            Selected { exists: 0, uid_validity: 0, uid_next: None, modseq: None, read_only: false };
        let codes = answer.data.iter().filter_map(|response| match response {
            Response::Untagged(condition) => condition.code.as_ref(),
            _ => None,
        });
        for code in codes.chain(&answer.condition.code) {
            match code {
                Code::UidValidity(validity) => found.uid_validity = *validity,
                Code::UidNext(next) => found.uid_next = Some(*next),
                Code::HighestModSeq(modseq) => found.modseq = Some(*modseq).filter(|m| *m > 0),
                Code::ReadOnly => found.read_only = true,
                Code::UidNotSticky => {
                    return Err(Error::new(
                        ErrorKind::Unsupported,
                        format!("{}: the ids of this folder change from session to session", self.place()),
                    )
                    .with_hint("read another folder, or this mailbox by POP3: without lasting ids mail would be read again each time"));
                }
                _ => {}
            }
        }
        for response in &answer.data {
            if let Response::Exists(exists) = response {
                found.exists = *exists;
            }
        }
        if found.uid_validity == 0 {
            let text = format!("{} tells no UIDVALIDITY for the folder", self.place());
            return Err(Error::new(ErrorKind::Protocol, text));
        }
        Ok(found)
    }

    /// The folder as it stands in a command: the inbox, a special use (`\Junk`), or a path with `/` between its levels.
    ///
    /// # Errors
    /// [`ErrorKind::Settings`] where no folder has the special use, or the name cannot stand in a command.
    pub(super) async fn folder(&mut self, name: &str) -> Result<Argument> {
        if name.eq_ignore_ascii_case("INBOX") {
            return self.argument("folder name", "INBOX");
        }
        if is_special_use(name) {
            return self.special_use(name).await;
        }
        // before it is encoded: modified UTF-7 would hide a line break
        self.argument("folder name", name)?;
        let place = self.namespace().await?.place(name);
        let written = if self.utf8 { place } else { encode(&place) };
        self.argument("folder name", &written)
    }

    async fn namespace(&mut self) -> Result<Namespace> {
        if let Some(known) = &self.namespace {
            return Ok(known.clone());
        }
        let mut found = None;
        if self.capabilities.has("NAMESPACE") || self.capabilities.has("IMAP4REV2") {
            let answer = self.ask(&Command::Namespace).await?;
            found = answer.data.into_iter().find_map(|response| match response {
                Response::Namespace(Some((prefix, delimiter))) => Some(Namespace { prefix, delimiter }),
                _ => None,
            });
        }
        if found.is_none() {
            let answer = self.ask(&Command::ListDelimiter).await?;
            let delimiter = answer.data.iter().find_map(|response| match response {
                Response::List(folder) => folder.delimiter,
                _ => None,
            });
            found = Some(Namespace { prefix: String::new(), delimiter });
        }
        let found = found.unwrap_or_default();
        self.namespace = Some(found.clone());
        Ok(found)
    }

    /// The folder with this special use (RFC 6154), or what Gmail called it before.
    async fn special_use(&mut self, wanted: &str) -> Result<Argument> {
        let extended = self.capabilities.has("LIST-EXTENDED") || self.capabilities.has("IMAP4REV2");
        let command = if self.capabilities.has("SPECIAL-USE") && extended {
            Command::ListAll(true)
        } else if self.capabilities.has("XLIST") && !self.capabilities.has("SPECIAL-USE") {
            Command::Xlist
        } else {
            Command::ListAll(false)
        };
        let answer = self.ask(&command).await?;
        if !answer.condition.is_ok() {
            return Err(self.refusal(Stage::Mailbox, "LIST", &answer.condition));
        }
        let folders = answer.data.iter().filter_map(|response| match response {
            Response::List(folder) => Some(folder),
            _ => None,
        });
        match folders.into_iter().find(|folder| has_use(folder, wanted)) {
            // written as the server writes it
            Some(folder) => self.argument("folder name", &folder.name),
            None => Err(Error::new(
                ErrorKind::Settings,
                format!("{}: no folder is marked as {wanted:?}", self.place()),
            )
            .with_hint("name the folder itself; levels are separated by \"/\"")),
        }
    }
}

fn has_use(folder: &ListedFolder, wanted: &str) -> bool {
    const OLD_NAMES: [(&str, &str); 2] = [("\\Junk", "\\Spam"), ("\\All", "\\AllMail")];
    let old = OLD_NAMES.iter().find(|(new, _)| new.eq_ignore_ascii_case(wanted)).map(|(_, old)| *old);
    folder.attributes.iter().any(|attribute| {
        attribute.eq_ignore_ascii_case(wanted) || old.is_some_and(|old| attribute.eq_ignore_ascii_case(old))
    })
}
