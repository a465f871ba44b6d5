//! Memory for parts: one pool per process bounds the memory of all transfers. No I/O.
//!
//! A window has memory for its first bytes with its place. It waits for a whole part once it has more, and holds no other part
//! meanwhile; so a window that holds parts never waits for memory, and every wait ends. Further parts are taken only if they are
//! free.

use crate::shares::queue::{DepthLimits, Tenant};
use crate::shares::semaphore::{FairPermit, FairSemaphore};

/// Bytes in a MiB.
const MIB: u64 = 1024 * 1024;

/// Planned number of parts of a transfer. Stores accept at most 10,000; the size hint may be too low.
const PARTS_TARGET: u64 = 5_000;

/// Memory that a window has from the beginning: 64 KiB. A smaller body needs no part.
pub const FIRST_BYTES: u64 = 64 * 1024;

/// Maximum share of the pool in one part: an eighth, whatever size the service claims.
const PART_SHARE: u32 = 8;

/// Share of the memory for parts that each level of newcomers finds free: a sixteenth, or one part if that is more.
const RESERVE_SHARE: u64 = 16;

/// Pool of memory for parts, counted in MiB. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PartPool {
    parts: FairSemaphore,
    /// Size of the pool, with the first bytes of all windows.
    mib: u64,
    first_mib: u64,
    part_mib: u64,
    part_max_mib: u64,
}

/// Memory reserved for one part; dropping it returns the memory to the pool.
#[derive(Debug)]
pub struct PartReservation(#[allow(dead_code)] FairPermit);

impl PartPool {
    /// Creates a pool of `mib` MiB for the first bytes of `windows` windows and for parts of `part_mib` or more. There is
    /// room for one part in any case.
    pub fn new(mib: u32, part_mib: u32, windows: u64) -> Self {
        let (mib, part_mib) = (u64::from(mib), u64::from(part_mib));
        let first_mib = (windows * FIRST_BYTES).div_ceil(MIB);
        let all = mib.saturating_sub(first_mib).max(part_mib);
        let reserve = part_mib.max(all / RESERVE_SHARE).min((all - part_mib) / 3);
        let limits = DepthLimits::with_reserves(all - 3 * reserve, reserve);
        Self {
            part_max_mib: part_mib.max(mib / u64::from(PART_SHARE)).min(limits.units()),
            parts: FairSemaphore::new(limits),
            mib: first_mib + all,
            first_mib,
            part_mib,
        }
    }

    /// Returns the maximum windows whose first bytes take half of a pool of `mib` MiB.
    pub const fn windows_max(mib: u32) -> u64 {
        mib as u64 * MIB / 2 / FIRST_BYTES
    }

    /// Returns the part size of a transfer in bytes: the minimum; more if the size hint of the service exceeds 5,000 parts of
    /// that size; at most an eighth of the pool.
    pub fn part_bytes(&self, size_hint: Option<u64>) -> u64 {
        let wanted = size_hint.unwrap_or(0).div_ceil(PARTS_TARGET).div_ceil(MIB);
        wanted.clamp(self.part_mib, self.part_max_mib) * MIB
    }

    /// Returns the size of the pool in bytes, the bytes in use by parts and by the first bytes of `windows`, and the number of
    /// waiting transfers.
    pub fn load(&self, windows: u64) -> (u64, u64, usize) {
        let parts = self.parts.load();
        let first = (windows * FIRST_BYTES).min(self.first_mib * MIB);
        (self.mib * MIB, parts.taken * MIB + first, parts.waiting)
    }

    /// Waits for memory. Only for a caller that holds no part.
    pub async fn reserve(&self, tenant: &Tenant, order: i64, bytes: u64) -> PartReservation {
        let permit = self.parts.acquire_many(tenant, order, bytes.div_ceil(MIB));
        PartReservation(permit.await)
    }

    /// Reserves memory for a further part, if it is free, nobody waits for it, and a quarter is left for first parts.
    pub fn try_reserve(&self, tenant: &Tenant, part_bytes: u64) -> Option<PartReservation> {
        let units = self.parts.load().units;
        let permit = self
            .parts
            .take_spare(tenant, part_bytes.div_ceil(MIB), units - units / 4);
        permit.map(PartReservation)
    }

    /// Returns true if a tenant holds parts while one that holds none waits for memory.
    pub fn is_owed_by(&self, tenant: &Tenant) -> bool {
        self.parts.is_owed_by(tenant)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn tenant(namespace: usize, export: usize) -> Tenant {
        Tenant::new(&namespace.to_string(), "s", &export.to_string())
    }

    #[tokio::test]
    async fn parts_stay_within_the_pool_and_below_ten_thousand() {
        let pool = PartPool::new(200, 8, 128);
        assert_eq!(pool.part_bytes(None), 8 * MIB);
        assert_eq!(pool.part_bytes(Some(60 * 1024 * MIB)), 13 * MIB);
        assert_eq!(pool.part_bytes(Some(u64::MAX)), 25 * MIB);
        let one = pool.reserve(&tenant(0, 0), 0, 8 * MIB).await;
        let two = pool.try_reserve(&tenant(0, 0), 8 * MIB).unwrap();
        assert_eq!(pool.load(0), (200 * MIB, 16 * MIB, 0));
        drop((one, two));
        assert_eq!(pool.load(1), (200 * MIB, FIRST_BYTES, 0));
        // The smallest pool has one part.
        let pool = PartPool::new(8, 8, 64);
        let one = pool
            .reserve(&tenant(0, 0), 0, pool.part_bytes(Some(u64::MAX)))
            .await;
        assert!(pool.try_reserve(&tenant(0, 0), 8 * MIB).is_none());
        drop(one);
    }

    #[tokio::test]
    async fn a_tenant_whose_parts_do_not_move_leaves_room_for_the_parts_of_others() {
        let pool = PartPool::new(96, 8, 128);
        let mut stuck = Vec::new();
        // All that it can get: 28 windows, and whatever else is free.
        let reserve = |namespace, export| {
            let (pool, tenant) = (pool.clone(), tenant(namespace, export));
            let reserving = async move { pool.reserve(&tenant, 0, pool.part_bytes(Some(u64::MAX))).await };
            tokio::time::timeout(Duration::from_millis(20), reserving)
        };
        for _ in 0..28 {
            stuck.extend(reserve(0, 0).await.ok());
            stuck.extend(pool.try_reserve(&tenant(0, 0), 12 * MIB));
        }
        assert!(stuck.len() >= 5, "{}", stuck.len());
        let other_export = reserve(0, 1).await;
        let other_namespace = reserve(1, 0).await;
        assert!(other_export.is_ok() && other_namespace.is_ok());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Windows of any pool, part size and size hint end: whatever they need for progress comes.
        #[test]
        fn no_transfer_waits_for_ever(
            mib in 8..200_u32,
            windows in proptest::collection::vec((0..3_usize, 0..4_usize, 1..6_usize, any::<u64>()), 1..40),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            let pool = PartPool::new(mib, 8, 64);
            let all = windows.len();
            let ended = runtime.block_on(async {
                let transfers = windows.into_iter().map(|(namespace, export, parts, hint)| {
                    let (pool, tenant) = (pool.clone(), tenant(namespace, export));
                    tokio::spawn(async move {
                        let bytes = pool.part_bytes(Some(hint));
                        let mut held = vec![pool.reserve(&tenant, 0, bytes).await];
                        for _ in 0..parts {
                            held.extend(pool.try_reserve(&tenant, bytes));
                            tokio::time::sleep(Duration::from_secs(1)).await;
                        }
                    })
                });
                let transfers: Vec<_> = transfers.collect();
                let mut ended = 0;
                for transfer in transfers {
                    let end = tokio::time::timeout(Duration::from_hours(1), transfer).await;
                    ended += usize::from(end.is_ok());
                }
                ended
            });
            prop_assert_eq!(ended, all);
            prop_assert_eq!(pool.load(0).1, 0);
        }
    }
}
