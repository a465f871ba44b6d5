//! Computes the `status` of a resource from the state of its export. Pure.
//!
//! Conditions follow the rules of kstatus, so that GitOps tools wait correctly: `Reconciling` and `Stalled` are always
//! present, and the transition time changes only with the status of the condition.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use serde_json::{Map, Value};

use super::export_health::{self, ExportHealth, StatusMessage};
use super::head_status;
use super::status_values::{truncate, truncate_to_second};
use super::verification::update::VerificationUpdate;
use crate::api::{
    ConditionType, EventExportStatus, LastError, MAX_MESSAGE_CHARS, MAX_RANGES, MAX_SESSIONS, OmittedRanges,
    OpenSession, Reason, SettingNames, StatusRange, WindowCounts, condition, find_condition, set_condition,
};
use crate::archive::window::{HourSet, Window};
use crate::export::failure::Failure;
use crate::export::snapshot::Snapshot;
use crate::export::spec::ExportSpec;

/// Maximum length of a session id, in characters: the limit of the schema.
const SESSION_CHARS: usize = 256;

/// Metadata of the resource, and the current time.
#[derive(Clone, Copy, Debug)]
pub struct StatusContext {
    /// `metadata.generation`.
    pub generation: i64,
    /// `metadata.creationTimestamp`.
    pub created: Timestamp,
    /// Current time.
    pub now: Timestamp,
}

/// Phase of an export.
#[derive(Clone, Copy, Debug)]
pub enum ExportPhase<'a> {
    /// The task of this generation is about to start, or that of the last generation is about to end.
    Starting,
    /// The export could not start, or crashed.
    Blocked {
        /// The cause.
        failure: &'a Failure,
        /// True if this process knows that no session is open.
        no_session: bool,
    },
    /// The export is suspended.
    Suspended {
        /// True while its task is still stopping.
        stopping: bool,
        /// True if this process found the spec complete, apart from `suspend`.
        still_complete: bool,
    },
    /// The export runs, or is idle.
    Observed(&'a Snapshot, &'a ExportSpec),
}

/// Returns the status without the conditions of other writers.
pub fn owned_status(status: &EventExportStatus) -> EventExportStatus {
    let mut owned = status.clone();
    owned.conditions.retain(|condition| {
        let mut types = ConditionType::ALL.iter().chain(&ConditionType::OPTIONAL);
        types.any(|kind| kind.as_str() == condition.type_)
    });
    owned
}

/// Returns the merge patch that removes the fields of other writers from a stored status, or `None` if it has none:
/// server-side apply leaves them there. A list has one owner.
pub fn foreign_fields(owned: &Value, stored: &Value) -> Option<Value> {
    let (Value::Object(owned), Value::Object(stored)) = (owned, stored) else {
        return None;
    };
    let mut foreign = Map::new();
    for (field, value) in stored {
        let found = match owned.get(field) {
            None => Some(Value::Null),
            Some(own) => foreign_fields(own, value),
        };
        foreign.extend(found.map(|found| (field.clone(), found)));
    }
    (!foreign.is_empty()).then_some(Value::Object(foreign))
}

/// Computes the status of a phase. Facts that are unknown keep their previous values.
pub fn compute_status(
    subject: StatusContext,
    phase: ExportPhase<'_>,
    previous: &EventExportStatus,
) -> EventExportStatus {
    let subject = StatusContext {
        now: truncate_to_second(subject.now),
        ..subject
    };
    let same = previous.observed_generation == subject.generation && !previous.conditions.is_empty();
    let mut next = previous.clone();
    next.observed_generation = subject.generation;
    match phase {
        ExportPhase::Starting if same => return next,
        ExportPhase::Starting => set_starting(&mut next, subject),
        ExportPhase::Suspended {
            stopping,
            still_complete,
        } => set_suspended(&mut next, subject, stopping, same || still_complete),
        ExportPhase::Blocked { failure, no_session } => {
            if no_session {
                set_inactive(&mut next);
            }
            let mut health = export_health::blocked(failure, previous);
            health.complete &= same;
            set_health(&mut next, subject, &health);
            next.last_error = Some(last_error(
                failure.reason,
                &failure.describe(&SettingNames::default()),
                None,
            ));
            next.next_run_time = None;
        }
        ExportPhase::Observed(snapshot, _) if !snapshot.observed && snapshot.problems.is_empty() => {
            return compute_status(subject, ExportPhase::Starting, previous);
        }
        ExportPhase::Observed(snapshot, export) => {
            if snapshot.observed {
                set_facts(&mut next, snapshot);
                head_status::advance(&mut next, snapshot.head.as_ref(), export.abandoned_head.as_ref());
            }
            let mut health = export_health::evaluate(snapshot, export, subject.created, subject.now);
            if !snapshot.observed {
                let was = find_condition(&previous.conditions, ConditionType::Complete);
                health.complete = same && was.is_some_and(|was| was.status == "True");
            }
            set_health(&mut next, subject, &health);
            let error = export_health::first_error(&snapshot.problems);
            next.last_error = error.map(|problem| {
                last_error(
                    problem.reason,
                    &problem.message,
                    problem.window.map(|window| window.to_string()),
                )
            });
        }
    }
    next
}

fn set_starting(next: &mut EventExportStatus, subject: StatusContext) {
    let message = "the spec is new or changed: the operator lists the stored windows";
    put_condition(
        next,
        subject,
        ConditionType::Ready,
        None,
        Reason::NewGeneration,
        message,
    );
    put_condition(
        next,
        subject,
        ConditionType::Complete,
        None,
        Reason::NewGeneration,
        message,
    );
    put_condition(
        next,
        subject,
        ConditionType::Reconciling,
        Some(true),
        Reason::NewGeneration,
        message,
    );
    put_condition(
        next,
        subject,
        ConditionType::Stalled,
        Some(false),
        Reason::NewGeneration,
        message,
    );
}

/// `same_spec`: the conditions are about the current spec, apart from `suspend`.
fn set_suspended(next: &mut EventExportStatus, subject: StatusContext, stopping: bool, same_spec: bool) {
    let message = if stopping {
        "spec.suspend is true: the operator stops transfers and deletes sessions"
    } else {
        "spec.suspend is true: nothing is exported, and days may expire at the service meanwhile"
    };
    // The same change may have given a complete export another range, which nothing verifies while it is suspended.
    let was = find_condition(&next.conditions, ConditionType::Complete).map(|was| was.status.as_str());
    let still_complete = same_spec && was == Some("True");
    let complete = (was == Some("False")).then_some(false);
    put_condition(
        next,
        subject,
        ConditionType::Ready,
        Some(false),
        Reason::Suspended,
        message,
    );
    if !still_complete {
        put_condition(
            next,
            subject,
            ConditionType::Complete,
            complete,
            Reason::Suspended,
            message,
        );
    }
    put_condition(
        next,
        subject,
        ConditionType::Reconciling,
        Some(stopping),
        Reason::Suspended,
        message,
    );
    put_condition(
        next,
        subject,
        ConditionType::Stalled,
        Some(false),
        Reason::Suspended,
        message,
    );
    if !stopping {
        set_inactive(next);
    }
    next.next_run_time = None;
}

/// Shows that no transfer is active and no session open.
fn set_inactive(next: &mut EventExportStatus) {
    if let Some(windows) = &mut next.windows {
        windows.waiting = windows.waiting.saturating_add(windows.active);
        windows.active = 0;
        next.sessions.clear();
    }
}

fn set_health(next: &mut EventExportStatus, subject: StatusContext, health: &ExportHealth) {
    let ExportHealth {
        ready,
        cause,
        stalled,
        complete,
    } = health;
    put_condition(
        next,
        subject,
        ConditionType::Ready,
        Some(*ready),
        cause.reason,
        &cause.message,
    );
    if *complete && cause.reason != Reason::Complete {
        let message = "everything that the spec asks for is stored and proved, or an accepted gap";
        put_condition(
            next,
            subject,
            ConditionType::Complete,
            Some(true),
            Reason::Complete,
            message,
        );
    } else {
        put_condition(
            next,
            subject,
            ConditionType::Complete,
            Some(*complete),
            cause.reason,
            &cause.message,
        );
    }
    let accepted = accepted_message(subject.generation);
    put_condition(
        next,
        subject,
        ConditionType::Reconciling,
        Some(false),
        Reason::Accepted,
        &accepted,
    );
    match stalled {
        Some(StatusMessage { reason, message }) => {
            put_condition(
                next,
                subject,
                ConditionType::Stalled,
                Some(true),
                *reason,
                message,
            );
        }
        None => put_condition(
            next,
            subject,
            ConditionType::Stalled,
            Some(false),
            cause.reason,
            "no manual action is needed",
        ),
    }
    if *complete {
        next.completion_time.get_or_insert(Time(subject.now));
    } else {
        next.completion_time = None;
    }
}

/// Sets the condition `Contended` if another installation selects the export, or removes it.
pub fn set_contended(next: &mut EventExportStatus, subject: StatusContext, message: Option<&str>) {
    let Some(message) = message else {
        next.conditions
            .retain(|condition| condition.type_ != ConditionType::Contended.as_str());
        return;
    };
    let subject = StatusContext {
        now: truncate_to_second(subject.now),
        ..subject
    };
    put_condition(
        next,
        subject,
        ConditionType::Contended,
        Some(true),
        Reason::OperatorConflict,
        message,
    );
}

/// Sets the state of the scheduled verification and the condition `Verified`, or removes both if the spec has none.
/// `update`: state that the previous status does not show yet.
pub(super) fn set_verification(
    next: &mut EventExportStatus,
    subject: StatusContext,
    scheduled: bool,
    update: Option<&VerificationUpdate>,
) {
    let kind = ConditionType::Verified;
    if !scheduled {
        next.conditions
            .retain(|condition| condition.type_ != kind.as_str());
        next.verification = None;
        return;
    }
    if let Some(update) = update {
        next.verification = Some(update.status.clone());
    }
    let subject = StatusContext {
        now: truncate_to_second(subject.now),
        ..subject
    };
    if let Some(verified) = update.and_then(|update| update.condition.as_ref()) {
        put_condition(
            next,
            subject,
            kind,
            verified.status,
            verified.reason,
            &verified.message,
        );
        return;
    }
    let known = next
        .conditions
        .iter_mut()
        .find(|condition| condition.type_ == kind.as_str());
    if let Some(known) = known {
        // It does not depend on the rest of the spec.
        known.observed_generation = Some(subject.generation);
    } else {
        let message = "no verification of the archive has ended yet";
        put_condition(next, subject, kind, None, Reason::NotVerifiedYet, message);
    }
}

/// Accepts a generation whose change concerns neither the run nor its result. Other changes are accepted by their run.
pub(super) fn accept_generation(next: &mut EventExportStatus, subject: StatusContext) {
    if next.conditions.is_empty() || next.observed_generation == subject.generation {
        return;
    }
    next.observed_generation = subject.generation;
    for condition in &mut next.conditions {
        condition.observed_generation = Some(subject.generation);
        if condition.reason == Reason::Accepted.as_str() {
            condition.message = accepted_message(subject.generation);
        }
    }
}

fn accepted_message(generation: i64) -> String {
    format!("generation {generation} is accepted")
}

fn put_condition(
    next: &mut EventExportStatus,
    subject: StatusContext,
    kind: ConditionType,
    status: Option<bool>,
    reason: Reason,
    message: &str,
) {
    set_condition(
        &mut next.conditions,
        condition(kind, status, reason, message, subject.generation, subject.now),
    );
}

/// Returns the oldest ranges for the status, and the number of the others.
fn listed(hours: &HourSet) -> (Vec<StatusRange>, u32) {
    let runs = hours.runs();
    let omitted = u32::try_from(runs.len().saturating_sub(MAX_RANGES)).unwrap_or(u32::MAX);
    let ranges = runs.into_iter().take(MAX_RANGES);
    (
        ranges
            .map(|(first, last)| StatusRange::new(first.to_string(), last.to_string()))
            .collect(),
        omitted,
    )
}

/// Returns the complete days with an expired window and no other missing one: those that may be accepted as a gap without
/// giving up what the service still has.
fn expired_days(missing: &HourSet, expired: &HourSet) -> HourSet {
    let open = missing.difference(expired);
    expired
        .days()
        .map(|(day, _)| Window::day(day))
        .filter(|day| !open.intersects(*day))
        .collect()
}

/// Copies the fields of the snapshot that the status shows.
fn set_facts(next: &mut EventExportStatus, snapshot: &Snapshot) {
    let Snapshot {
        observed: _,
        wanted,
        stored,
        active,
        waiting,
        failed,
        events,
        bytes,
        late_events,
        grown: _,
        covered,
        missing,
        expired,
        sessions,
        problems: _,
        open_attempts: _,
        suspected_sessions: _,
        finished: _,
        complete,
        manifest_due: _,
        head: _,
        next_run_at,
        windows: _,
        transfers: _,
        last_stored: _,
        first_transfer_at,
        damaged: _,
        looked: _,
        applied: _,
        retention: _,
        retry_state: _,
    } = snapshot;
    let small = |count: &u64| u32::try_from(*count).unwrap_or(u32::MAX);
    let large = |count: &u64| Some(i64::try_from(*count).unwrap_or(i64::MAX));
    next.windows = Some(WindowCounts {
        wanted: small(wanted),
        stored: small(stored),
        active: small(active),
        waiting: small(waiting),
        failed: small(failed),
    });
    next.events = large(events);
    next.bytes = large(bytes);
    // Most exports have none.
    next.late_events = large(late_events).filter(|late| *late > 0);
    let mut omitted = OmittedRanges::default();
    (next.covered, omitted.covered) = listed(covered);
    (next.missing, omitted.missing) = listed(missing);
    (next.expired, omitted.expired) = listed(&expired_days(missing, expired));
    next.omitted_ranges = Some(omitted).filter(|omitted| *omitted != OmittedRanges::default());
    // The API server rejects a list with an id twice, whatever the service answers.
    let mut ids = BTreeSet::new();
    next.sessions = sessions
        .iter()
        .map(|session| OpenSession {
            id: truncate(&session.id, SESSION_CHARS),
            window: session.window.to_string(),
        })
        .filter(|session| ids.insert(session.id.clone()))
        .take(MAX_SESSIONS)
        .collect();
    // A short run ends before a status with a running transfer is written.
    if let Some(at) = first_transfer_at {
        next.start_time.get_or_insert(Time(truncate_to_second(*at)));
    }
    next.next_run_time = next_run_at
        .filter(|_| !complete && *active == 0)
        .map(|at| Time(truncate_to_second(at)));
}

fn last_error(reason: Reason, message: &str, window: Option<String>) -> LastError {
    LastError {
        reason: reason.to_string(),
        message: truncate(message, MAX_MESSAGE_CHARS),
        window,
    }
}

#[cfg(test)]
mod tests;
