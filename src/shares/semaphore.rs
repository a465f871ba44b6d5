//! Semaphore over a fair queue. A permit is returned on drop, also when its waiter was cancelled. No I/O.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::queue::{DepthLimits, FairQueue, NodePath, Tenant, Ticket};

/// Semaphore that serves its waiters as a [`FairQueue`] does. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FairSemaphore(Arc<Mutex<SemaphoreState>>);

#[derive(Debug)]
struct SemaphoreState {
    queue: FairQueue,
    waiters: HashMap<u64, oneshot::Sender<FairPermit>>,
}

/// Permit for some units; dropping it passes them on.
#[derive(Debug)]
pub struct FairPermit {
    semaphore: FairSemaphore,
    tenant: Tenant,
    units: u64,
    /// True if its unit was asked back.
    recalled: bool,
}

/// Utilization of a semaphore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SemaphoreLoad {
    /// Maximum units of an export that holds some.
    pub units: u64,
    /// Units in use.
    pub taken: u64,
    /// Number of waiters.
    pub waiting: usize,
}

/// Removes the request of a cancelled waiter.
struct Waiter<'a> {
    semaphore: &'a FairSemaphore,
    ticket: Ticket,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let cancelled = {
            let mut state = self.semaphore.lock();
            state.queue.cancel(&self.ticket);
            state.waiters.remove(&self.ticket.number()).is_some()
        };
        if cancelled {
            // It may have kept others from units that were free.
            self.semaphore.grant();
        }
    }
}

impl FairSemaphore {
    /// Creates a semaphore with these limits.
    pub fn new(limits: DepthLimits) -> Self {
        Self(Arc::new(Mutex::new(SemaphoreState {
            queue: FairQueue::new(limits),
            waiters: HashMap::new(),
        })))
    }

    /// Returns true if there are clones: waiters and permits have one.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// Locks the state, also after a panic: counters and channels stay valid.
    fn lock(&self) -> MutexGuard<'_, SemaphoreState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for one unit; see [`FairSemaphore::acquire_many`].
    pub async fn acquire(&self, tenant: &Tenant, order: i64) -> FairPermit {
        self.acquire_many(tenant, order, 1).await
    }

    /// Waits for units. Of one tenant the lowest `order` is served first.
    pub async fn acquire_many(&self, tenant: &Tenant, order: i64, units: u64) -> FairPermit {
        let (waiter, received) = {
            let mut state = self.lock();
            let ticket = state.queue.request(tenant, order, units);
            let (sender, received) = oneshot::channel();
            state.waiters.insert(ticket.number(), sender);
            let waiter = Waiter {
                semaphore: self,
                ticket,
            };
            (waiter, received)
        };
        self.grant();
        let permit = received.await;
        drop(waiter);
        // The sender stays in `waiters` until it sends: the alternative is never used.
        permit.unwrap_or_else(|_| FairPermit {
            semaphore: self.clone(),
            tenant: tenant.clone(),
            units: 0,
            recalled: false,
        })
    }

    /// Takes units at once if nobody waits and at most `limit` units are then in use.
    pub fn take_spare(&self, tenant: &Tenant, units: u64, limit: u64) -> Option<FairPermit> {
        let taken = self.lock().queue.take_spare(tenant, units, limit);
        taken.then(|| FairPermit {
            semaphore: self.clone(),
            tenant: tenant.clone(),
            units,
            recalled: false,
        })
    }

    /// Takes units at once, see [`FairQueue::take_share`].
    pub fn take_share(&self, tenant: &Tenant, units: u64) -> Option<FairPermit> {
        let taken = self.lock().queue.take_share(tenant, units);
        taken.then(|| FairPermit {
            semaphore: self.clone(),
            tenant: tenant.clone(),
            units,
            recalled: false,
        })
    }

    /// Returns the utilization.
    pub fn load(&self) -> SemaphoreLoad {
        let SemaphoreState { queue, .. } = &*self.lock();
        SemaphoreLoad {
            units: queue.units(),
            taken: queue.taken(),
            waiting: queue.waiting(),
        }
    }

    /// Returns true if a tenant holds units while an export, space or namespace that holds none waits for some.
    pub fn is_owed_by(&self, tenant: &Tenant) -> bool {
        self.lock().queue.is_owed_by(tenant)
    }

    /// Returns the highest node of a tenant that holds no units.
    pub(super) fn newcomer(&self, tenant: &Tenant) -> Option<NodePath> {
        self.lock().queue.newcomer(tenant)
    }

    /// Returns the tenant to ask a unit back from; see [`FairQueue::debtor`].
    pub(super) fn debtor(&self, newcomer: &NodePath) -> Option<Tenant> {
        self.lock().queue.debtor(newcomer)
    }

    /// Records that a unit of a tenant was asked back; its permit must be [`FairPermit::set_recalled`] before it is dropped.
    pub(super) fn recall(&self, tenant: &Tenant) {
        self.lock().queue.recall(tenant);
    }

    /// Returns true if a tenant has a request that waits.
    pub fn is_waiting(&self, tenant: &Tenant) -> bool {
        self.lock().queue.is_waiting(tenant)
    }

    /// Serves the waiters that the limits allow.
    fn grant(&self) {
        loop {
            let (sender, permit) = {
                let mut state = self.lock();
                let Some(ticket) = state.queue.grant() else { return };
                let permit = FairPermit {
                    semaphore: self.clone(),
                    tenant: ticket.tenant().clone(),
                    units: ticket.cost(),
                    recalled: false,
                };
                (state.waiters.remove(&ticket.number()), permit)
            };
            // Outside of the lock: the permit of a waiter that is gone returns its units when it is dropped.
            if let Some(sender) = sender {
                let _ = sender.send(permit);
            }
        }
    }
}

impl FairPermit {
    /// Records that the unit of this permit was asked back.
    pub(super) const fn set_recalled(&mut self) {
        self.recalled = true;
    }
}

impl Drop for FairPermit {
    fn drop(&mut self) {
        let (tenant, units) = (&self.tenant, self.units);
        if self.recalled {
            self.semaphore.lock().queue.release_recalled(tenant);
        } else {
            self.semaphore.lock().queue.release(tenant, units);
        }
        self.semaphore.grant();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn tenant(namespace: &str) -> Tenant {
        Tenant::new(namespace, "s", "x")
    }

    #[tokio::test(start_paused = true)]
    async fn the_lowest_order_is_served_first_and_no_unit_is_lost() {
        let semaphore = FairSemaphore::new(DepthLimits::flat(1));
        let first = semaphore.acquire(&tenant("a"), 5).await;
        let served = Arc::new(Mutex::new(Vec::new()));
        let tasks: Vec<_> = [3, 9, 1, 7]
            .into_iter()
            .map(|order| {
                let (semaphore, served) = (semaphore.clone(), Arc::clone(&served));
                tokio::spawn(async move {
                    let _permit = semaphore.acquire(&tenant("a"), order).await;
                    served.lock().unwrap().push(order);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!((semaphore.load().taken, semaphore.load().waiting), (1, 4));
        tasks[1].abort();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(semaphore.load().waiting, 3);
        drop(first);
        for task in tasks {
            let _ = task.await;
        }
        assert_eq!(*served.lock().unwrap(), [1, 3, 7]);
        assert_eq!((semaphore.load().taken, semaphore.load().waiting), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_request_for_much_no_longer_holds_up_others() {
        let semaphore = FairSemaphore::new(DepthLimits::flat(4));
        let _one = semaphore.acquire(&tenant("a"), 0).await;
        let large = tokio::spawn({
            let semaphore = semaphore.clone();
            async move { semaphore.acquire_many(&tenant("b"), 0, 4).await }
        });
        tokio::task::yield_now().await;
        let small = tokio::spawn({
            let semaphore = semaphore.clone();
            async move { semaphore.acquire(&tenant("c"), 0).await }
        });
        tokio::task::yield_now().await;
        assert_eq!(semaphore.load().waiting, 2);
        large.abort();
        let served = tokio::time::timeout(Duration::from_secs(1), small).await;
        assert!(served.is_ok());
    }
}
