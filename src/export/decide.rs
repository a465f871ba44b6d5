//! The decision: from what is seen and remembered to what is done next. Pure: no I/O, no clock, no
//! randomness, so that tables and properties can hold it to its promises.

#[cfg(test)]
mod fixture;
mod leftovers;
#[cfg(test)]
mod properties;
mod seal;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::failure::{Failure, FailureScope, Problem, Remedy};
use super::journal::{AttemptFacts, Journal, overlap};
use super::keys::AttemptId;
use super::record::{AttemptRecord, RangeRecord};
use super::retry_state::{RetryEntry, RetryState};
use super::spec::{ExportSpec, RetryPolicy};
use super::window::{HourSet, Window};
use crate::api::Reason;
pub(super) use leftovers::{other_hours_events, short_days};

/// How often the bucket is listed anew while others hold windows, who may be done long before their
/// deadline: 5 min.
pub const HELD_RELIST_INTERVAL: SignedDuration = SignedDuration::from_mins(5);

/// All that a decision is made from.
#[derive(Clone, Copy, Debug)]
pub struct RunObservation<'a> {
    /// What is wanted.
    pub export: &'a ExportSpec,
    /// What the bucket says.
    pub journal: &'a Journal,
    /// Windows that this process is exporting now.
    pub active: &'a BTreeSet<Window>,
    /// Attempts that this process is working on, or settling.
    pub in_progress: &'a BTreeSet<AttemptId>,
    /// Whether this process is writing a manifest.
    pub sealing: bool,
    /// What is remembered.
    pub retry_state: &'a RetryState,
    /// When the whole bucket was listed last.
    pub listed_at: Timestamp,
    /// Now.
    pub now: Timestamp,
    /// Now, by the store's clock.
    pub store_now: Timestamp,
}

/// What is to be done, and what is to be said.
#[derive(Clone, Debug, Default)]
pub struct RunDecision {
    /// Windows to start now, the oldest first.
    pub start: Vec<Window>,
    /// Days to export by the hour from now on.
    pub split: Vec<Window>,
    /// Leftover attempts to settle now.
    pub recover: Vec<AttemptId>,
    /// Objects without a receipt to look at now.
    pub adopt: Vec<Window>,
    /// The period whose manifest is to be written now.
    pub seal: Option<RangeRecord>,
    /// Whether a manifest is due that is not known to be there.
    pub sealing: bool,
    /// What is wrong or waited for, the worst first.
    pub problems: Vec<Problem>,
    /// When something changes by itself; `None`: never.
    pub wake: Option<Timestamp>,
    /// All is stored or accepted, the range has an end, nothing is left open, and the manifest is there.
    pub complete: bool,
    /// Nothing is under way, and nothing is to be tried again soon: the run may end.
    pub idle: bool,
    /// The counts and cells of the snapshot.
    pub coverage: CoverageSummary,
}

/// Counts and cells, as the snapshot shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoverageSummary {
    /// Wanted windows.
    pub wanted: u64,
    /// Wanted windows that are covered whole.
    pub stored: u64,
    /// Windows that wait.
    pub waiting: u64,
    /// Windows whose last try failed.
    pub failed: u64,
    /// Wanted cells that are covered.
    pub covered: HourSet,
    /// Wanted cells that are due, not covered and not accepted.
    pub missing: HourSet,
    /// Of those, cells that the service no longer has.
    pub expired: HourSet,
}

/// Decides.
pub fn decide(observation: &RunObservation<'_>) -> RunDecision {
    let mut builder = DecisionBuilder::new(observation);
    builder.plan_leftovers();
    builder.plan_windows();
    builder.report_shortfalls();
    builder.report_mismatches();
    builder.finish()
}

struct DecisionBuilder<'a> {
    observation: &'a RunObservation<'a>,
    covered: HourSet,
    accepted: HourSet,
    wanted: HourSet,
    decision: RunDecision,
    /// Cells that are not over yet, or not settled.
    future: HourSet,
    backing_off: bool,
    /// Whether what is there is of another source: then nothing is added to it.
    source_differs: bool,
    /// Whether a window is due that the gate keeps from starting, or would.
    has_due: bool,
    /// Whether this run tries something again, and not only a later one.
    retry_pending: bool,
}

impl<'a> DecisionBuilder<'a> {
    fn new(observation: &'a RunObservation<'a>) -> Self {
        let wanted: HourSet = observation.export.windows(observation.now).collect();
        let short: HourSet = short_days(observation.journal, &observation.export.source)
            .into_keys()
            .map(Window::day)
            .collect();
        let covered = observation.journal.covered(&observation.export.source);
        let covered = covered.intersection(&wanted).difference(&short);
        let accepted = observation.export.accepted_hours(&wanted).difference(&covered);
        let backing_off = observation
            .retry_state
            .export_backoff
            .as_ref()
            .is_some_and(|export_backoff| {
                export_backoff.is_backing_off(observation.now)
                    || export_backoff.is_exhausted(observation.export.retry_policy)
            });
        Self {
            observation,
            covered,
            accepted,
            wanted,
            decision: RunDecision::default(),
            future: HourSet::default(),
            backing_off,
            source_differs: observation
                .journal
                .other_source(&observation.export.source)
                .is_some(),
            has_due: false,
            retry_pending: false,
        }
    }

    /// What has passed wakes nobody: what waited for it is among what is done now.
    fn wake_at(&mut self, at: Timestamp) {
        if at > self.observation.now {
            self.decision.wake = Some(self.decision.wake.map_or(at, |wake| wake.min(at)));
        }
    }

    /// A time of the store's clock by ours.
    fn to_local_clock(&self, at: Timestamp) -> Timestamp {
        let clock_offset = self.observation.store_now.duration_since(self.observation.now);
        at.checked_sub(clock_offset).unwrap_or(at)
    }

    fn is_accepted(&self, window: Window) -> bool {
        self.observation.export.in_accepted_gap(window.date())
    }

    fn plan_windows(&mut self) {
        let RunObservation { export, active, .. } = *self.observation;
        let mut free = export.parallelism.saturating_sub(active.len());
        let mut next_settled: Option<(Window, Timestamp)> = None;
        let days: Vec<Window> = export.windows(self.observation.now).collect();
        for day in days {
            self.decision.coverage.wanted += 1;
            if self.covered.contains(day) {
                self.decision.coverage.stored += 1;
                continue;
            }
            if self.is_accepted(day) {
                continue;
            }
            let settled = export.due_at(day);
            if settled > self.observation.now {
                self.future.insert(day);
                self.decision.coverage.waiting += 1;
                if next_settled.is_none_or(|(_, at)| settled < at) {
                    next_settled = Some((day, settled));
                }
                continue;
            }
            self.plan_due(day, &mut free);
        }
        if let Some(export_backoff) = self
            .observation
            .retry_state
            .export_backoff
            .as_ref()
            .filter(|_| self.has_due)
        {
            self.report_failure(None, export_backoff);
        }
        if let Some((window, at)) = next_settled.or_else(|| self.next_continuous_window()) {
            self.wake_at(at);
            let message = format!("{window} is exported once it is over and settled (spec.settleAfter)");
            self.add_problem(
                Reason::NotSettled,
                message,
                Some(window),
                Remedy::Wait(Some(at)),
                Some(at),
            );
        }
    }

    /// The first window of a continuous export that is still to come.
    fn next_continuous_window(&self) -> Option<(Window, Timestamp)> {
        let RunObservation { export, now, .. } = *self.observation;
        if export.end.is_some() {
            return None;
        }
        let today = now.to_zoned(jiff::tz::TimeZone::UTC).date();
        let next = export.next_own_day(today.tomorrow().ok()?.max(export.start))?;
        let next = export.window_of(next)?;
        Some((next, export.due_at(next)))
    }

    /// Says so when the last try of a window failed and the next is not due, or not to be.
    fn in_backoff(&mut self, window: Window) -> bool {
        let RunObservation {
            retry_state,
            export,
            now,
            ..
        } = *self.observation;
        let entry = retry_state.windows.get(&window);
        let entry =
            entry.filter(|entry| entry.is_backing_off(now) || entry.is_exhausted(export.retry_policy));
        if let Some(entry) = entry {
            self.report_failure(Some(window), entry);
        }
        entry.is_some()
    }

    /// A wanted window that is due and not covered: starts what is missing of it, or says why not.
    fn plan_due(&mut self, day: Window, free: &mut usize) {
        let RunObservation {
            export,
            active,
            in_progress,
            retry_state,
            journal,
            ..
        } = *self.observation;
        if self.source_differs {
            self.decision.coverage.waiting += 1;
            return;
        }
        if retry_state.needs_split(day) && !journal.splits.contains(&day) {
            self.has_due = true;
            if self.backing_off {
                self.decision.coverage.waiting += 1;
            } else {
                self.decision.split.push(day);
            }
            return;
        }
        let (mut failed, mut waits) = (false, false);
        let missing = self.missing_windows(day);
        // An hour that was without events is judged by the others, so it is asked for again after them.
        let others_first = !missing.iter().all(|window| retry_state.is_short_hour(*window));
        for window in missing {
            if active.iter().any(|running| overlap(*running, window)) {
                self.has_due = true;
                continue;
            }
            if journal.expired.contains(&window) {
                continue;
            }
            if let Some((_, other)) = journal
                .attempts_by_others(window, &export.holder, self.observation.store_now)
                .next()
            {
                waits = true;
                let message = format!(
                    "{} is exporting {window}, until {} at the latest",
                    other.holder, other.deadline
                );
                let deadline = self.to_local_clock(other.deadline);
                let relist_at = self
                    .observation
                    .listed_at
                    .checked_add(HELD_RELIST_INTERVAL)
                    .unwrap_or(deadline);
                let at = if relist_at > self.observation.now {
                    relist_at.min(deadline)
                } else {
                    deadline
                };
                self.retry_pending |= export.retry_policy == RetryPolicy::Forever;
                self.add_problem(
                    Reason::HeldByOther,
                    message,
                    Some(window),
                    Remedy::Wait(Some(at)),
                    Some(at),
                );
                continue;
            }
            let mut unrecovered = self.decision.recover.iter().chain(in_progress);
            if journal.has_data_in(window) || unrecovered.any(|id| overlap(id.window, window)) {
                // Adopted, foreign, mismatched or settled first: never downloaded beside what is there.
                waits = true;
                continue;
            }
            self.has_due = true;
            if others_first && retry_state.is_short_hour(window) {
                waits = true;
                continue;
            }
            if self.in_backoff(window) {
                let entry = retry_state.windows.get(&window);
                let wait = entry.is_some_and(|entry| matches!(entry.failure.remedy, Remedy::Wait(_)));
                failed |= !wait;
                waits |= wait;
            } else if !self.backing_off && *free > 0 {
                *free -= 1;
                self.decision.start.push(window);
            } else {
                waits = true;
            }
        }
        self.decision.coverage.failed += u64::from(failed);
        self.decision.coverage.waiting += u64::from(waits && !failed);
    }

    /// The windows that cover what is missing: the day itself while nothing of it is covered and it was not
    /// split, else the missing hours.
    fn missing_windows(&self, day: Window) -> Vec<Window> {
        let undivided = !self.covered.intersects(day) && !self.observation.journal.splits.contains(&day);
        if day.hour_of_day().is_some() || undivided {
            return vec![day];
        }
        Window::split(day.date())
            .filter(|hour| !self.covered.contains(*hour))
            .collect()
    }

    fn finish(mut self) -> RunDecision {
        let RunObservation {
            export,
            journal,
            active,
            in_progress,
            sealing,
            ..
        } = *self.observation;
        let coverage = &mut self.decision.coverage;
        coverage.missing = self
            .wanted
            .difference(&self.covered)
            .difference(&self.accepted)
            .difference(&self.future);
        coverage.expired = journal
            .expired
            .iter()
            .copied()
            .collect::<HourSet>()
            .intersection(&coverage.missing);
        coverage.covered = self.covered.clone();
        if !coverage.expired.is_empty() {
            let ranges = coverage.expired.ranges(8).join(", ");
            let message = format!("the service no longer has {ranges}: accept the gap in spec.acceptedGaps");
            self.decision.problems.push(Problem {
                reason: Reason::Expired,
                message,
                window: None,
                remedy: Remedy::Manual,
                retry_at: None,
            });
        }
        // Of a shard, the leftovers of its own days only: others clean up after themselves.
        let mut own_attempts = journal
            .attempts
            .iter()
            .filter(|(id, _)| export.shard.contains(id.window.date()));
        let nothing_open = active.is_empty()
            && in_progress.is_empty()
            && own_attempts.all(|(id, facts)| self.is_held_by_other(id, facts));
        let all_covered = self.decision.coverage.missing.is_empty() && self.future.is_empty();
        self.decision.complete = export.end.is_some() && all_covered && nothing_open;
        self.plan_manifest();
        let decision = &self.decision;
        let idle = active.is_empty()
            && !sealing
            && decision.seal.is_none()
            && in_progress.is_empty()
            && decision.start.is_empty()
            && decision.recover.is_empty()
            && decision.split.is_empty()
            && decision.adopt.is_empty();
        let retry_times: Vec<Timestamp> = decision
            .problems
            .iter()
            .filter_map(|problem| problem.retry_at)
            .collect();
        for at in retry_times {
            self.wake_at(at);
        }
        self.decision.idle = idle && !self.retry_pending;
        self.decision
            .problems
            .sort_by_key(|problem| (severity(problem), problem.window));
        self.decision
    }

    /// Whether an attempt is somebody else's, who may still be working on it.
    fn is_held_by_other(&self, id: &AttemptId, facts: &AttemptFacts) -> bool {
        let RunObservation {
            export,
            in_progress,
            store_now,
            ..
        } = *self.observation;
        let other = |record: &AttemptRecord| record.holder != export.holder && record.deadline > store_now;
        facts.record.as_ref().is_some_and(other) && !in_progress.contains(id)
    }

    fn report_failure(&mut self, window: Option<Window>, entry: &RetryEntry) {
        let Failure {
            reason,
            message,
            remedy,
            scope,
            timed_out: _,
        } = entry.failure.clone();
        // What was to be tried again before now is tried at this moment, or held back by something else.
        let waits = !entry.is_exhausted(self.observation.export.retry_policy)
            && entry.is_backing_off(self.observation.now);
        let retry_at = waits.then_some(entry.retry_at);
        self.retry_pending |= retry_at.is_some();
        let window = window.filter(|_| scope == FailureScope::Window);
        self.add_problem(reason, message, window, remedy, retry_at);
    }

    fn add_problem(
        &mut self,
        reason: Reason,
        message: String,
        window: Option<Window>,
        remedy: Remedy,
        retry_at: Option<Timestamp>,
    ) {
        self.decision.problems.push(Problem {
            reason,
            message,
            window,
            remedy,
            retry_at,
        });
    }
}

/// Persons first, then what is tried again, then what waits.
fn severity(problem: &Problem) -> u8 {
    match problem.remedy {
        Remedy::Manual => 0,
        Remedy::Retry(_) => 1,
        Remedy::Wait(_) => 2,
    }
}
