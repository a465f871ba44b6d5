//! Does what was decided for one resource. Reads its Secrets, writes its finalizer, begins and ends work.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use tracing::{info, warn};

use super::context::{ReconcileContext, owner};
use super::decide::Action;
use super::entry::{TaskState, has_finalizer, spec_digest};
use super::exporter::{ExportRunner, Owner};
use super::kube_error::describe_error;
use super::secrets::{self, FetchedSecrets};
use super::supervise::{PrepareFn, StartPriority, Task};
use super::{events, finalizer, registry};
use crate::api::{ConditionType, EventExport, Reason, find_condition};
use crate::export::failure::Failure;
use crate::telemetry::metrics::ReconcileResult;

/// Does it; returns the resource as it is since then, where that changed it.
pub(super) async fn act(
    context: &Arc<ReconcileContext>,
    object: &Arc<EventExport>,
    action: Action,
) -> kube::Result<Option<EventExport>> {
    let owner = owner(context, object);
    match action {
        Action::Noop => {}
        Action::Start => start(context, object, owner),
        Action::CompareSecrets => compare_secrets(context, object, &owner).await?,
        Action::Stop => {
            info!(export = %full_name(&owner), "stopping: its spec changed, or it is suspended or deleted");
            // Also if the change is taken back before it has stopped.
            context
                .registry
                .with(&owner.uid, |entry| entry.restart_requested = true);
            context.registry.stop(&owner.uid);
        }
        Action::ReleaseSessions => release(context, object, &owner).await?,
        Action::RemoveFinalizer => return finalizer::remove(&context.api(object), object).await,
        Action::AbandonCleanup => return abandon_cleanup(context, object, &owner).await,
    }
    Ok(None)
}

fn full_name(owner: &Owner) -> String {
    format!("{}/{}", owner.namespace, owner.name)
}

/// Reads the Secrets, after it was noted which, so that no change is missed.
async fn read_secrets(
    context: &ReconcileContext,
    object: &EventExport,
    owner: &Owner,
) -> kube::Result<FetchedSecrets> {
    let references = secrets::references(&object.spec);
    let names: HashSet<&str> = references.iter().map(|reference| reference.name).collect();
    context
        .registry
        .register_secrets(&owner.uid, &owner.namespace, &names);
    secrets::fetch(&context.client, &owner.namespace, &references).await
}

/// The export with its peers, or what a person has to do first.
async fn prepare(
    context: &ReconcileContext,
    object: &EventExport,
    owner: &Owner,
    fetched: FetchedSecrets,
) -> Result<Arc<dyn ExportRunner>, Failure> {
    match fetched.missing {
        Some(missing) => Err(missing),
        None => {
            context
                .exporter
                .prepare(&object.spec, &fetched.secrets, owner)
                .await
        }
    }
}

/// Begins in a task: with thousands of resources, each waits for its turn before it costs anything.
fn start(context: &Arc<ReconcileContext>, object: &Arc<EventExport>, owner: Owner) {
    let priority = start_priority(object);
    let (uid, spec) = (owner.uid.clone(), spec_digest(&object.spec));
    let (registry, context, object) = (context.registry.clone(), context.clone(), object.clone());
    let prepare: PrepareFn =
        Box::new(move || Box::pin(async move { prepare_run(&context, &object, &owner).await }));
    registry.start_task(&uid, spec, Task::Export(priority, prepare));
}

/// All that comes before an export: its Secrets, its job, its finalizer.
async fn prepare_run(
    context: &ReconcileContext,
    object: &EventExport,
    owner: &Owner,
) -> Result<Arc<dyn ExportRunner>, registry::TaskOutcome> {
    let (export, began) = (full_name(owner), Instant::now());
    let not_started = |error: kube::Error| {
        warn!(
            export,
            error = describe_error(&error),
            "the API server did not answer: it begins later"
        );
        context
            .metrics
            .reconciled(ReconcileResult::error, began.elapsed());
        registry::TaskOutcome::NotStarted
    };
    let fetched = read_secrets(context, object, owner).await.map_err(not_started)?;
    context.registry.record_secrets(&owner.uid, &fetched);
    let runner = prepare(context, object, owner, fetched)
        .await
        .map_err(|failure| {
            warn!(export, reason = %failure.reason, message = failure.message, "cannot begin");
            registry::TaskOutcome::Blocked(failure)
        })?;
    // By what is there, not by what was watched, which may be old: nothing begins for a resource that is gone. What was
    // complete is only looked at; should there be something to do after all, the finalizer is put on then.
    let (api, verify_only) = (context.api(object), is_complete(object));
    let mut now = api.get_opt(&owner.name).await.map_err(not_started)?;
    if let Some(there) = now.as_ref().filter(|now| is_current(object, now))
        && !verify_only
        && !has_finalizer(there)
    {
        now = finalizer::add(&api, there).await.map_err(not_started)?;
    }
    let Some(now) = now.filter(|now| is_current(object, now)) else {
        // Its change or deletion wakes us, or it is gone.
        return Err(registry::TaskOutcome::NotStarted);
    };
    context.registry.with(&owner.uid, |entry| {
        entry.sessions = Some(has_finalizer(&now) || !verify_only);
    });
    info!(export, "begins");
    Ok(runner)
}

/// Whether a resource asks for the same as when it was watched.
fn is_current(watched: &EventExport, now: &EventExport) -> bool {
    let (watched, now) = (&watched.metadata, &now.metadata);
    watched.uid == now.uid && watched.generation == now.generation && now.deletion_timestamp.is_none()
}

fn is_complete(object: &EventExport) -> bool {
    start_priority(object) == StartPriority::Complete
}

/// When its bucket is listed for the first time, by what its status says of this very spec.
fn start_priority(object: &EventExport) -> StartPriority {
    let status = object.status.as_ref();
    let status = status.filter(|status| Some(status.observed_generation) == object.metadata.generation);
    let condition =
        |kind| find_condition(&status?.conditions, kind).filter(|condition| condition.status == "True");
    if condition(ConditionType::Complete).is_some() {
        StartPriority::Complete
    } else if condition(ConditionType::Ready).is_some_and(|ready| ready.reason == Reason::CaughtUp.as_str()) {
        StartPriority::CaughtUp
    } else {
        StartPriority::Unfinished
    }
}

/// A Secret has another version: only other contents are a reason to begin again.
async fn compare_secrets(
    context: &ReconcileContext,
    object: &EventExport,
    owner: &Owner,
) -> kube::Result<()> {
    let fetched = read_secrets(context, object, owner).await?;
    let other = context.registry.with(&owner.uid, |entry| {
        let other = fetched.missing.is_some() || entry.secrets.digest != fetched.digest;
        entry.restart_requested |= other;
        other
    });
    context.registry.record_secrets(&owner.uid, &fetched);
    if other == Some(true) {
        info!(export = %full_name(owner), "its Secrets have other contents; beginning again");
        context.registry.stop(&owner.uid);
    }
    Ok(())
}

/// Deletes sessions: with credentials that are still in memory, or else with those of the Secrets.
async fn release(context: &ReconcileContext, object: &EventExport, owner: &Owner) -> kube::Result<()> {
    let spec = spec_digest(&object.spec);
    let kept = context
        .registry
        .with(&owner.uid, |entry| entry.runner.clone())
        .flatten();
    let runner = if let Some(runner) = kept {
        runner
    } else {
        let fetched = read_secrets(context, object, owner).await?;
        context.registry.record_secrets(&owner.uid, &fetched);
        let prepared = prepare(context, object, owner, fetched).await;
        context.registry.with(&owner.uid, |entry| entry.rebuilt = true);
        match prepared {
            Ok(runner) => runner,
            Err(failure) => {
                warn!(export = %full_name(owner), message = failure.message, "its sessions cannot be released");
                context
                    .registry
                    .mark_release_impossible(&owner.uid, spec, failure.message);
                return Ok(());
            }
        }
    };
    info!(export = %full_name(owner), "deleting its sessions");
    context
        .registry
        .start_task(&owner.uid, spec, Task::Release(runner));
    Ok(())
}

/// Lets a deleted resource go although sessions may be open, and says so in every place where somebody may look.
async fn abandon_cleanup(
    context: &ReconcileContext,
    object: &EventExport,
    owner: &Owner,
) -> kube::Result<Option<EventExport>> {
    let left = context.registry.with(&owner.uid, |entry| {
        let (mut ids, why) = finalizer::leftover_sessions(entry.left.as_deref());
        if let TaskState::Running(running) = &entry.state {
            ids.extend(
                running
                    .snapshots
                    .borrow()
                    .sessions
                    .iter()
                    .map(|session| session.id.clone()),
            );
        }
        if let Some((snapshot, _)) = &entry.last {
            ids.extend(snapshot.sessions.iter().map(|session| session.id.clone()));
        }
        (ids, why)
    });
    let (ids, why) = left.unwrap_or_else(|| finalizer::leftover_sessions(None));
    let known = object
        .status
        .iter()
        .flat_map(|status| &status.sessions)
        .map(|session| session.id.clone());
    let mut ids: Vec<String> = ids.into_iter().chain(known).collect();
    ids.sort();
    ids.dedup();
    context.registry.abort(&owner.uid);
    warn!(export = %full_name(owner), sessions = ?ids, why, "deleted, but sessions may be left open at the service");
    let note = events::leftover_sessions_event(&ids, &why);
    // Before the finalizer goes: afterwards there is nothing to tell about. Not again if that write fails.
    let first = context.registry.with(&owner.uid, |entry| {
        !std::mem::replace(&mut entry.leftover_sessions_reported, true)
    });
    if first == Some(true) {
        context.metrics.releases_given_up.inc();
        context
            .metrics
            .sessions_left
            .inc_by(u64::try_from(ids.len()).unwrap_or(u64::MAX));
        context.recorder.record(object, vec![note], || true).await;
    }
    finalizer::remove(&context.api(object), object).await
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::api::{EventExportStatus, condition};

    #[test]
    fn unfinished_exports_start_first() {
        let spec = serde_json::json!({
            "space": "s", "dateRange": {"start": "2018-06-01"},
            "source": {"region": "ng", "credentialsSecretRef": {"name": "tracker"}},
            "destination": {"s3": {"bucket": "audit"}},
        });
        let with = |kind, is, reason, observed_generation| {
            let mut object = EventExport::new("x", serde_json::from_value(spec.clone()).unwrap());
            object.metadata.generation = Some(2);
            object.status = Some(EventExportStatus {
                conditions: vec![condition(kind, Some(is), reason, "why", 2, Timestamp::UNIX_EPOCH)],
                observed_generation,
                ..EventExportStatus::default()
            });
            start_priority(&object)
        };
        let (complete, ready) = (ConditionType::Complete, ConditionType::Ready);
        assert_eq!(with(complete, true, Reason::Complete, 2), StartPriority::Complete);
        assert_eq!(with(ready, true, Reason::CaughtUp, 2), StartPriority::CaughtUp);
        // It fails, works, or was changed since.
        for unfinished in [
            with(ready, false, Reason::CaughtUp, 2),
            with(ready, true, Reason::Exporting, 2),
            with(complete, false, Reason::Exporting, 2),
            with(complete, true, Reason::Complete, 1),
            with(ready, true, Reason::CaughtUp, 1),
        ] {
            assert_eq!(unfinished, StartPriority::Unfinished);
        }
        assert!(
            StartPriority::Unfinished < StartPriority::CaughtUp
                && StartPriority::CaughtUp < StartPriority::Complete
        );
    }
}
