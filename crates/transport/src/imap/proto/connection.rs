//! The conversation: which answers are awaited, and what the bytes of the server mean.

use std::collections::VecDeque;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use zeroize::Zeroizing;

use super::condition::{Condition, Status};
use super::reader::{Caps, Raw, Reader};
use super::response::Response;
use super::{Command, Request};

/// How much of an answer is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Octets of an answer without its literals.
    pub text: usize,
    /// The same while a search is under way, whose answer names all messages.
    pub listing: usize,
    /// Octets of a header section; more is read and dropped.
    pub headers: u64,
    /// Octets of a message; more is read and dropped.
    pub message: u64,
    /// Octets announced beyond a cap before the server is taken to be one that never ends.
    pub drained: u64,
}

/// A literal nobody asked for may have so many octets.
const UNASKED_LITERAL: u64 = 64 * 1024;

impl Default for Limits {
    /// 64 KiB an answer, 24 MiB a search, 1 MiB a header section, 150 MiB a message, 256 MiB dropped.
    fn default() -> Self {
        Self { text: 64 << 10, listing: 24 << 20, headers: 1 << 20, message: 150 << 20, drained: 256 << 20 }
    }
}

/// Something the server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The greeting.
    Greeting(Condition),
    /// The server waits for more: a challenge, still in base64, or the go-ahead for a literal or IDLE.
    Continue(Vec<u8>),
    /// Data, or a status answer without a tag.
    Data(Response),
    /// The end of a request.
    Done {
        /// What ended.
        request: Request,
        /// Which command, as [`Connection::push`] numbered it.
        number: u64,
        /// What became of it.
        condition: Condition,
    },
}

/// What a server must not do. The conversation cannot go on after one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// A line that is no answer.
    #[error("sent {0:?}, which is no IMAP answer")]
    NotAnAnswer(String),
    /// An answer with a tag that no waiting command has.
    #[error("sent {0:?}, which answers no command")]
    WrongTag(String),
    /// An answer longer than the limit.
    #[error("sent an answer of more than {0} octets")]
    LineTooLong(usize),
    /// A string larger than the limit, or more strings in one answer.
    #[error("announced a string of {0} octets, which is too much")]
    TooMuch(u64),
    /// A go-ahead that nobody waits for.
    #[error("asks for more although nothing waits to be sent")]
    Unasked,
}

impl Violation {
    /// The same with the server's words, where it quotes any, changed by `change`.
    #[must_use]
    pub(in crate::imap) fn map_words(self, change: impl FnOnce(&str) -> String) -> Self {
        match self {
            Self::NotAnAnswer(words) => Self::NotAnAnswer(change(&words)),
            Self::WrongTag(words) => Self::WrongTag(change(&words)),
            other @ (Self::LineTooLong(_) | Self::TooMuch(_) | Self::Unasked) => other,
        }
    }
}

/// One IMAP conversation, without I/O.
///
/// Push commands (their bytes are appended to a buffer for the caller to send), feed what arrives. Data belongs to any of the commands under
/// way: who it is for its content tells. A server may end commands in another order than they were sent; most do not.
#[derive(Debug)]
pub struct Connection {
    limits: Limits,
    reader: Reader,
    greeted: bool,
    pushed: u64,
    waiting: VecDeque<(u64, Request)>,
}

impl Connection {
    /// A conversation that begins with the server's greeting.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, reader: Reader::default(), greeted: false, pushed: 0, waiting: VecDeque::new() }
    }

    /// Replaces the limits, from the next literal on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// How many commands have no answer yet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether a message or header section is arriving.
    #[must_use]
    pub fn in_literal(&self) -> bool {
        self.reader.in_literal()
    }

    /// Appends the bytes of a command and awaits its answer; returns its number.
    pub fn push(&mut self, command: &Command, out: &mut Vec<u8>) -> u64 {
        let number = self.expect(command.request());
        command.encode(&tag(number), out);
        number
    }

    /// Awaits the answer to a request whose command is sent by other means, with the tag `E` and the number returned.
    pub fn expect(&mut self, request: Request) -> u64 {
        self.pushed += 1;
        self.waiting.push_back((self.pushed, request));
        self.pushed
    }

    /// Appends the answer to a challenge.
    pub fn answer(&mut self, response: &[u8], out: &mut Vec<u8>) {
        let text = Zeroizing::new(BASE64_STANDARD.encode(response));
        out.extend_from_slice(text.as_bytes());
        out.extend_from_slice(b"\r\n");
    }

    /// Appends the line that gives a SASL exchange up (RFC 9051 section 6.2.2); its answer is still awaited.
    pub fn cancel(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"*\r\n");
    }

    /// Takes bytes from the server: returns how many were used up, and what they mean once something is complete.
    ///
    /// After `None` call again with the unused bytes and more behind them; after `Some` call again at once.
    ///
    /// # Errors
    /// [`Violation`]; the conversation is over.
    pub fn feed(&mut self, input: &[u8]) -> Result<(usize, Option<Event>), Violation> {
        let caps = self.caps();
        let (used, raw) = self.reader.feed(input, caps)?;
        match raw {
            Some(raw) => Ok((used, Some(self.event(raw)?))),
            None => Ok((used, None)),
        }
    }

    fn caps(&self) -> Caps {
        let awaits = |wanted: fn(&Request) -> bool| self.waiting.iter().any(|(_, request)| wanted(request));
        let text = match awaits(|r| matches!(r, Request::Search)) {
            true => self.limits.listing,
            false => self.limits.text,
        };
        let mut literal = UNASKED_LITERAL;
        if awaits(|r| matches!(r, Request::FetchHeaders(_))) {
            literal = literal.max(self.limits.headers);
        }
        if awaits(|r| matches!(r, Request::FetchWhole(_))) {
            literal = literal.max(self.limits.message);
        }
        Caps { text, literal, drained: self.limits.drained }
    }

    fn event(&mut self, raw: Raw) -> Result<Event, Violation> {
        let shown = excerpt(&raw.text);
        let Some(response) = Response::parse(raw) else { return Err(Violation::NotAnAnswer(shown)) };
        if !self.greeted {
            return match response {
                Response::Untagged(condition)
                    if matches!(condition.status, Status::Ok | Status::PreAuth | Status::Bye) =>
                {
                    self.greeted = true;
                    Ok(Event::Greeting(condition))
                }
                _ => Err(Violation::NotAnAnswer(shown)),
            };
        }
        match response {
            Response::Tagged(given, condition) => {
                let number = given.strip_prefix('E').and_then(|n| n.parse::<u64>().ok());
                let at = self.waiting.iter().position(|(waiting, _)| Some(*waiting) == number);
                let found = at.and_then(|at| self.waiting.remove(at));
                let ends = matches!(condition.status, Status::Ok | Status::No | Status::Bad);
                match found {
                    Some((number, request)) if ends => Ok(Event::Done { request, number, condition }),
                    _ => Err(Violation::WrongTag(shown)),
                }
            }
            Response::Continue(words) => {
                let asked = |(_, r): &(u64, Request)| {
                    matches!(r, Request::Authenticate | Request::Login | Request::Idle)
                };
                if self.waiting.iter().any(asked) {
                    Ok(Event::Continue(words))
                } else {
                    Err(Violation::Unasked)
                }
            }
            data => Ok(Event::Data(data)),
        }
    }
}

fn tag(number: u64) -> String {
    format!("E{number}")
}

/// The begin of a line, for messages.
fn excerpt(line: &[u8]) -> String {
    let shown = &line[..line.len().min(60)];
    String::from_utf8_lossy(shown).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::replay;
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { text: 300, listing: 600, headers: 20, message: 100, drained: 100 };

    fn all(requests: &[Request], input: &str) -> (Vec<Event>, Option<Violation>) {
        replay(requests, input.as_bytes(), 1000, LIMITS)
    }

    #[test]
    fn answers_belong_to_their_commands() {
        let requests = [Request::FetchWhole(5), Request::Noop];
        let input = "* OK hi\r\n* 1 FETCH (UID 5 BODY[] {9}\r\nE2 OK\r\nx\n)\r\nE2 OK\r\n* 3 EXISTS\r\nE1 NO [LIMIT] x\r\n";
        let (events, violation) = all(&requests, input);
        assert_eq!(violation, None);
        assert!(matches!(&events[0], Event::Greeting(c) if c.text == "hi"));
        assert!(
            matches!(&events[1], Event::Data(Response::Fetch(f)) if f.whole.as_ref().unwrap().bytes == b"E2 OK\r\nx\n")
        );
        assert!(matches!(events[2], Event::Done { request: Request::Noop, number: 2, .. }));
        assert!(matches!(events[3], Event::Data(Response::Exists(3))));
        assert!(matches!(events[4], Event::Done { request: Request::FetchWhole(5), number: 1, .. }));
        assert_eq!(events.len(), 5);
    }

    #[test]
    fn violations() {
        use Violation as V;
        for (requests, input, violation) in [
            (&[][..], "HTTP/1.1 400\r\n", V::NotAnAnswer("HTTP/1.1 400".into())),
            (&[], "E1 OK\r\n", V::NotAnAnswer("E1 OK".into())),
            (&[], "* 1 EXISTS\r\n", V::NotAnAnswer("* 1 EXISTS".into())),
            (&[], "* NO\r\n", V::NotAnAnswer("* NO".into())),
            (&[], "* OK\r\nE1 OK\r\n", V::WrongTag("E1 OK".into())),
            (&[Request::Noop], "* OK\r\nE01x OK\r\n", V::WrongTag("E01x OK".into())),
            (&[Request::Noop], "* OK\r\nE1 OK\r\nE1 OK\r\n", V::WrongTag("E1 OK".into())),
            (&[Request::Noop], "* OK\r\nE1 BYE\r\n", V::WrongTag("E1 BYE".into())),
            (&[Request::Noop], "* OK\r\n+ go\r\n", V::Unasked),
            (&[Request::Noop], "* OK\r\n* 1 FETCH (BODY[] {70000}\r\n", V::TooMuch(70000)),
        ] {
            assert_eq!(all(requests, input).1, Some(violation), "{input}");
        }
        let long = format!("* OK\r\n* SEARCH{}\r\n", " 7".repeat(200));
        assert_eq!(all(&[Request::Noop], &long).1, Some(V::LineTooLong(300)));
        assert_eq!(all(&[Request::Search], &long).1, None);
    }

    /// What a server may say, whole and broken.
    fn spoken() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"\r\n".to_vec()),
            Just(b"* OK ".to_vec()),
            Just(b"E1 OK done\r\n".to_vec()),
            Just(b"E2 NO [X]\r\n".to_vec()),
            Just(b"* 1 FETCH (UID 5 BODY[] {3}\r\nabc)\r\n".to_vec()),
            Just(b"* 2 FETCH (UID 6 BODY[HEADER] {30}\r\n".to_vec()),
            Just(b"* SEARCH 1 2 3\r\n".to_vec()),
            Just(b"{5}\r\n".to_vec()),
            Just(b"(\"[".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..20),
        ];
        proptest::collection::vec(piece, 0..20)
            .prop_map(|pieces| [b"* OK hello\r\n".to_vec(), pieces.concat()].concat())
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(input in spoken(), chunk in 1usize..50) {
            let requests = [Request::FetchWhole(5), Request::FetchHeaders(6), Request::Search];
            prop_assert_eq!(
                replay(&requests, &input, chunk, LIMITS),
                replay(&requests, &input, usize::MAX, LIMITS)
            );
        }
    }
}
