//! Writes the status of a resource: only if it changed, and only over the version that was read.

use std::num::NonZero;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tracing::warn;

use super::context::ReconcileContext;
use super::decide::FinishedTask;
use super::entry::{
    ExportEntry, PendingStatus, TaskKind, TaskState, digest, idle_status_digest, spec_digest,
};
use super::events::REFILL_INTERVAL;
use super::installations::{Ownership, overlap_message};
use super::status_values::truncate_to_second;
use super::{events, gauges, status, verification};
use crate::api::{EventExport, EventExportStatus};
use crate::export::failure::Failure;
use crate::export::snapshot::Snapshot;
use crate::export::spec::ExportSpec;

/// Minimum time between two writes of one status, unless a condition changes.
pub(super) const WRITE_INTERVAL: Duration = Duration::from_secs(3);

/// Attempts to write a status in one reconcile: over the watched version, then over the newest one.
const MAX_WRITE_ATTEMPTS: usize = 2;

/// Field manager of the status (server-side apply).
pub const FIELD_MANAGER: &str = "eventexport.io/operator";

/// State of an export that the status reports, as far as this process knows it.
enum KnownState {
    Unknown,
    Starting,
    Suspended { stopping: bool, still_complete: bool },
    Blocked { failure: Failure, no_session: bool },
    Observed(Arc<Snapshot>, Arc<ExportSpec>),
}

fn known_state(entry: &ExportEntry, object: &EventExport) -> KnownState {
    let wanted = spec_digest(&object.spec);
    match &entry.state {
        state if object.spec.suspend => KnownState::Suspended {
            stopping: matches!(state, TaskState::Running(_)),
            still_complete: entry.complete_spec.is_some_and(|spec| spec.get() == wanted),
        },
        TaskState::Running(running) if running.kind == TaskKind::Export && running.spec == wanted => {
            let snapshot = running.snapshots.borrow().clone();
            match &entry.runner {
                Some(runner) if running.has_applied(&snapshot) => {
                    KnownState::Observed(snapshot, runner.export().clone())
                }
                Some(_) | None => KnownState::Starting,
            }
        }
        TaskState::Finished { spec, .. } if *spec == wanted => match (&entry.failure, &entry.last_run) {
            (Some(failure), _) => KnownState::Blocked {
                failure: Failure::clone(failure),
                no_session: entry.sessions == Some(false),
            },
            (None, Some((snapshot, export))) => KnownState::Observed(snapshot.clone(), export.clone()),
            (None, None) => KnownState::Unknown,
        },
        TaskState::NotStarted
        | TaskState::Queued { .. }
        | TaskState::Running(_)
        | TaskState::Finished { .. } => KnownState::Starting,
    }
}

/// Returns the value of a requested look if the bucket was listed since, or the export failed to start again.
fn answered_look(entry: &ExportEntry, known: &KnownState) -> Option<String> {
    let look = entry.look.as_ref().filter(|_| !entry.restart_requested)?;
    let answered = match known {
        KnownState::Observed(snapshot, _) => snapshot.observed && snapshot.looked >= look.number,
        KnownState::Blocked { .. } => true,
        KnownState::Unknown | KnownState::Starting | KnownState::Suspended { .. } => false,
    };
    answered.then(|| look.value.to_string())
}

/// Version of a resource over which its status is written.
struct StatusBase {
    version: Option<String>,
    generation: Option<i64>,
    /// Status of that version, without conditions of other writers.
    status: EventExportStatus,
    /// True if the watch delivered this version.
    is_watched_version: bool,
}

impl StatusBase {
    fn from_object(read: &EventExport, object: &EventExport) -> Self {
        Self {
            version: read.metadata.resource_version.clone(),
            generation: read.metadata.generation,
            status: read.status.as_ref().map(status::owned_status).unwrap_or_default(),
            is_watched_version: read.metadata.resource_version == object.metadata.resource_version,
        }
    }

    /// Returns the last written version if the watch has not delivered it yet.
    fn from_pending(entry: &ExportEntry, object: &EventExport) -> Option<Self> {
        let pending = entry.written.pending.as_ref();
        let pending =
            pending.filter(|pending| pending.is_newer_than(object.metadata.resource_version.as_deref()))?;
        Some(Self {
            version: pending.new_version.clone(),
            generation: object.metadata.generation,
            status: pending.status.clone(),
            is_watched_version: false,
        })
    }
}

/// Writes the status if it changed. Returns the delay of the next reconcile if the write has to wait. Writes only over
/// the version that was `read`, or the newest one, and only while its generation is the one that was reconciled: a
/// watch that lags behind must not revert a status.
pub(super) async fn update_status(
    object: &EventExport,
    read: Option<EventExport>,
    uid: &str,
    context: &ReconcileContext,
) -> kube::Result<Option<Duration>> {
    let known = context.registry.with(uid, |entry| known_state(entry, object));
    let known = known.unwrap_or(KnownState::Unknown);
    let pending = || {
        context
            .registry
            .with(uid, |entry| StatusBase::from_pending(entry, object))
            .flatten()
    };
    let mut base = match read {
        Some(read) => StatusBase::from_object(&read, object),
        None => pending().unwrap_or_else(|| StatusBase::from_object(object, object)),
    };
    for _ in 0..MAX_WRITE_ATTEMPTS {
        if base.generation != object.metadata.generation {
            // The watch delivers the new generation, which triggers a reconcile.
            return Ok(None);
        }
        if let StatusWrite::Done(pause) = write_status(base, object, &known, uid, context).await? {
            return Ok(pause);
        }
        let newest = context.api(object).get_opt(&object.name_any()).await?;
        match newest.filter(|newest| newest.metadata.uid == object.metadata.uid) {
            Some(newest) => base = StatusBase::from_object(&newest, object),
            None => return Ok(None),
        }
    }
    Ok(Some(WRITE_INTERVAL))
}

enum StatusWrite {
    /// Nothing is left to write now. The value is the delay of the next reconcile.
    Done(Option<Duration>),
    /// Nothing was written: the resource has another version, or is gone.
    Conflict,
}

async fn write_status(
    base: StatusBase,
    object: &EventExport,
    known: &KnownState,
    uid: &str,
    context: &ReconcileContext,
) -> kube::Result<StatusWrite> {
    let phase = match known {
        KnownState::Unknown => None,
        KnownState::Starting => Some(status::ExportPhase::Starting),
        KnownState::Suspended {
            stopping,
            still_complete,
        } => Some(status::ExportPhase::Suspended {
            stopping: *stopping,
            still_complete: *still_complete,
        }),
        KnownState::Blocked { failure, no_session } => Some(status::ExportPhase::Blocked {
            failure,
            no_session: *no_session,
        }),
        KnownState::Observed(snapshot, export) => Some(status::ExportPhase::Observed(snapshot, export)),
    };
    let subject = status::StatusContext {
        generation: object.metadata.generation.unwrap_or_default(),
        created: object
            .metadata
            .creation_timestamp
            .as_ref()
            .map_or(Timestamp::MIN, |at| at.0),
        now: (context.now)(),
    };
    let before = &base.status;
    let mut after = if let Some(phase) = phase {
        status::compute_status(subject, phase, before)
    } else {
        let mut after = before.clone();
        status::accept_generation(&mut after, subject);
        after
    };
    context.registry.with(uid, |entry| {
        let scheduled = object.spec.verification.is_some();
        // The watch delivered what was written, or a later version: a person may have removed it to ask for another pass.
        let delivered = entry.verification_written && base.is_watched_version;
        if !scheduled || delivered {
            entry.verification = None;
        }
        status::set_verification(&mut after, subject, scheduled, entry.verification.as_deref());
        let shown = base.is_watched_version && after.verification == before.verification;
        if shown && after.conditions == before.conditions {
            entry.verification = None;
        }
    });
    let overlap = context
        .installations
        .with_ownership(object, |ownership| match ownership {
            Ownership::Contended(other) => Some(overlap_message(context.installations.lease(), other)),
            Ownership::Mine | Ownership::Other(_) => None,
        });
    status::set_contended(&mut after, subject, overlap.as_deref());
    context.registry.with(uid, |entry| {
        if let Some(value) = answered_look(entry, known) {
            after.last_handled_reconcile_at = Some(value);
        }
        if let (KnownState::Observed(..), TaskState::Finished { result, .. }) = (known, &entry.state)
            && let FinishedTask::Idle(next) | FinishedTask::Waiting(next) = result
        {
            after.next_run_time = Some(Time(truncate_to_second(*next)));
        }
    });
    // Differs from `before` then, so that it is written.
    after.upgrade_ranges();
    if phase.is_none() && after == *before {
        return Ok(StatusWrite::Done(None));
    }
    let seen = match known {
        KnownState::Observed(snapshot, export) => Some((&**snapshot, &**export)),
        _ => None,
    };
    context.registry.with(uid, |entry| {
        let last = entry.facts.as_deref();
        let retention = gauges::retention(&object.spec, context.retention_days);
        let mut facts = gauges::resource_facts(&after, object.spec.suspend, seen, last, retention);
        facts.verification = gauges::verification_facts(
            &after,
            verification::due_at(object, &after, after.verification.as_ref()),
        );
        entry.facts = Some(Box::new(facts));
    });
    let base_version = object.metadata.resource_version.clone();
    if after == *before {
        context.registry.with(uid, |entry| {
            if base.is_watched_version {
                confirm_written(entry, object);
            } else {
                entry.written.pending = Some(Box::new(PendingStatus {
                    status: after,
                    base_version,
                    new_version: base.version,
                }));
            }
        });
        return Ok(StatusWrite::Done(None));
    }
    let wait = context.registry.with(uid, |entry| {
        let since = entry.written.at.map(|at| at.elapsed());
        let early = since.filter(|since| *since < WRITE_INTERVAL && same_conditions(before, &after));
        early.map(|since| WRITE_INTERVAL.saturating_sub(since))
    });
    if let Some(wait) = wait.flatten() {
        return Ok(StatusWrite::Done(Some(wait)));
    }
    let written_digest = content_digest(&after);
    let allowed = context.registry.with(uid, |entry| {
        let restores = entry.written.digest == Some(written_digest);
        !restores || entry.written.may_correct()
    });
    if allowed == Some(false) {
        let export = format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any());
        warn!(
            export,
            "another writer keeps changing the status, restoring it later"
        );
        return Ok(StatusWrite::Done(Some(REFILL_INTERVAL)));
    }
    let Some(written) = apply_status(&base, object, context, &after).await? else {
        return Ok(StatusWrite::Conflict);
    };
    context.metrics.status_writes.inc();
    let events = events::status_events(before, &after);
    let idle_digest = idle_status_digest(Some(&after));
    context.registry.with(uid, |entry| {
        // Not of a newer state, which is published meanwhile.
        let update = entry.verification.as_deref();
        entry.verification_written =
            update.is_some_and(|update| after.verification.as_ref() == Some(&update.status));
        entry.written.pending = Some(Box::new(PendingStatus {
            status: after,
            base_version,
            new_version: written.metadata.resource_version,
        }));
        entry.written.at = Some(Instant::now());
        if phase.is_none() && entry.written.idle_digest.is_some() {
            entry.written.idle_digest = Some(idle_digest);
        }
        entry.written.digest = Some(written_digest);
    });
    let allowed = || {
        context
            .registry
            .with(uid, |entry| entry.rate_limit.take(Instant::now()))
            .unwrap_or(false)
    };
    context.recorder.record(object, events, allowed).await;
    Ok(StatusWrite::Done(None))
}

/// Returns a digest of a status without the times that a correction changes by itself.
fn content_digest(status: &EventExportStatus) -> NonZero<u64> {
    let mut status = status.clone();
    status.completion_time = None;
    for condition in &mut status.conditions {
        condition.last_transition_time = Time(Timestamp::UNIX_EPOCH);
    }
    digest(&status)
}

/// Drops the state that the status in the cluster now holds: an idle resource keeps only a digest in memory.
fn confirm_written(entry: &mut ExportEntry, object: &EventExport) {
    entry.written.pending = None;
    if matches!(entry.state, TaskState::Finished { .. }) && entry.failure.is_none() {
        entry.last_run = None;
        entry.written.idle_digest = Some(idle_status_digest(object.status.as_ref()));
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

/// Applies the status. Returns the written resource, or `None` if it is gone, changed or was recreated.
async fn apply_status(
    base: &StatusBase,
    object: &EventExport,
    context: &ReconcileContext,
    status: &EventExportStatus,
) -> kube::Result<Option<EventExport>> {
    let (api, name) = (context.api(object), object.name_any());
    let mut version = base.version.clone();
    if base.status.has_legacy_ranges() {
        // The API server refuses to apply over values that the definition does not allow.
        let metadata = json!({ "uid": object.metadata.uid, "resourceVersion": version });
        let ranges = json!({
            "covered": status.covered, "missing": status.missing, "expired": status.expired,
        });
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let body = Patch::Merge(json!({ "metadata": metadata, "status": ranges }));
        let Some(written) = none_if_stale(api.patch_status(&name, &params, &body).await)? else {
            return Ok(None);
        };
        version = written.metadata.resource_version;
    }
    let body = json!({
        "apiVersion": "eventexport.io/v1alpha1",
        "kind": "EventExport",
        "metadata": { "name": name, "uid": object.metadata.uid, "resourceVersion": version },
        "status": status,
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let Some(written) = none_if_stale(api.patch_status(&name, &params, &Patch::Apply(&body)).await)? else {
        return Ok(None);
    };
    let stored = written.status.as_ref().map(status::owned_status);
    let Some(fields) = status::foreign_fields(&json!(status), &json!(stored)) else {
        return Ok(Some(written));
    };
    let export = format!("{}/{name}", object.namespace().unwrap_or_default());
    warn!(export, %fields, "removing status fields of another writer");
    let metadata =
        json!({ "uid": written.metadata.uid, "resourceVersion": written.metadata.resource_version });
    let body = json!({ "metadata": metadata, "status": fields });
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let cleaned = none_if_stale(api.patch_status(&name, &params, &Patch::Merge(&body)).await)?;
    // On a conflict, the watch delivers the newer version, which is compared again.
    Ok(Some(cleaned.unwrap_or(written)))
}

fn none_if_stale<T>(outcome: kube::Result<T>) -> kube::Result<Option<T>> {
    match outcome {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(None),
        outcome => outcome.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{ConditionType, Reason, condition};

    #[test]
    fn a_restored_status_has_the_digest_of_the_first_write() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let written = |second, ready| {
            let ready = condition(
                ConditionType::Ready,
                Some(ready),
                Reason::Complete,
                "why",
                1,
                at(second),
            );
            EventExportStatus {
                conditions: vec![ready],
                completion_time: Some(Time(at(second))),
                ..EventExportStatus::default()
            }
        };
        // Another writer changed the condition, so that its transition time is new after the correction.
        assert_eq!(
            content_digest(&written(1, true)),
            content_digest(&written(2, true))
        );
        assert_ne!(
            content_digest(&written(1, true)),
            content_digest(&written(1, false))
        );
    }
}
