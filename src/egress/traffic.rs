//! Sending of requests: counts and times them, and holds them back while this process may not send. Waits; sends
//! nothing itself.
//!
//! Tracker and store send through it, so that they do not depend on metrics, and so that a process that was suspended
//! past the end of its lease sends nothing when it resumes.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tracing::Instrument as _;

use super::clients::SharedClients;

/// Interval at which a closed fence is polled.
const FENCE_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Peer of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// Activity Tracker.
    Tracker,
    /// UAA, and the API that names it.
    Uaa,
    /// S3 store.
    S3,
    /// STS, or another source of temporary credentials for stores.
    Sts,
    /// Time-stamp authority.
    TimestampAuthority,
    /// Kubernetes API server.
    Kubernetes,
}

impl Peer {
    /// Returns the name in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tracker => "tracker",
            Self::Uaa => "uaa",
            Self::S3 => "s3",
            Self::Sts => "sts",
            Self::TimestampAuthority => "timestamp_authority",
            Self::Kubernetes => "kubernetes",
        }
    }
}

/// Label of a request in metrics. `operation` is from a closed list, never text of a peer or tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestLabel {
    /// Peer of the request.
    pub peer: Peer,
    /// Operation of the request.
    pub operation: &'static str,
}

/// Counter of requests.
pub trait RequestMetrics: fmt::Debug + Send + Sync {
    /// Records a request with the status of its reply, or `None` without reply, and its duration.
    fn record_response(&self, label: RequestLabel, status: Option<u16>, took: Duration);
    /// Records that a request is repeated, or a download resumed.
    fn record_retry(&self, peer: Peer);
}

/// Counter that ignores everything.
#[derive(Clone, Copy, Debug)]
struct NoMetrics;

impl RequestMetrics for NoMetrics {
    fn record_response(&self, _: RequestLabel, _: Option<u16>, _: Duration) {}
    fn record_retry(&self, _: Peer) {}
}

/// Permission of this process to send, until an instant of its monotonic clock, which continues while the process is
/// suspended. Open until [`Fence::close_at`] is called. Cheap to clone; clones share their state.
#[derive(Clone, Debug, Default)]
pub struct Fence(Arc<Mutex<Option<Instant>>>);

impl Fence {
    /// Closes the fence at an instant. Later calls may extend it.
    pub fn close_at(&self, at: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    /// Returns true if requests may be sent now.
    pub fn is_open(&self) -> bool {
        let closes = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        closes.is_none_or(|at| Instant::now() < at)
    }

    /// Completes if the fence is closed. Registers no wake-up: the caller polls it whenever it is woken for another
    /// cause.
    async fn wait_closed(&self) {
        let poll = |_: &mut Context<'_>| {
            if self.is_open() {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        };
        poll_fn(poll).await;
    }

    /// Waits until the fence is open, possibly without end. Closing it for good requires dropping the waiting tasks.
    pub async fn wait_open(&self) {
        while !self.is_open() {
            tokio::time::sleep(FENCE_POLL_INTERVAL).await;
        }
    }
}

/// Sender of the requests of a process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Traffic {
    metrics: Arc<dyn RequestMetrics>,
    fence: Fence,
    clients: SharedClients,
}

impl Default for Traffic {
    /// Neither holds requests back nor counts them.
    fn default() -> Self {
        Self::new(Arc::new(NoMetrics), Fence::default())
    }
}

impl Traffic {
    /// Creates a sender with its counter and its fence.
    pub fn new(metrics: Arc<dyn RequestMetrics>, fence: Fence) -> Self {
        Self {
            metrics,
            fence,
            clients: SharedClients::default(),
        }
    }

    /// Returns a sender with the same counter and without fence, for requests that the fence itself depends on.
    #[must_use]
    pub fn unfenced(&self) -> Self {
        Self::new(Arc::clone(&self.metrics), Fence::default())
    }

    /// Returns the clients that send requests.
    pub const fn clients(&self) -> &SharedClients {
        &self.clients
    }

    /// Returns the fence.
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Sends one request as soon as the fence is open. `status` returns the status of the reply, or `None` without
    /// reply. A dropped request counts as one without reply.
    pub async fn send<T>(
        &self,
        label: RequestLabel,
        request: impl Future<Output = T>,
        status: impl FnOnce(&T) -> Option<u16>,
    ) -> T {
        self.fence.wait_open().await;
        let mut guard = RequestGuard {
            metrics: &*self.metrics,
            label,
            started_at: Instant::now(),
            status: None,
        };
        let span = tracing::info_span!(
            "request",
            peer = label.peer.as_str(),
            operation = label.operation,
            code = tracing::field::Empty
        );
        let mut request = pin!(request.instrument(span.clone()));
        // Check before each step, because connecting takes time: the process may be suspended in between.
        let response = loop {
            tokio::select! {
                biased;
                () = self.fence.wait_closed() => self.fence.wait_open().await,
                response = &mut request => break response,
            }
        };
        guard.status = status(&response);
        if let Some(code) = guard.status {
            span.record("code", code);
        }
        response
    }

    /// Records that a request is repeated.
    pub fn record_retry(&self, peer: Peer) {
        self.metrics.record_retry(peer);
    }
}

/// Request in progress; recorded when it is dropped.
struct RequestGuard<'a> {
    metrics: &'a dyn RequestMetrics,
    label: RequestLabel,
    started_at: Instant,
    status: Option<u16>,
}

impl Drop for RequestGuard<'_> {
    fn drop(&mut self) {
        self.metrics
            .record_response(self.label, self.status, self.started_at.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: RequestLabel = RequestLabel {
        peer: Peer::S3,
        operation: "PutObject",
    };

    #[tokio::test]
    async fn a_closed_fence_holds_requests_until_it_reopens() {
        let traffic = Traffic::default();
        let send = || traffic.send(LABEL, async { 7 }, |_| None);
        assert_eq!(send().await, 7);
        traffic.fence().close_at(Instant::now());
        let held = tokio::time::timeout(Duration::from_millis(250), send()).await;
        assert!(held.is_err(), "the request was sent");
        traffic.fence().close_at(Instant::now() + Duration::from_mins(1));
        assert_eq!(send().await, 7);
    }

    #[tokio::test]
    async fn a_request_in_preparation_is_held_when_the_fence_closes() {
        let traffic = Traffic::default();
        let (connected, connects) = tokio::sync::oneshot::channel::<()>();
        let sent = std::sync::atomic::AtomicBool::new(false);
        let request = traffic.send(
            LABEL,
            async {
                connects.await.unwrap();
                sent.store(true, std::sync::atomic::Ordering::Relaxed);
            },
            |()| None,
        );
        let suspended = async {
            tokio::task::yield_now().await;
            traffic.fence().close_at(Instant::now());
            connected.send(()).unwrap();
        };
        let both = async { tokio::join!(request, suspended) };
        let held = tokio::time::timeout(Duration::from_millis(250), both).await;
        assert!(held.is_err() && !sent.load(std::sync::atomic::Ordering::Relaxed));
    }
}
