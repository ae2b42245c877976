//! The conversation: which answers are awaited, and what the bytes of the server mean.

use std::collections::VecDeque;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use memchr::memchr;
use zeroize::Zeroizing;

use super::body::{Body, BodyReader, Ended};
use super::reply::{Line, Status, parse_line};
use super::{Command, Request};

/// How much of an answer is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Octets of a status line. RFC 2449 section 4 allows 512; some servers tell more.
    pub line: usize,
    /// Octets of the answers to CAPA, LIST and UIDL; more is a violation.
    pub listing: u64,
    /// Octets of the answer to TOP; more is read and dropped.
    pub headers: u64,
    /// Octets of the answer to RETR; more is read and dropped.
    pub message: u64,
    /// Octets read and dropped beyond a cap before the server is taken to be one that never ends.
    pub drained: u64,
}

impl Default for Limits {
    /// 4 KiB a line, 64 MiB a listing, 1 MiB a header section, 150 MiB a message, 256 MiB dropped.
    fn default() -> Self {
        Self { line: 4096, listing: 64 << 20, headers: 1 << 20, message: 150 << 20, drained: 256 << 20 }
    }
}

/// Something the server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The greeting.
    Greeting(Status),
    /// A challenge of the SASL exchange under way, decoded; answer with [`Connection::answer`] or [`Connection::cancel`].
    Challenge(Vec<u8>),
    /// The answer to the oldest waiting request.
    Answer {
        /// What it answers.
        request: Request,
        /// Its status line.
        status: Status,
        /// Its data, where the status is positive and the request has data.
        body: Option<Body>,
    },
}

/// What a server must not do. The conversation cannot go on after one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// A line that is neither `+OK` nor `-ERR`.
    #[error("sent {0:?}, which is no POP3 answer")]
    NotAnAnswer(String),
    /// A line longer than [`Limits::line`].
    #[error("sent a line of more than {0} octets")]
    LineTooLong(usize),
    /// An answer without a question.
    #[error("sent {0:?} although nothing was asked")]
    Unasked(String),
    /// A listing larger than [`Limits::listing`], or a message that goes on beyond [`Limits::drained`].
    #[error("sent more than {limit} octets in answer to {request}")]
    TooMuch {
        /// What was asked.
        request: Request,
        /// The limit.
        limit: u64,
    },
    /// A line of a listing that cannot be read.
    #[error("sent the listing line {0:?}, which cannot be read")]
    Listing(String),
    /// More messages than [`MOST_MESSAGES`](super::listing::MOST_MESSAGES).
    #[error("lists more than {0} messages")]
    TooManyMessages(usize),
    /// A challenge that is not base64.
    #[error("sent a challenge that is not base64")]
    Challenge,
}

impl Violation {
    /// The same with the server's words, where it quotes any, changed by `change`.
    #[must_use]
    pub(in crate::pop3) fn map_words(self, change: impl FnOnce(&str) -> String) -> Self {
        match self {
            Self::NotAnAnswer(words) => Self::NotAnAnswer(change(&words)),
            Self::Unasked(words) => Self::Unasked(change(&words)),
            Self::Listing(words) => Self::Listing(change(&words)),
            other @ (Self::LineTooLong(_)
            | Self::TooMuch { .. }
            | Self::TooManyMessages(_)
            | Self::Challenge) => other,
        }
    }
}

#[derive(Debug)]
struct Reading {
    status: Status,
    reader: BodyReader,
    limit: u64,
}

/// One POP3 conversation, without I/O.
///
/// Push commands (their bytes are appended to a buffer for the caller to send), feed what arrives, and get one event for each
/// answer, in the order of the commands. Whether the server may be sent several commands at once is the caller's to know.
#[derive(Debug)]
pub struct Connection {
    limits: Limits,
    greeted: bool,
    waiting: VecDeque<Request>,
    expected: VecDeque<u64>,
    reading: Option<Reading>,
    searched: usize,
}

impl Connection {
    /// A conversation that begins with the server's greeting.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            greeted: false,
            waiting: VecDeque::new(),
            expected: VecDeque::new(),
            reading: None,
            searched: 0,
        }
    }

    /// Replaces the limits, from the next answer on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// How many answers are awaited.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Appends the bytes of a command and awaits its answer. `expected` is the size of the data as far as it is known.
    pub fn push(&mut self, command: &Command, expected: u64, out: &mut Vec<u8>) {
        command.encode(out);
        self.waiting.push_back(command.request());
        self.expected.push_back(expected);
    }

    /// Awaits the answer to a request whose command was sent by other means.
    pub fn expect(&mut self, request: Request) {
        self.waiting.push_back(request);
        self.expected.push_back(0);
    }

    /// Appends the answer to a challenge.
    pub fn answer(&mut self, response: &[u8], out: &mut Vec<u8>) {
        let text = Zeroizing::new(BASE64_STANDARD.encode(response));
        out.extend_from_slice(text.as_bytes());
        out.extend_from_slice(b"\r\n");
    }

    /// Appends the line that gives a SASL exchange up (RFC 5034 section 4); its answer is still awaited.
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
        let mut used = 0;
        if self.reading.is_none() {
            let Some(line) = self.line(input)? else { return Ok((0, None)) };
            used = line.used;
            if let Some(event) = self.status_line(line)? {
                return Ok((used, Some(event)));
            }
        }
        let (Some(reading), Some(&request)) = (self.reading.as_mut(), self.waiting.front()) else {
            return Ok((used, None));
        };
        let (count, ended) = reading.reader.feed(&input[used..]);
        used += count;
        if reading.reader.size() > reading.limit {
            return Err(Violation::TooMuch { request, limit: reading.limit });
        }
        if ended == Ended::No {
            return Ok((used, None));
        }
        let event = self.reading.take().map(|done| {
            let body = done.reader.finish();
            Event::Answer { request, status: done.status, body: Some(body) }
        });
        self.pop();
        Ok((used, event))
    }

    fn pop(&mut self) {
        self.waiting.pop_front();
        self.expected.pop_front();
    }

    fn line<'a>(&mut self, input: &'a [u8]) -> Result<Option<RawLine<'a>>, Violation> {
        let from = self.searched.min(input.len());
        let Some(end) = memchr(b'\n', &input[from..]).map(|at| from + at) else {
            if input.len() > self.limits.line + 1 {
                return Err(Violation::LineTooLong(self.limits.line));
            }
            self.searched = input.len();
            return Ok(None);
        };
        self.searched = 0;
        let text = &input[..end];
        let (text, lf_only) = match text.strip_suffix(b"\r") {
            Some(text) => (text, false),
            None => (text, true),
        };
        if text.len() > self.limits.line {
            return Err(Violation::LineTooLong(self.limits.line));
        }
        Ok(Some(RawLine { text, lf_only, used: end + 1 }))
    }

    /// An event, or `None` when data follows.
    fn status_line(&mut self, line: RawLine<'_>) -> Result<Option<Event>, Violation> {
        let front = self.waiting.front().copied();
        let status = match parse_line(line.text) {
            Line::Challenge(text) if self.greeted && front == Some(Request::Auth) => {
                let decoded = BASE64_STANDARD.decode(text).map_err(|_| Violation::Challenge)?;
                return Ok(Some(Event::Challenge(decoded)));
            }
            Line::Status(status) => status,
            Line::Challenge(_) | Line::Garbage => return Err(Violation::NotAnAnswer(excerpt(line.text))),
        };
        if !self.greeted {
            self.greeted = true;
            return Ok(Some(Event::Greeting(status)));
        }
        let Some(request) = front else { return Err(Violation::Unasked(excerpt(line.text))) };
        if !status.ok || !request.is_multi_line() {
            self.pop();
            return Ok(Some(Event::Answer { request, status, body: None }));
        }
        let limits = self.limits;
        let (cap, limit) = match request {
            Request::Top(_) => (limits.headers, limits.headers.saturating_add(limits.drained)),
            Request::Retr(_) => (limits.message, limits.message.saturating_add(limits.drained)),
            _ => (limits.listing, limits.listing),
        };
        let expected = self.expected.front().copied().unwrap_or(0);
        let reader = BodyReader::new(cap, expected, line.lf_only);
        self.reading = Some(Reading { status, reader, limit });
        Ok(None)
    }
}

struct RawLine<'a> {
    text: &'a [u8],
    lf_only: bool,
    used: usize,
}

/// The beginning of a line for a message: at most 60 characters, printable.
pub(in crate::pop3) fn excerpt(line: &[u8]) -> String {
    String::from_utf8_lossy(&line[..line.len().min(200)])
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(60)
        .collect()
}
