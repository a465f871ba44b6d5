//! Changes of a spec that a running export takes over without a restart. Pure.

use crate::api::{CheckedRange, EventExportSpec, ManifestSettings, Source};

/// Returns true if a run with the spec `old` can go on with `new`: its transfers are wanted by both, by the same means.
pub(super) fn applies_in_place(old: &EventExportSpec, new: &EventExportSpec) -> bool {
    let (Ok(before), Ok(after)) = (old.checked(), new.checked()) else {
        return false;
    };
    contains(after.range, before.range) && with_settings_of(new, old) == *new
}

/// Returns true if a range has all days of another one, and the same hours.
fn contains(range: CheckedRange, other: CheckedRange) -> bool {
    let ends_later = match (range.end, other.end) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(end), Some(other)) => end >= other,
    };
    range.hour == other.hour && range.start <= other.start && ends_later
}

/// Returns `old` with the settings of `new` that no transfer depends on.
fn with_settings_of(new: &EventExportSpec, old: &EventExportSpec) -> EventExportSpec {
    let newer = new.manifest.clone().unwrap_or_default();
    let manifest = ManifestSettings {
        abandoned_head: newer.abandoned_head.clone(),
        unsigned_receipts_before: newer.unsigned_receipts_before.clone(),
        ..old.manifest.clone().unwrap_or_default()
    };
    EventExportSpec {
        date_range: new.date_range.clone(),
        source: Source {
            retention_days: new.source.retention_days,
            ..old.source.clone()
        },
        parallelism: new.parallelism,
        settle_after: new.settle_after.clone(),
        accepted_gaps: new.accepted_gaps.clone(),
        recheck: new.recheck.clone(),
        verification: new.verification.clone(),
        report: new.report,
        suspend: new.suspend,
        // An absent block and an empty one are the same.
        manifest: if manifest == newer {
            new.manifest.clone()
        } else {
            Some(manifest)
        },
        ..old.clone()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(changes: &Value) -> EventExportSpec {
        let mut spec = json!({
            "space": "s", "dateRange": {"start": "2018-06-03", "end": "2018-06-20"}, "parallelism": 4,
            "source": {"region": "ng", "credentialsSecretRef": {"name": "tracker"}},
            "destination": {"s3": {"bucket": "audit"}},
            "manifest": {"signingKeySecretRef": {"name": "key"}},
        });
        for (field, value) in changes.as_object().unwrap() {
            spec[field] = value.clone();
        }
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn only_changes_that_no_transfer_depends_on_apply_in_place() {
        let key = |name| json!({"name": name});
        for (changes, expected) in [
            (json!({}), true),
            (json!({"parallelism": 2}), true),
            (
                json!({"acceptedGaps": [{"start": "2018-06-04", "end": "2018-06-04", "reason": "x"}]}),
                true,
            ),
            (json!({"settleAfter": "1h", "recheck": {"enabled": false}}), true),
            (json!({"verification": {"every": "720h"}}), true),
            (json!({"report": true}), true),
            (
                json!({"source": {"region": "ng", "credentialsSecretRef": key("tracker"), "retentionDays": 7}}),
                true,
            ),
            (
                json!({"dateRange": {"start": "2018-06-01", "end": "2018-06-21"}}),
                true,
            ),
            (json!({"dateRange": {"start": "2018-06-03"}}), true),
            (
                json!({"dateRange": {"start": "2018-06-04", "end": "2018-06-20"}}),
                false,
            ),
            (
                json!({"dateRange": {"start": "2018-06-03", "end": "2018-06-19"}}),
                false,
            ),
            (
                json!({"dateRange": {"start": "2018-06-03", "end": "2018-06-20", "hour": 7}}),
                false,
            ),
            (json!({"dateRange": {"start": "nonsense"}}), false),
            (
                json!({"manifest": {"signingKeySecretRef": key("key"), "unsignedReceiptsBefore": "2018-06-04"}}),
                true,
            ),
            (json!({"manifest": {"signingKeySecretRef": key("other")}}), false),
            (json!({"manifest": {}}), false),
            (json!({"manifest": null}), false),
            (
                json!({"destination": {"s3": {"bucket": "audit", "storageClass": "GLACIER_IR"}}}),
                false,
            ),
            (
                json!({"source": {"region": "ng", "credentialsSecretRef": key("other")}}),
                false,
            ),
        ] {
            let found = applies_in_place(&spec(&json!({})), &spec(&changes));
            assert_eq!(found, expected, "{changes}");
        }
        let unsigned = |manifest: Value| spec(&json!({"manifest": manifest}));
        assert!(applies_in_place(&unsigned(Value::Null), &unsigned(json!({}))));
        assert!(!applies_in_place(
            &unsigned(Value::Null),
            &unsigned(json!({"signingKeySecretRef": key("key")}))
        ));
    }
}
