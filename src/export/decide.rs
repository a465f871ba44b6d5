//! Decision step of a run: from the observed bucket and the retry state to the next actions. Pure: no I/O,
//! no clock, no randomness, so that tables and properties can test it.
//!
//! The windows to start are planned here; what is left behind, late events, damage and documents below.

mod damage;
mod documents;
#[cfg(test)]
mod fixture;
mod late_events;
mod leftovers;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};

use super::document_task::{DocumentKind, DocumentTask};
use super::failure::{Failure, FailureScope, Problem, RetryClass};
use super::retry_state::{RetryEntry, RetryState};
use super::spec::{ExportSpec, RetryPolicy};
use crate::api::Reason;
use crate::archive::counts::DayListing;
use crate::archive::coverage::{self, Confirmation, Coverage, Damage, Expectation, Growth};
use crate::archive::layout::AttemptId;
use crate::archive::listing::{AttemptFacts, Journal, overlap};
use crate::archive::records::AttemptRecord;
use crate::archive::window::{HourSet, Window};

/// Interval between bucket listings while other holders export windows: 5 min. They may finish long before
/// their deadline.
pub const HELD_RELIST_INTERVAL: SignedDuration = SignedDuration::from_mins(5);

/// Input of a decision.
#[derive(Clone, Copy, Debug)]
pub struct RunObservation<'a> {
    /// Desired export.
    pub export: &'a ExportSpec,
    /// Journal, as the bucket was last listed.
    pub journal: &'a Journal,
    /// Windows that this process exports now.
    pub active: &'a BTreeSet<Window>,
    /// Attempts that this process works on or recovers.
    pub in_progress: &'a BTreeSet<AttemptId>,
    /// Documents that this process writes now.
    pub writing: &'a BTreeSet<DocumentKind>,
    /// True if manifests and checkpoints get time stamps.
    pub stamps: bool,
    /// True if checkpoints are signed.
    pub signs: bool,
    /// Failures and results of earlier steps of this run.
    pub retry_state: &'a RetryState,
    /// Oldest day that the service lists now, if known.
    pub oldest_listed: Option<Date>,
    /// Newest counts of the service, if they are known: stored days are compared with them.
    pub counts: Option<&'a DayListing>,
    /// True if it is time to ask for newer counts.
    pub recheck_due: bool,
    /// Time of the last complete listing of the bucket.
    pub listed_at: Timestamp,
    /// Current time, by the local clock.
    pub now: Timestamp,
    /// Current time, by the store's clock.
    pub store_now: Timestamp,
}

/// Next actions of a run, and the status to report.
#[derive(Clone, Debug, Default)]
pub struct RunDecision {
    /// Windows to start now, oldest first.
    pub start: Vec<Window>,
    /// Stored windows to download again now, because their day has late events; oldest first.
    pub revise: Vec<Window>,
    /// Windows whose newest count to confirm now by a receipt.
    pub confirm: Vec<Confirmation>,
    /// True if the service must be asked for its newest counts.
    pub recheck: bool,
    /// Days to export by the hour from now on.
    pub split: Vec<Window>,
    /// Leftover attempts to recover now.
    pub recover: Vec<AttemptId>,
    /// Windows with an object but no receipt, to examine now.
    pub adopt: Vec<Window>,
    /// True if a manifest is due that is not known to exist.
    pub sealing: bool,
    /// Document to write now.
    pub document: Option<DocumentTask>,
    /// Problems and waits, most severe first.
    pub problems: Vec<Problem>,
    /// Time of the next change that no event announces; `None`: never.
    pub wake: Option<Timestamp>,
    /// Attempts that are in progress or must be recovered: each may have a session open.
    pub open_attempts: BTreeSet<AttemptId>,
    /// True if every window that is due is stored or accepted, no attempt is open, and every due manifest exists.
    pub finished: bool,
    /// True if the run is finished and the range has an end that is past.
    pub complete: bool,
    /// True if no work is in progress and no retry is pending: the run may end.
    pub idle: bool,
    /// Counts and cells of the snapshot.
    pub coverage: CoverageSummary,
}

/// Counts and cells that a snapshot shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoverageSummary {
    /// Wanted windows.
    pub wanted: u64,
    /// Wanted windows that are covered completely.
    pub stored: u64,
    /// Windows that wait.
    pub waiting: u64,
    /// Windows that need manual action.
    pub failed: u64,
    /// Wanted cells that are covered.
    pub covered: HourSet,
    /// Wanted cells that are due, not covered and not accepted.
    pub missing: HourSet,
    /// Missing cells that the service no longer has.
    pub expired: HourSet,
    /// Wanted windows with data that does not count and that are not accepted as a gap.
    pub damaged: BTreeMap<Window, Damage>,
    /// Stored days of which the service reports more events than the archive has.
    pub grown: BTreeMap<Date, Growth>,
    /// Stored windows whose later body lacks stored events.
    pub changed: BTreeSet<Window>,
}

/// Returns the next actions for an observation.
pub fn decide(observation: &RunObservation<'_>) -> RunDecision {
    let mut builder = DecisionBuilder::new(observation);
    leftovers::plan_leftovers(&mut builder);
    builder.plan_windows();
    late_events::plan_recheck(&mut builder);
    damage::report_damage(&mut builder);
    builder.finish()
}

struct DecisionBuilder<'a> {
    observation: &'a RunObservation<'a>,
    wanted: HourSet,
    coverage: Coverage,
    decision: RunDecision,
    /// Number of windows that may start.
    free: usize,
    backing_off: bool,
    /// True if the archive is of another source: then nothing is added to it.
    source_differs: bool,
    /// True if a window is due that the export backoff would keep from starting.
    has_due: bool,
    /// True if the failure that keeps windows from starting is reported.
    backoff_reported: bool,
    /// True if this run, and not only a later one, has a retry to make.
    retry_pending: bool,
}

impl<'a> DecisionBuilder<'a> {
    fn new(observation: &'a RunObservation<'a>) -> Self {
        let expectation = Expectation {
            oldest_listed: observation.oldest_listed,
            ..observation.export.expectation(observation.now)
        };
        let coverage = coverage::assess(&expectation, observation.journal);
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
            wanted: expectation.wanted,
            coverage,
            decision: RunDecision::default(),
            free: observation
                .export
                .parallelism
                .saturating_sub(observation.active.len()),
            backing_off,
            source_differs: observation
                .journal
                .other_source(&observation.export.source)
                .is_some(),
            has_due: false,
            backoff_reported: false,
            retry_pending: false,
        }
    }

    /// Wakes the run at a time. A time in the past is ignored: its work is already among the actions.
    fn wake_at(&mut self, at: Timestamp) {
        if at > self.observation.now {
            self.decision.wake = Some(self.decision.wake.map_or(at, |wake| wake.min(at)));
        }
    }

    /// Converts a time of the store's clock to the local clock.
    fn to_local_clock(&self, at: Timestamp) -> Timestamp {
        let clock_offset = self.observation.store_now.duration_since(self.observation.now);
        at.checked_sub(clock_offset).unwrap_or(at)
    }

    fn is_accepted(&self, window: Window) -> bool {
        self.observation.export.in_accepted_gap(window.date())
    }

    fn plan_windows(&mut self) {
        let RunObservation { export, .. } = *self.observation;
        let mut next_settled: Option<(Window, Timestamp)> = None;
        let days: Vec<Window> = export.windows(self.observation.now).collect();
        for day in days {
            self.decision.coverage.wanted += 1;
            if self.coverage.covered.contains(day) {
                self.decision.coverage.stored += 1;
                continue;
            }
            if self.is_accepted(day) {
                continue;
            }
            let settled = export.due_at(day);
            if settled > self.observation.now {
                self.decision.coverage.waiting += 1;
                if next_settled.is_none_or(|(_, at)| settled < at) {
                    next_settled = Some((day, settled));
                }
                continue;
            }
            self.plan_due(day);
        }
        self.report_export_backoff();
        if let Some((window, at)) = next_settled.or_else(|| self.next_continuous_window()) {
            self.wake_at(at);
            let message = format!("{window} starts when it is over and spec.settleAfter has passed");
            self.add_problem(
                Reason::NotSettled,
                message,
                Some(window),
                RetryClass::Wait(Some(at)),
                Some(at),
            );
        }
    }

    /// Reports the failure that keeps windows from starting, once, if a window is due.
    fn report_export_backoff(&mut self) {
        let failed = self.observation.retry_state.export_backoff.as_ref();
        if let Some(export_backoff) = failed.filter(|_| self.has_due && !self.backoff_reported) {
            self.backoff_reported = true;
            self.report_failure(None, export_backoff);
        }
    }

    /// Next window of a continuous export.
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

    /// Returns true, and reports the failure, if a window waits for a retry or has no attempts left.
    fn report_if_backing_off(&mut self, window: Window) -> bool {
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

    /// Plans a wanted window that is due and not covered: starts its missing windows, or reports why not.
    fn plan_due(&mut self, day: Window) {
        let RunObservation {
            active,
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
        // The verdict on an hour without events depends on the other hours, so it is retried after them.
        let others_first = !missing.iter().all(|window| retry_state.is_short_hour(*window));
        for window in missing {
            if active.iter().any(|running| overlap(*running, window)) {
                self.has_due = true;
                continue;
            }
            if self.coverage.expired.contains(window) {
                failed = true;
                continue;
            }
            if self.report_if_held_by_other(window) {
                waits = true;
                continue;
            }
            if journal.has_data_in(window) || self.has_leftovers(window) {
                // Adopted, foreign, mismatched or recovered first: never downloaded next to existing data.
                let damaged = self.coverage.damaged.keys();
                let mut for_person = damaged.chain(&retry_state.foreign_objects);
                let needs_person = for_person.any(|other| overlap(*other, window));
                failed |= needs_person;
                waits |= !needs_person;
                continue;
            }
            self.has_due = true;
            if others_first && retry_state.is_short_hour(window) {
                waits = true;
                continue;
            }
            if self.report_if_backing_off(window) {
                let entry = retry_state.windows.get(&window);
                let manual = entry.is_some_and(|entry| entry.failure.class == RetryClass::Manual);
                failed |= manual;
                waits |= !manual;
            } else if !self.backing_off && self.free > 0 {
                self.free -= 1;
                self.decision.start.push(window);
            } else {
                waits = true;
            }
        }
        self.decision.coverage.failed += u64::from(failed);
        self.decision.coverage.waiting += u64::from(waits && !failed);
    }

    /// Returns true, and reports it, if another holder may be working on a window.
    fn report_if_held_by_other(&mut self, window: Window) -> bool {
        let RunObservation {
            export,
            journal,
            store_now,
            listed_at,
            now,
            ..
        } = *self.observation;
        let Some((_, other)) = journal
            .attempts_by_others(window, &export.holder, store_now)
            .next()
        else {
            return false;
        };
        let message = format!(
            "{window} is held by {}, until {} at the latest",
            other.holder, other.deadline
        );
        let deadline = self.to_local_clock(other.deadline);
        let relist_at = listed_at.checked_add(HELD_RELIST_INTERVAL).unwrap_or(deadline);
        let at = if relist_at > now {
            relist_at.min(deadline)
        } else {
            deadline
        };
        self.retry_pending |= export.retry_policy == RetryPolicy::Forever;
        self.add_problem(
            Reason::HeldByOther,
            message,
            Some(window),
            RetryClass::Wait(Some(at)),
            Some(at),
        );
        true
    }

    /// True if an attempt at a window, or at a part of it, must be recovered first.
    fn has_leftovers(&self, window: Window) -> bool {
        let RunObservation {
            journal, in_progress, ..
        } = *self.observation;
        let mut unrecovered = self.decision.recover.iter().chain(in_progress);
        journal.has_unreadable_attempt(window) || unrecovered.any(|id| overlap(id.window, window))
    }

    /// Windows to export for a day: the day itself if no hour of it is covered and it was not split, otherwise
    /// the missing hours.
    fn missing_windows(&self, day: Window) -> Vec<Window> {
        let undivided =
            !self.coverage.covered.intersects(day) && !self.observation.journal.splits.contains(&day);
        if day.hour_of_day().is_some() || undivided {
            return vec![day];
        }
        Window::split(day.date())
            .filter(|hour| !self.coverage.covered.contains(*hour))
            .collect()
    }

    fn finish(mut self) -> RunDecision {
        let RunObservation {
            export,
            journal,
            active,
            in_progress,
            writing,
            ..
        } = *self.observation;
        let coverage = &mut self.decision.coverage;
        coverage.missing = self.coverage.missing.clone();
        coverage.expired = self.coverage.expired.intersection(&coverage.missing);
        coverage.covered = self.coverage.covered.intersection(&self.wanted);
        let damaged = self.coverage.damaged.iter();
        coverage.damaged = damaged
            .filter(|(window, _)| coverage.missing.intersects(**window))
            .map(|(window, damage)| (*window, damage.clone()))
            .collect();
        if !coverage.expired.is_empty() {
            let ranges = coverage.expired.ranges(8).join(", ");
            let message = format!(
                "the service no longer has the events of {ranges}: accept the gap in spec.acceptedGaps"
            );
            self.decision.problems.push(Problem {
                reason: Reason::Expired,
                message,
                window: None,
                class: RetryClass::Manual,
                next_try: None,
                retry_at: None,
            });
        }
        // A shard counts the leftovers of its own days only: other shards clean up their own.
        let own_attempts = journal.attempts.iter().filter(|(id, facts)| {
            export.shard.contains(id.window.date()) && !self.is_held_by_other(id, facts)
        });
        let open_attempts = own_attempts.map(|(id, _)| id).chain(in_progress).copied();
        self.decision.open_attempts = open_attempts.collect();
        self.decision.finished = self.decision.coverage.missing.is_empty()
            && self.decision.coverage.grown.is_empty()
            && self.decision.coverage.changed.is_empty()
            && self.decision.confirm.is_empty()
            && active.is_empty()
            && self.decision.open_attempts.is_empty();
        self.decision.complete =
            self.decision.finished && export.end.is_some() && self.coverage.not_due.is_empty();
        documents::plan_document(&mut self);
        let decision = &self.decision;
        let idle = self.is_quiet() && writing.is_empty() && decision.document.is_none();
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

    /// True if nothing is being stored or about to be.
    fn is_quiet(&self) -> bool {
        let RunObservation {
            active, in_progress, ..
        } = *self.observation;
        let decision = &self.decision;
        active.is_empty()
            && in_progress.is_empty()
            && decision.start.is_empty()
            && decision.revise.is_empty()
            && decision.confirm.is_empty()
            && !decision.recheck
            && decision.recover.is_empty()
            && decision.split.is_empty()
            && decision.adopt.is_empty()
    }

    /// True if another holder may still be working on an attempt.
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
        let failure = &entry.failure;
        let message = failure.describe(&self.observation.export.setting_names);
        let Failure {
            reason, class, scope, ..
        } = *failure;
        // A retry that is due happens now, or waits for something else.
        let waits = !entry.is_exhausted(self.observation.export.retry_policy)
            && entry.is_backing_off(self.observation.now);
        let retry_at = waits.then_some(entry.retry_at);
        self.retry_pending |= retry_at.is_some();
        self.decision.problems.push(Problem {
            reason,
            message,
            window: window.filter(|_| scope == FailureScope::Window),
            class,
            next_try: retry_at.and_then(|_| entry.next_try(self.observation.export.retry_policy)),
            retry_at,
        });
    }

    fn add_problem(
        &mut self,
        reason: Reason,
        message: String,
        window: Option<Window>,
        class: RetryClass,
        retry_at: Option<Timestamp>,
    ) {
        self.decision.problems.push(Problem {
            reason,
            message,
            window,
            class,
            next_try: None,
            retry_at,
        });
    }
}

/// Sort key: manual action first, then retries, then waits.
fn severity(problem: &Problem) -> u8 {
    match problem.class {
        RetryClass::Manual => 0,
        RetryClass::Retry(_) => 1,
        RetryClass::Wait(_) => 2,
    }
}

/// Stored events of the other hours of an hour's day; `None` if `window` is a day or the export covers one hour only.
pub(super) fn other_hours_events(journal: &Journal, export: &ExportSpec, window: Window) -> Option<u64> {
    if window.hour_of_day().is_none() || export.hour.is_some() {
        return None;
    }
    let others = Window::split(window.date()).filter(|other| *other != window);
    let receipts = others.filter_map(|other| coverage::valid_receipt(journal, other, Some(&export.source)));
    let events = receipts.map(|receipt| receipt.current().events);
    Some(events.fold(0, u64::saturating_add))
}
