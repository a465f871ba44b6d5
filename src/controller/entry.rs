//! What this process remembers of one resource. Small: a resource that rests costs no more than its entry.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use kube::runtime::reflector::ObjectRef;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::claim::OperatorContention;
use super::decide::{FinishedTask, ObservedTask, ResourceObservation, deleting_since};
use super::events::RateLimit;
use super::exporter::ExportRunner;
use super::secrets_in_use::SecretsInUse;
use super::status::owned_status;
use crate::api::{ConditionType, EventExport, EventExportSpec, EventExportStatus};
use crate::export::engine::ReleaseReport;
use crate::export::failure::Failure;
use crate::export::snapshot::Snapshot;
use crate::export::spec::ExportSpec;
use crate::telemetry::metrics::ResourceFacts;

/// Our finalizer: on a resource while sessions may be open because of it.
pub const FINALIZER: &str = "eventexport.io/sessions";

/// What is remembered of one resource.
pub(super) struct ExportEntry {
    pub(super) object: Arc<ObjectRef<EventExport>>,
    /// The newest version of it that was looked at.
    newest_version: u64,
    pub(super) state: TaskState,
    /// Whether sessions may be open; `None`: this process does not know, the finalizer does.
    pub(super) sessions: Option<bool>,
    /// The export with its credentials, while it runs or sessions may be open.
    pub(super) runner: Option<Arc<dyn ExportRunner>>,
    pub(super) secrets: SecretsInUse,
    /// The work has to begin again, whatever else is the case.
    pub(super) restart_requested: bool,
    /// It was suspended when it was last looked at.
    pub(super) suspended: bool,
    /// Failures in a row, of runs and of releases.
    pub(super) failures: u32,
    /// Errors of the API server in a row.
    pub(super) errors: u32,
    /// Why it could not begin or broke down.
    pub(super) failure: Option<Failure>,
    /// What a run left, until the status says so.
    pub(super) last: Option<(Arc<Snapshot>, Arc<ExportSpec>)>,
    /// What a release left.
    pub(super) left: Option<Box<ReleaseReport>>,
    /// The job was made anew for a release, from what the Secrets hold.
    pub(super) rebuilt: bool,
    /// Since when this process has known that it is being deleted.
    pub(super) deleting: Option<Instant>,
    /// It was told that sessions are left.
    pub(super) leftover_sessions_reported: bool,
    pub(super) written: WrittenStatus,
    /// What metrics show of it; `None`: it was not looked at yet.
    pub(super) facts: Option<Box<ResourceFacts>>,
    pub(super) rate_limit: RateLimit,
    /// Other operators that would serve it.
    pub(super) contention: OperatorContention,
}

/// What this process wrote to the status.
#[derive(Default)]
pub(super) struct WrittenStatus {
    /// What was written last, until it is seen.
    pub(super) last: Option<Box<PendingStatus>>,
    pub(super) at: Option<Instant>,
    /// The status of a resource that rests; another one is not ours.
    pub(super) idle_digest: Option<u64>,
}

/// A status on its way to the watch.
pub(super) struct PendingStatus {
    pub(super) status: EventExportStatus,
    /// The version of the resource that it was written over.
    pub(super) base_version: Option<String>,
    /// The version that came of it.
    pub(super) new_version: Option<String>,
}

/// The version of a resource. Versions are numbers that grow (KEP-5504).
fn version(object: &EventExport) -> Option<u64> {
    parse_version(object.metadata.resource_version.as_deref())
}

fn parse_version(version: Option<&str>) -> Option<u64> {
    version?.parse().ok()
}

impl PendingStatus {
    /// Whether this version of the resource is older than the write.
    pub(super) fn is_newer_than(&self, seen: Option<&str>) -> bool {
        // A write that changed nothing never comes.
        let is_coming = seen == self.base_version.as_deref() && self.new_version != self.base_version;
        is_coming
            || matches!((parse_version(seen), parse_version(self.new_version.as_deref())), (Some(seen), Some(made)) if seen < made)
    }
}

pub(super) enum TaskState {
    NotStarted,
    Running(RunningTask),
    Finished { spec: u64, result: FinishedTask },
}

/// Work under way.
pub(super) struct RunningTask {
    /// Tells this work from what came before it.
    pub(super) serial: u64,
    pub(super) kind: TaskKind,
    pub(super) spec: u64,
    pub(super) stop: CancellationToken,
    pub(super) abort: AbortHandle,
    pub(super) snapshots: watch::Receiver<Arc<Snapshot>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TaskKind {
    Export,
    Release,
}

impl ExportEntry {
    pub(super) fn new(object: Arc<ObjectRef<EventExport>>) -> Self {
        Self {
            object,
            newest_version: 0,
            state: TaskState::NotStarted,
            sessions: None,
            runner: None,
            secrets: SecretsInUse::default(),
            restart_requested: false,
            suspended: false,
            failures: 0,
            errors: 0,
            failure: None,
            last: None,
            left: None,
            rebuilt: false,
            deleting: None,
            leftover_sessions_reported: false,
            written: WrittenStatus::default(),
            facts: None,
            rate_limit: RateLimit::full(Instant::now()),
            contention: OperatorContention::default(),
        }
    }

    /// Whether nothing newer of it was looked at; from now on nothing older is.
    pub(super) fn accept_version(&mut self, object: &EventExport) -> bool {
        let version = version(object).unwrap_or(self.newest_version);
        let accepted = version >= self.newest_version;
        if accepted {
            self.newest_version = version;
        }
        accepted
    }

    /// What is there now is the newest, also where its number is lower: a cluster may be restored from a backup.
    pub(super) fn reset_version(&mut self, object: &EventExport) {
        self.newest_version = version(object).unwrap_or_default();
    }

    /// Whether that is older than what was looked at of this one.
    pub(super) fn is_newer_than(&self, object: &EventExport) -> bool {
        version(object).is_some_and(|version| version < self.newest_version)
    }

    /// What the decision needs to know.
    pub(super) fn observe(&mut self, object: &EventExport, now: Timestamp) -> ResourceObservation {
        let finalizer = has_finalizer(object);
        let resumed = self.suspended && !object.spec.suspend;
        self.suspended |= object.spec.suspend;
        let deleting = object.metadata.deletion_timestamp.as_ref().map(|at| {
            let known = self.deleting.get_or_insert_with(Instant::now).elapsed();
            let known = SignedDuration::try_from(known).unwrap_or(SignedDuration::MAX);
            deleting_since(now, at.0, known)
        });
        ResourceObservation {
            now,
            deleting,
            finalizer,
            suspended: object.spec.suspend,
            spec_digest: spec_digest(&object.spec),
            secrets_stale: self.secrets.stale,
            sessions: self.sessions.unwrap_or(finalizer),
            restart_requested: self.restart_requested || resumed || self.status_drifted(object),
            task: match &self.state {
                TaskState::NotStarted => ObservedTask::NotStarted,
                TaskState::Running(running) => match running.kind {
                    TaskKind::Export => ObservedTask::Exporting {
                        spec: running.spec,
                        stopping: running.stop.is_cancelled(),
                    },
                    TaskKind::Release => ObservedTask::Releasing,
                },
                TaskState::Finished { spec, result } => ObservedTask::Finished {
                    spec: *spec,
                    result: *result,
                },
            },
        }
    }

    /// Whether the resource rests and its status is not the one that this process left there: then nobody here knows
    /// what it should say, and the bucket is asked.
    fn status_drifted(&self, object: &EventExport) -> bool {
        matches!(
            self.state,
            TaskState::Finished {
                result: FinishedTask::Idle(_),
                ..
            }
        ) && self.last.is_none()
            && self
                .written
                .idle_digest
                .is_some_and(|ours| ours != idle_status_digest(object.status.as_ref()))
    }
}

/// Whether our finalizer is on it.
pub(super) fn has_finalizer(object: &EventExport) -> bool {
    object
        .metadata
        .finalizers
        .iter()
        .flatten()
        .any(|name| name == FINALIZER)
}

/// Tells specs apart that want different work, within this process.
pub(super) fn spec_digest(spec: &EventExportSpec) -> u64 {
    digest(&EventExportSpec {
        suspend: false,
        ..spec.clone()
    })
}

/// Tells statuses that rest apart, within this process. Conditions of others do not count, nor what is said of other
/// operators, which comes and goes meanwhile.
pub(super) fn idle_status_digest(status: Option<&EventExportStatus>) -> u64 {
    let mut status = status.map(owned_status);
    if let Some(status) = &mut status {
        let contended = ConditionType::Contended.as_str();
        status.conditions.retain(|condition| condition.type_ != contended);
    }
    digest(&status)
}

fn digest(value: &impl Serialize) -> u64 {
    let mut hasher = DefaultHasher::new();
    // Our own types have string keys only and are always JSON.
    serde_json::to_vec(value).unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_export_uses_little_memory() {
        // Beside it: two names, a UID, and the versions of at most four Secrets, below half a KiB together.
        let size = size_of::<ExportEntry>() + size_of::<ResourceFacts>();
        assert!(size <= 640, "{size}");
    }
}
