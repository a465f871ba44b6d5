//! A semaphore that serves the lowest priority value first. No I/O.
//!
//! Events expire at the source, oldest first, so permits (for windows, for opening sessions) go to the oldest
//! window across all exports. A permit is returned on drop, also when its waiter was cancelled.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::archive::window::Window;

/// Limits the concurrent windows of all exports; the oldest window is served first.
pub type WindowSemaphore = PrioritySemaphore<Window>;

/// A semaphore with a priority queue of waiters. Cheap to clone.
#[derive(Debug)]
pub struct PrioritySemaphore<P: Ord> {
    inner: Arc<Mutex<SemaphoreState<P>>>,
}

#[derive(Debug)]
struct SemaphoreState<P: Ord> {
    permits: usize,
    available: usize,
    arrivals: u64,
    waiting: BTreeMap<(P, u64), oneshot::Sender<PriorityPermit<P>>>,
}

/// A permit; dropping it passes it to the next waiter.
#[derive(Debug)]
pub struct PriorityPermit<P: Ord> {
    inner: Option<Arc<Mutex<SemaphoreState<P>>>>,
}

/// Utilization of a semaphore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SemaphoreLoad {
    /// Total permits.
    pub permits: usize,
    /// Permits in use.
    pub taken: usize,
    /// Number of waiters.
    pub waiting: usize,
}

impl<P: Ord> Clone for PrioritySemaphore<P> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

/// Locks the state, also after a panic: counters and channels stay valid.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<P: Ord> PrioritySemaphore<P> {
    /// Creates a semaphore with `permits` permits.
    pub fn new(permits: usize) -> Self {
        Self {
            inner: Arc::new(Mutex::new(SemaphoreState {
                permits,
                available: permits,
                arrivals: 0,
                waiting: BTreeMap::new(),
            })),
        }
    }

    /// Returns the total permits, the permits in use and the number of waiters.
    pub fn load(&self) -> SemaphoreLoad {
        let inner = lock(&self.inner);
        SemaphoreLoad {
            permits: inner.permits,
            taken: inner.permits.saturating_sub(inner.available),
            waiting: inner
                .waiting
                .values()
                .filter(|waiter| !waiter.is_closed())
                .count(),
        }
    }

    /// Waits for a place; the lowest priority value is served first, equals by arrival.
    pub async fn acquire(&self, priority: P) -> PriorityPermit<P> {
        let receiver = {
            let mut inner = lock(&self.inner);
            if inner.available > 0 {
                inner.available -= 1;
                return PriorityPermit {
                    inner: Some(Arc::clone(&self.inner)),
                };
            }
            inner.arrivals += 1;
            let (sender, receiver) = oneshot::channel();
            let arrival = inner.arrivals;
            inner.waiting.insert((priority, arrival), sender);
            receiver
        };
        match receiver.await {
            Ok(permit) => permit,
            // The sender lives in the queue that `self` keeps alive: it is never dropped unsent.
            Err(_) => PriorityPermit { inner: None },
        }
    }
}

impl<P: Ord> Drop for PriorityPermit<P> {
    fn drop(&mut self) {
        let Some(mutex) = self.inner.take() else { return };
        loop {
            let next = {
                let mut inner = lock(&mutex);
                if let Some((_, next)) = inner.waiting.pop_first() {
                    next
                } else {
                    inner.available += 1;
                    return;
                }
            };
            // A cancelled waiter passes its permit to the next one.
            match next.send(PriorityPermit {
                inner: Some(Arc::clone(&mutex)),
            }) {
                Ok(()) => return,
                Err(mut unsent) => unsent.inner = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn the_lowest_priority_value_is_served_first_and_no_permit_is_lost() {
        let semaphore = PrioritySemaphore::new(1);
        let first = semaphore.acquire(5).await;
        let served = Arc::new(Mutex::new(Vec::new()));
        let tasks: Vec<_> = [3, 9, 1, 7]
            .into_iter()
            .map(|priority| {
                let (semaphore, served) = (semaphore.clone(), Arc::clone(&served));
                tokio::spawn(async move {
                    let _permit = semaphore.acquire(priority).await;
                    lock(&served).push(priority);
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
        assert_eq!(*lock(&served), [1, 3, 7]);
        let again = tokio::time::timeout(Duration::from_secs(1), semaphore.acquire(0)).await;
        assert!(again.is_ok(), "the permit was returned");
    }
}
