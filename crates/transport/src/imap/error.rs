//! From what a server says to errors: kind, retry, scope.
//!
//! Response codes (RFC 5530 and others) decide where there are any. Many servers have none; then well-known words of the text do, and
//! only towards "later": what is not recognized as temporary is a refusal of the credentials, since repeating a wrong password
//! locks accounts.

use email_router_model::{Retry, Scope};

use super::proto::{Code, Condition, Status, Violation};
use crate::net::login_hint;
use crate::{Error, ErrorKind, TlsFault};

/// When the server refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Instead of a greeting; whoever opens the session makes it a matter of the whole server.
    Greeting,
    /// While logging in.
    Login,
    /// Opening or listing a folder.
    Mailbox,
    /// Reading one message.
    Message,
    /// Marking, moving or removing messages.
    Dispose,
}

/// What kind of refusal the words tell of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Locked,
    Later,
    Denied,
    Missing,
    WrongPassword,
    Unclear,
}

/// The error for a negative answer to `command`.
pub(super) fn refused(place: &str, stage: Stage, command: &str, condition: &Condition) -> Error {
    use ErrorKind as K;
    let said = |kind: ErrorKind, text: String| Error::new(kind, text).with_reply(&condition.words());
    let scoped = |error: Error| match stage {
        Stage::Message | Stage::Dispose => error.with_scope(Scope::Message),
        _ => error,
    };
    let temporary = || scoped(said(K::Throttled, format!("{place} cannot answer {command} now")));
    let denied = || {
        let error = said(K::AccessDenied, format!("{place} does not let us into this mailbox"));
        let error = error.with_hint(login_hint(&condition.words()).unwrap_or(
            "ask the server's administrator: the account may be disabled, not enabled for IMAP, or lack the right to this mailbox or folder",
        ));
        match stage {
            Stage::Greeting => error.with_retry(Retry::Later(None)),
            _ => scoped(error),
        }
    };
    let wrong_password = || {
        said(K::Authentication, format!("{place} refused the login"))
            .with_hint(login_hint(&condition.words()).unwrap_or("check user name and password; some servers want an application password or IMAP enabled for the account"))
    };
    let locked = || {
        scoped(said(K::MailboxLocked, format!("{place}: another session has the mailbox open")))
            .with_hint("another program reads this mailbox, or an earlier session has not ended yet")
    };
    let missing = || {
        said(K::Settings, format!("{place} has no such folder ({command})"))
            .with_hint("check the name of the folder; levels are separated by \"/\"")
    };
    let login = stage == Stage::Login;
    match &condition.code {
        Some(Code::AuthenticationFailed) if login => return wrong_password(),
        Some(Code::Expired) if login => {
            return said(
                K::Authentication,
                format!("{place} refused the login: the password or token has expired"),
            )
            .with_hint("set a new password, or look why the token was not renewed");
        }
        Some(Code::AuthorizationFailed | Code::ContactAdmin | Code::NoPerm) => return denied(),
        Some(Code::PrivacyRequired) => {
            return said(K::Tls(TlsFault::NotOffered), format!("{place} wants TLS before {command}"))
                .with_hint("use port 993 or STARTTLS");
        }
        Some(Code::InUse) => return locked(),
        Some(Code::OverQuota) => {
            return scoped(said(K::Throttled, format!("{place}: there is no room for {command}")))
                .with_hint("the mailbox is full: delete mail or raise its quota");
        }
        Some(Code::Unavailable | Code::ServerBug | Code::Limit) => return temporary(),
        Some(Code::Nonexistent | Code::ExpungeIssued) if stage == Stage::Message => {
            return said(
                K::MessageGone,
                format!("{place}: the message is no longer in the folder ({command})"),
            );
        }
        Some(Code::Nonexistent | Code::TryCreate) if stage == Stage::Mailbox => return missing(),
        _ => {}
    }
    match (stage, meaning(stage, &condition.text)) {
        (Stage::Login | Stage::Mailbox, Meaning::Locked) => locked(),
        (Stage::Greeting, Meaning::Denied) | (Stage::Login | Stage::Mailbox, Meaning::Denied) => denied(),
        (Stage::Greeting, _) | (_, Meaning::Later) => temporary(),
        // not understood is no statement about the password
        (Stage::Login, _) if condition.status == Status::Bad => {
            said(K::Protocol, format!("{place} did not understand {command}"))
        }
        (Stage::Login, _) => wrong_password(),
        (Stage::Mailbox, Meaning::Missing) => missing(),
        (Stage::Mailbox, _) => said(K::Protocol, format!("{place} refused {command}")),
        (Stage::Message | Stage::Dispose, _) => {
            scoped(said(K::Protocol, format!("{place} refused {command}")))
        }
    }
}

/// The error for a server that ended the session by itself.
pub(super) fn said_bye(place: &str, condition: &Condition) -> Error {
    let kind = match condition.code {
        Some(Code::Unavailable | Code::Limit | Code::ServerBug) => ErrorKind::Throttled,
        _ => ErrorKind::ConnectionLost,
    };
    Error::new(kind, format!("{place} ended the session")).with_reply(&condition.words())
}

/// Whether a refusal says that the message is not there, which is as good as removed.
pub(super) fn is_gone(condition: &Condition) -> bool {
    matches!(condition.code, Some(Code::Nonexistent | Code::ExpungeIssued))
}

/// The error for a server that breaks the protocol.
pub(super) fn violated(place: &str, violation: &Violation) -> Error {
    Error::new(ErrorKind::Protocol, format!("{place} {violation}"))
        .with_hint("check that this is an IMAP server, and that the port and the TLS mode are right")
}

fn meaning(stage: Stage, text: &str) -> Meaning {
    let text = text.to_ascii_lowercase();
    let any = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if any(&["temporar", "unavailable", "timed out", "timeout", "internal error", "server busy"]) {
        // nobody says that of a password
        Meaning::Later
    } else if any(&[
        // Exchange, for a mailbox that is not there or not ours
        "authenticated but not connected",
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
        "permission denied",
    ]) {
        Meaning::Denied
    } else if stage == Stage::Login
        && any(&["password", "invalid", "incorrect", "authenticat", "credential", "login failed"])
    {
        // "invalid password, please try again" is no "later"
        Meaning::WrongPassword
    } else if any(&["in use", "already open", "locked by"]) {
        Meaning::Locked
    } else if any(&["try again", "try later", "later", "too many", "exceeded"]) {
        Meaning::Later
    } else if any(&[
        "doesn't exist",
        "does not exist",
        "nonexistent",
        "not found",
        "no such",
        "unknown mailbox",
    ]) {
        Meaning::Missing
    } else {
        Meaning::Unclear
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use email_router_model::Classified as _;

    /// Every response code and the wording of servers that have none.
    #[test]
    fn refusals() {
        use ErrorKind as K;
        use Scope::{Mailbox, Message, Server};
        let later = Retry::Later(None);
        for (stage, line, kind, retry, scope) in [
            (Stage::Login, "NO [AUTHENTICATIONFAILED] wrong", K::Authentication, Retry::Never, Mailbox),
            (Stage::Login, "NO [AUTHORIZATIONFAILED] not bob", K::AccessDenied, Retry::Never, Mailbox),
            (Stage::Login, "NO [EXPIRED] old", K::Authentication, Retry::Never, Mailbox),
            (Stage::Login, "NO [CONTACTADMIN] x", K::AccessDenied, Retry::Never, Mailbox),
            (
                Stage::Login,
                "NO [UNAVAILABLE] Temporary authentication failure.",
                K::Throttled,
                later,
                Mailbox,
            ),
            (Stage::Login, "NO [LIMIT] too many connections", K::Throttled, later, Mailbox),
            (Stage::Login, "NO [INUSE] x", K::MailboxLocked, later, Mailbox),
            (Stage::Login, "NO [PRIVACYREQUIRED] x", K::Tls(TlsFault::NotOffered), later, Server),
            (Stage::Login, "NO LOGIN failed.", K::Authentication, Retry::Never, Mailbox),
            (Stage::Login, "NO AUTHENTICATE failed.", K::Authentication, Retry::Never, Mailbox),
            (Stage::Login, "NO Invalid credentials, try again", K::Authentication, Retry::Never, Mailbox),
            (Stage::Login, "NO account disabled", K::AccessDenied, Retry::Never, Mailbox),
            (Stage::Login, "NO too many logins", K::Throttled, later, Mailbox),
            (Stage::Login, "BAD huh?", K::Protocol, later, Mailbox),
            (Stage::Greeting, "BYE overloaded", K::Throttled, later, Mailbox),
            (Stage::Greeting, "BYE your address is blocked", K::AccessDenied, later, Mailbox),
            (Stage::Mailbox, "NO [NONEXISTENT] Unknown Mailbox", K::Settings, Retry::Never, Mailbox),
            (Stage::Mailbox, "NO Mailbox doesn't exist: x", K::Settings, Retry::Never, Mailbox),
            (Stage::Mailbox, "NO [NOPERM] x", K::AccessDenied, Retry::Never, Mailbox),
            (Stage::Mailbox, "NO [INUSE] x", K::MailboxLocked, later, Mailbox),
            (
                Stage::Mailbox,
                "BAD User is authenticated but not connected.",
                K::AccessDenied,
                Retry::Never,
                Mailbox,
            ),
            (Stage::Mailbox, "NO [SERVERBUG] x", K::Throttled, later, Mailbox),
            (Stage::Mailbox, "BAD huh?", K::Protocol, later, Mailbox),
            (Stage::Message, "NO [NONEXISTENT] x", K::MessageGone, Retry::Never, Message),
            (Stage::Message, "NO [EXPUNGEISSUED] x", K::MessageGone, Retry::Never, Message),
            (Stage::Message, "NO [SERVERBUG] x", K::Throttled, later, Message),
            (Stage::Message, "NO [NOPERM] x", K::AccessDenied, Retry::Never, Message),
            (Stage::Message, "NO Message is damaged", K::Protocol, later, Message),
            (Stage::Dispose, "NO [OVERQUOTA] full", K::Throttled, later, Message),
            (Stage::Dispose, "NO [NOPERM] x", K::AccessDenied, Retry::Never, Message),
            (Stage::Dispose, "BAD x", K::Protocol, later, Message),
        ] {
            let condition = Condition::parse(line.as_bytes()).unwrap();
            let error = refused("imap h:143", stage, "X", &condition);
            assert_eq!(
                (error.kind(), error.retry(), error.scope()),
                (kind, retry, scope),
                "{stage:?} {line}"
            );
            assert_eq!(error.reply(), Some(condition.words().trim()));
        }
    }
}
