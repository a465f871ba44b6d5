//! State of one resource in this process. Small: an idle resource costs no more than its entry.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::num::NonZero;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::decide::{FinishedTask, ObservedTask, ResourceObservation, deleting_since};
use super::events::{REFILL_INTERVAL, RateLimit};
use super::export_name::ExportName;
use super::exporter::ExportRunner;
use super::in_place::applies_in_place;
use super::installations::LeaseName;
use super::look_request::{LOOK_INTERVAL, LookRequest, requested};
use super::secrets_in_use::SecretsInUse;
use super::status::owned_status;
use super::verification::update::VerificationUpdate;
use crate::api::{ConditionType, EventExport, EventExportSpec, EventExportStatus, Reason};
use crate::export::engine::{ReleaseReport, SpecUpdate};
use crate::export::failure::Failure;
use crate::export::retry_state::RetryState;
use crate::export::session_permission::SessionGrant;
use crate::export::snapshot::Snapshot;
use crate::export::spec::ExportSpec;
use crate::telemetry::metrics::ResourceFacts;

/// Finalizer of the operator. It is on a resource while its sessions may be open.
pub const FINALIZER: &str = "eventexport.io/sessions";

/// State of one resource.
pub(super) struct ExportEntry {
    pub(super) name: ExportName,
    /// Newest version that was reconciled.
    newest_version: u64,
    pub(super) state: TaskState,
    /// True if sessions may be open. `None`: unknown to this process; the finalizer tells.
    pub(super) sessions: Option<bool>,
    /// Export with its credentials, while it runs or sessions may be open.
    pub(super) runner: Option<Arc<dyn ExportRunner>>,
    pub(super) secrets: SecretsInUse,
    /// True if the task must restart in any case.
    pub(super) restart_requested: bool,
    /// True if the resource was suspended at the last reconcile.
    pub(super) suspended: bool,
    /// Consecutive failures of runs and releases.
    pub(super) failures: u32,
    /// Consecutive failed reconciles.
    pub(super) errors: u32,
    /// Failure of an export that could not start or crashed.
    pub(super) failure: Option<Box<Failure>>,
    /// Result of the last run, until the status in the cluster shows it.
    pub(super) last_run: Option<(Arc<Snapshot>, Arc<ExportSpec>)>,
    /// Failures of the last run, which ended to wait.
    pub(super) retry_state: Option<Arc<RetryState>>,
    /// Digest of the spec that was found complete last.
    pub(super) complete_spec: Option<NonZero<u64>>,
    /// Report of a release that left sessions.
    pub(super) release_report: Option<Box<ReleaseReport>>,
    /// True if a release built the runner from the Secrets.
    pub(super) runner_rebuilt: bool,
    /// Time when this process learned of the deletion.
    pub(super) deleting: Option<Instant>,
    /// True if the leftover sessions were reported.
    pub(super) leftover_sessions_reported: bool,
    pub(super) written: WrittenStatus,
    /// Facts for metrics. `None`: not reconciled yet.
    pub(super) facts: Option<Box<ResourceFacts>>,
    pub(super) rate_limit: RateLimit,
    /// Last look that a user requested.
    pub(super) look: Option<Box<LookRequest>>,
    /// Handover from or to another installation. Empty for almost all resources.
    pub(super) handover: Option<Box<Handover>>,
    /// State of the scheduled verification, until the status in the cluster shows it.
    pub(super) verification: Option<Box<VerificationUpdate>>,
    /// True if that state was written, and the watch may not have delivered it yet.
    pub(super) verification_written: bool,
}

/// Handover of a resource between installations.
pub(super) enum Handover {
    /// The installation with this Lease serves the resource.
    ServedBy(LeaseName),
    /// This installation took the resource over then.
    TakenOver(Timestamp),
}

/// Status writes of this process.
#[derive(Default)]
pub(super) struct WrittenStatus {
    /// Last written status, until the watch delivers it.
    pub(super) pending: Option<Box<PendingStatus>>,
    pub(super) at: Option<Instant>,
    /// Digest of the status of an idle resource. Another digest means that another writer changed it.
    pub(super) idle_digest: Option<NonZero<u64>>,
    /// Digest of the status that was written last.
    pub(super) digest: Option<NonZero<u64>>,
    /// Bounds the writes that only restore what another writer changed. Two writers may never agree.
    pub(super) corrections: Option<Box<RateLimit>>,
}

impl WrittenStatus {
    /// Returns true if a write may restore what another writer changed.
    pub(super) fn may_correct(&mut self) -> bool {
        let limit = self
            .corrections
            .get_or_insert_with(|| Box::new(RateLimit::full(Instant::now())));
        limit.take(Instant::now())
    }
}

/// Written status that the watch has not delivered yet.
pub(super) struct PendingStatus {
    pub(super) status: EventExportStatus,
    /// Version over which it was written.
    pub(super) base_version: Option<String>,
    /// Version that the write created.
    pub(super) new_version: Option<String>,
}

/// Returns the version of a resource. Versions are increasing numbers (KEP-5504).
fn version(object: &EventExport) -> Option<u64> {
    parse_version(object.metadata.resource_version.as_deref())
}

fn parse_version(version: Option<&str>) -> Option<u64> {
    version?.parse().ok()
}

impl PendingStatus {
    /// Returns true if the write is newer than the version `seen`.
    pub(super) fn is_newer_than(&self, seen: Option<&str>) -> bool {
        // A write without a change creates no version, so the watch never delivers it.
        let expected = seen == self.base_version.as_deref() && self.new_version != self.base_version;
        expected
            || matches!((parse_version(seen), parse_version(self.new_version.as_deref())), (Some(seen), Some(made)) if seen < made)
    }
}

pub(super) enum TaskState {
    NotStarted,
    /// An export waits for its place to start. Small: after a restart thousands wait.
    Queued {
        serial: u64,
        /// Digest of the spec with which it starts.
        spec: u64,
        /// Dropping it gives up the wait.
        _wait: AbortOnDropHandle<()>,
    },
    /// Boxed: idle resources are many.
    Running(Box<RunningTask>),
    Finished {
        spec: u64,
        result: FinishedTask,
    },
}

/// Task that runs for a resource.
pub(super) struct RunningTask {
    /// Identifies the task among all tasks of the process.
    pub(super) serial: u64,
    pub(super) kind: TaskKind,
    /// Digest of the spec of `object`.
    pub(super) spec: u64,
    /// Version of the resource that it works for.
    pub(super) object: Arc<EventExport>,
    pub(super) stop: CancellationToken,
    /// Number of the last look that was requested from it.
    pub(super) look: watch::Sender<u64>,
    /// Last newer spec that was sent to it.
    pub(super) updates: watch::Sender<SpecUpdate>,
    /// Grants it the permission to open sessions.
    pub(super) sessions: SessionGrant,
    pub(super) abort: AbortHandle,
    pub(super) snapshots: watch::Receiver<Arc<Snapshot>>,
}

impl RunningTask {
    /// Returns true if the task took the last newer spec over, as its snapshot shows.
    pub(super) fn has_applied(&self, snapshot: &Snapshot) -> bool {
        snapshot.applied == self.updates.borrow().number
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TaskKind {
    Export,
    Release,
}

impl ExportEntry {
    pub(super) fn new(name: ExportName) -> Self {
        Self {
            name,
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
            last_run: None,
            retry_state: None,
            complete_spec: None,
            release_report: None,
            runner_rebuilt: false,
            deleting: None,
            leftover_sessions_reported: false,
            written: WrittenStatus::default(),
            facts: None,
            rate_limit: RateLimit::full(Instant::now()),
            look: None,
            handover: None,
            verification: None,
            verification_written: false,
        }
    }

    /// Forgets what the last run left, except for what the next one takes over.
    pub(super) fn reset_for_run(&mut self) {
        self.restart_requested = false;
        if let Some(look) = &mut self.look {
            // The new run lists the bucket anyway.
            look.number = 0;
        }
        self.suspended = false;
        (self.last_run, self.release_report, self.runner_rebuilt) = (None, None, false);
        self.failure = None;
    }

    /// Asks the task to stop. One that waits for its start is removed at once.
    pub(super) fn stop(&mut self) {
        match &self.state {
            TaskState::Running(running) => running.stop.cancel(),
            TaskState::Queued { .. } => self.state = TaskState::NotStarted,
            TaskState::NotStarted | TaskState::Finished { .. } => {}
        }
    }

    /// Aborts the task.
    pub(super) fn abort(&mut self) {
        self.stop();
        if let TaskState::Running(running) = &self.state {
            running.abort.abort();
        }
    }

    /// Takes the failures with which the last run ended to wait, if it had the spec of `object`. A user who changed
    /// something, or asks for it, ends the waits.
    pub(super) fn take_retry_state(
        &mut self,
        object: &EventExport,
        now: Timestamp,
    ) -> Option<Arc<RetryState>> {
        let mut retry_state = self.retry_state.take()?;
        let TaskState::Finished { spec, .. } = self.state else {
            return None;
        };
        if spec != spec_digest(&object.spec) {
            return None;
        }
        if self.restart_requested || self.suspended || self.secrets.stale {
            Arc::make_mut(&mut retry_state).retry_all(now);
        }
        Some(retry_state)
    }

    /// Returns true if this version is not older than the newest reconciled one, and records it as the newest.
    pub(super) fn accept_version(&mut self, object: &EventExport) -> bool {
        let version = version(object).unwrap_or(self.newest_version);
        let accepted = version >= self.newest_version;
        if accepted {
            self.newest_version = version;
        }
        accepted
    }

    /// Records this version as the newest, even if its number is lower: a cluster may be restored from a backup.
    pub(super) fn reset_version(&mut self, object: &EventExport) {
        self.newest_version = version(object).unwrap_or_default();
    }

    /// Returns true if `object` is older than the newest reconciled version.
    pub(super) fn is_newer_than(&self, object: &EventExport) -> bool {
        version(object).is_some_and(|version| version < self.newest_version)
    }

    /// Returns true if its last failure is that the operator denies a host or its own identity.
    pub(super) fn was_denied(&self) -> bool {
        let denied = |reason| matches!(reason, Reason::HostNotAllowed | Reason::IdentityNotGranted);
        let in_run = match &self.state {
            TaskState::Running(running) => {
                let snapshot = running.snapshots.borrow();
                snapshot.problems.iter().any(|problem| denied(problem.reason))
            }
            TaskState::NotStarted | TaskState::Queued { .. } | TaskState::Finished { .. } => false,
        };
        let waiting = self.retry_state.as_ref();
        let waiting = waiting.and_then(|state| state.export_backoff.as_ref());
        let failures = self.failure.as_deref().into_iter();
        let mut failures = failures.chain(waiting.map(|entry| &entry.failure));
        in_run || failures.any(|failure| denied(failure.reason))
    }

    /// Returns true if another installation serves the resource.
    pub(super) fn served_by_other(&self) -> bool {
        matches!(self.handover.as_deref(), Some(Handover::ServedBy(_)))
    }

    /// Takes a request to look now: a running export lists its bucket again, and an idle one starts.
    pub(super) fn take_request(&mut self, object: &EventExport) {
        let Some(value) = self.new_request(object) else {
            return;
        };
        if self
            .look
            .as_ref()
            .is_some_and(|last| last.taken_at.elapsed() < LOOK_INTERVAL)
        {
            return;
        }
        let mut number = 0;
        match &self.state {
            TaskState::Running(running) if running.kind == TaskKind::Export => {
                running.look.send_modify(|last| {
                    *last += 1;
                    number = *last;
                });
            }
            _ => (self.restart_requested, self.failures) = (true, 0),
        }
        self.look = Some(Box::new(LookRequest {
            value: value.into(),
            number,
            taken_at: Instant::now(),
        }));
    }

    /// Returns the time until a newer request may be taken; `None`: there is none.
    pub(super) fn look_pause(&self, object: &EventExport) -> Option<Duration> {
        let last = self.look.as_ref()?;
        self.new_request(object)?;
        let left = LOOK_INTERVAL.saturating_sub(last.taken_at.elapsed());
        Some(left.max(Duration::from_secs(1)))
    }

    /// Returns the requested value that was not taken yet. A suspended export takes none.
    fn new_request(&self, object: &EventExport) -> Option<String> {
        let value = requested(object).filter(|_| !object.spec.suspend)?;
        let taken = self.look.as_ref().is_some_and(|last| *last.value == *value);
        (!taken).then_some(value)
    }

    /// Returns the time until the status may be restored again; `None`: another writer does not keep changing it.
    pub(super) fn correction_pause(&self) -> Option<Duration> {
        let limit = self.written.corrections.as_ref()?;
        limit.is_empty(Instant::now()).then_some(REFILL_INTERVAL)
    }

    /// Returns the input of the decision.
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
                TaskState::Queued { spec, .. } => ObservedTask::Exporting {
                    spec: *spec,
                    in_place: false,
                    stopping: false,
                },
                TaskState::Running(running) => match running.kind {
                    TaskKind::Export => ObservedTask::Exporting {
                        spec: running.spec,
                        in_place: running.spec != spec_digest(&object.spec)
                            && running.snapshots.borrow().observed
                            && applies_in_place(&running.object.spec, &object.spec),
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

    /// Returns true if the resource is idle and another writer changed its status. The export then restarts, because
    /// this process keeps no copy of the status and must list the bucket.
    fn status_drifted(&self, object: &EventExport) -> bool {
        matches!(
            self.state,
            TaskState::Finished {
                result: FinishedTask::Idle(_) | FinishedTask::Waiting(_),
                ..
            }
        ) && self.last_run.is_none()
            && self
                .written
                .idle_digest
                .is_some_and(|written| written != idle_status_digest(object.status.as_ref()))
            && !self
                .written
                .corrections
                .as_ref()
                .is_some_and(|limit| limit.is_empty(Instant::now()))
    }
}

/// Returns true if the resource has [`FINALIZER`].
pub(super) fn has_finalizer(object: &EventExport) -> bool {
    object
        .metadata
        .finalizers
        .iter()
        .flatten()
        .any(|name| name == FINALIZER)
}

/// Returns a digest of the spec without what does not concern its runs (`suspend`, `verification`), valid within this
/// process.
pub(super) fn spec_digest(spec: &EventExportSpec) -> u64 {
    let digest = digest(&EventExportSpec {
        suspend: false,
        verification: None,
        ..spec.clone()
    });
    digest.get()
}

/// Returns a digest of the status of an idle resource, valid within this process. It excludes what may change meanwhile
/// (`Contended`, `Verified` and the verification), and conditions of other writers.
pub(super) fn idle_status_digest(status: Option<&EventExportStatus>) -> NonZero<u64> {
    let mut status = status.map(owned_status);
    if let Some(status) = &mut status {
        let optional = ConditionType::OPTIONAL.map(ConditionType::as_str);
        let is_optional = |kind: &str| optional.contains(&kind);
        status
            .conditions
            .retain(|condition| !is_optional(&condition.type_));
        status.verification = None;
    }
    digest(&status)
}

/// Returns a digest of a value, valid within this process. Never 0, so that an optional digest takes no more memory.
pub(super) fn digest(value: &impl Serialize) -> NonZero<u64> {
    let mut hasher = DefaultHasher::new();
    // Cannot fail: these types have string keys only.
    serde_json::to_vec(value).unwrap_or_default().hash(&mut hasher);
    NonZero::new(hasher.finish()).unwrap_or(NonZero::<u64>::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_run_goes_on_with_the_backoff_unless_a_user_changed_something() {
        let now = Timestamp::from_second(1_528_500_000).unwrap();
        let spec = serde_json::json!({
            "space": "s", "dateRange": {"start": "2018-06-01"},
            "source": {"region": "ng", "credentialsSecretRef": {"name": "tracker"}},
            "destination": {"s3": {"bucket": "audit"}},
        });
        let object = EventExport::new("june", serde_json::from_value(spec).unwrap());
        let mut failed = RetryState::default();
        failed.record_export_failure(Failure::retry(Reason::SourceUnreachable, "no reply"), now, 1.0);
        let retry_at = failed.export_backoff.as_ref().unwrap().retry_at;
        assert!(retry_at > now);
        let taken = |change: &dyn Fn(&mut ExportEntry)| {
            let mut entry = ExportEntry::new(ExportName::of(&object));
            entry.state = TaskState::Finished {
                spec: spec_digest(&object.spec),
                result: FinishedTask::Waiting(retry_at),
            };
            entry.retry_state = Some(Arc::new(failed.clone()));
            change(&mut entry);
            let taken = entry.take_retry_state(&object, now);
            assert!(entry.retry_state.is_none());
            taken.map(|state| state.export_backoff.as_ref().unwrap().retry_at)
        };
        assert_eq!(taken(&|_| {}), Some(retry_at));
        assert_eq!(taken(&|entry| entry.restart_requested = true), Some(now));
        assert_eq!(taken(&|entry| entry.suspended = true), Some(now));
        assert_eq!(taken(&|entry| entry.secrets.stale = true), Some(now));
        let other_spec = |entry: &mut ExportEntry| {
            entry.state = TaskState::Finished {
                spec: 1,
                result: FinishedTask::Waiting(retry_at),
            };
        };
        assert_eq!(taken(&other_spec), None);
    }

    #[test]
    fn an_idle_export_uses_little_memory() {
        // In addition: two names, a UID, and 24 bytes for each of at most five Secrets, together below 0.5 KiB.
        let size = size_of::<ExportEntry>() + size_of::<ResourceFacts>();
        assert!(size <= 480, "{size}");
    }
}
