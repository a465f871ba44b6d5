//! Health of an export: derives `Ready`, `Complete` and `Stalled` from its snapshot. No I/O.

use jiff::{SignedDuration, Timestamp, Unit};

use crate::api::{ConditionType, EventExportStatus};
use crate::api::{Reason, SettingNames, find_condition};
use crate::archive::window::Window;
use crate::export::failure::{Failure, Problem, RetryClass};
use crate::export::snapshot::Snapshot;
use crate::export::spec::ExportSpec;

/// Time after which a due window makes the export overdue: 24 h. The service keeps events for days to weeks.
pub const OVERDUE: SignedDuration = SignedDuration::from_hours(24);

/// A reason with its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusMessage {
    /// The reason.
    pub reason: Reason,
    /// The object at fault, the cause and the remedy.
    pub message: String,
}

/// Health of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportHealth {
    /// True if credentials and bucket work, and nothing is overdue, short or expired.
    pub ready: bool,
    /// Cause of `ready`, or the progress.
    pub cause: StatusMessage,
    /// Set if the export needs manual action.
    pub stalled: Option<StatusMessage>,
    /// True if every window is covered or accepted, and no session is left.
    pub complete: bool,
}

/// Returns true if the reason persists until somebody acts. Exhaustive, so that each new reason is considered.
pub const fn needs_manual_action(reason: Reason) -> bool {
    match reason {
        Reason::InvalidSpec
        | Reason::CredentialsMissing
        | Reason::CredentialsRefused
        | Reason::RoleMissing
        | Reason::HostNotAllowed
        | Reason::IdentityNotGranted
        | Reason::BucketMissing
        | Reason::BucketInOtherRegion
        | Reason::BucketForbidden
        | Reason::BucketFull
        | Reason::ConditionalWritesUnsupported
        | Reason::ObjectAttributesRejected
        | Reason::TooLarge
        | Reason::Short
        | Reason::DayChanged
        | Reason::EmptyUnproved
        | Reason::Expired
        | Reason::ForeignObject
        | Reason::ArchiveTooLarge
        | Reason::SourceMismatch
        | Reason::ObjectMissing
        | Reason::ObjectSizeMismatch
        | Reason::ObjectArchived
        | Reason::EventsUncounted
        | Reason::ReceiptUnreadable
        | Reason::UnsupportedSchema
        | Reason::SigningKeyInvalid
        | Reason::ManifestMissing
        | Reason::SignatureInvalid
        | Reason::ReceiptUnsigned
        | Reason::OrphanSessionSuspected
        | Reason::NotProved => true,
        Reason::Complete
        | Reason::CaughtUp
        | Reason::Exporting
        | Reason::Accepted
        | Reason::NewGeneration
        | Reason::NotSettled
        | Reason::NotListedYet
        | Reason::Suspended
        | Reason::Throttled
        | Reason::SpaceFull
        | Reason::SessionRefused
        | Reason::HeldByOther
        | Reason::SessionsOpen
        | Reason::OperatorConflict
        | Reason::SourceUnreachable
        | Reason::DestinationUnreachable
        | Reason::ListingIncomplete
        | Reason::SourceRefused
        | Reason::DestinationRefused
        | Reason::NotGzip
        | Reason::DownloadIncomplete
        | Reason::RangeMismatch
        | Reason::TransferSlow
        | Reason::Proved
        | Reason::NotVerifiedYet
        | Reason::VerificationFailed
        | Reason::TimestampMissing
        | Reason::ReportNotWritten
        | Reason::Failed => false,
    }
}

/// Severity of a problem.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Severity {
    /// Needs manual action.
    ManualAction,
    /// The export as a whole does not work now.
    Degraded,
    /// The export waits, or retries one window.
    Waiting,
}

fn severity(problem: &Problem) -> Severity {
    match problem.class {
        RetryClass::Manual => Severity::ManualAction,
        // A reason that needs manual action does so whether the engine waits or retries. Exceptions: a single window
        // that is downloaded once more is not short yet, a wait with a known end needs nobody, and a store without
        // conditional writes is allowed under the lease of the operator.
        RetryClass::Wait(None)
            if needs_manual_action(problem.reason)
                && problem.reason != Reason::ConditionalWritesUnsupported =>
        {
            Severity::ManualAction
        }
        RetryClass::Retry(_) if problem.window.is_none() && needs_manual_action(problem.reason) => {
            Severity::ManualAction
        }
        RetryClass::Retry(_) if problem.window.is_none() => Severity::Degraded,
        RetryClass::Wait(_) if is_peer_failure(problem.reason) => Severity::Degraded,
        RetryClass::Retry(_) | RetryClass::Wait(_) => Severity::Waiting,
    }
}

/// Returns true for failures of a peer, which may pass: a gateway that lost its service also rejects requests.
const fn is_peer_failure(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::SourceUnreachable
            | Reason::DestinationUnreachable
            | Reason::ListingIncomplete
            | Reason::SourceRefused
            | Reason::SessionRefused
            | Reason::DestinationRefused
    )
}

/// Returns the first failure that is no wait, else the lack of what nothing waits for.
pub fn first_error(problems: &[Problem]) -> Option<&Problem> {
    let is_error = |problem: &&Problem| {
        let waits = matches!(problem.class, RetryClass::Wait(_)) && severity(problem) == Severity::Waiting;
        !waits && !delays_nothing(problem.reason)
    };
    let lacks = || problems.iter().find(|problem| delays_nothing(problem.reason));
    problems.iter().find(is_error).or_else(lacks)
}

/// Evaluates a snapshot of a resource that was created at `created`.
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

/// Health of an export that cannot start.
pub fn blocked(failure: &Failure, previous: &EventExportStatus) -> ExportHealth {
    let cause = StatusMessage {
        reason: failure.reason,
        message: failure.describe(&SettingNames::default()),
    };
    let manual = failure.class == RetryClass::Manual || needs_manual_action(failure.reason);
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

/// Expired windows stay visible until the spec accepts them, whatever else happens.
fn expired(snapshot: &Snapshot) -> Option<StatusMessage> {
    const NAMED: usize = 3;
    (!snapshot.expired.is_empty()).then(|| StatusMessage {
        reason: Reason::Expired,
        message: format!(
            "the service no longer has the events of {}, they cannot be recovered: accept the gap in \
             spec.acceptedGaps with a reason",
            snapshot.expired.ranges(NAMED).join(", ")
        ),
    })
}

/// The oldest overdue window, if nothing is in transfer.
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
    let waits = first_wait(snapshot);
    Some(StatusMessage {
        reason: waits.map_or(Reason::Failed, |problem| problem.reason),
        message: format!(
            "{window} is due since {} and not exported: {}",
            format_time(since),
            waits.map_or("the cause is unknown, see the log of the operator", |problem| {
                &problem.message
            })
        ),
    })
}

/// Progress of a healthy export.
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
    } else if *active == 0 && !snapshot.grown.is_empty() && first_wait(snapshot).is_none() {
        let days = snapshot.grown.len();
        (
            Reason::Exporting,
            format!("{counts}; {days} days have late events, which are downloaded"),
        )
    } else if *active > 0 {
        let failed = if *failed > 0 {
            format!(", {failed} need manual action")
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
            .all(|problem| problem.reason == Reason::NotSettled || delays_nothing(problem.reason))
    {
        (
            Reason::Exporting,
            format!("{counts}; their manifest is being written"),
        )
    } else if let Some(problem) = first_wait(snapshot) {
        let StatusMessage { reason, message } = status_message(problem);
        // A continuous export with nothing else left waits for the next day only.
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
                "{counts}; {} sessions remain to be deleted",
                snapshot.sessions.len()
            ),
        )
    } else {
        let next = snapshot
            .next_run_at
            .map(|next| format!("; next run at {}", format_time(next)))
            .unwrap_or_default();
        let reason = if export.end.is_none() {
            Reason::CaughtUp
        } else {
            Reason::NotSettled
        };
        (
            reason,
            format!("{counts}; the rest has not ended or settled{next}"),
        )
    };
    let notices = snapshot.problems.iter().filter(|problem| is_notice(problem));
    let message = notices.fold(message, |message, problem| {
        if message.contains(&problem.message) {
            return message;
        }
        format!("{message}. {}: {}", problem.reason, problem.message)
    });
    StatusMessage { reason, message }
}

/// True for a problem that the message of a healthy export states beside its progress.
fn is_notice(problem: &Problem) -> bool {
    problem.reason == Reason::ConditionalWritesUnsupported || delays_nothing(problem.reason)
}

/// True for the lack of what nothing waits for: a time stamp, a report.
pub const fn delays_nothing(reason: Reason) -> bool {
    matches!(reason, Reason::TimestampMissing | Reason::ReportNotWritten)
}

/// Returns the first problem that the export as a whole waits for.
fn first_wait(snapshot: &Snapshot) -> Option<&Problem> {
    let mut problems = snapshot.problems.iter();
    problems.find(|problem| !delays_nothing(problem.reason))
}

/// Formats a time to the second.
fn format_time(at: Timestamp) -> String {
    at.round(Unit::Second).unwrap_or(at).to_string()
}
