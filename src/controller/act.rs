//! Executes the decision for one resource. Reads its Secrets, writes its finalizer, starts and stops tasks.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::context::{ReconcileContext, owner};
use super::decide::Action;
use super::entry::{TaskState, has_finalizer, spec_digest};
use super::export_health::delays_nothing;
use super::exporter::{ExportRunner, Owner};
use super::kube_error::describe_error;
use super::runs::{PrepareFn, PreparedRun, StartPriority, Task, TaskOutcome};
use super::secrets::{self, FetchedSecrets, SecretReference};
use super::{events, finalizer, head_status};
use crate::api::{
    ConditionType, EventExport, LastError, Reason, ReferencedObject, SettingNames, find_condition,
};
use crate::export::failure::Failure;
use crate::export::retry_state::RetryState;
use crate::shares::queue::Tenant;
use crate::telemetry::metrics::ReconcileResult;

/// Executes an action. Returns the resource if the action wrote it.
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
        Action::ApplySpec => apply_spec(context, object, &owner),
        Action::Stop => {
            info!(export = %full_name(&owner), "stopping export (spec changed, suspended or deleted)");
            // Holds also if the change is reverted before the task has stopped.
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

/// Registers the names of the Secrets and then reads them. This order misses no change.
async fn read_secrets(
    context: &ReconcileContext,
    object: &EventExport,
    owner: &Owner,
) -> kube::Result<FetchedSecrets> {
    let references = secrets::references(&object.spec);
    let objects: BTreeSet<ReferencedObject> = references.iter().map(SecretReference::object).collect();
    context
        .registry
        .register_secrets(&owner.uid, &owner.namespace, objects);
    secrets::fetch(&context.client, &owner.namespace, &references).await
}

/// Creates the export with its peers. Fails if manual action is needed first.
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

/// Starts the export in a task when it is its turn: thousands of resources must not use memory at once.
fn start(context: &Arc<ReconcileContext>, object: &Arc<EventExport>, owner: Owner) {
    let tenant = Tenant::new(&owner.namespace, &object.spec.space, &owner.name);
    let priority = start_priority(object);
    let tenant = tenant.grouped(priority.as_str());
    let (uid, version, peers) = (owner.uid.clone(), object.clone(), peers_of(object));
    let taken = context.registry.with(&uid, |entry| {
        (entry.take_retry_state(object, (context.now)()), entry.failures)
    });
    let (retry_state, failures) = taken.unwrap_or_default();
    // After a restart only the status knows of failures.
    let failures = failures.max(u32::from(priority == StartPriority::Failing));
    let (run_context, object) = (context.clone(), object.clone());
    let prepare: PrepareFn = Box::new(move || {
        Box::pin(async move { prepare_run(&run_context, &object, &owner, retry_state).await })
    });
    let (queue_context, queue_uid) = (context.clone(), uid.clone());
    context
        .registry
        .queue_export(&uid, spec_digest(&version.spec), |serial| {
            AbortOnDropHandle::new(tokio::spawn(async move {
                let place = queue_context.runs.place(&peers, &tenant, failures).await;
                let task = Task::Export { place, prepare };
                let spawn = |id, task| queue_context.runs.spawn(id, version, task);
                let registry = &queue_context.registry;
                registry.start_queued(&queue_uid, serial, task, spawn);
            }))
        });
}

/// Gives the newer spec to the running export, or stops it.
fn apply_spec(context: &ReconcileContext, object: &Arc<EventExport>, owner: &Owner) {
    let export = context.exporter.export_spec(&object.spec, owner);
    let applied = export.is_ok_and(|export| context.registry.apply_spec(&owner.uid, object, export));
    if !applied {
        context.registry.stop(&owner.uid);
    }
}

/// Prepares an export: reads its Secrets, creates its runner, adds its finalizer.
async fn prepare_run(
    context: &ReconcileContext,
    object: &EventExport,
    owner: &Owner,
    retry_state: Option<Arc<RetryState>>,
) -> Result<PreparedRun, TaskOutcome> {
    let (export, started_at) = (full_name(owner), Instant::now());
    let not_started = |error: kube::Error| {
        warn!(
            export,
            error = describe_error(&error),
            "cannot start the export, will retry"
        );
        context
            .metrics
            .reconciled(ReconcileResult::error, started_at.elapsed());
        TaskOutcome::NotStarted
    };
    let fetched = read_secrets(context, object, owner).await.map_err(not_started)?;
    context.registry.record_secrets(&owner.uid, &fetched);
    let runner = prepare(context, object, owner, fetched)
        .await
        .map_err(|failure| {
            let error = failure.describe(&SettingNames::default());
            warn!(export, reason = %failure.reason, error, "cannot start the export");
            TaskOutcome::Blocked(failure)
        })?;
    // The watch may lag behind: the resource is read again, so that no export starts for a deleted one. Only an unfinished
    // export gets its finalizer here: others rarely open a session, and get it when they want to.
    let (api, opens_sessions) = (
        context.api(object),
        start_priority(object) == StartPriority::Unfinished,
    );
    let mut newest = api.get_opt(&owner.name).await.map_err(not_started)?;
    if let Some(current) = newest.as_ref().filter(|newest| is_current(object, newest))
        && opens_sessions
        && !has_finalizer(current)
    {
        newest = finalizer::add(&api, current).await.map_err(not_started)?;
    }
    let Some(newest) = newest.filter(|newest| is_current(object, newest)) else {
        // The watch delivers the change or the deletion, which triggers a reconcile.
        return Err(TaskOutcome::NotStarted);
    };
    let has_finalizer = has_finalizer(&newest);
    context
        .registry
        .with(&owner.uid, |entry| entry.sessions = Some(has_finalizer));
    if retry_state.is_none() {
        info!(export, "export started");
    }
    // As the cluster has it now: the watch may lag behind.
    let head = newest.status.as_ref().and_then(head_status::remembered);
    Ok(PreparedRun {
        runner,
        head,
        retry_state,
        has_finalizer,
    })
}

/// Returns a name of the peers of an export: all that it may wait for before it wants a session. Exports whose peers do not
/// answer must not delay the others of a namespace. Not the bucket: hundreds of them at one store that does not answer would
/// be hundreds of peers.
fn peers_of(object: &EventExport) -> String {
    let (source, s3) = (&object.spec.source, &object.spec.destination.s3);
    let service = (&source.region, &source.endpoint, &source.uaa_endpoint);
    let store = (&s3.region, &s3.endpoint, &s3.service_account_name);
    format!("{service:?} {store:?}")
}

/// Returns true if the resource has the generation that was watched and is not being deleted.
fn is_current(watched: &EventExport, newest: &EventExport) -> bool {
    let (watched, newest) = (&watched.metadata, &newest.metadata);
    watched.uid == newest.uid
        && watched.generation == newest.generation
        && newest.deletion_timestamp.is_none()
}

/// Returns the priority of the first listing, by the status of the current generation.
pub(super) fn start_priority(object: &EventExport) -> StartPriority {
    let status = object.status.as_ref();
    let status = status.filter(|status| Some(status.observed_generation) == object.metadata.generation);
    let condition =
        |kind| find_condition(&status?.conditions, kind).filter(|condition| condition.status == "True");
    let error = status.and_then(|status| status.last_error.as_ref());
    let fails = |error: &LastError| !error.reason.parse().is_ok_and(delays_nothing);
    if error.is_some_and(fails) {
        StartPriority::Failing
    } else if condition(ConditionType::Complete).is_some() {
        StartPriority::Complete
    } else if condition(ConditionType::Ready).is_some_and(|ready| ready.reason == Reason::CaughtUp.as_str()) {
        StartPriority::CaughtUp
    } else {
        StartPriority::Unfinished
    }
}

/// Restarts the export if the contents of its Secrets changed. A new version with the same contents changes nothing.
async fn compare_secrets(
    context: &ReconcileContext,
    object: &EventExport,
    owner: &Owner,
) -> kube::Result<()> {
    let fetched = read_secrets(context, object, owner).await?;
    let changed = context.registry.with(&owner.uid, |entry| {
        let changed = fetched.missing.is_some() || entry.secrets.digest != fetched.digest;
        entry.restart_requested |= changed;
        changed
    });
    context.registry.record_secrets(&owner.uid, &fetched);
    if changed == Some(true) {
        info!(export = %full_name(owner), "contents of Secrets changed, restarting export");
        context.registry.stop(&owner.uid);
    }
    Ok(())
}

/// Deletes the sessions, with the credentials in memory or else with those of the Secrets.
async fn release(context: &ReconcileContext, object: &Arc<EventExport>, owner: &Owner) -> kube::Result<()> {
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
        context
            .registry
            .with(&owner.uid, |entry| entry.runner_rebuilt = true);
        match prepared {
            Ok(runner) => runner,
            Err(failure) => {
                let error = failure.describe(&SettingNames::default());
                warn!(export = %full_name(owner), error, "cannot delete sessions");
                context.registry.mark_release_impossible(&owner.uid, spec, error);
                return Ok(());
            }
        }
    };
    info!(export = %full_name(owner), "deleting sessions");
    let spawn = |id, task| context.runs.spawn(id, object.clone(), task);
    context.registry.start_release(&owner.uid, runner, spawn);
    Ok(())
}

/// Removes the finalizer of a deleted resource although sessions may be open. Reports that as an Event, a log line and
/// metrics.
async fn abandon_cleanup(
    context: &ReconcileContext,
    object: &EventExport,
    owner: &Owner,
) -> kube::Result<Option<EventExport>> {
    let leftover = context.registry.with(&owner.uid, |entry| {
        let (mut ids, why) = finalizer::leftover_sessions(entry.release_report.as_deref());
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
        if let Some((snapshot, _)) = &entry.last_run {
            ids.extend(snapshot.sessions.iter().map(|session| session.id.clone()));
        }
        (ids, why)
    });
    let (ids, why) = leftover.unwrap_or_else(|| finalizer::leftover_sessions(None));
    let known = object
        .status
        .iter()
        .flat_map(|status| &status.sessions)
        .map(|session| session.id.clone());
    let mut ids: Vec<String> = ids.into_iter().chain(known).collect();
    ids.sort();
    ids.dedup();
    context.registry.abort(&owner.uid);
    warn!(export = %full_name(owner), sessions = ?ids, why, "removing finalizer, sessions may still be open");
    let event = events::leftover_sessions_event(&ids, &why);
    // An Event needs the resource, so it is sent before the finalizer is removed. Not again if that write fails.
    let first = context.registry.with(&owner.uid, |entry| {
        !std::mem::replace(&mut entry.leftover_sessions_reported, true)
    });
    if first == Some(true) {
        context.metrics.deletions_abandoned.inc();
        context
            .metrics
            .sessions_left
            .inc_by(u64::try_from(ids.len()).unwrap_or(u64::MAX));
        context.recorder.record(object, vec![event], || true).await;
    }
    finalizer::remove(&context.api(object), object).await
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::api::{EventExportStatus, condition};

    #[test]
    fn exports_start_in_groups_by_their_status() {
        let spec = serde_json::json!({
            "space": "s", "dateRange": {"start": "2018-06-01"},
            "source": {"region": "ng", "credentialsSecretRef": {"name": "tracker"}},
            "destination": {"s3": {"bucket": "audit"}},
        });
        let object = |kind, is, reason, observed_generation| {
            let mut object = EventExport::new("x", serde_json::from_value(spec.clone()).unwrap());
            object.metadata.generation = Some(2);
            object.status = Some(EventExportStatus {
                conditions: vec![condition(kind, Some(is), reason, "why", 2, Timestamp::UNIX_EPOCH)],
                observed_generation,
                ..EventExportStatus::default()
            });
            object
        };
        let with = |kind, is, reason, generation| start_priority(&object(kind, is, reason, generation));
        let (complete, ready) = (ConditionType::Complete, ConditionType::Ready);
        assert_eq!(with(complete, true, Reason::Complete, 2), StartPriority::Complete);
        assert_eq!(with(ready, true, Reason::CaughtUp, 2), StartPriority::CaughtUp);
        // Its last run had an error.
        let mut failing = object(complete, true, Reason::Complete, 2);
        failing.status.as_mut().unwrap().last_error = Some(LastError {
            reason: Reason::SourceUnreachable.as_str().to_owned(),
            message: "no reply".to_owned(),
            window: None,
        });
        assert_eq!(start_priority(&failing), StartPriority::Failing);
        let mut without_report = failing.clone();
        let error = without_report.status.as_mut().unwrap().last_error.as_mut();
        error.unwrap().reason = Reason::ReportNotWritten.as_str().to_owned();
        assert_eq!(start_priority(&without_report), StartPriority::Complete);
        failing.metadata.generation = Some(3);
        assert_eq!(start_priority(&failing), StartPriority::Unfinished);
        // It fails, exports, or has a newer generation.
        for unfinished in [
            with(ready, false, Reason::CaughtUp, 2),
            with(ready, true, Reason::Exporting, 2),
            with(complete, false, Reason::Exporting, 2),
            with(complete, true, Reason::Complete, 1),
            with(ready, true, Reason::CaughtUp, 1),
        ] {
            assert_eq!(unfinished, StartPriority::Unfinished);
        }
    }
}
