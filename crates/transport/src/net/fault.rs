//! From faults of the network and of TLS to errors that say what happened and what to do.

use std::io;

use email_router_model::Scope;
use email_router_tls::rustls_error;

use crate::{Error, ErrorKind, TlsFault};

/// The host name has no address.
#[must_use]
pub fn unresolved(place: &str, host: &str) -> Error {
    Error::new(ErrorKind::NameResolution, format!("{place}: the host name {host:?} cannot be resolved"))
        .with_hint("check the spelling of the server name and this machine's name service")
}

/// No connection could be made.
#[must_use]
pub fn connect(place: &str, cause: io::Error) -> Error {
    let error = match cause.kind() {
        io::ErrorKind::ConnectionRefused => {
            Error::new(ErrorKind::Refused, format!("{place} refused the connection: nobody listens there"))
        }
        io::ErrorKind::TimedOut => timeout(place, "connecting").with_scope(Scope::Server),
        _ => Error::new(ErrorKind::Refused, format!("{place} cannot be reached: {cause}")),
    };
    error
        .with_hint("check server name, port and firewall, and that the mail server is running")
        .with_source(cause)
}

/// A deadline passed.
#[must_use]
pub fn timeout(place: &str, doing: &str) -> Error {
    Error::new(ErrorKind::Timeout, format!("{place}: {doing} took too long"))
        .with_hint("check that the port is right and the server is not overloaded, or raise the time-out")
}

/// The server closed the connection.
#[must_use]
pub fn closed(place: &str) -> Error {
    Error::new(ErrorKind::ConnectionLost, format!("{place} closed the connection"))
}

/// A line is longer than a protocol allows.
#[must_use]
pub fn line_too_long(place: &str, cap: usize) -> Error {
    Error::new(ErrorKind::Protocol, format!("{place} sent a line of more than {cap} octets"))
}

/// An open connection failed. Alerts and other faults of TLS that come in the middle are told apart from lost connections.
#[must_use]
pub fn io(place: &str, doing: &str, cause: io::Error) -> Error {
    if let Some(inner) = rustls_error(&cause) {
        let message = format!("{place}: TLS failed while {doing}: {inner}");
        return Error::new(ErrorKind::Tls(TlsFault::Other), message)
            .with_scope(Scope::Mailbox)
            .with_source(cause);
    }
    match cause.kind() {
        io::ErrorKind::TimedOut => timeout(place, doing).with_source(cause),
        _ => Error::new(
            ErrorKind::ConnectionLost,
            format!("{place}: the connection was lost while {doing}: {cause}"),
        )
        .with_source(cause),
    }
}

/// The handshake failed.
#[must_use]
pub fn tls(place: &str, host: &str, cause: io::Error) -> Error {
    let fault = email_router_tls::handshake_fault(place, host, &cause);
    let error = Error::new(ErrorKind::Tls(fault.kind), fault.message).with_source(cause);
    match fault.hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}
