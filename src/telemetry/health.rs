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
pub struct Health(Arc<Inner>);

/// Who gives signs of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Sign {
    /// Who leads or waits to lead.
    Lease,
    /// Who hands out looks at resources.
    Controller,
    /// A look at a resource.
    Look(u64),
}

impl Sign {
    const fn why_not(self) -> &'static str {
        match self {
            Self::Lease => "the main loop stands still",
            Self::Controller => "the controller stands still",
            Self::Look(_) => "a look at a resource does not end",
        }
    }
}

struct Inner {
    ready: AtomicBool,
    /// By when the next sign of life comes. Held for a moment only.
    promised: Mutex<BTreeMap<Sign, Instant>>,
    looks: AtomicU64,
    /// How long a sign of life may be late.
    patience: Duration,
}

/// Something that must end in time, and does so when this is dropped.
pub struct Busy {
    health: Health,
    sign: Sign,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.health.promised().remove(&self.sign);
    }
}

impl Health {
    /// Alive as long as [`Health::beat`] is called at least every `patience`; not ready yet.
    pub fn new(patience: Duration) -> Self {
        let health = Self(Arc::new(Inner {
            ready: AtomicBool::new(false),
            promised: Mutex::default(),
            looks: AtomicU64::new(0),
            patience,
        }));
        health.beat();
        health
    }

    fn promised(&self) -> MutexGuard<'_, BTreeMap<Sign, Instant>> {
        self.0.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn promise(&self, sign: Sign, within: Duration) {
        let by = Instant::now() + within + self.0.patience;
        self.promised().insert(sign, by);
    }

    /// The main loop goes round.
    pub fn beat(&self) {
        self.promise(Sign::Lease, Duration::ZERO);
    }

    /// The controller goes round, and will again within that time.
    pub fn controls(&self, again_within: Duration) {
        self.promise(Sign::Controller, again_within);
    }

    /// The controller has ended as it should.
    pub fn controls_no_more(&self) {
        self.promised().remove(&Sign::Controller);
    }

    /// A look at a resource begins, and ends within that time.
    pub fn busy(&self, within: Duration) -> Busy {
        let sign = Sign::Look(self.0.looks.fetch_add(1, Ordering::Relaxed));
        self.promise(sign, within);
        Busy {
            health: self.clone(),
            sign,
        }
    }

    /// Whether the process can do its work: as the active one, or as one that stands by.
    pub fn set_ready(&self, ready: bool) {
        self.0.ready.store(ready, Ordering::Relaxed);
    }

    /// Whether every promised sign of life came; if not, what stands still.
    pub fn alive(&self) -> Result<(), &'static str> {
        let now = Instant::now();
        let promised = self.promised();
        let late = promised.iter().find(|(_, by)| **by < now);
        late.map_or(Ok(()), |(sign, _)| Err(sign.why_not()))
    }

    /// Whether the process can do its work.
    pub fn ready(&self) -> bool {
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
    answer(seen.health.alive())
}

async fn readyz(State(seen): State<Observatory>) -> Response {
    let ready = seen.health.ready().then_some(());
    answer(ready.ok_or("not started, or stopping"))
}

async fn metrics(State(seen): State<Observatory>) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    // With thousands of resources this is work for a moment, which nobody else should wait for.
    let text = tokio::task::spawn_blocking(move || seen.metrics.text()).await;
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn answer(good: Result<(), &'static str>) -> Response {
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
    fn whoever_breaks_its_promise_is_named_until_it_gives_a_sign() {
        let health = Health::new(Duration::ZERO);
        std::thread::sleep(SOON);
        assert_eq!(health.alive(), Err("the main loop stands still"));
        let health = Health::new(SOON);
        health.controls(Duration::ZERO);
        let look = health.busy(Duration::ZERO);
        assert_eq!(health.alive(), Ok(()));
        std::thread::sleep(2 * SOON);
        health.beat();
        assert_eq!(health.alive(), Err("the controller stands still"));
        health.controls_no_more();
        assert_eq!(health.alive(), Err("a look at a resource does not end"));
        drop(look);
        health.beat();
        assert_eq!(health.alive(), Ok(()));
    }
}
