//! Certificate authorities of the user's own, from a Secret. Pure, no I/O.

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// Bytes of a bundle at most: a Secret holds no more than 1 MiB.
const MAX_BUNDLE_BYTES: usize = 1024 * 1024;

/// A bundle of certificate authorities that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} holds no usable certificate authority: {why}")]
pub struct CaError {
    /// The field that names the Secret, as the caller calls it.
    pub field: String,
    /// What is wrong, and what to do.
    pub why: String,
}

/// Checks a PEM bundle: at least one certificate, and every one usable as an authority.
pub fn check_ca(pem: &[u8], field: &str) -> Result<(), CaError> {
    ca_certificates(pem, field).map(|_| ())
}

/// The certificates of a PEM bundle, for reqwest. `field` is what the error names.
pub fn ca_certificates(pem: &[u8], field: &str) -> Result<Vec<reqwest::Certificate>, CaError> {
    let fail = |why: String| CaError {
        field: field.to_owned(),
        why,
    };
    if pem.len() > MAX_BUNDLE_BYTES {
        return Err(fail(format!("it is longer than {MAX_BUNDLE_BYTES} bytes")));
    }
    let mut roots = RootCertStore::empty();
    let mut certificates = Vec::new();
    for (index, der) in CertificateDer::pem_slice_iter(pem).enumerate() {
        let number = index + 1;
        let der = der.map_err(|error| {
            fail(format!(
                "certificate {number} is broken PEM ({error}); copy the file again"
            ))
        })?;
        let certificate = reqwest::Certificate::from_der(&der)
            .map_err(|_| fail(format!("certificate {number} is not X.509; copy the file again")))?;
        roots
            .add(der)
            .map_err(|error| fail(format!("certificate {number} is refused ({error})")))?;
        certificates.push(certificate);
    }
    if certificates.is_empty() {
        return Err(fail(
            "no -----BEGIN CERTIFICATE----- is in it; it must be PEM, not DER".to_owned(),
        ));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_bundle_names_its_field() {
        let one = rcgen::generate_simple_self_signed(["a.example".to_owned()])
            .unwrap()
            .cert
            .pem();
        let two = format!("# comment\n{one}\n{one}");
        assert_eq!(ca_certificates(two.as_bytes(), "f").unwrap().len(), 2);
        let broken = format!("{one}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        for bad in ["", "not pem", "-----BEGIN CERTIFICATE-----\n!!", &broken] {
            let error = check_ca(bad.as_bytes(), "spec.source.caSecretRef").unwrap_err();
            assert!(
                error.to_string().starts_with("spec.source.caSecretRef holds no"),
                "{error}"
            );
        }
    }
}
