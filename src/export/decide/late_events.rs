//! Late events: stored days to download again, and counts to confirm. No I/O.

use jiff::civil::Date;

use super::{DecisionBuilder, RunObservation};
use crate::api::Reason;
use crate::archive::coverage::{self, Growth, ListingComparison};
use crate::archive::listing::{LateFacts, overlap};
use crate::archive::records::ChangedRecord;
use crate::archive::window::Window;
use crate::export::failure::RetryClass;
use crate::export::retry_state::{RECHECK_ATTEMPTS_MAX, RetryEntry};
use crate::export::spec::RetryPolicy;

/// Compares the stored days with the newest counts of the service, and plans to download those that have grown.
pub(super) fn plan_recheck(plan: &mut DecisionBuilder<'_>) {
    let RunObservation {
        export,
        journal,
        counts,
        recheck_due,
        now,
        ..
    } = *plan.observation;
    if plan.source_differs {
        return;
    }
    let accepted = |window: &Window| !plan.is_accepted(*window) && plan.wanted.intersects(*window);
    let changed: Vec<_> = coverage::changed_windows(journal, Some(&export.source))
        .filter(|(window, ..)| accepted(window))
        .collect();
    for (window, stored, late) in changed {
        report_changed(plan, window, stored, &late);
    }
    let stored = plan.coverage.covered.intersection(&plan.wanted);
    let stored = stored.days().any(|(day, _)| export.rechecks(day, now));
    plan.decision.recheck = recheck_due && stored;
    if stored {
        report_recheck_failure(plan);
    }
    let Some(counts) = counts else { return };
    let rechecks = |day| export.rechecks(day, now);
    let ListingComparison { grown, confirmed } =
        coverage::compare_with_listing(journal, &export.source, counts, rechecks);
    for (date, growth) in &grown {
        plan_revision(plan, *date, growth);
    }
    plan.report_export_backoff();
    plan.decision.confirm = confirmed
        .into_iter()
        .filter(|confirmation| !plan.backing_off && !plan.has_leftovers(confirmation.window))
        .filter(|confirmation| !is_confirmation_delayed(plan, confirmation.window))
        .collect();
    plan.decision.coverage.grown = grown;
}

/// Reports that the service does not give its newest counts, once no attempt is left: a run that has an end must not
/// take the stored days for complete. The operator asks again a day later.
fn report_recheck_failure(plan: &mut DecisionBuilder<'_>) {
    let RunObservation {
        retry_state, export, ..
    } = *plan.observation;
    let Some(entry) = &retry_state.recheck else { return };
    if entry.failure_count < RECHECK_ATTEMPTS_MAX {
        plan.retry_pending = true;
    } else if export.retry_policy != RetryPolicy::Forever {
        let message = format!(
            "cannot compare the stored days with the newest counts of the service: {}; set spec.recheck.enabled to \
             false if late events are not wanted",
            entry.failure.describe(&export.setting_names)
        );
        plan.add_problem(entry.failure.reason, message, None, RetryClass::Retry(None), None);
    }
}

/// True if a window has a failure to wait for, or is in work.
fn is_confirmation_delayed(plan: &DecisionBuilder<'_>, window: Window) -> bool {
    let RunObservation {
        active,
        retry_state,
        export,
        now,
        ..
    } = *plan.observation;
    let failed = retry_state.windows.get(&window);
    let waits = |entry: &RetryEntry| entry.is_backing_off(now) || entry.is_exhausted(export.retry_policy);
    active.iter().any(|running| overlap(*running, window)) || failed.is_some_and(waits)
}

/// Plans to download the windows of a day with late events, or reports why not.
fn plan_revision(plan: &mut DecisionBuilder<'_>, date: Date, growth: &Growth) {
    let RunObservation {
        active,
        retry_state,
        journal,
        ..
    } = *plan.observation;
    let mut tried = true;
    for &window in &growth.windows {
        if retry_state.rechecked.get(&window) == Some(&growth.reported) {
            continue;
        }
        tried = false;
        let changed = |late: &LateFacts| late.changed.is_some() && late.reported == growth.reported;
        let known = journal.late.get(&window).and_then(Option::as_ref);
        if known.is_some_and(changed) || active.iter().any(|running| overlap(*running, window)) {
            continue;
        }
        if plan.report_if_held_by_other(window) || plan.has_leftovers(window) {
            continue;
        }
        plan.has_due = true;
        if plan.report_if_backing_off(window) {
            continue;
        }
        if !plan.backing_off && plan.free > 0 {
            plan.free -= 1;
            plan.decision.revise.push(window);
        }
    }
    if tried {
        let Growth { stored, reported, .. } = growth;
        let message = format!(
            "{date}: {stored} events are stored, and the service reports {reported}, but its hours, downloaded again, have no more"
        );
        let day = Some(Window::day(date));
        plan.add_problem(Reason::Short, message, day, RetryClass::Manual, None);
    }
}

/// Reports a window whose later body lacks stored events.
fn report_changed(plan: &mut DecisionBuilder<'_>, window: Window, stored: u64, late: &LateFacts) {
    let Some(ChangedRecord { events, missing }) = late.changed else {
        return;
    };
    let message = format!(
        "{window}: {stored} events are stored; the service now reports {}, and sends {events} that lack {missing} of \
         the stored ones; nothing was replaced",
        late.reported
    );
    plan.add_problem(
        Reason::DayChanged,
        message,
        Some(window),
        RetryClass::Manual,
        None,
    );
    plan.decision.coverage.changed.insert(window);
}
