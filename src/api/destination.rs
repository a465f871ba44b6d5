//! `spec.destination`: the bucket, and the attributes of its objects. Doc comments become the schema's descriptions. No
//! I/O.

// KubeSchema copies each struct, with its `pub`, into a function.
#![allow(unreachable_pub)]

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules::{self, limit};
use super::setting::Setting;
use super::source::{CaConfigMapRef, CaReference, CaSecretRef, SecretRef, ca_reference};

/// Object store that events are written to.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    /// Bucket of S3, or of an S3-compatible store.
    #[x_kube(
        validation = rules::S3_ENDPOINT_UNCHANGED,
        validation = rules::PREFIX_UNCHANGED,
        validation = rules::ONE_CA,
        validation = rules::ONE_BUCKET_IDENTITY
    )]
    pub s3: S3Destination,
}

/// Bucket, and the attributes of the objects in it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct S3Destination {
    /// Name of the bucket, 3 to 63 lowercase letters, digits, dots and hyphens. The bucket must exist. Immutable.
    /// Example: audit
    #[schemars(length(min = 3, max = limit::BUCKET_CHARS))]
    #[x_kube(validation = rules::BUCKET, validation = rules::BUCKET_UNCHANGED)]
    pub bucket: String,

    /// Folder in the bucket, without a leading or trailing slash. Objects are stored at
    /// PREFIX/space=ID/scope=space/date=2018-06-28/events.json.gz. If omitted, objects are stored at the root of the
    /// bucket. Immutable. Example: tracker/production
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = limit::PREFIX_CHARS))]
    #[x_kube(
        validation = rules::PREFIX_SLASHES,
        validation = rules::PREFIX_COMPONENTS,
        validation = rules::PREFIX_RESERVED
    )]
    pub prefix: Option<String>,

    /// Region of the bucket. Most stores other than AWS accept any region. Defaults to us-east-1.
    #[serde(default = "default_s3_region")]
    #[schemars(length(min = 1, max = limit::S3_REGION_CHARS))]
    #[x_kube(validation = rules::S3_REGION)]
    pub region: String,

    /// URL of a store other than AWS: https, or http for this machine only (127.0.0.1, `[::1]`, localhost). The
    /// operator must allow its host. Immutable. Example: `https://s3.example.com`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = limit::URL_CHARS))]
    #[x_kube(validation = rules::URL)]
    pub endpoint: Option<String>,

    /// True if requests name the bucket in the path (`https://host/bucket`) instead of the host name
    /// (`https://bucket.host`). Defaults to true if `endpoint` is set, else false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force_path_style: Option<bool>,

    /// Secret in this namespace with the keys `accessKeyId`, `secretAccessKey` and, optionally, `sessionToken`. If
    /// neither it nor `serviceAccountName` is set, the operator uses its own identity, provided that its configuration
    /// grants it to this namespace for this bucket and prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretRef>,

    /// ServiceAccount in this namespace with the annotation `eks.amazonaws.com/role-arn`. The operator exchanges a token
    /// of it at the STS of AWS for credentials of that role. The operator must have the permission to create its
    /// tokens. Excludes `credentialsSecretRef`. Example: audit-archive
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = limit::SERVICE_ACCOUNT_CHARS))]
    #[x_kube(validation = rules::SERVICE_ACCOUNT_NAME)]
    pub service_account_name: Option<String>,

    /// Secret in this namespace with the certificate authority of the endpoint, if it is not a public one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<CaSecretRef>,

    /// ConfigMap in this namespace with the certificate authority of the endpoint, instead of `caSecretRef`: for example
    /// a bundle of trust-manager.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_config_map_ref: Option<CaConfigMapRef>,

    /// Storage class of the events, as the store names it. Receipts, manifests and the journal are read by every run
    /// and stay in the storage class of the bucket. Defaults to the storage class of the bucket. Example: `STANDARD_IA`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = limit::STORAGE_CLASS_CHARS))]
    #[x_kube(validation = rules::STORAGE_CLASS)]
    pub storage_class: Option<String>,

    /// Server-side encryption of objects. Defaults to the encryption of the bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::KMS_KEY_ONLY_WITH_KMS)]
    pub server_side_encryption: Option<ServerSideEncryption>,

    /// Lock that protects events and receipts from deletion and replacement. The bucket must have been created with
    /// object lock. Defaults to the retention of the bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_lock: Option<ObjectLock>,

    /// Checksum that the store verifies on upload. CRC64NVME covers the complete object; CRC32C and SHA256 are for
    /// stores that do not support it. Defaults to CRC64NVME.
    #[serde(default)]
    pub checksum: Checksum,

    /// Access control list of written objects, for a bucket of another account: bucket-owner-full-control gives its owner
    /// the objects. None of the lists makes them public. Defaults to none, as stores without such lists require.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acl: Option<CannedAcl>,

    /// Payer of the requests: requester if the bucket charges them to the account of the credentials (Requester Pays).
    /// Defaults to the owner of the bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_payer: Option<RequestPayer>,
}

// The schema has the description of the type.
/// Access control list of written objects, for a bucket of another account: bucket-owner-full-control gives its owner
/// the objects. None of the lists makes them public. Defaults to none, as stores without such lists require.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum CannedAcl {
    /// Only the account that writes the object.
    #[serde(rename = "private")]
    Private,
    /// The owner of the bucket may read the object.
    #[serde(rename = "bucket-owner-read")]
    BucketOwnerRead,
    /// The owner of the bucket has full control of the object.
    #[serde(rename = "bucket-owner-full-control")]
    BucketOwnerFullControl,
}

/// Payer of the requests: requester if the bucket charges them to the account of the credentials (Requester Pays).
/// Defaults to the owner of the bucket.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestPayer {
    /// The account of the credentials.
    #[serde(rename = "requester")]
    Requester,
}

/// Server-side encryption of objects.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ServerSideEncryption {
    /// Type of the keys: AES256 for keys of the store itself, aws:kms for a key of a key management service.
    #[serde(rename = "type")]
    pub kind: EncryptionType,

    /// Id, alias or ARN of the key. Allowed only with type aws:kms. Defaults to the key of the account. Example:
    /// alias/audit
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = limit::KMS_KEY_CHARS))]
    #[x_kube(validation = rules::KMS_KEY)]
    pub kms_key_id: Option<String>,
}

/// Type of the encryption keys.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncryptionType {
    /// Keys of the store itself (SSE-S3).
    #[serde(rename = "AES256")]
    Aes256,
    /// A key of a key management service (SSE-KMS).
    #[serde(rename = "aws:kms")]
    AwsKms,
}

/// Lock on objects.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ObjectLock {
    /// Mode of the lock. Compliance: nobody can shorten or remove the lock. Governance: users with the required
    /// permission can.
    pub mode: LockMode,

    /// Number of days that an object stays locked after it is stored, 1 to 36500. Example: 2555
    #[schemars(range(min = limit::RETAIN_DAYS.0, max = limit::RETAIN_DAYS.1))]
    pub retain_days: u32,
}

/// Mode of an object lock.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// Users with the required permission can shorten or remove the lock.
    Governance,
    /// Nobody can shorten or remove the lock.
    Compliance,
}

/// Checksum that the store verifies on upload.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// CRC-64/NVME over the complete object.
    #[default]
    #[serde(rename = "CRC64NVME")]
    Crc64Nvme,
    /// CRC-32C of the object, or of its parts.
    #[serde(rename = "CRC32C")]
    Crc32c,
    /// SHA-256 of the object, or of its parts.
    #[serde(rename = "SHA256")]
    Sha256,
}

impl S3Destination {
    /// Returns the reference to the certificate authority of the store.
    pub fn ca(&self) -> Option<CaReference<'_>> {
        let settings = [Setting::BucketCa, Setting::BucketCaConfigMap];
        ca_reference(
            self.ca_secret_ref.as_ref(),
            self.ca_config_map_ref.as_ref(),
            settings,
        )
    }

    /// Returns true if requests name the bucket in the path, after defaults.
    pub fn path_style(&self) -> bool {
        self.force_path_style.unwrap_or(self.endpoint.is_some())
    }
}

fn default_s3_region() -> String {
    "us-east-1".to_owned()
}
