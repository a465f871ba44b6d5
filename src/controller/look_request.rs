//! Requests of users to look now, by an annotation. Pure.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::ResourceExt as _;

use crate::api::{EventExport, MAX_REQUEST_CHARS, sanitize};

/// Annotations with a request. A new value, usually the current time, asks for one look.
pub const REQUEST_ANNOTATIONS: [&str; 2] = ["eventexport.io/requestedAt", "reconcile.fluxcd.io/requestedAt"];

/// Request of this process to its task: the value that was asked for, and the number of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LookRequest {
    pub(super) value: Box<str>,
    pub(super) number: u64,
    pub(super) taken_at: Instant,
}

/// Minimum time between two looks at one export, whatever asks: each lists the bucket and ends waits.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(20);

/// Returns the value that asks for a look; `None`: nobody asks, or the status says that it was answered. If both
/// annotations ask, the later time counts, in any time zone; a value that is no time counts less, and by its text.
pub(super) fn requested(object: &EventExport) -> Option<String> {
    let values = REQUEST_ANNOTATIONS
        .iter()
        .filter_map(|name| object.annotations().get(*name));
    let order = |value: &String| (value.parse::<Timestamp>().ok(), value.clone());
    let value = values
        .max_by_key(|value| order(value))
        .filter(|value| !value.is_empty())?;
    let value: String = sanitize(value).chars().take(MAX_REQUEST_CHARS).collect();
    let status = object.status.as_ref();
    let answered = status.and_then(|status| status.last_handled_reconcile_at.as_deref());
    (answered != Some(value.as_str())).then_some(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_new_value_asks_until_it_is_answered() {
        let export = |own: Option<&str>, flux: Option<&str>, answered: Option<&str>| -> EventExport {
            let mut annotations = serde_json::Map::new();
            for (name, value) in REQUEST_ANNOTATIONS.iter().zip([own, flux]) {
                annotations.extend(value.map(|value| ((*name).to_owned(), json!(value))));
            }
            serde_json::from_value(json!({
                "apiVersion": "eventexport.io/v1alpha1", "kind": "EventExport",
                "metadata": {"name": "june", "annotations": annotations},
                "spec": {
                    "space": "s", "dateRange": {"start": "2018-06-01"},
                    "source": {"region": "ng", "credentialsSecretRef": {"name": "tracker"}},
                    "destination": {"s3": {"bucket": "audit"}},
                },
                "status": {"observedGeneration": 1, "lastHandledReconcileAt": answered},
            }))
            .unwrap()
        };
        let asks = |own, flux, answered| requested(&export(own, flux, answered));
        assert_eq!(asks(None, None, None), None);
        assert_eq!(asks(Some("a"), None, None).as_deref(), Some("a"));
        assert_eq!(asks(Some("a"), None, Some("a")), None);
        assert_eq!(asks(None, Some("b"), Some("a")).as_deref(), Some("b"));
        assert_eq!(
            asks(Some("2026-01-01"), Some("2026-01-02"), None).as_deref(),
            Some("2026-01-02")
        );
        // Flux writes the time zone of its user.
        let flux = Some("2026-01-01T15:00:00.5+02:00");
        assert_eq!(
            asks(Some("2026-01-01T13:30:00Z"), flux, flux).as_deref(),
            Some("2026-01-01T13:30:00Z")
        );
        assert_eq!(asks(Some("2026-01-01T12:30:00Z"), flux, flux), None);
        assert_eq!(asks(Some(""), None, None), None);
        let text = "x".repeat(100);
        let cut = &text[..MAX_REQUEST_CHARS];
        assert_eq!(asks(Some(&text), None, None).as_deref(), Some(cut));
        assert_eq!(asks(Some(&text), None, Some(cut)), None);
    }
}
