//! `/livez`, `/readyz` and `/metrics` over plain HTTP, for kubelet and Prometheus. The listener is injected.
//!
//! `/livez` fails when the lease loop, the controller loop or a reconcile misses its deadline by more than a tolerance.
//! Each heartbeat sets the deadline of the next one. Peers that do not answer cause no failure: every wait for a peer
//! is bounded, and has its own deadline.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;

/// Liveness and readiness of the process. Cheap to clone.
#[derive(Clone)]
pub struct Health(Arc<HealthState>);

/// Source of heartbeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Heartbeat {
    /// Loop that holds or awaits the Lease.
    Lease,
    /// Loop that starts reconciles.
    Controller,
    /// One reconcile of a resource.
    Reconcile(u64),
}

impl Heartbeat {
    const fn late_message(self) -> &'static str {
        match self {
            Self::Lease => "lease loop missed its deadline",
            Self::Controller => "controller loop missed its deadline",
            Self::Reconcile(_) => "reconcile exceeded its deadline",
        }
    }
}

struct HealthState {
    ready: AtomicBool,
    /// Time of the next heartbeat, by source. Locked only briefly.
    deadlines: Mutex<BTreeMap<Heartbeat, Instant>>,
    reconciles: AtomicU64,
    /// Delay that a heartbeat may have.
    tolerance: Duration,
}

/// Deadline of a reconcile. Dropping it ends the reconcile.
pub struct ReconcileGuard {
    health: Health,
    heartbeat: Heartbeat,
}

impl Drop for ReconcileGuard {
    fn drop(&mut self) {
        self.health.deadlines().remove(&self.heartbeat);
    }
}

impl Health {
    /// Creates a state that is alive while [`Health::heartbeat`] is called at least every `tolerance`, and not ready.
    pub fn new(tolerance: Duration) -> Self {
        let health = Self(Arc::new(HealthState {
            ready: AtomicBool::new(false),
            deadlines: Mutex::default(),
            reconciles: AtomicU64::new(0),
            tolerance,
        }));
        health.heartbeat();
        health
    }

    fn deadlines(&self) -> MutexGuard<'_, BTreeMap<Heartbeat, Instant>> {
        self.0.deadlines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_deadline(&self, heartbeat: Heartbeat, within: Duration) {
        let by = Instant::now() + within + self.0.tolerance;
        self.deadlines().insert(heartbeat, by);
    }

    /// Records an iteration of the lease loop.
    pub fn heartbeat(&self) {
        self.set_deadline(Heartbeat::Lease, Duration::ZERO);
    }

    /// Records an iteration of the controller loop; the next one follows within `again_within`.
    pub fn controller_heartbeat(&self, again_within: Duration) {
        self.set_deadline(Heartbeat::Controller, again_within);
    }

    /// Records that the controller loop has ended as intended.
    pub fn stop_heartbeat(&self) {
        self.deadlines().remove(&Heartbeat::Controller);
    }

    /// Records the start of a reconcile that ends within `within`.
    pub fn begin_reconcile(&self, within: Duration) -> ReconcileGuard {
        let heartbeat = Heartbeat::Reconcile(self.0.reconciles.fetch_add(1, Ordering::Relaxed));
        self.set_deadline(heartbeat, within);
        ReconcileGuard {
            health: self.clone(),
            heartbeat,
        }
    }

    /// Sets the readiness: true if the process can do its work, as leader or as standby.
    pub fn set_ready(&self, ready: bool) {
        self.0.ready.store(ready, Ordering::Relaxed);
    }

    /// Returns an error that names a late source, if there is one.
    pub fn alive(&self) -> Result<(), &'static str> {
        let now = Instant::now();
        let deadlines = self.deadlines();
        let late = deadlines.iter().find(|(_, by)| **by < now);
        late.map_or(Ok(()), |(heartbeat, _)| Err(heartbeat.late_message()))
    }

    /// Returns true if the process can do its work.
    pub fn ready(&self) -> bool {
        self.0.ready.load(Ordering::Relaxed)
    }
}

/// State of the process that the endpoints serve.
#[derive(Clone)]
pub struct Telemetry {
    /// Liveness and readiness.
    pub health: Health,
    /// Metrics of the process.
    pub metrics: Metrics,
}

impl Telemetry {
    /// Serves until `stop` is canceled; requests in progress are answered.
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

async fn livez(State(telemetry): State<Telemetry>) -> Response {
    probe_response(telemetry.health.alive())
}

async fn readyz(State(telemetry): State<Telemetry>) -> Response {
    let ready = telemetry.health.ready().then_some(());
    let ready = ready.ok_or("not ready: starting or shutting down");
    probe_response(ready.and_then(|()| telemetry.metrics.view.check(Instant::now())))
}

async fn metrics(State(telemetry): State<Telemetry>) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    // With thousands of resources this takes a while; other tasks must not wait for it.
    let text = tokio::task::spawn_blocking(move || telemetry.metrics.text()).await;
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn probe_response(state: Result<(), &'static str>) -> Response {
    match state {
        Ok(()) => "ok\n".into_response(),
        Err(problem) => (StatusCode::SERVICE_UNAVAILABLE, problem).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(30);

    #[test]
    fn liveness_names_a_late_heartbeat_until_it_returns() {
        let health = Health::new(Duration::ZERO);
        std::thread::sleep(SOON);
        assert_eq!(health.alive(), Err("lease loop missed its deadline"));
        let health = Health::new(SOON);
        health.controller_heartbeat(Duration::ZERO);
        let guard = health.begin_reconcile(Duration::ZERO);
        assert_eq!(health.alive(), Ok(()));
        std::thread::sleep(2 * SOON);
        health.heartbeat();
        assert_eq!(health.alive(), Err("controller loop missed its deadline"));
        health.stop_heartbeat();
        assert_eq!(health.alive(), Err("reconcile exceeded its deadline"));
        drop(guard);
        health.heartbeat();
        assert_eq!(health.alive(), Ok(()));
    }
}
