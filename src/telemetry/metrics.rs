//! The numbers of a process, in the text format of Prometheus. Each says exactly what it counts; labels are from
//! closed lists, but for the names of resources and spaces, so that the number of series is bounded. No I/O, but for
//! the process's own numbers, which the kernel is asked for at each scrape.

mod engine;
mod load;
mod process;
mod resources;

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

pub use engine::EngineMetrics;
pub use load::LoadCollector;
pub use resources::{
    BRIEF_SERIES, DEFAULT_DETAILED_RESOURCES, NamedResource, ResourceFacts, ResourceSeries, ResourceSource,
    SERIES_PER_RESOURCE,
};

/// Bounds of the histogram of looks at a resource, in seconds.
const RECONCILE_SECONDS: [f64; 9] = [0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0];

/// How something ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types)] // the label's value as Prometheus users write it
pub enum ReconcileResult {
    /// As meant.
    ok,
    /// Not, and tried again.
    error,
}

/// The label of what can go well or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReconcileLabels {
    /// How it ended.
    pub outcome: ReconcileResult,
}

/// All numbers of a process. Cheap to clone; clones count into the same numbers.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    /// Requests, windows and bytes: what peers and the engine tell.
    pub engine: Arc<EngineMetrics>,
    /// Who knows how busy the engine is, asked at each scrape.
    pub load: LoadCollector,
    /// Who knows each resource, asked at each scrape.
    pub resources: ResourceSeries,
    /// Looks at a resource by the operator.
    reconciles: Family<ReconcileLabels, Counter>,
    reconcile_duration: Histogram,
    /// Statuses written to the API server.
    pub status_writes: Counter,
    /// Runs under way in this process.
    pub runs: Gauge,
    /// Runs that ended in a panic.
    pub run_panics: Counter,
    /// Sessions that exports of this process hold, or may hold, open at the service.
    pub sessions_open: Gauge,
    /// Sessions that were still open when a deleted resource was let go.
    pub sessions_left: Counter,
    /// Deleted resources that were let go although it is not known that no session is left.
    pub releases_given_up: Counter,
    /// 1 while this process is the active one.
    pub leader: Gauge,
    /// Kubernetes Events that were not sent because an export had too many.
    pub events_suppressed: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut all = Registry::default();
        all.register_collector(Box::new(process::ProcessCollector::new()));
        let registry = all.sub_registry_with_prefix("eventexport");
        let reconciles = Family::default();
        let reconcile_duration = Histogram::new(RECONCILE_SECONDS);
        let (status_writes, run_panics, sessions_left) =
            (Counter::default(), Counter::default(), Counter::default());
        let (releases_given_up, events_suppressed) = (Counter::default(), Counter::default());
        let (runs, sessions_open, leader) = (Gauge::default(), Gauge::default(), Gauge::default());
        registry.register(
            "build",
            "The software that answers",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register("leader", "1 while this process is the active one", leader.clone());
        registry.register(
            "reconciles",
            "Looks at a resource, by outcome",
            reconciles.clone(),
        );
        registry.register_with_unit(
            "reconcile_duration",
            "How long a look at a resource took",
            Unit::Seconds,
            reconcile_duration.clone(),
        );
        registry.register(
            "status_writes",
            "Statuses written to the API server",
            status_writes.clone(),
        );
        registry.register(
            "events_suppressed",
            "Kubernetes Events not sent: too many of one resource",
            events_suppressed.clone(),
        );
        registry.register("runs", "Exports under way in this process", runs.clone());
        registry.register(
            "run_panics",
            "Runs that ended in a panic: a defect, report it",
            run_panics.clone(),
        );
        registry.register(
            "sessions_open",
            "Sessions that this process may hold open, over all spaces",
            sessions_open.clone(),
        );
        registry.register(
            "deletion_sessions_left",
            "Sessions still open when a deleted resource was let go",
            sessions_left.clone(),
        );
        registry.register(
            "deletion_given_up",
            "Deleted resources let go without knowing that no session is left",
            releases_given_up.clone(),
        );
        let engine = Arc::new(EngineMetrics::new(registry));
        let (load, resources) = (LoadCollector::default(), ResourceSeries::default());
        registry.register_collector(Box::new(load.clone()));
        registry.register_collector(Box::new(resources.clone()));
        Self {
            registry: Arc::new(all),
            engine,
            load,
            resources,
            reconciles,
            reconcile_duration,
            status_writes,
            runs,
            run_panics,
            sessions_open,
            sessions_left,
            releases_given_up,
            leader,
            events_suppressed,
        }
    }
}

impl Metrics {
    /// All numbers, as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// Counts a look at a resource.
    pub fn reconciled(&self, outcome: ReconcileResult, took: Duration) {
        self.reconciles.get_or_create(&ReconcileLabels { outcome }).inc();
        self.reconcile_duration.observe(took.as_secs_f64());
    }

    /// One series of everything there is, made up: for the documentation, which lists names, types and labels.
    pub fn sample() -> Self {
        let metrics = Self::default();
        metrics.reconciled(ReconcileResult::ok, Duration::ZERO);
        metrics.engine.sample();
        metrics.load.sample();
        metrics.resources.sample();
        metrics
    }
}

/// A share of a gauge that goes away with its owner, however that ends.
#[derive(Debug)]
pub struct GaugeShare {
    gauge: Gauge,
    counted: i64,
}

impl GaugeShare {
    /// Nothing yet.
    pub fn of(gauge: &Gauge) -> Self {
        Self {
            gauge: gauge.clone(),
            counted: 0,
        }
    }

    /// The share is so much now.
    pub fn set(&mut self, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.gauge.inc_by(count - self.counted);
        self.counted = count;
    }
}

impl Drop for GaugeShare {
    fn drop(&mut self) {
        self.gauge.dec_by(self.counted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_share_leaves_the_gauge() {
        let metrics = Metrics::default();
        let (mut one, mut two) = (
            GaugeShare::of(&metrics.sessions_open),
            GaugeShare::of(&metrics.sessions_open),
        );
        one.set(3);
        two.set(2);
        one.set(1);
        assert_eq!(metrics.sessions_open.get(), 3);
        drop(two);
        assert!(
            metrics.text().contains("eventexport_sessions_open 1\n"),
            "{}",
            metrics.text()
        );
    }

    #[test]
    fn metric_names_follow_prometheus_conventions() {
        let text = Metrics::sample().text();
        for line in [
            "eventexport_reconciles_total{outcome=\"ok\"} 1\n",
            "eventexport_reconcile_duration_seconds_count 1\n",
            "eventexport_requests_total{peer=\"tracker\",operation=\"Download\",code=\"200\"} 1\n",
            "eventexport_windows_total{outcome=\"stored\"} 1\n",
            "eventexport_resource_ready{namespace=\"audit\",name=\"june\"} 1.0\n",
            "process_resident_memory_bytes ",
            "eventexport_build_info{version=\"",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
