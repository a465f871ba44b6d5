//! How well an export is: what its snapshot means for `Ready`, `Complete` and `Stalled`. Pure.

use jiff::{SignedDuration, Timestamp, Unit};

use crate::api::{ConditionType, EventExportStatus};
use crate::api::{Reason, find};
use crate::export::failure::{Failure, Remedy, Trouble};
use crate::export::snapshot::Snapshot;
use crate::export::window::Window;
use crate::export::wish::Export;

/// How long a window may wait past the time when it could have been exported, before the export is called overdue.
/// A day: the service keeps events for days to weeks, and a window is asked for daily.
pub const OVERDUE: SignedDuration = SignedDuration::from_hours(24);

/// What a reason says, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Why.
    pub reason: Reason,
    /// For a person.
    pub message: String,
}

/// The state of health of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Whether credentials and bucket work, and nothing is overdue, short or lost.
    pub ready: bool,
    /// Why it is ready or not, or what it does.
    pub said: Said,
    /// What a person is needed for.
    pub stalled: Option<Said>,
    /// Whether everything is covered or accepted, and no session is left.
    pub complete: bool,
}

/// Whether that reason goes away only when a person acts. Exhaustive, so that a new reason is thought of.
pub const fn needs_person(reason: Reason) -> bool {
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
        | Reason::DestinationWeak
        | Reason::LockRefused
        | Reason::TooLarge
        | Reason::Short
        | Reason::EmptyUnproved
        | Reason::Expired
        | Reason::ForeignObject
        | Reason::JournalMismatch
        | Reason::SigningKeyInvalid
        | Reason::SessionUnaccounted => true,
        Reason::Complete
        | Reason::CaughtUp
        | Reason::Exporting
        | Reason::Accepted
        | Reason::NewGeneration
        | Reason::NotSettled
        | Reason::Suspended
        | Reason::Throttled
        | Reason::SpaceFull
        | Reason::HeldBy
        | Reason::SessionsOpen
        | Reason::TwoOperators
        | Reason::SourceUnreachable
        | Reason::DestinationUnreachable
        | Reason::SourceRefused
        | Reason::DestinationRefused
        | Reason::NotGzip
        | Reason::NotWhole
        | Reason::NotEvents
        | Reason::RangeMismatch
        | Reason::Failed => false,
    }
}

/// How much a trouble weighs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weight {
    /// A person is needed.
    Person,
    /// The export as a whole does not work at the moment.
    Ill,
    /// It waits, or tries one window again.
    Waits,
}

fn weigh(trouble: &Trouble) -> Weight {
    match trouble.remedy {
        Remedy::Person => Weight::Person,
        // A reason that needs a person is one whether the engine waits for them or tries again; but a single window
        // that is downloaded once more is not yet short, nor its emptiness beyond proof.
        // What ends at a known time needs nobody, and a weak store is allowed under the operator's lease.
        Remedy::Wait(None) if needs_person(trouble.reason) && trouble.reason != Reason::DestinationWeak => {
            Weight::Person
        }
        Remedy::Retry(_) if trouble.window.is_none() && needs_person(trouble.reason) => Weight::Person,
        Remedy::Retry(_) if trouble.window.is_none() => Weight::Ill,
        Remedy::Wait(_) if fails_outside(trouble.reason) => Weight::Ill,
        Remedy::Retry(_) | Remedy::Wait(_) => Weight::Waits,
    }
}

/// Whether a peer does not do its part, which may pass: also a gateway that has lost its service for a moment refuses.
const fn fails_outside(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::SourceUnreachable
            | Reason::DestinationUnreachable
            | Reason::SourceRefused
            | Reason::DestinationRefused
    )
}

/// Whether a trouble is something that went wrong, rather than something to wait for.
pub fn is_error(trouble: &Trouble) -> bool {
    !matches!(trouble.remedy, Remedy::Wait(_)) || weigh(trouble) != Weight::Waits
}

/// What a snapshot means, for a resource that exists since `created`.
pub fn judge(snapshot: &Snapshot, export: &Export, created: Timestamp, now: Timestamp) -> Judgement {
    let stalled = first(snapshot, Weight::Person).or_else(|| expired(snapshot));
    let ill = first(snapshot, Weight::Ill).or_else(|| overdue(snapshot, export, created, now));
    let said = stalled.clone().or(ill.clone());
    Judgement {
        ready: said.is_none(),
        said: said.unwrap_or_else(|| progress(snapshot, export)),
        stalled,
        complete: snapshot.complete,
    }
}

/// What it means that an export could not begin.
pub fn blocked(failure: &Failure, previous: &EventExportStatus) -> Judgement {
    let said = Said {
        reason: failure.reason,
        message: failure.message.clone(),
    };
    let person = failure.remedy == Remedy::Person || needs_person(failure.reason);
    let complete =
        find(&previous.conditions, ConditionType::Complete).is_some_and(|was| was.status == "True");
    Judgement {
        ready: false,
        stalled: person.then(|| said.clone()),
        said,
        complete,
    }
}

fn first(snapshot: &Snapshot, weight: Weight) -> Option<Said> {
    let trouble = snapshot
        .troubles
        .iter()
        .find(|trouble| weigh(trouble) == weight)?;
    Some(said(trouble))
}

fn said(trouble: &Trouble) -> Said {
    let message = match trouble.window {
        Some(window) => format!("{window}: {}", trouble.message),
        None => trouble.message.clone(),
    };
    Said {
        reason: trouble.reason,
        message,
    }
}

/// What the service no longer has is shown until a person accepts it, whatever else is going on.
fn expired(snapshot: &Snapshot) -> Option<Said> {
    const NAMED: usize = 3;
    (!snapshot.expired.is_empty()).then(|| Said {
        reason: Reason::Expired,
        message: format!(
            "the service no longer has the events of {}: nothing brings them back; accept the gap in \
             spec.acceptedGaps, with the reason",
            snapshot.expired.ranges(NAMED).join(", ")
        ),
    })
}

/// The oldest window that could have been exported long ago, if nothing is moving.
fn overdue(snapshot: &Snapshot, export: &Export, created: Timestamp, now: Timestamp) -> Option<Said> {
    let open = snapshot.missing.minus(&snapshot.expired);
    let open = open.minus(&export.accepted_cells(&open));
    let (day, _) = open.days().next()?;
    let window = export.window_of(day).unwrap_or(Window::day(day));
    let since = export.settled_at(window).max(created);
    if snapshot.active > 0 || now.duration_since(since) < OVERDUE {
        return None;
    }
    let waits = snapshot.troubles.first();
    Some(Said {
        reason: waits.map_or(Reason::Failed, |trouble| trouble.reason),
        message: format!(
            "{window} could have been exported since {} and was not: {}",
            time(since),
            waits.map_or("no reason is known, see the operator's log", |trouble| &trouble
                .message)
        ),
    })
}

/// What a healthy export does.
fn progress(snapshot: &Snapshot, export: &Export) -> Said {
    let Snapshot {
        wanted,
        stored,
        active,
        waiting,
        failed,
        sealing,
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
    } else if *sealing
        && snapshot
            .troubles
            .iter()
            .all(|trouble| trouble.reason == Reason::NotSettled)
    {
        (
            Reason::Exporting,
            format!("{counts}; their manifest is being written"),
        )
    } else if let Some(trouble) = snapshot.troubles.first() {
        let Said { reason, message } = said(trouble);
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
            .next_look
            .map(|next| format!("; next look {}", time(next)))
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
        .troubles
        .iter()
        .find(|trouble| trouble.reason == Reason::DestinationWeak);
    let message = match weak {
        Some(weak) if !message.contains(&weak.message) => {
            format!("{message}. {}: {}", weak.reason, weak.message)
        }
        _ => message,
    };
    Said { reason, message }
}

/// A time as people read it, to the second.
fn time(at: Timestamp) -> String {
    at.round(Unit::Second).unwrap_or(at).to_string()
}
