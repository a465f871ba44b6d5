//! How requests leave: counted and timed, and held back while this process may not send. Waits; sends nothing itself.
//!
//! Tracker and store send through it, so that whoever counts need not be known to them, and so that a process that
//! was asleep past its lease sends nothing when it wakes up.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tracing::Instrument as _;

/// How often a closed fence is looked at.
const FENCE_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// The Activity Tracker.
    Tracker,
    /// Its UAA, and the API that names it.
    Uaa,
    /// The store.
    S3,
    /// The Kubernetes API server.
    Kubernetes,
}

impl Peer {
    /// As metrics and logs name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tracker => "tracker",
            Self::Uaa => "uaa",
            Self::S3 => "s3",
            Self::Kubernetes => "kubernetes",
        }
    }
}

/// A request, as far as it is counted. `operation` is from a closed list, never of the peer's or a tenant's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestLabel {
    /// Who.
    pub peer: Peer,
    /// What for.
    pub operation: &'static str,
}

/// Counts requests.
pub trait RequestMetrics: fmt::Debug + Send + Sync {
    /// A request was answered with this status, or not at all, after so long.
    fn record_response(&self, label: RequestLabel, status: Option<u16>, took: Duration);
    /// A request is about to be repeated, or a download to be taken up again.
    fn record_retry(&self, peer: Peer);
}

/// Counts nothing.
#[derive(Clone, Copy, Debug)]
struct NoMetrics;

impl RequestMetrics for NoMetrics {
    fn record_response(&self, _: RequestLabel, _: Option<u16>, _: Duration) {}
    fn record_retry(&self, _: Peer) {}
}

/// Whether this process may send: until a moment of its own monotonic clock, which runs on while the process is
/// stopped. Open until it is closed for the first time. Cheap to clone; clones are one fence.
#[derive(Clone, Debug, Default)]
pub struct Fence(Arc<Mutex<Option<Instant>>>);

impl Fence {
    /// Closes it at that moment, which may be moved on later.
    pub fn close_at(&self, at: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    /// Whether requests may leave now.
    pub fn is_open(&self) -> bool {
        let closes = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        closes.is_none_or(|at| Instant::now() < at)
    }

    /// Ends at once where it is closed. Wakes nobody when it closes: whoever is woken anyway looks again.
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

    /// Waits until it is open: for ever, where nobody opens it again. Whoever closes it for good drops those who wait.
    pub async fn wait_open(&self) {
        while !self.is_open() {
            tokio::time::sleep(FENCE_POLL_INTERVAL).await;
        }
    }
}

/// The way out of a process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Traffic {
    metrics: Arc<dyn RequestMetrics>,
    fence: Fence,
}

impl Default for Traffic {
    /// Never held back, and not counted.
    fn default() -> Self {
        Self::new(Arc::new(NoMetrics), Fence::default())
    }
}

impl Traffic {
    /// Counted there, and held back there.
    pub fn new(metrics: Arc<dyn RequestMetrics>, fence: Fence) -> Self {
        Self { metrics, fence }
    }

    /// Counted the same, and never held back: for what the fence itself depends on.
    #[must_use]
    pub fn unfenced(&self) -> Self {
        Self::new(Arc::clone(&self.metrics), Fence::default())
    }

    /// What holds requests back.
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Sends one request, once the fence is open. `status` is what the answer says, `None` where there was none. A
    /// request that is given up by dropping it counts as one without an answer.
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
            began: Instant::now(),
            status: None,
        };
        let span = tracing::info_span!(
            "request",
            peer = label.peer.as_str(),
            operation = label.operation,
            code = tracing::field::Empty
        );
        let mut request = pin!(request.instrument(span.clone()));
        // Before each step towards sending, since a connection takes its time: a process may be frozen meanwhile.
        let answer = loop {
            tokio::select! {
                biased;
                () = self.fence.wait_closed() => self.fence.wait_open().await,
                answer = &mut request => break answer,
            }
        };
        guard.status = status(&answer);
        if let Some(code) = guard.status {
            span.record("code", code);
        }
        answer
    }

    /// Notes that a request is repeated.
    pub fn record_retry(&self, peer: Peer) {
        self.metrics.record_retry(peer);
    }
}

/// A request under way; counted when it is dropped.
struct RequestGuard<'a> {
    metrics: &'a dyn RequestMetrics,
    label: RequestLabel,
    began: Instant,
    status: Option<u16>,
}

impl Drop for RequestGuard<'_> {
    fn drop(&mut self) {
        self.metrics
            .record_response(self.label, self.status, self.began.elapsed());
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
        assert!(held.is_err(), "it was sent");
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
        let frozen = async {
            tokio::task::yield_now().await;
            traffic.fence().close_at(Instant::now());
            connected.send(()).unwrap();
        };
        let both = async { tokio::join!(request, frozen) };
        let held = tokio::time::timeout(Duration::from_millis(250), both).await;
        assert!(held.is_err() && !sent.load(std::sync::atomic::Ordering::Relaxed));
    }
}
