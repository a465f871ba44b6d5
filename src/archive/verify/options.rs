//! Options and progress of a verification. No I/O.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use jiff::civil::Date;

use super::attestation::Unsigned;
use crate::archive::coverage::Expectation;
use crate::archive::manifest::Head;
use crate::archive::manifest::signature::PublicKey;
use crate::archive::memory::{JournalMemory, JournalShare, ShareExceeded};
use crate::archive::window::Window;
use crate::storage::{Store, StoreError};

/// Memory that a document and the conclusions from it take, as a multiple of its size: 4.6 MB of documents, of ten years in
/// days, were seen to take 46 MiB.
const DOCUMENT_MEMORY_FACTOR: u64 = 10;

/// Maximum concurrent reads of documents.
pub(super) const DOCUMENT_CONCURRENCY: usize = 32;

/// Options of a verification.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// Store of the archive.
    pub store: Arc<dyn Store>,
    /// Prefix of its keys: empty, or ends with `/`.
    pub prefix: String,
    /// Content that the archive should have; the prefix is then its root. `None`: what its manifests state.
    pub expectation: Option<Expectation>,
    /// The only hour of each day that the archive should have, if an expectation is given.
    pub hour: Option<u8>,
    /// True: compare checksums of the store without reading objects.
    pub quick: bool,
    /// Public keys. One of them must verify each signature. If there is one, everything that is covered must be signed.
    pub keys: Vec<PublicKey>,
    /// Exceptions from that.
    pub unsigned: Unsigned,
    /// Manifests that were noted, each of which must be in a chain of the archive.
    pub heads: Vec<Head>,
    /// True: each object must have one version, the one that its receipt states.
    pub versions: bool,
    /// First day to verify.
    pub since: Option<Date>,
    /// Last day to verify.
    pub until: Option<Date>,
    /// True for a part of a longer verification: only the keys of the given days and the manifests are read, the days
    /// are not asserted, and one object is read at a time. Checkpoints are left out.
    pub partial: bool,
    /// Maximum bytes of objects that are read per second, on average. `None`: no limit.
    pub bytes_per_second: Option<NonZeroU64>,
    /// Further listings before a file is reported missing.
    pub recheck: Recheck,
    /// Memory for listings and documents, shared with others; `None`: the limits of a process of its own.
    pub memory: Option<Arc<JournalShare>>,
}

/// Further listings before a file is reported missing.
#[derive(Clone, Copy, Debug)]
pub struct Recheck {
    /// Maximum number of further listings. The first of them follows at once.
    pub listings: u32,
    /// Pause before each of the others.
    pub pause: Duration,
}

impl Default for Recheck {
    fn default() -> Self {
        Self {
            listings: 2,
            pause: Duration::from_secs(3),
        }
    }
}

/// Progress of a verification.
#[derive(Debug, Default)]
pub struct VerifyProgress {
    /// Objects to check, as far as known.
    pub objects: AtomicU64,
    /// Total size of the objects to check, in bytes.
    pub bytes: AtomicU64,
    /// Checked objects.
    pub objects_done: AtomicU64,
    /// Bytes read so far.
    pub bytes_done: AtomicU64,
}

impl VerifyOptions {
    /// Returns the options of a complete verification of the archives below a prefix by what their manifests state, without
    /// keys: every object is read.
    pub fn new(store: Arc<dyn Store>, prefix: &str) -> Self {
        Self {
            store,
            prefix: prefix.to_owned(),
            expectation: None,
            hour: None,
            quick: false,
            keys: Vec::new(),
            unsigned: Unsigned::Refused,
            heads: Vec::new(),
            versions: false,
            since: None,
            until: None,
            partial: false,
            bytes_per_second: None,
            recheck: Recheck::default(),
            memory: None,
        }
    }

    /// Returns the expected source, if one is given. Receipts of other sources cover nothing then.
    pub fn source(&self) -> Option<&str> {
        self.expectation.as_ref()?.source.as_deref()
    }

    /// Returns true if the receipt of a window must be attested.
    pub fn requires_attestation(&self, window: Window) -> bool {
        !self.keys.is_empty()
            && match self.unsigned {
                Unsigned::Refused => true,
                Unsigned::Since(day) => window.date() < day,
                Unsigned::Allowed => false,
            }
    }

    /// Returns true if every manifest must be signed.
    pub fn requires_signed_manifests(&self) -> bool {
        !self.keys.is_empty() && self.unsigned != Unsigned::Allowed
    }

    /// Takes shared memory for documents of a total size in bytes.
    pub(super) fn take_memory(&self, bytes: u64) -> Result<(), StoreError> {
        let taken: Result<(), ShareExceeded> = match &self.memory {
            Some(shared) => shared.add(bytes.saturating_mul(DOCUMENT_MEMORY_FACTOR)),
            None => Ok(()),
        };
        taken.map_err(|ShareExceeded| self.share_exceeded())
    }

    pub(super) fn share_exceeded(&self) -> StoreError {
        StoreError::ArchiveTooLarge {
            store: self.store.identity().to_string(),
            prefix: self.prefix.clone(),
            limit: JournalMemory::limit(),
        }
    }

    /// Returns true if a day is in the range to verify.
    pub fn includes(&self, day: Date) -> bool {
        self.since.is_none_or(|since| day >= since) && self.until.is_none_or(|until| day <= until)
    }
}
