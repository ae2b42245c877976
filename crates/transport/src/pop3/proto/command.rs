//! Commands as types (RFC 1939, 2449, 2595, 5034).

use std::fmt;

use zeroize::Zeroizing;

/// Text that can stand in a command: no control character, at most 200 octets, so that the command line stays within the 255
/// octets of RFC 2449 section 4. `Debug` shows nothing, since it may be a password.
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
    #[error("is longer than {} octets, too long for a POP3 command", Argument::MAX_OCTETS)]
    TooLong,
}

impl Argument {
    /// The longest argument, in octets.
    pub const MAX_OCTETS: usize = 200;

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
}

impl fmt::Debug for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Argument(***)")
    }
}

/// A command: all of RFC 1939, and those of its extensions that are used.
///
/// The adapter itself never sends RSET and NOOP. A session that is given up is dropped without QUIT, which takes all marks back as
/// RSET does and keeps no lock; and while it is open it is never idle, so nothing needs to be kept awake.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// What can the server do? (RFC 2449)
    Capa,
    /// The user name.
    User(Argument),
    /// The password.
    Pass(Argument),
    /// User name and digest (RFC 1939 section 7).
    Apop(Argument, Argument),
    /// Begins a SASL exchange (RFC 5034), with the initial response in base64 where there is one; empty is sent as `=`.
    Auth(&'static str, Option<Zeroizing<String>>),
    /// Begins TLS (RFC 2595).
    Stls,
    /// How many messages and octets?
    Stat,
    /// Sizes of all messages.
    List,
    /// Unique ids of all messages.
    Uidl,
    /// The header section and so many lines of the body.
    Top(u32, u32),
    /// A message.
    Retr(u32),
    /// Marks a message as deleted.
    Dele(u32),
    /// Takes all marks back.
    Rset,
    /// Nothing.
    Noop,
    /// Ends the session; in the transaction state it removes what is marked.
    Quit,
}

/// What an answer is an answer to: a command without its arguments' text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the same as in Command
#[non_exhaustive]
pub enum Request {
    Capa,
    User,
    Pass,
    Apop,
    Auth,
    Stls,
    Stat,
    List,
    Uidl,
    Top(u32),
    Retr(u32),
    Dele(u32),
    Rset,
    Noop,
    Quit,
}

impl Request {
    /// Whether a positive answer is followed by multi-line data.
    #[must_use]
    pub fn is_multi_line(self) -> bool {
        matches!(self, Self::Capa | Self::List | Self::Uidl | Self::Top(_) | Self::Retr(_))
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Capa => f.write_str("CAPA"),
            Self::User => f.write_str("USER"),
            Self::Pass => f.write_str("PASS"),
            Self::Apop => f.write_str("APOP"),
            Self::Auth => f.write_str("AUTH"),
            Self::Stls => f.write_str("STLS"),
            Self::Stat => f.write_str("STAT"),
            Self::List => f.write_str("LIST"),
            Self::Uidl => f.write_str("UIDL"),
            Self::Top(n) => write!(f, "TOP {n}"),
            Self::Retr(n) => write!(f, "RETR {n}"),
            Self::Dele(n) => write!(f, "DELE {n}"),
            Self::Rset => f.write_str("RSET"),
            Self::Noop => f.write_str("NOOP"),
            Self::Quit => f.write_str("QUIT"),
        }
    }
}

impl Command {
    /// The longest command line, line end included (RFC 2449 section 4).
    pub const MAX_LINE: usize = 255;

    /// The command without its arguments' text.
    #[must_use]
    pub fn request(&self) -> Request {
        match self {
            Self::Capa => Request::Capa,
            Self::User(_) => Request::User,
            Self::Pass(_) => Request::Pass,
            Self::Apop(..) => Request::Apop,
            Self::Auth(..) => Request::Auth,
            Self::Stls => Request::Stls,
            Self::Stat => Request::Stat,
            Self::List => Request::List,
            Self::Uidl => Request::Uidl,
            Self::Top(n, _) => Request::Top(*n),
            Self::Retr(n) => Request::Retr(*n),
            Self::Dele(n) => Request::Dele(*n),
            Self::Rset => Request::Rset,
            Self::Noop => Request::Noop,
            Self::Quit => Request::Quit,
        }
    }

    /// Whether `AUTH mechanism initial` with an initial response of this many base64 octets fits into a command line; if not, the
    /// command is sent alone and the response answers the empty challenge (RFC 5034 section 4).
    #[must_use]
    pub fn initial_response_fits(mechanism: &str, octets: usize) -> bool {
        "AUTH ".len() + mechanism.len() + 1 + octets + 2 <= Self::MAX_LINE
    }

    /// Appends the command line.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut word = |text: &str| out.extend_from_slice(text.as_bytes());
        match self {
            Self::User(name) => {
                word("USER ");
                word(&name.0);
            }
            Self::Pass(password) => {
                word("PASS ");
                word(&password.0);
            }
            Self::Apop(name, digest) => {
                word("APOP ");
                word(&name.0);
                word(" ");
                word(&digest.0);
            }
            Self::Auth(mechanism, initial) => {
                word("AUTH ");
                word(mechanism);
                if let Some(initial) = initial {
                    word(" ");
                    // RFC 5034 section 4: an empty initial response is a single equals sign
                    word(if initial.is_empty() { "=" } else { initial });
                }
            }
            Self::Top(n, lines) => word(&format!("TOP {n} {lines}")),
            other => word(&other.request().to_string()),
        }
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(command: &Command) -> String {
        let mut out = Vec::new();
        command.encode(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines() {
        let argument = |t: &str| Argument::new(t).unwrap();
        for (command, expected) in [
            (Command::Capa, "CAPA\r\n"),
            (Command::User(argument("mrose")), "USER mrose\r\n"),
            (Command::Pass(argument("two words")), "PASS two words\r\n"),
            (Command::Apop(argument("mrose"), argument("c4c9")), "APOP mrose c4c9\r\n"),
            (Command::Auth("PLAIN", None), "AUTH PLAIN\r\n"),
            (Command::Auth("PLAIN", Some("AGE=".to_owned().into())), "AUTH PLAIN AGE=\r\n"),
            (Command::Auth("EXTERNAL", Some(String::new().into())), "AUTH EXTERNAL =\r\n"),
            (Command::Top(3, 0), "TOP 3 0\r\n"),
            (Command::Retr(4_294_967_295), "RETR 4294967295\r\n"),
            (Command::Dele(7), "DELE 7\r\n"),
            (Command::Rset, "RSET\r\n"),
            (Command::Noop, "NOOP\r\n"),
            (Command::Stat, "STAT\r\n"),
            (Command::List, "LIST\r\n"),
            (Command::Uidl, "UIDL\r\n"),
            (Command::Stls, "STLS\r\n"),
            (Command::Quit, "QUIT\r\n"),
        ] {
            assert_eq!(line(&command), expected);
        }
    }

    #[test]
    fn no_argument_breaks_the_line() {
        for (text, why) in [
            ("a\r\nDELE 1", BadArgument::Control),
            ("a\nb", BadArgument::Control),
            ("a\0", BadArgument::Control),
            (" ", BadArgument::Empty),
            ("", BadArgument::Empty),
        ] {
            assert_eq!(Argument::new(text), Err(why), "{text:?}");
        }
        assert_eq!(Argument::new(&"x".repeat(201)), Err(BadArgument::TooLong));
        assert!(!format!("{:?}", Command::Pass(Argument::new("hunter2").unwrap())).contains("hunter2"));
    }

    proptest! {
        #[test]
        fn every_command_is_one_short_line(text in "\\PC{0,250}|[\\x00-\\xff]{0,40}") {
            if let Ok(argument) = Argument::new(&text) {
                for command in [Command::User(argument.clone()), Command::Pass(argument.clone())] {
                    let line = line(&command);
                    prop_assert!(line.len() <= Command::MAX_LINE);
                    prop_assert_eq!(line.matches(['\r', '\n']).count(), 2);
                }
            }
        }
    }
}
