//! The status of an `EventExport`, written by the operator. It is small and bounded; the bucket is the source of truth.
//! No I/O.

// KubeSchema copies each struct, with its `pub`, into a function.
#![allow(unreachable_pub)]

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::Reason;
use super::condition::{MAX_MESSAGE_CHARS, truncate_message};
use super::syntax::parse_date;
use super::verification::VerificationStatus;

/// Maximum number of entries in each of `covered`, `missing` and `expired`; `omittedRanges` counts the others.
pub const MAX_RANGES: usize = 64;

/// Maximum number of entries in `sessions`: the service allows 30 per space.
pub const MAX_SESSIONS: usize = 30;

/// Maximum length of a window, with room for other forms.
const WINDOW_CHARS: usize = 16;

/// Maximum length of the value of a requested look, in characters; the rest of a longer value is ignored.
pub const MAX_REQUEST_CHARS: usize = 64;

/// Observed state of the export. It can be lost at any time and is then rebuilt from the bucket.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EventExportStatus {
    /// Generation of the spec that this status describes. -1 if the operator has not observed the resource yet.
    #[serde(default = "not_observed")]
    pub observed_generation: i64,

    /// Conditions of the export: Ready, Complete, Reconciling and Stalled, and if they apply Contended and Verified.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,

    /// Number of windows (days or hours) by state.
    #[serde(
        default,
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub windows: Option<WindowCounts>,

    /// Number of events stored, over all covered windows.
    #[serde(
        default,
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub events: Option<i64>,

    /// Number of bytes stored, compressed as the service sent them, over all covered windows.
    #[serde(
        default,
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub bytes: Option<i64>,

    /// Number of the events among `events` that the service reported after their day was stored, and that were stored later
    /// beside it. Absent if there are none.
    #[serde(
        default,
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub late_events: Option<i64>,

    /// Ranges of days or hours that are stored and proved, merged, oldest first; the oldest 64.
    #[serde(
        default,
        deserialize_with = "lenient_ranges",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = MAX_RANGES))]
    pub covered: Vec<StatusRange>,

    /// Ranges of days or hours that are requested, have ended and are not stored; the oldest 64.
    #[serde(
        default,
        deserialize_with = "lenient_ranges",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = MAX_RANGES))]
    pub missing: Vec<StatusRange>,

    /// Ranges of complete UTC days that the service no longer has; the oldest 64. A day of which only hours are missing is
    /// listed when the service has none of them. Each is a gap until `spec.acceptedGaps` accepts it: an entry with a
    /// `reason` is valid there.
    #[serde(
        default,
        deserialize_with = "lenient_ranges",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = MAX_RANGES))]
    pub expired: Vec<StatusRange>,

    /// Number of ranges that do not fit `covered`, `missing` and `expired`. Absent if all fit.
    #[serde(
        default,
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub omitted_ranges: Option<OmittedRanges>,

    /// Sessions that this export holds open at the service.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_SESSIONS))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".into()]))]
    pub sessions: Vec<OpenSession>,

    /// Newest manifest of the archive. It is remembered here, outside the bucket: while the bucket does not have it, nothing
    /// is added to the manifests, and the condition `Stalled` has the reason `ManifestMissing`.
    #[serde(
        default,
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub manifest: Option<ManifestStatus>,

    /// Time at which the first transfer began.
    #[serde(
        default,
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub start_time: Option<Time>,

    /// Time at which all requested windows were stored. Empty while a window is missing, and for a continuous export.
    #[serde(
        default,
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub completion_time: Option<Time>,

    /// Time of the next scheduled run.
    #[serde(
        default,
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub next_run_time: Option<Time>,

    /// Value of the annotation `eventexport.io/requestedAt` (or Flux's `reconcile.fluxcd.io/requestedAt`) that was
    /// answered last: the operator has listed the bucket after it saw that value.
    #[serde(
        default,
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(length(max = MAX_REQUEST_CHARS))]
    pub last_handled_reconcile_at: Option<String>,

    /// Most recent error that is not resolved.
    #[serde(
        default,
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub last_error: Option<LastError>,

    /// Scheduled verification of the archive. If it is removed, the next verification starts at once.
    #[serde(
        default,
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub verification: Option<VerificationStatus>,
}

impl Default for EventExportStatus {
    fn default() -> Self {
        Self {
            observed_generation: not_observed(),
            conditions: Vec::new(),
            windows: None,
            events: None,
            bytes: None,
            late_events: None,
            covered: Vec::new(),
            missing: Vec::new(),
            expired: Vec::new(),
            omitted_ranges: None,
            sessions: Vec::new(),
            manifest: None,
            start_time: None,
            completion_time: None,
            next_run_time: None,
            last_handled_reconcile_at: None,
            last_error: None,
            verification: None,
        }
    }
}

/// Number of windows (days or hours) by state. A continuous export requests the windows up to today; the current one
/// waits until it ends.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct WindowCounts {
    /// Windows requested up to now.
    pub wanted: u32,
    /// Windows stored and proved.
    pub stored: u32,
    /// Windows in transfer.
    pub active: u32,
    /// Windows not started, or waiting for a retry.
    pub waiting: u32,
    /// Windows that need manual action.
    pub failed: u32,
}

/// Range of windows, both ends inclusive: of complete days, or of hours of one day.
#[derive(Serialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct StatusRange {
    /// First window: 2018-06-01 for a UTC day, 2018-06-01T07 for an hour.
    #[schemars(length(max = WINDOW_CHARS))]
    pub start: String,
    /// Last window, inclusive, in the form of `start`.
    #[schemars(length(max = WINDOW_CHARS))]
    pub end: String,
    /// True if it was read from the text of an earlier operator. The resource must then be written again, even if its
    /// status says the same: the API server holds a value that the definition does not allow.
    #[serde(skip)]
    pub is_legacy: bool,
}

impl StatusRange {
    /// Creates a range.
    pub fn new(start: impl Into<String>, end: impl Into<String>) -> Self {
        Self {
            start: start.into(),
            end: end.into(),
            is_legacy: false,
        }
    }

    /// Reads an object, or the text of an earlier operator: `2018-06-01/2018-06-30`, or one window. `None`: neither.
    fn from_value(value: &Value) -> Option<Self> {
        let window = |text: &str| {
            let (day, hour) = text.split_once('T').unwrap_or((text, "00"));
            let is_hour = hour.len() == 2 && hour.parse::<u8>().is_ok_and(|hour| hour < 24);
            (parse_date(day).is_some() && is_hour).then(|| text.to_owned())
        };
        let range = |start, end, is_legacy| {
            Some(Self {
                start: window(start)?,
                end: window(end)?,
                is_legacy,
            })
        };
        match value {
            Value::String(text) => {
                let (start, end) = text.split_once('/').unwrap_or((text, text));
                range(start, end, true)
            }
            _ => range(value.get("start")?.as_str()?, value.get("end")?.as_str()?, false),
        }
    }
}

/// Formats `2018-06-01/2018-06-30`, or the only window.
impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.start == self.end {
            f.write_str(&self.start)
        } else {
            write!(f, "{}/{}", self.start, self.end)
        }
    }
}

/// Number of ranges that the status does not list.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct OmittedRanges {
    /// Ranges that are stored and proved.
    pub covered: u32,
    /// Ranges that are not stored.
    pub missing: u32,
    /// Ranges that the service no longer has.
    pub expired: u32,
}

impl EventExportStatus {
    /// Returns true if a range was read from the text of an earlier operator.
    pub fn has_legacy_ranges(&self) -> bool {
        let mut ranges = self.covered.iter().chain(&self.missing).chain(&self.expired);
        ranges.any(|range| range.is_legacy)
    }

    /// Treats the ranges as written by this version.
    pub fn upgrade_ranges(&mut self) {
        let ranges = self.covered.iter_mut().chain(&mut self.missing);
        for range in ranges.chain(&mut self.expired) {
            range.is_legacy = false;
        }
    }
}

/// Session that is open at the service.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct OpenSession {
    /// Id of the session at the service.
    #[schemars(length(max = 256))]
    pub id: String,
    /// Window that the session was opened for: 2018-06-28 or 2018-06-28T07.
    #[schemars(length(max = WINDOW_CHARS))]
    pub window: String,
}

/// Newest manifest of an archive.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ManifestStatus {
    /// Number of the manifest.
    #[schemars(range(min = 1, max = 99_999_999))]
    pub sequence: u32,
    /// SHA-256 of the manifest: 64 hexadecimal digits, as `sha256sum` prints them.
    #[schemars(length(min = 64, max = 64))]
    pub sha256: String,
    /// Id of the key that signed the manifest: the SHA-256 of its public key in DER, 64 hexadecimal digits. Empty if it
    /// is not signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 64, max = 64))]
    pub key_id: Option<String>,
    /// Time at which the manifest was written, by the clock of the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_at: Option<Time>,
}

/// Error of an export.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LastError {
    /// Reason, as in conditions.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// Cause of the error, and its remedy.
    #[schemars(length(max = MAX_MESSAGE_CHARS))]
    pub message: String,
    /// Window in which the error occurred, if any: 2018-06-28 or 2018-06-28T07.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub window: Option<String>,
}

impl LastError {
    /// Creates an error that fits the schema: the message is truncated to [`MAX_MESSAGE_CHARS`].
    pub fn new(reason: Reason, message: &str, window: Option<String>) -> Self {
        Self {
            reason: reason.as_str().to_owned(),
            message: truncate_message(message),
            window,
        }
    }
}

/// Reads an invalid field as absent: a status corrupted by another writer must not make its resource, or a list that
/// contains it, unreadable.
fn lenient<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned + Default,
{
    let value = Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}

/// Reads ranges, also those that earlier operators wrote as texts. Ignores items that are no ranges, such as their closing
/// "and 3 more".
fn lenient_ranges<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<StatusRange>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let items = value.as_array().into_iter().flatten();
    Ok(items.filter_map(StatusRange::from_value).collect())
}

fn not_observed() -> i64 {
    -1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_status_fields_count_as_absent() {
        let corrupted = serde_json::json!({
            "observedGeneration": 3,
            "windows": { "wanted": 1_u64 << 40, "stored": 0, "active": 0, "waiting": 0, "failed": 0 },
            "nextRunTime": "2018-06-01T00:00:00+99:99",
            "covered": [{ "start": "2018-06-01", "end": "2018-06-30" }],
        });
        let read: EventExportStatus = serde_json::from_value(corrupted).unwrap();
        assert_eq!((read.windows, read.next_run_time), (None, None));
        assert_eq!((read.observed_generation, read.covered.len()), (3, 1));
    }

    #[test]
    fn ranges_of_earlier_operators_are_read_and_marked() {
        let written = serde_json::json!({
            "covered": ["2018-06-01/2018-06-30", "2018-07-02", "2018-07-03T07/2018-07-03T09", "and 3 more"],
            "missing": [{ "start": "2018-07-01", "end": "2018-07-01" }, { "start": "forever" }, 7, "2018-07-32", ""],
            "expired": "never",
        });
        let mut read: EventExportStatus = serde_json::from_value(written).unwrap();
        let texts = |ranges: &[StatusRange]| ranges.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            texts(&read.covered),
            [
                "2018-06-01/2018-06-30",
                "2018-07-02",
                "2018-07-03T07/2018-07-03T09"
            ]
        );
        assert_eq!(texts(&read.missing), ["2018-07-01"]);
        assert_eq!(texts(&read.expired), [""; 0]);
        assert!(read.has_legacy_ranges() && !read.missing[0].is_legacy);
        let before = read.clone();
        read.upgrade_ranges();
        assert!(!read.has_legacy_ranges() && read != before);
        assert_eq!(
            serde_json::to_value(&read.covered[1]).unwrap(),
            serde_json::json!({ "start": "2018-07-02", "end": "2018-07-02" })
        );
    }
}
