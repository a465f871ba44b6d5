//! Computes the facts of a resource for metrics, from its status and its newest snapshot. Pure.
//!
//! Until the bucket is listed, a new leader exports the facts of the status, which the last leader wrote.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::api::{ConditionType, EventExportSpec, EventExportStatus, Reason, StatusRange, find_condition};
use crate::archive::window::{HourSet, Window};
use crate::export::snapshot::Snapshot;
use crate::export::spec::ExportSpec;
use crate::telemetry::metrics::{ResourceFacts, VerificationFacts};

/// Returns the configured time for which the service keeps the events of an export: of its spec, or else of the operator.
pub(super) fn retention(spec: &EventExportSpec, default_days: Option<u16>) -> Option<SignedDuration> {
    let days = spec.source.retention_days.or(default_days)?;
    Some(SignedDuration::from_hours(24 * i64::from(days)))
}

/// Returns the facts after a reconcile that computed `status` and observed `seen`. `before`: the last facts.
/// `retention`: the configured time for which the service keeps events.
pub(super) fn resource_facts(
    status: &EventExportStatus,
    suspended: bool,
    seen: Option<(&Snapshot, &ExportSpec)>,
    before: Option<&ResourceFacts>,
    retention: Option<SignedDuration>,
) -> ResourceFacts {
    let ready = find_condition(&status.conditions, ConditionType::Ready);
    let reason = ready.and_then(|ready| ready.reason.parse::<Reason>().ok());
    let number = |count: Option<i64>| count.and_then(|count| u64::try_from(count).ok());
    let mut facts = ResourceFacts {
        ready: ready.and_then(status_bool),
        complete: find_condition(&status.conditions, ConditionType::Complete).and_then(status_bool),
        stalled: find_condition(&status.conditions, ConditionType::Stalled).and_then(status_bool),
        reason: reason.map(Reason::as_str),
        suspended,
        windows: status.windows.as_ref().map(|windows| {
            [
                windows.wanted,
                windows.stored,
                windows.active,
                windows.waiting,
                windows.failed,
            ]
        }),
        expired: None,
        events: number(status.events),
        bytes: number(status.bytes),
        sessions: u32::try_from(status.sessions.len()).unwrap_or(u32::MAX),
        manifest_sequence: status.manifest.as_ref().map(|manifest| manifest.sequence),
        last_success: None,
        oldest_missing: None,
        earliest_deletion: None,
        verification: None,
    };
    match (seen.filter(|(snapshot, _)| snapshot.observed), before) {
        (Some((snapshot, export)), _) => {
            let open = snapshot.missing.difference(&snapshot.expired);
            let open = open.difference(&export.accepted_hours(&open));
            let oldest = oldest_day(&open).map(|day| export.window_of(day.date()).unwrap_or(day));
            facts.expired = Some(days_of(&snapshot.expired));
            facts.last_success = snapshot.last_stored;
            facts.oldest_missing = oldest.map(Window::end);
            facts.earliest_deletion =
                oldest.and_then(|window| earliest_deletion(window, snapshot, retention));
        }
        (None, Some(before)) => {
            facts.expired = before.expired;
            facts.last_success = before.last_success;
            facts.oldest_missing = before.oldest_missing;
            facts.earliest_deletion = before.earliest_deletion;
        }
        (None, None) => {
            let hours = |ranges: &[StatusRange]| {
                HourSet::from_bounds(ranges.iter().map(|range| (&*range.start, &*range.end)))
            };
            let expired = hours(&status.expired);
            let oldest = oldest_day(&hours(&status.missing).difference(&expired));
            facts.expired = status.windows.as_ref().map(|_| days_of(&expired));
            facts.oldest_missing = oldest.map(Window::end);
            facts.earliest_deletion =
                oldest.and_then(|window| earliest_deletion(window, &Snapshot::default(), retention));
        }
    }
    facts
}

/// Returns the facts of the scheduled verification; `None` if the export has none. `due`: time at which the next one is
/// due.
pub(super) fn verification_facts(
    status: &EventExportStatus,
    due: Option<Timestamp>,
) -> Option<Box<VerificationFacts>> {
    let condition = find_condition(&status.conditions, ConditionType::Verified)?;
    let last = status.verification.as_ref();
    Some(Box::new(VerificationFacts {
        verified: status_bool(condition),
        completed: last.and_then(|last| last.completed_at.as_ref()).map(|at| at.0),
        findings: last.map_or(0, |last| u64::try_from(last.findings).unwrap_or(0)),
        due,
    }))
}

fn status_bool(condition: &Condition) -> Option<bool> {
    match condition.status.as_str() {
        "True" => Some(true),
        "False" => Some(false),
        _ => None,
    }
}

fn days_of(cells: &HourSet) -> u32 {
    u32::try_from(cells.days().count()).unwrap_or(u32::MAX)
}

fn oldest_day(cells: &HourSet) -> Option<Window> {
    cells.days().next().map(|(day, _)| Window::day(day))
}

/// Returns the earliest time at which the service may delete a window: by the configured retention, or else by the days
/// that the service lists. A day that it no longer lists may be gone since that listing.
fn earliest_deletion(
    window: Window,
    snapshot: &Snapshot,
    retention: Option<SignedDuration>,
) -> Option<Timestamp> {
    let seen = snapshot.retention;
    let day = Window::day(window.date());
    let start = day.end().checked_sub(SignedDuration::from_hours(24)).ok()?;
    match (retention, seen) {
        (Some(_), Some(seen)) if seen.oldest > window.date() => Some(seen.at),
        (Some(retention), _) => start.checked_add(retention).ok(),
        (None, Some(seen)) => Some(seen.retained_until(window.date())),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::WindowCounts;
    use crate::export::snapshot::ObservedRetention;
    use jiff::civil::date;

    fn status() -> EventExportStatus {
        EventExportStatus {
            windows: Some(WindowCounts {
                wanted: 30,
                stored: 27,
                ..WindowCounts::default()
            }),
            missing: vec![StatusRange::new("2018-06-01", "2018-06-03")],
            expired: vec![StatusRange::new("2018-06-01", "2018-06-01")],
            ..EventExportStatus::default()
        }
    }

    fn at(text: &str) -> Option<Timestamp> {
        text.parse().ok()
    }

    #[test]
    fn a_new_leader_exports_facts_from_the_status() {
        let facts = resource_facts(
            &status(),
            false,
            None,
            None,
            Some(SignedDuration::from_hours(24 * 30)),
        );
        assert_eq!(facts.windows, Some([30, 27, 0, 0, 0]));
        assert_eq!(facts.expired, Some(1));
        assert_eq!(facts.oldest_missing, at("2018-06-03T00:00:00Z"));
        assert_eq!(facts.earliest_deletion, at("2018-07-02T00:00:00Z"));
        assert_eq!(facts.last_success, None);
    }

    #[test]
    fn earlier_facts_stay_until_the_next_listing() {
        let before = ResourceFacts {
            last_success: at("2018-06-29T07:00:00Z"),
            oldest_missing: at("2018-06-20T00:00:00Z"),
            ..ResourceFacts::default()
        };
        let facts = resource_facts(&status(), true, None, Some(&before), None);
        assert_eq!(facts.oldest_missing, before.oldest_missing);
        assert_eq!(facts.last_success, before.last_success);
        assert!(facts.suspended);
    }

    #[test]
    fn the_retention_of_the_spec_overrides_that_of_the_operator() {
        let spec = |days: Option<u16>| -> EventExportSpec {
            let mut source = serde_json::json!({"region": "ng", "credentialsSecretRef": {"name": "tracker"}});
            if let Some(days) = days {
                source["retentionDays"] = days.into();
            }
            serde_json::from_value(serde_json::json!({
                "space": "s", "dateRange": {"start": "2018-06-01"}, "source": source,
                "destination": {"s3": {"bucket": "audit"}},
            }))
            .unwrap()
        };
        let days = |days: i64| Some(SignedDuration::from_hours(24 * days));
        assert_eq!(retention(&spec(Some(7)), Some(30)), days(7));
        assert_eq!(retention(&spec(None), Some(30)), days(30));
        assert_eq!(retention(&spec(Some(7)), None), days(7));
        assert_eq!(retention(&spec(None), None), None);
    }

    #[test]
    fn earliest_deletion_prefers_the_configured_retention() {
        let asked = "2018-06-10T00:00:00Z";
        let seen = |oldest| Snapshot {
            retention: Some(ObservedRetention {
                oldest: date(2018, 6, oldest),
                at: asked.parse().unwrap(),
            }),
            ..Snapshot::default()
        };
        let window = Window::day(date(2018, 6, 5));
        let week = Some(SignedDuration::from_hours(24 * 7));
        let nothing = Snapshot::default();
        assert_eq!(earliest_deletion(window, &nothing, None), None);
        assert_eq!(
            earliest_deletion(window, &nothing, week),
            at("2018-06-12T00:00:00Z")
        );
        assert_eq!(
            earliest_deletion(window, &seen(3), None),
            at("2018-06-12T00:00:00Z")
        );
        assert_eq!(
            earliest_deletion(window, &seen(3), week),
            at("2018-06-12T00:00:00Z")
        );
        assert_eq!(earliest_deletion(window, &seen(7), week), at(asked));
    }
}
