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

impl DecisionBuilder<'_> {
    /// Compares the stored days with the newest counts of the service, and plans to download those that have grown.
    pub(super) fn plan_recheck(&mut self) {
        let RunObservation {
            export,
            journal,
            counts,
            recheck_due,
            now,
            ..
        } = *self.observation;
        if self.source_differs {
            return;
        }
        let accepted = |window: &Window| !self.is_accepted(*window) && self.wanted.intersects(*window);
        let changed: Vec<_> = coverage::changed_windows(journal, Some(&export.source))
            .filter(|(window, ..)| accepted(window))
            .collect();
        for (window, stored, late) in changed {
            self.report_changed(window, stored, &late);
        }
        let stored = self.coverage.covered.intersection(&self.wanted);
        let stored = stored.days().any(|(day, _)| export.rechecks(day, now));
        self.decision.recheck = recheck_due && stored;
        if stored {
            self.report_recheck_failure();
        }
        let Some(counts) = counts else { return };
        let rechecks = |day| export.rechecks(day, now);
        let ListingComparison { grown, confirmed } =
            coverage::compare_with_listing(journal, &export.source, counts, rechecks);
        for (date, growth) in &grown {
            self.plan_revision(*date, growth);
        }
        self.report_export_backoff();
        self.decision.confirm = confirmed
            .into_iter()
            .filter(|confirmation| !self.backing_off && !self.has_leftovers(confirmation.window))
            .filter(|confirmation| !self.is_confirmation_delayed(confirmation.window))
            .collect();
        self.decision.coverage.grown = grown;
    }

    /// Reports that the service does not give its newest counts, once no attempt is left: a run that has an end must not
    /// take the stored days for complete. The operator asks again a day later.
    fn report_recheck_failure(&mut self) {
        let RunObservation {
            retry_state, export, ..
        } = *self.observation;
        let Some(entry) = &retry_state.recheck else { return };
        if entry.failure_count < RECHECK_ATTEMPTS_MAX {
            self.retry_pending = true;
        } else if export.retry_policy != RetryPolicy::Forever {
            let message = format!(
                "cannot compare the stored days with the newest counts of the service: {}; set spec.recheck.enabled to \
                 false if late events are not wanted",
                entry.failure.describe(&export.setting_names)
            );
            self.add_problem(entry.failure.reason, message, None, RetryClass::Retry(None), None);
        }
    }

    /// True if a window has a failure to wait for, or is in work.
    fn is_confirmation_delayed(&self, window: Window) -> bool {
        let RunObservation {
            active,
            retry_state,
            export,
            now,
            ..
        } = *self.observation;
        let failed = retry_state.windows.get(&window);
        let waits = |entry: &RetryEntry| entry.is_backing_off(now) || entry.is_exhausted(export.retry_policy);
        active.iter().any(|running| overlap(*running, window)) || failed.is_some_and(waits)
    }

    /// Plans to download the windows of a day with late events, or reports why not.
    fn plan_revision(&mut self, date: Date, growth: &Growth) {
        let RunObservation {
            active,
            retry_state,
            journal,
            ..
        } = *self.observation;
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
            if self.report_if_held_by_other(window) || self.has_leftovers(window) {
                continue;
            }
            self.has_due = true;
            if self.report_if_backing_off(window) {
                continue;
            }
            if !self.backing_off && self.free > 0 {
                self.free -= 1;
                self.decision.revise.push(window);
            }
        }
        if tried {
            let Growth { stored, reported, .. } = growth;
            let message = format!(
                "{date}: {stored} events are stored, and the service reports {reported}, but its hours, downloaded again, have no more"
            );
            let day = Some(Window::day(date));
            self.add_problem(Reason::Short, message, day, RetryClass::Manual, None);
        }
    }

    /// Reports a window whose later body lacks stored events.
    fn report_changed(&mut self, window: Window, stored: u64, late: &LateFacts) {
        let Some(ChangedRecord { events, missing }) = late.changed else {
            return;
        };
        let message = format!(
            "{window}: {stored} events are stored; the service now reports {}, and sends {events} that lack {missing} of \
             the stored ones; nothing was replaced",
            late.reported
        );
        self.add_problem(
            Reason::DayChanged,
            message,
            Some(window),
            RetryClass::Manual,
            None,
        );
        self.decision.coverage.changed.insert(window);
    }
}
