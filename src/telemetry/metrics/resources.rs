//! State of each resource, read at each scrape, so that a deleted resource has no series, and a new one has its series
//! after the first reconcile.
//!
//! Bounded: a resource has at most [`SERIES_PER_RESOURCE`] series, with the labels `namespace` and `name`. If there are
//! more resources than a limit, those that need attention first get all series up to the limit, and the others
//! [`REDUCED_SERIES`]. Totals count all of them.

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Formatter};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// Maximum number of series of a resource.
pub const SERIES_PER_RESOURCE: usize = 22;

/// Number of series in the reduced set of a resource.
pub const REDUCED_SERIES: usize = 3;

/// Default maximum of resources with all series.
pub const DEFAULT_DETAILED_RESOURCES: usize = 1000;

/// State of a resource for its metrics. Small, because it is kept for each resource.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResourceFacts {
    /// Condition Ready. `None`: unknown.
    pub ready: Option<bool>,
    /// Condition Complete. `None`: unknown.
    pub complete: Option<bool>,
    /// Condition Stalled. `None`: unknown.
    pub stalled: Option<bool>,
    /// Reason of `Ready`, from the closed list of reasons.
    pub reason: Option<&'static str>,
    /// True if `spec.suspend` is set.
    pub suspended: bool,
    /// Numbers of windows wanted, stored, active, waiting and failed.
    pub windows: Option<[u32; 5]>,
    /// Number of windows that the service no longer has.
    pub expired: Option<u32>,
    /// Events stored.
    pub events: Option<u64>,
    /// Bytes stored.
    pub bytes: Option<u64>,
    /// Sessions that are open because of the resource.
    pub sessions: u32,
    /// Number of the newest manifest.
    pub manifest_sequence: Option<u32>,
    /// Time at which a window was last stored.
    pub last_success: Option<Timestamp>,
    /// End of the oldest window that is due and not exported.
    pub oldest_missing: Option<Timestamp>,
    /// Earliest time at which the service may delete that window.
    pub earliest_deletion: Option<Timestamp>,
    /// Scheduled verification of the archive, if any.
    pub verification: Option<Box<VerificationFacts>>,
}

/// State of the scheduled verification of a resource.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VerificationFacts {
    /// Condition Verified. `None`: unknown.
    pub verified: Option<bool>,
    /// End of the last verification of all days.
    pub completed: Option<Timestamp>,
    /// Findings of the verification that runs, or ended last.
    pub findings: u64,
    /// Time at which the next verification is due, or the running one was.
    pub due: Option<Timestamp>,
}

impl ResourceFacts {
    /// Returns the priority for all series, lowest first: needs manual action, fails, suspended, in progress, healthy,
    /// complete.
    fn rank(&self) -> u8 {
        if self.stalled == Some(true) {
            0
        } else if self.suspended {
            2
        } else if self.ready == Some(false) {
            1
        } else if self.complete == Some(true) {
            5
        } else if self.ready == Some(true) && self.oldest_missing.is_none() {
            4
        } else {
            3
        }
    }
}

/// Namespace, name and state of a resource.
pub type NamedResource = (String, String, ResourceFacts);

/// Source of the state of all resources.
pub trait ResourceSource: Send + Sync {
    /// Returns all resources, each once.
    fn all(&self) -> Vec<NamedResource>;
}

/// Collector of the series of resources.
#[derive(Clone)]
pub struct ResourceSeries(Arc<SeriesState>);

struct SeriesState {
    source: Mutex<SeriesSource>,
    detailed: AtomicUsize,
}

impl Default for ResourceSeries {
    fn default() -> Self {
        Self(Arc::new(SeriesState {
            source: Mutex::default(),
            detailed: AtomicUsize::new(DEFAULT_DETAILED_RESOURCES),
        }))
    }
}

#[derive(Default)]
enum SeriesSource {
    #[default]
    Unset,
    Registered(Weak<dyn ResourceSource>),
    Sample(Vec<NamedResource>),
}

impl ResourceSeries {
    /// Sets the source, which is used until it is dropped.
    pub fn set_source(&self, resources: Weak<dyn ResourceSource>) {
        *self.source() = SeriesSource::Registered(resources);
    }

    /// Sets the maximum number of resources with all series.
    pub fn set_detailed(&self, resources: usize) {
        self.0.detailed.store(resources, Ordering::Relaxed);
    }

    fn source(&self) -> std::sync::MutexGuard<'_, SeriesSource> {
        self.0.source.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Vec<NamedResource> {
        match &*self.source() {
            SeriesSource::Unset => Vec::new(),
            SeriesSource::Registered(resources) => {
                resources.upgrade().map(|all| all.all()).unwrap_or_default()
            }
            SeriesSource::Sample(all) => all.clone(),
        }
    }

    pub(super) fn sample(&self) {
        let facts = ResourceFacts {
            ready: Some(true),
            complete: Some(false),
            stalled: Some(false),
            reason: Some("Exporting"),
            suspended: false,
            windows: Some([1; 5]),
            expired: Some(0),
            events: Some(1),
            bytes: Some(1),
            sessions: 0,
            manifest_sequence: Some(1),
            last_success: Some(Timestamp::UNIX_EPOCH),
            oldest_missing: Some(Timestamp::UNIX_EPOCH),
            earliest_deletion: Some(Timestamp::UNIX_EPOCH),
            verification: Some(Box::new(VerificationFacts {
                verified: Some(true),
                completed: Some(Timestamp::UNIX_EPOCH),
                findings: 0,
                due: Some(Timestamp::UNIX_EPOCH),
            })),
        };
        let all = vec![("audit".to_owned(), "june".to_owned(), facts)];
        *self.source() = SeriesSource::Sample(all);
    }
}

impl Debug for ResourceSeries {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResourceSeries").finish_non_exhaustive()
    }
}

type GaugeValue = fn(&ResourceFacts) -> Option<f64>;

/// Number of gauges at the beginning of [`GAUGES`] in the reduced set; the third series is the reason.
const REDUCED_GAUGES: usize = REDUCED_SERIES - 1;

/// Gauges of each resource: name, help, unit, value.
const GAUGES: [(&str, &str, Option<Unit>, GaugeValue); 16] = [
    (
        "resource_ready",
        "Condition Ready: 1 True, 0 False; absent if unknown.",
        None,
        |facts| facts.ready.map(flag),
    ),
    (
        "resource_complete",
        "Condition Complete: 1 True, 0 False; absent if unknown.",
        None,
        |facts| facts.complete.map(flag),
    ),
    (
        "resource_stalled",
        "Condition Stalled: 1 while manual action is required; absent if unknown.",
        None,
        |facts| facts.stalled.map(flag),
    ),
    (
        "resource_suspended",
        "1 while spec.suspend is true, 0 otherwise.",
        None,
        |facts| Some(flag(facts.suspended)),
    ),
    (
        "resource_expired_windows",
        "Number of requested windows that the service no longer has and that no accepted gap covers.",
        None,
        |facts| facts.expired.map(f64::from),
    ),
    (
        "resource_stored_events",
        "Number of events stored in requested windows, by any process.",
        None,
        |facts| facts.events.map(count),
    ),
    (
        "resource_stored",
        "Number of bytes stored in requested windows, by any process.",
        Some(Unit::Bytes),
        |facts| facts.bytes.map(count),
    ),
    (
        "resource_sessions_open",
        "Number of sessions that are open, or may be, because of the resource.",
        None,
        |facts| Some(f64::from(facts.sessions)),
    ),
    (
        "resource_manifest_sequence",
        "Number of the newest manifest of the archive, as status.manifest remembers it; absent if there is none.",
        None,
        |facts| facts.manifest_sequence.map(f64::from),
    ),
    (
        "resource_last_success_timestamp",
        "Time at which a requested window was last stored, by its receipt; absent if there is none, or the bucket was not listed yet.",
        Some(Unit::Seconds),
        |facts| facts.last_success.map(seconds),
    ),
    (
        "resource_oldest_missing_timestamp",
        "End of the oldest window that is due, not stored, not expired and not an accepted gap; absent if there is none.",
        Some(Unit::Seconds),
        |facts| facts.oldest_missing.map(seconds),
    ),
    (
        "resource_source_expiry_timestamp",
        "Earliest time at which the service may delete the oldest missing window; absent if there is none, or if retention is unknown.",
        Some(Unit::Seconds),
        |facts| facts.earliest_deletion.map(seconds),
    ),
    (
        "resource_verified",
        "Condition Verified: 1 True, 0 False; absent if unknown, or without spec.verification.",
        None,
        |facts| facts.verification.as_ref()?.verified.map(flag),
    ),
    (
        "resource_verification_findings",
        "Number of findings of the scheduled verification that runs, or ended last; absent without spec.verification.",
        None,
        |facts| Some(count(facts.verification.as_ref()?.findings)),
    ),
    (
        "resource_last_verification_timestamp",
        "End of the last scheduled verification that read the whole archive; absent if there is none.",
        Some(Unit::Seconds),
        |facts| facts.verification.as_ref()?.completed.map(seconds),
    ),
    (
        "resource_verification_due_timestamp",
        "Time at which the next scheduled verification is due, or the running one was; absent if none is.",
        Some(Unit::Seconds),
        |facts| facts.verification.as_ref()?.due.map(seconds),
    ),
];

const STATES: [&str; 5] = ["wanted", "stored", "active", "waiting", "failed"];

fn flag(set: bool) -> f64 {
    f64::from(u8::from(set))
}

#[allow(clippy::cast_precision_loss)] // exact up to 2^53 (9 PB)
fn count(count: u64) -> f64 {
    count as f64
}

fn seconds(at: Timestamp) -> f64 {
    at.as_duration().as_secs_f64()
}

/// Encodes the totals over all resources, including those without series of their own.
fn encode_totals(all: &[NamedResource], detailed: usize, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let sum = |value: fn(&ResourceFacts) -> Option<u64>| -> u64 {
        all.iter().filter_map(|(_, _, facts)| value(facts)).sum()
    };
    let totals = [
        (
            "resources",
            "Number of resources that this process serves; 0 unless it is the leader.",
            None,
            all.len() as u64,
        ),
        (
            "resources_reduced",
            "Number of resources exported with the reduced set of series: ready, complete and reason (--metrics-resources).",
            None,
            (all.len() - detailed) as u64,
        ),
        (
            "resources_stored_events",
            "Number of events stored in requested windows of all resources.",
            None,
            sum(|facts| facts.events),
        ),
        (
            "resources_stored",
            "Number of bytes stored in requested windows of all resources.",
            Some(Unit::Bytes),
            sum(|facts| facts.bytes),
        ),
    ];
    for (name, help, unit, total) in totals {
        let encoder = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        ConstGauge::new(count(total)).encode(encoder)?;
    }
    let mut reasons = BTreeMap::<&str, u64>::new();
    for reason in all.iter().filter_map(|(_, _, facts)| facts.reason) {
        *reasons.entry(reason).or_default() += 1;
    }
    let help = "Number of resources, by reason of the condition Ready.";
    let mut family = encoder.encode_descriptor("resources_by_reason", help, None, MetricType::Gauge)?;
    for (reason, resources) in reasons {
        ConstGauge::new(count(resources)).encode(family.encode_family(&[("reason", reason)])?)?;
    }
    Ok(())
}

impl Collector for ResourceSeries {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut all = self.all();
        let detailed = all.len().min(self.0.detailed.load(Ordering::Relaxed));
        encode_totals(&all, detailed, &mut encoder)?;
        if detailed < all.len() {
            // A stable order: the same resources at each scrape if nothing changed.
            all.sort_by(|one, other| {
                (one.2.rank(), &one.0, &one.1).cmp(&(other.2.rank(), &other.0, &other.1))
            });
        }
        for (number, (name, help, unit, value)) in GAUGES.iter().enumerate() {
            let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
            let shown = if number < REDUCED_GAUGES {
                all.len()
            } else {
                detailed
            };
            for (namespace, name, facts) in all.iter().take(shown) {
                if let Some(value) = value(facts) {
                    let labels = [("namespace", namespace.as_str()), ("name", name.as_str())];
                    ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        let help =
            "Number of windows, by state; wanted counts all windows that the spec requests up to today.";
        let mut family = encoder.encode_descriptor("resource_windows", help, None, MetricType::Gauge)?;
        for (namespace, name, facts) in all.iter().take(detailed) {
            for (state, windows) in STATES.iter().zip(facts.windows.into_iter().flatten()) {
                let labels = [
                    ("namespace", namespace.as_str()),
                    ("name", name.as_str()),
                    ("state", state),
                ];
                ConstGauge::new(f64::from(windows)).encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "1, with the reason of the condition Ready as a label.";
        let mut family = encoder.encode_descriptor("resource_reason", help, None, MetricType::Gauge)?;
        for (namespace, name, facts) in &all {
            if let Some(reason) = facts.reason {
                let labels = [
                    ("namespace", namespace.as_str()),
                    ("name", name.as_str()),
                    ("reason", reason),
                ];
                ConstGauge::new(1_i64).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    struct OneResource;

    impl ResourceSource for OneResource {
        fn all(&self) -> Vec<NamedResource> {
            vec![("a".to_owned(), "b".to_owned(), ResourceFacts::default())]
        }
    }

    #[test]
    fn a_resource_has_the_documented_number_of_series() {
        let text = Metrics::sample().text();
        let series = text.lines().filter(|line| line.contains("name=\"june\"")).count();
        assert_eq!(series, SERIES_PER_RESOURCE, "{text}");
    }

    struct ThreeResources;

    impl ResourceSource for ThreeResources {
        fn all(&self) -> Vec<NamedResource> {
            let named = |name: &str, complete, ready, reason| {
                let facts = ResourceFacts {
                    complete: Some(complete),
                    ready: Some(ready),
                    reason: Some(reason),
                    windows: Some([1; 5]),
                    events: Some(7),
                    ..ResourceFacts::default()
                };
                ("audit".to_owned(), name.to_owned(), facts)
            };
            vec![
                named("done", true, true, "Complete"),
                named("works", false, true, "Exporting"),
                named("fails", false, false, "BucketFull"),
            ]
        }
    }

    #[test]
    fn failing_resources_keep_all_series_and_totals_count_all() {
        let metrics = Metrics::default();
        let known: Arc<dyn ResourceSource> = Arc::new(ThreeResources);
        metrics.resources.set_source(Arc::downgrade(&known));
        metrics.resources.set_detailed(2);
        let text = metrics.text();
        let series = |name: &str| text.matches(&format!(",name=\"{name}\"")).count();
        assert_eq!(series("done"), REDUCED_SERIES, "{text}");
        assert_eq!(series("fails"), series("works"), "{text}");
        assert!(series("fails") > REDUCED_SERIES, "{text}");
        for line in [
            "eventexport_resources 3.0\n",
            "eventexport_resources_reduced 1.0\n",
            "eventexport_resources_stored_events 21.0\n",
            "eventexport_resources_by_reason{reason=\"Complete\"} 1.0\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn unknown_facts_and_dropped_sources_have_no_series() {
        let metrics = Metrics::default();
        let known: Arc<dyn ResourceSource> = Arc::new(OneResource);
        metrics.resources.set_source(Arc::downgrade(&known));
        let text = metrics.text();
        assert!(text.contains("eventexport_resources 1.0\n"), "{text}");
        assert!(
            text.contains("eventexport_resource_suspended{namespace=\"a\",name=\"b\"} 0.0\n"),
            "{text}"
        );
        assert!(!text.contains("eventexport_resource_ready{"), "{text}");
        drop(known);
        assert!(!metrics.text().contains("name=\"b\""));
    }
}
