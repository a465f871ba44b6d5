//! The engine of one process: what all its exports share, and the two things it can be asked to do.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::budget::SessionBudgets;
use super::manifest::sign::Signing;
use super::observer::{EngineLoad, EngineObserver, NoopObserver};
use super::pool::{PartPool, WindowSemaphore};
use super::proof::ProverPool;
use super::run::ExportRun;
use super::run_context::{RunContext, SharedResources};
use super::snapshot::Snapshot;
use super::spec::ExportSpec;
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
pub struct ReleaseReport {
    /// Sessions that are provably ours and could not be deleted, with why.
    pub leftover_sessions: Vec<(String, String)>,
    /// What could not be found out: the bucket or the service did not answer, or it is too early to tell.
    pub unknown: Option<String>,
    /// Trying again would not help: the bucket is gone, or a peer refuses the credentials.
    pub permanent: bool,
}

/// What all exports of a process share: memory, processors, free sessions.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<SharedResources>,
}

impl Engine {
    /// With these bounds; `now` is the clock.
    pub fn new(limits: Limits, now: Clock) -> Self {
        Self::with_observer(limits, now, Arc::new(NoopObserver))
    }

    /// The same, telling `observer` what comes of its work.
    pub fn with_observer(limits: Limits, now: Clock, observer: Arc<dyn EngineObserver>) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let shared = SharedResources {
            limits,
            now,
            pool: PartPool::new(limits.pool_mib),
            proofs: ProverPool::new(processors),
            window_slots: WindowSemaphore::new(limits.windows.max(1)),
            budgets: SessionBudgets::new(limits.sessions_per_space),
            support: std::sync::Mutex::default(),
            observer,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Exports until nothing can be done before [`Snapshot::next_run_at`] (complete, or continuous and up to
    /// date), until the persistence of the export is used up, or until `stop`: then transfers are
    /// abandoned, uploads aborted and sessions deleted before it returns (about a second; at most 20 s).
    /// Dropping the future instead leaves that to the next run. Publishes what changes, at most once a second.
    pub async fn run(
        &self,
        export: Arc<ExportSpec>,
        peers: Peers,
        out: &watch::Sender<Arc<Snapshot>>,
        stop: CancellationToken,
    ) -> Arc<Snapshot> {
        let ctx = RunContext::new(export, peers, Arc::clone(&self.shared), stop);
        let span = ctx.span();
        // On the heap: callers hold it beside others.
        Box::pin(ExportRun::new(Arc::new(ctx)).run(out))
            .instrument(span)
            .await
    }

    /// Deletes every session that is provably this export's, and aborts its uploads: for the finalizer. What
    /// is left is named.
    pub async fn release(&self, export: &ExportSpec, peers: &Peers) -> ReleaseReport {
        let stop = CancellationToken::new();
        let ctx = RunContext::new(
            Arc::new(export.clone()),
            peers.clone(),
            Arc::clone(&self.shared),
            stop,
        );
        let span = tracing::error_span!("release", export = export.name, run = %ctx.id);
        super::release::release(&ctx).instrument(span).await
    }

    /// How busy this process is now.
    pub fn load(&self) -> EngineLoad {
        let shared = &self.shared;
        let windows = shared.window_slots.load();
        let (pool_bytes, pool_used_bytes, waiting_for_memory) = shared.pool.load();
        let (spaces, waiting_for_session) = shared.budgets.load();
        EngineLoad {
            windows: windows.permits,
            active_windows: windows.taken,
            waiting_for_slot: windows.waiting,
            waiting_for_memory,
            waiting_for_session,
            pool_bytes,
            pool_used_bytes,
            spaces,
        }
    }

    /// Sessions that this process holds open now, over all spaces.
    pub fn open_sessions(&self) -> usize {
        self.shared.budgets.open_sessions()
    }
}
