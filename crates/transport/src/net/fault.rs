//! From faults of the network and of TLS to errors that say what happened and what to do.

use std::io;

use email_router_model::Scope;
use rustls::CertificateError;

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
    use rustls::Error as T;
    let (fault, message, hint) = match rustls_error(&cause) {
        Some(T::InvalidCertificate(why)) => certificate(place, host, why),
        Some(T::InvalidMessage(_)) => (
            TlsFault::Other,
            format!("{place} does not speak TLS on this port"),
            "use the port for TLS from the start, or choose STARTTLS/STLS for this one".to_owned(),
        ),
        Some(T::AlertReceived(alert)) => (
            TlsFault::Other,
            format!("{place} refused the TLS handshake: {alert:?}"),
            "the server must support TLS 1.2 or newer".to_owned(),
        ),
        Some(T::PeerIncompatible(why)) => (
            TlsFault::Other,
            format!("{place} has no TLS version or cipher in common with us: {why:?}"),
            "the server must support TLS 1.2 or newer".to_owned(),
        ),
        Some(other) => {
            (TlsFault::Other, format!("{place}: the TLS handshake failed: {other}"), String::new())
        }
        None if cause.kind() == io::ErrorKind::UnexpectedEof => (
            TlsFault::Other,
            format!("{place} closed the connection during the TLS handshake"),
            "check that this port speaks TLS from the start".to_owned(),
        ),
        None => (TlsFault::Other, format!("{place}: the TLS handshake failed: {cause}"), String::new()),
    };
    let error = Error::new(ErrorKind::Tls(fault), message).with_source(cause);
    if hint.is_empty() { error } else { error.with_hint(hint) }
}

fn certificate(place: &str, host: &str, why: &CertificateError) -> (TlsFault, String, String) {
    use CertificateError as C;
    let other = |text: String| {
        (TlsFault::Other, text, "look at the certificate the server is set up with".to_owned())
    };
    match why {
        C::Expired | C::ExpiredContext { .. } => (
            TlsFault::Expired,
            format!("the certificate of {place} has expired"),
            "renew the certificate on the server, or set this machine's clock".to_owned(),
        ),
        C::NotValidYet | C::NotValidYetContext { .. } => (
            TlsFault::Expired,
            format!("the certificate of {place} is not valid yet"),
            "set the clock of this machine, or the server's certificate".to_owned(),
        ),
        C::NotValidForName => wrong_name(place, host, &[]),
        C::NotValidForNameContext { presented, .. } => wrong_name(place, host, presented),
        // the latter two: an authority of the right name is trusted here, but it has another key
        C::UnknownIssuer | C::BadSignature | C::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => (
            TlsFault::UnknownIssuer,
            format!(
                "the certificate of {place} is self-signed or from an authority that is not trusted here"
            ),
            "add the authority's certificate to ExtraCaFiles".to_owned(),
        ),
        // what "openssl req -x509" makes: an authority's own certificate, put on a server. No list of authorities makes it good.
        C::Other(inner) if format!("{inner:?}").contains("CaUsedAsEndEntity") => (
            TlsFault::UnknownIssuer,
            format!("the certificate of {place} is an authority's own (self-signed), not a server's"),
            "give the server a certificate signed by that authority and add the authority's to ExtraCaFiles"
                .to_owned(),
        ),
        C::Revoked => other(format!("the certificate of {place} was revoked")),
        why => other(format!("the certificate of {place} is not acceptable: {why}")),
    }
}

fn wrong_name(place: &str, host: &str, presented: &[String]) -> (TlsFault, String, String) {
    // the names come from the server: keep them few, short and printable
    let clean = |name: &String| -> String {
        let inside = |before: &str, behind: &str| name.strip_prefix(before)?.strip_suffix(behind);
        let name = inside("DnsName(\"", "\")").or_else(|| inside("IpAddress(", ")")).unwrap_or(name);
        name.chars().map(|c| if c.is_control() { ' ' } else { c }).take(100).collect()
    };
    let names = presented.iter().take(5).map(clean).collect::<Vec<_>>().join(", ");
    let is_for = if names.is_empty() { String::new() } else { format!(" (it is for {names})") };
    (
        TlsFault::WrongName,
        format!("the certificate of {place} is for another name than {host:?}{is_for}"),
        "use the server name that the certificate is for, or have a certificate issued for this name"
            .to_owned(),
    )
}

fn rustls_error(cause: &io::Error) -> Option<&rustls::Error> {
    cause.get_ref()?.downcast_ref::<rustls::Error>()
}
