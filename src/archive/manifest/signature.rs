//! Public keys, and verification of the signatures of manifests, receipts and checkpoints (Ed25519, RFC 8032). No I/O.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};

use crate::pipeline::prover::hex;

/// Prefix of the 32 bytes of an Ed25519 key in DER (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// Maximum number of public keys in one file.
pub const PUBLIC_KEYS_MAX: usize = 64;

/// An Ed25519 public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

/// Error of a file that should contain a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublicKeyError {
    /// The file has no PEM block of the right kind.
    #[error("is not a PEM file with a `BEGIN PUBLIC KEY` block: `openssl pkey -in KEY -pubout` prints one")]
    NotPem,
    /// The key is damaged or of another algorithm.
    #[error("is not an Ed25519 public key")]
    NotEd25519,
    /// The file has too many keys.
    #[error("has more than {PUBLIC_KEYS_MAX} public keys")]
    TooMany,
}

/// Status of the signature of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureStatus {
    /// There is no signature.
    Absent,
    /// There is no key to check it.
    Unchecked,
    /// One of the keys verifies it.
    Valid,
    /// No key verifies it.
    Invalid,
}

impl SignatureStatus {
    /// Returns the name in JSON output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "Absent",
            Self::Unchecked => "Unchecked",
            Self::Valid => "Valid",
            Self::Invalid => "Invalid",
        }
    }

    /// Returns the description in text output.
    pub const fn description(self) -> &'static str {
        match self {
            Self::Absent => "none",
            Self::Unchecked => "not checked",
            Self::Valid => "verified",
            Self::Invalid => "INVALID",
        }
    }
}

impl PublicKey {
    /// Creates a key from its 32 bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Parses a PEM file with one key.
    pub fn from_pem(pem: &[u8]) -> Result<Self, PublicKeyError> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| PublicKeyError::NotPem)?;
        Self::from_spki(&der)
    }

    /// Parses all keys of a PEM file, at least one and at most [`PUBLIC_KEYS_MAX`].
    pub fn all_from_pem(pem: &[u8]) -> Result<Vec<Self>, PublicKeyError> {
        let mut keys = Vec::new();
        for der in SubjectPublicKeyInfoDer::pem_slice_iter(pem) {
            if keys.len() >= PUBLIC_KEYS_MAX {
                return Err(PublicKeyError::TooMany);
            }
            keys.push(Self::from_spki(&der.map_err(|_| PublicKeyError::NotPem)?)?);
        }
        if keys.is_empty() {
            return Err(PublicKeyError::NotPem);
        }
        Ok(keys)
    }

    fn from_spki(der: &[u8]) -> Result<Self, PublicKeyError> {
        der.strip_prefix(&SPKI_PREFIX)
            .and_then(|key| key.try_into().ok())
            .map(Self)
            .ok_or(PublicKeyError::NotEd25519)
    }

    /// Returns the id of the key: the SHA-256 of its DER `SubjectPublicKeyInfo`, 64 lower-case hexadecimal digits, as
    /// `openssl pkey -pubin -outform DER | sha256sum` prints it.
    pub fn id(&self) -> String {
        let mut sha = Sha256::new();
        sha.update(SPKI_PREFIX);
        sha.update(self.0);
        hex(&sha.finalize())
    }

    /// Returns true if this key verifies the signature of a document.
    pub fn verifies(&self, document: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0)
            .verify(document, signature)
            .is_ok()
    }
}

/// Verifies the signature of a document's bytes, of a manifest, receipt or checkpoint, with the given keys.
pub fn check(document: &[u8], signature: Option<&[u8]>, keys: &[PublicKey]) -> SignatureStatus {
    match signature {
        None => SignatureStatus::Absent,
        Some(_) if keys.is_empty() => SignatureStatus::Unchecked,
        Some(signature) if signer(document, signature, keys).is_some() => SignatureStatus::Valid,
        Some(_) => SignatureStatus::Invalid,
    }
}

/// Returns the first of the keys that verifies the signature of a document's bytes.
pub fn signer<'k>(document: &[u8], signature: &[u8], keys: &'k [PublicKey]) -> Option<&'k PublicKey> {
    keys.iter().find(|key| key.verifies(document, signature))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Output of `openssl pkey -pubout` for the key in RFC 8410, section 10.3.
    const PEM: &[u8] =
        b"-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n\
                         -----END PUBLIC KEY-----\n";

    #[test]
    fn a_public_key_parses_or_its_error_says_why() {
        assert!(PublicKey::from_pem(PEM).is_ok());
        assert_eq!(PublicKey::from_pem(b"no"), Err(PublicKeyError::NotPem));
        let other = b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
        assert_eq!(PublicKey::from_pem(other), Err(PublicKeyError::NotEd25519));
        let key = [PublicKey::from_pem(PEM).unwrap()];
        assert_eq!(check(b"text", None, &key), SignatureStatus::Absent);
        assert_eq!(check(b"text", Some(&[0; 64]), &[]), SignatureStatus::Unchecked);
        assert_eq!(check(b"text", Some(&[0; 64]), &key), SignatureStatus::Invalid);
        assert_eq!(check(b"text", Some(b"short"), &key), SignatureStatus::Invalid);
    }

    #[test]
    fn a_bundle_gives_all_its_keys_and_each_has_the_id_that_openssl_prints() {
        let two = [PEM, PEM].concat();
        let keys = PublicKey::all_from_pem(&two).unwrap();
        assert_eq!(keys.len(), 2);
        assert_eq!(
            keys[0].id(),
            "a1e9156054e04fac899ae9f275132cdc07a5dbc4ea2c2ad3a1ffc6e0d253681f"
        );
        assert_eq!(PublicKey::all_from_pem(b""), Err(PublicKeyError::NotPem));
        let damaged = [
            PEM,
            b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        ]
        .concat();
        assert_eq!(PublicKey::all_from_pem(&damaged), Err(PublicKeyError::NotEd25519));
        let many = PEM.repeat(PUBLIC_KEYS_MAX + 1);
        assert_eq!(PublicKey::all_from_pem(&many), Err(PublicKeyError::TooMany));
    }
}
