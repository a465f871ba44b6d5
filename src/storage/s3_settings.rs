//! What an S3 destination is told: bucket, endpoint, credentials, and how objects are kept. No I/O.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use super::s3_client::HostCheck;
use crate::egress::Traffic;

/// All that an [`S3Store`](super::S3Store) needs to know.
#[derive(Clone, Debug)]
pub struct S3Settings {
    /// The bucket.
    pub bucket: String,
    /// The region to sign for.
    pub region: String,
    /// Where the store is; absent: AWS, in the region.
    pub endpoint: Option<Url>,
    /// `endpoint/bucket/key` instead of `bucket.endpoint/key`.
    pub force_path_style: bool,
    /// Who asks.
    pub credentials: S3Credentials,
    /// Certificates to trust besides the system's, PEM.
    pub ca_pem: Option<Vec<u8>>,
    /// Storage class of evidence; the journal stays in the bucket's default.
    pub storage_class: Option<String>,
    /// Encryption by the store, of everything.
    pub server_side_encryption: Option<Sse>,
    /// Retention of evidence; the journal is never locked.
    pub object_lock: Option<ObjectRetention>,
    /// How bytes are verified on arrival.
    pub checksum: ChecksumMode,
    /// How long to wait.
    pub timeouts: S3Timeouts,
    /// Where requests may go.
    pub hosts: Arc<dyn HostCheck>,
    /// How requests leave.
    pub traffic: Traffic,
}

/// How an [`S3Store`](super::S3Store) proves who it is.
#[derive(Clone)]
pub enum S3Credentials {
    /// Keys from a Secret.
    Static {
        /// Names the secret key; no secret itself.
        access_key_id: String,
        /// Signs requests.
        secret_access_key: SecretString,
        /// Of temporary keys.
        session_token: Option<SecretString>,
    },
    /// What the process finds around it: web identity, container or instance metadata, environment.
    PodIdentity,
}

/// A Secret that holds no usable S3 keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// A key is not there, or has an empty value.
    #[error("the Secret of spec.destination.s3.credentialsSecretRef has no {0}: add that key")]
    Missing(&'static str),
    /// A value that no header can carry.
    #[error(
        "{0} in the Secret of spec.destination.s3.credentialsSecretRef is not printable ASCII: correct the value"
    )]
    Unprintable(&'static str),
}

/// Encryption by the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sse {
    /// With whose keys.
    pub algorithm: SseAlgorithm,
    /// The KMS key; absent: the account's default key for S3.
    pub kms_key_id: Option<String>,
}

/// With whose keys the store encrypts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SseAlgorithm {
    /// The store's own.
    Aes256,
    /// Those of the key management service.
    AwsKms,
}

/// Retention of evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectRetention {
    /// Who may shorten it.
    pub mode: ObjectLockMode,
    /// Days from the moment of storing.
    pub retain_days: u32,
}

/// Who may shorten a retention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectLockMode {
    /// Whoever has `s3:BypassGovernanceRetention`.
    Governance,
    /// Nobody.
    Compliance,
}

/// How the store verifies bytes on arrival.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChecksumMode {
    /// `x-amz-checksum-crc64nvme`, whole objects included.
    #[default]
    Crc64Nvme,
    /// `x-amz-checksum-crc32c`, for stores that do not know the newer one.
    Crc32c,
    /// No checksum header: each body is signed by its SHA-256 (which every store that verifies
    /// signatures verifies), and the size of a completed upload is compared. Slower.
    None,
}

/// How long to wait for an S3 store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct S3Timeouts {
    /// For a connection, with TLS.
    pub connect: Duration,
    /// Without a byte moving, in either direction. There is no limit on the whole: a body takes the
    /// time that its size takes.
    pub idle: Duration,
    /// For the reply to the completion of an upload, which some stores copy together only then.
    pub complete: Duration,
}

impl Default for S3Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            idle: Duration::from_mins(1),
            complete: Duration::from_mins(10),
        }
    }
}

impl S3Credentials {
    /// From the data of a Secret: `accessKeyId`, `secretAccessKey`, optional `sessionToken`. White
    /// space around a value (the line end of a file) is not part of it.
    pub fn from_secret(data: &BTreeMap<String, Vec<u8>>) -> Result<Self, SecretError> {
        let access_key_id = secret_value(data, "accessKeyId")?;
        let secret_access_key = secret_value(data, "secretAccessKey")?;
        let session_token = match secret_value(data, "sessionToken") {
            Err(SecretError::Missing(_)) => None,
            other => Some(other?),
        };
        Ok(Self::Static {
            access_key_id: access_key_id.to_owned(),
            secret_access_key: secret_access_key.into(),
            session_token: session_token.map(Into::into),
        })
    }
}

fn secret_value<'a>(data: &'a BTreeMap<String, Vec<u8>>, name: &'static str) -> Result<&'a str, SecretError> {
    let bytes = data.get(name).ok_or(SecretError::Missing(name))?.trim_ascii();
    if bytes.is_empty() {
        return Err(SecretError::Missing(name));
    }
    str::from_utf8(bytes)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic()))
        .ok_or(SecretError::Unprintable(name))
}

impl fmt::Debug for S3Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Static { .. } => "Static(…)",
            Self::PodIdentity => "PodIdentity",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(pairs: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
            .collect()
    }

    #[test]
    fn a_secret_error_names_the_key_and_never_the_value() {
        let complete = [
            ("accessKeyId", "AKID\n"),
            ("secretAccessKey", "hush"),
            ("sessionToken", "tok"),
        ];
        let credentials = S3Credentials::from_secret(&secret(&complete)).unwrap();
        assert!(
            matches!(&credentials, S3Credentials::Static { access_key_id, session_token: Some(_), .. } if access_key_id == "AKID")
        );
        assert!(!format!("{credentials:?}").contains("hush"));

        let cases = [
            (&complete[1..], SecretError::Missing("accessKeyId")),
            (&complete[..1], SecretError::Missing("secretAccessKey")),
            (
                &[("accessKeyId", "AKID"), ("secretAccessKey", " ")],
                SecretError::Missing("secretAccessKey"),
            ),
            (
                &[("accessKeyId", "AKID"), ("secretAccessKey", "hu\u{1}sh")],
                SecretError::Unprintable("secretAccessKey"),
            ),
        ];
        for (pairs, expected) in cases {
            let error = S3Credentials::from_secret(&secret(pairs)).unwrap_err();
            assert_eq!(error, expected);
            assert!(!error.to_string().contains("hu"));
        }
    }
}
