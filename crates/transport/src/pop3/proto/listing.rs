//! The answers to CAPA, LIST, UIDL and STAT.

use super::Violation;

/// What a server says it can do (RFC 2449).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Capabilities {
    /// The server answered CAPA at all; if not, nothing is known and everything may be tried.
    pub known: bool,
    /// TOP.
    pub top: bool,
    /// UIDL.
    pub uidl: bool,
    /// USER and PASS.
    pub user: bool,
    /// Commands may be sent without waiting for answers.
    pub pipelining: bool,
    /// TLS can be started (RFC 2595).
    pub stls: bool,
    /// Names of SASL mechanisms (RFC 5034).
    pub sasl: Vec<String>,
    /// Least number of seconds between two logins (RFC 2449 section 6.5).
    pub login_delay: Option<u64>,
    /// What the server says it is.
    pub implementation: Option<String>,
}

impl Capabilities {
    /// Reads the data of the answer; unknown capabilities are passed over.
    #[must_use]
    pub fn parse(data: &[u8]) -> Self {
        let mut found = Self { known: true, ..Self::default() };
        for line in lines(data) {
            let line = String::from_utf8_lossy(line);
            let mut words = line.split_whitespace();
            match words.next().unwrap_or_default().to_ascii_uppercase().as_str() {
                "TOP" => found.top = true,
                "UIDL" => found.uidl = true,
                "USER" => found.user = true,
                "PIPELINING" => found.pipelining = true,
                "STLS" => found.stls = true,
                "SASL" => found.sasl.extend(words.take(50).map(str::to_owned)),
                "LOGIN-DELAY" => found.login_delay = words.next().and_then(|w| w.parse().ok()),
                "IMPLEMENTATION" => {
                    found.implementation =
                        Some(words.collect::<Vec<_>>().join(" ").chars().take(100).collect());
                }
                _ => {}
            }
        }
        found
    }
}

/// The most messages a listing may have. A line takes a few octets on the wire and many more in memory, so the cap on octets alone
/// would let a server fill the memory.
pub const MOST_MESSAGES: usize = 1_000_000;

/// Reads `number octets` lines; words after the size are passed over, as RFC 1939 section 5 asks. `None` stands for a size that is
/// missing or cannot be read: one such line is no reason to leave all messages alone.
///
/// # Errors
/// [`Violation::Listing`] for a line that does not begin with the number of a message, [`Violation::TooManyMessages`].
pub fn parse_list(data: &[u8]) -> Result<Vec<(u32, Option<u64>)>, Violation> {
    entries(data, digits)
}

/// Reads `number unique-id` lines. An id may be longer than the 70 characters of RFC 1939; octets that are not printable ASCII
/// are written as `%` and two hexadecimal digits, so that different ids stay different. `None` stands for an id that is missing.
///
/// # Errors
/// As [`parse_list`].
pub fn parse_uidl(data: &[u8]) -> Result<Vec<(u32, Option<String>)>, Violation> {
    entries(data, |id| (!id.is_empty()).then(|| printable(id)))
}

fn entries<T>(data: &[u8], read: impl Fn(&[u8]) -> Option<T>) -> Result<Vec<(u32, Option<T>)>, Violation> {
    let mut found = Vec::new();
    for line in lines(data) {
        if found.len() == MOST_MESSAGES {
            return Err(Violation::TooManyMessages(MOST_MESSAGES));
        }
        let (number, rest) = numbered(line)?;
        found.push((number, read(rest.split(u8::is_ascii_whitespace).next().unwrap_or_default())));
    }
    Ok(found)
}

/// Reads the text of the answer to STAT: number of messages and octets.
#[must_use]
pub fn parse_stat(text: &str) -> Option<(u64, u64)> {
    let mut words = text.split_whitespace();
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

fn lines(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = data;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
        let (line, tail) = rest.split_at(end);
        rest = tail;
        Some(line.trim_ascii())
    })
    .filter(|line| !line.is_empty())
}

fn numbered(line: &[u8]) -> Result<(u32, &[u8]), Violation> {
    let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
    let number = digits(&line[..end]).and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
    Ok((number.ok_or_else(|| malformed(line))?, line[end..].trim_ascii()))
}

fn digits(word: &[u8]) -> Option<u64> {
    if word.is_empty() || !word.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(word).ok()?.parse().ok()
}

fn malformed(line: &[u8]) -> Violation {
    Violation::Listing(super::connection::excerpt(line))
}

fn printable(id: &[u8]) -> String {
    let mut text = String::with_capacity(id.len());
    for &byte in id {
        if byte.is_ascii_graphic() {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities() {
        let data = b"CAPA\r\nTOP\r\nuidl\r\nRESP-CODES\r\nPIPELINING\r\nSTLS\r\nUSER\r\nSASL PLAIN LOGIN\r\nLOGIN-DELAY 900 USER\r\n\
                     EXPIRE 60\r\nIMPLEMENTATION Shlemazle-Plotz-v302\r\nX-NEW a b\r\n";
        let found = Capabilities::parse(data);
        assert!(found.known && found.top && found.uidl && found.pipelining && found.stls && found.user);
        assert_eq!(found.sasl, ["PLAIN", "LOGIN"]);
        assert_eq!(found.login_delay, Some(900));
        assert_eq!(found.implementation.as_deref(), Some("Shlemazle-Plotz-v302"));
        assert_eq!(Capabilities::parse(b""), Capabilities { known: true, ..Capabilities::default() });
    }

    #[test]
    fn listings() {
        let sizes = |data: &[u8]| parse_list(data).unwrap();
        assert_eq!(sizes(b"1 120\r\n2\t200 extra words\r\n"), [(1, Some(120)), (2, Some(200))]);
        // a mailbox beyond 2 GiB, and line ends of both kinds
        assert_eq!(sizes(b"7 5000000000\n"), [(7, Some(5_000_000_000))]);
        assert_eq!(sizes(b""), []);
        for unknown in ["1", "1 ", "1 x", "1 -5", "1 99999999999999999999999"] {
            assert_eq!(sizes(unknown.as_bytes()), [(1, None)], "{unknown}");
        }
        let ids = parse_uidl(
            b"1 whqtswO00WBw418f9t5JxYwZ\r\n2\tQhdPYR:00WBw1Ph7x7\r\n3 a\xffb more\r\n4\r\n5 \r\n",
        )
        .unwrap();
        let ids: Vec<_> = ids.iter().map(|(n, id)| (*n, id.as_deref().unwrap_or("-"))).collect();
        assert_eq!(
            ids,
            [(1, "whqtswO00WBw418f9t5JxYwZ"), (2, "QhdPYR:00WBw1Ph7x7"), (3, "a%FFb"), (4, "-"), (5, "-")]
        );
        for bad in ["x 1", "0 5", "-1 5", "99999999999 5", "1x", "+1 5"] {
            assert!(matches!(parse_list(bad.as_bytes()), Err(Violation::Listing(_))), "{bad}");
            assert!(matches!(parse_uidl(bad.as_bytes()), Err(Violation::Listing(_))), "{bad}");
        }
        // a few octets on the wire each
        let most = b"1\n".repeat(MOST_MESSAGES);
        assert_eq!(parse_list(&most).unwrap().len(), MOST_MESSAGES);
        let more = [&most[..], b"2\n"].concat();
        assert_eq!(parse_list(&more), Err(Violation::TooManyMessages(MOST_MESSAGES)));
        assert_eq!(parse_uidl(&more), Err(Violation::TooManyMessages(MOST_MESSAGES)));
        assert_eq!(parse_stat("2 320"), Some((2, 320)));
        assert_eq!(parse_stat("3 5000000000 more"), Some((3, 5_000_000_000)));
        assert_eq!(parse_stat("two messages"), None);
    }
}
