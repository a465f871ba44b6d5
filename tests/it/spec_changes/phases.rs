//! Lifecycle phases of a resource: how to reach, detect and leave each.

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use serde_json::{Value, json};

use crate::operator::condition;

/// Phase of a resource at the time of the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LifecyclePhase {
    /// Applied, and not reconciled yet.
    Pending,
    /// A session is open, and a download in progress.
    Transferring,
    /// Its days have not settled.
    Settling,
    /// Needs manual action: a Secret is missing.
    Failed,
    /// `spec.suspend` is true.
    Suspended,
    /// Everything is stored.
    Complete,
    /// Continuous, and everything is stored until today.
    CaughtUp,
    /// Being deleted, while the service refuses to delete its session.
    Deleting,
}

impl LifecyclePhase {
    pub(super) const ALL: [Self; 8] = [
        Self::Pending,
        Self::Transferring,
        Self::Settling,
        Self::Failed,
        Self::Suspended,
        Self::Complete,
        Self::CaughtUp,
        Self::Deleting,
    ];

    /// Title in the table.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Transferring => "transferring",
            Self::Settling => "not settled",
            Self::Failed => "stalled",
            Self::Suspended => "suspended",
            Self::Complete => "complete",
            Self::CaughtUp => "caught up",
            Self::Deleting => "being deleted",
        }
    }

    /// Part of resource names.
    pub(super) fn name_part(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Transferring => "moving",
            Self::Settling => "settling",
            Self::Failed => "failed",
            Self::Suspended => "suspended",
            Self::Complete => "complete",
            Self::CaughtUp => "caught",
            Self::Deleting => "deleting",
        }
    }

    /// Returns the spec that leads to the phase.
    pub(super) fn spec(self, days: RelativeDays) -> Value {
        match self {
            Self::Settling => json!({
                "dateRange": { "start": days.ago(2), "end": days.ago(1) }, "settleAfter": "720h",
            }),
            Self::CaughtUp => json!({ "dateRange": { "start": days.ago(3), "end": null } }),
            Self::Suspended => json!({ "suspend": true }),
            _ => json!({}),
        }
    }

    /// True if a session is open at the time of the change.
    pub(super) fn downloads(self) -> bool {
        matches!(self, Self::Transferring | Self::Deleting)
    }

    /// True if the resource is in this phase.
    pub(super) fn is(self, object: &Value) -> bool {
        let status = &object["status"];
        let generation_observed = status["observedGeneration"] == object["metadata"]["generation"];
        let ready = condition(object, "Ready");
        let session = || status["sessions"][0]["id"].is_string();
        match self {
            Self::Pending => true,
            Self::Transferring => generation_observed && session(),
            Self::Settling => generation_observed && ready == "True/NotSettled",
            Self::Failed => generation_observed && ready == "False/CredentialsMissing",
            Self::Suspended => {
                generation_observed
                    && ready == "False/Suspended"
                    && condition(object, "Reconciling").starts_with("False")
            }
            Self::Complete => {
                generation_observed && condition(object, "Complete") == "True/Complete" && is_at_rest(object)
            }
            Self::CaughtUp => generation_observed && ready == "True/CaughtUp" && is_at_rest(object),
            Self::Deleting => object["metadata"]["deletionTimestamp"].is_string(),
        }
    }

    /// Returns the patch to leave the phase. An idle export gets another day, which is exported with the changed
    /// spec.
    pub(super) fn release_patch(self, days: RelativeDays, spec: &Value) -> Option<Value> {
        match self {
            Self::Settling => Some(json!({ "settleAfter": "0s" })),
            Self::Suspended => Some(json!({ "suspend": false })),
            Self::Complete | Self::CaughtUp => {
                let start: Date = spec["dateRange"]["start"].as_str()?.parse().ok()?;
                let earlier = start.checked_sub(1.days()).ok()?.min(days.day(7));
                Some(json!({ "dateRange": { "start": earlier.to_string() } }))
            }
            Self::Pending | Self::Transferring | Self::Failed | Self::Deleting => None,
        }
    }
}

/// True if our finalizer is gone, so that no session may be open.
pub(super) fn is_at_rest(object: &Value) -> bool {
    !crate::operator::has_finalizer(object)
}

/// Days before today, because days settle by the real clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct RelativeDays {
    today: Date,
}

impl RelativeDays {
    pub(super) fn now() -> Self {
        Self {
            today: Timestamp::now().to_zoned(TimeZone::UTC).date(),
        }
    }

    pub(super) fn day(self, ago: i64) -> Date {
        self.today.checked_sub(ago.days()).unwrap()
    }

    pub(super) fn ago(self, ago: i64) -> String {
        self.day(ago).to_string()
    }

    /// Returns the days of a finite range without accepted gaps.
    pub(super) fn exported_in(self, spec: &Value) -> Vec<Date> {
        let read = |value: &Value| value.as_str().and_then(|text| text.parse::<Date>().ok());
        let start = read(&spec["dateRange"]["start"]).unwrap();
        let end = read(&spec["dateRange"]["end"]).unwrap_or_else(|| self.day(1));
        let gaps: Vec<(Date, Date)> = spec["acceptedGaps"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|gap| (read(&gap["start"]).unwrap(), read(&gap["end"]).unwrap()))
            .collect();
        let days = start.series(1.days()).take_while(|day| *day <= end);
        days.filter(|day| !gaps.iter().any(|(first, last)| first <= day && day <= last))
            .collect()
    }
}
