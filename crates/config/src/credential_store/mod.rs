//! The store of credentials: passwords of mailboxes that have none in the configuration file, such as those loaded from the CRM.
//!
//! A file of a fixed name beside the configuration, with the key of the configuration. Each password is ciphertext that is bound to the address
//! and the direction it was set for: who may write the file and has no key cannot give one mailbox the password of another. The CRM is no
//! place to read passwords from: those that users type in there are write-only (`crm-contract.md` 2.7).

mod edit;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use email_router_model::{CapError, Direction, EmailAddress, Secret, read_file_capped};

use crate::document::Document;
use crate::files;
use crate::finding::{Code, Finding, Position, Severity};
use crate::lint::lint_as;
use crate::load::{previous_path, text_of};
use crate::secret::{Sealed, SecretRef};
use crate::store::{SecretError, SecretStore};
use crate::tree::{Damage, MAX_BYTES, Node, shorten};
use crate::wire::{Content, Element};

pub(crate) use edit::Resealed;
pub use edit::{remove_credential, set_credential};

/// The name of the store's file.
pub const CREDENTIALS_FILE: &str = "email-router-credentials.xml";

const ROOT: &str = "EmailRouterCredentials";
const ENTRY: &str = "Credential";
const ADDRESS: &str = "EmailAddress";
const DIRECTION: &str = "Direction";
const USER_NAME: &str = "UserName";
const PASSWORD: &str = "Password";
const BOTH: &str = "Both";

/// What stands in an entry, and in the file.
const ENTRY_ELEMENTS: &[Element] = &[value(ADDRESS), value(DIRECTION), value(USER_NAME), value(PASSWORD)];
const ELEMENTS: &[Element] =
    &[Element { name: ENTRY, content: Content::Section(ENTRY_ELEMENTS), repeated: true }];

const fn value(name: &'static str) -> Element {
    Element { name, content: Content::Value, repeated: false }
}

/// Where the store of a configuration file is: beside it.
#[must_use]
pub fn credentials_file(configuration: &Path) -> PathBuf {
    files::folder(configuration).join(CREDENTIALS_FILE)
}

/// Why the store cannot be read or changed. It never contains a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialStoreError {
    /// The file is no XML document of this kind, and there is no usable previous generation.
    #[error(
        "{}:{damage}; nothing was changed: repair the file, or put its previous generation {} in its place",
        path.display(),
        previous_path(path).display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        damage: Damage,
    },
    /// The file cannot be read.
    #[error("{0}")]
    Unreadable(CapError),
    /// The file has faults that a person has to correct first.
    #[error("{0}; nothing was changed: correct it first, or remove the entry from the file")]
    Fault(Box<Finding>),
    /// There is nothing stored.
    #[error("{path} has no password of {address}{direction}", path = path.display(), direction = only(*direction))]
    NotStored {
        /// The file.
        path: PathBuf,
        /// The address that was asked for.
        address: EmailAddress,
        /// The direction that was asked for; `None`: any.
        direction: Option<Direction>,
    },
    /// What is stored is for both directions, and one was asked for.
    #[error(
        "the password of {0} is stored for both directions at once; remove it without naming a direction"
    )]
    BothAtOnce(EmailAddress),
    /// A user name that cannot be one.
    #[error("the user name must be one line of text, and not empty")]
    UserName,
    /// The key, or the secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The file cannot be changed in this place.
    #[error(transparent)]
    Edit(#[from] crate::document::EditError),
    /// A file operation failed.
    #[error("cannot {what}: {source}; nothing was changed")]
    Io {
        /// What was tried, with the file's name.
        what: String,
        /// The cause.
        source: io::Error,
    },
}

fn only(direction: Option<Direction>) -> String {
    direction.map(|d| format!(" for {d} mail alone")).unwrap_or_default()
}

/// One entry: whose password, for which direction.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredCredential {
    /// The user or queue, by address; letter case does not count.
    pub address: EmailAddress,
    /// Reading or sending; `None`: both. An entry for one direction counts before one for both.
    pub direction: Option<Direction>,
    /// The name to log in with; `None`: the mailbox's own, which is its address by default.
    pub user_name: Option<String>,
    /// Line in the file, counted from 1.
    pub line: u32,
    /// Why the entry cannot be used, whatever the key.
    pub fault: Option<String>,
    password: Option<Sealed>,
    /// Among the entries of the file, counted from 1.
    number: usize,
}

impl fmt::Debug for StoredCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredCredential")
            .field("address", &self.address)
            .field("direction", &self.direction)
            .field("line", &self.line)
            .finish_non_exhaustive()
    }
}

/// The passwords that are stored, still encrypted.
///
/// ```
/// use std::path::Path;
/// use email_router_config::CredentialStore;
/// let text = "<EmailRouterCredentials>\n  <Credential><EmailAddress>ann@example.com</EmailAddress><Password>x</Password></Credential>\n</EmailRouterCredentials>";
/// let store = CredentialStore::parse(text.as_bytes(), Path::new("email-router-credentials.xml"))?;
/// assert_eq!(store.entries()[0].line, 2);
/// assert!(store.findings()[0].message.contains("Password holds no ciphertext"));
/// # Ok::<(), email_router_config::Damage>(())
/// ```
#[derive(Debug)]
pub struct CredentialStore {
    path: PathBuf,
    document: Document,
    entries: Vec<StoredCredential>,
    /// By [`EmailAddress::key`], in the order of the file.
    by_address: HashMap<String, Vec<usize>>,
    findings: Vec<Finding>,
}

impl CredentialStore {
    /// Reads the store. One that is not there is empty. Of a damaged one the previous generation is taken, where that can be read, as of a
    /// configuration file; the findings say so then.
    ///
    /// # Errors
    /// [`CredentialStoreError::Unreadable`], [`CredentialStoreError::Damaged`].
    pub fn load(path: &Path) -> Result<Self, CredentialStoreError> {
        let error = match Self::open(path) {
            Err(error @ CredentialStoreError::Damaged { .. }) => error,
            other => return other,
        };
        let previous = previous_path(path);
        let (CredentialStoreError::Damaged { damage, .. }, true) = (&error, previous.exists()) else {
            return Err(error);
        };
        let Ok(mut store) = Self::open(&previous) else { return Err(error) };
        let told = [
            (Severity::Error, Code::Damaged, format!("the file is damaged: {}", damage.message)),
            (
                Severity::Warning,
                Code::PreviousGeneration,
                format!(
                    "the previous generation {} is used; repair the file, or put that in its place",
                    previous.display()
                ),
            ),
        ];
        let told =
            told.map(|(severity, code, message)| Finding::new(severity, code, path, damage.at, "", message));
        store.findings.splice(0..0, told);
        Ok(store)
    }

    /// The same without the previous generation: what is to be changed has to be whole.
    fn open(path: &Path) -> Result<Self, CredentialStoreError> {
        let damaged = |damage| CredentialStoreError::Damaged { path: path.to_owned(), damage };
        match read_file_capped(path, MAX_BYTES as u64) {
            Ok(bytes) => Self::parse(&bytes, path).map_err(damaged),
            Err(CapError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Self::parse(
                format!("<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<{ROOT}>\n</{ROOT}>\n").as_bytes(),
                path,
            )
            .map_err(damaged),
            Err(error @ CapError::TooLarge { .. }) => {
                Err(damaged(Damage { at: Position::START, message: error.to_string() }))
            }
            Err(error) => Err(CredentialStoreError::Unreadable(error)),
        }
    }

    /// Reads the bytes of a store; `path` is for messages.
    ///
    /// # Errors
    /// [`Damage`] with the place, for what is no well-formed document of this kind.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self, Damage> {
        let document = Document::parse(text_of(bytes)?)?;
        let root = document.root();
        if !root.is(ROOT) {
            // the name may be anything, a piece of a password included
            return Err(Damage { at: root.at, message: format!("the root element must be {ROOT}") });
        }
        let mut findings = lint_as(root, path, ROOT, ELEMENTS).findings;
        // what a configuration may have as a password is not what may stand here
        findings
            .retain(|f| !(f.is_error() && f.element.ends_with(PASSWORD) && f.code != Code::DuplicateElement));
        let mut store = Self {
            path: path.to_owned(),
            entries: Vec::new(),
            by_address: HashMap::new(),
            findings: Vec::new(),
            document,
        };
        let mut entries: Vec<StoredCredential> = Vec::new();
        let nodes = store.document.root().children.iter().filter(|c| c.is(ENTRY));
        for (node, number) in nodes.zip(1..) {
            let mut cx = EntryContext { path, node, findings: &mut findings };
            let Some(mut entry) = cx.read(number) else { continue };
            let same = store.by_address.entry(entry.address.key()).or_default();
            if let Some(first) = same.iter().map(|n| &entries[*n]).find(|e| e.direction == entry.direction) {
                let message = format!(
                    "{} has a password for {} mail at line {} already, which counts; remove one of the two",
                    entry.address,
                    ways(entry.direction),
                    first.line
                );
                cx.error(node, Code::DuplicateName, &message);
                entry.fault = Some(message);
            }
            same.push(entries.len());
            entries.push(entry);
        }
        findings.sort_by_key(|f| (f.line, f.column));
        store.entries = entries;
        store.findings = findings;
        Ok(store)
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is stored, in the order of the file.
    #[must_use]
    pub fn entries(&self) -> &[StoredCredential] {
        &self.entries
    }

    /// What is wrong with the file, with places: unknown elements, which are kept, and entries that cannot be used.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The entry that counts for an address in a direction: the first for this direction, else the first for both.
    #[must_use]
    pub fn find(&self, address: &EmailAddress, direction: Direction) -> Option<&StoredCredential> {
        let same = self.by_address.get(&address.key())?;
        let of = |wanted| same.iter().map(|n| &self.entries[*n]).find(move |e| e.direction == wanted);
        of(Some(direction)).or_else(|| of(None))
    }

    /// The password of an entry.
    ///
    /// # Errors
    /// What is wrong, with file and line, and never the secret.
    pub fn password(&self, entry: &StoredCredential, secrets: &SecretStore) -> Result<Secret, String> {
        let place = format!("{}:{}", self.path.display(), entry.line);
        match (&entry.fault, &entry.password) {
            (Some(fault), _) => Err(format!("{place}: {fault}")),
            // what has no password has a fault
            (None, None) => Err(format!("{place}: there is no password")),
            (None, Some(sealed)) => {
                opened(entry, sealed, secrets).map_err(|error| format!("{place}: {error}"))
            }
        }
    }
}

fn opened(entry: &StoredCredential, sealed: &Sealed, secrets: &SecretStore) -> Result<Secret, SecretError> {
    let aad = bound_to(&sealed.key_id, &entry.address, entry.direction);
    secrets.open(sealed, &aad).map_err(|error| match error {
        SecretError::Tampered(key) => SecretError::OtherEntry(key),
        other => other,
    })
}

/// The associated data of a password. The address is last, so that nothing in it can look like another part.
fn bound_to(key_id: &str, address: &EmailAddress, direction: Option<Direction>) -> String {
    format!("email-router credential, format 1, key {key_id}, {}, {}", ways(direction), address.key())
}

/// "incoming", "outgoing" or "both".
fn ways(direction: Option<Direction>) -> String {
    direction.map_or_else(|| "both".to_owned(), |d| d.to_string())
}

/// One entry of the file while it is read.
struct EntryContext<'a> {
    path: &'a Path,
    node: &'a Node,
    findings: &'a mut Vec<Finding>,
}

impl<'a> EntryContext<'a> {
    fn error(&mut self, at: &Node, code: Code, message: &str) {
        let element = format!("{ROOT}/{ENTRY}");
        self.findings.push(Finding::new(Severity::Error, code, self.path, at.at, &element, message));
    }

    /// The element of this name; the whole entry is passed over where there are two, as the pass before has reported.
    fn one(&self, name: &str) -> Option<Option<&'a Node>> {
        let mut same = self.node.children.iter().filter(|c| c.is(name));
        let first = same.next();
        same.next().is_none().then_some(first)
    }

    /// `None` where nobody can say whose entry it is, which has been reported then.
    fn read(&mut self, number: usize) -> Option<StoredCredential> {
        let (address, direction) = (self.one(ADDRESS)?, self.one(DIRECTION)?);
        let (user_name, password) = (self.one(USER_NAME)?, self.one(PASSWORD)?);
        let Some(address) = address else {
            self.error(
                self.node,
                Code::MissingElement,
                "EmailAddress is missing; give the address of the user or queue",
            );
            return None;
        };
        let address = match EmailAddress::parse(&address.text) {
            Ok(parsed) => parsed,
            Err(error) => {
                self.error(address, Code::InvalidValue, &format!("EmailAddress: {error}"));
                return None;
            }
        };
        let direction = match direction.map(|node| (node, node.text.trim())) {
            None => None,
            Some((_, text)) if text.eq_ignore_ascii_case(BOTH) => None,
            Some((_, text)) if text.eq_ignore_ascii_case("Incoming") => Some(Direction::Incoming),
            Some((_, text)) if text.eq_ignore_ascii_case("Outgoing") => Some(Direction::Outgoing),
            Some((node, text)) => {
                let message = format!(
                    "Direction {:?} is not known; it must be Incoming, Outgoing or {BOTH}",
                    shorten(text)
                );
                self.error(node, Code::UnknownValue, &message);
                return None;
            }
        };
        let mut fault = None;
        let sealed = password.and_then(|node| match SecretRef::parse(&node.text) {
            Ok(SecretRef::Aead(sealed)) if node.children.is_empty() => Some(sealed),
            _ => None,
        });
        if sealed.is_none() {
            // whatever it is, it is not repeated
            let message = match password.filter(|node| !node.text.trim().is_empty()) {
                None => format!("Password is missing; `email-router credential set {address}` sets it"),
                Some(_) => format!(
                    "Password holds no ciphertext; `email-router credential set {address}` makes it; a password in clear text that \
                     was readable here should be changed"
                ),
            };
            let code = if password.is_some() { Code::ClearTextPassword } else { Code::MissingElement };
            self.error(password.unwrap_or(self.node), code, &message);
            fault = Some(message);
        }
        let user_name = user_name.map(|node| node.text.trim().to_owned()).filter(|name| !name.is_empty());
        Some(StoredCredential {
            address,
            direction,
            user_name,
            line: self.node.at.line,
            fault,
            password: sealed,
            number,
        })
    }
}
