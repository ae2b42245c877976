//! A throw-away certificate authority.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// What a server certificate is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServerCert {
    /// For `localhost`, `127.0.0.1` and `mail.example.com`, signed by the authority, in time.
    Good,
    /// As [`ServerCert::Good`], but for `other.example.net`.
    WrongName,
    /// As [`ServerCert::Good`], but its time was over on 2 January 2020.
    Expired,
    /// As [`ServerCert::Good`], but it begins on 1 January 2999.
    NotYetValid,
    /// Signed by itself.
    SelfSigned,
    /// Signed by itself and marked as an authority, as `openssl req -x509` makes it.
    SelfSignedCa,
}

/// An authority with a fresh key.
pub struct TestCa {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Default for TestCa {
    fn default() -> Self {
        Self::new()
    }
}

impl TestCa {
    /// A new authority.
    ///
    /// # Panics
    /// When no key can be made; that fails the test.
    #[must_use]
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, "email-router test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).expect("a self-signed authority");
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// The authority's certificate, for the file of trusted authorities.
    #[must_use]
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// A TLS server with a certificate of this kind, and that certificate in PEM.
    ///
    /// # Panics
    /// When the certificate cannot be made; that fails the test.
    #[must_use]
    pub fn server(&self, kind: ServerCert) -> (TlsAcceptor, String) {
        let names: &[&str] = match kind {
            ServerCert::WrongName => &["other.example.net"],
            _ => &["localhost", "127.0.0.1", "mail.example.com"],
        };
        let mut params =
            CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).expect("names");
        // a name that no authority of this machine has by chance
        params.distinguished_name.push(DnType::CommonName, "email-router test server");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        match kind {
            ServerCert::Expired => {
                params.not_before = date_time_ymd(2019, 1, 1);
                params.not_after = date_time_ymd(2020, 1, 2);
            }
            ServerCert::NotYetValid => params.not_before = date_time_ymd(2999, 1, 1),
            ServerCert::SelfSignedCa => params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            ServerCert::Good | ServerCert::WrongName | ServerCert::SelfSigned => {}
        }
        let key = KeyPair::generate().expect("a key");
        let certificate = match kind {
            ServerCert::SelfSigned | ServerCert::SelfSignedCa => params.self_signed(&key),
            _ => params.signed_by(&key, &self.issuer),
        }
        .expect("a certificate");
        let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a PKCS #8 key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a server configuration");
        (TlsAcceptor::from(Arc::new(config)), certificate.pem())
    }

    /// [`TestCa::server`] without the certificate.
    #[must_use]
    pub fn acceptor(&self, kind: ServerCert) -> TlsAcceptor {
        self.server(kind).0
    }
}

impl std::fmt::Debug for TestCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TestCa")
    }
}
