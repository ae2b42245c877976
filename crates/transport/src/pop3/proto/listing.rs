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
    /// Response codes in square brackets are meant as such.
    pub resp_codes: bool,
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
                "RESP-CODES" | "AUTH-RESP-CODE" => found.resp_codes = true,
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

/// Reads `number octets` lines; words after the size are passed over, as RFC 1939 section 5 asks.
///
/// # Errors
/// [`Violation::Listing`] for a line that is no such thing.
pub fn parse_list(data: &[u8]) -> Result<Vec<(u32, u64)>, Violation> {
    lines(data)
        .map(|line| {
            let (number, rest) = numbered(line)?;
            let size = rest.split(u8::is_ascii_whitespace).next().and_then(digits);
            Ok((number, size.ok_or_else(|| malformed(line))?))
        })
        .collect()
}

/// Reads `number unique-id` lines. An id may be longer than the 70 characters of RFC 1939; octets that are not printable ASCII
/// are written as `%` and two hexadecimal digits, so that different ids stay different.
///
/// # Errors
/// [`Violation::Listing`] for a line that is no such thing.
pub fn parse_uidl(data: &[u8]) -> Result<Vec<(u32, String)>, Violation> {
    lines(data)
        .map(|line| {
            let (number, rest) = numbered(line)?;
            let id = rest.split(u8::is_ascii_whitespace).next().filter(|id| !id.is_empty());
            Ok((number, printable(id.ok_or_else(|| malformed(line))?)))
        })
        .collect()
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
    let end = line.iter().position(u8::is_ascii_whitespace).ok_or_else(|| malformed(line))?;
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
        assert_eq!(parse_list(b"1 120\r\n2\t200 extra words\r\n").unwrap(), [(1, 120), (2, 200)]);
        // a mailbox beyond 2 GiB, and line ends of both kinds
        assert_eq!(parse_list(b"7 5000000000\n").unwrap(), [(7, 5_000_000_000)]);
        assert_eq!(parse_list(b"").unwrap(), []);
        for bad in ["1", "x 1", "1 x", "0 5", "-1 5", "1 -5", "99999999999 5", "1 99999999999999999999999"] {
            assert!(parse_list(bad.as_bytes()).is_err(), "{bad}");
        }
        let ids =
            parse_uidl(b"1 whqtswO00WBw418f9t5JxYwZ\r\n2\tQhdPYR:00WBw1Ph7x7\r\n3 a\xffb more\r\n").unwrap();
        assert_eq!(ids[0], (1, "whqtswO00WBw418f9t5JxYwZ".to_owned()));
        assert_eq!(ids[1].1, "QhdPYR:00WBw1Ph7x7");
        assert_eq!(ids[2].1, "a%FFb");
        for bad in ["1", "1 ", "x y"] {
            assert!(parse_uidl(bad.as_bytes()).is_err(), "{bad}");
        }
        assert_eq!(parse_stat("2 320"), Some((2, 320)));
        assert_eq!(parse_stat("3 5000000000 more"), Some((3, 5_000_000_000)));
        assert_eq!(parse_stat("two messages"), None);
    }
}
