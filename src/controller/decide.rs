//! Decides the action of a reconcile from the observed state of a resource. Pure: no I/O and no clock.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// Maximum time for the deletion of sessions, from the deletion of the resource.
pub const RELEASE_TIMEOUT: SignedDuration = SignedDuration::from_mins(10);

/// Minimum time for the deletion of sessions in this process, even if it starts late.
const MIN_RELEASE_TIME: SignedDuration = SignedDuration::from_mins(1);

/// Maximum backoff after a failure that may be temporary, or that gives no signal when a user has fixed it.
pub const MAX_FAILURE_BACKOFF: SignedDuration = SignedDuration::from_mins(10);

/// Maximum backoff between two tries to delete sessions, within [`RELEASE_TIMEOUT`].
pub const MAX_RELEASE_BACKOFF: SignedDuration = SignedDuration::from_mins(1);

/// Maximum time between two listings of the bucket of an idle export.
pub const RESYNC_INTERVAL: SignedDuration = SignedDuration::from_hours(25);

/// Interval between reconciles of a running export that reports no change.
pub const ACTIVE_RESYNC_INTERVAL: SignedDuration = SignedDuration::from_hours(1);

/// Observed state of a resource: the input of [`decide`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceObservation {
    /// Time of the observation.
    pub now: Timestamp,
    /// Time of the deletion, if the resource is being deleted (see [`deleting_since`]).
    pub deleting: Option<Timestamp>,
    /// True if the resource has [`FINALIZER`](super::FINALIZER).
    pub finalizer: bool,
    /// True if `spec.suspend` is set.
    pub suspended: bool,
    /// Digest of the spec without `suspend`.
    pub spec_digest: u64,
    /// True if its Secrets may have other contents than those in use.
    pub secrets_stale: bool,
    /// True if sessions of this resource may be open.
    pub sessions: bool,
    /// True if the task must restart, for example because the status is not the one that this process wrote.
    pub restart_requested: bool,
    /// Task of this process for the resource.
    pub task: ObservedTask,
}

/// State of the task of this process for a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObservedTask {
    /// No task was started yet.
    NotStarted,
    /// The task exports.
    Exporting {
        /// Digest of the spec that the task uses.
        spec: u64,
        /// True if the task can go on with the spec of the resource, which is another one.
        in_place: bool,
        /// True if the task was asked to stop.
        stopping: bool,
    },
    /// The task deletes sessions.
    Releasing,
    /// The task ended.
    Finished {
        /// Digest of the spec that the task used.
        spec: u64,
        /// Result of the task.
        result: FinishedTask,
    },
}

/// Result of a finished task, with the time of the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishedTask {
    /// Nothing to do before this time.
    Idle(Timestamp),
    /// The export goes on at this time: it retries, or waits for a peer. It may open sessions then.
    Waiting(Timestamp),
    /// The export could not start, or crashed. No retry before this time.
    Failed(Timestamp),
    /// Sessions could not be deleted. No retry before this time.
    ReleaseFailed(Timestamp),
    /// Sessions cannot be deleted, and a retry does not help.
    ReleaseImpossible,
}

impl FinishedTask {
    /// Returns the time of the next task if it is in the future. Ignores a time beyond the maximum backoff: then the
    /// clock was set back.
    fn retry_at(self, now: Timestamp) -> Option<Timestamp> {
        let (next, most) = match self {
            Self::Idle(next) | Self::Waiting(next) => (next, RESYNC_INTERVAL),
            Self::Failed(next) => (next, MAX_FAILURE_BACKOFF),
            Self::ReleaseFailed(next) => (next, MAX_RELEASE_BACKOFF),
            Self::ReleaseImpossible => return None,
        };
        (next > now && next.duration_since(now) <= most).then_some(next)
    }
}

/// Returns the time of the deletion of a resource. This process has known of it for `known`. The timestamp of the API
/// server alone is not enough: the clocks may differ, and this process may have been down.
pub fn deleting_since(now: Timestamp, by_api_server: Timestamp, known: SignedDuration) -> Timestamp {
    let longest = known
        .saturating_add(RELEASE_TIMEOUT)
        .saturating_sub(MIN_RELEASE_TIME);
    let age = now.duration_since(by_api_server).max(known).min(longest);
    now.saturating_sub(age).unwrap_or(Timestamp::MIN)
}

/// Action of a reconcile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Do nothing.
    Noop,
    /// Start the export.
    Start,
    /// Compare the contents of the Secrets with those in use, and restart the export if they differ.
    CompareSecrets,
    /// Give the newer spec to the running export.
    ApplySpec,
    /// Ask the export to stop. Its end triggers a reconcile.
    Stop,
    /// Delete the sessions.
    ReleaseSessions,
    /// Remove the finalizer: no session is open.
    RemoveFinalizer,
    /// Remove the finalizer although sessions may be open, and report that.
    AbandonCleanup,
}

/// Action of a reconcile, and the time of the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReconcileDecision {
    /// Action to execute now.
    pub action: Action,
    /// Latest time of the next reconcile. `None`: an event triggers it.
    pub requeue_at: Option<Timestamp>,
}

impl ReconcileDecision {
    const fn now(action: Action) -> Self {
        Self {
            action,
            requeue_at: None,
        }
    }

    const fn wait(until: Timestamp) -> Self {
        Self {
            action: Action::Noop,
            requeue_at: Some(until),
        }
    }

    /// Returns the delay of the next reconcile from `now`, at least one second.
    pub fn pause(&self, now: Timestamp) -> Option<Duration> {
        let pause = Duration::try_from(self.requeue_at?.duration_since(now)).unwrap_or_default();
        Some(pause.max(Duration::from_secs(1)))
    }
}

/// Decides the action for a resource.
pub fn decide(observed: &ResourceObservation) -> ReconcileDecision {
    match observed.deleting {
        Some(since) => delete(observed, since),
        None if observed.suspended => suspend(observed),
        None => export(observed),
    }
}

fn export(observed: &ResourceObservation) -> ReconcileDecision {
    let (spec, result) = match observed.task {
        ObservedTask::NotStarted => return ReconcileDecision::now(Action::Start),
        ObservedTask::Releasing | ObservedTask::Exporting { stopping: true, .. } => {
            return ReconcileDecision::now(Action::Noop);
        }
        ObservedTask::Exporting { spec, in_place, .. } if spec != observed.spec_digest => {
            let in_place = in_place && !observed.restart_requested && !observed.secrets_stale;
            return ReconcileDecision::now(if in_place { Action::ApplySpec } else { Action::Stop });
        }
        ObservedTask::Exporting { .. } if observed.secrets_stale => {
            return ReconcileDecision::now(Action::CompareSecrets);
        }
        // A waiting window may become overdue without any other change.
        ObservedTask::Exporting { .. } => {
            return ReconcileDecision::wait(
                observed
                    .now
                    .saturating_add(ACTIVE_RESYNC_INTERVAL)
                    .unwrap_or(Timestamp::MAX),
            );
        }
        ObservedTask::Finished { spec, result } => (spec, result),
    };
    if spec != observed.spec_digest || observed.restart_requested {
        return ReconcileDecision::now(Action::Start);
    }
    match result {
        FinishedTask::Idle(_) | FinishedTask::Waiting(_) if observed.secrets_stale => {
            ReconcileDecision::now(Action::CompareSecrets)
        }
        _ if observed.secrets_stale => ReconcileDecision::now(Action::Start),
        _ => match result.retry_at(observed.now) {
            // An export that waits needs it again soon.
            Some(next)
                if observed.finalizer
                    && !observed.sessions
                    && !matches!(result, FinishedTask::Waiting(_)) =>
            {
                ReconcileDecision {
                    action: Action::RemoveFinalizer,
                    requeue_at: Some(next),
                }
            }
            Some(next) => ReconcileDecision::wait(next),
            // `ReleaseImpossible` comes from a suspended or deleted export; this one was resumed.
            None => ReconcileDecision::now(Action::Start),
        },
    }
}

fn suspend(observed: &ResourceObservation) -> ReconcileDecision {
    let pause = match observed.task {
        ObservedTask::Finished {
            result: result @ (FinishedTask::ReleaseFailed(_) | FinishedTask::Failed(_)),
            ..
        } => result.retry_at(observed.now),
        _ => None,
    };
    match observed.task {
        ObservedTask::Exporting { stopping: false, .. } => ReconcileDecision::now(Action::Stop),
        ObservedTask::Exporting { .. } | ObservedTask::Releasing => ReconcileDecision::now(Action::Noop),
        _ if !observed.finalizer => ReconcileDecision::now(Action::Noop),
        _ if !observed.sessions => ReconcileDecision::now(Action::RemoveFinalizer),
        _ if pause.is_some() => ReconcileDecision {
            action: Action::Noop,
            requeue_at: pause,
        },
        // Needs manual action; a change of a Secret triggers a retry.
        ObservedTask::Finished {
            result: FinishedTask::ReleaseImpossible,
            ..
        } if !observed.secrets_stale && !observed.restart_requested => ReconcileDecision::wait(
            observed
                .now
                .saturating_add(RESYNC_INTERVAL)
                .unwrap_or(Timestamp::MAX),
        ),
        ObservedTask::NotStarted | ObservedTask::Finished { .. } => {
            ReconcileDecision::now(Action::ReleaseSessions)
        }
    }
}

fn delete(observed: &ResourceObservation, since: Timestamp) -> ReconcileDecision {
    let limit = since.saturating_add(RELEASE_TIMEOUT).unwrap_or(Timestamp::MAX);
    let late = observed.now >= limit;
    if !observed.finalizer {
        // The finalizer of another controller keeps the resource, or a user removed this one.
        return match observed.task {
            ObservedTask::Exporting { stopping: false, .. } => ReconcileDecision::now(Action::Stop),
            _ => ReconcileDecision::now(Action::Noop),
        };
    }
    match observed.task {
        ObservedTask::Exporting { stopping: false, .. } => ReconcileDecision {
            action: Action::Stop,
            requeue_at: Some(limit),
        },
        ObservedTask::Exporting { .. } | ObservedTask::Releasing if late => {
            ReconcileDecision::now(Action::AbandonCleanup)
        }
        ObservedTask::Exporting { .. } | ObservedTask::Releasing => ReconcileDecision::wait(limit),
        _ if !observed.sessions => ReconcileDecision::now(Action::RemoveFinalizer),
        _ if late => ReconcileDecision::now(Action::AbandonCleanup),
        ObservedTask::Finished {
            result: FinishedTask::ReleaseImpossible,
            ..
        } => ReconcileDecision::now(Action::AbandonCleanup),
        ObservedTask::Finished {
            result: result @ FinishedTask::ReleaseFailed(_),
            ..
        } if result.retry_at(observed.now).is_some() => ReconcileDecision::wait(
            result
                .retry_at(observed.now)
                .map_or(limit, |next| next.min(limit)),
        ),
        ObservedTask::NotStarted | ObservedTask::Finished { .. } => {
            ReconcileDecision::now(Action::ReleaseSessions)
        }
    }
}

#[cfg(test)]
mod tests;
