//! Signatures of manifests with an Ed25519 key from a Secret. The key appears in no output or error. No I/O.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;

use crate::archive::manifest::document::SIGNATURE_BYTES;
use crate::export::failure::Failure;

/// Name of the signing key in the Secret.
pub const SIGNING_KEY: &str = "signingKey";

/// An Ed25519 private key.
pub struct SigningKey(Ed25519KeyPair);

/// Setting of manifest signatures.
#[derive(Clone, Debug, Default)]
pub enum Signing {
    /// Manifests are not signed.
    #[default]
    Disabled,
    /// Manifests are signed with this key.
    With(Arc<SigningKey>),
    /// The signing key is missing or invalid: events are stored, manifests wait.
    Unavailable(Failure),
}

/// Invalid signing key. The message continues a sentence that names the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SigningKeyError {
    /// The text has no PEM block of the required type.
    #[error("is not a PEM file with a `BEGIN PRIVATE KEY` block (PKCS#8, not encrypted)")]
    NotPem,
    /// The key is damaged or has another algorithm.
    #[error("is not an Ed25519 key")]
    NotEd25519,
}

impl SigningKey {
    /// Parses a PEM file, as `openssl genpkey -algorithm ed25519` prints it.
    pub fn from_pem(pem: &[u8]) -> Result<Self, SigningKeyError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_| SigningKeyError::NotPem)?;
        let pair = Ed25519KeyPair::from_pkcs8(der.secret_pkcs8_der());
        pair.map(Self).map_err(|_| SigningKeyError::NotEd25519)
    }

    /// Signs a message (RFC 8032, pure Ed25519). Returns `None` if the library fails.
    pub fn sign(&self, message: &[u8]) -> Option<[u8; SIGNATURE_BYTES]> {
        let signature = self.0.try_sign(message).ok()?;
        signature.as_ref().try_into().ok()
    }

    /// Returns the public key, 32 bytes.
    pub fn public_key(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey")
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

    use super::*;

    fn pem() -> String {
        rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519)
            .unwrap()
            .serialize_pem()
    }

    #[test]
    fn a_signature_is_64_bytes_that_the_public_key_verifies() {
        let key = SigningKey::from_pem(pem().as_bytes()).unwrap();
        let signature = key.sign(b"text").unwrap();
        let public = UnparsedPublicKey::new(&ED25519, key.public_key());
        assert!(public.verify(b"text", &signature).is_ok());
        assert!(public.verify(b"test", &signature).is_err());
    }

    #[test]
    fn a_bad_key_is_rejected_and_no_key_appears_in_debug_output_or_errors() {
        for (pem, wanted) in [
            ("", SigningKeyError::NotPem),
            ("hunter2", SigningKeyError::NotPem),
            (
                "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
                SigningKeyError::NotPem,
            ),
            (
                "-----BEGIN PRIVATE KEY-----\naHVudGVyMg==\n-----END PRIVATE KEY-----\n",
                SigningKeyError::NotEd25519,
            ),
        ] {
            let error = SigningKey::from_pem(pem.as_bytes()).unwrap_err();
            assert_eq!(error, wanted, "{pem}");
            assert!(!error.to_string().contains("hunter2"));
        }
        let key = SigningKey::from_pem(pem().as_bytes()).unwrap();
        assert_eq!(format!("{key:?}"), "SigningKey");
        let signing = Signing::With(Arc::new(key));
        assert_eq!(format!("{signing:?}"), "With(SigningKey)");
    }
}
