//! Does what was decided for one resource. Reads its Secrets, writes its finalizer, begins and ends work.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use tracing::{info, warn};

use super::context::{Context, owner};
use super::decide::Deed;
use super::entry::{State, has_finalizer, spec_digest};
use super::exporter::{Job, Owner};
use super::said::plain;
use super::secrets::{self, Fetched};
use super::supervise::{Prepare, Task, Turn};
use super::{events, finalizer, runs};
use crate::api::{ConditionType, EventExport, Reason, find};
use crate::export::failure::Failure;
use crate::telemetry::metrics::Outcome;

/// Does it; returns the resource as it is since then, where that changed it.
pub(super) async fn act(
    context: &Arc<Context>,
    object: &Arc<EventExport>,
    deed: Deed,
) -> kube::Result<Option<EventExport>> {
    let owner = owner(context, object);
    match deed {
        Deed::Leave => {}
        Deed::Start => start(context, object, owner),
        Deed::CompareSecrets => compare_secrets(context, object, &owner).await?,
        Deed::Stop => {
            info!(export = %named(&owner), "stopping: its spec changed, or it is suspended or deleted");
            // Also if the change is taken back before it has stopped.
            context.runs.with(&owner.uid, |entry| entry.afresh = true);
            context.runs.stop(&owner.uid);
        }
        Deed::Release => release(context, object, &owner).await?,
        Deed::LetGo => return finalizer::take_away(&context.api(object), object).await,
        Deed::GiveUp => return give_up(context, object, &owner).await,
    }
    Ok(None)
}

fn named(owner: &Owner) -> String {
    format!("{}/{}", owner.namespace, owner.name)
}

/// Reads the Secrets, after it was noted which, so that no change is missed.
async fn read_secrets(context: &Context, object: &EventExport, owner: &Owner) -> kube::Result<Fetched> {
    let references = secrets::references(&object.spec);
    let names: HashSet<&str> = references.iter().map(|reference| reference.name).collect();
    context.runs.uses(&owner.uid, &owner.namespace, &names);
    secrets::fetch(&context.client, &owner.namespace, &references).await
}

/// The export with its peers, or what a person has to do first.
async fn prepare(
    context: &Context,
    object: &EventExport,
    owner: &Owner,
    fetched: Fetched,
) -> Result<Arc<dyn Job>, Failure> {
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
fn start(context: &Arc<Context>, object: &Arc<EventExport>, owner: Owner) {
    let turn = turn(object);
    let (uid, spec) = (owner.uid.clone(), spec_digest(&object.spec));
    let (runs, context, object) = (context.runs.clone(), context.clone(), object.clone());
    let prepare: Prepare =
        Box::new(move || Box::pin(async move { set_out(&context, &object, &owner).await }));
    runs.begin(&uid, spec, Task::Export(turn, prepare));
}

/// All that comes before an export: its Secrets, its job, its finalizer.
async fn set_out(
    context: &Context,
    object: &EventExport,
    owner: &Owner,
) -> Result<Arc<dyn Job>, runs::Outcome> {
    let (export, began) = (named(owner), Instant::now());
    let not_begun = |error: kube::Error| {
        warn!(
            export,
            error = plain(&error),
            "the API server did not answer: it begins later"
        );
        context.metrics.reconciled(Outcome::error, began.elapsed());
        runs::Outcome::NotBegun
    };
    let fetched = read_secrets(context, object, owner).await.map_err(not_begun)?;
    context.runs.read(&owner.uid, &fetched);
    let job = prepare(context, object, owner, fetched)
        .await
        .map_err(|failure| {
            warn!(export, reason = %failure.reason, message = failure.message, "cannot begin");
            runs::Outcome::Blocked(failure)
        })?;
    // By what is there, not by what was watched, which may be old: nothing begins for a resource that is gone. What was
    // complete is only looked at; should there be something to do after all, the finalizer is put on then.
    let (api, looks_only) = (context.api(object), is_complete(object));
    let mut now = api.get_opt(&owner.name).await.map_err(not_begun)?;
    if let Some(there) = now.as_ref().filter(|now| is_current(object, now))
        && !looks_only
        && !has_finalizer(there)
    {
        now = finalizer::put_on(&api, there).await.map_err(not_begun)?;
    }
    let Some(now) = now.filter(|now| is_current(object, now)) else {
        // Its change or deletion wakes us, or it is gone.
        return Err(runs::Outcome::NotBegun);
    };
    context.runs.with(&owner.uid, |entry| {
        entry.sessions = Some(has_finalizer(&now) || !looks_only);
    });
    info!(export, "begins");
    Ok(job)
}

/// Whether a resource asks for the same as when it was watched.
fn is_current(watched: &EventExport, now: &EventExport) -> bool {
    let (watched, now) = (&watched.metadata, &now.metadata);
    watched.uid == now.uid && watched.generation == now.generation && now.deletion_timestamp.is_none()
}

fn is_complete(object: &EventExport) -> bool {
    turn(object) == Turn::Complete
}

/// When its bucket is listed for the first time, by what its status says of this very spec.
fn turn(object: &EventExport) -> Turn {
    let status = object.status.as_ref();
    let status = status.filter(|status| Some(status.observed_generation) == object.metadata.generation);
    let condition = |kind| find(&status?.conditions, kind).filter(|condition| condition.status == "True");
    if condition(ConditionType::Complete).is_some() {
        Turn::Complete
    } else if condition(ConditionType::Ready).is_some_and(|ready| ready.reason == Reason::CaughtUp.as_str()) {
        Turn::CaughtUp
    } else {
        Turn::Unfinished
    }
}

/// A Secret has another version: only other contents are a reason to begin again.
async fn compare_secrets(context: &Context, object: &EventExport, owner: &Owner) -> kube::Result<()> {
    let fetched = read_secrets(context, object, owner).await?;
    let other = context.runs.with(&owner.uid, |entry| {
        let other = fetched.missing.is_some() || entry.secrets.digest != fetched.digest;
        entry.afresh |= other;
        other
    });
    context.runs.read(&owner.uid, &fetched);
    if other == Some(true) {
        info!(export = %named(owner), "its Secrets have other contents; beginning again");
        context.runs.stop(&owner.uid);
    }
    Ok(())
}

/// Deletes sessions: with credentials that are still in memory, or else with those of the Secrets.
async fn release(context: &Context, object: &EventExport, owner: &Owner) -> kube::Result<()> {
    let spec = spec_digest(&object.spec);
    let kept = context.runs.with(&owner.uid, |entry| entry.job.clone()).flatten();
    let job = if let Some(job) = kept {
        job
    } else {
        let fetched = read_secrets(context, object, owner).await?;
        context.runs.read(&owner.uid, &fetched);
        let prepared = prepare(context, object, owner, fetched).await;
        context.runs.with(&owner.uid, |entry| entry.rebuilt = true);
        match prepared {
            Ok(job) => job,
            Err(failure) => {
                warn!(export = %named(owner), message = failure.message, "its sessions cannot be released");
                context.runs.unreleasable(&owner.uid, spec, failure.message);
                return Ok(());
            }
        }
    };
    info!(export = %named(owner), "deleting its sessions");
    context.runs.begin(&owner.uid, spec, Task::Release(job));
    Ok(())
}

/// Lets a deleted resource go although sessions may be open, and says so in every place where somebody may look.
async fn give_up(
    context: &Context,
    object: &EventExport,
    owner: &Owner,
) -> kube::Result<Option<EventExport>> {
    let left = context.runs.with(&owner.uid, |entry| {
        let (mut ids, why) = finalizer::remainder(entry.left.as_deref());
        if let State::Live(live) = &entry.state {
            ids.extend(
                live.seen
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
    let (ids, why) = left.unwrap_or_else(|| finalizer::remainder(None));
    let known = object
        .status
        .iter()
        .flat_map(|status| &status.sessions)
        .map(|session| session.id.clone());
    let mut ids: Vec<String> = ids.into_iter().chain(known).collect();
    ids.sort();
    ids.dedup();
    context.runs.cut_off(&owner.uid);
    warn!(export = %named(owner), sessions = ?ids, why, "deleted, but sessions may be left open at the service");
    let note = events::sessions_left(&ids, &why);
    // Before the finalizer goes: afterwards there is nothing to tell about. Not again if that write fails.
    let first = context
        .runs
        .with(&owner.uid, |entry| !std::mem::replace(&mut entry.told_left, true));
    if first == Some(true) {
        context.metrics.releases_given_up.inc();
        context
            .metrics
            .sessions_left
            .inc_by(u64::try_from(ids.len()).unwrap_or(u64::MAX));
        context.announcer.tell(object, vec![note], || true).await;
    }
    finalizer::take_away(&context.api(object), object).await
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::api::{EventExportStatus, condition};

    #[test]
    fn what_may_expire_is_looked_at_before_what_was_done() {
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
            turn(&object)
        };
        let (complete, ready) = (ConditionType::Complete, ConditionType::Ready);
        assert_eq!(with(complete, true, Reason::Complete, 2), Turn::Complete);
        assert_eq!(with(ready, true, Reason::CaughtUp, 2), Turn::CaughtUp);
        // It fails, works, or was changed since.
        for unfinished in [
            with(ready, false, Reason::CaughtUp, 2),
            with(ready, true, Reason::Exporting, 2),
            with(complete, false, Reason::Exporting, 2),
            with(complete, true, Reason::Complete, 1),
            with(ready, true, Reason::CaughtUp, 1),
        ] {
            assert_eq!(unfinished, Turn::Unfinished);
        }
        assert!(Turn::Unfinished < Turn::CaughtUp && Turn::CaughtUp < Turn::Complete);
    }
}
