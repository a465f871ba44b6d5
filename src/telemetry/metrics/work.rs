//! What peers and the engine tell as they go: requests, retries, windows, bytes. Labels are from closed lists: peers
//! and operations of our own naming, status codes, reasons.

use std::fmt;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::api::Reason;
use crate::egress::{Asked, Meter, Peer};
use crate::export::observer::{Observer, WindowEnd};

/// Bounds of the histogram of requests, in seconds: up to the head of the reply.
const REQUEST_SECONDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// Bounds of the histogram of windows, in seconds: an attempt ends after six hours.
const WINDOW_SECONDS: [f64; 10] = [
    0.25, 1.0, 2.5, 10.0, 30.0, 60.0, 300.0, 1_200.0, 3_600.0, 21_600.0,
];

/// The label of a request that got no answer.
const NO_ANSWER: &str = "none";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    peer: &'static str,
    operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    peer: &'static str,
    operation: &'static str,
    /// 100–599, or `none`.
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    peer: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct End {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    reason: &'static str,
}

#[derive(Clone)]
struct RequestSeconds;

impl MetricConstructor<Histogram> for RequestSeconds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(REQUEST_SECONDS)
    }
}

/// What peers and the engine told so far.
pub struct Work {
    requests: Family<Answer, Counter>,
    request_duration: Family<Request, Histogram, RequestSeconds>,
    retries: Family<Of, Counter>,
    windows: Family<End, Counter>,
    failures: Family<Why, Counter>,
    window_duration: Histogram,
    downloaded: Counter,
    stored_bytes: Counter,
    stored_events: Counter,
}

impl Work {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let work = Self {
            requests: Family::default(),
            request_duration: Family::new_with_constructor(RequestSeconds),
            retries: Family::default(),
            windows: Family::default(),
            failures: Family::default(),
            window_duration: Histogram::new(WINDOW_SECONDS),
            downloaded: Counter::default(),
            stored_bytes: Counter::default(),
            stored_events: Counter::default(),
        };
        registry.register(
            "requests",
            "Requests sent, by peer, operation and status code; none: no answer",
            work.requests.clone(),
        );
        registry.register_with_unit(
            "request_duration",
            "Time from a request to the head of its answer",
            Unit::Seconds,
            work.request_duration.clone(),
        );
        registry.register(
            "retries",
            "Requests repeated and downloads taken up again, by peer",
            work.retries.clone(),
        );
        registry.register(
            "windows",
            "Attempts at windows that ended, by outcome",
            work.windows.clone(),
        );
        registry.register(
            "window_failures",
            "Attempts at windows that failed or have to wait, by reason",
            work.failures.clone(),
        );
        registry.register_with_unit(
            "window_duration",
            "Time that an attempt at a window took, from its place to its end",
            Unit::Seconds,
            work.window_duration.clone(),
        );
        registry.register_with_unit(
            "downloaded",
            "Bytes of events that arrived from the service, stored or not",
            Unit::Bytes,
            work.downloaded.clone(),
        );
        registry.register_with_unit(
            "stored",
            "Bytes of events stored and proved by this process",
            Unit::Bytes,
            work.stored_bytes.clone(),
        );
        registry.register(
            "stored_events",
            "Events stored and proved by this process",
            work.stored_events.clone(),
        );
        work
    }

    pub(super) fn sample(&self) {
        let asked = Asked {
            peer: Peer::Tracker,
            operation: "Download",
        };
        self.answered(asked, Some(200), Duration::ZERO);
        self.repeated(Peer::Tracker);
        self.window_ended(WindowEnd::Stored { events: 1, bytes: 1 }, Duration::ZERO);
        self.window_ended(WindowEnd::Failed(Reason::NotWhole), Duration::ZERO);
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work").finish_non_exhaustive()
    }
}

impl Meter for Work {
    fn answered(&self, asked: Asked, status: Option<u16>, took: Duration) {
        let (peer, operation) = (asked.peer.as_str(), asked.operation);
        let code = status
            .filter(|code| (100..600).contains(code))
            .map_or_else(|| NO_ANSWER.to_owned(), |code| code.to_string());
        let answer = Answer {
            peer,
            operation,
            code,
        };
        self.requests.get_or_create(&answer).inc();
        let seconds = self.request_duration.get_or_create(&Request { peer, operation });
        seconds.observe(took.as_secs_f64());
    }

    fn repeated(&self, peer: Peer) {
        let peer = peer.as_str();
        self.retries.get_or_create(&Of { peer }).inc();
    }
}

impl Observer for Work {
    fn window_ended(&self, end: WindowEnd, took: Duration) {
        let outcome = match end {
            WindowEnd::Stored { events, bytes } => {
                self.stored_events.inc_by(events);
                self.stored_bytes.inc_by(bytes);
                "stored"
            }
            WindowEnd::Empty => "empty",
            WindowEnd::Covered => "covered",
            WindowEnd::Expired => "expired",
            WindowEnd::Failed(reason) => {
                let reason = reason.as_str();
                self.failures.get_or_create(&Why { reason }).inc();
                "failed"
            }
            WindowEnd::Stopped => "stopped",
        };
        self.windows.get_or_create(&End { outcome }).inc();
        self.window_duration.observe(took.as_secs_f64());
    }

    fn downloaded(&self, bytes: u64) {
        self.downloaded.inc_by(bytes);
    }
}
