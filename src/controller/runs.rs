//! Runs of exports: one task for each, outside `reconcile`. A run reports what it did as [`RunEvent`]s on a bounded
//! channel and knows neither the registry nor the reconciles.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

use super::entry::{RunningTask, TaskKind, spec_digest};
use super::export_name::ExportName;
use super::exporter::ExportRunner;
use super::start_phase::{StartEvent, StartPhase};
use super::start_places::{SlowPlaceWait, StartPlace, StartPlaces};
use crate::api::EventExport;
use crate::archive::manifest::HeadRecord;
use crate::export::engine::{ReleaseReport, RunControl, SpecUpdate};
use crate::export::failure::Failure;
use crate::export::retry_state::RetryState;
use crate::export::session_permission::{SessionGrant, SessionPermission};
use crate::export::snapshot::Snapshot;
use crate::shares::queue::Tenant;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::GaugeShare;

/// Capacity of the channel of events. Runs wait when it is full.
const EVENT_CAPACITY: usize = 1024;

/// Minimum time between two changes that a run reports.
pub(super) const CHANGE_INTERVAL: Duration = Duration::from_secs(3);

/// Group of an export for the first listing of its bucket. Within a namespace, the groups take turns: an export of a small
/// group waits for few others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum StartPriority {
    /// Windows are missing, as far as the status says.
    Unfinished,
    /// The last run had an error: the next one may have it, too.
    Failing,
    /// All settled windows were stored. A new day may be missing, which the service keeps for weeks.
    CaughtUp,
    /// Everything was stored; the export is only verified.
    Complete,
}

/// Export that is ready to run.
pub(super) struct PreparedRun {
    pub(super) runner: Arc<dyn ExportRunner>,
    /// Newest manifest, as the status remembers it.
    pub(super) head: Option<HeadRecord>,
    /// Failures with which the last run ended to wait.
    pub(super) retry_state: Option<Arc<RetryState>>,
    /// True if the resource has its finalizer.
    pub(super) has_finalizer: bool,
}

/// Prepares the runner of an export. Called only when the export has a place: the clients of thousands of waiting
/// exports would use too much memory. Returns the outcome if the export cannot start.
pub(super) type PrepareFn = Box<dyn FnOnce() -> BoxFuture<'static, Result<PreparedRun, TaskOutcome>> + Send>;

/// Task before it starts.
pub(super) enum Task {
    Export {
        place: (StartPlace, SlowPlaceWait),
        prepare: PrepareFn,
    },
    Release(Arc<dyn ExportRunner>),
}

impl StartPriority {
    /// Returns the name of the group in the queue.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Unfinished => "unfinished",
            Self::Failing => "failing",
            Self::CaughtUp => "caught-up",
            Self::Complete => "complete",
        }
    }
}

/// Identity of a task: its resource, and its number among all tasks of the process.
#[derive(Clone, Debug)]
pub(super) struct TaskId {
    pub(super) uid: Arc<str>,
    pub(super) name: ExportName,
    pub(super) serial: u64,
}

/// Report of a task.
pub(super) struct RunEvent {
    pub(super) task: TaskId,
    pub(super) kind: RunEventKind,
}

pub(super) enum RunEventKind {
    /// The export has its runner, and starts.
    Prepared(Arc<dyn ExportRunner>),
    /// Its snapshot changed, or it wants to open sessions. Sent at most every [`CHANGE_INTERVAL`], the latter at once.
    Changed,
    /// The task ended. The last event of a task.
    Ended(TaskOutcome),
}

/// Outcome of a task.
pub(super) enum TaskOutcome {
    Exported(Arc<Snapshot>),
    /// The export gave its place among those with slow peers up for one that waited.
    GaveWay(Arc<Snapshot>),
    Released(ReleaseReport),
    /// The export could not start because of its spec, its Secrets or a peer.
    Blocked(Failure),
    /// The export could not start: the API server did not answer, or the resource changed or is gone. Or it was aborted,
    /// and nothing is known.
    NotStarted,
    /// The task panicked.
    Crashed,
}

/// All runs of the process.
pub(super) struct Runs {
    tasks: TaskTracker,
    places: StartPlaces,
    events: mpsc::Sender<RunEvent>,
    metrics: Metrics,
}

impl Runs {
    /// Creates the runs. The receiver gets the events of all tasks.
    pub(super) fn new(metrics: Metrics) -> (Arc<Self>, mpsc::Receiver<RunEvent>) {
        let (events, received) = mpsc::channel(EVENT_CAPACITY);
        let runs = Self {
            tasks: TaskTracker::new(),
            places: StartPlaces::new(),
            events,
            metrics,
        };
        (Arc::new(runs), received)
    }

    /// Starts a task for a version of a resource.
    pub(super) fn spawn(self: &Arc<Self>, id: TaskId, object: Arc<EventExport>, task: Task) -> RunningTask {
        let (out, snapshots) = watch::channel(Arc::<Snapshot>::default());
        let (stop, serial) = (CancellationToken::new(), id.serial);
        let (look, looks) = watch::channel(0);
        let (newest_spec, updates) = watch::channel(SpecUpdate::default());
        let (sessions, grant) = SessionPermission::asked();
        let control = RunControl {
            stop: stop.clone(),
            look: looks,
            // Known when the export is prepared.
            head: None,
            updates,
            sessions,
            retry_state: None,
        };
        let (kind, start, work) = match task {
            Task::Export { place, prepare } => (
                TaskKind::Export,
                StartPhase::Listing(place.0, place.1),
                tokio::spawn(run_export(
                    self.clone(),
                    id.clone(),
                    prepare,
                    out,
                    control,
                    grant.clone(),
                )),
            ),
            Task::Release(runner) => (
                TaskKind::Release,
                StartPhase::Started,
                tokio::spawn(async move { TaskOutcome::Released(runner.release().await) }),
            ),
        };
        let running = RunningTask {
            serial,
            kind,
            spec: spec_digest(&object.spec),
            object,
            stop: stop.clone(),
            look,
            updates: newest_spec,
            sessions: grant.clone(),
            abort: work.abort_handle(),
            snapshots: snapshots.clone(),
        };
        self.tasks
            .spawn(supervise(self.clone(), id, work, snapshots, start, (grant, stop)));
        running
    }

    /// Waits for the place of an export that starts. The tenant is that of the queues for starts, without the peers.
    pub(super) async fn place(
        &self,
        peers: &str,
        tenant: &Tenant,
        failures: u32,
    ) -> (StartPlace, SlowPlaceWait) {
        self.places.acquire(peers, tenant, failures).await
    }

    /// Waits until all tasks have ended, at most for `limit`. Returns the number of those that have not.
    pub(super) async fn ended(&self, limit: Duration) -> usize {
        self.tasks.close();
        match tokio::time::timeout(limit, self.tasks.wait()).await {
            Ok(()) => 0,
            Err(_) => self.tasks.len(),
        }
    }

    /// Sends an event. It is lost if the receiver is gone: then the process ends.
    async fn report(&self, task: &TaskId, kind: RunEventKind) {
        let task = task.clone();
        let _ = self.events.send(RunEvent { task, kind }).await;
    }
}

async fn run_export(
    runs: Arc<Runs>,
    id: TaskId,
    prepare: PrepareFn,
    out: watch::Sender<Arc<Snapshot>>,
    control: RunControl,
    grant: SessionGrant,
) -> TaskOutcome {
    let PreparedRun {
        runner,
        head,
        retry_state,
        has_finalizer,
    } = tokio::select! {
        biased;
        () = control.stop.cancelled() => return TaskOutcome::Exported(Arc::default()),
        prepared = prepare() => match prepared {
            Ok(prepared) => prepared,
            Err(outcome) => return outcome,
        }
    };
    if has_finalizer {
        grant.give();
    }
    let control = RunControl {
        head,
        retry_state,
        ..control
    };
    runs.report(&id, RunEventKind::Prepared(runner.clone())).await;
    TaskOutcome::Exported(runner.run(&out, control).await)
}

/// Returns the next event of an export that starts, without its request for sessions. Cancel safe.
async fn next_start_event(phase: &mut StartPhase<StartPlace, SlowPlaceWait>) -> StartEvent<StartPlace> {
    match phase {
        StartPhase::Listing(_, wait) => StartEvent::SlowPlace(wait.await),
        StartPhase::Slow(place) => {
            place.asked_back().await;
            StartEvent::AskedBack
        }
        StartPhase::Leaving(_) | StartPhase::Started => std::future::pending().await,
    }
}

/// Reports the changes of a task, and its end or panic. Holds the place of an export that starts.
async fn supervise(
    runs: Arc<Runs>,
    id: TaskId,
    mut work: JoinHandle<TaskOutcome>,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    mut start: StartPhase<StartPlace, SlowPlaceWait>,
    (mut grant, stop): (SessionGrant, CancellationToken),
) {
    let (mut running, mut sessions) = (
        GaugeShare::of(&runs.metrics.runs),
        GaugeShare::of(&runs.metrics.sessions_open),
    );
    running.set(1);
    let mut changed = false;
    let mut quiet_until = Instant::now();
    let outcome = loop {
        let event = tokio::select! {
            ended = &mut work => break ended,
            Ok(()) = snapshots.changed() => {
                sessions.set(snapshots.borrow_and_update().sessions.len());
                changed = true;
                continue;
            }
            () = sleep_until(quiet_until), if changed => {
                changed = false;
                quiet_until = Instant::now() + CHANGE_INTERVAL;
                runs.report(&id, RunEventKind::Changed).await;
                continue;
            }
            () = grant.wanted(), if !start.is_over() => StartEvent::SessionsWanted,
            event = next_start_event(&mut start) => event,
        };
        let asks = matches!(event, StartEvent::SessionsWanted) && !grant.is_given();
        start = start.after(event);
        if matches!(start, StartPhase::Leaving(_)) {
            stop.cancel();
        }
        if asks {
            runs.report(&id, RunEventKind::Changed).await;
        }
    };
    let gave_way = matches!(start, StartPhase::Leaving(_));
    drop(start);
    let outcome = outcome.unwrap_or_else(|failed| {
        if !failed.is_panic() {
            return TaskOutcome::NotStarted;
        }
        runs.metrics.run_panics.inc();
        error!(export = %id.name, "export panicked (a defect: report it with the lines above)");
        TaskOutcome::Crashed
    });
    let outcome = match outcome {
        TaskOutcome::Exported(snapshot) if gave_way => TaskOutcome::GaveWay(snapshot),
        outcome => outcome,
    };
    runs.report(&id, RunEventKind::Ended(outcome)).await;
}
