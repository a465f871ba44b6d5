//! Writing a status back: what is known here becomes the status of the resource, over no version but the one that was
//! read, and only where it says something else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tracing::warn;

use super::context::Context;
use super::entry::{Entry, Kind, Sent, State, resting_digest, spec_digest};
use super::{events, gauges, status};
use crate::api::{EventExport, EventExportStatus};
use crate::export::failure::Failure;
use crate::export::snapshot::Snapshot;
use crate::export::wish::Export;

/// The least time between two writes of one status, unless a condition changes.
pub(super) const WRITE_EVERY: Duration = Duration::from_secs(3);

/// How often a status is tried to be written in one look: over what was watched, and over what is newest.
const WRITES: usize = 2;

/// Who writes the fields of a status (server-side apply).
pub const FIELD_MANAGER: &str = "eventexport.io/operator";

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
pub(super) async fn write_back(
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
