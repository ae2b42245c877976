//! The client's side of TLS.

use std::path::PathBuf;
use std::sync::Arc;

use email_router_model::read_file_capped;
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls_platform_verifier::Verifier;

/// The largest file of certificates that is read, in bytes.
const CA_FILE_CAP: u64 = 4 * 1024 * 1024;

/// TLS cannot be set up; the message names the file where one is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ConfigError {
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<&'static str>,
}

/// A configuration that trusts the platform's authorities and those in these PEM files.
///
/// TLS 1.2 and 1.3 on ring. Certificates are checked by the platform verifier, to which the extra authorities are added; nothing can turn that off.
///
/// # Errors
/// A file cannot be read (at most 4 MiB) or holds no certificate.
pub fn client_config(extra_ca_files: &[PathBuf]) -> Result<ClientConfig, ConfigError> {
    let mut roots = Vec::new();
    for path in extra_ca_files {
        let wrong = |why: String| ConfigError {
            message: format!("the CA file {}: {why}", path.display()),
            hint: Some("ExtraCaFiles takes PEM files with the certificates of authorities"),
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
    let failed = |e: rustls::Error| ConfigError { message: format!("TLS cannot be set up: {e}"), hint: None };
    let verifier = Verifier::new_with_extra_roots(roots, Arc::clone(&provider)).map_err(failed)?;
    Ok(ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(failed)?
        // "dangerous" is rustls' word for any verifier that comes from outside; this one checks everything
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}
