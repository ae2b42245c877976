//! Channel binding: tying a login to the TLS connection it goes through.

use sha2::{Digest, Sha256, Sha384, Sha512};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::der::oid::ObjectIdentifier;

/// The channel binding `tls-server-end-point` of a server's certificate (DER): its digest by the hash function of its own signature, where MD5
/// and SHA-1 are replaced by SHA-256 (RFC 5929 section 4.1).
///
/// `None` where the certificate cannot be read, or its signature algorithm names no single hash function (Ed25519, RSASSA-PSS with other
/// functions than the SHA-2 ones): RFC 5929 leaves the binding undefined then.
#[must_use]
pub fn server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let parsed = Certificate::from_der(certificate).ok()?;
    let algorithm = parsed.signature_algorithm();
    let oid = algorithm.oid.to_string();
    let hash = match oid.as_str() {
        // RSASSA-PSS (RFC 4055 3.1): the hash function is the first parameter
        "1.2.840.113549.1.1.10" => pss_hash(algorithm.parameters.as_ref()?)?,
        other => other.to_owned(),
    };
    Some(match hash.as_str() {
        // md5WithRSAEncryption, sha1WithRSAEncryption, ecdsa-with-SHA1, dsa-with-sha1, sha1 itself
        "1.2.840.113549.1.1.4" | "1.2.840.113549.1.1.5" | "1.2.840.10045.4.1" | "1.2.840.10040.4.3"
        | "1.3.14.3.2.26"
        // sha256WithRSAEncryption, ecdsa-with-SHA256, dsa-with-sha256, sha256 itself
        | "1.2.840.113549.1.1.11" | "1.2.840.10045.4.3.2" | "2.16.840.1.101.3.4.3.2" | "2.16.840.1.101.3.4.2.1" => {
            Sha256::digest(certificate).to_vec()
        }
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" | "2.16.840.1.101.3.4.2.2" => {
            Sha384::digest(certificate).to_vec()
        }
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" | "2.16.840.1.101.3.4.2.3" => {
            Sha512::digest(certificate).to_vec()
        }
        _ => return None,
    })
}

/// The hash function of RSASSA-PSS-params: `SEQUENCE { [0] AlgorithmIdentifier DEFAULT sha1, ... }`.
fn pss_hash(parameters: &x509_cert::der::Any) -> Option<String> {
    use x509_cert::der::asn1::{AnyRef, ContextSpecific};
    use x509_cert::der::{Reader, SliceReader, TagNumber};
    let mut reader = SliceReader::new(parameters.value()).ok()?;
    let first = ContextSpecific::<AnyRef<'_>>::decode_explicit(&mut reader, TagNumber(0)).ok()?;
    let Some(field) = first else { return Some("1.3.14.3.2.26".to_owned()) };
    let mut inside = SliceReader::new(field.value.value()).ok()?;
    let oid: ObjectIdentifier = inside.decode().ok()?;
    Some(oid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(algorithm: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        parameters.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_digest_is_that_of_the_signature() {
        let p256 = certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
        assert_eq!(server_end_point(&p256).unwrap(), Sha256::digest(&p256).to_vec());
        let p384 = certificate(&rcgen::PKCS_ECDSA_P384_SHA384);
        assert_eq!(server_end_point(&p384).unwrap(), Sha384::digest(&p384).to_vec());
        assert_eq!(server_end_point(&certificate(&rcgen::PKCS_ED25519)), None);
        assert_eq!(server_end_point(b"no certificate"), None);
    }
}
