//! Watches over one piece of work in its task: wakes the controller when something changed, at most every few
//! seconds, and when it ended, however it ended.

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

/// The least time between two wake-ups for one resource while it exports.
pub(super) const WAKE_INTERVAL: Duration = Duration::from_secs(3);

/// How long an export may keep its place among those that list their bucket for the first time.
const FIRST_LISTING_TIMEOUT: Duration = Duration::from_secs(30);

/// Who gets a place among those that list their bucket for the first time, the first of these first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum StartPriority {
    /// What has something to do, as far as is known.
    Unfinished,
    /// What had stored all that there was: at most a young day waits, which the service keeps for weeks.
    CaughtUp,
    /// What was complete, and is looked at only to make sure.
    Complete,
}

/// Makes the job of an export, asked once there is a place for it: the clients of thousands that wait would fill the
/// memory. The outcome, if it cannot begin.
pub(super) type PrepareFn =
    Box<dyn FnOnce() -> BoxFuture<'static, Result<Arc<dyn ExportRunner>, TaskOutcome>> + Send>;

/// What is to be done.
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

/// Begins work; what it needs from the registry is only its queues, so that the caller may hold its lock.
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
        let place = registry.start_queue.acquire(priority).await;
        // A supervisor that is gone needs no place.
        let _ = admit.send(place);
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
    let mut place: Option<PriorityPermit<StartPriority>> = None;
    let (mut waits, mut changed) = (true, false);
    let (mut quiet_until, mut place_until) = (Instant::now(), Instant::now());
    let outcome = loop {
        tokio::select! {
            ended = &mut work => break ended,
            Ok(()) = snapshots.changed() => {
                let snapshot = snapshots.borrow_and_update().clone();
                sessions.set(snapshot.sessions.len());
                changed = true;
                if snapshot.observed {
                    place = None;
                }
            }
            () = sleep_until(quiet_until), if changed => {
                changed = false;
                quiet_until = Instant::now() + WAKE_INTERVAL;
                // A controller that is gone needs no waking.
                let _ = registry.wake_ups.send(object.clone()).await;
            }
            given = &mut admitted, if waits => {
                waits = false;
                place = given.ok();
                place_until = Instant::now() + FIRST_LISTING_TIMEOUT;
            }
            () = sleep_until(place_until), if place.is_some() => place = None,
        }
    };
    drop(place);
    let outcome = outcome.unwrap_or_else(|failed| {
        if failed.is_panic() {
            registry.metrics.run_panics.inc();
            error!(export = %object, "an export panicked; this is a defect, please report it with the lines above");
        }
        TaskOutcome::Crashed
    });
    registry.finish_task(&uid, serial, outcome);
    let _ = registry.wake_ups.send(object).await;
}
