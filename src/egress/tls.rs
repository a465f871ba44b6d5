//! Private certificate authorities of the user. No I/O.

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// Largest bundle, in bytes: a Secret holds no more than 1 MiB.
const MAX_BUNDLE_BYTES: usize = 1024 * 1024;

/// A bundle of certificate authorities that cannot be used. The message continues a sentence that names the bundle. It
/// quotes nothing of the bundle or of a library: the bundle may be a private key, given by mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaError {
    /// Larger than `MAX_BUNDLE_BYTES`.
    #[error("is larger than 1 MiB")]
    TooLarge,
    /// The text has no PEM block of the required type, or a damaged one.
    #[error(
        "is not a PEM bundle: it must contain certificates, each from a line `-----BEGIN CERTIFICATE-----` to a line \
         `-----END CERTIFICATE-----`"
    )]
    NotPem,
    /// Some certificates are not in the form that the parser reads: it would skip them.
    #[error(
        "has {found} certificates, of which {read} can be read: each needs a line `-----BEGIN CERTIFICATE-----` and a line \
         `-----END CERTIFICATE-----`, with no blanks and no byte order mark before them"
    )]
    Skipped {
        /// Number of beginnings of certificates, of any kind and at any place of a line.
        found: usize,
        /// Number of certificates that were read.
        read: usize,
    },
    /// A block is damaged, or is no certificate of an authority.
    #[error(
        "has a certificate that cannot be used, number {0}: it must be an X.509 certificate; copy the file again"
    )]
    NotX509(usize),
}

/// Checks a PEM bundle: at least one certificate, and every one usable as an authority.
pub fn check_ca(pem: &[u8]) -> Result<(), CaError> {
    ca_certificates(pem).map(|_| ())
}

/// Parses a PEM bundle for reqwest.
pub fn ca_certificates(pem: &[u8]) -> Result<Vec<reqwest::Certificate>, CaError> {
    if pem.len() > MAX_BUNDLE_BYTES {
        return Err(CaError::TooLarge);
    }
    let mut roots = RootCertStore::empty();
    let mut certificates = Vec::new();
    for (index, der) in CertificateDer::pem_slice_iter(pem).enumerate() {
        // The error of the library quotes the line.
        let der = der.map_err(|_| CaError::NotPem)?;
        let number = index + 1;
        certificates.push(reqwest::Certificate::from_der(&der).map_err(|_| CaError::NotX509(number))?);
        roots.add(der).map_err(|_| CaError::NotX509(number))?;
    }
    let (found, read) = (count_certificates(pem), certificates.len());
    match read {
        0 if found == 0 => Err(CaError::NotPem),
        _ if read < found => Err(CaError::Skipped { found, read }),
        _ => Ok(certificates),
    }
}

/// Counts the beginnings of certificates, also of those that the parser skips: on a line with other text, or with a label
/// such as `TRUSTED CERTIFICATE`.
fn count_certificates(pem: &[u8]) -> usize {
    let begin = b"-----BEGIN ";
    let labels = memchr::memmem::find_iter(pem, begin).filter_map(|at| {
        let label = pem.get(at + begin.len()..)?;
        label.get(..memchr::memmem::find(label, b"-----")?)
    });
    labels.filter(|label| label.ends_with(b"CERTIFICATE")).count()
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
        let with_key = rcgen::KeyPair::generate().unwrap().serialize_pem() + &one.replace('\n', "\r\n");
        assert_eq!(ca_certificates(with_key.as_bytes()).unwrap().len(), 1);
        let broken = format!("{one}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let on_one_line = key.replace('\n', " ");
        let indented = one.replace('\n', "\n  ");
        let cut = one.replace("-----END CERTIFICATE-----", "");
        let skipped = |found, read| CaError::Skipped { found, read };
        for (bad, wanted) in [
            ("", CaError::NotPem),
            ("not pem", CaError::NotPem),
            ("-----BEGIN CERTIFICATE-----\n!!", CaError::NotPem),
            (
                "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n",
                CaError::NotPem,
            ),
            (&format!("\u{feff}{one}"), skipped(1, 0)),
            (&format!("\u{feff}{one}{one}"), skipped(2, 1)),
            (&format!("  {indented}\n{one}"), skipped(2, 1)),
            (&format!("{}\n{one}", one.replace('\n', " ")), skipped(2, 1)),
            (&one.replace('\n', "\\n"), CaError::NotPem),
            (
                &format!("{}{one}", one.replace("CERTIFICATE", "TRUSTED CERTIFICATE")),
                skipped(2, 1),
            ),
            (&key, CaError::NotPem),
            (&on_one_line, CaError::NotPem),
            (&broken, CaError::NotX509(2)),
            (&"x".repeat(MAX_BUNDLE_BYTES + 1), CaError::TooLarge),
        ] {
            assert_eq!(check_ca(bad.as_bytes()), Err(wanted), "{bad:.80}");
        }
        // Read as one certificate, whose base64 or contents are damaged.
        assert!(check_ca(format!("{cut}{one}").as_bytes()).is_err());
    }
}
