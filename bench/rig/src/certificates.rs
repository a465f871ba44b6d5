//! Test certificates: an authority, and a server on 127.0.0.1.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::BenchResult;

/// Writes `ca.pem`, `server.pem` and `server.key`.
pub fn make(folder: &str) -> BenchResult {
    let named = |name: &str| {
        let mut subject = DistinguishedName::new();
        subject.push(DnType::CommonName, name);
        subject
    };
    let key = KeyPair::generate()?;
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    authority.distinguished_name = named("bench authority");
    let certificate = authority.self_signed(&key)?;
    let issuer = Issuer::new(authority, key);
    let own = KeyPair::generate()?;
    let mut server = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])?;
    server.distinguished_name = named("bench");
    // Python's TLS rejects a chain without it.
    server.use_authority_key_identifier_extension = true;
    let signed = server.signed_by(&own, &issuer)?;
    let folder = Path::new(folder);
    fs::write(folder.join("ca.pem"), certificate.pem())?;
    fs::write(folder.join("server.pem"), signed.pem())?;
    fs::write(folder.join("server.key"), own.serialize_pem())?;
    Ok(())
}

/// Reads the TLS configuration of a server.
pub fn server(folder: &str) -> BenchResult<Arc<ServerConfig>> {
    let folder = Path::new(folder);
    let chain = CertificateDer::pem_file_iter(folder.join("server.pem"))?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(folder.join("server.key"))?;
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(Arc::new(config))
}

/// Returns the TLS configuration of a client.
pub fn client(ca: &str) -> BenchResult<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca)? {
        roots.add(certificate?)?;
    }
    Ok(Arc::new(
        ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth(),
    ))
}
