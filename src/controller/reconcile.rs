//! Reconciles one resource: observe, decide, act, write the status. Bounded in time; exports run in tasks elsewhere.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::ResourceExt as _;
use tracing::{debug, warn};

use super::act::act;
use super::context::ReconcileContext;
use super::decide::{self, ReconcileDecision, ResourceObservation, decide};
use super::entry::{ExportEntry, Handover, TaskKind, TaskState, has_finalizer};
use super::export_name::ExportName;
use super::installations::Ownership;
use super::kube_error::describe_error;
use super::status_writer::{WRITE_INTERVAL, update_status};
use super::{events, finalizer};
use crate::api::EventExport;
use crate::telemetry::metrics::ReconcileResult;

/// Maximum time that a reconcile may take. A longer one fails and is retried.
pub(super) const RECONCILE_TIMEOUT: Duration = Duration::from_mins(1);

/// Initial backoff after an error of the API server. It doubles.
const ERROR_BACKOFF_BASE: Duration = Duration::from_secs(1);

/// Maximum backoff after an error of the API server.
const MAX_ERROR_BACKOFF: Duration = Duration::from_mins(5);

/// Delay of the next reconcile if another action follows at once.
const IMMEDIATE_REQUEUE: Duration = Duration::from_millis(100);

/// Error of a reconcile.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReconcileError {
    /// The API server rejected a request, or did not answer.
    #[error("{}", describe_error(.0))]
    Api(#[from] kube::Error),
    /// The reconcile exceeded [`RECONCILE_TIMEOUT`].
    #[error("timed out after {} s", RECONCILE_TIMEOUT.as_secs())]
    TimedOut,
}

/// Reconciles one resource. Returns the delay of the next reconcile; `None`: a change triggers it.
pub(super) async fn reconcile(object: Arc<EventExport>, context: Arc<ReconcileContext>) -> Option<Duration> {
    let started_at = Instant::now();
    let _guard = context.health.begin_reconcile(RECONCILE_TIMEOUT);
    let result = tokio::time::timeout(RECONCILE_TIMEOUT, reconcile_once(&object, &context))
        .await
        .unwrap_or(Err(ReconcileError::TimedOut));
    let outcome = if result.is_ok() {
        ReconcileResult::success
    } else {
        ReconcileResult::error
    };
    context.metrics.reconciled(outcome, started_at.elapsed());
    let uid = object.uid().unwrap_or_default();
    match result {
        Ok(pause) => {
            context.registry.with(&uid, |entry| entry.errors = 0);
            pause
        }
        Err(error) => Some(backoff_after(&object, &uid, &error, &context)),
    }
}

/// Returns the exponential backoff of a failed reconcile, and logs the error.
fn backoff_after(
    object: &EventExport,
    uid: &str,
    error: &ReconcileError,
    context: &ReconcileContext,
) -> Duration {
    let errors = context.registry.with(uid, |entry| {
        entry.errors = entry.errors.saturating_add(1);
        entry.errors - 1
    });
    let pause = ERROR_BACKOFF_BASE
        .saturating_mul(1 << errors.unwrap_or(0).min(16))
        .min(MAX_ERROR_BACKOFF);
    warn!(export = %ExportName::of(object), %error, retry_in = ?pause, "reconcile failed, requeueing");
    pause
}

async fn reconcile_once(
    watched: &Arc<EventExport>,
    context: &Arc<ReconcileContext>,
) -> Result<Option<Duration>, ReconcileError> {
    let Some(uid) = watched.uid() else {
        return Ok(None);
    };
    let Some(object) = newest_version(watched, &uid, context).await? else {
        // The watch delivers its deletion soon.
        return Ok(Some(WRITE_INTERVAL));
    };
    if !serves(&object, &uid, context).await {
        return Ok(None);
    }
    context
        .registry
        .with_or_insert(&uid, &object, |entry| entry.take_request(&object));
    let now = (context.now)();
    let observed = observe(&object, &uid, now, context);
    let decision = decide(&observed);
    debug!(name = object.name_any(), ?observed, ?decision, "reconciling");
    let mut written = act(context, &object, decision.action).await?;
    let mut pause = None;
    if observed.deleting.is_none() {
        if let Some(finalized) = ensure_finalizer(&object, &uid, context).await? {
            written = Some(finalized);
        }
        pause = update_status(&object, written, &uid, context).await?;
    }
    // Not for a resource that is gone meanwhile.
    let next = context.registry.with(&uid, |entry| {
        let next = decide(&entry.observe(&object, now));
        [
            follow_up(decision, next, now),
            entry.correction_pause(),
            entry.look_pause(&object),
        ]
    });
    let pauses = [pause, decision.pause(now)];
    let pauses = pauses.into_iter().chain(next.into_iter().flatten());
    Ok(pauses.flatten().min())
}

fn observe(
    object: &EventExport,
    uid: &str,
    now: Timestamp,
    context: &ReconcileContext,
) -> ResourceObservation {
    context
        .registry
        .with_or_insert(uid, object, |entry| entry.observe(object, now))
}

/// Returns the delay of the next reconcile, for the action that follows `done`.
fn follow_up(done: ReconcileDecision, next: ReconcileDecision, now: Timestamp) -> Option<Duration> {
    match next.action {
        // The action had no effect: the resource has a newer version, and the watch may lag behind.
        decide::Action::Start | decide::Action::AbandonCleanup if next.action == done.action => {
            Some(WRITE_INTERVAL)
        }
        decide::Action::Start | decide::Action::AbandonCleanup => Some(IMMEDIATE_REQUEUE),
        _ => next.pause(now),
    }
}

/// Returns true if this installation serves the export. Otherwise stops its task, and reports that once.
async fn serves(object: &EventExport, uid: &str, context: &ReconcileContext) -> bool {
    let serving = context
        .installations
        .with_ownership(object, |ownership| match ownership {
            Ownership::Mine | Ownership::Contended(_) => None,
            Ownership::Other(lease) => Some(lease.clone()),
        });
    let Some(serving) = serving else {
        context.registry.with_or_insert(uid, object, |entry| {
            if entry.served_by_other() {
                entry.restart_requested = true;
                // Attempts that the other installation began until now are those of a former process.
                entry.handover = Some(Box::new(Handover::TakenOver((context.now)())));
            }
        });
        return true;
    };
    let was = context.registry.with_or_insert(uid, object, |entry| {
        entry.restart_requested = true;
        entry
            .handover
            .replace(Box::new(Handover::ServedBy(serving.clone())))
    });
    context.registry.stop(uid);
    let known = matches!(was.as_deref(), Some(Handover::ServedBy(known)) if *known == serving);
    if !known {
        let me = context.installations.lease();
        warn!(export = %ExportName::of(object), by = %serving, operator = %me, "another installation serves this export, ignoring it");
        let allowed = || {
            let take = |entry: &mut ExportEntry| entry.rate_limit.take(Instant::now());
            context.registry.with(uid, take).unwrap_or(false)
        };
        let event = events::served_elsewhere_event(&serving, me);
        context.recorder.record(object, vec![event], allowed).await;
    }
    false
}

/// Returns the watched resource, or reads it if a newer version was reconciled before: a watch may deliver an old
/// version again. Returns `None` if the resource is gone.
async fn newest_version(
    object: &Arc<EventExport>,
    uid: &str,
    context: &ReconcileContext,
) -> kube::Result<Option<Arc<EventExport>>> {
    if context
        .registry
        .with_or_insert(uid, object, |entry| entry.accept_version(object))
    {
        return Ok(Some(object.clone()));
    }
    let read = context.api(object).get_opt(&object.name_any()).await?;
    let read = read.filter(|read| read.metadata.uid == object.metadata.uid);
    if let Some(read) = &read {
        context.registry.with(uid, |entry| entry.reset_version(read));
    }
    Ok(read.map(Arc::new))
}

/// Adds the finalizer as soon as sessions are wanted or found open, and then permits them: an export that was up to date
/// starts without it.
async fn ensure_finalizer(
    object: &EventExport,
    uid: &str,
    context: &ReconcileContext,
) -> kube::Result<Option<EventExport>> {
    let wanted = context.registry.with(uid, |entry| match &entry.state {
        TaskState::Running(running) if running.kind == TaskKind::Export => {
            let open = !running.snapshots.borrow().sessions.is_empty();
            (running.sessions.is_wanted() || open).then(|| running.sessions.clone())
        }
        _ => None,
    });
    let Some(grant) = wanted.flatten() else {
        return Ok(None);
    };
    if has_finalizer(object) {
        grant.give();
        return Ok(None);
    }
    context.registry.with(uid, |entry| entry.sessions = Some(true));
    let finalized = finalizer::add(&context.api(object), object).await?;
    if finalized.is_some() {
        grant.give();
    }
    Ok(finalized)
}
