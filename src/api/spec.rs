//! What a person writes. The doc comments here are the user's documentation: they become the schema's
//! descriptions, which `kubectl explain eventexport.spec` shows. No I/O.

// KubeSchema copies each struct, with its `pub`, into a function.
#![allow(unreachable_pub)]

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::address::Region;
use super::rules::{self, limit};
use super::status::EventExportStatus;

/// The export of the audit events of one Activity Tracker space, or of its account, over a range of UTC days
/// into an S3 bucket. Without an end of the range it goes on, day by day.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "eventexport.io",
    version = "v1alpha1",
    kind = "EventExport",
    plural = "eventexports",
    shortname = "ee",
    category = "eventexport",
    namespaced,
    status = "EventExportStatus",
    derive = "PartialEq",
    doc = "Exports the audit events of an Activity Tracker space or account to object storage, with proof that nothing is missing.",
    printcolumn(
        name = "Scope",
        type_ = "string",
        json_path = ".spec.scope",
        description = "Events of the space or of the account"
    ),
    printcolumn(
        name = "From",
        type_ = "string",
        json_path = ".spec.dateRange.start",
        description = "First UTC day"
    ),
    printcolumn(
        name = "To",
        type_ = "string",
        json_path = ".spec.dateRange.end",
        description = "Last UTC day; none: continuous"
    ),
    printcolumn(
        name = "Stored",
        type_ = "integer",
        json_path = ".status.windows.stored",
        description = "Windows (days or hours) that are stored and proved"
    ),
    printcolumn(
        name = "Of",
        type_ = "integer",
        json_path = ".status.windows.wanted",
        description = "Windows (days or hours) that the range asks for until now"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Accepted and healthy"
    ),
    printcolumn(
        name = "Complete",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Complete\")].status",
        description = "Everything that was asked for is stored, proved or an accepted gap"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why it is, or is not, ready"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Space",
        type_ = "string",
        json_path = ".spec.space",
        description = "Id of the space",
        priority = 1
    ),
    printcolumn(
        name = "Bucket",
        type_ = "string",
        json_path = ".spec.destination.s3.bucket",
        description = "Where the events go",
        priority = 1
    ),
    printcolumn(
        name = "Events",
        type_ = "integer",
        json_path = ".status.events",
        description = "Events stored",
        priority = 1
    ),
    printcolumn(
        name = "Bytes",
        type_ = "integer",
        json_path = ".status.bytes",
        description = "Bytes stored, compressed",
        priority = 1
    ),
    printcolumn(
        name = "Next run",
        type_ = "string",
        json_path = ".status.nextRunTime",
        description = "When the next window is due",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        description = "What is happening, or what to do",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct EventExportSpec {
    /// Id of the Cloud Foundry space whose Activity Tracker is asked, as `cf space --guid` prints it. An opaque
    /// text of 1 to 200 letters, digits and the signs that a URL path may hold; it becomes part of object keys.
    /// Cannot be changed. Example: c1234567-6d55-4193-a9de-378620d6fab5
    #[schemars(length(min = 1, max = limit::SPACE_CHARS))]
    #[x_kube(validation = rules::SPACE, validation = rules::SPACE_UNCHANGED)]
    pub space: String,

    /// Whose events: `Space` for those of the space, `Account` for those of the account that the space belongs to
    /// (needs the account's permission; the same account through two spaces is stored twice). Cannot be changed.
    /// Default: Space.
    #[serde(default)]
    #[x_kube(validation = rules::SCOPE_UNCHANGED)]
    pub scope: Scope,

    /// Which UTC days to export. It may be moved, widened or narrowed at any time; what is stored stays stored.
    #[x_kube(validation = rules::RANGE_ORDER)]
    pub date_range: DateRange,

    /// The Activity Tracker to read from.
    #[x_kube(
        validation = rules::REGION_OR_ENDPOINT,
        validation = rules::REGION_UNCHANGED,
        validation = rules::ENDPOINT_UNCHANGED
    )]
    pub source: Source,

    /// Where the events are stored.
    pub destination: Destination,

    /// How many windows (days or hours) of this export are transferred at once, 1 to 30. The service allows 30
    /// open sessions per space, shared with everyone who uses it. Default: 4.
    #[serde(default = "default_parallelism")]
    #[schemars(range(min = limit::PARALLELISM.0, max = limit::PARALLELISM.1))]
    pub parallelism: u8,

    /// How long after its end a day (or hour) is left alone so that late events arrive, as a duration in hours,
    /// minutes and seconds from 0s to 720h (30 days). The service keeps events for days to weeks only, so not too
    /// long. Examples: 6h, 1h30m. Default: 6h.
    #[serde(default = "default_settle_after")]
    #[schemars(length(min = 1, max = limit::DURATION_CHARS))]
    #[x_kube(validation = rules::SETTLE_AFTER)]
    pub settle_after: String,

    /// Stops the export after the transfers in progress were ended and their sessions deleted; what is stored stays.
    /// Default: false.
    #[serde(default)]
    pub suspend: bool,

    /// Days that are known to be lost and are no longer held against this export, at most 1000 ranges. They count
    /// as settled for `Complete` and stay visible here, with the reason, for the auditor.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = limit::ACCEPTED_GAPS))]
    pub accepted_gaps: Vec<AcceptedGap>,
}

/// Whose events are exported.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Events of the space.
    #[default]
    Space,
    /// Events of the account that the space belongs to.
    Account,
}

/// A range of UTC days.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DateRange {
    /// First UTC day, as YYYY-MM-DD, from 1970-01-01 to 2099-12-31. Example: 2018-06-01
    #[schemars(length(max = limit::DATE_CHARS))]
    #[x_kube(validation = rules::START)]
    pub start: String,

    /// Last UTC day, included, as YYYY-MM-DD. Left out, the export is continuous: each day is exported when it is
    /// over and has settled. Example: 2018-06-30
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = limit::DATE_CHARS))]
    #[x_kube(validation = rules::END)]
    pub end: Option<String>,

    /// Only this hour of each day, 0 to 23 (UTC). Left out, whole days are exported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = limit::HOUR.0, max = limit::HOUR.1))]
    pub hour: Option<u8>,
}

/// The Activity Tracker to read from: a public region, or an endpoint.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// Public region of the service: ng (also called us-south), eu-de, au-syd or eu-gb. Either this or `endpoint`.
    /// Cannot be changed. Example: us-south
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<Region>,

    /// Address of the service where it is not a public region. https, or http to this machine only (127.0.0.1,
    /// [::1], localhost). The operator must allow its host. Either this or `region`. Cannot be changed.
    /// Example: https://activity-tracker.example.com
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = limit::URL_CHARS))]
    #[x_kube(validation = rules::URL)]
    pub endpoint: Option<String>,

    /// Address of the UAA that issues tokens, where the service's own `/v2/info` does not tell it, or to override
    /// it. The same rules as `endpoint`. Example: https://uaa.example.com
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = limit::URL_CHARS))]
    #[x_kube(validation = rules::URL)]
    pub uaa_endpoint: Option<String>,

    /// Secret of this namespace with the credentials: `apiKey`, or `username` and `password`, or `refreshToken`, or
    /// `token`. The user needs the developer role in the space.
    pub credentials_secret_ref: SecretRef,

    /// Secret of this namespace with the certificate authority of the endpoint, where it is not a public one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<CaSecretRef>,
}

/// A Secret of the same namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Name of the Secret, in the namespace of this resource. Example: tracker
    #[schemars(length(min = 1, max = limit::SECRET_NAME_CHARS))]
    #[x_kube(validation = rules::SECRET_NAME)]
    pub name: String,
}

/// A Secret of the same namespace, and the key in it that holds certificates.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CaSecretRef {
    /// Name of the Secret, in the namespace of this resource. Example: tracker-ca
    #[schemars(length(min = 1, max = limit::SECRET_NAME_CHARS))]
    #[x_kube(validation = rules::SECRET_NAME)]
    pub name: String,

    /// Key in the Secret whose value is one or more PEM certificates. Default: ca.crt
    #[serde(default = "default_ca_key")]
    #[schemars(length(min = 1, max = limit::SECRET_KEY_CHARS))]
    #[x_kube(validation = rules::SECRET_KEY)]
    pub key: String,
}

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

    /// Address of a store other than AWS. https, or http to this machine only (127.0.0.1, [::1], localhost). The
    /// operator must allow its host. Cannot be changed. Example: https://s3.example.com
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = limit::URL_CHARS))]
    #[x_kube(validation = rules::URL)]
    pub endpoint: Option<String>,

    /// Whether the bucket goes in the path of requests (https://host/bucket) instead of the host name
    /// (https://bucket.host). Default: true where `endpoint` is given, else false.
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
    /// Example: STANDARD_IA
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

/// Days that are known to be lost.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::GAP_ORDER)]
pub struct AcceptedGap {
    /// First UTC day of the gap, as YYYY-MM-DD. Example: 2018-06-03
    #[schemars(length(max = limit::DATE_CHARS))]
    #[x_kube(validation = rules::GAP_DATE)]
    pub start: String,

    /// Last UTC day of the gap, included, as YYYY-MM-DD. Example: 2018-06-04
    #[schemars(length(max = limit::DATE_CHARS))]
    #[x_kube(validation = rules::GAP_DATE)]
    pub end: String,

    /// Why the gap is accepted, for whoever reads it years later, 1 to 512 characters.
    /// Example: source expired before we began
    #[schemars(length(min = 1, max = limit::REASON_CHARS))]
    #[x_kube(validation = rules::GAP_REASON)]
    pub reason: String,
}

impl S3Destination {
    /// Whether the bucket goes in the path of requests, after defaults.
    pub fn path_style(&self) -> bool {
        self.force_path_style.unwrap_or(self.endpoint.is_some())
    }
}

fn default_parallelism() -> u8 {
    4
}

fn default_settle_after() -> String {
    "6h".to_owned()
}

fn default_ca_key() -> String {
    "ca.crt".to_owned()
}

fn default_s3_region() -> String {
    "us-east-1".to_owned()
}
