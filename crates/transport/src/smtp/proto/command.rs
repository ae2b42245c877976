//! Commands of the client (RFC 5321 section 4.1.1 and the extensions). Whatever a value holds, a command is one line.

use std::fmt;
use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use email_router_model::EmailAddress;

use crate::{DsnNotify, DsnRequest};

/// The name with which the client introduces itself: a domain name or an address literal (RFC 5321 4.1.3).
#[derive(Clone, PartialEq, Eq)]
pub struct HeloName(String);

impl HeloName {
    /// A domain name (letters, digits, hyphens, underscores, dots) or an address literal in brackets; at most 255 octets. `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let literal = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
        let good = match literal {
            Some(inner) => {
                !inner.is_empty()
                    && inner.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b':' | b'-'))
            }
            None => {
                let label = |l: &str| {
                    !l.is_empty() && l.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
                };
                text.split('.').all(label)
            }
        };
        (good && text.len() <= 255).then(|| Self(text.to_owned()))
    }

    /// The address literal for this address: `[192.0.2.1]`, `[IPv6:2001:db8::1]`.
    #[must_use]
    pub fn literal(address: std::net::IpAddr) -> Self {
        match address {
            std::net::IpAddr::V4(v4) => Self(format!("[{v4}]")),
            std::net::IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                Some(v4) => Self(format!("[{v4}]")),
                None => Self(format!("[IPv6:{v6}]")),
            },
        }
    }

    /// The name as it goes on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for HeloName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// The parameters of MAIL.
#[derive(Debug, Clone, Copy, Default)]
pub struct MailParameters<'a> {
    /// `SIZE=` (RFC 1870).
    pub size: Option<u64>,
    /// `BODY=8BITMIME` (RFC 6152).
    pub eight_bit: bool,
    /// `SMTPUTF8` (RFC 6531).
    pub smtputf8: bool,
    /// `RET=` and `ENVID=` (RFC 3461 4.3, 4.4).
    pub dsn: Option<&'a DsnRequest>,
}

/// One command.
#[derive(Debug, Clone, Copy)]
pub enum Command<'a> {
    /// `EHLO`.
    Ehlo(&'a HeloName),
    /// `HELO`, for servers that do not know EHLO.
    Helo(&'a HeloName),
    /// `STARTTLS` (RFC 3207).
    StartTls,
    /// `AUTH` (RFC 4954) with an optional initial response, unencoded.
    Auth(&'static str, Option<&'a [u8]>),
    /// The answer to a challenge, unencoded.
    AuthAnswer(&'a [u8]),
    /// `*`: the client gives up the exchange (RFC 4954 section 4).
    AuthCancel,
    /// `MAIL`; `None` is the null reverse-path.
    Mail(Option<&'a EmailAddress>, MailParameters<'a>),
    /// `RCPT`, with `NOTIFY=` and `ORCPT=` (RFC 3461 4.1, 4.2) where wanted.
    Rcpt(&'a EmailAddress, Option<DsnNotify>),
    /// `DATA`.
    Data,
    /// `BDAT` (RFC 3030): so many octets follow; whether they are the last.
    Bdat(usize, bool),
    /// `RSET`.
    Rset,
    /// `QUIT`.
    Quit,
}

impl Command<'_> {
    /// Appends the command line, CRLF included.
    pub fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        // writing to a Vec cannot fail
        let _ = match *self {
            Self::Ehlo(name) => write!(out, "EHLO {}", name.0),
            Self::Helo(name) => write!(out, "HELO {}", name.0),
            Self::StartTls => write!(out, "STARTTLS"),
            Self::Auth(mechanism, None) => write!(out, "AUTH {mechanism}"),
            Self::Auth(mechanism, Some(initial)) => {
                let _ = write!(out, "AUTH {mechanism} ");
                // an empty initial response is a single equals sign (RFC 4954 section 4)
                if initial.is_empty() { write!(out, "=") } else { base64_into(initial, out) }
            }
            Self::AuthAnswer(answer) => base64_into(answer, out),
            Self::AuthCancel => write!(out, "*"),
            Self::Mail(sender, parameters) => {
                let _ = write!(out, "MAIL FROM:<{}>", sender.map_or("", EmailAddress::as_str));
                if let Some(size) = parameters.size {
                    let _ = write!(out, " SIZE={size}");
                }
                if parameters.eight_bit {
                    let _ = write!(out, " BODY=8BITMIME");
                }
                if parameters.smtputf8 {
                    let _ = write!(out, " SMTPUTF8");
                }
                if let Some(dsn) = parameters.dsn {
                    let _ = write!(out, " RET={}", if dsn.headers_only { "HDRS" } else { "FULL" });
                    if let Some(id) = &dsn.envelope_id {
                        let _ = write!(out, " ENVID=");
                        xtext(id, out);
                    }
                }
                Ok(())
            }
            Self::Rcpt(address, notify) => {
                let _ = write!(out, "RCPT TO:<{address}>");
                if let Some(notify) = notify {
                    write_notify(notify, out);
                    // RFC 6533 has another form for addresses beyond ASCII; the parameter is optional, so they go without
                    if !address.needs_smtputf8() {
                        let _ = write!(out, " ORCPT=rfc822;");
                        xtext(address.as_str(), out);
                    }
                }
                Ok(())
            }
            Self::Data => write!(out, "DATA"),
            Self::Bdat(octets, last) => write!(out, "BDAT {octets}{}", if last { " LAST" } else { "" }),
            Self::Rset => write!(out, "RSET"),
            Self::Quit => write!(out, "QUIT"),
        };
        debug_assert!(!out[start..].iter().any(|b| b.is_ascii_control()), "a command is one line");
        out.extend_from_slice(b"\r\n");
    }
}

fn write_notify(notify: DsnNotify, out: &mut Vec<u8>) {
    let wanted = [(notify.success, "SUCCESS"), (notify.failure, "FAILURE"), (notify.delay, "DELAY")];
    let names: Vec<&str> = wanted.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
    let names = if names.is_empty() { "NEVER".to_owned() } else { names.join(",") };
    out.extend_from_slice(b" NOTIFY=");
    out.extend_from_slice(names.as_bytes());
}

/// `xtext` of RFC 3461 section 4: printable ASCII but `+` and `=`; every other octet is `+` and two hexadecimal digits.
fn xtext(text: &str, out: &mut Vec<u8>) {
    for &octet in text.as_bytes() {
        if matches!(octet, b'!'..=b'~') && !matches!(octet, b'+' | b'=') {
            out.push(octet);
        } else {
            let _ = write!(out, "+{octet:02X}"); // writing to a Vec cannot fail
        }
    }
}

/// Straight into the buffer: no copy of what may be a password is left elsewhere.
fn base64_into(bytes: &[u8], out: &mut Vec<u8>) -> std::io::Result<()> {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = BASE64.encode_slice(bytes, &mut out[start..]).unwrap_or(0); // the buffer has the exact size
    out.truncate(start + written);
    Ok(())
}

/// Decodes the text of a 334 reply. Servers that have nothing to ask leave it empty.
#[must_use]
pub fn decode_challenge(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text.trim()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(command: Command<'_>) -> String {
        let mut out = Vec::new();
        command.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines() {
        let ann: EmailAddress = "ann+x@example.com".parse().unwrap();
        let name = HeloName::parse("router.example.com").unwrap();
        let dsn = DsnRequest {
            notify: DsnNotify { success: true, failure: true, delay: false },
            headers_only: true,
            envelope_id: Some("a+b=c d\r\nRSET".into()),
        };
        let full = MailParameters { size: Some(12), eight_bit: true, smtputf8: true, dsn: Some(&dsn) };
        for (command, expected) in [
            (Command::Ehlo(&name), "EHLO router.example.com\r\n"),
            (Command::Helo(&name), "HELO router.example.com\r\n"),
            (Command::StartTls, "STARTTLS\r\n"),
            (Command::Auth("LOGIN", None), "AUTH LOGIN\r\n"),
            // RFC 4616 section 4, in the form of RFC 4954 section 4.1
            (Command::Auth("PLAIN", Some(b"\0test\x001234")), "AUTH PLAIN AHRlc3QAMTIzNA==\r\n"),
            (Command::Auth("EXTERNAL", Some(b"")), "AUTH EXTERNAL =\r\n"),
            (Command::AuthAnswer(b"tim"), "dGlt\r\n"),
            (Command::AuthAnswer(b""), "\r\n"),
            (Command::AuthCancel, "*\r\n"),
            (Command::Mail(None, MailParameters::default()), "MAIL FROM:<>\r\n"),
            (
                Command::Mail(Some(&ann), full),
                "MAIL FROM:<ann+x@example.com> SIZE=12 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=a+2Bb+3Dc+20d+0D+0ARSET\r\n",
            ),
            (Command::Rcpt(&ann, None), "RCPT TO:<ann+x@example.com>\r\n"),
            (
                Command::Rcpt(&ann, Some(dsn.notify)),
                "RCPT TO:<ann+x@example.com> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;ann+2Bx@example.com\r\n",
            ),
            (
                Command::Rcpt(&"ü@example.com".parse().unwrap(), Some(DsnNotify::default())),
                "RCPT TO:<ü@example.com> NOTIFY=NEVER\r\n",
            ),
            (Command::Data, "DATA\r\n"),
            (Command::Bdat(10, false), "BDAT 10\r\n"),
            (Command::Bdat(0, true), "BDAT 0 LAST\r\n"),
            (Command::Rset, "RSET\r\n"),
            (Command::Quit, "QUIT\r\n"),
        ] {
            assert_eq!(line(command), expected);
        }
    }

    #[test]
    fn helo_names() {
        for good in ["a", "mail.example.com", "[127.0.0.1]", "[IPv6:::1]", "win_host"] {
            assert!(HeloName::parse(good).is_some(), "{good}");
        }
        for bad in ["", "a b", "a\r\nRSET", ".a", "a..b", "[]", "[1 2]", "a>b", "ü"] {
            assert!(HeloName::parse(bad).is_none(), "{bad}");
        }
        assert_eq!(HeloName::literal("192.0.2.1".parse().unwrap()).as_str(), "[192.0.2.1]");
        assert_eq!(HeloName::literal("::1".parse().unwrap()).as_str(), "[IPv6:::1]");
        assert_eq!(HeloName::literal("::ffff:192.0.2.1".parse().unwrap()).as_str(), "[192.0.2.1]");
    }

    proptest! {
        /// No value makes two lines of one command.
        #[test]
        fn one_line(address in "\\PC{1,20}@\\PC{1,20}|[\\x00-\\x7f]{1,20}@b", id in "(?s).{0,40}", bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let dsn = DsnRequest { notify: DsnNotify::default(), headers_only: false, envelope_id: Some(id) };
            let mut lines = vec![
                line(Command::Mail(None, MailParameters { dsn: Some(&dsn), ..MailParameters::default() })),
                line(Command::Auth("PLAIN", Some(&bytes))),
                line(Command::AuthAnswer(&bytes)),
            ];
            if let Ok(address) = EmailAddress::parse(&address) {
                lines.push(line(Command::Rcpt(&address, Some(DsnNotify::default()))));
                lines.push(line(Command::Mail(Some(&address), MailParameters::default())));
            }
            for line in lines {
                prop_assert!(line.ends_with("\r\n") && !line[..line.len() - 2].contains(['\r', '\n', '\0']), "{line:?}");
            }
        }
    }
}
