//! Places of exports that start: for the first listing of their bucket, and among the exports with slow peers. A restart with
//! thousands of resources, and an outage of the peers of hundreds, must not delay the others. No I/O.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::time::sleep;

use crate::shares::queue::{DepthLimits, Tenant};
use crate::shares::semaphore::{FairPermit, FairSemaphore};

/// Maximum exports of one namespace, peers and priority that list their bucket for the first time concurrently. A restart with
/// thousands of resources must not send all requests at once.
const MAX_FIRST_LISTINGS: u64 = 20;

/// First listings that are kept for each level of newcomers: for namespaces, peers and priorities without one. With them,
/// there are 32 at most.
const RESERVED_FIRST_LISTINGS: u64 = 4;

/// Maximum exports of one namespace, peers and priority that wait for slow peers before they want a session: their clients and
/// requests take memory. With those that are kept for newcomers, there are 304 at most.
const MAX_SLOW_STARTS: u64 = 256;

/// Slow starts that are kept for each level of newcomers.
const RESERVED_SLOW_STARTS: u64 = 16;

/// Maximum exports that start at once with the same peers, of all namespaces: three outages leave places to others.
const MAX_STARTS_OF_PEERS: u64 = 80;

/// Time after which an export that wants no session yet gives its place for the first listing back, once there is one among
/// those with slow peers: 1 s. Exports whose peers do not answer must not keep others from starting.
const FIRST_LISTING_TIMEOUT: Duration = Duration::from_secs(1);

/// Minimum number of queues of peers before unused ones are removed.
const MIN_PEER_QUEUES: usize = 64;

/// Places of all exports that start.
pub(super) struct StartPlaces {
    first_listings: FairSemaphore,
    slow_starts: FairSemaphore,
    peers: Mutex<PeerQueues>,
}

/// Place of an export that starts, given back when it is dropped.
pub(super) struct StartPlace {
    _place: FairPermit,
    _of_peers: Arc<FairPermit>,
}

/// Wait for a place among the exports with slow peers.
pub(super) type SlowPlaceWait = BoxFuture<'static, StartPlace>;

/// Exports that start, by their peers.
struct PeerQueues {
    by_peers: HashMap<Box<str>, FairSemaphore>,
    /// Number of queues from which on unused ones are removed.
    clean_at: usize,
}

impl StartPlaces {
    pub(super) fn new() -> Self {
        let places = |units, reserve| FairSemaphore::new(DepthLimits::with_reserves(units, reserve));
        Self {
            first_listings: places(MAX_FIRST_LISTINGS, RESERVED_FIRST_LISTINGS),
            slow_starts: places(MAX_SLOW_STARTS, RESERVED_SLOW_STARTS),
            peers: Mutex::new(PeerQueues {
                by_peers: HashMap::new(),
                clean_at: MIN_PEER_QUEUES,
            }),
        }
    }

    /// Waits for a place for the first listing. Also returns the wait for the next place, which begins when it is polled.
    pub(super) async fn acquire(&self, peers: &str, tenant: &Tenant) -> (StartPlace, SlowPlaceWait) {
        let tenant = tenant.grouped(peers);
        let of_peers = Arc::new(self.queue_of(peers).acquire(&tenant, 0).await);
        let place = StartPlace {
            _place: self.first_listings.acquire(&tenant, 0).await,
            _of_peers: Arc::clone(&of_peers),
        };
        let slow_starts = self.slow_starts.clone();
        let slow_place = async move {
            sleep(FIRST_LISTING_TIMEOUT).await;
            StartPlace {
                _place: slow_starts.acquire(&tenant, 0).await,
                _of_peers: of_peers,
            }
        };
        (place, slow_place.boxed())
    }

    fn queue_of(&self, peers: &str) -> FairSemaphore {
        let mut queues = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let PeerQueues { by_peers, clean_at } = &mut *queues;
        if by_peers.len() >= *clean_at {
            by_peers.retain(|_, queue| queue.is_shared());
            *clean_at = MIN_PEER_QUEUES.max(2 * by_peers.len());
        }
        let new = || FairSemaphore::new(DepthLimits::flat(MAX_STARTS_OF_PEERS));
        by_peers.entry(peers.into()).or_insert_with(new).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn acquire(places: &StartPlaces, peers: &str, namespace: &str) -> Option<StartPlace> {
        let tenant = Tenant::new(namespace, "space", "export");
        // The clock stands still unless all wait.
        let limit = Duration::from_mins(1);
        let (place, slow) = tokio::time::timeout(limit, places.acquire(peers, &tenant))
            .await
            .ok()?;
        let slow = tokio::time::timeout(limit, slow).await;
        drop(place);
        slow.ok()
    }

    #[tokio::test(start_paused = true)]
    async fn exports_of_peers_that_hang_leave_places_in_every_namespace() {
        let places = StartPlaces::new();
        let mut held = Vec::new();
        for outage in ["one", "two", "three"] {
            for number in 0..MAX_STARTS_OF_PEERS {
                let place = acquire(&places, outage, &format!("team-{number}")).await;
                held.push(place.unwrap());
            }
            assert!(acquire(&places, outage, "team-new").await.is_none());
        }
        for namespace in ["team-0", "newcomer"] {
            assert!(
                acquire(&places, "works", namespace).await.is_some(),
                "{namespace}"
            );
        }
        held.pop();
        assert!(acquire(&places, "three", "team-0").await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn queues_of_peers_without_exports_are_removed() {
        let places = StartPlaces::new();
        let kept = acquire(&places, "kept", "team").await.unwrap();
        for number in 0..3 * MIN_PEER_QUEUES {
            acquire(&places, &format!("peers-{number}"), "team")
                .await
                .unwrap();
        }
        let count = || places.peers.lock().unwrap().by_peers.len();
        assert!(count() <= MIN_PEER_QUEUES, "{}", count());
        assert!(places.peers.lock().unwrap().by_peers.contains_key("kept"));
        drop(kept);
    }
}
