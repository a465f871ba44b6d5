//! One look at one resource: observe, decide, act, and write back what is known. Bounded in time; work runs
//! elsewhere.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::ResourceExt as _;
use kube::runtime::controller::Action;
use tracing::{debug, warn};

use super::act::act;
use super::context::Context;
use super::decide::{Deed, decide};
use super::entry::{Kind, State, has_finalizer};
use super::said::plain;
use super::write_back::{WRITE_EVERY, write_back};
use super::{claim, finalizer};
use crate::api::EventExport;
use crate::telemetry::metrics::Outcome;

/// The longest that one look may take; then it is an error and tried again.
pub(super) const LIMIT: Duration = Duration::from_mins(1);

/// First pause after an error of the API server; it doubles.
const PAUSE_FIRST: Duration = Duration::from_secs(1);

/// Longest pause after an error of the API server.
const PAUSE_MOST: Duration = Duration::from_mins(5);

/// When to go on where there is more to do at once.
const SOON: Duration = Duration::from_millis(100);

/// Why a look failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookError {
    /// The API server refused, or did not answer.
    #[error("{}", plain(.0))]
    Api(#[from] kube::Error),
    /// It took too long.
    #[error("it took longer than {} s", LIMIT.as_secs())]
    TimedOut,
}

/// One look.
pub(super) async fn reconcile(object: Arc<EventExport>, context: Arc<Context>) -> Result<Action, LookError> {
    let began = Instant::now();
    let _busy = context.health.busy(LIMIT);
    let looked = tokio::time::timeout(LIMIT, look(&object, &context))
        .await
        .unwrap_or(Err(LookError::TimedOut));
    let outcome = if looked.is_ok() {
        Outcome::ok
    } else {
        Outcome::error
    };
    context.metrics.reconciled(outcome, began.elapsed());
    if looked.is_ok()
        && let Some(uid) = object.uid()
    {
        context.runs.with(&uid, |entry| entry.errors = 0);
    }
    looked
}

/// What happens after a look that failed.
#[allow(clippy::needless_pass_by_value)] // as kube calls it
pub(super) fn after_error(object: Arc<EventExport>, error: &LookError, context: Arc<Context>) -> Action {
    let uid = object.uid().unwrap_or_default();
    let errors = context.runs.with(&uid, |entry| {
        entry.errors = entry.errors.saturating_add(1);
        entry.errors - 1
    });
    let pause = PAUSE_FIRST
        .saturating_mul(1 << errors.unwrap_or(0).min(16))
        .min(PAUSE_MOST);
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    warn!(export = format!("{namespace}/{name}"), %error, again_in = ?pause, "a look failed");
    Action::requeue(pause)
}

async fn look(object: &Arc<EventExport>, context: &Arc<Context>) -> Result<Action, LookError> {
    let Some(uid) = object.uid() else {
        return Ok(Action::await_change());
    };
    let Some(newest) = newest(object, &uid, context).await? else {
        // Its deletion is on its way.
        return Ok(Action::requeue(WRITE_EVERY));
    };
    let now = (context.now)();
    let object = &match claim::claim(context, &newest, &uid).await? {
        Err(pause) => return Ok(Action::requeue(pause)),
        Ok(None) => newest,
        Ok(Some(claimed)) => Arc::new(claimed),
    };
    let seen = context
        .runs
        .enter(&uid, object, |entry| entry.observe(object, now));
    let decision = decide(&seen);
    debug!(name = object.name_any(), ?seen, ?decision, "looked");
    let mut read = act(context, object, decision.deed).await?;
    let mut pause = None;
    if seen.deleting.is_none() {
        if let Some(finalized) = put_finalizer_late(object, &uid, context).await? {
            read = Some(finalized);
        }
        pause = write_back(object, read, &uid, context).await?;
    }
    // What is left to do, and until when to wait, after what was just done.
    let next = context
        .runs
        .with(&uid, |entry| decide(&entry.observe(object, now)));
    let next = next.and_then(|next| match next.deed {
        // What could not be done is the matter of a newer version, which wakes us: unless the watch lags behind.
        Deed::Start | Deed::GiveUp if next.deed == decision.deed => Some(WRITE_EVERY),
        Deed::Start | Deed::GiveUp => Some(SOON),
        _ => next.pause(now),
    });
    let contended = context
        .runs
        .with(&uid, |entry| entry.others.contender().map(|(_, left)| left));
    let pauses = [pause, decision.pause(now), next, contended.flatten()];
    let pause = pauses.into_iter().flatten().min();
    Ok(pause.map_or_else(Action::await_change, Action::requeue))
}

/// The resource as it was watched; or as it is, where a newer version was looked at before: a watch may show the past
/// again. `None`: it is gone.
async fn newest(
    object: &Arc<EventExport>,
    uid: &str,
    context: &Context,
) -> kube::Result<Option<Arc<EventExport>>> {
    if context.runs.enter(uid, object, |entry| entry.is_news(object)) {
        return Ok(Some(object.clone()));
    }
    let read = context.api(object).get_opt(&object.name_any()).await?;
    let read = read.filter(|read| read.metadata.uid == object.metadata.uid);
    if let Some(read) = &read {
        context.runs.with(uid, |entry| entry.begin_anew_from(read));
    }
    Ok(read.map(Arc::new))
}

/// An export that was complete and is only looked at has no finalizer; it gets one as soon as sessions are opened.
async fn put_finalizer_late(
    object: &EventExport,
    uid: &str,
    context: &Context,
) -> kube::Result<Option<EventExport>> {
    let opens = context.runs.with(uid, |entry| match &entry.state {
        State::Live(live) if live.kind == Kind::Export => {
            let snapshot = live.seen.borrow();
            snapshot.active > 0 || !snapshot.sessions.is_empty()
        }
        _ => false,
    });
    if opens == Some(true) && !has_finalizer(object) {
        context.runs.with(uid, |entry| entry.sessions = Some(true));
        return finalizer::put_on(&context.api(object), object).await;
    }
    Ok(None)
}
