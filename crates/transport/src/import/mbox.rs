//! mbox: many messages in one file (RFC 4155, and the family described in `mbox(5)` of qmail).
//!
//! A message begins with a separator line and ends with an empty line (RFC 4155 appendix A). A separator line is `From `, the sender, a date as
//! `asctime` writes it, and nothing more. Programs differ, so these count too:
//! - no sender; `-` or `???@???` for it (Netscape, Eudora); a quoted local part with spaces; `ann at example.com` (archives of Mailman);
//! - a date without seconds, with a time zone before or behind the year, or in the order of RFC 5322;
//! - ` remote from host` at the end (UUCP, RFC 976);
//! - the first line of the file, whatever follows its `From `;
//! - a separator line without the empty line before it (Eudora, files put together with `cat`), when a header field or the end of the file
//!   comes next.
//!
//! Anything else that begins with `From ` is text that somebody did not quote, and stays text.
//!
//! `Content-Length` (mboxcl, mboxcl2) is not used: it is a field of the message, so whoever wrote the message may have written it, and a number
//! that reaches over the next message would hide that one from the import. What it is there for, a separator line within a text that is not
//! quoted, is taken for a separator.
//!
//! Nothing in a file tells its kind of quoting, so [`Quoting`] is the caller's to choose. The default undoes mboxrd. On a file in mboxo it
//! gives the same for every line that was `From `, which is nearly all that ever was quoted, and takes one `>` too many from a line that was
//! `>>From ` before; on one that was never quoted it takes one `>` from a line that was `>From `.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use email_router_model::{EmailAddress, RawMessage, RemoteId, Scope, Timestamp};

use super::{ImportLimits, Imported, MessageSource, Position, Progress, resolve, unreadable};
use crate::maildir::store;
use crate::{Error, ErrorKind, Result};

const KIND: &str = "mbox";
/// Lines are read in pieces of at most this many bytes, so that a line without an end costs no memory.
const PIECE: usize = 16 * 1024;

/// How lines of a message that begin with `From ` were made harmless.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Quoting {
    /// mboxrd: one `>` before every line of any number of `>` and `From `; undone without loss. Right for most files.
    #[default]
    Mboxrd,
    /// mboxo: only `From ` became `>From `; a line that began with `>From ` by itself loses its `>`.
    Mboxo,
    /// Nothing is undone (mboxcl2, and programs that never quoted).
    None,
}

/// The messages of an mbox, in the order of the file. One message at a time is in memory, never the file.
#[derive(Debug)]
pub struct Mbox<R = BufReader<File>> {
    reader: R,
    /// For errors.
    name: String,
    quoting: Quoting,
    limits: ImportLimits,
    /// How much of the file is consumed.
    offset: u64,
    /// The piece of a line that was read last.
    piece: Vec<u8>,
    /// The piece behind it, where somebody had to look ahead.
    ahead: Option<Vec<u8>>,
    /// The `From ` line of the message that comes next.
    separator: Option<Separator>,
    /// How many messages begin before the one that comes next.
    number: u64,
    begun: bool,
    position: Option<Position>,
    progress: Progress,
}

#[derive(Debug)]
struct Separator {
    /// Where it begins in the file.
    offset: u64,
    received: Option<Timestamp>,
}

impl Mbox {
    /// Opens the mbox at `path`.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path, quoting: Quoting, limits: ImportLimits) -> Result<Self> {
        let path = &*resolve(path)?;
        let (file, metadata) = store::open(path).map_err(|e| unreadable(path, e))?;
        Ok(Self::new(BufReader::new(file), metadata.len(), &path.display().to_string(), quoting, limits))
    }
}

impl<R: BufRead + Seek + Send> Mbox<R> {
    /// An mbox of `total_bytes` bytes in `reader`, which stands at its beginning; `name` is for messages.
    pub fn new(reader: R, total_bytes: u64, name: &str, quoting: Quoting, limits: ImportLimits) -> Self {
        Self {
            reader,
            name: name.to_owned(),
            quoting,
            limits,
            offset: 0,
            piece: Vec::new(),
            ahead: None,
            separator: None,
            number: 0,
            begun: false,
            position: None,
            progress: Progress { total_bytes, ..Progress::default() },
        }
    }

    /// Reads up to the end of a line, or a piece of a long one; `false` at the end of the file.
    fn read_piece(&mut self) -> Result<bool> {
        match self.ahead.take() {
            Some(ahead) => self.piece = ahead,
            None => self.read_into_piece()?,
        }
        self.offset += self.piece.len() as u64;
        Ok(!self.piece.is_empty())
    }

    fn read_into_piece(&mut self) -> Result<()> {
        self.piece.clear();
        while self.piece.len() < PIECE && self.piece.last() != Some(&b'\n') {
            let available = match self.reader.fill_buf() {
                Ok(available) => available,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    let place = format!("{} at byte {}", self.name, self.offset + self.piece.len() as u64);
                    return Err(unreadable(Path::new(&place), e));
                }
            };
            let room = &available[..available.len().min(PIECE - self.piece.len())];
            let taken = room.iter().position(|&b| b == b'\n').map_or(room.len(), |n| n + 1);
            if taken == 0 {
                break;
            }
            self.piece.extend_from_slice(&room[..taken]);
            self.reader.consume(taken);
        }
        Ok(())
    }

    /// What comes behind the piece at hand, which stays; nothing at the end of the file.
    fn look_ahead(&mut self) -> Result<&[u8]> {
        if self.ahead.is_none() {
            let piece = std::mem::take(&mut self.piece);
            let read = self.read_into_piece();
            self.ahead = Some(std::mem::replace(&mut self.piece, piece));
            read?;
        }
        Ok(self.ahead.as_deref().unwrap_or_default())
    }

    /// Whether the line at hand begins a message.
    fn at_separator(&mut self, blank_before: bool) -> Result<bool> {
        if !is_separator(&self.piece) {
            return Ok(false);
        }
        Ok(blank_before || {
            let next = self.look_ahead()?;
            next.is_empty() || begins_field(next)
        })
    }

    /// Finds the first message; what stands before it is reported once.
    fn begin(&mut self) -> Result<()> {
        self.begun = true;
        let start = self.offset;
        let (mut line_start, mut blank_before, mut only_blank) = (true, true, true);
        while self.read_piece()? {
            let blank = line_start && is_blank(&self.piece);
            let first = only_blank && begins_mbox(&self.piece);
            if first || (line_start && self.at_separator(blank_before)?) {
                let offset = self.offset - self.piece.len() as u64;
                self.separator = Some(Separator { offset, received: separator(&self.piece).flatten() });
                self.progress.done_bytes = offset;
                if only_blank {
                    return Ok(());
                }
                self.progress.failed += 1;
                self.position = Some(self.position_at(offset));
                let text = format!(
                    "mbox {} at byte {start}: {} bytes before the first message are passed over",
                    self.name,
                    offset - start
                );
                return Err(damaged(text));
            }
            only_blank &= blank;
            blank_before = blank;
            line_start = self.piece.ends_with(b"\n");
        }
        self.progress.done_bytes = self.offset;
        if only_blank {
            return Ok(());
        }
        self.progress.failed += 1;
        Err(damaged(format!("mbox {} at byte {start}: this is no mbox: no line begins a message", self.name)))
    }

    /// Reads the message behind its separator; `None` when it is larger than allowed.
    fn body(&mut self) -> Result<Option<Vec<u8>>> {
        let limit = usize::try_from(self.limits.max_message_bytes).unwrap_or(usize::MAX);
        let mut bytes = Some(Vec::new());
        let (mut line_start, mut last_blank) = (true, 0);
        while self.read_piece()? {
            if line_start && self.at_separator(last_blank > 0)? {
                let offset = self.offset - self.piece.len() as u64;
                self.separator = Some(Separator { offset, received: separator(&self.piece).flatten() });
                break;
            }
            let text = if line_start { unquoted(&self.piece, self.quoting) } else { &self.piece };
            // two bytes more than allowed, for the empty line that is no part of the message
            if let Some(so_far) = &mut bytes {
                if so_far.len() + text.len() > limit.saturating_add(2) {
                    bytes = None;
                } else {
                    so_far.extend_from_slice(text);
                }
            }
            last_blank = if line_start && is_blank(&self.piece) { self.piece.len() } else { 0 };
            line_start = self.piece.ends_with(b"\n");
        }
        let bytes = bytes.map(|mut b| {
            b.truncate(b.len() - last_blank);
            b
        });
        Ok(bytes.filter(|b| b.len() <= limit))
    }

    /// Behind everything up to this byte, and behind so many messages: the number is for people, who count from the beginning.
    fn position_at(&self, offset: u64) -> Position {
        Position::new(KIND, format_args!("{offset}:{}", self.number))
    }
}

/// A fault of one message, or of the bytes before the first.
fn damaged(text: String) -> Error {
    Error::new(ErrorKind::Protocol, text).with_scope(Scope::Message)
}

impl<R: BufRead + Seek + Send + std::fmt::Debug> MessageSource for Mbox<R> {
    fn next_message(&mut self) -> Result<Option<Imported>> {
        if !self.begun {
            self.begin()?;
        }
        let Some(separator) = self.separator.take() else { return Ok(None) };
        let body = self.body()?;
        let end = self.separator.as_ref().map_or(self.offset, |next| next.offset);
        self.number += 1;
        let position = self.position_at(end);
        self.position = Some(position.clone());
        self.progress.done_bytes = end;
        let place = format!("mbox {}, message {} at byte {}", self.name, self.number, separator.offset);
        let failure = match body {
            Some(bytes) if !bytes.is_empty() => {
                let mut message = RawMessage::new(bytes);
                message.received = separator.received;
                let id = RemoteId::new(format!("sha256:{}", message.digest()));
                self.progress.messages += 1;
                return Ok(Some(Imported { id, position, message }));
            }
            Some(_) => damaged(format!("{place}: the message is empty")),
            None => {
                let limit = self.limits.max_message_bytes;
                let text = format!("{place}: the message is larger than the limit of {limit} bytes");
                Error::new(ErrorKind::TooLarge, text)
            }
        };
        self.progress.failed += 1;
        Err(failure)
    }

    fn resume_after(&mut self, position: &Position) -> Result<()> {
        let unusable = || position.unusable(KIND);
        let (offset, number) = position.place(KIND)?.split_once(':').ok_or_else(unusable)?;
        let offset: u64 = offset.parse().map_err(|_| unusable())?;
        let number: u64 = number.parse().map_err(|_| unusable())?;
        // every message takes a line of its own
        if offset > self.progress.total_bytes || number > offset {
            return Err(unusable());
        }
        self.reader.seek(SeekFrom::Start(offset)).map_err(|e| unreadable(Path::new(&self.name), e))?;
        self.offset = offset;
        self.number = number;
        self.ahead = None;
        self.separator = None;
        self.begun = true;
        if self.read_piece()? {
            if !is_separator(&self.piece) {
                return Err(unusable());
            }
            self.separator = Some(Separator { offset, received: separator(&self.piece).flatten() });
        }
        self.position = Some(position.clone());
        self.progress.done_bytes = offset;
        Ok(())
    }

    fn position(&self) -> Option<Position> {
        self.position.clone()
    }

    fn progress(&self) -> Progress {
        self.progress
    }
}

/// Writes one message in the mboxrd form: what [`Mbox`] reads back byte for byte, but for a missing line end at the end.
///
/// The sender stands in the separator line; `None` is written as `MAILER-DAEMON`, as mail systems do for the null reverse-path.
///
/// # Errors
/// Those of `out`.
pub fn write_message(
    out: &mut impl Write,
    message: &RawMessage,
    sender: Option<&EmailAddress>,
) -> io::Result<()> {
    // a quoted local part may have white space, which would end the sender
    let sender = sender.map(EmailAddress::as_str).filter(|s| !s.contains(' ')).unwrap_or("MAILER-DAEMON");
    // a year before the first has no four digits
    let received =
        message.received.filter(|at| at.as_second() > -62_135_596_800).unwrap_or(Timestamp::UNIX_EPOCH);
    writeln!(out, "From {sender} {}", asctime(received))?;
    for line in message.bytes().split_inclusive(|&b| b == b'\n') {
        if line[line.iter().take_while(|&&b| b == b'>').count()..].starts_with(b"From ") {
            out.write_all(b">")?;
        }
        out.write_all(line)?;
    }
    if message.bytes().last().is_some_and(|&b| b != b'\n') {
        out.write_all(b"\n")?;
    }
    out.write_all(b"\n")
}

/// Whether the file begins as an mbox does.
pub(super) fn looks_like_mbox(path: &Path) -> Result<bool> {
    let (mut file, _) = store::open(path).map_err(|e| unreadable(path, e))?;
    let mut start = Vec::new();
    let mut chunk = [0; 64];
    while start.len() < 64 {
        match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => start.extend_from_slice(&chunk[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(unreadable(path, e)),
        }
    }
    Ok(begins_mbox(start.trim_ascii_start()))
}

/// Whether a first line is that of an mbox. RFC 5322 section 4.5 allows white space between the name of a field and its colon: `From : ann` is
/// a message by itself.
fn begins_mbox(line: &[u8]) -> bool {
    line.strip_prefix(b"From ").is_some_and(|rest| !rest.trim_ascii_start().starts_with(b":"))
}

/// Whether a header field begins here (RFC 5322 section 2.2: a name of printable characters, and a colon).
fn begins_field(line: &[u8]) -> bool {
    let name = line.iter().take_while(|b| b.is_ascii_graphic() && **b != b':').count();
    name > 0 && line[name..].trim_ascii_start().starts_with(b":")
}

fn is_blank(line: &[u8]) -> bool {
    matches!(line, b"\n" | b"\r\n")
}

fn is_separator(line: &[u8]) -> bool {
    line.ends_with(b"\n") && separator(line).is_some()
}

fn unquoted(line: &[u8], quoting: Quoting) -> &[u8] {
    let quotes = line.iter().take_while(|&&b| b == b'>').count();
    let undone = match quoting {
        Quoting::Mboxrd => quotes > 0 && line[quotes..].starts_with(b"From "),
        Quoting::Mboxo => quotes == 1 && line[quotes..].starts_with(b"From "),
        Quoting::None => false,
    };
    &line[usize::from(undone)..]
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/// `hh:mm` or `hh:mm:ss`.
fn time(word: &str) -> Option<(u8, u8, u8)> {
    let mut parts = word.split(':').map(|p| p.parse::<u8>().ok().filter(|_| p.len() == 2));
    let (hour, minute) = (parts.next()??, parts.next()??);
    let second = parts.next().map_or(Some(0), |s| s)?;
    let valid = hour < 24 && minute < 60 && second < 61 && parts.next().is_none();
    valid.then_some((hour, minute, second.min(59)))
}

/// Reads a separator line: its date where that is one of the calendar; `None` for any other line, however it begins. RFC 4155: the date is UTC
/// where no zone is told.
pub(super) fn separator(line: &[u8]) -> Option<Option<Timestamp>> {
    let text = String::from_utf8_lossy(line.strip_prefix(b"From ")?);
    let mut words: Vec<&str> = text.split_ascii_whitespace().collect();
    if let [.., "remote", "from", _] = words[..] {
        words.truncate(words.len() - 3);
    }
    let is_day = |word: &&str| DAYS.contains(&word.trim_end_matches(','));
    let at = words.iter().rposition(is_day).filter(|at| is_sender(&words[..*at]))?;
    let (mut month, mut day, mut clock, mut year, mut zone, mut name) = (None, None, None, None, None, None);
    for &word in &words[at + 1..] {
        let is_number = word.bytes().all(|b| b.is_ascii_digit());
        let twice = if let Some(found) = MONTHS.iter().position(|&m| m == word) {
            month.replace(found + 1).is_some()
        } else if let Some(found) = time(word) {
            clock.replace(found).is_some()
        } else if is_number && word.len() <= 2 {
            day.replace(word.parse::<u8>().ok()?).is_some()
        } else if is_number && word.len() == 4 {
            year.replace(word).is_some()
        } else if let Some(found) = offset(word) {
            zone.replace(found).is_some()
        } else {
            // the name of a zone, which tells nothing certain: CST is said in China and in Chicago
            let letters = word.trim_matches(['(', ')']);
            let is_name = (1..=5).contains(&letters.len()) && letters.bytes().all(|b| b.is_ascii_uppercase());
            !is_name || name.replace(()).is_some()
        };
        if twice {
            return None;
        }
    }
    let (year, month, day, (hour, minute, second)) = (year?, month?, day?, clock?);
    let zone = zone.unwrap_or_else(|| "+00:00".to_owned());
    Some(format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{zone}").parse().ok())
}

/// What may stand before the date.
fn is_sender(words: &[&str]) -> bool {
    match words {
        [] | [_] | [_, "at", _] => true,
        [first, .., last] => first.starts_with('"') && last.contains("\"@"),
    }
}

/// `+hhmm` as `+hh:mm`.
fn offset(word: &str) -> Option<String> {
    let valid =
        word.len() == 5 && word.starts_with(['+', '-']) && word[1..].bytes().all(|b| b.is_ascii_digit());
    valid.then(|| format!("{}:{}", &word[..3], &word[3..]))
}

fn asctime(at: Timestamp) -> String {
    // the text is 2024-01-02T03:04:05..., from year 1 on
    let text = at.to_string();
    let part = |from: usize, to: usize| text.get(from..to).unwrap_or("00").to_owned();
    let month =
        part(5, 7).parse::<usize>().ok().and_then(|m| MONTHS.get(m.wrapping_sub(1))).unwrap_or(&"Jan");
    // 1970-01-01 was a Thursday
    let weekday = DAYS[usize::try_from((at.as_second().div_euclid(86_400) + 3).rem_euclid(7)).unwrap_or(0)];
    let day = part(8, 10).trim_start_matches('0').to_owned();
    format!("{weekday} {month} {day:>2} {} {}", part(11, 19), part(0, 4))
}

#[cfg(test)]
impl<R> Mbox<R> {
    pub(super) fn piece_capacity(&self) -> usize {
        self.piece.capacity()
    }
}
