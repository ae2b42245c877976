//! Replies of the server (RFC 5321 section 4.2), with the enhanced status codes of RFC 2034 and RFC 3463.

use std::fmt;

/// The longest reply line that is read, in octets. RFC 5321 4.5.3.1.5 allows 512; servers in the field write more.
pub const MAX_LINE: usize = 4096;
/// The longest reply that is read, over all its lines, in octets.
pub const MAX_REPLY: usize = 64 * 1024;

/// One complete reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    lines: Vec<String>,
}

/// What the first digit of a reply code says (RFC 5321 4.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// 2yz: done.
    Completed,
    /// 3yz: go on.
    Intermediate,
    /// 4yz: refused for now.
    Transient,
    /// 5yz: refused for good.
    Permanent,
}

/// An enhanced status code, `class.subject.detail` (RFC 3463).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enhanced {
    /// 2, 4 or 5.
    pub class: u8,
    /// What it is about: 1 address, 2 mailbox, 3 mail system, 4 network, 5 protocol, 6 content, 7 security.
    pub subject: u16,
    /// Which fault of that subject.
    pub detail: u16,
}

impl fmt::Display for Enhanced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

/// Why the bytes of the server are no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A line without an end in sight.
    #[error("a reply line longer than {MAX_LINE} octets")]
    LineTooLong,
    /// Lines without an end in sight.
    #[error("a reply longer than {MAX_REPLY} octets")]
    ReplyTooLong,
    /// Not of the form `250 text`.
    #[error("{line:?}, which is no SMTP reply")]
    NotAReply {
        /// The line, shortened and made printable.
        line: String,
    },
    /// The lines of one reply do not agree (RFC 5321 4.2.1 demands the same code on every line).
    #[error("a reply whose lines carry different codes, {first} and {other}")]
    CodesDiffer {
        /// The code of the first line.
        first: u16,
        /// Another one.
        other: u16,
    },
}

impl Malformed {
    /// The same with the server's words, where it quotes any, changed by `change`.
    #[must_use]
    pub(in crate::smtp) fn map_words(self, change: impl FnOnce(&str) -> String) -> Self {
        match self {
            Self::NotAReply { line } => Self::NotAReply { line: change(&line) },
            other @ (Self::LineTooLong | Self::ReplyTooLong | Self::CodesDiffer { .. }) => other,
        }
    }
}

impl Reply {
    /// The three digits.
    #[must_use]
    pub fn code(&self) -> u16 {
        self.code
    }

    /// What the first digit says.
    #[must_use]
    pub fn class(&self) -> Class {
        match self.code / 100 {
            2 => Class::Completed,
            3 => Class::Intermediate,
            4 => Class::Transient,
            _ => Class::Permanent, // the reader lets only 2 to 5 through
        }
    }

    /// Whether this says "requested mail action done": 2yz of the groups x0z and x5z. A 220, 221 or 211 in the place of an answer to MAIL,
    /// RCPT or the data is an answer to something else.
    #[must_use]
    pub fn is_mail_action_done(&self) -> bool {
        self.class() == Class::Completed && matches!(self.code / 10 % 10, 0 | 5)
    }

    /// Whether the server refuses, for now or for good.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self.class(), Class::Transient | Class::Permanent)
    }

    /// 421: the server closes the connection, whatever the command was (RFC 5321 3.8).
    #[must_use]
    pub fn closes(&self) -> bool {
        self.code == 421
    }

    /// The lines without their codes.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// The enhanced status code of the first line; only one whose class agrees with the code counts (RFC 2034 section 4).
    #[must_use]
    pub fn enhanced(&self) -> Option<Enhanced> {
        let word = self.lines.first()?.split(' ').next()?;
        let mut parts = word.split('.');
        let mut number = || {
            let part = parts.next()?;
            let digits = (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| part.parse::<u16>().ok()).flatten()
        };
        let (class, subject, detail) = (number()?, number()?, number()?);
        let agrees = class == self.code / 100 && matches!(class, 2 | 4 | 5) && parts.next().is_none();
        agrees.then_some(Enhanced {
            class: if class == 2 {
                2
            } else if class == 4 {
                4
            } else {
                5
            },
            subject,
            detail,
        })
    }

    /// The same with its text, but for an enhanced status code, changed by `change`.
    #[must_use]
    pub(in crate::smtp) fn map_words(mut self, change: impl Fn(&str) -> String) -> Self {
        let code = self.enhanced().map(|e| e.to_string()).unwrap_or_default();
        for (n, line) in self.lines.iter_mut().enumerate() {
            // codes with leading zeros print shorter; what does not match is changed as a whole
            let rest = line.strip_prefix(&code).filter(|_| n == 0);
            *line = match rest {
                Some(rest) => format!("{code}{}", change(rest)),
                None => change(line),
            };
        }
        self
    }

    /// Whether the enhanced status code has this subject and detail.
    #[must_use]
    pub fn is_about(&self, subject: u16, detail: u16) -> bool {
        self.enhanced().is_some_and(|e| (e.subject, e.detail) == (subject, detail))
    }
}

/// The server's words on one line: `550 5.1.1 no such user`.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        self.lines.iter().filter(|line| !line.is_empty()).try_for_each(|line| write!(f, " {line}"))
    }
}

/// Cuts a stream of bytes into replies, however the bytes are spread over reads.
#[derive(Debug, Default)]
pub struct ReplyReader {
    buffer: Vec<u8>,
    /// Start of what is not yet consumed.
    start: usize,
    /// Up to here there is no line end.
    scanned: usize,
    code: Option<u16>,
    lines: Vec<String>,
    octets: usize,
}

impl ReplyReader {
    /// Takes bytes from the server.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start == self.buffer.len() {
            self.buffer.clear();
            (self.start, self.scanned) = (0, 0);
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether nothing is waiting: no whole reply and no beginning of one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.buffer.len() && self.code.is_none()
    }

    /// The next complete reply; `None` when more bytes are needed. Lines may end in CRLF or, leniently, in LF.
    ///
    /// # Errors
    /// [`Malformed`]; the connection is then of no more use.
    pub fn next_reply(&mut self) -> Result<Option<Reply>, Malformed> {
        loop {
            let Some(length) = self.buffer[self.scanned..].iter().position(|&b| b == b'\n') else {
                self.scanned = self.buffer.len();
                if self.buffer.len() - self.start > MAX_LINE {
                    return Err(Malformed::LineTooLong);
                }
                return Ok(None);
            };
            let end = self.scanned + length;
            let line = &self.buffer[self.start..end];
            if line.len() > MAX_LINE {
                return Err(Malformed::LineTooLong);
            }
            self.octets += line.len() + 1;
            if self.octets > MAX_REPLY {
                return Err(Malformed::ReplyTooLong);
            }
            let (code, last, text) = parse_line(line)?;
            self.start = end + 1;
            self.scanned = self.start;
            match self.code {
                Some(first) if first != code => return Err(Malformed::CodesDiffer { first, other: code }),
                _ => self.code = Some(code),
            }
            self.lines.push(text);
            if last {
                self.code = None;
                self.octets = 0;
                return Ok(Some(Reply { code, lines: std::mem::take(&mut self.lines) }));
            }
        }
    }
}

/// `250-text`, `250 text`, or `250` alone, which RFC 5321 4.2 asks clients to accept.
fn parse_line(line: &[u8]) -> Result<(u16, bool, String), Malformed> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let not_a_reply = || Malformed::NotAReply { line: printable(&line[..line.len().min(80)]) };
    let (digits, rest) = line.split_at_checked(3).ok_or_else(not_a_reply)?;
    if !matches!(digits[0], b'2'..=b'5') || !digits.iter().all(u8::is_ascii_digit) {
        return Err(not_a_reply());
    }
    let code = digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    match rest.split_first() {
        None => Ok((code, true, String::new())),
        Some((b' ', text)) => Ok((code, true, printable(text))),
        Some((b'-', text)) => Ok((code, false, printable(text))),
        Some(_) => Err(not_a_reply()),
    }
}

/// Text for people and logs: no control characters, invalid UTF-8 replaced.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(bytes: &[u8]) -> Result<Vec<Reply>, Malformed> {
        let mut reader = ReplyReader::default();
        reader.push(bytes);
        let mut replies = Vec::new();
        while let Some(reply) = reader.next_reply()? {
            replies.push(reply);
        }
        Ok(replies)
    }

    #[test]
    fn good_replies() {
        for (bytes, shown) in [
            (&b"250 ok\r\n"[..], "250 ok"),
            (b"250\r\n", "250"),
            (b"250 \r\n", "250"),
            (b"250-first\r\n250-second\r\n250 third\r\n", "250 first second third"),
            (b"250-\r\n250 x\r\n", "250 x"),
            (b"220 lf only\n", "220 lf only"),
            (b"550 5.1.1 caf\xe9 \x1b[31m\x07\r\n", "550 5.1.1 caf\u{fffd}  [31m "),
        ] {
            let replies = all(bytes).unwrap();
            assert_eq!(replies.iter().map(ToString::to_string).collect::<Vec<_>>(), [shown], "{bytes:?}");
        }
    }

    #[test]
    fn bad_replies() {
        let long_line = [b"220 ".as_slice(), &b"x".repeat(MAX_LINE)].concat();
        let many_lines = b"250-some words to fill a line\r\n".repeat(3000);
        for (bytes, why) in [
            (&b"HTTP/1.1 200 OK\r\n"[..], "no SMTP reply"),
            (b"99 x\r\n", "no SMTP reply"),
            (b"150 x\r\n", "no SMTP reply"),
            (b"650 x\r\n", "no SMTP reply"),
            (b"250+x\r\n", "no SMTP reply"),
            (b"2500\r\n", "no SMTP reply"),
            (b"\r\n", "no SMTP reply"),
            (b"250-a\r\n251 b\r\n", "different codes, 250 and 251"),
            (&long_line, "reply line longer than"),
            (&many_lines, "a reply longer than"),
        ] {
            let error = all(bytes).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn enhanced_codes() {
        for (line, expected) in [
            ("550 5.1.1 no such user\r\n", Some("5.1.1")),
            ("250-2.1.5 a\r\n250 b\r\n", Some("2.1.5")),
            ("550 5.7.139\r\n", Some("5.7.139")),
            ("450 5.1.1 class differs\r\n", None),
            ("354 3.0.0 no such class\r\n", None),
            ("550 5.1 short\r\n", None),
            ("550 5.1.1.1 long\r\n", None),
            ("550 5.1.1000 big\r\n", None),
            ("550 5.+1.1 signs\r\n", None),
            ("550 Requested action\r\n", None),
        ] {
            let reply = &all(line.as_bytes()).unwrap()[0];
            assert_eq!(reply.enhanced().map(|e| e.to_string()).as_deref(), expected, "{line}");
        }
    }

    proptest! {
        /// The replies do not depend on how the bytes are spread over reads.
        #[test]
        fn any_chunking(cuts in proptest::collection::vec(1usize..9, 0..40)) {
            let bytes = b"220 hello\r\n250-a\r\n250-PIPELINING\r\n250 b\r\n354\r\n550 5.7.1 no\r\n";
            let mut reader = ReplyReader::default();
            let (mut at, mut replies) = (0, Vec::new());
            for cut in cuts.into_iter().chain([bytes.len()]) {
                let end = (at + cut).min(bytes.len());
                reader.push(&bytes[at..end]);
                at = end;
                while let Some(reply) = reader.next_reply().unwrap() {
                    replies.push(reply);
                }
            }
            prop_assert!(reader.is_empty());
            prop_assert_eq!(replies, all(bytes).unwrap());
        }

        /// No bytes make it panic or keep more than the caps.
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(replies) = all(&bytes) {
                prop_assert!(replies.iter().all(|r| !r.to_string().chars().any(char::is_control)));
            }
        }
    }
}
