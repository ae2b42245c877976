//! mbox: many messages in one file (RFC 4155, and the family described in `mbox(5)` of qmail).
//!
//! A message begins with a line `From sender date`, and an empty line stands before the next one. `Content-Length` is ignored: too many
//! programs changed messages without changing it. What counts as such a line:
//! - the first line of the file, when it begins with `From `;
//! - after an empty line: `From ` with a time of day in it;
//! - after any other line (a program forgot the empty one): `From ` with a whole date, weekday to year.
//!
//! Anything else that begins with `From ` is text that somebody did not quote, and stays text.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use email_router_model::{EmailAddress, RawMessage, RemoteId, Scope, Timestamp};

use super::{ImportLimits, Imported, MessageSource, Position, Progress, unreadable};
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
    /// The `From ` line of the message that comes next.
    separator: Option<Separator>,
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
            separator: None,
            begun: false,
            position: None,
            progress: Progress { total_bytes, ..Progress::default() },
        }
    }

    /// Reads up to the end of a line, or a piece of a long one; `false` at the end of the file.
    fn read_piece(&mut self) -> Result<bool> {
        self.piece.clear();
        while self.piece.len() < PIECE && self.piece.last() != Some(&b'\n') {
            let available = match self.reader.fill_buf() {
                Ok(available) => available,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(unreadable(Path::new(&self.name), e)),
            };
            let room = &available[..available.len().min(PIECE - self.piece.len())];
            let taken = room.iter().position(|&b| b == b'\n').map_or(room.len(), |n| n + 1);
            if taken == 0 {
                break;
            }
            self.piece.extend_from_slice(&room[..taken]);
            self.reader.consume(taken);
            self.offset += taken as u64;
        }
        Ok(!self.piece.is_empty())
    }

    /// Finds the first message; what stands before it is reported once.
    fn begin(&mut self) -> Result<()> {
        self.begun = true;
        let start = self.offset;
        let (mut line_start, mut blank_before, mut only_blank) = (true, true, true);
        while self.read_piece()? {
            let blank = line_start && is_blank(&self.piece);
            let first = only_blank && self.piece.starts_with(b"From ");
            if first || (line_start && is_separator(&self.piece, blank_before)) {
                let offset = self.offset - self.piece.len() as u64;
                self.separator = Some(Separator { offset, received: date(&self.piece) });
                self.progress.done_bytes = offset;
                if only_blank {
                    return Ok(());
                }
                self.progress.failed += 1;
                self.position = Some(Position::new(KIND, offset));
                return Err(self.damaged(
                    start,
                    &format!("{} bytes before the first message are passed over", offset - start),
                ));
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
        Err(self.damaged(start, "this is no mbox: no line begins a message"))
    }

    /// Reads the message behind its separator; `None` when it is larger than allowed.
    fn body(&mut self) -> Result<Option<Vec<u8>>> {
        let limit = usize::try_from(self.limits.max_message_bytes).unwrap_or(usize::MAX);
        let mut bytes = Some(Vec::new());
        let (mut line_start, mut last_blank) = (true, 0);
        while self.read_piece()? {
            if line_start && is_separator(&self.piece, last_blank > 0) {
                let offset = self.offset - self.piece.len() as u64;
                self.separator = Some(Separator { offset, received: date(&self.piece) });
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

    fn damaged(&self, offset: u64, why: &str) -> Error {
        let text = format!("mbox {} at byte {offset}: {why}", self.name);
        Error::new(ErrorKind::Protocol, text).with_scope(Scope::Message)
    }
}

impl<R: BufRead + Seek + Send + std::fmt::Debug> MessageSource for Mbox<R> {
    fn next_message(&mut self) -> Result<Option<Imported>> {
        if !self.begun {
            self.begin()?;
        }
        let Some(separator) = self.separator.take() else { return Ok(None) };
        let body = self.body()?;
        let end = self.separator.as_ref().map_or(self.offset, |next| next.offset);
        let position = Position::new(KIND, end);
        self.position = Some(position.clone());
        self.progress.done_bytes = end;
        let failure = match body {
            Some(bytes) if !bytes.is_empty() => {
                let mut message = RawMessage::new(bytes);
                message.received = separator.received;
                let id = RemoteId::new(format!("sha256:{}", message.digest()));
                self.progress.messages += 1;
                return Ok(Some(Imported { id, position, message }));
            }
            Some(_) => self.damaged(separator.offset, "the message is empty"),
            None => {
                let (at, limit) = (separator.offset, self.limits.max_message_bytes);
                let text = format!(
                    "mbox {} at byte {at}: the message is larger than the limit of {limit} bytes",
                    self.name
                );
                Error::new(ErrorKind::TooLarge, text)
            }
        };
        self.progress.failed += 1;
        Err(failure)
    }

    fn resume_after(&mut self, position: &Position) -> Result<()> {
        let unusable = || position.unusable(KIND);
        let offset: u64 = position.place(KIND)?.parse().map_err(|_| unusable())?;
        if offset > self.progress.total_bytes {
            return Err(unusable());
        }
        self.reader.seek(SeekFrom::Start(offset)).map_err(|e| unreadable(Path::new(&self.name), e))?;
        self.offset = offset;
        self.separator = None;
        self.begun = true;
        if self.read_piece()? {
            if !self.piece.starts_with(b"From ") {
                return Err(unusable());
            }
            self.separator = Some(Separator { offset, received: date(&self.piece) });
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
    let received = message.received.unwrap_or(Timestamp::UNIX_EPOCH);
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
    Ok(start.trim_ascii_start().starts_with(b"From "))
}

fn is_blank(line: &[u8]) -> bool {
    matches!(line, b"\n" | b"\r\n")
}

fn is_separator(line: &[u8], blank_before: bool) -> bool {
    line.starts_with(b"From ")
        && line.ends_with(b"\n")
        && (date(line).is_some() || (blank_before && words(line).any(|word| time(word).is_some())))
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

fn words(line: &[u8]) -> impl Iterator<Item = &str> {
    std::str::from_utf8(line).unwrap_or_default().split_ascii_whitespace().skip(1)
}

/// `hh:mm` or `hh:mm:ss`.
fn time(word: &str) -> Option<(u8, u8, u8)> {
    let mut parts = word.split(':').map(|p| p.parse::<u8>().ok().filter(|_| p.len() == 2));
    let (hour, minute) = (parts.next()??, parts.next()??);
    let second = parts.next().map_or(Some(0), |s| s)?;
    let valid = hour < 24 && minute < 60 && second < 61 && parts.next().is_none();
    valid.then_some((hour, minute, second.min(59)))
}

/// The date of a separator line: `asctime`, with a zone before or after the year where a program writes one. RFC 4155: it is UTC.
pub(super) fn date(line: &[u8]) -> Option<Timestamp> {
    let words: Vec<&str> = words(line).collect();
    let at = words.iter().rposition(|w| DAYS.contains(w))?;
    let [month, day, clock, rest @ ..] = &words[at + 1..] else { return None };
    let month = MONTHS.iter().position(|m| m == month)? + 1;
    let day: u8 = day.parse().ok()?;
    let (hour, minute, second) = time(clock)?;
    let year = rest.iter().take(2).find(|w| w.len() == 4 && w.bytes().all(|b| b.is_ascii_digit()))?;
    let offset = rest
        .iter()
        .take(2)
        .find(|w| w.len() == 5 && w.starts_with(['+', '-']) && w.bytes().skip(1).all(|b| b.is_ascii_digit()));
    let offset = offset.map_or("+00:00".to_owned(), |o| format!("{}:{}", &o[..3], &o[3..]));
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{offset}").parse().ok()
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
