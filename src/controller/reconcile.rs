//! Reconciles one resource: observe, decide, act, write the status. Bounded in time; exports run in tasks elsewhere.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::ResourceExt as _;
use kube::runtime::controller::Action;
use tracing::{debug, warn};

use super::act::act;
use super::context::ReconcileContext;
use super::decide::{self, decide};
use super::entry::{TaskKind, TaskState, has_finalizer};
use super::kube_error::describe_error;
use super::status_writer::{WRITE_INTERVAL, update_status};
use super::{claim, finalizer};
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

/// Reconciles one resource.
pub(super) async fn reconcile(
    object: Arc<EventExport>,
    context: Arc<ReconcileContext>,
) -> Result<Action, ReconcileError> {
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
    if result.is_ok()
        && let Some(uid) = object.uid()
    {
        context.registry.with(&uid, |entry| entry.errors = 0);
    }
    result
}

/// Requeues a resource after a failed reconcile, with exponential backoff.
#[allow(clippy::needless_pass_by_value)] // signature required by kube
pub(super) fn error_policy(
    object: Arc<EventExport>,
    error: &ReconcileError,
    context: Arc<ReconcileContext>,
) -> Action {
    let uid = object.uid().unwrap_or_default();
    let errors = context.registry.with(&uid, |entry| {
        entry.errors = entry.errors.saturating_add(1);
        entry.errors - 1
    });
    let pause = ERROR_BACKOFF_BASE
        .saturating_mul(1 << errors.unwrap_or(0).min(16))
        .min(MAX_ERROR_BACKOFF);
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    warn!(export = format!("{namespace}/{name}"), %error, retry_in = ?pause, "reconcile failed, requeueing");
    Action::requeue(pause)
}

async fn reconcile_once(
    object: &Arc<EventExport>,
    context: &Arc<ReconcileContext>,
) -> Result<Action, ReconcileError> {
    let Some(uid) = object.uid() else {
        return Ok(Action::await_change());
    };
    let Some(newest) = newest_version(object, &uid, context).await? else {
        // The watch delivers its deletion soon.
        return Ok(Action::requeue(WRITE_INTERVAL));
    };
    let now = (context.now)();
    let object = &match claim::claim(context, &newest, &uid).await? {
        Err(pause) => return Ok(Action::requeue(pause)),
        Ok(None) => newest,
        Ok(Some(claimed)) => Arc::new(claimed),
    };
    let observed = context
        .registry
        .with_or_insert(&uid, object, |entry| entry.observe(object, now));
    let decision = decide(&observed);
    debug!(name = object.name_any(), ?observed, ?decision, "reconciling");
    let mut read = act(context, object, decision.action).await?;
    let mut pause = None;
    if observed.deleting.is_none() {
        if let Some(finalized) = ensure_finalizer(object, &uid, context).await? {
            read = Some(finalized);
        }
        pause = update_status(object, read, &uid, context).await?;
    }
    // The next action and its time, after this one.
    let next = context
        .registry
        .with(&uid, |entry| decide(&entry.observe(object, now)));
    let next = next.and_then(|next| match next.action {
        // The action had no effect: the resource has a newer version, and the watch may lag behind.
        decide::Action::Start | decide::Action::AbandonCleanup if next.action == decision.action => {
            Some(WRITE_INTERVAL)
        }
        decide::Action::Start | decide::Action::AbandonCleanup => Some(IMMEDIATE_REQUEUE),
        _ => next.pause(now),
    });
    let contended = context
        .registry
        .with(&uid, |entry| entry.contention.contender().map(|(_, left)| left));
    let pauses = [pause, decision.pause(now), next, contended.flatten()];
    let pause = pauses.into_iter().flatten().min();
    Ok(pause.map_or_else(Action::await_change, Action::requeue))
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

/// Adds the finalizer as soon as sessions are opened: a complete export that is only verified starts without it.
async fn ensure_finalizer(
    object: &EventExport,
    uid: &str,
    context: &ReconcileContext,
) -> kube::Result<Option<EventExport>> {
    let opens_sessions = context.registry.with(uid, |entry| match &entry.state {
        TaskState::Running(running) if running.kind == TaskKind::Export => {
            let snapshot = running.snapshots.borrow();
            snapshot.active > 0 || !snapshot.sessions.is_empty()
        }
        _ => false,
    });
    if opens_sessions == Some(true) && !has_finalizer(object) {
        context.registry.with(uid, |entry| entry.sessions = Some(true));
        return finalizer::add(&context.api(object), object).await;
    }
    Ok(None)
}
