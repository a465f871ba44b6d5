//! Documents to write: one at a time, in the order of their kinds. No I/O.

use jiff::Timestamp;

use super::{DecisionBuilder, RunObservation};
use crate::archive::records::RangeRecord;
use crate::export::checkpoint::{incomplete_at, is_due, latest_at};
use crate::export::document_task::{DocumentKind, DocumentTask};
use crate::export::failure::RetryClass;
use crate::export::manifest::periods::periods;
use crate::export::report::digest;
use crate::export::spec::RetryPolicy;
use crate::export::timestamp::next_document;

/// Plans the next document.
pub(super) fn plan_document(plan: &mut DecisionBuilder<'_>) {
    plan_manifest(plan);
    plan_checkpoint(plan);
    plan_timestamp(plan);
    plan_report(plan);
}

/// Plans the check of the remembered head, and then the manifest of the first closed period that is not known to have
/// one. A period is closed when every window is covered (by all shards together) or accepted and no session of it is
/// open, whatever other periods miss.
fn plan_manifest(plan: &mut DecisionBuilder<'_>) {
    let RunObservation {
        export,
        retry_state,
        now,
        ..
    } = *plan.observation;
    let task = if retry_state.head_due {
        Some(DocumentTask::CheckHead)
    } else {
        let due = periods(export, now).into_iter().find(|period| {
            !retry_state.sealed.contains(period)
                && !plan.decision.revise.iter().any(|window| period.contains(*window))
                && has_no_open_session(plan, *period)
                && is_fully_covered(plan, *period)
        });
        due.map(DocumentTask::Manifest)
    };
    let Some(task) = task else { return };
    plan.decision.finished = false;
    plan.decision.complete = false;
    plan.decision.sealing = true;
    if must_wait(plan, DocumentKind::Manifest) {
        return;
    }
    if plan.backing_off {
        // Already reported if a window waits for it too.
        if let Some(export_backoff) = retry_state.export_backoff.as_ref().filter(|_| !plan.has_due) {
            plan.report_failure(None, export_backoff);
        }
    } else if !report_if_document_delayed(plan, DocumentKind::Manifest) {
        plan.decision.document = Some(task);
    }
}

/// Plans the checkpoint of the day: not while the remembered head is missing.
fn plan_checkpoint(plan: &mut DecisionBuilder<'_>) {
    let RunObservation {
        export,
        journal,
        retry_state,
        store_now,
        signs,
        ..
    } = *plan.observation;
    let waits = retry_state.head_due || must_wait(plan, DocumentKind::Checkpoint);
    let Some(day) = is_due(export, journal, store_now, signs).filter(|_| !waits) else {
        return;
    };
    // What is stored until then is counted.
    let wait_until = if !plan.is_quiet() {
        latest_at(day)
    } else if plan.decision.coverage.missing.is_empty() {
        Timestamp::MIN
    } else {
        incomplete_at(day)
    };
    if store_now < wait_until {
        plan.wake_at(plan.to_local_clock(wait_until));
    } else if !report_if_document_delayed(plan, DocumentKind::Checkpoint) && !plan.backing_off {
        plan.decision.document = Some(DocumentTask::Checkpoint(day));
    }
}

/// Plans the next time stamp.
fn plan_timestamp(plan: &mut DecisionBuilder<'_>) {
    let RunObservation { journal, stamps, .. } = *plan.observation;
    if stamps
        && !must_wait(plan, DocumentKind::Timestamp)
        && let Some(document) = next_document(journal)
        && !report_if_document_delayed(plan, DocumentKind::Timestamp)
    {
        plan.decision.document = Some(DocumentTask::Timestamp(document));
    }
}

/// Plans the report on an archive that has changed since the last one: once nothing is being stored or written, and
/// from time to time before.
fn plan_report(plan: &mut DecisionBuilder<'_>) {
    let RunObservation {
        export,
        journal,
        retry_state,
        now,
        ..
    } = *plan.observation;
    if !export.report
        || plan.source_differs
        || must_wait(plan, DocumentKind::Report)
        || report_if_document_delayed(plan, DocumentKind::Report)
    {
        return;
    }
    // The last one of a run that ends.
    let ends = export.retry_policy != RetryPolicy::Forever && !plan.retry_pending;
    let quiet = plan.is_quiet();
    let due_at = retry_state.report.due_at(quiet, ends);
    if !quiet && now < due_at {
        return;
    }
    let archive = digest(export, journal, now);
    if retry_state.report.about == Some(archive) && journal.has_report {
        return;
    }
    if now < due_at {
        plan.wake_at(due_at);
        plan.retry_pending = true;
    } else {
        plan.decision.document = Some(DocumentTask::Report(archive));
    }
}

/// True if a document waits for one before it, or for itself: planned or being written.
fn must_wait(plan: &DecisionBuilder<'_>, kind: DocumentKind) -> bool {
    plan.decision.document.is_some() || plan.observation.writing.range(..=kind).next().is_some()
}

/// Returns true, and reports the failure, if a document waits for a retry or has no attempts left. Nothing depends on
/// time stamps and reports: they fail no run that has an end, and are tried without a limit.
fn report_if_document_delayed(plan: &mut DecisionBuilder<'_>, kind: DocumentKind) -> bool {
    let RunObservation {
        export,
        retry_state,
        now,
        ..
    } = *plan.observation;
    let Some(entry) = retry_state.documents.get(&kind) else {
        return false;
    };
    let backing_off = entry.is_backing_off(now);
    match kind {
        DocumentKind::Manifest | DocumentKind::Checkpoint => {
            let delayed = backing_off || entry.is_exhausted(export.retry_policy);
            if delayed {
                plan.report_failure(None, entry);
            }
            delayed
        }
        DocumentKind::Timestamp | DocumentKind::Report => {
            if backing_off {
                let message = entry.failure.describe(&export.setting_names);
                let class = RetryClass::Wait(Some(entry.retry_at));
                plan.add_problem(entry.failure.reason, message, None, class, None);
                plan.wake_at(entry.retry_at);
                plan.retry_pending |=
                    kind == DocumentKind::Report && export.retry_policy == RetryPolicy::Forever;
            }
            backing_off
        }
    }
}

/// True if every day of the period is covered or accepted.
fn is_fully_covered(plan: &DecisionBuilder<'_>, period: RangeRecord) -> bool {
    let export = plan.observation.export;
    // Of all shards.
    let covered = &plan.coverage.covered;
    let mut windows = period.days().filter_map(|day| export.window_of(day));
    windows.all(|window| {
        export.in_accepted_gap(window.date())
            || covered.hours_of(window.date()) & window.hours() == window.hours()
    })
}

/// True if this process has no session to close for the period.
fn has_no_open_session(plan: &DecisionBuilder<'_>, period: RangeRecord) -> bool {
    let RunObservation {
        active,
        in_progress,
        journal,
        ..
    } = *plan.observation;
    let within = |window| period.contains(window);
    let mut attempts = journal.attempts.iter();
    !active.iter().any(|window| within(*window))
        && !in_progress.iter().any(|id| within(id.window))
        && attempts.all(|(id, facts)| !within(id.window) || plan.is_held_by_other(id, facts))
}
