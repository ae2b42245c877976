//! What the server offers in its answer to EHLO (RFC 5321 section 4.1.1.1).

use super::reply::Reply;

/// The extensions a server offers. All are absent after HELO.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// SIZE (RFC 1870).
    pub size: bool,
    /// The largest message the server takes, in octets; `None` when it names no limit (also `SIZE 0`).
    pub size_limit: Option<u64>,
    /// PIPELINING (RFC 2920).
    pub pipelining: bool,
    /// 8BITMIME (RFC 6152).
    pub eight_bit_mime: bool,
    /// SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// CHUNKING (RFC 3030).
    pub chunking: bool,
    /// DSN (RFC 3461).
    pub dsn: bool,
    /// STARTTLS (RFC 3207).
    pub starttls: bool,
    /// The mechanisms of AUTH (RFC 4954), upper case.
    pub auth: Vec<String>,
}

impl Capabilities {
    /// Reads the answer to EHLO; its first line is the server's greeting. Keywords are compared without regard to letter case
    /// (RFC 5321 2.4), what is not known is passed over. The old form `AUTH=LOGIN` counts as AUTH.
    #[must_use]
    pub fn from_ehlo(reply: &Reply) -> Self {
        let mut found = Self::default();
        for line in reply.lines().iter().skip(1) {
            let mut words = line.split_ascii_whitespace();
            let Some(first) = words.next() else { continue };
            let (keyword, glued) = first.split_once('=').map_or((first, None), |(k, v)| (k, Some(v)));
            match keyword.to_ascii_uppercase().as_str() {
                "AUTH" => {
                    for name in glued.into_iter().chain(words).filter(|name| !name.is_empty()) {
                        let name = name.to_ascii_uppercase();
                        if !found.auth.contains(&name) {
                            found.auth.push(name);
                        }
                    }
                }
                _ if glued.is_some() => {} // only AUTH was ever written with an equals sign
                "SIZE" => {
                    found.size = true;
                    found.size_limit = words.next().and_then(|n| n.parse().ok()).filter(|&n| n > 0);
                }
                "PIPELINING" => found.pipelining = true,
                "8BITMIME" => found.eight_bit_mime = true,
                "SMTPUTF8" => found.smtputf8 = true,
                "CHUNKING" => found.chunking = true,
                "DSN" => found.dsn = true,
                "STARTTLS" => found.starttls = true,
                _ => {}
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::super::reply::ReplyReader;
    use super::*;

    fn ehlo(lines: &[&str]) -> Capabilities {
        let mut reader = ReplyReader::default();
        reader.push(b"250-mail.example.com PIPELINING\r\n");
        for line in lines {
            reader.push(format!("250-{line}\r\n").as_bytes());
        }
        reader.push(b"250 HELP\r\n");
        Capabilities::from_ehlo(&reader.next_reply().unwrap().unwrap())
    }

    #[test]
    fn keywords_in_any_case_and_the_greeting_is_none() {
        assert_eq!(ehlo(&[]), Capabilities::default());
        let all = [
            "pipelining",
            "Size 1000",
            "8BitMime",
            "smtputf8",
            "Chunking",
            "dsn",
            "StartTLS",
            "auth plain Login",
        ];
        let found = ehlo(&all);
        assert_eq!(
            found,
            Capabilities {
                size: true,
                size_limit: Some(1000),
                pipelining: true,
                eight_bit_mime: true,
                smtputf8: true,
                chunking: true,
                dsn: true,
                starttls: true,
                auth: vec!["PLAIN".into(), "LOGIN".into()],
            }
        );
    }

    #[test]
    fn sizes_and_old_auth() {
        for (line, limit) in [
            ("SIZE", None),
            ("SIZE 0", None),
            ("SIZE x", None),
            ("SIZE 99999999999999999999", None),
            ("SIZE 1", Some(1)),
        ] {
            let found = ehlo(&[line]);
            assert!(found.size, "{line}");
            assert_eq!(found.size_limit, limit, "{line}");
        }
        assert_eq!(ehlo(&["AUTH=LOGIN PLAIN", "AUTH PLAIN NTLM"]).auth, ["LOGIN", "PLAIN", "NTLM"]);
        assert_eq!(ehlo(&["PIPELINING=no", "XPIPELINING", "AUTH"]), Capabilities::default());
    }
}
