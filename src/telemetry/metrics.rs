//! Metrics of a process, in the text format of Prometheus. Labels are from closed lists, except for the names of
//! resources and spaces, so that the number of series is bounded. No I/O, except that each scrape reads the metrics of
//! the process from the kernel.

mod engine;
mod load;
mod process;
mod resources;
mod view;

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

pub use engine::EngineMetrics;
pub use load::LoadCollector;
pub use resources::{
    DEFAULT_DETAILED_RESOURCES, NamedResource, REDUCED_SERIES, ResourceFacts, ResourceSeries, ResourceSource,
    SERIES_PER_RESOURCE, VerificationFacts,
};
pub use view::{MAX_VIEW_AGE, ResourceView};

/// Buckets of the duration of a reconcile, in seconds.
const RECONCILE_SECONDS: [f64; 9] = [0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0];

/// Result of a reconcile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types)] // the variants are the values of the label
pub enum ReconcileResult {
    /// Succeeded.
    success,
    /// Failed; will be retried.
    error,
}

/// Labels of reconciles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReconcileLabels {
    /// Result of the reconcile.
    pub result: ReconcileResult,
}

/// Flag that names a file of allowed hosts or grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessFlag {
    /// `--allow-host-file`.
    AllowHostFile,
    /// `--grant-identity-file`.
    GrantIdentityFile,
}

impl AccessFlag {
    /// All flags.
    pub const ALL: [Self; 2] = [Self::AllowHostFile, Self::GrantIdentityFile];

    /// Returns the name of the flag, without dashes.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AllowHostFile => "allow-host-file",
            Self::GrantIdentityFile => "grant-identity-file",
        }
    }
}

impl EncodeLabelValue for AccessFlag {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.as_str().encode(encoder)
    }
}

/// Labels of the files of allowed hosts and grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AccessFileLabels {
    flag: AccessFlag,
}

/// Metrics of a process. Cheap to clone; clones share their values.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    /// Requests, windows and bytes, as counted by clients and engine.
    pub engine: Arc<EngineMetrics>,
    /// Load of the engine, read at each scrape.
    pub load: LoadCollector,
    /// State of each resource, read at each scrape.
    pub resources: ResourceSeries,
    /// Reconciles by the operator.
    reconciles: Family<ReconcileLabels, Counter>,
    reconcile_duration: Histogram,
    /// Status updates written to the API server.
    pub status_writes: Counter,
    /// Runs in progress in this process.
    pub runs: Gauge,
    /// Runs that ended in a panic.
    pub run_panics: Counter,
    /// Sessions that this process holds, or may hold, open at the service.
    pub sessions_open: Gauge,
    /// Sessions that were still open when the finalizer of their resource was removed.
    pub sessions_left: Counter,
    /// Resources whose finalizer was removed while sessions may still be open.
    pub deletions_abandoned: Counter,
    /// 1 while this process is the leader.
    pub leader: Gauge,
    /// Kubernetes Events that were not sent because a resource exceeded its rate limit.
    pub events_suppressed: Counter,
    /// Validity of the files of allowed hosts and grants.
    access_files: Family<AccessFileLabels, Gauge>,
    /// Age of the view of the resources.
    pub view: ResourceView,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut all = Registry::default();
        all.register_collector(Box::new(process::ProcessCollector::new()));
        let view = ResourceView::default();
        all.register_collector(Box::new(view.clone()));
        let registry = all.sub_registry_with_prefix("eventexport");
        let reconciles = Family::default();
        let reconcile_duration = Histogram::new(RECONCILE_SECONDS);
        let (status_writes, run_panics, sessions_left) =
            (Counter::default(), Counter::default(), Counter::default());
        let (deletions_abandoned, events_suppressed) = (Counter::default(), Counter::default());
        let (runs, sessions_open, leader) = (Gauge::default(), Gauge::default(), Gauge::default());
        registry.register(
            "build",
            "Build information about eventexport",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register(
            "leader",
            "1 while this process is the leader, 0 otherwise",
            leader.clone(),
        );
        registry.register(
            "reconciles",
            "Total reconciliations, by result",
            reconciles.clone(),
        );
        registry.register_with_unit(
            "reconcile_duration",
            "Duration of a reconciliation",
            Unit::Seconds,
            reconcile_duration.clone(),
        );
        registry.register(
            "status_writes",
            "Total status updates written to the API server",
            status_writes.clone(),
        );
        registry.register(
            "events_suppressed",
            "Total Kubernetes Events not sent because a resource exceeded its rate limit",
            events_suppressed.clone(),
        );
        registry.register(
            "runs",
            "Current number of export runs in this process",
            runs.clone(),
        );
        registry.register(
            "run_panics",
            "Total runs that ended in a panic (a defect: report it)",
            run_panics.clone(),
        );
        registry.register(
            "sessions_open",
            "Current number of sessions that this process holds, or may hold, open in all spaces",
            sessions_open.clone(),
        );
        registry.register(
            "deletion_sessions_left",
            "Total sessions still open when the finalizer of a deleted resource was removed",
            sessions_left.clone(),
        );
        registry.register(
            "deletion_abandoned",
            "Total deleted resources whose finalizer was removed while sessions may still be open",
            deletions_abandoned.clone(),
        );
        let access_files = Family::default();
        registry.register(
            "access_file_valid",
            "1 while the content of the file of this flag is in use, 0 while it is invalid and earlier content is in use",
            access_files.clone(),
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
            deletions_abandoned,
            leader,
            events_suppressed,
            access_files,
            view,
        }
    }
}

impl Metrics {
    /// Returns all metrics in the text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// Counts a reconcile.
    pub fn reconciled(&self, result: ReconcileResult, took: Duration) {
        self.reconciles.get_or_create(&ReconcileLabels { result }).inc();
        self.reconcile_duration.observe(took.as_secs_f64());
    }

    /// Records if the content of the file of a flag is in use.
    pub fn access_file(&self, flag: AccessFlag, valid: bool) {
        self.access_files
            .get_or_create(&AccessFileLabels { flag })
            .set(valid.into());
    }

    /// Returns metrics with one invented series each, for the documentation of names, types and labels.
    pub fn sample() -> Self {
        let metrics = Self::default();
        metrics.reconciled(ReconcileResult::success, Duration::ZERO);
        metrics.access_file(AccessFlag::AllowHostFile, true);
        metrics.engine.sample();
        metrics.load.sample();
        metrics.resources.sample();
        metrics.view.start("", std::time::Instant::now());
        metrics
    }
}

/// Share of a gauge that is subtracted when it is dropped.
#[derive(Debug)]
pub struct GaugeShare {
    gauge: Gauge,
    counted: i64,
}

impl GaugeShare {
    /// Creates a share of zero.
    pub fn of(gauge: &Gauge) -> Self {
        Self {
            gauge: gauge.clone(),
            counted: 0,
        }
    }

    /// Sets the share to `count`.
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
    fn a_dropped_share_is_subtracted_from_the_gauge() {
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
            "eventexport_reconciles_total{result=\"success\"} 1\n",
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
