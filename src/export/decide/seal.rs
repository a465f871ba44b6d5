//! Which period's manifest is due: what is stored whole and at rest is stated before it is called complete. No I/O.

use super::super::manifest::periods::{days, periods, touches};
use super::super::record::RangeRecord;
use super::Plan;

impl Plan<'_> {
    /// The first period that is closed and whose manifest is not known to be there. A finite export states its
    /// periods when all of it is in and nothing is open; a continuous one each month by itself.
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
        let due = periods(export, now).into_iter().find(|period| {
            !memory.sealed.contains(period) && (finite || self.is_closed(*period) && self.is_at_rest(*period))
        });
        let Some(period) = due else { return };
        self.out.complete = false;
        self.out.sealing = true;
        if sealing {
            return;
        }
        let failed = memory.seal.as_ref();
        let failed = failed.filter(|tried| tried.again > now || tried.given_up(export.persistence));
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

    fn is_closed(&self, period: RangeRecord) -> bool {
        let mut windows = days(period).filter_map(|day| self.seen.export.window_of(day));
        windows.all(|window| {
            let settled = self.covered.hours_of(window.date()) | self.accepted.hours_of(window.date());
            settled & window.hours() == window.hours()
        })
    }

    /// Whether no session of the period is open that is for us to close.
    fn is_at_rest(&self, period: RangeRecord) -> bool {
        let super::Observation {
            active,
            busy,
            journal,
            ..
        } = *self.seen;
        let within = |window| touches(period, window);
        let mut attempts = journal.attempts.iter();
        !active.iter().any(|window| within(*window))
            && !busy.iter().any(|id| within(id.window))
            && attempts.all(|(id, facts)| !within(id.window) || self.is_rivals(id, facts))
    }
}
