//! Status answers and response codes (RFC 9051 section 7.1, RFC 5530).

/// How a status answer ends or begins something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Ok,
    /// Refused.
    No,
    /// Not understood.
    Bad,
    /// A greeting by a server that has logged the client in already.
    PreAuth,
    /// The server ends the session.
    Bye,
}

/// A status answer: status, response code and words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Done or refused.
    pub status: Status,
    /// The response code (RFC 9051 section 7.1, RFC 5530).
    pub code: Option<Code>,
    /// The server's words, without control characters.
    pub text: String,
}

/// A response code.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Code {
    /// `ALREADYEXISTS`: there is such a folder.
    AlreadyExists,
    /// `AUTHENTICATIONFAILED`: name or password are wrong.
    AuthenticationFailed,
    /// `AUTHORIZATIONFAILED`: logged in, but not as this user.
    AuthorizationFailed,
    /// `CAPABILITY`: what the server can do.
    Capability(Vec<String>),
    /// `CONTACTADMIN`: only an administrator can help.
    ContactAdmin,
    /// `EXPIRED`: the password or token is too old.
    Expired,
    /// `EXPUNGEISSUED`: some of the messages are gone.
    ExpungeIssued,
    /// `HIGHESTMODSEQ` (RFC 7162).
    HighestModSeq(u64),
    /// `INUSE`: somebody else has the mailbox open.
    InUse,
    /// `LIMIT`: too many or too much.
    Limit,
    /// `NONEXISTENT`: there is no such folder.
    Nonexistent,
    /// `NOPERM`: not allowed.
    NoPerm,
    /// `OVERQUOTA`: no room.
    OverQuota,
    /// `PRIVACYREQUIRED`: only with TLS.
    PrivacyRequired,
    /// `READ-ONLY`: the folder cannot be changed.
    ReadOnly,
    /// `SERVERBUG`: the server failed.
    ServerBug,
    /// `TRYCREATE`: the folder is missing.
    TryCreate,
    /// `UIDNEXT`: the UID the next message gets.
    UidNext(u32),
    /// `UIDNOTSTICKY`: UIDs change from session to session (RFC 4315).
    UidNotSticky,
    /// `UIDVALIDITY`: for which life of the folder its UIDs count.
    UidValidity(u32),
    /// `UNAVAILABLE`: something behind the server is down.
    Unavailable,
    /// Any other.
    Other(String),
}

impl Condition {
    /// Reads `OK [CODE] words`; `None` when it does not begin with a status.
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<Self> {
        let (word, rest) = split_word(line);
        let status = [
            ("OK", Status::Ok),
            ("NO", Status::No),
            ("BAD", Status::Bad),
            ("PREAUTH", Status::PreAuth),
            ("BYE", Status::Bye),
        ];
        let found = status.iter().find(|(name, _)| word.eq_ignore_ascii_case(name.as_bytes()))?;
        let mut rest: String =
            text(rest.trim_ascii()).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let code = rest.strip_prefix('[').and_then(|inner| inner.split_once(']')).map(|(code, words)| {
            let words = words.trim().to_owned();
            (Code::parse(code), words)
        });
        let code = code.map(|(code, words)| {
            rest = words;
            code
        });
        let rest = rest.trim().to_owned();
        Some(Self { status: found.1, code, text: rest })
    }

    /// The server's own words: code and text.
    #[must_use]
    pub fn words(&self) -> String {
        match self.code.as_ref().map(Code::name).filter(|name| !name.is_empty()) {
            Some(name) => format!("[{name}] {}", self.text),
            None => self.text.clone(),
        }
    }

    /// Whether it says done.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.status == Status::Ok
    }

    /// The same with the server's words changed by `change`; a response code that says something stays.
    #[must_use]
    pub(in crate::imap) fn map_words(&self, change: impl Fn(&str) -> String) -> Self {
        let code = match &self.code {
            Some(Code::Other(code)) => Some(Code::Other(change(code))),
            known => known.clone(),
        };
        Self { status: self.status, code, text: change(&self.text) }
    }
}

impl Code {
    fn parse(text: &str) -> Self {
        let (name, rest) = text.split_once(' ').unwrap_or((text, ""));
        let number = || rest.trim().parse::<u32>().ok();
        match (name.to_ascii_uppercase().as_str(), number()) {
            ("ALREADYEXISTS", _) => Self::AlreadyExists,
            ("AUTHENTICATIONFAILED", _) => Self::AuthenticationFailed,
            ("AUTHORIZATIONFAILED", _) => Self::AuthorizationFailed,
            ("CAPABILITY", _) => Self::Capability(words(rest.as_bytes())),
            ("CONTACTADMIN", _) => Self::ContactAdmin,
            ("EXPIRED", _) => Self::Expired,
            ("EXPUNGEISSUED", _) => Self::ExpungeIssued,
            ("INUSE", _) => Self::InUse,
            ("LIMIT", _) => Self::Limit,
            ("NONEXISTENT", _) => Self::Nonexistent,
            ("NOPERM", _) => Self::NoPerm,
            ("OVERQUOTA", _) => Self::OverQuota,
            ("PRIVACYREQUIRED", _) => Self::PrivacyRequired,
            ("READ-ONLY", _) => Self::ReadOnly,
            ("SERVERBUG", _) => Self::ServerBug,
            ("TRYCREATE", _) => Self::TryCreate,
            ("UIDNOTSTICKY", _) => Self::UidNotSticky,
            ("UNAVAILABLE", _) => Self::Unavailable,
            ("UIDNEXT", Some(uid)) => Self::UidNext(uid),
            ("UIDVALIDITY", Some(uid)) if uid > 0 => Self::UidValidity(uid),
            ("HIGHESTMODSEQ", _) if rest.trim().parse::<u64>().is_ok() => {
                Self::HighestModSeq(rest.trim().parse().unwrap_or_default())
            }
            _ => Self::Other(text.to_owned()),
        }
    }

    /// As it is written, without its arguments.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::AlreadyExists => "ALREADYEXISTS",
            Self::AuthenticationFailed => "AUTHENTICATIONFAILED",
            Self::AuthorizationFailed => "AUTHORIZATIONFAILED",
            // long, and no words of the server
            Self::Capability(_) => "",
            Self::ContactAdmin => "CONTACTADMIN",
            Self::Expired => "EXPIRED",
            Self::ExpungeIssued => "EXPUNGEISSUED",
            Self::HighestModSeq(_) => "HIGHESTMODSEQ",
            Self::InUse => "INUSE",
            Self::Limit => "LIMIT",
            Self::Nonexistent => "NONEXISTENT",
            Self::NoPerm => "NOPERM",
            Self::OverQuota => "OVERQUOTA",
            Self::PrivacyRequired => "PRIVACYREQUIRED",
            Self::ReadOnly => "READ-ONLY",
            Self::ServerBug => "SERVERBUG",
            Self::TryCreate => "TRYCREATE",
            Self::UidNext(_) => "UIDNEXT",
            Self::UidNotSticky => "UIDNOTSTICKY",
            Self::UidValidity(_) => "UIDVALIDITY",
            Self::Unavailable => "UNAVAILABLE",
            Self::Other(code) => code,
        }
    }
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(super) fn words(bytes: &[u8]) -> Vec<String> {
    let all = bytes.split(|b| *b == b' ' || *b == super::reader::PLACEHOLDER);
    all.filter(|word| !word.is_empty()).map(|word| text(word).to_ascii_uppercase()).collect()
}

pub(super) fn split_word(line: &[u8]) -> (&[u8], &[u8]) {
    match line.iter().position(|b| *b == b' ') {
        Some(at) => (&line[..at], line[at..].trim_ascii_start()),
        None => (line, b""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions() {
        use Code as C;
        for (line, status, code, words) in [
            ("OK", Status::Ok, None, ""),
            ("ok done", Status::Ok, None, "done"),
            ("NO [AUTHENTICATIONFAILED] wrong", Status::No, Some(C::AuthenticationFailed), "wrong"),
            ("NO [TRYCREATE]", Status::No, Some(C::TryCreate), ""),
            ("OK [UIDVALIDITY 7] UIDs valid", Status::Ok, Some(C::UidValidity(7)), "UIDs valid"),
            ("OK [UIDVALIDITY 0] x", Status::Ok, Some(C::Other("UIDVALIDITY 0".into())), "x"),
            ("OK [UIDNEXT x] y", Status::Ok, Some(C::Other("UIDNEXT x".into())), "y"),
            ("OK [HIGHESTMODSEQ 715194045007]", Status::Ok, Some(C::HighestModSeq(715_194_045_007)), ""),
            (
                "OK [CAPABILITY IMAP4rev1 Idle] in",
                Status::Ok,
                Some(C::Capability(vec!["IMAP4REV1".into(), "IDLE".into()])),
                "in",
            ),
            ("BYE [no end", Status::Bye, None, "[no end"),
            ("NO \u{1}a\tb", Status::No, None, "a b"),
        ] {
            let expected = Condition { status, code, text: words.to_owned() };
            assert_eq!(Condition::parse(line.as_bytes()), Some(expected), "{line}");
        }
        for line in ["", "OKAY", "FETCH", "220 smtp"] {
            assert_eq!(Condition::parse(line.as_bytes()), None, "{line}");
        }
    }
}
