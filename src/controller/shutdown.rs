//! Orderly end of the operator: stops the runs, which delete their sessions, and writes what they left into the
//! resources, while this process still holds the Lease.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use kube::{Resource as _, ResourceExt as _};
use tokio::time::Instant;
use tracing::warn;

use super::context::ReconcileContext;
use super::decide::FinishedTask;
use super::entry::{TaskState, has_finalizer};
use super::export_name::ExportName;
use super::finalizer;
use super::installations::Ownership;
use super::kube_error::describe_error;
use super::registry::ExportRegistry;
use super::runs::Runs;
use super::status_writer::update_status;
use crate::api::EventExport;

/// Maximum resources that are written at the same time.
const MAX_CONCURRENT_WRITES: usize = 16;

/// Time for writing the resources, at most a fifth of the limit. The rest is for the runs, which need up to 20 s.
const WRITE_TIME: Duration = Duration::from_secs(3);

/// Stops all tasks, which delete their sessions. Aborts those that have not ended after `limit`.
pub(super) async fn stop_runs(registry: &ExportRegistry, runs: &Runs, limit: Duration) {
    registry.stop_all();
    let left = runs.ended(limit).await;
    if left > 0 {
        let exports = registry.running_names();
        warn!(
            left,
            exports, "exports did not stop in time, aborting (the next start cleans up)"
        );
        registry.abort_all();
    }
}

/// Stops all runs, and writes the final status of their resources. Removes the finalizer where no session is left:
/// without an operator nobody else would. `reported` waits until the registry knows how the runs ended.
pub(super) async fn finish(
    context: &Arc<ReconcileContext>,
    limit: Duration,
    reported: impl Future<Output = ()>,
) {
    let until = Instant::now() + limit;
    let stopped = context.registry.unwritten_exports();
    stop_runs(
        &context.registry,
        &context.runs,
        limit.saturating_sub(WRITE_TIME.min(limit / 5)),
    )
    .await;
    reported.await;
    let writes = futures::stream::iter(stopped).for_each_concurrent(
        MAX_CONCURRENT_WRITES,
        |name: ExportName| async move {
            let Some(object) = context.exports.get(&name) else {
                return;
            };
            if let Err(error) = write_end(context, &object).await {
                warn!(
                    export = %name,
                    error = describe_error(&error),
                    "cannot write the status at the end"
                );
            }
        },
    );
    if tokio::time::timeout_at(until, writes).await.is_err() {
        warn!("the time for the shutdown is over, some statuses are those of running exports");
    }
}

/// Writes the status of a run that ended, and removes the finalizer if it left no session.
async fn write_end(context: &ReconcileContext, watched: &EventExport) -> kube::Result<()> {
    let api = context.api(watched);
    let newest = api.get_opt(&watched.name_any()).await?;
    let Some(object) = newest.filter(|newest| newest.meta().uid == watched.meta().uid) else {
        return Ok(());
    };
    let uid = object.uid().unwrap_or_default();
    let other = |ownership: Ownership<'_>| matches!(ownership, Ownership::Other(_));
    if context.installations.with_ownership(&object, other) {
        return Ok(());
    }
    if object.metadata.deletion_timestamp.is_none() {
        // There is no later write that could wait for the interval.
        context.registry.with(&uid, |entry| {
            entry.written.at = None;
            if let TaskState::Finished { result, .. } = &mut entry.state
                && entry
                    .last_run
                    .as_ref()
                    .is_some_and(|(snapshot, _)| !snapshot.finished)
            {
                // The next operator goes on at once.
                *result = FinishedTask::Idle((context.now)());
            }
        });
        update_status(&object, None, &uid, context).await?;
    }
    let sessions = context.registry.with(&uid, |entry| entry.sessions);
    if sessions == Some(Some(false)) && has_finalizer(&object) {
        finalizer::remove(&api, &object).await?;
    }
    Ok(())
}
