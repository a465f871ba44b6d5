//! Memory for parts: one pool per process bounds the memory of all transfers. No I/O.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes in a MiB.
const MIB: u64 = 1024 * 1024;

/// Planned number of parts of a transfer. Stores accept at most 10,000; the size hint may be too low.
const PARTS_TARGET: u64 = 5_000;

/// Pool of memory for parts, counted in MiB. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PartPool {
    permits: Arc<Semaphore>,
    mib: u32,
    part_mib: u32,
    waiting: Arc<AtomicUsize>,
}

/// Memory reserved for one part; dropping it returns the memory to the pool.
#[derive(Debug)]
pub struct PartReservation(#[allow(dead_code)] OwnedSemaphorePermit);

impl PartPool {
    /// Creates a pool of `mib` MiB, at least the size of one part, which is `part_mib` or more.
    pub fn new(mib: u32, part_mib: u32) -> Self {
        let mib = mib.max(part_mib);
        Self {
            permits: Arc::new(Semaphore::new(mib as usize)),
            mib,
            part_mib,
            waiting: Arc::default(),
        }
    }

    /// Returns the part size of a transfer in bytes: the minimum; more if the size hint of the service exceeds 5,000 parts of
    /// that size; at most the size of the pool.
    pub fn part_bytes(&self, size_hint: Option<u64>) -> u64 {
        let wanted = size_hint.unwrap_or(0).div_ceil(PARTS_TARGET).div_ceil(MIB);
        let mib = u32::try_from(wanted)
            .unwrap_or(u32::MAX)
            .clamp(self.part_mib, self.mib);
        u64::from(mib) * MIB
    }

    /// Returns the size of the pool in bytes, the bytes in use, and the number of waiting transfers.
    pub fn load(&self) -> (u64, u64, usize) {
        let free = u64::try_from(self.permits.available_permits()).unwrap_or(u64::MAX) * MIB;
        let all = u64::from(self.mib) * MIB;
        (
            all,
            all.saturating_sub(free),
            self.waiting.load(Ordering::Relaxed),
        )
    }

    /// Waits for memory. Called only before a session is opened, so that an open session never waits here.
    pub async fn reserve(&self, part_bytes: u64) -> Option<PartReservation> {
        let _waiting = WaitingGuard::new(&self.waiting);
        let permits = Arc::clone(&self.permits)
            .acquire_many_owned(permits_for(part_bytes))
            .await;
        permits.ok().map(PartReservation)
    }

    /// Reserves memory for a further part, if available now.
    pub fn try_reserve(&self, part_bytes: u64) -> Option<PartReservation> {
        Arc::clone(&self.permits)
            .try_acquire_many_owned(permits_for(part_bytes))
            .ok()
            .map(PartReservation)
    }
}

/// Counts a waiting transfer until dropped.
struct WaitingGuard<'a>(&'a AtomicUsize);

impl<'a> WaitingGuard<'a> {
    fn new(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for WaitingGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn permits_for(part_bytes: u64) -> u32 {
    u32::try_from(part_bytes.div_ceil(MIB)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn parts_stay_within_the_pool_and_below_ten_thousand() {
        let pool = PartPool::new(20, 8);
        assert_eq!(pool.part_bytes(None), 8 * MIB);
        assert_eq!(pool.part_bytes(Some(60 * 1024 * MIB)), 13 * MIB);
        assert_eq!(pool.part_bytes(Some(u64::MAX)), 20 * MIB);
        let one = pool.reserve(8 * MIB).await.unwrap();
        let two = pool.try_reserve(8 * MIB).unwrap();
        assert_eq!(pool.load(), (20 * MIB, 16 * MIB, 0));
        assert!(pool.try_reserve(8 * MIB).is_none());
        drop((one, two));
        assert!(pool.try_reserve(20 * MIB).is_some());
    }
}
