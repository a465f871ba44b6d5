//! `/livez`, `/readyz` and `/metrics` over plain HTTP, for kubelet and Prometheus. The listener is injected.
//!
//! Alive means that nothing stands still that must go on: whoever must give a sign of life says by when the next one
//! comes, and a process that breaks such a promise is to be restarted. Peers that do not answer break none: whoever
//! waits for them waits for a limited time, and says so again.

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

/// Whether the process is well. Cheap to clone.
#[derive(Clone)]
pub struct Health(Arc<HealthState>);

/// Who gives signs of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Heartbeat {
    /// Who leads or waits to lead.
    Lease,
    /// Who hands out looks at resources.
    Controller,
    /// A look at a resource.
    Reconcile(u64),
}

impl Heartbeat {
    const fn late_message(self) -> &'static str {
        match self {
            Self::Lease => "the main loop stands still",
            Self::Controller => "the controller stands still",
            Self::Reconcile(_) => "a look at a resource does not end",
        }
    }
}

struct HealthState {
    ready: AtomicBool,
    /// By when the next sign of life comes. Held for a moment only.
    deadlines: Mutex<BTreeMap<Heartbeat, Instant>>,
    reconciles: AtomicU64,
    /// How long a sign of life may be late.
    tolerance: Duration,
}

/// Something that must end in time, and does so when this is dropped.
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
    /// Alive as long as [`Health::heartbeat`] is called at least every `tolerance`; not ready yet.
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

    /// The main loop goes round.
    pub fn heartbeat(&self) {
        self.set_deadline(Heartbeat::Lease, Duration::ZERO);
    }

    /// The controller goes round, and will again within that time.
    pub fn controller_heartbeat(&self, again_within: Duration) {
        self.set_deadline(Heartbeat::Controller, again_within);
    }

    /// The controller has ended as it should.
    pub fn stop_heartbeat(&self) {
        self.deadlines().remove(&Heartbeat::Controller);
    }

    /// A look at a resource begins, and ends within that time.
    pub fn begin_reconcile(&self, within: Duration) -> ReconcileGuard {
        let heartbeat = Heartbeat::Reconcile(self.0.reconciles.fetch_add(1, Ordering::Relaxed));
        self.set_deadline(heartbeat, within);
        ReconcileGuard {
            health: self.clone(),
            heartbeat,
        }
    }

    /// Whether the process can do its work: as the active one, or as one that stands by.
    pub fn set_ready(&self, ready: bool) {
        self.0.ready.store(ready, Ordering::Relaxed);
    }

    /// Whether every promised sign of life came; if not, what stands still.
    pub fn alive(&self) -> Result<(), &'static str> {
        let now = Instant::now();
        let deadlines = self.deadlines();
        let late = deadlines.iter().find(|(_, by)| **by < now);
        late.map_or(Ok(()), |(heartbeat, _)| Err(heartbeat.late_message()))
    }

    /// Whether the process can do its work.
    pub fn ready(&self) -> bool {
        self.0.ready.load(Ordering::Relaxed)
    }
}

/// What can be seen from outside.
#[derive(Clone)]
pub struct Telemetry {
    /// Whether the process is well.
    pub health: Health,
    /// Its numbers.
    pub metrics: Metrics,
}

impl Telemetry {
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

async fn livez(State(telemetry): State<Telemetry>) -> Response {
    probe_response(telemetry.health.alive())
}

async fn readyz(State(telemetry): State<Telemetry>) -> Response {
    let ready = telemetry.health.ready().then_some(());
    probe_response(ready.ok_or("not started, or stopping"))
}

async fn metrics(State(telemetry): State<Telemetry>) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    // With thousands of resources this is work for a moment, which nobody else should wait for.
    let text = tokio::task::spawn_blocking(move || telemetry.metrics.text()).await;
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn probe_response(good: Result<(), &'static str>) -> Response {
    match good {
        Ok(()) => "ok\n".into_response(),
        Err(why_not) => (StatusCode::SERVICE_UNAVAILABLE, why_not).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(30);

    #[test]
    fn a_late_heartbeat_is_named_until_it_returns() {
        let health = Health::new(Duration::ZERO);
        std::thread::sleep(SOON);
        assert_eq!(health.alive(), Err("the main loop stands still"));
        let health = Health::new(SOON);
        health.controller_heartbeat(Duration::ZERO);
        let guard = health.begin_reconcile(Duration::ZERO);
        assert_eq!(health.alive(), Ok(()));
        std::thread::sleep(2 * SOON);
        health.heartbeat();
        assert_eq!(health.alive(), Err("the controller stands still"));
        health.stop_heartbeat();
        assert_eq!(health.alive(), Err("a look at a resource does not end"));
        drop(guard);
        health.heartbeat();
        assert_eq!(health.alive(), Ok(()));
    }
}
