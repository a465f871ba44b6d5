//! Engine of one process: the resources that all its exports share, and the entry points to run or release one.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::failure::Failure;
use super::manifest::head::HeadRecord;
use super::manifest::sign::Signing;
use super::observer::{EngineLoad, EngineObserver, NoopObserver};
use super::retry_state::RetryState;
use super::run::ExportRun;
use super::run_context::{RunContext, SharedResources};
use super::session_permission::SessionPermission;
use super::snapshot::Snapshot;
use super::spec::ExportSpec;
use crate::archive::memory::JournalMemory;
use crate::pipeline::part_pool::PartPool;
use crate::pipeline::prover_pool::ProverPool;
use crate::session::budget::SessionBudgets;
use crate::shares::queue::DepthLimits;
use crate::shares::semaphore::FairSemaphore;
use crate::storage::Store;
use crate::tracker::{TimestampAuthority, Tracker};

/// Places for each window that `--windows` allows: its own, and those that are kept for exports, spaces and namespaces that
/// have none.
const PLACES_PER_WINDOW: u64 = 4;

/// Clock of a process.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Limits of a process.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Memory for parts in flight of all transfers, in MiB: at least one part. Default 96.
    pub pool_mib: u32,
    /// Minimum size of a part, in MiB. S3 takes parts of 5 MiB and more. Default 8.
    pub part_mib: u32,
    /// Concurrent windows of all exports that have one already, at most two for each MiB of the pool. As many more are kept
    /// for exports, for spaces and for namespaces that have none. Default 32.
    pub windows: usize,
    /// Maximum sessions that this process holds in one space, 1–29. Default 28.
    pub sessions_per_space: usize,
    /// Time without activity after which a session may count as a leftover of this holder. Default 10 min.
    pub session_quiet: Duration,
    /// Maximum duration of an attempt, after which it is abandoned. Default 6 h.
    pub attempt: Duration,
    /// Time between the two looks at a window that the service seems to have deleted. Default 5 min.
    pub second_look: Duration,
    /// Maximum age of the listing of all days while an export has work left. Default 24 h.
    pub listing_max_age: Duration,
    /// Maximum time that a run with a limit of retries waits for a session while it can open none. `None`: no limit,
    /// the default.
    pub session_wait: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pool_mib: 96,
            part_mib: 8,
            windows: 32,
            sessions_per_space: 28,
            session_quiet: Duration::from_mins(10),
            attempt: Duration::from_hours(6),
            second_look: Duration::from_mins(5),
            listing_max_age: Duration::from_hours(24),
            session_wait: None,
        }
    }
}

/// Source and destination of an export, and the signing of its manifests.
#[derive(Clone, Debug)]
pub struct Peers {
    /// Source of the events.
    pub tracker: Tracker,
    /// Destination of the events.
    pub store: Arc<dyn Store>,
    /// Signing of the manifests.
    pub signing: Signing,
    /// Time-stamp authority of manifests and checkpoints, or the failure that keeps them from being stamped.
    pub timestamps: Option<Result<TimestampAuthority, Failure>>,
}

/// Result of releasing the sessions of an export.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReleaseReport {
    /// Sessions that provably belong to the export and could not be deleted, with the error.
    pub leftover_sessions: Vec<(String, String)>,
    /// Reason why the release is inconclusive: the bucket or the service did not answer, or it is too early to tell.
    pub unknown: Option<String>,
    /// True if a retry cannot help: the bucket is gone, or a peer refuses the credentials.
    pub permanent: bool,
}

/// Resources that all exports of a process share: memory, processors, sessions.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<SharedResources>,
}

/// Signals to a run, and what it must know from outside the bucket.
#[derive(Clone, Debug)]
pub struct RunControl {
    /// Stops the run.
    pub stop: CancellationToken,
    /// Number of requests to look again: a change ends all waits and lists the bucket and the service again. Transfers
    /// go on.
    pub look: watch::Receiver<u64>,
    /// Newest manifest of the chain, as it is remembered outside the bucket.
    pub head: Option<HeadRecord>,
    /// Newer spec of the export, with the same source, destination and holder. Transfers go on.
    pub updates: watch::Receiver<SpecUpdate>,
    /// Permission to open sessions.
    pub sessions: SessionPermission,
    /// Failures with which a run of the same spec ended to wait.
    pub retry_state: Option<Arc<RetryState>>,
}

/// Newer spec of a running export.
#[derive(Clone, Debug, Default)]
pub struct SpecUpdate {
    /// Number of the update, from 1.
    pub number: u64,
    /// The spec; `None` before the first update.
    pub export: Option<Arc<ExportSpec>>,
}

impl From<CancellationToken> for RunControl {
    fn from(stop: CancellationToken) -> Self {
        // Nobody requests anything.
        let (_, look) = watch::channel(0);
        let (_, updates) = watch::channel(SpecUpdate::default());
        Self {
            stop,
            look,
            head: None,
            updates,
            sessions: SessionPermission::given(),
            retry_state: None,
        }
    }
}

impl Engine {
    /// Creates an engine with these limits; `now` is the clock.
    pub fn new(limits: Limits, now: Clock) -> Self {
        Self::with_observer(limits, now, Arc::new(NoopObserver))
    }

    /// Creates an engine that reports results to `observer`.
    pub fn with_observer(limits: Limits, now: Clock, observer: Arc<dyn EngineObserver>) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let windows = (limits.windows as u64)
            .min(PartPool::windows_max(limits.pool_mib) / PLACES_PER_WINDOW)
            .max(1);
        let shared = SharedResources {
            limits,
            now,
            pool: PartPool::new(limits.pool_mib, limits.part_mib, PLACES_PER_WINDOW * windows),
            journals: JournalMemory::default(),
            proofs: ProverPool::new(processors),
            window_slots: FairSemaphore::new(DepthLimits::with_reserves(windows, windows)),
            reports: FairSemaphore::new(DepthLimits::with_reserves(1, 1)),
            budgets: SessionBudgets::new(limits.sessions_per_space),
            support: std::sync::Mutex::default(),
            spent_attempts: std::sync::Mutex::default(),
            observer,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Exports until nothing can be done before [`Snapshot::next_run_at`] (complete, or continuous and up to
    /// date), until the retry policy of the export is exhausted, or until it is stopped: then it abandons transfers,
    /// aborts uploads and deletes sessions before it returns (about a second; at most 20 s). Dropping the future
    /// leaves that to the next run. Publishes changes at most once a second.
    pub async fn run(
        &self,
        export: Arc<ExportSpec>,
        peers: Peers,
        out: &watch::Sender<Arc<Snapshot>>,
        control: impl Into<RunControl>,
    ) -> Arc<Snapshot> {
        let control = control.into();
        let (ctx, inbox) = RunContext::new(export, peers, Arc::clone(&self.shared), &control);
        let span = ctx.span();
        // On the heap, since callers hold it next to other futures.
        Box::pin(ExportRun::new(Arc::new(ctx), inbox, control).run(out))
            .instrument(span)
            .await
    }

    /// Deletes every session that provably belongs to the export, and aborts its uploads, for the finalizer.
    /// Reports the sessions that are left.
    pub async fn release(&self, export: &ExportSpec, peers: &Peers) -> ReleaseReport {
        let control = RunControl::from(CancellationToken::new());
        // Without a loop, nobody reads events; the inbox is dropped, so that nobody waits to send one.
        let (ctx, _) = RunContext::new(
            Arc::new(export.clone()),
            peers.clone(),
            Arc::clone(&self.shared),
            &control,
        );
        let span = tracing::error_span!("release", export = export.name, run = %ctx.id);
        super::release::release(&ctx).instrument(span).await
    }

    /// Returns the current load of this process.
    pub fn load(&self) -> EngineLoad {
        let shared = &self.shared;
        let windows = shared.window_slots.load();
        let (pool_bytes, pool_used_bytes, waiting_for_memory) = shared.pool.load(windows.taken);
        let (spaces, waiting_for_session) = shared.budgets.load();
        EngineLoad {
            windows: usize::try_from(windows.units).unwrap_or(usize::MAX),
            active_windows: usize::try_from(windows.taken).unwrap_or(usize::MAX),
            waiting_for_slot: windows.waiting,
            waiting_for_memory,
            waiting_for_session,
            pool_bytes,
            pool_used_bytes,
            spaces,
        }
    }

    /// Returns the number of sessions that this process holds open in all spaces.
    pub fn open_sessions(&self) -> usize {
        self.shared.budgets.open_sessions()
    }
}
