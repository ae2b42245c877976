//! Mailboxes, folders and items in memory.

use std::collections::{HashMap, HashSet};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::xml::Element;

/// The folders that every mailbox has, by their names in the schema, as people see them, and their classes.
const FOLDERS: [(&str, &str, &str); 11] = [
    ("root", "Root", "IPF"),
    ("msgfolderroot", "Top of Information Store", "IPF.Note"),
    ("inbox", "Posteingang", "IPF.Note"),
    ("sentitems", "Gesendete Elemente", "IPF.Note"),
    ("deleteditems", "Gelöschte Elemente", "IPF.Note"),
    ("drafts", "Entwürfe", "IPF.Note"),
    ("junkemail", "Junk-E-Mail", "IPF.Note"),
    ("outbox", "Postausgang", "IPF.Note"),
    ("calendar", "Kalender", "IPF.Appointment"),
    ("contacts", "Kontakte", "IPF.Contact"),
    ("tasks", "Aufgaben", "IPF.Task"),
];

/// An item.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) id: String,
    pub(super) change_key: u64,
    pub(super) mime: Vec<u8>,
    pub(super) class: String,
    /// Seconds since the epoch.
    pub(super) received: i64,
    pub(super) read: bool,
    /// Has the header it came with.
    pub(super) transport_headers: bool,
}

/// A folder.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    pub(super) id: String,
    pub(super) distinguished: Option<&'static str>,
    pub(super) name: String,
    pub(super) class: String,
    pub(super) items: Vec<Item>,
    /// What happened, in order: what a state of `SyncFolderItems` counts.
    pub(super) log: Vec<Change>,
}

/// One thing that happened.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Present(String),
    Gone(String),
    Read(String),
}

/// A mailbox.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    pub(super) folders: Vec<Folder>,
    pub(super) rules: Vec<Element>,
    pub(super) outlook_blob: bool,
}

/// A message the server sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The account that logged in.
    pub account: String,
    /// The address it is from.
    pub from: String,
    /// Whose mailbox sent it, where that is another: "on behalf of".
    pub sender: Option<String>,
    /// Everybody it goes to, lower case.
    pub recipients: Vec<String>,
    /// The MIME as it came.
    pub mime: Vec<u8>,
    /// The mailbox whose Sent Items got a copy.
    pub saved_in: Option<String>,
    /// A delivery receipt was asked for.
    pub delivery_receipt: bool,
}

/// All that the server knows.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Password by lower-case account name.
    pub(super) accounts: HashMap<String, String>,
    /// Account by token.
    pub(super) tokens: HashMap<String, String>,
    /// Mailbox address by lower-case account name.
    pub(super) own: HashMap<String, String>,
    pub(super) mailboxes: HashMap<String, Mailbox>,
    pub(super) full_access: HashSet<(String, String)>,
    pub(super) send_as: HashSet<(String, String)>,
    pub(super) on_behalf: HashSet<(String, String)>,
    pub(super) impersonators: HashSet<String>,
    pub(super) refused_recipients: HashSet<String>,
    pub(super) sent: Vec<Sent>,
    pub(super) subscriptions: HashMap<String, (String, String)>,
    pub(super) forgotten_states: u32,
    counter: u64,
}

impl State {
    pub(super) fn number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    pub(super) fn add_mailbox(&mut self, address: &str) {
        let mut mailbox = Mailbox::default();
        for (distinguished, name, class) in FOLDERS {
            let n = self.number();
            mailbox.folders.push(Folder {
                id: folder_id(address, n),
                distinguished: Some(distinguished),
                name: name.to_owned(),
                class: class.to_owned(),
                items: Vec::new(),
                log: Vec::new(),
            });
        }
        self.mailboxes.insert(address.to_lowercase(), mailbox);
    }

    /// Puts an item into a folder, and gives its new id.
    pub(super) fn put(&mut self, address: &str, folder: usize, item: Item) -> String {
        let n = self.number();
        let id = BASE64_STANDARD.encode(format!("item~{address}~{n:08}~\u{f8}\u{ff}?>padding"));
        if let Some(folder) = self.mailboxes.get_mut(&address.to_lowercase()).map(|m| &mut m.folders[folder])
        {
            folder.items.push(Item { id: id.clone(), change_key: n, ..item });
            folder.log.push(Change::Present(id.clone()));
        }
        id
    }

    pub(super) fn new_item(&mut self, mime: &[u8]) -> Item {
        let n = self.number();
        Item {
            id: String::new(),
            change_key: n,
            mime: mime.to_vec(),
            class: "IPM.Note".to_owned(),
            received: 1_700_000_000 + i64::try_from(n).unwrap_or(0),
            read: false,
            transport_headers: true,
        }
    }

    /// Where an item is.
    pub(super) fn find(&self, id: &str) -> Option<(String, usize, usize)> {
        for (address, mailbox) in &self.mailboxes {
            for (f, folder) in mailbox.folders.iter().enumerate() {
                if let Some(i) = folder.items.iter().position(|item| item.id == id) {
                    return Some((address.clone(), f, i));
                }
            }
        }
        None
    }

    /// Takes an item out of its folder.
    pub(super) fn take(&mut self, address: &str, folder: usize, item: usize) -> Option<Item> {
        let folder = &mut self.mailboxes.get_mut(address)?.folders[folder];
        let item = folder.items.remove(item);
        folder.log.push(Change::Gone(item.id.clone()));
        Some(item)
    }
}

impl Mailbox {
    pub(super) fn distinguished(&self, name: &str) -> Option<usize> {
        self.folders.iter().position(|f| f.distinguished == Some(name))
    }

    pub(super) fn named(&self, name: &str) -> Option<usize> {
        self.folders.iter().position(|f| f.name.eq_ignore_ascii_case(name))
    }
}

pub(super) fn folder_id(address: &str, n: u64) -> String {
    BASE64_STANDARD.encode(format!("folder~{address}~{n}"))
}

/// The unfolded value of a header field.
pub(super) fn header(mime: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(section(mime)).replace("\r\n", "\n");
    let unfolded = text.replace("\n ", " ").replace("\n\t", " ");
    unfolded.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

/// The header section with the empty line behind it.
pub(super) fn section(mime: &[u8]) -> &[u8] {
    let blank = mime.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4);
    let bare = mime.windows(2).position(|w| w == b"\n\n").map(|at| at + 2);
    &mime[..blank.into_iter().chain(bare).min().unwrap_or(mime.len())]
}

/// The addresses in a field, lower case; enough for the tests' own mail.
pub(super) fn addresses(value: &str) -> Vec<String> {
    let pieces = value.split([',', ';']).filter_map(|piece| {
        let piece = piece.rsplit(':').next()?;
        let address = match piece.split_once('<') {
            Some((_, rest)) => rest.split('>').next()?,
            None => piece,
        };
        let address = address.trim().to_lowercase();
        address.contains('@').then_some(address)
    });
    pieces.collect()
}
