//! The decision: from what is seen and remembered to what is done next. Pure: no I/O, no clock, no
//! randomness, so that tables and properties can hold it to its promises.

mod found;
#[cfg(test)]
mod properties;
mod seal;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::failure::{Failure, Reach, Remedy, Trouble};
use super::journal::{AttemptFacts, Journal, overlap};
use super::keys::AttemptId;
use super::memory::{Memory, Tried};
use super::record::{AttemptRecord, RangeRecord};
use super::window::{Cells, Window};
use super::wish::{Export, Persistence};
use crate::api::Reason;
pub(super) use found::{events_beside, short_days};

/// How often the bucket is listed anew while others hold windows, who may be done long before their
/// deadline: 5 min.
pub const HELD_LOOK: SignedDuration = SignedDuration::from_mins(5);

/// All that a decision is made from.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    /// What is wanted.
    pub export: &'a Export,
    /// What the bucket says.
    pub journal: &'a Journal,
    /// Windows that this process is exporting now.
    pub active: &'a BTreeSet<Window>,
    /// Attempts that this process is working on, or settling.
    pub busy: &'a BTreeSet<AttemptId>,
    /// Whether this process is writing a manifest.
    pub sealing: bool,
    /// What is remembered.
    pub memory: &'a Memory,
    /// When the whole bucket was listed last.
    pub listed: Timestamp,
    /// Now.
    pub now: Timestamp,
    /// Now, by the store's clock.
    pub store_now: Timestamp,
}

/// What is to be done, and what is to be said.
#[derive(Clone, Debug, Default)]
pub struct Decision {
    /// Windows to start now, the oldest first.
    pub start: Vec<Window>,
    /// Days to export by the hour from now on.
    pub split: Vec<Window>,
    /// Leftover attempts to settle now.
    pub settle: Vec<AttemptId>,
    /// Objects without a receipt to look at now.
    pub adopt: Vec<Window>,
    /// The period whose manifest is to be written now.
    pub seal: Option<RangeRecord>,
    /// Whether a manifest is due that is not known to be there.
    pub sealing: bool,
    /// What is wrong or waited for, the worst first.
    pub troubles: Vec<Trouble>,
    /// When something changes by itself; `None`: never.
    pub wake: Option<Timestamp>,
    /// All is stored or accepted, the range has an end, nothing is left open, and the manifest is there.
    pub complete: bool,
    /// Nothing is under way, and nothing is to be tried again soon: the run may end.
    pub rest: bool,
    /// The counts and cells of the snapshot.
    pub tally: Tally,
}

/// Counts and cells, as the snapshot shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Wanted windows.
    pub wanted: u64,
    /// Wanted windows that are covered whole.
    pub stored: u64,
    /// Windows that wait.
    pub waiting: u64,
    /// Windows whose last try failed.
    pub failed: u64,
    /// Wanted cells that are covered.
    pub covered: Cells,
    /// Wanted cells that are due, not covered and not accepted.
    pub missing: Cells,
    /// Of those, cells that the service no longer has.
    pub expired: Cells,
}

/// Decides.
pub fn decide(seen: &Observation<'_>) -> Decision {
    let mut plan = Plan::new(seen);
    plan.leftovers();
    plan.windows();
    plan.shortfalls();
    plan.mismatches();
    plan.close()
}

struct Plan<'a> {
    seen: &'a Observation<'a>,
    covered: Cells,
    accepted: Cells,
    wanted: Cells,
    out: Decision,
    /// Cells that are not over yet, or not settled.
    future: Cells,
    gated: bool,
    /// Whether what is there is of another source: then nothing is added to it.
    foreign: bool,
    /// Whether a window is due that the gate keeps from starting, or would.
    due: bool,
    /// Whether this run tries something again, and not only a later one.
    pending: bool,
}

impl<'a> Plan<'a> {
    fn new(seen: &'a Observation<'a>) -> Self {
        let wanted: Cells = seen.export.windows(seen.now).collect();
        let short: Cells = short_days(seen.journal, &seen.export.source)
            .into_keys()
            .map(Window::day)
            .collect();
        let covered = seen.journal.covered(&seen.export.source);
        let covered = covered.intersection(&wanted).minus(&short);
        let accepted = seen.export.accepted_cells(&wanted).minus(&covered);
        let gated = seen
            .memory
            .gate
            .as_ref()
            .is_some_and(|gate| gate.waits(seen.now) || gate.given_up(seen.export.persistence));
        Self {
            seen,
            covered,
            accepted,
            wanted,
            out: Decision::default(),
            future: Cells::default(),
            gated,
            foreign: seen.journal.other_source(&seen.export.source).is_some(),
            due: false,
            pending: false,
        }
    }

    /// What has passed wakes nobody: what waited for it is among what is done now.
    fn wake_at(&mut self, at: Timestamp) {
        if at > self.seen.now {
            self.out.wake = Some(self.out.wake.map_or(at, |wake| wake.min(at)));
        }
    }

    /// A time of the store's clock by ours.
    fn by_our_clock(&self, at: Timestamp) -> Timestamp {
        let ahead = self.seen.store_now.duration_since(self.seen.now);
        at.checked_sub(ahead).unwrap_or(at)
    }

    fn is_accepted(&self, window: Window) -> bool {
        self.seen.export.accepts(window.date())
    }

    fn windows(&mut self) {
        let Observation { export, active, .. } = *self.seen;
        let mut free = export.parallelism.saturating_sub(active.len());
        let mut next_settled: Option<(Window, Timestamp)> = None;
        let days: Vec<Window> = export.windows(self.seen.now).collect();
        for day in days {
            self.out.tally.wanted += 1;
            if self.covered.contains(day) {
                self.out.tally.stored += 1;
                continue;
            }
            if self.is_accepted(day) {
                continue;
            }
            let settled = export.settled_at(day);
            if settled > self.seen.now {
                self.future.insert(day);
                self.out.tally.waiting += 1;
                if next_settled.is_none_or(|(_, at)| settled < at) {
                    next_settled = Some((day, settled));
                }
                continue;
            }
            self.due(day, &mut free);
        }
        if let Some(gate) = self.seen.memory.gate.as_ref().filter(|_| self.due) {
            self.trouble(None, gate);
        }
        if let Some((window, at)) = next_settled.or_else(|| self.next_of_continuous()) {
            self.wake_at(at);
            let message = format!("{window} is exported once it is over and settled (spec.settleAfter)");
            self.say(
                Reason::NotSettled,
                message,
                Some(window),
                Remedy::Wait(Some(at)),
                Some(at),
            );
        }
    }

    /// The first window of a continuous export that is still to come.
    fn next_of_continuous(&self) -> Option<(Window, Timestamp)> {
        let Observation { export, now, .. } = *self.seen;
        if export.end.is_some() {
            return None;
        }
        let today = now.to_zoned(jiff::tz::TimeZone::UTC).date();
        let next = export.next_day(today.tomorrow().ok()?.max(export.start))?;
        let next = export.window_of(next)?;
        Some((next, export.settled_at(next)))
    }

    /// Says so when the last try of a window failed and the next is not due, or not to be.
    fn waits_for_another_try(&mut self, window: Window) -> bool {
        let Observation {
            memory, export, now, ..
        } = *self.seen;
        let tried = memory.windows.get(&window);
        let tried = tried.filter(|tried| tried.waits(now) || tried.given_up(export.persistence));
        if let Some(tried) = tried {
            self.trouble(Some(window), tried);
        }
        tried.is_some()
    }

    /// A wanted window that is due and not covered: starts what is missing of it, or says why not.
    fn due(&mut self, day: Window, free: &mut usize) {
        let Observation {
            export,
            active,
            busy,
            memory,
            journal,
            ..
        } = *self.seen;
        if self.foreign {
            self.out.tally.waiting += 1;
            return;
        }
        if memory.too_slow(day) && !journal.splits.contains(&day) {
            self.due = true;
            if self.gated {
                self.out.tally.waiting += 1;
            } else {
                self.out.split.push(day);
            }
            return;
        }
        let (mut failed, mut waits) = (false, false);
        let pieces = self.pieces(day);
        // An hour that was without events is judged by the others, so it is asked for again after them.
        let others_first = !pieces.iter().all(|piece| memory.is_short_hour(*piece));
        for window in pieces {
            if active.iter().any(|running| overlap(*running, window)) {
                self.due = true;
                continue;
            }
            if journal.expired.contains(&window) {
                continue;
            }
            if let Some((_, rival)) = journal.rivals(window, &export.holder, self.seen.store_now).next() {
                waits = true;
                let message = format!(
                    "{} is exporting {window}, until {} at the latest",
                    rival.holder, rival.deadline
                );
                let deadline = self.by_our_clock(rival.deadline);
                let look = self.seen.listed.checked_add(HELD_LOOK).unwrap_or(deadline);
                let at = if look > self.seen.now {
                    look.min(deadline)
                } else {
                    deadline
                };
                self.pending |= export.persistence == Persistence::Forever;
                self.say(
                    Reason::HeldBy,
                    message,
                    Some(window),
                    Remedy::Wait(Some(at)),
                    Some(at),
                );
                continue;
            }
            let mut unsettled = self.out.settle.iter().chain(busy);
            if journal.holds_some_of(window) || unsettled.any(|id| overlap(id.window, window)) {
                // Adopted, foreign, mismatched or settled first: never downloaded beside what is there.
                waits = true;
                continue;
            }
            self.due = true;
            if others_first && memory.is_short_hour(window) {
                waits = true;
                continue;
            }
            if self.waits_for_another_try(window) {
                let tried = memory.windows.get(&window);
                let wait = tried.is_some_and(|tried| matches!(tried.failure.remedy, Remedy::Wait(_)));
                failed |= !wait;
                waits |= wait;
            } else if !self.gated && *free > 0 {
                *free -= 1;
                self.out.start.push(window);
            } else {
                waits = true;
            }
        }
        self.out.tally.failed += u64::from(failed);
        self.out.tally.waiting += u64::from(waits && !failed);
    }

    /// The windows that cover what is missing: the day itself while nothing of it is covered and it was not
    /// split, else the missing hours.
    fn pieces(&self, day: Window) -> Vec<Window> {
        let whole = !self.covered.touches(day) && !self.seen.journal.splits.contains(&day);
        if day.hour_of_day().is_some() || whole {
            return vec![day];
        }
        Window::split(day.date())
            .filter(|hour| !self.covered.contains(*hour))
            .collect()
    }

    fn close(mut self) -> Decision {
        let Observation {
            export,
            journal,
            active,
            busy,
            sealing,
            ..
        } = *self.seen;
        let tally = &mut self.out.tally;
        tally.missing = self
            .wanted
            .minus(&self.covered)
            .minus(&self.accepted)
            .minus(&self.future);
        tally.expired = journal
            .expired
            .iter()
            .copied()
            .collect::<Cells>()
            .intersection(&tally.missing);
        tally.covered = self.covered.clone();
        if !tally.expired.is_empty() {
            let ranges = tally.expired.ranges(8).join(", ");
            let message = format!("the service no longer has {ranges}: accept the gap in spec.acceptedGaps");
            self.out.troubles.push(Trouble {
                reason: Reason::Expired,
                message,
                window: None,
                remedy: Remedy::Person,
                again: None,
            });
        }
        // Of a shard, the leftovers of its own days only: others clean up after themselves.
        let mut own = journal
            .attempts
            .iter()
            .filter(|(id, _)| export.shard.has(id.window.date()));
        let nothing_open =
            active.is_empty() && busy.is_empty() && own.all(|(id, facts)| self.is_rivals(id, facts));
        let all_in = self.out.tally.missing.is_empty() && self.future.is_empty();
        self.out.complete = export.end.is_some() && all_in && nothing_open;
        self.manifests();
        let now = &self.out;
        let idle = active.is_empty()
            && !sealing
            && now.seal.is_none()
            && busy.is_empty()
            && now.start.is_empty()
            && now.settle.is_empty()
            && now.split.is_empty()
            && now.adopt.is_empty();
        let again: Vec<Timestamp> = now.troubles.iter().filter_map(|trouble| trouble.again).collect();
        for at in again {
            self.wake_at(at);
        }
        self.out.rest = idle && !self.pending;
        self.out
            .troubles
            .sort_by_key(|trouble| (severity(trouble), trouble.window));
        self.out
    }

    /// Whether an attempt is somebody else's, who may still be working on it.
    fn is_rivals(&self, id: &AttemptId, facts: &AttemptFacts) -> bool {
        let Observation {
            export,
            busy,
            store_now,
            ..
        } = *self.seen;
        let rival = |record: &AttemptRecord| record.holder != export.holder && record.deadline > store_now;
        facts.record.as_ref().is_some_and(rival) && !busy.contains(id)
    }

    fn trouble(&mut self, window: Option<Window>, tried: &Tried) {
        let Failure {
            reason,
            message,
            remedy,
            reach,
            timed_out: _,
        } = tried.failure.clone();
        // What was to be tried again before now is tried at this moment, or held back by something else.
        let waits = !tried.given_up(self.seen.export.persistence) && tried.waits(self.seen.now);
        let again = waits.then_some(tried.again);
        self.pending |= again.is_some();
        let window = window.filter(|_| reach == Reach::Window);
        self.say(reason, message, window, remedy, again);
    }

    fn say(
        &mut self,
        reason: Reason,
        message: String,
        window: Option<Window>,
        remedy: Remedy,
        again: Option<Timestamp>,
    ) {
        self.out.troubles.push(Trouble {
            reason,
            message,
            window,
            remedy,
            again,
        });
    }
}

/// Persons first, then what is tried again, then what waits.
fn severity(trouble: &Trouble) -> u8 {
    match trouble.remedy {
        Remedy::Person => 0,
        Remedy::Retry(_) => 1,
        Remedy::Wait(_) => 2,
    }
}
