//! Status lines and response codes (RFC 1939 section 3, RFC 2449 section 8, RFC 3206).

/// A status line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// `+OK` as against `-ERR`.
    pub ok: bool,
    /// The code in square brackets at the beginning of the text.
    pub code: Option<ResponseCode>,
    /// The text without the code; invalid UTF-8 and control characters replaced.
    pub text: String,
}

/// A response code.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResponseCode {
    /// `AUTH`: the credentials are the problem (RFC 3206).
    Auth,
    /// `SYS/TEMP`: the server has a problem that will go away (RFC 3206).
    SysTemp,
    /// `SYS/PERM`: the server has a problem that somebody must mend (RFC 3206).
    SysPerm,
    /// `IN-USE`: another session holds the maildrop (RFC 2449).
    InUse,
    /// `LOGIN-DELAY`: too soon after the last login (RFC 2449).
    LoginDelay,
    /// Any other.
    Other(String),
}

/// What a line from the server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line<'a> {
    /// `+OK` or `-ERR`.
    Status(Status),
    /// `+ ` and base64: a challenge of a SASL exchange.
    Challenge(&'a [u8]),
    /// Nothing that POP3 knows.
    Garbage,
}

/// Reads a line (without its line end). Letter case does not count, as servers differ.
#[must_use]
pub fn parse_line(line: &[u8]) -> Line<'_> {
    let begins = |word: &[u8]| {
        line.len() >= word.len()
            && line[..word.len()].eq_ignore_ascii_case(word)
            && line.get(word.len()).is_none_or(|b| b.is_ascii_whitespace())
    };
    let ok = begins(b"+OK");
    if ok || begins(b"-ERR") {
        let text = line[if ok { 3 } else { 4 }..].trim_ascii();
        // a control character (a bare CR) would forge a line in a log or move a terminal's cursor
        let text =
            String::from_utf8_lossy(text).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let (code, text) = split_code(text);
        return Line::Status(Status { ok, code, text });
    }
    match line {
        [b'+'] => Line::Challenge(b""),
        [b'+', b' ', rest @ ..] => Line::Challenge(rest.trim_ascii()),
        _ => Line::Garbage,
    }
}

fn split_code(text: String) -> (Option<ResponseCode>, String) {
    let Some((code, rest)) = text.strip_prefix('[').and_then(|t| t.split_once(']')) else {
        return (None, text);
    };
    let code = match code.to_ascii_uppercase().as_str() {
        "AUTH" => ResponseCode::Auth,
        "SYS/TEMP" => ResponseCode::SysTemp,
        "SYS/PERM" => ResponseCode::SysPerm,
        "IN-USE" => ResponseCode::InUse,
        "LOGIN-DELAY" => ResponseCode::LoginDelay,
        // RFC 3206 section 3: a client that does not know the part after the slash goes by the part before it
        other if other.starts_with("SYS/PERM/") => ResponseCode::SysPerm,
        other if other == "SYS" || other.starts_with("SYS/") => ResponseCode::SysTemp,
        other if other.starts_with("AUTH/") => ResponseCode::Auth,
        other => ResponseCode::Other(other.to_owned()),
    };
    (Some(code), rest.trim().to_owned())
}

impl Status {
    /// The server's own words: code and text.
    #[must_use]
    pub fn words(&self) -> String {
        let code = match &self.code {
            None => return self.text.clone(),
            Some(ResponseCode::Auth) => "AUTH",
            Some(ResponseCode::SysTemp) => "SYS/TEMP",
            Some(ResponseCode::SysPerm) => "SYS/PERM",
            Some(ResponseCode::InUse) => "IN-USE",
            Some(ResponseCode::LoginDelay) => "LOGIN-DELAY",
            Some(ResponseCode::Other(code)) => code,
        };
        format!("[{code}] {}", self.text)
    }

    /// The same with the server's words changed by `change`; a response code that says something stays.
    #[must_use]
    pub(in crate::pop3) fn map_words(&self, change: impl Fn(&str) -> String) -> Self {
        let code = match &self.code {
            Some(ResponseCode::Other(code)) => Some(ResponseCode::Other(change(code))),
            known => known.clone(),
        };
        Self { ok: self.ok, code, text: change(&self.text) }
    }

    /// The timestamp of a greeting, for APOP (RFC 1939 section 7).
    ///
    /// It must be a well-formed `msg-id` of printable ASCII with one `@`; anything else could be an attempt to learn the password
    /// from collisions of MD5 (CVE-2007-1558), and gives `None`.
    #[must_use]
    pub fn timestamp(&self) -> Option<&str> {
        let begin = self.text.find('<')?;
        let end = begin + self.text[begin..].find('>')?;
        let inner = &self.text[begin + 1..end];
        let (left, right) = inner.split_once('@')?;
        let atom = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&c);
        let literal = right.strip_prefix('[').and_then(|r| r.strip_suffix(']')).unwrap_or(right);
        let good = !left.is_empty()
            && !literal.is_empty()
            && left.bytes().all(atom)
            && literal.bytes().all(|c| atom(c) || c == b':');
        good.then(|| &self.text[begin..=end])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines() {
        use ResponseCode as C;
        for (line, ok, code, text) in [
            ("+OK", true, None, ""),
            ("+OK ready", true, None, "ready"),
            ("+ok Ready", true, None, "Ready"),
            ("-ERR [AUTH] wrong", false, Some(C::Auth), "wrong"),
            ("-ERR [auth]wrong", false, Some(C::Auth), "wrong"),
            ("-ERR [SYS/TEMP] db down", false, Some(C::SysTemp), "db down"),
            ("-ERR [SYS/NEW] x", false, Some(C::SysTemp), "x"),
            ("-ERR [SYS/PERM] x", false, Some(C::SysPerm), "x"),
            ("-ERR [IN-USE] x", false, Some(C::InUse), "x"),
            ("-ERR [LOGIN-DELAY] x", false, Some(C::LoginDelay), "x"),
            ("-ERR [X-NEW] x", false, Some(C::Other("X-NEW".into())), "x"),
            ("-ERR [no end", false, None, "[no end"),
        ] {
            let expected = Line::Status(Status { ok, code, text: text.to_owned() });
            assert_eq!(parse_line(line.as_bytes()), expected, "{line}");
        }
        for line in ["", "+OKAY", "-ERROR", "HTTP/1.1 400", "220 smtp", "* OK imap", "OK"] {
            assert_eq!(parse_line(line.as_bytes()), Line::Garbage, "{line}");
        }
        assert_eq!(parse_line(b"+ PDE4OTY="), Line::Challenge(b"PDE4OTY="));
        assert_eq!(parse_line(b"+"), Line::Challenge(b""));
        assert_eq!(
            parse_line(b"+OK \xff"),
            Line::Status(Status { ok: true, code: None, text: "\u{fffd}".into() })
        );
    }

    #[test]
    fn timestamps() {
        let timestamp = |text: &str| {
            Status { ok: true, code: None, text: text.to_owned() }.timestamp().map(str::to_owned)
        };
        assert_eq!(
            timestamp("POP3 server ready <1896.697170952@dbc.mtview.ca.us>").as_deref(),
            Some("<1896.697170952@dbc.mtview.ca.us>")
        );
        for bad in ["ready", "<no-at>", "<a@>", "<@b>", "<a b@c>", "<a@b", "<a\u{80}@b>", "<a@b@c>"] {
            assert_eq!(timestamp(bad), None, "{bad}");
        }
    }
}
