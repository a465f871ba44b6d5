//! Places of exports that start: for the first listing of their bucket, and among the exports with slow peers. A restart with
//! thousands of resources, and an outage of the peers of hundreds, must not delay the others. No I/O.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep, sleep_until};

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

/// Maximum exports that start at once with the same peers, of all namespaces: three outages leave places to others at once.
const MAX_STARTS_OF_PEERS: u64 = 80;

/// Time after which an export that wants no session yet gives its place for the first listing back, once there is one among
/// those with slow peers: 1 s. Exports whose peers do not answer must not keep others from starting.
const FIRST_LISTING_TIMEOUT: Duration = Duration::from_secs(1);

/// Time for which an export keeps its place among those with slow peers although others wait for it: 10 s, doubled with each
/// failure of the export, so that the listing of a large bucket ends too.
const SLOW_START_TIME: Duration = Duration::from_secs(10);

/// Maximum number of times that it is doubled: to 11 h.
const MAX_DOUBLINGS: u32 = 12;

/// Factor of that time for exports that wait for the same peers: most of them cannot work either, and each try costs time of the
/// processor.
const TIME_FACTOR_OF_PEERS: u32 = 3;

/// Interval between two looks whether others wait: 1 s.
const ASKED_BACK_INTERVAL: Duration = Duration::from_secs(1);

/// Minimum number of queues of peers before unused ones are removed.
const MIN_PEER_QUEUES: usize = 64;

/// Places of all exports that start.
pub(super) struct StartPlaces {
    first_listings: FairSemaphore,
    slow_starts: StartQueue,
    peers: Mutex<PeerQueues>,
}

/// Queue for places, with the number of those that were given up for a waiter and are not returned yet.
#[derive(Clone)]
struct StartQueue {
    places: FairSemaphore,
    given_up: Arc<AtomicUsize>,
}

/// Place of an export that starts, given back when it is dropped.
pub(super) struct StartPlace {
    _place: FairPermit,
    _of_peers: Arc<FairPermit>,
    /// Queues whose waiters this place keeps out, and the time from which on it is given up for them.
    queues: [(StartQueue, Instant); 2],
    /// Queue whose waiter gets the place.
    given_up: Option<StartQueue>,
}

/// Wait for a place among the exports with slow peers.
pub(super) type SlowPlaceWait = BoxFuture<'static, StartPlace>;

/// Exports that start, by their peers.
struct PeerQueues {
    by_peers: HashMap<Box<str>, StartQueue>,
    /// Number of queues from which on unused ones are removed.
    clean_at: usize,
}

/// Returns the time for which an export keeps its place among those with slow peers although others wait for it.
pub(super) fn slow_start_time(failures: u32) -> Duration {
    SLOW_START_TIME.saturating_mul(1 << failures.min(MAX_DOUBLINGS))
}

impl StartQueue {
    fn new(limits: DepthLimits) -> Self {
        Self {
            places: FairSemaphore::new(limits),
            given_up: Arc::default(),
        }
    }

    /// Counts a place that is given up, if more wait than were given up.
    fn give_up(&self) -> bool {
        let waiting = self.places.load().waiting;
        let one_more = |given_up| (given_up < waiting).then_some(given_up + 1);
        let order = Ordering::Relaxed;
        self.given_up.fetch_update(order, order, one_more).is_ok()
    }
}

impl StartPlace {
    fn new(
        place: FairPermit,
        of_peers: Arc<FairPermit>,
        queues: [StartQueue; 2],
        slow_time: Duration,
    ) -> Self {
        let [slow_starts, same_peers] = queues;
        let now = Instant::now();
        Self {
            _place: place,
            _of_peers: of_peers,
            queues: [
                (slow_starts, now + slow_time),
                (same_peers, now + slow_time * TIME_FACTOR_OF_PEERS),
            ],
            given_up: None,
        }
    }

    /// Waits until the export must give its place up for one that waits. Cancel safe.
    pub(super) async fn asked_back(&mut self) {
        let [(_, earliest), _] = self.queues;
        sleep_until(earliest).await;
        while self.given_up.is_none() {
            let now = Instant::now();
            let mut queues = self.queues.iter();
            let given_up = queues.find(|(queue, kept_until)| now >= *kept_until && queue.give_up());
            self.given_up = given_up.map(|(queue, _)| queue.clone());
            if self.given_up.is_none() {
                sleep(ASKED_BACK_INTERVAL).await;
            }
        }
    }
}

impl Drop for StartPlace {
    fn drop(&mut self) {
        if let Some(queue) = &self.given_up {
            queue.given_up.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl StartPlaces {
    pub(super) fn new() -> Self {
        let limits = DepthLimits::with_reserves;
        Self {
            first_listings: FairSemaphore::new(limits(MAX_FIRST_LISTINGS, RESERVED_FIRST_LISTINGS)),
            slow_starts: StartQueue::new(limits(MAX_SLOW_STARTS, RESERVED_SLOW_STARTS)),
            peers: Mutex::new(PeerQueues {
                by_peers: HashMap::new(),
                clean_at: MIN_PEER_QUEUES,
            }),
        }
    }

    /// Waits for a place for the first listing. Also returns the wait for the next place, which begins when it is polled; that
    /// place is kept for a time that grows with the failures. Exports that failed share places as one group, so that
    /// thousands of them delay no other.
    pub(super) async fn acquire(
        &self,
        peers: &str,
        tenant: &Tenant,
        failures: u32,
    ) -> (StartPlace, SlowPlaceWait) {
        let group = if failures > 0 { "failed" } else { "others" };
        let (tenant, slow_time) = (tenant.grouped(peers).below(group), slow_start_time(failures));
        let queues = [self.slow_starts.clone(), self.queue_of(peers)];
        let of_peers = Arc::new(queues[1].places.acquire(&tenant, 0).await);
        let first = self.first_listings.acquire(&tenant, 0).await;
        let first = StartPlace::new(first, Arc::clone(&of_peers), queues.clone(), slow_time);
        let slow = async move {
            sleep(FIRST_LISTING_TIMEOUT).await;
            let place = queues[0].places.acquire(&tenant, 0).await;
            StartPlace::new(place, of_peers, queues, slow_time)
        };
        (first, slow.boxed())
    }

    fn queue_of(&self, peers: &str) -> StartQueue {
        let mut queues = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let PeerQueues { by_peers, clean_at } = &mut *queues;
        if by_peers.len() >= *clean_at {
            by_peers.retain(|_, queue| queue.places.is_shared());
            *clean_at = MIN_PEER_QUEUES.max(2 * by_peers.len());
        }
        let new = || StartQueue::new(DepthLimits::flat(MAX_STARTS_OF_PEERS));
        by_peers.entry(peers.into()).or_insert_with(new).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = SLOW_START_TIME;

    /// Returns whether each place is asked back.
    async fn asked_back(places: &mut [StartPlace]) -> Vec<bool> {
        let mut asked_back = Vec::new();
        for place in places {
            let asked = tokio::time::timeout(4 * TIME, place.asked_back()).await;
            asked_back.push(asked.is_ok());
        }
        asked_back
    }

    async fn acquire(places: &StartPlaces, peers: &str, namespace: &str) -> Option<StartPlace> {
        acquire_after(places, peers, namespace, 0).await
    }

    async fn acquire_after(
        places: &StartPlaces,
        peers: &str,
        namespace: &str,
        failures: u32,
    ) -> Option<StartPlace> {
        let tenant = Tenant::new(namespace, "space", "export");
        // The clock stands still unless all wait.
        let limit = Duration::from_mins(1);
        let (place, slow) = tokio::time::timeout(limit, places.acquire(peers, &tenant, failures))
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
    async fn as_many_places_are_asked_back_as_exports_wait() {
        let tenant = Tenant::new("new", "space", "export");
        let places = StartPlaces::new();
        let mut held = Vec::new();
        for number in 0..MAX_STARTS_OF_PEERS {
            held.extend(acquire(&places, "hang", &format!("team-{number}")).await);
        }
        assert_eq!(asked_back(&mut held[..2]).await, [false, false], "nobody waits");
        {
            let mut waits = std::pin::pin!(places.acquire("hang", &tenant, 0));
            assert!(futures::poll!(&mut waits).is_pending());
            assert_eq!(asked_back(&mut held[..3]).await, [true, false, false]);
            held.remove(0);
            drop(waits.await);
        }
        assert_eq!(asked_back(&mut held[..1]).await, [false]);
        // Each export has peers of its own, so only the places for slow starts run out.
        let places = StartPlaces::new();
        let mut held = Vec::new();
        for number in 0..MAX_SLOW_STARTS + 3 * RESERVED_SLOW_STARTS {
            held.extend(acquire(&places, &format!("peers-{number}"), &format!("team-{number}")).await);
        }
        let (_first, mut slow) = places.acquire("others", &tenant, 0).await;
        assert!(
            tokio::time::timeout(Duration::from_mins(1), &mut slow)
                .await
                .is_err()
        );
        assert_eq!(asked_back(&mut held[5..7]).await, [true, false]);
        held.remove(5);
        slow.await;
    }

    #[tokio::test(start_paused = true)]
    async fn exports_that_failed_leave_places_to_others() {
        let places = StartPlaces::new();
        let mut held = Vec::new();
        // Each has a namespace and peers of its own, as many as get a place.
        for number in 0..2 * MAX_SLOW_STARTS {
            let peers = format!("peers-{number}");
            let Some(place) = acquire_after(&places, &peers, &format!("team-{number}"), 9).await else {
                break;
            };
            held.push(place);
        }
        assert!(acquire_after(&places, "more", "more", 9).await.is_none());
        let new = acquire(&places, "new", "new").await;
        assert!(new.is_some(), "beside {} places", held.len());
        // The next one without a failure has to wait, and is served before one that failed and waits for longer.
        let queue = &places.slow_starts.places;
        let [failed, others] =
            ["failed", "others"].map(|group| Tenant::new("next", "space", "export").below(group));
        let mut failed = std::pin::pin!(queue.acquire(&failed, 0));
        assert!(futures::poll!(&mut failed).is_pending());
        let mut others = std::pin::pin!(queue.acquire(&others, 0));
        assert!(futures::poll!(&mut others).is_pending());
        held.truncate(held.len() - 2);
        let permit = futures::poll!(&mut others);
        assert!(permit.is_ready() && futures::poll!(&mut failed).is_pending());
        drop(permit);
        assert!(futures::poll!(&mut failed).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_kept_for_its_time() {
        let places = StartPlaces::new();
        let mut held = Vec::new();
        for number in 0..MAX_STARTS_OF_PEERS {
            held.extend(acquire(&places, "hang", &format!("team-{number}")).await);
        }
        let began = Instant::now();
        held.remove(0);
        let (team, new) = (
            Tenant::new("team-0", "space", "export"),
            Tenant::new("new", "space", "export"),
        );
        let (_first, slow) = places.acquire("hang", &team, 2).await;
        let mut place = slow.await;
        let mut waits = std::pin::pin!(places.acquire("hang", &new, 0));
        assert!(futures::poll!(&mut waits).is_pending());
        place.asked_back().await;
        assert!(began.elapsed() >= 12 * TIME, "{:?}", began.elapsed());
    }

    #[test]
    fn the_time_of_a_slow_start_doubles() {
        let times = [0, 1, 2, 3, 4, 99].map(|failures| slow_start_time(failures).as_secs());
        assert_eq!(times, [10, 20, 40, 80, 160, 40_960]);
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
