//! Signatures of receipts, manifests and checkpoints with an Ed25519 key from a Secret, and the keys whose signatures
//! count. The private key appears in no output or error. No I/O.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;

use crate::archive::manifest::document::SIGNATURE_BYTES;
use crate::archive::manifest::signature::{PublicKey, signer};
use crate::export::failure::Failure;

/// Name of the signing key in the Secret.
pub const SIGNING_KEY: &str = "signingKey";

/// Name of the public keys of earlier signing keys in the Secret.
pub const PREVIOUS_PUBLIC_KEYS: &str = "previousPublicKeys";

/// Length of an Ed25519 public key in bytes.
const PUBLIC_KEY_BYTES: usize = 32;

/// An Ed25519 private key.
pub struct SigningKey(Ed25519KeyPair);

/// The key that signs, and the keys whose signatures count.
#[derive(Debug)]
pub struct SigningKeys {
    current: SigningKey,
    /// The public key of `current` first, then the earlier ones.
    trusted: Vec<PublicKey>,
    key_id: String,
}

/// Setting of signatures.
#[derive(Clone, Debug, Default)]
pub enum Signing {
    /// Nothing is signed.
    #[default]
    Disabled,
    /// Receipts, manifests and checkpoints are signed.
    With(Arc<SigningKeys>),
    /// The signing key is missing or invalid: events are stored, manifests wait.
    Unavailable(Failure),
}

impl Signing {
    /// Returns the keys, or the failure that keeps documents from being signed; `None`: nothing is signed.
    pub fn keys(&self) -> Result<Option<&SigningKeys>, Failure> {
        match self {
            Self::Disabled => Ok(None),
            Self::With(keys) => Ok(Some(keys)),
            Self::Unavailable(failure) => Err(failure.clone()),
        }
    }

    /// Returns the keys if documents can be signed.
    pub fn available(&self) -> Option<&SigningKeys> {
        match self {
            Self::With(keys) => Some(keys),
            Self::Disabled | Self::Unavailable(_) => None,
        }
    }
}

impl SigningKeys {
    /// Signs with one key, and trusts its signatures and those of the earlier keys.
    pub fn new(current: SigningKey, previous: Vec<PublicKey>) -> Self {
        let own = current.public_key();
        let key_id = own.id();
        let mut trusted = vec![own];
        trusted.extend(previous);
        Self {
            current,
            trusted,
            key_id,
        }
    }

    /// Signs a document. Returns `None` if the library fails.
    pub fn sign(&self, document: &[u8]) -> Option<[u8; SIGNATURE_BYTES]> {
        self.current.sign(document)
    }

    /// Returns the id of the key that signs.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// Returns the keys whose signatures count.
    pub fn trusted(&self) -> &[PublicKey] {
        &self.trusted
    }

    /// Returns the id of the trusted key that verifies a signature; `None`: none does.
    pub fn verify(&self, document: &[u8], signature: &[u8]) -> Option<String> {
        signer(document, signature, &self.trusted).map(PublicKey::id)
    }
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

    /// Returns the public key.
    pub fn public_key(&self) -> PublicKey {
        let mut bytes = [0; PUBLIC_KEY_BYTES];
        // An Ed25519 key has this length.
        bytes
            .iter_mut()
            .zip(self.0.public_key().as_ref())
            .for_each(|(byte, own)| *byte = *own);
        PublicKey::new(bytes)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey")
    }
}

#[cfg(test)]
mod tests {
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
        let public = key.public_key();
        assert!(public.verifies(b"text", &signature));
        assert!(!public.verifies(b"test", &signature));
    }

    #[test]
    fn a_rotated_key_signs_and_the_earlier_signatures_count() {
        let key = |pem: &str| SigningKey::from_pem(pem.as_bytes()).unwrap();
        let (old, new, other) = (pem(), pem(), pem());
        let before = SigningKeys::new(key(&old), Vec::new());
        let after = SigningKeys::new(key(&new), vec![key(&old).public_key()]);
        let (early, late) = (before.sign(b"text").unwrap(), after.sign(b"text").unwrap());
        assert_eq!(after.verify(b"text", &early).as_deref(), Some(before.key_id()));
        assert_eq!(after.verify(b"text", &late).as_deref(), Some(after.key_id()));
        assert_eq!(before.verify(b"text", &late), None);
        let foreign = SigningKeys::new(key(&other), Vec::new()).sign(b"text").unwrap();
        assert_eq!(after.verify(b"text", &foreign), None);
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
        let signing = format!("{:?}", Signing::With(Arc::new(SigningKeys::new(key, Vec::new()))));
        assert!(
            signing.starts_with("With(SigningKeys { current: SigningKey, trusted: "),
            "{signing}"
        );
    }
}
