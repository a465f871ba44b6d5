//! Supervises the task of one resource. Triggers a reconcile when its snapshot changed, at most every few seconds, and
//! when the task ended or panicked.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use kube::runtime::reflector::ObjectRef;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::entry::{RunningTask, TaskKind};
use super::exporter::ExportRunner;
use super::registry::{ExportRegistry, TaskOutcome};
use crate::api::EventExport;
use crate::export::semaphore::PriorityPermit;
use crate::export::snapshot::Snapshot;
use crate::telemetry::metrics::GaugeShare;

/// Minimum time between two reconciles that a running export triggers.
pub(super) const WAKE_INTERVAL: Duration = Duration::from_secs(3);

/// Maximum time that an export keeps its permit for the first listing of its bucket.
const FIRST_LISTING_TIMEOUT: Duration = Duration::from_secs(30);

/// Priority of an export for the first listing of its bucket, highest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum StartPriority {
    /// Windows are missing, as far as the status says.
    Unfinished,
    /// All settled windows were stored. A new day may be missing, which the service keeps for weeks.
    CaughtUp,
    /// Everything was stored; the export is only verified.
    Complete,
}

/// Prepares the runner of an export. Called only when the export has a permit: the clients of thousands of waiting
/// exports would use too much memory. Returns the outcome if the export cannot start.
pub(super) type PrepareFn =
    Box<dyn FnOnce() -> BoxFuture<'static, Result<Arc<dyn ExportRunner>, TaskOutcome>> + Send>;

/// Task before it starts.
pub(super) enum Task {
    Export(StartPriority, PrepareFn),
    Release(Arc<dyn ExportRunner>),
}

impl Task {
    pub(super) const fn kind(&self) -> TaskKind {
        match self {
            Self::Export(..) => TaskKind::Export,
            Self::Release(_) => TaskKind::Release,
        }
    }
}

/// Starts a task and its supervisor. Does not lock the registry, so the caller may hold its lock.
pub(super) fn spawn(
    registry: &Arc<ExportRegistry>,
    uid: Arc<str>,
    object: ObjectRef<EventExport>,
    serial: u64,
    spec: u64,
    task: Task,
) -> RunningTask {
    let (out, snapshots) = watch::channel(Arc::<Snapshot>::default());
    let (admit, admitted) = oneshot::channel();
    let (stop, kind) = (CancellationToken::new(), task.kind());
    let work = tokio::spawn(run_task(
        task,
        uid.clone(),
        serial,
        out,
        stop.clone(),
        registry.clone(),
        admit,
    ));
    let running = RunningTask {
        serial,
        kind,
        spec,
        stop,
        abort: work.abort_handle(),
        snapshots: snapshots.clone(),
    };
    let watched = supervise(registry.clone(), uid, object, serial, work, snapshots, admitted);
    registry.tasks.spawn(watched);
    running
}

async fn run_task(
    task: Task,
    uid: Arc<str>,
    serial: u64,
    out: watch::Sender<Arc<Snapshot>>,
    stop: CancellationToken,
    registry: Arc<ExportRegistry>,
    admit: oneshot::Sender<PriorityPermit<StartPriority>>,
) -> TaskOutcome {
    let (priority, prepare) = match task {
        Task::Release(runner) => return TaskOutcome::Released(runner.release().await),
        Task::Export(priority, prepare) => (priority, prepare),
    };
    let prepared = async {
        let permit = registry.start_queue.acquire(priority).await;
        // Without a supervisor, the permit is dropped.
        let _ = admit.send(permit);
        prepare().await
    };
    let runner = tokio::select! {
        biased;
        () = stop.cancelled() => return TaskOutcome::Exported(Arc::default()),
        prepared = prepared => match prepared {
            Ok(runner) => runner,
            Err(outcome) => return outcome,
        }
    };
    registry.attach_runner(&uid, serial, &runner);
    TaskOutcome::Exported(runner.run(&out, stop).await)
}

async fn supervise(
    registry: Arc<ExportRegistry>,
    uid: Arc<str>,
    object: ObjectRef<EventExport>,
    serial: u64,
    mut work: JoinHandle<TaskOutcome>,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    mut admitted: oneshot::Receiver<PriorityPermit<StartPriority>>,
) {
    let (mut running, mut sessions) = (
        GaugeShare::of(&registry.metrics.runs),
        GaugeShare::of(&registry.metrics.sessions_open),
    );
    running.set(1);
    let mut permit: Option<PriorityPermit<StartPriority>> = None;
    let (mut queued, mut changed) = (true, false);
    let (mut quiet_until, mut permit_until) = (Instant::now(), Instant::now());
    let outcome = loop {
        tokio::select! {
            ended = &mut work => break ended,
            Ok(()) = snapshots.changed() => {
                let snapshot = snapshots.borrow_and_update().clone();
                sessions.set(snapshot.sessions.len());
                changed = true;
                if snapshot.observed {
                    permit = None;
                }
            }
            () = sleep_until(quiet_until), if changed => {
                changed = false;
                quiet_until = Instant::now() + WAKE_INTERVAL;
                // Fails only if the controller is gone.
                let _ = registry.wake_ups.send(object.clone()).await;
            }
            received = &mut admitted, if queued => {
                queued = false;
                permit = received.ok();
                permit_until = Instant::now() + FIRST_LISTING_TIMEOUT;
            }
            () = sleep_until(permit_until), if permit.is_some() => permit = None,
        }
    };
    drop(permit);
    let outcome = outcome.unwrap_or_else(|failed| {
        if failed.is_panic() {
            registry.metrics.run_panics.inc();
            error!(export = %object, "export panicked (a defect: report it with the lines above)");
        }
        TaskOutcome::Crashed
    });
    registry.finish_task(&uid, serial, outcome);
    let _ = registry.wake_ups.send(object).await;
}
