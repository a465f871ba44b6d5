//! A bounded number of places, given to the lowest priority value first. No I/O.
//!
//! Events expire at the source, oldest first, so places (for windows, for opening sessions) go to the oldest
//! window across all exports. A place is given back on drop, also when its waiter went away.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Places and who waits for them.
#[derive(Debug)]
pub struct Queue<P: Ord> {
    inner: Arc<Mutex<Inner<P>>>,
}

#[derive(Debug)]
struct Inner<P: Ord> {
    places: usize,
    free: usize,
    arrivals: u64,
    waiting: BTreeMap<(P, u64), oneshot::Sender<Place<P>>>,
}

/// A place; dropping it gives it to the next.
#[derive(Debug)]
pub struct Place<P: Ord> {
    inner: Option<Arc<Mutex<Inner<P>>>>,
}

/// How a queue is used at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLoad {
    /// Places in all.
    pub places: usize,
    /// Of those, taken.
    pub taken: usize,
    /// Who waits for one.
    pub waiting: usize,
}

impl<P: Ord> Clone for Queue<P> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

/// The state is counters and channels, valid after any panic elsewhere.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<P: Ord> Queue<P> {
    /// With so many places.
    pub fn new(places: usize) -> Self {
        Self {
            inner: Arc::new(Mutex::new(Inner {
                places,
                free: places,
                arrivals: 0,
                waiting: BTreeMap::new(),
            })),
        }
    }

    /// How many places there are, are taken, and are waited for.
    pub fn load(&self) -> QueueLoad {
        let inner = lock(&self.inner);
        QueueLoad {
            places: inner.places,
            taken: inner.places.saturating_sub(inner.free),
            waiting: inner
                .waiting
                .values()
                .filter(|waiter| !waiter.is_closed())
                .count(),
        }
    }

    /// Waits for a place; the lowest priority value is served first, equals by arrival.
    pub async fn place(&self, priority: P) -> Place<P> {
        let receiver = {
            let mut inner = lock(&self.inner);
            if inner.free > 0 {
                inner.free -= 1;
                return Place {
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
            Ok(place) => place,
            // The sender lives in the queue that we hold: it is never dropped unsent.
            Err(_) => Place { inner: None },
        }
    }
}

impl<P: Ord> Drop for Place<P> {
    fn drop(&mut self) {
        let Some(mutex) = self.inner.take() else { return };
        loop {
            let next = {
                let mut inner = lock(&mutex);
                if let Some((_, next)) = inner.waiting.pop_first() {
                    next
                } else {
                    inner.free += 1;
                    return;
                }
            };
            // A waiter that went away leaves its place to the next one.
            match next.send(Place {
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
    async fn the_oldest_goes_first_and_no_place_is_lost() {
        let queue = Queue::new(1);
        let first = queue.place(5).await;
        let served = Arc::new(Mutex::new(Vec::new()));
        let tasks: Vec<_> = [3, 9, 1, 7]
            .into_iter()
            .map(|priority| {
                let (queue, served) = (queue.clone(), Arc::clone(&served));
                tokio::spawn(async move {
                    let _place = queue.place(priority).await;
                    lock(&served).push(priority);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!((queue.load().taken, queue.load().waiting), (1, 4));
        tasks[1].abort();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(queue.load().waiting, 3);
        drop(first);
        for task in tasks {
            let _ = task.await;
        }
        assert_eq!(*lock(&served), [1, 3, 7]);
        let again = tokio::time::timeout(Duration::from_secs(1), queue.place(0)).await;
        assert!(again.is_ok(), "the place came back");
    }
}
