//! The engine of one process: what all its exports share, and the two things it can be asked to do.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::budget::Spaces;
use super::ground::{Ground, Shared};
use super::manifest::sign::Signing;
use super::observer::{Load, Observer, Unobserved};
use super::pool::{PartPool, WindowPlaces};
use super::proof::ProofPool;
use super::run::Run;
use super::snapshot::Snapshot;
use super::wish::Export;
use crate::storage::Store;
use crate::tracker::Tracker;

/// The clock of a process.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Bounds of a process.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Memory for parts on their way, in MiB, over all transfers: at least 8. Default 96.
    pub pool_mib: u32,
    /// Windows at a time over all exports. Default 32.
    pub windows: usize,
    /// Sessions that this process holds at most in one space, 1–29. Default 28.
    pub sessions_per_space: usize,
    /// How long a session must have been quiet before it may be taken for a leftover of ours. Default 10 min.
    pub session_quiet: Duration,
    /// The longest an attempt may take. Default 6 h.
    pub attempt: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pool_mib: 96,
            windows: 32,
            sessions_per_space: 28,
            session_quiet: Duration::from_mins(10),
            attempt: Duration::from_hours(6),
        }
    }
}

/// The two peers of an export, and what its manifests are signed with.
#[derive(Clone, Debug)]
pub struct Peers {
    /// Where events come from.
    pub tracker: Tracker,
    /// Where they go.
    pub store: Arc<dyn Store>,
    /// Whether and how its manifests are signed.
    pub signing: Signing,
}

/// What is left after sessions were released.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Sessions that are provably ours and could not be deleted, with why.
    pub left: Vec<(String, String)>,
    /// What could not be found out: the bucket or the service did not answer, or it is too early to tell.
    pub unknown: Option<String>,
    /// Trying again would not help: the bucket is gone, or a peer refuses the credentials.
    pub hopeless: bool,
}

/// What all exports of a process share: memory, processors, free sessions.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

impl Engine {
    /// With these bounds; `now` is the clock.
    pub fn new(limits: Limits, now: Clock) -> Self {
        Self::observed(limits, now, Arc::new(Unobserved))
    }

    /// The same, telling `observer` what comes of its work.
    pub fn observed(limits: Limits, now: Clock, observer: Arc<dyn Observer>) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let shared = Shared {
            limits,
            now,
            pool: PartPool::new(limits.pool_mib),
            proofs: ProofPool::new(processors),
            places: WindowPlaces::new(limits.windows.max(1)),
            spaces: Spaces::new(limits.sessions_per_space),
            support: std::sync::Mutex::default(),
            observer,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Exports until nothing can be done before [`Snapshot::next_look`] (complete, or continuous and up to
    /// date), until the persistence of the export is used up, or until `stop`: then transfers are
    /// abandoned, uploads aborted and sessions deleted before it returns (about a second; at most 20 s).
    /// Dropping the future instead leaves that to the next run. Publishes what changes, at most once a second.
    pub async fn run(
        &self,
        export: Arc<Export>,
        peers: Peers,
        out: &watch::Sender<Arc<Snapshot>>,
        stop: CancellationToken,
    ) -> Arc<Snapshot> {
        let ground = Ground::new(export, peers, Arc::clone(&self.shared), stop);
        let span = ground.span();
        // On the heap: callers hold it beside others.
        Box::pin(Run::new(Arc::new(ground)).go(out))
            .instrument(span)
            .await
    }

    /// Deletes every session that is provably this export's, and aborts its uploads: for the finalizer. What
    /// is left is named.
    pub async fn release(&self, export: &Export, peers: &Peers) -> Released {
        let stop = CancellationToken::new();
        let ground = Ground::new(
            Arc::new(export.clone()),
            peers.clone(),
            Arc::clone(&self.shared),
            stop,
        );
        let span = tracing::error_span!("release", export = export.name, run = %ground.id);
        super::release::release(&ground).instrument(span).await
    }

    /// How busy this process is now.
    pub fn load(&self) -> Load {
        let shared = &self.shared;
        let places = shared.places.load();
        let (pool_bytes, pool_taken_bytes, wait_for_memory) = shared.pool.load();
        let (spaces, wait_for_turn) = shared.spaces.load();
        Load {
            places: places.places,
            placed: places.taken,
            wait_for_place: places.waiting,
            wait_for_memory,
            wait_for_turn,
            pool_bytes,
            pool_taken_bytes,
            spaces,
        }
    }

    /// Sessions that this process holds open now, over all spaces.
    pub fn open_sessions(&self) -> usize {
        self.shared.spaces.open()
    }
}
