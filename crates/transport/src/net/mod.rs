//! TCP, TLS and capped reading with deadlines, shared by the network adapters.
//!
//! An adapter describes the server with an [`Endpoint`], builds one [`TlsConnector`] and opens a [`Wire`] for every session:
//!
//! | type | what it guards |
//! |---|---|
//! | [`TlsConnector`] | TLS 1.2 or newer, platform trust plus the administrator's authorities; there is no switch to turn the check off |
//! | [`Stream`] | `TCP_NODELAY`, so that a small command never waits for a delayed acknowledgement |
//! | [`Wire`] | every read and write has a deadline, every line a longest length, and STARTTLS refuses bytes sent before it |
//! | [`fault`] | what went wrong, by kind, with a hint what to do |

pub mod fault;
#[cfg(feature = "kerberos")]
mod kerberos;
#[cfg(any(feature = "pop3", feature = "imap", feature = "smtp"))]
mod login;
mod stream;
mod tls;
mod wire;

use std::path::PathBuf;
use std::time::Duration;

pub use email_router_auth::{CredentialError, CredentialSource, Credentials, SharedCredentials};
#[cfg(any(feature = "pop3", feature = "imap", feature = "smtp", feature = "ews", feature = "graph"))]
pub(crate) use email_router_model::Redactor;
#[cfg(feature = "kerberos")]
pub use kerberos::{KerberosSettings, KerberosSource};
#[cfg(feature = "smtp")]
pub(crate) use login::send_as_hint;
#[cfg(any(feature = "pop3", feature = "imap", feature = "smtp"))]
pub(crate) use login::{LoginAttempt, login_hint, no_mechanism_hint};
pub use stream::Stream;
pub use tls::TlsConnector;
pub use wire::{READ_BUFFER, Wire};

use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};

use crate::{Error, ErrorKind, Result};

/// When and how TLS is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlsMode {
    /// From the first byte on (POP3S port 995, SMTPS port 465; RFC 8314).
    Implicit,
    /// After a STARTTLS or STLS command, which the server must offer.
    StartTls,
    /// After a STARTTLS or STLS command where the server offers it. Open to an attacker on the path, who can hide the offer.
    StartTlsIfOffered,
    /// Never.
    None,
}

/// Where a server is and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Host name or address; the certificate must be for this name.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// When TLS is used.
    pub tls: TlsMode,
    /// PEM files with certificates of authorities that are trusted beside those of the platform.
    pub extra_ca_files: Vec<PathBuf>,
    /// Longest time for resolving the name, connecting and the TLS handshake of [`TlsMode::Implicit`] together.
    pub connect_timeout: Duration,
    /// Longest time for one operation: a command and its whole reply. While a message is read it is the longest time for each
    /// [`Wire::PROGRESS`] bytes of it.
    pub operation_timeout: Duration,
}

impl Endpoint {
    /// This server, with 30 s to connect and 60 s for an operation.
    #[must_use]
    pub fn new(host: impl Into<String>, port: u16, tls: TlsMode) -> Self {
        Self {
            host: host.into(),
            port,
            tls,
            extra_ca_files: Vec::new(),
            connect_timeout: Duration::from_secs(30),
            operation_timeout: Duration::from_secs(60),
        }
    }

    /// `protocol host:port`, the name of the place in messages: `pop3 mail.example.com:995`.
    #[must_use]
    pub fn place(&self, protocol: &str) -> String {
        if self.host.contains(':') {
            format!("{protocol} [{}]:{}", self.host, self.port)
        } else {
            format!("{protocol} {}:{}", self.host, self.port)
        }
    }
}

/// Opens a connection, with TLS where the endpoint says [`TlsMode::Implicit`].
///
/// Every address of the name is tried in the resolver's order; each gets an equal share of the time that is left, so that one dead
/// address never uses up all of it.
///
/// # Errors
/// [`ErrorKind::NameResolution`], [`ErrorKind::Refused`], [`ErrorKind::Timeout`], [`ErrorKind::Tls`]; scope server.
pub async fn connect(endpoint: &Endpoint, tls: &TlsConnector, protocol: &str) -> Result<Wire> {
    let place = endpoint.place(protocol);
    let deadline = Instant::now() + endpoint.connect_timeout;
    let tcp = connect_tcp(endpoint, &place, deadline).await?;
    let mut wire = Wire::new(Stream::Plain(tcp), place, endpoint.operation_timeout);
    if endpoint.tls == TlsMode::Implicit {
        wire.arm_until(deadline);
        wire.start_tls(tls, &endpoint.host).await?;
    }
    wire.arm();
    Ok(wire)
}

async fn connect_tcp(endpoint: &Endpoint, place: &str, deadline: Instant) -> Result<TcpStream> {
    let resolved = timeout_at(deadline, lookup_host((endpoint.host.as_str(), endpoint.port))).await;
    let addresses: Vec<_> = match resolved {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(cause)) => return Err(fault::unresolved(place, &endpoint.host).with_source(cause)),
        Err(_) => {
            return Err(fault::timeout(place, "resolving the host name")
                .with_scope(email_router_model::Scope::Server));
        }
    };
    let mut last = None;
    for (tried, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // without it a small command waits for the acknowledgement of the one before (40 ms)
                stream.set_nodelay(true).map_err(|cause| fault::io(place, "connecting", cause))?;
                return Ok(stream);
            }
            Ok(Err(cause)) => last = Some(fault::connect(place, cause)),
            Err(_) => {
                last =
                    Some(fault::timeout(place, "connecting").with_scope(email_router_model::Scope::Server));
            }
        }
    }
    Err(last.unwrap_or_else(|| fault::unresolved(place, &endpoint.host)))
}

/// The error for a server that offers no TLS although the settings require it.
#[must_use]
pub fn tls_not_offered(place: &str, command: &str) -> Error {
    Error::new(
        ErrorKind::Tls(crate::TlsFault::NotOffered),
        format!("{place} does not offer {command}, which the settings require"),
    )
    .with_hint("use the port for TLS from the start, or have the server's certificate set up")
}
