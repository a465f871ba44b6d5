//! The spec of an `EventExport`. Its doc comments become the schema's descriptions, which `kubectl explain
//! eventexport.spec` shows. No I/O.

// KubeSchema copies each struct, with its `pub`, into a function.
#![allow(unreachable_pub)]
// Two columns may have the same type.
#![allow(clippy::duplicated_attributes)]

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::destination::Destination;
use super::rules::{self, limit};
use super::source::{SecretRef, Source};
use super::status::EventExportStatus;
use super::verification::Verification;

/// Desired export: the audit events of one Activity Tracker space or account, over a range of UTC days, into an S3
/// bucket. Without an end of the range, the export is continuous.
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
        description = "Scope of the exported events: Space or Account"
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
        description = "Last UTC day; empty for a continuous export"
    ),
    printcolumn(
        name = "Stored",
        type_ = "integer",
        json_path = ".status.windows.stored",
        description = "Windows (days or hours) stored and proved"
    ),
    printcolumn(
        name = "Of",
        type_ = "integer",
        json_path = ".status.windows.wanted",
        description = "Windows (days or hours) requested up to now"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "True if the spec is accepted and the export is healthy"
    ),
    printcolumn(
        name = "Complete",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Complete\")].status",
        description = "True if every requested window is stored and proved, or an accepted gap"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Reason of the condition Ready"
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
        description = "Destination bucket",
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
        description = "Time of the next scheduled run",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        description = "Message of the condition Ready",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct EventExportSpec {
    /// Id of the Cloud Foundry space, as `cf space NAME --guid` prints it: 1 to 200 letters, digits and other
    /// characters that a segment of a URL path allows. The id becomes part of object keys. Immutable. Example:
    /// c1234567-6d55-4193-a9de-378620d6fab5
    #[schemars(length(min = 1, max = limit::SPACE_CHARS))]
    #[x_kube(validation = rules::SPACE, validation = rules::SPACE_UNCHANGED)]
    pub space: String,

    /// Scope of the exported events: `Space` for the events of the space, `Account` for the events of the account that
    /// the space belongs to. `Account` requires permission on the account; exporting one account through two spaces
    /// stores its events twice. Immutable. Defaults to Space.
    #[serde(default)]
    #[x_kube(validation = rules::SCOPE_UNCHANGED)]
    pub scope: Scope,

    /// UTC days to export. The range can be moved, widened or narrowed at any time; stored events are kept.
    #[x_kube(validation = rules::RANGE_ORDER)]
    pub date_range: DateRange,

    /// Activity Tracker to read from.
    #[x_kube(
        validation = rules::REGION_OR_ENDPOINT,
        validation = rules::REGION_UNCHANGED,
        validation = rules::ENDPOINT_UNCHANGED,
        validation = rules::ONE_CA
    )]
    pub source: Source,

    /// Object store to write to.
    pub destination: Destination,

    /// Settings of the manifests, which state the content of the archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<ManifestSettings>,

    /// Scheduled verification of the archive. If omitted, the archive is not read again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<Verification>,

    /// Maximum number of windows (days or hours) of this export that are transferred at the same time, 1 to 30. The
    /// service allows 30 open sessions per space, shared by all users of the space. Defaults to 4.
    #[serde(default = "default_parallelism")]
    #[schemars(range(min = limit::PARALLELISM.0, max = limit::PARALLELISM.1))]
    pub parallelism: u8,

    /// Time to wait after the end of a day (or hour) before exporting it, so that late events arrive: a duration in
    /// hours, minutes and seconds from 0s to 720h (30 days). The service keeps events for days to weeks only, so
    /// the time must be shorter than that. Examples: 6h, 1h30m. Defaults to 6h.
    #[serde(default = "default_settle_after")]
    #[schemars(length(min = 1, max = limit::DURATION_CHARS))]
    #[x_kube(validation = rules::SETTLE_AFTER)]
    pub settle_after: String,

    /// Comparison of stored days with the newest counts of the service, so that events that arrive late are stored too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recheck: Option<RecheckSettings>,

    /// True to write a report on the archive into it, as `eventexport report` makes it: the object `_report/index.html`
    /// below the folders of space and scope, a page with a calendar, the gaps and what was checked. It is replaced when
    /// the archive has changed, at most once an hour while it changes. Needs permission to overwrite that key; nothing
    /// waits for it. Defaults to false.
    #[serde(default)]
    pub report: bool,

    /// True to stop the export. Transfers in progress are ended and their sessions deleted; stored events are kept.
    /// Defaults to false.
    #[serde(default)]
    pub suspend: bool,

    /// Days that are known to be lost, at most 1000 ranges, each with another `start`. They count as settled for the
    /// condition `Complete`, and stay in the spec with their reason for auditors. Entries of several field managers are
    /// merged by their `start`. An entry of `status.expired` with a `reason` is valid here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = limit::ACCEPTED_GAPS))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["start".into()]))]
    pub accepted_gaps: Vec<AcceptedGap>,
}

/// Scope of the exported events.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Events of the space.
    #[default]
    Space,
    /// Events of the account that the space belongs to.
    Account,
}

impl Scope {
    /// Returns the name of the scope in receipts and manifests: `Space` or `Account`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Space => "Space",
            Self::Account => "Account",
        }
    }

    /// Returns the name of the scope in object keys: `space` or `account`.
    pub const fn as_key(self) -> &'static str {
        match self {
            Self::Space => "space",
            Self::Account => "account",
        }
    }
}

/// Range of UTC days.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DateRange {
    /// First UTC day, as YYYY-MM-DD, from 1970-01-01 to 2099-12-31. Example: 2018-06-01
    #[schemars(length(max = limit::DATE_CHARS))]
    #[x_kube(validation = rules::START)]
    pub start: String,

    /// Last UTC day, inclusive, as YYYY-MM-DD. If omitted, the export is continuous: each day is exported after it has
    /// ended and settled. Example: 2018-06-30
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = limit::DATE_CHARS))]
    #[x_kube(validation = rules::END)]
    pub end: Option<String>,

    /// Hour of each day to export, 0 to 23 (UTC). If omitted, all hours are exported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = limit::HOUR.0, max = limit::HOUR.1))]
    pub hour: Option<u8>,
}

/// Settings of manifests. A manifest is a document in the archive that holds the digest of every receipt and of the
/// previous manifest. One is written when a finite export is complete, and for each past month of a continuous export.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ManifestSettings {
    /// Secret in this namespace with the key `signingKey`: an Ed25519 private key in PEM (PKCS#8), as `openssl genpkey
    /// -algorithm ed25519` prints it. Receipts, manifests and checkpoints are signed with this key. It can be changed:
    /// put the public key of the earlier one into the key `previousPublicKeys` of the Secret (PEM, one or several), so
    /// that earlier signatures count. If omitted, nothing is signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_key_secret_ref: Option<SecretRef>,

    /// Newest manifest that is given up, as NUMBER:SHA256: the one that `status.manifest` remembers and the bucket does
    /// not have any more, or one that states more events than are left. Without it, nothing is added to the manifests
    /// while that manifest or its events are missing. The message of the reason `ManifestMissing` has the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = limit::HEAD_CHARS))]
    #[x_kube(validation = rules::HEAD)]
    pub abandoned_head: Option<String>,

    /// UTC day, as YYYY-MM-DD: receipts of days before it may be stated by a signed manifest although they have no
    /// signature. For archives that are older than their signing key; remove it when their manifests are signed.
    /// Example: 2026-12-01
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = limit::DATE_CHARS))]
    #[x_kube(validation = rules::UNSIGNED_BEFORE)]
    pub unsigned_receipts_before: Option<String>,

    /// URL of a time-stamp authority (RFC 3161). Each manifest, and each day's checkpoint of a continuous export, gets a
    /// time stamp beside it (`.tsr`), which proves that it existed at that time. Must be https:// and be accepted by
    /// `--allow-host` of the operator. Nothing waits for a time stamp; an authority that does not answer is asked again.
    /// If omitted, nothing is stamped. Example:
    /// `https://tsa.example.com/tsr`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = limit::URL_CHARS))]
    #[x_kube(validation = rules::URL)]
    pub timestamp_authority: Option<String>,
}

/// Settings of the comparison of stored days with the newest counts of the service. A day that has grown is downloaded
/// again once a day, and the events that came late are stored beside those of the first download.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RecheckSettings {
    /// False to store no late events. Defaults to true.
    #[serde(default = "default_enabled")]
    pub enabled: bool,

    /// Maximum age of a day that is compared, in days after its end, 1 to 3650. If omitted, a day is compared while the
    /// service lists it. Example: 14
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = limit::RECHECK_DAYS.0, max = limit::RECHECK_DAYS.1))]
    pub days: Option<u16>,
}

/// Range of days that are known to be lost.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::GAP_ORDER)]
pub struct AcceptedGap {
    /// First UTC day of the gap, as YYYY-MM-DD. Example: 2018-06-03
    #[schemars(length(max = limit::DATE_CHARS))]
    #[x_kube(validation = rules::GAP_DATE)]
    pub start: String,

    /// Last UTC day of the gap, inclusive, as YYYY-MM-DD. Example: 2018-06-04
    #[schemars(length(max = limit::DATE_CHARS))]
    #[x_kube(validation = rules::GAP_DATE)]
    pub end: String,

    /// Explanation of the gap for later readers, 1 to 512 characters on one line. Example: source expired before we
    /// began
    #[schemars(length(min = 1, max = limit::REASON_CHARS))]
    #[x_kube(validation = rules::GAP_REASON)]
    pub reason: String,
}

fn default_enabled() -> bool {
    true
}

fn default_parallelism() -> u8 {
    4
}

fn default_settle_after() -> String {
    "6h".to_owned()
}
