//! What is known of each resource: asked at each scrape of whoever knows it, so that a resource that is gone has no
//! series, and one that is there has its own from the first look on.
//!
//! Bounded by the resources: at most [`SERIES_OF_RESOURCE`] series each, with the labels `namespace` and `name`.

use std::fmt::{self, Debug, Formatter};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// Series that one resource has at most.
pub const SERIES_OF_RESOURCE: usize = 17;

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
    pub deleted_from: Option<Timestamp>,
}

/// A resource by name, with what is known of it.
pub type Named = (String, String, ResourceFacts);

/// Who knows the resources.
pub trait Resources: Send + Sync {
    /// All of them, each once.
    fn all(&self) -> Vec<Named>;
}

/// The series of resources.
#[derive(Clone, Default)]
pub struct ResourceSeries(Arc<Mutex<Source>>);

#[derive(Default)]
enum Source {
    #[default]
    Nobody,
    Whoever(Weak<dyn Resources>),
    Sample(Vec<Named>),
}

impl ResourceSeries {
    /// From now on that one is asked, until it is gone.
    pub fn ask(&self, resources: Weak<dyn Resources>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Source::Whoever(resources);
    }

    fn all(&self) -> Vec<Named> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Source::Nobody => Vec::new(),
            Source::Whoever(resources) => resources.upgrade().map(|all| all.all()).unwrap_or_default(),
            Source::Sample(all) => all.clone(),
        }
    }

    pub(super) fn sample(&self) {
        let facts = ResourceFacts {
            ready: Some(true),
            complete: Some(true),
            stalled: Some(false),
            reason: Some("Complete"),
            suspended: false,
            windows: Some([1; 5]),
            expired: Some(0),
            events: Some(1),
            bytes: Some(1),
            sessions: 0,
            last_success: Some(Timestamp::UNIX_EPOCH),
            oldest_missing: Some(Timestamp::UNIX_EPOCH),
            deleted_from: Some(Timestamp::UNIX_EPOCH),
        };
        let all = vec![("audit".to_owned(), "june".to_owned(), facts)];
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Source::Sample(all);
    }
}

impl Debug for ResourceSeries {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResourceSeries").finish_non_exhaustive()
    }
}

type Value = fn(&ResourceFacts) -> Option<f64>;

/// A gauge of each resource: name, meaning, unit, value.
const GAUGES: [(&str, &str, Option<Unit>, Value); 11] = [
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
        |facts| facts.deleted_from.map(seconds),
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

impl Collector for ResourceSeries {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let all = self.all();
        let named = |(namespace, name, _): &Named| [("namespace", namespace.clone()), ("name", name.clone())];
        let help = "Resources that this process knows: 0 unless it is the active one";
        ConstGauge::new(count(all.len() as u64)).encode(encoder.encode_descriptor(
            "resources",
            help,
            None,
            MetricType::Gauge,
        )?)?;
        for (name, help, unit, value) in &GAUGES {
            let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
            for resource in &all {
                if let Some(value) = value(&resource.2) {
                    ConstGauge::new(value).encode(family.encode_family(&named(resource))?)?;
                }
            }
        }
        let help = "Windows by state; wanted are all that the spec asks for up to today";
        let mut family = encoder.encode_descriptor("resource_windows", help, None, MetricType::Gauge)?;
        for resource in &all {
            let (namespace, name, facts) = resource;
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

    struct Some2018;

    impl Resources for Some2018 {
        fn all(&self) -> Vec<Named> {
            vec![("a".to_owned(), "b".to_owned(), ResourceFacts::default())]
        }
    }

    #[test]
    fn a_resource_has_as_many_series_as_is_written_down() {
        let text = Metrics::sample().text();
        let series = text.lines().filter(|line| line.contains("name=\"june\"")).count();
        assert_eq!(series, SERIES_OF_RESOURCE, "{text}");
    }

    #[test]
    fn what_is_unknown_is_absent_and_who_is_gone_has_no_series() {
        let metrics = Metrics::default();
        let known: Arc<dyn Resources> = Arc::new(Some2018);
        metrics.resources.ask(Arc::downgrade(&known));
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
