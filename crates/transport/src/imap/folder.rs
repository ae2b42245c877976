//! Which folder of the server a name of the settings means.

use super::client::Session;
use super::error::Stage;
use super::proto::name::{Namespace, encode};
use super::proto::{Argument, Command, ListedFolder, Response};
use crate::{Error, ErrorKind, Result};

/// Whether a name asks for what a folder is for, not for what it is called.
pub(super) fn is_special_use(name: &str) -> bool {
    name.starts_with('\\')
}

impl Session {
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
        let place = self.namespace().await?.place(name);
        // before it is encoded: modified UTF-7 would hide a line break
        self.argument("folder name", &place)?;
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
