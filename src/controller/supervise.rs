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

use super::entry::{Kind, Live};
use super::exporter::Job;
use super::runs::{Outcome, Runs};
use crate::api::EventExport;
use crate::export::queue::Place;
use crate::export::snapshot::Snapshot;
use crate::telemetry::metrics::Share;

/// The least time between two wake-ups for one resource while it exports.
pub(super) const WAKE_EVERY: Duration = Duration::from_secs(3);

/// How long an export may keep its place among those that list their bucket for the first time.
const LOOK: Duration = Duration::from_secs(30);

/// Who gets a place among those that list their bucket for the first time, the first of these first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Turn {
    /// What has something to do, as far as is known.
    Unfinished,
    /// What had stored all that there was: at most a young day waits, which the service keeps for weeks.
    CaughtUp,
    /// What was complete, and is looked at only to make sure.
    Complete,
}

/// Makes the job of an export, asked once there is a place for it: the clients of thousands that wait would fill the
/// memory. The outcome, if it cannot begin.
pub(super) type Prepare = Box<dyn FnOnce() -> BoxFuture<'static, Result<Arc<dyn Job>, Outcome>> + Send>;

/// What is to be done.
pub(super) enum Task {
    Export(Turn, Prepare),
    Release(Arc<dyn Job>),
}

impl Task {
    pub(super) const fn kind(&self) -> Kind {
        match self {
            Self::Export(..) => Kind::Export,
            Self::Release(_) => Kind::Release,
        }
    }
}

/// Begins work; what it needs from the registry is only its queues, so that the caller may hold its lock.
pub(super) fn start(
    runs: &Arc<Runs>,
    uid: Arc<str>,
    object: ObjectRef<EventExport>,
    serial: u64,
    spec: u64,
    task: Task,
) -> Live {
    let (out, seen) = watch::channel(Arc::<Snapshot>::default());
    let (admit, admitted) = oneshot::channel();
    let (stop, kind) = (CancellationToken::new(), task.kind());
    let work = tokio::spawn(work(
        task,
        uid.clone(),
        serial,
        out,
        stop.clone(),
        runs.clone(),
        admit,
    ));
    let live = Live {
        serial,
        kind,
        spec,
        stop,
        abort: work.abort_handle(),
        seen: seen.clone(),
    };
    let watched = watch_over(runs.clone(), uid, object, serial, work, seen, admitted);
    runs.tasks.spawn(watched);
    live
}

async fn work(
    task: Task,
    uid: Arc<str>,
    serial: u64,
    out: watch::Sender<Arc<Snapshot>>,
    stop: CancellationToken,
    runs: Arc<Runs>,
    admit: oneshot::Sender<Place<Turn>>,
) -> Outcome {
    let (turn, prepare) = match task {
        Task::Release(job) => return Outcome::Released(job.release().await),
        Task::Export(turn, prepare) => (turn, prepare),
    };
    let begins = async {
        let place = runs.looks.place(turn).await;
        // A supervisor that is gone needs no place.
        let _ = admit.send(place);
        prepare().await
    };
    let job = tokio::select! {
        biased;
        () = stop.cancelled() => return Outcome::Ran(Arc::default()),
        begins = begins => match begins {
            Ok(job) => job,
            Err(outcome) => return outcome,
        }
    };
    runs.prepared(&uid, serial, &job);
    Outcome::Ran(job.run(&out, stop).await)
}

async fn watch_over(
    runs: Arc<Runs>,
    uid: Arc<str>,
    object: ObjectRef<EventExport>,
    serial: u64,
    mut work: JoinHandle<Outcome>,
    mut seen: watch::Receiver<Arc<Snapshot>>,
    mut admitted: oneshot::Receiver<Place<Turn>>,
) {
    let (mut running, mut sessions) = (
        Share::of(&runs.metrics.runs),
        Share::of(&runs.metrics.sessions_open),
    );
    running.set(1);
    let mut place: Option<Place<Turn>> = None;
    let (mut waits, mut changed) = (true, false);
    let (mut quiet_until, mut place_until) = (Instant::now(), Instant::now());
    let outcome = loop {
        tokio::select! {
            ended = &mut work => break ended,
            Ok(()) = seen.changed() => {
                let snapshot = seen.borrow_and_update().clone();
                sessions.set(snapshot.sessions.len());
                changed = true;
                if snapshot.observed {
                    place = None;
                }
            }
            () = sleep_until(quiet_until), if changed => {
                changed = false;
                quiet_until = Instant::now() + WAKE_EVERY;
                // A controller that is gone needs no waking.
                let _ = runs.wake_ups.send(object.clone()).await;
            }
            given = &mut admitted, if waits => {
                waits = false;
                place = given.ok();
                place_until = Instant::now() + LOOK;
            }
            () = sleep_until(place_until), if place.is_some() => place = None,
        }
    };
    drop(place);
    let outcome = outcome.unwrap_or_else(|failed| {
        if failed.is_panic() {
            runs.metrics.run_panics.inc();
            error!(export = %object, "an export panicked; this is a defect, please report it with the lines above");
        }
        Outcome::Broke
    });
    runs.ended(&uid, serial, outcome);
    let _ = runs.wake_ups.send(object).await;
}
