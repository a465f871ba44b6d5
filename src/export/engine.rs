//! Engine of one process: the resources that all its exports share, and the entry points to run or release one.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::observer::{EngineLoad, EngineObserver, NoopObserver};
use super::release::release;
use super::run::ExportRun;
use super::run_context::{RunContext, SharedResources};
use super::snapshot::Snapshot;
use super::spec::ExportSpec;
use crate::archive::memory::JournalMemory;
use crate::pipeline::part_pool::PartPool;
use crate::pipeline::prover_pool::ProverPool;
use crate::session::budget::SessionBudgets;
use crate::shares::queue::DepthLimits;
use crate::shares::semaphore::FairSemaphore;

pub use super::limits::{Clock, Limits};
pub use super::release::ReleaseReport;
pub use super::run_context::Peers;
pub use super::run_control::{RunControl, SpecUpdate};

/// Places for each window that `--windows` allows: its own, and those that are kept for exports, spaces and namespaces that
/// have none.
const PLACES_PER_WINDOW: u64 = 4;

/// Resources that all exports of a process share: memory, processors, sessions.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<SharedResources>,
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
        release(&ctx).instrument(span).await
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
