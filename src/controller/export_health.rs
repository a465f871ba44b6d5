//! How well an export is: what its snapshot means for `Ready`, `Complete` and `Stalled`. Pure.

use jiff::{SignedDuration, Timestamp, Unit};

use crate::api::{ConditionType, EventExportStatus};
use crate::api::{Reason, find_condition};
use crate::export::failure::{Failure, Problem, Remedy};
use crate::export::snapshot::Snapshot;
use crate::export::spec::ExportSpec;
use crate::export::window::Window;

/// How long a window may wait past the time when it could have been exported, before the export is called overdue.
/// A day: the service keeps events for days to weeks, and a window is asked for daily.
pub const OVERDUE: SignedDuration = SignedDuration::from_hours(24);

/// What a reason says, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusMessage {
    /// Why.
    pub reason: Reason,
    /// For a person.
    pub message: String,
}

/// The state of health of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportHealth {
    /// Whether credentials and bucket work, and nothing is overdue, short or lost.
    pub ready: bool,
    /// Why it is ready or not, or what it does.
    pub cause: StatusMessage,
    /// What a person is needed for.
    pub stalled: Option<StatusMessage>,
    /// Whether everything is covered or accepted, and no session is left.
    pub complete: bool,
}

/// Whether that reason goes away only when a person acts. Exhaustive, so that a new reason is thought of.
pub const fn needs_manual_action(reason: Reason) -> bool {
    match reason {
        Reason::InvalidSpec
        | Reason::CredentialsMissing
        | Reason::CredentialsRefused
        | Reason::RoleMissing
        | Reason::HostNotAllowed
        | Reason::IdentityNotGranted
        | Reason::BucketMissing
        | Reason::BucketForbidden
        | Reason::BucketFull
        | Reason::ConditionalWritesUnsupported
        | Reason::ObjectAttributesRejected
        | Reason::TooLarge
        | Reason::Short
        | Reason::EmptyUnproved
        | Reason::Expired
        | Reason::ForeignObject
        | Reason::JournalMismatch
        | Reason::SigningKeyInvalid
        | Reason::OrphanSessionSuspected => true,
        Reason::Complete
        | Reason::CaughtUp
        | Reason::Exporting
        | Reason::Accepted
        | Reason::NewGeneration
        | Reason::NotSettled
        | Reason::Suspended
        | Reason::Throttled
        | Reason::SpaceFull
        | Reason::HeldByOther
        | Reason::SessionsOpen
        | Reason::OperatorConflict
        | Reason::SourceUnreachable
        | Reason::DestinationUnreachable
        | Reason::SourceRefused
        | Reason::DestinationRefused
        | Reason::NotGzip
        | Reason::DownloadIncomplete
        | Reason::InvalidEvents
        | Reason::RangeMismatch
        | Reason::Failed => false,
    }
}

/// How much a trouble weighs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Severity {
    /// A person is needed.
    ManualAction,
    /// The export as a whole does not work at the moment.
    Degraded,
    /// It waits, or tries one window again.
    Waiting,
}

fn severity(problem: &Problem) -> Severity {
    match problem.remedy {
        Remedy::Manual => Severity::ManualAction,
        // A reason that needs a person is one whether the engine waits for them or tries again; but a single window
        // that is downloaded once more is not yet short, nor its emptiness beyond proof.
        // What ends at a known time needs nobody, and a weak store is allowed under the operator's lease.
        Remedy::Wait(None)
            if needs_manual_action(problem.reason)
                && problem.reason != Reason::ConditionalWritesUnsupported =>
        {
            Severity::ManualAction
        }
        Remedy::Retry(_) if problem.window.is_none() && needs_manual_action(problem.reason) => {
            Severity::ManualAction
        }
        Remedy::Retry(_) if problem.window.is_none() => Severity::Degraded,
        Remedy::Wait(_) if is_peer_failure(problem.reason) => Severity::Degraded,
        Remedy::Retry(_) | Remedy::Wait(_) => Severity::Waiting,
    }
}

/// Whether a peer does not do its part, which may pass: also a gateway that has lost its service for a moment refuses.
const fn is_peer_failure(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::SourceUnreachable
            | Reason::DestinationUnreachable
            | Reason::SourceRefused
            | Reason::DestinationRefused
    )
}

/// Whether a trouble is something that went wrong, rather than something to wait for.
pub fn is_error(problem: &Problem) -> bool {
    !matches!(problem.remedy, Remedy::Wait(_)) || severity(problem) != Severity::Waiting
}

/// What a snapshot means, for a resource that exists since `created`.
pub fn evaluate(
    snapshot: &Snapshot,
    export: &ExportSpec,
    created: Timestamp,
    now: Timestamp,
) -> ExportHealth {
    let stalled = first_with_severity(snapshot, Severity::ManualAction).or_else(|| expired(snapshot));
    let degraded =
        first_with_severity(snapshot, Severity::Degraded).or_else(|| overdue(snapshot, export, created, now));
    let cause = stalled.clone().or(degraded.clone());
    ExportHealth {
        ready: cause.is_none(),
        cause: cause.unwrap_or_else(|| progress(snapshot, export)),
        stalled,
        complete: snapshot.complete,
    }
}

/// What it means that an export could not begin.
pub fn blocked(failure: &Failure, previous: &EventExportStatus) -> ExportHealth {
    let cause = StatusMessage {
        reason: failure.reason,
        message: failure.message.clone(),
    };
    let manual = failure.remedy == Remedy::Manual || needs_manual_action(failure.reason);
    let complete =
        find_condition(&previous.conditions, ConditionType::Complete).is_some_and(|was| was.status == "True");
    ExportHealth {
        ready: false,
        stalled: manual.then(|| cause.clone()),
        cause,
        complete,
    }
}

fn first_with_severity(snapshot: &Snapshot, wanted: Severity) -> Option<StatusMessage> {
    let problem = snapshot
        .problems
        .iter()
        .find(|problem| severity(problem) == wanted)?;
    Some(status_message(problem))
}

fn status_message(problem: &Problem) -> StatusMessage {
    let message = match problem.window {
        Some(window) => format!("{window}: {}", problem.message),
        None => problem.message.clone(),
    };
    StatusMessage {
        reason: problem.reason,
        message,
    }
}

/// What the service no longer has is shown until a person accepts it, whatever else is going on.
fn expired(snapshot: &Snapshot) -> Option<StatusMessage> {
    const NAMED: usize = 3;
    (!snapshot.expired.is_empty()).then(|| StatusMessage {
        reason: Reason::Expired,
        message: format!(
            "the service no longer has the events of {}: nothing brings them back; accept the gap in \
             spec.acceptedGaps, with the reason",
            snapshot.expired.ranges(NAMED).join(", ")
        ),
    })
}

/// The oldest window that could have been exported long ago, if nothing is moving.
fn overdue(
    snapshot: &Snapshot,
    export: &ExportSpec,
    created: Timestamp,
    now: Timestamp,
) -> Option<StatusMessage> {
    let open = snapshot.missing.difference(&snapshot.expired);
    let open = open.difference(&export.accepted_hours(&open));
    let (day, _) = open.days().next()?;
    let window = export.window_of(day).unwrap_or(Window::day(day));
    let since = export.due_at(window).max(created);
    if snapshot.active > 0 || now.duration_since(since) < OVERDUE {
        return None;
    }
    let waits = snapshot.problems.first();
    Some(StatusMessage {
        reason: waits.map_or(Reason::Failed, |problem| problem.reason),
        message: format!(
            "{window} could have been exported since {} and was not: {}",
            format_time(since),
            waits.map_or("no reason is known, see the operator's log", |problem| &problem
                .message)
        ),
    })
}

/// What a healthy export does.
fn progress(snapshot: &Snapshot, export: &ExportSpec) -> StatusMessage {
    let Snapshot {
        wanted,
        stored,
        active,
        waiting,
        failed,
        manifest_due,
        ..
    } = snapshot;
    let counts = format!("{stored} of {wanted} windows are stored and proved");
    let (reason, message) = if snapshot.complete {
        let gaps = if stored == wanted {
            ""
        } else {
            ", the rest are accepted gaps"
        };
        (Reason::Complete, format!("{counts}{gaps}"))
    } else if *active > 0 {
        let failed = if *failed > 0 {
            format!(", {failed} to be tried again")
        } else {
            String::new()
        };
        (
            Reason::Exporting,
            format!("{counts}, {active} in transfer, {waiting} waiting{failed}"),
        )
    } else if *manifest_due
        && snapshot
            .problems
            .iter()
            .all(|problem| problem.reason == Reason::NotSettled)
    {
        (
            Reason::Exporting,
            format!("{counts}; their manifest is being written"),
        )
    } else if let Some(problem) = snapshot.problems.first() {
        let StatusMessage { reason, message } = status_message(problem);
        // What a continuous export waits for, when nothing else is left, is only the next day.
        let caught_up = reason == Reason::NotSettled
            && export.end.is_none()
            && snapshot.missing.is_empty()
            && snapshot.sessions.is_empty();
        let reason = if caught_up { Reason::CaughtUp } else { reason };
        (reason, format!("{counts}; {message}"))
    } else if !snapshot.missing.is_empty() {
        (Reason::Exporting, format!("{counts}, {waiting} waiting"))
    } else if !snapshot.sessions.is_empty() {
        (
            Reason::SessionsOpen,
            format!(
                "{counts}; {} sessions are still to be deleted",
                snapshot.sessions.len()
            ),
        )
    } else {
        let next = snapshot
            .next_run_at
            .map(|next| format!("; next look {}", format_time(next)))
            .unwrap_or_default();
        let reason = if export.end.is_none() {
            Reason::CaughtUp
        } else {
            Reason::NotSettled
        };
        (
            reason,
            format!("{counts}; the rest is not over or has not settled{next}"),
        )
    };
    let weak = snapshot
        .problems
        .iter()
        .find(|problem| problem.reason == Reason::ConditionalWritesUnsupported);
    let message = match weak {
        Some(weak) if !message.contains(&weak.message) => {
            format!("{message}. {}: {}", weak.reason, weak.message)
        }
        _ => message,
    };
    StatusMessage { reason, message }
}

/// A time as people read it, to the second.
fn format_time(at: Timestamp) -> String {
    at.round(Unit::Second).unwrap_or(at).to_string()
}
