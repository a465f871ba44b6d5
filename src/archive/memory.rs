//! Bounds for the memory of journals: what is kept of each archive, and the documents that are being read. No I/O.

use std::sync::{LazyLock, Mutex, PoisonError};

use super::layout::Key;
use crate::shares::queue::{DepthLimits, Tenant};
use crate::shares::semaphore::{FairPermit, FairSemaphore};

/// Maximum memory of one journal, in KiB: 96 MiB, if there are no others. The journal of ten years in hours takes half of it.
const JOURNAL_KIB: u64 = 96 * 1024;

/// Memory that a journal takes at once, in KiB.
const STEP_KIB: u64 = 64;

/// Memory that each journal has, in bytes: 64 KiB, for a hundred windows. Thousands of exports may run at once.
const SMALL_JOURNAL_BYTES: u64 = 64 * 1024;

/// Bytes of the facts of a receipt, in a tree.
const RECEIPT_BYTES: u64 = 448;

/// Bytes of the facts of an attempt, in a tree.
const ATTEMPT_BYTES: u64 = 512;

/// Bytes of any other key that is kept, in a tree.
const KEY_BYTES: u64 = 64;

/// Bytes of documents that are being read, in KiB, by the reads of one store: 20 MiB.
const READS_KIB: u64 = 20 * 1024;

/// Bytes of documents that stores without a read find free, for each level, in KiB: 4 MiB.
const READS_RESERVE_KIB: u64 = 4 * 1024;

/// Size of documents that are read without waiting, while another one is held: 4 KiB, more than a signature.
const SMALL_DOCUMENT_BYTES: u64 = 4 * 1024;

/// Documents that are being read, of all archives of the process.
static READS: LazyLock<FairSemaphore> =
    LazyLock::new(|| FairSemaphore::new(DepthLimits::with_reserves(READS_KIB, READS_RESERVE_KIB)));

/// An archive needs more memory than its share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareExceeded;

/// Memory for the journals of a process.
#[derive(Clone, Debug)]
pub struct JournalMemory(FairSemaphore);

/// Memory of one journal; returned when it is dropped.
#[derive(Debug)]
pub struct JournalShare {
    memory: JournalMemory,
    tenant: Tenant,
    taken: Mutex<TakenMemory>,
}

#[derive(Debug)]
struct TakenMemory {
    permits: Vec<FairPermit>,
    /// Bytes that are not used yet.
    spare: u64,
}

impl Default for JournalMemory {
    fn default() -> Self {
        Self::new(JOURNAL_KIB)
    }
}

impl Default for JournalShare {
    /// Returns the share of an archive that is alone in its process.
    fn default() -> Self {
        JournalMemory::default().alone()
    }
}

impl JournalMemory {
    /// Creates memory of which one journal may take this size: as much as is then left for others.
    pub fn new(kib: u64) -> Self {
        Self(FairSemaphore::new(DepthLimits::flat(2 * kib)))
    }

    /// Returns an empty share for an archive that is alone.
    pub fn alone(&self) -> JournalShare {
        self.share(&Tenant::new("", "", ""))
    }

    /// Returns an empty share for an export.
    pub fn share(&self, tenant: &Tenant) -> JournalShare {
        JournalShare {
            memory: self.clone(),
            tenant: tenant.clone(),
            taken: Mutex::new(TakenMemory {
                permits: Vec::new(),
                spare: SMALL_JOURNAL_BYTES,
            }),
        }
    }

    /// Returns the limit of a journal, with its unit.
    pub fn limit() -> String {
        format!("its share of {} MiB of memory", 2 * JOURNAL_KIB / 1024)
    }
}

impl JournalShare {
    /// Takes memory for a key.
    pub(super) fn add_key(&self, key: &Key) -> Result<(), ShareExceeded> {
        self.add(match key {
            Key::Other | Key::ReceiptSignature(..) => return Ok(()),
            Key::Receipt(_) => RECEIPT_BYTES,
            Key::Attempt(_) | Key::Prepared(_) => ATTEMPT_BYTES,
            Key::Session(_, session) => ATTEMPT_BYTES + session.len() as u64,
            _ => KEY_BYTES,
        })
    }

    /// Takes memory without waiting: a holder that waits for more could block others indefinitely.
    pub(super) fn add(&self, bytes: u64) -> Result<(), ShareExceeded> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        while taken.spare < bytes {
            let permit = self.memory.0.take_share(&self.tenant, STEP_KIB);
            taken.permits.push(permit.ok_or(ShareExceeded)?);
            taken.spare += STEP_KIB * 1024;
        }
        taken.spare -= bytes;
        Ok(())
    }
}

/// Waits until a document of at most `bytes` may be read from a store; `None` for a small one. The result is held until the
/// document is reduced to what is kept of it.
pub(super) async fn reserve_read(store: &str, bytes: u64) -> Option<FairPermit> {
    if bytes <= SMALL_DOCUMENT_BYTES {
        return None;
    }
    let tenant = Tenant::new(store, "", "");
    Some(READS.acquire_many(&tenant, 0, bytes.div_ceil(1024)).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_that_takes_all_it_can_leaves_room_for_others() {
        let memory = JournalMemory::default();
        let large = memory.share(&Tenant::new("a", "s", "x"));
        let fill = |share: &JournalShare| (0..u64::MAX).find(|_| share.add(RECEIPT_BYTES).is_err());
        let receipts = fill(&large).unwrap();
        assert!(receipts > 2 * 87_600, "ten years in hours, twice: {receipts}");
        let others: Vec<JournalShare> = [("a", "s", "y"), ("b", "s", "x"), ("c", "s", "x")]
            .into_iter()
            .map(|(namespace, space, export)| {
                let other = memory.share(&Tenant::new(namespace, space, export));
                let receipts = fill(&other).unwrap();
                assert!(receipts > 20_000, "{receipts} of {namespace}");
                other
            })
            .collect();
        drop((large, others));
        let again = memory.share(&Tenant::new("a", "s", "x"));
        assert!(fill(&again) >= Some(receipts));
    }
}
