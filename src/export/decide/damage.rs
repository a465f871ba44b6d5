//! Windows with data that does not count: the problem that each is reported as. No I/O.

use super::{DecisionBuilder, RunObservation};
use crate::api::Reason;
use crate::archive::coverage::Damage;
use crate::archive::layout::Key;
use crate::archive::listing::Journal;
use crate::archive::window::Window;
use crate::export::failure::RetryClass;
use crate::export::spec::ExportSpec;

/// Reports windows with data that does not count, each with its own reason. Other windows are not affected.
pub(super) fn report_damage(plan: &mut DecisionBuilder<'_>) {
    let RunObservation { journal, export, .. } = *plan.observation;
    // Includes days that this export does not want: an archive has one source.
    if let Some((window, source)) = journal.other_source(&export.source) {
        let message = format!(
            "the archive belongs to another source: the receipt of {window} names {source}, this export reads \
             from {}; nothing is written until they match",
            export.source
        );
        plan.add_problem(Reason::SourceMismatch, message, None, RetryClass::Manual, None);
    }
    let damaged: Vec<(Window, Reason, String)> = plan
        .coverage
        .damaged
        .iter()
        .filter(|(window, damage)| match damage {
            // Reported above; adopted or reported as foreign.
            Damage::OtherSource(_) | Damage::Orphaned => false,
            // Reported as a failure, or downloaded again.
            Damage::Short { .. } if is_revised(plan, **window) => false,
            _ => {
                let covered = plan.coverage.covered.contains(**window);
                plan.wanted.intersects(**window) && !covered && !plan.is_accepted(**window)
            }
        })
        .map(|(window, damage)| {
            (
                *window,
                damage.reason(),
                damage_message(export, journal, *window, damage),
            )
        })
        .collect();
    for (window, reason, message) in damaged {
        plan.add_problem(reason, message, Some(window), RetryClass::Manual, None);
    }
}

/// True if a window is downloaded again, or waits for that.
fn is_revised(plan: &DecisionBuilder<'_>, window: Window) -> bool {
    let RunObservation {
        retry_state, active, ..
    } = *plan.observation;
    let failed = retry_state.windows.get(&window);
    let reported = failed.is_some_and(|entry| has_problem(plan, window, entry.failure.reason));
    reported || active.contains(&window) || plan.decision.revise.contains(&window)
}

fn has_problem(plan: &DecisionBuilder<'_>, window: Window, reason: Reason) -> bool {
    let mut problems = plan.decision.problems.iter();
    problems.any(|problem| problem.window == Some(window) && problem.reason == reason)
}

/// Describes a window with data that does not count. Content that could be counted only in part needs a person.
fn damage_message(export: &ExportSpec, journal: &Journal, window: Window, damage: &Damage) -> String {
    if !matches!(damage, Damage::Uncounted { .. }) {
        return damage.to_string();
    }
    if journal.receipts.contains_key(&window) {
        let key = export.root.key(&Key::Events(window)).unwrap_or_default();
        format!(
            "{window} is stored in {key}, but {damage}: examine the object; if it has all events, accept the gap in \
             spec.acceptedGaps, otherwise delete it and its receipt to export the window again"
        )
    } else {
        format!(
            "of the hours of {window}, {damage}: examine the objects of the hours that could be counted only in part; \
             if they have all events, accept the gap in spec.acceptedGaps"
        )
    }
}
