//! What the operator does with one resource, given what it knows of it. Pure: no I/O and no clock.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// How long sessions of a deleted resource are tried to be released, from its deletion on.
pub const RELEASE_TIMEOUT: SignedDuration = SignedDuration::from_mins(10);

/// How long this process tries that at least, also if it comes late.
const MIN_RELEASE_TIME: SignedDuration = SignedDuration::from_mins(1);

/// Longest pause after a failure that may go away by itself, or for which nothing tells that a person mended it.
pub const MAX_FAILURE_BACKOFF: SignedDuration = SignedDuration::from_mins(10);

/// Longest pause between two tries to release sessions: there are ten minutes in all.
pub const MAX_RELEASE_BACKOFF: SignedDuration = SignedDuration::from_mins(1);

/// The longest that a resource is left alone: then its bucket is listed again.
pub const RESYNC_INTERVAL: SignedDuration = SignedDuration::from_hours(24);

/// How often an export that is under way is looked at when it says nothing.
pub const ACTIVE_RESYNC_INTERVAL: SignedDuration = SignedDuration::from_hours(1);

/// What is known of a resource at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceObservation {
    /// The moment.
    pub now: Timestamp,
    /// Since when it is being deleted.
    pub deleting: Option<Timestamp>,
    /// Whether our finalizer is on it.
    pub finalizer: bool,
    /// Whether a person suspended it.
    pub suspended: bool,
    /// What its spec asks for, as a digest; `suspend` does not count.
    pub spec_digest: u64,
    /// Whether its Secrets may have other contents than those in use.
    pub secrets_stale: bool,
    /// Whether sessions may be open because of it.
    pub sessions: bool,
    /// Whether its status is not what this process wrote, or the work has to begin again for another reason.
    pub restart_requested: bool,
    /// What this process does, or did, for it.
    pub task: ObservedTask,
}

/// What this process does, or did, for a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObservedTask {
    /// Nothing yet.
    NotStarted,
    /// It exports, by the spec of this digest.
    Exporting {
        /// The digest.
        spec: u64,
        /// Whether it was told to stop.
        stopping: bool,
    },
    /// It deletes sessions.
    Releasing,
    /// It did something, which ended.
    Finished {
        /// What it did was by the spec of this digest.
        spec: u64,
        /// How it ended.
        result: FinishedTask,
    },
}

/// How work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishedTask {
    /// There is nothing to do before that time.
    Idle(Timestamp),
    /// It could not begin, or broke down: not again before that time.
    Failed(Timestamp),
    /// Sessions could not be deleted: not again before that time.
    ReleaseFailed(Timestamp),
    /// Sessions cannot be deleted, and trying again would not help.
    ReleaseImpossible,
}

impl FinishedTask {
    /// When to go on, if that is still to come. A time further away than any pause is not: the clock was set back.
    fn retry_at(self, now: Timestamp) -> Option<Timestamp> {
        let (next, most) = match self {
            Self::Idle(next) => (next, RESYNC_INTERVAL),
            Self::Failed(next) => (next, MAX_FAILURE_BACKOFF),
            Self::ReleaseFailed(next) => (next, MAX_RELEASE_BACKOFF),
            Self::ReleaseImpossible => return None,
        };
        (next > now && next.duration_since(now) <= most).then_some(next)
    }
}

/// Since when a resource counts as being deleted, of which this process has known for `known`. The API server's word
/// alone would not do: its clock may be another, and this process may have been away.
pub fn deleting_since(now: Timestamp, by_api_server: Timestamp, known: SignedDuration) -> Timestamp {
    let longest = known
        .saturating_add(RELEASE_TIMEOUT)
        .saturating_sub(MIN_RELEASE_TIME);
    let age = now.duration_since(by_api_server).max(known).min(longest);
    now.saturating_sub(age).unwrap_or(Timestamp::MIN)
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Noop,
    /// Begin to export.
    Start,
    /// Compare the contents of the Secrets with those in use; where they differ, begin again.
    CompareSecrets,
    /// Tell the export to stop; its end wakes us.
    Stop,
    /// Delete the sessions.
    ReleaseSessions,
    /// Take our finalizer away: no session is open.
    RemoveFinalizer,
    /// Take our finalizer away although sessions may be open, and say so.
    AbandonCleanup,
}

/// What is to be done now, and when to look again at the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReconcileDecision {
    /// What is to be done now.
    pub action: Action,
    /// When to look again, should nothing wake us before; `None`: something will.
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

    /// How long to wait from `now`, at least a second.
    pub fn pause(&self, now: Timestamp) -> Option<Duration> {
        let pause = Duration::try_from(self.requeue_at?.duration_since(now)).unwrap_or_default();
        Some(pause.max(Duration::from_secs(1)))
    }
}

/// What to do.
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
        ObservedTask::Exporting { spec, .. } if spec != observed.spec_digest => {
            return ReconcileDecision::now(Action::Stop);
        }
        ObservedTask::Exporting { .. } if observed.secrets_stale => {
            return ReconcileDecision::now(Action::CompareSecrets);
        }
        // What waits may become overdue without anything else happening.
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
        FinishedTask::Idle(_) if observed.secrets_stale => ReconcileDecision::now(Action::CompareSecrets),
        _ if observed.secrets_stale => ReconcileDecision::now(Action::Start),
        _ => match result.retry_at(observed.now) {
            Some(next) if observed.finalizer && !observed.sessions => ReconcileDecision {
                action: Action::RemoveFinalizer,
                requeue_at: Some(next),
            },
            Some(next) => ReconcileDecision::wait(next),
            // What cannot be released was suspended when that was found out; it no longer is.
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
        // Only a person can help; a change of the Secret or the spec wakes us, and a day's time.
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
        // Somebody else's finalizer keeps it, or a person took ours away.
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
