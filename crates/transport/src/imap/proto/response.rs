//! What an answer says (RFC 9051 section 7).

use email_router_model::Timestamp;

use super::condition::{Condition, split_word, text, words};
use super::reader::{Literal, Raw};
use super::set::UidSet;
use super::value::{Scanner, Value};

/// The most messages of one folder.
pub const MOST_MESSAGES: usize = 2_000_000;

/// A folder in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedFolder {
    /// `\HasNoChildren`, `\Junk` and so on.
    pub attributes: Vec<String>,
    /// What separates levels.
    pub delimiter: Option<char>,
    /// Its name as the server writes it, invalid UTF-8 replaced.
    pub name: String,
}

/// What is told about a message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fetched {
    /// `UID`.
    pub uid: Option<u32>,
    /// `RFC822.SIZE`, in octets.
    pub size: Option<u64>,
    /// `INTERNALDATE`.
    pub received: Option<Timestamp>,
    /// `FLAGS`, where told.
    pub flags: Option<Vec<String>>,
    /// `BODY[HEADER]`.
    pub headers: Option<Literal>,
    /// `BODY[]`.
    pub whole: Option<Literal>,
    /// `BODY[]` or `BODY[HEADER]` was told, but as NIL or something else that is no string.
    pub absent: bool,
    /// What could not be attributed to any item: the answer is damaged.
    pub stray: Vec<Literal>,
    /// Something in the answer could not be read.
    pub damaged: bool,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// `+`: the server waits for more; its words.
    Continue(Vec<u8>),
    /// The end of a command: its tag and what became of it.
    Tagged(String, Condition),
    /// A status answer without a tag.
    Untagged(Condition),
    /// What the server can do.
    Capability(Vec<String>),
    /// What was switched on (RFC 5161).
    Enabled(Vec<String>),
    /// A folder.
    List(ListedFolder),
    /// The user's own namespace: prefix and delimiter; `None` where there is none.
    Namespace(Option<(String, Option<char>)>),
    /// What SEARCH found.
    Search(Vec<u32>),
    /// How many messages there are now.
    Exists(u32),
    /// How many are new.
    Recent(u32),
    /// The message of this number is gone.
    Expunge,
    /// Something about a message.
    Fetch(Fetched),
    /// An answer that matters to nobody here.
    Other,
    /// An answer that cannot be read: its first word and its literals.
    Unreadable(String, Vec<Literal>),
}

impl Response {
    /// Reads an answer. `None` for what is no IMAP answer at all.
    #[must_use]
    pub fn parse(raw: Raw) -> Option<Self> {
        let Raw { text, literals } = raw;
        match text.as_slice() {
            [b'+'] => return Some(Self::Continue(Vec::new())),
            [b'+', b' ', rest @ ..] => return Some(Self::Continue(rest.trim_ascii().to_vec())),
            _ => {}
        }
        let Some(rest) = text.strip_prefix(b"* ") else {
            let (tag, rest) = split_word(&text);
            let condition = Condition::parse(rest)?;
            let tag = std::str::from_utf8(tag).ok().filter(|tag| !tag.is_empty() && *tag != "*")?;
            return Some(Self::Tagged(tag.to_owned(), condition));
        };
        if let Some(condition) = Condition::parse(rest) {
            return Some(Self::Untagged(condition));
        }
        let (word, rest) = split_word(rest.trim_ascii_start());
        let word = String::from_utf8_lossy(word).to_ascii_uppercase();
        let scanner = Scanner::new(rest, literals);
        Some(match word.parse::<u32>() {
            Ok(number) => numbered(number, scanner),
            Err(_) => named(&word, scanner),
        })
    }
}

fn numbered(number: u32, mut scanner: Scanner<'_>) -> Response {
    let word = scanner.value();
    let word = word.as_ref().and_then(Value::bytes).unwrap_or_default().to_ascii_uppercase();
    match word.as_slice() {
        b"EXISTS" => Response::Exists(number),
        b"RECENT" => Response::Recent(number),
        b"EXPUNGE" => Response::Expunge,
        b"FETCH" => fetched(scanner),
        _ => Response::Other,
    }
}

fn named(word: &str, mut scanner: Scanner<'_>) -> Response {
    match word {
        "CAPABILITY" => Response::Capability(words(scanner.rest())),
        "ENABLED" => Response::Enabled(words(scanner.rest())),
        "LIST" | "XLIST" => listed(scanner),
        "SEARCH" => {
            let mut uids = Vec::new();
            while let Some(value) = scanner.value() {
                match value.number().and_then(|n| u32::try_from(n).ok()) {
                    Some(uid) if uids.len() < MOST_MESSAGES => uids.push(uid),
                    // (MODSEQ 9) is no message (RFC 7162)
                    None if matches!(value, Value::List(_)) => {}
                    _ => return unreadable(word, scanner),
                }
            }
            if scanner.rest().is_empty() { Response::Search(uids) } else { unreadable(word, scanner) }
        }
        "ESEARCH" => esearch(scanner),
        "NAMESPACE" => namespace(scanner),
        _ => match scanner.into_literals() {
            none if none.is_empty() => Response::Other,
            // it may have been a message
            strings => Response::Unreadable(word.to_owned(), strings),
        },
    }
}

/// `(TAG "E5") UID ALL 1:3,7` (RFC 4731); without ALL nothing was found.
fn esearch(mut scanner: Scanner<'_>) -> Response {
    let mut uids = Vec::new();
    while let Some(value) = scanner.value() {
        if value.bytes().is_some_and(|word| word.eq_ignore_ascii_case(b"ALL")) {
            let set = scanner.value();
            let found = set.as_ref().and_then(Value::bytes).and_then(|set| UidSet::parse(set, MOST_MESSAGES));
            match found {
                Some(found) => uids = found,
                None => return unreadable("ESEARCH", scanner),
            }
        }
    }
    if scanner.rest().is_empty() { Response::Search(uids) } else { unreadable("ESEARCH", scanner) }
}

fn listed(mut scanner: Scanner<'_>) -> Response {
    let attributes = match scanner.value() {
        Some(Value::List(items)) => items.iter().filter_map(Value::bytes).map(text).collect(),
        _ => return unreadable("LIST", scanner),
    };
    let delimiter = match scanner.value() {
        Some(Value::Nil) => None,
        Some(Value::Quoted(c)) => text(&c).chars().next(),
        _ => return unreadable("LIST", scanner),
    };
    // an unquoted name with spaces is wrong, but there is only one thing it can mean
    let rest = scanner.rest();
    let name = match rest.first() {
        None => return unreadable("LIST", scanner),
        Some(b'"' | b'\n') => match scanner.value().as_ref().and_then(Value::bytes) {
            Some(name) => text(name),
            None => return unreadable("LIST", scanner),
        },
        Some(_) => text(rest.trim_ascii_end()),
    };
    Response::List(ListedFolder { attributes, delimiter, name })
}

/// `(("INBOX." ".")) NIL NIL` (RFC 2342): the first of the personal namespaces.
fn namespace(mut scanner: Scanner<'_>) -> Response {
    let Some(personal) = scanner.value() else { return unreadable("NAMESPACE", scanner) };
    let first = personal.items().first().map(Value::items).unwrap_or_default();
    Response::Namespace(first.first().and_then(Value::bytes).map(|prefix| {
        let delimiter = first.get(1).and_then(Value::bytes).and_then(|d| text(d).chars().next());
        (text(prefix), delimiter)
    }))
}

fn fetched(mut scanner: Scanner<'_>) -> Response {
    let mut found = Fetched { damaged: !scanner.eat(b'('), ..Fetched::default() };
    while !found.damaged && !scanner.eat(b')') {
        let (Some(Value::Atom(name)), Some(value)) = (scanner.value(), scanner.value()) else {
            found.damaged = true;
            break;
        };
        let name = String::from_utf8_lossy(&name).to_ascii_uppercase();
        match name.as_str() {
            "UID" => match value.number().and_then(|n| u32::try_from(n).ok()).filter(|uid| *uid > 0) {
                Some(uid) => found.uid = Some(uid),
                None => found.damaged = true,
            },
            "RFC822.SIZE" => found.size = value.number(),
            "INTERNALDATE" => found.received = value.bytes().and_then(internal_date),
            "FLAGS" => {
                found.flags = Some(value.items().iter().filter_map(Value::bytes).map(text).collect());
            }
            "BODY[]" | "RFC822" => {
                found.whole = string(value);
                found.absent |= found.whole.is_none();
            }
            "BODY[HEADER]" | "RFC822.HEADER" => {
                found.headers = string(value);
                found.absent |= found.headers.is_none();
            }
            _ => {}
        }
    }
    found.stray = scanner.into_literals();
    Response::Fetch(found)
}

fn string(value: Value) -> Option<Literal> {
    match value {
        Value::Literal(literal) => Some(literal),
        Value::Quoted(bytes) => Some(Literal { size: bytes.len() as u64, bytes, over_cap: false }),
        Value::Nil | Value::Atom(_) | Value::List(_) => None,
    }
}

fn unreadable(word: &str, scanner: Scanner<'_>) -> Response {
    Response::Unreadable(word.to_owned(), scanner.into_literals())
}

/// `17-Jul-1996 02:44:25 -0700` (RFC 9051, `date-time`).
fn internal_date(bytes: &[u8]) -> Option<Timestamp> {
    const MONTHS: [&str; 12] =
        ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let text = std::str::from_utf8(bytes).ok()?.trim().to_ascii_lowercase();
    let mut parts = text.split_ascii_whitespace();
    let (date, time, zone) = (parts.next()?, parts.next()?, parts.next().unwrap_or("+0000"));
    let mut date = date.split('-');
    let day: i64 = date.next()?.parse().ok().filter(|day| (1..=31).contains(day))?;
    let month = date.next()?;
    let month = MONTHS.iter().position(|name| *name == month)? as i64 + 1;
    let year: i64 = date.next()?.parse().ok().filter(|year| (1..=9999).contains(year))?;
    let mut time = time.split(':').map(|part| part.parse::<i64>().ok().filter(|n| (0..=60).contains(n)));
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    let offset: i64 = zone.parse().ok().filter(|zone: &i64| zone.abs() <= 2400)?;
    let offset = (offset / 100) * 3600 + (offset % 100) * 60;
    // days since 1970, counted in years that begin in March
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let era = y.div_euclid(400);
    let (of_era, of_year) = (y.rem_euclid(400), (153 * m + 2) / 5 + day - 1);
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Timestamp::from_second(days * 86_400 + hour * 3600 + minute * 60 + second - offset).ok()
}

#[cfg(test)]
mod tests {
    use super::super::condition::Status;
    use super::super::reader::{Caps, Reader};
    use super::*;

    fn read(input: &str) -> Option<Response> {
        let caps = Caps { text: 10_000, literal: 1000, drained: 1000 };
        let (used, raw) = Reader::default().feed(format!("{input}\r\n").as_bytes(), caps).unwrap();
        assert_eq!(used, input.len() + 2, "{input}");
        Response::parse(raw.unwrap())
    }

    fn literal(text: &str) -> Option<Literal> {
        Some(Literal { bytes: text.as_bytes().to_vec(), size: text.len() as u64, over_cap: false })
    }

    #[test]
    fn kinds() {
        let list = |attributes: &[&str], delimiter, name: &str| {
            Some(Response::List(ListedFolder {
                attributes: attributes.iter().map(|a| (*a).to_owned()).collect(),
                delimiter,
                name: name.to_owned(),
            }))
        };
        for (line, expected) in [
            ("+ ready ", Some(Response::Continue(b"ready".to_vec()))),
            ("+", Some(Response::Continue(vec![]))),
            ("* 23 EXISTS", Some(Response::Exists(23))),
            ("* 5 recent", Some(Response::Recent(5))),
            ("* 5 EXPUNGE", Some(Response::Expunge)),
            ("* CAPABILITY IMAP4rev1  AUTH=Plain ", {
                Some(Response::Capability(vec!["IMAP4REV1".into(), "AUTH=PLAIN".into()]))
            }),
            ("* ENABLED UTF8=ACCEPT", Some(Response::Enabled(vec!["UTF8=ACCEPT".into()]))),
            ("* SEARCH", Some(Response::Search(vec![]))),
            ("* SEARCH 2 84  882 ", Some(Response::Search(vec![2, 84, 882]))),
            ("* SEARCH 2 (MODSEQ 917162500)", Some(Response::Search(vec![2]))),
            ("* SEARCH 2 x", Some(Response::Unreadable("SEARCH".into(), vec![]))),
            ("* SEARCH 4294967296", Some(Response::Unreadable("SEARCH".into(), vec![]))),
            ("* ESEARCH (TAG \"E5\") UID", Some(Response::Search(vec![]))),
            ("* ESEARCH (TAG \"E5\") UID COUNT 3 ALL 4:5,9", Some(Response::Search(vec![4, 5, 9]))),
            ("* ESEARCH UID ALL 4:*", Some(Response::Unreadable("ESEARCH".into(), vec![]))),
            (
                "* LIST (\\HasNoChildren \\Junk) \"/\" \"Junk\"",
                list(&["\\HasNoChildren", "\\Junk"], Some('/'), "Junk"),
            ),
            ("* LIST () NIL inbox", list(&[], None, "inbox")),
            ("* LIST () \".\" {4}\r\nJ nk", list(&[], Some('.'), "J nk")),
            ("* LIST () \"\\\\\" Junk E-mail", list(&[], Some('\\'), "Junk E-mail")),
            ("* XLIST (\\Spam) \"/\" Spam", list(&["\\Spam"], Some('/'), "Spam")),
            ("* LIST", Some(Response::Unreadable("LIST".into(), vec![]))),
            (
                "* NAMESPACE ((\"INBOX.\" \".\")) NIL NIL",
                Some(Response::Namespace(Some(("INBOX.".into(), Some('.'))))),
            ),
            ("* NAMESPACE NIL NIL NIL", Some(Response::Namespace(None))),
            ("* FLAGS (\\Seen)", Some(Response::Other)),
            (
                "* 1x FETCH (UID 5 BODY[] {1}\r\na)",
                Some(Response::Unreadable("1X".into(), literal("a").into_iter().collect())),
            ),
            ("* STATUS INBOX (MESSAGES 5)", Some(Response::Other)),
            ("HTTP/1.1 400 Bad Request", None),
            ("220 mail ESMTP", None),
            ("", None),
            ("* ", Some(Response::Other)),
        ] {
            assert_eq!(read(line), expected, "{line}");
        }
        let Some(Response::Tagged(tag, condition)) = read("E12 OK done") else { panic!() };
        assert_eq!((tag.as_str(), condition.status), ("E12", Status::Ok));
    }

    #[test]
    fn messages() {
        let base = Fetched { uid: Some(5), ..Fetched::default() };
        for (items, expected) in [
            (
                "(UID 5 RFC822.SIZE 5000000000 FLAGS (\\Seen $x[1]) MODSEQ (12) INTERNALDATE \"17-Jul-1996 02:44:25 -0700\")",
                Fetched {
                    size: Some(5_000_000_000),
                    flags: Some(vec!["\\Seen".into(), "$x[1]".into()]),
                    received: "1996-07-17T09:44:25Z".parse().ok(),
                    ..base.clone()
                },
            ),
            ("(UID 5 BODY[] {3}\r\na\r\n)", Fetched { whole: literal("a\r\n"), ..base.clone() }),
            ("(BODY[HEADER] {2}\r\nab UID 5 )", Fetched { headers: literal("ab"), ..base.clone() }),
            ("(UID 5 BODY[] \"\")", Fetched { whole: literal(""), ..base.clone() }),
            ("(UID 5 BODY[] NIL)", Fetched { absent: true, ..base.clone() }),
            ("(UID 5 INTERNALDATE NIL RFC822.SIZE NIL)", base.clone()),
            // what nobody asked for does not keep the rest from being read
            ("(X-NEW (a b (c)) ENVELOPE NIL UID 5 BODY[]<0> {1}\r\nx)", base.clone()),
            // damaged, but what was asked for is there
            ("(UID 5 BODY[] {2}\r\nab", Fetched { whole: literal("ab"), damaged: true, ..base.clone() }),
            (
                "(UID 5 X \"open BODY[] {2}\r\nab)",
                Fetched { stray: literal("ab").into_iter().collect(), damaged: true, ..base.clone() },
            ),
            ("UID 5", Fetched { damaged: true, ..Fetched::default() }),
            ("(UID 0)", Fetched { damaged: true, ..Fetched::default() }),
            ("(UID 4294967296)", Fetched { damaged: true, ..Fetched::default() }),
        ] {
            assert_eq!(read(&format!("* 1 FETCH {items}")), Some(Response::Fetch(expected)), "{items}");
        }
    }

    #[test]
    fn dates() {
        for (text, expected) in [
            ("17-Jul-1996 02:44:25 -0700", Some("1996-07-17T09:44:25Z")),
            (" 1-Jan-1970 00:00:00 +0000", Some("1970-01-01T00:00:00Z")),
            ("29-Feb-2024 23:59:60 +0130", Some("2024-02-29T22:30:00Z")),
            ("31-Dec-2025 12:00:00", Some("2025-12-31T12:00:00Z")),
            ("1-Foo-2025 12:00:00 +0000", None),
            ("99-Jan-2025 12:00:00 +0000", None),
            ("1-Jan-2025 12:00", None),
            ("1-Jan-99999 12:00:00 +0000", None),
            ("", None),
        ] {
            assert_eq!(internal_date(text.as_bytes()).map(|t| t.to_string()).as_deref(), expected, "{text}");
        }
    }

    /// A crate that others use reads the same; what it cannot read at all is in the tables above.
    #[test]
    fn a_second_opinion() {
        use imap_proto::{AttributeValue as A, Response as R};
        for (line, size, body) in [
            ("* 7 FETCH (UID 9 RFC822.SIZE 1234 FLAGS (\\Seen))", Some(1234), None),
            ("* 7 FETCH (UID 9 BODY[] {12}\r\nSubject: a\r\n)", None, Some("Subject: a\r\n")),
            ("* 7 FETCH (BODY[] \"x\" UID 9)", None, Some("x")),
        ] {
            let Some(Response::Fetch(ours)) = read(line) else { panic!("{line}") };
            let wire = format!("{line}\r\n");
            let (rest, R::Fetch(_, theirs)) = R::parse(wire.as_bytes()).unwrap() else { panic!("{line}") };
            assert!(rest.is_empty());
            for item in theirs {
                match item {
                    A::Uid(uid) => assert_eq!(ours.uid, Some(uid)),
                    A::Rfc822Size(n) => {
                        assert_eq!((ours.size, size), (Some(u64::from(n)), Some(u64::from(n))))
                    }
                    A::Flags(flags) => assert_eq!(ours.flags.as_ref().map(Vec::len), Some(flags.len())),
                    A::BodySection { data, .. } => {
                        let data = data.map(|d| String::from_utf8_lossy(&d).into_owned());
                        assert_eq!(data.as_deref(), body);
                        assert_eq!(ours.whole, body.and_then(literal));
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        for (line, uids) in [("* SEARCH 3 5 9", vec![3, 5, 9]), ("* SEARCH", vec![])] {
            assert_eq!(read(line), Some(Response::Search(uids.clone())));
            let wire = format!("{line}\r\n");
            match R::parse(wire.as_bytes()).unwrap().1 {
                R::MailboxData(imap_proto::MailboxDatum::Search(theirs)) => assert_eq!(theirs, uids),
                other => panic!("{other:?}"),
            }
        }
    }
}
