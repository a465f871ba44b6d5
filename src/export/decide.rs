//! The decision: from what is seen and remembered to what is done next. Pure: no I/O, no clock, no
//! randomness, so that tables and properties can hold it to its promises.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::civil::Date;

use super::failure::{Failure, Reach, Remedy, Trouble};
use super::journal::{Journal, Mismatch, overlap};
use super::keys::AttemptId;
use super::memory::{Memory, Tried};
use super::verdict::Listing;
use super::window::{Cells, Window};
use super::wish::{Export, Persistence};
use crate::api::Reason;

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
    /// What is remembered.
    pub memory: &'a Memory,
    /// The latest listing of the service, where it gives one.
    pub listing: Option<&'a Listing>,
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
    /// What is wrong or waited for, the worst first.
    pub troubles: Vec<Trouble>,
    /// When something changes by itself; `None`: never.
    pub wake: Option<Timestamp>,
    /// All is stored or accepted, the range has an end, and nothing is left open.
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
}

impl<'a> Plan<'a> {
    fn new(seen: &'a Observation<'a>) -> Self {
        let wanted: Cells = seen.export.windows(seen.now).collect();
        let covered = seen.journal.covered(&seen.export.source).intersection(&wanted);
        let accepted = seen.export.accepted_cells(&wanted).minus(&covered);
        let gated = seen
            .memory
            .gate
            .as_ref()
            .is_some_and(|gate| gate.again > seen.now || gate.given_up(seen.export.persistence));
        Self {
            seen,
            covered,
            accepted,
            wanted,
            out: Decision::default(),
            future: Cells::default(),
            gated,
        }
    }

    fn wake_at(&mut self, at: Timestamp) {
        self.out.wake = Some(self.out.wake.map_or(at, |wake| wake.min(at)));
    }

    /// Attempts of ours that nobody works on, or whose deadline has passed.
    fn leftovers(&mut self) {
        let Observation {
            journal,
            memory,
            busy,
            export,
            ..
        } = *self.seen;
        for (id, facts) in &journal.attempts {
            if busy.contains(id) {
                continue;
            }
            let (ours, deadline) = match &facts.record {
                Some(record) => (record.holder == export.holder, Some(record.deadline)),
                None => (true, None),
            };
            if !ours && deadline.is_some_and(|deadline| deadline > self.seen.store_now) {
                if let Some(deadline) = deadline {
                    self.wake_at(deadline);
                }
                continue;
            }
            match memory.unsettled.get(id) {
                Some(tried) if tried.again > self.seen.now || tried.given_up(export.persistence) => {
                    self.trouble(Some(id.window), tried);
                }
                _ => self.out.settle.push(*id),
            }
        }
        let ours: Vec<Window> = journal
            .strangers()
            .filter(|window| self.wanted.touches(*window))
            .collect();
        for window in ours {
            if memory.foreign.contains(&window) {
                let key = export
                    .root
                    .key(&super::keys::Key::Events(window))
                    .unwrap_or_default();
                self.say(
                    Reason::ForeignObject,
                    format!("{key} has no receipt and was not written by this software: move it away, or accept the gap in spec.acceptedGaps"),
                    Some(window),
                    Remedy::Person,
                    None,
                );
            } else {
                self.out.adopt.push(window);
            }
        }
    }

    fn windows(&mut self) {
        let Observation { export, active, .. } = *self.seen;
        let mut free = export.parallelism.saturating_sub(active.len());
        if let Some(gate) = self.seen.memory.gate.as_ref() {
            self.trouble(None, gate);
        }
        let mut next_settled: Option<(Window, Timestamp)> = None;
        let days: Vec<Window> = export.windows(self.seen.now).collect();
        for day in days {
            self.out.tally.wanted += 1;
            if self.covered.contains(day) {
                self.out.tally.stored += 1;
                continue;
            }
            if self.accepted.contains(day) && !active.iter().any(|window| overlap(*window, day)) {
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
        if let Some((window, at)) = next_settled {
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

    /// A wanted window that is due and not covered: starts what is missing of it, or says why not.
    fn due(&mut self, day: Window, free: &mut usize) {
        let Observation {
            export,
            active,
            memory,
            journal,
            ..
        } = *self.seen;
        if memory.too_slow(day) && !journal.splits.contains(&day) {
            self.out.split.push(day);
            return;
        }
        let (mut failed, mut waits) = (false, false);
        for window in self.pieces(day) {
            if active.iter().any(|running| overlap(*running, window)) {
                continue;
            }
            if journal.objects.contains_key(&window)
                || self.out.settle.iter().any(|id| overlap(id.window, window))
            {
                // Adopted, foreign, or settled first: never downloaded beside what is there.
                waits = true;
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
                let until = Remedy::Wait(Some(rival.deadline));
                self.say(Reason::HeldBy, message, Some(window), until, Some(rival.deadline));
                continue;
            }
            match memory.windows.get(&window) {
                Some(tried) if tried.again > self.seen.now || tried.given_up(export.persistence) => {
                    failed |= !matches!(tried.failure.remedy, Remedy::Wait(_));
                    waits |= matches!(tried.failure.remedy, Remedy::Wait(_));
                    self.trouble(Some(window), tried);
                }
                _ if self.gated => waits = true,
                _ if *free > 0 => {
                    *free -= 1;
                    self.out.start.push(window);
                }
                _ => waits = true,
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

    /// Days exported by the hour whose hours add up to fewer events than the service reports.
    fn shortfalls(&mut self) {
        let (Some(listing), None) = (self.seen.listing, self.seen.export.hour) else {
            return;
        };
        let receipts = self
            .seen
            .journal
            .receipts
            .iter()
            .filter_map(|(window, facts)| Some((*window, facts.as_ref()?)));
        let mut sums: BTreeMap<Date, u64> = BTreeMap::new();
        for (window, receipt) in receipts.filter(|(window, _)| window.hour_of_day().is_some()) {
            *sums.entry(window.date()).or_default() += receipt.facts.events;
        }
        for (date, events) in sums {
            let day = Window::day(date);
            let whole_day = self.seen.journal.receipts.contains_key(&day);
            let reported = listing.count_of_day(date).unwrap_or(0);
            if self.covered.contains(day) && !whole_day && events < reported {
                let message =
                    format!("the hours of {date} have {events} events, the service reports {reported}");
                self.say(Reason::Short, message, Some(day), Remedy::Person, None);
            }
        }
    }

    fn mismatches(&mut self) {
        let Observation { journal, export, .. } = *self.seen;
        for (window, mismatch) in journal.mismatches(&export.source) {
            if !self.wanted.touches(window) {
                continue;
            }
            let message = match mismatch {
                Mismatch::Source(source) => format!(
                    "the receipt of {window} is about events of {source}, not of {}: use another prefix",
                    export.source
                ),
                Mismatch::ObjectMissing => format!(
                    "the receipt of {window} states an object that is not there: restore it, or remove the receipt to export it again"
                ),
                Mismatch::ObjectSize { stated, found } => format!(
                    "the object of {window} has {found} bytes, its receipt states {stated}: restore it"
                ),
            };
            self.say(
                Reason::JournalMismatch,
                message,
                Some(window),
                Remedy::Person,
                None,
            );
        }
    }

    fn close(mut self) -> Decision {
        let Observation {
            export,
            journal,
            active,
            busy,
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
        let nothing_open = journal.attempts.is_empty() && active.is_empty() && busy.is_empty();
        let all_in = self.out.tally.missing.is_empty() && self.future.is_empty();
        self.out.complete = export.end.is_some() && all_in && nothing_open;
        let now = &self.out;
        let idle = active.is_empty()
            && busy.is_empty()
            && now.start.is_empty()
            && now.settle.is_empty()
            && now.split.is_empty()
            && now.adopt.is_empty();
        let again = now.troubles.iter().filter_map(|trouble| trouble.again).min();
        let pending = match export.persistence {
            // Waiting for days to be over is the caller's; all else is tried again by this run.
            Persistence::Forever => now
                .troubles
                .iter()
                .any(|trouble| trouble.again.is_some() && trouble.reason != Reason::NotSettled),
            Persistence::Tries(_) => self.retries_left(),
        };
        if let Some(at) = again {
            self.wake_at(at);
        }
        self.out.rest = idle && !pending;
        self.out
            .troubles
            .sort_by_key(|trouble| (severity(trouble), trouble.window));
        self.out
    }

    /// Whether anything that failed is still to be tried under a bounded persistence.
    fn retries_left(&self) -> bool {
        let Observation { export, memory, .. } = *self.seen;
        let left = |tried: &Tried| !tried.given_up(export.persistence);
        let gate_open = memory.gate.as_ref().is_none_or(left);
        let wanted_left = |window: &Window| self.out.tally.missing.touches(*window);
        let gated =
            memory.gate.is_some() && !self.out.tally.missing.minus(&self.out.tally.expired).is_empty();
        gate_open
            && (gated
                || memory
                    .windows
                    .iter()
                    .any(|(window, tried)| wanted_left(window) && left(tried)))
            || memory
                .unsettled
                .iter()
                .any(|(id, tried)| self.seen.journal.attempts.contains_key(id) && left(tried))
    }

    fn trouble(&mut self, window: Option<Window>, tried: &Tried) {
        let Failure {
            reason,
            message,
            remedy,
            reach,
            timed_out: _,
        } = tried.failure.clone();
        let again = (!tried.given_up(self.seen.export.persistence)).then_some(tried.again);
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
