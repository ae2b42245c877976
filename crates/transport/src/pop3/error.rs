//! From what a server says to errors: kind, retry, scope.
//!
//! Response codes (RFC 2449, 3206) decide where there are any. Many servers have none; then well-known words of the text do, and
//! only towards "later": what is not recognized as temporary is a refusal of the credentials, since repeating a wrong password
//! locks accounts.

use std::time::Duration;

use email_router_model::{Retry, Scope};

use super::proto::{ResponseCode, Status, Violation};
use crate::contract::LONGEST_RETRY_DELAY;
use crate::net::login_hint;
use crate::{Error, ErrorKind};

/// When the server refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Instead of a greeting; whoever opens the session makes it a matter of the whole server.
    Greeting,
    /// While logging in.
    Login,
    /// A listing or another command on the mailbox.
    Mailbox,
    /// TOP or RETR of one message.
    Message,
    /// QUIT, or DELE as seen at the end.
    Close,
}

/// What kind of refusal the words tell of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Locked,
    Later,
    Denied,
    WrongPassword,
    Gone,
    Unclear,
}

/// The error for a negative answer to `command`. `login_delay` is the pause the server wants between logins, in seconds.
pub(super) fn refused(
    place: &str,
    stage: Stage,
    command: &str,
    status: &Status,
    login_delay: Option<u64>,
) -> Error {
    use ErrorKind as K;
    let said = |kind: ErrorKind, text: String| Error::new(kind, text).with_reply(&status.words());
    let temporary = || {
        let error = said(K::Throttled, format!("{place} cannot answer {command} now"));
        match stage {
            Stage::Message => error.with_scope(Scope::Message),
            _ => error,
        }
    };
    let locked = || {
        said(K::MailboxLocked, format!("{place}: another session has the mailbox open"))
            .with_hint("another program reads this mailbox, or an earlier session has not ended yet")
    };
    let denied = || {
        let error = said(K::AccessDenied, format!("{place} does not let us into this mailbox"))
            .with_hint(login_hint(&status.words()).unwrap_or(
            "ask the server's administrator: the account may be disabled, not enabled for POP3, or damaged",
        ));
        match stage {
            Stage::Greeting => error.with_retry(Retry::Later(None)),
            Stage::Message => error.with_scope(Scope::Message),
            _ => error,
        }
    };
    let wrong_password = || {
        said(K::Authentication, format!("{place} refused the login"))
            .with_hint(login_hint(&status.words()).unwrap_or(
                "check user name and password; some servers want an application password or POP3 enabled for the account",
            ))
    };
    match &status.code {
        // what a code says of logins and sessions cannot be meant when one message is asked for in an open session: it is not
        // there now, and the others may be
        Some(ResponseCode::LoginDelay | ResponseCode::InUse | ResponseCode::Auth)
            if stage == Stage::Message =>
        {
            return temporary();
        }
        Some(ResponseCode::LoginDelay) => {
            let error = said(K::Throttled, format!("{place} wants a pause between logins"))
                .with_hint("poll this mailbox less often");
            return match login_delay {
                Some(seconds) => error.after(Duration::from_secs(seconds).min(LONGEST_RETRY_DELAY)),
                None => error,
            };
        }
        Some(ResponseCode::InUse) => return locked(),
        Some(ResponseCode::SysTemp) => return temporary(),
        Some(ResponseCode::SysPerm) => return denied(),
        Some(ResponseCode::Auth) => return wrong_password(),
        Some(ResponseCode::Other(_)) | None => {}
    }
    match (stage, meaning(stage, &status.text)) {
        (Stage::Message, Meaning::Later) => temporary(),
        // whatever the words, there is nothing to read under this number
        (Stage::Message, _) => {
            said(K::MessageGone, format!("{place}: the message is no longer in the mailbox ({command})"))
        }
        (Stage::Login | Stage::Mailbox, Meaning::Locked) => locked(),
        (Stage::Greeting, _) | (Stage::Login | Stage::Mailbox, Meaning::Later) => temporary(),
        (Stage::Login, Meaning::Denied) => denied(),
        (Stage::Login, _) => wrong_password(),
        (Stage::Mailbox, _) => said(K::Protocol, format!("{place} refused {command}")),
        (Stage::Close, _) => {
            said(K::Protocol, format!("{place} did not carry out all deletions ({command})"))
                .with_hint("the next session finds what is still there")
        }
    }
}

/// Whether a refusal of DELE says that the message is not there, which is as good as deleted.
pub(super) fn is_gone(status: &Status) -> bool {
    status.code.is_none() && meaning(Stage::Close, &status.text) == Meaning::Gone
}

/// The error for a server that breaks the protocol.
pub(super) fn violated(place: &str, violation: &Violation) -> Error {
    let hint = match violation {
        Violation::TooManyMessages(_) => "archive or delete mail: a mailbox of this size cannot be read",
        _ => "check that this is a POP3 server, and that the port and the TLS mode are right",
    };
    Error::new(ErrorKind::Protocol, format!("{place} {violation}")).with_hint(hint)
}

fn meaning(stage: Stage, text: &str) -> Meaning {
    let text = text.to_ascii_lowercase();
    let any = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if any(&[
        "no such message",
        "already deleted",
        "not found",
        "doesn't exist",
        "does not exist",
        "deleted message",
        "is deleted",
    ]) && stage != Stage::Login
    {
        Meaning::Gone
    } else if any(&["temporar", "unavailable", "timed out", "timeout", "internal error"]) {
        // nobody says that of a password
        Meaning::Later
    } else if any(&[
        "account is locked",
        "account locked",
        "locked out",
        "blocked",
        "disabled",
        "suspended",
        "not enabled",
        "not permitted",
        "not allowed",
        "access denied",
    ]) {
        Meaning::Denied
    } else if stage == Stage::Login
        && any(&[
            "password",
            "invalid",
            "incorrect",
            "authenticat",
            "credential",
            "unknown user",
            "user unknown",
            "login failed",
        ])
    {
        // "invalid password, please try again" is no "later"
        Meaning::WrongPassword
    } else if any(&[
        "lock",
        "in use",
        "in-use",
        "busy",
        "another session",
        "already open",
        "already logged in",
    ]) {
        Meaning::Locked
    } else if any(&["try again", "try later", "later", "too many", "exceeded"]) {
        Meaning::Later
    } else {
        Meaning::Unclear
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pop3::proto::reply::{Line, parse_line};
    use email_router_model::Classified as _;

    fn status(line: &str) -> Status {
        match parse_line(line.as_bytes()) {
            Line::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    /// Every response code and the wording of servers that have none.
    #[test]
    fn refusals() {
        use ErrorKind as K;
        use Scope::{Mailbox, Message};
        let now_and_then = Retry::Later(None);
        for (stage, line, kind, retry, scope) in [
            (
                Stage::Login,
                "-ERR [AUTH] invalid user name or password",
                K::Authentication,
                Retry::Never,
                Mailbox,
            ),
            (
                Stage::Login,
                "-ERR [IN-USE] Do you have another POP session running?",
                K::MailboxLocked,
                now_and_then,
                Mailbox,
            ),
            (
                Stage::Login,
                "-ERR [SYS/TEMP] Temporary authentication failure.",
                K::Throttled,
                now_and_then,
                Mailbox,
            ),
            (
                Stage::Login,
                "-ERR [SYS/PERM] Your account is not enabled for POP access.",
                K::AccessDenied,
                Retry::Never,
                Mailbox,
            ),
            (
                Stage::Login,
                "-ERR [LOGIN-DELAY] minimum time between mail checks violation",
                K::Throttled,
                Retry::Later(Some(Duration::from_secs(900))),
                Mailbox,
            ),
            (
                Stage::Login,
                "-ERR Logon failure: unknown user name or bad password.",
                K::Authentication,
                Retry::Never,
                Mailbox,
            ),
            (Stage::Login, "-ERR authorization failed", K::Authentication, Retry::Never, Mailbox),
            (Stage::Login, "-ERR maildrop already locked", K::MailboxLocked, now_and_then, Mailbox),
            (Stage::Login, "-ERR mailbox in use", K::MailboxLocked, now_and_then, Mailbox),
            (Stage::Login, "-ERR account locked out", K::AccessDenied, Retry::Never, Mailbox),
            (
                Stage::Login,
                "-ERR POP3 access is disabled for this account",
                K::AccessDenied,
                Retry::Never,
                Mailbox,
            ),
            (Stage::Login, "-ERR too many connections, try again later", K::Throttled, now_and_then, Mailbox),
            (Stage::Greeting, "-ERR server too busy", K::Throttled, now_and_then, Mailbox),
            (Stage::Greeting, "-ERR [SYS/TEMP] maintenance", K::Throttled, now_and_then, Mailbox),
            (Stage::Greeting, "-ERR [SYS/PERM] not for you", K::AccessDenied, now_and_then, Mailbox),
            (Stage::Message, "-ERR no such message", K::MessageGone, Retry::Never, Message),
            (Stage::Message, "-ERR Message 3 has vanished", K::MessageGone, Retry::Never, Message),
            (
                Stage::Login,
                "-ERR Invalid password, please try again",
                K::Authentication,
                Retry::Never,
                Mailbox,
            ),
            (Stage::Login, "-ERR login failed, try again later", K::Authentication, Retry::Never, Mailbox),
            (
                Stage::Login,
                "-ERR Authentication failed: user in use",
                K::Authentication,
                Retry::Never,
                Mailbox,
            ),
            (
                Stage::Login,
                "-ERR incorrect credentials (lock after 3)",
                K::Authentication,
                Retry::Never,
                Mailbox,
            ),
            (Stage::Login, "-ERR user does not exist", K::Authentication, Retry::Never, Mailbox),
            (Stage::Login, "-ERR account blocked", K::AccessDenied, Retry::Never, Mailbox),
            (Stage::Login, "-ERR password login is not permitted", K::AccessDenied, Retry::Never, Mailbox),
            (
                Stage::Login,
                "-ERR temporarily blocked after wrong passwords",
                K::Throttled,
                now_and_then,
                Mailbox,
            ),
            (Stage::Login, "-ERR Temporary authentication failure", K::Throttled, now_and_then, Mailbox),
            (Stage::Login, "-ERR authentication server timed out", K::Throttled, now_and_then, Mailbox),
            (Stage::Login, "-ERR quota of logins exceeded", K::Throttled, now_and_then, Mailbox),
            (Stage::Mailbox, "-ERR invalid index, mailbox busy", K::MailboxLocked, now_and_then, Mailbox),
            (Stage::Message, "-ERR [SYS/TEMP] disk", K::Throttled, now_and_then, Message),
            (Stage::Message, "-ERR [IN-USE] taken over", K::Throttled, now_and_then, Message),
            (Stage::Message, "-ERR [LOGIN-DELAY] slow down", K::Throttled, now_and_then, Message),
            (Stage::Message, "-ERR [AUTH] who are you", K::Throttled, now_and_then, Message),
            (Stage::Message, "-ERR [SYS/PERM] damaged", K::AccessDenied, Retry::Never, Message),
            (Stage::Mailbox, "-ERR huh?", K::Protocol, now_and_then, Mailbox),
            (Stage::Mailbox, "-ERR [IN-USE] x", K::MailboxLocked, now_and_then, Mailbox),
            (Stage::Close, "-ERR some deleted messages not removed", K::Protocol, now_and_then, Mailbox),
        ] {
            let status = status(line);
            let error = refused("pop3 h:110", stage, "X", &status, Some(900));
            assert_eq!(
                (error.kind(), error.retry(), error.scope()),
                (kind, retry, scope),
                "{stage:?} {line}"
            );
            assert_eq!(error.reply(), Some(status.words().as_str()));
        }
        for (line, hint) in [
            ("-ERR [AUTH] invalid user name or password", "check user name and password"),
            ("-ERR Logon failure: LogonDenied-BasicAuthBlocked", "choose OAuth 2.0"),
            ("-ERR [AUTH] Application-specific password required", "two-step verification"),
        ] {
            let error = refused("p", Stage::Login, "X", &status(line), None);
            assert!(error.hint().is_some_and(|found| found.contains(hint)), "{line}: {error:?}");
        }
        // a delay nobody can want, and one nobody told
        let delay = status("-ERR [LOGIN-DELAY] slow down");
        let error = refused("p", Stage::Login, "PASS", &delay, Some(u64::MAX));
        assert_eq!(error.retry(), Retry::Later(Some(LONGEST_RETRY_DELAY)));
        assert_eq!(refused("p", Stage::Login, "PASS", &delay, None).retry(), Retry::Later(None));
    }
}
