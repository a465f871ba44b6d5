//! What a person writes. The doc comments here are the user's documentation: they become the schema's
//! descriptions, which `kubectl explain eventexport.spec` shows. No I/O.

// KubeSchema copies each struct, with its `pub`, into a function.
#![allow(unreachable_pub)]
// Two columns may be of one type.
#![allow(clippy::duplicated_attributes)]

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::destination::Destination;
use super::rules::{self, limit};
use super::source::{SecretRef, Source};
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

    /// How the archive states what it holds: its manifests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<ManifestSettings>,

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

/// How manifests are written: when a finite export is complete, and for each month of a continuous one that is over,
/// the archive gets a document that holds the digest of every receipt, and of the manifest before it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ManifestSettings {
    /// Secret of this namespace with the key `signingKey`: an Ed25519 private key in PEM (PKCS#8), as
    /// `openssl genpkey -algorithm ed25519` prints it. Manifests are then signed with it. It may be changed: later
    /// manifests are signed with the new key, earlier signatures stay. Left out, manifests are not signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_key_secret_ref: Option<SecretRef>,
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

fn default_parallelism() -> u8 {
    4
}

fn default_settle_after() -> String {
    "6h".to_owned()
}
