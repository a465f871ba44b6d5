//! Certificates and keys of one test cluster, signed by an authority of its own. No I/O.

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// A certificate with its private key, both as PEM.
pub(super) struct CertifiedKey {
    pub(super) certificate: String,
    pub(super) key: String,
}

/// Key pair that signs service-account tokens, as PEM.
pub(super) struct TokenKey {
    pub(super) public: String,
    pub(super) private: String,
}

pub(super) struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(super) fn new() -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params
            .distinguished_name
            .push(DnType::CommonName, "eventexport test bed");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params
            .self_signed(&key)
            .context("cannot sign the test cluster's authority")?
            .pem();
        let issuer = Issuer::new(params, key);
        Ok(Self { certificate, issuer })
    }

    /// Returns the certificate of the authority, as PEM.
    pub(super) fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Creates a certificate for a server on this machine.
    pub(super) fn serving(&self) -> Result<CertifiedKey> {
        // An IP address becomes an IP SAN.
        let names = ["127.0.0.1", "localhost", "kubernetes.default.svc", "10.96.0.1"];
        let mut params = CertificateParams::new(names.map(String::from))?;
        params
            .distinguished_name
            .push(DnType::CommonName, "kube-apiserver");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params)
    }

    /// Creates a client certificate for a Kubernetes user in at most one group.
    pub(super) fn client(&self, user: &str, group: Option<&str>) -> Result<CertifiedKey> {
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.distinguished_name.push(DnType::CommonName, user);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Result<CertifiedKey> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(CertifiedKey {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

impl TokenKey {
    pub(super) fn new() -> Result<Self> {
        let key = KeyPair::generate()?;
        Ok(Self {
            public: key.public_key_pem(),
            private: key.serialize_pem(),
        })
    }
}
