//! What earlier attempts left behind: attempts to recover, and objects to adopt. No I/O.

use super::{DecisionBuilder, RunObservation};
use crate::api::Reason;
use crate::archive::layout::{AttemptId, Key};
use crate::archive::window::Window;
use crate::export::failure::{Failure, RetryClass};

/// Plans recovery of idle own attempts and of attempts past their deadline, and adoption of orphaned objects.
pub(super) fn plan_leftovers(plan: &mut DecisionBuilder<'_>) {
    plan_recovery(plan);
    plan_adoption(plan);
}

fn plan_recovery(plan: &mut DecisionBuilder<'_>) {
    let RunObservation {
        journal,
        active,
        in_progress,
        export,
        ..
    } = *plan.observation;
    let mut session_unknown: Vec<AttemptId> = Vec::new();
    // Another shard recovers the leftovers of its own days.
    let own_attempts = journal
        .attempts
        .iter()
        .filter(|(id, _)| export.shard.contains(id.window.date()));
    for (id, facts) in own_attempts {
        if let Some(error) = &facts.unreadable {
            // Its holder is unknown: it is neither recovered nor ignored.
            let reason = Failure::from(error).reason;
            plan.add_problem(
                reason,
                error.to_string(),
                Some(id.window),
                RetryClass::Manual,
                None,
            );
            continue;
        }
        // Recovery searches for its session among those that are open.
        let needs_search = facts.record.is_some() && facts.sessions.is_empty() && !facts.prepared;
        if in_progress.contains(id) {
            if needs_search && !active.contains(&id.window) {
                session_unknown.push(*id);
            }
            continue;
        }
        if let Some(record) = &facts.record
            && record.holder != export.holder
            && record.deadline > plan.observation.store_now
        {
            plan.wake_at(plan.to_local_clock(record.deadline));
        } else if needs_search {
            session_unknown.push(*id);
        } else {
            recover(plan, *id);
        }
    }
    // Latest first, one at a time: the session found for it is no candidate for earlier ones.
    let latest = session_unknown.into_iter().max_by_key(|id| id.ulid);
    if let Some(id) = latest.filter(|id| !in_progress.contains(id)) {
        recover(plan, id);
    }
}

fn recover(plan: &mut DecisionBuilder<'_>, id: AttemptId) {
    let RunObservation {
        retry_state,
        export,
        now,
        ..
    } = *plan.observation;
    match retry_state.unrecovered.get(&id) {
        Some(entry) if entry.is_backing_off(now) || entry.is_exhausted(export.retry_policy) => {
            plan.report_failure(Some(id.window), entry);
        }
        _ => plan.decision.recover.push(id),
    }
}

fn plan_adoption(plan: &mut DecisionBuilder<'_>) {
    let RunObservation {
        journal,
        retry_state,
        export,
        ..
    } = *plan.observation;
    let orphaned: Vec<Window> = journal
        .orphaned_objects()
        .filter(|window| plan.wanted.intersects(*window) && !plan.is_accepted(*window))
        .collect();
    for window in orphaned {
        if retry_state.foreign_objects.contains(&window) {
            let key = export.root.key(&Key::Events(window)).unwrap_or_default();
            let message = format!(
                "{key} has no receipt and was not written by eventexport: move the object away, or accept the gap in spec.acceptedGaps"
            );
            plan.add_problem(
                Reason::ForeignObject,
                message,
                Some(window),
                RetryClass::Manual,
                None,
            );
        } else if plan.backing_off {
            plan.has_due = true;
        } else if !plan.report_if_backing_off(window) {
            plan.decision.adopt.push(window);
        }
    }
}
