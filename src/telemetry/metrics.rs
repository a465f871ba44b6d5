//! The numbers of a process, in the text format of Prometheus. Each says exactly what it counts; labels are from
//! closed lists, so that the number of series is bounded. No I/O.

use std::sync::Arc;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// How something ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types)] // the label's value as Prometheus users write it
pub enum Outcome {
    /// As meant.
    ok,
    /// Not, and tried again.
    error,
}

/// The label of what can go well or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByOutcome {
    /// How it ended.
    pub outcome: Outcome,
}

/// All numbers of a process. Cheap to clone; clones count into the same numbers.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    /// Looks at a resource by the operator.
    pub reconciles: Family<ByOutcome, Counter>,
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
        let mut registry = Registry::with_prefix("eventexport");
        let reconciles = Family::default();
        let (status_writes, run_panics, sessions_left) =
            (Counter::default(), Counter::default(), Counter::default());
        let (releases_given_up, events_suppressed) = (Counter::default(), Counter::default());
        let (runs, sessions_open, leader) = (Gauge::default(), Gauge::default(), Gauge::default());
        registry.register(
            "reconciles",
            "Looks at a resource, by outcome",
            reconciles.clone(),
        );
        registry.register(
            "status_writes",
            "Statuses written to the API server",
            status_writes.clone(),
        );
        registry.register("runs", "Exports under way in this process", runs.clone());
        registry.register("run_panics", "Runs that ended in a panic", run_panics.clone());
        registry.register(
            "sessions_open",
            "Sessions that this process may hold open",
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
        registry.register("leader", "1 while this process is the active one", leader.clone());
        registry.register(
            "events_suppressed",
            "Kubernetes Events not sent: too many",
            events_suppressed.clone(),
        );
        Self {
            registry: Arc::new(registry),
            reconciles,
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
    pub fn reconciled(&self, outcome: Outcome) {
        self.reconciles.get_or_create(&ByOutcome { outcome }).inc();
    }
}

/// A share of a gauge that goes away with its owner, however that ends.
#[derive(Debug)]
pub struct Share {
    gauge: Gauge,
    counted: i64,
}

impl Share {
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

impl Drop for Share {
    fn drop(&mut self) {
        self.gauge.dec_by(self.counted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_goes_away_with_its_owner() {
        let metrics = Metrics::default();
        let (mut one, mut two) = (
            Share::of(&metrics.sessions_open),
            Share::of(&metrics.sessions_open),
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
    fn counters_end_in_total() {
        let metrics = Metrics::default();
        metrics.reconciled(Outcome::ok);
        assert!(
            metrics
                .text()
                .contains("eventexport_reconciles_total{outcome=\"ok\"} 1\n"),
            "{}",
            metrics.text()
        );
    }
}
