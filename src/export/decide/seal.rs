//! Which period's manifest is due: what is stored whole and at rest is stated before it is called complete. No I/O.

use super::super::manifest::periods::{days, periods, touches};
use super::super::record::RangeRecord;
use super::super::window::{Cells, Window};
use super::{Plan, short_days};

impl Plan<'_> {
    /// The first period that is closed and whose manifest is not known to be there. A finite export states its
    /// periods when all of it is in and nothing is open; a continuous one each month by itself. A shard states
    /// the whole, or nothing: what the others lack is theirs to wait for.
    pub(super) fn manifests(&mut self) {
        let super::Observation {
            export,
            memory,
            now,
            sealing,
            ..
        } = *self.seen;
        let finite = export.end.is_some();
        if finite && !self.out.complete {
            return;
        }
        let mut covered = None;
        let due = periods(export, now).into_iter().find(|period| {
            !memory.sealed.contains(period)
                && (finite && export.shard.is_whole()
                    || self.is_closed(*period, covered.get_or_insert_with(|| self.covered_by_all()))
                        && self.is_at_rest(*period))
        });
        let Some(period) = due else { return };
        self.out.complete = false;
        self.out.sealing = true;
        if sealing {
            return;
        }
        let failed = memory.seal.as_ref();
        let failed = failed.filter(|tried| tried.waits(now) || tried.given_up(export.persistence));
        if self.gated {
            // Said already where a window waits for it too.
            if let Some(gate) = memory.gate.as_ref().filter(|_| !self.due) {
                self.trouble(None, gate);
            }
        } else if let Some(tried) = failed {
            self.trouble(None, tried);
        } else {
            self.out.seal = Some(period);
        }
    }

    /// What is covered, whichever shard it belongs to.
    fn covered_by_all(&self) -> Cells {
        let super::Observation { export, journal, .. } = *self.seen;
        let short = short_days(journal, &export.source).into_keys().map(Window::day);
        journal.covered(&export.source).minus(&short.collect())
    }

    /// Whether every day of the period is covered or accepted.
    fn is_closed(&self, period: RangeRecord, covered: &Cells) -> bool {
        let export = self.seen.export;
        let mut windows = days(period).filter_map(|day| export.window_of(day));
        windows.all(|window| {
            export.accepts(window.date())
                || covered.hours_of(window.date()) & window.hours() == window.hours()
        })
    }

    /// Whether no session of the period, or of a finite export at all, is open that is for us to close.
    fn is_at_rest(&self, period: RangeRecord) -> bool {
        let super::Observation {
            export,
            active,
            busy,
            journal,
            ..
        } = *self.seen;
        let within = |window| export.end.is_some() || touches(period, window);
        let mut attempts = journal.attempts.iter();
        !active.iter().any(|window| within(*window))
            && !busy.iter().any(|id| within(id.window))
            && attempts.all(|(id, facts)| !within(id.window) || self.is_rivals(id, facts))
    }
}
