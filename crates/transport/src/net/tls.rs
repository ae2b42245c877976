//! TLS with the platform's trust and the administrator's own authorities.

use std::path::PathBuf;
use std::sync::Arc;

use email_router_model::read_file_capped;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls_platform_verifier::Verifier;
use tokio::net::TcpStream;

use super::{Endpoint, Stream, TlsMode, fault};
use crate::{Error, ErrorKind, Result};

/// The largest file of certificates that is read, in bytes.
const CA_FILE_CAP: u64 = 4 * 1024 * 1024;

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
        let mut roots = Vec::new();
        for path in extra_ca_files {
            let wrong = |why: String| {
                Error::new(ErrorKind::Settings, format!("the CA file {}: {why}", path.display()))
                    .with_hint("ExtraCaFiles takes PEM files with the certificates of authorities")
            };
            let pem = read_file_capped(path, CA_FILE_CAP).map_err(|e| wrong(e.to_string()))?;
            let before = roots.len();
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                roots.push(certificate.map_err(|e| wrong(format!("is not valid PEM: {e}")))?);
            }
            if roots.len() == before {
                return Err(wrong("holds no certificate".to_owned()));
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let failed = |e: rustls::Error| Error::new(ErrorKind::Settings, format!("TLS cannot be set up: {e}"));
        let verifier = Verifier::new_with_extra_roots(roots, Arc::clone(&provider)).map_err(failed)?;
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(failed)?
            // "dangerous" is rustls' word for any verifier that comes from outside; this one checks everything
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
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
