//! One look at one resource: observe, decide, act, and write back what is known. Bounded in time; work runs
//! elsewhere.

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

/// The longest that one look may take; then it is an error and tried again.
pub(super) const RECONCILE_TIMEOUT: Duration = Duration::from_mins(1);

/// First pause after an error of the API server; it doubles.
const ERROR_BACKOFF_BASE: Duration = Duration::from_secs(1);

/// Longest pause after an error of the API server.
const MAX_ERROR_BACKOFF: Duration = Duration::from_mins(5);

/// When to go on where there is more to do at once.
const IMMEDIATE_REQUEUE: Duration = Duration::from_millis(100);

/// Why a look failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReconcileError {
    /// The API server refused, or did not answer.
    #[error("{}", describe_error(.0))]
    Api(#[from] kube::Error),
    /// It took too long.
    #[error("it took longer than {} s", RECONCILE_TIMEOUT.as_secs())]
    TimedOut,
}

/// One look.
pub(super) async fn reconcile(
    object: Arc<EventExport>,
    context: Arc<ReconcileContext>,
) -> Result<Action, ReconcileError> {
    let began = Instant::now();
    let _guard = context.health.begin_reconcile(RECONCILE_TIMEOUT);
    let result = tokio::time::timeout(RECONCILE_TIMEOUT, reconcile_once(&object, &context))
        .await
        .unwrap_or(Err(ReconcileError::TimedOut));
    let outcome = if result.is_ok() {
        ReconcileResult::ok
    } else {
        ReconcileResult::error
    };
    context.metrics.reconciled(outcome, began.elapsed());
    if result.is_ok()
        && let Some(uid) = object.uid()
    {
        context.registry.with(&uid, |entry| entry.errors = 0);
    }
    result
}

/// What happens after a look that failed.
#[allow(clippy::needless_pass_by_value)] // as kube calls it
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
    warn!(export = format!("{namespace}/{name}"), %error, again_in = ?pause, "a look failed");
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
        // Its deletion is on its way.
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
    debug!(name = object.name_any(), ?observed, ?decision, "looked");
    let mut read = act(context, object, decision.action).await?;
    let mut pause = None;
    if observed.deleting.is_none() {
        if let Some(finalized) = ensure_finalizer(object, &uid, context).await? {
            read = Some(finalized);
        }
        pause = update_status(object, read, &uid, context).await?;
    }
    // What is left to do, and until when to wait, after what was just done.
    let next = context
        .registry
        .with(&uid, |entry| decide(&entry.observe(object, now)));
    let next = next.and_then(|next| match next.action {
        // What could not be done is the matter of a newer version, which wakes us: unless the watch lags behind.
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

/// The resource as it was watched; or as it is, where a newer version was looked at before: a watch may show the past
/// again. `None`: it is gone.
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

/// An export that was complete and is only looked at has no finalizer; it gets one as soon as sessions are opened.
async fn ensure_finalizer(
    object: &EventExport,
    uid: &str,
    context: &ReconcileContext,
) -> kube::Result<Option<EventExport>> {
    let opens = context.registry.with(uid, |entry| match &entry.state {
        TaskState::Running(running) if running.kind == TaskKind::Export => {
            let snapshot = running.snapshots.borrow();
            snapshot.active > 0 || !snapshot.sessions.is_empty()
        }
        _ => false,
    });
    if opens == Some(true) && !has_finalizer(object) {
        context.registry.with(uid, |entry| entry.sessions = Some(true));
        return finalizer::add(&context.api(object), object).await;
    }
    Ok(None)
}
