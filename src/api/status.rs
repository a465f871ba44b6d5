//! What the operator writes back. Small, bounded, and never the truth: that lies in the bucket. No I/O.

// KubeSchema copies each struct, with its `pub`, into a function.
#![allow(unreachable_pub)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

use super::Reason;
use super::condition::{MAX_MESSAGE_CHARS, truncate_message};

/// Most texts in each of `covered`, `missing` and `expired`, the closing "and N more" included.
pub const MAX_RANGES: usize = 64;

/// Most sessions named in `sessions`: the service allows 30 per space.
pub const MAX_SESSIONS: usize = 30;

/// What the operator last saw. It can be lost at any time and is then rebuilt from the bucket.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EventExportStatus {
    /// Generation of the spec that this status speaks of. -1: not looked at yet.
    #[serde(default = "not_observed")]
    pub observed_generation: i64,

    /// Ready, Complete, Reconciling and Stalled.
    #[serde(default, deserialize_with = "readable", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,

    /// Windows (days or hours) by state.
    #[serde(
        default,
        deserialize_with = "readable",
        skip_serializing_if = "Option::is_none"
    )]
    pub windows: Option<WindowCounts>,

    /// Events stored and counted, over all covered windows.
    #[serde(
        default,
        deserialize_with = "readable",
        skip_serializing_if = "Option::is_none"
    )]
    pub events: Option<i64>,

    /// Bytes stored, compressed as the service sent them, over all covered windows.
    #[serde(
        default,
        deserialize_with = "readable",
        skip_serializing_if = "Option::is_none"
    )]
    pub bytes: Option<i64>,

    /// What is stored and proved, as merged ranges, oldest first: 2018-06-01/2018-06-30 for days (both included),
    /// 2018-06-01T07/2018-06-01T09 for hours.
    #[serde(default, deserialize_with = "readable", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_RANGES), inner(length(max = 64)))]
    pub covered: Vec<String>,

    /// What is asked for, over, and not stored, in the same form.
    #[serde(default, deserialize_with = "readable", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_RANGES), inner(length(max = 64)))]
    pub missing: Vec<String>,

    /// What the service no longer has, in the same form: gaps, until they are accepted in `spec.acceptedGaps`.
    #[serde(default, deserialize_with = "readable", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_RANGES), inner(length(max = 64)))]
    pub expired: Vec<String>,

    /// Sessions that this export holds open at the service now.
    #[serde(default, deserialize_with = "readable", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_SESSIONS))]
    pub sessions: Vec<OpenSession>,

    /// When the first transfer began.
    #[serde(
        default,
        deserialize_with = "readable",
        skip_serializing_if = "Option::is_none"
    )]
    pub start_time: Option<Time>,

    /// When everything that was asked for was stored. Empty while something is missing, and for a continuous export.
    #[serde(
        default,
        deserialize_with = "readable",
        skip_serializing_if = "Option::is_none"
    )]
    pub completion_time: Option<Time>,

    /// When the export will act again by itself.
    #[serde(
        default,
        deserialize_with = "readable",
        skip_serializing_if = "Option::is_none"
    )]
    pub next_run_time: Option<Time>,

    /// The last thing that went wrong and was not made good yet.
    #[serde(
        default,
        deserialize_with = "readable",
        skip_serializing_if = "Option::is_none"
    )]
    pub last_error: Option<LastError>,
}

impl Default for EventExportStatus {
    fn default() -> Self {
        Self {
            observed_generation: not_observed(),
            conditions: Vec::new(),
            windows: None,
            events: None,
            bytes: None,
            covered: Vec::new(),
            missing: Vec::new(),
            expired: Vec::new(),
            sessions: Vec::new(),
            start_time: None,
            completion_time: None,
            next_run_time: None,
            last_error: None,
        }
    }
}

/// Windows (days or hours) by state; a continuous export wants those until today, which waits until it is over.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct WindowCounts {
    /// Asked for, until now.
    pub wanted: u32,
    /// Stored and proved.
    pub stored: u32,
    /// In transfer.
    pub active: u32,
    /// Not begun, or to be tried again.
    pub waiting: u32,
    /// A person is needed.
    pub failed: u32,
}

/// A session that is open at the service.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct OpenSession {
    /// The service's id of the session.
    #[schemars(length(max = 256))]
    pub id: String,
    /// The window it was opened for: 2018-06-28 or 2018-06-28T07.
    #[schemars(length(max = 16))]
    pub window: String,
}

/// Something that went wrong.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LastError {
    /// The reason, as in conditions.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// What happened, and what to do.
    #[schemars(length(max = MAX_MESSAGE_CHARS))]
    pub message: String,
    /// The window it happened to, where it was one: 2018-06-28 or 2018-06-28T07.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub window: Option<String>,
}

impl LastError {
    /// Made to fit the schema: the message is cut at [`MAX_MESSAGE_CHARS`].
    pub fn new(reason: Reason, message: &str, window: Option<String>) -> Self {
        Self {
            reason: reason.as_str().to_owned(),
            message: truncate_message(message),
            window,
        }
    }
}

/// What cannot be read counts as absent: a status that somebody else spoilt must not keep its resource, nor all the
/// others in the same list, from being seen.
fn readable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned + Default,
{
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}

fn not_observed() -> i64 {
    -1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreadable_status_fields_count_as_absent() {
        let spoilt = serde_json::json!({
            "observedGeneration": 3,
            "windows": { "wanted": 1_u64 << 40, "stored": 0, "active": 0, "waiting": 0, "failed": 0 },
            "nextRunTime": "2018-06-01T00:00:00+99:99",
            "covered": ["2018-06-01/2018-06-30"],
        });
        let read: EventExportStatus = serde_json::from_value(spoilt).unwrap();
        assert_eq!((read.windows, read.next_run_time), (None, None));
        assert_eq!((read.observed_generation, read.covered.len()), (3, 1));
    }
}
