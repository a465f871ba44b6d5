//! Public keys, and verification of the signatures of manifests (Ed25519, RFC 8032). No I/O.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject as _;

/// Prefix of the 32 bytes of an Ed25519 key in DER (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

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
}

/// Status of a manifest's signature.
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

impl PublicKey {
    /// Parses a PEM file.
    pub fn from_pem(pem: &[u8]) -> Result<Self, PublicKeyError> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| PublicKeyError::NotPem)?;
        der.strip_prefix(&SPKI_PREFIX)
            .and_then(|key| key.try_into().ok())
            .map(Self)
            .ok_or(PublicKeyError::NotEd25519)
    }
}

/// Verifies the signature of a manifest's bytes with the given keys.
pub fn check(manifest: &[u8], signature: Option<&[u8]>, keys: &[PublicKey]) -> SignatureStatus {
    let Some(signature) = signature else {
        return SignatureStatus::Absent;
    };
    let verifies = |PublicKey(key): &PublicKey| {
        UnparsedPublicKey::new(&ED25519, key)
            .verify(manifest, signature)
            .is_ok()
    };
    if keys.is_empty() {
        SignatureStatus::Unchecked
    } else if keys.iter().any(verifies) {
        SignatureStatus::Valid
    } else {
        SignatureStatus::Invalid
    }
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
}
