//! Scheduled verification of the archive: `spec.verification` and `status.verification`. No I/O.

// KubeSchema copies each struct, with its `pub`, into a function.
#![allow(unreachable_pub)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules::{self, limit};

/// Minimum of `spec.verification.bytesPerSecond`: 64 KiB.
pub const MIN_BYTES_PER_SECOND: u64 = 64 << 10;

/// Maximum of `spec.verification.bytesPerSecond`: 10 GiB.
pub const MAX_BYTES_PER_SECOND: u64 = 10 << 30;

/// Default of `spec.verification.bytesPerSecond`: 10 MiB.
pub const DEFAULT_BYTES_PER_SECOND: u64 = 10 << 20;

/// Maximum length of `status.verification.firstFinding`, in characters.
pub const MAX_FINDING_CHARS: usize = 1024;

/// Scheduled verification: the operator reads the archive again and compares it with its receipts and manifests, as
/// `eventexport verify` does. The condition `Verified` shows the result. A change does not interrupt transfers.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    /// Time from the end of a verification to the start of the next one: a duration in hours, minutes and seconds from
    /// 1h to 8760h (365 days). Examples: 24h, 168h. Defaults to 168h (a week).
    #[serde(default = "default_every")]
    #[schemars(length(min = 1, max = limit::DURATION_CHARS))]
    #[x_kube(validation = rules::VERIFICATION_EVERY)]
    pub every: String,

    /// Maximum bytes of events that are read per second, on average, 65536 (64 KiB) to 10737418240 (10 GiB). Defaults to
    /// 10485760 (10 MiB).
    #[serde(default = "default_bytes_per_second")]
    #[schemars(range(min = MIN_BYTES_PER_SECOND, max = MAX_BYTES_PER_SECOND))]
    pub bytes_per_second: u64,
}

/// Verification that runs, or that ended last.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct VerificationStatus {
    /// Start of the verification that runs, or of the one that ended last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// Last UTC day that the running verification has read, as YYYY-MM-DD. Absent while none runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = limit::DATE_CHARS))]
    pub verified_through: Option<String>,
    /// End of the last verification of all days.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,
    /// Number of windows (days or hours) that were proved since `startedAt`.
    pub windows: i64,
    /// Number of objects among them; an empty window has none.
    pub objects: i64,
    /// Number of bytes of these objects.
    pub bytes: i64,
    /// Number of objects and documents that could not be read since `startedAt`.
    pub unread: i64,
    /// Number of findings since `startedAt`: what is damaged, missing, or contradicts its receipt or manifest.
    pub findings: i64,
    /// First finding, with the key of the object or document, or else the first one that could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_FINDING_CHARS))]
    pub first_finding: Option<String>,
}

impl VerificationStatus {
    /// Returns true if a verification has started and not ended.
    pub fn is_running(&self) -> bool {
        match (&self.started_at, &self.completed_at) {
            (Some(started), Some(completed)) => self.verified_through.is_some() || started.0 > completed.0,
            (started, None) => started.is_some(),
            (None, Some(_)) => false,
        }
    }
}

fn default_every() -> String {
    "168h".to_owned()
}

const fn default_bytes_per_second() -> u64 {
    DEFAULT_BYTES_PER_SECOND
}
