//! The part of the spec that says where events go. Doc comments become the schema's descriptions. No I/O.

// KubeSchema copies each struct, with its `pub`, into a function.
#![allow(unreachable_pub)]

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules::{self, limit};
use super::source::{CaSecretRef, SecretRef};

/// Where the events are stored.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    /// A bucket of S3, or of a store that speaks its protocol.
    #[x_kube(
        validation = rules::S3_ENDPOINT_UNCHANGED,
        validation = rules::PREFIX_UNCHANGED
    )]
    pub s3: S3Destination,
}

/// A bucket, and how objects are put in it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct S3Destination {
    /// Name of the bucket, 3 to 63 lower-case letters, digits, dots and hyphens. It must exist. Cannot be changed.
    /// Example: audit
    #[schemars(length(min = 3, max = limit::BUCKET_CHARS))]
    #[x_kube(validation = rules::BUCKET, validation = rules::BUCKET_UNCHANGED)]
    pub bucket: String,

    /// Folder in the bucket, without a slash at either end; left out, the bucket's top. Objects go to
    /// PREFIX/space=ID/scope=space/date=2018-06-28/events.json.gz. Cannot be changed. Example: tracker/production
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = limit::PREFIX_CHARS))]
    #[x_kube(
        validation = rules::PREFIX_SLASHES,
        validation = rules::PREFIX_COMPONENTS,
        validation = rules::PREFIX_RESERVED
    )]
    pub prefix: Option<String>,

    /// Region of the bucket. Stores other than AWS mostly accept any. Default: us-east-1
    #[serde(default = "default_s3_region")]
    #[schemars(length(min = 1, max = limit::S3_REGION_CHARS))]
    #[x_kube(validation = rules::S3_REGION)]
    pub region: String,

    /// Address of a store other than AWS. https, or http to this machine only (127.0.0.1, `[::1]`, localhost). The
    /// operator must allow its host. Cannot be changed. Example: `https://s3.example.com`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = limit::URL_CHARS))]
    #[x_kube(validation = rules::URL)]
    pub endpoint: Option<String>,

    /// Whether the bucket goes in the path of requests (`https://host/bucket`) instead of the host name
    /// (`https://bucket.host`). Default: true where `endpoint` is given, else false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force_path_style: Option<bool>,

    /// Secret of this namespace with `accessKeyId`, `secretAccessKey` and, optionally, `sessionToken`. Left out, the
    /// operator's own identity is used, where its configuration grants that to this namespace for this bucket
    /// and prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretRef>,

    /// Secret of this namespace with the certificate authority of the endpoint, where it is not a public one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<CaSecretRef>,

    /// Storage class of events and receipts, as the store names it. Left out, the bucket's default.
    /// Example: `STANDARD_IA`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = limit::STORAGE_CLASS_CHARS))]
    #[x_kube(validation = rules::STORAGE_CLASS)]
    pub storage_class: Option<String>,

    /// Encryption that the store applies. Left out, the bucket's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::KMS_KEY_ONLY_WITH_KMS)]
    pub server_side_encryption: Option<ServerSideEncryption>,

    /// Lock that protects events and receipts from being deleted or replaced. The bucket must have been made with
    /// object lock. Left out, the bucket's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_lock: Option<ObjectLock>,

    /// Checksum that the store verifies on arrival. CRC64NVME covers the whole object; CRC32C and SHA256 are for stores
    /// that do not know it. Default: CRC64NVME
    #[serde(default)]
    pub checksum: Checksum,
}

/// Encryption that the store applies to objects.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ServerSideEncryption {
    /// AES256 for keys of the store itself, aws:kms for a key of a key management service.
    #[serde(rename = "type")]
    pub kind: EncryptionType,

    /// Id, alias or ARN of the key, only with type aws:kms. Left out, the account's default key.
    /// Example: alias/audit
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = limit::KMS_KEY_CHARS))]
    #[x_kube(validation = rules::KMS_KEY)]
    pub kms_key_id: Option<String>,
}

/// Whose keys encrypt.
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
    /// Compliance: nobody can shorten or lift it. Governance: who has the permission for it can.
    pub mode: LockMode,

    /// Days that an object stays locked after it was stored, 1 to 36500. Example: 2555
    #[schemars(range(min = limit::RETAIN_DAYS.0, max = limit::RETAIN_DAYS.1))]
    pub retain_days: u32,
}

/// Who may lift an object lock.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// Who has the permission for it.
    Governance,
    /// Nobody.
    Compliance,
}

/// The checksum that the store verifies on arrival.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// CRC-64/NVME over the whole object.
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
    /// Whether the bucket goes in the path of requests, after defaults.
    pub fn path_style(&self) -> bool {
        self.force_path_style.unwrap_or(self.endpoint.is_some())
    }
}

fn default_s3_region() -> String {
    "us-east-1".to_owned()
}
