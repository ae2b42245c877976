//! TLS with the platform's trust and the administrator's own authorities.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;

use super::{Endpoint, Stream, TlsMode, fault};
use crate::{Error, ErrorKind, Result};

/// Establishes TLS; built once for each transport, shared by its sessions (and their TLS session tickets with it).
///
/// TLS 1.2 and 1.3 on ring. Certificates are checked by the platform verifier, to which the extra authorities are added; nothing can
/// turn that off.
#[derive(Clone)]
pub struct TlsConnector(Option<tokio_rustls::TlsConnector>);

impl TlsConnector {
    /// The connector for this endpoint. One that never uses TLS needs no authorities, so that none are looked for: a machine may have
    /// none.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn of(endpoint: &Endpoint) -> Result<Self> {
        match endpoint.tls {
            TlsMode::None => Ok(Self(None)),
            _ => Self::new(&endpoint.extra_ca_files),
        }
    }

    /// A connector that trusts the platform's authorities and those in these PEM files.
    ///
    /// # Errors
    /// [`ErrorKind::Settings`] when a file cannot be read or holds no certificate; the message names the file.
    pub fn new(extra_ca_files: &[PathBuf]) -> Result<Self> {
        let config = email_router_tls::client_config(extra_ca_files).map_err(|error| {
            let settings = Error::new(ErrorKind::Settings, error.message);
            match error.hint {
                Some(hint) => settings.with_hint(hint),
                None => settings,
            }
        })?;
        Ok(Self(Some(tokio_rustls::TlsConnector::from(Arc::new(config)))))
    }

    /// Does the handshake; the certificate must be for `host`.
    ///
    /// # Errors
    /// [`ErrorKind::Tls`] with the fault; `place` names the server in the message.
    pub async fn handshake(&self, tcp: TcpStream, host: &str, place: &str) -> Result<Stream> {
        let name = ServerName::try_from(host.to_owned()).map_err(|cause| {
            Error::new(ErrorKind::Settings, format!("{place}: {host:?} is not a valid host name"))
                .with_source(cause)
        })?;
        let Some(connector) = &self.0 else {
            return Err(Error::new(
                ErrorKind::Settings,
                format!("{place}: TLS is switched off in the settings"),
            ));
        };
        match connector.connect(name, tcp).await {
            Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
            Err(cause) => Err(fault::tls(place, host, cause)),
        }
    }
}

impl std::fmt::Debug for TlsConnector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsConnector")
    }
}
