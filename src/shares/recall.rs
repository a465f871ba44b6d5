//! Semaphore whose permits can be asked back: a namespace, space or export that has none gets one within seconds, although the
//! others need theirs for hours. Waits; no I/O.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::queue::{DepthLimits, NodePath, Tenant};
use super::semaphore::{FairPermit, FairSemaphore, SemaphoreLoad};

/// Time that who has no permit waits before one is asked back: 3 s. One that is returned meanwhile costs nobody anything.
const PATIENCE: Duration = Duration::from_secs(3);

/// Semaphore for single units that serves its waiters as a [`super::queue::FairQueue`] does, and asks permits back. Cheap to
/// clone.
#[derive(Clone, Debug)]
pub struct RecallSemaphore {
    semaphore: FairSemaphore,
    held: Arc<Mutex<HeldPermits>>,
}

/// Permits that are not returned, by `order` and number.
#[derive(Debug, Default)]
struct HeldPermits {
    permits: BTreeMap<(i64, u64), HeldPermit>,
    count: u64,
}

#[derive(Debug)]
struct HeldPermit {
    tenant: Tenant,
    recalled: CancellationToken,
    /// The node that the permit was asked back for.
    newcomer: Option<NodePath>,
}

/// Permit for one unit; dropping it passes the unit on.
#[derive(Debug)]
pub struct RecallPermit {
    permit: FairPermit,
    held: Arc<Mutex<HeldPermits>>,
    position: (i64, u64),
    recalled: CancellationToken,
}

fn lock(held: &Mutex<HeldPermits>) -> MutexGuard<'_, HeldPermits> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RecallSemaphore {
    /// Creates a semaphore of some units.
    pub fn new(units: u64) -> Self {
        Self {
            semaphore: FairSemaphore::new(DepthLimits::flat(units)),
            held: Arc::default(),
        }
    }

    /// Waits for one unit. Of one tenant the lowest `order` is served first, and the permit with the highest one asked back.
    pub async fn acquire(&self, tenant: &Tenant, order: i64) -> RecallPermit {
        let mut granted = pin!(self.semaphore.acquire(tenant, order));
        let permit = loop {
            tokio::select! {
                biased;
                permit = &mut granted => break permit,
                () = tokio::time::sleep(PATIENCE) => self.recall_for(tenant),
            }
        };
        let recalled = CancellationToken::new();
        let mut held = lock(&self.held);
        held.count += 1;
        let position = (order, held.count);
        let held_permit = HeldPermit {
            tenant: tenant.clone(),
            recalled: recalled.clone(),
            newcomer: None,
        };
        held.permits.insert(position, held_permit);
        RecallPermit {
            permit,
            held: Arc::clone(&self.held),
            position,
            recalled,
        }
    }

    /// Asks a permit back for a tenant whose namespace, space or export has none. One at a time for each.
    fn recall_for(&self, tenant: &Tenant) {
        let mut held = lock(&self.held);
        let Some(newcomer) = self.semaphore.newcomer(tenant) else {
            return;
        };
        let mut permits = held.permits.values();
        if permits.any(|permit| permit.newcomer.as_ref() == Some(&newcomer)) {
            return;
        }
        let Some(debtor) = self.semaphore.debtor(&newcomer) else {
            return;
        };
        let mut permits = held.permits.values_mut().rev();
        if let Some(permit) = permits.find(|permit| permit.newcomer.is_none() && permit.tenant == debtor) {
            permit.newcomer = Some(newcomer);
            self.semaphore.recall(&debtor);
            permit.recalled.cancel();
        }
    }

    /// Returns the utilization.
    pub fn load(&self) -> SemaphoreLoad {
        self.semaphore.load()
    }

    /// Returns true if a tenant holds units while an export, space or namespace that holds none waits for some.
    pub fn is_owed_by(&self, tenant: &Tenant) -> bool {
        self.semaphore.is_owed_by(tenant)
    }
}

impl RecallPermit {
    /// Waits until the permit is asked back.
    pub async fn recalled(&self) {
        self.recalled.cancelled().await;
    }

    /// Returns true if the permit was asked back.
    pub fn is_recalled(&self) -> bool {
        self.recalled.is_cancelled()
    }
}

impl Drop for RecallPermit {
    fn drop(&mut self) {
        let removed = lock(&self.held).permits.remove(&self.position);
        if removed.is_some_and(|permit| permit.newcomer.is_some()) {
            self.permit.set_recalled();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    fn tenant(path: &str) -> Tenant {
        let mut parts = path.split('/');
        let mut part = || parts.next().unwrap_or_default();
        Tenant::new(part(), part(), part())
    }

    async fn take(semaphore: &RecallSemaphore, path: &str, count: i64) -> Vec<RecallPermit> {
        let mut permits = Vec::new();
        for order in 0..count {
            permits.push(semaphore.acquire(&tenant(path), order).await);
        }
        permits
    }

    /// Returns the orders of the permits that were asked back.
    fn recalled(permits: &[RecallPermit]) -> Vec<i64> {
        let recalled = permits.iter().filter(|permit| permit.is_recalled());
        recalled.map(|permit| permit.position.0).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn each_newcomer_has_a_permit_after_seconds() {
        let semaphore = RecallSemaphore::new(4);
        let mut held = take(&semaphore, "a/s/first", 4).await;
        let mut kept = Vec::new();
        // Another namespace, and another export of the namespace.
        for (number, newcomer) in ["b/s/x", "a/s/second"].into_iter().enumerate() {
            let began = Instant::now();
            let tenant = tenant(newcomer);
            let mut waits = pin!(semaphore.acquire(&tenant, 0));
            assert!(timeout(Duration::from_mins(10), &mut waits).await.is_err());
            assert_eq!(
                recalled(&held),
                [3 - i64::try_from(number).unwrap()],
                "one, the latest"
            );
            held.pop();
            let permit = waits.await;
            assert!(began.elapsed() >= PATIENCE);
            kept.push(permit);
        }
        // Everybody has one, or more would be taken from who has one.
        for waiting in ["c/s/x", "b/s/y", "a/s/first"] {
            let tenant = tenant(waiting);
            let mut waits = pin!(semaphore.acquire(&tenant, 0));
            assert!(
                timeout(Duration::from_mins(1), &mut waits).await.is_err(),
                "{waiting}"
            );
            if waiting == "c/s/x" {
                assert_eq!(recalled(&held).len(), 1, "namespace a has three");
                held.pop();
                kept.push(waits.await);
            }
        }
        assert_eq!(recalled(&held), Vec::<i64>::new());
    }

    #[tokio::test(start_paused = true)]
    async fn a_permit_that_is_returned_in_time_asks_none_back() {
        let semaphore = RecallSemaphore::new(2);
        let mut held = take(&semaphore, "a/s/first", 2).await;
        let tenant = tenant("b/s/x");
        let mut waits = pin!(semaphore.acquire(&tenant, 0));
        assert!(timeout(PATIENCE / 2, &mut waits).await.is_err());
        held.pop();
        drop(waits.await);
        assert_eq!(recalled(&held), Vec::<i64>::new());
        assert_eq!(semaphore.load().taken, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn newcomers_of_several_namespaces_have_permits_at_once() {
        let semaphore = RecallSemaphore::new(4);
        let mut held = take(&semaphore, "a/s/first", 4).await;
        let waits: Vec<_> = ["b/s/x", "c/s/x", "d/s/x", "e/s/x"]
            .into_iter()
            .map(|path| {
                let semaphore = semaphore.clone();
                tokio::spawn(async move { semaphore.acquire(&tenant(path), 0).await })
            })
            .collect();
        tokio::time::sleep(PATIENCE * 3).await;
        assert_eq!(recalled(&held), [1, 2, 3], "one is left to who had four");
        held.truncate(1);
        tokio::time::sleep(PATIENCE * 3).await;
        let ready = waits.iter().filter(|wait| wait.is_finished()).count();
        assert_eq!((ready, recalled(&held)), (3, Vec::new()));
        drop(held);
        for wait in waits {
            drop(timeout(Duration::from_secs(1), wait).await.unwrap().unwrap());
        }
        assert_eq!(semaphore.load().taken, 0);
    }
}
