//! `/livez`, `/readyz` and `/metrics` over plain HTTP, for kubelet and Prometheus. The listener is injected.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;

/// Whether the process is well. Cheap to clone.
#[derive(Clone)]
pub struct Health(Arc<Inner>);

struct Inner {
    ready: AtomicBool,
    beat: Beat,
    /// How long the heart may stand still.
    patience: Duration,
}

/// The time of the last heartbeat, without a lock that a stuck thread could hold.
struct Beat {
    origin: Instant,
    milliseconds: AtomicU64,
}

impl Beat {
    fn new(origin: Instant) -> Self {
        Self {
            origin,
            milliseconds: AtomicU64::new(0),
        }
    }

    fn at(&self, now: Instant) {
        let passed = now.saturating_duration_since(self.origin).as_millis();
        self.milliseconds
            .store(u64::try_from(passed).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn ago(&self, now: Instant) -> Duration {
        let last = Duration::from_millis(self.milliseconds.load(Ordering::Relaxed));
        now.saturating_duration_since(self.origin).saturating_sub(last)
    }
}

impl Health {
    /// Alive as long as [`Health::beat`] is called at least every `patience`; not ready yet.
    pub fn new(patience: Duration) -> Self {
        Self(Arc::new(Inner {
            ready: AtomicBool::new(false),
            beat: Beat::new(Instant::now()),
            patience,
        }))
    }

    /// The main loop goes round.
    pub fn beat(&self) {
        self.0.beat.at(Instant::now());
    }

    /// Whether the process can do its work: as the active one, or as one that stands by.
    pub fn set_ready(&self, ready: bool) {
        self.0.ready.store(ready, Ordering::Relaxed);
    }

    fn alive(&self) -> bool {
        self.0.beat.ago(Instant::now()) <= self.0.patience
    }

    fn ready(&self) -> bool {
        self.0.ready.load(Ordering::Relaxed)
    }
}

/// What can be seen from outside.
#[derive(Clone)]
pub struct Observatory {
    /// Whether the process is well.
    pub health: Health,
    /// Its numbers.
    pub metrics: Metrics,
}

impl Observatory {
    /// Serves until `stop`; requests under way are answered.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) -> io::Result<()> {
        let routes = Router::new()
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(self);
        axum::serve(listener, routes)
            .with_graceful_shutdown(stop.cancelled_owned())
            .await
    }
}

async fn livez(State(seen): State<Observatory>) -> Response {
    answer(seen.health.alive(), "the main loop stands still")
}

async fn readyz(State(seen): State<Observatory>) -> Response {
    answer(seen.health.ready(), "not started, or stopping")
}

async fn metrics(State(seen): State<Observatory>) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, OPEN_METRICS)], seen.metrics.text()).into_response()
}

fn answer(good: bool, why_not: &'static str) -> Response {
    if good {
        "ok\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, why_not).into_response()
    }
}
