//! The phases of a resource's life: how one is brought there, how it is known to be there, and what lets it go on.

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use serde_json::{Value, json};

use crate::operator::condition;

/// Where a resource stands when something befalls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LifecyclePhase {
    /// Applied, and no operator has looked.
    Pending,
    /// A session is open, a download is under way.
    Transferring,
    /// Its days have not settled.
    Settling,
    /// A person is needed: a Secret is missing.
    Failed,
    /// `spec.suspend` is true.
    Suspended,
    /// All is stored.
    Complete,
    /// Without an end, and all is stored until today.
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

    /// As the table has it.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Transferring => "transferring",
            Self::Settling => "not settled",
            Self::Failed => "waits for a person",
            Self::Suspended => "suspended",
            Self::Complete => "complete",
            Self::CaughtUp => "caught up",
            Self::Deleting => "being deleted",
        }
    }

    /// Part of the names of resources.
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

    /// What of the spec brings it there.
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

    /// Whether a session of it is open when something befalls it.
    pub(super) fn downloads(self) -> bool {
        matches!(self, Self::Transferring | Self::Deleting)
    }

    /// Whether it is there.
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

    /// What of the spec lets it go on; what is at rest gets another day, which is exported as the spec now says.
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

/// No session may be open: our finalizer is gone.
pub(super) fn is_at_rest(object: &Value) -> bool {
    !crate::operator::has_finalizer(object)
}

/// Days before today: the settling of days is by the real clock.
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

    /// The days of a finished range, those of accepted gaps left out.
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
