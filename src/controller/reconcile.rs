//! One look at one resource: observe, decide, act, and write back what is known. Bounded in time; work runs
//! elsewhere.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::Action;
use serde_json::json;
use tracing::{debug, warn};

use super::act::act;
use super::context::Context;
use super::decide::{Deed, decide};
use super::entry::{Entry, Kind, State, has_finalizer, resting_digest, spec_digest, status_digest};
use super::{claim, events, finalizer, gauges, status};
use crate::api::{EventExport, EventExportStatus};
use crate::export::failure::Failure;
use crate::export::snapshot::Snapshot;
use crate::export::wish::Export;
use crate::telemetry::metrics::Outcome;

/// The longest that one look may take; then it is an error and tried again.
pub(super) const LIMIT: Duration = Duration::from_mins(1);

/// The least time between two writes of one status, unless a condition changes.
const WRITE_EVERY: Duration = Duration::from_secs(3);

/// First pause after an error of the API server; it doubles.
const PAUSE_FIRST: Duration = Duration::from_secs(1);

/// Longest pause after an error of the API server.
const PAUSE_MOST: Duration = Duration::from_mins(5);

/// When to go on where there is more to do at once.
const SOON: Duration = Duration::from_millis(100);

/// Who writes the fields of a status (server-side apply).
pub const FIELD_MANAGER: &str = "eventexport.io/operator";

/// Why a look failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookError {
    /// The API server refused, or did not answer.
    #[error("the API server: {0}")]
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

async fn look(object: &EventExport, context: &Context) -> Result<Action, LookError> {
    let Some(uid) = object.uid() else {
        return Ok(Action::await_change());
    };
    let now = (context.now)();
    context.runs.enter(&uid, object, |_| ());
    if let Err(pause) = claim::claim(context, object, &uid).await? {
        return Ok(Action::requeue(pause));
    }
    let seen = context
        .runs
        .enter(&uid, object, |entry| entry.observe(object, now));
    let decision = decide(&seen);
    debug!(name = object.name_any(), ?seen, ?decision, "looked");
    act(context, object, decision.deed).await?;
    let mut pause = None;
    if seen.deleting.is_none() {
        put_finalizer_late(object, &uid, context).await?;
        pause = write_back(object, &uid, context).await?;
    }
    // What is left to do, and until when to wait, after what was just done.
    let next = context
        .runs
        .with(&uid, |entry| decide(&entry.observe(object, now)));
    let next = next.and_then(|next| match next.deed {
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

/// An export that was complete and is only looked at has no finalizer; it gets one as soon as sessions are opened.
async fn put_finalizer_late(object: &EventExport, uid: &str, context: &Context) -> kube::Result<()> {
    let opens = context.runs.with(uid, |entry| match &entry.state {
        State::Live(live) if live.kind == Kind::Export => {
            let snapshot = live.seen.borrow();
            snapshot.active > 0 || !snapshot.sessions.is_empty()
        }
        _ => false,
    });
    if opens == Some(true) && !has_finalizer(object) {
        context.runs.with(uid, |entry| entry.sessions = Some(true));
        finalizer::put_on(&context.api(object), object).await?;
    }
    Ok(())
}

/// What is to be said, as far as it is known here.
enum Known {
    Nothing,
    Begins,
    Suspended { stopping: bool },
    Blocked(Failure),
    Seen(Arc<Snapshot>, Arc<Export>),
}

fn known(entry: &Entry, object: &EventExport) -> Known {
    let wanted = spec_digest(&object.spec);
    match &entry.state {
        State::Live(_) if object.spec.suspend => Known::Suspended { stopping: true },
        _ if object.spec.suspend => Known::Suspended { stopping: false },
        State::Live(live) if live.kind == Kind::Export && live.spec == wanted => match &entry.job {
            Some(job) => Known::Seen(live.seen.borrow().clone(), job.export().clone()),
            None => Known::Begins,
        },
        State::Ended { spec, .. } if *spec == wanted => match (&entry.failure, &entry.last) {
            (Some(failure), _) => Known::Blocked(failure.clone()),
            (None, Some((snapshot, export))) => Known::Seen(snapshot.clone(), export.clone()),
            (None, None) => Known::Nothing,
        },
        State::Fresh | State::Live(_) | State::Ended { .. } => Known::Begins,
    }
}

/// Writes the status if it says something else than the one that is there; says when to come back to do so.
async fn write_back(object: &EventExport, uid: &str, context: &Context) -> kube::Result<Option<Duration>> {
    let known = context
        .runs
        .with(uid, |entry| known(entry, object))
        .unwrap_or(Known::Nothing);
    let phase = match &known {
        Known::Nothing => None,
        Known::Begins => Some(status::Phase::Begins),
        Known::Suspended { stopping } => Some(status::Phase::Suspended { stopping: *stopping }),
        Known::Blocked(failure) => Some(status::Phase::Blocked(failure)),
        Known::Seen(snapshot, export) => Some(status::Phase::Seen(snapshot, export)),
    };
    let subject = status::Subject {
        generation: object.metadata.generation.unwrap_or_default(),
        created: object
            .metadata
            .creation_timestamp
            .as_ref()
            .map_or(Timestamp::MIN, |at| at.0),
        now: (context.now)(),
    };
    let before = object.status.clone().unwrap_or_default();
    let mut after = match phase {
        Some(phase) => status::status(subject, phase, &before),
        None => before.clone(),
    };
    context.runs.with(uid, |entry| {
        let contender = entry
            .others
            .contender()
            .map(|(name, _)| (name, context.operator.as_str()));
        status::contended(&mut after, subject, contender);
    });
    if phase.is_none() && after == before {
        return Ok(None);
    }
    let seen = match &known {
        Known::Seen(snapshot, export) => Some((&**snapshot, &**export)),
        _ => None,
    };
    context.runs.with(uid, |entry| {
        let last = entry.facts.as_deref();
        let facts = gauges::facts(&after, object.spec.suspend, seen, last, context.retention);
        entry.facts = Some(Box::new(facts));
    });
    if after == before {
        context.runs.with(uid, |entry| settle(entry, object));
        return Ok(None);
    }
    let (digest, version) = (
        status_digest(Some(&after)),
        object.metadata.resource_version.clone(),
    );
    let wait = context.runs.with(uid, |entry| {
        let last = entry.written.last.as_ref();
        if last.is_some_and(|last| last.1 == version) && last.is_some_and(|last| last.0 == digest) {
            return Some(None); // on its way back
        }
        let since = entry.written.at.map(|at| at.elapsed());
        let early = since.filter(|since| *since < WRITE_EVERY && same_conditions(&before, &after));
        early.map(|since| Some(WRITE_EVERY.saturating_sub(since)))
    });
    if let Some(wait) = wait.flatten() {
        return Ok(wait);
    }
    if !apply(object, context, &after).await? {
        return Ok(None);
    }
    context.metrics.status_writes.inc();
    context.runs.with(uid, |entry| {
        entry.written.last = Some((digest, version));
        entry.written.at = Some(Instant::now());
    });
    let notes = events::notes(&before, &after);
    let allowed = || {
        context
            .runs
            .with(uid, |entry| entry.allowance.take(Instant::now()))
            .unwrap_or(false)
    };
    context.announcer.tell(object, notes, allowed).await;
    Ok(None)
}

/// The status in the cluster says what there is to say: a resource that rests needs no more memory of it.
fn settle(entry: &mut Entry, object: &EventExport) {
    entry.written.last = None;
    if matches!(entry.state, State::Ended { .. }) && entry.failure.is_none() {
        entry.last = None;
        entry.written.resting = Some(resting_digest(object.status.as_ref()));
    }
}

fn same_conditions(before: &EventExportStatus, after: &EventExportStatus) -> bool {
    let states = |status: &EventExportStatus| -> Vec<(String, String, String)> {
        let state = |c: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
            (c.type_.clone(), c.status.clone(), c.reason.clone())
        };
        status.conditions.iter().map(state).collect()
    };
    before.observed_generation == after.observed_generation && states(before) == states(after)
}

/// Whether it was written: not if the resource is gone, or is another one of that name.
async fn apply(object: &EventExport, context: &Context, status: &EventExportStatus) -> kube::Result<bool> {
    let name = object.name_any();
    let body = json!({
        "apiVersion": "eventexport.io/v1alpha1",
        "kind": "EventExport",
        "metadata": { "name": name, "uid": object.metadata.uid },
        "status": status,
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    match context
        .api(object)
        .patch_status(&name, &params, &Patch::Apply(&body))
        .await
    {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(false),
        Err(error) => Err(error),
    }
}
