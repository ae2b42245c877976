//! Proving an application with a certificate: a client assertion (RFC 7523) that its key signs.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD as BASE64, Engine as _};
use email_router_auth::CredentialError;
use email_router_model::{Clock, Entropy, Secret, Timestamp, read_file_capped};
use ring::digest::{SHA256, digest};
use ring::rsa::KeyPair as RsaKeyPair;
use ring::signature::{KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use zeroize::Zeroizing;

use super::settings::{Hinted as _, unusable};

/// The largest PEM file that is read, in bytes.
const PEM_CAP: u64 = 256 * 1024;

/// How long an assertion is good for: the token service reads it at once, and our clock may be a little off.
const ASSERTION_LIFETIME: Duration = Duration::from_secs(10 * 60);

/// How a client assertion is signed (RFC 7518 section 3.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum AssertionAlgorithm {
    /// RSASSA-PSS with SHA-256; what Entra ID asks for.
    #[default]
    Ps256,
    /// RSASSA-PKCS1-v1_5 with SHA-256; the older way, which Entra ID takes, too.
    Rs256,
}

impl AssertionAlgorithm {
    fn name(self) -> &'static str {
        match self {
            Self::Ps256 => "PS256",
            Self::Rs256 => "RS256",
        }
    }
}

/// A certificate that is registered with an application, and its RSA key. Cloning shares the key.
#[derive(Clone)]
pub struct ClientCertificate(Arc<Inner>);

struct Inner {
    algorithm: AssertionAlgorithm,
    key: RsaKeyPair,
    /// SHA-256 of the certificate in DER.
    thumbprint: Vec<u8>,
    expires: Option<Timestamp>,
}

impl ClientCertificate {
    /// From PEM texts: the certificate (further ones of a chain are passed over) and its RSA key of at least 2048 bits, not encrypted, as PKCS #8 or
    /// PKCS #1. Both may be in one file.
    ///
    /// # Errors
    /// What cannot be used; a key that is not that of the certificate. Nothing of the key is shown.
    pub fn from_pem(
        certificate: &[u8],
        key: &[u8],
        algorithm: AssertionAlgorithm,
    ) -> Result<Self, CredentialError> {
        let der = CertificateDer::from_pem_slice(certificate).map_err(|_| {
            unusable("the application's certificate is not in PEM")
                .hinted("give the file that begins with -----BEGIN CERTIFICATE-----")
        })?;
        let parsed = Certificate::from_der(&der)
            .map_err(|e| unusable(format!("the application's certificate cannot be read: {e}")))?;
        let key = rsa_key(key)?;
        let subject = parsed.tbs_certificate().subject_public_key_info();
        if subject.subject_public_key.raw_bytes() != key.public_key().as_ref() {
            return Err(unusable("the private key is not that of the application's certificate")
                .hinted("give the key that the certificate was made with"));
        }
        let until = parsed.tbs_certificate().validity().not_after.to_unix_duration();
        let expires = i64::try_from(until.as_secs()).ok().and_then(|s| Timestamp::from_second(s).ok());
        let thumbprint = digest(&SHA256, &der).as_ref().to_vec();
        Ok(Self(Arc::new(Inner { algorithm, key, thumbprint, expires })))
    }

    /// As [`Self::from_pem`], from files of at most 256 KiB each.
    ///
    /// # Errors
    /// As there, and a file that cannot be read.
    pub fn from_files(
        certificate: &Path,
        key: &Path,
        algorithm: AssertionAlgorithm,
    ) -> Result<Self, CredentialError> {
        let read = |path: &Path| {
            read_file_capped(path, PEM_CAP).map(Zeroizing::new).map_err(|e| unusable(e.to_string()))
        };
        Self::from_pem(&read(certificate)?, &read(key)?, algorithm)
    }

    /// Until when the certificate is good.
    #[must_use]
    pub fn expires(&self) -> Option<Timestamp> {
        self.0.expires
    }

    /// The certificate's SHA-256 thumbprint in hexadecimal, to find it in the application's list.
    #[must_use]
    pub fn thumbprint(&self) -> String {
        email_router_model::raw::hex(&self.0.thumbprint)
    }

    /// A fresh assertion of this application for this audience (the token endpoint).
    pub(super) fn assertion(
        &self,
        client_id: &str,
        audience: &str,
        clock: &dyn Clock,
        entropy: &dyn Entropy,
    ) -> Result<Secret, CredentialError> {
        let now = clock.now();
        let mut id = [0; 16];
        entropy.fill(&mut id);
        let header = serde_json::json!({
            "alg": self.0.algorithm.name(),
            "typ": "JWT",
            "x5t#S256": BASE64.encode(&self.0.thumbprint),
        });
        // a service whose clock is behind ours would refuse a token that is not yet good, so its beginning lies in the past
        let begin = now.as_second() - 60;
        let claims = serde_json::json!({
            "aud": audience,
            "iss": client_id,
            "sub": client_id,
            "jti": uuid::Builder::from_random_bytes(id).into_uuid().to_string(),
            "iat": begin,
            "nbf": begin,
            "exp": now.as_second() + ASSERTION_LIFETIME.as_secs().cast_signed(),
        });
        let signed = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
        let padding: &dyn RsaEncoding = match self.0.algorithm {
            AssertionAlgorithm::Ps256 => &RSA_PSS_SHA256,
            AssertionAlgorithm::Rs256 => &RSA_PKCS1_SHA256,
        };
        let mut signature = vec![0; self.0.key.public().modulus_len()];
        // ring takes its own generator only; the salt of PSS need not be repeatable in tests
        let random = ring::rand::SystemRandom::new();
        self.0
            .key
            .sign(padding, &random, signed.as_bytes(), &mut signature)
            .map_err(|_| unusable("the application's key cannot sign"))?;
        Ok(Secret::from(format!("{signed}.{}", BASE64.encode(signature))))
    }
}

fn rsa_key(pem: &[u8]) -> Result<RsaKeyPair, CredentialError> {
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| {
        unusable("the application's private key is not in PEM, or it is encrypted")
            .hinted("decrypt it with: openssl pkcs8 -in key.pem -out plain.pem; the file must be readable by its owner only")
    })?;
    let parsed = match &key {
        PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
        PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
        _ => return Err(unusable("the application's private key is no RSA key").hinted(RSA_ONLY)),
    };
    // the reasons of ring are fixed words, nothing of the key
    parsed
        .map_err(|e| unusable(format!("the application's private key cannot be used: {e}")).hinted(RSA_ONLY))
}

const RSA_ONLY: &str = "the token service takes RSA keys of 2048 to 4096 bits";

impl PartialEq for ClientCertificate {
    fn eq(&self, other: &Self) -> bool {
        self.0.thumbprint == other.0.thumbprint && self.0.algorithm == other.0.algorithm
    }
}
impl Eq for ClientCertificate {}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate")
            .field("thumbprint", &self.thumbprint())
            .field("algorithm", &self.0.algorithm)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use email_router_model::{ManualClock, SeededEntropy};
    use email_router_testkit::oauth::{TEST_CERTIFICATE, TEST_KEY, TEST_KEY_PKCS1};

    #[test]
    fn an_assertion_says_who_asks_whom_until_when() {
        let clock = ManualClock::new("2026-11-25T12:00:00Z".parse().unwrap());
        for (key, algorithm) in
            [(TEST_KEY, AssertionAlgorithm::Ps256), (TEST_KEY_PKCS1, AssertionAlgorithm::Rs256)]
        {
            let certificate =
                ClientCertificate::from_pem(TEST_CERTIFICATE.as_bytes(), key.as_bytes(), algorithm).unwrap();
            let assertion = certificate
                .assertion("app", "https://sts.test/t/oauth2/v2.0/token", &clock, &SeededEntropy::new(1))
                .unwrap();
            let parts: Vec<&str> = assertion.expose().split('.').collect();
            let json = |part: &str| -> serde_json::Value {
                serde_json::from_slice(&BASE64.decode(part).unwrap()).unwrap()
            };
            let (header, claims) = (json(parts[0]), json(parts[1]));
            assert_eq!(header["alg"], algorithm.name());
            let thumbprint = BASE64.decode(header["x5t#S256"].as_str().unwrap()).unwrap();
            assert_eq!(email_router_model::raw::hex(&thumbprint), certificate.thumbprint());
            assert_eq!((&claims["iss"], &claims["sub"]), (&"app".into(), &"app".into()));
            assert_eq!(claims["aud"], "https://sts.test/t/oauth2/v2.0/token");
            assert_eq!(claims["exp"].as_i64().unwrap() - claims["nbf"].as_i64().unwrap(), 660);
            assert_eq!(BASE64.decode(parts[2]).unwrap().len(), 256);
            assert!(certificate.expires().unwrap() > clock.now());
            assert!(!format!("{certificate:?}").contains("PRIVATE"));
        }
    }

    #[test]
    fn keys_that_cannot_be_used() {
        let other = rcgen_key();
        let load = |certificate: &str, key: &str| {
            ClientCertificate::from_pem(certificate.as_bytes(), key.as_bytes(), AssertionAlgorithm::Ps256)
        };
        for (certificate, key, word) in [
            ("nothing", TEST_KEY, "certificate"),
            (TEST_CERTIFICATE, "nothing", "not in PEM"),
            (
                TEST_CERTIFICATE,
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
                "encrypted",
            ),
            (TEST_CERTIFICATE, other.as_str(), "cannot be used"),
            (&other_certificate(), TEST_KEY, "not that of"),
        ] {
            let error = load(certificate, key).unwrap_err();
            assert!(error.message.contains(word), "{error}");
            assert!(error.hint.is_some());
        }
    }

    fn rcgen_key() -> String {
        rcgen::KeyPair::generate().unwrap().serialize_pem()
    }

    fn other_certificate() -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap().self_signed(&key).unwrap().pem()
    }
}
