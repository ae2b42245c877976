//! Commands as types (RFC 9051 section 6 and its extensions).

use std::fmt::{self, Write as _};

use zeroize::Zeroizing;

use super::set::UidSet;

/// Text that can stand in a command: no control character, at most 1000 octets. `Debug` shows nothing, since it may be a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Argument(Zeroizing<String>);

/// Why a text cannot stand in a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadArgument {
    /// Nothing, or only spaces.
    #[error("is empty")]
    Empty,
    /// A line break, NUL or other control character.
    #[error("contains a control character")]
    Control,
    /// More than [`Argument::MAX_OCTETS`].
    #[error("is longer than {} octets, too long for an IMAP command", Argument::MAX_OCTETS)]
    TooLong,
}

impl Argument {
    /// The longest argument, in octets.
    pub const MAX_OCTETS: usize = 1000;

    /// Checks the text.
    ///
    /// # Errors
    /// [`BadArgument`]; the text is not quoted in it.
    pub fn new(text: &str) -> Result<Self, BadArgument> {
        if text.trim().is_empty() {
            return Err(BadArgument::Empty);
        }
        if text.chars().any(char::is_control) {
            return Err(BadArgument::Control);
        }
        if text.len() > Self::MAX_OCTETS {
            return Err(BadArgument::TooLong);
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a quoted string can hold it on every server.
    #[must_use]
    pub fn is_ascii(&self) -> bool {
        self.0.is_ascii()
    }

    fn quote(&self, out: &mut Vec<u8>) {
        out.push(b'"');
        for byte in self.0.bytes() {
            if matches!(byte, b'"' | b'\\') {
                out.push(b'\\');
            }
            out.push(byte);
        }
        out.push(b'"');
    }
}

impl fmt::Debug for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Argument(***)")
    }
}

/// A command. Folder names are [`Argument`]s already encoded for the server.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// What can the server do?
    Capability,
    /// Begins TLS.
    StartTls,
    /// Begins a SASL exchange, with the initial response in base64 where there is one (SASL-IR, RFC 4959); empty is sent as `=`.
    Authenticate(&'static str, Option<Zeroizing<String>>),
    /// Name and password, as quoted strings.
    Login(Argument, Argument),
    /// Name and password, as literals: for what is not ASCII. With `true` they are sent at once (LITERAL+ or LITERAL-, RFC 7888), else each waits
    /// until the server asks for it; [`Command::encode`] gives the first piece then, [`Command::pieces`] all.
    LoginLiteral(Argument, Argument, bool),
    /// Switches UTF-8 on (RFC 6855).
    EnableUtf8,
    /// Where are the user's folders? (RFC 2342)
    Namespace,
    /// What separates levels?
    ListDelimiter,
    /// The folder of this name, if there is one (and others, if the name has wildcards).
    ListName(Argument),
    /// All folders; with what for is each of them, where the flag is set (RFC 6154).
    ListAll(bool),
    /// All folders with what for is each of them, as Gmail told it before RFC 6154.
    Xlist,
    /// Opens a folder for reading and writing; with `true` asks for HIGHESTMODSEQ (RFC 7162).
    Select(Argument, bool),
    /// Opens a folder for reading alone.
    Examine(Argument, bool),
    /// Which messages are there that are not marked as deleted? With `true` the answer may be ranges (RFC 4731).
    SearchPresent(bool),
    /// Which messages are marked as deleted?
    SearchDeleted,
    /// Size, date and flags.
    FetchListing(UidSet),
    /// A header section, without marking the message as read.
    FetchHeaders(u32),
    /// A message, without marking it as read.
    FetchWhole(u32),
    /// Marks messages as deleted.
    StoreDeleted(UidSet),
    /// Marks messages as read.
    StoreSeen(UidSet),
    /// Removes these messages, if marked as deleted (RFC 4315).
    UidExpunge(UidSet),
    /// Removes all messages marked as deleted.
    Expunge,
    /// Moves messages into a folder (RFC 6851).
    Move(UidSet, Argument),
    /// Copies messages into a folder.
    Copy(UidSet, Argument),
    /// Makes a folder.
    Create(Argument),
    /// Puts a folder among those that clients show.
    Subscribe(Argument),
    /// Tells of changes until DONE (RFC 2177).
    Idle,
    /// Nothing; the server may tell of changes.
    Noop,
    /// Ends the session.
    Logout,
}

/// What an answer is an answer to: a command without its arguments' text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the same as in Command
#[non_exhaustive]
pub enum Request {
    Capability,
    StartTls,
    Authenticate,
    Login,
    Enable,
    Namespace,
    List,
    Select,
    Examine,
    Search,
    FetchListing,
    FetchHeaders(u32),
    FetchWhole(u32),
    Store,
    Expunge,
    Move,
    Copy,
    Create,
    Subscribe,
    Idle,
    Noop,
    Logout,
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Capability => f.write_str("CAPABILITY"),
            Self::StartTls => f.write_str("STARTTLS"),
            Self::Authenticate => f.write_str("AUTHENTICATE"),
            Self::Login => f.write_str("LOGIN"),
            Self::Enable => f.write_str("ENABLE"),
            Self::Namespace => f.write_str("NAMESPACE"),
            Self::List => f.write_str("LIST"),
            Self::Select => f.write_str("SELECT"),
            Self::Examine => f.write_str("EXAMINE"),
            Self::Search => f.write_str("UID SEARCH"),
            Self::FetchListing => f.write_str("UID FETCH"),
            Self::FetchHeaders(uid) | Self::FetchWhole(uid) => write!(f, "UID FETCH {uid}"),
            Self::Store => f.write_str("UID STORE"),
            Self::Expunge => f.write_str("EXPUNGE"),
            Self::Move => f.write_str("UID MOVE"),
            Self::Copy => f.write_str("UID COPY"),
            Self::Create => f.write_str("CREATE"),
            Self::Subscribe => f.write_str("SUBSCRIBE"),
            Self::Idle => f.write_str("IDLE"),
            Self::Noop => f.write_str("NOOP"),
            Self::Logout => f.write_str("LOGOUT"),
        }
    }
}

/// What ends an IDLE (RFC 2177).
pub const DONE: &[u8] = b"DONE\r\n";

impl Command {
    /// The command without its arguments' text.
    #[must_use]
    pub fn request(&self) -> Request {
        match self {
            Self::Capability => Request::Capability,
            Self::StartTls => Request::StartTls,
            Self::Authenticate(..) => Request::Authenticate,
            Self::Login(..) | Self::LoginLiteral(..) => Request::Login,
            Self::EnableUtf8 => Request::Enable,
            Self::Namespace => Request::Namespace,
            Self::ListDelimiter | Self::ListName(_) | Self::ListAll(_) | Self::Xlist => Request::List,
            Self::Select(..) => Request::Select,
            Self::Examine(..) => Request::Examine,
            Self::SearchPresent(_) | Self::SearchDeleted => Request::Search,
            Self::FetchListing(_) => Request::FetchListing,
            Self::FetchHeaders(uid) => Request::FetchHeaders(*uid),
            Self::FetchWhole(uid) => Request::FetchWhole(*uid),
            Self::StoreDeleted(_) | Self::StoreSeen(_) => Request::Store,
            Self::UidExpunge(_) | Self::Expunge => Request::Expunge,
            Self::Move(..) => Request::Move,
            Self::Copy(..) => Request::Copy,
            Self::Create(_) => Request::Create,
            Self::Subscribe(_) => Request::Subscribe,
            Self::Idle => Request::Idle,
            Self::Noop => Request::Noop,
            Self::Logout => Request::Logout,
        }
    }

    /// Appends the command line, with this tag, or its first piece.
    pub fn encode(&self, tag: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(tag.as_bytes());
        out.push(b' ');
        let mut text = String::new();
        match self {
            Self::Authenticate(mechanism, initial) => {
                out.extend_from_slice(format!("AUTHENTICATE {mechanism}").as_bytes());
                if let Some(initial) = initial {
                    out.push(b' ');
                    let initial = if initial.is_empty() { "=" } else { initial.as_str() };
                    out.extend_from_slice(initial.as_bytes());
                }
            }
            Self::Login(name, password) => quoted(out, "LOGIN ", &[name, password], ""),
            Self::LoginLiteral(..) => {
                for piece in self.pieces() {
                    out.extend_from_slice(&piece);
                    if !matches!(self, Self::LoginLiteral(_, _, true)) {
                        return;
                    }
                }
                return;
            }
            Self::Select(name, condstore) => quoted(out, "SELECT ", &[name], condstore_word(*condstore)),
            Self::Examine(name, condstore) => quoted(out, "EXAMINE ", &[name], condstore_word(*condstore)),
            Self::Move(set, name) => quoted(out, &format!("UID MOVE {set} "), &[name], ""),
            Self::Copy(set, name) => quoted(out, &format!("UID COPY {set} "), &[name], ""),
            Self::ListName(name) => quoted(out, "LIST \"\" ", &[name], ""),
            Self::Create(name) => quoted(out, "CREATE ", &[name], ""),
            Self::Subscribe(name) => quoted(out, "SUBSCRIBE ", &[name], ""),
            plain => plain.write_plain(&mut text),
        }
        out.extend_from_slice(text.as_bytes());
        out.extend_from_slice(b"\r\n");
    }

    /// The pieces of [`Command::LoginLiteral`] without the tag, each to be sent when the server asks for it; of others nothing.
    #[must_use]
    pub fn pieces(&self) -> Vec<Zeroizing<Vec<u8>>> {
        let Self::LoginLiteral(name, password, at_once) = self else { return Vec::new() };
        let plus = if *at_once { "+" } else { "" };
        let (name, password) = (name.as_str(), password.as_str());
        [
            format!("LOGIN {{{}{plus}}}\r\n", name.len()),
            format!("{name} {{{}{plus}}}\r\n", password.len()),
            format!("{password}\r\n"),
        ]
        .map(|piece| Zeroizing::new(piece.into_bytes()))
        .into()
    }

    fn write_plain(&self, text: &mut String) {
        // writing into a String does not fail
        let _ = match self {
            Self::Capability => write!(text, "CAPABILITY"),
            Self::StartTls => write!(text, "STARTTLS"),
            Self::EnableUtf8 => write!(text, "ENABLE UTF8=ACCEPT"),
            Self::Namespace => write!(text, "NAMESPACE"),
            Self::ListDelimiter => write!(text, "LIST \"\" \"\""),
            Self::ListAll(true) => write!(text, "LIST \"\" \"*\" RETURN (SPECIAL-USE)"),
            Self::ListAll(false) => write!(text, "LIST \"\" \"*\""),
            Self::Xlist => write!(text, "XLIST \"\" \"*\""),
            Self::SearchPresent(true) => write!(text, "UID SEARCH RETURN (ALL) UNDELETED"),
            Self::SearchPresent(false) => write!(text, "UID SEARCH UNDELETED"),
            Self::SearchDeleted => write!(text, "UID SEARCH DELETED"),
            Self::FetchListing(set) => {
                write!(text, "UID FETCH {set} (UID RFC822.SIZE INTERNALDATE FLAGS)")
            }
            Self::FetchHeaders(uid) => write!(text, "UID FETCH {uid} (UID BODY.PEEK[HEADER])"),
            Self::FetchWhole(uid) => write!(text, "UID FETCH {uid} (UID BODY.PEEK[])"),
            Self::StoreDeleted(set) => write!(text, "UID STORE {set} +FLAGS.SILENT (\\Deleted)"),
            Self::StoreSeen(set) => write!(text, "UID STORE {set} +FLAGS.SILENT (\\Seen)"),
            Self::UidExpunge(set) => write!(text, "UID EXPUNGE {set}"),
            Self::Expunge => write!(text, "EXPUNGE"),
            Self::Idle => write!(text, "IDLE"),
            Self::Noop => write!(text, "NOOP"),
            Self::Logout => write!(text, "LOGOUT"),
            // those with texts are written by `encode`
            _ => Ok(()),
        };
    }
}

fn condstore_word(condstore: bool) -> &'static str {
    if condstore { " (CONDSTORE)" } else { "" }
}

fn quoted(out: &mut Vec<u8>, verb: &str, arguments: &[&Argument], after: &str) {
    out.extend_from_slice(verb.as_bytes());
    for (at, argument) in arguments.iter().enumerate() {
        if at > 0 {
            out.push(b' ');
        }
        argument.quote(out);
    }
    out.extend_from_slice(after.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(command: &Command) -> String {
        let mut out = Vec::new();
        command.encode("E1", &mut out);
        String::from_utf8(out).unwrap()
    }

    fn argument(text: &str) -> Argument {
        Argument::new(text).unwrap()
    }

    #[test]
    fn lines() {
        use Command as C;
        let set = UidSet::new(vec![3, 4, 9]);
        for (command, expected) in [
            (C::Capability, "CAPABILITY"),
            (C::Authenticate("PLAIN", None), "AUTHENTICATE PLAIN"),
            (C::Authenticate("PLAIN", Some(Zeroizing::new("AGE=".into()))), "AUTHENTICATE PLAIN AGE="),
            (C::Authenticate("X", Some(Zeroizing::new(String::new()))), "AUTHENTICATE X ="),
            (C::Login(argument("a\"b"), argument("c\\d e")), "LOGIN \"a\\\"b\" \"c\\\\d e\""),
            (C::Select(argument("INBOX"), true), "SELECT \"INBOX\" (CONDSTORE)"),
            (C::Examine(argument("a%b"), false), "EXAMINE \"a%b\""),
            (C::SearchPresent(true), "UID SEARCH RETURN (ALL) UNDELETED"),
            (C::FetchListing(set.clone()), "UID FETCH 3:4,9 (UID RFC822.SIZE INTERNALDATE FLAGS)"),
            (C::FetchHeaders(7), "UID FETCH 7 (UID BODY.PEEK[HEADER])"),
            (C::FetchWhole(7), "UID FETCH 7 (UID BODY.PEEK[])"),
            (C::StoreDeleted(set.clone()), "UID STORE 3:4,9 +FLAGS.SILENT (\\Deleted)"),
            (C::StoreSeen(UidSet::one(7)), "UID STORE 7 +FLAGS.SILENT (\\Seen)"),
            (C::UidExpunge(set.clone()), "UID EXPUNGE 3:4,9"),
            (C::Move(set.clone(), argument("Junk")), "UID MOVE 3:4,9 \"Junk\""),
            (C::Copy(UidSet::one(7), argument("Junk")), "UID COPY 7 \"Junk\""),
            (C::ListName(argument("a b")), "LIST \"\" \"a b\""),
            (C::ListDelimiter, "LIST \"\" \"\""),
            (C::ListAll(true), "LIST \"\" \"*\" RETURN (SPECIAL-USE)"),
        ] {
            assert_eq!(line(&command), format!("E1 {expected}\r\n"));
        }
        let (name, password) = (argument("jürgen"), argument("пароль"));
        let at_once = C::LoginLiteral(name.clone(), password.clone(), true);
        assert_eq!(line(&at_once), "E1 LOGIN {7+}\r\njürgen {12+}\r\nпароль\r\n");
        let asked = C::LoginLiteral(name, password, false);
        assert_eq!(line(&asked), "E1 LOGIN {7}\r\n");
        assert_eq!(asked.pieces()[1].as_slice(), "jürgen {12}\r\n".as_bytes());
        assert_eq!(asked.pieces()[2].as_slice(), "пароль\r\n".as_bytes());
    }

    #[test]
    fn nothing_secret_is_shown() {
        let shown = format!("{:?}", Command::Login(argument("alice"), argument("hunter2")));
        assert!(!shown.contains("hunter2"), "{shown}");
        for (text, bad) in [
            ("", BadArgument::Empty),
            (" ", BadArgument::Empty),
            ("a\r\nE2 DELETE INBOX", BadArgument::Control),
            ("a\0", BadArgument::Control),
            ("a\u{85}", BadArgument::Control),
        ] {
            assert_eq!(Argument::new(text), Err(bad));
        }
        assert_eq!(Argument::new(&"x".repeat(1001)), Err(BadArgument::TooLong));
    }

    proptest! {
        /// Whatever the texts, a command is one line, and what stands between the quotes says the same.
        #[test]
        fn no_argument_breaks_the_line(text in ".{1,60}") {
            if let Ok(argument) = Argument::new(&text) {
                let line = line(&Command::Select(argument, false));
                prop_assert_eq!(line.matches('\n').count(), 1);
                prop_assert_eq!(line.matches('\r').count(), 1);
                let inner = line.strip_prefix("E1 SELECT \"").unwrap().strip_suffix("\"\r\n").unwrap();
                let mut plain = String::new();
                let mut chars = inner.chars();
                while let Some(c) = chars.next() {
                    prop_assert!(c != '"', "ends the string early: {}", line);
                    plain.push(if c == '\\' { chars.next().unwrap() } else { c });
                }
                prop_assert_eq!(plain, text);
            }
        }
    }
}
