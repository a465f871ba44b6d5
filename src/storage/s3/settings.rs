//! Settings of an S3 destination: bucket, endpoint, credentials, and attributes of objects. No I/O.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use super::temporary_credentials::TemporaryCredentials;
use crate::api::key_text;
use crate::egress::{HostPolicy, Traffic};
use crate::storage::StoreIdentity;

/// Configuration of an [`S3Store`](super::S3Store).
#[derive(Clone, Debug)]
pub struct S3Settings {
    /// The bucket.
    pub bucket: String,
    /// The region to sign for.
    pub region: String,
    /// URL of the store; absent: AWS, in the region.
    pub endpoint: Option<Url>,
    /// True: `endpoint/bucket/key` instead of `bucket.endpoint/key`.
    pub force_path_style: bool,
    /// Identity that signs requests.
    pub credentials: S3Credentials,
    /// Certificates to trust in addition to the system's, PEM.
    pub ca_pem: Option<Vec<u8>>,
    /// Storage class of events. Everything else, which later runs read, stays in the bucket's default.
    pub storage_class: Option<String>,
    /// Encryption by the store, for all objects.
    pub server_side_encryption: Option<Sse>,
    /// Retention of events, receipts, manifests and signatures; temporary journal entries are never locked.
    pub object_lock: Option<ObjectRetention>,
    /// Verification of bytes on arrival.
    pub checksum: ChecksumMode,
    /// Access control list of written objects.
    pub acl: Option<CannedAcl>,
    /// True if the account of the credentials pays for requests, not that of the bucket.
    pub requester_pays: bool,
    /// Maximum waits.
    pub timeouts: S3Timeouts,
    /// Hosts that requests may contact.
    pub hosts: HostPolicy,
    /// Fence and counters of requests.
    pub traffic: Traffic,
}

/// Credentials of an [`S3Store`](super::S3Store).
#[derive(Clone)]
pub enum S3Credentials {
    /// Keys from a Secret.
    Static {
        /// Identifies the secret key; not a secret itself.
        access_key_id: String,
        /// Signs requests.
        secret_access_key: SecretString,
        /// Session token of temporary keys.
        session_token: Option<SecretString>,
    },
    /// Identity of the process, or role of a ServiceAccount.
    Temporary(TemporaryCredentials),
}

/// A Secret without usable S3 keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// A key is missing or empty.
    #[error("{0} is missing: add the key")]
    Missing(&'static str),
    /// A value cannot be used.
    #[error("{name} {why}")]
    Invalid {
        /// The key.
        name: &'static str,
        /// The defect of the value; never the value.
        why: &'static str,
    },
}

/// Encryption by the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sse {
    /// Owner of the keys.
    pub algorithm: SseAlgorithm,
    /// The KMS key; absent: the account's default key for S3.
    pub kms_key_id: Option<String>,
}

/// Keys with which the store encrypts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SseAlgorithm {
    /// Keys of the store.
    Aes256,
    /// Keys of the key management service.
    AwsKms,
}

/// Retention of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectRetention {
    /// Object lock mode.
    pub mode: ObjectLockMode,
    /// Days from the moment of storing.
    pub retain_days: u32,
}

/// Object lock mode, which determines the users that may shorten a retention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectLockMode {
    /// Users with `s3:BypassGovernanceRetention`.
    Governance,
    /// No user.
    Compliance,
}

/// Method by which the store verifies bytes on arrival. Until a reply of the store states the checksum that was sent,
/// bodies are also signed by their SHA-256.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChecksumMode {
    /// `x-amz-checksum-crc64nvme`, also for complete objects.
    #[default]
    Crc64Nvme,
    /// `x-amz-checksum-crc32c`, for stores that do not know the newer one.
    Crc32c,
    /// No checksum header. Each body is signed by its SHA-256, which every store that verifies signatures checks, and
    /// the size of a completed upload is compared. Slower.
    None,
}

/// Access control list of an object, as S3 names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CannedAcl {
    /// Only the account that writes the object.
    Private,
    /// The owner of the bucket may read.
    BucketOwnerRead,
    /// The owner of the bucket may do everything.
    BucketOwnerFullControl,
}

/// Maximum waits for an S3 store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct S3Timeouts {
    /// Time to connect, including TLS.
    pub connect: Duration,
    /// Time without a byte in either direction. The total time is not limited: it depends on the size of the body.
    pub idle: Duration,
    /// Time for the reply to the completion of an upload; some stores assemble the object only then.
    pub complete: Duration,
}

impl S3Settings {
    /// Returns the identity of the bucket.
    pub fn identity(&self) -> StoreIdentity {
        StoreIdentity::bucket(self.endpoint.as_ref(), &self.region, &self.bucket)
    }
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
    /// Reads the data of a Secret: `accessKeyId`, `secretAccessKey`, optional `sessionToken`. Drops white space, quotes
    /// and a byte order mark around values.
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
    let bytes = data.get(name).filter(|bytes| !bytes.trim_ascii().is_empty());
    key_text(bytes.ok_or(SecretError::Missing(name))?).map_err(|why| SecretError::Invalid { name, why })
}

impl fmt::Debug for S3Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Static { .. } => "Static(…)",
            Self::Temporary(_) => "Temporary(…)",
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
                SecretError::Invalid {
                    name: "secretAccessKey",
                    why: key_text(b"hu\x01sh").unwrap_err(),
                },
            ),
        ];
        for (pairs, expected) in cases {
            let error = S3Credentials::from_secret(&secret(pairs)).unwrap_err();
            assert_eq!(error, expected);
            assert!(!error.to_string().contains("hu"));
        }
    }
}
