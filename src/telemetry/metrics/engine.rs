//! Metrics that clients and engine count: requests, retries, windows, bytes. Labels are from closed lists: names of
//! peers and operations in this program, status codes, reasons.

use std::fmt;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::api::Reason;
use crate::egress::{Peer, RequestLabel, RequestMetrics};
use crate::export::observer::{EngineObserver, WindowResult};

/// Buckets of the duration of a request, up to the head of the response, in seconds.
const REQUEST_SECONDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// Buckets of the duration of a window, in seconds: an attempt ends after six hours.
const WINDOW_SECONDS: [f64; 10] = [
    0.25, 1.0, 2.5, 10.0, 30.0, 60.0, 300.0, 1_200.0, 3_600.0, 21_600.0,
];

/// Status code label of a request without response.
const NO_RESPONSE: &str = "none";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    peer: &'static str,
    operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResponseLabels {
    peer: &'static str,
    operation: &'static str,
    /// 100–599, or `none`.
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PeerLabels {
    peer: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WindowLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    reason: &'static str,
}

#[derive(Clone)]
struct RequestDurationHistogram;

impl MetricConstructor<Histogram> for RequestDurationHistogram {
    fn new_metric(&self) -> Histogram {
        Histogram::new(REQUEST_SECONDS)
    }
}

/// Metrics of clients and engine.
pub struct EngineMetrics {
    requests: Family<ResponseLabels, Counter>,
    request_duration: Family<OperationLabels, Histogram, RequestDurationHistogram>,
    retries: Family<PeerLabels, Counter>,
    windows: Family<WindowLabels, Counter>,
    failures: Family<FailureLabels, Counter>,
    window_duration: Histogram,
    downloaded: Counter,
    stored_bytes: Counter,
    stored_events: Counter,
    late_events: Counter,
}

impl EngineMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            request_duration: Family::new_with_constructor(RequestDurationHistogram),
            retries: Family::default(),
            windows: Family::default(),
            failures: Family::default(),
            window_duration: Histogram::new(WINDOW_SECONDS),
            downloaded: Counter::default(),
            stored_bytes: Counter::default(),
            stored_events: Counter::default(),
            late_events: Counter::default(),
        };
        registry.register(
            "requests",
            "Total requests sent, by peer, operation and status code (none: no response)",
            metrics.requests.clone(),
        );
        registry.register_with_unit(
            "request_duration",
            "Time from sending a request to the head of its response, by peer and operation",
            Unit::Seconds,
            metrics.request_duration.clone(),
        );
        registry.register(
            "retries",
            "Total repeated requests and resumed downloads, by peer",
            metrics.retries.clone(),
        );
        registry.register(
            "windows",
            "Total finished attempts at windows, by outcome",
            metrics.windows.clone(),
        );
        registry.register(
            "window_failures",
            "Total attempts at windows that failed or must wait, by reason",
            metrics.failures.clone(),
        );
        registry.register_with_unit(
            "window_duration",
            "Duration of an attempt at a window, from getting a slot to its end",
            Unit::Seconds,
            metrics.window_duration.clone(),
        );
        registry.register_with_unit(
            "downloaded",
            "Total bytes of events received from the service, stored or not",
            Unit::Bytes,
            metrics.downloaded.clone(),
        );
        registry.register_with_unit(
            "stored",
            "Total bytes of events stored and proved by this process",
            Unit::Bytes,
            metrics.stored_bytes.clone(),
        );
        registry.register(
            "stored_events",
            "Total events stored and proved by this process",
            metrics.stored_events.clone(),
        );
        registry.register(
            "late_events",
            "Total events that the service reported after their day was stored, and that are stored now too",
            metrics.late_events.clone(),
        );
        metrics
    }

    pub(super) fn sample(&self) {
        let label = RequestLabel {
            peer: Peer::Tracker,
            operation: "Download",
        };
        self.record_response(label, Some(200), Duration::ZERO);
        self.record_retry(Peer::Tracker);
        self.window_finished(WindowResult::Stored { events: 1, bytes: 1 }, Duration::ZERO);
        self.window_finished(WindowResult::Failed(Reason::DownloadIncomplete), Duration::ZERO);
    }
}

impl fmt::Debug for EngineMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineMetrics").finish_non_exhaustive()
    }
}

impl RequestMetrics for EngineMetrics {
    fn record_response(&self, label: RequestLabel, status: Option<u16>, took: Duration) {
        let (peer, operation) = (label.peer.as_str(), label.operation);
        let code = status
            .filter(|code| (100..600).contains(code))
            .map_or_else(|| NO_RESPONSE.to_owned(), |code| code.to_string());
        let labels = ResponseLabels {
            peer,
            operation,
            code,
        };
        self.requests.get_or_create(&labels).inc();
        let seconds = self
            .request_duration
            .get_or_create(&OperationLabels { peer, operation });
        seconds.observe(took.as_secs_f64());
    }

    fn record_retry(&self, peer: Peer) {
        let peer = peer.as_str();
        self.retries.get_or_create(&PeerLabels { peer }).inc();
    }
}

impl EngineObserver for EngineMetrics {
    fn window_finished(&self, end: WindowResult, took: Duration) {
        let outcome = match end {
            WindowResult::Stored { events, bytes } => {
                self.stored_events.inc_by(events);
                self.stored_bytes.inc_by(bytes);
                "stored"
            }
            WindowResult::Revised { events, bytes } => {
                self.stored_events.inc_by(events);
                self.late_events.inc_by(events);
                self.stored_bytes.inc_by(bytes);
                "revised"
            }
            WindowResult::Unchanged => "unchanged",
            WindowResult::Empty => "empty",
            WindowResult::Covered => "covered",
            WindowResult::Expired => "expired",
            WindowResult::Failed(reason) => {
                let reason = reason.as_str();
                self.failures.get_or_create(&FailureLabels { reason }).inc();
                "failed"
            }
            WindowResult::Yielded => "yielded",
            WindowResult::Stopped => "stopped",
        };
        self.windows.get_or_create(&WindowLabels { outcome }).inc();
        self.window_duration.observe(took.as_secs_f64());
    }

    fn bytes_downloaded(&self, bytes: u64) {
        self.downloaded.inc_by(bytes);
    }
}
