//! Which period's manifest is due: what is stored whole and at rest is stated before it is called complete. No I/O.

use super::super::manifest::periods::{days, period_contains, periods};
use super::super::record::RangeRecord;
use super::super::window::{HourSet, Window};
use super::{DecisionBuilder, short_days};

impl DecisionBuilder<'_> {
    /// The first period that is closed and whose manifest is not known to be there. A finite export states its
    /// periods when all of it is in and nothing is open; a continuous one each month by itself. A shard states
    /// the whole, or nothing: what the others lack is theirs to wait for.
    pub(super) fn plan_manifest(&mut self) {
        let super::RunObservation {
            export,
            retry_state,
            now,
            sealing,
            ..
        } = *self.observation;
        let finite = export.end.is_some();
        if finite && !self.decision.complete {
            return;
        }
        let mut covered = None;
        let due = periods(export, now).into_iter().find(|period| {
            !retry_state.sealed.contains(period)
                && (finite && export.shard.is_single()
                    || self.is_fully_covered(
                        *period,
                        covered.get_or_insert_with(|| self.covered_by_all_shards()),
                    ) && self.has_no_open_session(*period))
        });
        let Some(period) = due else { return };
        self.decision.complete = false;
        self.decision.sealing = true;
        if sealing {
            return;
        }
        let failed = retry_state.seal_retry.as_ref();
        let failed =
            failed.filter(|entry| entry.is_backing_off(now) || entry.is_exhausted(export.retry_policy));
        if self.backing_off {
            // Said already where a window waits for it too.
            if let Some(export_backoff) = retry_state.export_backoff.as_ref().filter(|_| !self.has_due) {
                self.report_failure(None, export_backoff);
            }
        } else if let Some(entry) = failed {
            self.report_failure(None, entry);
        } else {
            self.decision.seal = Some(period);
        }
    }

    /// What is covered, whichever shard it belongs to.
    fn covered_by_all_shards(&self) -> HourSet {
        let super::RunObservation { export, journal, .. } = *self.observation;
        let short = short_days(journal, &export.source).into_keys().map(Window::day);
        journal.covered(&export.source).difference(&short.collect())
    }

    /// Whether every day of the period is covered or accepted.
    fn is_fully_covered(&self, period: RangeRecord, covered: &HourSet) -> bool {
        let export = self.observation.export;
        let mut windows = days(period).filter_map(|day| export.window_of(day));
        windows.all(|window| {
            export.in_accepted_gap(window.date())
                || covered.hours_of(window.date()) & window.hours() == window.hours()
        })
    }

    /// Whether no session of the period, or of a finite export at all, is open that is for us to close.
    fn has_no_open_session(&self, period: RangeRecord) -> bool {
        let super::RunObservation {
            export,
            active,
            in_progress,
            journal,
            ..
        } = *self.observation;
        let within = |window| export.end.is_some() || period_contains(period, window);
        let mut attempts = journal.attempts.iter();
        !active.iter().any(|window| within(*window))
            && !in_progress.iter().any(|id| within(id.window))
            && attempts.all(|(id, facts)| !within(id.window) || self.is_held_by_other(id, facts))
    }
}
