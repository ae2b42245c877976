//! From faults of a handshake to what happened and what to do.

use std::io;

use email_router_model::TlsFault;
use rustls::CertificateError;

/// Why a TLS handshake failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandshakeFault {
    /// Which fault.
    pub kind: TlsFault,
    /// What happened.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

/// Why a TLS handshake failed, in words an administrator can act on. `place` names the server in the message; `host` is the name the
/// certificate had to be for.
#[must_use]
pub fn handshake_fault(place: &str, host: &str, cause: &io::Error) -> HandshakeFault {
    use rustls::Error as T;
    let (kind, message, hint) = match rustls_error(cause) {
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
    HandshakeFault { kind, message, hint: (!hint.is_empty()).then_some(hint) }
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

/// The error of rustls inside an error of I/O, where it is one.
#[must_use]
pub fn rustls_error(cause: &io::Error) -> Option<&rustls::Error> {
    cause.get_ref()?.downcast_ref::<rustls::Error>()
}
