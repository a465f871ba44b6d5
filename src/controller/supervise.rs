//! Watches over one piece of work in its task: wakes the controller when something changed, at most every few
//! seconds, and when it ended, however it ended.

use std::sync::Arc;
use std::time::Duration;

use kube::runtime::reflector::ObjectRef;
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::entry::{Kind, Live};
use super::exporter::Job;
use super::runs::{Outcome, Runs};
use crate::api::EventExport;
use crate::export::snapshot::Snapshot;
use crate::telemetry::metrics::Share;

/// The least time between two wake-ups for one resource while it exports.
pub(super) const WAKE_EVERY: Duration = Duration::from_secs(3);

/// How long an export may keep its place among those that list their bucket for the first time.
const LOOK: Duration = Duration::from_secs(30);

/// Begins work; what it needs from the registry is only its queues, so that the caller may hold its lock.
pub(super) fn start(
    runs: &Arc<Runs>,
    uid: Arc<str>,
    object: ObjectRef<EventExport>,
    serial: u64,
    kind: Kind,
    spec: u64,
    job: Arc<dyn Job>,
) -> Live {
    let (out, seen) = watch::channel(Arc::<Snapshot>::default());
    let (admit, admitted) = oneshot::channel();
    let stop = CancellationToken::new();
    let work = tokio::spawn(work(kind, job, out, stop.clone(), runs.clone(), admit));
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
    kind: Kind,
    job: Arc<dyn Job>,
    out: watch::Sender<Arc<Snapshot>>,
    stop: CancellationToken,
    runs: Arc<Runs>,
    admit: oneshot::Sender<OwnedSemaphorePermit>,
) -> Outcome {
    match kind {
        Kind::Release => Outcome::Released(job.release().await),
        Kind::Export => {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Outcome::Ran(Arc::default()),
                place = runs.looks.clone().acquire_owned() => {
                    // The semaphore is never closed, and a supervisor that is gone needs no place.
                    if let Ok(place) = place {
                        let _ = admit.send(place);
                    }
                }
            }
            Outcome::Ran(job.run(&out, stop).await)
        }
    }
}

async fn watch_over(
    runs: Arc<Runs>,
    uid: Arc<str>,
    object: ObjectRef<EventExport>,
    serial: u64,
    mut work: JoinHandle<Outcome>,
    mut seen: watch::Receiver<Arc<Snapshot>>,
    mut admitted: oneshot::Receiver<OwnedSemaphorePermit>,
) {
    let (mut running, mut sessions) = (
        Share::of(&runs.metrics.runs),
        Share::of(&runs.metrics.sessions_open),
    );
    running.set(1);
    let mut place: Option<OwnedSemaphorePermit> = None;
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
