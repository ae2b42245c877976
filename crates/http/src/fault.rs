//! From faults of the network, of proxies and of HTTP to errors that say what happened and what to do.

use std::error::Error as _;
use std::io;

use email_router_model::{Scope, TlsFault};

use crate::{Error, ErrorKind, StatusCode};

const CHECK: &str = "check server name, port, proxy and firewall";

/// No answer in time.
pub(crate) fn late(place: &str) -> Error {
    Error::new(ErrorKind::Timeout, format!("{place} does not answer in time"))
        .with_hint("check that the server is not overloaded, or raise the time-out")
}

/// Connecting took too long.
pub(crate) fn slow(place: &str, doing: &str) -> Error {
    Error::new(ErrorKind::Timeout, format!("{place}: {doing} took too long"))
        .with_scope(Scope::Server)
        .with_hint(CHECK)
}

/// The host name has no address.
pub(crate) fn unresolved(place: &str, host: &str, cause: Option<io::Error>) -> Error {
    let error =
        Error::new(ErrorKind::NameResolution, format!("{place}: the host name {host:?} cannot be resolved"))
            .with_hint("check the spelling of the server name and this machine's name service");
    match cause {
        Some(cause) => error.with_source(cause),
        None => error,
    }
}

/// No connection could be made.
pub(crate) fn connect(place: &str, cause: io::Error) -> Error {
    let error = match cause.kind() {
        io::ErrorKind::ConnectionRefused => {
            Error::new(ErrorKind::Refused, format!("{place} refused the connection: nobody listens there"))
        }
        io::ErrorKind::TimedOut => return slow(place, "connecting").with_source(cause),
        _ => Error::new(ErrorKind::Refused, format!("{place} cannot be reached: {cause}")),
    };
    error.with_hint(CHECK).with_source(cause)
}

/// The TLS handshake failed.
pub(crate) fn handshake(place: &str, host: &str, cause: io::Error) -> Error {
    let fault = email_router_tls::handshake_fault(place, host, &cause);
    let error = Error::new(ErrorKind::Tls(fault.kind), fault.message).with_source(cause);
    match fault.hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

/// No connection to the proxy itself: the same fault, told apart.
pub(crate) fn proxy_unreachable(proxy: &str, cause: &Error) -> Error {
    Error::new(ErrorKind::Proxy, format!("no way to the proxy: {cause}"))
        .with_hint(format!("check the setting for the proxy {proxy}, or set none"))
}

/// The proxy answered with an error.
pub(crate) fn proxy_refused(proxy: &str, place: &str, status: StatusCode, authorized: bool) -> Error {
    let (message, hint) = match status.as_u16() {
        407 if authorized => (
            format!("the proxy {proxy} refuses the name and password it was given (status 407)"),
            "correct name and password in the URL of the proxy",
        ),
        407 => (
            format!("the proxy {proxy} wants a name and password (status 407)"),
            "put them into the URL of the proxy: http://name:password@host:port; only Basic is known to it",
        ),
        403 | 405 => (
            format!("the proxy {proxy} does not allow a connection to {place} (status {})", status.as_u16()),
            "allow this host and port on the proxy, or reach the server without it",
        ),
        502..=504 => (
            format!("the proxy {proxy} cannot reach {place} (status {})", status.as_u16()),
            "check the server name, and whether the proxy can resolve and reach it",
        ),
        other => (
            format!("the proxy {proxy} opens no connection to {place} (status {other})"),
            "see the proxy's log",
        ),
    };
    Error::new(ErrorKind::Proxy, message).with_hint(hint)
}

/// What hyper says. Whether anything was sent is for the caller to add.
pub(crate) fn hyper(place: &str, cause: hyper::Error) -> Error {
    let mut damaged = cause.is_parse();
    let mut inner = cause.source();
    while let Some(error) = inner {
        let io = error.downcast_ref::<io::Error>();
        // how hyper says that a chunk of a body has no size
        damaged |= io
            .is_some_and(|io| matches!(io.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData));
        if let Some(tls) = io.and_then(email_router_tls::rustls_error) {
            let message = format!("{place}: TLS failed while the connection was in use: {tls}");
            return Error::new(ErrorKind::Tls(TlsFault::Other), message).with_source(cause);
        }
        inner = error.source();
    }
    // hyper tells this one apart for servers only; its words are the same for clients
    let error = if cause.is_parse() && cause.to_string().contains("too large") {
        Error::new(ErrorKind::TooLarge, format!("{place} answers with a head that is too large"))
    } else if damaged {
        Error::new(ErrorKind::Protocol, format!("{place} does not speak HTTP, or what came is damaged"))
            .with_hint("check that the port is that of the web server")
    } else if cause.is_user() {
        Error::new(ErrorKind::Settings, format!("{place}: the request cannot be sent"))
    } else {
        Error::new(ErrorKind::ConnectionLost, format!("{place}: the connection was lost"))
    };
    error.with_source(cause)
}
