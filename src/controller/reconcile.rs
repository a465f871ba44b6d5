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
use super::entry::{Entry, Kind, Sent, State, has_finalizer, resting_digest, spec_digest};
use super::said::plain;
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

/// How often a status is tried to be written in one look: over what was watched, and over what is newest.
const WRITES: usize = 2;

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
    let object = &newest;
    let now = (context.now)();
    if let Err(pause) = claim::claim(context, object, &uid).await? {
        return Ok(Action::requeue(pause));
    }
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

/// A version of a resource that its status is written over.
struct Base {
    version: Option<String>,
    generation: Option<i64>,
    /// What it says, without what others say in it.
    status: EventExportStatus,
    /// Whether it is what the watch brought.
    is_seen: bool,
}

impl Base {
    fn of(read: &EventExport, object: &EventExport) -> Self {
        Self {
            version: read.metadata.resource_version.clone(),
            generation: read.metadata.generation,
            status: read.status.as_ref().map(status::own).unwrap_or_default(),
            is_seen: read.metadata.resource_version == object.metadata.resource_version,
        }
    }

    /// What was written and has not come back yet is what is there.
    fn sent(entry: &Entry, object: &EventExport) -> Option<Self> {
        let last = entry.written.last.as_ref();
        let sent = last.filter(|sent| sent.is_later_than(object.metadata.resource_version.as_deref()))?;
        Some(Self {
            version: sent.made.clone(),
            generation: object.metadata.generation,
            status: sent.status.clone(),
            is_seen: false,
        })
    }
}

/// Writes the status if it says something else than the one that is there; says when to come back to do so. Only over
/// the version of the resource that was `read`, or else over the newest, and only while that asks for what was acted
/// upon: a watch that lags behind must not take a status back.
async fn write_back(
    object: &EventExport,
    read: Option<EventExport>,
    uid: &str,
    context: &Context,
) -> kube::Result<Option<Duration>> {
    let known = context.runs.with(uid, |entry| known(entry, object));
    let known = known.unwrap_or(Known::Nothing);
    let sent = || {
        context
            .runs
            .with(uid, |entry| Base::sent(entry, object))
            .flatten()
    };
    let mut base = match read {
        Some(read) => Base::of(&read, object),
        None => sent().unwrap_or_else(|| Base::of(object, object)),
    };
    for _ in 0..WRITES {
        if base.generation != object.metadata.generation {
            // Its arrival wakes us.
            return Ok(None);
        }
        if let Written::Settled(pause) = write_over(base, object, &known, uid, context).await? {
            return Ok(pause);
        }
        let newest = context.api(object).get_opt(&object.name_any()).await?;
        match newest.filter(|newest| newest.metadata.uid == object.metadata.uid) {
            Some(newest) => base = Base::of(&newest, object),
            None => return Ok(None),
        }
    }
    Ok(Some(WRITE_EVERY))
}

enum Written {
    /// There is nothing more to write now; when to come back.
    Settled(Option<Duration>),
    /// Not over what was read: the resource has another version, or is gone.
    Outdated,
}

async fn write_over(
    base: Base,
    object: &EventExport,
    known: &Known,
    uid: &str,
    context: &Context,
) -> kube::Result<Written> {
    let phase = match known {
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
    let before = &base.status;
    let mut after = match phase {
        Some(phase) => status::status(subject, phase, before),
        None => before.clone(),
    };
    context.runs.with(uid, |entry| {
        let contender = entry
            .others
            .contender()
            .map(|(name, _)| (name, context.operator.as_str()));
        status::contended(&mut after, subject, contender);
    });
    if phase.is_none() && after == *before {
        return Ok(Written::Settled(None));
    }
    let seen = match known {
        Known::Seen(snapshot, export) => Some((&**snapshot, &**export)),
        _ => None,
    };
    context.runs.with(uid, |entry| {
        let last = entry.facts.as_deref();
        let facts = gauges::facts(&after, object.spec.suspend, seen, last, context.retention);
        entry.facts = Some(Box::new(facts));
    });
    let over = object.metadata.resource_version.clone();
    if after == *before {
        context.runs.with(uid, |entry| {
            if base.is_seen {
                settle(entry, object);
            } else {
                entry.written.last = Some(Box::new(Sent {
                    status: after,
                    over,
                    made: base.version,
                }));
            }
        });
        return Ok(Written::Settled(None));
    }
    let wait = context.runs.with(uid, |entry| {
        let since = entry.written.at.map(|at| at.elapsed());
        let early = since.filter(|since| *since < WRITE_EVERY && same_conditions(before, &after));
        early.map(|since| WRITE_EVERY.saturating_sub(since))
    });
    if let Some(wait) = wait.flatten() {
        return Ok(Written::Settled(Some(wait)));
    }
    let Some(made) = apply(&base, object, context, &after).await? else {
        return Ok(Written::Outdated);
    };
    context.metrics.status_writes.inc();
    let notes = events::notes(before, &after);
    context.runs.with(uid, |entry| {
        entry.written.last = Some(Box::new(Sent {
            status: after,
            over,
            made: made.metadata.resource_version,
        }));
        entry.written.at = Some(Instant::now());
    });
    let allowed = || {
        context
            .runs
            .with(uid, |entry| entry.allowance.take(Instant::now()))
            .unwrap_or(false)
    };
    context.announcer.tell(object, notes, allowed).await;
    Ok(Written::Settled(None))
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

/// The resource with what was written; `None`: it is gone, has changed, or is another one of that name.
async fn apply(
    base: &Base,
    object: &EventExport,
    context: &Context,
    status: &EventExportStatus,
) -> kube::Result<Option<EventExport>> {
    let (api, name) = (context.api(object), object.name_any());
    let body = json!({
        "apiVersion": "eventexport.io/v1alpha1",
        "kind": "EventExport",
        "metadata": { "name": name, "uid": object.metadata.uid, "resourceVersion": base.version },
        "status": status,
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let Some(written) = unless_gone(api.patch_status(&name, &params, &Patch::Apply(&body)).await)? else {
        return Ok(None);
    };
    let there = written.status.as_ref().map(status::own);
    let Some(strays) = status::strays(&json!(status), &json!(there)) else {
        return Ok(Some(written));
    };
    warn!(name, %strays, "somebody else wrote to the status; taking that away");
    let metadata =
        json!({ "uid": written.metadata.uid, "resourceVersion": written.metadata.resource_version });
    let body = json!({ "metadata": metadata, "status": strays });
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let cleaned = unless_gone(api.patch_status(&name, &params, &Patch::Merge(&body)).await)?;
    // Changed meanwhile: that version is seen, and compared again.
    Ok(Some(cleaned.unwrap_or(written)))
}

fn unless_gone<T>(outcome: kube::Result<T>) -> kube::Result<Option<T>> {
    match outcome {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(None),
        outcome => outcome.map(Some),
    }
}
