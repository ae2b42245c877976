//! Where the mail comes from: Dovecot of `scripts/with-peers`, else the test kit's server.

use std::fs;
use std::path::PathBuf;

use email_router_testkit::pop3::{Pop3Options, Pop3Server};
use tokio::runtime::Runtime;

/// The password of every user there.
pub const PASSWORD: &str = "Secret123";

/// A POP3 server with the users `u000`, `u001` ...
pub enum Source {
    /// Dovecot, whose Maildirs are files we write.
    Dovecot {
        /// Port in clear.
        pop3: u16,
        /// Port with TLS from the first byte.
        pop3s: u16,
        /// The authority of its certificate.
        ca: PathBuf,
        /// Its Maildirs.
        mail: PathBuf,
    },
    /// The test kit's, in this process: shows that a measurement works, and no more.
    TestKit {
        /// The server.
        server: Pop3Server,
        /// How many users it has.
        users: usize,
        /// What it runs on.
        _runtime: Runtime,
    },
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Source {
    /// Dovecot where its ports are in the environment and its Maildirs can be written.
    #[must_use]
    pub fn dovecot() -> Option<Self> {
        let port = |name: &str| std::env::var(name).ok()?.parse().ok();
        let source = Self::Dovecot {
            pop3: port("DOVECOT_POP3")?,
            pop3s: port("DOVECOT_POP3S")?,
            ca: std::env::var_os("DOVECOT_CA")?.into(),
            mail: std::env::var_os("DOVECOT_MAIL")?.into(),
        };
        let Self::Dovecot { mail, .. } = &source else { return None };
        let trial = mail.join("u000/tmp/trial");
        match fs::write(&trial, "").and_then(|()| fs::remove_file(&trial)) {
            Ok(()) => Some(source),
            Err(e) => {
                crate::skipped("Dovecot", &format!("{} cannot be written ({e})", trial.display()));
                None
            }
        }
    }

    /// The test kit's server with this many users.
    #[must_use]
    pub fn test_kit(users: usize) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let options = Pop3Options { exclusive: false, ..Pop3Options::default() };
        let server = runtime.block_on(Pop3Server::start(options));
        for n in 0..users {
            server.add_user(&user(n), PASSWORD);
        }
        Self::TestKit { server, users, _runtime: runtime }
    }

    /// Dovecot, or in a smoke run the test kit's server; `None`, said aloud, when a real run has no Dovecot.
    #[must_use]
    pub fn find(users: usize) -> Option<Self> {
        if crate::is_smoke() {
            crate::skipped("Dovecot and its other clients", "a smoke run uses the test kit's server");
            return Some(Self::test_kit(users));
        }
        let found = Self::dovecot();
        if found.is_none() {
            crate::skipped("everything", "no Dovecot; run under scripts/with-peers");
        }
        found
    }

    /// What to call it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Dovecot { .. } => "Dovecot",
            Self::TestKit { .. } => "test kit",
        }
    }

    /// Its port in clear.
    #[must_use]
    pub fn port(&self) -> u16 {
        match self {
            Self::Dovecot { pop3, .. } => *pop3,
            Self::TestKit { server, .. } => server.port(),
        }
    }

    /// Its port with TLS and the authority, where it has that.
    #[must_use]
    pub fn tls(&self) -> Option<(u16, PathBuf)> {
        match self {
            Self::Dovecot { pop3s, ca, .. } => Some((*pop3s, ca.clone())),
            Self::TestKit { .. } => None,
        }
    }

    /// How many users it has.
    #[must_use]
    pub fn users(&self) -> usize {
        match self {
            Self::Dovecot { mail, .. } => (0..).take_while(|n| mail.join(user(*n)).is_dir()).count(),
            Self::TestKit { users, .. } => *users,
        }
    }

    /// Puts these messages into the mailbox of user `n` in place of what is there. Returns the bytes.
    #[must_use]
    pub fn fill(&self, n: usize, messages: &[Vec<u8>]) -> u64 {
        let user = user(n);
        match self {
            Self::Dovecot { mail, .. } => {
                let folder = mail.join(&user).join("cur");
                self.clear(n);
                for (at, message) in messages.iter().enumerate() {
                    let lines = memchr::memchr_iter(b'\n', message).count();
                    // the sizes in the name as Dovecot's own delivery writes them: it need not read the files to tell them
                    let (size, wire) = (message.len(), message.len() + lines);
                    let stamp = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
                    let name =
                        format!("{}.M{}P{at:06}.bench,S={size},W={wire}:2,S", stamp.tv_sec, stamp.tv_nsec);
                    fs::write(folder.join(name), message).unwrap();
                }
            }
            Self::TestKit { server, .. } => {
                server.clear(&user);
                for (at, message) in messages.iter().enumerate() {
                    server.put(&user, &format!("uid{at:06}"), crate::corpus::with_crlf(message));
                }
            }
        }
        messages.iter().map(|m| m.len() as u64).sum()
    }

    /// Empties the mailbox of user `n`.
    pub fn clear(&self, n: usize) {
        let user = user(n);
        match self {
            Self::Dovecot { mail, .. } => {
                for folder in ["cur", "new"] {
                    for file in fs::read_dir(mail.join(&user).join(folder)).unwrap().flatten() {
                        let _ = fs::remove_file(file.path()); // Dovecot may have been faster
                    }
                }
            }
            Self::TestKit { server, .. } => server.clear(&user),
        }
    }
}

/// The name of user `n`.
#[must_use]
pub fn user(n: usize) -> String {
    format!("u{n:03}")
}
