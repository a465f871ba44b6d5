//! What is known of each resource: asked at each scrape of whoever knows it, so that a resource that is gone has no
//! series, and one that is there has its own from the first look on.
//!
//! Bounded: a resource has at most [`SERIES_PER_RESOURCE`] series, with the labels `namespace` and `name`. Where there are
//! many resources, so many have them, those that need somebody first, and the others [`BRIEF_SERIES`]. Totals count
//! all of them.

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

/// Series that one resource has at most.
pub const SERIES_PER_RESOURCE: usize = 17;

/// Series that one of many has.
pub const BRIEF_SERIES: usize = 3;

/// Resources that have all series, if nothing else is said.
pub const DEFAULT_DETAILED_RESOURCES: usize = 1000;

/// What is known of a resource. Small: it is kept for each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResourceFacts {
    /// The conditions; `None`: unknown.
    pub ready: Option<bool>,
    /// As above.
    pub complete: Option<bool>,
    /// As above.
    pub stalled: Option<bool>,
    /// The reason of `Ready`, from the closed list of reasons.
    pub reason: Option<&'static str>,
    /// Whether `spec.suspend` is set.
    pub suspended: bool,
    /// Windows wanted, stored, active, waiting and failed.
    pub windows: Option<[u64; 5]>,
    /// Windows that the service no longer has.
    pub expired: Option<u64>,
    /// Events stored.
    pub events: Option<u64>,
    /// Bytes stored.
    pub bytes: Option<u64>,
    /// Sessions that are open because of it.
    pub sessions: u64,
    /// When a window was stored last.
    pub last_success: Option<Timestamp>,
    /// When the oldest window that is due and not exported ended.
    pub oldest_missing: Option<Timestamp>,
    /// When the service may delete it.
    pub earliest_deletion: Option<Timestamp>,
}

impl ResourceFacts {
    /// Who is shown first where not all are: what needs a person, what fails, what is suspended,
    /// what works, what rests.
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

/// A resource by name, with what is known of it.
pub type NamedResource = (String, String, ResourceFacts);

/// Who knows the resources.
pub trait ResourceSource: Send + Sync {
    /// All of them, each once.
    fn all(&self) -> Vec<NamedResource>;
}

/// The series of resources.
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
    /// From now on that one is asked, until it is gone.
    pub fn set_source(&self, resources: Weak<dyn ResourceSource>) {
        *self.source() = SeriesSource::Registered(resources);
    }

    /// How many resources have all series.
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
            last_success: Some(Timestamp::UNIX_EPOCH),
            oldest_missing: Some(Timestamp::UNIX_EPOCH),
            earliest_deletion: Some(Timestamp::UNIX_EPOCH),
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

/// Gauges at the beginning of [`GAUGES`] that each resource has; the third series is its reason.
const BRIEF_GAUGES: usize = BRIEF_SERIES - 1;

/// A gauge of each resource: name, meaning, unit, value.
const GAUGES: [(&str, &str, Option<Unit>, GaugeValue); 11] = [
    (
        "resource_ready",
        "The condition Ready: 1 True, 0 False; absent: unknown",
        None,
        |facts| facts.ready.map(flag),
    ),
    (
        "resource_complete",
        "The condition Complete: 1 True, 0 False; absent: unknown",
        None,
        |facts| facts.complete.map(flag),
    ),
    (
        "resource_stalled",
        "The condition Stalled: 1 while a person is needed; absent: unknown",
        None,
        |facts| facts.stalled.map(flag),
    ),
    (
        "resource_suspended",
        "1 while spec.suspend is true",
        None,
        |facts| Some(flag(facts.suspended)),
    ),
    (
        "resource_expired_windows",
        "Wanted windows that the service no longer has and that no accepted gap covers",
        None,
        |facts| facts.expired.map(count),
    ),
    (
        "resource_stored_events",
        "Events of the wanted windows that are stored, whoever stored them",
        None,
        |facts| facts.events.map(count),
    ),
    (
        "resource_stored",
        "Bytes of the wanted windows that are stored, whoever stored them",
        Some(Unit::Bytes),
        |facts| facts.bytes.map(count),
    ),
    (
        "resource_sessions_open",
        "Sessions that are open, or may be, because of the resource",
        None,
        |facts| Some(count(facts.sessions)),
    ),
    (
        "resource_last_success_timestamp",
        "When a wanted window was stored last, by its receipt; absent: none is, or the bucket was not seen yet",
        Some(Unit::Seconds),
        |facts| facts.last_success.map(seconds),
    ),
    (
        "resource_oldest_missing_timestamp",
        "When the oldest window that is due, not stored, not expired and not accepted ended; absent: there is none",
        Some(Unit::Seconds),
        |facts| facts.oldest_missing.map(seconds),
    ),
    (
        "resource_source_deletes_timestamp",
        "The earliest time at which the service may delete that window; absent: there is none, or retention is unknown",
        Some(Unit::Seconds),
        |facts| facts.earliest_deletion.map(seconds),
    ),
];

const STATES: [&str; 5] = ["wanted", "stored", "active", "waiting", "failed"];

fn flag(set: bool) -> f64 {
    f64::from(u8::from(set))
}

#[allow(clippy::cast_precision_loss)] // exact below 2^53, which is 9 PB
fn count(count: u64) -> f64 {
    count as f64
}

fn seconds(at: Timestamp) -> f64 {
    at.as_duration().as_secs_f64()
}

/// What all resources come to, whether or not they have series of their own.
fn encode_totals(all: &[NamedResource], detailed: usize, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let sum = |value: fn(&ResourceFacts) -> Option<u64>| -> u64 {
        all.iter().filter_map(|(_, _, facts)| value(facts)).sum()
    };
    let totals = [
        (
            "resources",
            "Resources that this process knows: 0 unless it is the active one",
            None,
            all.len() as u64,
        ),
        (
            "resources_in_brief",
            "Of those, how many have the series of ready, complete and reason only (--metrics-resources)",
            None,
            (all.len() - detailed) as u64,
        ),
        (
            "resources_stored_events",
            "Events of the wanted windows of all resources that are stored",
            None,
            sum(|facts| facts.events),
        ),
        (
            "resources_stored",
            "Bytes of the wanted windows of all resources that are stored",
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
    let help = "Resources by the reason of the condition Ready";
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
            // The same ones each time, where nothing changed.
            all.sort_by(|one, other| {
                (one.2.rank(), &one.0, &one.1).cmp(&(other.2.rank(), &other.0, &other.1))
            });
        }
        for (number, (name, help, unit, value)) in GAUGES.iter().enumerate() {
            let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
            let shown = if number < BRIEF_GAUGES {
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
        let help = "Windows by state; wanted are all that the spec asks for up to today";
        let mut family = encoder.encode_descriptor("resource_windows", help, None, MetricType::Gauge)?;
        for (namespace, name, facts) in all.iter().take(detailed) {
            for (state, windows) in STATES.iter().zip(facts.windows.into_iter().flatten()) {
                let labels = [
                    ("namespace", namespace.as_str()),
                    ("name", name.as_str()),
                    ("state", state),
                ];
                ConstGauge::new(count(windows)).encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "1, with the reason of the condition Ready";
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
        assert_eq!(series("done"), BRIEF_SERIES, "{text}");
        assert_eq!(series("fails"), series("works"), "{text}");
        assert!(series("fails") > BRIEF_SERIES, "{text}");
        for line in [
            "eventexport_resources 3.0\n",
            "eventexport_resources_in_brief 1.0\n",
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
