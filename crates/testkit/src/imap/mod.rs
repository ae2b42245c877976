//! A small well-behaved IMAP server with folders in memory, after RFC 3501 and 2177, 2342, 3348, 4315, 4731, 4959, 5161, 6154, 6851, 6855, 7162, 7888.

mod session;
mod store;
mod words;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::{Io, StopOnDrop};
use session::Session;
pub use store::{Folder, Stored};

/// What the server can do. The default offers everything but TLS, special-use folders and UTF8=ACCEPT.
#[derive(Clone)]
pub struct ImapOptions {
    /// The SASL mechanisms offered, of PLAIN, LOGIN and CRAM-MD5.
    pub sasl: Vec<&'static str>,
    /// Takes the initial response with AUTHENTICATE.
    pub sasl_ir: bool,
    /// Offers the command LOGIN; without it the server says LOGINDISABLED.
    pub login: bool,
    /// Offers STARTTLS and does it with this.
    pub starttls: Option<TlsAcceptor>,
    /// Speaks TLS from the first byte.
    pub implicit_tls: Option<TlsAcceptor>,
    /// Greets with PREAUTH as this user.
    pub preauth: Option<&'static str>,
    /// UIDPLUS: UID EXPUNGE.
    pub uidplus: bool,
    /// MOVE.
    pub moves: bool,
    /// IDLE.
    pub idle: bool,
    /// CONDSTORE: HIGHESTMODSEQ.
    pub condstore: bool,
    /// UID SEARCH RETURN.
    pub esearch: bool,
    /// LITERAL+.
    pub literal_plus: bool,
    /// NAMESPACE, with this prefix of all folders but the inbox.
    pub namespace: Option<&'static str>,
    /// What separates levels.
    pub delimiter: char,
    /// SPECIAL-USE and LIST-EXTENDED; without it the attributes are told by XLIST alone.
    pub special_use: bool,
    /// UTF8=ACCEPT: names are UTF-8.
    pub utf8: bool,
    /// Tells what it can do in the greeting and after the login, unasked.
    pub tells_capabilities: bool,
}

impl Default for ImapOptions {
    fn default() -> Self {
        Self {
            sasl: vec!["PLAIN", "LOGIN"],
            sasl_ir: true,
            login: true,
            starttls: None,
            implicit_tls: None,
            preauth: None,
            uidplus: true,
            moves: true,
            idle: true,
            condstore: true,
            esearch: true,
            literal_plus: true,
            namespace: Some(""),
            delimiter: '/',
            special_use: true,
            utf8: false,
            tells_capabilities: true,
        }
    }
}

impl ImapOptions {
    /// RFC 3501 and nothing else.
    #[must_use]
    pub fn least() -> Self {
        Self {
            sasl: Vec::new(),
            sasl_ir: false,
            uidplus: false,
            moves: false,
            idle: false,
            condstore: false,
            esearch: false,
            literal_plus: false,
            namespace: None,
            special_use: false,
            tells_capabilities: false,
            ..Self::default()
        }
    }
}

#[derive(Default)]
struct State {
    passwords: BTreeMap<String, String>,
    accounts: BTreeMap<String, BTreeMap<String, Folder>>,
    commands: Vec<String>,
    logins: usize,
    hung_up: (usize, String),
    next_validity: u32,
}

/// A listening server.
pub struct ImapServer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    changes: watch::Sender<u64>,
    _task: StopOnDrop,
}

impl std::fmt::Debug for ImapServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ImapServer({})", self.address)
    }
}

impl ImapServer {
    /// Starts a server without users.
    ///
    /// # Panics
    /// When there is no free port; that fails the test.
    pub async fn start(options: ImapOptions) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State { next_validity: 1000, ..State::default() }));
        let shared = Arc::clone(&state);
        let options = Arc::new(options);
        let (changes, _) = watch::channel(0);
        let sender = changes.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let (options, state, sender) = (Arc::clone(&options), Arc::clone(&shared), sender.clone());
                tokio::spawn(async move {
                    let io: Box<dyn Io> = match &options.implicit_tls {
                        None => Box::new(stream),
                        Some(acceptor) => match acceptor.accept(stream).await {
                            Ok(stream) => Box::new(stream),
                            Err(_) => return,
                        },
                    };
                    Session::new(options, state, sender, io).run().await;
                });
            }
        });
        Self { address, state, changes, _task: StopOnDrop(task) }
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock().expect("no session panicked"));
        self.changes.send_modify(|n| *n += 1);
        result
    }

    fn folder<T>(&self, user: &str, name: &str, change: impl FnOnce(&mut Folder) -> T) -> T {
        self.with(|state| {
            let account = state.accounts.get_mut(user).expect("a known user");
            change(account.get_mut(name).expect("a known folder"))
        })
    }

    /// Adds a user with an empty inbox.
    pub fn add_user(&self, name: &str, password: &str) {
        self.with(|state| {
            state.passwords.insert(name.to_owned(), password.to_owned());
            state.accounts.entry(name.to_owned()).or_default();
        });
        self.add_folder(name, "INBOX", None);
    }

    /// Adds an empty folder, with what it is for: `\Junk`. The name is the server's whole one, in modified UTF-7 unless `utf8` is on.
    ///
    /// # Panics
    /// For an unknown user; that fails the test. So do the methods below, also for an unknown folder.
    pub fn add_folder(&self, user: &str, name: &str, special: Option<&'static str>) {
        self.with(|state| {
            state.next_validity += 1;
            let folder = Folder::new(state.next_validity, special);
            state.accounts.get_mut(user).expect("a known user").insert(name.to_owned(), folder);
        });
    }

    /// Appends a message to a folder; returns its UID.
    pub fn put(&self, user: &str, folder: &str, bytes: impl Into<Vec<u8>>) -> u32 {
        self.folder(user, folder, |folder| folder.append(bytes.into()))
    }

    /// Takes a message away behind the back of open sessions.
    pub fn take_away(&self, user: &str, folder: &str, uid: u32) {
        self.folder(user, folder, |folder| folder.remove(|m| m.uid == uid));
    }

    /// Takes all messages away behind the back of open sessions.
    pub fn clear(&self, user: &str, folder: &str) {
        self.folder(user, folder, |folder| folder.remove(|_| true));
    }

    /// Sets a flag of a message as another client would.
    pub fn flag(&self, user: &str, folder: &str, uid: u32, flag: &str) {
        self.folder(user, folder, |folder| folder.set_flags(&[uid], true, &[flag.to_owned()]));
    }

    /// Gives a folder another UIDVALIDITY and its messages other UIDs.
    pub fn renumber(&self, user: &str, folder: &str) {
        self.folder(user, folder, Folder::renumber);
    }

    /// Ends every session that is open now at its next command that begins so, without an answer.
    pub fn hang_up_at(&self, begin: &str) {
        self.with(|state| state.hung_up = (state.hung_up.0 + 1, begin.to_owned()));
    }

    /// What is in a folder; `None` where there is no such folder.
    #[must_use]
    pub fn messages(&self, user: &str, folder: &str) -> Option<Vec<Stored>> {
        self.with(|state| state.accounts[user].get(folder).map(|f| f.messages.clone()))
    }

    /// The names of a user's folders, and whether each is subscribed.
    #[must_use]
    pub fn folders(&self, user: &str) -> Vec<(String, bool)> {
        self.with(|state| state.accounts[user].iter().map(|(n, f)| (n.clone(), f.subscribed)).collect())
    }

    /// Every command heard, without its tag, over all sessions; passwords included.
    #[must_use]
    pub fn commands(&self) -> Vec<String> {
        self.with(|state| state.commands.clone())
    }

    /// How many logins succeeded.
    #[must_use]
    pub fn logins(&self) -> usize {
        self.with(|state| state.logins)
    }
}
