//! Private certificate authorities of the user. No I/O.

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// Largest bundle, in bytes: a Secret holds no more than 1 MiB.
const MAX_BUNDLE_BYTES: usize = 1024 * 1024;

/// A bundle of certificate authorities that cannot be used. The caller knows the setting that names it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no usable certificate authority: {0}")]
pub struct CaError(pub String);

/// Checks a PEM bundle: at least one certificate, and every one usable as an authority.
pub fn check_ca(pem: &[u8]) -> Result<(), CaError> {
    ca_certificates(pem).map(|_| ())
}

/// Parses a PEM bundle for reqwest.
pub fn ca_certificates(pem: &[u8]) -> Result<Vec<reqwest::Certificate>, CaError> {
    if pem.len() > MAX_BUNDLE_BYTES {
        return Err(CaError(format!(
            "the bundle is larger than {MAX_BUNDLE_BYTES} bytes"
        )));
    }
    let mut roots = RootCertStore::empty();
    let mut certificates = Vec::new();
    for (index, der) in CertificateDer::pem_slice_iter(pem).enumerate() {
        let number = index + 1;
        let der = der.map_err(|error| {
            CaError(format!(
                "certificate {number} is not valid PEM ({error}); copy the file again"
            ))
        })?;
        let certificate = reqwest::Certificate::from_der(&der)
            .map_err(|_| CaError(format!("certificate {number} is not X.509; copy the file again")))?;
        roots
            .add(der)
            .map_err(|error| CaError(format!("certificate {number} is rejected ({error})")))?;
        certificates.push(certificate);
    }
    if certificates.is_empty() {
        return Err(CaError(
            "the bundle has no -----BEGIN CERTIFICATE-----; it must be PEM, not DER".to_owned(),
        ));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_bundle_is_rejected() {
        let one = rcgen::generate_simple_self_signed(["a.example".to_owned()])
            .unwrap()
            .cert
            .pem();
        let two = format!("# comment\n{one}\n{one}");
        assert_eq!(ca_certificates(two.as_bytes()).unwrap().len(), 2);
        let broken = format!("{one}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        for bad in ["", "not pem", "-----BEGIN CERTIFICATE-----\n!!", &broken] {
            assert!(check_ca(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
