//! From the server's answers to errors: what happened, may it be tried again, how much has to stop, what a person can do.

use email_router_auth::{AuthError, PickError};
use email_router_model::{EmailAddress, Retry, Scope};

use super::proto::{Class, Malformed, Obstacle, OpeningFault, Reply};
use crate::net::{TlsMode, login_hint, no_mechanism_hint, send_as_hint, tls_not_offered};
use crate::{Error, ErrorKind, RecipientResult, RecipientStatus, TlsFault};

/// 4yz may be tried again, 5yz not (RFC 5321 4.2.1).
fn retry_of(reply: &Reply) -> Retry {
    if reply.class() == Class::Permanent { Retry::Never } else { Retry::Later(None) }
}

/// 421 in any place: nothing was taken, the server wants to be left alone for a while.
pub(super) fn closing(place: &str, reply: &Reply) -> Error {
    Error::new(ErrorKind::Throttled, format!("{place} closed the conversation"))
        .with_scope(Scope::Server)
        .with_reply(&reply.to_string())
}

/// The bytes are no SMTP.
pub(super) fn malformed(place: &str, why: &Malformed) -> Error {
    Error::new(ErrorKind::Protocol, format!("{place} sent {why}"))
        .with_hint("check that server name and port belong to an SMTP server")
}

/// An answer that does not fit the command.
pub(super) fn unexpected(place: &str, command: &str, reply: &Reply) -> Error {
    Error::new(ErrorKind::Protocol, format!("{place} gave an answer to {command} that does not fit"))
        .with_reply(&reply.to_string())
}

/// The connection cannot be opened.
pub(super) fn opening(place: &str, tls: TlsMode, fault: OpeningFault) -> Error {
    match fault {
        OpeningFault::Closing(reply) => closing(place, &reply),
        // 554 for a connection is about this client's address or the hour, not about a message: mail waits, as in other mail systems
        OpeningFault::GreetingRefused(reply) => {
            Error::new(ErrorKind::Refused, format!("{place} takes no mail from this machine"))
                .with_reply(&reply.to_string())
                .with_hint("ask the server's administrator whether this machine's address may send there")
        }
        OpeningFault::HelloRefused(reply) => {
            Error::new(ErrorKind::Protocol, format!("{place} refused EHLO and HELO"))
                .with_scope(Scope::Server)
                .with_reply(&reply.to_string())
                .with_hint("the server may want a host name it can resolve: set the EHLO name")
        }
        OpeningFault::TlsNotOffered => tls_not_offered(place, "STARTTLS"),
        OpeningFault::TlsRefused(reply) => Error::new(
            ErrorKind::Tls(TlsFault::NotOffered),
            format!("{place} offers STARTTLS but refused to start it"),
        )
        .with_reply(&reply.to_string())
        .with_hint("the server's certificate may be missing or damaged"),
        OpeningFault::NoMechanism(PickError::Auth(AuthError::Ticket(cause)))
        | OpeningFault::Exchange(AuthError::Ticket(cause)) => cause.into(),
        OpeningFault::NoMechanism(why) => Error::new(ErrorKind::Authentication, format!("{place}: {why}"))
            .with_hint(match (&why, tls) {
                (PickError::CleartextRefused { .. }, TlsMode::None) => {
                    "choose STARTTLS or implicit TLS, or allow the password in clear"
                }
                _ => no_mechanism_hint(&why).unwrap_or(
                    "use the server's submission port (587, or 465 with implicit TLS), or an authentication type that it offers",
                ),
            })
            .with_source(why),
        OpeningFault::Exchange(why) => {
            Error::new(ErrorKind::Authentication, format!("{place}: {why}")).with_source(why)
        }
        OpeningFault::LoginRefused(reply, told) => login_refused(place, &reply, told.as_deref()),
        OpeningFault::Unexpected(command, reply) => unexpected(place, command, &reply),
    }
}

/// RFC 4954 section 6.
fn login_refused(place: &str, reply: &Reply, told: Option<&str>) -> Error {
    let words = match told {
        Some(told) => format!("{reply}; {told}"),
        None => reply.to_string(),
    };
    let hint = match reply.code() {
        432 => "the account needs to change its password or mechanism",
        400..=499 => "the server cannot check passwords or tokens at the moment",
        _ if login_hint(&words).is_some() => login_hint(&words).unwrap_or_default(),
        534 => "the server wants a stronger way to log in",
        530 | 538 => "the server takes passwords only inside TLS: choose STARTTLS or implicit TLS",
        _ => "check user name and password",
    };
    let what = if reply.class() == Class::Transient { "could not check" } else { "refused" };
    Error::new(ErrorKind::Authentication, format!("{place} {what} the login"))
        .with_retry(retry_of(reply))
        .with_reply(&words)
        .with_hint(hint)
}

/// The server cannot be given this message.
pub(super) fn obstacle(place: &str, size: u64, obstacle: &Obstacle) -> Error {
    match obstacle {
        Obstacle::TooLarge { limit } => Error::new(
            ErrorKind::TooLarge,
            format!("the message has {size} octets; {place} takes at most {limit}"),
        )
        .with_hint("send smaller attachments, or have the server's limit raised"),
        Obstacle::AddressNeedsUtf8(address) => Error::new(
            ErrorKind::Unsupported,
            format!("{place} does not support internationalized addresses (SMTPUTF8), which {address} needs"),
        )
        .with_scope(Scope::Message),
        Obstacle::HeaderNeedsUtf8 => Error::new(
            ErrorKind::MessageRefused,
            format!("{place} does not support internationalized headers (SMTPUTF8), which this message has"),
        )
        .with_scope(Scope::Message)
        .with_hint("encode the header fields (RFC 2047)"),
        Obstacle::NeedsEightBit => Error::new(
            ErrorKind::MessageRefused,
            format!("{place} does not take 8-bit content (8BITMIME), which this message has"),
        )
        .with_scope(Scope::Message)
        .with_hint("encode the body as quoted-printable or base64, or allow 8-bit content to be sent anyway"),
    }
}

/// Replies that are about more than the command they answer; `None` when it is the command's own matter.
fn about_the_session(place: &str, command: &str, reply: &Reply) -> Option<Error> {
    let text = reply.to_string();
    let misunderstood = || {
        Error::new(ErrorKind::Protocol, format!("{place} does not accept {command}"))
            .with_retry(Retry::Never)
            .with_scope(Scope::Message)
    };
    let error = match reply.code() {
        530 if text.to_ascii_uppercase().contains("STARTTLS") => {
            Error::new(ErrorKind::Settings, format!("{place} demands TLS before mail is sent"))
                .with_hint("choose STARTTLS in the settings")
        }
        // RFC 4954 section 6: authentication required. Some servers say 503 (bad sequence: AUTH first).
        503 if command != "MAIL" || !text.to_ascii_uppercase().contains("AUTH") => misunderstood(),
        530 | 503 => {
            Error::new(ErrorKind::Authentication, format!("{place} demands a login before mail is sent"))
                .with_hint("set a user name and password, or have this machine's address allowed to relay")
        }
        // commands or parameters the server does not know: 500, 502, 503, 504, and 555 of RFC 5321 4.1.1.11
        500 | 502 | 504 | 555 => misunderstood(),
        // the server's disk is full: nobody's message is taken at the moment
        452 if reply.is_about(3, 1) => {
            Error::new(ErrorKind::Throttled, format!("{place} has no room for mail at the moment"))
                .with_scope(Scope::Server)
        }
        _ if reply.is_about(3, 4) => {
            Error::new(ErrorKind::TooLarge, format!("the message is too large for {place}"))
                .with_retry(retry_of(reply))
        }
        _ => return None,
    };
    Some(error.with_reply(&text))
}

/// MAIL was refused.
pub(super) fn sender_refused(place: &str, sender: Option<&EmailAddress>, reply: &Reply) -> Error {
    if let Some(error) = about_the_session(place, "MAIL", reply) {
        return error;
    }
    if reply.code() == 552 {
        // RFC 1870 6.1 (3): larger than the server's limit
        return Error::new(ErrorKind::TooLarge, format!("the message is too large for {place}"))
            .with_reply(&reply.to_string());
    }
    let name = sender.map_or("<>", EmailAddress::as_str);
    let error = Error::new(ErrorKind::SenderRefused, format!("{place} refused the sender {name}"))
        .with_retry(retry_of(reply))
        .with_reply(&reply.to_string());
    match reply.class() {
        Class::Permanent => error.with_hint(
            send_as_hint(&reply.to_string())
                .unwrap_or("the account that logs in must be allowed to send as this address"),
        ),
        _ => error,
    }
}

/// What the answer to RCPT says about a recipient; `others_accepted`: the server took others in the same transaction.
pub(super) fn fate(address: &EmailAddress, reply: &Reply, others_accepted: bool) -> RecipientResult {
    let status = if reply.is_mail_action_done() {
        RecipientStatus::Accepted
    } else if others_accepted && is_one_too_many(reply) {
        RecipientStatus::TooMany
    } else if is_for_good(reply) {
        RecipientStatus::Refused
    } else {
        RecipientStatus::RefusedForNow
    };
    RecipientResult { address: address.clone(), status, reply: words(reply) }
}

/// The server's words at a length that can be stored.
pub(super) fn words(reply: &Reply) -> String {
    reply.to_string().chars().take(500).collect()
}

/// Every recipient was refused; each with its answer.
pub(super) fn recipients_refused(place: &str, refused: &[(&EmailAddress, &Reply)]) -> Error {
    let all_for_good = refused.iter().all(|(_, reply)| is_for_good(reply));
    if let [(_, first), rest @ ..] = refused
        && rest.iter().all(|(_, reply)| reply.code() == first.code())
        && let Some(error) = about_the_session(place, "RCPT", first)
    {
        return error;
    }
    let words: Vec<String> = refused.iter().map(|(address, reply)| format!("{address}: {reply}")).collect();
    let who = match refused {
        [(address, _)] => format!("the recipient {address}"),
        several => format!("all {} recipients", several.len()),
    };
    Error::new(ErrorKind::RecipientsRefused, format!("{place} refused {who}"))
        .with_retry(if all_for_good { Retry::Never } else { Retry::Later(None) })
        .with_reply(&words.join("; "))
        .with_recipients(refused.iter().map(|(address, reply)| fate(address, reply, false)).collect())
}

/// Whether a refusal of one recipient is permanent. "Too many recipients" is not, whichever digit it begins with.
fn is_for_good(reply: &Reply) -> bool {
    reply.class() == Class::Permanent && !reply.is_about(5, 3)
}

/// Whether the answer to a recipient behind others that were taken means that the transaction is full: 452 (RFC 5321 4.5.3.1.10), the
/// plain 552 that the same section knows from old servers, and X.5.3 of RFC 3463. Where a plain 452 meant something else, the
/// next transaction says so.
fn is_one_too_many(reply: &Reply) -> bool {
    reply.is_about(5, 3) || (matches!(reply.code(), 452 | 552) && reply.enhanced().is_none())
}

/// The data was refused; nothing was taken.
pub(super) fn message_refused(place: &str, reply: &Reply) -> Error {
    if let Some(error) = about_the_session(place, "the data", reply) {
        return error;
    }
    if reply.code() == 552 && reply.enhanced().is_none_or(|e| e.subject == 3) {
        return Error::new(ErrorKind::TooLarge, format!("the message is too large for {place}"))
            .with_reply(&reply.to_string());
    }
    // Exchange judges the sender when it has read From
    if let Some(hint) = send_as_hint(&reply.to_string()).filter(|_| reply.class() == Class::Permanent) {
        return Error::new(ErrorKind::SenderRefused, format!("{place} refused the sender"))
            .with_reply(&reply.to_string())
            .with_hint(hint);
    }
    Error::new(ErrorKind::MessageRefused, format!("{place} refused the message"))
        .with_retry(retry_of(reply))
        .with_reply(&reply.to_string())
}

/// The message was handed over completely and no answer came that tells its fate.
pub(super) fn in_doubt(error: Error) -> Error {
    error
        .with_retry(Retry::InDoubt)
        .with_hint("the server may have taken the message; look for its Message-ID before it is sent again")
}
